//! What one watcher of the map is sent.
//!
//! Owns: the map that the watcher has by now, and what it is sent next. Must never: send a delta from another map than that one, or build
//! one message from all shards.
//!
//! A watcher that is slow gets one delta for several revisions: it is made when the stream has room for it. What is kept for it is the
//! map it has, of which all but what changed since is shared with the newest.

use super::map::MapCache;
use futures::Stream;
use std::sync::Arc;
use synod_cluster::ids::ShardId;
use synod_cluster::system::SystemState;
use synod_proto::v1;
use tokio::sync::watch;
use tonic::Status;

/// Shards in one message of a whole map.
const PART: usize = 4096;

struct Watcher {
    cache: Arc<MapCache>,
    changes: watch::Receiver<u64>,
    /// Only maps newer than this are sent.
    after: u64,
    /// The map that the watcher has, where that is known.
    has: Option<Arc<SystemState>>,
    /// The whole map on its way to it, and the first shard of the next part.
    sending: Option<(Arc<SystemState>, ShardId)>,
}

/// Whole maps of this node, each in one message, for a watcher that knows no others.
pub fn whole(cache: Arc<MapCache>, after: u64) -> impl Stream<Item = Result<v1::ShardMap, Status>> {
    let changes = cache.watch();
    futures::stream::unfold((cache, changes, after), |(cache, mut changes, after)| async move {
        loop {
            let revision = *changes.borrow_and_update();
            if revision > after
                && let Some(map) = cache.to_wire()
            {
                let revision = map.revision;
                return Some((Ok(map), (cache, changes, revision)));
            }
            changes.changed().await.ok()?;
        }
    })
}

/// A whole map in parts, then deltas; deltas only, where the map that the watcher says it has is still known here.
pub fn deltas(cache: Arc<MapCache>, after: u64, digest: u64) -> impl Stream<Item = Result<v1::ShardMap, Status>> {
    let (changes, has) = (cache.watch(), cache.as_of(after, digest));
    let watcher = Watcher { cache, changes, after, has, sending: None };
    futures::stream::unfold(watcher, |mut watcher| async move {
        let message = watcher.next().await?;
        Some((Ok(message), watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<v1::ShardMap> {
        loop {
            if let Some((map, first)) = self.sending.take() {
                return Some(self.part(map, first));
            }
            let _ = *self.changes.borrow_and_update();
            match self.cache.get().filter(|map| map.revision > self.after) {
                None => self.changes.changed().await.ok()?,
                Some(newest) => match self.has.take() {
                    None => self.sending = Some((newest, ShardId(0))),
                    Some(has) => {
                        let delta = self.cache.delta_to_wire(&has, &newest);
                        self.is_sent(newest);
                        return Some(delta);
                    }
                },
            }
        }
    }

    fn part(&mut self, map: Arc<SystemState>, first: ShardId) -> v1::ShardMap {
        let mut part = self.cache.part_to_wire(&map, first, PART);
        let next = map.shards.starting_at(first).nth(PART).map(|descriptor| descriptor.shard);
        match next {
            Some(next) => {
                part.more = true;
                self.sending = Some((map, next));
            }
            None => self.is_sent(map),
        }
        part
    }

    fn is_sent(&mut self, map: Arc<SystemState>) {
        self.after = map.revision;
        self.has = Some(map);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::map::{from_wire, with_wire_delta};
    use crate::node::peer::Local;
    use futures::StreamExt;
    use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, Nonce};
    use synod_cluster::system::{Partitioning, Retention, SystemCommand};
    use synod_proto::parts::MapParts;

    fn cache(dir: &std::path::Path) -> Arc<MapCache> {
        let (node, speaks) = (NodeId(1), ClusterVersion::SPOKEN);
        let local = Local { cluster: 7, node, incarnation: Incarnation(1), nonce: Nonce(0), speaks };
        MapCache::open(dir, &local, Arc::default()).expect("there is none yet")
    }

    /// More shards than one part has.
    fn large() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards: 4096,
            splits: vec![],
            replicas: 1,
        });
        state
    }

    /// The state with another address of its node.
    fn moved(state: &SystemState, addr: &str) -> SystemState {
        let mut next = state.clone();
        next.execute(&SystemCommand::SetAddr { node: NodeId(1), addr: addr.to_owned() });
        next
    }

    #[tokio::test]
    async fn a_watcher_gets_parts_then_one_delta_for_what_it_missed_and_deltas_when_it_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cache, first) = (cache(dir.path()), large());
        assert!(cache.offer(&Arc::new(first.clone())));
        let (mut stream, mut parts) = (Box::pin(deltas(cache.clone(), 0, 0)), MapParts::default());
        let part = stream.next().await.expect("a part").expect("a map");
        assert!(part.more && part.shards.len() == PART && part.since == 0);
        assert!(parts.take(part).is_none());
        let part = stream.next().await.expect("a part").expect("a map");
        assert!(!part.more && part.nodes.is_empty());
        let has = from_wire(parts.take(part).expect("it is whole")).expect("it is a map");
        assert_eq!(has.shards, first.shards);
        let second = moved(&first, "b:1");
        let third = moved(&second, "c:1");
        assert!(cache.offer(&Arc::new(second.clone())) && cache.offer(&Arc::new(third.clone())));
        let delta = stream.next().await.expect("a delta").expect("a map");
        assert_eq!((delta.since, delta.revision, delta.shards.len()), (first.revision, third.revision, 0));
        assert_eq!(with_wire_delta(&has, delta).map(|map| map.nodes[&NodeId(1)].addr.clone()), Ok("c:1".to_owned()));
        let ask = |digest| Box::pin(deltas(cache.clone(), second.revision, digest));
        let back = ask(second.shards.digest()).next().await.expect("a delta").expect("a map");
        assert_eq!((back.since, back.revision), (second.revision, third.revision));
        let other = ask(1).next().await.expect("a part").expect("a map");
        assert_eq!((other.since, other.more), (0, true), "it has a map of before the cluster was set back");
    }

    #[tokio::test]
    async fn a_watcher_that_knows_no_deltas_gets_whole_maps() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cache, first) = (cache(dir.path()), large());
        assert!(cache.offer(&Arc::new(first.clone())));
        let mut stream = Box::pin(whole(cache.clone(), 0));
        for next in [moved(&first, "b:1"), moved(&moved(&first, "b:1"), "c:1")] {
            let map = stream.next().await.expect("a map").expect("a map");
            assert_eq!((map.since, map.more, map.shards.len()), (0, false, 4097));
            assert!(cache.offer(&Arc::new(next)));
        }
    }
}
