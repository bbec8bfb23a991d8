//! What probes and scrapers see, and a node that goes down in order.
//!
//! Owns: the claims about `/livez`, `/readyz`, `/metrics` and SIGTERM. Must never: need more than a probe sends.

use std::time::{Duration, Instant};

use synod_tests::alone;
use synod_tests::checker::check;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::http::get;
use synod_tests::load::{Load, TABLE, read_back};
use synod_tests::run::until;

/// One sample of the text format: its name, labels cut off, and its value.
fn sample(line: &str) -> (String, f64) {
    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
    let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
    assert!(labels.ends_with('}'), "labels are closed: {line}");
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)), "a name: {line}");
    (name.to_owned(), value)
}

#[test]
fn probes_and_metrics_tell_how_a_node_is() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "4"]).ok();
    cluster.cli(&["bench", "put", "--clients", "4", "--duration", "1s"]).ok();
    for number in 1..=3 {
        let http = cluster.http(number);
        assert_eq!(get(&http, "/livez").map(|(code, _)| code), Some(200));
        assert_eq!(get(&http, "/readyz").map(|(code, _)| code), Some(200));
        assert_eq!(get(&http, "/nothing").map(|(code, _)| code), Some(404));
        let (code, page) = get(&http, "/metrics").expect("an answer");
        assert_eq!(code, 200);
        let samples: Vec<(String, f64)> =
            page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample).collect();
        assert!(samples.iter().all(|(name, _)| name.starts_with("synod_")), "all names are ours: {page}");
        let about = |what: &str| samples.iter().any(|(name, _)| name.contains(what));
        for what in ["fsync", "ops", "commit", "apply", "queue", "leaders", "elections"] {
            assert!(about(what), "nothing about {what}: {page}");
        }
        let fsyncs = samples.iter().filter(|(name, _)| name.contains("fsync")).map(|(_, value)| *value);
        assert!(fsyncs.sum::<f64>() > 1.0, "writes were synced: {page}");
    }
    // A node that cannot know is alive and not ready.
    cluster.kill(2);
    cluster.kill(3);
    let ready = || get(&cluster.http(1), "/readyz").map(|(code, _)| code);
    let lonely = until(PATIENCE, "a node alone is not ready", || (ready() == Some(503)).then_some(()));
    assert_eq!(get(&cluster.http(1), "/livez").map(|(code, _)| code), Some(200));
    lonely.unwrap();
    cluster.restart(2);
    cluster.restart(3);
    until(PATIENCE, "ready again", || (get(&cluster.http(1), "/readyz")?.0 == 200).then_some(())).unwrap();
}

#[test]
fn sigterm_hands_leadership_over_and_exits_0() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 8, Duration::from_secs(30));
    load.wait_flowing(PATIENCE);
    for number in [1, 2, 3] {
        let status = cluster.wait_up();
        let id = status.id(&cluster.addr(number));
        let led = status.shards_of(TABLE).iter().filter(|shard| shard["leader"].as_u64() == id).count();
        let asked = Instant::now();
        let ended = cluster.stop(number);
        let took = asked.elapsed();
        assert_eq!(ended.code(), Some(0), "{ended}: {}", cluster.log(number));
        load.wait_flowing(PATIENCE);
        let (pause, call) = load.so_far(|seen| seen.pause(asked, Instant::now()));
        println!(
            "SIGTERM of node {number}, leader of {led} of 4 shards: down in {took:.2?}; longest pause of writes {pause:.2?}, \
             longest call {call:.2?}"
        );
        // A handover, not an election after a silence: far below what a kill costs.
        assert!(pause < Duration::from_secs(2), "writes paused for {pause:?}");
        cluster.restart(number);
        cluster.wait_caught_up(number);
    }
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw errors: {:?}", &seen.errors[..seen.errors.len().min(5)]);
    let faults = check(&seen.acks, &read_back(&cluster));
    assert!(faults.is_empty(), "{} faults: {:?}", faults.len(), &faults[..faults.len().min(5)]);
    println!("{} writes, no errors, nothing lost or doubled", seen.acks.len());
}
