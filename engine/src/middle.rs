//! Where a shard's bytes are divided.
//!
//! Owns: the search for the key, or on a hash table the hash, that leaves about as many bytes below it as from it on. Must never: name a
//! position inside a key's records, one that leaves nothing on a side, or read rows in proportion to what there is: above
//! a mebibyte it goes by sizes that the store knows, and each step reads one row.

use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys::{self, Bounds};
use crate::state::StateView;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::position::within;
use synod_cluster::system::{Descriptor, Partitioning};

/// Up to so many bytes all rows are read: sizes are known to a block only.
const EXACT_BYTES: u64 = 1 << 20;
/// Where so many are read, the sizes said too little: what is left is not read.
const READ_BYTES_MAX: u64 = 8 << 20;
/// Steps of a search in one piece at most. Each halves the distance between two rows' keys, which differ in [`WINDOW`] bytes.
const STEPS_MAX: usize = 256;
/// A search ends with a half that differs by less than this part of all.
const NEAR: u64 = 64;
/// The smaller part has at least this share of all, percent: else there is no middle.
const LEAST_PERCENT: u64 = 10;
/// Bytes of two keys that one step looks at, from where they differ.
const WINDOW: usize = 16;

/// Where a shard is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middle {
    /// The first position of the upper part.
    pub at: Bytes,
    /// What the lower part has, bytes, about.
    pub below: u64,
}

/// The bytes of a shard's records, and where they are divided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of the records, about.
    pub bytes: u64,
    /// `None`: there are none, or one key has nearly all.
    pub middle: Option<Middle>,
}

/// The rows that stay together: those of a key, or of a hash.
struct Unit {
    at: Bytes,
    rows: Bounds,
}

/// Looks for the middle of a shard whose records are in `pieces`, in order of position.
///
/// # Errors
/// The store failed or is damaged.
pub fn find(view: &mut dyn StateView, of: &Descriptor, pieces: &[Bounds]) -> Result<Found, StoreError> {
    let sizes: Vec<u64> = pieces.iter().map(|(from, to)| view.size(from, to)).collect();
    let total = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    if total <= EXACT_BYTES
        && let Some(found) = exactly(view, of, pieces)?
    {
        return Ok(found);
    }
    let mut search = Search { of, total, best: None };
    let mut before = 0;
    for (at, size) in sizes.iter().enumerate() {
        if before + size > total / 2 {
            search.bisect(view, &pieces[at], before)?;
            // The last key of this piece may have too much: then the next piece begins with the better one.
            search.first_of(view, &pieces[at + 1..], before + size)?;
            break;
        }
        before += size;
    }
    Ok(Found { bytes: total, middle: search.middle() })
}

/// Reads all rows twice; `None` where there are more than the sizes said.
fn exactly(view: &mut dyn StateView, of: &Descriptor, pieces: &[Bounds]) -> Result<Option<Found>, StoreError> {
    let mut total = 0;
    each(view, pieces, &mut |key, value| {
        total += (key.len() + value.len()) as u64;
        Ok(total <= READ_BYTES_MAX)
    })?;
    if total > READ_BYTES_MAX {
        return Ok(None);
    }
    let mut search = Search { of, total, best: None };
    let (mut below, mut ends) = (0, Vec::<u8>::new());
    each(view, pieces, &mut |key, value| {
        // A key of another space may be lower: it is another one in any case.
        let same = *key < ends[..] && key.get(..keys::SPACE_BYTES) == ends.get(..keys::SPACE_BYTES);
        if !same {
            let unit = search.unit(key)?;
            ends = unit.rows.1;
            search.offer(unit.at, below);
        }
        below += (key.len() + value.len()) as u64;
        Ok(true)
    })?;
    Ok(Some(Found { bytes: total, middle: search.middle() }))
}

/// Takes a row; whether it wants another.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

