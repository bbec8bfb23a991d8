//! The worker's end of the links: messages are encoded into each peer's pending frame, a flush hands the frames over.
//!
//! Owns: pending frames, and the bounded queue to each link's task. Must never: block, hold more than
//! [`QUEUE_BYTES_MAX`] a peer, or let a frame leave before the flush that stamps it: the stamp says which write is durable.
//!
//! What finds no open link, or a full queue, is dropped and counted; consensus sends again. A frame passes one queue and
//! is taken from it by the connection itself: no timer, no task in between.

use super::counters::{PeerCounters, add};
use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use synod_engine::codec::message;
use synod_engine::ids::{Incarnation, NodeId, NodeWriteSeq, ShardId};
use synod_paxos::message::Message;
use synod_proto::peer::{Envelope, Hello, PeerFrame};
use tokio::sync::mpsc;
use tokio_stream::Stream;

/// Envelopes of one frame, bytes, unless a single message is longer.
pub const FRAME_BYTES_MAX: usize = (2 << 20) - (64 << 10);
/// Frames that may wait for one peer.
pub const QUEUE_FRAMES_MAX: usize = 256;
/// Bytes that may wait for one peer, in its queue and as many in the frames not yet flushed.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Counted for an envelope besides its message, bytes.
const ENVELOPE_BYTES: usize = 24;

/// Every peer the map names, with the way to its link.
pub(super) type Slots = BTreeMap<NodeId, Arc<Slot>>;

/// Where a peer's link hangs its queue while it is open.
#[derive(Debug, Default)]
pub(super) struct Slot {
    queue: ArcSwapOption<Queue>,
}

impl Slot {
    /// The link is open: frames may be queued. They are until the guard goes, and the queue with it.
    pub fn open(&self, queue: Queue) -> Open<'_> {
        let queue = Some(Arc::new(queue));
        self.queue.store(queue.clone());
        Open { slot: self, queue }
    }
}

/// Keeps a slot open.
pub(super) struct Open<'a> {
    slot: &'a Slot,
    queue: Option<Arc<Queue>>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // A later link may have hung its own queue here already; that one stays.
        self.slot.queue.compare_and_swap(&self.queue, None);
    }
}

/// The sending half of a link's queue.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<(usize, PeerFrame)>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The receiving half: the request stream of a `Link` call, beginning with its hello.
#[derive(Debug)]
pub(super) struct Frames {
    hello: Option<Hello>,
    receiver: mpsc::Receiver<(usize, PeerFrame)>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// A queue and the stream that empties it.
    pub fn new(hello: Hello) -> (Self, Frames) {
        let (sender, receiver) = mpsc::channel(QUEUE_FRAMES_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let frames = Frames { hello: Some(hello), receiver, waiting_bytes: Arc::clone(&waiting_bytes) };
        (Self { sender, waiting_bytes }, frames)
    }

    /// Queues a frame, or says that there is no room.
    fn push(&self, bytes: usize, frame: PeerFrame) -> bool {
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One frame always finds room, however long its only message is.
        let fits = before == 0 || before + bytes <= QUEUE_BYTES_MAX;
        let pushed = fits && self.sender.try_send((bytes, frame)).is_ok();
        if !pushed {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        pushed
    }
}

impl Stream for Frames {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        if let Some(hello) = self.hello.take() {
            let incarnation = hello.incarnation;
            return Poll::Ready(Some(PeerFrame { hello: Some(hello), incarnation, ..PeerFrame::default() }));
        }
        self.receiver.poll_recv(cx).map(|next| {
            next.map(|(bytes, frame)| {
                self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                frame
            })
        })
    }
}

/// One peer's messages since the last flush.
#[derive(Debug, Default)]
struct Pending {
    full: Vec<(usize, Vec<Envelope>)>,
    full_bytes: usize,
    envelopes: Vec<Envelope>,
    bytes: usize,
}

impl Pending {
    fn add(&mut self, envelope: Envelope) -> bool {
        let bytes = envelope.message.len() + ENVELOPE_BYTES;
        if self.full_bytes + self.bytes + bytes > QUEUE_BYTES_MAX && self.full_bytes + self.bytes > 0 {
            return false;
        }
        if self.bytes + bytes > FRAME_BYTES_MAX && !self.envelopes.is_empty() {
            self.close();
        }
        self.envelopes.push(envelope);
        self.bytes += bytes;
        true
    }

    fn close(&mut self) {
        if !self.envelopes.is_empty() {
            self.full_bytes += self.bytes;
            self.full.push((std::mem::take(&mut self.bytes), std::mem::take(&mut self.envelopes)));
        }
    }
}

/// The half of the worker's host that sends; it lives on the worker's thread.
pub struct Outbox {
    slots: Cache<Arc<ArcSwap<Slots>>, Arc<Slots>>,
    incarnation: Incarnation,
    pending: BTreeMap<NodeId, Pending>,
    scratch: BytesMut,
    counters: Arc<PeerCounters>,
}

impl Outbox {
    pub(super) fn new(slots: Arc<ArcSwap<Slots>>, incarnation: Incarnation, counters: Arc<PeerCounters>) -> Self {
        Self { slots: Cache::new(slots), incarnation, pending: BTreeMap::new(), scratch: BytesMut::new(), counters }
    }

    /// Queues a message for the next flush.
    pub fn send(&mut self, to: NodeId, shard: ShardId, message: &Message) {
        let open = self.slots.load().get(&to).is_some_and(|slot| slot.queue.load().is_some());
        if !open {
            add(&self.counters.dropped_unconnected, 1);
            return;
        }
        self.scratch.reserve(message::size_hint(message));
        message::encode_into(message, &mut self.scratch);
        let envelope = Envelope { shard: shard.0, message: self.scratch.split().freeze() };
        if !self.pending.entry(to).or_default().add(envelope) {
            add(&self.counters.dropped_full, 1);
        }
    }

