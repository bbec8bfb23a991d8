//! What replicas of one group say to each other.
//!
//! Owns: the message types. Must never: decide anything. Links are FIFO per (sender, receiver, incarnation), may lose,
//! and across reconnections may duplicate; messages carry the sender's ballot and nothing else of its identity: the
//! envelope names sender, receiver and group.

use crate::types::{Ballot, Entry, EntryId, Epoch, ReadId, Run, Slot};

/// One message of a group. The protocol tables in the crate's documentation say what each does in each state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// "Would you promise `ballot`?" Changes nothing at the receiver.
    PreVote {
        /// The ballot the sender would prepare.
        ballot: Ballot,
        /// The log it would stand with; left out before cluster version 2.
        held: Option<Held>,
    },
    /// The receiver would promise.
    PreVoteGranted {
        /// The ballot asked about.
        ballot: Ballot,
    },
    /// The receiver would not, because it follows a live leader or promised more.
    PreVoteRefused {
        /// The ballot asked about.
        ballot: Ballot,
        /// The receiver's promise.
        promised: Ballot,
        /// The leadership the receiver still believes in; the candidate and the voter ask its node to confirm it.
        leader: Option<Ballot>,
    },
    /// "Do you still lead `ballot`?" Sent to `ballot.node` by a voter that refused, or a candidate that was refused.
    Confirm {
        /// The believed leadership.
        ballot: Ballot,
    },
    /// "I no longer lead `ballot`", so that no stale belief blocks an election.
    Released {
        /// The leadership that ended.
        ballot: Ballot,
    },
    /// Phase 1a. Durable first: the sender's own promise of `ballot`.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The candidate's chosen prefix.
        commit: Slot,
    },
    /// Phase 1b. Durable first: the promise of `ballot`.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The sender's accepted ballot.
        accepted: Ballot,
        /// Its chosen prefix.
        commit: Slot,
        /// Its last entry (durable).
        last: EntryId,
        /// Headers of its log: origins of the slots after the lesser of the candidate's `commit` and its own (or after its
        /// own trim point, if later) up to `last`, the run that covers the first such slot starting there.
        runs: Vec<Run>,
    },
    /// The receiver promised more than the message's ballot.
    Nack {
        /// The ballot refused.
        ballot: Ballot,
        /// The refuser's promise.
        promised: Ballot,
    },
    /// A candidate or leader asks for entries it lacks: slots in `(from, upto]` of the log of `accepted`.
    Fetch {
        /// The asker's ballot.
        ballot: Ballot,
        /// The log asked for is that of a replica that accepted this.
        accepted: Ballot,
        /// Exclusive lower end.
        from: Slot,
        /// Inclusive upper end.
        upto: Slot,
    },
    /// Answer to `Fetch`: a contiguous run, at most one message long; ask again for the rest.
    Fetched {
        /// The asker's ballot.
        ballot: Ballot,
        /// Slot and origin before the first entry.
        prev: EntryId,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The new leader's adopted log as far as this follower lacks it. A follower stages chunks in memory and switches
    /// (truncate, append, promised = accepted = ballot) in one atomic write at the last one.
    Sync {
        /// The leadership.
        ballot: Ballot,
        /// The entry after which this chunk begins.
        prev: EntryId,
        /// The chunk.
        entries: Vec<Entry>,
        /// Where the adopted log ends; the chunk that reaches it is the last.
        end: EntryId,
        /// The leader's chosen prefix.
        commit: Slot,
    },
    /// Phase 2a for a contiguous run of slots; empty as a probe, a commit notice or a retransmission request.
    Accept {
        /// The leadership.
        ballot: Ballot,
        /// The entry before the first of `entries`.
        prev: EntryId,
        /// The run.
        entries: Vec<Entry>,
        /// The leader's chosen prefix.
        commit: Slot,
        /// Every member has slots up to here durably; the log below may be trimmed once it is applied durably.
        all_have: Slot,
    },
    /// Phase 2b. Durable first: accepted = ballot and the whole prefix up to `upto`.
    Accepted {
        /// The leadership.
        ballot: Ballot,
        /// The last slot held durably under `ballot`.
        upto: Slot,
        /// The sender's chosen prefix.
        commit: Slot,
    },
    /// The receiver of `Accept` lacks something: its accepted ballot is older, or `prev` is beyond its log. A replica that has
    /// just begun says it unasked: an earlier `Accept` may have found nobody.
    Behind {
        /// The leadership answered.
        ballot: Ballot,
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender's accepted ballot.
        accepted: Ballot,
        /// The sender's chosen prefix.
        commit: Slot,
        /// Its last entry.
        last: EntryId,
        /// As in `Promise`, from its own commit on.
        runs: Vec<Run>,
    },
    /// Chosen entries, from any replica to one that lacks them. Also the answer to any message of an older epoch: it
    /// carries the stop-sign or the way towards it.
    Learn {
        /// The epoch the sender is in.
        epoch: Epoch,
        /// The sender's promise: at or above every ballot that chose what it knows chosen. The receiver promises as much,
        /// so that no candidate below it can count on a promise given before.
        promised: Ballot,
        /// The entry before the first of `entries`.
        prev: EntryId,
        /// Chosen entries.
        entries: Vec<Entry>,
        /// The sender's chosen prefix.
        commit: Slot,
    },
    /// Progress of a replica that was sent `Learn`. Durable first: the prefix up to `commit`.
    Learned {
        /// The sender's epoch.
        epoch: Epoch,
        /// Its chosen and durable prefix.
        commit: Slot,
    },
    /// "Has anyone promised above `ballot`?" Confirms leadership for reads.
    ReadProbe {
        /// The leadership.
        ballot: Ballot,
        /// The leader's counter of probes.
        probe: u64,
    },
    /// The receiver had promised nothing above `ballot` when the probe arrived.
    ReadAck {
        /// The leadership.
        ballot: Ballot,
        /// The probe answered.
        probe: u64,
        /// From its arrival on the sender promises nothing to others for so long by its own clock, µs; 0: no such word.
        support: u64,
    },
    /// A follower or learner asks the leader it believes in as of which slot a read that came to it may be served.
    ReadRequest {
        /// The leadership.
        ballot: Ballot,
        /// The sender's name for the read.
        read: ReadId,
    },
    /// Every write acknowledged before the request left stands at or below `slot`.
    ReadGranted {
        /// The leadership, which was confirmed behind the request's arrival or held a lease then.
        ballot: Ballot,
        /// The read asked for.
        read: ReadId,
        /// As of which slot it may be served.
        slot: Slot,
    },
    /// The leader hands over: the receiver holds the whole log and may prepare at once, without pre-vote.
    TimeoutNow {
        /// The leadership that ends.
        ballot: Ballot,
    },
    /// The target of `TimeoutNow` cannot lead: it lacks the state for that. From cluster version 2 on.
    TransferRefused {
        /// The leadership that wanted to end.
        ballot: Ballot,
    },
}

