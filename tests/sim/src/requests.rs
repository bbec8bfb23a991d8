//! Operations of clients: begun, tried, tried again, ended.
//!
//! Owns: the way of requests and answers between clients and nodes. Must never: end an operation of which nothing is known
//! as failed.

use crate::clients::{Attempt, Kind, Operation, choose, keys_of};
use crate::clock::WALL_US;
use crate::plan::DRIFT_PPM;
use crate::retry::{Failed, Failure, Next, Retry};
use crate::violation::Checked;
use crate::world::{Event, Origin, Phase, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use synod_cluster::ids::{ClientSeq, NodeId, ShardId};
use synod_cluster::refusal::Refusal;
use synod_engine::command::{WriteId, WriteRequest};
use synod_engine::host::{Answer, Body, Freshness, Input, Reply, ReplySink, Request};
use synod_paxos::types::Epoch;

/// What a client gives an operation in the calm, µs: more than every wall clock's error.
const CALM_PATIENCE: u64 = 25_000_000;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    Unknown,
    Failed,
}

impl World {
    /// A client begins an operation.
    pub(crate) fn begin(
        &mut self,
        client: usize,
        kind: Kind,
        shard: ShardId,
        version: Option<u64>,
        voters: Vec<NodeId>,
        deadline: u64,
    ) -> u64 {
        self.last_op += 1;
        let op = self.last_op;
        // By a clock that is fast, an age is over early.
        let since = match &kind {
            Kind::Read { freshness: Freshness::Stale(age), .. } => {
                self.now.saturating_sub(age + age * 2 * DRIFT_PPM / 1_000_000)
            }
            _ => self.now,
        };
        let table = self.table_of(shard);
        let known = |key| self.shown.get(&(table, key)).map(|shown| shown.at(since)).unwrap_or_default();
        let known: BTreeMap<_, _> = keys_of(&kind).into_iter().map(|key| (key.clone(), known(key))).collect();
        self.coverage.count("asked", kind.name());
        let retry = Retry::new(client);
        let attempt = None;
        let operation = Operation {
            client,
            kind,
            table,
            shard,
            version,
            epoch: Epoch(0),
            voters,
            deadline,
            retry,
            attempt,
            attempts: 0,
            done: false,
            known,
        };
        self.ops.insert(op, operation);
        self.at(self.now, Event::Attempt { op });
        op
    }

    /// A client's next operation, unless it is over.
    pub(crate) fn next_operation(&mut self, client: usize) {
        let calm = self.phase == Phase::Calm;
        if self.phase == Phase::Quiet {
            return;
        }
        let patience = if calm { CALM_PATIENCE } else { self.dice.between(self.plan.patience) };
        let deadline = self.now + patience;
        let Self { clients, shards, plan, dice, shown, .. } = self;
        let hot = dice.chance(plan.hot);
        let shard = if hot { shards.first().cloned() } else { dice.pick(shards) };
        let Some(mut shard) = shard else { return };
        if calm && let Some(unserved) = shards.iter().find(|s| !self.calm_shards.contains(&s.shard)) {
            shard = unserved.clone();
        }
        let next = |key: &bytes::Bytes| shown.get(&(shard.table, key.clone())).map_or(0, |shown| shown.last().1);
        let kind = choose(&mut clients[client], &shard, WALL_US + deadline, plan, dice, next);
        self.begin(client, kind, shard.shard, Some(shard.version), shard.voters, deadline);
    }

    /// An operation's next attempt, or its end where its time is up.
    pub(crate) fn attempt(&mut self, op: u64) -> Checked {
        let now = self.now;
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        if operation.done {
            return Ok(());
        }
        if now >= operation.deadline {
            let write = operation.kind.is_write();
            let unknown = operation.retry.out_of_time(write) == Next::Unknown;
            return self.end(op, if unknown { Ending::Unknown } else { Ending::Failed });
        }
        // A client watches the map.
        if let Some(known) = self.shards.iter().find(|known| known.shard == operation.shard) {
            operation.voters.clone_from(&known.voters);
        }
        let crosses = self.aim(op);
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        if crosses && !operation.retry.may_cross() {
            self.coverage.count("routes", "batch of several shards refused");
            return self.end(op, Ending::Failed);
        }
        let client = &mut self.clients[operation.client];
        let leader = client.leaders.get(&operation.shard).copied();
        let leader = leader.filter(|_| operation.kind.is_of_leader());
        let node = operation.retry.choose(now, leader, &operation.voters);
        self.last_attempt += 1;
        let attempt = self.last_attempt;
        operation.attempt = Some(attempt);
        operation.attempts += 1;
        let limit = operation.retry.patience().min(operation.deadline - now);
        let mut id = match &operation.kind {
            Kind::Write(request) => Some(request.id),
            Kind::Read { .. } => None,
        };
        if self.plan.planted.forgetful_clients {
            id = id.map(|id| WriteId { seq: ClientSeq(id.seq.0 << 32 | attempt), floor: ClientSeq(0), ..id });
        }
        let (shard, version, epoch) = (operation.shard, operation.version, operation.epoch);
        let process = self.nodes[&node].process;
        self.attempts.insert(attempt, Attempt { op, shard, version, epoch, crosses, node, process, id });
        self.at(now + limit, Event::Failed { attempt, failure: Failure::Silent });
        let delay = self.dice.between(self.plan.delay);
        if self.dice.chance(self.plan.client_loss) {
            self.coverage.count("network", "request lost");
        } else {
            self.at(now + delay, Event::Request { attempt });
        }
        Ok(())
    }

