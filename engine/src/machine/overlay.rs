//! The changes of one entry, before they become one batch.
//!
//! Owns: heads read and changed so far, history rows to be written and dropped, records on their way to the ring, and the
//! journal that undoes a request whose later operation fails. Must never: write to the store, let a part of a request stand,
//! or take time in proportion to a history where its rows have totals.

use super::ahead::{Sums, drops_fewer};
use super::heads::{Heads, KeyState};
use super::pieces::Pieces;
use super::rows;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds};
use crate::codec::record::{Head, Newest, Record, Totals};
use crate::command::{Action, Expect, KeyOp, NewRecord, OpResult, Outcome, RowFormat};
use crate::host::KeyedRecord;
use crate::state::{StateBatch, StateStore};
use bytes::Bytes;
use hashbrown::HashMap;
use synod_cluster::ids::Offset;
use synod_cluster::system::{Descriptor, Retention};

/// So many dropped rows are deleted one by one; more are removed as a range.
const ONE_BY_ONE_MAX: u64 = 64;

/// A history row written by the entry.
struct HistoryRow {
    key: usize,
    offset: Offset,
    facts: RowFacts,
    row: Bytes,
}

/// What of a history row a trim needs.
#[derive(Clone, Copy)]
struct RowFacts {
    ts_us: u64,
    /// What it counts for in the key's bytes.
    size: u64,
    /// Bytes of the records before it, where its key has totals.
    before: Option<u64>,
}

/// History rows of a key that the entry drops, `[from, upto)`.
struct Dropped {
    key: usize,
    from: Offset,
    upto: Offset,
}

/// The changes of one entry; reused from entry to entry for its buffers.
#[derive(Default)]
pub struct Overlay {
    index: HashMap<Bytes, usize>,
    keys: Vec<KeyState>,
    history: Vec<HistoryRow>,
    dropped: Vec<Dropped>,
    /// Heads as they were before the request under way, and whether they had changed by then.
    journal: Vec<(usize, Head, bool)>,
    /// Records of the request under way.
    pub(super) records: Vec<KeyedRecord>,
    /// Whether the request under way drops records.
    pub(super) drops: bool,
    /// Which rows the entry writes.
    pub(super) format: RowFormat,
    /// Sizes of stored rows that were added up before the entry's turn came.
    pub(super) sums: Sums,
}

impl Overlay {
    /// Begins with these heads, which are those of the rows that the entry comes to.
    pub(super) fn begin_with(&mut self, heads: Heads) {
        (self.index, self.keys) = (heads.index, heads.keys);
    }

    /// Moves every changed row into `batch`, in the order first touched, and the ranges to remove before that into `ranges`;
    /// forgets everything.
    pub(super) fn drain_into(&mut self, descriptor: &Descriptor, batch: &mut StateBatch, ranges: &mut Vec<Bounds>) {
        let table = descriptor.table;
        for Dropped { key, from, upto } in self.dropped.drain(..) {
            let key = &mut self.keys[key];
            key.gone = key.gone.max(upto);
            let row = |offset| keys::record_history(key.space, table, key.hash, &key.key, offset);
            if upto.0 - from.0 > ONE_BY_ONE_MAX {
                // From the first offset ever: ranges of one key then take each other's place.
                ranges.push((row(Offset(0)), row(upto)));
            } else {
                batch.rows.extend((from.0..upto.0).map(|offset| (row(Offset(offset)), None)));
            }
        }
        for HistoryRow { key, offset, row, .. } in self.history.drain(..) {
            let key = &self.keys[key];
            if offset >= key.gone {
                batch.rows.push((keys::record_history(key.space, table, key.hash, &key.key, offset), Some(row)));
            }
        }
        for key in self.keys.drain(..).filter(|key| key.dirty) {
            batch.rows.push((keys::record_head(key.space, table, key.hash, &key.key), Some(key.head.encode())));
        }
        self.index.clear();
        self.sums.clear();
    }
}

/// Operations of one shard on an overlay over its store.
pub(super) struct Writes<'a> {
    pub(super) descriptor: &'a Descriptor,
    pub(super) pieces: &'a Pieces,
    pub(super) store: &'a mut dyn StateStore,
    pub(super) overlay: &'a mut Overlay,
}

