//! What a user can get wrong, and what strangers may send: one line that says what is wrong, the documented exit code, and
//! nothing changed.
//!
//! Owns: the list "Bad input" of issue 2, as far as it is seen from outside. Must never: accept a refusal that changed
//! something: what is stored is compared around each of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_tests::alone;
use synod_tests::cluster::{Cluster, PATIENCE, free_ports};
use synod_tests::run::{Ran, command, run, send, until, wait_for};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A cluster with a range table of two shards, `r`, and a hash table, `h`, with a few records.
fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--split-at", "m", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "h", "--partition", "hash", "--shards", "2"]).ok();
    cluster.cli(&["append", "r", "a", "1", "2"]).ok();
    cluster.cli(&["put", "h", "a", "1"]).ok();
    cluster
}

/// Everything a user can see stored.
fn stored(cluster: &Cluster) -> String {
    let all = [&["table", "list"][..], &["tail", "r", "--from", "earliest"], &["tail", "h", "--from", "earliest"]];
    all.iter().map(|args| cluster.cli(&[&["-o", "json"], *args].concat()).ok().stdout).collect()
}

/// A file of the test's own.
fn file(cluster: &Cluster, name: &str, content: impl AsRef<[u8]>) -> String {
    let path: PathBuf = cluster.dir().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn bad_arguments_are_refused_in_one_line_and_change_nothing() {
    let _alone = alone();
    let cluster = start();
    let before = stored(&cluster);
    let refused = |args: &[&str], code: i32, words: &[&str]| cluster.cli(args).refused(code, words);

    // Keys and values.
    refused(&["put", "h", "", "x"], 2, &["KEY", "empty", "1 byte"]);
    refused(&["put", "h", &"k".repeat(4 * KIB + 1), "x"], 1, &["key", "4096", "fixed"]);
    let large = file(&cluster, "large", vec![b'x'; MIB + 1]);
    refused(&["put", "h", "k", "--value-file", &large], 1, &["value", "1048576", "limits.value_bytes_max"]);
    let huge = file(&cluster, "huge", vec![b'x'; 17 * MIB]);
    refused(&["put", "h", "k", "--value-file", &huge], 1, &["value", "16777216", "limits."]);
    refused(&["put", "h", "k", "--value-file", "/nonexistent/file"], 1, &["/nonexistent/file", "No such file"]);
    refused(&["put", "h", "k", "--value-base64", "%%%"], 2, &["VALUE", "base64"]);
    refused(&["put", "h", "k", "x", "-H", "noequals"], 2, &["NAME=VALUE"]);
    refused(&["put", "h", "k", "x", "--expect", "perhaps"], 2, &["perhaps", "absent", "exists"]);

    // Batches.
    let batch = |content: &str| file(&cluster, "batch", content);
    let put = |key: &str, value: &str| format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"{value}\"}}\n");
    refused(&["batch", "r", &batch("")], 2, &["no operation", "at least 1"]);
    refused(
        &["batch", "r", &batch(&put("a", "x").repeat(10_001))],
        1,
        &["records", "10000", "limits.batch_records_max"],
    );
    let fat = put("a", &"x".repeat(1_000_000)).repeat(6);
    refused(&["batch", "r", &batch(&fat)], 1, &["batch", "4194304", "limits.batch_bytes_max"]);
    refused(&["batch", "r", &batch(&(put("a", "x") + &put("z", "x")))], 1, &["several shards", "one shard"]);
    refused(
        &["batch", "r", &batch(&(put("a", "x") + "{\"op\":\"pu\"}\n"))],
        2,
        &["batch:2", "`put`", "nothing was written"],
    );

    // Tables.
    for args in [&["put", "nope", "k", "x"][..], &["get", "nope", "k"], &["scan", "nope"], &["table", "drop", "nope"]] {
        refused(args, 1, &["table", "\"nope\"", "does not exist"]);
    }
    let create = |rest: &[&str], code: i32, words: &[&str]| {
        refused(&[&["table", "create"], rest].concat(), code, words);
    };
    create(&["h", "--partition", "hash"], 1, &["\"h\"", "exists already"]);
    create(&["bad name", "--partition", "hash"], 2, &["\"bad name\"", "letters, digits"]);
    create(&["", "--partition", "hash"], 2, &["name", "at least 1 character"]);
    create(&["t", "--partition", "hash", "--shards", "0"], 2, &["shards", "at least 1"]);
    create(&["t", "--partition", "hash", "--shards", "1000000"], 2, &["shards", "at most 4096"]);
    create(&["t", "--partition", "range", "--split-at", "b", "--split-at", "a"], 2, &["split", "not sorted"]);
    create(&["t", "--partition", "range", "--split-at", "b", "--split-at", "b"], 2, &["split", "repeated"]);
    create(&["t", "--partition", "hash", "--split-at", "b"], 2, &["--split-at", "hash table", "--shards"]);
    create(&["t", "--partition", "range", "--shards", "4"], 2, &["--shards", "needs 3 split points", "--split-at"]);
    create(&["t", "--partition", "list"], 2, &["'list'", "hash, range"]);

    // The command line itself.
    refused(&["scan", "h", "--prefx", "a"], 2, &["'--prefx'", "'--prefix'"]);
    refused(&["stauts"], 2, &["'stauts'", "'status'"]);
    let nearest = cluster.cli(&["scan", "h", "--prefx", "a", "-o", "json"]).error();
    assert_eq!((nearest["error"].as_str(), nearest["nearest"].as_str()), (Some("usage"), Some("--prefix")));
    refused(&["--timeout", "1h", "get", "h", "a"], 2, &["--timeout", "9m"]);
    refused(&["--endpoints", "nonsense", "get", "h", "a"], 2, &["nonsense", "host:port"]);
    refused(&["--endpoints", "127.0.0.1:1", "--timeout", "1s", "get", "h", "a"], 1, &["127.0.0.1:1", "--endpoints"]);
    refused(&["scan", "h", "--cursor", "zzz"], 2, &["--cursor"]);
    refused(&["tail", "h", "--from", "zzz"], 2, &["--from", "token"]);
    refused(&["shard", "describe", "999"], 1, &["shard 999", "does not exist"]);

    assert_eq!(stored(&cluster), before, "nothing was changed");
}

