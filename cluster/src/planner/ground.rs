//! Whether an operation may be done in a picture.
//!
//! Owns: the rule that no operation makes a shard less available, and what each operation needs. Must never: be passed over: what is
//! planned and what is not stale is decided here alike.

use super::operation::{Change, Neighbour, Operation};
use super::picture::{Picture, ShardView, Unfit};
use crate::ids::{Epoch, NodeId, SYSTEM_SHARD, ShardId};
use crate::position;
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::types::MemberRole;

/// A picture, with what its running jobs hold.
pub(super) struct Ground<'a> {
    pub(super) picture: &'a Picture,
    busy: BTreeSet<ShardId>,
    incoming: BTreeMap<NodeId, u64>,
}

impl<'a> Ground<'a> {
    pub(super) fn of(picture: &'a Picture) -> Self {
        Self { picture, busy: picture.busy(), incoming: picture.incoming() }
    }

    /// Whether a running job changes the shard.
    pub(super) fn is_busy(&self, shard: ShardId) -> bool {
        self.busy.contains(&shard)
    }

    /// So many more bytes are on their way to a node.
    pub(super) fn expect(&mut self, node: NodeId, bytes: u64) {
        let sum = self.incoming.entry(node).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Why a node takes no replica of a shard.
    pub(super) fn unfit(&self, node: NodeId, view: &ShardView) -> Option<Unfit> {
        let incoming = self.incoming.get(&node).copied().unwrap_or_default();
        self.picture.unfit(node, &view.membership, view.bytes, incoming)
    }

    /// Why an operation may not be done, if so.
    pub(super) fn hindrance(&self, operation: &Operation) -> Option<String> {
        let Operation { shard, version, epoch, change, .. } = operation;
        let Some(view) = self.picture.shards.get(shard) else { return Some(format!("shard {shard} is gone")) };
        if let Some(why) = self.changed(*shard, *version, view, *epoch) {
            return Some(why);
        }
        let (live, quorum) = (self.picture.live_voters(view), view.membership.quorum());
        if live < quorum {
            return Some(format!("shard {shard} has {live} live voters, a change needs {quorum}"));
        }
        match change {
            Change::Add { to } => self.refused(*to, view),
            Change::Move { from, to } => match view.membership.role_of(*from) {
                Some(MemberRole::Voter) => self.refused(*to, view),
                _ => Some(format!("node {from} has no vote in shard {shard}")),
            },
            Change::Forget { node } => {
                let learns = view.membership.role_of(*node) == Some(MemberRole::Learner);
                (!learns).then(|| format!("node {node} does not learn shard {shard}"))
            }
            Change::Lead { to } => self.cannot_lead(*shard, view, *to),
            Change::Split { at } => {
                if *shard == SYSTEM_SHARD {
                    return Some("the system shard is never split".into());
                }
                if !position::divides(at, &view.from, &view.to) {
                    return Some(format!("the position does not divide shard {shard}"));
                }
                self.restless(*shard, view)
            }
            Change::Merge { with } => self.cannot_merge(*shard, view, *with),
        }
    }

    /// Whether the shard is another one than the plan was made from, or a job changes it.
    fn changed(&self, shard: ShardId, version: u64, view: &ShardView, epoch: Epoch) -> Option<String> {
        if view.version != version {
            return Some(format!("shard {shard} is at version {}, the plan was made at {version}", view.version));
        }
        if view.membership.epoch != epoch {
            return Some(format!("the members of shard {shard} have changed since the plan was made"));
        }
        self.is_busy(shard).then(|| format!("a job changes shard {shard}"))
    }

    fn refused(&self, node: NodeId, view: &ShardView) -> Option<String> {
        let why = match self.unfit(node, view)? {
            Unfit::Dead => "is dead or gone",
            Unfit::Marked => "is being emptied",
            Unfit::Full => "has no room",
            Unfit::Member => "has a replica of the shard already",
        };
        Some(format!("node {node} {why}"))
    }

    fn cannot_lead(&self, shard: ShardId, view: &ShardView, to: NodeId) -> Option<String> {
        if view.membership.role_of(to) != Some(MemberRole::Voter) {
            return Some(format!("node {to} has no vote in shard {shard}"));
        }
        if view.leader.is_none_or(|leader| leader == to) {
            return Some(format!("node {to} leads shard {shard} already, or nobody is known to"));
        }
        (!self.picture.takes(to)).then(|| format!("node {to} is dead, gone or being emptied"))
    }

    /// A change of bounds needs all members: one that lags would need a snapshot of each side.
    fn restless(&self, shard: ShardId, view: &ShardView) -> Option<String> {
        (!self.picture.is_calm(view)).then(|| format!("a member of shard {shard} is dead or learns"))
    }

    fn cannot_merge(&self, shard: ShardId, view: &ShardView, with: Neighbour) -> Option<String> {
        let Neighbour { shard: other, version, epoch } = with;
        let Some(right) = self.picture.shards.get(&other) else { return Some(format!("shard {other} is gone")) };
        if let Some(why) = self.changed(other, version, right, epoch) {
            return Some(why);
        }
        let adjoin = view.table == right.table && !view.to.is_empty() && view.to == right.from;
        if !adjoin || shard == SYSTEM_SHARD || other == SYSTEM_SHARD {
            return Some(format!("shards {shard} and {other} do not adjoin"));
        }
        let restless = || self.restless(shard, view).or_else(|| self.restless(other, right));
        // The neighbour moves to the shard's nodes first.
        let mut strangers = view.membership.voters().filter(|node| right.membership.role_of(*node).is_none());
        restless().or_else(|| strangers.find_map(|node| self.refused(node, right)))
    }
}
