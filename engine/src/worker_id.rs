//! The names of a node's workers.
//!
//! Owns: the number. Must never: say which shards a worker has.

/// One of a node's workers, counted from 0. No file names its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// The worker that has the system shard, and does what a node does once.
    pub const FIRST: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}
