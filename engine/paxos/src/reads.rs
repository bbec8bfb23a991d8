//! Linearizable reads by a confirmed leadership: one question to a quorum for all reads that wait, and none while a quorum
//! supports the leadership.
//!
//! Sources: Ongaro (2014), sections 6.4 (read index) and 6.4.1 (lease); see `support` for the other side.
//!
//! A read that came to a follower or learner is asked for at the leader, which grants it the slot as to a read of its own: the
//! question is asked, or the lease holds, behind the request's arrival, hence behind the read's.
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
use crate::replica::{Io, Replica};
use crate::role::{Followed, Follower, Question, Reader, Role};
use crate::types::{Ballot, Micros, NodeId, ReadId, Slot};
use std::collections::BTreeSet;

/// The longest wait for an answer, as a multiple of the least pause.
const PATIENCE_MAX: u64 = 8;

impl Replica {
    pub(crate) fn on_read_index(&mut self, id: ReadId, io: &mut Io<'_>) {
        #[cfg(feature = "planted")]
        if self.old_lease > io.now && !self.is_leader() {
            return io.out.push(Output::ReadReady { reads: vec![id], slot: self.commit });
        }
        let until = io.now.plus(self.options.read_us);
        match &mut self.role {
            Role::Leader(leader) => {
                leader.reads.waiting.push(Reader { at: self.me, read: id, until });
                self.serve_reads(io);
            }
            Role::Follower(Follower { leader: Some(ballot), .. }) => {
                let ballot = *ballot;
                io.send(ballot.node, Message::ReadRequest { ballot, read: id });
                self.followed.insert(id, Followed { asked_at: io.now, until: io.now.plus(self.patience) });
            }
            Role::Follower(_) | Role::Candidate(_) => self.refuse_read(id, io),
        }
    }

    /// Refuses the reads that have waited for too long. Those that came elsewhere are given up there.
    pub(crate) fn expire_reads(&mut self, io: &mut Io<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let late = leader.reads.expired(io.now);
        for reader in late.into_iter().filter(|reader| reader.at == self.me) {
            io.out.push(Output::Refused { why: Refused::NotLeader { leader: None }, read: Some(reader.read) });
        }
    }

    fn refuse_read(&mut self, id: ReadId, io: &mut Io<'_>) {
        io.out.push(Output::Refused { why: Refused::NotLeader { leader: self.leader() }, read: Some(id) });
        self.arm_doubt(io);
    }

    /// A read that came to `from` is asked about.
    pub(crate) fn on_read_request(&mut self, from: NodeId, ballot: Ballot, read: ReadId, io: &mut Io<'_>) {
        if fault!(self, GrantUnconfirmed) && self.is_leader() {
            return io.send(from, Message::ReadGranted { ballot, read, slot: self.commit });
        }
        let until = io.now.plus(self.options.read_us);
        match &mut self.role {
            Role::Leader(leader) if leader.ballot == ballot => {
                leader.reads.waiting.push(Reader { at: from, read, until });
                self.serve_reads(io);
            }
            // It believes in what is over, as whoever asks to have it confirmed.
            _ if ballot.node == self.me => self.on_confirm(from, ballot, io),
            _ => {}
        }
    }

    /// The leader asked says as of which slot; whatever was led since, the answer stays true.
    pub(crate) fn on_read_granted(&mut self, read: ReadId, slot: Slot, io: &mut Io<'_>) {
        if let Some(followed) = self.followed.remove(&read) {
            // As long as this took, and as long again, is waited for the next.
            let took = io.now.0.saturating_sub(followed.asked_at.0);
            let least = self.options.resend_us;
            self.patience = (2 * took).clamp(least, PATIENCE_MAX * least);
            io.out.push(Output::ReadReady { reads: vec![read], slot });
        }
    }

    /// No answer came, or the question never arrived.
    pub(crate) fn expire_followed(&mut self, io: &mut Io<'_>) {
        while let Some(read) =
            self.followed.iter().find(|(_, followed)| followed.until <= io.now).map(|(read, _)| *read)
        {
            self.followed.remove(&read);
            // The link may be slower than was thought.
            self.patience = (2 * self.patience).min(PATIENCE_MAX * self.options.resend_us);
            self.refuse_read(read, io);
        }
    }

    /// Tells whoever asked, here or elsewhere; a member that does not know that the slot is chosen could not read as of it.
    fn grant_reads(&mut self, readers: Vec<Reader>, slot: Slot, io: &mut Io<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let ballot = leader.ballot;
        let (own, others): (Vec<Reader>, Vec<Reader>) = readers.into_iter().partition(|reader| reader.at == self.me);
        if !own.is_empty() {
            io.out.push(Output::ReadReady { reads: own.into_iter().map(|reader| reader.read).collect(), slot });
        }
        for Reader { at, read, .. } in others {
            if self.is_uninformed(at, slot) {
                self.probe(at, io);
            }
            io.send(at, Message::ReadGranted { ballot, read, slot });
        }
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
        let half = self.options.support_us / 2;
        let Role::Leader(leader) = &mut self.role else { return };
        let ready = commit >= leader.first_own || skip;
        if !ready || leader.reads.waiting.is_empty() || (leader.reads.asked.is_some() && !lease) {
            return;
        }
        let mut reads = std::mem::take(&mut leader.reads.waiting);
        if lease {
            self.grant_reads(std::mem::take(&mut reads), commit, io);
            let Role::Leader(leader) = &self.role else { return };
            if leader.reads.asked.is_some() || io.now < leader.reads.began.plus(half) {
                return;
            }
        }
        let Role::Leader(leader) = &mut self.role else { return };
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
        if leader.ballot == question.0
            && let Some(progress) = leader.progress.get_mut(&from)
        {
            progress.heard_at = io.now;
        }
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
        {
            self.grant_reads(reads, slot, io);
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
        let pause = self.options.resend_us;
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(question) = &mut leader.reads.asked else { return false };
        if question.asked_at.plus(pause) <= io.now {
            question.asked_at = io.now;
            self.ask(io);
        }
        true
    }
}
