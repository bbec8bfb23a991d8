//! The log store on RocksDB: one database a node, all groups, one synced write a batch.
//!
//! Owns: the log DB's rows, options and format version. Must never: return from a write before it is on disk, write
//! again after a write failed, or skip a row it cannot decode.
//!
//! The write-ahead log is read back in the mode `kTolerateCorruptedTailRecords`: a damaged record that others follow is
//! an error, not the end of the log. Background errors are never resumed from; the crate offers no listener, so
//! [`LogStore::health`] polls their number. Inserts into the memtable go behind a hint for each group's entries: the
//! default remembers the last position only, which many groups make useless, and the hint for each batch that RocksDB
//! also offers is read only where several writers insert at once.

use super::{
    GroupRecovered, GroupScan, GroupWrite, LogBatch, LogStore, NodeIdentity, NodeRecovered, check_batch, entry_name,
    missing_entry,
};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::{entry, hard, keys, node};
use crate::rocks::{BaseLevel, check_background, io, open_db, open_db_to_read, read_options, strict_options};
use bytes::Bytes;
use rocksdb::{DB, DBCompressionType, DBRecoveryMode, Options, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::{ClusterVersion, Entry, HardState, Incarnation, NodeWriteSeq, ShardId, Slot};
use synod_paxos::types::Epoch;

/// Sizes of the log DB.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Size of a memtable, bytes. What is trimmed before its memtable is flushed never reaches a table file.
    pub memtable_bytes: usize,
    /// Memtables that may wait for their flush, the active one counted.
    pub memtables: u8,
    /// Block cache, bytes; only catch-up and recovery read.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { memtable_bytes: 64 << 20, memtables: 4, cache_bytes: 8 << 20 }
    }
}

impl LogOptions {
    /// Sizes that leave most of a small disk to others: memtables become files, and eight of those are compacted at once.
    /// `disk_bytes` is the size of the file system.
    #[must_use]
    pub fn on_disk_of(self, disk_bytes: u64) -> Self {
        let part = usize::try_from(disk_bytes / 128).unwrap_or(usize::MAX);
        Self { memtable_bytes: part.clamp(8 << 20, 64 << 20).min(self.memtable_bytes), ..self }
    }

    /// What can be taken between two looks at the disk, bytes: the beginning of a write-ahead log, the file that its predecessor is
    /// flushed to, and what is written meanwhile.
    #[must_use]
    pub fn step_bytes(&self) -> u64 {
        3 * self.memtable_bytes as u64
    }

    fn base_level(&self) -> BaseLevel {
        BaseLevel((4 * self.memtable_bytes as u64).max(16 << 20))
    }
}

/// The log of a node on RocksDB.
pub struct RocksLog {
    db: DB,
    path: PathBuf,
    synced: WriteOptions,
    sizes: LogOptions,
    failed: OnceLock<StoreError>,
    /// Held while the node's own rows are read and rewritten.
    node_rows: Mutex<()>,
}

impl RocksLog {
    /// Opens the database at `path`, made where there is none. Damage is an error; nothing is repaired.
    pub fn open(path: &Path, sizes: &LogOptions) -> Result<Self, StoreError> {
        let db = open_db(&options(sizes)?, path)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        // Without effect for one writer; it is for the day there are several.
        synced.set_memtable_insert_hint_per_batch(true);
        let log = Self::over(db, path, synced, *sizes);
        log.check_format()?;
        Ok(log)
    }

