//! What goes into the core and what comes out of it.
//!
//! Owns: the contract with the driver. Must never: perform any of it.
//!
//! The driver calls [`crate::Replica::step`] with one [`Input`] at a time and carries out the [`Output`]s in order. A
//! `Send` may leave at once. A `Persist` must reach the disk, in the order of its `seq` within the group, atomically and
//! synced; only then does the driver call `step(Input::Persisted(seq))`, and the core then emits what waited for it.
//! A failed write ends the process. Time and randomness come in with every step through [`Ctx`].

use crate::message::Message;
use crate::types::{Ballot, Entry, EntryId, HardState, Membership, Micros, NodeId, ReadId, Run, Slot, WriteSeq};
use bytes::Bytes;

/// What a step may look at: the clock, a random word, and the durable log.
pub struct Ctx<'a> {
    /// Monotone time.
    pub now: Micros,
    /// A fresh random word, for election jitter.
    pub random: u64,
    /// Entries that the core no longer keeps in memory. Holds every persisted entry above the trim point.
    pub log: &'a dyn LogReader,
}

/// Reads back what was persisted. Implemented by the driver's log store.
pub trait LogReader {
    /// Entries of slots in `(from, upto]`, in order, without gap, stopping after the entry that passes `max_bytes` (so at
    /// least one). Every entry's CRC has been checked. An error (damage, IO) is fatal to the replica.
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String>;
}

/// What a restart hands to the core.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The hard state read back.
    pub hard: HardState,
    /// The entry before the first retained one: [`EntryId::ZERO`] for an untrimmed log.
    pub trimmed: EntryId,
    /// Origins of the retained entries, from `trimmed.slot + 1` on.
    pub runs: Vec<Run>,
    /// The last retained entry, or `trimmed` where none is.
    pub last: EntryId,
    /// Timestamp of the last entry, 0 where there is none: later proposals get greater ones.
    pub last_ts: u64,
    /// Every entry up to here was applied durably; at least `trimmed.slot`, and chosen.
    pub applied: Slot,
    /// Nodes known to be alive.
    pub live: Vec<NodeId>,
}

/// Limits and times of a group. All have defaults that fit production.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Election jitter, µs: a random share of this is waited before a pre-vote.
    pub jitter_us: u64,
    /// How long a campaign (pre-vote or prepare) waits for its quorum before it starts again, µs.
    pub campaign_us: u64,
    /// How long a leader with unacknowledged messages waits before it sends again, µs.
    pub resend_us: u64,
    /// How long a leader with nothing else to send waits before it tells followers the chosen prefix, µs: under load the
    /// next `Accept` carries it and nothing is sent for it alone.
    pub notice_us: u64,
    /// How long a transfer may take before the leader takes it back, µs.
    pub transfer_us: u64,
    /// Followers support the leaderships they confirm, and leaders serve reads from that: the lease.
    pub lease: bool,
    /// How long a follower then promises nothing to another, µs. It says so in each answer, and the leader counts what it says: so
    /// members may differ in it. A replica that begins promises nothing for as long, since it does not know whom the process
    /// before it supported, whether or not `lease` is on now.
    pub support_us: u64,
    /// The longest support that an earlier process of this node may have given, µs. Where it is more than `support_us`, a
    /// replica that begins promises nothing for this long.
    pub support_owed_us: u64,
    /// What a clock may gain or lose against true time, millionths: leaders count that much less, twice.
    pub drift_ppm: u64,
    /// Longest message, bytes of entries.
    pub message_bytes: usize,
    /// Messages in flight to a follower.
    pub inflight_messages: usize,
    /// Bytes in flight to a follower.
    pub inflight_bytes: usize,
    /// Proposed and not yet chosen, bytes; above it proposals are refused as overloaded.
    pub uncommitted_bytes: usize,
    /// Entries kept in memory after they are chosen, bytes, for followers a little behind.
    pub cache_bytes: usize,
    /// Bytes of entries after which the chosen prefix is written along with the next ones: a bound on what a restart may forget
    /// of what is chosen.
    pub hint_bytes: usize,
    /// A candidate that lacks more slots than this of what is known chosen learns them first and leaves the campaign to others.
    pub fetch_slots: u64,
    /// The same in bytes, counted as they arrive.
    pub fetch_bytes: usize,
    /// How long a leader waits for a quorum that says nothing while entries or reads wait for it, before it gives up, µs; 0:
    /// for ever.
    pub stall_us: u64,
    /// How long a read waits at the leader for its quorum, or for the first entry of the leadership, before it is refused, µs.
    pub read_us: u64,
    /// The cluster version at the start: what every node understands. See [`crate::Replica::speak`].
    pub version: u64,
    /// The planted fault, in the package built for that.
    #[cfg(feature = "planted")]
    pub fault: Option<crate::planted::Fault>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            jitter_us: 300_000,
            campaign_us: 500_000,
            resend_us: 200_000,
            notice_us: 20_000,
            transfer_us: 1_000_000,
            lease: false,
            support_us: 300_000,
            support_owed_us: 0,
            drift_ppm: 100_000,
            message_bytes: 1 << 20,
            inflight_messages: 64,
            inflight_bytes: 16 << 20,
            uncommitted_bytes: 32 << 20,
            cache_bytes: 4 << 20,
            hint_bytes: 4 << 20,
            fetch_slots: 4096,
            fetch_bytes: 16 << 20,
            stall_us: 10_000_000,
            read_us: 5_000_000,
            version: 1,
            #[cfg(feature = "planted")]
            fault: None,
        }
    }
}

