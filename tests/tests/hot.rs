//! Where shards could be divided, and which shards and keys have most to do: seen on the real binary.
//!
//! Owns: the claims of `synod hot` and of `synod shard split --dry-run`. Must never: split a shard.

use std::time::Duration;

use serde_json::Value;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::http::metric;
use synod_tests::run::until;

/// A range table of two shards, `r`, of which the second is empty, and an empty hash table, `h`.
fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--split-at", "m", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "h", "--partition", "hash", "--shards", "2"]).ok();
    let value = "x".repeat(1000);
    for n in 0..40 {
        cluster.cli(&["append", "r", &format!("a{n:02}"), &value]).ok();
    }
    cluster.wait_status("all shards are led", |status| status.is_led());
    cluster
}

fn shards(cluster: &Cluster, table: &str) -> Vec<String> {
    let status = cluster.status().expect("a status");
    status.shards_of(table).iter().map(|shard| shard["id"].to_string()).collect()
}

/// The error of a split that would be refused.
fn error(cluster: &Cluster, args: &[&str]) -> Value {
    cluster.cli(&[&["-o", "json", "shard", "split", "--dry-run"], args].concat()).error()
}

#[test]
fn a_shard_knows_its_middle_its_load_and_its_hot_key() {
    let _alone = alone();
    let cluster = start();
    let (full, empty) = (shards(&cluster, "r")[0].clone(), shards(&cluster, "r")[1].clone());

    // By bytes, from the moment that they are written.
    let would = cluster.json(&["shard", "split", &full, "--dry-run"]);
    let at = would["at"].as_str().expect("a key");
    assert!(("a16"..="a24").contains(&at), "{would}");
    let (bytes, below) = (would["bytes"].as_u64().expect("bytes"), would["bytes_below"].as_u64().expect("bytes"));
    assert!(bytes > 40_000 && (bytes * 4 / 10..bytes * 6 / 10).contains(&below), "{would}");
    let words = cluster.cli(&["shard", "split", &full, "--dry-run"]).ok().stdout;
    assert!(words.contains(&format!("shard {full} would be split at 'a")) && words.contains("from it on"), "{words}");
    assert_eq!(error(&cluster, &[empty.as_str()])["error"], "indivisible");
    // A hash table without records is halved by its ring.
    let first = shards(&cluster, "h")[0].clone();
    assert_eq!(cluster.json(&["shard", "split", &first, "--dry-run"])["at"], "4000000000000000");

    // One key is read most: no split by load helps.
    let hot = until(PATIENCE, "the hot key is named", || {
        for _ in 0..20 {
            cluster.cli(&["get", "r", "a07"]).ok();
        }
        let ran = cluster.cli(&["-o", "json", "shard", "split", &full, "--by", "load", "--dry-run"]);
        (ran.code == 1).then(|| ran.error()).filter(|error| error["error"] == "hot_key")
    });
    let hot = hot.unwrap();
    assert_eq!((&hot["key"], hot["percent"].as_u64().is_some_and(|percent| percent >= 50)), (&"a07".into(), true));

    // The same in the lists.
    let keys = cluster.cli(&["-o", "json", "hot", "keys", "r"]).ok().json_lines();
    assert!(keys.len() <= 10 && keys[0]["key"] == "a07" && keys[0]["table"] == "r", "{keys:?}");
    assert!(keys[0]["share_percent"].as_u64().is_some_and(|share| share >= 40), "{keys:?}");
    let busiest = cluster.cli(&["-o", "json", "hot", "shards", "r", "--limit", "1"]).ok().json_lines();
    assert_eq!(busiest.len(), 1, "{busiest:?}");
    assert!(
        busiest[0]["shard"].as_u64() == full.parse().ok() && busiest[0]["reads_per_s"].as_u64() > Some(0),
        "{busiest:?}"
    );
    assert!(busiest[0]["leader"].is_u64() && busiest[0]["ops_per_s_max"].as_u64() > Some(0), "{busiest:?}");
    let table = cluster.cli(&["hot", "shards", "r"]).ok().stdout;
    assert!(table.starts_with("SHARD") && table.lines().count() == 3, "{table}");
    let status = cluster.status().expect("a status");
    assert!(status.shards_of("r")[0]["load"]["ops_per_s"].as_u64() > Some(0), "{}", status.value);
    let most = (1..=3).filter_map(|node| metric(&cluster.http(node), "synod_engine_busiest_shard_operations"));
    assert!(most.fold(0.0, f64::max) >= 1.0, "nobody has anything to do");

    // Bytes are in the status once they are flushed, as the question for the middle has them.
    let told = until(PATIENCE, "the leader tells its bytes", || {
        std::thread::sleep(Duration::from_millis(200));
        cluster.status()?.shards_of("r")[0]["bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    told.unwrap();
    assert_eq!(shards(&cluster, "r").len(), 2, "a dry run splits nothing");
}

#[test]
fn what_is_asked_wrongly_is_refused_in_one_line() {
    let _alone = alone();
    let cluster = start();
    let (full, empty) = (shards(&cluster, "r")[0].clone(), shards(&cluster, "r")[1].clone());
    let refused = |args: &[&str], code: i32, words: &[&str]| cluster.cli(args).refused(code, words);

    refused(&["hot", "shards", "nope"], 1, &["table", "\"nope\"", "does not exist"]);
    refused(&["hot", "keys", "nope"], 1, &["table", "\"nope\"", "does not exist"]);
    refused(&["hot", "keys", "--limit", "0"], 2, &["--limit", "0"]);
    refused(&["hot", "shards", "--limit", "many"], 2, &["--limit", "many"]);
    refused(&["shard", "split", "999", "--dry-run"], 1, &["shard 999 does not exist"]);
    refused(&["shard", "split", &full, "--by", "speed"], 2, &["speed", "--by"]);
    refused(&["shard", "split", &full, "--by", "load", "--at", "a10"], 2, &["--at", "--by"]);
    refused(&["shard", "split", &full, "--dry-run", "--detach"], 2, &["--dry-run", "--detach"]);
    refused(&["shard", "split", &full, "--dry-run", "--at", "z"], 2, &["--at", "'z'", "does not divide"]);
    refused(&["shard", "split", &empty, "--dry-run"], 1, &["has no records", "--at"]);
    refused(&["shard", "split", &empty, "--dry-run", "--by", "load"], 1, &["0 operations were sampled", "--at"]);
    assert!(cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines().is_empty(), "nothing was begun");
}
