//! The default load of a campaign, with everything that was asked and answered.
//!
//! Owns: its clients and their recorder. Must never: retry or hide an error: what retrying there is the caller does, be it the
//! client library or plain calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_client::{Client, Options, Retention, TableSpec};
use synod_lincheck::{Call, Expect, History, Outcome, Record, Recorder};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::call::{Answer, Found, Wanted};
use super::caller::{Caller, Kind};
use super::plain;
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
    pub(super) fn start(cluster: &Cluster, kind: Kind, may_be_full: bool) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let shared = Arc::new(Shared { may_be_full, ..Shared::default() });
        let endpoints = cluster.endpoints();
        let split_at = SHARDS[1..].iter().map(|letter| Bytes::from(letter.to_string())).collect();
        if kind == Kind::Plain {
            let created = runtime.block_on(plain::create_table(&endpoints, TABLE, split_at));
            created.expect("the table can be created");
        } else {
            let created = async {
                let client = Client::connect(endpoints.clone(), Options::default()).await?;
                client.create_table(TableSpec::range(TABLE, split_at, Retention::All)).await
            };
            runtime.block_on(created).expect("the table can be created");
        }
        let clients = (0..CLIENTS).map(|number| {
            let caller = match kind {
                Kind::Plain => Caller::plain(endpoints.clone(), TABLE, number, CALL),
                Kind::Library => {
                    let options = Options { call_timeout: CALL, ..Options::default() };
                    let client = runtime.block_on(Client::connect(endpoints.clone(), options));
                    Caller::Library(client.expect("the cluster can be reached"))
                }
            };
            runtime.spawn(work(caller, number, Arc::clone(&shared)))
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

async fn work(mut client: Caller, number: u64, shared: Arc<Shared>) {
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
        let values = || (0..1 + turn % 3).map(|n| format!("{number}#{turn}.{n}")).collect();
        match rng.random_range(0..10) {
            0..3 => get(&mut client, number, &key, &shared, &mut heard).await,
            3 => write(&mut client, number, (shard, key), Wanted::Delete, &shared, &mut heard).await,
            kind => {
                let wanted = Wanted::Append { values: values(), next: (kind < 6).then_some(next) };
                write(&mut client, number, (shard, key), wanted, &shared, &mut heard).await;
            }
        }
        // Steady, not the most there can be: the nodes share the machine with the clients.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn write(
    client: &mut Caller,
    number: u64,
    (shard, key): (usize, String),
    wanted: Wanted,
    shared: &Shared,
    heard: &mut BTreeMap<String, u64>,
) {
    let (call, count) = match &wanted {
        Wanted::Delete => (Call::Delete { expect: Expect::Any }, 1),
        Wanted::Append { values, next } => {
            let expect = next.map_or(Expect::Any, Expect::Next);
            (Call::Append { values: values.clone(), expect }, values.len() as u64)
        }
    };
    let needs_room = matches!(wanted, Wanted::Append { .. });
    let (sent, pending) = (Instant::now(), shared.recorder.invoked(number, key.clone(), call));
    let answer = client.write(TABLE, &key, &wanted).await;
    let outcome = match answer {
        Answer::Written { offset } => {
            heard.insert(key, offset + count);
            if needs_room {
                lock(&shared.acked).push((shard, sent, Instant::now()));
            }
            Outcome::Written { offset }
        }
        Answer::Expectation { actual } => {
            heard.insert(key, actual);
            Outcome::ExpectationFailed { actual }
        }
        Answer::NoRoom(_) if needs_room && shared.may_be_full => Outcome::NotExecuted,
        Answer::NoRoom(why) | Answer::NotExecuted(why) => {
            lock(&shared.errors).push(why);
            Outcome::NotExecuted
        }
        Answer::Unknown(why) => {
            lock(&shared.errors).push(why);
            Outcome::Unknown
        }
    };
    shared.recorder.returned(pending, outcome);
}

async fn get(client: &mut Caller, number: u64, key: &str, shared: &Shared, heard: &mut BTreeMap<String, u64>) {
    let pending = shared.recorder.invoked(number, key, Call::Get);
    match client.get(TABLE, key).await {
        Ok(Found { newest, next }) => {
            heard.insert(key.to_owned(), next);
            shared.recorder.returned(pending, Outcome::Found { newest, next: Some(next) });
        }
        Err(why) => {
            lock(&shared.errors).push(format!("get: {why}"));
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
