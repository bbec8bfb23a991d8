//! What is applied waits while the store wants it to, and nothing else does.
//!
//! Owns: until when nothing is applied on the node, and in which order its shards go on. Must never: block, or let a shard that
//! applies much pass by one that was held back.

use std::collections::BTreeSet;
use std::time::Duration;
use synod_cluster::ids::ShardId;
use synod_paxos::types::Micros;

/// The pace of a node's shards.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Nothing is applied before.
    until: Micros,
    /// The last entry applied owed a wait.
    slowed: bool,
    /// Shards that were held back, the first to go on first.
    held: Vec<ShardId>,
    /// Shards that applied something and have more.
    again: Vec<ShardId>,
    /// All of these.
    waiting: BTreeSet<ShardId>,
}

impl Pace {
    /// The store asks for this `wait` before more is applied.
    pub(crate) fn owes(&mut self, now: Micros, wait: Duration) {
        self.slowed = !wait.is_zero();
        if self.slowed {
            self.until = now.plus(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Whether nothing may be applied at this time.
    pub(crate) fn is_slowed(&self, now: Micros) -> bool {
        self.until > now
    }

    /// Whether the last entry applied owed a wait.
    pub(crate) fn was_slowed(&self) -> bool {
        self.slowed
    }

    /// Whether a shard must not apply now; it comes on when its turn does.
    pub(crate) fn holds_back(&mut self, shard: ShardId, now: Micros) -> bool {
        if !self.is_slowed(now) {
            return false;
        }
        if self.waiting.insert(shard) {
            self.held.push(shard);
        }
        true
    }

    /// A shard has applied something in this round and has more.
    pub(crate) fn comes_again(&mut self, shard: ShardId) {
        if self.waiting.insert(shard) {
            self.again.push(shard);
        }
    }

    /// When shards that wait may go on; `None` where none waits.
    pub(crate) fn due(&self) -> Option<Micros> {
        (!self.waiting.is_empty()).then_some(self.until)
    }

    /// Shards that may go on now, in their order.
    pub(crate) fn take_due(&mut self, now: Micros) -> Vec<ShardId> {
        if self.waiting.is_empty() || self.is_slowed(now) {
            return Vec::new();
        }
        self.waiting.clear();
        let mut due = std::mem::take(&mut self.held);
        due.append(&mut self.again);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_held_back_go_on_before_the_one_that_applied() {
        let (a, b, c) = (ShardId(2), ShardId(3), ShardId(4));
        let mut pace = Pace::default();
        let ms = |n: u64| Micros(1000 * n);
        assert!(!pace.holds_back(a, ms(1)));
        pace.owes(ms(1), Duration::from_millis(20));
        pace.comes_again(a);
        assert!(pace.holds_back(b, ms(1)) && pace.holds_back(c, ms(2)) && pace.holds_back(b, ms(3)));
        assert_eq!((pace.due(), pace.take_due(ms(20))), (Some(ms(21)), vec![]));
        assert_eq!(pace.take_due(ms(21)), [b, c, a]);
        assert_eq!(pace.due(), None);
        pace.owes(ms(21), Duration::ZERO);
        assert!(!pace.is_slowed(ms(21)) && !pace.was_slowed());
    }
}
