//! Scans of every record of each key.
//!
//! Owns: the walk through histories and its seeks. Must never: take a record whose timestamp is not wanted, or end a page
//! where the next one would not find its way.

use super::{Cursor, PAGE_ROWS_MAX, Page, Passed, STEP_OVER_MAX, Walk, decode_head, decode_record, row_name};
use crate::StoreError;
use crate::codec::keys::{self, Bounds, RecordRow};
use crate::codec::record::{Head, Newest, Record};
use crate::ids::Offset;
use crate::machine::{bounds, rows};
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;

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

/// Gathers a page from `bounds`; `inside` is the key whose history the bounds begin in.
pub(super) fn page(
    walk: &Walk,
    store: &mut dyn StateStore,
    (mut start, end): Bounds,
    inside: Option<(Bytes, Head)>,
    page: &mut Page,
) -> Result<Option<Cursor>, StoreError> {
    let (descriptor, space) = (walk.state.descriptor(), walk.state.space());
    let mut passed = Passed::default();
    let mut here = None;
    if let Some((key, head)) = inside {
        passed.begin(&keys::record_prefix(space, descriptor.table, bounds::row_hash(descriptor, &key), &key));
        here = Some(Here { wanted: walk.key_wanted(&key), key, head });
    }
    let mut visited = 0;
    loop {
        let mut stop = None;
        store.scan(&start, &end, false, &mut |row, value| {
            visited += 1;
            stop = step(walk, &mut here, &mut passed, page, row, value, visited).err();
            if stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match stop {
            None => return Ok(None),
            Some(Stop::Failed(error)) => return Err(error),
            Some(Stop::Full(cursor)) => return Ok(Some(cursor)),
            Some(Stop::Seek(row)) => start = row,
            Some(Stop::SeekTime) => {
                let Some(Here { key, head, .. }) = &here else { return Ok(None) };
                let offset = rows::first_after(store, descriptor, space, key, head, walk.scan.after_ts)?;
                let hash = bounds::row_hash(descriptor, key);
                start = keys::record_history(space, descriptor.table, hash, key, offset);
                passed.rows = 0;
            }
        }
    }
}

fn step(
    walk: &Walk,
    here: &mut Option<Here>,
    passed: &mut Passed,
    page: &mut Page,
    row: &[u8],
    value: &[u8],
    visited: usize,
) -> Result<(), Stop> {
    let Some(offset) = passed.history_of(row) else {
        return begin(walk, here, passed, page, row, value, visited);
    };
    let Some(here) = here else { return Ok(()) };
    if visited > PAGE_ROWS_MAX {
        return Err(full(walk, &here.key, Some(offset)));
    }
    let mut old = false;
    if here.wanted {
        let record = decode_record(walk.state, row, value).map_err(Stop::Failed)?;
        old = record.ts_us <= walk.scan.after_ts;
        if walk.ts_wanted(record.ts_us) {
            passed.rows = 0;
            return take(walk, here, page, offset, record, Some(offset));
        }
        // Timestamps rise with the offsets: past the upper bound nothing of this key is wanted.
        here.wanted = old;
    }
    passed.rows += 1;
    if passed.rows <= STEP_OVER_MAX {
        return Ok(());
    }
    Err(if old { Stop::SeekTime } else { Stop::Seek(keys::after_prefix(passed.prefix.clone())) })
}

/// Takes a key's head.
fn begin(
    walk: &Walk,
    here: &mut Option<Here>,
    passed: &mut Passed,
    page: &mut Page,
    row: &[u8],
    value: &[u8],
    visited: usize,
) -> Result<(), Stop> {
    let parsed = keys::parse_record(row, walk.hashed);
    let parsed = parsed.map_err(|e| Stop::Failed(e.corrupt(row_name(walk.state))))?;
    let RecordRow::Head = parsed.row else {
        let why = "a history row without a head".into();
        return Err(Stop::Failed(StoreError::Corrupt { what: row_name(walk.state), why }));
    };
    if visited > PAGE_ROWS_MAX {
        return Err(full(walk, &parsed.key, None));
    }
    passed.begin(&row[..row.len() - 1]);
    let head = decode_head(walk.state, value).map_err(Stop::Failed)?;
    if walk.lacks(&parsed.key, &head) {
        page.trimmed = Some(head.first);
        return Err(full(walk, &parsed.key, None));
    }
    let wanted = walk.key_wanted(&parsed.key) && head.newest_ts_us().is_some_and(|ts| ts > walk.scan.after_ts);
    let found = here.insert(Here { key: parsed.key, head, wanted });
    match &found.head.newest {
        Newest::Inline(record) if wanted && walk.ts_wanted(record.ts_us) => {
            let (record, offset) = (record.clone(), Offset(found.head.next.0.saturating_sub(1)));
            take(walk, found, page, offset, record, None)
        }
        _ => Ok(()),
    }
}

/// Adds a record, or ends the page where it has no room; `resume` is the cursor's offset then.
fn take(
    walk: &Walk,
    here: &Here,
    page: &mut Page,
    offset: Offset,
    record: Record,
    resume: Option<Offset>,
) -> Result<(), Stop> {
    if record.tombstone && !walk.scan.tombstones {
        return Ok(());
    }
    if page.full() {
        return Err(full(walk, &here.key, resume));
    }
    walk.push(page, &here.key, offset, record);
    Ok(())
}

fn full(walk: &Walk, key: &[u8], offset: Option<Offset>) -> Stop {
    Stop::Full(Cursor { position: walk.position(key), offset })
}
