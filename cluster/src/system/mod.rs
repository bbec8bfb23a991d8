//! The system shard's state: nodes, tables, shard descriptors, reservations, jobs and id allocation.
//!
//! Owns: the cluster's metadata and its deterministic changes. Must never: read a clock, draw a random number or hand out
//! an id twice.

mod bounds;
mod chunks;
mod codec;
mod command;
mod delta;
mod job_rows;
mod jobs;
mod lineage;
mod merges;
mod news;
mod nodes;
mod place;
mod read;
mod repairs;
mod replace;
mod resizes;
mod shards;
mod split_rows;
mod splits;
mod tables;
mod version;

pub use codec::{decode_descriptor, encode_descriptor};
pub use delta::{Changed, MapDelta};
pub use jobs::{CLUSTER_VERSION, JOB_WHY_MAX, JOBS, JOBS_ENDED_MAX, JOBS_RUNNING_MAX, bounded_why};
pub use lineage::{Child, Reserved, ShardNews};
pub use nodes::{Leaves, Room, no_such_node};
pub use repairs::Repairs;
pub use resizes::{Resized, Resizes};
pub use shards::Shards;
pub use version::{MetadataError, SPEAKS, TooNew, not_read_by, too_old};

use crate::ids::{ClusterVersion, JobId, NodeId, SYSTEM_SHARD, ShardId, TableId};
use crate::jobs::empty_node::Leaving;
use crate::jobs::job::{Job, JobEnd, JobGoal};
use crate::planner::picture::Mark;
use bounds::{bounds, check_name};
use bytes::Bytes;
use place::Load;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// The version of the bounds that a table's shards are created with.
pub const FIRST_BOUNDS: u64 = 1;
/// Most shards of one table at its creation.
pub const TABLE_SHARDS_MAX: u32 = 4096;
/// Longest table name, bytes.
pub const TABLE_NAME_MAX: usize = 64;
/// Most replicas of the system shard.
pub const SYSTEM_REPLICAS_MAX: usize = 5;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// host:port of its gRPC service.
    pub addr: String,
    /// The joiner's nonce: a repeated join gets the same id.
    pub nonce: u128,
    /// Whether it holds replicas. Another value than [`Mark::Stays`] there is from [`ClusterVersion::FOURTH`] on.
    pub mark: Mark,
}

/// How a table's keys are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// By key order.
    Range,
    /// By XXH3-64, seed 0, of the key.
    Hash,
}

/// What a table keeps of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The newest record.
    Latest,
    /// Every record.
    All,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// How its keys are spread.
    pub partitioning: Partitioning,
    /// What it keeps.
    pub retention: Retention,
    /// Replicas of each of its shards.
    pub replicas: u32,
}

/// How a shard's group began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// With nothing, or with what a backup has: it was founded with its table.
    Founded,
    /// With what its parent had of its range: a split made it.
    Child {
        /// The shard that was split.
        parent: ShardId,
        /// The version of both that the split made.
        version: u64,
    },
}

/// A shard: what part of which table, and who replicates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The shard.
    pub shard: ShardId,
    /// Its table; 0 for the system shard.
    pub table: TableId,
    /// The table's partitioning.
    pub partitioning: Partitioning,
    /// The table's retention.
    pub retention: Retention,
    /// Lower bound, inclusive: a key, or an 8-byte big-endian hash.
    pub from: Bytes,
    /// Upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Changes of bounds, from [`FIRST_BOUNDS`].
    pub version: u64,
    /// Its members.
    pub membership: Membership,
    /// How its group began. Only one that was founded may be created with nothing.
    pub born: Birth,
}

