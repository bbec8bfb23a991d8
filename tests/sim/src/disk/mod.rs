//! A node's disk: what is synced stays, what is not may vanish, be torn or be kept.
//!
//! Owns: the bytes of the log DB and the state DB across restarts, in the production encodings of rows, how long a sync
//! takes, and the faults injected into it. Must never: lose what it reported synced, unless that is the fault planted.
//!
//! The log DB is an image of rows with the newest batches' undo records behind it: at a crash the batches whose sync had
//! not ended are undone, newest first, or kept. A batch is one record of RocksDB's write-ahead log, so it is there whole
//! or not at all (a torn record at the tail is dropped by recovery). The state DB takes a whole freeze, or a whole load of a
//! snapshot's rows, or nothing.

mod files;
mod log;
mod owners;
mod queue;
mod state;

pub(crate) use files::{LostFiles, SimFiles};
pub(crate) use log::SimLog;
pub(crate) use queue::SimQueue;
pub(crate) use state::{SimState, StateRows};

use crate::dice::Dice;
use crate::plan::DiskFault;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use synod_cluster::ids::{NodeWriteSeq, ShardId, Space};
use synod_engine::StoreError;
use synod_engine::codec::{keys, node};
use synod_engine::node::WorkerId;

pub(crate) type Rows = BTreeMap<Vec<u8>, Bytes>;

/// Batches kept undoable: how far a disk can be set back.
const UNDOABLE: usize = 64;

/// One change of a row.
#[derive(Clone)]
pub(crate) enum Change {
    Put(Vec<u8>, Bytes),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Change {
    /// Makes the change; what it replaced goes to `undo`.
    pub(crate) fn make(self, rows: &mut Rows, undo: &mut Vec<(Vec<u8>, Option<Bytes>)>) {
        match self {
            Self::Put(key, value) => {
                let old = rows.insert(key.clone(), value);
                undo.push((key, old));
            }
            Self::Delete(key) => {
                if let Some(old) = rows.remove(&key) {
                    undo.push((key, Some(old)));
                }
            }
            Self::DeleteRange(from, to) => {
                let gone: Vec<Vec<u8>> =
                    if from < to { rows.range(from..to).map(|(k, _)| k.clone()).collect() } else { Vec::new() };
                for key in gone {
                    let old = rows.remove(&key);
                    undo.push((key, old));
                }
            }
        }
    }
}

/// One synced (or not yet synced) write of the log DB.
struct Record {
    /// World time at which it was handed to the disk: a crash before that never saw it.
    began: u64,
    /// World time at which its sync ends; `u64::MAX`: it failed.
    synced_at: u64,
    seq: NodeWriteSeq,
    changes: Vec<Change>,
    undo: Vec<(Vec<u8>, Option<Bytes>)>,
    /// It points to a snapshot's rows.
    flips: bool,
}

/// Whether a change points to a snapshot's rows.
fn flips(change: &Change) -> bool {
    let Change::Put(key, _) = change else { return false };
    key[0] != keys::NODE_WRITE_SEQ[0] && keys::parse_group(key).is_ok_and(|shard| key[..] == keys::group_space(shard))
}

/// One freeze of a worker's state on its way to the disk.
pub(crate) struct Flush {
    worker: WorkerId,
    id: u64,
    began: u64,
    done_at: u64,
    changes: Vec<Change>,
}

/// Rows of a snapshot on their way into the state.
pub(crate) struct Load {
    began: u64,
    done_at: u64,
    rows: Vec<(Vec<u8>, Bytes)>,
}

/// What a crash did to the batches that were not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) vanished: u64,
    pub(crate) kept: u64,
    pub(crate) torn: u64,
    pub(crate) flushes: u64,
    /// Loads of a snapshot's rows that were not finished.
    pub(crate) loads: u64,
    /// Writes that point to a snapshot's rows among those vanished or torn, and among those kept.
    pub(crate) flips: (u64, u64),
    pub(crate) files: LostFiles,
}

