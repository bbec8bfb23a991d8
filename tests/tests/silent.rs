//! Nodes that run and do not answer: a disk that hangs, a replica that is alone, a leader that is stopped.
//!
//! Owns: the claims about who takes over, and what clients are told meanwhile. Must never: end such a node to make progress.

use std::time::Duration;

use nix::sys::signal::Signal;
use synod_client::{Client, Error, Options, TailOptions, TailStart};
use synod_tests::cluster::{Cluster, PATIENCE, Site};
use synod_tests::http;
use synod_tests::run::until;
use synod_tests::shim::{self, Dial};
use tokio_stream::StreamExt;

fn table(cluster: &Cluster, shards: &str) {
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", shards, "--retain", "all"]).ok();
    cluster.wait_up();
}

fn alive(cluster: &Cluster, node: u16) -> Option<(u16, String)> {
    http::get(&cluster.http(node), "/livez")
}

#[test]
fn a_node_that_hangs_in_a_read_of_its_state_is_replaced_and_not_alive() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let library = shim::library(dir.path(), "hung_reads", shim::HANG).expect("cc is there: RocksDB was compiled");
    let dials: Vec<Dial> = (1..=3).map(|node| Dial::new(dir.path().join(format!("hang-{node}")), 0)).collect();
    let site = |(dial, node): (&Dial, u16)| {
        let state = dir.path().join(format!("node-{node}")).join("state").display().to_string();
        let env = [("LD_PRELOAD", library.clone()), ("SYNOD_HANG_DIAL", dial.path()), ("SYNOD_HANG_DIR", state)];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Site { disk: Some(dir.path().into()), env, ..Site::default() }
    };
    let mut cluster = Cluster::start_at(dials.iter().zip(1..).map(site).collect(), None);
    table(&cluster, "3");
    // Each in a block of its own, so that no other reading brings it into the cache.
    let value = "value".repeat(2_000);
    for n in 0..30 {
        cluster.cli(&["append", "t", &format!("key-{n}"), &value]).ok();
    }
    // Behind a restart every read of a key goes to the disk.
    for node in 1..=3 {
        cluster.stop(node);
    }
    for node in 1..=3 {
        cluster.restart(node);
    }
    let victim = cluster.leader(&cluster.wait_up(), "t", 0);
    dials[usize::from(victim) - 1].set(1);
    // The first read that comes to a shard which it leads is what its reader hangs in; its clients find another leader.
    for n in 0..30 {
        let got = cluster.cli(&["--timeout", "10s", "get", "t", &format!("key-{n}")]);
        assert_eq!(got.code, 0, "key-{n} while node {victim} hangs: {}", got.stderr);
    }
    let hung = until(PATIENCE, "the probe fails", || alive(&cluster, victim).filter(|(code, _)| *code == 503));
    let (_, why) = hung.unwrap_or_else(|error| panic!("{error}: {:?}", alive(&cluster, victim)));
    let names_it = why.contains("the read of the state by a reader thread under way has taken");
    assert!(names_it && why.contains("more than 10 s"), "{why}");
    for node in (1..=3).filter(|node| *node != victim) {
        assert_eq!(alive(&cluster, node), Some((200, "ok\n".into())), "node {node}");
    }
    dials[usize::from(victim) - 1].set(0);
    until(PATIENCE, "the probe succeeds", || alive(&cluster, victim).filter(|(code, _)| *code == 200)).unwrap();
    cluster.wait_up();
    cluster.cli(&["append", "t", "key-0", "again"]).ok();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

#[test]
fn a_tail_at_a_node_that_is_left_alone_is_told() {
    let mut cluster = Cluster::start();
    table(&cluster, "1");
    cluster.cli(&["append", "t", "k", "first"]).ok();
    let left = cluster.leader(&cluster.wait_up(), "t", 0);
    let endpoints = cluster.endpoints();
    let runtime = runtime();
    let mut tail = runtime.block_on(async {
        let options =
            Options { tail_wait: Duration::from_secs(1), call_timeout: Duration::from_secs(4), ..Options::default() };
        let client = Client::connect(endpoints, options).await.expect("a cluster");
        let options = TailOptions { start: TailStart::Earliest, follow: true, ..TailOptions::default() };
        let mut tail = client.tail("t", options);
        let first = tail.next().await.expect("a record").expect("no error");
        assert_eq!(first.record.value, "first");
        tail
    });
    for node in (1..=3).filter(|node| *node != left) {
        cluster.kill(node);
    }
    // It may lack what others take meanwhile, so its silence is no answer.
    let told = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), tail.next()).await });
    assert!(matches!(&told, Ok(Some(Err(Error::Unavailable { .. })))), "{told:?}");
    for node in (1..=3).filter(|node| *node != left) {
        cluster.restart(node);
    }
    cluster.wait_up();
    cluster.cli(&["append", "t", "k", "second"]).ok();
    let next = runtime.block_on(async {
        loop {
            match tail.next().await.expect("it goes on") {
                Ok(item) => break item,
                Err(error) => assert!(error.retryable(), "{error}"),
            }
        }
    });
    assert_eq!(next.record.value, "second");
}

#[test]
fn what_a_node_with_other_limits_refuses_may_have_been_executed_by_the_first() {
    let mut cluster = Cluster::start_with("[limits]\nvalue_bytes_max = \"64KiB\"\n");
    table(&cluster, "1");
    let leader = cluster.leader(&cluster.wait_up(), "t", 0);
    std::fs::write(cluster.dir().join("synod.toml"), "[limits]\nvalue_bytes_max = \"1KiB\"\n").expect("a file");
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.stop(node);
        cluster.restart(node);
        cluster.wait_up();
    }
    assert_eq!(cluster.leader(&cluster.wait_up(), "t", 0), leader, "it was not restarted");
    let endpoints = cluster.endpoints();
    let told = runtime().block_on(async {
        let client = Client::connect(endpoints, Options::default()).await.expect("a cluster");
        client.put("t", "k", "small").await.expect("a write");
        // It takes the write and is stopped: nobody knows whether the write will be executed.
        cluster.signal(leader, Signal::SIGSTOP);
        let told = client.put("t", "k", vec![b'x'; 8 << 10]).await;
        cluster.signal(leader, Signal::SIGCONT);
        told
    });
    assert!(
        matches!(&told, Err(Error::OutcomeUnknown { cause }) if cause.contains("limits.value_bytes_max")),
        "{told:?}"
    );
}
