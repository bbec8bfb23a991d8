//! A disk that runs full: the node hands its leaderships over, then refuses what needs room, then does not run; and takes
//! part again once there is room.
//!
//! Owns: the marks as an operator meets them. Must never: fill the machine's own disk: the marks are raised instead. The
//! campaign `disk-full` fills a file system of its own.

use std::fs;

use synod_tests::alone;
use synod_tests::cluster::Cluster;

fn set(cluster: &Cluster, settings: &str) {
    fs::write(cluster.dir().join("synod.toml"), settings).expect("a file in the temporary directory");
}

/// Starts a node anew, with the settings there are now.
fn again(cluster: &mut Cluster, number: u16) {
    assert!(cluster.stop(number).success());
    cluster.restart(number);
}

#[test]
fn a_low_disk_costs_leaderships_then_writes_and_never_records() {
    let _alone = alone();
    let mut cluster = Cluster::start_with("");
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
    cluster.cli(&["append", "t", "k", "1", "2", "3"]).ok();

    // One node: it leads nothing, nobody else notices.
    set(&cluster, "[storage]\ndisk_low = \"1EiB\"\n");
    again(&mut cluster, 1);
    let addr = cluster.addr(1);
    let leads_nothing = |status: &synod_tests::cluster::Status| {
        status.state(&addr) == Some("disk_low") && status.node(&addr).is_some_and(|node| node["leaders"] == 0)
    };
    cluster.wait_status("the low node leads nothing", |status| leads_nothing(status) && status.is_led());
    cluster.cli(&["append", "t", "k", "4"]).ok();

    // All of them: what needs room is refused, by name; what frees room is not; reads go on.
    again(&mut cluster, 2);
    again(&mut cluster, 3);
    let addrs: Vec<String> = (1..=3).map(|number| cluster.addr(number)).collect();
    cluster.wait_status("all are low", |status| {
        status.is_led() && addrs.iter().all(|addr| status.state(addr) == Some("disk_low"))
    });
    let words = ["disk full", "storage.disk_low = 1.0 EiB", "nothing was written"];
    cluster.cli(&["--timeout", "2s", "append", "t", "k", "5"]).refused(1, &words);
    let kind = cluster.cli(&["-o", "json", "--timeout", "1s", "append", "t", "k", "5"]).error();
    assert_eq!(kind["error"], "disk_full");
    assert_eq!(cluster.json(&["get", "t", "k"])["value"], "4");
    cluster.cli(&["trim", "t", "k", "--before", "1"]).ok();
    cluster.cli(&["delete", "t", "k"]).ok();

    // Room again: writes go on, nothing was lost, nothing that was refused is there.
    set(&cluster, "");
    (1..=3).for_each(|number| again(&mut cluster, number));
    cluster.wait_up();
    cluster.cli(&["append", "t", "k", "6"]).ok();
    let all = cluster.cli(&["read", "t", "k", "--from", "1"]).ok().stdout;
    let values: Vec<&str> = all.lines().filter_map(|line| line.rsplit('\t').next()).collect();
    assert_eq!(values, ["2", "3", "4", "(deleted)", "6"]);

    // Below the hard mark a node does not start, and says why.
    assert!(cluster.stop(1).success());
    set(&cluster, "[storage]\ndisk_hard = \"1EiB\"\n");
    cluster.restart(1);
    assert_eq!(cluster.wait_end(1).code(), Some(1));
    let log = cluster.log(1);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("storage.disk_hard = 1.0 EiB") && last.contains("the node does not run"), "{last}");
    set(&cluster, "");
    cluster.restart(1);
    cluster.wait_up();
}
