//! Reads that any replica answers: as fresh as the leader's word, or no older than they may be.

use super::harness::{Cluster, append};
use bytes::Bytes;
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::host::{Answer, At, Body, Freshness, Read};

const SECOND: u64 = 1_000_000;

impl Cluster {
    /// What one node says of `k`, which may be so old.
    fn read_at(&mut self, node: NodeId, shard: ShardId, freshness: Freshness) -> Result<String, Refusal> {
        let read = Read::Get { key: Bytes::from_static(b"k"), at: At::Newest };
        let id = self.send(node, shard, Body::Read { read, freshness });
        match self.await_answer(id)? {
            Answer::Record { record: Some(record), .. } => Ok(String::from_utf8(record.record.value.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, table: TableId, value: &str) {
        self.write(table, vec![append("k", value)]).unwrap();
    }
}

fn cluster() -> (Cluster, TableId, ShardId, [NodeId; 2]) {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let leader = c.leader(shard).unwrap();
    // Until every member has heard of its leader.
    c.set(table, "first");
    c.run_for(SECOND);
    let others: Vec<NodeId> = c.ids().into_iter().filter(|node| *node != leader).collect();
    (c, table, shard, [others[0], others[1]])
}

#[test]
fn every_replica_answers_as_of_now() {
    let (mut c, table, shard, followers) = cluster();
    let leader = c.leader(shard).unwrap();
    for n in 0..20 {
        c.set(table, &format!("v{n}"));
        for node in followers.into_iter().chain([leader]) {
            assert_eq!(c.read_at(node, shard, Freshness::Stale(0)), Ok(format!("v{n}")), "{node}");
        }
        let refused = c.read_at(followers[0], shard, Freshness::Linearizable);
        assert_eq!(
            refused,
            Err(Refusal::NotLeader { leader: Some(leader), maybe: false }),
            "only where it is asked for"
        );
    }
}

#[test]
fn a_replica_that_hears_nobody_answers_up_to_the_age_of_the_leaders_last_word() {
    let (mut c, table, shard, [follower, _]) = cluster();
    c.set(table, "old");
    assert_eq!(c.read_at(follower, shard, Freshness::Stale(0)).as_deref(), Ok("old"));
    c.isolate(follower);
    c.set(table, "new");
    c.run_for(SECOND);
    // What was acknowledged a second ago or less may lack; what was 5 s ago does not.
    assert_eq!(c.read_at(follower, shard, Freshness::Stale(5 * SECOND)).as_deref(), Ok("old"));
    for age in [0, SECOND / 2] {
        let refused = c.read_at(follower, shard, Freshness::Stale(age));
        assert!(matches!(refused, Err(Refusal::NotLeader { leader: None, .. })), "{age}: {refused:?}");
    }
    c.run_for(6 * SECOND);
    let refused = c.read_at(follower, shard, Freshness::Stale(5 * SECOND));
    assert!(matches!(refused, Err(Refusal::NotLeader { .. })), "the word is too old: {refused:?}");
    assert_eq!(c.read_at(follower, shard, Freshness::Local).as_deref(), Ok("old"));
    c.heal();
    c.run_for(2 * SECOND);
    assert_eq!(c.read_at(follower, shard, Freshness::Stale(0)).as_deref(), Ok("new"));
}

#[test]
fn a_leader_that_was_replaced_shows_nothing_older_than_allowed() {
    let (mut c, table, shard, _) = cluster();
    let leader = c.leader(shard).unwrap();
    c.set(table, "old");
    assert_eq!(c.read_at(leader, shard, Freshness::Stale(0)).as_deref(), Ok("old"));
    c.isolate(leader);
    c.run_until("another leads", |c| c.leader(shard).is_some_and(|now| now != leader));
    c.set(table, "new");
    c.run_for(SECOND);
    let refused = c.read_at(leader, shard, Freshness::Stale(SECOND / 2));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(c.read_at(leader, shard, Freshness::Stale(60 * SECOND)).as_deref(), Ok("old"));
}

#[test]
fn no_read_waits_for_long_at_a_replica_that_is_cut_off() {
    // One that was told a slot and is cut off before it is told that the slot is chosen.
    let mut waited = 0;
    for delay in (0..3_000).step_by(100) {
        let (mut c, table, shard, [follower, _]) = cluster();
        c.set(table, "new");
        let read = Read::Get { key: Bytes::from_static(b"k"), at: At::Newest };
        let id = c.send(follower, shard, Body::Read { read, freshness: Freshness::Stale(0) });
        c.run_for(delay);
        c.isolate(follower);
        c.run_for(300_000);
        let replica = c.replica(follower, shard).unwrap();
        let leader = c.leader(shard).unwrap();
        waited += u32::from(replica.applied < c.replica(leader, shard).unwrap().applied);
        c.run_for(SECOND);
        let answered = c.await_answer(id);
        assert!(matches!(answered, Ok(_) | Err(Refusal::NotLeader { leader: None, .. })), "{delay}: {answered:?}");
    }
    assert!(waited > 0, "it was never behind");
}
