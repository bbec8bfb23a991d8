//! Random histories: good ones are accepted, spoilt ones refused, and both ways of deciding agree.
//!
//! A failure names its seed; `LINCHECK_SEED=N cargo test --release -p synod-lincheck --test random` runs that one alone.

use std::time::Instant;
use synod_lincheck::search::linearize;
use synod_lincheck::simulate::{Dice, Shape, history};
use synod_lincheck::{Call, History, Operation, Outcome, check};

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("LINCHECK_SEED") {
        Ok(seed) => vec![seed.parse().expect("LINCHECK_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn good(seed: u64, operations: usize, keys: u64) -> History {
    history(Shape { seed, operations, keys, clients: 2 + seed % 7, lost: 100 + 20 * (seed % 10) })
}

#[test]
fn good_histories_are_accepted() {
    for seed in seeds(2_000) {
        let report = check(&good(seed, 200, 1 + seed % 4));
        assert!(report.is_linearizable(), "seed {seed}: {report}");
    }
}

/// One way of spoiling a history; whether it found something to spoil.
type Spoil = fn(&mut History, &mut Dice) -> bool;

/// Each makes every history it changes wrong, whatever else is in it.
const SPOILS: &[(&str, Spoil)] = &[
    ("a stale read", stale_read),
    ("a read going back", read_going_back),
    ("a lost acknowledged write", lost_write),
    ("a lost tail", lost_tail),
    ("a doubled write", doubled_write),
    ("a wrong refusal", wrong_refusal),
    ("a refusal executed", refusal_executed),
    ("a read of what was never written", read_of_nothing),
    ("two writes against real time", against_real_time),
    ("a torn append", torn_append),
    ("a record nobody wrote", nobodys_record),
    ("an unknown write before it was sent", unknown_too_early),
];

#[test]
fn spoilt_histories_are_refused() {
    let mut found = vec![0u64; SPOILS.len()];
    for seed in seeds(1_000) {
        for (at, (what, spoil)) in SPOILS.iter().enumerate() {
            let mut spoilt = good(seed, 200, 2);
            if spoil(&mut spoilt, &mut Dice(seed)) {
                found[at] += 1;
                assert!(!check(&spoilt).is_linearizable(), "seed {seed}: {what} is accepted");
            }
        }
    }
    for (count, (what, _)) in found.iter().zip(SPOILS) {
        println!("{what}: refused {count} times");
        let alone = std::env::var("LINCHECK_SEED").is_ok();
        assert!(alone || *count > 300, "{what} could be planted only {count} times");
    }
}

/// Small histories, good, spoilt, and disturbed in ways that may leave them good: what one way says, the other does.
#[test]
fn both_ways_agree() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds(60_000) {
        let mut dice = Dice(seed ^ 0xabcd);
        let mut history = history(Shape {
            seed,
            operations: 3 + dice.below(8) as usize,
            keys: 1,
            clients: 1 + dice.below(5),
            lost: 300,
        });
        match dice.below(4) {
            0 => {}
            1 => {
                SPOILS[dice.below(SPOILS.len() as u64) as usize].1(&mut history, &mut dice);
            }
            _ => (0..=dice.below(2)).for_each(|_| disturb(&mut history, &mut dice)),
        }
        let log = history.logs.values().next().cloned().unwrap_or_default();
        let report = check(&history);
        let order = linearize(&history.operations, Some(&log));
        assert_eq!(report.is_linearizable(), order.is_some(), "seed {seed}: {report}{history:#?}");
        // Without the log the search knows less: what it refuses is refused with it.
        let without = linearize(&history.operations, None);
        assert!(without.is_some() || order.is_none(), "seed {seed}: {history:#?}");
        *(if order.is_some() { &mut accepted } else { &mut refused }) += 1;
    }
    println!("both ways accept {accepted} histories and refuse {refused}");
    let alone = std::env::var("LINCHECK_SEED").is_ok();
    assert!(alone || (accepted > 10_000 && refused > 10_000), "{accepted} accepted, {refused} refused");
}

/// 100,000 operations, 64 keys and one hot key: seconds.
#[test]
fn a_hundred_thousand_operations() {
    for (what, keys, clients) in [("64 keys, 16 clients", 64, 16), ("one hot key, 64 clients", 1, 64)] {
        let history = history(Shape { seed: 1, operations: 100_000, keys, clients, lost: 20 });
        let began = Instant::now();
        let report = check(&history);
        let took = began.elapsed();
        println!("{what}: {took:.1?}; {report}");
        assert!(report.is_linearizable(), "{report}");
        assert!(took.as_secs() < 5, "{what}: {took:?}");
    }
}

fn pick(dice: &mut Dice, history: &History, wanted: impl Fn(&Operation) -> bool) -> Option<usize> {
    let all: Vec<usize> = (0..history.operations.len()).filter(|at| wanted(&history.operations[*at])).collect();
    (!all.is_empty()).then(|| all[dice.below(all.len() as u64) as usize])
}

fn written(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Written { offset } => Some(offset),
        _ => None,
    }
}

