//! The row that says in which spaces the records of a shard are.
//!
//! Owns: version 1 of the row: `version u8 | count | (from | to | space)… | crc u32`, integers as varints, bounds with their
//! length before them. Must never: be part of a snapshot file or of a hash: spaces are a node's own, and replicas may differ.

use super::bounds::range;
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put};
use synod_cluster::ids::Space;

/// The version this module writes.
pub const VERSION: u8 = 1;

/// Fewest bytes of a piece.
const PIECE_BYTES: usize = 3;

/// A range of positions whose record rows are in one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Lower bound, inclusive.
    pub from: Bytes,
    /// Upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Where the rows are.
    pub space: Space,
}

/// The row of these pieces.
#[must_use]
pub fn encode(pieces: &[Piece]) -> Bytes {
    let bounds: usize = pieces.iter().map(|piece| piece.from.len() + piece.to.len() + 10).sum();
    let mut out = super::begin(VERSION, 16 + bounds);
    out.var(pieces.len() as u64);
    for piece in pieces {
        out.bytes(&piece.from);
        out.bytes(&piece.to);
        out.var(piece.space.0.into());
    }
    out.into_checked()
}

/// Decodes what [`encode`] wrote: at least one piece, each of which begins where the one before it ends.
pub fn decode(row: Bytes) -> Result<Vec<Piece>, DecodeError> {
    let mut input = super::open(row, VERSION)?;
    let none = input.error("no piece");
    let count = input.count(PIECE_BYTES)?;
    if count == 0 {
        return Err(none);
    }
    let mut pieces: Vec<Piece> = Vec::with_capacity(count);
    for _ in 0..count {
        let gap = input.error("pieces that do not adjoin");
        let (from, to) = range(&mut input)?;
        if pieces.last().is_some_and(|last| last.to.is_empty() || last.to != from) {
            return Err(gap);
        }
        let beyond = input.error("a space above 2^32");
        let space = u32::try_from(input.var()?).map(Space).map_err(|_| beyond)?;
        pieces.push(Piece { from, to, space });
    }
    input.finish()?;
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: &'static str, to: &'static str, space: u32) -> Piece {
        Piece { from: Bytes::from_static(from.as_bytes()), to: Bytes::from_static(to.as_bytes()), space: Space(space) }
    }

    #[test]
    fn pieces_come_back() {
        for pieces in [vec![piece("", "", 0)], vec![piece("a", "c", 5), piece("c", "d", u32::MAX), piece("d", "", 5)]] {
            assert_eq!(decode(encode(&pieces)), Ok(pieces));
        }
    }

    #[test]
    fn pieces_that_do_not_tile_are_refused() {
        let refused = |pieces: &[Piece]| decode(encode(pieces)).unwrap_err().what;
        assert_eq!(refused(&[]), "no piece");
        assert_eq!(refused(&[piece("a", "b", 5), piece("c", "d", 6)]), "pieces that do not adjoin");
        assert_eq!(refused(&[piece("a", "c", 5), piece("b", "d", 6)]), "pieces that do not adjoin");
        assert_eq!(refused(&[piece("a", "", 5), piece("", "d", 6)]), "pieces that do not adjoin");
        assert_eq!(refused(&[piece("b", "a", 5)]), "bounds that hold nothing");
    }
}
