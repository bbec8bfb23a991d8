//! The world: nodes, network and clients on one virtual clock.
//!
//! Owns: the queue of events and their order. Must never: let an event of a process that ended before it left take effect.

use crate::clients::{Attempt, Client, KnownShard, Operation};
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::disk::NodeDisk;
use crate::model::ShardModel;
use crate::moves::{Jobs, Moves};
use crate::network::Network;
use crate::node::SimNode;
use crate::plan::{Plan, Planted};
use crate::retry::Failure;
use crate::shown::Shown;
use crate::snapshot_files::{Step, Transfer};
use crate::splits::Splits;
use crate::trace::Trace;
use crate::versions::Versions;
use crate::violation::{Checked, Violation};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{Entry, Incarnation, NodeId, NodeWriteSeq, ShardId, Slot, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::SystemState;
use synod_engine::host::{Answer, SplitWanted};
use synod_engine::identity::Mark;
use synod_engine::metrics::EngineMetrics;
use synod_paxos::types::{Ballot, Epoch, Membership};

/// No run takes more events: something goes in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// Which process of a node, and when it did something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) node: NodeId,
    pub(crate) process: u64,
    pub(crate) stamp: u64,
}

/// Something that happens.
pub(crate) enum Event {
    /// A process's round is due.
    Round { node: NodeId, process: u64 },
    /// The log write under way beside a process's rounds has ended.
    LogWritten { node: NodeId, process: u64 },
    /// A process looks at its detector and (every other time) sends pulses.
    Beat { node: NodeId, process: u64, count: u64 },
    /// A pulse arrives.
    Pulse { from: Origin, to: NodeId, incarnation: Incarnation, stalled: u64, wall_us: u64, seen: Mark },
    /// Consensus messages arrive. `number`: of their connection; `None` for those that come a second time.
    Frame {
        from: Origin,
        to: NodeId,
        incarnation: Incarnation,
        write_seq: NodeWriteSeq,
        number: Option<u64>,
        messages: Vec<(ShardId, Bytes)>,
    },
    /// A process has applied these.
    Applied { from: Origin, shard: ShardId, entries: Vec<Entry> },
    /// A process's metadata changed.
    Map { from: Origin, map: Arc<SystemState> },
    /// A process has removed a replica.
    Removed { from: Origin, shard: ShardId, upto: Epoch },
    /// Something about snapshots.
    Snapshot { node: NodeId, process: u64, step: Step },
    /// A peer's connection was refused.
    Refused { node: NodeId, process: u64, peer: NodeId },
    /// A request arrives.
    Request { attempt: u64 },
    /// An answer arrives.
    Reply { from: Origin, attempt: u64, answer: Result<Answer, Refusal> },
    /// An attempt failed at its client.
    Failed { attempt: u64, failure: Failure },
    /// An operation's next attempt.
    Attempt { op: u64 },
    /// A client's next operation.
    Idle { client: usize },
    /// The administrator's next command.
    Admin,
    /// A look at the replicas that move.
    Move,
    /// A look at the jobs, and a turn of their executors.
    Jobs,
    /// A change of members arrives at whoever leads.
    Propose { shard: ShardId, expected: Epoch, change: MemberChange },
    /// The operator looks for a shard to split.
    Splits,
    /// A split arrives at whoever leads.
    Split { shard: ShardId, wanted: SplitWanted },
    /// The operator looks at a cluster whose version he wants to raise.
    Raise,
    /// A map arrives from another node.
    Follow { node: NodeId, process: u64, map: Arc<SystemState> },
    /// The next fault.
    Act,
    /// A process starts.
    Restart { node: NodeId },
    /// A process goes on.
    Resume { node: NodeId, process: u64 },
    /// A node that was told to leave ends.
    Leave { node: NodeId, process: u64, count: u64 },
    /// By now this node must be quarantined.
    Expelled { node: NodeId },
}

/// What part of the run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The cluster is founded.
    Setup,
    /// Faults and clients.
    Storm,
    /// Clients finish what they began, and some more.
    Calm,
    /// Nobody asks anything.
    Quiet,
}

/// What was said and done in epochs so far.
#[derive(Default)]
pub(crate) struct Epochs {
    /// The epoch that each process last acted in, by group.
    pub(crate) spoken: BTreeMap<(NodeId, u64, ShardId), Epoch>,
    /// Who led each ballot.
    pub(crate) led: BTreeMap<(ShardId, Ballot), (NodeId, u64)>,
}

