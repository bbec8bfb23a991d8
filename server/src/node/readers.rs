//! The threads that bring rows into memory for reads, tails and entries to be applied.
//!
//! Owns: the bounded queue to them, and the age of what each reads. Must never: hold a worker up, leave what waits without word (where rows
//! cannot be read, the worker meets with that itself), or hang unseen: a node whose disk hangs must not look alive.

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, bounded, select_biased};
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
pub struct Readers(Option<Queues<Sender<FetchRequest>>>);

/// What is fetched for entries and tails comes before what is fetched for reads: every later write of a shard waits for an entry, and a
/// read may ask for a mebibyte.
#[derive(Clone)]
struct Queues<E> {
    first: E,
    reads: E,
}

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
        let (first, queue_first) = bounded(QUEUE);
        let (reads, queue_reads) = bounded(QUEUE);
        let queues = Queues { first: queue_first, reads: queue_reads };
        let reader = |reading: Arc<UnderWay>| {
            let (queues, workers) = (queues.clone(), workers.clone());
            let thread = std::thread::Builder::new().name("state-read".into());
            thread.spawn(move || read(&queues, &workers, clock, &reading)).context("a thread that reads the state")
        };
        let threads = reading.into_iter().map(reader).collect::<Result<_>>()?;
        Ok((Self(Some(Queues { first, reads })), threads))
    }

    /// Whether there is room for a fetch of an entry. A read that finds none for its own is read by its worker.
    #[must_use]
    pub fn have_room(&self) -> bool {
        self.0.as_ref().is_some_and(|queues| !queues.first.is_full())
    }

    /// Whether a reader takes this.
    #[must_use]
    pub fn take(&self, request: FetchRequest) -> bool {
        let Some(queues) = &self.0 else { return false };
        let queue = if request.for_read { &queues.reads } else { &queues.first };
        queue.try_send(request).is_ok()
    }
}

impl Queues<Receiver<FetchRequest>> {
    /// The next request of a reader that has had so many; `None` once no worker is left. Every fourth time reads come first, so that
    /// none waits for ever.
    fn next(&self, had: u64) -> Option<FetchRequest> {
        let (before, after) = if had % 4 == 3 { (&self.reads, &self.first) } else { (&self.first, &self.reads) };
        select_biased! {
            recv(before) -> next => next.ok(),
            recv(after) -> next => next.ok(),
        }
    }
}

fn read(queues: &Queues<Receiver<FetchRequest>>, workers: &WorkerHandle, clock: MonotoneClock, reading: &UnderWay) {
    for had in 0.. {
        let Some(FetchRequest { shard, ticket, lacked, fetcher, .. }) = queues.next(had) else { return };
        for row in &lacked {
            // Each for itself: that many take long is no sign of a disk that hangs.
            reading.begin(clock.now());
            if let Err(error) = fetcher.fetch(row) {
                tracing::debug!(%shard, "rows could not be read: {error}");
            }
        }
        reading.end();
        drop(fetcher);
        // A worker that has ended has answered what waited: an end of the node does not wait for what is left of the queue.
        if workers.push(RowsFetched { shard, ticket }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::ShardId;
    use synod_engine::StoreError;
    use synod_engine::state::{Fetch, Lacked};

    struct Nothing;

    impl Fetch for Nothing {
        fn fetch(&self, _: &Lacked) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn request(ticket: u64, for_read: bool) -> FetchRequest {
        FetchRequest { shard: ShardId(2), ticket, for_read, lacked: Vec::new(), fetcher: Arc::new(Nothing) }
    }

    #[test]
    fn what_entries_wait_for_is_fetched_before_what_reads_wait_for_and_has_room_of_its_own() {
        let (first, queue_first) = bounded(2);
        let (reads, queue_reads) = bounded(2);
        let readers = Readers(Some(Queues { first, reads }));
        assert!(readers.take(request(1, true)) && readers.take(request(2, true)));
        assert!(!readers.take(request(3, true)), "the reads' queue is full");
        assert!(readers.have_room());
        assert!(readers.take(request(4, false)) && readers.take(request(5, false)));
        assert!(!readers.have_room() && !readers.take(request(6, false)));
        let queues = Queues { first: queue_first, reads: queue_reads };
        assert_eq!(queues.next(3).unwrap().ticket, 1, "a read is not put off for ever");
        assert_eq!([0, 1].map(|had| queues.next(had).unwrap().ticket), [4, 5]);
    }
}
