//! A shard on a store in memory, for tests of what applies to it and of what reads it.
//!
//! Owns: entries made to order, and a count of what is read. Must never: expect anything of what it applies.

use crate::StoreError;
use crate::codec::record::Head;
use crate::command::{Action, Expect, KeyOp, NewRecord, Op, Outcome, RowFormat, WriteId, WriteRequest, encode_entry};
use crate::genesis::Genesis;
use crate::machine::overlay::Overlay;
use crate::machine::{Applied, Effects, ShardState, Wanted, rows};
use crate::state::mem::MemState;
use crate::state::{FlushId, StateBatch, StateStore, Visit};
use bytes::Bytes;
use synod_cluster::ids::{ClientId, ClientSeq, Entry, EntryId, Offset, SYSTEM_SHARD, ShardId, Slot, Space, TableId};
use synod_cluster::system::{Descriptor, Partitioning, Retention, SystemState};
use synod_paxos::types::Payload;

pub(crate) const TABLE: TableId = TableId(3);

/// A shard on a store in memory, with entries made to order.
pub(crate) struct Bench {
    pub(crate) store: MemState,
    pub(crate) state: ShardState,
    pub(super) overlay: Overlay,
    next_seq: u64,
    pub(super) entries: Vec<Entry>,
    /// Of the entries to come.
    pub(crate) format: RowFormat,
    /// Whether entries are got ready before they are applied.
    pub(super) prepares: bool,
}

pub(crate) fn descriptor(partitioning: Partitioning, retention: Retention) -> Descriptor {
    let mut d = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
    (d.shard, d.table, d.partitioning, d.retention) = (ShardId(2), TABLE, partitioning, retention);
    d
}

pub(crate) fn op(key: &str, expect: Expect, action: Action) -> KeyOp {
    KeyOp { key: Bytes::copy_from_slice(key.as_bytes()), expect, action }
}

pub(crate) fn append(key: &str, values: &[&str]) -> KeyOp {
    let records = values.iter().map(|v| NewRecord { headers: vec![], value: Bytes::copy_from_slice(v.as_bytes()) });
    op(key, Expect::Any, Action::Append(records.collect()))
}

pub(crate) fn trim(key: &str, before: u64) -> KeyOp {
    op(key, Expect::Any, Action::Trim(Offset(before)))
}

pub(crate) fn delete(key: &str) -> KeyOp {
    op(key, Expect::Any, Action::Delete)
}

impl Bench {
    pub(crate) fn new(partitioning: Partitioning, retention: Retention) -> Self {
        Self::with(Genesis::Shard(descriptor(partitioning, retention)))
    }

    pub(super) fn with(genesis: Genesis) -> Self {
        let mut store = MemState::new();
        let state = ShardState::load(&mut store, Space(2), genesis).unwrap();
        let format = RowFormat::Plain;
        Self { store, state, overlay: Overlay::default(), next_seq: 0, entries: vec![], format, prepares: false }
    }

    pub(super) fn id(&mut self) -> WriteId {
        self.next_seq += 1;
        let seq = ClientSeq(self.next_seq);
        WriteId { client: ClientId(1), seq, floor: ClientSeq(0), deadline_us: u64::MAX }
    }

    /// The entry of one request in `slot`, to be applied or not.
    pub(super) fn entry_in(&mut self, slot: Slot, ts: u64, op: Op) -> Entry {
        let request = WriteRequest { id: self.id(), op };
        let id = EntryId { slot, ..EntryId::ZERO };
        Entry::new(id, ts, 0, Payload::Command(encode_entry(self.format, [&request].into_iter(), 0)))
    }

    pub(super) fn entry(&mut self, ts: u64, requests: &[WriteRequest]) -> Vec<Applied> {
        self.effects(ts, requests, Wanted::Results).results
    }

    /// Applies an entry at `ts` with these requests.
    pub(super) fn effects(&mut self, ts: u64, requests: &[WriteRequest], wanted: Wanted) -> Effects {
        let id = EntryId { slot: self.state.applied().next(), ..EntryId::ZERO };
        let entry = Entry::new(id, ts, 0, Payload::Command(encode_entry(self.format, requests.iter(), 0)));
        while self.prepares && !self.state.prepare(&mut self.store, &entry).unwrap() {}
        let effects = self.state.apply(&mut self.store, &mut self.overlay, &entry, wanted).unwrap();
        self.entries.push(entry);
        effects
    }

    /// One entry at `ts` with one request.
    pub(crate) fn write(&mut self, ts: u64, ops: Vec<KeyOp>) -> Applied {
        let id = self.id();
        self.entry(ts, &[WriteRequest { id, op: Op::Write { table: TABLE, ops } }]).remove(0)
    }

    pub(super) fn offset(&mut self, ts: u64, ops: Vec<KeyOp>) -> u64 {
        match self.write(ts, ops) {
            Ok(Outcome::Written(results)) => results[0].offset.0,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn head(&mut self, key: &str) -> Option<Head> {
        let d = self.state.descriptor().clone();
        rows::head(&mut self.store, &d, Space(2), d.partitioning.hash_of(key.as_bytes()), key.as_bytes()).unwrap()
    }
}

/// A store that counts what is read from it, and what is removed.
pub(crate) struct Counting<'a> {
    store: &'a mut MemState,
    /// Rows, those that were asked for and are not there among them.
    pub(crate) rows: u64,
    /// Bytes of their keys and values.
    pub(crate) bytes: usize,
    /// Ranges removed.
    pub(crate) ranges: u64,
    /// Rows changed or removed one by one.
    pub(crate) changes: usize,
}

impl<'a> Counting<'a> {
    pub(crate) fn new(store: &'a mut MemState) -> Self {
        Self { store, rows: 0, bytes: 0, ranges: 0, changes: 0 }
    }
}

impl StateStore for Counting<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.store.get(key)?;
        self.rows += 1;
        self.bytes += key.len() + found.as_ref().map_or(0, Bytes::len);
        Ok(found)
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let (rows, bytes) = (&mut self.rows, &mut self.bytes);
        self.store.scan(from, to, reverse, &mut |key, value| {
            *rows += 1;
            *bytes += key.len() + value.len();
            visit(key, value)
        })
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        assert!(batch.rows.len() < 100, "{} rows written", batch.rows.len());
        self.changes += batch.rows.len();
        self.store.apply(batch)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.ranges += 1;
        self.store.remove_range(from, to)
    }

    fn wants_freeze(&self) -> bool {
        false
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        self.store.freeze()
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        self.store.flushed()
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.store.flush_and_wait()
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}
