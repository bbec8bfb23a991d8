//! The row of a group's hard state.
//!
//! Owns: version 1 of the row: `version u8 | membership | config_start | promised | accepted | commit_hint | b0_used u8 |
//! crc u32`, integers as varints. Must never: return a hard state whose checksum does not match.

use super::entry::{get_ballot, get_membership, put_ballot, put_membership};
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::{HardState, Slot};

/// The version this module writes.
pub const VERSION: u8 = 1;

/// The row of `hard`.
#[must_use]
pub fn encode(hard: &HardState) -> Bytes {
    let mut out = super::begin(VERSION, 64 + 11 * hard.membership.members.len());
    put_membership(&mut out, &hard.membership);
    out.var(hard.epoch_start.0);
    put_ballot(&mut out, hard.promised);
    put_ballot(&mut out, hard.accepted);
    out.var(hard.commit_hint.0);
    out.flag(hard.b0_used);
    out.into_checked()
}

/// Decodes what [`encode`] wrote.
pub fn decode(row: Bytes) -> Result<HardState, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let hard = HardState {
        membership: get_membership(&mut input)?,
        epoch_start: Slot(input.var()?),
        promised: get_ballot(&mut input)?,
        accepted: get_ballot(&mut input)?,
        commit_hint: Slot(input.var()?),
        b0_used: input.flag()?,
    };
    input.finish()?;
    Ok(hard)
}
