//! Splits of shards: what a user sees before, during and after one.
//!
//! Owns: the claims of `synod shard split`, and of data, tails and checks across splits. Must never: take a shard for split because the
//! command said so; the status, the job and where keys live are asked.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::load::{Load, TABLE as LOADED, verify};
use synod_tests::run::{Ran, run, until};
use synod_tests::splits::{shards, wait_shards, wait_splits};

const CALLS: Duration = Duration::from_secs(30);

/// Three nodes that know splits.
fn started() -> Cluster {
    let cluster = Cluster::start();
    wait_splits(&cluster, 3);
    cluster
}

fn only_shard(cluster: &Cluster, table: &str) -> String {
    wait_shards(cluster, 3, table, 1)[0].0.to_string()
}

fn jobs(cluster: &Cluster) -> Vec<Value> {
    cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines()
}

/// A key's values, by offset.
fn read(cluster: &Cluster, table: &str, key: &str) -> Vec<String> {
    let records = cluster.cli(&["-o", "json", "read", table, key]).ok().json_lines();
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record["offset"], at, "{record}");
    }
    records.iter().map(|record| record["value"].as_str().unwrap().to_owned()).collect()
}

/// What a tail gives, as keys and values, and its token.
fn tail(cluster: &Cluster, table: &str, from: &str) -> (Vec<(String, String)>, String) {
    let ran = cluster.cli(&["-o", "json", "tail", table, "--from", from]).ok();
    let text = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
    let given = ran.json_lines().iter().map(|record| (text(record, "key"), text(record, "value"))).collect();
    let said = ran.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let token = said.filter_map(|object| object["token"].as_str().map(str::to_owned)).next_back();
    (given, token.expect("a tail ends with a token"))
}

fn home(cluster: &Cluster, table: &str, key: &str) -> u64 {
    cluster.json(&["explain", table, key])["shard"]["id"].as_u64().unwrap()
}

/// Restarts every node, each after a kill.
fn restart_all(cluster: &mut Cluster) {
    (1..=3).for_each(|number| cluster.kill(number));
    (1..=3).for_each(|number| cluster.restart(number));
    cluster.wait_up();
}

/// Every replica of every shard holds the same, and every byte of the nodes' directories is sound. The nodes are down then.
fn check_all(cluster: &mut Cluster) {
    cluster.cli(&["--timeout", "60s", "shard", "scrub"]).ok();
    for number in 1..=3 {
        assert_eq!(cluster.stop(number).code(), Some(0));
        let found = run(&["-o", "json", "check", &cluster.data_dir(number).display().to_string()]).ok().json();
        assert_eq!(found["damages"].as_array().map(Vec::len), Some(0), "node {number}: {found}");
    }
}

