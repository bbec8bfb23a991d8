//! Two small files beside the stores: `founders.json`, the founding list of a founder, and `join.json`, a joiner's nonce.
//!
//! Owns: their format and their durability: file and directory are synced before a call returns. Must never: hold
//! anything that the log store's identity row contradicts; a founding list counts only with the cluster it names.

use super::bootstrap_error::BootstrapError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

const FOUNDERS: &str = "founders.json";
const JOIN: &str = "join.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct FoundersFile {
    version: u32,
    cluster: String,
    founders: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct JoinFile {
    version: u32,
    nonce: String,
}

/// Keeps the founding list of `cluster`.
pub fn write_founders(dir: &Path, cluster: u128, founders: &[String]) -> Result<(), BootstrapError> {
    let file = FoundersFile { version: VERSION, cluster: format!("{cluster:032x}"), founders: founders.to_vec() };
    write(dir, FOUNDERS, &file)
}

/// The founding list, where this node founded `cluster`; else empty.
pub fn read_founders(dir: &Path, cluster: u128) -> Result<Vec<String>, BootstrapError> {
    let Some(file) = read::<FoundersFile>(dir, FOUNDERS, |f| f.version)? else {
        return Ok(Vec::new());
    };
    let same = file.cluster == format!("{cluster:032x}");
    Ok(if same { file.founders } else { Vec::new() })
}

/// The joiner's nonce: the one kept, or a new one, kept from now on.
pub fn join_nonce(dir: &Path) -> Result<[u8; 16], BootstrapError> {
    if let Some(file) = read::<JoinFile>(dir, JOIN, |f| f.version)? {
        return match u128::from_str_radix(&file.nonce, 16) {
            Ok(nonce) => Ok(nonce.to_be_bytes()),
            Err(e) => Err(problem(dir, JOIN, &format!("nonce: {e}"))),
        };
    }
    // Founders have their ids for a nonce, so a joiner's is never small.
    let nonce = rand::random::<u128>() | 1 << 127;
    write(dir, JOIN, &JoinFile { version: VERSION, nonce: format!("{nonce:032x}") })?;
    Ok(nonce.to_be_bytes())
}

/// The join is over. A file that stays behind does no harm: the identity row comes first.
pub fn forget_join(dir: &Path) {
    let _ = fs::remove_file(dir.join(JOIN));
}

fn problem(dir: &Path, name: &str, why: &dyn std::fmt::Display) -> BootstrapError {
    BootstrapError::File { path: dir.join(name).display().to_string(), why: why.to_string() }
}

fn read<T: for<'de> Deserialize<'de>>(
    dir: &Path,
    name: &str,
    version: impl Fn(&T) -> u32,
) -> Result<Option<T>, BootstrapError> {
    let text = match fs::read(dir.join(name)) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(problem(dir, name, &e)),
    };
    let value: T = serde_json::from_slice(&text).map_err(|e| problem(dir, name, &e))?;
    match version(&value) {
        VERSION => Ok(Some(value)),
        found => Err(problem(dir, name, &format!("has version {found}, this program reads {VERSION}"))),
    }
}

fn write(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), BootstrapError> {
    let inner = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let path = dir.join(name);
        let draft = dir.join(format!("{name}.new"));
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    };
    inner().map_err(|e| problem(dir, name, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_founding_list_counts_only_with_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let list = vec!["a:1".to_owned(), "b:2".to_owned()];
        assert!(read_founders(dir.path(), 7).unwrap().is_empty());
        write_founders(dir.path(), 7, &list).unwrap();
        assert_eq!(read_founders(dir.path(), 7).unwrap(), list);
        assert!(read_founders(dir.path(), 8).unwrap().is_empty());
    }

    #[test]
    fn a_nonce_stays_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let nonce = join_nonce(dir.path()).unwrap();
        assert_eq!(join_nonce(dir.path()).unwrap(), nonce);
        forget_join(dir.path());
        assert_ne!(join_nonce(dir.path()).unwrap(), nonce);
    }

    #[test]
    fn damaged_and_newer_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(JOIN), "{").unwrap();
        assert!(join_nonce(dir.path()).unwrap_err().to_string().contains("join.json"));
        fs::write(dir.path().join(FOUNDERS), r#"{"version":9,"cluster":"07","founders":[]}"#).unwrap();
        assert!(read_founders(dir.path(), 7).unwrap_err().to_string().contains("version 9"));
    }
}
