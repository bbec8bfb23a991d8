//! Loads as functions of a range of positions and of a minute.
//!
//! Owns: their shapes. Must never: depend on the shards: the load of a range is the sum of the loads of its parts, but for rounding.

use std::fmt;

/// Positions of the ring.
pub(crate) const RING: u128 = 1 << 64;
/// Parts of the ring with a density of their own.
const SECTORS: u128 = 64;
/// The one hot key.
const HOT_KEY: u128 = 0x5555_5555_5555_5555;
/// The minute at which most records expire.
const EXPIRY: u64 = 20;

/// A shape of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The same all the time, from sparse to dense sectors as one to three.
    Steady,
    /// Between a fifth and the whole of it, and back, in 40 minutes.
    Diurnal,
    /// As much again on a 200th of the ring, which moves on every ten minutes.
    MovingHotSpot,
    /// As much again on one key.
    OneHotKey,
    /// After 20 minutes nine tenths of the bytes and of the load are gone.
    MassExpiry,
}

impl Workload {
    /// Each shape.
    pub const ALL: [Self; 5] = [Self::Steady, Self::Diurnal, Self::MovingHotSpot, Self::OneHotKey, Self::MassExpiry];

    /// Operations a second of `[from, to)` in a minute, where the ring has `total` of the steady load.
    pub(crate) fn operations(self, total: u64, from: u128, to: u128, minute: u64) -> u64 {
        let total = u128::from(total);
        let steady = dense(total, from, to);
        let operations = match self {
            Self::Steady => steady,
            Self::Diurnal => {
                let phase = minute % 40;
                let part = 100 - phase.min(40 - phase) * 4;
                steady * u128::from(part) / 100
            }
            Self::MovingHotSpot => {
                let width = RING / 200;
                let spot = u128::from(minute / 10 % 200) * width;
                let both = to.min(spot + width).saturating_sub(from.max(spot));
                steady + total * both / width
            }
            Self::OneHotKey if (from..to).contains(&HOT_KEY) => steady + total,
            Self::OneHotKey => steady,
            Self::MassExpiry => left(steady, minute),
        };
        u64::try_from(operations).unwrap_or(u64::MAX)
    }

    /// Bytes of `[from, to)` in a minute, where the ring has `total` at first.
    pub(crate) fn bytes(self, total: u64, from: u128, to: u128, minute: u64) -> u64 {
        let bytes = u128::from(total) * (to - from) / RING;
        let bytes = if self == Self::MassExpiry { left(bytes, minute) } else { bytes };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// A position within `[from, to)` at which its load should be sampled beside others.
    pub(crate) fn notable(self, from: u128, to: u128) -> Option<u128> {
        let here = self == Self::OneHotKey && (from..to).contains(&HOT_KEY);
        here.then_some(HOT_KEY)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Steady => "steady",
            Self::Diurnal => "diurnal",
            Self::MovingHotSpot => "moving hot spot",
            Self::OneHotKey => "one hot key",
            Self::MassExpiry => "mass expiry",
        })
    }
}

fn left(of: u128, minute: u64) -> u128 {
    if minute >= EXPIRY { of / 10 } else { of }
}

/// The part of `total` that lies in `[from, to)`.
fn dense(total: u128, from: u128, to: u128) -> u128 {
    let width = RING / SECTORS;
    // Between 64 and 191, 127 in the mean.
    let weight = |sector: u128| 64 + sector * 37 % 128;
    let all: u128 = (0..SECTORS).map(weight).sum();
    let last = (to.max(1) - 1) / width;
    let parts = (from / width..=last).map(|sector| {
        let both = to.min((sector + 1) * width).saturating_sub(from.max(sector * width));
        total * weight(sector) * both / width / all
    });
    parts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for workload in Workload::ALL {
            for minute in [0, 7, 25] {
                let whole = workload.operations(1_000_000, 0, RING, minute);
                let step = RING / 256;
                let parts = (0..256u128).map(|at| workload.operations(1_000_000, at * step, (at + 1) * step, minute));
                let sum: u64 = parts.sum();
                assert!(whole.abs_diff(sum) <= 1_024, "{workload} {minute}: {whole} {sum}");
            }
        }
    }

    #[test]
    fn loads_change_as_they_say() {
        let all = |workload: Workload, minute| workload.operations(1_000_000, 0, RING, minute);
        assert!(all(Workload::Steady, 0).abs_diff(1_000_000) < 100);
        assert!(all(Workload::Diurnal, 20).abs_diff(200_000) < 100);
        assert!(all(Workload::MassExpiry, 20).abs_diff(100_000) < 100);
        assert!(all(Workload::OneHotKey, 0).abs_diff(2_000_000) < 100);
        let first = |minute| Workload::MovingHotSpot.operations(1_000_000, 0, RING / 200, minute);
        assert!(first(9) > 1_000_000 && first(10) < 10_000);
        assert_eq!(Workload::MassExpiry.bytes(1_000, 0, RING, 20), 100);
    }
}
