//! Rows of a key, read from the store.
//!
//! Owns: look-ups that apply and queries share. Must never: change anything.

use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::codec::record::{Head, Newest, Record};
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::ids::{Offset, Space};
use synod_cluster::system::Descriptor;

/// What a record counts for in its key's bytes: value and headers.
#[must_use]
pub fn record_size(record: &Record) -> u64 {
    (record.value.len() + record.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()) as u64
}

/// The offset at the end of a history row's key.
#[must_use]
pub fn history_offset(row: &[u8]) -> Offset {
    Offset(row.last_chunk::<8>().map_or(0, |offset| u64::from_be_bytes(*offset)))
}

/// What history rows count for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedUp {
    /// In their key's bytes.
    pub bytes: u64,
    /// The last row added up; `None` where there was none.
    pub last: Option<Offset>,
}

/// Adds up the history rows `[from, to)` of one key until it has looked at `rows_max` of them, or at `read_max` bytes.
pub fn add_up(
    store: &mut dyn StateStore,
    descriptor: &Descriptor,
    from: &[u8],
    to: &[u8],
    (rows_max, read_max): (u64, usize),
) -> Result<AddedUp, StoreError> {
    let (mut sum, mut failed, mut rows, mut read) = (AddedUp::default(), None, 0, 0);
    store.scan(from, to, false, &mut |row, value| {
        let offset = history_offset(row);
        match Record::decode(Bytes::copy_from_slice(value)) {
            Ok(record) => {
                sum.bytes += record_size(&record);
                sum.last = Some(offset);
                (rows, read) = (rows + 1, read + value.len());
                let goes_on = rows < rows_max && read < read_max;
                if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
            Err(error) => {
                failed = Some(error.corrupt(format!("record {offset} of a key of shard {}", descriptor.shard)));
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(sum), Err)
}

/// A key's head; `None` for a key never written.
pub fn head(
    store: &mut dyn StateStore,
    descriptor: &Descriptor,
    space: Space,
    hash: Option<u64>,
    key: &[u8],
) -> Result<Option<Head>, StoreError> {
    let row = store.get(&keys::record_head(space, descriptor.table, hash, key))?;
    let decode = |row| Head::decode(row).map_err(|e| e.corrupt(name(descriptor, key, "the head")));
    row.map(decode).transpose()
}

/// The record at an offset that the head says is kept.
pub fn record(
    store: &mut dyn StateStore,
    descriptor: &Descriptor,
    space: Space,
    key: &[u8],
    head: &Head,
    offset: Offset,
) -> Result<Record, StoreError> {
    if let Newest::Inline(record) = &head.newest
        && offset.0 + 1 == head.next.0
    {
        return Ok(record.clone());
    }
    let what = || name(descriptor, key, &format!("record {offset}"));
    let row = keys::record_history(space, descriptor.table, descriptor.partitioning.hash_of(key), key, offset);
    match store.get(&row)? {
        Some(row) => Record::decode(row).map_err(|e| e.corrupt(what())),
        None => Err(StoreError::Corrupt { what: what(), why: "the row is missing".into() }),
    }
}

/// The lowest offset at or above `head.first` whose record has a timestamp above `ts_us`; `head.next` where none has. Looks at
/// records one at a time, from the newest back in steps that double: at few of them where few are newer, as for most tails.
pub fn first_after(
    store: &mut dyn StateStore,
    descriptor: &Descriptor,
    space: Space,
    key: &[u8],
    head: &Head,
    ts_us: u64,
) -> Result<Offset, StoreError> {
    if head.newest_ts_us().is_none_or(|newest| newest <= ts_us) {
        return Ok(head.next);
    }
    let (mut low, mut high) = (head.first.0, head.next.0.saturating_sub(1));
    // Below `low` all are at or below `ts_us`; the record at `high` is above it.
    let mut step = 1;
    while low < high {
        let at = high.saturating_sub(step).max(low);
        if record(store, descriptor, space, key, head, Offset(at))?.ts_us <= ts_us {
            low = at + 1;
            break;
        }
        high = at;
        step *= 2;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if record(store, descriptor, space, key, head, Offset(middle))?.ts_us > ts_us {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Offset(low))
}

fn name(descriptor: &Descriptor, key: &[u8], what: &str) -> String {
    format!("{what} of key {:?} in shard {}", String::from_utf8_lossy(key), descriptor.shard)
}
