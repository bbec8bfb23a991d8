//! Merges, as the executor of a job makes them.

use super::{Cluster, Disk};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ClusterVersion, ShardId};
use synod_cluster::refusal::Refusal;
use synod_engine::host::{AdminInput, MergeWanted};
use synod_engine::worker::WorkerOptions;

/// What became of an order, once that is known.
pub type Told = Arc<Mutex<Option<Result<(), Refusal>>>>;

impl Cluster {
    /// So many nodes whose cluster knows merges, with these limits. No released binary speaks that version yet.
    pub fn that_merges(nodes: usize, options: WorkerOptions) -> Self {
        let speaks = ClusterVersion::FIFTH;
        let disks = (0..nodes).map(|_| Disk::mem(1 << 12)).collect();
        Self::founded(disks, WorkerOptions { speaks, ..options }, speaks)
    }

    /// Has the source led where the target is.
    pub fn bring_together(&mut self, target: ShardId, source: ShardId) {
        for _ in 0..100 {
            self.run_until("leaders", |c| c.leader(target).is_some() && c.leader(source).is_some());
            let (to, from) = (self.leader(target).unwrap(), self.leader(source).unwrap());
            if to == from {
                return;
            }
            self.push(from, AdminInput::Transfer { shard: source, to, done: Box::new(|_| ()) });
            self.run_for(100_000);
        }
        panic!("shard {source} is not led where shard {target} is");
    }

    /// What is wanted where both are as their leaders have them now.
    pub fn merge_wanted(&mut self, target: ShardId, source: ShardId) -> MergeWanted {
        self.bring_together(target, source);
        let leader = self.leader(target).unwrap();
        let (kept, gone) = (self.replica(leader, target).unwrap(), self.replica(leader, source).unwrap());
        MergeWanted {
            version: kept.version,
            epoch: kept.epoch,
            source,
            source_version: gone.version,
            source_epoch: gone.epoch,
        }
    }

    /// Asks the leader to begin; where the answer goes.
    pub fn ask_merge(&mut self, target: ShardId, merge: MergeWanted) -> Told {
        self.run_until("a leader", |c| c.leader(target).is_some());
        let leader = self.leader(target).unwrap();
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let done = Box::new(move |result| *tell.lock().unwrap() = Some(result));
        self.push(leader, AdminInput::Merge { shard: target, merge, done });
        told
    }

    /// One attempt, as the leader answers it; a leader that dies without an answer makes it unknown.
    pub fn try_merge(&mut self, target: ShardId, merge: MergeWanted) -> Result<(), Refusal> {
        let told = self.ask_merge(target, merge);
        let end = self.now.plus(2_000_000);
        self.run_until("an answer, or the leader's end", |c| told.lock().unwrap().is_some() || c.now >= end);
        let result = told.lock().unwrap().take();
        result.unwrap_or(Err(Refusal::NotLeader { leader: None, maybe: true }))
    }

    /// Begins a merge, as often as it takes.
    pub fn begin_merge(&mut self, target: ShardId, source: ShardId) {
        for _ in 0..200 {
            let wanted = self.merge_wanted(target, source);
            match self.try_merge(target, wanted) {
                Ok(()) => return,
                Err(Refusal::NotReady | Refusal::NotLeader { .. }) => self.run_for(50_000),
                Err(Refusal::Invalid { field: "version" | "source_version", .. }) => self.run_for(50_000),
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("no merge of shard {source} into shard {target} began in 200 attempts")
    }

    /// Merges a shard into its neighbour, and waits until the map knows.
    pub fn merge(&mut self, target: ShardId, source: ShardId) {
        self.begin_merge(target, source);
        self.run_until("the map knows", |c| !c.map().shards.contains_key(&source));
    }
}
