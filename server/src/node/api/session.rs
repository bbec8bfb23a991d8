//! The multiplexed stream of one client.
//!
//! Owns: the requests under way on it, and its replies until they are sent. Must never: read more requests than it may have
//! under way, or hold a reply back for company: what is ready when the stream is polled is the next frame.

use super::admission::{self, AdmissionQueue, AdmissionQueues, Client, StreamHandle};
use super::convert;
use crate::config::Limits;
use crate::node::peer::Peers;
use crate::node::whereabouts::Whereabouts;
use futures::Stream;
use futures::task::AtomicWaker;
use prost::Message as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_engine::host::{Answer, Input, Reply, ReplySink, Request};
use synod_engine::memory::{Holder, Memory};
use synod_engine::runner::WorkerHandle;
use synod_proto::v1;
use tokio::sync::Notify;
use tonic::{Status, Streaming};

/// Most replies in one frame, so that a frame stays small.
const FRAME_REPLIES_MAX: usize = 512;
/// About the most bytes of records in one frame.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Bytes of records that may wait on a stream to be read by its client: above it no more of its requests are read, and what
/// it reads is refused before it is looked up.
const BACKLOG_BYTES_MAX: usize = 32 << 20;
/// Bytes of requests under way on a stream, above which no more are read.
const UNDER_WAY_BYTES_MAX: usize = 16 << 20;

/// What the reading half, the worker and the writing half of a stream share.
struct Shared {
    ready: Mutex<Vec<v1::ShardReply>>,
    waker: AtomicWaker,
    /// What all streams of the node may hold.
    memory: Memory,
    /// Requests read and not yet put into a frame.
    under_way: AtomicUsize,
    /// About how many bytes those have; counted in the node's memory as well.
    under_way_bytes: AtomicUsize,
    /// Tails that wait for news: no request waits behind them.
    tails: AtomicUsize,
    /// Their bytes.
    tail_bytes: AtomicUsize,
    /// Bytes of `ready`; counted in the node's memory as well.
    backlog: AtomicUsize,
    room: Notify,
    /// The client will send no more.
    no_more: AtomicBool,
}

impl Shared {
    fn new(memory: Memory) -> Self {
        Self {
            ready: Mutex::new(Vec::new()),
            waker: AtomicWaker::new(),
            memory,
            under_way: AtomicUsize::new(0),
            under_way_bytes: AtomicUsize::new(0),
            tails: AtomicUsize::new(0),
            tail_bytes: AtomicUsize::new(0),
            backlog: AtomicUsize::new(0),
            room: Notify::new(),
            no_more: AtomicBool::new(false),
        }
    }

    fn push(&self, reply: v1::ShardReply) {
        let bytes = reply_bytes(&reply);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ready.is_empty();
        ready.push(reply);
        self.backlog.fetch_add(bytes, Ordering::AcqRel);
        self.memory.of(Holder::Replies).add(bytes);
        drop(ready);
        if first {
            self.waker.wake();
        }
    }
}

impl Shared {
    /// Whether more of the client's requests must wait to be read.
    fn is_busy(&self, requests_max: usize) -> bool {
        let under_way = self.under_way.load(Ordering::Acquire);
        under_way >= requests_max
            // Its own answers make room; a stream that has nothing under way waits for nobody else's.
            || (under_way > 0 && self.memory.of(Holder::Requests).is_over())
            || self.under_way_bytes.load(Ordering::Acquire) >= UNDER_WAY_BYTES_MAX
            || self.backlog.load(Ordering::Acquire) >= BACKLOG_BYTES_MAX / 2
    }

    /// These replies left.
    fn sent(&self, replies: &[v1::ShardReply]) {
        let bytes = replies.iter().map(reply_bytes).sum();
        self.backlog.fetch_sub(bytes, Ordering::AcqRel);
        self.memory.of(Holder::Replies).sub(bytes);
        self.taken(replies.len());
        self.room.notify_one();
    }

    /// Requests are under way.
    fn begun(&self, requests: usize, bytes: usize) {
        self.under_way.fetch_add(requests, Ordering::AcqRel);
        self.under_way_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.memory.of(Holder::Requests).add(bytes);
    }

    /// They are no more.
    fn ended(&self, requests: usize, bytes: usize) {
        self.under_way.fetch_sub(requests, Ordering::AcqRel);
        let less = |all: usize| Some(all.saturating_sub(bytes));
        let before = self.under_way_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).unwrap_or(0);
        self.memory.of(Holder::Requests).sub(before.min(bytes));
    }

    /// So many replies left: their share of the bytes under way, as if all requests were of a size.
    fn taken(&self, replies: usize) {
        let under_way = self.under_way.load(Ordering::Acquire).max(replies).max(1);
        let bytes = self.under_way_bytes.load(Ordering::Acquire);
        self.ended(replies, bytes * replies / under_way);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let requests = *self.under_way_bytes.get_mut() + *self.tail_bytes.get_mut();
        self.memory.of(Holder::Requests).sub(requests);
        self.memory.of(Holder::Replies).sub(*self.backlog.get_mut());
    }
}

