//! Data directories that were wiped, set back, exchanged or come from elsewhere.
//!
//! Owns: the claim that a node whose memory cannot be trusted is found out, named, and counts for nothing. Must never: take
//! a missing answer for a refusal: each node left out is shown to be missed when it would be needed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::run::{Ran, command, until, wait_for};
use synod_tests::status::Status;

const TABLE: &str = "t";

fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
    write(&cluster, "first", 20);
    cluster
}

/// Some records on every shard.
fn write(cluster: &Cluster, value: &str, keys: usize) {
    let content: String = (0..keys).map(|key| format!("k{key} {value}\n")).collect();
    let args = ["load", TABLE, "-", "--format", "lines", "--key-regex", "^k[0-9]+"];
    cluster.cli_with(&args, content.as_bytes()).ok();
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp").success());
}

/// Runs a node that is expected to refuse to start.
#[track_caller]
fn refusal(args: &[String]) -> Ran {
    let mut node = command(args);
    let mut child = node.env("SYNOD_LOG", "error").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = wait_for(&mut child, Duration::from_secs(10));
    if ended.is_none() {
        child.kill().expect("it is our child");
    }
    let ran: Ran = child.wait_with_output().expect("its output").into();
    assert!(ended.is_some(), "a node with {args:?} was not refused, it runs: {}", ran.stderr);
    ran
}

/// Every shard needs this node now (one of its two peers is gone): a write cannot be acknowledged.
#[track_caller]
fn casts_no_vote(cluster: &mut Cluster, other: u16) {
    cluster.kill(other);
    for key in ["k0", "k1", "k2", "k3", "k4", "k5"] {
        let ran = cluster.cli(&["-o", "json", "--timeout", "1s", "append", TABLE, key, "by a minority"]);
        let error = ran.error();
        // A write that nobody took names what was in the way last: that there is no leader, or that a node is quarantined.
        assert!(matches!(error["error"].as_str(), Some("outcome_unknown" | "unavailable" | "quarantined")), "{error}");
        assert_eq!(ran.code, if error["error"] == "outcome_unknown" { 4 } else { 1 });
    }
    cluster.restart(other);
    let written = until(PATIENCE, "two of three write again", || {
        (cluster.cli(&["--timeout", "3s", "append", TABLE, "k0", "by two"]).code == 0).then_some(())
    });
    written.unwrap();
}

#[test]
fn a_wiped_directory_is_refused_and_casts_no_vote() {
    let _alone = alone();
    let mut cluster = start();
    cluster.kill(2);
    let (data, kept) = (cluster.data_dir(2), cluster.dir().join("kept"));
    std::fs::rename(&data, &kept).unwrap();
    let flags = ["--bootstrap".to_owned(), cluster.founders()];
    let (args, addr) = (cluster.args(2, &flags), cluster.addr(2));
    let line = refusal(&args).refused(1, &["already bootstrapped", "node 2", &addr, "--join"]);
    println!("wiped: {line}");
    // Also while it would be needed: with node 3 gone a vote of the empty directory would be the majority's.
    let waiting = command(&args).env("SYNOD_LOG", "error").stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut waiting = waiting.unwrap();
    casts_no_vote(&mut cluster, 3);
    let ended = wait_for(&mut waiting, PATIENCE);
    waiting.kill().ok();
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "it ends with the refusal");
    // The right directory is taken again.
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.restart(2);
    cluster.wait_caught_up(2);

    // A founding list that names members of this cluster: refused, and the members live on.
    let fresh = cluster.dir().join("fresh").display().to_string();
    let own = cluster.addr(5);
    let mut list = flags[1].clone();
    list.push_str(&format!(",{own}"));
    let second: Vec<String> =
        ["server", "--data-dir", &fresh, "--listen", &own, "--bootstrap", &list].map(String::from).to_vec();
    let line = refusal(&second).refused(1, &["already belongs to cluster", "--join"]);
    println!("second founding: {line}");
    cluster.wait_up();
}

