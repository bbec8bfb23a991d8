//! Where a key lives: positions, bounds, and the routing view of a shard map.
//!
//! Owns: the arithmetic of positions, the lookup of a position's shard, and the cached leader of each shard. Must never:
//! talk to a node or wait; it is read on every call. Nor let a map or a hint take a position from a shard of a greater version.
//!
//! A position is the key on range tables, and the 8-byte big-endian XXH3-64 (seed 0) of the key, then the key, on hash
//! tables. Bounds are `[from, to)`; an empty `to` means no bound.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use synod_cluster::ids::{Epoch, NodeId, ShardId};
use synod_cluster::overlay::{News, Overlay, Route};
use synod_cluster::position::{after, below, key_hash, prefix_end};
use synod_cluster::system::Partitioning;
use synod_proto::v1;

use crate::error::{Error, Result};
use crate::types::{ClusterMap, Keys, NodeInfo, NodeMark, PartitionKind, Retention, ShardInfo, TableInfo};

/// The place of a key in its table's order.
pub(crate) fn position(kind: PartitionKind, key: &[u8]) -> Bytes {
    match Partitioning::from(kind).position(key) {
        Cow::Borrowed(position) => Bytes::copy_from_slice(position),
        Cow::Owned(position) => position.into(),
    }
}

/// A set of keys as bounds on keys and on positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) key_from: Bytes,
    pub(crate) key_to: Bytes,
    pub(crate) pos_from: Bytes,
    pub(crate) pos_to: Bytes,
}

impl Span {
    pub(crate) fn of(kind: PartitionKind, keys: &Keys) -> Result<Span> {
        let (key_from, key_to) = match keys {
            Keys::All => (Bytes::new(), Bytes::new()),
            Keys::Key(key) => {
                crate::limits::check_key(key)?;
                (key.clone(), after(key))
            }
            Keys::Prefix(prefix) => (prefix.clone(), prefix_end(prefix)),
            Keys::Range { from, to } if !to.is_empty() && to < from => {
                return Err(Error::invalid("range", format!("it ends ({to:?}) before it begins ({from:?})")));
            }
            Keys::Range { from, to } => (from.clone(), to.clone()),
        };
        let (pos_from, pos_to) = match (kind, keys) {
            (PartitionKind::Range, _) => (key_from.clone(), key_to.clone()),
            (PartitionKind::Hash, Keys::Key(key)) => {
                let pos = position(kind, key);
                let end = after(&pos);
                (pos, end)
            }
            (PartitionKind::Hash, _) => (Bytes::new(), Bytes::new()),
        };
        Ok(Span { key_from, key_to, pos_from, pos_to })
    }

    /// Whether no key can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        !self.key_to.is_empty() && self.key_from >= self.key_to
    }
}

