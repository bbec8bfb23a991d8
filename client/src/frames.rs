//! One connection's requests on their way out and the callers that wait for their answers.
//!
//! Owns: the numbering of a stream's requests, the batching of what is queued into frames, and the waiting callers. Must
//! never: hold a request back by a timer or for a number of others. What gathered while the last frame was being sent is the
//! next frame; and where many callers are at work, those that the last answers woke have their turn before it is made, since
//! one frame costs both ends as much as dozens of requests.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::Stream;
use synod_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep};

use crate::flow::Flow;

/// The body of a request.
pub(crate) type Ask = v1::shard_request::Body;
/// The body of its answer.
pub(crate) type Answer = v1::shard_reply::Body;

/// A request waiting to be sent.
pub(crate) struct Outgoing {
    pub(crate) shard: u64,
    pub(crate) version: u64,
    pub(crate) body: Ask,
    /// About its encoded length.
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<Answer>,
    /// Set before the request can leave; never unset.
    pub(crate) sent: Option<Arc<AtomicBool>>,
}

impl Outgoing {
    /// Whether the caller still waits; if so the request counts as sent from here on. The fence pairs with the one in
    /// [`was_sent`]: either this sees that the caller left, or the caller sees the flag.
    fn leaves(&self) -> bool {
        if let Some(sent) = &self.sent {
            sent.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        !self.reply.is_closed()
    }
}

/// Whether a request whose receiver was closed or dropped before this call may have left.
pub(crate) fn was_sent(sent: &AtomicBool) -> bool {
    fence(Ordering::SeqCst);
    sent.load(Ordering::Relaxed)
}

/// The callers of one stream by request number.
#[derive(Default)]
pub(crate) struct Waiting {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    closed: bool,
    answered_at: Option<Instant>,
    /// Of the requests that do not wait at the node by design.
    flow: Flow,
    /// The connection waits for room in the flow.
    full: Option<Waker>,
    /// Once this many wait, those that gave up are cleared out.
    sweep_at: usize,
}

#[derive(Default)]
struct Slot {
    /// How often the slot was used: an answer to an earlier use finds nobody.
    uses: u32,
    caller: Option<oneshot::Sender<Answer>>,
    /// Whether it counts in the flow.
    flows: bool,
}

const SWEEP_MIN: usize = 4096;

/// How often callers that gave up are cleared out while the flow is full.
const CLEAR_OUT: Duration = Duration::from_millis(100);

/// Callers on one stream from which on frames are gathered.
const CROWD: usize = 4;

impl Slots {
    fn insert(&mut self, caller: oneshot::Sender<Answer>, flows: bool) -> u64 {
        if self.slots.len() - self.free.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.sweep();
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.caller = Some(caller);
        slot.flows = flows;
        if flows {
            self.flow.begun();
        }
        u64::from(slot.uses) << 32 | u64::from(index)
    }

    fn take(&mut self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let index = id as u32;
        let slot = self.slots.get_mut(index as usize).filter(|s| u64::from(s.uses) == id >> 32)?;
        let caller = slot.caller.take()?;
        if slot.flows {
            self.flow.over();
        }
        self.free.push(index);
        Some(caller)
    }

    fn sweep(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.caller.as_ref().is_some_and(oneshot::Sender::is_closed) {
                slot.caller = None;
                if slot.flows {
                    self.flow.over();
                }
                self.free.push(index as u32);
            }
        }
        self.sweep_at = 2 * (self.slots.len() - self.free.len());
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands answers to their callers; one that gave up is passed over.
    pub(crate) fn answer(&self, replies: Vec<v1::ShardReply>) {
        let mut ready = Vec::with_capacity(replies.len());
        let room = {
            let mut slots = self.lock();
            let now = Instant::now();
            slots.answered_at = Some(now);
            let mut refused = 0;
            for rest in replies.iter().filter_map(overloaded) {
                slots.flow.refused(now, rest);
                refused += 1;
            }
            slots.flow.answered(replies.len() - refused);
            for reply in replies {
                if let (Some(caller), Some(body)) = (slots.take(reply.id), reply.body) {
                    ready.push((caller, body));
                }
            }
            if slots.flow.is_full() { None } else { slots.full.take() }
        };
        for (caller, body) in ready {
            let _ = caller.send(body);
        }
        if let Some(connection) = room {
            connection.wake();
        }
    }

