//! A snapshot file that is being received.
//!
//! Owns: the unfinished file, and which parts of it are there. Must never: keep a part that was not verified, or give the
//! file its name before the whole of it was.

use super::files::{FileStore, OsFiles, StoredFile};
use super::format::{self, BLOCK_EXTRA_BYTES, FOOTER_BYTES, Kind, PREFIX_BYTES};
use super::writer::rename_durably;
use super::{SnapshotError, SnapshotFile, Throttle};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_cluster::ids::ClientId;

/// A file that is being received.
#[derive(Debug)]
pub struct Partial {
    files: Arc<dyn FileStore>,
    path: PathBuf,
    unfinished: PathBuf,
    file: Box<dyn StoredFile>,
    bytes: u64,
    parts: u64,
}

impl Partial {
    /// Where what there is of a snapshot for the file `path` stands until it is whole.
    #[must_use]
    pub fn path(path: &Path, digest: u128) -> PathBuf {
        path.with_extension(format!("{digest:032x}.part"))
    }

    /// Goes on with what is there of the snapshot `digest`, or begins. Parts found are verified; what comes after the last
    /// good one is cut off.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn open(path: &Path, digest: u128) -> Result<Self, SnapshotError> {
        Self::open_in(&OsFiles::shared(), path, digest)
    }

    /// The same among other files than the operating system's.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn open_in(files: &Arc<dyn FileStore>, path: &Path, digest: u128) -> Result<Self, SnapshotError> {
        let unfinished = Self::path(path, digest);
        let failed = |doing: &str, e: std::io::Error| SnapshotError::io(&unfinished, 0, doing, &e);
        let file = files.open_or_create(&unfinished).map_err(|e| failed("open", e))?;
        let len = file.bytes().map_err(|e| failed("look at", e))?;
        let (files, path) = (Arc::clone(files), path.to_path_buf());
        let mut partial = Self { files, path, unfinished: unfinished.clone(), file, bytes: 0, parts: 0 };
        while let Some(bytes) = partial.good_part(len) {
            partial.bytes += bytes;
            partial.parts += 1;
        }
        partial.file.set_bytes(partial.bytes).map_err(|e| failed("cut", e))?;
        Ok(partial)
    }

    /// The length of the part that follows, where it is whole and good and not the last: that one is asked for again.
    fn good_part(&self, len: u64) -> Option<u64> {
        let lead = if self.parts == 0 { PREFIX_BYTES } else { 0 };
        let mut head = vec![0; lead + 5];
        self.file.read_exact_at(&mut head, self.bytes).ok()?;
        let bytes = lead + format::block_bytes(&head[lead..]).ok()?;
        if self.bytes + bytes as u64 > len {
            return None;
        }
        let mut part = vec![0; bytes];
        self.file.read_exact_at(&mut part, self.bytes).ok()?;
        let kind = check_part(self.parts, part.into()).ok()?;
        (kind != Kind::Index).then_some(bytes as u64)
    }

    /// The part wanted next.
    #[must_use]
    pub fn next_part(&self) -> u64 {
        self.parts
    }

    /// Bytes that are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next part; whether it was the last.
    ///
    /// # Errors
    /// It is damaged, or cannot be written: nothing of it is kept.
    pub fn take(&mut self, part: &Bytes) -> Result<bool, SnapshotError> {
        let refused = |(at, what): (usize, &str)| SnapshotError::new(&self.unfinished, self.bytes + at as u64, what);
        let kind = check_part(self.parts, part.clone()).map_err(refused)?;
        let written = self.file.write_all_at(part, self.bytes);
        written.map_err(|e| SnapshotError::io(&self.unfinished, self.bytes, "write", &e))?;
        self.bytes += part.len() as u64;
        self.parts += 1;
        Ok(kind == Kind::Index)
    }

    /// All parts are there: syncs the file, verifies the whole of it, and gives it its name. An unsound file is removed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn finish(
        self,
        cluster: ClientId,
        digest: u128,
        throttle: &mut Throttle,
    ) -> Result<SnapshotFile, SnapshotError> {
        self.file.sync().map_err(|e| SnapshotError::io(&self.unfinished, self.bytes, "sync", &e))?;
        let sound = SnapshotFile::open_in(&self.files, &self.unfinished, Some(cluster)).and_then(|file| {
            if file.digest() != digest {
                let why = format!("of digest {:032x}, {digest:032x} was offered", file.digest());
                return Err(SnapshotError::new(&self.unfinished, file.bytes(), why));
            }
            file.verify(throttle)
        });
        if let Err(error) = sound {
            // Kept, it would be found good part by part again and never as a whole.
            let _ = self.files.remove(&self.unfinished);
            return Err(error);
        }
        rename_durably(&*self.files, &self.unfinished, &self.path)?;
        SnapshotFile::open_in(&self.files, &self.path, Some(cluster))
    }
}

/// Checks a part by itself: its kind, or where and what is wrong.
fn check_part(number: u64, mut part: Bytes) -> Result<Kind, (usize, &'static str)> {
    let mut lead = 0;
    if number == 0 {
        format::check_prefix(&part).map_err(|e| (e.at, e.what))?;
        lead = PREFIX_BYTES;
        drop(part.split_to(PREFIX_BYTES.min(part.len())));
    }
    let kind = match part.first() {
        Some(&kind) if kind == Kind::Index as u8 => {
            let bytes = format::block_bytes(&part).map_err(|e| (lead + e.at, e.what))?;
            let footer = part.len().checked_sub(bytes);
            if footer.is_some_and(|left| left != FOOTER_BYTES && left != 0) || footer.is_none() {
                return Err((part.len(), "an index without its footer"));
            }
            part.truncate(bytes);
            Kind::Index
        }
        _ => Kind::Chunk,
    };
    if part.len() < BLOCK_EXTRA_BYTES {
        return Err((lead + part.len(), "cut within a block"));
    }
    let (found, _) = format::open_block(part).map_err(|e| (lead + e.at, e.what))?;
    match (number, found) {
        (0, Kind::Header) | (1.., Kind::Chunk) => Ok(found),
        (1.., Kind::Index) if kind == Kind::Index => Ok(found),
        _ => Err((lead, "a part out of its place")),
    }
}
