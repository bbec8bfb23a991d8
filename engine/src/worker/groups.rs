//! Which groups this node holds.
//!
//! Owns: recovery, creation and removal of replicas, and their start once the node's identity is clear. Must never: let a
//! replica take part before that, create a group twice or one that was removed, or delete rows of a group before its
//! removal is durable.

use super::Worker;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::genesis::Genesis;
use crate::host::Host;
use crate::logstore::{GONE, GroupRecovered, GroupWrite};
use crate::machine::ShardState;
use crate::shard::{FIRST_EPOCH, Shard};
use crate::writer::Done;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, EntryId, HardState, SYSTEM_SHARD, ShardId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{SystemState, TooNew};
use synod_paxos::types::Epoch;

/// A shard's rows are in the space of its own number, until a snapshot takes their place: ids are never reused.
pub(crate) fn own_space(shard: ShardId) -> Space {
    let space = u32::try_from(shard.0).ok().filter(|space| *space < 1 << 31);
    Space(space.expect("shard ids are handed out one by one and stay below 2^31"))
}

impl<H: Host> Worker<H> {
    /// Finds a group's log and state.
    pub(super) fn recover(&mut self, id: ShardId) -> Result<(), StoreError> {
        let corrupt = |what: &str, why: String| StoreError::Corrupt { what: format!("{what} of shard {id}"), why };
        let Some(found) = self.node.log.recover_group(id)? else {
            return Err(corrupt("log", "the group is named but not there".into()));
        };
        let genesis =
            Genesis::decode(found.genesis.clone(), id).map_err(|e| e.corrupt(format!("genesis of shard {id}")))?;
        let space = found.space.unwrap_or_else(|| own_space(id));
        let has = ShardState::position(&mut *self.node.store, space, id)?;
        if has < found.trimmed.slot {
            return self.recover_without_state(id, found, space, &genesis, has);
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

    /// The state is gone, or older than what is left of its log: what there is of it goes, and a snapshot is asked for.
    fn recover_without_state(
        &mut self,
        id: ShardId,
        found: GroupRecovered,
        space: Space,
        genesis: &Genesis,
        has: Slot,
    ) -> Result<(), StoreError> {
        let from = found.trimmed.slot;
        tracing::error!(
            shard = id.0,
            "the state of shard {id} ends at slot {has}, but its log begins after slot {from}: it is reinstalled from a \
             snapshot of another member"
        );
        let (first, end) = keys::space_bounds(space);
        self.node.store.remove_range(&first, &end)?;
        let Some(state) = ShardState::missing(space, genesis) else {
            let why = "it does not describe the system shard".into();
            return Err(StoreError::Corrupt { what: format!("genesis of shard {id}"), why });
        };
        self.node.metrics.reinstalling.inc();
        self.insert(id, Shard::without_state(id, found, state));
        Ok(())
    }

    pub(super) fn insert(&mut self, id: ShardId, mut shard: Shard) {
        shard.share(&self.node.memory);
        self.node.metrics.replicas.inc();
        self.shards.insert(id, shard);
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
        let first = |epoch| epoch == FIRST_EPOCH || planted!(JoinsWithNothing);
        let others = map.shards.values().filter(|d| d.shard != SYSTEM_SHARD && first(d.membership.epoch));
        for descriptor in others.filter(|d| d.membership.role_of(me).is_some()) {
            self.create(descriptor.shard, Genesis::Shard(descriptor.clone()));
        }
        let gone: Vec<ShardId> = self.shards.keys().copied().filter(|id| vanished(&map, *id)).collect();
        let left: Vec<(ShardId, Epoch)> =
            self.shards.iter().filter_map(|(id, shard)| Some((*id, shard.left(me, &map)?))).collect();
        self.map = Some(map);
        for id in gone {
            self.remove(id, GONE);
        }
        for (id, upto) in left {
            tracing::info!(shard = id.0, epoch = upto.0, "this node is no longer a member: the replica is removed");
            self.remove(id, upto);
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
        self.node.writer.add(write, Some(Done::Created));
        self.creating.insert(id, genesis);
    }

    /// A new group's first write is durable.
    pub(super) fn created(&mut self, id: ShardId) {
        let Some(genesis) = self.creating.remove(&id) else { return };
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
        let state = match ShardState::beginning(own_space(id), &genesis) {
            Some(state) => state,
            None => {
                let state = ShardState::load(&mut *self.node.store, own_space(id), genesis);
                self.node.must(state)
            }
        };
        self.insert(id, Shard::new(id, found, state));
        if self.map.as_ref().is_some_and(|map| vanished(map, id)) {
            return self.remove(id, GONE);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
    }

    /// The epoch up to which a replica of a shard is to be removed, where the map says that it no longer belongs here.
    pub(super) fn ended(&self, id: ShardId) -> Option<Epoch> {
        let map = self.map.as_ref()?;
        let gone = vanished(map, id).then_some(GONE);
        gone.or_else(|| self.shards.get(&id)?.left(self.node.me, map))
    }

    /// Removes a replica: first its log, then, once that is durable, its rows.
    pub(super) fn remove(&mut self, id: ShardId, upto: Epoch) {
        let Some(mut shard) = self.shards.remove(&id) else { return };
        shard.answer_all(&mut self.node, &Refusal::WrongShard);
        self.node.metrics.replicas.dec();
        if shard.is_missing() {
            self.node.metrics.reinstalling.dec();
        }
        self.upkeep.forget(id);
        self.removed.insert(id, upto);
        let write = GroupWrite { shard: id, remove: Some(upto), ..GroupWrite::default() };
        let space = shard.state().space();
        self.node.writer.add(write, Some(Done::Removed(space)));
    }

    /// Rows of removed groups that a crash left behind.
    pub(super) fn sweep_removed(&mut self) -> Result<(), StoreError> {
        for id in self.removed.keys() {
            let (from, to) = keys::space_bounds(own_space(*id));
            let mut any = false;
            self.node.store.scan(&from, &to, false, &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            })?;
            if any {
                self.node.store.remove_range(&from, &to)?;
            }
        }
        Ok(())
    }
}

/// Whether the map knows that this shard was dropped. A map from before the shard's creation does not.
fn vanished(map: &SystemState, id: ShardId) -> bool {
    id != SYSTEM_SHARD && id.0 < map.next_shard && !map.shards.contains_key(&id)
}
