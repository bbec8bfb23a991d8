//! What a replica owes to a leader.
//!
//! Owns: whom it supports, until when, and the `Prepare` that waits. Must never: decide on a message; `support` does.

use crate::types::{Ballot, Micros, NodeId, Slot};

/// What a replica owes to a leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Support {
    /// The leadership supported last; unknown where a process before this one may have supported some.
    pub(crate) to: Option<Ballot>,
    pub(crate) until: Micros,
    /// The greatest ballot that asked for a promise meanwhile, who asked, and what it knew chosen.
    pub(crate) held: Option<(Ballot, NodeId, Slot)>,
}

impl Support {
    /// The time at which the held `Prepare` is answered.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.held.map(|_| self.until)
    }
}
