//! The plain types of the public interface.
//!
//! Owns: what callers pass in and get back, and their conversion to and from the wire. Must never: do IO or know the
//! shard map.

use std::time::Duration;

use bytes::Bytes;
use synod_proto::v1;

use crate::token::{Cursor, Token};

/// A named value beside a record's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The header's name; need not be unique.
    pub name: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// A record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key whose log it is in.
    pub key: Bytes,
    /// Its place in that log.
    pub offset: u64,
    /// When it was written: cluster time in microseconds, strictly increasing from append to append in a shard.
    pub ts_us: u64,
    /// Headers, in the order written.
    pub headers: Vec<Header>,
    /// The value; empty for a tombstone and with `keys_only`.
    pub value: Bytes,
    /// Whether this record is a deletion.
    pub tombstone: bool,
}

/// A record to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Headers, kept in order.
    pub headers: Vec<Header>,
    /// The value.
    pub value: Bytes,
}

impl NewRecord {
    /// A record without headers.
    pub fn new(value: impl Into<Bytes>) -> NewRecord {
        NewRecord { headers: Vec::new(), value: value.into() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> NewRecord {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }
}

/// What must hold of a key for a write to be executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    #[default]
    Any,
    /// The key has no record, or its newest is a tombstone.
    Absent,
    /// The key has a record that is not a tombstone.
    Exists,
    /// The next offset is exactly this.
    NextOffset(u64),
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Appends records, at least one.
    Append(Vec<NewRecord>),
    /// Appends a tombstone.
    Delete,
    /// Drops the key's records below an offset.
    Trim {
        /// The first offset to keep.
        before: u64,
    },
}

/// One operation of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOp {
    /// The key.
    pub key: Bytes,
    /// What must hold of it.
    pub expect: Expect,
    /// What to do.
    pub kind: OpKind,
}

impl WriteOp {
    /// Appends one record without headers.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> WriteOp {
        WriteOp::append(key, vec![NewRecord::new(value)])
    }

    /// Appends records.
    pub fn append(key: impl Into<Bytes>, records: Vec<NewRecord>) -> WriteOp {
        WriteOp { key: key.into(), expect: Expect::Any, kind: OpKind::Append(records) }
    }

    /// Appends a tombstone.
    pub fn delete(key: impl Into<Bytes>) -> WriteOp {
        WriteOp { key: key.into(), expect: Expect::Any, kind: OpKind::Delete }
    }

    /// Drops the records below `before`.
    pub fn trim(key: impl Into<Bytes>, before: u64) -> WriteOp {
        WriteOp { key: key.into(), expect: Expect::Any, kind: OpKind::Trim { before } }
    }

    /// The same under a condition.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> WriteOp {
        self.expect = expect;
        self
    }
}

/// Names a write for ever: under the same name it executes at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteName {
    /// Who writes; random, so that no two are the same.
    pub client: u128,
    /// Which of the client's writes it is, from 1.
    pub seq: u64,
    /// Outcomes of the client's writes below this number are no longer needed; at most `seq`.
    pub floor: u64,
    /// Cluster time in microseconds; after it the write is never executed. At most 10 minutes ahead. A shard refuses a deadline more
    /// than 20 minutes ahead of its own time; the difference allows for clocks that differ.
    pub deadline_us: u64,
}

/// What a write answers, one for each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The offset of the first record written; for a trim the first offset kept.
    pub offset: u64,
    /// The write's cluster time in microseconds.
    pub ts_us: u64,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began.
    #[default]
    Linearizable,
    /// Sees every write acknowledged so long before the read began, or earlier, in whole milliseconds. Any replica is asked: it
    /// answers by itself where it knows its state to be that fresh, and else asks the leader as of where it is. With zero it
    /// always asks, and the read is linearizable.
    Stale(Duration),
    /// Whatever the replica asked has applied; any replica is asked, and answers without the others.
    Local,
}

impl Consistency {
    /// Whether the leader has to answer.
    pub(crate) fn is_of_leader(self) -> bool {
        self == Consistency::Linearizable
    }
}

/// Which record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The one at this offset.
    Offset(u64),
    /// The newest at or before this cluster time in microseconds.
    TsUs(u64),
}

