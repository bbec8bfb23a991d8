//! The rows a front holds in memory: found by hash, and in order by sorted runs.
//!
//! Owns: rows in the order of their first insertion, a hash index over them, sorted runs of their numbers, and the ranges
//! removed. Must never: sort or merge more than a bounded number of rows in one call, but in [`RowMap::order`]; or look at rows to
//! remove a range of them.

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;

/// What a row costs beside its key and value, bytes: its place in the list and in the index, two allocations.
const ROW_BYTES: usize = 120;

/// Rows that are sorted into a run as soon as there are so many new ones: about 0.4 ms.
const RUN_ROWS: usize = 4096;
/// A merge makes no longer run than this, and one call merges about so many rows.
const MERGED_ROWS_MAX: usize = 16_384;

/// A half-open range of keys.
pub(super) type Span = (Box<[u8]>, Box<[u8]>);

/// A row: its key, and its value or `None` where it is deleted.
pub(super) struct Row {
    pub(super) key: Box<[u8]>,
    pub(super) value: Option<Bytes>,
    /// How many removals of ranges it has survived by being put after them.
    removals: u32,
}

/// A range removed from older layers, and from this map what was put before it. The index has its start.
struct Gone {
    to: Box<[u8]>,
    /// Which removal it was: 1, 2, 3, …
    removal: u32,
}

/// The whole hash is kept, so that growing reads no keys and a lookup reads hardly any but the right one.
struct Place {
    hash: u64,
    row: u32,
}

/// What is known of a key.
pub(super) enum Found<'a> {
    /// Nothing: older layers may have it.
    Nothing,
    /// It is deleted.
    Deleted,
    /// Its value.
    Value(&'a Bytes),
}

/// Rows in memory. Numbers of rows are `u32`: memory ends long before them.
pub(super) struct RowMap {
    rows: Vec<Row>,
    index: HashTable<Place>,
    hasher: DefaultHashBuilder,
    /// Ranges removed, by their start; disjoint.
    removed: BTreeMap<Box<[u8]>, Gone>,
    /// Removals so far.
    removals: u32,
    bytes: usize,
    /// Sorted, disjoint, together the rows below `sorted`.
    runs: Vec<Vec<u32>>,
    sorted: usize,
}

