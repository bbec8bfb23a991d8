//! A plan in the making.
//!
//! Owns: what each node would have after the operations that are planned, and that each shard is in one operation at most. Must never:
//! take an operation that [`Ground`] refuses.

use super::ground::Ground;
use super::operation::{Change, Lacks, Operation, Plan, Predicted, Refusal, Rule};
use super::picture::{Crowding, Picture, ShardView};
use super::settings::Weights;
use super::weigh::{Amounts, Dim, Scales, add, burden, take};
use crate::ids::{NodeId, ShardId, TableId};
use std::collections::{BTreeMap, BTreeSet};

/// A plan, and what would be after it.
pub(super) struct Draft<'a> {
    pub(super) picture: &'a Picture,
    pub(super) ground: Ground<'a>,
    scales: Scales,
    all: BTreeMap<NodeId, Amounts>,
    of_table: BTreeMap<(TableId, NodeId), Amounts>,
    /// The shards that each node votes in, as of the picture.
    held: BTreeMap<NodeId, Vec<ShardId>>,
    touched: BTreeSet<ShardId>,
    pub(super) plan: Plan,
}

impl<'a> Draft<'a> {
    pub(super) fn of(picture: &'a Picture) -> Self {
        let at_once = picture.settings.max_concurrent.saturating_sub(picture.running.len());
        let mut draft = Self {
            picture,
            ground: Ground::of(picture),
            scales: Scales::of(picture),
            all: BTreeMap::new(),
            of_table: BTreeMap::new(),
            held: BTreeMap::new(),
            touched: BTreeSet::new(),
            plan: Plan { operations: Vec::new(), at_once, refusals: Vec::new() },
        };
        for (shard, view) in &picture.shards {
            for node in view.membership.voters() {
                draft.held.entry(node).or_default().push(*shard);
                let amounts = draft.replica(view, view.leader == Some(node));
                draft.give(view.table, node, amounts);
            }
        }
        draft
    }

