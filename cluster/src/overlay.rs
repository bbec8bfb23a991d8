//! A client's routes through one table: the map of the system shard, overlaid by what nodes say of their own shards.
//!
//! Owns: which of two answers about a position counts. Must never: let a newer map displace a newer hint, leave a position without an
//! owner that had one, or grow without a bound.
//!
//! At each position the entry with the greater version counts, wherever it came from and whenever; of two with one version the one of
//! the later epoch. Versions rise along the lineage of every position, so any order of the same news gives the same routes.

use crate::ids::{NodeId, ShardId};
use crate::tiling::Tiling;
use bytes::Bytes;
use std::sync::Arc;
use synod_paxos::types::Epoch;

/// How many tiles hints may make beyond the shards of the newest map. Above that hints are not taken until a map confirms some.
pub const HINTS_MAX: usize = 4096;

/// What a map or a node says of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The shard.
    pub shard: ShardId,
    /// Its lower bound, inclusive.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Of these bounds.
    pub version: u64,
    /// Of these members.
    pub epoch: Epoch,
    /// Who votes in it.
    pub voters: Vec<NodeId>,
    /// Who leads it, as far as the teller knows.
    pub leader: Option<NodeId>,
}

impl News {
    /// Of two entries about one position the one with the greater rank counts. The shard's number only makes it total.
    fn rank(&self) -> (u64, Epoch, ShardId) {
        (self.version, self.epoch, self.shard)
    }
}

/// Where to send what concerns a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// From here on the shard is the owner, as far as is known: not below its own bound.
    pub from: &'a Bytes,
    /// Up to here, exclusive; empty: no bound. Not beyond its own bound.
    pub to: &'a Bytes,
    /// The shard, with its own bounds.
    pub owner: &'a News,
}

/// The routes of one table.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    tiles: Tiling<Arc<News>>,
    /// Shards of the table in the newest map.
    mapped: usize,
}

impl Overlay {
    /// Takes what a map says of all the table's shards.
    pub fn map(&mut self, shards: impl IntoIterator<Item = News>) {
        self.mapped = 0;
        for news in shards {
            self.mapped += 1;
            self.lay(news);
        }
    }

    /// Takes what a node says of a shard; whether anything is known by it that was not known before, so that it is worth trying again
    /// at once.
    pub fn hint(&mut self, news: News) -> bool {
        // A hint adds at most two tiles: its own, and the upper rest of a tile that it falls into.
        self.tiles.len() + 2 <= self.mapped + HINTS_MAX && self.lay(news)
    }

    /// Whether this says of a position what is not known yet.
    #[must_use]
    pub fn is_news(&self, news: &News) -> bool {
        let rank = news.rank();
        self.tiles.is_news(&news.from, &news.to, |before| rank > before.rank())
    }

    /// The way to a position.
    #[must_use]
    pub fn route(&self, position: &[u8]) -> Option<Route<'_>> {
        let (from, to, owner) = self.tiles.get(position)?;
        Some(Route { from, to, owner })
    }

    /// All routes, in the order of their positions.
    pub fn routes(&self) -> impl Iterator<Item = Route<'_>> {
        self.tiles.iter().map(|(from, to, owner)| Route { from, to, owner })
    }

    fn lay(&mut self, news: News) -> bool {
        let changes = self.is_news(&news);
        let (rank, news) = (news.rank(), Arc::new(news));
        // Of what is equal the last word counts: who leads changes while nothing else does.
        self.tiles.lay(&news.from, &news.to, &news, |before| rank >= before.rank());
        changes
    }
}

#[cfg(test)]
mod tests;
