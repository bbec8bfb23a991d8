//! A data directory in every state that a crash, an operator or a tool may leave it in: a node begins with all of what it
//! had, or says in one line why it does not.
//!
//! Owns: the claims about directories that are not as a node left them. Must never: take a node for sound that begins without
//! what it had acknowledged.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use synod_tests::cluster::{Cluster, PATIENCE, free_ports};
use synod_tests::run::{Ran, command, run, send, until, wait_for};
use synod_tests::{alone, copy};

const RECORDS: usize = 40;

/// How a node begins on a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// With all that was acknowledged.
    Whole,
    /// Not, for a reason with this in it.
    Refused(&'static str),
    /// As one of a new cluster, where it may found one: there was nothing.
    Fresh,
}
use Begins::{Fresh, Refused, Whole};

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The files of a folder whose names have this in them.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))).collect()
}

fn remove_all(folder: &Path, part: &str) {
    files(folder, part).iter().for_each(|path| remove(path));
}

fn empty_all(folder: &Path, part: &str) {
    files(folder, part).iter().for_each(|path| drop(File::create(path).expect("a file")));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
}

/// A folder where a file belongs.
fn folder(path: &Path) {
    if path.exists() {
        remove(path);
    }
    fs::create_dir(path).expect("a folder");
    write(&path.join("x"), "x");
}

/// A file where a folder belongs.
fn file(path: &Path) {
    remove(path);
    write(path, "x");
}

