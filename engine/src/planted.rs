//! Faults that the whole-node simulation or the explorer of splits must find. Compiled only in the package that declares the
//! feature `planted`.
//!
//! Owns: the list, and which one is planted on this thread. Must never: exist in the shipped crate.

use std::cell::Cell;

/// One deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sessions in the state are not read back at a start.
    SessionsLostAtRestart,
    /// A freeze of the state leaves the sessions out.
    FreezeWithoutSessions,
    /// A write met again executes again.
    RetriesExecuteTwice,
    /// A write past its deadline executes.
    DeadlineIgnored,
    /// A leader answers linearizable reads without asking a quorum.
    ReadWithoutQuorum,
    /// A stale read is answered by the leader's last word, however old that is.
    AgeIgnored,
    /// A write is answered by whatever entry took its slot.
    AnswerOfAnotherBallot,
    /// A write proposed under a leadership that was lost is called not proposed.
    LostProposalDenied,
    /// The log is trimmed above what the state on disk holds.
    TrimAboveDurable,
    /// The log is trimmed above what every member has.
    TrimAboveMembers,
    /// A data directory that was set back or wiped goes on voting.
    IdentityIgnored,
    /// Frames claim a write that is not yet durable.
    WriteClaimedEarly,
    /// A write handed to the log writer's thread is taken for durable.
    HandedOverCounts,
    /// An entry read back is not summed.
    ChecksumIgnored,
    /// A failed write of the log is taken for done.
    FailedWriteGoesOn,
    /// A failed flush of the state is taken for done.
    FailedFlushGoesOn,
    /// Timestamps begin anew where a restart finds no entry in the log.
    TimestampsForgotten,
    /// A conditional write ignores its expectation.
    ExpectationIgnored,
    /// A snapshot lacks the sessions.
    SnapshotWithoutSessions,
    /// A snapshot does not carry its maker's promise.
    SnapshotWithoutPromise,
    /// The hard state of an installed snapshot is the maker's alone.
    InstallForgetsPromise,
    /// A replica whose state was gone begins its log anew behind the snapshot.
    ReinstallForgetsLog,
    /// The pointer goes to a snapshot's rows before they are durable.
    InstallBeforeLoaded,
    /// The old rows go before the pointer away from them is durable.
    OldSpaceRemovedEarly,
    /// No checksum of a snapshot's file is looked at.
    DamagedChunkAccepted,
    /// The log is trimmed above a snapshot that is on its way.
    TrimAboveSnapshot,
    /// The log is not kept for a member that comes on behind its snapshot.
    HoldEndsWithSnapshot,
    /// The map is told of members before an entry of their epoch is chosen: the old ones go too early.
    MembersToldEarly,
    /// A member of a later epoch begins with nothing.
    JoinsWithNothing,
    /// A worker takes the write after the last synced one for synced, whichever worker's it is.
    NextWriteCounts,
    /// Two snapshots are loaded into one space.
    SpaceGivenTwice,
    /// A worker writes down an older mark of a peer than another worker has.
    OlderMarkWritten,
    /// Every worker has a replica of each shard of the node.
    EveryWorkerHasAll,
    /// A node that starts sweeps the spaces of other workers' shards.
    SweepsOthersSpaces,
    /// Messages are handed to the worker of another shard.
    MessageToAnotherWorker,
    /// Only one worker is told of a new map.
    MapToOneWorker,
    /// A shard goes to another worker while a write of it is under way, which is taken for durable.
    HandedOverMidWrite,
    /// A shard goes to another worker before its rows are flushed.
    HandedOverUnflushed,
    /// A shard that is about to go to another worker goes on applying behind the freeze that makes its rows durable.
    HandedOverApplies,
    /// The child of a split whose first rows are not on disk begins with nothing and applies its log to that.
    UnbornBeginsEmpty,
    /// A parent's replay makes the child anew, over what the child has promised and accepted.
    CreationResetsLog,
    /// A snapshot takes a replica's place, or a replica goes, whatever of its range is nowhere else on the node.
    NoCustody,
    /// A child begins without the sessions of its parent.
    SplitWithoutSessions,
    /// The clock of a child's timestamps begins anew.
    SplitResetsTime,
    /// A parent executes a write of a key that it has given up.
    LateParentExecutes,
    /// The ring of a child claims a window of which it has nothing.
    ChildRingClaimsAll,
    /// A frozen shard answers reads.
    FreezeLetsReads,
    /// A frozen shard goes on applying what is in its log.
    FrozenGoesOn,
    /// A shard takes another one in although that was cancelled, whatever the other is by then.
    AbsorbAfterCancel,
    /// A merge leaves the sessions of the source out.
    MergeWithoutSessions,
    /// Of two floors of a client a merge keeps the lesser.
    MergeLosesFloor,
    /// The clock of a target's timestamps does not rise to its source's.
    MergeKeepsOwnTime,
    /// A merge forgets the children of the source.
    MergeForgetsChildren,
    /// The ring of a target claims the wider of two windows.
    MergeRingClaimsAll,
    /// An unfreeze counts only where its shard is in no merge.
    MutualMergesWait,
    /// An unfreeze that comes before the freeze does not fence it.
    LateFreeze,
}

