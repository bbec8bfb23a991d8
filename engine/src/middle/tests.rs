//! The search over rows in memory, and over RocksDB.

use super::*;
use crate::state::front::FrontState;
use crate::state::rocks::{RocksShared, StateOptions};
use crate::state::{StateBatch, StateStore};
use std::collections::BTreeMap;
use synod_cluster::ids::{Offset, SYSTEM_SHARD, ShardId, Space, TableId};
use synod_cluster::position::key_hash;
use synod_cluster::system::SystemState;

type Rows = BTreeMap<Vec<u8>, Bytes>;

const SPACE: Space = Space(2);
const TABLE: TableId = TableId(3);

fn descriptor(partitioning: Partitioning, from: &'static [u8], to: &'static [u8]) -> Descriptor {
    let mut d = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
    (d.shard, d.table, d.partitioning) = (ShardId(2), TABLE, partitioning);
    (d.from, d.to) = (Bytes::from_static(from), Bytes::from_static(to));
    d
}

/// So many records of a key, of so many bytes each.
fn put(rows: &mut Rows, space: Space, d: &Descriptor, key: &str, records: u64, bytes: usize) {
    let hash = d.partitioning.hash_of(key.as_bytes());
    rows.insert(keys::record_head(space, TABLE, hash, key.as_bytes()), Bytes::from_static(b"head"));
    for n in 0..records {
        let row = keys::record_history(space, TABLE, hash, key.as_bytes(), Offset(n));
        // What does not shrink where blocks are compressed.
        let seed = key.bytes().fold(n, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .take(bytes)
        .collect();
        rows.insert(row, value.into());
    }
}

fn whole(rows: &mut Rows, d: &Descriptor) -> Found {
    find(rows, d, &[keys::table_bounds(SPACE, TABLE)]).unwrap()
}

fn permille(found: &Found) -> u64 {
    found.middle.as_ref().expect("there is a middle").below * 1000 / found.bytes
}

/// Few bytes, which are counted, and many, which are searched.
const SIZES: [usize; 2] = [10, 10_000];

#[test]
fn the_middle_is_a_key_with_half_of_the_bytes_below_it() {
    let d = descriptor(Partitioning::Range, b"", b"");
    for bytes in SIZES {
        let mut rows = Rows::new();
        for n in 0..1000 {
            put(&mut rows, SPACE, &d, &format!("user/{n:012}/profile"), 1, bytes);
        }
        let found = whole(&mut rows, &d);
        assert_eq!(found.bytes, rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>());
        let share = permille(&found);
        assert!((480..=520).contains(&share), "{share} ‰ of records of {bytes} bytes are below {found:?}");
        let at = std::str::from_utf8(&found.middle.unwrap().at).unwrap().to_owned();
        assert!(at.starts_with("user/0000000") && at.ends_with("/profile"), "{at}");
    }
}

#[test]
fn a_large_key_is_never_cut_and_one_with_nearly_all_has_no_middle() {
    let d = descriptor(Partitioning::Range, b"", b"");
    for bytes in SIZES {
        let of = |records: u64| {
            let mut rows = Rows::new();
            for n in 0..40 {
                put(&mut rows, SPACE, &d, &format!("a{n:02}"), 5, bytes);
                put(&mut rows, SPACE, &d, &format!("z{n:02}"), 10, bytes);
            }
            put(&mut rows, SPACE, &d, "m", records, bytes);
            whole(&mut rows, &d)
        };
        // 200 of 1,200 below, 400 above.
        let found = of(600);
        let middle = found.middle.clone().unwrap();
        assert!(middle.at == "z00", "the large key stays with what is below it: {middle:?}");
        let share = permille(&found);
        assert!((620..=700).contains(&share), "{share} ‰");
        assert_eq!(of(6_000).middle, None, "{bytes}");
    }
    // One key alone, and none.
    let mut rows = Rows::new();
    assert_eq!(whole(&mut rows, &d), Found::default());
    put(&mut rows, SPACE, &d, "only", 300, 10_000);
    assert_eq!(whole(&mut rows, &d).middle, None);
}

#[test]
fn a_hash_table_is_cut_at_a_hash() {
    let d = descriptor(Partitioning::Hash, b"", b"");
    for bytes in SIZES {
        let mut rows = Rows::new();
        for n in 0..1000 {
            put(&mut rows, SPACE, &d, &format!("k{n}"), 1, bytes);
        }
        let found = whole(&mut rows, &d);
        let share = permille(&found);
        assert!((480..=520).contains(&share), "{share} ‰");
        let at = found.middle.unwrap().at;
        let hash = u64::from_be_bytes(at[..].try_into().expect("eight bytes"));
        assert!((0..1000).any(|n| key_hash(format!("k{n}").as_bytes()) == hash), "the hash of a key");
    }
}

#[test]
fn pieces_in_several_spaces_are_one_shard() {
    let d = descriptor(Partitioning::Range, b"b", b"y");
    for bytes in SIZES {
        // The upper part is in the space with the lower number.
        let (high, low) = (Space(1), Space(9));
        let mut rows = Rows::new();
        for n in 0..300 {
            put(&mut rows, low, &d, &format!("c{n:03}"), 1, bytes);
        }
        for n in 0..500 {
            put(&mut rows, high, &d, &format!("p{n:03}"), 1, bytes);
        }
        // Another shard's.
        put(&mut rows, high, &d, "z", 900, bytes);
        let pieces = [
            keys::range_bounds(low, TABLE, Some(b"b"), Some(b"m")),
            keys::range_bounds(high, TABLE, Some(b"m"), Some(b"y")),
        ];
        let found = find(&mut rows, &d, &pieces).unwrap();
        let at = found.middle.clone().unwrap().at;
        assert!(within(&at, b"p080", b"p121"), "{at:?}");
        assert!((480..=520).contains(&permille(&found)));
    }
}

#[test]
fn a_step_lies_between_two_keys() {
    for (low, high) in
        [("a", "b"), ("a", "a\u{1}"), ("user/0001", "user/9"), ("", "z"), ("abc", "abcdefghijklmnopqrstuvwxyz")]
    {
        let at = between(low.as_bytes(), high.as_bytes()).expect("there is room");
        assert!(*low.as_bytes() < at[..] && at[..] < *high.as_bytes(), "{low:?} {at:?} {high:?}");
    }
    assert_eq!(between(b"b", b"a"), None);
    assert_eq!(between(b"a", b"a"), None);
    assert_eq!(between(b"a", b"a\0"), None);
}

/// By the sizes that RocksDB knows to a block, with rows that are in memory until the freeze.
#[test]
fn the_middle_is_found_in_a_store_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let shared = RocksShared::open(dir.path(), StateOptions::default()).unwrap();
    let mut store = FrontState::new(shared, 64 << 20).unwrap();
    let d = descriptor(Partitioning::Range, b"", b"");
    let look = |store: &mut FrontState| {
        store.freeze().unwrap();
        let (tell, told) = crossbeam_channel::bounded(1);
        let d = d.clone();
        let job = move |view: &mut dyn StateView| {
            tell.send(find(view, &d, &[keys::table_bounds(SPACE, TABLE)])).unwrap();
        };
        store.view(Box::new(job)).unwrap();
        told.recv().unwrap().unwrap()
    };
    let apply = |store: &mut FrontState, rows: Rows| {
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
        store.apply(StateBatch { rows }).unwrap();
    };
    // A few records are counted.
    let mut rows = Rows::new();
    for n in 0..10 {
        put(&mut rows, SPACE, &d, &format!("k{n}"), 1, 100);
    }
    apply(&mut store, rows);
    assert_eq!(&look(&mut store).middle.unwrap().at[..], b"k5");
    // Many are not.
    let mut rows = Rows::new();
    for n in 0..1000 {
        put(&mut rows, SPACE, &d, &format!("key/{n:06}"), 1, 2000);
    }
    apply(&mut store, rows);
    let found = look(&mut store);
    assert!((1_900_000..2_500_000).contains(&found.bytes), "{}", found.bytes);
    let at = String::from_utf8(found.middle.clone().unwrap().at.to_vec()).unwrap();
    assert!(("key/000450".to_owned()..="key/000550".to_owned()).contains(&at), "{at}");
    let share = permille(&found);
    assert!((450..=550).contains(&share), "{share} ‰");
    // Once it is compacted, and through a handle of another thread.
    store.flush_and_wait().unwrap();
    let (from, to) = keys::table_bounds(SPACE, TABLE);
    let size = store.measure().expect("it says").size(&from, &to);
    assert!((1_900_000..2_500_000).contains(&size), "{size}");
    let mut rows = Rows::new();
    put(&mut rows, SPACE, &d, "zz", 12_000, 2000);
    apply(&mut store, rows);
    assert_eq!(look(&mut store).middle, None, "one key has nearly all");
}
