//! Replicas that move from node to node, as an operator moves them, and what the server does around a worker for that.
//!
//! Owns: which replica goes where, how `synod shard move` carries the steps of `synod_cluster::jobs` out, the words of leaders to the
//! system shard, and the maps that nodes take from one another. Must never: help a step along: each is proposed to whoever leads,
//! and what comes of it is seen in the map.

mod jobs;

use crate::clients::Kind;
use crate::clock::WALL_US;
use crate::dice::Dice;
use crate::moves::Move;
use crate::node::{PULSE, SimNode};
use crate::setup::ADMIN;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use jobs::without_jobs;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::jobs::move_replica::{self, MoveReplica, Seen, Step};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, SystemCommand, SystemState};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{AdminInput, NodeInput};
use synod_paxos::types::{Epoch, MemberRole, Membership};

/// Replicas that move at a time.
const MOVES: usize = 2;
/// Once faults have stopped, every move ends within this, µs.
const ENDS: u64 = 30_000_000;
/// What was proposed is chosen and in the map after so long in the calm, µs.
const SETTLED: u64 = 3_000_000;
/// The system shard is told of members by a command that may take so long, µs.
const TELLING: u64 = 3_000_000;
/// A node with a replica of the system shard looks for newer maps elsewhere every so many beats; one without, so many.
const LOOKS: (u64, u64) = (20, 4);

impl World {
    /// Whom the metadata's commands are sent to.
    pub(crate) fn system_voters(&self) -> Vec<NodeId> {
        let system = self.map.as_ref().and_then(|map| map.shards.get(&SYSTEM_SHARD));
        let founders = || self.ids[..self.plan.nodes as usize].to_vec();
        system.map_or_else(founders, |d| d.membership.voters().collect())
    }

    /// Whether the map names a node a member.
    pub(crate) fn is_member(&self, id: NodeId, shard: ShardId) -> bool {
        self.membership(shard).is_some_and(|members| members.role_of(id).is_some())
    }

    fn membership(&self, shard: ShardId) -> Option<Membership> {
        self.map.as_ref()?.shards.get(&shard).map(|d| d.membership.clone())
    }

    /// Every move that is under way takes its next step, and another may begin.
    pub(crate) fn look_at_moves(&mut self) {
        for answer in std::mem::take(&mut *self.moves.answers.lock().expect("no holder panics")) {
            self.coverage.count(
                "members",
                match answer {
                    Ok(()) => "change proposed",
                    Err(Refusal::NotReady) => "change refused: not ready",
                    Err(Refusal::NotLeader { .. }) => "change refused: not leader",
                    Err(Refusal::WrongEpoch { .. }) => "change refused: made for another epoch",
                    Err(Refusal::Invalid { .. }) => "change refused: makes no sense by now",
                    Err(_) => "change refused",
                },
            );
        }
        if self.phase == Phase::Storm && self.moves.under_way.len() < MOVES && self.dice.chance(300) {
            self.begin_move();
        }
        for shard in self.moves.under_way.keys().copied().collect::<Vec<_>>() {
            self.step_move(shard);
        }
        if self.phase == Phase::Storm || !self.moves.none() {
            let pause = self.dice.between(self.plan.moves);
            self.at(self.now + pause, Event::Move);
        }
    }

    /// A shard, the node whose replica of it goes, mostly one that is lost where there is one, and the node that gets it.
    pub(crate) fn choose_move(&self, map: &SystemState, dice: &mut Dice) -> Option<(ShardId, NodeId, NodeId, bool)> {
        let shards: Vec<ShardId> = map.shards.keys().copied().collect();
        let shard = dice.pick(&shards).filter(|shard| !self.moves.under_way.contains_key(shard))?;
        let membership = &map.shards[&shard].membership;
        let voters: Vec<NodeId> = membership.voters().collect();
        let may = |n: &NodeId| membership.role_of(*n) != Some(MemberRole::Voter) && self.nodes[n].out.is_none();
        let others: Vec<NodeId> = self.ids.iter().copied().filter(may).collect();
        let lost: Vec<NodeId> = voters.iter().copied().filter(|n| self.nodes[n].out.is_some()).collect();
        let repairs = !lost.is_empty() && dice.chance(700);
        let from = dice.pick(if repairs { &lost } else { &voters });
        let to = dice.pick(&others);
        Some((shard, from?, to?, repairs))
    }

