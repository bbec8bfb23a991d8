//! Splits that are applied again, and by replicas whose records are in other spaces.

use super::bench::{Bench, TABLE, append};
use super::split::{CHILD, apply, dump, entry, example, filled, middle, plan, records, write};
use crate::codec::keys;
use crate::command::{Admin, Split, WriteId, encode_admin, encode_requests};
use crate::genesis::Genesis;
use crate::machine::overlay::Overlay;
use crate::machine::{Born, Effects, ShardState, Wanted};
use crate::scrub::hash_rows;
use crate::snapshot::Throttle;
use crate::state::mem::{MemDisk, MemState};
use crate::state::{StateBatch, StateStore};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::ids::{ClientId, Entry, ShardId, Slot, Space};
use synod_cluster::system::{Partitioning, Retention};

const SPACE: Space = Space(2);

fn applied(state: &mut ShardState, store: &mut MemState, entry: &Entry) -> Effects {
    state.apply(store, &mut Overlay::default(), entry, Wanted::Nothing).unwrap()
}

/// Five writes on each side: the entries of the child, those of the parent are kept by the bench.
fn go_on(b: &mut Bench, child: &mut ShardState) -> Vec<Entry> {
    let mut entries = Vec::new();
    for n in 0..10u64 {
        let key = format!("k{n}");
        let request = write(example(n + 1), vec![append(&key, &["later"])]);
        let data = encode_requests([&request].into_iter(), 0);
        if child.descriptor().contains(key.as_bytes()) {
            let entry = entry(child, 600 + n, data);
            let _ = applied(child, &mut b.store, &entry);
            entries.push(entry);
        } else {
            let entry = entry(&b.state, 600 + n, data);
            let _ = applied(&mut b.state, &mut b.store, &entry);
            b.entries.push(entry);
        }
    }
    entries
}

/// The rows of a shard as a hash has them.
fn hashed(state: &mut ShardState, store: &mut MemState) -> u128 {
    state.store_sessions(store).unwrap();
    hash_rows(&mut dump(store), &state.replicated(), &mut Throttle::new(0)).unwrap().hash
}

/// The process ends without its last freeze, before the split or behind it: what comes again is the same, byte for byte.
#[test]
fn a_restart_finds_both_sides_or_makes_them_again() {
    for (partitioning, behind) in
        [(Partitioning::Range, false), (Partitioning::Hash, false), (Partitioning::Hash, true)]
    {
        let disk = MemDisk::default();
        let mut b = filled(partitioning, Retention::All);
        let founded = Genesis::Shard(b.state.descriptor().clone());
        // The same rows, on a disk.
        let mut store = MemState::open(&disk);
        store.apply(StateBatch { rows: dump(&mut b.store).into_iter().map(|(k, v)| (k, Some(v))).collect() }).unwrap();
        b.store = store;
        b.state.store_sessions(&mut b.store).unwrap();
        b.store.freeze().unwrap();
        let frozen = b.state.applied();
        b.write(450, vec![append("k0", &["v"])]).unwrap();
        let Born { state: mut child, descriptor } = b.born(500, &middle(partitioning));
        if behind {
            b.state.store_sessions(&mut b.store).unwrap();
            child.store_sessions(&mut b.store).unwrap();
            b.store.freeze().unwrap();
        }
        let entries = go_on(&mut b, &mut child);
        b.state.store_sessions(&mut b.store).unwrap();
        child.store_sessions(&mut b.store).unwrap();

        let mut store = MemState::open(&disk);
        let mut parent = ShardState::load(&mut store, SPACE, founded).unwrap();
        let mut again = None;
        if behind {
            assert_eq!(parent.applied(), Slot(frozen.0 + 2));
            let genesis = Genesis::Shard(descriptor.clone());
            again = Some(ShardState::load(&mut store, Space(40), genesis).unwrap());
        }
        let done = parent.applied();
        for entry in b.entries.iter().filter(|entry| entry.id.slot > done) {
            if let Some(born) = applied(&mut parent, &mut store, entry).child {
                assert_eq!(born.descriptor, descriptor);
                again = Some(born.state);
            }
        }
        let mut again = again.expect("the child is there");
        assert_eq!((again.applied(), again.space()), (Slot(0), Space(40)));
        for entry in &entries {
            let _ = applied(&mut again, &mut store, entry);
        }
        parent.store_sessions(&mut store).unwrap();
        again.store_sessions(&mut store).unwrap();
        assert_eq!(dump(&mut store), dump(&mut b.store), "{partitioning:?}, behind the split: {behind}");
        for (found, kept) in [(&parent, &b.state), (&again, &child)] {
            assert_eq!(found.descriptor(), kept.descriptor());
            assert_eq!((found.pieces(), found.children()), (kept.pieces(), kept.children()));
            assert_eq!((found.applied(), found.last_ts()), (kept.applied(), kept.last_ts()));
            assert_eq!(found.sessions().len(), kept.sessions().len());
        }
    }
}

