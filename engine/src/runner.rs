//! The threads that run a node's workers.
//!
//! Owns: the queue of inputs, bounded in number and in bytes, and the age of the round under way. Must never: decide anything;
//! all that the worker does follows from what it is handed here.

use crate::StoreError;
use crate::clock::{MonotoneClock, wall_us};
use crate::host::{Host, Input, NodeInput};
use crate::memory::Account;
use crate::node::{Places, Post, WorkerId, route};
use crate::worker::Worker;
use crate::writer::{UnderWay, Wake};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use synod_cluster::ids::ShardId;

/// Inputs taken in one round at most.
const ROUND_INPUTS: usize = 1024;

/// Pushes inputs to a node's workers, each to those whom it concerns. Cheap to clone; used from any thread.
#[derive(Clone)]
pub struct WorkerHandle {
    /// One a worker.
    inputs: Arc<[Sender<Queued>]>,
    places: Arc<Places>,
    account: Arc<Account>,
}

/// An input that waits, and what it takes meanwhile.
struct Queued {
    input: Input,
    bytes: usize,
}

impl WorkerHandle {
    /// How many workers the node has.
    #[must_use]
    pub fn workers(&self) -> u16 {
        u16::try_from(self.inputs.len()).expect("a node has at most 256 workers")
    }

    /// The worker that has a shard.
    #[must_use]
    pub fn worker_of(&self, shard: ShardId) -> WorkerId {
        self.places.worker_of(shard)
    }

    /// Which worker has which shard: the table that the node's workers are to share.
    #[must_use]
    pub fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// How the workers reach one another.
    #[must_use]
    pub fn post(&self) -> Post {
        let handle = self.clone();
        Box::new(move |worker, input| handle.post_to(worker, input))
    }

    /// Not refused for bytes: what goes from worker to worker was taken from an inbox before.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who sends it again")]
    fn post_to(&self, worker: WorkerId, input: Input) -> Result<(), Input> {
        let bytes = input.bytes();
        self.account.add(bytes);
        let queue = &self.inputs[usize::from(worker.0)];
        queue.try_send(Queued { input, bytes }).map_err(|refused| self.give_back(refused.into_inner()))
    }

    /// Queues an input, or gives it back where a queue is full, of inputs or of bytes, or a worker has ended. Never blocks. Of
    /// requests and messages for several workers, those that were taken are not given back. What concerns the whole node may be
    /// given again.
    ///
    /// # Errors
    /// The input itself, or what is left of it.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
    pub fn try_push(&self, input: impl Into<Input>) -> Result<(), Input> {
        route(input.into(), &self.places, &mut |worker, input| self.try_give(worker, input))
    }

    /// Queues an input for one worker, whatever shards it is about, or gives all of it back. A worker passes on what is for shards that
    /// others have. Never blocks.
    ///
    /// # Errors
    /// The input itself.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
    pub fn try_push_to(&self, worker: WorkerId, input: Input) -> Result<(), Input> {
        self.try_give(worker, input)
    }

    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
    fn try_give(&self, worker: WorkerId, input: Input) -> Result<(), Input> {
        let bytes = input.bytes();
        if !self.account.try_add(bytes) {
            return Err(input);
        }
        let queue = &self.inputs[usize::from(worker.0)];
        queue.try_send(Queued { input, bytes }).map_err(|refused| self.give_back(refused.into_inner()))
    }

    /// Not refused for bytes: the account is shared, and this worker may sleep while another's inputs fill it.
    fn tell_written(&self, worker: WorkerId, seq: u64) {
        let input = Input::from(NodeInput::Written(seq));
        let bytes = input.bytes();
        self.account.add(bytes);
        if let Err(refused) = self.inputs[usize::from(worker.0)].try_send(Queued { input, bytes }) {
            drop(self.give_back(refused.into_inner()));
        }
    }

    fn give_back(&self, queued: Queued) -> Input {
        self.account.sub(queued.bytes);
        queued.input
    }