#[test]
fn malformed_files_are_named_by_line_and_skips_are_counted() {
    let _alone = alone();
    let cluster = start();
    let before = stored(&cluster);
    let load = |file: &str, rest: &[&str]| cluster.cli(&[&["load", "r", file], rest].concat());
    let by_k = |format: &'static str| ["--format", format, "--key", "k"];
    let skipping = |format: &'static str| ["--format", format, "--key", "k", "--on-error", "skip", "-o", "json"];
    let counts = |ran: Ran| {
        let summary = ran.clone().ok().json();
        let named = ran.stderr.lines().filter(|line| line.starts_with("skipped ")).count();
        assert_eq!(summary["skipped"], named, "each is named: {}", ran.stderr);
        (summary["records"].as_u64().unwrap(), summary["skipped"].as_u64().unwrap())
    };

    // What cannot begin stores nothing.
    let csv = file(&cluster, "good.csv", "k,v\r\na,1\n");
    load(&csv, &["--format", "csv", "--key", "zz"]).refused(1, &["good.csv:1:", "--key 'zz'", "the header has k, v"]);
    load(&csv, &["--format", "lines", "--key", "k"]).refused(2, &["--key", "--key-regex"]);
    load(&csv, &["--format", "lines", "--key-regex", "(("]).refused(2, &["--key-regex", "unclosed group"]);
    load(&csv, &["--format", "lines"]).refused(2, &["--key"]);
    load("/nonexistent/f", &by_k("csv")).refused(1, &["/nonexistent/f", "No such file"]);
    let lines = file(&cluster, "lines", "abc\ndef\n");
    load(&lines, &["--format", "lines", "--key-regex", "zz"])
        .refused(1, &["lines:1:", "no match", "'zz'", "0 records"]);
    let none = load(&lines, &["--format", "lines", "--key-regex", "zz", "--on-error", "skip"]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.lines().last().unwrap().contains("matches nothing in"), "{}", none.stderr);
    cluster.cli(&["load", "nope", &lines, "--format", "lines", "--key-regex", "."]).refused(1, &["\"nope\""]);
    assert_eq!(stored(&cluster), before, "nothing was changed");

    // What stops on the way says where, and has stored what came before.
    let ndjson =
        file(&cluster, "bad.ndjson", "{\"k\":\"n\",\"v\":1}\n{\"k\":\"n\",\n{\"v\":2}\n{\"k\":\"o\"}\n[1]\nnull\n");
    load(&ndjson, &by_k("ndjson"))
        .refused(1, &["bad.ndjson:2:", "not JSON", "1 records acknowledged", "before line 2"]);
    let read = cluster.cli(&["-o", "json", "read", "r", "n"]).ok().json_lines();
    assert_eq!((read.len(), read[0]["value"].as_str()), (1, Some("{\"k\":\"n\",\"v\":1}")));
    assert_eq!(counts(load(&ndjson, &skipping("ndjson"))), (2, 4));
    let csv = file(&cluster, "bad.csv", "k,v\np,1\nq\np,3,4\n\"q\",5\n\"r,6\n");
    load(&csv, &by_k("csv")).refused(1, &["bad.csv:3:", "1 fields where the header has 2", "1 records acknowledged"]);
    assert_eq!(counts(load(&csv, &skipping("csv"))), (2, 3));
    assert_eq!(cluster.json(&["get", "r", "q"])["value"], "\"q\",5", "as it stands in the file");
    let long = file(&cluster, "long", format!("k1 {}\nk1 short\n", "x".repeat(MIB)));
    let lines = ["--format", "lines", "--key-regex", "^k1"];
    load(&long, &lines).refused(1, &["long:1:", "1048576", "limits.value_bytes_max", "0 records"]);
    assert_eq!(counts(load(&long, &[&lines[..], &["--on-error", "skip", "-o", "json"]].concat())), (1, 1));
}

