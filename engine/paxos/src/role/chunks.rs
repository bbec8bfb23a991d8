//! The chunks of a `Sync` that has not reached its end.
//!
//! Owns: the staged entries, in memory only. Must never: accept a chunk that leaves a gap after the staged entries.

use crate::log::Log;
use crate::types::{Ballot, Entry, EntryId, Run, Slot};

/// Chunks received of one `Sync`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Staging {
    pub(crate) ballot: Ballot,
    /// The entry after which the first chunk begins; held by this log.
    pub(crate) base: EntryId,
    pub(crate) entries: Vec<Entry>,
    /// Origins of these entries.
    pub(crate) runs: Vec<Run>,
}

impl Staging {
    pub(crate) fn new(ballot: Ballot, base: EntryId) -> Self {
        Self { ballot, base, entries: Vec::new(), runs: Vec::new() }
    }

    pub(crate) fn end(&self) -> EntryId {
        self.entries.last().map_or(self.base, |e| e.id)
    }

    /// Whether a chunk of `ballot` behind `prev` goes on where this ends, or earlier.
    pub(crate) fn fits(&self, ballot: Ballot, prev: EntryId) -> bool {
        let index = prev.slot.0.checked_sub(self.base.slot.0.saturating_add(1));
        let held = match index {
            None => prev == self.base,
            Some(index) => usize::try_from(index).ok().and_then(|i| self.entries.get(i)).is_some_and(|e| e.id == prev),
        };
        self.ballot == ballot && held
    }

    /// Adds what goes beyond the end.
    pub(crate) fn extend(&mut self, entries: Vec<Entry>) {
        let end = self.end().slot;
        for entry in entries.into_iter().filter(|e| e.id.slot > end) {
            if self.runs.last().is_none_or(|run| run.origin != entry.id.origin) {
                self.runs.push(Run { first: entry.id.slot, origin: entry.id.origin });
            }
            self.entries.push(entry);
        }
    }

    /// The end and the headers behind `commit` of the log that this makes of `log`; `None` where that is of another ballot or
    /// known chosen.
    pub(crate) fn described(&self, ballot: Ballot, log: &Log, commit: Slot) -> Option<(EntryId, Vec<Run>)> {
        if self.ballot != ballot || self.end().slot <= commit {
            return None;
        }
        let mut runs = log.runs_after(commit);
        runs.retain(|run| run.first <= self.base.slot);
        for run in &self.runs {
            if runs.last().is_none_or(|last| last.origin != run.origin) {
                runs.push(*run);
            }
        }
        Some((self.end(), runs))
    }
}
