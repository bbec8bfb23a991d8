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
        let known = hard.commit_hint.max(applied).max(trimmed.slot).max(hard.epoch_start);
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
        if last.slot > self.hard.epoch_start && last.slot > self.log.trimmed().slot {
            let before = last.slot.prev().expect("a retained slot is above 0");
            match io.log.entries(before, last.slot, usize::MAX) {
                Ok(mut entries) if entries.len() == 1 && entries[0].id == last => {
                    let entry = entries.remove(0);
                    let stops = matches!(&entry.payload, Payload::Config(m) if m.epoch > self.hard.membership.epoch);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Ctx, Input, LogReader, Output};
    use crate::message::Message;
    use crate::types::{Ballot, Entry, EntryId, Epoch, HardState, Member, MemberRole, Membership, Micros, Run, Slot};

    /// A store that answers every question alike.
    struct Store(Result<Vec<Entry>, String>);

    impl LogReader for Store {
        fn entries(&self, _: Slot, _: Slot, _: usize) -> Result<Vec<Entry>, String> {
            self.0.clone()
        }
    }

    fn ballot(round: u64, node: u64) -> Ballot {
        Ballot { epoch: Epoch(1), round, node: NodeId(node) }
    }

    fn entry(round: u64) -> Entry {
        Entry::new(EntryId { slot: Slot(1), origin: ballot(round, 1) }, 1, 0, Payload::Noop)
    }

    /// Restarts node 2 with one entry in its log; its first step is a question that it would answer at once.
    fn first_step(store: Result<Vec<Entry>, String>) -> Vec<Output> {
        let members = (1..=3).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        let membership = Membership { epoch: Epoch(1), members, first_leader: NodeId(1) };
        let last = entry(1).id;
        let recovered = Recovered {
            hard: HardState::initial(membership),
            trimmed: EntryId::ZERO,
            runs: vec![Run { first: last.slot, origin: last.origin }],
            last,
            last_ts: 1,
            applied: Slot(0),
            live: vec![NodeId(1), NodeId(3)],
        };
        let mut replica = Replica::new(NodeId(2), recovered, Options::default());
        let message = Message::PreVote { ballot: ballot(5, 3), held: None };
        let mut out = Vec::new();
        let ctx = Ctx { now: Micros(0), random: 0, log: &Store(store) };
        replica.step(&ctx, Input::Message { from: NodeId(3), message }, &mut out);
        out
    }

    #[test]
    fn the_first_step_answers_its_message() {
        let out = first_step(Ok(vec![entry(1)]));
        assert!(matches!(out.first(), Some(Output::Send { message: Message::PreVoteGranted { .. }, .. })), "{out:?}");
    }

    #[test]
    fn a_store_that_fails_ends_the_replica_before_its_first_message() {
        let out = first_step(Err("damaged".into()));
        assert!(matches!(&out[..], [Output::Fatal(why)] if why == "damaged"), "{out:?}");
    }

    #[test]
    fn another_entry_at_the_last_slot_is_not_the_last_entry() {
        for found in [vec![entry(2)], Vec::new(), vec![entry(1), entry(1)]] {
            let out = first_step(Ok(found));
            assert!(
                matches!(&out[..], [Output::Fatal(why)] if why.contains("does not hold the last entry")),
                "{out:?}"
            );
        }
    }
}
