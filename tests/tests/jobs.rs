//! Jobs: a move that was begun goes on by itself, whoever dies; it can be watched and cancelled.
//!
//! Owns: the claims of `synod job` and of moves as jobs. Must never: take a job for one that goes on by itself while its command runs.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::Value;
use synod_client::{Retention, TableSpec};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::load::{self, Load};
use synod_tests::run::{send, until};

const TABLE: &str = "t";
/// The greatest version that the binary speaks.
const NEWEST: u64 = 4;

/// Three nodes and a fourth that has joined, at this cluster version, a table of one shard with some records; the shard.
fn prepared(settings: &str, version: u64) -> (Cluster, String) {
    let mut cluster = if settings.is_empty() { Cluster::start() } else { Cluster::start_with(settings) };
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "1", "--retain", "all"]).ok();
    for key in 0..20 {
        cluster.cli(&["append", TABLE, &format!("key-{key}"), "a value"]).ok();
    }
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    let status = cluster.wait_status("the joiner is up, all shards are led", |status| {
        let up = status.state(&joined) == Some("up") && status.is_led() && status.id(&joined) == Some(4);
        up && status.value["version"] == version
    });
    let shard = status.shards_of(TABLE)[0]["id"].as_u64().expect("a shard").to_string();
    (cluster, shard)
}

/// Members of a shard.
fn members(status: &Status, shard: &str) -> Vec<u64> {
    let shards = status.value["shards"].as_array().expect("shards");
    let found = shards.iter().find(|info| info["id"].as_u64().is_some_and(|id| id.to_string() == shard));
    let replicas = found.and_then(|info| info["replicas"].as_array()).expect("the shard's replicas");
    let mut nodes: Vec<u64> = replicas.iter().map(|replica| replica["node"].as_u64().expect("an id")).collect();
    nodes.sort_unstable();
    nodes
}

fn leader(status: &Status, shard: u64) -> Option<u64> {
    let shards = status.value["shards"].as_array()?;
    shards.iter().find(|info| info["id"].as_u64() == Some(shard))?["leader"].as_u64()
}

fn wait_members(cluster: &Cluster, shard: &str, wanted: &[u64]) {
    cluster.wait_status(&format!("members {wanted:?} of shard {shard}"), |status| members(status, shard) == wanted);
}

fn list(cluster: &Cluster) -> Vec<Value> {
    cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines()
}

fn records(cluster: &Cluster) -> usize {
    let scanned = until(PATIENCE, "the table can be scanned", || {
        let ran = cluster.cli(&["-o", "json", "scan", TABLE]);
        (ran.code == 0).then(|| ran.json_lines().len())
    });
    scanned.expect("a scan")
}

/// Begins a move to node 4 while that stands still, and waits until it has begun to learn; the job.
fn begin(cluster: &Cluster, shard: &str, from: &str) -> String {
    cluster.signal(4, Signal::SIGSTOP);
    let begun = cluster.json(&["shard", "move", shard, "--from", from, "--to", "4", "--detach"]);
    assert_eq!((begun["shard"].to_string(), &begun["to"]), (shard.to_owned(), &4.into()), "{begun}");
    let job = begun["job"].as_u64().expect("a job").to_string();
    wait_members(cluster, shard, &[1, 2, 3, 4]);
    job
}

