//! What all shards of a worker share in a round.
//!
//! Owns: the surroundings (host, stores, log writer, metrics), the round's clock, timers and the lists of shards with work.
//! Must never: hold what belongs to one shard.

mod pace;

use crate::StoreError;
use crate::command::RowFormat;
use crate::host::{Host, Told};
use crate::logstore::LogStore;
use crate::machine::Born;
use crate::machine::overlay::Overlay;
use crate::memory::Memory;
use crate::metrics::{EngineMetrics, level as count};
use crate::node::{NodeShared, WorkerId, worker_of};
use crate::setup::WorkerSetup;
use crate::state::StateStore;
use crate::wall::WallClocks;
use crate::writer::{Clock, Gauges, LogWriter};
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, NodeId, ShardId, Slot};
use synod_cluster::system::SystemState;
use synod_paxos::io::{Options, Output};
use synod_paxos::types::Micros;

/// How many bytes of their logs groups keep for lagging members.
pub(crate) struct LogKeep {
    /// All groups of the node together.
    budget: u64,
    /// Each group at most, by what all needed when that was last looked at.
    each: u64,
}

impl LogKeep {
    /// A low disk leaves this part of the budget.
    const LOW_PART: u64 = 16;

    fn new(budget: u64) -> Self {
        Self { budget, each: budget }
    }

    /// Each group's share.
    pub(crate) fn each(&self) -> u64 {
        self.each
    }

    /// How close together the sizes of logs are noted, bytes: a sixteenth of what is kept, or 64 KiB, and no closer than
    /// makes 65,536 notes on the node.
    pub(crate) fn step(&self) -> u64 {
        (self.each / 16).min(64 << 10).max(self.budget >> 16)
    }

    /// Shares the budget anew among the node's groups, of which this worker's need so much each.
    pub(crate) fn share(&mut self, shared: &NodeShared, worker: WorkerId, needs: Vec<u64>, disk_low: bool) {
        let budget = if disk_low { self.budget / Self::LOW_PART } else { self.budget };
        self.each = shared.log_keep.share(worker, needs, budget);
    }
}

/// A split that was applied just now and made a child.
pub(crate) struct Birth {
    /// The shard that was split.
    pub(crate) parent: ShardId,
    /// Where in its log.
    pub(crate) slot: Slot,
    pub(crate) born: Box<Born>,
    /// Who waits for the child's beginning here.
    pub(crate) told: Option<Told>,
}

/// What all shards of a worker share.
pub(crate) struct Node<H> {
    pub(crate) me: NodeId,
    /// Which of the node's workers this is.
    pub(crate) worker: WorkerId,
    /// What it shares with the others.
    pub(crate) shared: Arc<NodeShared>,
    /// Shards that came to this worker against the rule, and its own that went. What others read of a hand-over is in the node's
    /// table, which changes while the shard is on its way: a worker has it from its arrival on.
    handed: BTreeMap<ShardId, bool>,
    pub(crate) host: H,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) store: Box<dyn StateStore>,
    pub(crate) writer: LogWriter,
    pub(crate) metrics: Arc<EngineMetrics>,
    /// For measuring only; what is decided goes by `now`.
    pub(crate) clock: Clock,
    pub(crate) paxos: Options,
    pub(crate) memory: Memory,
    /// Bytes of applied entries that each core may keep in memory, by what all kept when that was last looked at.
    pub(crate) cache_each: usize,
    /// The cluster's version, as of the newest map. It may lag behind the cluster's and never runs ahead of it: what this
    /// version has may be proposed, sent and written, what a later one has may already come in.
    pub(crate) cluster_version: ClusterVersion,
    /// The greatest version that this node speaks.
    pub(crate) speaks: ClusterVersion,
    /// This round's time.
    pub(crate) now: Micros,
    /// The wall clocks of this node, as of this round, and of its peers.
    pub(crate) walls: WallClocks,
    /// A write's deadline may lie so far ahead of its shard's time, µs.
    pub(crate) deadline_ahead_us: u64,
    /// Peers that are heard.
    pub(crate) live: BTreeSet<NodeId>,
    pub(crate) timers: BTreeSet<(Micros, ShardId)>,
    /// Shards that can go on in this round.
    pub(crate) work: Vec<ShardId>,
    /// Shards that have more to apply, in the next round.
    pub(crate) later: Vec<ShardId>,
    /// Requests taken and not yet answered, save tails that wait for news.
    pub(crate) waiting: usize,
    /// The same of the other workers, as of this round's beginning.
    waiting_elsewhere: usize,
    /// May wait on the node.
    waiting_max: usize,
    /// Tails that wait for news.
    pub(crate) tails: usize,
    tails_elsewhere: usize,
    pub(crate) tails_max: usize,
    /// Groups led here whose epoch the map may not know yet.
    pub(crate) changed_members: BTreeSet<ShardId>,
    /// Shards whose bounds or children the map may not know yet, and when that is looked at next.
    pub(crate) changed_bounds: BTreeMap<ShardId, Micros>,
    /// Children of splits applied in this round that have not begun.
    pub(crate) births: Vec<Birth>,
    /// Shards whose part in a merge has changed in this round, or that wait for the one that they take in.
    pub(crate) merging: Vec<ShardId>,
    /// Members that lack what was trimmed here, or their state, and the slot below which a snapshot is of no use to them.
    pub(crate) snapshots_wanted: Vec<(ShardId, NodeId, Slot)>,
    /// Why this node's disk is low, where it is.
    pub(crate) disk_low: Option<Arc<str>>,
    /// What of a low disk may be taken for a while, bytes.
    pub(crate) disk_spare: u64,
    /// Peers whose disks are low.
    pub(crate) low_peers: BTreeSet<NodeId>,
    /// Shards that have applied a marker and wait for their state to be frozen.
    pub(crate) marked: Vec<ShardId>,
    /// What the logs keep for lagging members.
    pub(crate) log_keep: LogKeep,
    /// Bytes of entries applied since the last freeze.
    pub(crate) applied_bytes: usize,
    /// Holds back what is applied while the store lags.
    pub(crate) pace: Pace,
    /// The newest metadata that the system shard here applied in this round.
    pub(crate) published: Option<Arc<SystemState>>,
    // Buffers, reused.
    pub(crate) outputs: Vec<Output>,
    pub(crate) overlay: Overlay,
}