impl Writes<'_> {
    /// Carries out one request's operations, all or nothing; its records are in `overlay.records` afterwards.
    pub(super) fn execute(&mut self, ops: Vec<KeyOp>, ts_us: u64) -> Result<Outcome, StoreError> {
        let before = (self.overlay.history.len(), self.overlay.dropped.len());
        // A single operation checks before it changes anything: nothing to undo.
        let keep_journal = ops.len() > 1;
        let mut results = Vec::with_capacity(ops.len());
        for (op_index, op) in (0u32..).zip(ops) {
            let at = self.key(&op.key)?;
            let key = &mut self.overlay.keys[at];
            if !holds(op.expect, &key.head) && !planted!(ExpectationIgnored) {
                let actual = key.head.next;
                self.undo(before);
                return Ok(Outcome::ExpectationFailed { op_index, actual });
            }
            if keep_journal {
                self.overlay.journal.push((at, key.head.clone(), key.dirty));
            }
            key.dirty = true;
            let offset = match op.action {
                Action::Append(records) => self.append(at, records, ts_us),
                Action::Delete => {
                    let tombstone = Record { ts_us, tombstone: true, ..Record::default() };
                    self.append_records(at, std::iter::once(tombstone))
                }
                Action::Trim(before) => self.trim(at, before)?,
            };
            results.push(OpResult { offset, ts_us });
        }
        self.overlay.journal.clear();
        Ok(Outcome::Written(results))
    }

    fn undo(&mut self, (history, dropped): (usize, usize)) {
        let overlay = &mut *self.overlay;
        while let Some((at, head, dirty)) = overlay.journal.pop() {
            (overlay.keys[at].head, overlay.keys[at].dirty) = (head, dirty);
        }
        overlay.history.truncate(history);
        overlay.dropped.truncate(dropped);
        overlay.records.clear();
    }

    fn key(&mut self, key: &Bytes) -> Result<usize, StoreError> {
        if let Some(&at) = self.overlay.index.get(key) {
            return Ok(at);
        }
        let hash = self.descriptor.partitioning.hash_of(key);
        let space = self.pieces.space_of_key(self.descriptor, key);
        let head = rows::head(self.store, self.descriptor, space, hash, key)?.unwrap_or_default();
        let at = self.overlay.keys.len();
        self.overlay.keys.push(KeyState::new(key.clone(), (space, hash), head));
        self.overlay.index.insert(key.clone(), at);
        Ok(at)
    }

    fn append(&mut self, at: usize, records: Vec<NewRecord>, ts_us: u64) -> Offset {
        let records =
            records.into_iter().map(|r| Record { ts_us, headers: r.headers, value: r.value, tombstone: false });
        self.append_records(at, records)
    }

    /// Appends and returns the first offset.
    fn append_records(&mut self, at: usize, records: impl Iterator<Item = Record>) -> Offset {
        self.settle_retention(at);
        let overlay = &mut *self.overlay;
        let KeyState { key, head, .. } = &mut overlay.keys[at];
        let first = head.next;
        for record in records {
            let offset = head.next;
            head.next = Offset(offset.0 + 1);
            let size = rows::record_size(&record);
            match self.descriptor.retention {
                Retention::Latest => {
                    (head.first, head.bytes, head.totals) = (offset, size, None);
                    head.newest = Newest::Inline(record.clone());
                }
                Retention::All => {
                    let before = total_before(overlay.format, head, offset, size);
                    head.bytes += size;
                    head.newest = Newest::InHistory { ts_us: record.ts_us, tombstone: record.tombstone };
                    let facts = RowFacts { ts_us: record.ts_us, size, before };
                    overlay.history.push(HistoryRow { key: at, offset, facts, row: record.encode_at(before) });
                }
            }
            overlay.records.push(KeyedRecord { key: key.clone(), offset, record });
        }
        first
    }

    /// Brings a key that was last written under another retention into the form of today's.
    fn settle_retention(&mut self, at: usize) {
        let overlay = &mut *self.overlay;
        let KeyState { head, stored, .. } = &mut overlay.keys[at];
        match (self.descriptor.retention, &head.newest) {
            (Retention::Latest, Newest::InHistory { .. }) => {
                overlay.dropped.push(Dropped { key: at, from: head.first, upto: head.next });
                overlay.drops = true;
            }
            (Retention::All, Newest::Inline(_)) => {
                let Newest::Inline(record) = std::mem::take(&mut head.newest) else { return };
                head.newest = Newest::InHistory { ts_us: record.ts_us, tombstone: record.tombstone };
                let offset = Offset(head.next.0.saturating_sub(1));
                let size = rows::record_size(&record);
                let before = total_before(overlay.format, head, offset, size);
                let facts = RowFacts { ts_us: record.ts_us, size, before };
                *stored = offset;
                overlay.history.push(HistoryRow { key: at, offset, facts, row: record.encode_at(before) });
            }
            _ => {}
        }
    }

    /// Drops records below `before` and returns the first offset kept.
    fn trim(&mut self, at: usize, before: Offset) -> Result<Offset, StoreError> {
        let head = &self.overlay.keys[at].head;
        let (old, new, next) = (head.first, before.clamp(head.first, head.next), head.next);
        if new == old {
            return Ok(old);
        }
        if matches!(head.newest, Newest::InHistory { .. }) {
            let bytes = self.bytes_from(at, new)?;
            let newest_ts = self.overlay.keys[at].head.newest_ts_us().filter(|_| new == next);
            if self.overlay.format == RowFormat::Totals || self.overlay.keys[at].head.totals.is_some() {
                let last = Offset(new.0 - 1);
                let gone_ts_us = newest_ts.map_or_else(|| self.facts(at, last).map(|row| row.ts_us), Ok)?;
                let head = &mut self.overlay.keys[at].head;
                let totals = head.totals.get_or_insert(Totals { since: next, ..Totals::default() });
                totals.gone_ts_us = gone_ts_us;
            }
            self.overlay.keys[at].head.bytes = bytes;
            self.overlay.dropped.push(Dropped { key: at, from: old, upto: new });
        }
        self.overlay.drops = true;
        let head = &mut self.overlay.keys[at].head;
        head.first = new;
        if new == next {
            (head.newest, head.bytes) = (Newest::None, 0);
        }
        Ok(new)
    }

    /// What the records of a key with a history come to from the offset `new` on, bytes. Rows without totals are added up: those
    /// below `new` or those above, whichever are fewer.
    fn bytes_from(&mut self, at: usize, new: Offset) -> Result<u64, StoreError> {
        let KeyState { head, stored, .. } = &self.overlay.keys[at];
        let (first, bytes, stored) = (head.first, head.bytes, *stored);
        if new == head.next {
            return Ok(0);
        }
        let (plain_end, total) = head.totals.map_or((head.next, 0), |totals| (totals.since, totals.total));
        if new > plain_end {
            let last = self.facts(at, Offset(new.0 - 1))?;
            return Ok(total.wrapping_sub(last.before.unwrap_or_default().wrapping_add(last.size)));
        }
        if drops_fewer(first, new, plain_end.min(stored)) {
            Ok(bytes.saturating_sub(self.sum(at, first, new)?))
        } else {
            Ok(self.sum(at, new, plain_end)?.saturating_add(total))
        }
    }

    /// Of the history row at an offset that is kept.
    fn facts(&mut self, at: usize, offset: Offset) -> Result<RowFacts, StoreError> {
        let KeyState { key, hash, space, stored, .. } = &self.overlay.keys[at];
        let name = || format!("record {offset} of a key of shard {}", self.descriptor.shard);
        let missing = || StoreError::Corrupt { what: name(), why: "the row is missing".into() };
        if offset >= *stored {
            let found = self.overlay.history.iter().rev().find(|row| row.key == at && row.offset == offset);
            return found.map(|row| row.facts).ok_or_else(missing);
        }
        let row = keys::record_history(*space, self.descriptor.table, *hash, key, offset);
        let row = self.store.get(&row)?.ok_or_else(missing)?;
        let (record, before) = Record::decode_at(row).map_err(|e| e.corrupt(name()))?;
        Ok(RowFacts { ts_us: record.ts_us, size: rows::record_size(&record), before })
    }

    /// What the history rows `[from, upto)` count for, bytes.
    fn sum(&mut self, at: usize, from: Offset, upto: Offset) -> Result<u64, StoreError> {
        let KeyState { key, hash, space, stored, .. } = &self.overlay.keys[at];
        let fresh = self.overlay.history.iter().filter(|row| row.key == at && from <= row.offset && row.offset < upto);
        let fresh: u64 = fresh.map(|row| row.facts.size).sum();
        let upto = upto.min(*stored);
        if upto <= from {
            return Ok(fresh);
        }
        let stored = match self.overlay.sums.get(key, from, upto) {
            Some(sum) => sum,
            None => {
                let row = |offset| keys::record_history(*space, self.descriptor.table, *hash, key, offset);
                let all = (u64::MAX, usize::MAX);
                rows::add_up(self.store, self.descriptor, &row(from), &row(upto), all)?.bytes
            }
        };
        Ok(fresh + stored)
    }
}

/// Bytes of the records before the one of `size` bytes at `offset`, where its key has totals or begins to have them.
fn total_before(format: RowFormat, head: &mut Head, offset: Offset, size: u64) -> Option<u64> {
    if format == RowFormat::Plain && head.totals.is_none() {
        return None;
    }
    let totals = head.totals.get_or_insert(Totals { since: offset, ..Totals::default() });
    let before = totals.total;
    totals.total = before.wrapping_add(size);
    Some(before)
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
