//! The data directory: its layout and its lock.
//!
//! Owns: the lock for the life of the process. Must never: be opened by two processes at once.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The state stores' folder.
pub const STATE: &str = "state";
/// The snapshots' folder.
pub const SNAPSHOTS: &str = "snapshots";
const LOG: &str = "log";
const LOCK: &str = "LOCK";

/// An open data directory.
pub struct DataDir {
    path: PathBuf,
    /// None where nothing can be written, and so no process can be at work.
    _lock: Option<File>,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("--data-dir {}: cannot be made", path.display()))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("--data-dir: cannot open {}", file.display()))?;
        Self::locked(path, lock)
    }

    fn locked(path: &Path, lock: File) -> Result<Self> {
        let file = path.join(LOCK);
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => {
                bail!("--data-dir {}: another process uses it (it holds {})", path.display(), file.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("--data-dir: cannot lock {}", file.display()))
            }
        }
    }

    /// Locks a directory that is there, for a look at it. Writes nothing where a node has used it, so that one on a disk that
    /// is mounted to be read only can be looked at.
    ///
    /// # Errors
    /// It is no data directory, or a process holds it.
    pub fn open_existing(path: &Path) -> Result<Self> {
        if !path.join(LOG).is_dir() {
            bail!("{}: no data directory (it has no folder `{LOG}`)", path.display());
        }
        let lock = path.join(LOCK);
        match File::open(&lock) {
            Ok(lock) => Self::locked(path, lock),
            Err(_) => match OpenOptions::new().create(true).truncate(false).write(true).open(&lock) {
                Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                    Ok(Self { path: path.to_path_buf(), _lock: None })
                }
                _ => Self::open(path),
            },
        }
    }

    /// The state's folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// The snapshots' folder.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// The log store's folder.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }
}
