//! The row that says which positions a shard holds, where that has changed since it was created.
//!
//! Owns: version 1 of the row: `version u8 | phase u8 | merges | absorbed… | changes of bounds | from | to | retention u8 |
//! children… | crc u32`. Integers are varints, bounds and lists have their length before them; a child is `shard | from | to |
//! version | voters…`. Phase, merges and absorbed shards are those of merges, which nothing writes yet: they are 0, 0 and none.
//! Must never: be written in another batch than the effects of the entry that changes it.
//!
//! A shard without this row has the bounds, the version and the retention that it was created with.

use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, counter};
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::system::Retention;

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
        out.u8(0);
        out.var(0);
        out.var(0);
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
        let merges = input.error("a merge, which this binary does not know");
        if input.u8()? != 0 || input.var()? != 0 || input.var()? != 0 {
            return Err(merges);
        }
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
        Ok(Self { version, from, to, retention, children })
    }
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
    use synod_cluster::buf::Writer;

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
        BoundsRow { version: 9, from, to, retention: Retention::All, children }
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

    /// The fields of merges are there, so that merges need no other format; what says one is refused until it is known.
    #[test]
    fn a_merge_is_refused() {
        let sound = row().encode();
        for at in 1..4 {
            let mut body = sound[..sound.len() - 4].to_vec();
            assert_eq!(body[at], 0);
            body[at] = 1;
            let row = Writer(body).into_checked();
            assert_eq!(BoundsRow::decode(row).unwrap_err().what, "a merge, which this binary does not know");
        }
    }
}
