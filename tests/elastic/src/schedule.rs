//! One schedule: random steps, then peace.
//!
//! Owns: the order of the steps, and what must hold at the end. Must never: leave out a check because it fails.

use crate::group::Group;
use crate::keys::KEYS;
use crate::plan::{Action, Plan};
use crate::violation::{Check, Violation, ensure};
use crate::world::World;
use synod_cluster::ids::{Offset, ShardId};
use synod_engine::host::{Answer, Read};
use synod_engine::query;

/// Random steps of a schedule.
const STEPS: u64 = 700;
/// Rounds of peace within which all must be done.
const ROUNDS: u64 = 80;
/// Peace lasts so many rounds at least.
const ROUNDS_MIN: u64 = 7;

impl World {
    /// Runs the schedule.
    pub(crate) fn run(&mut self) -> Check {
        let plan = Plan::choose(&mut self.dice, self.merges);
        for _ in 0..STEPS {
            self.step += 1;
            self.now += 1;
            let action = plan.next(&mut self.dice);
            self.act(action)?;
        }
        self.heal()
    }

    /// Any node.
    fn any_node(&mut self) -> usize {
        self.dice.index(self.nodes.len())
    }

    /// A node that hears something: the slow one seldom does.
    fn listener(&mut self) -> Option<usize> {
        let node = self.any_node();
        let deaf = self.slow == Some(node) && !self.dice.chance(150);
        (self.nodes[node].up && !deaf).then_some(node)
    }

    fn act(&mut self, action: Action) -> Check {
        match action {
            Action::Choose => self.choose_any(),
            Action::Apply => self.apply_any(),
            Action::Hear | Action::Catch => {
                self.listen(action == Action::Catch);
                Ok(())
            }
            Action::Elect => self.elect_any(),
            Action::Deliver => self.deliver(),
            Action::NewWrite => self.new_write(),
            Action::Send => self.any_call().map_or(Ok(()), |(at, seq)| self.send(at, seq)),
            Action::TimeOut => self.any_call().map_or(Ok(()), |(at, seq)| self.time_out(at, seq)),
            Action::Split => self.split(),
            Action::Read => {
                self.read();
                Ok(())
            }
            Action::Serve => self.serve(),
            Action::Poll => {
                let lane = self.dice.index(self.follower.lanes.len());
                self.poll(lane);
                Ok(())
            }
            Action::Tail => self.tail(),
            Action::Index => self.index(),
            Action::Snapshot => {
                let (shard, node) = (self.any_shard(), self.any_node());
                self.snapshot(shard, node)
            }
            other => self.act_on_node(other),
        }
    }

    fn act_on_node(&mut self, action: Action) -> Check {
        let node = self.any_node();
        match action {
            Action::Flush => self.flush(node)?,
            Action::LogWrite => self.write_logs(node),
            Action::Trim => self.trim(node, false)?,
            Action::Crash => {
                let up = self.nodes.iter().filter(|node| node.up).count();
                if self.nodes[node].up && up > 1 {
                    self.crash(node);
                }
            }
            Action::Restart => {
                let down: Vec<usize> = (0..self.nodes.len()).filter(|node| !self.nodes[*node].up).collect();
                if let Some(node) = self.dice.pick(&down) {
                    self.restart(node)?;
                }
            }
            Action::Die => self.die(node),
            Action::Adopt => self.adopt(node)?,
            Action::ShrinkRing => self.shrink_ring(node),
            Action::Report => {
                let shard = self.any_shard();
                self.report(shard);
            }
            Action::ClientMap => match self.dice.below(4) {
                0 => self.map_for_follower(),
                1 => self.map_for_reader(),
                client => self.map_for_client(client as usize % self.clients.len()),
            },
            Action::Later => self.now += [0, 0, 5, 20][self.dice.index(4)],
            Action::Lease => self.lease(),
            Action::OldName => self.old_name(),
            Action::Move => self.change_members(),
            Action::Merge => self.begin_merge(),
            Action::Drive => self.drive_any(),
            Action::Word => self.word(node)?,
            // The other actions are those of `act`.
            _ => {}
        }
        Ok(())
    }

