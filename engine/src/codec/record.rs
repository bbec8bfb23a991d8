//! The rows of a key: its head, and its history records.
//!
//! Owns: versions 1 and 2 of both. Must never: return a record whose checksum does not match, or know what a retention is.
//!
//! A head is `version u8 | flags u8 | next | first | bytes | totals | newest | crc u32`; a history record is `version u8 |
//! flags u8 | before | record | crc u32`; a record is `ts | header count | (name | value)… | value`. Integers are varints,
//! names and values are lengths and bytes. Flag bit 0: the (newest) record is a tombstone. Bits 1–2, heads only: 0 no record
//! is left (`newest` empty), 1 the newest record stands here, 2 it is the history record at offset `next` − 1 (`newest`
//! is its timestamp).
//!
//! Version 1 has no `totals` and no `before`. In version 2 `totals` is `since | total | gone ts`: the records from offset
//! `since` on have `total` bytes together, and `before` in each of their rows is how many of these bytes precede it. So one
//! row tells how much a trim drops. Sums wrap around.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::ids::{ClusterVersion, Offset};

/// The version of a head without totals.
const HEAD_PLAIN: u8 = 1;
/// The version of a head with totals.
const HEAD_TOTALS: u8 = 2;

/// The version of a history record without `before`.
const HISTORY_PLAIN: u8 = 1;
/// The version of a history record with `before`.
const HISTORY_TOTALS: u8 = 2;

/// The longest start of a row, up to a record's headers, bytes.
const START_BYTES: usize = 128;

/// The most that [`needs`] says of a record that this binary knows.
pub const NEEDS_MOST: ClusterVersion = ClusterVersion::SECOND;

/// The cluster version that a node must speak to read a head or a history record.
#[must_use]
pub fn needs(row: &[u8]) -> ClusterVersion {
    const { assert!(HEAD_PLAIN == HISTORY_PLAIN && HEAD_TOTALS == HISTORY_TOTALS) };
    match row.first() {
        None | Some(&HEAD_PLAIN) => ClusterVersion::FIRST,
        Some(&HEAD_TOTALS) => NEEDS_MOST,
        Some(_) => ClusterVersion::SPOKEN,
    }
}

const TOMBSTONE: u8 = 1;
const NEWEST_INLINE: u8 = 1 << 1;
const NEWEST_IN_HISTORY: u8 = 2 << 1;

/// One record of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Timestamp of the append that wrote it, microseconds.
    pub ts_us: u64,
    /// Names and values, in the order given.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The value; empty for a tombstone.
    pub value: Bytes,
    /// Whether it deletes the key.
    pub tombstone: bool,
}

/// Where a key's newest record is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Newest {
    /// Nowhere: every record was dropped.
    #[default]
    None,
    /// In the head itself.
    Inline(Record),
    /// In the history, at offset `next` − 1.
    InHistory {
        /// Its timestamp, microseconds.
        ts_us: u64,
        /// Whether it deletes the key.
        tombstone: bool,
    },
}

/// What a key's records come to, from an offset on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The first offset counted; rows below it say nothing of totals.
    pub since: Offset,
    /// Size of all records ever appended from `since` on, bytes, as the caller counts it; wraps around.
    pub total: u64,
    /// Timestamp of the newest record that was trimmed, microseconds; 0 where none was since totals are kept.
    pub gone_ts_us: u64,
}

/// What is known of a key without reading its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The offset the next record gets.
    pub next: Offset,
    /// The lowest offset that can still be read; `next` where none can.
    pub first: Offset,
    /// Size of the records that can be read, bytes, as the caller counts it.
    pub bytes: u64,
    /// The newest record.
    pub newest: Newest,
    /// The totals, where history rows have `before`.
    pub totals: Option<Totals>,
}

impl Head {
    /// Whether the newest record deletes the key.
    #[must_use]
    pub fn tombstone(&self) -> bool {
        match &self.newest {
            Newest::None => false,
            Newest::Inline(record) => record.tombstone,
            Newest::InHistory { tombstone, .. } => *tombstone,
        }
    }

    /// Timestamp of the newest record, microseconds; `None` where no record is left.
    #[must_use]
    pub fn newest_ts_us(&self) -> Option<u64> {
        match &self.newest {
            Newest::None => None,
            Newest::Inline(record) => Some(record.ts_us),
            Newest::InHistory { ts_us, .. } => Some(*ts_us),
        }
    }

