//! Where keys are by now whose shard has other bounds than a client knows.
//!
//! Owns: which requests were made for older bounds than this node knows, and the shards that are named to their clients. Must never:
//! refuse a request that is as new as what is known here, or take time in proportion to the shards of the cluster for each refusal.
//!
//! What replicas here have applied and the map does not have yet is laid over the map, as clients do it: of two entries about one
//! position the greater version counts.

use super::bounds::Applied;
use super::map::MapCache;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::overlay::{News, Overlay};
use synod_cluster::position::{after, below};
use synod_cluster::system::{Descriptor, Partitioning, SystemState};
use synod_paxos::types::Membership;
use synod_proto::errors;
use synod_proto::v1;
use tokio::sync::watch;

/// Shards that a refusal names at most.
const NOW_MAX: usize = 8;

/// Knows where keys are.
pub struct Whereabouts {
    map_cache: Arc<MapCache>,
    applied: watch::Receiver<Applied>,
    tables: Mutex<Tables>,
}

/// The owners of the tables that were asked about since something changed last.
struct Tables {
    revision: u64,
    applied: watch::Receiver<Applied>,
    overlays: BTreeMap<TableId, Overlay>,
}

impl Whereabouts {
    /// What the map and the replicas here know.
    #[must_use]
    pub fn new(map_cache: Arc<MapCache>, applied: watch::Receiver<Applied>) -> Self {
        let tables = Tables { revision: 0, applied: applied.clone(), overlays: BTreeMap::new() };
        Self { map_cache, applied, tables: Mutex::new(tables) }
    }

    /// The refusal of a request that was made for older bounds of its shard than are known here.
    #[must_use]
    pub fn moved(&self, request: &v1::ShardRequest) -> Option<v1::Error> {
        let (map, shard) = (self.map_cache.get()?, ShardId(request.shard));
        let descriptor = map.shards.get(&shard);
        let applied = self.applied.borrow().get(&shard).map_or(0, |news| news.version);
        if request.version >= applied.max(descriptor.map_or(0, |d| d.version)) {
            return None;
        }
        let (table, ranges) = asked(request.body.as_ref()?, &map)?;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let named = tables.overlay(&map, table).map(|overlay| owners(overlay, &ranges))?;
        let now = named.iter().map(|news| to_wire(table, news, self.map_cache.leader(news.shard))).collect();
        Some(errors::moved(now))
    }
}

impl Tables {
    /// The owners of a table's positions; made anew only after something changed.
    fn overlay(&mut self, map: &SystemState, table: TableId) -> Option<&Overlay> {
        // Who closes it ends with the process.
        let changed = self.applied.has_changed().unwrap_or(false);
        if changed || self.revision != map.revision {
            self.overlays.clear();
            self.revision = map.revision;
        }
        if !map.tables.contains_key(&table) {
            return None;
        }
        let applied = self.applied.borrow_and_update();
        Some(self.overlays.entry(table).or_insert_with(|| overlay(map, &applied, table)))
    }
}

fn overlay(map: &SystemState, applied: &Applied, table: TableId) -> Overlay {
    let mut overlay = Overlay::default();
    let of_table = map.shards.of_table(table);
    overlay.map(of_table.map(|d| news(d.shard, (&d.from, &d.to, d.version), &d.membership)));
    for (shard, told) in applied {
        let Some(descriptor) = nearest(map, *shard).filter(|d| d.table == table) else { continue };
        let mut add = |id, bounds, membership| {
            overlay.hint(news(id, bounds, membership));
        };
        for child in &told.children {
            add(child.shard, (&child.from, &child.to, child.version), &child.membership);
        }
        add(*shard, (&told.from, &told.to, told.version), &descriptor.membership);
    }
    overlay
}

/// The shard in the map, or the one whose child it is to be.
fn nearest(map: &SystemState, shard: ShardId) -> Option<&Descriptor> {
    map.shards.get(&shard).or_else(|| map.shards.get(&map.reserved.get(&shard)?.parent))
}

fn news(shard: ShardId, (from, to, version): (&Bytes, &Bytes, u64), membership: &Membership) -> News {
    News {
        shard,
        from: from.clone(),
        to: to.clone(),
        version,
        epoch: membership.epoch,
        voters: membership.voters().collect(),
        leader: Some(membership.first_leader),
    }
}