impl RowMap {
    /// An empty map with room for `rows` rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
            index: HashTable::with_capacity(rows),
            hasher: DefaultHashBuilder::default(),
            removed: BTreeMap::new(),
            removals: 0,
            bytes: 0,
            runs: Vec::new(),
            sorted: 0,
        }
    }

    /// Number of rows that no range removed, deleted ones counted. Looks at every row.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        if self.removed.is_empty() { self.rows.len() } else { self.live().count() }
    }

    /// Whether it says nothing about any key.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.removed.is_empty()
    }

    /// Memory held, bytes, approximately.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every row, by its number, also those that a range removed since.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    #[cfg(test)]
    fn live(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| self.is_live(row))
    }

    /// Whether no range has removed this row since it was put.
    pub(super) fn is_live(&self, row: &Row) -> bool {
        row.removals == self.removals || self.gone(&row.key).is_none_or(|(_, gone)| gone.removal <= row.removals)
    }

    /// Ranges removed from older layers, in key order; disjoint.
    pub(super) fn removed(&self) -> impl Iterator<Item = Span> {
        self.removed.iter().map(|(from, gone)| (from.clone(), gone.to.clone()))
    }

    /// The removed range that holds `key`, which older layers must not show.
    pub(super) fn removed_around(&self, key: &[u8]) -> Option<(&[u8], &[u8])> {
        self.gone(key).map(|(from, gone)| (from, &*gone.to))
    }

    fn gone(&self, key: &[u8]) -> Option<(&[u8], &Gone)> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (from, gone) = self.removed.range::<[u8], _>(upto).next_back()?;
        (*key < *gone.to).then_some((&**from, gone))
    }

    /// The newest value of a row.
    pub(super) fn get(&self, key: &[u8]) -> Found<'_> {
        let hash = self.hasher.hash_one(key);
        let place = self.index.find(hash, |place| place.hash == hash && *self.rows[place.row as usize].key == *key);
        match place.map(|place| &self.rows[place.row as usize]) {
            Some(Row { value: Some(value), .. }) if self.removed.is_empty() => Found::Value(value),
            Some(row @ Row { value: Some(value), .. }) if self.is_live(row) => Found::Value(value),
            Some(_) => Found::Deleted,
            None if self.gone(key).is_some() => Found::Deleted,
            None => Found::Nothing,
        }
    }

    /// Sets or deletes a row.
    pub(super) fn insert(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let hash = self.hasher.hash_one(&key[..]);
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        let rows = &mut self.rows;
        let same = |place: &Place| place.hash == hash && *rows[place.row as usize].key == key[..];
        match self.index.find(hash, same).map(|place| place.row as usize) {
            Some(row) => {
                rows[row].removals = self.removals;
                let old = std::mem::replace(&mut rows[row].value, value);
                self.bytes = self.bytes + value_bytes - old.map_or(0, |value| value.len());
            }
            None => {
                let row = u32::try_from(rows.len()).expect("fewer than 2^32 rows fit into memory");
                self.bytes += key.len() + value_bytes + ROW_BYTES;
                rows.push(Row { key: key.into_boxed_slice(), value, removals: self.removals });
                self.index.insert_unique(hash, Place { hash, row }, |place| place.hash);
                if self.rows.len() - self.sorted >= RUN_ROWS {
                    self.sort_new();
                }
            }
        }
    }

    /// Removes `[from, to)` here and from older layers, whatever it holds: no row is looked at. The memory of rows removed here
    /// is given back with the map's.
    pub(super) fn remove_range(&mut self, from: &[u8], to: &[u8]) {
        self.removals += 1;
        // What earlier ranges hold outside of this one stays theirs.
        let overlapping = (Bound::Unbounded, Bound::Excluded(to));
        let earlier = self.removed.range::<[u8], _>(overlapping).rev().take_while(|(_, gone)| *gone.to > *from);
        let earlier: Vec<Box<[u8]>> = earlier.map(|(start, _)| start.clone()).collect();
        for start in earlier {
            let Some(gone) = self.removed.remove(&start) else { continue };
            if *gone.to > *to {
                self.removed.insert(to.into(), Gone { to: gone.to, removal: gone.removal });
            }
            if *start < *from {
                self.removed.insert(start, Gone { to: from.into(), removal: gone.removal });
            }
        }
        self.bytes += from.len() + to.len() + ROW_BYTES;
        self.removed.insert(from.into(), Gone { to: to.into(), removal: self.removals });
    }

    /// Sorts the rows that are in no run, at most [`RUN_ROWS`], into one of their own.
    pub(super) fn sort_new(&mut self) {
        if self.sorted < self.rows.len() {
            self.runs.push(sort(&self.rows, self.sorted));
            self.sorted = self.rows.len();
        }
    }

    /// Sorts the new rows into a run, and merges runs of similar length: a row is merged a logarithmic number of times. One call merges
    /// about [`MERGED_ROWS_MAX`] rows; the next call goes on.
    pub(super) fn settle(&mut self) {
        self.sort_new();
        let mut left = MERGED_ROWS_MAX;
        let mut at = self.runs.len();
        while at >= 2 && left > 0 {
            let [.., longer, last] = &self.runs[..at] else { return };
            let rows = longer.len() + last.len();
            if longer.len() < 2 * last.len() && rows <= MERGED_ROWS_MAX {
                left = left.saturating_sub(rows);
                self.runs[at - 2] = merge(&self.rows, longer, last);
                self.runs.remove(at - 1);
                // What came after it may be mergeable with the longer run now.
                at = self.runs.len().min(at + 1);
            }
            at -= 1;
        }
    }

    /// The sorted runs; complete after [`RowMap::sort_new`].
    pub(super) fn runs(&self) -> &[Vec<u32>] {
        &self.runs
    }

    /// All rows in key order. Takes time in proportion to the map: not for a worker's thread.
    pub(super) fn order(&self) -> Vec<u32> {
        sort(&self.rows, 0)
    }
}