#[test]
fn a_move_goes_on_after_its_command_is_killed() {
    let _alone = alone();
    let (cluster, shard) = prepared("", NEWEST);
    cluster.signal(4, Signal::SIGSTOP);
    let mut command = cluster.command(&["shard", "move", &shard, "--from", "3", "--to", "4"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    wait_members(&cluster, &shard, &[1, 2, 3, 4]);
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");

    let jobs = list(&cluster);
    let [job] = &jobs[..] else { panic!("{jobs:?}") };
    assert_eq!((job["kind"].as_str(), job["state"].as_str()), (Some("move_replica"), Some("running")), "{job}");
    assert_eq!((&job["from"], &job["to"], job["shard"].to_string()), (&3.into(), &4.into(), shard.clone()), "{job}");
    let status = cluster.wait_status("the job is in the status", |status| {
        status.value["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1)
    });
    assert_eq!(status.value["jobs"][0]["id"], job["id"]);
    assert!(cluster.cli(&["status"]).ok().stdout.contains("job 1 running: the replica of shard"));
    cluster.signal(4, Signal::SIGCONT);
    // Nobody watches.
    wait_members(&cluster, &shard, &[1, 2, 4]);
    let watched = cluster.cli(&["job", "watch", &job["id"].to_string()]).ok();
    assert!(watched.stdout.contains("job 1 is done: it moves the replica of shard"), "{watched:?}");
    assert!(watched.stderr.contains("node 4 replaces node 3 as a voter"), "{watched:?}");
    assert_eq!(list(&cluster)[0]["state"], "done");
    assert_eq!(records(&cluster), 20);
    // Said again there is nothing to do.
    let again = cluster.json(&["shard", "move", &shard, "--from", "3", "--to", "4"]);
    assert_eq!(again["job"], Value::Null, "{again}");
}

#[test]
fn a_move_goes_on_after_the_leader_that_carried_it_out_is_killed() {
    let _alone = alone();
    let (mut cluster, shard) = prepared("", NEWEST);
    let status = cluster.wait_status("the system shard is led", |status| leader(status, 1).is_some());
    let carrier = leader(&status, 1).expect("it is led");
    // First from the node that is lost, then from one that lives.
    let job = begin(&cluster, &shard, &carrier.to_string());
    cluster.kill(u16::try_from(carrier).expect("small"));
    cluster.signal(4, Signal::SIGCONT);
    let left: Vec<u64> = (1..=4).filter(|node| *node != carrier).collect();
    let watched = cluster.cli(&["--timeout", "60s", "job", "watch", &job]).ok();
    assert!(watched.stdout.contains("is done"), "{watched:?}");
    wait_members(&cluster, &shard, &left);
    assert_eq!(records(&cluster), 20);

    let status = cluster.wait_status("the system shard is led", |status| leader(status, 1).is_some());
    let next = leader(&status, 1).expect("it is led");
    assert_ne!(next, carrier);
    cluster.restart(u16::try_from(carrier).expect("small"));
    cluster.wait_up();
    let other = left.iter().find(|node| **node != next && **node != 4).expect("three are left").to_string();
    let target = carrier.to_string();
    let mut command =
        cluster.command(&["--timeout", "60s", "shard", "move", &shard, "--from", &other, "--to", &target]);
    cluster.signal(u16::try_from(carrier).expect("small"), Signal::SIGSTOP);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let learns = [&left[..], &[carrier]].concat();
    let learns = {
        let mut all = learns;
        all.sort_unstable();
        all
    };
    wait_members(&cluster, &shard, &learns);
    cluster.kill(u16::try_from(next).expect("small"));
    cluster.signal(u16::try_from(carrier).expect("small"), Signal::SIGCONT);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success(), "{out:?}");
    assert_eq!(records(&cluster), 20);
}

#[test]
fn a_cancelled_move_leaves_the_old_members() {
    let _alone = alone();
    let (cluster, shard) = prepared("", NEWEST);
    let job = begin(&cluster, &shard, "3");
    // The same again is the same job; another on the shard is refused, and so is the end of the node that is to get it.
    let same = cluster.json(&["shard", "move", &shard, "--from", "3", "--to", "4", "--no-wait"]);
    assert_eq!(same["job"].to_string(), job);
    let words = [&format!("job {job}")[..], "already"];
    cluster.cli(&["shard", "move", &shard, "--from", "2", "--to", "4", "--detach"]).refused(1, &words);
    let error = cluster.cli(&["-o", "json", "shard", "move", &shard, "--from", "2", "--to", "4"]).error();
    assert_eq!((error["error"].as_str(), error["job"].to_string()), (Some("job_conflict"), job.clone()), "{error}");

    // Who watches is told.
    let mut watcher = cluster.command(&["shard", "move", &shard, "--from", "3", "--to", "4"]);
    let mut watcher = watcher.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(watcher.stderr.take().expect("it is piped"));
    let mut said = String::new();
    told.read_line(&mut said).expect("it says which job it watches");
    assert!(said.starts_with(&format!("job {job} moves the replica of shard {shard}")), "{said}");
    let cancelled = cluster.json(&["job", "cancel", &job]);
    assert_eq!((cancelled["state"].as_str(), cancelled["id"].to_string()), (Some("cancelled"), job.clone()));
    wait_members(&cluster, &shard, &[1, 2, 3]);
    told.read_to_string(&mut said).expect("it ends");
    let ended = watcher.wait().expect("it ends");
    assert!(ended.code() == Some(1) && said.contains("has ended as cancelled"), "{ended}: {said}");
    cluster.signal(4, Signal::SIGCONT);
    cluster.json(&["job", "cancel", &job]);
    let watched = cluster.cli(&["-o", "json", "job", "watch", &job]);
    assert_eq!((watched.code, watched.error()["error"].as_str()), (1, Some("cancelled")), "{watched:?}");
    assert_eq!(records(&cluster), 20);

    // Cancelled too late it is done.
    let moved = cluster.json(&["--timeout", "60s", "shard", "move", &shard, "--from", "3", "--to", "4"]);
    let done = moved["job"].to_string();
    cluster.cli(&["job", "cancel", &done]).refused(1, &["it has ended already: done"]);
    wait_members(&cluster, &shard, &[1, 2, 4]);
    let states: Vec<Value> = list(&cluster).into_iter().map(|job| job["state"].clone()).collect();
    assert_eq!(states, ["cancelled", "done"]);
    let text = cluster.cli(&["job", "list"]).ok().stdout;
    assert!(text.contains("moves the replica of shard") && text.contains("cancelled"), "{text}");
}

#[test]
fn jobs_that_there_are_not_and_moves_that_make_no_sense_are_named() {
    let _alone = alone();
    let (cluster, shard) = prepared("", NEWEST);
    assert!(list(&cluster).is_empty());
    // Node 4 has never had a replica of it, node 3 has one.
    cluster
        .cli(&["shard", "move", &shard, "--from", "4", "--to", "3"])
        .refused(2, &["--from", "node 4 has no replica"]);
    cluster.cli(&["node", "replace", "1", "--with", "1"]).refused(2, &["--with", "its own place"]);
    for command in ["watch", "cancel"] {
        cluster.cli(&["job", command, "99"]).refused(1, &["job 99 does not exist", "synod job list"]);
        let ran = cluster.cli(&["-o", "json", "job", command, "99"]);
        let error = ran.error();
        assert_eq!((ran.code, error["error"].as_str(), &error["job"]), (1, Some("job_not_found"), &99.into()));
        for nonsense in ["x", "-1", ""] {
            assert_eq!(cluster.cli(&["job", command, nonsense]).code, 2, "{nonsense:?}");
        }
    }
    let moved = |from, to| cluster.cli(&["shard", "move", &shard, "--from", from, "--to", to, "--detach"]);
    moved("1", "9").refused(2, &["--to", "there is no node 9"]);
    moved("9", "4").refused(2, &["--from", "there is no node 9"]);
    moved("1", "1").refused(2, &["has a replica", "already"]);
    moved("4", "4").refused(2, &["no replica"]);
    cluster
        .cli(&["shard", "move", "99", "--from", "1", "--to", "4", "--detach"])
        .refused(1, &["shard 99 does not exist"]);
    assert!(list(&cluster).is_empty(), "nothing has begun");

    // A node whose replicas move away all at once; the one that gets them stays meanwhile.
    cluster.signal(4, Signal::SIGSTOP);
    let begun = cluster.json(&["node", "replace", "3", "--with", "4", "--detach"]);
    let jobs = begun["jobs"].as_array().expect("jobs").len();
    assert_eq!((jobs, begun["shards"].as_array().map(Vec::len)), (2, Some(2)), "{begun}");
    cluster.signal(4, Signal::SIGCONT);
    cluster.cli(&["--timeout", "60s", "node", "replace", "3", "--with", "4"]).ok();
    assert!(list(&cluster).iter().all(|job| job["state"] == "done"), "{:?}", list(&cluster));
    cluster.cli(&["node", "remove", "3"]).ok();
    assert_eq!(records(&cluster), 20);
}

/// A cluster that is not raised yet moves replicas as it always did: from the command line.
#[test]
fn below_the_third_version_the_command_carries_the_move_out() {
    let _alone = alone();
    let (mut cluster, shard) = prepared("[cluster]\nversion_max = 2\n", 2);
    assert_eq!(cluster.wait_up().value["version"], 2);
    let moved = cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", "3", "--to", "4"]).ok();
    assert!(moved.stderr.contains("node 4 replaces node 3 as a voter"), "{moved:?}");
    wait_members(&cluster, &shard, &[1, 2, 4]);
    let words = ["--detach", "at version 2", "synod cluster upgrade"];
    cluster.cli(&["shard", "move", &shard, "--from", "4", "--to", "3", "--detach"]).refused(2, &words);
    assert!(list(&cluster).is_empty());
    fs::write(cluster.dir().join("synod.toml"), "").expect("the settings can be written");
    for number in 1..=4 {
        cluster.stop(number);
        cluster.restart(number);
        cluster.wait_caught_up(number);
    }
    cluster.wait_up();
    let raised =
        until(PATIENCE, "the version rises", || (cluster.cli(&["cluster", "upgrade"]).code == 0).then_some(()));
    raised.unwrap();
    // Each node hears of it by itself, and the next command may ask any of them.
    for number in 1..=4 {
        let knows = || {
            let mut status = cluster.command(&["-o", "json", "status"]);
            let ran = status.env("SYNOD_ENDPOINTS", cluster.addr(number)).output().ok()?;
            let status: Value = serde_json::from_slice(&ran.stdout).ok()?;
            (status["version"] == NEWEST).then_some(())
        };
        until(PATIENCE, "the node knows the newest version", knows).unwrap();
    }
    let moved = cluster.json(&["--timeout", "60s", "shard", "move", &shard, "--from", "4", "--to", "3"]);
    assert_eq!(moved["job"], 1, "{moved}");
    wait_members(&cluster, &shard, &[1, 2, 3]);
}

/// Shards with one replica each under load: each moves, and then all that a node has move with `node replace`.
#[test]
fn the_only_replica_of_a_shard_moves_under_load() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let splits = load::SHARDS[1..].iter().map(|letter| Bytes::from(letter.to_string())).collect();
    let table = TableSpec { replicas: 1, ..TableSpec::range(load::TABLE, splits, Retention::All) };
    let load = Load::start_on(&cluster, table, 4, Duration::from_secs(20));
    load.wait_flowing(PATIENCE);
    for number in [4, 5] {
        cluster.add_joiner(number);
        let joined = cluster.addr(number);
        cluster.wait_status("the joiner is up", |status| status.state(&joined) == Some("up"));
    }
    let status = cluster.wait_status("all shards are led", Status::is_led);
    let mut shards = Vec::new();
    for info in status.shards_of(load::TABLE) {
        let shard = info["id"].to_string();
        let held = members(&status, &shard);
        assert_eq!(held.len(), 1, "{info}");
        shards.push((shard, held[0].to_string()));
    }
    for (shard, from) in &shards {
        cluster.cli(&["--timeout", "60s", "shard", "move", shard, "--from", from, "--to", "4"]).ok();
        wait_members(&cluster, shard, &[4]);
        load.wait_flowing(PATIENCE);
    }
    cluster.cli(&["--timeout", "60s", "node", "replace", "4", "--with", "5"]).ok();
    for (shard, _) in &shards {
        wait_members(&cluster, shard, &[5]);
    }
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "{:?}", seen.errors);
    load::verify(&cluster, &seen.acks);
}

