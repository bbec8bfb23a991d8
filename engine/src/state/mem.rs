//! A state store in memory, for tests and simulation.
//!
//! Owns: the same behaviour as the stores on RocksDB, without a disk; a [`MemDisk`] keeps what was frozen, so that a
//! store opened again has lost what came after. Must never: be used by a server.

use super::{BulkLoad, Fetch, FlushId, Lacked, StateBatch, StateStore, StateView, ViewJob, Visit};
use crate::StoreError;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

type Rows = BTreeMap<Vec<u8>, Bytes>;

/// What is durable of a [`MemState`]. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<Rows>>);

impl MemDisk {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().expect("a panic while the disk's lock was held; its state is unknown")
    }
}

/// Which rows of a [`MemState`] are on its disk only, until they are fetched or written. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ColdRows(Arc<Mutex<Cold>>);

#[derive(Debug, Default)]
struct Cold {
    rows: BTreeSet<Vec<u8>>,
    /// What is written is cold at once.
    chills: bool,
    waited: u64,
    lacked: u64,
}

impl ColdRows {
    fn lock(&self) -> MutexGuard<'_, Cold> {
        self.0.lock().expect("a panic while the lock was held; its state is unknown")
    }

    /// Whether rows leave memory as soon as they are written.
    pub fn chill(&self, chills: bool) {
        self.lock().chills = chills;
    }

    /// Reads that waited for the disk.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.lock().waited
    }

    /// Reads that failed since they were to stay in memory.
    #[must_use]
    pub fn lacked(&self) -> u64 {
        self.lock().lacked
    }

    /// Whether a read that `stays` may see the row.
    fn sees(&self, key: &[u8], stays: bool) -> bool {
        let cold = &mut *self.lock();
        if !cold.rows.contains(key) {
            return true;
        }
        *(if stays { &mut cold.lacked } else { &mut cold.waited }) += 1;
        !stays
    }

    fn written(&self, key: &[u8]) {
        let cold = &mut *self.lock();
        if cold.chills {
            cold.rows.insert(key.to_vec());
        } else {
            cold.rows.remove(key);
        }
    }
}

impl Fetch for ColdRows {
    fn fetch(&self, lacked: &Lacked) -> Result<(), StoreError> {
        self.lock().rows.retain(|row| *row < lacked.from || *row >= lacked.to);
        Ok(())
    }
}

impl BulkLoad for MemDisk {
    fn load(&self, rows: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        self.lock().extend(rows.iter().cloned());
        Ok(())
    }
}

impl StateView for Rows {
    fn scan(&mut self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let rows = self.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        for (key, value) in rows {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn size(&mut self, from: &[u8], to: &[u8]) -> u64 {
        if from >= to {
            return 0;
        }
        let rows = self.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        rows.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

enum Change {
    Row(Vec<u8>, Option<Bytes>),
    Remove(Vec<u8>, Vec<u8>),
}

impl Change {
    fn make(&self, rows: &mut Rows) {
        match self {
            Self::Row(key, Some(value)) => {
                rows.insert(key.clone(), value.clone());
            }
            Self::Row(key, None) => {
                rows.remove(key);
            }
            Self::Remove(from, to) if from < to => {
                let gone: Vec<Vec<u8>> = rows.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
                for key in gone {
                    rows.remove(&key);
                }
            }
            Self::Remove(..) => {}
        }
    }
}

/// Rows in memory; a freeze is durable at once.
#[derive(Default)]
pub struct MemState {
    rows: Rows,
    disk: MemDisk,
    since_freeze: Vec<Change>,
    bytes: usize,
    freeze_bytes: Option<usize>,
    frozen: FlushId,
    /// What each batch owes, µs.
    owes: Arc<AtomicU64>,
    owed: u64,
    cold: ColdRows,
    stays: bool,
}

impl MemState {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is durable on `disk`.
    #[must_use]
    pub fn open(disk: &MemDisk) -> Self {
        Self { rows: disk.lock().clone(), disk: disk.clone(), ..Self::default() }
    }

    /// Asks to be frozen after so many bytes; by default it never asks.
    #[must_use]
    pub fn with_freeze_bytes(mut self, bytes: usize) -> Self {
        self.freeze_bytes = Some(bytes);
        self
    }

    /// Owes a wait of `micros` µs for each batch, as a store does that cannot keep up.
    #[must_use]
    pub fn owing(mut self, micros: &Arc<AtomicU64>) -> Self {
        self.owes = Arc::clone(micros);
        self
    }

    /// What it holds by now is on its disk only.
    #[must_use]
    pub fn cold(mut self, cold: &ColdRows) -> Self {
        cold.lock().rows = self.rows.keys().cloned().collect();
        self.cold = cold.clone();
        self
    }

    fn change(&mut self, change: Change) {
        if let Change::Row(key, _) = &change {
            self.cold.written(key);
        }
        self.bytes += match &change {
            Change::Row(key, value) => key.len() + value.as_ref().map_or(0, Bytes::len),
            Change::Remove(from, to) => from.len() + to.len(),
        };
        change.make(&mut self.rows);
        self.since_freeze.push(change);
    }
}

impl StateStore for MemState {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if !self.cold.sees(key, self.stays) {
            return Err(StoreError::Cold(Lacked::row(key)));
        }
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut rows = self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        while let Some((key, value)) = if reverse { rows.next_back() } else { rows.next() } {
            if !self.cold.sees(key, self.stays) {
                let row = Lacked::row(key);
                let (from, to) = if reverse { (from.to_vec(), row.to) } else { (row.from, to.to_vec()) };
                return Err(StoreError::Cold(Lacked { from, to, reverse }));
            }
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn stay_in_memory(&mut self, stay: bool) {
        self.stays = stay;
    }

    fn fetcher(&self) -> Option<Arc<dyn Fetch>> {
        Some(Arc::new(self.cold.clone()))
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        self.owed += self.owes.load(Ordering::Relaxed);
        for (key, value) in batch.rows {
            self.change(Change::Row(key, value));
        }
        Ok(())
    }

    fn owed(&mut self) -> Duration {
        Duration::from_micros(std::mem::take(&mut self.owed))
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.change(Change::Remove(from.to_vec(), to.to_vec()));
        Ok(())
    }

    fn wants_freeze(&self) -> bool {
        self.freeze_bytes.is_some_and(|limit| self.bytes >= limit)
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        let mut durable = self.disk.lock();
        for change in self.since_freeze.drain(..) {
            change.make(&mut durable);
        }
        self.bytes = 0;
        self.frozen.0 += 1;
        Ok(self.frozen)
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        Ok(self.frozen)
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.freeze().map(|_| ())
    }

    fn view(&mut self, job: ViewJob) -> Result<(), StoreError> {
        job(&mut self.rows);
        Ok(())
    }

    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        Ok(Arc::new(self.disk.clone()))
    }

    fn loaded(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let disk = self.disk.lock();
        let loaded = disk.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        self.rows.extend(loaded.map(|(key, value)| (key.clone(), value.clone())));
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.bytes
    }
}
