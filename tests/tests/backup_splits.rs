//! Backups of a cluster whose shards are split: before a backup, and while it goes on.
//!
//! Owns: the claims about backups and splits. Must never: compare less than every record of every table.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::run::{Ran, run, until};
use synod_tests::splits::{shards, wait_shards, wait_splits};
use synod_tests::{alone, copy};

/// Three nodes that know splits, with a table of one shard that keeps all.
fn started(settings: &str, partition: &str) -> Cluster {
    let cluster = Cluster::start_with(settings);
    wait_splits(&cluster, 3);
    let shards: &[&str] = if partition == "hash" { &["--shards", "1"] } else { &[] };
    cluster.cli(&[&["table", "create", "t", "--partition", partition, "--retain", "all"], shards].concat()).ok();
    wait_shards(&cluster, 3, "t", 1);
    cluster
}

fn keys() -> Vec<String> {
    (0..12).map(|n| format!("key-{n:02}")).collect()
}

fn fill(cluster: &Cluster, value: &str) {
    for key in keys() {
        cluster.cli(&["append", "t", &key, value]).ok();
    }
}

/// Every record of every key, and what a scan gives.
fn contents(cluster: &Cluster) -> String {
    let read = |key: String| cluster.cli(&["-o", "json", "read", "t", &key]).ok().stdout;
    let scanned = cluster.cli(&["-o", "json", "scan", "t"]).ok().stdout;
    keys().into_iter().map(read).collect::<String>() + &scanned
}

fn backup(cluster: &Cluster, name: &str, flags: &[&str]) -> (PathBuf, Value) {
    let dir = cluster.dir().join(name);
    let manifest = cluster.json(&[&["backup", &dir.display().to_string()], flags].concat());
    (dir, manifest)
}

/// The numbers of a manifest's shards, and what they hold.
fn held(manifest: &Value) -> Vec<(u64, String)> {
    let of = |entry: &Value| (entry["shard"].as_u64().unwrap(), entry["content"].as_str().unwrap().to_owned());
    manifest["shards"].as_array().expect("a list").iter().map(of).collect()
}

fn restore(from: &Path, to: &Path, founders: &str) -> Ran {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    run(&["restore", &from, "--data-dir", &to, "--founders", founders, "--node", "1"])
}

/// A cluster of one node out of a backup, every byte of which was looked at.
fn restored(from: &Path) -> Cluster {
    let mut new = Cluster::empty(1);
    let data = new.data_dir(1);
    restore(from, &data, &new.founders()).ok();
    let check = run(&["-o", "json", "check", &data.display().to_string()]).ok().json();
    assert_eq!(check["damages"].as_array().map(Vec::len), Some(0), "{check}");
    new.add_restored(1);
    new.wait_up();
    new
}

#[test]
fn a_backup_after_splits_has_every_record_and_becomes_a_cluster_that_splits() {
    let _turn = alone();
    let cluster = started("", "range");
    fill(&cluster, "before");
    let parent = shards(&cluster, "t")[0].0.to_string();
    let child = cluster.json(&["shard", "split", &parent, "--at", "key-06"])["child"].to_string();
    wait_shards(&cluster, 3, "t", 2);
    fill(&cluster, "between");
    cluster.json(&["shard", "split", &child, "--at", "key-09"]);
    fill(&cluster, "after");
    wait_shards(&cluster, 3, "t", 3);
    let (dir, manifest) = backup(&cluster, "backup", &[]);
    assert_eq!(held(&manifest).len(), 4, "the system shard and three: {manifest}");
    assert!(manifest["version"] == 1 && manifest.get("cluster_version").is_none(), "{manifest}");

    let new = restored(&dir);
    assert_eq!(contents(&new), contents(&cluster));
    assert_eq!(shards(&new, "t"), shards(&cluster, "t"));
    let (_, again) = backup(&new, "backup", &[]);
    assert_eq!(held(&again)[1..], held(&manifest)[1..], "the same records under another cluster's name");
    wait_splits(&new, 1);
    // Ids go on, and nothing of the old cluster's splits is in the way of new ones.
    let made = new.json(&["--timeout", "60s", "shard", "split", &child, "--at", "key-07"])["child"].as_u64().unwrap();
    assert!(shards(&cluster, "t").iter().all(|(shard, _)| *shard < made), "shard {made} was there before");
    for key in keys() {
        let offset = |cluster: &Cluster| cluster.json(&["append", "t", &key, "at last"])["offset"].clone();
        assert_eq!(offset(&new), offset(&cluster), "offsets of {key} go on");
    }
}

/// A folder with these files of backups, as an interrupted backup leaves it.
fn half(room: &Path, name: &str, cluster: &Value, files: &[(&Path, u64)]) {
    let dir = room.join(name);
    fs::create_dir(&dir).expect("a folder");
    for (from, shard) in files {
        let file = format!("shard-{shard}.snap");
        fs::copy(from.join(&file), dir.join(&file)).expect("a copy");
    }
    fs::write(dir.join("UNFINISHED"), json!({ "version": 1, "cluster": cluster }).to_string()).expect("a file");
}

