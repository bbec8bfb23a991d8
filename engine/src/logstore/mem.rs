//! A log store in memory, for tests and simulation.
//!
//! Owns: the same behaviour as the RocksDB store, without a disk: it outlives a simulated restart by being shared. Must
//! never: be used by a server.

use super::{GroupRecovered, GroupScan, GroupWrite, LogBatch, LogStore, NodeIdentity, NodeRecovered, check_batch};
use crate::StoreError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use synod_cluster::ids::{
    ClusterVersion, Entry, EntryId, HardState, Incarnation, NodeId, NodeWriteSeq, ShardId, Slot, Space,
};
use synod_paxos::types::Epoch;

/// Decides, before a batch is written, whether that write fails. A batch it refuses leaves nothing behind.
pub type WriteHook = Box<dyn FnMut(&LogBatch) -> Result<(), StoreError> + Send>;

#[derive(Default)]
struct Group {
    genesis: Option<Bytes>,
    hard: Option<HardState>,
    trimmed: Option<EntryId>,
    space: Option<Space>,
    entries: BTreeMap<Slot, Entry>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.genesis.is_none() && self.hard.is_none() && self.trimmed.is_none() && self.entries.is_empty()
    }
}

#[derive(Default)]
struct Inner {
    groups: BTreeMap<ShardId, Group>,
    removed: BTreeMap<ShardId, Epoch>,
    identity: Option<NodeIdentity>,
    sealed: ClusterVersion,
    incarnation: Incarnation,
    seq: NodeWriteSeq,
    seen: BTreeMap<NodeId, (Incarnation, NodeWriteSeq)>,
    hook: Option<WriteHook>,
    fail_after: Option<u64>,
    failed: Option<StoreError>,
}

/// A log store in memory. Everything written is at once durable.
#[derive(Default)]
pub struct MemLog {
    inner: Mutex<Inner>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl MemLog {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How often entries were read so far, and how many bytes of them.
    #[must_use]
    pub fn reads(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.bytes_read.load(Ordering::Relaxed))
    }

    /// Lets `writes` more batches through, then fails every write until [`MemLog::clear_failure`].
    pub fn fail_after(&self, writes: u64) {
        self.lock().fail_after = Some(writes);
    }

    /// Asks `hook` before each batch; its first error fails every later write until [`MemLog::clear_failure`].
    pub fn set_hook(&self, hook: WriteHook) {
        self.lock().hook = Some(hook);
    }

    /// Forgets an injected failure, the hook too: what a restart on a repaired disk finds.
    pub fn clear_failure(&self) {
        let mut inner = self.lock();
        inner.hook = None;
        inner.fail_after = None;
        inner.failed = None;
    }

    /// Changes a stored entry in place, as a damaged disk would; whether there was one. For tests.
    pub fn damage_entry(&self, shard: ShardId, slot: Slot, damage: impl FnOnce(&mut Entry)) -> bool {
        let mut inner = self.lock();
        let entry = inner.groups.get_mut(&shard).and_then(|group| group.entries.get_mut(&slot));
        entry.map(damage).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic while the log's lock was held; its state is unknown")
    }
}

impl Inner {
    fn admit(&mut self, batch: &LogBatch) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let refused = match (&mut self.fail_after, &mut self.hook) {
            (Some(0), _) => Err(StoreError::Io { what: "write to the log in memory".into(), why: "injected".into() }),
            (Some(left), _) => {
                *left -= 1;
                Ok(())
            }
            (None, Some(hook)) => hook(batch),
            (None, None) => Ok(()),
        };
        self.failed = refused.clone().err();
        refused
    }

    fn apply(&mut self, write: &GroupWrite) {
        if let Some(upto) = write.remove {
            self.groups.remove(&write.shard);
            self.removed.insert(write.shard, upto);
            return;
        }
        if write.revive {
            self.groups.remove(&write.shard);
            self.removed.remove(&write.shard);
        }
        let group = self.groups.entry(write.shard).or_default();
        if let Some(genesis) = &write.genesis {
            group.genesis = Some(genesis.clone());
        }
        if let Some(hard) = &write.hard {
            group.hard = Some(hard.clone());
        }
        if let Some(from) = write.truncate_from {
            group.entries.split_off(&from);
        }
        for entry in &write.append {
            group.entries.insert(entry.id.slot, entry.clone());
        }
        group.space = write.space.or(group.space);
        if let Some(trim) = write.trim {
            group.entries = group.entries.split_off(&trim.slot.next());
            group.trimmed = Some(trim);
        }
    }
}

