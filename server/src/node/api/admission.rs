//! Admission of requests to each worker, shared fairly: each stream has a queue, and the queues take turns.
//!
//! Owns: what waits for the worker, how much the worker has at a time, and who is refused. Must never: let a request wait
//! until its client has given it up and execute it all the same, or one stream's queue hold up another's.
//!
//! The worker has at most `window` requests at a time; while nothing waits, a request goes straight to it. A request that
//! does not fit waits in its stream's queue. Each answer makes room, and the queues take turns for it, a request each: a
//! stream with one request does not wait behind another's thousand. Waiting is bounded by time: a queue whose first request
//! has waited for `REFUSE_AFTER` takes no more, and a request that has waited for `GIVE_UP_AFTER` is refused when its turn
//! comes, since a client asks elsewhere after a second, and a late answer would do the work twice. So a queue holds only
//! what the worker can do in that time.

use prometheus::{IntCounter, IntGauge, Registry};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use synod_engine::host::{Body, Input, Read, ReplySink, Request};
use synod_engine::node::WorkerId;
use synod_engine::runner::WorkerHandle;

/// A queue refuses new requests once its first one has waited this long.
const REFUSE_AFTER: Duration = Duration::from_millis(400);
/// A request that has waited this long is refused when its turn comes. It is well below the second, and two of its round
/// trips to the node, after which a client asks elsewhere: the rest is enough for a round trip between nodes of 300 ms.
const GIVE_UP_AFTER: Duration = Duration::from_millis(600);
/// The worker counts as stalled after this time without an answer while requests wait: its requests wait for something else
/// (a group without a quorum) and must not keep others from the worker.
const STALLED_AFTER: Duration = Duration::from_millis(100);
/// Bounds of the pause that a refused client is told. Not longer than requests wait in a queue: clients that all stay away
/// for longer leave the worker idle.
const HINT_LEAST_MS: u32 = 20;
const HINT_MOST_MS: u32 = 500;
/// Interval at which the hint is adjusted.
const HINT_PERIOD: Duration = Duration::from_millis(100);

/// The writing half of a stream, as the admission queue needs it.
pub trait Client: ReplySink {
    /// Request `id` was refused; the client may send it again after `retry_after_ms`.
    fn refuse(&self, id: u64, retry_after_ms: u32);
}

/// Takes admitted requests; gives them back where it has no room.
type Worker = Box<dyn Fn(Vec<Request>) -> Result<(), Vec<Request>> + Send + Sync>;

/// The admission queues of a node, one for each worker.
pub struct AdmissionQueues {
    worker: WorkerHandle,
    admissions: Vec<Arc<AdmissionQueue>>,
}

impl AdmissionQueues {
    /// Admission queues in front of the workers, each of which has at most `window` requests at a time.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn new(worker: &WorkerHandle, window: usize, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let counts = Counts::new()?;
        registry.register(Box::new(counts.waiting.clone()))?;
        registry.register(Box::new(counts.refused.clone()))?;
        let admission = |n| {
            let worker = worker.clone();
            // All to this worker or none: one that has handed a shard over meanwhile passes its requests on.
            let take = move |requests| match worker.try_push_to(WorkerId(n), Input::Requests(requests)) {
                Err(Input::Requests(requests)) => Err(requests),
                _ => Ok(()),
            };
            AdmissionQueue::over(Box::new(take), window, counts.clone())
        };
        Ok(Arc::new(Self { worker: worker.clone(), admissions: (0..worker.workers()).map(admission).collect() }))
    }

    /// All of them, in the workers' order.
    pub fn all(&self) -> &[Arc<AdmissionQueue>] {
        &self.admissions
    }

    /// The index of the admission queue that a request goes through.
    pub fn index_of(&self, request: &Request) -> usize {
        self.worker.worker_of(request.shard).0.into()
    }
}

/// The admission queue of one worker.
pub struct AdmissionQueue {
    worker: Worker,
    window: usize,
    began: Instant,
    queues: Mutex<StreamQueues>,
    /// With the worker, not yet answered.
    inside: AtomicUsize,
    /// In the streams' queues.
    waiting: AtomicUsize,
    /// What this admission queue has added to the metric of waiting requests.
    reported: AtomicI64,
    /// When the worker last answered or was last given more, µs since `began`.
    moved_us: AtomicU64,
    counts: Counts,
}

