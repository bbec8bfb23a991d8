//! Scans of every record of each key.
//!
//! Owns: the walk through histories and its seeks. Must never: take a record whose timestamp is not wanted, or end a page
//! where the next one would not find its way.

use super::{Cursor, Page, Passed, Spent, Walk, decode_head, decode_record, decode_record_brief, is_long, row_name};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds, RecordRow};
use crate::codec::record::{Head, Newest};
use crate::machine::rows;
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::ids::Offset;

/// Why a walk stopped before its end.
enum Stop {
    /// The page is full; the next one begins here.
    Full(Cursor),
    /// Rows follow that are not wanted; go on here.
    Seek(Vec<u8>),
    /// Old records of the current key follow: go on at its first wanted one.
    SeekTime,
    Failed(StoreError),
}

struct Here {
    key: Bytes,
    head: Head,
    wanted: bool,
}

/// Gathers a page from `ranges`, one after the other; `inside` is the key whose history the first one begins in.
pub(super) fn page(
    walk: &Walk,
    store: &mut dyn StateStore,
    ranges: Vec<Bounds>,
    inside: Option<(Bytes, Head)>,
    page: &mut Page,
) -> Result<Option<Cursor>, StoreError> {
    let descriptor = walk.state.descriptor();
    let mut at = Place { walk, page, spent: Spent::default(), passed: Passed::default(), here: None };
    if let Some((key, head)) = inside {
        let (space, hash) = (walk.state.space_of(&key), descriptor.partitioning.hash_of(&key));
        at.passed.begin(&keys::record_prefix(space, descriptor.table, hash, &key));
        at.here = Some(Here { wanted: walk.key_wanted(&key), key, head });
    }
    for (mut start, end) in ranges {
        loop {
            let mut stop = None;
            store.scan(&start, &end, false, &mut |row, value| {
                stop = at.row(row, value).err();
                if stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            match stop {
                None => break,
                Some(Stop::Failed(error)) => return Err(error),
                Some(Stop::Full(cursor)) => return Ok(Some(cursor)),
                Some(Stop::Seek(row)) => start = row,
                Some(Stop::SeekTime) => {
                    let Some(Here { key, head, .. }) = &at.here else { break };
                    let space = walk.state.space_of(key);
                    let offset = rows::first_after(store, descriptor, space, key, head, walk.scan.after_ts)?;
                    start = at.passed.history_row(offset);
                }
            }
            at.passed.sought();
        }
    }
    Ok(None)
}

/// Where the walk is.
struct Place<'a, 'w> {
    walk: &'a Walk<'w>,
    page: &'a mut Page,
    spent: Spent,
    /// The key whose rows are walked.
    passed: Passed,
    here: Option<Here>,
}

impl Place<'_, '_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        match self.passed.history_of(row) {
            Some(offset) => self.record(offset, row, value),
            None => self.begin(row, value),
        }
    }

    /// A history row of the current key.
    fn record(&mut self, offset: Offset, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        let Some(here) = &mut self.here else { return Ok(()) };
        if offset < here.head.first {
            return Err(Stop::Seek(self.passed.history_row(here.head.first)));
        }
        if self.spent.rows_over() {
            return Err(full(self.walk, &here.key, Some(offset)));
        }
        let mut old = false;
        if here.wanted {
            let brief = decode_record_brief(self.walk.state, row, value).map_err(Stop::Failed)?;
            old = brief.ts_us <= self.walk.scan.after_ts;
            if self.walk.ts_wanted(brief.ts_us) {
                self.passed.sought();
                return self.take(offset, brief.tombstone, row, value);
            }
            // Timestamps rise with the offsets: past the upper bound nothing of this key is wanted.
            here.wanted = old;
        }
        self.spent.row(row, value);
        if !self.passed.pass(value) {
            return Ok(());
        }
        Err(if old { Stop::SeekTime } else { Stop::Seek(self.passed.end()) })
    }

    /// Adds a history record, or ends the page where it has no room for it.
    fn take(&mut self, offset: Offset, tombstone: bool, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        let Some(here) = &self.here else { return Ok(()) };
        let gives = !tombstone || self.walk.scan.tombstones;
        if gives && (self.page.full() || (self.spent.over() && !self.page.records.is_empty())) {
            return Err(full(self.walk, &here.key, Some(offset)));
        }
        self.spent.row(row, value);
        if gives {
            let record = decode_record(self.walk.state, row, value).map_err(Stop::Failed)?;
            self.walk.push(self.page, &here.key, offset, record);
        }
        Ok(())
    }

    /// A key begins.
    fn begin(&mut self, row: &[u8], value: &[u8]) -> Result<(), Stop> {
        let parsed = keys::parse_record(row, self.walk.hashed);
        let parsed = parsed.map_err(|e| Stop::Failed(e.corrupt(row_name(self.walk.state))))?;
        let RecordRow::Head = parsed.row else {
            let why = "a history row without a head".into();
            return Err(Stop::Failed(StoreError::Corrupt { what: row_name(self.walk.state), why }));
        };
        if self.page.full() || self.spent.over() {
            return Err(full(self.walk, &parsed.key, None));
        }
        self.spent.row(row, value);
        self.passed.begin(&row[..row.len() - 1]);
        let head = decode_head(self.walk.state, value, !self.walk.scan.keys_only).map_err(Stop::Failed)?;
        if self.walk.lacks(&parsed.key, &head) {
            self.page.trimmed = Some((parsed.key.clone(), head.first));
            return Err(full(self.walk, &parsed.key, None));
        }
        let newest = head.newest_ts_us().unwrap_or(0);
        let wanted = self.walk.key_wanted(&parsed.key) && newest > self.walk.scan.after_ts;
        let here = self.here.insert(Here { key: parsed.key, head, wanted });
        if let Newest::Inline(record) = &mut here.head.newest
            && wanted
            && self.walk.ts_wanted(record.ts_us)
            && (!record.tombstone || self.walk.scan.tombstones)
        {
            let (record, offset) = (std::mem::take(record), Offset(here.head.next.0.saturating_sub(1)));
            self.walk.push(self.page, &here.key, offset, record);
        } else if is_long(&here.head) && !wanted {
            return Err(Stop::Seek(self.passed.end()));
        } else if is_long(&here.head) && self.walk.scan.after_ts > 0 {
            return Err(Stop::SeekTime);
        }
        Ok(())
    }
}

fn full(walk: &Walk, key: &[u8], offset: Option<Offset>) -> Stop {
    Stop::Full(Cursor { position: walk.position(key), offset })
}
