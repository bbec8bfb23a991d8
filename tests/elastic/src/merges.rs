//! Merges: who proposes which of their entries, and what a node does when one shard goes into another.
//!
//! Owns: the steps of the target's leader, the words of nodes whose source is frozen and flushed, and the worker's steps at an absorb.
//! Must never: decide whether an entry counts, or what it does; the state does.

use crate::group::What;
use crate::node::{FOR_GOOD, own_space};
use crate::plan::HostFault;
use crate::violation::{Check, Violation, ensure};
use crate::world::World;
use synod_cluster::ids::{EntryId, ShardId, Slot};
use synod_cluster::system::Descriptor;
use synod_engine::codec::bounds::{Merge, Phase};
use synod_engine::codec::keys;
use synod_engine::command::{Absorb, Admin, BeginMerge, Cancel, EndMerge, Freeze, Unfreeze};
use synod_engine::machine::ShardState;
use synod_engine::state::mem::MemState;
use synod_engine::state::{StateBatch, StateStore};
use synod_paxos::types::Entry;

/// Whether two shards are neighbours.
fn adjoin(one: &Descriptor, two: &Descriptor) -> bool {
    !one.to.is_empty() && one.to == two.from || !two.to.is_empty() && two.to == one.from
}

impl World {
    /// A merge of any two neighbours is begun.
    pub(crate) fn begin_merge(&mut self) {
        let target = self.led_shard();
        let Some(leader) = self.groups.get(&target).and_then(|group| self.leader_of(group)) else { return };
        let node = &self.nodes[leader];
        let Some(state) = node.states.get(&target) else { return };
        let near = |other: &&ShardState| adjoin(state.descriptor(), other.descriptor());
        let near: Vec<ShardId> = node.states.values().filter(near).map(|other| other.descriptor().shard).collect();
        if let Some(source) = self.dice.pick(&near) {
            self.begin_merge_of(target, source);
        }
    }

    /// A merge of a shard into another is begun, by what the target's leader knows of both.
    pub(crate) fn begin_merge_of(&mut self, target: ShardId, source: ShardId) {
        let (Some(group), Some(other)) = (self.groups.get(&target), self.groups.get(&source)) else { return };
        let Some(leader) = self.leader_of(group) else { return };
        let node = &self.nodes[leader];
        let (Some(mine), Some(theirs)) = (node.states.get(&target), node.states.get(&source)) else { return };
        let (mut one, mut two) = (group.voters(), other.voters());
        one.sort_unstable();
        two.sort_unstable();
        let learns = group.learner().or(other.learner()).is_some();
        if one != two || learns || group.changes_after(mine.applied().0) || *mine.phase() != Phase::Alone {
            return;
        }
        let children =
            mine.children().iter().map(|mark| mark.shard).filter(|child| node.map.shards.contains_key(child));
        let gone = mine.absorbed().iter().copied().filter(|gone| node.map.vanished(*gone));
        let Descriptor { version: source_version, from, to, .. } = theirs.descriptor().clone();
        let begin = BeginMerge {
            source,
            version: mine.descriptor().version,
            epoch: group.membership.epoch,
            source_version,
            source_epoch: other.membership.epoch,
            from,
            to,
            confirmed: children.chain(gone).collect(),
        };
        if self.propose(target, What::Admin(Admin::BeginMerge(begin)), None) {
            self.count("merge begun");
        }
    }

    /// The leader of any target takes the next step.
    pub(crate) fn drive_any(&mut self) {
        let open = self.oracle.states.iter().filter(|(_, state)| *state.phase() != Phase::Alone);
        let open: Vec<ShardId> = open.map(|(shard, _)| *shard).collect();
        if let Some(shard) = self.dice.pick(&open) {
            let cancels = self.dice.chance(self.cancels);
            self.drive(shard, cancels);
        }
    }

