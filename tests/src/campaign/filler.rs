//! Large records that fill disks, with a memory of what was said of each.
//!
//! Owns: their table, writers and check. Must never: retry a record under another name, or forget one that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use synod_client::{Client, Consistency, Error, Expect, NewRecord, Retention, TableSpec};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use super::load::Load;
use crate::cluster::Cluster;

const RECORD: usize = 64 << 10;
const WRITERS: u64 = 4;
/// Keys of a writer.
const KEYS: u64 = 4;
/// So many are acknowledged at most: four times what makes the log roll over.
const MOST: usize = 4_000;
/// Of a call, so that a refusal is heard while the disk is full.
const CALL: Duration = Duration::from_secs(2);

/// What was said of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    At(u64),
    Unknown,
    Refused,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    pause: AtomicBool,
    next: AtomicU64,
    acked: AtomicUsize,
    said: Mutex<BTreeMap<u64, Said>>,
    errors: Mutex<Vec<String>>,
}

/// The large records of one turn.
pub(super) struct Filler {
    table: String,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    trimmed: bool,
}

/// A record's key.
fn key(number: u64) -> String {
    format!("large-{}", number % (WRITERS * KEYS))
}

/// A record's value: its number, then bytes that no compression makes smaller.
fn value(number: u64) -> Bytes {
    let mut value = vec![0; RECORD];
    ChaCha8Rng::seed_from_u64(number).fill_bytes(&mut value);
    value[..8].copy_from_slice(&number.to_be_bytes());
    value.into()
}

fn number_of(value: &[u8]) -> Option<u64> {
    value.first_chunk::<8>().map(|number| u64::from_be_bytes(*number))
}

impl Filler {
    /// Creates its table.
    pub(super) fn new(cluster: &Cluster, load: &Load, turn: usize) -> Result<Filler, String> {
        let (client, runtime) = load.client(cluster)?;
        let table = format!("large-{turn}");
        let created = runtime.block_on(client.create_table(TableSpec::hash(&table, 2, Retention::All)));
        created.map_err(|error| error.to_string())?;
        Ok(Filler { table, shared: Arc::default(), writers: Vec::new(), trimmed: false })
    }

    /// The table's name.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Starts to write.
    pub(super) fn start(&mut self, cluster: &Cluster, load: &Load) -> Result<(), String> {
        let (client, runtime) = load.client(cluster)?;
        for _ in 0..WRITERS {
            let (client, table) = (client.with_timeout(CALL), self.table.clone());
            self.writers.push(runtime.spawn(write(client, table, Arc::clone(&self.shared))));
        }
        Ok(())
    }

    /// How many records were acknowledged.
    pub(super) fn acked(&self) -> usize {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Writes stand still, or go on.
    pub(super) fn pause(&self, pause: bool) {
        self.shared.pause.store(pause, Ordering::Relaxed);
    }

    /// Ends the writers once each has its answer.
    pub(super) fn stop(&mut self, load: &Load) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            load.runtime().block_on(writer).expect("no writer panics");
        }
    }

    /// Trims every record away, which frees room.
    pub(super) fn trim(&mut self, cluster: &Cluster, load: &Load) -> Result<(), String> {
        self.stop(load);
        self.check(cluster, load)?;
        let (client, runtime) = load.client(cluster)?;
        for n in 0..WRITERS * KEYS {
            let trimmed = runtime.block_on(client.trim(&self.table, key(n), 1 << 40));
            trimmed.map_err(|error| format!("all disks are low, and a trim got: {error}"))?;
        }
        self.trimmed = true;
        Ok(())
    }

    /// Drops the table, which frees room.
    pub(super) fn drop_table(&self, cluster: &Cluster, load: &Load) -> Result<(), String> {
        let (client, runtime) = load.client(cluster)?;
        runtime.block_on(client.drop_table(&self.table)).map_err(|error| error.to_string())
    }

    /// Every record that was acknowledged is there, once, whole and at its offset; none that was refused is. How many were
    /// acknowledged and refused.
    pub(super) fn check(&self, cluster: &Cluster, load: &Load) -> Result<(usize, usize), String> {
        let errors = self.shared.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(error) = errors.first() {
            return Err(format!("a writer of large records saw: {error}"));
        }
        let said = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = |wanted: fn(&Said) -> bool| said.values().filter(|said| wanted(said)).count();
        let counts = (count(|said| matches!(said, Said::At(_))), count(|said| *said == Said::Refused));
        if self.trimmed {
            return Ok(counts);
        }
        let (client, runtime) = load.client(cluster)?;
        let mut stored = BTreeSet::new();
        for n in 0..WRITERS * KEYS {
            let records = client.read(&self.table, key(n), 0, None, Consistency::Linearizable);
            let records: Result<Vec<_>, Error> = runtime.block_on(records.collect());
            let records = records.map_err(|error| format!("large records cannot be read: {error}"))?;
            for (place, record) in records.iter().enumerate() {
                let number = number_of(&record.value).ok_or("a record without its number")?;
                if record.offset != place as u64 || key(number) != key(n) || record.value != value(number) {
                    return Err(format!("record {number} at {}/{} is not as it was written", key(n), record.offset));
                }
                match said.get(&number) {
                    Some(Said::At(offset)) if *offset == record.offset => {}
                    Some(Said::Unknown) => {}
                    said => {
                        return Err(format!("record {number} is at {}/{}, said was {said:?}", key(n), record.offset));
                    }
                }
                if !stored.insert(number) {
                    return Err(format!("record {number} is there twice"));
                }
            }
        }
        match said.iter().find(|(number, said)| matches!(said, Said::At(_)) && !stored.contains(number)) {
            Some((number, said)) => Err(format!("record {number} is lost: {said:?} of {}", key(*number))),
            None => Ok(counts),
        }
    }
}

async fn write(client: Client, table: String, shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.pause.load(Ordering::Relaxed) || shared.acked.load(Ordering::Relaxed) >= MOST {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let records = vec![NewRecord::new(value(number))];
        let said = match client.append(&table, key(number), records, Expect::Any).await {
            Ok(written) => {
                shared.acked.fetch_add(1, Ordering::Relaxed);
                Said::At(written.offset)
            }
            Err(Error::DiskFull { .. }) => Said::Refused,
            Err(Error::OutcomeUnknown { .. }) => Said::Unknown,
            // Says that it was not executed; no node may have been reached.
            Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => Said::Refused,
            Err(error) => {
                shared.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
                Said::Unknown
            }
        };
        shared.said.lock().unwrap_or_else(PoisonError::into_inner).insert(number, said);
    }
}
