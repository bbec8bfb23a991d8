//! What a leader knows of one member.
//!
//! Owns: the windows of messages in flight. Must never: take a slot for acknowledged that the member did not name.

use crate::types::{EntryId, Micros, Slot};
use std::collections::VecDeque;

/// How a member is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Unknown: one empty `Accept` asks where it stands.
    Probe,
    /// A `Sync` is on its way; nothing else is sent until it has switched.
    Sync {
        /// It says that it has staged, or holds, the log up to here.
        acked: Slot,
        /// Where the `Sync` ends.
        end: EntryId,
    },
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
    /// When it last moved forward, or was last asked for its position.
    pub(crate) moved_at: Micros,
    /// How often it was asked since it last moved forward.
    pub(crate) asked: u32,
    /// When it last said anything in this leadership.
    pub(crate) heard_at: Micros,
    /// What it lacks was sent from here on; further complaints about the same are echoes, until it is asked again.
    pub(crate) rewound: Option<Slot>,
    /// A message to it was dropped: nothing more is sent until it tells its position.
    pub(crate) stopped: bool,
    /// It said that it cannot lead: it is not asked again until then.
    pub(crate) unfit_until: Option<Micros>,
}

/// How many times the pause between two position requests to a member may double.
const DOUBLINGS: u32 = 4;

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
            asked: 0,
            heard_at: now,
            rewound: None,
            stopped: false,
            unfit_until: None,
        }
    }

    /// When to send the next position request, unless the member makes progress first. A slow link may still carry earlier
    /// messages, so the pause doubles with each request.
    pub(crate) fn ask_at(&self, pause: u64) -> Micros {
        self.moved_at.plus(pause << self.asked.min(DOUBLINGS))
    }

    /// It moved forward.
    pub(crate) fn moved(&mut self, now: Micros) {
        self.moved_at = now;
        self.asked = 0;
        self.rewound = None;
    }

    /// What was sent up to `upto` has arrived.
    pub(crate) fn arrived(&mut self, upto: Slot) {
        while self.inflight.front().is_some_and(|(last, _)| *last <= upto) {
            let (_, bytes) = self.inflight.pop_front().expect("the front was just seen");
            self.inflight_bytes -= bytes;
        }
        if upto.next() >= self.next {
            self.stopped = false;
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
        self.arrived(upto);
        if upto > self.matched || commit > self.commit || self.mode != Mode::Pipeline {
            self.moved(now);
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
        self.stopped = false;
    }

    /// Back to asking where it stands.
    pub(crate) fn probe(&mut self, now: Micros) {
        self.mode = Mode::Probe;
        self.moved(now);
        let next = self.matched.next();
        self.rewind(next);
    }
}
