//! Keeps the node in step with the map.
//!
//! Owns: the tasks that take new maps, from the system shard's replica here or from other nodes. Must never: act on an
//! older map than the one in force.

use super::api::cluster;
use super::bounds;
use super::dial;
use super::host::Signals;
use super::map::{self, MapCache};
use super::peer::{HELLO_METADATA, Peers, address_change};
use super::system::SystemProposer;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, NodeId, SYSTEM_SHARD};
use synod_cluster::system::{ShardNews, SystemCommand, SystemOutcome, SystemState, TooNew};
use synod_engine::host::{Input, NodeInput};
use synod_engine::runner::WorkerHandle;
use synod_proto::parts::MapParts;
use synod_proto::v1;
use synod_proto::v1::synod_client::SynodClient;
use tokio::time::sleep;
use tonic::metadata::MetadataValue;

/// Pause after a source of maps failed.
const PAUSE: Duration = Duration::from_millis(200);

/// What is said of a node of another cluster, by itself or here.
const ANOTHER: &str = "another cluster";

/// Pause after the system shard did not take bounds, before it is told again.
const BOUNDS_AGAIN: Duration = Duration::from_secs(1);

/// Interval at which a node that follows its own replica of the system shard asks peers for newer maps.
const BEHIND: Duration = Duration::from_secs(1);

/// What the tasks need.
#[derive(Clone)]
pub struct Follower {
    /// The node's cluster.
    pub cluster: u128,
    /// This node.
    pub me: NodeId,
    /// The address others reach it by.
    pub advertised: String,
    /// Where a joiner finds the cluster before it has a map.
    pub join: Vec<String>,
    /// The engine.
    pub worker: WorkerHandle,
    /// The map.
    pub map_cache: Arc<MapCache>,
    /// The peers.
    pub peers: Arc<Peers>,
    /// The worker's signals.
    pub signals: Arc<Signals>,
    /// The way to the system shard.
    pub system: Arc<SystemProposer>,
}

impl Follower {
    /// Starts the tasks. `founding` is the state of a cluster that this node helps to found now.
    pub fn start(self, founding: Option<SystemState>) {
        if let Some(map) = self.map_cache.get() {
            self.peers.update(&map);
            // Without a replica of the system shard here no other word of it comes before the map changes next.
            self.tell(NodeInput::Map(map));
        }
        if let Some(state) = founding {
            self.peers.update(&state);
            self.tell(NodeInput::CreateSystemShard(Box::new(state)));
        }
        tokio::spawn(Arc::clone(&self.map_cache).keep_copy());
        tokio::spawn(self.clone().follow_here());
        tokio::spawn(self.clone().follow_others());
        tokio::spawn(self.clone().tell_members());
        tokio::spawn(self.clone().tell_bounds());
        tokio::spawn(self.clone().correct_address());
        tokio::spawn(self.leave_when_quarantined());
    }

    fn tell(&self, input: impl Into<Input>) {
        let (worker, input) = (self.worker.clone(), input.into());
        // The queue may be full for a moment, and this must not be lost.
        tokio::task::spawn_blocking(move || drop(worker.push(input)));
    }

    fn take(&self, map: &Arc<SystemState>) {
        let there = self.map_cache.removed().is_none();
        if !self.map_cache.offer(map) {
            return;
        }
        tracing::info!(revision = map.revision, nodes = map.nodes.len(), shards = map.shards.len(), "map");
        if there && let Some(why) = self.map_cache.removed() {
            tracing::warn!("{why}: stop this process; its data directory is of no use to another node");
        }
        self.peers.update(map);
        self.tell(NodeInput::Map(Arc::clone(map)));
    }

    /// A node that came back under another address says so, until the map has it.
    async fn correct_address(self) {
        let mut complaint = String::new();
        loop {
            // First the peers: a second process of this node is to hear from them that it is one.
            sleep(BEHIND).await;
            if self.signals.quarantined.borrow().is_some() {
                return;
            }
            let change = self.map_cache.get().and_then(|map| address_change(&map, self.me, &self.advertised));
            if let Some(command) = change {
                match self.system.execute(&command).await {
                    Ok(_) => tracing::info!(addr = self.advertised, "sent this node's new address to the map"),
                    Err(status) if complaint == status.message() => {}
                    Err(status) => {
                        tracing::warn!(%status, "the map does not have this node's new address yet");
                        status.message().clone_into(&mut complaint);
                    }
                }
            }
        }
    }

    /// Maps that the replica of the system shard here applied.
    async fn follow_here(self) {
        let mut maps = self.signals.maps.subscribe();
        loop {
            let map = maps.borrow_and_update().clone();
            if let Some(map) = map {
                self.take(&map);
            }
            if maps.changed().await.is_err() {
                return;
            }
        }
    }

    /// Without a replica of the system shard here, maps come from nodes that have one, or have it from one.
    async fn follow_others(self) {
        let mut turn = usize::try_from(self.me.0).unwrap_or(0);
        // After a delta that did not fit.
        let mut whole = false;
        loop {
            if self.has_system_replica() {
                sleep(BEHIND).await;
                // A replica that was taken out of the system shard's group does not learn that from the shard, and a node that
                // was taken out of the cluster hears from nobody.
                let led = self.map_cache.leader(SYSTEM_SHARD).is_some();
                if led && self.peers.newest_map_revision() <= self.map_cache.get().map_or(0, |map| map.revision) {
                    continue;
                }
            }
            let sources = self.sources();
            if let Some((node, addr)) = sources.get(turn % sources.len().max(1))
                && let Err(why) = self.watch(*node, addr, whole).await
            {
                whole = why.contains(map::UNFIT);
                tracing::debug!(%addr, why, "no maps from there");
                if why.contains(ANOTHER) {
                    self.peers.complain(&format!("no maps from {addr}: {why}"));
                }
            }
            turn += 1;
            sleep(PAUSE).await;
        }
    }