#[test]
fn an_older_copy_is_quarantined_and_casts_no_vote() {
    let _alone = alone();
    let mut cluster = start();
    assert_eq!(cluster.stop(2).code(), Some(0));
    let (data, copied) = (cluster.data_dir(2), cluster.dir().join("older"));
    copy(&data, &copied);
    cluster.restart(2);
    cluster.wait_caught_up(2);
    write(&cluster, "second", 20);
    // Its votes count by now: what it forgets with the copy may be what was promised to others.
    cluster.wait_caught_up(2);
    cluster.kill(2);
    std::fs::remove_dir_all(&data).unwrap();
    copy(&copied, &data);
    cluster.restart(2);
    let addr = cluster.addr(2);
    cluster.wait_status("quarantined", |status| status.state(&addr) == Some("quarantined"));
    // The first peer that answers may know only that another process had this number; the next knows more.
    let said =
        |status: &Status| status.node(&addr).and_then(|node| node["reason"].as_str()).unwrap_or_default().to_owned();
    let status = cluster.wait_status("quarantined as an older copy", |status| said(status).contains("older"));
    let reason = said(&status);
    println!("set back: {reason}");
    assert!(reason.contains("node 2") && reason.contains("older"), "{reason}");
    assert!(cluster.log(2).contains(&reason), "the log says it too");
    let id = status.id(&addr).unwrap();
    for shard in status.shards() {
        let role = status.role(shard["id"].as_u64().unwrap(), id);
        assert!(!matches!(role, Some("leader" | "candidate")), "it leads nothing: {shard}");
    }
    casts_no_vote(&mut cluster, 3);
    // Through the quarantined node too a client gets everything: it forwards.
    let got = cluster.cli(&["--endpoints", &addr, "-o", "json", "get", TABLE, "k7", "--offset", "1"]).ok().json();
    assert_eq!(got["value"], "k7 second");
    let status = cluster.status().expect("a status");
    assert_eq!(status.state(&addr), Some("quarantined"), "it stays so");
}