/// The cluster's metadata as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemState {
    /// Random name of the cluster.
    pub cluster: u128,
    /// The version that the cluster is at.
    pub version: ClusterVersion,
    /// Counts changes.
    pub revision: u64,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// The tables.
    pub tables: BTreeMap<TableId, TableInfo>,
    /// The shards, the system shard among them.
    pub shards: Shards,
    /// Next id to give.
    pub next_node: u64,
    /// Next id to give.
    pub next_table: u32,
    /// Next id to give.
    pub next_shard: u64,
    /// The jobs that run, and the last that have ended. A map that came from another node knows none.
    pub jobs: BTreeMap<JobId, Job>,
    /// The id given last; 0: none was given.
    pub last_job: JobId,
    /// The ids that are given to future children of splits. A shard of such an id may exist before the map knows it.
    pub reserved: BTreeMap<ShardId, Reserved>,
}

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemCommand {
    /// A node joins, or repeats its join.
    AddNode {
        /// host:port.
        addr: String,
        /// The joiner's.
        nonce: u128,
        /// What it says it speaks. Told only where the cluster is above the first version: the first has no place for it.
        speaks: ClusterVersion,
    },
    /// A node's address changed.
    SetAddr {
        /// The node.
        node: NodeId,
        /// host:port.
        addr: String,
    },
    /// A new table.
    CreateTable {
        /// Its name.
        name: String,
        /// How its keys are spread.
        partitioning: Partitioning,
        /// What it keeps.
        retention: Retention,
        /// Number of shards (hash); for range 0, or split points + 1.
        shards: u32,
        /// Split points (range).
        splits: Vec<Bytes>,
        /// Replicas of a shard; 0: three, or as many as there are nodes.
        replicas: u32,
    },
    /// A table goes, with all its records.
    DropTable {
        /// Its name.
        name: String,
    },
    /// A shard's group reports its members; only a later epoch than the one known changes anything.
    SetMembers {
        /// The shard.
        shard: ShardId,
        /// Its members, as of an epoch of which an entry is chosen.
        membership: Membership,
    },
    /// A node that holds no replica goes for good.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// The cluster's version is raised, for good.
    Upgrade {
        /// The new version.
        to: ClusterVersion,
        /// The nodes that have said that they speak it, in rising order: every node of the cluster must be among them.
        spoken_by: Vec<NodeId>,
    },
    /// A job begins; the same goal again is the same job, as long as that runs. From [`ClusterVersion::THIRD`] on, as all of jobs.
    StartJob {
        /// What it is to reach.
        goal: JobGoal,
    },
    /// A job goes back, as long as it can.
    CancelJob {
        /// The job.
        job: JobId,
    },
    /// Whoever carries a job out says that it has ended.
    FinishJob {
        /// The job.
        job: JobId,
        /// The epoch of its shard in which that was seen; 0 where the shard exists no more.
        seen: Epoch,
        /// How.
        end: JobEnd,
    },
    /// An id is asked for, for the child of a split. From [`ClusterVersion::FOURTH`] on, as all of splits.
    ReserveChild {
        /// The shard that is to be split.
        parent: ShardId,
        /// Its version, as the split is computed from.
        version: u64,
    },
    /// A replica tells what it has applied of its shard's bounds.
    ShardNews(ShardNews),
    /// A job pauses, or goes on. From [`ClusterVersion::FOURTH`] on, as all that follow.
    PauseJob {
        /// The job.
        job: JobId,
        /// Whether it pauses.
        paused: bool,
    },
    /// A node takes replicas again; a job that empties it ends as cancelled.
    Recommission {
        /// The node.
        node: NodeId,
    },
    /// Whoever carries out a job that empties a node asks for the move of one of its replicas, as a job.
    BeginMove {
        /// The job that empties the node.
        job: JobId,
        /// The replica, and where it goes.
        leaving: Leaving,
    },
    /// A table asks for another number of replicas, and a job begins for each of its shards that has more or fewer. From
    /// [`ClusterVersion::FIFTH`] on.
    AlterTable {
        /// Its name.
        name: String,
        /// Replicas of each of its shards.
        replicas: u32,
    },
}

impl SystemCommand {
    /// The cluster version that knows the command: below it, it must not be proposed.
    #[must_use]
    pub fn needs(&self) -> ClusterVersion {
        match self {
            Self::ReserveChild { .. }
            | Self::ShardNews(_)
            | Self::PauseJob { .. }
            | Self::Recommission { .. }
            | Self::BeginMove { .. } => ClusterVersion::FOURTH,
            Self::AlterTable { .. } => ClusterVersion::FIFTH,
            Self::StartJob { goal } => goal.needs(),
            Self::CancelJob { .. } | Self::FinishJob { .. } => ClusterVersion::THIRD,
            _ => ClusterVersion::FIRST,
        }
    }

    /// The version that a node must speak to read the command. To one that speaks less it is not even sent: a node of the first
    /// version proposes what it cannot read. Of an upgrade that is more than [`Self::needs`], since it is proposed below its own version.
    #[must_use]
    pub fn read_from(&self) -> ClusterVersion {
        match self {
            Self::Upgrade { to, .. } => (*to).max(ClusterVersion::SECOND),
            Self::AddNode { speaks, .. } if *speaks > ClusterVersion::FIRST => ClusterVersion::SECOND,
            command => command.needs(),
        }
    }
}

