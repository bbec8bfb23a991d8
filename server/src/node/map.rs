//! The shard map as this node knows it.
//!
//! Owns: the newest map, the leaders last heard of, and the map's copy in the data directory. Must never: go back to an
//! older revision.

use super::peer::{Local, Place, Spoken};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use synod_cluster::buf::COUNTER_MAX;
use synod_cluster::ids::{ClusterVersion, JobId, NodeId, ShardId, TableId};
use synod_cluster::planner::picture::Mark;
use synod_cluster::system::{
    Birth, Changed, Descriptor, MapDelta, MetadataError, NodeInfo, Partitioning, Reserved, Retention, Shards,
    SystemState, TableInfo, TooNew,
};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};
use synod_proto::v1;
use tokio::sync::watch;

const FILE: &str = "map.bin";

/// Maps that are kept for watchers that come back. Each shares with the next all that is the same.
const KEPT: usize = 64;

/// Shards whose leaders are looked up under one lock.
const LOCKED: usize = 256;

/// What is said of a delta that was made from another map than the one it is for.
pub const UNFIT: &str = "do not follow";

/// Minimum interval between two writes of the map's copy: it is as large as the map.
const COPY_EVERY: Duration = Duration::from_secs(1);

/// The newest map, for everybody on the node.
pub struct MapCache {
    map: ArcSwapOption<SystemState>,
    leaders: Mutex<BTreeMap<ShardId, NodeId>>,
    /// Who leads shards, as their leaders said when they were asked.
    heard: Mutex<BTreeMap<ShardId, NodeId>>,
    revision: watch::Sender<u64>,
    /// The newest maps, the newest last: a watcher that has one of them gets deltas from it on.
    kept: Mutex<VecDeque<Arc<SystemState>>>,
    file: PathBuf,
    /// This node.
    local: Local,
    spoken: Arc<Spoken>,
    /// A map that was known to this process had the node.
    belonged: AtomicBool,
}

impl MapCache {
    /// Begins with the copy in the data directory, where there is one of this cluster that can be read: a hint of where others
    /// are. `spoken` is what they say.
    ///
    /// # Errors
    /// The copy is of a cluster version that this node does not speak.
    pub fn open(data_dir: &Path, local: &Local, said: Arc<Spoken>) -> Result<Arc<Self>, String> {
        let file = data_dir.join(FILE);
        let map = match std::fs::read(&file).ok().map(|data| SystemState::decode(Bytes::from(data))) {
            None => None,
            Some(Ok(map)) => {
                let spoken = TooNew::check_for(map.version, local.speaks);
                spoken.map_err(|too_new| format!("{}: {too_new}", file.display()))?;
                let (ours, theirs) = (local.cluster, map.cluster);
                if ours != theirs {
                    tracing::warn!(file = %file.display(), "the map's copy is of another cluster: of {theirs:032x}, not of {ours:032x}");
                }
                (ours == theirs).then_some(map)
            }
            Some(Err(too_new @ MetadataError::TooNew(_))) => return Err(format!("{}: {too_new}", file.display())),
            // Not needed: the node learns the map from its own log or from others.
            Some(Err(MetadataError::Decode(error))) => {
                tracing::warn!(%error, file = %file.display(), "the map's copy is damaged");
                None
            }
        };
        let map = map.map(Arc::new);
        let revision = map.as_ref().map_or(0, |m| m.revision);
        let belonged = map.as_ref().is_some_and(|m| m.nodes.contains_key(&local.node));
        Ok(Arc::new(Self {
            kept: Mutex::new(map.iter().cloned().collect()),
            map: ArcSwapOption::new(map),
            leaders: Mutex::new(BTreeMap::new()),
            heard: Mutex::new(BTreeMap::new()),
            revision: watch::Sender::new(revision),
            file,
            local: *local,
            spoken: said,
            belonged: AtomicBool::new(belonged),
        }))
    }

    /// Says so where the node was taken out of the cluster since this process began.
    #[must_use]
    pub fn removed(&self) -> Option<String> {
        let (map, me) = (self.get()?, self.local.node);
        let gone = self.belonged.load(Ordering::Relaxed) && !map.nodes.contains_key(&me);
        gone.then(|| format!("node {me} was removed from the cluster"))
    }

