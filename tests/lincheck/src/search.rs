//! The general search: any order that real time allows.
//!
//! Sources: Wing, Gong, "Testing and Verifying Concurrent Objects" (1993), section 4; Lowe, "Testing for Linearizability"
//! (2017), section 3, for the memory of configurations.
//!
//! Owns: the search. Must never: use the log for anything but as the state to end in.

use crate::history::{Operation, Outcome, Record};
use crate::state::{State, after};
use std::collections::HashSet;

/// An order of one key's operations (as indices; those of unknown outcome that never took effect are left out) that explains
/// every answer and, where the final log is given, ends in it. `None` where there is none.
#[must_use]
pub fn linearize(operations: &[Operation], log: Option<&[Record]>) -> Option<Vec<usize>> {
    let log: Option<State<'_>> = match log {
        Some(log) if (0..).zip(log).any(|(offset, record)| record.offset != offset) => return None,
        log => log.map(|log| log.iter().map(|record| record.value.as_deref()).collect()),
    };
    let mut search = Search { operations, log, tried: HashSet::new(), order: Vec::new() };
    let left = (0..operations.len()).collect();
    search.extend(left, Vec::new()).then_some(search.order)
}

struct Search<'a> {
    operations: &'a [Operation],
    log: Option<State<'a>>,
    /// What was left to do, and the state, of every attempt that failed.
    tried: HashSet<(Vec<usize>, State<'a>)>,
    order: Vec<usize>,
}

impl<'a> Search<'a> {
    fn extend(&mut self, left: Vec<usize>, state: State<'a>) -> bool {
        let operations = self.operations;
        if self.log.as_ref().is_some_and(|log| !log.starts_with(&state)) {
            return false;
        }
        let done = left.iter().all(|at| operations[*at].outcome == Outcome::Unknown);
        if done && self.log.as_ref().is_none_or(|log| *log == state) {
            return true;
        }
        if !self.tried.insert((left.clone(), state.clone())) {
            return false;
        }
        for (index, at) in left.iter().enumerate() {
            let operation = &operations[*at];
            if left.iter().any(|other| operations[*other].precedes(operation)) {
                continue;
            }
            if let Some(next) = after(operation, &state) {
                let mut rest = left.clone();
                rest.remove(index);
                self.order.push(*at);
                if self.extend(rest, next) {
                    return true;
                }
                self.order.pop();
            }
        }
        false
    }
}
