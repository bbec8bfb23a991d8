//! What an operator asks of a shard's replica here.
//!
//! Owns: orders, each with who is told whether it was taken. Must never: decide whether it is.

use super::reports::Division;
use bytes::Bytes;
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Epoch;

/// Who waits for what becomes of an order.
pub(crate) type Told = Box<dyn FnOnce(Result<(), Refusal>) + Send>;
/// Who waits for where a shard could be divided.
pub(crate) type Divided = Box<dyn FnOnce(Result<Division, Refusal>) + Send>;

/// A split that the leader is to propose. It counts only in this version of the bounds and this epoch of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitWanted {
    /// The version of the shard's bounds that it was computed from.
    pub version: u64,
    /// The epoch of its members that it was computed from.
    pub epoch: Epoch,
    /// The new shard: an id that is reserved for it.
    pub child: ShardId,
    /// The new shard's first position.
    pub at: Bytes,
}

/// A merge that the leader of the shard that stays is to begin. It counts only in these versions and epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeWanted {
    /// The version of the shard's bounds that it was computed from.
    pub version: u64,
    /// The epoch of its members that it was computed from.
    pub epoch: Epoch,
    /// The neighbour that goes into it.
    pub source: ShardId,
    /// The version of the neighbour's bounds.
    pub source_version: u64,
    /// The epoch of the neighbour's members.
    pub source_epoch: Epoch,
}

/// An order about one shard.
pub enum AdminInput {
    /// Move a leadership.
    Transfer {
        /// The shard.
        shard: ShardId,
        /// The new leader.
        to: NodeId,
        /// Told `Ok` once the transfer has begun.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Change a group's members; answered once the change was proposed, or why not.
    ChangeMembers {
        /// The shard.
        shard: ShardId,
        /// The epoch whose members it was computed from; it is refused in any other.
        expected: Epoch,
        /// What is wanted.
        change: MemberChange,
        /// Told `Ok` where the change is proposed, or in force already.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Split a shard; only its leader can propose that.
    Split {
        /// The shard.
        shard: ShardId,
        /// What is wanted.
        split: SplitWanted,
        /// Told `Ok` once the split is applied here and the new shard has begun here. A leadership that is lost meanwhile makes it
        /// unknown: [`Refusal::NotLeader`] with `maybe: true`.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Begin to merge a neighbour into a shard; only the leader of both can propose that.
    Merge {
        /// The shard that stays.
        shard: ShardId,
        /// What is wanted.
        merge: MergeWanted,
        /// Told `Ok` once the beginning is applied here; as for a split where the leadership is lost meanwhile. The leader goes on by
        /// itself.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Take back a merge that was begun; only the leader of the shard that stays can propose that.
    CancelMerge {
        /// The shard that stays.
        shard: ShardId,
        /// The neighbour that was to go into it.
        source: ShardId,
        /// Told `Ok` once that is applied here, or nothing is to be taken back.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Make a snapshot of the applied state of a shard on this node.
    MakeSnapshot {
        /// The shard.
        shard: ShardId,
        /// Told once the host has the file.
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    },
    /// Compare the replicas of a shard now; only its leader can begin that.
    Scrub {
        /// The shard.
        shard: ShardId,
        /// Told `Ok` with the slot at which they will be compared.
        done: Box<dyn FnOnce(Result<Slot, Refusal>) + Send>,
    },
    /// Find where a shard could be divided; only its leader looks for that. Nothing is changed, but the state is frozen for it.
    Divide {
        /// The shard.
        shard: ShardId,
        /// Told on the thread that has looked; dropped untold where none can.
        done: Box<dyn FnOnce(Result<Division, Refusal>) + Send>,
    },
}

impl AdminInput {
    /// The shard that it is about.
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Transfer { shard, .. }
            | Self::ChangeMembers { shard, .. }
            | Self::Split { shard, .. }
            | Self::Merge { shard, .. }
            | Self::CancelMerge { shard, .. }
            | Self::MakeSnapshot { shard, .. }
            | Self::Scrub { shard, .. }
            | Self::Divide { shard, .. } => *shard,
        }
    }
}