    /// Why the newest map is without this node, where it is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let (map, me) = (self.get()?, self.local.node);
        let unknown = || {
            let why = "it joined just now, or was removed from the cluster";
            format!("the newest map that is known here is without node {me}: {why}")
        };
        (!map.nodes.contains_key(&me)).then(|| self.removed().unwrap_or_else(unknown))
    }

    /// The greatest cluster version that this node speaks.
    #[must_use]
    pub fn speaks(&self) -> ClusterVersion {
        self.local.speaks
    }

    /// The newest map, where any is known.
    #[must_use]
    pub fn get(&self) -> Option<Arc<SystemState>> {
        self.map.load_full()
    }

    /// The cluster's version, as far as this node knows.
    #[must_use]
    pub fn version(&self) -> ClusterVersion {
        self.get().map_or(ClusterVersion::FIRST, |map| map.version)
    }

    /// Takes a map; `false` where it is not newer, or of another cluster.
    pub fn offer(&self, map: &Arc<SystemState>) -> bool {
        if map.cluster != self.local.cluster {
            return false;
        }
        let newer = self.revision.send_if_modified(|revision| {
            if map.revision <= *revision && self.map.load().is_some() {
                return false;
            }
            self.map.store(Some(Arc::clone(map)));
            self.belonged.fetch_or(map.nodes.contains_key(&self.local.node), Ordering::Relaxed);
            *revision = map.revision;
            true
        });
        if newer {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(Arc::clone(map));
            let beyond = kept.len().saturating_sub(KEPT);
            kept.drain(..beyond);
        }
        newer
    }

    /// The map of this revision and digest, where it is still kept.
    #[must_use]
    pub fn as_of(&self, revision: u64, digest: u64) -> Option<Arc<SystemState>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|map| map.revision == revision && map.shards.digest() == digest).cloned()
    }

    /// Writes the newest map into the data directory, for as long as the node runs; the last of many changes after at most a second.
    /// A node that dies before begins with an older copy, and learns the rest as it learns everything that it missed while it was down.
    pub async fn keep_copy(self: Arc<Self>) {
        let mut changes = self.watch();
        while changes.changed().await.is_ok() {
            let cache = Arc::clone(&self);
            // It takes time in proportion to the map, and waits for the disk.
            let _ = tokio::task::spawn_blocking(move || cache.write_copy()).await;
            tokio::time::sleep(COPY_EVERY).await;
        }
    }

    fn write_copy(&self) {
        let Some(map) = self.get() else { return };
        let draft = self.file.with_extension("bin.new");
        let written = std::fs::write(&draft, map.encode()).and_then(|()| std::fs::rename(&draft, &self.file));
        if let Err(error) = written {
            // The copy only shortens the next start.
            tracing::warn!(%error, file = %self.file.display(), "the map's copy was not written");
        }
    }

    /// Follows the revision.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Notes who leads a shard.
    pub fn set_leader(&self, shard: ShardId, leader: Option<NodeId>) {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        match leader {
            Some(node) => leaders.insert(shard, node),
            None => leaders.remove(&shard),
        };
    }

    /// Who leads a shard, as its replica here last heard. A node that the map knows to be no member of it hears of no change.
    #[must_use]
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let known = self.leaders.lock().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()?;
        let map = self.get();
        let descriptor = map.as_ref().and_then(|map| map.shards.get(&shard));
        let hears = descriptor.is_none_or(|d| d.membership.role_of(self.local.node).is_some());
        hears.then_some(known)
    }

    /// Notes who said that it leads a shard, whether a replica is here or not.
    pub fn heard_leader(&self, shard: ShardId, leader: NodeId) {
        let map = self.get();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(shard, leader);
        // No more of them than there are shards.
        if let Some(map) = map.filter(|map| heard.len() > map.shards.len()) {
            heard.retain(|shard, _| map.shards.contains_key(shard));
        }
    }

    /// Who said last that it leads a shard: where to ask first, no more.
    #[must_use]
    pub fn heard(&self, shard: ShardId) -> Option<NodeId> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }

    /// The map as clients get it.
    #[must_use]
    pub fn to_wire(&self) -> Option<v1::ShardMap> {
        let map = self.get()?;
        Some(self.part_to_wire(&map, ShardId(0), usize::MAX))
    }

    /// A map's shards from `first` on, up to `count`. The part with the first shard has all else that is in the map.
    #[must_use]
    pub fn part_to_wire(&self, map: &SystemState, first: ShardId, count: usize) -> v1::ShardMap {
        let mut part = head_to_wire(map);
        part.shards = self.shards_to_wire(map.shards.starting_at(first).take(count));
        if first == ShardId(0) {
            part.nodes = map.nodes.iter().map(|(id, n)| self.node_to_wire(*id, n)).collect();
            part.tables = map.tables.iter().map(|(id, t)| table_to_wire(*id, t)).collect();
            part.reserved = map.reserved.iter().map(|(id, reserved)| reserved_to_wire(*id, *reserved)).collect();
        }
        part
    }

    /// What a watcher is told that has the older of two maps.
    #[must_use]
    pub fn delta_to_wire(&self, older: &SystemState, newer: &SystemState) -> v1::ShardMap {
        let MapDelta { from, nodes, tables, shards, reserved, .. } = newer.delta_since(older);
        let mut wire = v1::ShardMap { since: from, ..head_to_wire(newer) };
        wire.shards = self.shards_to_wire(shards.iter().filter_map(|(_, now)| now.as_deref()));
        wire.gone_shards = shards.iter().filter(|(_, now)| now.is_none()).map(|(id, _)| id.0).collect();
        for (id, now) in nodes {
            match now {
                Some(node) => wire.nodes.push(self.node_to_wire(id, &node)),
                None => wire.gone_nodes.push(id.0),
            }
        }
        for (id, now) in tables {
            match now {
                Some(table) => wire.tables.push(table_to_wire(id, &table)),
                None => wire.gone_tables.push(id.0),
            }
        }
        for (id, now) in reserved {
            match now {
                Some(reserved) => wire.reserved.push(reserved_to_wire(id, reserved)),
                None => wire.gone_reserved.push(id.0),
            }
        }
        wire
    }

    fn shards_to_wire<'a>(&self, shards: impl Iterator<Item = &'a Descriptor>) -> Vec<v1::Shard> {
        let (mut wire, mut shards) = (Vec::new(), shards.peekable());
        while shards.peek().is_some() {
            // Workers note leaders under this lock: it is held for some shards at a time.
            let leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
            wire.extend(shards.by_ref().take(LOCKED).map(|d| {
                // Otherwise it is what a replica heard that is here no more.
                let member = d.membership.role_of(self.local.node).is_some();
                shard_to_wire(d, leaders.get(&d.shard).copied().filter(|_| member))
            }));
        }
        wire
    }

    fn node_to_wire(&self, id: NodeId, node: &NodeInfo) -> v1::Node {
        let speaks = self.spoken.get(id).map_or(0, |said| said.speaks.0);
        let Place { zone, rack } = self.spoken.place(id);
        v1::Node { id: id.0, addr: node.addr.clone(), speaks, mark: mark_to_wire(node.mark).into(), zone, rack }
    }
}

