//! Clusters that grow: replicas and leaderships are spread by `synod rebalance`.
//!
//! Owns: the claims of `synod rebalance` and of zones on the real binary. Must never: take a cluster for balanced by what a plan predicts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::load::{Load, verify};
use synod_tests::run::{Ran, until};

const CALLS: Duration = Duration::from_secs(30);

/// Waits until these nodes, which were just started, are up, and all shards are led.
#[track_caller]
fn wait_joined(cluster: &Cluster, numbers: &[u16]) {
    cluster.wait_status("the joiners are up, all shards are led", |status| {
        status.is_led() && numbers.iter().all(|number| status.state(&cluster.addr(*number)) == Some("up"))
    });
}

fn plan(cluster: &Cluster, args: &[&str]) -> Value {
    cluster.json(&[&["rebalance", "plan"], args].concat())
}

fn operations(plan: &Value) -> &Vec<Value> {
    plan["operations"].as_array().expect("operations")
}

/// Waits until a plan has operations: nodes have to hear of each other and to measure first.
#[track_caller]
fn wait_plan(cluster: &Cluster, args: &[&str]) -> Value {
    let mut last = Value::Null;
    let found = until(PATIENCE, "something is planned, and every node has answered", || {
        last = plan(cluster, args);
        (!operations(&last).is_empty() && last["silent"] == json!([])).then(|| last.clone())
    });
    found.unwrap_or_else(|why| panic!("{why}; last: {last}"))
}

/// Plans and applies until nothing is left to do.
#[track_caller]
fn balance(cluster: &Cluster, by: &str) {
    let apply = ["-o", "json", "--timeout", "60s", "rebalance", "apply", "--yes", "--by", by];
    let done = until(4 * PATIENCE, "nothing is left to do", || {
        let ran = cluster.cli(&apply);
        // What is not done at the first try is planned anew.
        assert!(ran.code == 0 || ran.code == 1, "{ran:?}");
        std::thread::sleep(Duration::from_secs(1));
        operations(&plan(cluster, &["--by", by])).is_empty().then_some(())
    });
    done.unwrap_or_else(|why| panic!("{why}: {}", plan(cluster, &["--by", by])));
}

/// The nodes that hold a replica of each shard.
fn members(status: &Status) -> BTreeMap<u64, BTreeSet<u64>> {
    let of = |shard: &Value| {
        let replicas = shard["replicas"].as_array().expect("replicas").iter();
        let nodes = replicas.map(|replica| replica["node"].as_u64().expect("a number")).collect();
        (shard["id"].as_u64().expect("a number"), nodes)
    };
    status.shards().iter().map(of).collect()
}

/// How many replicas each node has, and how many shards it leads.
fn held(status: &Status) -> BTreeMap<u64, (u64, u64)> {
    let nodes = status.value["nodes"].as_array().expect("nodes").iter();
    let count = |node: &Value, name: &str| node[name].as_u64().expect("a count");
    nodes.map(|node| (count(node, "id"), (count(node, "replicas"), count(node, "leaders")))).collect()
}

/// What ended with code 1 has said on standard output what came of it.
fn outcome(ran: &Ran) -> Value {
    assert_eq!(ran.code, 1, "{ran:?}");
    let lines = ran.json_lines();
    lines.into_iter().next().unwrap_or_else(|| panic!("it says nothing: {ran:?}"))
}

