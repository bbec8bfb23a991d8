//! Trims through replicas: before and after the cluster's second version, and whatever ends a process.

use super::harness::{Cluster, Disk, N1, N2, N3};
use super::rocks;
use bytes::Bytes;
use synod_cluster::ids::{Offset, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Outcome};
use synod_engine::host::{Answer, Read, Scan, TailPoll};

fn appends(c: &mut Cluster, table: TableId, key: &str, count: usize) {
    let record = |n| NewRecord { headers: vec![], value: Bytes::from(format!("{key} {n}")) };
    let action = Action::Append((0..count).map(record).collect());
    let op = KeyOp { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, action };
    assert!(matches!(c.write(table, vec![op]), Ok(Outcome::Written(_))));
}

fn trim(c: &mut Cluster, table: TableId, key: &str, before: u64) {
    let action = Action::Trim(Offset(before));
    let op = KeyOp { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, action };
    match c.write(table, vec![op]) {
        Ok(Outcome::Written(results)) => assert_eq!(results[0].offset, Offset(before)),
        other => panic!("{other:?}"),
    }
}

fn restart_all(c: &mut Cluster) {
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
}

/// The offsets of a key, which the shard's history must show as well.
fn offsets(c: &mut Cluster, table: TableId, key: &str, first: u64) -> Vec<u64> {
    let shard = c.shard_for(table, key);
    let wanted = Read::Range { key: Bytes::copy_from_slice(key.as_bytes()), from: Offset(first), limit: 0 };
    let Ok(Answer::Page { records, .. }) = c.read(shard, &wanted) else { panic!() };
    let read: Vec<u64> = records.iter().map(|r| r.offset.0).collect();
    let Ok(Answer::Page { records, .. }) = c.read(shard, &Read::Scan(Scan { history: true, ..Scan::default() })) else {
        panic!()
    };
    let scanned: Vec<u64> = records.iter().filter(|r| r.key == key.as_bytes()).map(|r| r.offset.0).collect();
    assert_eq!(scanned, read);
    read
}

fn trims_before_and_after_the_upgrade(mut c: Cluster) {
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    appends(&mut c, table, "a", 300);
    appends(&mut c, table, "b", 300);
    trim(&mut c, table, "a", 100);
    c.upgrade();
    appends(&mut c, table, "a", 300);
    // Among rows without totals, at their end, and among those with totals.
    for (key, before) in [("a", 200), ("b", 290), ("a", 300), ("a", 450), ("a", 460)] {
        trim(&mut c, table, key, before);
        let next = if key == "a" { 600 } else { 300 };
        assert_eq!(offsets(&mut c, table, key, before), (before..next).collect::<Vec<_>>());
        restart_all(&mut c);
    }
    assert_eq!(offsets(&mut c, table, "a", 460), (460..600).collect::<Vec<_>>());
    c.check_equal(shard);
    // All of it, and on with it.
    trim(&mut c, table, "a", 600);
    appends(&mut c, table, "a", 2);
    restart_all(&mut c);
    assert_eq!(offsets(&mut c, table, "a", 600), [600, 601]);
    c.check_equal(shard);
}

#[test]
fn trims_before_and_after_the_upgrade_in_memory() {
    trims_before_and_after_the_upgrade(Cluster::mem(3));
}

#[test]
fn trims_before_and_after_the_upgrade_on_rocksdb() {
    let dir = tempfile::tempdir().unwrap();
    trims_before_and_after_the_upgrade(Cluster::new(rocks(dir.path(), 3)));
}

/// A replica whose flush had the trim, one whose flush had not, and one that comes back: they hold the same.
#[test]
fn a_trim_is_flushed_with_its_head_or_not_at_all() {
    let mut c = Cluster::new((0..3).map(|n| Disk::mem(1 << (9 + 4 * n))).collect());
    c.upgrade();
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    for round in 0..30u64 {
        appends(&mut c, table, "k", 100);
        trim(&mut c, table, "k", 90 * (round + 1));
        let node = [N1, N2, N3][round as usize % 3];
        c.kill(node);
        c.start(node);
    }
    c.check_equal(shard);
    assert_eq!(offsets(&mut c, table, "k", 2700), (2700..3000).collect::<Vec<_>>());
}

#[test]
fn a_tail_is_told_of_what_was_trimmed_also_after_a_restart() {
    let mut c = Cluster::mem(3);
    c.upgrade();
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let mut stamps = vec![];
    for _ in 0..5 {
        appends(&mut c, table, "k", 1);
        stamps.push(c.range(table, "k").last().unwrap().record.ts_us);
    }
    trim(&mut c, table, "k", 3);
    let told = Err(Refusal::Trimmed { key: "k".into(), first: Offset(3) });
    for restarted in [false, true] {
        for (after, expected) in [(0, Ok(2)), (stamps[0], told.clone()), (stamps[1], told.clone()), (stamps[2], Ok(2))]
        {
            let segments = vec![(Bytes::new(), Bytes::new(), after)];
            let (from, to) = (Bytes::new(), Bytes::new());
            let poll = TailPoll { from, to, segments, limit: 0, wait_us: 0, tells_trimmed: true };
            let scan = Scan { history: true, after_ts: after, tells_trimmed: true, ..Scan::default() };
            // As a client goes about it: what is not in memory is scanned.
            let answer = match c.read(shard, &Read::Tail(poll)) {
                Ok(Answer::TailScan { upto_ts, .. }) => c.read(shard, &Read::Scan(Scan { upto_ts, ..scan })),
                other => other,
            };
            let found = answer.map(|answer| match answer {
                Answer::Tail { records, .. } | Answer::Page { records, .. } => records.len(),
                other => panic!("{other:?}"),
            });
            assert_eq!(found, expected, "after {after}, restarted: {restarted}");
        }
        restart_all(&mut c);
    }
}