#[test]
fn a_closed_pipe_is_no_error_and_ctrl_c_says_how_far_a_load_came() {
    let _alone = alone();
    let cluster = start();
    let content: String = (0..60_000).map(|n| format!("key-{:04} record {n} {:>60}\n", n % 5_000, "")).collect();
    let big = file(&cluster, "big", content);
    let args = ["load", "r", &big, "--format", "lines", "--key-regex", "^key-[0-9]+", "--repeat", "200"];
    let mut loading = cluster.command(&args);
    let loading = loading.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let interrupted = Instant::now();
    send(loading.id(), Signal::SIGINT);
    let ran: Ran = loading.wait_with_output().unwrap().into();
    assert!(interrupted.elapsed() < Duration::from_secs(10), "it ended after {:?}", interrupted.elapsed());
    assert_eq!(ran.code, 1, "{ran:?}");
    let line = ran.stderr.lines().last().unwrap_or_default().to_owned();
    println!("Ctrl-C: {line}");
    assert!(line.contains("interrupted") && line.contains("before line") && line.contains("stored"), "{line}");
    let (_, acknowledged) = line.split_once("interrupted; ").expect("it says how many");
    let acknowledged: usize = acknowledged.split(' ').next().unwrap().parse().unwrap();
    assert!(acknowledged > 0);
    let tail = cluster.cli(&["tail", "r", "--prefix", "key-", "--from", "earliest"]).ok();
    assert_eq!(tail.stdout.lines().count(), acknowledged, "exactly the acknowledged records are there");

    for args in [&["scan", "r"][..], &["tail", "r", "--from", "earliest"], &["-o", "json", "read", "r", "key-0001"]] {
        let mut reader = cluster.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        // Dropped with the statement: the pipe is closed while there is more to come.
        BufReader::new(reader.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty());
        let ran: Ran = reader.wait_with_output().unwrap().into();
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("error") && !ran.stderr.contains("panic"), "{args:?}: {}", ran.stderr);
    }
}

/// Runs a node that should end by itself; ends it where it does not.
fn run_briefly(args: &[String]) -> Ran {
    let mut node = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if wait_for(&mut node, Duration::from_secs(5)).is_none() {
        node.kill().expect("it is our child");
    }
    node.wait_with_output().unwrap().into()
}

/// What strangers send: noise, half a protocol, another protocol, nothing at all.
fn garbage(seed: u64) -> Vec<u8> {
    let mut noise = vec![0; 64 * KIB];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut noise);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    match seed % 6 {
        0 => noise,
        1 => [&preface[..], &noise].concat(),
        // A settings frame, then headers of which the length is a lie.
        2 => [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1], &noise[..100]].concat(),
        3 => preface[..10].to_vec(),
        4 => [&b"GET /"[..], &vec![b'a'; 70 * KIB], b" HTTP/1.1\r\n\r\n"].concat(),
        _ => [&b"\x16\x03\x01\x02\x00\x01"[..], &noise[..512]].concat(),
    }
}

