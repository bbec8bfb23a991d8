//! Commands of the shards' state machine, and their outcomes.
//!
//! Owns: what an entry's data says, in bytes. One entry carries many requests: what queued while the last write was being
//! synced. An administrative entry changes the shard itself, and carries nothing else. Must never: panic on any input, or change
//! the meaning of a version once released.

mod admin;

pub use admin::{
    Absorb, Admin, BeginMerge, Cancel, EndMerge, Freeze, Split, Unfreeze, decode_admin, encode_admin, is_admin,
};

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::ids::{ClientId, ClientSeq, Offset, TableId};

const VERSION: u8 = 1;
/// Of an entry's data whose requests write rows with totals.
const VERSION_TOTALS: u8 = 2;

/// Which rows an entry's requests write. The entry says so: every replica that applies it writes the same. A key whose rows
/// have totals keeps them whatever a later entry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowFormat {
    /// Without totals: a trim adds up what it drops or what it leaves.
    #[default]
    Plain,
    /// With running totals, from [`ClusterVersion::SECOND`](synod_cluster::ids::ClusterVersion::SECOND) on.
    Totals,
}

/// Names a write for ever, and bounds the time in which it may execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId {
    /// The client's random name.
    pub client: ClientId,
    /// The client's number of the write.
    pub seq: ClientSeq,
    /// Outcomes below this are no longer needed.
    pub floor: ClientSeq,
    /// Cluster time after which it is not executed, µs.
    pub deadline_us: u64,
}

/// A write and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// Its name.
    pub id: WriteId,
    /// What it does.
    pub op: Op,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Operations on keys of one shard, atomic.
    Write {
        /// The table, checked at apply.
        table: TableId,
        /// The operations, in order; a later one sees what an earlier one did.
        ops: Vec<KeyOp>,
    },
    /// A [`synod_cluster::system::SystemCommand`], encoded; system shard only.
    System(Bytes),
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOp {
    /// The key.
    pub key: Bytes,
    /// What must hold before.
    pub expect: Expect,
    /// What is done.
    pub action: Action,
}

/// What must hold of a key before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// No newest record, or a tombstone.
    Absent,
    /// A newest record that is no tombstone.
    Exists,
    /// The next offset is exactly this.
    Next(Offset),
}

/// What is done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Records are appended, atomically, under one timestamp.
    Append(Vec<NewRecord>),
    /// A tombstone is appended.
    Delete,
    /// Records below this offset are dropped.
    Trim(Offset),
}

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Names and values, in order.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The value.
    pub value: Bytes,
}

/// What became of an executed write. Stored with the session: a retry gets the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One result an operation.
    Written(Vec<OpResult>),
    /// Nothing was written.
    ExpectationFailed {
        /// The first operation whose expectation did not hold.
        op_index: u32,
        /// Its key's next offset.
        actual: Offset,
    },
    /// Of a system command, encoded.
    System(Bytes),
}

/// The result of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpResult {
    /// Offset of the first record appended; of a trim, the first offset kept.
    pub offset: Offset,
    /// Timestamp of the write, µs.
    pub ts_us: u64,
}

/// The data of one entry: `version u8 | count var | request…`, integers as varints but the client id (16 bytes).
#[must_use]
pub fn encode_requests<'a>(requests: impl ExactSizeIterator<Item = &'a WriteRequest>, size_hint: usize) -> Bytes {
    encode_entry(RowFormat::Plain, requests, size_hint)
}

/// The data of one entry that says which rows it writes: the version is 2 for rows with totals.
#[must_use]
pub fn encode_entry<'a>(
    format: RowFormat,
    requests: impl ExactSizeIterator<Item = &'a WriteRequest>,
    size_hint: usize,
) -> Bytes {
    let mut w = Writer::with_capacity(size_hint + 16);
    w.u8(match format {
        RowFormat::Plain => VERSION,
        RowFormat::Totals => VERSION_TOTALS,
    });
    w.var(requests.len() as u64);
    for request in requests {
        put_request(&mut w, request);
    }
    w.into_bytes()
}

/// The data of an entry without requests: it changes nothing, and marks a slot at which replicas are compared.
#[must_use]
pub fn marker() -> Bytes {
    Bytes::from_static(&[VERSION, 0])
}

/// Whether an entry's data is a [`marker`].
#[must_use]
pub fn is_marker(data: &[u8]) -> bool {
    *data == [VERSION, 0]
}

/// Reads an entry's requests back. Keys and values share the memory of `data`.
///
/// # Errors
/// The bytes are no requests of a known version.
pub fn decode_requests(data: Bytes) -> Result<Vec<WriteRequest>, DecodeError> {
    decode_entry(data).map(|(_, requests)| requests)
}

/// Reads an entry's requests back, and which rows they write. Keys and values share the memory of `data`.
///
/// # Errors
/// The bytes are no requests of a known version.
pub fn decode_entry(data: Bytes) -> Result<(RowFormat, Vec<WriteRequest>), DecodeError> {
    let mut r = Reader::new(data);
    let format = match r.u8()? {
        VERSION => RowFormat::Plain,
        VERSION_TOTALS => RowFormat::Totals,
        _ => return Err(r.error("entry data version")),
    };
    let requests = (0..r.count(20)?).map(|_| get_request(&mut r)).collect::<Result<_, _>>()?;
    r.finish()?;
    Ok((format, requests))
}

