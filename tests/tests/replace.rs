//! A node that is lost for good: another takes its place, under load, and what it held is complete.
//!
//! Owns: the claims about moving replicas. Must never: take a node for a full replacement whose own copy was not read.

use std::thread::sleep;
use std::time::{Duration, Instant};

use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::http::get;
use synod_tests::load::{Load, TABLE, verify};
use synod_tests::run::until;

const CALLS: Duration = Duration::from_secs(30);
/// Writes may pause for so long while members change; mostly it is a few milliseconds.
const PAUSE: Duration = Duration::from_secs(2);

/// Makes a node lead every shard of the load's table, so that reads show its own copy.
#[track_caller]
fn lead_all(cluster: &Cluster, id: u64) {
    let found = until(PATIENCE, "the node leads every shard", || {
        let status = cluster.status()?;
        let others: Vec<u64> = status
            .shards_of(TABLE)
            .into_iter()
            .filter(|shard| shard["leader"].as_u64() != Some(id))
            .filter_map(|shard| shard["id"].as_u64())
            .collect();
        for shard in &others {
            // Refused while an earlier attempt is under way.
            cluster.cli(&["shard", "transfer-leader", &shard.to_string(), "--to", &id.to_string()]);
        }
        others.is_empty().then_some(())
    });
    found.unwrap_or_else(|why| panic!("{why}"));
}

fn replicas(status: &Status, addr: &str) -> Option<u64> {
    status.node(addr)?["replicas"].as_u64()
}

#[test]
fn a_lost_node_is_replaced_under_load() {
    let _alone = alone();
    // Logs that keep little, so that the new member cannot live from the log alone.
    let mut cluster = Cluster::start_with("[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n");
    let load = Load::start(&cluster, 4, CALLS);
    load.wait_flowing(PATIENCE);
    cluster.cli(&["node", "replace", "3", "--with", "4"]).refused(2, &["--with", "there is no node 4"]);
    cluster.cli(&["node", "remove", "3"]).refused(2, &["node 3 is a member of", "synod node replace"]);
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    cluster.wait_status("the new node is there", |status| status.state(&joined) == Some("up"));

    cluster.kill(3);
    let began = Instant::now();
    load.wait_flowing(PATIENCE);
    let out = cluster.cli(&["--timeout", "60s", "node", "replace", "3", "--with", "4"]).ok();
    let took = began.elapsed();
    assert!(out.stdout.contains("are on node 4 now"), "{}", out.stdout);
    // The same again has nothing to do.
    cluster.cli(&["node", "replace", "3", "--with", "4"]).ok();
    cluster.cli(&["node", "remove", "3"]).ok();
    let again = cluster.cli(&["node", "remove", "3"]).ok().stdout;
    assert_eq!(again, "node 3 is not in the cluster (removed already, or never added)\n", "it can be repeated");
    assert_eq!(cluster.json(&["node", "remove", "99"]), serde_json::json!({"removed": 99, "was_there": false}));
    let gone = cluster.addr(3);
    let status = cluster.wait_status("the lost node is no more", |status| status.node(&gone).is_none());
    assert!(replicas(&status, &joined) >= Some(5), "the tables' shards and the system's: {:?}", status.node(&joined));
    sleep(Duration::from_millis(500));
    load.wait_flowing(PATIENCE);
    let (pause, call) = load.so_far(|seen| seen.pause(began + Duration::from_secs(1), Instant::now()));
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());
    assert!(pause < PAUSE, "writes paused for {pause:?} while members changed");

    // With another of the old nodes gone the new one is needed, and what it leads is its own copy.
    let stored = verify(&cluster, &seen.acks);
    lead_all(&cluster, 4);
    assert_eq!(verify(&cluster, &seen.acks), stored, "the new node has all of it");
    cluster.kill(1);
    assert_eq!(verify(&cluster, &seen.acks), stored);
    cluster.restart(1);
    println!("replaced in {took:.2?}; longest pause {pause:.2?}, longest call {call:.2?}; {stored} records");

    // Moved away and back: a node that held a replica before begins anew.
    cluster.wait_status("all are led", |status| status.is_led() && status.state(&cluster.addr(1)) == Some("up"));
    let shard =
        cluster.status().and_then(|status| status.shards_of(TABLE)[0]["id"].as_u64()).expect("a shard").to_string();
    cluster.cli(&["shard", "move", &shard, "--from", "1", "--to", "2"]).refused(2, &["has a replica", "already"]);
    cluster.cli(&["shard", "move", &shard, "--from", "9", "--to", "1"]).refused(2, &["--from", "there is no node 9"]);
    cluster.cli(&["shard", "move", "99", "--from", "1", "--to", "2"]).refused(1, &["shard 99 does not exist"]);
    cluster.add_joiner(5);
    let spare = cluster.addr(5);
    let status = cluster.wait_status("a spare node", |status| status.state(&spare) == Some("up"));
    let id = status.id(&spare).expect("an id").to_string();
    cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", "1", "--to", &id]).ok();
    cluster.cli(&["--timeout", "60s", "shard", "move", &shard, "--from", &id, "--to", "1"]).ok();
    lead_all(&cluster, 1);
    assert_eq!(verify(&cluster, &seen.acks), stored, "what came back is complete");
}

