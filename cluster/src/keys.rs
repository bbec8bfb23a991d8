//! Which shard of a table holds a key.
//!
//! Owns: the position of a key under its table's partitioning. Must never: read a row, or know a shard's members.

use crate::position::{key_hash, within};
use crate::system::{Descriptor, Partitioning};
use std::borrow::Cow;

impl Partitioning {
    /// Whether a shard with these bounds can be split at `at`: keys may be on both sides. The first hash has two names, itself and no lower
    /// bound at all: nothing lies below it.
    #[must_use]
    pub fn divides(self, at: &[u8], from: &[u8], to: &[u8]) -> bool {
        let is_first = self == Self::Hash && at.iter().all(|byte| *byte == 0);
        !is_first && crate::position::divides(at, from, to)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SYSTEM_SHARD, TableId};
    use crate::system::SystemState;
    use bytes::Bytes;

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
    fn a_position_on_a_hash_table_is_hash_and_key() {
        let hashed = Partitioning::Hash.position(b"abc").into_owned();
        assert_eq!(hashed, b"\x78\xaf\x5f\x94\x89\x2f\x39\x50abc");
        assert_eq!(Partitioning::Hash.key_at(&hashed), Some(&b"abc"[..]));
        assert_eq!(Partitioning::Hash.key_at(b"short"), None);
    }
}
