//! Room on the disk under the data directory: two marks and a reserve.
//!
//! Owns: the reserve file, and what is said of the room that is left. Must never: take room while the disk is below its low
//! mark, or let the node run on below the hard one.
//!
//! Below the low mark the worker hands leaderships over and refuses writes that need room; what frees room goes on. Below
//! the hard mark the reserve is given back, so that the last flush and the next start have something to work in, and the
//! node goes down in order: a write that fails for want of room would end it anyway, at a moment of its own choosing.
//!
//! A compaction needs as much room as it takes in, and does not ask. So a low mark that is not set rises where the largest one
//! that may begin, and what is still to be flushed, need more than lies between the marks: writes end before compactions do.

use crate::config::Storage;
use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use prometheus::{IntGauge, Registry};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use synod_engine::logstore::rocks::LogOptions;

/// The reserve's file in the data directory.
const RESERVE: &str = "reserve";
/// Interval between looks at the disk while there is room.
const PACE: Duration = Duration::from_millis(200);
/// The same while it is low: the hard mark must be seen before a write fails.
const PACE_LOW: Duration = Duration::from_millis(20);
/// Low is left only once so much more than the low mark is free, as a part of it, so that it is not left and entered in turn.
const HYSTERESIS: u64 = 16;
/// What compactions may take is asked for only where no more than this is left above the marks: listing the files takes time.
const ASKED_BELOW: u64 = 4 << 30;

/// The marks in force, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    low: u64,
    hard: u64,
    reserve: u64,
}

impl Marks {
    /// The marks that are set, and for those that are not the defaults on a file system of `total` bytes.
    #[must_use]
    pub fn of(storage: &Storage, total: u64) -> Self {
        let or = |set: Option<ByteSize>, most: ByteSize, part: u64| {
            set.map_or_else(|| most.as_u64().min(total / part), |size| size.as_u64())
        };
        let hard = or(storage.disk_hard, ByteSize::mib(256), 40);
        let low = or(storage.disk_low, ByteSize::gib(1), 10).max(hard);
        Self { low, hard, reserve: or(storage.disk_reserve, ByteSize::mib(128), 50) }
    }
}

/// What of the room is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    Enough,
    /// Less than the low mark; in words.
    Low(Arc<str>),
    /// Less than the hard mark; in words.
    Hard(String),
}

/// What a compaction may take, bytes.
type Largest = Box<dyn Fn() -> u64 + Send>;

/// What the stores may take once nothing more is accepted.
struct Needs {
    /// By what is flushed, bytes.
    flushed: u64,
    compacted: Largest,
    /// When `compacted` was asked last, and what it said.
    last: Option<(Instant, u64)>,
}

impl Needs {
    /// Bytes; not older than [`PACE`].
    fn bytes(&mut self) -> u64 {
        let fresh = self.last.filter(|(when, _)| when.elapsed() < PACE);
        let (when, compacted) = fresh.unwrap_or_else(|| (Instant::now(), (self.compacted)()));
        self.last = Some((when, compacted));
        self.flushed + compacted
    }
}

/// The disk under a data directory.
pub struct Disk {
    dir: PathBuf,
    total: u64,
    marks: Marks,
    /// What the low mark rises by; none where it is set, or before the stores are open.
    needs: Option<Needs>,
    low_is_set: bool,
    free: IntGauge,
    low: bool,
    spare: Spare,
}

/// What may still be taken before the hard mark, bytes; as it was when the disk was last looked at.
#[derive(Clone, Default)]
pub struct Spare(Arc<Seen>);

/// What a look at the disk has shown, bytes.
#[derive(Default)]
struct Seen {
    spare: AtomicU64,
    free: AtomicU64,
    total: AtomicU64,
}

impl Spare {
    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.spare.load(Ordering::Relaxed)
    }

    /// What is free of the file system, bytes.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.0.free.load(Ordering::Relaxed)
    }

    /// Its size, bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.spare.store(bytes, Ordering::Relaxed);
    }

    fn saw(&self, free: u64, total: u64) {
        self.0.free.store(free, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }
}

impl Disk {
    /// Looks at the disk before anything is opened on it.
    ///
    /// # Errors
    /// It cannot be looked at, or has less room than the hard mark.
    pub fn open(dir: &Path, storage: &Storage) -> Result<Self> {
        let (free, total) = room(dir)?;
        let marks = Marks::of(storage, total);
        let gauge = IntGauge::new("synod_disk_free_bytes", "Room left on the disk under the data directory, in bytes")?;
        let disk = Self {
            dir: dir.to_path_buf(),
            total,
            marks,
            needs: None,
            low_is_set: storage.disk_low.is_some(),
            free: gauge,
            low: false,
            spare: Spare::default(),
        };
        if free < marks.hard {
            bail!("{}", disk.hard_words(free));
        }
        disk.spare.set(free - marks.hard);
        disk.spare.saw(free, total);
        let step = LogOptions::default().on_disk_of(total).step_bytes();
        if disk.low_is_set && marks.hard > 0 && marks.low - marks.hard < step {
            tracing::warn!(
                "storage.disk_low = {} and storage.disk_hard = {} are less than {} apart, which the log's files can take at \
                 once: the node may go down before it has refused anything; a low mark that is not set leaves enough",
                size(marks.low),
                size(marks.hard),
                size(step)
            );
        }
        Ok(disk)
    }

