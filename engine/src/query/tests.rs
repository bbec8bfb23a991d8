use super::*;
use crate::command::{Action, Expect, RowFormat};
use crate::host::{Scan, TailPoll};
use crate::machine::tests::bench::{Bench, append, delete, op};
use synod_cluster::system::{Partitioning, Retention};

fn get(b: &mut Bench, key: &str, at: At) -> Result<Option<(u64, String)>, Refusal> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match read(&b.state, &mut b.store, &Read::Get { key, at }).unwrap()? {
        Answer::Record { record, .. } => {
            Ok(record.map(|r| (r.offset.0, String::from_utf8(r.record.value.to_vec()).unwrap())))
        }
        other => panic!("{other:?}"),
    }
}

fn found(offset: u64, value: &str) -> Result<Option<(u64, String)>, Refusal> {
    Ok(Some((offset, value.into())))
}

#[test]
fn get_by_offset_and_time() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    assert_eq!(get(&mut b, "k", At::Newest), Ok(None));
    for n in 0..10u64 {
        b.write(100 + 10 * n, vec![append("k", &[&format!("v{n}")])]).unwrap();
    }
    assert_eq!(get(&mut b, "k", At::Newest), found(9, "v9"));
    assert_eq!(get(&mut b, "k", At::Offset(Offset(3))), found(3, "v3"));
    assert_eq!(get(&mut b, "k", At::Offset(Offset(10))), Ok(None));
    for (ts, expected) in [(99, None), (100, Some(0)), (109, Some(0)), (110, Some(1)), (189, Some(8)), (999, Some(9))] {
        assert_eq!(get(&mut b, "k", At::Time(ts)).unwrap().map(|(o, _)| o), expected, "at {ts}");
    }
    b.write(500, vec![op("k", Expect::Any, Action::Trim(Offset(5)))]).unwrap();
    assert_eq!(get(&mut b, "k", At::Offset(Offset(4))), Err(Refusal::Trimmed { key: "k".into(), first: Offset(5) }));
    assert_eq!(get(&mut b, "k", At::Time(149)), Err(Refusal::Trimmed { key: "k".into(), first: Offset(5) }));
    b.write(600, vec![delete("k")]).unwrap();
    assert_eq!(get(&mut b, "k", At::Newest), Ok(None));
    assert_eq!(get(&mut b, "k", At::Offset(Offset(10))), found(10, ""));
    assert_eq!(get(&mut b, "k", At::Time(599)), found(9, "v9"));
    assert_eq!(get(&mut b, "k", At::Time(600)), Ok(None));
}

#[test]
fn get_on_a_latest_table() {
    let mut b = Bench::new(Partitioning::Range, Retention::Latest);
    b.write(10, vec![append("k", &["a"])]).unwrap();
    b.write(20, vec![append("k", &["b"])]).unwrap();
    assert_eq!(get(&mut b, "k", At::Newest), found(1, "b"));
    assert_eq!(get(&mut b, "k", At::Offset(Offset(1))), found(1, "b"));
    assert_eq!(get(&mut b, "k", At::Offset(Offset(0))), Err(Refusal::Trimmed { key: "k".into(), first: Offset(1) }));
    assert_eq!(get(&mut b, "k", At::Time(15)), Err(Refusal::Trimmed { key: "k".into(), first: Offset(1) }));
    assert_eq!(get(&mut b, "k", At::Time(20)), found(1, "b"));
}

