//! Leaders that are silent, and replicas that are cut off: who notices, and what clients are told.

use super::harness::{Cluster, append};
use bytes::Bytes;
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{Answer, At, Body, Freshness, Read, TailPoll};

const SECOND: u64 = 1_000_000;

fn cluster() -> (Cluster, TableId, ShardId, NodeId, [NodeId; 2]) {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "k", "first");
    c.run_for(2 * SECOND);
    let leader = c.leader(shard).unwrap();
    let others: Vec<NodeId> = c.ids().into_iter().filter(|node| *node != leader).collect();
    (c, table, shard, leader, [others[0], others[1]])
}

impl Cluster {
    fn leads(&self, node: NodeId, shard: ShardId) -> bool {
        self.nodes[&node].seen.lock().unwrap().leads.contains(&shard)
    }

    /// A tail that waits for what is newer than all there is.
    fn tail(&mut self, node: NodeId, shard: ShardId, wait_us: u64) -> u64 {
        let segments = vec![(Bytes::new(), Bytes::new(), u64::MAX - 1)];
        let poll = TailPoll { from: Bytes::new(), to: Bytes::new(), segments, limit: 0, wait_us, tells_trimmed: false };
        self.send(node, shard, Body::Read { read: Read::Tail(poll), freshness: Freshness::Local })
    }
}

#[test]
fn a_client_at_the_wrong_node_makes_it_doubt_a_leader_that_is_silent() {
    let (mut c, table, shard, leader, others) = cluster();
    // Its worker hangs: its pulses go on, so that nobody holds it for dead, and it answers nothing.
    for other in others {
        c.cut.extend([(leader, other), (other, leader)]);
    }
    c.run_for(10 * SECOND);
    assert!(!others.iter().any(|node| c.leads(*node, shard)), "nobody had a reason to ask");
    let read = || Read::Get { key: Bytes::from_static(b"k"), at: At::Newest };
    let id = c.send(others[0], shard, Body::Read { read: read(), freshness: Freshness::Linearizable });
    let refused = c.await_answer(id);
    assert!(matches!(refused, Err(Refusal::NotLeader { leader: Some(known), .. }) if known == leader), "{refused:?}");
    let asked = c.now;
    c.run_until("another leads", |c| others.iter().any(|node| c.leads(*node, shard)));
    assert!(c.now.0 - asked.0 < 3 * SECOND, "{} µs", c.now.0 - asked.0);
    c.cut.clear();
    c.run_for(2 * SECOND);
    c.append(table, "k", "second");
}

#[test]
fn a_client_at_the_wrong_node_disturbs_no_leader_that_answers() {
    let (mut c, table, shard, leader, others) = cluster();
    for n in 0..20 {
        let op = append("k", &n.to_string());
        let write = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![op] } };
        let id = c.send(others[n % 2], shard, Body::Write(write));
        assert!(matches!(c.await_answer(id), Err(Refusal::NotLeader { maybe: false, .. })));
        c.run_for(SECOND / 2);
        assert_eq!(c.leader(shard), Some(leader));
    }
}

#[test]
fn a_tail_whose_wait_ends_is_told_so_by_a_replica_that_knows() {
    let (mut c, _, shard, leader, others) = cluster();
    for node in [leader, others[0], others[1]] {
        let (id, began) = (c.tail(node, shard, SECOND), c.now);
        let told = c.await_answer(id);
        assert!(
            matches!(&told, Ok(Answer::Tail { records, more: false, .. }) if records.is_empty()),
            "{node}: {told:?}"
        );
        let took = c.now.0 - began.0;
        assert!((SECOND..2 * SECOND).contains(&took), "{node}: {took} µs");
    }
}

#[test]
fn a_tail_at_a_replica_that_is_cut_off_is_sent_away_at_the_end_of_its_wait() {
    for at_leader in [true, false] {
        let (mut c, table, shard, leader, others) = cluster();
        let node = if at_leader { leader } else { others[0] };
        c.isolate(node);
        c.run_until("another leads", |c| c.ids().into_iter().any(|id| id != node && c.leads(id, shard)));
        c.run_for(SECOND);
        let (id, began) = (c.tail(node, shard, 5 * SECOND), c.now);
        if !at_leader {
            c.append(table, "k", "what the tail must not miss");
        }
        let told = c.await_answer(id);
        assert!(matches!(told, Err(Refusal::NotLeader { maybe: false, .. })), "at the leader: {at_leader}: {told:?}");
        assert!(c.now.0 - began.0 < 8 * SECOND, "{} µs", c.now.0 - began.0);
    }
}
