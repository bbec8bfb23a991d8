//! What a worker is made of, and its limits.
//!
//! Owns: the list, with the limits that hold where nobody sets others. Must never: act on any of it.

use crate::identity::SeenTable;
use crate::logstore::{LogStore, NodeRecovered};
use crate::memory::Memory;
use crate::metrics::EngineMetrics;
use crate::node::{NodeShared, WorkerId};
use crate::state::StateStore;
use crate::writer::{Clock, WriterMode, WriterProgress};
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId};
use synod_paxos::io::Options;

/// Limits of a worker.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Requests that may wait for an answer on the node; above it new ones are refused as overloaded.
    pub waiting_max: usize,
    /// Tails that may wait for news on the node. They are counted apart: idle ones keep nobody from writing.
    pub tails_max: usize,
    /// Bytes of applied entries after which the state is frozen at the latest: a bound on what a restart must replay.
    pub freeze_log_bytes: usize,
    /// About what the logs of all groups together keep for lagging members, bytes, shared by need; a member that lags further
    /// needs a snapshot. What every member has is trimmed in any case. While the disk is low it is a sixteenth.
    pub log_keep_bytes: u64,
    /// Time after which an unused snapshot is removed, µs. The log after its position may be trimmed then.
    pub snapshot_unused_us: u64,
    /// How long a drain may take, µs.
    pub drain_us: u64,
    /// How long after the first peer's answer a starting node waits for the others' before a quorum is enough, µs.
    pub identity_grace_us: u64,
    /// Slots that make a trim of a group's log worth a row, at any time.
    pub trim_slots: u64,
    /// The same when a freeze has just been completed.
    pub trim_slots_flushed: u64,
    /// Interval between comparisons of each shard's replicas, µs; 0 is never.
    pub scrub_us: u64,
    /// The greatest cluster version that this node speaks; at most [`ClusterVersion::SPOKEN`]. Less than that keeps it as an
    /// older binary is: it does not start in, or follow, a cluster above it.
    pub speaks: ClusterVersion,
    /// A write whose deadline lies further ahead of its shard's time is refused, µs: its client's session is kept as long.
    pub deadline_ahead_us: u64,
    /// Interval at which a worker that has much more to do than another looks for a shard to hand over, µs; 0 is never.
    pub balance_us: u64,
    /// Of every consensus core.
    pub paxos: Options,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            waiting_max: 100_000,
            tails_max: 100_000,
            freeze_log_bytes: 256 << 20,
            log_keep_bytes: 4 << 30,
            snapshot_unused_us: 60_000_000,
            drain_us: 3_000_000,
            identity_grace_us: 500_000,
            trim_slots: 4096,
            trim_slots_flushed: 1024,
            scrub_us: 0,
            speaks: ClusterVersion::SPOKEN,
            deadline_ahead_us: u64::MAX,
            balance_us: 5_000_000,
            paxos: Options::default(),
        }
    }
}

/// What a worker is made of.
pub struct WorkerSetup {
    /// This node.
    pub me: NodeId,
    /// Which of the node's workers it is.
    pub worker: WorkerId,
    /// What it shares with the others.
    pub shared: Arc<NodeShared>,
    /// What [`LogStore::recover_node`] found before this process began its incarnation.
    pub recovered: NodeRecovered,
    /// This process, as [`LogStore::begin_incarnation`] named it.
    pub incarnation: Incarnation,
    /// The log of every group.
    pub log: Arc<dyn LogStore>,
    /// The state of every shard.
    pub store: Box<dyn StateStore>,
    /// Filled by the worker; the pulse tells peers from it.
    pub seen: Arc<SeenTable>,
    /// Filled by the log writer; the pulse tells peers from it.
    pub progress: Arc<WriterProgress>,
    /// What is counted and measured.
    pub metrics: Arc<EngineMetrics>,
    /// For measuring only; the same clock that the rounds' times come from.
    pub clock: Clock,
    /// What may be held in memory.
    pub memory: Memory,
    /// Where synced writes happen.
    pub mode: WriterMode,
    /// Limits.
    pub options: WorkerOptions,
}
