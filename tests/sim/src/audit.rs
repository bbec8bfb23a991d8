//! States, row by row, against the model.
//!
//! Owns: the hash of a replica's rows. Must never: look at a state through the code that wrote it.

use crate::disk::Rows;
use crate::model::{head_hash, record_hash};
use crate::violation::{Checked, Violation, check};
use crate::world::World;
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::buf::DecodeError;
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::record::{Head, Newest, Record};
use synod_engine::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, Space, TableId};
use synod_engine::system::{Descriptor, Partitioning};

/// The position of a shard's rows, and their hash.
fn hash(rows: &Rows, descriptor: &Descriptor) -> Result<(Slot, u64), DecodeError> {
    let space = Space(descriptor.shard.0 as u32);
    let row = rows.get(&keys::applied(space)).cloned();
    let slot = row.map(AppliedRow::decode).transpose()?.map_or(Slot(0), |row| row.slot);
    let (from, to) = keys::table_bounds(space, descriptor.table);
    let mut sum = 0;
    for (row, value) in rows.range(from..to) {
        let name = keys::parse_record(row, descriptor.partitioning == Partitioning::Hash)?;
        match name.row {
            RecordRow::Head => {
                let head = Head::decode(value.clone())?;
                sum ^= head_hash(&name.key, head.first.0, head.next.0);
                if let Newest::Inline(r) = &head.newest {
                    sum ^= record_hash(&name.key, head.next.0 - 1, r.ts_us, r.tombstone, &r.value);
                }
            }
            RecordRow::History(offset) => {
                let r = Record::decode(value.clone())?;
                sum ^= record_hash(&name.key, offset.0, r.ts_us, r.tombstone, &r.value);
            }
        }
    }
    Ok((slot, sum))
}

impl World {
    fn descriptors(&self) -> Vec<Descriptor> {
        let all = self.map.iter().flat_map(|map| map.shards.values());
        all.filter(|d| d.shard != SYSTEM_SHARD && d.table != TableId(0)).cloned().collect()
    }

    /// What a process will start from: effects and positions that belong together.
    pub(crate) fn audit_disk(&mut self, id: NodeId) -> Checked {
        if self.nodes[&id].damaged {
            return Ok(());
        }
        let disk = self.nodes[&id].disk.clone();
        let rows = &disk.lock().state;
        self.audit(id, rows, "15: applied position and effects survive or vanish together", None)
    }

    /// What a process holds; `upto`: it must have come so far.
    pub(crate) fn audit_process(&mut self, id: NodeId, upto: &[(ShardId, Slot)]) -> Checked {
        let Some(up) = &self.nodes[&id].up else { return Ok(()) };
        let rows = std::sync::Arc::clone(&up.rows);
        let rows = rows.lock().expect("no holder panics");
        self.audit_dropped(id, &rows)?;
        self.audit(id, &rows, "25: replicas have equal state hashes at equal slots", Some(upto))
    }

    /// Of a shard that was dropped nothing is left.
    fn audit_dropped(&self, id: NodeId, rows: &Rows) -> Checked {
        let known = |shard: &ShardId| self.map.as_ref().is_some_and(|map| map.shards.contains_key(shard));
        for shard in self.models.keys().filter(|shard| !known(shard)) {
            let (from, to) = keys::space_bounds(Space(shard.0 as u32));
            let left = rows.range(from..to).count();
            check(left == 0, "a dropped shard leaves no rows", || format!("node {id} shard {shard}: {left} rows"))?;
        }
        Ok(())
    }

    fn audit(&self, id: NodeId, rows: &Rows, invariant: &'static str, upto: Option<&[(ShardId, Slot)]>) -> Checked {
        for descriptor in self.descriptors() {
            let shard = descriptor.shard;
            let Some(model) = self.models.get(&shard) else { continue };
            let unreadable = |e: DecodeError| Violation::new(invariant, format!("node {id} shard {shard}: {e}"));
            let (slot, found) = hash(rows, &descriptor).map_err(unreadable)?;
            let known = model.hash_at(slot);
            check(known == Some(found), invariant, || {
                let last = model.last();
                format!("node {id} shard {shard} at slot {slot}: {found:x}, by the committed log ({last}) {known:x?}")
            })?;
            let due = upto.and_then(|all| all.iter().find(|(s, _)| *s == shard)).map_or(Slot(0), |(_, slot)| *slot);
            check(slot >= due, "replicas converge", || {
                format!("node {id} shard {shard} stands at {slot}, due is {due}")
            })?;
        }
        Ok(())
    }
}
