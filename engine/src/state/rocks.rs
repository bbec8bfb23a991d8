//! The state DB: one RocksDB database for all workers of a node.
//!
//! Owns: the state DB's files, options and format version. Must never: write a write-ahead log.
//!
//! A state directory holds `FORMAT` (the version of all that is in it), `db` (RocksDB) and `staging` (sorted files not
//! yet taken in; what is left there by a crash goes when the directory is opened). Workers share one database: each has
//! its own front or its own handle.

use super::pieces;
use super::removed::Removed;
use super::rows::Span;
use super::trash::Trash;
use super::{BulkLoad, Fetch, Lacked, Measure, StateView, ViewJob, Visit};
use crate::StoreError;
use crate::background::lower_priority;
use crate::codec::Damage as _;
use crate::codec::node::{decode_format, encode_format};
use crate::rocks::{BaseLevel, check_background, io, open_db, open_db_to_read, read_options, strict_options};
use bytes::Bytes;
use rocksdb::{
    CompactOptions, DB, DBCompressionType, DBRawIterator, ErrorKind, IngestExternalFileOptions, Options, Range,
    ReadOptions, ReadTier, SnapshotWithThreadMode, SstFileWriter, WriteBatch, WriteOptions, properties,
};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The version of the state directory that this module writes.
pub const FORMAT: u8 = 1;

/// Sizes of the state DB, shared by all workers of a node.
#[derive(Clone, Copy, Debug)]
pub struct StateOptions {
    /// Block cache, bytes.
    pub cache_bytes: usize,
    /// A front's flush is cut into files of about this size, bytes: each is synced on its own, so a sync of the log
    /// waits behind at most one of them.
    pub file_bytes: usize,
    /// Flushes of fronts wait while level 0 holds more files: compaction has fallen behind. From three eighths on, what is
    /// applied waits a little.
    pub level_zero_files_max: u64,
    /// Size of a memtable of [`RocksState`](super::memtables::RocksState), bytes; well above what it freezes at.
    pub memtable_bytes: usize,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, file_bytes: 16 << 20, level_zero_files_max: 64, memtable_bytes: 128 << 20 }
    }
}

impl StateOptions {
    /// Sizes that leave most of a small disk to the rows: a compaction takes in all of level 0, and writes as much again.
    /// `disk_bytes` is the size of the file system.
    #[must_use]
    pub fn on_disk_of(self, disk_bytes: u64) -> Self {
        let part = usize::try_from(disk_bytes / 256).unwrap_or(usize::MAX);
        let file_bytes = part.clamp(4 << 20, 16 << 20).min(self.file_bytes);
        let files = disk_bytes / 32 / file_bytes as u64;
        Self { file_bytes, level_zero_files_max: files.clamp(16, 64).min(self.level_zero_files_max), ..self }
    }

    fn base_level(&self) -> BaseLevel {
        BaseLevel((self.level_zero_files_max * self.file_bytes as u64 / 4).clamp(16 << 20, 256 << 20))
    }
}

/// The state DB of a node.
pub struct RocksShared {
    db: DB,
    path: PathBuf,
    staging: PathBuf,
    options: Options,
    sizes: StateOptions,
    unlogged: WriteOptions,
    /// Of reads that wait for no file.
    in_memory: ReadOptions,
    next_file: AtomicU64,
    /// Rows and ranges removed since this was opened; one at first, for what was removed before.
    removed: AtomicU64,
    /// Large ranges among them.
    removed_ranges: Removed,
    /// The first damage met with.
    damaged: OnceLock<StoreError>,
    /// Whether damage is noted in the directory; not where it is only looked at.
    notes: bool,
}

/// The file of a state directory that says which damage was met with: it is looked through when it is opened next.
const DAMAGED: &str = "DAMAGED";

