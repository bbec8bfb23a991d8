//! What the end-to-end tests share: clusters of real processes, load with a memory of what was acknowledged, and the
//! checker that holds the one against what is read back.
//!
//! Owns: how the tests start, hurt and question the real binary. Must never: reach into a node by any way that an
//! operator does not have (the command line, the client library, signals, files of a node that is down).
//!
//! The seeded explorer and the planted faults are packages of their own beside this one.

pub mod campaign;
pub mod checker;
pub mod cluster;
pub mod far;
pub mod http;
pub mod load;
pub mod mixed;
pub mod run;
pub mod shim;
pub mod splits;
pub mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Taken by tests that measure or need the whole machine: tests of one binary run on several threads otherwise.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has torn its cluster down all the same.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The repository. Asked at run time: clones that share a target directory share the test's binary too.
pub fn repository() -> PathBuf {
    let built_in = || env!("CARGO_MANIFEST_DIR").into();
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built_in)).join("..")
}

/// Copies a folder and all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        match entry.is_dir() {
            true => copy(&entry, &to.join(name)),
            false => drop(fs::copy(&entry, to.join(name)).expect("a copy")),
        }
    }
}

/// A file of real input beside the repository, or nothing (said aloud) where it is missing.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let path = repository().join("../shared/data").join(name);
    if path.is_file() {
        return Some(path);
    }
    println!("SKIPPED: {} is missing, so nothing was tested with it", path.display());
    None
}