pub(crate) struct Inner {
    log: Rows,
    /// What stood where bits were flipped, for the observer alone.
    pub(crate) pristine: Rows,
    records: VecDeque<Record>,
    pub(crate) state: Rows,
    /// Rows of the state with a flipped bit, as they are since.
    flipped: Rows,
    /// A process has met with one of them, and noted that.
    condemned: bool,
    flushes: VecDeque<Flush>,
    loads: Vec<Load>,
    pub(crate) files: files::Files,
    dice: Dice,
    /// Time of a sync, µs.
    pub(crate) sync: (u64, u64),
    /// Time of a flush of the state, µs.
    pub(crate) flush: (u64, u64),
    /// The next sync takes so long.
    pub(crate) hang: Option<u64>,
    /// The next write of the log fails.
    pub(crate) fail_write: bool,
    /// The next reading of the log fails.
    pub(crate) fail_read: bool,
    /// The next flush of the state fails.
    pub(crate) fail_flush: bool,
    /// The next load of a snapshot's rows fails.
    pub(crate) fail_load: bool,
    /// An injected failure was reported to the process that runs.
    pub(crate) failed: bool,
    /// Flushes under way were lost with it: the process that runs keeps their rows in memory.
    flush_lost: bool,
    /// The sync under way or done last: from when to when.
    pub(crate) last_sync: (u64, u64),
    pub(crate) syncs: u64,
    pub(crate) fault: DiskFault,
}

/// A node's disk. Clones share it.
#[derive(Clone)]
pub(crate) struct NodeDisk(Arc<Mutex<Inner>>);

impl NodeDisk {
    pub(crate) fn new(seed: u64, sync: (u64, u64), flush: (u64, u64), fault: DiskFault) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            log: Rows::new(),
            pristine: Rows::new(),
            records: VecDeque::new(),
            state: Rows::new(),
            flipped: Rows::new(),
            condemned: false,
            flushes: VecDeque::new(),
            loads: Vec::new(),
            files: files::Files::default(),
            dice: Dice::new(seed),
            sync,
            flush,
            hang: None,
            fail_write: false,
            fail_read: false,
            fail_flush: false,
            fail_load: false,
            failed: false,
            flush_lost: false,
            last_sync: (0, 0),
            syncs: 0,
            fault,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// How long the sync under way at `at` has taken, µs.
    pub(crate) fn stalled(&self, at: u64) -> u64 {
        let (from, to) = self.lock().last_sync;
        if from <= at && at < to { at - from } else { 0 }
    }
}

