//! What a shard has to do: averaged rates, and keys that were sampled.
//!
//! Owns: the averages, their greatest values of five minutes, and the samples of one replica. Must never: read a clock, draw a random
//! number, or allocate for an operation that is not sampled.
//!
//! Rates are averaged with a half-life of ten seconds, in steps of whole seconds of the clock that the worker is handed. Which operations are
//! sampled follows from how many there were: the gaps between them vary by a counter that is mixed, so that no pattern of operations
//! meets the samples in step. A new sample takes the place of any of those before, each as likely as the others. So an old one is forgotten
//! after about as many operations as the samples stand for, ten seconds under a steady load.

use bytes::Bytes;
use synod_paxos::types::Micros;

/// Samples that are kept of a shard.
pub const SAMPLES_MAX: usize = 64;
/// A sampled position is kept up to this length, bytes.
pub const POSITION_BYTES_MAX: usize = 128;
/// Most of the busiest positions in a report of all replicas.
const HOTTEST_MAX: usize = 4;

const SECOND_US: u64 = 1_000_000;
/// Averages are kept in parts of this of a unit a second.
const PART: u64 = 1024;
/// What a second takes of an average, 1/65,536: 1 − 2^(−1/10).
const FORGOTTEN: u64 = 4389;
/// After so many seconds without an operation every average of less than 2^30 is 0.
const IDLE_SECONDS: u64 = 400;
/// Seconds of one peak.
const PEAK_SECONDS: u64 = 30;
/// Peaks that are kept: five minutes, and the part of half a minute that runs.
const PEAKS: usize = 11;
/// Samples wanted a second.
const SAMPLES_A_SECOND: u64 = 6;

/// Operations and bytes, in all or a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Reads, each page of a scan and each answered tail among them.
    pub reads: u64,
    /// Bytes of keys and records given.
    pub read_bytes: u64,
    /// Operations of writes.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
}

impl Work {
    /// Reads and writes.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.reads.saturating_add(self.writes)
    }

    /// Bytes read and written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.read_bytes.saturating_add(self.write_bytes)
    }

    fn each(self, other: Self, make: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            reads: make(self.reads, other.reads),
            read_bytes: make(self.read_bytes, other.read_bytes),
            writes: make(self.writes, other.writes),
            write_bytes: make(self.write_bytes, other.write_bytes),
        }
    }
}

/// A sampled position, and the rate that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The position; of a long one its first [`POSITION_BYTES_MAX`] bytes.
    pub at: Bytes,
    /// How many of the samples are of it.
    pub count: u32,
    /// Its operations a second, about.
    pub ops: u64,
    /// Its bytes a second, about.
    pub bytes: u64,
}

/// The load of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// A second, averaged.
    pub rate: Work,
    /// The greatest averages of the last five minutes, each for itself.
    pub peak: Work,
    /// How many samples there are.
    pub samples: u32,
    /// Sampled positions, no position twice.
    pub sampled: Vec<Sampled>,
}

/// One operation that was sampled.
#[derive(Clone, Debug)]
struct Drawn {
    at: Bytes,
    bytes: u64,
}

/// The load of one replica.
#[derive(Debug)]
pub struct Load {
    /// Done in the second that runs.
    fresh: Work,
    second: u64,
    /// When that ends, µs.
    ends: u64,
    /// In parts of a unit a second.
    averaged: Work,
    /// The newest first; in parts of a unit a second.
    peaks: [Work; PEAKS],
    /// Operations until the next sample.
    left: u64,
    /// Operations for one sample, on average.
    stride: u64,
    /// Samples taken in the second that runs.
    taken: u64,
    /// Numbers drawn so far, mixed with the shard's.
    drawn: u64,
    samples: Vec<Drawn>,
}

