//! Nodes whose state is gone while their log is sound: they vote on, and get the state back from a member that has it.

use super::harness::{Cluster, Disk, N1, N2, N3};
use super::snapshots::{cluster, installed, mem, write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::StoreError;
use synod_engine::host::{AdminInput, Body, Freshness, Read, Scan};
use synod_engine::logstore::LogStore;
use synod_engine::state::mem::MemDisk;

const REINSTALLING: &str = "reinstalling";

/// Writes until every node's log begins behind slot 1.
fn trimmed(c: &mut Cluster, table: TableId, shard: ShardId) {
    write(c, table, 120);
    c.run_until("every node trims", |c| {
        c.ids().into_iter().all(|n| c.replica(n, shard).is_some_and(|r| r.trimmed > Slot(0)))
    });
}

/// The node's process ends, and its state is gone.
fn lose_state(c: &mut Cluster, node: NodeId) {
    c.kill(node);
    let Disk::Mem { state, .. } = &mut c.nodes.get_mut(&node).unwrap().disk else { panic!("in memory only") };
    *state = MemDisk::default();
}

fn role(c: &mut Cluster, node: NodeId, shard: ShardId) -> &'static str {
    c.replica(node, shard).unwrap().role
}

fn follower(c: &Cluster, shard: ShardId) -> NodeId {
    let leader = c.leader(shard).unwrap();
    [N1, N2, N3].into_iter().find(|n| *n != leader).unwrap()
}

fn others(c: &Cluster, node: NodeId) -> Vec<NodeId> {
    c.ids().into_iter().filter(|n| *n != node).collect()
}

/// A cluster whose follower lost its state and is up again, without a snapshot: its questions for one are lost.
fn without_state() -> (Cluster, TableId, ShardId, NodeId) {
    let (mut c, table, shard) = mem();
    trimmed(&mut c, table, shard);
    c.deaf = true;
    let victim = follower(&c, shard);
    lose_state(&mut c, victim);
    c.start(victim);
    (c, table, shard, victim)
}

#[test]
fn a_lost_state_comes_back_from_a_snapshot() {
    let (mut c, table, shard) = mem();
    trimmed(&mut c, table, shard);
    let victim = follower(&c, shard);
    lose_state(&mut c, victim);
    write(&mut c, table, 20);
    c.start(victim);
    assert_eq!(c.nodes[&victim].metrics.as_ref().unwrap().reinstalling.get(), 1);
    write(&mut c, table, 20);
    c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
    write(&mut c, table, 20);
    c.check_equal(shard);
    c.check_equal(SYSTEM_SHARD);
    let metrics = c.nodes[&victim].metrics.clone().unwrap();
    assert_eq!((metrics.reinstalling.get(), metrics.states_reinstalled_total.get()), (0, 1));
    // It leads as any other, and a restart finds what was installed.
    for other in others(&c, victim) {
        c.kill(other);
        write(&mut c, table, 20);
        c.start(other);
        c.kill(victim);
        c.start(victim);
        write(&mut c, table, 5);
        c.check_equal(shard);
    }
    assert_eq!(c.nodes[&victim].metrics.as_ref().unwrap().reinstalling.get(), 0);
}

