//! How soon the child of a split answers, in the cluster's own time.

use super::{KEYS, NODES, Written, filled, has, key, middle};
use crate::harness::{Cluster, append};
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::system::Partitioning;
use synod_engine::command::{Op, Outcome, WriteRequest};
use synod_engine::host::{Answer, Body};

/// How long a frame is on its way, µs.
const LINK_US: u64 = 5_000;

/// Messages that found no replica, on all nodes.
fn unknown(c: &Cluster) -> u64 {
    let of = |node: &NodeId| c.nodes[node].metrics.as_ref().unwrap().messages_unknown_total.get();
    NODES.iter().map(of).sum()
}

/// Splits a shard where links take their time, and writes to the child as soon as it is led; `then` is called just before, with the
/// child's leader. Returns the time from the order to the write's acknowledgement, µs, and how many messages found no replica.
fn first_answer(then: impl FnOnce(&mut Cluster, NodeId, ShardId)) -> (u64, u64) {
    let (mut c, mut t, parent) = filled();
    c.delay_us = LINK_US;
    let child = c.reserve(parent);
    let wanted = c.wanted(parent, child, &middle(Partitioning::Range));
    c.run_for(1_000_000);
    let (began, lost) = (c.now, unknown(&c));
    c.ask_split(parent, wanted);
    c.run_until("the child is led", |c| c.leader(child).is_some());
    let leader = c.leader(child).unwrap();
    then(&mut c, leader, child);
    let (key, value, id) = (key(KEYS - 1), "the first".to_owned(), c.next_id());
    let request = WriteRequest { id, op: Op::Write { table: t.table, ops: vec![append(&key, &value)] } };
    let asked = c.send(leader, child, Body::Write(request));
    let offset = match c.await_answer(asked) {
        Ok(Answer::Outcome(Outcome::Written(results))) => results[0].offset.0,
        other => panic!("{other:?}"),
    };
    let found = (c.now.0 - began.0, unknown(&c) - lost);
    c.delay_us = 0;
    c.run_until("the map knows", |c| c.map().shards.contains_key(&child));
    t.written.push(Written { key, value, id, offset });
    t.check(&mut c);
    found
}

/// One round chooses the split. Then the others hear of it and call the child's leader, which sends them its log: two rounds. With the
/// commit notice alone they would hear of it 20 ms later, and without the call its leader would ask after 200 ms.
#[test]
fn a_child_answers_two_rounds_after_its_split_is_chosen() {
    let (took, lost) = first_answer(|_, _, _| ());
    assert!((6 * LINK_US..9 * LINK_US).contains(&took), "{took} µs");
    assert!(lost > 0, "the child's leader speaks first, and nobody is there");
}

#[test]
fn a_call_that_is_lost_costs_no_more_than_the_time_after_which_the_leader_asks() {
    let (took, _) = first_answer(|c, leader, child| {
        for node in NODES.into_iter().filter(|node| *node != leader) {
            c.cut.insert((node, leader));
        }
        c.run_until("the others have it", |c| NODES.into_iter().all(|node| has(c, node, child)));
        c.cut.clear();
    });
    assert!((200_000..300_000).contains(&took), "{took} µs");
}
