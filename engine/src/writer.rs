//! The log writer: what all shards want written in a round becomes one synced batch.
//!
//! Owns: what a worker has staged, what of it is under way and what is durable. Must never: report a write done before it is
//! synced, or go on after one failed: the caller ends the process.
//!
//! A lone worker may write by itself. Several hand their batches to the one queue of the node, which numbers them: what waits there
//! becomes one synced write, whichever workers it comes from.

mod numbers;
mod thread;

pub use numbers::Numbers;
pub use thread::spawn;

use crate::StoreError;
use crate::codec::keys::Bounds;
use crate::command::is_admin;
use crate::identity::{Mark, SeenTable};
use crate::logstore::{GroupWrite, LogBatch, LogStore};
use crate::metrics::{EngineMetrics, level, seconds};
use crate::node::{NodeShared, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_cluster::buf::Reader;
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId};
use synod_paxos::types::{Micros, Payload, WriteSeq};

/// Reads the driver's monotone clock; for measuring only.
pub type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

/// Told the number of a synced write; must not block.
pub type Wake = Box<dyn Fn(u64) + Send>;

/// Where synced writes happen.
pub enum WriterMode {
    /// On the worker's own thread: no hop between threads, the shortest way for a lone client. For a node with one worker.
    Inline,
    /// On another thread: the worker goes on meanwhile.
    Queue(Box<dyn WriteQueue>),
}

/// A worker's end of the node's queue of batches, which are written in the order of their numbers and one after the other.
pub trait WriteQueue: Send {
    /// Whether this worker can submit a batch; room stays until it does.
    fn has_room(&self) -> bool;

    /// Numbers a batch and hands it over; there must be room. Several that wait, of any worker, may become one synced write.
    fn submit(&self, batch: LogBatch) -> NodeWriteSeq;

    /// The last number given, to a batch of any worker.
    fn issued(&self) -> NodeWriteSeq;

    /// The last synced write, of any worker.
    ///
    /// # Errors
    /// A write failed: nothing more may be acknowledged.
    fn synced(&self) -> Result<NodeWriteSeq, StoreError>;
}

/// When the work under way on a thread began, for pulses and probes: a thread that hangs must not look alive.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// 0: none is under way.
    started_us: AtomicU64,
}

impl UnderWay {
    /// When it began, by the driver's monotone clock; `None` where none is under way.
    #[must_use]
    pub fn started(&self) -> Option<Micros> {
        match self.started_us.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Micros(at)),
        }
    }

    /// It begins; for the thread itself, and for tests that play it.
    pub fn begin(&self, now: Micros) {
        self.started_us.store(now.0.max(1), Ordering::Relaxed);
    }

    /// It is done.
    pub fn end(&self) {
        self.started_us.store(0, Ordering::Relaxed);
    }
}

/// How the log writer is doing, for the pulse that peers hear: a disk that hangs must not look alive.
#[derive(Debug, Default)]
pub struct WriterProgress {
    writes_done: AtomicU64,
    write: UnderWay,
}

impl WriterProgress {
    /// Synced writes so far.
    #[must_use]
    pub fn writes_done(&self) -> u64 {
        self.writes_done.load(Ordering::Relaxed)
    }

    /// When the write under way began, by the driver's monotone clock.
    #[must_use]
    pub fn write_started(&self) -> Option<Micros> {
        self.write.started()
    }

    /// A write begins; for the log writer, and for tests that play it.
    pub fn begin(&self, now: Micros) {
        self.write.begin(now);
    }

