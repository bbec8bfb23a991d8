//! Identifiers and counters of one node's storage.
//!
//! Owns: the newtypes. Must never: be bypassed by a bare integer where an id or a counter is meant.

use std::fmt;

pub use synod_paxos::types::{Ballot, Entry, EntryId, Epoch, HardState, NodeId, Run, Slot};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A shard, and the Paxos group that replicates it. Never reused; the system shard is 1.
    ShardId(u64)
);
id!(
    /// A table. Never reused; 0 belongs to the system shard.
    TableId(u32)
);
id!(
    /// A node-local region of the state store. A shard's records lie in one or more spaces.
    Space(u32)
);
id!(
    /// The position of a record in its key's log: 0, 1, 2, … without gaps.
    Offset(u64)
);
id!(
    /// A client's own 128-bit random name.
    ClientId(u128)
);
id!(
    /// A client's own number for a write; with the client id it names the write for ever.
    ClientSeq(u64)
);
id!(
    /// The order of a node's synced log writes, across all its groups; it never repeats in the life of a data directory.
    NodeWriteSeq(u64)
);
id!(
    /// One start of a node's process.
    Incarnation(u64)
);
id!(
    /// What a process drew at random when it started: it tells apart two processes that bear one incarnation, as those of a
    /// copied data directory do. 0 is silence, of a process that says none.
    Nonce(u64)
);
id!(
    /// A job of the cluster. Given one by one from 1, never reused.
    JobId(u64)
);

/// What all nodes of a cluster understand of each other: entries, messages, commands and rows. A node speaks every version
/// from [`Self::FIRST`] to [`Self::SPOKEN`]; the cluster is at one of them, which only ever rises.
///
/// Nothing that an older version does not understand, or would apply differently, is proposed, sent or written before the
/// cluster is at the version that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion(pub u32);

impl ClusterVersion {
    /// The version of every cluster and node that names none.
    pub const FIRST: Self = Self(1);
    /// The second version: the cluster's version itself is stored and changed.
    pub const SECOND: Self = Self(2);
    /// The third version: the system shard keeps jobs.
    pub const THIRD: Self = Self(3);
    /// The fourth version: shards are split.
    pub const FOURTH: Self = Self(4);
    /// The fifth version: shards are merged, and the replicas of a table change.
    pub const FIFTH: Self = Self(5);
    /// The greatest version that this binary speaks.
    pub const SPOKEN: Self = Self::FOURTH;

    /// The version that a message names; 0 is silence, and silence is the first.
    #[must_use]
    pub fn said(version: u32) -> Self {
        Self(version.max(Self::FIRST.0))
    }
}

impl Default for ClusterVersion {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The system shard: nodes, tables, shard descriptors, id allocation.
pub const SYSTEM_SHARD: ShardId = ShardId(1);