    /// The row of this head.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (flags, room) = match &self.newest {
            Newest::None => (0, 0),
            Newest::Inline(record) => (NEWEST_INLINE, room(record)),
            Newest::InHistory { .. } => (NEWEST_IN_HISTORY, 10),
        };
        let version = if self.totals.is_some() { HEAD_TOTALS } else { HEAD_PLAIN };
        let mut out = super::begin(version, 70 + room);
        out.u8(flags | if self.tombstone() { TOMBSTONE } else { 0 });
        out.var(self.next.0);
        out.var(self.first.0);
        out.var(self.bytes);
        if let Some(totals) = &self.totals {
            out.var(totals.since.0);
            out.var(totals.total);
            out.var(totals.gone_ts_us);
        }
        match &self.newest {
            Newest::None => {}
            Newest::Inline(record) => put_record(&mut out, record),
            Newest::InHistory { ts_us, .. } => out.var(*ts_us),
        }
        out.into_checked()
    }

    /// Decodes what [`Head::encode`] wrote. Values share the memory of `row`.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        Self::read(super::open_upto(row, HEAD_TOTALS)?, true)
    }

    /// Decodes a row without the headers and the value of the record in it: these are checked and not copied.
    pub fn decode_brief(row: &[u8]) -> Result<Self, DecodeError> {
        Self::read(super::open_start(row, HEAD_TOTALS, START_BYTES)?, false)
    }

    fn read((version, mut input): (u8, Reader), whole: bool) -> Result<Self, DecodeError> {
        let unknown = input.error("unknown flags");
        let flags = input.u8()?;
        let tombstone = flags & TOMBSTONE != 0;
        let mut head =
            Self { next: Offset(input.var()?), first: Offset(input.var()?), bytes: input.var()?, ..Self::default() };
        if version == HEAD_TOTALS {
            head.totals = Some(Totals { since: Offset(input.var()?), total: input.var()?, gone_ts_us: input.var()? });
        }
        head.newest = match flags & !TOMBSTONE {
            0 if !tombstone => Newest::None,
            NEWEST_INLINE => Newest::Inline(get_record(&mut input, tombstone, whole)?),
            NEWEST_IN_HISTORY => Newest::InHistory { ts_us: input.var()?, tombstone },
            _ => return Err(unknown),
        };
        if whole {
            input.finish()?;
        }
        Ok(head)
    }
}

impl Record {
    /// The history row of this record; with `before`, what the key's records before it come to, where that is kept.
    #[must_use]
    pub fn encode_at(&self, before: Option<u64>) -> Bytes {
        let version = if before.is_some() { HISTORY_TOTALS } else { HISTORY_PLAIN };
        let mut out = super::begin(version, 18 + room(self));
        out.u8(if self.tombstone { TOMBSTONE } else { 0 });
        if let Some(before) = before {
            out.var(before);
        }
        put_record(&mut out, self);
        out.into_checked()
    }

    /// The history row of this record, without a total.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_at(None)
    }

    /// Decodes what [`Record::encode_at`] wrote: the record and its `before`. Values share the memory of `row`.
    pub fn decode_at(row: Bytes) -> Result<(Self, Option<u64>), DecodeError> {
        Self::read(super::open_upto(row, HISTORY_TOTALS)?, true)
    }

    /// Decodes a history row of any version. Values share the memory of `row`.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        Self::decode_at(row).map(|(record, _)| record)
    }

    /// Decodes a row without its headers and its value: these are checked and not copied.
    pub fn decode_brief(row: &[u8]) -> Result<Self, DecodeError> {
        Self::read(super::open_start(row, HISTORY_TOTALS, START_BYTES)?, false).map(|(record, _)| record)
    }

    fn read((version, mut input): (u8, Reader), whole: bool) -> Result<(Self, Option<u64>), DecodeError> {
        let unknown = input.error("unknown flags");
        let flags = input.u8()?;
        if flags & !TOMBSTONE != 0 {
            return Err(unknown);
        }
        let before = if version == HISTORY_TOTALS { Some(input.var()?) } else { None };
        let record = get_record(&mut input, flags & TOMBSTONE != 0, whole)?;
        if whole {
            input.finish()?;
        }
        Ok((record, before))
    }
}

fn room(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    25 + headers + record.value.len()
}

fn put_record(out: &mut Writer, record: &Record) {
    out.var(record.ts_us);
    out.var(record.headers.len() as u64);
    for (name, value) in &record.headers {
        out.bytes(name);
        out.bytes(value);
    }
    out.bytes(&record.value);
}

/// Where it is not wanted whole, its headers and value are left out.
fn get_record(input: &mut Reader, tombstone: bool, whole: bool) -> Result<Record, DecodeError> {
    let ts_us = input.var()?;
    if !whole {
        return Ok(Record { ts_us, tombstone, ..Record::default() });
    }
    let count = input.count(2)?;
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((input.bytes()?, input.bytes()?));
    }
    Ok(Record { ts_us, headers, value: input.bytes()?, tombstone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_look_says_the_same_of_a_record_and_checks_as_much() {
        for value in [0, 10, 63, 64, 65, 100_000] {
            for tombstone in [false, true] {
                let headers = vec![(Bytes::from_static(b"name"), Bytes::from(vec![7; value / 2]))];
                let record = Record { ts_us: u64::MAX / 3, headers, value: vec![1; value].into(), tombstone };
                let row = record.encode();
                let brief = Record::decode_brief(&row).unwrap();
                assert_eq!(brief, Record { ts_us: record.ts_us, tombstone, ..Record::default() });
                let (next, first) = (Offset(u64::MAX / 7), Offset(u64::MAX / 8));
                let head = Head { next, first, newest: Newest::Inline(record), ..Head::default() };
                let found = Head::decode_brief(&head.encode()).unwrap();
                assert_eq!(found, Head { newest: Newest::Inline(brief), ..head.clone() });
                for row in [row, head.encode()] {
                    for at in [0, 1, row.len() / 2, row.len() - 1] {
                        let mut bad = row.to_vec();
                        bad[at] ^= 4;
                        assert!(Record::decode_brief(&bad).is_err() && Head::decode_brief(&bad).is_err(), "byte {at}");
                    }
                }
            }
        }
    }
}
