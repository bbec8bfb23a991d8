//! Snapshots: a shard's state at one position of its log, as an immutable file.
//!
//! Owns: the file's format, how one is made from a view of the state, verified, received in parts and loaded into a fresh
//! space. Must never: serve or load a byte that was not verified, or change a file once it has its name.
//!
//! | file | what |
//! | --- | --- |
//! | `files` | the operations on files that snapshots need: the operating system's, or a simulated disk's |
//! | `format` | the bytes: prefix, header, chunks, index, footer |
//! | `writer` | rows into a file under a temporary name, synced, then renamed |
//! | `reader` | a whole file: opened, verified, read by part or by row |
//! | `partial` | a file that is being received: each part verified as it comes, resumable at any |
//! | `offers` | which snapshots that peers offer are fetched, and what becomes of each part |
//! | `install` | a file's rows into a space of the state store |
//! | `restore` | a backup's files into the fresh stores of a new cluster's node |
//!
//! Files are read by position, not by memory map: a map is `unsafe`, which this workspace denies, and a file that shrinks
//! under a map ends the process by a signal where a read gives an error.

pub mod files;
pub mod format;
pub mod install;
pub mod offers;
pub mod partial;
pub mod reader;
pub mod restore;
pub mod writer;

pub use files::{FileStore, OsFiles};
pub use format::Header;
pub use reader::SnapshotFile;
pub use writer::Summary;

use crate::codec::bounds::BoundsRow;
use crate::codec::keys::Bounds;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ShardId, Space};
use synod_paxos::types::Basis;

/// A snapshot that is to be made of what is applied now.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// The shard.
    pub shard: ShardId,
    /// What its group was created with.
    pub genesis: Bytes,
    /// The position, and what goes with it.
    pub basis: Basis,
    /// The timestamp of the entry at that position, µs.
    pub ts: u64,
    /// The row of its bounds, where it has one.
    pub bounds: Option<BoundsRow>,
    /// The shard's own space.
    pub space: Space,
    /// The rows, in the order of the file: as [`ShardState::replicated`](crate::machine::ShardState::replicated) has them.
    pub rows: Vec<Bounds>,
}

/// Why a snapshot was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot {path}: {why}, at byte {at}")]
pub struct SnapshotError {
    /// The file.
    pub path: String,
    /// What is wrong with it, or what the operating system said.
    pub why: String,
    /// Where in the file.
    pub at: u64,
}

impl SnapshotError {
    fn new(path: &Path, at: u64, why: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), why: why.into(), at }
    }

    fn io(path: &Path, at: u64, doing: &str, error: &io::Error) -> Self {
        Self::new(path, at, format!("cannot {doing}: {error}"))
    }
}

/// What the file of a shard's snapshot is called.
#[must_use]
pub fn file_name(shard: ShardId) -> PathBuf {
    PathBuf::from(format!("shard-{shard}.snap"))
}

/// Holds a flow of bytes to a rate by sleeping; only for threads that may block.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_s: u64,
    began: Instant,
    bytes: u64,
}

impl Throttle {
    /// A throttle, in bytes a second; 0 is none.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, began: Instant::now(), bytes: 0 }
    }

    /// So many bytes went; how long to wait before the next.
    #[must_use]
    pub fn pause(&mut self, bytes: u64) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        self.bytes += bytes;
        let due = Duration::from_micros(self.bytes.saturating_mul(1_000_000) / self.bytes_per_s);
        due.saturating_sub(self.began.elapsed())
    }

    /// So many bytes went; waits.
    pub fn went(&mut self, bytes: u64) {
        let pause = self.pause(bytes);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}
