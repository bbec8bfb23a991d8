//! From the log into the state.
//!
//! Owns: the order of application. Must never: apply above what is chosen and durable here, or apply so much at once that
//! the node's other shards starve.

use super::{Core, Shard, ShardLog};
use crate::host::Host;
use crate::metrics::seconds;
use crate::worker::node::Node;
use synod_paxos::io::Input;

/// Applied in one go, bytes; the rest waits for the next round.
const APPLY_BYTES: usize = 8 << 20;
/// Read from the log at a time, bytes.
const READ_BYTES: usize = 1 << 20;

impl Shard {
    /// Applies what is chosen. Whether more is left for the next round.
    pub(super) fn apply<H: Host>(&mut self, node: &mut Node<H>) -> bool {
        if self.missing.is_some() {
            self.pass_over(node);
            return false;
        }
        // While a snapshot is being installed the log it takes the place of is applied no further.
        let running = matches!(self.core, Core::Running(_));
        if !running || self.state.applied() >= self.committed || self.scrubs.is_marked() {
            return false;
        }
        let began = (node.clock)();
        let mut bytes = 0;
        while self.state.applied() < self.committed && bytes < APPLY_BYTES && !self.scrubs.is_marked() {
            bytes += self.apply_some(node);
        }
        node.applied_bytes += bytes;
        let now = (node.clock)();
        node.metrics.apply_seconds.observe(seconds(now.0.saturating_sub(began.0)));
        self.step(node, Input::Applied(self.state.applied()));
        self.reads.state_moved();
        self.state.applied() < self.committed && !self.scrubs.is_marked()
    }

    /// Applies the next entries that one reading gives; returns their size.
    fn apply_some<H: Host>(&mut self, node: &mut Node<H>) -> usize {
        let Core::Running(replica) = &self.core else { return APPLY_BYTES };
        let log = ShardLog { log: &*node.log, shard: self.id };
        let entries = match replica.entries_to_apply(&log, self.state.applied(), self.committed, READ_BYTES) {
            Ok(entries) => entries,
            Err(why) => node.host.fatal(format!("shard {}: {why}", self.id)),
        };
        let mut bytes = 0;
        for entry in entries {
            bytes += entry.size();
            self.position = Some((entry.id, entry.ts));
            self.sizes.applied(entry.id.slot, entry.size(), node.log_keep.step());
            let mine = if self.proposed_upto(entry.id.slot) { self.proposals.applied(node, &entry) } else { None };
            let mut results = std::mem::take(&mut node.results);
            let wanted = mine.is_some().then_some(&mut results);
            if let Err(error) = self.state.apply(&mut *node.store, &mut node.overlay, &entry, wanted) {
                node.state_failed(&error);
            }
            if let Some((replies, proposed_at)) = mine {
                let waited = (node.clock)().0.saturating_sub(proposed_at.0);
                node.metrics.commit_seconds.observe(seconds(waited));
                Self::answer_writes(node, replies, &mut results);
            }
            node.results = results;
            if self.mark(node, &entry) {
                // The rest is applied once the state of this slot is frozen.
                break;
            }
        }
        bytes
    }
}
