//! Replicas compared at one slot: equal ones are found equal whatever happened to them, an altered one is found and named.

use super::harness::{Cluster, Disk, N1, N2, N3};
use super::snapshots::{cluster, installed, write};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot, Space, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention};
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::record::Record;
use synod_engine::host::{AdminInput, NodeInput, ScrubReport};
use synod_engine::logstore::LogStore;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::salvage;
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::rocks::StateOptions;
use synod_engine::state::{BulkLoad, StateStore};

/// Three nodes that freeze at different times.
fn uneven() -> (Cluster, TableId, ShardId) {
    cluster([12, 14, 20].map(|bits| Disk::mem(1 << bits)).into())
}

fn begin(c: &mut Cluster, shard: ShardId) -> Slot {
    for _ in 0..100 {
        c.run_until("a leader", |c| c.leader(shard).is_some());
        let told: Arc<Mutex<Option<Result<Slot, Refusal>>>> = Arc::default();
        let tell = Arc::clone(&told);
        let done = Box::new(move |result| *tell.lock().unwrap() = Some(result));
        let leader = c.leader(shard).unwrap();
        c.push(leader, AdminInput::Scrub { shard, done });
        c.run_until("the marker is proposed or refused", |_| told.lock().unwrap().is_some());
        if let Some(Ok(slot)) = told.lock().unwrap().take() {
            return slot;
        }
        c.run_for(100_000);
    }
    panic!("no leader took it")
}

/// The outcome, as every node that is up has it. A busy replica may pass a marker over: then there is another.
fn compare(c: &mut Cluster, shard: ShardId) -> ScrubReport {
    // One that has joined may hold no replica of it.
    let nodes: Vec<NodeId> = c.ids().into_iter().filter(|n| c.is_up(*n) && c.replica(*n, shard).is_some()).collect();
    for _ in 0..20 {
        let slot = begin(c, shard);
        let until = c.now.plus(2_000_000);
        let mut reports: Vec<ScrubReport> = Vec::new();
        let mut complete = false;
        c.run_until("every node has compared all, or the time is up", |c| {
            std::thread::sleep(Duration::from_millis(1));
            reports = nodes.iter().filter_map(|n| c.replica(*n, shard)?.scrub).collect();
            complete = reports.len() == nodes.len() && reports.iter().all(|r| r.slot >= slot && r.compared == nodes);
            complete || c.now >= until
        });
        if complete {
            let first = reports.swap_remove(0);
            for report in reports {
                assert_eq!((report.equal, &report.diverged), (first.equal, &first.diverged), "two nodes, two opinions");
            }
            return first;
        }
    }
    panic!("shard {shard} was not compared whole in twenty attempts")
}

#[track_caller]
pub fn equal(c: &mut Cluster, shard: ShardId) {
    let found = compare(c, shard);
    assert!(found.equal && found.diverged.is_empty(), "shard {shard}: {found:?}");
}

#[test]
fn sound_replicas_are_equal_whatever_happened_to_them() {
    let (mut c, table, shard) = uneven();
    for round in 0..6 {
        write(&mut c, table, 15 + 7 * round);
        equal(&mut c, shard);
        equal(&mut c, SYSTEM_SHARD);
        let victim = [N1, N2, N3][round as usize % 3];
        c.kill(victim);
        write(&mut c, table, 5);
        // Those that are there are compared without it.
        equal(&mut c, shard);
        c.start(victim);
        write(&mut c, table, 5);
        equal(&mut c, shard);
    }
    for node in c.ids() {
        let metrics = c.nodes[&node].metrics.clone().unwrap();
        assert_eq!((metrics.scrub_diverged_total.get(), metrics.scrub_diverged.get()), (0, 0));
        assert!(metrics.scrubs_total.get() > 0 && metrics.scrub_bytes_total.get() > 1000);
    }
}

#[test]
fn one_that_came_from_a_snapshot_is_equal() {
    let (mut c, table, shard) = uneven();
    write(&mut c, table, 120);
    // The third freezes too rarely.
    c.run_until("two nodes trim", |c| {
        [N1, N2].into_iter().all(|n| c.replica(n, shard).is_some_and(|r| r.trimmed > Slot(0)))
    });
    let leader = c.leader(shard).unwrap();
    let victim = [N1, N2].into_iter().find(|n| *n != leader).unwrap();
    c.kill(victim);
    let Disk::Mem { state, .. } = &mut c.nodes.get_mut(&victim).unwrap().disk else { panic!("in memory only") };
    *state = MemDisk::default();
    c.start(victim);
    c.run_until("it is reinstalled", |c| installed(c, victim) == 1);
    write(&mut c, table, 20);
    equal(&mut c, shard);
}

fn space_of(log: &dyn LogStore, shard: ShardId) -> Space {
    let found = log.recover_group(shard).unwrap().unwrap();
    found.space.unwrap_or(Space(u32::try_from(shard.0).unwrap()))
}