    /// What may still be taken, followed while the disk is watched.
    #[must_use]
    pub fn spare(&self) -> Spare {
        self.spare.clone()
    }

    /// The size of the file system, bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// From now on a low mark that is not set leaves room for what the stores may still take: `flushed` bytes by flushes, and what
    /// the largest compaction takes.
    pub fn allow_for(&mut self, flushed: u64, compacted: impl Fn() -> u64 + Send + 'static) {
        self.needs = (!self.low_is_set).then(|| Needs { flushed, compacted: Box::new(compacted), last: None });
    }

    /// The low mark now, bytes.
    fn low_mark(&mut self, free: u64) -> u64 {
        let Marks { low, hard, .. } = self.marks;
        match &mut self.needs {
            Some(needs) if free < low + ASKED_BELOW => low.max(hard + needs.bytes()),
            _ => low,
        }
    }

    /// Makes `/metrics` show the room.
    ///
    /// # Errors
    /// The registry holds metrics of the same name.
    pub fn register(&self, registry: &Registry) -> Result<()> {
        Ok(registry.register(Box::new(self.free.clone()))?)
    }

    /// Watches the disk until it has less room than its hard mark, on a thread of its own: looking at a disk may hang.
    /// `low` hears of each change and says whether it could be handed on; `spare` hears, again and again while it is low, how
    /// much may still be taken; `hard` hears the words once, in the end.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(
        mut self,
        low: impl Fn(Option<Arc<str>>) -> bool + Send + 'static,
        spare: impl Fn(u64) + Send + 'static,
        hard: impl FnOnce(String) + Send + 'static,
    ) -> Result<()> {
        let watching = move || {
            // Whether all workers know what the last look showed.
            let mut known = true;
            loop {
                let was = self.low;
                known = match self.look() {
                    Ok(Room::Enough) => (known && !was) || low(None),
                    Ok(Room::Low(why)) => (known && was) || low(Some(why)),
                    Ok(Room::Hard(why)) => return hard(why),
                    Err(error) => {
                        tracing::warn!("{error:#}");
                        known
                    }
                };
                if self.low {
                    spare(self.spare.bytes());
                }
                std::thread::sleep(if self.low { PACE_LOW } else { PACE });
            }
        };
        std::thread::Builder::new().name("disk".into()).spawn(watching).context("cannot start the disk's watcher")?;
        Ok(())
    }

    /// Looks once. Keeps the reserve where there is room for it, and gives it back at the hard mark.
    fn look(&mut self) -> Result<Room> {
        let (free, total) = room(&self.dir)?;
        self.spare.saw(free, total);
        self.free.set(i64::try_from(free).unwrap_or(i64::MAX));
        let low = self.low_mark(free);
        let Marks { hard, reserve, .. } = self.marks;
        if free < hard {
            let file = self.dir.join(RESERVE);
            let freed = std::fs::remove_file(&file).is_ok();
            let words = self.hard_words(free);
            let reserve =
                if freed { format!("; the reserve of {} was given back", size(reserve)) } else { String::new() };
            self.spare.set(0);
            return Ok(Room::Hard(format!("{words}{reserve}")));
        }
        self.spare.set(free - hard);
        self.low = free < if self.low { low + low / HYSTERESIS } else { low };
        if self.low {
            let dir = self.dir.display();
            let raised = if low > self.marks.low { " (not set: as much as compactions may need)" } else { "" };
            let words = format!(
                "{} left on the disk under {dir}, less than storage.disk_low = {}{raised}: only deletions and trims are taken",
                size(free),
                size(low)
            );
            return Ok(Room::Low(words.into()));
        }
        if free > low + low / HYSTERESIS + reserve
            && let Err(error) = keep_reserve(&self.dir.join(RESERVE), reserve)
        {
            tracing::warn!("cannot keep a reserve of {} in {}: {error}", size(reserve), self.dir.display());
        }
        Ok(Room::Enough)
    }

    fn hard_words(&self, free: u64) -> String {
        format!(
            "{} left on the disk under {}, less than storage.disk_hard = {}: the node does not run; make room there, or lower \
             the mark for as long as records are deleted or trimmed",
            size(free),
            self.dir.display(),
            size(self.marks.hard)
        )
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// (free for this user, total) bytes.
fn room(dir: &Path) -> Result<(u64, u64)> {
    let stat = statvfs(dir).with_context(|| format!("cannot see how much room is left under {}", dir.display()))?;
    let unit = stat.fragment_size();
    Ok((stat.blocks_available() * unit, stat.blocks() * unit))
}

/// Makes the reserve's file hold `bytes`.
fn keep_reserve(path: &Path, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 || path.metadata().is_ok_and(|meta| meta.len() == bytes) {
        return Ok(());
    }
    let made =
        OpenOptions::new().create(true).truncate(true).write(true).open(path).and_then(|file| fill(&file, bytes));
    if made.is_err() {
        // Half a reserve would be taken for none the next time; the room is better free.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn fill(file: &File, bytes: u64) -> std::io::Result<()> {
    let length = i64::try_from(bytes).map_err(std::io::Error::other)?;
    posix_fallocate(file, 0, length)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(low: u64, hard: u64, reserve: u64) -> Storage {
        Storage {
            disk_low: Some(ByteSize(low)),
            disk_hard: Some(ByteSize(hard)),
            disk_reserve: Some(ByteSize(reserve)),
            ..Storage::default()
        }
    }

    #[test]
    fn marks_shrink_with_a_small_disk() {
        let (gib, mib) = (1 << 30, 1 << 20);
        assert_eq!(Marks::of(&Storage::default(), 100 * gib), Marks { low: gib, hard: 256 * mib, reserve: 128 * mib });
        assert_eq!(
            Marks::of(&Storage::default(), 400 * mib),
            Marks { low: 40 * mib, hard: 10 * mib, reserve: 8 * mib }
        );
        let raised = Storage { disk_hard: Some(ByteSize::gib(2)), ..Storage::default() };
        assert_eq!(Marks::of(&raised, 100 * gib).low, 2 * gib, "low is never below hard");
    }

    #[test]
    fn each_mark_does_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = dir.path().join(RESERVE);
        let mut disk = Disk::open(dir.path(), &storage(2, 1, 65_536)).unwrap();
        assert_eq!(disk.look().unwrap(), Room::Enough);
        assert_eq!(reserve.metadata().unwrap().len(), 65_536, "the reserve is kept");

        disk.marks.low = 1 << 60;
        let Room::Low(why) = disk.look().unwrap() else { panic!("low") };
        assert!(why.contains("storage.disk_low = 1.0 EiB"), "{why}");
        assert!(reserve.exists(), "the reserve outlives the low mark");

        disk.marks.hard = 1 << 60;
        let Room::Hard(why) = disk.look().unwrap() else { panic!("hard") };
        assert!(why.contains("storage.disk_hard") && why.contains("the reserve of 64.0 KiB was given back"), "{why}");
        assert!(!reserve.exists());

        let refused = Disk::open(dir.path(), &storage(1 << 60, 1 << 60, 0)).err().unwrap().to_string();
        assert!(refused.contains("the node does not run"), "{refused}");
    }

    #[test]
    fn a_low_mark_that_is_not_set_leaves_room_for_compactions() {
        let dir = tempfile::tempdir().unwrap();
        let (free, _) = room(dir.path()).unwrap();
        let mut unset = Disk::open(dir.path(), &Storage { disk_low: None, ..storage(0, 1, 0) }).unwrap();
        unset.marks.low = 2;
        assert_eq!(unset.look().unwrap(), Room::Enough);
        unset.marks.low = free.saturating_sub(ASKED_BELOW / 2);
        unset.allow_for(free, || 1);
        let Room::Low(why) = unset.look().unwrap() else { panic!("low") };
        assert!(why.contains("as much as compactions may need"), "{why}");

        let mut set = Disk::open(dir.path(), &storage(2, 1, 0)).unwrap();
        set.marks.low = free.saturating_sub(ASKED_BELOW / 2);
        set.allow_for(free, || 1);
        assert_eq!(set.look().unwrap(), Room::Enough, "a mark that is set stays");
    }

    #[test]
    fn low_is_left_with_some_distance() {
        let dir = tempfile::tempdir().unwrap();
        let (free, _) = room(dir.path()).unwrap();
        let mut disk = Disk::open(dir.path(), &storage(free * 2, 0, 0)).unwrap();
        assert!(matches!(disk.look().unwrap(), Room::Low(_)));
        disk.marks.low = free - free / 32;
        assert!(matches!(disk.look().unwrap(), Room::Low(_)), "just above the mark it is still low");
        disk.marks.low = free / 2;
        assert_eq!(disk.look().unwrap(), Room::Enough);
    }
}
