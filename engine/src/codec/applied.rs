//! The row that says how far a shard's state has come.
//!
//! Owns: version 1 of the row: `version u8 | slot | last ts | crc u32`, integers as varints. Must never: be written in
//! another batch than the effects it speaks of.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::Slot;

/// The version this module writes.
pub const VERSION: u8 = 1;

/// A shard's applied position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedRow {
    /// The last slot whose effects stand in the state.
    pub slot: Slot,
    /// That entry's timestamp, microseconds.
    pub last_ts: u64,
}

impl AppliedRow {
    /// The row of this position.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = super::begin(VERSION, 25);
        out.var(self.slot.0);
        out.var(self.last_ts);
        out.into_checked()
    }

    /// Decodes what [`AppliedRow::encode`] wrote.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        let mut input = super::open(row, VERSION)?;
        let applied = Self { slot: Slot(input.var()?), last_ts: input.var()? };
        input.finish()?;
        Ok(applied)
    }
}
