//! Scans of the newest record of each key.
//!
//! Owns: the walk from key to key, forward and back. Must never: copy a value that the page does not give, or end a page
//! before a key was done with.
//!
//! A key's rows are its head, then its history, oldest first. Forward, the head says where the newest record is. Back, the
//! first row of a key is its newest record, and the head comes last.

use super::{Cursor, Page, Passed, Spent, Walk, decode_head, decode_record, decode_record_brief, is_long, row_name};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds, RecordKey, RecordRow};
use crate::codec::record::{Head, Newest, Record};
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::ids::Offset;

/// Gathers a page from `ranges`, one after the other: they are in the order of the walk. Returns where the next page begins.
pub(super) fn page(
    walk: &Walk,
    store: &mut dyn StateStore,
    ranges: Vec<Bounds>,
    page: &mut Page,
) -> Result<Option<Cursor>, StoreError> {
    let reverse = walk.scan.reverse;
    let mut at = Place { walk, page, spent: Spent::default(), passed: Passed::default(), wanted: None, done: None };
    for (mut start, mut end) in ranges {
        loop {
            let mut stop = None;
            store.scan(&start, &end, reverse, &mut |row, value| {
                stop = at.row(row, value).err();
                if stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            match stop {
                None => break,
                Some(Stop::Full) => return Ok(at.done.map(|position| cursor(position, reverse))),
                Some(Stop::Seek(row)) if reverse => end = row,
                Some(Stop::Seek(row)) => start = row,
                Some(Stop::Failed(error)) => return Err(error),
            }
            at.passed.sought();
        }
        at.finish()?;
    }
    Ok(None)
}

fn cursor(mut position: Vec<u8>, reverse: bool) -> Cursor {
    if !reverse {
        position.push(0);
    }
    Cursor { position, offset: None }
}

/// Why a walk stopped before its end.
enum Stop {
    /// The page takes no more, and there is more.
    Full,
    /// Rows follow that are not wanted: on from here (reversed: below here).
    Seek(Vec<u8>),
    Failed(StoreError),
}

/// A record that the page is to get.
enum Wanted {
    /// Forward: the head is known, the record at this offset follows.
    Awaited { key: Bytes, offset: Offset },
    /// Reversed: the first row of a key, which its head is to confirm. The record where the page gives it.
    Met { offset: Offset, record: Option<Record> },
}

/// Where the walk is.
struct Place<'a, 'w> {
    walk: &'a Walk<'w>,
    page: &'a mut Page,
    spent: Spent,
    /// The key whose rows are walked.
    passed: Passed,
    wanted: Option<Wanted>,
    /// Position of the last key done with.
    done: Option<Vec<u8>>,
}

impl Place<'_, '_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        if let Some(offset) = self.passed.history_of(row) {
            self.spent.row(row, value);
            return if self.walk.scan.reverse { self.older(value) } else { self.newer(offset, row, value) };
        }
        let parsed = keys::parse_record(row, self.walk.hashed);
        let parsed = parsed.map_err(|e| Stop::Failed(e.corrupt(row_name(self.walk.state))))?;
        let last_of_key = self.walk.scan.reverse && self.passed.is_of(row);
        if !last_of_key {
            self.finish().map_err(Stop::Failed)?;
            if self.done.is_some() && (self.page.full() || self.spent.over()) {
                return Err(Stop::Full);
            }
        }
        self.spent.row(row, value);
        match (parsed.row, self.walk.scan.reverse) {
            (RecordRow::Head, false) => self.head(parsed.key, row, value),
            (RecordRow::Head, true) => self.head_last(parsed.key, row, value),
            (RecordRow::History(offset), true) => self.first_of_key(&parsed, offset, row, value),
            (RecordRow::History(offset), false) => {
                let why = format!("record {offset} of a key without a head");
                Err(Stop::Failed(StoreError::Corrupt { what: row_name(self.walk.state), why }))
            }
        }
    }

    /// Forward: a history row of the key whose head was met.
    fn newer(&mut self, offset: Offset, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        match self.wanted.take() {
            Some(Wanted::Awaited { key, offset: newest }) if newest == offset => {
                let record = decode_record(self.walk.state, row, value).map_err(Stop::Failed)?;
                self.walk.push(self.page, &key, offset, record);
                Ok(())
            }
            wanted => {
                self.wanted = wanted;
                if self.passed.pass(value) { Err(self.seek()) } else { Ok(()) }
            }
        }
    }

    /// Forward: to the record awaited, or past the key.
    fn seek(&self) -> Stop {
        Stop::Seek(match &self.wanted {
            Some(Wanted::Awaited { offset, .. }) => self.passed.history_row(*offset),
            _ => self.passed.end(),
        })
    }

    /// Forward: a key begins.
    fn head(&mut self, key: Bytes, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.passed.begin(&row[..row.len() - 1]);
        self.done = Some(self.walk.position(&key));
        let head = decode_head(self.walk.state, value, !self.walk.scan.keys_only).map_err(Stop::Failed)?;
        let long = is_long(&head);
        self.wanted = self.give(key, head);
        if long { Err(self.seek()) } else { Ok(()) }
    }

    /// Gives the page a key's newest record, where it is wanted and known; what is wanted and not known is returned.
    fn give(&mut self, key: Bytes, head: Head) -> Option<Wanted> {
        let scan = self.walk.scan;
        let (ts_us, tombstone) = (head.newest_ts_us()?, head.tombstone());
        if !self.walk.key_wanted(&key) || !self.walk.ts_wanted(ts_us) || (tombstone && !scan.tombstones) {
            return None;
        }
        let offset = Offset(head.next.0.saturating_sub(1));
        let record = match head.newest {
            Newest::Inline(record) => record,
            _ if scan.keys_only => Record { ts_us, tombstone, ..Record::default() },
            _ => return Some(Wanted::Awaited { key, offset }),
        };
        self.walk.push(self.page, &key, offset, record);
        None
    }

    /// Back: the newest record of a key, met first.
    fn first_of_key(&mut self, parsed: &RecordKey, offset: Offset, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.passed.begin(&row[..row.len() - 9]);
        let (state, scan) = (self.walk.state, self.walk.scan);
        let mut record = None;
        if !scan.keys_only && self.walk.key_wanted(&parsed.key) {
            let brief = decode_record_brief(state, row, value).map_err(Stop::Failed)?;
            if self.walk.ts_wanted(brief.ts_us) && (scan.tombstones || !brief.tombstone) {
                record = Some(decode_record(state, row, value).map_err(Stop::Failed)?);
            }
        }
        self.wanted = Some(Wanted::Met { offset, record });
        self.older(value)
    }

    /// Back: a history row that is not wanted. It only tells how long those below it are likely to be.
    fn older(&mut self, value: &[u8]) -> Result<(), Stop> {
        // The head is all that is left of the key then: it lies below the first history row.
        if self.passed.pass(value) { Err(Stop::Seek(self.passed.history_row(Offset(0)))) } else { Ok(()) }
    }

    /// Back: a key ends.
    fn head_last(&mut self, key: Bytes, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        let met = self.wanted.take().filter(|_| self.passed.is_of(row));
        self.passed.begin(&row[..row.len() - 1]);
        self.done = Some(self.walk.position(&key));
        let head = decode_head(self.walk.state, value, !self.walk.scan.keys_only).map_err(Stop::Failed)?;
        let Some(Wanted::Awaited { key, offset }) = self.give(key, head) else { return Ok(()) };
        match met {
            Some(Wanted::Met { offset: newest, record: Some(record) }) if newest == offset => {
                self.walk.push(self.page, &key, offset, record);
                Ok(())
            }
            _ => Err(Stop::Failed(self.missing(&key, offset))),
        }
    }

    /// No row of the current key follows.
    fn finish(&mut self) -> Result<(), StoreError> {
        match self.wanted.take() {
            Some(Wanted::Awaited { key, offset }) => Err(self.missing(&key, offset)),
            _ => Ok(()),
        }
    }

    fn missing(&self, key: &[u8], offset: Offset) -> StoreError {
        let shard = self.walk.state.descriptor().shard;
        let what = format!("record {offset} of key {:?} in shard {shard}", String::from_utf8_lossy(key));
        StoreError::Corrupt { what, why: "the row is missing".into() }
    }
}