/// The world of one run.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) metrics: Arc<EngineMetrics>,
    pub(crate) nodes: BTreeMap<NodeId, SimNode>,
    pub(crate) ids: Vec<NodeId>,
    pub(crate) net: Network,
    pub(crate) phase: Phase,
    pub(crate) map: Option<Arc<SystemState>>,
    pub(crate) shards: Vec<KnownShard>,
    pub(crate) models: BTreeMap<ShardId, ShardModel>,
    pub(crate) clients: Vec<Client>,
    pub(crate) ops: BTreeMap<u64, Operation>,
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    pub(crate) last_op: u64,
    pub(crate) last_attempt: u64,
    /// Of each table's key: what answers have shown (first, next).
    pub(crate) shown: BTreeMap<(TableId, Bytes), Shown>,
    /// Operations each lane has finished in the calm, by client.
    pub(crate) calm_done: BTreeMap<usize, u64>,
    /// Shards written to in the calm, with success.
    pub(crate) calm_shards: BTreeSet<ShardId>,
    /// When the first phase is over.
    pub(crate) storm_ends: u64,
    /// Tables made by the administrator so far.
    pub(crate) tables_made: u64,
    /// No fault strikes before.
    pub(crate) truce_until: u64,
    /// The next frame, the next part of a snapshot is damaged.
    pub(crate) garble: bool,
    pub(crate) garble_part: bool,
    /// The rows of every snapshot made, by shard and slot, as a hash.
    pub(crate) made: BTreeMap<(ShardId, Slot), u64>,
    /// Snapshots installed, by node and shard.
    pub(crate) installs: BTreeMap<(NodeId, ShardId), u64>,
    /// The positions of those with which replicas began.
    pub(crate) begun: BTreeMap<(NodeId, ShardId), Slot>,
    /// Connections that parts of snapshots come on.
    pub(crate) transfers: BTreeMap<u64, Transfer>,
    pub(crate) last_transfer: u64,
    /// Replicas that move from node to node.
    pub(crate) moves: Moves,
    /// Those that the cluster moves by itself.
    pub(crate) jobs: Jobs,
    /// Shards that are split.
    pub(crate) splits: Splits,
    /// Who acted in which epoch, and led which ballot.
    pub(crate) epochs: Epochs,
    /// What each process speaks.
    pub(crate) versions: Versions,
    /// Frames with consensus messages sent so far, and synced writes.
    pub(crate) frames: u64,
    /// Rounds before which a process is told to hand one of its shards to another worker, ‰.
    pub(crate) hand_overs: u64,
}

