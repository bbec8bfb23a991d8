//! `synod backup` and `synod restore`: a new cluster under new identities holds what the old one held.
//!
//! Owns: the claims about backups. Must never: compare less than every record of every table.

use std::fs;
use std::path::Path;

use serde_json::Value;
use synod_tests::cluster::Cluster;

/// Everything in the tables, as the leaders have it.
fn contents(cluster: &Cluster) -> String {
    let mut all = cluster.cli(&["-o", "json", "scan", "latest"]).ok().stdout;
    for key in 0..7 {
        all += &cluster.cli(&["-o", "json", "read", "all", &format!("key-{key}")]).ok().stdout;
    }
    all
}

/// Shard, slot and content of each entry of a manifest.
fn shards(manifest: &Value) -> Vec<(u64, u64, String)> {
    let of = |entry: &Value| {
        let content = entry["content"].as_str().expect("text").to_owned();
        (entry["shard"].as_u64().expect("a number"), entry["slot"].as_u64().expect("a number"), content)
    };
    manifest["shards"].as_array().expect("a list").iter().map(of).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[test]
fn a_backup_becomes_a_new_cluster() {
    let old = Cluster::start();
    old.cli(&["table", "create", "all", "--partition", "hash", "--shards", "3", "--retain", "all"]).ok();
    old.cli(&["table", "create", "latest", "--partition", "range", "--split-at", "key-3"]).ok();
    for n in 0..60 {
        old.cli(&["append", "all", &format!("key-{}", n % 7), &format!("value {n}")]).ok();
        old.cli(&["put", "latest", &format!("key-{}", n % 9), &format!("value {n}")]).ok();
    }
    old.cli(&["delete", "latest", "key-5"]).ok();
    let dir = old.dir().join("backup");
    let backup = dir.display().to_string();
    let manifest = old.json(&["backup", &backup]);
    let kept = shards(&manifest);
    assert_eq!(kept.len(), 6, "the system shard, three and two: {manifest}");
    let again = old.cli(&["backup", &backup]);
    assert!(again.code == 2 && again.stderr.contains("is not empty"), "{}", again.stderr);

    let mut new = Cluster::empty(3);
    let founders = new.founders();
    let restore = |from: &Path, node: u16| {
        let (from, data) = (from.display().to_string(), new.data_dir(node).display().to_string());
        let node = node.to_string();
        let args = ["-o", "json", "restore", &from, "--data-dir", &data, "--founders", &founders, "--node", &node];
        old.cli(&args)
    };
    refusals(&dir, new.dir(), |bad| {
        let ran = restore(bad, 1);
        assert!(!new.data_dir(1).exists(), "a refused restore left something behind");
        (ran.code, ran.stderr)
    });
    let names: Vec<Value> = (1..=3).map(|node| restore(&dir, node).ok().json()["cluster"].clone()).collect();
    assert!(names.iter().all(|name| *name == names[0] && *name != manifest["cluster"]), "{names:?}");
    let full = restore(&dir, 1);
    assert!(full.code == 2 && full.stderr.contains("is not empty"), "{}", full.stderr);
    for node in 1..=3 {
        new.add_restored(node);
    }
    new.wait_up();
    assert_eq!(contents(&new), contents(&old));

    // The same records under another cluster's name, and offsets go on.
    let second = new.dir().join("backup");
    let found = shards(&new.json(&["backup", &second.display().to_string()]));
    for ((shard, slot, content), (other, later, found)) in kept.iter().zip(&found) {
        assert_eq!((shard, content), (other, found));
        assert!(later >= slot, "shard {shard} went back from slot {slot} to {later}");
    }
    let before = old.json(&["append", "all", "key-1", "one more"]);
    let after = new.json(&["append", "all", "key-1", "one more"]);
    assert_eq!(before["offset"], after["offset"]);
    new.cli(&["table", "create", "fresh", "--partition", "hash", "--shards", "2"]).ok();
    new.cli(&["put", "fresh", "k", "v"]).ok();
}

/// What must not be restored: cut, altered, of another cluster, incomplete, newer.
fn refusals(good: &Path, room: &Path, restore: impl Fn(&Path) -> (i32, String)) {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 5] = [
        ("cut", |dir| edit(&dir.join("shard-2.snap"), |bytes| bytes.truncate(bytes.len() - 20)), "at byte"),
        ("altered", |dir| edit(&dir.join("shard-3.snap"), |bytes| bytes[200] ^= 1), "at byte"),
        ("foreign", |dir| edit(&dir.join("manifest.json"), foreign), "of cluster"),
        ("missing", |dir| fs::remove_file(dir.join("shard-4.snap")).expect("it is there"), "shard-4.snap"),
        ("newer", |dir| edit(&dir.join("shard-2.snap"), |bytes| bytes[8] = 9), "newer version"),
    ];
    for (name, spoil, said) in cases {
        let bad = room.join(name);
        copy(good, &bad);
        spoil(&bad);
        let (code, stderr) = restore(&bad);
        assert!(code == 1 && stderr.contains(said), "{name}: exit {code}, {stderr}");
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

/// Another cluster in the manifest.
fn foreign(bytes: &mut Vec<u8>) {
    let text = String::from_utf8(bytes.clone()).expect("text");
    let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
    manifest["cluster"] = "00000000000000000000000000000001".into();
    *bytes = serde_json::to_vec(&manifest).expect("JSON");
}
