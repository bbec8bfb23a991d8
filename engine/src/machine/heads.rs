//! Heads of the keys that an entry touches.
//!
//! Owns: what is kept of a key while its entry is got ready and applied. Must never: read a row.

use super::rows;
use crate::codec::record::{Head, Newest};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use synod_cluster::ids::{Offset, Space};

/// A key that an operation of the entry touched.
pub(super) struct KeyState {
    pub(super) key: Bytes,
    pub(super) hash: Option<u64>,
    /// Where its rows are.
    pub(super) space: Space,
    pub(super) head: Head,
    pub(super) dirty: bool,
    /// History rows from here on are of this entry.
    pub(super) stored: Offset,
    /// History rows below are dropped by this entry.
    pub(super) gone: Offset,
}

impl KeyState {
    pub(super) fn new(key: Bytes, (space, hash): (Space, Option<u64>), head: Head) -> Self {
        let stored = head.next;
        Self { key, hash, space, head, dirty: false, stored, gone: Offset(0) }
    }
}

/// Heads of keys that an entry touches, found before its turn comes.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) index: HashMap<Bytes, usize>,
    pub(super) keys: Vec<KeyState>,
    /// Keys that were looked up and whose heads found no room.
    passed: HashSet<Bytes>,
    bytes: usize,
}

/// What an entry that waits holds of heads, bytes, about: the newest record of a key may be in its head.
const HEADS_BYTES: usize = 256 << 10;

impl Heads {
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self { index: HashMap::with_capacity(keys), keys: Vec::with_capacity(keys), passed: HashSet::new(), bytes: 0 }
    }

    pub(super) fn get(&self, key: &Bytes) -> Option<&Head> {
        self.index.get(key).map(|at| &self.keys[*at].head)
    }

    /// Whether a key was looked up. A row is read once, whatever the number of operations on it: each read copies it.
    pub(super) fn is_known(&self, key: &Bytes) -> bool {
        self.index.contains_key(key) || self.passed.contains(key)
    }

    /// Keeps a head, where there is room; `place` is the space of the key's rows and the hash in them.
    pub(super) fn put(&mut self, key: Bytes, place: (Space, Option<u64>), head: Head) {
        let inline = if let Newest::Inline(record) = &head.newest { rows::record_size(record) } else { 0 };
        let bytes = size_of::<KeyState>() + key.len() + usize::try_from(inline).unwrap_or(usize::MAX);
        if self.bytes.saturating_add(bytes) > HEADS_BYTES {
            self.passed.insert(key);
            return;
        }
        self.bytes += bytes;
        self.index.insert(key.clone(), self.keys.len());
        self.keys.push(KeyState::new(key, place, head));
    }
}
