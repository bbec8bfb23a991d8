//! The cluster's version: who speaks what, how it is raised, and who is refused.
//!
//! Owns: the claims of `synod cluster upgrade`. Must never: take a node for too old that was
//! only not heard.

use std::fs;

use nix::sys::signal::Signal;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::mixed;
use synod_tests::run::{command, finish, until};
use synod_tests::splits::{wait_shards, wait_splits};

/// The greatest version that the binary speaks.
const NEWEST: u64 = 4;

/// What keeps nodes as a binary of the first version is.
const HELD_BACK: &str = "[cluster]\nversion_max = 1\n";
/// What keeps them as one that knows jobs and no splits.
const WITHOUT_SPLITS: &str = "[cluster]\nversion_max = 3\n";

fn version(status: &Status) -> u64 {
    status.value["version"].as_u64().expect("a status names the cluster's version")
}

/// What a node says it speaks.
fn speaks(cluster: &Cluster, status: &Status, number: u16) -> Option<u64> {
    status.node(&cluster.addr(number))?["speaks"].as_u64()
}

/// The settings with which nodes start from now on.
fn settings(cluster: &Cluster, text: &str) {
    fs::write(cluster.dir().join("synod.toml"), text).expect("the settings can be written");
}

fn restart_with(cluster: &mut Cluster, number: u16, text: &str) {
    settings(cluster, text);
    assert_eq!(cluster.stop(number).code(), Some(0));
    cluster.restart(number);
    cluster.wait_caught_up(number);
}

/// What the nodes can still go back to: a binary that does not speak the second version.
#[test]
fn a_refused_upgrade_leaves_every_node_its_way_back() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(HELD_BACK);
    cluster.wait_up();
    // The cluster is at the greatest version already: raising nothing is no failure.
    assert_eq!(cluster.json(&["cluster", "upgrade"])["to"], 1);
    restart_with(&mut cluster, 1, "");
    restart_with(&mut cluster, 2, "");
    cluster.wait_up();
    // Two nodes speak the newest version, one does not: it is named, though no version was asked for.
    for args in [&["cluster", "upgrade"][..], &["cluster", "upgrade", "--dry-run"]] {
        let why = cluster.cli(args).refused(1, &["version 4", "node 3 at", "speaks versions up to 1"]);
        assert!(!why.contains("node 1 at") && !why.contains("node 2 at"), "{why}");
    }
    restart_with(&mut cluster, 3, "");
    cluster.wait_status("every node speaks it", |status| {
        [1, 2, 3].iter().all(|number| speaks(&cluster, status, *number) == Some(NEWEST))
    });

    // Its word is fresh, but it does not answer. A command that asks this node first comes to another when the word is old.
    for _ in 0..3 {
        cluster.signal(3, Signal::SIGSTOP);
        let refused = cluster.cli(&["cluster", "upgrade", "--to", "2"]);
        cluster.signal(3, Signal::SIGCONT);
        println!("{}", refused.refused(1, &["node 3 at"]));
        cluster.wait_up();
    }
    for number in [1, 2, 3] {
        // It ends where its directory keeps it out.
        restart_with(&mut cluster, number, HELD_BACK);
    }
    assert_eq!(version(&cluster.wait_up()), 1);
}

#[test]
fn a_split_is_refused_by_name_until_the_cluster_is_raised_to_the_version_that_knows_it() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(WITHOUT_SPLITS);
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "1"]).ok();
    let third = |status: &Status| status.is_led() && version(status) == 3;
    let status = cluster.wait_status("the cluster is at the third version", third);
    let shard = status.shards_of("t")[0]["id"].to_string();
    let at = "the cluster is at version 3, splits need 4";
    cluster.cli(&["shard", "split", &shard]).refused(1, &[at, "synod cluster upgrade"]);
    let error = cluster.cli(&["-o", "json", "shard", "split", &shard]).error();
    assert_eq!((&error["error"], &error["version"]), (&"cluster_version".into(), &3.into()), "{error}");
    assert!(cluster.cli(&["-o", "json", "job", "list"]).ok().json_lines().is_empty());
    // Nodes that speak the next version are not enough.
    (1..=3).for_each(|number| restart_with(&mut cluster, number, ""));
    cluster.wait_up();
    cluster.cli(&["shard", "split", &shard]).refused(1, &[at, "synod cluster upgrade"]);
    let raised = until(PATIENCE, "the version is raised", || {
        let ran = cluster.cli(&["-o", "json", "cluster", "upgrade"]);
        (ran.code == 0).then(|| ran.json())
    });
    assert_eq!(raised.unwrap()["to"], NEWEST);
    wait_splits(&cluster, 3);
    assert_eq!(cluster.json(&["shard", "split", &shard])["shard"].to_string(), shard);
    wait_shards(&cluster, 3, "t", 2);
    // There is no way back.
    assert_eq!(cluster.stop(3).code(), Some(0));
    settings(&cluster, WITHOUT_SPLITS);
    cluster.restart(3);
    assert_eq!(cluster.wait_end(3).code(), Some(1));
    let (log, words) = (cluster.log(3), "the cluster is at version 4, this node speaks versions 1 to 3");
    assert!(log.lines().any(|line| line.contains(words)), "{log}");
}

