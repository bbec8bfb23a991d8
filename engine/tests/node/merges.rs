//! Shards that go into their neighbours on whole nodes: nothing is lost, and nothing happens twice, whoever dies meanwhile.

use super::{KEYS, NODES, Table, disk_of, follower, has, kill_all, start_all};
use crate::harness::Cluster;
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, Partitioning, Retention};
use synod_engine::host::{AdminInput, At, Body, Freshness, MERGE_FROZEN, MERGE_MERGING, MergeWanted, Read};
use synod_engine::logstore::LogStore as _;
use synod_engine::worker::WorkerOptions;
use synod_paxos::types::Epoch;

/// Three nodes with a table of two shards, each with records: the lower one and the upper one.
fn two_shards() -> (Cluster, Table, ShardId, ShardId) {
    let mut c = Cluster::that_merges(3, WorkerOptions::default());
    let table = c.create_table("t", Partitioning::Range, Retention::All, 1);
    let low = c.shards_of(table)[0];
    let mut t = Table { table, written: Vec::new() };
    t.write(&mut c, KEYS);
    c.run_for(1_000_000);
    let high = c.split(low, b"k12");
    t.write(&mut c, KEYS);
    c.run_for(1_000_000);
    (c, t, low, high)
}

/// Whether a shard is in this phase of a merge on a node.
fn is(c: &mut Cluster, node: NodeId, shard: ShardId, phase: &str) -> bool {
    c.replica(node, shard).and_then(|replica| replica.merge).is_some_and(|merge| merge.phase == phase)
}

fn gone_everywhere(c: &mut Cluster, shard: ShardId) {
    c.run_until("its replicas and logs are gone", |c| {
        NODES.into_iter().all(|node| {
            let (log, _) = disk_of(c, node);
            !has(c, node, shard) && log.recover_group(shard).unwrap().is_none()
        })
    });
}

#[test]
fn a_neighbour_goes_into_a_shard_with_all_it_has() {
    for upper_stays in [false, true] {
        let (mut c, mut t, low, high) = two_shards();
        let (target, source) = if upper_stays { (high, low) } else { (low, high) };
        c.merge(target, source);
        assert_eq!(c.shards_of(t.table), [target]);
        let descriptor = c.map().shards[&target].clone();
        assert!(descriptor.from.is_empty() && descriptor.to.is_empty(), "{descriptor:?}");
        t.write(&mut c, KEYS);
        // Names of before the merge are not executed again: the sessions of both are kept.
        t.check(&mut c);
        gone_everywhere(&mut c, source);
        kill_all(&mut c);
        start_all(&mut c);
        t.write(&mut c, KEYS);
        t.check(&mut c);
        assert!(NODES.into_iter().all(|node| !has(&mut c, node, source)));
        // What was joined can be parted again.
        c.split(target, b"k06");
        t.write(&mut c, KEYS);
        t.check(&mut c);
    }
}

#[test]
fn all_nodes_die_at_any_step_and_the_merge_comes_about_or_not() {
    for steps in [0, 1, 2, 3, 5, 8, 12, 20, 40] {
        let (mut c, mut t, low, high) = two_shards();
        c.begin_merge(low, high);
        for _ in 0..steps {
            c.step();
        }
        kill_all(&mut c);
        start_all(&mut c);
        t.write(&mut c, KEYS);
        // It was absorbed, or the leader of the target takes it back.
        c.run_for(10_000_000);
        if c.map().shards.contains_key(&high) {
            c.merge(low, high);
        }
        t.write(&mut c, KEYS);
        t.check(&mut c);
        assert_eq!(c.shards_of(t.table), [low], "after {steps} steps");
        gone_everywhere(&mut c, high);
    }
}

#[test]
fn a_leader_that_dies_on_the_way_is_followed_by_one_that_goes_on() {
    for steps in [0, 2, 4, 8, 16] {
        let (mut c, mut t, low, high) = two_shards();
        c.begin_merge(low, high);
        let leader = c.leader(low).unwrap();
        for _ in 0..steps {
            c.step();
        }
        c.kill(leader);
        c.run_for(10_000_000);
        t.write(&mut c, KEYS);
        c.start(leader);
        if c.map().shards.contains_key(&high) {
            c.merge(low, high);
        }
        t.write(&mut c, KEYS);
        t.check(&mut c);
        assert_eq!(c.shards_of(t.table), [low], "after {steps} steps");
    }
}

