//! `synod backup` and `synod restore`: a new cluster under new identities holds what the old one held.
//!
//! Owns: the claims about backups. Must never: compare less than every record of every table.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use synod_tests::cluster::{Cluster, PATIENCE, Status};
use synod_tests::run::{Ran, command, finish, run, until, wait_for};
use synod_tests::{alone, copy};

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
    // Another name makes another cluster: nobody who knows the one takes the other for it.
    let named = |name: &str, node: &str| {
        let data = new.dir().join(format!("named-{name}-{node}")).display().to_string();
        let args = ["restore", &backup, "--data-dir", &data, "--founders", &founders, "--node", node, "--name", name];
        old.json(&args)["cluster"].clone()
    };
    let second = named("second", "1");
    assert!(second == named("second", "2") && second != names[0] && second != named("third", "1"), "{second}");
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

/// Makes a table with this many shards, and a record in it.
fn table(cluster: &Cluster, name: &str, shards: &str) {
    cluster.cli(&["table", "create", name, "--partition", "hash", "--shards", shards]).ok();
    cluster.cli(&["put", name, "key", name]).ok();
}

#[test]
fn tables_come_and_go_beside_a_backup() {
    let _turn = alone();
    let cluster = Cluster::start();
    table(&cluster, "kept", "3");
    let over = AtomicBool::new(false);
    let (mut dropped, mut backups) = (0, Vec::new());
    thread::scope(|scope| {
        for writer in 0..2 {
            let (cluster, over) = (&cluster, &over);
            scope.spawn(move || {
                for turn in 0.. {
                    let name = format!("t-{writer}-{turn}");
                    table(cluster, &name, "4");
                    cluster.cli(&["table", "drop", &name]).ok();
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for number in 0..8 {
            let dir = cluster.dir().join(format!("backup-{number}"));
            let ran = cluster.cli(&["-o", "json", "backup", &dir.display().to_string()]);
            over.store(ran.code != 0 || number == 7, Ordering::Relaxed);
            dropped += ran.ok().json()["dropped"].as_array().map_or(0, Vec::len);
            backups.push(dir);
        }
    });
    println!("{dropped} tables were dropped while they were read, in {} backups", backups.len());
    assert!(dropped > 0, "nothing was shown: no table was dropped while a backup went on");
    let mut new = Cluster::empty(1);
    for dir in backups {
        let without =
            serde_json::from_str::<Value>(&fs::read_to_string(dir.join("manifest.json")).expect("it is there"));
        let without = without.expect("JSON")["dropped"].as_array().map_or(0, Vec::len);
        let at = new.dir().join(dir.file_name().expect("a name"));
        restore(&dir, &at, &new.founders()).ok();
        let check = run(&["-o", "json", "check", &at.display().to_string()]).ok().json();
        assert_eq!(check["damages"].as_array().map(Vec::len), Some(0), "{check}");
        if without > 0 && !new.data_dir(1).exists() {
            fs::rename(&at, new.data_dir(1)).expect("the same disk");
        }
    }
    new.add_restored(1);
    new.wait_up();
    assert_eq!(new.cli(&["get", "kept", "key"]).ok().stdout.trim_end(), "kept");
    for listed in new.cli(&["-o", "json", "table", "list"]).ok().json_lines() {
        let name = listed["name"].as_str().expect("a name");
        // Without a record where the backup was made before it was written, and whole in any case.
        assert!([0, 1].contains(&new.cli(&["scan", name]).ok().stdout.lines().count()), "{name}");
    }
    table(&new, "fresh", "2");
}

fn restore(from: &Path, to: &Path, founders: &str) -> Ran {
    run(&restore_args(from, to, founders))
}

fn restore_args(from: &Path, to: &Path, founders: &str) -> Vec<String> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    ["restore", &from, "--data-dir", &to, "--founders", founders, "--node", "1"].map(str::to_owned).to_vec()
}

/// Starts the binary and kills it as soon as `seen`; whether it was still at work.
fn killed(mut command: std::process::Command, seen: impl Fn() -> bool) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let began = Instant::now();
    while !seen() && began.elapsed() < PATIENCE && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_micros(200));
    }
    child.kill().expect("it is our child");
    let ended = wait_for(&mut child, PATIENCE).expect("it was killed");
    ended.code().is_none()
}

fn snapshots(dir: &Path) -> usize {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".snap")).count()
}

/// A cluster with something in it whose snapshots take a while.
fn slow() -> Cluster {
    let cluster = Cluster::start_with("[snapshot]\nmax_rate = \"1MiB\"\n");
    cluster.cli(&["table", "create", "all", "--partition", "hash", "--shards", "3", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "latest", "--partition", "range", "--split-at", "key-3"]).ok();
    for n in 0..14 {
        cluster.cli(&["append", "all", &format!("key-{}", n % 7), &"value ".repeat(20_000)]).ok();
        cluster.cli(&["put", "latest", &format!("key-{n}"), &format!("value {n}")]).ok();
    }
    cluster
}

