//! Members that are behind the trimmed log: they catch up by a snapshot, whatever dies on the way.

use super::harness::{Cluster, Disk, N1, N2, N3};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, Space, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::system::{Partitioning, Retention, SystemState};
use synod_engine::StoreError;
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::keys;
use synod_engine::host::{AdminInput, Input, NodeInput, SnapshotInput};
use synod_engine::logstore::LogStore;
use synod_engine::state::StateStore;
use synod_engine::state::mem::MemState;
use synod_paxos::types::{Epoch, Membership};

const KEEP: u64 = 2 << 10;

/// Three nodes with a table of one shard, whose logs keep hardly anything.
pub fn cluster(disks: Vec<Disk>) -> (Cluster, TableId, ShardId) {
    let mut c = Cluster::new(disks);
    for node in c.ids() {
        c.kill(node);
    }
    c.options.log_keep_bytes = KEEP;
    for node in c.ids() {
        c.start(node);
    }
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    (c, table, shard)
}

pub fn mem() -> (Cluster, TableId, ShardId) {
    cluster((0..3).map(|_| Disk::mem(1 << 12)).collect())
}

/// A follower that is down while the others write so much that they trim what it lacks.
pub fn left_behind(c: &mut Cluster, table: TableId, shard: ShardId) -> NodeId {
    let leader = c.leader(shard).unwrap();
    let victim = [N1, N2, N3].into_iter().find(|n| *n != leader).unwrap();
    c.append(table, "before", "v");
    c.run_for(500_000);
    let had = c.replica(victim, shard).unwrap().last;
    c.kill(victim);
    write(c, table, 120);
    c.run_for(3_000_000);
    let trimmed = c.replica(c.leader(shard).unwrap(), shard).unwrap().trimmed;
    assert!(trimmed > had, "the others keep slot {had}: trimmed {trimmed}");
    victim
}

pub fn write(c: &mut Cluster, table: TableId, count: u32) {
    for n in 0..count {
        c.append(table, &format!("k{}", n % 7), &format!("value {n} {}", "x".repeat(100)));
    }
}

pub fn installed(c: &Cluster, node: NodeId) -> u64 {
    c.nodes[&node].metrics.as_ref().map_or(0, |m| m.snapshots_installed_total.get())
}

fn catches_up(mut c: Cluster, table: TableId, shard: ShardId) {
    let victim = left_behind(&mut c, table, shard);
    c.start(victim);
    write(&mut c, table, 20);
    c.check_equal(shard);
    assert_eq!(installed(&c, victim), 1);
    // It votes and leads as any other.
    let others: Vec<NodeId> = c.ids().into_iter().filter(|n| *n != victim).collect();
    c.kill(others[0]);
    write(&mut c, table, 20);
    c.start(others[0]);
    c.kill(others[1]);
    write(&mut c, table, 20);
    c.start(others[1]);
    c.check_equal(shard);
    // A restart finds the rows where the pointer leads.
    c.kill(victim);
    c.start(victim);
    write(&mut c, table, 20);
    c.check_equal(shard);
    c.check_equal(SYSTEM_SHARD);
}

#[test]
fn a_snapshot_is_made_where_the_whole_log_went_since_the_start() {
    let mut c = Cluster::new((0..3).map(|_| Disk::mem(1)).collect());
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    c.append(table, "k", "v");
    c.run_for(1_000_000);
    let leader = c.leader(shard).unwrap();
    let node = [N1, N2, N3].into_iter().find(|n| *n != leader).unwrap();
    (c.options.trim_slots, c.options.trim_slots_flushed) = (1, 1);
    c.kill(node);
    c.start(node);
    // It applies nothing: the entry at which the snapshot is to begin was read for the trim only.
    c.run_until("its log goes", |c| c.replica(node, shard).is_some_and(|r| r.trimmed > Slot(0) && r.trimmed == r.last));
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    c.push(node, AdminInput::MakeSnapshot { shard, done: Box::new(move |made| *tell.lock().unwrap() = Some(made)) });
    c.run_until("the snapshot is made", |_| told.lock().unwrap().is_some());
    assert_eq!(*told.lock().unwrap(), Some(Ok(())));
}

