//! Large ranges that were removed and still take room.
//!
//! Owns: which they are, and about how much room their rows take. Must never: grow without a bound.

use super::rows::Span;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bytes of files from which on a range is large.
pub(super) const LARGE_BYTES: u64 = 8 << 20;
/// Ranges remembered; beyond that the oldest is left to other compactions.
const RANGES_MAX: usize = 1024;

/// Large ranges that were removed and flushed.
#[derive(Default)]
pub(super) struct Removed {
    ranges: Mutex<VecDeque<Span>>,
    /// What their rows took when last looked at, bytes.
    left: AtomicU64,
}

impl Removed {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.ranges.lock().expect("no holder of this lock panics")
    }

    /// A range was flushed whose rows take `bytes` bytes.
    pub(super) fn add(&self, range: &Span, bytes: u64) {
        if bytes < LARGE_BYTES {
            return;
        }
        let mut ranges = self.lock();
        if ranges.len() >= RANGES_MAX {
            ranges.pop_front();
        }
        ranges.push_back(range.clone());
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What is left of the rows of large ranges, bytes, about.
    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<Span> {
        self.lock().front().cloned()
    }

    /// The first range is done; `size_of` tells what is left of the others.
    pub(super) fn done(&self, range: &Span, size_of: impl Fn(&Span) -> u64) {
        let mut ranges = self.lock();
        if ranges.front() == Some(range) {
            ranges.pop_front();
        }
        let left = ranges.iter().map(size_of).sum();
        self.left.store(left, Ordering::Relaxed);
    }
}