impl ReplySink for Shared {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        self.push(v1::ShardReply { id, body: Some(convert::reply(answer)) });
    }

    fn is_full(&self) -> bool {
        self.backlog.load(Ordering::Acquire) > BACKLOG_BYTES_MAX || self.memory.of(Holder::Replies).is_over()
    }
}

impl Client for Shared {
    fn refuse(&self, id: u64, retry_after_ms: u32) {
        let error = convert::overloaded(retry_after_ms);
        self.push(v1::ShardReply { id, body: Some(v1::shard_reply::Body::Error(error)) });
    }
}

/// Where the answer to a tail goes that may wait for long. It counts among the requests under way once it is answered.
struct Waiting {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Waiting {
    /// Counts a tail of the stream, or refuses it by name where too many wait.
    fn admit(shared: &Arc<Shared>, poll: &Request, limits: &Limits) -> Result<Arc<Self>, Refusal> {
        let bytes = poll.bytes();
        let (tails, most) = (shared.tails.load(Ordering::Acquire), limits.session_requests_max as usize);
        if tails >= most {
            let knob = "limits.session_requests_max";
            return Err(Refusal::TooManyTails { limit: most, place: "stream", knob });
        }
        if tails > 0 && shared.tail_bytes.load(Ordering::Acquire) + bytes > UNDER_WAY_BYTES_MAX {
            return Err(Refusal::TooManyTails {
                limit: tails,
                place: "stream",
                knob: "fixed: 16 MiB of their segments",
            });
        }
        shared.tails.fetch_add(1, Ordering::AcqRel);
        shared.tail_bytes.fetch_add(bytes, Ordering::AcqRel);
        shared.memory.of(Holder::Requests).add(bytes);
        Ok(Arc::new(Self { shared: Arc::clone(shared), bytes }))
    }
}

impl ReplySink for Waiting {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        let shared = &self.shared;
        shared.begun(1, self.bytes);
        shared.tails.fetch_sub(1, Ordering::AcqRel);
        shared.tail_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        shared.memory.of(Holder::Requests).sub(self.bytes);
        shared.reply(id, answer);
    }

    fn is_full(&self) -> bool {
        self.shared.is_full()
    }
}

/// Receives the answers to admitted requests, and tells the admission queue.
struct Admitted {
    shared: Arc<Shared>,
    admission: Arc<AdmissionQueue>,
}

impl ReplySink for Admitted {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        self.shared.reply(id, answer);
        self.admission.answered();
    }

    fn is_full(&self) -> bool {
        self.shared.is_full()
    }
}

/// A stream's way to one of the workers.
struct WayIn {
    handle: StreamHandle,
    admitted: Arc<dyn ReplySink>,
    /// Of the frame that is being read.
    requests: Vec<Request>,
}

impl WayIn {
    fn through(admission: &Arc<AdmissionQueue>, shared: &Arc<Shared>) -> Self {
        let admitted = Arc::new(Admitted { shared: Arc::clone(shared), admission: Arc::clone(admission) });
        Self { handle: admission.open(shared.clone()), admitted, requests: Vec::new() }
    }

    fn add(&mut self, mut request: Request) {
        request.reply.sink = Arc::clone(&self.admitted);
        self.requests.push(request);
    }

    fn push(&mut self, now: Instant) {
        if !self.requests.is_empty() {
            self.handle.push(std::mem::take(&mut self.requests), now);
        }
    }
}

/// What requests of a stream pass on their way in.
pub struct Desk {
    /// The engine.
    pub worker: WorkerHandle,
    /// The way into it.
    pub admissions: Arc<AdmissionQueues>,
    /// Sizes above which a request is refused.
    pub limits: Limits,
    /// The peers, and with them the cluster's time.
    pub peers: Arc<Peers>,
    /// Where keys are whose shard has other bounds by now.
    pub whereabouts: Arc<Whereabouts>,
}

/// Serves one stream: reads requests in a task of its own, and is itself the stream of replies.
pub fn serve(
    requests: Streaming<v1::ClientFrame>,
    desk: Desk,
    memory: Memory,
) -> impl Stream<Item = Result<v1::ServerFrame, Status>> {
    let shared = Arc::new(Shared::new(memory));
    let reader = tokio::spawn(read(requests, desk, shared.clone()));
    Replies { shared, reader }
}

