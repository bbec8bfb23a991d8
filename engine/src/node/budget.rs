//! A budget of the node that its shards share by need, whichever worker has them.
//!
//! Owns: what each worker's shards needed when that worker last said so. Must never: give the shards of two workers the same part.

use super::WorkerId;
use crate::share;
use std::sync::{Mutex, PoisonError};

/// The needs of each worker's shards, bytes.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<Vec<Vec<u64>>>);

impl Budget {
    pub(super) fn new(workers: u16) -> Self {
        Self(Mutex::new(vec![Vec::new(); workers.into()]))
    }

    /// Notes what a worker's shards need. Returns what each shard of the node may have, so that all together have no more than
    /// `budget`, bytes.
    pub(crate) fn share(&self, worker: WorkerId, needs: Vec<u64>, budget: u64) -> u64 {
        // What another worker left half said is only its last needs.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all[worker.index()] = needs;
        share::level(&mut all.concat(), budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_worker_does_not_need_another_has() {
        let budget = Budget::new(2);
        assert_eq!(budget.share(WorkerId(0), vec![10, 90], 100), 100, "all have what they need");
        assert_eq!(budget.share(WorkerId(1), vec![500], 100), 45, "10 + 45 + 45");
        assert_eq!(budget.share(WorkerId(0), vec![10], 100), 90);
    }
}