/// What each message of a map has.
fn head_to_wire(map: &SystemState) -> v1::ShardMap {
    v1::ShardMap {
        cluster: Bytes::copy_from_slice(&map.cluster.to_be_bytes()),
        revision: map.revision,
        next_shard: map.next_shard,
        cluster_version: map.version.0,
        digest: map.shards.digest(),
        ..v1::ShardMap::default()
    }
}

fn mark_to_wire(mark: Mark) -> v1::NodeMark {
    match mark {
        Mark::Stays => v1::NodeMark::Stays,
        Mark::Draining => v1::NodeMark::Draining,
        Mark::Decommissioning => v1::NodeMark::Decommissioning,
    }
}

fn node_from_wire(node: v1::Node) -> (NodeId, NodeInfo) {
    let mark = match node.mark() {
        v1::NodeMark::Stays => Mark::Stays,
        v1::NodeMark::Draining => Mark::Draining,
        v1::NodeMark::Decommissioning => Mark::Decommissioning,
    };
    (NodeId(node.id), NodeInfo { addr: node.addr, nonce: 0, mark })
}

/// A table as clients see it.
#[must_use]
pub fn table_to_wire(id: TableId, table: &TableInfo) -> v1::Table {
    let partitioning = match table.partitioning {
        Partitioning::Range => v1::Partitioning::Range,
        Partitioning::Hash => v1::Partitioning::Hash,
    };
    let retention = match table.retention {
        Retention::Latest => v1::retention::Kind::Latest(true),
        Retention::All => v1::retention::Kind::All(true),
    };
    v1::Table {
        id: id.0,
        name: table.name.clone(),
        partitioning: partitioning.into(),
        retention: Some(v1::Retention { kind: Some(retention) }),
        replicas: table.replicas,
    }
}