    /// A node goes for good: at most one does.
    fn die(&mut self, node: usize) {
        if self.dice.chance(100) && !self.nodes.iter().any(|node| node.dead) {
            self.crash(node);
            self.nodes[node].dead = true;
            self.note(|| format!("node {node} never comes back"));
            self.count("node died");
        }
    }

    fn choose_any(&mut self) -> Check {
        let ready = self.groups.values().filter(|group| !group.pending.is_empty()).map(|group| group.shard);
        let ready: Vec<_> = ready.collect();
        match self.dice.pick(&ready) {
            Some(shard) => self.choose(shard, None),
            None => Ok(()),
        }
    }

    fn apply_any(&mut self) -> Check {
        let node = self.any_node();
        let here = &self.nodes[node];
        let known = |shard: ShardId| here.logs.get(&shard).map_or(0, |log| log.end.min(here.commit_of(shard)));
        let behind = here.states.iter().filter(|(shard, state)| state.applied().0 < known(**shard));
        let behind: Vec<_> = behind.map(|(shard, _)| *shard).collect();
        match self.dice.pick(&behind) {
            Some(shard) => {
                let most = self.dice.between(1, 4);
                self.apply(shard, node, most)
            }
            None => Ok(()),
        }
    }

    fn elect_any(&mut self) -> Check {
        let idle = self.groups.values().filter(|group| group.leader.is_none()).map(|group| group.shard);
        let idle: Vec<_> = idle.collect();
        let aimed = self.dice.chance(800);
        let shard = match self.dice.pick(&idle).filter(|_| aimed) {
            Some(shard) => shard,
            None => self.any_shard(),
        };
        let led = self.groups.get(&shard).is_some_and(|group| group.leader.is_some());
        if led && self.dice.chance(700) { Ok(()) } else { self.elect(shard, None) }
    }

    /// A node gets entries, or hears of what is chosen.
    fn listen(&mut self, entries: bool) {
        let Some(node) = self.listener() else { return };
        let shards: Vec<_> = self.nodes[node].logs.keys().copied().collect();
        for shard in shards {
            if entries && self.dice.chance(400) {
                self.catch_up(shard, node, false);
            }
            if self.dice.chance(500) {
                self.hear(shard, node);
            }
        }
    }

