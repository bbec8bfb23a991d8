//! The log writer's own thread.
//!
//! Owns: the queue to it and its progress. Must never: hold a worker up: a full queue is the worker's to see, and its next batch
//! gathers meanwhile.

use super::{Gauges, Numbers, Wake, WriteQueue};
use crate::StoreError;
use crate::identity::SeenTable;
use crate::logstore::{LogBatch, LogStore};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use synod_cluster::ids::NodeWriteSeq;

/// Batches of one worker that may wait; what comes later gathers with the worker.
const QUEUE_BATCHES: usize = 16;
/// The thread joins waiting batches into one write up to this, bytes of entries.
const WRITE_BYTES: usize = 4 << 20;

/// A worker's batch.
struct Job {
    worker: usize,
    batch: LogBatch,
}

#[derive(Debug)]
struct Shared {
    synced: AtomicU64,
    failed: Mutex<Option<StoreError>>,
    numbers: Numbers,
    /// Batches of each worker that wait.
    waiting: Box<[AtomicUsize]>,
}

impl Shared {
    fn fail(&self, error: StoreError) {
        self.failed.lock().expect("no holder of this lock panics").get_or_insert(error);
        // After the error is in its place: who sees this looks there.
        self.synced.store(u64::MAX, Ordering::Release);
    }
}

/// A handle to the thread. Dropped, it lets the thread finish what was submitted.
struct LogThread {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
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

/// A worker's end of the queue.
struct LogQueue {
    worker: usize,
    thread: Arc<LogThread>,
    shared: Arc<Shared>,
}

/// Starts the thread that writes the log of a node; it goes on after `recovered`, the last durable write found. Each worker is to be
/// handed [`crate::host::NodeInput::Written`] when its wake is called, which is after each write that has a batch of it. Returns the
/// workers' ends of the queue, in the order of `wakes`. The thread ends once all of them are dropped.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn(
    log: Arc<dyn LogStore>,
    gauges: Gauges,
    recovered: NodeWriteSeq,
    seen: Arc<SeenTable>,
    wakes: Vec<Wake>,
) -> Result<Vec<Box<dyn WriteQueue>>, StoreError> {
    let workers = wakes.len();
    let (jobs, queue) = bounded(QUEUE_BATCHES * workers);
    let shared = Arc::new(Shared {
        synced: AtomicU64::new(recovered.0),
        failed: Mutex::new(None),
        numbers: Numbers::new(recovered, seen),
        waiting: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
    });
    let theirs = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || run(&*log, &gauges, &queue, &theirs, &wakes))
        .map_err(|e| StoreError::Io { what: "start the log writer's thread".into(), why: e.to_string() })?;
    let thread = Arc::new(LogThread { jobs: Some(jobs), thread: Some(thread) });
    let end = |worker| LogQueue { worker, thread: Arc::clone(&thread), shared: Arc::clone(&shared) };
    Ok((0..workers).map(|worker| Box::new(end(worker)) as Box<dyn WriteQueue>).collect())
}

impl WriteQueue for LogQueue {
    fn has_room(&self) -> bool {
        self.shared.waiting[self.worker].load(Ordering::Acquire) < QUEUE_BATCHES
    }

    /// A thread that has ended is seen by [`WriteQueue::synced`].
    fn submit(&self, batch: LogBatch) -> NodeWriteSeq {
        self.shared.waiting[self.worker].fetch_add(1, Ordering::AcqRel);
        self.shared.numbers.submit(batch, |batch| {
            if let Some(jobs) = &self.thread.jobs
                && jobs.try_send(Job { worker: self.worker, batch }).is_err()
            {
                let (what, why) = ("write to the log".into(), "the log writer's thread has ended".into());
                self.shared.fail(StoreError::Io { what, why });
            }
        })
    }

    fn issued(&self) -> NodeWriteSeq {
        self.shared.numbers.issued()
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

fn run(log: &dyn LogStore, gauges: &Gauges, queue: &Receiver<Job>, shared: &Shared, wakes: &[Wake]) {
    let mut waits = vec![false; wakes.len()];
    let took = |job: &Job| shared.waiting[job.worker].fetch_sub(1, Ordering::AcqRel);
    for job in queue {
        took(&job);
        waits[job.worker] = true;
        let mut batch = job.batch;
        let mut bytes = size(&batch);
        while bytes < WRITE_BYTES
            && let Ok(next) = queue.try_recv()
        {
            took(&next);
            waits[next.worker] = true;
            bytes += size(&next.batch);
            batch.join(next.batch);
        }
        if let Err(error) = gauges.write(log, &batch) {
            shared.fail(error);
            wakes.iter().for_each(|wake| wake(u64::MAX));
            return;
        }
        shared.synced.store(batch.seq.0, Ordering::Release);
        for (wake, waits) in wakes.iter().zip(&mut waits) {
            if std::mem::take(waits) {
                wake(batch.seq.0);
            }
        }
    }
}

fn size(batch: &LogBatch) -> usize {
    batch.groups.iter().flat_map(|group| &group.append).map(synod_paxos::types::Entry::size).sum()
}