fn reserved_to_wire(id: ShardId, Reserved { parent, version }: Reserved) -> v1::ReservedShard {
    v1::ReservedShard { id: id.0, parent: parent.0, version }
}

fn shard_to_wire(d: &Descriptor, leader: Option<NodeId>) -> v1::Shard {
    let (born_of, born_version) = match d.born {
        Birth::Founded => (0, 0),
        Birth::Child { parent, version } => (parent.0, version),
    };
    v1::Shard {
        id: d.shard.0,
        table_id: d.table.0,
        from: d.from.clone(),
        to: d.to.clone(),
        version: d.version,
        epoch: d.membership.epoch.0,
        voters: d.membership.voters().map(|n| n.0).collect(),
        learners: learners(&d.membership).map(|n| n.0).collect(),
        leader_hint: leader.unwrap_or(d.membership.first_leader).0,
        first_leader: d.membership.first_leader.0,
        born_of,
        born_version,
    }
}

fn learners(membership: &Membership) -> impl Iterator<Item = NodeId> + '_ {
    membership.members.iter().filter(|m| m.role == MemberRole::Learner).map(|m| m.node)
}

/// A map that another node sent. The node and table ids to be given next are not in it, nor jobs: only the system shard's own
/// replicas give any.
///
/// # Errors
/// A part that cannot be.
pub fn from_wire(map: v1::ShardMap) -> Result<SystemState, String> {
    let version = check_head(&map)?;
    let cluster = <[u8; 16]>::try_from(&map.cluster[..]).map_err(|_| "a cluster's name has 16 bytes")?;
    let nodes = map.nodes.into_iter().map(node_from_wire).collect();
    let tables = map.tables.into_iter().map(table_from_wire).collect::<Result<BTreeMap<_, _>, String>>()?;
    let shards = map.shards.into_iter().map(|shard| shard_from_wire(shard, |id| tables.get(&id)));
    let shards = shards.map(|descriptor| descriptor.map(|d| (d.shard, d))).collect::<Result<Shards, String>>()?;
    let reserved = map.reserved.into_iter().map(reserved_from_wire).collect();
    let cluster = u128::from_be_bytes(cluster);
    let state = SystemState {
        cluster,
        version,
        revision: map.revision,
        nodes,
        tables,
        shards,
        next_node: 0,
        next_table: 0,
        next_shard: map.next_shard,
        jobs: BTreeMap::new(),
        last_job: JobId(0),
        reserved,
    };
    if state.reservations_are_sound() {
        Ok(state)
    } else {
        Err("an id is reserved that was not given yet, or is in use".into())
    }
}