impl<H: Host> Node<H> {
    pub(crate) fn new(setup: WorkerSetup, host: H) -> Self {
        let WorkerSetup {
            me,
            worker,
            shared,
            recovered,
            log,
            store,
            seen,
            progress,
            metrics,
            clock,
            memory,
            mode,
            options,
            ..
        } = setup;
        for (node, incarnation, seq) in recovered.seen {
            seen.raise(node, (incarnation, seq));
        }
        let gauges = Gauges { progress, metrics: Arc::clone(&metrics), clock: Arc::clone(&clock) };
        let levels = (Arc::clone(&shared), worker);
        let writer = LogWriter::new(Arc::clone(&log), mode, recovered.seq, seen, gauges, levels);
        Self {
            me,
            worker,
            shared,
            handed: BTreeMap::new(),
            host,
            log,
            store,
            writer,
            metrics,
            clock,
            cache_each: options.paxos.cache_bytes,
            memory,
            paxos: options.paxos,
            cluster_version: ClusterVersion::FIRST,
            speaks: options.speaks,
            now: Micros(0),
            walls: WallClocks::default(),
            deadline_ahead_us: options.deadline_ahead_us,
            live: BTreeSet::new(),
            timers: BTreeSet::new(),
            work: Vec::new(),
            later: Vec::new(),
            waiting: 0,
            waiting_elsewhere: 0,
            waiting_max: options.waiting_max,
            tails: 0,
            tails_elsewhere: 0,
            tails_max: options.tails_max,
            changed_members: BTreeSet::new(),
            changed_bounds: BTreeMap::new(),
            births: Vec::new(),
            merging: Vec::new(),
            snapshots_wanted: Vec::new(),
            disk_low: None,
            disk_spare: 0,
            low_peers: BTreeSet::new(),
            marked: Vec::new(),
            log_keep: LogKeep::new(options.log_keep_bytes),
            applied_bytes: 0,
            pace: Pace::default(),
            published: None,
            outputs: Vec::new(),
            overlay: Overlay::default(),
        }
    }

    /// Which rows the entries proposed here write: nodes of the first version do not know those with totals.
    pub(crate) fn row_format(&self) -> RowFormat {
        if self.cluster_version >= ClusterVersion::SECOND { RowFormat::Totals } else { RowFormat::Plain }
    }

    /// The cluster version that cores may count on: what every node understands of their messages.
    pub(crate) fn consensus_version(&self) -> u64 {
        self.cluster_version.0.into()
    }

    /// Whether this worker has a shard.
    pub(crate) fn has(&self, shard: ShardId) -> bool {
        self.handed.get(&shard).copied().unwrap_or_else(|| self.has_by_rule(shard)) || planted!(EveryWorkerHasAll)
    }

    /// Whether this worker has a shard that was never handed over to or from it.
    fn has_by_rule(&self, shard: ShardId) -> bool {
        // A child that began with another worker comes here by a hand-over only.
        worker_of(shard, self.shared.workers()) == self.worker && !self.shared.places().began_elsewhere(shard)
    }

    /// A shard came to this worker, or went.
    pub(crate) fn set_has(&mut self, shard: ShardId, has: bool) {
        if self.has_by_rule(shard) == has {
            self.handed.remove(&shard);
        } else {
            self.handed.insert(shard, has);
        }
    }

    /// A round begins: what the other workers hold is looked at.
    pub(crate) fn look_around(&mut self) {
        self.waiting_elsewhere = self.shared.waiting.of_others(self.worker);
        self.tails_elsewhere = self.shared.tails.of_others(self.worker);
    }

    /// A round ends: the other workers, and metrics, are told what this one holds.
    pub(crate) fn tell_counts(&self) {
        self.metrics.waiting_requests.set(self.shared.waiting.set(self.worker, count(self.waiting)));
        self.metrics.waiting_tails.set(self.shared.tails.set(self.worker, count(self.tails)));
    }

    /// Whether the node holds more requests than it may.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.waiting + self.waiting_elsewhere > self.waiting_max
    }

    /// Whether no more tails may wait on the node.
    pub(crate) fn is_full_of_tails(&self) -> bool {
        self.tails + self.tails_elsewhere >= self.tails_max
    }

    /// The shard can go on in this round.
    pub(crate) fn schedule(&mut self, id: ShardId, scheduled: &mut bool) {
        if !std::mem::replace(scheduled, true) {
            self.work.push(id);
        }
    }

    /// The system shard here applied a change.
    pub(crate) fn publish(&mut self, state: SystemState) {
        let map = Arc::new(state);
        self.host.map_changed(Arc::clone(&map));
        self.published = Some(map);
    }

    /// The state cannot be read or written: where it is damaged, the next process finds that noted and looks through it.
    pub(crate) fn state_failed(&mut self, error: &StoreError) -> ! {
        if matches!(error, StoreError::Corrupt { .. }) {
            self.store.condemn(error);
        }
        self.host.fatal(error.to_string())
    }

    /// What a store or the log writer gave, or the end of the process.
    pub(crate) fn must<T>(&mut self, result: Result<T, StoreError>) -> T {
        result.unwrap_or_else(|error| self.host.fatal(error.to_string()))
    }
}
