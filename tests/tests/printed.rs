//! What is printed, and where: data that a terminal would obey, standard output that cannot be written, answers and errors
//! about what was asked for in another spelling.
//!
//! Owns: the claims about text, JSON and exit codes that hold for every command, each shown on one. Must never: accept an
//! escaped text that could be two values.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use synod_tests::alone;
use synod_tests::cluster::{Cluster, free_ports};
use synod_tests::run::{Ran, finish, run};

fn start() -> Cluster {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "all", "--partition", "range", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "kv", "--partition", "hash", "--shards", "2"]).ok();
    cluster
}

/// Whether it can go to a terminal as it is: lines of characters that are seen, or tabs.
#[track_caller]
fn is_harmless(ran: &Ran) {
    for said in [&ran.stdout, &ran.stderr] {
        let bad = |c: char| {
            (c.is_control() && c != '\n' && c != '\t')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        assert!(!said.contains(bad), "{said:?}");
        assert!(said.lines().all(|line| line.len() < 5_000), "a line of {} bytes", said.len());
    }
}

#[test]
fn what_is_printed_is_escaped_bounded_and_tells_values_apart() {
    let _alone = alone();
    let cluster = start();
    let values = [
        ("newline", "a\nb", "a\\nb"),
        ("backslash", "a\\nb", "a\\\\nb"),
        ("colour", "\u{1b}[31mred\u{9b}0m\u{7f}", "\\u{1b}[31mred\\u{9b}0m\\u{7f}"),
        ("bidi", "user\u{202e}nimda\u{2066}", "user\\u{202e}nimda\\u{2066}"),
        ("zero-width", "a\u{200b}b\u{200d}c\u{feff}", "a\\u{200b}b\\u{200d}c\\u{feff}"),
        ("plain", "grün 東京 😀 e\u{301}", "grün 東京 😀 e\u{301}"),
    ];
    for (key, value, shown) in values {
        cluster.cli(&["put", "kv", key, value, "-H", &format!("h={value}")]).ok();
        assert_eq!(cluster.cli(&["get", "kv", key]).ok().stdout, format!("{shown}\n"), "{key}");
        assert_eq!(cluster.cli(&["get", "kv", key, "--raw"]).ok().bytes, value.as_bytes(), "{key}");
        let json = cluster.cli(&["-o", "json", "get", "kv", key]).ok();
        assert_eq!((&json.json()["value"], &json.json()["headers"]["h"]), (&json!(value), &json!(value)), "{key}");
        is_harmless(&json);
    }
    let scanned = cluster.cli(&["scan", "kv"]).ok();
    is_harmless(&scanned);
    assert!(
        values.iter().all(|(_, _, shown)| scanned.stdout.contains(&format!("{{h={shown}}}"))),
        "{}",
        scanned.stdout
    );

    // Errors, in both formats: what was given is told, escaped, and no more of it than can be read.
    let hidden = "k\u{1b}[31m\n\u{202e}\u{200b}";
    let wide = "w".repeat(100_000);
    for args in [
        &["get", "kv", hidden][..],
        &["put", "kv", "k", "v", "--expect", hidden],
        &["get", "kv", "k", "--time", hidden],
        &["get", "kv", "k", "--time", &wide],
        &["load", "kv", hidden, "--format", "lines", "--key-regex", "x"],
        &["batch", "kv", hidden],
        &["config", "check", hidden],
        &["check", hidden],
        &["table", "drop", hidden],
        &["scan", "kv", "--from", "z", "--to", hidden],
        &["--endpoints", hidden, "status"],
        &["status", hidden],
        &[hidden],
        &["status", &wide],
    ] {
        for format in ["text", "json"] {
            let ran = cluster.cli(&[&["-o", format], args].concat());
            assert!(ran.code == 1 || ran.code == 2, "{args:?}: {ran:?}");
            is_harmless(&ran);
            assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
            assert!(args.contains(&&wide[..]) || ran.stderr.contains("[31m"), "{args:?}: {}", ran.stderr);
        }
    }
    let line = cluster.cli(&["get", "kv", "a\nb"]).refused(1, &["'a\\nb'"]);
    assert_ne!(line, cluster.cli(&["get", "kv", "a\\nb"]).refused(1, &["'a\\\\nb'"]));
}

/// Runs a command with its standard output going where there is no room.
fn into_full(cluster: &Cluster, args: &[&str]) -> Ran {
    let full = File::options().write(true).open("/dev/full").expect("a device of every Linux");
    let mut command = cluster.command(args);
    let child = command.stdout(Stdio::from(full)).stderr(Stdio::piped()).spawn().expect("the binary runs");
    child.wait_with_output().expect("it ends").into()
}

#[test]
fn a_write_that_cannot_be_told_is_done_all_the_same() {
    let _alone = alone();
    let cluster = start();
    let told = |args: &[&str], words: &[&str]| into_full(&cluster, args).refused(0, words);
    told(&["append", "all", "k", "1"], &["all is done", "cannot be printed", "No space left", "offset 0"]);
    told(&["put", "all", "k", "2"], &["offset 1"]);
    told(&["delete", "all", "k"], &["offset 2"]);
    told(&["trim", "all", "k", "--before", "1"], &["first offset 1"]);
    told(&["table", "create", "more", "--partition", "hash"], &["table more"]);
    told(&["table", "drop", "more"], &["dropped more"]);
    let note: Value =
        serde_json::from_str(&told(&["-o", "json", "append", "all", "k", "3"], &["not_printed"])).expect("JSON");
    assert_eq!((&note["warning"], &note["result"]["offset"]), (&json!("not_printed"), &json!(3)), "{note}");
    let read = cluster.cli(&["-o", "json", "read", "all", "k"]).ok().json_lines();
    assert_eq!(read.iter().map(|r| r["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3], "each is there once");
    // Who asked for data and does not get it has failed.
    for args in
        [&["get", "all", "k"][..], &["read", "all", "k"], &["scan", "all"], &["status"], &["--help"], &["--version"]]
    {
        into_full(&cluster, args).refused(1, &["standard output", "No space left"]);
    }
}

#[test]
fn what_is_asked_for_in_another_spelling_is_understood_or_refused_by_name() {
    let _alone = alone();
    let cluster = start();
    cluster.cli(&["append", "all", "k", "0", "1", "2", "3"]).ok();
    cluster.cli(&["trim", "all", "k", "--before", "2"]).ok();

    // Without --from a log begins at what is left; who names an offset is told that it is gone.
    let offsets = |args: &[&str]| -> Vec<u64> {
        let lines = cluster.cli(&[&["-o", "json", "read", "all", "k"], args].concat()).ok().json_lines();
        lines.iter().map(|record| record["offset"].as_u64().unwrap()).collect()
    };
    assert_eq!(offsets(&[]), [2, 3]);
    assert_eq!(offsets(&["--limit", "1"]), [2]);
    assert_eq!(offsets(&["--from", "3"]), [3]);
    cluster.cli(&["read", "all", "k", "--from", "0"]).refused(1, &["before offset 2", "trimmed"]);
    cluster.cli(&["trim", "all", "k", "--before", "4"]).ok();
    assert_eq!(offsets(&[]), [0; 0]);

    // Times in other zones.
    let written = cluster.json(&["put", "kv", "k", "v"]);
    let at = |time: &str| cluster.cli(&["get", "kv", "k", "--time", time]);
    assert_eq!(at("2999-01-01T02:00:00+02:00").ok().stdout, "v\n");
    assert_eq!(at("2999-01-01 00:00:00").ok().stdout, "v\n");
    at("2001-01-01T00:00:00-11:30").refused(1, &["no record at or before 2001-01-01T11:30:00"]);
    at("2001-01-01T00:00:00+25:00").refused(2, &["--time", "2026-01-31T13:00:00+01:00"]);
    assert_eq!(at(&written["ts_us"].to_string()).ok().stdout, "v\n");

    // Addresses.
    let with = |endpoints: &str| finish_within(&["--endpoints", endpoints, "get", "kv", "k"], Duration::from_secs(5));
    let addr = cluster.addr(1);
    for spelled in [format!("http://{addr}"), format!("HTTP://{addr}/"), format!("localhost:{}", port(&addr))] {
        assert_eq!(with(&spelled).ok().stdout, "v\n", "{spelled}");
    }
    with(&format!("https://{addr}")).refused(2, &["https://", "no TLS", "host:port"]);
    with(&format!("{addr},https://{addr}")).refused(2, &["https://", "no TLS"]);
    let nobody = format!("127.0.0.1:{},localhost:{}", free_ports(), free_ports());
    with(&nobody).refused(1, &["nothing listens", "refused", "127.0.0.1", "--endpoints"]);
    with("no-such-host.invalid:7401").refused(1, &["no-such-host.invalid", "lookup", "--endpoints"]);

    // Counts.
    let create = ["table", "create", "none", "--partition", "hash", "--replicas"];
    cluster.cli(&[&create[..], &["0"]].concat()).refused(2, &["--replicas", "at least 1"]);
    cluster.cli(&[&create[..], &["9"]].concat()).refused(2, &["replicas", "9", "the cluster has 3"]);
    let batch = "{\"op\":\"put\",\"key\":\"n\",\"value\":\"1\"}\n\n{\"op\":\"put\",\"key\":\"k\",\"value\":\"1\",\"expect\":\"exists\"}\n";
    let refused = cluster.cli_with(&["batch", "all", "-"], batch.as_bytes());
    refused.refused(3, &["-:3:", "next offset is 4", "operation 2"]);
    let refused = cluster.cli_with(&["-o", "json", "batch", "all", "-"], batch.as_bytes()).error();
    assert_eq!((&refused["op_index"], &refused["line"]), (&json!(1), &json!(3)), "{refused}");
    let said = cluster.cli_with(&["batch", "all", "-"], batch.replace("exists", "absent").as_bytes()).ok().stdout;
    assert!(said.contains("operation 1: offset 0") && said.contains("operation 2: offset 4"), "{said}");
    let odd = "{\"op\":\"put\",\"key\":\"n\",\"value\":\"1\",\"expect\":1.5}\n";
    let line =
        cluster.cli_with(&["batch", "all", "-"], odd.as_bytes()).refused(2, &["-:1:", "expect", "1.5", "absent"]);
    assert!(!line.contains("untagged"), "{line}");
}

fn port(addr: &str) -> &str {
    addr.rsplit_once(':').expect("an address").1
}

#[track_caller]
fn finish_within(args: &[&str], most: Duration) -> Ran {
    let began = Instant::now();
    let ran = run(args);
    assert!(began.elapsed() < most, "{args:?} took {:?}", began.elapsed());
    ran
}

#[test]
fn help_says_what_json_looks_like() {
    let help = finish(synod_tests::run::command(&["batch", "--help"]), None).ok().stdout;
    assert!(help.contains(r#"[["tag","x"],["tag","y"]]"#), "{help}");
}
