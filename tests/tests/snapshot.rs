//! A node that was away while the others trimmed what it lacks: it catches up by snapshot, under load, whatever kills it on
//! the way.
//!
//! Owns: the claims about catching up by snapshot. Must never: take a node for caught up that cannot show its own copy.

use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_client::{Expect, NewRecord, Retention, TableSpec};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::http::metric;
use synod_tests::load::{Load, TABLE, verify};
use synod_tests::run::until;

const CALLS: Duration = Duration::from_secs(30);
/// Writes may pause for so long while a member catches up; mostly it is a few milliseconds.
const PAUSE: Duration = Duration::from_secs(2);
/// A table of larger records, so that there is something to send.
const BULK: &str = "bulk";
const BULK_RECORD: usize = 32 << 10;
const INSTALLED: &str = "synod_engine_snapshots_installed_total";
const REINSTALLED: &str = "synod_engine_states_reinstalled_total";

fn create_bulk(load: &Load) {
    let (client, runtime) = load.client();
    let created = runtime.block_on(client.create_table(TableSpec::hash(BULK, 2, Retention::All)));
    created.expect("the table can be created");
}

/// Appends so many large records.
fn write_bulk(load: &Load, count: u64) {
    let (client, runtime) = load.client();
    for n in 0..count {
        let value: Vec<u8> = (0..BULK_RECORD as u64).map(|i| ((i * 31 + n * 17) % 251) as u8).collect();
        let record = NewRecord::new(Bytes::from(value));
        let appended = client.append(BULK, format!("k{}", n % 50), vec![record], Expect::Any);
        runtime.block_on(appended).expect("a majority is there");
    }
}

/// The large records as whoever leads them has them.
fn bulk(cluster: &Cluster) -> String {
    cluster.cli(&["-o", "json", "--timeout", "60s", "scan", BULK]).ok().stdout
}

/// Makes `node` lead every shard of both tables, so that reads show its own copy.
#[track_caller]
fn lead_all(cluster: &Cluster, node: u16) {
    let found = until(PATIENCE, "the node leads every shard", || {
        let status = cluster.status()?;
        let id = status.id(&cluster.addr(node))?;
        let shards: Vec<u64> = [TABLE, BULK]
            .iter()
            .flat_map(|table| status.shards_of(table))
            .filter(|shard| shard["leader"].as_u64() != Some(id))
            .filter_map(|shard| shard["id"].as_u64())
            .collect();
        for shard in &shards {
            // Refused while an earlier attempt is under way.
            cluster.cli(&["shard", "transfer-leader", &shard.to_string(), "--to", &id.to_string()]);
        }
        shards.is_empty().then_some(())
    });
    found.unwrap_or_else(|why| panic!("{why}"));
}

fn installed(cluster: &Cluster, node: u16) -> f64 {
    metric(&cluster.http(node), INSTALLED).unwrap_or(0.0)
}

#[track_caller]
fn wait_installed(cluster: &Cluster, node: u16, least: f64) {
    let found = until(PATIENCE, "snapshots are installed", || (installed(cluster, node) >= least).then_some(()));
    found.unwrap_or_else(|why| panic!("{why}: {} of {least}", installed(cluster, node)));
}

#[test]
fn a_node_behind_the_log_catches_up_under_load() {
    let _alone = alone();
    let settings = "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n";
    let mut cluster = Cluster::start_with(settings);
    let load = Load::start(&cluster, 4, CALLS);
    create_bulk(&load);
    load.wait_flowing(PATIENCE);
    let victim = cluster.follower(&cluster.wait_up());
    cluster.kill(victim);
    write_bulk(&load, 600);
    sleep(Duration::from_millis(1500));
    cluster.restart(victim);
    let restarted = Instant::now();
    // Each of the two tables' six shards, unless its log was kept by chance.
    wait_installed(&cluster, victim, 2.0);
    cluster.wait_caught_up(victim);
    let caught_up = restarted.elapsed();
    load.wait_flowing(PATIENCE);
    let (pause, call) = load.so_far(|seen| seen.pause(restarted, Instant::now()));
    assert!(pause < PAUSE, "writes paused for {pause:?} while a snapshot was made and sent");
    let status = cluster.status().expect("a status");
    let node = status.node(&cluster.addr(victim)).expect("a node");
    assert!(node["snapshots"]["installed"].as_f64() >= Some(2.0), "the status tells of it: {node}");
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let stored = verify(&cluster, &seen.acks);
    let before = bulk(&cluster);
    lead_all(&cluster, victim);
    assert_eq!(verify(&cluster, &seen.acks), stored, "the caught-up node has all of it");
    assert!(bulk(&cluster) == before, "the caught-up node's large records differ");
    let sent: f64 = (1..=3).filter_map(|n| metric(&cluster.http(n), "synod_snapshot_sent_bytes_total")).sum();
    println!(
        "{} installed, {sent} bytes sent, caught up {caught_up:.2?} after the restart; longest pause {pause:.2?}, longest \
         call {call:.2?}; {stored} records",
        installed(&cluster, victim)
    );
}