/// A map after a delta that another node sent; it was made from `base`.
///
/// # Errors
/// A part that cannot be, or the delta was made from another map.
pub fn with_wire_delta(base: &SystemState, delta: v1::ShardMap) -> Result<SystemState, String> {
    let version = check_head(&delta)?;
    let tables: BTreeMap<_, _> = delta.tables.into_iter().map(table_from_wire).collect::<Result<_, String>>()?;
    let table = |id: TableId| tables.get(&id).or_else(|| base.tables.get(&id));
    let shards = delta.shards.into_iter().map(|shard| shard_from_wire(shard, table));
    let shards = shards.map(|shard| shard.map(|d| (d.shard, Arc::new(d)))).collect::<Result<Vec<_>, String>>()?;
    let (from, to) = (delta.since, delta.revision);
    let changes = MapDelta {
        from,
        to,
        version,
        next_shard: delta.next_shard,
        nodes: changed(delta.nodes.into_iter().map(node_from_wire), delta.gone_nodes.into_iter().map(NodeId)),
        shards: changed(shards, delta.gone_shards.into_iter().map(ShardId)),
        reserved: changed(
            delta.reserved.into_iter().map(reserved_from_wire),
            delta.gone_reserved.into_iter().map(ShardId),
        ),
        tables: changed(tables, delta.gone_tables.into_iter().map(TableId)),
    };
    let next = base.with_delta(changes);
    next.ok_or_else(|| format!("the changes from revision {from} to {to} {UNFIT} revision {}", base.revision))
}

fn changed<K, V>(put: impl IntoIterator<Item = (K, V)>, gone: impl Iterator<Item = K>) -> Changed<K, V> {
    put.into_iter().map(|(key, value)| (key, Some(value))).chain(gone.map(|key| (key, None))).collect()
}

/// Refuses counters that no cluster comes to, and a cluster version that is not known here.
fn check_head(map: &v1::ShardMap) -> Result<ClusterVersion, String> {
    let version = TooNew::check(ClusterVersion::said(map.cluster_version)).map_err(|e| e.to_string())?;
    let reserved = map.reserved.iter().map(|reserved| reserved.version);
    let counters = map.shards.iter().flat_map(|shard| [shard.version, shard.epoch, shard.born_version]).chain(reserved);
    match counters.chain([map.revision, map.next_shard]).find(|counter| *counter > COUNTER_MAX) {
        Some(beyond) => Err(format!("no cluster comes to a revision, shard, version or epoch {beyond}")),
        None => Ok(version),
    }
}

fn table_from_wire(table: v1::Table) -> Result<(TableId, TableInfo), String> {
    let partitioning = match table.partitioning() {
        v1::Partitioning::Hash => Partitioning::Hash,
        v1::Partitioning::Range => Partitioning::Range,
        v1::Partitioning::Unspecified => return Err(format!("table {:?} has no known partitioning", table.name)),
    };
    let retention = match table.retention.and_then(|r| r.kind) {
        Some(v1::retention::Kind::Latest(_)) => Retention::Latest,
        Some(v1::retention::Kind::All(_)) => Retention::All,
        None => return Err(format!("table {:?} has no known retention", table.name)),
    };
    let info = TableInfo { name: table.name, partitioning, retention, replicas: table.replicas };
    Ok((TableId(table.id), info))
}

fn reserved_from_wire(v1::ReservedShard { id, parent, version }: v1::ReservedShard) -> (ShardId, Reserved) {
    (ShardId(id), Reserved { parent: ShardId(parent), version })
}