impl RocksShared {
    /// Opens the state directory at `path`, made where there is none.
    pub fn open(path: &Path, sizes: StateOptions) -> Result<Arc<Self>, StoreError> {
        check_format(path)?;
        let staging = path.join("staging");
        clear_directory(&staging)?;
        let options = options(&sizes)?;
        let db = open_db(&options, &path.join("db"))?;
        let (path, removed) = (path.to_path_buf(), AtomicU64::new(1));
        Ok(Arc::new(Self { removed, notes: true, ..Self::over(db, path, staging, options, sizes) }))
    }

    /// A database in which nothing was removed, and whose damage is not noted.
    fn over(db: DB, path: PathBuf, staging: PathBuf, options: Options, sizes: StateOptions) -> Self {
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let (next_file, removed) = (AtomicU64::new(0), AtomicU64::new(0));
        let (removed_ranges, damaged, notes) = (Removed::default(), OnceLock::new(), false);
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        Self {
            db,
            path,
            staging,
            options,
            sizes,
            unlogged,
            in_memory,
            next_file,
            removed,
            removed_ranges,
            damaged,
            notes,
        }
    }

    /// Opens the state directory to look at it: nothing is written.
    pub fn open_to_read(path: &Path) -> Result<Arc<Self>, StoreError> {
        if !path.join("FORMAT").exists() {
            let what = path.join("FORMAT").display().to_string();
            return Err(StoreError::Corrupt { what, why: "missing".into() });
        }
        check_format(path)?;
        let sizes = StateOptions::default();
        let mut options = options(&sizes)?;
        options.create_if_missing(false);
        let db = open_db_to_read(&options, &path.join("db"))?;
        let staging = path.join("staging");
        Ok(Arc::new(Self::over(db, path.to_path_buf(), staging, options, sizes)))
    }

    /// What an earlier process found damaged in the state directory at `path`.
    pub fn known_damage(path: &Path) -> Option<String> {
        fs::read(path.join(DAMAGED)).ok().map(|why| String::from_utf8_lossy(&why).into_owned())
    }

    /// Damage was met with: noted in the directory, and never healthy again.
    pub fn condemn(&self, error: &StoreError) {
        if self.damaged.set(error.clone()).is_err() || !self.notes {
            return;
        }
        let note = || {
            let mut out = File::create(self.path.join(DAMAGED))?;
            out.write_all(error.to_string().as_bytes())?;
            out.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        if let Err(error) = note() {
            tracing::error!("the damage of {} could not be noted there: {error}", self.path.display());
        }
    }

    /// Visits every row, whatever space it is in.
    pub fn each(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|e| self.error("read", &e))
    }

