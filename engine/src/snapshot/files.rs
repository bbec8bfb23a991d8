//! Where snapshot files are: the operating system's files, or those of a simulated disk.
//!
//! Owns: the few operations that snapshots need, and what they promise. Must never: cache, retry, or make a change durable
//! that was not synced.

use super::format::CHUNK_BYTES;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files by path, as in a file system. Bytes are durable once their file is synced, a name once its directory is.
pub trait FileStore: Debug + Send + Sync {
    /// A new, empty file; a file of that name is replaced.
    ///
    /// # Errors
    /// It cannot be made.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;

    /// The file that is there, for reading.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;

    /// The file that is there, or a new one, for reading and writing.
    ///
    /// # Errors
    /// It cannot be opened or made.
    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;

    /// Gives a file another name; a file that had that name loses it.
    ///
    /// # Errors
    /// The file system refuses.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The sync failed.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    ///
    /// # Errors
    /// The file system refuses, or there is no such file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory.
    ///
    /// # Errors
    /// It cannot be read.
    fn names(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// Rows are gathered into chunks of about so many bytes, and into sixteen times as many before they are loaded.
    fn gather_bytes(&self) -> usize {
        CHUNK_BYTES
    }
}

/// An open file. It stays readable when its name goes.
pub trait StoredFile: Debug + Send + Sync {
    /// Its length, bytes.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `out` with the bytes at `at`.
    ///
    /// # Errors
    /// The file ends before, or cannot be read.
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `at`.
    ///
    /// # Errors
    /// It cannot be written.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// It cannot be cut.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The sync failed: what of it is durable is unknown.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl OsFiles {
    /// As the others take it.
    #[must_use]
    pub fn shared() -> Arc<dyn FileStore> {
        Arc::new(Self)
    }
}

impl FileStore for OsFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }
}

impl StoredFile for File {
    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|found| found.len())
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, out, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Writes a file from its beginning on.
#[derive(Debug)]
pub(super) struct Appender {
    pub(super) file: Box<dyn StoredFile>,
    pub(super) at: u64,
}

impl io::Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
