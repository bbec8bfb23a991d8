//! What a worker is told of its own node, and what it tells the process around it.
//!
//! Owns: inputs that concern the node as a whole, and the host's part for them. Must never: know how the node learns of them.

use super::reports::NodeReport;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::system::{ShardNews, SystemState};
use synod_paxos::types::Membership;

/// Something that happened to the node, or is asked of all of it.
pub enum NodeInput {
    /// A newer map, from the system shard here or elsewhere.
    Map(Arc<SystemState>),
    /// Create the system shard of a new cluster on this node.
    CreateSystemShard(Box<SystemState>),
    /// The disk has less room left than its low mark, with the words for refusals, or has enough again. While it is low
    /// this node hands its leaderships over where a member with room can lead, and takes no writes but those that free
    /// room; consensus goes on.
    DiskLow(Option<Arc<str>>),
    /// The disk is low, and so many bytes may still be taken of it, for a while, before the node must end.
    DiskSpare(u64),
    /// A write handed to the log-writer thread is synced (threaded mode only).
    Written(u64),
    /// Report every replica.
    Status(Box<dyn FnOnce(NodeReport) + Send>),
    /// Hand over every leadership; answered by [`ProcessHost::drained`].
    Drain,
    /// Flush the state and stop; the worker returns from its loop.
    Stop,
}

impl NodeInput {
    /// The shard that it is about; `None` where it concerns all workers.
    pub(super) fn shard(&self) -> Option<ShardId> {
        match self {
            Self::CreateSystemShard(_) => Some(SYSTEM_SHARD),
            Self::Map(_)
            | Self::DiskLow(_)
            | Self::DiskSpare(_)
            | Self::Written(_)
            | Self::Status(_)
            | Self::Drain
            | Self::Stop => None,
        }
    }

    /// The same for another worker. A status is asked of each worker in words of its own.
    pub(super) fn copy(&self) -> Option<Self> {
        Some(match self {
            Self::CreateSystemShard(_) | Self::Status(_) => return None,
            Self::Map(map) => Self::Map(Arc::clone(map)),
            Self::DiskLow(why) => Self::DiskLow(why.clone()),
            Self::DiskSpare(bytes) => Self::DiskSpare(*bytes),
            Self::Written(seq) => Self::Written(*seq),
            Self::Drain => Self::Drain,
            Self::Stop => Self::Stop,
        })
    }
}

/// What a worker tells the process around it, and asks of it.
pub trait ProcessHost {
    /// The system shard here applied a change.
    fn map_changed(&mut self, map: Arc<SystemState>);
    /// This replica of a shard knows another leader, or none; `here` is whether it leads itself. For metrics and hints.
    fn role_changed(&mut self, shard: ShardId, leader: Option<NodeId>, here: bool);
    /// A group led here has entered an epoch of which an entry is chosen, and the map does not know it yet: the system
    /// shard is to be told. Said again until the map knows.
    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        let _ = (shard, membership);
    }
    /// A replica here has applied bounds of its shard, or children of it, that the map does not know: the system shard is to be told.
    /// Said again until the map knows.
    fn bounds_changed(&mut self, news: ShardNews) {
        let _ = news;
    }
    /// Every leadership was handed over, or could not be.
    fn drained(&mut self);
    /// An invariant of a shard or a store was violated, or a store failed; the host ends the process with this line.
    fn fatal(&mut self, why: String) -> !;
    /// This node must no longer vote; it stays up to say why.
    fn quarantined(&mut self, why: &str);
    /// A random word.
    fn random(&mut self) -> u64;
}
