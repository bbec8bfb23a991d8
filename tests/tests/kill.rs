//! Nodes killed under load: nothing acknowledged is lost or doubled, and clients see slower calls, no errors.
//!
//! Owns: the claims about SIGKILL of one node, of all, and of a majority. Must never: excuse an error that a client saw, or
//! a record that is not where its acknowledgement said.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use synod_client::Error;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::load::{Load, Seen, TABLE, verify};
use synod_tests::run::Ran;

/// What TESTING allows writes to need after a fault.
const RESUME: Duration = Duration::from_secs(10);
const KILLS: usize = 20;
const CALLS: Duration = Duration::from_secs(30);

#[track_caller]
fn no_errors(seen: &Seen) {
    let errors = &seen.errors;
    assert!(errors.is_empty(), "clients saw {} errors: {:?}", errors.len(), &errors[..errors.len().min(5)]);
}

#[test]
fn twenty_kills_under_load_lose_and_double_nothing() {
    let _alone = alone();
    let began = Instant::now();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 8, CALLS);
    load.wait_flowing(PATIENCE);
    println!("kill  node  led  longest pause  longest call  caught up after");
    let (mut worst, mut sum) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..KILLS {
        let status = cluster.wait_up();
        let victim = if turn % 2 == 0 { cluster.leader(&status, TABLE, turn / 2) } else { cluster.follower(&status) };
        let id = status.id(&cluster.addr(victim));
        let led = status.shards_of(TABLE).iter().filter(|shard| shard["leader"].as_u64() == id).count();
        sleep(Duration::from_millis(200));
        let killed = Instant::now();
        cluster.kill(victim);
        load.wait_flowing(PATIENCE);
        let (pause, call) = load.so_far(|seen| seen.pause(killed, Instant::now()));
        // Long enough away to have something to catch up with.
        sleep(Duration::from_millis(400));
        cluster.restart(victim);
        let restarted = Instant::now();
        cluster.wait_caught_up(victim);
        let caught_up = restarted.elapsed();
        println!("{:>4}  {victim:>4}  {led:>3}  {pause:>13.2?}  {call:>12.2?}  {caught_up:>15.2?}", turn + 1);
        assert!(pause < RESUME, "writes were kept from resuming for {pause:?}");
        (worst, sum) = (worst.max(pause), sum + pause);
    }
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    let stored = verify(&cluster, &seen.acks);
    println!(
        "{KILLS} kills in {:.2?}: {} acknowledged, {stored} stored, {} errors; pause mean {:.2?}, worst {worst:.2?}",
        began.elapsed(),
        seen.acks.len(),
        seen.errors.len(),
        sum / KILLS as u32,
    );
    no_errors(&seen);
}

#[test]
fn all_three_killed_at_once_and_restarted() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 8, CALLS);
    for round in 1..=3 {
        load.wait_flowing(PATIENCE);
        sleep(Duration::from_millis(500));
        let killed = Instant::now();
        (1..=3).for_each(|number| cluster.signal(number, Signal::SIGKILL));
        (1..=3).for_each(|number| cluster.kill(number));
        (1..=3).for_each(|number| cluster.restart(number));
        load.wait_flowing(PATIENCE);
        let (pause, call) = load.so_far(|seen| seen.pause(killed, Instant::now()));
        println!("round {round}: longest pause {pause:.2?}, longest call {call:.2?}, of restart and election together");
        assert!(pause < RESUME, "writes were kept from resuming for {pause:?}");
    }
    cluster.wait_up();
    let seen = load.stop();
    let stored = verify(&cluster, &seen.acks);
    println!("{} acknowledged, {stored} stored, {} errors", seen.acks.len(), seen.errors.len());
    no_errors(&seen);
}

#[test]
fn a_leader_that_stands_still_is_replaced_and_rejoins() {
    let _alone = alone();
    let cluster = Cluster::start();
    let load = Load::start(&cluster, 8, CALLS);
    load.wait_flowing(PATIENCE);
    for turn in 0..3 {
        let victim = cluster.leader(&cluster.wait_up(), TABLE, turn);
        let stopped = Instant::now();
        cluster.signal(victim, Signal::SIGSTOP);
        load.wait_flowing(PATIENCE);
        let (pause, call) = load.so_far(|seen| seen.pause(stopped, Instant::now()));
        println!("SIGSTOP of node {victim}: longest pause {pause:.2?}, longest call {call:.2?}");
        assert!(pause < RESUME, "writes were kept from resuming for {pause:?}");
        sleep(Duration::from_millis(500));
        cluster.signal(victim, Signal::SIGCONT);
        cluster.wait_caught_up(victim);
        load.wait_flowing(PATIENCE);
    }
    let seen = load.stop();
    let stored = verify(&cluster, &seen.acks);
    println!("{} acknowledged, {stored} stored, {} errors", seen.acks.len(), seen.errors.len());
    no_errors(&seen);
}

