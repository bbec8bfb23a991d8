//! `synod check`: a sound data directory is found sound, and each kind of damage is named.
//!
//! Owns: the claims about offline verification. Must never: leave a damage it planted unmentioned by the tool.

use std::fs;
use std::path::{Path, PathBuf};

use synod_tests::cluster::Cluster;
use synod_tests::run::{Ran, command_within, finish};

/// The largest file of a folder with this extension.
fn largest(folder: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort_by_key(|path| fs::metadata(path).expect("a file").len());
    files.pop().unwrap_or_else(|| panic!("no .{extension} in {}", folder.display()))
}

/// Runs `work` with a bit of a file flipped, and puts the file back.
fn flipped(path: &Path, at: usize, work: impl FnOnce()) {
    let good = fs::read(path).expect("readable");
    let mut bad = good.clone();
    bad[at] ^= 0x10;
    fs::write(path, bad).expect("writable");
    work();
    fs::write(path, good).expect("writable");
}

#[track_caller]
fn damages(ran: &Ran) -> Vec<String> {
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one object");
    let damages = found["damages"].as_array().expect("a list").iter();
    damages.map(|d| format!("{}: {}", d["what"].as_str().expect("text"), d["why"].as_str().expect("text"))).collect()
}

/// The same directory on a read-only mount, as of an image or a snapshot of a disk.
fn looks_at_what_cannot_be_written(data: &str, sound: &serde_json::Value) {
    const MOUNTED: &str =
        r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/x" 2>/dev/null && exec "$@""#;
    let namespaces = [&["unshare", "-m"][..], &["unshare", "-rm"]];
    let allowed = |namespace: &&&[&str]| {
        let mut mounted = std::process::Command::new(namespace[0]);
        mounted.args(&namespace[1..]).args(["sh", "-c", MOUNTED, data, "true"]);
        mounted.output().is_ok_and(|output| output.status.success())
    };
    let Some(namespace) = namespaces.iter().find(allowed) else {
        println!("SKIPPED: no mount namespace is allowed here, so no directory was looked at that cannot be written");
        return;
    };
    let within: Vec<String> =
        [namespace, &["sh", "-c", MOUNTED, data][..]].concat().into_iter().map(String::from).collect();
    let looked = finish(command_within(&within, &["-o", "json", "check", data]), None);
    assert_eq!(looked.ok().json(), *sound);
    // One that no node has locked yet has nothing to lock, and nobody can use it there.
    let lock = Path::new(data).join("LOCK");
    fs::remove_file(&lock).expect("a node was there");
    let looked = finish(command_within(&within, &["-o", "json", "check", data]), None);
    assert_eq!(looked.ok().json(), *sound);
    assert!(!lock.exists());
}

#[test]
fn every_kind_of_damage_is_named_offline() {
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    for n in 0..20 {
        cluster.cli(&["append", "t", &format!("key-{}", n % 4), &"value ".repeat(200)]).ok();
    }
    let dir = cluster.data_dir(2);
    let data = dir.display().to_string();
    let check = |cluster: &Cluster| cluster.cli(&["-o", "json", "check", &data]);
    let busy = check(&cluster);
    assert_eq!(busy.code, 1);
    assert!(busy.stderr.contains("another process uses it"), "{}", busy.stderr);
    cluster.stop(2);

    let sound = check(&cluster).ok().json();
    assert_eq!(sound["groups"], 3, "{sound}");
    assert!(sound["entries"].as_u64() >= Some(20) && sound["rows"].as_u64() >= Some(20), "{sound}");
    assert_eq!(sound["damages"].as_array().map(Vec::len), Some(0), "{sound}");

    let rows = largest(&dir.join("state/db"), "sst");
    flipped(&rows, 200, || {
        let found = damages(&check(&cluster));
        assert!(found.iter().any(|d| d.contains("checksum mismatch") && d.contains(".sst")), "{found:?}");
    });
    let log = largest(&dir.join("log"), "log");
    let middle = fs::metadata(&log).expect("a file").len() as usize / 2;
    flipped(&log, middle, || {
        let found = damages(&check(&cluster));
        assert!(found.iter().any(|d| d.contains("log")), "{found:?}");
    });
    let fixture = synod_tests::repository().join("engine/tests/fixtures/snapshot-v1.snap");
    let stray = dir.join("snapshots/fetched/shard-12.snap");
    fs::copy(&fixture, &stray).expect("the folder is there");
    let found = damages(&check(&cluster));
    assert!(found.len() == 1 && found[0].contains("of cluster 0011") && found[0].contains("at byte 14"), "{found:?}");
    fs::remove_file(&stray).expect("it is there");

    looks_at_what_cannot_be_written(&data, &sound);

    // A look changes nothing: the node starts as if nobody had looked.
    assert_eq!(check(&cluster).ok().json(), sound);
    cluster.restart(2);
    cluster.wait_up();
    let nothing = cluster.cli(&["check", "/nonexistent"]);
    assert!(nothing.code == 1 && nothing.stderr.contains("no data directory"), "{}", nothing.stderr);
}
