//! Clients that write: new names, attempts, answers, and names that come again long after.
//!
//! Owns: the network between clients and nodes. Must never: decide what follows a failed attempt; `synod_cluster::decide` does.

use crate::client::{Call, Sent, mapped, news, progress, way};
use crate::group::{Ticket, What, id_of, value_of};
use crate::keys::KEYS;
use crate::node::Node;
use crate::violation::Check;
use crate::world::World;
use std::collections::BTreeSet;
use std::time::Duration;
use synod_cluster::decide::{Attempt, Failure, Next, Refused};
use synod_cluster::error::Error;
use synod_cluster::ids::{ClientId, ClientSeq, ShardId};
use synod_cluster::overlay::News;
use synod_cluster::refusal::Refusal;
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, Outcome, WriteId, WriteRequest};
use synod_engine::machine::{Applied, ShardState};

/// Calls of one client at once.
const CALLS_MAX: usize = 2;
/// How long an attempt is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// Of the writes that are over, so many may come again.
const REMEMBERED: usize = 12;

/// What a node says of all replicas that live there.
pub(crate) fn hints(node: &Node) -> Vec<News> {
    let living = node.states.iter().filter(|(shard, _)| node.logs.contains_key(*shard));
    living.map(|(_, state)| news(state.descriptor())).collect()
}

impl World {
    /// A key; half of the time the hot one.
    pub(crate) fn any_key(&mut self) -> usize {
        if self.dice.chance(500) { self.hot } else { self.dice.index(KEYS) }
    }

    /// A client begins a write.
    pub(crate) fn new_write(&mut self) -> Check {
        let at = self.dice.index(self.clients.len());
        if self.clients[at].calls.len() >= CALLS_MAX || self.clients[at].next > self.writes {
            return Ok(());
        }
        let first = self.any_key();
        let mut keys = vec![first];
        let second = self.dice.chance(250).then(|| way(&self.clients[at].routes, &self.keys, first)).flatten();
        if let Some(way) = second.filter(|way| way.from < way.upto) {
            let second = way.from + self.dice.index(way.upto - way.from);
            if second != first {
                keys.push(second);
            }
        }
        let deadline_us = self.now + [60, 200, 900][self.dice.index(3)];
        let client = &mut self.clients[at];
        let seq = client.next;
        client.next += 1;
        let floor = client.calls.keys().next().copied().unwrap_or(seq);
        let op = |key: &usize| KeyOp {
            key: self.keys.name(*key),
            expect: Expect::Any,
            action: Action::Append(vec![NewRecord { headers: Vec::new(), value: value_of(at, seq) }]),
        };
        let ops = keys.iter().map(op).collect();
        let client_id = ClientId(at as u128);
        let id = WriteId { client: client_id, seq: ClientSeq(seq), floor: ClientSeq(floor), deadline_us };
        let request = WriteRequest { id, op: Op::Write { table: self.table, ops } };
        client.calls.insert(seq, Call { request, keys, progress: progress(), waits: None });
        self.send(at, seq)
    }

    /// Any call of any client.
    pub(crate) fn any_call(&mut self) -> Option<(usize, u64)> {
        let at = self.dice.index(self.clients.len());
        let seqs: Vec<u64> = self.clients[at].calls.keys().copied().collect();
        self.dice.pick(&seqs).map(|seq| (at, seq))
    }

    /// A client takes the newest map.
    pub(crate) fn map_for_client(&mut self, at: usize) {
        let map = mapped(&self.map);
        self.clients[at].routes.map(map);
    }

    /// The next attempt of a call, where none is under way.
    pub(crate) fn send(&mut self, at: usize, seq: u64) -> Check {
        let late = self.dice.chance(500);
        let Some(call) = self.clients[at].calls.get_mut(&seq) else { return Ok(()) };
        if call.waits.is_some() {
            return Ok(());
        }
        if self.now > call.request.id.deadline_us + 5 && late {
            let error = call.progress.out_of_time(true);
            return self.close(at, seq, &error);
        }
        let routes = &self.clients[at].routes;
        let Some(call) = self.clients[at].calls.get(&seq) else { return Ok(()) };
        let ways: Option<Vec<_>> = call.keys.iter().map(|key| way(routes, &self.keys, *key)).collect();
        let Some(ways) = ways else {
            self.map_for_client(at);
            return Ok(());
        };
        let shards: BTreeSet<ShardId> = ways.iter().map(|way| way.shard).collect();
        if shards.len() > 1 {
            let error = call.progress.settle(true, Error::CrossShard);
            self.count("batch across shards");
            return self.close(at, seq, &error);
        }
        let (shard, version, request) = (ways[0].shard, ways[0].version, call.request.clone());
        let leader = self.groups.get(&shard).and_then(|group| group.leader);
        let guess = self.dice.index(self.nodes.len());
        let node = leader.filter(|_| self.dice.chance(900)).unwrap_or(guess);
        self.next_attempt += 1;
        let attempt = self.next_attempt;
        if let Some(call) = self.clients[at].calls.get_mut(&seq) {
            call.waits = Some((attempt, shard, node));
        }
        let ticket = Ticket { client: at, seq, attempt, shard, node };
        self.net.push(Sent { ticket, request, version });
        Ok(())
    }

