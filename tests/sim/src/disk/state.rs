//! The state store over a simulated disk.
//!
//! Owns: a process's rows in memory, and the freezes on their way to the disk. Must never: make part of a freeze durable, or show a
//! worker what another one has not flushed.
//!
//! A worker sees its own changes, also those under way to the disk, and what all workers have flushed. So a shard that goes to another
//! worker too early shows rows there that are too old.
//!
//! It stands for the front over RocksDB: a freeze hands over everything since the last one, which is on disk some time
//! later, in one step; at most two are under way, a third waits. A view is had once the freeze before it is on disk; a load
//! of rows is there as a whole or not at all.

use super::{Change, Flush, NodeDisk, Rows};
use crate::clock::Cursor;
use crate::host::{Taps, View, Viewed};
use crate::trace::hash_bytes;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{Slot, Space};
use synod_engine::StoreError;
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::keys::{self, Bounds};
use synod_engine::node::WorkerId;
use synod_engine::state::{BulkLoad, Fetch, FlushId, Lacked, StateBatch, StateStore, StateView, ViewJob, Visit};

/// Freezes under way at most.
const UNFINISHED_MAX: usize = 2;

/// A process's rows, of all its workers.
pub(crate) type StateRows = Arc<Mutex<Rows>>;

/// A worker's rows that are not flushed, each with the freeze that has it, or will have it; `None`: deleted.
type Own = BTreeMap<Vec<u8>, (u64, Option<Bytes>)>;

/// A worker's state store.
pub(crate) struct SimState {
    worker: WorkerId,
    /// All rows, flushed or not, for the observer alone.
    rows: StateRows,
    /// What this process's workers have flushed, or found.
    on_disk: StateRows,
    own: Own,
    disk: NodeDisk,
    cursor: Cursor,
    taps: Taps,
    changes: Vec<Change>,
    bytes: usize,
    freeze_bytes: usize,
    frozen: u64,
    flushed: u64,
    /// Reads that lack rows fail.
    stays: bool,
}

/// One in so many reads that are to stay in memory lacks rows, ‰.
const COLD: u64 = 150;

/// Rows that were lacked are there the next time, most often.
struct Nothing;

impl Fetch for Nothing {
    fn fetch(&self, _lacked: &Lacked) -> Result<(), StoreError> {
        Ok(())
    }
}

impl SimState {
    /// A worker's end of a process's rows, all and those on disk.
    pub(crate) fn open(
        worker: WorkerId,
        (rows, on_disk): (&StateRows, &StateRows),
        disk: &NodeDisk,
        cursor: &Cursor,
        taps: &Taps,
        freeze_bytes: usize,
    ) -> Self {
        Self {
            worker,
            rows: Arc::clone(rows),
            on_disk: Arc::clone(on_disk),
            own: Own::new(),
            disk: disk.clone(),
            cursor: cursor.clone(),
            taps: taps.clone(),
            changes: Vec::new(),
            bytes: 0,
            freeze_bytes,
            frozen: 0,
            flushed: 0,
            stays: false,
        }
    }

