//! What both RocksDB databases of a node have in common.
//!
//! Owns: the options that make RocksDB strict, and how its errors are told. Must never: let RocksDB resume from a
//! background error on its own.

use crate::StoreError;
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DB, Error, ErrorKind, Options, ReadOptions, properties};
use std::path::Path;

/// Options of a database that reports every damage and stays failed once it failed; `more` is RocksDB's own options
/// string, for what the crate has no setter for. A bloom filter of `bloom_bits` a key, where given.
pub(crate) fn strict_options(more: &str, cache_bytes: usize, bloom_bits: Option<f64>) -> Result<Options, StoreError> {
    let string = format!("max_bgerror_resume_count=0;{more}");
    let mut options = Options::default()
        .get_options_from_string(&string)
        .map_err(|e| io(format!("set the RocksDB options {string}"), &e))?;
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(1024);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(16 << 20);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    table.set_block_size(16 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In parts: the filter of a file of small rows is 3 MB in one piece, more than a shard of the cache holds, and was read from
    // the file and summed anew for every row looked up.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_metadata_block_size(4 << 10);
    table.set_pin_top_level_index_and_filter(true);
    if let Some(bits) = bloom_bits {
        table.set_bloom_filter(bits, false);
        table.set_whole_key_filtering(true);
        table.set_partition_filters(true);
    }
    options.set_block_based_table_factory(&table);
    Ok(options)
}

/// Opens a database, made with its parent directories where there is none.
pub(crate) fn open_db(options: &Options, path: &Path) -> Result<DB, StoreError> {
    let opening = || format!("open {}", path.display());
    std::fs::create_dir_all(path).map_err(|e| StoreError::Io { what: opening(), why: e.to_string() })?;
    let current = path.join("CURRENT");
    if !current.exists() && holds_data(path).map_err(|e| StoreError::Io { what: opening(), why: e.to_string() })? {
        // RocksDB would make a new, empty database here and remove what the old one had written.
        let why = "missing, while other files of the database are there".into();
        return Err(StoreError::Corrupt { what: current.display().to_string(), why });
    }
    DB::open(options, path).map_err(|e| io(opening(), &e))
}

/// Whether a directory has files that are there only once a database has been made whole: tables, or a write-ahead log.
fn holds_data(path: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".sst") || name.ends_with(".log") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens a database without the right to change it; what its write-ahead log holds is read, and not flushed.
pub(crate) fn open_db_to_read(options: &Options, path: &Path) -> Result<DB, StoreError> {
    DB::open_for_read_only(options, path, false).map_err(|e| io(format!("open {}", path.display()), &e))
}

/// Bounds of an iteration over `[from, to)`.
pub(crate) fn read_options(from: Vec<u8>, to: Vec<u8>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

/// Whether a flush or compaction has failed since the database was opened.
pub(crate) fn check_background(db: &DB, path: &Path) -> Result<(), StoreError> {
    let what = || format!("background work of {}", path.display());
    match db.property_int_value(properties::BACKGROUND_ERRORS) {
        Ok(Some(0)) => Ok(()),
        Ok(Some(count)) => Err(StoreError::Io { what: what(), why: format!("{count} errors, see its LOG file") }),
        Ok(None) => Err(StoreError::Io { what: what(), why: "RocksDB does not count its errors".into() }),
        Err(e) => Err(io(what(), &e)),
    }
}

/// The size to which the level under level 0 grows, bytes. The sizes of files and compactions follow from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseLevel(pub(crate) u64);

impl BaseLevel {
    pub(crate) fn set(self, options: &mut Options) {
        options.set_max_bytes_for_level_base(self.0);
        options.set_target_file_size_base(self.file_bytes());
        options.set_max_compaction_bytes(self.compaction_bytes());
    }

    fn file_bytes(self) -> u64 {
        self.0 / 4
    }

    fn compaction_bytes(self) -> u64 {
        2 * self.0
    }

    /// The room that the largest compaction which may begin by itself takes until it ends, bytes.
    pub(crate) fn largest_compaction(self, db: &DB) -> Result<u64, Error> {
        let files = db.live_files()?;
        // Below level 0 a compaction takes in a file, and what that overlaps.
        let most = self.compaction_bytes() + self.file_bytes();
        Ok(largest(files.iter().map(|file| (file.level, file.size as u64)), most))
    }
}

/// What a compaction takes in is there twice until it ends. Level 0 goes at once, with all of the level that it is compacted to.
fn largest(files: impl Iterator<Item = (i32, u64)>, most: u64) -> u64 {
    let mut levels = std::collections::BTreeMap::<i32, u64>::new();
    files.for_each(|(level, bytes)| *levels.entry(level).or_default() += bytes);
    let zero = levels.remove(&0).unwrap_or(0);
    let base = levels.values().next().copied().unwrap_or(0);
    let below = levels.values().sum::<u64>().min(most);
    if zero > 0 { below.max(zero + base) } else { below }
}

/// RocksDB's error in the words of this crate.
pub(crate) fn io(what: String, error: &Error) -> StoreError {
    let why = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corrupt { what, why },
        _ => StoreError::Io { what, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_zero_is_compacted_at_once_and_the_others_in_bounded_parts() {
        assert_eq!(largest([].into_iter(), 100), 0);
        assert_eq!(largest([(0, 10), (0, 20)].into_iter(), 100), 30);
        assert_eq!(largest([(0, 10), (5, 300), (5, 40), (6, 5_000)].into_iter(), 100), 350);
        assert_eq!(largest([(5, 300), (6, 5_000)].into_iter(), 100), 100, "nothing in level 0");
        assert_eq!(largest([(6, 60)].into_iter(), 100), 60);
    }
}