    /// Fails every caller and takes no more.
    pub(crate) fn close(&self) {
        let mut slots = self.lock();
        slots.closed = true;
        slots.slots.clear();
        slots.free.clear();
    }

    /// Whether there was an answer within this time.
    pub(crate) fn has_answered(&self, within: Duration) -> bool {
        self.lock().answered_at.is_some_and(|at| at.elapsed() < within)
    }

    /// How many callers wait.
    fn len(&self) -> usize {
        let slots = self.lock();
        slots.slots.len() - slots.free.len()
    }
}

/// How long to send nothing to a node that refused a request as overloaded. A refusal for this request only does not stop others.
fn overloaded(reply: &v1::ShardReply) -> Option<Duration> {
    match &reply.body {
        Some(Answer::Error(v1::Error { kind: Some(v1::error::Kind::Overloaded(why)), .. })) if !why.this_only => {
            Some(Duration::from_millis(why.retry_after_ms.into()))
        }
        _ => None,
    }
}

/// Whether a request waits at the node by design, for news: it takes up no room.
fn waits(body: &Ask) -> bool {
    matches!(body, Ask::Tail(_))
}

/// What the queue gave.
enum Made {
    Frame(Vec<v1::ShardRequest>),
    /// Every caller had given up.
    Nothing,
    /// The node has as many requests as it can take, or asked for a rest until then.
    Full(Option<Instant>),
    /// The stream is over.
    Over,
}

/// The request side of a session stream: polled by the connection whenever it can send.
pub(crate) struct Frames {
    queue: mpsc::Receiver<Outgoing>,
    taken: VecDeque<Outgoing>,
    scratch: Vec<Outgoing>,
    waiting: Arc<Waiting>,
    max_requests: usize,
    max_bytes: usize,
    /// The callers that are ready to run had their turn since the last frame.
    gave_way: bool,
    /// While the flow is full: when to clear out callers that gave up, so that a group without a quorum does not keep the
    /// room of others.
    clear_out: Option<Pin<Box<Sleep>>>,
}

impl Frames {
    pub(crate) fn new(
        queue: mpsc::Receiver<Outgoing>,
        waiting: Arc<Waiting>,
        max_requests: usize,
        max_bytes: usize,
    ) -> Frames {
        Frames {
            queue,
            taken: VecDeque::new(),
            scratch: Vec::new(),
            waiting,
            max_requests,
            max_bytes,
            gave_way: false,
            clear_out: None,
        }
    }

    /// Whether more callers are at work than those whose requests were taken, so that more may come at once.
    fn is_crowded(&self) -> bool {
        self.taken.len() + self.waiting.len() >= CROWD
    }

    /// Whether it was time to clear out, and is done; else the connection is woken when it is.
    fn clears_out(&mut self, cx: &mut Context<'_>, rests_until: Option<Instant>) -> bool {
        let until = rests_until.map_or(CLEAR_OUT, |at| at.saturating_duration_since(Instant::now()).min(CLEAR_OUT));
        let timer = self.clear_out.get_or_insert_with(|| Box::pin(sleep(until)));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.clear_out = None;
        self.waiting.lock().sweep();
        true
    }

