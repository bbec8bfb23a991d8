//! What a worker is told of replicas that are compared.
//!
//! Owns: inputs about scrubs. Must never: compare.

use crate::scrub::{ScrubError, Scrubbed};
use synod_cluster::ids::{NodeId, ShardId, Slot};

/// What a replica holds at a marker.
pub enum ScrubInput {
    /// What [`Host::build_scrub`](super::Host::build_scrub) was asked for has been read.
    Scrubbed {
        /// The shard.
        shard: ShardId,
        /// The marker's slot.
        slot: Slot,
        /// What it holds.
        result: Result<Scrubbed, ScrubError>,
    },
    /// A member tells what it holds at a slot.
    Told {
        /// The member.
        from: NodeId,
        /// The shard.
        shard: ShardId,
        /// The marker's slot.
        slot: Slot,
        /// Of all its rows.
        hash: u128,
    },
}

impl ScrubInput {
    /// The shard that it is about.
    pub(super) fn shard(&self) -> ShardId {
        let (Self::Scrubbed { shard, .. } | Self::Told { shard, .. }) = self;
        *shard
    }
}
