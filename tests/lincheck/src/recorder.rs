//! Records operations while they happen.
//!
//! Owns: the clock of a history. Must never: lose an operation that was begun; one that never ends is unknown.

use crate::history::{Call, History, Operation, Outcome};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Shared by all clients of a campaign.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
}

/// An operation under way.
#[derive(Debug)]
#[must_use = "an operation that is not reported as returned counts as unknown"]
pub struct Pending(usize);

impl Default for Recorder {
    fn default() -> Self {
        Self { began: Instant::now(), operations: Mutex::default() }
    }
}

impl Recorder {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("584 years are enough")
    }

    /// A client is about to call.
    pub fn invoked(&self, client: u64, key: impl Into<String>, call: Call) -> Pending {
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, invoked) = (key.into(), self.now());
        operations.push(Operation { client, key, invoked, returned: None, call, outcome: Outcome::Unknown });
        Pending(operations.len() - 1)
    }

    /// Its answer came. `Outcome::Unknown` is what a timeout says.
    pub fn returned(&self, pending: Pending, outcome: Outcome) {
        let returned = self.now();
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let operation = &mut operations[pending.0];
        operation.returned = (outcome != Outcome::Unknown).then_some(returned);
        operation.outcome = outcome;
    }

    /// What was recorded so far; the logs are still to be added.
    #[must_use]
    pub fn finish(&self) -> History {
        let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        History { operations, ..History::default() }
    }
}
