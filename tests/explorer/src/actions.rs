//! What clients and faults do next.
//!
//! Owns: the choice of an action and its victims. Must never: act once the faults have stopped.

use super::events::Event;
use super::plan::Action;
use super::violation::Check;
use super::world::World;
use synod_paxos::io::Input;
use synod_paxos::types::NodeId;

impl World {
    /// One random action.
    pub fn act(&mut self) -> Check {
        let total: u64 = self.plan.weights.iter().map(|(_, weight)| weight).sum();
        let mut left = self.dice.below(total.max(1));
        let mut chosen = Action::Propose;
        for (action, weight) in &self.plan.weights {
            if left < *weight {
                chosen = *action;
                break;
            }
            left -= weight;
        }
        self.perform(chosen)
    }

    fn perform(&mut self, action: Action) -> Check {
        match action {
            Action::Propose => self.at_leader(|world, id| {
                let count = world.dice.between(1, 3);
                world.propose(id, count).map(|_| ())
            }),
            Action::Burst => self.at_leader(|world, id| {
                let count = world.dice.between(4, 12);
                world.propose(id, count).map(|_| ())
            }),
            Action::Read if self.dice.chance(150) => self.at_random(|world, id| world.read(id)),
            Action::Read => self.at_leader_or_paused(|world, id| world.read(id)),
            Action::Crash => self.at_random(|world, id| world.crash_for_a_while(id)),
            Action::PowerLoss => self.running().into_iter().try_for_each(|id| self.crash_for_a_while(id)),
            Action::Cut => {
                if let Some((from, to)) = self.some_pair() {
                    let both = self.dice.chance(300);
                    self.cut(if both { vec![(from, to), (to, from)] } else { vec![(from, to)] });
                }
                Ok(())
            }
            Action::Partition => {
                self.partition();
                Ok(())
            }
            Action::HealAll => {
                let cuts = self.network.cuts();
                self.heal(&cuts);
                Ok(())
            }
            Action::Transfer => self.at_leader(|world, id| {
                let ids: Vec<_> = world.nodes.keys().copied().collect();
                let to = world.dice.pick(&ids).copied().unwrap_or(id);
                world.coverage.count("event", "transfer asked", "");
                world.step_replica(id, Input::TransferTo(to)).map(|_| ())
            }),
            Action::Isolate => self.at_leader(World::cut_off),
            Action::Handover => self.at_leader(World::begin_handover),
            Action::Freeze => self.at_leader(World::freeze),
            Action::Bounce => self.at_random(World::bounce),
            Action::Release => self.at_leader(|world, id| world.step_replica(id, Input::Release).map(|_| ())),
            Action::Campaign => self.at_random(|world, id| world.step_replica(id, Input::Campaign).map(|_| ())),
            Action::Reconfigure => self.at_leader(World::reconfigure),
            Action::Misjudge => {
                let Some((at, of)) = self.some_pair() else { return Ok(()) };
                if !self.runs(at) {
                    return Ok(());
                }
                let wrong = !self.hears(at, of);
                self.notice(at, of, false);
                self.coverage.count("event", "misjudged peer", "");
                self.believe(at, of, wrong, false)
            }
            Action::Hang => self.at_random(|world, id| {
                let until = world.now + world.dice.between(1_000, 80_000);
                world.coverage.count("event", "disk hangs", "");
                world.node_mut(id)?.hangs_until = until;
                Ok(())
            }),
            Action::Pause => self.at_random(|world, id| {
                let until = world.now + world.dice.between(1_000, 60_000);
                world.coverage.count("event", "process pauses", "");
                world.node_mut(id)?.paused_until = until;
                Ok(())
            }),
            Action::Flush => self.at_random(World::flush),
            Action::Trim => self.at_random(World::trim),
            Action::Retire => self.retire(),
            Action::Lag => self.lag(),
            Action::Echo => {
                let pending: Vec<_> = self.echoes.iter().cloned().collect();
                if let Some((from, to, message)) = self.dice.pick(&pending).cloned() {
                    let wait = self.dice.below(30_000);
                    self.agenda.add(self.now + wait, Event::Deliver { from, to, message });
                }
                Ok(())
            }
        }
    }

