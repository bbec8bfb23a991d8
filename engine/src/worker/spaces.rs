//! Whose rows are in which space of the state store, and which rows are nobody's.
//!
//! Owns: what is removed with a replica, and the sweep at a start. Must never: remove a row that a replica of this node owns.
//!
//! A replica owns its own rows in its own space, and the records of its pieces, which may be in spaces where others have records
//! too (`machine/pieces.rs`). What nobody owns was left behind by a crash.

use super::Worker;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::bounds::ChildMark;
use crate::codec::keys::{self, Bounds};
use crate::command::{Admin, decode_admin, is_admin};
use crate::genesis::Genesis;
use crate::host::Host;
use crate::logstore::LogStore;
use crate::machine::ShardState;
use crate::machine::extent::{Extent, joined, without};
use crate::node::WorkerId;
use crate::shard::{FIRST_EPOCH, Shard};
use crate::state::StateStore;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use synod_cluster::ids::{NodeId, ShardId, Space};
use synod_cluster::system::{Birth, Descriptor};
use synod_paxos::types::{Member, MemberRole, Membership, Payload};

/// Read of a parent's log at a time, bytes.
const READ_BYTES: usize = 1 << 20;
/// Spaces from here on are those of installed snapshots; those below are shards' own numbers.
const FIRST_FRESH: u32 = 0x8000_0000;