    /// Whether a flush or compaction has failed, or damage was met with; the caller ends the process on `Err`.
    pub fn health(&self) -> Result<(), StoreError> {
        if let Some(error) = self.damaged.get() {
            return Err(error.clone());
        }
        let background = check_background(&self.db, &self.path);
        if background.is_err()
            && let Err(error) = self.db.write_opt(WriteBatch::default(), &self.unlogged)
        {
            // Any write is answered with what went wrong: damage is noted.
            return Err(self.error("background work of", &error));
        }
        background
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.db.get_pinned(key).map_err(|e| self.error("read", &e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The same where no file has to be waited for; `None` where one would have to be.
    pub(super) fn get_in_memory(&self, key: &[u8]) -> Result<Option<Option<Bytes>>, StoreError> {
        match self.db.get_pinned_opt(key, &self.in_memory) {
            Ok(found) => Ok(Some(found.map(|value| Bytes::copy_from_slice(&value)))),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(self.error("read", &error)),
        }
    }

    /// Writes rows to the memtable: visible at once, durable with the next [`RocksShared::flush`].
    pub(super) fn write(&self, rows: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(rows, &self.unlogged).map_err(|e| self.error("write to", &e))
    }

    /// Makes durable what was written to the memtable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.error("flush", &e))
    }

    /// Rows of `[from, to)`, not yet positioned.
    pub(crate) fn iterate(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        self.db.raw_iterator_opt(read_options(from.to_vec(), to.to_vec()))
    }

    /// The same, which ends with [`ErrorKind::Incomplete`] where a file would have to be waited for.
    pub(super) fn iterate_in_memory(&self, from: &[u8], to: &[u8]) -> DBRawIterator<'_> {
        let mut options = read_options(from.to_vec(), to.to_vec());
        options.set_read_tier(ReadTier::BlockCache);
        self.db.raw_iterator_opt(options)
    }

    pub(crate) fn error(&self, doing: &str, error: &rocksdb::Error) -> StoreError {
        let error = io(format!("{doing} {}", self.path.display()), error);
        if matches!(error, StoreError::Corrupt { .. }) {
            self.condemn(&error);
        }
        error
    }

    /// Removes the rows of `[from, to)`, past every worker.
    pub(crate) fn remove(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.ingest(&[(from.into(), to.into())], std::iter::empty())
    }

    /// Runs `job` on a thread of its own with the rows as they are now; returns once that moment is fixed.
    pub(super) fn view(self: Arc<Self>, job: ViewJob) {
        let (fixed, told) = crossbeam_channel::bounded::<()>(1);
        let run = move || {
            lower_priority();
            let mut view = RocksView { shared: &self, rows: self.db.snapshot() };
            // Nobody waits where this fails: the store is going down.
            let _ = fixed.send(());
            job(&mut view);
        };
        match std::thread::Builder::new().name("snapshot-build".into()).spawn(run) {
            Ok(_detached) => drop(told.recv()),
            Err(error) => tracing::warn!("could not start a thread for a snapshot: {error}"),
        }
    }

    /// Takes in a front's rows, in key order, above everything that is there; all of it becomes visible and durable at
    /// once. `removed` are ranges that go from what is there, in key order and disjoint; `rows` stand above them.
    pub(super) fn ingest<'a>(
        &self,
        removed: &[Span],
        rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), StoreError> {
        let files = self.write_files(removed, rows)?;
        if files.is_empty() {
            return Ok(());
        }
        self.wait_for_room()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_opts(&options, files).map_err(|e| self.error("ingest into", &e))?;
        for range in removed {
            self.removed_ranges.add(range, self.size_of(range));
        }
        Ok(())
    }

    /// Large ranges that were removed.
    pub(super) fn removed_ranges(&self) -> &Removed {
        &self.removed_ranges
    }

    /// What the files hold of a range, bytes, about, removed rows among it.
    pub(super) fn size_of(&self, (from, to): &Span) -> u64 {
        self.db.get_approximate_sizes(&[Range::new(from, to)]).into_iter().sum()
    }

