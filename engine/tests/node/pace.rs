//! A store whose flushes lag: applying waits, and nothing else does.

use super::harness::{Cluster, Disk, N1, append};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, WriteRequest};
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
