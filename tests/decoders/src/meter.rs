//! Memory that a decoder takes.
//!
//! Owns: the allocator of every binary that links this crate, and the bound on what a decoder may allocate. Must never: count
//! what another thread allocates.
//!
//! A length announced in the input must not be believed: what is allocated at once is bounded by the input's own length.

#![allow(unsafe_code, reason = "an allocator is an unsafe trait; it hands every call on to the system's as it came")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Most bytes allocated at once for one byte of input. The most a sound decoder needs: two bytes of a row, an empty key and
/// an empty value, become two `Bytes` of 32 bytes in a list that doubles as it grows; two bytes of protobuf become a whole
/// message; three bytes of JSON or TOML a node of a map.
pub const PER_BYTE: usize = 512;
/// Allocated whatever the input: read buffers, hash states, the messages of errors.
pub const FLOOR: usize = 1 << 20;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// What is allocated now and what was at most, bytes, since the last `begin` of this thread.
    static USED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    // At the end of a thread there is nothing left to count in.
    let _ = USED.try_with(|used| {
        let (now, most) = used.get();
        let now = now.wrapping_add(change);
        used.set((now, most.max(now)));
    });
}

fn size(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every method returns what the system's allocator returns for the same arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(size(new));
        count(-size(layout.size()));
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(at, layout, new) }
    }
}

/// Runs `decode` on an input of so many bytes, and holds what it allocates to the bound.
///
/// # Panics
/// It allocated more.
pub fn bounded<T>(bytes: usize, decode: impl FnOnce() -> T) -> T {
    USED.set((0, 0));
    let result = decode();
    let (_, most) = USED.get();
    let allowed = FLOOR + PER_BYTE * bytes;
    assert!(most <= size(allowed), "{most} bytes allocated for an input of {bytes} bytes; {allowed} allowed");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_length_that_is_believed_is_found_out() {
        assert_eq!(bounded(10, || vec![0u8; 1000].len()), 1000);
        let believed = std::panic::catch_unwind(|| bounded(10, || Vec::<u8>::with_capacity(8 << 20).capacity()));
        assert!(believed.is_err());
    }
}
