//! What a plan consists of.
//!
//! Owns: operations and refusals, and the words for them. Must never: decide anything.

use super::picture::Unfit;
use crate::ids::{Epoch, NodeId, ShardId};
use bytes::Bytes;
use std::fmt;

/// The rule that asks for an operation, in the order in which they are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A voter is lost or missing.
    Repair,
    /// Voters share a zone though they need not.
    Zone,
    /// A node is being emptied.
    Drain,
    /// A shard is too large.
    SplitSize,
    /// A shard has too much load.
    SplitLoad,
    /// Nodes differ in bytes or replicas.
    Size,
    /// Nodes differ in leaderships or load.
    Load,
    /// Two neighbours are small and idle.
    Merge,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repair => "repair",
            Self::Zone => "zone",
            Self::Drain => "drain",
            Self::SplitSize => "split by size",
            Self::SplitLoad => "split by load",
            Self::Size => "size balance",
            Self::Load => "load balance",
            Self::Merge => "merge",
        })
    }
}

/// The shard that goes into another one, as the plan saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The shard.
    pub shard: ShardId,
    /// Its version.
    pub version: u64,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A change of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A voter more.
    Add {
        /// On this node.
        to: NodeId,
    },
    /// A voter moves. Where it leads, the leadership goes with it.
    Move {
        /// From this node.
        from: NodeId,
        /// To this node.
        to: NodeId,
    },
    /// A learner that no job needs goes.
    Forget {
        /// From this node.
        node: NodeId,
    },
    /// Another voter leads.
    Lead {
        /// This one.
        to: NodeId,
    },
    /// The shard is split.
    Split {
        /// Where the child begins.
        at: Bytes,
    },
    /// The upper neighbour goes into the shard, once it has the same voters.
    Merge {
        /// The neighbour.
        with: Neighbour,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { to } => write!(f, "add a voter on node {to}"),
            Self::Move { from, to } => write!(f, "move the replica of node {from} to node {to}"),
            Self::Forget { node } => write!(f, "remove the learner from node {node}"),
            Self::Lead { to } => write!(f, "let node {to} lead"),
            Self::Split { at } => write!(f, "split at \"{}\"", at.escape_ascii()),
            Self::Merge { with } => write!(f, "merge shard {} into it", with.shard),
        }
    }
}

/// What a prediction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Live voters of the shard.
    LiveVoters,
    /// Learners of the shard.
    Learners,
    /// Pairs of voters in one zone.
    ZonePairs,
    /// Replicas on the node that is being emptied.
    Replicas,
    /// Bytes of the larger shard.
    Bytes,
    /// Load units a second of the busier shard.
    Load,
    /// What the node has that is relieved, in percent of the mean.
    PercentOfMean,
    /// Shards of the range.
    Shards,
}

/// What an operation is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// What is counted.
    pub what: Quantity,
    /// Before the operation, after those that precede it in the plan.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// One operation of a plan. It makes sense only under the version and the epoch that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The shard.
    pub shard: ShardId,
    /// What asks for it.
    pub rule: Rule,
    /// What is done.
    pub change: Change,
    /// The version of the shard in the picture.
    pub version: u64,
    /// Its epoch in the picture.
    pub epoch: Epoch,
    /// Why, for who reads the plan.
    pub why: String,
    /// What it is to change.
    pub predicted: Predicted,
}

/// How many nodes cannot take a replica, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Dead ones.
    pub dead: usize,
    /// Those that are being emptied.
    pub marked: usize,
    /// Those whose disk has no room.
    pub full: usize,
    /// Those that have a replica already.
    pub members: usize,
}

impl Lacks {
    pub(super) fn count(&mut self, unfit: Unfit) {
        *match unfit {
            Unfit::Dead => &mut self.dead,
            Unfit::Marked => &mut self.marked,
            Unfit::Full => &mut self.full,
            Unfit::Member => &mut self.members,
        } += 1;
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dead, marked, full, members } = self;
        write!(f, "{members} nodes have a replica, {dead} are dead, {marked} are being emptied, {full} have no room")
    }
}

/// What is wanted and cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A majority of the voters is dead: no change of members can be chosen.
    NoQuorum {
        /// The shard.
        shard: ShardId,
        /// Its live voters.
        live: usize,
        /// How many it needs.
        quorum: usize,
    },
    /// No node can take the replica.
    NoTarget {
        /// The shard.
        shard: ShardId,
        /// What asks for it.
        rule: Rule,
        /// What is wrong with the nodes.
        lacks: Lacks,
    },
    /// The nodes that would be left are too few.
    DrainLeavesTooFew {
        /// The node whose replicas are to leave it.
        node: NodeId,
        /// A shard of it that needs most nodes.
        shard: ShardId,
        /// How many nodes that shard needs.
        wanted: usize,
        /// How many nodes take replicas.
        takers: usize,
    },
    /// Half of a shard's load or more is one key's: a split would not help.
    HotKey {
        /// The shard.
        shard: ShardId,
        /// The key's position.
        at: Bytes,
        /// Its part of the load.
        percent: u64,
    },
    /// Nothing of a shard can be divided.
    Undividable {
        /// The shard.
        shard: ShardId,
        /// What asks for the split.
        rule: Rule,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuorum { shard, live, quorum } => write!(
                f,
                "shard {shard} has {live} live voters and needs {quorum} to change anything: start one of its dead nodes"
            ),
            Self::NoTarget { shard, rule, lacks } => {
                write!(f, "{rule}: no node can take a replica of shard {shard}: {lacks}; add a node, or free one")
            }
            Self::DrainLeavesTooFew { node, shard, wanted, takers } => write!(
                f,
                "node {node} cannot be emptied: shard {shard} needs {wanted} nodes, {takers} take replicas; add {} nodes, \
                 or lower the replicas of its table",
                wanted.saturating_sub(*takers)
            ),
            Self::HotKey { shard, at, percent } => write!(
                f,
                "shard {shard} has too much load, and {percent} % of it is the key at \"{}\": a split would not help",
                at.escape_ascii()
            ),
            Self::Undividable { shard, rule } => {
                write!(f, "{rule}: no position divides shard {shard} well enough")
            }
        }
    }
}

/// A plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is to be done, in this order. No shard is in two of them.
    pub operations: Vec<Operation>,
    /// How many of them may be under way at a time, beside the jobs that run.
    pub at_once: usize,
    /// What cannot be planned.
    pub refusals: Vec<Refusal>,
}
