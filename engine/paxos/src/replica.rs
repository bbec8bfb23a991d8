//! One replica of a group: its state, and the way of an input through it.
//!
//! Owns: the hard state, the log, the write order and the role; the transitions between roles. Must never: do IO, read a
//! clock, or let a message that claims durability leave before its write.

use crate::io::{Ctx, Input, LogReader, Options, Output, Persist, RoleKind, Status};
use crate::log::Log;
use crate::message::Message;
use crate::role::{Fetched, Followed, Follower, Role, Support};
use crate::types::{Ballot, Entry, EntryId, HardState, MemberRole, Micros, NodeId, ReadId, Slot, WriteSeq};
use crate::writes::Writes;
use std::collections::{BTreeMap, BTreeSet};

/// What a step works with: the driver's context and where outputs go.
pub(crate) struct Io<'a> {
    pub(crate) now: Micros,
    pub(crate) random: u64,
    pub(crate) log: &'a dyn LogReader,
    pub(crate) out: &'a mut Vec<Output>,
}

impl Io<'_> {
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.out.push(Output::Send { to, message });
    }
}

/// One replica of a group. See the crate's documentation for the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub(crate) me: NodeId,
    pub(crate) options: Options,
    /// Newest, staged.
    pub(crate) hard: HardState,
    pub(crate) log: Log,
    pub(crate) writes: Writes,
    pub(crate) role: Role,
    /// Known chosen prefix of this log.
    pub(crate) commit: Slot,
    /// As told by the driver.
    pub(crate) applied: Slot,
    /// Last `Committed` emitted.
    pub(crate) committed: Slot,
    /// An unchosen or unentered stop-sign at the end of the log.
    pub(crate) stop_sign: Option<Slot>,
    pub(crate) alive: BTreeSet<NodeId>,
    /// Greatest round seen in a refusal of this epoch.
    pub(crate) seen_round: u64,
    /// Last `TrimTo` emitted.
    pub(crate) trim_to: Slot,
    /// What campaigns fetched so far, until a leader is known.
    pub(crate) fetched: Option<Fetched>,
    /// Bytes of entries written since the hard state last was.
    pub(crate) unhinted: usize,
    /// The cluster version: what every node understands.
    pub(crate) version: u64,
    /// The write that makes `b0_used` durable, while B0 is about to be led.
    pub(crate) b0_after: Option<WriteSeq>,
    /// What is chosen is announced only once this write is durable: it holds the promise, or the epoch, that goes with it.
    pub(crate) commit_after: Option<WriteSeq>,
    /// Whom this replica supports, so that it may serve reads without asking.
    pub(crate) support: Support,
    /// Reads that the leader was asked about, and until when an answer is awaited.
    pub(crate) followed: BTreeMap<ReadId, Followed>,
    /// How long to wait for such an answer, µs: as long as the link seems to need.
    pub(crate) patience: u64,
    /// For the planted fault.
    #[cfg(feature = "planted")]
    pub(crate) old_lease: Micros,
    /// Stands for no election and leads nothing in this life: its driver lacks the state that a leader serves from.
    pub(crate) abstains: bool,
    /// Before the first step.
    pub(crate) fresh: bool,
    /// Why the replica stopped.
    pub(crate) dead: Option<String>,
    pub(crate) shown: Option<(RoleKind, Ballot, Option<NodeId>)>,
}

impl Replica {
    pub(crate) fn assemble(
        me: NodeId,
        hard: HardState,
        log: Log,
        commit: Slot,
        applied: Slot,
        options: Options,
    ) -> Self {
        let ballot = hard.promised;
        Self {
            me,
            log,
            writes: Writes::default(),
            role: Role::Follower(Follower::new(None)),
            commit,
            applied,
            committed: applied,
            stop_sign: None,
            alive: BTreeSet::new(),
            seen_round: ballot.round,
            trim_to: Slot(0),
            fetched: None,
            unhinted: 0,
            version: options.version,
            b0_after: None,
            commit_after: None,
            support: Support::default(),
            followed: BTreeMap::new(),
            patience: options.resend_us,
            #[cfg(feature = "planted")]
            old_lease: Micros(0),
            abstains: false,
            fresh: true,
            dead: None,
            shown: None,
            hard,
            options,
        }
    }