impl LogStore for MemLog {
    fn write(&self, batch: &LogBatch) -> Result<(), StoreError> {
        check_batch(batch);
        let mut inner = self.lock();
        inner.admit(batch)?;
        for write in &batch.groups {
            inner.apply(write);
        }
        inner.seq = batch.seq;
        for &(node, incarnation, seq) in &batch.seen {
            inner.seen.insert(node, (incarnation, seq));
        }
        Ok(())
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), StoreError> {
        let mut inner = self.lock();
        match &inner.identity {
            Some(found) => found.must_be(identity),
            None => {
                inner.identity = Some(identity.clone());
                Ok(())
            }
        }
    }

    fn begin_incarnation(&self) -> Result<Incarnation, StoreError> {
        let mut inner = self.lock();
        inner.incarnation.0 += 1;
        Ok(inner.incarnation)
    }

    fn seal(&self, version: ClusterVersion) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.sealed = inner.sealed.max(version);
        Ok(())
    }

    fn recover_node(&self) -> Result<NodeRecovered, StoreError> {
        let inner = self.lock();
        let live = inner.groups.iter().filter(|(shard, group)| !group.is_empty() && !inner.removed.contains_key(shard));
        Ok(NodeRecovered {
            identity: inner.identity.clone(),
            incarnation: inner.incarnation,
            seq: inner.seq,
            seen: inner.seen.iter().map(|(&node, &(incarnation, seq))| (node, incarnation, seq)).collect(),
            groups: live.clone().map(|(&shard, _)| shard).collect(),
            spaces: live.filter_map(|(&shard, group)| Some((shard, group.space?))).collect(),
            removed: inner.removed.iter().map(|(&shard, &upto)| (shard, upto)).collect(),
            sealed: inner.sealed,
        })
    }

    fn recover_group(&self, shard: ShardId) -> Result<Option<GroupRecovered>, StoreError> {
        let inner = self.lock();
        let Some(group) = inner.groups.get(&shard).filter(|_| !inner.removed.contains_key(&shard)) else {
            return Ok(None);
        };
        let mut scan = GroupScan::new(shard, group.trimmed);
        for (&slot, entry) in &group.entries {
            check_entry(shard, slot, entry)?;
            scan.entry(slot, entry)?;
        }
        scan.finish(group.genesis.clone(), group.hard.clone(), group.space)
    }

    fn entries(&self, shard: ShardId, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let inner = self.lock();
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut slot = from;
        while slot < upto && bytes <= max_bytes {
            slot = slot.next();
            let entry = inner.groups.get(&shard).and_then(|group| group.entries.get(&slot));
            let entry = entry.ok_or_else(|| super::missing_entry(shard, slot))?;
            check_entry(shard, slot, entry)?;
            bytes += entry.size();
            found.push(entry.clone());
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(found)
    }

    fn health(&self) -> Result<(), StoreError> {
        self.lock().failed.clone().map_or(Ok(()), Err)
    }
}

fn check_entry(shard: ShardId, slot: Slot, entry: &Entry) -> Result<(), StoreError> {
    if entry.checksum() == entry.crc {
        return Ok(());
    }
    Err(StoreError::Corrupt { what: super::entry_name(shard, slot), why: "entry checksum mismatch".into() })
}
