//! What a worker hears of other nodes and says to them.
//!
//! Owns: inputs from peers and about them, and the host's links to them. Must never: know how messages travel.

use crate::codec::message::size_hint;
use crate::wall::Reading;
use std::sync::Arc;
use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq, ShardId};
use synod_paxos::message::Message;

/// Something that a peer said, or that is known of one.
pub enum PeerInput {
    /// Consensus messages, in the order the peer sent them.
    Messages {
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
    /// What a peer's wall clock showed when its pulse came.
    Clock {
        /// The peer.
        node: NodeId,
        /// Its clock.
        reading: Reading,
    },
    /// A peer said whether its disk is low.
    Disk {
        /// The peer.
        node: NodeId,
        /// Whether it is.
        low: bool,
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
}

impl PeerInput {
    /// What its messages take while they wait, bytes.
    pub(super) fn message_bytes(&self) -> usize {
        let Self::Messages { messages, .. } = self else { return 0 };
        messages.iter().map(|(_, message)| size_of::<(ShardId, Message)>() + size_hint(message)).sum()
    }

    /// The same for another worker. Messages are for the workers of their shards only.
    pub(super) fn copy(&self) -> Option<Self> {
        Some(match self {
            Self::Messages { .. } => return None,
            Self::Liveness { node, alive } => Self::Liveness { node: *node, alive: *alive },
            Self::Clock { node, reading } => Self::Clock { node: *node, reading: *reading },
            Self::Disk { node, low } => Self::Disk { node: *node, low: *low },
            Self::IdentityAnswer { from, seen } => Self::IdentityAnswer { from: *from, seen: *seen },
            Self::RunsTwice { from, seen, why } => Self::RunsTwice { from: *from, seen: *seen, why: Arc::clone(why) },
        })
    }
}

/// A worker's links to other nodes.
pub trait Links {
    /// Queues a message; it leaves with the next `flush`. A full queue drops it: the protocol sends again.
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message);
    /// The peers and shards whose messages found no room in `send` or `flush` since this was last asked; each pair once. Messages
    /// that found no open link are not among them: when a link opens, that is told as liveness.
    fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        Vec::new()
    }
    /// Sends what is queued, stamped with the node's last durable write.
    fn flush(&mut self, durable: NodeWriteSeq);
}
