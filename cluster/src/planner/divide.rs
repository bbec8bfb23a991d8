//! Shards that are too large or have too much load.
//!
//! Owns: where a shard is split by its load. Must never: split where one half would have less than a quarter of the load, or where one key
//! has half of it.

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Refusal, Rule};
use super::picture::{Picture, Sample, ShardView};
use crate::ids::{SYSTEM_SHARD, ShardId};
use crate::position::within;
use bytes::Bytes;

/// Splits what is too large, then what has too much load.
pub(super) fn run(draft: &mut Draft<'_>) {
    let picture = draft.picture;
    for rule in [Rule::SplitSize, Rule::SplitLoad] {
        for (shard, view) in &picture.shards {
            if draft.is_complete() {
                return;
            }
            if *shard == SYSTEM_SHARD || !draft.is_free(*shard) || !picture.is_calm(view) {
                continue;
            }
            match rule {
                Rule::SplitSize => by_size(draft, *shard, view),
                _ => by_load(draft, *shard, view),
            }
        }
    }
}

fn by_size(draft: &mut Draft<'_>, shard: ShardId, view: &ShardView) {
    let mark = draft.picture.settings.size_mark;
    if view.bytes <= mark {
        return;
    }
    let Some(at) = view.middle.clone().filter(|at| divides(view, at)) else {
        draft.refuse(Refusal::Undividable { shard, rule: Rule::SplitSize });
        return;
    };
    let predicted = Predicted { what: Quantity::Bytes, before: view.bytes, after: view.bytes.div_ceil(2) };
    let why = format!("it has {} bytes, more than {mark}", view.bytes);
    draft.push(shard, Rule::SplitSize, Change::Split { at }, why, predicted);
}

fn by_load(draft: &mut Draft<'_>, shard: ShardId, view: &ShardView) {
    let picture = draft.picture;
    let (cost, mark) = (picture.cost(view), picture.settings.load_mark);
    if cost <= mark || picture.rests(view) {
        return;
    }
    match point(picture, view) {
        Point::At { at, permille } => {
            let after = u64::try_from(u128::from(cost) * u128::from(permille) / 1000).unwrap_or(u64::MAX);
            let predicted = Predicted { what: Quantity::Load, before: cost, after };
            let why = format!("it has {cost} load units a second, more than {mark}");
            draft.push(shard, Rule::SplitLoad, Change::Split { at }, why, predicted);
        }
        Point::Hot { at, percent } => draft.refuse(Refusal::HotKey { shard, at, percent }),
        Point::None => draft.refuse(Refusal::Undividable { shard, rule: Rule::SplitLoad }),
    }
}

fn divides(view: &ShardView, at: &Bytes) -> bool {
    view.from != *at && within(at, &view.from, &view.to)
}

/// Where a shard is split by its load.
enum Point {
    /// Here; the greater half has so much of the load.
    At { at: Bytes, permille: u64 },
    /// Nowhere: this key has half of it or more.
    Hot { at: Bytes, percent: u64 },
    /// Nowhere: no half would have a quarter, or nothing was sampled.
    None,
}

/// The sampled position that divides the load best.
fn point(picture: &Picture, view: &ShardView) -> Point {
    let cost = |sample: &Sample| u128::from(picture.settings.weights.cost(sample.rate));
    let total: u128 = view.samples.iter().map(cost).sum();
    let hottest = view.samples.iter().max_by_key(|sample| cost(sample)).filter(|_| total > 0);
    let Some(hottest) = hottest else { return Point::None };
    if cost(hottest) * 2 >= total {
        let percent = u64::try_from(cost(hottest) * 100 / total).unwrap_or(100);
        return Point::Hot { at: hottest.at.clone(), percent };
    }
    let mut below: u128 = 0;
    let mut best: Option<(u128, &Bytes)> = None;
    for sample in &view.samples {
        let greater = below.max(total - below);
        let enough = (total - greater) * 4 >= total;
        if enough && divides(view, &sample.at) && best.is_none_or(|(least, _)| greater < least) {
            best = Some((greater, &sample.at));
        }
        below += cost(sample);
    }
    match best {
        Some((greater, at)) => {
            Point::At { at: at.clone(), permille: u64::try_from(greater * 1000 / total).unwrap_or(1000) }
        }
        None => Point::None,
    }
}
