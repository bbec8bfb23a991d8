//! The formats of everything this crate writes to disk.
//!
//! Owns: bytes to values and back, versions, checksums, key order. Must never: do IO, panic on any input, allocate by a
//! length it has not checked, or change what an existing version byte means.

pub mod absorbed;
pub mod applied;
pub mod bounds;
pub mod entry;
pub mod hard;
pub mod keys;
pub mod message;
pub mod node;
pub mod pieces;
pub mod record;
pub mod session;

use crate::StoreError;
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::system::MetadataError;

/// Says which row or entry bytes were that could not be decoded.
pub trait Damage {
    /// The store error for the row `row`. Only damage is called damage.
    fn corrupt(self, row: impl Into<String>) -> StoreError;
}

impl Damage for DecodeError {
    fn corrupt(self, row: impl Into<String>) -> StoreError {
        StoreError::Corrupt { what: row.into(), why: self.to_string() }
    }
}

impl Damage for MetadataError {
    fn corrupt(self, row: impl Into<String>) -> StoreError {
        match self {
            Self::Decode(error) => error.corrupt(row),
            Self::TooNew(too_new) => StoreError::ClusterTooNew { what: row.into(), too_new },
        }
    }
}

/// Begins a row: its version byte.
fn begin(version: u8, room: usize) -> Writer {
    let mut out = Writer::with_capacity(room);
    out.u8(version);
    out
}

/// Opens a row that ends in a CRC-32: checks that and the version byte.
fn open(row: Bytes, version: u8) -> Result<Reader, DecodeError> {
    let mut input = Reader::checked(row)?;
    expect_version(&mut input, version)?;
    Ok(input)
}

/// Opens a row of any version from 1 to `newest`, and says which it is of.
fn open_upto(row: Bytes, newest: u8) -> Result<(u8, Reader), DecodeError> {
    version_upto(Reader::checked(row)?, newest)
}

/// Opens a row as [`open_upto`] does, to read its first `len` bytes at most.
fn open_start(row: &[u8], newest: u8, len: usize) -> Result<(u8, Reader), DecodeError> {
    version_upto(Reader::checked_start(row, len)?, newest)
}

fn version_upto(mut input: Reader, newest: u8) -> Result<(u8, Reader), DecodeError> {
    let unknown = input.error("unknown format version");
    let version = input.u8()?;
    if (1..=newest).contains(&version) { Ok((version, input)) } else { Err(unknown) }
}

/// Reads a version byte and refuses every version but the one known.
fn expect_version(input: &mut Reader, version: u8) -> Result<(), DecodeError> {
    let at = input.error("unknown format version");
    if input.u8()? == version { Ok(()) } else { Err(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::ClusterVersion;
    use synod_cluster::system::TooNew;

    #[test]
    fn only_damage_is_called_damage() {
        let too_new = TooNew { found: ClusterVersion(7), spoken: ClusterVersion::SPOKEN };
        assert!(matches!(MetadataError::from(too_new).corrupt("x"), StoreError::ClusterTooNew { .. }));
        let short = Reader::checked(Bytes::new()).expect_err("no checksum");
        assert!(matches!(MetadataError::from(short).corrupt("x"), StoreError::Corrupt { .. }));
    }
}