/// A shard's rows are in the space of its own number, until a snapshot takes their place: ids are never reused.
pub(crate) fn own_space(shard: ShardId) -> Space {
    keys::first_space(shard).expect("shard ids are handed out one by one and stay below 2^31")
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
        let (owned, spaces) = (Vec::new(), BTreeSet::new());
        let mut owners = Self { sharing, owned, spaces, pointed: places.into_values().collect(), alone };
        owners.add_up();
        Ok(owners)
    }

    fn add_up(&mut self) {
        self.owned = joined(self.sharing.values().flat_map(Extent::owned).collect());
        self.spaces = self.sharing.values().flat_map(Extent::spaces).collect();
    }

    /// Whether the store has rows that say what a group's replica holds, or where.
    pub(super) fn has_bounds(&self, id: ShardId) -> bool {
        self.sharing.contains_key(&id)
    }

    /// Children of this node whose first rows are in the store and whose groups the log does not have, nor had and removed: a crash came
    /// before their first write. `known` are the groups that it has or removed.
    ///
    /// # Errors
    /// A store cannot be read, or the log of a parent lacks the split.
    pub(super) fn unlogged(
        &self,
        store: &mut dyn StateStore,
        log: &dyn LogStore,
        me: NodeId,
        known: &dyn Fn(ShardId) -> bool,
    ) -> Result<Vec<Genesis>, StoreError> {
        let mut found = Vec::new();
        for (parent, extent) in &self.sharing {
            for mark in extent.children.iter().filter(|mark| mark.voters.contains(&me) && !known(mark.shard)) {
                // There are none where the parent came by a snapshot.
                if store.get(&keys::bounds_row(own_space(mark.shard)))?.is_some() {
                    found.push(split_in_log(log, *parent, &extent.descriptor, mark)?);
                }
            }
        }
        Ok(found)
    }

    /// These own what is theirs as well.
    pub(super) fn include(&mut self, store: &mut dyn StateStore, unlogged: &[Genesis]) -> Result<(), StoreError> {
        for descriptor in unlogged.iter().filter_map(Genesis::descriptor) {
            let extent = Extent::read(|row| store.get(row), own_space(descriptor.shard), descriptor.clone())?;
            self.sharing.insert(descriptor.shard, extent);
        }
        self.add_up();
        Ok(())
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
        // Children that are about to begin have theirs already.
        let begin = self.creating.values().filter_map(|creating| creating.base.as_ref()).map(|base| &base.state);
        let owners = there.chain(begin).filter(|state| state.uses(&spaces));
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
        sweep_shared(store, owners)?;
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

/// What a child's group begins with, as the split in its parent's log says.
fn split_in_log(
    log: &dyn LogStore,
    parent: ShardId,
    descriptor: &Descriptor,
    mark: &ChildMark,
) -> Result<Genesis, StoreError> {
    let ChildMark { shard, from, to, version, voters } = mark.clone();
    let found = log.recover_group(parent)?.map(|found| (found.trimmed.slot, found.last.slot));
    let (mut at, last) = found.unwrap_or_default();
    while at < last {
        let entries = log.entries(parent, at, last, READ_BYTES)?;
        for entry in &entries {
            at = entry.id.slot;
            let Payload::Command(data) = &entry.payload else { continue };
            if !is_admin(data) {
                continue;
            }
            let found = decode_admin(data.clone())
                .map_err(|e| e.corrupt(format!("administrative entry in slot {at} of shard {parent}")))?;
            let Admin::Split(split) = found else { continue };
            let counts = split.epoch == entry.id.origin.epoch && split.version + 1 == version;
            if !counts || split.child != shard || split.at != from {
                continue;
            }
            let members = voters.iter().map(|node| Member { node: *node, role: MemberRole::Voter }).collect();
            let membership = Membership { epoch: FIRST_EPOCH, members, first_leader: entry.id.origin.node };
            let born = Birth::Child { parent, version };
            let descriptor = Descriptor { shard, from, to, version, membership, born, ..descriptor.clone() };
            return Ok(Genesis::Child { parent, slot: at, descriptor });
        }
    }
    let why = format!("it lacks the split that made shard {shard}, whose first rows are in the state store");
    Err(StoreError::Corrupt { what: format!("log of shard {parent}"), why })
}

/// Removes what nobody owns of the spaces that several share. Where the own shard of such a space does not say what it owns of it,
/// its state was lost, and its rows were removed when that was found.
fn sweep_shared(store: &mut dyn StateStore, owners: &Owners) -> Result<(), StoreError> {
    for space in owners.spaces.difference(&owners.alone) {
        sweep(store, *space, &owners.owned)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::shared::{CHILD, FAR, PARENT, Two, all_rows, remove, rows_of};
    use synod_cluster::system::{Partitioning, Retention};

    const P: ShardId = ShardId(2);
    const C: ShardId = ShardId(9);

    fn two() -> Two {
        Two::new(Partitioning::Hash, Retention::All)
    }

    /// What a start finds where these groups are in the log.
    fn found(two: &mut Two, groups: &[ShardId]) -> Owners {
        let log = two.log();
        Owners::read(&mut two.store, &log, groups, &[]).unwrap()
    }

    #[test]
    fn a_lost_state_leaves_what_others_have_in_its_space() {
        let mut two = two();
        let owners = found(&mut two, &[P, C]);
        assert!(owners.others_in(P, PARENT) && !owners.others_in(C, CHILD));
        let kept = rows_of(&mut two.store, &two.child.owned());
        // The rows that said what was whose are gone, and records that were never taken off are there.
        let (from, to) = keys::own_bounds(PARENT);
        two.store.remove_range(&from, &to).unwrap();
        let owners = found(&mut two, &[P, C]);
        assert!(owners.others_in(P, PARENT));
        let extent = Extent::read(|row| two.store.get(row), PARENT, two.created.clone()).unwrap();
        assert!(extent.alone);
        remove(&mut two.store, &owners.only(P, &extent.to_remove()));
        assert_eq!(all_rows(&mut two.store), kept);
        sweep_shared(&mut two.store, &owners).unwrap();
        assert_eq!(all_rows(&mut two.store), kept);
    }

    #[test]
    fn a_sweep_takes_what_nobody_owns_and_nothing_else() {
        let mut two = two();
        let all = all_rows(&mut two.store);
        let owners = found(&mut two, &[P, C]);
        sweep_shared(&mut two.store, &owners).unwrap();
        assert_eq!(all_rows(&mut two.store), all);

        // The child was removed, and a crash left its rows.
        let kept = rows_of(&mut two.store, &two.parent.owned());
        let owners = found(&mut two, &[P]);
        for space in [own_space(C), FAR] {
            sweep(&mut two.store, space, &owners.owned).unwrap();
        }
        assert_ne!(all_rows(&mut two.store), kept, "its records in the parent's space are left");
        sweep_shared(&mut two.store, &owners).unwrap();
        assert_eq!(all_rows(&mut two.store), kept);
    }

    #[test]
    fn a_sweep_of_a_removed_parent_leaves_its_child() {
        let mut two = two();
        let kept = rows_of(&mut two.store, &two.child.owned());
        let owners = found(&mut two, &[C]);
        sweep(&mut two.store, own_space(P), &owners.owned).unwrap();
        assert_eq!(all_rows(&mut two.store), kept);
        sweep_shared(&mut two.store, &owners).unwrap();
        assert_eq!(all_rows(&mut two.store), kept);
    }
}