impl Options {
    /// What of a time measured by another clock has passed by this one at the least: where each is off by `drift_ppm` at
    /// most, (1 - d) / (1 + d) >= 1 - 2 d of it.
    pub(crate) fn least(&self, micros: u64) -> u64 {
        let share = 1_000_000_u64.saturating_sub(2 * self.drift_ppm);
        u64::try_from(u128::from(micros) * u128::from(share) / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// One thing that happened to the replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// `now` may have passed [`crate::Replica::deadline`].
    Tick,
    /// A message of this group arrived.
    Message {
        /// The node it came from.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The leader is to append commands, in order, in consecutive slots. Timestamps are hybrid-logical microseconds of
    /// the driver's clock; the core raises one that is not above its predecessor's.
    Propose {
        /// Each command with its wish for a timestamp.
        commands: Vec<(u64, Bytes)>,
    },
    /// The write `seq` and all before it are on disk, synced.
    Persisted(WriteSeq),
    /// The driver has applied every slot up to here (in memory or durably, at its choice).
    Applied(Slot),
    /// The node-level failure detector changed its mind about a peer. `alive` = true is also sent after every
    /// reconnection and whenever the peer's boot incarnation changed.
    PeerLiveness {
        /// The peer.
        node: NodeId,
        /// Whether this node hears it.
        alive: bool,
    },
    /// The way to a peer had no room, and messages of this group to it were dropped. What finds no open connection needs no
    /// such word: its reconnection is told.
    Dropped {
        /// The peer.
        to: NodeId,
    },
    /// Hand leadership to a voter.
    TransferTo(NodeId),
    /// Propose the next epoch's members. Refused unless leader with no stop-sign in flight.
    ChangeConfig {
        /// Members and first leader of the next epoch; `epoch` must be the current + 1.
        membership: Membership,
        /// Wish for a timestamp.
        ts: u64,
    },
    /// Ask for a slot at or above every write acknowledged before this moment.
    ReadIndex(ReadId),
    /// Stand for election as soon as the rules allow (used by a node that shuts down to give up, and by tests).
    Campaign,
    /// Give leadership up and say so to the members; done by a node that must not lead (low disk, shutdown).
    Release,
    /// Tell members now what is chosen, where this replica leads: something waits until they have applied it. Without this they
    /// hear of it with the next `Accept`, or after `notice_us`.
    Tell,
    /// The driver has just created this replica, and its log is empty. Messages that came for it earlier found no replica, and no
    /// connection ended that would tell their senders.
    Begun,
}

/// Why a proposal, transfer, change of members or read was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not the leader.
    #[error("not the leader")]
    NotLeader {
        /// Who is, as far as known.
        leader: Option<NodeId>,
    },
    /// More than `uncommitted_bytes` wait for their quorum.
    #[error("too many uncommitted bytes")]
    Overloaded,
    /// A stop-sign or a transfer is in flight; ask again.
    #[error("the leadership is changing")]
    Changing,
    /// The change of members names the wrong epoch, no voter, or a first leader that is no voter.
    #[error("the membership is not valid")]
    InvalidMembership,
    /// The transfer's target is no live voter, or has just said that it cannot lead.
    #[error("the target cannot lead")]
    InvalidTarget,
}

/// The role a replica is in, for its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Follows, or knows no leader.
    Follower,
    /// Asks for pre-votes or promises.
    Candidate,
    /// Leads `ballot`, but its first own entry is not yet chosen: writes are taken, reads wait.
    Leader,
    /// Receives the log without a vote.
    Learner,
    /// Is no member of the epoch in force.
    Removed,
}

impl RoleKind {
    /// The role's name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Learner => "learner",
            Self::Removed => "removed",
        }
    }
}

