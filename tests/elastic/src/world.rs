//! The world of one schedule.
//!
//! Owns: what there is, and how it begins. Must never: take a step; the other modules do.

use crate::client::{Client, Sent, mapped};
use crate::dice::Dice;
use crate::group::{Group, members};
use crate::keys::{KEYS, Keys};
use crate::node::{Log, Node, digest, own_space};
use crate::plan::{HostFault, Planted};
use crate::reader::{Follower, Reader};
use crate::truth::Truth;
use crate::violation::{Check, Violation, ensure};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention, ShardNews, SystemCommand, SystemOutcome, SystemState};
use synod_engine::command::WriteRequest;
use synod_engine::genesis::Genesis;
use synod_engine::machine::ShardState;
use synod_engine::state::mem::MemState;
use synod_paxos::types::{Epoch, Membership};

/// How many nodes there are. A shard begins on the first three.
pub(crate) const NODES: usize = 4;
/// How many clients write.
const CLIENTS: usize = 2;
/// Lines that a failure shows.
const SHOWN: usize = 60;

/// A replica without lag, of each shard, on one store: what the log makes of the state.
pub(crate) struct Oracle {
    pub(crate) store: MemState,
    pub(crate) states: BTreeMap<ShardId, ShardState>,
}

/// What a node tells the system shard.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) news: ShardNews,
    pub(crate) members: Option<Membership>,
}

/// The world.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) planted: Planted,
    pub(crate) trace: Option<VecDeque<String>>,
    pub(crate) step: u64,
    /// µs.
    pub(crate) now: u64,
    pub(crate) keys: Keys,
    pub(crate) table: TableId,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: BTreeMap<ShardId, Group>,
    pub(crate) oracle: Oracle,
    /// The newest map.
    pub(crate) map: Arc<SystemState>,
    /// By key: the version of its owner in the newest map.
    pub(crate) versions: Vec<u64>,
    pub(crate) reports: Vec<Report>,
    pub(crate) truth: Truth,
    pub(crate) clients: Vec<Client>,
    pub(crate) net: Vec<Sent>,
    /// Writes that are over: their client, their keys.
    pub(crate) past: Vec<(usize, WriteRequest)>,
    pub(crate) reader: Reader,
    pub(crate) follower: Follower,
    /// By node: how far its wall clock is ahead, µs.
    pub(crate) skew: Vec<u64>,
    /// A node that hears little.
    pub(crate) slow: Option<usize>,
    /// A key that half of the load is on.
    pub(crate) hot: usize,
    /// Shards are merged.
    pub(crate) merges: bool,
    /// How often a target's leader cancels at a step, per mille.
    pub(crate) cancels: u64,
    /// Writes of a client.
    pub(crate) writes: u64,
    pub(crate) next_space: u32,
    pub(crate) next_attempt: u64,
    pub(crate) reached: BTreeMap<&'static str, u64>,
}

impl World {
    /// The world of a seed.
    pub(crate) fn new(seed: u64, planted: Planted, traced: bool) -> Check<Self> {
        let mut dice = Dice::new(seed);
        let partitioning = if dice.chance(700) { Partitioning::Range } else { Partitioning::Hash };
        let mut world = Self::of(dice, partitioning, planted, traced)?;
        // Schedules of even seeds are those that there were before there were merges.
        world.merges = !seed.is_multiple_of(2);
        world.cancels = [3, 3, 50][(seed / 2 % 3) as usize];
        Ok(world)
    }

    /// The world of a table that is partitioned so.
    pub(crate) fn of(mut dice: Dice, partitioning: Partitioning, planted: Planted, traced: bool) -> Check<Self> {
        let keys = Keys::new(partitioning);
        let middle = [2, 4, 6][dice.index(3)];
        let (map, table) = founded(partitioning, &keys, middle)?;
        let map = Arc::new(map);
        let skew = (0..NODES).map(|_| [0, 0, 9, 60][dice.index(4)]).collect();
        let slow = dice.pick(&[None, None, Some(0), Some(1), Some(2)]).flatten();
        let mut world = Self {
            skew,
            slow,
            hot: dice.index(KEYS),
            merges: false,
            cancels: 0,
            writes: [6, 12, 12][dice.index(3)],
            dice,
            planted,
            trace: traced.then(VecDeque::new),
            step: 0,
            now: 1,
            keys,
            table,
            nodes: (0..NODES).map(|node| Node::new(node, Arc::clone(&map))).collect(),
            groups: BTreeMap::new(),
            oracle: Oracle { store: MemState::new(), states: BTreeMap::new() },
            versions: vec![1; KEYS],
            reports: Vec::new(),
            truth: Truth::new(),
            clients: (0..CLIENTS).map(|_| Client { next: 1, ..Client::default() }).collect(),
            net: Vec::new(),
            past: Vec::new(),
            reader: Reader::default(),
            follower: Follower::new(),
            next_space: 0x8000_0000,
            next_attempt: 0,
            reached: BTreeMap::new(),
            map,
        };
        world.found()?;
        Ok(world)
    }

