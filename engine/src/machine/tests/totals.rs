//! Which keys have totals, what these say, and what is read and removed by them.

use super::bench::{Bench, Counting, TABLE, append, trim};
use crate::codec::record::{Newest, Totals};
use crate::command::{Op, RowFormat};
use crate::machine::Wanted;
use synod_cluster::ids::Offset;
use synod_cluster::system::{Partitioning, Retention};

/// Older nodes read the rows of plain entries: only a key that has totals already goes on with them.
#[test]
fn a_plain_entry_begins_no_totals_and_keeps_those_there_are() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    for ts in [10, 20, 30] {
        b.write(ts, vec![append("k", &["v"])]).unwrap();
    }
    b.write(40, vec![trim("k", 1)]).unwrap();
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes, head.totals), (Offset(1), 2, None));
    b.format = RowFormat::Totals;
    b.write(50, vec![trim("k", 2)]).unwrap();
    let head = b.head("k").unwrap();
    let begun = Totals { since: Offset(3), total: 0, gone_ts_us: 20 };
    assert_eq!((head.first, head.bytes, head.totals), (Offset(2), 1, Some(begun)));
    b.format = RowFormat::Plain;
    b.write(60, vec![append("k", &["four"])]).unwrap();
    // At the very offset from which on there are totals.
    b.write(70, vec![trim("k", 3)]).unwrap();
    let head = b.head("k").unwrap();
    let kept = Totals { since: Offset(3), total: 4, gone_ts_us: 30 };
    assert_eq!((head.first, head.bytes, head.totals), (Offset(3), 4, Some(kept)));
}

#[test]
fn a_key_that_keeps_its_newest_record_only_has_no_totals() {
    let mut b = Bench::new(Partitioning::Range, Retention::Latest);
    b.format = RowFormat::Totals;
    b.write(10, vec![append("k", &["1", "22"])]).unwrap();
    let slot = b.state.applied().next();
    let entry = b.entry_in(slot, 20, Op::Write { table: TABLE, ops: vec![trim("k", 2)] });
    let mut store = Counting::new(&mut b.store);
    let _ = b.state.apply(&mut store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
    assert_eq!((store.changes, store.ranges), (2, 0), "its head and the position");
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.newest, head.totals), (Offset(2), Newest::None, None));
}

#[test]
fn an_entry_trims_what_it_appends_itself() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.format = RowFormat::Totals;
    // Another key gets records of the same offsets in between.
    let ops = vec![append("a", &["1", "22", "333"]), append("b", &["4444", "55555", "666666"]), trim("a", 1)];
    b.write(7, ops).unwrap();
    let head = b.head("a").unwrap();
    let totals = Totals { since: Offset(0), total: 6, gone_ts_us: 7 };
    assert_eq!((head.first, head.next, head.bytes, head.totals), (Offset(1), Offset(3), 5, Some(totals)));
    assert_eq!(b.head("b").unwrap().bytes, 15);
    // The first of those appended, and all that were there.
    b.write(8, vec![append("a", &["7777777", "88888888"]), trim("a", 4)]).unwrap();
    let head = b.head("a").unwrap();
    let totals = Totals { since: Offset(0), total: 21, gone_ts_us: 8 };
    assert_eq!((head.first, head.bytes, head.totals), (Offset(4), 8, Some(totals)));
}

#[test]
fn a_trim_of_all_records_reads_the_head_and_no_record() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.format = RowFormat::Totals;
    b.write(10, vec![append("k", &["v"; 50])]).unwrap();
    b.write(20, vec![append("k", &["v"; 50])]).unwrap();
    // When the entry is got ready: what was found then is used when it is applied.
    assert_eq!(b.reads_of(30, vec![trim("k", 100)]), (1, 1));
    let head = b.head("k").unwrap();
    let totals = Totals { since: Offset(0), total: 100, gone_ts_us: 20 };
    assert_eq!((head.first, head.bytes, head.totals), (Offset(100), 0, Some(totals)));
}

#[test]
fn few_dropped_rows_go_one_by_one_and_more_as_a_range() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.write(10, vec![append("k", &["v"; 200])]).unwrap();
    // With the rows dropped, the head and the position.
    for (before, changes, ranges) in [(1, 3, 0), (65, 66, 0), (130, 2, 1), (194, 66, 0)] {
        let slot = b.state.applied().next();
        let entry = b.entry_in(slot, before, Op::Write { table: TABLE, ops: vec![trim("k", before)] });
        let mut store = Counting::new(&mut b.store);
        let _ = b.state.apply(&mut store, &mut b.overlay, &entry, Wanted::Nothing).unwrap();
        assert_eq!((store.changes, store.ranges), (changes, ranges), "below {before}");
    }
}
