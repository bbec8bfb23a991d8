//! What clients ask of a shard.
//!
//! Owns: requests, and what each of them takes while it waits. Must never: know what the answer is.

use super::answers::Reply;
use crate::command::WriteRequest;
use bytes::Bytes;
use synod_cluster::ids::{Offset, ShardId};

/// A client's request to one shard.
pub struct Request {
    /// The shard it was routed to.
    pub shard: ShardId,
    /// The shard's version it was routed by; `None` skips the check (requests of the node itself).
    pub version: Option<u64>,
    /// What is asked.
    pub body: Body,
    /// Where the answer goes.
    pub reply: Reply,
}

impl Request {
    /// What it takes while it waits, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let body = match &self.body {
            Body::Write(write) => write.size(),
            Body::Read { read, .. } => read.bytes(),
        };
        size_of::<Self>() + body
    }
}

/// What is asked.
pub enum Body {
    /// A write, exactly once by its id.
    Write(WriteRequest),
    /// A read.
    Read {
        /// What.
        read: Read,
        /// How fresh.
        freshness: Freshness,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It sees every write acknowledged before it came. The leader answers.
    Linearizable,
    /// It sees every write acknowledged so long before it came, or earlier, µs by the clock of the node that answers; any
    /// replica does.
    Stale(u64),
    /// It sees what this replica has applied.
    Local,
}

/// Reads of one shard.
#[derive(Clone, Debug)]
pub enum Read {
    /// One record of a key.
    Get {
        /// The key.
        key: Bytes,
        /// Which of its records.
        at: At,
    },
    /// A page of a key's records.
    Range {
        /// The key.
        key: Bytes,
        /// First offset wanted.
        from: Offset,
        /// Most records.
        limit: usize,
    },
    /// A page of the shard's records.
    Scan(Scan),
    /// A long poll for commits.
    Tail(TailPoll),
}

impl Read {
    /// Bytes of keys and bounds in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Get { key, .. } | Self::Range { key, .. } => key.len(),
            Self::Scan(scan) => {
                [&scan.from, &scan.to, &scan.pos_from, &scan.pos_to, &scan.cursor].iter().map(|part| part.len()).sum()
            }
            Self::Tail(poll) => {
                let segment =
                    |(from, to, _): &(Bytes, Bytes, u64)| size_of::<(Bytes, Bytes, u64)>() + from.len() + to.len();
                poll.from.len() + poll.to.len() + poll.segments.iter().map(segment).sum::<usize>()
            }
        }
    }
}

/// Which of a key's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Newest,
    /// The one at this offset.
    Offset(Offset),
    /// The newest at or below this timestamp, µs.
    Time(u64),
}

/// A page of records in position order; see the wire schema for the meaning of a position.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Only keys at or above.
    pub from: Bytes,
    /// Only keys below; empty: no bound.
    pub to: Bytes,
    /// Only positions at or above.
    pub pos_from: Bytes,
    /// Only positions below; empty: no bound.
    pub pos_to: Bytes,
    /// Where the last page ended.
    pub cursor: Bytes,
    /// Most records.
    pub limit: usize,
    /// Descending.
    pub reverse: bool,
    /// Without values and headers.
    pub keys_only: bool,
    /// With deletions.
    pub tombstones: bool,
    /// Every record of a key instead of the newest.
    pub history: bool,
    /// Only greater timestamps, µs.
    pub after_ts: u64,
    /// Only timestamps up to this, µs; 0: no bound.
    pub upto_ts: u64,
    /// With `history`: whether the scan is refused where a record after `after_ts` was trimmed; else it is passed over.
    pub tells_trimmed: bool,
}

/// A long poll for commits.
#[derive(Clone, Debug)]
pub struct TailPoll {
    /// Only keys at or above.
    pub from: Bytes,
    /// Only keys below; empty: no bound.
    pub to: Bytes,
    /// (position from, position to, after timestamp µs).
    pub segments: Vec<(Bytes, Bytes, u64)>,
    /// About the most records.
    pub limit: usize,
    /// How long to wait where there is nothing, µs.
    pub wait_us: u64,
    /// Whether the poll is refused where a record that it asks for was trimmed; else such a record is passed over.
    pub tells_trimmed: bool,
}
