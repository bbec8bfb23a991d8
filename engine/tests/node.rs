//! Whole nodes: workers on their stores, talking to each other in one thread.

#[path = "node/budgets.rs"]
mod budgets;
#[path = "node/clocks.rs"]
mod clocks;
#[path = "node/cold.rs"]
mod cold;
#[path = "node/disk.rs"]
mod disk;
#[path = "node/divide.rs"]
mod divide;
#[path = "node/faults.rs"]
mod faults;
#[path = "node/hand_over.rs"]
mod hand_over;
mod harness;
#[path = "node/members.rs"]
mod members;
#[path = "node/memory.rs"]
mod memory;
#[path = "node/pace.rs"]
mod pace;
#[path = "node/pieces.rs"]
mod pieces;
#[path = "node/reinstall.rs"]
mod reinstall;
#[path = "node/rounds.rs"]
mod rounds;
#[path = "node/scrub.rs"]
mod scrub;
#[path = "node/silent.rs"]
mod silent;
#[path = "node/snapshots.rs"]
mod snapshots;
#[path = "node/split.rs"]
mod split;
#[path = "node/stale.rs"]
mod stale;
#[path = "node/threads.rs"]
mod threads;
#[path = "node/trims.rs"]
mod trims;
#[path = "node/versions.rs"]
mod versions;

use bytes::Bytes;
use harness::{Cluster, Disk, N1, N2, N3, append, expecting};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, Offset, SYSTEM_SHARD, ShardId, Slot, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::command::{Expect, Op, OpResult, Outcome, WriteRequest};
use synod_engine::host::{
    AdminInput, Answer, At, Body, Freshness, Input, NodeInput, Read, Reply, ReplySink, Request, Scan, TailPoll,
};
use synod_engine::logstore::{GONE, LogStore};

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn tail_poll(after: u64, wait_us: u64) -> TailPoll {
    let segments = vec![(Bytes::new(), Bytes::new(), after)];
    TailPoll { from: Bytes::new(), to: Bytes::new(), segments, limit: 0, wait_us, tells_trimmed: true }
}

