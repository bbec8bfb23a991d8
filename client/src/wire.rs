//! Conversions between the public types and the wire.
//!
//! Owns: nothing; plain functions. Must never: check or decide anything.

use bytes::Bytes;
use synod_proto::v1;

use crate::types::{
    At, Consistency, Expect, GetOptions, Header, NewRecord, OpKind, Partitioning, Record, Retention, TableSpec,
    WriteName, WriteOp,
};

pub(crate) fn record(r: v1::Record) -> Record {
    let headers = r.headers.into_iter().map(|h| Header { name: h.name, value: h.value }).collect();
    Record { key: r.key, offset: r.offset, ts_us: r.ts_us, headers, value: r.value, tombstone: r.tombstone }
}

pub(crate) fn write_id(name: &WriteName) -> v1::WriteId {
    let client = Bytes::copy_from_slice(&name.client.to_be_bytes());
    v1::WriteId { client, seq: name.seq, floor: name.floor, deadline_us: name.deadline_us }
}

pub(crate) fn op(op: WriteOp) -> v1::WriteOp {
    let kind = match op.kind {
        OpKind::Append(records) => {
            v1::write_op::Op::Append(v1::Append { records: records.into_iter().map(new_record).collect() })
        }
        OpKind::Delete => v1::write_op::Op::Delete(v1::Delete {}),
        OpKind::Trim { before } => v1::write_op::Op::Trim(v1::Trim { before }),
    };
    v1::WriteOp { key: op.key, expect: expect(op.expect), op: Some(kind) }
}

fn new_record(r: NewRecord) -> v1::AppendRecord {
    let headers = r.headers.into_iter().map(|h| v1::Header { name: h.name, value: h.value }).collect();
    v1::AppendRecord { headers, value: r.value }
}

fn expect(expect: Expect) -> Option<v1::Expect> {
    let kind = match expect {
        Expect::Any => return None,
        Expect::Absent => v1::expect::Kind::Absent(true),
        Expect::Exists => v1::expect::Kind::Exists(true),
        Expect::NextOffset(next) => v1::expect::Kind::NextOffset(next),
    };
    Some(v1::Expect { kind: Some(kind) })
}

pub(crate) fn consistency(c: Consistency) -> i32 {
    match c {
        Consistency::Linearizable => v1::Consistency::Linearizable.into(),
        Consistency::Stale(_) => v1::Consistency::Stale.into(),
        Consistency::Local => v1::Consistency::Local.into(),
    }
}

/// The age allowed, never more than was asked for.
pub(crate) fn max_age_ms(c: Consistency) -> u32 {
    match c {
        Consistency::Stale(age) => u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
        Consistency::Linearizable | Consistency::Local => 0,
    }
}

pub(crate) fn get(table_id: u32, key: Bytes, options: &GetOptions) -> v1::Get {
    let at = options.at.map(|at| match at {
        At::Offset(offset) => v1::at::Kind::Offset(offset),
        At::TsUs(ts_us) => v1::at::Kind::TsUs(ts_us),
    });
    let at = at.map(|kind| v1::At { kind: Some(kind) });
    let max_age_ms = max_age_ms(options.consistency);
    v1::Get { table_id, key, at, consistency: consistency(options.consistency), max_age_ms }
}

pub(crate) fn create_table(spec: TableSpec) -> v1::CreateTableRequest {
    let (partitioning, shards, split_at) = match spec.partitioning {
        Partitioning::Hash { shards } => (v1::Partitioning::Hash, shards, Vec::new()),
        Partitioning::Range { split_at } => (v1::Partitioning::Range, split_at.len() as u32 + 1, split_at),
    };
    let kind = match spec.retention {
        Retention::Latest => v1::retention::Kind::Latest(true),
        Retention::All => v1::retention::Kind::All(true),
    };
    v1::CreateTableRequest {
        name: spec.name,
        partitioning: partitioning.into(),
        shards,
        split_at,
        retention: Some(v1::Retention { kind: Some(kind) }),
        replicas: spec.replicas,
        id: None,
    }
}
