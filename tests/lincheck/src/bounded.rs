//! The check against the committed log: exact, and near linear. The crate's documentation says why it is exact.
//!
//! Owns: the placing of operations in the log. Must never: call a key good that the general search refuses, or the other
//! way round; the tests hold both against each other.
//!
//! A place is a number: the state after `n` records is `2n`, a write whose last record is at offset `n` is `2n + 1`, between
//! the states before and behind it. Places of operations must not fall where real time rises; only operations that change
//! nothing may share one.

use crate::explain::{Report, Violation, Why};
use crate::history::{Call, History, Operation, Outcome, Record};
use crate::state::holds;
use std::collections::{BTreeMap, HashMap};

/// Checks every key of a history against its log.
#[must_use]
pub fn check(history: &History) -> Report {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for key in history.logs.keys() {
        keys.entry(key).or_default();
    }
    let mut report = Report { keys: keys.len(), operations: history.operations.len(), ..Report::default() };
    for (key, operations) in keys {
        let log = history.logs.get(key).map_or(&[][..], Vec::as_slice);
        let unknown = operations.iter().filter(|op| op.outcome == Outcome::Unknown).count();
        report.unknown += unknown;
        match check_key(key, &operations, log) {
            Ok(executed) => report.unknown_executed += executed,
            Err(violation) => report.violations.push(*violation),
        }
    }
    report
}

/// Checks one key; how many writes of unknown outcome were executed.
///
/// # Errors
/// The first contradiction found.
pub fn check_key(key: &str, operations: &[&Operation], log: &[Record]) -> Result<usize, Box<Violation>> {
    let mut placing =
        Placing { key, operations, log, owner: vec![None; log.len()], inside: vec![false; log.len() + 1] };
    placing.log_is_sound()?;
    let mut places = placing.place_writes()?;
    placing.conditions_held(&places)?;
    placing.place_others(&mut places)?;
    let floors = placing.order(&mut places)?;
    placing.match_tombstones(&floors)?;
    let unknown = |at: &&usize| operations[**at].outcome == Outcome::Unknown;
    let mut executed: Vec<usize> = placing.owner.iter().flatten().copied().collect();
    executed.dedup();
    let tombstones = placing.owner.iter().filter(|owner| owner.is_none()).count();
    Ok(executed.iter().filter(unknown).count() + tombstones)
}

/// Where an operation may stand.
#[derive(Clone, Debug)]
enum Place {
    /// A write, at this offset for so many records.
    Write { first: usize, count: usize },
    /// It saw the state after so many records.
    State(usize),
    /// It saw a state of at least so many.
    AtLeast(usize),
    /// Or of at most so many.
    AtMost(usize),
    /// It saw no value: any state without a record, or with a tombstone as the newest.
    Empty,
    /// It says nothing: it did not happen, or nobody was told.
    Nowhere,
}

struct Placing<'a> {
    key: &'a str,
    operations: &'a [&'a Operation],
    log: &'a [Record],
    /// Which operation wrote each record.
    owner: Vec<Option<usize>>,
    /// States inside an atomic write, which nobody may see.
    inside: Vec<bool>,
}

type Checked<T> = Result<T, Box<Violation>>;

