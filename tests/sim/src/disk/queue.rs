//! The log writer's thread as the simulation has it: batches wait, and one write after the other takes its time.
//!
//! Owns: what waits, what is under way, and what of it the worker may know. Must never: tell the worker of a write before
//! its sync has ended, or begin one before the one before has.

use super::SimLog;
use crate::clock::{Cursor, NodeClock};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use synod_cluster::ids::NodeWriteSeq;
use synod_engine::StoreError;
use synod_engine::logstore::LogBatch;
use synod_engine::writer::{WriteQueue, WriterProgress};

/// Batches that may wait: fewer than the server lets, so that it is full at times.
const WAITING: usize = 3;

struct Inner {
    log: Arc<SimLog>,
    cursor: Cursor,
    clock: NodeClock,
    progress: Arc<WriterProgress>,
    /// When each was handed over.
    waiting: VecDeque<(u64, LogBatch)>,
    /// Until when, and what.
    under_way: Option<(u64, LogBatch)>,
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
    ) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            log: Arc::clone(log),
            cursor: cursor.clone(),
            clock,
            progress: Arc::clone(progress),
            waiting: VecDeque::new(),
            under_way: None,
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
        let (handed, mut batch) = inner.waiting.pop_front()?;
        let (at, mut joined) = (handed.max(inner.free_at), 1);
        while let Some((_, next)) = inner.waiting.pop_front_if(|(handed, _)| *handed <= at) {
            joined += 1;
            batch.groups.extend(next.groups);
            batch.seen.extend(next.seen);
            batch.seq = next.seq;
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

    /// The write under way has ended, if it has by `now`: what the worker is told.
    pub(crate) fn end(&self, now: u64) -> Option<u64> {
        let mut inner = self.lock();
        let (until, batch) = inner.under_way.take_if(|(until, _)| *until <= now)?;
        if inner.failed.is_some() {
            return Some(u64::MAX);
        }
        inner.log.end_write(&batch, until);
        inner.progress.end();
        (inner.free_at, inner.synced) = (now, batch.seq);
        Some(batch.seq.0)
    }

    /// Batches that are not synced.
    pub(crate) fn unfinished(&self) -> u64 {
        let inner = self.lock();
        inner.waiting.len() as u64 + u64::from(inner.under_way.is_some())
    }
}

impl WriteQueue for SimQueue {
    fn has_room(&self) -> bool {
        self.lock().waiting.len() < WAITING
    }

    fn submit(&self, batch: LogBatch) {
        let mut inner = self.lock();
        let at = inner.cursor.get();
        inner.waiting.push_back((at, batch));
    }

    fn synced(&self) -> Result<NodeWriteSeq, StoreError> {
        let inner = self.lock();
        match &inner.failed {
            Some(error) if inner.under_way.is_none() => Err(error.clone()),
            _ => Ok(inner.synced),
        }
    }
}
