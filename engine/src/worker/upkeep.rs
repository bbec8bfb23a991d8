//! What a worker does now and then: freezes of the state, trims of the log, the stores' health, a drain.
//!
//! Owns: when each is due. Must never: trim above what is flushed, or count a freeze done before the store says so.

use super::{Worker, WorkerOptions};
use crate::host::Host;
use crate::memory::{Account, Holder};
use crate::metrics::level;
use crate::node::{Budget, WorkerId};
use crate::shard::Shard;
use crate::state::FlushId;
use std::collections::VecDeque;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_paxos::types::Micros;

/// Health-check interval of the stores, µs.
const HEALTH_US: u64 = 1_000_000;
/// Interval between questions about a freeze under way, µs.
const FLUSH_POLL_US: u64 = 20_000;
/// Freezes that may be unfinished when another is begun for a shard that leaves: one more would make the worker wait.
const FREEZES_MAX: usize = 1;
/// Retry interval of a drain, µs.
const DRAIN_RETRY_US: u64 = 100_000;
/// Interval at which a node whose disk is low tries to hand over its leaderships, µs.
const SHED_RETRY_US: u64 = 500_000;
/// A shard's time that is ahead of the clocks by more than this is reported, µs.
pub const AHEAD_US: u64 = 10_000_000;
/// Interval between attempts to free room on the disk, µs.
const ROOM_US: u64 = 1_000_000;

struct Freeze {
    id: FlushId,
    /// What of each shard it makes durable, and which version of its bounds.
    applied: Vec<(ShardId, Slot, u64)>,
}

struct Drain {
    until: Micros,
    retry_at: Micros,
}

/// When what is due.
pub(super) struct Upkeep {
    freeze_log_bytes: usize,
    drain_us: u64,
    trim_slots: u64,
    trim_slots_flushed: u64,
    pub(super) scrub_us: u64,
    health_at: Micros,
    poll_at: Micros,
    freezes: VecDeque<Freeze>,
    /// Children have begun whose first rows are in no freeze.
    pub(super) births: bool,
    drain: Option<Drain>,
    shed_at: Micros,
    room_at: Micros,
    /// The time of a shard led here was ahead of the clocks.
    ahead: bool,
    /// Replicas may be waiting whose quorum has spoken meanwhile.
    pub(super) waiting: bool,
    /// Replicas wait that may start then without the voters that are still silent.
    pub(super) grace_at: Option<Micros>,
}

impl Upkeep {
    /// Of one of so many workers.
    pub(super) fn new(options: &WorkerOptions, workers: u16) -> Self {
        Self {
            freeze_log_bytes: options.freeze_log_bytes / usize::from(workers.max(1)),
            drain_us: options.drain_us,
            trim_slots: options.trim_slots,
            trim_slots_flushed: options.trim_slots_flushed,
            scrub_us: options.scrub_us,
            health_at: Micros(0),
            poll_at: Micros(0),
            freezes: VecDeque::new(),
            births: false,
            drain: None,
            shed_at: Micros(0),
            room_at: Micros(0),
            ahead: false,
            waiting: false,
            grace_at: None,
        }
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Micros {
        let poll = (!self.freezes.is_empty()).then_some(self.poll_at);
        let drain = self.drain.as_ref().map(|drain| drain.retry_at.min(drain.until));
        [poll, drain, self.grace_at].into_iter().flatten().fold(self.health_at, Micros::min)
    }

    /// A replica is here no more: freezes under way tell the next one of its shard nothing.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.freezes.iter_mut().for_each(|freeze| freeze.applied.retain(|(id, ..)| *id != shard));
    }
}

/// What each may keep of an account that is nearly full, so that a quarter of it becomes free; `None` where there is room.
fn share_tight(
    account: &Account,
    kept: impl Iterator<Item = usize>,
    (budget, worker): (&Budget, WorkerId),
) -> Option<usize> {
    // Noted in any case: the other workers' shards are short by it.
    let each = budget.share(worker, kept.map(|bytes| bytes as u64).collect(), account.limit() as u64 / 4 * 3);
    account.is_tight().then(|| usize::try_from(each).unwrap_or(usize::MAX))
}

