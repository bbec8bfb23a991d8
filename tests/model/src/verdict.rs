//! The properties, as what can be wrong.
//!
//! Owns: the list and its words. Must never: hold a check; the modules that see the matter do.

/// What is wrong with a state. Once something is, the search goes no further from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wrong {
    /// Two replicas call different entries of one slot chosen, or one that was chosen no longer is.
    Agreement,
    /// What a replica calls chosen is not on the disks of a majority of the epoch's voters.
    NotOnQuorum,
    /// An entry is chosen, or written, behind a stop-sign within its epoch.
    BehindStopSign,
    /// A ballot is led in two lives, or twice in one; B0 is one of them.
    LedTwice,
    /// A synced write took back a promise, an acceptance or an epoch.
    WentBack,
    /// A message left before what it claims was on disk.
    ClaimedEarly,
    /// A replica found itself broken, or panicked.
    Failed,
    /// Two nodes of three that are left do not choose a command by themselves.
    Stuck,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Agreement,
        Self::NotOnQuorum,
        Self::BehindStopSign,
        Self::LedTwice,
        Self::WentBack,
        Self::ClaimedEarly,
        Self::Failed,
        Self::Stuck,
    ];

    /// The property that does not hold.
    #[must_use]
    pub fn property(self) -> &'static str {
        match self {
            Self::Agreement => "at most one value is chosen for a slot, and stays",
            Self::NotOnQuorum => "what is called chosen is on the disks of a majority",
            Self::BehindStopSign => "nothing follows a stop-sign within its epoch",
            Self::LedTwice => "a ballot is led once, B0 too",
            Self::WentBack => "promised and accepted never go back, crash or not",
            Self::ClaimedEarly => "no message leaves before what it claims is durable",
            Self::Failed => "no replica fails by itself",
            Self::Stuck => "two that are left choose a command by themselves",
        }
    }
}
