//! From the wire to the engine and back.
//!
//! Owns: the checks of sizes and shapes of requests, and the words of every error. Must never: let a request through that
//! the engine would choke on.

use crate::config::Limits;
use bytes::Bytes;
use synod_cluster::ids::{ClientId, ClientSeq, Offset, TableId};
use synod_cluster::position::KEY_BYTES_MAX;
use synod_cluster::refusal::Refusal;
use synod_engine::codec::record::Record;
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, OpResult, Outcome, WriteId, WriteRequest};
use synod_engine::host::{Answer, At, Body, Freshness, KeyedRecord, Read, Scan, TailPoll};
pub use synod_proto::errors::{error, invalid, overloaded, refusal_error};
use synod_proto::v1;
use v1::error::Kind;

/// Longest wait of a tail poll, milliseconds.
const TAIL_WAIT_MS_MAX: u32 = 30_000;
/// Most segments of a tail poll.
const TAIL_SEGMENTS_MAX: usize = 1024;

fn too_large(what: &str, size: usize, limit: u64, knob: &str) -> v1::Error {
    let message = format!("{what} has {size} bytes, the limit is {limit} ({knob})");
    error(Kind::TooLarge(v1::TooLarge { what: what.into(), limit, knob: knob.into() }), false, message)
}

/// The engine's request of a wire request.
pub fn body(body: v1::shard_request::Body, limits: &Limits) -> Result<Body, v1::Error> {
    use v1::shard_request::Body as Wire;
    match body {
        Wire::Write(write) => Ok(Body::Write(write_request(write, limits)?)),
        Wire::Get(get) => {
            check_key(&get.key)?;
            let at = match get.at.and_then(|a| a.kind) {
                None => At::Newest,
                Some(v1::at::Kind::Offset(offset)) => At::Offset(Offset(offset)),
                Some(v1::at::Kind::TsUs(ts)) => At::Time(ts),
            };
            read(Read::Get { key: get.key, at }, get.consistency, get.max_age_ms)
        }
        Wire::Read(page) => {
            check_key(&page.key)?;
            let limit = page.limit as usize;
            let read_page = Read::Range { key: page.key, from: Offset(page.from), limit };
            read(read_page, page.consistency, page.max_age_ms)
        }
        Wire::Scan(scan) => {
            let (consistency, max_age_ms) = (scan.consistency, scan.max_age_ms);
            read(Read::Scan(scan_page(scan)?), consistency, max_age_ms)
        }
        Wire::Tail(tail) => {
            if tail.segments.is_empty() || tail.segments.len() > TAIL_SEGMENTS_MAX {
                return Err(invalid("segments", format!("a tail has 1 to {TAIL_SEGMENTS_MAX} segments")));
            }
            let segments = tail.segments.into_iter().map(|s| (s.pos_from, s.pos_to, s.after_ts_us)).collect();
            // A poll that does not wait asks for all there is: what was acknowledged before it must be in it.
            let freshness = if tail.wait_ms == 0 { Freshness::Linearizable } else { Freshness::Local };
            let wait_us = u64::from(tail.wait_ms.min(TAIL_WAIT_MS_MAX)) * 1000;
            let (limit, tells_trimmed) = (tail.limit as usize, tail.tell_trimmed);
            let poll = TailPoll { from: tail.from, to: tail.to, segments, limit, wait_us, tells_trimmed };
            Ok(Body::Read { read: Read::Tail(poll), freshness })
        }
        Wire::Clock(_) => Err(invalid("clock", "is not asked of a shard")),
    }
}

fn read(read: Read, consistency: i32, max_age_ms: u32) -> Result<Body, v1::Error> {
    let unknown = || invalid("consistency", format!("{consistency} is none of 0 (linearizable), 1 (local), 2 (stale)"));
    let freshness = match v1::Consistency::try_from(consistency).map_err(|_| unknown())? {
        v1::Consistency::Linearizable => Freshness::Linearizable,
        v1::Consistency::Local => Freshness::Local,
        v1::Consistency::Stale => Freshness::Stale(u64::from(max_age_ms) * 1000),
    };
    Ok(Body::Read { read, freshness })
}

fn scan_page(scan: v1::Scan) -> Result<Scan, v1::Error> {
    if scan.history && scan.reverse {
        return Err(invalid("reverse", "a scan of every record goes forward only"));
    }
    Ok(Scan {
        from: scan.from,
        to: scan.to,
        pos_from: scan.pos_from,
        pos_to: scan.pos_to,
        cursor: scan.cursor,
        limit: scan.limit as usize,
        reverse: scan.reverse,
        keys_only: scan.keys_only,
        tombstones: scan.include_tombstones,
        history: scan.history,
        after_ts: scan.after_ts_us,
        upto_ts: scan.upto_ts_us,
        tells_trimmed: scan.tell_trimmed,
    })
}

fn check_key(key: &Bytes) -> Result<(), v1::Error> {
    if key.is_empty() {
        return Err(invalid("key", format!("is empty; a key has 1 to {KEY_BYTES_MAX} bytes")));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(too_large("the key", key.len(), KEY_BYTES_MAX as u64, "fixed"));
    }
    Ok(())
}

