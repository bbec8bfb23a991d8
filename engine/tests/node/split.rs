//! Shards that are split on whole nodes: nothing is lost, and nothing happens twice, whoever dies meanwhile.

#[path = "split_custody.rs"]
mod custody;
#[path = "split_joining.rs"]
mod joining;
#[path = "merges.rs"]
mod merges;
#[path = "split_speed.rs"]
mod speed;

use super::harness::{Cluster, Disk, N1, N2, N3, append};
use super::scrub::equal;
use super::snapshots::installed;
use super::text;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::command::{Outcome, WriteId};
use synod_engine::host::{AdminInput, SplitWanted};
use synod_engine::logstore::mem::MemLog;
use synod_engine::logstore::{GroupWrite, LogBatch, LogStore};
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::{BulkLoad, StateStore};
use synod_engine::worker::WorkerOptions;
use synod_paxos::types::Epoch;

/// How many keys are written, in turn.
const KEYS: usize = 24;
const NODES: [NodeId; 3] = [N1, N2, N3];

fn key(n: usize) -> String {
    format!("k{:02}", n % KEYS)
}

/// A position with half of the keys on each side.
fn middle(partitioning: Partitioning) -> Vec<u8> {
    let mut all: Vec<Vec<u8>> = (0..KEYS).map(|n| partitioning.position(key(n).as_bytes()).into_owned()).collect();
    all.sort();
    let mut at = all.swap_remove(KEYS / 2);
    if partitioning == Partitioning::Hash {
        at.truncate(8);
    }
    at
}

/// What was written, under which name, and where it is.
struct Written {
    key: String,
    value: String,
    id: WriteId,
    offset: u64,
}

/// A table that is written to, and all that was.
struct Table {
    table: TableId,
    written: Vec<Written>,
}

impl Table {
    /// Asks until it is executed, under one name, wherever the map says that the key is.
    fn send(&self, c: &mut Cluster, id: WriteId, key: &str, value: &str) -> u64 {
        for _ in 0..500 {
            match c.write_as(id, self.table, vec![append(key, value)]) {
                Ok(Outcome::Written(results)) => return results[0].offset.0,
                Err(Refusal::WrongShard) => c.run_for(20_000),
                other => panic!("{other:?}"),
            }
        }
        panic!("no shard takes {key}");
    }

    fn write(&mut self, c: &mut Cluster, count: usize) {
        for _ in 0..count {
            let n = self.written.len();
            let (key, value, id) = (key(n), format!("{n} {}", "x".repeat(60)), c.next_id());
            let offset = self.send(c, id, &key, &value);
            self.written.push(Written { key, value, id, offset });
        }
    }

    /// All that was written is there once, and no name is executed again.
    fn check(&self, c: &mut Cluster) {
        for n in 0..KEYS {
            let expected: Vec<&str> =
                self.written.iter().filter(|w| w.key == key(n)).map(|w| w.value.as_str()).collect();
            let found: Vec<String> = c.range(self.table, &key(n)).iter().map(|r| text(&r.record.value)).collect();
            assert_eq!(found, expected, "{}", key(n));
        }
        for Written { key, value, id, offset } in &self.written {
            assert_eq!(self.send(c, *id, key, value), *offset, "{key} was written again");
        }
        for shard in c.shards_of(self.table) {
            c.check_equal(shard);
            equal(c, shard);
        }
    }
}

/// Logs are trimmed as soon as they can be, whoever sleeps.
fn keeping_little() -> WorkerOptions {
    WorkerOptions {
        log_keep_bytes: 2 << 10,
        trim_slots: 1,
        trim_slots_flushed: 1,
        snapshot_unused_us: 2_000_000,
        ..WorkerOptions::default()
    }
}