/// Tables of both kinds, and every way to read them.
fn tables_and_reads(mut c: Cluster) -> Cluster {
    let hash = c.create_table("events", Partitioning::Hash, Retention::All, 4);
    let range = c.create_table("config", Partitioning::Range, Retention::Latest, 3);
    assert_eq!(c.shards_of(hash).len(), 4);
    for n in 0..40u64 {
        assert_eq!(c.append(hash, &format!("k{}", n % 8), &format!("v{n}")), n / 8);
        assert_eq!(c.append(range, &format!("k{}", n % 4), &format!("v{n}")), n / 4);
    }
    assert_eq!(c.get(hash, "k3").as_deref(), Some("v35"));
    assert_eq!(c.get(range, "k3").as_deref(), Some("v39"));
    assert_eq!(c.get(range, "nothing"), None);
    let values: Vec<String> = c.range(hash, "k3").iter().map(|r| text(&r.record.value)).collect();
    assert_eq!(values, ["v3", "v11", "v19", "v27", "v35"]);

    let mut keys = vec![];
    for shard in c.shards_of(range) {
        match c.read(shard, &Read::Scan(Scan { limit: 2, ..Scan::default() })) {
            Ok(Answer::Page { records, cursor, .. }) => {
                assert!(cursor.is_empty());
                keys.extend(records.iter().map(|r| text(&r.key)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(keys, ["k0", "k1", "k2", "k3"]);

    let mut tailed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for shard in c.shards_of(hash) {
        match c.read(shard, &Read::Tail(tail_poll(0, 0))) {
            Ok(Answer::Tail { records, more: false, .. }) => {
                assert!(records.is_sorted_by_key(|r| r.record.ts_us));
                for record in records {
                    tailed.entry(text(&record.key)).or_default().push(record.offset.0);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tailed.len(), 8);
    assert!(tailed.values().all(|offsets| *offsets == [0, 1, 2, 3, 4]));
    for shard in c.map().shards.keys() {
        c.check_equal(*shard);
    }
    c
}

#[test]
fn three_nodes_in_memory() {
    tables_and_reads(Cluster::mem(3));
}

#[test]
fn one_node_alone() {
    tables_and_reads(Cluster::mem(1));
}

fn rocks(dir: &Path, nodes: u64) -> Vec<Disk> {
    (1..=nodes).map(|n| Disk::Rocks { path: dir.join(format!("n{n}")) }).collect()
}

#[test]
fn three_nodes_on_rocksdb_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = tables_and_reads(Cluster::new(rocks(dir.path(), 3)));
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
    assert_eq!(c.get(TableId(1), "k3").as_deref(), Some("v35"));
    assert_eq!(c.range(TableId(1), "k7").len(), 5);
    let shards: Vec<ShardId> = c.map().shards.keys().copied().collect();
    for shard in shards {
        c.check_equal(shard);
    }
}

#[test]
fn conditional_writers_win_each_offset_once() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    for offset in 0..10u64 {
        let leader = c.leader(shard).unwrap();
        let sent: Vec<u64> = (0..16)
            .map(|writer| {
                let ops = vec![expecting(Expect::Next(Offset(offset)), append("k", &format!("{writer}")))];
                let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops } };
                c.send(leader, shard, Body::Write(request))
            })
            .collect();
        let outcomes: Vec<_> = sent.into_iter().map(|id| c.await_answer(id).unwrap()).collect();
        let won = outcomes.iter().filter(|a| matches!(a, Answer::Outcome(Outcome::Written(_)))).count();
        let actual = Offset(offset + 1);
        let lost = Outcome::ExpectationFailed { op_index: 0, actual };
        let losers = outcomes.iter().filter(|a| matches!(a, Answer::Outcome(o) if *o == lost)).count();
        assert_eq!((won, losers), (1, 15));
    }
    assert_eq!(c.range(table, "k").len(), 10);
    // All sixteen went into one slot each time.
    let leader = c.leader(shard).unwrap();
    assert!(c.replica(leader, shard).unwrap().applied <= Slot(12));
}

#[test]
fn a_batch_is_atomic() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
    let outcome = c.write(table, vec![append("a", "1"), append("b", "1"), append("a", "2")]).unwrap();
    let Outcome::Written(results) = outcome else { panic!("{outcome:?}") };
    let ts_us = results[0].ts_us;
    let expected = [0, 0, 1].map(|offset| OpResult { offset: Offset(offset), ts_us });
    assert_eq!(results, expected);
    let failing = vec![append("a", "3"), expecting(Expect::Absent, append("b", "2")), append("c", "1")];
    let failed = Outcome::ExpectationFailed { op_index: 1, actual: Offset(1) };
    assert_eq!(c.write(table, failing), Ok(failed));
    assert_eq!((c.range(table, "a").len(), c.range(table, "b").len(), c.range(table, "c").len()), (2, 1, 0));
}

#[test]
fn requests_that_do_not_belong_are_refused() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 2);
    let shards = c.shards_of(table);
    let leader = c.leader(shards[1]).unwrap();
    let mut refused = |shard, body| {
        let id = c.send(leader, shard, body);
        c.await_answer(id).unwrap_err()
    };
    let write = |key: &str, ops: Option<Vec<_>>| {
        let id = synod_engine::command::WriteId {
            client: synod_cluster::ids::ClientId(9),
            seq: synod_cluster::ids::ClientSeq(1),
            floor: synod_cluster::ids::ClientSeq(0),
            deadline_us: u64::MAX,
        };
        Body::Write(WriteRequest { id, op: Op::Write { table, ops: ops.unwrap_or_else(|| vec![append(key, "v")]) } })
    };
    assert_eq!(refused(shards[1], write("a", None)), Refusal::WrongShard);
    assert_eq!(refused(ShardId(99), write("a", None)), Refusal::WrongShard);
    assert_eq!(refused(SYSTEM_SHARD, write("a", None)), Refusal::WrongShard);
    assert!(matches!(refused(shards[1], write("z", Some(vec![]))), Refusal::Invalid { field: "ops", .. }));
    assert!(matches!(refused(shards[1], write("", None)), Refusal::Invalid { field: "key", .. }));
    let follower = c.ids().into_iter().find(|n| *n != leader).unwrap();
    let id = c.send(follower, shards[1], write("z", None));
    assert_eq!(c.await_answer(id).unwrap_err(), Refusal::NotLeader { leader: Some(leader), maybe: false });
}

#[test]
fn a_batch_over_two_shards_is_answered_where_its_name_is_known_and_refused_elsewhere() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 2);
    let shard = c.shards_of(table)[1];
    let leader = c.leader(shard).unwrap();
    let mut write = |seq, ops| {
        let id = synod_engine::command::WriteId {
            client: synod_cluster::ids::ClientId(9),
            seq: synod_cluster::ids::ClientSeq(seq),
            floor: synod_cluster::ids::ClientSeq(0),
            deadline_us: u64::MAX,
        };
        let sent = c.send(leader, shard, Body::Write(WriteRequest { id, op: Op::Write { table, ops } }));
        c.await_answer(sent)
    };
    let Ok(Answer::Outcome(executed)) = write(1, vec![append("z", "1")]) else { panic!("it is refused") };
    // Its keys are of two shards by now.
    let both = || vec![append("a", "1"), append("z", "1")];
    match write(1, both()) {
        Ok(Answer::Outcome(known)) => assert_eq!(known, executed),
        other => panic!("{other:?}"),
    }
    assert_eq!(write(2, both()).unwrap_err(), Refusal::WrongShard);
    assert_eq!(c.range(table, "z").len(), 1);
}