type State = (&'static str, fn(&Path), Begins);

/// Each from the directory that a node left in order.
const STATES: &[State] = &[
    ("as it was left", |_| {}, Whole),
    (
        "empty",
        |dir| ["log", "state", "snapshots", "founders.json"].iter().for_each(|name| remove(&dir.join(name))),
        Fresh,
    ),
    ("no log", |dir| remove(&dir.join("log")), Refused("its log belongs to no cluster")),
    (
        "an empty log",
        |dir| {
            remove(&dir.join("log"));
            fs::create_dir(dir.join("log")).expect("a folder")
        },
        Refused("its log belongs to no cluster"),
    ),
    ("a file for the log", |dir| file(&dir.join("log")), Refused("log")),
    ("no CURRENT in the log", |dir| remove(&dir.join("log/CURRENT")), Refused("log/CURRENT")),
    ("CURRENT of the log is empty", |dir| empty_all(&dir.join("log"), "CURRENT"), Refused("CURRENT")),
    (
        "CURRENT of the log names nothing",
        |dir| write(&dir.join("log/CURRENT"), "MANIFEST-999999\n"),
        Refused("MANIFEST-999999"),
    ),
    ("CURRENT of the log is nonsense", |dir| write(&dir.join("log/CURRENT"), "nonsense\n"), Refused("log")),
    ("CURRENT of the log is a folder", |dir| folder(&dir.join("log/CURRENT")), Refused("log")),
    ("no MANIFEST in the log", |dir| remove_all(&dir.join("log"), "MANIFEST"), Refused("MANIFEST")),
    ("MANIFEST of the log is empty", |dir| empty_all(&dir.join("log"), "MANIFEST"), Refused("log")),
    ("no WAL in the log", |dir| remove_all(&dir.join("log"), ".log"), Refused("log")),
    ("the WAL is empty", |dir| empty_all(&dir.join("log"), ".log"), Refused("log")),
    (
        "foreign files in the log",
        |dir| {
            write(&dir.join("log/notes"), "x");
            folder(&dir.join("log/more"))
        },
        Whole,
    ),
    ("no state", |dir| remove(&dir.join("state")), Whole),
    (
        "an empty state",
        |dir| {
            remove(&dir.join("state"));
            fs::create_dir(dir.join("state")).expect("a folder")
        },
        Whole,
    ),
    ("a file for the state", |dir| file(&dir.join("state")), Refused("state")),
    ("no FORMAT in the state", |dir| remove(&dir.join("state/FORMAT")), Whole),
    ("FORMAT of the state is empty", |dir| empty_all(&dir.join("state"), "FORMAT"), Whole),
    ("FORMAT of the state is a folder", |dir| folder(&dir.join("state/FORMAT")), Refused("FORMAT")),
    ("no database in the state", |dir| remove(&dir.join("state/db")), Whole),
    ("a file for the state's database", |dir| file(&dir.join("state/db")), Refused("state/db")),
    ("no CURRENT in the state", |dir| remove(&dir.join("state/db/CURRENT")), Whole),
    ("CURRENT of the state is empty", |dir| empty_all(&dir.join("state/db"), "CURRENT"), Whole),
    ("CURRENT of the state names nothing", |dir| write(&dir.join("state/db/CURRENT"), "MANIFEST-999999\n"), Whole),
    ("no MANIFEST in the state", |dir| remove_all(&dir.join("state/db"), "MANIFEST"), Whole),
    ("MANIFEST of the state is empty", |dir| empty_all(&dir.join("state/db"), "MANIFEST"), Whole),
    ("no tables in the state", |dir| remove_all(&dir.join("state/db"), ".sst"), Whole),
    ("the state's tables are empty", |dir| empty_all(&dir.join("state/db"), ".sst"), Whole),
    (
        "a file for the staging",
        |dir| {
            remove(&dir.join("state/staging"));
            write(&dir.join("state/staging"), "x")
        },
        Refused("staging"),
    ),
    ("DAMAGED is a folder", |dir| folder(&dir.join("state/DAMAGED")), Whole),
    ("half a salvage", |dir| folder(&dir.join("state.salvaged")), Whole),
    (
        "log and state in each other's place",
        |dir| {
            fs::rename(dir.join("log"), dir.join("x")).expect("it is there");
            fs::rename(dir.join("state"), dir.join("log")).expect("it is there");
            fs::rename(dir.join("x"), dir.join("state")).expect("it is there");
        },
        Refused("its log belongs to no cluster"),
    ),
    ("no snapshots", |dir| remove(&dir.join("snapshots")), Whole),
    ("a file for the snapshots", |dir| file(&dir.join("snapshots")), Refused("snapshots")),
    (
        "foreign files among the snapshots",
        |dir| {
            write(&dir.join("snapshots/fetched/shard-9.snap"), "x");
            write(&dir.join("snapshots/fetched/notes"), "x");
            folder(&dir.join("snapshots/fetched/shard-1.snap"))
        },
        Whole,
    ),
    ("no founders", |dir| remove(&dir.join("founders.json")), Whole),
    ("founders are nonsense", |dir| write(&dir.join("founders.json"), "nonsense"), Refused("founders.json")),
    ("founders are a folder", |dir| folder(&dir.join("founders.json")), Refused("founders.json")),
    ("a join is left", |dir| write(&dir.join("join.json"), "nonsense"), Whole),
    ("the map is nonsense", |dir| write(&dir.join("map.bin"), "nonsense"), Whole),
    ("the map is a folder", |dir| folder(&dir.join("map.bin")), Whole),
    ("LOCK is a folder", |dir| folder(&dir.join("LOCK")), Refused("LOCK")),
    ("the reserve is a folder", |dir| folder(&dir.join("reserve")), Whole),
    (
        "foreign files",
        |dir| {
            write(&dir.join("notes"), "x");
            folder(&dir.join("more"))
        },
        Whole,
    ),
    ("a restore that did not end", |dir| write(&dir.join("RESTORING"), ""), Refused("a restore into it did not end")),
    (
        "nothing but the mark of a restore",
        |dir| {
            remove(dir);
            fs::create_dir(dir).expect("a folder");
            write(&dir.join("RESTORING"), "")
        },
        Refused("a restore into it did not end"),
    ),
    ("a file", |dir| file(dir), Refused("--data-dir")),
    (
        "a link to nothing",
        |dir| {
            remove(dir);
            symlink("/nonexistent/x", dir).expect("a link")
        },
        Refused("--data-dir"),
    ),
    (
        "a backup",
        |dir| {
            remove(dir);
            fs::create_dir(dir).expect("a folder");
            write(&dir.join("manifest.json"), "{}")
        },
        Fresh,
    ),
];

/// Starts a node; where it goes on, what it holds.
fn begin(cluster: &Cluster, dir: &Path, origin: &[&str]) -> Result<usize, Ran> {
    let (data, addr, log) = (dir.display().to_string(), cluster.addr(1), cluster.dir().join("begun.log"));
    let args = ["server", "--data-dir", &data, "--listen", &addr, "--die-with-stdin"];
    let mut server = command(&[&args[..], origin].concat());
    server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
    let mut child = server.spawn().expect("the binary runs");
    let said = || fs::read_to_string(&log).expect("a log");
    let ended = until(PATIENCE, "the node serves or ends", || {
        if let Some(status) = child.try_wait().expect("it is our child") {
            let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(1));
            return Some(Err(Ran { code, stdout: String::new(), stderr: said(), bytes: Vec::new() }));
        }
        let read = cluster_cli(&addr, &["-o", "json", "--timeout", "1s", "scan", "t"]);
        // The table is not there in a cluster just founded.
        let none = read.code == 1 && read.stderr.contains("table_not_found");
        (read.code == 0 || none).then(|| Ok(read.stdout.lines().count()))
    });
    // What it leaves is thrown away.
    child.kill().expect("it is our child");
    wait_for(&mut child, PATIENCE).expect("it was killed");
    ended.unwrap_or_else(|why| panic!("{why}: {}", said()))
}

