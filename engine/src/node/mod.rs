//! What the workers of one node share.
//!
//! Owns: which worker has which shard, the counts and budgets that are the node's, the spaces and names that are given once a
//! node. Must never: hold a worker up, or know what a shard does.

pub(crate) mod balance;
mod budget;
mod parts;
mod places;
mod roster;
mod route;

pub use crate::worker_id::WorkerId;
use balance::Loads;
pub(crate) use budget::Budget;
pub(crate) use parts::Parts;
pub use places::{Places, worker_of};
pub(crate) use roster::Roster;
pub use route::route;

use crate::host::Input;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use synod_cluster::ids::{Incarnation, Space};
use synod_paxos::types::ReadId;

/// Most workers of a node.
pub const WORKERS_MAX: u16 = 256;

/// Queues an input for one worker, whatever shard it is about, behind all that is queued for it; gives it back where there is no room.
/// Must not block.
pub type Post = Box<dyn Fn(WorkerId, Input) -> Result<(), Input> + Send + Sync>;

/// How workers reach one another, once that was said.
#[derive(Default)]
struct Posting(OnceLock<Post>);

impl fmt::Debug for Posting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "connected" } else { "apart" })
    }
}

/// What the workers of one node share.
#[derive(Debug)]
pub struct NodeShared {
    places: Arc<Places>,
    posting: Posting,
    /// Which groups are here.
    pub(crate) roster: Roster,
    /// A shard is on its way from one worker to another.
    handing: AtomicBool,
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
    /// Inputs of each worker's shards in its last interval of balance.
    pub(crate) loads: Loads,
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
    pub(crate) busiest_shard_operations: Parts,
    pub(crate) busiest_shard_bytes: Parts,
}

impl NodeShared {
    /// Of a node that has so many workers, from 1 to [`WORKERS_MAX`], in this incarnation.
    #[must_use]
    pub fn new(workers: u16, incarnation: Incarnation) -> Self {
        Self::over(Arc::new(Places::new(workers.clamp(1, WORKERS_MAX))), incarnation)
    }

    /// The same over the table of those who send to the workers.
    #[must_use]
    pub fn over(places: Arc<Places>, incarnation: Incarnation) -> Self {
        let workers = places.workers();
        let parts = || Parts::new(workers);
        Self {
            places,
            posting: Posting::default(),
            roster: Roster::default(),
            handing: AtomicBool::new(false),
            next_space: AtomicU32::new(u32::MAX),
            last_read: AtomicU64::new(incarnation.0 << 32),
            drained: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            waiting: parts(),
            tails: parts(),
            log_keep: Budget::new(workers),
            entries: Budget::new(workers),
            rings: Budget::new(workers),
            loads: Loads::new(workers),
            levels: Levels {
                round_inputs: parts(),
                log_queue_batches: parts(),
                log_kept_bytes: parts(),
                state_memory_bytes: parts(),
                state_removed_bytes: parts(),
                scrub_diverged: parts(),
                shard_time_ahead_seconds: parts(),
                busiest_shard_operations: parts(),
                busiest_shard_bytes: parts(),
            },
        }
    }

    /// How many workers the node has.
    #[must_use]
    pub fn workers(&self) -> u16 {
        self.places.workers()
    }

    /// Which worker has which shard.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Says how workers reach one another. Before that no shard is handed over. Said once, before any worker's first round.
    pub fn connect(&self, post: Post) {
        // A second one would reach the same inboxes.
        let _ = self.posting.0.set(post);
    }

    /// Queues an input for a worker, or gives it back.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who sends it again")]
    pub(crate) fn post(&self, to: WorkerId, input: Input) -> Result<(), Input> {
        match self.posting.0.get() {
            Some(post) => post(to, input),
            None => Err(input),
        }
    }

    /// Whether a shard may be handed over from now on: no other one on the node is, until [`Self::end_hand_over`].
    pub(crate) fn begin_hand_over(&self) -> bool {
        self.posting.0.get().is_some() && !self.handing.swap(true, Ordering::AcqRel)
    }

    /// Whether a shard is being handed over.
    pub(crate) fn is_handing(&self) -> bool {
        self.handing.load(Ordering::Acquire)
    }

    /// A shard has arrived with all that was sent after it, or stays.
    pub(crate) fn end_hand_over(&self) {
        self.handing.store(false, Ordering::Release);
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
