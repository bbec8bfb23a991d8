//! One replica of a shard on this node: the consensus core, the state machine, and the requests between them.
//!
//! Owns: what was asked and not yet answered, and how far the log was applied and trimmed. Must never: answer a write
//! before its entry was applied here under the ballot it was proposed in, answer a linearizable read before its slot was
//! applied, or let a request go unanswered.

mod admin;
mod apply;
mod birth;
mod bounds;
mod cold;
mod divide;
mod effects;
mod hand_over;
mod load;
mod members;
mod merge;
mod missing;
mod propose;
mod reads;
mod requests;
mod scrub;
mod snapshot;
mod step;

pub(crate) use bounds::TELL_US;
pub(crate) use merge::knows_merges;

use crate::host::{Host, LoadReport, Read, ReplicaReport, Reply};
use crate::load::Load;
use crate::logstore::{GroupRecovered, GroupWrite, LogStore};
use crate::machine::ShardState;
use crate::memory::{Held, Holder, Memory};
use crate::round::Node;
use crate::wall::ShardTime;
use admin::Order;
use cold::Fetches;
use missing::Missing;
use propose::Proposals;
use reads::Reads;
use scrub::Scrubs;
use snapshot::{Install, LogSizes};
use synod_cluster::ids::{ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::Replica;
use synod_paxos::io::{Input, LogReader, Recovered, Status};
use synod_paxos::types::{Ballot, Entry, EntryId, Epoch, Membership, Micros, NodeId};

/// What `synod status` calls a replica that waits for a snapshot because its state is gone.
pub(crate) const REINSTALLING: &str = "reinstalling";

/// The log of one group, for its core.
struct ShardLog<'a> {
    log: &'a dyn LogStore,
    shard: ShardId,
}

impl LogReader for ShardLog<'_> {
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String> {
        self.log.entries(self.shard, from, upto, max_bytes).map_err(|e| e.to_string())
    }
}

/// The core, or what it will be made of once the node's identity is clear.
enum Core {
    Waiting(Box<Recovered>),
    Running(Box<Replica>),
    /// A snapshot is about to take the log's place.
    Installing(Box<Install>),
}

/// The epoch that a group begins in: only then is a replica created from nothing. A later member begins with a snapshot.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(1);

/// One replica of a shard.
pub(crate) struct Shard {
    id: ShardId,
    core: Core,
    /// Of the epoch in force.
    members: Membership,
    state: ShardState,
    /// Chosen and durable here.
    committed: Slot,
    proposals: Proposals,
    reads: Reads,
    fetches: Fetches,
    leading: bool,
    /// Every member has the log up to here.
    trim_to: Slot,
    /// The log is gone up to here.
    trimmed: Slot,
    /// Applied, and flushed to disk.
    durable_applied: Slot,
    /// In the node's timers under this time.
    timer: Option<Micros>,
    /// In the node's list of shards with work.
    scheduled: bool,
    /// The metadata was loaded, or changed by an entry, and not published since.
    unpublished: bool,
    /// The core has not heard yet which of the epoch's members are alive.
    meet_members: bool,
    /// It begins in this process, and its core has not heard that yet.
    begins: bool,
    /// What the group was created with.
    genesis: bytes::Bytes,
    /// The last entry applied and its timestamp, once known.
    position: Option<(EntryId, u64)>,
    sizes: LogSizes,
    /// Bytes of entries that the core has in memory.
    cached: Held,
    /// Not trimmed beyond this: a snapshot of that position is on its way.
    held: Option<Slot>,
    /// The state is gone: a snapshot must come first.
    missing: Option<Missing>,
    scrubs: Scrubs,
    time: ShardTime,
    /// The administrative entry that was proposed here and is not applied yet.
    order: Option<Order>,
    /// The version of its bounds, as of what was looked at last.
    version: u64,
    /// The version of its bounds that is flushed, and all that came before it; 0 where none is.
    held_version: u64,
    /// Where its bounds changed last, as far as that was applied by this process.
    split_at: Slot,
    /// The next entry takes a neighbour in, which is not here yet.
    awaited: Option<Box<merge::Awaited>>,
    /// Nothing is applied: what was is about to be durable, and the replica goes to another worker.
    still: bool,
    /// Inputs of the core and requests since they were last counted.
    handled: u64,
    load: Load,
}

impl Shard {
    /// A replica that waits for the node's identity to be clear.
    pub(crate) fn new(id: ShardId, recovered: GroupRecovered, state: ShardState) -> Self {
        let applied = state.applied();
        let version = state.descriptor().version;
        let GroupRecovered { genesis, hard, trimmed, runs, last, last_ts, sizes, .. } = recovered;
        // Where the whole log is trimmed, the state knows best how far its timestamps had come.
        let last_ts = if planted!(TimestampsForgotten) { last_ts } else { last_ts.max(state.last_ts()) };
        let position = (applied == trimmed.slot).then_some((trimmed, last_ts));
        let recovered = Recovered { hard, trimmed, runs, last, last_ts, applied, live: Vec::new() };
        Self {
            id,
            members: recovered.hard.membership.clone(),
            core: Core::Waiting(Box::new(recovered)),
            unpublished: state.system().is_some(),
            state,
            committed: applied,
            proposals: Proposals::default(),
            reads: Reads::default(),
            fetches: Fetches::default(),
            leading: false,
            trim_to: Slot(0),
            trimmed: trimmed.slot,
            durable_applied: applied,
            timer: None,
            scheduled: false,
            meet_members: false,
            begins: false,
            genesis,
            position,
            sizes: LogSizes::recovered(sizes, applied),
            cached: Held::default(),
            held: None,
            missing: None,
            scrubs: Scrubs::behind(last.slot),
            time: ShardTime::default(),
            order: None,
            version,
            held_version: version,
            split_at: Slot(0),
            awaited: None,
            still: false,
            handled: 0,
            load: Load::new(id.0),
        }
    }

