//! What one key is, and what an operation does to it: the sequential specification.
//!
//! Owns: the meaning of every call. Must never: know of concurrency.

use crate::history::{Call, Expect, Operation, Outcome};

/// A key: its records from offset 0 on, a tombstone without a value.
pub type State<'a> = Vec<Option<&'a str>>;

/// Whether a condition holds.
#[must_use]
pub fn holds(expect: Expect, state: &[Option<&str>]) -> bool {
    let exists = state.last().is_some_and(Option::is_some);
    match expect {
        Expect::Any => true,
        Expect::Absent => !exists,
        Expect::Exists => exists,
        Expect::Next(next) => state.len() as u64 == next,
    }
}

/// The state after an operation that took effect in `state` with the outcome it had; `None` where it cannot have had it. An
/// unknown outcome says that it may have taken effect with any; without effect it says nothing.
#[must_use]
pub fn after<'a>(operation: &'a Operation, state: &State<'a>) -> Option<State<'a>> {
    let next = state.len() as u64;
    let executed = || {
        let mut state = state.clone();
        state.extend(operation.writes());
        state
    };
    match (&operation.call, &operation.outcome) {
        (_, Outcome::NotExecuted) => Some(state.clone()),
        (Call::Get, Outcome::Found { newest, next: said }) => {
            let found = state.last().copied().flatten();
            let told = newest.as_ref().map(|seen| (seen.offset + 1, seen.value.as_str()));
            let fits = found.map(|value| (next, value)) == told && said.is_none_or(|said| said == next);
            fits.then(|| state.clone())
        }
        (Call::Read { from, limit }, Outcome::Records(records)) => {
            let mut there = (0u64..).zip(state).skip_while(|(offset, _)| offset < from).take(*limit as usize);
            let mut said = records.iter().map(|record| (record.offset, record.value.as_deref()));
            let same = loop {
                match (there.next(), said.next()) {
                    (None, None) => break true,
                    (Some((offset, value)), Some(said)) if (offset, *value) == said => {}
                    _ => break false,
                }
            };
            same.then(|| state.clone())
        }
        (Call::Get | Call::Read { .. }, Outcome::Unknown) => Some(state.clone()),
        (Call::Get | Call::Read { .. }, _) => None,
        (_, Outcome::Written { offset }) => (holds(operation.expect(), state) && *offset == next).then(executed),
        (_, Outcome::ExpectationFailed { actual }) => {
            (!holds(operation.expect(), state) && *actual == next).then(|| state.clone())
        }
        (_, Outcome::Unknown) => holds(operation.expect(), state).then(executed),
        (_, Outcome::Found { .. } | Outcome::Records(_)) => None,
    }
}
