//! Real input into range and hash tables, and back.
//!
//! Owns: the claim that what `load` stores is the file: each key's records in file order at offsets 0, 1, 2, …, byte for
//! byte. Must never: take the expected content from the product; it is cut out of the file here.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use regex::bytes::Regex;
use synod_client::{At, Client, GetOptions, Options};
use synod_tests::cluster::Cluster;
use synod_tests::{alone, shared_data};

/// Each key's records in file order.
type Expected = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// The lines of a file: only `\n` is cut, and the last line need not have one.
fn lines(content: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

fn by_regex(content: &[u8], regex: &str) -> Expected {
    let regex = Regex::new(regex).unwrap();
    let mut expected = Expected::new();
    for line in lines(content) {
        let key = regex.find(line).expect("every line has a key").as_bytes();
        expected.entry(key.to_vec()).or_default().push(line.to_vec());
    }
    expected
}

fn by_column(content: &[u8], column: &str) -> Expected {
    let lines = lines(content);
    let header: Vec<&[u8]> = lines[0].split(|byte| *byte == b',').collect();
    let at = header.iter().position(|name| *name == column.as_bytes()).expect("the header has the column");
    let mut expected = Expected::new();
    for line in &lines[1..] {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b',').take(at + 1).collect();
        assert!(fields.iter().all(|field| !field.contains(&b'"')), "columns up to the key have no quotes");
        expected.entry(fields[at].to_vec()).or_default().push(line.to_vec());
    }
    expected
}

/// The keys at one, two and three quarters.
fn split_points(expected: &Expected) -> Vec<String> {
    let keys: Vec<&Vec<u8>> = expected.keys().collect();
    (1..4).map(|quarter| String::from_utf8(keys[keys.len() * quarter / 4].clone()).unwrap()).collect()
}

/// Loads a file into a table and compares everything that can be read of it.
fn round_trip(cluster: &Cluster, client: &Client, table: &str, load: &[&str], expected: &Expected) {
    let began = Instant::now();
    let count: usize = expected.values().map(Vec::len).sum();
    let loaded = cluster.json(&[&["load", table], load].concat());
    assert_eq!((&loaded["records"], &loaded["skipped"]), (&count.into(), &0.into()), "{loaded}");
    let runtime = tokio::runtime::Handle::current();
    for (key, records) in expected {
        for (offset, value) in (0u64..).zip(records) {
            let options = GetOptions { at: Some(At::Offset(offset)), ..GetOptions::default() };
            let key = Bytes::from(key.clone());
            let got = tokio::task::block_in_place(|| runtime.block_on(client.get_full(table, key, options))).unwrap();
            assert_eq!(got.next_offset, records.len() as u64, "as many as in the file");
            let record = got.record.expect("every offset has a record");
            assert_eq!((record.offset, &record.value[..]), (offset, &value[..]));
        }
    }
    // The same by `read`, for the key with the most records and the first and last keys.
    let longest = expected.iter().max_by_key(|(_, records)| records.len());
    for (key, records) in longest.into_iter().chain(expected.first_key_value()).chain(expected.last_key_value()) {
        let key = std::str::from_utf8(key).unwrap();
        let read = cluster.cli(&["-o", "json", "read", table, key]).ok().json_lines();
        assert_eq!(read.len(), records.len(), "{key}");
        for ((offset, value), record) in (0u64..).zip(records).zip(&read) {
            assert_eq!((&record["key"], &record["offset"]), (&key.into(), &offset.into()));
            assert_eq!(record["value"].as_str().map(str::as_bytes), Some(&value[..]));
        }
    }
    // And by `tail`, which must give everything, each key in order.
    let tail = cluster.cli(&["-o", "json", "tail", table, "--from", "earliest"]).ok().json_lines();
    let mut tailed = Expected::new();
    for record in &tail {
        let records = tailed.entry(record["key"].as_str().unwrap().into()).or_default();
        assert_eq!(record["offset"], records.len());
        records.push(record["value"].as_str().unwrap().into());
    }
    assert_eq!(&tailed, expected);
    let most = expected.values().map(Vec::len).max().unwrap_or(0);
    println!("{table}: {count} records, {} keys, at most {most} a key, {:.1?}", expected.len(), began.elapsed());
}

fn scan(cluster: &Cluster, args: &[&str]) -> Vec<(String, String)> {
    let scanned = cluster.cli(&[&["-o", "json", "scan"], args].concat()).ok().json_lines();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    scanned.iter().map(|record| (text(&record["key"]), text(&record["value"]))).collect()
}

/// Scans of a range table: key order, newest record of each key, all bounds.
fn scans_in_key_order(cluster: &Cluster, table: &str, expected: &Expected) {
    let newest = |(key, records): (&Vec<u8>, &Vec<Vec<u8>>)| {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        (text(key), text(records.last().unwrap()))
    };
    let all: Vec<(String, String)> = expected.iter().map(newest).collect();
    assert_eq!(scan(cluster, &[table]), all);
    let mut back = all.clone();
    back.reverse();
    assert_eq!(scan(cluster, &[table, "--reverse"]), back);
    let (from, to) = (&all[all.len() / 5].0, &all[all.len() * 4 / 5].0);
    let within: Vec<_> = all.iter().filter(|(key, _)| key >= from && key < to).cloned().collect();
    assert_eq!(scan(cluster, &[table, "--from", from, "--to", to]), within);
    let prefix = &all[0].0[..all[0].0.len() - 1];
    let within: Vec<_> = all.iter().filter(|(key, _)| key.starts_with(prefix)).cloned().collect();
    assert_eq!(scan(cluster, &[table, "--prefix", prefix]), within);
    let first: Vec<_> = all.iter().take(3).cloned().collect();
    assert_eq!(scan(cluster, &[table, "--limit", "3"]), first);
}

