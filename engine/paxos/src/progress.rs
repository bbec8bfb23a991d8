//! What a leader knows of one member.
//!
//! Owns: the windows of messages in flight. Must never: take a slot for acknowledged that the member did not name.

use crate::types::{Micros, Slot};
use std::collections::VecDeque;

/// How a member is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Unknown: one empty `Accept` asks where it stands.
    Probe,
    /// A `Sync` is on its way; nothing else is sent until it is acknowledged.
    Sync,
    /// Chosen entries up to this slot are on their way: the next message follows once they have arrived.
    Learn(Slot),
    /// It accepts this ballot: runs are pipelined.
    Pipeline,
}

/// One member's progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    pub(crate) mode: Mode,
    /// Acknowledged under this ballot.
    pub(crate) matched: Slot,
    /// Next slot to send.
    pub(crate) next: Slot,
    /// Last slot and bytes of each message in flight.
    pub(crate) inflight: VecDeque<(Slot, usize)>,
    pub(crate) inflight_bytes: usize,
    /// Its chosen prefix, as it said.
    pub(crate) commit: Slot,
    /// The chosen prefix last sent to it.
    pub(crate) told: Slot,
    /// When it last moved forward, or was last sent something again.
    pub(crate) moved_at: Micros,
    /// A gap was answered by sending from here again; further complaints about the same gap are echoes.
    pub(crate) rewound: Option<Slot>,
}

impl Progress {
    pub(crate) fn new(now: Micros) -> Self {
        Self {
            mode: Mode::Probe,
            matched: Slot(0),
            next: Slot(1),
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit: Slot(0),
            told: Slot(0),
            moved_at: now,
            rewound: None,
        }
    }

    /// A message up to `last` left.
    pub(crate) fn sent(&mut self, last: Slot, bytes: usize) {
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
        self.next = last.next();
    }

    /// Everything up to `upto` is acknowledged.
    pub(crate) fn acknowledged(&mut self, upto: Slot, commit: Slot, now: Micros) {
        while self.inflight.front().is_some_and(|(last, _)| *last <= upto) {
            let (_, bytes) = self.inflight.pop_front().expect("the front was just seen");
            self.inflight_bytes -= bytes;
        }
        if upto > self.matched || commit > self.commit || self.mode != Mode::Pipeline {
            self.moved_at = now;
            self.rewound = None;
        }
        self.matched = self.matched.max(upto);
        self.commit = self.commit.max(commit);
        self.next = self.next.max(self.matched.next());
        self.mode = Mode::Pipeline;
    }

    /// Sends from `next` again: nothing in flight is counted on.
    pub(crate) fn rewind(&mut self, next: Slot) {
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.next = next;
    }

    /// Back to asking where it stands.
    pub(crate) fn probe(&mut self, now: Micros) {
        self.mode = Mode::Probe;
        self.rewound = None;
        self.moved_at = now;
        let next = self.matched.next();
        self.rewind(next);
    }
}
