//! What a process of this node may still owe by the support that it gave: `support.json` in the data directory.
//!
//! A leader's lease is the word of others to promise nothing else for a term. The word is in no write, so whoever begins waits a
//! term out. Terms differ once `timing.round_trip_ms` does, hence this file: it holds the longest term that a process of this
//! node may have given. Without it that is the term of nodes in one place, which is all that was ever given.
//!
//! Owns: that file. Must never: name less than what a process gives, before it gives it or as long as its word may hold.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_engine::times::Times;

const FILE: &str = "support.json";

/// The longest term that may still hold, µs.
#[derive(Debug)]
pub struct Term {
    dir: PathBuf,
    own: u64,
    owed: u64,
}

impl Term {
    /// Notes the term that this process will give. On disk when this returns.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn begin(dir: &Path, own: u64) -> Result<Self> {
        let known = read(dir)?;
        let owed = own.max(known);
        if owed > known {
            write(dir, owed)?;
        }
        Ok(Self { dir: dir.to_path_buf(), own, owed })
    }

    /// What a process before this one, or this one, may have given, µs: a replica that begins promises nothing for as long.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.owed
    }

    /// Once what processes before this one gave is over, the own term is all that the next one must wait for.
    pub async fn settle(self) {
        if self.owed == self.own {
            return;
        }
        // Twice as long: clocks run apart, and the worker began to count later than this.
        tokio::time::sleep(Duration::from_micros(2 * self.owed)).await;
        if let Err(why) = write(&self.dir, self.own) {
            tracing::warn!("the next start will wait longer than necessary: {why:#}");
        }
    }
}

fn read(dir: &Path) -> Result<u64> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Times::NEAR.support),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    };
    let term = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|file| file["support_us"].as_u64());
    Ok(term.unwrap_or_else(|| {
        tracing::warn!("{} cannot be read: waiting for the longest possible term", path.display());
        Times::NEAR.far(Times::ROUND_TRIP_MAX).support
    }))
}

fn write(dir: &Path, term: u64) -> Result<()> {
    let inner = || -> std::io::Result<()> {
        let draft = dir.join(format!("{FILE}.new"));
        let mut file = File::create(&draft)?;
        writeln!(file, "{}", serde_json::json!({ "support_us": term }))?;
        file.sync_all()?;
        fs::rename(&draft, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    };
    inner().with_context(|| format!("{}: cannot be written", dir.join(FILE).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_in_one_place_needs_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Term::begin(dir.path(), Times::NEAR.support).unwrap().owed(), 300_000);
        assert!(!dir.path().join(FILE).exists());
    }

    #[tokio::test]
    async fn a_longer_term_is_owed_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Term::begin(dir.path(), 310_000).unwrap().owed(), 310_000);
        // A process with a shorter one that ends at once leaves it owed.
        assert_eq!(Term::begin(dir.path(), 300_000).unwrap().owed(), 310_000);
        let second = Term::begin(dir.path(), 300_000).unwrap();
        second.settle().await;
        assert_eq!(Term::begin(dir.path(), 300_000).unwrap().owed(), 300_000);
    }

    #[test]
    fn a_file_that_cannot_be_understood_stands_for_the_longest_term() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Term::begin(dir.path(), 300_000).unwrap().owed(), 2_300_000);
    }
}