/// The table and the positions that a request is about; `None` where it is about none.
fn asked(body: &v1::shard_request::Body, map: &SystemState) -> Option<(TableId, Vec<(Bytes, Bytes)>)> {
    use v1::shard_request::Body;
    let table = match body {
        Body::Write(write) => write.table_id,
        Body::Get(get) => get.table_id,
        Body::Read(read) => read.table_id,
        Body::Scan(scan) => scan.table_id,
        Body::Tail(tail) => tail.table_id,
        Body::Clock(_) => return None,
    };
    let table = TableId(table);
    let partitioning = map.tables.get(&table)?.partitioning;
    let ranges = match body {
        // A batch may have many: what is missing in the answer, the next refusal has.
        Body::Write(write) => write.ops.iter().take(NOW_MAX).map(|op| point(partitioning, &op.key)).collect(),
        Body::Get(get) => vec![point(partitioning, &get.key)],
        Body::Read(read) => vec![point(partitioning, &read.key)],
        Body::Scan(scan) => vec![(scan.pos_from.clone(), scan.pos_to.clone())],
        Body::Tail(tail) => {
            tail.segments.iter().take(NOW_MAX).map(|s| (s.pos_from.clone(), s.pos_to.clone())).collect()
        }
        Body::Clock(_) => return None,
    };
    Some((table, ranges))
}

fn point(partitioning: Partitioning, key: &[u8]) -> (Bytes, Bytes) {
    let position = Bytes::from(partitioning.position(key).into_owned());
    let end = after(&position);
    (position, end)
}

/// The shards that own these ranges, each once, the first few.
fn owners<'a>(overlay: &'a Overlay, ranges: &[(Bytes, Bytes)]) -> Vec<&'a News> {
    let mut found: Vec<&News> = Vec::new();
    for (from, to) in ranges {
        let mut at = from;
        while found.len() < NOW_MAX
            && let Some(route) = overlay.route(at)
        {
            if !found.iter().any(|news| news.shard == route.owner.shard) {
                found.push(route.owner);
            }
            if route.to.is_empty() || !below(route.to, to) {
                break;
            }
            at = route.to;
        }
    }
    found
}