#[test]
fn a_learner_whose_log_reaches_a_snapshot_learns_from_it_what_is_chosen() {
    let mut c = Cluster::new((0..3).map(|_| Disk::mem(1 << 20)).collect());
    c.ids().into_iter().for_each(|node| c.kill(node));
    (c.options.log_keep_bytes, c.options.trim_slots, c.options.trim_slots_flushed) = (0, 1, 1);
    c.ids().into_iter().for_each(|node| c.start(node));
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    write(&mut c, table, 5);
    let learner = c.join();
    c.try_change(shard, MemberChange::Learn(learner)).unwrap();
    c.run_until("the learner has all", |c| c.replica(learner, shard).is_some_and(|r| r.applied > Slot(5)));
    let leader = c.leader(shard).unwrap();
    let others: Vec<NodeId> = [N1, N2, N3].into_iter().filter(|n| *n != leader).collect();
    let (stays, goes) = (others[0], others[1]);
    // All get the stop-sign, and none but the leader hears that it is chosen, so nothing follows it.
    c.run_for(1_000_000);
    let stop = c.replica(leader, shard).unwrap().last.next();
    let expected = c.members(shard).epoch;
    let change = MemberChange::Remove(goes);
    c.push(leader, AdminInput::ChangeMembers { shard, expected, change, done: Box::new(|_| ()) });
    c.run_until("it is proposed", |c| c.replica(leader, shard).unwrap().last == stop);
    for member in [stays, goes, learner] {
        c.cut.insert((leader, member));
    }
    c.run_until("the stop-sign is applied", |c| c.replica(leader, shard).unwrap().applied == stop);
    // What the learner has applied is lost; its log reaches just to the snapshot, and nobody has what lies before that.
    c.kill(learner);
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let done = Box::new(move |made: Result<(), String>| tell.store(made.is_ok(), Ordering::Relaxed));
    c.push(leader, AdminInput::MakeSnapshot { shard, done });
    c.run_until("the snapshot is made", |_| told.load(Ordering::Relaxed));
    c.run_until("the log is gone", |c| c.replica(leader, shard).unwrap().trimmed == stop);
    c.heal();
    c.cut.extend([(stays, learner), (learner, stays)]);
    c.start(learner);
    assert!(c.replica(learner, shard).is_some_and(|r| r.last == stop && r.commit < stop));
    write(&mut c, table, 5);
    c.run_until("it comes on", |c| c.replica(learner, shard).is_some_and(|r| r.applied.0 > stop.0 + 5));
    assert_eq!(installed(&c, learner), 0, "it had the log");
}

#[test]
fn a_member_behind_the_log_catches_up() {
    let (c, table, shard) = mem();
    catches_up(c, table, shard);
}

#[test]
fn a_member_behind_the_log_catches_up_on_rocksdb() {
    let dir = tempfile::tempdir().unwrap();
    let disks = (1..=3).map(|n| Disk::Rocks { path: dir.path().join(format!("n{n}")) }).collect();
    let (mut c, table, shard) = cluster(disks);
    let leader = c.leader(shard).unwrap();
    let victim = [N1, N2, N3].into_iter().find(|n| *n != leader).unwrap();
    c.append(table, "before", "v");
    c.run_for(500_000);
    c.kill(victim);
    for n in 0..40 {
        c.append(table, &format!("k{}", n % 7), &format!("value {n} {}", "x".repeat(100_000)));
    }
    c.run_until("the others trim", |c| {
        // Their flushes take real time.
        std::thread::sleep(Duration::from_millis(5));
        let leader = c.leader(shard).unwrap();
        c.replica(leader, shard).unwrap().trimmed > Slot(10)
    });
    c.start(victim);
    c.run_until("a snapshot is installed", |c| {
        std::thread::sleep(Duration::from_millis(5));
        installed(c, victim) == 1
    });
    write(&mut c, table, 20);
    c.check_equal(shard);
    for _ in 0..2 {
        c.kill(victim);
        c.start(victim);
        c.check_equal(shard);
    }
}

