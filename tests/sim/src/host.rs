//! What surrounds a worker: its host, its clients' reply sink, and what is tapped from both.
//!
//! Owns: frames, replies and signs of a round, each with the world time at which it left. Must never: decide their fate; the
//! world does, since a crash inside the round may keep them from leaving.

use crate::clock::Cursor;
use crate::violation::Violation;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use synod_engine::codec::message;
use synod_engine::host::{Answer, Host, Refusal, ReplySink};
use synod_engine::ids::{NodeId, NodeWriteSeq, ShardId, Slot};
use synod_engine::logstore::GroupWrite;
use synod_engine::system::SystemState;
use synod_paxos::message::Message;
use synod_paxos::types::Ballot;

/// What a worker's end of process carries through the unwinding.
pub(crate) struct Fatal(pub(crate) String);

/// How far a group's log is synced on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
}

impl Watermark {
    /// A write of the group was synced.
    pub(crate) fn written(&mut self, write: &GroupWrite) {
        if let Some(hard) = &write.hard {
            (self.promised, self.accepted) = (hard.promised, hard.accepted);
        }
        if let Some(from) = write.truncate_from {
            self.last = self.last.min(Slot(from.0.saturating_sub(1)));
        }
        if let Some(entry) = write.append.last() {
            self.last = self.last.max(entry.id.slot);
        }
        if let Some(trim) = write.trim {
            self.last = self.last.max(trim.slot);
        }
    }
}

/// Encoded messages to one peer that left together.
pub(crate) struct Frame {
    pub(crate) at: u64,
    pub(crate) to: NodeId,
    pub(crate) write_seq: NodeWriteSeq,
    pub(crate) messages: Vec<(ShardId, Bytes)>,
    /// Kinds of the messages, for traces.
    pub(crate) kinds: Vec<&'static str>,
}

/// What a round left behind.
#[derive(Default)]
pub(crate) struct Tap {
    queued: Vec<(NodeId, ShardId, Message)>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) replies: Vec<(u64, u64, Result<Answer, Refusal>)>,
    answered: BTreeSet<u64>,
    /// When, which shard, and the applied position that went into its state.
    pub(crate) applied: Vec<(u64, ShardId, Slot)>,
    pub(crate) maps: Vec<(u64, Arc<SystemState>)>,
    /// Shards led here.
    pub(crate) leads: BTreeSet<ShardId>,
    pub(crate) elected: u64,
    pub(crate) trims: u64,
    pub(crate) drained: bool,
    pub(crate) quarantined: Option<String>,
    /// What is synced of each group.
    pub(crate) marks: BTreeMap<ShardId, Watermark>,
    pub(crate) broke: Option<Violation>,
}

/// A process's tap. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Taps(Arc<Mutex<Tap>>);

impl Taps {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tap> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Tap {
    fn broke(&mut self, invariant: &'static str, detail: String) {
        self.broke.get_or_insert(Violation::new(invariant, detail));
    }

    /// A trim of the log goes to the disk.
    pub(crate) fn trimmed(&mut self, shard: ShardId, trim: Slot, durable: Slot) {
        self.trims += 1;
        if trim > durable {
            let detail = format!("shard {shard}: trimmed up to {trim}, the state on disk stands at {durable}");
            self.broke("16: the log is trimmed only below durable applied state", detail);
        }
    }

