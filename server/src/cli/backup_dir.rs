//! The folder of a backup: `shard-N.snap` for each shard, the system shard among them, and `manifest.json`, written last.
//!
//! Owns: what is in the folder, and the mark `UNFINISHED`, which is there before the first file and until the manifest is.
//! Must never: call half a backup whole, or remove a file that no backup wrote.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use synod_cluster::ids::{ClientId, ClusterVersion, ShardId};
use synod_engine::snapshot::restore::Files;
use synod_engine::snapshot::{SnapshotFile, Throttle, file_name};

use super::error::{CliError, Result};

const MANIFEST: &str = "manifest.json";
const UNFINISHED: &str = "UNFINISHED";
/// The format of a backup that holds every table of its metadata.
const VERSION: u32 = 1;
/// The format of one that leaves tables out.
const VERSION_WITHOUT_SOME: u32 = 2;
/// The format of one whose shards need a later cluster version than its metadata says. A binary that does not know of such backups
/// would make a cluster of it that older nodes may join, and they cannot read it.
const VERSION_ACROSS: u32 = 3;

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The cluster it was made of.
    pub cluster: String,
    /// The shards in it.
    pub shards: Vec<Entry>,
    /// Tables of the metadata that were dropped before the last of their shards was read: they are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<u32>,
    /// The cluster version that some of the shards need, where the metadata says an earlier one: it was raised meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_version: Option<u32>,
}

/// One shard of a backup.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub shard: u64,
    /// The last slot in it.
    pub slot: u64,
    /// That entry's timestamp.
    pub ts_us: u64,
    /// Rows of the file.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of the file.
    pub digest: String,
    /// Of the records alone: equal in every copy of them.
    pub content: String,
}

impl Manifest {
    /// Of these shards, without the tables that were dropped; some of the shards need the version `later` than the metadata's.
    pub fn new(cluster: ClientId, shards: Vec<Entry>, dropped: Vec<u32>, later: Option<ClusterVersion>) -> Self {
        let version = match (later, dropped.is_empty()) {
            (Some(_), _) => VERSION_ACROSS,
            (None, false) => VERSION_WITHOUT_SOME,
            (None, true) => VERSION,
        };
        let cluster_version = later.map(|version| version.0);
        Self { version, cluster: format!("{:032x}", cluster.0), shards, dropped, cluster_version }
    }
}

/// What is done with half a backup that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// It is named.
    Refuse,
    /// Its files that are whole are kept.
    Resume,
    /// It is removed.
    Replace,
}

/// What the mark says.
#[derive(Serialize, Deserialize)]
struct Mark {
    version: u32,
    cluster: String,
}

/// The folder of a backup that is being made.
pub struct Folder {
    dir: PathBuf,
    /// Locked as long as the backup is under way.
    mark: File,
}

pub fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::failed("backup", why.to_string())
}

fn io_at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| CliError::io(path.display(), &error))
}

fn sync(dir: &Path) -> Result<()> {
    io_at(dir, File::open(dir).and_then(|dir| dir.sync_all()))
}

/// What kind of thing a folder is.
enum Kind {
    Empty,
    /// It has a manifest.
    Whole,
    /// All of it was written by a backup that has no manifest.
    Half,
    /// It holds this, which no backup wrote.
    Foreign(String),
}

fn is_of_a_shard(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("shard-") else { return false };
    let number = rest.split('.').next().unwrap_or_default();
    number.parse::<u64>().is_ok() && (rest.ends_with(".snap") || rest.ends_with(".part"))
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => io_at(dir, entries)?,
    };
    let name = |entry: io::Result<fs::DirEntry>| -> io::Result<String> {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    io_at(dir, entries.map(name).collect())
}

fn kind(dir: &Path) -> Result<Kind> {
    let names = names(dir)?;
    let draft = format!("{MANIFEST}.new");
    let foreign = |name: &&String| **name != UNFINISHED && **name != draft && !is_of_a_shard(name);
    Ok(match names.iter().find(foreign) {
        _ if names.is_empty() => Kind::Empty,
        _ if names.iter().any(|name| name == MANIFEST) => Kind::Whole,
        None => Kind::Half,
        Some(name) => Kind::Foreign(name.clone()),
    })
}

/// Makes a folder, or finds it empty.
pub fn make_empty(dir: &Path) -> Result<()> {
    io_at(dir, fs::create_dir_all(dir))?;
    match names(dir)?.first() {
        None => Ok(()),
        Some(_) => Err(CliError::usage("DIR", format!("{} is not empty", dir.display()))),
    }
}

