//! What a worker is told of snapshots, and what it wants done with them.
//!
//! Owns: inputs about snapshots of shards, which files there are of them, and the host's part for them. Must never: know how a
//! file is made or sent.

use crate::snapshot::{Header, SnapshotRequest};
use crate::state::{BulkLoad, ViewJob};
use std::sync::Arc;
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
    /// A member whose state is gone asks for a snapshot at or above the slot after which its log begins.
    Asked {
        /// The member.
        by: NodeId,
        /// The shard.
        shard: ShardId,
        /// Of no use below this.
        least: Slot,
    },
    /// A snapshot that [`SnapshotHost::build_snapshot`] was asked for is on disk, or why not.
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
    /// What [`SnapshotHost::load_snapshot`] was asked for is done, or why the file is no good.
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

/// What a worker wants done with snapshots. A host that does none of it keeps the defaults.
pub trait SnapshotHost {
    /// What writes a snapshot into a file once it is handed the rows, and then tells [`SnapshotInput::Built`]. `None` where
    /// this host makes none: members that are behind the log then stay there.
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member that the snapshot made of this shard is there for it.
    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        let _ = (to, shard);
    }

    /// Asks a member for a snapshot at or above `least`: the state here is gone. It comes as an offer, or not at all.
    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        let _ = (to, shard, least);
    }

    /// Loads the snapshot received of this shard into a space, on another thread; then tells [`SnapshotInput::Loaded`].
    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        let _ = (shard, space, loader);
    }

    /// A snapshot's file is no longer needed.
    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        let _ = (shard, kind);
    }
}
