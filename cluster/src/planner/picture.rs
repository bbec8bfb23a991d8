//! What the planner sees of a cluster at one moment.
//!
//! Owns: the picture, and what follows from it about one node or one shard. Must never: hold a plan, or say what is to be done.
//!
//! Times are relative to an origin that the caller chooses, as in [`crate::detector`].

use super::settings::{Rate, Settings};
use crate::ids::{NodeId, ShardId, TableId};
use crate::jobs::job::JobGoal;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use synod_paxos::types::{MemberRole, Membership};

/// What an operator wants of a node. The map has it, and whoever chooses a node for a replica respects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It holds replicas.
    #[default]
    Stays,
    /// Its replicas leave, and it comes back later.
    Draining,
    /// Its replicas leave, and then it is removed.
    Decommissioning,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stays => "in use",
            Self::Draining => "draining",
            Self::Decommissioning => "decommissioning",
        })
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its zone; empty: it shares none.
    pub zone: String,
    /// Its rack within the zone; empty: it shares none.
    pub rack: String,
    /// Whether it is held for alive.
    pub alive: bool,
    /// Since when that is so.
    pub since: Duration,
    /// Size of its disk, bytes.
    pub disk_bytes: u64,
    /// What is free of it, bytes.
    pub free_bytes: u64,
    /// What is wanted of it.
    pub mark: Mark,
}

impl NodeView {
    /// Whether it may get replicas and leaderships.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.alive && self.mark == Mark::Stays
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableView {
    /// Voters that each shard is to have.
    pub replicas: u32,
    /// Merges leave at least this many shards.
    pub shards_min: u32,
}

/// A key's position that was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The position.
    pub at: Bytes,
    /// What it stands for: the rate of this key and of its neighbours up to the next sample.
    pub rate: Rate,
}

/// A change of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// When.
    pub at: Duration,
    /// Whether an operator asked for it.
    pub by_operator: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Its table.
    pub table: TableId,
    /// Lower bound, inclusive.
    pub from: Bytes,
    /// Upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Changes of bounds.
    pub version: u64,
    /// Its members, and their epoch.
    pub membership: Membership,
    /// Who leads it, where that is known.
    pub leader: Option<NodeId>,
    /// Bytes of one replica.
    pub bytes: u64,
    /// The averaged rate.
    pub rate: Rate,
    /// The greatest rate of the last five minutes.
    pub rate_max: Rate,
    /// Sampled positions, in rising order, no position twice.
    pub samples: Vec<Sample>,
    /// Where its leader would divide its bytes; `None` where nothing can be divided.
    pub middle: Option<Bytes>,
    /// When its bounds changed last, as far as that is known.
    pub resized: Option<Resized>,
}

/// Pairs of voters that fail together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crowding {
    /// Pairs in one zone.
    pub zone: u32,
    /// Pairs in one rack.
    pub rack: u32,
}

/// Why a node takes no replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is dead, or no node of the cluster.
    Dead,
    /// It is being emptied.
    Marked,
    /// Its disk has no room.
    Full,
    /// It has a replica already.
    Member,
}

/// A cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// When.
    pub now: Duration,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// The tables. The system shard's is not among them.
    pub tables: BTreeMap<TableId, TableView>,
    /// The shards.
    pub shards: BTreeMap<ShardId, ShardView>,
    /// The goals of the jobs that run.
    pub running: Vec<JobGoal>,
    /// The settings.
    pub settings: Settings,
}