#[test]
fn two_nodes_join_and_get_their_part_under_writers() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "12", "--retain", "all"]).ok();
    let load = Load::start(&cluster, 4, CALLS);
    load.wait_flowing(PATIENCE);
    cluster.add_joiner(4);
    cluster.add_joiner(5);
    wait_joined(&cluster, &[4, 5]);

    let first = wait_plan(&cluster, &["--by", "replicas"]);
    assert!(first["before"]["replicas_percent"].as_u64() > first["after"]["replicas_percent"].as_u64(), "{first}");
    let operation = &operations(&first)[0];
    for field in ["shard", "version", "epoch", "rule", "why", "change", "predicted"] {
        assert!(!operation[field].is_null(), "{field}: {operation}");
    }
    let text = cluster.cli(&["rebalance", "plan"]).ok().stdout;
    assert!(text.contains("operations: ") && text.contains("most replicas, of the mean"), "{text}");
    assert!(held(&cluster.status().expect("a status"))[&4] == (0, 0), "nothing was changed");

    balance(&cluster, "replicas");
    balance(&cluster, "leaders");
    // 17 shards with three replicas each on five nodes.
    let even = |status: &Status| {
        let held = held(status);
        let spread = held.values().all(|(replicas, leads)| (8..=13).contains(replicas) && (1..=6).contains(leads));
        status.is_led() && held.len() == 5 && spread
    };
    let status = cluster.wait_status("replicas and leaderships are even", even);
    assert!(members(&status).values().all(|nodes| nodes.len() == 3), "{:?}", members(&status));

    let shown = cluster.json(&["rebalance", "status"]);
    assert!(shown["now"]["replicas_percent"].as_u64().is_some_and(|percent| percent <= 130), "{shown}");
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    verify(&cluster, &seen.acks);
}

#[test]
fn a_plan_that_was_kept_passes_over_what_has_changed_since() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "12", "--retain", "all"]).ok();
    cluster.add_joiner(4);
    wait_joined(&cluster, &[4]);
    let kept = wait_plan(&cluster, &["--by", "replicas", "--table", "t"]);
    let moves: Vec<&Value> = operations(&kept).iter().filter(|operation| operation["change"] == "move").collect();
    assert!(moves.len() > 1 && moves.iter().all(|moved| moved["table"] == "t"), "{kept}");
    let file = cluster.dir().join("plan.json");
    fs::write(&file, kept.to_string()).expect("a file in the temporary directory");
    let file = file.display().to_string();

    // An operator moves one of them by hand.
    let [shard, from, to] = ["shard", "from", "to"].map(|name| moves[0][name].to_string());
    cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", &from, "--to", &to]).ok();
    let ran = cluster.cli(&["-o", "json", "--timeout", "60s", "rebalance", "apply", &file]);
    let came = outcome(&ran);
    let stale = came["stale"].as_array().expect("a list");
    assert_eq!(
        stale.iter().map(|stale| stale["shard"].to_string()).collect::<Vec<_>>(),
        std::slice::from_ref(&shard),
        "{came}"
    );
    assert!(stale[0]["why"].as_str().is_some_and(|why| why.contains("members")), "{came}");
    assert_eq!(came["done"].as_u64(), came["operations"].as_u64().map(|all| all - 1), "{came}");
    assert!(ran.stderr.contains("not_all_done"), "{}", ran.stderr);

    // By now all of it is stale: nothing happens.
    let before = members(&cluster.wait_status("all shards are led", Status::is_led));
    let again = outcome(&cluster.cli(&["-o", "json", "rebalance", "apply", &file]));
    assert_eq!(again["done"].as_u64().map(|done| done + again["stale"].as_array().map_or(0, Vec::len) as u64), {
        again["operations"].as_u64()
    });
    assert_eq!(members(&cluster.wait_status("all shards are led", Status::is_led)), before);
}

