//! The border of the engine: what a worker is told, and what it asks of its surroundings.
//!
//! Owns: inputs, requests, replies and the [`Host`] trait. Must never: block, or know what a socket is.

use crate::codec::message::size_hint;
use crate::command::{Outcome, WriteRequest};
use crate::ids::{ClusterVersion, Incarnation, NodeId, NodeWriteSeq, Offset, ShardId, Slot, Space, TableId};
use crate::scrub::{ScrubError, ScrubRequest, Scrubbed};
use crate::snapshot::Header;
use crate::state::{BulkLoad, ViewJob};
use crate::system::SystemState;
use crate::wall::Reading;
use bytes::Bytes;
use std::sync::Arc;
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, Basis, ConfigId, Membership};

/// One thing that happened to the node, for its worker.
pub enum Input {
    /// Requests of clients; each is answered exactly once through its [`Reply`].
    Requests(Vec<Request>),
    /// Consensus messages of a peer, in the order it sent them.
    Peer {
        /// The sender.
        from: NodeId,
        /// Its process.
        incarnation: Incarnation,
        /// Its last durable write when it sent them.
        write_seq: NodeWriteSeq,
        /// The messages.
        messages: Vec<(ShardId, Message)>,
    },
    /// The failure detector changed its mind. `alive: true` is repeated after each reconnection or new incarnation.
    Liveness {
        /// The peer.
        node: NodeId,
        /// Whether it is heard.
        alive: bool,
    },
    /// A peer told the greatest (incarnation, write seq) it has seen of this node.
    IdentityAnswer {
        /// The peer.
        from: NodeId,
        /// Of this node, before this process began.
        seen: (Incarnation, NodeWriteSeq),
    },
    /// The disk has less room left than its low mark, with the words for refusals, or has enough again. While it is low
    /// this node hands its leaderships over where a member with room can lead, and takes no writes but those that free
    /// room; consensus goes on.
    DiskLow(Option<Arc<str>>),
    /// The disk is low, and so many bytes may still be taken of it, for a while, before the node must end.
    DiskSpare(u64),
    /// A peer said whether its disk is low.
    PeerDisk {
        /// The peer.
        node: NodeId,
        /// Whether it is.
        low: bool,
    },
    /// What a peer's wall clock showed when its pulse came.
    PeerClock {
        /// The peer.
        node: NodeId,
        /// Its clock.
        reading: Reading,
    },
    /// A newer map, from the system shard here or elsewhere.
    Map(Arc<SystemState>),
    /// A write handed to the log-writer thread is synced (threaded mode only).
    Written(u64),
    /// The system shard of a new cluster is to be created here.
    CreateSystemShard(Box<SystemState>),
    /// Hand over every leadership; answered by [`Host::drained`].
    Drain,
    /// Move a leadership.
    Transfer {
        /// The shard.
        shard: ShardId,
        /// The new leader.
        to: NodeId,
        /// Told `Ok` once the transfer has begun.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Change a group's members; answered once the change was proposed, or why not.
    ChangeMembers {
        /// The shard.
        shard: ShardId,
        /// The epoch whose members it was computed from; it is refused in any other.
        expected: ConfigId,
        /// What is wanted.
        change: MemberChange,
        /// Told `Ok` where the change is proposed, or in force already.
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
    /// Report every replica.
    Status(Box<dyn FnOnce(NodeReport) + Send>),
    /// Make a snapshot of what is applied here; told how that went.
    MakeSnapshot {
        /// The shard.
        shard: ShardId,
        /// Told once the host has the file.
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    },
    /// A member whose state is gone asks for a snapshot at or above the slot its log begins behind.
    SnapshotAsked {
        /// The member.
        by: NodeId,
        /// The shard.
        shard: ShardId,
        /// Of no use below this.
        least: Slot,
    },
    /// A snapshot that [`Host::build_snapshot`] was asked for is on disk, or why not.
    SnapshotBuilt {
        /// The shard.
        shard: ShardId,
        /// How it went.
        result: Result<(), String>,
    },
    /// The file of a snapshot made here was found damaged, or cannot be read.
    SnapshotSpoilt {
        /// The shard.
        shard: ShardId,
    },
    /// A snapshot was received from a peer and verified; the host keeps its file.
    SnapshotFetched(Box<Header>),
    /// What [`Host::load_snapshot`] was asked for is done, or why the file is no good.
    SnapshotLoaded {
        /// The shard.
        shard: ShardId,
        /// Where the rows are.
        space: Space,
        /// How it went.
        result: Result<(), String>,
    },
    /// Compare the replicas of a shard now; only its leader can begin that.
    Scrub {
        /// The shard.
        shard: ShardId,
        /// Told `Ok` with the slot at which they will be compared.
        done: Box<dyn FnOnce(Result<Slot, Refusal>) + Send>,
    },
    /// What [`Host::build_scrub`] was asked for has been read.
    Scrubbed {
        /// The shard.
        shard: ShardId,
        /// The marker's slot.
        slot: Slot,
        /// What it holds.
        result: Result<Scrubbed, ScrubError>,
    },
    /// A member tells what it holds at a slot.
    ScrubTold {
        /// The member.
        from: NodeId,
        /// The shard.
        shard: ShardId,
        /// The marker's slot.
        slot: Slot,
        /// Of all its rows.
        hash: u128,
    },
    /// Flush the state and stop; the worker returns from its loop.
    Stop,
}

impl Input {
    /// What it takes while it waits, bytes: its messages or requests, and what holds them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let more = match self {
            Self::Requests(requests) => requests.iter().map(Request::bytes).sum(),
            Self::Peer { messages, .. } => {
                messages.iter().map(|(_, message)| size_of::<(ShardId, Message)>() + size_hint(message)).sum()
            }
            _ => 0,
        };
        size_of::<Self>() + more
    }
}