    /// A message reaches its node, or is lost.
    pub(crate) fn deliver(&mut self) -> Check {
        if self.net.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.net.len());
        let sent = self.net.swap_remove(at);
        let ticket = sent.ticket;
        if self.dice.chance(50) || !self.nodes[ticket.node].up {
            return Ok(());
        }
        match self.admit(sent) {
            Ok(()) => Ok(()),
            Err(refusal) => self.answer(ticket, Err(refusal)),
        }
    }

    /// A node takes a write up, or refuses it.
    fn admit(&mut self, sent: Sent) -> Result<(), Refusal> {
        let Sent { ticket, request, version } = sent;
        let Ticket { shard, node: at, .. } = ticket;
        let leader = self.groups.get(&shard).and_then(|group| group.leader);
        let node = &self.nodes[at];
        let state = node.states.get(&shard).filter(|_| node.logs.contains_key(&shard));
        if state.is_none_or(|state| state.descriptor().version != version) {
            return Err(Refusal::WrongShard);
        }
        if let Some(changing) = state.and_then(ShardState::changing) {
            return Err(changing);
        }
        if leader != Some(at) {
            return Err(Refusal::NotLeader { leader: leader.map(id_of), maybe: false });
        }
        let taken = self.propose(shard, What::Write(request), Some(ticket));
        if taken { Ok(()) } else { Err(Refusal::Overloaded) }
    }

    /// An answer reaches the client of an attempt.
    pub(crate) fn answer(&mut self, ticket: Ticket, result: Applied) -> Check {
        let Ticket { client: at, seq, attempt, shard, node } = ticket;
        let refusal = match result {
            Ok(outcome) => return self.acknowledge(ticket, &outcome),
            Err(refusal) => refusal,
        };
        if refusal == Refusal::WrongShard {
            for news in hints(&self.nodes[node]) {
                self.clients[at].routes.hint(news);
            }
        }
        self.failed((at, seq), (attempt, shard, node), Failure::Refused(Refused::from(&refusal)))
    }

    /// An attempt failed: what follows is decided as a client decides it.
    fn failed(&mut self, call: (usize, u64), waited: (u64, ShardId, usize), failure: Failure) -> Check {
        let ((at, seq), now) = (call, Duration::from_micros(self.now));
        let Some(call) = self.clients[at].calls.get_mut(&seq) else { return Ok(()) };
        if call.waits != Some(waited) {
            return Ok(());
        }
        call.waits = None;
        let (_, shard, node) = waited;
        let (shard, node) = (shard.0, id_of(node).0);
        // Where a retry goes, and when, is a schedule's choice; a batch that has come to lie on two shards is not sent.
        let (moved, crosses) = (false, false);
        let attempt = Attempt { table: "t", shard, voters: 3, node, write: true, may_have_left: true, moved, crosses };
        match call.progress.failed(failure, &attempt, now, |_| true) {
            Next::Again { .. } | Next::LookUp => Ok(()),
            Next::End(error) => self.close(at, seq, &error),
        }
    }

    /// A client has waited long enough for an attempt. It may still arrive.
    pub(crate) fn time_out(&mut self, at: usize, seq: u64) -> Check {
        let Some(waited) = self.clients[at].calls.get(&seq).and_then(|call| call.waits) else { return Ok(()) };
        self.failed((at, seq), waited, Failure::Silent(PATIENCE))
    }

    fn acknowledge(&mut self, ticket: Ticket, outcome: &Outcome) -> Check {
        let Ticket { client: at, seq, attempt, .. } = ticket;
        let waits = |call: &&mut Call| call.waits.is_some_and(|(waits, ..)| waits == attempt);
        let Some(call) = self.clients[at].calls.get_mut(&seq).filter(waits) else { return Ok(()) };
        let keys = call.keys.clone();
        if let Outcome::Written(results) = outcome {
            self.truth.acknowledged((at, seq), &keys, results)?;
        }
        self.count("write acknowledged");
        self.over(at, seq);
        Ok(())
    }

    /// A call ends without its outcome.
    fn close(&mut self, at: usize, seq: u64, error: &Error) -> Check {
        self.note(|| format!("write {seq} of client {at} ends: {error}"));
        if matches!(error, Error::OutcomeUnknown { .. }) {
            self.count("write unknown");
        } else {
            self.truth.failed((at, seq))?;
            self.count("write failed");
        }
        self.over(at, seq);
        Ok(())
    }

    fn over(&mut self, at: usize, seq: u64) {
        if let Some(call) = self.clients[at].calls.remove(&seq) {
            self.past.push((at, call.request));
        }
    }

    /// A name that is over, and was executed, comes again to the shard that has its first key by now: it may be known, below the floor
    /// or too late, and is never executed again.
    pub(crate) fn old_name(&mut self) {
        let from = self.past.len().saturating_sub(REMEMBERED);
        if from == self.past.len() {
            return;
        }
        let at = from + self.dice.index(self.past.len() - from);
        let (client, request) = self.past[at].clone();
        let seq = request.id.seq.0;
        let Op::Write { ops, .. } = &request.op else { return };
        let Some(key) = ops.first().map(|op| op.key.clone()) else { return };
        let owner = self.oracle.states.values().find(|state| state.descriptor().contains(&key));
        let Some((shard, version)) = owner.map(|o| (o.descriptor().shard, o.descriptor().version)) else { return };
        let leader = self.groups.get(&shard).and_then(|group| group.leader);
        if let Some(node) = leader.filter(|_| self.truth.is_executed((client, seq))) {
            self.net.push(Sent { ticket: Ticket { client, seq, attempt: 0, shard, node }, request, version });
            self.count("old name sent again");
        }
    }
}