/// Makes sure that a write without a majority waited and then said so: outcome unknown where it was sent, else
/// unavailable. Says whether it was sent.
#[track_caller]
fn undecided(ran: &Ran, took: Duration, timeout: Duration) -> bool {
    assert!(took >= timeout.mul_f32(0.8) && took < timeout + PATIENCE, "it waited for {took:?} of {timeout:?}");
    let error = ran.error();
    let sent = error["error"] == "outcome_unknown";
    assert!(sent || error["error"] == "unavailable", "{error}");
    assert_eq!(ran.code, if sent { 4 } else { 1 }, "{error}");
    sent
}

#[test]
fn without_a_majority_writes_wait_and_local_reads_answer() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let timeout = Duration::from_secs(2);
    let load = Load::start(&cluster, 8, Duration::from_secs(60));
    load.wait_flowing(PATIENCE);
    // Until every key has records, also as the followers know it.
    sleep(Duration::from_secs(1));
    let status = cluster.wait_up();
    // The leader of the first shard stays: there a write is taken and no majority answers.
    let survivor = cluster.leader(&status, TABLE, 0);
    cluster.json(&["get", TABLE, "a-0"]);
    let lost: Vec<u16> = (1..=3).filter(|number| *number != survivor).collect();
    let (client, runtime) = load.client();
    let hurried = client.with_timeout(timeout);
    lost.iter().for_each(|number| cluster.signal(*number, Signal::SIGKILL));
    let fallen = Instant::now();
    let first = runtime.block_on(hurried.put(TABLE, "a-0", "90#0"));
    let waited = fallen.elapsed();
    assert!(matches!(first, Err(Error::OutcomeUnknown { .. })), "sent to a leader alone: {first:?}");
    assert!(waited >= timeout.mul_f32(0.8), "it waited for {waited:?}");
    lost.iter().for_each(|number| cluster.kill(*number));

    let acked = load.acked();
    let mut sent = 0;
    for (number, key) in ["a-0", "b-0", "c-0", "d-0"].into_iter().enumerate() {
        let began = Instant::now();
        let value = format!("{}#0", 91 + number);
        let ran = cluster.cli(&["-o", "json", "--timeout", "2s", "append", TABLE, key, &value]);
        sent += usize::from(undecided(&ran, began.elapsed(), timeout));
    }
    println!(
        "no majority: one write outcome unknown after {waited:.2?}; of four more {sent} unknown, {} not sent",
        4 - sent
    );
    assert_eq!(load.acked(), acked, "nothing can be acknowledged without a majority");

    for key in ["a-0", "b-1", "c-2", "d-3"] {
        let began = Instant::now();
        let got = cluster.json(&["get", TABLE, key, "--consistency", "local"]);
        assert!(got["value"].as_str().is_some_and(|value| value.contains('#')), "{got}");
        assert!(began.elapsed() < Duration::from_secs(5), "a local read took {:?}", began.elapsed());
    }
    let scanned = cluster.cli(&["-o", "json", "scan", TABLE, "--consistency", "local"]).ok().json_lines();
    assert_eq!(scanned.len(), 16, "all keys are here");
    let read = cluster.cli(&["-o", "json", "read", TABLE, "c-1", "--consistency", "local"]).ok().json_lines();
    assert!(!read.is_empty());
    // It was read at its leader, the survivor, which knows by that as of when its state is complete.
    let stale = |age: &str| {
        cluster.cli(&["-o", "json", "--timeout", "2s", "get", TABLE, "a-0", "--consistency", "stale", "--max-age", age])
    };
    let got = stale("10m").ok().json();
    assert!(got["value"].as_str().is_some_and(|value| value.contains('#')), "{got}");
    let refused = stale("1s");
    assert_eq!((refused.code, refused.error()["error"].as_str()), (1, Some("unavailable")), "{refused:?}");
    let misused = cluster.cli(&["-o", "json", "get", TABLE, "a-0", "--max-age", "1s"]);
    assert_eq!((misused.code, misused.error()["field"].as_str()), (2, Some("--max-age")), "{misused:?}");
    let fresh = cluster.cli(&["-o", "json", "--timeout", "2s", "get", TABLE, "a-0"]);
    assert_eq!((fresh.code, fresh.error()["error"].as_str()), (1, Some("unavailable")), "{fresh:?}");

    let back = Instant::now();
    lost.iter().for_each(|number| cluster.restart(*number));
    load.wait_flowing(PATIENCE);
    println!("writes resumed {:.2?} after the majority was started again", back.elapsed());
    cluster.wait_up();
    let seen = load.stop();
    let stored = verify(&cluster, &seen.acks);
    println!(
        "{} acknowledged, {stored} stored, {} errors of calls that could wait",
        seen.acks.len(),
        seen.errors.len()
    );
    no_errors(&seen);
}