#[test]
fn a_child_begins_with_every_session_of_its_parent_as_a_row_of_its_own() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    for client in 0..5u128 {
        for seq in 1..=3 {
            let id = WriteId { client: ClientId(client), ..example(seq) };
            b.entry(seq, &[write(id, vec![append("z", &["v"])])]);
        }
    }
    let mut child = b.born(10, b"m").state;
    child.store_sessions(&mut b.store).unwrap();
    b.state.store_sessions(&mut b.store).unwrap();
    let rows = dump(&mut b.store);
    let of = |space| {
        let (from, to) = keys::session_bounds(space);
        let rows = rows.range(from..to).map(|(key, row)| (keys::parse_session(key).unwrap().1, row.clone()));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(of(Space(40)).len(), 5);
    assert_eq!(of(Space(40)), of(SPACE));
}

/// The parent's state was made anew in a space of its own, from the beginning of its log, while the child went on.
#[test]
fn a_child_that_is_here_already_is_left_alone() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = Bench::new(partitioning, Retention::All);
        let founded = Genesis::Shard(b.state.descriptor().clone());
        for n in 0..10 {
            b.write(n, vec![append(&format!("k{n}"), &["v"])]).unwrap();
        }
        let at = middle(partitioning);
        let Born { state: mut child, descriptor } = b.born(500, &at);
        go_on(&mut b, &mut child);
        child.store_sessions(&mut b.store).unwrap();
        let before = records(&child, &mut b.store);
        let of_child = |rows: &BTreeMap<Vec<u8>, Bytes>| {
            let owned = child.owned();
            let mine = |key: &[u8]| owned.iter().any(|(from, to)| from[..] <= *key && *key < to[..]);
            rows.iter().filter(|(key, _)| mine(key)).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
        };
        let kept = of_child(&dump(&mut b.store));
        assert!(kept.len() > 10);

        let anew = Space(0x8000_0007);
        let mut parent = ShardState::load(&mut b.store, anew, founded).unwrap();
        for entry in &b.entries {
            let effects = applied(&mut parent, &mut b.store, entry);
            assert!(effects.child.is_none(), "it is here");
            assert_eq!(effects.refused, None);
        }
        assert_eq!(parent.descriptor(), b.state.descriptor());
        assert_eq!(parent.children(), b.state.children());
        assert_eq!(records(&parent, &mut b.store), records(&b.state, &mut b.store));
        assert_eq!(of_child(&dump(&mut b.store)), kept);
        let whole = keys::table_bounds(anew, TABLE);
        let rows = dump(&mut b.store);
        let owned = parent.owned();
        let stray =
            rows.range(whole.0..whole.1).find(|(key, _)| !owned.iter().any(|(from, to)| from <= *key && *key < to));
        assert_eq!(stray, None, "what the parent has given up and nobody uses is gone");
        let mut found = ShardState::load(&mut b.store, Space(40), Genesis::Shard(descriptor)).unwrap();
        assert_eq!((found.applied(), records(&found, &mut b.store)), (child.applied(), before));
        assert!(apply(&mut found, &mut b.store, 900, &write(example(99), vec![])).is_ok(), "and goes on");
    }
}

