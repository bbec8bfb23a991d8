//! Groups that exist already and have made this node a member: their replica here begins with a snapshot.
//!
//! Owns: whom is asked for it, and the first write of such a replica. Must never: begin a replica with nothing where the group
//! may have a past, or in an epoch in which one was here before: what that one promised is forgotten, so it may only vote
//! in epochs that began after it was gone.
//!
//! A member that begins anew has voted in no epoch from the snapshot's on: either no replica was ever here, or the one that
//! was went once an entry of a later epoch than its last was chosen, and its tombstone names that epoch. In earlier epochs
//! nothing more can be chosen (Lamport, Malkhi, Zhou, "Reconfiguring a State Machine", 2010, section 3).

use super::Worker;
use crate::codec::Damage as _;
use crate::genesis::Genesis;
use crate::host::{Host, SnapshotKind};
use crate::logstore::{GroupRecovered, GroupWrite};
use crate::machine::ShardState;
use crate::shard::{FIRST_EPOCH, Shard};
use crate::snapshot::Header;
use crate::writer::Done;
use std::collections::BTreeMap;
use synod_cluster::ids::{EntryId, HardState, NodeId, ShardId, Slot, Space};
use synod_cluster::system::{Birth, FIRST_BOUNDS};
use synod_paxos::types::{Epoch, Membership, Micros};

/// Interval between requests for a snapshot to one member, µs; the offer that follows may be lost.
const ASK_US: u64 = 500_000;
/// Requests to one member before the next member is asked, so that the snapshot it makes is used.
const ASKS: usize = 8;
/// Interval between reports to the system shard of members that its map does not know yet, µs.
const TELL_US: u64 = 100_000;

/// A group that waits for its snapshot.
struct Awaited {
    /// The epoch by which this node is a member.
    epoch: Epoch,
    /// Whom to ask.
    members: Vec<NodeId>,
    turn: usize,
    ask_at: Micros,
}

/// What this node is a member of and does not hold yet.
#[derive(Default)]
pub(super) struct Joining {
    awaited: BTreeMap<ShardId, Awaited>,
    /// Their first write is under way.
    beginning: BTreeMap<ShardId, GroupRecovered>,
    /// The map is looked at again then for what it does not know yet.
    pub(super) tell_at: Micros,
}

impl<H: Host> Worker<H> {
    /// Finds in the map what this node is to hold and does not.
    pub(super) fn join_groups(&mut self) {
        let Some(map) = self.map.clone() else { return };
        let me = self.node.me;
        let mut awaited = BTreeMap::new();
        let ours = map.shards.of_node(me).filter(|d| self.node.has(d.shard));
        for descriptor in ours {
            let (id, epoch) = (descriptor.shard, descriptor.membership.epoch);
            // On another worker, maybe.
            let here = self.node.shared.roster.is_here(id) && !planted!(EveryWorkerHasAll);
            let here = here || self.shards.contains_key(&id) || self.creating.contains_key(&id);
            let again = self.removed.get(&id).is_none_or(|upto| epoch > *upto);
            // What begins now is begun from nothing, by whoever founds it, or by the split of its parent. What was founded and has been
            // split since has a past: its first bounds are not in the map.
            let split = descriptor.born == Birth::Founded && descriptor.version > FIRST_BOUNDS;
            let past = epoch > FIRST_EPOCH || split || self.lacks_child(descriptor);
            if here || self.joining.beginning.contains_key(&id) || !again || !past {
                continue;
            }
            let members = descriptor.membership.members.iter().map(|m| m.node).filter(|n| *n != me).collect();
            let before = self.joining.awaited.remove(&id);
            let (turn, ask_at) = before.map_or((0, Micros(0)), |before| (before.turn, before.ask_at));
            awaited.insert(id, Awaited { epoch, members, turn, ask_at });
        }
        self.joining.awaited = awaited;
    }

