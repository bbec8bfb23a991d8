//! What an entry's trims need to know of rows without totals, added up before the entry's turn comes.
//!
//! Owns: the sums, and how far they have come. Must never: look at many rows at once, or change anything: an entry that is
//! applied without its sums has the same effects.
//!
//! A trim of rows with totals reads one row. Rows from before the cluster's second version have none, so what they come to is
//! added up, and that takes time in proportion to their number. The shard waits for it with what follows in its log; it takes a
//! step a round, and the node's other shards go on.

use super::{ShardState, rows};
use crate::StoreError;
use crate::codec::keys;
use crate::command::{Action, Op, RowFormat, WriteRequest, is_marker};
use crate::state::StateStore;
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::ids::{Entry, Offset, Slot};
use synod_paxos::types::Payload;

/// Rows added up in one step, and bytes of rows: some milliseconds.
const STEP: (u64, usize) = (2048, 1 << 20);

/// Sizes of stored history rows, by key and offsets `[from, upto)`.
#[derive(Default)]
pub(super) struct Sums(BTreeMap<(Bytes, Offset, Offset), u64>);

impl Sums {
    pub(super) fn get(&self, key: &Bytes, from: Offset, upto: Offset) -> Option<u64> {
        self.0.get(&(key.clone(), from, upto)).copied()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Rows to be added up.
struct Stretch {
    key: Bytes,
    from: Offset,
    upto: Offset,
    /// Added up so far.
    bytes: u64,
    /// The next row.
    at: Offset,
}

/// Whether a trim of `[first, …)` to `new` drops no more rows than it leaves of those below `end`.
pub(super) fn drops_fewer(first: Offset, new: Offset, end: Offset) -> bool {
    new.0 - first.0 <= end.0.saturating_sub(new.0)
}

/// An entry whose turn has come, or comes once its sums are known.
pub(super) struct Ahead {
    pub(super) slot: Slot,
    pub(super) format: RowFormat,
    pub(super) requests: Vec<WriteRequest>,
    pub(super) sums: Sums,
    left: Vec<Stretch>,
}

impl ShardState {
    /// Gets the next entry ready to be applied: a bounded step. Whether it is ready. Entries may be applied without.
    ///
    /// # Errors
    /// The store failed or is damaged, or the entry cannot be read. The caller ends the process.
    pub fn prepare(&mut self, store: &mut dyn StateStore, entry: &Entry) -> Result<bool, StoreError> {
        let slot = entry.id.slot;
        let mut ahead = match self.ahead.take().filter(|ahead| ahead.slot == slot) {
            Some(ahead) => ahead,
            None => {
                let Payload::Command(data) = &entry.payload else { return Ok(true) };
                if is_marker(data) {
                    return Ok(true);
                }
                let (format, requests) = self.decode(slot, data.clone())?;
                let left = self.stretches(store, &requests)?;
                Box::new(Ahead { slot, format, requests, sums: Sums::default(), left })
            }
        };
        if let Some(stretch) = ahead.left.last_mut()
            && self.step(store, stretch)?
            && let Some(Stretch { key, from, upto, bytes, .. }) = ahead.left.pop()
        {
            ahead.sums.0.insert((key, from, upto), bytes);
        }
        let ready = ahead.left.is_empty();
        self.ahead = Some(ahead);
        Ok(ready)
    }

    /// Whether the next entry is being got ready.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.ahead.is_some()
    }

    /// What the trims among the requests will ask for, where every request executes.
    fn stretches(&self, store: &mut dyn StateStore, requests: &[WriteRequest]) -> Result<Vec<Stretch>, StoreError> {
        let mut stretches = Vec::new();
        // First offsets as earlier trims of the entry leave them.
        let mut firsts: BTreeMap<&Bytes, Offset> = BTreeMap::new();
        for request in requests {
            let Op::Write { table, ops } = &request.op else { continue };
            if *table != self.descriptor.table {
                continue;
            }
            for op in ops {
                let Action::Trim(before) = op.action else { continue };
                let hash = self.descriptor.partitioning.hash_of(&op.key);
                let Some(head) = rows::head(store, &self.descriptor, self.space, hash, &op.key)? else { continue };
                let end = head.totals.map_or(head.next, |totals| totals.since);
                let first = firsts.entry(&op.key).or_insert(head.first);
                // Else it drops nothing, or leaves none of these rows. Of a key that keeps its newest record only there are none.
                if !(first.0 + 1..end.0).contains(&before.0) {
                    continue;
                }
                let drops_fewer = drops_fewer(*first, before, end);
                let (from, upto) = if drops_fewer { (*first, before) } else { (before, end) };
                *first = before;
                stretches.push(Stretch { key: op.key.clone(), from, upto, bytes: 0, at: from });
            }
        }
        Ok(stretches)
    }

    /// Adds up some more rows of a stretch. Whether that was the last of them.
    fn step(&self, store: &mut dyn StateStore, stretch: &mut Stretch) -> Result<bool, StoreError> {
        let hash = self.descriptor.partitioning.hash_of(&stretch.key);
        let row = |offset| keys::record_history(self.space, self.descriptor.table, hash, &stretch.key, offset);
        let added = rows::add_up(store, &self.descriptor, &row(stretch.at), &row(stretch.upto), STEP)?;
        stretch.bytes += added.bytes;
        let Some(last) = added.last else { return Ok(true) };
        stretch.at = Offset(last.0 + 1);
        Ok(stretch.at >= stretch.upto)
    }
}
