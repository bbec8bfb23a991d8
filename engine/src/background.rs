//! Work on files that yields to work that somebody waits for.
//!
//! Owns: the priority of threads in the background, and the rests between the pieces of a flush. Must never: let a flush rest that
//! somebody waits for, or decide what is written and in which order.
//!
//! A flush writes tens of megabytes. Written as fast as it can be, it takes a core and fills the disk's queue; the syncs of the log wait
//! in between.

use std::time::{Duration, Instant};

/// The nice value of threads in the background (sched(7)): one of them gets about a third of what a usual thread gets where all
/// cores are busy, so that it goes on at any load. Threads that a worker may come to wait for are none of them: nobody can give them the
/// usual priority back in time.
const NICE: i32 = 5;
/// Bytes of rows between two rests.
const PIECE_BYTES: usize = 256 << 10;
/// A rest, as a multiple of the time that the piece took.
const RESTS: u32 = 3;
/// The longest rest: a flush that is waited for from now on goes on after it.
const REST_MAX: Duration = Duration::from_millis(20);

/// Lowers the priority of the calling thread. Without the right to do so it stays as it is: priorities are no promise.
pub fn lower_priority() {
    // Linux takes a thread for a process here (setpriority(2), "C library/kernel differences").
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("the priority of a thread in the background could not be lowered: {error}");
    }
}

/// The rests of one flush.
pub(crate) struct Rests<'a> {
    /// Whether somebody waits for the flush.
    hurry: &'a dyn Fn() -> bool,
    bytes: usize,
    began: Instant,
}

impl<'a> Rests<'a> {
    /// Rests while `hurry` says that nobody waits.
    pub(crate) fn unless(hurry: &'a dyn Fn() -> bool) -> Self {
        Self { hurry, bytes: 0, began: Instant::now() }
    }

    /// So many bytes more were written: rests after each piece.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < PIECE_BYTES {
            return;
        }
        self.bytes = 0;
        if !(self.hurry)() {
            std::thread::sleep((self.began.elapsed() * RESTS).min(REST_MAX));
        }
        self.began = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to write eight pieces, each of which takes 5 ms.
    fn eight_pieces(hurry: bool) -> Duration {
        let hurry = || hurry;
        let began = Instant::now();
        let mut rests = Rests::unless(&hurry);
        for _ in 0..16 {
            rests.wrote(PIECE_BYTES / 2 - 1);
            std::thread::sleep(Duration::from_micros(2500));
            rests.wrote(1);
        }
        began.elapsed()
    }

    #[test]
    fn a_flush_rests_after_each_piece_unless_it_is_waited_for() {
        let (rested, hurried) = (eight_pieces(false), eight_pieces(true));
        assert!(rested >= hurried + 8 * Duration::from_millis(10), "{rested:?} and {hurried:?}");
    }

    #[test]
    fn a_thread_of_low_priority_lowers_no_other() {
        let nice = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Field 19 (proc(5)), counted after the name in parentheses, which is field 2.
        let nice = move || nice().rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse::<i32>().unwrap();
        let before = nice();
        let lowered = std::thread::spawn(move || {
            lower_priority();
            nice()
        });
        assert_eq!(lowered.join().unwrap(), before.max(NICE));
        assert_eq!(nice(), before);
    }
}