    /// Queues an input, waiting for room: for what must not be lost, from threads that may block.
    ///
    /// # Errors
    /// The input itself, where a worker has ended.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
    pub fn push(&self, input: impl Into<Input>) -> Result<(), Input> {
        route(input.into(), &self.places, &mut |worker, input| {
            // Few and small: they are counted, and wait for places only.
            let bytes = input.bytes();
            self.account.add(bytes);
            let queue = &self.inputs[usize::from(worker.0)];
            queue.send(Queued { input, bytes }).map_err(|refused| self.give_back(refused.0))
        })
    }

    /// Inputs that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.inputs.iter().map(Sender::len).sum()
    }

    /// What a log-writer thread calls after each synced write, one a worker. Where a queue is full its worker is awake anyway and
    /// finds the write by itself.
    #[must_use]
    pub fn wakes(&self) -> Vec<Wake> {
        let wake = |worker| {
            let handle = self.clone();
            Box::new(move |seq| handle.tell_written(worker, seq)) as Wake
        };
        (0..self.workers()).map(|worker| wake(WorkerId(worker))).collect()
    }
}

/// The worker's end of its queue.
pub struct WorkerInputs {
    queue: Receiver<Queued>,
    account: Arc<Account>,
}

impl WorkerInputs {
    fn taken(&self, queued: Queued) -> Input {
        self.account.sub(queued.bytes);
        queued.input
    }
}

/// A queue of `capacity` inputs, of any size, to a lone worker.
#[must_use]
pub fn inputs(capacity: usize) -> (WorkerHandle, WorkerInputs) {
    let (handle, mut inputs) = inputs_within(1, capacity, &Account::unlimited());
    (handle, inputs.remove(0))
}

/// Queues of `capacity` inputs to each of so many workers. Their bytes are counted in this account: there is no room in any once that
/// is full.
#[must_use]
pub fn inputs_within(workers: u16, capacity: usize, account: &Arc<Account>) -> (WorkerHandle, Vec<WorkerInputs>) {
    let queues = (0..workers).map(|_| bounded(capacity));
    let (inputs, queues): (Vec<_>, Vec<_>) = queues.unzip();
    let places = Arc::new(Places::new(workers));
    let handle = WorkerHandle { inputs: inputs.into(), places, account: Arc::clone(account) };
    let inputs = queues.into_iter().map(|queue| WorkerInputs { queue, account: Arc::clone(account) });
    (handle, inputs.collect())
}

/// What the names of workers' threads begin with.
pub const THREAD: &str = "worker";

/// Runs a worker on a thread of its own until it is stopped. It stops by itself once every handle is gone; workers of a node that has
/// several hold handles themselves, by which they reach one another.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn<H: Host + 'static>(
    id: WorkerId,
    worker: Worker<H>,
    inputs: WorkerInputs,
    clock: MonotoneClock,
    rounds: Arc<UnderWay>,
) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new()
        .name(format!("{THREAD}-{}", id.0))
        .spawn(move || run(worker, &inputs, clock, &rounds))
        .map_err(|e| StoreError::Io { what: "start the worker's thread".into(), why: e.to_string() })
}

