//! The default load of a campaign, with everything that was asked and answered.
//!
//! Owns: its clients and their recorder. Must never: retry or hide an error: the client library does what retrying there
//! is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_client::{Client, Error, Expect, GetOptions, NewRecord, Options, Retention, TableSpec};
use synod_lincheck::{Call, History, Outcome, Record, Recorder, Seen};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::run::until;

/// The table that load goes to.
pub(super) const TABLE: &str = "campaign";
const SHARDS: [char; 4] = ['a', 'b', 'c', 'd'];
const KEYS: u64 = 16;
const CLIENTS: u64 = 8;
/// Longer than any fault lasts: a call that needs it would have failed.
const CALL: Duration = Duration::from_secs(30);

/// What the clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    recorder: Recorder,
    /// Of every acknowledged append: its shard, when it was sent, and when its answer came.
    acked: Mutex<Vec<(usize, Instant, Instant)>>,
    errors: Mutex<Vec<String>>,
    /// Whether a disk may be full: then `DiskFull` is an answer like any other.
    may_be_full: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Load under way.
pub(super) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Creates the table and starts the clients. That a disk is full is an error unless that may be.
    pub(super) fn start(cluster: &Cluster, may_be_full: bool) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let shared = Arc::new(Shared { may_be_full, ..Shared::default() });
        let connect = || Client::connect(cluster.endpoints(), Options { call_timeout: CALL, ..Options::default() });
        let clients = (0..CLIENTS).map(|number| {
            let client = runtime.block_on(connect()).expect("the cluster can be reached");
            if number == 0 {
                let split_at = SHARDS[1..].iter().map(|letter| Bytes::from(letter.to_string())).collect();
                let table = client.create_table(TableSpec::range(TABLE, split_at, Retention::All));
                runtime.block_on(table).expect("the table can be created");
            }
            runtime.spawn(work(client, number, Arc::clone(&shared)))
        });
        let clients = clients.collect();
        Load { runtime, shared, clients }
    }

    /// Waits until every shard acknowledges writes that were sent after this was called.
    #[track_caller]
    pub(super) fn wait_flowing(&self, patience: Duration) {
        let from = Instant::now();
        let flowing = until(patience, "every shard acknowledges writes", || {
            let acked = lock(&self.shared.acked);
            let fresh = acked.iter().rev().take_while(|(_, _, answered)| *answered > from);
            let shards = fresh.filter(|(_, sent, _)| *sent > from).fold(0u8, |set, (shard, ..)| set | 1 << shard);
            (shards == (1 << SHARDS.len()) - 1).then_some(())
        });
        let errors = || lock(&self.shared.errors).iter().take(3).cloned().collect::<Vec<_>>();
        flowing.unwrap_or_else(|why| panic!("{why}; errors: {:?}", errors()));
    }

    /// The longest time without an acknowledgement on one shard since `from`.
    pub(super) fn pause(&self, from: Instant) -> Duration {
        let (mut last, mut pause) = ([from; SHARDS.len()], Duration::ZERO);
        let acked = lock(&self.shared.acked);
        for (shard, _, answered) in acked.iter().filter(|(_, _, answered)| *answered > from) {
            pause = pause.max(answered.saturating_duration_since(last[*shard]));
            last[*shard] = last[*shard].max(*answered);
        }
        pause
    }

    /// The longest time between these two without an acknowledgement on one shard; all of it where there was none.
    pub(super) fn stalled(&self, from: Instant, to: Instant) -> Duration {
        let (mut last, mut stalled) = ([from; SHARDS.len()], Duration::ZERO);
        let acked = lock(&self.shared.acked);
        for (shard, _, answered) in acked.iter().filter(|(_, _, answered)| *answered > from && *answered <= to) {
            stalled = stalled.max(answered.saturating_duration_since(last[*shard]));
            last[*shard] = last[*shard].max(*answered);
        }
        last.iter().map(|last| to.saturating_duration_since(*last)).fold(stalled, Duration::max)
    }

    /// A client beside the load's own, and the runtime that it lives in.
    pub(super) fn client(&self, cluster: &Cluster) -> Result<(Client, &Runtime), String> {
        let options = Options { call_timeout: CALL, ..Options::default() };
        let client = self.runtime.block_on(Client::connect(cluster.endpoints(), options));
        Ok((client.map_err(|error| error.to_string())?, &self.runtime))
    }

    /// Where operations beside the load's own are noted.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// What its clients live in.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Acknowledgements that came after `from`.
    pub(super) fn acked_since(&self, from: Instant) -> usize {
        lock(&self.shared.acked).iter().rev().take_while(|(_, _, answered)| *answered > from).count()
    }

    /// Ends the load once every call under way has its answer; gives the history, its logs missing, and the errors.
    pub(super) fn stop(self) -> (History, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            self.runtime.block_on(client).expect("no client panics");
        }
        let errors = std::mem::take(&mut *lock(&self.shared.errors));
        (self.shared.recorder.finish(), errors)
    }
}

