//! The newest records of a shard in timestamp order, for tails.
//!
//! Owns: a bounded window. Must never: hold a timestamp in part, or claim a window wider than what it holds. What is trimmed,
//! deleted or overwritten stays in it until it leaves with its timestamp: whoever reads the ring asks the keys' heads.

use crate::host::KeyedRecord;
use crate::memory::{Account, Held};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most bytes kept a shard.
const BYTES_MAX: usize = 1 << 20;

/// The records of a window of timestamps.
pub struct Ring {
    records: VecDeque<KeyedRecord>,
    held: Held,
    /// Every record with a greater timestamp is here.
    floor_ts: u64,
    /// No record with a greater timestamp was trimmed.
    dropped_ts: u64,
}

fn size(record: &KeyedRecord) -> usize {
    let r = &record.record;
    record.key.len()
        + r.value.len()
        + size_of::<KeyedRecord>()
        + r.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
}

impl Ring {
    /// A window that begins after `floor_ts`.
    #[must_use]
    pub fn new(floor_ts: u64) -> Self {
        Self { records: VecDeque::new(), held: Held::default(), floor_ts, dropped_ts: 0 }
    }

    /// Records with a greater timestamp are all here.
    #[must_use]
    pub fn floor_ts(&self) -> u64 {
        self.floor_ts
    }

    /// Records with a greater timestamp were not trimmed; of the others their keys' heads tell.
    #[must_use]
    pub fn dropped_ts(&self) -> u64 {
        self.dropped_ts
    }

    /// Records of a key were trimmed, at this timestamp.
    pub fn dropped(&mut self, ts_us: u64) {
        self.dropped_ts = self.dropped_ts.max(ts_us);
    }

    /// Adds a record; timestamps never fall.
    pub fn push(&mut self, record: KeyedRecord) {
        self.held.set(self.held.bytes() + size(&record));
        self.records.push_back(record);
        while (self.held.bytes() > BYTES_MAX || self.held.is_over()) && self.drop_oldest() {}
    }

    /// Forgets the oldest timestamp; whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.records.front().map(|r| r.record.ts_us) else { return false };
        self.floor_ts = oldest;
        // A timestamp goes whole.
        while let Some(gone) = self.records.pop_front_if(|r| r.record.ts_us == oldest) {
            self.held.set(self.held.bytes() - size(&gone));
        }
        true
    }

    /// Gives the records that `go` to a ring of their own. Both claim the same window: each holds all records of it that are its own.
    #[must_use]
    pub fn cut(&mut self, go: impl FnMut(&KeyedRecord) -> bool) -> Self {
        let records = std::mem::take(&mut self.records);
        let (gone, kept): (VecDeque<KeyedRecord>, VecDeque<KeyedRecord>) = records.into_iter().partition(go);
        let bytes: usize = gone.iter().map(size).sum();
        self.records = kept;
        self.held.set(self.held.bytes() - bytes);
        let mut held = self.held.beside();
        held.set(bytes);
        Self { records: gone, held, floor_ts: self.floor_ts, dropped_ts: self.dropped_ts }
    }

    /// Takes in the records of another shard's ring, which may be of the same timestamps. It claims only the window that both have.
    pub fn unite(&mut self, other: Self) {
        let floor = self.floor_ts.max(other.floor_ts);
        self.floor_ts = if planted!(MergeRingClaimsAll) { self.floor_ts.min(other.floor_ts) } else { floor };
        self.dropped_ts = self.dropped_ts.max(other.dropped_ts);
        let mut records: Vec<KeyedRecord> = self.records.drain(..).chain(other.records).collect();
        records.retain(|record| record.record.ts_us > floor);
        records.sort_by_key(|record| record.record.ts_us);
        self.held.set(records.iter().map(size).sum());
        self.records = records.into();
        while (self.held.bytes() > BYTES_MAX || self.held.is_over()) && self.drop_oldest() {}
    }

    /// Counts what it holds in this account from now on, and holds no more than that has room for.
    pub fn share(&mut self, account: &Arc<Account>) {
        self.held.move_to(account);
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Forgets the oldest until at most `bytes` bytes are held.
    pub fn shrink(&mut self, bytes: usize) {
        while self.held.bytes() > bytes && self.drop_oldest() {}
    }

    /// The records with a timestamp above `after_ts`, in order.
    pub fn after(&self, after_ts: u64) -> impl Iterator<Item = &KeyedRecord> {
        let start = self.records.partition_point(|r| r.record.ts_us <= after_ts);
        self.records.range(start..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record::Record;
    use bytes::Bytes;
    use synod_cluster::ids::Offset;

    fn record(ts_us: u64, bytes: usize) -> KeyedRecord {
        let record = Record { ts_us, value: Bytes::from(vec![0; bytes]), ..Record::default() };
        KeyedRecord { key: Bytes::from_static(b"k"), offset: Offset(ts_us), record }
    }

    #[test]
    fn a_timestamp_leaves_whole_and_raises_the_floor() {
        let mut ring = Ring::new(0);
        for ts in [1, 2, 2, 3] {
            ring.push(record(ts, 300_000));
        }
        assert_eq!(ring.floor_ts(), 1);
        ring.push(record(4, 300_000));
        assert_eq!(ring.floor_ts(), 2);
        assert_eq!(ring.after(2).map(|r| r.record.ts_us).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(ring.after(3).count(), 1);
    }

    #[test]
    fn what_is_cut_off_is_in_one_ring_and_both_claim_no_more_than_before() {
        let account = Account::unlimited();
        let mut ring = Ring::new(7);
        ring.share(&account);
        for ts in 8..=12 {
            ring.push(record(ts, 100));
        }
        ring.dropped(10);
        let before = account.used();
        let upper = ring.cut(|r| r.record.ts_us % 2 == 0);
        let seen = |ring: &Ring| ring.after(0).map(|r| r.record.ts_us).collect::<Vec<_>>();
        assert_eq!((seen(&ring), seen(&upper)), (vec![9, 11], vec![8, 10, 12]));
        assert_eq!((ring.floor_ts(), ring.dropped_ts()), (7, 10));
        assert_eq!((upper.floor_ts(), upper.dropped_ts()), (7, 10));
        assert_eq!((ring.bytes() + upper.bytes(), account.used()), (before, before));
        drop(upper);
        assert_eq!(account.used(), ring.bytes());
    }

    #[test]
    fn two_rings_in_one_claim_what_both_have() {
        let account = Account::unlimited();
        let (mut one, mut two) = (Ring::new(3), Ring::new(6));
        one.share(&account);
        two.share(&account);
        for ts in [4, 7, 9] {
            one.push(record(ts, 100));
        }
        for ts in [7, 8, 10] {
            two.push(record(ts, 100));
        }
        two.dropped(5);
        one.unite(two);
        assert_eq!(one.after(0).map(|r| r.record.ts_us).collect::<Vec<_>>(), [7, 7, 8, 9, 10]);
        assert_eq!((one.floor_ts(), one.dropped_ts()), (6, 5));
        assert_eq!(account.used(), one.bytes());
        one.push(record(11, 100));
        assert_eq!(one.after(10).count(), 1);
    }
}
