//! Nodes whose disks are low: leaderships move to members with room, and only what frees room is taken where none has any.

use super::harness::snapshots::path;
use super::harness::{Cluster, N1, N2, N3, append};
use super::snapshots;
use bytes::Bytes;
use synod_cluster::ids::{NodeId, Offset};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::command::{Action, Expect, KeyOp, Op, WriteRequest};
use synod_engine::host::{AdminInput, Answer, Body, NodeInput, PeerInput, SnapshotKind};

impl Cluster {
    /// Every other node hears of it, as pulses would say it.
    fn low(&mut self, node: NodeId, low: bool) {
        self.push(node, NodeInput::DiskLow(low.then(|| "nearly full".into())));
        for peer in self.ids().into_iter().filter(|peer| *peer != node) {
            self.push(peer, PeerInput::Disk { node, low });
        }
    }
}

#[test]
fn leaderships_leave_a_low_node_and_writes_end_where_all_are() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 4);
    let shards = c.shards_of(table);
    c.append(table, "k", "before");
    c.low(N1, true);
    c.run_for(3_000_000);
    assert!(
        shards.iter().all(|shard| c.leader(*shard).is_some_and(|leader| leader != N1)),
        "the low node leads nothing"
    );
    c.append(table, "k", "one is low");
    let shard = c.shard_for(table, "k");
    let ask = |c: &mut Cluster, action: Action| {
        let op = KeyOp { key: Bytes::from_static(b"k"), expect: Expect::Any, action };
        let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![op] } };
        let id = c.send(N3, shard, Body::Write(request));
        c.await_answer(id)
    };
    let appended = |c: &mut Cluster| {
        let Action::Append(records) = append("k", "refused").action else { unreachable!() };
        ask(c, Action::Append(records))
    };
    c.low(N2, true);
    c.run_for(3_000_000);
    assert!(shards.iter().all(|shard| c.leader(*shard) == Some(N3)), "one node has room");
    // What it took the others would have to keep too, until they go down and nothing is taken any more, no deletion either.
    let refused = appended(&mut c).unwrap_err();
    assert!(matches!(&refused, Refusal::DiskFull(why) if why.contains("nodes 1, 2 ")), "{refused:?}");
    assert!(matches!(ask(&mut c, Action::Delete), Ok(Answer::Outcome(_))));
    c.low(N2, false);
    c.append(table, "k", "two have room");
    c.low(N2, true);
    c.low(N3, true);
    c.run_for(3_000_000);
    // Nobody has room: whoever leads goes on leading, and refuses before anything is proposed.
    assert_eq!(c.leader(shard), Some(N3));
    assert_eq!(appended(&mut c).unwrap_err(), Refusal::DiskFull("nearly full".into()));
    assert!(matches!(ask(&mut c, Action::Delete), Ok(Answer::Outcome(_))));
    assert!(matches!(ask(&mut c, Action::Trim(Offset(3))), Ok(Answer::Outcome(_))));
    assert_eq!(c.report(N3).disk_low.as_deref(), Some("nearly full"));
    c.low(N3, false);
    c.low(N2, false);
    c.append(table, "k", "room again");
    let values: Vec<_> = c.dump(N3, shard).iter().map(|r| r.record.value.clone()).collect();
    assert_eq!(values, ["two have room", "", "room again"], "nothing of what was refused");
}

#[test]
fn what_was_trimmed_is_flushed_while_the_disk_is_low_and_no_more() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    for n in 0..50 {
        c.append(table, "k", &format!("value {n}"));
    }
    c.run_for(5_000_000);
    let freezes = |c: &Cluster, node: NodeId| c.nodes[&node].metrics.as_ref().unwrap().freezes_total.get();
    let before = freezes(&c, N1);
    c.low(N1, true);
    c.run_for(5_000_000);
    let behind = freezes(&c, N1);
    assert!(behind > before, "what had been applied is flushed");
    assert_eq!(freezes(&c, N2), before, "a node with room has time");

    let trim = KeyOp { key: Bytes::from_static(b"k"), expect: Expect::Any, action: Action::Trim(Offset(50)) };
    c.write(table, vec![trim]).unwrap();
    c.run_for(5_000_000);
    let trimmed = freezes(&c, N1);
    assert!(trimmed > behind, "so few trims would else wait for the many writes that are refused");
    c.run_for(30_000_000);
    assert_eq!(freezes(&c, N1), trimmed, "nothing more is written for it");
}

