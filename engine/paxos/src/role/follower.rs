//! What a replica that follows knows.
//!
//! Owns: a follower's timers and beliefs. Must never: decide on a message; `follower` does.

use super::chunks::Staging;
use crate::types::{Ballot, Micros};

/// A replica that follows, or waits for somebody to follow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    /// The leadership believed in.
    pub(crate) leader: Option<Ballot>,
    /// When to stand for election.
    pub(crate) election_at: Option<Micros>,
    /// Chunks of a `Sync` that has not reached its end.
    pub(crate) staging: Option<Staging>,
    /// When to ask the believed leader whether it leads: while something waits that only it can settle.
    pub(crate) doubt_at: Option<Micros>,
    /// The leader was asked; without a sign of life in this group by then it is believed in no more.
    pub(crate) confirm_by: Option<Micros>,
}

impl Follower {
    pub(crate) fn new(leader: Option<Ballot>) -> Self {
        Self { leader, election_at: None, staging: None, doubt_at: None, confirm_by: None }
    }
}