    /// Invariants 3 and 4 at the moment a message leaves: what it vouches for is synced.
    fn vouched(&mut self, shard: ShardId, message: &Message) {
        let mark = self.marks.get(&shard).copied().unwrap_or_default();
        let (promised, accepted) = match message {
            Message::Prepare { ballot, .. }
            | Message::Promise { ballot, .. }
            | Message::Sync { ballot, .. }
            | Message::Accept { ballot, .. } => (Some(*ballot), None),
            Message::Accepted { ballot, upto, .. } => (None, Some((*ballot, *upto))),
            _ => (None, None),
        };
        if promised.is_some_and(|ballot| mark.promised < ballot) {
            let detail = format!("shard {shard}: {message:?} leaves, synced is {mark:?}");
            self.broke("3: a ballot is promised on disk before it is spoken of", detail);
        }
        let short =
            |(ballot, upto): (Ballot, Slot)| mark.accepted < ballot || (mark.accepted == ballot && mark.last < upto);
        if accepted.is_some_and(short) {
            let detail = format!("shard {shard}: {message:?} leaves, synced is {mark:?}");
            self.broke("4: no acknowledgement exceeds the durable matching prefix", detail);
        }
    }
}

/// What the worker asks of its surroundings.
pub(crate) struct SimHost {
    taps: Taps,
    cursor: Cursor,
    random: u64,
}

impl SimHost {
    pub(crate) fn new(taps: &Taps, cursor: &Cursor, seed: u64) -> Self {
        Self { taps: taps.clone(), cursor: cursor.clone(), random: seed }
    }
}

impl Host for SimHost {
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message) {
        self.taps.lock().queued.push((to, shard, message));
    }

    fn flush(&mut self, durable: NodeWriteSeq) {
        let mut tap = self.taps.lock();
        let queued = std::mem::take(&mut tap.queued);
        let mut frames: BTreeMap<NodeId, Frame> = BTreeMap::new();
        for (to, shard, body) in queued {
            tap.vouched(shard, &body);
            let empty =
                Frame { at: self.cursor.get(), to, write_seq: durable, messages: Vec::new(), kinds: Vec::new() };
            let frame = frames.entry(to).or_insert(empty);
            frame.kinds.push(kind(&body));
            frame.messages.push((shard, message::encode(&body)));
        }
        tap.frames.extend(frames.into_values());
    }

    fn map_changed(&mut self, map: Arc<SystemState>) {
        let at = self.cursor.get();
        self.taps.lock().maps.push((at, map));
    }

    fn role_changed(&mut self, shard: ShardId, _leader: Option<NodeId>, here: bool) {
        let mut tap = self.taps.lock();
        if here {
            tap.elected += u64::from(tap.leads.insert(shard));
        } else {
            tap.leads.remove(&shard);
        }
    }

    fn drained(&mut self) {
        self.taps.lock().drained = true;
    }

    fn fatal(&mut self, why: String) -> ! {
        std::panic::resume_unwind(Box::new(Fatal(why)))
    }

    fn quarantined(&mut self, why: &str) {
        self.taps.lock().quarantined = Some(why.into());
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }
}

/// Takes a process's answers to clients; the request's number is that of the client's attempt.
pub(crate) struct SimSink {
    taps: Taps,
    cursor: Cursor,
}

impl SimSink {
    pub(crate) fn new(taps: &Taps, cursor: &Cursor) -> Self {
        Self { taps: taps.clone(), cursor: cursor.clone() }
    }
}

impl ReplySink for SimSink {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        let mut tap = self.taps.lock();
        if !tap.answered.insert(id) {
            tap.broke("a request is answered once", format!("attempt {id} again: {answer:?}"));
        }
        tap.replies.push((self.cursor.get(), id, answer));
    }
}

pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "PreVote",
        Message::PreVoteGranted { .. } => "PreVoteGranted",
        Message::PreVoteRefused { .. } => "PreVoteRefused",
        Message::Confirm { .. } => "Confirm",
        Message::Released { .. } => "Released",
        Message::Prepare { .. } => "Prepare",
        Message::Promise { .. } => "Promise",
        Message::Nack { .. } => "Nack",
        Message::Fetch { .. } => "Fetch",
        Message::Fetched { .. } => "Fetched",
        Message::Sync { .. } => "Sync",
        Message::Accept { .. } => "Accept",
        Message::Accepted { .. } => "Accepted",
        Message::Behind { .. } => "Behind",
        Message::Learn { .. } => "Learn",
        Message::Learned { .. } => "Learned",
        Message::ReadProbe { .. } => "ReadProbe",
        Message::ReadAck { .. } => "ReadAck",
        Message::TimeoutNow { .. } => "TimeoutNow",
    }
}
