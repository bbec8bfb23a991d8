//! States, row by row, against the model.
//!
//! Owns: the hash of a replica's rows. Must never: look at a state through the code that wrote it.

use crate::disk::Rows;
use crate::model::{ShardModel, head_hash, record_hash};
use crate::violation::{Checked, Violation, check};
use crate::world::World;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, Space, TableId};
use synod_cluster::system::{Descriptor, Partitioning};
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::record::{Head, Newest, Record};

/// The position of a shard's rows, and their hash.
fn hash(rows: &Rows, descriptor: &Descriptor, space: Space) -> Result<(Slot, u64), DecodeError> {
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
        let disk = disk.lock();
        let invariant = "15: applied position and effects survive or vanish together";
        self.audit(id, &disk.state, |shard| disk.pointer(shard), invariant, None)
    }

    /// What a process holds; `upto`: it must have come so far.
    pub(crate) fn audit_process(&mut self, id: NodeId, upto: &[(ShardId, Slot)]) -> Checked {
        let Some(up) = &self.nodes[&id].up else { return Ok(()) };
        self.audit_spaces(id)?;
        let rows = std::sync::Arc::clone(&up.rows);
        let rows = rows.lock().expect("no holder panics");
        self.audit_dropped(id, &rows)?;
        let tap = up.taps.lock();
        let invariant = "25: replicas have equal state hashes at equal slots";
        self.audit(id, &rows, |shard| tap.space_of(shard), invariant, Some(upto))
    }

    /// Rows stand only where the log points to.
    pub(crate) fn audit_spaces(&self, id: NodeId) -> Checked {
        let Some(up) = &self.nodes[&id].up else { return Ok(()) };
        let named = up.taps.lock().named_spaces();
        let rows = up.rows.lock().expect("no holder panics");
        let mut from: Vec<u8> = Vec::new();
        while let Some((key, _)) = rows.range(from..).next() {
            let space = Space(u32::from_be_bytes(*key.first_chunk::<4>().expect("rows begin with their space")));
            check(named.contains(&space), "rows of spaces that nothing points to go", || {
                format!("node {id}: rows in {space:?}, {named:?} are named")
            })?;
            from = keys::space_bounds(space).1;
        }
        Ok(())
    }

    /// Whether the disk has rows that the process which has just started does not show.
    pub(crate) fn leftover(&self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        let Some(up) = &node.up else { return false };
        let named = up.taps.lock().named_spaces();
        let disk = node.disk.lock();
        let last = disk.state.last_key_value().and_then(|(key, _)| key.first_chunk::<4>().copied());
        last.is_some_and(|space| !named.contains(&Space(u32::from_be_bytes(space))))
    }

    /// What a snapshot is made of.
    pub(crate) fn audit_space(
        &self,
        id: NodeId,
        shard: ShardId,
        rows: &Rows,
        space: Space,
        invariant: &'static str,
    ) -> Checked {
        let Some(descriptor) = self.descriptors().into_iter().find(|d| d.shard == shard) else { return Ok(()) };
        let Some(model) = self.models.get(&shard) else { return Ok(()) };
        Self::audit_one(id, rows, &descriptor, space, model, invariant).map(|_| ())
    }

    fn audit_one(
        id: NodeId,
        rows: &Rows,
        descriptor: &Descriptor,
        space: Space,
        model: &ShardModel,
        invariant: &'static str,
    ) -> Checked<Slot> {
        let shard = descriptor.shard;
        let unreadable = |e: DecodeError| Violation::new(invariant, format!("node {id} shard {shard}: {e}"));
        let (slot, found) = hash(rows, descriptor, space).map_err(unreadable)?;
        let known = model.hash_at(slot);
        check(known == Some(found), invariant, || {
            let last = model.last();
            format!("node {id} shard {shard} at slot {slot}: {found:x}, by the committed log ({last}) {known:x?}")
        })?;
        Ok(slot)
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

    fn audit(
        &self,
        id: NodeId,
        rows: &Rows,
        space: impl Fn(ShardId) -> Space,
        invariant: &'static str,
        upto: Option<&[(ShardId, Slot)]>,
    ) -> Checked {
        for descriptor in self.descriptors() {
            let shard = descriptor.shard;
            let Some(model) = self.models.get(&shard) else { continue };
            let slot = Self::audit_one(id, rows, &descriptor, space(shard), model, invariant)?;
            let upto = upto.filter(|_| self.is_member(id, shard));
            let due = upto.and_then(|all| all.iter().find(|(s, _)| *s == shard)).map_or(Slot(0), |(_, slot)| *slot);
            check(slot >= due, "replicas converge", || {
                format!("node {id} shard {shard} stands at {slot}, due is {due}")
            })?;
        }
        Ok(())
    }
}
