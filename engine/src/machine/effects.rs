//! What follows from an applied entry outside the state.
//!
//! Owns: the value that says all of it. Must never: be looked at by what applies entries: the state depends on none of it.

use super::ShardState;
use crate::command::Outcome;
use std::fmt;
use synod_cluster::ids::{ShardId, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Descriptor;

/// What became of one request of an entry.
pub type Applied = Result<Outcome, Refusal>;

/// Whether somebody waits for what becomes of an entry's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Somebody does.
    Results,
    /// Nobody does: outcomes are kept with their sessions and not copied.
    Nothing,
}

/// A shard that an entry of another shard began. Its rows are in the store, save its sessions: they join it with the next freeze, as
/// those of all shards do. So the child must be among the shards whose sessions are stored before that freeze, or its rows must go
/// before it.
///
/// They go where this node is to have no replica of the child: it is none of its voters, it had a replica and removed it, or it got
/// one from a snapshot, which is in a space of its own.
pub struct Born {
    /// Its state at slot 0 of its own log.
    pub state: ShardState,
    /// What it is. Its group begins in epoch 1, and the node that proposed the split leads first.
    pub descriptor: Descriptor,
}

impl fmt::Debug for Born {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Born").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

/// What follows from an applied entry outside the state. Whoever carries it out names every field, so that a new one is not
/// forgotten.
#[must_use = "what follows from an entry is to be carried out"]
#[derive(Debug, Default)]
pub struct Effects {
    /// What became of each of the entry's requests, in order; empty where that was not wanted.
    pub results: Vec<Applied>,
    /// The revision that the metadata has come to, where the entry changed it.
    pub metadata: Option<u64>,
    /// The entry is a marker: replicas are compared at its slot.
    pub marker: bool,
    /// The shard that the entry began, where it split this one and no replica of the child has begun here before.
    pub child: Option<Box<Born>>,
    /// The step of a merge that the entry made.
    pub merge: Option<MergeStep>,
    /// Why an administrative entry changed nothing; for its proposer.
    pub refused: Option<Refusal>,
}

/// A step of a merge, as the shard that made it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// A neighbour is to go into this shard.
    Began,
    /// This shard stands still. What waits to be answered is refused, and its rows are to be made durable soon.
    Froze,
    /// A shard went into this one: its rows are this one's, and its replica here ends. The row at
    /// [`absorbed_row`](crate::codec::keys::absorbed_row) of its own space says so until its log is gone.
    TookIn {
        /// The shard that is no more.
        source: ShardId,
        /// Its own space.
        space: Space,
    },
    /// The neighbour does not go into this shard.
    Cancelled,
    /// This shard goes on by itself.
    Thawed,
    /// The merge that was cancelled is over.
    Ended,
}

impl Effects {
    /// Of an entry with so many requests, before any of them is applied.
    pub(super) fn of(requests: usize, wanted: Wanted) -> Self {
        let results = match wanted {
            Wanted::Results => Vec::with_capacity(requests),
            Wanted::Nothing => Vec::new(),
        };
        Self { results, ..Self::default() }
    }
}
