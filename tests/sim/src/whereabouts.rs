//! Which shard a client asks, in a run that splits shards, and what a node says to a request that was made for older bounds.
//!
//! Owns: the way from keys to shards. Must never: give a client a map that it did not ask for.
//!
//! What a node says is the server's business (`server/src/node/whereabouts.rs`), by its map and by what its replicas have applied.

use crate::clients::{Operation, keys_of};
use crate::retry::Failure;
use crate::routes::known_here;
use crate::world::{Event, World};
use synod_cluster::ids::{NodeId, ShardId, TableId};
use synod_cluster::overlay::News;

/// Shards that a refusal names at most: the server's own number.
const NOW_MAX: usize = 8;

impl World {
    /// The table of a shard; 0 of the system shard.
    pub(crate) fn table_of(&self, shard: ShardId) -> TableId {
        self.models.get(&shard).map_or(TableId(0), |model| model.table())
    }

    /// Sends an operation to the shard that has its first key, as its client knows; whether its keys are of several shards by that.
    pub(crate) fn aim(&mut self, op: u64) -> bool {
        let Self { ops, clients, map, splits, .. } = self;
        let Some(operation) = ops.get_mut(&op).filter(|operation| splits.on && operation.table != TableId(0)) else {
            return false;
        };
        let (table, client) = (operation.table, &mut clients[operation.client]);
        let fetches = operation.retry.take_nudge() || client.routes.is_empty();
        if let Some(map) = map.as_deref().filter(|_| fetches) {
            client.routes.learn(map);
        }
        let keys = keys_of(&operation.kind);
        let Some(first) = keys.first().and_then(|key| client.routes.owner(table, key)) else { return false };
        (operation.shard, operation.version, operation.epoch) = (first.shard, Some(first.version), first.epoch);
        operation.voters.clone_from(&first.voters);
        keys.iter().any(|key| client.routes.owner(table, key).is_some_and(|owner| owner.shard != first.shard))
    }

    /// What a node says to a request that was made for older bounds than it knows, without asking a worker.
    pub(crate) fn outdated(
        &self,
        id: NodeId,
        shard: ShardId,
        version: Option<u64>,
        operation: &Operation,
    ) -> Option<Vec<News>> {
        let (node, table) = (&self.nodes[&id], operation.table);
        let (map, up) = (node.map_cache.as_ref()?, node.up.as_ref().filter(|up| self.splits.on && !up.paused)?);
        let applied = up.bounds.get(&shard).map_or(0, |news| news.version);
        let known = map.shards.get(&shard).map_or(0, |d| d.version).max(applied);
        if version? >= known {
            return None;
        }
        let partitioning = map.tables.get(&table)?.partitioning;
        let overlay = known_here(map, up.bounds.values(), table);
        let mut named: Vec<News> = Vec::new();
        for key in keys_of(&operation.kind) {
            let owner = overlay.route(&partitioning.position(&key)).map(|route| route.owner);
            let unnamed = owner.filter(|owner| named.iter().all(|news| news.shard != owner.shard));
            named.extend(unnamed.filter(|_| named.len() < NOW_MAX).cloned());
        }
        Some(named)
    }

    /// The refusal leaves the node.
    pub(crate) fn refuse_outdated(&mut self, attempt: u64, news: Vec<News>) {
        self.coverage.count("routes", "request for older bounds refused");
        let delay = self.dice.between(self.plan.delay);
        if self.dice.chance(self.plan.client_loss) {
            return self.coverage.count("network", "answer lost");
        }
        self.at(self.now + delay, Event::Failed { attempt, failure: Failure::Moved(news) });
    }

    /// A client takes what a failed attempt tells it; whether it knows by now of another shard that has the first key, or of other bounds or
    /// members.
    pub(crate) fn learn_of(&mut self, attempt: u64, failure: &Failure) -> bool {
        let Self { attempts, ops, clients, coverage, splits, .. } = self;
        let Some(tried) = attempts.get(&attempt).filter(|_| splits.on) else { return false };
        let operation = &ops[&tried.op];
        let (table, client) = (operation.table, &mut clients[operation.client]);
        if let Failure::Moved(news) = failure {
            for news in news {
                if let Some(leader) = news.leader {
                    client.leaders.entry(news.shard).or_insert(leader);
                }
                coverage.add("routes", "hint taken", u64::from(client.routes.hint(table, news.clone())));
            }
        }
        let keys = keys_of(&operation.kind);
        let owner = keys.first().and_then(|key| client.routes.owner(table, key));
        let asked = (tried.shard, tried.version, tried.epoch);
        owner.is_some_and(|owner| (owner.shard, Some(owner.version), owner.epoch) != asked)
    }
}
