//! What the engine's worker asks of this process.
//!
//! Owns: the worker's end of the node. Must never: block the worker.

use super::bounds::{self, Applied};
use super::map::MapCache;
use super::peer::Outbox;
use super::readers::Readers;
use super::snapshots::SnapshotManager;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_cluster::system::{ShardNews, SystemState};
use synod_engine::host::{
    FetchRequest, Links, MergeHost, MergeWord, ProcessHost, ReadHost, ScrubHost, SnapshotHost, SnapshotKind,
    SnapshotRequest,
};
use synod_engine::scrub::ScrubRequest;
use synod_engine::state::{BulkLoad, ViewJob};
use synod_paxos::message::Message;
use synod_paxos::types::Membership;
use tokio::sync::{Notify, watch};

/// Signals from the worker to the node's tasks.
pub struct Signals {
    /// Maps applied by the system shard's replica here; only the newest counts.
    pub maps: watch::Sender<Option<Arc<SystemState>>>,
    /// Every leadership was handed over.
    pub drained: Notify,
    /// Why the node takes no part.
    pub quarantined: watch::Sender<Option<String>>,
    /// Members of groups led here that the map does not know yet.
    pub members: watch::Sender<BTreeMap<ShardId, Membership>>,
    /// Bounds that replicas here have applied and the map does not know yet, the newest of each shard.
    pub bounds: watch::Sender<Applied>,
    /// Why the node must go down, other than by order.
    pub failed: watch::Sender<Option<String>>,
    /// The system shard has a leader that this node knows.
    pub system_led: AtomicBool,
}

/// The engine's host.
pub struct NodeHost {
    outbox: Outbox,
    map_cache: Arc<MapCache>,
    signals: Arc<Signals>,
    snapshots: Arc<SnapshotManager>,
    readers: Readers,
}

impl NodeHost {
    /// A host that sends through `outbox`.
    #[must_use]
    pub fn new(
        outbox: Outbox,
        map_cache: Arc<MapCache>,
        signals: Arc<Signals>,
        snapshots: Arc<SnapshotManager>,
        readers: Readers,
    ) -> Self {
        Self { outbox, map_cache, signals, snapshots, readers }
    }
}

impl Links for NodeHost {
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message) {
        self.outbox.send(to, shard, &message);
    }

    fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        self.outbox.dropped()
    }

    fn flush(&mut self, durable: NodeWriteSeq) {
        self.outbox.flush(durable);
    }
}

impl ProcessHost for NodeHost {
    fn map_changed(&mut self, map: Arc<SystemState>) {
        self.signals.maps.send_replace(Some(map));
    }

    fn role_changed(&mut self, shard: ShardId, leader: Option<NodeId>, here: bool) {
        tracing::info!(%shard, leader = leader.map(|n| n.0), here, "leader");
        self.map_cache.set_leader(shard, leader);
        if shard == synod_cluster::ids::SYSTEM_SHARD {
            self.signals.system_led.store(leader.is_some(), Ordering::Release);
        }
    }

    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        // Said again until the map knows, so that whoever tells the system shard tries again.
        self.signals.members.send_modify(|news| drop(news.insert(shard, membership)));
    }

    fn bounds_changed(&mut self, news: ShardNews) {
        // Said again until the map knows, so that whoever tells the system shard looks again.
        self.signals.bounds.send_modify(|applied| bounds::note(applied, news));
    }

    fn drained(&mut self) {
        self.signals.drained.notify_one();
    }

    fn fatal(&mut self, why: String) -> ! {
        // Nothing may happen after a failed write: no unwinding, no flush, no farewell.
        tracing::error!("{why}; the process ends");
        eprintln!("synod: {why}; the process ends");
        std::process::abort();
    }

    fn quarantined(&mut self, why: &str) {
        tracing::error!("quarantined: {why}");
        eprintln!("synod: quarantined: {why}");
        self.signals.quarantined.send_replace(Some(why.to_owned()));
    }

    fn random(&mut self) -> u64 {
        rand::random()
    }
}

impl SnapshotHost for NodeHost {
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        Some(self.snapshots.build(request))
    }

    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        self.snapshots.offer(to, shard);
    }

    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        self.snapshots.ask(to, shard, least);
    }

    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        self.snapshots.load(shard, space, loader);
    }

    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        self.snapshots.forget(shard, kind);
    }
}

impl ScrubHost for NodeHost {
    fn build_scrub(&mut self, request: ScrubRequest) -> Option<ViewJob> {
        Some(self.snapshots.scrub(request))
    }

    fn tell_scrub(&mut self, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        self.snapshots.tell_scrub(to, shard, slot, hash);
    }
}

impl MergeHost for NodeHost {
    fn tell_merge(&mut self, to: NodeId, target: ShardId, word: MergeWord) {
        self.snapshots.tell_merge(to, target, word);
    }
}

impl ReadHost for NodeHost {
    fn fetches_rows(&self) -> bool {
        self.readers.have_room()
    }

    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        self.readers.take(request)
    }
}