/// How to get a record; the default is the newest one, linearizable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Which record; unset means the newest.
    pub at: Option<At>,
    /// How fresh.
    pub consistency: Consistency,
}

/// A key's record together with the bounds of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetFull {
    /// The record asked for, if there is one; it may be a tombstone.
    pub record: Option<Record>,
    /// The first offset kept.
    pub first_offset: u64,
    /// The offset the next record will have; 0 for a key never written.
    pub next_offset: u64,
}

/// A set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// Every key of the table.
    #[default]
    All,
    /// One key.
    Key(Bytes),
    /// Keys that begin so.
    Prefix(Bytes),
    /// Keys in `[from, to)`; an empty `to` means no bound.
    Range {
        /// The first key.
        from: Bytes,
        /// The first key no longer meant.
        to: Bytes,
    },
}

/// How to scan a table; the default is everything, forward, linearizable (each page by itself).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Which keys.
    pub keys: Keys,
    /// At most this many records.
    pub limit: Option<u64>,
    /// From the last to the first.
    pub reverse: bool,
    /// Without values and headers.
    pub keys_only: bool,
    /// Go on where an earlier scan of the same keys and direction stood.
    pub cursor: Option<Cursor>,
    /// How fresh.
    pub consistency: Consistency,
    /// Records a page at most; 0 leaves it to the server.
    pub page_records: u32,
}

/// Where a tail begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TailStart {
    /// With the oldest record that is left.
    #[default]
    Earliest,
    /// With what commits from now on.
    Latest,
    /// After what an earlier tail of the same keys had given. Where records that follow were trimmed the tail fails with
    /// [`Error::Trimmed`](crate::Error::Trimmed), unless [`TailOptions::skip_trimmed`] is set; of a table that keeps the
    /// newest only it goes on with these.
    Token(Token),
}

/// How to tail a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailOptions {
    /// Which keys.
    pub keys: Keys,
    /// Where to begin.
    pub start: TailStart,
    /// Wait for more at the end; otherwise the stream ends there.
    pub follow: bool,
    /// Records a page at most; 0 leaves it to the server.
    pub page_records: u32,
    /// Pass over records that were trimmed, where the tail would end with [`Error::Trimmed`](crate::Error::Trimmed). What
    /// was passed over is told by [`TailStream::passed_over`](crate::TailStream::passed_over).
    pub skip_trimmed: bool,
}

/// A key of which a tail passed over trimmed records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The key; empty where the node is too old to say.
    pub key: Bytes,
    /// The first offset that was left: what the tail had not given below it is gone.
    pub first: u64,
}

/// How a table spreads its keys over shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// By the hash of the key.
    Hash {
        /// How many shards.
        shards: u32,
    },
    /// By the key itself.
    Range {
        /// The points where one shard ends and the next begins, sorted; one more shard than points.
        split_at: Vec<Bytes>,
    },
}

/// Which records of a key are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The newest only: a key-value table.
    Latest,
    /// All of them.
    All,
}

/// A table to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// How it spreads.
    pub partitioning: Partitioning,
    /// What it keeps.
    pub retention: Retention,
    /// Replicas of each shard, at most as many as there are nodes; 0 takes three, or all nodes where there are fewer.
    pub replicas: u32,
}

impl TableSpec {
    /// A hash table with as many replicas as the cluster gives by itself.
    pub fn hash(name: impl Into<String>, shards: u32, retention: Retention) -> TableSpec {
        TableSpec { name: name.into(), partitioning: Partitioning::Hash { shards }, retention, replicas: 0 }
    }

    /// A range table with as many replicas as the cluster gives by itself.
    pub fn range(name: impl Into<String>, split_at: Vec<Bytes>, retention: Retention) -> TableSpec {
        TableSpec { name: name.into(), partitioning: Partitioning::Range { split_at }, retention, replicas: 0 }
    }
}

/// How a table is partitioned, as the shard map says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionKind {
    /// By the key.
    Range,
    /// By the key's hash.
    Hash,
}