/// A change of a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node begins to receive the log, without a vote.
    Learn(NodeId),
    /// A learner that has caught up gets a vote, and where another voter is named that one goes.
    Promote {
        /// The learner.
        node: NodeId,
        /// The voter who goes with the same change.
        instead_of: Option<NodeId>,
    },
    /// A member goes.
    Remove(NodeId),
}

/// A client's request to one shard.
pub struct Request {
    /// The shard it was routed to.
    pub shard: ShardId,
    /// The shard's version it was routed by; `None` skips the check (requests of the node itself).
    pub epoch: Option<u64>,
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
    pub wait_micros: u64,
    /// Whether the poll is refused where a record that it asks for was trimmed; else such a record is passed over.
    pub tells_trimmed: bool,
}

/// A record read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRecord {
    /// Its key.
    pub key: Bytes,
    /// Its offset.
    pub offset: Offset,
    /// The record.
    pub record: crate::codec::record::Record,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A write was executed (now or by an earlier attempt).
    Outcome(Outcome),
    /// Of [`Read::Get`].
    Record {
        /// The record, where there is one.
        record: Option<KeyedRecord>,
        /// First offset kept.
        first: Offset,
        /// Next offset; 0 for a key never written.
        next: Offset,
    },
    /// Of [`Read::Range`] and [`Read::Scan`].
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
    /// Of [`Read::Tail`].
    Tail {
        /// The records, by timestamp.
        records: Vec<KeyedRecord>,
        /// Everything up to here was given, µs.
        upto_ts: u64,
        /// Ask again at once.
        more: bool,
    },
    /// Of [`Read::Tail`]: segment `segment` must be scanned up to `upto_ts` first.
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
    /// The records asked for are gone.
    #[error("records below offset {first} were trimmed")]
    Trimmed {
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

/// A snapshot that is to be made of what is applied now.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// The shard.
    pub shard: ShardId,
    /// What its group was created with.
    pub genesis: Bytes,
    /// The position, and what goes with it.
    pub basis: Basis,
    /// The timestamp of the entry at that position, µs.
    pub ts: u64,
    /// Where its rows stand.
    pub space: Space,
}

/// Which of a shard's snapshot files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// The one made here, for others.
    Built,
    /// The one received, for this replica.
    Fetched,
}

