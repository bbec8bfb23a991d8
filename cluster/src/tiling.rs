//! What lies over which positions.
//!
//! Owns: tiles, none of which overlaps another, and how something new is laid over them. Must never: leave a position bare that was
//! covered.

use crate::position::{below, lesser_end};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Tiles over positions, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiling<T> {
    /// By lower bound: the upper bound, empty for none, and what lies there.
    tiles: BTreeMap<Bytes, (Bytes, T)>,
}

impl<T> Default for Tiling<T> {
    fn default() -> Self {
        Self { tiles: BTreeMap::new() }
    }
}

impl<T: Clone + PartialEq> Tiling<T> {
    /// How many tiles there are.
    pub(crate) fn len(&self) -> usize {
        self.tiles.len()
    }

    /// Every tile: its bounds, and what lies there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes, &T)> {
        self.tiles.iter().map(|(from, (to, what))| (from, to, what))
    }

    /// The tile that covers a position.
    pub(crate) fn get(&self, position: &[u8]) -> Option<(&Bytes, &Bytes, &T)> {
        let upto: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Included(position));
        let (from, (to, what)) = self.tiles.range::<[u8], _>(upto).next_back()?;
        below(position, to).then_some((from, to, what))
    }

    /// The lower bounds of the tiles that `[from, to)` touches, in order.
    fn touched(&self, from: &[u8], to: &[u8]) -> Vec<Bytes> {
        let first = self.get(from).map(|(from, ..)| from.clone());
        // The tile at `from` itself is the first, where there is one.
        let after: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Excluded(from), Bound::Unbounded);
        let rest = self.tiles.range::<[u8], _>(after).map(|(from, _)| from).take_while(|at| below(at, to)).cloned();
        first.into_iter().chain(rest).collect()
    }

    /// Whether a position of `[from, to)` is bare, or `newer` says so of what lies there.
    pub(crate) fn is_news(&self, from: &Bytes, to: &Bytes, newer: impl Fn(&T) -> bool) -> bool {
        let mut covered = from;
        for at in self.touched(from, to) {
            let Some((end, old)) = self.tiles.get(&at) else { continue };
            if newer(old) || *covered < at {
                return below(from, to);
            }
            covered = end;
            if lesser_end(end, to) == to {
                return false;
            }
        }
        below(from, to)
    }

    /// Lays `what` over those positions of `[from, to)` that are bare, and over those where `newer` says so of what lies there.
    pub(crate) fn lay(&mut self, from: &Bytes, to: &Bytes, what: &T, newer: impl Fn(&T) -> bool) {
        if !below(from, to) {
            return;
        }
        let mut pieces: Vec<(Bytes, Bytes, T)> = Vec::new();
        // From where on nothing is decided yet; `None` once all of the range is.
        let mut open = Some(from.clone());
        for at in self.touched(from, to) {
            let Some((end, old)) = self.tiles.remove(&at) else { continue };
            if at < *from {
                pieces.push((at.clone(), from.clone(), old.clone()));
            }
            let begin = if at < *from { from.clone() } else { at };
            if let Some(open) = open.take().filter(|open| *open < begin) {
                pieces.push((open, begin.clone(), what.clone()));
            }
            let upto = lesser_end(&end, to).clone();
            let stays = if newer(&old) { what.clone() } else { old.clone() };
            pieces.push((begin, upto.clone(), stays));
            if upto != end {
                pieces.push((upto.clone(), end, old));
            }
            open = (upto != *to).then_some(upto);
        }
        pieces.extend(open.map(|open| (open, to.clone(), what.clone())));
        self.put_back(pieces);
    }

    /// Puts tiles in their places, which are bare; equal neighbours among them become one.
    fn put_back(&mut self, pieces: Vec<(Bytes, Bytes, T)>) {
        let mut last: Option<(Bytes, Bytes, T)> = None;
        for (from, to, what) in pieces {
            last = Some(match last {
                Some((begin, end, before)) if end == from && before == what => (begin, to, what),
                Some((begin, end, before)) => {
                    self.tiles.insert(begin, (end, before));
                    (from, to, what)
                }
                None => (from, to, what),
            });
        }
        if let Some((from, to, what)) = last {
            self.tiles.insert(from, (to, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn lay(tiling: &mut Tiling<u64>, from: &str, to: &str, what: u64) {
        tiling.lay(&bytes(from), &bytes(to), &what, |old| *old < what);
    }

    fn tiles(tiling: &Tiling<u64>) -> Vec<(String, String, u64)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        tiling.iter().map(|(from, to, what)| (text(from), text(to), *what)).collect()
    }

    fn tile(from: &str, to: &str, what: u64) -> (String, String, u64) {
        (from.into(), to.into(), what)
    }

    #[test]
    fn what_is_bare_or_less_is_news() {
        let mut tiling = Tiling::default();
        let news = |tiling: &Tiling<u64>, from: &str, to: &str, what: u64| {
            tiling.is_news(&bytes(from), &bytes(to), |old| *old < what)
        };
        assert!(news(&tiling, "", "", 1) && !news(&tiling, "b", "a", 1));
        lay(&mut tiling, "c", "m", 2);
        lay(&mut tiling, "m", "p", 3);
        for (from, to, what, wanted) in [
            ("c", "p", 2, false),
            ("c", "m", 3, true),
            ("d", "e", 2, false),
            ("m", "n", 3, false),
            ("c", "n", 3, true),
            ("b", "d", 1, true),
            ("o", "q", 1, true),
            ("c", "", 1, true),
            ("q", "", 1, true),
        ] {
            assert_eq!(news(&tiling, from, to, what), wanted, "{from} {to} {what}");
        }
        lay(&mut tiling, "p", "", 1);
        assert!(!news(&tiling, "c", "", 1) && news(&tiling, "c", "", 2));
    }

    #[test]
    fn the_greater_lies_above_and_the_rest_of_what_was_there_stays() {
        let mut tiling = Tiling::default();
        lay(&mut tiling, "c", "m", 2);
        lay(&mut tiling, "", "", 1);
        assert_eq!(tiles(&tiling), [tile("", "c", 1), tile("c", "m", 2), tile("m", "", 1)]);
        lay(&mut tiling, "b", "d", 3);
        assert_eq!(tiles(&tiling), [tile("", "b", 1), tile("b", "d", 3), tile("d", "m", 2), tile("m", "", 1)]);
        lay(&mut tiling, "a", "e", 1);
        assert_eq!(tiling.len(), 4, "nothing older is laid over it");
        lay(&mut tiling, "a", "", 4);
        assert_eq!(tiles(&tiling), [tile("", "a", 1), tile("a", "", 4)]);
        lay(&mut tiling, "x", "x", 9);
        lay(&mut tiling, "x", "b", 9);
        assert_eq!(tiling.len(), 2, "a range of nothing");
        assert_eq!(tiling.get(b"a").map(|(.., what)| *what), Some(4));
        assert_eq!(Tiling::<u64>::default().get(b"a"), None);
    }

    /// Against a plain list of positions.
    #[test]
    fn each_position_has_what_the_list_has() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        for _ in 0..500 {
            let (mut tiling, mut list) = (Tiling::default(), [0u64; 16]);
            for _ in 0..12 {
                let (from, to, what) = (below(16), below(17), 1 + below(9));
                let bound = |at: u64| Bytes::from(vec![u8::try_from(at).unwrap()]);
                let (low, high) = (bound(from), if to == 16 { Bytes::new() } else { bound(to) });
                tiling.lay(&low, &high, &what, |old| *old < what);
                for at in from..to {
                    let at = usize::try_from(at).unwrap();
                    list[at] = list[at].max(what);
                }
                let found: Vec<u64> = (0..16u8).map(|at| tiling.get(&[at]).map_or(0, |(.., what)| *what)).collect();
                assert_eq!(found, list);
                let bounds: Vec<_> = tiling.iter().map(|(from, to, _)| (from.clone(), to.clone())).collect();
                let apart = |w: &[(Bytes, Bytes)]| !w[0].1.is_empty() && w[0].1 <= w[1].0;
                assert!(bounds.windows(2).all(apart), "{bounds:?}");
            }
        }
    }
}