fn shard_from_wire<'a>(
    shard: v1::Shard,
    table: impl Fn(TableId) -> Option<&'a TableInfo>,
) -> Result<Descriptor, String> {
    let id = TableId(shard.table_id);
    let (partitioning, retention) = match table(id) {
        Some(table) => (table.partitioning, table.retention),
        None if id == TableId(0) => (Partitioning::Range, Retention::Latest),
        None => return Err(format!("shard {} belongs to no table of the map", shard.id)),
    };
    let member = |role| move |node| Member { node: NodeId(node), role };
    let voters = shard.voters.into_iter().map(member(MemberRole::Voter));
    let mut members: Vec<Member> = voters.chain(shard.learners.into_iter().map(member(MemberRole::Learner))).collect();
    members.sort_unstable();
    let first_leader = NodeId(shard.first_leader);
    let membership = Membership { epoch: Epoch(shard.epoch), members, first_leader };
    if !membership.is_sound() {
        return Err(format!("shard {} has members that no group has", shard.id));
    }
    let born = match shard.born_of {
        0 => Birth::Founded,
        parent => Birth::Child { parent: ShardId(parent), version: shard.born_version },
    };
    let (shard, from, to, version) = (ShardId(shard.id), shard.from, shard.to, shard.version);
    Ok(Descriptor { shard, table: id, partitioning, retention, from, to, version, membership, born })
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::{Incarnation, Nonce};
    use synod_cluster::system::SystemCommand;

    /// A table of two shards, of which the second was split off the first, and a third that is to be.
    fn state() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            shards: 0,
            splits: vec![Bytes::from_static(b"m")],
            replicas: 1,
        });
        let born = Birth::Child { parent: ShardId(2), version: 4 };
        state.shards.change(&ShardId(3), |second| second.born = born).expect("the table has two shards");
        state.reserved = BTreeMap::from([(ShardId(4), Reserved { parent: ShardId(3), version: 5 })]);
        state.next_shard = 5;
        state
    }

    fn wire(state: &SystemState) -> v1::ShardMap {
        v1::ShardMap {
            cluster: Bytes::copy_from_slice(&state.cluster.to_be_bytes()),
            revision: state.revision,
            tables: state.tables.iter().map(|(id, table)| table_to_wire(*id, table)).collect(),
            shards: state.shards.values().map(|d| shard_to_wire(d, None)).collect(),
            next_shard: state.next_shard,
            reserved: state.reserved.iter().map(|(id, reserved)| reserved_to_wire(*id, *reserved)).collect(),
            ..v1::ShardMap::default()
        }
    }

    #[test]
    fn reservations_and_births_arrive_and_are_kept_and_silence_is_as_ever() {
        let state = state();
        let map = from_wire(wire(&state)).expect("it is a map");
        assert_eq!((&map.shards, &map.reserved), (&state.shards, &state.reserved));
        assert!(!map.vanished(ShardId(4)), "a node that takes this map would delete the child");
        assert_eq!(SystemState::decode(map.encode()), Ok(map), "as the file has it");
        let mut silent = wire(&state);
        silent.reserved.clear();
        silent.shards.iter_mut().for_each(|shard| (shard.born_of, shard.born_version) = (0, 0));
        let map = from_wire(silent).expect("it is a map");
        assert!(map.shards.values().all(|d| d.born == Birth::Founded) && map.vanished(ShardId(4)));
    }

    /// A node that had a replica of shard 2 and does not have it any longer.
    #[test]
    fn who_led_when_a_replica_went_is_not_who_leads() {
        let dir = tempfile::tempdir().expect("a directory");
        let (node, speaks) = (NodeId(1), ClusterVersion::SPOKEN);
        let local = Local { cluster: 7, node, incarnation: Incarnation(1), nonce: Nonce(0), speaks };
        let cache = MapCache::open(dir.path(), &local, Arc::default()).expect("there is none yet");
        let mut map = state();
        assert!(cache.offer(&Arc::new(map.clone())));
        let hint = |shard: ShardId| {
            let wire = cache.to_wire().expect("there is a map");
            wire.shards.into_iter().find(|info| info.id == shard.0).expect("it is in the map").leader_hint
        };
        for shard in [ShardId(2), ShardId(3)] {
            cache.set_leader(shard, Some(NodeId(5)));
            assert_eq!((cache.leader(shard), hint(shard)), (Some(NodeId(5)), 5));
        }
        let elsewhere = |descriptor: &mut Descriptor| {
            descriptor.membership.members = vec![Member { node: NodeId(4), role: MemberRole::Voter }];
            descriptor.membership.first_leader = NodeId(4);
        };
        map.shards.change(&ShardId(2), elsewhere).expect("it is in the map");
        map.revision += 1;
        assert!(cache.offer(&Arc::new(map)));
        assert_eq!((cache.leader(ShardId(2)), hint(ShardId(2))), (None, 4));
        assert_eq!((cache.leader(ShardId(3)), hint(ShardId(3))), (Some(NodeId(5)), 5), "its replica is here");
        // What a leader said of itself is a hint for calls from here.
        cache.heard_leader(ShardId(2), NodeId(4));
        assert_eq!((cache.heard(ShardId(2)), cache.leader(ShardId(2))), (Some(NodeId(4)), None));
    }

    #[test]
    fn a_delta_over_the_wire_makes_the_map_that_a_whole_one_makes_and_is_small() {
        let dir = tempfile::tempdir().expect("a directory");
        let (node, speaks) = (NodeId(1), ClusterVersion::SPOKEN);
        let local = Local { cluster: 7, node, incarnation: Incarnation(1), nonce: Nonce(0), speaks };
        let cache = MapCache::open(dir.path(), &local, Arc::default()).expect("there is none yet");
        let whole = |state: &SystemState| from_wire(cache.part_to_wire(state, ShardId(0), usize::MAX)).expect("a map");
        let (older, mut newer) = (state(), state());
        newer.shards.change(&ShardId(2), |d| d.membership.epoch = Epoch(9)).expect("it is there");
        newer.revision += 3;
        let one = cache.delta_to_wire(&older, &newer);
        assert_eq!((one.shards.len(), one.nodes.len(), one.since), (1, 0, older.revision));
        assert!(prost::Message::encoded_len(&one) <= 1024);
        newer.shards.remove(&ShardId(3));
        newer.reserved.clear();
        newer
            .nodes
            .insert(NodeId(2), node_from_wire(v1::Node { id: 2, addr: "b:1".to_owned(), ..v1::Node::default() }).1);
        let delta = cache.delta_to_wire(&older, &newer);
        assert_eq!(with_wire_delta(&whole(&older), delta.clone()), Ok(whole(&newer)));
        assert!(with_wire_delta(&whole(&newer), delta.clone()).is_err(), "it is of another revision");
        let unsound = v1::ShardMap {
            gone_reserved: vec![],
            reserved: vec![v1::ReservedShard { id: 2, parent: 3, version: 1 }],
            ..delta
        };
        assert!(with_wire_delta(&whole(&older), unsound).is_err(), "an id in use is not reserved");
    }

    #[test]
    fn a_map_that_is_kept_is_found_by_revision_and_digest() {
        let dir = tempfile::tempdir().expect("a directory");
        let (node, speaks) = (NodeId(1), ClusterVersion::SPOKEN);
        let local = Local { cluster: 7, node, incarnation: Incarnation(1), nonce: Nonce(0), speaks };
        let cache = MapCache::open(dir.path(), &local, Arc::default()).expect("there is none yet");
        let mut map = state();
        let (first, digest) = (map.revision, map.shards.digest());
        for _ in 0..=KEPT {
            assert!(cache.offer(&Arc::new(map.clone())));
            map.revision += 1;
        }
        assert!(cache.as_of(first, digest).is_none(), "too many are newer");
        assert!(cache.as_of(first + 1, digest).is_some_and(|kept| kept.revision == first + 1));
        assert!(cache.as_of(first + 1, digest ^ 1).is_none(), "of a cluster that was set back");
    }

    #[test]
    fn marks_of_nodes_arrive_and_silence_is_none() {
        for mark in [Mark::Stays, Mark::Draining, Mark::Decommissioning] {
            let mut wire = wire(&state());
            let addr = "a:1".to_owned();
            wire.nodes = vec![v1::Node { id: 1, addr, mark: mark_to_wire(mark).into(), ..v1::Node::default() }];
            let map = from_wire(wire).expect("it is a map");
            assert_eq!(map.nodes[&NodeId(1)].mark, mark);
            assert_eq!(SystemState::decode(map.encode()), Ok(map), "as the file has it");
        }
        let silent = v1::Node { id: 1, addr: "a:1".to_owned(), ..v1::Node::default() };
        assert_eq!(node_from_wire(silent).1.mark, Mark::Stays);
    }

    #[test]
    fn an_id_that_is_in_use_or_was_not_given_is_not_taken_for_reserved() {
        for id in [3, 5] {
            let mut wire = wire(&state());
            wire.reserved[0].id = id;
            assert!(from_wire(wire).is_err_and(|why| why.contains("reserved")), "id {id}");
        }
    }
}
