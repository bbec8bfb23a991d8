//! Nodes that are started again at other addresses, and addresses that are names.
//!
//! Owns: the claim that a cluster finds its nodes at whatever addresses. Must never: tell a node more than an operator would.

use synod_tests::alone;
use synod_tests::cluster::{Cluster, Site};
use synod_tests::http::get;
use synod_tests::run::run;

/// Three nodes with one record.
fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "4"]).ok();
    cluster.cli(&["put", "t", "k", "before"]).ok();
    cluster
}

/// Stops all nodes, and gives them ports this far above their first ones.
#[track_caller]
fn stop_and_move(cluster: &mut Cluster, moved: u16) {
    for number in 1..=3 {
        assert_eq!(cluster.stop(number).code(), Some(0));
    }
    cluster.move_ports(moved);
}

/// All nodes are up where they are now, and both old and new records are read.
#[track_caller]
fn works(cluster: &Cluster) {
    let status = cluster.wait_up();
    for number in 1..=3 {
        assert_eq!(status.id(&cluster.addr(number)), Some(u64::from(number)), "{status:?}");
    }
    assert_eq!(cluster.json(&["get", "t", "k"])["value"], "before");
    cluster.cli(&["put", "t", "after", "moved"]).ok();
    assert_eq!(cluster.json(&["get", "t", "after"])["value"], "moved");
}

#[test]
fn a_cluster_whose_nodes_all_moved_comes_together_by_one_hint() {
    let _alone = alone();
    let mut cluster = start();
    stop_and_move(&mut cluster, 4);
    // The first is told nothing, the others only where it is.
    let hint = cluster.addr(1);
    cluster.restart_with(1, &[]);
    cluster.restart_with(2, &["--join", &hint]);
    cluster.restart_with(3, &["--peers", &hint]);
    works(&cluster);

    // Killed, and each in the place that another had: the map is wrong about all of them.
    for number in 1..=3 {
        cluster.kill(number);
    }
    cluster.move_ports(5);
    let hints = [cluster.addr(1), cluster.addr(2)].join(",");
    for number in 1..=3 {
        cluster.restart_with(number, &["--join", &hints]);
    }
    works(&cluster);
}

#[test]
fn one_of_three_that_moved_is_found_without_a_hint() {
    let _alone = alone();
    let mut cluster = start();
    assert_eq!(cluster.stop(3).code(), Some(0));
    cluster.move_port(3, 4);
    cluster.restart_with(3, &[]);
    let new = cluster.addr(3);
    cluster.wait_status("node 3 is up where it is now", |status| {
        status.id(&new) == Some(3) && status.state(&new) == Some("up") && status.is_led()
    });
}

#[test]
fn an_address_may_be_a_name() {
    let _alone = alone();
    let sites = vec![Site { host: Some("localhost".into()), ..Site::default() }; 3];
    let cluster = Cluster::start_at(sites, None);
    assert!(cluster.addr(1).starts_with("localhost:"));
    assert_eq!(cluster.status().expect("a status").id(&cluster.addr(1)), Some(1), "the map has the name");
    assert_eq!(get(&cluster.http(2), "/livez").map(|(code, _)| code), Some(200));

    let dir = cluster.dir().join("other").display().to_string();
    let server = |rest: &[&str]| run(&[&["server", "--data-dir", &dir], rest].concat());
    let nowhere = "no-such-host.invalid:7400";
    server(&["--listen", nowhere, "--bootstrap", nowhere]).refused(1, &["--listen", nowhere, "no address"]);
    let free = "127.0.0.1:1";
    server(&["--listen", free, "--http", nowhere, "--bootstrap", free]).refused(1, &["--http", nowhere, "no address"]);
    server(&["--listen", "h4", "--bootstrap", free]).refused(2, &["--listen", "h4", "HOST:PORT"]);
    let odd = ["--listen", free, "--bootstrap", free, "--advertise", "nonsense"];
    server(&odd).refused(2, &["--advertise", "nonsense", "HOST:PORT"]);
    assert!(!std::path::Path::new(&dir).exists(), "nothing was made");
}

#[test]
fn the_founding_flag_on_a_moved_node_names_the_flag_that_works() {
    let _alone = alone();
    let mut cluster = start();
    stop_and_move(&mut cluster, 3);
    let args = cluster.args(2, &["--bootstrap".to_owned(), cluster.founders()]);
    let line = run(&args).refused(1, &["node 2", "--bootstrap", "--join", "moved"]);
    println!("{line}");
    // What the message says does work.
    for number in 1..=3 {
        let hint = cluster.addr(number % 3 + 1);
        cluster.restart_with(number, &["--join", &hint]);
    }
    works(&cluster);
}