impl Placing<'_> {
    fn wrong<T>(&self, why: Why, operations: &[usize], records: &[usize]) -> Checked<T> {
        let mut operations: Vec<Operation> = operations.iter().map(|at| self.operations[*at].clone()).collect();
        operations.sort_by_key(|op| op.invoked);
        let records = records.iter().filter_map(|offset| self.log.get(*offset).cloned()).collect();
        Err(Box::new(Violation { key: self.key.to_owned(), why, operations, records }))
    }

    fn log_is_sound(&self) -> Checked<()> {
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(self.log.len());
        for (at, record) in self.log.iter().enumerate() {
            if record.offset != at as u64 {
                return self.wrong(Why::Gap { expected: at as u64, found: record.offset }, &[], &[at]);
            }
            if let Some(value) = &record.value
                && let Some(first) = seen.insert(value, at)
            {
                let writer = self.operations.iter().position(|op| op.writes().contains(&Some(value)));
                let writer: Vec<usize> = writer.into_iter().collect();
                return self.wrong(Why::Doubled { first: first as u64, again: at as u64 }, &writer, &[first, at]);
            }
        }
        Ok(())
    }

    /// Gives each write its records of the log, or finds that it has none.
    fn place_writes(&mut self) -> Checked<Vec<Place>> {
        let log = self.log;
        let at: HashMap<&str, usize> =
            log.iter().enumerate().filter_map(|(at, record)| Some((record.value.as_deref()?, at))).collect();
        let mut places = Vec::with_capacity(self.operations.len());
        for index in 0..self.operations.len() {
            let operation = self.operations[index];
            if operation.returned.is_some_and(|returned| returned < operation.invoked) || !answers(operation) {
                return self.wrong(Why::Nonsense, &[index], &[]);
            }
            let values = operation.writes();
            let found: Vec<usize> = values.iter().flatten().filter_map(|value| at.get(value).copied()).collect();
            let place = match &operation.outcome {
                Outcome::Written { offset } => self.acknowledged(index, *offset as usize, &values, &found)?,
                Outcome::Unknown if !found.is_empty() => {
                    if !self.stands(found[0], &values) {
                        return self.wrong(Why::Torn, &[index], &found);
                    }
                    Place::Write { first: found[0], count: values.len() }
                }
                Outcome::Unknown => Place::Nowhere,
                _ if !found.is_empty() => {
                    let offset = found[0] as u64;
                    return self.wrong(Why::ExecutedThoughRefused { offset }, &[index], &found);
                }
                _ => Place::Nowhere,
            };
            if let Place::Write { first, count } = place {
                self.claim(index, first, count)?;
            }
            places.push(place);
        }
        let nobodys = (0..log.len()).find(|at| self.owner[*at].is_none() && log[*at].value.is_some());
        match nobodys {
            Some(at) => self.wrong(Why::NeverWritten { offset: at as u64 }, &[], &[at]),
            None => Ok(places),
        }
    }

    fn acknowledged(&self, index: usize, first: usize, values: &[Option<&str>], found: &[usize]) -> Checked<Place> {
        if self.stands(first, values) {
            return Ok(Place::Write { first, count: values.len() });
        }
        match found.first() {
            Some(at) if *at != first => self.wrong(Why::Moved { found: *at as u64 }, &[index], &[first, *at]),
            Some(_) => self.wrong(Why::Torn, &[index], found),
            None => self.wrong(Why::Lost, &[index], &[first]),
        }
    }

    /// Whether exactly these records stand at an offset.
    fn stands(&self, first: usize, values: &[Option<&str>]) -> bool {
        let there = self.log.get(first..).unwrap_or_default().iter().map(|record| record.value.as_deref());
        values.len() <= self.log.len().saturating_sub(first) && there.zip(values).all(|(a, b)| a == *b)
    }

    fn claim(&mut self, index: usize, first: usize, count: usize) -> Checked<()> {
        for at in first..first + count {
            if let Some(other) = self.owner[at].replace(index) {
                return self.wrong(Why::PlaceGivenTwice { offset: at as u64 }, &[other, index], &[at]);
            }
            self.inside[at] |= at > first;
        }
        Ok(())
    }

    /// Whether a condition holds after so many records; only the newest of them matters.
    fn holds_after(&self, operation: &Operation, records: usize) -> bool {
        match operation.expect() {
            crate::history::Expect::Next(next) => records as u64 == next,
            expect => holds(expect, &self.state_tail(records)),
        }
    }

    fn state_tail(&self, records: usize) -> Vec<Option<&str>> {
        let from = records.saturating_sub(1);
        self.log[from..records].iter().map(|record| record.value.as_deref()).collect()
    }

    fn conditions_held(&self, places: &[Place]) -> Checked<()> {
        for (index, place) in places.iter().enumerate() {
            if let Place::Write { first, .. } = *place
                && !self.holds_after(self.operations[index], first)
            {
                let before = first.checked_sub(1).unwrap_or(first);
                return self.wrong(Why::Expectation { next: first as u64 }, &[index], &[before, first]);
            }
        }
        Ok(())
    }

    /// Finds the states that reads and refused writes can have seen.
    fn place_others(&self, places: &mut [Place]) -> Checked<()> {
        for (index, operation) in self.operations.iter().enumerate() {
            let place = match (&operation.call, &operation.outcome) {
                (_, Outcome::ExpectationFailed { actual }) => {
                    let next = *actual as usize;
                    if next > self.log.len() || self.holds_after(operation, next) {
                        let before = next.saturating_sub(1);
                        return self.wrong(Why::Expectation { next: *actual }, &[index], &[before]);
                    }
                    Place::State(next)
                }
                (_, Outcome::Found { .. }) => self.place_get(index)?,
                (Call::Read { from, limit }, Outcome::Records(records)) => {
                    self.place_read(index, *from as usize, *limit as usize, records)?
                }
                _ => continue,
            };
            if let Place::State(records) = place
                && self.inside[records]
            {
                let writer = self.owner[records].into_iter().chain([index]).collect::<Vec<_>>();
                return self.wrong(Why::Torn, &writer, &[records - 1, records]);
            }
            places[index] = place;
        }
        Ok(())
    }

    fn place_get(&self, index: usize) -> Checked<Place> {
        let Outcome::Found { newest, next } = &self.operations[index].outcome else { return Ok(Place::Nowhere) };
        let place = match (newest, next) {
            (Some(seen), _) => Place::State(seen.offset as usize + 1),
            (None, Some(next)) => Place::State(*next as usize),
            (None, None) => return Ok(Place::Empty),
        };
        let Place::State(records) = place else { return Ok(place) };
        let there = (records <= self.log.len()).then(|| self.state_tail(records).last().copied().flatten());
        let told = newest.as_ref().map(|seen| seen.value.as_str());
        if there != Some(told) || next.is_some_and(|next| next != records as u64) {
            return self.wrong(Why::ReadOfNothing, &[index], &[records.saturating_sub(1)]);
        }
        Ok(place)
    }

    fn place_read(&self, index: usize, from: usize, limit: usize, records: &[Record]) -> Checked<Place> {
        let same = (from..).zip(records).all(|(at, record)| self.log.get(at) == Some(record));
        if !same || records.len() > limit {
            return self.wrong(Why::ReadOfNothing, &[index], &[from]);
        }
        let end = from + records.len();
        Ok(match records.len() {
            count if count == limit => Place::AtLeast(end),
            0 => Place::AtMost(from),
            _ => Place::State(end),
        })
    }

    /// Gives each operation, in order of invocation, the least of its places that is not below those of the operations that
    /// had returned by then. What each had to be above.
    fn order(&self, places: &mut [Place]) -> Checked<Vec<usize>> {
        let steps = Steps::new(self);
        let mut invoked: Vec<usize> = (0..self.operations.len()).collect();
        invoked.sort_unstable_by_key(|at| self.operations[*at].invoked);
        let mut returned = invoked.clone();
        returned.retain(|at| self.operations[*at].returned.is_some());
        returned.sort_unstable_by_key(|at| self.operations[*at].returned);
        let mut returned = returned.into_iter().peekable();
        let mut at = vec![0; self.operations.len()];
        let mut floors = vec![0; self.operations.len()];
        let (mut floor, mut by) = (0, None);
        for index in invoked {
            while let Some(done) = returned.next_if(|done| self.operations[*done].precedes(self.operations[index])) {
                if at[done] >= floor && !matches!(places[done], Place::Nowhere) {
                    (floor, by) = (at[done], Some(done));
                }
            }
            floors[index] = floor;
            match steps.least(&places[index], floor) {
                Some(least) => at[index] = least,
                None => {
                    let earlier = by.expect("every place is above the beginning");
                    let seen = steps.greatest(&places[index], floor) as u64;
                    let why = Why::Backwards { floor: (floor as u64).div_ceil(2), seen };
                    let records: Vec<usize> =
                        (floor / 2).checked_sub(usize::from(floor % 2 == 0)).into_iter().collect();
                    return self.wrong(why, &[earlier, index], &records);
                }
            }
        }
        Ok(floors)
    }

    /// Finds a delete of unknown outcome for each tombstone that nobody claims: augmenting paths in a bipartite graph.
    fn match_tombstones(&self, floors: &[usize]) -> Checked<()> {
        let tombstones: Vec<usize> = (0..self.log.len()).filter(|at| self.owner[*at].is_none()).collect();
        if tombstones.is_empty() {
            return Ok(());
        }
        let unknown = |at: &usize| {
            let operation = self.operations[*at];
            operation.outcome == Outcome::Unknown && matches!(operation.call, Call::Delete { .. })
        };
        let deletes: Vec<usize> = (0..self.operations.len()).filter(unknown).collect();
        let fits = |delete: usize, offset: usize| {
            floors[delete] <= 2 * offset + 1 && self.holds_after(self.operations[delete], offset)
        };
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for tombstone in &tombstones {
            let mut asked = vec![false; deletes.len()];
            if !augment(*tombstone, &deletes, &fits, &mut asked, &mut taken) {
                return self.wrong(Why::NeverWritten { offset: *tombstone as u64 }, &deletes, &[*tombstone]);
            }
        }
        Ok(())
    }
}