fn renumber(history: &mut History) {
    for log in history.logs.values_mut() {
        (0..).zip(log).for_each(|(offset, record)| record.offset = offset);
    }
}

/// A get that found a value is told an older one, though a write behind that had been acknowledged before.
fn stale_read(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| {
        matches!(op.call, Call::Get)
            && op.outcome != Outcome::Unknown
            && latest_before(history, op).is_some_and(|n| n > 0)
    }) else {
        return false;
    };
    let operation = &history.operations[at];
    let floor = latest_before(history, operation).unwrap();
    let older = history.logs[&operation.key][..floor as usize].iter().rev().find(|record| record.value.is_some());
    let newest = older.map(|r| synod_lincheck::Seen { offset: r.offset, value: r.value.clone().unwrap() });
    if newest.is_none() {
        return false;
    }
    history.operations[at].outcome = Outcome::Found { newest, next: None };
    true
}

/// The greatest offset written by what was acknowledged before an operation was sent.
fn latest_before(history: &History, operation: &Operation) -> Option<u64> {
    let before = history.operations.iter().filter(|op| op.key == operation.key && op.precedes(operation));
    before.filter_map(|op| Some(written(op)? + op.writes().len() as u64 - 1)).max()
}

/// Two gets one after the other are told the records the other way round.
fn read_going_back(history: &mut History, dice: &mut Dice) -> bool {
    let found = |op: &Operation| match &op.outcome {
        Outcome::Found { newest: Some(seen), .. } => Some(seen.offset),
        _ => None,
    };
    let operations = &history.operations;
    let rises = |a: &Operation, b: &Operation| a.key == b.key && a.precedes(b) && found(a) < found(b);
    let Some(first) = pick(dice, history, |a| found(a).is_some() && operations.iter().any(|b| rises(a, b))) else {
        return false;
    };
    let Some(second) = operations.iter().position(|b| rises(&operations[first], b)) else { return false };
    let (a, b) = (operations[first].outcome.clone(), operations[second].outcome.clone());
    (history.operations[first].outcome, history.operations[second].outcome) = (b, a);
    true
}

/// An acknowledged write of one value is taken out of the log, which is closed up.
fn lost_write(history: &mut History, dice: &mut Dice) -> bool {
    let lost = |op: &Operation| written(op).is_some() && matches!(op.call, Call::Put { .. });
    let Some(at) = pick(dice, history, lost) else { return false };
    let (key, offset) = (history.operations[at].key.clone(), written(&history.operations[at]).unwrap());
    history.logs.get_mut(&key).unwrap().remove(offset as usize);
    renumber(history);
    true
}

/// The log ends before an acknowledged write.
fn lost_tail(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| written(op).is_some()) else { return false };
    let (key, offset) = (history.operations[at].key.clone(), written(&history.operations[at]).unwrap());
    history.logs.get_mut(&key).unwrap().truncate(offset as usize);
    true
}

fn doubled_write(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| written(op).is_some() && matches!(op.call, Call::Put { .. })) else {
        return false;
    };
    let (key, offset) = (history.operations[at].key.clone(), written(&history.operations[at]).unwrap());
    let log = history.logs.get_mut(&key).unwrap();
    let again = log[offset as usize].clone();
    log.push(again);
    renumber(history);
    true
}

/// A refusal names a next offset that the key had passed, or has never had.
fn wrong_refusal(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| matches!(op.outcome, Outcome::ExpectationFailed { .. })) else {
        return false;
    };
    let operation = &history.operations[at];
    let end = history.logs.get(&operation.key).map_or(0, |log| log.len() as u64);
    let actual = match latest_before(history, operation) {
        Some(latest) if dice.below(2) == 0 => latest,
        _ => end + 1,
    };
    history.operations[at].outcome = Outcome::ExpectationFailed { actual };
    true
}

fn refusal_executed(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| written(op).is_some() && !matches!(op.call, Call::Delete { .. })) else {
        return false;
    };
    history.operations[at].outcome = Outcome::NotExecuted;
    true
}

