//! A state store whose newest rows stand in a hash map: RocksDB gets them as sorted files.
//!
//! Owns: a worker's rows that are not yet durable. Must never: hold more than one active and two frozen maps, or drop a
//! frozen map before its rows can be read from RocksDB.
//!
//! Random inserts into a memtable are the largest single cost of a write; the groups' logs already are the write-ahead
//! log of these rows, so they may wait in a hash map. A freeze hands the map to a thread, which sorts it, writes it out
//! as sorted files, syncs them and has RocksDB take all of them in at once. Reads ask the active map, the frozen ones
//! from the newest on, then RocksDB.

use super::flusher::{Flusher, UNFINISHED_MAX};
use super::merge::{self, Layer, Range};
use super::pace::Pace;
use super::reclaim::Reclaimer;
use super::rocks::RocksShared;
use super::rows::{Found, RowMap};
use super::{BulkLoad, FlushId, StateBatch, StateStore, ViewJob, Visit};
use crate::StoreError;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Size of the active map at which a front asks to be frozen by default, bytes.
pub const FREEZE_BYTES: usize = 64 << 20;

/// A map that no longer changes.
struct Frozen {
    map: RowMap,
    order: OnceLock<Vec<u32>>,
}

impl Frozen {
    /// All rows in key order, sorted by whoever asks first.
    fn order(&self) -> &[u32] {
        self.order.get_or_init(|| self.map.order())
    }

    fn flush(&self, shared: &RocksShared) -> Result<(), StoreError> {
        if self.map.is_empty() {
            return Ok(());
        }
        let rows = self.order().iter().map(|&row| &self.map.rows()[row as usize]);
        shared.ingest(self.map.removed(), rows.map(|row| (&*row.key, row.value.as_deref())))
    }
}

/// One worker's rows in memory above the shared state DB.
pub struct FrontState {
    shared: Arc<RocksShared>,
    active: RowMap,
    /// Newest first.
    frozen: VecDeque<(FlushId, Arc<Frozen>)>,
    flusher: Flusher<Arc<Frozen>>,
    freeze_bytes: usize,
    pace: Pace,
    reclaimer: Reclaimer,
}

impl FrontState {
    /// A front that asks to be frozen once its map holds `freeze_bytes` bytes. Fronts of one database must hold disjoint
    /// keys.
    pub fn new(shared: Arc<RocksShared>, freeze_bytes: usize) -> Result<Self, StoreError> {
        let db = Arc::clone(&shared);
        let flusher = Flusher::spawn("state-flush", move |_, frozen: &Arc<Frozen>| frozen.flush(&db))?;
        let (active, frozen) = (RowMap::with_capacity(0), VecDeque::new());
        let fronts = 1 + UNFINISHED_MAX as usize;
        let pace = Pace::new(shared.level_zero_files_max(), fronts * freeze_bytes);
        Ok(Self { shared, active, frozen, flusher, freeze_bytes, pace, reclaimer: Reclaimer::default() })
    }

    /// Lets go of maps whose rows RocksDB has.
    fn reap(&mut self) {
        let done = self.flusher.done();
        while let Some((_, frozen)) = self.frozen.pop_back_if(|(id, _)| *id <= done) {
            self.flusher.dispose(frozen);
        }
    }
}

impl StateStore for FrontState {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let maps = std::iter::once(&self.active).chain(self.frozen.iter().map(|(_, frozen)| &frozen.map));
        for map in maps {
            match map.get(key) {
                Found::Value(value) => return Ok(Some(value.clone())),
                Found::Deleted => return Ok(None),
                Found::Nothing => {}
            }
        }
        self.shared.get(key)
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        self.reap();
        self.active.settle();
        let mut layers = Vec::with_capacity(3);
        layers.push(Layer { map: &self.active, runs: self.active.runs().iter().map(Vec::as_slice).collect() });
        for (_, frozen) in &self.frozen {
            layers.push(Layer { map: &frozen.map, runs: vec![frozen.order()] });
        }
        let rows = self.shared.iterate(from, to);
        merge::scan(&layers, Some(rows), Range { from, to, reverse }, visit).map_err(|e| self.shared.error("read", &e))
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        self.reap();
        let mut bytes = 0;
        for (key, value) in batch.rows {
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            self.active.insert(key, value);
        }
        if let Some(wait) = self.pace.applied(bytes, || self.shared.level_zero_files())? {
            std::thread::sleep(wait);
        }
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        if from < to {
            self.active.remove_range(from, to);
        }
        Ok(())
    }

    fn wants_freeze(&self) -> bool {
        self.active.bytes() >= self.freeze_bytes
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        // The next map will grow about as large: no growing, no moving.
        let next = RowMap::with_capacity(self.active.len());
        let frozen = Arc::new(Frozen { map: std::mem::replace(&mut self.active, next), order: OnceLock::new() });
        let id = self.flusher.submit(Arc::clone(&frozen))?;
        self.frozen.push_front((id, frozen));
        self.reap();
        let unfinished = self.frozen.len() as u64;
        assert!(unfinished <= UNFINISHED_MAX, "{unfinished} frozen maps, {UNFINISHED_MAX} allowed");
        Ok(id)
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        self.reap();
        self.flusher.flushed()
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.freeze()?;
        self.flusher.wait_all()?;
        self.reap();
        Ok(())
    }

    fn view(&mut self, job: ViewJob) -> Result<(), StoreError> {
        // Behind the last freeze and before the next, RocksDB holds exactly what that freeze froze.
        let shared = Arc::clone(&self.shared);
        self.flusher.between(Box::new(move || shared.view(job)))
    }

    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        Ok(Arc::clone(&self.shared) as Arc<dyn BulkLoad>)
    }

    fn loaded(&mut self, _from: &[u8], _to: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn reclaim(&mut self, spare: u64) -> Result<(), StoreError> {
        self.reclaimer.begin(&self.shared, spare)
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.health()
    }

    fn condemn(&self, error: &StoreError) {
        self.shared.condemn(error);
    }

    fn memory_bytes(&self) -> usize {
        let done = self.flusher.done();
        let frozen = self.frozen.iter().filter(|(id, _)| *id > done).map(|(_, frozen)| frozen.map.bytes());
        self.active.bytes() + frozen.sum::<usize>()
    }
}
