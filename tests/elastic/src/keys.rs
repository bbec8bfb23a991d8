//! The keys of a schedule, by their place in the table.
//!
//! Owns: which keys there are, and the bounds between them. Must never: know a shard.

use bytes::Bytes;
use std::ops::Range;
use synod_cluster::position::below;
use synod_cluster::system::{Descriptor, Partitioning};

/// How many keys there are.
pub(crate) const KEYS: usize = 8;

/// The keys, in order of position: a key is known by its index.
pub(crate) struct Keys {
    names: Vec<Bytes>,
    positions: Vec<Bytes>,
    partitioning: Partitioning,
}

impl Keys {
    /// Keys of a table that is partitioned so.
    pub(crate) fn new(partitioning: Partitioning) -> Self {
        let position = |name: &Bytes| Bytes::from(partitioning.position(name).into_owned());
        let mut names: Vec<Bytes> = (0..KEYS).map(|n| Bytes::from(format!("k{n}"))).collect();
        names.sort_by_key(position);
        let positions = names.iter().map(position).collect();
        Self { names, positions, partitioning }
    }

    /// A key's name.
    pub(crate) fn name(&self, key: usize) -> Bytes {
        self.names[key].clone()
    }

    /// The index of a name.
    pub(crate) fn index(&self, name: &Bytes) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// A key's position.
    pub(crate) fn position(&self, key: usize) -> Bytes {
        self.positions[key].clone()
    }

    /// Where a shard may begin whose first key is this one.
    pub(crate) fn at(&self, key: usize) -> Bytes {
        match self.partitioning {
            Partitioning::Range => self.positions[key].clone(),
            Partitioning::Hash => self.positions[key].slice(..8),
        }
    }

    /// The lower bound of the keys from this one on; of all keys none.
    pub(crate) fn from(&self, key: usize) -> Bytes {
        if key == 0 { Bytes::new() } else { self.at(key) }
    }

    /// The upper bound of the keys below this one; of all keys none.
    pub(crate) fn to(&self, key: usize) -> Bytes {
        if key >= KEYS { Bytes::new() } else { self.at(key) }
    }

    /// How many keys lie below an upper bound.
    pub(crate) fn below(&self, to: &[u8]) -> usize {
        self.positions.iter().filter(|position| below(position, to)).count()
    }

    /// The keys of a shard.
    pub(crate) fn of(&self, shard: &Descriptor) -> Range<usize> {
        let first = (0..KEYS).find(|key| shard.contains(&self.names[*key])).unwrap_or(KEYS);
        let count = (first..KEYS).take_while(|key| shard.contains(&self.names[*key])).count();
        first..first + count
    }
}
