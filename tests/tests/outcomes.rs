//! Changes of the cluster while no majority answers: each is done, refused, or said to be unknown, and can be repeated.
//!
//! Owns: the claims about the outcomes of admin commands. Must never: take an exit code for the truth; what is there afterwards
//! is looked at.

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