    fn begin_move(&mut self) {
        let Some(map) = self.map.clone() else { return };
        let mut dice = std::mem::replace(&mut self.dice, Dice::new(0));
        let chosen = self.choose_move(&map, &mut dice);
        self.dice = dice;
        let Some((shard, from, to, repairs)) = chosen else { return };
        let until = self.now + self.dice.between(self.plan.move_patience);
        self.trace.note(self.now, "move", &[shard.0, from.0, to.0], || format!("shard {shard} from {from} to {to}"));
        self.coverage.count("members", if repairs { "lost replica to be replaced" } else { "move begun" });
        self.moves.under_way.insert(shard, Move { from, to, until });
    }

    fn step_move(&mut self, shard: ShardId) {
        let Some(step) = self.moves.under_way.get(&shard) else { return };
        let (from, to, until) = (step.from, step.to, step.until);
        let Some(known) = self.membership(shard) else {
            return self.move_over(shard, "shard dropped while it moves");
        };
        // This operator takes every learner for caught up, and asks until the leader agrees.
        let seen = Seen { from: known.role_of(from), to: known.role_of(to), lag: Some(0) };
        let step = move_replica::next(MoveReplica { from, to: Some(to) }, seen);
        if step == Step::Done {
            return self.move_over(shard, if shard == SYSTEM_SHARD { "system shard moved" } else { "replica moved" });
        }
        let lost = self.nodes[&to].out.is_some() || self.nodes[&to].damaged;
        if lost || step == Step::Overtaken || (self.phase == Phase::Storm && self.now > until) {
            return self.move_over(shard, "move given up");
        }
        if let Step::Change(change) = step {
            self.propose_change(shard, known.epoch, change);
        }
    }

    fn move_over(&mut self, shard: ShardId, how: &'static str) {
        self.coverage.count("members", how);
        self.moves.under_way.remove(&shard);
    }

    /// Asks whoever leads.
    pub(crate) fn propose_change(&mut self, shard: ShardId, expected: Epoch, change: MemberChange) {
        let leads = |n: &SimNode| n.up.as_ref().is_some_and(|up| !up.paused && up.taps.lock().leads.contains(&shard));
        let leaders = self.which(leads);
        let Some(leader) = self.dice.pick(&leaders) else { return };
        let answers = Arc::clone(&self.moves.answers);
        let done = Box::new(move |answer| answers.lock().expect("no holder panics").push(answer));
        if let Some(up) = &mut self.node(leader).up {
            up.push(AdminInput::ChangeMembers { shard, expected, change, done });
        }
        self.wake(leader);
    }

    /// Learners that were left behind by moves that were given up.
    fn learners(&self) -> Vec<(ShardId, Epoch, NodeId)> {
        let shards = self.map.iter().flat_map(|map| map.shards.values());
        let learner =
            |d: &Descriptor| d.membership.members.iter().find(|m| m.role == MemberRole::Learner).map(|m| m.node);
        shards.filter_map(|d| Some((d.shard, d.membership.epoch, learner(d)?))).collect()
    }

