//! The founding of a cluster, and its first tables.
//!
//! Owns: what stands before the first fault. Must never: be disturbed; a founding under faults is the end-to-end tests'.

use crate::clients::{Kind, KnownShard};
use crate::clock::WALL_US;
use crate::model::ShardModel;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::NodeInput;

/// Whoever has the first word: the administrator is client 0.
pub(crate) const ADMIN: usize = 0;
/// The founding takes no longer, µs.
const FOUNDING: u64 = 60_000_000;

impl World {
    /// Founds the cluster and creates its tables: five shards, over one log writer a node.
    pub(crate) fn found(&mut self) -> Checked {
        let (calm, plan) = (
            {
                let mut calm = self.plan.clone();
                calm.calm();
                calm
            },
            self.plan.clone(),
        );
        self.plan = calm;
        let (founders, joiners) = self.ids.split_at(self.plan.nodes as usize);
        let (founders, joiners) = (founders.to_vec(), joiners.to_vec());
        let address = |id: &NodeId| format!("host{id}:1");
        let addresses: Vec<String> = founders.iter().map(address).collect();
        let state = SystemState { version: self.versions.founded_at(), ..SystemState::found(77, &addresses) };
        let first = state.shards[&SYSTEM_SHARD].membership.clone();
        self.models.insert(SYSTEM_SHARD, ShardModel::new(SYSTEM_SHARD, first, None));
        for id in founders {
            self.restart(id)?;
            if let Some(up) = &mut self.node(id).up {
                up.push(NodeInput::CreateSystemShard(Box::new(state.clone())));
            }
            self.wake(id);
        }
        self.until_led("the system shard is led", vec![SYSTEM_SHARD])?;
        if self.versions.begins_raised() {
            self.command(&self.upgrade(self.ids[..self.plan.nodes as usize].to_vec()))?;
        }
        for id in joiners {
            let speaks = self.versions.of_a_joiner();
            self.command(&SystemCommand::AddNode { addr: address(&id), nonce: id.0.into(), speaks })?;
            self.restart(id)?;
        }
        let hash = SystemCommand::CreateTable {
            name: "log".into(),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards: 3,
            splits: vec![],
            replicas: self.plan.nodes as u32,
        };
        let range = SystemCommand::CreateTable {
            name: "kv".into(),
            partitioning: Partitioning::Range,
            retention: Retention::Latest,
            shards: 2,
            splits: vec!["m".into()],
            replicas: self.plan.nodes as u32,
        };
        for command in [hash, range] {
            self.command(&command)?;
        }
        let created =
            self.run_until(self.now + FOUNDING, |w| w.map.as_ref().is_some_and(|map| map.shards.len() == 6))?;
        check(created, "a cluster is founded", || "the tables' shards".into())?;
        let shards: Vec<ShardId> = self.map.iter().flat_map(|map| map.shards.keys().copied()).collect();
        self.until_led("the tables' shards are led", shards)?;
        let map = self.map.clone().expect("it was waited for");
        self.shards = KnownShard::of(&map);
        self.plan = plan;
        self.phase = Phase::Storm;
        for client in 1..=self.plan.clients as usize {
            for lane in 0..self.plan.lanes {
                self.at(self.now + lane * 500, Event::Idle { client });
            }
        }
        if self.plan.admin.1 > 0 {
            self.at(self.now + self.plan.admin.0, Event::Admin);
        }
        if self.plan.moves.1 > 0 {
            self.at(self.now + self.plan.moves.0, Event::Move);
            self.at(self.now + self.plan.moves.0, Event::Jobs);
        } else if self.splits.on {
            self.at(self.now, Event::Jobs);
        }
        if self.splits.on {
            self.at(self.now, Event::Splits);
        }
        if let Some(after) = self.versions.rises_after() {
            self.at(self.now + after, Event::Raise);
        }
        Ok(())
    }

    /// The administrator makes a table of one shard, or drops one that it made.
    pub(crate) fn administer(&mut self) {
        if self.phase != Phase::Storm {
            return;
        }
        let span = self.plan.admin;
        let pause = self.dice.between(span);
        self.at(self.now + pause, Event::Admin);
        let made = |name: &str| name.starts_with("extra");
        let tables = self.map.iter().flat_map(|map| map.tables.values());
        let extra: Vec<String> = tables.map(|t| t.name.clone()).filter(|name| made(name)).collect();
        let command = match self.dice.pick(&extra) {
            Some(name) if extra.len() > 2 || self.dice.chance(500) => SystemCommand::DropTable { name },
            _ => {
                self.tables_made += 1;
                SystemCommand::CreateTable {
                    name: format!("extra{}", self.tables_made),
                    partitioning: Partitioning::Hash,
                    retention: Retention::All,
                    shards: 1,
                    splits: vec![],
                    replicas: self.plan.nodes as u32,
                }
            }
        };
        self.coverage.count(
            "asked",
            if matches!(command, SystemCommand::DropTable { .. }) { "drop table" } else { "create table" },
        );
        let deadline = self.now + 8_000_000;
        let id = self.clients[ADMIN].name(WALL_US + deadline);
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, self.system_voters(), deadline);
    }

    /// The administrator's command, until it is carried out.
    fn command(&mut self, command: &SystemCommand) -> Checked {
        let id = self.clients[ADMIN].name(WALL_US * 2);
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        let op = self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, self.system_voters(), self.now + FOUNDING);
        let done = self.run_until(self.now + FOUNDING, |w| w.ops[&op].done)?;
        check(done && self.ops[&op].retry.succeeded, "a cluster is founded", || format!("{command:?}"))
    }

    fn until_led(&mut self, what: &'static str, shards: Vec<ShardId>) -> Checked {
        let led = |w: &mut World, shard: &ShardId| {
            w.nodes.values().any(|n| n.up.as_ref().is_some_and(|up| up.taps.lock().leads.contains(shard)))
        };
        let done = self.run_until(self.now + FOUNDING, |w| shards.iter().all(|shard| led(w, shard)))?;
        check(done, "a cluster is founded", || what.into())
    }
}