    /// Handles one input. Outputs are appended to `out` and are to be carried out in order.
    pub fn step(&mut self, ctx: &Ctx<'_>, input: Input, out: &mut Vec<Output>) {
        if self.dead.is_some() {
            return;
        }
        let mut io = Io { now: ctx.now, random: ctx.random, log: ctx.log, out };
        if self.fresh {
            self.fresh = false;
            self.first_step(&mut io);
            if self.dead.is_some() {
                return;
            }
        }
        self.answer_held(&mut io);
        self.on_time(&mut io);
        self.expire_followed(&mut io);
        match input {
            Input::Tick => {}
            Input::Message { from, message } => self.on_message(from, message, &mut io),
            Input::Propose { commands } => self.on_propose(commands, &mut io),
            Input::Persisted(seq) => self.on_persisted(seq, &mut io),
            Input::Applied(slot) => self.on_applied(slot),
            Input::PeerLiveness { node, alive } => self.on_liveness(node, alive, &mut io),
            Input::Dropped { to } => self.on_dropped(to, &mut io),
            Input::TransferTo(node) => self.on_transfer_to(node, &mut io),
            Input::ChangeConfig { membership, ts } => self.on_change_config(membership, ts, &mut io),
            Input::ReadIndex(id) => self.on_read_index(id, &mut io),
            Input::Campaign => self.on_campaign(&mut io),
            Input::Release => self.on_release(&mut io),
            Input::Tell => self.notify_commit(&mut io),
            Input::Begun => self.on_begun(),
        }
        self.finish(&mut io);
    }