    /// Once faults have stopped, what moves arrives, and learners that are left over go.
    pub(crate) fn end_moves(&mut self) -> Checked {
        let ended = self.run_until(self.now + ENDS, |w| w.moves.none() && w.jobs_ended())?;
        check(ended, "replicas that move arrive once faults have stopped", || {
            let left = self.moves.under_way.iter();
            let left: Vec<_> = left.map(|(shard, m)| (*shard, m.from, m.to, self.membership(*shard))).collect();
            let jobs = self.map.iter().flat_map(|map| map.jobs.iter().filter(|(_, job)| job.end().is_none()));
            format!("after {ENDS} µs: {left:?}, jobs {:?}", jobs.collect::<Vec<_>>())
        })?;
        // What was proposed last is chosen by now, or never.
        let settled = self.now + if self.learners().is_empty() { 0 } else { SETTLED };
        self.run_until(settled, |_| false)?;
        let end = self.now + ENDS;
        while let Some((shard, epoch, learner)) = self.learners().first().copied() {
            check(self.now < end, "learners can be removed", || {
                format!("shard {shard}: node {learner} after {ENDS} µs")
            })?;
            self.coverage.count("members", "learner to be removed");
            self.propose_change(shard, epoch, MemberChange::Remove(learner));
            self.run_until(self.now + 300_000, |_| false)?;
        }
        Ok(())
    }

    /// Leaders of new epochs have the system shard told, each by one command at a time.
    pub(crate) fn tell_members(&mut self, members: Vec<(ShardId, Membership)>) {
        for (shard, membership) in members {
            let name = (shard, membership.epoch);
            let known = self.membership(shard).is_some_and(|known| known.epoch >= membership.epoch);
            let said = self.moves.telling.get(&name).is_some_and(|op| self.ops.get(op).is_some_and(|op| !op.done));
            if known || said {
                continue;
            }
            let deadline = self.now + TELLING;
            let id = self.clients[ADMIN].name(WALL_US + 2 * deadline);
            let command = SystemCommand::SetMembers { shard, membership };
            let request = WriteRequest { id, op: Op::System(command.encode()) };
            let voters = self.system_voters();
            let op = self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, voters, deadline);
            self.coverage.count("members", "system shard told");
            self.moves.telling.insert(name, op);
        }
    }

    /// A node looks for a newer map at a node with a replica of the system shard: one without such a replica often.
    pub(crate) fn follow_others(&mut self, id: NodeId, process: u64, count: u64) {
        let map_cache = self.nodes[&id].map_cache.clone();
        let system = map_cache.as_ref().and_then(|map| map.shards.get(&SYSTEM_SHARD)).map(|d| &d.membership);
        let own = system.is_some_and(|membership| membership.role_of(id).is_some());
        let every = if own { LOOKS.0 } else { LOOKS.1 };
        if !count.is_multiple_of(every) {
            return;
        }
        let revision = map_cache.as_ref().map_or(0, |map| map.revision);
        let sources: Vec<NodeId> = system.map_or_else(|| self.ids.clone(), |m| m.voters().collect());
        let knows = |n: &NodeId| {
            let node = &self.nodes[n];
            let newer = node.map_cache.as_ref().is_some_and(|map| map.revision > revision);
            newer && node.up.as_ref().is_some_and(|up| !up.paused)
        };
        let may = |n: &NodeId| *n != id && self.net.reaches((id, *n)) && self.net.reaches((*n, id)) && knows(n);
        let sources: Vec<NodeId> = sources.into_iter().filter(may).collect();
        let Some(source) = self.dice.pick(&sources) else { return };
        let Some(map) = self.nodes[&source].map_cache.as_deref().map(without_jobs) else { return };
        let delay = self.dice.between(self.plan.delay) + PULSE / 20;
        self.at(self.now + delay, Event::Follow { node: id, process, map });
    }

    /// A map arrives from another node.
    pub(crate) fn map_arrives(&mut self, id: NodeId, process: u64, map: Arc<SystemState>) {
        if !self.runs(id, process) || !self.node(id).offer(&map) {
            return;
        }
        self.coverage.count("members", "map taken from another node");
        if let Some(up) = &mut self.node(id).up {
            up.push(NodeInput::Map(map));
        }
        self.wake(id);
    }
}