fn range(b: &mut Bench, from: u64, limit: usize) -> (Vec<u64>, Vec<u8>) {
    let wanted = Read::Range { key: Bytes::from_static(b"k"), from: Offset(from), limit };
    match read(&b.state, &mut b.store, &wanted).unwrap().unwrap() {
        Answer::Page { records, cursor, .. } => (records.iter().map(|r| r.offset.0).collect(), cursor.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_range_comes_in_pages() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    assert_eq!(range(&mut b, 0, 3), (vec![], vec![]));
    b.write(1, vec![append("k", &["0", "1", "2", "3", "4"]), append("kk", &["x"])]).unwrap();
    assert_eq!(range(&mut b, 0, 2), (vec![0, 1], 2u64.to_be_bytes().to_vec()));
    assert_eq!(range(&mut b, 2, 3), (vec![2, 3, 4], vec![]));
    assert_eq!(range(&mut b, 9, 3), (vec![], vec![]));
    let big = "x".repeat(600_000);
    b.write(2, vec![append("k", &[&big, &big, &big])]).unwrap();
    assert_eq!(range(&mut b, 5, 0), (vec![5, 6], 7u64.to_be_bytes().to_vec()));
}

/// All pages of a scan, as (key, offset), and how many they were.
fn pages(b: &mut Bench, wanted: Scan) -> (Vec<(String, u64)>, usize) {
    let (mut all, mut count) = (vec![], 0);
    let mut wanted = wanted;
    loop {
        match read(&b.state, &mut b.store, &Read::Scan(wanted.clone())).unwrap().unwrap() {
            Answer::Page { records, cursor, .. } => {
                all.extend(records.iter().map(|r| (String::from_utf8(r.key.to_vec()).unwrap(), r.offset.0)));
                (wanted.cursor, count) = (cursor, count + 1);
            }
            other => panic!("{other:?}"),
        }
        if wanted.cursor.is_empty() {
            return (all, count);
        }
    }
}

fn filled(partitioning: Partitioning, retention: Retention) -> Bench {
    let mut b = Bench::new(partitioning, retention);
    let mut ts = 0;
    // Key n gets n % 4 + 1 records; every tenth is deleted at the end.
    for n in 0..50u64 {
        for _ in 0..=n % 4 {
            ts += 10;
            b.write(ts, vec![append(&format!("k{n:02}"), &["v"])]).unwrap();
        }
        if n % 10 == 0 {
            ts += 10;
            b.write(ts, vec![delete(&format!("k{n:02}"))]).unwrap();
        }
    }
    b
}

fn live(tombstones: bool) -> Vec<(String, u64)> {
    let newest = |n: u64| n % 4 + u64::from(n.is_multiple_of(10));
    (0..50).filter(|n| tombstones || n % 10 != 0).map(|n| (format!("k{n:02}"), newest(n))).collect()
}

#[test]
fn scans_show_the_newest_of_each_key_in_order() {
    for retention in [Retention::Latest, Retention::All] {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let mut b = filled(partitioning, retention);
            for tombstones in [false, true] {
                for keys_only in [false, true] {
                    let wanted = Scan { tombstones, keys_only, limit: 7, ..Scan::default() };
                    let (mut there, count) = pages(&mut b, wanted.clone());
                    let (mut back, _) = pages(&mut b, Scan { reverse: true, ..wanted });
                    back.reverse();
                    assert_eq!(there, back);
                    assert_eq!(count, there.len().div_ceil(7));
                    if partitioning == Partitioning::Range {
                        assert!(there.is_sorted());
                    }
                    there.sort();
                    assert_eq!(there, live(tombstones));
                }
            }
        }
    }
}

#[test]
fn scans_keep_to_their_bounds() {
    let key = |s: &'static str| Bytes::from_static(s.as_bytes());
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = filled(partitioning, Retention::All);
        let wanted = Scan { from: key("k13"), to: key("k17"), limit: 3, ..Scan::default() };
        let (mut there, _) = pages(&mut b, wanted);
        there.sort();
        let names: Vec<&str> = there.iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(names, ["k13", "k14", "k15", "k16"]);
        // Two halves in position order make the whole.
        let middle = match partitioning {
            Partitioning::Range => key("k2"),
            Partitioning::Hash => Bytes::from_static(&[0x80]),
        };
        let (mut low, _) = pages(&mut b, Scan { pos_to: middle.clone(), ..Scan::default() });
        let (high, _) = pages(&mut b, Scan { pos_from: middle, ..Scan::default() });
        assert!(!low.is_empty() && !high.is_empty());
        low.extend(high);
        low.sort();
        assert_eq!(low, live(false));
    }
}

#[test]
fn history_scans_give_every_record_once_in_offset_order() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        for limit in [1, 5, 1000] {
            let mut b = filled(partitioning, Retention::All);
            let wanted = Scan { history: true, tombstones: true, limit, ..Scan::default() };
            let (mut all, _) = pages(&mut b, wanted);
            let before = all.clone();
            all.sort();
            if partitioning == Partitioning::Range {
                assert_eq!(all, before);
            }
            let expected: Vec<_> =
                live(true).into_iter().flat_map(|(k, newest)| (0..=newest).map(move |o| (k.clone(), o))).collect();
            assert_eq!(all, expected);
        }
        let mut b = filled(partitioning, Retention::Latest);
        let (all, _) = pages(&mut b, Scan { history: true, limit: 3, ..Scan::default() });
        assert_eq!(all.len(), 45);
    }
}

