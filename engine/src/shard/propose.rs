//! Writes on their way into the log.
//!
//! Owns: writes that queued while the last write was being synced, and those proposed and not yet applied. Must never:
//! split a request over two slots, or answer a write for an entry of another ballot.

use super::{Shard, Verdict, answer, refusal};
use crate::command::{Action, KeyOp, Op, RowFormat, WriteRequest, encode_entry};
use crate::host::{Answer, Host, Reply};
use crate::machine::Applied;
use crate::memory::Holder;
use crate::round::Node;
use crate::sessions::OUTCOMES_BYTES_MAX;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, Slot};
use synod_cluster::position::KEY_BYTES_MAX;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, SystemCommand};
use synod_paxos::io::Input;
use synod_paxos::types::{Ballot, Entry, Micros};

/// An entry is closed once its requests pass this, bytes.
const ENTRY_BYTES: usize = 256 << 10;
/// Proposed in one input at most, bytes, so that a full group refuses no more than it must.
const PROPOSE_BYTES: usize = 4 << 20;

/// An entry proposed and not yet applied.
struct Pending {
    slot: Slot,
    ballot: Ballot,
    proposed_at: Micros,
    replies: Vec<Reply>,
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

    /// The entry at `slot` was applied: its replies, where it is the one that was proposed here.
    pub(super) fn applied<H: Host>(&mut self, node: &mut Node<H>, entry: &Entry) -> Option<(Vec<Reply>, Micros)> {
        while self.pending.front().is_some_and(|pending| pending.slot <= entry.id.slot) {
            let pending = self.pending.pop_front()?;
            let same = pending.ballot == entry.id.origin || planted!(AnswerOfAnotherBallot);
            if pending.slot == entry.id.slot && same {
                return Some((pending.replies, pending.proposed_at));
            }
            for reply in pending.replies {
                answer(node, reply, Err(Refusal::NotLeader { leader: None, maybe: true }));
            }
        }
        None
    }
}

impl Shard {
    /// Takes a write for the next proposal, or hands its reply back with the reason.
    pub(super) fn take_write<H: Host>(
        &mut self,
        node: &Node<H>,
        request: WriteRequest,
        reply: Reply,
    ) -> Result<(), (Refusal, Reply)> {
        if let Err(why) = self.check_write(&request).and_then(|()| self.check_deadline(node, request.id.deadline_us)) {
            return Err((why, reply));
        }
        if let Some(why) = self.keeps_too_much(node, &request) {
            node.metrics.overloaded_total.inc();
            return Err((Refusal::NoMemory(why), reply));
        }
        if !frees(&request.op)
            && let Some(why) = self.lacks_room(node)
        {
            node.metrics.disk_refused_total.inc();
            return Err((Refusal::DiskFull(why), reply));
        }
        self.proposals.queued.push(request);
        self.proposals.replies.push(reply);
        Ok(())
    }

    /// Why the outcome of a new write would be one too many to keep. Metadata commands pass: they are few.
    fn keeps_too_much<H: Host>(&self, node: &Node<H>, request: &WriteRequest) -> Option<Arc<str>> {
        let (before, kept) =
            self.state.sessions().kept_beside(&request.id).filter(|_| self.state.system().is_none())?;
        let all = node.memory.of(Holder::Outcomes);
        // The write that holds its client's floor passes: only its end lets the floor rise.
        if kept > OUTCOMES_BYTES_MAX && request.id.seq != request.id.floor {
            let why = format!(
                "outcomes of this client's writes take {kept} bytes in shard {}, {OUTCOMES_BYTES_MAX} is the most (fixed): it \
                 must raise its floor (id.floor)",
                self.id
            );
            return Some(why.into());
        }
        let why = || {
            let (used, limit) = (all.used(), all.limit());
            format!(
                "outcomes kept for clients take {used} bytes of this node's memory, {limit} is the most (an eighth of \
                 limits.memory_max): they go as clients raise their floors, or ten minutes after a client's last write"
            )
        };
        // One that lets go of an outcome takes no more than it gives.
        (all.is_over() && kept == before).then(|| why().into())
    }

    /// Why a write that needs room is not taken: this node's disk is low, or a quorum needs a voter whose disk is, since those with
    /// room that are alive are no majority. It would have to keep what is taken here, until it goes down; then nothing is taken,
    /// what frees room neither.
    fn lacks_room<H: Host>(&self, node: &Node<H>) -> Option<Arc<str>> {
        if node.disk_low.is_some() || node.low_peers.is_empty() {
            return node.disk_low.clone();
        }
        let (low, others): (Vec<NodeId>, Vec<NodeId>) =
            self.members.voters().partition(|voter| node.low_peers.contains(voter));
        let (up, down): (Vec<NodeId>, Vec<NodeId>) =
            others.iter().partition(|voter| **voter == node.me || node.live.contains(voter));
        if low.is_empty() || up.len() > (low.len() + others.len()) / 2 {
            return None;
        }
        let down = if down.is_empty() { String::new() } else { format!(", nodes {} do not answer", listed(&down)) };
        Some(
            format!(
                "nodes {} have less room on their disks than storage.disk_low{down}, and the other voters of shard {} are no \
                 majority: only deletions and trims are taken",
                listed(&low),
                self.id
            )
            .into(),
        )
    }

