//! What both protocols and the harness share: the group, its times and limits, its log, and errors.
//!
//! Owns: these. Must never: hold a setting of one protocol alone.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{Entry, HardState, NodeWriteSeq, ShardId, Slot};
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::logstore::{GroupWrite, LogBatch, LogStore};
use synod_paxos::io::LogReader;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, NodeId};

/// Replicas of the group.
pub const REPLICAS: usize = 3;

/// The one group.
pub const SHARD: ShardId = ShardId(1);

/// The nodes of the group.
#[must_use]
pub fn nodes() -> [NodeId; REPLICAS] {
    [NodeId(1), NodeId(2), NodeId(3)]
}

/// The members of the group; node 1 leads first.
#[must_use]
pub fn membership() -> Membership {
    let members = nodes().iter().map(|&node| Member { node, role: MemberRole::Voter }).collect();
    Membership { epoch: Epoch(1), members, first_leader: NodeId(1) }
}

/// Times that both protocols run on: the defaults of a Synod node.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often time is told to a replica; Raft's tick.
    pub tick: Duration,
    /// Between a Raft leader's heartbeats, and between the pulses of Synod's failure detector.
    pub pulse: Duration,
    /// Without a message for this long a leader is held dead.
    pub silence: Duration,
    /// At most this much is waited on top of it, at random.
    pub jitter: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { tick: ms(10), pulse: ms(100), silence: ms(600), jitter: ms(300) }
    }
}

/// µs of a time.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Limits that both protocols run on: those of Synod's core.
#[must_use]
pub fn limits() -> synod_paxos::io::Options {
    synod_paxos::io::Options::default()
}

/// A new node's log in `dir`, as a Synod node opens it, the group created in it. Its write is number 1.
pub fn create_log(dir: &Path) -> Result<Arc<RocksLog>> {
    let log = RocksLog::open(dir, &LogOptions::default())?;
    let create = GroupWrite {
        shard: SHARD,
        genesis: Some(Bytes::from_static(b"bench")),
        hard: Some(HardState::initial(membership())),
        ..GroupWrite::default()
    };
    log.write(&LogBatch { groups: vec![create], seq: NodeWriteSeq(1), seen: Vec::new() })?;
    Ok(Arc::new(log))
}

/// Reads the group's entries. It is the node that writes, once a round for all.
pub struct Reader(pub Arc<RocksLog>);

impl LogReader for Reader {
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> std::result::Result<Vec<Entry>, String> {
        self.0.entries(SHARD, from, upto, max_bytes).map_err(|e| e.to_string())
    }
}

/// Why a run ended without figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// A file or socket.
    #[error("{what}: {why}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        why: String,
    },
    /// The log store failed.
    #[error(transparent)]
    Store(#[from] synod_engine::StoreError),
    /// A frame or message that nobody sent.
    #[error("a message from node {from} cannot be read: {why}")]
    Message {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        why: String,
    },
    /// A replica stopped.
    #[error("the replica on node {node} stopped: {why}")]
    Stopped {
        /// The node.
        node: NodeId,
        /// What it said.
        why: String,
    },
    /// Something did not come about in time.
    #[error("{what} within {limit:?}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The replicas disagree.
    #[error("{protocol}: the replicas did not apply the same commands in the same order: {seen}")]
    Disagreement {
        /// The protocol.
        protocol: &'static str,
        /// What they applied.
        seen: String,
    },
}

/// What this crate returns.
pub type Result<T> = std::result::Result<T, BenchError>;

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BenchError {
    let what = what.into();
    move |why| BenchError::Io { what, why: why.to_string() }
}
