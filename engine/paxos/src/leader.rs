//! The proposer's side: the leadership of one ballot.
//!
//! Sources: Lamport, "Paxos Made Simple" (2001), section 3; van Renesse, Altinbuken, "Paxos Made Moderately Complex"
//! (2015), section 4 for the flow of phase 2; Ongaro (2014), section 6.2 for stepping down without a quorum.
//!
//! Owns: proposals, members' progress and the counting of acceptances. Must never: count its own vote before its own write
//! is durable, propose behind a stop-sign, or count a member that has not accepted this ballot.

use crate::fault;
use crate::io::{Output, Refused};
use crate::message::Message;
use crate::progress::{Mode, Progress};
use crate::replica::{Io, Replica};
use crate::role::{Follower, Leader, Promised, Reads, Role};
use crate::types::{Ballot, Entry, EntryId, Micros, NodeId, Payload, Slot};
use bytes::Bytes;
use std::collections::BTreeMap;

impl Replica {
    /// From candidate to leader: adopts the greatest log (own slots up to `keep`, then `entries`) and begins phase 2.
    pub(crate) fn become_leader(
        &mut self,
        keep: Slot,
        entries: Vec<Entry>,
        promises: &BTreeMap<NodeId, Promised>,
        io: &mut Io<'_>,
    ) {
        let ballot = self.hard.promised;
        assert!(matches!(self.role, Role::Candidate(_)), "only a candidate becomes leader of {ballot:?}");
        assert_eq!(ballot.node, self.me, "a ballot is led by its own node");
        if keep < self.log.last().slot {
            if keep < self.commit {
                return self.fail(format!("the log to adopt contradicts chosen slot {}", keep.next()), io);
            }
            self.stage_truncate(keep.next());
        }
        self.stage_append(entries);
        self.hard.accepted = ballot;
        self.stage_hard();
        let chosen = promises.values().map(|p| p.commit).max().unwrap_or(self.commit);
        self.lead(ballot, io);
        let me = self.me;
        for (node, promised) in promises.iter().filter(|(node, _)| **node != me) {
            if let Role::Leader(leader) = &mut self.role
                && let Some(progress) = leader.progress.get_mut(node)
            {
                progress.commit = promised.commit;
            }
            self.begin_sync(*node, promised, io);
        }
        self.probe_others(io);
        self.raise_commit(chosen, io);
    }

    /// The first leader of an epoch leads B0 without phase 1.
    pub(crate) fn become_leader_b0(&mut self, io: &mut Io<'_>) {
        let ballot = self.hard.membership.b0();
        assert_eq!(
            (self.hard.promised, self.hard.accepted),
            (ballot, ballot),
            "B0 is led only while it is the promise"
        );
        self.lead(ballot, io);
        self.probe_others(io);
    }

    fn lead(&mut self, ballot: Ballot, io: &mut Io<'_>) {
        let members = self.peers();
        let uncommitted = self.log.bytes_between(self.commit.max(self.log.trimmed().slot), self.log.last().slot);
        let leader = Leader {
            ballot,
            first_own: self.log.last().slot,
            own: self.writes.covering(),
            progress: members.into_iter().map(|n| (n, Progress::new(io.now))).collect(),
            uncommitted,
            reads: Reads::default(),
            transfer: None,
            alone_at: None,
            resend_at: None,
            notice_at: None,
            stalled_at: None,
        };
        self.role = Role::Leader(Box::new(leader));
        self.fetched = None;
        if self.stop_sign.is_none() {
            let id = EntryId { slot: self.log.last().slot.next(), origin: ballot };
            let last_ts = self.log.last_ts();
            let noop = Entry::new(id, last_ts + 1, last_ts, Payload::Noop);
            self.append_own(vec![noop], io);
            let first = self.log.last().slot;
            if let Role::Leader(leader) = &mut self.role {
                leader.first_own = first;
                leader.own = self.writes.covering();
            }
        }
        self.check_quorum(io);
    }

    pub(crate) fn on_propose(&mut self, commands: Vec<(u64, Bytes)>, io: &mut Io<'_>) {
        if let Some(why) = self.refuse_proposal() {
            self.arm_doubt(io);
            io.out.push(Output::Refused { why, read: None });
            return;
        }
        let ballot = self.hard.accepted;
        let first = self.log.last().slot.next();
        let (mut slot, mut last_ts) = (first, self.log.last_ts());
        let mut entries = Vec::with_capacity(commands.len());
        for (ts, data) in commands {
            let ts = ts.max(last_ts + 1);
            entries.push(Entry::new(EntryId { slot, origin: ballot }, ts, last_ts, Payload::Command(data)));
            (slot, last_ts) = (slot.next(), ts);
        }
        io.out.push(Output::Proposed { first, ballot });
        self.append_own(entries, io);
    }