/// Six nodes: the shard's replicas are where the system shard's leader has none, and no map says who of them leads.
#[test]
fn a_move_goes_on_where_the_executor_has_no_replica_and_another_voter_than_the_first_leads() {
    let _alone = alone();
    let (mut cluster, shard) = prepared("", NEWEST);
    for number in [5, 6] {
        cluster.add_joiner(number);
        let joined = cluster.addr(number);
        cluster.wait_status("the joiner is up", |status| status.state(&joined) == Some("up"));
    }
    for (from, to) in [("3", "6"), ("2", "5"), ("1", "4")] {
        cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", from, "--to", to]).ok();
    }
    wait_members(&cluster, &shard, &[4, 5, 6]);
    let number: u64 = shard.parse().expect("an id");
    for to in [6, 5, 6] {
        let led = until(PATIENCE, "the leadership has moved", || {
            let found = leader(&cluster.status()?, number)?;
            if found != to {
                // Refused while an earlier one is under way.
                cluster.cli(&["shard", "transfer-leader", &shard, "--to", &to.to_string()]);
            }
            (found == to).then_some(())
        });
        led.expect("a transfer reaches the leader");
        cluster.cli(&["shard", "scrub", &shard]).ok();
    }
    cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", "4", "--to", "2"]).ok();
    wait_members(&cluster, &shard, &[2, 5, 6]);
    assert_eq!(records(&cluster), 20);
}

