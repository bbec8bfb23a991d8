//! States, row by row, against the model.
//!
//! Owns: which rows are a replica's, and their hash; what must hold of bounds in every map. Must never: look at a state through the code
//! that wrote it.

use crate::disk::Rows;
use crate::model::{Extent, ShardModel, head_hash, record_hash};
use crate::violation::{Checked, Violation, check};
use crate::world::World;
use bytes::Bytes;
use std::collections::BTreeSet;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, Space};
use synod_cluster::system::{Descriptor, Partitioning, SystemState};
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::bounds::BoundsRow;
use synod_engine::codec::keys::{self, Bounds, RecordRow};
use synod_engine::codec::pieces::{self, Piece};
use synod_engine::codec::record::{Head, Newest, Record};

/// What a state holds of a shard, by its own rows.
struct Found {
    slot: Slot,
    extent: Extent,
    hash: u64,
}

/// The rows of the positions `[from, to)` of a table in a space.
fn rows_between(space: Space, descriptor: &Descriptor, from: &[u8], to: &[u8]) -> Bounds {
    let ring = |bound: &[u8]| bound.first_chunk::<8>().map_or(0, |hash| u64::from_be_bytes(*hash));
    match descriptor.partitioning {
        Partitioning::Range => {
            let some = |bound| Some(bound).filter(|bound: &&[u8]| !bound.is_empty());
            keys::range_bounds(space, descriptor.table, some(from), some(to))
        }
        Partitioning::Hash => {
            keys::hash_bounds(space, descriptor.table, ring(from), (!to.is_empty()).then(|| ring(to)))
        }
    }
}

/// What is there of a shard whose own space this is; `None` where a shard that a split made or changed has no state here.
fn find(rows: &Rows, model: &ShardModel, space: Space) -> Result<Option<Found>, DecodeError> {
    let Some(descriptor) = model.descriptor() else { return Ok(None) };
    let bounds = rows.get(&keys::bounds_row(space)).cloned().map(BoundsRow::decode).transpose()?;
    let pieces = rows.get(&keys::pieces_row(space)).cloned().map(pieces::decode).transpose()?;
    let position = rows.get(&keys::applied(space)).cloned().map(AppliedRow::decode).transpose()?;
    // A child has both rows from its beginning on. What is in the own space of a parent that is not here may be its child's.
    let absent = model.was_split() && position.is_none();
    let (extent, ranges) = match (bounds, model.extent_at(Slot(0))) {
        (None, None) => return Ok(None),
        (None, Some(_)) if absent => return Ok(None),
        // It shares its space with nobody.
        (None, Some(first)) => (first.clone(), vec![keys::table_bounds(space, descriptor.table)]),
        (Some(BoundsRow { version, from, to, .. }), _) => {
            let whole = vec![Piece { from: from.clone(), to: to.clone(), space }];
            let pieces = pieces.unwrap_or(whole);
            let ranges = pieces.iter().map(|p| rows_between(p.space, descriptor, &p.from, &p.to)).collect();
            (Extent { version, from, to }, ranges)
        }
    };
    let slot = position.map_or(Slot(0), |row| row.slot);
    let is_hashed = descriptor.partitioning == Partitioning::Hash;
    let mut hash = 0;
    for (from, to) in ranges {
        for (row, value) in rows.range(from..to) {
            hash ^= row_hash(row, value, is_hashed)?;
        }
    }
    Ok(Some(Found { slot, extent, hash }))
}

/// What a row of a record contributes to a state's hash.
fn row_hash(row: &[u8], value: &Bytes, is_hashed: bool) -> Result<u64, DecodeError> {
    let name = keys::parse_record(row, is_hashed)?;
    match name.row {
        RecordRow::Head => {
            let head = Head::decode(value.clone())?;
            let hash = head_hash(&name.key, head.first.0, head.next.0);
            let Newest::Inline(r) = &head.newest else { return Ok(hash) };
            Ok(hash ^ record_hash(&name.key, head.next.0 - 1, r.ts_us, r.tombstone, &r.value))
        }
        RecordRow::History(offset) => {
            let r = Record::decode(value.clone())?;
            Ok(record_hash(&name.key, offset.0, r.ts_us, r.tombstone, &r.value))
        }
    }
}

