//! What a worker is told of snapshots.
//!
//! Owns: inputs about snapshots of shards, and which files there are of them. Must never: know how a file is made or sent.

use crate::snapshot::Header;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space};

/// Which of a shard's snapshot files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// The one made here, for others.
    Built,
    /// The one received, for this replica.
    Fetched,
}

/// Something that happened to a shard's snapshots.
pub enum SnapshotInput {
    /// A member whose state is gone asks for a snapshot at or above the slot its log begins behind.
    Asked {
        /// The member.
        by: NodeId,
        /// The shard.
        shard: ShardId,
        /// Of no use below this.
        least: Slot,
    },
    /// A snapshot that [`Host::build_snapshot`](super::Host::build_snapshot) was asked for is on disk, or why not.
    Built {
        /// The shard.
        shard: ShardId,
        /// How it went.
        result: Result<(), String>,
    },
    /// The file of a snapshot made here was found damaged, or cannot be read.
    Spoilt {
        /// The shard.
        shard: ShardId,
    },
    /// A snapshot was received from a peer and verified; the host keeps its file.
    Fetched(Box<Header>),
    /// What [`Host::load_snapshot`](super::Host::load_snapshot) was asked for is done, or why the file is no good.
    Loaded {
        /// The shard.
        shard: ShardId,
        /// Where the rows are.
        space: Space,
        /// How it went.
        result: Result<(), String>,
    },
}

impl SnapshotInput {
    /// The shard that it is about.
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Asked { shard, .. }
            | Self::Built { shard, .. }
            | Self::Spoilt { shard }
            | Self::Loaded { shard, .. } => *shard,
            Self::Fetched(header) => header.shard,
        }
    }
}
