//! The rows of the log DB that are neither entries nor hard states.
//!
//! Owns: version 1 of each: `version u8 | fields | crc u32`, integers as varints, the cluster's name as 16 bytes. Must
//! never: return a value whose checksum does not match.

use super::entry::{get_entry_id, put_entry_id};
use crate::StoreError;
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::{ClientId, ClusterVersion, EntryId, Incarnation, NodeId, NodeWriteSeq, Space};
use synod_paxos::types::Epoch;

/// The version this module writes for every row but the format row.
pub const VERSION: u8 = 1;

/// The version of a tombstone.
const REMOVED_VERSION: u8 = 2;

/// The epoch in the tombstone of a group that exists no more.
pub const GONE: Epoch = Epoch(u64::MAX);

/// The version of a new database: what the format row holds. It is the cluster version below which no binary may open the
/// database: raised before anything is written that an older one does not know.
pub const FORMAT: u8 = 1;
/// The greatest format that this binary opens.
pub const FORMAT_MAX: u8 = ClusterVersion::SPOKEN.0 as u8;

/// Who this data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Random name of the cluster.
    pub cluster: ClientId,
    /// This node.
    pub node: NodeId,
}

impl NodeIdentity {
    /// Refuses `wanted` where this, the identity found, is another.
    pub fn must_be(&self, wanted: &Self) -> Result<(), StoreError> {
        if self == wanted {
            return Ok(());
        }
        Err(StoreError::Identity {
            found_cluster: self.cluster.0,
            found_node: self.node.0,
            cluster: wanted.cluster.0,
            node: wanted.node.0,
        })
    }
}

/// The format row: the version of the database that it is in.
#[must_use]
pub fn encode_format(version: u8) -> Bytes {
    super::begin(version, 5).into_checked()
}

/// The version in a format row; any is accepted here.
pub fn decode_format(row: Bytes) -> Result<u8, DecodeError> {
    let mut input = synod_cluster::buf::Reader::checked(row)?;
    let version = input.u8()?;
    input.finish()?;
    Ok(version)
}

/// The row that says whose data directory this is.
#[must_use]
pub fn encode_identity(identity: &NodeIdentity) -> Bytes {
    let mut out = super::begin(VERSION, 32);
    out.u128(identity.cluster.0);
    out.var(identity.node.0);
    out.into_checked()
}

/// Decodes what [`encode_identity`] wrote.
pub fn decode_identity(row: Bytes) -> Result<NodeIdentity, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let identity = NodeIdentity { cluster: ClientId(input.u128()?), node: NodeId(input.var()?) };
    input.finish()?;
    Ok(identity)
}

/// The row of the newest incarnation.
#[must_use]
pub fn encode_incarnation(incarnation: Incarnation) -> Bytes {
    encode_number(incarnation.0)
}

/// Decodes what [`encode_incarnation`] wrote.
pub fn decode_incarnation(row: Bytes) -> Result<Incarnation, DecodeError> {
    decode_number(row).map(Incarnation)
}

/// The row of the last durable write.
#[must_use]
pub fn encode_seq(seq: NodeWriteSeq) -> Bytes {
    encode_number(seq.0)
}

/// Decodes what [`encode_seq`] wrote.
pub fn decode_seq(row: Bytes) -> Result<NodeWriteSeq, DecodeError> {
    decode_number(row).map(NodeWriteSeq)
}

/// The row of what was seen from one peer; the peer is in the key.
#[must_use]
pub fn encode_seen(incarnation: Incarnation, seq: NodeWriteSeq) -> Bytes {
    let mut out = super::begin(VERSION, 25);
    out.var(incarnation.0);
    out.var(seq.0);
    out.into_checked()
}

/// Decodes what [`encode_seen`] wrote.
pub fn decode_seen(row: Bytes) -> Result<(Incarnation, NodeWriteSeq), DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let seen = (Incarnation(input.var()?), NodeWriteSeq(input.var()?));
    input.finish()?;
    Ok(seen)
}

/// The row of a group's trim mark: the last entry that is gone.
#[must_use]
pub fn encode_trim(trimmed: EntryId) -> Bytes {
    let mut out = super::begin(VERSION, 45);
    put_entry_id(&mut out, trimmed);
    out.into_checked()
}

/// Decodes what [`encode_trim`] wrote.
pub fn decode_trim(row: Bytes) -> Result<EntryId, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let trimmed = get_entry_id(&mut input)?;
    input.finish()?;
    Ok(trimmed)
}

/// The row of what a group was created with, opaque here.
#[must_use]
pub fn encode_genesis(genesis: &[u8]) -> Bytes {
    let mut out = super::begin(VERSION, 15 + genesis.len());
    out.bytes(genesis);
    out.into_checked()
}

/// Decodes what [`encode_genesis`] wrote.
pub fn decode_genesis(row: Bytes) -> Result<Bytes, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let genesis = input.bytes()?;
    input.finish()?;
    Ok(genesis)
}

/// The tombstone of a removed group; the group is in the key. Version 2: `version u8 | epoch | crc u32`.
#[must_use]
pub fn encode_removed(upto: Epoch) -> Bytes {
    let mut out = super::begin(REMOVED_VERSION, 14);
    out.var(upto.0);
    out.into_checked()
}

/// Decodes what [`encode_removed`] wrote. Version 1 named no epoch: its group was dropped, and never comes back.
pub fn decode_removed(row: Bytes) -> Result<Epoch, DecodeError> {
    let mut input = synod_cluster::buf::Reader::checked(row)?;
    let at = input.error("unknown format version");
    let upto = match input.u8()? {
        VERSION => GONE,
        REMOVED_VERSION => Epoch(input.var()?),
        _ => return Err(at),
    };
    input.finish()?;
    Ok(upto)
}

/// The row of a group's space in the state store.
#[must_use]
pub fn encode_space(space: Space) -> Bytes {
    encode_number(space.0.into())
}

/// Decodes what [`encode_space`] wrote.
pub fn decode_space(row: Bytes) -> Result<Space, DecodeError> {
    let at = DecodeError { what: "a space above 2^32", at: 1 };
    decode_number(row).and_then(|space| u32::try_from(space).map(Space).map_err(|_| at))
}

fn encode_number(value: u64) -> Bytes {
    let mut out = super::begin(VERSION, 15);
    out.var(value);
    out.into_checked()
}

fn decode_number(row: Bytes) -> Result<u64, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let value = input.var()?;
    input.finish()?;
    Ok(value)
}
