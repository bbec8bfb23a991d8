//! What changed in the map from one revision to another.
//!
//! Owns: the difference of two states, and what becomes of a state with it. Must never: take time in proportion to the shards, or apply
//! a difference to another revision than the one it was made from.
//!
//! Jobs and the node and table ids to be given next are not in it: nobody but the system shard's own replicas needs them.

use super::{Descriptor, NodeInfo, Reserved, SystemState, TableInfo};
use crate::ids::{ClusterVersion, NodeId, ShardId, TableId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries with their new values; `None`: gone.
pub type Changed<K, V> = Vec<(K, Option<V>)>;

/// The changes from one revision to a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDelta {
    /// The revision that it is applied to.
    pub from: u64,
    /// The revision that it leads to.
    pub to: u64,
    /// The cluster's version then.
    pub version: ClusterVersion,
    /// The shard id to be given next then.
    pub next_shard: u64,
    /// Nodes.
    pub nodes: Changed<NodeId, NodeInfo>,
    /// Tables.
    pub tables: Changed<TableId, TableInfo>,
    /// Shards.
    pub shards: Changed<ShardId, Arc<Descriptor>>,
    /// Reservations.
    pub reserved: Changed<ShardId, Reserved>,
}

impl SystemState {
    /// What `older` has to be told to show what this state shows.
    #[must_use]
    pub fn delta_since(&self, older: &Self) -> MapDelta {
        MapDelta {
            from: older.revision,
            to: self.revision,
            version: self.version,
            next_shard: self.next_shard,
            nodes: changed(&self.nodes, &older.nodes),
            tables: changed(&self.tables, &older.tables),
            shards: self.shards.since(&older.shards).map(|(id, now)| (id, now.cloned())).collect(),
            reserved: changed(&self.reserved, &older.reserved),
        }
    }

    /// This state with the changes; `None` where they were not made from its revision, or lead to reservations that cannot be. Of
    /// jobs and of the node and table ids to be given next the result knows nothing.
    #[must_use]
    pub fn with_delta(&self, delta: MapDelta) -> Option<Self> {
        if delta.from != self.revision || delta.to <= delta.from {
            return None;
        }
        let mut next = self.clone();
        (next.revision, next.version, next.next_shard) = (delta.to, delta.version, delta.next_shard);
        next.jobs = BTreeMap::new();
        (next.last_job.0, next.next_node, next.next_table) = (0, 0, 0);
        apply(&mut next.nodes, delta.nodes);
        apply(&mut next.tables, delta.tables);
        apply(&mut next.reserved, delta.reserved);
        for (id, now) in delta.shards {
            match now {
                Some(descriptor) => next.shards.share(id, descriptor),
                None => next.shards.remove(&id),
            };
        }
        next.reservations_are_sound().then_some(next)
    }
}

fn changed<K: Ord + Clone, V: Clone + PartialEq>(now: &BTreeMap<K, V>, before: &BTreeMap<K, V>) -> Changed<K, V> {
    let put = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let put = put.map(|(key, value)| (key.clone(), Some(value.clone())));
    put.chain(gone.map(|key| (key.clone(), None))).collect()
}

fn apply<K: Ord, V>(entries: &mut BTreeMap<K, V>, changes: Changed<K, V>) {
    for (key, now) in changes {
        match now {
            Some(value) => entries.insert(key, value),
            None => entries.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests;