#[test]
fn half_a_backup_is_named_and_goes_on_or_begins_anew() {
    let _turn = alone();
    let cluster = slow();
    let whole = cluster.dir().join("whole");
    let content = |manifest: &Value| shards(manifest).into_iter().map(|(shard, _, content)| (shard, content)).collect();
    let expected: Vec<(u64, String)> = content(&cluster.json(&["backup", &whole.display().to_string()]));
    for flag in ["--resume", "--replace"] {
        let half = cluster.dir().join(format!("half{flag}"));
        let dir = half.display().to_string();
        assert!(killed(cluster.command(&["backup", &dir]), || snapshots(&half) >= 2), "it was done already");
        let kept = snapshots(&half);
        cluster.cli(&["backup", &dir]).refused(2, &["an unfinished backup", "--resume", "--replace"]);
        restore(&half, &cluster.dir().join("never"), "h:1").refused(1, &["the backup is unfinished"]);
        assert!(!cluster.dir().join("never").exists());
        let one = half.join("shard-1.snap");
        let written = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).expect("a file");
        let before = written(&one);
        let manifest = cluster.json(&["backup", &dir, flag]);
        assert_eq!(content(&manifest), expected, "{flag}");
        assert_eq!(written(&one) == before, flag == "--resume", "{flag}: {kept} files were there");
        let names: Vec<_> = fs::read_dir(&half).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names.len(), 7, "six shards and the manifest: {names:?}");
        cluster.cli(&["backup", &dir, flag]).refused(2, &["is not empty", "whole backup"]);
        restore(&half, &cluster.dir().join(format!("restored{flag}")), "h:1").ok();
    }
    // A file that is no part of a backup is left alone.
    let mine = cluster.dir().join("mine");
    fs::create_dir(&mine).expect("a folder");
    fs::write(mine.join("notes"), "mine").expect("a file");
    cluster.cli(&["backup", &mine.display().to_string(), "--replace"]).refused(2, &["is not empty", "notes"]);
}

#[test]
fn half_a_restore_is_no_node() {
    let _turn = alone();
    let cluster = slow();
    let backup = cluster.dir().join("backup");
    cluster.cli(&["backup", &backup.display().to_string()]).ok();
    let mut new = Cluster::empty(1);
    let (data, addr) = (new.data_dir(1), new.addr(1));
    let dir = data.display().to_string();
    let args = restore_args(&backup, &data, &new.founders());
    // Killed with the log there, or the state, or later.
    for there in ["log/CURRENT", "state/FORMAT", "state/staging", "state/db/CURRENT"] {
        // What an earlier turn left would be taken for this one's.
        let _ = fs::remove_dir_all(&data);
        let caught = until(PATIENCE, "a restore is caught half way", || {
            let caught = killed(command(&args), || data.join(there).exists());
            if !caught || !data.join("RESTORING").exists() {
                fs::remove_dir_all(&data).expect("it is there");
            }
            data.exists().then_some(())
        });
        caught.unwrap_or_else(|why| panic!("{why}"));
        for origin in [&[][..], &["--bootstrap", &addr], &["--join", "127.0.0.1:1"]] {
            let server: Vec<&str> =
                ["server", "--data-dir", &dir, "--listen", &addr].iter().chain(origin).copied().collect();
            let said = run(&server);
            assert!(said.code == 1 && said.stderr.contains("a restore into it did not end"), "{}: {said:?}", said.code);
        }
        run(&["check", &dir]).refused(1, &["a restore into it did not end"]);
        fs::write(data.join("notes"), "mine").expect("a file");
        finish(command(&args), None).refused(2, &["is not empty", "notes"]);
        fs::remove_file(data.join("notes")).expect("it is there");
    }
    finish(command(&args), None).ok();
    run(&["check", &dir]).ok();
    finish(command(&args), None).refused(2, &["is not empty"]);
    new.add_restored(1);
    new.wait_up();
    assert_eq!(contents(&new), contents(&cluster));
}

