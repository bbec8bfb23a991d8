//! Nodes that are drained, decommissioned and taken back, and jobs that pause.
//!
//! Owns: the claims of `synod node drain`, `decommission` and `recommission`, and of `synod job pause`. Must never: take a node for empty
//! that the map gives a replica, or for gone while the map has it.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::http::metric;
use synod_tests::load::{Load, verify};
use synod_tests::run::until;

const CALLS: Duration = Duration::from_secs(30);
/// Enough shards that a node which is emptied one replica at a time has some left for a while.
const SHARDS: u64 = 24;

/// A fourth node joins.
fn join(cluster: &mut Cluster) -> Status {
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    cluster.wait_status("the joiner is up, all shards are led", |status| {
        status.state(&joined) == Some("up") && status.id(&joined) == Some(4) && status.is_led()
    })
}

/// Three nodes with a table of many shards and a record in each of many keys, and a fourth node that has joined.
fn prepared() -> Cluster {
    let mut cluster = Cluster::start();
    let shards = SHARDS.to_string();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", &shards, "--retain", "all"]).ok();
    for key in 0..40 {
        cluster.cli(&["append", "t", &format!("key-{key}"), "a value"]).ok();
    }
    join(&mut cluster);
    cluster
}

fn records(cluster: &Cluster) -> usize {
    let scanned = until(PATIENCE, "the table can be scanned", || {
        let ran = cluster.cli(&["-o", "json", "scan", "t"]);
        (ran.code == 0).then(|| ran.json_lines().len())
    });
    scanned.expect("a scan")
}

/// The mark of each node and the replicas that it has, by the map.
fn nodes(cluster: &Cluster) -> BTreeMap<u64, (String, u64)> {
    let listed = cluster.cli(&["-o", "json", "node", "list"]).ok().json_lines();
    let node = |node: &Value| {
        let mark = node["mark"].as_str().expect("a mark").to_owned();
        (node["id"].as_u64().expect("an id"), (mark, node["replicas"].as_u64().expect("a count")))
    };
    listed.iter().map(node).collect()
}

fn held(cluster: &Cluster, node: u64) -> u64 {
    nodes(cluster).get(&node).map_or(0, |(_, replicas)| *replicas)
}

/// Waits until the map that is asked for says so: each node hears of a change by itself.
#[track_caller]
fn wait_nodes(cluster: &Cluster, what: &str, wanted: impl Fn(&BTreeMap<u64, (String, u64)>) -> bool) {
    let mut last = BTreeMap::new();
    let found = until(PATIENCE, what, || {
        last = nodes(cluster);
        wanted(&last).then_some(())
    });
    found.unwrap_or_else(|why| panic!("{why}; last: {last:?}"));
}

#[track_caller]
fn wait_node(cluster: &Cluster, node: u64, mark: &str, replicas: u64) {
    let wanted = Some((mark.to_owned(), replicas));
    wait_nodes(cluster, &format!("node {node} is {mark} with {replicas} replicas"), |nodes| {
        nodes.get(&node).cloned() == wanted
    });
}

/// Waits until node 3 is out of the map. Its process, which is not needed then, may know an older one: it goes first.
#[track_caller]
fn wait_without_3(cluster: &mut Cluster) {
    if cluster.runs(3) {
        cluster.kill(3);
    }
    wait_nodes(cluster, "nodes 1, 2 and 4 are left", |nodes| nodes.keys().copied().eq([1, 2, 4]));
}

fn jobs(cluster: &Cluster) -> Vec<Value> {
    cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines()
}

fn moves(cluster: &Cluster, state: &str) -> usize {
    jobs(cluster).iter().filter(|job| job["kind"] == "move_replica" && job["state"] == state).count()
}

/// Waits until no move is under way.
fn wait_moves(cluster: &Cluster) {
    until(PATIENCE, "no move is under way", || (moves(cluster, "running") == 0).then_some(())).unwrap();
    // Each node hears of the last one by itself.
    sleep(Duration::from_millis(500));
}