#[test]
fn without_its_state_a_node_votes_and_accepts_but_neither_leads_nor_serves() {
    let (mut c, table, shard, victim) = without_state();
    // Its vote is needed now.
    let gone = others(&c, victim)[0];
    c.kill(gone);
    write(&mut c, table, 150);
    c.run_for(5_000_000);
    let rest = others(&c, victim)[1];
    assert_eq!(c.leader(shard), Some(rest));
    let report = c.replica(victim, shard).unwrap();
    assert_eq!((report.role, report.applied), (REINSTALLING, Slot(0)));
    assert!(report.commit.0 > 120, "it accepts: {report:?}");
    let before = report.trimmed;
    for freshness in [Freshness::Linearizable, Freshness::Stale(1_000_000), Freshness::Local] {
        let id = c.send(victim, shard, Body::Read { read: Read::Scan(Scan::default()), freshness });
        let refused = c.await_answer(id).unwrap_err();
        assert!(matches!(refused, Refusal::NotLeader { .. } | Refusal::NotReady), "{refused:?}");
    }
    // Nobody leads without a state, however long nobody else is there.
    c.kill(rest);
    c.start(gone);
    c.kill(gone);
    c.run_for(20_000_000);
    assert_eq!(c.leader(shard), None);
    c.start(rest);
    write(&mut c, table, 20);
    assert_eq!(c.replica(victim, shard).unwrap().trimmed, before, "its log is all it has");
    c.deaf = false;
    c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
    c.start(gone);
    write(&mut c, table, 20);
    c.check_equal(shard);
    // What it accepted behind the snapshot's position it has kept: it counts.
    c.kill(rest);
    write(&mut c, table, 20);
    c.check_equal(shard);
}

#[test]
fn what_it_accepted_behind_the_snapshot_counts_when_it_is_reinstalled() {
    let (mut c, table, shard, victim) = without_state();
    let leader = c.leader(shard).unwrap();
    let gone = others(&c, victim).into_iter().find(|n| *n != leader).unwrap();
    c.kill(gone);
    let (told, built) = channel();
    c.push(leader, AdminInput::MakeSnapshot { shard, done: Box::new(move |made| told.send(made).unwrap()) });
    c.run_until("a snapshot is made", |_| built.try_recv().is_ok_and(|made| made.is_ok()));
    // Every one of these is acknowledged by the leader and the victim, and by nobody else.
    let offsets: Vec<u64> = (0..60).map(|n| c.append(table, "late", &format!("value {n}"))).collect();
    c.fetch(leader, victim, shard);
    c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
    c.kill(leader);
    c.start(gone);
    let held: Vec<u64> = c.range(table, "late").iter().map(|record| record.offset.0).collect();
    assert_eq!(held, offsets, "acknowledged records are gone");
    c.check_equal(shard);
}

#[test]
fn without_any_sound_copy_the_shard_stays_down_and_silent() {
    let (mut c, table, shard) = mem();
    trimmed(&mut c, table, shard);
    for node in c.ids() {
        lose_state(&mut c, node);
    }
    for node in c.ids() {
        c.start(node);
    }
    c.run_until("the system shard is led", |c| c.leader(SYSTEM_SHARD).is_some());
    c.run_for(5_000_000);
    let seq = |c: &Cluster| {
        let Disk::Mem { log, .. } = &c.nodes[&N1].disk else { panic!("in memory only") };
        log.recover_group(shard).unwrap().unwrap().last
    };
    let before = seq(&c);
    c.run_for(40_000_000);
    assert_eq!((c.leader(shard), seq(&c)), (None, before), "nothing is led or written");
    for node in c.ids() {
        assert_eq!(role(&mut c, node, shard), REINSTALLING);
    }
    // Other shards go on.
    c.create_table("u", Partitioning::Hash, Retention::All, 1);
}

#[test]
fn a_log_that_begins_at_its_beginning_is_replayed() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    write(&mut c, table, 40);
    lose_state(&mut c, N2);
    c.start(N2);
    for shard in c.shards_of(table) {
        c.check_equal(shard);
    }
    assert_eq!(installed(&c, N2), 0);
}

#[test]
fn a_crash_at_the_flip_leaves_it_without_a_state_once_more() {
    let (mut c, table, shard) = mem();
    trimmed(&mut c, table, shard);
    let victim = follower(&c, shard);
    lose_state(&mut c, victim);
    for _ in 0..3 {
        c.start(victim);
        let Disk::Mem { log, .. } = &c.nodes[&victim].disk else { panic!("in memory only") };
        let log = Arc::clone(log);
        log.set_hook(Box::new(move |batch| match batch.groups.iter().any(|g| g.shard == shard && g.space.is_some()) {
            true => Err(StoreError::Io { what: "the flip".into(), why: "injected".into() }),
            false => Ok(()),
        }));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
        }));
        assert!(ended.is_err(), "a failed write ends the process");
        log.clear_failure();
        c.kill(victim);
        write(&mut c, table, 30);
    }
    c.start(victim);
    c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
    write(&mut c, table, 20);
    c.check_equal(shard);
}

