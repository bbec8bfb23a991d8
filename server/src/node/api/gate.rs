//! The way into each worker, shared fairly: each stream has a line of its own, and lines take turns.
//!
//! Owns: what waits for the worker, how much the worker has at a time, and who is refused. Must never: let a request wait
//! until its client has given it up and execute it all the same, or one stream's line hold up another's.
//!
//! The worker has at most `window` requests at a time; while nothing waits, a request goes straight to it. What does not
//! fit waits in its stream's line. Each answer makes room, and lines take turns for it, a request each: a stream with one
//! request does not wait behind another's thousand. Waiting is bounded by time: above `REFUSE_AFTER` a line takes no
//! more, and what has waited for `GIVE_UP_AFTER` is refused when its turn comes, since a client asks elsewhere after a
//! second, and answering late would do the work twice. So the queue is as long as the worker is fast, and no longer.

use prometheus::{IntCounter, IntGauge, Registry};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use synod_engine::host::{Body, Input, Read, ReplySink, Request};
use synod_engine::node::WorkerId;
use synod_engine::runner::WorkerHandle;

/// A line whose first has waited so long takes no more.
const REFUSE_AFTER: Duration = Duration::from_millis(400);
/// What has waited so long is refused: well below the second, and two of its round trips to the node, after which a client asks
/// elsewhere. What remains is enough for a round trip between nodes of 300 ms.
const GIVE_UP_AFTER: Duration = Duration::from_millis(600);
/// Nothing answered for so long while something waits: what the worker has waits for something else than the worker (a group
/// without a quorum), and must not keep others from it.
const STALLED_AFTER: Duration = Duration::from_millis(100);
/// Bounds of what a refused client is told to wait. Not longer than the lines are: clients that all stay away for longer
/// leave the worker idle.
const HINT_LEAST_MS: u32 = 20;
const HINT_MOST_MS: u32 = 500;
/// How often the hint is thought over.
const HINT_PERIOD: Duration = Duration::from_millis(100);

/// The writing half of a stream, as the gate needs it.
pub trait Client: ReplySink {
    /// Request `id` was not taken; to be asked again after `retry_after_ms`.
    fn refuse(&self, id: u64, retry_after_ms: u32);
}

/// Who takes what is let through; gives back what it has no room for.
type Worker = Box<dyn Fn(Vec<Request>) -> Result<(), Vec<Request>> + Send + Sync>;

/// The gates of a node, one a worker.
pub struct Gates {
    worker: WorkerHandle,
    gates: Vec<Arc<Gate>>,
}

impl Gates {
    /// Gates in front of the workers, each of which has at most `window` requests at a time.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn new(worker: &WorkerHandle, window: usize, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let counts = Counts::new()?;
        registry.register(Box::new(counts.waiting.clone()))?;
        registry.register(Box::new(counts.refused.clone()))?;
        let gate = |n| {
            let worker = worker.clone();
            // All to this worker or none: one that has handed a shard over meanwhile passes its requests on.
            let take = move |requests| match worker.try_push_to(WorkerId(n), Input::Requests(requests)) {
                Err(Input::Requests(requests)) => Err(requests),
                _ => Ok(()),
            };
            Gate::over(Box::new(take), window, counts.clone())
        };
        Ok(Arc::new(Self { worker: worker.clone(), gates: (0..worker.workers()).map(gate).collect() }))
    }

    /// All of them, in the workers' order.
    pub fn all(&self) -> &[Arc<Gate>] {
        &self.gates
    }

    /// The index of the gate that a request goes through.
    pub fn index_of(&self, request: &Request) -> usize {
        self.worker.worker_of(request.shard).0.into()
    }
}

/// The gate of one worker.
pub struct Gate {
    worker: Worker,
    window: usize,
    began: Instant,
    lines: Mutex<Lines>,
    /// With the worker, not yet answered.
    inside: AtomicUsize,
    /// In lines.
    waiting: AtomicUsize,
    /// The part of the metric that is of this gate.
    told: AtomicI64,
    /// When the worker last answered or was last let have more, µs since `began`.
    moved_us: AtomicU64,
    counts: Counts,
}

/// What is counted, of all gates of a node.
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
struct Lines {
    by_stream: HashMap<u64, Line>,
    /// Streams whose line is not empty, in the order of their turns.
    turns: VecDeque<u64>,
    last: u64,
}

