//! Scans: pages of a shard's records in position order.
//!
//! Owns: the walk over rows, its filters and its cursor. Must never: look at more rows than a page may, or step through a
//! long history row by row when it wants none of it.
//!
//! A cursor is opaque to clients: `1 | position` goes on at that position (below it, where the scan is reversed), `2 |
//! offset u64 | position` goes on inside a key's history.

mod history;

use super::{PAGE_ROWS_MAX, Page, Replied};
use crate::StoreError;
use crate::codec::keys::{self, Bounds, RecordRow};
use crate::codec::record::{Head, Record, Totals};
use crate::host::{Answer, KeyedRecord, Refusal, Scan};
use crate::ids::Offset;
use crate::machine::{ShardState, bounds, rows};
use crate::state::StateStore;
use crate::system::{Partitioning, Retention};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::ControlFlow;

/// So many unwanted rows of one key are stepped over before the walk seeks behind them.
const STEP_OVER_MAX: usize = 32;

const CURSOR_POSITION: u8 = 1;
const CURSOR_OFFSET: u8 = 2;

/// A page of the scan.
pub(super) fn scan(state: &ShardState, store: &mut dyn StateStore, scan: &Scan) -> Result<Replied, StoreError> {
    if state.system().is_some() {
        return Ok(Err(Refusal::WrongShard));
    }
    if scan.history && scan.reverse {
        let why = "a scan of the history goes forward only".into();
        return Ok(Err(Refusal::Invalid { field: "reverse", why }));
    }
    let cursor = match Cursor::decode(&scan.cursor, scan.history) {
        Ok(cursor) => cursor,
        Err(why) => return Ok(Err(Refusal::Invalid { field: "cursor", why: why.into() })),
    };
    let walk = Walk { state, scan, hashed: state.descriptor().partitioning == Partitioning::Hash };
    let mut page = Page::new(scan.limit);
    let bounds = walk.row_bounds(&cursor);
    let rest = if scan.history {
        let inside = match &cursor {
            Some(Cursor { position, offset: Some(_) }) => walk.resume_key(store, position)?,
            _ => None,
        };
        // The page before went up to the cursor: what was trimmed below it was given.
        if let (Some((_, head)), Some(Cursor { offset: Some(offset), .. })) = (&inside, &cursor)
            && *offset < head.first
            && walk.tells_trimmed()
        {
            return Ok(Err(Refusal::Trimmed { first: head.first }));
        }
        history::page(&walk, store, bounds, inside, &mut page)?
    } else {
        walk.newest_page(store, bounds, &mut page)?
    };
    if let Some(first) = page.trimmed {
        return Ok(Err(Refusal::Trimmed { first }));
    }
    let cursor = rest.map_or_else(Bytes::new, |cursor| cursor.encode());
    Ok(Ok(Answer::Page { records: page.records, cursor, first: Offset(0), next: Offset(0) }))
}

/// Where a page ended.
struct Cursor {
    position: Vec<u8>,
    offset: Option<Offset>,
}

impl Cursor {
    fn decode(data: &[u8], history: bool) -> Result<Option<Self>, &'static str> {
        match data.split_first() {
            None => Ok(None),
            Some((&CURSOR_POSITION, position)) => Ok(Some(Self { position: position.to_vec(), offset: None })),
            Some((&CURSOR_OFFSET, rest)) if history => match rest.split_first_chunk::<8>() {
                Some((offset, position)) => {
                    Ok(Some(Self { position: position.to_vec(), offset: Some(Offset(u64::from_be_bytes(*offset))) }))
                }
                None => Err("it is cut short"),
            },
            Some(_) => Err("it is not the cursor of such a scan"),
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + self.position.len());
        match self.offset {
            None => out.put_u8(CURSOR_POSITION),
            Some(offset) => {
                out.put_u8(CURSOR_OFFSET);
                out.put_u64(offset.0);
            }
        }
        out.extend_from_slice(&self.position);
        out.freeze()
    }
}

/// A key met on the walk.
struct KeyHead {
    key: Bytes,
    head: Head,
    /// The newest record, where it is in the history and the walk passed over it.
    newest: Option<Record>,
}

/// The keys of a stretch of rows.
struct Stretch {
    keys: Vec<KeyHead>,
    /// Where the walk goes on: the first row (the end, reversed) of what it has not seen. `None`: it saw all.
    rest: Option<Vec<u8>>,
    /// Rows looked at.
    visited: usize,
}

/// What is walked, and by which wishes.
struct Walk<'a> {
    state: &'a ShardState,
    scan: &'a Scan,
    hashed: bool,
}

