//! Positions in a table's order.
//!
//! Owns: the arithmetic of positions and of bounds, for nodes and clients alike. Must never: know a table or a shard.
//!
//! A position is the key on range tables, and on hash tables the 8-byte big-endian hash of the key followed by the key. Bounds are
//! `[from, to)`; an empty `to` is no bound.

use bytes::Bytes;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// The place of a hash table's key on the ring: XXH3-64 with seed 0.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Whether `[from, to)` holds `what`.
#[must_use]
pub fn within(what: &[u8], from: &[u8], to: &[u8]) -> bool {
    from <= what && below(what, to)
}

/// Whether bounds can be divided at `at`: as positions, something is left on both sides.
#[must_use]
pub fn divides(at: &[u8], from: &[u8], to: &[u8]) -> bool {
    from != at && within(at, from, to)
}

/// Whether `what` lies below the upper bound `to`.
#[must_use]
pub fn below(what: &[u8], to: &[u8]) -> bool {
    to.is_empty() || what < to
}

/// The lesser of two upper bounds.
#[must_use]
pub fn lesser_end<'a, B: AsRef<[u8]> + ?Sized>(a: &'a B, b: &'a B) -> &'a B {
    let (left, right) = (a.as_ref(), b.as_ref());
    if left.is_empty() || (!right.is_empty() && right < left) { b } else { a }
}

/// The first position after `position`.
#[must_use]
pub fn after(position: &[u8]) -> Bytes {
    [position, &[0]].concat().into()
}

/// The first key after all that begin with `prefix`; empty where there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |at| at + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_other_languages_compute() {
        assert_eq!(key_hash(b"abc"), 0x78af_5f94_892f_3950, "XXH3-64 with seed 0");
    }

    #[test]
    fn bounds_end_where_they_should() {
        assert!(below(b"z", b"") && below(b"a", b"b") && !below(b"b", b"b"));
        assert!(divides(b"b", b"a", b"c") && divides(b"b", b"", b""));
        assert!(!divides(b"a", b"a", b"c") && !divides(b"c", b"a", b"c") && !divides(b"", b"", b"c"));
        assert_eq!(lesser_end("", "b"), "b");
        assert_eq!(lesser_end("a", ""), "a");
        assert_eq!(lesser_end("b", "a"), "a");
        assert_eq!(after(b"a"), "a\0");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "");
        assert_eq!(prefix_end(b""), "");
    }
}