impl Picture {
    /// Whether a node is alive.
    #[must_use]
    pub fn alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.alive)
    }

    /// Whether a node may get replicas and leaderships.
    #[must_use]
    pub fn takes(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(NodeView::takes)
    }

    /// Whether a node is to be replaced: it has been dead for longer than the grace period, or it is not in the cluster.
    #[must_use]
    pub fn lost(&self, node: NodeId) -> bool {
        let overdue = |n: &NodeView| !n.alive && self.now.saturating_sub(n.since) >= self.settings.dead_grace;
        self.nodes.get(&node).is_none_or(overdue)
    }

    /// The nodes that may get replicas, in rising order.
    pub fn takers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(|(_, n)| n.takes()).map(|(id, _)| *id)
    }

    /// The voters that a shard is to have.
    #[must_use]
    pub fn wanted(&self, view: &ShardView) -> usize {
        match self.tables.get(&view.table) {
            Some(table) => table.replicas as usize,
            None => view.membership.voters().count(),
        }
    }

    /// The voters of a shard that are alive.
    #[must_use]
    pub fn live_voters(&self, view: &ShardView) -> usize {
        view.membership.voters().filter(|node| self.alive(*node)).count()
    }

    /// Whether a majority of a shard's voters is alive.
    #[must_use]
    pub fn has_quorum(&self, view: &ShardView) -> bool {
        self.live_voters(view) >= view.membership.quorum()
    }

    /// Whether all voters of a shard are alive and nobody learns.
    #[must_use]
    pub fn is_calm(&self, view: &ShardView) -> bool {
        view.membership.members.iter().all(|m| m.role == MemberRole::Voter && self.alive(m.node))
    }

    /// Whether the bounds of a shard changed too recently to be changed again.
    #[must_use]
    pub fn rests(&self, view: &ShardView) -> bool {
        view.resized.is_some_and(|Resized { at, by_operator }| {
            let settings = &self.settings;
            let rest = if by_operator { settings.operator_cooldown } else { settings.cooldown };
            self.now < at.saturating_add(rest)
        })
    }

    /// The load units of a shard, a second.
    #[must_use]
    pub fn cost(&self, view: &ShardView) -> u64 {
        self.settings.weights.cost(view.rate)
    }

    /// The pairs of these nodes that fail together.
    #[must_use]
    pub fn crowding(&self, nodes: &[NodeId]) -> Crowding {
        let mut crowding = Crowding::default();
        let views: Vec<&NodeView> = nodes.iter().filter_map(|node| self.nodes.get(node)).collect();
        for (at, one) in views.iter().enumerate() {
            for other in &views[at + 1..] {
                if one.zone.is_empty() || one.zone != other.zone {
                    continue;
                }
                crowding.zone += 1;
                crowding.rack += u32::from(!one.rack.is_empty() && one.rack == other.rack);
            }
        }
        crowding
    }

    /// Why a node takes no replica of a shard with so many bytes, while `incoming` bytes are on their way to it already.
    #[must_use]
    pub fn unfit(&self, node: NodeId, members: &Membership, bytes: u64, incoming: u64) -> Option<Unfit> {
        if members.role_of(node).is_some() {
            return Some(Unfit::Member);
        }
        let Some(view) = self.nodes.get(&node).filter(|n| n.alive) else { return Some(Unfit::Dead) };
        if view.mark != Mark::Stays {
            return Some(Unfit::Marked);
        }
        let kept = u128::from(view.disk_bytes) * u128::from(self.settings.room_percent) / 100;
        let needed = u128::from(bytes) + u128::from(incoming) + kept;
        (u128::from(view.free_bytes) < needed).then_some(Unfit::Full)
    }

    /// The shards that a running job changes.
    #[must_use]
    pub fn busy(&self) -> BTreeSet<ShardId> {
        self.running.iter().flat_map(JobGoal::shards).collect()
    }

    /// The bytes that running jobs bring to each node.
    #[must_use]
    pub fn incoming(&self) -> BTreeMap<NodeId, u64> {
        let mut incoming = BTreeMap::new();
        for (shard, replica) in self.running.iter().filter_map(JobGoal::as_move) {
            let bytes = self.shards.get(&shard).map_or(0, |view| view.bytes);
            if let Some(to) = replica.to {
                let sum: &mut u64 = incoming.entry(to).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        incoming
    }
}
