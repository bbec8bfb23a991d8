//! The README's tour, command by command, and the JSON that programs read.
//!
//! Owns: the claims that every line that the README shows works as written, and that `-o json` has the documented shapes. Must
//! never: hold a copy of the tour; it is read out of the README.

use std::process::{Child, Stdio};

use serde_json::{Value, json};
use synod_tests::cluster::{Cluster, PATIENCE, Status, free_ports};
use synod_tests::run::{command, run, until};
use synod_tests::splits::wait_splits;
use synod_tests::{alone, repository};

/// The mark before each block of commands.
const TOUR: &str = "<!-- tour:";
const BACKUPS: &str = "## Backups";
const NODES: &str = "## A node that is lost";
const UPGRADE: &str = "`synod status` says when every node speaks";

/// The commands of the block after these words of the README.
fn block(words_before: &str) -> Vec<Vec<String>> {
    let readme = readme();
    let (_, after) = readme.split_once(words_before).unwrap_or_else(|| panic!("the README has {words_before:?}"));
    let (_, block) = after.split_once("```sh\n").expect("a block follows");
    let (block, _) = block.split_once("```").expect("the block ends");
    block.lines().filter(|line| !line.trim().is_empty()).map(words).collect()
}

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).expect("there is a README")
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
    let tour = block(TOUR);
    assert!(tour.len() >= 15, "{} commands", tour.len());
    let cluster = Cluster::start();
    // As in a cluster that has run for a moment: a new one is raised to its founders' version within a second.
    wait_splits(&cluster, 3);
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
            ["rebalance", "plan"] => said(&["most replicas, of the mean"]),
            ["shard", "split", ..] => said(&["shard 7 ends at 'order-7' now, shard 8 begins there"]),
            ["job", "list"] => said(&["splits shard 7 at \"order-7\"", "done"]),
            ["tail", "orders", ..] => said(&["created", "paid", "shipped", "order-93"]),
            ["-o", "json", "get", "kv", "greeting"] => assert_eq!(ran.json()["value"], "hello again"),
            _ => {}
        }
    }
    println!("{} commands of the README's tour", tour.len());
    // What raises the version where nodes are replaced finds nothing to raise in a new cluster.
    for command in block(UPGRADE) {
        assert_eq!(command[..3], ["synod", "cluster", "upgrade"], "no test runs {command:?}");
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        assert!(cluster.cli(&args).ok().stdout.contains("version"), "{command:?}");
    }
}

/// Nodes that a test starts by a line of the README; they end with it.
#[derive(Default)]
struct Nodes(Vec<Child>);

