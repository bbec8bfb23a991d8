//! The worker's end of the links: messages are encoded into each peer's pending frame, a flush writes the frames.
//!
//! Owns: pending frames. Must never: block, hold more than `QUEUE_BYTES_MAX` a peer, or let a frame leave before the flush
//! that stamps it: the stamp says which write is durable.
//!
//! What finds no open link, or one with too much waiting, is dropped and counted. What found no room is told to the worker too, by
//! peer and shard: consensus sends nothing again because it waits. All that a turn of the worker has for a peer leaves in one
//! write, by the worker itself (`pipe`): no queue, no task in between.

use super::counters::{PeerCounters, add};
use super::pipe::{Pipe, QUEUE_BYTES_MAX, Sent};
use super::wire;
use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use bytes::{BufMut, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq, ShardId};
use synod_engine::codec::message;
use synod_paxos::message::Message;
use synod_proto::peer::{Envelope, PeerFrame};

/// Envelopes of one frame, bytes, unless a single message is longer.
pub const FRAME_BYTES_MAX: usize = (2 << 20) - (64 << 10);
/// Room that a pending frame keeps for the next.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// The number of `PeerFrame.envelopes`: they are encoded one by one, each when its message is sent.
const ENVELOPES: u32 = 4;

/// Every peer the map names, with the way to its link.
pub(super) type Slots = BTreeMap<NodeId, Arc<Slot>>;

/// Where a peer's link hangs its socket while it is open.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pipe: ArcSwapOption<Pipe>,
}

impl Slot {
    /// The link is open: frames may be sent. They are until the guard goes.
    pub fn open(&self, pipe: Arc<Pipe>) -> Open<'_> {
        let pipe = Some(pipe);
        self.pipe.store(pipe.clone());
        Open { slot: self, pipe }
    }
}

/// Keeps a slot open.
pub(super) struct Open<'a> {
    slot: &'a Slot,
    pipe: Option<Arc<Pipe>>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // A later link may have hung its own socket here already; that one stays.
        self.slot.pipe.compare_and_swap(&self.pipe, None);
    }
}

/// Encoded envelopes.
#[derive(Debug, Default)]
struct Batch {
    envelopes: BytesMut,
    messages: u64,
    /// Whose they are, in order; neighbours differ.
    shards: Vec<ShardId>,
}

impl Batch {
    fn add(&mut self, shard: ShardId, message: &[u8]) {
        let head = Envelope { shard: shard.0, message: bytes::Bytes::new() };
        let length = head.encoded_len() + 1 + encoded_len_varint(message.len() as u64) + message.len();
        let out = &mut self.envelopes;
        encode_key(ENVELOPES, WireType::LengthDelimited, out);
        encode_varint(length as u64, out);
        head.encode_raw(out);
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(message.len() as u64, out);
        out.put_slice(message);
        self.messages += 1;
        if self.shards.last() != Some(&shard) {
            self.shards.push(shard);
        }
    }
}

/// One peer's messages since the last flush.
#[derive(Debug, Default)]
struct Pending {
    full: Vec<Batch>,
    full_bytes: usize,
    last: Batch,
}

impl Pending {
    /// Takes a message, or says that there is no room.
    fn add(&mut self, shard: ShardId, message: &[u8]) -> bool {
        let before = self.full_bytes + self.last.envelopes.len();
        if before > 0 && before + message.len() > QUEUE_BYTES_MAX {
            return false;
        }
        if self.last.messages > 0 && self.last.envelopes.len() + message.len() > FRAME_BYTES_MAX {
            self.full_bytes += self.last.envelopes.len();
            self.full.push(std::mem::take(&mut self.last));
        }
        self.last.add(shard, message);
        true
    }

    fn emptied(&mut self) {
        self.full.clear();
        self.full_bytes = 0;
        self.last.messages = 0;
        self.last.envelopes.clear();
        self.last.shards.clear();
        if self.last.envelopes.capacity() > KEPT_BYTES_MAX {
            self.last.envelopes = BytesMut::new();
        }
    }
}

/// The half of the worker's host that sends; it lives on the worker's thread.
pub struct Outbox {
    slots: Cache<Arc<ArcSwap<Slots>>, Arc<Slots>>,
    incarnation: Incarnation,
    pending: BTreeMap<NodeId, Pending>,
    /// What found no room since the worker last asked.
    dropped: BTreeSet<(NodeId, ShardId)>,
    scratch: BytesMut,
    head: Vec<u8>,
    counters: Arc<PeerCounters>,
}

impl Outbox {
    pub(super) fn new(slots: Arc<ArcSwap<Slots>>, incarnation: Incarnation, counters: Arc<PeerCounters>) -> Self {
        let (pending, scratch, head) = (BTreeMap::new(), BytesMut::new(), Vec::new());
        let dropped = BTreeSet::new();
        Self { slots: Cache::new(slots), incarnation, pending, dropped, scratch, head, counters }
    }