    /// Writes and syncs the rows as sorted files. A range is below the rows of its own file, but could come above those of
    /// another: so each file has the part of it that lies between its own first row and that of the next file.
    fn write_files<'a>(
        &self,
        removed: &[Span],
        rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let failed = |e: rocksdb::Error| self.error("write a sorted file for", &e);
        let mut rows = rows.peekable();
        let mut removed = removed.iter().peekable();
        let mut begins: &[u8] = &[];
        let mut files = Vec::new();
        while rows.peek().is_some() || removed.peek().is_some() {
            let number = self.next_file.fetch_add(1, Ordering::Relaxed);
            let path = self.staging.join(format!("{number}.sst"));
            let mut file = SstFileWriter::create(&self.options);
            file.open(&path).map_err(failed)?;
            let (mut gone, mut bytes) = (0, 0);
            while bytes < self.sizes.file_bytes
                && let Some((key, value)) = rows.next()
            {
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                match value {
                    Some(value) => file.put(key, value),
                    None => {
                        gone += 1;
                        file.delete(key)
                    }
                }
                .map_err(failed)?;
            }
            let ends = rows.peek().map(|(key, _)| *key);
            while let Some((from, to)) = removed.peek().filter(|(from, _)| ends.is_none_or(|ends| **from < *ends)) {
                gone += 1;
                let upto = ends.map_or(&**to, |ends| ends.min(to));
                file.delete_range(begins.max(from), upto).map_err(failed)?;
                if upto < &**to {
                    break;
                }
                removed.next();
            }
            file.finish().map_err(failed)?;
            self.removed.fetch_add(gone, Ordering::Relaxed);
            files.push(path);
            begins = ends.unwrap_or_default();
        }
        Ok(files)
    }

    /// A number that rises with what is removed.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// The files there are.
    pub(super) fn files(&self) -> Result<Vec<pieces::File>, StoreError> {
        let files = self.db.live_files().map_err(|e| self.error("list the files of", &e))?;
        let file = |file: rocksdb::LiveFile| {
            Some(pieces::File {
                level: file.level,
                bytes: file.size as u64,
                first: file.start_key?,
                last: file.end_key?,
            })
        };
        Ok(files.into_iter().filter_map(file).collect())
    }

    /// The files that a compaction of this removed range is about to drop: those that lie within it.
    pub(super) fn trash(&self, (from, to): &Span) -> Trash {
        // Where they cannot be listed, their room goes at once.
        let files = self.db.live_files().unwrap_or_default().into_iter();
        let within = files.filter(|file| {
            let inside = |key: &Option<Vec<u8>>| key.as_ref().is_some_and(|key| **from <= **key && **key < **to);
            file.level > 0 && inside(&file.start_key) && inside(&file.end_key)
        });
        let path = |file: rocksdb::LiveFile| self.path.join("db").join(file.name.trim_start_matches('/'));
        Trash::keep(&self.staging, within.map(path))
    }

    /// Whether the rows from `first` to `last` have at most so many bytes. Reads no more of them.
    pub(super) fn rows_fit(&self, first: &[u8], last: &[u8], most: u64) -> Result<bool, StoreError> {
        let mut options = read_options(first.to_vec(), [last, &[0]].concat());
        options.fill_cache(false);
        let (mut bytes, mut rows) = (0, self.db.raw_iterator_opt(options));
        rows.seek_to_first();
        while let Some((key, value)) = rows.item().filter(|_| bytes <= most) {
            bytes += (key.len() + value.len()) as u64;
            rows.next();
        }
        rows.status().map_err(|e| self.error("read", &e))?;
        Ok(bytes <= most)
    }

    /// The room that the largest compaction which may begin by itself takes until it ends, bytes.
    pub fn largest_compaction(&self) -> Result<u64, StoreError> {
        self.sizes.base_level().largest_compaction(&self.db).map_err(|e| self.error("list the files of", &e))
    }

    /// Compacts the rows from `first` to `last`; what fails is seen by [`RocksShared::health`].
    pub(super) fn compact(&self, first: &[u8], last: &[u8]) {
        let mut options = CompactOptions::default();
        // The others go on meanwhile.
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_opt(Some(first), Some(last), &options);
    }

    /// Files that compaction has not taken yet.
    pub(super) fn level_zero_files(&self) -> Result<u64, StoreError> {
        let files = self.db.property_int_value(properties::num_files_at_level(0));
        Ok(files.map_err(|e| self.error("read", &e))?.unwrap_or(0))
    }

    /// How many of them there may be.
    pub(super) fn level_zero_files_max(&self) -> u64 {
        self.sizes.level_zero_files_max
    }

    /// Ingestion knows no back-pressure of its own: waits until compaction has caught up.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        loop {
            if self.level_zero_files()? <= self.sizes.level_zero_files_max {
                return Ok(());
            }
            self.health()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// RocksDB's rows at one moment.
struct RocksView<'a> {
    shared: &'a RocksShared,
    rows: SnapshotWithThreadMode<'a, DB>,
}

