//! What the disk can sync.
//!
//! Owns: 4 KiB writes, each followed by `fdatasync`. Must never: run on a file system in memory unnoticed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

const BLOCK: usize = 4096;
/// Blocks that are written over and over, as the log's recycled files are.
const BLOCKS: u64 = 16 << 10;

/// Synced writes of some writers at once.
#[derive(Clone, Debug, Serialize)]
pub struct Syncs {
    /// Writers, each with a file and a thread of its own.
    pub writers: usize,
    /// Whether they append, which changes the file's length each time, or write over what is there.
    pub appending: bool,
    /// Writes a second, all writers together.
    pub per_s: f64,
    /// Write and sync, microseconds.
    pub p50_us: u64,
    /// 99 % are no slower.
    pub p99_us: u64,
    /// 99.9 % are no slower.
    pub p99_9_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Measures for a time.
///
/// # Errors
/// The files cannot be written.
pub fn syncs(dir: &Path, writers: usize, appending: bool, time: Duration) -> io::Result<Syncs> {
    let measured = std::thread::scope(|scope| {
        let one = |n: usize| scope.spawn(move || writer(&dir.join(format!("sync-{n}")), appending, time));
        let threads: Vec<_> = (0..writers).map(one).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, io::Result<Histogram<u64>>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
        };
        threads.into_iter().map(ended).collect::<io::Result<Vec<_>>>()
    })?;
    let mut all = empty()?;
    for one in &measured {
        all.add(one).map_err(io::Error::other)?;
    }
    Ok(Syncs {
        writers,
        appending,
        per_s: all.len() as f64 / time.as_secs_f64(),
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
        p99_9_us: all.value_at_quantile(0.999),
        max_us: all.max(),
    })
}

fn empty() -> io::Result<Histogram<u64>> {
    Histogram::new(3).map_err(io::Error::other)
}

fn writer(path: &Path, appending: bool, time: Duration) -> io::Result<Histogram<u64>> {
    let mut file = File::create(path)?;
    let block = [0x5a; BLOCK];
    if !appending {
        let many = vec![0x5a; 64 * BLOCK];
        for _ in 0..BLOCKS / 64 {
            file.write_all(&many)?;
        }
        file.sync_all()?;
    }
    let mut times = empty()?;
    let started = Instant::now();
    for n in 0u64.. {
        if started.elapsed() >= time {
            break;
        }
        if !appending && n % BLOCKS == 0 {
            file.seek(SeekFrom::Start(0))?;
        }
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        // A histogram made without bounds grows with what it is given.
        let _ = times.record((begun.elapsed().as_micros() as u64).max(1));
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_counted_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (writers, appending) in [(1, true), (2, false)] {
            let found = syncs(dir.path(), writers, appending, Duration::from_millis(50)).unwrap();
            assert!(found.per_s > 0.0 && found.p50_us <= found.p99_us && found.p99_us <= found.max_us, "{found:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(syncs(Path::new("/no/such"), 1, true, Duration::from_millis(1)).is_err());
    }
}
