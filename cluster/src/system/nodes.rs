//! Nodes: how they come, go, and are emptied.
//!
//! Owns: the nodes' rows, their marks, what a job sees that empties one, and when such a job may begin and is done. Must never: take out a
//! node that holds a replica, mark one whose replicas would find too few others, or choose where a replica goes: the planner's drain rule
//! does.

use super::codec::encode_node;
use super::{NodeInfo, ROW_NODE, RowChange, SystemOutcome, SystemState, version};
use crate::ids::{ClusterVersion, JobId, NodeId, ShardId};
use crate::jobs::empty_node::{AT_ONCE_MAX, EmptyNode, Leaving, Seen};
use crate::jobs::job::{JobEnd, JobGoal, JobState};
use crate::jobs::move_replica::MoveReplica;
use crate::planner::picture::{Mark, NodeView, ShardView, TableView};
use crate::planner::settings::{Rate, Settings};
use crate::planner::{Change, Picture, Refusal, drains};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use synod_paxos::types::MemberRole;

/// The disk of a node whose room is not known, bytes: no replica is too large for it.
const ROOMY: u64 = u64::MAX;

/// What is heard of a node that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may get replicas.
    Enough,
    /// Its disk is low: it gets none.
    Low,
}

/// The replicas that are to leave a node, in order, and what cannot leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Each replica with its reason.
    pub moves: Vec<(Leaving, String)>,
    /// Why others stay.
    pub refused: Vec<String>,
}

fn invalid(field: &str, why: impl Into<String>) -> SystemOutcome {
    SystemOutcome::Invalid { field: field.into(), why: why.into() }
}

impl SystemState {
    pub(super) fn add_node(
        &mut self,
        addr: &str,
        nonce: u128,
        speaks: ClusterVersion,
        rows: &mut Vec<RowChange>,
    ) -> SystemOutcome {
        if speaks < self.version {
            let why = version::too_old(speaks, self.version);
            return SystemOutcome::Invalid { field: version::SPEAKS.into(), why };
        }
        if let Some((id, _)) = self.nodes.iter().find(|(_, n)| n.nonce == nonce) {
            return SystemOutcome::Node(*id);
        }
        if let Some((id, _)) = self.nodes.iter().find(|(_, n)| n.addr == addr) {
            let why = format!("node {id} is already registered at {addr}; a replaced node joins under a new address");
            return SystemOutcome::Invalid { field: "advertise".into(), why };
        }
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(id, NodeInfo { addr: addr.into(), nonce, mark: Mark::Stays });
        rows.push((ROW_NODE, id.0, Some(encode_node(&self.nodes[&id]))));
        SystemOutcome::Node(id)
    }

    pub(super) fn set_addr(&mut self, node: NodeId, addr: &str, rows: &mut Vec<RowChange>) -> SystemOutcome {
        let Some(info) = self.nodes.get_mut(&node) else {
            return SystemOutcome::Invalid { field: "node".into(), why: format!("there is no node {node}") };
        };
        if info.addr != addr {
            info.addr = addr.into();
            rows.push((ROW_NODE, node.0, Some(encode_node(info))));
        }
        SystemOutcome::Done
    }

    pub(super) fn remove_node(&mut self, node: NodeId, rows: &mut Vec<RowChange>) -> SystemOutcome {
        let invalid = |why| SystemOutcome::Invalid { field: "node".into(), why };
        let held = self.held(node).count();
        if held > 0 {
            return invalid(format!("node {node} is a member of {held} shards; `synod node replace` moves them first"));
        }
        if let Some(job) = self.job_towards(node) {
            return invalid(format!("job {job} moves a replica to node {node}: wait for it, or cancel it first"));
        }
        if self.nodes.remove(&node).is_none() {
            return invalid(no_such_node(node));
        }
        rows.push((ROW_NODE, node.0, None));
        SystemOutcome::Done
    }

