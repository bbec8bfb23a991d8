//! What a worker is told.
//!
//! Owns: inputs by subject, and what each of them takes while it waits. Must never: act on one.

use super::admin::AdminInput;
use super::hand_over::HandOverInput;
use super::merges::MergeInput;
use super::node::NodeInput;
use super::peers::PeerInput;
use super::reads::RowsFetched;
use super::requests::Request;
use super::scrubs::ScrubInput;
use super::snapshots::SnapshotInput;
use synod_cluster::ids::ShardId;

/// One thing that happened to the node, for its worker.
pub enum Input {
    /// Requests of clients; each is answered exactly once through its [`Reply`](super::Reply).
    Requests(Vec<Request>),
    /// From a peer, or about one.
    Peer(PeerInput),
    /// What concerns the node as a whole.
    Node(NodeInput),
    /// What happened to snapshots.
    Snapshot(SnapshotInput),
    /// What replicas hold, for their comparison.
    Scrub(ScrubInput),
    /// An operator's order about one shard.
    Admin(AdminInput),
    /// What happens on the way of a merge.
    Merge(MergeInput),
    /// Rows that a read, a tail or the next entry waits for are in memory.
    Rows(RowsFetched),
    /// About a shard that goes from one worker of the node to another.
    HandOver(HandOverInput),
}

impl Input {
    /// What it takes while it waits, bytes: its messages or requests, or what is posted, and what holds them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let more = match self {
            Self::Requests(requests) => requests.iter().map(Request::bytes).sum(),
            Self::Peer(input) => input.message_bytes(),
            Self::HandOver(input) => input.parcel_bytes(),
            Self::Node(_) | Self::Snapshot(_) | Self::Scrub(_) | Self::Admin(_) | Self::Merge(_) | Self::Rows(_) => 0,
        };
        size_of::<Self>() + more
    }

    /// The one shard that it is about. `None` where it concerns the node, is for one worker, or has parts that name their own shards.
    #[must_use]
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Requests(_) | Self::Peer(_) => None,
            Self::Node(input) => input.shard(),
            Self::Snapshot(input) => Some(input.shard()),
            Self::Scrub(input) => Some(input.shard()),
            Self::Admin(input) => Some(input.shard()),
            Self::Merge(input) => Some(input.shard()),
            Self::Rows(input) => Some(input.shard),
            Self::HandOver(input) => input.shard(),
        }
    }

    /// The same for another worker. `None` where it does not concern all of them.
    pub(crate) fn copy(&self) -> Option<Self> {
        match self {
            Self::Peer(input) => input.copy().map(Self::Peer),
            Self::Node(input) => input.copy().map(Self::Node),
            Self::Requests(_)
            | Self::Snapshot(_)
            | Self::Scrub(_)
            | Self::Admin(_)
            | Self::Merge(_)
            | Self::Rows(_)
            | Self::HandOver(_) => None,
        }
    }
}

impl From<PeerInput> for Input {
    fn from(input: PeerInput) -> Self {
        Self::Peer(input)
    }
}

impl From<NodeInput> for Input {
    fn from(input: NodeInput) -> Self {
        Self::Node(input)
    }
}

impl From<SnapshotInput> for Input {
    fn from(input: SnapshotInput) -> Self {
        Self::Snapshot(input)
    }
}

impl From<ScrubInput> for Input {
    fn from(input: ScrubInput) -> Self {
        Self::Scrub(input)
    }
}

impl From<AdminInput> for Input {
    fn from(input: AdminInput) -> Self {
        Self::Admin(input)
    }
}

impl From<MergeInput> for Input {
    fn from(input: MergeInput) -> Self {
        Self::Merge(input)
    }
}

impl From<RowsFetched> for Input {
    fn from(input: RowsFetched) -> Self {
        Self::Rows(input)
    }
}

impl From<HandOverInput> for Input {
    fn from(input: HandOverInput) -> Self {
        Self::HandOver(input)
    }
}
