//! What a step changes of the log and the hard state, all of it in the step's one write.
//!
//! Owns: the staged changes, the hint of what is chosen, and the rise of the chosen prefix. Must never: cut a chosen slot, or let
//! the hint name a slot that is not in the log.

use crate::fault;
use crate::message::Message;
use crate::replica::{Io, Replica};
use crate::role::Role;
use crate::types::{Entry, NodeId, Slot};

impl Replica {
    /// A hard state that is written carries the chosen prefix along, and many bytes of entries take one with them: else a
    /// restart would forget all that was chosen since the last election.
    pub(crate) fn stage_hint(&mut self) {
        let chosen = if fault!(self, HintAhead) { self.log.last().slot } else { self.commit };
        let due = self.unhinted >= self.options.hint_bytes && chosen > self.hard.commit_hint;
        if due && !self.writes.staged.append.is_empty() {
            self.stage_hard();
        }
        if self.writes.staged.hard {
            self.hard.commit_hint = self.hard.commit_hint.max(chosen);
            self.unhinted = 0;
        }
    }

    /// The hard state changed: it joins this step's write.
    pub(crate) fn stage_hard(&mut self) {
        assert!(
            self.hard.accepted <= self.hard.promised,
            "accepted {:?} above promised {:?}",
            self.hard.accepted,
            self.hard.promised
        );
        self.writes.staged.hard = true;
    }

    /// Appends entries to the log and to this step's write.
    pub(crate) fn stage_append(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        self.unhinted += self.log.append(&entries);
        if self.log.last_is_stop_sign() {
            self.stop_sign = Some(self.log.last().slot);
        }
        self.writes.staged.append.extend(entries);
    }

    /// Removes `from` and what follows, in this step's write. Never at or below the chosen prefix.
    pub(crate) fn stage_truncate(&mut self, from: Slot) {
        assert!(from > self.commit, "truncation at {from} of a chosen slot, commit is {}", self.commit);
        self.log.truncate(from);
        self.writes.cut(self.log.last().slot);
        // A stop-sign is the last entry, so it is cut off.
        self.stop_sign = None;
        let staged = &mut self.writes.staged;
        staged.append.retain(|e| e.id.slot < from);
        staged.truncate_from = Some(staged.truncate_from.map_or(from, |at| at.min(from)));
    }

    /// A message that may leave only once everything staged so far is on disk.
    pub(crate) fn send_durable(&mut self, to: NodeId, message: Message) {
        self.writes.deferred.push((to, message));
    }

    /// More of the log is known chosen: never beyond its end. May end the epoch.
    pub(crate) fn raise_commit(&mut self, upto: Slot, io: &mut Io<'_>) {
        let upto = upto.min(self.log.last().slot);
        if upto <= self.commit {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            let bytes = self.log.bytes_between(self.commit, upto);
            leader.uncommitted = leader.uncommitted.saturating_sub(bytes);
        }
        self.commit = upto;
        if let Role::Follower(follower) = &mut self.role
            && upto == self.log.last().slot
        {
            follower.doubt_at = None;
        }
        if self.stop_sign.is_some_and(|s| s <= upto) {
            self.enter_epoch(io);
        }
    }
}