impl Walk<'_> {
    fn row_bounds(&self, cursor: &Option<Cursor>) -> Bounds {
        let (descriptor, space, scan) = (self.state.descriptor(), self.state.space(), self.scan);
        let (mut from, mut to) = (&scan.pos_from[..], &scan.pos_to[..]);
        if !self.hashed {
            from = from.max(&scan.from);
            to = bounds::lesser_end(to, &scan.to);
        }
        let (mut start, mut end) = bounds::position_rows(descriptor, space, from, to);
        if let Some(Cursor { position, offset }) = cursor {
            let at = match (offset, bounds::position_key(descriptor, position)) {
                (Some(offset), Some(key)) => {
                    keys::record_history(space, descriptor.table, bounds::row_hash(descriptor, key), key, *offset)
                }
                _ => bounds::position_row(descriptor, space, position),
            };
            if scan.reverse {
                end = end.min(at);
            } else {
                start = start.max(at);
            }
        }
        (start, end)
    }

    /// The key inside whose history a cursor stands.
    fn resume_key(&self, store: &mut dyn StateStore, position: &[u8]) -> Result<Option<(Bytes, Head)>, StoreError> {
        let descriptor = self.state.descriptor();
        let Some(key) = bounds::position_key(descriptor, position) else { return Ok(None) };
        let hash = bounds::row_hash(descriptor, key);
        let head = rows::head(store, descriptor, self.state.space(), hash, key)?;
        Ok(head.map(|head| (Bytes::copy_from_slice(key), head)))
    }

    fn position(&self, key: &[u8]) -> Vec<u8> {
        bounds::position(self.state.descriptor(), key).into_owned()
    }

    /// Whether a key passes the filter of keys; on range tables the row bounds have seen to it.
    fn key_wanted(&self, key: &[u8]) -> bool {
        !self.hashed || bounds::within(key, &self.scan.from, &self.scan.to)
    }

    /// Whether the scan is refused where it asks for what was trimmed. One that asks for all there is gets what is left.
    fn tells_trimmed(&self) -> bool {
        let keeps_all = self.state.descriptor().retention == Retention::All;
        self.scan.tells_trimmed && self.scan.after_ts > 0 && keeps_all
    }

    /// Whether the scan asks for a record of a key that was trimmed.
    fn lacks(&self, key: &[u8], head: &Head) -> bool {
        let gone = |totals: Totals| totals.gone_ts_us > self.scan.after_ts;
        self.tells_trimmed() && head.totals.is_some_and(gone) && self.key_wanted(key)
    }

    fn ts_wanted(&self, ts_us: u64) -> bool {
        ts_us > self.scan.after_ts && (self.scan.upto_ts == 0 || ts_us <= self.scan.upto_ts)
    }

    fn push(&self, page: &mut Page, key: &Bytes, offset: Offset, mut record: Record) {
        if self.scan.keys_only {
            (record.value, record.headers) = (Bytes::new(), Vec::new());
        }
        page.push(KeyedRecord { key: key.clone(), offset, record });
    }

    /// The newest record of each key. Returns where the next page begins.
    fn newest_page(
        &self,
        store: &mut dyn StateStore,
        (mut start, mut end): Bounds,
        page: &mut Page,
    ) -> Result<Option<Cursor>, StoreError> {
        let mut visited = 0;
        loop {
            // One key more than the page takes: whether there is a next page.
            let stretch = self.stretch(store, &start, &end, page.limit + 1, PAGE_ROWS_MAX.saturating_sub(visited))?;
            visited += stretch.visited;
            let keys = stretch.keys.len();
            for (n, found) in stretch.keys.into_iter().enumerate() {
                let key = found.key.clone();
                self.take_newest(store, found, page)?;
                let more = n + 1 < keys || stretch.rest.is_some();
                let spent = n + 1 == keys && visited >= PAGE_ROWS_MAX;
                if more && (page.full() || spent) {
                    let mut position = self.position(&key);
                    if !self.scan.reverse {
                        position.push(0);
                    }
                    return Ok(Some(Cursor { position, offset: None }));
                }
            }
            match stretch.rest {
                None => return Ok(None),
                Some(row) if self.scan.reverse => end = row,
                Some(row) => start = row,
            }
        }
    }

    fn take_newest(&self, store: &mut dyn StateStore, found: KeyHead, page: &mut Page) -> Result<(), StoreError> {
        let KeyHead { key, head, newest } = found;
        let Some(ts_us) = head.newest_ts_us() else { return Ok(()) };
        let tombstone = head.tombstone();
        if !self.key_wanted(&key) || !self.ts_wanted(ts_us) || (tombstone && !self.scan.tombstones) {
            return Ok(());
        }
        let offset = Offset(head.next.0.saturating_sub(1));
        let record = match newest {
            Some(record) => record,
            None if self.scan.keys_only => Record { ts_us, tombstone, ..Record::default() },
            None => rows::record(store, self.state.descriptor(), self.state.space(), &key, &head, offset)?,
        };
        self.push(page, &key, offset, record);
        Ok(())
    }

    /// Walks rows until `keys_max` keys were met or `rows_max` rows visited, always at least one key.
    fn stretch(
        &self,
        store: &mut dyn StateStore,
        start: &[u8],
        end: &[u8],
        keys_max: usize,
        rows_max: usize,
    ) -> Result<Stretch, StoreError> {
        let mut out = Stretch { keys: Vec::new(), rest: None, visited: 0 };
        let mut failed = None;
        let mut passed = Passed::default();
        store.scan(start, end, self.scan.reverse, &mut |row, value| {
            out.visited += 1;
            match self.step(&mut out, &mut passed, row, value) {
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
                Ok(true) if out.keys.len() >= keys_max || out.visited >= rows_max => {
                    let prefix = row[..row.len() - 1].to_vec();
                    out.rest = Some(if self.scan.reverse { prefix } else { keys::after_prefix(prefix) });
                    ControlFlow::Break(())
                }
                Ok(_) if out.rest.is_some() => ControlFlow::Break(()),
                Ok(_) => ControlFlow::Continue(()),
            }
        })?;
        failed.map_or(Ok(out), Err)
    }

    /// Takes one row; whether it was a head. Sets `rest` where it pays to seek.
    fn step(&self, out: &mut Stretch, passed: &mut Passed, row: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        if let Some(offset) = passed.history_of(row) {
            if self.scan.reverse {
                if passed.rows == 0 {
                    passed.newest = Some((offset, decode_record(self.state, row, value)?));
                }
            } else if let Some(key) = out.keys.last_mut()
                && key.head.next.0 == offset.0 + 1
            {
                key.newest = Some(decode_record(self.state, row, value)?);
            }
            passed.rows += 1;
            if passed.rows > STEP_OVER_MAX {
                let mut rest = passed.prefix.clone();
                // Reversed, the head is all that is left of the key: it lies below the first history row.
                rest.push(1);
                out.rest = Some(if self.scan.reverse { rest } else { keys::after_prefix(passed.prefix.clone()) });
            }
            return Ok(false);
        }
        let parsed = keys::parse_record(row, self.hashed).map_err(|e| e.corrupt(row_name(self.state)))?;
        let RecordRow::Head = parsed.row else {
            // Reversed, a key begins with its newest history row.
            passed.begin(&row[..row.len() - 9]);
            return self.step(out, passed, row, value);
        };
        let head = decode_head(self.state, value)?;
        let next = head.next.0;
        let newest = passed.newest.take().filter(|(offset, _)| passed.is_of(row) && offset.0 + 1 == next);
        out.keys.push(KeyHead { key: parsed.key, head, newest: newest.map(|(_, record)| record) });
        passed.begin(&row[..row.len() - 1]);
        Ok(true)
    }
}

