//! The bytes of reservations.
//!
//! Owns: the format of their rows, with a version byte and a CRC-32 at the end. Must never: panic on any input.

use super::lineage::Reserved;
use super::read::read_counter;
use crate::buf::{DecodeError, Put, Reader, Writer};
use crate::ids::ShardId;
use bytes::Bytes;

const ROW_FORMAT: u8 = 1;

/// The row of a reservation: `format u8 | parent u64 | version u64 | crc u32`.
pub(super) fn encode_reserved(reserved: Reserved) -> Bytes {
    let mut w = Writer::new();
    w.u8(ROW_FORMAT);
    w.u64(reserved.parent.0);
    w.u64(reserved.version);
    w.into_checked()
}

pub(super) fn decode_reserved(data: Bytes) -> Result<Reserved, DecodeError> {
    let mut r = Reader::checked(data)?;
    let format = r.error("metadata format version");
    if r.u8()? != ROW_FORMAT {
        return Err(format);
    }
    let reserved = Reserved { parent: ShardId(r.u64()?), version: read_counter(&mut r)? };
    r.finish()?;
    Ok(reserved)
}
