//! What a worker of the harness asks of its surroundings.
//!
//! Owns: what it sent, told and asked for. Must never: deliver anything; the cluster does.

use super::snapshots;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_cluster::system::{ShardNews, SystemState};
use synod_engine::host::{
    FetchRequest, Input, Links, MergeHost, MergeWord, ProcessHost, ReadHost, ScrubHost, ScrubInput, SnapshotHost,
    SnapshotKind, SnapshotRequest,
};
use synod_engine::scrub::{self, ScrubRequest};
use synod_engine::snapshot::Throttle;
use synod_engine::state::{BulkLoad, ViewJob};
use synod_paxos::message::Message;
use synod_paxos::types::Membership;

/// To whom, the sender's last durable write, and what.
pub(super) type Frame = (NodeId, NodeWriteSeq, Vec<(ShardId, Message)>);

/// What a worker's surroundings saw.
#[derive(Default)]
pub struct Seen {
    pub(super) queued: Vec<(NodeId, ShardId, Message)>,
    pub(super) frames: Vec<Frame>,
    pub maps: Vec<Arc<SystemState>>,
    pub leads: BTreeSet<ShardId>,
    pub drained: bool,
    pub quarantined: Option<String>,
    /// What its snapshots tell the worker.
    pub told: Vec<Input>,
    /// Snapshots offered to others.
    pub offers: Vec<(NodeId, ShardId)>,
    /// What others were told of this node's replicas.
    pub scrubs: Vec<(NodeId, ShardId, Slot, u128)>,
    /// Words about merges that others were given.
    pub words: Vec<(NodeId, ShardId, MergeWord)>,
    /// Snapshots asked of others, and from which slot on.
    pub asks: Vec<(NodeId, ShardId, Slot)>,
    /// Members to report to the system shard.
    pub(super) members: Vec<(ShardId, Membership)>,
    /// Bounds to report to the system shard.
    pub(super) bounds: Vec<ShardNews>,
    /// Whether it fetches rows.
    pub fetching: bool,
    /// Rows to be fetched.
    pub fetches: Vec<FetchRequest>,
}

pub struct TestHost {
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) random: u64,
    pub(super) snapshots: PathBuf,
}

impl Links for TestHost {
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message) {
        self.seen.lock().unwrap().queued.push((to, shard, message));
    }

    fn flush(&mut self, durable: NodeWriteSeq) {
        let mut seen = self.seen.lock().unwrap();
        let mut by_node: BTreeMap<NodeId, Vec<(ShardId, Message)>> = BTreeMap::new();
        for (to, shard, message) in seen.queued.drain(..) {
            by_node.entry(to).or_default().push((shard, message));
        }
        seen.frames.extend(by_node.into_iter().map(|(to, messages)| (to, durable, messages)));
    }
}

impl ProcessHost for TestHost {
    fn map_changed(&mut self, map: Arc<SystemState>) {
        self.seen.lock().unwrap().maps.push(map);
    }

    fn role_changed(&mut self, shard: ShardId, _leader: Option<NodeId>, here: bool) {
        let mut seen = self.seen.lock().unwrap();
        if here {
            seen.leads.insert(shard);
        } else {
            seen.leads.remove(&shard);
        }
    }

    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        self.seen.lock().unwrap().members.push((shard, membership));
    }

    fn bounds_changed(&mut self, news: ShardNews) {
        self.seen.lock().unwrap().bounds.push(news);
    }

    fn drained(&mut self) {
        self.seen.lock().unwrap().drained = true;
    }

    fn fatal(&mut self, why: String) -> ! {
        panic!("fatal: {why}")
    }

    fn quarantined(&mut self, why: &str) {
        self.seen.lock().unwrap().quarantined = Some(why.into());
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 16
    }
}

impl SnapshotHost for TestHost {
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        Some(snapshots::build(&self.snapshots, Arc::clone(&self.seen), request))
    }

    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        self.seen.lock().unwrap().offers.push((to, shard));
    }

    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        self.seen.lock().unwrap().asks.push((to, shard, least));
    }

    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        snapshots::load(&self.snapshots, &self.seen, shard, space, &*loader);
    }

    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        let _ = std::fs::remove_file(snapshots::path(&self.snapshots, shard, kind));
    }
}

impl ScrubHost for TestHost {
    fn build_scrub(&mut self, request: ScrubRequest) -> Option<ViewJob> {
        let seen = Arc::clone(&self.seen);
        let job: ViewJob = Box::new(move |view| {
            let result = scrub::scrub(&request, view, &mut Throttle::new(0));
            let (shard, slot) = (request.shard, request.slot);
            seen.lock().unwrap().told.push(ScrubInput::Scrubbed { shard, slot, result }.into());
        });
        Some(job)
    }

    fn tell_scrub(&mut self, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        self.seen.lock().unwrap().scrubs.push((to, shard, slot, hash));
    }
}

impl MergeHost for TestHost {
    fn tell_merge(&mut self, to: NodeId, target: ShardId, word: MergeWord) {
        self.seen.lock().unwrap().words.push((to, target, word));
    }
}

impl ReadHost for TestHost {
    fn fetches_rows(&self) -> bool {
        self.seen.lock().unwrap().fetching
    }

    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let fetching = seen.fetching;
        seen.fetches.extend(fetching.then_some(request));
        fetching
    }
}
