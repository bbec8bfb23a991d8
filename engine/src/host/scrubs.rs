//! What a worker is told of replicas that are compared, and what it wants read and told for that.
//!
//! Owns: inputs about scrubs, and the host's part for them. Must never: compare.

use crate::scrub::{ScrubError, ScrubRequest, Scrubbed};
use crate::state::ViewJob;
use synod_cluster::ids::{NodeId, ShardId, Slot};

/// What a replica holds at a marker.
pub enum ScrubInput {
    /// What [`ScrubHost::build_scrub`] was asked for has been read.
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

/// What a worker wants done for scrubs. A host that does none of it keeps the defaults.
pub trait ScrubHost {
    /// What reads a replica once it is handed the rows, and then tells [`ScrubInput::Scrubbed`]. `None` where this host does not.
    fn build_scrub(&mut self, request: ScrubRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member what this replica holds at a slot; where that is lost, that member compares without it.
    fn tell_scrub(&mut self, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        let _ = (to, shard, slot, hash);
    }
}
