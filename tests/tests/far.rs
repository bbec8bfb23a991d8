//! Nodes that are 300 ms of a round trip apart, and their clients as far from each: `timing.round_trip_ms`.
//!
//! Owns: the claims about elections, leases and takeovers where the network is slow and loses packets. Must never: excuse a
//! leadership that changed though its node was well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_client::{Client, Consistency, GetOptions, NewRecord, Options, Retention, TableSpec};
use synod_lincheck::{Call, Expect, Outcome, Record, Recorder, Seen, check};
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::far::Distance;
use synod_tests::http::metric;
use synod_tests::run::until;
use tokio::runtime::Runtime;

const TABLE: &str = "far";
/// One key of each shard.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const ROUND_TRIP: Duration = Duration::from_millis(300);
/// A sender that hears nothing waits a round trip and 200 ms at least, and twice that for what is lost again: this is between them.
const DISTANCE: Distance = Distance {
    one_way: Duration::from_millis(150),
    loses_every: Duration::from_secs(10),
    sent_again_after: Duration::from_millis(900),
};
/// A key is read so often: a few times between half of a lease's term, 750 ms, and the 1.2 s of it that a leader counts.
const EVERY: Duration = Duration::from_millis(100);
/// Under load, with all nodes well.
const STEADY: Duration = Duration::from_secs(20);
/// From SIGKILL of the node that leads to the first acknowledged write: 1.8 s until it is missed, 0.9 s of jitter, four round trips
/// of an election and the write, a lost packet or two.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// What the clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    recorder: Recorder,
    /// How long linearizable gets took of keys that are read without a pause.
    gets: Mutex<Vec<Duration>>,
    /// When a write of a key was acknowledged, and when that was sent.
    acked: Mutex<Vec<(usize, Instant, Instant)>>,
}

