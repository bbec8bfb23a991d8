//! Where a key lies: in which shard, at which position, in which rows.
//!
//! Owns: the arithmetic of positions. A position is the key on range tables, and on hash tables the 8-byte big-endian
//! hash of the key followed by the key. Must never: read a row.

use crate::codec::keys::{self, Bounds};
use crate::ids::Space;
use crate::system::{Descriptor, Partitioning};
use std::borrow::Cow;

/// The hash that belongs into the rows of `key`: `None` on range tables.
#[must_use]
pub fn row_hash(descriptor: &Descriptor, key: &[u8]) -> Option<u64> {
    match descriptor.partitioning {
        Partitioning::Range => None,
        Partitioning::Hash => Some(keys::key_hash(key)),
    }
}

/// Whether `[from, to)` holds `what`; an empty `to` is no bound.
#[must_use]
pub fn within(what: &[u8], from: &[u8], to: &[u8]) -> bool {
    from <= what && (to.is_empty() || what < to)
}

/// Whether the shard holds `key`.
#[must_use]
pub fn contains(descriptor: &Descriptor, key: &[u8]) -> bool {
    match row_hash(descriptor, key) {
        None => within(key, &descriptor.from, &descriptor.to),
        Some(hash) => within(&hash.to_be_bytes(), &descriptor.from, &descriptor.to),
    }
}

/// The position of `key`.
#[must_use]
pub fn position<'a>(descriptor: &Descriptor, key: &'a [u8]) -> Cow<'a, [u8]> {
    match row_hash(descriptor, key) {
        None => Cow::Borrowed(key),
        Some(hash) => Cow::Owned([&hash.to_be_bytes(), key].concat()),
    }
}

/// The row at which `position` begins: the rows of all lower positions come before, those of all others do not.
#[must_use]
pub fn position_row(descriptor: &Descriptor, space: Space, position: &[u8]) -> Vec<u8> {
    match descriptor.partitioning {
        Partitioning::Range => keys::record_prefix(space, descriptor.table, None, position),
        Partitioning::Hash => {
            let mut hash = [0; 8];
            let len = position.len().min(8);
            hash[..len].copy_from_slice(&position[..len]);
            let (hash, key) = (u64::from_be_bytes(hash), &position[len..]);
            if key.is_empty() {
                keys::hash_bounds(space, descriptor.table, hash, None).0
            } else {
                keys::record_prefix(space, descriptor.table, Some(hash), key)
            }
        }
    }
}

/// The key at a whole position.
#[must_use]
pub fn position_key<'a>(descriptor: &Descriptor, position: &'a [u8]) -> Option<&'a [u8]> {
    match descriptor.partitioning {
        Partitioning::Range => Some(position),
        Partitioning::Hash => position.get(8..),
    }
}

/// The rows of the positions `[from, to)` (an empty `to`: no bound) that lie in the shard.
#[must_use]
pub fn position_rows(descriptor: &Descriptor, space: Space, from: &[u8], to: &[u8]) -> Bounds {
    let from = from.max(&descriptor.from[..]);
    let to = lesser_end(to, &descriptor.to);
    let (start, end) = keys::table_bounds(space, descriptor.table);
    (
        if from.is_empty() { start } else { position_row(descriptor, space, from) },
        if to.is_empty() { end } else { position_row(descriptor, space, to) },
    )
}

/// The lesser of two upper bounds; empty is no bound.
#[must_use]
pub fn lesser_end<'a>(a: &'a [u8], b: &'a [u8]) -> &'a [u8] {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b,
        (_, true) => a,
        _ => a.min(b),
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
    fn positions_order_as_their_rows_do() {
        let space = Space(2);
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let d = descriptor(partitioning, b"", b"");
            let mut keys: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0b", b"b", b"\0", b"\xff\xff", b"ab"];
            keys.sort_by_key(|k| position(&d, k).into_owned());
            let rows = |k: &[u8]| position_row(&d, space, &position(&d, k));
            assert!(keys.windows(2).all(|w| rows(w[0]) < rows(w[1])));
            for key in keys {
                let head = keys::record_head(space, d.table, row_hash(&d, key), key);
                let at = position(&d, key).into_owned();
                let after = [&at[..], b"\0"].concat();
                assert!(position_row(&d, space, &at) <= head && head < position_row(&d, space, &after));
                assert_eq!(position_key(&d, &at), Some(key));
            }
        }
    }

    #[test]
    fn a_shard_holds_what_its_bounds_say() {
        let range = descriptor(Partitioning::Range, b"b", b"d");
        let held: Vec<bool> = [b"a", b"b", b"c", b"d"].iter().map(|k| contains(&range, *k)).collect();
        assert_eq!(held, [false, true, true, false]);
        let low = descriptor(Partitioning::Hash, b"", b"\x80\0\0\0\0\0\0\0");
        let high = descriptor(Partitioning::Hash, b"\x80\0\0\0\0\0\0\0", b"");
        for i in 0..100u32 {
            let key = i.to_be_bytes();
            assert_ne!(contains(&low, &key), contains(&high, &key));
        }
    }
}
