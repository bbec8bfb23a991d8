//! A state store whose rows wait for their flush in RocksDB's own memtables.
//!
//! Owns: what a worker has written since its freezes became durable. Must never: make a freeze durable in parts.

use super::flusher::Flusher;
use super::merge;
use super::rocks::RocksShared;
use super::{BulkLoad, FlushId, StateBatch, StateStore, ViewJob, Visit};
use crate::StoreError;
use bytes::Bytes;
use rocksdb::WriteBatch;
use std::sync::Arc;

/// One worker's handle on the state DB.
pub struct RocksState {
    shared: Arc<RocksShared>,
    flusher: Flusher<()>,
    freeze_bytes: usize,
    unfrozen: usize,
    /// Sizes of the freezes not known to be durable.
    frozen: Vec<(FlushId, usize)>,
}

impl RocksState {
    /// A worker's handle on the database; it asks to be frozen after `freeze_bytes` bytes.
    pub fn new(shared: Arc<RocksShared>, freeze_bytes: usize) -> Result<Self, StoreError> {
        let db = Arc::clone(&shared);
        let flusher = Flusher::spawn("state-flush", move |_, ()| db.flush())?;
        Ok(Self { shared, flusher, freeze_bytes, unfrozen: 0, frozen: Vec::new() })
    }

    fn write(&mut self, rows: WriteBatch) -> Result<(), StoreError> {
        self.unfrozen += rows.size_in_bytes();
        self.shared.write(rows)
    }
}

impl StateStore for RocksState {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.shared.get(key)
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let rows = self.shared.iterate(from, to);
        merge::scan(&[], Some(rows), merge::Range { from, to, reverse }, visit)
            .map_err(|e| self.shared.error("read", &e))
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        let mut rows = WriteBatch::default();
        for (key, value) in &batch.rows {
            match value {
                Some(value) => rows.put(key, value),
                None => rows.delete(key),
            }
        }
        self.write(rows)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut rows = WriteBatch::default();
        rows.delete_range(from, to);
        self.write(rows)
    }

    fn wants_freeze(&self) -> bool {
        self.unfrozen >= self.freeze_bytes
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        let id = self.flusher.submit(())?;
        self.frozen.push((id, std::mem::take(&mut self.unfrozen)));
        Ok(id)
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        let flushed = self.flusher.flushed()?;
        self.frozen.retain(|(id, _)| *id > flushed);
        Ok(flushed)
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.freeze()?;
        self.flusher.wait_all()
    }

    fn view(&mut self, job: ViewJob) -> Result<(), StoreError> {
        Arc::clone(&self.shared).view(job);
        Ok(())
    }

    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        Ok(Arc::clone(&self.shared) as Arc<dyn BulkLoad>)
    }

    fn loaded(&mut self, _from: &[u8], _to: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.health()
    }

    fn condemn(&self, error: &StoreError) {
        self.shared.condemn(error);
    }

    fn memory_bytes(&self) -> usize {
        let done = self.flusher.done();
        self.unfrozen + self.frozen.iter().filter(|(id, _)| *id > done).map(|(_, bytes)| bytes).sum::<usize>()
    }
}
