//! A replica's thread: takes all inputs that wait, steps the core, sends, writes once for all, applies.
//!
//! Owns: the order of these. Must never: treat one core otherwise than the other.

use crate::command::{Order, heads};
use crate::consensus::Core;
use crate::links::Links;
use crate::load::Proposers;
use crate::setting::{BenchError, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use synod_cluster::ids::NodeWriteSeq;
use synod_engine::logstore::rocks::RocksLog;
use synod_engine::logstore::{LogBatch, LogStore};
use synod_paxos::types::{Micros, NodeId};

/// Inputs taken in one round.
const ROUND: usize = 4096;

/// What the thread and its cluster tell one another while it runs. Nothing is ordered by these.
#[derive(Debug, Default)]
pub struct Shared {
    /// It is to end, as if it were killed.
    pub stop: AtomicBool,
    /// Proposers go on.
    pub proposing: AtomicBool,
    /// Latencies are recorded.
    pub measuring: AtomicBool,
    /// Its core leads.
    pub leads: AtomicBool,
    /// How often it began to.
    pub elected: AtomicU64,
    /// When the first command of its own newest leadership was applied, µs of the cluster's clock; 0 before.
    pub first_done: AtomicU64,
    /// Commands of its own proposers, applied.
    pub done: AtomicU64,
    /// All commands applied.
    pub applied: AtomicU64,
    /// Messages sent, pulses and heartbeats included.
    pub sent: AtomicU64,
    /// Messages dropped, their queue being full or its connection gone.
    pub dropped: AtomicU64,
    /// Synced writes.
    pub syncs: AtomicU64,
}

/// What a node leaves behind.
pub struct Outcome {
    /// What it had applied, entry by entry.
    pub orders: Vec<Order>,
    /// Of its own proposers.
    pub latencies: Histogram<u64>,
}

/// One replica with all that is its own.
pub struct Node<C> {
    /// Its name.
    pub me: NodeId,
    /// Its replica.
    pub core: C,
    /// Its log.
    pub log: Arc<RocksLog>,
    /// Its connections.
    pub links: Links,
    /// Its proposers.
    pub proposers: Proposers,
    /// Bytes of a command.
    pub bytes: usize,
    /// What others may see of it.
    pub shared: Arc<Shared>,
    /// When the cluster's clock stood at 0.
    pub epoch: Instant,
}

/// The cluster's clock; never 0, which stands for "not yet".
#[must_use]
pub fn clock(epoch: Instant) -> Micros {
    Micros(u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1))
}

struct Running<C> {
    node: Node<C>,
    orders: Vec<Order>,
    seq: u64,
    refused: bool,
}

/// Runs until it is told to stop.
pub fn run<C: Core>(node: Node<C>) -> Result<Outcome> {
    // The log's first write, of the group's creation, was number 1.
    let mut running = Running { node, orders: Vec::new(), seq: 1, refused: false };
    while !running.node.shared.stop.load(Relaxed) {
        running.round()?;
    }
    Ok(Outcome { orders: running.orders, latencies: running.node.proposers.latencies })
}

impl<C: Core> Running<C> {
    fn now(&self) -> Micros {
        clock(self.node.epoch)
    }

    fn round(&mut self) -> Result<()> {
        let inputs = self.inputs();
        let now = self.now();
        for (from, frame) in inputs {
            self.node.core.receive(from, frame, now)?;
        }
        self.node.core.tick(now)?;
        self.watch_role();
        if self.may_propose() {
            let batch = self.node.proposers.batch();
            self.refused = !self.node.core.propose(batch, now)?;
            if !self.refused {
                self.node.proposers.taken();
            }
        }
        self.carry_out()
    }

    fn may_propose(&self) -> bool {
        let shared = &self.node.shared;
        self.node.proposers.wait() && shared.leads.load(Relaxed) && shared.proposing.load(Relaxed)
    }

    /// All that waits; where nothing does, what comes before the core's next deadline.
    fn inputs(&self) -> Vec<(NodeId, Bytes)> {
        let inbox = &self.node.links.inbox;
        let mut inputs = Vec::new();
        if !self.may_propose() || self.refused {
            let wait = Duration::from_micros(self.node.core.deadline().0.saturating_sub(self.now().0));
            inputs.extend(inbox.recv_timeout(wait));
        }
        while inputs.len() < ROUND {
            let Ok(input) = inbox.try_recv() else { break };
            inputs.push(input);
        }
        inputs
    }

    fn watch_role(&mut self) {
        let leads = self.node.core.leads();
        let shared = &self.node.shared;
        if shared.leads.swap(leads, Relaxed) == leads {
            return;
        }
        if leads {
            shared.first_done.store(0, Relaxed);
            shared.elected.fetch_add(1, Relaxed);
            self.node.proposers.begin();
        } else {
            self.node.proposers.end();
        }
    }

    /// Sends, then one synced write, then applies; until the core wants nothing more.
    fn carry_out(&mut self) -> Result<()> {
        loop {
            let work = self.node.core.work()?;
            if work.is_empty() {
                return Ok(());
            }
            for (to, frame) in work.sends {
                let counter =
                    if self.node.links.send(to, frame) { &self.node.shared.sent } else { &self.node.shared.dropped };
                counter.fetch_add(1, Relaxed);
            }
            if !work.writes.is_empty() {
                self.seq += 1;
                let batch = LogBatch { groups: work.writes, seq: NodeWriteSeq(self.seq), seen: Vec::new() };
                self.node.log.write(&batch)?;
                self.node.shared.syncs.fetch_add(1, Relaxed);
                let now = self.now();
                self.node.core.persisted(now)?;
            }
            for payload in &work.applied {
                self.apply(payload)?;
            }
        }
    }

    fn apply(&mut self, payload: &Bytes) -> Result<()> {
        let cut =
            || BenchError::Stopped { node: self.node.me, why: "an entry was applied that nobody proposed".into() };
        let heads = heads(payload, self.node.bytes).ok_or_else(cut)?;
        let shared = &self.node.shared;
        let measured = shared.measuring.load(Relaxed);
        let mut order = self.orders.last().copied().unwrap_or_default();
        for head in &heads {
            order.apply(head);
            if self.node.proposers.applied(head, measured) {
                shared.done.fetch_add(1, Relaxed);
                if shared.first_done.load(Relaxed) == 0 {
                    shared.first_done.store(clock(self.node.epoch).0, Relaxed);
                }
            }
        }
        self.orders.push(order);
        shared.applied.fetch_add(heads.len() as u64, Relaxed);
        Ok(())
    }
}
