//! Linearizable reads by a confirmed leadership: one question to a quorum for all reads that wait, and none while a quorum
//! supports the leadership.
//!
//! Sources: Ongaro (2014), sections 6.4 (read index) and 6.4.1 (lease); see `support` for the other side.
//!
//! Owns: waiting reads, and what the leader counts of its support. Must never: answer a read by a question that was asked
//! before it arrived, or before the first entry of the leader's own ballot is chosen; count support from a later moment than
//! the question's first leaving; or serve from a lease once leadership was offered to another or the epoch is to end.
//!
//! A lease holds at this step's time, which the driver read after the step's input had arrived: so the chosen prefix known
//! here holds every write acknowledged before, however late the step, or the read after it, is carried out.

use crate::fault;
use crate::io::{Output, Refused};
use crate::message::Message;
use crate::replica::{Io, Replica, Role};
use crate::types::{Ballot, Micros, NodeId, ReadId, Slot};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    reads: Vec<ReadId>,
    /// The chosen prefix when it was asked.
    slot: Slot,
    acks: BTreeSet<NodeId>,
    asked_at: Micros,
}

/// The reads of one leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    waiting: Vec<ReadId>,
    asked: Option<Question>,
    probe: u64,
    /// When the question asked last left first.
    began: Micros,
    /// Until when each voter's support counts, by this node's clock.
    support: BTreeMap<NodeId, Micros>,
    /// Another was told to take this leadership over: supporters may have heard of it.
    offered: bool,
}

impl Reads {
    pub(crate) fn take_all(&mut self) -> Vec<ReadId> {
        let mut reads = self.asked.take().map(|q| q.reads).unwrap_or_default();
        reads.append(&mut self.waiting);
        reads
    }

    /// From here on every read asks, as long as this leadership lasts.
    pub(crate) fn end_lease(&mut self) {
        self.offered = true;
    }

    /// Takes an open question for asked at `at`.
    pub(crate) fn asked_at(&mut self, at: Micros) {
        self.asked.iter_mut().for_each(|question| question.asked_at = at);
    }
}

impl Replica {
    pub(crate) fn on_read_index(&mut self, id: ReadId, io: &mut Io<'_>) {
        let known = self.leader();
        #[cfg(feature = "planted")]
        if self.old_lease > io.now && !self.is_leader() {
            return io.out.push(Output::ReadReady { reads: vec![id], slot: self.commit });
        }
        let Role::Leader(leader) = &mut self.role else {
            io.out.push(Output::Refused { why: Refused::NotLeader { leader: known }, read: Some(id) });
            self.arm_doubt(io);
            return;
        };
        leader.reads.waiting.push(id);
        self.serve_reads(io);
    }

    /// Whether a quorum, this leader with it, promises to nobody else at this moment.
    fn holds_lease(&self, now: Micros) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let reads = &leader.reads;
        let kept = !reads.offered || fault!(self, LeaseKeptInTransfer);
        let supported = |n: NodeId| n == self.me || reads.support.get(&n).is_some_and(|until| *until > now);
        self.options.lease && kept && self.stop_sign.is_none() && self.is_quorum(supported)
    }

    /// Serves the reads that wait from the lease, or asks the next question for them where none is under way. A lease that is
    /// half over is asked for anew while it serves.
    pub(crate) fn serve_reads(&mut self, io: &mut Io<'_>) {
        let commit = self.commit;
        let skip = fault!(self, SkippedNoopRead);
        let lease = self.holds_lease(io.now);
        let half = self.options.support_micros / 2;
        let Role::Leader(leader) = &mut self.role else { return };
        let ready = commit >= leader.first_own || skip;
        if !ready || leader.reads.waiting.is_empty() || (leader.reads.asked.is_some() && !lease) {
            return;
        }
        let mut reads = std::mem::take(&mut leader.reads.waiting);
        if lease {
            io.out.push(Output::ReadReady { reads, slot: commit });
            if leader.reads.asked.is_some() || io.now < leader.reads.began.plus(half) {
                return;
            }
            reads = Vec::new();
        }
        leader.reads.probe += 1;
        if self.options.lease {
            leader.reads.began = io.now;
        }
        leader.reads.asked = Some(Question { reads, slot: commit, acks: BTreeSet::from([self.me]), asked_at: io.now });
        self.ask(io);
        self.count_read_acks(io);
    }

    fn ask(&mut self, io: &mut Io<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let (ballot, probe) = (leader.ballot, leader.reads.probe);
        let voters = self.peer_voters();
        for node in voters.into_iter().filter(|n| self.alive.contains(n)) {
            io.send(node, Message::ReadProbe { ballot, probe });
        }
        self.arm_resend(io.now);
    }

    pub(crate) fn on_read_ack(&mut self, from: NodeId, question: (Ballot, u64), support: u64, io: &mut Io<'_>) {
        let least = if fault!(self, NoDriftMargin) { support } else { self.options.least(support) };
        let received = fault!(self, LeaseFromReceipt);
        let Role::Leader(leader) = &mut self.role else { return };
        if (leader.ballot, leader.reads.probe) != question {
            return;
        }
        if least > 0 {
            let from_when = if received { io.now } else { leader.reads.began };
            leader.reads.support.insert(from, from_when.plus(least));
        }
        if let Some(question) = &mut leader.reads.asked {
            question.acks.insert(from);
            self.count_read_acks(io);
        }
    }

    fn count_read_acks(&mut self, io: &mut Io<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(question) = &leader.reads.asked else { return };
        if !self.is_quorum(|n| question.acks.contains(&n)) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(Question { reads, slot, .. }) = leader.reads.asked.take()
            && !reads.is_empty()
        {
            io.out.push(Output::ReadReady { reads, slot });
        }
        self.serve_reads(io);
    }

    /// For the planted fault: a lease that nobody takes away.
    #[cfg(feature = "planted")]
    pub(crate) fn outlive(&mut self) {
        if let Role::Leader(leader) = &self.role
            && fault!(self, LeaseOutlivesLeadership)
        {
            let mut until: Vec<Micros> = leader.reads.support.values().copied().collect();
            until.sort_unstable_by(|a, b| b.cmp(a));
            let others = self.hard.membership.quorum().saturating_sub(2);
            self.old_lease = until.get(others).copied().unwrap_or_default();
        }
    }

    /// Asks again where an answer is overdue; whether one is still awaited.
    pub(crate) fn resend_reads(&mut self, io: &mut Io<'_>) -> bool {
        let pause = self.options.resend_micros;
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(question) = &mut leader.reads.asked else { return false };
        if question.asked_at.plus(pause) <= io.now {
            question.asked_at = io.now;
            self.ask(io);
        }
        true
    }
}
