//! Which worker has which shard.
//!
//! Owns: the rule, and the shards that were handed over against it. Must never: be written down, or cost more than one atomic load
//! while every shard is where the rule says.

use super::WorkerId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};

/// The worker that has a shard, of so many, unless it was handed over. Leaderships go round the nodes by the shards' numbers, so the
/// spread must be even over any arithmetic progression of them: multiples of the golden ratio are (Knuth, *The Art of Computer
/// Programming*, volume 3, section 6.4, theorem S).
#[must_use]
pub fn worker_of(shard: ShardId, workers: u16) -> WorkerId {
    if shard == SYSTEM_SHARD {
        return WorkerId::FIRST;
    }
    let fraction = shard.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let worker = u16::try_from((fraction * u64::from(workers)) >> 32);
    WorkerId(worker.expect("a fraction of a number of workers is below it"))
}

/// The table that all workers of a node, and all who send to them, look shards up in.
#[derive(Debug)]
pub struct Places {
    workers: u16,
    /// How many shards are not where the rule says.
    elsewhere: AtomicUsize,
    /// Those shards.
    handed: RwLock<BTreeMap<ShardId, WorkerId>>,
    /// How many shards did not begin where the rule says.
    strays: AtomicUsize,
    /// Those shards, wherever they are by now: children of splits begin with the workers of their parents.
    begun: RwLock<BTreeSet<ShardId>>,
}

impl Places {
    /// Of so many workers, at least one; every shard is where [`worker_of`] says.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        let (elsewhere, strays) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { workers: workers.max(1), elsewhere, handed: RwLock::default(), strays, begun: RwLock::default() }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// Whether every shard is where [`worker_of`] says.
    #[must_use]
    pub fn are_plain(&self) -> bool {
        self.elsewhere.load(Ordering::Acquire) == 0
    }

    /// The worker that has a shard. It may be on its way there.
    #[must_use]
    pub fn worker_of(&self, shard: ShardId) -> WorkerId {
        let own = worker_of(shard, self.workers);
        if self.are_plain() {
            return own;
        }
        let handed = self.handed.read().unwrap_or_else(PoisonError::into_inner);
        handed.get(&shard).copied().unwrap_or(own)
    }

    /// Whether every shard is where [`worker_of`] says, and began there.
    pub(crate) fn follow_the_rule(&self) -> bool {
        self.are_plain() && self.strays.load(Ordering::Acquire) == 0
    }

    /// Whether a shard began with another worker than [`worker_of`] says. That one has it from its arrival on only, whatever the table
    /// says.
    pub(crate) fn began_elsewhere(&self, shard: ShardId) -> bool {
        self.strays.load(Ordering::Acquire) > 0
            && self.begun.read().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }

    /// A shard begins with a worker.
    pub(crate) fn begin(&self, shard: ShardId, worker: WorkerId) {
        // The table first: the worker that the rule names would else take the shard to be on its way.
        self.set(shard, worker);
        if worker_of(shard, self.workers) != worker {
            let mut begun = self.begun.write().unwrap_or_else(PoisonError::into_inner);
            begun.insert(shard);
            self.strays.store(begun.len(), Ordering::Release);
        }
    }

    /// A shard goes to a worker.
    pub(crate) fn set(&self, shard: ShardId, worker: WorkerId) {
        let mut handed = self.handed.write().unwrap_or_else(PoisonError::into_inner);
        if worker_of(shard, self.workers) == worker {
            handed.remove(&shard);
        } else {
            handed.insert(shard, worker);
        }
        self.elsewhere.store(handed.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaderships_that_go_round_the_nodes_are_spread_over_each_nodes_workers() {
        for workers in [2u16, 3, 4, 8] {
            for (nodes, first) in [(1u64, 2u64), (3, 2), (3, 3), (3, 4), (5, 7)] {
                let mut led = vec![0u64; workers.into()];
                let shards = 24 * u64::from(workers);
                (0..shards).for_each(|n| led[worker_of(ShardId(first + n * nodes), workers).index()] += 1);
                let (least, most) = (led.iter().min().unwrap(), led.iter().max().unwrap());
                assert!(*least >= 20 && *most <= 28, "{workers} workers, {nodes} nodes: {led:?}");
            }
        }
        assert_eq!(worker_of(SYSTEM_SHARD, 7), WorkerId::FIRST);
    }

    #[test]
    fn a_shard_is_where_it_was_handed_to_and_the_table_is_plain_once_it_is_back() {
        let places = Places::new(3);
        let own = worker_of(ShardId(2), 3);
        let other = WorkerId((own.0 + 1) % 3);
        assert!(places.are_plain() && places.worker_of(ShardId(2)) == own);
        places.set(ShardId(2), other);
        assert!(!places.are_plain());
        assert_eq!((places.worker_of(ShardId(2)), places.worker_of(ShardId(3))), (other, worker_of(ShardId(3), 3)));
        places.set(ShardId(2), own);
        assert!(places.are_plain() && places.worker_of(ShardId(2)) == own);
    }

    #[test]
    fn of_a_shard_that_began_where_the_rule_does_not_say_that_is_remembered_wherever_it_goes() {
        let places = Places::new(3);
        let own = worker_of(ShardId(2), 3);
        let other = WorkerId((own.0 + 1) % 3);
        places.begin(ShardId(2), own);
        assert!(places.follow_the_rule() && !places.began_elsewhere(ShardId(2)));
        places.begin(ShardId(2), other);
        assert_eq!(places.worker_of(ShardId(2)), other);
        assert!(places.began_elsewhere(ShardId(2)) && !places.began_elsewhere(ShardId(3)));
        places.set(ShardId(2), own);
        assert!(places.are_plain() && places.began_elsewhere(ShardId(2)) && !places.follow_the_rule());
    }
}
