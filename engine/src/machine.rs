//! The replicated state machine of one shard.
//!
//! Owns: the applied position, the clock of the shard's timestamps, its sessions, the ring of its newest records and, for
//! the system shard, the metadata. Every replica that applies the same entries holds the same state. Must never: look at a
//! clock, a role or a client's connection; skip an entry; or split an entry's effects over two batches.

mod ahead;
pub mod bounds;
mod heads;
pub mod overlay;
pub mod rows;

use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::applied::AppliedRow;
use crate::codec::keys;
use crate::command::{KeyOp, Op, Outcome, RowFormat, WriteRequest, decode_entry, is_marker};
use crate::genesis::Genesis;
use crate::memory::{Holder, Memory};
use crate::ring::Ring;
use crate::sessions::{OUTCOMES_MAX, Sessions, Verdict};
use crate::state::{StateBatch, StateStore};
use ahead::Ahead;
use bytes::Bytes;
use overlay::{Overlay, Writes};
use std::ops::ControlFlow;
use synod_cluster::ids::{Entry, ShardId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, MetadataError, RowChange, SystemCommand, SystemState, row_kinds};
use synod_paxos::types::Payload;

/// Sessions are looked through for expired clients at every multiple of this slot.
const EXPIRE_SLOTS: u64 = 4096;

/// What became of one request of an entry.
pub type Applied = Result<Outcome, Refusal>;