fn to_wire(table: TableId, news: &News, leader: Option<NodeId>) -> v1::Shard {
    v1::Shard {
        id: news.shard.0,
        table_id: table.0,
        from: news.from.clone(),
        to: news.to.clone(),
        version: news.version,
        epoch: news.epoch.0,
        voters: news.voters.iter().map(|node| node.0).collect(),
        leader_hint: leader.or(news.leader).map_or(0, |node| node.0),
        ..v1::Shard::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::peer::Local;
    use synod_cluster::ids::{ClusterVersion, Incarnation, Nonce};
    use synod_cluster::system::{Child, Retention, ShardNews, SystemCommand};
    use v1::error::Kind;
    use v1::shard_request::Body;

    const TABLE: TableId = TableId(1);

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// Shard 2 up to m, shard 3 from there on.
    fn map() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            shards: 0,
            splits: vec![bytes("m")],
            replicas: 1,
        });
        state
    }

    /// Shard 2 was split at c, and its child 9 at f, of which the map knows nothing.
    fn applied(map: &SystemState) -> Applied {
        let membership = map.shards[&ShardId(2)].membership.clone();
        let child = Child { shard: ShardId(9), from: bytes("c"), to: bytes("m"), version: 2, membership };
        let (shard, from, to) = (ShardId(2), bytes(""), bytes("c"));
        let news = ShardNews { shard, from, to, version: 2, children: vec![child], absorbed: vec![] };
        BTreeMap::from([(news.shard, news)])
    }

    fn named(overlay: &Overlay, from: &'static str, to: &'static str) -> Vec<(u64, u64)> {
        owners(overlay, &[(bytes(from), bytes(to))]).iter().map(|news| (news.shard.0, news.version)).collect()
    }

    #[test]
    fn what_is_applied_here_counts_before_the_map_has_it() {
        let map = map();
        let known = overlay(&map, &Applied::new(), TABLE);
        assert_eq!(named(&known, "", ""), [(2, 1), (3, 1)]);
        let known = overlay(&map, &applied(&map), TABLE);
        assert_eq!(named(&known, "", ""), [(2, 2), (9, 2), (3, 1)]);
        assert_eq!(named(&known, "b", "b\0"), [(2, 2)]);
        assert_eq!(named(&known, "c", "d"), [(9, 2)]);
        assert_eq!(named(&known, "b", "d"), [(2, 2), (9, 2)]);
        assert!(named(&overlay(&map, &applied(&map), TableId(8)), "", "").is_empty());
    }

    #[test]
    fn only_a_request_for_older_bounds_is_refused_and_it_is_told_where_its_keys_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let (node, speaks) = (NodeId(1), ClusterVersion::SPOKEN);
        let local = Local { cluster: 7, node, incarnation: Incarnation(1), nonce: Nonce(0), speaks };
        let map_cache = MapCache::open(dir.path(), &local, Arc::default()).expect("there is none yet");
        let bounds = watch::Sender::new(Applied::new());
        let places = Whereabouts::new(Arc::clone(&map_cache), bounds.subscribe());
        let get = |key| Body::Get(v1::Get { table_id: 1, key: bytes(key), ..v1::Get::default() });
        let told = |shard, version, body| {
            let error = places.moved(&v1::ShardRequest { id: 9, shard, version, body: Some(body) })?;
            let Some(Kind::WrongShard(v1::WrongShard { now })) = error.kind else { panic!("{}", error.message) };
            Some(now.iter().map(|s| (s.id, s.version, s.from.clone(), s.leader_hint)).collect::<Vec<_>>())
        };
        assert_eq!(told(2, 0, get("d")), None, "nothing is known");
        let map = map();
        assert!(map_cache.offer(&Arc::new(map.clone())));
        let (parent, child) = ((2, 2, bytes(""), 1), (9, 2, bytes("c"), 5));
        assert_eq!((told(2, 1, get("d")), told(9, 1, get("d"))), (None, None), "as new as what is known");
        bounds.send_modify(|applied| *applied = self::applied(&map));
        map_cache.set_leader(ShardId(9), Some(NodeId(5)));
        assert_eq!(told(2, 1, get("d")), Some(vec![child.clone()]));
        assert_eq!(told(2, 1, get("b")), Some(vec![parent.clone()]));
        assert_eq!((told(2, 2, get("d")), told(3, 1, get("x"))), (None, None));
        let scan = v1::Scan { table_id: 1, pos_to: bytes("m"), ..v1::Scan::default() };
        assert_eq!(told(2, 1, Body::Scan(scan)), Some(vec![parent, child]));
        assert_eq!(told(2, 1, Body::Clock(true)), None, "the time is nobody's");
    }

    #[test]
    fn a_refusal_names_few_shards_each_once() {
        let mut known = Overlay::default();
        let map = map();
        let membership = &map.shards[&ShardId(2)].membership;
        let bound = |i: u8| if i == 0 { Bytes::new() } else { Bytes::from(vec![i]) };
        known.map((0..200).map(|i| news(ShardId(i.into()), (&bound(i), &bound(i + 1), 1), membership)));
        assert_eq!(owners(&known, &[(bytes(""), bytes(""))]).len(), NOW_MAX);
        let twice = [(bytes("a"), bytes("a\0")), (bytes("ab"), bytes("ac"))];
        assert_eq!(owners(&known, &twice).len(), 1);
    }

    #[test]
    fn a_request_says_what_it_is_about() {
        let map = map();
        let get = |table_id| Body::Get(v1::Get { table_id, key: bytes("k"), ..v1::Get::default() });
        assert_eq!(asked(&get(1), &map), Some((TABLE, vec![(bytes("k"), bytes("k\0"))])));
        assert_eq!((asked(&get(8), &map), asked(&Body::Clock(true), &map)), (None, None));
        let segment = v1::TailSegment { pos_from: bytes("c"), pos_to: bytes(""), after_ts_us: 0 };
        let tail = Body::Tail(v1::TailPoll { table_id: 1, segments: vec![segment], ..v1::TailPoll::default() });
        assert_eq!(asked(&tail, &map), Some((TABLE, vec![(bytes("c"), bytes(""))])));
    }
}
