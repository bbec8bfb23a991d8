//! Snapshot files on a simulated disk.
//!
//! Owns: bytes and names, which of them are durable, and what each operation costs. Must never: keep at a crash what a
//! process had not yet done, or lose what it had synced.
//!
//! A file is what is durable of it and the writes since; so are the names. A crash keeps any first part of the names'
//! changes, and of each file's writes none, all, or some with the last one torn.

use super::NodeDisk;
use crate::clock::Cursor;
use crate::dice::Dice;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use synod_engine::snapshot::files::{FileStore, StoredFile};

/// What was done and is not yet durable: each step with its time, and how far the syncs under way reach.
struct Journal<T> {
    steps: Vec<(u64, u64, T)>,
    number: u64,
    /// Ends at, covers steps below.
    syncs: Vec<(u64, u64)>,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self { steps: Vec::new(), number: 0, syncs: Vec::new() }
    }
}

impl<T> Journal<T> {
    fn push(&mut self, at: u64, step: T) {
        self.steps.push((self.number, at, step));
        self.number += 1;
    }

    fn sync(&mut self, ends: u64) {
        self.syncs.push((ends, self.number));
    }

    /// Takes out what is durable by `at`.
    fn settle(&mut self, at: u64) -> Vec<T> {
        let ended = |(ends, _): &(u64, u64)| *ends <= at;
        let covered = self.syncs.iter().filter(|s| ended(s)).map(|(_, below)| *below).max().unwrap_or(0);
        self.syncs.retain(|sync| !ended(sync));
        let steps = std::mem::take(&mut self.steps);
        let (done, left) = steps.into_iter().partition(|(number, when, _)| *number < covered && *when <= at);
        self.steps = left;
        done.into_iter().map(|(_, _, step)| step).collect()
    }

    /// Takes out what was done by `at`, in the order of time; the rest never was.
    fn rest(&mut self, at: u64) -> Vec<T> {
        self.syncs.clear();
        let mut steps = std::mem::take(&mut self.steps);
        steps.retain(|(_, when, _)| *when <= at);
        steps.sort_by_key(|(number, when, _)| (*when, *number));
        steps.into_iter().map(|(_, _, step)| step).collect()
    }
}

#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Cut(usize),
}

impl Write {
    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, new) => {
                let end = at + new.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(new);
            }
            Self::Cut(len) => bytes.resize(*len, 0),
        }
    }
}

#[derive(Default)]
struct Contents {
    durable: Vec<u8>,
    now: Vec<u8>,
    journal: Journal<Write>,
}

enum Naming {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

type Names = BTreeMap<PathBuf, u64>;

impl Naming {
    fn make(&self, names: &mut Names) {
        match self {
            Self::Link(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Unlink(path) => drop(names.remove(path)),
        }
    }
}

/// The files of a disk.
#[derive(Default)]
pub(crate) struct Files {
    contents: BTreeMap<u64, Contents>,
    last: u64,
    names: Names,
    durable_names: Names,
    journal: Journal<Naming>,
    /// An operation takes so long, µs.
    pub(crate) time: (u64, u64),
    /// Rows gathered into a chunk, bytes.
    pub(crate) gather_bytes: usize,
    /// The next operation fails.
    pub(crate) fail: bool,
}

/// What a crash did to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LostFiles {
    pub(crate) vanished: u64,
    pub(crate) torn: u64,
    pub(crate) kept: u64,
    pub(crate) names: u64,
}

impl Files {
    /// The process or its machine stops at `at`.
    pub(crate) fn crash(&mut self, at: u64, dice: &mut Dice) -> LostFiles {
        let mut lost = LostFiles::default();
        self.fail = false;
        let Self { journal, durable_names, .. } = self;
        journal.settle(at).iter().for_each(|step| step.make(durable_names));
        let rest = journal.rest(at);
        let kept = if rest.is_empty() { 0 } else { dice.below(rest.len() as u64 + 1) as usize };
        rest[..kept].iter().for_each(|step| step.make(durable_names));
        lost.names = (rest.len() - kept) as u64;
        self.names = self.durable_names.clone();
        let names = &self.names;
        self.contents.retain(|file, _| names.values().any(|named| named == file));
        for contents in self.contents.values_mut() {
            contents.crash(at, dice, &mut lost);
        }
        lost
    }

    /// Everything goes.
    pub(crate) fn wipe(&mut self) {
        (self.contents, self.names, self.durable_names, self.journal) = Default::default();
    }

    /// Flips a bit of some file; whether there was one.
    pub(crate) fn flip(&mut self, dice: &mut Dice) -> bool {
        let named: Vec<PathBuf> = self.names.keys().cloned().collect();
        dice.pick(&named).is_some_and(|path| self.flip_in(&path, dice))
    }

    /// Flips a bit of this file; whether there was one.
    pub(crate) fn flip_in(&mut self, path: &Path, dice: &mut Dice) -> bool {
        let Some(contents) = self.names.get(path).and_then(|file| self.contents.get_mut(file)) else { return false };
        if contents.now.is_empty() {
            return false;
        }
        let (byte, bit) = (dice.below(contents.now.len() as u64) as usize, 1 << dice.below(8));
        contents.now[byte] ^= bit;
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= bit;
        }
        true
    }
}

