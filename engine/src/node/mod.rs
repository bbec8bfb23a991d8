//! What the workers of one node share.
//!
//! Owns: which worker has which shard, the counts and budgets that are the node's, the spaces and names that are given once a
//! node. Must never: hold a worker up, or know what a shard does.

mod budget;
mod parts;
mod route;

pub(crate) use budget::Budget;
pub(crate) use parts::Parts;
pub use route::{route, worker_of};

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use synod_cluster::ids::{Incarnation, Space};
use synod_paxos::types::ReadId;

/// Most workers of a node.
pub const WORKERS_MAX: u16 = 256;

/// One of a node's workers, counted from 0. Which shards it has follows from the number of workers: it stands in no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The worker that has the system shard, and does what is to be done once a node.
    pub const FIRST: Self = Self(0);

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the workers of one node share.
#[derive(Debug)]
pub struct NodeShared {
    workers: u16,
    next_space: AtomicU32,
    last_read: AtomicU64,
    drained: Box<[AtomicBool]>,
    /// Requests taken and not yet answered.
    pub(crate) waiting: Parts,
    /// Tails that wait for news.
    pub(crate) tails: Parts,
    /// What the logs keep for lagging members, bytes.
    pub(crate) log_keep: Budget,
    /// Applied entries in memory, bytes.
    pub(crate) entries: Budget,
    /// The newest records in memory, bytes.
    pub(crate) rings: Budget,
    /// Levels of metrics of the node.
    pub(crate) levels: Levels,
}

/// Levels that each worker knows its part of.
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) round_inputs: Parts,
    pub(crate) log_queue_batches: Parts,
    pub(crate) log_kept_bytes: Parts,
    pub(crate) state_memory_bytes: Parts,
    pub(crate) state_removed_bytes: Parts,
    pub(crate) scrub_diverged: Parts,
    pub(crate) shard_time_ahead_seconds: Parts,
}

impl NodeShared {
    /// Of a node that has so many workers, from 1 to [`WORKERS_MAX`], in this incarnation.
    #[must_use]
    pub fn new(workers: u16, incarnation: Incarnation) -> Self {
        let workers = workers.clamp(1, WORKERS_MAX);
        let parts = || Parts::new(workers);
        Self {
            workers,
            next_space: AtomicU32::new(u32::MAX),
            last_read: AtomicU64::new(incarnation.0 << 32),
            drained: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            waiting: parts(),
            tails: parts(),
            log_keep: Budget::new(workers),
            entries: Budget::new(workers),
            rings: Budget::new(workers),
            levels: Levels {
                round_inputs: parts(),
                log_queue_batches: parts(),
                log_kept_bytes: parts(),
                state_memory_bytes: parts(),
                state_removed_bytes: parts(),
                scrub_diverged: parts(),
                shard_time_ahead_seconds: parts(),
            },
        }
    }

    /// How many workers the node has.
    #[must_use]
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// Spaces from here on are free. Said once, before any worker's first round.
    pub(crate) fn spaces_from(&self, first: Space) {
        self.next_space.store(first.0, Ordering::Relaxed);
    }

    /// A space that no other replica of this node has.
    pub(crate) fn fresh_space(&self) -> Space {
        let step = u32::from(!planted!(SpaceGivenTwice));
        let space = self.next_space.fetch_add(step, Ordering::Relaxed);
        assert!(space < u32::MAX, "2^31 snapshots were installed");
        Space(space)
    }

    /// The next name of a question about reads. None is given twice, by no process of this node: an answer that comes late must not
    /// be taken for another's.
    pub(crate) fn next_read(&self) -> ReadId {
        ReadId(self.last_read.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A worker begins to hand its leaderships over, or has none left; whether none is left on the node.
    pub(crate) fn drained(&self, worker: WorkerId, drained: bool) -> bool {
        self.drained[worker.index()].store(drained, Ordering::SeqCst);
        self.drained.iter().all(|drained| drained.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_drained_once_all_its_workers_are() {
        let node = NodeShared::new(2, Incarnation(1));
        assert!(!node.drained(WorkerId(1), true));
        assert!(node.drained(WorkerId(0), true));
        assert!(!node.drained(WorkerId(1), false));
    }

    #[test]
    fn names_of_reads_and_spaces_are_given_once() {
        let node = NodeShared::new(3, Incarnation(2));
        node.spaces_from(Space(7));
        assert_eq!((node.fresh_space(), node.fresh_space()), (Space(7), Space(8)));
        assert_eq!((node.next_read(), node.next_read()), (ReadId((2 << 32) + 1), ReadId((2 << 32) + 2)));
    }
}