impl<H: Host> Worker<H> {
    /// Does what is due.
    pub(super) fn keep_up(&mut self) {
        let now = self.node.now;
        self.poll_freezes();
        self.balance();
        let due = self.node.store.wants_freeze() || self.node.applied_bytes >= self.upkeep.freeze_log_bytes;
        // A snapshot that waits takes this freeze for its own.
        if due && !self.begin_snapshot() {
            self.freeze();
        }
        if self.upkeep.health_at <= now {
            self.upkeep.health_at = now.plus(HEALTH_US);
            let health = self.node.log.health().and_then(|()| self.node.store.health());
            self.node.must(health);
            self.share_log();
            self.share_memory();
            for shard in self.shards.values_mut() {
                shard.trim(&mut self.node, self.upkeep.trim_slots);
                shard.remind_successor(&mut self.node);
            }
            self.propose_scrubs();
            self.look_at_times();
            self.look_at_loads();
            let bytes = level(self.node.store.memory_bytes());
            let bytes = self.node.shared.levels.state_memory_bytes.set(self.node.worker, bytes);
            self.node.metrics.state_memory_bytes.set(bytes);
            self.tidy();
        }
        if self.upkeep.drain.as_ref().is_some_and(|drain| drain.retry_at <= now || drain.until <= now) {
            self.advance_drain();
        }
        if self.node.disk_low.is_some() && self.upkeep.shed_at <= now {
            self.upkeep.shed_at = now.plus(SHED_RETRY_US);
            self.shed();
        }
        if self.node.disk_low.is_some() && self.upkeep.room_at <= now {
            self.upkeep.room_at = now.plus(ROOM_US);
            self.make_room();
        }
    }

    /// Shares what the logs may keep among the groups whose members lag.
    fn share_log(&mut self) {
        let needs: Vec<u64> = self.shards.values().map(Shard::log_needed).collect();
        let node = &mut self.node;
        let kept = i64::try_from(needs.iter().sum::<u64>()).unwrap_or(i64::MAX);
        node.metrics.log_kept_bytes.set(node.shared.levels.log_kept_bytes.set(node.worker, kept));
        node.log_keep.share(&node.shared, node.worker, needs, node.disk_low.is_some());
    }

    /// Where the newest entries or records of all shards take much of what they may, those of shards that keep most are made fewer,
    /// so that others have room.
    fn share_memory(&mut self) {
        let most = self.node.paxos.cache_bytes;
        let (shared, worker) = (Arc::clone(&self.node.shared), self.node.worker);
        let entries = self.shards.values().map(Shard::cached);
        let each = share_tight(self.node.memory.of(Holder::Entries), entries, (&shared.entries, worker));
        if each.is_some() || self.node.cache_each < most {
            self.node.cache_each = each.unwrap_or(most).min(most);
            self.shards.values_mut().for_each(|shard| shard.limit_cache(self.node.cache_each));
        }
        let rings = self.shards.values().map(|shard| shard.state().ring().bytes());
        if let Some(each) = share_tight(self.node.memory.of(Holder::Rings), rings, (&shared.rings, worker)) {
            self.shards.values_mut().for_each(|shard| shard.state_mut().ring_mut().shrink(each));
        }
    }

    /// Tells of shards led here whose time is ahead of the clocks, once they are and once they are no more.
    fn look_at_times(&mut self) {
        let Self { node, shards, .. } = self;
        let ahead = shards.iter_mut().map(|(id, shard)| (shard.is_ahead_by(node), *id)).max().unwrap_or_default();
        let ((most, id), was) = (ahead, self.upkeep.ahead);
        let seconds = i64::try_from(most / 1_000_000).unwrap_or(i64::MAX);
        let most_of_all = node.shared.levels.shard_time_ahead_seconds.set_of_most(node.worker, seconds);
        node.metrics.shard_time_ahead_seconds.set(most_of_all);
        self.upkeep.ahead = most > AHEAD_US;
        match (was, self.upkeep.ahead) {
            (false, true) => tracing::warn!(
                shard = id.0,
                ahead_s = most / 1_000_000,
                "the time of shard {id} is {} s ahead of what a quorum's clocks show: its timestamps go on from there",
                most / 1_000_000
            ),
            (true, false) => tracing::info!("the times of all shards led here are what the clocks show"),
            _ => {}
        }
    }

    /// Tells how much the busiest shards here have to do. Shards are not told apart: there may be thousands.
    fn look_at_loads(&mut self) {
        let now = self.node.now;
        let rates = self.shards.values_mut().map(|shard| shard.rates(now).0);
        let (ops, bytes) = rates.fold((0, 0), |most, rate| (rate.ops().max(most.0), rate.bytes().max(most.1)));
        let gauge = |most: u64| i64::try_from(most).unwrap_or(i64::MAX);
        let (levels, worker) = (&self.node.shared.levels, self.node.worker);
        let ops = levels.busiest_shard_operations.set_of_most(worker, gauge(ops));
        let bytes = levels.busiest_shard_bytes.set_of_most(worker, gauge(bytes));
        self.node.metrics.busiest_shard_operations.set(ops);
        self.node.metrics.busiest_shard_bytes.set(bytes);
    }

    /// What was deleted and trimmed takes its room until it is flushed, the log trimmed behind that, and both compacted: few
    /// such writes would else wait for the many that are refused.
    fn make_room(&mut self) {
        if self.freezing() {
            return;
        }
        // What the last freeze flushed, first: under a load of deletions there is always something that is not flushed yet.
        let reclaimed = self.node.store.reclaim(self.node.disk_spare);
        self.node.must(reclaimed);
        if self.shards.values().any(|shard| shard.unflushed()) {
            self.freeze();
        }
    }

