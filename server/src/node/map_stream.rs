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
        match map.shards.starting_at(first).nth(PART).map(|descriptor| descriptor.shard) {
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
