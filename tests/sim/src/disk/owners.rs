//! Whose rows of a state are whose, and what becomes of them where some are damaged.
//!
//! Owns: what stands for the salvage of RocksDB's files at a start, and what the observer asks of children. Must never: keep a row of a
//! replica of which another row is damaged.

use super::Inner;
use bytes::Bytes;
use std::collections::BTreeSet;
use synod_cluster::ids::{ShardId, Slot, Space};
use synod_cluster::system::{Descriptor, row_kinds};
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::keys::{self, Bounds};
use synod_engine::codec::node;
use synod_engine::genesis::Genesis;
use synod_engine::machine::extent::{Extent, owned_by_each};

/// A start reads the applied position, the bounds, the pieces, the sessions and the metadata of a space.
fn is_read_at_start(space: Space, key: &[u8]) -> bool {
    let metadata = row_kinds().map(|kind| keys::system_bounds(space, kind));
    let mut ranges = metadata.chain([keys::session_bounds(space)]);
    let rows = [keys::applied(space), keys::bounds_row(space), keys::pieces_row(space)];
    rows.iter().any(|row| row[..] == *key) || ranges.any(|(from, to)| *key >= from[..] && *key < to[..])
}

impl Inner {
    /// What a start does about damage that was noted, or that it meets with: what a replica with a damaged row owns goes as a whole.
    /// Stands for the salvage of RocksDB's files. How many went.
    pub(crate) fn set_damage_aside(&mut self) -> usize {
        let space_of = |key: &Vec<u8>| key.first_chunk::<4>().map(|space| Space(u32::from_be_bytes(*space)));
        let met =
            self.condemned || self.flipped_rows().any(|key| space_of(key).is_some_and(|s| is_read_at_start(s, key)));
        self.condemned = false;
        if !met {
            return 0;
        }
        let extents = self.extents();
        if extents.iter().any(|extent| !extent.alone) {
            return self.keep_what_is_sound(&extents);
        }
        let spaces: BTreeSet<Space> = self.flipped_rows().filter_map(space_of).collect();
        for space in &spaces {
            let (from, to) = keys::space_bounds(*space);
            self.state.retain(|key, _| *key < from || *key >= to);
        }
        spaces.len()
    }

    /// Where the rows of each group are; not of those whose rows that say so are damaged.
    fn extents(&self) -> Vec<Extent> {
        let genesis = |(key, row): (&Vec<u8>, &Bytes)| {
            let shard = keys::parse_group(key).ok().filter(|_| key[0] != keys::NODE_WRITE_SEQ[0])?;
            let row = Some(row.clone()).filter(|_| key[..] == keys::group_genesis(shard))?;
            let genesis = Genesis::decode(node::decode_genesis(row).ok()?, shard).ok()?;
            genesis.descriptor().cloned()
        };
        let found = self.log.iter().filter_map(genesis);
        let read = |descriptor: Descriptor| {
            let space = self.pointer(descriptor.shard);
            Extent::read(|row| Ok(self.state.get(row).cloned()), space, descriptor).ok()
        };
        found.filter_map(read).collect()
    }

    /// Where replicas share spaces: the rows of each are kept if none of them is damaged. How many replicas lose theirs.
    fn keep_what_is_sound(&mut self, extents: &[Extent]) -> usize {
        let flipped: Vec<Vec<u8>> = self.flipped_rows().cloned().collect();
        let inside = |key: &Vec<u8>, ranges: &[Bounds]| ranges.iter().any(|(from, to)| from <= key && key < to);
        let owned = owned_by_each(extents);
        let is_sound = |ranges: &&Vec<Bounds>| !flipped.iter().any(|key| inside(key, ranges));
        let sound: Vec<Bounds> = owned.iter().filter(is_sound).flatten().cloned().collect();
        let lost = owned.iter().filter(|ranges| !is_sound(ranges)).count();
        self.state.retain(|key, _| inside(key, &sound));
        // Of one whose bounds cannot be read nothing is known but that it is lost.
        lost.max(1)
    }

    /// Whether the log has a group that a split made and the state has nothing of it.
    pub(crate) fn is_unborn(&self, shard: ShardId) -> bool {
        let logged = self.log.contains_key(&keys::group_hard(shard)[..]);
        logged && !self.state.contains_key(&keys::bounds_row(self.pointer(shard)))
    }

    /// Whether a child has a state here, or had one and was removed.
    pub(crate) fn had(&self, shard: ShardId) -> bool {
        let removed = self.log.contains_key(&keys::group_removed(shard)[..]);
        removed || self.state.contains_key(&keys::bounds_row(self.pointer(shard)))
    }

    /// Whether a replica was removed: a start takes nothing from what is left of its rows.
    pub(crate) fn is_removed(&self, shard: ShardId) -> bool {
        let logged = self.log.contains_key(&keys::group_hard(shard)[..]);
        !logged && self.log.contains_key(&keys::group_removed(shard)[..])
    }

    /// How far a child that has a state here has come.
    pub(crate) fn position(&self, shard: ShardId) -> Option<Slot> {
        let space = self.pointer(shard);
        let born = self.state.contains_key(&keys::bounds_row(space));
        let row = self.state.get(&keys::applied(space)).filter(|_| born)?;
        AppliedRow::decode(row.clone()).ok().map(|row| row.slot)
    }
}