/// It votes alone, so there is no other voter to ask.
#[test]
fn the_only_voter_without_a_state_gets_it_from_who_had_the_vote_before() {
    let (mut c, ..) = mem();
    let (name, partitioning, retention) = ("one".into(), Partitioning::Hash, Retention::All);
    let command = SystemCommand::CreateTable { name, partitioning, retention, shards: 1, splits: vec![], replicas: 1 };
    let SystemOutcome::Table(table) = c.system(&command) else { panic!("it is refused") };
    c.run_until("the shard is led", |c| c.shards_of(table).iter().any(|shard| c.leader(*shard).is_some()));
    let shard = c.shards_of(table)[0];
    let first = c.leader(shard).unwrap();
    let to = others(&c, first)[0];
    assert_eq!(c.try_change(shard, MemberChange::Learn(to)), Ok(()));
    c.run_until("it learns", |c| c.replica(to, shard).is_some());
    write(&mut c, table, 120);
    c.run_for(3_000_000);
    c.deaf = true;
    lose_state(&mut c, to);
    c.start(to);
    assert_eq!(role(&mut c, to, shard), REINSTALLING);
    let change = MemberChange::Promote { node: to, instead_of: Some(first) };
    let mut left = 100;
    while let Err(refused) = c.try_change(shard, change) {
        assert_eq!(refused, Refusal::NotReady, "its log is whole");
        left -= 1;
        assert!(left > 0, "it never catches up");
        c.run_for(100_000);
    }
    c.run_for(2_000_000);
    c.deaf = false;
    c.run_until("it leads", |c| c.leader(shard) == Some(to));
    write(&mut c, table, 20);
    c.run_until("the old replica goes", |c| c.replica(first, shard).is_none());
}

/// Flips a bit in the middle of every table file of the state.
fn flip(state: &Path) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(state.join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            // Into the first block of rows, not into what the rest of the file says of it.
            let at = (bytes.len() / 2).min(200);
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    flipped
}

#[test]
fn flipped_bits_in_the_files_of_the_state_are_set_aside_and_reinstalled() {
    let dir = tempfile::tempdir().unwrap();
    let disks = (1..=3).map(|n| Disk::Rocks { path: dir.path().join(format!("n{n}")) }).collect();
    let (mut c, table, shard) = cluster(disks);
    for n in 0..40 {
        c.append(table, &format!("k{}", n % 7), &format!("value {n} {}", "x".repeat(100_000)));
    }
    let victim = follower(&c, shard);
    c.run_until("the victim trims", |c| {
        // Flushes take real time.
        std::thread::sleep(Duration::from_millis(5));
        c.replica(victim, shard).unwrap().trimmed > Slot(10)
    });
    c.kill(victim);
    let state = dir.path().join(format!("n{victim}/state"));
    assert!(flip(&state) > 0, "nothing was flushed");
    // What a read meets with ends the process, and the next one knows.
    std::fs::write(state.join("DAMAGED"), "as a read said").unwrap();
    c.start(victim);
    assert!(dir.path().join(format!("n{victim}/state.damaged-1")).exists());
    c.run_until("it is reinstalled", |c| {
        std::thread::sleep(Duration::from_millis(5));
        installed(c, victim) == 1
    });
    write(&mut c, table, 20);
    c.check_equal(shard);
    c.kill(victim);
    c.start(victim);
    c.check_equal(shard);
    assert!(!dir.path().join(format!("n{victim}/state.damaged-2")).exists());
}