impl Nodes {
    fn start(&mut self, args: &[String]) {
        let mut command = command(args);
        let child = command.arg("--die-with-stdin").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        self.0.push(child.expect("the binary runs"));
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A line's words with the README's places replaced by a test's: `(place, the test's)`.
fn placed(line: &[String], places: &[(&str, &str)]) -> Vec<String> {
    assert_eq!(line[0], "synod", "{line:?}");
    let place = |word: &String| {
        let of_list =
            |item: &str| places.iter().find(|(place, _)| *place == item).map_or(item, |(_, own)| *own).to_owned();
        word.split(',').map(of_list).collect::<Vec<_>>().join(",")
    };
    line[1..].iter().map(place).collect()
}

#[test]
fn the_lines_on_backups_work_and_so_does_what_they_tell() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "kv", "--partition", "hash", "--shards", "2"]).ok();
    cluster.cli(&["put", "kv", "greeting", "hello"]).ok();
    let path = |name: &str| cluster.dir().join(name).display().to_string();
    let (backup, base) = (path("monday"), free_ports());
    let founder = |n: u16| format!("localhost:{}", base + n);
    let mut nodes = Nodes::default();
    let mut start = Vec::new();
    for line in block(BACKUPS) {
        let run = |data: &str, node: &str| {
            let (h1, h2, h3) = (founder(1), founder(2), founder(3));
            let places =
                [("/backups/monday", &backup[..]), ("D", data), ("h1:7400", &h1), ("h2:7400", &h2), ("h3:7400", &h3)];
            let mut args = placed(&line, &places);
            if let Some(at) = args.iter().position(|word| word == "--node") {
                args[at + 1] = node.to_owned();
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            cluster.cli(&args).ok().stdout
        };
        match line[1].as_str() {
            // As the comment says: each on its own machine.
            "restore" => start.extend(["1", "2", "3"].map(|node| run(&path(&format!("new-{node}")), node))),
            "backup" | "check" | "shard" => drop(run(&path("new-1"), "1")),
            other => panic!("no test runs {other:?} of {line:?}"),
        }
    }
    for said in &start {
        let (_, told) = said.trim_end().rsplit_once("start it with: synod ").expect("it says how to start");
        nodes.start(&words(told));
    }
    let new: Vec<String> = (1..=3).map(founder).collect();
    let restored = until(PATIENCE, "the new cluster answers", || {
        let got = run(&["--endpoints", &new.join(","), "--timeout", "3s", "get", "kv", "greeting"]);
        (got.code == 0).then_some(got.stdout)
    });
    assert_eq!(restored.unwrap(), "hello\n");
}

#[test]
fn the_lines_on_nodes_work() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "kv", "--partition", "hash", "--shards", "2"]).ok();
    cluster.kill(3);
    let name = |addr: &str| format!("localhost:{}", addr.rsplit_once(':').expect("an address").1);
    let (h1, h2, base) = (name(&cluster.addr(1)), name(&cluster.addr(2)), free_ports());
    let own = |number: u16| format!("localhost:{}", base + number);
    let up = |cluster: &Cluster, number: u64| {
        let is_up = |status: &Status| {
            let node = status.value["nodes"].as_array().and_then(|nodes| nodes.iter().find(|n| n["id"] == number));
            node.is_some_and(|node| node["state"] == "up")
        };
        until(PATIENCE, "the node is up", || cluster.status().filter(is_up)).unwrap();
    };
    let mut nodes = Nodes::default();
    for line in block(NODES) {
        // A node that is not there yet is started as the first line says.
        let mut join = |number: u16| {
            let data = cluster.dir().join(format!("joined-{number}")).display().to_string();
            let places = [("D", &data[..]), ("h4:7400", &own(number)), ("h1:7400", &h1), ("h2:7400", &h2)];
            nodes.start(&placed(&block(NODES)[0], &places));
            up(&cluster, number.into());
        };
        match (line[1].as_str(), line[2].as_str()) {
            ("server", _) if line.iter().any(|word| word == "h4:7400") => join(4),
            ("server", _) => {
                // One that comes back at another address, with the addresses of some others.
                cluster.stop(2);
                let data = cluster.data_dir(2).display().to_string();
                let places = [("D", &data[..]), ("h2:7400", &own(2)), ("h1:7400", &h1), ("h3:7400", &own(4))];
                nodes.start(&placed(&line, &places));
                up(&cluster, 2);
            }
            ("node", "replace" | "remove") | ("shard", "move") | ("job", "list") => {
                if line.last().is_some_and(|last| last == "5") {
                    join(5);
                }
                let args = placed(&line, &[]);
                cluster.cli(&args.iter().map(String::as_str).collect::<Vec<_>>()).ok();
            }
            _ => panic!("no test runs {line:?}"),
        }
    }
    let status = cluster.status().expect("it answers");
    let ids: Vec<u64> = status.value["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 4, 5]);
}

/// Runs these lines, and gives them as they stand here.
macro_rules! run_and_quote {
    ($($line:tt)*) => {{
        $($line)*
        stringify!($($line)*)
    }};
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the lock keeps this binary's other tests off the machine meanwhile")]
async fn the_lines_of_rust_work() -> synod_client::Result<()> {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "kv", "--partition", "hash"]).ok();
    // The README's address is of `synod dev`; here another cluster is asked.
    let readme = readme().replace("\"127.0.0.1:7401\"", "cluster.addr(1)");
    let (_, block) = readme.split_once("```rust\n").expect("there are lines of Rust");
    let (block, _) = block.split_once("```").expect("the block ends");
    let quoted = run_and_quote! {
        let client = synod_client::Client::connect([cluster.addr(1)], synod_client::Options::default()).await?;
        client.put("kv", "greeting", "hello").await?;
    };
    let dense = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != ';').collect::<String>();
    assert_eq!(dense(quoted), dense(block));
    assert_eq!(cluster.cli(&["get", "kv", "greeting"]).ok().stdout, "hello\n");
    Ok(())
}

/// Each block of the README is one that a test here runs, and what it makes with `make` can be made.
#[test]
fn no_line_of_the_readme_is_left_out() {
    let readme = readme();
    assert_eq!(readme.matches("```sh\n").count(), [TOUR, BACKUPS, NODES, UPGRADE].len(), "a block that no test runs");
    assert_eq!(readme.matches("```rust\n").count(), 1);
    assert_eq!(readme.matches("\n```").count(), 2 * 5, "a block of another kind");
    let makefile = std::fs::read_to_string(repository().join("Makefile")).expect("there is a Makefile");
    let indented: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let inline = readme.split('`').skip(1).step_by(2).filter(|code| code.starts_with("make "));
    let made: Vec<&str> = indented.iter().copied().chain(inline).collect();
    assert!(made.len() >= 4, "{made:?}");
    for line in made {
        let target = line.strip_prefix("make ").unwrap_or_else(|| panic!("no test runs {line:?}"));
        let target = target.split_whitespace().next().expect("a target");
        assert!(makefile.contains(&format!("\n{target}:")), "there is no target {target}");
    }
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