/// Three nodes with a table of one shard.
fn one_shard(partitioning: Partitioning, options: WorkerOptions) -> (Cluster, Table, ShardId) {
    let mut c = Cluster::that_splits(3, options);
    let table = c.create_table("t", partitioning, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    (c, Table { table, written: Vec::new() }, shard)
}

/// The same, with records.
fn filled() -> (Cluster, Table, ShardId) {
    let (mut c, mut t, shard) = one_shard(Partitioning::Range, WorkerOptions::default());
    t.write(&mut c, 2 * KEYS);
    c.run_for(1_000_000);
    (c, t, shard)
}

fn has(c: &mut Cluster, node: NodeId, shard: ShardId) -> bool {
    c.replica(node, shard).is_some()
}

fn follower(c: &Cluster, shard: ShardId) -> NodeId {
    let leader = c.leader(shard).expect("somebody leads");
    NODES.into_iter().find(|node| *node != leader).unwrap()
}

fn disk_of(c: &Cluster, node: NodeId) -> (Arc<MemLog>, MemDisk) {
    let Disk::Mem { log, state, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
    (Arc::clone(log), state.clone())
}

/// A copy of what is flushed on a node.
fn flushed(c: &Cluster, node: NodeId) -> MemDisk {
    let (mut rows, copy) = (Vec::new(), MemDisk::default());
    let mut visit = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), bytes::Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    };
    MemState::open(&disk_of(c, node).1).scan(&[], &[0xff; 5], false, &mut visit).unwrap();
    copy.load(&rows).unwrap();
    copy
}

/// Nothing of what a node flushed since this copy was made has reached its disk.
fn set_back(c: &mut Cluster, node: NodeId, copy: MemDisk) {
    let Disk::Mem { state, .. } = &mut c.nodes.get_mut(&node).unwrap().disk else { panic!("in memory only") };
    *state = copy;
}

/// A group's first write has not reached a node's log, nor has any later one of it.
fn unwrite(c: &mut Cluster, node: NodeId, group: ShardId) {
    let (old, new) = (disk_of(c, node).0, MemLog::new());
    let found = old.recover_node().unwrap();
    new.seal(found.sealed).unwrap();
    let mut groups = Vec::new();
    for shard in found.groups.into_iter().filter(|shard| *shard != group) {
        let has = old.recover_group(shard).unwrap().unwrap();
        assert_eq!(has.trimmed.slot, Slot(0), "shard {shard}");
        let append = match has.last.slot {
            Slot(0) => Vec::new(),
            last => old.entries(shard, Slot(0), last, usize::MAX).unwrap(),
        };
        let (genesis, hard, space) = (Some(has.genesis), Some(has.hard), has.space);
        groups.push(GroupWrite { shard, genesis, hard, space, append, ..GroupWrite::default() });
    }
    new.write(&LogBatch { groups, seq: found.seq, seen: found.seen }).unwrap();
    while new.begin_incarnation().unwrap() < found.incarnation {}
    let Disk::Mem { log, .. } = &mut c.nodes.get_mut(&node).unwrap().disk else { panic!("in memory only") };
    *log = Arc::new(new);
}

fn kill_all(c: &mut Cluster) {
    for node in c.ids() {
        c.kill(node);
    }
}

fn start_all(c: &mut Cluster) {
    for node in c.ids().into_iter().filter(|node| !c.is_up(*node)).collect::<Vec<_>>() {
        c.start(node);
    }
}

#[test]
fn a_shard_is_split_under_writes_and_loses_and_repeats_none() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let (mut c, mut t, parent) = one_shard(partitioning, WorkerOptions::default());
        t.write(&mut c, 2 * KEYS);
        c.run_until("each node has its log", |c| {
            let leader = c.leader(parent).unwrap();
            c.replica(leader, parent).unwrap().hindrance.is_none()
        });
        let child = c.reserve(parent);
        let wanted = c.wanted(parent, child, &middle(partitioning));
        let told = c.ask_split(parent, wanted);
        t.write(&mut c, 2 * KEYS);
        c.run_until("it is done", |_| told.lock().unwrap().is_some());
        assert_eq!(told.lock().unwrap().take(), Some(Ok(())));
        c.run_until("the map knows", |c| c.map().shards.contains_key(&child));
        t.write(&mut c, 2 * KEYS);
        assert_eq!(c.shards_of(t.table), [parent, child]);
        for shard in [parent, child] {
            let keys = (0..KEYS).filter(|n| c.shard_for(t.table, &key(*n)) == shard).count();
            assert_eq!(keys, KEYS / 2, "shard {shard}");
        }
        t.check(&mut c);
        kill_all(&mut c);
        start_all(&mut c);
        t.check(&mut c);
        for node in NODES {
            let replica = c.replica(node, child).unwrap();
            assert_eq!((replica.version, replica.unborn), (2, false));
        }
    }
}

