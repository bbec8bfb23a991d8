//! One node: a state store, logs, and the replicas that live on them.
//!
//! Owns: what is durable here and what is not. Must never: decide what a replica does.

use crate::group::id_of;
use crate::violation::Check;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use synod_cluster::custody::Here;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space};
use synod_cluster::system::{Birth, SystemState};
use synod_engine::StoreError;
use synod_engine::codec::keys::{self, Bounds};
use synod_engine::genesis::Genesis;
use synod_engine::machine::ShardState;
use synod_engine::machine::extent::{Extent, joined, without};
use synod_engine::scrub::hash_rows;
use synod_engine::snapshot::Throttle;
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::{StateStore, StateView};
use synod_paxos::types::Epoch;

/// The epoch of a tombstone that no later epoch undoes.
pub(crate) const FOR_GOOD: Epoch = Epoch(u64::MAX);

/// A replica in the log database. Whatever is changed here is durable at once.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) genesis: Genesis,
    /// The own space of the replica; `None`: that of the shard's number.
    pub(crate) space: Option<Space>,
    /// The last slot that is here.
    pub(crate) end: u64,
    /// Slots up to here are trimmed.
    pub(crate) trim: u64,
    /// Slots up to here were known as chosen.
    pub(crate) hint: u64,
}

impl Log {
    /// A log without entries.
    pub(crate) fn empty(genesis: Genesis) -> Self {
        Self { genesis, space: None, end: 0, trim: 0, hint: 0 }
    }
}

/// What of a replica is on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durable {
    pub(crate) version: u64,
    pub(crate) applied: Slot,
}

/// A node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) up: bool,
    /// It never comes back.
    pub(crate) dead: bool,
    /// Counts its processes.
    pub(crate) life: u64,
    pub(crate) disk: MemDisk,
    pub(crate) store: MemState,
    /// The replicas that are born here.
    pub(crate) states: BTreeMap<ShardId, ShardState>,
    pub(crate) logs: BTreeMap<ShardId, Log>,
    pub(crate) removed: BTreeMap<ShardId, Epoch>,
    /// Children whose first log write is not made yet.
    pub(crate) creating: BTreeMap<ShardId, Genesis>,
    /// Slots known as chosen.
    pub(crate) commit: BTreeMap<ShardId, u64>,
    pub(crate) map: Arc<SystemState>,
}

/// The space of a shard's number.
pub(crate) fn own_space(shard: ShardId) -> Space {
    keys::first_space(shard).expect("shards of a schedule have small numbers")
}

/// Whether a replica with this beginning has its base in a space: what was founded begins with nothing.
pub(crate) fn is_born(store: &mut MemState, genesis: &Genesis, space: Space) -> Result<bool, StoreError> {
    let founded = genesis.descriptor().is_some_and(|descriptor| descriptor.born == Birth::Founded);
    Ok(founded || store.get(&keys::bounds_row(space))?.is_some())
}

/// The hash by which replicas are compared. Sessions are put into the store before, as they are before a freeze.
pub(crate) fn digest(store: &mut MemState, state: &mut ShardState) -> Check<u128> {
    state.store_sessions(store)?;
    let rows = state.replicated();
    let (tell, told) = mpsc::channel();
    store.view(Box::new(move |view: &mut dyn StateView| {
        // Nobody listens only where this function has ended.
        let _ = tell.send(hash_rows(view, &rows, &mut Throttle::new(0)));
    }))?;
    let found = told.recv().expect("a store in memory runs the job at once");
    Ok(found?.hash)
}

impl Node {
    /// A node without replicas.
    pub(crate) fn new(node: usize, map: Arc<SystemState>) -> Self {
        let disk = MemDisk::default();
        Self {
            id: id_of(node),
            up: true,
            dead: false,
            life: 1,
            store: MemState::open(&disk),
            disk,
            states: BTreeMap::new(),
            logs: BTreeMap::new(),
            removed: BTreeMap::new(),
            creating: BTreeMap::new(),
            commit: BTreeMap::new(),
            map,
        }
    }

