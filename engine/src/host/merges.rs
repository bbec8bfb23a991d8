//! What a worker is told of a shard that is to go into another one, and what it wants told.
//!
//! Owns: inputs about merges, and the host's part for them. Must never: decide anything about a merge.

use synod_cluster::ids::{NodeId, ShardId, Slot};

/// A node's word that a shard is frozen there, and flushed: it can go into another one whatever happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeWord {
    /// The shard that goes.
    pub source: ShardId,
    /// Which attempt of the shard that stays it is frozen for: a word of an earlier one is worth nothing.
    pub seq: u64,
    /// The slot of the source's log that froze it.
    pub frozen: Slot,
}

/// What happens on the way of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeInput {
    /// A member gives its word.
    Word {
        /// The member.
        from: NodeId,
        /// The shard that stays.
        target: ShardId,
        /// Its word.
        word: MergeWord,
    },
}

impl MergeInput {
    /// The shard that it is about.
    pub(super) fn shard(&self) -> ShardId {
        let Self::Word { target, .. } = self;
        *target
    }
}

/// What a worker wants done for merges. A host that does none of it keeps the default: then no merge comes about.
pub trait MergeHost {
    /// Gives this node's word to the node that leads the shard that stays. One that is lost is given again.
    fn tell_merge(&mut self, to: NodeId, target: ShardId, word: MergeWord) {
        let _ = (to, target, word);
    }
}