struct Line {
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

/// Who is to be told that a request was not taken, told once no lock is held.
#[derive(Default)]
struct Refusals(Vec<(Arc<dyn Client>, u64, u32)>);

impl Drop for Refusals {
    fn drop(&mut self) {
        for (client, id, hint) in self.0.drain(..) {
            client.refuse(id, hint);
        }
    }
}

/// A stream's place at the gate; its line goes with it.
pub struct Place {
    gate: Arc<Gate>,
    stream: u64,
}

impl Gate {
    fn over(worker: Worker, window: usize, counts: Counts) -> Arc<Self> {
        Arc::new(Self {
            worker,
            window,
            began: Instant::now(),
            lines: Mutex::default(),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            told: AtomicI64::new(0),
            moved_us: AtomicU64::new(0),
            counts,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a stream.
    pub fn open(self: &Arc<Self>, client: Arc<dyn Client>) -> Place {
        let mut lines = self.lock();
        lines.last += 1;
        let stream = lines.last;
        let line = Line { client, waiting: VecDeque::new(), hint: Hint::new(Instant::now()) };
        lines.by_stream.insert(stream, line);
        Place { gate: Arc::clone(self), stream }
    }

    /// The worker answered a request that had come through the gate.
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

    /// Lets lines have their turns until `room` requests have gone in.
    fn let_in(&self, now: Instant, room: usize) {
        let mut batch = Vec::new();
        let mut refusals = Refusals::default();
        let mut lines = self.lock();
        let Lines { by_stream, turns, .. } = &mut *lines;
        while batch.len() < room
            && let Some(stream) = turns.pop_front()
        {
            let Some(line) = by_stream.get_mut(&stream) else { continue };
            let Some((since, request)) = line.waiting.pop_front() else { continue };
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            if now.saturating_duration_since(since) > GIVE_UP_AFTER {
                let hint = line.hint.count(now, 0, 1);
                refusals.0.push((Arc::clone(&line.client), request.reply.id, hint));
            } else {
                line.hint.count(now, 1, 0);
                batch.push((stream, request));
            }
            if !line.waiting.is_empty() {
                turns.push_back(stream);
            }
        }
        self.hand_over(&lines, batch, &mut refusals);
        drop(lines);
        self.count(&refusals);
    }

    /// What goes in is counted before the worker can answer it.
    fn hand_over(&self, lines: &Lines, batch: Vec<(u64, Request)>, refusals: &mut Refusals) {
        if batch.is_empty() {
            return;
        }
        let streams: Vec<(u64, u64)> = batch.iter().map(|(stream, request)| (*stream, request.reply.id)).collect();
        self.inside.fetch_add(batch.len(), Ordering::AcqRel);
        if (self.worker)(batch.into_iter().map(|(_, request)| request).collect()).is_err() {
            self.inside.fetch_sub(streams.len(), Ordering::AcqRel);
            let clients = streams.iter().filter_map(|(stream, id)| Some((lines.by_stream.get(stream)?, *id)));
            refusals.0.extend(clients.map(|(line, id)| (Arc::clone(&line.client), id, line.hint.ms)));
        }
    }

    fn count(&self, refusals: &Refusals) {
        self.counts.refused.inc_by(refusals.0.len() as u64);
        let waiting = i64::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        self.counts.waiting.add(waiting - self.told.swap(waiting, Ordering::Relaxed));
    }
}

/// Whether a request waits in the worker by design: it must not take up room meanwhile.
pub fn waits(request: &Request) -> bool {
    matches!(&request.body, Body::Read { read: Read::Tail(poll), .. } if poll.wait_micros > 0)
}

impl Place {
    /// Lets requests in, or has them wait in this stream's line, or refuses them. None of them [`waits`].
    pub fn push(&self, requests: Vec<Request>, now: Instant) {
        let gate = &*self.gate;
        let inside = gate.inside.load(Ordering::Acquire);
        let nobody_waits = gate.waiting.load(Ordering::Acquire) == 0;
        let mut refusals = Refusals::default();
        let mut lines = gate.lock();
        if nobody_waits && inside + requests.len() <= gate.window {
            gate.moved(now);
            gate.hand_over(&lines, requests.into_iter().map(|r| (self.stream, r)).collect(), &mut refusals);
            drop(lines);
            return gate.counts.refused.inc_by(refusals.0.len() as u64);
        }
        let Lines { by_stream, turns, .. } = &mut *lines;
        let Some(line) = by_stream.get_mut(&self.stream) else { return };
        let late = |(since, _): &(Instant, Request)| now.saturating_duration_since(*since) > REFUSE_AFTER;
        if line.waiting.front().is_some_and(late) {
            let hint = line.hint.count(now, 0, u32::try_from(requests.len()).unwrap_or(u32::MAX));
            refusals.0.extend(requests.iter().map(|request| (Arc::clone(&line.client), request.reply.id, hint)));
        } else {
            if line.waiting.is_empty() {
                turns.push_back(self.stream);
            }
            gate.waiting.fetch_add(requests.len(), Ordering::AcqRel);
            line.waiting.extend(requests.into_iter().map(|request| (now, request)));
        }
        drop(lines);
        gate.count(&refusals);
        drop(refusals);
        let inside = gate.inside.load(Ordering::Acquire);
        if inside < gate.window {
            gate.let_in(now, gate.window - inside);
        } else if gate.stalled(now) {
            gate.moved(now);
            gate.let_in(now, gate.window);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = self.gate.lock().by_stream.remove(&self.stream);
        let gone = line.map_or(0, |line| line.waiting.len());
        self.gate.waiting.fetch_sub(gone, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
