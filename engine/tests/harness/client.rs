//! Requests to a cluster, as a client with retries makes them.

use super::{Cluster, append};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use synod_cluster::ids::{ClientId, ClientSeq, NodeId, Offset, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
use synod_engine::command::{KeyOp, Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{Answer, At, Body, Freshness, Input, KeyedRecord, Read, Reply, ReplySink, Request, Scan};

impl Cluster {
    pub fn send(&mut self, node: NodeId, shard: ShardId, body: Body) -> u64 {
        self.next_request += 1;
        let id = self.next_request;
        let reply = Reply { sink: Arc::clone(&self.answers) as Arc<dyn ReplySink>, id };
        self.push(node, Input::Requests(vec![Request { shard, version: None, body, reply }]));
        id
    }

    pub fn await_answer(&mut self, id: u64) -> Result<Answer, Refusal> {
        let mut found = None;
        self.run_until("an answer", |c| {
            found = found.take().or_else(|| c.answers.take(id));
            found.is_some()
        });
        found.unwrap()
    }

    pub fn next_id(&mut self) -> WriteId {
        self.next_seq += 1;
        WriteId { client: ClientId(5), seq: ClientSeq(self.next_seq), floor: ClientSeq(0), deadline_us: u64::MAX }
    }

    /// Asks the leader until somebody answers.
    pub fn call(&mut self, shard: ShardId, body: impl Fn() -> Body) -> Result<Answer, Refusal> {
        for _ in 0..200 {
            // One that went into another has none.
            let gone = |c: &Self| c.map.as_ref().is_some_and(|map| !map.shards.contains_key(&shard));
            self.run_until("a leader", |c| c.leader(shard).is_some() || gone(c));
            let Some(leader) = self.leader(shard) else { return Err(Refusal::WrongShard) };
            let id = self.send(leader, shard, body());
            if let Some(disturb) = self.disturb {
                for _ in 0..self.below(12) {
                    self.step();
                }
                disturb(self);
            }
            let mut found = None;
            let end = self.now.plus(3_000_000);
            self.run("an answer or a timeout", end.plus(1_000_000), |c| {
                found = found.take().or_else(|| c.answers.take(id));
                found.is_some() || c.now >= end || !c.is_up(leader)
            });
            match found {
                Some(Err(
                    Refusal::NotLeader { .. } | Refusal::NotReady | Refusal::Overloaded | Refusal::Changing { .. },
                ))
                | None => {
                    self.run_for(20_000);
                }
                Some(answer) => return answer,
            }
        }
        panic!("no answer in 200 attempts")
    }

    pub fn write(&mut self, table: TableId, ops: Vec<KeyOp>) -> Result<Outcome, Refusal> {
        let id = self.next_id();
        self.write_as(id, table, ops)
    }

    pub fn write_as(&mut self, id: WriteId, table: TableId, ops: Vec<KeyOp>) -> Result<Outcome, Refusal> {
        let shard = self.shard_for(table, std::str::from_utf8(&ops[0].key).unwrap());
        let request = WriteRequest { id, op: Op::Write { table, ops } };
        match self.call(shard, || Body::Write(request.clone()))? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => panic!("{other:?}"),
        }
    }

    pub fn append(&mut self, table: TableId, key: &str, value: &str) -> u64 {
        match self.write(table, vec![append(key, value)]) {
            Ok(Outcome::Written(results)) => results[0].offset.0,
            other => panic!("{other:?}"),
        }
    }

    pub fn create_table(
        &mut self,
        name: &str,
        partitioning: Partitioning,
        retention: Retention,
        shards: u32,
    ) -> TableId {
        let splits = match partitioning {
            Partitioning::Range => (1..shards).map(|n| Bytes::from(format!("k{n}"))).collect(),
            Partitioning::Hash => vec![],
        };
        let (name, replicas) = (name.into(), 0);
        let command = SystemCommand::CreateTable { name, partitioning, retention, shards, splits, replicas };
        let SystemOutcome::Table(table) = self.system(&command) else { panic!() };
        self.run_until("the table's shards are led", |c| {
            let shards = c.shards_of(table);
            !shards.is_empty() && shards.iter().all(|s| c.leader(*s).is_some())
        });
        table
    }

    pub fn system(&mut self, command: &SystemCommand) -> SystemOutcome {
        let request = WriteRequest { id: self.next_id(), op: Op::System(command.encode()) };
        match self.call(SYSTEM_SHARD, || Body::Write(request.clone())) {
            Ok(Answer::Outcome(Outcome::System(outcome))) => SystemOutcome::decode(outcome).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn read(&mut self, shard: ShardId, read: &Read) -> Result<Answer, Refusal> {
        self.call(shard, || Body::Read { read: read.clone(), freshness: Freshness::Linearizable })
    }

    pub fn get(&mut self, table: TableId, key: &str) -> Option<String> {
        let shard = self.shard_for(table, key);
        let wanted = Read::Get { key: Bytes::copy_from_slice(key.as_bytes()), at: At::Newest };
        match self.read(shard, &wanted) {
            Ok(Answer::Record { record, .. }) => record.map(|r| String::from_utf8(r.record.value.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// All records of a key.
    pub fn range(&mut self, table: TableId, key: &str) -> Vec<KeyedRecord> {
        let shard = self.shard_for(table, key);
        let mut all: Vec<KeyedRecord> = vec![];
        loop {
            let from = Offset(all.last().map_or(0, |r| r.offset.0 + 1));
            let wanted = Read::Range { key: Bytes::copy_from_slice(key.as_bytes()), from, limit: 0 };
            match self.read(shard, &wanted) {
                Ok(Answer::Page { records, cursor, .. }) => {
                    all.extend(records);
                    if cursor.is_empty() {
                        return all;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// All records of a shard, from one node's own state.
    pub fn dump(&mut self, node: NodeId, shard: ShardId) -> Vec<KeyedRecord> {
        let mut wanted = Scan { history: true, tombstones: true, ..Scan::default() };
        let mut all = vec![];
        loop {
            let body = Body::Read { read: Read::Scan(wanted.clone()), freshness: Freshness::Local };
            let id = self.send(node, shard, body);
            match self.await_answer(id) {
                Ok(Answer::Page { records, cursor, .. }) => {
                    all.extend(records);
                    if cursor.is_empty() {
                        return all;
                    }
                    wanted.cursor = cursor;
                }
                Err(Refusal::NotReady) => self.run_for(10_000),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Every node that is up and has a replica has applied the same and holds the same.
    pub fn check_equal(&mut self, shard: ShardId) {
        self.run_until("all have applied the same", |c| {
            let nodes: Vec<NodeId> = c.ids().into_iter().filter(|n| c.is_up(*n)).collect();
            let applied: BTreeSet<_> =
                nodes.into_iter().filter_map(|n| c.replica(n, shard).map(|r| (r.applied, r.last))).collect();
            applied.len() == 1 && applied.iter().all(|(a, l)| a == l)
        });
        if shard == SYSTEM_SHARD {
            return;
        }
        let up: Vec<NodeId> = self.ids().into_iter().filter(|n| self.is_up(*n)).collect();
        let nodes: Vec<NodeId> = up.into_iter().filter(|n| self.replica(*n, shard).is_some()).collect();
        let dumps: Vec<_> = nodes.iter().map(|n| self.dump(*n, shard)).collect();
        assert!(dumps.windows(2).all(|w| w[0] == w[1]), "shard {shard} differs between nodes");
    }
}
