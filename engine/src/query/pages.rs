//! What pages of records cost: bytes read of the store for the bytes that are given.

use super::{PAGE_BYTES_MAX, read};
use crate::host::{Answer, Read, Scan};
use crate::machine::tests::bench::{Bench, Counting, append};
use bytes::Bytes;
use synod_cluster::ids::Offset;
use synod_cluster::system::{Partitioning, Retention};

/// A page, and how many bytes were given and read for it.
struct Cost {
    records: usize,
    given: usize,
    read: usize,
}

/// What each page of a scan costs.
fn costs(b: &mut Bench, mut wanted: Scan) -> Vec<Cost> {
    let mut all = vec![];
    loop {
        let mut store = Counting::new(&mut b.store);
        match read(&b.state, &mut store, &Read::Scan(wanted.clone())).unwrap().unwrap() {
            Answer::Page { records, cursor, .. } => {
                let given = records.iter().map(|r| r.key.len() + r.record.value.len()).sum();
                all.push(Cost { records: records.len(), given, read: store.bytes });
                wanted.cursor = cursor;
            }
            other => panic!("{other:?}"),
        }
        if wanted.cursor.is_empty() {
            return all;
        }
    }
}

/// Bytes of a large value.
const LARGE: usize = 300_000;

fn with_large_values(partitioning: Partitioning, retention: Retention, versions: u64) -> Bench {
    let mut b = Bench::new(partitioning, retention);
    let large = "x".repeat(LARGE);
    for version in 0..versions {
        for key in 0..20 {
            b.write(1000 * (version + 1) + key, vec![append(&format!("k{key:02}"), &[&large])]).unwrap();
        }
    }
    b
}

#[test]
fn a_page_of_large_values_reads_what_it_gives_and_one_record_more() {
    for retention in [Retention::Latest, Retention::All] {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let mut b = with_large_values(partitioning, retention, 3);
            for (reverse, history) in [(false, false), (true, false), (false, true)] {
                let all = costs(&mut b, Scan { reverse, history, ..Scan::default() });
                let records = if history && retention == Retention::All { 60 } else { 20 };
                assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), records);
                for Cost { given, read, .. } in all {
                    let what = format!("{retention:?} {partitioning:?} reverse {reverse} history {history}");
                    assert!(given < PAGE_BYTES_MAX + LARGE, "{what}: a page of {given} bytes");
                    assert!(read < given + LARGE + 10_000, "{what}: {read} bytes read to give {given}");
                }
            }
        }
    }
}

#[test]
fn keys_alone_are_listed_without_reading_values() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = with_large_values(partitioning, Retention::All, 3);
        let all = costs(&mut b, Scan { keys_only: true, ..Scan::default() });
        let [Cost { records: 20, read, .. }] = all[..] else { panic!("{} pages", all.len()) };
        assert!(read < 20 * 200, "{read} bytes read for 20 keys");
        // Where the value stands in the head, a page reads no more than any other.
        let mut b = with_large_values(partitioning, Retention::Latest, 1);
        let all = costs(&mut b, Scan { keys_only: true, ..Scan::default() });
        assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), 20);
        assert!(all.iter().all(|page| page.read < PAGE_BYTES_MAX + 2 * LARGE));
    }
}

#[test]
fn a_tail_that_catches_up_reads_no_more_old_records_than_it_needs_to_find_the_new_ones() {
    let mut b = with_large_values(Partitioning::Range, Retention::All, 10);
    // The last two versions of each key.
    let wanted = Scan { history: true, tombstones: true, after_ts: 8_999, upto_ts: 10_999, ..Scan::default() };
    let all = costs(&mut b, wanted.clone());
    assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), 40);
    for Cost { given, read, .. } in all {
        // Of each key, one record too old and one that is found new by the way.
        assert!(read <= 2 * given + 2 * LARGE + 20_000, "{read} bytes read to give {given}");
    }
    // Nothing is wanted of any key.
    let all = costs(&mut b, Scan { after_ts: 99_999, ..wanted });
    assert_eq!(all.len(), 1);
    assert!(all[0].read < 20 * 200, "{} bytes read", all[0].read);
}

#[test]
fn a_page_of_a_keys_records_reads_what_it_gives() {
    let mut b = with_large_values(Partitioning::Hash, Retention::All, 12);
    let mut store = Counting::new(&mut b.store);
    let wanted = Read::Range { key: Bytes::from_static(b"k07"), from: Offset(2), limit: 0 };
    match read(&b.state, &mut store, &wanted).unwrap().unwrap() {
        Answer::Page { records, .. } => assert_eq!(records.len(), 4),
        other => panic!("{other:?}"),
    }
    assert!(store.bytes < 4 * LARGE + 10_000, "{} bytes read", store.bytes);
}
