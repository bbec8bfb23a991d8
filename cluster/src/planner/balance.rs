//! Nodes that differ in bytes, replicas, leaderships or load.
//!
//! Owns: which operation relieves a node. Must never: act within the hysteresis, crowd a zone, or take an operation that does not lower
//! the measure of [`super::weigh`].

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Rule};
use super::picture::ShardView;
use super::weigh::{Amounts, Dim, Pair, gain};
use crate::ids::{NodeId, ShardId, TableId};
use std::collections::BTreeSet;

/// Nodes of one pass that may turn out to have nothing to give before the pass ends.
const TRIES: usize = 32;
/// Nodes with the least that are looked at as targets.
const TARGETS: usize = 8;

/// Balances bytes and replicas, of all tables and then of each.
pub(super) fn size(draft: &mut Draft<'_>) {
    run(draft, Rule::Size, [Dim::Bytes, Dim::Replicas]);
}

/// Balances leaderships and load, of all tables and then of each.
pub(super) fn load(draft: &mut Draft<'_>) {
    run(draft, Rule::Load, [Dim::Leaders, Dim::Load]);
}

fn run(draft: &mut Draft<'_>, rule: Rule, dims: [Dim; 2]) {
    let takers: Vec<NodeId> = draft.picture.takers().collect();
    let tables = draft.tables();
    for table in std::iter::once(None).chain(tables.into_iter().map(Some)) {
        for dim in dims {
            pass(draft, &takers, &Aim { rule, table, dim });
        }
    }
}

/// What one pass balances.
struct Aim {
    rule: Rule,
    /// `None`: all tables.
    table: Option<TableId>,
    dim: Dim,
}

fn pass(draft: &mut Draft<'_>, takers: &[NodeId], aim: &Aim) {
    let mut tried = BTreeSet::new();
    while tried.len() < TRIES && !draft.is_complete() {
        let levels = Levels::of(draft, takers, aim);
        let Some((has, from)) = levels.source(&tried) else { return };
        let planned = best(draft, &levels, from, aim).is_some_and(|found| plan(draft, &levels, has, from, found, aim));
        if !planned {
            tried.insert(from);
        }
    }
}

/// What each node has of one quantity, the least first.
struct Levels {
    sorted: Vec<(u64, NodeId)>,
    total: u128,
    hysteresis: u128,
}

impl Levels {
    fn of(draft: &Draft<'_>, takers: &[NodeId], aim: &Aim) -> Self {
        let mut sorted: Vec<(u64, NodeId)> =
            takers.iter().map(|node| (draft.level(aim.table, *node, aim.dim), *node)).collect();
        sorted.sort_unstable();
        let total: u128 = sorted.iter().map(|(has, _)| u128::from(*has)).sum();
        Self { sorted, total, hysteresis: draft.picture.settings.hysteresis_percent.into() }
    }

    /// What a node would have in percent of the mean.
    fn percent(&self, has: u64) -> u64 {
        let percent = u128::from(has) * self.sorted.len() as u128 * 100 / self.total.max(1);
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    fn is_far_above(&self, has: u64) -> bool {
        u128::from(has) * self.sorted.len() as u128 * 100 > self.total * (100 + self.hysteresis)
    }

    fn is_far_below(&self, has: u64) -> bool {
        u128::from(has) * self.sorted.len() as u128 * 100 < self.total * 100u128.saturating_sub(self.hysteresis)
    }

    /// Whether a node with `from` may relieve itself towards one with `to`.
    fn lets(&self, from: u64, to: u64) -> bool {
        let above_mean = u128::from(from) * self.sorted.len() as u128 > self.total;
        from > to && (self.is_far_above(from) || (above_mean && self.is_far_below(to)))
    }

    /// The node that has most of those that have too much and were not tried.
    fn source(&self, tried: &BTreeSet<NodeId>) -> Option<(u64, NodeId)> {
        let (least, _) = *self.sorted.first()?;
        let open = self.sorted.iter().rev().find(|(_, node)| !tried.contains(node));
        open.copied().filter(|(has, _)| self.lets(*has, least))
    }

    /// The nodes with the least that may take something from a node with `from`.
    fn targets(&self, from: u64) -> impl Iterator<Item = NodeId> + '_ {
        self.sorted.iter().take(TARGETS).filter(move |(to, _)| self.lets(from, *to)).map(|(_, node)| *node)
    }
}

