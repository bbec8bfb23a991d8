//! What a replica weighs, and whether a change brings nodes closer together.
//!
//! Owns: the four quantities that are balanced, on one scale, and the measure that every balancing operation lowers. Must never: let an
//! operation pass that does not lower the measure: that it always falls is why balancing ends.
//!
//! The measure is the sum of the squares of what each node has, of each quantity, of each table and of all tables. If a node with `a`
//! hands `d` to one with `b`, the sum falls by `2 d (a - b - d)`.

use super::picture::{Picture, ShardView};
use super::settings::Weights;

/// A quantity that is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Bytes,
    Replicas,
    Leaders,
    Load,
}

/// One amount of each [`Dim`].
pub(super) type Amounts = [u64; 4];

/// What all shards together have of each quantity, on the common scale.
const SCALE: u64 = 1_000_000_000;

/// What a replica has.
fn raw(weights: &Weights, view: &ShardView, leads: bool) -> Amounts {
    let load = weights.share(weights.cost(view.rate), leads);
    [view.bytes, 1, u64::from(leads), load]
}

/// The sums over all shards.
pub(super) struct Scales(Amounts);

impl Scales {
    pub(super) fn of(picture: &Picture) -> Self {
        let mut totals = [0u64; 4];
        for view in picture.shards.values() {
            for node in view.membership.voters() {
                add(&mut totals, raw(&picture.settings.weights, view, view.leader == Some(node)));
            }
        }
        Self(totals)
    }

    /// What a replica has, on the common scale.
    pub(super) fn replica(&self, weights: &Weights, view: &ShardView, leads: bool) -> Amounts {
        let raw = raw(weights, view, leads);
        let mut scaled = [0; 4];
        for ((scaled, raw), total) in scaled.iter_mut().zip(raw).zip(self.0) {
            let part = u128::from(raw) * u128::from(SCALE) / u128::from(total.max(1));
            *scaled = u64::try_from(part).unwrap_or(u64::MAX);
        }
        scaled
    }

    /// What goes with the leadership of a shard.
    pub(super) fn leadership(&self, weights: &Weights, view: &ShardView) -> Amounts {
        let mut amounts = self.replica(weights, view, true);
        take(&mut amounts, self.replica(weights, view, false));
        amounts
    }
}

pub(super) fn add(to: &mut Amounts, amounts: Amounts) {
    for (to, amount) in to.iter_mut().zip(amounts) {
        *to = to.saturating_add(amount);
    }
}

pub(super) fn take(from: &mut Amounts, amounts: Amounts) {
    for (from, amount) in from.iter_mut().zip(amounts) {
        *from = from.saturating_sub(amount);
    }
}

/// The weights in the order of [`Dim`].
fn factors(weights: &Weights) -> [i128; 4] {
    [weights.bytes, weights.replicas, weights.leaders, weights.load].map(i128::from)
}

/// What a node has, weighted: where several can take a replica, the one with the least does.
pub(super) fn burden(weights: &Weights, has: Amounts) -> i128 {
    factors(weights).iter().zip(has).map(|(weight, has)| weight * i128::from(has)).sum()
}

/// What two nodes have, of all tables or of one.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) from: Amounts,
    pub(super) to: Amounts,
}

/// Half of what the measure falls by if `moved` goes from one node to the other; `None` where that is less than the hysteresis asks for.
pub(super) fn gain(weights: &Weights, hysteresis_percent: u32, moved: Amounts, pairs: [Pair; 2]) -> Option<i128> {
    let (mut gain, mut unit) = (0i128, 0i128);
    for pair in pairs {
        let each = factors(weights).into_iter().zip(moved).zip(pair.from.into_iter().zip(pair.to));
        for ((weight, moved), (from, to)) in each {
            let (moved, from, to) = (i128::from(moved), i128::from(from), i128::from(to));
            gain += weight * moved * (from - to - moved);
            unit += weight * moved * moved;
        }
    }
    (gain > 0 && gain * 100 >= unit * i128::from(hysteresis_percent)).then_some(gain)
}
