//! What a leader knows.
//!
//! Owns: the progress of the members, waiting reads, a transfer under way, and the leader's timers. Must never: decide on a
//! message; `leader`, `reads` and `transfer` do.

use super::reads::Reads;
use crate::progress::Progress;
use crate::types::{Ballot, Micros, NodeId, Slot, WriteSeq};
use std::collections::BTreeMap;

/// The leadership of one ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    /// Reads wait until this slot is chosen: the first entry of this ballot, or an adopted stop-sign.
    pub(crate) first_own: Slot,
    /// The write that made accepted = ballot durable here; the own vote counts after it.
    pub(crate) own: WriteSeq,
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    pub(crate) uncommitted: usize,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// When to give up for want of a quorum.
    pub(crate) alone_at: Option<Micros>,
    /// When to look for members to be sent to again.
    pub(crate) resend_at: Option<Micros>,
    /// When to tell idle followers the chosen prefix.
    pub(crate) notice_at: Option<Micros>,
    /// When to look whether a quorum still says something, while entries or reads wait for one.
    pub(crate) stalled_at: Option<Micros>,
}

impl Leader {
    pub(crate) fn deadline(&self) -> Option<Micros> {
        let transfer = self.transfer.as_ref().map(|t| t.until);
        let reads = self.reads.deadline();
        [self.alone_at, self.resend_at, self.notice_at, self.stalled_at, transfer, reads].into_iter().flatten().min()
    }
}

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// Taken back then.
    pub(crate) until: Micros,
    pub(crate) told: bool,
}
