//! Load through the client library, with a memory of what was acknowledged, when, and what failed.
//!
//! Owns: writers that append unique values to keys on every shard of a range table, each waiting for its answer. Must
//! never: retry or hide an error; the client library does what retrying there is, the rest the test must see.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use synod_client::{Client, Error, Expect, NewRecord, Options, Retention, TableSpec};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::checker::{Ack, FinalLog, check, value};
use crate::cluster::Cluster;

/// The table that load goes to.
pub const TABLE: &str = "load";
/// Its shards: keys that begin with one of these letters.
pub const SHARDS: [char; 4] = ['a', 'b', 'c', 'd'];
/// Keys on each shard.
const KEYS: u64 = 4;

/// Load under way.
pub struct Load {
    runtime: Runtime,
    client: Client,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    writers: Vec<JoinHandle<()>>,
}

/// What the writers have seen.
#[derive(Default)]
pub struct Seen {
    /// What was acknowledged.
    pub acks: Vec<Ack>,
    /// When each of those was: sent, and answered.
    pub times: Vec<(Instant, Instant)>,
    /// What was answered otherwise, with the value it was about.
    pub errors: Vec<(String, Error)>,
}

impl Seen {
    /// The longest time without an acknowledgement on one shard, of those times that ended after `from` and began before
    /// `to`, and the longest single call.
    pub fn pause(&self, from: Instant, to: Instant) -> (Duration, Duration) {
        let mut last = [from; SHARDS.len()];
        let (mut gap, mut call) = (Duration::ZERO, Duration::ZERO);
        for (ack, (sent, answered)) in self.acks.iter().zip(&self.times) {
            if *answered < from || *sent > to {
                continue;
            }
            let shard = SHARDS.iter().position(|letter| ack.key.starts_with(*letter)).expect("a key of ours");
            if last[shard] < to {
                gap = gap.max(answered.saturating_duration_since(last[shard]));
            }
            last[shard] = last[shard].max(*answered);
            call = call.max(*answered - *sent);
        }
        (gap, call)
    }
}

impl Load {
    /// Creates the table and starts `writers` writers, each on the keys of one shard, for calls of this timeout.
    #[track_caller]
    pub fn start(cluster: &Cluster, writers: usize, timeout: Duration) -> Load {
        let splits = SHARDS[1..].iter().map(|letter| Bytes::from(letter.to_string())).collect();
        Load::start_on(cluster, TableSpec::range(TABLE, splits, Retention::All), writers, timeout)
    }

    /// The same on a table like this one, which is [`TABLE`].
    #[track_caller]
    pub fn start_on(cluster: &Cluster, table: TableSpec, writers: usize, timeout: Duration) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let options = Options { call_timeout: timeout, ..Options::default() };
        let endpoints = cluster.endpoints();
        let client = runtime.block_on(async {
            let client = Client::connect(endpoints, options).await?;
            client.create_table(table).await?;
            synod_client::Result::Ok(client)
        });
        let client = client.expect("the table can be created");
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let tasks = (0..writers)
            .map(|writer| runtime.spawn(write(client.clone(), writer, Arc::clone(&stop), Arc::clone(&seen))));
        let writers = tasks.collect();
        Load { runtime, client, stop, seen, writers }
    }

    /// The client that is used, and a runtime for its calls.
    pub fn client(&self) -> (&Client, &Runtime) {
        (&self.client, &self.runtime)
    }

    /// What was seen so far.
    pub fn so_far<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Acknowledgements so far.
    pub fn acked(&self) -> usize {
        self.so_far(|seen| seen.acks.len())
    }

    /// Waits until every shard acknowledges writes that were sent after this was called.
    #[track_caller]
    pub fn wait_flowing(&self, patience: Duration) {
        let from = Instant::now();
        let flowing = crate::run::until(patience, "every shard acknowledges writes", || {
            let all = self.so_far(|seen| {
                let fresh =
                    || seen.acks.iter().zip(&seen.times).rev().take_while(|(_, (_, answered))| *answered > from);
                SHARDS.iter().all(|letter| fresh().any(|(ack, (sent, _))| *sent > from && ack.key.starts_with(*letter)))
            });
            all.then_some(())
        });
        let errors = self.so_far(|seen| seen.errors.clone());
        flowing.unwrap_or_else(|why| panic!("{why}; errors: {errors:?}"));
    }

    /// Ends the load once every call under way has its answer.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            self.runtime.block_on(writer).expect("no writer panics");
        }
        drop(self.client);
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.runtime.shutdown_background();
        seen
    }
}

async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>, seen: Arc<Mutex<Seen>>) {
    let letter = SHARDS[writer % SHARDS.len()];
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = (format!("{letter}-{}", number % KEYS), value(writer, number));
        number += 1;
        let sent = Instant::now();
        let answer = client.append(TABLE, key.clone(), vec![NewRecord::new(value.clone())], Expect::Any).await;
        let answered = Instant::now();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(written) => {
                    seen.acks.push(Ack { key, offset: written.offset, value });
                    seen.times.push((sent, answered));
                }
                Err(error) => seen.errors.push((value, error)),
            }
        }
        // Steady, not the most there can be: the nodes share two cores with the test.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Everything in the load's table, key by key.
#[track_caller]
pub fn read_back(cluster: &Cluster) -> FinalLog {
    let mut log = FinalLog::new();
    for letter in SHARDS {
        for number in 0..KEYS {
            let key = format!("{letter}-{number}");
            let read = cluster.cli(&["-o", "json", "--timeout", "60s", "read", TABLE, &key]).ok().json_lines();
            let record = |record: &serde_json::Value| {
                let value = record["value"].as_str().expect("values are text").to_owned();
                (record["offset"].as_u64().expect("records have offsets"), value)
            };
            log.insert(key, read.iter().map(record).collect());
        }
    }
    log
}

/// Reads everything back and holds it against what was acknowledged; a failure names the first few faults. Gives the number
/// of records.
#[track_caller]
pub fn verify(cluster: &Cluster, acks: &[Ack]) -> usize {
    let log = read_back(cluster);
    let faults = check(acks, &log);
    assert!(faults.is_empty(), "{} faults, the first: {:?}", faults.len(), &faults[..faults.len().min(5)]);
    log.values().map(Vec::len).sum()
}
