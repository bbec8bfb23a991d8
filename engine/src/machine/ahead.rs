//! What an entry needs to know before its turn comes: heads of its keys, and what its trims come to.
//!
//! Owns: what was looked up and added up, and how far that has come. Must never: look at many rows of a key at once, or change
//! anything: an entry that is applied without has the same effects.
//!
//! While the store stays in memory, rows that are not there are named. The shard has them fetched and waits with what follows in its
//! log; the worker's other shards go on.
//!
//! A trim of rows with totals reads one row. Rows from before the cluster's second version have none, so what they come to is
//! added up, and that takes time in proportion to their number. It takes a step a round.

use super::heads::Heads;
use super::{Machine, ShardState, rows};
use crate::StoreError;
use crate::codec::keys;
use crate::codec::record::{Head, Newest};
use crate::command::{Action, KeyOp, Op, RowFormat, WriteRequest, is_admin, is_marker};
use crate::state::{Lacked, StateStore};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Known;
use synod_cluster::ids::{Entry, Offset, Slot};
use synod_cluster::system::Birth;
use synod_paxos::types::Payload;

/// Rows that are named as lacked at once.
pub(super) const LACKED_MAX: usize = 64;
/// Rows of entries after the next that are looked for once the next one lacks some.
const LOOKS_MAX: usize = 256;
/// So often in a row rows are named and nothing of what is needed is found after that; then they are not waited for.
const TRIES_MAX: u32 = 3;
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

/// An entry whose turn has come, or comes once what it needs is known.
pub(super) struct Ahead {
    pub(super) slot: Slot,
    /// What was applied when it was begun: the heads are as of then.
    pub(super) begun_at: Slot,
    pub(super) format: RowFormat,
    pub(super) requests: Vec<WriteRequest>,
    pub(super) heads: Heads,
    pub(super) sums: Sums,
    /// Operations whose rows are yet to be looked up: their requests' numbers, and their own within these.
    wanted: Vec<(usize, usize)>,
    /// What is yet to be added up, once all heads are known.
    left: Option<Vec<Stretch>>,
    /// Rows that are not in memory.
    lacked: Vec<Lacked>,
    /// Something that it needs was found since rows were lacked.
    got_on: bool,
    /// How often rows were lacked in a row while nothing was found.
    tries: u32,
}

