//! Which rows the positions of a shard have.
//!
//! Owns: the way from positions (`synod_cluster::position`) to bounds of rows. Must never: read a row.

use crate::codec::keys::{self, Bounds};
use synod_cluster::ids::Space;
use synod_cluster::position::lesser_end;
use synod_cluster::system::{Descriptor, Partitioning};

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

/// The rows of the positions `[from, to)` (an empty `to`: no bound) that lie in the shard.
#[must_use]
pub fn position_rows(descriptor: &Descriptor, space: Space, from: &[u8], to: &[u8]) -> Bounds {
    let from = from.max(&descriptor.from[..]);
    let to = lesser_end(to, &descriptor.to[..]);
    let (start, end) = keys::table_bounds(space, descriptor.table);
    (
        if from.is_empty() { start } else { position_row(descriptor, space, from) },
        if to.is_empty() { end } else { position_row(descriptor, space, to) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use synod_cluster::ids::{SYSTEM_SHARD, TableId};
    use synod_cluster::system::SystemState;

    fn descriptor(partitioning: Partitioning, from: &'static [u8], to: &'static [u8]) -> Descriptor {
        let mut d = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
        (d.table, d.partitioning) = (TableId(3), partitioning);
        (d.from, d.to) = (Bytes::from_static(from), Bytes::from_static(to));
        d
    }

    #[test]
    fn all_positions_have_all_rows_of_the_table_and_a_hash_those_of_its_keys() {
        let space = Space(2);
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let d = descriptor(partitioning, b"", b"");
            assert_eq!(position_rows(&d, space, b"", b""), keys::table_bounds(space, d.table));
            let part = descriptor(partitioning, b"bbbbbbbb", b"dddddddd");
            let row = |position: &[u8]| position_row(&part, space, position);
            assert_eq!(position_rows(&part, space, b"", b""), (row(b"bbbbbbbb"), row(b"dddddddd")));
            assert_eq!(position_rows(&part, space, b"a", b"cccccccc"), (row(b"bbbbbbbb"), row(b"cccccccc")));
        }
        let d = descriptor(Partitioning::Hash, b"", b"");
        let of_hash = keys::hash_bounds(space, d.table, 7, Some(8));
        assert_eq!(position_rows(&d, space, &7u64.to_be_bytes(), &8u64.to_be_bytes()), of_hash);
    }

    #[test]
    fn positions_order_as_their_rows_do() {
        let space = Space(2);
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let d = descriptor(partitioning, b"", b"");
            let mut keys: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0b", b"b", b"\0", b"\xff\xff", b"ab"];
            keys.sort_by_key(|k| d.partitioning.position(k).into_owned());
            let rows = |k: &[u8]| position_row(&d, space, &d.partitioning.position(k));
            assert!(keys.windows(2).all(|w| rows(w[0]) < rows(w[1])));
            for key in keys {
                let head = keys::record_head(space, d.table, d.partitioning.hash_of(key), key);
                let at = d.partitioning.position(key).into_owned();
                let after = [&at[..], b"\0"].concat();
                assert!(position_row(&d, space, &at) <= head && head < position_row(&d, space, &after));
                assert_eq!(d.partitioning.key_at(&at), Some(key));
            }
        }
    }
}
