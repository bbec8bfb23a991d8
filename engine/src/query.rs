//! Reads of one shard, executed against what it has applied.
//!
//! Owns: what a get, a range, a scan and a tail answer, and the size of their pages. Must never: change anything, or
//! decide how fresh an answer must be: the shard calls at the right moment.

mod scan;
mod tail;

pub(crate) use tail::nothing;
pub use tail::{Firsts, tail};

use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::codec::record::{Head, Newest, Record};
use crate::host::{Answer, At, KeyedRecord, Read};
use crate::machine::{Machine, ShardState, rows};
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::ids::{Offset, Space};
use synod_cluster::refusal::Refusal;

/// Most records of a page.
pub const PAGE_RECORDS_MAX: usize = 1000;
/// A page ends with the record that passes this, bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Rows that a page of a scan looks at, at most.
pub const PAGE_ROWS_MAX: usize = 20_000;

/// What became of a read: an answer, or a refusal.
pub type Replied = Result<Answer, Refusal>;

/// Executes a read; a tail that finds nothing is answered as if its time were up.
///
/// # Errors
/// The store failed or is damaged.
pub fn read(state: &ShardState, store: &mut dyn StateStore, read: &Read) -> Result<Replied, StoreError> {
    match read {
        Read::Get { key, at } => with_key(state, key, |q| q.get(store, *at)),
        Read::Range { key, from, limit } => with_key(state, key, |q| q.range(store, *from, *limit)),
        Read::Scan(wanted) => scan::scan(state, store, wanted),
        Read::Tail(poll) => {
            let found = tail(state, store, &mut Firsts::default(), poll)?;
            Ok(found.unwrap_or_else(|| Ok(nothing(state))))
        }
    }
}

/// A read of one key.
struct KeyQuery<'a> {
    state: &'a ShardState,
    key: &'a Bytes,
}

fn with_key<'a>(
    state: &'a ShardState,
    key: &'a Bytes,
    run: impl FnOnce(KeyQuery<'a>) -> Result<Replied, StoreError>,
) -> Result<Replied, StoreError> {
    match state.machine() {
        Machine::Data if state.descriptor().contains(key) => run(KeyQuery { state, key }),
        Machine::Data | Machine::System(_) => Ok(Err(Refusal::WrongShard)),
    }
}