impl Folder {
    /// Takes a folder for a backup: an empty one, or with half a backup as `half` says.
    pub fn open(dir: &Path, half: Half) -> Result<Folder> {
        let refused = |why: String| Err(CliError::usage("DIR", format!("{} is not empty: {why}", dir.display())));
        match kind(dir)? {
            Kind::Whole => return refused("it holds a whole backup; name another folder".into()),
            Kind::Foreign(name) => return refused(format!("it holds {name:?}, which is no part of a backup")),
            Kind::Half if half == Half::Refuse => {
                let why = "it holds an unfinished backup; --resume continues it, --replace starts over";
                return refused(why.into());
            }
            Kind::Empty => make_empty(dir)?,
            Kind::Half => {}
        }
        let path = dir.join(UNFINISHED);
        let mark = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let folder = Folder { dir: dir.to_path_buf(), mark: io_at(&path, mark)? };
        match folder.mark.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed(format!("{}: another backup is being written to it", dir.display())).retryable());
            }
            Err(TryLockError::Error(error)) => return Err(CliError::io(path.display(), &error)),
        }
        sync(dir)?;
        if half == Half::Replace {
            folder.clear()?;
        }
        Ok(folder)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes which cluster it is of; half a backup of another is refused.
    pub fn begin(&mut self, cluster: ClientId) -> Result<()> {
        let path = self.dir.join(UNFINISHED);
        let mut text = String::new();
        io_at(&path, self.mark.read_to_string(&mut text))?;
        let own = format!("{:032x}", cluster.0);
        // What a crash left of the mark names no cluster; the files name theirs.
        match serde_json::from_str::<Mark>(&text) {
            Ok(mark) if mark.cluster == own => return Ok(()),
            Ok(mark) => {
                let (dir, other) = (self.dir.display(), mark.cluster);
                let why = format!(
                    "{dir} holds an unfinished backup of cluster {other}, this one is {own}; --replace starts over"
                );
                return Err(CliError::usage("DIR", why));
            }
            Err(_) => {}
        }
        let mark = serde_json::to_string(&Mark { version: VERSION, cluster: own }).map_err(failed)?;
        let written = self.mark.set_len(0).and_then(|()| {
            io::Seek::rewind(&mut self.mark)?;
            self.mark.write_all(mark.as_bytes())?;
            self.mark.sync_all()
        });
        io_at(&path, written)
    }

    /// A shard's file where an earlier run left it whole; one that is not is removed.
    pub fn kept(&self, shard: ShardId, cluster: ClientId) -> Result<Option<SnapshotFile>> {
        let path = self.dir.join(file_name(shard));
        if !path.exists() {
            return Ok(None);
        }
        let whole = SnapshotFile::open(&path, Some(cluster))
            .and_then(|file| file.verify(&mut Throttle::new(0)).map(|()| file))
            .ok()
            .filter(|file| file.header().shard == shard);
        if whole.is_none() {
            io_at(&path, fs::remove_file(&path))?;
        }
        Ok(whole)
    }

    /// Removes what there is of a shard.
    pub fn remove(&self, shard: ShardId) -> Result<()> {
        let of = format!("shard-{}.", shard.0);
        self.remove_all(|name| name.starts_with(&of))
    }

    fn clear(&self) -> Result<()> {
        let draft = format!("{MANIFEST}.new");
        self.remove_all(|name| is_of_a_shard(name) || name == draft)
    }

    fn remove_all(&self, which: impl Fn(&str) -> bool) -> Result<()> {
        for name in names(&self.dir)?.into_iter().filter(|name| which(name)) {
            let path = self.dir.join(name);
            io_at(&path, fs::remove_file(&path))?;
        }
        Ok(())
    }

    /// Writes the manifest, last and synced: a folder without it holds no whole backup.
    pub fn finish(self, manifest: &Manifest) -> Result<()> {
        self.remove_all(|name| name.ends_with(".part"))?;
        let text = serde_json::to_string_pretty(manifest).map_err(failed)?;
        let (path, draft) = (self.dir.join(MANIFEST), self.dir.join(format!("{MANIFEST}.new")));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        });
        io_at(&path, written)?;
        sync(&self.dir)?;
        io_at(&self.dir, fs::remove_file(self.dir.join(UNFINISHED)))?;
        sync(&self.dir)
    }

    /// What a backup that failed leaves: nothing where no shard was read whole, else half a backup, which the error names.
    pub fn left_behind(self, error: CliError) -> CliError {
        // What cannot be removed is named as half a backup by the next run.
        let _ = self.remove_all(|name| name.ends_with(".part"));
        if names(&self.dir).is_ok_and(|names| names.iter().any(|name| name.ends_with(".snap"))) {
            let dir = self.dir.display();
            return error.followed_by(format!(
                "{dir} holds an unfinished backup: --resume continues it, --replace starts over"
            ));
        }
        let _ = fs::remove_file(self.dir.join(UNFINISHED));
        error
    }
}

