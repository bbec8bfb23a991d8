//! What clients are told.
//!
//! Owns: answers, refusals and the way back to a client. Must never: keep an answer.

use crate::codec::record::Record;
use crate::command::Outcome;
use bytes::Bytes;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, Offset};
use synod_paxos::types::ConfigId;

/// A record read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRecord {
    /// Its key.
    pub key: Bytes,
    /// Its offset.
    pub offset: Offset,
    /// The record.
    pub record: Record,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A write was executed (now or by an earlier attempt).
    Outcome(Outcome),
    /// Of [`Read::Get`](super::Read::Get).
    Record {
        /// The record, where there is one.
        record: Option<KeyedRecord>,
        /// First offset kept.
        first: Offset,
        /// Next offset; 0 for a key never written.
        next: Offset,
    },
    /// Of [`Read::Range`](super::Read::Range) and [`Read::Scan`](super::Read::Scan).
    Page {
        /// The records.
        records: Vec<KeyedRecord>,
        /// Where the next page begins; empty when there is no more.
        cursor: Bytes,
        /// Of a range: first offset kept.
        first: Offset,
        /// Of a range: next offset.
        next: Offset,
    },
    /// Of [`Read::Tail`](super::Read::Tail).
    Tail {
        /// The records, by timestamp.
        records: Vec<KeyedRecord>,
        /// Everything up to here was given, µs.
        upto_ts: u64,
        /// Ask again at once.
        more: bool,
    },
    /// Of [`Read::Tail`](super::Read::Tail): segment `segment` must be scanned up to `upto_ts` first.
    TailScan {
        /// Index into the segments.
        segment: usize,
        /// Timestamp to scan up to, µs.
        upto_ts: u64,
    },
}

/// Why a request was not executed. Never stored; nothing changed, save that a write which was already proposed and then
/// lost its leader is *unknown* and gets [`Refusal::NotLeader`] with `maybe: true`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another node leads, or nobody is known to.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
        /// The write may have been executed or may yet be.
        maybe: bool,
    },
    /// The shard is not here, its version differs, or the key is not in it.
    #[error("the key is not in this shard")]
    WrongShard,
    /// Too much is waiting.
    #[error("overloaded")]
    Overloaded,
    /// Part of the node's memory is full; says which, how much it may be, and the knob. Nothing was proposed.
    #[error("{0}")]
    NoMemory(Arc<str>),
    /// As many tails wait as may. They may be asked elsewhere, or again a little later.
    #[error("{limit} tails wait on this {place} already ({knob}): ask another node, or again later")]
    TooManyTails {
        /// How many may wait.
        limit: usize,
        /// Where: "node", "shard" or "stream".
        place: &'static str,
        /// The setting that holds the limit, or "fixed".
        knob: &'static str,
    },
    /// Past its deadline, by the shard's time. It is not executed, now or ever.
    #[error("the write's deadline has passed: the shard's time is {shard_us} µs")]
    Expired {
        /// The shard's time by which it was judged, µs: what a new deadline is to count from.
        shard_us: u64,
    },
    /// Below the client's floor: an earlier attempt's outcome is no longer kept.
    #[error("the write is below its client's floor")]
    BelowFloor,
    /// Records asked for are gone.
    #[error("records of key {key:?} below offset {first} were trimmed")]
    Trimmed {
        /// Whose.
        key: Bytes,
        /// First offset kept.
        first: Offset,
    },
    /// A write that needs room on a node whose disk is nearly full; says how full, and the knob. It was not proposed.
    #[error("{0}")]
    DiskFull(Arc<str>),
    /// The node takes no part.
    #[error("the node is quarantined: {0}")]
    Quarantined(Arc<str>),
    /// The request makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// A change of members that was computed from those of another epoch. Nothing was proposed.
    #[error("the shard is in epoch {current}, the change of its members was made for epoch {expected}")]
    WrongEpoch {
        /// The shard's.
        current: ConfigId,
        /// The change's.
        expected: ConfigId,
    },
    /// The node is starting or stopping.
    #[error("the node is not ready")]
    NotReady,
}

/// Where answers go: a stream of one client.
pub trait ReplySink: Send + Sync {
    /// Takes the answer to request `id`. Must not block.
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>);

    /// Whether its client leaves so much unread that a read must be refused instead of looked up.
    fn is_full(&self) -> bool {
        false
    }
}

/// Where one request's answer goes.
pub struct Reply {
    /// The stream.
    pub sink: Arc<dyn ReplySink>,
    /// The stream's number of the request.
    pub id: u64,
}

impl Reply {
    /// Answers.
    pub fn send(self, answer: Result<Answer, Refusal>) {
        self.sink.reply(self.id, answer);
    }
}
