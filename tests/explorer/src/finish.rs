//! The second phase: faults have stopped, and the group must recover.
//!
//! Owns: the bounds within which a leader exists, a fresh write is applied and a read served by every member, and silence falls. Must never:
//! help the group in a way that a real driver would not.

use super::events::Event;
use super::plan::Ending;
use super::violation::{Check, Violation, ensure};
use super::world::{Finish, World};
use std::collections::BTreeSet;
use synod_paxos::Replica;
use synod_paxos::types::{EntryId, NodeId};

/// Virtual time for a leader and a fresh write, in units of the plan's election jitter.
const RECOVERY_JITTERS: u64 = 400;
/// Virtual time until silence, likewise.
const SILENCE_JITTERS: u64 = 200;
/// Events until silence: more is a storm.
const SILENCE_EVENTS: u64 = 60_000;

impl World {
    /// Runs the second phase.
    pub fn finish(&mut self) -> Check {
        self.plan.calm();
        self.trace.line(|| format!("  t={} faults stop: {:?}", self.now, self.plan.ending));
        self.agenda.retain(|event| !matches!(event, Event::Act | Event::Heal(_) | Event::Start(_)));
        self.finish = Some(Finish::default());
        let cuts = self.network.cuts();
        self.heal(&cuts);
        if self.plan.ending == Ending::RestartAll {
            self.running().into_iter().try_for_each(|id| self.crash(id))?;
        }
        let absent = self.choose_absent();
        match self.plan.ending {
            Ending::RestartAll | Ending::Reconnect => {}
            Ending::MinorityDown => absent.iter().try_for_each(|id| self.crash(*id))?,
            Ending::MinorityCut => self.isolate(&absent, true, true),
            Ending::MinorityDeaf => self.isolate(&absent, false, true),
            Ending::MinorityMute => self.isolate(&absent, true, false),
            Ending::MinorityGone => self.lose_power(&absent)?,
        }
        self.reconnect_all();
        let returning = !absent.is_empty() && self.plan.ending != Ending::MinorityGone;
        self.recover(absent)?;
        if returning {
            self.trace.line(|| format!("  t={} the minority returns", self.now));
            let cuts = self.network.cuts();
            self.heal(&cuts);
            self.finish = Some(Finish::default());
            self.reconnect_all();
            self.recover(BTreeSet::new())?;
        }
        Ok(())
    }

    /// A minority of the latest voters, where the ending wants one apart.
    fn choose_absent(&mut self) -> BTreeSet<NodeId> {
        let apart = !matches!(self.plan.ending, Ending::RestartAll | Ending::Reconnect);
        // While an epoch begins or a stop-sign is under way, the quorum that is needed may be another.
        let steady = self.observer.latest_epoch_has_begun() && !self.observer.stop_sign_proposed();
        let latest = self.observer.latest_membership();
        let voters: Vec<_> = latest.voters().collect();
        let spare = if apart && steady { voters.len() - latest.quorum() } else { 0 };
        let absent: BTreeSet<_> = (0..spare).filter_map(|_| self.dice.pick(&voters).copied()).collect();
        self.trace.line(|| format!("  apart: {absent:?}"));
        self.finish = Some(Finish { absent: absent.clone(), ..Finish::default() });
        absent
    }

    /// Cuts a minority off from all others, in one direction or both.
    fn isolate(&mut self, minority: &BTreeSet<NodeId>, outward: bool, inward: bool) {
        let others: Vec<_> = self.nodes.keys().copied().filter(|id| !minority.contains(id)).collect();
        for apart in minority {
            for other in &others {
                if outward {
                    self.network.cut(*apart, *other);
                }
                if inward {
                    self.network.cut(*other, *apart);
                }
            }
        }
    }

    /// Whoever is down starts, unless it is to stay down; everybody looks at everybody.
    fn reconnect_all(&mut self) {
        let absent = self.finish.as_ref().map(|f| f.absent.clone()).unwrap_or_default();
        let stays_down = |id: &NodeId| self.plan.ending == Ending::MinorityDown && absent.contains(id);
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let down = |id: &NodeId| self.nodes[id].replica.is_none() && !self.nodes[id].retired && !self.is_spare(*id);
        let starting: Vec<_> = ids.iter().copied().filter(|id| down(id) && !stays_down(id)).collect();
        for id in starting {
            let wait = self.dice.below(20_000);
            self.agenda.add(self.now + wait, Event::Start(id));
        }
        for id in ids.iter().copied() {
            ids.iter().copied().filter(|peer| *peer != id).for_each(|peer| self.notice(id, peer, true));
        }
    }