#[test]
fn a_range_table_is_split_at_a_key_and_nothing_else_changes() {
    let _alone = alone();
    let mut cluster = started();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--retain", "all"]).ok();
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    for key in &keys {
        cluster.cli(&["append", "r", key, "first", "second"]).ok();
    }
    let parent = only_shard(&cluster, "r");
    let (before, token) = tail(&cluster, "r", "earliest");
    assert_eq!(before.len(), 20);

    let done = cluster.json(&["shard", "split", &parent, "--at", "k5"]);
    let child = done["child"].as_u64().unwrap_or_else(|| panic!("{done}"));
    assert_eq!((done["shard"].to_string(), done["at"].as_str(), &done["job"]), (parent.clone(), Some("k5"), &1.into()));
    let own = [(parent.parse().unwrap(), String::new()), (child, "k5".to_owned())];
    assert_eq!(wait_shards(&cluster, 3, "r", 2), own);
    let job = &jobs(&cluster)[0];
    let seen = (&job["kind"], &job["state"], job["shard"].to_string());
    assert_eq!(seen, (&"split_shard".into(), &"done".into(), parent.clone()), "{job}");
    let text = cluster.cli(&["job", "list"]).ok().stdout;
    assert!(text.contains(&format!("splits shard {parent} at \"k5\"")), "{text}");
    let explained = cluster.cli(&["explain", "r", "k7"]).ok().stdout;
    for words in [format!("lives on shard {child}"), format!("shard {child} owns [k5, end) of its 2 shards")] {
        assert!(explained.contains(&words), "no {words:?} in: {explained}");
    }
    cluster.wait_status("the shards are led and known to be younger", |status| {
        let of_table = status.shards_of("r");
        status.is_led() && of_table.len() == 2 && of_table.iter().all(|shard| shard["bounds_version"] == 2)
    });

    for restarted in [false, true] {
        for key in &keys {
            let expected = if key.as_str() < "k5" { parent.parse().unwrap() } else { child };
            assert_eq!(home(&cluster, "r", key), expected, "{key}");
            let values = read(&cluster, "r", key);
            assert_eq!(values[..2], ["first", "second"], "{key}, restarted: {restarted}");
            let written = cluster.json(&["append", "r", key, "later"]);
            assert_eq!(written["offset"], values.len(), "offsets of {key} go on");
        }
        assert_eq!(cluster.cli(&["-o", "json", "scan", "r"]).ok().json_lines().len(), 10);
        let part = cluster.cli(&["-o", "json", "scan", "r", "--from", "k4", "--to", "k6"]).ok().json_lines();
        assert_eq!(part.iter().map(|record| &record["key"]).collect::<Vec<_>>(), ["k4", "k5"]);
        // Who had read all of before the split gets what came after it, from both shards.
        let (mut after, _) = tail(&cluster, "r", &token);
        after.sort();
        let later = |key: &String| vec![(key.clone(), "later".to_owned()); 1 + usize::from(restarted)];
        assert_eq!(after, keys.iter().flat_map(later).collect::<Vec<_>>(), "restarted: {restarted}");
        if !restarted {
            restart_all(&mut cluster);
        }
    }
    check_all(&mut cluster);
}

#[test]
fn a_hash_table_is_split_in_the_middle_of_its_bytes_and_at_a_hash() {
    let _alone = alone();
    let mut cluster = started();
    cluster.cli(&["table", "create", "h", "--partition", "hash", "--shards", "1"]).ok();
    let keys: Vec<String> = (0..40).map(|n| format!("key {n}")).collect();
    for key in &keys {
        cluster.cli(&["put", "h", key, &format!("value of {key}")]).ok();
    }
    let parent = only_shard(&cluster, "h");
    let middle = cluster.json(&["shard", "split", &parent]);
    let at = middle["at"].as_str().unwrap_or_else(|| panic!("{middle}")).to_owned();
    let hash = |key: &String| cluster.json(&["explain", "h", key])["hash"].as_str().unwrap().to_owned();
    let below = keys.iter().filter(|key| hash(key) < at).count();
    assert!((16..=24).contains(&below), "{below} of {} keys are below {at}", keys.len());
    let upper = middle["child"].as_u64().unwrap_or_else(|| panic!("{middle}"));
    wait_shards(&cluster, 3, "h", 2);
    let said = cluster.cli(&["shard", "split", &upper.to_string(), "--at", "e000000000000000"]).ok().stdout;
    let own = wait_shards(&cluster, 3, "h", 3);
    let top = own[2].0;
    let places = [("", parent.parse().unwrap()), (at.as_str(), upper), ("e000000000000000", top)];
    assert_eq!(own, places.map(|(from, shard)| (shard, from.to_owned())));
    let text = cluster.cli(&["job", "list"]).ok().stdout;
    assert!(text.contains(&format!("splits shard {parent} at 0x{at}")), "{text}");
    let words = format!("shard {upper} ends at e000000000000000 now, shard {top} begins there");
    assert_eq!(said.trim_end(), words);
    for key in &keys {
        let explained = cluster.json(&["explain", "h", key]);
        let hash = explained["hash"].as_str().unwrap();
        let (_, shard) = places.iter().rfind(|(from, _)| *from <= hash).unwrap();
        assert_eq!(explained["shard"]["id"], *shard, "{explained}");
        assert_eq!(cluster.cli(&["get", "h", key]).ok().stdout.trim_end(), format!("value of {key}"));
        cluster.cli(&["put", "h", key, "new", "--expect", "exists"]).ok();
    }
    assert_eq!(cluster.cli(&["-o", "json", "scan", "h"]).ok().json_lines().len(), keys.len());
    assert_eq!(tail(&cluster, "h", "earliest").0.len(), keys.len());
    check_all(&mut cluster);
}