impl Inner {
    /// Every row, of the log (`true`) and of the state.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (bool, &Vec<u8>, &Bytes)> {
        let log = self.log.iter().map(|(key, row)| (true, key, row));
        log.chain(self.state.iter().map(|(key, row)| (false, key, row)))
    }

    /// The process or its machine stops at `at`.
    pub(crate) fn crash(&mut self, at: u64, dice: &mut Dice) -> Lost {
        let mut lost = Lost::default();
        (self.hang, self.fail_write, self.fail_read, self.failed) = (None, false, false, false);
        (self.fail_flush, self.fail_load, self.flush_lost) = (false, false, false);
        lost.files = self.files.crash(at, dice);
        if self.last_sync.1 > at {
            self.last_sync = (0, 0);
        }
        while self.records.back().is_some_and(|record| record.began > at) {
            self.undo_last();
        }
        while self.records.back().is_some_and(|record| record.synced_at > at) {
            let torn = dice.chance(300);
            let flips = self.records.back().is_some_and(|record| record.flips);
            if !torn && dice.chance(500) {
                // Kept, and then everything before it too.
                self.records.iter_mut().filter(|r| r.synced_at > at).for_each(|r| {
                    r.synced_at = at;
                    lost.kept += 1;
                    lost.flips.1 += u64::from(r.flips);
                });
                break;
            }
            if torn && self.fault == DiskFault::TornTailKept {
                self.tear(dice);
            } else {
                self.undo_last();
            }
            if torn {
                lost.torn += 1
            } else {
                lost.vanished += 1
            }
            lost.flips.0 += u64::from(flips);
        }
        if self.fault == DiskFault::LosesSynced && dice.chance(500) {
            for _ in 0..=dice.below(3) {
                self.undo_last();
            }
        }
        self.settle_flushes(at);
        self.flushes.retain(|flush| flush.began <= at);
        self.crash_loads(at, dice, &mut lost);
        lost.flushes = self.flushes.len() as u64;
        // A file taken in just before the crash may be there although nobody was told.
        if !self.flushes.is_empty() && dice.chance(300) {
            self.flushes[0].done_at = at;
            self.settle_flushes(at);
        }
        if self.fault == DiskFault::FreezeTorn
            && let Some(flush) = self.flushes.pop_front()
        {
            let part = dice.below(flush.changes.len() as u64 + 1) as usize;
            let mut undo = Vec::new();
            flush.changes.into_iter().take(part).for_each(|change| change.make(&mut self.state, &mut undo));
        }
        self.flushes.clear();
        lost
    }

    /// A load under way may be there as a whole although nobody was told.
    fn crash_loads(&mut self, at: u64, dice: &mut Dice, lost: &mut Lost) {
        for load in std::mem::take(&mut self.loads).into_iter().filter(|load| load.began <= at) {
            lost.loads += 1;
            if dice.chance(300) {
                self.state.extend(load.rows);
            }
        }
    }

    /// Takes in a snapshot's rows; the time that takes.
    pub(super) fn load(&mut self, now: u64, rows: &[(Vec<u8>, Bytes)]) -> Result<u64, StoreError> {
        let took = self.file_time() + rows.len() as u64;
        if std::mem::take(&mut self.fail_load) {
            self.failed = true;
            return Err(StoreError::Io { what: "load into the simulated state".into(), why: "injected".into() });
        }
        // Planted: it says so at once; the rows are safe only much later.
        let lag = if self.fault == DiskFault::LoadAckedEarly { 400_000 } else { 0 };
        self.loads.push(Load { began: now, done_at: now + took + lag, rows: rows.to_vec() });
        Ok(took)
    }

    fn file_time(&mut self) -> u64 {
        let span = self.files.time;
        self.dice.between(span)
    }

    /// Where the log says that a shard's rows stand.
    pub(crate) fn pointer(&self, shard: ShardId) -> Space {
        let row = self.log.get(&keys::group_space(shard)[..]).cloned();
        row.and_then(|row| node::decode_space(row).ok()).unwrap_or(Space(shard.0 as u32))
    }

    /// Planted: of the last record only some rows are there.
    fn tear(&mut self, dice: &mut Dice) {
        let Some(record) = self.records.back() else { return };
        let (changes, seq) = (record.changes.clone(), record.seq);
        self.undo_last();
        let mut undo = Vec::new();
        for change in changes.into_iter().filter(|_| dice.chance(500)) {
            change.make(&mut self.log, &mut undo);
        }
        self.records.push_back(Record { began: 0, synced_at: 0, seq, changes: Vec::new(), undo, flips: false });
    }

    fn undo_last(&mut self) -> Option<NodeWriteSeq> {
        let record = self.records.pop_back()?;
        for (key, old) in record.undo.into_iter().rev() {
            match old {
                Some(value) => drop(self.log.insert(key, value)),
                None => drop(self.log.remove(&key)),
            }
        }
        Some(record.seq)
    }

    /// Sets the log back to before its newest `count` records; the last write that is left.
    pub(crate) fn set_back(&mut self, count: u64) -> Option<NodeWriteSeq> {
        if self.records.len() as u64 <= count {
            return None;
        }
        for _ in 0..count {
            self.undo_last();
        }
        self.records.back().map(|record| record.seq)
    }

    /// The number of the write that would be the last after `set_back(count)`.
    pub(crate) fn seq_back(&self, count: u64) -> Option<NodeWriteSeq> {
        let index = (self.records.len() as u64).checked_sub(count + 1)?;
        self.records.get(index as usize).map(|record| record.seq)
    }

    /// What was to fail next does not.
    pub(crate) fn spare(&mut self) {
        (self.hang, self.files.fail) = (None, false);
        (self.fail_write, self.fail_read, self.fail_flush, self.fail_load) = (false, false, false, false);
    }

    /// Everything goes.
    pub(crate) fn wipe(&mut self) {
        self.log.clear();
        self.records.clear();
        self.state.clear();
        self.flushes.clear();
        self.loads.clear();
        self.files.wipe();
    }

    /// Flips one bit of an entry (or of any row of the log, of the state); whether there was one.
    pub(crate) fn flip(&mut self, in_state: bool, dice: &mut Dice) -> bool {
        // The bytes of the undo records stay whole: they are older than what they would replace.
        let rows = if in_state { &mut self.state } else { &mut self.log };
        if rows.is_empty() {
            return false;
        }
        // Mostly the newest rows of some group: damage to what everybody has is of little account.
        let at = dice.below(rows.len() as u64) as usize;
        let Some((key, value)) = rows.iter_mut().nth(at) else { return false };
        if !in_state {
            self.pristine.insert(key.clone(), value.clone());
        }
        let mut bytes = value.to_vec();
        if bytes.is_empty() {
            return false;
        }
        let byte = dice.below(bytes.len() as u64) as usize;
        bytes[byte] ^= 1 << dice.below(8);
        *value = bytes.into();
        if in_state {
            self.flipped.insert(key.clone(), value.clone());
        }
        true
    }

    /// Whether rows of the log or the state are not what was written.
    pub(crate) fn is_damaged(&self) -> bool {
        let in_log = self.pristine.iter().any(|(key, was)| self.log.get(key).is_some_and(|value| value != was));
        in_log || self.flipped_rows().next().is_some()
    }

    /// Keys of the state that hold a flipped bit.
    fn flipped_rows(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.flipped.iter().filter(|(key, value)| self.state.get(*key) == Some(*value)).map(|(key, _)| key)
    }

    /// Flushes that have ended by `at` are on disk.
    pub(crate) fn settle_flushes(&mut self, at: u64) {
        let Self { loads, state, .. } = self;
        loads.retain_mut(|load| {
            let done = load.done_at <= at;
            if done {
                state.extend(std::mem::take(&mut load.rows));
            }
            !done
        });
        // Those of one worker end in their order. A shard goes to another worker once its rows are flushed: never do two workers have
        // changes of the same rows under way.
        while let Some(ended) = self.flushes.iter().position(|flush| flush.done_at <= at) {
            let Some(flush) = self.flushes.remove(ended) else { return };
            let mut undo = Vec::new();
            for change in flush.changes {
                change.make(&mut self.state, &mut undo);
                undo.clear();
            }
        }
    }

    fn sync_time(&mut self) -> u64 {
        if let Some(hang) = self.hang.take() {
            return hang;
        }
        let sync = self.sync;
        self.dice.between(sync)
    }

    /// Makes the changes and notes when they will be synced; the time the sync ends.
    fn write(&mut self, now: u64, seq: NodeWriteSeq, changes: Vec<Change>) -> Result<u64, StoreError> {
        let failing = std::mem::take(&mut self.fail_write);
        let took = self.sync_time();
        let flips = changes.iter().any(flips);
        let (undo, synced_at) = (Vec::new(), now + took);
        let mut record = Record { began: now, synced_at, seq, changes: Vec::new(), undo, flips };
        if self.fault == DiskFault::TornTailKept {
            record.changes = changes.clone();
        }
        if failing {
            self.failed = true;
            record.synced_at = u64::MAX;
        } else if self.fault == DiskFault::AckBeforeSync {
            // It says so at once; the bytes are safe only much later.
            record.synced_at = now + 400_000;
        }
        for change in changes {
            change.make(&mut self.log, &mut record.undo);
        }
        self.records.push_back(record);
        if self.records.len() > UNDOABLE {
            self.records.pop_front();
        }
        self.last_sync = (now, now + took);
        self.syncs += 1;
        if failing {
            return Err(StoreError::Io { what: "write to the simulated log".into(), why: "injected".into() });
        }
        Ok(now + took)
    }
}
