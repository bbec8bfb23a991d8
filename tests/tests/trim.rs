//! Trims: they take no time, however much they drop, and no call returns what they dropped.
//!
//! Owns: the claims about trims, deletions and overwritten values as a user sees them. Must never: show with a short
//! history what is claimed of a long one.

use std::time::{Duration, Instant};

use serde_json::Value;
use synod_client::{Client, Expect, NewRecord, Options};
use synod_tests::alone;
use synod_tests::cluster::Cluster;

/// Records of the long history.
const RECORDS: u64 = 400_000;
/// The longest that anybody may wait for a trim, on a machine where other things run too.
const PAUSE: Duration = Duration::from_millis(400);

/// Offsets and values that a tail gives.
fn tail(cluster: &Cluster, args: &[&str]) -> Vec<(u64, String)> {
    let given = cluster.cli(&[&["-o", "json", "tail"], args].concat()).ok().json_lines();
    given.iter().map(|record| (record["offset"].as_u64().unwrap(), record["value"].to_string())).collect()
}

/// The token that a tail of all of a table ends with.
fn token(cluster: &Cluster, table: &str) -> String {
    let ended = cluster.cli(&["-o", "json", "tail", table, "--from", "earliest"]).ok();
    said(&ended.stderr, "token").as_str().unwrap().to_owned()
}

/// What the objects on standard error say under a name.
fn said(stderr: &str, name: &str) -> Value {
    let objects = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut named = objects.filter_map(|object| object.get(name).cloned());
    named.next_back().unwrap_or_else(|| panic!("no {name} in: {stderr}"))
}

fn restart_all(cluster: &mut Cluster) {
    for number in 1..=3 {
        cluster.kill(number);
    }
    for number in 1..=3 {
        cluster.restart(number);
    }
    cluster.wait_up();
}

#[test]
fn what_is_trimmed_deleted_or_overwritten_no_tail_gives() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "log", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "kv", "--partition", "range", "--retain", "latest"]).ok();
    for n in 0..3 {
        cluster.cli(&["append", "log", "k", &format!("secret {n}")]).ok();
    }
    let early = token(&cluster, "log");
    for n in 3..6 {
        cluster.cli(&["append", "log", "k", &format!("{n}")]).ok();
    }
    let consumed = token(&cluster, "log");
    cluster.cli(&["append", "log", "k", "6"]).ok();
    cluster.cli(&["trim", "log", "k", "--before", "6"]).ok();
    cluster.cli(&["put", "kv", "k", "secret"]).ok();
    let before = token(&cluster, "kv");
    cluster.cli(&["put", "kv", "k", "another secret"]).ok();
    cluster.cli(&["delete", "kv", "k"]).ok();
    cluster.cli(&["put", "kv", "l", "old"]).ok();
    cluster.cli(&["put", "kv", "l", "new"]).ok();
    for restarted in [false, true] {
        assert_eq!(tail(&cluster, &["log", "--from", "earliest"]), [(6, "\"6\"".into())], "restarted: {restarted}");
        assert_eq!(tail(&cluster, &["log", "--from", &consumed]), [(6, "\"6\"".into())], "all it lacks is there");
        for from in ["earliest", &before] {
            let given = tail(&cluster, &["kv", "--from", from]);
            assert_eq!(given.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 1], "{given:?}");
            assert!(!given.iter().any(|(_, value)| value.contains("secret") || value.contains("old")), "{given:?}");
        }
        let told = cluster.cli(&["-o", "json", "tail", "log", "--from", &early]);
        let (error, first) = (said(&told.stderr, "error"), said(&told.stderr, "first"));
        assert_eq!((told.code, error, first), (1, "trimmed".into(), 6.into()), "restarted: {restarted}");
        if !restarted {
            restart_all(&mut cluster);
        }
    }
}

/// Keys and offsets that a tail gives, and what it says on standard error.
fn gives(cluster: &Cluster, args: &[&str]) -> (Vec<(String, u64)>, String) {
    let ran = cluster.cli(&[&["-o", "json", "tail", "log"], args].concat()).ok();
    let text = |record: &Value| record["key"].as_str().unwrap().to_owned();
    (ran.json_lines().iter().map(|record| (text(record), record["offset"].as_u64().unwrap())).collect(), ran.stderr)
}

