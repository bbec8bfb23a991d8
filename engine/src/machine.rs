//! The replicated state machine of one shard.
//!
//! Owns: the applied position, the clock of the shard's timestamps, its sessions, the ring of its newest records and, for
//! the system shard, the metadata. Every replica that applies the same entries holds the same state. What follows from an entry
//! outside of it is a value that it returns ([`Effects`]). Must never: look at a clock, a role or a client's connection; skip an
//! entry; or split an entry's changes over two batches.

mod ahead;
pub mod bounds;
mod effects;
pub mod extent;
mod heads;
mod merge;
pub mod overlay;
pub mod pieces;
pub mod rows;
mod split;
mod system;

use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::applied::AppliedRow;
use crate::codec::bounds::{ChildMark, Phase};
use crate::codec::keys::{self, Bounds};
use crate::command::{KeyOp, Op, RowFormat, WriteRequest, decode_entry, is_admin, is_marker};
use crate::genesis::Genesis;
use crate::memory::{Holder, Memory};
use crate::ring::Ring;
use crate::sessions::{OUTCOMES_MAX, Sessions, Verdict};
use crate::state::{StateBatch, StateStore};
use ahead::Ahead;
use bytes::Bytes;
use extent::Extent;
use overlay::{Overlay, Writes};
use pieces::Pieces;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use synod_cluster::ids::{Entry, ShardId, Slot, Space, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, SystemState};
use synod_paxos::types::Payload;

pub use effects::{Applied, Born, Effects, MergeStep, Wanted};
pub use merge::{ABSORBED_MAX, CHANGING_AGAIN};
pub use split::CHILDREN_MAX;

/// Sessions are looked through for expired clients at every multiple of this slot.
const EXPIRE_SLOTS: u64 = 4096;

/// What the requests of a shard act on.
#[derive(Debug)]
pub enum Machine {
    /// Records of a table: they are in the store.
    Data,
    /// The cluster's metadata.
    System(Box<SystemState>),
}

/// The state of one shard, but for its records, which are in the store.
pub struct ShardState {
    descriptor: Descriptor,
    /// The version that the descriptor began with.
    founded: u64,
    /// Shards that were split off, as far as the map is not known to have them.
    children: Vec<ChildMark>,
    /// Where it is in a merge.
    phase: Phase,
    /// Merges begun with it as their target.
    merges: u64,
    /// Shards that went into it, as far as the map is not known to have dropped them.
    absorbed: Vec<ShardId>,
    /// The own space: all rows but records are in it.
    space: Space,
    /// Where the records are.
    pieces: Pieces,
    applied: Slot,
    /// Applied position of the last row in the store.
    stored: Slot,
    /// Greatest timestamp of any entry or request applied: the next request gets a greater one.
    last_ts: u64,
    sessions: Sessions,
    ring: Ring,
    machine: Machine,
    /// The next entry, where it was got ready.
    ahead: Option<Box<Ahead>>,
}

/// An entry that is being applied.
struct Turn<'a> {
    store: &'a mut dyn StateStore,
    overlay: &'a mut Overlay,
    /// Rows that are written whatever the overlay holds in the end.
    batch: StateBatch,
    wanted: Wanted,
    effects: Effects,
}

impl Turn<'_> {
    /// Notes what became of the next request, where that is wanted.
    fn tell(&mut self, result: impl FnOnce() -> Applied) {
        if self.wanted == Wanted::Results {
            self.effects.results.push(result());
        }
    }
}

impl ShardState {
    /// Finds what the store holds of a shard, or its beginning where it holds nothing.
    ///
    /// # Errors
    /// A row is damaged, or the store cannot be read.
    pub fn load(store: &mut dyn StateStore, space: Space, genesis: Genesis) -> Result<Self, StoreError> {
        let Some(descriptor) = genesis.descriptor().cloned() else {
            let what = "the beginning of the system shard".into();
            return Err(StoreError::Corrupt { what, why: "it does not describe the system shard".into() });
        };
        let (shard, founded) = (descriptor.shard, descriptor.version);
        let row = store.get(&keys::applied(space))?;
        let found = row.map(AppliedRow::decode).transpose();
        let found = found.map_err(|e| e.corrupt(format!("applied position of shard {shard}")))?;
        let applied = found.unwrap_or_default();
        let machine = match (genesis, found) {
            (Genesis::Shard(_) | Genesis::Child { .. }, _) => Machine::Data,
            (Genesis::System(state), None) => {
                let rows = state.rows().into_iter().map(|change| system::row(space, change)).collect();
                store.apply(StateBatch { rows })?;
                Machine::System(state)
            }
            (Genesis::System(_), Some(_)) => Machine::System(Box::new(system::load(store, space)?)),
        };
        let extent = Extent::read(|row| store.get(row), space, descriptor)?;
        let Extent { descriptor, children, phase, merges, absorbed, pieces, .. } = extent;
        Ok(Self {
            founded,
            children,
            phase,
            merges,
            absorbed,
            space,
            pieces,
            applied: applied.slot,
            stored: applied.slot,
            last_ts: applied.last_ts,
            sessions: load_sessions(store, space, &descriptor)?,
            ring: Ring::new(applied.last_ts),
            machine,
            descriptor,
            ahead: None,
        })
    }

