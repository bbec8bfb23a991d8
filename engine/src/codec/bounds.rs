//! The row that says which positions a shard holds, where that has changed since it was created.
//!
//! Owns: version 1 of the row: `version u8 | phase | merges | absorbed… | changes of bounds | from | to | retention u8 | children… |
//! crc u32`. Integers are varints, bounds and lists have their length before them; a child is `shard | from | to | version |
//! voters…`. A phase is one of `0`; `1 | merge`, merging; `2 | merge`, cancelled; and `3 | target | number | entry id | ts`, frozen. A
//! merge is `source | number | its version | its epoch | epoch`. What is not 0, 0 and none of phase, merges and absorbed is written from
//! cluster version 5 on, and refused by what speaks less.
//! Must never: be written in another batch than the effects of the entry that changes it.
//!
//! A shard without this row has the bounds, the version and the retention that it was created with.

use super::entry::{get_entry_id, put_entry_id};
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer, counter};
use synod_cluster::ids::{ClusterVersion, EntryId, NodeId, ShardId};
use synod_cluster::system::Retention;
use synod_paxos::types::Epoch;

/// The version this module writes.
pub const VERSION: u8 = 1;

/// Fewest bytes of a child.
const CHILD_BYTES: usize = 5;

/// What a shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundsRow {
    /// Changes of bounds, from 1.
    pub version: u64,
    /// Lower bound, inclusive: a position.
    pub from: Bytes,
    /// Upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// The table's retention.
    pub retention: Retention,
    /// Shards that were split off, as far as the map is not known to have them.
    pub children: Vec<ChildMark>,
    /// Where the shard is in a merge.
    pub phase: Phase,
    /// Merges begun with the shard as their target.
    pub merges: u64,
    /// Shards that went into this one, as far as the map is not known to have dropped them.
    pub absorbed: Vec<ShardId>,
}

/// Where a shard is in a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// In none.
    #[default]
    Alone,
    /// It is the target: a source is to go into it.
    Merging(Merge),
    /// It is the target of a merge that was cancelled, and whose source may be frozen yet.
    Cancelled(Merge),
    /// It is the source, and changes by nothing but an unfreeze.
    Frozen(Frozen),
}

/// A merge, as its target has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The shard that is to go into this one.
    pub source: ShardId,
    /// The number of the merge among those of the target.
    pub seq: u64,
    /// The source's version before it is frozen.
    pub source_version: u64,
    /// The epoch of the source's members.
    pub source_epoch: Epoch,
    /// The epoch of the target's members. An absorb counts in no other.
    pub epoch: Epoch,
}

/// A freeze, as the source has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The shard that it is to go into.
    pub target: ShardId,
    /// The number of the merge among those of the target.
    pub seq: u64,
    /// The freeze, in the log of the source.
    pub at: EntryId,
    /// The source's greatest timestamp, µs.
    pub ts: u64,
}

/// A shard that was split off, as it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildMark {
    /// The child.
    pub shard: ShardId,
    /// Its lower bound, inclusive.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// The version that its bounds begin with.
    pub version: u64,
    /// Its voters in its first epoch.
    pub voters: Vec<NodeId>,
}

impl BoundsRow {
    /// The row of these bounds.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = super::begin(VERSION, 64 + self.from.len() + self.to.len());
        put_phase(&mut out, &self.phase);
        out.var(self.merges);
        out.var(self.absorbed.len() as u64);
        for shard in &self.absorbed {
            out.var(shard.0);
        }
        out.var(self.version);
        out.bytes(&self.from);
        out.bytes(&self.to);
        out.u8(match self.retention {
            Retention::Latest => 1,
            Retention::All => 2,
        });
        out.var(self.children.len() as u64);
        for child in &self.children {
            out.var(child.shard.0);
            out.bytes(&child.from);
            out.bytes(&child.to);
            out.var(child.version);
            out.var(child.voters.len() as u64);
            for voter in &child.voters {
                out.var(voter.0);
            }
        }
        out.into_checked()
    }

    /// Decodes what [`BoundsRow::encode`] wrote.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        let mut input = super::open(row, VERSION)?;
        let phase = phase(&mut input)?;
        let merges = number(&mut input)?;
        let absorbed = (0..input.count(1)?).map(|_| input.var().map(ShardId)).collect::<Result<_, _>>()?;
        let version = changes(&mut input)?;
        let (from, to) = range(&mut input)?;
        let unknown = input.error("unknown retention");
        let retention = match input.u8()? {
            1 => Retention::Latest,
            2 => Retention::All,
            _ => return Err(unknown),
        };
        let count = input.count(CHILD_BYTES)?;
        let mut children = Vec::with_capacity(count);
        for _ in 0..count {
            children.push(child(&mut input)?);
        }
        input.finish()?;
        Ok(Self { version, from, to, retention, children, phase, merges, absorbed })
    }

    /// The cluster version that a node must speak to read the row.
    #[must_use]
    pub fn needs(&self) -> ClusterVersion {
        let merged = self.phase != Phase::Alone || self.merges > 0 || !self.absorbed.is_empty();
        if merged { ClusterVersion::FIFTH } else { ClusterVersion::FOURTH }
    }
}

