//! Snapshots that are damaged on the way from one node to another.
//!
//! Owns: the claim that such a file is found out, given up and made or fetched anew, and never installed. The sweep over a
//! data directory's files is the campaign `damage`. Must never: take a node for healed that cannot show its own copy.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::run::until;

const TABLE: &str = "bulk";

/// Slow enough to be hit on the way.
const SETTINGS: &str = "[storage]\nlog_keep = \"64KiB\"\nstate_memory = \"1MiB\"\n[snapshot]\nmax_rate = \"3MiB\"\n";

fn write(cluster: &Cluster, ops: &str) {
    let args = ["bench", "append", "--table", TABLE, "--shards", "1", "--keys", "100", "--clients", "8"];
    cluster.cli(&[&args[..], &["--warmup", "0s", "--value-size", "8192", "--ops", ops]].concat()).ok();
}

fn scan(cluster: &Cluster) -> String {
    cluster.cli(&["-o", "json", "--timeout", "60s", "scan", TABLE]).ok().stdout
}

/// The only file of a folder with this extension that has more than a megabyte.
fn find(folder: &Path, extension: &str) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let large = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() > 1 << 20);
    files.find(|path| path.extension().is_some_and(|e| e == extension) && large(path))
}

/// Flips a bit in place, under whoever has the file open.
fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("long enough");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("writable");
}

#[track_caller]
fn lead(cluster: &Cluster, node: u16) {
    let led = until(PATIENCE, "the node leads the table", || {
        let status = cluster.status()?;
        let id = status.id(&cluster.addr(node))?;
        let shard = status.shards_of(TABLE).first()?["id"].as_u64()?;
        if status.leader_addr(shard)? == cluster.addr(node) {
            return Some(());
        }
        cluster.cli(&["shard", "transfer-leader", &shard.to_string(), "--to", &id.to_string()]);
        None
    });
    led.unwrap();
}

#[test]
fn a_snapshot_damaged_at_either_end_is_never_installed() {
    let _alone = alone();
    let mut cluster = Cluster::start_with(SETTINGS);
    write(&cluster, "10");
    let leader = cluster.leader(&cluster.wait_up(), TABLE, 0);
    let victim = leader % 3 + 1;
    cluster.kill(victim);
    write(&cluster, "800");

    // The leader's file, while it is sent: behind what was sent already.
    cluster.restart(victim);
    // Either of the others may be the one that it comes from.
    let others = || (1..=3).filter(|node| *node != victim);
    let sender = until(PATIENCE, "a snapshot is sent", || {
        others().find(|node| cluster.log(*node).contains("sending a snapshot"))
    });
    let sender = sender.unwrap();
    let built = cluster.data_dir(sender).join("snapshots/built");
    let file = find(&built, "snap").expect("the one that is sent");
    let length = fs::metadata(&file).unwrap().len();
    flip(&file, length - (1 << 20));
    let given_up = until(PATIENCE, "it is given up", || {
        cluster.log(sender).contains("a snapshot's file is damaged and is removed").then_some(())
    });
    given_up.unwrap();

    // What was fetched of the next, while the fetching node is down.
    let fetched = cluster.data_dir(victim).join("snapshots/fetched");
    until(PATIENCE, "a snapshot is fetched", || find(&fetched, "part")).unwrap();
    cluster.kill(victim);
    if let Some(part) = find(&fetched, "part") {
        flip(&part, fs::metadata(&part).unwrap().len() / 2);
    }
    cluster.restart(victim);
    cluster.wait_caught_up(victim);
    let expected = scan(&cluster);
    lead(&cluster, victim);
    assert!(scan(&cluster) == expected, "the node's copy differs");
    let log = cluster.log(sender);
    println!("{}", log.lines().filter(|line| line.contains("snapshot")).collect::<Vec<_>>().join("\n"));
}
