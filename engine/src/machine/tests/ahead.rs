//! Entries that are got ready before their turn: what that reads, and what it leaves alone.

use super::bench::{Bench, Counting, TABLE, append, trim};
use crate::codec::keys;
use crate::command::{Op, RowFormat, marker};
use crate::machine::Wanted;
use crate::machine::ahead::LACKED_MAX;
use crate::machine::rows::{self, AddedUp};
use crate::state::mem::ColdRows;
use crate::state::{Fetch as _, StateStore};
use std::ops::ControlFlow;
use synod_cluster::ids::{Entry, EntryId, Offset, Slot, Space, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_paxos::types::Payload;

/// A key with so many hundreds of records without totals.
fn long(hundreds: u64) -> Bench {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    for n in 0..hundreds {
        b.write(n + 1, vec![append("k", &["12345"; 100])]).unwrap();
    }
    b
}

#[test]
fn what_is_ready_for_one_slot_is_not_taken_for_another() {
    let mut b = long(100);
    let (slot, table) = (b.state.applied().next(), TABLE);
    let first = b.entry_in(slot, 200, Op::Write { table, ops: vec![append("other", &["v"])] });
    let second = b.entry_in(slot.next(), 201, Op::Write { table, ops: vec![trim("k", 5_000)] });
    assert!(!b.state.prepare(&mut b.store, &second).unwrap(), "it takes three steps");
    assert!(b.state.prepare(&mut b.store, &first).unwrap(), "it waits for nothing");
    assert!(!b.state.prepare(&mut b.store, &second).unwrap());
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &first, Wanted::Nothing).unwrap();
    assert_eq!(b.head("other").unwrap().next, Offset(1));
    assert_eq!(b.head("k").unwrap().first, Offset(0));
    while !b.state.prepare(&mut b.store, &second).unwrap() {}
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &second, Wanted::Nothing).unwrap();
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes), (Offset(5_000), 25_000));
}

#[test]
fn a_marker_needs_nothing_got_ready() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    let id = EntryId { slot: Slot(1), ..EntryId::ZERO };
    let entry = Entry::new(id, 1, 0, Payload::Command(marker()));
    assert!(b.state.prepare(&mut b.store, &entry).unwrap());
    assert!(!b.state.is_preparing());
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    assert_eq!(b.state.applied(), Slot(1));
}

#[test]
fn a_write_of_another_table_is_refused_and_reads_nothing() {
    let mut b = long(1);
    let slot = b.state.applied().next();
    let entry = b.entry_in(slot, 10, Op::Write { table: TableId(9), ops: vec![trim("k", 30), append("k", &["v"])] });
    let mut store = Counting::new(&mut b.store);
    assert!(b.state.prepare(&mut store, &entry).unwrap());
    let effects = b.state.apply(&mut store, &mut b.overlay, &entry, Wanted::Results).unwrap();
    assert_eq!((effects.results, store.rows), (vec![Err(Refusal::WrongShard)], 0));
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next), (Offset(0), Offset(100)));
}

#[test]
fn a_few_rows_are_added_up_in_one_step() {
    let mut b = long(1);
    let slot = b.state.applied().next();
    let entry = b.entry_in(slot, 10, Op::Write { table: TABLE, ops: vec![trim("k", 30)] });
    let mut store = Counting::new(&mut b.store);
    assert!(b.state.prepare(&mut store, &entry).unwrap());
    assert_eq!(store.rows, 31, "the head, and what is dropped");
    let _ = b.state.apply(&mut store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    assert_eq!(store.rows, 31, "nothing is read again");
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes), (Offset(30), 350));
}

#[test]
fn rows_are_added_up_to_either_limit_and_no_further() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.write(1, vec![append("k", &["1", "22", "333", "4444", "55555"])]).unwrap();
    let d = b.state.descriptor().clone();
    let (from, to) = keys::history_bounds(Space(2), TABLE, d.partitioning.hash_of(b"k"), b"k", Offset(0));
    let mut sizes = vec![];
    b.store
        .scan(&from, &to, false, &mut |_, row| {
            sizes.push(row.len());
            ControlFlow::Continue(())
        })
        .unwrap();
    let three: usize = sizes[..3].iter().sum();
    for (rows_max, read_max, bytes, last) in [
        (u64::MAX, usize::MAX, 15, 4),
        (3, usize::MAX, 6, 2),
        (u64::MAX, three, 6, 2),
        (u64::MAX, three + 1, 10, 3),
        (1, 1, 1, 0),
    ] {
        let found = rows::add_up(&mut b.store, &d, &from, &to, (rows_max, read_max)).unwrap();
        assert_eq!(found, AddedUp { bytes, last: Some(Offset(last)) }, "{rows_max} rows, {read_max} bytes");
    }
}