impl Phase {
    /// The freeze, where the shard is frozen.
    #[must_use]
    pub fn frozen(&self) -> Option<&Frozen> {
        match self {
            Self::Frozen(frozen) => Some(frozen),
            Self::Alone | Self::Merging(_) | Self::Cancelled(_) => None,
        }
    }

    /// The merge under way, where the shard is its target.
    #[must_use]
    pub fn merging(&self) -> Option<&Merge> {
        match self {
            Self::Merging(merge) => Some(merge),
            Self::Alone | Self::Cancelled(_) | Self::Frozen(_) => None,
        }
    }
}

fn put_phase(out: &mut Writer, phase: &Phase) {
    match phase {
        Phase::Alone => out.u8(0),
        Phase::Merging(merge) => {
            out.u8(1);
            put_merge(out, merge);
        }
        Phase::Cancelled(merge) => {
            out.u8(2);
            put_merge(out, merge);
        }
        Phase::Frozen(frozen) => {
            out.u8(3);
            out.var(frozen.target.0);
            out.var(frozen.seq);
            put_entry_id(out, frozen.at);
            out.var(frozen.ts);
        }
    }
}

fn put_merge(out: &mut Writer, merge: &Merge) {
    out.var(merge.source.0);
    out.var(merge.seq);
    out.var(merge.source_version);
    out.var(merge.source_epoch.0);
    out.var(merge.epoch.0);
}

fn phase(input: &mut Reader) -> Result<Phase, DecodeError> {
    let unknown = input.error("unknown phase of a merge");
    Ok(match input.u8()? {
        0 => Phase::Alone,
        1 => Phase::Merging(merge(input)?),
        2 => Phase::Cancelled(merge(input)?),
        3 => {
            let (target, seq) = (ShardId(input.var()?), number(input)?);
            Phase::Frozen(Frozen { target, seq, at: get_entry_id(input)?, ts: input.var()? })
        }
        _ => return Err(unknown),
    })
}

fn merge(input: &mut Reader) -> Result<Merge, DecodeError> {
    let (source, seq, source_version) = (ShardId(input.var()?), number(input)?, changes(input)?);
    Ok(Merge { source, seq, source_version, source_epoch: epoch(input)?, epoch: epoch(input)? })
}

fn epoch(input: &mut Reader) -> Result<Epoch, DecodeError> {
    let refused = input.error("an epoch above 2^62");
    counter(input.var()?, refused).map(Epoch)
}

/// A number of merges.
fn number(input: &mut Reader) -> Result<u64, DecodeError> {
    let refused = input.error("more merges than 2^62");
    counter(input.var()?, refused)
}

fn child(input: &mut Reader) -> Result<ChildMark, DecodeError> {
    let shard = ShardId(input.var()?);
    let (from, to) = range(input)?;
    let version = changes(input)?;
    let count = input.count(1)?;
    let mut voters = Vec::with_capacity(count);
    for _ in 0..count {
        voters.push(NodeId(input.var()?));
    }
    Ok(ChildMark { shard, from, to, version, voters })
}

/// A version of bounds.
fn changes(input: &mut Reader) -> Result<u64, DecodeError> {
    let refused = input.error("a version above 2^62");
    counter(input.var()?, refused)
}

