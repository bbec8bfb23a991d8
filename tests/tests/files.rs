//! Files as people have them: exported by spreadsheets, compressed, with numbers that no double holds, with a quote too many.
//!
//! Owns: the claim that such a file is stored byte for byte, or refused with the name of what is wrong. Must never: take a
//! success as enough: what is stored is read back.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use synod_tests::run::{Ran, until};

struct Files {
    cluster: Cluster,
}

impl Files {
    fn start() -> Files {
        let cluster = Cluster::start();
        cluster.cli(&["table", "create", "latest", "--partition", "hash", "--retain", "latest"]).ok();
        cluster.cli(&["table", "create", "all", "--partition", "range", "--retain", "all"]).ok();
        Files { cluster }
    }

    /// Writes a file and loads it into the table `all`.
    fn load(&self, name: &str, content: impl AsRef<[u8]>, flags: &[&str]) -> Ran {
        self.load_into("all", name, content, flags)
    }

    fn load_into(&self, table: &str, name: &str, content: impl AsRef<[u8]>, flags: &[&str]) -> Ran {
        let path = self.cluster.dir().join(name);
        fs::write(&path, content).unwrap();
        self.cluster.cli(&[&["-o", "json", "load", table, path.to_str().unwrap()], flags].concat())
    }

    /// Key and value of every record of a table, removed from it afterwards.
    fn take(&self, table: &str) -> Vec<(String, String)> {
        let tail = self.cluster.cli(&["-o", "json", "tail", table, "--from", "earliest"]).ok().json_lines();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut found: Vec<_> = tail.iter().map(|r| (text(&r["key"]), text(&r["value"]))).collect();
        found.sort();
        self.cluster.cli(&["table", "drop", table]).ok();
        let retain = if table == "latest" { "latest" } else { "all" };
        self.cluster.cli(&["table", "create", table, "--partition", "range", "--retain", retain]).ok();
        found
    }

