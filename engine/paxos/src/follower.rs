//! The acceptor's side: promises, acceptance, the belief in a leader.
//!
//! Sources: Lamport, "Paxos Made Simple" (2001), section 2.2 (phases); Ongaro, "Consensus: Bridging Theory and Practice"
//! (2014), section 9.6 (pre-vote) for the refusal while a leader is heard.
//!
//! Owns: a follower's timers and beliefs. Must never: accept below its promise, or claim more of a ballot's log than it has
//! compared entry by entry.

use crate::fault;
use crate::message::{Held, Message};
use crate::replica::{Io, Replica};
use crate::role::{Candidate, Follower, Phase, Role};
use crate::types::{Ballot, NodeId, Slot};

impl Replica {
    /// The election timer of a follower that knows no live leader: a whole campaign, for others to finish theirs, and jitter.
    pub(crate) fn await_leader(&mut self, io: &mut Io<'_>) {
        let alone = self.peer_voters().is_empty();
        let wait = self.options.campaign_us + io.random % self.options.jitter_us.max(1);
        self.arm_election(if alone { 0 } else { wait }, io);
    }

    /// The election timer after a leader was lost for certain: jitter only.
    pub(crate) fn stand_soon(&mut self, io: &mut Io<'_>) {
        let wait = io.random % self.options.jitter_us.max(1);
        self.arm_election(wait, io);
    }

    /// Arms the timer where this replica votes and may lead, believes in no live leader, and hears a quorum; else the group is silent
    /// until that changes.
    fn arm_election(&mut self, wait: u64, io: &mut Io<'_>) {
        let wanted = self.is_voter() && !self.abstains && self.quorum_alive() && !self.leader_alive();
        // The others' support ends at about the same time as the own: a little jitter keeps them apart.
        let apart = io.random % (self.options.jitter_us / 4).max(1);
        let free = self.support_ends(io.now).map_or(io.now, |until| until.plus(apart));
        if let Role::Follower(follower) = &mut self.role {
            follower.election_at = wanted.then(|| io.now.plus(wait).max(free));
        }
    }

