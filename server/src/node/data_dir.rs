//! The data directory: its layout, its lock, and the mark of a restore that is under way.
//!
//! Owns: the lock for the life of the process. Must never: be opened by two processes at once, or be taken for a node's while a
//! restore into it has not ended.

use anyhow::{Context, Result, bail};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state stores' folder.
pub const STATE: &str = "state";
/// The snapshots' folder.
pub const SNAPSHOTS: &str = "snapshots";
const LOG: &str = "log";
const LOCK: &str = "LOCK";
/// There from before a restore writes anything until all of it is on disk.
const RESTORING: &str = "RESTORING";

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
    /// None where nothing can be written, and so no process can be at work.
    _lock: Option<File>,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made, another process holds it, or a restore into it did not end.
    pub fn open(path: &Path) -> Result<Self> {
        Self::lock(path)?.whole()
    }

    /// The directory, unless it is what a restore left that did not end.
    fn whole(self) -> Result<Self> {
        if self.path.join(RESTORING).exists() {
            bail!(
                "--data-dir {}: a restore into it did not end (it has the mark {RESTORING}), so nothing in it can be used; run \
                 the same `synod restore` again, which begins anew, or remove the directory",
                self.path.display()
            );
        }
        Ok(self)
    }

    /// Locks a directory for a restore, and marks it: it is no node's until [`DataDir::restored`]. What a restore left there
    /// that did not end is removed.
    ///
    /// # Errors
    /// It holds anything else, cannot be written, or another process holds it.
    pub fn open_to_restore(path: &Path) -> Result<Self> {
        make(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let marked = path.join(RESTORING).exists();
        for entry in std::fs::read_dir(path).with_context(|| format!("{}: cannot be read", path.display()))? {
            let name = entry.with_context(|| format!("{}: cannot be read", path.display()))?.file_name();
            let name = name.to_string_lossy();
            let own = name == LOCK || marked && [RESTORING, LOG, STATE].contains(&&*name);
            if !own {
                bail!("{} is not empty: it holds {name:?}", path.display());
            }
        }
        let data = Self::lock(path)?;
        data.mark().with_context(|| format!("{}: cannot be marked", path.display()))?;
        for folder in [data.log(), data.state()] {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{}: cannot be removed", folder.display()));
                }
                _ => {}
            }
        }
        Ok(data)
    }

    fn mark(&self) -> std::io::Result<()> {
        File::create(self.path.join(RESTORING))?.sync_all()?;
        self.sync()
    }

    /// All that a restore wrote is on disk: the directory is a node's from now on.
    ///
    /// # Errors
    /// The mark cannot be removed.
    pub fn restored(self) -> Result<()> {
        let gone =
            self.sync().and_then(|()| std::fs::remove_file(self.path.join(RESTORING))).and_then(|()| self.sync());
        gone.with_context(|| format!("{}: its mark {RESTORING} cannot be removed", self.path.display()))
    }

    fn sync(&self) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// What of the directory a node has written that knew where it belongs, though its log does not know that: the log is gone,
    /// or another's.
    #[must_use]
    pub fn left_of_a_log(&self) -> Option<PathBuf> {
        let holds = |folder: &PathBuf| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        [self.state(), self.snapshots()].into_iter().find(holds)
    }

    fn lock(path: &Path) -> Result<Self> {
        make(path).with_context(|| format!("--data-dir {}: cannot be made", path.display()))?;
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
        if !path.join(LOG).is_dir() && !path.join(RESTORING).exists() {
            bail!("{}: no data directory (it has no folder `{LOG}`)", path.display());
        }
        let lock = path.join(LOCK);
        match File::open(&lock) {
            // A node refuses it too: a folder can be opened to be read, and locked.
            Ok(_) if lock.is_dir() => bail!("--data-dir: cannot open {}: it is a folder", lock.display()),
            Ok(lock) => Self::locked(path, lock)?.whole(),
            Err(_) => match OpenOptions::new().create(true).truncate(false).write(true).open(&lock) {
                Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                    Self { path: path.to_path_buf(), _lock: None }.whole()
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