#[test]
fn long_histories_are_stepped_over() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    for n in 0..300u64 {
        b.write(1000 + n, vec![append("long", &["v"]), append("m", &["v"])]).unwrap();
    }
    b.write(5000, vec![append("z", &["v"])]).unwrap();
    let newest = [("long", 299), ("m", 299), ("z", 0)].map(|(k, o)| (k.to_owned(), o)).to_vec();
    assert_eq!(pages(&mut b, Scan::default()), (newest.clone(), 1));
    assert_eq!(
        pages(&mut b, Scan { limit: 3, ..Scan::default() }),
        (newest.clone(), 1),
        "a full last page has no cursor"
    );
    let (mut back, _) = pages(&mut b, Scan { reverse: true, limit: 1, ..Scan::default() });
    back.reverse();
    assert_eq!(back, newest);
    let wanted = Scan { history: true, after_ts: 1100, upto_ts: 1102, ..Scan::default() };
    let expected: Vec<_> = ["long", "m"].iter().flat_map(|k| [(k.to_string(), 101), (k.to_string(), 102)]).collect();
    assert_eq!(pages(&mut b, wanted).0, expected);
    let wanted = Scan { after_ts: 1299, ..Scan::default() };
    assert_eq!(pages(&mut b, wanted).0, [("z".to_owned(), 0)]);
}

#[test]
fn nonsense_cursors_are_refused() {
    let mut b = filled(Partitioning::Range, Retention::All);
    for (cursor, history) in [(&b"\x09k"[..], false), (b"\x02\0\0", true), (b"\x02\0\0\0\0\0\0\0\0k", false)] {
        let wanted = Scan { cursor: Bytes::copy_from_slice(cursor), history, ..Scan::default() };
        let answer = read(&b.state, &mut b.store, &Read::Scan(wanted)).unwrap();
        assert!(matches!(answer, Err(Refusal::Invalid { field: "cursor", .. })), "{answer:?}");
    }
}

fn poll(from: &'static str, to: &'static str, after: u64, limit: usize) -> TailPoll {
    let (from, to) = (Bytes::from_static(from.as_bytes()), Bytes::from_static(to.as_bytes()));
    let segments = vec![(Bytes::new(), Bytes::new(), after)];
    TailPoll { from, to, segments, limit, wait_us: 0, tells_trimmed: true }
}

fn tail_answer(b: &mut Bench, poll: &TailPoll) -> Option<Replied> {
    tail(&b.state, &mut b.store, &mut Firsts::default(), poll).unwrap()
}