    /// A request arrives at its node.
    pub(crate) fn request_arrives(&mut self, attempt: u64) {
        let Some(Attempt { op, shard, version, node: id, id: name, .. }) = self.attempts.get(&attempt) else { return };
        let (id, shard, version, name, operation) = (*id, *shard, *version, *name, &self.ops[op]);
        let body = match (operation.kind.body(), name) {
            (Body::Write(request), Some(id)) => Body::Write(WriteRequest { id, ..request }),
            (body, _) => body,
        };
        if let Some(news) = self.outdated(id, shard, version, operation) {
            return self.refuse_outdated(attempt, news);
        }
        let node = self.node(id);
        let process = node.process;
        match &mut node.up {
            None => {
                let delay = self.dice.between((80, 1_000));
                // A machine that is off says nothing; one that is on refuses.
                if self.dice.chance(500) {
                    self.at(self.now + delay, Event::Failed { attempt, failure: Failure::Unreached });
                }
            }
            Some(up) => {
                let sink = Arc::clone(&up.sink) as Arc<dyn ReplySink>;
                let request = Request { shard, version, body, reply: Reply { sink, id: attempt } };
                up.push(Input::Requests(vec![request]));
                if let Some(known) = self.attempts.get_mut(&attempt) {
                    known.process = process;
                }
                self.trace.note(self.now, "request", &[attempt, id.0, shard.0], || format!("{attempt} at {id}"));
                self.wake(id);
            }
        }
    }

    /// An answer leaves its node.
    pub(crate) fn send_reply(&mut self, from: Origin, attempt: u64, answer: Result<Answer, Refusal>) {
        let delay = self.dice.between(self.plan.delay);
        if self.dice.chance(self.plan.client_loss) {
            self.coverage.count("network", "answer lost");
            return;
        }
        self.at(from.stamp + delay, Event::Reply { from, attempt, answer });
    }

    /// An attempt failed at its client.
    pub(crate) fn attempt_failed(&mut self, attempt: u64, failure: Failure) -> Checked {
        let now = self.now;
        let Some(Attempt { op, node, crosses, .. }) = self.attempts.get(&attempt) else { return Ok(()) };
        let (op, node, crosses) = (*op, *node, *crosses);
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        if operation.done || operation.attempt != Some(attempt) {
            return Ok(());
        }
        operation.attempt = None;
        self.coverage.count("attempt failed", failure.name());
        let moved = self.learn_of(attempt, &failure);
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        let client = &mut self.clients[operation.client];
        let mut leader = client.leaders.get(&operation.shard).copied();
        let (shard, voters, write) = (operation.shard, operation.voters.len(), operation.kind.is_write());
        let renews = self.plan.planted.renewing_clients;
        let failed = Failed { node, shard, voters, write, moved, crosses, renews };
        let next = operation.retry.failed(now, &failed, failure, &mut leader, &mut self.dice);
        match leader {
            Some(leader) => drop(client.leaders.insert(operation.shard, leader)),
            None => drop(client.leaders.remove(&operation.shard)),
        }
        match next {
            Next::Again(pause) => {
                let at = (now + pause).min(operation.deadline.max(now));
                self.at(at, Event::Attempt { op });
                Ok(())
            }
            Next::Anew(shard_us) => self.start_anew(op, shard_us),
            Next::Unknown => self.end(op, Ending::Unknown),
            Next::Failed => self.end(op, Ending::Failed),
        }
    }

    /// A write whose deadline had passed by the shard's time gets another name, and a deadline by that time.
    fn start_anew(&mut self, op: u64, shard_us: u64) -> Checked {
        let now = self.now;
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        let (left, table, client) = (operation.deadline.saturating_sub(now), operation.table, operation.client);
        let Kind::Write(request) = &mut operation.kind else { return self.end(op, Ending::Failed) };
        let old = request.id;
        request.id = self.clients[client].rename(old.seq, shard_us.saturating_add(left));
        operation.retry = Retry::new(client);
        // Whichever shard of the table was asked.
        for model in self.models.values_mut().filter(|model| model.table() == table) {
            model.started_anew((old.client, old.seq))?;
        }
        self.coverage.count("operation", "started anew");
        self.at(now, Event::Attempt { op });
        Ok(())
    }

    /// An operation is over.
    pub(crate) fn end(&mut self, op: u64, ending: Ending) -> Checked {
        let Some(operation) = self.ops.get_mut(&op) else { return Ok(()) };
        operation.done = true;
        operation.attempt = None;
        operation.retry.succeeded = ending == Ending::Answered;
        let (client, shard, attempts) = (operation.client, operation.shard, operation.attempts);
        let table = operation.table;
        let is_write = operation.kind.is_write();
        if let Kind::Write(request) = &operation.kind {
            self.clients[client].finished(request.id.seq);
            if ending == Ending::Failed {
                for model in self.models.values_mut().filter(|model| model.table() == table) {
                    model.told_failed((request.id.client, request.id.seq))?;
                }
            }
        }
        self.trace.note(self.now, "end", &[op, ending as u64, attempts], || format!("{op} {ending:?}"));
        let row = match (ending, attempts > 1) {
            (Ending::Answered, false) => "answered at once",
            (Ending::Answered, true) => "answered after retries",
            (Ending::Unknown, _) => "outcome unknown",
            (Ending::Failed, _) => "failed",
        };
        self.coverage.count("operation", row);
        if self.phase == Phase::Calm && ending == Ending::Answered {
            *self.calm_done.entry(client).or_default() += 1;
            if is_write {
                self.calm_shards.insert(shard);
            }
        }
        if client > 0 {
            let pause = self.dice.between(self.plan.think);
            self.at(self.now + pause, Event::Idle { client });
        }
        Ok(())
    }
}