impl StateView for RocksView<'_> {
    fn scan(&mut self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut options = read_options(from.to_vec(), to.to_vec());
        // Read once, and much of it: what is asked for all the time must not leave the cache for it.
        options.fill_cache(false);
        let mut rows = self.rows.raw_iterator_opt(options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|e| self.shared.error("read", &e))
    }

    fn size(&mut self, from: &[u8], to: &[u8]) -> u64 {
        Measure::size(self.shared, from, to)
    }
}

impl Measure for RocksShared {
    fn size(&self, from: &[u8], to: &[u8]) -> u64 {
        if from < to { self.size_of(&(from.into(), to.into())) } else { 0 }
    }
}

/// Fetched in one go, bytes of rows: as much as a page of an answer.
const FETCH_BYTES: usize = 1 << 20;

impl Fetch for RocksShared {
    fn fetch(&self, lacked: &Lacked) -> Result<(), StoreError> {
        if lacked.to.strip_prefix(&lacked.from[..]) == Some(&[0]) {
            // One row: filters keep it from the files that do not have it, and come into memory themselves.
            return self.get(&lacked.from).map(drop);
        }
        let mut rows = self.iterate(&lacked.from, &lacked.to);
        if lacked.reverse {
            rows.seek_to_last()
        } else {
            rows.seek_to_first()
        }
        let mut bytes = 0;
        while bytes < FETCH_BYTES
            && let Some((key, value)) = rows.item()
        {
            bytes += key.len() + value.len();
            if lacked.reverse { rows.prev() } else { rows.next() }
        }
        rows.status().map_err(|e| self.error("read", &e))
    }
}

impl BulkLoad for RocksShared {
    fn load(&self, rows: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        self.ingest(&[], rows.iter().map(|(key, value)| (&key[..], Some(&value[..]))))
    }
}

fn options(sizes: &StateOptions) -> Result<Options, StoreError> {
    // What was not frozen is not durable, after an orderly end either: one way to start, not two.
    let mut options = strict_options("avoid_flush_during_shutdown=true", sizes.cache_bytes, Some(10.0))?;
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(sizes.memtable_bytes);
    options.set_max_write_buffer_number(4);
    sizes.base_level().set(&mut options);
    // A flush of a front is several files that do not overlap.
    options.set_level_zero_file_num_compaction_trigger(12);
    Ok(options)
}

fn check_format(path: &Path) -> Result<(), StoreError> {
    let file = path.join("FORMAT");
    let what = file.display().to_string();
    let failed = |e: std::io::Error| StoreError::Io { what: format!("open {}", path.display()), why: e.to_string() };
    match fs::read(&file) {
        Ok(row) => match decode_format(row.into()) {
            Ok(FORMAT) => Ok(()),
            Ok(found) if found > FORMAT => Err(StoreError::TooNew { what, found, known: FORMAT }),
            Ok(found) => Err(StoreError::Corrupt { what, why: format!("version {found} does not exist") }),
            Err(error) => Err(error.corrupt(what)),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if path.join("db").exists() {
                return Err(StoreError::Corrupt { what, why: "missing, while the database is there".into() });
            }
            fs::create_dir_all(path).map_err(failed)?;
            let unfinished = path.join("FORMAT.new");
            let mut out = File::create(&unfinished).map_err(failed)?;
            out.write_all(&encode_format(FORMAT)).and_then(|()| out.sync_all()).map_err(failed)?;
            fs::rename(&unfinished, &file).map_err(failed)?;
            File::open(path).and_then(|directory| directory.sync_all()).map_err(failed)
        }
        Err(e) => Err(StoreError::Io { what: format!("read {what}"), why: e.to_string() }),
    }
}

fn clear_directory(path: &Path) -> Result<(), StoreError> {
    let cleared = match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => fs::create_dir_all(path),
    };
    cleared.map_err(|e| StoreError::Io { what: format!("clear {}", path.display()), why: e.to_string() })
}