/// What became of a [`SystemCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemOutcome {
    /// The node's id.
    Node(NodeId),
    /// The table's id.
    Table(TableId),
    /// Done.
    Done,
    /// Nothing changed: a table of this name exists.
    TableExists(String),
    /// Nothing changed: no table has this name.
    TableNotFound(String),
    /// Nothing changed: a part of the command makes no sense.
    Invalid {
        /// Which part.
        field: String,
        /// Why.
        why: String,
    },
    /// The shard's id.
    Shard(ShardId),
    /// The job's id.
    Job(JobId),
    /// Nothing changed: no job has this id, or its record is kept no longer.
    JobNotFound(JobId),
    /// Nothing changed: this job is in the way, or in another state.
    JobConflict {
        /// The job.
        job: JobId,
        /// Why.
        why: String,
    },
}

/// A row of the system shard that changed: kind, id, new content.
pub type RowChange = (u8, u64, Option<Bytes>);

/// Row kind of the counters and the cluster's name (id 0).
pub const ROW_CLUSTER: u8 = 0;
/// Row kind of a node.
pub const ROW_NODE: u8 = 1;
/// Row kind of a table.
pub const ROW_TABLE: u8 = 2;
/// Row kind of a shard descriptor.
pub const ROW_SHARD: u8 = 3;
/// Row kind of a job.
pub const ROW_JOB: u8 = 4;
/// Row kind of an id that is reserved for the child of a split.
pub const ROW_RESERVED: u8 = 5;

/// Every row kind.
#[must_use]
pub fn row_kinds() -> RangeInclusive<u8> {
    ROW_CLUSTER..=ROW_RESERVED
}

impl SystemState {
    /// The metadata of a new cluster: its founders get ids 1, 2, … in order and the first five replicate the system shard.
    #[must_use]
    pub fn found(cluster: u128, founders: &[String]) -> Self {
        let nodes: BTreeMap<_, _> = (1..)
            .zip(founders)
            .map(|(id, addr)| (NodeId(id), NodeInfo { addr: addr.clone(), nonce: u128::from(id), mark: Mark::Stays }))
            .collect();
        let members: Vec<NodeId> = nodes.keys().copied().take(SYSTEM_REPLICAS_MAX).collect();
        let system = Descriptor {
            shard: SYSTEM_SHARD,
            table: TableId(0),
            partitioning: Partitioning::Range,
            retention: Retention::Latest,
            from: Bytes::new(),
            to: Bytes::new(),
            version: FIRST_BOUNDS,
            membership: first_epoch(&members, NodeId(1)),
            born: Birth::Founded,
        };
        Self {
            cluster,
            version: ClusterVersion::FIRST,
            revision: 1,
            next_node: founders.len() as u64 + 1,
            nodes,
            tables: BTreeMap::new(),
            shards: Shards::from_iter([(SYSTEM_SHARD, system)]),
            next_table: 1,
            next_shard: 2,
            jobs: BTreeMap::new(),
            last_job: JobId(0),
            reserved: BTreeMap::new(),
        }
    }

    /// The metadata of a new cluster with the tables and shards of this one: the founders are its nodes, every shard is placed
    /// anew, in the epoch that `epochs` gives it. Reservations go: a split that is in no backup was not made.
    #[must_use]
    pub fn refounded(&self, cluster: u128, founders: &[String], epochs: &BTreeMap<ShardId, Epoch>) -> Self {
        let mut next = Self::found(cluster, founders);
        next.revision = self.revision + 1;
        // What is restored was written under it.
        next.version = self.version;
        (next.next_table, next.next_shard) = (self.next_table, self.next_shard);
        next.tables.clone_from(&self.tables);
        let mut load = Load::of(&next);
        let epoch = |shard: &ShardId, old: &Descriptor| {
            epochs.get(shard).copied().unwrap_or_default().max(old.membership.epoch.next())
        };
        for (shard, old) in self.shards.iter() {
            let descriptor = match next.shards.get(shard) {
                Some(founded) => founded.clone(),
                None => {
                    let replicas = self.tables.get(&old.table).map_or(1, |table| table.replicas as usize).max(1);
                    let (nodes, leader) = load.choose(replicas);
                    let membership = first_epoch(&nodes, leader);
                    load.add(&membership);
                    // Its group is founded with what the backup has.
                    Descriptor { membership, born: Birth::Founded, ..old.clone() }
                }
            };
            let membership = Membership { epoch: epoch(shard, old), ..descriptor.membership };
            next.shards.insert(*shard, Descriptor { membership, ..descriptor });
        }
        next
    }