    fn refuse_proposal(&self) -> Option<Refused> {
        let Role::Leader(leader) = &self.role else {
            return Some(Refused::NotLeader { leader: self.leader() });
        };
        if leader.transfer.is_some() || (self.stop_sign.is_some() && !fault!(self, LostStopSign)) {
            return Some(Refused::Changing);
        }
        (leader.uncommitted > self.options.uncommitted_bytes).then_some(Refused::Overloaded)
    }

    /// Appends entries of the own ballot and sends them on; the own write runs beside.
    pub(crate) fn append_own(&mut self, entries: Vec<Entry>, io: &mut Io<'_>) {
        let bytes: usize = entries.iter().map(Entry::size).sum();
        self.stage_append(entries);
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted += bytes;
        }
        self.send_all(io);
        self.enter_epoch_early(io);
    }

    /// Sends every member what its window allows.
    pub(crate) fn send_all(&mut self, io: &mut Io<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let nodes: Vec<NodeId> = leader.progress.keys().copied().collect();
        for node in nodes {
            self.send_run(node, io);
        }
    }

    /// Sends a member the runs it lacks, as far as its window allows.
    pub(crate) fn send_run(&mut self, to: NodeId, io: &mut Io<'_>) {
        let all_have = self.all_have();
        let last = self.log.last().slot;
        while self.dead.is_none() {
            let Role::Leader(leader) = &mut self.role else { return };
            let Some(progress) = leader.progress.get_mut(&to) else { return };
            let room = progress.inflight.len() < self.options.inflight_messages
                && progress.inflight_bytes < self.options.inflight_bytes;
            let ready = progress.mode == Mode::Pipeline && room && !progress.stopped;
            if !ready || progress.next > last || !self.alive.contains(&to) {
                return;
            }
            let before = progress.next.prev().expect("the next slot is above 0");
            let Some(prev) = self.log.id_at(before) else {
                progress.mode = Mode::Probe;
                io.out.push(Output::NeedSnapshot { to });
                return;
            };
            let entries = match self.log.entries(io.log, before, last, self.options.message_bytes) {
                Ok(entries) => entries,
                Err(why) => return self.fail(why, io),
            };
            let bytes = entries.iter().map(Entry::size).sum();
            let upto = entries.last().expect("a run was asked for").id.slot;
            progress.sent(upto, bytes);
            progress.told = self.commit;
            let ballot = leader.ballot;
            io.send(to, Message::Accept { ballot, prev, entries, commit: self.commit, all_have });
            self.arm_resend(io.now);
        }
    }

    /// Asks a member where it stands, or tells it the chosen prefix: an empty `Accept`.
    pub(crate) fn probe(&mut self, to: NodeId, io: &mut Io<'_>) {
        let all_have = self.all_have();
        let last = self.log.last();
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        let prev = match progress.mode {
            Mode::Pipeline => progress.next.prev().and_then(|p| self.log.id_at(p)).unwrap_or(last),
            Mode::Probe | Mode::Sync { .. } | Mode::Learn(_) => last,
        };
        progress.told = commit;
        let ballot = leader.ballot;
        io.send(to, Message::Accept { ballot, prev, entries: Vec::new(), commit, all_have });
        self.arm_resend(io.now);
    }

    fn probe_others(&mut self, io: &mut Io<'_>) {
        for node in self.peers() {
            let probing =
                matches!(&self.role, Role::Leader(l) if l.progress.get(&node).is_some_and(|p| p.mode == Mode::Probe));
            if probing && self.alive.contains(&node) {
                self.probe(node, io);
            }
        }
    }

    pub(crate) fn on_accepted(&mut self, from: NodeId, ballot: Ballot, upto: Slot, commit: Slot, io: &mut Io<'_>) {
        let last = self.log.last().slot;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot {
            return;
        }
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        assert!(upto <= last, "member {from} acknowledged slot {upto}, the log ends at {last}");
        progress.heard_at = io.now;
        progress.acknowledged(upto, commit, io.now);
        self.count_accepted(io);
        self.send_run(from, io);
        self.advance_transfer(io);
    }

    /// What a quorum of the voters holds under this ballot is chosen; the own vote counts up to the own durable slot.
    pub(crate) fn count_accepted(&mut self, io: &mut Io<'_>) {
        let own = self.own_matched();
        let Role::Leader(leader) = &self.role else { return };
        let membership = &self.hard.membership;
        let mut slots: Vec<Slot> = membership
            .voters()
            .map(|n| if n == self.me { own } else { leader.progress.get(&n).map_or(Slot(0), |p| p.matched) })
            .collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        let chosen = slots[membership.quorum() - 1];
        self.raise_commit(chosen, io);
        let all_have = self.all_have();
        self.note_all_have(all_have, io);
        self.arm_notice(io);
        self.serve_reads(io);
    }

    fn own_matched(&self) -> Slot {
        let Role::Leader(leader) = &self.role else { return Slot(0) };
        if fault!(self, OwnVoteBeforeSync) {
            self.log.last().slot
        } else if self.writes.durable() >= leader.own {
            self.log.durable()
        } else {
            Slot(0)
        }
    }

    /// What every member holds durably under this ballot.
    pub(crate) fn all_have(&self) -> Slot {
        let Role::Leader(leader) = &self.role else { return Slot(0) };
        leader.progress.values().map(|p| p.matched).chain([self.own_matched()]).min().unwrap_or(Slot(0))
    }

    /// Idle followers that do not know the chosen prefix are told a little later, unless a run carries it before.
    fn arm_notice(&mut self, io: &mut Io<'_>) {
        let at = io.now.plus(self.options.notice_us);
        let commit = self.commit;
        let alive = &self.alive;
        if let Role::Leader(leader) = &mut self.role {
            let uninformed = leader.progress.iter().any(|(n, p)| p.told < commit && alive.contains(n));
            if uninformed {
                leader.notice_at.get_or_insert(at);
            }
        }
    }

    /// The leader's timers.
    pub(crate) fn lead_time(&mut self, io: &mut Io<'_>) {
        let due = |at: Option<Micros>| at.is_some_and(|at| at <= io.now);
        let Role::Leader(leader) = &mut self.role else { return };
        let (alone, resend, notice) = (due(leader.alone_at), due(leader.resend_at), due(leader.notice_at));
        let stalled = due(leader.stalled_at);
        leader.progress.values_mut().for_each(|p| p.unfit_until = p.unfit_until.filter(|until| *until > io.now));
        if notice {
            leader.notice_at = None;
        }
        if alone || (stalled && self.is_stalled(io.now)) {
            return self.follow(None, io);
        }
        if notice {
            self.notify_commit(io);
        }
        if resend {
            self.resend(io);
        }
        self.expire_transfer(io);
        self.expire_reads(io);
    }

    /// Tells each idle member the chosen prefix that it was not told.
    pub(crate) fn notify_commit(&mut self, io: &mut Io<'_>) {
        for node in self.peers() {
            if self.is_uninformed(node, self.commit) {
                self.probe(node, io);
            }
        }
    }

    /// Whether a member that is heard holds the log and was not told yet that it is chosen up to `slot`.
    pub(crate) fn is_uninformed(&self, node: NodeId, slot: Slot) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let idle = |p: &Progress| p.mode == Mode::Pipeline && p.told < slot;
        leader.progress.get(&node).is_some_and(idle) && self.alive.contains(&node)
    }

    pub(crate) fn lead_liveness(&mut self, node: NodeId, alive: bool, changed: bool, io: &mut Io<'_>) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&node)
            && (changed || alive)
        {
            progress.probe(io.now);
            progress.unfit_until = None;
        }
        if alive {
            self.probe(node, io);
        }
        self.check_quorum(io);
    }

    /// A leader that hears no quorum gives up after a campaign's time.
    fn check_quorum(&mut self, io: &mut Io<'_>) {
        let heard = self.quorum_alive();
        let at = io.now.plus(self.options.campaign_us);
        if let Role::Leader(leader) = &mut self.role {
            if heard {
                leader.alone_at = None;
            } else {
                leader.alone_at.get_or_insert(at);
            }
        }
    }

    /// Gives leadership up at the driver's wish.
    pub(crate) fn on_release(&mut self, io: &mut Io<'_>) {
        if self.is_leader() {
            self.follow(None, io);
        }
    }

    /// Says to every member that this ballot is led no more, so that no belief in it blocks an election.
    pub(crate) fn release(&mut self, io: &mut Io<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let ballot = leader.ballot;
        for node in self.peers() {
            io.send(node, Message::Released { ballot });
        }
    }

    /// Reads that wait fail when the leadership ends; proposals are answered by what gets chosen.
    pub(crate) fn end_leadership(&mut self, io: &mut Io<'_>) {
        #[cfg(feature = "planted")]
        self.outlive();
        let Role::Leader(leader) = &mut self.role else { return };
        let reads = leader.reads.take_all(self.me);
        for read in reads {
            io.out.push(Output::Refused { why: Refused::NotLeader { leader: None }, read: Some(read) });
        }
        self.role = Role::Follower(Follower::new(None));
    }
}