    /// The leader of a target takes the next step, by the phase that it has applied.
    pub(crate) fn drive(&mut self, target: ShardId, cancels: bool) {
        let Some(group) = self.groups.get(&target) else { return };
        let Some(leader) = self.leader_of(group) else { return };
        let Some(state) = self.nodes[leader].states.get(&target) else { return };
        // Advice, not a lock: now and then two changes are proposed at once.
        let (busy, phase) = (group.changes_after(state.applied().0), state.phase().clone());
        if busy && !self.dice.chance(100) {
            return;
        }
        match phase {
            Phase::Merging(merge) => self.drive_merging(target, merge, cancels),
            Phase::Cancelled(merge) => self.drive_cancelled(target, leader, merge),
            Phase::Alone | Phase::Frozen(_) => {}
        }
    }

    fn drive_merging(&mut self, target: ShardId, merge: Merge, cancels: bool) {
        let Merge { source, seq, source_version: version, source_epoch: epoch, .. } = merge;
        let earlier = self.is_planted(HostFault::AckOfEarlierFreeze);
        let Some(group) = self.groups.get(&target) else { return };
        let word = |node: usize| group.words.get(&node).filter(|(of, _)| *of == seq || earlier).map(|(_, at)| *at);
        let words: Option<Vec<EntryId>> = group.voters().into_iter().map(word).collect();
        let frozen = words.and_then(|words| words.into_iter().max_by_key(|at| at.slot));
        let (shard, step) = match frozen {
            _ if cancels => (target, Admin::Cancel(Cancel { seq })),
            Some(at) => (target, Admin::Absorb(Absorb { source, seq, at })),
            None => (source, Admin::Freeze(Freeze { target, seq, version, epoch })),
        };
        self.propose(shard, What::Admin(step), None);
    }

    fn drive_cancelled(&mut self, target: ShardId, leader: usize, merge: Merge) {
        let Merge { source, seq, source_version: version, .. } = merge;
        let words = self.groups.get(&target).map(|group| group.words.values());
        let word = words.and_then(|mut words| words.find(|(of, _)| *of == seq)).map(|(_, at)| *at);
        // An executor that has heard of nothing since.
        if let Some(at) = word.filter(|_| self.dice.chance(100)) {
            self.propose(target, What::Admin(Admin::Absorb(Absorb { source, seq, at })), None);
            return;
        }
        let gone = !self.groups.contains_key(&source) && self.nodes[leader].map.vanished(source);
        let led = self.groups.get(&source).and_then(|group| self.leader_of(group));
        let known = led.and_then(|node| self.nodes[node].states.get(&source));
        let goes_on = known.is_some_and(|state| {
            let frozen = state.phase().frozen().is_some_and(|frozen| (frozen.target, frozen.seq) == (target, seq));
            state.descriptor().version > version && !frozen
        });
        let (shard, step) = if gone || goes_on {
            (target, Admin::EndMerge(EndMerge { seq }))
        } else {
            (source, Admin::Unfreeze(Unfreeze { target, seq, version }))
        };
        self.propose(shard, What::Admin(step), None);
    }

    /// A node tells the leaders of targets which sources are frozen and flushed here.
    pub(crate) fn word(&mut self, at: usize) -> Check {
        if !self.nodes[at].up {
            return Ok(());
        }
        let early = self.is_planted(HostFault::AbsorbBeforeFlushed);
        let node = &self.nodes[at];
        let durable = node.durable()?;
        let mut words = Vec::new();
        for (shard, state) in &node.states {
            let Some(frozen) = state.phase().frozen().filter(|_| node.lives(*shard)) else { continue };
            let flushed = durable.get(shard).is_some_and(|durable| durable.applied >= frozen.at.slot);
            if flushed || early {
                words.push((frozen.target, frozen.seq, frozen.at));
            }
        }
        for (target, seq, freeze) in words {
            if let Some(group) = self.groups.get_mut(&target).filter(|group| group.leader.is_some()) {
                group.words.insert(at, (seq, freeze));
            }
        }
        Ok(())
    }

