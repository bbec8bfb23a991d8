//! Shards that are too large or have too much load.
//!
//! Owns: where a shard is split by its load. Must never: split where one half would have less than a quarter of the load, or where one key
//! has half of it.

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Refusal, Rule};
use super::picture::{Sample, ShardView};
use super::settings::Weights;
use crate::ids::{SYSTEM_SHARD, ShardId};
use crate::position::divides;
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
    let Some(at) = view.middle.clone().filter(|at| divides(at, &view.from, &view.to)) else {
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
    match halve(&picture.settings.weights, (&view.from, &view.to), &view.samples) {
        Point::At { at, permille, .. } => {
            let after = u64::try_from(u128::from(cost) * u128::from(permille) / 1000).unwrap_or(u64::MAX);
            let predicted = Predicted { what: Quantity::Load, before: cost, after };
            let why = format!("it has {cost} load units a second, more than {mark}");
            draft.push(shard, Rule::SplitLoad, Change::Split { at }, why, predicted);
        }
        Point::Hot { at, percent } => draft.refuse(Refusal::HotKey { shard, at, percent }),
        Point::None => draft.refuse(Refusal::Undividable { shard, rule: Rule::SplitLoad }),
    }
}

/// Where a shard is split by its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Here.
    At {
        /// The position.
        at: Bytes,
        /// What the greater half has of the load, ‰.
        permille: u64,
        /// What the lower half has of it, ‰.
        below_permille: u64,
    },
    /// Nowhere: this key has half of it or more.
    Hot {
        /// The key's position.
        at: Bytes,
        /// What it has of the load.
        percent: u64,
    },
    /// Nowhere: no half would have a quarter, or nothing was sampled.
    None,
}

/// The sampled position that divides the load of the shard with these bounds best. Samples are in rising order, no position twice; only the
/// proportions of their rates count.
#[must_use]
pub fn halve(weights: &Weights, bounds: (&Bytes, &Bytes), samples: &[Sample]) -> Point {
    let cost = |sample: &Sample| u128::from(weights.cost(sample.rate));
    let total: u128 = samples.iter().map(cost).sum();
    let hottest = samples.iter().max_by_key(|sample| cost(sample)).filter(|_| total > 0);
    let Some(hottest) = hottest else { return Point::None };
    if cost(hottest) * 2 >= total {
        let percent = u64::try_from(cost(hottest) * 100 / total).unwrap_or(100);
        return Point::Hot { at: hottest.at.clone(), percent };
    }
    let mut below: u128 = 0;
    let mut best: Option<(u128, u128, &Bytes)> = None;
    for sample in samples {
        let greater = below.max(total - below);
        let enough = (total - greater) * 4 >= total;
        if enough && divides(&sample.at, bounds.0, bounds.1) && best.is_none_or(|(least, ..)| greater < least) {
            best = Some((greater, below, &sample.at));
        }
        below += cost(sample);
    }
    let permille = |part: u128| u64::try_from(part * 1000 / total).unwrap_or(1000);
    best.map_or(Point::None, |(greater, below, at)| Point::At {
        at: at.clone(),
        permille: permille(greater),
        below_permille: permille(below),
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Rate, Settings};
    use super::*;

    fn halved(samples: &[(&'static str, u64)]) -> Point {
        let sample = |(at, ops): &(&'static str, u64)| Sample {
            at: Bytes::from_static(at.as_bytes()),
            rate: Rate { ops: *ops, bytes: 0 },
        };
        let samples: Vec<Sample> = samples.iter().map(sample).collect();
        halve(&Settings::default().weights, (&Bytes::from_static(b"b"), &Bytes::from_static(b"y")), &samples)
    }

    #[test]
    fn the_load_is_halved_at_a_sample_unless_one_key_has_half_of_it() {
        let at = |at: &'static str, permille, below_permille| Point::At { at: at.into(), permille, below_permille };
        assert_eq!(halved(&[("c", 30), ("d", 30), ("e", 40)]), at("e", 600, 600));
        assert_eq!(halved(&[("b", 40), ("d", 30), ("e", 30)]), at("d", 600, 400));
        assert_eq!(halved(&[("c", 30), ("d", 50), ("e", 20)]), Point::Hot { at: "d".into(), percent: 50 });
        assert_eq!(halved(&[]), Point::None);
        assert_eq!(halved(&[("c", 0), ("d", 0)]), Point::None);
        // Positions of before a split divide nothing.
        assert_eq!(halved(&[("b", 40), ("y", 20), ("z", 40)]), Point::None);
    }
}