/// What all admission queues of a node count together.
#[derive(Clone)]
struct Counts {
    waiting: IntGauge,
    refused: IntCounter,
}

impl Counts {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            waiting: IntGauge::new("synod_gate_waiting_requests", "Requests that wait for their turn with a worker")?,
            refused: IntCounter::new("synod_gate_overloaded_total", "Requests refused since they waited too long")?,
        })
    }
}

#[derive(Default)]
struct StreamQueues {
    by_stream: HashMap<u64, StreamQueue>,
    /// Streams whose queue is not empty, in the order of their turns.
    turns: VecDeque<u64>,
    last: u64,
}

struct StreamQueue {
    client: Arc<dyn Client>,
    waiting: VecDeque<(Instant, Request)>,
    hint: Hint,
}

/// How long refused clients are told to wait: longer while more is refused than taken.
struct Hint {
    ms: u32,
    since: Instant,
    taken: u32,
    refused: u32,
}

impl Hint {
    fn new(now: Instant) -> Self {
        Self { ms: HINT_LEAST_MS, since: now, taken: 0, refused: 0 }
    }

    fn count(&mut self, now: Instant, taken: u32, refused: u32) -> u32 {
        self.taken += taken;
        self.refused += refused;
        if now.duration_since(self.since) >= HINT_PERIOD {
            self.ms = if self.refused > self.taken { self.ms * 2 } else { self.ms * 3 / 4 };
            self.ms = self.ms.clamp(HINT_LEAST_MS, HINT_MOST_MS);
            (self.since, self.taken, self.refused) = (now, 0, 0);
        }
        self.ms
    }
}

/// Clients to tell that their requests were refused; they are told once no lock is held.
#[derive(Default)]
struct Refusals(Vec<(Arc<dyn Client>, u64, u32)>);

impl Drop for Refusals {
    fn drop(&mut self) {
        for (client, id, hint) in self.0.drain(..) {
            client.refuse(id, hint);
        }
    }
}

/// A stream's handle at the admission queue. Dropping it drops the stream's queue.
pub struct StreamHandle {
    admission: Arc<AdmissionQueue>,
    stream: u64,
}

impl AdmissionQueue {
    fn over(worker: Worker, window: usize, counts: Counts) -> Arc<Self> {
        Arc::new(Self {
            worker,
            window,
            began: Instant::now(),
            queues: Mutex::default(),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            reported: AtomicI64::new(0),
            moved_us: AtomicU64::new(0),
            counts,
        })
    }

    fn lock(&self) -> MutexGuard<'_, StreamQueues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for a stream.
    pub fn open(self: &Arc<Self>, client: Arc<dyn Client>) -> StreamHandle {
        let mut queues = self.lock();
        queues.last += 1;
        let stream = queues.last;
        let queue = StreamQueue { client, waiting: VecDeque::new(), hint: Hint::new(Instant::now()) };
        queues.by_stream.insert(stream, queue);
        StreamHandle { admission: Arc::clone(self), stream }
    }

    /// The worker answered a request that this admission queue had given it.
    pub fn answered(&self) {
        let inside = self.inside.fetch_sub(1, Ordering::AcqRel) - 1;
        if self.waiting.load(Ordering::Acquire) > 0 {
            let now = Instant::now();
            self.moved(now);
            // Not one by one: a round of the worker should find many.
            if inside <= self.window / 4 * 3 {
                self.let_in(now, self.window.saturating_sub(inside));
            }
        }
    }

    fn moved(&self, now: Instant) {
        let at = u64::try_from(now.duration_since(self.began).as_micros()).unwrap_or(u64::MAX);
        self.moved_us.store(at, Ordering::Release);
    }

    fn stalled(&self, now: Instant) -> bool {
        let moved = self.began + Duration::from_micros(self.moved_us.load(Ordering::Acquire));
        now.saturating_duration_since(moved) > STALLED_AFTER
    }