#[test]
fn a_tail_waits_for_what_is_committed_or_for_its_time() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::Latest, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "a", "1");
    let leader = c.leader(shard).unwrap();
    let newest = c.range(table, "a")[0].record.ts_us;
    let body = |wait| Body::Read { read: Read::Tail(tail_poll(newest, wait)), freshness: Freshness::Linearizable };
    let sent = c.send(leader, shard, body(10_000_000));
    c.run_for(1_000_000);
    assert!(c.answers.take(sent).is_none());
    c.append(table, "b", "2");
    match c.await_answer(sent) {
        Ok(Answer::Tail { records, more: false, .. }) => assert_eq!(text(&records[0].key), "b"),
        other => panic!("{other:?}"),
    }
    let began = c.now;
    let end = c.range(table, "b")[0].record.ts_us;
    let late = Body::Read { read: Read::Tail(tail_poll(end, 2_000_000)), freshness: Freshness::Local };
    let sent = c.send(leader, shard, late);
    match c.await_answer(sent) {
        Ok(Answer::Tail { records, upto_ts, more: false }) => assert!(records.is_empty() && upto_ts == end),
        other => panic!("{other:?}"),
    }
    assert!(c.now.0 - began.0 >= 2_000_000);
}

#[test]
fn without_a_majority_local_reads_still_answer() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::Latest, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "k", "v");
    c.check_equal(shard);
    c.kill(N1);
    c.kill(N2);
    c.run_for(2_000_000);
    assert_eq!(c.dump(N3, shard).len(), 1);
    c.start(N1);
    assert_eq!(c.append(table, "k", "w"), 1);
}

#[test]
fn a_drain_hands_every_leadership_over() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::Latest, 8);
    c.append(table, "k", "v");
    c.push(N1, NodeInput::Drain);
    c.run_until("drained", |c| c.nodes[&N1].seen.lock().unwrap().drained);
    assert!(c.nodes[&N1].seen.lock().unwrap().leads.is_empty());
    let shards: Vec<ShardId> = c.map().shards.keys().copied().collect();
    c.run_until("others lead", |c| shards.iter().all(|s| c.leader(*s).is_some_and(|l| l != N1)));
    c.push(N1, NodeInput::Stop);
    c.step();
    c.kill(N1);
    assert_eq!(c.append(table, "k", "w"), 1);
    c.start(N1);
    for shard in shards {
        c.check_equal(shard);
    }
}

