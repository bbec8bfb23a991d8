//! From the log into the state.
//!
//! Owns: the order of application. Must never: apply above what is chosen and durable here, apply so much at once that
//! the node's other shards starve, or wait: while rows are fetched, or the store wants what is applied to wait, the round goes on
//! without.

use super::{Core, Shard, ShardLog};
use crate::host::Host;
use crate::machine::Wanted;
use crate::metrics::seconds;
use crate::round::Node;
use synod_paxos::io::Input;

/// Applied in one go, bytes; the rest waits for the next round.
const APPLY_BYTES: usize = 8 << 20;
/// Read from the log at a time, bytes.
const READ_BYTES: usize = 1 << 20;
/// The same while no more than an entry or two are applied in a round.
const READ_LITTLE_BYTES: usize = 16 << 10;

impl Shard {
    /// Applies what is chosen. Whether more is left for the next round.
    pub(super) fn apply<H: Host>(&mut self, node: &mut Node<H>) -> bool {
        if self.missing.is_some() {
            self.pass_over(node);
            return false;
        }
        // While a snapshot is being installed the log it takes the place of is applied no further.
        let running = matches!(self.core, Core::Running(_));
        let held_back =
            self.still || self.awaited.is_some() || self.scrubs.is_marked() || self.fetches.hold_entries_back();
        if !running || self.state.applied() >= self.committed || held_back {
            return false;
        }
        if node.pace.holds_back(self.id, node.now) {
            return false;
        }
        let began = (node.clock)();
        let (before, mut bytes) = (self.state.applied(), 0);
        let split_at = self.split_at;
        let mut goes_on = true;
        while goes_on && self.state.applied() < self.committed && bytes < APPLY_BYTES {
            goes_on = self.apply_some(node, &mut bytes);
        }
        node.applied_bytes += bytes;
        let now = (node.clock)();
        node.metrics.apply_seconds.observe(seconds(now.0.saturating_sub(began.0)));
        if self.state.applied() > before {
            self.step(node, Input::Applied(self.state.applied()));
            self.reads.state_moved();
        }
        if self.split_at != split_at {
            // The child chooses nothing before other members have applied the split too.
            self.step(node, Input::Tell);
        }
        // What waits for rows comes again when they are there.
        let waits = self.fetches.hold_entries_back() || self.awaited.is_some();
        let more = self.state.applied() < self.committed && !waits;
        if more && node.pace.is_slowed(node.now) {
            // Behind those that were held back meanwhile.
            node.pace.comes_again(self.id);
            return false;
        }
        more
    }

    /// Applies the next entries that one reading gives, and counts their bytes. Whether more may be applied in this round.
    fn apply_some<H: Host>(&mut self, node: &mut Node<H>, bytes: &mut usize) -> bool {
        let Core::Running(replica) = &self.core else { return false };
        let log = ShardLog { log: &*node.log, shard: self.id };
        let little = self.state.is_preparing() || node.pace.was_slowed();
        let most = if little { READ_LITTLE_BYTES } else { READ_BYTES };
        let entries = match replica.entries_to_apply(&log, self.state.applied(), self.committed, most) {
            Ok(entries) => entries,
            Err(why) => node.host.fatal(format!("shard {}: {why}", self.id)),
        };
        for (at, entry) in entries.iter().enumerate() {
            if !self.get_ready(node, entry, &entries[at + 1..]) {
                return false;
            }
            if self.awaits_source(node, entry) {
                return false;
            }
            *bytes += entry.size();
            self.position = Some((entry.id, entry.ts));
            self.sizes.applied(entry.id.slot, entry.size(), node.log_keep.step());
            let mine = self.proposals.applied(node, entry);
            let told = self.order_applied(entry.id);
            let wanted = if mine.is_some() { Wanted::Results } else { Wanted::Nothing };
            let applied = self.state.apply(&mut *node.store, &mut node.overlay, entry, wanted);
            let effects = applied.unwrap_or_else(|error| node.state_failed(&error));
            if self.follow(node, entry.id.slot, effects, (mine, told)) {
                // The rest is applied once the state of this slot is frozen.
                return false;
            }
            node.pace.owes(node.now, node.store.owed());
            if node.pace.is_slowed(node.now) {
                return false;
            }
        }
        true
    }
}
