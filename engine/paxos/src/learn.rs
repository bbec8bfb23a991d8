//! Catching up on chosen entries, from any replica; and the leader's choice between `Sync` and `Learn`.
//!
//! Owns: what a member that lacks entries is sent. Must never: call an entry chosen that is not, or overwrite a chosen one.

use crate::io::Output;
use crate::message::Message;
use crate::progress::{Mode, Progress};
use crate::replica::{Io, Replica};
use crate::role::{Promised, Role};
use crate::types::{Ballot, Entry, Epoch, NodeId, Payload, Slot};

impl Replica {
    /// A member says what it holds, which is not this ballot's log.
    pub(crate) fn on_behind(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) {
        let Message::Behind { ballot, accepted, commit, last, runs, .. } = message else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot {
            return;
        }
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.commit = progress.commit.max(commit);
        progress.heard_at = io.now;
        if accepted != ballot {
            return self.go_on_with_sync(from, &Promised { accepted, commit, last, runs }, io);
        }
        if last.slot < self.log.trimmed().slot {
            // It holds this ballot's log as far as it goes, and what follows is gone here.
            io.out.push(Output::NeedSnapshot { to: from });
            return;
        }
        // Its log is this ballot's, with a gap where a message was lost.
        let next = last.slot.next();
        let old = last.slot < progress.matched;
        if old || progress.rewound == Some(next) || !self.log.holds(last) {
            return;
        }
        progress.rewound = Some(next);
        progress.mode = Mode::Pipeline;
        progress.rewind(next);
        self.send_run(from, io);
    }

    /// A member that has not accepted this ballot says what it holds or has staged of its log. While a `Sync` is on its way
    /// this acknowledges its chunks, or complains: behind a chunk that was lost no other fits.
    fn go_on_with_sync(&mut self, to: NodeId, held: &Promised, io: &mut Io<'_>) {
        let base = self.log.match_end(held.commit, &held.runs, held.last.slot);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        match &mut progress.mode {
            Mode::Sync { acked, end } if base > *acked && base < end.slot => {
                *acked = base;
                progress.moved(io.now);
                progress.arrived(base);
                progress.rewound = Some(base.next());
                self.send_sync(to, io);
            }
            Mode::Sync { .. } if progress.rewound == Some(base.next()) => {}
            Mode::Learn(_) if progress.rewound.is_some() => {}
            Mode::Sync { .. } | Mode::Learn(_) | Mode::Probe | Mode::Pipeline => self.begin_sync(to, held, io),
        }
    }

    /// Brings a member that has not accepted this ballot to it: in one `Sync` where what it lacks fits a message; else the
    /// chosen part by `Learn` first, and the unchosen rest by a `Sync` in chunks, as many at once as the window allows.
    pub(crate) fn begin_sync(&mut self, to: NodeId, held: &Promised, io: &mut Io<'_>) {
        let base = self.log.match_end(held.commit, &held.runs, held.last.slot);
        let (end, limit) = (self.log.last(), self.options.message_bytes);
        let Role::Leader(leader) = &self.role else { return };
        let ballot = leader.ballot;
        let Some(prev) = self.log.id_at(base) else {
            io.out.push(Output::NeedSnapshot { to });
            return;
        };
        let run = match self.log.entries(io.log, base, end.slot, limit) {
            Ok(run) => run,
            Err(why) => return self.fail(why, io),
        };
        let whole = run.last().map_or(prev, |e| e.id) == end;
        if !whole && self.durable_commit() > base {
            return self.send_learn(to, base, io);
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&to)
        {
            progress.mode = Mode::Sync { acked: base, end };
            progress.moved_at = io.now;
            progress.told = self.commit;
            progress.rewind(base.next());
            progress.rewound = Some(base.next());
            progress.sent(run.last().map_or(base, |e| e.id.slot), run.iter().map(Entry::size).sum());
        }
        io.send(to, Message::Sync { ballot, prev, entries: run, end, commit: self.commit });
        self.send_sync(to, io);
        self.arm_resend(io.now);
    }