/// The spaces in which those whose own spaces are named have rows, and those of children that their rows name.
fn spaces_in_use(rows: &Rows, named: BTreeSet<Space>) -> BTreeSet<Space> {
    let (mut used, mut left) = (BTreeSet::new(), named.into_iter().collect::<Vec<_>>());
    while let Some(space) = left.pop() {
        if !used.insert(space) {
            continue;
        }
        let pieces = rows.get(&keys::pieces_row(space)).cloned().and_then(|row| pieces::decode(row).ok());
        left.extend(pieces.into_iter().flatten().map(|piece| piece.space));
        let bounds = rows.get(&keys::bounds_row(space)).cloned().and_then(|row| BoundsRow::decode(row).ok());
        let children = bounds.into_iter().flat_map(|row| row.children);
        left.extend(children.filter_map(|child| keys::first_space(child.shard)));
    }
    used
}

impl World {
    /// Shards of tables that were not dropped, the map knows them or has given their ids.
    fn audited(&self) -> impl Iterator<Item = &ShardModel> {
        let Self { map, models, .. } = self;
        let there = move |shard: &ShardId| {
            map.as_ref().is_some_and(|map| map.shards.contains_key(shard) || map.reserved.contains_key(shard))
        };
        models.iter().filter(move |(shard, _)| **shard != SYSTEM_SHARD && there(shard)).map(|(_, model)| model)
    }

    /// Children of which a disk has the log and not the state.
    pub(crate) fn unborn_on_disk(&self, id: NodeId) -> u64 {
        let disk = self.nodes[&id].disk.lock();
        let children = self.models.iter().filter(|(_, model)| model.is_child());
        children.filter(|(shard, _)| disk.is_unborn(**shard)).count() as u64
    }

    /// What must hold of the bounds of a newer map.
    pub(crate) fn check_bounds(&self, before: Option<&SystemState>, map: &SystemState) -> Checked {
        if !self.splits.on {
            return Ok(());
        }
        for table in map.tables.keys() {
            let mut shards: Vec<&Descriptor> = map.shards.values().filter(|d| d.table == *table).collect();
            shards.sort_unstable_by(|a, b| a.from.cmp(&b.from));
            let adjoin = |two: &[&Descriptor]| !two[0].to.is_empty() && two[0].to == two[1].from;
            let ends =
                shards.first().is_some_and(|d| d.from.is_empty()) && shards.last().is_some_and(|d| d.to.is_empty());
            check(
                ends && shards.windows(2).all(adjoin),
                "each position of a table has one owner in every map",
                || format!("table {table:?}, revision {}: {shards:?}", map.revision),
            )?;
        }
        for descriptor in map.shards.values() {
            let (shard, version) = (descriptor.shard, descriptor.version);
            let old = before.and_then(|before| before.shards.get(&shard)).map_or(0, |old| old.version);
            check(version >= old, "no version of bounds goes back", || {
                format!("shard {shard}: {version} after {old}")
            })?;
            let extent = self.models.get(&shard).and_then(|model| model.extent_of(version));
            let told = Extent::of(descriptor);
            check(extent.is_none_or(|extent| *extent == told), "the map has the bounds that the log says", || {
                format!("shard {shard}: {told:?}, by the committed log {extent:?}")
            })?;
        }
        Ok(())
    }

    /// What a process will start from: effects and positions that belong together.
    pub(crate) fn audit_disk(&mut self, id: NodeId) -> Checked {
        if self.nodes[&id].damaged {
            return Ok(());
        }
        let disk = self.nodes[&id].disk.clone();
        let disk = disk.lock();
        let invariant = "15: applied position and effects survive or vanish together";
        // Workers sweep what is left of a removed replica, each a part of it, and flush that one by one.
        let space_of = |shard| (!disk.is_removed(shard)).then(|| disk.pointer(shard));
        self.audit(id, &disk.state, space_of, invariant, None)
    }

