//! The data directory: its layout and its lock.
//!
//! Owns: the lock for the life of the process. Must never: be opened by two processes at once.

use anyhow::{Context, Result, bail};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state stores' folder.
pub const STATE: &str = "state";
/// The snapshots' folder.
pub const SNAPSHOTS: &str = "snapshots";
const LOG: &str = "log";
const LOCK: &str = "LOCK";

/// Of a data directory: nobody else reads what is in it.
const MODE: u32 = 0o700;
/// Everybody else's part of a mode.
const OTHERS: u32 = 0o077;

/// Makes the directory, for its owner alone. One that is there already is narrowed while nothing is in it; where something is,
/// others were let in on purpose, or by an older version, and the log says so.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(MODE).create(path) {
        Ok(()) => return Ok(()),
        Err(_) if path.is_dir() => {}
        Err(error) => return Err(error),
    }
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let narrowed = std::fs::read_dir(path)?.next().is_none()
        && std::fs::set_permissions(path, Permissions::from_mode(MODE)).is_ok();
    if !narrowed {
        tracing::warn!(mode = format!("{:o}", mode & 0o777), dir = %path.display(), "others may read the data directory: chmod 700 ends that");
    }
    Ok(())
}

/// An open data directory.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        make(path).with_context(|| format!("--data-dir {}: cannot be made", path.display()))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("--data-dir: cannot open {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("--data-dir {}: another process uses it (it holds {})", path.display(), file.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("--data-dir: cannot lock {}", file.display()))
            }
        }
    }

    /// Locks a directory that is there, for a look at it.
    ///
    /// # Errors
    /// It is no data directory, or a process holds it.
    pub fn open_existing(path: &Path) -> Result<Self> {
        if !path.join(LOG).is_dir() {
            bail!("{}: no data directory (it has no folder `{LOG}`)", path.display());
        }
        Self::open(path)
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