    /// Whether a leader is believed in whose node is heard.
    pub(crate) fn leader_alive(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.leader.is_some_and(|b| self.alive.contains(&b.node)),
            Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// Steps back into following `leader`, from any role. What the old role owed is refused or dropped. A leader says so, so that
    /// nobody supports or believes in what is over.
    pub(crate) fn follow(&mut self, leader: Option<Ballot>, io: &mut Io<'_>) {
        self.release(io);
        self.end_leadership(io);
        self.role = Role::Follower(Follower::new(leader));
        self.await_leader(io);
        assert!(!self.is_leader(), "a follower leads nothing");
    }

    /// A message of the leadership `ballot` arrived, at or above the promise: it is believed in.
    pub(crate) fn believe(&mut self, ballot: Ballot, io: &mut Io<'_>) {
        let known = matches!(&self.role, Role::Follower(f) if f.leader == Some(ballot));
        if !known {
            assert!(!self.is_leader() || ballot > self.hard.promised, "two leaders of {ballot:?}");
            self.fetched = None;
            self.follow(Some(ballot), io);
        } else if let Role::Follower(follower) = &mut self.role {
            follower.confirm_by = None;
        }
        // The election timer stays as it is: it runs where the failure detector holds the leader's node dead, whatever that leader
        // goes on sending. One whose disk hangs while its worker proposes would else put every election off.
    }

    pub(crate) fn follow_liveness(&mut self, node: NodeId, alive: bool, io: &mut Io<'_>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let leads = follower.leader.is_some_and(|b| b.node == node);
        if alive && follower.leader.is_none() {
            // Whoever knows more of the log, or of a later epoch, answers with it: its notice may have been lost.
            let (epoch, commit) = (self.epoch(), self.durable_commit());
            self.send_durable(node, Message::Learned { epoch, commit });
        }
        let Role::Follower(follower) = &mut self.role else { return };
        if alive {
            if let Some(ballot) = follower.leader.filter(|_| leads) {
                // After a pause of its node or a lost notice the belief may be stale, in a group that is otherwise silent.
                follower.election_at = None;
                self.ask_confirmation(ballot, io);
            } else if follower.election_at.is_none() {
                self.await_leader(io);
            }
        } else if leads {
            self.stand_soon(io);
        }
    }

    /// Something waits here that only the believed leader can settle: an unchosen entry, or a client that came to the wrong
    /// node. Asks it, a while from now, whether it leads.
    pub(crate) fn arm_doubt(&mut self, io: &mut Io<'_>) {
        let at = io.now.plus(self.options.campaign_us);
        if let Role::Follower(follower) = &mut self.role
            && follower.leader.is_some()
        {
            follower.doubt_at.get_or_insert(at);
        }
    }

    /// The time to ask has come.
    pub(crate) fn doubt(&mut self, io: &mut Io<'_>) {
        let Role::Follower(follower) = &mut self.role else { return };
        follower.doubt_at = None;
        if let Some(ballot) = follower.leader.filter(|ballot| self.alive.contains(&ballot.node)) {
            self.ask_confirmation(ballot, io);
            if self.log.last().slot > self.commit {
                self.arm_doubt(io);
            }
        }
    }

    /// Asks the believed leader for a sign of life in this group, and sets it a time.
    fn ask_confirmation(&mut self, ballot: Ballot, io: &mut Io<'_>) {
        io.send(ballot.node, Message::Confirm { ballot });
        let by = io.now.plus(self.options.campaign_us);
        if let Role::Follower(follower) = &mut self.role {
            follower.confirm_by.get_or_insert(by);
        }
    }

    /// The believed leader gave no sign: its node may live, but it does not lead here, or cannot be heard.
    pub(crate) fn disbelieve(&mut self, io: &mut Io<'_>) {
        if let Role::Follower(follower) = &mut self.role {
            follower.confirm_by = None;
        }
        self.follow(None, io);
        self.stand_soon(io);
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, ballot: Ballot, held: Option<Held>, io: &mut Io<'_>) {
        let believed = match &self.role {
            Role::Follower(f) if self.leader_alive() => f.leader,
            Role::Leader(leader) => Some(leader.ballot),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let promised = self.hard.promised;
        // It is about to lead. But on a slow link that takes long, and whoever has all of it need not wait.
        let fetching = match &self.role {
            Role::Candidate(Candidate { phase: Phase::Fetch(fetching), .. }) => {
                !held.is_some_and(|h| fetching.yields_to(&h))
            }
            _ => false,
        };
        // The leader itself asks for no confirmation; a candidate that is the believed leader has lost its leadership.
        let believed = believed.filter(|b| b.node != from);
        if !self.is_voter() || ballot <= promised || believed.is_some() || fetching {
            io.send(from, Message::PreVoteRefused { ballot, promised, leader: believed });
            match believed {
                Some(b) if b.node != self.me => self.ask_confirmation(b, io),
                Some(_) => self.probe(from, io),
                None => {}
            }
            return;
        }
        if let Some(held) = held
            && let Some(after) = self.must_learn(&held)
        {
            io.send(from, Message::PreVoteRefused { ballot, promised, leader: None });
            return self.send_learn(from, after, io);
        }
        io.send(from, Message::PreVoteGranted { ballot });
    }

    /// From where on a candidate with this log would have to learn, since it lacks more of what is known chosen here than it
    /// could fetch; `None` where it could lead.
    fn must_learn(&self, held: &Held) -> Option<Slot> {
        if (held.accepted, held.last.slot) >= (self.hard.accepted, self.log.last().slot) {
            return None;
        }
        let has = if self.log.holds(held.last) { held.last.slot } else { held.commit };
        let lacks = self.durable_commit().0.saturating_sub(has.0);
        // What is trimmed here cannot be taught from there on; the headers of phase 1 tell whether it has to be.
        (lacks > self.options.fetch_slots && self.log.id_at(has).is_some()).then_some(has)
    }

    /// Somebody doubts that `ballot` is led here: shows it, or releases it.
    pub(crate) fn on_confirm(&mut self, from: NodeId, ballot: Ballot, io: &mut Io<'_>) {
        if matches!(&self.role, Role::Leader(leader) if leader.ballot == ballot) {
            self.probe(from, io);
        } else if self.b0_after.is_none() || ballot != self.hard.membership.b0() {
            io.send(from, Message::Released { ballot });
        }
    }

    pub(crate) fn on_released(&mut self, from: NodeId, ballot: Ballot, io: &mut Io<'_>) {
        if from == ballot.node {
            self.support_released(ballot, io);
        }
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == Some(ballot)
        {
            follower.leader = None;
            follower.confirm_by = None;
            self.stand_soon(io);
        }
    }

    /// Phase 1a arrives.
    pub(crate) fn on_prepare(&mut self, from: NodeId, ballot: Ballot, commit: Slot, io: &mut Io<'_>) {
        let again = ballot == self.hard.promised && ballot.node == from && self.hard.accepted < ballot;
        if ballot < self.hard.promised {
            return io.send(from, Message::Nack { ballot, promised: self.hard.promised });
        }
        if !self.is_voter() || (ballot == self.hard.promised && !again) {
            return;
        }
        if self.supports_other_than(ballot.node, io.now) {
            return self.hold_prepare(from, ballot, commit);
        }
        if !again {
            self.hard.promised = ballot;
            if !fault!(self, PromiseNotPersisted) {
                self.stage_hard();
            }
            self.follow(None, io);
        }
        let agreed = commit.min(self.commit);
        let promise = Message::Promise {
            ballot,
            accepted: self.hard.accepted,
            commit: self.commit,
            last: self.log.last(),
            runs: self.log.runs_after(agreed),
        };
        if fault!(self, PromiseNotPersisted) {
            io.send(from, promise);
        } else {
            self.send_durable(from, promise);
        }
    }

    /// Phase 2a arrives: a run of slots, or a probe.
    pub(crate) fn on_accept(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) {
        let Message::Accept { ballot, prev, entries, commit, all_have } = message else { return };
        if ballot < self.hard.promised {
            io.send(from, Message::Nack { ballot, promised: self.hard.promised });
            return;
        }
        self.believe(ballot, io);
        if self.hard.accepted < ballot || prev.slot > self.log.last().slot {
            if fault!(self, StaleCommitIndex) {
                self.raise_commit(commit, io);
            }
            self.send_behind(from, ballot);
            return;
        }
        let Some(upto) = self.take_run(prev.slot, prev, entries, io) else { return };
        if fault!(self, StaleCommitIndex) {
            self.raise_commit(commit, io);
        }
        self.raise_commit(commit.min(upto), io);
        self.note_all_have(all_have, io);
        if self.hard.accepted == ballot {
            self.reply_accepted(from, ballot, upto, io);
        }
        if self.log.last().slot > self.commit {
            self.arm_doubt(io);
        }
    }

    /// This replica has just begun, and what was said to it before is lost. It gives its first leader the answer that it owes to
    /// an empty `Accept`: the log here is empty.
    pub(crate) fn on_begun(&mut self) {
        let b0 = self.hard.membership.b0();
        let new = (self.hard.promised, self.hard.accepted) == (b0, b0) && self.log.last().slot == Slot(0);
        if new && b0.node != self.me {
            self.send_behind(b0.node, b0);
        }
    }

    /// The reply to phase 2, after its write; the planted fault sends it before.
    pub(crate) fn reply_accepted(&mut self, to: NodeId, ballot: Ballot, upto: Slot, io: &mut Io<'_>) {
        let accepted = Message::Accepted { ballot, upto, commit: self.commit };
        if fault!(self, AckBeforeDurable) {
            io.send(to, accepted);
        } else {
            self.send_durable(to, accepted);
        }
    }

    /// Takes a contiguous run behind `prev` into the log of the accepted ballot: what is held already is compared, what is
    /// new is appended. Returns the last slot known equal to the sender's, or `None` where the runs disagree: then a chosen
    /// entry of a later ballot was learnt here and the sender no longer leads.
    fn take_run(
        &mut self,
        mut upto: Slot,
        prev: crate::types::EntryId,
        entries: Vec<crate::types::Entry>,
        io: &mut Io<'_>,
    ) -> Option<Slot> {
        if prev.slot >= self.log.trimmed().slot && !self.log.holds(prev) {
            return None;
        }
        let mut fresh = entries;
        let held = self.log.last().slot;
        let overlap = fresh.iter().take_while(|e| e.id.slot <= held).count();
        for entry in &fresh[..overlap] {
            if entry.id.slot >= self.log.trimmed().slot && !self.log.holds(entry.id) {
                return None;
            }
            upto = entry.id.slot;
        }
        fresh.drain(..overlap);
        if let Some(last) = fresh.last() {
            if self.stop_sign.is_some() && !fault!(self, LostStopSign) {
                self.fail(format!("slot {} follows a stop-sign within its epoch", last.id.slot), io);
                return None;
            }
            upto = last.id.slot;
            self.stage_append(fresh);
            self.enter_epoch_early(io);
        }
        Some(upto)
    }

    /// Every member has the log up to here; what is chosen of it may be trimmed.
    pub(crate) fn note_all_have(&mut self, all_have: Slot, io: &mut Io<'_>) {
        let upto = all_have.min(self.commit);
        if upto > self.trim_to {
            self.trim_to = upto;
            io.out.push(crate::io::Output::TrimTo(upto));
        }
    }

    /// Says what this log lacks of the leader's: what is staged of a `Sync` counts as held. It is a hint from where to go on,
    /// and no acknowledgement of anything durable.
    pub(crate) fn send_behind(&mut self, to: NodeId, ballot: Ballot) {
        let (last, runs) = match &self.role {
            Role::Follower(Follower { staging: Some(staging), .. }) if !fault!(self, StagingUntold) => {
                staging.described(ballot, &self.log, self.commit)
            }
            _ => None,
        }
        .unwrap_or_else(|| (self.log.last(), self.log.runs_after(self.commit)));
        let (epoch, accepted, commit) = (self.epoch(), self.hard.accepted, self.commit);
        self.send_durable(to, Message::Behind { ballot, epoch, accepted, commit, last, runs });
    }

    pub(crate) fn on_read_probe(&mut self, from: NodeId, ballot: Ballot, probe: u64, io: &mut Io<'_>) {
        if ballot < self.hard.promised {
            io.send(from, Message::Nack { ballot, promised: self.hard.promised });
        } else if self.is_voter() {
            if let Role::Follower(follower) = &mut self.role
                && follower.leader == Some(ballot)
            {
                follower.confirm_by = None;
            }
            let support = self.give_support(ballot, io.now);
            io.send(from, Message::ReadAck { ballot, probe, support });
        }
    }

    pub(crate) fn on_timeout_now(&mut self, from: NodeId, ballot: Ballot, io: &mut Io<'_>) {
        if from == ballot.node {
            // It serves no reads without asking from before it said so.
            self.support_released(ballot, io);
        }
        if self.abstains && self.version >= 2 {
            return io.send(from, Message::TransferRefused { ballot });
        }
        let may = self.is_voter() && !self.is_leader() && !self.abstains;
        let bound = self.supports_other_than(self.me, io.now);
        if may && !bound && ballot == self.hard.accepted && ballot == self.hard.promised {
            self.start_prepare(io);
        }
    }
}
