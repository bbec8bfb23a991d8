//! Where a new shard's replicas go.
//!
//! Owns: the choice. Must never: look at anything but the metadata, so that every replica of the system shard chooses the
//! same.

use super::SystemState;
use crate::ids::NodeId;
use std::collections::BTreeMap;
use synod_paxos::types::Membership;

/// How many replicas each node that takes any holds, and of how many shards it is the first leader. Counted once for all shards of a
/// table.
pub(super) struct Load(BTreeMap<NodeId, (usize, usize)>);

impl Load {
    pub(super) fn of(state: &SystemState) -> Self {
        let takers = state.nodes.keys().filter(|node| state.takes(**node));
        let mut load = Self(takers.map(|&n| (n, (0, 0))).collect());
        for shard in state.shards.values() {
            load.add(&shard.membership);
        }
        load
    }

    /// A shard with these members was placed.
    pub(super) fn add(&mut self, membership: &Membership) {
        for node in membership.voters() {
            if let Some((held, _)) = self.0.get_mut(&node) {
                *held += 1;
            }
        }
        if let Some((_, led)) = self.0.get_mut(&membership.first_leader) {
            *led += 1;
        }
    }

    /// The nodes that there are to choose from.
    pub(super) fn nodes(&self) -> usize {
        self.0.len()
    }

    /// The `replicas` nodes that hold the fewest replicas, and of these the one that is first leader of the fewest shards;
    /// ties go to the lower id.
    pub(super) fn choose(&self, replicas: usize) -> (Vec<NodeId>, NodeId) {
        let mut nodes: Vec<NodeId> = self.0.keys().copied().collect();
        nodes.sort_by_key(|n| (self.0[n].0, *n));
        nodes.truncate(replicas);
        let leader = nodes.iter().copied().min_by_key(|n| (self.0[n].1, *n)).expect("a shard has at least one replica");
        (nodes, leader)
    }
}
