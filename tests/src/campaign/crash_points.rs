//! The named points at which a node is killed: a system call on a kind of file, just before it is carried out.
//!
//! Owns: their names and how each is chosen. Must never: name a point that the tracer's own words could not prove.
//!
//! The shipped binary holds no switch for faults. So a point is what it asks the kernel for: the tracer ends the process at
//! the Nth such call, which is then not carried out. What stands between two points is the same crash as the later of them.

use std::fs;
use std::path::{Path, PathBuf};

/// What is done so that a point is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: the default load goes on.
    Load,
    /// A table is created.
    Map,
    /// Large records are written to a table made for them: the state is flushed, compacted, and the log rolls over.
    Records,
    /// A node that was killed starts.
    Start,
    /// A node of a new cluster starts for the first time.
    First,
    /// The node makes a snapshot for one that was away.
    Make,
    /// The node was away, and receives and installs a snapshot.
    Receive,
}

/// The files that a point is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Files {
    /// Whatever the call is about: only one thing makes it.
    Any,
    /// This one, by its path in the data directory.
    Is(&'static str),
    /// Those of a folder with this prefix and suffix that are there.
    There(&'static str, &'static str, &'static str),
    /// Those of a folder with this prefix and suffix around the next numbers of RocksDB.
    Next(&'static str, &'static str, &'static str),
    /// The first of a folder with this suffix that comes to be: the tracer comes then.
    Like(&'static str, &'static str),
    /// Those of a folder with this prefix and suffix around small numbers: shards, or files since the start.
    Small(&'static str, &'static str, &'static str),
}

/// A point.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) call: &'static str,
    pub(super) files: Files,
    /// The crash is at one of the first so many such calls (of one thread).
    pub(super) within: u64,
    pub(super) stage: Stage,
}

const fn point(name: &'static str, call: &'static str, files: Files, within: u64, stage: Stage) -> Point {
    Point { name, call, files, within, stage }
}

use Files::{Any, Is, Like, Next, Small, There};
use Stage::{First, Load, Make, Map, Receive, Records, Start};

const STAGED: Files = Small("state/staging", "", ".sst");
const OWN_LOG: Files = There("log", "", ".log");
const NEXT_LOG: Files = Next("log", "", ".log");

/// All of them.
pub(super) static POINTS: [Point; 57] = [
    point("log: a batch is written", "write", OWN_LOG, 200, Load),
    point("log: a batch is synced", "fdatasync", OWN_LOG, 200, Load),
    point("network: a frame or an answer is sent", "writev", Any, 400, Load),
    point("network: a frame or a request is read", "recvfrom", Any, 400, Load),
    point("network: a connection is taken", "accept4", Any, 1, Load),
    point("map: the copy of the map is made anew", "openat", Is("map.bin"), 1, Map),
    point("map: the copy of the map is written", "write", Is("map.bin"), 1, Map),
    point("state: a sorted file is made", "openat", STAGED, 6, Records),
    point("state: a sorted file is written", "write", STAGED, 12, Records),
    point("state: a sorted file is synced", "fdatasync", STAGED, 6, Records),
    point("state: a sorted file is taken in", "link", STAGED, 6, Records),
    point("state: the name it was made under goes", "unlink", STAGED, 6, Records),
    point("state: MANIFEST is written", "write", There("state/db", "MANIFEST-", ""), 12, Records),
    point("state: MANIFEST is synced", "fdatasync", There("state/db", "MANIFEST-", ""), 12, Records),
    point("state: its directory is synced", "fsync", Is("state/db"), 6, Records),
    point("state: a compacted file is written", "write", Next("state/db", "", ".sst"), 12, Records),
    point("state: a compacted file is synced", "fdatasync", Next("state/db", "", ".sst"), 2, Records),
    point("state: what was compacted goes", "unlink", Next("state/db", "", ".sst"), 3, Records),
    point("log: the next file is made, at run time", "openat", NEXT_LOG, 1, Records),
    point("log: a table is written, at run time", "write", Next("log", "", ".sst"), 2, Records),
    point("log: MANIFEST is written, at run time", "write", There("log", "MANIFEST-", ""), 1, Records),
    point("log: an old file goes, at run time", "unlink", OWN_LOG, 1, Records),
    point("start: the log's next file is made", "openat", NEXT_LOG, 1, Start),
    point("start: what the log held is written to a table", "write", Next("log", "", ".sst"), 1, Start),
    point("start: that table is synced", "fdatasync", Next("log", "", ".sst"), 1, Start),
    point("start: the log's MANIFEST is made", "openat", Next("log", "MANIFEST-", ""), 1, Start),
    point("start: the log's MANIFEST is written", "write", Next("log", "MANIFEST-", ""), 4, Start),
    point("start: the log's MANIFEST is synced", "fdatasync", Next("log", "MANIFEST-", ""), 1, Start),
    point("start: the log's CURRENT is switched", "rename", Next("log", "", ".dbtmp"), 1, Start),
    point("start: the log's directory is synced", "fsync", Is("log"), 3, Start),
    point("start: the log's old file goes", "unlink", OWN_LOG, 1, Start),
    point("start: the log's old MANIFEST goes", "unlink", There("log", "MANIFEST-", ""), 1, Start),
    point("start: the incarnation is written", "write", NEXT_LOG, 2, Start),
    point("start: the incarnation is synced", "fdatasync", NEXT_LOG, 2, Start),
    point("start: what was staged or built is cleared away", "unlinkat", Any, 2, Start),
    point("start: the state's MANIFEST is made", "openat", Next("state/db", "MANIFEST-", ""), 1, Start),
    point("start: the state's CURRENT is switched", "rename", Next("state/db", "", ".dbtmp"), 1, Start),
    point("start: the state's old MANIFEST goes", "unlink", There("state/db", "MANIFEST-", ""), 1, Start),
    point("start: the reserve is made", "fallocate", Is("reserve"), 1, Start),
    point("start: the reserve is synced", "fsync", Is("reserve"), 1, Start),
    point("first start: the log's directory is made", "mkdir", Is("log"), 1, First),
    point("first start: the log's CURRENT is switched", "rename", Small("log", "00000", ".dbtmp"), 2, First),
    point("first start: the log's first rows are written", "write", Small("log", "00000", ".log"), 2, First),
    point("first start: the log's first rows are synced", "fdatasync", Small("log", "00000", ".log"), 2, First),
    point("first start: the founders are noted", "rename", Is("founders.json.new"), 1, First),
    point("first start: the state's format is noted", "rename", Is("state/FORMAT.new"), 1, First),
    point("first start: the state's CURRENT is switched", "rename", Small("state/db", "00000", ".dbtmp"), 2, First),
    // Its beginning, at least three parts, its end: a thread's calls are counted, and each snapshot has a thread of its own.
    point("snapshot: one is written", "pwrite64", Small("snapshots/built", "shard-", ".unfinished"), 4, Make),
    point("snapshot: one is synced", "fsync", Small("snapshots/built", "shard-", ".unfinished"), 1, Make),
    point("snapshot: one gets its name", "rename", Small("snapshots/built", "shard-", ".unfinished"), 1, Make),
    point("snapshot: the directory of those made is synced", "fsync", Is("snapshots/built"), 1, Make),
    point("snapshot: a part received is written", "pwrite64", Any, 10, Receive),
    point("snapshot: what was received is synced", "fsync", Like("snapshots/fetched", ".part"), 1, Receive),
    point("snapshot: what was received gets its name", "rename", Like("snapshots/fetched", ".part"), 1, Receive),
    point("snapshot: the directory of those received is synced", "fsync", Is("snapshots/fetched"), 1, Receive),
    point("snapshot: its rows are loaded", "link", STAGED, 3, Receive),
    point("snapshot: one that was installed goes", "unlink", Small("snapshots/fetched", "shard-", ".snap"), 1, Receive),
];

/// Further numbers that RocksDB may give a file before the point is reached.
const AHEAD: u64 = 120;
/// Shards, or files made since a start.
const SMALL: u64 = 120;

impl Stage {
    /// Whether a leader and a follower can both come to it. A snapshot is made by a leader and received by another.
    pub(super) const fn both(self) -> bool {
        !matches!(self, Stage::Make | Stage::Receive)
    }
}

impl Point {
    /// Whether the tracer must wait for a file to come to be.
    pub(super) fn waits(&self) -> bool {
        matches!(self.files, Like(..))
    }

    /// The paths that the tracer looks out for; none for all.
    pub(super) fn paths(&self, data: &Path) -> Vec<PathBuf> {
        let numbered = |folder: &str, prefix: &str, suffix: &str, number: u64, width: usize| {
            data.join(folder).join(format!("{prefix}{number:0width$}{suffix}"))
        };
        match self.files {
            Any => Vec::new(),
            Is(path) => vec![data.join(path)],
            Like(folder, suffix) => {
                let files = names(&data.join(folder)).into_iter().filter(|name| name.ends_with(suffix));
                files.map(|name| data.join(folder).join(name)).collect()
            }
            There(folder, prefix, suffix) => {
                let like = |name: &str| name.starts_with(prefix) && name.ends_with(suffix);
                names(&data.join(folder))
                    .into_iter()
                    .filter(|name| like(name))
                    .map(|n| data.join(folder).join(n))
                    .collect()
            }
            Next(folder, prefix, suffix) => {
                let last = names(&data.join(folder)).iter().filter_map(|name| number_in(name)).max().unwrap_or(0);
                (last + 1..=last + AHEAD).map(|number| numbered(folder, prefix, suffix, number, 6)).collect()
            }
            Small(folder, prefix, suffix) => {
                (0..SMALL).map(|number| numbered(folder, prefix, suffix, number, 0)).collect()
            }
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.file_name().into_string().ok()).collect()
}

fn number_in(name: &str) -> Option<u64> {
    let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    // Six digits are a file's; the names of old texts hold times.
    digits.parse().ok().filter(|_| digits.len() == 6)
}
