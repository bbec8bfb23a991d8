//! A process's clock, which drifts.
//!
//! Owns: the way between the world's time and a process's. Must never: go back.

use super::dice::Dice;
use synod_paxos::types::Micros;

/// One process's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What it shows at the process's start.
    zero: u64,
    /// World time of that start, µs.
    start: u64,
    /// What it gains against true time, millionths.
    ppm: i64,
}

impl Clock {
    /// The clock of a process that starts at `now`, off by at most `drift_ppm`: mostly by just as much.
    pub fn begun(now: u64, drift_ppm: u64, dice: &mut Dice) -> Self {
        let zero = dice.below(1_000_000_000);
        let most = drift_ppm as i64;
        // A slow one among fast ones is what leases must stand.
        let ppm = match dice.below(10) {
            0..=3 => -most,
            4..=8 => most,
            _ => dice.below(2 * drift_ppm + 1) as i64 - most,
        };
        Self { zero, start: now, ppm }
    }

    /// What it shows at world time `now`.
    pub fn shows(&self, now: u64) -> Micros {
        let passed = i128::from(now - self.start) * i128::from(1_000_000 + self.ppm) / 1_000_000;
        Micros(self.zero + passed as u64)
    }

    /// The first world time at which it shows `local`.
    pub fn world(&self, local: Micros) -> u64 {
        let (passed, pace) = (i128::from(local.0.saturating_sub(self.zero)), i128::from(1_000_000 + self.ppm));
        self.start + ((passed * 1_000_000 + pace - 1) / pace) as u64
    }
}
