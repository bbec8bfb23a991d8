//! The cluster's time as a client knows it.
//!
//! Owns: the estimate of one connection, made from requests for the node's clock. Must never: follow the machine's wall
//! clock, which may jump; it runs on the monotone one.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest round trip that nodes are made for.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds of the monotone clock since this process first asked.
pub(crate) fn local_us() -> u64 {
    START.elapsed().as_micros() as u64
}

/// Cluster time less local time, from the best of the samples.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset_us: AtomicI64,
    /// Round trip of the sample in use; 0 for none.
    rtt_us: AtomicU64,
}

impl Clock {
    /// Takes the answer `cluster_us` to a question asked at `asked_us` (local). A sample with a much longer round trip
    /// than the one in use is left out, a few times at most.
    pub(crate) fn sample(&self, asked_us: u64, answered_us: u64, cluster_us: u64) {
        let rtt = answered_us.saturating_sub(asked_us).max(1);
        let in_use = self.rtt_us.load(Ordering::Relaxed);
        if in_use != 0 && rtt > in_use.saturating_mul(4) {
            self.rtt_us.store(in_use.saturating_mul(2), Ordering::Relaxed);
            return;
        }
        self.offset_us.store(cluster_us as i64 - (asked_us + rtt / 2) as i64, Ordering::Relaxed);
        self.rtt_us.store(rtt, Ordering::Relaxed);
    }

    /// Cluster time now, in microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        self.at_us(local_us())
    }

    /// The last measured round trip to the node, at most `ROUND_TRIP_MAX`: a longer one means that the node was busy.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Ordering::Relaxed)).min(ROUND_TRIP_MAX)
    }

    fn at_us(&self, local_us: u64) -> u64 {
        (local_us as i64).saturating_add(self.offset_us.load(Ordering::Relaxed)).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_samples_count_only_after_a_while() {
        let clock = Clock::default();
        clock.sample(1_000, 1_100, 5_000_050);
        assert_eq!(clock.at_us(2_050), 5_001_050);
        clock.sample(10_000, 20_000, 9_000_000);
        assert_eq!(clock.at_us(2_050), 5_001_050);
        for _ in 0..8 {
            clock.sample(10_000, 20_000, 9_000_000);
        }
        assert_eq!(clock.at_us(15_000), 9_000_000);
    }
}