    /// The table of this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<(TableId, &TableInfo)> {
        self.tables.iter().find(|(_, t)| t.name == name).map(|(id, t)| (*id, t))
    }

    /// Carries out one command: deterministic, all or nothing. Returns its outcome and the rows that changed.
    pub fn execute(&mut self, command: &SystemCommand) -> (SystemOutcome, Vec<RowChange>) {
        let mut rows = Vec::new();
        let version = self.version;
        let outcome = match command {
            SystemCommand::AddNode { addr, nonce, speaks } => self.add_node(addr, *nonce, *speaks, &mut rows),
            SystemCommand::SetAddr { node, addr } => self.set_addr(*node, addr, &mut rows),
            SystemCommand::CreateTable { name, partitioning, retention, shards, splits, replicas } => {
                let bounds = check_name(name).and_then(|()| bounds(*partitioning, *shards, splits));
                match bounds {
                    Err((field, why)) => SystemOutcome::Invalid { field: field.into(), why },
                    Ok(bounds) => self.create_table(name, *partitioning, *retention, &bounds, *replicas, &mut rows),
                }
            }
            SystemCommand::DropTable { name } => self.drop_table(name, &mut rows),
            SystemCommand::SetMembers { shard, membership } => self.set_members(*shard, membership, &mut rows),
            SystemCommand::RemoveNode { node } => self.remove_node(*node, &mut rows),
            SystemCommand::Upgrade { to, spoken_by } => self.upgrade(*to, spoken_by),
            SystemCommand::StartJob { goal } => self.start_job(goal, &mut rows),
            SystemCommand::CancelJob { job } => self.cancel_job(*job, &mut rows),
            SystemCommand::FinishJob { job, seen, end } => self.finish_job(*job, *seen, end, &mut rows),
            SystemCommand::ReserveChild { parent, version } => self.reserve_child(*parent, *version, &mut rows),
            SystemCommand::ShardNews(news) => self.shard_news(news, &mut rows),
            SystemCommand::PauseJob { job, paused } => self.pause_job(*job, *paused, &mut rows),
            SystemCommand::Recommission { node } => self.recommission(*node, &mut rows),
            SystemCommand::BeginMove { job, leaving } => self.begin_move(*job, *leaving, &mut rows),
            SystemCommand::AlterTable { name, replicas } => self.alter_table(name, *replicas, &mut rows),
        };
        if !rows.is_empty() || self.version != version {
            self.revision += 1;
            rows.push((ROW_CLUSTER, 0, Some(self.encode_cluster())));
        }
        (outcome, rows)
    }

    fn set_members(&mut self, shard: ShardId, membership: &Membership, rows: &mut Vec<RowChange>) -> SystemOutcome {
        // Reported by a group's leader, whose core proposes no other; but what is applied here is everybody's map.
        if !membership.is_sound() {
            let why = "members rise by node, each stands once, and the first leader votes".into();
            return SystemOutcome::Invalid { field: "members".into(), why };
        }
        if let Some(stranger) = membership.members.iter().find(|m| !self.nodes.contains_key(&m.node)) {
            let why = format!("there is no node {}", stranger.node);
            return SystemOutcome::Invalid { field: "members".into(), why };
        }
        // A shard that was dropped meanwhile has no members.
        let Some(descriptor) = self.shards.get(&shard) else { return SystemOutcome::Done };
        if membership.epoch > descriptor.membership.epoch {
            let descriptor = Descriptor { membership: membership.clone(), ..descriptor.clone() };
            rows.push((ROW_SHARD, shard.0, Some(encode_descriptor(&descriptor))));
            self.shards.insert(shard, descriptor);
        }
        SystemOutcome::Done
    }
}

/// The membership of a new shard.
fn first_epoch(nodes: &[NodeId], first_leader: NodeId) -> Membership {
    let mut members: Vec<Member> = nodes.iter().map(|&node| Member { node, role: MemberRole::Voter }).collect();
    members.sort_unstable();
    Membership { epoch: Epoch(1), members, first_leader }
}

#[cfg(test)]
mod tests;
