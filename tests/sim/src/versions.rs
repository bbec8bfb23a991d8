//! Which cluster version each process speaks, and whether and when the cluster's is raised.
//!
//! Owns: the binary that each process is started from. Must never: start a process of the older binary once the cluster may have
//! been raised.
//!
//! All run the same production code: a process of the older binary is one that is told to speak the first version only. A cluster whose
//! shards are split is founded at the version that knows splits, and all its processes are told to speak that.

use crate::dice::Dice;
use synod_cluster::ids::ClusterVersion;

/// A run's choices here are drawn apart from all others.
const SALT: u64 = 0x7665_7273_696f_6e73;

/// How the version goes in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The cluster is raised before the first fault.
    Raised,
    /// It stays at the first version, and processes of both binaries run.
    Held,
    /// Processes of both binaries run, and the operator raises it while faults strike, from this time on, µs.
    Rising(u64),
}

/// The versions of one run.
pub(crate) struct Versions {
    way: Way,
    /// The cluster is founded at the version that knows splits.
    splits: bool,
    pub(crate) dice: Dice,
    /// Every process that starts from now on is of the newer binary.
    pub(crate) forward: bool,
}

impl Versions {
    /// Chosen by the seed.
    pub(crate) fn choose(seed: u64, splits: bool) -> Self {
        let mut dice = Dice::new(seed ^ SALT);
        let way = match dice.below(10) {
            0..4 => Way::Raised,
            4..6 => Way::Held,
            _ => Way::Rising(dice.between((300_000, 8_000_000))),
        };
        Self { way, splits, dice, forward: way == Way::Raised }
    }

    /// Nobody stops processes in order to raise the cluster: where that was to be done, it is raised before the first fault.
    pub(crate) fn settle(&mut self) {
        self.splits = false;
        if matches!(self.way, Way::Rising(_)) {
            (self.way, self.forward) = (Way::Raised, true);
        }
    }

    /// Whether the cluster is raised before the first fault.
    pub(crate) fn begins_raised(&self) -> bool {
        self.way == Way::Raised && !self.splits
    }

    /// The version that the cluster is founded at.
    pub(crate) fn founded_at(&self) -> ClusterVersion {
        if self.splits { ClusterVersion::FOURTH } else { ClusterVersion::FIRST }
    }

    /// What a node that joins says it speaks.
    pub(crate) fn of_a_joiner(&self) -> ClusterVersion {
        if self.begins_raised() { ClusterVersion::SPOKEN } else { self.founded_at() }
    }

    /// When the operator first looks at the cluster in order to raise it, µs from the first fault on.
    pub(crate) fn rises_after(&self) -> Option<u64> {
        match self.way {
            Way::Rising(after) if !self.splits => Some(after),
            _ => None,
        }
    }

    /// What the next process speaks.
    pub(crate) fn next(&mut self) -> ClusterVersion {
        if self.splits {
            return ClusterVersion::FOURTH;
        }
        if self.forward || self.dice.chance(500) { ClusterVersion::SPOKEN } else { ClusterVersion::FIRST }
    }
}