    /// Sends the next chunks of a `Sync`, as far as the window allows. Nodes of cluster version 1 acknowledge no chunk: for
    /// them there is no window.
    fn send_sync(&mut self, to: NodeId, io: &mut Io<'_>) {
        let windowed = self.version >= 2;
        while let Role::Leader(leader) = &mut self.role {
            let Some(progress) = leader.progress.get_mut(&to) else { return };
            let Mode::Sync { end, .. } = progress.mode else { return };
            let room = progress.inflight.len() < self.options.inflight_messages
                && progress.inflight_bytes < self.options.inflight_bytes;
            if progress.next > end.slot || (windowed && (!room || progress.stopped)) {
                return;
            }
            let ballot = leader.ballot;
            let before = progress.next.prev().expect("the next slot is above 0");
            let Some(prev) = self.log.id_at(before) else {
                // It was trimmed meanwhile.
                progress.mode = Mode::Probe;
                return io.out.push(Output::NeedSnapshot { to });
            };
            let run = match self.log.entries(io.log, before, end.slot, self.options.message_bytes) {
                Ok(run) => run,
                Err(why) => return self.fail(why, io),
            };
            progress.sent(run.last().map_or(before, |e| e.id.slot), run.iter().map(Entry::size).sum());
            io.send(to, Message::Sync { ballot, prev, entries: run, end, commit: self.commit });
        }
    }

