//! What one caller measured, and the sum of all.
//!
//! Owns: the histograms. Must never: be shared between callers while they run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::gaps::{self, Successes};
use crate::ops::Outcome;
use crate::report::{Gap, Latency, Second};

/// Three significant digits, from 1 µs up, growing as needed.
const DIGITS: u8 = 3;

/// Longer times count as an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Latencies of one kind of operation, in microseconds.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Times {
        // Three digits is a size the histogram always takes; were it not, nothing could be measured.
        #[allow(clippy::expect_used)]
        Times(Histogram::new(DIGITS).expect("three digits are valid"))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        // A histogram made without bounds grows with what it is given.
        let _ = self.0.record((time.as_micros() as u64).clamp(1, LONGEST_US));
    }

    fn merge(&mut self, other: &Times) {
        // Growing histograms take any other of the same precision.
        let _ = self.0.add(&other.0);
    }

    /// The time that a share of the operations did not exceed, for shares ever closer to all of them.
    pub(crate) fn curve(&self) -> Vec<(f64, u64)> {
        let h = &self.0;
        if h.is_empty() {
            return Vec::new();
        }
        // Eight points for each factor of ten that the share of slower ones shrinks by, to 99.999 %.
        let shares = (0..=40).map(|n| 1.0 - 10f64.powf(-f64::from(n) / 8.0));
        shares.map(|share| (share, h.value_at_quantile(share))).collect()
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        let h = &self.0;
        (!h.is_empty()).then(|| Latency {
            count: h.len(),
            mean_us: h.mean(),
            p50_us: h.value_at_quantile(0.5),
            p90_us: h.value_at_quantile(0.9),
            p99_us: h.value_at_quantile(0.99),
            p99_9_us: h.value_at_quantile(0.999),
            p99_99_us: h.value_at_quantile(0.9999),
            max_us: h.max(),
        })
    }
}

/// What one caller, or all of them, saw in one second.
struct Tick {
    ops: u64,
    errors: u64,
    max_us: u64,
    /// One significant digit, so that thousands of callers can keep every second: within a tenth of the truth.
    times: Histogram<u32>,
    successes: Successes,
}

impl Tick {
    fn new() -> Tick {
        // One digit is a size the histogram always takes.
        #[allow(clippy::expect_used)]
        let times = Histogram::new(1).expect("one digit is valid");
        Tick { ops: 0, errors: 0, max_us: 0, times, successes: Successes::default() }
    }

    /// One that took `time` succeeded, at this microsecond of the second.
    fn done(&mut self, time: Duration, at_us: u32) {
        self.successes.add(at_us);
        let us = (time.as_micros() as u64).clamp(1, LONGEST_US);
        self.ops += 1;
        self.max_us = self.max_us.max(us);
        // As of `Times`.
        let _ = self.times.record(us);
    }

    fn merge(&mut self, other: &Tick) {
        self.ops += other.ops;
        self.errors += other.errors;
        self.max_us = self.max_us.max(other.max_us);
        let _ = self.times.add(&other.times);
        self.successes.merge(&other.successes);
    }
}

/// What one caller, or all of them, measured after `start`.
pub(crate) struct Recorder {
    start: Instant,
    pub(crate) reads: Times,
    pub(crate) writes: Times,
    pub(crate) failures: Times,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    pub(crate) ops: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    ticks: Vec<Tick>,
    pub(crate) last: Duration,
}

impl Recorder {
    pub(crate) fn new(start: Instant) -> Recorder {
        Recorder {
            start,
            reads: Times::new(),
            writes: Times::new(),
            failures: Times::new(),
            errors: BTreeMap::new(),
            ops: 0,
            records: 0,
            bytes: 0,
            ticks: Vec::new(),
            last: Duration::ZERO,
        }
    }

