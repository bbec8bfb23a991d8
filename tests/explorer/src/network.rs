//! The links between nodes.
//!
//! Owns: which directions are cut, what waits on each, and when the last message of a direction arrives. Must never: look into a
//! message.

use super::dice::Dice;
use super::plan::Plan;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_paxos::types::NodeId;

/// The state of every direction between two nodes.
#[derive(Default)]
pub struct Network {
    cut: BTreeSet<(NodeId, NodeId)>,
    last_arrival: BTreeMap<(NodeId, NodeId), u64>,
    /// Arrivals and bytes of what is on its way.
    waiting: BTreeMap<(NodeId, NodeId), VecDeque<(u64, u64)>>,
}

impl Network {
    /// Whether messages from `from` reach `to`.
    pub fn carries(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Heals one direction; whether it was cut.
    pub fn heal(&mut self, from: NodeId, to: NodeId) -> bool {
        self.cut.remove(&(from, to))
    }

    /// Every direction that is cut.
    pub fn cuts(&self) -> Vec<(NodeId, NodeId)> {
        self.cut.iter().copied().collect()
    }

    /// Whether so many bytes find room on a direction: one message always does.
    pub fn has_room(&mut self, from: NodeId, to: NodeId, bytes: u64, now: u64, plan: &Plan) -> bool {
        let waiting = self.waiting.entry((from, to)).or_default();
        waiting.retain(|(at, _)| *at > now);
        let held: u64 = waiting.iter().map(|(_, bytes)| bytes).sum();
        held == 0 || held + bytes <= plan.outbox_bytes
    }

    /// When a message of so many bytes sent now arrives: behind the direction's earlier ones, unless the plan lets it overtake.
    pub fn arrival(&mut self, (from, to): (NodeId, NodeId), bytes: u64, now: u64, plan: &Plan, dice: &mut Dice) -> u64 {
        let slow = dice.chance(plan.slow);
        let (low, high) = plan.delay;
        let at = now + dice.between(low, high) * if slow { 20 } else { 1 };
        if dice.chance(plan.reorder) {
            return at;
        }
        let last = self.last_arrival.entry((from, to)).or_default();
        *last = at.max(*last + bytes * plan.byte_nanos / 1_000);
        if plan.outbox_bytes < u64::MAX {
            self.waiting.entry((from, to)).or_default().push_back((*last, bytes));
        }
        *last
    }
}