    /// A node that is marked takes no replica.
    pub(super) fn takes(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|info| info.mark == Mark::Stays)
    }

    fn set_mark(&mut self, node: NodeId, mark: Mark, rows: &mut Vec<RowChange>) {
        if let Some(info) = self.nodes.get_mut(&node).filter(|info| info.mark != mark) {
            info.mark = mark;
            rows.push((ROW_NODE, node.0, Some(encode_node(info))));
        }
    }

    /// A job that empties the node has begun.
    pub(super) fn mark_for(&mut self, goal: EmptyNode, rows: &mut Vec<RowChange>) {
        self.set_mark(goal.node, mark_of(goal), rows);
    }

    /// The node takes replicas again. A job that empties it ends: it has no way back to take. Moves that it began go on.
    pub(super) fn recommission(&mut self, node: NodeId, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_marks() {
            return refused;
        }
        if !self.nodes.contains_key(&node) {
            return invalid("node", no_such_node(node));
        }
        let empties = self.running().find(|(_, job)| job.goal.as_empty().is_some_and(|goal| goal.node == node));
        match empties.map(|(id, _)| *id) {
            Some(id) => self.give_up(id, node, rows),
            None => self.set_mark(node, Mark::Stays, rows),
        }
        SystemOutcome::Done
    }

    /// Ends a job that empties a node, and takes the mark back.
    pub(super) fn give_up(&mut self, job: JobId, node: NodeId, rows: &mut Vec<RowChange>) {
        self.set_mark(node, Mark::Stays, rows);
        self.end_job(job, JobEnd::Cancelled, rows);
    }

    /// The end of a job that empties a node: it counts only where the node is as it says. The node goes with it.
    pub(super) fn close(&mut self, goal: EmptyNode, end: &JobEnd, rows: &mut Vec<RowChange>) -> Result<(), String> {
        let EmptyNode { node, remove, .. } = goal;
        if !self.nodes.contains_key(&node) {
            return Ok(());
        }
        if *end != JobEnd::Done {
            return Err(format!("node {node} is a node of the cluster still"));
        }
        let held = self.held(node).count();
        if held > 0 {
            return Err(format!("node {node} is a member of {held} shards"));
        }
        if !remove {
            return Ok(());
        }
        match self.remove_node(node, rows) {
            SystemOutcome::Invalid { why, .. } => Err(why),
            _ => Ok(()),
        }
    }

    /// Begins the move of a replica for a job that empties its node: only while that runs, in the epoch that it was chosen for.
    pub(super) fn begin_move(&mut self, id: JobId, leaving: Leaving, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_marks() {
            return refused;
        }
        let Leaving { shard, epoch, to } = leaving;
        let Some(job) = self.jobs.get(&id) else { return SystemOutcome::JobNotFound(id) };
        let conflict = |why| SystemOutcome::JobConflict { job: id, why };
        let Some(EmptyNode { node, at_once, .. }) = job.goal.as_empty() else {
            return conflict("it empties no node".into());
        };
        if job.state != JobState::Running {
            return conflict(format!("it begins no move: it is {}", job.word()));
        }
        let now = self.shards.get(&shard).map(|d| d.membership.epoch).unwrap_or_default();
        if now != epoch {
            return conflict(format!("shard {shard} is in epoch {now}, the move was chosen in epoch {epoch}"));
        }
        if self.moving(node) >= at_once {
            return conflict(format!("{at_once} of its moves are under way, which is as many as it may have"));
        }
        self.start_job(&JobGoal::Move { shard, replica: MoveReplica { from: node, to } }, rows)
    }

    /// Refuses to empty a node where that cannot be done, by the map alone.
    pub(super) fn check_empty(&self, goal: EmptyNode) -> Result<(), SystemOutcome> {
        let EmptyNode { node, at_once, .. } = goal;
        let Some(info) = self.nodes.get(&node) else { return Err(invalid("node", no_such_node(node))) };
        if !(1..=AT_ONCE_MAX).contains(&at_once) {
            let why = format!("1 to {AT_ONCE_MAX} replicas may leave a node at a time");
            return Err(invalid("max_concurrent", why));
        }
        if info.mark >= mark_of(goal) {
            let why = format!(
                "node {node} is {} already; `synod node recommission {node}` has it take replicas again",
                info.mark
            );
            return Err(invalid("node", why));
        }
        if let Some(job) = self.job_towards(node) {
            let why = format!("it moves a replica to node {node}: wait for it (`synod job watch {job}`) or cancel it");
            return Err(SystemOutcome::JobConflict { job, why });
        }
        let takers = self.nodes.keys().filter(|other| **other != node && self.takes(**other)).count();
        if takers == 0 {
            return Err(invalid("node", format!("node {node} is the last one that takes replicas")));
        }
        self.check_takers(node, takers)
    }

    /// Refuses where a shard of the node needs more nodes than there would be.
    fn check_takers(&self, node: NodeId, takers: usize) -> Result<(), SystemOutcome> {
        let mut most: Option<(usize, String)> = None;
        for descriptor in self.shards.of_node(node) {
            if descriptor.membership.role_of(node) != Some(MemberRole::Voter) {
                continue;
            }
            let table = self.tables.get(&descriptor.table);
            let needs = table.map_or_else(|| descriptor.membership.voters().count(), |table| table.replicas as usize);
            if needs > takers && most.as_ref().is_none_or(|(known, _)| *known < needs) {
                let what = table.map(|table| format!("table {:?}", table.name));
                most = Some((needs, what.unwrap_or_else(|| "the system shard".to_owned())));
            }
        }
        let Some((needs, what)) = most else { return Ok(()) };
        let why = format!(
            "node {node} cannot be emptied: {what} keeps {needs} replicas, and {takers} nodes would be left to hold them; \
             nodes missing: {}",
            needs - takers
        );
        Err(invalid("node", why))
    }

    /// Whether a further move may begin for a job that empties a node, as far as its own bound goes.
    #[must_use]
    pub fn may_begin(&self, goal: EmptyNode) -> bool {
        self.held(goal.node).next().is_some() && self.moving(goal.node) < goal.at_once
    }

    /// What is seen of a node that is emptied. `heard` has the nodes that are alive; of none where no further move may begin.
    #[must_use]
    pub fn look_at_empty(&self, goal: EmptyNode, heard: &BTreeMap<NodeId, Room>) -> Seen {
        let node = goal.node;
        let (left, moving) = (self.held(node).count() as u64, self.moving(node));
        let seen = Seen { present: self.nodes.contains_key(&node), left, moving, choice: None, trouble: None };
        if !self.may_begin(goal) {
            return seen;
        }
        let Leaves { moves, refused } = self.leaves(node, heard);
        Seen { choice: moves.first().map(|(leaving, _)| *leaving), trouble: refused.into_iter().next(), ..seen }
    }

    /// What would leave a node if this job began now, or leaves it by now if it runs.
    ///
    /// # Errors
    /// The job would be refused.
    pub fn plan_empty(&self, goal: EmptyNode, heard: &BTreeMap<NodeId, Room>) -> Result<Leaves, SystemOutcome> {
        let mut after = self.clone();
        match after.start_job(&JobGoal::Empty(goal), &mut Vec::new()) {
            SystemOutcome::Job(_) => Ok(after.leaves(goal.node, heard)),
            refused => Err(refused),
        }
    }

    /// The replicas of a marked node that can leave it now: learners first, for they have no vote to hand on.
    fn leaves(&self, node: NodeId, heard: &BTreeMap<NodeId, Room>) -> Leaves {
        let busy: BTreeSet<ShardId> = self.running().flat_map(|(_, job)| job.goal.shards()).collect();
        let learners = self.shards.of_node(node).filter(|d| d.membership.role_of(node) == Some(MemberRole::Learner));
        let learners = learners.filter(|d| !busy.contains(&d.shard)).map(|d| {
            let leaving = Leaving { shard: d.shard, epoch: d.membership.epoch, to: None };
            (leaving, format!("node {node} learns and no job needs it"))
        });
        let plan = drains(&self.picture(heard));
        let moves = plan.operations.into_iter().filter_map(|operation| match operation.change {
            Change::Move { from, to } if from == node => {
                let (shard, epoch, to) = (operation.shard, operation.epoch, Some(to));
                Some((Leaving { shard, epoch, to }, operation.why))
            }
            _ => None,
        });
        let held: BTreeSet<ShardId> = self.held(node).collect();
        let concerns = |refusal: &Refusal| match refusal {
            Refusal::DrainLeavesTooFew { node: other, .. } => *other == node,
            Refusal::NoTarget { shard, .. } => held.contains(shard),
            _ => false,
        };
        let refused = plan.refusals.iter().filter(|refusal| concerns(refusal)).map(Refusal::to_string).collect();
        Leaves { moves: learners.chain(moves).collect(), refused }
    }

    /// The cluster as the planner sees it. How many bytes and how much load a shard has is not known here.
    pub(super) fn picture(&self, heard: &BTreeMap<NodeId, Room>) -> Picture {
        let node = |(id, info): (&NodeId, &NodeInfo)| {
            let (disk_bytes, free_bytes) = if heard.get(id) == Some(&Room::Low) { (ROOMY, 0) } else { (0, ROOMY) };
            let view = NodeView {
                zone: String::new(),
                rack: String::new(),
                alive: heard.contains_key(id),
                since: Duration::ZERO,
                disk_bytes,
                free_bytes,
                mark: info.mark,
            };
            (*id, view)
        };
        let shards = self.shards.values().map(|d| {
            let view = ShardView {
                table: d.table,
                from: d.from.clone(),
                to: d.to.clone(),
                version: d.version,
                membership: d.membership.clone(),
                leader: None,
                bytes: 0,
                rate: Rate::default(),
                rate_max: Rate::default(),
                samples: Vec::new(),
                middle: None,
                resized: None,
            };
            (d.shard, view)
        });
        let tables = self.tables.iter().map(|(id, t)| (*id, TableView { replicas: t.replicas, shards_min: 1 }));
        Picture {
            now: Duration::ZERO,
            nodes: self.nodes.iter().map(node).collect(),
            tables: tables.collect(),
            shards: shards.collect(),
            running: self.running().map(|(_, job)| job.goal.clone()).collect(),
            settings: Settings { operations_max: usize::MAX, ..Settings::default() },
        }
    }

    /// The shards that a node is a member of.
    fn held(&self, node: NodeId) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.of_node(node).map(|d| d.shard)
    }

    /// The jobs under way that take a replica from a node.
    fn moving(&self, node: NodeId) -> u32 {
        let from = |goal: &JobGoal| goal.as_move().is_some_and(|(_, replica)| replica.from == node);
        let moving = self.running().filter(|(_, job)| from(&job.goal)).count();
        u32::try_from(moving).unwrap_or(u32::MAX)
    }
}

/// The mark of a node that a job empties.
fn mark_of(goal: EmptyNode) -> Mark {
    if goal.remove { Mark::Decommissioning } else { Mark::Draining }
}

/// Error text for the removal of a node that is not in the cluster. `synod node remove` recognises it and reports success.
#[must_use]
pub fn no_such_node(node: NodeId) -> String {
    format!("there is no node {node}")
}

#[cfg(test)]
mod tests;
