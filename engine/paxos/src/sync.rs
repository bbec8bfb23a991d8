//! `Sync`: the new leader's log becomes a follower's.
//!
//! Owns: the staging of chunks and the one switching write. Must never: switch to a ballot whose adopted log is not
//! complete here, or truncate at a repeated `Sync`.

use crate::fault;
use crate::message::Message;
use crate::replica::{Io, Replica, Role};
use crate::types::{Ballot, Entry, EntryId, Slot};

/// Chunks received of one `Sync`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Staging {
    ballot: Ballot,
    /// The entry after which the first chunk begins; held by this log.
    base: EntryId,
    entries: Vec<Entry>,
}

impl Staging {
    fn end(&self) -> EntryId {
        self.entries.last().map_or(self.base, |e| e.id)
    }
}

impl Replica {
    pub(crate) fn on_sync(&mut self, from: crate::types::NodeId, message: Message, io: &mut Io<'_>) {
        let Message::Sync { ballot, prev, entries, end, commit } = message else { return };
        if ballot < self.hard.promised {
            io.send(from, Message::Nack { ballot, promised: self.hard.promised });
            return;
        }
        if self.hard.accepted == ballot && !fault!(self, SyncTwiceTruncates) {
            // Its log is here already: the chunk is an ordinary run, and truncates nothing.
            let all_have = Slot(0);
            return self.on_accept(from, Message::Accept { ballot, prev, entries, commit, all_have }, io);
        }
        self.believe(ballot, io);
        let Some(staging) = self.stage_chunk(ballot, prev, entries) else {
            self.send_behind(from, ballot);
            return;
        };
        if staging.end() != end && !fault!(self, PartialSync) {
            if let Role::Follower(follower) = &mut self.role {
                follower.staging = Some(staging);
            }
            return;
        }
        if end.slot < self.commit && self.log.holds(end) {
            // It was overtaken on its way: more of this ballot's log is chosen and learnt here than it holds.
            self.send_behind(from, ballot);
            return;
        }
        self.switch(staging, io);
        if self.dead.is_none() {
            let upto = self.log.last().slot;
            self.raise_commit(commit.min(upto), io);
            if self.hard.accepted == ballot {
                self.reply_accepted(from, ballot, upto, io);
            }
        }
    }

    /// Joins a chunk to those staged, or begins anew where it fits this log; `None` where it fits neither.
    fn stage_chunk(&mut self, ballot: Ballot, prev: EntryId, entries: Vec<Entry>) -> Option<Staging> {
        let staged = match &mut self.role {
            Role::Follower(follower) => follower.staging.take(),
            Role::Candidate(_) | Role::Leader(_) => None,
        };
        if let Some(mut staging) = staged
            && staging.ballot == ballot
            && staging.end() == prev
        {
            staging.entries.extend(entries);
            return Some(staging);
        }
        self.log.holds(prev).then_some(Staging { ballot, base: prev, entries })
    }

    /// The switch, in one atomic write: the unchosen suffix is replaced, promised = accepted = ballot.
    fn switch(&mut self, staging: Staging, io: &mut Io<'_>) {
        let Staging { ballot, base, mut entries } = staging;
        let same = entries.iter().take_while(|e| self.log.holds(e.id)).count();
        let keep = if same == 0 { base.slot } else { entries[same - 1].id.slot };
        if keep < self.log.last().slot {
            if keep < self.commit {
                let why = format!(
                    "the log of {ballot:?} lacks chosen slots: it agrees up to {keep}, chosen is {}",
                    self.commit
                );
                return self.fail(why, io);
            }
            self.stage_truncate(keep.next());
        }
        entries.drain(..same);
        self.hard.promised = ballot;
        self.hard.accepted = ballot;
        self.stage_append(entries);
        self.stage_hard();
        self.commit_after = Some(self.writes.covering());
    }
}