/// Reads a backup and verifies every byte of it.
pub fn open(dir: &Path) -> Result<(Manifest, Files)> {
    let path = dir.join(MANIFEST);
    if matches!(kind(dir)?, Kind::Half) {
        let why = "the backup is unfinished; `synod backup` continues it (--resume) or starts over (--replace)";
        return Err(failed(format!("{}: {why}", dir.display())));
    }
    let text = io_at(&path, fs::read_to_string(&path))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| failed(format!("{}: {e}, at byte 0", path.display())))?;
    if manifest.version > VERSION_ACROSS {
        return Err(failed(format!("{}: written by a newer version (format {})", path.display(), manifest.version)));
    }
    let cluster = u128::from_str_radix(&manifest.cluster, 16);
    let cluster = cluster.map_err(|e| failed(format!("{}: its cluster: {e}", path.display())))?;
    let mut files = BTreeMap::new();
    for entry in &manifest.shards {
        let shard = ShardId(entry.shard);
        let file = SnapshotFile::open(&dir.join(file_name(shard)), Some(ClientId(cluster))).map_err(failed)?;
        file.verify(&mut Throttle::new(0)).map_err(failed)?;
        if format!("{:032x}", file.digest()) != entry.digest || file.header().shard != shard {
            return Err(failed(format!("{}: not the file that the manifest names", file.path().display())));
        }
        files.insert(shard, file);
    }
    Ok((manifest, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClientId = ClientId(7);

    fn half(dir: &Path) {
        let mut folder = Folder::open(dir, Half::Refuse).unwrap();
        folder.begin(CLUSTER).unwrap();
        fs::write(dir.join("shard-1.snap"), "no snapshot").unwrap();
    }

    #[test]
    fn half_a_backup_is_named_and_goes_on_or_begins_anew() {
        let room = tempfile::tempdir().unwrap();
        let dir = room.path().join("half");
        half(&dir);
        let refused = Folder::open(&dir, Half::Refuse).err().unwrap();
        assert!(
            refused.message().contains("an unfinished backup") && refused.message().contains("--resume"),
            "{refused}"
        );
        assert!(open(&dir).err().unwrap().message().contains("the backup is unfinished"));
        let mut resumed = Folder::open(&dir, Half::Resume).unwrap();
        let other = resumed.begin(ClientId(8)).unwrap_err();
        assert!(
            other.message().contains("an unfinished backup of cluster 00000000000000000000000000000007"),
            "{other}"
        );
        drop(resumed);
        let mut resumed = Folder::open(&dir, Half::Resume).unwrap();
        resumed.begin(CLUSTER).unwrap();
        let busy = Folder::open(&dir, Half::Replace).err().unwrap();
        assert!(busy.message().contains("another backup is being written"), "{busy}");
        assert!(resumed.kept(ShardId(1), CLUSTER).unwrap().is_none(), "it is no snapshot");
        assert!(!dir.join("shard-1.snap").exists());
        resumed.finish(&Manifest::new(CLUSTER, Vec::new(), Vec::new(), None)).unwrap();
        assert_eq!(names(&dir).unwrap(), ["manifest.json"]);
        let whole = Folder::open(&dir, Half::Replace).err().unwrap();
        assert!(whole.message().contains("whole backup"), "{whole}");
    }

    #[test]
    fn a_folder_with_anything_else_is_left_alone() {
        let room = tempfile::tempdir().unwrap();
        for name in ["shard-x.snap", "notes", "shard-1.txt"] {
            half(room.path());
            fs::write(room.path().join(name), "mine").unwrap();
            for how in [Half::Refuse, Half::Resume, Half::Replace] {
                let refused = Folder::open(room.path(), how).err().unwrap();
                assert!(refused.message().contains(name), "{refused}");
            }
            fs::remove_file(room.path().join(name)).unwrap();
            let replaced = Folder::open(room.path(), Half::Replace).unwrap();
            assert_eq!(names(room.path()).unwrap(), [UNFINISHED]);
            replaced.left_behind(failed("x"));
            assert!(names(room.path()).unwrap().is_empty());
        }
    }

    #[test]
    fn a_manifest_that_older_binaries_would_misread_has_a_format_of_its_own() {
        let text = |dropped, later| serde_json::to_string(&Manifest::new(CLUSTER, Vec::new(), dropped, later)).unwrap();
        let all = text(Vec::new(), None);
        assert!(all.contains("\"version\":1") && !all.contains("dropped") && !all.contains("cluster_version"), "{all}");
        let some = text(vec![3], None);
        assert!(some.contains("\"version\":2"), "{some}");
        let across = text(vec![3], Some(ClusterVersion::SECOND));
        assert!(across.contains("\"version\":3") && across.contains("\"cluster_version\":2"), "{across}");
    }
}
