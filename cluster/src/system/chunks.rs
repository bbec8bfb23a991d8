//! An ordered map whose clones share what they have in common.
//!
//! Owns: its chunks, and what two of its clones differ in. Must never: change a chunk that another clone sees, or keep an empty one.
//!
//! Entries lie in sorted chunks behind counted pointers. A change copies the list of chunks and one chunk; a clone copies one pointer.
//! Two maps are compared by their chunks first, so that what they share costs one comparison of pointers a chunk.

use std::cmp::Ordering;
use std::sync::Arc;

/// Most entries of a chunk. A change of a map of n entries copies up to n / (half of this) pointers and up to this many entries.
const CHUNK_MAX: usize = 256;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Chunks<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Default for Chunks<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Chunks<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The chunk that has the key, or would have it.
    fn chunk_of(&self, key: &K) -> usize {
        let later = self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| first <= key));
        later.saturating_sub(1)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// Returns what was there before.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let is_last = at + 1 >= chunks.len();
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(chunk);
        let place = match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(there) => return entries.get_mut(there).map(|(_, known)| std::mem::replace(known, value)),
            Err(place) => place,
        };
        self.len += 1;
        if entries.len() < CHUNK_MAX {
            entries.insert(place, (key, value));
        } else if is_last && place == entries.len() {
            // Keys that come in order fill their chunks.
            chunks.push(Arc::new(vec![(key, value)]));
        } else {
            entries.insert(place, (key, value));
            let upper = entries.split_off(entries.len() / 2);
            chunks.insert(at + 1, Arc::new(upper));
        }
        None
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.chunk_of(key);
        let place = self.chunks.get(at)?.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(chunks.get_mut(at)?);
        let (_, value) = entries.remove(place);
        if entries.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(value)
    }

    /// All entries, by rising key.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The entries from a key on, by rising key.
    pub(super) fn starting_at<'a>(&'a self, key: &K) -> impl Iterator<Item = (&'a K, &'a V)> + Clone + use<'a, K, V> {
        let at = self.chunk_of(key);
        let (first, rest) = match self.chunks.get(at..).and_then(<[_]>::split_first) {
            Some((chunk, rest)) => {
                let place = chunk.partition_point(|(known, _)| known < key);
                (chunk.get(place..).unwrap_or_default(), rest)
            }
            None => (&[][..], &[][..]),
        };
        first.iter().chain(rest.iter().flat_map(|chunk| chunk.iter())).map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Chunks<K, V> {
    /// What an older map has to be told to become this one, by rising key: the new values, `None` where there is none any longer.
    /// Takes time in proportion to the chunks, and to the entries of those that are not shared.
    pub(super) fn since<'a>(&'a self, older: &'a Self) -> Vec<(&'a K, Option<&'a V>)> {
        let (mut new, mut old) = (Cursor::of(self), Cursor::of(older));
        let mut changed = Vec::new();
        loop {
            if new.shares(&old) {
                new.skip();
                old.skip();
                continue;
            }
            let order = match (new.peek(), old.peek()) {
                (None, None) => return changed,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((now, _)), Some((before, _))) => now.cmp(before),
            };
            let now = if order == Ordering::Greater { None } else { new.step() };
            let before = if order == Ordering::Less { None } else { old.step() };
            match (now, before) {
                (Some((_, value)), Some((_, known))) if value == known => {}
                (Some((key, value)), _) => changed.push((key, Some(value))),
                (None, Some((key, _))) => changed.push((key, None)),
                (None, None) => {}
            }
        }
    }
}

/// A place in a map: what is left of its chunks, and how many entries of the first are behind it.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a Chunks<K, V>) -> Self {
        Self { chunks: &map.chunks, at: 0 }
    }

    /// Whether both stand before one and the same chunk.
    fn shares(&self, other: &Self) -> bool {
        let first = self.chunks.first().zip(other.chunks.first());
        self.at == 0 && other.at == 0 && first.is_some_and(|(mine, theirs)| Arc::ptr_eq(mine, theirs))
    }

    fn skip(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn peek(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) -> Option<&'a (K, V)> {
        let entry = self.peek()?;
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at >= chunk.len()) {
            self.skip();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Numbers that look random and are the same in each run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    #[test]
    fn it_is_what_a_plain_map_is_and_older_clones_stay_as_they_were() {
        for seed in 0..20 {
            let mut dice = Dice(seed);
            let keys = 1 + dice.below(5_000);
            let (mut map, mut plain) = (Chunks::default(), BTreeMap::new());
            let mut kept: Vec<(Chunks<u64, u64>, BTreeMap<u64, u64>)> = vec![(map.clone(), plain.clone())];
            for step in 0..4_000 {
                let key = dice.below(keys);
                if dice.below(3) == 0 {
                    assert_eq!(map.remove(&key), plain.remove(&key), "seed {seed}, step {step}");
                } else {
                    assert_eq!(map.insert(key, step), plain.insert(key, step), "seed {seed}, step {step}");
                }
                if dice.below(400) == 0 {
                    kept.push((map.clone(), plain.clone()));
                }
            }
            assert_eq!(map.len(), plain.len());
            assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_MAX));
            assert!(map.iter().eq(plain.iter()) && map.iter().rev().eq(plain.iter().rev()));
            for key in 0..keys.min(600) {
                assert_eq!(map.get(&key), plain.get(&key));
                assert!(map.starting_at(&key).take(3).eq(plain.range(key..).take(3)), "seed {seed}, from {key}");
            }
            for (older, plain) in kept {
                assert!(older.iter().eq(plain.iter()), "an older clone changed: seed {seed}");
                let mut grown = older.clone();
                for (key, value) in map.since(&older) {
                    assert_ne!(older.get(key), value, "what is the same is told: seed {seed}");
                    match value {
                        Some(value) => grown.insert(*key, *value),
                        None => grown.remove(key),
                    };
                }
                assert!(grown.iter().eq(map.iter()), "seed {seed}");
            }
        }
    }

    #[test]
    fn one_change_of_many_entries_copies_one_chunk() {
        let mut map = Chunks::default();
        for key in 0..100_000_u64 {
            map.insert(key, key);
        }
        let before = map.clone();
        map.insert(50_000, 1);
        let own = map.chunks.iter().zip(before.chunks.iter()).filter(|(now, old)| !Arc::ptr_eq(now, old)).count();
        assert_eq!((own, map.since(&before)), (1, vec![(&50_000, Some(&1))]));
        assert!(map.chunks.len() <= map.len() / CHUNK_MAX + 1, "keys in order fill their chunks");
    }
}
