//! Time: one virtual clock for the world, and each node's own view of it.
//!
//! Owns: offsets and drift. Must never: look at the machine's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_engine::writer::Clock;
use synod_paxos::types::Micros;

/// What the nodes' wall clocks show when the world begins, µs.
pub(crate) const WALL_US: u64 = 1_700_000_000_000_000;

/// A process's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    /// World time of the process's start, µs.
    pub(crate) boot: u64,
    /// Its oscillator's error, parts per million.
    pub(crate) ppm: i64,
    /// Its wall clock's error, µs, and what that gains, parts per million.
    pub(crate) wall_offset: i64,
    pub(crate) wall_ppm: i64,
}

impl NodeClock {
    /// What its monotone clock shows at world time `at`; it begins at 1.
    pub(crate) fn local(&self, at: u64) -> Micros {
        let passed = at.saturating_sub(self.boot) as i128;
        Micros(1 + (passed * (1_000_000 + i128::from(self.ppm)) / 1_000_000) as u64)
    }

    /// The first world time at which its monotone clock shows `local`.
    pub(crate) fn world(&self, local: Micros) -> u64 {
        let (passed, pace) = (i128::from(local.0.saturating_sub(1)), 1_000_000 + i128::from(self.ppm));
        self.boot + ((passed * 1_000_000 + pace - 1) / pace) as u64
    }

    /// What its wall clock shows, µs.
    pub(crate) fn wall(&self, at: u64) -> u64 {
        let gained = i128::from(at) * i128::from(self.wall_ppm) / 1_000_000;
        (WALL_US + at).saturating_add_signed(self.wall_offset + gained as i64)
    }
}

/// The world time that a process has reached inside a round: its syncs move it on.
#[derive(Clone, Default)]
pub(crate) struct Cursor(Arc<AtomicU64>);

impl Cursor {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, at: u64) {
        self.0.store(at, Ordering::Relaxed);
    }

    pub(crate) fn pass(&self, micros: u64) {
        self.set(self.get() + micros);
    }

    /// The same as the worker's measuring clock.
    pub(crate) fn clock(&self, clock: NodeClock) -> Clock {
        let cursor = self.clone();
        Arc::new(move || clock.local(cursor.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_passed_at_its_world_time_and_not_before() {
        for ppm in [-10_000, -37, 0, 1, 9_999] {
            let clock = NodeClock { boot: 777, ppm, wall_offset: 0, wall_ppm: 0 };
            for local in [1u64, 2, 3, 1000, 999_983, 123_456_789] {
                let at = clock.world(Micros(local));
                assert!(clock.local(at) >= Micros(local), "{ppm} {local}");
                assert!(at == 777 || clock.local(at - 1) < Micros(local), "{ppm} {local}");
            }
        }
    }
}
