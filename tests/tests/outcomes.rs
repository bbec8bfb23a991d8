//! Changes of the cluster while no majority answers: each is done, refused, or said to be unknown, and can be repeated.
//!
//! So are writes whose client lets no outcome go.
//!
//! Owns: the claims about the outcomes of admin commands, and of writes that find no room for theirs. Must never: take an exit code for the truth; what is there afterwards
//! is looked at.

use std::time::{Duration, Instant};

use synod_client::{Client, Options, WriteName, WriteOp};
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use synod_tests::run::Ran;

const REFUSED: i32 = 1;
const UNKNOWN: i32 = 4;

fn tables(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.cli(&["-o", "json", "table", "list"]).ok().json_lines();
    listed.iter().map(|table| table["name"].as_str().expect("a name").to_owned()).collect()
}

/// The founder that leads the system shard, and the other two.
fn leader_of_all(cluster: &Cluster) -> (u16, Vec<u16>) {
    let addr = cluster.wait_up().leader_addr(1).expect("it is led");
    let (leader, others): (Vec<u16>, Vec<u16>) = (1..=3).partition(|number| cluster.addr(*number) == addr);
    (leader[0], others)
}

/// Runs a command for two seconds at most; it may end in either of two ways.
fn tried(cluster: &Cluster, args: &[&str]) -> Ran {
    let args: Vec<&str> = ["-o", "json", "--timeout", "2s"].iter().chain(args).copied().collect();
    let ran = cluster.cli(&args);
    assert!([REFUSED, UNKNOWN].contains(&ran.code), "{args:?}: exit code {}; {}", ran.code, ran.stderr);
    ran
}

#[test]
fn a_change_without_a_majority_is_unknown_and_can_be_repeated() {
    let _turn = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "old", "--partition", "hash", "--shards", "2"]).ok();
    let create = ["table", "create", "new", "--partition", "range", "--split-at", "m"];
    let (leader, others) = leader_of_all(&cluster);
    others.iter().for_each(|number| cluster.kill(*number));

    // The leader takes it, and nobody can tell whether a majority ever will.
    let first = tried(&cluster, &create);
    assert_eq!(first.code, UNKNOWN, "node {leader} leads the system shard: {}", first.stderr);
    assert_eq!(first.error()["error"], "outcome_unknown");
    assert!(first.stderr.contains("--if-not-exists"), "{}", first.stderr);
    let dropped = tried(&cluster, &["table", "drop", "old"]);
    let shard = cluster.cli(&["-o", "json", "shard", "list", "old"]).ok().json_lines()[0]["id"].to_string();
    tried(&cluster, &["shard", "transfer-leader", &shard]);
    tried(&cluster, &["node", "remove", "3"]);
    tried(&cluster, &["shard", "scrub", &shard]);

    others.iter().for_each(|number| cluster.restart(*number));
    cluster.wait_up();
    let there = tables(&cluster);
    assert!(dropped.code == UNKNOWN || there.contains(&"old".to_owned()), "refused, and done: {there:?}");
    for _ in 0..2 {
        let again: Vec<&str> = create.iter().chain(&["--if-not-exists"]).copied().collect();
        cluster.cli(&again).ok();
        cluster.cli(&["table", "drop", "old", "--if-exists"]).ok();
        assert_eq!(tables(&cluster), ["new"]);
    }
    let other = ["table", "create", "new", "--partition", "range", "--split-at", "n", "--if-not-exists"];
    cluster.cli(&other).refused(1, &["\"new\"", "split points"]);
    cluster.cli(&create).refused(1, &["exists already"]);
}

#[test]
fn a_write_that_finds_no_room_for_its_outcome_is_refused_with_the_reason() {
    let _turn = alone();
    let mut cluster = Cluster::empty(1);
    cluster.add_founder(1);
    cluster.wait_up();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "1", "--replicas", "1"]).ok();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect([cluster.addr(1)], Options::default()).await.expect("a client");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let deadline_us = (now + Duration::from_secs(300)).as_micros() as u64;
        // As a client does that never says which outcomes it needs no more.
        let name = |seq| WriteName { client: 7, seq, floor: 1, deadline_us };
        let batch = || vec![WriteOp::delete("k"); 10_000];
        let mut seq = 1;
        let refused = loop {
            match client.with_timeout(Duration::from_secs(2)).batch_as("t", name(seq), batch()).await {
                Ok(_) => seq += 1,
                Err(why) => break why,
            }
            assert!(seq < 100, "{seq} outcomes of 10,000 operations are kept of one client");
        };
        println!("write {seq}: {refused}");
        let said = refused.to_string();
        assert_eq!((refused.code(), refused.retryable()), ("overloaded", true), "nothing was proposed: {said}");
        assert!(said.contains("4194304") && said.contains("id.floor"), "{said}");
        // Others have room, at once; and so has this one once it lets something go.
        let began = Instant::now();
        client.put("t", "other", "1").await.expect("a client of its own");
        assert!(began.elapsed() < Duration::from_secs(1), "it waited {:?}", began.elapsed());
        let name = WriteName { floor: seq, ..name(seq) };
        client.batch_as("t", name, batch()).await.expect("there is room again");
    });
}