/// The key whose history rows the walk is passing over.
#[derive(Default)]
struct Passed {
    /// What the rows of the key start with.
    prefix: Vec<u8>,
    /// History rows passed so far.
    rows: usize,
    newest: Option<(Offset, Record)>,
}

impl Passed {
    fn begin(&mut self, prefix: &[u8]) {
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        self.rows = 0;
        self.newest = None;
    }

    fn is_of(&self, head_row: &[u8]) -> bool {
        head_row.len() == self.prefix.len() + 1 && head_row.starts_with(&self.prefix)
    }

    /// The offset, where `row` is a history row of the key.
    fn history_of(&self, row: &[u8]) -> Option<Offset> {
        let same = !self.prefix.is_empty() && row.len() == self.prefix.len() + 9 && row.starts_with(&self.prefix);
        same.then(|| rows::history_offset(row))
    }
}

fn row_name(state: &ShardState) -> String {
    format!("a record's row in shard {}", state.descriptor().shard)
}

fn decode_head(state: &ShardState, value: &[u8]) -> Result<Head, StoreError> {
    Head::decode(Bytes::copy_from_slice(value))
        .map_err(|e| e.corrupt(format!("a head in shard {}", state.descriptor().shard)))
}

fn decode_record(state: &ShardState, row: &[u8], value: &[u8]) -> Result<Record, StoreError> {
    let name = || format!("record {} of a key in shard {}", rows::history_offset(row), state.descriptor().shard);
    Record::decode(Bytes::copy_from_slice(value)).map_err(|e| e.corrupt(name()))
}
