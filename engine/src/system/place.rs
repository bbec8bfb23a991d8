//! Where a new shard's replicas go.
//!
//! Owns: the choice. Must never: look at anything but the metadata, so that every replica of the system shard chooses the
//! same.

use super::SystemState;
use crate::ids::NodeId;
use std::collections::BTreeMap;

/// The `replicas` nodes that hold the fewest replicas, and of these the one that is first leader of the fewest shards;
/// ties go to the lower id.
pub(super) fn choose(state: &SystemState, replicas: usize) -> (Vec<NodeId>, NodeId) {
    let mut load: BTreeMap<NodeId, (usize, usize)> = state.nodes.keys().map(|&n| (n, (0, 0))).collect();
    for shard in state.shards.values() {
        for node in shard.membership.voters() {
            if let Some((held, _)) = load.get_mut(&node) {
                *held += 1;
            }
        }
        if let Some((_, led)) = load.get_mut(&shard.membership.first_leader) {
            *led += 1;
        }
    }
    let mut nodes: Vec<NodeId> = load.keys().copied().collect();
    nodes.sort_by_key(|n| (load[n].0, *n));
    nodes.truncate(replicas);
    let leader = nodes.iter().copied().min_by_key(|n| (load[n].1, *n)).expect("a shard has at least one replica");
    (nodes, leader)
}
