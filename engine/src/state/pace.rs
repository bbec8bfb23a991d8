//! Slows what a worker applies while compaction lags.
//!
//! Owns: how long rows wait for how full level 0 is. Must never: ask for a long wait at once, since the shards' readers wait for
//! what is applied; nothing else that the worker does waits.
//!
//! Without it rows are taken as fast as memory takes them until level 0 is full and every freeze has to wait: then nothing is
//! applied for as long as a compaction takes, 15 s with a hundred million small rows. What waits a little for each byte makes room
//! for compaction early, and settles where both are equally fast. RocksDB does the like for its own memtables, not for files that
//! it is handed.

use crate::StoreError;
use std::time::Duration;

/// Level 0 is looked at each time so many bytes were applied.
const LOOK_BYTES: usize = 64 << 10;
/// What a byte waits where level 0 is full, ns: a megabyte a second goes on being applied.
const FULL_NANOS: u64 = 1_000;
/// Shorter waits are gathered.
const LEAST: Duration = Duration::from_millis(1);
/// No wait at once is longer, and no more than five of them are owed.
const MOST: Duration = Duration::from_millis(20);

/// The pace of one worker.
pub(super) struct Pace {
    /// Files in level 0 at which it is full.
    full: u64,
    /// Bytes left that wait for nothing.
    free: usize,
    unlooked: usize,
    byte_nanos: u64,
    owed: Duration,
}

impl Pace {
    /// Nothing waits while level 0 holds less than three eighths of `full` files, nor do the first `free` bytes: a start replays
    /// no more, and what it waits for nobody is served.
    pub(super) fn new(full: u64, free: usize) -> Self {
        Self { full, free, unlooked: LOOK_BYTES, byte_nanos: 0, owed: Duration::ZERO }
    }

    /// So many bytes were applied, with so many `files` in level 0: how long to wait before more are.
    pub(super) fn applied(
        &mut self,
        bytes: usize,
        files: impl FnOnce() -> Result<u64, StoreError>,
    ) -> Result<Option<Duration>, StoreError> {
        if self.free > 0 {
            self.free = self.free.saturating_sub(bytes);
            return Ok(None);
        }
        self.unlooked += bytes;
        if self.unlooked >= LOOK_BYTES {
            self.unlooked = 0;
            self.byte_nanos = self.nanos(files()?);
        }
        if self.byte_nanos == 0 {
            self.owed = Duration::ZERO;
            return Ok(None);
        }
        let more = Duration::from_nanos(self.byte_nanos.saturating_mul(bytes as u64));
        self.owed = self.owed.saturating_add(more).min(5 * MOST);
        if self.owed < LEAST {
            return Ok(None);
        }
        let wait = self.owed.min(MOST);
        self.owed -= wait;
        Ok(Some(wait))
    }

    fn nanos(&self, files: u64) -> u64 {
        let from = self.full * 3 / 8;
        let room = (self.full - from).max(1);
        FULL_NANOS * files.saturating_sub(from).min(room) / room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `bytes`, applied in pieces of 16 KiB, wait in all, and the longest wait, with so many of 64 files in level 0.
    fn waits(bytes: usize, files: u64) -> (Duration, Duration) {
        let mut pace = Pace::new(64, 0);
        let mut waits = Vec::new();
        for _ in 0..bytes >> 14 {
            waits.extend(pace.applied(1 << 14, || Ok(files)).unwrap());
        }
        (waits.iter().sum(), waits.into_iter().max().unwrap_or_default())
    }

    #[test]
    fn the_fuller_level_zero_the_longer_a_byte_waits() {
        assert_eq!(waits(64 << 20, 24), (Duration::ZERO, Duration::ZERO));
        let (few, _) = waits(64 << 20, 28);
        let (half, _) = waits(64 << 20, 44);
        let (full, longest) = waits(64 << 20, 64);
        // 64 MiB at a tenth, a half and the whole of a microsecond a byte.
        assert!(few.as_secs() == 6 && half.as_secs() == 33 && full.as_secs() == 67, "{few:?} {half:?} {full:?}");
        assert_eq!(waits(64 << 20, 1_000).0, full);
        assert!(longest <= MOST);
    }

    #[test]
    fn what_a_start_replays_waits_for_nothing() {
        let mut pace = Pace::new(64, 1 << 20);
        for _ in 0..2 {
            assert_eq!(pace.applied(1 << 19, || Ok(64)).unwrap(), None);
        }
        assert_eq!(pace.applied(1 << 19, || Ok(64)).unwrap(), Some(MOST));
    }

    #[test]
    fn what_is_owed_is_forgotten_once_there_is_room() {
        let mut pace = Pace::new(64, 0);
        assert_eq!(pace.applied(1 << 30, || Ok(64)).unwrap(), Some(MOST));
        assert_eq!(pace.applied(LOOK_BYTES, || Ok(0)).unwrap(), None);
        assert_eq!(pace.applied(1, || panic!("looked at too soon")).unwrap(), None);
    }
}