    /// It is synced.
    pub fn end(&self) {
        self.write.end();
        self.writes_done.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a group learns once its write is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// The core's write, and all of its before.
    Persisted(WriteSeq),
    /// The group exists.
    Created,
    /// The group is gone; these rows of the state store go with it.
    Removed(Vec<Bounds>),
    /// A snapshot took the place of its log.
    Installed,
    /// A replica began with a snapshot.
    Begun,
    /// The child of a split, which began before, has got its first state.
    Born,
    /// A replica goes on without its state: nothing that it wrote is under way.
    Lost,
    /// The log of a shard that went into another one is gone.
    Buried,
}

/// What a synced write is measured by.
#[derive(Clone)]
pub struct Gauges {
    /// For the pulse.
    pub progress: Arc<WriterProgress>,
    /// For metrics.
    pub metrics: Arc<EngineMetrics>,
    /// The driver's.
    pub clock: Clock,
}

impl Gauges {
    fn write(&self, log: &dyn LogStore, batch: &LogBatch) -> Result<(), StoreError> {
        let began = (self.clock)();
        self.progress.begin(began);
        log.write(batch).or_else(|error| if planted!(FailedWriteGoesOn) { Ok(()) } else { Err(error) })?;
        self.progress.end();
        let m = &self.metrics;
        m.log_write_seconds.observe(seconds((self.clock)().0.saturating_sub(began.0)));
        m.fsyncs_total.inc();
        let (mut entries, mut bytes, mut ops) = (0, 0, 0);
        for entry in batch.groups.iter().flat_map(|group| &group.append) {
            entries += 1;
            bytes += entry.size() as u64;
            ops += requests_in(&entry.payload);
        }
        m.log_entries_total.inc_by(entries);
        m.log_bytes_total.inc_by(bytes);
        if ops > 0 {
            #[allow(clippy::cast_precision_loss, reason = "a batch holds far fewer than 2^52 requests")]
            m.ops_per_fsync.observe(ops as f64);
        }
        Ok(())
    }
}

/// The number of requests in a command, read from its head.
fn requests_in(payload: &Payload) -> u64 {
    let Payload::Command(data) = payload else { return 0 };
    if is_admin(data) {
        return 0;
    }
    let mut reader = Reader::new(data.clone());
    reader.u8().and_then(|_version| reader.var()).unwrap_or(0)
}

/// What is told once a batch is durable.
#[derive(Default)]
struct Flight {
    seq: NodeWriteSeq,
    done: Vec<(ShardId, Done)>,
}

/// Collects writes and syncs them.
pub(crate) struct LogWriter {
    log: Arc<dyn LogStore>,
    gauges: Gauges,
    seen_table: Arc<SeenTable>,
    /// `None`: inline.
    queue: Option<Box<dyn WriteQueue>>,
    /// What the next batch will hold.
    groups: Vec<GroupWrite>,
    done: Vec<(ShardId, Done)>,
    seen: BTreeMap<NodeId, Mark>,
    /// Handed over, in order.
    flights: VecDeque<Flight>,
    /// Inline: the last number given.
    issued: NodeWriteSeq,
    durable: NodeWriteSeq,
    levels: (Arc<NodeShared>, WorkerId),
}

impl LogWriter {
    /// A worker's writer that goes on after `recovered`, the last durable write found.
    pub(crate) fn new(
        log: Arc<dyn LogStore>,
        mode: WriterMode,
        recovered: NodeWriteSeq,
        seen_table: Arc<SeenTable>,
        gauges: Gauges,
        levels: (Arc<NodeShared>, WorkerId),
    ) -> Self {
        let queue = match mode {
            WriterMode::Inline => None,
            WriterMode::Queue(queue) => Some(queue),
        };
        assert!(queue.is_some() || levels.0.workers() == 1, "workers that each number their writes");
        Self {
            log,
            gauges,
            seen_table,
            queue,
            groups: Vec::new(),
            done: Vec::new(),
            seen: BTreeMap::new(),
            flights: VecDeque::new(),
            issued: recovered,
            durable: recovered,
            levels,
        }
    }

    /// The last durable write: what leaves the node now may claim it.
    pub(crate) fn durable(&self) -> NodeWriteSeq {
        if planted!(WriteClaimedEarly) { NodeWriteSeq(self.durable.0 + 1) } else { self.durable }
    }

