//! The examples of the Rust client, run as a user runs them.
//!
//! Owns: the claim that each example works against a cluster and shows what it says. Must never: leave one out.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use synod_tests::cluster::Cluster;
use synod_tests::run::{Ran, binary, finish};
use synod_tests::{alone, repository};

/// An example, compiled; `cargo test --workspace` does that.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let target = test.parent().and_then(std::path::Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = target.join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --release --workspace --examples", path.display());
    path
}

fn command(cluster: &Cluster, name: &str) -> Command {
    let mut command = Command::new(example(name));
    command.env("SYNOD_ENDPOINTS", cluster.endpoints().join(",")).current_dir(cluster.dir()).stdin(Stdio::null());
    command
}

/// Runs an example to its end; it must succeed.
#[track_caller]
fn run(cluster: &Cluster, name: &str) -> String {
    finish(command(cluster, name), None).ok().stdout
}

#[test]
fn every_example_shows_what_it_says() {
    let _alone = alone();
    assert!(binary().is_file());
    let cluster = Cluster::start();
    let mut left: BTreeSet<String> = fs::read_dir(repository().join("client/examples"))
        .expect("there are examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert!(left.len() >= 6, "{left:?}");
    let mut shows = |name: &str, wanted: &[&str]| {
        left.remove(name);
        assert_eq!(run(&cluster, name).lines().collect::<Vec<_>>(), wanted, "{name}");
    };

    let greetings = ["newest: hello again", "before: hello", "after the delete: nothing"];
    shows("put_get", &greetings);
    shows("put_get", &greetings);
    shows("scan", &["page: aachen berlin bern paris", "page: rome wien"]);
    shows("counter", &["added 20, the counter is 20"]);
    shows("counter", &["added 20, the counter is 40"]);
    shows("consumer", &["ada: 15", "bob: 7"]);
    shows("consumer", &["ada: 30", "bob: 14"]);

    // The keys come in any order, each key's records in theirs; a second run goes on after the first.
    left.remove("tail");
    for first in [0, 2] {
        let shown = run(&cluster, "tail");
        let of_17: Vec<&str> = shown.lines().filter(|line| line.starts_with("order-17 ")).collect();
        assert_eq!(of_17, [format!("order-17 {first}: created"), format!("order-17 {}: paid", first + 1)], "{shown}");
        let of_18 = format!("order-18 {}: created", first / 2);
        assert!(shown.lines().any(|line| line == of_18) && shown.ends_with("\n3 records\n"), "{shown}");
    }

    left.remove("batch");
    let shown = run(&cluster, "batch");
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("ada has 3 records at one time, "), "{shown}");
    assert_eq!(lines[1..], ["bob: operation 1 was refused", "hall/14 is free"]);

    assert!(left.is_empty(), "no test runs {left:?}");
}

/// Each adds its payments, then all work on one stream at once; what they have in common is right at the end.
#[test]
fn many_consumers_and_counters_at_once_count_each_thing_once() {
    let _alone = alone();
    let cluster = Cluster::start();
    let together = |name: &str, count: usize| -> Vec<Ran> {
        let start = |_| command(&cluster, name).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let children: Vec<Child> = (0..count).map(|n| start(n).expect("it runs")).collect();
        let ended = children.into_iter().map(|child| child.wait_with_output().expect("its output can be read"));
        ended.map(|output| Ran::from(output).ok()).collect()
    };
    together("consumer", 4);
    assert_eq!(run(&cluster, "consumer"), "ada: 75\nbob: 35\n");
    together("counter", 3);
    assert_eq!(run(&cluster, "counter"), "added 20, the counter is 80\n");
}