/// What a worker asks of its surroundings. Calls must not block.
pub trait Host: Send {
    /// Queues a message; it leaves with the next `flush`. A full queue drops it: the protocol sends again.
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message);
    /// To which peers messages of which shards found no room, in `send` or `flush`, since this was last asked; each pair once.
    /// What finds no open link is not told: a link that opens is, as liveness.
    fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        Vec::new()
    }
    /// Sends what is queued, stamped with the node's last durable write.
    fn flush(&mut self, durable: NodeWriteSeq);
    /// The system shard here applied a change.
    fn map_changed(&mut self, map: Arc<SystemState>);
    /// Roles changed: this node now leads so many shards. For metrics and hints.
    fn role_changed(&mut self, shard: ShardId, leader: Option<NodeId>, here: bool);
    /// A group led here has entered an epoch of which an entry is chosen, and the map does not know it yet: the system
    /// shard is to be told. Said again until the map knows.
    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        let _ = (shard, membership);
    }
    /// Every leadership was handed over, or could not be.
    fn drained(&mut self);
    /// Something that must never be went wrong with a shard or a store; the host ends the process with this line.
    fn fatal(&mut self, why: String) -> !;
    /// This node must not vote any more; it stays up to say why.
    fn quarantined(&mut self, why: &str);
    /// A random word.
    fn random(&mut self) -> u64;

    /// What writes a snapshot into a file once it is handed the rows, and then tells [`Input::SnapshotBuilt`]. `None` where
    /// this host makes none: members that are behind the log then stay there.
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member that the snapshot made of this shard is there for it.
    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        let _ = (to, shard);
    }

    /// Asks a member for a snapshot at or above `least`: the state here is gone. It comes as an offer, or not at all.
    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        let _ = (to, shard, least);
    }

    /// Loads the snapshot received of this shard into a space, on another thread; then tells [`Input::SnapshotLoaded`].
    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        let _ = (shard, space, loader);
    }

    /// What reads a replica once it is handed the rows, and then tells [`Input::Scrubbed`]. `None` where this host does not.
    fn build_scrub(&mut self, request: ScrubRequest) -> Option<ViewJob> {
        let _ = request;
        None
    }

    /// Tells a member what this replica holds at a slot; where that is lost, that member compares without it.
    fn tell_scrub(&mut self, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        let _ = (to, shard, slot, hash);
    }

    /// A snapshot's file is not needed any more.
    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        let _ = (shard, kind);
    }
}

/// One replica, as shown by `synod status`.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// The shard.
    pub shard: ShardId,
    /// Its table.
    pub table: TableId,
    /// follower, candidate, leader, learner, removed, waiting, reinstalling.
    pub role: &'static str,
    /// The leader, where known.
    pub leader: Option<NodeId>,
    /// Ballot accepted.
    pub ballot: Ballot,
    /// Known chosen prefix.
    pub commit: Slot,
    /// Applied.
    pub applied: Slot,
    /// Last entry.
    pub last: Slot,
    /// Log trimmed up to here.
    pub trimmed: Slot,
    /// A leader's view: (node, slots not yet acknowledged).
    pub lag: Vec<(NodeId, u64)>,
    /// A leader's view: by how much the shard's time is ahead of what a quorum's wall clocks have reached, µs.
    pub ahead_us: u64,
    /// The last comparison of the replicas that this one took part in.
    pub scrub: Option<ScrubReport>,
}

/// What a replica knows of a comparison of all replicas at one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// The slot.
    pub slot: Slot,
    /// Of this replica's rows.
    pub hash: u128,
    /// Members that told a hash, this one among them.
    pub compared: Vec<NodeId>,
    /// Whether all of these are equal.
    pub equal: bool,
    /// Members that differ from what a majority holds; none where there is no majority (yet).
    pub diverged: Vec<NodeId>,
}

/// What a node knows of its replicas.
#[derive(Clone, Debug, Default)]
pub struct NodeReport {
    /// One a replica.
    pub replicas: Vec<ReplicaReport>,
    /// Why the node takes no part, where it does not.
    pub quarantined: Option<String>,
    /// Why it refuses writes that need room, where its disk is low.
    pub disk_low: Option<String>,
    /// Revision of the map the worker holds.
    pub map_revision: u64,
    /// The cluster's version, as of that map.
    pub cluster_version: ClusterVersion,
    /// Snapshots made here since the process began.
    pub snapshots_made: u64,
    /// Replicas here that a snapshot took the place of since the process began.
    pub snapshots_installed: u64,
}
