//! Replicas compared by what they will do, for a model checker that visits every state once.
//!
//! Owns: which fields tell two replicas apart without telling their futures apart. Must never: be called by a driver that
//! has a clock, or change what a replica does under one that has none.

use crate::replica::Replica;
use crate::role::{Phase, Role};
use crate::types::{Micros, WriteSeq};

impl Replica {
    /// Brings the replica into a normal form, so that two that will act alike are equal.
    ///
    /// For a driver without a clock: every step but a `Tick` happens at an instant before, and every `Tick` at one after, all
    /// deadlines; so of a timer only counts whether it is armed, and an armed one becomes due at `at`. Writes are counted
    /// from the last durable one, which becomes number 0: the next write to confirm is 1. What was last shown of the role is
    /// forgotten, so each step shows it.
    pub fn canonicalise(&mut self, at: Micros) {
        let base = self.writes.rebase();
        let shift = |seq: &mut WriteSeq| seq.0 = seq.0.saturating_sub(base.0);
        self.b0_after.iter_mut().for_each(shift);
        self.commit_after.iter_mut().for_each(shift);
        self.seen_round = self.seen_round.max(self.hard.promised.round);
        self.shown = None;
        self.followed.values_mut().for_each(|followed| followed.normalise(at));
        // Time stands still, so no answer is late and no member slow. A log so short never takes a hint along.
        self.patience = self.options.resend_us;
        self.unhinted = 0;
        match &mut self.role {
            Role::Follower(follower) => {
                let timers = [&mut follower.election_at, &mut follower.doubt_at, &mut follower.confirm_by];
                timers.into_iter().flatten().for_each(|deadline| *deadline = at);
            }
            Role::Candidate(candidate) => {
                candidate.restart_at = at;
                if let Phase::Prepare { own, .. } = &mut candidate.phase {
                    shift(own);
                }
            }
            Role::Leader(leader) => {
                shift(&mut leader.own);
                let timers =
                    [&mut leader.alone_at, &mut leader.resend_at, &mut leader.notice_at, &mut leader.stalled_at];
                timers.into_iter().flatten().for_each(|deadline| *deadline = at);
                for progress in leader.progress.values_mut() {
                    (progress.moved_at, progress.heard_at, progress.asked) = (at, at, 0);
                    progress.unfit_until.iter_mut().for_each(|until| *until = at);
                }
                leader.transfer.iter_mut().for_each(|transfer| transfer.until = at);
                leader.reads.normalise(at);
            }
        }
    }
}
