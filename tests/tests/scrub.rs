//! Replicas compared at one slot: under load equal ones are found equal, and an altered record is found and its node named.
//!
//! Owns: the claims about comparing replicas. Must never: alter a byte of a node that runs.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use synod_client::{Expect, NewRecord, Retention, TableSpec};
use synod_cluster::ids::{ShardId, Space};
use synod_engine::codec::keys::{self, RecordRow};
use synod_engine::codec::record::Record;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::salvage;
use synod_engine::state::front::FrontState;
use synod_engine::state::rocks::StateOptions;
use synod_engine::state::{BulkLoad, StateStore};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::http::metric;
use synod_tests::load::{Load, verify};
use synod_tests::run::until;

const CALLS: Duration = Duration::from_secs(30);
const TABLE: &str = "kept";

fn fill(load: &Load, count: u64) {
    let (client, runtime) = load.client();
    for n in 0..count {
        let record = NewRecord::new(Bytes::from(format!("value {n} {}", "x".repeat(2000))));
        let appended = client.append(TABLE, format!("k{}", n % 20), vec![record], Expect::Any);
        runtime.block_on(appended).expect("a majority is there");
    }
}

fn is_history(key: &[u8]) -> bool {
    keys::parse_record(key, true).is_ok_and(|key| matches!(key.row, RecordRow::History(_)))
}

/// Comparisons that replicas were read for, on all nodes.
fn scrubs(cluster: &Cluster) -> f64 {
    (1..=3).filter_map(|node| metric(&cluster.http(node), "synod_engine_scrubs_total")).sum()
}

/// Rewrites one record of a stopped node, with a right checksum: as a fault of memory or of the program would.
fn alter(data: &Path, shard: u64) {
    let log = RocksLog::open(&data.join("log"), &LogOptions::default()).expect("a sound log");
    let found = log.recover_group(ShardId(shard)).expect("a sound log").expect("the shard is here");
    let space = found.space.unwrap_or(Space(u32::try_from(shard).expect("small")));
    let (shared, _) = salvage::open(&data.join("state"), StateOptions::default(), &log).expect("a sound state");
    let mut rows = FrontState::new(Arc::clone(&shared), 1 << 20).expect("a thread");
    let (from, to) = keys::space_bounds(space);
    let mut row = None;
    let scanned = rows.scan(&from, &to, false, &mut |key, value| {
        let Ok(mut record) = Record::decode(Bytes::copy_from_slice(value)) else { return ControlFlow::Continue(()) };
        if record.value.is_empty() || !is_history(key) {
            return ControlFlow::Continue(());
        }
        let mut value = record.value.to_vec();
        value[0] ^= 1;
        record.value = value.into();
        row = Some((key.to_vec(), record.encode()));
        ControlFlow::Break(())
    });
    scanned.expect("readable");
    shared.load(&[row.expect("a record was flushed")]).expect("writable");
}

#[test]
fn equal_replicas_are_found_equal_and_an_altered_one_is_named() {
    let _alone = alone();
    let mut cluster = Cluster::start_with("[storage]\nstate_memory = \"1MiB\"\n[scrub]\ninterval_s = 2\n");
    let load = Load::start(&cluster, 4, CALLS);
    let (client, runtime) = load.client();
    runtime.block_on(client.create_table(TableSpec::hash(TABLE, 1, Retention::All))).expect("a table");
    load.wait_flowing(PATIENCE);
    fill(&load, 400);
    for _ in 0..5 {
        let found = cluster.cli(&["-o", "json", "--timeout", "60s", "shard", "scrub"]).ok().json();
        let shards = found["shards"].as_array().expect("a list").clone();
        assert!(shards.len() >= 6, "{found}");
        let three = |s: &serde_json::Value| s["scrub"]["compared"].as_array().map(Vec::len) == Some(3);
        assert!(shards.iter().all(|s| s["scrub"]["equal"] == true && three(s)), "{found}");
    }
    // They also come by themselves.
    let before = scrubs(&cluster);
    until(PATIENCE, "comparisons by themselves", || (scrubs(&cluster) > before + 6.0).then_some(()))
        .expect("they come");
    assert_eq!(metric(&cluster.http(1), "synod_engine_scrub_diverged_total"), Some(0.0));

    let status = cluster.wait_up();
    let shard = status.shards_of(TABLE)[0]["id"].as_u64().expect("a number");
    let victim = cluster.follower(&status);
    let id = status.id(&cluster.addr(victim)).expect("a node");
    cluster.stop(victim);
    alter(&cluster.data_dir(victim), shard);
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let found = cluster.cli(&["--timeout", "60s", "shard", "scrub", &shard.to_string()]);
    assert_eq!(found.code, 1, "{}{}", found.stdout, found.stderr);
    let said = format!("shard {shard} DIVERGED: node {id} does not hold what the majority does");
    assert!(found.stderr.contains(&said), "{}", found.stderr);
    // A comparison that goes on is shown as far as it has come.
    let shown = || cluster.cli(&["status"]).ok().stdout.contains(&said).then_some(());
    until(PATIENCE, "the status tells", shown).unwrap_or_else(|why| panic!("{why}"));
    for node in 1..=3 {
        let diverged = || metric(&cluster.http(node), "synod_engine_scrub_diverged").filter(|found| *found == 1.0);
        until(PATIENCE, "every node tells", diverged).unwrap_or_else(|why| panic!("node {node}: {why}"));
    }
    assert!(cluster.log(victim).contains(&format!("the replicas of shard {shard} differ at slot")));
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let stored = verify(&cluster, &seen.acks);
    println!("{} comparisons beside {stored} records written", scrubs(&cluster));
}
