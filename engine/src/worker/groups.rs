//! Which groups this node holds.
//!
//! Owns: recovery, creation and removal of replicas, and their start once the node's identity is clear. Must never: let a
//! replica take part before that, create a group twice or one that was removed, or delete rows of a group before its
//! removal is durable.

use super::Worker;
use super::births::Creating;
use super::spaces::{Owners, own_space};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::genesis::Genesis;
use crate::host::Host;
use crate::logstore::{GONE, GroupRecovered, GroupWrite};
use crate::machine::ShardState;
use crate::machine::extent::Extent;
use crate::shard::{FIRST_EPOCH, Shard, TELL_US};
use crate::writer::Done;
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, EntryId, HardState, SYSTEM_SHARD, ShardId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Birth, Descriptor, FIRST_BOUNDS, SystemState, TooNew};
use synod_paxos::types::Epoch;

impl<H: Host> Worker<H> {
    /// Finds a group's log and state; `owners` is what all groups of the node own.
    pub(super) fn recover(&mut self, id: ShardId, owners: &Owners) -> Result<(), StoreError> {
        let corrupt = |what: &str, why: String| StoreError::Corrupt { what: format!("{what} of shard {id}"), why };
        let Some(found) = self.node.log.recover_group(id)? else {
            return Err(corrupt("log", "the group is named but not there".into()));
        };
        let genesis =
            Genesis::decode(found.genesis.clone(), id).map_err(|e| e.corrupt(format!("genesis of shard {id}")))?;
        let space = found.space.unwrap_or_else(|| own_space(id));
        let has = ShardState::position(&mut *self.node.store, space, id)?;
        let from = found.trimmed.slot;
        if has < from {
            let why = format!("ends at slot {has}, but its log begins after slot {from}");
            return self.recover_without_state(found, space, &genesis, owners, &why);
        }
        if has == Slot(0) && owners.others_in(id, space) {
            // The log is whole. From its beginning it would write over rows that a shard split off since has newer.
            let why = "is gone, and its space has records of a shard that was split off";
            return self.recover_without_state(found, space, &genesis, owners, why);
        }
        let unborn = genesis.is_child() && self.node.store.get(&keys::bounds_row(space))?.is_none();
        if unborn && !planted!(UnbornBeginsEmpty) {
            return self.recover_unborn(found, space, &genesis);
        }
        let state = ShardState::load(&mut *self.node.store, space, genesis)?;
        if let Some(system) = state.system() {
            let what = || "metadata rows of the system shard".into();
            let spoken = TooNew::check_for(system.version, self.node.speaks);
            spoken.map_err(|too_new| StoreError::ClusterTooNew { what: what(), too_new })?;
        }
        if state.applied() > found.last.slot {
            let (has, last) = (state.applied(), found.last.slot);
            return Err(corrupt("log", format!("it ends at slot {last}, but slot {has} was applied")));
        }
        self.insert(id, Shard::new(id, found, state));
        Ok(())
    }

    /// The state is gone, or older than what is left of its log: what there is of it goes, and a snapshot is asked for. What other
    /// shards own stays.
    fn recover_without_state(
        &mut self,
        found: GroupRecovered,
        space: Space,
        genesis: &Genesis,
        owners: &Owners,
        why: &str,
    ) -> Result<(), StoreError> {
        let (Some(descriptor), Some(state)) = (genesis.descriptor(), ShardState::missing(space, genesis)) else {
            let why = "it does not describe the system shard".into();
            return Err(StoreError::Corrupt { what: "genesis of the system shard".into(), why });
        };
        let id = descriptor.shard;
        tracing::error!(
            shard = id.0,
            "the state of shard {id} {why}: it is reinstalled from a snapshot of another member"
        );
        let extent = Extent::read(|row| self.node.store.get(row), space, descriptor.clone())?;
        for (from, to) in owners.only(id, &extent.to_remove()) {
            self.node.store.remove_range(&from, &to)?;
        }
        self.node.metrics.reinstalling.inc();
        self.insert(id, Shard::without_state(id, found, state));
        Ok(())
    }