    /// The beginning of a shard that was made just now: there are no rows of it, and none are looked for. `None` for the system
    /// shard, which begins with rows.
    #[must_use]
    pub fn beginning(space: Space, genesis: &Genesis) -> Option<Self> {
        matches!(genesis, Genesis::Shard(_)).then(|| Self::missing(space, genesis)).flatten()
    }

    /// Stands for a state that is not there: nothing is applied to it and nothing read from it. `None` where the beginning
    /// describes no shard.
    #[must_use]
    pub fn missing(space: Space, genesis: &Genesis) -> Option<Self> {
        let descriptor = genesis.descriptor()?.clone();
        Some(Self {
            founded: descriptor.version,
            children: Vec::new(),
            phase: Phase::Alone,
            merges: 0,
            absorbed: Vec::new(),
            space,
            pieces: Pieces::whole(&descriptor, space),
            descriptor,
            applied: Slot(0),
            stored: Slot(0),
            last_ts: 0,
            sessions: Sessions::default(),
            ring: Ring::new(0),
            // Of the system shard too: there is no metadata to hold.
            machine: Machine::Data,
            ahead: None,
        })
    }

    /// How far the rows of a space go; slot 0 where there are none.
    ///
    /// # Errors
    /// The row is damaged, or the store cannot be read.
    pub fn position(store: &mut dyn StateStore, space: Space, shard: ShardId) -> Result<Slot, StoreError> {
        let row = store.get(&keys::applied(space))?.map(AppliedRow::decode).transpose();
        let row = row.map_err(|e| e.corrupt(format!("applied position of shard {shard}")))?;
        Ok(row.unwrap_or_default().slot)
    }

    /// Counts what it holds in memory in these accounts from now on.
    pub fn share(&mut self, memory: &Memory) {
        self.ring.share(memory.of(Holder::Rings));
        self.sessions.share(memory.of(Holder::Outcomes));
    }

    /// The newest records, to be made fewer.
    pub fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// What is remembered of clients' writes.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What the shard is.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its own space: all of its rows are there, but for records that [`ShardState::pieces`] says to be elsewhere.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    /// Where its records are.
    #[must_use]
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Where the rows of a key are. Of a key that is not this shard's it is some space.
    #[must_use]
    pub fn space_of(&self, key: &[u8]) -> Space {
        self.pieces.space_of_key(&self.descriptor, key)
    }

    /// Shards that were split off, as far as the map is not known to have them.
    #[must_use]
    pub fn children(&self) -> &[ChildMark] {
        &self.children
    }

    /// Where it is in a merge.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Shards that went into it, as far as the map is not known to have dropped them.
    #[must_use]
    pub fn absorbed(&self) -> &[ShardId] {
        &self.absorbed
    }

    /// Whether its bounds are others than those that it began with.
    #[must_use]
    pub fn has_changed_bounds(&self) -> bool {
        self.descriptor.version != self.founded
    }

    /// The ranges of rows that this replica owns in the state store: its own rows, and the records of its pieces.
    #[must_use]
    pub fn owned(&self) -> Vec<Bounds> {
        extent::owned(&self.descriptor, self.space, &self.pieces)
    }

    /// What goes with this replica: what it owns. Where its bounds are those that it began with, and no record is elsewhere, that is
    /// all of its space. What others own is to be left out.
    #[must_use]
    pub fn to_remove(&self) -> Vec<Bounds> {
        let alone = self.descriptor.version == self.founded && self.pieces.is_whole(self.space);
        if alone { vec![keys::space_bounds(self.space)] } else { self.owned() }
    }