#[test]
fn whatever_of_a_split_is_on_disk_when_all_nodes_die_it_is_whole_afterwards() {
    for (logged, held) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut c, mut t, parent) = filled();
        let before: Vec<MemDisk> = NODES.iter().map(|node| flushed(&c, *node)).collect();
        let child = c.reserve(parent);
        let wanted = c.wanted(parent, child, &middle(Partitioning::Range));
        let told = c.ask_split(parent, wanted);
        c.run_until("it has begun on all nodes", |c| NODES.into_iter().all(|node| has(c, node, child)));
        assert_eq!(told.lock().unwrap().take(), Some(Ok(())));
        c.run_for(100_000);
        kill_all(&mut c);
        for (node, copy) in NODES.into_iter().zip(before) {
            if !held {
                set_back(&mut c, node, copy);
            }
            if !logged {
                unwrite(&mut c, node, child);
            }
        }
        // Alone it can apply nothing.
        c.start(N1);
        c.run_for(500_000);
        let replica = c.replica(N1, child).map(|replica| replica.unborn);
        let expected = (logged || held).then_some(!held);
        assert_eq!(replica, expected, "logged: {logged}, flushed: {held}");
        start_all(&mut c);
        t.write(&mut c, KEYS);
        t.check(&mut c);
        for node in NODES {
            assert!(!c.replica(node, child).unwrap().unborn);
            assert_eq!(installed(&c, node), 0, "no snapshot is needed");
        }
        kill_all(&mut c);
        start_all(&mut c);
        t.check(&mut c);
    }
}

/// The child goes on meanwhile: what it has in its log is applied to what the replay makes.
#[test]
fn a_child_whose_first_rows_are_lost_has_them_again_and_goes_on_with_its_own_log() {
    let (mut c, mut t, parent) = filled();
    let victim = follower(&c, parent);
    let before = flushed(&c, victim);
    let child = c.split(parent, &middle(Partitioning::Range));
    t.write(&mut c, 2 * KEYS);
    c.kill(victim);
    t.write(&mut c, KEYS);
    set_back(&mut c, victim, before);
    c.start(victim);
    t.write(&mut c, KEYS);
    t.check(&mut c);
    assert!(!c.replica(victim, child).unwrap().unborn);
    assert_eq!(installed(&c, victim), 0);
}

#[test]
fn a_node_that_sleeps_through_a_split_makes_the_child_from_the_log() {
    let (mut c, mut t, parent) = filled();
    let victim = follower(&c, parent);
    c.kill(victim);
    c.run_for(500_000);
    let child = c.split(parent, &middle(Partitioning::Range));
    t.write(&mut c, 2 * KEYS);
    c.start(victim);
    c.run_until("it has the child", |c| has(c, victim, child));
    t.check(&mut c);
    assert_eq!(installed(&c, victim), 0);
}

/// The parent's snapshot gives up the range of the child, so the child must be there first.
#[test]
fn a_node_that_sleeps_until_the_log_is_trimmed_gets_both_by_snapshots() {
    let options = keeping_little();
    let (mut c, mut t, parent) = one_shard(Partitioning::Range, options);
    t.write(&mut c, 2 * KEYS);
    c.run_for(500_000);
    let victim = follower(&c, parent);
    let had = c.replica(victim, parent).unwrap().last;
    c.kill(victim);
    c.run_for(500_000);
    let child = c.split(parent, &middle(Partitioning::Range));
    t.write(&mut c, 8 * KEYS);
    let behind = had.max(Slot(2 * KEYS as u64 + 2));
    c.run_until("nobody has what it lacks", |c| {
        NODES.into_iter().filter(|node| *node != victim).all(|n| c.replica(n, parent).unwrap().trimmed > behind)
    });
    c.start(victim);
    c.run_until("it has the child", |c| has(c, victim, child));
    t.write(&mut c, KEYS);
    t.check(&mut c);
    assert_eq!(installed(&c, victim), 2);
    kill_all(&mut c);
    start_all(&mut c);
    t.check(&mut c);
}

