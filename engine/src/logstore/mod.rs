//! The durable log of every group on a node.
//!
//! Owns: hard states, entries and the node's own rows. Must never: acknowledge before a sync, skip or cut a damaged
//! entry, or retry a failed write.

pub mod mem;
pub mod rocks;
mod scan;

use crate::StoreError;
pub use crate::codec::node::{GONE, NodeIdentity};
use scan::{GroupScan, check_batch, entry_name, missing_entry};
use synod_cluster::ids::{
    ClusterVersion, Entry, EntryId, HardState, Incarnation, NodeId, NodeWriteSeq, Run, ShardId, Slot, Space,
};
use synod_paxos::types::Epoch;

/// One group's share of a write batch; `truncate_from` comes before `append`.
#[derive(Clone, Debug, Default)]
pub struct GroupWrite {
    /// The group.
    pub shard: ShardId,
    /// What the group was created with, opaque to the store (row `group|03`, version byte and CRC32 around it); written
    /// once, together with the first hard state.
    pub genesis: Option<bytes::Bytes>,
    /// Its hard state, where it changed.
    pub hard: Option<HardState>,
    /// Entries at and above this slot go.
    pub truncate_from: Option<Slot>,
    /// Contiguous entries, written after the truncation.
    pub append: Vec<Entry>,
    /// The entry up to which the log goes (inclusive): trimmed entries are never read again.
    pub trim: Option<EntryId>,
    /// Where the group's rows are in the state store from now on; a group without such a row has them in the space of its
    /// own number.
    pub space: Option<Space>,
    /// The whole group goes: hard state, genesis, entries, trim mark; a tombstone row stays so that the group is not created
    /// here again, but for a replica that begins in a later epoch than this one ([`GONE`]: never).
    pub remove: Option<Epoch>,
    /// The group was removed here, and comes back in a later epoch: its tombstone goes.
    pub revive: bool,
}

/// What one synced write holds: any number of groups, and the node's own rows.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// The groups' writes, in order; a group may stand more than once.
    pub groups: Vec<GroupWrite>,
    /// This batch's place in the node's order; greater than that of every batch before.
    pub seq: NodeWriteSeq,
    /// Highest (incarnation, write sequence) seen from peers, where it rose since the last batch.
    pub seen: Vec<(NodeId, Incarnation, NodeWriteSeq)>,
}

impl LogBatch {
    /// Adds the batch that comes next in the node's order: both become one synced write.
    pub fn join(&mut self, next: Self) {
        self.groups.extend(next.groups);
        self.seen.extend(next.seen);
        self.seq = next.seq;
    }
}

/// What a node finds in its log store when it starts.
#[derive(Clone, Debug, Default)]
pub struct NodeRecovered {
    /// `None` for a fresh data directory.
    pub identity: Option<NodeIdentity>,
    /// The incarnation of the process before this one.
    pub incarnation: Incarnation,
    /// The last durable write.
    pub seq: NodeWriteSeq,
    /// What was seen from peers.
    pub seen: Vec<(NodeId, Incarnation, NodeWriteSeq)>,
    /// Every group with a hard state; one that has lost it, while other rows of it are there, stands here too.
    pub groups: Vec<ShardId>,
    /// Groups whose rows are in another space of the state store than that of their own number.
    pub spaces: Vec<(ShardId, Space)>,
    /// Groups that were removed, each with the epoch of its tombstone.
    pub removed: Vec<(ShardId, Epoch)>,
    /// Binaries that do not speak this cluster version are kept from the store.
    pub sealed: ClusterVersion,
}

/// What a group finds.
#[derive(Clone, Debug)]
pub struct GroupRecovered {
    /// What it was created with.
    pub genesis: bytes::Bytes,
    /// Its hard state.
    pub hard: HardState,
    /// Where its rows are in the state store, where that was ever changed.
    pub space: Option<Space>,
    /// The entry before the first retained one.
    pub trimmed: EntryId,
    /// Origins of the retained entries.
    pub runs: Vec<Run>,
    /// The last retained entry, or `trimmed`.
    pub last: EntryId,
    /// Timestamp of the last entry, 0 where there is none.
    pub last_ts: u64,
    /// Slots now and then, the last one among them, and how many bytes the retained entries up to each have.
    pub sizes: Vec<(Slot, u64)>,
}

/// The log of a node. One writer; readers on any thread.
pub trait LogStore: Send + Sync {
    /// Writes the batch atomically and returns once it is synced. After an error the caller ends the process.
    fn write(&self, batch: &LogBatch) -> Result<(), StoreError>;

    /// Names the cluster and node this store belongs to, synced. Refused (`StoreError::Identity`) where another name
    /// stands already.
    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), StoreError>;

    /// Begins a new incarnation, synced: one above the greatest before. Returns it.
    fn begin_incarnation(&self) -> Result<Incarnation, StoreError>;

    /// Keeps binaries that do not speak this cluster version from opening the store, from now on and for good; synced. Comes
    /// before anything is written that they do not know.
    fn seal(&self, version: ClusterVersion) -> Result<(), StoreError>;

    /// The node's rows.
    fn recover_node(&self) -> Result<NodeRecovered, StoreError>;

    /// One group's hard state and a scan of its headers, every CRC checked; `None` for a group that does not exist.
    /// A gap, a CRC mismatch or an undecodable row is `StoreError::Corrupt`.
    fn recover_group(&self, shard: ShardId) -> Result<Option<GroupRecovered>, StoreError>;

    /// What a group was created with; `None` for a group that does not exist.
    fn genesis(&self, shard: ShardId) -> Result<Option<bytes::Bytes>, StoreError> {
        Ok(self.recover_group(shard)?.map(|found| found.genesis))
    }

    /// Entries of slots in `(from, upto]`, in order, without gap, stopping after the entry that passes `max_bytes` (so at
    /// least one). CRCs checked. A missing slot is `StoreError::Corrupt`.
    fn entries(&self, shard: ShardId, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, StoreError>;

    /// Whether the store has met a background error (RocksDB's are polled); the caller ends the process on `Err`.
    fn health(&self) -> Result<(), StoreError>;
}
