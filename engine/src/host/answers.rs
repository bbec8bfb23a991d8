//! What clients are told.
//!
//! Owns: answers, refusals and the way back to a client. Must never: keep an answer.

use crate::codec::record::Record;
use crate::command::Outcome;
use bytes::Bytes;
use std::sync::Arc;
use synod_cluster::ids::Offset;
use synod_cluster::refusal::Refusal;

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