    /// Opens the database to look at it: nothing is written, a write fails.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let sizes = LogOptions::default();
        let mut options = options(&sizes)?;
        options.create_if_missing(false);
        let db = open_db_to_read(&options, path)?;
        let log = Self::over(db, path, WriteOptions::default(), sizes);
        match log.row(&keys::LOG_FORMAT)? {
            Some(_) => log.check_format().map(|()| log),
            None => {
                Err(StoreError::Corrupt { what: log.path.display().to_string(), why: "it has no format row".into() })
            }
        }
    }

    fn over(db: DB, path: &Path, synced: WriteOptions, sizes: LogOptions) -> Self {
        Self { db, path: path.to_path_buf(), synced, sizes, failed: OnceLock::new(), node_rows: Mutex::new(()) }
    }

    /// The room that the largest compaction which may begin by itself takes until it ends, bytes.
    pub fn largest_compaction(&self) -> Result<u64, StoreError> {
        self.sizes.base_level().largest_compaction(&self.db).map_err(|e| io(self.reading(), &e))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let what = format!("format row of {}", self.path.display());
        match self.row(&keys::LOG_FORMAT)? {
            Some(row) => match node::decode_format(row) {
                Ok(node::FORMAT..=node::FORMAT_MAX) => Ok(()),
                Ok(found) if found > node::FORMAT_MAX => {
                    Err(StoreError::TooNew { what, found, known: node::FORMAT_MAX })
                }
                Ok(found) => Err(StoreError::Corrupt { what, why: format!("version {found} does not exist") }),
                Err(error) => Err(error.corrupt(what)),
            },
            None if self.is_empty()? => self.put(&keys::LOG_FORMAT, &node::encode_format(node::FORMAT)),
            None => Err(StoreError::Corrupt { what, why: "missing, while other rows are there".into() }),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let mut rows = self.db.raw_iterator();
        rows.seek_to_first();
        rows.status().map_err(|e| io(self.reading(), &e))?;
        Ok(!rows.valid())
    }

    fn reading(&self) -> String {
        format!("read {}", self.path.display())
    }

    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.db.get(key).map_err(|e| io(self.reading(), &e))?;
        Ok(found.map(Bytes::from))
    }

    fn decoded<T>(
        &self,
        key: &[u8],
        name: impl FnOnce() -> String,
        decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, StoreError> {
        self.row(key)?.map(decode).transpose().map_err(|error| error.corrupt(name()))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut rows = WriteBatch::default();
        rows.put(key, value);
        self.commit(rows)
    }

    /// Writes and syncs. After the first failure nothing more is written: what is on disk is unknown.
    fn commit(&self, rows: WriteBatch) -> Result<(), StoreError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        self.db.write_opt(rows, &self.synced).map_err(|e| {
            let error = io(format!("write to {}", self.path.display()), &e);
            self.failed.get_or_init(|| error).clone()
        })
    }

    /// Calls `visit` with the rows of `bounds` in order until it returns `false`.
    fn visit(
        &self,
        bounds: keys::Bounds,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator_opt(read_options(bounds.0, bounds.1));
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|e| io(self.reading(), &e))
    }

    /// Visits decoded entries from slot `first` on, until `visit` returns `false`.
    fn visit_entries(
        &self,
        shard: ShardId,
        first: Slot,
        mut visit: impl FnMut(Slot, Entry) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let bounds = (keys::group_entry(shard, first).to_vec(), keys::group_entries_end(shard).to_vec());
        self.visit(bounds, |key, value| {
            let slot = keys::parse_group_entry(shard, key).map_err(|e| e.corrupt(format!("log of shard {shard}")))?;
            let entry = entry::decode(Bytes::copy_from_slice(value)).map_err(|e| e.corrupt(entry_name(shard, slot)))?;
            visit(slot, entry)
        })
    }

    fn hard(&self, shard: ShardId) -> Result<Option<HardState>, StoreError> {
        self.decoded(&keys::group_hard(shard), || format!("hard state of shard {shard}"), hard::decode)
    }

    /// The epoch of the group's tombstone, where it has one.
    fn removed(&self, shard: ShardId) -> Result<Option<Epoch>, StoreError> {
        let name = || format!("tombstone of shard {shard}");
        self.decoded(&keys::group_removed(shard), name, node::decode_removed)
    }

    fn node_row<T>(
        &self,
        key: &[u8],
        what: &str,
        decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, StoreError> {
        self.decoded(key, || format!("{what} row of {}", self.path.display()), decode)
    }

    fn lock_node_rows(&self) -> std::sync::MutexGuard<'_, ()> {
        self.node_rows.lock().expect("the lock guards no data, and its holders do not panic")
    }

    /// Finds the groups by seeking from one to the next, so that entries are not read. A group that lost its hard state
    /// is listed: its own recovery says so.
    fn recover_groups(&self, found: &mut NodeRecovered) -> Result<(), StoreError> {
        let (from, to) = keys::groups_from(ShardId(0));
        let mut rows = self.db.raw_iterator_opt(read_options(from, to));
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let shard = keys::parse_group(key).map_err(|e| e.corrupt(self.path.display().to_string()))?;
            match self.removed(shard)? {
                Some(upto) => found.removed.push((shard, upto)),
                None => {
                    found.groups.push(shard);
                    let name = || format!("space row of shard {shard}");
                    let space = self.decoded(&keys::group_space(shard), name, node::decode_space)?;
                    found.spaces.extend(space.map(|space| (shard, space)));
                }
            }
            if shard.0 == u64::MAX {
                break;
            }
            rows.seek(keys::group_hard(ShardId(shard.0 + 1)));
        }
        rows.status().map_err(|e| io(self.reading(), &e))
    }
}