/// An operation that relieves a node.
struct Found {
    gain: i128,
    shard: ShardId,
    change: Change,
    moved: Amounts,
}

/// The operation that lowers the measure most. A leadership costs nothing to move, so it comes before a replica.
fn best(draft: &Draft<'_>, levels: &Levels, from: NodeId, aim: &Aim) -> Option<Found> {
    let has = draft.level(aim.table, from, aim.dim);
    let leads = matches!(aim.dim, Dim::Leaders | Dim::Load);
    let transfer = if leads { transfers(draft, levels, has, from, aim) } else { None };
    if transfer.is_some() || aim.dim == Dim::Leaders {
        return transfer;
    }
    moves(draft, levels, has, from, aim)
}

/// The shards of a node that may change.
fn movable<'a>(draft: &Draft<'a>, from: NodeId, aim: &Aim) -> Vec<(ShardId, &'a ShardView)> {
    let picture = draft.picture;
    let free = draft.held(from).into_iter().filter(|shard| draft.is_free(*shard));
    let views = free.filter_map(|shard| picture.shards.get(&shard).map(|view| (shard, view)));
    views.filter(|(_, view)| aim.table.is_none_or(|table| table == view.table) && picture.is_calm(view)).collect()
}

fn transfers(draft: &Draft<'_>, levels: &Levels, has: u64, from: NodeId, aim: &Aim) -> Option<Found> {
    let mut best: Option<Found> = None;
    for (shard, view) in movable(draft, from, aim) {
        if view.leader != Some(from) {
            continue;
        }
        let moved = draft.leadership(view);
        for to in view.membership.voters().filter(|to| *to != from && draft.picture.takes(*to)) {
            if !levels.lets(has, draft.level(aim.table, to, aim.dim)) {
                continue;
            }
            let Some(gain) = gained(draft, view, moved, from, to, aim) else { continue };
            if best.as_ref().is_none_or(|best| gain > best.gain) {
                best = Some(Found { gain, shard, change: Change::Lead { to }, moved });
            }
        }
    }
    best
}

fn moves(draft: &Draft<'_>, levels: &Levels, has: u64, from: NodeId, aim: &Aim) -> Option<Found> {
    let targets: Vec<NodeId> = levels.targets(has).collect();
    let mut best: Option<Found> = None;
    for (shard, view) in movable(draft, from, aim) {
        let moved = draft.replica(view, view.leader == Some(from));
        let now = draft.crowding(view, None, None);
        for to in targets.iter().copied().filter(|to| draft.ground.unfit(*to, view).is_none()) {
            let Some(gain) = gained(draft, view, moved, from, to, aim) else { continue };
            let better = best.as_ref().is_none_or(|best| gain > best.gain);
            if better && draft.crowding(view, Some(from), Some(to)) <= now {
                best = Some(Found { gain, shard, change: Change::Move { from, to }, moved });
            }
        }
    }
    best
}

/// What the measure falls by, where the change relieves what the pass balances.
fn gained(draft: &Draft<'_>, view: &ShardView, moved: Amounts, from: NodeId, to: NodeId, aim: &Aim) -> Option<i128> {
    if moved[aim.dim as usize] == 0 {
        return None;
    }
    let settings = &draft.picture.settings;
    let pair = |table| Pair { from: draft.has(table, from), to: draft.has(table, to) };
    gain(&settings.weights, settings.hysteresis_percent, moved, [pair(None), pair(Some(view.table))])
}

fn plan(draft: &mut Draft<'_>, levels: &Levels, has: u64, from: NodeId, found: Found, aim: &Aim) -> bool {
    let after = has.saturating_sub(found.moved[aim.dim as usize]);
    let (before, after) = (levels.percent(has), levels.percent(after));
    let what = match aim.dim {
        Dim::Bytes => "bytes",
        Dim::Replicas => "replicas",
        Dim::Leaders => "leaderships",
        Dim::Load => "load",
    };
    let of = aim.table.map_or_else(String::new, |table| format!(" of table {table}"));
    let why = format!("node {from} has {before} % of the mean {what}{of}");
    let predicted = Predicted { what: Quantity::PercentOfMean, before, after };
    draft.push(found.shard, aim.rule, found.change, why, predicted)
}