#[test]
fn a_late_joiner_serves_forwarded_calls() {
    let _alone = alone();
    let mut cluster = start();
    cluster.add_joiner(4);
    let status = cluster.wait_up();
    let addr = cluster.addr(4);
    assert_eq!((status.id(&addr), status.state(&addr)), (Some(4), Some("up")));
    let through = |args: &[&str]| cluster.cli(&[&["--endpoints", &addr, "-o", "json"], args].concat()).ok();
    for key in ["k0", "k1", "k2", "k3"] {
        assert_eq!(through(&["append", TABLE, key, "by the new one"]).json()["offset"], 1);
        assert_eq!(through(&["get", TABLE, key]).json()["value"], "by the new one");
        assert_eq!(cluster.json(&["get", TABLE, key])["value"], "by the new one");
    }
    assert_eq!(through(&["scan", TABLE]).json_lines().len(), 20);
    // It keeps its place over a restart, and counts where new tables are placed.
    cluster.kill(4);
    cluster.restart(4);
    cluster.wait_up();
    cluster.cli(&["table", "create", "new", "--partition", "hash", "--shards", "8"]).ok();
    let status = cluster.wait_up();
    let holds = |shard: &&serde_json::Value| status.role(shard["id"].as_u64().unwrap(), 4).is_some();
    assert!(status.shards_of("new").iter().any(holds), "replicas are spread over all nodes: {status:?}");
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused() {
    let _alone = alone();
    let mut cluster = start();
    let flags = ["--bootstrap".to_owned(), cluster.founders()];
    cluster.stop(2);
    // Node 3's directory, under node 2's address.
    cluster.stop(3);
    let swapped = cluster.data_dir(2);
    let kept = cluster.dir().join("kept");
    std::fs::rename(&swapped, &kept).unwrap();
    copy(&cluster.data_dir(3), &swapped);
    cluster.restart(3);
    let (mine, theirs) = (cluster.addr(2), cluster.addr(3));
    let line = refusal(&cluster.args(2, &flags)).refused(1, &["node 3", &mine, &theirs]);
    println!("another node's: {line}");
    std::fs::remove_dir_all(&swapped).unwrap();

    // Another cluster's directory, under node 2's address.
    let mut other = Cluster::empty(1);
    other.add_founder(1);
    let found = other.wait_up().value["cluster"].as_str().expect("clusters have names").to_owned();
    assert_eq!(other.stop(1).code(), Some(0));
    copy(&other.data_dir(1), &swapped);
    let line = refusal(&cluster.args(2, &flags)).refused(1, &[&found]);
    println!("another cluster's: {line}");
    std::fs::remove_dir_all(&swapped).unwrap();

    std::fs::rename(&kept, &swapped).unwrap();
    cluster.restart(2);
    cluster.wait_up();
    assert_eq!(cluster.cli(&["-o", "json", "scan", TABLE]).ok().json_lines().len(), 20);
}

/// A copy of node 1's directory, made while it is down, started beside the original as node 4's process; then node 3 goes. Returns
/// the cluster and the records that were acknowledged since.
fn run_twice(copy_first: bool, pause: Duration) -> (Cluster, Vec<u64>) {
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", TABLE, "--partition", "hash", "--shards", "1", "--retain", "all"]).ok();
    cluster.cli(&["append", TABLE, "k", "before"]).ok();
    for shard in ["1", "2"] {
        until(PATIENCE, "node 2 leads", || {
            cluster.cli(&["shard", "transfer-leader", shard, "--to", "2"]);
            let status = cluster.status()?;
            (status.leader_addr(shard.parse().ok()?) == Some(cluster.addr(2))).then_some(())
        })
        .unwrap();
    }
    cluster.wait_caught_up(1);
    assert_eq!(cluster.stop(1).code(), Some(0));
    copy(&cluster.data_dir(1), &cluster.data_dir(4));
    if copy_first {
        cluster.add_joiner(4);
        std::thread::sleep(pause);
        cluster.restart(1);
    } else {
        cluster.restart(1);
        std::thread::sleep(pause);
        cluster.add_joiner(4);
    }
    std::thread::sleep(Duration::from_secs(3));
    println!("{copy_first} {pause:?}: {}", cluster.cli(&["status"]).stdout);
    cluster.kill(3);
    let acknowledged = (0..20).filter_map(|n| {
        let ran = cluster.cli(&["-o", "json", "--timeout", "1s", "append", TABLE, "k", &format!("while {n}")]);
        (ran.code == 0).then(|| ran.json()["offset"].as_u64().expect("an offset"))
    });
    let acknowledged = acknowledged.collect();
    (cluster, acknowledged)
}

/// The process that said the words of a node that runs twice.
fn said_it_runs_twice(cluster: &Cluster, number: u16) -> bool {
    cluster.log(number).lines().any(|line| line.contains("quarantined: node 1 runs twice"))
}

/// Nodes 1 to 3 are up and led.
#[track_caller]
fn wait_for_three(cluster: &Cluster) {
    cluster.wait_status("nodes 1 to 3 are up", |status| {
        (1..=3).all(|number| status.state(&cluster.addr(number)) == Some("up")) && status.is_led()
    });
}

/// Whatever was acknowledged is there once the copy and node 2 are gone and node 3 is back, or nobody leads without it.
fn nothing_is_lost(copy_first: bool, pause: Duration) {
    for survivor in [1, 4] {
        let (mut cluster, acknowledged) = run_twice(copy_first, pause);
        println!("{} acknowledged", acknowledged.len());
        assert!(said_it_runs_twice(&cluster, 1) || said_it_runs_twice(&cluster, 4), "nobody was told");
        let log = format!("{}{}", cluster.log(2), cluster.log(3));
        assert!(log.contains("ERROR") && log.contains("node 1 runs twice: a process of incarnation"), "{log}");
        cluster.kill(2);
        cluster.kill(if survivor == 1 { 4 } else { 1 });
        cluster.restart(3);
        std::thread::sleep(Duration::from_secs(3));
        let endpoint = cluster.addr(3);
        let read = cluster.cli(&["--endpoints", &endpoint, "-o", "json", "--timeout", "3s", "read", TABLE, "k"]);
        if read.code == 0 {
            let there: Vec<u64> = read.json_lines().iter().filter_map(|line| line["offset"].as_u64()).collect();
            assert!(acknowledged.iter().all(|offset| there.contains(offset)), "of {acknowledged:?} only {there:?}");
        }
        cluster.kill(survivor);
        cluster.restart(2);
        if said_it_runs_twice(&cluster, 4) {
            // The original alone, started again, is believed.
            cluster.restart(1);
            wait_for_three(&cluster);
        }
        let read = cluster.cli(&["-o", "json", "--timeout", "10s", "read", TABLE, "k"]).ok();
        let there: Vec<u64> = read.json_lines().iter().filter_map(|line| line["offset"].as_u64()).collect();
        assert!(acknowledged.iter().all(|offset| there.contains(offset)), "of {acknowledged:?} only {there:?}");
    }
}

#[test]
fn a_copy_started_with_the_original_is_not_believed_beside_it() {
    let _alone = alone();
    nothing_is_lost(false, Duration::ZERO);
}

#[test]
fn a_copy_started_just_before_the_original_is_not_believed_beside_it() {
    let _alone = alone();
    nothing_is_lost(true, Duration::ZERO);
}

#[test]
fn a_copy_started_later_is_refused_and_told_so_and_the_original_serves_on() {
    let _alone = alone();
    let (mut cluster, acknowledged) = run_twice(false, Duration::from_secs(5));
    assert_eq!(acknowledged.len(), 20, "the original votes");
    assert!(said_it_runs_twice(&cluster, 4) && !said_it_runs_twice(&cluster, 1));
    let status = cluster.cli(&["status"]).stdout;
    assert!(status.contains("node 1 runs twice"), "{status}");
    cluster.kill(4);
    cluster.restart(3);
    wait_for_three(&cluster);
    cluster.wait_caught_up(3);
    cluster.kill(2);
    let read = cluster.cli(&["-o", "json", "read", TABLE, "k"]).ok();
    assert_eq!(read.json_lines().len(), 21);
}