    fn may_be_cold(&self, from: &[u8], to: &[u8], reverse: bool) -> Result<(), StoreError> {
        if self.stays && self.disk.lock().dice.chance(COLD) {
            return Err(StoreError::Cold(Lacked { from: from.to_vec(), to: to.to_vec(), reverse }));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        self.bytes += match &change {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
            Change::DeleteRange(from, to) => from.len() + to.len(),
        };
        let mut undo = Vec::new();
        change.clone().make(&mut self.rows.lock().expect("no holder panics"), &mut undo);
        let freeze = self.frozen + 1;
        match &change {
            Change::Put(key, value) => drop(self.own.insert(key.clone(), (freeze, Some(value.clone())))),
            Change::Delete(key) => drop(self.own.insert(key.clone(), (freeze, None))),
            Change::DeleteRange(from, to) => {
                let gone: Vec<Vec<u8>> = if from < to {
                    let on_disk = self.on_disk.lock().expect("no holder panics");
                    seen(&self.own, &on_disk, (&from[..], &to[..]), false).map(|(key, _)| key.clone()).collect()
                } else {
                    Vec::new()
                };
                self.own.extend(gone.into_iter().map(|key| (key, (freeze, None))));
            }
        }
        self.changes.push(change);
    }

    /// What is flushed is what all workers see.
    fn let_go(&mut self) {
        let (flushed, mut on_disk) = (self.flushed, self.on_disk.lock().expect("no holder panics"));
        self.own.retain(|key, (freeze, value)| {
            if *freeze > flushed {
                return true;
            }
            match value.take() {
                Some(value) => drop(on_disk.insert(key.clone(), value)),
                None => drop(on_disk.remove(key)),
            }
            false
        });
    }

    /// What has ended by now.
    fn settle(&mut self) {
        let mut disk = self.disk.lock();
        disk.settle_flushes(self.cursor.get());
        let first = disk.flushes.iter().find(|flush| flush.worker == self.worker);
        let flushed = first.map_or(self.frozen, |flush| flush.id - 1);
        let lost = disk.flush_lost;
        drop(disk);
        let before = std::mem::replace(&mut self.flushed, flushed);
        if flushed > before && !lost {
            self.let_go();
        }
    }

    fn wait_for(&mut self, unfinished: usize) {
        let ends = {
            let disk = self.disk.lock();
            let own = || disk.flushes.iter().filter(|flush| flush.worker == self.worker);
            let over = own().count().saturating_sub(unfinished);
            own().take(over).map(|flush| flush.done_at).max()
        };
        if let Some(at) = ends {
            self.cursor.set(self.cursor.get().max(at));
            self.settle();
        }
    }
}

impl StateStore for SimState {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.may_be_cold(key, key, false)?;
        Ok(match self.own.get(key) {
            Some((_, value)) => value.clone(),
            None => self.on_disk.lock().expect("no holder panics").get(key).cloned(),
        })
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        // It gets stuck somewhere, what comes before was visited.
        let stuck = self.may_be_cold(from, to, reverse).err();
        let mut left = if stuck.is_some() { self.disk.lock().dice.below(6) } else { u64::MAX };
        let on_disk = self.on_disk.lock().expect("no holder panics");
        for (key, value) in seen(&self.own, &on_disk, (from, to), reverse) {
            if left == 0 {
                break;
            }
            left -= 1;
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
        stuck.map_or(Ok(()), Err)
    }

    fn stay_in_memory(&mut self, stay: bool) {
        self.stays = stay;
    }

    fn fetcher(&self) -> Option<Arc<dyn Fetch>> {
        Some(Arc::new(Nothing))
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        let at = self.cursor.get();
        for (key, value) in batch.rows {
            let is_short = value.is_some() && key.len() == 6;
            if let Some(space) = keys::space_of(&key).filter(|space| is_short && key == keys::applied(*space)) {
                let row = value.clone().and_then(|value| AppliedRow::decode(value).ok());
                let slot = row.map_or(Slot(0), |row| row.slot);
                let mut taps = self.taps.lock();
                let shard = taps.shard_of(space);
                taps.applied.push((at, shard, slot));
            }
            self.change(match value {
                Some(value) => Change::Put(key, value),
                None => Change::Delete(key),
            });
        }
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let space = keys::space_of(from);
        // A trim removes rows of one key; a replica that shares its space with others removes what it owns of it.
        if let Some(space) = space.filter(|space| keys::space_bounds(*space) == (from.to_vec(), to.to_vec())) {
            self.taps.lock().removed(space);
        }
        self.change(Change::DeleteRange(from.to_vec(), to.to_vec()));
        Ok(())
    }

    fn wants_freeze(&self) -> bool {
        self.bytes >= self.freeze_bytes
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        self.settle();
        self.wait_for(UNFINISHED_MAX - 1);
        self.frozen += 1;
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        let mut disk = self.disk.lock();
        let span = disk.flush;
        let took = disk.dice.between(span);
        let last = disk.flushes.iter().rfind(|flush| flush.worker == self.worker);
        let after = last.map_or(0, |flush| flush.done_at).max(self.cursor.get());
        let (worker, began) = (self.worker, self.cursor.get());
        disk.flushes.push_back(Flush { worker, id: self.frozen, began, done_at: after + took, changes });
        Ok(FlushId(self.frozen))
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        {
            let mut disk = self.disk.lock();
            if std::mem::take(&mut disk.fail_flush) {
                (disk.failed, disk.flush_lost) = (true, true);
                // What was under way is lost.
                disk.flushes.clear();
                return Err(StoreError::Io { what: "flush of the simulated state".into(), why: "injected".into() });
            }
        }
        self.settle();
        Ok(FlushId(self.flushed))
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.freeze()?;
        self.wait_for(0);
        Ok(())
    }

    fn view(&mut self, job: ViewJob) -> Result<(), StoreError> {
        let disk = self.disk.lock();
        let last = disk.flushes.iter().rfind(|flush| flush.worker == self.worker);
        let ready_at = last.map_or(self.cursor.get(), |flush| flush.done_at);
        let on_disk = self.on_disk.lock().expect("no holder panics");
        let rows = merged(self.own.iter(), on_disk.iter(), false);
        let rows: Rows = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
        drop(on_disk);
        let flipped = disk.flipped.clone();
        drop(disk);
        let rows = ViewRows { rows, flipped, disk: self.disk.clone() };
        self.taps.lock().viewed(View { ready_at, rows: Box::new(rows), job });
        Ok(())
    }

