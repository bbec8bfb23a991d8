//! Leader leases, the supporter's side: for a while no promise to anyone but the leader that was confirmed.
//!
//! Sources: Gray, Cheriton, "Leases" (1989), section 3 (terms, and clocks of bounded drift); Ongaro (2014), section 6.4.1
//! (reads by clock); Moraru, Andersen, Kaminsky, "Paxos Quorum Leases" (2014), section 3 (a lease needs a quorum of grantors,
//! and whoever forgot what it granted waits a term out).
//!
//! Owns: whom this replica supports, until when, and the `Prepare` that waits for the end of it. Must never: promise while
//! another is supported, this replica itself included, or make an election wait for longer than one term, its own or the one
//! of the process before.
//!
//! The support is in no write. It is therefore given only for a ballot, and a process that begins behaves as if the one
//! before had just supported somebody it does not know.

use crate::fault;
use crate::message::Message;
use crate::replica::{Io, Replica};
use crate::role::{Role, Support};
use crate::types::{Ballot, Micros, NodeId, Slot};

impl Replica {
    /// Whoever begins does not know what the process before it supported. A group of one has nobody else to support.
    pub(crate) fn begin_unsupporting(&mut self, io: &Io<'_>) {
        let term = self.options.support_us.max(self.options.support_owed_us);
        if term > 0 && !self.peer_voters().is_empty() && !fault!(self, RestartForgetsSupport) {
            self.support.until = io.now.plus(term);
        }
    }

    /// An epoch ends all support of the one before: its last lease ended before the stop-sign left its proposer. What is not
    /// known may have been given in the epoch that begins: the process before may have entered it and lost that.
    pub(crate) fn end_support(&mut self) {
        self.support.held = None;
        if self.support.to.is_some() {
            self.support = Support::default();
        }
    }

    /// Whether a promise to `node` would break the support of another.
    pub(crate) fn supports_other_than(&self, node: NodeId, now: Micros) -> bool {
        let other = self.support.to.is_none_or(|ballot| ballot.node != node);
        other && self.support.until > now && !fault!(self, PromisesWhileSupporting)
    }

    /// The earliest time to stand for election.
    pub(crate) fn support_ends(&self, now: Micros) -> Option<Micros> {
        self.supports_other_than(self.me, now).then_some(self.support.until)
    }

    /// Supports the leadership that was just confirmed, where it is believed in, its node is heard and nobody waits for a
    /// promise: so what stands in an election's way ends with the term under way. For how long, from this step's time on, µs.
    pub(crate) fn give_support(&mut self, ballot: Ballot, now: Micros) -> u64 {
        let believed = matches!(&self.role, Role::Follower(f) if f.leader == Some(ballot));
        let fit = believed && self.alive.contains(&ballot.node) && self.support.held.is_none();
        if !self.options.lease || !fit || self.supports_other_than(ballot.node, now) {
            return 0;
        }
        self.support.to = Some(ballot);
        self.support.until = now.plus(self.options.support_us);
        self.options.support_us
    }

    /// A `Prepare` that must wait.
    pub(crate) fn hold_prepare(&mut self, from: NodeId, ballot: Ballot, commit: Slot) {
        self.support.held = self.support.held.max(Some((ballot, from, commit)));
    }

    /// The supported leadership said itself that it serves no more reads without asking.
    pub(crate) fn support_released(&mut self, ballot: Ballot, io: &mut Io<'_>) {
        if self.support.to == Some(ballot) {
            self.support.until = Micros(0);
            self.answer_held(io);
        }
    }

    /// Answers the `Prepare` that waited, once nothing stands in its way.
    pub(crate) fn answer_held(&mut self, io: &mut Io<'_>) {
        if self.support.until > io.now {
            return;
        }
        if let Some((ballot, from, commit)) = self.support.held.take() {
            self.on_message(from, Message::Prepare { ballot, commit }, io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Ctx, Input, LogReader, Options, Output, Recovered};
    use crate::types::{Entry, EntryId, Epoch, HardState, Member, MemberRole, Membership};

    struct Empty;

    impl LogReader for Empty {
        fn entries(&self, _: Slot, _: Slot, _: usize) -> Result<Vec<Entry>, String> {
            Ok(Vec::new())
        }
    }

    /// What node 2 tells the leader that it follows, a term after it began.
    fn support_told(lease: bool) -> Option<u64> {
        let members = (1..=3).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        let membership = Membership { epoch: Epoch(1), members, first_leader: NodeId(1) };
        let ballot = membership.b0();
        let recovered = Recovered {
            hard: HardState::initial(membership),
            trimmed: EntryId::ZERO,
            runs: Vec::new(),
            last: EntryId::ZERO,
            last_ts: 0,
            applied: Slot(0),
            live: vec![NodeId(1), NodeId(3)],
        };
        let options = Options { lease, support_us: 300_000, ..Options::default() };
        let mut replica = Replica::new(NodeId(2), recovered, options);
        let accept =
            Message::Accept { ballot, prev: EntryId::ZERO, entries: Vec::new(), commit: Slot(0), all_have: Slot(0) };
        let mut out = Vec::new();
        for (now, message) in [(0, accept), (300_000, Message::ReadProbe { ballot, probe: 1 })] {
            let ctx = Ctx { now: Micros(now), random: 0, log: &Empty };
            replica.step(&ctx, Input::Message { from: NodeId(1), message }, &mut out);
        }
        out.iter().find_map(|output| match output {
            Output::Send { message: Message::ReadAck { support, .. }, .. } => Some(*support),
            _ => None,
        })
    }

    #[test]
    fn support_is_given_where_leases_are_on() {
        assert_eq!(support_told(true), Some(300_000));
    }

    /// A replica that begins waits a term all the same: leases may have been on in the process before.
    #[test]
    fn no_support_is_given_where_leases_are_off_whatever_the_term() {
        assert_eq!(support_told(false), Some(0));
    }
}