/// A node that joined later has no replica of the system shard: what it knows of the cluster it has from others, who send only
/// what is newer than what it knows.
#[test]
fn a_joiner_that_was_restarted_knows_the_map_and_changes_members() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "1"]).ok();
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    let status = cluster.wait_status("the joiner is there", |status| status.state(&joined) == Some("up"));
    let shard = status.shards_of(TABLE)[0]["id"].as_u64().expect("a shard").to_string();
    let joiner = status.id(&joined).expect("an id");
    cluster.cli(&["--timeout", "30s", "shard", "move", &shard, "--from", "3", "--to", &joiner.to_string()]).ok();
    cluster.kill(4);
    cluster.restart(4);
    cluster.wait_status("the joiner is back", |status| status.state(&joined) == Some("up"));
    lead_all(&cluster, joiner);
    // Its leader must know the map for that: it says no otherwise, for as long as nothing else changes the map.
    cluster.cli(&["--timeout", "30s", "shard", "move", &shard, "--from", "1", "--to", "3"]).ok();
}

/// Two operators move replicas of one shard to the same node at once: one gets it, the other is told, and the group has as many
/// voters as before.
#[test]
fn two_moves_to_one_node_at_once_leave_the_group_its_voters() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "4"]).ok();
    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    let status = cluster.wait_status("the joiner is there", |status| status.state(&joined) == Some("up"));
    let joiner = status.id(&joined).expect("an id");
    let ids: Vec<String> =
        status.shards_of(TABLE).iter().map(|shard| shard["id"].as_u64().expect("an id").to_string()).collect();
    let to = joiner.to_string();
    for shard in &ids {
        let run = |from| cluster.cli(&["--timeout", "60s", "shard", "move", shard, "--from", from, "--to", &to]);
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| run("1"));
            let other = scope.spawn(|| run("2"));
            (one.join().expect("it ran"), other.join().expect("it ran"))
        });
        let members = members(&cluster, shard);
        assert_eq!(members.len(), 3, "{members:?}; one said {one:?}, the other {other:?}");
        assert!(members.contains(&joiner) && members.contains(&3), "{members:?}");
        let (done, refused) = if one.code == 0 { (one, other) } else { (other, one) };
        done.ok();
        // Late in a move: another was first. At its beginning: the node has a replica already.
        assert_ne!(refused.code, 0, "both took one place: {refused:?}");
        assert!(refused.stderr.contains("keeps its own") || refused.stderr.contains("already"), "{refused:?}");
    }
}

/// Commands that find what they ask for, or that name what there is not.
#[test]
fn what_is_so_already_is_done_and_what_is_not_there_is_named() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "1"]).ok();
    let status = cluster.wait_status("all are led", Status::is_led);
    let shard = status.shards_of(TABLE)[0]["id"].as_u64().expect("a shard").to_string();
    lead_all(&cluster, 2);
    let again = cluster.cli(&["shard", "transfer-leader", &shard, "--to", "2"]).ok().stdout;
    assert_eq!(again, format!("node 2 leads shard {shard} already\n"));
    cluster.cli(&["shard", "transfer-leader", &shard, "--to", "9"]).refused(2, &["node 9"]);
    cluster.cli(&["node", "replace", "9", "--with", "1"]).refused(2, &["there is no node 9"]);

    cluster.add_joiner(4);
    let joined = cluster.addr(4);
    cluster.wait_status("the new node is there", |status| status.state(&joined) == Some("up"));
    let moved = cluster.cli(&["--timeout", "60s", "node", "replace", "3", "--with", "4"]).ok();
    for words in ["node 4 added as a learner", "node 4 replaces node 3 as a voter"] {
        assert!(moved.stderr.contains(words), "{}", moved.stderr);
    }
    assert!(!moved.stderr.contains("Learn(") && !moved.stderr.contains("Promote"), "{}", moved.stderr);
    cluster.cli(&["node", "replace", "3", "--with", "4"]).ok();

    // The process of a node that was removed says so.
    cluster.cli(&["node", "remove", "3"]).ok();
    cluster.cli(&["node", "replace", "3", "--with", "4"]).refused(2, &["there is no node 3"]);
    let words = "node 3 was removed from the cluster";
    let told = until(PATIENCE, "a removed node is not ready", || {
        get(&cluster.http(3), "/readyz").filter(|(code, page)| *code == 503 && page.contains(words))
    });
    told.unwrap_or_else(|why| panic!("{why}: {:?}", get(&cluster.http(3), "/readyz")));
    let log = cluster.log(3);
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(words)), "{log}");
}

