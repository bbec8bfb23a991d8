//! Scans: pages of a shard's records in position order.
//!
//! Owns: the walk over rows, its filters and its cursor. Must never: read more bytes than a page may give and one record
//! beside, or step through what is long where it wants none of it.
//!
//! A cursor is opaque to clients: `1 | position` goes on at that position (below it, where the scan is reversed), `2 |
//! offset u64 | position` goes on inside a key's history.

mod history;
mod newest;

use super::{PAGE_BYTES_MAX, PAGE_ROWS_MAX, Page, Replied};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds};
use crate::codec::record::{Head, Record, Totals};
use crate::host::{Answer, KeyedRecord, Scan};
use crate::machine::{Machine, ShardState, bounds, rows};
use crate::state::StateStore;
use bytes::{BufMut, Bytes, BytesMut};
use synod_cluster::ids::{Offset, Space};
use synod_cluster::position;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};

/// Unwanted rows of one key that are stepped over before the walk seeks past them.
const STEP_OVER_MAX: usize = 32;
/// The same in bytes: a seek costs about as much as reading these.
const STEP_OVER_BYTES_MAX: usize = 8 << 10;

const CURSOR_POSITION: u8 = 1;
const CURSOR_OFFSET: u8 = 2;

/// A page of the scan.
pub(super) fn scan(state: &ShardState, store: &mut dyn StateStore, scan: &Scan) -> Result<Replied, StoreError> {
    if let Machine::System(_) = state.machine() {
        return Ok(Err(Refusal::WrongShard));
    }
    if scan.history && scan.reverse {
        let why = "a scan of the history cannot run in reverse".into();
        return Ok(Err(Refusal::Invalid { field: "reverse", why }));
    }
    let cursor = match Cursor::decode(&scan.cursor, scan.history) {
        Ok(cursor) => cursor,
        Err(why) => return Ok(Err(Refusal::Invalid { field: "cursor", why: why.into() })),
    };
    let walk = Walk { state, scan, hashed: state.descriptor().partitioning == Partitioning::Hash };
    let mut page = Page::new(scan.limit);
    let ranges = walk.row_ranges(&cursor);
    let rest = if scan.history {
        let inside = match &cursor {
            Some(Cursor { position, offset: Some(_) }) => walk.resume_key(store, position)?,
            _ => None,
        };
        // The page before went up to the cursor: what was trimmed below it was given.
        if let (Some((key, head)), Some(Cursor { offset: Some(offset), .. })) = (&inside, &cursor)
            && *offset < head.first
            && walk.tells_trimmed()
        {
            return Ok(Err(Refusal::Trimmed { key: key.clone(), first: head.first }));
        }
        history::page(&walk, store, ranges, inside, &mut page)?
    } else {
        newest::page(&walk, store, ranges, &mut page)?
    };
    if let Some((key, first)) = page.trimmed {
        return Ok(Err(Refusal::Trimmed { key, first }));
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

/// What a page has looked at so far.
#[derive(Default)]
struct Spent {
    rows: usize,
    /// Of these rows, keys and values.
    bytes: usize,
}

impl Spent {
    fn row(&mut self, row: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += row.len() + value.len();
    }

    /// Whether the page ends because of the number of rows looked at, whatever it found.
    fn rows_over(&self) -> bool {
        self.rows >= PAGE_ROWS_MAX
    }

    /// Whether the page ends with the key it is at.
    fn over(&self) -> bool {
        self.rows_over() || self.bytes >= PAGE_BYTES_MAX
    }
}

/// What is walked, and by which wishes.
struct Walk<'a> {
    state: &'a ShardState,
    scan: &'a Scan,
    hashed: bool,
}

impl Walk<'_> {
    /// The rows to walk, in the order of the walk: a range for each piece of the shard that it comes to.
    fn row_ranges(&self, cursor: &Option<Cursor>) -> Vec<Bounds> {
        let (descriptor, scan) = (self.state.descriptor(), self.scan);
        let (mut from, mut to) = (&scan.pos_from[..], &scan.pos_to[..]);
        if !self.hashed {
            from = from.max(&scan.from);
            to = position::lesser_end(to, &scan.to[..]);
        }
        let parts = self.state.pieces().parts(descriptor, from, to).into_iter();
        // In the space of each piece the cursor's row lies before, within or after what the piece has.
        let clipped = parts.filter_map(|(space, (mut start, mut end))| {
            if let Some(cursor) = cursor {
                let at = self.cursor_row(cursor, space);
                if scan.reverse {
                    end = end.min(at);
                } else {
                    start = start.max(at);
                }
            }
            (start < end).then_some((start, end))
        });
        if scan.reverse { clipped.rev().collect() } else { clipped.collect() }
    }

    /// The row in a space at which a cursor stands.
    fn cursor_row(&self, Cursor { position, offset }: &Cursor, space: Space) -> Vec<u8> {
        let descriptor = self.state.descriptor();
        match (offset, descriptor.partitioning.key_at(position)) {
            (Some(offset), Some(key)) => {
                keys::record_history(space, descriptor.table, descriptor.partitioning.hash_of(key), key, *offset)
            }
            _ => bounds::position_row(descriptor, space, position),
        }
    }

    /// The key inside whose history a cursor stands.
    fn resume_key(&self, store: &mut dyn StateStore, position: &[u8]) -> Result<Option<(Bytes, Head)>, StoreError> {
        let descriptor = self.state.descriptor();
        let Some(key) = descriptor.partitioning.key_at(position) else { return Ok(None) };
        let hash = descriptor.partitioning.hash_of(key);
        let head = rows::head(store, descriptor, self.state.space_of(key), hash, key)?;
        Ok(head.map(|head| (Bytes::copy_from_slice(key), head)))
    }

    fn position(&self, key: &[u8]) -> Vec<u8> {
        self.state.descriptor().partitioning.position(key).into_owned()
    }

    /// Whether a key passes the filter of keys; on range tables the row bounds have seen to it.
    fn key_wanted(&self, key: &[u8]) -> bool {
        !self.hashed || position::within(key, &self.scan.from, &self.scan.to)
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
}

/// Whether stepping over all but the newest record of a key would read more than a seek costs.
fn is_long(head: &Head) -> bool {
    let records = head.next.0.saturating_sub(head.first.0);
    let older = head.bytes / records.max(1) * records.saturating_sub(1);
    records > STEP_OVER_MAX as u64 || older > STEP_OVER_BYTES_MAX as u64
}

/// The key whose history rows the walk is passing over.
#[derive(Default)]
struct Passed {
    /// What the rows of the key start with.
    prefix: Vec<u8>,
    /// History rows passed since the walk began or sought here, and their bytes.
    rows: usize,
    bytes: usize,
}

impl Passed {
    fn begin(&mut self, prefix: &[u8]) {
        self.prefix.clear();
        self.prefix.extend_from_slice(prefix);
        self.sought();
    }

    /// The walk goes on elsewhere in the key's history.
    fn sought(&mut self) {
        (self.rows, self.bytes) = (0, 0);
    }

    /// A row that is not wanted; whether it pays to seek past those that follow.
    fn pass(&mut self, value: &[u8]) -> bool {
        self.rows += 1;
        self.bytes += value.len();
        self.rows > STEP_OVER_MAX || self.bytes > STEP_OVER_BYTES_MAX
    }

    /// The key of the history row at an offset.
    fn history_row(&self, offset: Offset) -> Vec<u8> {
        let mut row = [&self.prefix[..], &[keys::KIND_HISTORY]].concat();
        row.extend_from_slice(&offset.0.to_be_bytes());
        row
    }

    /// The first key after all rows of the key.
    fn end(&self) -> Vec<u8> {
        keys::after_prefix(self.prefix.clone())
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

/// A head. Without `value_wanted` the value and headers of the record in it are left out, and not copied.
fn decode_head(state: &ShardState, row: &[u8], value_wanted: bool) -> Result<Head, StoreError> {
    let head = if value_wanted { Head::decode(Bytes::copy_from_slice(row)) } else { Head::decode_brief(row) };
    head.map_err(|e| e.corrupt(format!("a head in shard {}", state.descriptor().shard)))
}

fn decode_record(state: &ShardState, row: &[u8], value: &[u8]) -> Result<Record, StoreError> {
    Record::decode(Bytes::copy_from_slice(value)).map_err(|e| e.corrupt(record_name(state, row)))
}

/// A record without its value and headers: they are checked and not copied.
fn decode_record_brief(state: &ShardState, row: &[u8], value: &[u8]) -> Result<Record, StoreError> {
    Record::decode_brief(value).map_err(|e| e.corrupt(record_name(state, row)))
}

fn record_name(state: &ShardState, row: &[u8]) -> String {
    format!("record {} of a key in shard {}", rows::history_offset(row), state.descriptor().shard)
}
