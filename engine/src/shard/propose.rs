//! Writes on their way into the log.
//!
//! Owns: writes that queued while the last write was being synced, and those proposed and not yet applied. Must never:
//! split a request over two slots, or answer a write for an entry of another ballot.

use super::step::Proposed;
use super::{Shard, answer};
use crate::command::{RowFormat, WriteRequest, encode_entry};
use crate::host::{Answer, Host, Reply};
use crate::machine::{Applied, Machine};
use crate::round::Node;
use bytes::Bytes;
use std::collections::VecDeque;
use synod_cluster::ids::{NodeId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::types::{Ballot, Entry, Micros};

/// An entry is closed once its requests pass this, bytes.
const ENTRY_BYTES: usize = 256 << 10;
/// Proposed in one input at most, bytes, so that a full group refuses no more than it must.
const PROPOSE_BYTES: usize = 4 << 20;

/// An entry proposed and not yet applied.
pub(super) struct Pending {
    slot: Slot,
    ballot: Ballot,
    pub(super) proposed_at: Micros,
    /// One for each request.
    pub(super) replies: Vec<Reply>,
}

/// The writes of one shard that wait.
#[derive(Default)]
pub(super) struct Proposals {
    queued: Vec<WriteRequest>,
    /// One for each of `queued`.
    replies: Vec<Reply>,
    /// By slot.
    pending: VecDeque<Pending>,
}

impl Proposals {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.replies.len() + self.pending.iter().map(|pending| pending.replies.len()).sum::<usize>()
    }

    /// Keeps a write for the next proposal.
    pub(super) fn queue(&mut self, request: WriteRequest, reply: Reply) {
        self.queued.push(request);
        self.replies.push(reply);
    }

    /// Gives up what was proposed under another leadership than `kept`.
    pub(super) fn lead_lost<H: Host>(&mut self, node: &mut Node<H>, kept: Option<Ballot>, leader: Option<NodeId>) {
        if self.pending.iter().all(|pending| Some(pending.ballot) == kept) || planted!(AnswerOfAnotherBallot) {
            return;
        }
        let (keep, lost) = self.pending.drain(..).partition(|pending| Some(pending.ballot) == kept);
        self.pending = keep;
        let lost: VecDeque<Pending> = lost;
        for reply in lost.into_iter().flat_map(|pending| pending.replies) {
            let maybe = !planted!(LostProposalDenied);
            answer(node, reply, Err(Refusal::NotLeader { leader, maybe }));
        }
    }

    /// Refuses what is queued; what was proposed may yet be executed.
    pub(super) fn refuse_all<H: Host>(&mut self, node: &mut Node<H>, why: &Refusal) {
        self.queued.clear();
        for reply in self.replies.drain(..) {
            answer(node, reply, Err(why.clone()));
        }
        self.lead_lost(node, None, None);
    }

    /// The entry is applied: who waits for it, where it is the one that was proposed here.
    pub(super) fn applied<H: Host>(&mut self, node: &mut Node<H>, entry: &Entry) -> Option<Pending> {
        while self.pending.front().is_some_and(|pending| pending.slot <= entry.id.slot) {
            let pending = self.pending.pop_front()?;
            let same = pending.ballot == entry.id.origin || planted!(AnswerOfAnotherBallot);
            if pending.slot == entry.id.slot && same {
                return Some(pending);
            }
            for reply in pending.replies {
                answer(node, reply, Err(Refusal::NotLeader { leader: None, maybe: true }));
            }
        }
        None
    }
}

impl Shard {
    /// The wish of the next entry for its timestamp, µs: what a quorum of the voters' wall clocks have reached.
    pub(super) fn timestamp<H: Host>(&mut self, node: &Node<H>) -> u64 {
        self.look_at_clocks(node);
        self.time.wish(self.state.last_ts(), node.now)
    }