/// The new member is down: the list says so, and so does who watches.
#[test]
fn a_move_that_waits_for_a_node_that_is_down_says_why() {
    let _alone = alone();
    let (mut cluster, shard) = prepared("", NEWEST);
    cluster.kill(4);
    let job = cluster.json(&["shard", "move", &shard, "--from", "3", "--to", "4", "--detach"])["job"].to_string();
    let mut watcher = cluster.command(&["--timeout", "30s", "job", "watch", &job]);
    let mut watcher = watcher.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let listed = until(PATIENCE, "the list says why", || {
        let text = cluster.cli(&["job", "list"]).stdout;
        text.contains("node 4 is down").then_some(text)
    });
    listed.expect("a reason");
    let progress = &list(&cluster)[0]["progress"];
    assert!(progress["trouble"].as_str().is_some_and(|why| why.starts_with("node 4 is down")), "{progress}");
    let mut told = BufReader::new(watcher.stderr.take().expect("it is piped")).lines();
    let line = told.find(|line| line.as_ref().is_ok_and(|line| line.contains("waits: node 4 is down")));
    assert!(line.is_some(), "who watches is told");
    // Ctrl-C ends who watches, and nothing else.
    let mut other = cluster.command(&["job", "watch", &job]);
    let mut other = other.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut said = BufReader::new(other.stderr.take().expect("it is piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it watches");
    send(other.id(), Signal::SIGINT);
    said.read_to_string(&mut line).expect("it ends");
    let ended = other.wait().expect("it ends");
    assert!(ended.code().is_some_and(|code| code != 0), "{ended}: {line}");
    assert!(line.contains(&format!("job {job} goes on by itself")), "{line}");
    let patience = ["--timeout", "2s", "job", "watch", &job];
    let late = cluster.cli(&patience);
    assert!(late.code != 0 && late.stderr.contains("made no progress for 2s: node 4 is down"), "{late:?}");
    assert_eq!(list(&cluster)[0]["state"], "running");
    cluster.restart(4);
    wait_members(&cluster, &shard, &[1, 2, 4]);
    // What it says further is of no interest, but it must find room.
    told.for_each(drop);
    assert!(watcher.wait().expect("it ends").success());
}