/// What is stored by now is in no memory until it is fetched.
fn chilled(b: &mut Bench) -> ColdRows {
    let cold = ColdRows::default();
    b.store = std::mem::take(&mut b.store).cold(&cold);
    b.store.stay_in_memory(true);
    cold
}

#[test]
fn a_trim_with_totals_names_the_head_and_the_row_that_it_reads() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.format = RowFormat::Totals;
    for n in 0..3 {
        b.write(n + 1, vec![append("k", &["12345"; 10])]).unwrap();
    }
    let cold = chilled(&mut b);
    let slot = b.state.applied().next();
    let entry = b.entry_in(slot, 10, Op::Write { table: TABLE, ops: vec![trim("k", 15)] });
    for what in ["the head", "the record below the first that is kept"] {
        assert!(!b.state.prepare(&mut b.store, &entry).unwrap(), "{what}");
        let lacked = b.state.take_lacked(&mut b.store, &[]).unwrap();
        assert_eq!(lacked.len(), 1, "{what}");
        cold.fetch(&lacked[0]).unwrap();
    }
    assert!(b.state.prepare(&mut b.store, &entry).unwrap());
    assert_eq!(b.state.take_lacked(&mut b.store, &[]).unwrap(), []);
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    assert_eq!(cold.waited(), 0);
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes), (Offset(15), 75));
}

#[test]
fn sums_of_cold_rows_go_on_where_they_lacked_some() {
    let mut b = long(50);
    let cold = chilled(&mut b);
    let slot = b.state.applied().next();
    let entry = b.entry_in(slot, 200, Op::Write { table: TABLE, ops: vec![trim("k", 2_500)] });
    let mut fetches = 0;
    while !b.state.prepare(&mut b.store, &entry).unwrap() {
        for lacked in b.state.take_lacked(&mut b.store, &[]).unwrap() {
            cold.fetch(&lacked).unwrap();
            fetches += 1;
        }
    }
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes, cold.waited()), (Offset(2_500), 12_500, 0));
    assert!((2..5).contains(&fetches), "the head, and rows: {fetches}");
}

#[test]
fn what_is_named_at_once_is_bounded_and_new_keys_are_not_among_it() {
    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let ops = || keys.iter().map(|key| append(key, &["v"])).collect::<Vec<_>>();
    b.write(1, ops()).unwrap();
    let cold = chilled(&mut b);
    let slot = b.state.applied().next();
    let new = b.entry_in(slot, 2, Op::Write { table: TABLE, ops: vec![append("new", &["v"])] });
    assert!(b.state.prepare(&mut b.store, &new).unwrap(), "nothing is to be fetched for a key that is not there");
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &new, Wanted::Nothing).unwrap();

    let next =
        b.entry_in(slot.next(), 3, Op::Write { table: TABLE, ops: vec![append("new", &["v"]), append("k0", &["v"])] });
    let after = b.entry_in(slot.next().next(), 4, Op::Write { table: TABLE, ops: ops() });
    assert!(!b.state.prepare(&mut b.store, &next).unwrap());
    let lacked = b.state.take_lacked(&mut b.store, std::slice::from_ref(&after)).unwrap();
    assert_eq!(lacked.len(), LACKED_MAX, "one for this entry, the others for the one after it");
    lacked.iter().for_each(|row| cold.fetch(row).unwrap());
    assert!(b.state.prepare(&mut b.store, &next).unwrap());
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &next, Wanted::Nothing).unwrap();
    assert!(!b.state.prepare(&mut b.store, &after).unwrap());
    let lacked = b.state.take_lacked(&mut b.store, &[]).unwrap();
    assert_eq!(lacked.len(), 100 - LACKED_MAX);
    lacked.iter().for_each(|row| cold.fetch(row).unwrap());
    assert!(b.state.prepare(&mut b.store, &after).unwrap());
    let _ = b.state.apply(&mut b.store, &mut b.overlay, &after, Wanted::Nothing).unwrap();
    assert_eq!((b.head("k0").unwrap().next, b.head("k99").unwrap().next, cold.waited()), (Offset(3), Offset(2), 0));
}

#[test]
fn a_head_for_which_there_is_no_room_is_read_once_whatever_the_number_of_operations() {
    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    b.format = RowFormat::Totals;
    let value = "v".repeat(200 << 10);
    b.write(1, vec![append("a", &[&value]), append("b", &[&value])]).unwrap();
    let slot = b.state.applied().next();
    let ops = [vec![append("a", &["x"])], vec![append("b", &["x"]); 50]].concat();
    let entry = b.entry_in(slot, 10, Op::Write { table: TABLE, ops });
    let mut store = Counting::new(&mut b.store);
    assert!(b.state.prepare(&mut store, &entry).unwrap());
    assert_eq!(store.rows, 2);
    let _ = b.state.apply(&mut store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    assert_eq!(store.rows, 3, "the one that was not kept, again");
}
