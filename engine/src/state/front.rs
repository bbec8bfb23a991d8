//! A state store whose newest rows are in a hash map: RocksDB gets them as sorted files.
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
use super::removed::LARGE_BYTES;
use super::rocks::RocksShared;
use super::rows::{Found, RowMap, Span};
use super::tidy::Tidier;
use super::{BulkLoad, Fetch, FlushId, Lacked, Measure, StateBatch, StateStore, ViewJob, Visit};
use crate::StoreError;
use bytes::Bytes;
use rocksdb::ErrorKind;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// Size of the active map at which a front asks to be frozen by default, bytes.
pub const FREEZE_BYTES: usize = 64 << 20;

/// Removed ranges of a map that are remembered, to look at how much they hold.
const RANGES_KEPT: usize = 64;
/// Ranges that are looked at in one go: each look may read a block.
const RANGES_LOOKED_AT: usize = 8;
/// Calls of [`StateStore::tidy`], about a second each, for which large ranges wait for a freeze that comes by itself.
const CALLS_WAITED: u32 = 15;

/// A map that no longer changes.
struct Frozen {
    map: RowMap,
    order: OnceLock<Vec<u32>>,
}

impl Frozen {
    /// All rows in key order. The thread that flushes sorts them; nobody else waits for that.
    fn order(&self) -> &[u32] {
        self.order.get_or_init(|| self.map.order())
    }

    /// All rows in sorted runs: one, once they were sorted for the flush.
    fn runs(&self) -> Vec<&[u32]> {
        match self.order.get() {
            Some(order) => vec![order],
            None => self.map.runs().iter().map(Vec::as_slice).collect(),
        }
    }

    fn flush(&self, shared: &RocksShared) -> Result<(), StoreError> {
        if self.map.is_empty() {
            return Ok(());
        }
        let rows = self.order().iter().map(|&row| &self.map.rows()[row as usize]);
        let rows = rows.filter(|row| self.map.is_live(row));
        let removed: Vec<Span> = self.map.removed().collect();
        shared.ingest(&removed, rows.map(|row| (&*row.key, row.value.as_deref())))
    }
}

/// What gives room back, once a database.
#[derive(Default)]
struct Cleaners {
    reclaimer: Reclaimer,
    tidier: Tidier,
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
    /// What rows applied since the worker asked are to wait.
    owed: Duration,
    cleaners: Arc<Mutex<Cleaners>>,
    /// It tells of the database what is told once.
    first: bool,
    /// Ranges that the active map removes and that were not looked at.
    unlooked: Vec<Span>,
    /// What those that were looked at hold, bytes.
    unflushed: u64,
    /// Calls since then that this was much.
    waited: u32,
    /// Reads that would have to wait for a file fail.
    stays: bool,
}

impl FrontState {
    /// A front that asks to be frozen once its map holds `freeze_bytes` bytes, alone over its database.
    pub fn new(shared: Arc<RocksShared>, freeze_bytes: usize) -> Result<Self, StoreError> {
        Self::one(shared, freeze_bytes, Arc::default(), true)
    }

    /// Fronts for so many workers, which have `freeze_bytes` bytes between them. They must hold disjoint keys.
    pub fn several(shared: &Arc<RocksShared>, freeze_bytes: usize, workers: u16) -> Result<Vec<Self>, StoreError> {
        let each = (freeze_bytes / usize::from(workers.max(1))).max(1 << 20);
        let cleaners = Arc::default();
        (0..workers).map(|n| Self::one(Arc::clone(shared), each, Arc::clone(&cleaners), n == 0)).collect()
    }

    fn one(
        shared: Arc<RocksShared>,
        freeze_bytes: usize,
        cleaners: Arc<Mutex<Cleaners>>,
        first: bool,
    ) -> Result<Self, StoreError> {
        let db = Arc::clone(&shared);
        let flusher = Flusher::spawn("state-flush", move |_, frozen: &Arc<Frozen>| frozen.flush(&db))?;
        let (active, frozen) = (RowMap::with_capacity(0), VecDeque::new());
        let pace = Pace::new(shared.level_zero_files_max(), unflushed_bytes_max(freeze_bytes));
        Ok(Self {
            shared,
            active,
            frozen,
            flusher,
            freeze_bytes,
            pace,
            owed: Duration::ZERO,
            cleaners,
            first,
            unlooked: Vec::new(),
            unflushed: 0,
            waited: 0,
            stays: false,
        })
    }