fn cluster_cli(addr: &str, args: &[&str]) -> Ran {
    run(&[&["--endpoints", addr], args].concat())
}

#[test]
fn no_state_of_a_directory_ends_a_process_but_by_its_own_words() {
    let _turn = alone();
    let mut cluster = Cluster::empty(1);
    cluster.add_founder(1);
    cluster.wait_up();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "2", "--retain", "all"]).ok();
    for n in 0..RECORDS {
        cluster.cli(&["put", "t", &format!("key-{n}"), &"value ".repeat(100)]).ok();
    }
    cluster.stop(1);
    let founders = cluster.founders();
    let mut wrong = Vec::new();
    for state in STATES {
        wrong.extend(fault(&cluster, state, &[]));
        // Where there is nothing, or something is amiss, `--bootstrap` must not make it worse.
        if state.2 != Whole {
            wrong.extend(fault(&cluster, state, &["--bootstrap", &founders]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What of these `synod check` does not look at.
const UNCHECKED: [&str; 3] = ["founders.json", "snapshots", "staging"];

/// What is wrong with how a node begins on a directory in this state.
fn fault(cluster: &Cluster, (name, spoil, begins): &State, origin: &[&str]) -> Option<String> {
    let dir = cluster.dir().join("spoilt");
    if fs::symlink_metadata(&dir).is_ok() {
        remove_any(&dir);
    }
    copy(&cluster.data_dir(1), &dir);
    spoil(&dir);
    let check = run(&["check", &dir.display().to_string()]);
    let begun = begin(cluster, &dir, origin);
    let right = match (begins, &begun) {
        (Whole, Ok(RECORDS)) => true,
        (Fresh, Err(ran)) => origin.is_empty() && ran.code == 1 && ran.stderr.contains("belongs to no cluster"),
        (Fresh, Ok(0)) => !origin.is_empty(),
        (Refused(why), Err(ran)) => {
            let last = ran.stderr.lines().last().unwrap_or_default();
            ran.code == 1 && last.starts_with("error: ") && last.contains(why)
        }
        _ => false,
    };
    // What a node refuses is named by a look at it too.
    let checked = match begins {
        Refused(why) if !UNCHECKED.contains(why) => check.code == 1,
        _ => matches!(check.code, 0 | 1),
    };
    let said = match &begun {
        Ok(records) => format!("{records} records"),
        Err(ran) => format!("ended with {}: {}", ran.code, ran.stderr.lines().last().unwrap_or_default()),
    };
    let said = format!("{name}, {origin:?}: {said}; check ended with {}: {}", check.code, check.stderr.trim_end());
    println!("{said}");
    (!right || !checked).then(|| format!("{said}; {begins:?} was expected"))
}

fn remove_any(path: &Path) {
    match fs::symlink_metadata(path).expect("it is there").is_dir() {
        true => fs::remove_dir_all(path).expect("it can be removed"),
        false => fs::remove_file(path).expect("it can be removed"),
    }
}

/// One of two founders, whose other one never comes: it has its ports and its directory, and belongs to nothing yet.
#[test]
fn a_node_that_is_told_to_end_before_it_belongs_to_a_cluster_ends_in_order() {
    let _alone = alone();
    let (dir, port) = (tempfile::tempdir().expect("a directory"), free_ports());
    let (addr, other) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
    let data = dir.path().join("data").to_string_lossy().into_owned();
    let founders = format!("{addr},{other}");
    let args: [&str; 7] = ["server", "--data-dir", &data, "--listen", &addr, "--bootstrap", &founders];
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut node = command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        until(PATIENCE, "it listens", || TcpStream::connect(&addr).ok()).expect("it listens");
        send(node.id(), signal);
        let ended = wait_for(&mut node, PATIENCE).expect("it ends");
        assert_eq!((ended.code(), ended.signal()), (Some(0), None), "{signal}");
    }
}
