//! Whose rows are in which space of the state store, and which rows are nobody's.
//!
//! Owns: what is removed with a replica, and the sweep at a start. Must never: remove a row that a replica of this node owns.
//!
//! A replica owns its own rows in its own space, and the records of its pieces, which may be in spaces where others have records
//! too (`machine/pieces.rs`). What nobody owns was left behind by a crash.

use super::Worker;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds};
use crate::genesis::Genesis;
use crate::host::Host;
use crate::logstore::LogStore;
use crate::machine::ShardState;
use crate::machine::extent::{Extent, joined, without};
use crate::node::WorkerId;
use crate::shard::Shard;
use crate::state::StateStore;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use synod_cluster::ids::{ShardId, Space};

/// Spaces from here on are those of installed snapshots; those below are shards' own numbers.
const FIRST_FRESH: u32 = 0x8000_0000;

/// A shard's rows are in the space of its own number, until a snapshot takes their place: ids are never reused.
pub(crate) fn own_space(shard: ShardId) -> Space {
    let space = u32::try_from(shard.0).ok().filter(|space| *space < 1 << 31);
    Space(space.expect("shard ids are handed out one by one and stay below 2^31"))
}

/// Which rows the replicas of the node own in spaces that they may share, as the store has it at a start. Of a replica that never
/// shared its space it says nothing but where that is.
pub(super) struct Owners {
    /// What the others own, by shard.
    sharing: BTreeMap<ShardId, Extent>,
    /// All that these own.
    owned: Vec<Bounds>,
    /// The spaces that these use.
    spaces: BTreeSet<Space>,
    /// The own spaces of all groups, as the log names them.
    pointed: BTreeSet<Space>,
    /// Those of groups that never shared their space.
    alone: BTreeSet<Space>,
}

impl Owners {
    /// Reads what all groups of the node own, whichever worker has them: `pointed` are the spaces that the log names.
    pub(super) fn read(
        store: &mut dyn StateStore,
        log: &dyn LogStore,
        groups: &[ShardId],
        pointed: &[(ShardId, Space)],
    ) -> Result<Self, StoreError> {
        let places: BTreeMap<ShardId, Space> = pointed.iter().copied().collect();
        let (mut sharing, mut alone) = (BTreeMap::new(), BTreeSet::new());
        for id in groups {
            let space = places.get(id).copied().unwrap_or_else(|| own_space(*id));
            let rows = [keys::bounds_row(space), keys::pieces_row(space)];
            let mut shares = false;
            for row in rows {
                shares = shares || store.get(&row)?.is_some();
            }
            let found = if shares { log.recover_group(*id)? } else { None };
            let Some(found) = found else {
                alone.insert(space);
                continue;
            };
            let genesis =
                Genesis::decode(found.genesis, *id).map_err(|e| e.corrupt(format!("genesis of shard {id}")))?;
            if let Some(descriptor) = genesis.descriptor().cloned() {
                sharing.insert(*id, Extent::read(|row| store.get(row), space, descriptor)?);
            }
        }
        let owned = joined(sharing.values().flat_map(Extent::owned).collect());
        let spaces = sharing.values().flat_map(Extent::spaces).collect();
        Ok(Self { sharing, owned, spaces, pointed: places.into_values().collect(), alone })
    }

    fn others(&self, id: ShardId) -> impl Iterator<Item = &Extent> {
        self.sharing.iter().filter(move |(other, _)| **other != id).map(|(_, extent)| extent)
    }

    /// What of these rows no other shard than this one owns.
    pub(super) fn only(&self, id: ShardId, rows: &[Bounds]) -> Vec<Bounds> {
        without(rows, &joined(self.others(id).flat_map(Extent::owned).collect()))
    }

    /// Whether records of another shard than this one are in a space.
    pub(super) fn others_in(&self, id: ShardId, space: Space) -> bool {
        self.spaces.contains(&space) && self.others(id).any(|extent| extent.spaces().any(|used| used == space))
    }
}

impl<H: Host> Worker<H> {
    /// Removes these rows, but for those that a replica here owns.
    pub(super) fn remove_rows(&mut self, rows: &[Bounds]) {
        let spaces: BTreeSet<Space> = rows.iter().filter_map(|(from, _)| keys::space_of(from)).collect();
        // A replica whose state is gone has no rows.
        let there = self.shards.values().filter(|shard| !shard.is_missing()).map(Shard::state);
        let owners = there.filter(|state| state.uses(&spaces));
        let kept = joined(owners.flat_map(ShardState::owned).collect());
        for (from, to) in without(rows, &kept) {
            let removed = self.node.store.remove_range(&from, &to);
            self.node.must(removed);
        }
    }

    /// Rows of removed groups that a crash left behind.
    pub(super) fn sweep_removed(&mut self, owners: &Owners) -> Result<(), StoreError> {
        for id in self.removed.keys() {
            sweep(&mut *self.node.store, own_space(*id), &owners.owned)?;
        }
        Ok(())
    }

    /// Removes what a crash left behind: rows in the spaces of snapshots that no pointer of the node names, in own spaces of shards
    /// whose rows are elsewhere, and in spaces that several share those that none of them owns.
    pub(super) fn sweep_spaces(&mut self, owners: &Owners) -> Result<(), StoreError> {
        let mut live: BTreeSet<Space> = self.shards.values().map(|shard| shard.state().space()).collect();
        let store = &mut *self.node.store;
        for id in self.shards.keys().map(|id| own_space(*id)).filter(|space| !live.contains(space)) {
            sweep(store, id, &owners.owned)?;
        }
        if self.node.worker != WorkerId::FIRST {
            return Ok(());
        }
        if !planted!(SweepsOthersSpaces) {
            live.extend(&owners.pointed);
        }
        live.extend(&owners.spaces);
        // A state that was lost has no rows that say what it owned: they were removed when that was found.
        for space in owners.spaces.difference(&owners.alone) {
            sweep(store, *space, &owners.owned)?;
        }
        let (_, end) = keys::space_bounds(Space(u32::MAX - 1));
        let mut from = Space(FIRST_FRESH);
        while let Some(found) = first_space(store, from, &end)? {
            if !live.contains(&found) {
                sweep(store, found, &[])?;
            }
            from = Space(found.0 + 1);
        }
        // Also above every pointer to a space without rows.
        let above = live.last().map_or(0, |space| space.0 + 1);
        self.node.shared.spaces_from(Space(from.0.max(above)));
        Ok(())
    }
}

/// Removes the rows of a space that are not among those owned, which are [`joined`].
fn sweep(store: &mut dyn StateStore, space: Space, owned: &[Bounds]) -> Result<(), StoreError> {
    for (from, to) in without(&[keys::space_bounds(space)], owned) {
        let mut any = false;
        store.scan(&from, &to, false, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        if any {
            store.remove_range(&from, &to)?;
        }
    }
    Ok(())
}

/// The first space at or above `from` that has rows.
fn first_space(store: &mut dyn StateStore, from: Space, end: &[u8]) -> Result<Option<Space>, StoreError> {
    let mut found = None;
    store.scan(&from.0.to_be_bytes(), end, false, &mut |key, _| {
        found = keys::space_of(key);
        ControlFlow::Break(())
    })?;
    Ok(found)
}
