//! Where a key lies in its table's order.
//!
//! Owns: the arithmetic of positions and of bounds, for nodes and clients alike. Must never: read a row, or know a shard's members.
//!
//! A position is the key on range tables, and on hash tables the 8-byte big-endian hash of the key followed by the key. Bounds are
//! `[from, to)`; an empty `to` is no bound.

use crate::system::{Descriptor, Partitioning};
use bytes::Bytes;
use std::borrow::Cow;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// The place of a hash table's key on the ring: XXH3-64 with seed 0.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

impl Partitioning {
    /// The hash that belongs into the rows of `key`: `None` on range tables.
    #[must_use]
    pub fn hash_of(self, key: &[u8]) -> Option<u64> {
        match self {
            Self::Range => None,
            Self::Hash => Some(key_hash(key)),
        }
    }

    /// The position of `key`.
    #[must_use]
    pub fn position(self, key: &[u8]) -> Cow<'_, [u8]> {
        match self.hash_of(key) {
            None => Cow::Borrowed(key),
            Some(hash) => Cow::Owned([&hash.to_be_bytes(), key].concat()),
        }
    }

    /// The key at a whole position.
    #[must_use]
    pub fn key_at(self, position: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Range => Some(position),
            Self::Hash => position.get(8..),
        }
    }
}

impl Descriptor {
    /// Whether the shard holds `key`.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.partitioning.hash_of(key) {
            None => within(key, &self.from, &self.to),
            Some(hash) => within(&hash.to_be_bytes(), &self.from, &self.to),
        }
    }
}

/// Whether `[from, to)` holds `what`.
#[must_use]
pub fn within(what: &[u8], from: &[u8], to: &[u8]) -> bool {
    from <= what && below(what, to)
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
    use crate::ids::{SYSTEM_SHARD, TableId};
    use crate::system::SystemState;

    fn descriptor(partitioning: Partitioning, from: &'static [u8], to: &'static [u8]) -> Descriptor {
        let mut d = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
        (d.table, d.partitioning) = (TableId(3), partitioning);
        (d.from, d.to) = (Bytes::from_static(from), Bytes::from_static(to));
        d
    }

    #[test]
    fn a_shard_holds_what_its_bounds_say() {
        let range = descriptor(Partitioning::Range, b"b", b"d");
        let held: Vec<bool> = [b"a", b"b", b"c", b"d"].iter().map(|k| range.contains(*k)).collect();
        assert_eq!(held, [false, true, true, false]);
        let low = descriptor(Partitioning::Hash, b"", b"\x80\0\0\0\0\0\0\0");
        let high = descriptor(Partitioning::Hash, b"\x80\0\0\0\0\0\0\0", b"");
        for i in 0..100u32 {
            let key = i.to_be_bytes();
            assert_ne!(low.contains(&key), high.contains(&key));
        }
    }

    #[test]
    fn a_hash_is_what_other_languages_compute() {
        assert_eq!(key_hash(b"abc"), 0x78af_5f94_892f_3950, "XXH3-64 with seed 0");
        let hashed = Partitioning::Hash.position(b"abc").into_owned();
        assert_eq!(hashed, b"\x78\xaf\x5f\x94\x89\x2f\x39\x50abc");
        assert_eq!(Partitioning::Hash.key_at(&hashed), Some(&b"abc"[..]));
        assert_eq!(Partitioning::Hash.key_at(b"short"), None);
    }

    #[test]
    fn bounds_end_where_they_should() {
        assert!(below(b"z", b"") && below(b"a", b"b") && !below(b"b", b"b"));
        assert_eq!(lesser_end("", "b"), "b");
        assert_eq!(lesser_end("a", ""), "a");
        assert_eq!(lesser_end("b", "a"), "a");
        assert_eq!(after(b"a"), "a\0");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "");
        assert_eq!(prefix_end(b""), "");
    }
}