fn job(cluster: &Cluster, id: &str) -> Value {
    let found = jobs(cluster).into_iter().find(|job| job["id"].as_u64() == id.parse().ok());
    found.unwrap_or_else(|| panic!("there is no job {id}"))
}

#[test]
fn a_node_is_decommissioned_under_load() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4, CALLS);
    load.wait_flowing(PATIENCE);
    join(&mut cluster);

    // What would be done: the one node that has none of them gets all.
    let plan = until(PATIENCE, "node 4 is known to live", || {
        let plan = cluster.json(&["node", "decommission", "3", "--dry-run"]);
        (plan["refused"] == json!([])).then_some(plan)
    });
    let plan = plan.unwrap_or_else(|why| panic!("{why}"));
    let planned = plan["moves"].as_array().expect("moves");
    assert_eq!(planned.len(), 5, "four shards of the table and the cluster's own: {plan}");
    assert!(planned.iter().all(|leaves| leaves["to"] == 4 && leaves["why"] == "node 3 is being emptied"), "{plan}");
    assert_eq!(planned[0]["table"], Value::Null, "the cluster's own shard has no table: {plan}");
    assert_eq!(plan["replicas"][2], json!({"node": 3, "before": 5, "after": 0}), "{plan}");
    assert_eq!(plan["replicas"][3], json!({"node": 4, "before": 0, "after": 5}), "{plan}");
    let text = cluster.cli(&["node", "decommission", "3", "--dry-run"]).ok().stdout;
    assert!(text.contains("replicas that would leave node 3: 5") && text.contains("(system)"), "{text}");
    assert!(jobs(&cluster).is_empty() && nodes(&cluster)[&3] == ("in_use".to_owned(), 5), "nothing was changed");

    let began = Instant::now();
    let done = cluster.json(&["--timeout", "60s", "node", "decommission", "3", "--max-concurrent", "4"]);
    let took = began.elapsed();
    assert_eq!(done, json!({"node": 3, "job": 1, "removed": true}));
    wait_without_3(&mut cluster);
    wait_node(&cluster, 4, "in_use", 5);
    let ended = jobs(&cluster);
    assert!(ended.len() == 6 && ended.iter().all(|job| job["state"] == "done"), "{ended:?}");
    cluster.cli(&["node", "decommission", "3"]).refused(2, &["there is no node 3"]);
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let stored = verify(&cluster, &seen.acks);
    println!("decommissioned in {took:.2?}; {stored} records");
}

#[test]
fn a_decommission_goes_on_after_the_node_that_carries_it_out_is_killed() {
    let _alone = alone();
    let mut cluster = prepared();
    let begun = cluster.json(&["node", "decommission", "3", "--max-concurrent", "1", "--detach"]);
    assert_eq!((&begun["node"], &begun["removed"]), (&3.into(), &false.into()), "{begun}");
    let id = begun["job"].to_string();
    until(PATIENCE, "a replica has left", || (moves(&cluster, "done") > 0).then_some(())).unwrap();
    let carrier = |status: &Status| {
        let shards = status.value["shards"].as_array()?;
        shards.iter().find(|shard| shard["id"] == 1)?["leader"].as_u64()
    };
    let status = cluster.wait_status("the system shard is led", |status| carrier(status).is_some());
    let killed = u16::try_from(carrier(&status).expect("it is led")).expect("small");
    cluster.kill(killed);
    until(PATIENCE, "another carries it out", || {
        let ran = cluster.cli(&["-o", "json", "job", "list"]);
        (ran.code == 0).then_some(())
    })
    .unwrap();
    // The node that is emptied is not needed for that. Of the others three are.
    if killed != 3 {
        cluster.restart(killed);
    }
    let watched = cluster.cli(&["--timeout", "120s", "job", "watch", &id]).ok();
    assert!(watched.stdout.contains("is done: it empties node 3 and takes it out of the cluster"), "{watched:?}");
    assert!(watched.stderr.contains("node 3: replicas left:"), "{watched:?}");
    wait_without_3(&mut cluster);
    assert_eq!(records(&cluster), 40);
}