#[test]
fn garbage_on_every_port_harms_nobody() {
    let _alone = alone();
    let mut cluster = start();
    let pids: Vec<u32> = (1..=3).map(|number| cluster.pid(number)).collect();
    let mut idle = Vec::new();
    for seed in 0..24 {
        for number in 1..=3 {
            for addr in [cluster.addr(number), cluster.http(number)] {
                let mut stream = TcpStream::connect(&addr).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                // It may be cut off before it has said everything.
                let _ = stream.write_all(&garbage(seed));
                let _ = stream.read(&mut [0; 1024]);
                if seed % 3 == 0 {
                    idle.push(stream);
                } else {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }
    // With connections of theirs still open, work goes on.
    cluster.cli(&["put", "h", "a", "2"]).ok();
    assert_eq!(cluster.json(&["get", "h", "a"])["value"], "2");
    let status = cluster.wait_up();
    assert_eq!(status.shards().len(), 1 + 2 + 2);
    drop(idle);
    for (number, pid) in (1..=3).zip(pids) {
        assert!(cluster.runs(number) && cluster.pid(number) == pid, "node {number} lives: {}", cluster.log(number));
        assert!(!cluster.log(number).contains("panicked"), "node {number} panicked: {}", cluster.log(number));
    }
}

#[test]
fn a_node_that_cannot_start_says_why_and_touches_nothing() {
    let _alone = alone();
    let mut cluster = start();
    let fresh = cluster.dir().join("fresh");
    let dir = fresh.to_str().unwrap();
    let (free, taken) = (format!("127.0.0.1:{}", free_ports()), cluster.addr(1));
    let server = |data: &str, listen: &str, rest: &[&str]| {
        run(&[&["server", "--data-dir", data, "--listen", listen], rest].concat())
    };
    server(dir, &taken, &["--bootstrap", &taken]).refused(1, &["--listen", &taken, "in use"]);
    server(dir, &free, &["--bootstrap", &free, "--http", &cluster.http(1)]).refused(1, &["--http", "in use"]);
    assert!(!fresh.exists(), "a directory was made for a node that could not listen");
    let used = cluster.data_dir(1).display().to_string();
    server(&used, &free, &["--bootstrap", &free]).refused(1, &["--data-dir", &used, "another process uses it"]);
    server(dir, "0.0.0.0:1", &["--bootstrap", &free]).refused(2, &["--listen", "--insecure"]);
    server(dir, &free, &["--bootstrap", "nonsense"]).refused(2, &["--bootstrap", "HOST:PORT"]);
    server(dir, &free, &["--bootstrap", &format!("{free},{free}")]).refused(2, &["--bootstrap", "twice"]);
    server(dir, &free, &["--bootstrap", &free, "--join", &taken]).refused(2, &["--bootstrap", "--join"]);
    server(dir, &free, &["--bootstrap", &free, "--bootsrap", "x"]).refused(2, &["'--bootsrap'", "'--bootstrap'"]);
    let settings = file(&cluster, "synod.toml", "[limits]\nvalue_bytes_mx = 3\n");
    server(dir, &free, &["--bootstrap", &free, "--config", &settings]).refused(2, &["synod.toml:2", "value_bytes_max"]);
    assert!(!fresh.exists(), "a directory was made for a node that was refused");
    server(dir, &free, &[]).refused(1, &[dir, "empty", "--bootstrap", "--join"]);
    server(dir, &free, &["--bootstrap", &taken]).refused(1, &["--bootstrap", &taken, &free]);

    // Damaged and newer formats: refused by the file's name, the file as it was.
    cluster.stop(3);
    let flags = ["--bootstrap".to_owned(), cluster.founders()];
    let args = cluster.args(3, &flags);
    let data = cluster.data_dir(3);
    let largest = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap());
    let largest = largest.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "log"));
    let wal = largest.max_by_key(|entry| entry.metadata().unwrap().len()).expect("a write-ahead log").path();
    let mut flipped = fs::read(&wal).unwrap();
    let third = flipped.len() / 3;
    flipped[third] ^= 0x40;
    let damages = [
        // First: a start that comes as far as the log writes a new one.
        ("one bit flipped", wal, flipped),
        // Version 9, with its checksum.
        ("newer", data.join("state/FORMAT"), b"\x09\x29\x57\xde\xab".to_vec()),
        ("cut", data.join("log/CURRENT"), b"MAN".to_vec()),
    ];
    for (what, path, content) in damages {
        let good = fs::read(&path).unwrap();
        fs::write(&path, &content).unwrap();
        let ran = run_briefly(&args);
        println!("{} {what}: {}", path.display(), ran.stderr.lines().last().unwrap_or_default());
        assert_eq!(ran.code, 1, "{what}: {ran:?}");
        let said = ran.stderr.lines().last().unwrap_or_default();
        assert!(said.contains("error:") && said.contains("node-3"), "{what}: {said}");
        assert!(what != "newer" || said.contains('9'), "it names the version: {said}");
        assert_eq!(fs::read(&path).unwrap(), content, "{what}: the file is as it was");
        fs::write(&path, good).unwrap();
    }
    cluster.restart(3);
    let up = until(PATIENCE, "node 3 is back", || {
        cluster.status()?.state(&cluster.addr(3)).filter(|s| *s == "up").map(drop)
    });
    up.unwrap();
    assert_eq!(cluster.json(&["get", "r", "a"])["value"], "2");
}