/// Bounds that hold something.
pub(super) fn range(input: &mut Reader) -> Result<(Bytes, Bytes), DecodeError> {
    let empty = input.error("bounds that hold nothing");
    let (from, to) = (input.bytes()?, input.bytes()?);
    if to.is_empty() || from < to { Ok((from, to)) } else { Err(empty) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::{Ballot, Slot};

    fn row() -> BoundsRow {
        let child = |shard, from: &'static [u8], to: &'static [u8], voters: &[u64]| ChildMark {
            shard: ShardId(shard),
            from: Bytes::from_static(from),
            to: Bytes::from_static(to),
            version: 9,
            voters: voters.iter().copied().map(NodeId).collect(),
        };
        let children = vec![child(77, b"m", b"t", &[1, 2, 1_000_000]), child(78, b"t", b"", &[])];
        let (from, to) = (Bytes::from_static(b"\0a"), Bytes::from_static(b"m"));
        let retention = Retention::All;
        BoundsRow { version: 9, from, to, retention, children, phase: Phase::Alone, merges: 0, absorbed: vec![] }
    }

    fn phases() -> [Phase; 4] {
        let merge = Merge { source: ShardId(300), seq: 6, source_version: 5, source_epoch: Epoch(2), epoch: Epoch(7) };
        let at = EntryId { slot: Slot(77), origin: Ballot { epoch: Epoch(2), round: 3, node: NodeId(1) } };
        let frozen = Frozen { target: ShardId(8), seq: 6, at, ts: 1_790_000_000_000_125 };
        [Phase::Alone, Phase::Merging(merge), Phase::Cancelled(merge), Phase::Frozen(frozen)]
    }

    #[test]
    fn bounds_come_back() {
        let all = BoundsRow { from: Bytes::new(), to: Bytes::new(), retention: Retention::Latest, ..row() };
        for row in [BoundsRow { children: vec![], ..row() }, row(), all] {
            assert_eq!(BoundsRow::decode(row.encode()), Ok(row));
        }
    }

    #[test]
    fn what_no_shard_can_have_is_refused() {
        let empty = |from: &'static [u8], to: &'static [u8]| {
            let row = BoundsRow { from: Bytes::from_static(from), to: Bytes::from_static(to), ..row() };
            BoundsRow::decode(row.encode()).unwrap_err().what
        };
        assert_eq!(empty(b"m", b"m"), "bounds that hold nothing");
        assert_eq!(empty(b"n", b"m"), "bounds that hold nothing");
        let beyond = BoundsRow { version: u64::MAX, ..row() };
        assert_eq!(BoundsRow::decode(beyond.encode()).unwrap_err().what, "a version above 2^62");
        let mut inside = row();
        inside.children[1].from = Bytes::from_static(b"u");
        inside.children[1].to = Bytes::from_static(b"u");
        assert_eq!(BoundsRow::decode(inside.encode()).unwrap_err().what, "bounds that hold nothing");
    }

    #[test]
    fn where_a_shard_is_in_a_merge_comes_back() {
        for phase in phases() {
            let row = BoundsRow { phase, merges: 6, absorbed: vec![ShardId(300), ShardId(2)], ..row() };
            assert_eq!(row.needs(), ClusterVersion::FIFTH);
            assert_eq!(BoundsRow::decode(row.encode()), Ok(row));
        }
    }

    /// Binaries that do not know merges refuse a row whose first fields are others than these.
    #[test]
    fn a_row_without_a_merge_is_as_it_was_before_there_were_any() {
        assert_eq!(row().needs(), ClusterVersion::FOURTH);
        assert_eq!(row().encode()[..4], [VERSION, 0, 0, 0]);
        for row in [
            BoundsRow { phase: phases()[3].clone(), ..row() },
            BoundsRow { merges: 1, ..row() },
            BoundsRow { absorbed: vec![ShardId(7)], ..row() },
        ] {
            assert_eq!(row.needs(), ClusterVersion::FIFTH);
            assert_ne!(row.encode()[..4], [VERSION, 0, 0, 0]);
        }
    }

    #[test]
    fn an_unknown_phase_is_named() {
        let sound = row().encode();
        let mut body = sound[..sound.len() - 4].to_vec();
        body[1] = 4;
        let row = Writer(body).into_checked();
        assert_eq!(BoundsRow::decode(row).unwrap_err().what, "unknown phase of a merge");
    }
}
