//! The background thread that makes one store's freezes durable, in order.
//!
//! Owns: the thread, the number of the last durable freeze, the first error. Must never: hold more than
//! [`UNFINISHED_MAX`] freezes, go on after an error, or report a freeze durable before the ones ahead of it.

use super::FlushId;
use crate::StoreError;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Freezes that may be unfinished at a time.
pub(super) const UNFINISHED_MAX: u64 = 2;

enum Job<T> {
    Flush(FlushId, T),
    /// To be dropped off the worker's thread: a large map takes milliseconds.
    Dispose(T),
    /// To be run once all flushes before it are done, and before any after it.
    Between(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct Progress {
    /// The last durable freeze; written under the lock, read without it.
    done: AtomicU64,
    error: Mutex<Option<StoreError>>,
    changed: Condvar,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.error.lock().expect("no holder of this lock panics")
    }

    fn fail(&self, error: StoreError) {
        self.lock().get_or_insert(error);
        self.changed.notify_all();
    }

    /// Waits until freeze `id` is durable.
    fn wait(&self, id: u64) -> Result<(), StoreError> {
        let mut error = self.lock();
        loop {
            if let Some(error) = error.as_ref() {
                return Err(error.clone());
            }
            if self.done.load(Ordering::Acquire) >= id {
                return Ok(());
            }
            error = self.changed.wait(error).expect("no holder of this lock panics");
        }
    }
}

/// Wakes whoever waits should the thread end by a panic.
struct Watch(Arc<Progress>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (what, why) = ("flush of the state".into(), "its thread panicked".into());
            self.0.fail(StoreError::Io { what, why });
        }
    }
}

/// A handle to the thread. Dropped, it finishes what was submitted and ends.
pub(super) struct Flusher<T> {
    jobs: Option<Sender<Job<T>>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
    submitted: u64,
}

impl<T: Send + 'static> Flusher<T> {
    /// Starts the thread; `flush` makes one freeze durable and returns when it is.
    pub(super) fn spawn(
        name: &str,
        flush: impl FnMut(FlushId, &T) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = bounded(8);
        let progress = Arc::new(Progress::default());
        let watch = Watch(Arc::clone(&progress));
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&queue, &watch, flush))
            .map_err(|e| StoreError::Io { what: format!("start the thread {name}"), why: e.to_string() })?;
        Ok(Self { jobs: Some(jobs), progress, thread: Some(thread), submitted: 0 })
    }

    /// Hands a freeze over; blocks while [`UNFINISHED_MAX`] are unfinished.
    pub(super) fn submit(&mut self, frozen: T) -> Result<FlushId, StoreError> {
        self.progress.wait((self.submitted + 1).saturating_sub(UNFINISHED_MAX))?;
        self.submitted += 1;
        let id = FlushId(self.submitted);
        let jobs = self.jobs.as_ref().expect("the queue is open until this is dropped");
        jobs.send(Job::Flush(id, frozen))
            .map_err(|_| StoreError::Io { what: "flush of the state".into(), why: "its thread has ended".into() })?;
        Ok(id)
    }

    /// The last durable freeze, without regard to errors.
    pub(super) fn done(&self) -> FlushId {
        FlushId(self.progress.done.load(Ordering::Acquire))
    }

    /// The last durable freeze.
    pub(super) fn flushed(&self) -> Result<FlushId, StoreError> {
        self.progress.lock().clone().map_or_else(|| Ok(self.done()), Err)
    }

    /// Waits until every freeze is durable.
    pub(super) fn wait_all(&self) -> Result<(), StoreError> {
        self.progress.wait(self.submitted)
    }

    /// Runs `job` after the freezes submitted so far and before the next one. It must not take long.
    pub(super) fn between(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().expect("the queue is open until this is dropped");
        jobs.send(Job::Between(job)).map_err(|_| StoreError::Io {
            what: "snapshot of the state".into(),
            why: "the flush thread has ended".into(),
        })
    }

    /// Drops `frozen` on the thread.
    pub(super) fn dispose(&self, frozen: T) {
        if let Some(jobs) = &self.jobs {
            match jobs.try_send(Job::Dispose(frozen)) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

impl<T> Drop for Flusher<T> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread of a state store panicked");
        }
    }
}

fn run<T>(queue: &Receiver<Job<T>>, watch: &Watch, mut flush: impl FnMut(FlushId, &T) -> Result<(), StoreError>) {
    let Watch(progress) = watch;
    for job in queue {
        match job {
            Job::Dispose(frozen) => drop(frozen),
            Job::Between(job) => job(),
            Job::Flush(id, frozen) => match flush(id, &frozen) {
                Ok(()) => {
                    let held = progress.lock();
                    progress.done.store(id.0, Ordering::Release);
                    drop(held);
                    progress.changed.notify_all();
                }
                Err(error) => return progress.fail(error),
            },
        }
    }
}
