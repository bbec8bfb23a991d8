//! Snapshots as the worker sees them: who needs one, which is being made, which is being installed.
//!
//! Owns: what is asked of the host, and when. Must never: make more than one at a time, install one whose rows
//! are not durable in a space of their own, or remove an old space before the write that points away from it is durable.

use super::Worker;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::genesis::Genesis;
use crate::host::{Host, SnapshotKind};
use crate::machine::ShardState;
use crate::shard::Shard;
use crate::snapshot::Header;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_cluster::custody::Custody;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space};
use synod_paxos::types::Micros;

/// Interval between offers of a snapshot to a member that needs one, µs.
const OFFER_US: u64 = 500_000;
/// Time after which an operator's snapshot that could not begin is refused, µs.
const ASKED_US: u64 = 30_000_000;
/// Interval between looks at replicas whose state is gone, µs.
const ASK_US: u64 = 100_000;
/// Snapshots asked for at a time.
const ASKS_MAX: usize = 16;
/// Minimum interval between snapshots for members, whatever became of the last one, µs: each freezes the state.
const RETRY_US: u64 = 1_000_000;
/// A member whose requests for a snapshot stop for this long is dropped from the queue, µs.
const WAITS_US: u64 = 3_000_000;

/// On a low disk, time after which a finished snapshot that nobody asks for is removed, µs.
const UNUSED_LOW_US: u64 = 5_000_000;

/// A finished snapshot.
struct Built {
    slot: Slot,
    used_at: Micros,
}

type Told = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A snapshot that an operator asked for.
struct Asked {
    shard: ShardId,
    until: Micros,
    done: Told,
}

/// A member that needs a snapshot which is not begun yet.
struct Waiting {
    shard: ShardId,
    to: NodeId,
    least: Slot,
    at: Micros,
}

/// A snapshot whose rows are on their way into a space.
struct Loading {
    header: Header,
    space: Space,
}

/// What is kept of one shard's snapshots, on its way to another worker with it.
pub(super) struct SnapshotsOf {
    built: Option<Built>,
    offered: Vec<(NodeId, Micros)>,
    waiting: Vec<Waiting>,
}

/// What is under way.
pub(super) struct Snapshots {
    /// When a member was last offered one.
    offered: BTreeMap<(ShardId, NodeId), Micros>,
    building: Option<(ShardId, Slot)>,
    /// Who waits for one to be begun, in turn.
    waiting: Vec<Waiting>,
    /// Who wants the one being made, to be offered it at once.
    wanted_by: BTreeSet<NodeId>,
    /// Asked for by operators, in turn.
    asked: VecDeque<Asked>,
    /// Those that the snapshot being made answers.
    answered: Vec<Told>,
    retry_at: Micros,
    ask_at: Micros,
    built: BTreeMap<ShardId, Built>,
    loading: BTreeMap<ShardId, Loading>,
    unused_us: u64,
}

impl Snapshots {
    pub(super) fn new(unused_us: u64) -> Self {
        Self {
            offered: BTreeMap::new(),
            building: None,
            waiting: Vec::new(),
            wanted_by: BTreeSet::new(),
            asked: VecDeque::new(),
            answered: Vec::new(),
            retry_at: Micros(0),
            ask_at: Micros(0),
            built: BTreeMap::new(),
            loading: BTreeMap::new(),
            unused_us,
        }
    }

    pub(super) fn unused_us(&self) -> u64 {
        self.unused_us
    }

    /// Whether a snapshot of a shard is being made, asked for by an operator, or being loaded.
    pub(super) fn is_busy(&self, shard: ShardId) -> bool {
        self.building.is_some_and(|(id, _)| id == shard)
            || self.loading.contains_key(&shard)
            || self.asked.iter().any(|asked| asked.shard == shard)
    }

    /// Whether a snapshot of a shard is under way, or a member waits for one: a split would make it be of other bounds.
    pub(super) fn hinder_splits(&self, shard: ShardId) -> bool {
        self.is_busy(shard) || self.waiting.iter().any(|waiting| waiting.shard == shard)
    }

    /// A shard goes.
    pub(super) fn take_of(&mut self, shard: ShardId) -> SnapshotsOf {
        let all = self.offered.range((shard, NodeId(0))..=(shard, NodeId(u64::MAX)));
        let offered: Vec<(NodeId, Micros)> = all.map(|((_, to), at)| (*to, *at)).collect();
        self.offered.retain(|(id, _), _| *id != shard);
        let waiting = self.waiting.extract_if(.., |waiting| waiting.shard == shard).collect();
        SnapshotsOf { built: self.built.remove(&shard), offered, waiting }
    }

