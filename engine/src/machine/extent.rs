//! What a shard holds and where its rows are, as the state store says it.
//!
//! Owns: the reading of the two rows that say so, and the ranges of rows that follow. Must never: write or remove a row.

use super::pieces::Pieces;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::bounds::{BoundsRow, ChildMark, Phase};
use crate::codec::keys::{self, Bounds};
use bytes::Bytes;
use synod_cluster::ids::{SYSTEM_SHARD, ShardId, Space};
use synod_cluster::system::Descriptor;

/// What a shard holds, and where its rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The descriptor that the shard was created with, with today's bounds, version and retention.
    pub descriptor: Descriptor,
    /// Shards that were split off, as far as the map is not known to have them.
    pub children: Vec<ChildMark>,
    /// Where it is in a merge.
    pub phase: Phase,
    /// Merges begun with it as their target.
    pub merges: u64,
    /// Shards that went into it, as far as the map is not known to have dropped them.
    pub absorbed: Vec<ShardId>,
    /// The own space.
    pub space: Space,
    /// Where the records are.
    pub pieces: Pieces,
    /// Neither row is there: the shard never shared a space, and all of its own space is its.
    pub alone: bool,
}

impl Extent {
    /// Of a shard that neither row says anything of.
    #[must_use]
    pub fn beginning(space: Space, descriptor: Descriptor) -> Self {
        let pieces = Pieces::whole(&descriptor, space);
        let (children, phase, merges, absorbed) = (Vec::new(), Phase::Alone, 0, Vec::new());
        Self { descriptor, children, phase, merges, absorbed, space, pieces, alone: true }
    }

    /// Reads the two rows from the own space of a shard that was created with `descriptor`; `get` reads a row.
    ///
    /// # Errors
    /// A row is damaged or cannot be read, or the rows do not fit each other.
    pub fn read(
        mut get: impl FnMut(&[u8]) -> Result<Option<Bytes>, StoreError>,
        space: Space,
        mut descriptor: Descriptor,
    ) -> Result<Self, StoreError> {
        let shard = descriptor.shard;
        let bounds = get(&keys::bounds_row(space))?.map(BoundsRow::decode).transpose();
        let bounds = bounds.map_err(|e| e.corrupt(format!("bounds of shard {shard}")))?;
        let pieces = get(&keys::pieces_row(space))?.map(Pieces::decode).transpose();
        let pieces = pieces.map_err(|e| e.corrupt(format!("pieces of shard {shard}")))?;
        let alone = bounds.is_none() && pieces.is_none();
        let (mut children, mut phase, mut merges, mut absorbed) = (Vec::new(), Phase::Alone, 0, Vec::new());
        if let Some(row) = bounds {
            (descriptor.version, descriptor.retention) = (row.version, row.retention);
            (descriptor.from, descriptor.to) = (row.from, row.to);
            (children, phase, merges, absorbed) = (row.children, row.phase, row.merges, row.absorbed);
        }
        let pieces = pieces.unwrap_or_else(|| Pieces::whole(&descriptor, space));
        if !pieces.tile(&descriptor) {
            let why = "they do not cover the bounds of the shard".into();
            return Err(StoreError::Corrupt { what: format!("pieces of shard {shard}"), why });
        }
        Ok(Self { descriptor, children, phase, merges, absorbed, space, pieces, alone })
    }

    /// The ranges of rows that the replica owns.
    #[must_use]
    pub fn owned(&self) -> Vec<Bounds> {
        owned(&self.descriptor, self.space, &self.pieces)
    }

    /// What goes with the replica: what it owns; where it is alone, all of its space. What others own is to be left out.
    #[must_use]
    pub fn to_remove(&self) -> Vec<Bounds> {
        if self.alone { vec![keys::space_bounds(self.space)] } else { self.owned() }
    }

    /// The spaces that rows of the replica may be in.
    pub fn spaces(&self) -> impl Iterator<Item = Space> {
        std::iter::once(self.space).chain(self.pieces.iter().map(|piece| piece.space))
    }
}

/// The rows that each of these owns. A replica that never shared its space owns all of it, less what the others own there: it may have
/// lost the rows that say more.
#[must_use]
pub fn owned_by_each(extents: &[Extent]) -> Vec<Vec<Bounds>> {
    let shared = joined(extents.iter().filter(|extent| !extent.alone).flat_map(Extent::owned).collect());
    let owned = |extent: &Extent| if extent.alone { without(&extent.to_remove(), &shared) } else { extent.owned() };
    extents.iter().map(owned).collect()
}

/// The ranges of rows that a replica owns in the state store: its own rows, and the records of its pieces.
#[must_use]
pub(super) fn owned(descriptor: &Descriptor, space: Space, pieces: &Pieces) -> Vec<Bounds> {
    let mut all = vec![keys::own_bounds(space)];
    all.extend(content(descriptor, space, pieces));
    all
}

/// Those of the rows owned that all replicas have alike, in the order of a snapshot file: the keys without their spaces rise.
#[must_use]
pub(super) fn replicated(descriptor: &Descriptor, space: Space, pieces: &Pieces) -> Vec<Bounds> {
    let mut all = vec![keys::replicated_bounds(space)];
    all.extend(content(descriptor, space, pieces));
    all
}

/// The records; of the system shard, which has none, its metadata.
fn content(descriptor: &Descriptor, space: Space, pieces: &Pieces) -> Vec<Bounds> {
    if descriptor.shard == SYSTEM_SHARD {
        return vec![(keys::own_bounds(space).1, keys::space_bounds(space).1)];
    }
    pieces.rows(descriptor, b"", b"")
}