    /// Does something at a node that believes it leads, or now and then at any.
    fn at_leader(&mut self, mut act: impl FnMut(&mut Self, NodeId) -> Check) -> Check {
        self.at_leader_or_paused(|world, id| if world.is_paused(id) { Ok(()) } else { act(world, id) })
    }

    /// The same, though its process be paused.
    fn at_leader_or_paused(&mut self, mut act: impl FnMut(&mut Self, NodeId) -> Check) -> Check {
        let leaders = self.leaders();
        let all = self.running();
        let among = if leaders.is_empty() || self.dice.chance(60) { all } else { leaders };
        let Some(id) = self.dice.pick(&among).copied() else { return Ok(()) };
        act(self, id)
    }

    fn at_random(&mut self, mut act: impl FnMut(&mut Self, NodeId) -> Check) -> Check {
        let all = self.running();
        let Some(id) = self.dice.pick(&all).copied() else { return Ok(()) };
        if self.is_paused(id) { Ok(()) } else { act(self, id) }
    }

    pub(super) fn is_paused(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.paused_until > self.now)
    }

    fn some_pair(&mut self) -> Option<(NodeId, NodeId)> {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let (a, b) = (*self.dice.pick(&ids)?, *self.dice.pick(&ids)?);
        (a != b).then_some((a, b))
    }

    fn partition(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let here: Vec<_> = ids.iter().copied().filter(|_| self.dice.chance(500)).collect();
        let mut links = Vec::new();
        for a in here.iter().copied() {
            for b in ids.iter().copied().filter(|b| !here.contains(b)) {
                links.extend([(a, b), (b, a)]);
            }
        }
        if !links.is_empty() {
            self.cut(links);
        }
    }

    fn crash_for_a_while(&mut self, id: NodeId) -> Check {
        self.crash(id)?;
        let (low, high) = self.plan.outage;
        let outage = if self.dice.chance(400) { self.dice.below(2_000) } else { self.dice.between(low, high) };
        self.agenda.add(self.now + outage, Event::Start(id));
        Ok(())
    }

    /// What was applied becomes durable, or some of it.
    fn flush(&mut self, id: NodeId) -> Check {
        let applied = self.node_mut(id)?.applied;
        if let Some(disk) = self.disks.get_mut(&id) {
            disk.applied = disk.applied.max(applied);
        }
        Ok(())
    }

    /// The log goes up to where it is applied durably here: mostly no further than everybody has it, at times further, so
    /// that members need a snapshot.
    fn trim(&mut self, id: NodeId) -> Check {
        let Some(disk) = self.disks.get_mut(&id) else { return Ok(()) };
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let most = if self.dice.chance(200) { disk.applied } else { node.trim_to.min(disk.applied) };
        let most = most.min(self.observer.compared(id));
        if most <= disk.log.base.slot {
            return Ok(());
        }
        let upto = synod_paxos::types::Slot(self.dice.between(disk.log.base.slot.0 + 1, most.0));
        let Some(replica) = node.replica.as_mut() else { return Ok(()) };
        self.trace.line(|| format!("  t={} {id:?} trims to {upto}", self.now));
        self.coverage.count("event", "trim", "");
        replica.trimmed(upto);
        // The process may end between the one and the other: then the log is only longer than needed.
        if self.dice.chance(900) {
            disk.log.trim(upto);
        } else {
            return self.crash_for_a_while(id);
        }
        self.observer.trimmed(id, upto);
        let checked = replica.check_invariants();
        checked.map_err(|why| super::Violation::new("the replica's own invariants", format!("{id:?} trimmed: {why}")))
    }

    /// A replica that is no longer in any epoch goes, once an entry of the new epoch is chosen.
    fn retire(&mut self) -> Check {
        if !self.observer.latest_epoch_has_begun() {
            return Ok(());
        }
        let latest = self.observer.latest_membership();
        let gone: Vec<_> = self
            .ever_members()
            .into_iter()
            .filter(|n| latest.role_of(*n).is_none() && self.nodes.get(n).is_some_and(|n| !n.retired))
            .collect();
        let Some(id) = self.dice.pick(&gone).copied() else { return Ok(()) };
        self.crash(id)?;
        self.coverage.count("event", "replica retired", "");
        self.trace.line(|| format!("  {id:?} is gone"));
        self.node_mut(id)?.retired = true;
        Ok(())
    }
}
