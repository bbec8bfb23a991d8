//! A store whose flushes lag: applying waits, and nothing else does.

use super::harness::{Cluster, Disk, N1, append};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_cluster::ids::{Offset, ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteRequest};
use synod_engine::host::{Answer, At, Body, Freshness, Read};
use synod_engine::logstore::mem::MemLog;
use synod_engine::state::mem::MemDisk;

#[test]
fn a_shard_with_much_to_apply_holds_no_other_up() {
    let micros = Arc::new(AtomicU64::new(0));
    let disk = Disk::Slow { log: Arc::new(MemLog::new()), state: MemDisk::default(), micros: Arc::clone(&micros) };
    let mut c = Cluster::new(vec![disk]);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 2);
    let [busy, other] = c.shards_of(table)[..] else { panic!() };
    assert_eq!((c.shard_for(table, "a"), c.shard_for(table, "z")), (busy, other));
    c.append(table, "z", "0");
    micros.store(20_000, Ordering::Relaxed);
    let send = |c: &mut Cluster, key: &str| {
        let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![append(key, "v")] } };
        c.send(N1, c.shard_for(table, key), Body::Write(request))
    };
    // An entry each: more than a second of what is to wait.
    let mut sent = Vec::new();
    for _ in 0..60 {
        sent.push(send(&mut c, "a"));
        c.step();
    }
    let began = c.now;
    let read = Read::Get { key: "z".into(), at: At::Newest };
    let reading = c.send(N1, other, Body::Read { read, freshness: Freshness::Linearizable });
    let writing = send(&mut c, "z");
    let (mut read_after, mut written_after) = (None, None);
    c.run_until("the other shard's answers", |c| {
        let took = c.now.0 - began.0;
        read_after = read_after.or_else(|| c.answers.take(reading).map(|answer| (took, answer.is_ok())));
        written_after = written_after.or_else(|| c.answers.take(writing).map(|answer| (took, answer.is_ok())));
        read_after.is_some() && written_after.is_some()
    });
    let ((read_after, true), (written_after, true)) = (read_after.unwrap(), written_after.unwrap()) else { panic!() };
    assert!(read_after < 5_000, "a read of another shard took {read_after} us");
    assert!(written_after < 60_000, "a write to another shard took {written_after} us");
    for id in sent {
        assert!(matches!(c.await_answer(id), Ok(Answer::Outcome(_))));
    }
    let took = c.now.0 - began.0;
    assert!((1_000_000..2_000_000).contains(&took), "60 entries that wait 20 ms each took {took} us");
    assert_eq!((c.range(table, "a").len(), c.range(table, "z").len()), (60, 2));
}

#[test]
fn a_shard_held_back_goes_on_before_the_one_that_applies_much() {
    let micros = Arc::new(AtomicU64::new(0));
    let disk = Disk::Slow { log: Arc::new(MemLog::new()), state: MemDisk::default(), micros: Arc::clone(&micros) };
    let mut c = Cluster::new(vec![disk]);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 2);
    micros.store(20_000, Ordering::Relaxed);
    let send = |c: &mut Cluster, key: &str| {
        let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![append(key, "v")] } };
        c.send(N1, c.shard_for(table, key), Body::Write(request))
    };
    let mut sent = Vec::new();
    for _ in 0..10 {
        sent.push(send(&mut c, "a"));
        c.step();
    }
    for id in sent.drain(..2) {
        assert!(c.await_answer(id).is_ok());
    }
    let began = c.now;
    let other = send(&mut c, "z");
    assert!(c.await_answer(other).is_ok());
    let took = c.now.0 - began.0;
    assert!((15_000..30_000).contains(&took), "a write to another shard waited {took} us for an entry of 20 ms");
}

/// A node alone whose state is lost with its process: it applies its log again.
struct Replayed {
    c: Cluster,
    log: Arc<MemLog>,
    micros: Arc<AtomicU64>,
    table: TableId,
    shard: ShardId,
}

/// Of the large entries, bytes.
const LARGE: usize = 20_000;

impl Replayed {
    fn new() -> Self {
        let (log, micros) = (Arc::new(MemLog::new()), Arc::new(AtomicU64::new(0)));
        let state = MemDisk::default();
        let mut c = Cluster::new(vec![Disk::Slow { log: Arc::clone(&log), state, micros: Arc::clone(&micros) }]);
        let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
        let shard = c.shards_of(table)[0];
        Self { c, log, micros, table, shard }
    }

    fn write(&mut self, action: Action) {
        let op = KeyOp { key: Bytes::from_static(b"k"), expect: Expect::Any, action };
        self.c.write(self.table, vec![op]).unwrap();
    }

    /// Appends so many records of so many bytes in one entry.
    fn append(&mut self, records: usize, bytes: usize) {
        let record = NewRecord { headers: vec![], value: Bytes::from(vec![b'x'; bytes]) };
        self.write(Action::Append(vec![record; records]));
    }

    /// Restarts the node. How often it reads its log, and how many bytes, until it has applied all.
    fn replay(&mut self, micros: u64) -> (u64, u64) {
        let applied = self.c.replica(N1, self.shard).unwrap().applied;
        self.c.kill(N1);
        self.micros.store(micros, Ordering::Relaxed);
        let before = self.log.reads();
        self.c.start(N1);
        let shard = self.shard;
        self.c.run_until("all is applied again", |c| {
            c.run_for(1_000);
            c.replica(N1, shard).is_some_and(|replica| replica.applied >= applied)
        });
        let after = self.log.reads();
        (after.0 - before.0, after.1 - before.1)
    }
}

#[test]
fn a_log_is_read_in_large_pieces_or_about_as_fast_as_it_is_applied() {
    let mut r = Replayed::new();
    for _ in 0..40 {
        r.append(1, LARGE);
    }
    let all = 40 * LARGE as u64;
    let (reads, bytes) = r.replay(0);
    assert!(reads < 20 && bytes < 2 * all, "{reads} reads of {bytes} bytes");
    // An entry at a time: once a megabyte is read ahead, and then what is applied next.
    let (_, bytes) = r.replay(20_000);
    assert!((all..3 * all).contains(&bytes), "{bytes} bytes read to apply {all}");
}

#[test]
fn an_entry_that_is_got_ready_step_by_step_reads_the_log_behind_it_once() {
    let mut r = Replayed::new();
    for _ in 0..20 {
        r.append(1_000, 5);
    }
    r.write(Action::Trim(Offset(10_000)));
    for _ in 0..40 {
        r.append(1, LARGE);
    }
    let all = 40 * LARGE as u64;
    let (reads, bytes) = r.replay(0);
    assert!((5..40).contains(&reads) && bytes < 3 * all, "{reads} reads of {bytes} bytes");
}