#[test]
fn one_trimmed_key_keeps_nobody_from_the_others() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "log", "--partition", "range", "--retain", "all"]).ok();
    let mut early = vec![];
    for key in ["a1", "a2", "b1"] {
        cluster.cli(&["append", "log", key, "0"]).ok();
    }
    let tails: [&[&str]; 3] = [&[], &["--prefix", "a"], &["a1"]];
    for args in tails {
        early.push(said(&gives(&cluster, args).1, "token").as_str().unwrap().to_owned());
    }
    for key in ["a1", "a2", "b1"] {
        cluster.cli(&["append", "log", key, "1", "2", "3"]).ok();
    }
    cluster.cli(&["trim", "log", "a1", "--before", "3"]).ok();
    let all = [("a1", 3), ("a2", 1), ("a2", 2), ("a2", 3), ("b1", 1), ("b1", 2), ("b1", 3)];
    let all = all.map(|(key, offset)| (key.to_owned(), offset));
    for restarted in [false, true] {
        for (args, token, left) in
            [(tails[0], &early[0], &all[..]), (tails[1], &early[1], &all[..4]), (tails[2], &early[2], &all[..1])]
        {
            let from = [args, &["--from", token]].concat();
            let told = cluster.cli(&[&["-o", "json", "tail", "log"], &from[..]].concat());
            let fields = ["error", "key", "first", "knob", "token"].map(|name| said(&told.stderr, name));
            let expected: [Value; 5] =
                ["trimmed".into(), "a1".into(), 3.into(), "--skip-trimmed".into(), token.as_str().into()];
            assert_eq!((told.code, fields), (1, expected), "{args:?}, restarted: {restarted}");
            let told = cluster.cli(&[&["tail", "log"], &from[..]].concat()).stderr;
            for words in ["key \"a1\"", "before offset 3", "--skip-trimmed", &format!("token: {token}\n")] {
                assert!(told.contains(words), "no {words} in: {told}");
            }
            for follow in [None, Some(format!("{}", left.len()))] {
                let mut going = [&from[..], &["--skip-trimmed"]].concat();
                going.extend(follow.iter().flat_map(|limit| ["-f", "--limit", limit]));
                let (mut given, stderr) = gives(&cluster, &going);
                given.sort();
                assert_eq!(given, left, "{going:?}, restarted: {restarted}");
                let passed: Vec<&str> = stderr.lines().filter(|line| line.contains("trimmed")).collect();
                assert_eq!(passed, [r#"{"trimmed":{"first":3,"key":"a1"}}"#], "{stderr}");
                let after = said(&stderr, "token");
                let after = [args, &["--from", after.as_str().unwrap()]].concat();
                assert_eq!(gives(&cluster, &after).0, [], "nothing is given again");
            }
        }
        if !restarted {
            restart_all(&mut cluster);
        }
    }
}

/// Writes one value after the other to the shards of `other` until told to end; returns the longest that one took.
async fn write_elsewhere(client: Client, over: std::sync::Arc<std::sync::atomic::AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0u64.. {
        let began = Instant::now();
        client.put("other", format!("k{}", n % 100), "v").await.unwrap();
        longest = longest.max(began.elapsed());
        if over.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::await_holding_lock, reason = "the lock keeps this binary's other tests off the machine meanwhile")]
async fn nobody_waits_for_the_trim_of_a_long_history() {
    let _alone = tokio::task::block_in_place(alone);
    let cluster = tokio::task::block_in_place(Cluster::start);
    cluster.cli(&["table", "create", "log", "--partition", "hash", "--shards", "1", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "other", "--partition", "hash", "--shards", "4", "--retain", "latest"]).ok();
    let client = Client::connect(cluster.endpoints(), Options::default()).await.unwrap();
    for n in 0..RECORDS / 5_000 {
        let records = (0..5_000).map(|i| NewRecord::new(format!("record number {:08}", n * 5_000 + i))).collect();
        client.append("log", "k", records, Expect::Any).await.unwrap();
    }
    // The fewer records are those that go, those that stay, and neither.
    for before in [1_000, RECORDS / 2, RECORDS - 10] {
        let over = std::sync::Arc::default();
        let writer = tokio::spawn(write_elsewhere(client.clone(), std::sync::Arc::clone(&over)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        assert_eq!(client.trim("log", "k", before).await.unwrap().offset, before);
        let took = began.elapsed();
        tokio::time::sleep(Duration::from_millis(700)).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let longest = writer.await.unwrap();
        println!("trimmed below {before} of {RECORDS} in {took:.1?}, the longest write elsewhere took {longest:.1?}");
        assert!(longest < PAUSE, "a write to another shard took {longest:.1?}");
        assert!(took < Duration::from_secs(3), "{took:.1?}");
    }
    let left =
        cluster.cli(&["-o", "json", "read", "log", "k", "--from", &(RECORDS - 10).to_string()]).ok().json_lines();
    assert_eq!(left.len(), 10);
}
