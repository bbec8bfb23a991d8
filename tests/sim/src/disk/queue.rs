//! The log writer's thread as the simulation has it: batches of all workers wait, and one write after the other takes its time.
//!
//! Owns: what waits, what is under way, and what of it the worker may know. Must never: tell the worker of a write before
//! its sync has ended, or begin one before the one before has.

use super::SimLog;
use crate::clock::{Cursor, NodeClock};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use synod_cluster::ids::NodeWriteSeq;
use synod_engine::StoreError;
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogBatch;
use synod_engine::node::WorkerId;
use synod_engine::writer::{Numbers, WriteQueue, WriterProgress};

/// Batches of a worker that may wait: fewer than the server lets, so that it is full at times.
const WAITING: usize = 3;

/// A worker's batch, and when it was handed over.
struct Job {
    at: u64,
    worker: WorkerId,
    batch: LogBatch,
}

struct Inner {
    log: Arc<SimLog>,
    cursor: Cursor,
    clock: NodeClock,
    progress: Arc<WriterProgress>,
    numbers: Arc<Numbers>,
    waiting: VecDeque<Job>,
    /// Until when, and what.
    under_way: Option<(u64, LogBatch)>,
    /// Whose batches it has.
    told: BTreeSet<WorkerId>,
    free_at: u64,
    synced: NodeWriteSeq,
    failed: Option<StoreError>,
}

/// Writes on their way. Clones share it.
#[derive(Clone)]
pub(crate) struct SimQueue(Arc<Mutex<Inner>>);

impl SimQueue {
    pub(crate) fn new(
        log: &Arc<SimLog>,
        cursor: &Cursor,
        clock: NodeClock,
        progress: &Arc<WriterProgress>,
        recovered: NodeWriteSeq,
        seen: &Arc<SeenTable>,
    ) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            log: Arc::clone(log),
            cursor: cursor.clone(),
            clock,
            progress: Arc::clone(progress),
            numbers: Arc::new(Numbers::new(recovered, Arc::clone(seen))),
            waiting: VecDeque::new(),
            under_way: None,
            told: BTreeSet::new(),
            free_at: 0,
            synced: recovered,
            failed: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Begins the next write, where one waits and none is under way: when it ends, and how many batches it takes.
    pub(crate) fn begin(&self) -> Option<(u64, usize)> {
        let mut inner = self.lock();
        if inner.under_way.is_some() || inner.failed.is_some() {
            return None;
        }
        let Job { at, worker, mut batch } = inner.waiting.pop_front()?;
        let (at, mut joined) = (at.max(inner.free_at), 1);
        inner.told.insert(worker);
        while let Some(next) = inner.waiting.pop_front_if(|job| job.at <= at) {
            joined += 1;
            inner.told.insert(next.worker);
            batch.join(next.batch);
        }
        inner.progress.begin(inner.clock.local(at));
        let until = match inner.log.begin_write(&batch, at) {
            Ok(until) => until,
            Err(error) => {
                inner.failed = Some(error);
                at
            }
        };
        inner.under_way = Some((until, batch));
        Some((until, joined))
    }

    /// The write under way has ended, if it has by `now`: what is told, and which workers are.
    pub(crate) fn end(&self, now: u64) -> Option<(u64, BTreeSet<WorkerId>)> {
        let mut inner = self.lock();
        let (until, batch) = inner.under_way.take_if(|(until, _)| *until <= now)?;
        let told = std::mem::take(&mut inner.told);
        if inner.failed.is_some() {
            return Some((u64::MAX, told));
        }
        inner.log.end_write(&batch, until);
        inner.progress.end();
        (inner.free_at, inner.synced) = (now, batch.seq);
        Some((batch.seq.0, told))
    }

    /// Batches that are not synced.
    pub(crate) fn unfinished(&self) -> u64 {
        let inner = self.lock();
        inner.waiting.len() as u64 + u64::from(inner.under_way.is_some())
    }

    /// A worker's end of it.
    pub(crate) fn end_of(&self, worker: WorkerId) -> Box<dyn WriteQueue> {
        Box::new(QueueEnd { worker, queue: self.clone() })
    }
}

/// A worker's end of the queue.
struct QueueEnd {
    worker: WorkerId,
    queue: SimQueue,
}

impl WriteQueue for QueueEnd {
    fn has_room(&self) -> bool {
        self.queue.lock().waiting.iter().filter(|job| job.worker == self.worker).count() < WAITING
    }

    fn submit(&self, batch: LogBatch) -> NodeWriteSeq {
        let mut inner = self.queue.lock();
        let (at, numbers) = (inner.cursor.get(), Arc::clone(&inner.numbers));
        numbers.submit(batch, |batch| inner.waiting.push_back(Job { at, worker: self.worker, batch }))
    }

    fn issued(&self) -> NodeWriteSeq {
        self.queue.lock().numbers.issued()
    }

    fn synced(&self) -> Result<NodeWriteSeq, StoreError> {
        let inner = self.queue.lock();
        match &inner.failed {
            Some(error) if inner.under_way.is_none() => Err(error.clone()),
            _ => Ok(inner.synced),
        }
    }
}