    /// Waits for a leader, a fresh write at every present member, and silence.
    fn recover(&mut self, absent: BTreeSet<NodeId>) -> Check {
        self.finish = Some(Finish { absent, ..Finish::default() });
        let jitter = self.plan.options.jitter_us.max(20_000);
        let (by, mut events) = (self.now + RECOVERY_JITTERS * jitter, 0);
        self.agenda.add(self.now + jitter, Event::Probe);
        while !self.finish.as_ref().is_some_and(|f| f.done) {
            self.next_event()?;
            events += 1;
            ensure!(
                self.now < by && events < SILENCE_EVENTS,
                "liveness: a fresh write is applied by every member once faults stop",
                "t={} after {events} events: leaders {:?}, {}",
                self.now,
                self.leaders(),
                self.describe()
            );
        }
        if !self.present_is_all() && matches!(self.plan.ending, Ending::MinorityDeaf | Ending::MinorityMute) {
            return Ok(());
        }
        let (by, mut events) = (self.now + SILENCE_JITTERS * jitter, 0);
        while self.next_event()? {
            events += 1;
            ensure!(
                self.now < by && events < SILENCE_EVENTS,
                "24: idle groups cost nothing",
                "t={} after {events} events: {}",
                self.now,
                self.describe()
            );
        }
        self.at_rest()
    }

    /// The client tries to write, until every present member has applied what it wrote.
    pub fn probe(&mut self) -> Check {
        let fresh = self.finish.as_ref().map(|f| f.fresh.clone()).unwrap_or_default();
        let chosen = fresh.into_iter().find(|id| self.observer.chosen(id.slot).is_some_and(|c| c.entry.id == *id));
        if let Some(id) = chosen.filter(|id| self.applied_everywhere(*id)) {
            self.trace.line(|| format!("  t={} {id:?} is applied everywhere", self.now));
            let served = self.finish.as_ref().map(|f| f.served.clone()).unwrap_or_default();
            let mut asked = self.present_members();
            asked.retain(|id| !served.contains(id));
            if let (true, Some(finish)) = (asked.is_empty(), &mut self.finish) {
                finish.done = true;
                return Ok(());
            }
            asked
                .into_iter()
                .filter(|id| self.runs(*id))
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|id| self.read(id))?;
            let wait = self.plan.options.jitter_us / 2 + 1;
            self.agenda.add(self.now + wait, Event::Probe);
            return Ok(());
        }
        // Whoever does not lead refuses, and so learns that somebody waits for a leader.
        let members: Vec<_> = self.present_members().into_iter().filter(|id| self.runs(*id)).collect();
        let leaders: Vec<_> = self.leaders().into_iter().filter(|id| members.contains(id)).collect();
        let doors = if leaders.is_empty() { members } else { leaders };
        if let (None, Some(id)) = (chosen, self.dice.pick(&doors).copied()) {
            let proposed = self.propose(id, 1)?;
            if let (Some((slot, origin)), Some(finish)) = (proposed, &mut self.finish) {
                finish.fresh.push(EntryId { slot, origin });
            }
        }
        let wait = self.plan.options.jitter_us / 2 + 1;
        self.agenda.add(self.now + wait, Event::Probe);
        Ok(())
    }

    fn present_is_all(&self) -> bool {
        self.finish.as_ref().is_none_or(|f| f.absent.is_empty())
    }

    fn present_members(&self) -> Vec<NodeId> {
        let absent = self.finish.as_ref().map(|f| f.absent.clone()).unwrap_or_default();
        let members = self.observer.latest_membership().members.iter().map(|m| m.node);
        members.filter(|n| !absent.contains(n)).collect()
    }

    fn applied_everywhere(&self, id: EntryId) -> bool {
        self.present_members().iter().all(|n| self.nodes.get(n).is_some_and(|n| n.applied >= id.slot))
    }

    /// Silence has fallen: everybody agrees.
    fn at_rest(&self) -> Check {
        let members = self.present_members();
        let leaders: Vec<_> = self.leaders().into_iter().filter(|n| members.contains(n)).collect();
        ensure!(leaders.len() == 1, "liveness: one leader remains", "leaders {leaders:?}, {}", self.describe());
        for id in members {
            let node = &self.nodes[&id];
            ensure!(
                node.applied == self.observer.chosen_upto(),
                "liveness: every member applies all that is chosen",
                "{id:?} applied {} of {}, {}",
                node.applied,
                self.observer.chosen_upto(),
                self.describe()
            );
            let leader = node.replica.as_ref().and_then(Replica::leader);
            ensure!(
                leader == leaders.first().copied(),
                "liveness: every member knows the leader",
                "{id:?} knows {leader:?}, {}",
                self.describe()
            );
        }
        for (id, node) in &self.nodes {
            ensure!(
                node.reads.is_empty(),
                "every read is answered in the end",
                "{id:?} owes {:?}, {}",
                node.reads,
                self.describe()
            );
        }
        Ok(())
    }

    /// The replicas in a few words.
    fn describe(&self) -> String {
        let mut text = format!("chosen {}, {:?}", self.observer.chosen_upto(), self.observer.latest_membership());
        for (id, node) in &self.nodes {
            if let Some(replica) = &node.replica {
                let s = replica.status();
                text += &format!(
                    "\n  {id:?}: {:?} in {} promised {:?} accepted {:?} leader {:?} commit {} last {:?} durable {} applied {} \
                     deadline {:?} progress {:?}",
                    s.role,
                    s.membership.epoch,
                    s.promised,
                    s.accepted,
                    s.leader,
                    s.commit,
                    s.last,
                    s.durable,
                    node.applied,
                    replica.deadline(),
                    s.progress
                );
            }
        }
        text
    }
}