/// A durable write: all of it atomically, synced, in the order of `seq`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Persist {
    /// Its place in this replica's order of writes.
    pub seq: WriteSeq,
    /// The hard state, where it changed.
    pub hard: Option<HardState>,
    /// Entries at and above this slot are removed first.
    pub truncate_from: Option<Slot>,
    /// Then these are written. Contiguous.
    pub append: Vec<Entry>,
}

/// One thing the driver must do, in the order emitted.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send now; whatever durability the message claims has been reached.
    Send {
        /// The node it goes to.
        to: NodeId,
        /// What it says.
        message: Message,
    },
    /// Write and sync, then `Persisted(seq)`.
    Persist(Persist),
    /// Slots up to here are chosen and durable in this replica's own log: apply them (through
    /// [`crate::Replica::entries_to_apply`]).
    Committed(Slot),
    /// The role changed, or the leader known to it.
    RoleChanged {
        /// The role now.
        role: RoleKind,
        /// The ballot led or followed.
        ballot: Ballot,
        /// The leader, where known.
        leader: Option<NodeId>,
    },
    /// Commands of the last `Propose` got these slots, one after another, starting here.
    Proposed {
        /// Slot of the first command.
        first: Slot,
        /// The ballot they were proposed in. A command is this replica's to answer only if the entry applied at its
        /// slot has this origin.
        ballot: Ballot,
    },
    /// The last `Propose`, `ChangeConfig`, `TransferTo` or `ReadIndex` was refused.
    Refused {
        /// Why.
        why: Refused,
        /// Set for a refused or failed read; reads that waited when leadership ended fail so too.
        read: Option<ReadId>,
    },
    /// Reads may be served once `applied >= slot`.
    ReadReady {
        /// The requests.
        reads: Vec<ReadId>,
        /// The slot.
        slot: Slot,
    },
    /// A new epoch began (the stop-sign at `epoch_start` is chosen and durable here).
    EpochChanged(Membership),
    /// A member's next slot lies below this replica's trim point: only a snapshot brings it further. Said again as long as
    /// that is so.
    NeedSnapshot {
        /// The follower.
        to: NodeId,
    },
    /// Slots up to here are durable at every member: the log below may go once it is applied durably. Beyond it the log may
    /// go as well, at the price of snapshots for members that are behind.
    TrimTo(Slot),
    /// An invariant or the log is broken: the replica has stopped and must be quarantined.
    Fatal(String),
}

/// What the driver may show of a replica.
#[derive(Clone, Debug)]
pub struct Status {
    /// Role.
    pub role: RoleKind,
    /// Promised ballot, staged.
    pub promised: Ballot,
    /// Accepted ballot, staged.
    pub accepted: Ballot,
    /// The leader, where known.
    pub leader: Option<NodeId>,
    /// Known chosen prefix.
    pub commit: Slot,
    /// Chosen and durable here.
    pub committed_durable: Slot,
    /// Last entry, staged.
    pub last: EntryId,
    /// Last entry, durable.
    pub durable: Slot,
    /// As told by the driver.
    pub applied: Slot,
    /// Epoch in force.
    pub membership: Membership,
    /// The slot of the stop-sign that began it.
    pub epoch_start: Slot,
    /// For a leader: each member's acknowledged slot.
    pub progress: Vec<(NodeId, Slot)>,
    /// For a leader: the members that refused to take leadership over a while ago.
    pub unfit: Vec<NodeId>,
}