/// The parent alone is behind: it applies the split again in the same space, over records that the child has added to since.
#[test]
fn a_split_that_comes_again_in_the_same_space_takes_nothing_from_the_child() {
    let mut b = filled(Partitioning::Range, Retention::All);
    let founded = Genesis::Shard(b.state.descriptor().clone());
    b.state.store_sessions(&mut b.store).unwrap();
    let applied_row = b.store.get(&keys::applied(SPACE)).unwrap();
    let mut child = b.born(500, b"k5").state;
    let split = b.entries.last().unwrap().clone();
    apply(&mut child, &mut b.store, 510, &write(example(1), vec![append("k7", &["later"])])).unwrap();
    let before = records(&child, &mut b.store);
    let rows = vec![(keys::bounds_row(SPACE), None), (keys::applied(SPACE), applied_row)];
    b.store.apply(StateBatch { rows }).unwrap();
    let mut parent = ShardState::load(&mut b.store, SPACE, founded).unwrap();
    assert_eq!(parent.applied().next(), split.id.slot);
    assert!(applied(&mut parent, &mut b.store, &split).child.is_none());
    assert_eq!(records(&child, &mut b.store), before);
    assert_eq!(parent.descriptor(), b.state.descriptor());
}

/// One replica has its records where the split left them, the other in one space, as after a snapshot.
#[test]
fn replicas_whose_records_are_in_other_spaces_split_alike() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = filled(partitioning, Retention::All);
        let Born { state: mut first, descriptor } = b.born(500, &middle(partitioning));
        first.store_sessions(&mut b.store).unwrap();
        let mut store = MemState::new();
        let all = dump(&mut b.store);
        for (from, to) in first.replicated() {
            let rows = all
                .range(from..to)
                .map(|(key, row)| ([&40u32.to_be_bytes()[..], &key[4..]].concat(), Some(row.clone())));
            store.apply(StateBatch { rows: rows.collect() }).unwrap();
        }
        let mut second = ShardState::load(&mut store, Space(40), Genesis::Shard(descriptor)).unwrap();
        assert_ne!(first.pieces(), second.pieces());
        assert_eq!(hashed(&mut first, &mut b.store), hashed(&mut second, &mut store));

        let mut positions: Vec<Vec<u8>> =
            records(&first, &mut b.store).iter().map(|(key, ..)| partitioning.position(key).into_owned()).collect();
        positions.dedup();
        let mut at = positions.swap_remove(2);
        at.truncate(8);
        let split = Split { child: ShardId(41), ..plan(&first, &at) };
        let entry = entry(&first, 700, encode_admin(&Admin::Split(split)));
        let mut children = Vec::new();
        for (state, store) in [(&mut first, &mut b.store), (&mut second, &mut store)] {
            let born = *applied(state, store, &entry).child.expect("it counts");
            children.push(born);
        }
        assert_eq!(children[0].descriptor, children[1].descriptor);
        let key = String::from_utf8(records(&children[0].state, &mut b.store)[0].0.to_vec()).unwrap();
        let request = write(example(9), vec![append(&key, &["v"])]);
        let (mut of_second, mut of_first) = (children.pop().unwrap().state, children.pop().unwrap().state);
        let results =
            (apply(&mut of_first, &mut b.store, 800, &request), apply(&mut of_second, &mut store, 800, &request));
        assert!(results.0.is_ok());
        assert_eq!(results.0, results.1);
        assert_eq!(hashed(&mut of_first, &mut b.store), hashed(&mut of_second, &mut store), "the child's child");
        assert_eq!(hashed(&mut first, &mut b.store), hashed(&mut second, &mut store), "the child");
        assert_eq!(first.descriptor().shard, CHILD);
        // The whole of the lower side has not changed.
        assert_eq!(records(&of_first, &mut b.store), records(&of_second, &mut store));
    }
}
