//! The cluster's version: raised once, for good, and known to every node.

use super::harness::{Cluster, N1, N2, N3};
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, JobId, NodeId, SYSTEM_SHARD};
use synod_cluster::jobs::job::{JobEnd, JobGoal};
use synod_cluster::jobs::move_replica::MoveReplica;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, Partitioning, Retention, SystemCommand, SystemOutcome, SystemState};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{Body, NodeInput};
use synod_paxos::types::Epoch;

fn upgrade(spoken_by: &[NodeId]) -> SystemCommand {
    SystemCommand::Upgrade { to: ClusterVersion::SPOKEN, spoken_by: spoken_by.to_vec() }
}

#[test]
fn a_cluster_begins_at_the_first_version_and_is_raised_for_good() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    c.append(table, "k", "before");
    for node in c.ids() {
        assert_eq!(c.report(node).cluster_version, ClusterVersion::FIRST);
    }
    let early = c.system(&upgrade(&[N1, N3]));
    assert!(matches!(&early, SystemOutcome::Invalid { why, .. } if why.contains("nodes 2")), "{early:?}");
    // A node that sleeps through it finds it on its way back.
    c.kill(N2);
    assert_eq!(c.system(&upgrade(&[N1, N2, N3])), SystemOutcome::Done);
    c.append(table, "k", "after");
    c.start(N2);
    c.run_until("node 2 knows it", |c| c.report(N2).cluster_version == ClusterVersion::SPOKEN);
    // Once more is no harm.
    c.upgrade();
    let n4 = c.join();
    c.run_until("a new node knows it", |c| c.report(n4).cluster_version == ClusterVersion::SPOKEN);
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
    c.append(table, "k", "after a restart of all");
    assert_eq!(c.map().version, ClusterVersion::SPOKEN);
    for node in c.ids() {
        assert_eq!(c.report(node).cluster_version, ClusterVersion::SPOKEN, "node {node}");
    }
    for shard in [c.shards_of(table), vec![SYSTEM_SHARD]].concat() {
        c.check_equal(shard);
    }
}

/// What a node of an older version would not know is not even proposed. A job outlives every process.
#[test]
fn jobs_begin_once_every_node_knows_them() {
    let mut c = Cluster::mem(3);
    let to = Some(c.join());
    let goal = JobGoal::Move { shard: SYSTEM_SHARD, replica: MoveReplica { from: N3, to } };
    let start = SystemCommand::StartJob { goal };
    let request = WriteRequest { id: c.next_id(), op: Op::System(start.encode()) };
    let refused = c.call(SYSTEM_SHARD, || Body::Write(request.clone()));
    let by_version = |refused: &Refusal| matches!(refused, Refusal::Invalid { field, .. } if *field == CLUSTER_VERSION);
    assert!(refused.as_ref().is_err_and(by_version), "{refused:?}");
    c.upgrade();
    assert_eq!(c.system(&start), SystemOutcome::Job(JobId(1)));
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
    assert_eq!(c.system(&start), SystemOutcome::Job(JobId(1)), "it runs still");
    assert_eq!(c.system(&SystemCommand::CancelJob { job: JobId(1) }), SystemOutcome::Done);
    let (job, seen) = (JobId(1), Epoch(1));
    assert_eq!(c.system(&SystemCommand::FinishJob { job, seen, end: JobEnd::Cancelled }), SystemOutcome::Done);
    assert_eq!(c.system(&start), SystemOutcome::Job(JobId(2)));
    c.check_equal(SYSTEM_SHARD);
}

/// The number of a table's replicas changes from the fifth version on: below it the command is not even proposed.
#[test]
fn a_table_is_altered_once_every_node_knows_that() {
    let mut c = Cluster::mem(3);
    c.create_table("t", Partitioning::Hash, Retention::All, 2);
    let before = c.map();
    let command = SystemCommand::AlterTable { name: "t".into(), replicas: 1 };
    assert_eq!(command.needs(), ClusterVersion::FIFTH);
    let request = WriteRequest { id: c.next_id(), op: Op::System(command.encode()) };
    let refused = c.call(SYSTEM_SHARD, || Body::Write(request.clone()));
    let by_version = |refused: &Refusal| matches!(refused, Refusal::Invalid { field, .. } if *field == CLUSTER_VERSION);
    assert!(refused.as_ref().is_err_and(by_version), "{refused:?}");
    assert_eq!((c.map().tables.clone(), c.map().jobs.len()), (before.tables.clone(), 0));
    c.check_equal(SYSTEM_SHARD);
}

/// A follower that has not heard that the cluster was raised names the leader; it does not say that the command is too new.
#[test]
fn a_follower_that_is_behind_refuses_nothing_for_its_version() {
    let mut c = Cluster::mem(3);
    c.run_until("a leader", |c| c.leader(SYSTEM_SHARD).is_some());
    let leader = c.leader(SYSTEM_SHARD).unwrap();
    let behind = c.ids().into_iter().find(|node| *node != leader).unwrap();
    c.isolate(behind);
    assert_eq!(c.system(&upgrade(&[N1, N2, N3])), SystemOutcome::Done);
    let goal = JobGoal::Move { shard: SYSTEM_SHARD, replica: MoveReplica { from: N3, to: None } };
    let command = SystemCommand::StartJob { goal }.encode();
    let request = WriteRequest { id: c.next_id(), op: Op::System(command) };
    let id = c.send(behind, SYSTEM_SHARD, Body::Write(request));
    let answer = c.await_answer(id);
    assert!(matches!(answer, Err(Refusal::NotLeader { .. })), "{answer:?}");
}

/// A map of a cluster that was made anew, further on in its history: nothing goes, nothing comes.
#[test]
fn a_map_of_another_cluster_is_not_followed() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    c.append(table, "k", "v");
    let before = c.report(N1);
    let mut other = SystemState::found(78, &["elsewhere:1".into()]);
    (other.revision, other.next_shard, other.version) = (1_000_000, 100, ClusterVersion::SPOKEN);
    for node in c.ids() {
        c.push(node, NodeInput::Map(Arc::new(other.clone())));
    }
    c.run_for(2_000_000);
    let after = c.report(N1);
    assert_eq!((after.map_revision, after.replicas.len()), (before.map_revision, before.replicas.len()));
    assert_eq!(after.cluster_version, ClusterVersion::FIRST);
    c.append(table, "k", "w");
}