/// The state of one shard, but for its records, which are in the store.
pub struct ShardState {
    descriptor: Descriptor,
    space: Space,
    applied: Slot,
    /// Applied position of the last row in the store.
    stored: Slot,
    /// Greatest timestamp of any entry or request applied: the next request gets a greater one.
    last_ts: u64,
    sessions: Sessions,
    ring: Ring,
    system: Option<Box<SystemState>>,
    system_changed: bool,
    /// The next entry, where it was got ready.
    ahead: Option<Box<Ahead>>,
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
        let shard = descriptor.shard;
        let row = store.get(&keys::applied(space))?;
        let found = row.map(AppliedRow::decode).transpose();
        let found = found.map_err(|e| e.corrupt(format!("applied position of shard {shard}")))?;
        let applied = found.unwrap_or_default();
        let system = match (genesis, found) {
            (Genesis::Shard(_), _) => None,
            (Genesis::System(state), None) => {
                let rows = state.rows().into_iter().map(|change| system_row(space, change)).collect();
                store.apply(StateBatch { rows })?;
                Some(state)
            }
            (Genesis::System(_), Some(_)) => Some(Box::new(load_system(store, space)?)),
        };
        Ok(Self {
            space,
            applied: applied.slot,
            stored: applied.slot,
            last_ts: applied.last_ts,
            sessions: load_sessions(store, space, &descriptor)?,
            ring: Ring::new(applied.last_ts),
            system_changed: system.is_some(),
            system,
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
        Some(Self {
            descriptor: genesis.descriptor()?.clone(),
            space,
            applied: Slot(0),
            stored: Slot(0),
            last_ts: 0,
            sessions: Sessions::default(),
            ring: Ring::new(0),
            system: None,
            system_changed: false,
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

    /// Where its rows stand.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space
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

    /// The metadata, in the system shard.
    #[must_use]
    pub fn system(&self) -> Option<&SystemState> {
        self.system.as_deref()
    }

    /// The metadata, where it changed (or was loaded) since the last call.
    pub fn take_system_change(&mut self) -> Option<SystemState> {
        std::mem::take(&mut self.system_changed).then(|| self.system.as_deref().cloned()).flatten()
    }

    /// Applies the next entry: its effects and the new position in one batch. Where `results` is given it gets what became
    /// of each of the entry's requests, in order.
    ///
    /// # Errors
    /// The store failed or is damaged, or the entry cannot be read. The caller ends the process.
    pub fn apply(
        &mut self,
        store: &mut dyn StateStore,
        overlay: &mut Overlay,
        entry: &Entry,
        results: Option<&mut Vec<Applied>>,
    ) -> Result<(), StoreError> {
        let slot = entry.id.slot;
        assert!(slot == self.applied.next(), "shard {}: slot {slot} after {}", self.descriptor.shard, self.applied);
        self.applied = slot;
        // A marker has no effects: its position is stored with the next freeze, as that of a no-op.
        if let Payload::Command(data) = &entry.payload
            && !is_marker(data)
        {
            self.apply_command(store, overlay, data.clone(), entry.ts, results)?;
        }
        // Entries without requests count too: once they are trimmed, nothing else tells how far timestamps had come.
        self.last_ts = self.last_ts.max(entry.ts);
        if slot.0.is_multiple_of(EXPIRE_SLOTS) {
            self.sessions.expire(self.last_ts);
        }
        Ok(())
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
        mut results: Option<&mut Vec<Applied>>,
    ) -> Result<(), StoreError> {
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
        let mut batch = StateBatch { rows: Vec::with_capacity(requests.len() + 1) };
        for request in requests {
            let ts = entry_ts.max(self.last_ts + 1);
            self.last_ts = ts;
            let keep = results.is_some();
            let result = self.apply_request(store, overlay, &mut batch, request, ts, keep)?;
            if let (Some(results), Some(result)) = (results.as_deref_mut(), result) {
                results.push(result);
            }
        }
        let mut ranges = Vec::new();
        overlay.drain_into(&self.descriptor, self.space, &mut batch, &mut ranges);
        batch.rows.push(self.applied_row());
        self.stored = self.applied;
        // No freeze comes between: what is durable has both or neither.
        for (from, to) in ranges {
            store.remove_range(&from, &to)?;
        }
        store.apply(batch)
    }

    /// Returns what became of the request where `keep` is set.
    fn apply_request(
        &mut self,
        store: &mut dyn StateStore,
        overlay: &mut Overlay,
        batch: &mut StateBatch,
        request: WriteRequest,
        ts: u64,
        keep: bool,
    ) -> Result<Option<Applied>, StoreError> {
        let known = match self.sessions.judge(&request.id, ts) {
            Verdict::Known(outcome) => Ok(outcome),
            Verdict::BelowFloor => Err(Refusal::BelowFloor),
            Verdict::Expired => Err(Refusal::Expired { shard_us: ts }),
            Verdict::Full => {
                let why = format!("{OUTCOMES_MAX} outcomes of the client are kept; it must raise its floor first");
                return Ok(Some(Err(Refusal::Invalid { field: "id.floor", why })));
            }
            Verdict::Fresh => {
                let outcome = match request.op {
                    Op::Write { table, .. } if self.system.is_some() || table != self.descriptor.table => {
                        return Ok(Some(Err(Refusal::WrongShard)));
                    }
                    Op::Write { ops, .. } => match self.write(store, overlay, ops, ts)? {
                        Some(outcome) => outcome,
                        None => return Ok(Some(Err(Refusal::WrongShard))),
                    },
                    Op::System(command) => match self.execute_system(command, batch)? {
                        Ok(outcome) => outcome,
                        Err(refusal) => return Ok(Some(Err(refusal))),
                    },
                };
                let kept = keep.then(|| Ok(outcome.clone()));
                self.sessions.store(&request.id, outcome);
                return Ok(kept);
            }
        };
        Ok(Some(known))
    }

    /// `None` where a key is not in this shard.
    fn write(
        &mut self,
        store: &mut dyn StateStore,
        overlay: &mut Overlay,
        ops: Vec<KeyOp>,
        ts: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        if !ops.iter().all(|op| self.descriptor.contains(&op.key)) {
            return Ok(None);
        }
        let mut writes = Writes { descriptor: &self.descriptor, space: self.space, store, overlay };
        let outcome = writes.execute(ops, ts)?;
        for record in overlay.records.drain(..) {
            self.ring.push(record);
        }
        if std::mem::take(&mut overlay.drops) {
            self.ring.dropped(ts);
        }
        Ok(Some(outcome))
    }

    fn execute_system(
        &mut self,
        command: Bytes,
        batch: &mut StateBatch,
    ) -> Result<Result<Outcome, Refusal>, StoreError> {
        let Some(system) = &mut self.system else {
            return Ok(Err(Refusal::WrongShard));
        };
        let command = match SystemCommand::decode(command) {
            Ok(command) => command,
            // Others speak that version and carry it out: this replica cannot follow them.
            Err(error @ MetadataError::TooNew(_)) => {
                return Err(error.corrupt(format!("slot {} of the system shard", self.applied)));
            }
            Err(error) => return Ok(Err(Refusal::Invalid { field: "command", why: error.to_string() })),
        };
        let (outcome, changes) = system.execute(&command);
        self.system_changed |= !changes.is_empty();
        batch.rows.extend(changes.into_iter().map(|change| system_row(self.space, change)));
        Ok(Ok(Outcome::System(outcome.encode())))
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

fn system_row(space: Space, (kind, id, row): RowChange) -> (Vec<u8>, Option<Bytes>) {
    (keys::system(space, kind, &id.to_be_bytes()), row)
}

fn load_system(store: &mut dyn StateStore, space: Space) -> Result<SystemState, StoreError> {
    let mut rows = Vec::new();
    for kind in row_kinds() {
        let (from, to) = keys::system_bounds(space, kind);
        store.scan(&from, &to, false, &mut |row, value| {
            rows.push((Bytes::copy_from_slice(row), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
    }
    let parse = |(row, value): (Bytes, Bytes)| {
        let (_, kind, id) = keys::parse_system(&row)?;
        let bad = synod_cluster::buf::DecodeError { what: "id of a metadata row", at: 0 };
        let id = <[u8; 8]>::try_from(&id[..]).map_err(|_| bad)?;
        Ok((kind, u64::from_be_bytes(id), value))
    };
    let rows: Result<Vec<_>, synod_cluster::buf::DecodeError> = rows.into_iter().map(parse).collect();
    let state = rows.map_err(MetadataError::from).and_then(SystemState::from_rows);
    state.map_err(|e| e.corrupt("metadata rows of the system shard"))
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