    /// A shard came.
    pub(super) fn put_of(&mut self, shard: ShardId, of: SnapshotsOf) {
        // What this worker had loaded for it before a split made it on the other one was told to that one.
        self.loading.remove(&shard);
        self.built.extend(of.built.map(|built| (shard, built)));
        self.offered.extend(of.offered.into_iter().map(|(to, at)| ((shard, to), at)));
        self.waiting.extend(of.waiting);
    }

    /// The positions of the snapshots of a shard that there are, or are being made.
    pub(super) fn positions(&self, shard: ShardId) -> impl Iterator<Item = Slot> {
        let building = self.building.filter(|(id, _)| *id == shard).map(|(_, slot)| slot);
        let built = self.built.get(&shard).map(|built| built.slot);
        building.into_iter().chain(built)
    }
}

impl<H: Host> Worker<H> {
    /// Looks after who needs a snapshot, and removes those that nobody needs.
    pub(super) fn keep_snapshots(&mut self) {
        for (shard, to, least) in std::mem::take(&mut self.node.snapshots_wanted) {
            self.snapshot_wanted(shard, to, least);
        }
        self.follow_members();
        self.ask_for_states();
        let now = self.node.now;
        while let Some(asked) = self.snapshots.asked.pop_front_if(|asked| asked.until <= now) {
            (asked.done)(Err(format!("shard {} was not ready for a snapshot in time", asked.shard)));
        }
        self.snapshots.waiting.retain(|waiting| waiting.at.plus(WAITS_US) > now);
        // A freeze of its own on top of one that is under way could make the worker wait.
        if !self.freezing() {
            self.begin_snapshot();
        }
        let low = self.node.disk_low.is_some();
        let unused_us = self.snapshots.unused_us.min(if low { UNUSED_LOW_US } else { u64::MAX });
        let unused = |(id, b): &(&ShardId, &Built)| {
            let done = b.used_at.plus(unused_us) <= now || !self.shards.contains_key(id);
            done && !self.is_being_made(**id)
        };
        let gone: Vec<ShardId> = self.snapshots.built.iter().filter(unused).map(|(id, _)| *id).collect();
        for id in gone {
            self.forget_built(id);
        }
    }

    /// An operator wants a snapshot: of what is applied now or later.
    pub(super) fn make_snapshot(&mut self, shard: ShardId, done: Told) {
        if self.quarantined.is_some() || self.stopped || !self.shards.contains_key(&shard) {
            return done(Err(format!("there is no replica of shard {shard} here that takes part")));
        }
        if self.shards.get(&shard).is_some_and(Shard::is_merging) {
            // A file of it and one of the other shard could be of either side of the merge.
            return done(Err(format!("shard {shard} takes part in a merge: try again in a moment")));
        }
        let until = self.node.now.plus(ASKED_US);
        self.snapshots.asked.push_back(Asked { shard, until, done });
    }

    /// Begins the next snapshot that waits, of an operator or of a member; whether one was begun, and with it a freeze. A freeze
    /// that is due is taken for it too: under a load that freezes without a pause there is no other.
    pub(super) fn begin_snapshot(&mut self) -> bool {
        let now = self.node.now;
        if self.snapshots.building.is_some() {
            return false;
        }
        if let Some(shard) = self.snapshots.asked.front().map(|asked| asked.shard)
            && self.build_snapshot(shard).is_some()
        {
            let asked = self.snapshots.asked.pop_front();
            self.snapshots.answered.extend(asked.map(|asked| asked.done));
            return true;
        }
        // The file takes room: on a low disk only an operator may want that. Its members wait.
        if self.snapshots.waiting.is_empty() || self.snapshots.retry_at > now || self.node.disk_low.is_some() {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.snapshots.waiting);
        let can_serve = |w: &Waiting| self.shards.get(&w.shard).is_some_and(|shard| shard.can_serve(w.least));
        let able: Vec<ShardId> = waiting.iter().filter(|w| can_serve(w)).map(|w| w.shard).collect();
        let begun = able.into_iter().find_map(|shard| Some((shard, self.build_snapshot(shard)?)));
        if let Some((shard, slot)) = begun {
            for served in waiting.extract_if(.., |w| w.shard == shard && w.least <= slot) {
                self.snapshots.wanted_by.insert(served.to);
                let trimmed = self.shards.get(&shard).map_or(slot, Shard::trimmed_slot);
                self.holds.needs((shard, served.to), slot, trimmed, now);
            }
        }
        self.snapshots.waiting = waiting;
        begun.is_some()
    }