fn put_request(w: &mut Writer, request: &WriteRequest) {
    w.u128(request.id.client.0);
    w.var(request.id.seq.0);
    w.var(request.id.floor.0);
    w.var(request.id.deadline_us);
    match &request.op {
        Op::Write { table, ops } => {
            w.u8(1);
            w.var(table.0.into());
            w.var(ops.len() as u64);
            for op in ops {
                put_op(w, op);
            }
        }
        Op::System(command) => {
            w.u8(2);
            w.bytes(command);
        }
    }
}

fn get_request(r: &mut Reader) -> Result<WriteRequest, DecodeError> {
    let id = WriteId {
        client: ClientId(r.u128()?),
        seq: ClientSeq(r.var()?),
        floor: ClientSeq(r.var()?),
        deadline_us: r.var()?,
    };
    let op = match r.u8()? {
        1 => {
            let table = u32::try_from(r.var()?).map_err(|_| r.error("table id"))?;
            let ops = (0..r.count(3)?).map(|_| get_op(r)).collect::<Result<_, _>>()?;
            Op::Write { table: TableId(table), ops }
        }
        2 => Op::System(r.bytes()?),
        _ => return Err(r.error("request kind")),
    };
    Ok(WriteRequest { id, op })
}

fn put_op(w: &mut Writer, op: &KeyOp) {
    w.bytes(&op.key);
    match op.expect {
        Expect::Any => w.u8(0),
        Expect::Absent => w.u8(1),
        Expect::Exists => w.u8(2),
        Expect::Next(offset) => {
            w.u8(3);
            w.var(offset.0);
        }
    }
    match &op.action {
        Action::Append(records) => {
            w.u8(1);
            w.var(records.len() as u64);
            for record in records {
                w.var(record.headers.len() as u64);
                for (name, value) in &record.headers {
                    w.bytes(name);
                    w.bytes(value);
                }
                w.bytes(&record.value);
            }
        }
        Action::Delete => w.u8(2),
        Action::Trim(before) => {
            w.u8(3);
            w.var(before.0);
        }
    }
}

fn get_op(r: &mut Reader) -> Result<KeyOp, DecodeError> {
    let key = r.bytes()?;
    let expect = match r.u8()? {
        0 => Expect::Any,
        1 => Expect::Absent,
        2 => Expect::Exists,
        3 => Expect::Next(Offset(r.var()?)),
        _ => return Err(r.error("expectation")),
    };
    let action = match r.u8()? {
        1 => Action::Append((0..r.count(2)?).map(|_| get_record(r)).collect::<Result<_, _>>()?),
        2 => Action::Delete,
        3 => Action::Trim(Offset(r.var()?)),
        _ => return Err(r.error("operation kind")),
    };
    Ok(KeyOp { key, expect, action })
}

fn get_record(r: &mut Reader) -> Result<NewRecord, DecodeError> {
    let headers = (0..r.count(2)?).map(|_| Ok((r.bytes()?, r.bytes()?))).collect::<Result<_, DecodeError>>()?;
    Ok(NewRecord { headers, value: r.bytes()? })
}

impl NewRecord {
    /// What it counts for in a key's `bytes`: value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.value.len() + self.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
    }
}

impl WriteRequest {
    /// Upper estimate of its encoded size, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let op = match &self.op {
            Op::System(command) => command.len(),
            Op::Write { ops, .. } => ops.iter().map(KeyOp::size).sum(),
        };
        64 + op
    }
}

impl KeyOp {
    /// Its part of [`WriteRequest::size`], bytes.
    pub(crate) fn size(&self) -> usize {
        let action = match &self.action {
            Action::Append(records) => records.iter().map(|r| r.size() + 8 + 8 * r.headers.len()).sum(),
            Action::Delete | Action::Trim(_) => 10,
        };
        self.key.len() + 24 + action
    }
}

impl Outcome {
    /// The outcome as stored in a session row: `version u8 | kind u8 | …`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(32);
        w.u8(VERSION);
        match self {
            Self::Written(results) => {
                w.u8(1);
                w.var(results.len() as u64);
                for result in results {
                    w.var(result.offset.0);
                    w.var(result.ts_us);
                }
            }
            Self::ExpectationFailed { op_index, actual } => {
                w.u8(2);
                w.u32(*op_index);
                w.var(actual.0);
            }
            Self::System(outcome) => {
                w.u8(3);
                w.bytes(outcome);
            }
        }
        w.into_bytes()
    }

    /// Reads an outcome back.
    ///
    /// # Errors
    /// The bytes are no outcome of a known version.
    pub fn decode(data: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(data);
        if r.u8()? != VERSION {
            return Err(r.error("outcome version"));
        }
        let outcome = match r.u8()? {
            1 => {
                let one = |r: &mut Reader| Ok(OpResult { offset: Offset(r.var()?), ts_us: r.var()? });
                Self::Written((0..r.count(2)?).map(|_| one(&mut r)).collect::<Result<_, DecodeError>>()?)
            }
            2 => Self::ExpectationFailed { op_index: r.u32()?, actual: Offset(r.var()?) },
            3 => Self::System(r.bytes()?),
            _ => return Err(r.error("outcome kind")),
        };
        r.finish()?;
        Ok(outcome)
    }
}
