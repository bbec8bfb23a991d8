//! Faults that the explorer must find. Compiled only in the package that declares the feature `planted`.
//!
//! Owns: the list. Must never: exist in the shipped crate.

/// One deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `Accepted` leaves without waiting for its write.
    AckBeforeDurable,
    /// `Promise` leaves and nothing is written.
    PromiseNotPersisted,
    /// The leader counts its own staged entries as accepted.
    OwnVoteBeforeSync,
    /// A follower takes the leader's commit index for entries it has not compared.
    StaleCommitIndex,
    /// A restarted candidate prepares the round it recovered instead of one above.
    ReusedBallot,
    /// Reads are answered before the first entry of the leader's own ballot is chosen.
    SkippedNoopRead,
    /// A follower switches to the leader's ballot at the first chunk of a `Sync`.
    PartialSync,
    /// A repeated `Sync` of the accepted ballot truncates.
    SyncTwiceTruncates,
    /// A restarted first leader leads B0 again.
    B0Twice,
    /// The next epoch is entered as soon as its stop-sign is in the log, chosen or not.
    NoConfigEpochs,
    /// The leader goes on proposing behind a stop-sign.
    LostStopSign,
    /// A refusal of phase 1 counts as a promise.
    NackCountsAsPromise,
    /// A leader grants others their reads without being confirmed.
    GrantUnconfirmed,
    /// A supporter promises to others all the same.
    PromisesWhileSupporting,
    /// A restarted replica takes it that the process before it supported nobody.
    RestartForgetsSupport,
    /// A leader counts support from the moment it hears of it.
    LeaseFromReceipt,
    /// A leader counts all of the support by its own clock.
    NoDriftMargin,
    /// A leader serves from its lease while another was told to take over.
    LeaseKeptInTransfer,
    /// A replica serves from the lease of a leadership that is over, be it for an epoch that began.
    LeaseOutlivesLeadership,
    /// The chosen prefix that goes along with entries is the end of the log.
    HintAhead,
    /// A candidate that lacks many slots learns them first, be they known chosen or not.
    FetchCountsUnknown,
    /// A follower does not say what it has staged of a `Sync`.
    StagingUntold,
    /// A leader releases its ballot when it tells another to take over, and may go on leading.
    ReleasesEarly,
    /// What a campaign fetched is kept for the next one behind an own entry that was never compared with the holder's.
    FetchedUncompared,
}

impl Fault {
    /// Every fault that the explorer must find.
    pub const ALL: &[Self] = &[
        Self::AckBeforeDurable,
        Self::PromiseNotPersisted,
        Self::OwnVoteBeforeSync,
        Self::StaleCommitIndex,
        Self::ReusedBallot,
        Self::SkippedNoopRead,
        Self::PartialSync,
        Self::SyncTwiceTruncates,
        Self::B0Twice,
        Self::NoConfigEpochs,
        Self::LostStopSign,
        Self::NackCountsAsPromise,
        Self::GrantUnconfirmed,
        Self::PromisesWhileSupporting,
        Self::RestartForgetsSupport,
        Self::LeaseFromReceipt,
        Self::NoDriftMargin,
        Self::LeaseKeptInTransfer,
        Self::LeaseOutlivesLeadership,
        Self::HintAhead,
        Self::FetchCountsUnknown,
        Self::StagingUntold,
        Self::ReleasesEarly,
    ];

    /// Those of them that only a lag beyond the core's limits shows.
    pub const OF_LAGS: &[Self] = &[Self::FetchCountsUnknown, Self::StagingUntold];

    /// Faults besides these that a golden script shows, and the script: they need a trim point and an own log that meet at one slot.
    pub const OF_SCRIPTS: &[(Self, &str)] = &[(Self::FetchedUncompared, "promise")];

    /// Those of them that only a lease shows.
    pub const OF_LEASES: &[Self] = &[
        Self::PromisesWhileSupporting,
        Self::RestartForgetsSupport,
        Self::LeaseFromReceipt,
        Self::NoDriftMargin,
        Self::LeaseKeptInTransfer,
        Self::LeaseOutlivesLeadership,
    ];
}
