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
            | Self::MakeSnapshot { shard, .. }
            | Self::Scrub { shard, .. }
            | Self::Divide { shard, .. } => *shard,
        }
    }
}
