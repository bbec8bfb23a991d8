//! Planned hand-over of leadership.
//!
//! Source: Ongaro (2014), section 3.10.
//!
//! Owns: a transfer under way. Must never: take proposals while one is, or tell a voter to campaign that lacks entries.

use crate::fault;
use crate::io::{Output, Refused};
use crate::message::Message;
use crate::replica::{Io, Replica};
use crate::role::{Role, Transfer};
use crate::types::{Ballot, NodeId};

/// How long a member that refused to take over is not asked again, as a multiple of the longest transfer: it may get its state
/// back meanwhile.
const UNFIT_TRANSFERS: u64 = 10;

impl Replica {
    pub(crate) fn on_transfer_to(&mut self, to: NodeId, io: &mut Io<'_>) {
        let known = self.leader();
        let unfit =
            matches!(&self.role, Role::Leader(l) if l.progress.get(&to).is_some_and(|p| p.unfit_until.is_some()));
        let fit = to != self.me && self.peer_voters().contains(&to) && self.alive.contains(&to) && !unfit;
        let stopping = self.stop_sign.is_some();
        let until = io.now.plus(self.options.transfer_us);
        let why = match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_some() || stopping => Refused::Changing,
            Role::Leader(leader) if fit => {
                leader.transfer = Some(Transfer { to, until, told: false });
                return self.advance_transfer(io);
            }
            Role::Leader(_) => Refused::InvalidTarget,
            Role::Follower(_) | Role::Candidate(_) => Refused::NotLeader { leader: known },
        };
        io.out.push(Output::Refused { why, read: None });
    }

    /// Once the target holds the whole log it is told to campaign at once.
    pub(crate) fn advance_transfer(&mut self, io: &mut Io<'_>) {
        let last = self.log.last().slot;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let holds = leader.progress.get(&transfer.to).is_some_and(|p| p.matched == last);
        if holds && !transfer.told {
            transfer.told = true;
            leader.reads.end_lease();
            let (to, ballot) = (transfer.to, leader.ballot);
            io.send(to, Message::TimeoutNow { ballot });
            self.arm_resend(io.now);
            if fault!(self, ReleasesEarly) {
                self.release(io);
            }
        }
    }

    /// The target cannot lead: proposals are taken again at once, and it is not asked again for a while.
    pub(crate) fn on_transfer_refused(&mut self, from: NodeId, ballot: Ballot, io: &Io<'_>) {
        let until = io.now.plus(UNFIT_TRANSFERS * self.options.transfer_us);
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot {
            return;
        }
        if let Some(progress) = leader.progress.get_mut(&from) {
            progress.unfit_until = Some(until);
        }
        leader.transfer.take_if(|transfer| transfer.to == from);
    }

    /// Tells the target again; whether a transfer is still under way.
    pub(crate) fn resend_transfer(&mut self, io: &mut Io<'_>) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(transfer) = &mut leader.transfer else { return false };
        if transfer.told {
            transfer.told = false;
            self.advance_transfer(io);
        }
        true
    }

    /// A transfer that took too long is taken back.
    pub(crate) fn expire_transfer(&mut self, io: &mut Io<'_>) {
        if let Role::Leader(leader) = &mut self.role
            && leader.transfer.as_ref().is_some_and(|t| t.until <= io.now)
        {
            leader.transfer = None;
        }
    }
}