    fn look_at_clocks<H: Host>(&mut self, node: &Node<H>) {
        let reached = node.walls.reached(self.members.voters(), self.members.quorum(), node.now);
        self.time.observe(reached, node.now);
    }

    /// By how much the time of a shard led here is ahead of what a quorum's wall clocks have reached, µs.
    pub(crate) fn is_ahead_by<H: Host>(&mut self, node: &Node<H>) -> u64 {
        if !self.leading {
            return 0;
        }
        self.look_at_clocks(node);
        self.time.is_ahead_by(self.state.last_ts(), node.now)
    }

    /// Proposes everything that queued, in as few entries as their size allows.
    pub(super) fn propose<H: Host>(&mut self, node: &mut Node<H>) {
        if self.proposals.queued.is_empty() {
            return;
        }
        let queued = std::mem::take(&mut self.proposals.queued);
        let mut replies = std::mem::take(&mut self.proposals.replies);
        let (now, ts) = ((node.clock)(), self.timestamp(node));
        // The system shard's rows have no totals, and its leader of any version must be able to carry its commands out.
        let format = match self.state.machine() {
            Machine::Data => node.row_format(),
            Machine::System(_) => RowFormat::Plain,
        };
        let mut commands: Vec<(u64, Bytes)> = Vec::new();
        let mut counts = Vec::new();
        let mut bytes = 0;
        let mut waiting = replies.drain(..);
        let mut rest = &queued[..];
        while !rest.is_empty() {
            let (count, size) = fill_entry(rest);
            let (entry, others) = rest.split_at(count);
            rest = others;
            commands.push((ts, encode_entry(format, entry.iter(), size)));
            counts.push(waiting.by_ref().take(count).collect());
            bytes += size;
            if rest.is_empty() || bytes >= PROPOSE_BYTES {
                let (commands, counts) = (std::mem::take(&mut commands), std::mem::take(&mut counts));
                self.propose_commands(node, commands, counts, now);
                bytes = 0;
            }
        }
        drop(waiting);
        // The buffers go back for the next round.
        let Proposals { queued: buffer, replies: reply_buffer, .. } = &mut self.proposals;
        (*buffer, *reply_buffer) = (queued, replies);
        buffer.clear();
        if buffer.capacity() > 1024 {
            (*buffer, *reply_buffer) = (Vec::new(), Vec::new());
        }
    }

    fn propose_commands<H: Host>(
        &mut self,
        node: &mut Node<H>,
        commands: Vec<(u64, Bytes)>,
        replies: Vec<Vec<Reply>>,
        now: Micros,
    ) {
        match self.propose_entries(node, commands) {
            Ok(Proposed { first, ballot }) => {
                node.metrics.slots_total.inc_by(replies.len() as u64);
                for (slot, replies) in (first.0..).map(Slot).zip(replies) {
                    node.metrics.proposals_total.inc_by(replies.len() as u64);
                    self.proposals.pending.push_back(Pending { slot, ballot, proposed_at: now, replies });
                }
            }
            Err(why) => {
                for reply in replies.into_iter().flatten() {
                    node.metrics.overloaded_total.inc_by((why == Refusal::Overloaded).into());
                    answer(node, reply, Err(why.clone()));
                }
            }
        }
    }

    /// Tells the clients of one applied entry.
    pub(super) fn answer_writes<H: Host>(node: &mut Node<H>, replies: Vec<Reply>, results: Vec<Applied>) {
        debug_assert_eq!(replies.len(), results.len());
        for (reply, result) in replies.into_iter().zip(results) {
            answer(node, reply, result.map(Answer::Outcome));
        }
    }
}

/// How many of the requests go into the next entry, and their size.
fn fill_entry(requests: &[WriteRequest]) -> (usize, usize) {
    let mut size = 0;
    for (count, request) in requests.iter().enumerate() {
        let more = request.size();
        if count > 0 && size + more > ENTRY_BYTES {
            return (count, size);
        }
        size += more;
    }
    (requests.len(), size)
}