/// The engine's name of a write or of a change.
pub fn write_id(id: &v1::WriteId) -> Result<WriteId, v1::Error> {
    let client = <[u8; 16]>::try_from(&id.client[..]).map_err(|_| invalid("id.client", "has 16 bytes"))?;
    Ok(WriteId {
        client: ClientId(u128::from_be_bytes(client)),
        seq: ClientSeq(id.seq),
        floor: ClientSeq(id.floor),
        deadline_us: id.deadline_us,
    })
}

fn write_request(write: v1::Write, limits: &Limits) -> Result<WriteRequest, v1::Error> {
    let id = write_id(&write.id.ok_or_else(|| invalid("id", "a write needs an id"))?)?;
    if write.ops.is_empty() {
        return Err(invalid("ops", "a write has at least one operation"));
    }
    let ops = write.ops.into_iter().map(|op| key_op(op, limits)).collect::<Result<Vec<_>, _>>()?;
    let records: usize = ops.iter().map(|op| if let Action::Append(r) = &op.action { r.len() } else { 1 }).sum();
    if records > limits.batch_records_max as usize {
        let most = limits.batch_records_max;
        let message = format!("the batch has {records} records, the limit is {most} (limits.batch_records_max)");
        let kind = v1::TooLarge { what: "records".into(), limit: most.into(), knob: "limits.batch_records_max".into() };
        return Err(error(Kind::TooLarge(kind), false, message));
    }
    let request = WriteRequest { id, op: Op::Write { table: TableId(write.table_id), ops } };
    let most = limits.batch_bytes_max.as_u64();
    if request.size() as u64 > most {
        return Err(too_large("the batch", request.size(), most, "limits.batch_bytes_max"));
    }
    Ok(request)
}

fn key_op(op: v1::WriteOp, limits: &Limits) -> Result<KeyOp, v1::Error> {
    check_key(&op.key)?;
    let expect = match op.expect.and_then(|e| e.kind) {
        None => Expect::Any,
        Some(v1::expect::Kind::Absent(_)) => Expect::Absent,
        Some(v1::expect::Kind::Exists(_)) => Expect::Exists,
        Some(v1::expect::Kind::NextOffset(n)) => Expect::Next(Offset(n)),
    };
    let action = match op.op.ok_or_else(|| invalid("op", "is missing"))? {
        v1::write_op::Op::Delete(_) => Action::Delete,
        v1::write_op::Op::Trim(trim) => Action::Trim(Offset(trim.before)),
        v1::write_op::Op::Append(append) => {
            if append.records.is_empty() {
                return Err(invalid("records", "an append has at least one record"));
            }
            let most = limits.value_bytes_max.as_u64();
            let mut records = Vec::with_capacity(append.records.len());
            for record in append.records {
                let headers = record.headers.into_iter().map(|h| (h.name, h.value)).collect();
                let record = NewRecord { headers, value: record.value };
                if record.size() as u64 > most {
                    return Err(too_large("the value with its headers", record.size(), most, "limits.value_bytes_max"));
                }
                records.push(record);
            }
            Action::Append(records)
        }
    };
    Ok(KeyOp { key: op.key, expect, action })
}

fn wire_record(record: KeyedRecord) -> v1::Record {
    let KeyedRecord { key, offset, record: Record { ts_us, headers, value, tombstone } } = record;
    let headers = headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
    v1::Record { key, offset: offset.0, ts_us, headers, value, tombstone }
}

/// The wire's reply of an answer.
#[must_use]
pub fn reply(answer: Result<Answer, Refusal>) -> v1::shard_reply::Body {
    use v1::shard_reply::Body as Wire;
    match answer {
        Ok(Answer::Outcome(outcome)) => Wire::Write(write_result(outcome)),
        Ok(Answer::Record { record, first, next }) => {
            Wire::Get(v1::GetResult { record: record.map(wire_record), next_offset: next.0, first_offset: first.0 })
        }
        Ok(Answer::Page { records, cursor, first, next }) => Wire::Page(v1::RecordPage {
            records: records.into_iter().map(wire_record).collect(),
            cursor,
            first_offset: first.0,
            next_offset: next.0,
        }),
        Ok(Answer::Tail { records, upto_ts, more }) => Wire::Tail(v1::TailResult {
            records: records.into_iter().map(wire_record).collect(),
            upto_ts_us: upto_ts,
            more,
            scan: None,
        }),
        Ok(Answer::TailScan { segment, upto_ts }) => Wire::Tail(v1::TailResult {
            records: Vec::new(),
            upto_ts_us: 0,
            more: true,
            scan: Some(v1::TailScan { segment: u32::try_from(segment).unwrap_or(u32::MAX), upto_ts_us: upto_ts }),
        }),
        Err(refusal) => Wire::Error(refusal_error(&refusal)),
    }
}

fn write_result(outcome: Outcome) -> v1::WriteResult {
    match outcome {
        Outcome::Written(results) => {
            let one = |r: OpResult| v1::OpResult { offset: r.offset.0, ts_us: r.ts_us };
            v1::WriteResult { results: results.into_iter().map(one).collect(), failed: None }
        }
        Outcome::ExpectationFailed { op_index, actual } => {
            v1::WriteResult { results: Vec::new(), failed: Some(v1::ExpectationFailed { op_index, actual: actual.0 }) }
        }
        Outcome::System(_) => v1::WriteResult::default(),
    }
}
