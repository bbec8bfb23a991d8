//! Requests on their way into a shard.
//!
//! Owns: which requests are refused at once, and why; the others it gives to the shard's reads or writes. Must never: let a
//! request pass that nobody answers, or refuse one of which a part was proposed.

use super::load::count_write;
use super::{Shard, answer};
use crate::command::{Action, KeyOp, Op, WriteId, WriteRequest};
use crate::host::{Body, Freshness, Host, Reply, Request};
use crate::machine::Machine;
use crate::memory::Holder;
use crate::round::Node;
use crate::sessions::{OUTCOMES_BYTES_MAX, Verdict};
use std::sync::Arc;
use synod_cluster::ids::NodeId;
use synod_cluster::position::KEY_BYTES_MAX;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, SystemCommand};
use synod_paxos::io::Input;

impl Shard {
    /// Takes a request: answers it at once, or keeps it with the node's other waiting ones.
    pub(crate) fn take_request<H: Host>(&mut self, node: &mut Node<H>, request: Request) {
        let Request { version, body, reply, .. } = request;
        self.handled += 1;
        if let Err(why) = self.check_place(node, version, &body) {
            return answer(node, reply, Err(why));
        }
        match body {
            Body::Write(write) => match self.check(node, &write) {
                Ok(()) => {
                    count_write(&mut self.load, node.now, self.state.descriptor(), &write);
                    self.proposals.queue(write, reply);
                    self.schedule(node);
                }
                Err(why) => self.send_away(node, reply, why),
            },
            Body::Read { freshness: Freshness::Linearizable, .. } if !self.leading => {
                let why = Refusal::NotLeader { leader: self.leader(), maybe: false };
                self.send_away(node, reply, why);
            }
            Body::Read { read, freshness } => self.take_read(node, read, freshness, reply),
        }
    }

    /// Whether requests are taken here now, and this one was meant for the shard as it is.
    fn check_place<H: Host>(&self, node: &Node<H>, version: Option<u64>, body: &Body) -> Result<(), Refusal> {
        if self.waits_for().is_some() {
            return Err(Refusal::NotReady);
        }
        if self.is_missing() {
            return Err(self.refuse_without_state(body));
        }
        // For a moment: it goes on by itself, or another shard has what it had.
        if let Some(why) = self.state.changing() {
            return Err(why);
        }
        if version.is_some_and(|version| version != self.state.descriptor().version) {
            return Err(Refusal::WrongShard);
        }
        if node.is_overloaded() {
            node.metrics.overloaded_total.inc();
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    /// Refuses a request. A client that came to the wrong node may have found the leader silent: the core asks that, a while
    /// from now, whether it leads.
    fn send_away<H: Host>(&mut self, node: &mut Node<H>, reply: Reply, why: Refusal) {
        if matches!(why, Refusal::NotLeader { .. }) && !self.leading {
            self.step(node, Input::Propose { commands: Vec::new() });
        }
        answer(node, reply, Err(why));
    }

    /// Whether a write is taken for the next proposal.
    fn check<H: Host>(&mut self, node: &Node<H>, request: &WriteRequest) -> Result<(), Refusal> {
        self.check_write(request)?;
        self.check_deadline(node, request.id.deadline_us)?;
        if let Some(why) = self.keeps_too_much(node, request) {
            node.metrics.overloaded_total.inc();
            return Err(Refusal::NoMemory(why));
        }
        if !frees(&request.op)
            && let Some(why) = self.lacks_room(node)
        {
            node.metrics.disk_refused_total.inc();
            return Err(Refusal::DiskFull(why));
        }
        Ok(())
    }

    /// Whether a write makes sense, and is this shard's and this node's to propose.
    fn check_write(&self, request: &WriteRequest) -> Result<(), Refusal> {
        let descriptor = self.state.descriptor();
        match (&request.op, self.state.machine()) {
            // A follower may not have heard yet that the cluster was raised: only the leader says no.
            (Op::System(_), Machine::System(_)) if !self.leading => {}
            // What this binary does not understand is not for it to propose, nor what a node of the cluster may not.
            (Op::System(command), Machine::System(system)) => {
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
            (Op::Write { table, ops }, Machine::Data) if *table == descriptor.table => {
                if ops.is_empty() {
                    return Err(Refusal::Invalid { field: "ops", why: "a write has at least one operation".into() });
                }
                for op in ops {
                    check_op(op)?;
                    // A batch whose keys went apart asks what became of an earlier attempt.
                    if !descriptor.contains(&op.key) && !self.knows(&request.id) {
                        return Err(Refusal::WrongShard);
                    }
                }
            }
            _ => return Err(Refusal::WrongShard),
        }
        if self.leading { Ok(()) } else { Err(Refusal::NotLeader { leader: self.leader(), maybe: false }) }
    }

    /// Whether a write of this name was executed here, or by the shard that this one was born of. It is not executed again.
    fn knows(&self, id: &WriteId) -> bool {
        matches!(self.state.sessions().judge(id, 0), Verdict::Known(_))
    }

    /// A client's session is kept until its last deadline: one that lies too far ahead is refused.
    fn check_deadline<H: Host>(&mut self, node: &Node<H>, deadline_us: u64) -> Result<(), Refusal> {
        let most = node.deadline_ahead_us;
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

    /// Why the outcome of a new write would be one too many to keep. Metadata commands pass: they are few.
    fn keeps_too_much<H: Host>(&self, node: &Node<H>, request: &WriteRequest) -> Option<Arc<str>> {
        if let Machine::System(_) = self.state.machine() {
            return None;
        }
        let (before, kept) = self.state.sessions().kept_beside(&request.id)?;
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
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
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
