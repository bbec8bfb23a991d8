//! Tails: what was committed after a timestamp, from the ring of newest records.
//!
//! Owns: which records a poll gets and how far it has come with them. Must never: split a timestamp over two pages, or
//! answer for a time that the ring does not reach back to.

use super::{PAGE_BYTES_MAX, PAGE_RECORDS_MAX};
use crate::host::{Answer, KeyedRecord, TailPoll};
use crate::machine::{ShardState, bounds, rows};

/// The answer to a poll, or `None` where nothing that it asks for has been committed yet.
#[must_use]
pub fn tail(state: &ShardState, poll: &TailPoll) -> Option<Answer> {
    let ring = state.ring();
    let stale = poll.segments.iter().position(|(_, _, after_ts)| *after_ts < ring.floor_ts());
    if let Some(segment) = stale {
        return Some(Answer::TailScan { segment, upto_ts: state.last_ts() });
    }
    let limit = if poll.limit == 0 { PAGE_RECORDS_MAX } else { poll.limit.min(PAGE_RECORDS_MAX) };
    let mut records: Vec<KeyedRecord> = Vec::new();
    let mut bytes = 0;
    let mut given_ts = 0;
    let after = poll.segments.iter().map(|(_, _, after_ts)| *after_ts).min()?;
    for record in ring.after(after) {
        let ts = record.record.ts_us;
        if (records.len() >= limit || bytes >= PAGE_BYTES_MAX) && ts != given_ts {
            return Some(Answer::Tail { records, upto_ts: given_ts, more: true });
        }
        if wants(state, poll, record) {
            given_ts = ts;
            bytes += record.key.len() + usize::try_from(rows::record_size(&record.record)).unwrap_or(usize::MAX);
            records.push(record.clone());
        }
    }
    if records.is_empty() {
        return None;
    }
    Some(Answer::Tail { records, upto_ts: state.last_ts(), more: false })
}

/// What a poll is told whose time is up.
pub(super) fn nothing(state: &ShardState) -> Answer {
    Answer::Tail { records: Vec::new(), upto_ts: state.last_ts(), more: false }
}

fn wants(state: &ShardState, poll: &TailPoll, record: &KeyedRecord) -> bool {
    if !bounds::within(&record.key, &poll.from, &poll.to) {
        return false;
    }
    let newer = |after_ts: u64| record.record.ts_us > after_ts;
    // The whole shard in one segment is the usual case: no position to compute.
    if let [(from, to, after_ts)] = &poll.segments[..]
        && from.is_empty()
        && to.is_empty()
    {
        return newer(*after_ts);
    }
    let position = bounds::position(state.descriptor(), &record.key);
    poll.segments.iter().any(|(from, to, after_ts)| newer(*after_ts) && bounds::within(&position, from, to))
}
