//! Rows into a snapshot file.
//!
//! Owns: the file until it has its name. Must never: give a file its name before all of it is on disk, or leave an
//! unfinished one under that name.

use super::files::{Appender, FileStore, OsFiles};
use super::format::{self, ChunkPlace, Footer, Header, Kind};
use super::{SnapshotError, SnapshotFile, SnapshotRequest, Throttle};
use crate::StoreError;
use crate::codec::keys::{self, Bounds, SPACE_BYTES};
use crate::state::StateView;
use bytes::Bytes;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_cluster::buf::Put;
use synod_cluster::ids::ClientId;
use xxhash_rust::xxh3::Xxh3;

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Its digest.
    pub digest: u128,
}

/// Writes one file.
pub struct SnapshotWriter {
    files: Arc<dyn FileStore>,
    chunk_bytes: usize,
    path: PathBuf,
    unfinished: PathBuf,
    out: BufWriter<Appender>,
    digest: Xxh3,
    at: u64,
    chunks: Vec<ChunkPlace>,
    index_bytes: usize,
    body: Vec<u8>,
    first: Bytes,
    rows_in_chunk: u64,
    rows: u64,
    last: Vec<u8>,
}

impl SnapshotWriter {
    /// Begins the file that will be `path`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, SnapshotError> {
        Self::create_in(&OsFiles::shared(), path, header)
    }

    /// The same among other files than the operating system's.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create_in(files: &Arc<dyn FileStore>, path: &Path, header: &Header) -> Result<Self, SnapshotError> {
        let unfinished = path.with_extension("unfinished");
        let file = files.create(&unfinished).map_err(|e| SnapshotError::io(&unfinished, 0, "create", &e))?;
        let chunk_bytes = files.gather_bytes();
        let mut writer = Self {
            files: Arc::clone(files),
            chunk_bytes,
            path: path.to_path_buf(),
            unfinished,
            out: BufWriter::with_capacity(256 << 10, Appender { file, at: 0 }),
            digest: Xxh3::new(),
            at: 0,
            chunks: Vec::new(),
            index_bytes: 0,
            body: Vec::with_capacity(chunk_bytes + (64 << 10)),
            first: Bytes::new(),
            rows_in_chunk: 0,
            rows: 0,
            last: Vec::new(),
        };
        writer.put(&format::prefix(header.version()))?;
        writer.put(&format::block(Kind::Header, &header.encode()))?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.digest.update(bytes);
        self.out.write_all(bytes).map_err(|e| SnapshotError::io(&self.unfinished, self.at, "write", &e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Adds a row, in key order; returns the bytes that went to the file.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// The key is not above the last one.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<u64, SnapshotError> {
        assert!(
            self.rows == 0 || *key > self.last[..],
            "rows of a snapshot out of order: {key:?} after {:?}",
            self.last
        );
        if self.rows_in_chunk == 0 {
            self.first = Bytes::copy_from_slice(key);
        }
        self.body.bytes(key);
        self.body.bytes(value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.rows_in_chunk += 1;
        self.rows += 1;
        let enough = format::chunk_bytes(self.chunk_bytes, self.index_bytes);
        if self.body.len() >= enough { self.end_chunk() } else { Ok(0) }
    }

    fn end_chunk(&mut self) -> Result<u64, SnapshotError> {
        if self.rows_in_chunk == 0 {
            return Ok(0);
        }
        let block = format::block(Kind::Chunk, &self.body);
        let (offset, bytes) = (self.at, block.len() as u64);
        self.put(&block)?;
        let (rows, first) = (std::mem::take(&mut self.rows_in_chunk), std::mem::take(&mut self.first));
        self.index_bytes += format::place_bytes(&first);
        self.chunks.push(ChunkPlace { offset, bytes, rows, first });
        self.body.clear();
        Ok(bytes)
    }

    /// Ends the file: all of it is on disk, then it gets its name.
    ///
    /// # Errors
    /// The file cannot be written, synced or renamed.
    pub fn finish(mut self) -> Result<Summary, SnapshotError> {
        self.end_chunk()?;
        let index = self.at;
        let block = format::block(Kind::Index, &format::encode_index(&self.chunks));
        self.put(&block)?;
        let mut footer = Footer { rows: self.rows, index, digest: 0 };
        self.digest.update(&footer.digested());
        footer.digest = self.digest.digest128();
        let end = footer.encode();
        let failed = |doing: &str, e: &std::io::Error| SnapshotError::io(&self.unfinished, index, doing, e);
        self.out.write_all(&end).and_then(|()| self.out.flush()).map_err(|e| failed("write", &e))?;
        self.out.get_ref().file.sync().map_err(|e| failed("sync", &e))?;
        rename_durably(&*self.files, &self.unfinished, &self.path)?;
        let bytes = self.at + end.len() as u64;
        Ok(Summary { path: self.path, bytes, rows: self.rows, digest: footer.digest })
    }
}

/// Renames a synced file and syncs its directory.
pub(super) fn rename_durably(files: &dyn FileStore, from: &Path, to: &Path) -> Result<(), SnapshotError> {
    files.rename(from, to).map_err(|e| SnapshotError::io(from, 0, "rename", &e))?;
    let directory = to.parent().unwrap_or(Path::new("."));
    files.sync_directory(directory).map_err(|e| SnapshotError::io(directory, 0, "sync", &e))
}

/// Writes the rows of these ranges, as `view` has them, at the rate of the throttle. Without their spaces the keys must rise.
///
/// # Errors
/// The state cannot be read (`Ok(Err)` is a file that cannot be written).
pub fn write_rows(
    files: &Arc<dyn FileStore>,
    path: &Path,
    header: &Header,
    view: &mut dyn StateView,
    ranges: &[Bounds],
    throttle: &mut Throttle,
) -> Result<Result<Summary, SnapshotError>, StoreError> {
    let mut writer = match SnapshotWriter::create_in(files, path, header) {
        Ok(writer) => writer,
        Err(error) => return Ok(Err(error)),
    };
    let mut failed = None;
    let dropped = |key: &[u8]| planted!(SnapshotWithoutSessions) && keys::parse_session(key).is_ok();
    let mut put = |key: &[u8], value: &[u8]| if dropped(key) { Ok(0) } else { writer.row(&key[SPACE_BYTES..], value) };
    for (from, to) in ranges {
        view.scan(from, to, &mut |key, value| match put(key, value) {
            Ok(0) => ControlFlow::Continue(()),
            Ok(bytes) => {
                throttle.went(bytes);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if failed.is_some() {
            break;
        }
    }
    Ok(failed.map_or_else(|| writer.finish(), Err))
}

/// Makes the snapshot that was asked for, and opens it.
///
/// # Errors
/// The state cannot be read, or the file not be written; in words, since nothing but the making ends.
pub fn make(
    files: &Arc<dyn FileStore>,
    path: &Path,
    cluster: ClientId,
    request: SnapshotRequest,
    view: &mut dyn StateView,
    throttle: &mut Throttle,
) -> Result<SnapshotFile, String> {
    let SnapshotRequest { shard, genesis, basis, ts, rows, bounds, .. } = request;
    let header = Header { cluster, shard, genesis, basis, ts, bounds };
    match write_rows(files, path, &header, view, &rows, throttle) {
        Ok(Ok(_)) => SnapshotFile::open_in(files, path, Some(cluster)).map_err(|e| e.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
