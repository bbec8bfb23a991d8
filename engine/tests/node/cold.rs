//! Rows that are in no memory: what waits for them, and what goes on meanwhile.

use super::harness::{Cluster, Disk, N1, append};
use super::tail_poll;
use bytes::Bytes;
use std::sync::Arc;
use synod_cluster::ids::{ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, Outcome, WriteRequest};
use synod_engine::host::{Answer, At, Body, FetchRequest, Freshness, NodeInput, Read, RowsFetched};
use synod_engine::logstore::mem::MemLog;
use synod_engine::state::mem::{ColdRows, MemDisk};

/// A node alone with a table of two shards, the first of which has the keys below `k1`.
struct Node {
    c: Cluster,
    cold: ColdRows,
    table: TableId,
}

impl Node {
    fn new(retention: Retention) -> Self {
        let cold = ColdRows::default();
        let (log, state) = (Arc::new(MemLog::new()), MemDisk::default());
        let mut c = Cluster::new(vec![Disk::Cold { log, state, cold: cold.clone() }]);
        let table = c.create_table("t", Partitioning::Range, retention, 2);
        Self { c, cold, table }
    }

    /// Ends the process in order: what the next one finds is on its disk only.
    fn restart(&mut self, fetching: bool) {
        self.c.push(N1, NodeInput::Stop);
        self.c.step();
        self.c.kill(N1);
        self.c.start(N1);
        let (a, z) = (self.shard("a"), self.shard("z"));
        self.c.run_until("both shards are led", |c| c.leader(a).is_some() && c.leader(z).is_some());
        self.c.nodes[&N1].seen.lock().unwrap().fetching = fetching;
    }

    fn shard(&self, key: &str) -> ShardId {
        self.c.shard_for(self.table, key)
    }

    /// Sends one write of these keys.
    fn write(&mut self, keys: &[&str]) -> u64 {
        let ops = keys.iter().map(|key| append(key, "new")).collect();
        let request = WriteRequest { id: self.c.next_id(), op: Op::Write { table: self.table, ops } };
        let shard = self.shard(keys[0]);
        self.c.send(N1, shard, Body::Write(request))
    }

    fn get(&mut self, key: &str) -> u64 {
        let read = Read::Get { key: Bytes::copy_from_slice(key.as_bytes()), at: At::Newest };
        let shard = self.shard(key);
        self.c.send(N1, shard, Body::Read { read, freshness: Freshness::Local })
    }

    fn poll(&mut self, shard: ShardId, after: u64, wait_us: u64) -> u64 {
        let read = Read::Tail(tail_poll(after, wait_us));
        self.c.send(N1, shard, Body::Read { read, freshness: Freshness::Local })
    }

    /// A tail of what comes from now on.
    fn tail(&mut self, key: &str, wait_us: u64) -> u64 {
        let shard = self.shard(key);
        let asked = self.poll(shard, u64::MAX - 1, 0);
        self.rest();
        let Some(Ok(Answer::Tail { upto_ts, .. })) = self.c.answers.take(asked) else { panic!() };
        self.poll(shard, upto_ts, wait_us)
    }

    /// What is asked for and was not fetched yet.
    fn take_fetches(&mut self) -> Vec<FetchRequest> {
        std::mem::take(&mut self.c.nodes[&N1].seen.lock().unwrap().fetches)
    }

    /// Fetches what is asked for; how many rows.
    fn fetch(&mut self) -> usize {
        let mut rows = 0;
        for FetchRequest { shard, ticket, lacked, fetcher, .. } in self.take_fetches() {
            rows += lacked.len();
            lacked.iter().for_each(|row| fetcher.fetch(row).unwrap());
            self.c.push(N1, RowsFetched { shard, ticket });
        }
        rows
    }

    fn rest(&mut self) {
        while self.c.step() {}
    }
}