fn is_history(key: &[u8]) -> bool {
    keys::parse_record(key, true).is_ok_and(|key| matches!(key.row, RecordRow::History(_)))
}

/// A record of a shard rewritten as nobody wrote it, with a right checksum.
fn altered(rows: &mut dyn StateStore, space: Space, how: u8) -> (Vec<u8>, Bytes) {
    let (from, to) = keys::space_bounds(space);
    let mut found = None;
    rows.scan(&from, &to, false, &mut |key, value| {
        let Ok(mut record) = Record::decode(Bytes::copy_from_slice(value)) else { return ControlFlow::Continue(()) };
        if record.value.is_empty() || !is_history(key) {
            return ControlFlow::Continue(());
        }
        let mut bytes = record.value.to_vec();
        bytes[0] ^= how;
        record.value = bytes.into();
        found = Some((key.to_vec(), record.encode()));
        ControlFlow::Break(())
    })
    .unwrap();
    found.expect("the shard has history rows")
}

fn alter(c: &mut Cluster, node: NodeId, shard: ShardId, how: u8) {
    c.kill(node);
    let Disk::Mem { log, state, .. } = &c.nodes[&node].disk else { panic!("in memory only") };
    let row = altered(&mut MemState::open(state), space_of(&**log, shard), how);
    state.load(&[row]).unwrap();
    c.start(node);
}

#[test]
fn an_altered_record_is_found_and_its_node_named() {
    for victim in [N1, N2, N3] {
        let (mut c, table, shard) = uneven();
        write(&mut c, table, 40);
        equal(&mut c, shard);
        // What is not frozen is replayed: the node's state ends in order.
        c.push(victim, NodeInput::Stop);
        c.run_for(10_000);
        alter(&mut c, victim, shard, 1);
        write(&mut c, table, 10);
        let found = compare(&mut c, shard);
        assert_eq!((found.equal, found.diverged), (false, vec![victim]));
        c.run_for(2_000_000);
        for node in c.ids() {
            let metrics = c.nodes[&node].metrics.clone().unwrap();
            assert!(metrics.scrub_diverged_total.get() >= 1 && metrics.scrub_diverged.get() == 1, "node {node}");
        }
        // The others are not blamed, nor is another shard.
        equal(&mut c, SYSTEM_SHARD);
    }
}

#[test]
fn without_a_majority_nobody_is_named() {
    let (mut c, table, shard) = uneven();
    write(&mut c, table, 40);
    for (node, how) in [(N1, 1), (N2, 2)] {
        c.push(node, NodeInput::Stop);
        c.run_for(10_000);
        alter(&mut c, node, shard, how);
        write(&mut c, table, 3);
    }
    let found = compare(&mut c, shard);
    assert_eq!((found.equal, found.diverged), (false, vec![]));
}

#[test]
fn comparisons_come_by_themselves_in_their_interval() {
    let mut c = Cluster::mem(3);
    for node in c.ids() {
        c.kill(node);
    }
    c.options.scrub_us = 10_000_000;
    for node in c.ids() {
        c.start(node);
    }
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 3);
    write(&mut c, table, 30);
    c.run_for(31_000_000);
    let shards: Vec<ShardId> = c.shards_of(table).into_iter().chain([SYSTEM_SHARD]).collect();
    for node in c.ids() {
        let scrubs = c.nodes[&node].metrics.clone().unwrap().scrubs_total.get();
        // Each shard two or three times in three intervals.
        assert!((8..=16).contains(&scrubs), "node {node}: {scrubs} comparisons");
        for shard in &shards {
            let report = c.replica(node, *shard).unwrap().scrub.unwrap();
            assert!(report.equal && report.compared.len() == 3, "{report:?}");
        }
    }
}

#[test]
fn on_rocksdb_equal_and_altered() {
    let dir = tempfile::tempdir().unwrap();
    let disks = (1..=3).map(|n| Disk::Rocks { path: dir.path().join(format!("n{n}")) }).collect();
    let (mut c, table, shard) = cluster(disks);
    for n in 0..60 {
        c.append(table, &format!("k{}", n % 7), &format!("value {n} {}", "x".repeat(50_000)));
    }
    equal(&mut c, shard);
    c.kill(N2);
    rewrite(&dir.path().join("n2"), shard);
    c.start(N2);
    write(&mut c, table, 10);
    let found = compare(&mut c, shard);
    assert_eq!((found.equal, found.diverged), (false, vec![N2]));
}

fn rewrite(data: &Path, shard: ShardId) {
    let log = RocksLog::open(&data.join("log"), &LogOptions::default()).unwrap();
    let (shared, _) = salvage::open(&data.join("state"), StateOptions::default(), &log).unwrap();
    let mut rows = synod_engine::state::front::FrontState::new(Arc::clone(&shared), 1 << 20).unwrap();
    let row = altered(&mut rows, space_of(&log, shard), 1);
    shared.load(&[row]).unwrap();
}
