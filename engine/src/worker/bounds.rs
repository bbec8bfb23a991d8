//! Bounds of shards that changed: splits as they are asked for, and what the system shard is to hear of them.
//!
//! Owns: when it is told. Must never: change bounds by what a map says, or stop telling before a map knows.

use super::Worker;
use crate::host::{Host, SplitWanted, Told};
use crate::shard::TELL_US;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Micros;

impl<H: Host> Worker<H> {
    /// A shard is to be split.
    pub(super) fn split(&mut self, id: ShardId, wanted: SplitWanted, told: Told) {
        if let Some(why) = &self.quarantined {
            return told(Err(Refusal::Quarantined(why.clone())));
        }
        let (Some(map), false) = (self.map.clone(), self.stopped) else { return told(Err(Refusal::NotReady)) };
        let busy = self.snapshots.hinder_splits(id);
        match self.shards.get_mut(&id) {
            Some(_) if busy => told(Err(Refusal::NotReady)),
            Some(shard) => shard.propose_split(&mut self.node, &map, wanted, told),
            None => told(Err(Refusal::WrongShard)),
        }
    }

    /// Tells what the map does not know.
    pub(super) fn keep_bounds(&mut self) {
        let now = self.node.now;
        let Some(map) = self.map.clone().filter(|_| !self.node.changed_bounds.is_empty()) else { return };
        let due = self.node.changed_bounds.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id);
        for id in due.collect::<Vec<ShardId>>() {
            match self.shards.get(&id).and_then(|shard| shard.news_of_bounds(&map)) {
                None => drop(self.node.changed_bounds.remove(&id)),
                Some(news) => {
                    self.node.changed_bounds.insert(id, now.plus(TELL_US));
                    self.node.host.bounds_changed(news);
                }
            }
        }
    }

    /// When something is to be told.
    pub(super) fn bounds_due(&self) -> Option<Micros> {
        self.map.as_ref()?;
        self.node.changed_bounds.values().copied().min()
    }
}