fn written(answer: Option<Result<Answer, Refusal>>) -> u64 {
    match answer {
        Some(Ok(Answer::Outcome(Outcome::Written(results)))) => results[0].offset.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_that_lacks_heads_waits_for_them_and_the_other_shards_go_on() {
    for retention in [Retention::Latest, Retention::All] {
        let mut n = Node::new(retention);
        for key in ["a", "b", "z"] {
            n.c.append(n.table, key, "old");
        }
        n.restart(true);
        let waited = n.cold.waited();
        let sent = [n.write(&["a", "b"]), n.write(&["b"])];
        n.rest();
        assert!(sent.iter().all(|id| n.c.answers.take(*id).is_none()), "they wait for the heads");
        let other = n.write(&["zz"]);
        n.rest();
        assert_eq!(written(n.c.answers.take(other)), 0, "a new key of another shard: nothing is fetched for it");
        let read = n.get("a");
        n.rest();
        assert!(n.c.answers.take(read).is_none(), "a read of the same shard has its own fetch");
        let (asked, shard) = (n.take_fetches(), n.shard("a"));
        let rows: Vec<_> = asked.iter().map(|request| (request.shard, request.lacked.len())).collect();
        assert_eq!(rows, [(shard, 2), (shard, 1)], "two heads for the writes, one for the read");
        n.c.nodes[&N1].seen.lock().unwrap().fetches = asked;
        while n.fetch() > 0 {
            n.rest();
        }
        assert!(matches!(n.c.answers.take(read), Some(Ok(Answer::Record { .. }))));
        assert_eq!((written(n.c.answers.take(sent[0])), written(n.c.answers.take(sent[1]))), (1, 2));
        assert_eq!(n.cold.waited(), waited, "the worker waited for no file");
        let metrics = n.c.nodes[&N1].metrics.clone().unwrap();
        assert_eq!(metrics.applies_cold_total.get(), 1);
    }
}

#[test]
fn entries_behind_the_one_that_waits_have_their_rows_fetched_with_it() {
    let mut n = Node::new(Retention::All);
    let keys: Vec<String> = (0..100).map(|key| format!("a{key:02}")).collect();
    for key in &keys {
        n.c.append(n.table, key, "old");
    }
    n.restart(true);
    // Each in an entry of its own.
    let sent: Vec<u64> = keys
        .iter()
        .map(|key| {
            let id = n.write(&[key.as_str()]);
            n.c.step();
            id
        })
        .collect();
    n.rest();
    let first = n.take_fetches();
    assert_eq!(first.iter().map(|request| request.lacked.len()).sum::<usize>(), 1, "when the first came, it was alone");
    n.c.nodes[&N1].seen.lock().unwrap().fetches = first;
    n.fetch();
    n.rest();
    let next = n.take_fetches();
    assert!(next.len() > 1 && next.iter().all(|request| request.lacked.len() <= 16), "shared by several threads");
    assert_eq!(next.iter().map(|request| request.lacked.len()).sum::<usize>(), 64);
    n.c.nodes[&N1].seen.lock().unwrap().fetches = next;
    n.fetch();
    n.rest();
    assert_eq!(n.fetch(), 35);
    n.rest();
    assert!(sent.into_iter().all(|id| written(n.c.answers.take(id)) == 1));
}

/// No reader: nothing is looked for in memory first, and each row is read once.
#[test]
fn where_nobody_fetches_the_worker_reads_once() {
    let mut n = Node::new(Retention::All);
    for key in ["a", "b"] {
        n.c.append(n.table, key, "old");
    }
    n.restart(false);
    let (waited, lacked) = (n.cold.waited(), n.cold.lacked());
    let sent = n.write(&["a", "b"]);
    n.rest();
    assert_eq!(written(n.c.answers.take(sent)), 1);
    assert_eq!((n.cold.waited(), n.cold.lacked()), (waited + 2, lacked), "two heads");
    n.restart(false);
    let (waited, lacked) = (n.cold.waited(), n.cold.lacked());
    let read = n.get("a");
    n.rest();
    assert!(matches!(n.c.answers.take(read), Some(Ok(Answer::Record { .. }))));
    assert_eq!((n.cold.waited(), n.cold.lacked()), (waited + 2, lacked), "the head and the record");
}

#[test]
fn rows_that_leave_memory_as_often_as_they_come_are_read_by_the_worker() {
    let mut n = Node::new(Retention::All);
    n.c.append(n.table, "a", "old");
    n.restart(true);
    let sent = n.write(&["a"]);
    let mut fetches = 0;
    for _ in 0..10 {
        n.rest();
        for FetchRequest { shard, ticket, .. } in n.take_fetches() {
            fetches += 1;
            n.c.push(N1, RowsFetched { shard, ticket });
        }
    }
    assert_eq!((written(n.c.answers.take(sent)), fetches), (1, 3));
}

#[test]
fn a_tail_whose_rows_are_cold_waits_for_them_and_is_answered_once() {
    // In time, and after its time.
    for late in [false, true] {
        let mut n = Node::new(Retention::Latest);
        n.restart(true);
        let (wait, waited) = (500_000, n.cold.waited());
        let tail = n.tail("a", wait);
        n.rest();
        assert!(n.c.answers.take(tail).is_none(), "there is nothing yet");
        n.cold.chill(true);
        let sent = n.write(&["a"]);
        n.rest();
        assert_eq!(written(n.c.answers.take(sent)), 0);
        assert!(n.c.answers.take(tail).is_none(), "whether the record is still there is in no memory");
        let metrics = n.c.nodes[&N1].metrics.clone().unwrap();
        assert_eq!(metrics.waiting_tails.get(), 1, "it takes up no place of a request");
        if late {
            n.c.run_for(2 * wait);
            assert!(n.c.answers.take(tail).is_none());
            assert_eq!(metrics.waiting_tails.get(), 0, "it is a read now");
        }
        assert!(n.fetch() > 0);
        n.rest();
        match n.c.answers.take(tail) {
            Some(Ok(Answer::Tail { records, .. })) => assert_eq!(records.len(), 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(n.cold.waited(), waited, "the worker waited for no file");
        n.c.run_for(4 * wait);
        assert_eq!((metrics.waiting_tails.get(), metrics.waiting_requests.get()), (0, 0));
    }
}

#[test]
fn a_tail_whose_rows_nobody_fetches_is_answered_at_once() {
    let mut n = Node::new(Retention::Latest);
    n.restart(false);
    let tail = n.tail("a", 500_000);
    n.rest();
    n.cold.chill(true);
    let sent = n.write(&["a"]);
    n.rest();
    assert_eq!(written(n.c.answers.take(sent)), 0);
    assert!(matches!(n.c.answers.take(tail), Some(Ok(Answer::Tail { records, .. })) if records.len() == 1));
    assert_eq!(n.cold.lacked(), 0);
}
