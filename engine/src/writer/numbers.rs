//! The order of a node's writes.
//!
//! Owns: the number of each batch, whichever worker it comes from, and what a batch tells of peers. Must never: hand two batches over
//! in another order than that of their numbers, or let a batch set back what one before it says of a peer.

use crate::identity::SeenTable;
use crate::logstore::LogBatch;
use std::sync::{Arc, Mutex, PoisonError};
use synod_cluster::ids::NodeWriteSeq;

/// Numbers the batches of all workers of a node.
#[derive(Debug)]
pub struct Numbers {
    issued: Mutex<NodeWriteSeq>,
    seen: Arc<SeenTable>,
}

impl Numbers {
    /// Goes on after `recovered`, the last durable write found. `seen` is what the node has seen of its peers.
    #[must_use]
    pub fn new(recovered: NodeWriteSeq, seen: Arc<SeenTable>) -> Self {
        Self { issued: Mutex::new(recovered), seen }
    }

    /// The last number given.
    #[must_use]
    pub fn issued(&self) -> NodeWriteSeq {
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a batch its number and hands it over: the next one is numbered once that is done. `hand_over` must not block.
    pub fn submit(&self, mut batch: LogBatch, hand_over: impl FnOnce(LogBatch)) -> NodeWriteSeq {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.0 += 1;
        batch.seq = *issued;
        // Another worker may have heard more of a peer and written it already.
        if !planted!(OlderMarkWritten) {
            for (node, incarnation, seq) in &mut batch.seen {
                (*incarnation, *seq) = self.seen.get(*node);
            }
        }
        hand_over(batch);
        *issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::{Incarnation, NodeId};

    #[test]
    fn a_batch_says_the_newest_of_a_peer_whichever_worker_heard_it() {
        let seen = Arc::new(SeenTable::default());
        let numbers = Numbers::new(NodeWriteSeq(7), Arc::clone(&seen));
        let (peer, first) = (NodeId(2), Incarnation(1));
        seen.raise(peer, (first, NodeWriteSeq(10)));
        let heard = LogBatch { seen: vec![(peer, first, NodeWriteSeq(10))], ..LogBatch::default() };
        seen.raise(peer, (first, NodeWriteSeq(30)));
        let mut written = Vec::new();
        assert_eq!(numbers.submit(heard, |batch| written.push(batch)), NodeWriteSeq(8));
        assert_eq!(written[0].seen, [(peer, first, NodeWriteSeq(30))]);
        assert_eq!((written[0].seq, numbers.issued()), (NodeWriteSeq(8), NodeWriteSeq(8)));
    }
}