async fn read(mut requests: Streaming<v1::ClientFrame>, desk: Desk, shared: Arc<Shared>) {
    let Desk { worker, admissions, limits, .. } = &desk;
    let most = limits.session_requests_max as usize;
    let mut ways: Vec<WayIn> = admissions.all().iter().map(|admission| WayIn::through(admission, &shared)).collect();
    loop {
        while shared.is_busy(most) {
            shared.room.notified().await;
        }
        // A broken stream ends like a closed one: the client asks again elsewhere under the same ids.
        let Ok(Some(frame)) = requests.message().await else { break };
        shared.begun(frame.requests.len(), frame.encoded_len());
        let mut batch: Vec<Request> =
            frame.requests.into_iter().filter_map(|request| admit(request, &desk, &shared)).collect();
        let polls = batch.extract_if(.., |request| admission::waits(request)).collect();
        let polls = let_wait(polls, limits, &shared);
        if !polls.is_empty()
            && let Err(Input::Requests(refused)) = worker.try_push(Input::Requests(polls))
        {
            for request in refused {
                request.reply.send(Err(Refusal::Overloaded));
            }
        }
        for request in batch {
            ways[admissions.index_of(&request)].add(request);
        }
        let now = Instant::now();
        ways.iter_mut().for_each(|way| way.push(now));
    }
    shared.no_more.store(true, Ordering::Release);
    shared.waker.wake();
}

/// Takes tails off the requests under way, since they wait by design; too many of them are refused.
fn let_wait(polls: Vec<Request>, limits: &Limits, shared: &Arc<Shared>) -> Vec<Request> {
    let admit = |mut poll: Request| match Waiting::admit(shared, &poll, limits) {
        Ok(waiting) => {
            shared.ended(1, waiting.bytes);
            poll.reply.sink = waiting;
            Some(poll)
        }
        Err(why) => {
            poll.reply.send(Err(why));
            None
        }
    };
    polls.into_iter().filter_map(admit).collect()
}

/// Turns a wire request into the worker's, or answers it here.
fn admit(request: v1::ShardRequest, desk: &Desk, shared: &Arc<Shared>) -> Option<Request> {
    let Desk { limits, peers, whereabouts, .. } = desk;
    let id = request.id;
    let answer = |body| {
        shared.push(v1::ShardReply { id, body: Some(body) });
        None
    };
    if let Some(moved) = whereabouts.moved(&request) {
        return answer(v1::shard_reply::Body::Error(moved));
    }
    match request.body {
        None => answer(v1::shard_reply::Body::Error(convert::invalid("body", "is missing"))),
        Some(v1::shard_request::Body::Clock(_)) => answer(v1::shard_reply::Body::ClockUs(peers.cluster_time_us())),
        Some(body) => match convert::body(body, limits) {
            Err(error) => answer(v1::shard_reply::Body::Error(error)),
            Ok(body) => {
                let reply = Reply { sink: shared.clone(), id };
                Some(Request { shard: ShardId(request.shard), version: Some(request.version), body, reply })
            }
        },
    }
}

/// The stream of replies; dropping it ends the reader.
struct Replies {
    shared: Arc<Shared>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Stream for Replies {
    type Item = Result<v1::ServerFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = &self.shared;
        shared.waker.register(cx.waker());
        let mut ready = shared.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_empty() {
            drop(ready);
            let left = shared.tails.load(Ordering::Acquire) + shared.under_way.load(Ordering::Acquire);
            let done = left == 0 && shared.no_more.load(Ordering::Acquire);
            return if done { Poll::Ready(None) } else { Poll::Pending };
        }
        let count = frame_len(&ready);
        let rest = ready.split_off(count);
        let replies = std::mem::replace(&mut *ready, rest);
        drop(ready);
        shared.sent(&replies);
        Poll::Ready(Some(Ok(v1::ServerFrame { replies })))
    }
}

/// How many of the ready replies make a frame.
fn frame_len(ready: &[v1::ShardReply]) -> usize {
    let mut bytes = 0;
    let mut count = 0;
    for reply in ready.iter().take(FRAME_REPLIES_MAX) {
        bytes += reply_bytes(reply);
        if count > 0 && bytes > FRAME_BYTES_MAX {
            break;
        }
        count += 1;
    }
    count
}

fn reply_bytes(reply: &v1::ShardReply) -> usize {
    match &reply.body {
        Some(v1::shard_reply::Body::Page(page)) => 32 + page.records.iter().map(record_bytes).sum::<usize>(),
        Some(v1::shard_reply::Body::Tail(tail)) => 32 + tail.records.iter().map(record_bytes).sum::<usize>(),
        Some(v1::shard_reply::Body::Get(get)) => get.record.as_ref().map_or(32, record_bytes),
        Some(v1::shard_reply::Body::Write(write)) => 32 + write.results.len() * size_of::<v1::OpResult>(),
        _ => 32,
    }
}

/// What a record takes while it waits: its parts, and what holds them.
fn record_bytes(record: &v1::Record) -> usize {
    let headers = record.headers.iter().map(|h| h.name.len() + h.value.len() + size_of::<v1::Header>());
    record.key.len() + record.value.len() + headers.sum::<usize>() + size_of::<v1::Record>()
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