    /// Founds the shards of the map on the first three nodes.
    fn found(&mut self) -> Check {
        let (map, table) = (Arc::clone(&self.map), self.table);
        for descriptor in map.shards.values().filter(|descriptor| descriptor.table == table) {
            let (shard, genesis) = (descriptor.shard, Genesis::Shard(descriptor.clone()));
            let mut state = ShardState::load(&mut self.oracle.store, own_space(shard), genesis.clone())?;
            let first = digest(&mut self.oracle.store, &mut state)?;
            self.oracle.states.insert(shard, state);
            let group = Group::new(shard, genesis.clone(), descriptor.membership.clone(), first, 0);
            for node in group.voters() {
                let node = &mut self.nodes[node];
                let state = ShardState::load(&mut node.store, own_space(shard), genesis.clone())?;
                node.states.insert(shard, state);
                node.logs.insert(shard, Log::empty(genesis.clone()));
            }
            self.groups.insert(shard, group);
        }
        for client in &mut self.clients {
            client.routes.map(mapped(&map));
        }
        self.reader.routes.map(mapped(&map));
        self.follower.routes.map(mapped(&map));
        Ok(())
    }

    /// Whether a fault of the explorer's own steps is planted.
    pub(crate) fn is_planted(&self, fault: HostFault) -> bool {
        self.planted.host == Some(fault)
    }

    /// Counts what a schedule reached.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// Adds a line to the trace, where there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let step = self.step;
        if let Some(trace) = &mut self.trace {
            if trace.len() == SHOWN {
                trace.pop_front();
            }
            trace.push_back(format!("{step:>4} {}", line()));
        }
    }

    /// Executes a command of the system shard; its new map is checked: each key has an owner, whose version did not fall.
    pub(crate) fn execute(&mut self, command: &SystemCommand) -> Check<SystemOutcome> {
        let mut map = SystemState::clone(&self.map);
        let (outcome, rows) = map.execute(command);
        if rows.is_empty() {
            return Ok(outcome);
        }
        ensure!(map.reservations_are_sound(), "the map of revision {} has an id reserved that is in use", map.revision);
        for key in 0..KEYS {
            let name = self.keys.name(key);
            let of_table = map.shards.values().filter(|descriptor| descriptor.table == self.table);
            let owners = of_table.filter(|descriptor| descriptor.contains(&name));
            let version = owners.map(|descriptor| descriptor.version).max();
            let (revision, before) = (map.revision, self.versions[key]);
            ensure!(
                version.is_some_and(|version| version >= before),
                "the map of revision {revision} has key {key} at version {version:?}, it was at {before}"
            );
            self.versions[key] = version.unwrap_or(before);
        }
        self.map = Arc::new(map);
        Ok(outcome)
    }

    /// Whether every key is in exactly one shard, by the logs.
    pub(crate) fn one_owner(&self) -> Check {
        for key in 0..KEYS {
            let name = self.keys.name(key);
            let owners = self.oracle.states.values().filter(|state| state.descriptor().contains(&name)).count();
            ensure!(owners == 1, "key {key} is in {owners} shards");
        }
        Ok(())
    }
}

/// The metadata of a cluster with one table of two shards, each on the first three nodes.
fn founded(partitioning: Partitioning, keys: &Keys, middle: usize) -> Check<(SystemState, TableId)> {
    let names: Vec<String> = (1..=NODES).map(|node| format!("node-{node}:1")).collect();
    let mut map = SystemState::found(7, &names);
    map.version = ClusterVersion::FIFTH;
    let (shards, splits) = match partitioning {
        Partitioning::Range => (0, vec![keys.at(middle)]),
        Partitioning::Hash => (2, Vec::new()),
    };
    let (name, retention) = ("t".into(), Retention::All);
    let create = SystemCommand::CreateTable { name, partitioning, retention, shards, splits, replicas: 3 };
    let SystemOutcome::Table(table) = map.execute(&create).0 else {
        return Err(Violation("a table cannot be created".into()));
    };
    let shards: Vec<ShardId> = map.shards.of_table(table).map(|descriptor| descriptor.shard).collect();
    for shard in shards {
        map.shards.change(&shard, |descriptor| descriptor.membership = members(Epoch(1), &[0, 1, 2], None, 0));
    }
    Ok((map, table))
}