impl ShardState {
    /// Gets the next entry ready to be applied: a bounded step. Whether it is ready. Entries may be applied without. Where the store
    /// stays in memory and rows are not there, [`ShardState::take_lacked`] names them.
    ///
    /// # Errors
    /// The store failed or is damaged, or the entry cannot be read. The caller ends the process.
    pub fn prepare(&mut self, store: &mut dyn StateStore, entry: &Entry) -> Result<bool, StoreError> {
        let slot = entry.id.slot;
        let mut ahead = match self.ahead.take().filter(|ahead| ahead.slot == slot) {
            Some(ahead) => ahead,
            None => {
                let Payload::Command(data) = &entry.payload else { return Ok(true) };
                if is_marker(data) || is_admin(data) {
                    return Ok(true);
                }
                Box::new(self.begin(slot, data.clone())?)
            }
        };
        ahead.got_on = false;
        let ready = match self.go_on(store, &mut ahead) {
            Err(StoreError::Cold(row)) => {
                ahead.lacked.push(row);
                false
            }
            other => other?,
        };
        ahead.tries = match (ahead.lacked.is_empty(), ahead.got_on) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => ahead.tries + 1,
        };
        self.ahead = Some(ahead);
        Ok(ready)
    }

    /// The rows that the last step lacked, and some that the entries `after` it will; none where it lacked none.
    ///
    /// # Errors
    /// As of [`ShardState::prepare`].
    pub fn take_lacked(&mut self, store: &mut dyn StateStore, after: &[Entry]) -> Result<Vec<Lacked>, StoreError> {
        let Some(ahead) = &mut self.ahead else { return Ok(Vec::new()) };
        let mut lacked = std::mem::take(&mut ahead.lacked);
        if !lacked.is_empty() {
            self.look_further(store, after, &mut lacked)?;
        }
        Ok(lacked)
    }

    /// Whether the next entry is being got ready.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.ahead.is_some()
    }

    /// Whether the rows that the next entry needs leave memory as often as they come: it is to read them wherever they are.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.tries >= TRIES_MAX)
    }

    /// Whether a key of a request is looked up here. A key outside the bounds is not: its rows are in no known space. A shard that was
    /// never split has all of its records in one space, so the bounds need not be asked.
    fn may_have(&self, key: &[u8]) -> bool {
        let unsplit = self.descriptor.born == Birth::Founded && !self.has_changed_bounds();
        unsplit || self.descriptor.contains(key)
    }

    fn begin(&self, slot: Slot, data: Bytes) -> Result<Ahead, StoreError> {
        let (format, requests) = self.decode(slot, data)?;
        let ops = requests.iter().enumerate().flat_map(|(at, request)| {
            self.ops_here(request).iter().enumerate().map(move |(op, found)| (at, op, &found.key))
        });
        let here = ops.filter(|(_, _, key)| self.may_have(key));
        let wanted: Vec<(usize, usize)> = here.map(|(at, op, _)| (at, op)).collect();
        Ok(Ahead {
            slot,
            begun_at: self.applied,
            format,
            requests,
            heads: Heads::with_capacity(wanted.len()),
            sums: Sums::default(),
            wanted,
            left: None,
            lacked: Vec::new(),
            got_on: false,
            tries: 0,
        })
    }

    /// A step: whether it was the last.
    fn go_on(&self, store: &mut dyn StateStore, ahead: &mut Ahead) -> Result<bool, StoreError> {
        if ahead.left.is_none() {
            self.look_up(store, ahead)?;
            if !ahead.lacked.is_empty() {
                return Ok(false);
            }
            ahead.left = Some(self.stretches(store, ahead)?);
        }
        let Some(left) = &mut ahead.left else { return Ok(false) };
        if let Some(stretch) = left.last_mut() {
            let done = self.step(store, stretch)?;
            ahead.got_on = true;
            if done && let Some(Stretch { key, from, upto, bytes, .. }) = left.pop() {
                ahead.sums.0.insert((key, from, upto), bytes);
            }
        }
        Ok(left.is_empty())
    }

    /// The operations of a request that may be executed here, as far as their keys are this shard's: one that was proposed before a
    /// split may name keys that are the child's by now.
    fn ops_here<'a>(&self, request: &'a WriteRequest) -> &'a [KeyOp] {
        match &request.op {
            Op::Write { table, ops } if matches!(self.machine, Machine::Data) && *table == self.descriptor.table => ops,
            Op::Write { .. } | Op::System(_) => &[],
        }
    }

    /// Looks up the rows that the entry needs. Stops where as many are missing from memory as one fetch brings.
    fn look_up(&self, store: &mut dyn StateStore, ahead: &mut Ahead) -> Result<(), StoreError> {
        let mut wanted = std::mem::take(&mut ahead.wanted).into_iter();
        for (request, op) in wanted.by_ref() {
            let Some(found) = self.ops_here(&ahead.requests[request]).get(op) else { continue };
            match self.find(store, &mut ahead.heads, ahead.format, found) {
                Ok(()) => ahead.got_on = true,
                Err(StoreError::Cold(row)) => {
                    ahead.wanted.push((request, op));
                    if !ahead.lacked.contains(&row) {
                        ahead.lacked.push(row);
                    }
                    if ahead.lacked.len() >= LACKED_MAX {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        ahead.wanted.extend(wanted);
        Ok(())
    }

    /// Finds the head that an operation needs, and has the row in memory that a trim reads beside.
    fn find(
        &self,
        store: &mut dyn StateStore,
        heads: &mut Heads,
        format: RowFormat,
        op: &KeyOp,
    ) -> Result<(), StoreError> {
        if !heads.is_known(&op.key) {
            let hash = self.descriptor.partitioning.hash_of(&op.key);
            let space = self.space_of(&op.key);
            let head = rows::head(store, &self.descriptor, space, hash, &op.key)?;
            heads.put(op.key.clone(), (space, hash), head.unwrap_or_default());
        }
        let (Action::Trim(before), Some(head)) = (&op.action, heads.get(&op.key)) else { return Ok(()) };
        let new = (*before).clamp(head.first, head.next);
        let has_totals = format == RowFormat::Totals || head.totals.is_some();
        let in_history = matches!(head.newest, Newest::InHistory { .. });
        if has_totals && in_history && new != head.first && new != head.next {
            let hash = self.descriptor.partitioning.hash_of(&op.key);
            let last = Offset(new.0 - 1);
            store.get(&keys::record_history(self.space_of(&op.key), self.descriptor.table, hash, &op.key, last))?;
        }
        Ok(())
    }

    /// Adds the heads that later entries lack, as far as there is room: one fetch for several entries.
    fn look_further(
        &self,
        store: &mut dyn StateStore,
        after: &[Entry],
        lacked: &mut Vec<Lacked>,
    ) -> Result<(), StoreError> {
        let mut looks = 0;
        for entry in after {
            let Payload::Command(data) = &entry.payload else { continue };
            // What follows an administrative entry is applied in bounds that are not known yet.
            if is_marker(data) || is_admin(data) || lacked.len() >= LACKED_MAX || looks >= LOOKS_MAX {
                break;
            }
            let (_, requests) = self.decode(entry.id.slot, data.clone())?;
            for op in requests.iter().flat_map(|request| self.ops_here(request)) {
                if lacked.len() >= LACKED_MAX || looks >= LOOKS_MAX {
                    break;
                }
                looks += 1;
                if !self.may_have(&op.key) {
                    continue;
                }
                let hash = self.descriptor.partitioning.hash_of(&op.key);
                match store.get(&keys::record_head(self.space_of(&op.key), self.descriptor.table, hash, &op.key)) {
                    Err(StoreError::Cold(row)) if lacked.contains(&row) => {}
                    Err(StoreError::Cold(row)) => lacked.push(row),
                    found => drop(found?),
                }
            }
        }
        Ok(())
    }

    /// What the trims among the requests will ask for, where every request executes.
    fn stretches(&self, store: &mut dyn StateStore, ahead: &Ahead) -> Result<Vec<Stretch>, StoreError> {
        let mut stretches = Vec::new();
        // First offsets as earlier trims of the entry leave them, and where rows to be added up end.
        let mut firsts: BTreeMap<&Bytes, (Offset, Offset)> = BTreeMap::new();
        for op in ahead.requests.iter().flat_map(|request| self.ops_here(request)) {
            let Action::Trim(before) = op.action else { continue };
            if !self.may_have(&op.key) {
                continue;
            }
            let (first, end) = match firsts.entry(&op.key) {
                Known::Occupied(known) => known.into_mut(),
                Known::Vacant(unknown) => unknown.insert(match ahead.heads.get(&op.key) {
                    Some(head) => bounds(head),
                    None => {
                        let hash = self.descriptor.partitioning.hash_of(&op.key);
                        let head = rows::head(store, &self.descriptor, self.space_of(&op.key), hash, &op.key)?;
                        bounds(&head.unwrap_or_default())
                    }
                }),
            };
            let end = *end;
            // Else it drops nothing, or leaves none of these rows. Of a key that keeps its newest record only there are none.
            if !(first.0 + 1..end.0).contains(&before.0) {
                continue;
            }
            let drops_fewer = drops_fewer(*first, before, end);
            let (from, upto) = if drops_fewer { (*first, before) } else { (before, end) };
            *first = before;
            stretches.push(Stretch { key: op.key.clone(), from, upto, bytes: 0, at: from });
        }
        Ok(stretches)
    }

    /// Adds up some more rows of a stretch. Whether that was the last of them.
    fn step(&self, store: &mut dyn StateStore, stretch: &mut Stretch) -> Result<bool, StoreError> {
        let hash = self.descriptor.partitioning.hash_of(&stretch.key);
        let (space, table) = (self.space_of(&stretch.key), self.descriptor.table);
        let row = |offset| keys::record_history(space, table, hash, &stretch.key, offset);
        let added = rows::add_up(store, &self.descriptor, &row(stretch.at), &row(stretch.upto), STEP)?;
        stretch.bytes += added.bytes;
        let Some(last) = added.last else { return Ok(true) };
        stretch.at = Offset(last.0 + 1);
        Ok(stretch.at >= stretch.upto)
    }
}

/// The first offset kept, and the end of the rows without totals.
fn bounds(head: &Head) -> (Offset, Offset) {
    (head.first, head.totals.map_or(head.next, |totals| totals.since))
}