/// Finds a delete for a tombstone, where need be by moving others.
fn augment(
    tombstone: usize,
    deletes: &[usize],
    fits: &impl Fn(usize, usize) -> bool,
    asked: &mut [bool],
    taken: &mut HashMap<usize, usize>,
) -> bool {
    for (index, delete) in deletes.iter().enumerate() {
        if asked[index] || !fits(*delete, tombstone) {
            continue;
        }
        asked[index] = true;
        let free = match taken.get(delete).copied() {
            None => true,
            Some(other) => augment(other, deletes, fits, asked, taken),
        };
        if free {
            taken.insert(*delete, tombstone);
            return true;
        }
    }
    false
}

/// Whether an outcome is one of the call.
fn answers(operation: &Operation) -> bool {
    match (&operation.call, &operation.outcome) {
        (_, Outcome::Unknown | Outcome::NotExecuted) => true,
        (Call::Get, outcome) => matches!(outcome, Outcome::Found { .. }),
        (Call::Read { limit, .. }, outcome) => matches!(outcome, Outcome::Records(_)) && *limit > 0,
        (_, outcome) => matches!(outcome, Outcome::Written { .. } | Outcome::ExpectationFailed { .. }),
    }
}

/// The next state that may be seen, from each on.
struct Steps {
    /// Outside of atomic writes.
    open: Vec<usize>,
    /// And without a value as the newest record.
    empty: Vec<usize>,
}