impl KeyQuery<'_> {
    /// Where the rows of the key are.
    fn space(&self) -> Space {
        self.state.space_of(self.key)
    }

    fn head(&self, store: &mut dyn StateStore) -> Result<Option<Head>, StoreError> {
        let descriptor = self.state.descriptor();
        rows::head(store, descriptor, self.space(), descriptor.partitioning.hash_of(self.key), self.key)
    }

    fn record(&self, store: &mut dyn StateStore, head: &Head, offset: Offset) -> Result<Record, StoreError> {
        rows::record(store, self.state.descriptor(), self.space(), self.key, head, offset)
    }

    fn get(&self, store: &mut dyn StateStore, at: At) -> Result<Replied, StoreError> {
        let Some(head) = self.head(store)? else {
            return Ok(Ok(Answer::Record { record: None, first: Offset(0), next: Offset(0) }));
        };
        let (first, next) = (head.first, head.next);
        let newest = match head.newest {
            Newest::None => None,
            _ => Some(Offset(next.0.saturating_sub(1))),
        };
        // A deletion found by time or as the newest means that there is nothing; asked for by its offset, it is shown.
        let (offset, show_deletion) = match at {
            At::Newest if head.tombstone() => (None, false),
            At::Newest => (newest, false),
            At::Offset(offset) if offset >= next => (None, true),
            At::Offset(offset) => {
                if offset < first {
                    return Ok(Err(Refusal::Trimmed { key: self.key.clone(), first }));
                }
                (Some(offset), true)
            }
            At::Time(ts) => {
                let after = rows::first_after(store, self.state.descriptor(), self.space(), self.key, &head, ts)?;
                if after <= first {
                    // Nothing kept is that old; what was dropped may have been.
                    return Ok(if first == Offset(0) {
                        Ok(Answer::Record { record: None, first, next })
                    } else {
                        Err(Refusal::Trimmed { key: self.key.clone(), first })
                    });
                }
                (Some(Offset(after.0 - 1)), false)
            }
        };
        let record = match offset {
            None => None,
            Some(offset) => {
                let record = self.record(store, &head, offset)?;
                let shown = show_deletion || !record.tombstone;
                shown.then(|| KeyedRecord { key: self.key.clone(), offset, record })
            }
        };
        Ok(Ok(Answer::Record { record, first, next }))
    }

    fn range(&self, store: &mut dyn StateStore, from: Offset, limit: usize) -> Result<Replied, StoreError> {
        let head = self.head(store)?.unwrap_or_default();
        let (first, next) = (head.first, head.next);
        if from < first {
            return Ok(Err(Refusal::Trimmed { key: self.key.clone(), first }));
        }
        let mut page = Page::new(limit);
        if let Newest::Inline(record) = head.newest {
            if from < next {
                page.push(KeyedRecord { key: self.key.clone(), offset: Offset(next.0 - 1), record });
            }
        } else if from < next {
            self.history(store, from, next, &mut page)?;
        }
        let reached = page.records.last().map_or(from, |r| Offset(r.offset.0 + 1));
        let cursor = if reached < next { Bytes::copy_from_slice(&reached.0.to_be_bytes()) } else { Bytes::new() };
        Ok(Ok(Answer::Page { records: page.records, cursor, first, next }))
    }

    /// The history records `[from, next)` as far as the page has room.
    fn history(
        &self,
        store: &mut dyn StateStore,
        from: Offset,
        next: Offset,
        page: &mut Page,
    ) -> Result<(), StoreError> {
        let descriptor = self.state.descriptor();
        let hash = descriptor.partitioning.hash_of(self.key);
        let (start, end) = keys::history_bounds(self.space(), descriptor.table, hash, self.key, from);
        let what = |offset| format!("record {offset} of key {:?} in shard {}", lossy(self.key), descriptor.shard);
        let (mut failed, mut expected) = (None, from);
        store.scan(&start, &end, false, &mut |row, value| {
            let offset = rows::history_offset(row);
            match Record::decode(Bytes::copy_from_slice(value)) {
                Ok(record) if offset == expected => {
                    expected = Offset(offset.0 + 1);
                    page.push(KeyedRecord { key: self.key.clone(), offset, record });
                    if page.full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                Ok(_) => {
                    let why = format!("the row is missing, record {offset} follows");
                    failed = Some(StoreError::Corrupt { what: what(expected), why });
                    ControlFlow::Break(())
                }
                Err(error) => {
                    failed = Some(error.corrupt(what(offset)));
                    ControlFlow::Break(())
                }
            }
        })?;
        if failed.is_none() && !page.full() && expected != next {
            failed = Some(StoreError::Corrupt { what: what(expected), why: "the row is missing".into() });
        }
        failed.map_or(Ok(()), Err)
    }
}

fn lossy(key: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key)
}

/// Records gathered up to a limit.
struct Page {
    records: Vec<KeyedRecord>,
    bytes: usize,
    limit: usize,
    /// A key of which records that are asked for were trimmed, and the first offset left: the whole read is refused.
    trimmed: Option<(Bytes, Offset)>,
}

impl Page {
    /// A page of at most `limit` records; 0 stands for the greatest limit.
    fn new(limit: usize) -> Self {
        let limit = if limit == 0 { PAGE_RECORDS_MAX } else { limit.min(PAGE_RECORDS_MAX) };
        Self { records: Vec::new(), bytes: 0, limit, trimmed: None }
    }

    fn push(&mut self, record: KeyedRecord) {
        self.bytes += 32 + record.key.len() + usize::try_from(rows::record_size(&record.record)).unwrap_or(usize::MAX);
        self.records.push(record);
    }

    fn full(&self) -> bool {
        self.records.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }
}

#[cfg(test)]
mod pages;
#[cfg(test)]
mod tests;
