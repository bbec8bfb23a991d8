//! The encoding of a log entry, on disk and between nodes.
//!
//! Owns: version 1 of an entry, and the parts that other rows share (ballots, entry ids, memberships). Must never:
//! compute a new checksum on the way to disk, or return an entry whose checksum does not match.
//!
//! An entry is `version u8 | slot | origin.epoch | origin.round | origin.node | ts | closed | tag u8 | payload |
//! crc u32`, integers as varints, the checksum little-endian. The tag is 0 for a no-op (no payload), 1 for a command
//! (length and bytes), 2 for a configuration (`epoch | first leader | count | (node | role u8)…`). The checksum is the
//! proposer's own, [`Entry::checksum`], carried along; it covers every field but the version.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::ids::{Ballot, Entry, EntryId, NodeId, Slot};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, Payload};

/// The version this module writes.
pub const VERSION: u8 = 1;

/// Appends the encoding of `entry`.
pub fn encode(entry: &Entry, out: &mut impl Put) {
    out.u8(VERSION);
    put_entry_id(out, entry.id);
    out.var(entry.ts);
    out.var(entry.closed);
    match &entry.payload {
        Payload::Noop => out.u8(0),
        Payload::Command(data) => {
            out.u8(1);
            out.bytes(data);
        }
        Payload::Config(membership) => {
            out.u8(2);
            put_membership(out, membership);
        }
    }
    out.u32(entry.crc);
}

/// The encoding of `entry` in a buffer of its own.
#[must_use]
pub fn to_bytes(entry: &Entry) -> Bytes {
    let mut out = Writer::with_capacity(entry.size());
    encode(entry, &mut out);
    out.into_bytes()
}

/// Decodes what [`encode`] wrote and recomputes its checksum. The command shares the memory of `data`.
pub fn decode(data: Bytes) -> Result<Entry, DecodeError> {
    let mut input = Reader::new(data);
    super::expect_version(&mut input, VERSION)?;
    let id = get_entry_id(&mut input)?;
    let ts = input.var()?;
    let closed = input.var()?;
    let unknown = input.error("unknown payload tag");
    let payload = match input.u8()? {
        0 => Payload::Noop,
        1 => Payload::Command(input.bytes()?),
        2 => Payload::Config(get_membership(&mut input)?),
        _ => return Err(unknown),
    };
    let mismatch = input.error("entry checksum mismatch");
    let entry = Entry { id, ts, closed, payload, crc: input.u32()? };
    input.finish()?;
    if entry.checksum() == entry.crc || planted!(ChecksumIgnored) { Ok(entry) } else { Err(mismatch) }
}

/// Appends a ballot: three varints.
pub fn put_ballot(out: &mut impl Put, ballot: Ballot) {
    out.var(ballot.epoch.0);
    out.var(ballot.round);
    out.var(ballot.node.0);
}

/// Reads a ballot.
pub fn get_ballot(input: &mut Reader) -> Result<Ballot, DecodeError> {
    Ok(Ballot { epoch: Epoch(input.var()?), round: input.var()?, node: NodeId(input.var()?) })
}

/// Appends an entry id: the slot, then the ballot.
pub fn put_entry_id(out: &mut impl Put, id: EntryId) {
    out.var(id.slot.0);
    put_ballot(out, id.origin);
}

/// Reads an entry id.
pub fn get_entry_id(input: &mut Reader) -> Result<EntryId, DecodeError> {
    Ok(EntryId { slot: Slot(input.var()?), origin: get_ballot(input)? })
}

/// Appends a membership.
pub fn put_membership(out: &mut impl Put, membership: &Membership) {
    out.var(membership.epoch.0);
    out.var(membership.first_leader.0);
    out.var(membership.members.len() as u64);
    for member in &membership.members {
        out.var(member.node.0);
        out.u8(match member.role {
            MemberRole::Voter => 0,
            MemberRole::Learner => 1,
        });
    }
}

/// Reads a membership.
pub fn get_membership(input: &mut Reader) -> Result<Membership, DecodeError> {
    let beyond = input.error("an epoch that no group comes to");
    let epoch = Epoch(synod_cluster::buf::counter(input.var()?, beyond)?);
    let first_leader = NodeId(input.var()?);
    let count = input.count(2)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let node = NodeId(input.var()?);
        let role = if input.flag()? { MemberRole::Learner } else { MemberRole::Voter };
        members.push(Member { node, role });
    }
    Ok(Membership { epoch, members, first_leader })
}