#[test]
fn a_transfer_moves_one_leadership() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::Latest, 1);
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    let to = c.ids().into_iter().find(|n| *n != leader).unwrap();
    let done = Box::new(|result: Result<(), Refusal>| result.unwrap());
    c.push(leader, AdminInput::Transfer { shard, to, done });
    c.run_until("the other leads", |c| c.leader(shard) == Some(to));
    let nobody = NodeId(9);
    let done = Box::new(|result: Result<(), Refusal>| {
        assert!(matches!(result, Err(Refusal::Invalid { field: "to", .. })));
    });
    c.push(to, AdminInput::Transfer { shard, to: nobody, done });
    c.run_for(10_000);
}

#[test]
fn a_dropped_table_leaves_nothing_behind() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 3);
    for n in 0..30 {
        c.append(table, &format!("k{n}"), "v");
    }
    let shards = c.shards_of(table);
    c.kill(N3);
    assert_eq!(c.system(&SystemCommand::DropTable { name: "t".into() }), SystemOutcome::Done);
    c.run_until("the replicas go", |c| [N1, N2].iter().all(|n| c.report(*n).replicas.len() == 1));
    // A node that was away finds out later.
    c.start(N3);
    c.run_until("the last replicas go", |c| c.report(N3).replicas.len() == 1);
    for node in c.ids() {
        let Disk::Mem { log, .. } = &c.nodes[&node].disk else { panic!() };
        let recovered = log.recover_node().unwrap();
        assert_eq!(
            (recovered.groups, recovered.removed),
            (vec![SYSTEM_SHARD], shards.iter().map(|shard| (*shard, GONE)).collect::<Vec<_>>())
        );
    }
    // The same name is a new table.
    let again = c.create_table("t", Partitioning::Hash, Retention::All, 3);
    assert_ne!(again, table);
    assert_eq!(c.get(again, "k3"), None);
}

#[test]
fn the_same_run_gives_the_same_logs() {
    let run = || {
        let mut c = Cluster::mem(3);
        let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
        for n in 0..20 {
            c.append(table, &format!("k{}", n % 3), &format!("{n}"));
        }
        let leader = c.leader(c.shards_of(table)[0]).unwrap();
        c.kill(leader);
        c.append(table, "k0", "after");
        let reports: Vec<String> =
            c.ids().into_iter().filter(|n| *n != leader).map(|n| format!("{:?}", c.report(n))).collect();
        (c.now, reports)
    };
    assert_eq!(run(), run());
}

/// A client that leaves everything unread.
#[derive(Default)]
struct Unread(harness::Answers);

impl ReplySink for Unread {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        self.0.reply(id, answer);
    }

    fn is_full(&self) -> bool {
        true
    }
}

#[test]
fn a_client_that_reads_nothing_is_given_no_more_records() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
    c.append(table, "k", "v");
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    let sink = Arc::new(Unread::default());
    let get = || Read::Get { key: Bytes::from_static(b"k"), at: At::Newest };
    let reads = [
        (1, get(), Freshness::Linearizable),
        (2, get(), Freshness::Local),
        (3, Read::Tail(tail_poll(0, 0)), Freshness::Linearizable),
        (4, Read::Tail(tail_poll(u64::MAX, 50_000)), Freshness::Local),
    ];
    for (id, read, freshness) in reads {
        let (body, reply) = (Body::Read { read, freshness }, Reply { sink: sink.clone(), id });
        c.push(leader, Input::Requests(vec![Request { shard, version: None, body, reply }]));
    }
    c.run_for(200_000);
    for id in 1..=4 {
        assert!(matches!(sink.0.take(id), Some(Err(Refusal::Overloaded))), "read {id} was looked up");
    }
    assert_eq!(c.get(table, "k").as_deref(), Some("v"), "others read");
}