    /// Hands everything queued to the links, stamped with the node's last durable write.
    pub fn flush(&mut self, durable: NodeWriteSeq) {
        let slots = self.slots.load();
        for (to, pending) in &mut self.pending {
            pending.close();
            if pending.full.is_empty() {
                continue;
            }
            pending.full_bytes = 0;
            let queue = slots.get(to).and_then(|slot| slot.queue.load_full());
            for (bytes, envelopes) in pending.full.drain(..) {
                let messages = envelopes.len() as u64;
                let frame = PeerFrame { hello: None, incarnation: self.incarnation.0, write_seq: durable.0, envelopes };
                match &queue {
                    None => add(&self.counters.dropped_unconnected, messages),
                    Some(queue) if queue.push(bytes, frame) => {
                        add(&self.counters.frames_sent, 1);
                        add(&self.counters.messages_sent, messages);
                        add(&self.counters.bytes_sent, bytes as u64);
                    }
                    Some(_) => add(&self.counters.dropped_full, messages),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};
    use synod_paxos::types::{Ballot, Entry, EntryId, Payload, Slot as LogSlot};

    fn accept(bytes: usize) -> Message {
        let id = EntryId { slot: LogSlot(1), origin: Ballot::default() };
        let entry = Entry::new(id, 1, 0, Payload::Command(Bytes::from(vec![7; bytes])));
        Message::Accept {
            ballot: Ballot::default(),
            prev: EntryId::ZERO,
            entries: vec![entry],
            commit: LogSlot(0),
            all_have: LogSlot(0),
        }
    }

    struct Rig {
        outbox: Outbox,
        slot: Arc<Slot>,
        counters: Arc<PeerCounters>,
    }

    fn rig() -> Rig {
        let slot = Arc::new(Slot::default());
        let slots = Arc::new(ArcSwap::from_pointee(Slots::from([(NodeId(2), Arc::clone(&slot))])));
        let counters = Arc::new(PeerCounters::default());
        Rig { outbox: Outbox::new(slots, Incarnation(5), Arc::clone(&counters)), slot, counters }
    }

    #[test]
    fn frames_carry_messages_in_order_and_the_stamp_of_their_flush() {
        let mut rig = rig();
        let (queue, mut frames) = Queue::new(Hello { incarnation: 5, ..Hello::default() });
        let open = rig.slot.open(queue);
        let ask = |n| Message::ReadProbe { ballot: Ballot::default(), probe: n };
        rig.outbox.send(NodeId(2), ShardId(1), &ask(1));
        rig.outbox.send(NodeId(2), ShardId(7), &ask(2));
        rig.outbox.flush(NodeWriteSeq(40));
        rig.outbox.flush(NodeWriteSeq(41));
        rig.outbox.send(NodeId(2), ShardId(1), &ask(3));
        rig.outbox.flush(NodeWriteSeq(42));
        let mut next = || frames.next().now_or_never().flatten();
        assert!(next().unwrap().hello.is_some());
        let first = next().unwrap();
        assert_eq!((first.incarnation, first.write_seq, first.envelopes.len()), (5, 40, 2));
        assert_eq!(first.envelopes[1].shard, 7);
        assert_eq!(message::decode(first.envelopes[1].message.clone()), Ok(ask(2)));
        assert_eq!(next().unwrap().write_seq, 42);
        assert!(next().is_none());
        drop(open);
        rig.outbox.send(NodeId(2), ShardId(1), &ask(4));
        rig.outbox.send(NodeId(9), ShardId(1), &ask(5));
        rig.outbox.flush(NodeWriteSeq(43));
        assert_eq!(rig.counters.dropped_unconnected.get(), 2);
        assert_eq!(rig.counters.messages_sent.get(), 3);
    }

    #[test]
    fn frames_are_split_and_the_queue_is_bounded() {
        let mut rig = rig();
        let (queue, mut frames) = Queue::new(Hello::default());
        let _open = rig.slot.open(queue);
        let message = accept(1 << 20);
        for _ in 0..5 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
        }
        rig.outbox.send(NodeId(2), ShardId(1), &accept(5 << 20));
        rig.outbox.flush(NodeWriteSeq(1));
        let mut sizes = Vec::new();
        while let Some(Some(frame)) = frames.next().now_or_never() {
            sizes.push(frame.envelopes.iter().map(|e| e.message.len() >> 20).sum::<usize>());
        }
        assert_eq!(sizes, [0, 1, 1, 1, 1, 1, 5]);
        for _ in 0..100 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
        }
        rig.outbox.flush(NodeWriteSeq(2));
        for _ in 0..100 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
            rig.outbox.flush(NodeWriteSeq(3));
        }
        let mut bytes = 0;
        while let Some(Some(frame)) = frames.next().now_or_never() {
            bytes += frame.envelopes.iter().map(|e| e.message.len()).sum::<usize>();
        }
        assert!(bytes > QUEUE_BYTES_MAX / 2 && bytes <= QUEUE_BYTES_MAX, "{bytes} bytes were queued");
        assert!(rig.counters.dropped_full.get() >= 160);
        rig.outbox.send(NodeId(2), ShardId(1), &message);
        rig.outbox.flush(NodeWriteSeq(4));
        assert!(frames.next().now_or_never().flatten().is_some(), "an emptied queue takes frames again");
    }
}
