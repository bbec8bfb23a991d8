//! A whole snapshot file.
//!
//! Owns: what makes a file good. Must never: give out rows or parts of a file whose ends do not fit each other, or a block
//! without checking it.

use super::files::{FileStore, OsFiles, StoredFile};
use super::format::{
    self, BLOCK_EXTRA_BYTES, ChunkPlace, FOOTER_BYTES, FOOTER_DIGESTED_BYTES, Footer, Header, Kind, PREFIX_BYTES,
};
use super::{SnapshotError, Throttle};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::ClientId;
use xxhash_rust::xxh3::Xxh3;

/// Read at a time when a whole file is verified, bytes.
const READ_BYTES: usize = 1 << 20;

/// A snapshot file whose two ends were checked.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Box<dyn StoredFile>,
    gather_bytes: usize,
    header: Header,
    header_bytes: u64,
    chunks: Vec<ChunkPlace>,
    footer: Footer,
    bytes: u64,
}

impl SnapshotFile {
    /// Opens a file of `cluster` (any, where `None`): prefix, header, index and footer are checked, chunks are not yet.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn open(path: &Path, cluster: Option<ClientId>) -> Result<Self, SnapshotError> {
        Self::open_in(&OsFiles::shared(), path, cluster)
    }

    /// The same among other files than the operating system's.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn open_in(files: &Arc<dyn FileStore>, path: &Path, cluster: Option<ClientId>) -> Result<Self, SnapshotError> {
        let opened = files.open(path).map_err(|e| SnapshotError::io(path, 0, "open", &e))?;
        let file = &*opened;
        let bytes = file.bytes().map_err(|e| SnapshotError::io(path, 0, "look at", &e))?;
        let least = (PREFIX_BYTES + BLOCK_EXTRA_BYTES * 2 + FOOTER_BYTES) as u64;
        let head = read(path, file, 0, PREFIX_BYTES.min(usize::try_from(bytes).unwrap_or(PREFIX_BYTES)))?;
        let version = format::check_prefix(&head).map_err(|e| refuse(path, 0, e))?;
        if bytes < least {
            return Err(SnapshotError::new(path, bytes, "cut: it ends before any snapshot does"));
        }
        let (kind, body, header_bytes) = read_block(path, file, PREFIX_BYTES as u64, bytes)?;
        if kind != Kind::Header {
            return Err(SnapshotError::new(path, PREFIX_BYTES as u64, "its first block is not the header"));
        }
        let body_at = PREFIX_BYTES as u64 + 5;
        let header = Header::decode(body).map_err(|e| refuse(path, body_at, e))?;
        if header.version() != version {
            return Err(SnapshotError::new(path, body_at, "its header is that of another format version"));
        }
        if let Some(cluster) = cluster.filter(|cluster| *cluster != header.cluster) {
            let why = format!("of cluster {:032x}, not of cluster {:032x}", header.cluster.0, cluster.0);
            return Err(SnapshotError::new(path, body_at, why));
        }
        let end = bytes - FOOTER_BYTES as u64;
        let footer = Footer::decode(read(path, file, end, FOOTER_BYTES)?).map_err(|e| {
            let e = SnapshotError { at: end + e.at as u64, ..refuse(path, end, e) };
            SnapshotError { why: format!("cut or damaged at its end: {}", e.why), ..e }
        })?;
        let (kind, body, index_bytes) = read_block(path, file, footer.index, end)?;
        if kind != Kind::Index || footer.index + index_bytes != end {
            return Err(SnapshotError::new(path, footer.index, "its footer does not lead to its index"));
        }
        let chunks = format::decode_index(body).map_err(|e| refuse(path, footer.index + 5, e))?;
        check_places(path, &chunks, PREFIX_BYTES as u64 + header_bytes, &footer)?;
        let (path, gather_bytes) = (path.to_path_buf(), files.gather_bytes());
        Ok(Self { path, file: opened, gather_bytes, header, header_bytes, chunks, footer, bytes })
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its digest, which names it.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.footer.digest
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.footer.rows
    }

    /// Its chunks.
    #[must_use]
    pub fn chunks(&self) -> &[ChunkPlace] {
        &self.chunks
    }

    /// So many bytes of rows are gathered before they are handed on.
    pub(super) fn gather_bytes(&self) -> usize {
        self.gather_bytes
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks every chunk, the order of the rows, and the whole file's digest.
    ///
    /// # Errors
    /// The first thing wrong, and at which byte.
    pub fn verify(&self, throttle: &mut Throttle) -> Result<(), SnapshotError> {
        let mut last = Bytes::new();
        let mut digest = Xxh3::new();
        let mut digested = 0;
        for (number, place) in self.chunks.iter().enumerate() {
            self.digest_upto(&mut digest, &mut digested, place.offset)?;
            let block = read(&self.path, &*self.file, place.offset, place_bytes(place))?;
            digest.update(&block);
            digested += place.bytes;
            throttle.went(place.bytes);
            let rows = self.open_chunk(place, block)?;
            if rows.first().is_none_or(|(key, _)| *key != place.first || (number > 0 && *key <= last))
                || !rows.is_sorted_by(|a, b| a.0 < b.0)
            {
                return Err(SnapshotError::new(&self.path, place.offset, "the rows of a chunk are out of order"));
            }
            last = rows.last().map_or(last, |(key, _)| key.clone());
        }
        self.digest_upto(&mut digest, &mut digested, self.bytes - (FOOTER_BYTES - FOOTER_DIGESTED_BYTES) as u64)?;
        if digest.digest128() != self.footer.digest && !planted!(DamagedChunkAccepted) {
            return Err(SnapshotError::new(&self.path, 0, "its digest is not that of its bytes"));
        }
        Ok(())
    }

    fn digest_upto(&self, digest: &mut Xxh3, from: &mut u64, upto: u64) -> Result<(), SnapshotError> {
        while *from < upto {
            let some = usize::try_from(upto - *from).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            digest.update(&read(&self.path, &*self.file, *from, some)?);
            *from += some as u64;
        }
        Ok(())
    }

    fn open_chunk(&self, place: &ChunkPlace, block: Bytes) -> Result<Vec<(Bytes, Bytes)>, SnapshotError> {
        let refused = |e| refuse(&self.path, place.offset, e);
        let (kind, body) = format::open_block(block).map_err(refused)?;
        if kind != Kind::Chunk {
            return Err(SnapshotError::new(&self.path, place.offset, "the index leads to what is no chunk"));
        }
        let rows = format::rows(body).map_err(|e| refuse(&self.path, place.offset + 5, e))?;
        if rows.len() as u64 != place.rows {
            let why = format!("a chunk of {} rows, the index says {}", rows.len(), place.rows);
            return Err(SnapshotError::new(&self.path, place.offset, why));
        }
        Ok(rows)
    }

    /// The rows of a chunk, checked.
    ///
    /// # Errors
    /// The chunk is damaged or cannot be read.
    pub fn rows_of(&self, chunk: usize) -> Result<Vec<(Bytes, Bytes)>, SnapshotError> {
        let Some(place) = self.chunks.get(chunk) else { return Ok(Vec::new()) };
        let block = read(&self.path, &*self.file, place.offset, place_bytes(place))?;
        self.open_chunk(place, block)
    }

    /// How many parts the file is served in: prefix and header, each chunk, index and footer.
    #[must_use]
    pub fn parts(&self) -> u64 {
        self.chunks.len() as u64 + 2
    }

    /// One part's bytes, as they are in the file, checked: what became damaged since the file was opened is not sent.
    ///
    /// # Errors
    /// There is no such part, or it is damaged.
    pub fn part(&self, part: u64) -> Result<Bytes, SnapshotError> {
        let (from, upto) = match part {
            0 => (0, PREFIX_BYTES as u64 + self.header_bytes),
            n if n + 1 == self.parts() => (self.footer.index, self.bytes),
            n => match usize::try_from(n - 1).ok().and_then(|n| self.chunks.get(n)) {
                Some(place) => (place.offset, place.offset + place.bytes),
                None => return Err(SnapshotError::new(&self.path, self.bytes, format!("it has no part {part}"))),
            },
        };
        let bytes = read(&self.path, &*self.file, from, usize::try_from(upto - from).unwrap_or(usize::MAX))?;
        let mut block = bytes.clone();
        let mut at = from;
        if part == 0 {
            format::check_prefix(&block).map_err(|e| refuse(&self.path, from, e))?;
            drop(block.split_to(PREFIX_BYTES));
            at += PREFIX_BYTES as u64;
        } else if part + 1 == self.parts() {
            let footer = block.split_off(block.len() - FOOTER_BYTES);
            if footer != self.footer.encode() {
                return Err(SnapshotError::new(&self.path, self.bytes, "its footer changed since it was opened"));
            }
        }
        format::open_block(block).map_err(|e| refuse(&self.path, at, e))?;
        Ok(bytes)
    }
}

