//! Reading what several formats of the metadata have.
//!
//! Owns: counters and texts. Must never: panic on any input.

use crate::buf::{DecodeError, Reader, counter};

/// A number that is counted on from.
pub(super) fn read_counter(r: &mut Reader) -> Result<u64, DecodeError> {
    let beyond = r.error("a counter that no cluster comes to");
    counter(r.u64()?, beyond)
}

pub(super) fn string(r: &mut Reader) -> Result<String, DecodeError> {
    String::from_utf8(r.bytes()?.to_vec()).map_err(|_| r.error("UTF-8 text"))
}