    fn loader(&self) -> Result<Arc<dyn BulkLoad>, StoreError> {
        Ok(Arc::new(SimLoader { disk: self.disk.clone(), clock: self.taps.lock().job_clock.clone() }))
    }

    fn loaded(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let mut disk = self.disk.lock();
        disk.settle_flushes(self.cursor.get());
        let loaded = disk.state.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let loaded: Vec<(Vec<u8>, Bytes)> = loaded.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.on_disk.lock().expect("no holder panics").extend(loaded.iter().cloned());
        self.rows.lock().expect("no holder panics").extend(loaded);
        Ok(())
    }

    fn health(&self) -> Result<(), StoreError> {
        if self.disk.lock().condemned {
            return Err(StoreError::Corrupt { what: "simulated state".into(), why: "damage was met with".into() });
        }
        Ok(())
    }

    fn condemn(&self, _error: &StoreError) {
        self.disk.lock().condemned = true;
    }

    fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// The rows of a range, which is not empty, as a worker sees them.
fn seen<'a>(
    own: &'a Own,
    on_disk: &'a Rows,
    (from, to): (&[u8], &[u8]),
    reverse: bool,
) -> Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Bytes)> + 'a> {
    let range = (Bound::Included(from), Bound::Excluded(to));
    let (own, on_disk) = (own.range::<[u8], _>(range), on_disk.range::<[u8], _>(range));
    if reverse { Box::new(merged(own.rev(), on_disk.rev(), true)) } else { Box::new(merged(own, on_disk, false)) }
}

/// Own rows before what is on disk, both in the order of their keys, or both in reverse.
fn merged<'a>(
    own: impl Iterator<Item = (&'a Vec<u8>, &'a (u64, Option<Bytes>))>,
    on_disk: impl Iterator<Item = (&'a Vec<u8>, &'a Bytes)>,
    reverse: bool,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Bytes)> {
    let (mut own, mut on_disk) = (own.peekable(), on_disk.peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (own.peek(), on_disk.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => {
                    if reverse {
                        b.cmp(a)
                    } else {
                        a.cmp(b)
                    }
                }
            };
            if order == Ordering::Greater {
                return on_disk.next();
            }
            if order == Ordering::Equal {
                on_disk.next();
            }
            let (key, (_, value)) = own.next()?;
            if let Some(value) = value {
                return Some((key, value));
            }
        }
    })
}

/// The rows as they were at one moment. RocksDB sums its blocks: a view that meets a flipped bit fails.
struct ViewRows {
    rows: Rows,
    flipped: Rows,
    disk: NodeDisk,
}

impl ViewRows {
    /// Whether a range can be read.
    fn is_sound(&self, (from, to): &Bounds) -> bool {
        self.flipped.range(from.clone()..to.clone()).all(|(key, value)| self.rows.get(key) != Some(value))
    }
}

impl StateView for ViewRows {
    fn scan(&mut self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for (key, value) in self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if self.flipped.get(key) == Some(value) {
                self.disk.lock().condemned = true;
                return Err(StoreError::Corrupt { what: "block of the simulated state".into(), why: "flipped".into() });
            }
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
        let rows = self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        rows.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

impl Viewed for ViewRows {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    fn hash(&self, ranges: &[Bounds]) -> Option<u64> {
        let sound = ranges.iter().all(|range| self.is_sound(range));
        sound.then(|| ranges.iter().fold(0, |sum, range| sum ^ range_hash(&self.rows, range)))
    }
}

/// What a job loads rows through, on its own clock.
struct SimLoader {
    disk: NodeDisk,
    clock: Cursor,
}

impl BulkLoad for SimLoader {
    fn load(&self, rows: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        let took = self.disk.lock().load(self.clock.get(), rows)?;
        self.clock.pass(took);
        Ok(())
    }
}

/// A hash of the rows of a range, in whatever space they are.
fn range_hash(rows: &Rows, (from, to): &Bounds) -> u64 {
    let hashed = |(key, value): (&Vec<u8>, &Bytes)| hash_bytes(&[&key[4..], value]);
    rows.range(from.clone()..to.clone()).map(hashed).fold(0, |sum, hash| sum ^ hash)
}

impl super::Inner {
    /// A hash of all rows on disk of a space that one replica has for itself: sessions and position too.
    pub(crate) fn rows_hash(&self, space: Space) -> u64 {
        range_hash(&self.state, &keys::space_bounds(space))
    }
}