/// A whole backup of which one shard's file is that of another backup.
fn torn(good: (&Path, &Value), other: (&Path, &Value), shard: u64, to: &Path) {
    copy(good.0, to);
    let file = format!("shard-{shard}.snap");
    fs::copy(other.0.join(&file), to.join(&file)).expect("a copy");
    let mut manifest = good.1.clone();
    let theirs = other.1["shards"].as_array().expect("a list").iter().find(|entry| entry["shard"] == shard);
    let entries = manifest["shards"].as_array_mut().expect("a list");
    let own = entries.iter_mut().find(|entry| entry["shard"] == shard).expect("it is in both");
    *own = theirs.expect("it is in both").clone();
    fs::write(to.join("manifest.json"), manifest.to_string()).expect("a file");
}

#[test]
fn a_backup_that_a_split_comes_across_has_both_parts() {
    let _turn = alone();
    let cluster = started("", "range");
    fill(&cluster, "before");
    let (first, early) = backup(&cluster, "first", &[]);
    let parent = shards(&cluster, "t")[0].0;
    let done = cluster.json(&["shard", "split", &parent.to_string(), "--at", "key-06"]);
    let child = done["child"].as_u64().unwrap_or_else(|| panic!("{done}"));
    fill(&cluster, "after");
    let (second, late) = backup(&cluster, "second", &[]);
    let expected = held(&late);
    assert_eq!(expected.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [1, parent, child]);

    // The metadata was read before the split and the parent after it; and the parent before it, the metadata after.
    for (name, files) in [("early-map", [(&first, 1)]), ("early-parent", [(&first, parent)])] {
        let files: Vec<(&Path, u64)> = files.into_iter().map(|(from, shard)| (from.as_path(), shard)).collect();
        half(cluster.dir(), name, &late["cluster"], &files);
        let (dir, manifest) = backup(&cluster, name, &["--resume"]);
        assert_eq!(held(&manifest)[1..], expected[1..], "{name}: {manifest}");
        assert_eq!(contents(&restored(&dir)), contents(&cluster), "{name}");
    }

    // A backup that was made without looking is refused.
    let room = cluster.dir();
    let refused = |dir: &Path, words: &[&str]| {
        let data = room.join("never");
        println!("{}", restore(dir, &data, "h:1").refused(1, words));
        assert!(!data.exists(), "a refused restore left something behind");
    };
    let of = format!("shard {parent}");
    let (without, twice) = (room.join("without"), room.join("twice"));
    torn((&first, &early), (&second, &late), parent, &without);
    refused(&without, &[&of, "bounds of version 2, the metadata those of version 1"]);
    torn((&second, &late), (&first, &early), parent, &twice);
    refused(&twice, &[&of, "bounds of version 1, the metadata those of version 2"]);
    let lacking = room.join("lacking");
    copy(&second, &lacking);
    let mut manifest = late.clone();
    manifest["shards"].as_array_mut().expect("a list").retain(|entry| entry["shard"] != child);
    fs::write(lacking.join("manifest.json"), manifest.to_string()).expect("a file");
    refused(&lacking, &[&format!("no file of shard {child}")]);
}

/// Where the hashes of a shard are halved.
fn middle(shards: &[(u64, String)], chosen: usize) -> String {
    let bound = |shard: Option<&(u64, String)>| match shard {
        Some((_, from)) if from.is_empty() => 0,
        Some((_, from)) => u128::from_str_radix(from, 16).expect("a hash in hexadecimal digits"),
        None => 1 << 64,
    };
    format!("{:016x}", u128::midpoint(bound(shards.get(chosen)), bound(shards.get(chosen + 1))))
}

#[test]
fn backups_beside_splits_lack_nothing() {
    let _turn = alone();
    let cluster = started("[snapshot]\nmax_rate = \"1MiB\"\n", "hash");
    for turn in 0..2 {
        fill(&cluster, &format!("{turn} {}", "value ".repeat(10_000)));
    }
    let mut beside = 0;
    for number in 0..3 {
        let before = shards(&cluster, "t");
        let dir = thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..4 {
                    // In the middle of its hashes: a shard with one key has no middle of its bytes. Refused as long as the node that is
                    // asked is yet to hear of the split before.
                    let split = || {
                        let shards = shards(&cluster, "t");
                        let chosen = (number + turn) % shards.len();
                        let (shard, at) = (shards[chosen].0.to_string(), middle(&shards, chosen));
                        cluster.cli(&["--timeout", "60s", "shard", "split", &shard, "--at", &at]).code == 0
                    };
                    until(PATIENCE, "the shard is split", || split().then_some(())).unwrap();
                }
            });
            let (dir, manifest) = backup(&cluster, &format!("backup-{number}"), &[]);
            let known = |(shard, _): &(u64, String)| *shard == 1 || before.iter().any(|(id, _)| id == shard);
            let made = held(&manifest).into_iter().filter(|shard| !known(shard)).count();
            println!("backup {number}: {} shards, {made} of them made while it went on", held(&manifest).len());
            beside += made;
            dir
        });
        assert_eq!(contents(&restored(&dir)), contents(&cluster), "backup {number}");
    }
    assert!(beside > 0, "nothing was shown: no shard was split while a backup went on");
}