#[test]
fn a_backup_across_an_upgrade_is_restored_at_the_later_version() {
    let _turn = alone();
    let mut old = Cluster::start_with("[cluster]\nversion_max = 1\n");
    old.cli(&["table", "create", "all", "--partition", "hash", "--shards", "3", "--retain", "all"]).ok();
    old.cli(&["table", "create", "latest", "--partition", "range"]).ok();
    let fill = |cluster: &Cluster, value: &str| {
        for key in 0..7 {
            cluster.cli(&["append", "all", &format!("key-{key}"), value]).ok();
        }
    };
    fill(&old, "at the first");
    let (first, across) = (old.dir().join("first"), old.dir().join("across"));
    let plain = old.json(&["backup", &first.display().to_string()]);
    assert!(plain["version"] == 1 && plain.get("cluster_version").is_none(), "{plain}");
    fs::write(old.dir().join("synod.toml"), "").expect("the settings can be written");
    for number in 1..=3 {
        old.stop(number);
        old.restart(number);
        old.wait_caught_up(number);
    }
    old.wait_up();
    until(PATIENCE, "the version rises", || (old.cli(&["cluster", "upgrade", "--to", "2"]).code == 0).then_some(()))
        .unwrap();
    let version = |status: &Status| status.value["version"].as_u64();
    old.wait_status("the second version", |status| version(status) == Some(2));
    fill(&old, "at the second");
    // The system shard was read before the upgrade, and the others are after it.
    fs::create_dir(&across).expect("a folder");
    fs::copy(first.join("shard-1.snap"), across.join("shard-1.snap")).expect("a copy");
    let mark = serde_json::json!({ "version": 1, "cluster": plain["cluster"] });
    fs::write(across.join("UNFINISHED"), mark.to_string()).expect("a file");
    let manifest = old.json(&["backup", &across.display().to_string(), "--resume"]);

    let mut new = Cluster::empty(3);
    let founders = new.founders();
    for node in 1..=3 {
        let (from, data) = (across.display().to_string(), new.data_dir(node).display().to_string());
        old.cli(&["restore", &from, "--data-dir", &data, "--founders", &founders, "--node", &node.to_string()]).ok();
    }
    (1..=3).for_each(|node| new.add_restored(node));
    let status = new.wait_up();
    assert_eq!(version(&status), Some(2), "its rows are those of the second version");
    assert_eq!(contents(&new), contents(&old));
    // Nodes that could not read it are refused: one of its own, and one that joins.
    let settings = new.dir().join("old.toml");
    fs::write(&settings, "[cluster]\nversion_max = 1\n").expect("a file");
    let settings = settings.display().to_string();
    new.stop(3);
    let (data, addr) = (new.data_dir(3).display().to_string(), new.addr(3));
    let words = ["cluster is at version 2", "speaks versions 1 to 1"];
    run(&["server", "--data-dir", &data, "--listen", &addr, "--config", &settings]).refused(1, &words);
    let (data, addr) = (new.data_dir(4).display().to_string(), new.addr(4));
    let mut joiner =
        command(&["server", "--data-dir", &data, "--listen", &addr, "--join", &founders, "--config", &settings]);
    joiner.env("SYNOD_LOG", "error");
    finish(joiner, None).refused(1, &["refused the join", "at version 2"]);
    // A binary that does not know of such backups must not make a cluster of one.
    assert_eq!((&manifest["version"], &manifest["cluster_version"]), (&3.into(), &2.into()), "{manifest}");
}

#[test]
fn the_line_that_starts_a_restored_node_starts_it() {
    let _turn = alone();
    let mut old = Cluster::empty(1);
    old.add_founder(1);
    old.wait_up();
    let backup = old.dir().join("backup");
    old.cli(&["backup", &backup.display().to_string()]).ok();
    for (founder, flag) in
        [("127.0.0.1:7400", false), ("localhost:7400", false), ("10.1.2.3:7400", true), ("h:7400", true)]
    {
        let said = restore(&backup, &old.dir().join(founder), founder).ok().stdout;
        let line = said.lines().find(|line| line.starts_with("start it with: ")).expect("it says how");
        assert!(line.contains(&format!("--listen {founder}")) && line.ends_with("--insecure") == flag, "{line}");
    }
}

#[test]
fn the_founders_of_a_restored_cluster_are_checked() {
    let room = tempfile::tempdir().expect("a temporary directory");
    let data = room.path().join("node");
    let cases = [
        ("nonsense", "not an address"),
        ("127.0.0.1:7401,", "not an address"),
        (",127.0.0.1:7401", "not an address"),
        ("127.0.0.1:7401,127.0.0.1:7401", "twice"),
        ("127.0.0.1:0", "not an address"),
        ("127.0.0.1:70000", "not an address"),
        ("http://127.0.0.1:7401", "not an address"),
        ("127.0.0.1:7401,h 2:7401", "not an address"),
    ];
    for (founders, said) in cases {
        // Before the backup is looked at: this one is not there.
        let line = restore(&room.path().join("none"), &data, founders).refused(2, &["--founders", said]);
        let server = run(&["server", "--data-dir", "d", "--listen", "127.0.0.1:7401", "--bootstrap", founders]);
        assert_eq!(
            server.refused(2, &["--bootstrap", said]),
            line.replace("--founders", "--bootstrap"),
            "as a node says"
        );
        assert!(!data.exists());
    }
}