impl Steps {
    fn new(placing: &Placing<'_>) -> Self {
        let states = placing.log.len() + 1;
        let none = usize::MAX;
        let (mut open, mut empty) = (vec![none; states + 1], vec![none; states + 1]);
        for state in (0..states).rev() {
            let seen = !placing.inside[state];
            let valueless = state == 0 || placing.log[state - 1].value.is_none();
            open[state] = if seen { state } else { open[state + 1] };
            empty[state] = if seen && valueless { state } else { empty[state + 1] };
        }
        Self { open, empty }
    }

    /// The least place at or above a floor.
    fn least(&self, place: &Place, floor: usize) -> Option<usize> {
        let from = floor.div_ceil(2);
        let next = |of: &[usize], from: usize| of.get(from).copied().filter(|state| *state != usize::MAX);
        let state = match place {
            Place::Nowhere => return Some(floor),
            Place::Write { first, count } => return Some(2 * (first + count) - 1).filter(|at| *at >= floor),
            Place::State(records) => Some(*records).filter(|state| *state >= from),
            Place::AtLeast(records) => next(&self.open, from.max(*records)),
            Place::AtMost(records) => next(&self.open, from).filter(|state| state <= records),
            Place::Empty => next(&self.empty, from),
        };
        state.map(|state| 2 * state)
    }

    /// The next offset at the greatest place there is, where none is at or above the floor.
    fn greatest(&self, place: &Place, floor: usize) -> usize {
        match place {
            Place::Nowhere => 0,
            Place::Write { first, count } => first + count,
            Place::State(records) | Place::AtLeast(records) | Place::AtMost(records) => *records,
            Place::Empty => (0..floor.div_ceil(2)).rev().find(|s| self.empty.get(*s) == Some(s)).unwrap_or(0),
        }
    }
}
