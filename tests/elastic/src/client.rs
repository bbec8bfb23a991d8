//! A client that writes: its names, what it waits for, and its routes.
//!
//! Owns: the values. Must never: decide what follows a failed attempt; `synod_cluster::decide` does.

use crate::group::Ticket;
use crate::keys::Keys;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_cluster::decide::Progress;
use synod_cluster::ids::ShardId;
use synod_cluster::overlay::{News, Overlay};
use synod_cluster::system::{Descriptor, SystemState};
use synod_engine::command::WriteRequest;

/// A write that is not over.
pub(crate) struct Call {
    pub(crate) request: WriteRequest,
    pub(crate) keys: Vec<usize>,
    pub(crate) progress: Progress,
    /// The attempt under way: its number, the shard and the node.
    pub(crate) waits: Option<(u64, ShardId, usize)>,
}

/// A client.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) next: u64,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) routes: Overlay,
}

/// A write on its way to a node.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) ticket: Ticket,
    pub(crate) request: WriteRequest,
    pub(crate) version: u64,
}

/// Where to send what concerns a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) shard: ShardId,
    pub(crate) version: u64,
    /// The shard has the keys below this one, as far as is known.
    pub(crate) upto: usize,
    /// And from this one on.
    pub(crate) from: usize,
}

/// The way to a key by these routes.
pub(crate) fn way(routes: &Overlay, keys: &Keys, key: usize) -> Option<Way> {
    let position = keys.position(key);
    let route = routes.route(&position)?;
    let from = if route.from.is_empty() { 0 } else { keys.below(route.from) };
    Some(Way { shard: route.owner.shard, version: route.owner.version, from, upto: keys.below(route.to) })
}

/// Decisions about a write that begins.
pub(crate) fn progress() -> Progress {
    let ms = Duration::from_millis;
    Progress::new(ms(100), (ms(5), ms(500)), 0)
}

/// What somebody says of a shard.
pub(crate) fn news(descriptor: &Descriptor) -> News {
    News {
        shard: descriptor.shard,
        from: descriptor.from.clone(),
        to: descriptor.to.clone(),
        version: descriptor.version,
        epoch: descriptor.membership.epoch,
        voters: descriptor.membership.voters().collect(),
        leader: None,
    }
}

/// What a map says of the shards of the table that is not the system shard's.
pub(crate) fn mapped(map: &SystemState) -> Vec<News> {
    map.shards.values().filter(|descriptor| map.tables.contains_key(&descriptor.table)).map(news).collect()
}