    /// Sends one message of chosen entries behind `after`.
    pub(crate) fn send_learn(&mut self, to: NodeId, after: Slot, io: &mut Io<'_>) {
        let commit = self.durable_commit();
        let Some(prev) = self.log.id_at(after) else {
            // A node that comes back says so to every replica: where a leader is heard that asks this member where it stands, one
            // snapshot is enough.
            let led = !self.is_leader() && self.leader_alive() && self.hard.membership.role_of(to).is_some();
            if !led {
                io.out.push(Output::NeedSnapshot { to });
            }
            return;
        };
        let entries = match self.log.entries(io.log, after, commit, self.options.message_bytes) {
            Ok(entries) => entries,
            Err(why) => return self.fail(why, io),
        };
        let upto = entries.last().map_or(after, |e| e.id.slot);
        let (epoch, promised) = (self.epoch(), self.hard.promised);
        self.send_durable(to, Message::Learn { epoch, promised, prev, entries, commit });
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&to)
        {
            progress.mode = Mode::Learn(upto);
            progress.moved_at = io.now;
            progress.rewound = Some(after.next());
            self.arm_resend(io.now);
        }
    }

    /// Chosen entries arrive.
    pub(crate) fn on_learn(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) {
        let Message::Learn { epoch, promised, prev, entries, commit } = message else { return };
        if epoch < self.epoch() {
            return self.send_stop_sign(from, io);
        }
        if self.log.holds(prev) || prev.slot <= self.commit {
            let before = (self.log.last(), self.commit);
            let some = !entries.is_empty();
            self.promise_as_learnt(epoch, promised, io);
            self.take_pieces(prev.slot, entries, commit, io);
            self.promise_as_learnt(epoch, promised, io);
            if before != (self.log.last(), self.commit) && matches!(self.role, Role::Candidate(_)) {
                // What this campaign promised about its own log no longer holds.
                self.follow(None, io);
            }
            if some && before == (self.log.last(), self.commit) && self.commit < commit {
                // A copy, or an older message: what brought these entries was answered, and what follows is asked for by that.
                return;
            }
            if before.1 != self.commit {
                self.stand_once_learnt(commit, io);
            }
        } else if let Role::Follower(follower) = &mut self.role {
            // The leader counts on what is staged here, but teaches from what is on disk, so it must be told the latter.
            follower.staging = None;
        }
        let learned = Message::Learned { epoch: self.epoch(), commit: self.commit };
        self.send_durable(from, learned);
    }

    /// A follower without a leader that learns stands for election once it knows all that its teacher called chosen, or else a
    /// campaign's time after the last piece. Earlier it could not lead and would only disturb.
    fn stand_once_learnt(&mut self, known: Slot, io: &mut Io<'_>) {
        if !matches!(&self.role, Role::Follower(f) if f.leader.is_none() && f.election_at.is_some()) {
            return;
        }
        if self.commit < known {
            self.await_leader(io);
        } else {
            self.stand_soon(io);
        }
    }

    /// Whoever learns what is chosen promises at least what its source did: a promise given to a candidate below that
    /// ballot would vouch for a chosen prefix which that candidate's log may contradict.
    fn promise_as_learnt(&mut self, epoch: Epoch, promised: Ballot, io: &mut Io<'_>) {
        let mine = self.epoch();
        let least = if epoch > mine { Ballot::over(mine) } else { promised };
        if least <= self.hard.promised {
            return;
        }
        if !matches!(self.role, Role::Follower(_)) {
            self.follow(None, io);
        }
        self.hard.promised = least;
        self.stage_hard();
        self.commit_after = Some(self.writes.covering());
    }

    /// Takes chosen entries epoch by epoch: a stop-sign ends a piece, and its epoch is entered before the next.
    fn take_pieces(&mut self, prev: Slot, mut entries: Vec<Entry>, commit: Slot, io: &mut Io<'_>) {
        self.raise_commit(commit.min(prev), io);
        while !entries.is_empty() && self.dead.is_none() {
            let stop = entries.iter().position(|e| matches!(e.payload, Payload::Config(_)));
            let rest = entries.split_off(stop.map_or(entries.len(), |at| at + 1));
            let end = entries.last().map_or(prev, |e| e.id.slot);
            self.take_chosen(entries, io);
            self.raise_commit(commit.min(end), io);
            entries = rest;
        }
    }

    /// Puts chosen entries into the log: what agrees stays, the first that differs replaces everything from its slot on.
    fn take_chosen(&mut self, mut entries: Vec<Entry>, io: &mut Io<'_>) {
        let known = self.commit.max(self.log.trimmed().slot);
        let same = entries.iter().take_while(|e| e.id.slot <= known || self.log.holds(e.id)).count();
        entries.drain(..same);
        let Some(first) = entries.first().map(|e| e.id.slot) else { return };
        if self.is_leader() {
            // A later ballot chose something else: this leadership is over, and did not know.
            self.follow(None, io);
        }
        if first <= self.log.last().slot {
            self.stage_truncate(first);
        }
        self.stage_append(entries);
    }

    /// A replica says how far it has learnt: it gets the next piece, or, as a member of this leadership, is asked where it
    /// stands now.
    pub(crate) fn on_learned(&mut self, from: NodeId, epoch: Epoch, commit: Slot, io: &mut Io<'_>) {
        if epoch > self.epoch() {
            // The sender is ahead, and so knows what to send.
            let (epoch, commit) = (self.epoch(), self.durable_commit());
            return self.send_durable(from, Message::Learned { epoch, commit });
        }
        let mine = self.durable_commit();
        let behind = commit < mine;
        let known = match &mut self.role {
            Role::Leader(leader) => leader.progress.get_mut(&from),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let known = match known {
            // The answer to the message under way is still to come; a second one would be sent beside it for good.
            Some(Progress { mode: Mode::Learn(upto), rewound: Some(_), .. }) if commit < *upto => return,
            Some(progress) => {
                progress.commit = progress.commit.max(commit);
                (progress.moved_at, progress.heard_at) = (io.now, io.now);
                progress.asked = 0;
                Some(())
            }
            None => None,
        };
        match known {
            Some(()) if !behind || self.fits_one_message(commit) => {
                if epoch < self.epoch() {
                    // The rest, stop-sign included, is one message.
                    return self.send_learn(from, commit, io);
                }
                if let Role::Leader(leader) = &mut self.role
                    && let Some(progress) = leader.progress.get_mut(&from)
                    && progress.mode != Mode::Pipeline
                {
                    progress.probe(io.now);
                    self.probe(from, io);
                }
            }
            _ if behind => self.send_learn(from, commit, io),
            _ if epoch < self.epoch() => self.send_stop_sign(from, io),
            _ => {}
        }
    }

    /// Whether all slots behind `after` fit one message, as far as memory tells.
    fn fits_one_message(&self, after: Slot) -> bool {
        let last = self.log.last().slot;
        self.log.cached(after.next()).is_some() && self.log.bytes_between(after, last) <= self.options.message_bytes
    }
}
