//! A disk that runs full: the node hands its leaderships over, then refuses what needs room, then does not run; and takes
//! part again once there is room.
//!
//! Owns: the marks as an operator meets them. Must never: fill the machine's own disk: the marks are raised instead, or
//! file systems of a test's own filled, as the campaign `disk-full` does.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, Site};
use synod_tests::run::until;

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

/// A disk for each node, in memory, of so many MiB.
struct Disks(tempfile::TempDir);

impl Disks {
    /// None where this process may not mount.
    fn new(mib: u64) -> Option<Disks> {
        let disks = Disks(tempfile::Builder::new().prefix("synod-disks-").tempdir().expect("a temporary directory"));
        let size = format!("size={mib}m");
        for number in 1..=3 {
            fs::create_dir(disks.root(number)).expect("a mount point");
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", size.as_str(), "tmpfs"])
                .arg(disks.root(number))
                .output();
            if !mounted.is_ok_and(|output| output.status.success()) {
                return None;
            }
        }
        Some(disks)
    }

    fn root(&self, number: u16) -> PathBuf {
        self.0.path().join(format!("disk-{number}"))
    }

    fn sites(&self) -> Vec<Site> {
        (1..=3).map(|number| Site { disk: Some(self.root(number)), ..Site::default() }).collect()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // Some may not be mounted.
        (1..=3).for_each(|number| drop(Command::new("umount").arg("-l").arg(self.root(number)).output()));
    }
}

/// With the marks as they are by default, the compaction of what such a load writes once took more than was left between them: all
/// nodes went down before one had refused anything, and again at each start.
#[test]
fn a_load_that_fills_all_disks_is_refused_and_trims_make_room() {
    let _alone = alone();
    let Some(disks) = Disks::new(1500) else {
        println!("SKIPPED: no file system can be mounted here, so none was filled");
        return;
    };
    let mut cluster = Cluster::start_at(disks.sites(), None);
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--retain", "all"]).ok();
    // 60 MB that no compression makes smaller, as lines.
    let mut content = Vec::new();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for n in 0..100 {
        let mut value = vec![0; 600_000];
        random.fill_bytes(&mut value);
        value.iter_mut().for_each(|byte| *byte = (*byte).max(b'\n' + 1));
        content.extend_from_slice(format!("k{} ", n % 20).as_bytes());
        content.extend_from_slice(&value);
        content.push(b'\n');
    }
    let file = cluster.dir().join("values");
    fs::write(&file, content).expect("a file in the temporary directory");
    let load = ["--timeout", "5s", "load", "t", file.to_str().unwrap(), "--format", "lines", "--key-regex", r"^k\d+"];
    let refused = (0..30).map(|_| cluster.cli(&load)).find(|ran| ran.code != 0).expect("the disks fill up");
    assert!(refused.stderr.contains("disk full"), "{}", refused.stderr);
    assert!(refused.stderr.contains("storage.disk_low"), "{}", refused.stderr);

    // Nothing that goes on by itself takes the rest, nor does a start.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!([1, 2, 3].map(|number| cluster.runs(number)), [true; 3], "nodes run: {}", cluster.log(1));
    (1..=3).for_each(|number| again(&mut cluster, number));
    cluster.wait_status("all shards are led", |status| status.is_led());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!([1, 2, 3].map(|number| cluster.runs(number)), [true; 3], "nodes run: {}", cluster.log(1));

    for key in 0..20 {
        cluster.cli(&["trim", "t", &format!("k{key}"), "--before", "1000000"]).ok();
    }
    let written = until(Duration::from_secs(60), "writes are taken after trims", || {
        (cluster.cli(&["--timeout", "2s", "append", "t", "k", "v"]).code == 0).then_some(())
    });
    assert_eq!(written, Ok(()));
    assert_eq!([1, 2, 3].map(|number| cluster.runs(number)), [true; 3], "nodes run: {}", cluster.log(1));
}
