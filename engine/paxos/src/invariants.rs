//! Local invariants, checked at the end of every step where cheap and on demand otherwise.
//!
//! Owns: the checks. Must never: change anything.

use crate::replica::Replica;
use crate::role::Role;

impl Replica {
    /// Checks what one replica can know of the protocol's invariants.
    ///
    /// # Errors
    /// The first invariant that does not hold, with its operands.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_cheap()
    }

    /// Constant-time checks.
    pub(crate) fn check_cheap(&self) -> Result<(), String> {
        let hard = &self.hard;
        if hard.accepted > hard.promised {
            return Err(format!("accepted {:?} above promised {:?}", hard.accepted, hard.promised));
        }
        if hard.promised.epoch != hard.membership.epoch || hard.accepted.epoch != hard.membership.epoch {
            return Err(format!("promised {:?} of another epoch than {:?}", hard.promised, hard.membership.epoch));
        }
        self.log.check()?;
        let (applied, committed, commit) = (self.applied, self.committed, self.commit);
        if applied > committed || committed > commit || commit > self.log.last().slot {
            let last = self.log.last().slot;
            return Err(format!("applied {applied} <= committed {committed} <= commit {commit} <= last {last}"));
        }
        if self.stop_sign.is_some_and(|s| s != self.log.last().slot) {
            return Err(format!("stop-sign at {:?}, but the log ends at {:?}", self.stop_sign, self.log.last()));
        }
        match &self.role {
            Role::Leader(leader) if leader.ballot != hard.promised || leader.ballot != hard.accepted => {
                Err(format!("leads {:?}, promised {:?}, accepted {:?}", leader.ballot, hard.promised, hard.accepted))
            }
            Role::Leader(leader) if leader.ballot.node != self.me => {
                Err(format!("node {} leads the ballot {:?} of another", self.me, leader.ballot))
            }
            Role::Candidate(_) if !self.is_voter() => Err("a candidate without a vote".into()),
            _ => Ok(()),
        }
    }
}