/// Waits until each of these nodes refuses every command of jobs with these words. It may be yet to hear who leads, and what that speaks.
fn wait_refused(cluster: &Cluster, nodes: &[u16], words: &str) {
    let mut said = Vec::new();
    let refused = until(PATIENCE, "the commands are refused with these words", || {
        said = mixed::refused_everywhere(cluster, nodes).unwrap();
        said.iter().all(|(_, _, why)| why.contains(words)).then_some(())
    });
    refused.unwrap_or_else(|why| panic!("{why}: {words:?}, not {said:?}"));
}

#[test]
fn no_command_of_jobs_goes_to_a_leader_that_does_not_speak_its_version() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(HELD_BACK);
    cluster.wait_up();
    restart_with(&mut cluster, 1, "");
    cluster.wait_status("one node speaks the newest version", |status| speaks(&cluster, status, 1) == Some(NEWEST));
    mixed::lead(&cluster, 2).unwrap();
    // The leader says that the cluster is too old. The others do not even ask it.
    let other = format!("node 2 at {}, which leads the system shard, speaks cluster versions up to 1", cluster.addr(2));
    wait_refused(&cluster, &[1, 3], &other);
    // One without a replica of the system shard hears from a node that reads the command who leads.
    cluster.add_joiner(4);
    wait_refused(&cluster, &[4], &other);
    wait_refused(&cluster, &[2], "the cluster is at version 1");
    let ran = cluster.cli(&["-o", "json", "job", "cancel", "1"]);
    assert_eq!((ran.code, &ran.error()["error"]), (1, &"cluster_version".into()), "{ran:?}");
    mixed::equal(&cluster).unwrap();
    // A leader that speaks it is asked, and knows what the cluster is at.
    mixed::lead(&cluster, 1).unwrap();
    wait_refused(&cluster, &[2, 3], "the cluster is at version 1");
    mixed::equal(&cluster).unwrap();
}

/// A node whose map is not the newest yet says for a moment that the cluster is at the first version.
fn lowering_is_refused(cluster: &Cluster, words: &[&str]) {
    let lowered = until(PATIENCE, "a lower version is refused", || {
        let ran = cluster.cli(&["cluster", "upgrade", "--to", "1"]);
        (ran.code != 0).then_some(ran)
    });
    lowered.unwrap().refused(1, words);
}

#[test]
fn a_new_cluster_begins_at_the_greatest_version_that_all_founders_speak() {
    let _alone = alone();
    let cluster = Cluster::start();
    let status = cluster.wait_status("the newest version", |status| version(status) == NEWEST);
    assert_eq!([1, 2, 3].map(|number| speaks(&cluster, &status, number)), [Some(NEWEST); 3]);
    assert!(cluster.cli(&["status"]).ok().stdout.contains("\nversion 4\n"));
    lowering_is_refused(&cluster, &["at version 4", "never lowered to 1"]);

    // One that would not know what the others say.
    let old = cluster.dir().join("old.toml");
    fs::write(&old, HELD_BACK).unwrap();
    let (old, data) = (old.display().to_string(), cluster.dir().join("old").display().to_string());
    let (listen, join) = (cluster.addr(5), cluster.founders());
    let args = ["server", "--data-dir", &data, "--listen", &listen, "--join", &join, "--config", &old];
    let mut joiner = command(&args);
    joiner.env("SYNOD_LOG", "error");
    let line = finish(joiner, None).refused(1, &["refused the join", "cluster versions up to 1", "at version 4"]);
    println!("a joiner that is too old: {line}");
}