#[test]
fn a_low_node_counts_as_without_room_only_where_a_quorum_needs_it() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "k", "before");
    c.low(N2, true);
    c.run_for(3_000_000);
    c.append(table, "k", "two have room");
    let others: Vec<NodeId> = [N1, N3].into_iter().collect();
    let leader = c.leader(shard).unwrap();
    let down = others.into_iter().find(|node| *node != leader).unwrap();
    c.kill(down);
    c.run_for(3_000_000);
    assert_eq!(c.leader(shard), Some(leader));
    let ask = |c: &mut Cluster, op: KeyOp| {
        let request = WriteRequest { id: c.next_id(), op: Op::Write { table, ops: vec![op] } };
        let id = c.send(leader, shard, Body::Write(request));
        c.await_answer(id)
    };
    // Each write needs the node whose disk is low.
    let refused = ask(&mut c, append("k", "refused")).unwrap_err();
    let words = format!("nodes 2 have less room on their disks than storage.disk_low, nodes {down} do not answer");
    assert!(matches!(&refused, Refusal::DiskFull(why) if why.contains(&words)), "{refused:?}");
    let delete = KeyOp { key: Bytes::from_static(b"k"), expect: Expect::Any, action: Action::Delete };
    assert!(matches!(ask(&mut c, delete), Ok(Answer::Outcome(_))));
    c.start(down);
    c.append(table, "k", "two have room again");
}

#[test]
fn a_low_node_makes_no_snapshot_for_members() {
    let (mut c, table, shard) = snapshots::mem();
    let victim = snapshots::left_behind(&mut c, table, shard);
    let leader = c.leader(shard).unwrap();
    for node in c.ids().into_iter().filter(|node| *node != victim) {
        c.push(node, NodeInput::DiskLow(Some("nearly full".into())));
    }
    c.start(victim);
    c.run_for(10_000_000);
    let built = |c: &Cluster| c.nodes[&leader].metrics.as_ref().unwrap().snapshots_built_total.get();
    assert_eq!((built(&c), snapshots::installed(&c, victim)), (0, 0), "its file would take the room that is short");
    for node in c.ids() {
        c.push(node, NodeInput::DiskLow(None));
    }
    snapshots::write(&mut c, table, 20);
    c.check_equal(shard);
    assert_eq!(snapshots::installed(&c, victim), 1);
}

#[test]
fn snapshots_that_nobody_needs_go_sooner_on_a_low_disk_and_with_their_shard() {
    let (mut c, table, shard) = snapshots::mem();
    let leader = c.leader(shard).unwrap();
    let file = |c: &Cluster| path(c.nodes[&leader].snapshots.path(), shard, SnapshotKind::Built).exists();
    let make = |c: &mut Cluster| {
        c.push(leader, AdminInput::MakeSnapshot { shard, done: Box::new(|result| result.expect("it is made")) });
        c.run_until("there is a snapshot", |c| file(c));
    };
    c.append(table, "k", "v");
    make(&mut c);
    c.run_for(10_000_000);
    assert!(file(&c), "while there is room it waits for whoever may need it");
    c.push(leader, NodeInput::DiskLow(Some("nearly full".into())));
    c.run_for(1_000_000);
    assert!(!file(&c));
    c.push(leader, NodeInput::DiskLow(None));
    make(&mut c);
    assert_eq!(c.system(&SystemCommand::DropTable { name: "t".into() }), SystemOutcome::Done);
    c.run_until("it goes with its shard", |c| !file(c));
}