impl Contents {
    fn settle(&mut self, at: u64) {
        let Self { journal, durable, .. } = self;
        journal.settle(at).iter().for_each(|write| write.make(durable));
    }

    fn crash(&mut self, at: u64, dice: &mut Dice, lost: &mut LostFiles) {
        self.settle(at);
        let rest = self.journal.rest(at);
        if !rest.is_empty() {
            match dice.below(3) {
                0 => lost.vanished += 1,
                1 => {
                    rest.iter().for_each(|write| write.make(&mut self.durable));
                    lost.kept += 1;
                }
                _ => {
                    self.tear(&rest, dice);
                    lost.torn += 1;
                }
            }
        }
        self.now = self.durable.clone();
    }

    /// Some of the writes are there, and of the next a part; the file may have its length all the same.
    fn tear(&mut self, rest: &[Write], dice: &mut Dice) {
        let whole = dice.below(rest.len() as u64) as usize;
        rest[..whole].iter().for_each(|write| write.make(&mut self.durable));
        if let Write::Bytes(at, new) = &rest[whole] {
            let part = dice.below(new.len() as u64 + 1) as usize;
            Write::Bytes(*at, new[..part].to_vec()).make(&mut self.durable);
            if dice.chance(300) {
                let end = (at + new.len()).max(self.durable.len());
                self.durable.resize(end, 0);
            }
        }
    }
}

/// A process's way to the files of its disk. Its clock is that of the job which uses it.
#[derive(Clone)]
pub(crate) struct SimFiles {
    disk: NodeDisk,
    clock: Cursor,
}

impl SimFiles {
    pub(crate) fn new(disk: &NodeDisk, clock: &Cursor) -> Self {
        Self { disk: disk.clone(), clock: clock.clone() }
    }

    /// Does something that takes its time, or fails: `act` is given the time at which it ends.
    fn act<T>(&self, takes: bool, act: impl FnOnce(&mut Files, u64, u64) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        let took = if takes { disk.file_time() } else { 5 };
        if std::mem::take(&mut disk.files.fail) {
            return Err(io::Error::other("injected"));
        }
        let now = self.clock.get();
        self.clock.set(now + took);
        act(&mut disk.files, now, now + took)
    }

    fn file(&self, number: u64) -> Box<dyn StoredFile> {
        Box::new(SimFile { files: self.clone(), number })
    }
}

fn nothing_there() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Files {
    fn link(&mut self, now: u64, path: &Path) -> u64 {
        self.last += 1;
        self.contents.insert(self.last, Contents::default());
        self.naming(now, Naming::Link(path.to_path_buf(), self.last));
        self.last
    }

    fn naming(&mut self, now: u64, step: Naming) {
        step.make(&mut self.names);
        self.journal.push(now, step);
    }

    fn contents(&mut self, file: u64) -> &mut Contents {
        self.contents.get_mut(&file).expect("files go at a crash only, and with it those who hold them open")
    }
}

impl FileStore for SimFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.act(false, |files, now, _| Ok(files.link(now, path))).map(|number| self.file(number))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.act(false, |files, _, _| files.names.get(path).copied().ok_or_else(nothing_there)).map(|n| self.file(n))
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let number = self.act(false, |files, now, _| {
            let known = files.names.get(path).copied();
            Ok(known.unwrap_or_else(|| files.link(now, path)))
        });
        number.map(|number| self.file(number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(false, |files, now, _| {
            if !files.names.contains_key(from) {
                return Err(nothing_there());
            }
            files.naming(now, Naming::Rename(from.to_path_buf(), to.to_path_buf()));
            Ok(())
        })
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        self.act(true, |files, now, ends| {
            let Files { journal, durable_names, .. } = files;
            journal.settle(now).iter().for_each(|step| step.make(durable_names));
            journal.sync(ends);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.act(false, |files, now, _| {
            if !files.names.contains_key(path) {
                return Err(nothing_there());
            }
            files.naming(now, Naming::Unlink(path.to_path_buf()));
            Ok(())
        })
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.act(false, |files, _, _| {
            Ok(files.names.keys().filter(|p| p.parent() == Some(directory)).cloned().collect())
        })
    }

    fn gather_bytes(&self) -> usize {
        self.disk.lock().files.gather_bytes
    }
}

/// An open file.
struct SimFile {
    files: SimFiles,
    number: u64,
}

impl StoredFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        self.files.act(false, |files, _, _| Ok(files.contents(self.number).now.len() as u64))
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.files.act(false, |files, _, _| {
            let from = usize::try_from(at).map_err(io::Error::other)?;
            let found = files.contents(self.number).now.get(from..from + out.len());
            let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.files.act(true, |files, now, _| {
            let write = Write::Bytes(usize::try_from(at).map_err(io::Error::other)?, bytes.to_vec());
            let contents = files.contents(self.number);
            write.make(&mut contents.now);
            contents.journal.push(now, write);
            Ok(())
        })
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.files.act(false, |files, now, _| {
            let cut = Write::Cut(usize::try_from(bytes).map_err(io::Error::other)?);
            let contents = files.contents(self.number);
            cut.make(&mut contents.now);
            contents.journal.push(now, cut);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.files.act(true, |files, now, ends| {
            let contents = files.contents(self.number);
            contents.settle(now);
            contents.journal.sync(ends);
            Ok(())
        })
    }
}

impl fmt::Debug for SimFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated files")
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated file {}", self.number)
    }
}
