//! Tables: how they come and go.
//!
//! Owns: the shards of a new table, and everything that goes with a table. Must never: leave a shard or a reservation of a table that
//! is gone.

use super::codec::{encode_descriptor, encode_table};
use super::place::Load;
use super::{
    Birth, Descriptor, FIRST_BOUNDS, Partitioning, ROW_SHARD, ROW_TABLE, Retention, RowChange, SystemOutcome,
    SystemState, TableInfo, first_epoch,
};
use crate::ids::{ShardId, TableId};
use bytes::Bytes;

impl SystemState {
    pub(super) fn create_table(
        &mut self,
        name: &str,
        partitioning: Partitioning,
        retention: Retention,
        bounds: &[(Bytes, Bytes)],
        replicas: u32,
        rows: &mut Vec<RowChange>,
    ) -> SystemOutcome {
        if self.table(name).is_some() {
            return SystemOutcome::TableExists(name.into());
        }
        let mut load = Load::of(self);
        let nodes = u32::try_from(load.nodes()).unwrap_or(u32::MAX);
        let replicas = if replicas == 0 { nodes.min(3) } else { replicas };
        if let Err(refused) = self.check_replicas(replicas, load.nodes()) {
            return refused;
        }
        let id = TableId(self.next_table);
        self.next_table += 1;
        let table = TableInfo { name: name.into(), partitioning, retention, replicas };
        rows.push((ROW_TABLE, id.0.into(), Some(encode_table(&table))));
        self.tables.insert(id, table);
        for (from, to) in bounds {
            let shard = ShardId(self.next_shard);
            self.next_shard += 1;
            let (members, leader) = load.choose(replicas as usize);
            let descriptor = Descriptor {
                shard,
                table: id,
                partitioning,
                retention,
                from: from.clone(),
                to: to.clone(),
                version: FIRST_BOUNDS,
                membership: first_epoch(&members, leader),
                born: Birth::Founded,
            };
            load.add(&descriptor.membership);
            rows.push((ROW_SHARD, shard.0, Some(encode_descriptor(&descriptor))));
            self.shards.insert(shard, descriptor);
        }
        SystemOutcome::Table(id)
    }

    /// Refuses more replicas than there are nodes that take them. A cluster whose last node was removed has none to choose from.
    pub(super) fn check_replicas(&self, replicas: u32, nodes: usize) -> Result<(), SystemOutcome> {
        if replicas > 0 && replicas as usize <= nodes {
            return Ok(());
        }
        let emptied = self.nodes.len() - nodes;
        let besides = if emptied > 0 { format!(" beside {emptied} that are emptied") } else { String::new() };
        let why = format!("{replicas} replicas need as many nodes, the cluster has {nodes}{besides}");
        Err(SystemOutcome::Invalid { field: "replicas".into(), why })
    }

    pub(super) fn drop_table(&mut self, name: &str, rows: &mut Vec<RowChange>) -> SystemOutcome {
        let Some((id, _)) = self.table(name) else {
            return SystemOutcome::TableNotFound(name.into());
        };
        self.tables.remove(&id);
        rows.push((ROW_TABLE, id.0.into(), None));
        let mut gone: Vec<ShardId> = self.shards.of_table(id).map(|d| d.shard).collect();
        gone.sort_unstable();
        self.drop_reservations_of(&gone, rows);
        for shard in gone {
            self.shards.remove(&shard);
            rows.push((ROW_SHARD, shard.0, None));
        }
        SystemOutcome::Done
    }
}