/// What a call is about, for finding its shard.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Key(&'a [u8]),
    /// The shard that holds this position.
    At(&'a [u8]),
    /// The shard that holds the positions just below this one; empty means the end.
    Below(&'a [u8]),
}

/// Positions that one shard owns as far as is known, with its cached leader.
#[derive(Debug)]
pub(crate) struct ShardRoute {
    /// The shard. Its bounds are those of the route: they may be narrower than what the shard last said of itself, where a shard of a
    /// greater version lies within.
    pub(crate) info: ShardInfo,
    /// 0 where unknown. All routes to the shard share it.
    leader: Arc<AtomicU64>,
}

impl ShardRoute {
    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    pub(crate) fn set_leader(&self, node: u64) {
        self.leader.store(node, Ordering::Relaxed);
    }

    /// Forgets the leader if it is still `node`.
    pub(crate) fn clear_leader(&self, node: u64) {
        let _ = self.leader.compare_exchange(node, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether requests by it are the same as by the other: to one shard with the same bounds and members.
    pub(crate) fn is_same(&self, other: &ShardRoute) -> bool {
        let what = |route: &ShardRoute| (route.info.id, route.info.version, route.info.epoch);
        what(self) == what(other)
    }

    fn holds(&self, pos: &[u8]) -> bool {
        self.info.from.as_ref() <= pos && below(pos, &self.info.to)
    }
}

/// A table with its routes in the order of their bounds.
#[derive(Debug)]
pub(crate) struct TableRoute {
    pub(crate) info: TableInfo,
    pub(crate) shards: Vec<Arc<ShardRoute>>,
    /// What the routes are made from: maps, and what nodes said of their shards.
    overlay: Overlay,
}

impl TableRoute {
    /// The routes of an overlay; what `previous` learnt of leaders is kept unless there is another hint than there was.
    fn new(info: TableInfo, overlay: Overlay, previous: Option<&TableRoute>) -> TableRoute {
        let known: HashMap<u64, &Arc<ShardRoute>> =
            previous.iter().flat_map(|table| &table.shards).map(|route| (route.info.id, route)).collect();
        let mut leaders: HashMap<u64, Arc<AtomicU64>> = HashMap::new();
        let mut shards = Vec::new();
        for route in overlay.routes() {
            let info = shard_of_route(info.id, &route);
            let known = known.get(&info.id).copied();
            let leader =
                leaders.entry(info.id).or_insert_with(|| Arc::new(AtomicU64::new(leader(&info, known)))).clone();
            shards.push(Arc::new(ShardRoute { info, leader }));
        }
        TableRoute { info, shards, overlay }
    }

    /// The same with what nodes said of shards; `None` where all of that was known.
    fn with_hints(&self, hints: &[News]) -> Option<TableRoute> {
        if !hints.iter().any(|hint| self.overlay.is_news(hint)) {
            return None;
        }
        let mut overlay = self.overlay.clone();
        for hint in hints {
            overlay.hint(hint.clone());
        }
        Some(TableRoute::new(self.info.clone(), overlay, Some(self)))
    }

    pub(crate) fn locate(&self, place: Place<'_>) -> Option<&Arc<ShardRoute>> {
        match place {
            Place::Key(key) if self.info.partitioning == PartitionKind::Hash => self.at(&key_hash(key).to_be_bytes()),
            Place::Key(pos) | Place::At(pos) => self.at(pos),
            Place::Below(pos) => {
                let end = match pos {
                    [] => self.shards.len(),
                    _ => self.shards.partition_point(|s| s.info.from.as_ref() < pos),
                };
                let shard = self.shards.get(end.checked_sub(1)?)?;
                let reaches = shard.info.to.is_empty() || (!pos.is_empty() && shard.info.to.as_ref() >= pos);
                reaches.then_some(shard)
            }
        }
    }

    fn at(&self, pos: &[u8]) -> Option<&Arc<ShardRoute>> {
        let next = self.shards.partition_point(|s| s.info.from.as_ref() <= pos);
        self.shards.get(next.checked_sub(1)?).filter(|s| s.holds(pos))
    }
}

/// A shard map made ready for routing.
#[derive(Debug)]
pub(crate) struct MapView {
    pub(crate) public: Arc<ClusterMap>,
    tables: HashMap<String, Arc<TableRoute>>,
    nodes: HashMap<u64, String>,
    /// Names the map's contents for the nodes; 0 where the node that gave it names none.
    pub(crate) digest: u64,
}

impl MapView {
    /// `node` was silent for too long: it is not believed to lead anything, until a voter says that it does.
    pub(crate) fn forget_leader(&self, node: u64) {
        self.tables.values().flat_map(|table| &table.shards).for_each(|shard| shard.clear_leader(node));
    }

    /// Builds the view: the map laid over what `previous` knows. What is of a greater version there stays, whatever the map says.
    pub(crate) fn build(map: v1::ShardMap, previous: Option<&MapView>) -> MapView {
        let mut nodes: Vec<NodeInfo> = map.nodes.into_iter().map(node_info).collect();
        nodes.sort_by_key(|n| n.id);
        let mut shards: Vec<ShardInfo> = map.shards.into_iter().map(shard_info).collect();
        shards.sort_by(by_place);
        let mut tables: Vec<TableInfo> = map.tables.iter().filter_map(table_info).collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        // What was known of a cluster that has been set back since would outrank this map for ever.
        let previous = previous.filter(|previous| follows(&previous.public, &shards));
        let routes = routes(&mut tables, &shards, previous, |_| true);
        let addrs = nodes.iter().map(|n| (n.id, n.addr.clone())).collect();
        let (cluster, revision) = (map.cluster, map.revision);
        // A node that names no version is one of the first.
        let version = map.cluster_version.max(1);
        let public = ClusterMap { cluster, revision, version, nodes, tables, shards };
        MapView { public: Arc::new(public), tables: routes, nodes: addrs, digest: map.digest }
    }

    /// The view after a delta. Tables of which it names nothing keep their routes. `None` where the delta was made from another
    /// revision or cannot have come of this map: a whole one is to be asked for.
    pub(crate) fn with_delta(&self, delta: &v1::ShardMap) -> Option<MapView> {
        let before = &*self.public;
        if delta.since != before.revision || delta.revision <= delta.since {
            return None;
        }
        let mut touched: HashSet<u32> = delta.tables.iter().map(|table| table.id).collect();
        let shards = shards_after(before, delta, &mut touched)?;
        let gone = |id: u32| delta.gone_tables.contains(&id) || delta.tables.iter().any(|table| table.id == id);
        let mut tables: Vec<TableInfo> = before.tables.iter().filter(|table| !gone(table.id)).cloned().collect();
        tables.extend(delta.tables.iter().filter_map(table_info));
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let gone = |id: u64| delta.gone_nodes.contains(&id) || delta.nodes.iter().any(|node| node.id == id);
        let mut nodes: Vec<NodeInfo> = before.nodes.iter().filter(|node| !gone(node.id)).cloned().collect();
        nodes.extend(delta.nodes.iter().cloned().map(node_info));
        nodes.sort_by_key(|n| n.id);
        let routes = routes(&mut tables, &shards, Some(self), |table| touched.contains(&table));
        let addrs = nodes.iter().map(|n| (n.id, n.addr.clone())).collect();
        let (cluster, revision, version) = (before.cluster.clone(), delta.revision, delta.cluster_version.max(1));
        let public = ClusterMap { cluster, revision, version, nodes, tables, shards };
        Some(MapView { public: Arc::new(public), tables: routes, nodes: addrs, digest: delta.digest })
    }

    /// The same with what a node said of shards of a table; `None` where nothing of it was news. What names shards of another table
    /// than the one of that name, or shards without voters, is passed over.
    pub(crate) fn with_hints(&self, name: &str, said: &[v1::Shard]) -> Option<MapView> {
        let table = self.table(name)?;
        let usable = |shard: &&v1::Shard| shard.table_id == table.info.id && !shard.voters.is_empty();
        let hints: Vec<News> =
            said.iter().filter(usable).map(|shard| news_of_map(&shard_info(shard.clone()))).collect();
        let table = table.with_hints(&hints)?;
        let mut tables = self.tables.clone();
        tables.insert(name.to_owned(), Arc::new(table));
        Some(MapView { public: self.public.clone(), tables, nodes: self.nodes.clone(), digest: self.digest })
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Arc<TableRoute>> {
        self.tables.get(name)
    }

    pub(crate) fn addr(&self, node: u64) -> Option<&str> {
        self.nodes.get(&node).map(String::as_str)
    }
}

fn by_place(a: &ShardInfo, b: &ShardInfo) -> std::cmp::Ordering {
    (a.table_id, &a.from).cmp(&(b.table_id, &b.from))
}

/// The routes of all tables: anew of those that are touched, and of those that `previous` does not know. Counts the shards of tables.
fn routes(
    tables: &mut [TableInfo],
    shards: &[ShardInfo],
    previous: Option<&MapView>,
    touched: impl Fn(u32) -> bool,
) -> HashMap<String, Arc<TableRoute>> {
    let before: HashMap<u32, &Arc<TableRoute>> =
        previous.iter().flat_map(|p| p.tables.values()).map(|table| (table.info.id, table)).collect();
    let mut routes = HashMap::new();
    for table in tables {
        let before = before.get(&table.id).copied();
        let route = match before.filter(|_| !touched(table.id)) {
            Some(before) => Arc::clone(before),
            None => {
                let first = shards.partition_point(|s| s.table_id < table.id);
                let end = shards.partition_point(|s| s.table_id <= table.id);
                table.shards = (end - first) as u32;
                let before = before.map(|before| &**before);
                let mut overlay = before.map(|before| before.overlay.clone()).unwrap_or_default();
                overlay.map(shards[first..end].iter().map(news_of_map));
                Arc::new(TableRoute::new(table.clone(), overlay, before))
            }
        };
        routes.insert(table.name.clone(), route);
    }
    routes
}

/// The shards after a delta, by table and lower bound; `touched` gets the tables of which any changed. `None` where they cannot have come
/// of these.
fn shards_after(before: &ClusterMap, delta: &v1::ShardMap, touched: &mut HashSet<u32>) -> Option<Vec<ShardInfo>> {
    let put: HashMap<u64, ShardInfo> = delta.shards.iter().map(|s| (s.id, shard_info(s.clone()))).collect();
    let gone: HashSet<u64> = delta.gone_shards.iter().copied().collect();
    touched.extend(put.values().map(|shard| shard.table_id));
    let mut shards = Vec::with_capacity(before.shards.len() + put.len());
    for old in &before.shards {
        match put.get(&old.id) {
            Some(now) if !succeeds(old, now) => return None,
            Some(_) => {}
            None if gone.contains(&old.id) => {
                touched.insert(old.table_id);
            }
            None => shards.push(old.clone()),
        }
    }
    shards.extend(put.into_values());
    shards.sort_by(by_place);
    Some(shards)
}

/// Whether these shards can have come of those of an earlier map: bounds change only with the version, and neither version nor epoch
/// falls. They do where a cluster was restored or set back under its old name.
fn follows(before: &ClusterMap, shards: &[ShardInfo]) -> bool {
    let before: HashMap<u64, &ShardInfo> = before.shards.iter().map(|shard| (shard.id, shard)).collect();
    shards.iter().all(|now| before.get(&now.id).is_none_or(|old| succeeds(old, now)))
}

/// Whether a shard can have become what a map says of it now.
fn succeeds(old: &ShardInfo, now: &ShardInfo) -> bool {
    let same_bounds = now.version > old.version || (&now.from, &now.to) == (&old.from, &old.to);
    now.table_id == old.table_id && now.version >= old.version && now.epoch >= old.epoch && same_bounds
}

/// The leader to begin with, 0 where none is known.
fn leader(info: &ShardInfo, known: Option<&Arc<ShardRoute>>) -> u64 {
    let leader = match (known, info.leader) {
        (Some(old), hint) if hint.is_none() || hint == old.info.leader => old.leader(),
        (_, hint) => hint,
    };
    leader.unwrap_or(0)
}

fn news_of_map(shard: &ShardInfo) -> News {
    News {
        shard: ShardId(shard.id),
        from: shard.from.clone(),
        to: shard.to.clone(),
        version: shard.version,
        epoch: Epoch(shard.epoch),
        voters: shard.voters.iter().copied().map(NodeId).collect(),
        leader: shard.leader.map(NodeId),
    }
}

/// The shard at the end of a route. Learners are not named: nothing is asked of them.
fn shard_of_route(table_id: u32, route: &Route<'_>) -> ShardInfo {
    ShardInfo {
        id: route.owner.shard.0,
        table_id,
        from: route.from.clone(),
        to: route.to.clone(),
        version: route.owner.version,
        epoch: route.owner.epoch.0,
        voters: route.owner.voters.iter().map(|node| node.0).collect(),
        learners: Vec::new(),
        leader: route.owner.leader.map(|node| node.0),
    }
}

fn node_info(n: v1::Node) -> NodeInfo {
    let mark = match n.mark() {
        v1::NodeMark::Stays => NodeMark::Stays,
        v1::NodeMark::Draining => NodeMark::Draining,
        v1::NodeMark::Decommissioning => NodeMark::Decommissioning,
    };
    NodeInfo { id: n.id, addr: n.addr, mark, zone: n.zone, rack: n.rack }
}

fn shard_info(s: v1::Shard) -> ShardInfo {
    ShardInfo {
        id: s.id,
        table_id: s.table_id,
        from: s.from,
        to: s.to,
        version: s.version,
        epoch: s.epoch,
        voters: s.voters,
        learners: s.learners,
        leader: Some(s.leader_hint).filter(|id| *id != 0),
    }
}

/// A table of the wire; `None` for one whose kind this client does not know.
pub(crate) fn table_info(t: &v1::Table) -> Option<TableInfo> {
    let partitioning = match t.partitioning() {
        v1::Partitioning::Range => PartitionKind::Range,
        v1::Partitioning::Hash => PartitionKind::Hash,
        v1::Partitioning::Unspecified => return None,
    };
    let retention = match t.retention.as_ref().and_then(|r| r.kind.as_ref()) {
        Some(v1::retention::Kind::Latest(_)) => Retention::Latest,
        Some(v1::retention::Kind::All(_)) => Retention::All,
        None => return None,
    };
    Some(TableInfo { id: t.id, name: t.name.clone(), partitioning, retention, replicas: t.replicas, shards: 0 })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn shard(id: u64, table_id: u32, from: &[u8], to: &[u8]) -> v1::Shard {
        let bytes = Bytes::copy_from_slice;
        v1::Shard {
            id,
            table_id,
            from: bytes(from),
            to: bytes(to),
            version: 1,
            epoch: 1,
            voters: vec![1, 2, 3],
            leader_hint: 0,
            ..v1::Shard::default()
        }
    }

    pub(crate) fn map() -> v1::ShardMap {
        let table = |id, name: &str, partitioning: v1::Partitioning| v1::Table {
            id,
            name: name.into(),
            partitioning: partitioning.into(),
            retention: Some(v1::Retention { kind: Some(v1::retention::Kind::All(true)) }),
            replicas: 3,
        };
        let quarter = |i: u64| if i.is_multiple_of(4) { vec![] } else { (i << 62).to_be_bytes().to_vec() };
        let mut shards = vec![shard(11, 1, b"m", b"t"), shard(10, 1, b"", b"m"), shard(12, 1, b"t", b"")];
        shards.extend((0..4).map(|i| shard(20 + i, 2, &quarter(i), &quarter(i + 1))));
        v1::ShardMap {
            cluster: Bytes::from_static(&[7; 16]),
            revision: 3,
            nodes: (1..=3).map(|id| v1::Node { id, addr: format!("127.0.0.1:{id}"), ..v1::Node::default() }).collect(),
            tables: vec![table(1, "r", v1::Partitioning::Range), table(2, "h", v1::Partitioning::Hash)],
            shards,
            next_shard: 24,
            ..v1::ShardMap::default()
        }
    }

    fn id(table: &TableRoute, place: Place<'_>) -> Option<u64> {
        table.locate(place).map(|s| s.info.id)
    }

    #[test]
    fn range_tables_route_by_key() {
        let view = MapView::build(map(), None);
        let t = view.table("r").unwrap();
        for (key, shard) in [("a", 10), ("lzzz", 10), ("m", 11), ("m\0", 11), ("t", 12), ("zz", 12)] {
            assert_eq!(id(t, Place::Key(key.as_bytes())), Some(shard), "{key}");
        }
        for (pos, shard) in [("", 12), ("m", 10), ("m\0", 11), ("t", 11), ("z", 12), ("a", 10)] {
            assert_eq!(id(t, Place::Below(pos.as_bytes())), Some(shard), "below {pos}");
        }
        assert_eq!(id(t, Place::At(b"")), Some(10));
    }

    /// A cluster that was restored under its old name: its shards are of earlier epochs, and its ids of other tables.
    #[test]
    fn a_map_of_a_cluster_that_was_set_back_is_taken_whole() {
        let mut later = map();
        later.shards.iter_mut().for_each(|shard| shard.epoch = 5);
        later.shards.iter_mut().for_each(|shard| shard.voters = vec![4, 5, 6]);
        let before = MapView::build(later, None);
        let mut again = map();
        again.revision = 4;
        again.shards.iter_mut().for_each(|shard| shard.epoch = 2);
        let view = MapView::build(again, Some(&before));
        let route = view.table("r").unwrap().locate(Place::Key(b"a")).unwrap();
        assert_eq!((route.info.epoch, &route.info.voters), (2, &vec![1, 2, 3]));

        let mut fewer = map();
        fewer.revision = 4;
        fewer.shards.retain(|shard| shard.table_id == 1);
        fewer.shards.push(shard(20, 2, b"", b""));
        fewer.shards.extend((21..24).map(|id| shard(id, 3, b"", b"")));
        let view = MapView::build(fewer, Some(&MapView::build(map(), None)));
        let table = view.table("h").unwrap();
        assert!(["a", "b", "c", "d", "e"].iter().all(|key| id(table, Place::Key(key.as_bytes())) == Some(20)));
    }

    #[test]
    fn hash_tables_route_by_ring_position() {
        let view = MapView::build(map(), None);
        let t = view.table("h").unwrap();
        for i in 0..1000u32 {
            let key = i.to_be_bytes();
            let quarter = key_hash(&key) >> 62;
            assert_eq!(id(t, Place::Key(&key)), Some(20 + quarter));
            assert_eq!(id(t, Place::At(&position(PartitionKind::Hash, &key))), Some(20 + quarter));
        }
    }

    #[test]
    fn the_hash_is_xxh3_64_with_seed_0() {
        assert_eq!(position(PartitionKind::Hash, b"")[..], 0x2d06_8005_38d3_94c2_u64.to_be_bytes());
        assert_eq!(position(PartitionKind::Range, b"k"), "k");
    }

    #[test]
    fn a_gap_has_no_shard() {
        let mut gap = map();
        gap.shards.retain(|s| s.id != 11);
        let view = MapView::build(gap, None);
        let t = view.table("r").unwrap();
        assert_eq!(id(t, Place::Key(b"n")), None);
        assert_eq!(id(t, Place::Below(b"t")), None);
        assert_eq!(id(t, Place::Key(b"t")), Some(12));
    }

    #[test]
    fn learnt_leaders_outlive_a_new_map_without_news() {
        let first = MapView::build(map(), None);
        first.table("r").unwrap().shards[0].set_leader(3);
        let second = MapView::build(map(), Some(&first));
        assert_eq!(second.table("r").unwrap().shards[0].leader(), Some(3));
        let mut news = map();
        news.shards[1].leader_hint = 2;
        let third = MapView::build(news, Some(&second));
        assert_eq!(third.table("r").unwrap().shards[0].leader(), Some(2));
        third.table("r").unwrap().shards[0].clear_leader(3);
        assert_eq!(third.table("r").unwrap().shards[0].leader(), Some(2));
        third.table("r").unwrap().shards[0].clear_leader(2);
        assert_eq!(third.table("r").unwrap().shards[0].leader(), None);
    }

    /// A delta from revision 3 to 4: shard 11 is split at `p`, table `h` is dropped, node 3 is gone, node 2 has another address.
    fn delta() -> v1::ShardMap {
        let part = |id, from: &[u8], to: &[u8]| v1::Shard { version: 2, ..shard(id, 1, from, to) };
        v1::ShardMap {
            cluster: Bytes::from_static(&[7; 16]),
            revision: 4,
            since: 3,
            nodes: vec![v1::Node { id: 2, addr: "127.0.0.1:22".into(), ..v1::Node::default() }],
            shards: vec![part(11, b"m", b"p"), part(24, b"p", b"t")],
            gone_nodes: vec![3],
            gone_tables: vec![2],
            gone_shards: vec![20, 21, 22, 23],
            digest: 5,
            ..v1::ShardMap::default()
        }
    }

    #[test]
    fn a_delta_makes_the_view_that_a_whole_map_makes() {
        let first = MapView::build(map(), None);
        first.table("r").unwrap().shards[0].set_leader(3);
        let view = first.with_delta(&delta()).unwrap();
        let mut whole = map();
        whole.revision = 4;
        whole.nodes.pop();
        whole.nodes[1].addr = "127.0.0.1:22".into();
        whole.tables.pop();
        whole.shards.retain(|shard| shard.table_id == 1 && shard.id != 11);
        whole.shards.extend(delta().shards);
        let whole = MapView::build(whole, Some(&first));
        assert_eq!(view.public, whole.public);
        assert_eq!((routes(&view), view.digest), (routes(&whole), 5));
        assert!(view.table("h").is_none() && view.addr(3).is_none() && view.addr(2) == Some("127.0.0.1:22"));
        assert_eq!(view.table("r").unwrap().shards[0].leader(), Some(3), "what was learnt stays");
    }

    #[test]
    fn a_delta_leaves_the_routes_of_other_tables_and_newer_hints_as_they_are() {
        let first = MapView::build(map(), None);
        let hint = v1::Shard { version: 9, ..shard(13, 1, b"p", b"t") };
        let hinted = first.with_hints("r", std::slice::from_ref(&hint)).unwrap();
        let mut delta = delta();
        (delta.gone_tables, delta.gone_shards) = (vec![], vec![]);
        let view = hinted.with_delta(&delta).unwrap();
        assert!(Arc::ptr_eq(view.table("h").unwrap(), first.table("h").unwrap()));
        assert_eq!(id(view.table("r").unwrap(), Place::Key(b"q")), Some(13), "it is of a greater version");
        assert_eq!(view.table("r").unwrap().info.shards, 4);
    }

    #[test]
    fn a_delta_with_a_gap_or_of_another_map_is_not_taken() {
        let view = MapView::build(map(), None);
        assert!(view.with_delta(&v1::ShardMap { since: 2, ..delta() }).is_none(), "it was made from an older map");
        assert!(view.with_delta(&v1::ShardMap { since: 4, revision: 5, ..delta() }).is_none(), "one is missing");
        let mut other = delta();
        other.shards[0].version = 0;
        assert!(view.with_delta(&other).is_none(), "versions do not fall");
    }

    fn routes(view: &MapView) -> Vec<(Bytes, Bytes, u64, u64)> {
        let parts = |s: &Arc<ShardRoute>| (s.info.from.clone(), s.info.to.clone(), s.info.id, s.info.version);
        view.table("r").unwrap().shards.iter().map(parts).collect()
    }

    #[test]
    fn a_hint_is_followed_until_the_map_has_it_and_an_older_map_changes_nothing() {
        let first = MapView::build(map(), None);
        first.table("r").unwrap().shards[1].set_leader(3);
        let part = |id, from: &[u8], to: &[u8]| v1::Shard { version: 2, ..shard(id, 1, from, to) };
        // Only the child is known.
        let child = v1::Shard { leader_hint: 2, ..part(13, b"p", b"t") };
        let second = first.with_hints("r", std::slice::from_ref(&child)).unwrap();
        let b = Bytes::from_static;
        let wanted =
            [(b(b""), b(b"m"), 10, 1), (b(b"m"), b(b"p"), 11, 1), (b(b"p"), b(b"t"), 13, 2), (b(b"t"), b(b""), 12, 1)];
        assert_eq!(routes(&second), wanted);
        assert!(second.with_hints("r", std::slice::from_ref(&child)).is_none(), "it is known");
        let t = second.table("r").unwrap();
        assert_eq!((t.shards[1].leader(), t.shards[2].leader()), (Some(3), Some(2)));
        let older = v1::ShardMap { revision: 9, ..map() };
        assert_eq!(routes(&MapView::build(older, Some(&second))), wanted, "a newer map of before the split");
        let mut told = map();
        told.shards[0] = part(11, b"m", b"p");
        told.shards.push(part(13, b"p", b"t"));
        let third = MapView::build(told, Some(&second));
        assert_eq!(routes(&third)[1..3], [(b(b"m"), b(b"p"), 11, 2), (b(b"p"), b(b"t"), 13, 2)]);
        assert_eq!(third.table("r").unwrap().shards[2].leader(), Some(2));
    }

    #[test]
    fn a_hint_between_keeps_both_ends_of_a_shard_and_one_leader_for_them() {
        let first = MapView::build(map(), None);
        let middle = v1::Shard { version: 2, ..shard(13, 1, b"n", b"p") };
        let view = first.with_hints("r", &[middle]).unwrap();
        let t = view.table("r").unwrap();
        assert_eq!(["m", "n", "p"].map(|at| id(t, Place::At(at.as_bytes()))), [Some(11), Some(13), Some(11)]);
        assert_eq!(id(t, Place::Below(b"p")), Some(13));
        t.shards[1].set_leader(2);
        assert_eq!(t.shards[3].leader(), Some(2));
    }

    #[test]
    fn hints_of_another_table_or_without_voters_are_passed_over() {
        let view = MapView::build(map(), None);
        let other = v1::Shard { version: 2, ..shard(13, 9, b"n", b"p") };
        let nobody = v1::Shard { version: 2, voters: vec![], ..shard(13, 1, b"n", b"p") };
        assert!(view.with_hints("r", &[other, nobody]).is_none() && view.with_hints("none", &[]).is_none());
    }

    #[test]
    fn spans() {
        let prefix = Keys::Prefix(Bytes::from_static(b"a\xff"));
        let span = Span::of(PartitionKind::Range, &prefix).unwrap();
        assert_eq!((span.pos_from, span.pos_to), (Bytes::from_static(b"a\xff"), Bytes::from_static(b"b")));
        assert_eq!(prefix_end(b"\xff\xff"), "");
        let span = Span::of(PartitionKind::Hash, &prefix).unwrap();
        assert_eq!((span.pos_from.len(), span.pos_to.len(), span.key_to), (0, 0, Bytes::from_static(b"b")));
        let range = Keys::Range { from: "b".into(), to: "a".into() };
        assert!(Span::of(PartitionKind::Range, &range).is_err());
        let same = Keys::Range { from: "b".into(), to: "b".into() };
        assert!(Span::of(PartitionKind::Range, &same).unwrap().is_empty());
    }
}
