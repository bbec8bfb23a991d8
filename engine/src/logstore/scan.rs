//! The checks that every log store makes alike.
//!
//! Owns: what a recovered group's rows must look like, and what a batch must look like. Must never: repair anything.

use super::{GroupRecovered, LogBatch};
use crate::StoreError;
use bytes::Bytes;
use synod_cluster::ids::{Entry, EntryId, HardState, Run, ShardId, Slot, Space};

/// Sizes are noted so far apart, bytes.
const SIZES_STEP: u64 = 32 << 10;

/// Takes a group's entries in slot order and checks that none is missing.
pub(super) struct GroupScan {
    shard: ShardId,
    trimmed: EntryId,
    runs: Vec<Run>,
    last: EntryId,
    last_ts: u64,
    bytes: u64,
    sizes: Vec<(Slot, u64)>,
}

impl GroupScan {
    /// A scan that begins behind the trim mark.
    pub(super) fn new(shard: ShardId, trimmed: Option<EntryId>) -> Self {
        let trimmed = trimmed.unwrap_or(EntryId::ZERO);
        Self { shard, trimmed, runs: Vec::new(), last: trimmed, last_ts: 0, bytes: 0, sizes: Vec::new() }
    }

    /// The next entry, found under `slot`; its checksum was checked.
    pub(super) fn entry(&mut self, slot: Slot, entry: &Entry) -> Result<(), StoreError> {
        if entry.id.slot != slot {
            return Err(corrupt(self.shard, slot, format!("it holds the entry of slot {}", entry.id.slot)));
        }
        if slot != self.last.slot.next() {
            return Err(corrupt(self.shard, slot, format!("slot {} comes before it, a gap", self.last.slot)));
        }
        if self.runs.last().is_none_or(|run| run.origin != entry.id.origin) {
            self.runs.push(Run { first: slot, origin: entry.id.origin });
        }
        self.last = entry.id;
        self.last_ts = entry.ts;
        self.bytes += entry.size() as u64;
        if self.sizes.last().is_none_or(|(_, at)| self.bytes - at >= SIZES_STEP) {
            self.sizes.push((slot, self.bytes));
        }
        Ok(())
    }

    /// What was found, with the group's other rows; a group that has some of its rows and lacks others is damaged.
    pub(super) fn finish(
        self,
        genesis: Option<Bytes>,
        hard: Option<HardState>,
        space: Option<Space>,
    ) -> Result<Option<GroupRecovered>, StoreError> {
        let Self { shard, trimmed, runs, last, last_ts, bytes, mut sizes } = self;
        sizes.push((last.slot, bytes));
        let why = match (genesis, hard) {
            (Some(genesis), Some(hard)) => {
                return Ok(Some(GroupRecovered { genesis, hard, space, trimmed, runs, last, last_ts, sizes }));
            }
            (None, None) if last == EntryId::ZERO => return Ok(None),
            (None, None) => "entries without a hard state",
            (Some(_), None) => "its hard state is missing",
            (None, Some(_)) => "the row of its creation is missing",
        };
        Err(StoreError::Corrupt { what: format!("log of shard {shard}"), why: why.into() })
    }
}

/// How errors call an entry's row.
pub(super) fn entry_name(shard: ShardId, slot: Slot) -> String {
    format!("log of shard {shard}, slot {slot}")
}

/// A slot that was asked for and is not there.
pub(super) fn missing_entry(shard: ShardId, slot: Slot) -> StoreError {
    corrupt(shard, slot, "no such entry".into())
}

fn corrupt(shard: ShardId, slot: Slot, why: String) -> StoreError {
    StoreError::Corrupt { what: entry_name(shard, slot), why }
}

/// Panics where a batch breaks the contract of its writer: that would be a gap on disk, found at the next start only.
pub(super) fn check_batch(batch: &LogBatch) {
    for write in &batch.groups {
        let slots = write.append.iter().map(|entry| entry.id.slot);
        for (before, slot) in slots.clone().zip(slots.skip(1)) {
            assert!(slot == before.next(), "shard {}: entry {slot} appended after {before}", write.shard);
        }
        if let (Some(from), Some(first)) = (write.truncate_from, write.append.first()) {
            let first = first.id.slot;
            assert!(first <= from, "shard {}: truncated from {from}, appended from {first}: a gap", write.shard);
        }
    }
}
