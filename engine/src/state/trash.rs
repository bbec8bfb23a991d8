//! Files of removed rows, given back to the file system little by little.
//!
//! Owns: a second name for each file that a compaction is about to drop, and the pace at which its room goes. Must never: change a
//! file that the database has a name for.
//!
//! A file system that discards what it frees holds up every sync meanwhile: 2 GB that one compaction dropped did so for 0.1 to 0.3 s.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Given back at a time, bytes: the device takes about 2 ms to discard it.
const STEP_BYTES: u64 = 4 << 20;
/// Rest after each step: 200 MB/s are given back at most.
const STEP_REST: Duration = Duration::from_millis(20);
/// After a compaction, time for the database to drop its files.
const DROP_WAIT: Duration = Duration::from_millis(200);

/// Files that are about to be dropped. Once this is dropped itself, what is left goes at once.
pub(super) struct Trash {
    kept: Vec<PathBuf>,
}

impl Trash {
    /// Gives these files a second name in `dir`, which the next start clears. Where that fails, their room goes at once with them.
    pub(super) fn keep(dir: &Path, files: impl Iterator<Item = PathBuf>) -> Self {
        let mut kept = Vec::new();
        for file in files {
            let Some(name) = file.file_name().and_then(OsStr::to_str).map(|name| dir.join(format!("gone-{name}")))
            else {
                continue;
            };
            if fs::hard_link(&file, &name).is_ok() {
                kept.push(name);
            }
        }
        Self { kept }
    }

    /// Gives the room of those files back that the database has dropped, until `stop`. It drops them a little after the compaction
    /// ends, so it gets time to.
    pub(super) fn empty(&mut self, stop: &AtomicBool) {
        if !self.kept.is_empty() {
            sleep(DROP_WAIT);
        }
        for name in std::mem::take(&mut self.kept) {
            // An error leaves the file to the end.
            if stop.load(Ordering::Relaxed) || !give_back(&name, stop).unwrap_or(false) {
                self.kept.push(name);
            }
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        for name in &self.kept {
            // What could not be removed goes with the next start.
            drop(fs::remove_file(name));
        }
    }
}

/// Shortens a file step by step and removes it. `false` where the database has a name for it, or where `stop` was set.
fn give_back(name: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let file: File = OpenOptions::new().write(true).open(name)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        // Nobody gives it another name again once the database has dropped its own.
        if file.metadata()?.nlink() != 1 || stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        left = left.saturating_sub(STEP_BYTES);
        file.set_len(left)?;
        sleep(STEP_REST);
    }
    fs::remove_file(name)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_dropped_is_shortened_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join("trash");
        fs::create_dir(&trash).unwrap();
        let path = |n: u8| dir.path().join(format!("{n}.sst"));
        for n in 0..3 {
            fs::write(path(n), vec![n; 9 << 20]).unwrap();
        }
        let mut kept = Trash::keep(&trash, (0..4).map(path));
        let named = || fs::read_dir(&trash).unwrap().count();
        assert_eq!(named(), 3, "there is no fourth file");
        fs::remove_file(path(1)).unwrap();
        let stop = AtomicBool::new(false);
        kept.empty(&stop);
        assert_eq!(named(), 2);
        fs::remove_file(path(2)).unwrap();
        stop.store(true, Ordering::Relaxed);
        kept.empty(&stop);
        assert_eq!(named(), 2, "it was told to stop");
        stop.store(false, Ordering::Relaxed);
        kept.empty(&stop);
        assert_eq!(named(), 1);
        drop(kept);
        assert_eq!(named(), 0);
        assert_eq!(fs::read(path(0)).unwrap(), vec![0; 9 << 20], "the database has it still");
    }
}