#[test]
fn the_version_rises_once_every_node_speaks_the_next_and_never_falls() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(HELD_BACK);
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
    cluster.cli(&["append", "t", "k", "at the first"]).ok();
    let status = cluster.wait_up();
    assert_eq!((version(&status), speaks(&cluster, &status, 2)), (1, Some(1)));
    let nothing = cluster.json(&["cluster", "upgrade"]);
    assert_eq!((&nothing["from"], &nothing["to"]), (&1.into(), &1.into()));
    let all = cluster.cli(&["cluster", "upgrade", "--to", "2"]);
    println!("refused: {}", all.refused(1, &["node 1 at", "node 2 at", "node 3 at", "speaks versions up to 1"]));

    restart_with(&mut cluster, 1, "");
    restart_with(&mut cluster, 2, "");
    let two = cluster.cli(&["-o", "json", "cluster", "upgrade", "--to", "2"]);
    let error = two.error();
    let why = error["message"].as_str().unwrap();
    assert_eq!((two.code, error["error"].as_str()), (1, Some("upgrade_refused")));
    assert!(why.contains("node 3 at") && !why.contains("node 1 at") && !why.contains("node 2 at"), "{why}");
    assert_eq!(error["nodes"].as_array().map(Vec::len), Some(3));
    // Back: nothing was changed yet that an older node does not know.
    restart_with(&mut cluster, 1, HELD_BACK);
    for number in [1, 3] {
        restart_with(&mut cluster, number, "");
    }
    cluster.wait_up();
    let text = cluster.cli(&["status"]).ok().stdout;
    assert!(text.contains("version 1; every node speaks 4: `synod cluster upgrade` raises it"), "{text}");
    assert!(cluster.cli(&["cluster", "upgrade", "--dry-run"]).ok().stdout.contains("could be raised to 4"));
    assert_eq!(version(&cluster.wait_up()), 1, "a dry run changes nothing");

    // Without every node nothing is done: each is asked to keep older binaries from its data first. Said again, it is done.
    cluster.kill(2);
    cluster.kill(3);
    let refused = cluster.cli(&["--timeout", "8s", "cluster", "upgrade", "--to", "2"]);
    println!("{}", refused.refused(1, &["node 2 at", "node 3 at"]));
    cluster.restart(2);
    cluster.restart(3);
    cluster.wait_up();
    let done = until(PATIENCE, "the version is raised", || {
        let ran = cluster.cli(&["-o", "json", "cluster", "upgrade", "--to", "2"]);
        (ran.code == 0).then(|| ran.json())
    });
    assert_eq!(done.unwrap()["to"], 2);
    let status = cluster.wait_status("the second version", |status| version(status) == 2);
    let again = cluster.json(&["cluster", "upgrade", "--to", "2"]);
    assert_eq!(again["to"], 2, "it may be said again");
    assert_eq!([1, 2, 3].map(|number| speaks(&cluster, &status, number)), [Some(NEWEST); 3]);
    lowering_is_refused(&cluster, &["never lowered"]);
    cluster.cli(&["cluster", "upgrade", "--to", "9"]).refused(1, &["1 to 4"]);
    cluster.cli(&["append", "t", "k", "at the second"]).ok();

    // There is no way back: the node says so and ends.
    assert_eq!(cluster.stop(3).code(), Some(0));
    settings(&cluster, HELD_BACK);
    cluster.restart(3);
    assert_eq!(cluster.wait_end(3).code(), Some(1));
    let log = cluster.log(3);
    let words = "the cluster is at version 2, this node speaks versions 1 to 1";
    assert!(log.lines().any(|line| line.contains(words)), "{log}");
    assert!(!log.contains("damaged"), "{log}");
    settings(&cluster, "");
    cluster.restart(3);
    cluster.wait_caught_up(3);
    let read = cluster.cli(&["-o", "json", "read", "t", "k"]).ok().json_lines();
    assert_eq!(
        read.iter().map(|r| r["value"].as_str().unwrap()).collect::<Vec<_>>(),
        ["at the first", "at the second"]
    );
}