#[test]
fn a_job_pauses_goes_on_and_is_cancelled_in_the_middle() {
    let _alone = alone();
    let mut cluster = prepared();
    let before = held(&cluster, 3);
    assert_eq!(before, SHARDS + 1);
    let begun = cluster.json(&["node", "decommission", "3", "--max-concurrent", "1", "--detach"]);
    let id = begun["job"].to_string();
    until(PATIENCE, "a replica has left", || (moves(&cluster, "done") > 0).then_some(())).unwrap();

    let paused = cluster.json(&["job", "pause", &id]);
    assert_eq!((&paused["state"], &paused["kind"]), (&"paused".into(), &"empty_node".into()), "{paused}");
    // The move that is under way is a job of its own, and ends.
    wait_moves(&cluster);
    let left = held(&cluster, 3);
    assert!(left > 0 && left < before, "{left} of {before} are left");
    sleep(Duration::from_secs(2));
    assert_eq!((held(&cluster, 3), moves(&cluster, "running")), (left, 0), "nothing is done for a job that pauses");
    wait_node(&cluster, 3, "decommissioning", left);
    let words = [&format!("job {id}")[..], "it empties node 3", "already, and is paused", "synod job resume"];
    cluster.cli(&["node", "drain", "3"]).refused(1, &words);
    assert!(cluster.cli(&["status"]).ok().stdout.contains(&format!("job {id} paused: node 3 is emptied")));

    assert_eq!(cluster.json(&["job", "resume", &id])["state"], "running");
    until(PATIENCE, "a further replica has left", || (held(&cluster, 3) < left).then_some(())).unwrap();
    let cancelled = cluster.json(&["job", "cancel", &id]);
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    wait_moves(&cluster);
    let kept = held(&cluster, 3);
    assert!(kept > 0, "it was cancelled in the middle");
    sleep(Duration::from_secs(2));
    assert_eq!(nodes(&cluster)[&3], ("in_use".to_owned(), kept), "what has left stays away, the rest stays");
    assert_eq!(job(&cluster, &id)["state"], "cancelled");
    cluster.cli(&["job", "pause", &id]).refused(1, &["it has ended already: cancelled"]);
    assert_eq!(records(&cluster), 40);

    // Begun anew it goes to the end.
    let done = cluster.json(&["--timeout", "120s", "node", "decommission", "3", "--max-concurrent", "4"]);
    assert_eq!(done["removed"], true, "{done}");
    wait_without_3(&mut cluster);
    assert_eq!(records(&cluster), 40);
}