    /// The state machine.
    pub(crate) fn state_mut(&mut self) -> &mut ShardState {
        &mut self.state
    }

    /// The state machine.
    pub(crate) fn state(&self) -> &ShardState {
        &self.state
    }

    /// Counts what the replica holds in memory in these accounts from now on.
    pub(crate) fn share(&mut self, memory: &Memory) {
        self.state.share(memory);
        self.cached.move_to(memory.of(Holder::Entries));
    }

    /// Bytes of entries that the core has in memory.
    pub(crate) fn cached(&self) -> usize {
        self.cached.bytes()
    }

    /// From now on the core keeps at most `bytes` bytes of applied entries in memory.
    pub(crate) fn limit_cache(&mut self, bytes: usize) {
        if let Core::Running(replica) = &mut self.core {
            replica.limit_cache(bytes);
            self.cached.set(replica.cached_bytes());
        }
    }

    /// Whether `node` is a member of the group.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        self.members.role_of(node).is_some()
    }

    /// Whether something was applied that is not yet known to be on disk, or what it began with is not.
    pub(crate) fn unflushed(&self) -> bool {
        let bounds = self.held_version < self.state.descriptor().version && !self.is_missing();
        self.state.applied() > self.durable_applied || bounds
    }

    /// The members whose answers a waiting replica waits for; `None` once it runs.
    pub(crate) fn waits_for(&self) -> Option<&Membership> {
        match &self.core {
            Core::Waiting(_) => Some(&self.members),
            Core::Running(_) | Core::Installing(_) => None,
        }
    }

    /// The replica has just been created, on a node to which others may have spoken of it before.
    pub(crate) fn begins(&mut self) {
        self.begins = true;
    }

    /// The replica can go on in this round.
    pub(crate) fn schedule<H: Host>(&mut self, node: &mut Node<H>) {
        node.schedule(self.id, &mut self.scheduled);
    }

    /// Puts the replica's next deadline into the node's timers.
    fn arm<H: Host>(&mut self, node: &mut Node<H>) {
        let core = match &self.core {
            Core::Running(replica) => replica.deadline(),
            Core::Waiting(_) | Core::Installing(_) => None,
        };
        let next = [core, self.reads.deadline()].into_iter().flatten().min();
        if next != self.timer {
            if let Some(old) = self.timer {
                node.timers.remove(&(old, self.id));
            }
            node.timers.extend(next.map(|at| (at, self.id)));
            self.timer = next;
        }
    }

    /// A timer of this replica was taken out of the node's timers.
    pub(crate) fn timer_fired<H: Host>(&mut self, node: &mut Node<H>) {
        self.timer = None;
        for asked in self.reads.expire(node, self.state.applied()) {
            self.end_tail(node, asked);
        }
        if self.reads.has_queued() {
            self.schedule(node);
        }
        self.step(node, Input::Tick);
        self.arm(node);
    }

    /// Does what has become possible: proposes and asks what queued, applies what is chosen, answers what is ready.
    pub(crate) fn advance<H: Host>(&mut self, node: &mut Node<H>) {
        self.scheduled = false;
        self.meet_members(node);
        self.propose(node);
        self.ask_reads(node);
        if self.apply(node) {
            node.later.push(self.id);
        }
        // Who has read the system shard finds at least the map that was in force then.
        self.publish(node);
        self.answer_reads(node);
        self.arm(node);
    }

    /// The live voter that has most of the log among those that `may`, where this replica leads.
    pub(crate) fn best_successor<H: Host>(
        &self,
        node: &Node<H>,
        may: impl Fn(&Node<H>, NodeId) -> bool,
    ) -> Option<NodeId> {
        let status = self.status().filter(|_| self.leading)?;
        let fit = |n: &NodeId| *n != node.me && node.live.contains(n) && !status.unfit.contains(n);
        let voters = status.membership.voters().filter(|n| fit(n) && may(node, *n));
        let matched = |n: &NodeId| status.progress.iter().find(|(p, _)| p == n).map(|(_, slot)| *slot);
        voters.max_by_key(|n| (matched(n), std::cmp::Reverse(*n)))
    }

    fn status(&self) -> Option<Status> {
        match &self.core {
            Core::Running(replica) => Some(replica.status()),
            Core::Waiting(_) | Core::Installing(_) => None,
        }
    }

    /// The state up to `slot` is on disk, and this version of its bounds.
    pub(crate) fn flushed(&mut self, slot: Slot, version: u64) {
        self.durable_applied = self.durable_applied.max(slot);
        self.held_version = self.held_version.max(version);
    }

    /// Trims the log where at least `step` slots, or many bytes, can go. An entry can go once it is flushed here and either every
    /// member has it or the entries after it exceed the group's share of what the node keeps.
    pub(crate) fn trim<H: Host>(&mut self, node: &mut Node<H>, step: u64) {
        if self.missing.is_some() {
            return;
        }
        let durable = if planted!(TrimAboveDurable) { self.state.applied() } else { self.durable_applied };
        let far = self.sizes.behind(node.log_keep.each());
        let held = self.held.filter(|_| !planted!(TrimAboveSnapshot)).unwrap_or(Slot(u64::MAX));
        let kept = self.trim_to.max(far).min(held).min(self.scrubs.keeps_log());
        let target = if planted!(TrimAboveMembers) { durable } else { kept.min(durable) };
        let Core::Running(replica) = &mut self.core else { return };
        // Of a small share an eighth is enough: what waits to be trimmed is kept beyond it.
        let enough = snapshot::TRIM_BYTES.min(node.log_keep.each() / 8);
        let worth = target.0 >= self.trimmed.0 + step || self.sizes.freed(target) >= enough;
        if target <= self.trimmed || !worth {
            return;
        }
        let before = Slot(target.0 - 1);
        let entry = match node.log.entries(self.id, before, target, 1) {
            Ok(entries) => entries.into_iter().next(),
            Err(error) => node.host.fatal(error.to_string()),
        };
        let Some(entry) = entry else { return };
        if target == self.state.applied() {
            // Since the start nothing was applied, maybe: a snapshot could no longer read this entry.
            self.position = Some((entry.id, entry.ts));
        }
        // The core first: it must not ask for what the write under way removes.
        replica.trimmed(target);
        self.trimmed = target;
        self.sizes.trimmed(target);
        let write = GroupWrite { shard: self.id, trim: Some(entry.id), ..GroupWrite::default() };
        node.writer.add(write, None);
    }

    /// Bytes of its log that the replica keeps, or would keep, for lagging members.
    pub(crate) fn log_needed(&self) -> u64 {
        self.sizes.since(self.trim_to.max(self.trimmed))
    }

    /// Answers everything that waits: the replica goes, the node stops or is quarantined.
    pub(crate) fn answer_all<H: Host>(&mut self, node: &mut Node<H>, why: &Refusal) {
        self.proposals.refuse_all(node, why);
        self.order_lost(None, None);
        self.reads.refuse_all(node, why);
        self.fetches.refuse_reads(node, why);
        if self.leading {
            self.leading = false;
            node.metrics.leaders.dec();
            node.host.role_changed(self.id, None, false);
        }
        if let Some(at) = self.timer.take() {
            node.timers.remove(&(at, self.id));
        }
    }

    /// What `synod status` shows.
    pub(crate) fn report(&self) -> ReplicaReport {
        let mut report = ReplicaReport {
            shard: self.id,
            table: self.state.descriptor().table,
            role: "waiting",
            leader: None,
            ballot: Ballot::default(),
            commit: self.committed,
            applied: self.state.applied(),
            last: self.committed,
            trimmed: self.trimmed,
            lag: Vec::new(),
            ahead_us: 0,
            version: self.state.descriptor().version,
            from: self.state.descriptor().from.clone(),
            to: self.state.descriptor().to.clone(),
            epoch: self.members.epoch,
            unborn: self.is_unborn(),
            hindrance: None,
            merge: None,
            scrub: self.scrubs.report(&self.members),
            load: LoadReport::default(),
            size: None,
        };
        match (&self.core, self.status()) {
            (Core::Waiting(recovered), _) => {
                report.ballot = recovered.hard.accepted;
                report.commit = recovered.hard.commit_hint;
                report.last = recovered.last.slot;
            }
            (_, Some(status)) => {
                report.role = status.role.name();
                report.leader = status.leader;
                report.ballot = status.accepted;
                report.commit = status.commit;
                report.last = status.last.slot;
                let lag = |(node, slot): (NodeId, Slot)| (node, status.last.slot.0.saturating_sub(slot.0));
                report.lag = status.progress.iter().copied().map(lag).collect();
            }
            _ => {}
        }
        if self.missing.is_some() {
            report.role = REINSTALLING;
        }
        report
    }

    /// The leader, as far as known here.
    fn leader(&self) -> Option<NodeId> {
        match &self.core {
            Core::Running(replica) => replica.leader(),
            Core::Waiting(_) | Core::Installing(_) => None,
        }
    }
}

/// A read, and whom to tell.
struct Asked {
    read: Read,
    /// Of the shard's bounds when it was asked: it is answered in no other.
    version: u64,
    reply: Reply,
}

/// Answers one request and takes it off the node's count.
fn answer<H: Host>(node: &mut Node<H>, reply: Reply, answer: Result<crate::host::Answer, Refusal>) {
    node.waiting = node.waiting.saturating_sub(1);
    reply.send(answer);
}
