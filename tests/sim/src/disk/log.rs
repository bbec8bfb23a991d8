//! The log store over a simulated disk.
//!
//! Owns: rows in the production encoding, read back through the production decoders and the production recovery scan. Must
//! never: answer from anything but those rows.

use super::{Change, NodeDisk, Rows};
use crate::clock::Cursor;
use crate::host::{Taps, Watermark};
use crate::plan::DiskFault;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{ClusterVersion, Entry, Incarnation, NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_engine::StoreError;
use synod_engine::codec::{applied, entry, hard, keys, node};
use synod_engine::logstore::mem::MemLog;
use synod_engine::logstore::{GroupRecovered, GroupWrite, LogBatch, LogStore, NodeIdentity, NodeRecovered};
use synod_paxos::types::{EntryId, Epoch, Payload};

/// A process's log store.
pub(crate) struct SimLog {
    disk: NodeDisk,
    cursor: Cursor,
    taps: Taps,
    /// What was found at the start: the production scan of groups runs on it.
    found: MemLog,
    node: NodeRecovered,
    /// What was found is not what is there any more.
    wrote: AtomicBool,
}

impl SimLog {
    /// Opens what the disk holds: every row is decoded.
    pub(crate) fn open(disk: &NodeDisk, cursor: &Cursor, taps: &Taps) -> Result<Self, StoreError> {
        if disk.lock().fault == DiskFault::DamageEndsLog {
            end_at_damage(&mut disk.lock().log);
        }
        let (found, node, marks, spaces) = read_all(&disk.lock().log)?;
        let mut tap = taps.lock();
        (tap.marks, tap.spaces) = (marks, spaces);
        tap.tombs = node.removed.iter().copied().collect();
        drop(tap);
        let (disk, cursor, taps) = (disk.clone(), cursor.clone(), taps.clone());
        Ok(Self { disk, cursor, taps, found, node, wrote: AtomicBool::new(false) })
    }

    fn put(&self, seq: NodeWriteSeq, changes: Vec<Change>) -> Result<(), StoreError> {
        let synced = self.disk.lock().write(self.cursor.get(), seq, changes)?;
        self.cursor.set(synced);
        Ok(())
    }

    fn last_seq(&self) -> NodeWriteSeq {
        self.disk.lock().records.back().map_or(self.node.seq, |record| record.seq)
    }
}

fn corrupt(what: &str) -> impl FnOnce(DecodeError) -> StoreError + '_ {
    move |error| StoreError::Corrupt { what: what.to_owned(), why: error.to_string() }
}

fn missing(shard: ShardId, slot: Slot) -> StoreError {
    StoreError::Corrupt { what: format!("log of shard {shard}, slot {slot}"), why: "no such entry".into() }
}

/// Planted: what cannot be read, and all entries behind it, are taken for never written.
fn end_at_damage(rows: &mut Rows) {
    let mut ended = None;
    rows.retain(|key, value| {
        let Some(shard) = keys::parse_group(key).ok() else { return true };
        if keys::parse_group_entry(shard, key).is_err() {
            return true;
        }
        if entry::decode(value.clone()).is_err() {
            ended = Some(shard);
        }
        ended != Some(shard)
    });
}

type Found = (MemLog, NodeRecovered, BTreeMap<ShardId, Watermark>, BTreeMap<ShardId, Space>);

fn read_all(rows: &Rows) -> Result<Found, StoreError> {
    let (mem, mut found) = (MemLog::new(), NodeRecovered::default());
    let mut marks = BTreeMap::<ShardId, Watermark>::new();
    let mut spaces = BTreeMap::new();
    for (key, value) in rows {
        let value = value.clone();
        if let Some(row) = (key[0] == keys::NODE_WRITE_SEQ[0]).then_some(&key[..]) {
            read_node_row(row, value, &mut found)?;
            continue;
        }
        let shard = keys::parse_group(key).map_err(corrupt("row of the log"))?;
        let mut write = GroupWrite { shard, ..GroupWrite::default() };
        let mark = marks.entry(shard).or_default();
        if key[..] == keys::group_hard(shard) {
            let state = hard::decode(value).map_err(corrupt("hard state"))?;
            (mark.promised, mark.accepted) = (state.promised, state.accepted);
            write.hard = Some(state);
        } else if key[..] == keys::group_trim(shard) {
            let trim = node::decode_trim(value).map_err(corrupt("trim mark"))?;
            mark.last = mark.last.max(trim.slot);
            write.trim = Some(trim);
        } else if key[..] == keys::group_genesis(shard) {
            write.genesis = Some(node::decode_genesis(value).map_err(corrupt("genesis"))?);
        } else if key[..] == keys::group_removed(shard) {
            let upto = node::decode_removed(value).map_err(corrupt("tombstone"))?;
            found.removed.push((shard, upto));
            write.remove = Some(upto);
        } else if key[..] == keys::group_space(shard) {
            let space = node::decode_space(value).map_err(corrupt("pointer to a space"))?;
            spaces.insert(shard, space);
            write.space = Some(space);
        } else {
            let slot = keys::parse_group_entry(shard, key).map_err(corrupt("row of the log"))?;
            let name = format!("log of shard {shard}, slot {slot}");
            let entry = entry::decode(value).map_err(corrupt(&name))?;
            mark.last = mark.last.max(slot);
            write.append = vec![entry];
        }
        mem.write(&LogBatch { groups: vec![write], ..LogBatch::default() })?;
    }
    let groups = mem.recover_node()?;
    (found.groups, found.spaces) = (groups.groups, groups.spaces);
    for (removed, _) in &found.removed {
        marks.remove(removed);
    }
    Ok((mem, found, marks, spaces))
}