    fn check_write(&self, request: &WriteRequest) -> Result<(), Refusal> {
        let descriptor = self.state.descriptor();
        let system = self.state.system();
        let is_system = system.is_some();
        match (&request.op, system) {
            // What this binary does not understand is not for it to propose, nor what a node of the cluster may not.
            (Op::System(command), Some(system)) => {
                let decoded = SystemCommand::decode(command.clone());
                let command = decoded.map_err(|e| Refusal::Invalid { field: "command", why: e.to_string() })?;
                let (version, needs) = (system.version, command.needs());
                if version < needs {
                    // The rest of the log may raise it: a leader that begins has not applied all of it.
                    if self.status().is_none_or(|status| self.state.applied() < status.last.slot) {
                        return Err(Refusal::NotReady);
                    }
                    let why = format!(
                        "the cluster is at version {version}, the command needs {needs}: `synod cluster upgrade` raises it"
                    );
                    return Err(Refusal::Invalid { field: CLUSTER_VERSION, why });
                }
            }
            (Op::Write { table, ops }, _) if !is_system && *table == descriptor.table => {
                if ops.is_empty() {
                    return Err(Refusal::Invalid { field: "ops", why: "a write has at least one operation".into() });
                }
                for op in ops {
                    check_op(op)?;
                    if !descriptor.contains(&op.key) {
                        return Err(Refusal::WrongShard);
                    }
                }
            }
            _ => return Err(Refusal::WrongShard),
        }
        if self.leading { Ok(()) } else { Err(Refusal::NotLeader { leader: self.leader(), maybe: false }) }
    }

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

    /// A client's session is kept until its last deadline: one that lies too far ahead is refused.
    fn check_deadline<H: Host>(&mut self, node: &Node<H>, deadline_us: u64) -> Result<(), Refusal> {
        let most = node.deadline_ahead_micros;
        // Of most writes this says enough, without asking for the clocks.
        if deadline_us <= self.state.last_ts().saturating_add(most) {
            return Ok(());
        }
        if deadline_us <= self.timestamp(node).saturating_add(most) || !self.time.is_known() {
            return Ok(());
        }
        let why = format!("it lies more than {} minutes ahead of the shard's time", most / 60_000_000);
        Err(Refusal::Invalid { field: "id.deadline_us", why })
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
        let format = if self.state.system().is_some() { RowFormat::Plain } else { node.row_format() };
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
        self.verdict = None;
        self.step(node, Input::Propose { commands });
        match self.verdict.take() {
            Some(Verdict::Proposed { first, ballot }) => {
                node.metrics.slots_total.inc_by(replies.len() as u64);
                for (slot, replies) in (first.0..).map(Slot).zip(replies) {
                    node.metrics.proposals_total.inc_by(replies.len() as u64);
                    self.proposals.pending.push_back(Pending { slot, ballot, proposed_at: now, replies });
                }
            }
            verdict => {
                let why = match verdict {
                    Some(Verdict::Refused(why)) => refusal(why),
                    _ => Refusal::NotReady,
                };
                for reply in replies.into_iter().flatten() {
                    node.metrics.overloaded_total.inc_by((why == Refusal::Overloaded).into());
                    answer(node, reply, Err(why.clone()));
                }
            }
        }
    }

    /// Tells the clients of one applied entry.
    pub(super) fn answer_writes<H: Host>(node: &mut Node<H>, replies: Vec<Reply>, results: &mut Vec<Applied>) {
        debug_assert_eq!(replies.len(), results.len());
        for (reply, result) in replies.into_iter().zip(results.drain(..)) {
            answer(node, reply, result.map(Answer::Outcome));
        }
    }
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
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

/// Whether a write is taken though the disk is low: deletions and trims, by which room comes back, and metadata, which is
/// small and by which nodes are added and tables dropped.
fn frees(op: &Op) -> bool {
    match op {
        Op::System(_) => true,
        Op::Write { ops, .. } => ops.iter().all(|op| matches!(op.action, Action::Delete | Action::Trim(_))),
    }
}

fn check_op(op: &KeyOp) -> Result<(), Refusal> {
    if op.key.is_empty() || op.key.len() > KEY_BYTES_MAX {
        let why = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", op.key.len());
        return Err(Refusal::Invalid { field: "key", why });
    }
    match &op.action {
        Action::Append(records) if records.is_empty() => {
            Err(Refusal::Invalid { field: "records", why: "an append has at least one record".into() })
        }
        _ => Ok(()),
    }
}
