//! The row that says that the shard of a space went into another shard.
//!
//! Owns: version 1 of the row: `version u8 | source | target | crc u32`, integers as varints. Must never: be part of a snapshot file or
//! of a hash: it is a node's own.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::ShardId;

/// The version this module writes.
pub const VERSION: u8 = 1;

/// A source whose rows are its target's by now. It stays until the source's log is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsorbedRow {
    /// The shard whose own space it was.
    pub source: ShardId,
    /// The shard that it went into.
    pub target: ShardId,
}

impl AbsorbedRow {
    /// The row.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = super::begin(VERSION, 25);
        out.var(self.source.0);
        out.var(self.target.0);
        out.into_checked()
    }

    /// Decodes what [`AbsorbedRow::encode`] wrote.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        let mut input = super::open(row, VERSION)?;
        let row = Self { source: ShardId(input.var()?), target: ShardId(input.var()?) };
        input.finish()?;
        Ok(row)
    }
}
