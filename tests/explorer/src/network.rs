//! The links between nodes.
//!
//! Owns: which directions are cut and when the last message of a direction arrives. Must never: look into a message.

use super::dice::Dice;
use super::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::types::NodeId;

/// The state of every direction between two nodes.
#[derive(Default)]
pub struct Network {
    cut: BTreeSet<(NodeId, NodeId)>,
    last_arrival: BTreeMap<(NodeId, NodeId), u64>,
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

    /// When a message sent now arrives: behind the direction's earlier ones, unless the plan lets it overtake.
    pub fn arrival(&mut self, from: NodeId, to: NodeId, now: u64, plan: &Plan, dice: &mut Dice) -> u64 {
        let slow = dice.chance(plan.slow);
        let (low, high) = plan.delay;
        let at = now + dice.between(low, high) * if slow { 20 } else { 1 };
        if dice.chance(plan.reorder) {
            return at;
        }
        let last = self.last_arrival.entry((from, to)).or_default();
        *last = at.max(*last);
        *last
    }
}
