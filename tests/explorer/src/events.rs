//! The agenda of a schedule: what will happen, in order of virtual time.
//!
//! Owns: the pending events and their order. Must never: carry one out.

use std::collections::BTreeMap;
use synod_paxos::message::Message;
use synod_paxos::types::{NodeId, ReadId, WriteSeq};

/// Something that will happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message arrives.
    Deliver {
        /// Its sender.
        from: NodeId,
        /// Its receiver.
        to: NodeId,
        /// What it says.
        message: Message,
    },
    /// A node's disk finishes a sync.
    Sync {
        /// The node.
        node: NodeId,
        /// Its incarnation when the sync began.
        boot: u64,
    },
    /// The core is told of a sync.
    Persisted {
        /// The node.
        node: NodeId,
        /// The incarnation that wrote.
        boot: u64,
        /// The last write covered.
        seq: WriteSeq,
    },
    /// A deadline passed.
    Tick {
        /// The node.
        node: NodeId,
        /// The incarnation that asked.
        boot: u64,
    },
    /// The state machine applies some of what is committed.
    Apply {
        /// The node.
        node: NodeId,
        /// The incarnation that asked.
        boot: u64,
    },
    /// The failure detector of `at` looks at `of`.
    Liveness {
        /// Who looks.
        at: NodeId,
        /// At whom.
        of: NodeId,
        /// Whether an unchanged "alive" is reported too, as after a reconnection.
        reconnected: bool,
    },
    /// A client's read arrived at a node, and is taken now.
    Ask {
        /// The node.
        node: NodeId,
        /// The incarnation that it came to.
        boot: u64,
        /// The read.
        read: ReadId,
        /// When it came, µs.
        came: u64,
    },
    /// An attack on a lease goes on.
    Strike(Strike),
    /// Directions heal.
    Heal(Vec<(NodeId, NodeId)>),
    /// A process starts.
    Start(NodeId),
    /// A snapshot that `from` offered is installed.
    Install {
        /// The node whose state is copied.
        from: NodeId,
        /// The node that installs it.
        to: NodeId,
    },
    /// The way to a peer had no room for a message.
    Dropped {
        /// The sender.
        node: NodeId,
        /// The incarnation that sent.
        boot: u64,
        /// The peer.
        to: NodeId,
    },
    /// A client or a fault acts.
    Act,
    /// After the faults: the client tries to write.
    Probe,
}

/// The next step of an attack that is under way.
#[derive(Clone, Debug)]
pub enum Strike {
    /// Nobody hears `of` any more, as their failure detectors say.
    Unheard {
        /// Who is given up.
        of: NodeId,
    },
    /// `from` hands its leadership to `to`, and then hears nobody.
    Handover {
        /// The leader.
        from: NodeId,
        /// The next.
        to: NodeId,
    },
    /// Everybody but this node restarts.
    BounceOthers(NodeId),
}

/// Events in order of time, first come first served within an instant.
#[derive(Default)]
pub struct Agenda {
    events: BTreeMap<(u64, u64), Event>,
    next: u64,
}

impl Agenda {
    /// Adds an event.
    pub fn add(&mut self, at: u64, event: Event) {
        self.events.insert((at, self.next), event);
        self.next += 1;
    }

    /// Takes the next event and its time.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }

    /// Drops the events for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Event) -> bool) {
        self.events.retain(|_, event| keep(event));
    }
}