/// A scan of a hash table: every key once, in the order of the hashes that `explain` tells.
fn scans_in_hash_order(cluster: &Cluster, table: &str, expected: &Expected) {
    let scanned = scan(cluster, &[table]);
    let mut keys: Vec<&[u8]> = scanned.iter().map(|(key, _)| key.as_bytes()).collect();
    // All of a few keys, a sample of many: each costs a process.
    let step = keys.len().div_ceil(25);
    let hash =
        |(key, _): &(String, String)| cluster.json(&["explain", table, key])["hash"].as_str().unwrap().to_owned();
    let hashes: Vec<String> = scanned.iter().step_by(step).map(hash).collect();
    assert!(hashes.is_sorted(), "{hashes:?}");
    keys.sort_unstable();
    assert!(keys.into_iter().eq(expected.keys().map(Vec::as_slice)));
}

fn into_both_kinds(cluster: &Cluster, client: &Client, name: &str, load: &[&str], expected: &Expected) {
    let (range, hash) = (format!("{name}-range"), format!("{name}-hash"));
    let points = split_points(expected);
    let mut create = vec!["table", "create", &range, "--partition", "range", "--retain", "all"];
    points.iter().for_each(|point| create.extend(["--split-at", point]));
    let created = cluster.json(&create);
    assert_eq!(created["shards"].as_array().map(Vec::len), Some(4), "{created}");
    round_trip(cluster, client, &range, load, expected);
    scans_in_key_order(cluster, &range, expected);
    cluster.cli(&["table", "create", &hash, "--partition", "hash", "--shards", "4", "--retain", "all"]).ok();
    round_trip(cluster, client, &hash, load, expected);
    scans_in_hash_order(cluster, &hash, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::await_holding_lock, reason = "the lock keeps this binary's other tests off the machine meanwhile")]
async fn real_logs_come_back_as_they_are() {
    let (Some(ssh), Some(hdfs)) = (shared_data("openssh-2k.log"), shared_data("hdfs-2k.csv")) else { return };
    let _alone = tokio::task::block_in_place(alone);
    let cluster = tokio::task::block_in_place(Cluster::start);
    let client = Client::connect(cluster.endpoints(), Options::default()).await.unwrap();
    tokio::task::block_in_place(|| {
        let expected = by_regex(&std::fs::read(&ssh).unwrap(), r"sshd\[[0-9]+\]");
        assert_eq!((expected.len(), expected.values().map(Vec::len).sum::<usize>()), (519, 2_000));
        let load = [ssh.to_str().unwrap(), "--format", "lines", "--key-regex", r"sshd\[[0-9]+\]"];
        into_both_kinds(&cluster, &client, "openssh", &load, &expected);

        let expected = by_column(&std::fs::read(&hdfs).unwrap(), "Component");
        assert_eq!(expected.values().map(Vec::len).max(), Some(659));
        assert_eq!(expected.values().map(Vec::len).sum::<usize>(), 2_000);
        let load = [hdfs.to_str().unwrap(), "--format", "csv", "--key", "Component"];
        into_both_kinds(&cluster, &client, "hdfs", &load, &expected);

        bytes_stay_bytes(&cluster);
    });
}

/// CRLF, a missing last newline, bytes that are no UTF-8, an empty line's neighbours: only `\n` is cut.
fn bytes_stay_bytes(cluster: &Cluster) {
    cluster.cli(&["table", "create", "bytes", "--partition", "hash", "--retain", "all"]).ok();
    let content = b"k1 first\r\nk2 \xff\xfe\0\nk1 \tsecond \r\r\nk1 last, without a newline";
    let loaded =
        cluster.cli_with(&["-o", "json", "load", "bytes", "-", "--format", "lines", "--key-regex", "^k."], content);
    assert_eq!(loaded.ok().json()["records"], 4);
    let get = |key: &str, offset: &str| cluster.cli(&["get", "bytes", key, "--offset", offset, "--raw"]).ok().bytes;
    assert_eq!(get("k1", "0"), b"k1 first\r");
    assert_eq!(get("k1", "1"), b"k1 \tsecond \r\r");
    assert_eq!(get("k1", "2"), b"k1 last, without a newline");
    assert_eq!(get("k2", "0"), b"k2 \xff\xfe\0");
    let json = cluster.json(&["get", "bytes", "k2"]);
    assert_eq!((json["value_base64"].as_str(), json.get("value")), (Some("azIg//4A"), None), "{json}");
    // NDJSON: the object's bytes as they stand, whatever the field order and blanks.
    let content = b"{\"k\": \"j\",  \"n\":1}\r\n{\"n\":2.0,\"k\":\"j\"}";
    cluster.cli_with(&["load", "bytes", "-", "--format", "ndjson", "--key", "k"], content).ok();
    assert_eq!(get("j", "0"), b"{\"k\": \"j\",  \"n\":1}\r");
    assert_eq!(get("j", "1"), b"{\"n\":2.0,\"k\":\"j\"}");
}
