//! The row of one client's session in one shard.
//!
//! Owns: version 1 of the row: `version u8 | floor | last deadline | count | (seq | outcome)… | crc u32`, integers as
//! varints, an outcome as its length and bytes. Must never: look into an outcome.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::ClientSeq;

/// The version this module writes.
pub const VERSION: u8 = 1;

/// What a shard remembers of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRow {
    /// Writes below it are no longer knowable.
    pub floor: ClientSeq,
    /// The latest deadline of any of its writes, cluster time in microseconds.
    pub last_deadline: u64,
    /// Outcomes of writes at or above the floor.
    pub outcomes: Vec<(ClientSeq, Bytes)>,
}

impl SessionRow {
    /// The row of this session.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let outcomes: usize = self.outcomes.iter().map(|(_, outcome)| outcome.len() + 13).sum();
        let mut out = super::begin(VERSION, 32 + outcomes);
        out.var(self.floor.0);
        out.var(self.last_deadline);
        out.var(self.outcomes.len() as u64);
        for (seq, outcome) in &self.outcomes {
            out.var(seq.0);
            out.bytes(outcome);
        }
        out.into_checked()
    }

    /// Decodes what [`SessionRow::encode`] wrote. Outcomes share the memory of `row`.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        let mut input = super::open(row, VERSION)?;
        let floor = ClientSeq(input.var()?);
        let last_deadline = input.var()?;
        let count = input.count(2)?;
        let mut outcomes = Vec::with_capacity(count);
        for _ in 0..count {
            outcomes.push((ClientSeq(input.var()?), input.bytes()?));
        }
        input.finish()?;
        Ok(Self { floor, last_deadline, outcomes })
    }
}
