//! Consensus, abstracted: elections, proposals, choices, and who hears of them.
//!
//! Owns: the steps that make a log longer. Must never: choose an entry that no majority has, or lose one that is chosen.

use crate::group::{Group, Pending, Proposer, Ticket, What, id_of, members};
use crate::node::digest;
use crate::violation::{Check, Violation, ensure};
use crate::world::World;
use synod_cluster::ids::{Ballot, ShardId, Slot, Space};
use synod_cluster::system::{SystemCommand, SystemOutcome};
use synod_engine::command::{Outcome, Split};
use synod_engine::genesis::Genesis;
use synod_engine::machine::overlay::Overlay;
use synod_engine::machine::{Born, Effects, Wanted};
use synod_paxos::types::{Entry, EntryId, Epoch, Membership};

/// Proposals of a group under way.
const PENDING_MAX: usize = 4;
/// Groups of a schedule.
const GROUPS_MAX: usize = 9;

impl World {
    /// The groups, by number.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        self.groups.keys().copied().collect()
    }

    /// Any group.
    pub(crate) fn any_shard(&mut self) -> ShardId {
        let shards = self.shards();
        shards[self.dice.index(shards.len())]
    }

    /// A group that is led, where there is one.
    pub(crate) fn led_shard(&mut self) -> ShardId {
        let led: Vec<ShardId> =
            self.groups.values().filter(|group| self.leader_of(group).is_some()).map(|g| g.shard).collect();
        match self.dice.pick(&led) {
            Some(shard) => shard,
            None => self.any_shard(),
        }
    }

    /// The node that leads, where the replica lives there.
    pub(crate) fn leader_of(&self, group: &Group) -> Option<usize> {
        group.leader.filter(|leader| self.nodes[*leader].states.contains_key(&group.shard))
    }

    /// How many voters have the group and are up.
    pub(crate) fn holders(&self, group: &Group) -> usize {
        group.voters().into_iter().filter(|node| self.nodes[*node].holds(group.shard)).count()
    }

    /// Whether a majority of the voters is up.
    pub(crate) fn has_quorum(&self, group: &Group) -> bool {
        self.holders(group) >= group.membership.quorum()
    }

    /// Proposes at the leader; whether there was room.
    pub(crate) fn propose(&mut self, shard: ShardId, what: What, ticket: Option<Ticket>) -> bool {
        let now = self.now;
        let Some(group) = self.groups.get_mut(&shard) else { return false };
        let Some(leader) = group.leader else { return false };
        let ends = group.pending.iter().any(|pending| matches!(pending.what, What::Config(_)));
        if ends || group.pending.len() >= PENDING_MAX {
            return false;
        }
        let ts = (now + self.skew[leader]).max(group.last_ts + 1);
        group.last_ts = ts;
        let origin = Ballot { epoch: group.membership.epoch, round: group.term, node: id_of(leader) };
        group.pending.push(Pending { what, ts, origin, ticket });
        true
    }

    /// A replica gets more of the log from anybody.
    pub(crate) fn catch_up(&mut self, shard: ShardId, node: usize, all: bool) {
        let Some(end) = self.nodes[node].logs.get(&shard).map(|log| log.end) else { return };
        let others = self.nodes.iter().enumerate().filter(|(other, n)| *other != node && n.up);
        let logs = others.filter_map(|(_, other)| other.logs.get(&shard));
        let best = logs.filter(|log| log.trim <= end && end < log.end).map(|log| log.end).max();
        let Some(best) = best else { return };
        let end = if all || self.dice.chance(600) { best } else { self.dice.between(end, best) };
        if let Some(log) = self.nodes[node].logs.get_mut(&shard) {
            log.end = end;
        }
    }

    /// A replica hears of what is chosen.
    pub(crate) fn hear(&mut self, shard: ShardId, node: usize) {
        let others = self.nodes.iter().enumerate().filter(|(other, n)| *other != node && n.up);
        let know = others.map(|(_, other)| other.commit_of(shard)).max().unwrap_or(0);
        let leads = self.groups.get(&shard).is_some_and(|group| group.leader == Some(node));
        let keeps = self.dice.chance(300);
        let node = &mut self.nodes[node];
        let before = node.commit_of(shard);
        let Some(log) = node.logs.get_mut(&shard) else { return };
        if know > before {
            let heard = if leads { know } else { know.min(log.end) };
            let commit = heard.max(before);
            node.commit.insert(shard, commit);
            if keeps {
                log.hint = log.hint.max(commit.min(log.end));
            }
        }
    }

    /// A node that is chosen at random, or by name, becomes leader.
    pub(crate) fn elect(&mut self, shard: ShardId, node: Option<usize>) -> Check {
        let Some(group) = self.groups.get(&shard) else { return Ok(()) };
        let node = match node {
            Some(node) => node,
            None => {
                let able = |node: &usize| self.nodes[*node].lives(shard);
                let able: Vec<usize> = group.voters().into_iter().filter(able).collect();
                let Some(node) = self.dice.pick(&able) else { return Ok(()) };
                node
            }
        };
        let Some(group) = self.groups.get(&shard) else { return Ok(()) };
        let (chosen, held) = (group.chosen(), group.lease.is_some_and(|lease| lease != node));
        if !self.nodes[node].lives(shard) || held || !group.voters().contains(&node) || !self.has_quorum(group) {
            return Ok(());
        }
        let ends = self.nodes.iter().filter(|n| n.up).filter_map(|n| n.logs.get(&shard)).map(|log| log.end);
        ensure!(
            ends.max().is_some_and(|end| end >= chosen),
            "a majority of shard {shard} is up, and of its {chosen} chosen entries some are gone"
        );
        self.catch_up(shard, node, true);
        if self.nodes[node].logs.get(&shard).is_none_or(|log| log.end < chosen) {
            return Ok(());
        }
        let last_ts = self.nodes[node].states.get(&shard).map_or(0, |state| state.last_ts());
        let kept = self.dice.between(0, PENDING_MAX as u64) as usize;
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        if group.leader != Some(node) {
            group.pending.truncate(kept);
            group.words.clear();
            group.term += 1;
        }
        group.leader = Some(node);
        let epoch = group.membership.epoch;
        group.pending.retain(|pending| pending.origin.epoch == epoch);
        group.last_ts = group.pending.iter().map(|pending| pending.ts).fold(group.last_ts.max(last_ts), u64::max);
        self.nodes[node].commit.insert(shard, chosen);
        self.propose(shard, What::Noop, None);
        self.note(|| format!("node {node} leads shard {shard}"));
        Ok(())
    }

    /// The next proposal is chosen, by a majority at random, or by these nodes.
    pub(crate) fn choose(&mut self, shard: ShardId, by: Option<&[usize]>) -> Check {
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let Some(leader) = group.leader else { return Ok(()) };
        let Some(pending) = group.pending.first().cloned() else { return Ok(()) };
        if pending.origin.epoch != group.membership.epoch {
            group.pending.clear();
            return Ok(());
        }
        let (chosen, quorum, voters) = (group.chosen(), group.membership.quorum(), group.voters());
        if !self.nodes[leader].holds(shard) {
            return Ok(());
        }
        let mut able = Vec::new();
        for node in voters {
            if !self.nodes[node].holds(shard) {
                continue;
            }
            if self.nodes[node].logs.get(&shard).is_some_and(|log| log.end < chosen) {
                self.catch_up(shard, node, by.is_some());
            }
            if self.nodes[node].logs.get(&shard).is_some_and(|log| log.end == chosen) {
                able.push(node);
            }
        }
        if able.len() < quorum {
            return Ok(());
        }
        let acceptors: Vec<usize> = match by {
            Some(by) => able.into_iter().filter(|node| by.contains(node)).collect(),
            None => {
                for at in (1..able.len()).rev() {
                    able.swap(at, self.dice.index(at + 1));
                }
                able.truncate(self.dice.between(quorum as u64, able.len() as u64) as usize);
                able
            }
        };
        if acceptors.len() < quorum {
            return Ok(());
        }
        for node in acceptors {
            if let Some(log) = self.nodes[node].logs.get_mut(&shard) {
                log.end = chosen + 1;
            }
        }
        self.nodes[leader].commit.insert(shard, chosen + 1);
        self.chosen(shard, leader, pending)
    }

    /// An entry is chosen: it is applied to the state without lag.
    fn chosen(&mut self, shard: ShardId, leader: usize, pending: Pending) -> Check {
        let life = self.nodes[leader].life;
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let Pending { what, ts, origin, ticket } = pending;
        group.pending.remove(0);
        let id = EntryId { slot: Slot(group.chosen() + 1), origin };
        let entry = Entry::new(id, ts, 0, what.payload());
        group.log.push(entry.clone());
        group.whats.push(what.clone());
        group.proposers.push(Proposer { ticket, node: leader, life, term: group.term });
        self.note(|| format!("slot {} of shard {shard} is chosen: {what:?}", id.slot));
        let source = self.source_chosen(shard, &entry)?;
        let Some(state) = self.oracle.states.get_mut(&shard) else {
            return Err(Violation(format!("shard {shard} has no state")));
        };
        let (before, absorbs) = (state.last_ts(), source.is_some());
        let store = &mut self.oracle.store;
        let effects = match source {
            Some(source) => state.absorb(store, &entry, source)?,
            None => state.apply(store, &mut Overlay::default(), &entry, Wanted::Results)?,
        };
        let Effects { results, metadata: _, marker: _, child, merge: _, refused: _ } = effects;
        if let Some(group) = self.groups.get_mut(&shard) {
            group.digests.push(digest(&mut self.oracle.store, state)?);
        }
        if let What::Write(request) = &what
            && let Some(Ok(Outcome::Written(written))) = results.first()
            && written.first().is_some_and(|result| result.ts_us > before)
        {
            let name = (request.id.client.0 as usize, request.id.seq.0);
            self.truth.executed(name, request, &self.keys, written)?;
            self.count("write executed");
        }
        if let Some(born) = child {
            self.split_off(*born)?;
        }
        if absorbs {
            self.one_owner()?;
        }
        if let What::Config(membership) = what {
            self.reconfigure(shard, membership);
        }
        Ok(())
    }

    /// The group of a child begins.
    fn split_off(&mut self, born: Born) -> Check {
        let Born { mut state, descriptor } = born;
        let shard = descriptor.shard;
        let first = digest(&mut self.oracle.store, &mut state)?;
        let (membership, last_ts) = (descriptor.membership.clone(), state.last_ts());
        self.groups.insert(shard, Group::new(shard, Genesis::Shard(descriptor), membership, first, last_ts));
        self.oracle.states.insert(shard, state);
        self.count("split");
        self.one_owner()
    }

    /// The members of a group change.
    fn reconfigure(&mut self, shard: ShardId, membership: Membership) {
        let Some(group) = self.groups.get_mut(&shard) else { return };
        group.changed_at = group.chosen();
        group.membership = membership;
        group.pending.clear();
        group.leader = None;
        group.lease = None;
        self.count("epoch");
    }

    /// A split is proposed, of a reserved id.
    pub(crate) fn split(&mut self) -> Check {
        let shard = self.led_shard();
        let Some(group) = self.groups.get(&shard) else { return Ok(()) };
        let Some(leader) = self.leader_of(group) else { return Ok(()) };
        let Some(state) = self.nodes[leader].states.get(&shard) else { return Ok(()) };
        let inside = self.keys.of(state.descriptor());
        if inside.len() < 2 || self.groups.len() >= GROUPS_MAX {
            return Ok(());
        }
        // Advice, not a lock: now and then two changes are proposed at once.
        if group.changes_after(state.applied().0) && !self.dice.chance(100) {
            return Ok(());
        }
        let at = inside.start + 1 + self.dice.index(inside.len() - 1);
        self.split_at(shard, at)
    }

    /// A split below a key is proposed, by the leader's state.
    pub(crate) fn split_at(&mut self, shard: ShardId, key: usize) -> Check {
        let Some(group) = self.groups.get(&shard) else { return Ok(()) };
        let Some(leader) = self.leader_of(group) else { return Ok(()) };
        let node = &self.nodes[leader];
        let Some(state) = node.states.get(&shard) else { return Ok(()) };
        let version = state.descriptor().version;
        let marks = state.children().iter().map(|mark| mark.shard);
        let confirmed: Vec<ShardId> = marks.filter(|child| node.map.shards.contains_key(child)).collect();
        let (epoch, voters) = (group.membership.epoch, group.membership.voters().collect());
        let outcome = self.execute(&SystemCommand::ReserveChild { parent: shard, version })?;
        let SystemOutcome::Shard(child) = outcome else { return Ok(()) };
        let split = Split { child, at: self.keys.at(key), version, epoch, voters, confirmed };
        self.propose(shard, What::Split(split), None);
        Ok(())
    }

    /// A change of members is proposed: a learner comes, or takes a voter's place, or goes.
    pub(crate) fn change_members(&mut self) {
        let shard = self.led_shard();
        let Some(group) = self.groups.get(&shard) else { return };
        let Some(leader) = self.leader_of(group) else { return };
        let applied = self.nodes[leader].applied(shard).unwrap_or(0);
        if !self.nodes[leader].states.get(&shard).is_some_and(|state| state.may_change_members()) {
            return;
        }
        if group.membership.epoch > Epoch(6) || !group.pending.is_empty() || group.changes_after(applied) {
            return;
        }
        let (voters, chosen, next) = (group.voters(), group.chosen(), group.membership.epoch.next());
        let membership = match group.learner() {
            Some(learner) => {
                let node = &self.nodes[learner];
                let near = node.lives(shard) && node.logs.get(&shard).is_some_and(|log| log.end + 1 >= chosen);
                if near && self.dice.chance(800) {
                    let Some(leaves) = self.dice.pick(&voters) else { return };
                    let mut voters: Vec<usize> = voters.into_iter().filter(|node| *node != leaves).collect();
                    voters.push(learner);
                    let first = voters[0];
                    members(next, &voters, None, first)
                } else if self.dice.chance(300) {
                    members(next, &voters, None, leader)
                } else {
                    return;
                }
            }
            None => {
                let out = |node: &usize| !voters.contains(node) && !self.nodes[*node].dead;
                let out: Vec<usize> = (0..self.nodes.len()).filter(out).collect();
                let Some(learner) = self.dice.pick(&out) else { return };
                members(next, &voters, Some(learner), leader)
            }
        };
        if membership.is_sound() {
            self.propose(shard, What::Config(membership), None);
        }
    }

    /// A leader may answer reads without asking, until it may not any longer.
    pub(crate) fn lease(&mut self) {
        let shard = self.any_shard();
        let ends = self.dice.chance(400);
        let Some(group) = self.groups.get(&shard) else { return };
        let lease = match (group.lease, group.leader) {
            (Some(_), _) if ends => None,
            (None, Some(leader)) if self.nodes[leader].holds(shard) && self.has_quorum(group) => Some(leader),
            (lease, _) => lease,
        };
        if let Some(group) = self.groups.get_mut(&shard) {
            group.lease = lease;
        }
    }

    /// Whether what a replica's log lacks is trimmed everywhere.
    pub(crate) fn is_stuck(&self, shard: ShardId, node: usize) -> bool {
        let Some(end) = self.nodes[node].logs.get(&shard).map(|log| log.end) else { return false };
        let others = self.nodes.iter().enumerate().filter(|(other, n)| *other != node && n.up);
        let ahead: Vec<u64> = others
            .filter_map(|(_, other)| other.logs.get(&shard))
            .filter(|log| log.end > end)
            .map(|log| log.trim)
            .collect();
        !ahead.is_empty() && ahead.into_iter().all(|trim| trim > end)
    }

    /// A space for the rows of a snapshot.
    pub(crate) fn fresh_space(&mut self) -> Space {
        let space = Space(self.next_space);
        self.next_space += 1;
        space
    }
}