fn read_node_row(key: &[u8], value: Bytes, found: &mut NodeRecovered) -> Result<(), StoreError> {
    let read = || -> Result<(), DecodeError> {
        if key == keys::NODE_WRITE_SEQ {
            found.seq = node::decode_seq(value)?;
        } else if key == keys::NODE_INCARNATION {
            found.incarnation = node::decode_incarnation(value)?;
        } else if key == keys::NODE_IDENTITY {
            found.identity = Some(node::decode_identity(value)?);
        } else if key == keys::LOG_FORMAT {
            found.sealed = ClusterVersion(node::decode_format(value)?.into());
        } else {
            let peer = keys::parse_node_seen(key)?;
            let (incarnation, seq) = node::decode_seen(value)?;
            found.seen.push((peer, incarnation, seq));
        }
        Ok(())
    };
    read().map_err(corrupt("node row of the log"))
}

fn put_group(changes: &mut Vec<Change>, write: &GroupWrite) {
    let shard = write.shard;
    let (first, end) = (keys::group_entry(shard, Slot(0)).to_vec(), keys::group_entries_end(shard).to_vec());
    if let Some(upto) = write.remove {
        changes.push(Change::Delete(keys::group_hard(shard).to_vec()));
        changes.push(Change::Delete(keys::group_genesis(shard).to_vec()));
        changes.push(Change::DeleteRange(first, end));
        changes.push(Change::Delete(keys::group_trim(shard).to_vec()));
        changes.push(Change::Delete(keys::group_space(shard).to_vec()));
        changes.push(Change::Put(keys::group_removed(shard).to_vec(), node::encode_removed(upto)));
        return;
    }
    if write.revive {
        changes.push(Change::Delete(keys::group_removed(shard).to_vec()));
    }
    if let Some(genesis) = &write.genesis {
        changes.push(Change::Put(keys::group_genesis(shard).to_vec(), node::encode_genesis(genesis)));
    }
    if let Some(state) = &write.hard {
        changes.push(Change::Put(keys::group_hard(shard).to_vec(), hard::encode(state)));
    }
    if let Some(from) = write.truncate_from {
        changes.push(Change::DeleteRange(keys::group_entry(shard, from).to_vec(), end));
    }
    for appended in &write.append {
        changes.push(Change::Put(keys::group_entry(shard, appended.id.slot).to_vec(), entry::to_bytes(appended)));
    }
    if let Some(trim) = write.trim {
        changes.push(Change::DeleteRange(first, keys::group_entry(shard, trim.slot.next()).to_vec()));
        changes.push(Change::Put(keys::group_trim(shard).to_vec(), node::encode_trim(trim)));
    }
    if let Some(space) = write.space {
        changes.push(Change::Put(keys::group_space(shard).to_vec(), node::encode_space(space)));
    }
}

impl LogStore for SimLog {
    fn write(&self, batch: &LogBatch) -> Result<(), StoreError> {
        let synced = self.begin_write(batch, self.cursor.get())?;
        self.cursor.set(synced);
        self.end_write(batch, synced);
        Ok(())
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), StoreError> {
        match &self.node.identity {
            Some(found) => found.must_be(identity),
            None => {
                let row = Change::Put(keys::NODE_IDENTITY.to_vec(), node::encode_identity(identity));
                self.put(self.last_seq(), vec![row])
            }
        }
    }

    fn begin_incarnation(&self) -> Result<Incarnation, StoreError> {
        let next = Incarnation(self.node.incarnation.0 + 1);
        let row = Change::Put(keys::NODE_INCARNATION.to_vec(), node::encode_incarnation(next));
        self.put(self.last_seq(), vec![row])?;
        Ok(next)
    }

