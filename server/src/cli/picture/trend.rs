//! What two looks at a cluster tell that one does not.
//!
//! Owns: rates, and how much of a learner's gap is closed. Must never: read a clock; each look comes with its time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::output::json;

/// The step of a move in which a learner fetches what it lacks.
pub const CATCH_UP: &str = "catch_up";

/// Figures that come from several looks.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// The last look: its time, and each shard's last slot that is known to be chosen.
    last: Option<(Duration, BTreeMap<u64, u64>)>,
    rates: BTreeMap<u64, u64>,
    gaps: BTreeMap<u64, Gap>,
}

/// What a job's learner lacks.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// When it was first seen, and slots it lacked then.
    first: (Duration, u64),
    /// The same at the last look.
    now: (Duration, u64),
}

impl Trend {
    /// Takes a look that was finished at `at`, a time since the first.
    pub fn take(&mut self, at: Duration, status: &json::Status) {
        let chosen = |shard: &json::Shard| shard.replicas.iter().filter_map(|replica| replica.commit).max();
        let slots: BTreeMap<u64, u64> =
            status.shards.iter().filter_map(|shard| Some((shard.id, chosen(shard)?))).collect();
        if let Some((before, old)) = &self.last {
            let ms = u64::try_from(at.saturating_sub(*before).as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = |(id, now): (&u64, &u64)| {
                let slots = now.saturating_sub(*old.get(id)?);
                Some((*id, slots.saturating_mul(1_000) / ms))
            };
            self.rates = slots.iter().filter_map(rate).collect();
        }
        self.last = Some((at, slots));
        let lags = status.jobs.iter().filter_map(|job| Some((job.id, catching_up(job)?)));
        let gap = |(id, lag): (u64, u64)| {
            let first = self.gaps.get(&id).map_or((at, lag), |gap| gap.first);
            // What a learner lacks may grow; it began with the most.
            let first = if lag > first.1 { (at, lag) } else { first };
            (id, Gap { first, now: (at, lag) })
        };
        self.gaps = lags.map(gap).collect();
    }

    /// Slots chosen a second of a shard; none before the second look.
    pub fn rate(&self, shard: u64) -> Option<u64> {
        self.rates.get(&shard).copied()
    }

    /// The share of the slots that a job's learner lacked which it has by now, percent.
    pub fn closed(&self, job: u64) -> Option<u64> {
        let Gap { first: (_, first), now: (_, now) } = *self.gaps.get(&job)?;
        // Nothing is lacking of nothing.
        Some((first - now).saturating_mul(100).checked_div(first).unwrap_or(100))
    }

    /// How long a job's learner still needs, if it goes on as it did.
    pub fn remaining(&self, job: u64) -> Option<Duration> {
        let Gap { first: (since, first), now: (at, now) } = *self.gaps.get(&job)?;
        let (closed, took) = (first.saturating_sub(now), at.saturating_sub(since));
        let ms = u128::from(now).checked_mul(took.as_millis())?.checked_div(u128::from(closed))?;
        Some(Duration::from_millis(u64::try_from(ms).ok()?))
    }
}

/// What the learner of a job lacks, slots.
fn catching_up(job: &json::Job) -> Option<u64> {
    let progress = job.progress.as_ref()?;
    progress.lag_slots.filter(|_| progress.step.as_deref() == Some(CATCH_UP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::samples;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn rates_need_two_looks_at_a_shard() {
        let mut trend = Trend::default();
        trend.take(seconds(0), &samples::status(3));
        assert_eq!(trend.rate(2), None);
        let mut later = samples::status(4);
        later.shards[1].replicas[0].commit = Some(200 + 90);
        trend.take(seconds(2), &later);
        assert_eq!((trend.rate(2), trend.rate(1), trend.rate(4)), (Some(45), Some(0), None));
        // A node that comes back may know less at first.
        trend.take(seconds(3), &samples::status(3));
        assert_eq!(trend.rate(2), Some(0));
    }

    #[test]
    fn a_gap_closes_at_the_pace_it_had() {
        let mut trend = Trend::default();
        let look = |lag| {
            let mut status = samples::status(3);
            status.jobs = vec![samples::job(7, "running", CATCH_UP, Some(lag))];
            status
        };
        trend.take(seconds(10), &look(1_000));
        assert_eq!((trend.closed(7), trend.remaining(7)), (Some(0), None));
        trend.take(seconds(14), &look(600));
        assert_eq!((trend.closed(7), trend.remaining(7)), (Some(40), Some(seconds(6))));
        trend.take(seconds(15), &look(2_000));
        assert_eq!((trend.closed(7), trend.remaining(7)), (Some(0), None));
        trend.take(seconds(16), &samples::status(3));
        assert_eq!((trend.closed(7), trend.remaining(7)), (None, None));
    }
}
