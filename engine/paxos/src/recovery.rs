//! From what a restart found to a running replica.
//!
//! Owns: the first step. Must never: take a recovered commit for more than a lower bound, or lead a recovered ballot.

use crate::fault;
use crate::io::{Options, Recovered};
use crate::log::Log;
use crate::replica::{Io, Replica};
use crate::types::{NodeId, Payload};

impl Replica {
    /// A replica from what its node's store holds. Its first step (a `Tick` will do) takes up its role.
    #[must_use]
    pub fn new(me: NodeId, recovered: Recovered, options: Options) -> Self {
        let Recovered { hard, trimmed, runs, last, last_ts, applied, live } = recovered;
        let known = hard.commit_hint.max(applied).max(trimmed.slot).max(hard.config_start);
        let commit = known.min(last.slot);
        let log = Log::recovered(trimmed, runs, last, last_ts);
        let mut replica = Self::assemble(me, hard, log, commit, applied, options);
        replica.alive = live.into_iter().filter(|n| *n != me).collect();
        replica
    }

    /// To be called before the first step: the replica votes, accepts and learns as any other, but stands for no election and
    /// leads nothing as long as it lives.
    #[must_use]
    pub fn abstaining(mut self) -> Self {
        assert!(self.fresh, "whether a replica abstains is said before its first step");
        self.abstains = true;
        self
    }

    /// Takes up the role: the first leader of an epoch whose B0 is unused leads it, everybody else waits for a leader and
    /// then stands for election.
    pub(crate) fn first_step(&mut self, io: &mut Io<'_>) {
        self.begin_unsupporting(io);
        let last = self.log.last();
        if last.slot > self.hard.config_start && last.slot > self.log.trimmed().slot {
            let before = last.slot.prev().expect("a retained slot is above 0");
            match io.log.entries(before, last.slot, usize::MAX) {
                Ok(mut entries) if entries.len() == 1 && entries[0].id == last => {
                    let entry = entries.remove(0);
                    let stops = matches!(&entry.payload, Payload::Config(m) if m.config > self.hard.membership.config);
                    self.log.restore_last(entry);
                    if stops {
                        self.stop_sign = Some(last.slot);
                    }
                }
                Ok(_) => return self.fail(format!("the log store does not hold the last entry {last:?}"), io),
                Err(why) => return self.fail(why, io),
            }
        }
        if self.stop_sign.is_some_and(|s| s <= self.commit) {
            self.enter_epoch(io);
        } else {
            let reuse = fault!(self, B0Twice);
            self.try_b0(reuse, io);
        }
        if self.b0_after.is_none() {
            self.await_leader(io);
        }
    }
}