    /// Another worker of the node knows this write to be durable, and hands over what rests on it.
    pub(crate) fn raise_durable(&mut self, seq: NodeWriteSeq) {
        self.durable = self.durable.max(seq);
    }

    /// The last write of the node that was begun.
    pub(crate) fn issued(&self) -> NodeWriteSeq {
        self.queue.as_ref().map_or(self.issued, |queue| queue.issued())
    }

    /// Adds a group's write to the next batch; `done` is told once it is durable.
    pub(crate) fn add(&mut self, write: GroupWrite, done: Option<Done>) {
        self.done.extend(done.map(|done| (write.shard, done)));
        self.groups.push(write);
    }

    /// Whether a write of a shard is not handed over yet, or something is to be told of one that is.
    pub(crate) fn is_writing(&self, shard: ShardId) -> bool {
        let of = |(id, _): &(ShardId, Done)| *id == shard;
        self.groups.iter().any(|write| write.shard == shard)
            || self.done.iter().any(of)
            || self.flights.iter().any(|flight| flight.done.iter().any(of))
    }

    /// The last write of a shard's core that is under way.
    pub(crate) fn last_under_way(&self, shard: ShardId) -> Option<WriteSeq> {
        let all = self.flights.iter().flat_map(|flight| &flight.done).chain(&self.done);
        let written = all.filter(|(id, _)| *id == shard).filter_map(|(_, done)| match done {
            Done::Persisted(seq) => Some(*seq),
            _ => None,
        });
        written.max()
    }

    /// The greatest write heard of from a peer, by any worker, durable here or not yet.
    pub(crate) fn seen(&self, node: NodeId) -> Mark {
        self.seen_table.get(node)
    }

    /// What was seen of a peer is told from now on, and joins the next batch; it asks for none of its own. Told before it is
    /// durable here, since it is true all the same: a group that fell silent would else never tell the last of it.
    pub(crate) fn note_seen(&mut self, node: NodeId, mark: Mark) {
        self.seen_table.raise(node, mark);
        self.seen.insert(node, mark);
    }

    /// Writes what was added, or hands it over, and appends to `done` what is durable by now, in order.
    ///
    /// # Errors
    /// A write failed: nothing more may be acknowledged.
    pub(crate) fn commit(&mut self, done: &mut Vec<(ShardId, Done)>) -> Result<(), StoreError> {
        if !self.groups.is_empty() && self.queue.as_ref().is_none_or(|queue| queue.has_room()) {
            let mut batch = self.take_batch();
            match &self.queue {
                Some(queue) => {
                    let seq = queue.submit(batch);
                    self.flights.push_back(Flight { seq, done: std::mem::take(&mut self.done) });
                }
                None => {
                    self.issued.0 += 1;
                    batch.seq = self.issued;
                    self.gauges.write(&*self.log, &batch)?;
                    self.groups = batch.groups;
                    self.groups.clear();
                    self.durable = batch.seq;
                    done.append(&mut self.done);
                    return Ok(());
                }
            }
        }
        if let Some(queue) = &self.queue {
            self.durable = if planted!(HandedOverCounts) { queue.issued() } else { queue.synced()? };
            let mut told = self.durable;
            if planted!(NextWriteCounts) {
                told.0 += 1;
            }
            while let Some(mut flight) = self.flights.pop_front_if(|flight| flight.seq <= told) {
                done.append(&mut flight.done);
                if self.done.capacity() == 0 {
                    self.done = flight.done;
                }
            }
            let (shared, worker) = &self.levels;
            let waiting = shared.levels.log_queue_batches.set(*worker, level(self.flights.len()));
            self.gauges.metrics.log_queue_batches.set(waiting);
        }
        Ok(())
    }

    fn take_batch(&mut self) -> LogBatch {
        let seen = std::mem::take(&mut self.seen).into_iter();
        LogBatch {
            groups: std::mem::take(&mut self.groups),
            seq: NodeWriteSeq(0),
            seen: seen.map(|(node, (incarnation, seq))| (node, incarnation, seq)).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