async fn client_at_work(client: Client, number: usize, shared: Arc<Shared>) {
    let key = number % KEYS.len();
    for turn in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let sent = Instant::now();
        if turn % 3 == 0 {
            let value = format!("{number}#{turn}");
            let call = Call::Append { values: vec![value.clone()], expect: Expect::Any };
            let pending = shared.recorder.invoked(number as u64, KEYS[key], call);
            let records = vec![NewRecord::new(value)];
            if let Ok(written) = client.append(TABLE, KEYS[key], records, synod_client::Expect::Any).await {
                shared.recorder.returned(pending, Outcome::Written { offset: written.offset });
                shared.acked.lock().unwrap().push((key, sent, Instant::now()));
            }
        } else {
            let pending = shared.recorder.invoked(number as u64, KEYS[key], Call::Get);
            if let Ok(full) = client.get_full(TABLE, KEYS[key], GetOptions::default()).await {
                let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
                let newest = full.record.map(|r| Seen { offset: r.offset, value: text(&r.value) });
                shared.recorder.returned(pending, Outcome::Found { newest, next: Some(full.next_offset) });
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads every key once in `EVERY`, whether the last answer is there or not. A lease is asked for anew by a read behind half of its term:
/// only a shard that is read often has one all the time.
async fn readers_at_work(client: Client, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        for key in KEYS {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                let sent = Instant::now();
                if client.get_full(TABLE, key, GetOptions::default()).await.is_ok() {
                    shared.gets.lock().unwrap().push(sent.elapsed());
                }
            });
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Waits until every key has an acknowledged write that was sent after `from`; how long after `from` the last one's came.
#[track_caller]
fn flowing(shared: &Shared, from: Instant, patience: Duration) -> Duration {
    let flows = until(patience, "every shard acknowledges writes", || {
        let acked = shared.acked.lock().unwrap();
        let first = |key| acked.iter().find(|(of, sent, _)| *of == key && *sent > from).map(|(_, _, at)| *at - from);
        (0..KEYS.len()).map(first).collect::<Option<Vec<_>>>()
    });
    flows.unwrap_or_else(|why| panic!("{why}")).into_iter().max().expect("there are keys")
}

fn elections(cluster: &Cluster) -> f64 {
    (1..=3).filter_map(|node| metric(&cluster.http(node), "synod_engine_elections_total")).sum()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long a read takes, in the middle, that any replica may answer.
fn any_replica(runtime: &Runtime, client: &Client, age: Duration) -> Duration {
    let options = GetOptions { consistency: Consistency::Stale(age), ..GetOptions::default() };
    let mut times: Vec<Duration> = (0..9)
        .map(|turn| {
            let asked = Instant::now();
            let got = runtime.block_on(client.get_full(TABLE, KEYS[turn % KEYS.len()], options));
            got.unwrap_or_else(|error| panic!("a read of age {age:?}: {error}"));
            asked.elapsed()
        })
        .collect();
    median(&mut times)
}

#[test]
fn nodes_300_ms_apart_keep_their_leaders_and_leases_and_replace_a_leader_that_dies() {
    let settings = format!("[timing]\nround_trip_ms = {}\n", ROUND_TRIP.as_millis());
    let began = Instant::now();
    let mut cluster = Cluster::start_far(DISTANCE, &settings);
    println!("up after {:.2?}", began.elapsed());
    let runtime = Runtime::new().expect("a runtime");
    let options = Options { call_timeout: Duration::from_secs(30), ..Options::default() };
    let client = runtime.block_on(async {
        let client = Client::connect(cluster.endpoints(), options).await?;
        let split_at = KEYS[1..].iter().map(|key| Bytes::from(*key)).collect();
        client.create_table(TableSpec::range(TABLE, split_at, Retention::All)).await?;
        synod_client::Result::Ok(client)
    });
    let client = client.expect("the table can be created");
    let shared = Arc::new(Shared::default());
    let mut tasks: Vec<_> =
        (0..16).map(|number| runtime.spawn(client_at_work(client.clone(), number, Arc::clone(&shared)))).collect();
    tasks.push(runtime.spawn(readers_at_work(client.clone(), Arc::clone(&shared))));
    println!("every shard has taken a write after {:.2?}", flowing(&shared, Instant::now(), PATIENCE));

    let status = cluster.wait_up();
    let won = elections(&cluster);
    shared.gets.lock().unwrap().clear();
    let from = Instant::now();
    let (aged, fresh) = (Duration::from_secs(5), Duration::ZERO);
    let (aged, fresh) = (any_replica(&runtime, &client, aged), any_replica(&runtime, &client, fresh));
    sleep(STEADY.saturating_sub(from.elapsed()));
    let won_since = elections(&cluster) - won;
    let got = median(&mut shared.gets.lock().unwrap());
    println!(
        "{won_since} elections in {:.2?}; get p50 {got:.2?}, of any replica {aged:.2?} (5 s old) and {fresh:.2?}",
        from.elapsed()
    );
    assert_eq!(won_since, 0.0, "leaderships change though all nodes are well");
    // A round trip to the leader and no other: it has a lease.
    assert!(got < ROUND_TRIP * 3 / 2, "gets take {got:?}");
    // One to the replica, and where it asks its leader another; the rest is for a lost packet and a busy machine.
    assert!(aged < ROUND_TRIP * 5 && fresh < ROUND_TRIP * 5, "reads of any replica take {aged:?} and {fresh:?}");

    let victim = cluster.leader(&status, TABLE, 0);
    let killed = Instant::now();
    cluster.kill(victim);
    let taken_over = flowing(&shared, killed, PATIENCE);
    println!("every shard has taken a write {taken_over:.2?} after node {victim} was killed");
    cluster.restart(victim);
    cluster.wait_caught_up(victim);

    shared.stop.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| runtime.block_on(task).expect("no client panics"));
    let mut history = shared.recorder.finish();
    history.logs = KEYS.iter().map(|key| (key.to_string(), log(&cluster, key))).collect::<BTreeMap<_, _>>();
    let report = check(&history);
    println!("{} operations in {:.2?}", history.operations.len(), began.elapsed());
    assert!(report.is_linearizable(), "{report}");
    assert!(taken_over < TAKEN_OVER, "writes resumed after {taken_over:?}");
}

/// A key's whole log.
fn log(cluster: &Cluster, key: &str) -> Vec<Record> {
    let read = cluster.cli(&["-o", "json", "--timeout", "60s", "read", TABLE, key]).ok().json_lines();
    let record = |record: &serde_json::Value| {
        Record::value(record["offset"].as_u64().expect("an offset"), record["value"].as_str().expect("text"))
    };
    read.iter().map(record).collect()
}
