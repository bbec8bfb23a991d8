//! Reads that wait for a confirmed leadership.
//!
//! Owns: the queues of reads, in order of time, and what the leader counts of its support. Must never: answer a read; `reads`
//! does.

use crate::types::{Micros, NodeId, ReadId, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// A read and the replica it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    pub(crate) at: NodeId,
    pub(crate) read: ReadId,
    /// Refused then.
    pub(crate) until: Micros,
}

/// A read that the leader was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Followed {
    pub(crate) asked_at: Micros,
    /// Refused then.
    pub(crate) until: Micros,
}

impl Followed {
    /// Without a clock: asked at any time, refused at `at`.
    pub(crate) fn normalise(&mut self, at: Micros) {
        *self = Self { asked_at: at, until: at };
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) reads: Vec<Reader>,
    /// The chosen prefix when it was asked.
    pub(crate) slot: Slot,
    pub(crate) acks: BTreeSet<NodeId>,
    pub(crate) asked_at: Micros,
}

/// The reads of one leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    pub(crate) waiting: Vec<Reader>,
    pub(crate) asked: Option<Question>,
    pub(crate) probe: u64,
    /// When the question asked last left first.
    pub(crate) began: Micros,
    /// Until when each voter's support counts, by this node's clock.
    pub(crate) support: BTreeMap<NodeId, Micros>,
    /// Another was told to take this leadership over: supporters may have heard of it.
    pub(crate) offered: bool,
}

impl Reads {
    /// What waits that came to `me`: others ask again.
    pub(crate) fn take_all(&mut self, me: NodeId) -> Vec<ReadId> {
        let mut reads = self.asked.take().map(|q| q.reads).unwrap_or_default();
        reads.append(&mut self.waiting);
        reads.into_iter().filter(|reader| reader.at == me).map(|reader| reader.read).collect()
    }

    /// From here on every read asks, as long as this leadership lasts.
    pub(crate) fn end_lease(&mut self) {
        self.offered = true;
    }

    /// Takes an open question for asked at `at`, and what waits for due then.
    pub(crate) fn normalise(&mut self, at: Micros) {
        self.asked.iter_mut().for_each(|question| question.asked_at = at);
        let asked = self.asked.iter_mut().flat_map(|question| &mut question.reads);
        self.waiting.iter_mut().chain(asked).for_each(|reader| reader.until = at);
    }

    /// Whether something waits for a quorum.
    pub(crate) fn wait(&self) -> bool {
        !self.waiting.is_empty() || self.asked.is_some()
    }

    /// When the first waiting read must be refused: both queues are in order of time.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        let asked = self.asked.as_ref().and_then(|question| question.reads.first());
        [asked, self.waiting.first()].into_iter().flatten().map(|reader| reader.until).min()
    }

    /// Takes what has waited for too long.
    pub(crate) fn expired(&mut self, now: Micros) -> Vec<Reader> {
        let mut late = Vec::new();
        let asked = self.asked.as_mut().map(|question| &mut question.reads);
        for queue in asked.into_iter().chain([&mut self.waiting]) {
            let count = queue.partition_point(|reader| reader.until <= now);
            late.extend(queue.drain(..count));
        }
        late
    }
}
