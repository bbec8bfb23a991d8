//! Splits, as the executor of a job makes them.

use super::{Cluster, Disk};
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ClusterVersion, SYSTEM_SHARD, ShardId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{ShardNews, SystemCommand, SystemOutcome};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{AdminInput, Body, SplitWanted};
use synod_engine::worker::WorkerOptions;

impl Cluster {
    /// So many nodes whose cluster knows splits, with these limits.
    pub fn that_splits(nodes: usize, options: WorkerOptions) -> Self {
        let speaks = ClusterVersion::FOURTH;
        let disks = (0..nodes).map(|_| Disk::mem(1 << 12)).collect();
        Self::founded(disks, WorkerOptions { speaks, ..options }, speaks)
    }

    /// What replicas report of their bounds goes to the system shard; an answer is not waited for.
    pub(super) fn tell_bounds(&mut self, bounds: Vec<ShardNews>) {
        let heard = if self.untold { Vec::new() } else { bounds };
        for news in heard {
            let command = SystemCommand::ShardNews(news);
            let request = WriteRequest { id: self.next_id(), op: Op::System(command.encode()) };
            if let Some(leader) = self.leader(SYSTEM_SHARD) {
                self.send(leader, SYSTEM_SHARD, Body::Write(request));
            }
        }
    }

    /// An id for the next child of a shard.
    pub fn reserve(&mut self, parent: ShardId) -> ShardId {
        let version = self.map().shards[&parent].version;
        match self.system(&SystemCommand::ReserveChild { parent, version }) {
            SystemOutcome::Shard(child) => child,
            other => panic!("{other:?}"),
        }
    }

    /// What is wanted where the leader's bounds and members are those that it has now.
    pub fn wanted(&mut self, shard: ShardId, child: ShardId, at: &[u8]) -> SplitWanted {
        self.run_until("a leader", |c| c.leader(shard).is_some());
        let leader = self.leader(shard).unwrap();
        let replica = self.replica(leader, shard).unwrap();
        SplitWanted { version: replica.version, epoch: replica.epoch, child, at: Bytes::copy_from_slice(at) }
    }

    /// Asks the leader for a split; where the answer goes.
    pub fn ask_split(&mut self, shard: ShardId, split: SplitWanted) -> Arc<Mutex<Option<Result<(), Refusal>>>> {
        self.run_until("a leader", |c| c.leader(shard).is_some());
        let leader = self.leader(shard).unwrap();
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let done = Box::new(move |result| *tell.lock().unwrap() = Some(result));
        self.push(leader, AdminInput::Split { shard, split, done });
        told
    }

    /// One attempt, as the leader answers it; a leader that dies without an answer makes it unknown.
    pub fn try_split(&mut self, shard: ShardId, split: SplitWanted) -> Result<(), Refusal> {
        let told = self.ask_split(shard, split);
        let end = self.now.plus(2_000_000);
        self.run_until("an answer, or the leader's end", |c| told.lock().unwrap().is_some() || c.now >= end);
        let result = told.lock().unwrap().take();
        result.unwrap_or(Err(Refusal::NotLeader { leader: None, maybe: true }))
    }

    /// Splits a shard, and waits until the map knows; the child.
    pub fn split(&mut self, shard: ShardId, at: &[u8]) -> ShardId {
        let child = self.reserve(shard);
        for _ in 0..200 {
            if self.map().shards.contains_key(&child) {
                return child;
            }
            let wanted = self.wanted(shard, child, at);
            match self.try_split(shard, wanted) {
                Ok(()) => self.run_until("the map knows", |c| c.map().shards.contains_key(&child)),
                Err(Refusal::NotReady | Refusal::NotLeader { .. } | Refusal::WrongShard) => self.run_for(50_000),
                // An earlier attempt counted.
                Err(Refusal::Invalid { field: "version" | "child" | "at", .. }) => self.run_for(50_000),
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("shard {shard} was not split in 200 attempts")
    }
}
