//! What a replica that stands for election knows.
//!
//! Owns: the promises, and what was fetched of the log to adopt. Must never: decide on a message; `candidate` does.

use crate::message::Held;
use crate::types::{Ballot, Entry, EntryId, Micros, NodeId, Run, Slot, WriteSeq};
use std::collections::{BTreeMap, BTreeSet};

/// What a promise told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Promised {
    pub(crate) accepted: Ballot,
    pub(crate) commit: Slot,
    pub(crate) last: EntryId,
    pub(crate) runs: Vec<Run>,
}

impl Promised {
    /// The first slot that the headers cover, or would: those before are chosen or trimmed there.
    pub(crate) fn first_header(&self) -> Slot {
        self.runs.first().map_or(self.last.slot.next(), |run| run.first)
    }

    /// Origin of a slot that the headers cover.
    pub(crate) fn origin_at(&self, slot: Slot) -> Option<Ballot> {
        if slot > self.last.slot {
            return None;
        }
        self.runs.iter().rev().find(|run| run.first <= slot).map(|run| run.origin)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Asks whether a campaign could succeed.
    PreVote { granted: BTreeSet<NodeId> },
    /// Phase 1: its own promise counts once `own` is durable.
    Prepare { own: WriteSeq, promises: BTreeMap<NodeId, Promised> },
    /// A quorum has promised; bodies of the adopted log are still on their way from `source`.
    Fetch(Box<Fetching>),
}

/// What a candidate fetches of the log to adopt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fetching {
    pub(crate) promises: BTreeMap<NodeId, Promised>,
    pub(crate) source: NodeId,
    /// The own log agrees up to here.
    pub(crate) keep: Slot,
    /// Who of the promisers knows most chosen, up to where.
    pub(crate) teacher: (NodeId, Slot),
    /// Bytes that came of what the teacher knows chosen.
    pub(crate) known_bytes: usize,
}

impl Fetching {
    /// Whether the one who holds this log could lead without fetching what is fetched here.
    pub(crate) fn yields_to(&self, held: &Held) -> bool {
        let best = &self.promises[&self.source];
        (held.accepted, held.last.slot) >= (best.accepted, best.last.slot)
    }
}

/// What was fetched of a log to adopt: a campaign that is cut short leaves it to the next, so that each comes further.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fetched {
    /// The entry that it begins behind.
    pub(crate) base: EntryId,
    pub(crate) entries: Vec<Entry>,
}

impl Fetched {
    pub(crate) fn end(&self) -> EntryId {
        self.entries.last().map_or(self.base, |e| e.id)
    }

    /// Takes what of a piece behind `prev` goes on where this ends; `false` where it does not meet that end.
    pub(crate) fn add(&mut self, prev: EntryId, run: Vec<Entry>) -> bool {
        let end = self.end();
        let mut rest = run.into_iter();
        let meets = prev == end || rest.any(|e| e.id == end);
        self.entries.extend(rest);
        meets
    }

    /// Whether `base` is known to be the holder's entry too.
    ///
    /// The holder's trim point may have risen since, and `base` is then an own entry at it that no header tells of. Only the
    /// entry that the first piece was taken behind, and those that came, are compared: behind any other nothing is kept, and what
    /// is fetched next is compared at its beginning.
    pub(crate) fn is_compared_at(&self, base: EntryId) -> bool {
        self.base == base || self.entries.iter().any(|e| e.id == base)
    }

    /// What of it belongs to the log `best` behind `base`: equal ids mean equal entries.
    pub(crate) fn of(self, best: &Promised, base: EntryId) -> Self {
        let belongs = |e: &Entry| best.origin_at(e.id.slot) == Some(e.id.origin);
        let behind = self.entries.into_iter().skip_while(|e| e.id.slot <= base.slot);
        Self { base, entries: behind.take_while(belongs).collect() }
    }
}

/// A replica that stands for election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    pub(crate) ballot: Ballot,
    pub(crate) phase: Phase,
    pub(crate) restart_at: Micros,
}