    /// Gives back the room of what was removed. On a low disk [`Self::make_room`] does, as far as there is room for it.
    fn tidy(&mut self) {
        if self.node.disk_low.is_some() {
            return;
        }
        let left = self.node.store.tidy();
        let left = self.node.must(left);
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        let left = self.node.shared.levels.state_removed_bytes.set(self.node.worker, left);
        self.node.metrics.state_removed_bytes.set(left);
    }

    /// Hands leaderships to members that have room. Where none has, this node goes on leading, and refuses what needs room.
    fn shed(&mut self) {
        for shard in self.shards.values_mut() {
            if let Some(to) = shard.best_successor(&self.node, |node, peer| !node.low_peers.contains(&peer)) {
                // Refused while an earlier attempt is under way: asked again soon.
                let _ = shard.transfer(&mut self.node, to);
            }
        }
    }

    /// Puts into the store what lives in memory between freezes.
    pub(super) fn store_sessions(&mut self) {
        for shard in self.shards.values_mut() {
            let stored = shard.state_mut().store_sessions(&mut *self.node.store);
            self.node.must(stored);
        }
        // Children that are about to begin: their other rows are in the store.
        for base in self.creating.values_mut().filter_map(|creating| creating.base.as_mut()) {
            let stored = base.state.store_sessions(&mut *self.node.store);
            self.node.must(stored);
        }
    }

    /// Whether a freeze is not yet known to be durable.
    pub(super) fn freezing(&self) -> bool {
        !self.upkeep.freezes.is_empty()
    }

    /// Freezes that are not durable yet.
    pub(super) fn freezes_unfinished(&mut self) -> usize {
        self.upkeep.poll_at = self.node.now;
        self.poll_freezes();
        self.upkeep.freezes.len()
    }

    pub(super) fn freeze(&mut self) {
        self.store_sessions();
        let of = |(id, s): (&ShardId, &Shard)| (*id, s.state().applied(), s.state().descriptor().version);
        let applied = self.shards.iter().filter(|(_, s)| s.unflushed()).map(of).collect();
        self.upkeep.births = false;
        let id = self.node.store.freeze();
        let id = self.node.must(id);
        self.upkeep.freezes.push_back(Freeze { id, applied });
        self.upkeep.poll_at = self.node.now.plus(FLUSH_POLL_US);
        self.node.applied_bytes = 0;
        self.node.metrics.freezes_total.inc();
    }

    /// Freezes the state where that makes nobody wait; the freeze.
    pub(super) fn freeze_beside(&mut self) -> Option<FlushId> {
        if self.freezes_unfinished() > FREEZES_MAX {
            return None;
        }
        self.freeze();
        self.upkeep.freezes.back().map(|freeze| freeze.id)
    }

    /// Whether a freeze is known to be durable.
    pub(super) fn is_flushed(&self, id: FlushId) -> bool {
        self.upkeep.freezes.front().is_none_or(|freeze| freeze.id > id)
    }

    fn poll_freezes(&mut self) {
        if self.upkeep.freezes.is_empty() || self.upkeep.poll_at > self.node.now {
            return;
        }
        self.upkeep.poll_at = self.node.now.plus(FLUSH_POLL_US);
        let flushed = self.node.store.flushed();
        let flushed = match flushed {
            Err(_) if planted!(FailedFlushGoesOn) => self.upkeep.freezes.back().map_or(FlushId(0), |freeze| freeze.id),
            flushed => self.node.must(flushed),
        };
        while self.upkeep.freezes.front().is_some_and(|freeze| freeze.id <= flushed) {
            let Some(freeze) = self.upkeep.freezes.pop_front() else { return };
            for (id, slot, version) in freeze.applied {
                if let Some(shard) = self.shards.get_mut(&id) {
                    shard.flushed(slot, version);
                    self.node.shared.roster.hold(id, shard.held());
                    shard.trim(&mut self.node, self.upkeep.trim_slots_flushed);
                }
            }
        }
    }

    /// Begins to hand over every leadership.
    pub(super) fn drain(&mut self) {
        self.node.shared.drained(self.node.worker, false);
        self.passage.keep_all();
        let until = self.node.now.plus(self.upkeep.drain_us);
        self.upkeep.drain = Some(Drain { until, retry_at: self.node.now });
    }

    fn advance_drain(&mut self) {
        let now = self.node.now;
        // A shard on its way from worker to worker may be led here, and is in no worker's list.
        let mut left = self.node.shared.is_handing();
        for shard in self.shards.values_mut() {
            let successor: Option<NodeId> = shard.best_successor(&self.node, |_, _| true);
            if let Some(to) = successor {
                left = true;
                // Refused while an earlier attempt is under way: asked again soon.
                let _ = shard.transfer(&mut self.node, to);
            }
        }
        let Some(drain) = &mut self.upkeep.drain else { return };
        drain.retry_at = now.plus(DRAIN_RETRY_US);
        if !left || drain.until <= now {
            self.upkeep.drain = None;
            if self.node.shared.drained(self.node.worker, true) {
                self.node.host.drained();
            }
        }
    }
}
