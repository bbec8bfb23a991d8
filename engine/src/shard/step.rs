//! A replica's core: what it is given, and what it asks for.
//!
//! Owns: that all it asks for is carried out, in its order. Must never: keep what the core said to one input for the next.

use super::{Core, FIRST_EPOCH, Shard, ShardLog};
use crate::host::Host;
use crate::logstore::GroupWrite;
use crate::round::Node;
use crate::writer::Done;
use bytes::Bytes;
use synod_cluster::ids::{NodeId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::Replica;
use synod_paxos::io::{Ctx, Input, Output, Refused, RoleKind};
use synod_paxos::types::Ballot;

/// Bytes of applied entries that a core may keep in memory where all together keep too much. Stop-signs are shorter: one that is
/// the last entry stays.
const CACHE_LEAST: usize = 4 << 10;

/// Commands that the core has taken into its log.
pub(super) struct Proposed {
    /// The slot of the first; the others follow.
    pub(super) first: Slot,
    /// The ballot they are proposed in: an entry of another ballot is not one of them.
    pub(super) ballot: Ballot,
}

impl Shard {
    /// Lets a waiting replica take part.
    pub(crate) fn start<H: Host>(&mut self, node: &mut Node<H>) {
        let Core::Waiting(recovered) = &self.core else { return };
        let mut recovered = recovered.clone();
        recovered.live = node.live.iter().copied().collect();
        let mut replica = Replica::new(node.me, *recovered, node.paxos.clone());
        if self.missing.is_some() {
            replica = replica.abstaining();
        }
        replica.speak(node.consensus_version());
        self.core = Core::Running(Box::new(replica));
        self.step(node, Input::Tick);
        if std::mem::take(&mut self.begins) {
            self.step(node, Input::Begun);
        }
    }

    /// Every node understands this cluster version from now on.
    pub(crate) fn speak(&mut self, version: u64) {
        if let Core::Running(replica) = &mut self.core {
            replica.speak(version);
        }
    }

    /// Gives the core one input and carries out what it asks for. A waiting replica ignores it.
    pub(crate) fn step<H: Host>(&mut self, node: &mut Node<H>, input: Input) {
        // It is nothing that the core may refuse, or nobody waits for what it says.
        let _ = self.ask(node, input);
    }

    /// Gives the core an input that it may refuse, and carries out what it asks for. Where it was a proposal, what became of it.
    ///
    /// # Errors
    /// The core refused, or takes no inputs yet: nothing was proposed.
    pub(super) fn ask<H: Host>(&mut self, node: &mut Node<H>, input: Input) -> Result<Option<Proposed>, Refusal> {
        let Core::Running(replica) = &mut self.core else { return Err(Refusal::NotReady) };
        self.handled += 1;
        let mut outputs = std::mem::take(&mut node.outputs);
        let log = ShardLog { log: &*node.log, shard: self.id };
        let ctx = Ctx { now: node.now, random: node.host.random(), log: &log };
        replica.step(&ctx, input, &mut outputs);
        replica.limit_cache(if self.cached.is_over() { CACHE_LEAST } else { node.cache_each });
        self.cached.set(replica.cached_bytes());
        let mut said = None;
        for output in outputs.drain(..) {
            said = self.carry_out(node, output).or(said);
        }
        node.outputs = outputs;
        self.arm(node);
        said.transpose().map_err(refusal)
    }

    /// Proposes one entry a command, all of them or none.
    ///
    /// # Errors
    /// None of them was proposed.
    pub(super) fn propose_entries<H: Host>(
        &mut self,
        node: &mut Node<H>,
        commands: Vec<(u64, Bytes)>,
    ) -> Result<Proposed, Refusal> {
        self.ask(node, Input::Propose { commands })?.ok_or(Refusal::NotReady)
    }

    /// Returns what the core says to its input, where the output is that.
    fn carry_out<H: Host>(&mut self, node: &mut Node<H>, output: Output) -> Option<Result<Proposed, Refused>> {
        match output {
            Output::Send { to, message } => {
                node.metrics.messages_sent_total.inc();
                node.host.send(to, self.id, message);
            }
            Output::Persist(write) => {
                let done = Done::Persisted(write.seq);
                let write = GroupWrite {
                    shard: self.id,
                    hard: write.hard,
                    truncate_from: write.truncate_from,
                    append: write.append,
                    ..GroupWrite::default()
                };
                node.writer.add(write, Some(done));
            }
            Output::Committed(upto) => {
                self.committed = upto;
                self.schedule(node);
            }
            Output::RoleChanged { role, ballot, leader } => self.role_changed(node, role, ballot, leader),
            Output::Proposed { first, ballot } => return Some(Ok(Proposed { first, ballot })),
            Output::Refused { why, read: None } => return Some(Err(why)),
            Output::Refused { read: Some(id), .. } => {
                // No word of the leader believed in: it did not answer, or leads no more.
                self.reads.refuse(node, id, &Refusal::NotLeader { leader: None, maybe: false });
            }
            Output::ReadReady { reads, slot } => {
                self.reads.ready(&reads, slot, node.now);
                self.schedule(node);
            }
            Output::EpochChanged(membership) => {
                tracing::info!(shard = self.id.0, epoch = membership.epoch.0, "a new membership is in force");
                self.members = membership;
                self.meet_members = true;
                node.changed_members.insert(self.id);
                self.schedule(node);
            }
            Output::NeedSnapshot { to } => {
                let wanted = (self.id, to, Slot(0));
                if !node.snapshots_wanted.contains(&wanted) {
                    node.snapshots_wanted.push(wanted);
                }
            }
            Output::TrimTo(slot) => self.trim_to = self.trim_to.max(slot),
            Output::Fatal(why) => node.host.fatal(format!("shard {}: {why}", self.id)),
        }
        None
    }

    fn role_changed<H: Host>(&mut self, node: &mut Node<H>, role: RoleKind, ballot: Ballot, leader: Option<NodeId>) {
        let leads = role == RoleKind::Leader;
        if leads && !self.leading {
            node.metrics.elections_total.inc();
            node.metrics.leaders.inc();
        } else if !leads && self.leading {
            node.metrics.leaders.dec();
        }
        self.leading = leads;
        if leads && self.members.epoch > FIRST_EPOCH {
            node.changed_members.insert(self.id);
        }
        // What was proposed under another leadership may be chosen yet or not: the client asks again under the same id.
        self.proposals.lead_lost(node, leads.then_some(ballot), leader);
        self.order_lost(leads.then_some(ballot), leader);
        node.host.role_changed(self.id, leader, leads);
    }

    /// Moves a leadership.
    pub(crate) fn transfer<H: Host>(&mut self, node: &mut Node<H>, to: NodeId) -> Result<(), Refusal> {
        self.ask(node, Input::TransferTo(to))?;
        Ok(())
    }
}

/// The core's refusal in the words of the engine; nothing was proposed.
fn refusal(why: Refused) -> Refusal {
    match why {
        Refused::NotLeader { leader } => Refusal::NotLeader { leader, maybe: false },
        Refused::Overloaded => Refusal::Overloaded,
        Refused::Changing => Refusal::NotReady,
        Refused::InvalidMembership => Refusal::Invalid { field: "members", why: why.to_string() },
        Refused::InvalidTarget => Refusal::Invalid { field: "to", why: why.to_string() },
    }
}
