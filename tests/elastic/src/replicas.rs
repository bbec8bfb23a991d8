//! What a node does with its replicas: applies, makes children, takes snapshots, goes down and comes back.
//!
//! Owns: the worker's steps, made here since the worker is not driven. Must never: decide what an entry does, or what may be given up.

use crate::group::Group;
use crate::node::{FOR_GOOD, Log, digest, is_born, own_space};
use crate::plan::HostFault;
use crate::violation::{Check, Violation, ensure};
use crate::world::World;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_cluster::custody::{Custody, GivenUp, Here, How, Owner, may_give_up};
use synod_cluster::ids::ShardId;
use synod_cluster::system::{Birth, Descriptor};
use synod_engine::codec::bounds::ChildMark;
use synod_engine::codec::keys::{self, SPACE_BYTES};
use synod_engine::genesis::Genesis;
use synod_engine::machine::overlay::Overlay;
use synod_engine::machine::{Born, Effects, ShardState, Wanted};
use synod_engine::state::StateStore;
use synod_engine::state::mem::MemState;
use synod_paxos::types::Epoch;

/// Bytes that a ring is made to hold at most where memory is short.
const RING_BYTES: usize = 500;

/// Whether a group began with a split, and of which parent.
fn parent_of(group: &Group) -> Option<ShardId> {
    match group.genesis.descriptor()?.born {
        Birth::Founded => None,
        Birth::Child { parent, .. } => Some(parent),
    }
}

