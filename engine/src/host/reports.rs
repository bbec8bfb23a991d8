//! What a node shows of its replicas.
//!
//! Owns: the reports that status and metrics are made of. Must never: be what anything is decided by.

pub use crate::load::{LoadReport, Sampled, Work};
pub use crate::middle::Middle;

use crate::codec::keys::Bounds;
use crate::state::Measure;
use bytes::Bytes;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, NodeId, ShardId, Slot, TableId};
use synod_cluster::system::Partitioning;
use synod_paxos::types::{Ballot, Epoch};

/// One replica, as shown by `synod status`.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// The shard.
    pub shard: ShardId,
    /// Its table.
    pub table: TableId,
    /// follower, candidate, leader, learner, removed, waiting, reinstalling.
    pub role: &'static str,
    /// The leader, where known.
    pub leader: Option<NodeId>,
    /// Ballot accepted.
    pub ballot: Ballot,
    /// Known chosen prefix.
    pub commit: Slot,
    /// Applied.
    pub applied: Slot,
    /// Last entry.
    pub last: Slot,
    /// Log trimmed up to here.
    pub trimmed: Slot,
    /// A leader's view: (node, slots not yet acknowledged).
    pub lag: Vec<(NodeId, u64)>,
    /// A leader's view: by how much the shard's time is ahead of what a quorum's wall clocks have reached, µs.
    pub ahead_us: u64,
    /// The version of its bounds.
    pub version: u64,
    /// Its lower bound, inclusive: a position.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// The epoch of its members.
    pub epoch: Epoch,
    /// It began here as the child of a split and has no state yet.
    pub unborn: bool,
    /// A leader's view: why it takes no split or merge on at the moment; `None` where it does.
    pub hindrance: Option<String>,
    /// How far a merge is that it takes part in.
    pub merge: Option<MergeReport>,
    /// The last comparison of the replicas that this one took part in.
    pub scrub: Option<ScrubReport>,
    /// What it has to do.
    pub load: LoadReport,
    /// A leader's: what tells its bytes, where its store does.
    pub size: Option<Size>,
}

/// Another shard is to go into this one.
pub const MERGE_MERGING: &str = "merging";
/// A merge was taken back, and the other shard is yet to go on.
pub const MERGE_CANCELLED: &str = "cancelled";
/// The shard is to go into another one, and answers nobody.
pub const MERGE_FROZEN: &str = "frozen";

/// A merge, as a replica of one of its shards has applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeReport {
    /// [`MERGE_MERGING`], [`MERGE_CANCELLED`] or [`MERGE_FROZEN`].
    pub phase: &'static str,
    /// The other shard.
    pub with: ShardId,
    /// For how long this process has seen it so, µs.
    pub since_us: u64,
}

/// What tells how many bytes a replica has, on any thread.
#[derive(Clone)]
pub struct Size {
    rows: Vec<Bounds>,
    measure: Arc<dyn Measure>,
}

impl Size {
    /// Of these rows.
    pub(crate) fn new(rows: Vec<Bounds>, measure: Arc<dyn Measure>) -> Self {
        Self { rows, measure }
    }

    /// What it has flushed, bytes, about. It may read a block of each file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.iter().fold(0, |sum: u64, (from, to)| sum.saturating_add(self.measure.size(from, to)))
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ranges", self.rows.len())
    }
}

/// Where a shard could be divided, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The version of its bounds that this is of.
    pub version: u64,
    /// How the keys of its table are spread.
    pub partitioning: Partitioning,
    /// Its lower bound.
    pub from: Bytes,
    /// Its upper bound; empty: none.
    pub to: Bytes,
    /// Bytes of its records, about.
    pub bytes: u64,
    /// What divides them; `None` where it has none, or one key has nearly all.
    pub middle: Option<Middle>,
    /// What it has to do, with all positions that were sampled.
    pub load: LoadReport,
}

/// What a replica knows of a comparison of all replicas at one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// The slot.
    pub slot: Slot,
    /// Of this replica's rows.
    pub hash: u128,
    /// Members that told a hash, this one among them.
    pub compared: Vec<NodeId>,
    /// Whether all of these are equal.
    pub equal: bool,
    /// Members that differ from what a majority holds; none where there is no majority (yet).
    pub diverged: Vec<NodeId>,
}

/// What a node knows of its replicas.
#[derive(Clone, Debug, Default)]
pub struct NodeReport {
    /// One a replica.
    pub replicas: Vec<ReplicaReport>,
    /// Why the node takes no part, where it does not.
    pub quarantined: Option<String>,
    /// Why it refuses writes that need room, where its disk is low.
    pub disk_low: Option<String>,
    /// Revision of the map the worker holds.
    pub map_revision: u64,
    /// The cluster's version, as of that map.
    pub cluster_version: ClusterVersion,
    /// Snapshots made here since the process began.
    pub snapshots_made: u64,
    /// Replicas here that a snapshot took the place of since the process began.
    pub snapshots_installed: u64,
}

impl NodeReport {
    /// What two workers of a node report, as one: the older map, and all replicas by shard.
    #[must_use]
    pub(crate) fn with(mut self, mut other: Self) -> Self {
        self.replicas.append(&mut other.replicas);
        // A shard that went from one to the other between their answers is in both: what was seen later counts.
        self.replicas.sort_unstable_by_key(|replica| (replica.shard, Reverse(replica.applied)));
        self.replicas.dedup_by_key(|replica| replica.shard);
        Self {
            replicas: self.replicas,
            quarantined: self.quarantined.or(other.quarantined),
            disk_low: self.disk_low.or(other.disk_low),
            map_revision: self.map_revision.min(other.map_revision),
            cluster_version: self.cluster_version.min(other.cluster_version),
            // Counted once a node, whichever worker is asked.
            snapshots_made: self.snapshots_made.max(other.snapshots_made),
            snapshots_installed: self.snapshots_installed.max(other.snapshots_installed),
        }
    }
}