/// The rows from number `from` on, in key order. Sorts by the first bytes behind what all keys share, so that most
/// comparisons touch no key.
fn sort(rows: &[Row], from: usize) -> Vec<u32> {
    let fresh = &rows[from..];
    let Some(first) = fresh.first() else {
        return Vec::new();
    };
    let shared = fresh.iter().fold(first.key.len(), |shared, row| {
        first.key.iter().zip(&row.key[..]).take(shared).take_while(|(a, b)| a == b).count()
    });
    let mut keyed: Vec<(u128, u32)> = (from..)
        .zip(fresh)
        .map(|(number, row)| {
            let mut head = [0; 16];
            let tail = &row.key[shared..];
            let len = tail.len().min(16);
            head[..len].copy_from_slice(&tail[..len]);
            (u128::from_be_bytes(head), u32::try_from(number).expect("rows are numbered by u32"))
        })
        .collect();
    keyed.sort_unstable_by(|(a, row_a), (b, row_b)| {
        a.cmp(b).then_with(|| rows[*row_a as usize].key.cmp(&rows[*row_b as usize].key))
    });
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// Two disjoint sorted runs as one.
fn merge(rows: &[Row], a: &[u32], b: &[u32]) -> Vec<u32> {
    let key = |row: u32| &rows[row as usize].key;
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if key(a[i]) < key(b[j]) {
            merged.push(a[i]);
            i += 1;
        } else {
            merged.push(b[j]);
            j += 1;
        }
    }
    merged.extend_from_slice(&a[i..]);
    merged.extend_from_slice(&b[j..]);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn sorted_keys(map: &RowMap, run: &[u32]) -> Vec<Vec<u8>> {
        run.iter().map(|&row| map.rows()[row as usize].key.to_vec()).collect()
    }

    #[test]
    fn runs_hold_every_row_once_in_order() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut map = RowMap::with_capacity(0);
        for round in 0..200 {
            for _ in 0..rng.random_range(0..20) {
                let len = rng.random_range(0..24);
                let key = (0..len).map(|_| rng.random_range(0..3u8) * 127).collect();
                map.insert(key, Some(Bytes::new()));
            }
            if round % 3 == 0 {
                map.settle();
                assert_eq!(map.runs().iter().map(Vec::len).sum::<usize>(), map.len());
                for run in map.runs() {
                    assert!(sorted_keys(&map, run).is_sorted_by(|a, b| a < b));
                }
            }
            let all = sorted_keys(&map, &map.order());
            assert_eq!(all.len(), map.len());
            assert!(all.is_sorted_by(|a, b| a < b));
        }
    }

    /// The first scan of a full map once sorted all of it, 50 ms for 400,000 rows, while all shards of its worker waited.
    #[test]
    fn no_call_sorts_or_merges_more_than_its_share() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(13);
        let mut map = RowMap::with_capacity(0);
        for _ in 0..100_000 {
            map.insert(rng.random::<u64>().to_be_bytes().to_vec(), None);
            assert!(map.rows().len() - map.sorted < RUN_ROWS);
        }
        let longest = |map: &RowMap| map.runs().iter().map(Vec::len).max();
        assert_eq!((map.runs().len(), longest(&map)), (100_000 / RUN_ROWS, Some(RUN_ROWS)));
        let mut runs = map.runs().len();
        for scans in 0.. {
            let before: Vec<Vec<u32>> = map.runs().to_vec();
            map.settle();
            let merged: usize = map.runs().iter().filter(|run| !before.contains(run)).map(Vec::len).sum();
            assert!(merged < 2 * MERGED_ROWS_MAX && longest(&map) <= Some(MERGED_ROWS_MAX), "{merged} rows merged");
            if map.runs().len() == runs && map.rows().len() == map.sorted {
                assert!(scans > 3 && runs <= 100_000 / (MERGED_ROWS_MAX / 2) + 6, "{runs} runs after {scans} scans");
                break;
            }
            runs = map.runs().len();
        }
        for _ in 0..20_000 {
            map.insert(rng.random::<u64>().to_be_bytes().to_vec(), None);
            map.settle();
        }
        assert!(map.runs().len() < 40, "{} runs where each row was followed by a scan", map.runs().len());
        assert_eq!(map.runs().iter().map(Vec::len).sum::<usize>(), map.len());
    }

    #[test]
    fn ranges_remove_what_was_put_before_them() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        for _ in 0..200 {
            let mut map = RowMap::with_capacity(0);
            // What each key is known to be: `None` nothing, `Some(None)` deleted.
            let mut model: Vec<Option<Option<u8>>> = vec![None; 64];
            for step in 0..120u8 {
                let key = rng.random_range(0..64u8);
                match rng.random_range(0..4) {
                    0 => {
                        let to = rng.random_range(key..64) + 1;
                        map.remove_range(&[key], &[to]);
                        model[usize::from(key)..usize::from(to)].fill(Some(None));
                    }
                    1 => {
                        map.insert(vec![key], None);
                        model[usize::from(key)] = Some(None);
                    }
                    _ => {
                        map.insert(vec![key], Some(Bytes::from(vec![step])));
                        model[usize::from(key)] = Some(Some(step));
                    }
                }
            }
            for key in 0..64u8 {
                let found = match map.get(&[key]) {
                    Found::Nothing => None,
                    Found::Deleted => Some(None),
                    Found::Value(value) => Some(Some(value[0])),
                };
                assert_eq!(found, model[usize::from(key)], "key {key}");
            }
            let spans: Vec<Span> = map.removed().collect();
            assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "disjoint and in order");
            let live = map.live().filter(|row| row.value.is_some()).count();
            assert_eq!(live, model.iter().filter(|known| matches!(known, Some(Some(_)))).count());
        }
    }

    /// A table that goes takes a range for each of its shards, a trim one for its key.
    #[test]
    fn removing_a_range_looks_at_no_rows() {
        let mut map = RowMap::with_capacity(0);
        for n in 0..200_000u32 {
            map.insert(n.to_be_bytes().to_vec(), Some(Bytes::new()));
        }
        let began = std::time::Instant::now();
        for n in 0..10_000u32 {
            map.remove_range(&(n * 20).to_be_bytes(), &(n * 20 + 10).to_be_bytes());
        }
        let took = began.elapsed();
        assert_eq!(map.len(), 100_000);
        assert!(took.as_millis() < 500, "10,000 ranges of a map of 200,000 rows took {took:?}");
    }

    #[test]
    fn memory_is_counted_both_ways() {
        let mut map = RowMap::with_capacity(0);
        map.insert(b"a".to_vec(), Some(Bytes::from_static(b"12345")));
        let with_value = map.bytes();
        map.insert(b"a".to_vec(), None);
        assert_eq!(map.bytes(), with_value - 5);
        map.insert(b"a".to_vec(), Some(Bytes::from_static(b"12345")));
        assert_eq!(map.bytes(), with_value);
        map.insert(b"b".to_vec(), None);
        map.remove_range(b"a", b"b");
        assert_eq!(map.len(), 1);
        assert!(matches!(map.get(b"a"), Found::Deleted));
        assert!(matches!(map.get(b"b"), Found::Deleted));
        assert!(matches!(map.get(b"c"), Found::Nothing));
    }
}