    fn seal(&self, version: ClusterVersion) -> Result<(), StoreError> {
        let format = node::encode_format(u8::try_from(version.0).expect("versions are small"));
        self.put(self.last_seq(), vec![Change::Put(keys::LOG_FORMAT.to_vec(), format)])
    }

    fn recover_node(&self) -> Result<NodeRecovered, StoreError> {
        Ok(self.node.clone())
    }

    fn recover_group(&self, shard: ShardId) -> Result<Option<GroupRecovered>, StoreError> {
        if !self.wrote.load(Ordering::Relaxed) {
            return self.found.recover_group(shard);
        }
        let (found, ..) = read_all(&self.disk.lock().log)?;
        found.recover_group(shard)
    }

    fn entries(&self, shard: ShardId, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let mut disk = self.disk.lock();
        if std::mem::take(&mut disk.fail_read) {
            disk.failed = true;
            return Err(StoreError::Io { what: "read of the simulated log".into(), why: "injected".into() });
        }
        entries(&disk.log, shard, from, upto, max_bytes)
    }

    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl SimLog {
    /// Hands a batch to the disk at `at`; when its sync ends.
    pub(super) fn begin_write(&self, batch: &LogBatch, at: u64) -> Result<u64, StoreError> {
        let mut changes = Vec::new();
        for write in &batch.groups {
            put_group(&mut changes, write);
            if let Some(trim) = write.trim {
                let space = write.space.unwrap_or_else(|| self.taps.lock().space_of(write.shard));
                let durable = self.durable_applied(space, at);
                self.taps.lock().trimmed(write.shard, trim.slot, durable, write.space.is_some());
                if write.space.is_some() && write.truncate_from.is_some() && self.reaches_behind(write.shard, trim) {
                    self.taps.lock().forgot(write.shard, trim.slot);
                }
            }
        }
        for &(peer, incarnation, seq) in &batch.seen {
            self.sees((peer, incarnation, seq));
            changes.push(Change::Put(keys::node_seen(peer).to_vec(), node::encode_seen(incarnation, seq)));
        }
        changes.push(Change::Put(keys::NODE_WRITE_SEQ.to_vec(), node::encode_seq(batch.seq)));
        self.wrote.store(true, Ordering::Relaxed);
        self.disk.lock().write(at, batch.seq, changes)
    }

    /// A mark of a peer is written.
    fn sees(&self, (peer, incarnation, seq): (NodeId, Incarnation, NodeWriteSeq)) {
        let row = self.disk.lock().log.get(&keys::node_seen(peer)[..]).cloned();
        let known = row.and_then(|row| node::decode_seen(row).ok()).unwrap_or_default();
        if (incarnation, seq) < known {
            self.taps.lock().set_back(peer, (incarnation, seq), known);
        }
    }

    /// Its sync has ended, at `at`.
    pub(super) fn end_write(&self, batch: &LogBatch, at: u64) {
        let mut taps = self.taps.lock();
        for write in &batch.groups {
            let installed = write.space.map(|space| (space, self.disk.lock().rows_hash(space)));
            taps.written(at, batch.seq, write, installed);
        }
    }

    /// The position that a space's rows on disk stand at, by their own row.
    fn durable_applied(&self, space: Space, at: u64) -> Slot {
        let mut disk = self.disk.lock();
        disk.settle_flushes(at);
        let row = disk.state.get(&keys::applied(space)).cloned();
        row.and_then(|row| applied::AppliedRow::decode(row).ok()).map_or(Slot(0), |row| row.slot)
    }

    /// Whether the log on disk goes on behind this very entry.
    fn reaches_behind(&self, shard: ShardId, id: EntryId) -> bool {
        let disk = self.disk.lock();
        [disk.entry_id(shard, id.slot), disk.trimmed(shard)].contains(&Some(id))
            && disk.entries_of(shard, id.slot).next().is_some()
    }
}

/// Entries of slots in `(from, upto]` as the disk holds them.
pub(super) fn entries(
    rows: &Rows,
    shard: ShardId,
    from: Slot,
    upto: Slot,
    max_bytes: usize,
) -> Result<Vec<Entry>, StoreError> {
    let (mut found, mut bytes, mut slot) = (Vec::new(), 0, from);
    while slot < upto && bytes <= max_bytes {
        slot = slot.next();
        let row = rows.get(&keys::group_entry(shard, slot)[..]).ok_or_else(|| missing(shard, slot))?;
        let name = format!("log of shard {shard}, slot {slot}");
        let entry = entry::decode(row.clone()).map_err(corrupt(&name))?;
        if entry.id.slot != slot {
            return Err(missing(shard, slot));
        }
        bytes += entry.size();
        found.push(entry);
    }
    Ok(found)
}

/// What the observer reads from a disk about epochs.
impl NodeDisk {
    /// Whether this entry is synced here by `at`, or lies below what is trimmed, or the replica that may have had it went.
    pub(crate) fn holds(&self, shard: ShardId, entry: &Entry, epoch: Epoch, at: u64) -> bool {
        let disk = self.lock();
        let unsynced = || disk.is_unsynced(&keys::group_entry(shard, entry.id.slot), at);
        let same = disk.entry_id(shard, entry.id.slot) == Some(entry.id) && !unsynced();
        let trimmed = disk.trimmed(shard).is_some_and(|id| id.slot >= entry.id.slot);
        same || trimmed || disk.gone_by(shard, epoch)
    }

