//! Tails: what was committed after a timestamp, from the ring of newest records.
//!
//! Owns: which records a poll gets and how far it has come with them. Must never: split a timestamp over two pages, answer for
//! a time that the ring does not reach back to, or give a record that its key no longer has.

use super::{PAGE_BYTES_MAX, PAGE_RECORDS_MAX, Replied};
use crate::StoreError;
use crate::codec::keys;
use crate::host::{Answer, KeyedRecord, TailPoll};
use crate::machine::{ShardState, rows};
use crate::state::{Lacked, StateStore};
use bytes::Bytes;
use hashbrown::HashMap;
use synod_cluster::ids::Offset;
use synod_cluster::position;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Retention;

/// Rows that are named as lacked at once.
const LACKED_MAX: usize = 64;

/// The first offsets of keys, looked up once for the polls that are answered from one state.
#[derive(Default)]
pub struct Firsts {
    /// `None` where the row of the key is not in memory.
    known: HashMap<Bytes, Option<Offset>>,
    lacked: Vec<Lacked>,
}

/// Whether a key still has a record of the ring.
enum Kept {
    Yes,
    /// Its first offset is above the record's.
    No(Offset),
    /// The row that tells is not in memory.
    Unknown(Lacked),
}

impl Firsts {
    /// Rows that were not in memory: a bounded number of all that polls asked for.
    pub fn take_lacked(&mut self) -> Vec<Lacked> {
        std::mem::take(&mut self.lacked)
    }

    /// Whether the key of `record` still has it.
    fn keeps(
        &mut self,
        state: &ShardState,
        store: &mut dyn StateStore,
        record: &KeyedRecord,
    ) -> Result<Kept, StoreError> {
        let descriptor = state.descriptor();
        if descriptor.retention == Retention::All && record.record.ts_us > state.ring().dropped_ts() {
            // Nothing was dropped since it was written.
            return Ok(Kept::Yes);
        }
        let hash = || descriptor.partitioning.hash_of(&record.key);
        let first = match self.known.get(&record.key) {
            Some(Some(first)) => *first,
            Some(None) => {
                let row = keys::record_head(state.space_of(&record.key), descriptor.table, hash(), &record.key);
                return Ok(Kept::Unknown(Lacked::row(&row)));
            }
            None => match rows::head(store, descriptor, state.space_of(&record.key), hash(), &record.key) {
                Ok(head) => {
                    let first = head.unwrap_or_default().first;
                    self.known.insert(record.key.clone(), Some(first));
                    first
                }
                Err(StoreError::Cold(row)) => {
                    self.known.insert(record.key.clone(), None);
                    if self.lacked.len() < LACKED_MAX {
                        self.lacked.push(row.clone());
                    }
                    return Ok(Kept::Unknown(row));
                }
                Err(error) => return Err(error),
            },
        };
        Ok(if record.offset < first { Kept::No(first) } else { Kept::Yes })
    }
}

/// The answer to a poll, or `None` where nothing that it asks for has been committed yet.
///
/// # Errors
/// The store failed or is damaged. Where it stays in memory: rows are not there, which `firsts` names.
pub fn tail(
    state: &ShardState,
    store: &mut dyn StateStore,
    firsts: &mut Firsts,
    poll: &TailPoll,
) -> Result<Option<Replied>, StoreError> {
    let ring = state.ring();
    let stale = poll.segments.iter().position(|(_, _, after_ts)| *after_ts < ring.floor_ts());
    if let Some(segment) = stale {
        return Ok(Some(Ok(Answer::TailScan { segment, upto_ts: state.last_ts() })));
    }
    let limit = if poll.limit == 0 { PAGE_RECORDS_MAX } else { poll.limit.min(PAGE_RECORDS_MAX) };
    let mut records: Vec<KeyedRecord> = Vec::new();
    let mut bytes = 0;
    let mut given_ts = 0;
    // Of those that follow all are named, as far as a page goes.
    let mut unknown = None;
    let Some(after) = poll.segments.iter().map(|(_, _, after_ts)| *after_ts).min() else { return Ok(None) };
    for record in ring.after(after) {
        let ts = record.record.ts_us;
        if (records.len() >= limit || bytes >= PAGE_BYTES_MAX) && ts != given_ts {
            if unknown.is_some() {
                break;
            }
            return Ok(Some(Ok(Answer::Tail { records, upto_ts: given_ts, more: true })));
        }
        let Some(after_ts) = wants(state, poll, record) else { continue };
        match firsts.keeps(state, store, record)? {
            Kept::Yes => {}
            Kept::No(first) => {
                // A tail that begins at the earliest begins at what is left.
                if poll.tells_trimmed && after_ts > 0 && state.descriptor().retention == Retention::All {
                    return Ok(Some(Err(Refusal::Trimmed { key: record.key.clone(), first })));
                }
                continue;
            }
            Kept::Unknown(row) => unknown = Some(row),
        }
        given_ts = ts;
        bytes += record.key.len() + usize::try_from(rows::record_size(&record.record)).unwrap_or(usize::MAX);
        records.push(record.clone());
    }
    if let Some(row) = unknown {
        return Err(StoreError::Cold(row));
    }
    if records.is_empty() {
        return Ok(None);
    }
    Ok(Some(Ok(Answer::Tail { records, upto_ts: state.last_ts(), more: false })))
}

/// What a poll is told whose time is up.
pub(crate) fn nothing(state: &ShardState) -> Answer {
    Answer::Tail { records: Vec::new(), upto_ts: state.last_ts(), more: false }
}

/// The timestamp after which the poll wants the record, where it wants it.
fn wants(state: &ShardState, poll: &TailPoll, record: &KeyedRecord) -> Option<u64> {
    if !position::within(&record.key, &poll.from, &poll.to) {
        return None;
    }
    let newer = |after_ts: u64| record.record.ts_us > after_ts;
    // The whole shard in one segment is the usual case: no position to compute.
    if let [(from, to, after_ts)] = &poll.segments[..]
        && from.is_empty()
        && to.is_empty()
    {
        return newer(*after_ts).then_some(*after_ts);
    }
    let position = state.descriptor().partitioning.position(&record.key);
    let wanted =
        poll.segments.iter().filter(|(from, to, after)| newer(*after) && position::within(&position, from, to));
    wanted.map(|(_, _, after_ts)| *after_ts).max()
}
