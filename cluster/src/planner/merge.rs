//! Neighbours that are small and idle.
//!
//! Owns: when two shards become one. Must never: merge what a split would divide again.

use super::draft::Draft;
use super::operation::{Change, Neighbour, Predicted, Quantity, Rule};
use super::picture::{Picture, ShardView};
use crate::ids::{SYSTEM_SHARD, ShardId, TableId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Merges pairs of neighbours, each shard once.
pub(super) fn run(draft: &mut Draft<'_>) {
    let picture = draft.picture;
    let mut left_over: BTreeMap<TableId, u32> = BTreeMap::new();
    let mut shards: Vec<(TableId, &Bytes, ShardId, &ShardView)> = Vec::new();
    for (shard, view) in picture.shards.iter().filter(|(shard, _)| **shard != SYSTEM_SHARD) {
        *left_over.entry(view.table).or_default() += 1;
        shards.push((view.table, &view.from, *shard, view));
    }
    shards.sort_unstable_by_key(|(table, from, shard, _)| (*table, *from, *shard));
    for pair in shards.windows(2) {
        let [(table, _, left, below), (_, _, right, above)] = pair else { continue };
        if draft.is_complete() {
            return;
        }
        let least = picture.tables.get(table).map_or(1, |view| view.shards_min).max(1);
        let Some(count) = left_over.get_mut(table).filter(|count| **count > least) else { continue };
        if draft.is_free(*left)
            && draft.is_free(*right)
            && is_small(picture, below, above)
            && !crowds(draft, below, above)
        {
            let with = Neighbour { shard: *right, version: above.version, epoch: above.membership.epoch };
            let predicted = Predicted { what: Quantity::Shards, before: 2, after: 1 };
            let why = format!("both together have {} bytes and little load", below.bytes.saturating_add(above.bytes));
            if draft.push(*left, Rule::Merge, Change::Merge { with }, why, predicted) {
                *count -= 1;
            }
        }
    }
}

/// Whether both together stay far from what a split asks for, also at the busiest of the last minutes.
fn is_small(picture: &Picture, left: &ShardView, right: &ShardView) -> bool {
    let settings = &picture.settings;
    let cost = u128::from(settings.weights.cost(left.rate_max)) + u128::from(settings.weights.cost(right.rate_max));
    let bytes = u128::from(left.bytes) + u128::from(right.bytes);
    let idle = cost * 110 * 4 < u128::from(settings.load_mark) * 100;
    let small = bytes * 2 < u128::from(settings.size_mark);
    idle && small && !picture.rests(left) && !picture.rests(right)
}

/// Whether the neighbour's voters would fail together more than now: they go to the nodes of the shard.
fn crowds(draft: &Draft<'_>, left: &ShardView, right: &ShardView) -> bool {
    let fewer = left.membership.voters().count() < right.membership.voters().count();
    fewer || draft.crowding(left, None, None) > draft.crowding(right, None, None)
}