    fn refused(&self, ran: &Ran, words: &[&str]) {
        let error = ran.error();
        assert_eq!(ran.code, 1, "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
        assert!(message.len() < 2_100 && !message.contains(char::is_control), "{message:?}");
        assert!(self.take("all").is_empty(), "nothing was stored");
    }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn numbers_are_their_digits() {
    let _alone = alone();
    let files = Files::start();
    // Amounts of a chain's smallest unit, of which a double holds the first sixteen digits.
    let wei: Vec<String> =
        (0..500).map(|n| format!("{{\"block\": {n}, \"amount\": {}}}", 10u128.pow(21) + n)).collect();
    let by = ["--format", "ndjson", "--key", "amount"];
    let loaded = files.load_into("latest", "wei.ndjson", wei.join("\n"), &by).ok().json();
    assert_eq!(loaded["records"], 500);
    let stored = files.take("latest");
    assert_eq!(stored.len(), 500, "as many keys as numbers");
    for (n, (key, value)) in (0..).zip(&stored) {
        assert_eq!((key, value), (&(10u128.pow(21) + n).to_string(), &wei[n as usize]));
    }
    let odd = "{\"n\":{\"id\":1.50}}\n{\"n\":{\"id\":-0}}\n{\"n\":{\"id\":1E400}}\n{\"n.id\": 18446744073709551616}\n";
    files.load("odd.ndjson", odd, &["--format", "ndjson", "--key", "n.id"]).ok();
    let keys: Vec<String> = files.take("all").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["-0", "1.50", "18446744073709551616", "1E400"]);
}

#[test]
fn files_of_spreadsheets_and_archives_are_read_or_refused_by_name() {
    let _alone = alone();
    let files = Files::start();
    let csv = ["--format", "csv", "--key", "id"];
    let skip = [&csv[..], &["--on-error", "skip"]].concat();
    let ndjson = ["--format", "ndjson", "--key", "id"];

    // A header that a terminal would obey, and one of megabytes.
    let ran = files.load(
        "h.csv",
        "id,\u{1b}[31mred\u{1b}[0m,\u{1b}]0;title\u{7}bell\n1,2,3\n",
        &["--format", "csv", "--key", "nope"],
    );
    files.refused(&ran, &["h.csv:1:", "--key 'nope'", "\\u{1b}[31mred", "\\u{7}bell"]);
    let wide: Vec<String> = (0..400_000).map(|n| format!("column {n}")).collect();
    let ran = files.load("wide.csv", wide.join(","), &["--format", "csv", "--key", "nope"]);
    files.refused(&ran, &["wide.csv:1:", "column 0, column 1", "more"]);
    assert!(ran.stderr.len() < 2_000, "{} bytes", ran.stderr.len());
    let ran = files.load("na\nme\u{1b}[31m.csv", "id\n", &["--format", "csv", "--key", "nope"]);
    files.refused(&ran, &["na\\nme\\u{1b}[31m.csv:1:"]);

    // Line ends of old machines.
    files.refused(&files.load("cr.csv", "id,v\rk1,a\rk2,b\r", &csv), &["cr.csv:1:", "end in CR only", "tr "]);
    files.refused(&files.load("cr.ndjson", "{\"id\":1}\r{\"id\":2}\r", &ndjson), &["end in CR only"]);
    let lines = ["--format", "lines", "--key-regex", r"^(\w+)"];
    files.refused(&files.load("cr.txt", "k1 a\rk2 b\rk3 c", &lines), &["end in CR only"]);

    // A quote that nobody closes.
    let stray = "id,v\nk1,a\nk2,\"b\nk3,c\nk4,d\nk5,e\n";
    let ran = files.load("stray.csv", stray, &skip).ok();
    assert_eq!((&ran.json()["records"], &ran.json()["skipped"]), (&json!(1), &json!(4)), "{}", ran.stderr);
    assert!(ran.stderr.contains("stray.csv:3:") && ran.stderr.contains("lines 3 to 6"), "{}", ran.stderr);
    assert_eq!(files.take("all"), pairs(&[("k1", "k1,a")]));
    let stopped = files.load("stray.csv", stray, &csv).error();
    assert_eq!((&stopped["line"], &stopped["lines"], &stopped["acknowledged"]), (&json!(3), &json!(4), &json!(1)));
    files.take("all");

    // Byte-order marks, CRLF, newlines and quotes within quotes.
    files.load("bom.ndjson", b"\xef\xbb\xbf{\"id\":\"k1\",\"v\":1}\n{\"id\":\"k2\",\"v\":2}\n", &ndjson).ok();
    assert_eq!(files.take("all"), pairs(&[("k1", "{\"id\":\"k1\",\"v\":1}"), ("k2", "{\"id\":\"k2\",\"v\":2}")]));
    files.load("bom.txt", b"\xef\xbb\xbfk1 a\nk2 b\n", &lines).ok();
    assert_eq!(files.take("all"), pairs(&[("k1", "k1 a"), ("k2", "k2 b")]));
    let quoted = "\u{feff}id,note\r\nk1,\"two\nlines\"\r\nk2,\"say \"\"hi\"\"\"\r\n";
    files.load("quoted.csv", quoted, &csv).ok();
    assert_eq!(files.take("all"), pairs(&[("k1", "k1,\"two\nlines\"\r"), ("k2", "k2,\"say \"\"hi\"\"\"\r")]));
    let utf16: Vec<u8> = "\u{feff}id,v\nk1,a\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    files.refused(&files.load("utf16.csv", utf16, &csv), &["UTF-16", "iconv"]);

    // Compressed files, whatever they are said to be. Gzip of "k1 a" and a newline.
    let gz = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x36\x54\x48\xe4\x02\0\x90\x6e\x9b\x4c\x05\0\0\0";
    for flags in [&lines[..], &csv, &skip, &ndjson] {
        files.refused(&files.load("lines.gz", gz, flags), &["lines.gz:1:", "gzip", "zcat"]);
    }
}

#[test]
fn what_comes_slowly_is_stored_while_the_pipe_is_open() {
    let _alone = alone();
    let files = Files::start();
    let args = ["load", "all", "-", "--format", "lines", "--key-regex", "^[a-z]+"];
    let mut load = files.cluster.command(&args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut pipe = load.stdin.take().unwrap();
    let mut stored = 0;
    for lines in [1, 3] {
        for _ in 0..lines {
            pipe.write_all(b"key value\n").unwrap();
        }
        stored += lines;
        let count = || files.cluster.cli(&["scan", "all", "--keys-only"]).ok().stdout.lines().count();
        let read = || files.cluster.cli(&["read", "all", "key"]).ok().stdout.lines().count();
        let seen = until(Duration::from_secs(10), "what was written is stored", || {
            (count() == 1 && read() == stored).then_some(())
        });
        seen.unwrap_or_else(|why| {
            load.kill().unwrap();
            panic!("{why}: {stored} records")
        });
    }
    drop(pipe);
    assert!(load.wait().unwrap().success());
}

#[test]
fn repeated_headers_are_kept_in_order() {
    let _alone = alone();
    let files = Files::start();
    let batch = |headers: &str| {
        let line = format!("{{\"op\":\"append\",\"key\":\"k\",\"value\":\"v\",{headers}}}\n");
        files.cluster.cli_with(&["-o", "json", "batch", "all", "-"], line.as_bytes()).ok();
        let records = files.cluster.cli(&["-o", "json", "read", "all", "k"]).ok();
        let last = records.stdout.lines().last().unwrap().to_owned();
        // As it was printed: a reader of JSON objects would hide a name that is there twice.
        let value: Value = serde_json::from_str(&last).unwrap();
        (last, value)
    };
    let list = json!([["h", "2"], ["a", "x"], ["h", "1"]]);
    for headers in [&format!("\"headers\":{list}"), r#""headers":{"h":"2","a":"x","h":"1"}"#] {
        let (line, value) = batch(headers);
        assert_eq!(value["headers"], list, "{line}");
        assert!(value.get("headers_base64").is_none(), "{line}");
    }
    let (line, _) = batch(r#""headers":{"z":"1","b":"2","a":"3"}"#);
    assert!(line.contains(r#""headers":{"z":"1","b":"2","a":"3"}"#), "an object in the order given: {line}");
    let text = files.cluster.cli(&["read", "all", "k", "--from", "0", "--limit", "1"]).ok().stdout;
    assert!(text.ends_with("\tv\t{h=2, a=x, h=1}\n"), "{text}");

    // What is printed can be written again, bytes that are no UTF-8 included.
    let mut put = files.cluster.command(&["put", "all", "k", "v", "-H", "h=1", "-H", "i=1"]);
    let binary = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"h=\xff");
    let put: Ran = put.arg("-H").arg(binary).output().unwrap().into();
    put.ok();
    let record = files.cluster.json(&["get", "all", "k"]);
    assert_eq!(record["headers"], json!([]), "{record}");
    let list = json!([["aA==", "MQ=="], ["aQ==", "MQ=="], ["aA==", "/w=="]]);
    assert_eq!(record["headers_base64"], list, "{record}");
    let (_, again) =
        batch(&format!("\"headers\":{},\"headers_base64\":{}", record["headers"], record["headers_base64"]));
    assert_eq!((&again["headers"], &again["headers_base64"]), (&record["headers"], &record["headers_base64"]));
}
