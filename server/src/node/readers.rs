//! The threads that bring rows into memory for reads, tails and entries to be applied.
//!
//! Owns: the bounded queue to them, and the age of what each reads. Must never: hold a worker up, leave what waits without word (where rows
//! cannot be read, the worker meets with that itself), or hang unseen: a node whose disk hangs must not look alive.

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;
use synod_engine::clock::MonotoneClock;
use synod_engine::host::{FetchRequest, RowsFetched};
use synod_engine::runner::WorkerHandle;
use synod_engine::writer::UnderWay;

/// Requests that may wait, of all workers; more are read by the worker itself.
const QUEUE: usize = 1024;

/// A worker's way to the readers. They end once all of these are dropped.
#[derive(Clone)]
pub struct Readers(Option<Sender<FetchRequest>>);

impl Readers {
    /// Starts a thread for each of `reading`, which shows what it has under way. They tell the workers; with none, workers read by
    /// themselves.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        reading: Vec<Arc<UnderWay>>,
        clock: MonotoneClock,
        workers: &WorkerHandle,
    ) -> Result<(Self, Vec<JoinHandle<()>>)> {
        if reading.is_empty() {
            return Ok((Self(None), Vec::new()));
        }
        let (wanted, queue) = bounded(QUEUE);
        let reader = |reading: Arc<UnderWay>| {
            let (queue, workers) = (queue.clone(), workers.clone());
            let thread = std::thread::Builder::new().name("state-read".into());
            thread.spawn(move || read(&queue, &workers, clock, &reading)).context("a thread that reads the state")
        };
        Ok((Self(Some(wanted)), reading.into_iter().map(reader).collect::<Result<_>>()?))
    }

    /// Whether there is room for a fetch.
    #[must_use]
    pub fn have_room(&self) -> bool {
        self.0.as_ref().is_some_and(|wanted| !wanted.is_full())
    }

    /// Whether a reader takes this.
    #[must_use]
    pub fn take(&self, request: FetchRequest) -> bool {
        self.0.as_ref().is_some_and(|wanted| wanted.try_send(request).is_ok())
    }
}

fn read(queue: &Receiver<FetchRequest>, workers: &WorkerHandle, clock: MonotoneClock, reading: &UnderWay) {
    for FetchRequest { shard, ticket, lacked, fetcher, .. } in queue {
        for row in &lacked {
            // Each for itself: that many take long is no sign of a disk that hangs.
            reading.begin(clock.now());
            if let Err(error) = fetcher.fetch(row) {
                tracing::debug!(%shard, "rows could not be read: {error}");
            }
        }
        reading.end();
        drop(fetcher);
        // A worker that has ended has answered what waited.
        let _ = workers.push(RowsFetched { shard, ticket });
    }
}