fn place_bytes(place: &ChunkPlace) -> usize {
    usize::try_from(place.bytes).expect("a chunk's length was checked when the file was opened")
}

/// The chunks must fill the file between header and index without a gap, and hold as many rows as the footer says.
fn check_places(path: &Path, chunks: &[ChunkPlace], begin: u64, footer: &Footer) -> Result<(), SnapshotError> {
    let mut at = begin;
    for chunk in chunks {
        let fits = chunk.offset == at && chunk.bytes <= (format::BODY_BYTES_MAX + BLOCK_EXTRA_BYTES) as u64;
        if !fits {
            return Err(SnapshotError::new(path, footer.index, format!("its index has no chunk at byte {at}")));
        }
        at += chunk.bytes;
    }
    let rows: u64 = chunks.iter().fold(0, |rows, chunk| rows.saturating_add(chunk.rows));
    if at != footer.index || rows != footer.rows {
        return Err(SnapshotError::new(path, footer.index, "its index does not cover its chunks"));
    }
    Ok(())
}

fn refuse(path: &Path, from: u64, error: DecodeError) -> SnapshotError {
    SnapshotError::new(path, from + error.at as u64, error.what)
}

fn read(path: &Path, file: &dyn StoredFile, at: u64, len: usize) -> Result<Bytes, SnapshotError> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).map_err(|e| SnapshotError::io(path, at, "read", &e))?;
    Ok(bytes.into())
}

/// The block at `at`, which must end at or before `end`: its kind, body and length.
fn read_block(path: &Path, file: &dyn StoredFile, at: u64, end: u64) -> Result<(Kind, Bytes, u64), SnapshotError> {
    if end.saturating_sub(at) < BLOCK_EXTRA_BYTES as u64 {
        return Err(SnapshotError::new(path, at.min(end), "no room for a block"));
    }
    let bytes = format::block_bytes(&read(path, file, at, 5)?).map_err(|e| refuse(path, at, e))?;
    if bytes as u64 > end - at {
        return Err(SnapshotError::new(path, end, "cut within a block"));
    }
    let (kind, body) = format::open_block(read(path, file, at, bytes)?).map_err(|e| refuse(path, at, e))?;
    Ok((kind, body, bytes as u64))
}