/// A tail of a whole table that goes on, with its records in a file.
struct Follower {
    child: Child,
    file: PathBuf,
}

impl Follower {
    fn start(cluster: &Cluster, table: &str) -> Follower {
        let file = cluster.dir().join("followed");
        let mut command = cluster.command(&["-o", "json", "tail", table, "--from", "earliest", "-f"]);
        let out = File::create(&file).expect("a file");
        let child = command.stdout(out).stderr(Stdio::null()).spawn().expect("it runs");
        Follower { child, file }
    }

    /// Keys, offsets and values, once there are so many.
    fn records(&self, count: usize) -> Vec<(String, u64, String)> {
        let all = until(PATIENCE, "the tail has given everything", || {
            let text = fs::read_to_string(&self.file).expect("a file");
            (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
        });
        let record = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
            let text = |name: &str| record[name].as_str().expect("text").to_owned();
            (text("key"), record["offset"].as_u64().expect("an offset"), text("value"))
        };
        all.unwrap().lines().map(record).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of the node that leads the shard that holds a key.
fn leader_of(cluster: &Cluster, key: &str) -> u16 {
    let shard = home(cluster, LOADED, key);
    let status = cluster.wait_status("the shard is led", |status| status.leader_addr(shard).is_some());
    let addr = status.leader_addr(shard).expect("it is led");
    (1..=3).find(|number| cluster.addr(*number) == addr).expect("a node of the cluster")
}

/// Every shard of the load's table is split twice, beside writers and a tail. The leader dies right after every second split.
#[test]
fn writers_and_a_tail_go_through_splits_and_deaths_of_leaders() {
    let _alone = alone();
    let mut cluster = started();
    let load = Load::start(&cluster, 8, CALLS);
    load.wait_flowing(PATIENCE);
    let follower = Follower::start(&cluster, LOADED);
    let mut killed = 0;
    for (turn, at) in ["a-2", "b-2", "c-2", "d-2", "a-1", "b-3", "c-1", "d-3"].into_iter().enumerate() {
        let parent = home(&cluster, LOADED, at).to_string();
        let leader = leader_of(&cluster, at);
        let done = cluster.json(&["--timeout", "60s", "shard", "split", &parent, "--at", at]);
        if turn % 2 == 0 {
            cluster.kill(leader);
            killed += 1;
            load.wait_flowing(PATIENCE);
            cluster.restart(leader);
            cluster.wait_caught_up(leader);
        }
        load.wait_flowing(PATIENCE);
        wait_shards(&cluster, 3, LOADED, 5 + turn);
        assert_eq!(home(&cluster, LOADED, at), done["child"].as_u64().unwrap(), "{done}");
        println!("{at}: shard {parent} gave shard {}", done["child"]);
    }
    assert_eq!(killed, 4);
    restart_all(&mut cluster);
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let stored = verify(&cluster, &seen.acks);

    // Each record once, and those of a key in their order.
    let given = follower.records(stored);
    assert_eq!(given.len(), stored);
    let mut next = std::collections::BTreeMap::<&str, u64>::new();
    for (key, offset, value) in &given {
        let expected = next.entry(key).or_default();
        assert_eq!(offset, expected, "{key}: {value}");
        *expected += 1;
    }
    drop(follower);
    check_all(&mut cluster);
}

/// Makes sure that a split is refused in one line with these words, and as JSON with this error.
fn refused(cluster: &Cluster, args: &[&str], code: i32, kind: &str, words: &[&str]) {
    let command = [&["shard", "split"], args].concat();
    cluster.cli(&command).refused(code, words);
    let ran: Ran = cluster.cli(&[&["-o", "json"], &command[..]].concat());
    assert_eq!((ran.code, ran.error()["error"].as_str()), (code, Some(kind)), "{args:?}: {}", ran.stderr);
}

#[test]
fn a_split_that_cannot_be_is_refused_in_a_line_and_changes_nothing() {
    let _alone = alone();
    let cluster = started();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--split-at", "d", "--split-at", "m"]).ok();
    cluster.cli(&["table", "create", "h", "--partition", "hash", "--shards", "2"]).ok();
    let before = (wait_shards(&cluster, 3, "r", 3), wait_shards(&cluster, 3, "h", 2));
    let middle = before.0[1].0.to_string();
    let (lower, upper) = (before.1[0].0.to_string(), before.1[1].0.to_string());

    refused(&cluster, &["99"], 1, "shard_not_found", &["shard 99 does not exist", "synod shard list"]);
    refused(&cluster, &["1"], 2, "invalid_argument", &["the system shard is never split"]);
    refused(&cluster, &[&middle], 1, "indivisible", &["has no records, so no middle", "--at"]);
    for outside in ["a", "d", "m", "z", ""] {
        let words = ["--at", &format!("does not divide shard {middle}"), "[d, m)"];
        refused(&cluster, &[&middle, "--at", outside], 2, "invalid_argument", &words);
    }
    let long = format!("e{}", "x".repeat(4096));
    refused(&cluster, &[&middle, "--at", &long], 2, "invalid_argument", &["4096"]);
    for bad in ["80", "", "middle", "+000000000000000", "80000000000000000", "e'000000000000000"] {
        refused(&cluster, &[&lower, "--at", bad], 2, "invalid_argument", &["--at", "16 hexadecimal digits"]);
    }
    for (shard, edge) in [(&lower, "0000000000000000"), (&lower, "8000000000000000"), (&upper, "8000000000000000")] {
        let words = ["--at", &format!("does not divide shard {shard}")];
        refused(&cluster, &[shard, "--at", edge], 2, "invalid_argument", &words);
    }
    for nonsense in [&["x"][..], &["-1"], &[""], &[], &[&middle[..], "--at"], &[&middle[..], "--to", "e"]] {
        let ran = cluster.cli(&[&["shard", "split"], nonsense].concat());
        assert_eq!(ran.code, 2, "{nonsense:?}: {}", ran.stderr);
    }
    assert_eq!((shards(&cluster, "r"), shards(&cluster, "h")), before);
    assert!(jobs(&cluster).is_empty(), "nothing has begun");
}

#[test]
fn a_merge_is_refused_in_a_cluster_whose_version_knows_none() {
    let _alone = alone();
    let cluster = started();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--split-at", "m"]).ok();
    let before = wait_shards(&cluster, 3, "r", 2);
    let (low, high) = (before[0].0.to_string(), before[1].0.to_string());
    for more in [&[][..], &["--dry-run"], &["--detach"]] {
        let command = [&["shard", "merge", &low[..], &high[..]], more].concat();
        cluster.cli(&command).refused(1, &["merges need 5", "synod cluster upgrade"]);
    }
    assert_eq!(shards(&cluster, "r"), before);
    assert!(jobs(&cluster).is_empty(), "nothing has begun");
}

/// A shard whose only replica is on node 4, which stands still: a split of it waits.
fn waiting(cluster: &mut Cluster) -> String {
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    cluster.wait_status("the joiner is up", |status| status.state(&joined) == Some("up") && status.is_led());
    wait_splits(cluster, 4);
    cluster.cli(&["table", "create", "r", "--partition", "range", "--replicas", "1", "--split-at", "m"]).ok();
    let is_there = |status: &Status| {
        let mut shards = status.shards().iter().filter(|shard| shard["table"] == "r");
        let shard = shards.find(|shard| shard["leader"].as_u64() == status.id(&joined));
        shard.and_then(|shard| shard["id"].as_u64())
    };
    let status =
        cluster.wait_status("a shard is on the joiner", |status| status.is_led() && is_there(status).is_some());
    is_there(&status).expect("it was seen").to_string()
}

#[test]
fn one_job_at_a_time_works_on_a_shard_and_a_split_can_be_cancelled_until_it_is_done() {
    let _alone = alone();
    let mut cluster = started();
    let shard = waiting(&mut cluster);
    let bounds = wait_shards(&cluster, 4, "r", 2);
    let first = bounds.iter().position(|(id, _)| id.to_string() == shard) == Some(0);
    let (at, other) = if first { ("d", "g") } else { ("s", "w") };
    cluster.signal(4, Signal::SIGSTOP);
    let begun = cluster.json(&["shard", "split", &shard, "--at", at, "--detach"]);
    let job = begun["job"].to_string();
    assert_eq!(begun["child"], Value::Null, "nobody waited for it: {begun}");
    // The same again is the same job.
    let same = cluster.json(&["shard", "split", &shard, "--at", at, "--no-wait"]);
    assert_eq!(same["job"].to_string(), job);
    let doing = format!("it splits shard {shard} at \"{at}\" already");
    let named = format!("job {job}");
    let words = [&named[..], &doing[..], "cancel it"];
    cluster.cli(&["shard", "split", &shard, "--at", other, "--detach"]).refused(1, &words);
    let error = cluster.cli(&["-o", "json", "shard", "split", &shard, "--at", other, "--detach"]).error();
    assert_eq!((error["error"].as_str(), error["job"].to_string()), (Some("job_conflict"), job.clone()), "{error}");
    cluster.cli(&["shard", "move", &shard, "--from", "4", "--to", "1", "--detach"]).refused(1, &words);
    let waits = until(PATIENCE, "the job says for what it waits", || {
        let text = cluster.cli(&["job", "list"]).ok().stdout;
        text.contains("waits: ").then_some(text)
    });
    assert!(waits.unwrap().contains(&format!("shard {shard}")));
    let status = cluster.cli(&["status"]).ok().stdout;
    assert!(status.contains(&format!("job {job} running: shard {shard} is split")), "{status}");

    cluster.cli(&["job", "cancel", &job, "--detach"]).ok();
    cluster.signal(4, Signal::SIGCONT);
    let watched = cluster.cli(&["-o", "json", "job", "watch", &job]);
    assert_eq!((watched.code, watched.error()["error"].as_str()), (1, Some("cancelled")), "{watched:?}");
    assert_eq!(shards(&cluster, "r"), bounds, "nothing of it is left");

    // Another one is free to begin, and is not taken back once it is done.
    cluster.wait_status("the shard is led", Status::is_led);
    let done = cluster.json(&["--timeout", "60s", "shard", "split", &shard, "--at", other]);
    wait_shards(&cluster, 4, "r", 3);
    let again = done["job"].to_string();
    cluster.cli(&["job", "cancel", &again]).refused(1, &["it has ended already: done"]);
    cluster.cli(&["shard", "split", &shard, "--at", other]).refused(2, &["does not divide shard"]);
    let states: Vec<Value> = jobs(&cluster).into_iter().map(|job| job["state"].clone()).collect();
    assert_eq!(states, ["cancelled", "done"]);
    assert_eq!(shards(&cluster, "r").len(), 3);
}