/// The members of a shard; none is left that only learns.
fn members(cluster: &Cluster, shard: &str) -> Vec<u64> {
    let status = cluster.wait_status("a status", |_| true);
    let shards = status.shards_of(TABLE);
    let found = shards.iter().find(|info| info["id"].as_u64().is_some_and(|id| id.to_string() == shard));
    let replicas = found.and_then(|info| info["replicas"].as_array()).expect("the shard's replicas");
    replicas.iter().map(|replica| replica["node"].as_u64().expect("an id")).collect()
}

/// The ids of the nodes, by the map of who is asked.
fn ids(cluster: &Cluster) -> Vec<u64> {
    let ran = cluster.cli(&["-o", "json", "node", "list"]);
    ran.json_lines().iter().filter_map(|node| node["id"].as_u64()).collect()
}

/// The flags of a node that joins nodes 1 and 2 in the place of another.
fn instead_of<'a>(seeds: &'a str, lost: &'a str) -> [&'a str; 4] {
    ["--join", seeds, "--replace", lost]
}

#[test]
fn a_node_whose_disk_is_lost_is_replaced_at_its_own_address_by_one_command() {
    let _alone = alone();
    let mut cluster = Cluster::start_with("[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n");
    let load = Load::start(&cluster, 4, CALLS);
    load.wait_flowing(PATIENCE);
    cluster.kill(3);
    load.wait_flowing(PATIENCE);
    std::fs::remove_dir_all(cluster.data_dir(3)).expect("its disk is lost");
    let seeds = format!("{},{}", cluster.addr(1), cluster.addr(2));
    cluster.restart_with(3, &instead_of(&seeds, "3"));
    let addr = cluster.addr(3);
    cluster.wait_status("node 4 has the address of node 3 and all its replicas", |status| {
        status.id(&addr) == Some(4) && status.state(&addr) == Some("up") && replicas(status, &addr) >= Some(5)
    });
    let found = until(PATIENCE, "node 3 is out of the map", || (ids(&cluster) == [1, 2, 4]).then_some(()));
    found.unwrap_or_else(|why| panic!("{why}; {:?}", ids(&cluster)));
    load.wait_flowing(PATIENCE);
    let seen = load.stop();
    assert!(seen.errors.is_empty(), "clients saw {} errors: {:?}", seen.errors.len(), seen.errors.first());

    // With another node gone the new one is needed. Its command is that of every later start.
    let stored = verify(&cluster, &seen.acks);
    lead_all(&cluster, 4);
    assert_eq!(verify(&cluster, &seen.acks), stored, "the new node has all of it");
    cluster.kill(3);
    cluster.restart(3);
    cluster
        .wait_status("it is node 4 still", |status| status.id(&addr) == Some(4) && status.state(&addr) == Some("up"));
    cluster.kill(1);
    assert_eq!(verify(&cluster, &seen.acks), stored);
    cluster.restart(1);
}

#[test]
fn a_node_that_is_alive_is_not_replaced() {
    let mut cluster = Cluster::start();
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.data_dir(3)).expect("its disk is lost");
    let seeds = format!("{},{}", cluster.addr(1), cluster.addr(2));
    cluster.restart_with(3, &instead_of(&seeds, "2"));
    assert!(!cluster.wait_end(3).success());
    assert!(cluster.log(3).contains("node 2 is alive: stop its process first"), "{}", cluster.log(3));
    assert_eq!(ids(&cluster), [1, 2, 3], "nothing was changed");
}