impl World {
    pub(crate) fn new(seed: u64, planted: Planted, trace: Trace, metrics: Arc<EngineMetrics>) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::choose(&mut dice, planted);
        let ids: Vec<NodeId> = (1..=plan.nodes + plan.standby).map(NodeId).collect();
        let mut nodes = BTreeMap::new();
        for id in &ids {
            let disk = NodeDisk::new(dice.word(), plan.sync, plan.flush, planted.disk);
            disk.lock().files.time = plan.file_time;
            disk.lock().files.gather_bytes = plan.gather_bytes;
            let sign = |dice: &mut Dice, most: u64| dice.between((0, 2 * most)) as i64 - most as i64;
            let (ppm, wall) = (sign(&mut dice, plan.drift_ppm), sign(&mut dice, plan.wall_error));
            let mut node = SimNode::new(*id, disk, ppm, wall);
            node.wall_ppm = sign(&mut dice, plan.wall_ppm);
            nodes.insert(*id, node);
        }
        let splits = Splits::choose(seed);
        let splits_on = splits.on;
        let clients = (0..=plan.clients).map(|n| Client::new(n + 1, &mut dice)).collect();
        Self {
            seed,
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            plan,
            dice,
            trace,
            coverage: Coverage::default(),
            metrics,
            nodes,
            ids,
            net: Network::default(),
            phase: Phase::Setup,
            map: None,
            shards: Vec::new(),
            models: BTreeMap::new(),
            clients,
            ops: BTreeMap::new(),
            attempts: BTreeMap::new(),
            last_op: 0,
            last_attempt: 0,
            shown: BTreeMap::new(),
            calm_done: BTreeMap::new(),
            calm_shards: BTreeSet::new(),
            storm_ends: 0,
            tables_made: 0,
            truce_until: 0,
            garble: false,
            garble_part: false,
            made: BTreeMap::new(),
            installs: BTreeMap::new(),
            begun: BTreeMap::new(),
            transfers: BTreeMap::new(),
            last_transfer: 0,
            moves: Moves::default(),
            jobs: Jobs::choose(seed),
            splits,
            epochs: Epochs::default(),
            versions: Versions::choose(seed, splits_on),
            frames: 0,
            hand_overs: 0,
        }
    }

    /// Both phases.
    pub(crate) fn run(&mut self) -> Checked {
        // From the seed alone: what else is thrown for a run stays as it was.
        self.hand_overs = [0, 5, 30, 150][(self.seed % 4) as usize];
        self.found()?;
        self.storm()?;
        self.calm()
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    /// Runs until `done` or until `end`; whether it was done.
    pub(crate) fn run_until(&mut self, end: u64, mut done: impl FnMut(&mut Self) -> bool) -> Checked<bool> {
        loop {
            if done(self) {
                return Ok(true);
            }
            let Some((&(at, _), _)) = self.queue.first_key_value() else { return Ok(false) };
            if at > end {
                self.now = end;
                return Ok(false);
            }
            let Some((_, event)) = self.queue.pop_first() else { return Ok(false) };
            self.now = at;
            self.take(event)?;
            if self.trace.events() > EVENTS_MAX {
                return Err(Violation::new("a run ends", format!("{EVENTS_MAX} events by {} µs", self.now)));
            }
        }
    }

    fn take(&mut self, event: Event) -> Checked {
        match event {
            Event::Round { node, process } => self.round(node, process),
            Event::LogWritten { node, process } => {
                self.log_written(node, process);
                Ok(())
            }
            Event::Beat { node, process, count } => {
                self.beat(node, process, count);
                Ok(())
            }
            Event::Pulse { from, to, incarnation, stalled, wall_us, seen } => {
                self.pulse_arrives(from, to, (incarnation, stalled, wall_us), seen);
                Ok(())
            }
            Event::Frame { from, to, incarnation, write_seq, number, messages } => {
                self.frame_arrives(from, to, incarnation, write_seq, number, messages)
            }
            Event::Applied { from, shard, entries } => self.applied(from, shard, entries),
            Event::Map { from, map } => self.map_changed(from, map),
            Event::Removed { from, shard, upto } => self.check_removed(from, shard, upto),
            Event::Snapshot { node, process, step } => self.snapshot_step(node, process, step),
            Event::Refused { node, process, peer } => {
                self.refused(node, process, peer);
                Ok(())
            }
            Event::Request { attempt } => {
                self.request_arrives(attempt);
                Ok(())
            }
            Event::Reply { from, attempt, answer } => self.reply_arrives(from, attempt, answer),
            Event::Failed { attempt, failure } => self.attempt_failed(attempt, failure),
            Event::Attempt { op } => self.attempt(op),
            Event::Idle { client } => {
                self.next_operation(client);
                Ok(())
            }
            Event::Admin => {
                self.administer();
                Ok(())
            }
            Event::Move => {
                self.look_at_moves();
                Ok(())
            }
            Event::Jobs => self.look_at_jobs(),
            Event::Propose { shard, expected, change } => {
                self.propose_change(shard, expected, change);
                Ok(())
            }
            Event::Splits => {
                self.look_at_splits();
                Ok(())
            }
            Event::Split { shard, wanted } => {
                self.propose_split(shard, wanted);
                Ok(())
            }
            Event::Raise => {
                self.raise();
                Ok(())
            }
            Event::Follow { node, process, map } => {
                self.map_arrives(node, process, map);
                Ok(())
            }
            Event::Act => self.act(),
            Event::Restart { node } => self.restart(node),
            Event::Resume { node, process } => {
                self.resume(node, process);
                Ok(())
            }
            Event::Leave { node, process, count } => self.leave(node, process, count),
            Event::Expelled { node } => self.expelled(node),
        }
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&id).expect("nodes are never removed")
    }

    /// Whether the process is the node's, runs, and is not paused.
    pub(crate) fn runs(&self, node: NodeId, process: u64) -> bool {
        let node = &self.nodes[&node];
        node.process == process && node.up.as_ref().is_some_and(|up| !up.paused)
    }

    /// Plans a process's next round, where one is due earlier than planned.
    pub(crate) fn wake(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node(id);
        let process = node.process;
        let Some(up) = &mut node.up else { return };
        let Some(due) = up.due(now) else { return };
        if up.round_at.is_none_or(|at| due < at) {
            up.round_at = Some(due);
            self.at(due, Event::Round { node: id, process });
        }
    }

    /// The nodes of which `which` holds.
    pub(crate) fn which(&self, which: impl Fn(&SimNode) -> bool) -> Vec<NodeId> {
        self.nodes.values().filter(|node| which(node)).map(|node| node.id).collect()
    }

    /// Whether one more node may be lost for good, and this one. A group may have come down to two voters by then: who takes a
    /// learner back by a stale view takes back the voter it has become.
    pub(crate) fn spare(&self, victim: NodeId) -> bool {
        let lost = |node: &SimNode| node.out.is_some() || node.damaged || node.set_back;
        let gone = self.which(lost);
        let left = |members: &Membership| members.voters().filter(|id| *id != victim && !gone.contains(id)).count();
        let told = self.map.iter().flat_map(|map| map.shards.values()).map(|d| &d.membership);
        let mut groups = self.models.values().filter_map(|model| model.members()).chain(told);
        gone.len() < (self.ids.len() - 1) / 2 && groups.all(|members| left(members) >= members.quorum())
    }
}