    /// To which peers messages of which shards found no room since this was last asked.
    pub fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        std::mem::take(&mut self.dropped).into_iter().collect()
    }

    /// Queues a message for the next flush.
    pub fn send(&mut self, to: NodeId, shard: ShardId, message: &Message) {
        let open = self.slots.load().get(&to).is_some_and(|slot| slot.pipe.load().is_some());
        if !open {
            add(&self.counters.dropped_unconnected, 1);
            return;
        }
        self.scratch.clear();
        self.scratch.reserve(message::size_hint(message));
        message::encode_into(message, &mut self.scratch);
        if !self.pending.entry(to).or_default().add(shard, &self.scratch) {
            add(&self.counters.dropped_full, 1);
            self.dropped.insert((to, shard));
        }
        if self.scratch.capacity() > KEPT_BYTES_MAX {
            self.scratch = BytesMut::new();
        }
    }

    /// Sends everything queued, stamped with the node's last durable write.
    pub fn flush(&mut self, durable: NodeWriteSeq) {
        let slots = self.slots.load();
        for (to, pending) in &mut self.pending {
            if pending.last.messages == 0 {
                continue;
            }
            let pipe = slots.get(to).and_then(|slot| slot.pipe.load_full());
            for Batch { envelopes, messages, shards } in pending.full.iter().chain([&pending.last]) {
                let head = PeerFrame { incarnation: self.incarnation.0, write_seq: durable.0, ..PeerFrame::default() };
                self.head.clear();
                wire::begin_frame(&mut self.head, &head, envelopes.len());
                match pipe.as_ref().map(|pipe| pipe.send(&self.head, envelopes)) {
                    None | Some(Sent::Broken) => add(&self.counters.dropped_unconnected, *messages),
                    Some(Sent::Full) => {
                        add(&self.counters.dropped_full, *messages);
                        self.dropped.extend(shards.iter().map(|shard| (*to, *shard)));
                    }
                    Some(Sent::Taken) => {
                        add(&self.counters.frames_sent, 1);
                        add(&self.counters.messages_sent, *messages);
                        add(&self.counters.bytes_sent, envelopes.len() as u64);
                    }
                }
            }
            pending.emptied();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipe::QUEUE_FRAMES_MAX;
    use super::*;
    use bytes::Bytes;
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::{Duration, Instant};
    use synod_paxos::types::{Ballot, Entry, EntryId, Payload, Slot as LogSlot};
    use tokio::runtime::Runtime;

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
        runtime: Runtime,
    }

    fn rig() -> Rig {
        let slot = Arc::new(Slot::default());
        let slots = Arc::new(ArcSwap::from_pointee(Slots::from([(NodeId(2), Arc::clone(&slot))])));
        let counters = Arc::new(PeerCounters::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Rig { outbox: Outbox::new(slots, Incarnation(5), Arc::clone(&counters)), slot, counters, runtime }
    }

    /// What a peer reads.
    struct Reader {
        stream: TcpStream,
        frames: wire::Frames,
    }

    impl Reader {
        /// The next frame; `None` where none comes.
        fn next(&mut self) -> Option<PeerFrame> {
            let mut some = vec![0; 1 << 20];
            loop {
                if let Some(frame) = self.frames.take(16 << 20).unwrap() {
                    return Some(frame);
                }
                match self.stream.read(&mut some) {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => self.frames.extend(&some[..read]),
                }
            }
        }
    }

    impl Rig {
        /// An open link, as long as the pipe is carried.
        fn link(&self) -> (Arc<Pipe>, Reader) {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            here.set_nonblocking(true).unwrap();
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let _entered = self.runtime.enter();
            let (from, to) = tokio::net::TcpStream::from_std(here).unwrap().into_split();
            let pipe = Arc::new(Pipe::new(to));
            let carried = Arc::clone(&pipe);
            self.runtime.spawn(async move {
                let _open = from;
                carried.carry().await
            });
            (pipe, Reader { stream, frames: wire::Frames::default() })
        }
    }

    #[test]
    fn frames_carry_messages_in_order_and_the_stamp_of_their_flush() {
        let mut rig = rig();
        let (pipe, mut reader) = rig.link();
        let slot = Arc::clone(&rig.slot);
        let open = slot.open(pipe);
        let ask = |n| Message::ReadProbe { ballot: Ballot::default(), probe: n };
        rig.outbox.send(NodeId(2), ShardId(1), &ask(1));
        rig.outbox.send(NodeId(2), ShardId(7), &ask(2));
        rig.outbox.flush(NodeWriteSeq(40));
        rig.outbox.flush(NodeWriteSeq(41));
        rig.outbox.send(NodeId(2), ShardId(1), &ask(3));
        assert_eq!(reader.next().unwrap().write_seq, 40, "the third waits for its flush");
        assert!(reader.next().is_none());
        rig.outbox.send(NodeId(2), ShardId(300), &accept(70_000));
        rig.outbox.flush(NodeWriteSeq(42));
        let frame = reader.next().unwrap();
        assert_eq!((frame.incarnation, frame.write_seq, frame.envelopes.len()), (5, 42, 2));
        assert_eq!((frame.envelopes[0].shard, frame.envelopes[1].shard), (1, 300));
        assert_eq!(message::decode(frame.envelopes[0].message.clone()), Ok(ask(3)));
        assert_eq!(message::decode(frame.envelopes[1].message.clone()), Ok(accept(70_000)));
        drop(open);
        rig.outbox.send(NodeId(2), ShardId(1), &ask(4));
        rig.outbox.send(NodeId(9), ShardId(1), &ask(5));
        rig.outbox.flush(NodeWriteSeq(43));
        assert!(reader.next().is_none());
        assert_eq!(rig.counters.dropped_unconnected.get(), 2);
        assert_eq!((rig.counters.messages_sent.get(), rig.counters.frames_sent.get()), (4, 2));
    }

    #[test]
    fn frames_are_split_and_what_waits_is_bounded() {
        let mut rig = rig();
        let (pipe, mut reader) = rig.link();
        let slot = Arc::clone(&rig.slot);
        let _open = slot.open(Arc::clone(&pipe));
        let message = accept(1 << 20);
        for _ in 0..5 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
        }
        rig.outbox.send(NodeId(2), ShardId(1), &accept(5 << 20));
        rig.outbox.flush(NodeWriteSeq(1));
        let sizes: Vec<usize> =
            (0..6).map(|_| reader.next().unwrap().envelopes.iter().map(|e| e.message.len() >> 20).sum()).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 5]);
        assert_eq!(rig.outbox.dropped(), []);
        // Nobody reads.
        let began = Instant::now();
        for _ in 0..100 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
        }
        assert!(rig.counters.dropped_full.get() >= 60, "bounded before the flush too");
        assert_eq!(rig.outbox.dropped(), [(NodeId(2), ShardId(1))]);
        rig.outbox.flush(NodeWriteSeq(2));
        for n in 0..100 {
            rig.outbox.send(NodeId(2), ShardId(1), &message);
            rig.outbox.flush(NodeWriteSeq(3 + n));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the worker never waits: {:?}", began.elapsed());
        assert!(pipe.progress().0 <= QUEUE_BYTES_MAX, "{} bytes wait", pipe.progress().0);
        let dropped = rig.counters.dropped_full.get();
        assert!(dropped >= 140, "{dropped} dropped");
        // The kernel may still take a frame that waited, and so make room for another.
        let (mut sent, mut told) = (200, Vec::new());
        while !told.contains(&(NodeId(2), ShardId(7))) && sent < 264 {
            rig.outbox.send(NodeId(2), ShardId(7), &message);
            rig.outbox.flush(NodeWriteSeq(sent));
            told.extend(rig.outbox.dropped());
            sent += 1;
        }
        assert_eq!(told, [(NodeId(2), ShardId(1)), (NodeId(2), ShardId(7))], "by the flush too");
        assert_eq!(rig.outbox.dropped(), [], "told once");
        let dropped = rig.counters.dropped_full.get();
        // Read again, all that was not dropped comes, whole and in order.
        let mut seqs = Vec::new();
        while let Some(frame) = reader.next() {
            assert_eq!(message::decode(frame.envelopes[0].message.clone()).as_ref(), Ok(&message));
            seqs.push(frame.write_seq);
        }
        assert!(seqs.is_sorted(), "{seqs:?}");
        assert_eq!(seqs.len() as u64 + dropped, sent);
        rig.outbox.send(NodeId(2), ShardId(1), &message);
        rig.outbox.flush(NodeWriteSeq(999));
        assert_eq!(reader.next().unwrap().write_seq, 999, "an emptied link takes frames again");
    }

    #[test]
    fn small_frames_that_wait_are_bounded_by_their_number_and_a_broken_link_takes_none() {
        let mut rig = rig();
        let (pipe, reader) = rig.link();
        let slot = Arc::clone(&rig.slot);
        let _open = slot.open(Arc::clone(&pipe));
        while pipe.progress().0 == 0 {
            assert_eq!(pipe.send(&[], &vec![0; 1 << 20]), Sent::Taken);
        }
        let taken = (0..1000).filter(|_| pipe.send(&[1], &[2]) == Sent::Taken).count();
        assert!((1..QUEUE_FRAMES_MAX).contains(&taken), "{taken} frames wait");
        drop(reader);
        let began = Instant::now();
        while pipe.send(&[1], &[2]) != Sent::Broken && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        rig.outbox.send(NodeId(2), ShardId(1), &accept(1));
        rig.outbox.flush(NodeWriteSeq(1));
        assert_eq!(rig.counters.dropped_unconnected.get(), 1);
    }
}
