//! What a worker's round does and leaves to the next: nothing more than there is to do.

use super::harness::{Cluster, Disk, N1, append};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{AdminInput, Answer, Body};
use synod_engine::logstore::mem::MemLog;
use synod_engine::state::mem::MemDisk;

/// One node with a table of one shard, with nothing to do.
fn rested(disk: Disk) -> (Cluster, TableId, ShardId) {
    let mut c = Cluster::new(vec![disk]);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "k", "v");
    c.run_for(3_000_000);
    while c.step() {}
    (c, table, shard)
}

fn send(c: &mut Cluster, table: TableId, shard: ShardId) -> u64 {
    let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![append("k", "v")] } };
    c.send(N1, shard, Body::Write(request))
}

#[test]
fn only_what_is_applied_is_measured_as_applied() {
    let (mut c, table, _) = rested(Disk::mem(1 << 16));
    let metrics = c.nodes[&N1].metrics.clone().unwrap();
    let before = metrics.apply_seconds.get_sample_count();
    for _ in 0..10 {
        assert_eq!(c.get(table, "k").as_deref(), Some("v"));
    }
    assert_eq!(metrics.apply_seconds.get_sample_count(), before, "reads apply nothing");
    for _ in 0..10 {
        c.append(table, "k", "v");
    }
    assert_eq!(metrics.apply_seconds.get_sample_count(), before + 10);
}

#[test]
fn a_round_that_applied_all_leaves_nothing_to_the_next() {
    let (mut c, table, shard) = rested(Disk::mem(1 << 16));
    for _ in 0..5 {
        let sent = send(&mut c, table, shard);
        assert!(c.step());
        assert!(matches!(c.answers.take(sent), Some(Ok(Answer::Outcome(_)))), "within one round");
        assert!(!c.step(), "there is nothing left to do");
    }
}

#[test]
fn a_shard_that_applied_all_has_no_turn_when_the_store_has_caught_up() {
    let micros = Arc::new(AtomicU64::new(0));
    let state = MemDisk::default();
    let (mut c, table, shard) = rested(Disk::Slow { log: Arc::new(MemLog::new()), state, micros: Arc::clone(&micros) });
    // At a time at which nothing else is due.
    for wait in [0, 2_000] {
        micros.store(wait, Ordering::Relaxed);
        let sent = send(&mut c, table, shard);
        assert!(c.step());
        assert!(matches!(c.answers.take(sent), Some(Ok(Answer::Outcome(_)))));
        c.now = c.now.plus(2_000);
        assert!(!c.step(), "nothing waits after {wait} us");
    }
}

/// A marker that is applied while a write is under way: the write is chosen within the same round, and not applied in it.
#[test]
fn what_follows_a_marker_waits_until_the_state_is_frozen() {
    let (mut c, table, shard) = rested(Disk::mem(1 << 16));
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    c.push(N1, AdminInput::Scrub { shard, done: Box::new(move |slot| *tell.lock().unwrap() = Some(slot)) });
    c.hurried = true;
    assert!(c.step());
    let marker = told.lock().unwrap().take().unwrap().unwrap();
    c.hurried = false;
    let sent = send(&mut c, table, shard);
    assert!(c.step());
    assert!(c.answers.take(sent).is_none(), "it is applied in the round behind the marker's");
    assert!(c.step());
    assert!(matches!(c.answers.take(sent), Some(Ok(Answer::Outcome(_)))));
    let replica = c.replica(N1, shard).unwrap();
    assert_eq!(replica.applied, marker.next());
    assert_eq!(replica.scrub.map(|scrub| (scrub.slot, scrub.equal)), Some((marker, true)));
}
