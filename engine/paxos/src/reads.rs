//! Linearizable reads by a confirmed leadership: one question to a quorum for all reads that wait.
//!
//! Source: Ongaro (2014), section 6.4 (read index).
//!
//! Owns: waiting reads. Must never: answer one by a question that was asked before it arrived, or before the first entry
//! of the leader's own ballot is chosen.

use crate::fault;
use crate::io::{Output, Refused};
use crate::message::Message;
use crate::replica::{Io, Replica, Role};
use crate::types::{Ballot, Micros, NodeId, ReadId, Slot};
use std::collections::BTreeSet;

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
}

impl Reads {
    pub(crate) fn take_all(&mut self) -> Vec<ReadId> {
        let mut reads = self.asked.take().map(|q| q.reads).unwrap_or_default();
        reads.append(&mut self.waiting);
        reads
    }

    /// Takes an open question for asked at `at`.
    pub(crate) fn asked_at(&mut self, at: Micros) {
        self.asked.iter_mut().for_each(|question| question.asked_at = at);
    }
}

impl Replica {
    pub(crate) fn on_read_index(&mut self, id: ReadId, io: &mut Io<'_>) {
        let known = self.leader();
        let Role::Leader(leader) = &mut self.role else {
            io.out.push(Output::Refused { why: Refused::NotLeader { leader: known }, read: Some(id) });
            self.arm_doubt(io);
            return;
        };
        leader.reads.waiting.push(id);
        self.serve_reads(io);
    }

    /// Asks the next question where reads wait and none is under way.
    pub(crate) fn serve_reads(&mut self, io: &mut Io<'_>) {
        let commit = self.commit;
        let skip = fault!(self, SkippedNoopRead);
        let Role::Leader(leader) = &mut self.role else { return };
        let ready = commit >= leader.first_own || skip;
        if !ready || leader.reads.waiting.is_empty() || leader.reads.asked.is_some() {
            return;
        }
        let reads = std::mem::take(&mut leader.reads.waiting);
        leader.reads.probe += 1;
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

    pub(crate) fn on_read_ack(&mut self, from: NodeId, ballot: Ballot, probe: u64, io: &mut Io<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot || leader.reads.probe != probe {
            return;
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
        {
            io.out.push(Output::ReadReady { reads, slot });
        }
        self.serve_reads(io);
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
