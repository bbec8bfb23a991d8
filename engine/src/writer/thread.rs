//! The log writer's own thread.
//!
//! Owns: the queue to it and its progress. Must never: hold the worker up: a full queue is the worker's to see, and its
//! next batch gathers meanwhile.

use super::{Gauges, Wake, WriteQueue};
use crate::StoreError;
use crate::logstore::{LogBatch, LogStore};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use synod_cluster::ids::NodeWriteSeq;

/// Batches that may wait; what comes later gathers with the worker.
const QUEUE_BATCHES: usize = 16;
/// The thread joins waiting batches into one write up to this, bytes of entries.
const WRITE_BYTES: usize = 4 << 20;

#[derive(Default)]
struct Shared {
    synced: AtomicU64,
    failed: Mutex<Option<StoreError>>,
}

impl Shared {
    fn fail(&self, error: StoreError) {
        self.failed.lock().expect("no holder of this lock panics").get_or_insert(error);
        // After the error is in its place: who sees this looks there.
        self.synced.store(u64::MAX, Ordering::Release);
    }
}

/// A handle to the thread. Dropped, it lets the thread finish what was submitted.
pub(super) struct LogThread {
    jobs: Option<Sender<LogBatch>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    pub(super) fn spawn(
        log: Arc<dyn LogStore>,
        gauges: Gauges,
        recovered: NodeWriteSeq,
        wake: Wake,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = bounded(QUEUE_BATCHES);
        let shared = Arc::new(Shared::default());
        shared.synced.store(recovered.0, Ordering::Release);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || run(&*log, &gauges, &queue, &theirs, &wake))
            .map_err(|e| StoreError::Io { what: "start the log writer's thread".into(), why: e.to_string() })?;
        Ok(Self { jobs: Some(jobs), shared, thread: Some(thread) })
    }
}

impl WriteQueue for LogThread {
    fn has_room(&self) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| !jobs.is_full())
    }

    /// A thread that has ended is seen by [`WriteQueue::synced`].
    fn submit(&self, batch: LogBatch) {
        if let Some(jobs) = &self.jobs
            && jobs.try_send(batch).is_err()
        {
            let (what, why) = ("write to the log".into(), "the log writer's thread has ended".into());
            self.shared.fail(StoreError::Io { what, why });
        }
    }

    fn synced(&self) -> Result<NodeWriteSeq, StoreError> {
        match self.shared.synced.load(Ordering::Acquire) {
            u64::MAX => {
                let failed = self.shared.failed.lock().expect("no holder of this lock panics").clone();
                let unknown = || StoreError::Io { what: "write to the log".into(), why: "unknown".into() };
                Err(failed.unwrap_or_else(unknown))
            }
            seq => Ok(NodeWriteSeq(seq)),
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer's thread panicked");
        }
    }
}

fn run(log: &dyn LogStore, gauges: &Gauges, queue: &Receiver<LogBatch>, shared: &Shared, wake: &Wake) {
    for mut batch in queue {
        let mut bytes = size(&batch);
        while bytes < WRITE_BYTES
            && let Ok(next) = queue.try_recv()
        {
            bytes += size(&next);
            batch.groups.extend(next.groups);
            batch.seen.extend(next.seen);
            batch.seq = next.seq;
        }
        if let Err(error) = gauges.write(log, &batch) {
            shared.fail(error);
            return wake(u64::MAX);
        }
        shared.synced.store(batch.seq.0, Ordering::Release);
        wake(batch.seq.0);
    }
}

fn size(batch: &LogBatch) -> usize {
    batch.groups.iter().flat_map(|group| &group.append).map(synod_paxos::types::Entry::size).sum()
}
