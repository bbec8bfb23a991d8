//! Changes of the shard itself, as its leader proposes them.
//!
//! Owns: the one that was proposed and is not applied yet, who waits for it, and what keeps the leader from proposing one. Must never:
//! propose a second one meanwhile, or say of one that was proposed that it was not.
//!
//! Whether such an entry counts is decided where it is applied (`machine/split.rs`). What is looked at here saves work.

use super::Shard;
use super::step::Proposed;
use crate::command::{Admin, Split, encode_admin};
use crate::host::{Host, SplitWanted, Told};
use crate::round::Node;
use synod_cluster::ids::{ClusterVersion, EntryId, NodeId, ShardId, Slot};
use synod_cluster::members::has_caught_up;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, SystemState};
use synod_paxos::types::{Ballot, MemberRole};

/// An administrative entry proposed and not yet applied.
pub(super) struct Order {
    slot: Slot,
    ballot: Ballot,
    told: Told,
}

impl Shard {
    /// Proposes a split where this replica leads and nothing keeps it from that; `told` hears of a refusal at once, else of what became
    /// of it.
    pub(crate) fn propose_split<H: Host>(
        &mut self,
        node: &mut Node<H>,
        map: &SystemState,
        wanted: SplitWanted,
        told: Told,
    ) {
        match self.begin_split(node, map, wanted) {
            Ok(Proposed { first: slot, ballot }) => self.order = Some(Order { slot, ballot, told }),
            Err(why) => told(Err(why)),
        }
    }

    fn begin_split<H: Host>(
        &mut self,
        node: &mut Node<H>,
        map: &SystemState,
        wanted: SplitWanted,
    ) -> Result<Proposed, Refusal> {
        if node.cluster_version < ClusterVersion::FOURTH {
            let (version, needed) = (node.cluster_version, ClusterVersion::FOURTH);
            let why =
                format!("the cluster is at version {version}, splits need {needed}: `synod cluster upgrade` raises it");
            return Err(Refusal::Invalid { field: CLUSTER_VERSION, why });
        }
        let Some(status) = self.status().filter(|_| self.leading) else {
            return Err(Refusal::NotLeader { leader: self.leader(), maybe: false });
        };
        let SplitWanted { version, epoch, child, at } = wanted;
        let known = |shard: &ShardId| map.shards.contains_key(shard) || map.vanished(*shard);
        let confirmed = self.state.children().iter().map(|mark| mark.shard).filter(known).collect();
        let voters = self.members.voters().collect();
        let split = Split { child, at, version, epoch, voters, confirmed };
        // What can never be comes before what may come later.
        if let Some(why) = self.state.refuses(&split, status.accepted) {
            return Err(why);
        }
        if let Some(why) = self.hindrance(node) {
            tracing::info!(shard = self.id.0, child = child.0, "a split waits: {why}");
            return Err(Refusal::NotReady);
        }
        tracing::info!(shard = self.id.0, child = child.0, "a split is proposed");
        let ts = self.timestamp(node);
        self.propose_entries(node, vec![(ts, encode_admin(&Admin::Split(split)))])
    }

    /// Why this leader takes no split or merge on at the moment, if so. A split is cheap where all members are up to date: a member that lags
    /// would need a snapshot of each of the two shards.
    pub(crate) fn hindrance<H: Host>(&self, node: &Node<H>) -> Option<String> {
        let status = self.status().filter(|_| self.leading)?;
        if self.order.is_some() {
            return Some("another change of the shard is under way".into());
        }
        if self.is_merging() {
            return Some("it takes part in a merge".into());
        }
        // What earlier leaders proposed is applied before the first entry of this one.
        if !self.has_applied_own() {
            return Some("its leader has not applied an entry of its own yet".into());
        }
        if let Some(learner) = self.members.members.iter().find(|m| m.role == MemberRole::Learner) {
            return Some(format!("node {} learns its log", learner.node));
        }
        let asks = node.snapshots_wanted.iter().find(|(shard, ..)| *shard == self.id);
        if let Some((_, waits, _)) = asks {
            return Some(format!("node {waits} waits for a snapshot of it"));
        }
        let held = |n: NodeId| status.progress.iter().find(|(p, _)| *p == n).map_or(Slot(0), |(_, slot)| *slot);
        let lags = |n: &NodeId| held(*n) < self.split_at || !has_caught_up(held(*n), status.last.slot);
        let lagging = self.members.voters().filter(|n| *n != node.me && node.live.contains(n)).find(lags);
        lagging.map(|n| format!("node {n} lacks a part of its log"))
    }

    /// An administrative entry was proposed; `told` hears of what becomes of it.
    pub(super) fn ordered(&mut self, slot: Slot, ballot: Ballot, told: Told) {
        self.order = Some(Order { slot, ballot, told });
    }

    /// Whether this leader has applied an entry of its own, and so all that earlier ones proposed.
    pub(super) fn has_applied_own(&self) -> bool {
        let Some(status) = self.status() else { return false };
        let own = self.position.is_some_and(|(id, _)| id.origin == status.accepted);
        own && status.epoch_start <= self.state.applied()
    }

    /// An entry is applied: who waits for it, where it is the administrative one that was proposed here.
    pub(super) fn order_applied(&mut self, id: EntryId) -> Option<Told> {
        let Order { slot, ballot, told } = self.order.take_if(|order| order.slot <= id.slot)?;
        if (slot, ballot) == (id.slot, id.origin) {
            return Some(told);
        }
        told(Err(Refusal::NotLeader { leader: None, maybe: true }));
        None
    }

    /// Gives up what was proposed under another leadership than `kept`.
    pub(super) fn order_lost(&mut self, kept: Option<Ballot>, leader: Option<NodeId>) {
        if let Some(Order { told, .. }) = self.order.take_if(|order| Some(order.ballot) != kept) {
            told(Err(Refusal::NotLeader { leader, maybe: true }));
        }
    }
}
