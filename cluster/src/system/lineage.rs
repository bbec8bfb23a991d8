//! What the map is told of the lineage of shards.
//!
//! Owns: reservations, children and reports of bounds, as values. Must never: decide what a report changes; `splits` does.

use crate::ids::ShardId;
use bytes::Bytes;
use synod_paxos::types::Membership;

/// For which split an id is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The shard that is to be split.
    pub parent: ShardId,
    /// Its version when the id was asked for last.
    pub version: u64,
}

/// A shard that a split made, as its parent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The child.
    pub shard: ShardId,
    /// Its lower bound, inclusive.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// The version that the split made.
    pub version: u64,
    /// The members that it began with.
    pub membership: Membership,
}

/// What a replica has applied of its shard's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardNews {
    /// The shard.
    pub shard: ShardId,
    /// Its lower bound, inclusive.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Of these bounds.
    pub version: u64,
    /// The children of its splits that the map may not know yet.
    pub children: Vec<Child>,
    /// The shards that went into it and that the map may still have.
    pub absorbed: Vec<ShardId>,
}