fn run<H: Host>(mut worker: Worker<H>, inputs: &WorkerInputs, clock: MonotoneClock, rounds: &UnderWay) {
    let queue = &inputs.queue;
    let mut round = Vec::with_capacity(ROUND_INPUTS);
    while !worker.stopped() {
        let first = match worker.next_deadline() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => match at.0.saturating_sub(clock.now().0) {
                0 => queue.try_recv().map_err(|e| match e {
                    crossbeam_channel::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    crossbeam_channel::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                wait => queue.recv_timeout(Duration::from_micros(wait)),
            },
        };
        match first {
            Ok(queued) => round.push(inputs.taken(queued)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => round.push(NodeInput::Stop.into()),
        }
        round.extend(queue.try_iter().take(ROUND_INPUTS - 1).map(|queued| inputs.taken(queued)));
        // Behind the inputs' arrival: by a time before it a leader that was paused would serve reads from a lease that is over.
        let now = clock.now();
        rounds.begin(now);
        worker.handle(now, wall_us(), &mut round, &mut || !queue.is_empty());
        rounds.end();
    }
    // What came after the stop is answered.
    round.extend(queue.try_iter().map(|queued| inputs.taken(queued)));
    worker.handle(clock.now(), wall_us(), &mut round, &mut || false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{At, Body, Freshness, Read, Reply, ReplySink, Request};
    use crate::memory::{Holder, Memory};
    use bytes::Bytes;
    use synod_cluster::ids::ShardId;
    use synod_cluster::refusal::Refusal;

    struct Nobody;

    impl ReplySink for Nobody {
        fn reply(&self, _id: u64, _answer: Result<crate::host::Answer, Refusal>) {}
    }

    fn requests(bytes: usize) -> Input {
        let read = Read::Get { key: Bytes::from(vec![0; bytes]), at: At::Newest };
        let body = Body::Read { read, freshness: Freshness::Local };
        let reply = Reply { sink: Arc::new(Nobody), id: 1 };
        Input::Requests(vec![Request { shard: ShardId(2), version: None, body, reply }])
    }

    #[test]
    fn a_worker_is_told_of_its_write_though_the_inputs_of_another_fill_the_account() {
        let memory = Memory::new(8 << 20);
        let (handle, inputs) = inputs_within(2, 1000, memory.of(Holder::Inbox));
        let busy = handle.worker_of(ShardId(2));
        let sleeps = usize::from(1 - busy.0);
        let full = (0..1000).take_while(|_| handle.try_push(requests(100_000)).is_ok()).count();
        assert!(full < 20 && (0..10_000).any(|_| handle.try_push(requests(1)).is_err()), "the account is full");
        handle.wakes()[sleeps](7);
        assert!(matches!(inputs[sleeps].queue.try_recv().map(|q| q.input), Ok(Input::Node(NodeInput::Written(7)))));
    }

    #[test]
    fn what_is_for_one_worker_goes_there_whole_though_a_shard_was_handed_to_another() {
        let (handle, inputs) = inputs_within(2, 1000, &Account::unlimited());
        let (before, moved) = (handle.worker_of(ShardId(2)), ShardId(2));
        let after = WorkerId(1 - before.0);
        handle.places.set(moved, after);
        assert_eq!(handle.worker_of(moved), after);
        let depths = || inputs.iter().map(|inputs| inputs.queue.len()).collect::<Vec<_>>();
        assert!(handle.try_push_to(before, requests(1)).is_ok());
        assert_eq!(depths()[usize::from(before.0)], 1, "the old worker passes it on");
        assert!(handle.try_push(requests(1)).is_ok() && handle.post()(after, requests(1)).is_ok());
        assert_eq!(depths()[usize::from(after.0)], 2);
    }

    #[test]
    fn the_queue_is_full_of_bytes_long_before_it_is_full_of_inputs() {
        let memory = Memory::new(8 << 20);
        let account = memory.of(Holder::Inbox);
        let (handle, mut inputs) = inputs_within(1, 1000, account);
        let inputs = inputs.remove(0);
        let taken = (0..1000).take_while(|_| handle.try_push(requests(100_000)).is_ok()).count();
        assert_eq!(taken, 10, "of 1 MiB");
        assert!(account.used() <= account.limit());
        assert!(handle.try_push(NodeInput::Drain).is_ok(), "a small one still fits");
        // What is taken out makes room; what is larger than all of it passes alone.
        while let Ok(queued) = inputs.queue.try_recv() {
            inputs.taken(queued);
        }
        assert_eq!(account.used(), 0);
        assert!(handle.try_push(requests(5 << 20)).is_ok() && handle.try_push(requests(1)).is_err());
    }
}