impl LogStore for RocksLog {
    fn write(&self, batch: &LogBatch) -> Result<(), StoreError> {
        check_batch(batch);
        let mut rows = WriteBatch::default();
        let mut buffer = Vec::new();
        for write in &batch.groups {
            put_group(&mut rows, &mut buffer, write);
        }
        for &(peer, incarnation, seq) in &batch.seen {
            rows.put(keys::node_seen(peer), node::encode_seen(incarnation, seq));
        }
        rows.put(keys::NODE_WRITE_SEQ, node::encode_seq(batch.seq));
        self.commit(rows)
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), StoreError> {
        let _held = self.lock_node_rows();
        match self.node_row(&keys::NODE_IDENTITY, "identity", node::decode_identity)? {
            Some(found) => found.must_be(identity),
            None => self.put(&keys::NODE_IDENTITY, &node::encode_identity(identity)),
        }
    }

    fn begin_incarnation(&self) -> Result<Incarnation, StoreError> {
        let _held = self.lock_node_rows();
        let last = self.node_row(&keys::NODE_INCARNATION, "incarnation", node::decode_incarnation)?;
        let next = Incarnation(last.unwrap_or_default().0 + 1);
        self.put(&keys::NODE_INCARNATION, &node::encode_incarnation(next))?;
        Ok(next)
    }

    fn seal(&self, version: ClusterVersion) -> Result<(), StoreError> {
        let _held = self.lock_node_rows();
        let wanted = u8::try_from(version.0).unwrap_or(u8::MAX);
        match self.node_row(&keys::LOG_FORMAT, "format", node::decode_format)? {
            Some(found) if found >= wanted => Ok(()),
            _ => self.put(&keys::LOG_FORMAT, &node::encode_format(wanted)),
        }
    }

    fn recover_node(&self) -> Result<NodeRecovered, StoreError> {
        let format = self.node_row(&keys::LOG_FORMAT, "format", node::decode_format)?;
        let incarnation = self.node_row(&keys::NODE_INCARNATION, "incarnation", node::decode_incarnation)?;
        let seq: Option<NodeWriteSeq> = self.node_row(&keys::NODE_WRITE_SEQ, "write sequence", node::decode_seq)?;
        let mut found = NodeRecovered {
            identity: self.node_row(&keys::NODE_IDENTITY, "identity", node::decode_identity)?,
            incarnation: incarnation.unwrap_or_default(),
            seq: seq.unwrap_or_default(),
            sealed: format.map_or(ClusterVersion::FIRST, |format| ClusterVersion(format.into())),
            ..NodeRecovered::default()
        };
        self.visit(keys::node_seen_bounds(), |key, value| {
            let corrupt = |e: DecodeError| e.corrupt(format!("peer row of {}", self.path.display()));
            let peer = keys::parse_node_seen(key).map_err(corrupt)?;
            let (incarnation, seq) = node::decode_seen(Bytes::copy_from_slice(value)).map_err(corrupt)?;
            found.seen.push((peer, incarnation, seq));
            Ok(true)
        })?;
        self.recover_groups(&mut found)?;
        Ok(found)
    }