    /// Whether it has the group durably, and is up.
    pub(crate) fn holds(&self, shard: ShardId) -> bool {
        self.up && self.logs.contains_key(&shard)
    }

    /// Whether a replica of the shard lives here: it is born, and its log is there.
    pub(crate) fn lives(&self, shard: ShardId) -> bool {
        self.holds(shard) && self.states.contains_key(&shard)
    }

    /// Slots known as chosen.
    pub(crate) fn commit_of(&self, shard: ShardId) -> u64 {
        self.commit.get(&shard).copied().unwrap_or(0)
    }

    /// The last slot applied, where the replica is born.
    pub(crate) fn applied(&self, shard: ShardId) -> Option<u64> {
        self.states.get(&shard).map(|state| state.applied().0)
    }

    /// What is flushed of each replica that is born on disk.
    pub(crate) fn durable(&self) -> Result<BTreeMap<ShardId, Durable>, StoreError> {
        let mut store = MemState::open(&self.disk);
        let mut all = BTreeMap::new();
        for (shard, log) in &self.logs {
            let space = log.space.unwrap_or_else(|| own_space(*shard));
            let Some(descriptor) = log.genesis.descriptor().cloned() else { continue };
            if is_born(&mut store, &log.genesis, space)? {
                let extent = Extent::read(|row| store.get(row), space, descriptor)?;
                let applied = ShardState::position(&mut store, space, *shard)?;
                all.insert(*shard, Durable { version: extent.descriptor.version, applied });
            }
        }
        Ok(all)
    }

    /// What the custody rule is told of what is here.
    pub(crate) fn here(&self) -> Result<BTreeMap<ShardId, Here>, StoreError> {
        let mut here = BTreeMap::new();
        for shard in self.logs.keys().chain(self.creating.keys()) {
            here.insert(*shard, Here::Unheld);
        }
        for (shard, durable) in self.durable()? {
            if self.states.contains_key(&shard) {
                here.insert(shard, Here::Held(durable.version));
            }
        }
        Ok(here)
    }

    /// All rows that the replicas here own.
    fn owned(&self) -> Vec<Bounds> {
        joined(self.states.values().flat_map(ShardState::owned).collect())
    }

    /// Removes rows, but for those that a replica here owns. The worker's step.
    pub(crate) fn remove_rows(&mut self, rows: &[Bounds]) -> Result<(), StoreError> {
        for (from, to) in without(rows, &self.owned()) {
            self.store.remove_range(&from, &to)?;
        }
        Ok(())
    }

    /// Removes all rows of the spaces that a replica uses, whosever they are.
    pub(crate) fn remove_spaces_of(&mut self, state: &ShardState) -> Result<(), StoreError> {
        let mut spaces: BTreeSet<Space> = state.pieces().iter().map(|piece| piece.space).collect();
        spaces.insert(state.space());
        for space in spaces {
            let (from, to) = keys::space_bounds(space);
            self.store.remove_range(&from, &to)?;
        }
        Ok(())
    }

    /// Removes what no replica here owns. The worker's step at a start. Only spaces that have rows: a removal that is not flushed yet
    /// must not cover what a snapshot loads later.
    pub(crate) fn sweep(&mut self) -> Result<(), StoreError> {
        let mut spaces: BTreeSet<Space> = BTreeSet::new();
        self.store.scan(&[], &[0xff; 5], false, &mut |key, _| {
            spaces.extend(keys::space_of(key));
            ControlFlow::Continue(())
        })?;
        let spaces: Vec<Bounds> = spaces.into_iter().map(keys::space_bounds).collect();
        self.remove_rows(&spaces)
    }

    /// Makes all that is applied durable, in one piece.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        for state in self.states.values_mut() {
            state.store_sessions(&mut self.store)?;
        }
        self.store.freeze()?;
        Ok(())
    }
}
