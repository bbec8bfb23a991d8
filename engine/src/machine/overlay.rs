//! The changes of one entry, before they become one batch.
//!
//! Owns: heads read and changed so far, history rows to be written, records on their way to the ring, and the journal
//! that undoes a request whose later operation fails. Must never: write to the store, or let a part of a request stand.

use super::bounds::row_hash;
use super::rows;
use crate::StoreError;
use crate::codec::keys;
use crate::codec::record::{Head, Newest, Record};
use crate::command::{Action, Expect, KeyOp, NewRecord, OpResult, Outcome};
use crate::host::KeyedRecord;
use crate::ids::{Offset, Space};
use crate::state::{StateBatch, StateStore};
use crate::system::{Descriptor, Retention};
use bytes::Bytes;
use hashbrown::HashMap;
use std::ops::ControlFlow;

/// A key that an operation of the entry touched.
struct KeyState {
    key: Bytes,
    hash: Option<u64>,
    head: Head,
    dirty: bool,
}

/// A history row written or dropped by the entry.
struct HistoryRow {
    key: usize,
    offset: Offset,
    /// What it counts for in the key's bytes.
    size: u64,
    row: Option<Bytes>,
}

/// The changes of one entry; reused from entry to entry for its buffers.
#[derive(Default)]
pub struct Overlay {
    index: HashMap<Bytes, usize>,
    keys: Vec<KeyState>,
    history: Vec<HistoryRow>,
    /// Heads as they were before the request under way, and whether they had changed by then.
    journal: Vec<(usize, Head, bool)>,
    /// Records of the request under way.
    pub(super) records: Vec<KeyedRecord>,
}

impl Overlay {
    /// Moves every changed row into `batch`, in the order first touched, and forgets everything.
    pub(super) fn drain_into(&mut self, descriptor: &Descriptor, space: Space, batch: &mut StateBatch) {
        let table = descriptor.table;
        for change in self.history.drain(..) {
            let key = &self.keys[change.key];
            batch.rows.push((keys::record_history(space, table, key.hash, &key.key, change.offset), change.row));
        }
        for key in self.keys.drain(..).filter(|key| key.dirty) {
            batch.rows.push((keys::record_head(space, table, key.hash, &key.key), Some(key.head.encode())));
        }
        self.index.clear();
    }
}

/// Operations of one shard on an overlay over its store.
pub(super) struct Writes<'a> {
    pub(super) descriptor: &'a Descriptor,
    pub(super) space: Space,
    pub(super) store: &'a mut dyn StateStore,
    pub(super) overlay: &'a mut Overlay,
}

