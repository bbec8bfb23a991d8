//! What was seen of peers: the engine's table of marks, and who spoke to this process.
//!
//! Owns: the set of those met. Must never: tell a peer of a mark that no frame of the peer's showed.

use super::lock;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq};
use synod_engine::identity;

/// Raised by the worker, read by pulses and by answers to `Identify`.
#[derive(Debug, Default)]
pub struct SeenTable {
    durable: Arc<identity::SeenTable>,
    met: Mutex<BTreeSet<NodeId>>,
}

impl SeenTable {
    /// Over the table that the worker raises.
    #[must_use]
    pub fn over(durable: Arc<identity::SeenTable>) -> Self {
        Self { durable, met: Mutex::default() }
    }

    /// The greatest seen from `node`; zeros where nothing was.
    #[must_use]
    pub fn get(&self, node: NodeId) -> (Incarnation, NodeWriteSeq) {
        self.durable.get(node)
    }

    /// Notes that `node` spoke to this process.
    pub(super) fn meet(&self, node: NodeId) {
        lock(&self.met).insert(node);
    }

    /// Whether `node` ever spoke to this node, as far as it remembers.
    #[must_use]
    pub fn has_met(&self, node: NodeId) -> bool {
        lock(&self.met).contains(&node) || self.get(node).0.0 > 0
    }
}

#[cfg(test)]
impl SeenTable {
    /// What a log store recovered.
    pub(super) fn new(recovered: impl IntoIterator<Item = (NodeId, Incarnation, NodeWriteSeq)>) -> Self {
        let table = Self::default();
        for (node, incarnation, seq) in recovered {
            table.raise(node, incarnation, seq);
        }
        table
    }

    /// What the worker does.
    pub(super) fn raise(&self, node: NodeId, incarnation: Incarnation, seq: NodeWriteSeq) {
        self.durable.raise(node, (incarnation, seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_only_rises() {
        let (n, m) = (NodeId(2), NodeId(3));
        let table = SeenTable::new([(n, Incarnation(4), NodeWriteSeq(10))]);
        table.raise(n, Incarnation(3), NodeWriteSeq(99));
        assert_eq!(table.get(n), (Incarnation(4), NodeWriteSeq(10)));
        table.raise(n, Incarnation(4), NodeWriteSeq(11));
        assert_eq!(table.get(n), (Incarnation(4), NodeWriteSeq(11)));
        assert!(table.has_met(n) && !table.has_met(m));
        table.meet(m);
        assert!(table.has_met(m));
        assert_eq!(table.get(m), (Incarnation(0), NodeWriteSeq(0)));
    }
}
