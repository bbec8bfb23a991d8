//! A store in memory that has fallen behind: what is applied owes a wait.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use synod_engine::StoreError;
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::{FlushId, StateBatch, StateStore, Visit};

pub struct SlowState {
    store: MemState,
    micros: Arc<AtomicU64>,
    owed: u64,
}

impl SlowState {
    pub fn open(disk: &MemDisk, micros: &Arc<AtomicU64>) -> Self {
        Self { store: MemState::open(disk), micros: Arc::clone(micros), owed: 0 }
    }
}

impl StateStore for SlowState {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(key)
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.store.scan(from, to, reverse, visit)
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        self.owed += self.micros.load(Ordering::Relaxed);
        self.store.apply(batch)
    }

    fn owed(&mut self) -> Duration {
        Duration::from_micros(std::mem::take(&mut self.owed))
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.store.remove_range(from, to)
    }

    fn wants_freeze(&self) -> bool {
        false
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        self.store.freeze()
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        self.store.flushed()
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.store.flush_and_wait()
    }

    fn memory_bytes(&self) -> usize {
        self.store.memory_bytes()
    }
}