    /// Peace: all that live come back, hear everything and finish what is open, within bounded rounds. Then all is looked at.
    pub(crate) fn heal(&mut self) -> Check {
        for round in 0..ROUNDS {
            self.now += 1;
            for node in 0..self.nodes.len() {
                self.restart(node)?;
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].up {
                    self.heal_node(node)?;
                }
            }
            for shard in self.shards() {
                self.heal_group(shard, round)?;
            }
            for _ in 0..8 {
                self.index()?;
            }
            self.heal_clients(round)?;
            if round > ROUNDS_MIN && self.is_done() {
                return self.at_the_end();
            }
        }
        Err(Violation(format!("peace has no end: {}", self.open())))
    }

    fn heal_node(&mut self, node: usize) -> Check {
        self.write_logs(node);
        self.adopt(node)?;
        let logs: Vec<_> = self.nodes[node].logs.keys().copied().collect();
        for shard in logs {
            self.catch_up(shard, node, true);
            self.hear(shard, node);
        }
        for shard in self.shards() {
            let lists = self.groups.get(&shard).is_some_and(|group| group.lists(node));
            let born = self.nodes[node].states.contains_key(&shard);
            let waits = self.is_stuck(shard, node) || self.lacks_source(shard, node)?;
            if lists && !born || self.nodes[node].lives(shard) && waits {
                self.snapshot(shard, node)?;
            }
        }
        for shard in self.shards() {
            self.apply(shard, node, u64::MAX)?;
        }
        self.write_logs(node);
        self.flush(node)?;
        self.word(node)
    }

    fn heal_group(&mut self, shard: ShardId, round: u64) -> Check {
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        group.lease = None;
        for node in group.voters() {
            if self.groups.get(&shard).is_some_and(|group| group.leader.is_none()) {
                self.elect(shard, Some(node))?;
            }
        }
        for _ in 0..6 {
            self.choose(shard, None)?;
        }
        self.drive(shard, round > ROUNDS_MIN - 1);
        self.report(shard);
        Ok(())
    }

    fn heal_clients(&mut self, round: u64) -> Check {
        for at in 0..self.clients.len() {
            self.map_for_client(at);
            let seqs: Vec<u64> = self.clients[at].calls.keys().copied().collect();
            for seq in seqs {
                // An attempt is waited for through a few rounds: it is chosen in one and applied in the next.
                if round % 3 == 2 {
                    self.time_out(at, seq)?;
                }
                self.send(at, seq)?;
            }
        }
        for _ in 0..self.net.len().min(20) {
            self.deliver()?;
        }
        self.map_for_follower();
        self.map_for_reader();
        // Each round cuts off one shard more: the last one must have its turn before the lanes are joined again.
        if round.is_multiple_of(2 * KEYS as u64) {
            self.one_lane();
        }
        for lane in 0..self.follower.lanes.len() {
            self.poll(lane);
        }
        while !self.follower.asked.is_empty() {
            self.tail()?;
        }
        for _ in 0..3 {
            self.read();
            self.serve()?;
        }
        Ok(())
    }

    /// Whether nothing waits.
    fn is_done(&self) -> bool {
        let calls = self.clients.iter().all(|client| client.calls.is_empty());
        let tailed = (0..KEYS).all(|key| self.follower.given[key] == self.truth.count(key));
        let groups = self.groups.values().all(|group| {
            let applied = self.leader_of(group).and_then(|leader| self.nodes[leader].applied(group.shard));
            group.pending.is_empty() && applied == Some(group.chosen())
        });
        calls && tailed && groups && self.merges_are_over()
    }

    /// What waits, in words.
    fn open(&self) -> String {
        let calls: Vec<usize> = self.clients.iter().map(|client| client.calls.len()).collect();
        let counts: Vec<usize> = (0..KEYS).map(|key| self.truth.count(key)).collect();
        let group = |group: &Group| {
            let at: Vec<_> = self.nodes.iter().map(|node| node.applied(group.shard)).collect();
            let (shard, leader, chosen) = (group.shard, group.leader, group.chosen());
            format!("shard {shard} led by {leader:?}, {chosen} chosen, applied {at:?}")
        };
        let groups: Vec<String> = self.groups.values().map(group).collect();
        let given = &self.follower.given;
        format!("calls {calls:?}; tailed {given:?} of {counts:?}; {}", groups.join("; "))
    }

    /// Every record is there and served, by the leader of the one shard that has its key.
    fn at_the_end(&mut self) -> Check {
        self.one_owner()?;
        for key in 0..KEYS {
            let name = self.keys.name(key);
            let owner = self.oracle.states.values().find(|state| state.descriptor().contains(&name));
            let shard = owner.map(|state| state.descriptor().shard);
            let group = shard.and_then(|shard| self.groups.get(&shard));
            let Some((shard, leader)) = group.and_then(|group| Some((group.shard, self.leader_of(group)?))) else {
                return Err(Violation(format!("nobody leads the shard of key {key}")));
            };
            let node = &mut self.nodes[leader];
            let Some(state) = node.states.get(&shard) else { continue };
            let read = Read::Range { key: name, from: Offset(0), limit: 0 };
            let Ok(Answer::Page { records, .. }) = query::read(state, &mut node.store, &read)? else {
                return Err(Violation(format!("key {key} is not served at the end")));
            };
            let written = self.truth.count(key);
            ensure!(records.len() == written, "key {key} ends with {} records of {written}", records.len());
            self.truth.read(key, &records, written)?;
        }
        Ok(())
    }
}