impl Fault {
    /// Those of splits and merges that the explorer of splits finds by random schedules.
    pub const SPLITS: &[Self] = &[
        Self::SplitWithoutSessions,
        Self::SplitResetsTime,
        Self::LateParentExecutes,
        Self::ChildRingClaimsAll,
        Self::FrozenGoesOn,
        Self::AbsorbAfterCancel,
        Self::MergeWithoutSessions,
        Self::MergeKeepsOwnTime,
        Self::MergeRingClaimsAll,
        Self::MutualMergesWait,
        Self::LateFreeze,
    ];

    /// Every fault that breaks an invariant of whole nodes: what only makes members wait has a scenario of its own.
    pub const ALL: &[Self] = &[
        Self::SessionsLostAtRestart,
        Self::FreezeWithoutSessions,
        Self::RetriesExecuteTwice,
        Self::DeadlineIgnored,
        Self::ReadWithoutQuorum,
        Self::AgeIgnored,
        Self::AnswerOfAnotherBallot,
        Self::LostProposalDenied,
        Self::TrimAboveDurable,
        Self::TrimAboveMembers,
        Self::IdentityIgnored,
        Self::WriteClaimedEarly,
        Self::HandedOverCounts,
        Self::ChecksumIgnored,
        Self::FailedWriteGoesOn,
        Self::FailedFlushGoesOn,
        Self::TimestampsForgotten,
        Self::ExpectationIgnored,
        Self::SnapshotWithoutSessions,
        Self::SnapshotWithoutPromise,
        Self::InstallForgetsPromise,
        Self::ReinstallForgetsLog,
        Self::InstallBeforeLoaded,
        Self::OldSpaceRemovedEarly,
        Self::DamagedChunkAccepted,
        Self::TrimAboveSnapshot,
        Self::MembersToldEarly,
        Self::JoinsWithNothing,
        Self::NextWriteCounts,
        Self::SpaceGivenTwice,
        Self::OlderMarkWritten,
        Self::EveryWorkerHasAll,
        Self::SweepsOthersSpaces,
        Self::MessageToAnotherWorker,
        Self::MapToOneWorker,
        Self::HandedOverMidWrite,
        Self::HandedOverUnflushed,
        Self::HandedOverApplies,
        Self::UnbornBeginsEmpty,
        Self::CreationResetsLog,
        Self::NoCustody,
        Self::SplitWithoutSessions,
        Self::SplitResetsTime,
        Self::LateParentExecutes,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Plants a fault in every node that runs on this thread from now on, or takes it away.
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether it is planted here.
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