    fn weights(&self) -> &'a Weights {
        &self.picture.settings.weights
    }

    /// Whether the plan has as many operations as it may have.
    pub(super) fn is_complete(&self) -> bool {
        self.plan.operations.len() >= self.picture.settings.operations_max
    }

    /// Whether neither a running job nor the plan changes the shard.
    pub(super) fn is_free(&self, shard: ShardId) -> bool {
        !self.touched.contains(&shard) && !self.ground.is_busy(shard)
    }

    /// The tables that have shards, in rising order.
    pub(super) fn tables(&self) -> Vec<TableId> {
        let tables: BTreeSet<TableId> = self.picture.shards.values().map(|view| view.table).collect();
        tables.into_iter().collect()
    }

    /// The shards that a node votes in by the picture.
    pub(super) fn held(&self, node: NodeId) -> Vec<ShardId> {
        self.held.get(&node).cloned().unwrap_or_default()
    }

    /// What a node has, of one table or of all.
    pub(super) fn has(&self, table: Option<TableId>, node: NodeId) -> Amounts {
        let found = match table {
            None => self.all.get(&node),
            Some(table) => self.of_table.get(&(table, node)),
        };
        found.copied().unwrap_or_default()
    }

    /// What a node has of one quantity.
    pub(super) fn level(&self, table: Option<TableId>, node: NodeId, dim: Dim) -> u64 {
        self.has(table, node)[dim as usize]
    }

    /// What a replica has.
    pub(super) fn replica(&self, view: &ShardView, leads: bool) -> Amounts {
        self.scales.replica(self.weights(), view, leads)
    }

    /// What goes with the leadership of a shard.
    pub(super) fn leadership(&self, view: &ShardView) -> Amounts {
        self.scales.leadership(self.weights(), view)
    }

    /// The pairs of voters that fail together once one has moved; `None` for who comes or goes where nobody does.
    pub(super) fn crowding(&self, view: &ShardView, leaves: Option<NodeId>, comes: Option<NodeId>) -> Crowding {
        let stay = view.membership.voters().filter(|node| Some(*node) != leaves);
        let nodes: Vec<NodeId> = stay.chain(comes).collect();
        self.picture.crowding(&nodes)
    }

    /// The node that a replica goes to: where the fewest voters fail together, and of these where the least is.
    pub(super) fn target(&self, view: &ShardView, leaves: Option<NodeId>) -> Result<NodeId, Lacks> {
        let mut lacks = Lacks::default();
        let mut best: Option<(Crowding, i128, NodeId)> = None;
        for node in self.picture.nodes.keys().copied() {
            if let Some(unfit) = self.ground.unfit(node, view) {
                lacks.count(unfit);
                continue;
            }
            let load = |table| burden(self.weights(), self.has(table, node));
            let key = (self.crowding(view, leaves, Some(node)), load(None) + load(Some(view.table)), node);
            if best.is_none_or(|least| key < least) {
                best = Some(key);
            }
        }
        best.map(|(.., node)| node).ok_or(lacks)
    }

    /// Says what cannot be planned.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if self.plan.refusals.len() < self.picture.settings.operations_max {
            self.plan.refusals.push(refusal);
        }
    }

    /// Plans a change, if it may be done; whether it was.
    pub(super) fn push(
        &mut self,
        shard: ShardId,
        rule: Rule,
        change: Change,
        why: String,
        predicted: Predicted,
    ) -> bool {
        let picture = self.picture;
        let Some(view) = picture.shards.get(&shard) else { return false };
        let (version, epoch) = (view.version, view.membership.epoch);
        let operation = Operation { shard, rule, change, version, epoch, why, predicted };
        if self.is_complete() || !self.is_free(shard) || self.ground.hindrance(&operation).is_some() {
            return false;
        }
        self.touched.insert(shard);
        self.account(view, &operation.change);
        self.plan.operations.push(operation);
        true
    }

    /// Counts what nodes have after a change.
    fn account(&mut self, view: &ShardView, change: &Change) {
        match change {
            Change::Add { to } => {
                let amounts = self.replica(view, false);
                self.give(view.table, *to, amounts);
                self.ground.expect(*to, view.bytes);
            }
            Change::Move { from, to } => {
                let amounts = self.replica(view, view.leader == Some(*from));
                self.shift(view.table, *from, *to, amounts);
                self.ground.expect(*to, view.bytes);
            }
            Change::Lead { to } => {
                if let Some(from) = view.leader {
                    let amounts = self.leadership(view);
                    self.shift(view.table, from, *to, amounts);
                }
            }
            Change::Merge { with } => {
                self.touched.insert(with.shard);
                let picture = self.picture;
                if let Some(right) = picture.shards.get(&with.shard) {
                    self.absorb(view, right);
                }
            }
            // Which nodes have what stays. The child's replica and leadership are counted with the next picture.
            Change::Split { .. } | Change::Forget { .. } => {}
        }
    }

    /// The bytes and the load of `right` go to the nodes of `left`; its replicas go away.
    fn absorb(&mut self, left: &ShardView, right: &ShardView) {
        for node in right.membership.voters() {
            let amounts = self.replica(right, right.leader == Some(node));
            take(self.all.entry(node).or_default(), amounts);
            take(self.of_table.entry((right.table, node)).or_default(), amounts);
        }
        for node in left.membership.voters() {
            let mut amounts = self.replica(right, left.leader == Some(node));
            amounts[Dim::Replicas as usize] = 0;
            amounts[Dim::Leaders as usize] = 0;
            self.give(left.table, node, amounts);
            if right.membership.role_of(node).is_none() {
                self.ground.expect(node, right.bytes);
            }
        }
    }

    fn give(&mut self, table: TableId, node: NodeId, amounts: Amounts) {
        add(self.all.entry(node).or_default(), amounts);
        add(self.of_table.entry((table, node)).or_default(), amounts);
    }

    fn shift(&mut self, table: TableId, from: NodeId, to: NodeId, amounts: Amounts) {
        take(self.all.entry(from).or_default(), amounts);
        take(self.of_table.entry((table, from)).or_default(), amounts);
        self.give(table, to, amounts);
    }
}