    /// Every node understands cluster version `version` from now on. It never goes back.
    pub fn speak(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// When a `Tick` is wanted next; `None` for a silent group.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        if self.dead.is_some() {
            return None;
        }
        if self.fresh {
            return Some(Micros(0));
        }
        let role = match &self.role {
            Role::Follower(follower) => {
                [follower.election_at, follower.doubt_at, follower.confirm_by].into_iter().flatten().min()
            }
            Role::Candidate(candidate) => Some(candidate.restart_at),
            Role::Leader(leader) => leader.deadline(),
        };
        let followed = self.followed.values().map(|followed| followed.until).min();
        [role, self.support.deadline(), followed].into_iter().flatten().min()
    }

    /// Whether this replica leads and takes proposals.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader, where known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader.map(|b| b.node),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.me),
        }
    }

    /// Entries of `(after, upto]` up to the one that passes `max_bytes`, to be applied. `upto` must not exceed the last
    /// [`Output::Committed`].
    ///
    /// # Errors
    /// The driver's store failed; the replica must be stopped.
    pub fn entries_to_apply(
        &self,
        log: &dyn LogReader,
        after: Slot,
        upto: Slot,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, String> {
        assert!(upto <= self.committed, "slot {upto} is not committed here, the last is {}", self.committed);
        self.log.entries(log, after, upto, max_bytes)
    }

    /// The driver removed the log up to `upto`, which was applied durably.
    pub fn trimmed(&mut self, upto: Slot) {
        assert!(upto <= self.applied, "trimmed at {upto} above what is applied, {}", self.applied);
        self.log.trim(upto);
    }

    /// The hard state, as handed out for writing: that of a replica whose log a snapshot is about to replace.
    #[must_use]
    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    /// Whether the log holds exactly this entry, or ends its trimmed part with it.
    #[must_use]
    pub fn holds(&self, id: EntryId) -> bool {
        self.log.holds(id)
    }

    /// What may be shown of the replica.
    #[must_use]
    pub fn status(&self) -> Status {
        let (progress, unfit) = match &self.role {
            Role::Leader(leader) => {
                let members = leader.progress.iter();
                let unfit = members.clone().filter(|(_, p)| p.unfit_until.is_some()).map(|(node, _)| *node).collect();
                (members.map(|(node, p)| (*node, p.matched)).collect(), unfit)
            }
            _ => (Vec::new(), Vec::new()),
        };
        Status {
            role: self.role_kind(),
            promised: self.hard.promised,
            accepted: self.hard.accepted,
            leader: self.leader(),
            commit: self.commit,
            committed_durable: self.committed,
            last: self.log.last(),
            durable: self.log.durable(),
            applied: self.applied,
            membership: self.hard.membership.clone(),
            epoch_start: self.hard.epoch_start,
            progress,
            unfit,
        }
    }

    /// Up to where a member is known to hold the log, where this replica leads: acknowledged under its ballot, or chosen.
    #[must_use]
    pub fn held_by(&self, member: NodeId) -> Option<Slot> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.progress.get(&member).map(|progress| progress.matched.max(progress.commit))
    }

    fn role_kind(&self) -> RoleKind {
        match (&self.role, self.my_role()) {
            (Role::Leader(_), _) => RoleKind::Leader,
            (Role::Candidate(_), _) => RoleKind::Candidate,
            (Role::Follower(_), Some(MemberRole::Voter)) => RoleKind::Follower,
            (Role::Follower(_), Some(MemberRole::Learner)) => RoleKind::Learner,
            (Role::Follower(_), None) => RoleKind::Removed,
        }
    }

    pub(crate) fn my_role(&self) -> Option<MemberRole> {
        self.hard.membership.role_of(self.me)
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.my_role() == Some(MemberRole::Voter)
    }

    /// The other members of the epoch.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.hard.membership.members.iter().map(|m| m.node).filter(|n| *n != self.me).collect()
    }

    /// The other voters of the epoch.
    pub(crate) fn peer_voters(&self) -> Vec<NodeId> {
        self.hard.membership.voters().filter(|n| *n != self.me).collect()
    }

    /// Whether the nodes of `set` that vote are a quorum.
    pub(crate) fn is_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let membership = &self.hard.membership;
        membership.voters().filter(|n| has(*n)).count() >= membership.quorum()
    }

    /// Whether this node and those it hears are a quorum.
    pub(crate) fn quorum_alive(&self) -> bool {
        self.is_quorum(|n| n == self.me || self.alive.contains(&n))
    }

    pub(crate) fn on_message(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) {
        if let Some(message) = self.screen_epoch(from, message, io) {
            match message {
                Message::PreVote { ballot, held } => self.on_pre_vote(from, ballot, held, io),
                Message::PreVoteGranted { ballot } => self.on_pre_vote_granted(from, ballot, io),
                Message::PreVoteRefused { ballot, promised, leader } => {
                    self.on_pre_vote_refused(from, ballot, promised, leader, io);
                }
                Message::Confirm { ballot } => self.on_confirm(from, ballot, io),
                Message::Released { ballot } => self.on_released(from, ballot, io),
                Message::Prepare { ballot, commit } => self.on_prepare(from, ballot, commit, io),
                Message::Promise { .. } => self.on_promise(from, message, io),
                Message::Nack { ballot, promised } => self.on_nack(from, ballot, promised, io),
                Message::Fetch { ballot, accepted, from: after, upto } => {
                    self.on_fetch(from, ballot, accepted, (after, upto), io);
                }
                Message::Fetched { ballot, prev, entries } => self.on_fetched(from, ballot, prev, entries, io),
                Message::Sync { .. } => self.on_sync(from, message, io),
                Message::Accept { .. } => self.on_accept(from, message, io),
                Message::Accepted { ballot, upto, commit } => self.on_accepted(from, ballot, upto, commit, io),
                Message::Behind { .. } => self.on_behind(from, message, io),
                Message::Learn { .. } => self.on_learn(from, message, io),
                Message::Learned { epoch, commit } => self.on_learned(from, epoch, commit, io),
                Message::ReadProbe { ballot, probe } => self.on_read_probe(from, ballot, probe, io),
                Message::ReadAck { ballot, probe, support } => self.on_read_ack(from, (ballot, probe), support, io),
                Message::ReadRequest { ballot, read } => self.on_read_request(from, ballot, read, io),
                Message::ReadGranted { read, slot, .. } => self.on_read_granted(read, slot, io),
                Message::TimeoutNow { ballot } => self.on_timeout_now(from, ballot, io),
                Message::TransferRefused { ballot } => self.on_transfer_refused(from, ballot, io),
            }
        }
    }

    fn on_persisted(&mut self, seq: WriteSeq, io: &mut Io<'_>) {
        let (upto, messages) = self.writes.confirm(seq);
        if let Some(upto) = upto {
            self.log.set_durable(upto);
        }
        for (at, (to, message)) in messages.iter().enumerate() {
            if !self.superseded(*to, message, &messages[at + 1..]) {
                io.send(*to, message.clone());
            }
        }
        if self.b0_after.is_some_and(|after| after <= self.writes.durable()) {
            self.lead_b0(io);
        }
        match &self.role {
            Role::Follower(_) => {}
            Role::Candidate(_) => self.count_promises(io),
            Role::Leader(_) => self.count_accepted(io),
        }
    }

    /// A reply whose ballot was overtaken meanwhile, or one that a later reply of the same write makes needless.
    fn superseded(&self, to: NodeId, message: &Message, later: &[(NodeId, Message)]) -> bool {
        match message {
            Message::Accepted { ballot, upto, .. } => {
                let covers =
                    |m: &Message| matches!(m, Message::Accepted { ballot: b, upto: u, .. } if b == ballot && u >= upto);
                *ballot < self.hard.promised || later.iter().any(|(t, m)| *t == to && covers(m))
            }
            Message::Promise { ballot, .. } | Message::Prepare { ballot, .. } => *ballot < self.hard.promised,
            _ => false,
        }
    }

    /// From now on keeps at most `bytes` bytes of entries in memory that are durable, chosen and applied.
    pub fn limit_cache(&mut self, bytes: usize) {
        self.options.cache_bytes = bytes;
        self.log.shrink(bytes, self.applied);
    }

    /// Bytes of entries in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.log.cached_bytes()
    }

    fn on_applied(&mut self, slot: Slot) {
        assert!(slot <= self.committed, "applied {slot} beyond what is committed here, {}", self.committed);
        self.applied = self.applied.max(slot);
        self.log.shrink(self.options.cache_bytes, self.applied);
    }

    fn on_liveness(&mut self, node: NodeId, alive: bool, io: &mut Io<'_>) {
        let changed = if alive { self.alive.insert(node) } else { self.alive.remove(&node) };
        match &self.role {
            Role::Follower(_) => self.follow_liveness(node, alive, io),
            Role::Candidate(_) => {}
            Role::Leader(_) => self.lead_liveness(node, alive, changed, io),
        }
    }

    fn on_time(&mut self, io: &mut Io<'_>) {
        match &self.role {
            Role::Follower(follower) if follower.election_at.is_some_and(|at| at <= io.now) => self.start_pre_vote(io),
            Role::Follower(follower) if follower.confirm_by.is_some_and(|at| at <= io.now) => self.disbelieve(io),
            Role::Follower(follower) if follower.doubt_at.is_some_and(|at| at <= io.now) => self.doubt(io),
            Role::Candidate(candidate) if candidate.restart_at <= io.now => self.restart_campaign(io),
            Role::Leader(_) => self.lead_time(io),
            Role::Follower(_) | Role::Candidate(_) => {}
        }
    }

    /// The end of a step: one write for all that was staged, what may be applied, what changed of the role.
    fn finish(&mut self, io: &mut Io<'_>) {
        if self.dead.is_some() {
            return;
        }
        self.announce_committed(io);
        self.watch_quorum(io.now);
        self.stage_hint();
        if let Some((seq, staged)) = self.writes.issue(self.log.last().slot) {
            let hard = staged.hard.then(|| self.hard.clone());
            let write = Persist { seq, hard, truncate_from: staged.truncate_from, append: staged.append };
            io.out.push(Output::Persist(write));
        } else {
            for (to, message) in self.writes.release() {
                io.send(to, message);
            }
        }
        let ballot = match &self.role {
            Role::Follower(follower) => follower.leader.unwrap_or(self.hard.promised),
            Role::Candidate(_) | Role::Leader(_) => self.hard.promised,
        };
        let shown = (self.role_kind(), ballot, self.leader());
        if self.shown != Some(shown) {
            self.shown = Some(shown);
            io.out.push(Output::RoleChanged { role: shown.0, ballot, leader: shown.2 });
        }
        if self.dead.is_none()
            && let Err(why) = self.check_cheap()
        {
            self.fail(why, io);
        }
    }

    /// What is chosen and durable here may be applied.
    fn announce_committed(&mut self, io: &mut Io<'_>) {
        if self.commit_after.is_some_and(|seq| seq > self.writes.durable()) {
            return;
        }
        self.commit_after = None;
        let upto = self.commit.min(self.log.durable());
        if upto > self.committed {
            self.committed = upto;
            io.out.push(Output::Committed(upto));
        }
    }

    /// Stops the replica for good.
    pub(crate) fn fail(&mut self, why: String, io: &mut Io<'_>) {
        io.out.push(Output::Fatal(why.clone()));
        self.dead = Some(why);
    }
}