    /// Whether the log here shows that this epoch, or a later one, has a stop-sign before it.
    pub(crate) fn knows_epoch(&self, shard: ShardId, epoch: Epoch, at: u64) -> bool {
        let disk = self.lock();
        let hard = disk.log.get(&keys::group_hard(shard)[..]).cloned();
        let entered = hard.and_then(|row| hard::decode(row).ok()).is_some_and(|hard| hard.membership.epoch >= epoch);
        let stops = |(key, row): (&Vec<u8>, &Bytes)| {
            let synced = !disk.is_unsynced(key, at);
            let payload = entry::decode(row.clone()).map(|entry| entry.payload);
            synced && matches!(payload, Ok(Payload::Config(next)) if next.epoch >= epoch)
        };
        entered || disk.entries_of(shard, Slot(0)).any(stops) || disk.gone_by(shard, epoch)
    }

    /// Whether the log here has an entry behind `slot` that was proposed in this epoch or a later one.
    pub(crate) fn holds_of_epoch(&self, shard: ShardId, slot: Slot, epoch: Epoch) -> bool {
        let disk = self.lock();
        let of_epoch = |row: &Bytes| entry::decode(row.clone()).is_ok_and(|entry| entry.id.origin.epoch >= epoch);
        let trimmed = disk.trimmed(shard).is_some_and(|id| id.origin.epoch >= epoch);
        disk.entries_of(shard, slot).any(|(_, row)| of_epoch(row)) || trimmed || disk.gone_by(shard, epoch)
    }
}

impl super::Inner {
    fn entries_of(&self, shard: ShardId, after: Slot) -> impl Iterator<Item = (&Vec<u8>, &Bytes)> {
        let (first, end) = (keys::group_entry(shard, after.next()).to_vec(), keys::group_entries_end(shard).to_vec());
        self.log.range(first..end)
    }

    /// The entry in a slot, where it is there and can be read.
    fn entry_id(&self, shard: ShardId, slot: Slot) -> Option<EntryId> {
        let row = self.log.get(&keys::group_entry(shard, slot)[..]).cloned()?;
        entry::decode(row).ok().map(|entry| entry.id)
    }

    /// Up to which entry a log is trimmed.
    fn trimmed(&self, shard: ShardId) -> Option<EntryId> {
        node::decode_trim(self.log.get(&keys::group_trim(shard)[..]).cloned()?).ok()
    }

    /// Whether a replica of this epoch may have been here and went.
    fn gone_by(&self, shard: ShardId, epoch: Epoch) -> bool {
        let row = self.log.get(&keys::group_removed(shard)[..]).cloned();
        row.and_then(|row| node::decode_removed(row).ok()).is_some_and(|upto| upto >= epoch)
    }

    /// Whether the row was written by a write whose sync has not ended by `at`.
    fn is_unsynced(&self, key: &[u8], at: u64) -> bool {
        let late = self.records.iter().rev().take_while(|record| record.synced_at > at);
        late.flat_map(|record| &record.changes).any(|change| matches!(change, Change::Put(put, _) if put == key))
    }
}

impl NodeDisk {
    /// Entries of slots in `(from, upto]`, for the observer; `None` where they are trimmed or damaged.
    pub(crate) fn peek(&self, shard: ShardId, from: Slot, upto: Slot) -> Option<Vec<Entry>> {
        let disk = self.lock();
        let read = |rows: &Rows, from, upto| entries(rows, shard, from, upto, usize::MAX);
        let mut found = Vec::new();
        let mut slot = from;
        while slot < upto {
            let one = read(&disk.log, slot, slot.next()).or_else(|_| read(&disk.pristine, slot, slot.next()));
            found.extend(one.ok()?);
            slot = slot.next();
        }
        Some(found)
    }
}
