//! The first phase: what goes wrong, and when it is put right.
//!
//! Owns: the choice and the doing of faults. Must never: damage, set back or wipe the disks of more nodes than a group may
//! lose; anything else may strike any number of nodes at once.

use crate::lifecycle::End;
use crate::plan::{Action, DiskFault, WrongClocks};
use crate::violation::Checked;
use crate::world::{Event, World};
use synod_cluster::ids::{NodeId, NodeWriteSeq};
use synod_engine::host::{AdminInput, NodeInput};

/// Until a disk that was set back must be found out, µs.
const EXPULSION: u64 = 4_000_000;
/// An hour, µs.
const HOUR: u64 = 3_600_000_000;
/// The most that a clock which is not wrong is off after jumps, µs.
pub(crate) const WALL_MAX: i64 = 5_000_000;

impl World {
    /// The first phase.
    pub(crate) fn storm(&mut self) -> Checked {
        let end = self.now + self.plan.length;
        self.storm_ends = end;
        self.at(self.now + self.plan.act.0, Event::Act);
        self.run_until(end, |_| false).map(|_| ())
    }

    /// The next fault, and when the one after it is due.
    pub(crate) fn act(&mut self) -> Checked {
        if self.phase != crate::world::Phase::Storm {
            return Ok(());
        }
        let span = self.plan.act;
        let pause = self.dice.between(span);
        self.at(self.now + pause, Event::Act);
        if self.now < self.truce_until {
            return Ok(());
        }
        let total: u64 = self.plan.weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Ok(());
        }
        let mut pick = self.dice.below(total);
        let mut action = Action::Heal;
        for (candidate, weight) in &self.plan.weights {
            if pick < *weight {
                action = *candidate;
                break;
            }
            pick -= weight;
        }
        let Some(victim) = self.dice.pick(&self.ids.clone()) else { return Ok(()) };
        // Half of all strikes are aimed at whoever leads something.
        let leads = self.which(|n| n.up.as_ref().is_some_and(|up| !up.taps.lock().leads.is_empty()));
        let aimed = self.dice.chance(500);
        let victim = if aimed { self.dice.pick(&leads).unwrap_or(victim) } else { victim };
        self.trace.note(self.now, "act", &[action as u64, victim.0], || format!("{action:?} {victim}"));
        if self.strike(action, victim)? {
            self.coverage.count("fault", action.name());
        }
        Ok(())
    }

    fn strike(&mut self, action: Action, victim: NodeId) -> Checked<bool> {
        let up = self.nodes[&victim].up.is_some();
        Ok(match action {
            Action::Kill | Action::PowerLoss => up && self.crash(victim, action),
            Action::PowerLossAll => {
                let all = self.which(|n| n.up.is_some());
                for id in &all {
                    self.stop(*id, self.now, End::Silent);
                }
                for id in &all {
                    let outage = self.outage() / 2;
                    self.at(self.now + outage, Event::Restart { node: *id });
                }
                !all.is_empty()
            }
            Action::Shutdown => up && self.shut_down(victim),
            Action::Pause => up && self.pause(victim),
            Action::Cut | Action::Isolate | Action::Bridge => self.part(action, victim),
            Action::Reset => self.other(victim).is_some_and(|other| {
                self.reset(victim, other);
                true
            }),
            Action::Heal => {
                let cut = !self.net.is_whole();
                self.net.heal();
                cut
            }
            Action::Hang => {
                let long = self.outage();
                self.node(victim).disk.lock().hang = Some(long);
                up
            }
            Action::FailWrite => {
                self.node(victim).disk.lock().fail_write = up;
                up
            }
            Action::FailRead => {
                self.node(victim).disk.lock().fail_read = up;
                up
            }
            Action::FailFlush => {
                self.node(victim).disk.lock().fail_flush = up;
                up
            }
            Action::FlipLog | Action::FlipState => self.flip(action, victim),
            Action::SetBack => self.set_back(victim)?,
            Action::ClockJump => {
                self.wall_jumps(victim);
                true
            }
            Action::Transfer => up && self.transfer(victim),
            Action::Garble => {
                self.garble = true;
                true
            }
            Action::GarblePart => {
                self.garble_part = true;
                true
            }
            Action::FlipFile => {
                let Self { nodes, dice, .. } = self;
                nodes.get_mut(&victim).is_some_and(|node| node.disk.lock().files.flip(dice))
            }
            Action::FailFile => {
                self.node(victim).disk.lock().files.fail = up;
                up
            }
            Action::FailLoad => {
                self.node(victim).disk.lock().fail_load = up;
                up
            }
        })
    }

    /// A wall clock jumps: a little, or by hours where the plan has such clocks.
    fn wall_jumps(&mut self, victim: NodeId) {
        let jump = self.dice.between((0, 4_000_000)) as i64 - 2_000_000;
        let far = self.dice.between((HOUR, 24 * HOUR)) as i64;
        let far = if self.dice.chance(500) { far } else { -far };
        // Half of the jumps of a wrong clock set it right.
        let far = if self.dice.chance(500) { far } else { 0 };
        let wrong = match self.plan.wrong_clocks {
            WrongClocks::Nobodys => vec![],
            WrongClocks::Ones => self.ids.first().copied().into_iter().collect(),
            WrongClocks::Alls => self.ids.clone(),
        };
        for id in &wrong {
            let node = self.node(*id);
            node.set_wall(node.wall_offset, far);
        }
        if !wrong.is_empty() {
            self.coverage.count("fault", if far == 0 { "wrong clocks set right" } else { "clocks hours off" });
        }
        let node = self.node(victim);
        node.set_wall((node.wall_offset + jump).clamp(-WALL_MAX, WALL_MAX), node.wall_wrong);
    }

    pub(crate) fn crash(&mut self, victim: NodeId, action: Action) -> bool {
        let end = if action == Action::Kill { End::Killed } else { End::Silent };
        self.stop(victim, self.now, end);
        let outage = self.outage();
        self.at(self.now + outage, Event::Restart { node: victim });
        true
    }

    pub(crate) fn shut_down(&mut self, victim: NodeId) -> bool {
        let node = self.node(victim);
        let process = node.process;
        let Some(up) = &mut node.up else { return false };
        if up.paused || up.leaving {
            return false;
        }
        up.push(NodeInput::Drain);
        self.wake(victim);
        self.at(self.now + 50_000, Event::Leave { node: victim, process, count: 0 });
        true
    }

    pub(crate) fn pause(&mut self, victim: NodeId) -> bool {
        let (now, outage) = (self.now, self.outage());
        let node = self.node(victim);
        let process = node.process;
        let Some(up) = &mut node.up else { return false };
        if std::mem::replace(&mut up.paused, true) {
            return false;
        }
        up.round_at = None;
        up.stop_amid(now);
        let amid = up.begun.is_some();
        if amid {
            self.coverage.count("fault", "process paused in a round");
        }
        self.at(self.now + outage, Event::Resume { node: victim, process });
        true
    }

    fn other(&mut self, victim: NodeId) -> Option<NodeId> {
        let others: Vec<NodeId> = self.ids.iter().copied().filter(|id| *id != victim).collect();
        self.dice.pick(&others)
    }

    fn part(&mut self, action: Action, victim: NodeId) -> bool {
        let Some(other) = self.other(victim) else { return false };
        match action {
            Action::Cut => self.net.cut((victim, other)),
            Action::Bridge => self.net.cut_both((victim, other)),
            _ => {
                for peer in self.ids.clone().into_iter().filter(|peer| *peer != victim) {
                    self.net.cut_both((victim, peer));
                }
            }
        }
        true
    }

    /// Damage: on any disk for the log, for the state on one whose process is down (what runs holds its rows in memory).
    fn flip(&mut self, action: Action, victim: NodeId) -> bool {
        let in_state = action == Action::FlipState;
        let node = &self.nodes[&victim];
        let sound = node.out.is_none() && !node.damaged && !node.set_back;
        if !sound || (in_state && node.up.is_some()) || !self.spare(victim) {
            return false;
        }
        let Self { nodes, dice, .. } = self;
        let Some(node) = nodes.get_mut(&victim) else { return false };
        let flipped = node.disk.lock().flip(in_state, dice);
        node.damaged |= flipped;
        flipped
    }

    /// Sets a node's disk back to before writes that its peers have seen, or wipes it, while all others are well: then
    /// their answers must keep it out.
    fn set_back(&mut self, victim: NodeId) -> Checked<bool> {
        // The peers' marks are in memory until their next write: they must live until they have been asked.
        if self.now + EXPULSION > self.storm_ends {
            return Ok(false);
        }
        let well = |n: &crate::node::SimNode| n.up.as_ref().is_some_and(|up| !up.paused && !up.leaving) && !n.damaged;
        if !self.spare(victim) || !self.nodes.values().all(|n| n.out.is_some() || well(n)) {
            return Ok(false);
        }
        let wipe = self.dice.chance(300);
        let count = self.dice.between((1, 12));
        let left = if wipe { Some(NodeWriteSeq(0)) } else { self.nodes[&victim].disk.lock().seq_back(count) };
        let Some(left) = left else { return Ok(false) };
        let seen = |n: &crate::node::SimNode| n.up.as_ref().map(|up| up.seen.get(victim));
        let most = self.nodes.values().filter(|n| n.id != victim).filter_map(seen).max().unwrap_or_default();
        let Some(incarnation) = self.nodes[&victim].up.as_ref().map(|up| up.incarnation) else { return Ok(false) };
        if most <= (incarnation, left) {
            return Ok(false);
        }
        self.stop(victim, self.now, End::Killed);
        let node = self.node(victim);
        let mut disk = node.disk.lock();
        let done = if wipe {
            disk.wipe();
            true
        } else {
            disk.set_back(count).is_some()
        };
        drop(disk);
        if wipe {
            node.map_cache = None;
        }
        self.net.heal();
        for node in self.nodes.values() {
            node.disk.lock().spare();
        }
        self.at(self.now + 20_000, Event::Restart { node: victim });
        if done && self.plan.planted.disk != DiskFault::WipedVotes {
            self.node(victim).set_back = true;
            self.truce_until = self.now + EXPULSION;
            self.at(self.now + EXPULSION, Event::Expelled { node: victim });
        }
        Ok(done)
    }

    fn transfer(&mut self, victim: NodeId) -> bool {
        let Some(to) = self.other(victim) else { return false };
        let Some(up) = &mut self.node(victim).up else { return false };
        let leads: Vec<_> = up.taps.lock().leads.iter().copied().collect();
        let Some(shard) = self.dice.pick(&leads) else { return false };
        if let Some(up) = &mut self.node(victim).up {
            up.push(AdminInput::Transfer { shard, to, done: Box::new(|_| ()) });
        }
        self.wake(victim);
        true
    }
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power loss",
            Self::PowerLossAll => "power loss of all",
            Self::Shutdown => "shutdown in order",
            Self::Pause => "process paused",
            Self::Cut => "one-way cut",
            Self::Isolate => "node cut off",
            Self::Bridge => "pair cut",
            Self::Reset => "connections reset",
            Self::Heal => "network healed",
            Self::Hang => "sync hangs",
            Self::FailWrite => "write fails",
            Self::FailRead => "reading fails",
            Self::FailFlush => "flush fails",
            Self::FlipLog => "bit flipped in the log",
            Self::FlipState => "bit flipped in the state",
            Self::SetBack => "disk set back or wiped",
            Self::ClockJump => "wall clock jumps",
            Self::Transfer => "leadership moved",
            Self::Garble => "frame garbled",
            Self::GarblePart => "part garbled",
            Self::FlipFile => "bit flipped in a snapshot",
            Self::FailFile => "operation on a file fails",
            Self::FailLoad => "load fails",
        }
    }
}