fn read_of_nothing(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = pick(dice, history, |op| matches!(op.outcome, Outcome::Found { newest: Some(_), .. })) else {
        return false;
    };
    if let Outcome::Found { newest: Some(seen), .. } = &mut history.operations[at].outcome {
        seen.value = "nobody's".into();
    }
    true
}

/// Two acknowledged puts, one after the other, change places: in the log, and in what they were told.
fn against_real_time(history: &mut History, dice: &mut Dice) -> bool {
    let put = |op: &Operation| written(op).is_some() && matches!(op.call, Call::Put { .. });
    let operations = &history.operations;
    let after = |a: &Operation, b: &Operation| put(b) && a.key == b.key && a.precedes(b);
    let Some(first) = pick(dice, history, |a| put(a) && operations.iter().any(|b| after(a, b))) else { return false };
    let Some(second) = operations.iter().position(|b| after(&operations[first], b)) else { return false };
    let (a, b) = (written(&operations[first]).unwrap(), written(&operations[second]).unwrap());
    let log = history.logs.get_mut(&operations[first].key.clone()).unwrap();
    log.swap(a as usize, b as usize);
    renumber(history);
    history.operations[first].outcome = Outcome::Written { offset: b };
    history.operations[second].outcome = Outcome::Written { offset: a };
    true
}

/// Of an append of several records the last is missing, and the log ends there.
fn torn_append(history: &mut History, dice: &mut Dice) -> bool {
    let several = |op: &Operation| written(op).is_some() && op.writes().len() > 1;
    let Some(at) = pick(dice, history, several) else { return false };
    let operation = &history.operations[at];
    let end = written(operation).unwrap() as usize + operation.writes().len() - 1;
    history.logs.get_mut(&operation.key.clone()).unwrap().truncate(end);
    true
}

fn nobodys_record(history: &mut History, dice: &mut Dice) -> bool {
    let Some(log) = history.logs.values_mut().next() else { return false };
    let offset = log.len() as u64;
    log.push(synod_lincheck::Record::value(offset, format!("nobody's {}", dice.below(9))));
    true
}

/// A write of unknown outcome that stands in the log was sent only after something behind it had been acknowledged.
fn unknown_too_early(history: &mut History, dice: &mut Dice) -> bool {
    let place = |op: &Operation| {
        let value = op.writes().first().copied().flatten()?;
        history.logs.get(&op.key)?.iter().position(|record| record.value.as_deref() == Some(value))
    };
    let behind = |op: &Operation| {
        let place = place(op)? as u64;
        let later = history.operations.iter().filter(|o| o.key == op.key && written(o).is_some_and(|at| at > place));
        later.filter_map(|o| o.returned).min()
    };
    let Some(at) = pick(dice, history, |op| op.outcome == Outcome::Unknown && behind(op).is_some()) else {
        return false;
    };
    history.operations[at].invoked = behind(&history.operations[at]).unwrap() + 1;
    true
}

/// Changes something without knowing whether that matters.
fn disturb(history: &mut History, dice: &mut Dice) {
    let count = history.operations.len() as u64;
    let at = dice.below(count) as usize;
    let other = dice.below(count) as usize;
    match dice.below(8) {
        0 => {
            let outcome = history.operations[other].outcome.clone();
            if history.operations[at].outcome != Outcome::Unknown && outcome != Outcome::Unknown {
                history.operations[at].outcome = outcome;
            }
        }
        1 => {
            let operation = &mut history.operations[at];
            operation.invoked = operation.invoked.saturating_sub(dice.below(2_000));
        }
        2 => {
            let operation = &mut history.operations[at];
            let latest = operation.returned.unwrap_or(u64::MAX);
            operation.invoked = (operation.invoked + dice.below(3_000)).min(latest);
        }
        3 => {
            let operation = &mut history.operations[at];
            let earliest = operation.invoked;
            operation.returned = operation.returned.map(|at| at.saturating_sub(dice.below(2_000)).max(earliest));
        }
        4 => {
            let operation = &mut history.operations[at];
            (operation.outcome, operation.returned) = (Outcome::Unknown, None);
        }
        5 => {
            if let Some(log) = history.logs.values_mut().next()
                && log.len() > 1
            {
                let (a, b) = (dice.below(log.len() as u64) as usize, dice.below(log.len() as u64) as usize);
                log.swap(a, b);
            }
            renumber(history);
        }
        6 => {
            if let Some(log) = history.logs.values_mut().next() {
                log.pop();
            }
        }
        _ => {
            if let Some(log) = history.logs.values_mut().next() {
                let offset = log.len() as u64;
                log.push(synod_lincheck::Record::tombstone(offset));
            }
        }
    }
}