    /// Counts an operation that was to begin at `intended` and ended now; one of the warm-up is left out.
    pub(crate) fn add(&mut self, intended: Instant, ended: Instant, outcome: &Outcome) {
        if intended < self.start {
            return;
        }
        let since_start = ended.duration_since(self.start);
        let time = ended.duration_since(intended);
        self.last = self.last.max(since_start);
        let second = since_start.as_secs() as usize;
        if self.ticks.len() <= second {
            self.ticks.resize_with(second + 1, Tick::new);
        }
        let tick = &mut self.ticks[second];
        match outcome.error {
            Some(code) => {
                *self.errors.entry(code).or_default() += 1;
                self.failures.add(time);
                tick.errors += 1;
            }
            None => {
                self.ops += 1;
                self.records += u64::from(outcome.records);
                self.bytes += outcome.bytes;
                if outcome.read {
                    self.reads.add(time)
                } else {
                    self.writes.add(time)
                }
                tick.done(time, since_start.subsec_micros());
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Recorder) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.failures.merge(&other.failures);
        for (code, n) in &other.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.ops += other.ops;
        self.records += other.records;
        self.bytes += other.bytes;
        self.last = self.last.max(other.last);
        if self.ticks.len() < other.ticks.len() {
            self.ticks.resize_with(other.ticks.len(), Tick::new);
        }
        for (mine, theirs) in self.ticks.iter_mut().zip(&other.ticks) {
            mine.merge(theirs);
        }
    }

    /// Second by second.
    pub(crate) fn seconds(&self) -> Vec<Second> {
        let second = |(n, tick): (usize, &Tick)| {
            // The bucket's end may lie above the slowest in it.
            let p99_us = tick.times.value_at_quantile(0.99).min(tick.max_us);
            Second { second: n as u64, ops: tick.ops, errors: tick.errors, p99_us, max_us: tick.max_us }
        };
        self.ticks.iter().enumerate().map(second).collect()
    }

    /// The longest time without a success.
    pub(crate) fn gap(&self) -> Option<Gap> {
        gaps::longest(self.ticks.iter().map(|tick| &tick.successes))
    }

    /// Reads and writes together.
    pub(crate) fn all(&self) -> Times {
        let mut all = Times::new();
        all.merge(&self.reads);
        all.merge(&self.writes);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(error: Option<&'static str>) -> Outcome {
        Outcome { read: false, records: 2, bytes: 10, error }
    }

    #[test]
    fn callers_add_up_and_the_warm_up_does_not_count() {
        let start = Instant::now() + Duration::from_secs(10);
        let at = |ms| start + Duration::from_millis(ms);
        let mut a = Recorder::new(start);
        a.add(start - Duration::from_millis(1), at(5), &done(None));
        assert_eq!(a.ops, 0);
        a.add(at(0), at(5), &done(None));
        a.add(at(0), at(2100), &done(Some("overloaded")));
        let mut b = Recorder::new(start);
        b.add(at(1000), at(1007), &done(None));
        b.merge(&a);
        assert_eq!((b.ops, b.records, b.bytes, b.errors["overloaded"]), (2, 4, 20, 1));
        assert_eq!(
            b.seconds().iter().map(|s| (s.second, s.ops, s.errors)).collect::<Vec<_>>(),
            [(0, 1, 0), (1, 1, 0), (2, 0, 1)]
        );
        let gap = b.gap().map(|gap| (gap.longest_gap_us, gap.longest_gap_second));
        assert_eq!(gap, Some((1_002_000, 0)), "from 5 ms to 1007 ms; a failure ends none");
        assert!((6_500..=7_000).contains(&b.seconds()[1].p99_us), "{:?}", b.seconds());
        let latency = b.all().latency().unwrap();
        assert!((4_990..=5_010).contains(&latency.p50_us) && (6_990..=7_010).contains(&latency.max_us), "{latency:?}");
        assert!(b.reads.latency().is_none());
        assert_eq!(b.last, Duration::from_millis(2100));
    }
}