    /// Gives the queues their turns until `room` requests have gone to the worker.
    fn let_in(&self, now: Instant, room: usize) {
        let mut batch = Vec::new();
        let mut refusals = Refusals::default();
        let mut queues = self.lock();
        let StreamQueues { by_stream, turns, .. } = &mut *queues;
        while batch.len() < room
            && let Some(stream) = turns.pop_front()
        {
            let Some(queue) = by_stream.get_mut(&stream) else { continue };
            let Some((since, request)) = queue.waiting.pop_front() else { continue };
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            if now.saturating_duration_since(since) > GIVE_UP_AFTER {
                let hint = queue.hint.count(now, 0, 1);
                refusals.0.push((Arc::clone(&queue.client), request.reply.id, hint));
            } else {
                queue.hint.count(now, 1, 0);
                batch.push((stream, request));
            }
            if !queue.waiting.is_empty() {
                turns.push_back(stream);
            }
        }
        self.hand_over(&queues, batch, &mut refusals);
        drop(queues);
        self.count(&refusals);
    }

    /// Requests are counted before the worker can answer them.
    fn hand_over(&self, queues: &StreamQueues, batch: Vec<(u64, Request)>, refusals: &mut Refusals) {
        if batch.is_empty() {
            return;
        }
        let streams: Vec<(u64, u64)> = batch.iter().map(|(stream, request)| (*stream, request.reply.id)).collect();
        self.inside.fetch_add(batch.len(), Ordering::AcqRel);
        if (self.worker)(batch.into_iter().map(|(_, request)| request).collect()).is_err() {
            self.inside.fetch_sub(streams.len(), Ordering::AcqRel);
            let clients = streams.iter().filter_map(|(stream, id)| Some((queues.by_stream.get(stream)?, *id)));
            refusals.0.extend(clients.map(|(queue, id)| (Arc::clone(&queue.client), id, queue.hint.ms)));
        }
    }

    fn count(&self, refusals: &Refusals) {
        self.counts.refused.inc_by(refusals.0.len() as u64);
        let waiting = i64::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        self.counts.waiting.add(waiting - self.reported.swap(waiting, Ordering::Relaxed));
    }
}

/// Whether a request waits in the worker by design: it must not take up room meanwhile.
pub fn waits(request: &Request) -> bool {
    matches!(&request.body, Body::Read { read: Read::Tail(poll), .. } if poll.wait_us > 0)
}

impl StreamHandle {
    /// Gives requests to the worker, queues them for this stream, or refuses them. None of them [`waits`].
    pub fn push(&self, requests: Vec<Request>, now: Instant) {
        let admission = &*self.admission;
        let inside = admission.inside.load(Ordering::Acquire);
        let nobody_waits = admission.waiting.load(Ordering::Acquire) == 0;
        let mut refusals = Refusals::default();
        let mut queues = admission.lock();
        if nobody_waits && inside + requests.len() <= admission.window {
            admission.moved(now);
            admission.hand_over(&queues, requests.into_iter().map(|r| (self.stream, r)).collect(), &mut refusals);
            drop(queues);
            return admission.counts.refused.inc_by(refusals.0.len() as u64);
        }
        let StreamQueues { by_stream, turns, .. } = &mut *queues;
        let Some(queue) = by_stream.get_mut(&self.stream) else { return };
        let late = |(since, _): &(Instant, Request)| now.saturating_duration_since(*since) > REFUSE_AFTER;
        if queue.waiting.front().is_some_and(late) {
            let hint = queue.hint.count(now, 0, u32::try_from(requests.len()).unwrap_or(u32::MAX));
            refusals.0.extend(requests.iter().map(|request| (Arc::clone(&queue.client), request.reply.id, hint)));
        } else {
            if queue.waiting.is_empty() {
                turns.push_back(self.stream);
            }
            admission.waiting.fetch_add(requests.len(), Ordering::AcqRel);
            queue.waiting.extend(requests.into_iter().map(|request| (now, request)));
        }
        drop(queues);
        admission.count(&refusals);
        drop(refusals);
        let inside = admission.inside.load(Ordering::Acquire);
        if inside < admission.window {
            admission.let_in(now, admission.window - inside);
        } else if admission.stalled(now) {
            admission.moved(now);
            admission.let_in(now, admission.window);
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let queue = self.admission.lock().by_stream.remove(&self.stream);
        let gone = queue.map_or(0, |queue| queue.waiting.len());
        self.admission.waiting.fetch_sub(gone, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