#[test]
fn killed_in_the_middle_of_it_the_node_still_catches_up() {
    let _alone = alone();
    // Slow enough to be hit on the way, in parts of a megabyte.
    let settings = "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n[snapshot]\nmax_rate = \"8MiB\"\n";
    let mut cluster = Cluster::start_with(settings);
    let load = Load::start(&cluster, 4, CALLS);
    create_bulk(&load);
    load.wait_flowing(PATIENCE);
    let victim = cluster.follower(&cluster.wait_up());
    cluster.kill(victim);
    write_bulk(&load, 900);
    sleep(Duration::from_millis(1500));
    let mut times = Vec::new();
    for turn in 1..=8u64 {
        cluster.restart(victim);
        sleep(Duration::from_millis(400 * turn));
        let said = cluster.log(victim);
        times.push((said.matches("snapshot received").count(), said.matches("took the replica's place").count()));
        cluster.kill(victim);
    }
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    println!("received and installed by the time of each kill: {times:?}");
    let log = cluster.log(victim);
    assert!(log.contains("took the replica's place"), "no snapshot was installed in any of its lives");
    let stored = verify(&cluster, &seen.acks);
    let before = bulk(&cluster);
    lead_all(&cluster, victim);
    assert_eq!(verify(&cluster, &seen.acks), stored, "the caught-up node has all of it");
    assert!(bulk(&cluster) == before, "the caught-up node's large records differ");
}

/// Flips a bit in every 32 KiB of every table file of a stopped node's state; returns how many.
fn flip_state(cluster: &Cluster, node: u16) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(cluster.data_dir(node).join("state/db")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "sst") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("readable");
        // Blocks of rows; the file's own tail is left alone, so that the damage is found where it is read.
        for at in (200..bytes.len().saturating_sub(4096)).step_by(32 << 10) {
            bytes[at] ^= 0x10;
            flipped += 1;
        }
        std::fs::write(&path, bytes).expect("writable");
    }
    flipped
}

#[test]
fn a_damaged_state_is_reinstalled_under_load() {
    let _alone = alone();
    let settings = "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n";
    let mut cluster = Cluster::start_with(settings);
    let load = Load::start(&cluster, 4, CALLS);
    create_bulk(&load);
    load.wait_flowing(PATIENCE);
    write_bulk(&load, 400);
    let victim = cluster.follower(&cluster.wait_up());
    let deadline = Instant::now() + PATIENCE;
    let mut lives = 0;
    cluster.stop(victim);
    let flipped = flip_state(&cluster, victim);
    assert!(flipped > 10, "only {flipped} bits of the state were flipped");
    let began = Instant::now();
    // What only a read meets with ends the process; the next one deals with it.
    loop {
        lives += 1;
        cluster.restart(victim);
        let settled = until(Duration::from_secs(10), "reinstalled, or ended", || {
            let reinstalled = metric(&cluster.http(victim), REINSTALLED).unwrap_or(0.0) >= 1.0;
            let waiting = metric(&cluster.http(victim), "synod_engine_reinstalling").unwrap_or(1.0);
            ((reinstalled && waiting == 0.0) || !cluster.runs(victim)).then_some(())
        });
        if settled.is_ok() && cluster.runs(victim) {
            break;
        }
        assert!(Instant::now() < deadline, "not reinstalled in {lives} lives: {}", cluster.log(victim));
        if cluster.runs(victim) {
            cluster.stop(victim);
        } else {
            cluster.wait_end(victim);
        }
    }
    cluster.wait_caught_up(victim);
    let took = began.elapsed();
    let log = cluster.log(victim);
    assert!(log.contains("the state is damaged") && log.contains("checksum mismatch"), "it says what was wrong: {log}");
    assert!(cluster.data_dir(victim).join("state.damaged-1/db").is_dir(), "nothing is thrown away");
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let stored = verify(&cluster, &seen.acks);
    let before = bulk(&cluster);
    lead_all(&cluster, victim);
    assert_eq!(verify(&cluster, &seen.acks), stored, "the reinstalled node has all of it");
    assert!(bulk(&cluster) == before, "the reinstalled node's large records differ");
    println!("{flipped} bits flipped, reinstalled in {took:.2?} and {lives} lives; {stored} records");
}