/// Where a node dies on the way of an install.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Fetched,
    Loaded,
    Flip,
    Flipped,
}

#[test]
fn a_crash_anywhere_leaves_the_old_replica_or_the_new_one() {
    for stage in [Stage::Fetched, Stage::Loaded, Stage::Flip, Stage::Flipped] {
        let (mut c, table, shard) = mem();
        let victim = left_behind(&mut c, table, shard);
        let before = stored(&c, victim, shard);
        for round in 0..3 {
            c.start(victim);
            die_at(&mut c, victim, shard, stage);
            let found = stored(&c, victim, shard);
            if stage == Stage::Flipped {
                assert!(found.0 > before.0 && found.1 != before.1 && found.2 >= found.0, "{found:?} after {before:?}");
                break;
            }
            assert_eq!(found, before, "{stage:?}, round {round}: neither the old replica nor a new one");
        }
        c.start(victim);
        write(&mut c, table, 60);
        c.check_equal(shard);
        c.run_for(2_000_000);
        c.kill(victim);
        assert_eq!(orphans(&c, victim), [], "{stage:?}: rows that no pointer names");
    }
}

#[test]
fn a_replica_that_is_removed_while_a_snapshot_takes_its_place_leaves_no_rows() {
    let (mut c, table, shard) = mem();
    let victim = left_behind(&mut c, table, shard);
    c.start(victim);
    let loaded =
        |input: &Input| matches!(input, Input::Snapshot(SnapshotInput::Loaded { shard: s, .. }) if *s == shard);
    c.run_until("its rows are loaded", |c| c.nodes[&victim].seen.lock().unwrap().told.iter().any(loaded));
    // In one round it hears that the rows are there, and by a map that it is a member no longer: the write is under way.
    let told = std::mem::take(&mut c.nodes[&victim].seen.lock().unwrap().told);
    for input in told {
        c.push(victim, input);
    }
    let mut map = SystemState::clone(&c.map());
    map.revision += 1;
    let leave = |membership: &mut Membership| {
        membership.epoch = Epoch(membership.epoch.0 + 1);
        membership.members.retain(|member| member.node != victim);
    };
    map.shards.change(&shard, |d| leave(&mut d.membership)).unwrap();
    c.push(victim, NodeInput::Map(Arc::new(map)));
    c.run_until("the replica goes", |c| c.replica(victim, shard).is_none());
    // What it flushes as it ends is all that it leaves.
    c.push(victim, NodeInput::Stop);
    c.run_for(1_000_000);
    c.kill(victim);
    assert_eq!(orphans(&c, victim), [], "rows that no pointer names");
    assert_eq!(installed(&c, victim), 1, "the snapshot had taken its place by then");
}

/// Spaces with durable rows that no group's pointer names.
fn orphans(c: &Cluster, node: NodeId) -> Vec<Space> {
    let Disk::Mem { log, state, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
    let mut live = BTreeSet::new();
    for shard in log.recover_node().unwrap().groups {
        let own = Space(u32::try_from(shard.0).unwrap());
        live.insert(log.recover_group(shard).unwrap().unwrap().space.unwrap_or(own));
    }
    let mut found = BTreeSet::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        found.insert(Space(u32::from_be_bytes(*key.first_chunk::<4>().unwrap())));
        ControlFlow::Continue(())
    };
    MemState::open(state).scan(&[], &[0xff; 5], false, &mut visit).unwrap();
    found.difference(&live).copied().collect()
}

