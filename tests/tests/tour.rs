//! The README's tour, command by command, and the JSON that programs read.
//!
//! Owns: the claims that what the README shows works as it stands there, and that `-o json` has the documented shapes. Must
//! never: hold a copy of the tour; it is read out of the README.

use serde_json::{Value, json};
use synod_tests::cluster::Cluster;
use synod_tests::{alone, repository};

/// The commands between the fences behind the mark.
fn tour() -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("there is a README");
    let (_, after) = readme.split_once("<!-- tour:").expect("the README marks its tour");
    let (_, block) = after.split_once("```sh\n").expect("the tour is a block");
    let (block, _) = block.split_once("```").expect("the block ends");
    block.lines().filter(|line| !line.trim().is_empty()).map(words).collect()
}

/// A line's words as a shell sees them; quotes of either kind.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn lines_are_cut_as_a_shell_does() {
    assert_eq!(words("synod put kv 'a b' \"\" c  # why"), ["synod", "put", "kv", "a b", "", "c"]);
}

#[test]
fn every_command_of_the_tour_works() {
    let _alone = alone();
    let tour = tour();
    assert!(tour.len() >= 15, "{} commands", tour.len());
    let cluster = Cluster::start();
    for command in &tour {
        assert_eq!(command[0], "synod", "{command:?}");
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let ran = cluster.cli(&args);
        assert_eq!(ran.code, 0, "{command:?}: {}", ran.stderr);
        // What some of them say, so that they do not succeed by doing nothing.
        let said = |words: &[&str]| {
            words.iter().for_each(|word| assert!(ran.stdout.contains(word), "{command:?}: no {word}: {}", ran.stdout))
        };
        match &args[..] {
            ["get", "kv", "greeting"] => said(&["hello"]),
            ["read", "orders", "order-17"] => said(&["created", "paid", "shipped"]),
            ["read", "orders", "order-17", ..] => said(&["paid"]),
            ["scan", "orders"] => said(&["order-17", "order-93", "shipped"]),
            ["tail", "orders", ..] => said(&["created", "paid", "shipped", "order-93"]),
            ["-o", "json", "get", "kv", "greeting"] => assert_eq!(ran.json()["value"], "hello again"),
            _ => {}
        }
    }
    println!("{} commands of the README's tour", tour.len());
}

/// The names of an object's fields.
#[track_caller]
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// The names, sorted.
fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

#[test]
fn json_is_as_documented() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "r", "--partition", "range", "--split-at", "m", "--retain", "all"]).ok();
    cluster.cli(&["table", "create", "h", "--partition", "hash", "--shards", "4"]).ok();

    let written = cluster.json(&["put", "r", "a", "one", "-H", "by=me"]);
    assert_eq!(fields(&written), ["offset", "ts_us"]);
    assert_eq!(written["offset"], 0);
    let appended = cluster.json(&["append", "r", "a", "two", "three"]);
    assert_eq!((fields(&appended), &appended["offset"]), (vec!["offset", "ts_us"], &json!(1)));
    assert!(appended["ts_us"].as_u64() > written["ts_us"].as_u64(), "time rises");

    let got = cluster.json(&["get", "r", "a", "--offset", "0"]);
    let ts = &written["ts_us"];
    assert_eq!(got, json!({"key": "a", "offset": 0, "ts_us": ts, "headers": {"by": "me"}, "value": "one"}));
    cluster.cli(&["put", "r", "n", "--value-base64", "/w=="]).ok();
    let binary = cluster.json(&["get", "r", "n"]);
    assert_eq!(fields(&binary), sorted(["key", "offset", "ts_us", "headers", "value_base64"]));

    let read = cluster.cli(&["-o", "json", "read", "r", "a"]).ok().json_lines();
    assert_eq!(read.iter().map(|r| r["value"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "two", "three"]);
    assert!(read.iter().all(|r| fields(r) == sorted(["key", "offset", "ts_us", "headers", "value"])));
    let scanned = cluster.cli(&["-o", "json", "scan", "r"]).ok().json_lines();
    assert_eq!(scanned.iter().map(|r| r["key"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "n"]);
    let tailed = cluster.cli(&["-o", "json", "tail", "r", "a", "--from", "earliest"]).ok().json_lines();
    assert_eq!(tailed, read);

    // The map knows a table's shards at once; each of them needs an election before it has a leader.
    let status = cluster.wait_up().value;
    assert_eq!(fields(&status), ["cluster", "jobs", "nodes", "shards", "version"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        for name in ["id", "addr", "state", "speaks", "leaders", "replicas"] {
            assert!(node.get(name).is_some(), "a node has {name}: {node}");
        }
        assert_eq!(node["state"], "up");
    }
    let shards = status["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 1 + 2 + 4, "the cluster's own and those of the tables");
    for shard in shards {
        for name in ["id", "table", "from", "to", "epoch", "leader", "replicas"] {
            assert!(shard.get(name).is_some(), "a shard has {name}: {shard}");
        }
        let replicas = shard["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 3);
        for replica in replicas {
            assert!(
                replica["node"].is_u64() && replica["role"].is_string() && replica["lag_slots"].is_u64(),
                "{replica}"
            );
        }
    }

    let refused = cluster.cli(&["-o", "json", "put", "r", "a", "x", "--expect", "7"]);
    let error = refused.error();
    assert_eq!((refused.code, &error["error"], &error["actual"]), (3, &json!("expectation_failed"), &json!(3)));
    assert_eq!((error["retryable"].as_bool(), error["message"].is_string()), (Some(false), true));
    assert_eq!(cluster.cli(&["-o", "json", "get", "nope", "a"]).error()["error"], "table_not_found");
    let value = cluster.dir().join("large");
    std::fs::write(&value, vec![b'x'; (1 << 20) + 1]).unwrap();
    let large = cluster.cli(&["-o", "json", "put", "r", "a", "--value-file", value.to_str().unwrap()]).error();
    assert_eq!((&large["error"], &large["limit"]), (&json!("too_large"), &json!(1 << 20)));
    assert!(large["knob"].as_str().is_some_and(|knob| knob.contains("value")), "{large}");

    let bench = cluster.json(&["bench", "put", "--clients", "2", "--duration", "1s"]);
    assert!(bench.to_string().contains("ops_per_s") && bench.to_string().contains("_us\""), "{bench}");
}