    fn genesis(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError> {
        if self.removed(shard)?.is_some() {
            return Ok(None);
        }
        let name = || format!("row of the creation of shard {shard}");
        self.decoded(&keys::group_genesis(shard), name, node::decode_genesis)
    }

    fn recover_group(&self, shard: ShardId) -> Result<Option<GroupRecovered>, StoreError> {
        if self.removed(shard)?.is_some() {
            return Ok(None);
        }
        let name = || format!("trim mark of shard {shard}");
        let trimmed = self.decoded(&keys::group_trim(shard), name, node::decode_trim)?;
        let mut scan = GroupScan::new(shard, trimmed);
        self.visit_entries(shard, Slot(0), |slot, entry| scan.entry(slot, &entry).map(|()| true))?;
        let name = || format!("row of the creation of shard {shard}");
        let genesis = self.decoded(&keys::group_genesis(shard), name, node::decode_genesis)?;
        let name = || format!("space row of shard {shard}");
        let space = self.decoded(&keys::group_space(shard), name, node::decode_space)?;
        scan.finish(genesis, self.hard(shard)?, space)
    }

    fn entries(&self, shard: ShardId, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let mut found = Vec::new();
        if from >= upto {
            return Ok(found);
        }
        let (mut last, mut bytes) = (from, 0);
        self.visit_entries(shard, from.next(), |slot, entry| {
            if slot != last.next() || entry.id.slot != slot {
                return Err(missing_entry(shard, last.next()));
            }
            last = slot;
            bytes += entry.size();
            found.push(entry);
            Ok(slot < upto && bytes <= max_bytes)
        })?;
        if last < upto && bytes <= max_bytes {
            return Err(missing_entry(shard, last.next()));
        }
        Ok(found)
    }

    fn health(&self) -> Result<(), StoreError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        check_background(&self.db, &self.path)
    }
}

fn put_group(rows: &mut WriteBatch, buffer: &mut Vec<u8>, write: &GroupWrite) {
    let shard = write.shard;
    let first = keys::group_entry(shard, Slot(0));
    let end = keys::group_entries_end(shard);
    if let Some(upto) = write.remove {
        rows.delete(keys::group_hard(shard));
        rows.delete(keys::group_genesis(shard));
        rows.delete_range(&first[..], &end[..]);
        rows.delete(keys::group_trim(shard));
        rows.delete(keys::group_space(shard));
        rows.put(keys::group_removed(shard), node::encode_removed(upto));
        return;
    }
    if write.revive {
        rows.delete(keys::group_removed(shard));
    }
    if let Some(genesis) = &write.genesis {
        rows.put(keys::group_genesis(shard), node::encode_genesis(genesis));
    }
    if let Some(state) = &write.hard {
        rows.put(keys::group_hard(shard), hard::encode(state));
    }
    if let Some(from) = write.truncate_from {
        rows.delete_range(&keys::group_entry(shard, from)[..], &end[..]);
    }
    for appended in &write.append {
        buffer.clear();
        entry::encode(appended, buffer);
        rows.put(keys::group_entry(shard, appended.id.slot), &buffer);
    }
    if let Some(space) = write.space {
        rows.put(keys::group_space(shard), node::encode_space(space));
    }
    if let Some(trim) = write.trim {
        rows.delete_range(&first[..], &keys::group_entry(shard, trim.slot.next())[..]);
        rows.put(keys::group_trim(shard), node::encode_trim(trim));
    }
}

fn options(sizes: &LogOptions) -> Result<Options, StoreError> {
    // One insert hint for each group's entries, by the part of the key that they share.
    let hints = format!("memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.{}", keys::GROUP_PREFIX_BYTES);
    let mut options = strict_options(&hints, sizes.cache_bytes, None)?;
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_wal_bytes_per_sync(512 << 10);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(sizes.memtable_bytes);
    options.set_max_write_buffer_number(i32::from(sizes.memtables));
    sizes.base_level().set(&mut options);
    options.set_max_total_wal_size((sizes.memtable_bytes as u64).saturating_mul(2 * u64::from(sizes.memtables)));
    // Most of what is flushed is trimmed soon after: leave it lie, and never stall a write for it.
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_zero_slowdown_writes_trigger(64);
    options.set_level_zero_stop_writes_trigger(128);
    Ok(options)
}