async fn work(client: Client, number: u64, shared: Arc<Shared>) {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    // The next offset of each key as last heard, for conditions that hold now and then.
    let mut heard: BTreeMap<String, u64> = BTreeMap::new();
    for turn in 0u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let shard = rng.random_range(0..SHARDS.len());
        let key = format!("{}{:02}", SHARDS[shard], rng.random_range(0..KEYS));
        let next = heard.get(&key).copied().unwrap_or(0);
        match rng.random_range(0..10) {
            0..3 => get(&client, number, &key, &shared, &mut heard).await,
            kind => {
                let values: Vec<String> = (0..1 + turn % 3).map(|n| format!("{number}#{turn}.{n}")).collect();
                let (call, op) = match kind {
                    3 => (Call::Delete { expect: synod_lincheck::Expect::Any }, None),
                    4..6 => {
                        let expect = synod_lincheck::Expect::Next(next);
                        (Call::Append { values: values.clone(), expect }, Some((values, Expect::NextOffset(next))))
                    }
                    _ => {
                        let expect = synod_lincheck::Expect::Any;
                        (Call::Append { values: values.clone(), expect }, Some((values, Expect::Any)))
                    }
                };
                let needs_room = op.is_some();
                let (sent, pending) = (Instant::now(), shared.recorder.invoked(number, key.clone(), call));
                let count = op.as_ref().map_or(1, |(values, _)| values.len() as u64);
                let answer = match op {
                    None => client.delete(TABLE, key.clone(), Expect::Any).await,
                    Some((values, expect)) => {
                        let records = values.into_iter().map(NewRecord::new).collect();
                        client.append(TABLE, key.clone(), records, expect).await
                    }
                };
                let outcome = match answer {
                    Ok(written) => {
                        heard.insert(key, written.offset + count);
                        if needs_room {
                            lock(&shared.acked).push((shard, sent, Instant::now()));
                        }
                        Outcome::Written { offset: written.offset }
                    }
                    Err(Error::ExpectationFailed { actual, .. }) => {
                        heard.insert(key, actual);
                        Outcome::ExpectationFailed { actual }
                    }
                    Err(Error::DiskFull { .. }) if needs_room && shared.may_be_full => Outcome::NotExecuted,
                    Err(error) => {
                        lock(&shared.errors).push(error.to_string());
                        // An error of another kind says that nothing was executed.
                        let unknown = matches!(error, Error::OutcomeUnknown { .. });
                        if unknown { Outcome::Unknown } else { Outcome::NotExecuted }
                    }
                };
                shared.recorder.returned(pending, outcome);
            }
        }
        // Steady, not the most there can be: the nodes share the machine with the clients.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn get(client: &Client, number: u64, key: &str, shared: &Shared, heard: &mut BTreeMap<String, u64>) {
    let pending = shared.recorder.invoked(number, key, Call::Get);
    match client.get_full(TABLE, key.to_owned(), GetOptions::default()).await {
        Ok(full) => {
            heard.insert(key.to_owned(), full.next_offset);
            let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
            let newest = full.record.filter(|record| !record.tombstone);
            let newest = newest.map(|record| Seen { offset: record.offset, value: text(&record.value) });
            shared.recorder.returned(pending, Outcome::Found { newest, next: Some(full.next_offset) });
        }
        Err(error) => {
            lock(&shared.errors).push(format!("get: {error}"));
            shared.recorder.returned(pending, Outcome::Unknown);
        }
    }
}

/// Every key.
pub(super) fn keys() -> impl Iterator<Item = String> {
    SHARDS.iter().flat_map(|letter| (0..KEYS).map(move |number| format!("{letter}{number:02}")))
}

/// Every key's whole log, by the command line.
pub(super) fn read_back(cluster: &Cluster) -> BTreeMap<String, Vec<Record>> {
    let mut logs = BTreeMap::new();
    for key in keys() {
        let read = cluster.cli(&["-o", "json", "--timeout", "60s", "read", TABLE, &key]).ok().json_lines();
        let record = |record: &serde_json::Value| {
            let offset = record["offset"].as_u64().expect("records have offsets");
            if record["tombstone"].as_bool() == Some(true) {
                return Record::tombstone(offset);
            }
            Record::value(offset, record["value"].as_str().expect("values are text"))
        };
        logs.insert(key, read.iter().map(record).collect());
    }
    logs
}