    fn cleaners(&self) -> MutexGuard<'_, Cleaners> {
        self.cleaners.lock().expect("no holder of this lock panics")
    }

    /// What is in memory and still goes to files where nothing more is applied, bytes at most, about.
    #[must_use]
    pub fn unflushed_bytes_max(&self) -> usize {
        unflushed_bytes_max(self.freeze_bytes)
    }

    /// Lets go of maps whose rows RocksDB has.
    fn reap(&mut self) {
        let done = self.flusher.done();
        while let Some((_, frozen)) = self.frozen.pop_back_if(|(id, _)| *id <= done) {
            self.flusher.dispose(frozen);
        }
    }
}

/// The map that is written to, and those whose flush has not ended, bytes, about.
fn unflushed_bytes_max(freeze_bytes: usize) -> usize {
    (1 + UNFINISHED_MAX as usize) * freeze_bytes
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
        if !self.stays {
            return self.shared.get(key);
        }
        self.shared.get_in_memory(key)?.ok_or_else(|| StoreError::Cold(Lacked::row(key)))
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
            layers.push(Layer { map: &frozen.map, runs: frozen.runs() });
        }
        let range = Range { from, to, reverse };
        if !self.stays {
            let rows = self.shared.iterate(from, to);
            return merge::scan(&layers, Some(rows), range, visit).map_err(|e| self.shared.error("read", &e));
        }
        // Where it gets stuck is told: what was visited is there.
        let mut visited = Vec::new();
        let mut note = |key: &[u8], value: &[u8]| {
            visited.clear();
            visited.extend_from_slice(key);
            visit(key, value)
        };
        let rows = self.shared.iterate_in_memory(from, to);
        merge::scan(&layers, Some(rows), range, &mut note).map_err(|error| {
            if error.kind() != ErrorKind::Incomplete {
                return self.shared.error("read", &error);
            }
            let (mut from, mut to) = (from.to_vec(), to.to_vec());
            match (visited.is_empty(), reverse) {
                (true, _) => {}
                (false, false) => from = visited,
                (false, true) => to = [&visited[..], &[0]].concat(),
            }
            StoreError::Cold(Lacked { from, to, reverse })
        })
    }

    fn stay_in_memory(&mut self, stay: bool) {
        self.stays = stay;
    }

    fn fetcher(&self) -> Option<Arc<dyn Fetch>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Fetch>)
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        self.reap();
        let mut bytes = 0;
        for (key, value) in batch.rows {
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            self.active.insert(key, value);
        }
        let wait = self.pace.applied(bytes, || self.shared.level_zero_files())?;
        self.owed += wait.unwrap_or_default();
        Ok(())
    }

    fn owed(&mut self) -> Duration {
        std::mem::take(&mut self.owed)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        if from < to {
            self.active.remove_range(from, to);
            if self.unlooked.len() < RANGES_KEPT {
                self.unlooked.push((from.into(), to.into()));
            }
        }
        Ok(())
    }

    fn wants_freeze(&self) -> bool {
        self.active.bytes() >= self.freeze_bytes || self.waited >= CALLS_WAITED
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        // The next map will grow about as large: no growing, no moving.
        let next = RowMap::with_capacity(self.active.rows().len());
        self.active.sort_new();
        self.unlooked.clear();
        (self.unflushed, self.waited) = (0, 0);
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

    fn measure(&self) -> Option<Arc<dyn Measure>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Measure>)
    }

    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        Ok(Arc::clone(&self.shared) as Arc<dyn BulkLoad>)
    }

    fn loaded(&mut self, _from: &[u8], _to: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn reclaim(&mut self, spare: u64) -> Result<(), StoreError> {
        self.cleaners().reclaimer.begin(&self.shared, spare)
    }

    fn tidy(&mut self) -> Result<u64, StoreError> {
        let looked_at = self.unlooked.len().min(RANGES_LOOKED_AT);
        for range in self.unlooked.drain(..looked_at) {
            self.unflushed += self.shared.size_of(&range);
        }
        self.waited += u32::from(self.unflushed >= LARGE_BYTES);
        self.cleaners().tidier.begin(&self.shared)?;
        let left = if self.first { self.shared.removed_ranges().left() } else { 0 };
        Ok(self.unflushed + left)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rocks::StateOptions;
    use std::ops::ControlFlow;
    use std::time::Instant;

    #[test]
    fn a_read_that_stays_in_memory_names_what_it_lacks_and_finds_it_once_it_was_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let cold = dir.path().join("cold");
        let key = |n: u32| n.to_be_bytes().to_vec();
        for dir in [dir.path(), &cold] {
            let mut store = FrontState::new(RocksShared::open(dir, StateOptions::default()).unwrap(), 1 << 20).unwrap();
            let rows = (0..5000).map(|n| (key(n), Some(vec![7; 1000].into()))).collect();
            store.apply(StateBatch { rows }).unwrap();
            store.flush_and_wait().unwrap();
        }
        // Nothing of the files is in the block cache of the next process.
        let mut store =
            FrontState::new(RocksShared::open(dir.path(), StateOptions::default()).unwrap(), 1 << 20).unwrap();
        store.apply(StateBatch { rows: vec![(key(6000), Some("new".into()))] }).unwrap();
        store.stay_in_memory(true);
        assert_eq!(store.get(&key(6000)).unwrap(), Some("new".into()), "the newest rows are in memory");
        let Err(StoreError::Cold(lacked)) = store.get(&key(7)) else { panic!("it was read from a file") };
        assert_eq!((&lacked.from, &lacked.to), (&key(7), &[&key(7)[..], &[0]].concat()));
        store.fetcher().unwrap().fetch(&lacked).unwrap();
        assert_eq!(store.get(&key(7)).unwrap(), Some(vec![7; 1000].into()));
        // The filter came with it: a new key is known not to be there, though the block that would have it is in no memory.
        assert_eq!(store.get(&key(9000)).unwrap(), None, "no file goes so far");
        let new = |n: u8| [&key(500)[..], &[n]].concat();
        let known = (0..100).filter(|n| matches!(store.get(&new(*n)), Ok(None))).count();
        assert!(known > 80 && matches!(store.get(&key(500)), Err(StoreError::Cold(_))), "{known} of 100 need no fetch");
        for reverse in [false, true] {
            let (mut found, mut fetches) = (Vec::new(), 0);
            loop {
                found.clear();
                let scanned = store.scan(&key(1000), &key(4500), reverse, &mut |key, _| {
                    found.push(u32::from_be_bytes(*key.first_chunk().unwrap()));
                    ControlFlow::Continue(())
                });
                match scanned {
                    Ok(()) => break,
                    Err(StoreError::Cold(lacked)) => store.fetcher().unwrap().fetch(&lacked).unwrap(),
                    Err(error) => panic!("{error}"),
                }
                fetches += 1;
                assert!(fetches < 20, "a scan of 3.5 MB gets on by a mebibyte each time");
            }
            let mut expected: Vec<u32> = (1000..4500).collect();
            if reverse {
                expected.reverse();
            }
            assert!(
                found == expected && (reverse || fetches > 2),
                "{reverse}: {} rows, {fetches} fetches",
                found.len()
            );
        }
        // Rows that are newer stand among those that are lacked: neither may be visited for the other.
        let rows = (2000..4000).step_by(100).map(|n| (key(n), Some("new".into()))).collect();
        let mut store = FrontState::new(RocksShared::open(&cold, StateOptions::default()).unwrap(), 1 << 20).unwrap();
        store.apply(StateBatch { rows }).unwrap();
        store.stay_in_memory(true);
        for reverse in [false, true] {
            let mut first = None;
            let scanned = store.scan(&key(1000), &key(4500), reverse, &mut |key, _| {
                first = Some(u32::from_be_bytes(*key.first_chunk().unwrap()));
                ControlFlow::Break(())
            });
            assert!(matches!(scanned, Err(StoreError::Cold(_))) && first.is_none(), "{reverse}: {first:?} was visited");
        }
        store.stay_in_memory(false);
        assert!(store.get(&key(4999)).unwrap().is_some(), "now it waits for the file");
    }

    /// Applying 8 MiB in one round while compaction lags once made the worker sleep for 8 s.
    #[test]
    fn what_is_to_wait_is_told_and_not_slept() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = StateOptions { level_zero_files_max: 1, ..StateOptions::default() };
        let mut store = FrontState::new(RocksShared::open(dir.path(), sizes).unwrap(), 1 << 10).unwrap();
        let batch = |n: u8| StateBatch { rows: vec![(b"key".to_vec(), Some(vec![n; 64 << 10].into()))] };
        for n in 0..3 {
            store.apply(batch(n)).unwrap();
            store.flush_and_wait().unwrap();
        }
        let (began, mut owed) = (Instant::now(), store.owed());
        for n in 0..64 {
            store.apply(batch(n)).unwrap();
            owed += store.owed();
        }
        assert!(owed > Duration::from_secs(1), "level 0 is full, and nothing is to wait: {owed:?}");
        assert!(began.elapsed() < Duration::from_millis(500), "applying took {:?}", began.elapsed());
    }
}