fn tailed(b: &mut Bench, poll: &TailPoll) -> Option<(Vec<u64>, u64, bool)> {
    match tail_answer(b, poll)?.unwrap() {
        Answer::Tail { records, upto_ts, more } => {
            Some((records.iter().map(|r| r.record.ts_us).collect(), upto_ts, more))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tails_never_split_a_timestamp() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    assert_eq!(tailed(&mut b, &poll("", "", 0, 0)), None);
    b.write(10, vec![append("a", &["1", "2", "3"])]).unwrap();
    b.write(20, vec![append("b", &["1"])]).unwrap();
    b.write(30, vec![append("a", &["4"])]).unwrap();
    assert_eq!(tailed(&mut b, &poll("", "", 0, 2)), Some((vec![10, 10, 10], 10, true)));
    assert_eq!(tailed(&mut b, &poll("", "", 10, 2)), Some((vec![20, 30], 30, false)));
    assert_eq!(tailed(&mut b, &poll("a", "b", 10, 9)), Some((vec![30], 30, false)));
    assert_eq!(tailed(&mut b, &poll("", "", 30, 2)), None);
    // Two halves of the ring, one of which has seen everything.
    let mut halves = poll("", "", 0, 0);
    let middle = Bytes::copy_from_slice(&b.state.descriptor().partitioning.position(b"a"));
    halves.segments = vec![(Bytes::new(), middle.clone(), 30), (middle, Bytes::new(), 0)];
    assert!(tailed(&mut b, &halves).unwrap().0.starts_with(&[10, 10, 10]));
}

#[test]
fn a_tail_older_than_the_ring_is_sent_to_scan() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    let big = "x".repeat(400_000);
    for n in 1..=5 {
        b.write(n * 10, vec![append("k", &[&big])]).unwrap();
    }
    let answer = tail_answer(&mut b, &poll("", "", 10, 0));
    assert!(matches!(answer, Some(Ok(Answer::TailScan { segment: 0, upto_ts: 50 }))), "{answer:?}");
    assert_eq!(tailed(&mut b, &poll("", "", 30, 0)), Some((vec![40, 50], 50, false)));
}

fn trim(key: &str, before: u64) -> crate::command::KeyOp {
    op(key, Expect::Any, Action::Trim(Offset(before)))
}

/// What a tail gives, as (key, offset).
fn given(b: &mut Bench, poll: &TailPoll) -> Vec<(String, u64)> {
    match read(&b.state, &mut b.store, &Read::Tail(poll.clone())).unwrap().unwrap() {
        Answer::Tail { records, .. } => {
            records.iter().map(|r| (String::from_utf8(r.key.to_vec()).unwrap(), r.offset.0)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tail_gives_nothing_that_is_trimmed_deleted_or_overwritten() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    for n in 1..=5 {
        b.write(10 * n, vec![append("k", &["secret"]), append("other", &["v"])]).unwrap();
    }
    b.write(60, vec![trim("k", 3)]).unwrap();
    let passes_over = TailPoll { tells_trimmed: false, ..poll("k", "l", 0, 0) };
    assert_eq!(given(&mut b, &passes_over), [("k".into(), 3), ("k".into(), 4)]);
    assert_eq!(given(&mut b, &TailPoll { tells_trimmed: false, ..poll("k", "l", 15, 0) }).len(), 2);
    assert_eq!(given(&mut b, &poll("other", "p", 0, 0)).len(), 5);
    b.write(70, vec![trim("k", 5)]).unwrap();
    assert_eq!(given(&mut b, &passes_over), []);
    b.write(80, vec![append("k", &["new"])]).unwrap();
    assert_eq!(given(&mut b, &passes_over), [("k".into(), 5)]);

    let mut b = Bench::new(Partitioning::Range, Retention::Latest);
    b.write(10, vec![append("k", &["secret"]), append("l", &["v"])]).unwrap();
    b.write(20, vec![append("k", &["another"])]).unwrap();
    assert_eq!(given(&mut b, &poll("", "", 0, 0)), [("l".into(), 0), ("k".into(), 1)]);
    b.write(30, vec![delete("k")]).unwrap();
    assert_eq!(given(&mut b, &poll("", "", 0, 0)), [("l".into(), 0), ("k".into(), 2)]);
    assert_eq!(given(&mut b, &poll("", "", 15, 0)), [("k".into(), 2)], "the newest, not a refusal");
    b.write(40, vec![trim("l", 1)]).unwrap();
    assert_eq!(given(&mut b, &poll("", "", 0, 0)), [("k".into(), 2)]);
}

#[test]
fn a_tail_from_below_what_was_trimmed_is_told() {
    let refused = |b: &mut Bench, wanted: Read| read(&b.state, &mut b.store, &wanted).unwrap().err();
    let tail_from = |after| Read::Tail(poll("", "", after, 0));
    let scan_from = |key: &'static str, after_ts| {
        let from = Bytes::from_static(key.as_bytes());
        Read::Scan(Scan { history: true, tombstones: true, from, after_ts, tells_trimmed: true, ..Scan::default() })
    };
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.format = RowFormat::Totals;
    for n in 1..=5 {
        b.write(10 * n, vec![append("k", &["v"]), append("m", &["v"])]).unwrap();
    }
    b.write(60, vec![trim("k", 3)]).unwrap();
    let told = Some(Refusal::Trimmed { key: "k".into(), first: Offset(3) });
    for (after, wanted) in [(0, None), (10, told.clone()), (29, told.clone()), (30, None), (35, None), (50, None)] {
        assert_eq!(refused(&mut b, tail_from(after)), wanted, "from the ring, after {after}");
        // As after a restart, where nothing is in memory.
        assert_eq!(refused(&mut b, scan_from("", after)), wanted, "from the rows, after {after}");
        assert_eq!(refused(&mut b, scan_from("l", after)), None, "of other keys, after {after}");
    }
    b.write(70, vec![trim("k", 5)]).unwrap();
    let told = Some(Refusal::Trimmed { key: "k".into(), first: Offset(5) });
    assert_eq!((refused(&mut b, tail_from(40)), refused(&mut b, scan_from("", 40))), (told.clone(), told));
    assert_eq!((refused(&mut b, tail_from(50)), refused(&mut b, scan_from("", 50))), (None, None));
}