#[test]
fn what_cannot_be_used_is_refused_in_one_line_and_changes_nothing() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "6", "--retain", "all"]).ok();
    cluster.add_joiner(4);
    wait_joined(&cluster, &[4]);
    let good = wait_plan(&cluster, &[]);
    let before = members(&cluster.wait_status("all shards are led", Status::is_led));

    cluster.cli(&["rebalance", "plan", "--table", "nope"]).refused(1, &["nope", "does not exist"]);
    cluster.cli(&["rebalance", "plan", "--by", "whim"]).refused(2, &["whim"]);
    cluster.cli(&["rebalance", "plan", "--max-concurrent", "65"]).refused(2, &["65"]);
    cluster.cli(&["rebalance", "apply"]).refused(2, &["--yes"]);
    cluster.cli(&["rebalance", "apply", "no-such-file"]).refused(1, &["no-such-file"]);
    let with = |text: &str, code: i32, words: &[&str]| {
        let file = cluster.dir().join("plan.json");
        fs::write(&file, text).expect("a file in the temporary directory");
        cluster.cli(&["rebalance", "apply", &file.display().to_string()]).refused(code, words);
    };
    let whole = good.to_string();
    with("", 2, &["is no plan"]);
    with(&whole[..whole.len() / 2], 2, &["is no plan"]);
    let bent = |bend: fn(&mut Value)| {
        let mut bent = good.clone();
        bend(&mut bent);
        bent.to_string()
    };
    with(&bent(|plan| plan["operations"][0]["change"] = "merge".into()), 2, &["is no plan", "merge"]);
    with(&bent(|plan| plan["operations"][0]["epoch"] = 0.into()), 2, &["operation 1", "epoch"]);
    with(&bent(|plan| plan["format"] = 9.into()), 2, &["format 9"]);
    with(&bent(|plan| plan["cluster"] = "0".repeat(32).into()), 2, &["nothing was changed"]);
    assert_eq!(members(&cluster.wait_status("all shards are led", Status::is_led)), before);
    let jobs = cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines();
    assert!(jobs.is_empty(), "{jobs:?}");
    for wish in ["pause", "resume", "cancel"] {
        assert_eq!(cluster.json(&["rebalance", wish]), json!({"jobs": []}));
    }
}

#[test]
fn replicas_are_spread_over_zones_before_they_are_spread_evenly() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "6", "--retain", "all"]).ok();
    for (number, zone) in [(1, "a"), (2, "b"), (3, "b")] {
        cluster.stop(number);
        cluster.restart_with(number, &["--zone", zone, "--rack", "r1"]);
        cluster.wait_up();
    }
    cluster.add_joiner_with(4, &["--zone", "c"]);
    wait_joined(&cluster, &[4]);
    let zones = |cluster: &Cluster| -> Vec<Value> {
        let listed = cluster.cli(&["-o", "json", "node", "list"]).ok().json_lines();
        listed.into_iter().map(|node| node["zone"].clone()).collect()
    };
    let known = until(PATIENCE, "all zones are known", || (zones(&cluster) == ["a", "b", "b", "c"]).then_some(()));
    known.unwrap_or_else(|why| panic!("{why}: {:?}", zones(&cluster)));
    let status = cluster.status().expect("a status");
    assert_eq!(
        status.node(&cluster.addr(2)).map(|node| (&node["zone"], &node["rack"])),
        Some((&json!("b"), &json!("r1")))
    );

    let planned = wait_plan(&cluster, &[]);
    assert_eq!(
        (&planned["before"]["zone_pairs"], &planned["after"]["zone_pairs"]),
        (&json!(7), &json!(0)),
        "{planned}"
    );
    assert_eq!(operations(&planned)[0]["rule"], "zone", "{planned}");
    balance(&cluster, "replicas");
    let apart = |status: &Status| {
        let together = |nodes: &BTreeSet<u64>| nodes.contains(&2) && nodes.contains(&3);
        status.is_led() && !members(status).values().any(together)
    };
    let status = cluster.wait_status("no shard has two replicas in zone b", apart);
    assert!(members(&status).values().all(|nodes| nodes.len() == 3), "{:?}", members(&status));

    // Where a node ran is known while it is down, to those that were up with it.
    cluster.kill(3);
    let known = until(PATIENCE, "the zone of node 3 is known still", || {
        (zones(&cluster).get(2) == Some(&json!("b"))).then_some(())
    });
    known.unwrap_or_else(|why| panic!("{why}: {:?}", zones(&cluster)));
}