/// Visits rows until `visit` says that it is enough.
fn each(view: &mut dyn StateView, pieces: &[Bounds], visit: &mut Visit<'_>) -> Result<(), StoreError> {
    for (from, to) in pieces {
        let mut went = Ok(true);
        view.scan(from, to, &mut |key, value| {
            went = visit(key, value);
            if matches!(went, Ok(true)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !went? {
            break;
        }
    }
    Ok(())
}

struct Search<'a> {
    of: &'a Descriptor,
    total: u64,
    /// What was found so far that divides the bytes best, and what is below it.
    best: Option<Middle>,
}

impl Search<'_> {
    /// Looks in one piece for the first of two neighbours between which the half lies, and offers both. `before` is what lower pieces
    /// have.
    fn bisect(&mut self, view: &mut dyn StateView, piece: &Bounds, before: u64) -> Result<(), StoreError> {
        let (begin, end) = piece;
        let (mut low, mut high) = (begin.clone(), end.clone());
        // The first row, too: what is between the bounds and the keys would be halved in vain.
        let mut probe = Some(low.clone());
        for _ in 0..STEPS_MAX {
            let Some(from) = probe.take() else { break };
            match self.first(view, &from, &high)? {
                None => high = from,
                Some(unit) => {
                    let below = before.saturating_add(view.size(begin, &unit.rows.0));
                    self.offer(unit.at, below);
                    if self.difference(below) <= self.total / NEAR {
                        break;
                    }
                    if below <= self.total / 2 {
                        low = unit.rows.1;
                    } else {
                        // Between `from` and this one there is nothing.
                        high = unit.rows.0.min(from);
                    }
                }
            }
            probe = between(&low, &high);
        }
        // The neighbour above, where it was not met with.
        if let Some(unit) = self.first(view, &low, end)? {
            let below = before.saturating_add(view.size(begin, &unit.rows.0));
            self.offer(unit.at, below);
        }
        Ok(())
    }

    /// Offers the first position of these pieces.
    fn first_of(&mut self, view: &mut dyn StateView, pieces: &[Bounds], below: u64) -> Result<(), StoreError> {
        for (from, to) in pieces {
            if let Some(unit) = self.first(view, from, to)? {
                self.offer(unit.at, below);
                break;
            }
        }
        Ok(())
    }

    /// What the first row of a range belongs to.
    fn first(&self, view: &mut dyn StateView, from: &[u8], to: &[u8]) -> Result<Option<Unit>, StoreError> {
        if from >= to {
            return Ok(None);
        }
        let mut found = None;
        view.scan(from, to, &mut |key, _| {
            found = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        found.map(|key| self.unit(&key)).transpose()
    }

    fn unit(&self, row: &[u8]) -> Result<Unit, StoreError> {
        let hashed = self.of.partitioning == Partitioning::Hash;
        let shard = self.of.shard;
        let parsed =
            keys::parse_record(row, hashed).map_err(|e| e.corrupt(format!("key of a record of shard {shard}")))?;
        let (space, table) = (parsed.space, parsed.table);
        Ok(match parsed.hash {
            Some(hash) => Unit {
                at: Bytes::copy_from_slice(&hash.to_be_bytes()),
                rows: keys::hash_bounds(space, table, hash, hash.checked_add(1)),
            },
            None => Unit { rows: keys::record_bounds(space, table, None, &parsed.key), at: parsed.key },
        })
    }

    /// How far a division is from two halves.
    fn difference(&self, below: u64) -> u64 {
        let below = below.min(self.total);
        below.abs_diff(self.total - below)
    }

    fn offer(&mut self, at: Bytes, below: u64) {
        let inside = at != self.of.from && within(&at, &self.of.from, &self.of.to);
        let better = |best: &Middle| self.difference(below) < self.difference(best.below);
        if inside && self.best.as_ref().is_none_or(better) {
            self.best = Some(Middle { at, below });
        }
    }

    /// The best of all, where both parts have enough.
    fn middle(self) -> Option<Middle> {
        let total = self.total;
        let enough = |middle: &Middle| {
            let lesser = middle.below.min(total.saturating_sub(middle.below));
            lesser > 0 && lesser >= total / 100 * LEAST_PERCENT
        };
        self.best.filter(enough)
    }
}

/// A key about halfway between two; `None` where they are as good as neighbours.
fn between(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    if low >= high {
        return None;
    }
    let same = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let window = |key: &[u8]| {
        let mut part = [0; WINDOW];
        for (to, from) in part.iter_mut().zip(&key[same..]) {
            *to = *from;
        }
        u128::from_be_bytes(part)
    };
    let (from, to) = (window(low), window(high));
    let half = (to - from) / 2;
    (half > 0).then(|| [&low[..same], &(from + half).to_be_bytes()].concat())
}

#[cfg(test)]
mod tests;