    /// What a process holds; `upto`: it must have come so far.
    pub(crate) fn audit_process(&mut self, id: NodeId, upto: &[(ShardId, Slot)]) -> Checked {
        let Some(up) = &self.nodes[&id].up else { return Ok(()) };
        // Rows that a shard gave up and that a child may use go with the next start at the latest.
        if !self.splits.on {
            self.audit_spaces(id)?;
        }
        let rows = std::sync::Arc::clone(&up.rows);
        let rows = rows.lock().expect("no holder panics");
        self.audit_dropped(id, &rows)?;
        let tap = up.taps.lock();
        let invariant = "25: replicas have equal state hashes at equal slots";
        self.audit(id, &rows, |shard| Some(tap.space_of(shard)), invariant, Some(upto))
    }

    /// Rows stand only where the log points to.
    pub(crate) fn audit_spaces(&self, id: NodeId) -> Checked {
        let Some(up) = &self.nodes[&id].up else { return Ok(()) };
        let named = up.taps.lock().named_spaces();
        let rows = up.rows.lock().expect("no holder panics");
        let named = spaces_in_use(&rows, named);
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

    /// A process that has just started shows no position, bounds, pieces or sessions of a replica that was removed.
    pub(crate) fn audit_removed(&self, id: NodeId) -> Checked {
        let node = &self.nodes[&id];
        let Some(up) = &node.up else { return Ok(()) };
        let disk = node.disk.lock();
        let removed: Vec<ShardId> = self.models.keys().copied().filter(|shard| disk.is_removed(*shard)).collect();
        drop(disk);
        let rows = up.rows.lock().expect("no holder panics");
        for shard in removed {
            let (from, to) = keys::own_bounds(Space(shard.0 as u32));
            let left = rows.range(from..to).count();
            check(left == 0, "a start sweeps what is left of a removed replica", || {
                format!("node {id} shard {shard}: {left} rows")
            })?;
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
        let Some(model) = self.audited().find(|model| model.id() == shard) else { return Ok(()) };
        Self::audit_one(id, rows, space, model, invariant).map(|_| ())
    }

    fn audit_one(id: NodeId, rows: &Rows, space: Space, model: &ShardModel, invariant: &'static str) -> Checked<Slot> {
        let shard = model.id();
        let unreadable = |e: DecodeError| Violation::new(invariant, format!("node {id} shard {shard}: {e}"));
        let Some(Found { slot, extent, hash }) = find(rows, model, space).map_err(unreadable)? else {
            return Ok(Slot(0));
        };
        let known = model.hash_at(slot);
        check(known == Some(hash), invariant, || {
            let last = model.last();
            format!("node {id} shard {shard} at slot {slot}: {hash:x}, by the committed log ({last}) {known:x?}")
        })?;
        let due = model.extent_at(slot);
        check(due == Some(&extent), "a replica has the bounds of its position in the log", || {
            format!("node {id} shard {shard} at slot {slot}: {extent:?}, by the committed log {due:?}")
        })?;
        Ok(slot)
    }

    /// Of a shard that was dropped nothing is left.
    fn audit_dropped(&self, id: NodeId, rows: &Rows) -> Checked {
        let known = |shard: &ShardId| self.map.as_ref().is_some_and(|map| map.shards.contains_key(shard));
        // What a split left to the next start is looked for there.
        let alone = self.models.iter().filter(|(_, model)| !model.was_split()).map(|(shard, _)| shard);
        for shard in alone.filter(|shard| !known(shard)) {
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
        space_of: impl Fn(ShardId) -> Option<Space>,
        invariant: &'static str,
        upto: Option<&[(ShardId, Slot)]>,
    ) -> Checked {
        for model in self.audited() {
            let shard = model.id();
            let Some(space) = space_of(shard) else { continue };
            let slot = Self::audit_one(id, rows, space, model, invariant)?;
            let upto = upto.filter(|_| self.is_member(id, shard));
            let due = upto.and_then(|all| all.iter().find(|(s, _)| *s == shard)).map_or(Slot(0), |(_, slot)| *slot);
            check(slot >= due, "replicas converge", || {
                format!("node {id} shard {shard} stands at {slot}, due is {due}")
            })?;
        }
        Ok(())
    }
}