    /// Asks for what is awaited, and has the system shard told of members that changed.
    pub(super) fn keep_members(&mut self) {
        let now = self.node.now;
        // Another worker may have begun it since the map was looked at: a split makes the child on its parent's.
        let roster = &self.node.shared.roster;
        let begun = |id: &ShardId| roster.is_here(*id) && !planted!(EveryWorkerHasAll);
        self.joining.awaited.retain(|id, awaited| awaited.ask_at > now || !begun(id));
        for (id, awaited) in &mut self.joining.awaited {
            if awaited.ask_at > now {
                continue;
            }
            awaited.ask_at = now.plus(ASK_US);
            let alive: Vec<NodeId> = awaited.members.iter().copied().filter(|n| self.node.live.contains(n)).collect();
            if let Some(to) = alive.get(awaited.turn / ASKS % alive.len().max(1)) {
                awaited.turn += 1;
                self.node.host.ask_snapshot(*to, *id, Slot(0));
            }
        }
        if self.joining.tell_at <= now && !self.node.changed_members.is_empty() {
            self.joining.tell_at = now.plus(TELL_US);
            self.tell_members();
        }
    }

    /// When something is to be asked or told.
    pub(super) fn members_due(&self) -> Option<Micros> {
        let ask = self.joining.awaited.values().map(|awaited| awaited.ask_at).min();
        let tell = (!self.node.changed_members.is_empty()).then_some(self.joining.tell_at);
        [ask, tell].into_iter().flatten().min()
    }

    fn tell_members(&mut self) {
        let Some(map) = self.map.clone() else { return };
        for id in std::mem::take(&mut self.node.changed_members) {
            let Some(shard) = self.shards.get(&id) else { continue };
            let Ok(news) = shard.news_of_members(&map) else { continue };
            self.node.changed_members.insert(id);
            if let Some(membership) = news {
                self.node.host.members_changed(id, membership);
            }
        }
    }

    /// Whether this snapshot can begin a replica that is awaited here.
    pub(super) fn begins_with(&self, header: &Header) -> bool {
        let Some(awaited) = self.joining.awaited.get(&header.shard) else { return false };
        let basis = &header.basis;
        let later = basis.membership.epoch >= awaited.epoch;
        let something = basis.id.slot > Slot(0) || header.bounds.is_some();
        let here = self.node.shared.roster.is_here(header.shard) && !planted!(EveryWorkerHasAll);
        later && basis.membership.role_of(self.node.me).is_some() && something && !here
    }

    /// The snapshot's rows are durable in `space`: one write makes them a replica. The roster has it already.
    pub(super) fn begin_replica(&mut self, header: &Header, space: Space) {
        let id = header.shard;
        self.joining.awaited.remove(&id);
        // Of an epoch before all others, in which nobody is a member: it promised nothing.
        let nothing = Membership { epoch: Epoch(0), members: Vec::new(), first_leader: NodeId(0) };
        let hard = HardState::initial(nothing).after_snapshot(&header.basis);
        let revive = self.removed.contains_key(&id);
        let write = GroupWrite {
            shard: id,
            genesis: Some(header.genesis.clone()),
            hard: Some(hard.clone()),
            // The state that a split gave a child is at slot 0.
            trim: (header.basis.id.slot > Slot(0)).then_some(header.basis.id),
            space: Some(space),
            revive,
            ..GroupWrite::default()
        };
        let found = GroupRecovered {
            genesis: header.genesis.clone(),
            hard,
            space: Some(space),
            trimmed: header.basis.id,
            runs: Vec::new(),
            last: header.basis.id,
            last_ts: header.ts,
            sizes: Vec::new(),
        };
        self.joining.beginning.insert(id, found);
        self.node.writer.add(write, Some(Done::Begun));
    }

    /// The first write of a replica that began with a snapshot is durable.
    pub(super) fn begun(&mut self, id: ShardId) {
        self.removed.remove(&id);
        self.snapshot_taken(id);
        self.node.host.forget_snapshot(id, SnapshotKind::Fetched);
        let Some(found) = self.joining.beginning.remove(&id) else { return };
        let EntryId { slot, .. } = found.trimmed;
        let space = found.space.unwrap_or_else(|| super::own_space(id));
        let state = Genesis::decode(found.genesis.clone(), id)
            .map_err(|e| e.corrupt(format!("genesis of shard {id}")))
            .and_then(|genesis| ShardState::load(&mut *self.node.store, space, genesis));
        let state = self.node.must(state);
        if state.applied() != slot {
            self.node.host.fatal(format!("shard {id}: a snapshot of slot {slot} holds slot {}", state.applied()));
        }
        tracing::info!(shard = id.0, slot = slot.0, "a replica began with a snapshot");
        self.node.metrics.snapshots_installed_total.inc();
        self.insert(id, Shard::new(id, found, state));
        // The map may have changed while the write was under way.
        if let Some(upto) = self.ended(id) {
            return self.give_up(id, upto);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
    }
}