    /// The state of the source that an entry of this shard takes in, from the replicas without lag; its group ends.
    pub(crate) fn source_chosen(&mut self, shard: ShardId, entry: &Entry) -> Check<Option<ShardState>> {
        let found = self.oracle.states.get(&shard).map(|state| state.takes_in(entry)).transpose()?;
        let Some(absorb) = found.flatten() else { return Ok(None) };
        let source = self.oracle.states.remove(&absorb.source);
        let Some(source) = source.filter(|source| source.is_frozen_at(shard, &absorb)) else {
            return Err(Violation(format!(
                "shard {shard} absorbs shard {}, which is not frozen for it",
                absorb.source
            )));
        };
        self.groups.remove(&absorb.source);
        self.count("merge");
        Ok(Some(source))
    }

    /// Whether the next entry of a replica takes a shard in that is not here as it is to be.
    pub(crate) fn lacks_source(&self, shard: ShardId, at: usize) -> Check<bool> {
        let (Some(group), node) = (self.groups.get(&shard), &self.nodes[at]) else { return Ok(false) };
        let Some(state) = node.states.get(&shard) else { return Ok(false) };
        let Some(entry) = group.log.get(state.applied().0 as usize) else { return Ok(false) };
        let Some(absorb) = state.takes_in(entry)? else { return Ok(false) };
        Ok(!node.states.get(&absorb.source).is_some_and(|source| source.is_frozen_at(shard, &absorb)))
    }

    /// The source that the next entry of a replica takes in. Members of the target have it as it was at the freeze.
    pub(crate) fn source_here(
        &mut self,
        shard: ShardId,
        at: usize,
        absorb: &Absorb,
        slot: Slot,
    ) -> Check<Option<ShardState>> {
        let node = &mut self.nodes[at];
        let frozen = node.states.get(&absorb.source).is_some_and(|source| source.is_frozen_at(shard, absorb));
        if frozen {
            return Ok(node.states.remove(&absorb.source));
        }
        let member = self.groups.get(&shard).is_some_and(|group| group.voters_at(slot.0).contains(&at));
        ensure!(!member, "node {at} is to absorb shard {} into shard {shard}, and has it otherwise", absorb.source);
        self.count("absorb waits for a snapshot");
        Ok(None)
    }

    /// The logs of shards that went into another go, where that is flushed. The worker's step.
    pub(crate) fn bury(&mut self, at: usize) -> Check {
        let node = &mut self.nodes[at];
        let mut disk = MemState::open(&node.disk);
        let mut gone = Vec::new();
        for (shard, log) in &node.logs {
            let mark = keys::absorbed_row(log.space.unwrap_or_else(|| own_space(*shard)));
            if disk.get(&mark)?.is_some() {
                gone.push((*shard, mark));
            }
        }
        for (shard, mark) in gone {
            node.logs.remove(&shard);
            node.commit.remove(&shard);
            node.removed.insert(shard, FOR_GOOD);
            node.store.apply(StateBatch { rows: vec![(mark, None)] })?;
        }
        Ok(())
    }

    /// The shard that is about to absorb a replica, where it is frozen for that and it has not happened here.
    pub(crate) fn frozen_for(&self, shard: ShardId, at: usize) -> Option<ShardId> {
        let states = &self.nodes[at].states;
        let frozen = states.get(&shard)?.phase().frozen()?;
        let over = states.get(&frozen.target).is_some_and(|target| target.has_ended(frozen.seq));
        (!over).then_some(frozen.target)
    }

    /// Whether no merge is under way, and no node that is up has anything of a shard that went into another.
    pub(crate) fn merges_are_over(&self) -> bool {
        let alone = self.oracle.states.values().all(|state| *state.phase() == Phase::Alone);
        let nodes = self.nodes.iter().filter(|node| node.up);
        alone && nodes.flat_map(|node| node.logs.keys()).all(|shard| self.groups.contains_key(shard))
    }
}
