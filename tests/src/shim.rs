//! Libraries that are loaded into a node before the system's own: a clock that is wrong, a disk that does not answer.
//!
//! Owns: how they are made from their sources, and the files by which a test directs them. Must never: be part of what is
//! shipped.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A clock that runs at another rate, or shows another time.
pub const CLOCK: &str = include_str!("../shims/fast_clock.c");
/// Reads of a directory's files that hang.
pub const HANG: &str = include_str!("../shims/hung_reads.c");

/// Whether libraries can be made; the error says what is missing.
///
/// # Errors
/// There is no compiler of C.
pub fn can() -> Result<(), String> {
    let found = Command::new("cc").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(drop).map_err(|_| "skipped: cc is not installed (apt-get install gcc)".into())
}

/// The library made of `source`, in `dir`; what is there already is used.
///
/// # Errors
/// It cannot be made.
pub fn library(dir: &Path, name: &str, source: &str) -> Result<String, String> {
    let (text, library) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    if !library.exists() {
        fs::write(&text, source).map_err(|error| error.to_string())?;
        let made = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&text).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(format!("cc did not make the library {name}"));
        }
    }
    Ok(library.display().to_string())
}

/// A number that a library reads from a file at every call.
pub struct Dial(PathBuf);

impl Dial {
    /// One that shows `value`.
    pub fn new(path: PathBuf, value: i64) -> Dial {
        fs::write(&path, value.to_ne_bytes()).expect("a file in a temporary directory");
        Dial(path)
    }

    /// Its file.
    pub fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Sets it, for processes that run too: the file is written in place, since they have it mapped.
    pub fn set(&self, value: i64) {
        let mut file = OpenOptions::new().write(true).open(&self.0).expect("it was made");
        file.write_all(&value.to_ne_bytes()).expect("8 bytes fit");
    }
}