impl From<PartitionKind> for synod_cluster::system::Partitioning {
    fn from(kind: PartitionKind) -> Self {
        match kind {
            PartitionKind::Range => Self::Range,
            PartitionKind::Hash => Self::Hash,
        }
    }
}

impl PartitionKind {
    /// `range` or `hash`.
    pub fn as_str(self) -> &'static str {
        match self {
            PartitionKind::Range => "range",
            PartitionKind::Hash => "hash",
        }
    }
}

impl Retention {
    /// `latest` or `all`.
    pub fn as_str(self) -> &'static str {
        match self {
            Retention::Latest => "latest",
            Retention::All => "all",
        }
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub id: u64,
    /// `host:port` of its gRPC service.
    pub addr: String,
    /// Whether it holds replicas.
    pub mark: NodeMark,
    /// Its zone, as the node said last that gave the map; empty where it is not known, or the node shares none.
    pub zone: String,
    /// Its rack within the zone, likewise.
    pub rack: String,
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeMark {
    /// It holds replicas.
    #[default]
    Stays,
    /// Its replicas leave, and none come.
    Draining,
    /// The same, and it is taken out of the cluster then.
    Decommissioning,
}

impl NodeMark {
    /// `in_use`, `draining` or `decommissioning`.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeMark::Stays => "in_use",
            NodeMark::Draining => "draining",
            NodeMark::Decommissioning => "decommissioning",
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its id, never reused.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How it spreads.
    pub partitioning: PartitionKind,
    /// What it keeps.
    pub retention: Retention,
    /// Replicas of each shard.
    pub replicas: u32,
    /// How many shards it has now.
    pub shards: u32,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    /// Its id, never reused.
    pub id: u64,
    /// Its table.
    pub table_id: u32,
    /// The first position: a key on range tables, 8 bytes big-endian of the ring on hash tables.
    pub from: Bytes,
    /// The first position no longer in it; empty for no bound.
    pub to: Bytes,
    /// Changes of its bounds: the version that requests carry.
    pub version: u64,
    /// Changes of its members.
    pub epoch: u64,
    /// The nodes that vote.
    pub voters: Vec<u64>,
    /// Members without a vote, which receive the log.
    pub learners: Vec<u64>,
    /// The node believed to lead.
    pub leader: Option<u64>,
}

/// A change of a shard's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node begins to receive the log, without a vote.
    Learn(u64),
    /// A learner that has caught up gets a vote, and where another node is named that one goes.
    Promote {
        /// The learner.
        node: u64,
        /// Who goes with the same change.
        instead_of: Option<u64>,
    },
    /// A member goes.
    Remove(u64),
}

impl From<synod_cluster::members::MemberChange> for MemberChange {
    fn from(change: synod_cluster::members::MemberChange) -> Self {
        use synod_cluster::members::MemberChange as Change;
        match change {
            Change::Learn(node) => Self::Learn(node.0),
            Change::Promote { node, instead_of } => {
                Self::Promote { node: node.0, instead_of: instead_of.map(|node| node.0) }
            }
            Change::Remove(node) => Self::Remove(node.0),
        }
    }
}

/// The shard map at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster's id, 16 bytes.
    pub cluster: Bytes,
    /// Grows with every change.
    pub revision: u64,
    /// The version that the cluster is at: what all its nodes understand of each other.
    pub version: u32,
    /// Nodes by id.
    pub nodes: Vec<NodeInfo>,
    /// Tables by name.
    pub tables: Vec<TableInfo>,
    /// Shards by table, then position.
    pub shards: Vec<ShardInfo>,
}

/// Where a key lives, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    /// The table.
    pub table: TableInfo,
    /// The key.
    pub key: Bytes,
    /// XXH3-64 of the key, on hash tables.
    pub hash: Option<u64>,
    /// The shard whose bounds hold it.
    pub shard: ShardInfo,
    /// The nodes that vote in it.
    pub voters: Vec<NodeInfo>,
    /// The node believed to lead it.
    pub leader: Option<NodeInfo>,
}

/// What one node says of itself.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its id in the map.
    pub id: u64,
    /// Its address in the map.
    pub addr: String,
    /// Its own words, or why there are none.
    pub status: crate::Result<v1::NodeStatusReply>,
}