impl Writes<'_> {
    /// Carries out one request's operations, all or nothing; its records stand in `overlay.records` afterwards.
    pub(super) fn execute(&mut self, ops: Vec<KeyOp>, ts_us: u64) -> Result<Outcome, StoreError> {
        let history_before = self.overlay.history.len();
        // A single operation checks before it changes anything: nothing to undo.
        let keep_journal = ops.len() > 1;
        let mut results = Vec::with_capacity(ops.len());
        for (op_index, op) in (0u32..).zip(ops) {
            let at = self.key(&op.key)?;
            let key = &mut self.overlay.keys[at];
            if !holds(op.expect, &key.head) && !planted!(ExpectationIgnored) {
                let actual = key.head.next;
                self.undo(history_before);
                return Ok(Outcome::ExpectationFailed { op_index, actual });
            }
            if keep_journal {
                self.overlay.journal.push((at, key.head.clone(), key.dirty));
            }
            key.dirty = true;
            let offset = match op.action {
                Action::Append(records) => self.append(at, records, ts_us)?,
                Action::Delete => {
                    let tombstone = Record { ts_us, tombstone: true, ..Record::default() };
                    self.append_records(at, std::iter::once(tombstone))?
                }
                Action::Trim(before) => self.trim(at, before)?,
            };
            results.push(OpResult { offset, ts_us });
        }
        self.overlay.journal.clear();
        Ok(Outcome::Written(results))
    }

    fn undo(&mut self, history_before: usize) {
        let overlay = &mut *self.overlay;
        while let Some((at, head, dirty)) = overlay.journal.pop() {
            (overlay.keys[at].head, overlay.keys[at].dirty) = (head, dirty);
        }
        overlay.history.truncate(history_before);
        overlay.records.clear();
    }

    fn key(&mut self, key: &Bytes) -> Result<usize, StoreError> {
        if let Some(&at) = self.overlay.index.get(key) {
            return Ok(at);
        }
        let hash = row_hash(self.descriptor, key);
        let head = rows::head(self.store, self.descriptor, self.space, hash, key)?.unwrap_or_default();
        let at = self.overlay.keys.len();
        self.overlay.keys.push(KeyState { key: key.clone(), hash, head, dirty: false });
        self.overlay.index.insert(key.clone(), at);
        Ok(at)
    }

    fn append(&mut self, at: usize, records: Vec<NewRecord>, ts_us: u64) -> Result<Offset, StoreError> {
        let records =
            records.into_iter().map(|r| Record { ts_us, headers: r.headers, value: r.value, tombstone: false });
        self.append_records(at, records)
    }

    /// Appends and returns the first offset.
    fn append_records(&mut self, at: usize, records: impl Iterator<Item = Record>) -> Result<Offset, StoreError> {
        self.settle_retention(at)?;
        let overlay = &mut *self.overlay;
        let KeyState { key, head, .. } = &mut overlay.keys[at];
        let first = head.next;
        for record in records {
            let offset = head.next;
            head.next = Offset(offset.0 + 1);
            let size = rows::record_size(&record);
            match self.descriptor.retention {
                Retention::Latest => {
                    (head.first, head.bytes) = (offset, size);
                    head.newest = Newest::Inline(record.clone());
                }
                Retention::All => {
                    head.bytes += size;
                    head.newest = Newest::InHistory { ts_us: record.ts_us, tombstone: record.tombstone };
                    overlay.history.push(HistoryRow { key: at, offset, size, row: Some(record.encode()) });
                }
            }
            overlay.records.push(KeyedRecord { key: key.clone(), offset, record });
        }
        Ok(first)
    }

    /// Brings a key that was last written under another retention into the form of today's.
    fn settle_retention(&mut self, at: usize) -> Result<(), StoreError> {
        let head = &mut self.overlay.keys[at].head;
        match (self.descriptor.retention, &head.newest) {
            (Retention::Latest, Newest::InHistory { .. }) => {
                let (first, next) = (head.first, head.next);
                self.drop_history(at, first, next)?;
            }
            (Retention::All, Newest::Inline(_)) => {
                let Newest::Inline(record) = std::mem::take(&mut head.newest) else { return Ok(()) };
                head.newest = Newest::InHistory { ts_us: record.ts_us, tombstone: record.tombstone };
                let offset = Offset(head.next.0.saturating_sub(1));
                let (size, row) = (rows::record_size(&record), Some(record.encode()));
                self.overlay.history.push(HistoryRow { key: at, offset, size, row });
            }
            _ => {}
        }
        Ok(())
    }

    /// Drops records below `before` and returns the first offset kept.
    fn trim(&mut self, at: usize, before: Offset) -> Result<Offset, StoreError> {
        let head = &self.overlay.keys[at].head;
        let (old, new) = (head.first, before.clamp(head.first, head.next));
        if new == old {
            return Ok(old);
        }
        let inline = matches!(head.newest, Newest::Inline(_));
        let dropped = if inline { head.bytes } else { self.drop_history(at, old, new)? };
        let head = &mut self.overlay.keys[at].head;
        head.first = new;
        head.bytes = head.bytes.saturating_sub(dropped);
        if new == head.next {
            (head.newest, head.bytes) = (Newest::None, 0);
        }
        Ok(new)
    }

    /// Deletes the history rows `[from, upto)` and returns what they counted for, bytes.
    fn drop_history(&mut self, at: usize, from: Offset, upto: Offset) -> Result<u64, StoreError> {
        let KeyState { key, hash, .. } = &self.overlay.keys[at];
        let mut dropped: Vec<(Offset, u64)> = Vec::new();
        // Rows of this entry; offsets below were there before it.
        let fresh = self.overlay.history.iter().filter(|h| h.key == at && h.row.is_some());
        dropped.extend(fresh.filter(|h| from <= h.offset && h.offset < upto).map(|h| (h.offset, h.size)));
        let (start, _) = keys::history_bounds(self.space, self.descriptor.table, *hash, key, from);
        let (end, _) = keys::history_bounds(self.space, self.descriptor.table, *hash, key, upto);
        let mut failed = None;
        self.store.scan(&start, &end, false, &mut |row, value| {
            let offset = rows::history_offset(row);
            match Record::decode(Bytes::copy_from_slice(value)) {
                Ok(record) => {
                    dropped.push((offset, rows::record_size(&record)));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed =
                        Some(error.corrupt(format!("record {offset} of a key of shard {}", self.descriptor.shard)));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        dropped.sort_unstable();
        let bytes = dropped.iter().map(|(_, size)| size).sum();
        let gone = dropped.into_iter().map(|(offset, _)| HistoryRow { key: at, offset, size: 0, row: None });
        self.overlay.history.extend(gone);
        Ok(bytes)
    }
}

fn holds(expect: Expect, head: &Head) -> bool {
    let exists = !matches!(head.newest, Newest::None) && !head.tombstone();
    match expect {
        Expect::Any => true,
        Expect::Absent => !exists,
        Expect::Exists => exists,
        Expect::Next(offset) => head.next == offset,
    }
}