impl Load {
    /// Nothing was done yet; `seed` tells one shard's samples from another's.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            fresh: Work::default(),
            second: 0,
            ends: SECOND_US,
            averaged: Work::default(),
            peaks: [Work::default(); PEAKS],
            left: 1,
            stride: 1,
            taken: 0,
            drawn: seed << 32,
            samples: Vec::new(),
        }
    }

    /// An operation of a write was taken; `at` gives its position.
    pub fn wrote(&mut self, now: Micros, bytes: usize, at: impl FnOnce() -> Bytes) {
        self.pass(now);
        let bytes = bytes as u64;
        self.fresh.writes += 1;
        self.fresh.write_bytes = self.fresh.write_bytes.saturating_add(bytes);
        self.sample(bytes, at);
    }

    /// A read of a position was answered.
    pub fn read(&mut self, now: Micros, bytes: usize, at: impl FnOnce() -> Bytes) {
        self.read_many(now, bytes);
        self.sample(bytes as u64, at);
    }

    /// A read of no single position was answered.
    pub fn read_many(&mut self, now: Micros, bytes: usize) {
        self.pass(now);
        self.fresh.reads += 1;
        self.fresh.read_bytes = self.fresh.read_bytes.saturating_add(bytes as u64);
    }

    /// The load by now, with the positions that were sampled most.
    pub fn report(&mut self, now: Micros) -> LoadReport {
        let mut report = self.report_all(now);
        // What was met with once says nothing.
        report.sampled.retain(|sampled| sampled.count > 1);
        report.sampled.sort_by_key(|sampled| std::cmp::Reverse(sampled.count));
        report.sampled.truncate(HOTTEST_MAX);
        report
    }

    /// The load by now, with all positions that were sampled, in rising order.
    pub fn report_all(&mut self, now: Micros) -> LoadReport {
        let (rate, peak) = self.rates(now);
        let samples = self.samples.len() as u64;
        let of_bytes: u64 = self.samples.iter().fold(0, |sum, drawn| sum.saturating_add(drawn.bytes));
        let mut drawn: Vec<&Drawn> = self.samples.iter().collect();
        drawn.sort_by(|a, b| a.at.cmp(&b.at));
        let mut sampled = Vec::new();
        for same in drawn.chunk_by(|a, b| a.at == b.at) {
            let (count, bytes) = (same.len() as u64, same.iter().fold(0, |sum: u64, d| sum.saturating_add(d.bytes)));
            sampled.push(Sampled {
                at: same[0].at.clone(),
                count: u32::try_from(count).unwrap_or(u32::MAX),
                ops: share(rate.ops(), count, samples),
                bytes: share(rate.bytes(), bytes, of_bytes),
            });
        }
        LoadReport { rate, peak, samples: u32::try_from(samples).unwrap_or(u32::MAX), sampled }
    }

    /// The averages by now, and the greatest of the last five minutes.
    pub fn rates(&mut self, now: Micros) -> (Work, Work) {
        self.pass(now);
        let whole = |work: Work| work.each(work, |part, _| part.saturating_add(PART / 2) / PART);
        let peak = self.peaks.iter().fold(Work::default(), |most, peak| most.each(*peak, u64::max));
        (whole(self.averaged), whole(peak))
    }

    fn pass(&mut self, now: Micros) {
        if now.0 >= self.ends {
            self.end_seconds(now.0 / SECOND_US);
        }
    }

    /// Ends each second before this one.
    fn end_seconds(&mut self, second: u64) {
        if second - self.second > IDLE_SECONDS {
            // What was done in the last second before is as long ago.
            (self.fresh, self.averaged, self.peaks) = Default::default();
            self.second = second;
        }
        while self.second < second {
            let fresh = std::mem::take(&mut self.fresh);
            self.averaged = self.averaged.each(fresh, |averaged, fresh| {
                let kept = averaged - averaged.saturating_mul(FORGOTTEN).div_ceil(1 << 16).min(averaged);
                kept.saturating_add(fresh.saturating_mul(PART).saturating_mul(FORGOTTEN) >> 16)
            });
            self.second += 1;
            if self.second.is_multiple_of(PEAK_SECONDS) {
                self.peaks.rotate_right(1);
                self.peaks[0] = Work::default();
            }
            self.peaks[0] = self.peaks[0].each(self.averaged, u64::max);
        }
        if self.averaged == Work::default() {
            self.samples = Vec::new();
        }
        self.ends = (second + 1).saturating_mul(SECOND_US);
        self.taken = 0;
        self.stride = (self.averaged.ops() / PART / SAMPLES_A_SECOND).max(1);
        self.left = self.left.min(self.stride.saturating_mul(2));
    }

    fn sample(&mut self, bytes: u64, at: impl FnOnce() -> Bytes) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.take(bytes, at());
        }
    }

    fn take(&mut self, bytes: u64, mut at: Bytes) {
        if at.len() > POSITION_BYTES_MAX {
            at = Bytes::copy_from_slice(&at[..POSITION_BYTES_MAX]);
        }
        let drawn = Drawn { at, bytes };
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(drawn);
        } else {
            let place = self.draw() % SAMPLES_MAX as u64;
            self.samples[usize::try_from(place).unwrap_or(0)] = drawn;
        }
        // A load that begins suddenly is sampled ever more rarely until its first second is over.
        self.taken += 1;
        if self.taken.is_multiple_of(SAMPLES_MAX as u64) {
            self.stride = self.stride.saturating_mul(2);
        }
        self.left = 1 + self.draw() % (self.stride.saturating_mul(2) - 1);
    }

    /// The next number: the counter, mixed by the finalizer of SplitMix64.
    fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        let mut mixed = self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn share(of: u64, part: u64, all: u64) -> u64 {
    let share = u128::from(of) * u128::from(part) / u128::from(all.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Micros {
        Micros(second * SECOND_US)
    }

    /// So many writes of a key in each of these seconds.
    fn write(load: &mut Load, seconds: std::ops::Range<u64>, each: u64, key: &'static [u8]) {
        for second in seconds {
            for n in 0..each {
                load.wrote(Micros(second * SECOND_US + n), 100, || Bytes::from_static(key));
            }
        }
    }

    #[test]
    fn a_rate_halves_in_ten_seconds_and_ends() {
        let mut load = Load::new(7);
        write(&mut load, 0..10, 1000, b"k");
        let half = load.rates(at(10)).0;
        assert!((490..=510).contains(&half.writes), "half of it after one half-life: {half:?}");
        write(&mut load, 10..200, 1000, b"k");
        let rate = load.rates(at(200)).0;
        assert!((998..=1000).contains(&rate.writes) && (99_800..=100_000).contains(&rate.write_bytes), "{rate:?}");
        assert_eq!((rate.reads, rate.read_bytes), (0, 0));
        let later = load.rates(at(210)).0;
        assert!((495..=505).contains(&later.writes), "{later:?}");
        assert_eq!(load.rates(at(480)).0, Work::default(), "nothing is left of it by and by");
        assert_eq!(load.report_all(at(480)).samples, 0, "an idle shard keeps no samples");
        load.read(at(480), 5, Bytes::new);
        load.read_many(at(480), 10);
        assert_eq!(load.rates(at(480)).0, Work::default(), "a second that runs counts once it is over");
        // 2 · 0.067 and 15 · 0.067, rounded.
        assert_eq!(load.rates(at(481)).0, Work { read_bytes: 1, ..Work::default() });
    }

    #[test]
    fn the_greatest_rate_is_kept_for_five_minutes() {
        let mut load = Load::new(7);
        write(&mut load, 0..60, 1000, b"k");
        let most = load.rates(at(60)).1.writes;
        assert!((970..=1000).contains(&most), "{most}");
        assert_eq!(load.rates(at(359)).1.writes, most, "five minutes are not over");
        assert_eq!(load.rates(at(359)).0.writes, 0);
        let later = load.rates(at(391)).1.writes;
        assert!(later < most / 2, "the half minute of the load is forgotten: {later}");
        // A long silence is passed over at once.
        write(&mut load, 400..401, 1000, b"k");
        assert_eq!(load.rates(Micros(u64::MAX - 2 * SECOND_US)), (Work::default(), Work::default()));
    }

    #[test]
    fn samples_have_the_shares_of_the_operations() {
        let mut load = Load::new(9);
        let keys: [&[u8]; 4] = [b"hot", b"warm", b"cool", b"cold"];
        for second in 0..120 {
            // Half, a quarter, an eighth and an eighth, in step with any fixed stride that divides 8.
            for n in 0..8000u64 {
                let which = [0, 1, 0, 2, 0, 1, 0, 3][usize::try_from(n % 8).unwrap()];
                load.read(Micros(second * SECOND_US + n), 10, || Bytes::from_static(keys[which]));
            }
        }
        let report = load.report_all(at(120));
        assert_eq!((report.samples, report.sampled.iter().map(|s| s.count).sum::<u32>()), (64, 64));
        assert!(report.sampled.windows(2).all(|two| two[0].at < two[1].at), "in rising order, none twice");
        let of = |report: &LoadReport, key: &[u8]| {
            report.sampled.iter().find(|s| *s.at == *key).map_or(0, |s| s.ops * 100 / report.rate.ops().max(1))
        };
        let hot = of(&report, b"hot");
        assert!((30..=70).contains(&hot), "{hot} % of 50");
        let hottest = load.report(at(120));
        assert!(hottest.sampled.len() <= HOTTEST_MAX);
        assert_eq!(&hottest.sampled[0].at[..], b"hot");
        // The same operations give the same samples; another shard's are others.
        let once_more = |seed| {
            let mut load = Load::new(seed);
            write(&mut load, 0..30, 500, b"a");
            write(&mut load, 30..60, 500, b"b");
            (load.report_all(at(60)), load.draw())
        };
        assert_eq!(once_more(3), once_more(3));
        assert_ne!(once_more(3).1, once_more(4).1);
    }

    #[test]
    fn samples_are_renewed_and_few_operations_are_sampled() {
        let mut load = Load::new(1);
        write(&mut load, 0..60, 2000, b"old");
        write(&mut load, 60..140, 2000, b"new");
        let report = load.report(at(140));
        assert_eq!(&report.sampled[0].at[..], b"new");
        assert!(report.sampled[0].count > 55, "{report:?}");
        let mut taken = 0;
        for n in 0..20_000u64 {
            load.wrote(Micros(141 * SECOND_US + n), 1, || {
                taken += 1;
                Bytes::from_static(b"new")
            });
        }
        assert!(taken < 128, "{taken} of 20,000 operations were sampled");
        // The first second of a sudden load is not sampled as a whole either.
        let (mut load, mut taken) = (Load::new(2), 0);
        for n in 0..100_000u64 {
            load.wrote(Micros(n), 1, || {
                taken += 1;
                Bytes::from_static(b"k")
            });
        }
        assert!(taken < 1000, "{taken} of 100,000 operations were sampled");
    }

    #[test]
    fn a_long_position_is_cut() {
        let mut load = Load::new(1);
        load.read(at(0), 1, || vec![b'x'; 4096].into());
        assert_eq!(load.report_all(at(1)).sampled[0].at.len(), POSITION_BYTES_MAX);
    }
}