    /// Replicas whose state is gone ask for it, one member after another.
    fn ask_for_states(&mut self) {
        if self.node.metrics.reinstalling.get() == 0 {
            return;
        }
        let now = self.node.now;
        if self.snapshots.ask_at > now {
            return;
        }
        self.snapshots.ask_at = now.plus(ASK_US);
        let mut left = ASKS_MAX;
        for shard in self.shards.values_mut() {
            left -= usize::from(shard.ask_for_state(&mut self.node));
            if left == 0 {
                return;
            }
        }
    }

    fn forget_built(&mut self, id: ShardId) {
        self.snapshots.built.remove(&id);
        self.snapshots.offered.retain(|(shard, _), _| *shard != id);
        self.hold_log(id);
        self.node.host.forget_snapshot(id, SnapshotKind::Built);
    }

    fn snapshot_wanted(&mut self, id: ShardId, to: NodeId, least: Slot) {
        let now = self.node.now;
        let Some(shard) = self.shards.get(&id).filter(|shard| shard.can_serve(least)) else { return };
        // A member of a new epoch may begin with it: one of an earlier epoch is of no use then.
        let trimmed = shard.trimmed_slot();
        let least = least.max(trimmed).max(shard.epoch_start());
        if let Some(built) = self.snapshots.built.get_mut(&id).filter(|built| built.slot >= least) {
            built.used_at = now;
            self.holds.needs((id, to), built.slot, trimmed, now);
            let last = self.snapshots.offered.entry((id, to)).or_default();
            if *last == Micros(0) || last.plus(OFFER_US) <= now {
                *last = now;
                self.node.metrics.snapshots_offered_total.inc();
                self.node.host.offer_snapshot(to, id);
            }
            return;
        }
        if let Some((_, slot)) = self.snapshots.building.filter(|(shard, slot)| *shard == id && *slot >= least) {
            self.snapshots.wanted_by.insert(to);
            self.holds.needs((id, to), slot, trimmed, now);
            return;
        }
        self.holds.needs((id, to), trimmed, trimmed, now);
        self.hold_log(id);
        let waiting = Waiting { shard: id, to, least, at: now };
        match self.snapshots.waiting.iter_mut().find(|w| (w.shard, w.to) == (id, to)) {
            Some(known) => *known = waiting,
            None => self.snapshots.waiting.push(waiting),
        }
    }

    /// Has the host write down what is applied: frozen here, read and written on another thread. The position, where it can.
    fn build_snapshot(&mut self, id: ShardId) -> Option<Slot> {
        let request = self.shards.get(&id)?.snapshot_request(&mut self.node)?;
        self.snapshots.retry_at = self.node.now.plus(RETRY_US);
        let slot = request.basis.id.slot;
        let job = self.node.host.build_snapshot(request)?;
        self.freeze();
        let begun = self.node.store.view(job);
        self.node.must(begun);
        tracing::info!(shard = id.0, slot = slot.0, "a snapshot is being made");
        self.snapshots.building = Some((id, slot));
        self.hold_log(id);
        Some(slot)
    }

    /// A snapshot was made, or could not be.
    pub(super) fn snapshot_built(&mut self, id: ShardId, result: Result<(), String>) {
        let Some((_, slot)) = self.snapshots.building.take_if(|(shard, _)| *shard == id) else { return };
        self.snapshots.offered.retain(|(shard, _), _| *shard != id);
        for done in std::mem::take(&mut self.snapshots.answered) {
            done(result.clone());
        }
        let wanted_by = std::mem::take(&mut self.snapshots.wanted_by);
        match result {
            Ok(()) => {
                self.node.metrics.snapshots_built_total.inc();
                self.snapshots.built.insert(id, Built { slot, used_at: self.node.now });
                for to in wanted_by {
                    self.snapshot_wanted(id, to, slot);
                }
            }
            Err(why) => {
                tracing::warn!(shard = id.0, "a snapshot could not be made: {why}");
                self.forget_built(id);
            }
        }
    }

    /// A finished snapshot's file is no good: it goes, and the next member that needs one has another made.
    pub(super) fn snapshot_spoilt(&mut self, id: ShardId) {
        if self.snapshots.built.contains_key(&id) && !self.is_being_made(id) {
            tracing::warn!(shard = id.0, "a snapshot's file is damaged and is removed");
            self.forget_built(id);
        }
    }

    /// The log is held for the one being made: it must not be let go for the one before.
    fn is_being_made(&self, id: ShardId) -> bool {
        self.snapshots.building.is_some_and(|(shard, _)| shard == id)
    }

