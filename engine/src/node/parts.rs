//! A number that each worker of a node knows a part of.
//!
//! Owns: the parts. Must never: be decided by where it has to be exact: a sum may be as old as the other workers' last rounds.

use super::WorkerId;
use std::sync::atomic::{AtomicI64, Ordering};

/// One number a worker.
#[derive(Debug)]
pub(crate) struct Parts(Box<[AtomicI64]>);

impl Parts {
    pub(super) fn new(workers: u16) -> Self {
        Self((0..workers).map(|_| AtomicI64::new(0)).collect())
    }

    /// Sets a worker's part; the sum of all.
    pub(crate) fn set(&self, worker: WorkerId, part: i64) -> i64 {
        self.0[worker.index()].store(part, Ordering::Relaxed);
        self.0.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }

    /// Sets a worker's part; the greatest of all.
    pub(crate) fn set_of_most(&self, worker: WorkerId, part: i64) -> i64 {
        self.0[worker.index()].store(part, Ordering::Relaxed);
        self.0.iter().map(|part| part.load(Ordering::Relaxed)).max().unwrap_or(part)
    }

    /// The sum of all but a worker's own; never below 0.
    pub(crate) fn of_others(&self, worker: WorkerId) -> usize {
        let others = self.0.iter().enumerate().filter(|(index, _)| *index != worker.index());
        usize::try_from(others.map(|(_, part)| part.load(Ordering::Relaxed)).sum::<i64>()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_the_greatest() {
        let parts = Parts::new(3);
        assert_eq!(parts.set(WorkerId(0), 5), 5);
        assert_eq!(parts.set(WorkerId(2), 7), 12);
        assert_eq!((parts.of_others(WorkerId(0)), parts.of_others(WorkerId(1))), (7, 12));
        assert_eq!(parts.set_of_most(WorkerId(1), 6), 7);
    }
}
