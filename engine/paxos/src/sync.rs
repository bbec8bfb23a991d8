//! `Sync`: the new leader's log becomes a follower's.
//!
//! Owns: the staging of chunks and the one switching write. Must never: switch to a ballot whose adopted log is not
//! complete here, truncate at a repeated `Sync`, or acknowledge a staged chunk as accepted.
//!
//! A leader sends no more chunks at once than its window allows, and goes on behind what `Behind` says is staged. What is staged
//! is in memory only: after a restart the `Sync` begins anew behind what is on disk.

use crate::fault;
use crate::message::Message;
use crate::replica::{Io, Replica};
use crate::role::{Role, Staging};
use crate::types::{Ballot, Entry, EntryId, Slot};

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
            self.send_behind(from, ballot);
            return;
        }
        let trimmed = end.slot < self.log.trimmed().slot;
        if end.slot < self.commit && (trimmed || self.log.holds(end)) {
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

    /// Joins a chunk to those staged, or begins anew where it fits this log; `None` where it fits neither: what is staged stays.
    fn stage_chunk(&mut self, ballot: Ballot, prev: EntryId, entries: Vec<Entry>) -> Option<Staging> {
        let fits = self.log.holds(prev);
        let Role::Follower(follower) = &mut self.role else { return None };
        let mut staging = match follower.staging.take() {
            Some(staging) if staging.fits(ballot, prev) => staging,
            // An earlier chunk again: a ballot has one log.
            Some(staging) if fits && staging.ballot == ballot && prev.slot <= staging.end().slot => staging,
            _ if fits => Staging::new(ballot, prev),
            staged => {
                follower.staging = staged;
                return None;
            }
        };
        staging.extend(entries);
        Some(staging)
    }

    /// The switch, in one atomic write: the unchosen suffix is replaced, promised = accepted = ballot.
    fn switch(&mut self, staging: Staging, io: &mut Io<'_>) {
        let Staging { ballot, base, mut entries, .. } = staging;
        // What was learnt, applied and trimmed while chunks came is not compared: it is chosen, and equal where the slot at the
        // trim point is.
        let trimmed = self.log.trimmed().slot;
        let same = entries.iter().take_while(|e| e.id.slot < trimmed || self.log.holds(e.id)).count();
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
