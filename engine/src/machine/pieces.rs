//! In which spaces of the state store the records of a shard are.
//!
//! Owns: the list of pieces, and the way from positions to rows. Must never: read a row, or have a gap or an overlap.
//!
//! A shard that was split off leaves its records where they are, in the space of the shard that it came from. So the records of
//! one shard may be in several spaces, and one space may hold those of several shards. This is a node's own affair: a replica that
//! came by a snapshot has them all in one space.

pub use crate::codec::pieces::Piece;

use super::bounds::position_rows;
use crate::codec::keys::Bounds;
use crate::codec::pieces;
use bytes::Bytes;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::Space;
use synod_cluster::position::{below, lesser_end};
use synod_cluster::system::Descriptor;

/// Where the records of a shard are: pieces that tile its bounds, in order of position, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces(Vec<Piece>);

impl Pieces {
    /// All records are in one space.
    #[must_use]
    pub fn whole(descriptor: &Descriptor, space: Space) -> Self {
        Self(vec![Piece { from: descriptor.from.clone(), to: descriptor.to.clone(), space }])
    }

    /// The row of these pieces.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        pieces::encode(&self.0)
    }

    /// Reads back what [`Pieces::encode`] wrote.
    ///
    /// # Errors
    /// The row is damaged.
    pub fn decode(row: Bytes) -> Result<Self, DecodeError> {
        pieces::decode(row).map(Self)
    }

    /// The pieces, in order of position.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Piece> {
        self.0.iter()
    }

    /// Whether they tile the bounds of this shard.
    #[must_use]
    pub fn tile(&self, descriptor: &Descriptor) -> bool {
        let begin = self.0.first().is_some_and(|first| first.from == descriptor.from);
        let end = self.0.last().is_some_and(|last| last.to == descriptor.to);
        begin && end && self.0.windows(2).all(|two| !two[0].to.is_empty() && two[0].to == two[1].from)
    }

    /// The space of the rows at `position`, which must lie within the bounds.
    #[must_use]
    pub fn space_of(&self, position: &[u8]) -> Space {
        let next = self.0.partition_point(|piece| piece.from[..] <= *position);
        self.0[next.saturating_sub(1)].space
    }

    /// The space of a key's rows. Of a key outside of the bounds it is some space.
    #[must_use]
    pub fn space_of_key(&self, descriptor: &Descriptor, key: &[u8]) -> Space {
        match &self.0[..] {
            // The usual case: no position to compute.
            [only] => only.space,
            _ => self.space_of(&descriptor.partitioning.position(key)),
        }
    }

    /// Row bounds of the positions `[from, to)` (an empty `to`: no bound) that lie in the shard, one a piece, each with the
    /// space that it is in; in order of position, and none that is empty.
    #[must_use]
    pub fn parts(&self, descriptor: &Descriptor, from: &[u8], to: &[u8]) -> Vec<(Space, Bounds)> {
        let part = |piece: &Piece| {
            let (from, to) = (from.max(&piece.from[..]), lesser_end(to, &piece.to[..]));
            let (start, end) = position_rows(descriptor, piece.space, from, to);
            (start < end).then_some((piece.space, (start, end)))
        };
        self.0.iter().filter_map(part).collect()
    }

    /// Row bounds of the positions `[from, to)` that lie in the shard, one a piece, in order of position.
    #[must_use]
    pub fn rows(&self, descriptor: &Descriptor, from: &[u8], to: &[u8]) -> Vec<Bounds> {
        self.parts(descriptor, from, to).into_iter().map(|(_, rows)| rows).collect()
    }

    /// Keeps what is below `at`, which must lie inside the bounds, and returns the rest.
    #[must_use]
    pub fn cut(&mut self, at: &[u8]) -> Self {
        let (mut kept, mut rest) = (Vec::with_capacity(self.0.len()), Vec::new());
        for piece in std::mem::take(&mut self.0) {
            if *at <= piece.from[..] {
                rest.push(piece);
            } else if below(at, &piece.to) {
                let at = Bytes::copy_from_slice(at);
                rest.push(Piece { from: at.clone(), ..piece.clone() });
                kept.push(Piece { to: at, ..piece });
            } else {
                kept.push(piece);
            }
        }
        self.0 = kept;
        Self(rest)
    }

    /// The pieces of two neighbours, of which the first is the lower one. Pieces that adjoin in one space are one.
    #[must_use]
    pub fn join(lower: &Self, upper: &Self) -> Self {
        let mut all: Vec<Piece> = Vec::with_capacity(lower.0.len() + upper.0.len());
        for piece in lower.0.iter().chain(&upper.0) {
            match all.last_mut() {
                Some(last) if last.space == piece.space && last.to == piece.from => last.to = piece.to.clone(),
                _ => all.push(piece.clone()),
            }
        }
        Self(all)
    }

    /// Whether all records are in the shard's own space: then no row says where they are.
    #[must_use]
    pub fn is_whole(&self, own: Space) -> bool {
        self.0.iter().all(|piece| piece.space == own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::keys;
    use crate::machine::bounds::position_row;
    use crate::machine::tests::bench::descriptor;
    use synod_cluster::system::{Partitioning, Retention};

    const OWN: Space = Space(2);

    fn between(partitioning: Partitioning, from: &'static [u8], to: &'static [u8]) -> Descriptor {
        let mut d = descriptor(partitioning, Retention::All);
        (d.from, d.to) = (Bytes::from_static(from), Bytes::from_static(to));
        d
    }

    /// `[b, d)` in the own space, `[d, f)` and `[f, …)` in others.
    fn three(d: &Descriptor) -> Pieces {
        let piece = |from: &Bytes, to: &Bytes, space| Piece { from: from.clone(), to: to.clone(), space: Space(space) };
        let (low, high) = (Bytes::from_static(b"dddddddd"), Bytes::from_static(b"ffffffff"));
        Pieces(vec![piece(&d.from, &low, 2), piece(&low, &high, 7), piece(&high, &d.to, 8)])
    }

    #[test]
    fn all_records_are_in_one_space_until_they_are_not() {
        let d = between(Partitioning::Range, b"b", b"h");
        let whole = Pieces::whole(&d, OWN);
        assert!(whole.is_whole(OWN) && !whole.is_whole(Space(3)) && whole.tile(&d));
        assert_eq!(whole.rows(&d, b"", b""), [position_rows(&d, OWN, b"", b"")]);
        assert_eq!(whole.space_of_key(&d, b"c"), OWN);
        let divided = three(&d);
        assert!(!divided.is_whole(OWN) && divided.tile(&d));
        assert_eq!(Pieces::decode(divided.encode()), Ok(divided.clone()));
        let spaces = |keys: [&[u8]; 6]| keys.map(|key| divided.space_of_key(&d, key).0);
        assert_eq!(spaces([b"b", b"dddddddc\xff", b"dddddddd", b"e", b"ffffffff", b"g"]), [2, 2, 7, 7, 8, 8]);
        assert!(!divided.tile(&between(Partitioning::Range, b"b", b"i")));
        assert!(!divided.tile(&between(Partitioning::Range, b"a", b"h")));
    }

    #[test]
    fn rows_are_those_of_the_pieces_that_hold_the_positions() {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let d = between(partitioning, b"bbbbbbbb", b"hhhhhhhh");
            let pieces = three(&d);
            let row = |space, position: &[u8]| position_row(&d, Space(space), position);
            let of = |space, from: &[u8], to: &[u8]| (row(space, from), row(space, to));
            let all =
                [of(2, b"bbbbbbbb", b"dddddddd"), of(7, b"dddddddd", b"ffffffff"), of(8, b"ffffffff", b"hhhhhhhh")];
            assert_eq!(pieces.rows(&d, b"", b""), all);
            let back: Vec<Space> = pieces.iter().rev().map(|piece| piece.space).collect();
            assert_eq!(back, [Space(8), Space(7), Space(2)]);
            let inner = [of(2, b"cccccccc", b"dddddddd"), of(7, b"dddddddd", b"eeeeeeee")];
            assert_eq!(pieces.rows(&d, b"cccccccc", b"eeeeeeee"), inner);
            assert_eq!(pieces.rows(&d, b"dddddddd", b"ffffffff"), all[1..2]);
            assert_eq!(pieces.rows(&d, b"gggggggg", b""), [of(8, b"gggggggg", b"hhhhhhhh")]);
            assert!(pieces.rows(&d, b"eeeeeeee", b"eeeeeeee").is_empty());
            assert!(pieces.rows(&d, b"hhhhhhhh", b"").is_empty());
            let spaces: Vec<Space> = pieces.parts(&d, b"", b"e").iter().map(|(space, _)| *space).collect();
            assert_eq!(spaces, [Space(2), Space(7)]);
        }
        // Without bounds the outer pieces go to the ends of the table.
        let d = between(Partitioning::Range, b"", b"");
        let rows = three(&d).rows(&d, b"", b"");
        assert_eq!(rows[0].0, keys::table_bounds(OWN, d.table).0);
        assert_eq!(rows[2].1, keys::table_bounds(Space(8), d.table).1);
    }

    #[test]
    fn a_cut_leaves_every_position_in_its_space() {
        let d = between(Partitioning::Range, b"b", b"h");
        let spaces = |pieces: &Pieces| pieces.iter().map(|piece| piece.space.0).collect::<Vec<_>>();
        let cases: [(&[u8], &[u32], &[u32]); 4] = [
            (b"c", &[2], &[2, 7, 8]),
            (b"dddddddd", &[2], &[7, 8]),
            (b"e", &[2, 7], &[7, 8]),
            (b"g", &[2, 7, 8], &[8]),
        ];
        for (at, kept, rest) in cases {
            let mut low = three(&d);
            let high = low.cut(at);
            assert_eq!((spaces(&low), spaces(&high)), (kept.to_vec(), rest.to_vec()), "cut at {at:?}");
            let (mut left, mut right) = (d.clone(), d.clone());
            left.to = Bytes::copy_from_slice(at);
            right.from = Bytes::copy_from_slice(at);
            assert!(low.tile(&left) && high.tile(&right), "cut at {at:?}");
        }
        let mut whole = Pieces::whole(&between(Partitioning::Range, b"", b""), OWN);
        let rest = whole.cut(b"m");
        assert!(whole.is_whole(OWN) && rest.is_whole(OWN));
        assert!(
            whole.tile(&between(Partitioning::Range, b"", b"m")) && rest.tile(&between(Partitioning::Range, b"m", b""))
        );
    }
}
