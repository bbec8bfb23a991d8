//! Comparing replicas, as the worker sees it: when, and how many at a time.
//!
//! Owns: the pace of the shards led here. Must never: let a marker hold up a shard's log for longer than the round it was
//! applied in.

use super::Worker;
use crate::host::Host;
use crate::metrics::level;
use crate::scrub::{ScrubError, Scrubbed};
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Micros;

/// Replicas read at a time; markers beyond that are passed over here.
const READING_MAX: usize = 4;
/// Freezes that may be unfinished when another is begun for a marker: one more would make the worker wait.
const FREEZES_MAX: usize = 1;
/// Time after which a refused marker is proposed again, µs.
const RETRY_US: u64 = 1_000_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Scrubs {
    /// Shards that are read. One is named twice where a snapshot took its replica's place meanwhile.
    reading: Vec<ShardId>,
    /// Of the shards led here: one after another.
    begun: Option<(ShardId, Slot)>,
    retry_at: Micros,
}

impl Scrubs {
    /// Whether a shard is read: this worker is told of the end.
    pub(super) fn is_busy(&self, shard: ShardId) -> bool {
        self.reading.contains(&shard)
    }
}

impl<H: Host> Worker<H> {
    /// Has the state read of shards that applied a marker in this round.
    pub(super) fn keep_scrubs(&mut self) {
        for id in std::mem::take(&mut self.node.marked) {
            let reads = self.scrubs.reading.len() < READING_MAX && self.freezes_unfinished() <= FREEZES_MAX;
            let request = self.shards.get(&id).filter(|_| reads).and_then(|shard| shard.scrub_request(&self.node));
            let job = request.and_then(|request| self.node.host.build_scrub(request));
            let reads = job.is_some();
            if let Some(job) = job {
                self.freeze();
                let begun = self.node.store.view(job);
                self.node.must(begun);
                self.scrubs.reading.push(id);
            }
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.unmark(&mut self.node, reads);
            }
        }
    }

    /// Proposes the next marker where one is due. Called at the pace of the stores' health.
    pub(super) fn propose_scrubs(&mut self) {
        let (now, interval) = (self.node.now, self.upkeep.scrub_us);
        let diverged = self.shards.values().filter(|shard| shard.diverged()).count();
        let diverged = self.node.shared.levels.scrub_diverged.set(self.node.worker, level(diverged));
        self.node.metrics.scrub_diverged.set(diverged);
        let goes_on = |(id, slot): (ShardId, Slot)| self.shards.get(&id).is_some_and(|shard| shard.is_comparing(slot));
        if interval == 0 || self.scrubs.retry_at > now || self.scrubs.begun.is_some_and(goes_on) {
            return;
        }
        for (id, shard) in &mut self.shards {
            if shard.scrub_due(&mut self.node, interval).is_none_or(|due| due > now) {
                continue;
            }
            let next = Some(now.plus(interval));
            match shard.propose_marker(&mut self.node, next) {
                Ok(slot) => self.scrubs.begun = Some((*id, slot)),
                Err(why) => {
                    tracing::debug!(shard = id.0, "could not propose a marker: {why}");
                    self.scrubs.retry_at = now.plus(RETRY_US);
                }
            }
            return;
        }
    }

    /// An operator wants the replicas of a shard compared now.
    pub(super) fn scrub(&mut self, id: ShardId) -> Result<Slot, Refusal> {
        let next = (self.upkeep.scrub_us > 0).then(|| self.node.now.plus(self.upkeep.scrub_us));
        let begun = self.scrubs.begun.filter(|(shard, _)| *shard == id);
        match self.shards.get_mut(&id) {
            Some(shard) => match begun.filter(|(_, slot)| shard.is_comparing(*slot)) {
                // It is under way already: a second marker would be passed over.
                Some((_, slot)) => Ok(slot),
                None => {
                    let proposed = shard.propose_marker(&mut self.node, next);
                    self.scrubs.begun = proposed.as_ref().ok().map(|slot| (id, *slot)).or(self.scrubs.begun);
                    proposed
                }
            },
            None => Err(Refusal::WrongShard),
        }
    }

    /// A replica was read.
    pub(super) fn scrubbed(&mut self, id: ShardId, slot: Slot, result: Result<Scrubbed, ScrubError>) {
        if let Some(at) = self.scrubs.reading.iter().position(|reading| *reading == id) {
            self.scrubs.reading.swap_remove(at);
        }
        let Some(shard) = self.shards.get_mut(&id).filter(|shard| shard.reads_at(slot)) else { return };
        match result {
            Ok(found) => {
                tracing::info!(shard = id.0, slot = slot.0, rows = found.rows, bytes = found.bytes, "scrubbed");
                shard.scrubbed(&mut self.node, slot, Some(found));
            }
            Err(ScrubError::GivenUp) => shard.scrubbed(&mut self.node, slot, None),
            Err(ScrubError::State(error)) => self.node.state_failed(&error),
            Err(ScrubError::Log(error)) => self.node.host.fatal(error.to_string()),
        }
    }

    /// A member told what it holds.
    pub(super) fn scrub_hash(&mut self, from: NodeId, id: ShardId, slot: Slot, hash: u128) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.scrub_hash(&mut self.node, from, slot, hash);
        }
    }
}