impl World {
    /// A replica applies up to so many entries that it knows as chosen.
    pub(crate) fn apply(&mut self, shard: ShardId, node: usize, most: u64) -> Check {
        for _ in 0..most {
            if !self.apply_one(shard, node)? {
                break;
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, shard: ShardId, at: usize) -> Check<bool> {
        let Some(group) = self.groups.get(&shard) else { return Ok(false) };
        let node = &mut self.nodes[at];
        let commit = node.commit_of(shard);
        let (Some(state), Some(log)) = (node.states.get_mut(&shard), node.logs.get(&shard)) else { return Ok(false) };
        let slot = state.applied().0 + 1;
        if slot > commit.min(log.end) {
            return Ok(false);
        }
        ensure!(log.trim < slot, "node {at} has trimmed slot {slot} of shard {shard}, and has not applied it");
        let index = slot as usize - 1;
        let (entry, proposer, term) = (group.log[index].clone(), group.proposers[index], group.term);
        let expected = group.digests[slot as usize];
        let source = match state.takes_in(&entry)? {
            None => None,
            Some(absorb) => match self.source_here(shard, at, &absorb, entry.id.slot)? {
                None => return Ok(false),
                source => source,
            },
        };
        let node = &mut self.nodes[at];
        let Some(state) = node.states.get_mut(&shard) else { return Ok(false) };
        let effects = match source {
            Some(source) => state.absorb(&mut node.store, &entry, source)?,
            None => state.apply(&mut node.store, &mut Overlay::default(), &entry, Wanted::Results)?,
        };
        let Effects { results, metadata: _, marker: _, child, merge: _, refused: _ } = effects;
        let found = digest(&mut node.store, state)?;
        ensure!(found == expected, "node {at} has another state of shard {shard} at slot {slot}");
        let answers = proposer.node == at && proposer.life == node.life && proposer.term == term;
        if let Some(born) = child {
            self.born(at, *born)?;
        }
        if answers
            && let Some(ticket) = proposer.ticket
            && let Some(result) = results.into_iter().next()
            && self.dice.chance(850)
        {
            self.answer(ticket, result)?;
        }
        Ok(true)
    }

    /// A split was applied here, and its child is born: it gets its place, or its rows go. The worker's step.
    fn born(&mut self, at: usize, born: Born) -> Check {
        let Born { mut state, descriptor } = born;
        let shard = descriptor.shard;
        let resets = self.is_planted(HostFault::CreationResetsLog);
        let node = &mut self.nodes[at];
        let voter = descriptor.membership.role_of(node.id).is_some();
        let elsewhere = node.states.get(&shard).is_some_and(|here| here.space() != state.space());
        if !voter || elsewhere || node.removed.contains_key(&shard) {
            let rows = state.to_remove();
            node.remove_rows(&rows)?;
            self.count("child not wanted here");
            return Ok(());
        }
        if let Some(group) = self.groups.get(&shard) {
            let found = digest(&mut node.store, &mut state)?;
            ensure!(found == group.digests[0], "node {at} begins shard {shard} with another state");
        }
        let genesis = Genesis::Shard(descriptor);
        let reborn = match node.logs.get_mut(&shard) {
            Some(log) => {
                if resets {
                    *log = Log::empty(genesis);
                }
                let known = log.hint.min(log.end);
                let commit = node.commit.entry(shard).or_default();
                *commit = known.max(*commit);
                true
            }
            None => {
                node.creating.insert(shard, genesis);
                node.commit.insert(shard, 0);
                false
            }
        };
        node.states.insert(shard, state);
        self.count(if reborn { "child born again" } else { "child born" });
        Ok(())
    }

    /// The first log writes of the children that were born here.
    pub(crate) fn write_logs(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for (shard, genesis) in std::mem::take(&mut node.creating) {
            node.logs.insert(shard, Log::empty(genesis));
        }
    }

    /// A node makes what it has applied durable.
    pub(crate) fn flush(&mut self, at: usize) -> Check {
        if self.nodes[at].up {
            self.nodes[at].flush()?;
            self.bury(at)?;
        }
        Ok(())
    }

    /// A log is trimmed up to a slot that its flushed state has.
    pub(crate) fn trim(&mut self, at: usize, whole: bool) -> Check {
        let node = &mut self.nodes[at];
        if !node.up {
            return Ok(());
        }
        let durable = node.durable()?;
        let living: Vec<ShardId> = durable.keys().copied().filter(|shard| node.states.contains_key(shard)).collect();
        let chosen = if whole { living } else { self.dice.pick(&living).into_iter().collect() };
        for shard in chosen {
            let (Some(log), Some(durable)) = (node.logs.get_mut(&shard), durable.get(&shard)) else { continue };
            let most = durable.applied.0.min(log.end);
            if most > log.trim {
                log.trim = if whole { most } else { self.dice.between(log.trim, most) };
            }
        }
        Ok(())
    }

    /// The ring of a replica gives up what is old.
    pub(crate) fn shrink_ring(&mut self, at: usize) {
        let shards: Vec<ShardId> = self.nodes[at].states.keys().copied().collect();
        if let Some(shard) = self.dice.pick(&shards)
            && let Some(state) = self.nodes[at].states.get_mut(&shard)
        {
            state.ring_mut().shrink(RING_BYTES);
        }
    }

    /// A node loses what is not durable.
    pub(crate) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.up = false;
        node.life += 1;
        node.states.clear();
        node.creating.clear();
        node.commit.clear();
        node.store = MemState::open(&node.disk);
        for group in self.groups.values_mut() {
            group.leader = group.leader.filter(|leader| *leader != at);
            group.lease = group.lease.filter(|leader| *leader != at);
        }
        self.reader.asked.retain(|asked| asked.node != at);
        self.follower.asked.retain(|asked| asked.node != at);
        self.note(|| format!("node {at} crashes"));
        self.count("crash");
    }

    /// A node starts from what is durable. The worker's step.
    pub(crate) fn restart(&mut self, at: usize) -> Check {
        let empty = self.is_planted(HostFault::UnbornBeginsEmpty);
        let mut unborn = 0;
        let node = &mut self.nodes[at];
        if node.up || node.dead {
            return Ok(());
        }
        node.up = true;
        node.store = MemState::open(&node.disk);
        self.bury(at)?;
        let node = &mut self.nodes[at];
        for (shard, group) in &self.groups {
            // Its base was flushed before its first log write.
            let space = own_space(*shard);
            let known = parent_of(group).is_none() || node.logs.contains_key(shard) || node.removed.contains_key(shard);
            if !known && is_born(&mut node.store, &group.genesis, space)? {
                let state = ShardState::load(&mut node.store, space, group.genesis.clone())?;
                node.states.insert(*shard, state);
                node.creating.insert(*shard, group.genesis.clone());
                node.commit.insert(*shard, 0);
            }
        }
        for (shard, log) in &node.logs {
            let space = log.space.unwrap_or_else(|| own_space(*shard));
            let mut applied = 0;
            if is_born(&mut node.store, &log.genesis, space)? {
                let state = ShardState::load(&mut node.store, space, log.genesis.clone())?;
                applied = state.applied().0;
                node.states.insert(*shard, state);
            } else {
                unborn += 1;
                if empty && let Some(state) = ShardState::beginning(space, &log.genesis) {
                    node.states.insert(*shard, state);
                }
            }
            node.commit.insert(*shard, applied.max(log.trim).max(log.hint.min(log.end)));
        }
        node.sweep()?;
        for _ in 0..unborn {
            self.count("restart with an unborn child");
        }
        self.note(|| format!("node {at} starts, {unborn} children unborn"));
        Ok(())
    }

    /// Whether a node may give something up, by the real rule.
    fn may_give_up(&self, at: usize, given: &GivenUp, children: &[Owner]) -> Check<bool> {
        let node = &self.nodes[at];
        let held = node.here()?;
        let here = |shard| held.get(&shard).copied().unwrap_or(Here::Absent);
        Ok(may_give_up(given, node.id, &node.map, children, here) == Custody::Allowed)
    }

    /// What a replica has: what its state says; of one that was never born what its group began with.
    fn extent_of(&self, at: usize, shard: ShardId) -> Option<Descriptor> {
        let node = &self.nodes[at];
        let born = node.states.get(&shard).map(|state| state.descriptor().clone());
        born.or_else(|| node.logs.get(&shard)?.genesis.descriptor().cloned())
    }

    /// A node takes a snapshot of a shard from another, where it needs one and may.
    pub(crate) fn snapshot(&mut self, shard: ShardId, at: usize) -> Check {
        let Some(from) = self.source(shard, at) else { return Ok(()) };
        if !self.needs_snapshot(shard, at, from) {
            return Ok(());
        }
        let Some(source) = self.nodes[from].states.get(&shard) else { return Ok(()) };
        let (descriptor, me) = (source.descriptor().clone(), self.nodes[at].id);
        let owner = |mark: &ChildMark| Owner {
            shard: mark.shard,
            from: mark.from.clone(),
            to: mark.to.clone(),
            version: mark.version,
            lists: mark.voters.contains(&me),
        };
        let children: Vec<Owner> = source.children().iter().map(owner).collect();
        if let Some(had) = self.extent_of(at, shard) {
            let version = if self.nodes[at].states.contains_key(&shard) { had.version } else { 0 };
            let how = How::Snapshot { version, from: descriptor.from, to: descriptor.to };
            let given = GivenUp { shard, table: had.table, from: had.from, to: had.to, how };
            if !self.may_give_up(at, &given, &children)? {
                self.count("snapshot waits for custody");
                return Ok(());
            }
        }
        self.install(shard, at, from)
    }

    /// A node that can give a snapshot.
    fn source(&mut self, shard: ShardId, at: usize) -> Option<usize> {
        let group = self.groups.get(&shard)?;
        let base = parent_of(group).is_some() && !self.is_planted(HostFault::NoSnapshotAt0);
        let able = |other: &usize| {
            let node = &self.nodes[*other];
            *other != at && node.lives(shard) && (base || node.applied(shard) > Some(0))
        };
        let able: Vec<usize> = (0..self.nodes.len()).filter(able).collect();
        self.dice.pick(&able)
    }

    /// Whether a node joins with a snapshot of another's replica, or cannot go on without.
    fn needs_snapshot(&mut self, shard: ShardId, at: usize, from: usize) -> bool {
        let patient = self.dice.chance(900);
        let lacks = self.lacks_source(shard, at) == Ok(true);
        let Some(group) = self.groups.get(&shard) else { return false };
        let (node, applied) = (&self.nodes[at], self.nodes[from].applied(shard).unwrap_or(0));
        if !node.up || node.creating.contains_key(&shard) {
            return false;
        }
        let Some(log) = node.logs.get(&shard) else {
            let Some(known) = node.map.shards.get(&shard) else { return false };
            let epoch = known.membership.epoch;
            let removed = node.removed.get(&shard).is_some_and(|upto| *upto >= epoch);
            let member = known.membership.role_of(node.id).is_some() && group.lists(at);
            let founded = epoch == Epoch(1) && parent_of(group).is_none();
            return member && !removed && !founded && applied >= group.changed_at;
        };
        match node.applied(shard) {
            // It is unborn. Where its parent is here, that one makes its base.
            None => {
                let parent = parent_of(group).filter(|parent| node.logs.contains_key(parent));
                let waits = parent.is_some_and(|parent| !self.is_stuck(parent, at));
                !(waits && patient) && applied >= log.trim
            }
            Some(mine) => applied > mine && (lacks || applied > log.end && self.is_stuck(shard, at)),
        }
    }

    /// A snapshot takes a replica's place: rows into a fresh space, then the log's pointer, then the old rows go. The worker's step.
    pub(crate) fn install(&mut self, shard: ShardId, at: usize, from: usize) -> Check {
        let space = self.fresh_space();
        let forgets = self.is_planted(HostFault::SnapshotWithoutSessions);
        let maker = &mut self.nodes[from];
        let Some(source) = maker.states.get_mut(&shard) else { return Ok(()) };
        source.store_sessions(&mut maker.store)?;
        let applied = source.applied().0;
        let mut rows: Vec<(Vec<u8>, Bytes)> = Vec::new();
        for (start, end) in source.replicated() {
            maker.store.scan(&start, &end, false, &mut |key, value| {
                if !forgets || keys::parse_session(key).is_err() {
                    let key = [&space.0.to_be_bytes()[..], &key[SPACE_BYTES..]].concat();
                    rows.push((key, Bytes::copy_from_slice(value)));
                }
                ControlFlow::Continue(())
            })?;
        }
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let genesis = group.genesis.clone();
        let expected = group.digests[applied as usize];
        group.leader = group.leader.filter(|leader| *leader != at);
        let node = &mut self.nodes[at];
        node.store.loader()?.load(&rows)?;
        let (start, end) = keys::space_bounds(space);
        node.store.loaded(&start, &end)?;
        if let Some(old) = node.states.remove(&shard) {
            node.remove_rows(&old.to_remove())?;
        }
        let kept = node.logs.get(&shard).map_or(0, |log| log.end).max(applied);
        let log = Log { genesis: genesis.clone(), space: Some(space), end: kept, trim: applied, hint: applied };
        node.logs.insert(shard, log);
        node.removed.remove(&shard);
        let mut state = ShardState::load(&mut node.store, space, genesis)?;
        let found = digest(&mut node.store, &mut state)?;
        node.states.insert(shard, state);
        let commit = node.commit_of(shard).min(kept).max(applied);
        node.commit.insert(shard, commit);
        ensure!(found == expected, "a snapshot of shard {shard} at slot {applied} is another state at node {at}");
        self.note(|| format!("node {at} takes a snapshot of shard {shard} at slot {applied} from node {from}"));
        self.count("snapshot");
        Ok(())
    }

    /// A node follows its map: replicas that left, or whose shard is gone, go where custody allows it. The worker's step.
    pub(crate) fn adopt(&mut self, at: usize) -> Check {
        let map = Arc::clone(&self.map);
        let node = &mut self.nodes[at];
        if !node.up {
            return Ok(());
        }
        node.map = map;
        let (map, me) = (Arc::clone(&node.map), node.id);
        let here: Vec<ShardId> = node.logs.keys().chain(node.creating.keys()).copied().collect();
        for shard in here {
            let upto = match map.shards.get(&shard) {
                Some(known) => {
                    let (epoch, listed) = (known.membership.epoch, known.membership.role_of(me).is_some());
                    let commit = self.nodes[at].commit_of(shard);
                    let mine = self.groups.get(&shard).map(|group| group.epoch_at(commit));
                    if listed || epoch <= Epoch(1) || mine > Some(epoch) {
                        continue;
                    }
                    epoch
                }
                None if map.vanished(shard) => FOR_GOOD,
                None => continue,
            };
            let Some(had) = self.extent_of(at, shard) else { continue };
            let frozen_for = self.frozen_for(shard, at).filter(|_| !self.is_planted(HostFault::SourceLeavesEarly));
            let how = How::Removal { frozen_for };
            let given = GivenUp { shard, table: had.table, from: had.from, to: had.to, how };
            if self.may_give_up(at, &given, &[])? {
                self.remove(shard, at, upto)?;
            } else {
                self.count("removal waits for custody");
            }
        }
        if self.is_planted(HostFault::CreateFromMap) {
            self.create_from_map(at);
        }
        Ok(())
    }

    /// The planted fault: what the map shows in its first epoch begins with nothing.
    fn create_from_map(&mut self, at: usize) {
        let table = self.table;
        let node = &mut self.nodes[at];
        for (shard, known) in node.map.shards.iter().filter(|(_, known)| known.table == table) {
            let member = known.membership.epoch == Epoch(1) && known.membership.role_of(node.id).is_some();
            let there = node.logs.contains_key(shard) || node.creating.contains_key(shard);
            let genesis = Genesis::Shard(known.clone());
            if member
                && !there
                && !node.removed.contains_key(shard)
                && let Some(state) = ShardState::beginning(own_space(*shard), &genesis)
            {
                node.states.insert(*shard, state);
                node.logs.insert(*shard, Log::empty(genesis));
                node.commit.insert(*shard, 0);
            }
        }
    }

    /// A replica goes: its log at once, its rows with the next flush.
    fn remove(&mut self, shard: ShardId, at: usize, upto: Epoch) -> Check {
        let whole = self.is_planted(HostFault::RemoveWholeSpace);
        let node = &mut self.nodes[at];
        if let Some(state) = node.states.remove(&shard) {
            if whole {
                node.remove_spaces_of(&state)?;
            } else {
                node.remove_rows(&state.to_remove())?;
            }
        }
        node.logs.remove(&shard);
        node.creating.remove(&shard);
        node.commit.remove(&shard);
        node.removed.insert(shard, upto);
        if let Some(group) = self.groups.get_mut(&shard) {
            group.leader = group.leader.filter(|leader| *leader != at);
        }
        self.note(|| format!("node {at} removes shard {shard}"));
        self.count("replica removed");
        Ok(())
    }
}
