//! Children of splits: their beginning on this node.
//!
//! Owns: what becomes of a child when its parent has applied the split here. Must never: begin a child twice, begin one that was removed,
//! begin one over rows or a log of it that are here, freeze the state without the sessions of a child that is beginning, or let go of what
//! a child begins with while one that is here is not held.
//!
//! A child begins on the worker of its parent, in the round in which the parent applies the split. Its first rows are in the store by
//! then, in one batch with the parent's new bounds. So one freeze has both or neither. Its first write in the log is its group's
//! beginning. A crash leaves one of these:
//!
//! | in the log | flushed | the next start |
//! | --- | --- | --- |
//! | – | – | the parent applies the split again |
//! | yes | – | the child is unborn (`shard/birth.rs`), and the parent applies the split again |
//! | – | yes | the group begins, as the split in the parent's log says |
//! | yes | yes | as any other |
//!
//! The parent's log is trimmed no further than what is flushed, by a write that comes after the child's first one. So the split is in the
//! log wherever it is needed.

use super::Worker;
use super::custody::Spare;
use super::spaces::{Owners, own_space};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::genesis::Genesis;
use crate::host::{Host, Told};
use crate::logstore::GroupWrite;
use crate::machine::{Born, ShardState};
use crate::node::worker_of;
use crate::round::Birth;
use crate::shard::Shard;
use crate::writer::Done;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::custody::Here;
use synod_cluster::ids::{ClusterVersion, HardState, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Descriptor;

/// A group whose first write is under way.
pub(super) struct Creating {
    pub(super) genesis: Genesis,
    /// What it begins with, where that is more than nothing.
    pub(super) base: Option<Base>,
    /// Who waits for it.
    told: Option<Told>,
}

/// What a child begins with.
pub(super) struct Base {
    pub(super) state: ShardState,
    /// Its rows are flushed.
    pub(super) held: bool,
}

impl Creating {
    /// Of a group that begins with nothing.
    pub(super) fn of(genesis: Genesis) -> Self {
        Self { genesis, base: None, told: None }
    }

    /// Whether it is a child of `shard`.
    pub(super) fn is_child_of(&self, shard: ShardId) -> bool {
        matches!(self.genesis, Genesis::Child { parent, .. } if parent == shard)
    }

    /// Tells who waits.
    pub(super) fn tell(&mut self, result: Result<(), Refusal>) {
        if let Some(told) = self.told.take() {
            told(result);
        }
    }
}

impl<H: Host> Worker<H> {
    /// Begins the children of splits that were applied just now. No freeze comes between.
    pub(super) fn take_births(&mut self) {
        for birth in std::mem::take(&mut self.node.births) {
            self.give_birth(birth);
        }
    }

    fn give_birth(&mut self, Birth { parent, slot, born, told }: Birth) {
        let Born { mut state, descriptor } = *born;
        let id = descriptor.shard;
        let votes = descriptor.membership.voters().any(|node| node == self.node.me);
        let again = planted!(CreationResetsLog);
        let unborn = self.shards.get_mut(&id).filter(|shard| shard.awaits_base() && !again);
        if let Some(shard) = unborn {
            // Its sessions go to the store now: the state is read back from there.
            let stored = state.store_sessions(&mut *self.node.store);
            self.node.must(stored);
            shard.take_base(&mut self.node, &state);
        } else if !votes || !(again || self.node.shared.roster.begin_first(id)) {
            tracing::info!(
                shard = id.0,
                parent = parent.0,
                "a split made a shard that does not begin here: it is here, or not to be"
            );
            if votes && self.node.shared.roster.look(id) == Here::Unheld && !planted!(NoCustody) {
                // A snapshot begins it, and that is not on disk. After a crash now the base may be all that is here of it.
                let stored = state.store_sessions(&mut *self.node.store);
                self.node.must(stored);
                self.keep_spare(Spare { parent, slot, child: descriptor, rows: state.to_remove() });
            } else {
                self.remove_rows(&state.to_remove());
            }
        } else {
            if self.node.cluster_version < ClusterVersion::FOURTH {
                // The map that says so is on its way. A binary that knows no children must not open this log.
                let sealed = self.node.log.seal(ClusterVersion::FOURTH);
                self.node.must(sealed);
            }
            let genesis = Genesis::Child { parent, slot, descriptor };
            return self.create_child(genesis, Base { state, held: false }, told);
        }
        if let Some(told) = told {
            told(Ok(()));
        }
    }

    /// The first write of a child. Its rows are in the store.
    fn create_child(&mut self, genesis: Genesis, base: Base, told: Option<Told>) {
        let Descriptor { shard: id, membership, .. } = base.state.descriptor().clone();
        tracing::info!(shard = id.0, "a split made shard {id}, which begins here");
        self.node.shared.roster.begin(id);
        self.node.shared.places().begin(id, self.node.worker);
        self.node.set_has(id, true);
        let write = GroupWrite {
            shard: id,
            hard: Some(HardState::initial(membership)),
            genesis: Some(genesis.encode()),
            ..GroupWrite::default()
        };
        self.node.writer.add(write, Some(Done::Created));
        self.creating.insert(id, Creating { genesis, base: Some(base), told });
    }

    /// An unborn replica has its state: it goes on with the log that it has.
    pub(super) fn born(&mut self, id: ShardId) {
        if !self.shards.get(&id).is_some_and(Shard::is_installing) {
            return;
        }
        let Some(mut old) = self.shards.remove(&id) else { return };
        let Some((found, _)) = old.installed(&mut self.node) else { return };
        let state = Genesis::decode(old.genesis().clone(), id)
            .map_err(|e| e.corrupt(format!("genesis of shard {id}")))
            .and_then(|genesis| ShardState::load(&mut *self.node.store, old.state().space(), genesis));
        let state = self.node.must(state);
        tracing::info!(shard = id.0, "shard {id} has got its first state by the replay of the split");
        self.node.metrics.replicas.dec();
        self.node.metrics.reinstalling.dec();
        let mut shard = Shard::new(id, found, state);
        shard.not_held();
        self.insert(id, shard);
        self.upkeep.births = true;
        // The map may have changed while the write was under way.
        if let Some(upto) = self.ended(id) {
            return self.give_up(id, upto);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
    }

    /// Flushes what children began with, soon: until then the log of each is of no use without that of its parent.
    pub(super) fn keep_births(&mut self) {
        if self.upkeep.births && !self.freezing() {
            self.freeze();
        }
    }

    /// Nobody is to wait for children any longer: the worker ends, or takes no part.
    pub(super) fn abandon_births(&mut self) {
        for creating in self.creating.values_mut() {
            creating.tell(Err(Refusal::NotLeader { leader: None, maybe: true }));
        }
    }

    /// Whether a child of this shard is on its way to its beginning here: the two go to another worker one by one, later.
    pub(super) fn bears(&self, shard: ShardId) -> bool {
        let unborn = |child: &Shard| child.is_unborn() && child.parent() == Some(shard);
        self.custody.spare_of(shard).is_some()
            || self.creating.values().any(|creating| creating.is_child_of(shard))
            || self.shards.values().any(unborn)
    }

    /// Begins the groups of children of which the store has the first rows and the log has nothing, where their parents are this
    /// worker's.
    pub(super) fn begin_unlogged(&mut self, unlogged: Vec<Genesis>) -> Result<(), StoreError> {
        for genesis in unlogged {
            let Genesis::Child { parent, descriptor, .. } = &genesis else { continue };
            if self.node.has(*parent) {
                let space = own_space(descriptor.shard);
                let state = ShardState::load(&mut *self.node.store, space, genesis.clone())?;
                let (shard, applied) = (descriptor.shard, state.applied());
                if applied > Slot(0) {
                    let why = format!("it is gone, but slot {applied} was applied");
                    return Err(StoreError::Corrupt { what: format!("log of shard {shard}"), why });
                }
                self.create_child(genesis, Base { state, held: true }, None);
            }
        }
        Ok(())
    }

    /// Unborn children are where their parents are, which bring them their states. All workers of the node come to the same places.
    pub(super) fn place_unborn(&mut self, groups: &[ShardId], owners: &Owners) -> Result<(), StoreError> {
        let workers = self.node.shared.workers();
        if workers == 1 {
            return Ok(());
        }
        let mut parents: BTreeMap<ShardId, ShardId> = BTreeMap::new();
        for id in groups.iter().filter(|id| !owners.has_bounds(**id)) {
            let Some(genesis) = self.node.log.genesis(*id)? else { continue };
            let genesis = Genesis::decode(genesis, *id).map_err(|e| e.corrupt(format!("genesis of shard {id}")))?;
            if let Genesis::Child { parent, .. } = genesis {
                parents.insert(*id, parent);
            }
        }
        let known: BTreeSet<ShardId> = groups.iter().copied().collect();
        for (id, parent) in &parents {
            let mut at = *parent;
            // Ids only rise from parent to child.
            while let Some(next) = parents.get(&at).filter(|next| **next < at) {
                at = *next;
            }
            if known.contains(&at) {
                let worker = worker_of(at, workers);
                self.node.shared.places().begin(*id, worker);
                self.node.set_has(*id, worker == self.node.worker);
            }
        }
        Ok(())
    }
}