    fn has_system_replica(&self) -> bool {
        let map = self.map_cache.get();
        map.is_some_and(|m| m.shards.get(&SYSTEM_SHARD).is_some_and(|d| d.membership.role_of(self.me).is_some()))
    }

    /// Nodes to ask: the members of the system shard, or the addresses given to join by.
    fn sources(&self) -> Vec<(Option<NodeId>, String)> {
        let map = self.map_cache.get();
        let Some(system) = map.as_ref().and_then(|map| map.shards.get(&SYSTEM_SHARD)) else {
            return self.join.iter().map(|addr| (None, addr.clone())).collect();
        };
        let source = |n: NodeId| Some((Some(n), self.peers.address(n)?));
        system.membership.voters().filter(|n| *n != self.me).filter_map(source).collect()
    }

    /// Takes maps from a node until its stream ends. With `whole` the first is no delta.
    async fn watch(&self, node: Option<NodeId>, addr: &str, whole: bool) -> Result<(), String> {
        let endpoint = dial::endpoint(addr)?
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
        let mut base = self.map_cache.get();
        let (from_revision, known) = base.as_ref().map_or((0, 0), |m| (m.revision, m.shards.digest()));
        let digest = if whole { 0 } else { known };
        let mut request = tonic::Request::new(v1::WatchMapRequest { from_revision, deltas: true, digest });
        cluster::stamp(request.metadata_mut(), self.cluster);
        if let Some(node) = node {
            let hello = MetadataValue::from_bytes(&self.peers.credentials(node));
            request.metadata_mut().insert_bin(HELLO_METADATA, hello);
        }
        let mut client = SynodClient::new(channel).max_decoding_message_size(64 << 20);
        let mut maps = client.watch_map(request).await.map_err(|s| s.to_string())?.into_inner();
        let mut parts = MapParts::default();
        while let Some(map) = maps.message().await.map_err(|s| s.to_string())? {
            if map.cluster != self.cluster.to_be_bytes()[..] {
                let theirs: String = map.cluster.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                let ours = self.cluster;
                return Err(format!("it belongs to another cluster: to {theirs}, not to {ours:032x}"));
            }
            self.check_version(&map);
            let Some(map) = parts.take(map) else { continue };
            let map = match (map.since, &base) {
                (0, _) => map::from_wire(map)?,
                (_, Some(base)) => map::with_wire_delta(base, map)?,
                (since, None) => return Err(format!("it sent changes from revision {since}, no map is known here")),
            };
            let map = Arc::new(map);
            self.take(&map);
            base = Some(map);
        }
        Ok(())
    }

    /// A node that does not speak its cluster's version goes down: it could not follow.
    fn check_version(&self, map: &v1::ShardMap) {
        let version = ClusterVersion::said(map.cluster_version);
        if let Err(too_new) = TooNew::check_for(version, self.map_cache.speaks()) {
            self.signals.failed.send_replace(Some(too_new.to_string()));
        }
    }

    /// Tells the system shard of members that changed. Said again by the worker until the map knows.
    async fn tell_members(self) {
        let mut changed = self.signals.members.subscribe();
        while changed.changed().await.is_ok() {
            let news = changed.borrow_and_update().clone();
            for (shard, membership) in news {
                let map = self.map_cache.get();
                let known = map.and_then(|map| map.shards.get(&shard).map(|d| d.membership.epoch));
                if known.is_none_or(|known| known >= membership.epoch) {
                    continue;
                }
                let command = SystemCommand::SetMembers { shard, membership };
                if let Err(status) = self.system.execute(&command).await {
                    tracing::warn!(%shard, %status, "could not report the shard's members to the system shard");
                }
            }
        }
    }

    /// Tells the system shard of bounds that replicas here have applied, until this node's map has them.
    async fn tell_bounds(self) {
        let (mut applied, mut maps) = (self.signals.bounds.subscribe(), self.map_cache.watch());
        loop {
            let _ = *maps.borrow_and_update();
            if let Some(map) = self.map_cache.get() {
                self.signals.bounds.send_if_modified(|applied| bounds::prune(applied, &map));
            }
            let untold: Vec<ShardNews> = applied.borrow_and_update().values().cloned().collect();
            let mut refused = false;
            for news in untold {
                refused |= !self.tell_of(news).await;
            }
            if refused {
                sleep(BOUNDS_AGAIN).await;
                continue;
            }
            let open = tokio::select! {
                changed = applied.changed() => changed.is_ok(),
                changed = maps.changed() => changed.is_ok(),
            };
            if !open {
                return;
            }
        }
    }

    /// Whether the system shard has taken it.
    async fn tell_of(&self, news: ShardNews) -> bool {
        let (shard, version) = (news.shard, news.version);
        match self.system.execute(&SystemCommand::ShardNews(news)).await {
            Ok(SystemOutcome::Done) => true,
            Ok(other) => {
                tracing::warn!(%shard, version, ?other, "the system shard did not take the shard's bounds");
                false
            }
            Err(status) => {
                tracing::warn!(%shard, version, %status, "could not report the shard's bounds to the system shard");
                false
            }
        }
    }

    /// A quarantined node says that it leaves, so that nobody waits for it.
    async fn leave_when_quarantined(self) {
        let mut quarantined = self.signals.quarantined.subscribe();
        if quarantined.wait_for(Option::is_some).await.is_ok() {
            self.peers.leaving();
        }
    }
}
