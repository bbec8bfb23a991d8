//! What a leader does when an answer does not come: it asks, and in the end gives up.
//!
//! Owns: the questions to members that do not move on, and the look for a quorum that still says something. Must never: send
//! again what may only be slow, or lead on where nothing that waits can be settled.

use crate::progress::Mode;
use crate::replica::{Io, Replica};
use crate::role::Role;
use crate::types::{Micros, NodeId};

impl Replica {
    pub(crate) fn arm_resend(&mut self, now: Micros) {
        let at = now.plus(self.options.resend_us);
        if let Role::Leader(leader) = &mut self.role {
            leader.resend_at.get_or_insert(at);
        }
    }

    /// Whether entries or reads wait for a quorum that has said nothing since, for too long. Arms the next look.
    pub(crate) fn is_stalled(&mut self, now: Micros) -> bool {
        let pause = self.options.stall_us;
        let (me, membership) = (self.me, &self.hard.membership);
        let Role::Leader(leader) = &mut self.role else { return false };
        let heard = |n: NodeId| if n == me { now } else { leader.progress.get(&n).map_or(Micros(0), |p| p.heard_at) };
        let mut heard: Vec<Micros> = membership.voters().map(heard).collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        let looked = leader.stalled_at.map_or(0, |at| at.0.saturating_sub(pause));
        let silent = heard[membership.quorum() - 1].max(Micros(looked));
        leader.stalled_at = Some(silent.plus(pause));
        silent.plus(pause) <= now
    }

    /// A leader that waits for its quorum checks after a while whether the quorum is still there: the failure detector may call
    /// the nodes alive while the replicas on them are not.
    pub(crate) fn watch_quorum(&mut self, now: Micros) {
        let pause = self.options.stall_us;
        let open = self.commit < self.log.last().slot;
        if let Role::Leader(leader) = &mut self.role {
            if pause > 0 && (open || leader.reads.wait()) {
                leader.stalled_at.get_or_insert(now.plus(pause));
            } else {
                leader.stalled_at = None;
            }
        }
    }

    /// Messages to a member found no room. The member is asked in time and then says what it lacks. Until then further runs
    /// would be dropped too, or arrive after a gap.
    pub(crate) fn on_dropped(&mut self, to: NodeId, io: &mut Io<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        if !progress.inflight.is_empty() {
            progress.stopped = true;
            self.arm_resend(io.now);
        }
    }

    /// Asks live members that owe something and have not moved for a while for their position; stays armed while any owes.
    /// Links are in order: what the answer lacks is lost, and what is only slow is not sent twice.
    pub(crate) fn resend(&mut self, io: &mut Io<'_>) {
        let (last, commit) = (self.log.last().slot, self.commit);
        let pause = self.options.resend_us;
        let now = io.now;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.resend_at = None;
        let mut owing = false;
        let mut again = Vec::new();
        for (node, progress) in &mut leader.progress {
            let owes = progress.mode != Mode::Pipeline || progress.matched < last || progress.commit < commit;
            if !owes || !self.alive.contains(node) {
                continue;
            }
            owing = true;
            if progress.ask_at(pause) <= now {
                progress.moved_at = now;
                progress.asked = progress.asked.saturating_add(1);
                progress.rewound = None;
                again.push(*node);
            }
        }
        again.into_iter().for_each(|node| self.probe(node, io));
        owing |= self.resend_reads(io);
        owing |= self.resend_transfer(io);
        if owing {
            self.arm_resend(io.now);
        }
    }
}