/// Its state is behind what it has promised and accepted for the child, and the others' logs begin later than its own ends.
#[test]
fn a_node_that_lost_its_last_flush_and_falls_behind_gets_both_by_snapshots() {
    let options = keeping_little();
    let (mut c, mut t, parent) = one_shard(Partitioning::Range, options);
    t.write(&mut c, KEYS);
    c.run_for(500_000);
    let victim = follower(&c, parent);
    let before = flushed(&c, victim);
    let child = c.split(parent, &middle(Partitioning::Range));
    t.write(&mut c, KEYS);
    c.kill(victim);
    set_back(&mut c, victim, before);
    t.write(&mut c, 8 * KEYS);
    c.run_for(3_000_000);
    c.start(victim);
    c.run_until("both have their states", |c| {
        let whole = |role: &str| role != "reinstalling" && role != "waiting";
        [parent, child].into_iter().all(|shard| c.replica(victim, shard).is_some_and(|r| !r.unborn && whole(r.role)))
    });
    t.write(&mut c, KEYS);
    t.check(&mut c);
}

#[test]
fn replicas_of_both_sides_move_to_another_node() {
    let (mut c, mut t, parent) = filled();
    let n4 = c.join();
    let child = c.split(parent, &middle(Partitioning::Range));
    c.move_replica(child, N3, n4);
    t.write(&mut c, KEYS);
    c.move_replica(parent, N3, n4);
    c.run_until("the old replicas go", |c| !has(c, N3, parent) && !has(c, N3, child));
    t.write(&mut c, KEYS);
    t.check(&mut c);
    kill_all(&mut c);
    start_all(&mut c);
    t.write(&mut c, KEYS);
    t.check(&mut c);
    assert!(!has(&mut c, N3, parent) && !has(&mut c, N3, child));
}

/// It can no longer apply the split, and what it has of the child's range is not given up before the child is there.
#[test]
fn a_node_that_sleeps_until_the_parent_has_left_it_gets_the_child_and_then_gives_the_parent_up() {
    let (mut c, mut t, parent) = filled();
    let n4 = c.join();
    let victim = follower(&c, parent);
    c.kill(victim);
    c.run_for(500_000);
    let child = c.split(parent, &middle(Partitioning::Range));
    t.write(&mut c, KEYS);
    c.move_replica(parent, victim, n4);
    t.write(&mut c, KEYS);
    c.start(victim);
    c.run_until("the parent goes", |c| {
        let (old, new) = (has(c, victim, parent), has(c, victim, child));
        assert!(old || new, "the parent went before the child was there");
        new && !old
    });
    t.write(&mut c, KEYS);
    t.check(&mut c);
}

#[test]
fn a_child_is_split_again() {
    let (mut c, mut t, parent) = filled();
    let child = c.split(parent, b"k08");
    t.write(&mut c, KEYS);
    let grandchild = c.split(child, b"k16");
    let brother = c.split(parent, b"k04");
    t.write(&mut c, KEYS);
    assert_eq!(c.shards_of(t.table), [parent, child, grandchild, brother]);
    t.check(&mut c);
    for node in NODES {
        c.kill(node);
        t.write(&mut c, KEYS);
        c.start(node);
    }
    t.check(&mut c);
    let map = c.map();
    let versions = [parent, child, grandchild, brother].map(|shard| map.shards[&shard].version);
    assert_eq!(versions, [3, 3, 3, 3]);
}

#[test]
fn a_table_that_is_dropped_while_it_is_split_leaves_nothing() {
    for steps in [0, 2, 4, 8, 16] {
        let (mut c, _, parent) = filled();
        let child = c.reserve(parent);
        let wanted = c.wanted(parent, child, b"k12");
        c.ask_split(parent, wanted);
        for _ in 0..steps {
            c.step();
        }
        assert_eq!(c.system(&SystemCommand::DropTable { name: "t".into() }), SystemOutcome::Done);
        let only_system = |c: &mut Cluster| {
            NODES.into_iter().all(|node| c.report(node).replicas.iter().all(|r| r.shard == SYSTEM_SHARD))
        };
        c.run_until("all replicas go", only_system);
        c.run_for(3_000_000);
        assert!(only_system(&mut c), "after {steps} steps");
        kill_all(&mut c);
        start_all(&mut c);
        c.run_for(3_000_000);
        assert!(only_system(&mut c), "after {steps} steps and a restart");
        assert!(c.map().reserved.is_empty());
    }
}