    /// The next frame out of what was taken from the queue.
    fn frame(&mut self, cx: &Context<'_>) -> Made {
        let mut requests = Vec::with_capacity(self.taken.len().min(self.max_requests));
        let mut bytes = 0;
        let mut slots = self.waiting.lock();
        if slots.closed {
            return Made::Over;
        }
        while let Some(next) = self.taken.front() {
            let flows = !waits(&next.body);
            if requests.len() == self.max_requests || (!requests.is_empty() && bytes + next.bytes > self.max_bytes) {
                break;
            }
            if flows && slots.flow.is_full() {
                if requests.is_empty() {
                    slots.full = Some(cx.waker().clone());
                    return Made::Full(slots.flow.rests_until());
                }
                break;
            }
            let Some(next) = self.taken.pop_front() else { break };
            if !next.leaves() {
                continue;
            }
            bytes += next.bytes;
            let id = slots.insert(next.reply, flows);
            requests.push(v1::ShardRequest { id, shard: next.shard, version: next.version, body: Some(next.body) });
        }
        if requests.is_empty() { Made::Nothing } else { Made::Frame(requests) }
    }
}

impl Stream for Frames {
    type Item = v1::ClientFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::ClientFrame>> {
        let this = &mut *self;
        loop {
            let room = this.max_requests.saturating_sub(this.taken.len());
            if room > 0 {
                match this.queue.poll_recv_many(cx, &mut this.scratch, room) {
                    Poll::Ready(0) if this.taken.is_empty() => return Poll::Ready(None),
                    Poll::Pending if this.taken.is_empty() => return Poll::Pending,
                    _ => this.taken.extend(this.scratch.drain(..)),
                }
            }
            if !this.gave_way && this.taken.len() < this.max_requests && this.is_crowded() {
                // Woken while it runs, a task goes to the end of the queue, behind every caller that is ready.
                this.gave_way = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.gave_way = false;
            match this.frame(cx) {
                Made::Over => return Poll::Ready(None),
                Made::Nothing => continue,
                Made::Full(rests_until) if this.clears_out(cx, rests_until) => continue,
                Made::Full(_) => return Poll::Pending,
                Made::Frame(requests) => return Poll::Ready(Some(v1::ClientFrame { requests })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(tx: &mpsc::Sender<Outgoing>, bytes: usize) -> (oneshot::Receiver<Answer>, Arc<AtomicBool>) {
        let (reply, receiver) = oneshot::channel();
        let sent = Arc::new(AtomicBool::new(false));
        let outgoing =
            Outgoing { shard: 1, version: 1, body: Ask::Clock(true), bytes, reply, sent: Some(sent.clone()) };
        assert!(tx.try_send(outgoing).is_ok());
        (receiver, sent)
    }

    fn setup(max_requests: usize, max_bytes: usize) -> (mpsc::Sender<Outgoing>, Frames, Arc<Waiting>) {
        let (tx, rx) = mpsc::channel(256);
        let waiting = Arc::new(Waiting::default());
        (tx, Frames::new(rx, waiting.clone(), max_requests, max_bytes), waiting)
    }

    /// Polls as a connection does: again when woken.
    fn poll_once(frames: &mut Frames) -> Poll<Option<v1::ClientFrame>> {
        let (waker, woken) = flag_waker();
        loop {
            let polled = Pin::new(&mut *frames).poll_next(&mut Context::from_waker(&waker));
            if polled.is_ready() || !woken.swap(false, Ordering::Relaxed) {
                return polled;
            }
        }
    }

    fn flag_waker() -> (std::task::Waker, Arc<AtomicBool>) {
        struct Flag(Arc<AtomicBool>);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let woken = Arc::new(AtomicBool::new(false));
        (std::task::Waker::from(Arc::new(Flag(woken.clone()))), woken)
    }

    fn sizes(frames: &mut Frames) -> Vec<usize> {
        let mut out = Vec::new();
        while let Poll::Ready(Some(frame)) = poll_once(frames) {
            out.push(frame.requests.len());
        }
        out
    }

    #[test]
    fn what_is_queued_is_one_frame_up_to_the_limits() {
        let (tx, mut frames, _waiting) = setup(4, 100);
        let _kept: Vec<_> = (0..6).map(|_| ask(&tx, 10)).collect();
        assert_eq!(sizes(&mut frames), [4, 2]);
        let _kept: Vec<_> = [60, 60, 500, 1, 1].map(|n| ask(&tx, n)).into_iter().collect();
        assert_eq!(sizes(&mut frames), [1, 1, 1, 2]);
    }

    #[test]
    fn where_many_are_at_work_those_that_are_ready_come_along() {
        let (tx, mut frames, waiting) = setup(64, 1000);
        let polled = |frames: &mut Frames, woken: bool| {
            let (waker, flag) = flag_waker();
            let polled = Pin::new(frames).poll_next(&mut Context::from_waker(&waker));
            assert_eq!(flag.load(Ordering::Relaxed), woken);
            polled
        };
        // Three callers: the first of them does not wait for the others.
        let mut kept: Vec<_> = (0..3).map(|_| ask(&tx, 1)).collect();
        assert!(matches!(polled(&mut frames, false), Poll::Ready(Some(frame)) if frame.requests.len() == 3));
        // With the fourth they are many: whoever is ready has its turn, once.
        kept.push(ask(&tx, 1));
        assert!(polled(&mut frames, true).is_pending());
        kept.push(ask(&tx, 1));
        assert!(matches!(polled(&mut frames, false), Poll::Ready(Some(frame)) if frame.requests.len() == 2));
        assert!(polled(&mut frames, false).is_pending());
        assert_eq!(waiting.len(), 5);
    }

    fn overloaded(id: u64) -> v1::ShardReply {
        let kind = v1::error::Kind::Overloaded(v1::Overloaded { retry_after_ms: 20, this_only: false });
        v1::ShardReply { id, body: Some(Answer::Error(v1::Error { kind: Some(kind), ..Default::default() })) }
    }

    #[tokio::test]
    async fn a_refusal_holds_requests_back_until_answers_make_room() {
        let (tx, mut frames, waiting) = setup(200, 1000);
        let mut kept: Vec<_> = (0..100).map(|_| ask(&tx, 1)).collect();
        let Poll::Ready(Some(frame)) = poll_once(&mut frames) else { panic!("no frame") };
        let ids: Vec<u64> = frame.requests.iter().map(|r| r.id).collect();
        waiting.answer(vec![overloaded(ids[0])]);
        // Three quarters of the 100 may be under way: 99 are.
        kept.push(ask(&tx, 1));
        assert!(poll_once(&mut frames).is_pending());
        // The rest that the node asked for.
        sleep(Duration::from_millis(20)).await;
        let done = |ids: &[u64]| {
            waiting.answer(ids.iter().map(|id| v1::ShardReply { id: *id, body: Some(Answer::ClockUs(1)) }).collect())
        };
        done(&ids[1..25]);
        assert!(poll_once(&mut frames).is_pending(), "75 are under way");
        done(&ids[25..26]);
        assert_eq!(sizes(&mut frames), [1]);
        // Callers that gave up make room even when nothing is answered.
        kept.drain(26..).for_each(drop);
        let _next = ask(&tx, 1);
        assert!(poll_once(&mut frames).is_pending());
        sleep(CLEAR_OUT * 2).await;
        assert_eq!(sizes(&mut frames), [1]);
    }

    #[test]
    fn who_gave_up_is_not_sent() {
        let (tx, mut frames, waiting) = setup(4, 100);
        let (gone, _) = ask(&tx, 1);
        drop(gone);
        let (_kept, sent) = ask(&tx, 1);
        assert!(!was_sent(&sent));
        assert_eq!(sizes(&mut frames), [1]);
        assert!(was_sent(&sent));
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn answers_find_their_callers_in_any_order_and_once() {
        let (tx, mut frames, waiting) = setup(4, 100);
        let (mut a, _) = ask(&tx, 1);
        let (mut b, _) = ask(&tx, 1);
        let Poll::Ready(Some(frame)) = poll_once(&mut frames) else { panic!("no frame") };
        let ids: Vec<u64> = frame.requests.iter().map(|r| r.id).collect();
        let reply = |id, us| v1::ShardReply { id, body: Some(Answer::ClockUs(us)) };
        waiting.answer(vec![reply(ids[1], 2)]);
        assert!(a.try_recv().is_err());
        assert_eq!(b.try_recv(), Ok(Answer::ClockUs(2)));
        // The slot's next user does not get the late double of the first answer.
        let (mut c, _) = ask(&tx, 1);
        assert_eq!(sizes(&mut frames), [1]);
        waiting.answer(vec![reply(ids[1], 3), reply(ids[0], 1), reply(99, 9)]);
        assert!(c.try_recv().is_err());
        assert_eq!(a.try_recv(), Ok(Answer::ClockUs(1)));
    }

    #[test]
    fn closing_fails_everyone_and_ends_the_stream() {
        let (tx, mut frames, waiting) = setup(4, 100);
        let (mut a, _) = ask(&tx, 1);
        assert_eq!(sizes(&mut frames), [1]);
        let (_b, sent) = ask(&tx, 1);
        waiting.close();
        assert_eq!(a.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(poll_once(&mut frames), Poll::Ready(None)));
        assert!(!was_sent(&sent));
    }

    #[test]
    fn callers_that_gave_up_do_not_pile_up() {
        let mut slots = Slots::default();
        for _ in 0..3 * SWEEP_MIN {
            let (caller, receiver) = oneshot::channel();
            slots.insert(caller, true);
            drop(receiver);
        }
        assert!(slots.slots.len() <= SWEEP_MIN + 1, "{}", slots.slots.len());
    }
}