#[test]
fn a_merge_that_lacks_a_word_is_taken_back_and_the_source_goes_on() {
    let (mut c, mut t, low, high) = two_shards();
    c.bring_together(low, high);
    let victim = follower(&c, low);
    c.begin_merge(low, high);
    c.kill(victim);
    // Without the word of a voter nothing is absorbed.
    let leader = c.leader(low).unwrap();
    c.run_until("it is taken back", |c| !is(c, leader, low, MERGE_MERGING));
    assert!(c.map().shards.contains_key(&high), "a node that is down keeps its shard");
    t.write(&mut c, KEYS);
    c.run_until("both go on", |c| {
        [low, high].into_iter().all(|shard| c.replica(leader, shard).is_some_and(|replica| replica.merge.is_none()))
    });
    c.start(victim);
    t.write(&mut c, KEYS);
    t.check(&mut c);
    c.merge(low, high);
    t.check(&mut c);
}

#[test]
fn a_frozen_shard_answers_nobody_and_says_that_it_is_for_a_moment() {
    let (mut c, mut t, low, high) = two_shards();
    c.bring_together(low, high);
    c.begin_merge(low, high);
    let leader = c.leader(high).unwrap();
    c.run_until("it is frozen", |c| is(c, leader, high, MERGE_FROZEN) || !has(c, leader, high));
    if has(&mut c, leader, high) {
        let read = Read::Get { key: "k20".into(), at: At::Newest };
        let asked = c.send(leader, high, Body::Read { read, freshness: Freshness::Linearizable });
        let answer = c.await_answer(asked);
        assert!(matches!(answer, Err(Refusal::Changing { .. } | Refusal::WrongShard)), "{answer:?}");
    }
    c.run_until("the map knows", |c| !c.map().shards.contains_key(&high));
    t.write(&mut c, KEYS);
    t.check(&mut c);
}

#[test]
fn a_merge_that_is_cancelled_leaves_both_as_they_were() {
    let (mut c, mut t, low, high) = two_shards();
    c.bring_together(low, high);
    let victim = follower(&c, low);
    c.begin_merge(low, high);
    c.kill(victim);
    let leader = c.leader(low).unwrap();
    c.push(leader, AdminInput::CancelMerge { shard: low, source: high, done: Box::new(|_| ()) });
    c.run_until("both go on", |c| {
        [low, high].into_iter().all(|shard| c.replica(leader, shard).is_some_and(|replica| replica.merge.is_none()))
    });
    assert!(c.map().shards.contains_key(&high));
    c.start(victim);
    t.write(&mut c, KEYS);
    t.check(&mut c);
}

#[test]
fn a_merge_that_makes_no_sense_now_is_refused() {
    let mut old = Cluster::that_splits(3, WorkerOptions::default());
    let table = old.create_table("t", Partitioning::Range, Retention::All, 1);
    let shard = old.shards_of(table)[0];
    let other = old.split(shard, b"k12");
    let wanted = old.merge_wanted(shard, other);
    let refused = old.try_merge(shard, wanted);
    assert!(matches!(refused, Err(Refusal::Invalid { field: CLUSTER_VERSION, .. })), "{refused:?}");

    let (mut c, t, low, high) = two_shards();
    let good = c.merge_wanted(low, high);
    let bad = |c: &mut Cluster, merge: MergeWanted| {
        for _ in 0..50 {
            match c.try_merge(low, merge) {
                Err(Refusal::Invalid { field, .. }) => return field,
                Err(Refusal::NotReady) => c.run_for(50_000),
                other => panic!("{other:?}"),
            }
        }
        panic!("it is never ready");
    };
    assert_eq!(bad(&mut c, MergeWanted { version: 9, ..good }), "version");
    assert_eq!(bad(&mut c, MergeWanted { epoch: Epoch(9), ..good }), "epoch");
    assert_eq!(bad(&mut c, MergeWanted { source_version: 9, ..good }), "source_version");
    assert_eq!(bad(&mut c, MergeWanted { source_epoch: Epoch(9), ..good }), "source_version");
    t.check(&mut c);
    assert_eq!(c.shards_of(t.table).len(), 2);
}
