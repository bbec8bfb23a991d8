//! Changes of a shard's members.
//!
//! Owns: what one change is, and when a learner has caught up. Must never: decide whether a change is made; the shard's leader does.

use crate::ids::{NodeId, Slot};
use std::fmt;

/// A learner that lacks at most this many slots has caught up: under load it never lacks none.
pub const CAUGHT_UP_SLOTS: u64 = 1_000;

/// Whether a learner that holds the log up to `held` may vote where the log ends at `last`.
#[must_use]
pub fn has_caught_up(held: Slot, last: Slot) -> bool {
    held > Slot(0) && held.0.saturating_add(CAUGHT_UP_SLOTS) >= last.0
}

/// A change of a shard's members.
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

/// What was done, for who watches.
impl fmt::Display for MemberChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learn(node) => write!(f, "node {node} added as a learner"),
            Self::Promote { node, instead_of: Some(old) } => write!(f, "node {node} replaces node {old} as a voter"),
            Self::Promote { node, instead_of: None } => write!(f, "node {node} added as a voter"),
            Self::Remove(node) => write!(f, "node {node} removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_without_a_log_has_not_caught_up() {
        assert!(!has_caught_up(Slot(0), Slot(10)), "its replica may not exist yet");
        assert!(has_caught_up(Slot(1), Slot(1 + CAUGHT_UP_SLOTS)));
        assert!(!has_caught_up(Slot(1), Slot(2 + CAUGHT_UP_SLOTS)));
        assert!(has_caught_up(Slot(9), Slot(5)), "the leader's report may be older");
    }
}