/// What a node's disk holds of a shard: where its log begins, where its rows are, how far they go and how many they are.
fn stored(c: &Cluster, node: NodeId, shard: ShardId) -> (Slot, Space, Slot, usize) {
    let Disk::Mem { log, state, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
    let found = log.recover_group(shard).unwrap().unwrap();
    let space = found.space.unwrap_or(Space(u32::try_from(shard.0).unwrap()));
    let mut rows = MemState::open(state);
    let applied =
        AppliedRow::decode(rows.get(&keys::applied(space)).unwrap().unwrap_or_else(|| AppliedRow::default().encode()))
            .unwrap()
            .slot;
    assert!(found.trimmed.slot <= applied && applied <= found.last.slot.max(applied));
    let ((from, to), mut count) = (keys::space_bounds(space), 0);
    let mut visit = |_: &[u8], _: &[u8]| {
        count += 1;
        ControlFlow::Continue(())
    };
    rows.scan(&from, &to, false, &mut visit).unwrap();
    (found.trimmed.slot, space, applied, count)
}

/// Lets the node run until the snapshot is at `stage`, and kills it there.
fn die_at(c: &mut Cluster, node: NodeId, shard: ShardId, stage: Stage) {
    let told = |c: &Cluster, wanted: fn(&Input, ShardId) -> bool| {
        c.nodes[&node].seen.lock().unwrap().told.iter().any(|input| wanted(input, shard))
    };
    let fetched: fn(&Input, ShardId) -> bool =
        |i, s| matches!(i, Input::Snapshot(SnapshotInput::Fetched(h)) if h.shard == s);
    let loaded: fn(&Input, ShardId) -> bool =
        |i, s| matches!(i, Input::Snapshot(SnapshotInput::Loaded { shard, .. }) if *shard == s);
    match stage {
        Stage::Fetched => c.run_until("a snapshot is received", |c| told(c, fetched)),
        Stage::Loaded => c.run_until("its rows are loaded", |c| told(c, loaded)),
        Stage::Flipped => c.run_until("it is installed", |c| installed(c, node) == 1),
        Stage::Flip => {
            let Disk::Mem { log, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
            let log = Arc::clone(log);
            let failed = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&failed);
            log.set_hook(Box::new(move |batch| {
                if batch.groups.iter().any(|group| group.shard == shard && group.space.is_some()) {
                    told.store(true, Ordering::Relaxed);
                    return Err(StoreError::Io { what: "the flip".into(), why: "injected".into() });
                }
                Ok(())
            }));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                c.run_until("the flip is written", |_| failed.load(Ordering::Relaxed));
            }));
            assert!(ended.is_err() && failed.load(Ordering::Relaxed), "a failed write ends the process");
            log.clear_failure();
        }
    }
    c.kill(node);
}

#[test]
fn snapshots_follow_each_other_in_spaces_of_their_own() {
    let (mut c, table, shard) = mem();
    let mut spaces = Vec::new();
    for _ in 0..4 {
        let victim = left_behind(&mut c, table, shard);
        c.start(victim);
        write(&mut c, table, 20);
        c.check_equal(shard);
        let (_, space, _, _) = stored(&c, victim, shard);
        spaces.push((victim, space));
        // Until nobody needs that snapshot any more the log is kept from there on.
        c.run_for(70_000_000);
    }
    let own: Vec<_> = spaces.iter().filter(|(_, space)| space.0 < 1 << 31).collect();
    assert!(own.is_empty(), "an install went into a shard's own space: {own:?}");
    for node in [N1, N2, N3] {
        let mut of: Vec<_> = spaces.iter().filter(|(n, _)| *n == node).map(|(_, space)| space.0).collect();
        let all = of.len();
        of.sort_unstable();
        of.dedup();
        assert_eq!(of.len(), all, "a space was used twice: {spaces:?}");
    }
}