    /// The rows that all replicas have alike, in the order of a snapshot file and of a hash.
    #[must_use]
    pub fn replicated(&self) -> Vec<Bounds> {
        extent::replicated(&self.descriptor, self.space, &self.pieces)
    }

    /// Whether rows of it may be in one of these spaces.
    #[must_use]
    pub fn uses(&self, spaces: &BTreeSet<Space>) -> bool {
        spaces.contains(&self.space) || self.pieces.iter().any(|piece| spaces.contains(&piece.space))
    }

    /// The last slot applied.
    #[must_use]
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// Greatest timestamp applied, µs.
    #[must_use]
    pub fn last_ts(&self) -> u64 {
        self.last_ts
    }

    /// The newest records.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What its requests act on.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The metadata, in the system shard.
    #[must_use]
    pub fn system(&self) -> Option<&SystemState> {
        match &self.machine {
            Machine::Data => None,
            Machine::System(state) => Some(state),
        }
    }

    /// Applies the next entry: its changes of the state and the new position in one batch. What follows outside the state is
    /// the caller's to carry out; it says what it wants of it. An entry that [`ShardState::takes_in`] another shard is applied by
    /// [`ShardState::absorb`].
    ///
    /// # Errors
    /// The store failed or is damaged, or the entry cannot be read. The caller ends the process.
    pub fn apply(
        &mut self,
        store: &mut dyn StateStore,
        overlay: &mut Overlay,
        entry: &Entry,
        wanted: Wanted,
    ) -> Result<Effects, StoreError> {
        let slot = entry.id.slot;
        assert!(slot == self.applied.next(), "shard {}: slot {slot} after {}", self.descriptor.shard, self.applied);
        self.applied = slot;
        if let Some(effects) = self.stand_still(entry, wanted)? {
            return Ok(effects);
        }
        let effects = match &entry.payload {
            // It changes no row: its position is stored with the next freeze, as that of a no-op.
            Payload::Command(data) if is_marker(data) => Effects { marker: true, ..Effects::default() },
            Payload::Command(data) if is_admin(data) => self.apply_admin(store, entry, data.clone())?,
            Payload::Command(data) => self.apply_command(store, overlay, data.clone(), entry.ts, wanted)?,
            Payload::Noop | Payload::Config(_) => Effects::default(),
        };
        // Entries without requests count too: once they are trimmed, nothing else tells how far timestamps had come.
        self.last_ts = self.last_ts.max(entry.ts);
        if slot.0.is_multiple_of(EXPIRE_SLOTS) {
            self.sessions.expire(self.last_ts);
        }
        Ok(effects)
    }

    /// The requests of the entry in `slot`, and which rows they write.
    fn decode(&self, slot: Slot, data: Bytes) -> Result<(RowFormat, Vec<WriteRequest>), StoreError> {
        let what = || format!("command in slot {slot} of shard {}", self.descriptor.shard);
        decode_entry(data).map_err(|e| e.corrupt(what()))
    }

    fn apply_command(
        &mut self,
        store: &mut dyn StateStore,
        overlay: &mut Overlay,
        data: Bytes,
        entry_ts: u64,
        wanted: Wanted,
    ) -> Result<Effects, StoreError> {
        let slot = self.applied;
        let requests = match self.ahead.take().filter(|ahead| ahead.slot == slot) {
            Some(ahead) => {
                let Ahead { begun_at, format, requests, heads, sums, .. } = *ahead;
                (overlay.format, overlay.sums) = (format, sums);
                // Heads change only with what is applied.
                if begun_at.next() == slot {
                    overlay.begin_with(heads);
                }
                requests
            }
            None => {
                let (format, requests) = self.decode(slot, data)?;
                overlay.format = format;
                requests
            }
        };
        let batch = StateBatch { rows: Vec::with_capacity(requests.len() + 1) };
        let mut turn = Turn { store, overlay, batch, wanted, effects: Effects::of(requests.len(), wanted) };
        for request in requests {
            let ts = entry_ts.max(self.last_ts + 1);
            self.last_ts = ts;
            self.apply_request(&mut turn, request, ts)?;
        }
        let Turn { store, overlay, mut batch, effects, .. } = turn;
        let mut ranges = Vec::new();
        overlay.drain_into(&self.descriptor, &mut batch, &mut ranges);
        batch.rows.push(self.applied_row());
        self.stored = self.applied;
        // No freeze comes between: what is durable has both or neither.
        for (from, to) in ranges {
            store.remove_range(&from, &to)?;
        }
        store.apply(batch)?;
        Ok(effects)
    }