/// The same ranges, sorted, those that touch or overlap made one.
#[must_use]
pub fn joined(mut ranges: Vec<Bounds>) -> Vec<Bounds> {
    ranges.sort_unstable();
    let mut all: Vec<Bounds> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match all.last_mut() {
            Some((_, end)) if from <= *end => *end = std::mem::take(end).max(to),
            _ => all.push((from, to)),
        }
    }
    all
}

/// What is left of `ranges` without `less`, which is [`joined`].
#[must_use]
pub fn without(ranges: &[Bounds], less: &[Bounds]) -> Vec<Bounds> {
    let mut left = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        let mut at = from.clone();
        let first = less.partition_point(|(_, end)| *end <= *from);
        for (start, end) in less[first..].iter().take_while(|(start, _)| start < to) {
            if at < *start {
                left.push((at, start.clone()));
            }
            at = end.clone();
        }
        if at < *to {
            left.push((at, to.clone()));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::pieces::{self, Piece};
    use crate::machine::tests::bench::descriptor;
    use synod_cluster::system::{Partitioning, Retention};

    const OWN: Space = Space(2);

    fn range(from: &str, to: &str) -> Bounds {
        (from.into(), to.into())
    }

    #[test]
    fn what_others_own_is_left_out() {
        let less = joined(vec![range("m", "p"), range("c", "e"), range("d", "f"), range("f", "g")]);
        assert_eq!(less, [range("c", "g"), range("m", "p")]);
        type Spans<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Spans, Spans); 7] = [
            (&[("a", "b"), ("x", "y")], &[("a", "b"), ("x", "y")]),
            (&[("a", "z")], &[("a", "c"), ("g", "m"), ("p", "z")]),
            (&[("c", "g")], &[]),
            (&[("d", "n")], &[("g", "m")]),
            (&[("a", "d"), ("o", "z")], &[("a", "c"), ("p", "z")]),
            (&[("g", "m")], &[("g", "m")]),
            (&[("n", "o")], &[]),
        ];
        for (ranges, left) in cases {
            let all = |ranges: &[(&str, &str)]| ranges.iter().map(|(from, to)| range(from, to)).collect::<Vec<_>>();
            assert_eq!(without(&all(ranges), &less), all(left), "{ranges:?}");
        }
        assert_eq!(without(&[range("a", "z")], &[]), [range("a", "z")]);
    }

    #[test]
    fn rows_override_what_a_shard_was_created_with() {
        let created = descriptor(Partitioning::Range, Retention::All);
        let child = ChildMark {
            shard: ShardId(9),
            from: Bytes::from_static(b"m"),
            to: Bytes::new(),
            version: 4,
            voters: vec![],
        };
        let (from, to) = (Bytes::from_static(b"b"), Bytes::from_static(b"m"));
        let (retention, children) = (Retention::Latest, vec![child.clone()]);
        let (phase, merges, absorbed) = (Phase::Alone, 3, vec![ShardId(8)]);
        let row = BoundsRow { version: 4, from, to, retention, children, phase, merges, absorbed };
        let piece = |from: &'static [u8], to: &'static [u8], space| Piece {
            from: Bytes::from_static(from),
            to: Bytes::from_static(to),
            space: Space(space),
        };
        let divided = pieces::encode(&[piece(b"b", b"d", 7), piece(b"d", b"m", 2)]);
        let read = |bounds: Option<Bytes>, pieces: Option<Bytes>| {
            let get = |key: &[u8]| {
                let found = if *key == keys::bounds_row(OWN)[..] { &bounds } else { &pieces };
                Ok(found.clone())
            };
            Extent::read(get, OWN, created.clone())
        };

        let none = read(None, None).unwrap();
        assert_eq!((&none.descriptor, none.alone, none.children.len()), (&created, true, 0));
        assert_eq!(none.to_remove(), [keys::space_bounds(OWN)]);
        assert_eq!(none.owned(), [keys::own_bounds(OWN), keys::table_bounds(OWN, created.table)]);

        let bounds = read(Some(row.encode()), None).unwrap();
        assert_eq!((bounds.descriptor.version, bounds.descriptor.retention), (4, Retention::Latest));
        assert_eq!((&bounds.descriptor.from[..], &bounds.descriptor.to[..]), (&b"b"[..], &b"m"[..]));
        assert_eq!((bounds.alone, &bounds.children[..]), (false, &[child][..]));
        assert_eq!((bounds.merges, &bounds.absorbed[..]), (3, &[ShardId(8)][..]));
        let records =
            |space, from: &[u8], to: &[u8]| keys::range_bounds(Space(space), created.table, Some(from), Some(to));
        assert_eq!(bounds.owned(), [keys::own_bounds(OWN), records(2, b"b", b"m")]);

        assert_eq!(bounds.to_remove(), bounds.owned());

        let both = read(Some(row.encode()), Some(divided.clone())).unwrap();
        assert_eq!(both.owned(), [keys::own_bounds(OWN), records(7, b"b", b"d"), records(2, b"d", b"m")]);
        assert_eq!(both.spaces().collect::<Vec<_>>(), [Space(2), Space(7), Space(2)]);

        let error = read(None, Some(divided)).unwrap_err().to_string();
        assert_eq!(error, "damaged pieces of shard 2: they do not cover the bounds of the shard");
        let mut damaged = row.encode().to_vec();
        damaged[4] ^= 1;
        let error = read(Some(damaged.into()), None).unwrap_err().to_string();
        assert!(error.starts_with("damaged bounds of shard 2: checksum mismatch"), "{error}");
    }
}
