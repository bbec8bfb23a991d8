//! The network: who can reach whom, and when what was sent arrives.
//!
//! Owns: cuts, connections and the order within each. Must never: deliver a frame of a connection after one of a later
//! connection of the same pair, or let frames of one connection overtake each other.
//!
//! Frames may be lost (a cut swallows them), arrive late, and arrive twice. Where a link has a bandwidth, a frame waits for those
//! before it, and one that finds the sender's queue full is dropped there.

use crate::dice::Dice;
use crate::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::ids::NodeId;

/// One direction of a pair.
pub(crate) type Pair = (NodeId, NodeId);

#[derive(Default)]
struct Link {
    /// Counts connections.
    number: u64,
    open: bool,
    /// Arrival of the last frame.
    last: u64,
    /// When the last frame has left the sender's queue.
    drained: u64,
}

/// Cuts and links.
#[derive(Default)]
pub(crate) struct Network {
    cuts: BTreeSet<Pair>,
    links: BTreeMap<Pair, Link>,
}

/// What becomes of a frame.
pub(crate) enum Fate {
    /// It arrives.
    Passes(Passage),
    /// It is lost on its way.
    Lost,
    /// It finds the sender's queue full.
    Dropped,
}

/// When a frame arrives, on which connection, and whether once more.
pub(crate) struct Passage {
    pub(crate) at: u64,
    pub(crate) number: u64,
    pub(crate) again: Option<u64>,
}

impl Network {
    pub(crate) fn cut(&mut self, pair: Pair) {
        self.cuts.insert(pair);
    }

    pub(crate) fn cut_both(&mut self, (a, b): Pair) {
        self.cuts.extend([(a, b), (b, a)]);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    pub(crate) fn reaches(&self, pair: Pair) -> bool {
        !self.cuts.contains(&pair)
    }

    /// Opens a connection; `false` where one is open.
    pub(crate) fn open(&mut self, pair: Pair) -> bool {
        let link = self.links.entry(pair).or_default();
        if std::mem::replace(&mut link.open, true) {
            return false;
        }
        link.number += 1;
        (link.last, link.drained) = (0, 0);
        true
    }

    /// Breaks a connection: what is under way on it is lost.
    pub(crate) fn close(&mut self, pair: Pair) {
        if let Some(link) = self.links.get_mut(&pair) {
            link.open = false;
            link.number += 1;
        }
    }

    /// Whether frames of connection `number` still arrive.
    pub(crate) fn carries(&self, pair: Pair, number: u64) -> bool {
        self.links.get(&pair).is_some_and(|link| link.open && link.number == number)
    }

    /// The way of a frame of `bytes` that leaves at `now`.
    pub(crate) fn pass(&mut self, pair: Pair, now: u64, bytes: u64, plan: &Plan, dice: &mut Dice) -> Fate {
        let lost = dice.chance(plan.loss);
        let slow = if dice.chance(plan.slow) { 20 } else { 1 };
        let delay = dice.between(plan.delay) * slow;
        let again = dice.chance(plan.duplicate).then(|| dice.between(plan.delay) * 20);
        let Some(link) = self.links.get_mut(&pair).filter(|link| link.open) else { return Fate::Lost };
        if lost || self.cuts.contains(&pair) {
            return Fate::Lost;
        }
        let mut leaves = now;
        if let Some(bandwidth) = plan.bandwidth {
            let waits = link.drained.saturating_sub(now);
            let queued = waits * bandwidth / 1_000_000;
            // As the real queue does, an empty one takes a frame of any size.
            if queued > 0 && queued + bytes > plan.queue_bytes {
                return Fate::Dropped;
            }
            leaves = link.drained.max(now) + bytes * 1_000_000 / bandwidth;
            link.drained = leaves;
        }
        let at = (leaves + delay).max(link.last + 1);
        link.last = at;
        Fate::Passes(Passage { at, number: link.number, again: again.map(|more| at + more) })
    }
}
