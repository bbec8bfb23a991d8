//! What a worker hears of other nodes.
//!
//! Owns: inputs from peers and about them. Must never: know how they arrive.

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
