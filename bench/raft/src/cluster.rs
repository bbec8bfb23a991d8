//! Three replicas of one protocol, as threads of this process.
//!
//! Owns: their threads and directories. Must never: end without having compared what the replicas applied.

use crate::command::Order;
use crate::consensus::Core;
use crate::links;
use crate::load::Proposers;
use crate::node::{Node, Outcome, Shared, clock, run};
use crate::setting::{BenchError, Result, Timing, create_log, io, nodes};
use hdrhistogram::Histogram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long is waited for a leader, and for the replicas to apply all that was chosen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often is looked.
const LOOK: Duration = Duration::from_millis(1);

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Closed-loop proposers at the leader.
    pub proposers: u32,
    /// Bytes of a command.
    pub bytes: usize,
    /// Where data is kept while it runs.
    pub data_dir: PathBuf,
    /// The times of the replicas.
    pub timing: Timing,
}

struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Outcome>>>,
}

/// A running group.
pub struct Cluster {
    protocol: &'static str,
    epoch: Instant,
    nodes: Vec<Running>,
    /// Of nodes that were stopped under load.
    stopped: Vec<Outcome>,
    _data: TempDir,
}

impl Cluster {
    /// Starts a new group; its proposers propose from the start.
    pub fn start<C: Core>(spec: &Spec) -> Result<Cluster> {
        let data = tempfile::Builder::new().prefix("bench-raft-").tempdir_in(&spec.data_dir);
        let data = data.map_err(io(format!("make a directory in {}", spec.data_dir.display())))?;
        let logs: Vec<_> =
            nodes().iter().map(|node| create_log(&data.path().join(node.to_string()))).collect::<Result<_>>()?;
        let (epoch, links) = (Instant::now(), links::connect()?);
        let mut cluster = Cluster { protocol: C::NAME, epoch, nodes: Vec::new(), stopped: Vec::new(), _data: data };
        for ((me, log), links) in nodes().into_iter().zip(logs).zip(links) {
            let shared = Arc::new(Shared::default());
            shared.proposing.store(true, Relaxed);
            let node = Node {
                me,
                core: C::open(me, Arc::clone(&log), &spec.timing, clock(epoch))?,
                log,
                links,
                proposers: Proposers::new(me, spec.proposers, spec.bytes),
                bytes: spec.bytes,
                shared: Arc::clone(&shared),
                epoch,
            };
            let name = format!("{}-{me}", C::NAME);
            let thread = thread::Builder::new().name(name).spawn(move || run(node)).map_err(io("a thread"))?;
            cluster.nodes.push(Running { shared, thread: Some(thread) });
        }
        Ok(cluster)
    }

    /// What each node shows, the stopped ones included.
    pub fn shared(&self) -> impl Iterator<Item = &Shared> {
        self.nodes.iter().map(|node| &*node.shared)
    }

    /// The cluster's clock, µs.
    #[must_use]
    pub fn now(&self) -> u64 {
        clock(self.epoch).0
    }

