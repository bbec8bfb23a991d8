//! The threads that bring rows into memory for reads.
//!
//! Owns: the bounded queue to them. Must never: hold a worker up, or leave a read without word: where rows cannot be read, the worker
//! meets with that itself.

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::thread::JoinHandle;
use synod_engine::host::{FetchRequest, Input};
use synod_engine::runner::WorkerHandle;

/// Requests that may wait, of all workers; more are read by the worker itself.
const QUEUE: usize = 1024;

/// A worker's way to the readers. They end once all of these are dropped.
#[derive(Clone)]
pub struct Readers(Option<Sender<FetchRequest>>);

impl Readers {
    /// Starts so many threads, which tell the workers; with none, workers read by themselves.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(threads: u32, workers: &WorkerHandle) -> Result<(Self, Vec<JoinHandle<()>>)> {
        if threads == 0 {
            return Ok((Self(None), Vec::new()));
        }
        let (wanted, queue) = bounded(QUEUE);
        let reader = |_| {
            let (queue, workers) = (queue.clone(), workers.clone());
            let thread = std::thread::Builder::new().name("state-read".into());
            thread.spawn(move || read(&queue, &workers)).context("a thread that reads the state")
        };
        Ok((Self(Some(wanted)), (0..threads).map(reader).collect::<Result<_>>()?))
    }

    /// Whether a reader takes this.
    #[must_use]
    pub fn take(&self, request: FetchRequest) -> bool {
        self.0.as_ref().is_some_and(|wanted| wanted.try_send(request).is_ok())
    }
}

fn read(queue: &Receiver<FetchRequest>, workers: &WorkerHandle) {
    for FetchRequest { shard, ticket, lacked, fetcher } in queue {
        if let Err(error) = fetcher.fetch(&lacked) {
            tracing::debug!(%shard, "rows could not be read: {error}");
        }
        drop(fetcher);
        // A worker that has ended has answered what waited.
        let _ = workers.push(Input::RowsFetched { shard, ticket });
    }
}
