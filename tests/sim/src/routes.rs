//! Where simulated clients send what, in a run that splits shards: the production client's routes, over the map that a client fetched last
//! and what nodes said since.
//!
//! Owns: what each client knows of bounds, and what a node would say of them. Must never: know which client asks what; `whereabouts` does.

use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::ids::{ShardId, TableId};
use synod_cluster::overlay::{News, Overlay};
use synod_cluster::system::{Descriptor, Partitioning, ShardNews, SystemState};
use synod_paxos::types::Membership;

/// What one client knows.
#[derive(Default)]
pub(crate) struct Routes {
    tables: BTreeMap<TableId, (Partitioning, Overlay)>,
    revision: u64,
}

impl Routes {
    /// Whether it has had no map yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Takes a map, unless it is older than the last one.
    pub(crate) fn learn(&mut self, map: &SystemState) {
        if map.revision <= self.revision {
            return;
        }
        self.revision = map.revision;
        for (table, info) in &map.tables {
            let (_, overlay) = self.tables.entry(*table).or_insert_with(|| (info.partitioning, Overlay::default()));
            overlay.map(map.shards.values().filter(|d| d.table == *table).map(mapped));
        }
    }

    /// Takes what a node says.
    pub(crate) fn hint(&mut self, table: TableId, news: News) -> bool {
        self.tables.get_mut(&table).is_some_and(|(_, overlay)| overlay.hint(news))
    }

    /// Who has a key.
    pub(crate) fn owner(&self, table: TableId, key: &[u8]) -> Option<&News> {
        let (partitioning, overlay) = self.tables.get(&table)?;
        overlay.route(&partitioning.position(key)).map(|route| route.owner)
    }
}

/// A shard as a map has it.
fn mapped(descriptor: &Descriptor) -> News {
    let Descriptor { shard, from, to, version, membership, .. } = descriptor;
    let extent = (from.clone(), to.clone(), *version);
    news(*shard, extent, membership)
}

fn news(shard: ShardId, (from, to, version): (Bytes, Bytes, u64), membership: &Membership) -> News {
    let voters = membership.voters().collect();
    News { shard, from, to, version, epoch: membership.epoch, voters, leader: Some(membership.first_leader) }
}

/// The shards of a table as a node knows them, by its map and by what its replicas have applied.
pub(crate) fn known_here<'a>(
    map: &SystemState,
    applied: impl Iterator<Item = &'a ShardNews>,
    table: TableId,
) -> Overlay {
    let mut overlay = Overlay::default();
    overlay.map(map.shards.values().filter(|d| d.table == table).map(mapped));
    for told in applied {
        let parent = || map.shards.get(&map.reserved.get(&told.shard)?.parent);
        let Some(near) = map.shards.get(&told.shard).or_else(parent).filter(|d| d.table == table) else { continue };
        for child in &told.children {
            let extent = (child.from.clone(), child.to.clone(), child.version);
            overlay.hint(news(child.shard, extent, &child.membership));
        }
        overlay.hint(news(told.shard, (told.from.clone(), told.to.clone(), told.version), &near.membership));
    }
    overlay
}