    fn apply_request(&mut self, turn: &mut Turn<'_>, request: WriteRequest, ts: u64) -> Result<(), StoreError> {
        let known = match self.sessions.judge(&request.id, ts) {
            Verdict::Known(outcome) => Ok(outcome),
            Verdict::BelowFloor => Err(Refusal::BelowFloor),
            Verdict::Expired => Err(Refusal::Expired { shard_us: ts }),
            Verdict::Full => {
                let why = format!("{OUTCOMES_MAX} outcomes of the client are kept; it must raise its floor first");
                Err(Refusal::Invalid { field: "id.floor", why })
            }
            Verdict::Fresh => return self.execute(turn, request, ts),
        };
        turn.tell(|| known);
        Ok(())
    }

    /// Executes a request for the first time, and keeps its outcome. A refusal is not kept: the request may come again.
    fn execute(&mut self, turn: &mut Turn<'_>, request: WriteRequest, ts: u64) -> Result<(), StoreError> {
        let result = match request.op {
            Op::Write { table, ops } => self.write(turn, table, ops, ts)?,
            Op::System(command) => self.execute_system(turn, command)?,
        };
        match result {
            Ok(outcome) => {
                turn.tell(|| Ok(outcome.clone()));
                self.sessions.store(&request.id, outcome);
            }
            Err(refusal) => turn.tell(|| Err(refusal)),
        }
        Ok(())
    }

    /// Refused where the table or a key is not this shard's.
    fn write(&mut self, turn: &mut Turn<'_>, table: TableId, ops: Vec<KeyOp>, ts: u64) -> Result<Applied, StoreError> {
        let of_table = matches!(self.machine, Machine::Data) && table == self.descriptor.table;
        let of_shard = |op: &KeyOp| self.descriptor.contains(&op.key) || planted!(LateParentExecutes);
        if !of_table || !ops.iter().all(of_shard) {
            return Ok(Err(Refusal::WrongShard));
        }
        let (store, overlay) = (&mut *turn.store, &mut *turn.overlay);
        let mut writes = Writes { descriptor: &self.descriptor, pieces: &self.pieces, store, overlay };
        let outcome = writes.execute(ops, ts)?;
        for record in turn.overlay.records.drain(..) {
            self.ring.push(record);
        }
        if std::mem::take(&mut turn.overlay.drops) {
            self.ring.dropped(ts);
        }
        Ok(Ok(outcome))
    }

    fn applied_row(&self) -> (Vec<u8>, Option<Bytes>) {
        let row = AppliedRow { slot: self.applied, last_ts: self.last_ts };
        (keys::applied(self.space), Some(row.encode()))
    }

    /// Puts into the store what lives in memory between freezes: sessions, and the position where it moved without
    /// effects. Called before each freeze; returns whether anything was put.
    ///
    /// # Errors
    /// The store failed.
    pub fn store_sessions(&mut self, store: &mut dyn StateStore) -> Result<bool, StoreError> {
        let dirty = if planted!(FreezeWithoutSessions) { Vec::new() } else { self.sessions.take_dirty() };
        if dirty.is_empty() && self.stored == self.applied {
            return Ok(false);
        }
        let mut rows = Vec::with_capacity(dirty.len() + 1);
        rows.extend(dirty.into_iter().map(|(client, row)| (keys::session(self.space, client), row)));
        rows.push(self.applied_row());
        self.stored = self.applied;
        store.apply(StateBatch { rows })?;
        Ok(true)
    }
}

fn load_sessions(store: &mut dyn StateStore, space: Space, descriptor: &Descriptor) -> Result<Sessions, StoreError> {
    let mut sessions = Sessions::default();
    if planted!(SessionsLostAtRestart) {
        return Ok(sessions);
    }
    let mut failed = None;
    let (from, to) = keys::session_bounds(space);
    store.scan(&from, &to, false, &mut |row, value| {
        let loaded =
            keys::parse_session(row).and_then(|(_, client)| sessions.load(client, Bytes::copy_from_slice(value)));
        match loaded {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error.corrupt(format!("a session of shard {}", descriptor.shard)));
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(sessions), Err)
}

#[cfg(test)]
pub(crate) mod tests;