/// The log that a candidate would stand with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its accepted ballot.
    pub accepted: Ballot,
    /// Its last entry, durable or not.
    pub last: EntryId,
    /// Its chosen prefix.
    pub commit: Slot,
}

impl Message {
    /// Its name, for counts and traces.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PreVote { .. } => "PreVote",
            Self::PreVoteGranted { .. } => "PreVoteGranted",
            Self::PreVoteRefused { .. } => "PreVoteRefused",
            Self::Confirm { .. } => "Confirm",
            Self::Released { .. } => "Released",
            Self::Prepare { .. } => "Prepare",
            Self::Promise { .. } => "Promise",
            Self::Nack { .. } => "Nack",
            Self::Fetch { .. } => "Fetch",
            Self::Fetched { .. } => "Fetched",
            Self::Sync { .. } => "Sync",
            Self::Accept { .. } => "Accept",
            Self::Accepted { .. } => "Accepted",
            Self::Behind { .. } => "Behind",
            Self::Learn { .. } => "Learn",
            Self::Learned { .. } => "Learned",
            Self::ReadProbe { .. } => "ReadProbe",
            Self::ReadAck { .. } => "ReadAck",
            Self::ReadRequest { .. } => "ReadRequest",
            Self::ReadGranted { .. } => "ReadGranted",
            Self::TimeoutNow { .. } => "TimeoutNow",
            Self::TransferRefused { .. } => "TransferRefused",
        }
    }
}
