//! Closed-loop proposers at the leader: each has one command under way, and the next one follows as soon as it is applied.
//!
//! They are counters in the leader's own thread, so that no client costs anything and the two cores alone differ.
//!
//! Owns: which commands are under way, and their latencies. Must never: have two commands of a proposer under way.

use crate::command::Head;
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::time::Instant;
use synod_paxos::types::NodeId;

/// The longest latency told apart, µs.
const LATENCY_MAX: u64 = 60_000_000;

/// The proposers of a node.
pub struct Proposers {
    node: NodeId,
    bytes: usize,
    seq: u64,
    /// Of each proposer: its command under way, and since when.
    under_way: Vec<(u64, Instant)>,
    waiting: Vec<u32>,
    /// µs from when a command could be proposed until it was applied here.
    pub latencies: Histogram<u64>,
}

impl Proposers {
    /// So many, of commands of so many bytes, all at rest.
    #[must_use]
    pub fn new(node: NodeId, count: u32, bytes: usize) -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("bounds that are constants");
        let under_way = vec![(0, Instant::now()); count as usize];
        Self { node, bytes, seq: 0, under_way, waiting: Vec::new(), latencies }
    }

    /// This node leads from now on: every proposer has a command to propose, whatever became of the one before.
    pub fn begin(&mut self) {
        self.waiting.clear();
        for proposer in 0..self.under_way.len() {
            self.next(proposer);
        }
    }

    /// This node leads no more.
    pub fn end(&mut self) {
        self.waiting.clear();
    }

    fn next(&mut self, proposer: usize) {
        self.seq += 1;
        self.under_way[proposer] = (self.seq, Instant::now());
        self.waiting.push(u32::try_from(proposer).expect("counted in 32 bits"));
    }

    /// Whether anything waits to be proposed.
    #[must_use]
    pub fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that waits, as one entry.
    #[must_use]
    pub fn batch(&self) -> Bytes {
        let mut batch = Vec::with_capacity(self.waiting.len() * self.bytes);
        for &proposer in &self.waiting {
            let (seq, _) = self.under_way[proposer as usize];
            Head { node: self.node, proposer, seq }.put(self.bytes, &mut batch);
        }
        Bytes::from(batch)
    }

    /// The batch was taken.
    pub fn taken(&mut self) {
        self.waiting.clear();
    }

    /// A command was applied; whether it was one of these, under way. Its proposer goes on.
    pub fn applied(&mut self, head: &Head, measured: bool) -> bool {
        let at = head.proposer as usize;
        let Some(&(seq, since)) = self.under_way.get(at).filter(|_| head.node == self.node) else { return false };
        if seq != head.seq {
            return false;
        }
        if measured {
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
            self.latencies.saturating_record(micros.max(1));
        }
        self.next(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::heads;

    #[test]
    fn a_proposer_goes_on_once_its_own_newest_command_is_applied() {
        let mut proposers = Proposers::new(NodeId(1), 3, 32);
        assert!(!proposers.wait(), "at rest");
        proposers.begin();
        let first = heads(&proposers.batch(), 32).expect("whole commands");
        assert_eq!(first.len(), 3);
        proposers.taken();
        assert!(!proposers.wait(), "all are under way");
        assert!(!proposers.applied(&Head { node: NodeId(2), ..first[1] }, true), "another node's");
        assert!(proposers.applied(&first[1], true));
        assert!(!proposers.applied(&first[1], true), "applied once");
        let second = heads(&proposers.batch(), 32).expect("whole commands");
        assert_eq!((second.len(), second[0].proposer), (1, 1));
        assert_eq!(proposers.latencies.len(), 1);
        proposers.begin();
        assert_eq!(heads(&proposers.batch(), 32).expect("whole commands").len(), 3, "a new leadership begins anew");
        assert!(!proposers.applied(&first[0], true), "of the leadership before");
    }
}