    /// A child has begun here, and what it begins with is not on disk: its parent applies the split again, or a snapshot comes.
    fn recover_unborn(&mut self, found: GroupRecovered, space: Space, genesis: &Genesis) -> Result<(), StoreError> {
        let (Some(descriptor), Some(state)) = (genesis.descriptor(), ShardState::missing(space, genesis)) else {
            let why = "it does not describe a shard".into();
            return Err(StoreError::Corrupt { what: "genesis of a child".into(), why });
        };
        let id = descriptor.shard;
        tracing::info!(shard = id.0, "shard {id} was split off and has no state here yet: it votes, and waits for one");
        self.node.metrics.reinstalling.inc();
        self.insert(id, Shard::unborn(id, found, state));
        Ok(())
    }

    pub(super) fn insert(&mut self, id: ShardId, mut shard: Shard) {
        shard.share(&self.node.memory);
        self.node.shared.roster.hold(id, shard.held());
        if shard.may_have_news() {
            self.node.changed_bounds.insert(id, self.node.now.plus(TELL_US));
        }
        self.node.metrics.replicas.inc();
        self.shards.insert(id, shard);
        self.note_part(id);
        self.upkeep.waiting = true;
    }

    /// Lets every waiting replica take part for which a quorum has spoken for this node.
    pub(super) fn start_cleared(&mut self) {
        let now = self.node.now;
        let grace_over = self.upkeep.grace_at.is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.upkeep.waiting) && !grace_over {
            return;
        }
        let mut left = false;
        for shard in self.shards.values_mut() {
            let Some(membership) = shard.waits_for() else { continue };
            if self.identity.cleared(membership, now) {
                shard.start(&mut self.node);
            } else {
                left = true;
            }
        }
        self.upkeep.grace_at = self.identity.grace_ends(now).filter(|_| left);
    }

    /// Whether a map is of the cluster that this node belongs to.
    fn is_ours(&self, map: &SystemState) -> bool {
        let known = self.map.as_ref().map(|known| known.cluster);
        let ours = self.cluster.map(|cluster| cluster.0).or(known);
        ours.is_none_or(|ours| ours == map.cluster)
    }

    /// Follows a newer map: creates what this node is a member of, removes what is gone.
    pub(super) fn adopt_map(&mut self, map: Arc<SystemState>) {
        if !self.is_ours(&map) {
            tracing::error!("ignored a map of another cluster, {:032x}", map.cluster);
            return;
        }
        if self.map.as_ref().is_some_and(|known| known.revision >= map.revision) {
            return;
        }
        if let Err(too_new) = TooNew::check_for(map.version, self.node.speaks) {
            self.node.host.fatal(format!("the map of revision {}: {too_new}", map.revision));
        }
        if map.version > self.node.cluster_version {
            self.node.cluster_version = map.version;
            // At the first version there is nothing that any binary does not know.
            if map.version > ClusterVersion::FIRST {
                let sealed = self.node.log.seal(map.version);
                self.node.must(sealed);
            }
        }
        let version = self.node.consensus_version();
        self.shards.values_mut().for_each(|shard| shard.speak(version));
        let me = self.node.me;
        // The system shard's beginning is no descriptor: it is created from its founders' state only.
        let first = |d: &&Descriptor| {
            // A split changes the bounds and not the epoch. A replica with the bounds of after it would judge the log otherwise.
            (d.membership.epoch == FIRST_EPOCH && d.version == FIRST_BOUNDS) || planted!(JoinsWithNothing)
        };
        // Nor does the child of a split begin with nothing: a replica that did would vote without its parent's records.
        let ours = map.shards.of_node(me);
        let founded = ours.filter(|d| d.shard != SYSTEM_SHARD && d.born == Birth::Founded);
        for descriptor in founded.filter(first) {
            self.create(descriptor.shard, Genesis::Shard(descriptor.clone()));
        }
        let gone: Vec<ShardId> = self.shards.keys().copied().filter(|id| map.vanished(*id)).collect();
        let left: Vec<(ShardId, Epoch)> =
            self.shards.iter().filter_map(|(id, shard)| Some((*id, shard.left(me, &map)?))).collect();
        self.map = Some(map);
        for id in gone {
            self.give_up(id, GONE);
        }
        for (id, upto) in left {
            tracing::info!(
                shard = id.0,
                epoch = upto.0,
                "this node is no longer a member: the replica is to be removed"
            );
            self.give_up(id, upto);
        }
        self.join_groups();
    }

    fn known(&self, id: ShardId) -> bool {
        self.shards.contains_key(&id) || self.creating.contains_key(&id) || self.removed.contains_key(&id)
    }

    /// Creates a replica, once; it exists when its first write is durable.
    pub(super) fn create(&mut self, id: ShardId, genesis: Genesis) {
        let Some(descriptor) = genesis.descriptor() else { return };
        if self.known(id) || descriptor.shard != id || !self.node.has(id) {
            return;
        }
        let write = GroupWrite {
            shard: id,
            hard: Some(HardState::initial(descriptor.membership.clone())),
            genesis: Some(genesis.encode()),
            ..GroupWrite::default()
        };
        self.node.shared.roster.begin(id);
        self.node.writer.add(write, Some(Done::Created));
        self.creating.insert(id, Creating::of(genesis));
    }

    /// A new group's first write is durable.
    pub(super) fn created(&mut self, id: ShardId) {
        let Some(mut creating) = self.creating.remove(&id) else { return };
        let (genesis, base) = (creating.genesis.clone(), creating.base.take());
        let Some(membership) = genesis.descriptor().map(|d| d.membership.clone()) else { return };
        let found = GroupRecovered {
            genesis: genesis.encode(),
            hard: HardState::initial(membership),
            space: None,
            trimmed: EntryId::ZERO,
            runs: Vec::new(),
            last: EntryId::ZERO,
            last_ts: 0,
            sizes: Vec::new(),
        };
        let child = genesis.is_child();
        let held = base.as_ref().is_none_or(|base| base.held);
        let begun = base.map(|base| base.state).or_else(|| ShardState::beginning(own_space(id), &genesis));
        let state = match begun {
            Some(state) => state,
            None => {
                let state = ShardState::load(&mut *self.node.store, own_space(id), genesis);
                self.node.must(state)
            }
        };
        let mut shard = Shard::new(id, found, state);
        if child {
            shard.begins();
        }
        if !held {
            shard.not_held();
            self.upkeep.births = true;
        }
        self.insert(id, shard);
        creating.tell(Ok(()));
        if self.map.as_ref().is_some_and(|map| map.vanished(id)) {
            return self.give_up(id, GONE);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
        if child {
            // It is not awaited any longer.
            self.join_groups();
        }
    }

    /// The epoch up to which a replica of a shard is to be removed, where the map says that it no longer belongs here.
    pub(super) fn ended(&self, id: ShardId) -> Option<Epoch> {
        let map = self.map.as_ref()?;
        let gone = map.vanished(id).then_some(GONE);
        gone.or_else(|| self.shards.get(&id)?.left(self.node.me, map))
    }

    /// Removes a replica: first its log, then, once that is durable, its rows.
    pub(super) fn remove(&mut self, id: ShardId, upto: Epoch) {
        let Some(mut shard) = self.shards.remove(&id) else { return };
        shard.answer_all(&mut self.node, &Refusal::WrongShard);
        // Who leads it from now on is not heard here.
        self.node.host.role_changed(id, None, false);
        self.node.metrics.replicas.dec();
        if shard.is_missing() {
            self.node.metrics.reinstalling.dec();
        }
        self.upkeep.forget(id);
        self.removed.insert(id, upto);
        self.node.shared.roster.bury(id);
        self.node.changed_bounds.remove(&id);
        let write = GroupWrite { shard: id, remove: Some(upto), ..GroupWrite::default() };
        self.node.writer.add(write, Some(Done::Removed(shard.rows_to_remove())));
    }
}
