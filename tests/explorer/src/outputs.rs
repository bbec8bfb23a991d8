//! Carries out what a replica asks for.
//!
//! Owns: sending, syncing, applying and trimming. Must never: do in another order what was asked for in one.

use super::events::Event;
use super::observer::Speaker;
use super::trace;
use super::violation::{Check, Violation, ensure};
use super::world::{Carried, World};
use synod_paxos::io::{Input, Output, Persist, Refused, RoleKind, Status};
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, NodeId, Payload, Slot};

impl World {
    /// Carries out `outputs`, in order.
    pub fn carry_out(&mut self, speaker: Speaker, outputs: Vec<Output>, status: &Status) -> Result<Carried, Violation> {
        let mut carried = Carried::default();
        let leads = (status.role == RoleKind::Leader).then_some(status.accepted);
        for output in &outputs {
            if let Output::Proposed { first, ballot } = output {
                carried.proposed = Some((*first, *ballot));
                self.note_proposed(*first, *ballot)?;
            }
        }
        let id = speaker.node;
        for output in &outputs {
            if let Output::Persist(write) = output {
                self.observer.foresee(id, write)?;
            }
        }
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    self.observer.sent(speaker, &message, &self.disks)?;
                    self.send(id, to, message);
                }
                Output::Persist(write) => self.persist(speaker, write, leads)?,
                Output::Committed(upto) => self.committed(speaker, upto)?,
                Output::RoleChanged { role, ballot, .. } => self.observer.plays(speaker, role, ballot)?,
                Output::Proposed { .. } => {}
                Output::Refused { why, read } => {
                    self.coverage.count("refused", refusal(why), "");
                    if let Some(read) = read {
                        self.read_ended(id, read, None, None)?;
                    }
                    carried.refused.push((why, read));
                }
                Output::ReadReady { reads, slot } => {
                    if let Some(finish) = &mut self.finish {
                        finish.served(id);
                    }
                    for read in reads {
                        self.read_ended(id, read, Some(slot), leads)?;
                    }
                }
                Output::EpochChanged(membership) => {
                    let known = self.observer.memberships().any(|m| *m == membership);
                    ensure!(known, "7: only a chosen stop-sign begins an epoch", "{id:?} enters {membership:?}");
                    self.coverage.count("event", "epoch entered", "");
                }
                Output::NeedSnapshot { to } => {
                    self.coverage.count("event", "snapshot needed", "");
                    let wait = self.dice.between(100, 20_000);
                    self.agenda.add(self.now + wait, Event::Install { from: id, to });
                }
                Output::TrimTo(upto) => {
                    self.observer.trims(id, upto, &self.disks)?;
                    let node = self.node_mut(id)?;
                    node.trim_to = node.trim_to.max(upto);
                }
                Output::Fatal(why) => {
                    return Err(Violation::new("no replica fails by itself", format!("{id:?}: {why}")));
                }
            }
        }
        Ok(carried)
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let noisy = self.finish.is_none();
        let bytes = size(&message);
        if !self.network.has_room(from, to, bytes, self.now, &self.plan) {
            self.coverage.count("event", "message finds no room", "");
            self.trace.line(|| format!("      no room on the way to {to:?}"));
            let boot = self.nodes.get(&from).map_or(0, |node| node.boot);
            return self.agenda.add(self.now, Event::Dropped { node: from, boot, to });
        }
        if noisy && self.dice.chance(self.plan.loss) {
            self.trace.line(|| format!("      lost to {to:?}"));
            return;
        }
        if noisy && self.plan.weights.iter().any(|(a, w)| *a == super::plan::Action::Echo && *w > 0) {
            self.echoes.push_back((from, to, message.clone()));
            if self.echoes.len() > 40 {
                self.echoes.pop_front();
            }
        }
        if noisy && self.dice.chance(self.plan.duplicate) {
            let at = self.network.arrival((from, to), bytes, self.now, &self.plan, &mut self.dice);
            let at = at + self.dice.below(20_000);
            self.agenda.add(at, Event::Deliver { from, to, message: message.clone() });
        }
        let at = self.network.arrival((from, to), bytes, self.now, &self.plan, &mut self.dice);
        self.agenda.add(at, Event::Deliver { from, to, message });
    }

    /// A message arrives, if a way is open and somebody is there.
    pub fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) -> Check {
        if !self.network.carries(from, to) {
            if self.dice.chance(self.plan.held) {
                let wait = self.dice.between(1_000, 60_000);
                self.agenda.add(self.now + wait, Event::Deliver { from, to, message });
            }
            return Ok(());
        }
        if self.is_spare(to) {
            self.trace.line(|| format!("  {to:?} hears of the group: {}", trace::message(&message)));
            self.start(to)?;
        }
        self.step_replica(to, Input::Message { from, message }).map(|_| ())
    }

    fn persist(&mut self, speaker: Speaker, write: Persist, leads: Option<Ballot>) -> Check {
        let id = speaker.node;
        self.observer.staged(id, &write, leads)?;
        if let Some(disk) = self.disks.get_mut(&id) {
            disk.queue.push_back(write);
        }
        self.schedule_sync(id)
    }

    /// Puts the next sync of a disk on the agenda, where writes wait and none is under way.
    pub fn schedule_sync(&mut self, id: NodeId) -> Check {
        let (low, high) = self.plan.sync;
        let took = self.dice.between(low, high);
        let now = self.now;
        let waiting = self.disks.get(&id).is_some_and(|d| !d.queue.is_empty());
        let node = self.node_mut(id)?;
        if node.syncing || !waiting {
            return Ok(());
        }
        node.syncing = true;
        let (boot, at) = (node.boot, node.hangs_until.max(now) + took);
        self.agenda.add(at, Event::Sync { node: id, boot });
        Ok(())
    }

    /// A sync ends: all or the first few of the waiting writes are durable.
    pub fn sync(&mut self, id: NodeId) -> Check {
        let waiting = self.disks.get(&id).map_or(0, |d| d.queue.len()) as u64;
        let part = waiting > 1 && self.dice.chance(self.plan.partial_sync);
        let count = if part { self.dice.between(1, waiting - 1) } else { waiting };
        let mut last = None;
        for index in 0..count {
            last = self.make_durable(id)?;
            let each = self.dice.chance(200) && index + 1 < count;
            if let (true, Some(seq)) = (each, last) {
                self.tell_persisted(id, seq)?;
            }
        }
        if let Some(seq) = last {
            self.tell_persisted(id, seq)?;
        }
        self.node_mut(id)?.syncing = false;
        self.schedule_sync(id)
    }

    fn tell_persisted(&mut self, id: NodeId, seq: synod_paxos::types::WriteSeq) -> Check {
        let wait = if self.dice.chance(700) { 0 } else { self.dice.below(1_500) };
        let now = self.now;
        let node = self.node_mut(id)?;
        node.persisted_at = node.persisted_at.max(now + wait);
        let (at, boot) = (node.persisted_at, node.boot);
        self.agenda.add(at, Event::Persisted { node: id, boot, seq });
        Ok(())
    }

    /// Makes the oldest waiting write of a disk durable and judges the disk.
    pub fn make_durable(&mut self, id: NodeId) -> Result<Option<synod_paxos::types::WriteSeq>, Violation> {
        if self.plan.planted.disk == super::plan::DiskFault::LosesSynced {
            self.keep_old_disk(id);
        }
        let Some(disk) = self.disks.get_mut(&id) else { return Ok(None) };
        let Some((write, synced)) = disk.sync_one() else { return Ok(None) };
        self.trace.line(|| format!("  t={} {id:?} has {} on disk", self.now, write.seq));
        self.observer.synced(id, &self.disks[&id], &synced, &self.disks)?;
        Ok(Some(write.seq))
    }

    fn committed(&mut self, speaker: Speaker, upto: Slot) -> Check {
        let id = speaker.node;
        self.observer.committed(id, upto, &self.disks)?;
        let node = self.node_mut(id)?;
        node.committed = node.committed.max(upto);
        self.schedule_apply(id)
    }

    /// Puts the next application on the agenda, where something waits and none is under way.
    pub fn schedule_apply(&mut self, id: NodeId) -> Check {
        let (low, high) = self.plan.apply;
        let wait = self.dice.between(low, high);
        let now = self.now;
        let node = self.node_mut(id)?;
        if node.applying || node.applied >= node.committed {
            return Ok(());
        }
        node.applying = true;
        let boot = node.boot;
        self.agenda.add(now + wait, Event::Apply { node: id, boot });
        Ok(())
    }

    /// The state machine applies some of what is committed.
    pub fn apply(&mut self, id: NodeId) -> Check {
        let max_bytes = if self.dice.chance(500) { 1 << 20 } else { self.dice.below(300) as usize };
        let disk = &self.disks[&id];
        let node =
            self.nodes.get_mut(&id).ok_or_else(|| Violation::new("harness: a node exists", format!("{id:?}")))?;
        node.applying = false;
        let (after, upto) = (node.applied, node.committed);
        let Some(replica) = node.replica.as_ref() else { return Ok(()) };
        if after >= upto {
            return Ok(());
        }
        let entries = replica.entries_to_apply(&disk.log, after, upto, max_bytes).map_err(|why| {
            Violation::new("what is committed can be applied", format!("{id:?} ({after}, {upto}]: {why}"))
        })?;
        ensure!(!entries.is_empty(), "what is committed can be applied", "{id:?} gets nothing of ({after}, {upto}]");
        for entry in &entries {
            let next = node.applied.next();
            let chosen = self.observer.chosen(next).map(|c| &c.entry);
            ensure!(
                chosen == Some(entry) && next <= upto,
                "6: what is applied is what is chosen, in order, up to what was asked",
                "{id:?} applies {entry:?} at {next} of {upto}, chosen is {chosen:?}"
            );
            node.applied = next;
        }
        let applied = node.applied;
        let commands = entries.iter().filter(|e| matches!(e.payload, Payload::Command(_))).count() as u64;
        self.coverage.add("event", "command applied", "", commands);
        self.step_replica(id, Input::Applied(applied))?;
        self.schedule_apply(id)
    }
}

/// About what a message takes on a link, bytes.
fn size(message: &Message) -> u64 {
    let entries = match message {
        Message::Fetched { entries, .. }
        | Message::Sync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Learn { entries, .. } => entries.as_slice(),
        _ => &[],
    };
    40 + entries.iter().map(|entry| entry.size() as u64).sum::<u64>()
}

fn refusal(why: Refused) -> &'static str {
    match why {
        Refused::NotLeader { .. } => "NotLeader",
        Refused::Overloaded => "Overloaded",
        Refused::Changing => "Changing",
        Refused::InvalidMembership => "InvalidMembership",
        Refused::InvalidTarget => "InvalidTarget",
    }
}