    /// A snapshot was received and verified.
    pub(super) fn snapshot_fetched(&mut self, header: Header) {
        let id = header.shard;
        if self.snapshots.loading.contains_key(&id) {
            return;
        }
        if !self.is_wanted(&header) {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.learn_from(&mut self.node, &header);
            }
            return self.node.host.forget_snapshot(id, SnapshotKind::Fetched);
        }
        if let Custody::Waits(wait) = self.may_replace(&header) {
            return self.park(header, &wait);
        }
        let loader = self.node.store.loader();
        let loader = self.node.must(loader);
        let space = self.node.shared.fresh_space();
        tracing::info!(shard = id.0, slot = header.basis.id.slot.0, "a snapshot is being installed");
        self.snapshots.loading.insert(id, Loading { header, space });
        self.node.host.load_snapshot(id, space, loader);
        if planted!(InstallBeforeLoaded) {
            self.snapshot_loaded(id, space, Ok(()));
        }
    }

    /// Whether a replica here lacks what this snapshot holds, or one can begin with it.
    fn is_wanted(&self, header: &Header) -> bool {
        match self.shards.get(&header.shard) {
            Some(shard) => shard.lacks(header),
            None => self.begins_with(header),
        }
    }

    /// A snapshot's rows are durable in their space, or the file was found damaged. Where the replica still needs it, its
    /// pointer goes to that space.
    pub(super) fn snapshot_loaded(&mut self, id: ShardId, space: Space, result: Result<(), String>) {
        let (from, to) = keys::space_bounds(space);
        if let Err(why) = &result {
            tracing::warn!(shard = id.0, "a snapshot could not be installed: {why}");
        }
        let loading = self.snapshots.loading.get(&id).filter(|loading| loading.space == space);
        // None where another worker asked for it, and a split has made the replica here meanwhile.
        let header = loading.map(|loading| loading.header.clone());
        let fits = |header: &Header| self.is_wanted(header) && self.may_replace(header) == Custody::Allowed;
        let Some(header) = header.filter(|header| result.is_ok() && fits(header)) else {
            return self.not_installed(id, space);
        };
        let loaded = self.node.store.loaded(&from, &to);
        self.node.must(loaded);
        match self.shards.get_mut(&id) {
            Some(shard) => {
                if planted!(OldSpaceRemovedEarly) {
                    for (from, to) in shard.rows_to_remove() {
                        let removed = self.node.store.remove_range(&from, &to);
                        self.node.must(removed);
                    }
                }
                shard.install(&mut self.node, &header, space);
                self.bury_with(&header);
            }
            None if self.node.shared.roster.begin(id) || planted!(EveryWorkerHasAll) => {
                self.begin_replica(&header, space);
            }
            // A split has just made it, on another worker.
            None => self.not_installed(id, space),
        }
    }

    /// A snapshot that was loaded into a space is of no use.
    fn not_installed(&mut self, id: ShardId, space: Space) {
        self.remove_rows(&[keys::space_bounds(space)]);
        if self.snapshots.loading.get(&id).is_none_or(|loading| loading.space == space) {
            self.snapshots.loading.remove(&id);
            self.node.host.forget_snapshot(id, SnapshotKind::Fetched);
        }
    }

    /// A snapshot that was loaded is the replica now.
    pub(super) fn snapshot_taken(&mut self, id: ShardId) {
        self.snapshots.loading.remove(&id);
    }

    /// The write that makes a snapshot the replica is durable: the new replica takes over, the old one's rows go.
    pub(super) fn installed(&mut self, id: ShardId) {
        self.snapshots.loading.remove(&id);
        self.node.host.forget_snapshot(id, SnapshotKind::Fetched);
        let Some(mut old) = self.shards.remove(&id) else { return };
        let Some((found, old_rows)) = old.installed(&mut self.node) else { return };
        let space = found.space.unwrap_or_else(|| super::own_space(id));
        let state = Genesis::decode(old.genesis().clone(), id)
            .map_err(|e| e.corrupt(format!("genesis of shard {id}")))
            .and_then(|genesis| ShardState::load(&mut *self.node.store, space, genesis));
        let state = self.node.must(state);
        let slot = state.applied();
        if slot != found.trimmed.slot {
            self.node.host.fatal(format!("shard {id}: a snapshot of slot {} holds slot {slot}", found.trimmed.slot));
        }
        tracing::info!(shard = id.0, slot = slot.0, "a snapshot took the replica's place");
        self.node.metrics.snapshots_installed_total.inc();
        self.node.metrics.replicas.dec();
        if old.is_missing() {
            self.node.metrics.reinstalling.dec();
            self.node.metrics.states_reinstalled_total.inc();
            tracing::info!(shard = id.0, slot = slot.0, "the state that was missing is installed");
        }
        self.insert(id, Shard::new(id, found, state));
        self.remove_rows(&old_rows);
        // The map may have changed while the write was under way.
        if let Some(upto) = self.ended(id) {
            return self.give_up(id, upto);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
        self.start_cleared();
    }
}
