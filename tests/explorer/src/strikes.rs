//! Attacks on leases: what takes several steps in the right order, so that chance alone seldom brings it about.
//!
//! Owns: what each step of an attack does. Must never: judge what comes of it.

use super::events::{Event, Strike};
use super::violation::Check;
use super::world::World;
use synod_paxos::io::Input;
use synod_paxos::types::NodeId;

impl World {
    /// The next step of an attack.
    pub fn strike(&mut self, strike: Strike) -> Check {
        match strike {
            Strike::Unheard { of } => self.others(of).into_iter().try_for_each(|at| self.give_up(at, of)),
            Strike::Handover { from, to } => {
                self.step_replica(from, Input::TransferTo(to))?;
                self.deafen(from);
                Ok(())
            }
            Strike::BounceOthers(id) => self.others(id).into_iter().try_for_each(|other| self.bounce(other)),
        }
    }

    fn others(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|other| *other != id).collect()
    }

    /// The failure detector of `at` holds `of` dead, whatever the truth is; later it looks again.
    fn give_up(&mut self, at: NodeId, of: NodeId) -> Check {
        if !self.runs(at) {
            return Ok(());
        }
        let (low, high) = self.plan.outage;
        let lag = self.dice.between(low, high);
        self.agenda.add(self.now + lag, Event::Liveness { at, of, reconnected: true });
        self.believe(at, of, false, false)
    }

    /// What is said to `id` does not arrive for a while, of each sender for another; it notices nothing.
    fn deafen(&mut self, id: NodeId) {
        for other in self.others(id) {
            self.cut_for_a_while(other, id);
        }
    }

    fn cut_for_a_while(&mut self, from: NodeId, to: NodeId) {
        self.network.cut(from, to);
        let (low, high) = self.plan.outage;
        let outage = self.dice.between(low, high);
        self.agenda.add(self.now + outage, Event::Heal(vec![(from, to)]));
    }

    /// A leader that has just been asked is cut off, wholly or so that it hears nothing. It takes its time to notice: else it
    /// gives up before its lease is over. All others notice at once.
    pub(super) fn cut_off(&mut self, id: NodeId) -> Check {
        if self.dice.chance(700) {
            self.read(id)?;
        }
        self.deafen(id);
        let wholly = self.dice.chance(600);
        if wholly {
            for other in self.others(id) {
                self.cut_for_a_while(id, other);
            }
        }
        let lag = self.dice.below(8_000);
        self.agenda.add(self.now + lag, Event::Strike(Strike::Unheard { of: id }));
        if self.dice.chance(200) {
            self.agenda.add(self.now + lag, Event::Strike(Strike::BounceOthers(id)));
        }
        Ok(())
    }

    /// All but one that may lead next hear nothing of a leader for a term, so that their support ends; then it hands over.
    pub(super) fn begin_handover(&mut self, id: NodeId) -> Check {
        let others = self.others(id);
        let Some(to) = self.dice.pick(&others).copied() else { return Ok(()) };
        let term = self.plan.options.support_us;
        for other in others.into_iter().filter(|other| *other != to) {
            self.network.cut(id, other);
            self.agenda.add(self.now + 2 * term, Event::Heal(vec![(id, other)]));
        }
        let wait = self.dice.between(term / 2, 3 * term / 2);
        self.agenda.add(self.now + wait, Event::Strike(Strike::Handover { from: id, to }));
        Ok(())
    }

    /// A leader is paused for longer than its lease, and all others notice; it is asked meanwhile.
    pub(super) fn freeze(&mut self, id: NodeId) -> Check {
        self.read(id)?;
        self.coverage.count("event", "process pauses", "");
        let term = self.plan.options.support_us;
        let until = self.now + self.dice.between(term / 2, 5 * term / 2);
        self.node_mut(id)?.paused_until = until;
        let lag = self.dice.below(4_000);
        self.agenda.add(self.now + lag, Event::Strike(Strike::Unheard { of: id }));
        Ok(())
    }

    /// A process ends and begins anew at once.
    pub(super) fn bounce(&mut self, id: NodeId) -> Check {
        self.crash(id)?;
        let wait = self.dice.below(2_000);
        self.agenda.add(self.now + wait, Event::Start(id));
        Ok(())
    }
}
