//! The clocks of the machine: the monotone one, by which a node measures, and the wall clock, by which it dates.
//!
//! Owns: every reading of a clock that a node makes to hand to its workers or to other nodes. Must never: decide what a
//! reading means.

use crate::writer::Clock;
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synod_paxos::types::Micros;

/// Runs on while the machine sleeps: else a leader that slept would take its lease for good.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
/// Elsewhere it may not, and leases are off by default.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

fn clock() -> Duration {
    Duration::from(clock_gettime(CLOCK).expect("the kernel has this clock"))
}

/// The monotone clock of a node: microseconds since it was made, those of a suspended machine among them.
#[derive(Clone, Copy, Debug)]
pub struct MonotoneClock(Duration);

impl Default for MonotoneClock {
    fn default() -> Self {
        Self(clock())
    }
}

impl MonotoneClock {
    /// Now; never 0.
    #[must_use]
    pub fn now(&self) -> Micros {
        Micros(u64::try_from(clock().saturating_sub(self.0).as_micros()).unwrap_or(u64::MAX).saturating_add(1))
    }

    /// The clock as the log writer and the metrics take it.
    #[must_use]
    pub fn shared(self) -> Clock {
        Arc::new(move || self.now())
    }
}

/// The wall clock, µs since 1970.
#[must_use]
pub fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