#[test]
fn a_split_is_made_or_not_whenever_its_leader_dies() {
    for steps in 0..10 {
        let (mut c, mut t, parent) = filled();
        let child = c.reserve(parent);
        let wanted = c.wanted(parent, child, b"k12");
        let leader = c.leader(parent).unwrap();
        c.ask_split(parent, wanted);
        for _ in 0..steps {
            c.step();
        }
        c.kill(leader);
        // Whoever has applied it tells the map.
        c.run_for(6_000_000);
        if !c.map().shards.contains_key(&child) {
            assert_eq!(c.split(parent, b"k12"), child, "the id is given again");
        }
        t.write(&mut c, KEYS);
        c.start(leader);
        t.write(&mut c, KEYS);
        assert_eq!(c.shards_of(t.table), [parent, child]);
        t.check(&mut c);
    }
}

#[test]
fn a_split_that_makes_no_sense_now_is_refused() {
    let mut old = Cluster::mem(3);
    let table = old.create_table("t", Partitioning::Range, Retention::All, 1);
    let shard = old.shards_of(table)[0];
    let wanted = old.wanted(shard, ShardId(1000), b"k12");
    let refused = old.try_split(shard, wanted);
    assert!(matches!(refused, Err(Refusal::Invalid { field: CLUSTER_VERSION, .. })), "{refused:?}");

    let (mut c, mut t, parent) = filled();
    let child = c.reserve(parent);
    let good = c.wanted(parent, child, b"k12");
    let bad = |c: &mut Cluster, split: SplitWanted| match c.try_split(parent, split) {
        Err(Refusal::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(bad(&mut c, SplitWanted { version: 2, ..good.clone() }), "version");
    assert_eq!(bad(&mut c, SplitWanted { epoch: Epoch(2), ..good.clone() }), "epoch");
    assert_eq!(bad(&mut c, SplitWanted { child: parent, ..good.clone() }), "child");
    assert_eq!(bad(&mut c, SplitWanted { at: bytes::Bytes::new(), ..good.clone() }), "at");
    let unknown = c.leader(parent).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let tell = told.clone();
    let done = Box::new(move |result| tell.send(result).unwrap());
    c.push(unknown, AdminInput::Split { shard: ShardId(999), split: good.clone(), done });
    c.run_for(10_000);
    assert_eq!(heard.try_recv().unwrap(), Err(Refusal::WrongShard));
    let behind = follower(&c, parent);
    let done = Box::new(move |result| told.send(result).unwrap());
    c.push(behind, AdminInput::Split { shard: parent, split: good.clone(), done });
    c.run_for(10_000);
    let refused = heard.try_recv().unwrap();
    assert!(matches!(refused, Err(Refusal::NotLeader { maybe: false, .. })), "{refused:?}");

    // A learner would need snapshots of both.
    let n4 = c.join();
    assert_eq!(c.try_change(parent, MemberChange::Learn(n4)), Ok(()));
    c.run_until("it learns", |c| has(c, n4, parent));
    let wanted = c.wanted(parent, child, b"k12");
    assert_eq!(c.try_split(parent, wanted), Err(Refusal::NotReady));
    let leader = c.leader(parent).unwrap();
    assert!(c.replica(leader, parent).unwrap().hindrance.is_some());
    assert_eq!(c.try_change(parent, MemberChange::Remove(n4)), Ok(()));
    c.run_until("it is gone", |c| !has(c, n4, parent));

    // One at a time.
    c.run_for(1_000_000);
    let wanted = c.wanted(parent, child, b"k12");
    let (first, second) = (c.ask_split(parent, wanted.clone()), c.ask_split(parent, wanted));
    c.run_until("both are answered", |_| first.lock().unwrap().is_some() && second.lock().unwrap().is_some());
    assert_eq!(first.lock().unwrap().take(), Some(Ok(())));
    assert_eq!(second.lock().unwrap().take(), Some(Err(Refusal::NotReady)));
    c.run_until("the map knows", |c| c.map().shards.contains_key(&child));
    t.write(&mut c, KEYS);
    t.check(&mut c);
}
