//! What a worker is told of shards that go from one worker of the node to another.
//!
//! Owns: the order to hand a shard over, and what workers post to one another for it. Must never: know what is in a parcel.

use crate::worker_id::WorkerId;
use std::any::Any;
use synod_cluster::ids::ShardId;

/// Something about a shard that is to go to another worker, or is on its way.
pub enum HandOverInput {
    /// Hand a shard to another worker of the node. Nothing comes of it where the shard cannot go now, or another one is on its way.
    Begin {
        /// The shard.
        shard: ShardId,
        /// Who is to have it.
        to: WorkerId,
    },
    /// What one worker of the node posts to another, or to itself. Only workers make and read it.
    Parcel {
        /// What is posted.
        parcel: Box<dyn Any + Send>,
        /// What it takes while it waits, bytes.
        bytes: usize,
    },
}

impl HandOverInput {
    /// The shard that it is about; `None` where it is for one worker, whatever shards that has.
    pub(super) fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Begin { shard, .. } => Some(*shard),
            Self::Parcel { .. } => None,
        }
    }

    /// What is posted takes so much while it waits, bytes.
    pub(super) fn parcel_bytes(&self) -> usize {
        match self {
            Self::Begin { .. } => 0,
            Self::Parcel { bytes, .. } => *bytes,
        }
    }
}