#[test]
fn a_drained_node_gets_nothing_until_it_is_recommissioned() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    for key in 0..20 {
        cluster.cli(&["append", "t", &format!("key-{key}"), "a value"]).ok();
    }
    let missing = ["node 3 cannot be emptied", "the system shard keeps 3 replicas", "nodes missing: 1"];
    cluster.cli(&["node", "drain", "3"]).refused(2, &missing);
    cluster.cli(&["node", "drain", "3", "--dry-run"]).refused(2, &missing);
    cluster.cli(&["node", "drain", "9"]).refused(2, &["there is no node 9"]);
    cluster.cli(&["node", "recommission", "9"]).refused(2, &["there is no node 9"]);
    for nonsense in ["x", "-1", ""] {
        assert_eq!(cluster.cli(&["node", "drain", nonsense]).code, 2, "{nonsense:?}");
    }
    assert!(jobs(&cluster).is_empty(), "nothing has begun");

    join(&mut cluster);
    let drained = cluster.cli(&["--timeout", "60s", "node", "drain", "3", "--wait"]).ok();
    assert!(drained.stdout.contains("`synod node recommission 3`"), "{drained:?}");
    wait_node(&cluster, 3, "draining", 0);
    assert_eq!(records(&cluster), 20);
    cluster.cli(&["node", "drain", "3"]).refused(2, &["node 3 is draining already", "synod node recommission 3"]);
    let wide = ["table", "create", "wide", "--partition", "hash", "--shards", "1", "--replicas", "4"];
    cluster.cli(&wide).refused(2, &["4 replicas need as many nodes, the cluster has 3 beside 1 that are emptied"]);
    cluster.cli(&["table", "create", "u", "--partition", "hash", "--shards", "4"]).ok();
    assert_eq!(held(&cluster, 3), 0, "a new table is placed elsewhere");
    let status = cluster.wait_status("all shards are led", Status::is_led);
    let shard = status.shards_of("t")[0]["id"].as_u64().expect("a shard").to_string();
    let back = ["shard", "move", &shard, "--from", "1", "--to", "3"];
    cluster.cli(&back).refused(2, &["node 3 is being emptied and takes no replica"]);

    let taken = cluster.json(&["node", "recommission", "3"]);
    assert_eq!(taken, json!({"node": 3, "mark": "in_use"}));
    cluster.cli(&["node", "recommission", "3"]).ok();
    cluster.cli(&wide).ok();
    wait_node(&cluster, 3, "in_use", 1);
    cluster.json(&[&["--timeout", "60s"][..], &back].concat());
    assert_eq!(records(&cluster), 20);
    // With a table on all four nodes none of them can go, and the table is named.
    let words = ["table \"wide\" keeps 4 replicas, and 3 nodes would be left", "nodes missing: 1"];
    cluster.cli(&["node", "decommission", "2"]).refused(2, &words);
    // Recommissioned while it is emptied, its job ends.
    cluster.cli(&["table", "drop", "wide"]).ok();
    let begun = cluster.json(&["node", "decommission", "2", "--max-concurrent", "1", "--detach"]);
    let id = begun["job"].to_string();
    cluster.json(&["node", "recommission", "2"]);
    assert_eq!(job(&cluster, &id)["state"], "cancelled");
    wait_nodes(&cluster, "node 2 is in use", |nodes| nodes[&2].0 == "in_use");
}

#[test]
fn below_the_fourth_version_no_node_is_emptied() {
    let _alone = alone();
    let cluster = Cluster::start_with("[cluster]\nversion_max = 3\n");
    for command in [["node", "drain", "3"], ["node", "decommission", "3"], ["node", "recommission", "3"]] {
        cluster.cli(&command).refused(1, &["the cluster is at version 3, this needs 4: `synod cluster upgrade`"]);
    }
    assert_eq!(nodes(&cluster).len(), 3);
}

#[test]
fn what_a_node_that_stays_dead_had_is_rebuilt_on_others() {
    let _alone = alone();
    let mut cluster = Cluster::start_with("[balance]\ndead_grace = \"4s\"\n");
    let load = Load::start(&cluster, 4, CALLS);
    load.wait_flowing(PATIENCE);
    join(&mut cluster);

    // One that comes back in time keeps what it has.
    cluster.kill(3);
    cluster.restart(3);
    let lost = cluster.addr(3);
    cluster.wait_status("node 3 is back", |status| status.state(&lost) == Some("up") && status.is_led());
    sleep(Duration::from_secs(6));
    assert!(jobs(&cluster).is_empty(), "{:?}", jobs(&cluster));
    assert_eq!((held(&cluster, 3), held(&cluster, 4)), (5, 0));

    cluster.kill(3);
    wait_nodes(&cluster, "node 4 has all that node 3 had", |nodes| {
        let has = |node| nodes.get(&node).map(|(_, replicas)| *replicas);
        (has(3), has(4)) == (Some(0), Some(5))
    });
    wait_moves(&cluster);
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    let begun: f64 =
        [1, 2, 4].iter().filter_map(|node| metric(&cluster.http(*node), "synod_repairs_begun_total")).sum();
    assert!(begun >= 5.0, "{begun}");
    assert!([1, 2, 4].iter().any(|node| cluster.log(*node).contains("node 3 is dead for 4s")));

    // One more may be lost now.
    let stored = verify(&cluster, &seen.acks);
    cluster.kill(1);
    assert_eq!(verify(&cluster, &seen.acks), stored);
}