    /// Waits until `done` tells something; a node that ended meanwhile is why it cannot.
    pub fn wait<T>(&mut self, what: &str, mut done: impl FnMut(&Cluster) -> Option<T>) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = done(self) {
                return Ok(found);
            }
            self.check()?;
            if Instant::now() >= until {
                return Err(BenchError::Late { what: format!("{}: {what}", self.protocol), limit: PATIENCE });
            }
            thread::sleep(LOOK);
        }
    }

    /// The failure of a node, where one failed.
    pub fn check(&mut self) -> Result<()> {
        for at in 0..self.nodes.len() {
            let running = &self.nodes[at];
            let told = running.shared.stop.load(Relaxed);
            if !told && running.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                self.join(at)?;
            }
        }
        Ok(())
    }

    /// Waits for a leader with a command applied; which it is.
    pub fn leader(&mut self) -> Result<usize> {
        self.wait("no leader came to apply a command", |cluster| {
            cluster.shared().position(|s| s.leads.load(Relaxed) && s.first_done.load(Relaxed) > 0)
        })
    }

    /// Ends a node's thread as if it were killed: it says nothing to its peers, and its connections close.
    pub fn stop(&mut self, at: usize) -> Result<()> {
        let outcome = self.join(at)?;
        self.stopped.extend(outcome);
        Ok(())
    }

    fn join(&mut self, at: usize) -> Result<Option<Outcome>> {
        let running = &mut self.nodes[at];
        running.shared.stop.store(true, Relaxed);
        let Some(thread) = running.thread.take() else { return Ok(None) };
        let died = |_| BenchError::Stopped { node: nodes()[at], why: "its thread panicked".into() };
        thread.join().map_err(died)?.map(Some)
    }

    /// Ends the load, waits until the nodes that run have applied the same, ends them, and compares. Latencies of these.
    pub fn finish(mut self) -> Result<Histogram<u64>> {
        self.shared().for_each(|s| s.proposing.store(false, Relaxed));
        let (mut seen, mut since) = (0, Instant::now());
        self.wait("the replicas did not come to apply the same number of commands", |cluster| {
            let running = || cluster.shared().filter(|s| !s.stop.load(Relaxed));
            let most = running().map(|s| s.applied.load(Relaxed)).max().unwrap_or(0);
            if most != seen || running().any(|s| s.applied.load(Relaxed) != most) {
                (seen, since) = (most, Instant::now());
            }
            // What is under way is chosen, or would have been, within this time.
            (since.elapsed() > Duration::from_millis(300)).then_some(())
        })?;
        let mut outcomes = Vec::new();
        for at in 0..self.nodes.len() {
            outcomes.extend(self.join(at)?);
        }
        let orders = |outcomes: &[Outcome]| outcomes.iter().map(|o| o.orders.clone()).collect::<Vec<_>>();
        same_order(self.protocol, &orders(&outcomes), &orders(&self.stopped))?;
        let mut outcomes = outcomes.into_iter().map(|outcome| outcome.latencies);
        let mut all = outcomes.next().expect("some node runs until the end");
        for latencies in outcomes {
            all.add(latencies).expect("equal bounds");
        }
        Ok(all)
    }
}

/// Refuses figures of replicas that applied different commands, another order, or nothing, and of those that lost what one
/// that was stopped had applied, which is what it had acknowledged.
fn same_order(protocol: &'static str, running: &[Vec<Order>], stopped: &[Vec<Order>]) -> Result<()> {
    let first = running.first().map_or(&[][..], Vec::as_slice);
    let last = first.last().copied().unwrap_or_default();
    let same = last.count > 0 && running.iter().all(|orders| orders.last() == Some(&last));
    let kept = stopped.iter().all(|orders| orders.last().is_none_or(|order| first.contains(order)));
    if same && kept {
        return Ok(());
    }
    let lasts = |of: &[Vec<Order>]| of.iter().map(|orders| orders.last().copied()).collect::<Vec<_>>();
    let seen = format!("running {:?}, stopped {:?}", lasts(running), lasts(stopped));
    Err(BenchError::Disagreement { protocol, seen })
}

impl Drop for Cluster {
    /// After a failure: no thread is left behind, and no directory that one writes to.
    fn drop(&mut self) {
        for at in 0..self.nodes.len() {
            // The failure was told already.
            let _ = self.join(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_or_a_lost_command_is_not_let_pass() {
        let orders = |digests: &[u64]| {
            let order = |(at, digest): (usize, &u64)| Order { count: 2 * (at as u64 + 1), digest: *digest };
            digests.iter().enumerate().map(order).collect::<Vec<_>>()
        };
        let check = |running: &[&[u64]], stopped: &[&[u64]]| {
            let of = |all: &[&[u64]]| all.iter().map(|digests| orders(digests)).collect::<Vec<_>>();
            same_order("paxos", &of(running), &of(stopped)).is_ok()
        };
        assert!(check(&[&[7, 8], &[7, 8], &[7, 8]], &[]));
        assert!(!check(&[&[7, 8], &[7, 9]], &[]), "another order");
        assert!(!check(&[&[7, 8], &[7]], &[]), "one less");
        assert!(!check(&[&[], &[]], &[]), "nothing was applied");
        assert!(check(&[&[7, 8], &[7, 8]], &[&[7]]), "the stopped one was behind");
        assert!(check(&[&[7, 8], &[7, 8]], &[&[]]), "it had applied nothing");
        assert!(!check(&[&[7, 8], &[7, 8]], &[&[9]]), "what it applied was lost");
        assert!(!check(&[&[7, 8], &[7, 8]], &[&[7, 8, 9]]), "what it applied last was lost");
    }
}
