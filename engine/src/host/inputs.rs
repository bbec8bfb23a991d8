//! What a worker is told.
//!
//! Owns: inputs, and what each of them takes while it waits. Must never: act on one.

use super::reports::NodeReport;
use super::requests::Request;
use crate::codec::message::size_hint;
use crate::scrub::{ScrubError, Scrubbed};
use crate::snapshot::Header;
use crate::wall::Reading;
use std::sync::Arc;
use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::SystemState;
use synod_paxos::message::Message;
use synod_paxos::types::ConfigId;

/// One thing that happened to the node, for its worker.
pub enum Input {
    /// Requests of clients; each is answered exactly once through its [`Reply`](super::Reply).
    Requests(Vec<Request>),
    /// Consensus messages of a peer, in the order it sent them.
    Peer {
        /// The sender.
        from: NodeId,
        /// Its process.
        incarnation: Incarnation,
        /// Its last durable write when it sent them.
        write_seq: NodeWriteSeq,
        /// The messages.
        messages: Vec<(ShardId, Message)>,
    },
    /// The failure detector changed its mind. `alive: true` is repeated after each reconnection or new incarnation.
    Liveness {
        /// The peer.
        node: NodeId,
        /// Whether it is heard.
        alive: bool,
    },
    /// A peer told the greatest (incarnation, write seq) it has seen of this node.
    IdentityAnswer {
        /// The peer.
        from: NodeId,
        /// Of this node, before this process began.
        seen: (Incarnation, NodeWriteSeq),
    },
    /// A peer knows another process of this node, which rules this one out.
    RunsTwice {
        /// The peer.
        from: NodeId,
        /// The greatest it has seen of this node.
        seen: (Incarnation, NodeWriteSeq),
        /// What it knows, in words.
        why: Arc<str>,
    },
    /// The disk has less room left than its low mark, with the words for refusals, or has enough again. While it is low
    /// this node hands its leaderships over where a member with room can lead, and takes no writes but those that free
    /// room; consensus goes on.
    DiskLow(Option<Arc<str>>),
    /// The disk is low, and so many bytes may still be taken of it, for a while, before the node must end.
    DiskSpare(u64),
    /// A peer said whether its disk is low.
    PeerDisk {
        /// The peer.
        node: NodeId,
        /// Whether it is.
        low: bool,
    },
    /// What a peer's wall clock showed when its pulse came.
    PeerClock {
        /// The peer.
        node: NodeId,
        /// Its clock.
        reading: Reading,
    },
    /// A newer map, from the system shard here or elsewhere.
    Map(Arc<SystemState>),
    /// A write handed to the log-writer thread is synced (threaded mode only).
    Written(u64),
    /// Create the system shard of a new cluster on this node.
    CreateSystemShard(Box<SystemState>),
    /// Hand over every leadership; answered by [`Host::drained`](super::Host::drained).
    Drain,
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
        expected: ConfigId,
        /// What is wanted.
        change: MemberChange,
        /// Told `Ok` where the change is proposed, or in force already.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Report every replica.
    Status(Box<dyn FnOnce(NodeReport) + Send>),
    /// Make a snapshot of the applied state of a shard on this node.
    MakeSnapshot {
        /// The shard.
        shard: ShardId,
        /// Told once the host has the file.
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    },
    /// A member whose state is gone asks for a snapshot at or above the slot its log begins behind.
    SnapshotAsked {
        /// The member.
        by: NodeId,
        /// The shard.
        shard: ShardId,
        /// Of no use below this.
        least: Slot,
    },
    /// A snapshot that [`Host::build_snapshot`](super::Host::build_snapshot) was asked for is on disk, or why not.
    SnapshotBuilt {
        /// The shard.
        shard: ShardId,
        /// How it went.
        result: Result<(), String>,
    },
    /// The file of a snapshot made here was found damaged, or cannot be read.
    SnapshotSpoilt {
        /// The shard.
        shard: ShardId,
    },
    /// A snapshot was received from a peer and verified; the host keeps its file.
    SnapshotFetched(Box<Header>),
    /// What [`Host::load_snapshot`](super::Host::load_snapshot) was asked for is done, or why the file is no good.
    SnapshotLoaded {
        /// The shard.
        shard: ShardId,
        /// Where the rows are.
        space: Space,
        /// How it went.
        result: Result<(), String>,
    },
    /// Compare the replicas of a shard now; only its leader can begin that.
    Scrub {
        /// The shard.
        shard: ShardId,
        /// Told `Ok` with the slot at which they will be compared.
        done: Box<dyn FnOnce(Result<Slot, Refusal>) + Send>,
    },
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
    ScrubTold {
        /// The member.
        from: NodeId,
        /// The shard.
        shard: ShardId,
        /// The marker's slot.
        slot: Slot,
        /// Of all its rows.
        hash: u128,
    },
    /// What [`Host::fetch_rows`](super::Host::fetch_rows) was asked for is in memory, or could not be read.
    RowsFetched {
        /// The shard.
        shard: ShardId,
        /// The fetch.
        ticket: u64,
    },
    /// Flush the state and stop; the worker returns from its loop.
    Stop,
}

impl Input {
    /// What it takes while it waits, bytes: its messages or requests, and what holds them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let more = match self {
            Self::Requests(requests) => requests.iter().map(Request::bytes).sum(),
            Self::Peer { messages, .. } => {
                messages.iter().map(|(_, message)| size_of::<(ShardId, Message)>() + size_hint(message)).sum()
            }
            _ => 0,
        };
        size_of::<Self>() + more
    }
}
