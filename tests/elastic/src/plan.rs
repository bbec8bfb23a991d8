//! What a schedule is like, and which fault is planted in it.
//!
//! Owns: the actions with their weights, the bents of schedules, and the faults. Must never: change while a schedule runs.

use crate::dice::Dice;

/// A fault in a step that the explorer makes where the worker, the node or the client would act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// The birth of a child begins a log anew that is here already.
    CreationResetsLog,
    /// A child whose log is here without its base begins with nothing.
    UnbornBeginsEmpty,
    /// A node begins a replica of a child with nothing, because the map shows the child in its first epoch.
    CreateFromMap,
    /// A replica takes all rows of its spaces with it.
    RemoveWholeSpace,
    /// A read waits for what its leader has applied, not for what it knows as chosen.
    ReadAsApplied,
    /// The version of a read is compared only when the read comes.
    ReadsNotRechecked,
    /// The version of a tail is compared only when the tail comes.
    TailNotRechecked,
    /// No snapshot is made of a child that has applied nothing.
    NoSnapshotAt0,
    /// Only a leader of an epoch that has begun tells what its shard's bounds are.
    OnlyBegunEpochsReport,
    /// A tail's answer counts for all of its lane, also beyond the shard that gave it.
    TailRaisesLane,
    /// A snapshot lacks the sessions.
    SnapshotWithoutSessions,
    /// A word of an earlier freeze counts for the next merge.
    AckOfEarlierFreeze,
    /// A node gives its word before the freeze is flushed.
    AbsorbBeforeFlushed,
    /// A replica that is frozen for another shard goes as any other does.
    SourceLeavesEarly,
}

impl HostFault {
    /// Those that random schedules find.
    pub const ALL: &[Self] = &[
        Self::CreationResetsLog,
        Self::UnbornBeginsEmpty,
        Self::CreateFromMap,
        Self::RemoveWholeSpace,
        Self::ReadAsApplied,
        Self::ReadsNotRechecked,
        Self::TailNotRechecked,
        Self::NoSnapshotAt0,
        Self::TailRaisesLane,
        Self::SnapshotWithoutSessions,
        Self::AbsorbBeforeFlushed,
    ];
}

/// The fault that is planted in a schedule. The default is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// In the engine.
    #[cfg(feature = "planted")]
    pub engine: Option<synod_engine::planted::Fault>,
    /// In what nodes and clients decide alike.
    #[cfg(feature = "planted")]
    pub cluster: Option<synod_cluster::planted::Fault>,
    /// In the explorer's own steps.
    pub host: Option<HostFault>,
}

impl Planted {
    /// A fault in the explorer's own steps.
    #[must_use]
    pub fn in_host(fault: HostFault) -> Self {
        Self {
            #[cfg(feature = "planted")]
            engine: None,
            #[cfg(feature = "planted")]
            cluster: None,
            host: Some(fault),
        }
    }

    /// Plants it in the crates under this one, on this thread.
    pub(crate) fn begin(self) {
        #[cfg(feature = "planted")]
        {
            synod_engine::planted::plant(self.engine);
            synod_cluster::planted::plant(self.cluster);
        }
    }

    /// Takes away what [`Planted::begin`] planted.
    pub(crate) fn end() {
        Self::default().begin();
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Choose,
    Apply,
    Hear,
    Catch,
    Elect,
    Deliver,
    NewWrite,
    Send,
    TimeOut,
    Split,
    Move,
    Flush,
    LogWrite,
    Trim,
    Crash,
    Restart,
    Die,
    Snapshot,
    Report,
    Index,
    Adopt,
    ClientMap,
    Later,
    Read,
    Serve,
    Poll,
    Tail,
    Lease,
    OldName,
    ShrinkRing,
    Merge,
    Drive,
    Word,
}

/// What is added where shards are merged.
const OF_MERGES: [(Action, u64); 3] = [(Action::Merge, 6), (Action::Drive, 18), (Action::Word, 16)];

const USUAL: [(Action, u64); 30] = [
    (Action::Choose, 24),
    (Action::Apply, 40),
    (Action::Hear, 8),
    (Action::Catch, 6),
    (Action::Elect, 7),
    (Action::Deliver, 18),
    (Action::NewWrite, 8),
    (Action::Send, 6),
    (Action::TimeOut, 3),
    (Action::Split, 4),
    (Action::Move, 5),
    (Action::Flush, 6),
    (Action::LogWrite, 5),
    (Action::Trim, 4),
    (Action::Crash, 2),
    (Action::Restart, 9),
    (Action::Die, 1),
    (Action::Snapshot, 6),
    (Action::Report, 5),
    (Action::Index, 6),
    (Action::Adopt, 6),
    (Action::ClientMap, 4),
    (Action::Later, 1),
    (Action::Read, 5),
    (Action::Serve, 6),
    (Action::Poll, 5),
    (Action::Tail, 6),
    (Action::Lease, 4),
    (Action::OldName, 7),
    (Action::ShrinkRing, 1),
];

/// How a bent changes the usual weights, in percent.
type Bent = &'static [(Action, u64)];

/// Schedules with every fault at once seldom get far: each has a bent of its own.
const BENTS: [Bent; 7] = [
    &[],
    &[
        (Action::Split, 300),
        (Action::Crash, 300),
        (Action::Trim, 400),
        (Action::Snapshot, 300),
        (Action::Die, 800),
        (Action::Flush, 60),
        (Action::Move, 0),
        (Action::NewWrite, 50),
    ],
    &[
        (Action::Split, 300),
        (Action::Crash, 200),
        (Action::Trim, 300),
        (Action::Snapshot, 200),
        (Action::Die, 300),
        (Action::Flush, 40),
    ],
    &[(Action::Move, 300), (Action::Report, 200), (Action::Index, 200), (Action::Adopt, 200), (Action::Snapshot, 200)],
    &[(Action::NewWrite, 200), (Action::Send, 200), (Action::Poll, 200), (Action::Read, 200), (Action::Crash, 50)],
    &[(Action::Split, 200), (Action::NewWrite, 200), (Action::OldName, 300), (Action::Move, 0), (Action::Die, 0)],
    &[(Action::Split, 300), (Action::Report, 20), (Action::Index, 50), (Action::Crash, 50), (Action::Read, 300)],
];

/// What one schedule does, and how often.
pub(crate) struct Plan {
    /// Actions, each as often as it weighs.
    actions: Vec<Action>,
}

impl Plan {
    /// Chooses the bent of a schedule.
    pub(crate) fn choose(dice: &mut Dice, merges: bool) -> Self {
        let bent = BENTS[dice.index(BENTS.len())];
        let percent = |action| bent.iter().find(|(bent, _)| *bent == action).map_or(100, |(_, percent)| *percent);
        let mut actions = Vec::new();
        for (action, weight) in USUAL {
            let times = weight * percent(action) / 10;
            actions.extend(std::iter::repeat_n(action, times as usize));
        }
        for (action, weight) in OF_MERGES.into_iter().filter(|_| merges) {
            actions.extend(std::iter::repeat_n(action, weight as usize * 10));
        }
        Self { actions }
    }

    /// The next action.
    pub(crate) fn next(&self, dice: &mut Dice) -> Action {
        self.actions[dice.index(self.actions.len())]
    }
}
