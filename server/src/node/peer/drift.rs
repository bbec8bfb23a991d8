//! How fast the peers' clocks run beside this node's, and the alarm where leases cannot count on them.
//!
//! Owns: the estimate for each peer. Must never: take a pause or a full pipe for a drift, or decide anything.
//!
//! Each pulse carries its sender's monotone clock. The pulse that was the shortest on its way, of each while, gives two readings
//! of one moment; two such moments far apart give the rate (after Cristian, "Probabilistic clock synchronization" (1989), where the
//! shortest way bounds the error). A delay of a second on all pulses of a while is 5 % of the least distance.
//!
//! A pulse that was long on its way says nothing of clocks, neither of their rates nor of what they show. A process that was stopped finds
//! those that were sent to it meanwhile, and after a moment in which it reads a few of them it may be stopped again.

use super::lock;
use prometheus::{IntGaugeVec, Opts, Registry};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use synod_cluster::ids::{Incarnation, NodeId};
use synod_engine::clock::MonotoneClock;

/// Length of the window whose fastest pulse counts, µs.
const WHILE: u64 = 10_000_000;
/// Moments kept: the first and the last are 20 to 50 s apart.
const KEPT: usize = 5;
const LEAST: usize = 3;
/// A pulse that is later than those before it by more than this does not count, µs.
const LATE: u64 = 1_000_000;
/// Of the time between two pulses no more than this is taken for a pause of their sender's, µs: the rest was a stop or a jam.
const PACE: u64 = 500_000;

/// Two clocks read at one moment, less the way of a pulse, µs.
#[derive(Clone, Copy, Debug)]
struct Moment {
    theirs: u64,
    ours: u64,
}

impl Moment {
    /// By how much this node's clock is ahead, the way of the pulse included.
    fn lead(self) -> i128 {
        i128::from(self.ours) - i128::from(self.theirs)
    }
}

/// How late a peer's pulses come.
#[derive(Clone, Copy, Debug)]
struct Lateness {
    last: Moment,
    /// By how much the last one was later than the fastest of late, µs.
    by: u64,
    /// For how long they have been late in which pulses came, µs.
    since: u64,
}

impl Lateness {
    fn new(first: Moment) -> Self {
        Self { last: first, by: 0, since: 0 }
    }

    /// Whether a pulse is in time. What is forgiven with each is what the clocks may differ by meanwhile, up to the half of it. From when
    /// all have been late for a while on, that is how long their way is, or where the clocks are.
    fn is_in_time(&mut self, now: Moment) -> bool {
        let passed = now.ours.saturating_sub(self.last.ours).min(PACE);
        let by = i128::from(self.by) + now.lead() - self.last.lead() - i128::from(passed / 2);
        self.last = now;
        self.by = u64::try_from(by.max(0)).unwrap_or(u64::MAX);
        if self.by <= LATE {
            self.since = 0;
            return true;
        }
        self.since += passed;
        if self.since > WHILE {
            (self.by, self.since) = (0, 0);
        }
        self.by == 0
    }
}

#[derive(Clone, Debug)]
struct Course {
    incarnation: Incarnation,
    lateness: Lateness,
    shortest: Moment,
    ends: u64,
    moments: VecDeque<Moment>,
}

/// What a while has shown of a peer's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// It runs so much faster than this node's, ppm.
    ppm: i64,
    /// This is more than leases bear.
    beyond: bool,
    /// It was not so before, or it was.
    news: bool,
}

/// The peers' clocks.
#[derive(Debug)]
struct Drift {
    bound_ppm: u64,
    courses: BTreeMap<NodeId, Course>,
    beyond: BTreeMap<NodeId, i64>,
}

impl Drift {
    /// Leases assume that each clock is off by `bound_ppm` at most.
    fn new(bound_ppm: u64) -> Self {
        Self { bound_ppm, courses: BTreeMap::new(), beyond: BTreeMap::new() }
    }

    /// A pulse of `node` came at `ours`, sent at `theirs`. Whether it was in time; and something at the end of each while.
    fn heard(&mut self, node: NodeId, incarnation: Incarnation, theirs: u64, ours: u64) -> (bool, Option<Shown>) {
        let now = Moment { theirs, ours };
        let (lateness, moments) = (Lateness::new(now), VecDeque::new());
        let fresh = Course { incarnation, lateness, shortest: now, ends: ours + WHILE, moments };
        let course = self.courses.entry(node).or_insert_with(|| fresh.clone());
        if course.incarnation != incarnation {
            // Another process counts from another moment.
            *course = fresh;
        }
        if !course.lateness.is_in_time(now) {
            return (false, None);
        }
        (true, self.counts(node, now))
    }

    /// A pulse that was in time.
    fn counts(&mut self, node: NodeId, now: Moment) -> Option<Shown> {
        let Moment { ours, .. } = now;
        let course = self.courses.get_mut(&node)?;
        if ours < course.ends {
            if now.lead() < course.shortest.lead() {
                course.shortest = now;
            }
            return None;
        }
        course.moments.push_back(std::mem::replace(&mut course.shortest, now));
        course.ends = ours + WHILE;
        if course.moments.len() > KEPT {
            course.moments.pop_front();
        }
        let (first, last) = (course.moments.front()?, course.moments.back()?);
        let ours = last.ours.checked_sub(first.ours).filter(|_| course.moments.len() >= LEAST)?;
        let faster = (first.lead() - last.lead()) * 1_000_000;
        let ppm = i64::try_from(faster / i128::from(ours.max(1))).unwrap_or(i64::MAX);
        let beyond = ppm.unsigned_abs() > self.bound_ppm;
        let known = if beyond { self.beyond.insert(node, ppm) } else { self.beyond.remove(&node) };
        Some(Shown { ppm, beyond, news: known.is_some() != beyond })
    }

    /// The peers whose clocks drift beyond the bound, and by how much, ppm.
    fn beyond(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.beyond.iter().map(|(node, ppm)| (*node, *ppm))
    }

    /// `node` is gone.
    fn forget(&mut self, node: NodeId) {
        self.courses.remove(&node);
        self.beyond.remove(&node);
    }
}

/// The clocks of this node and its peers, as tasks share them.
#[derive(Debug)]
pub(super) struct Clocks {
    me: NodeId,
    own: MonotoneClock,
    bound_ppm: u64,
    drift: Mutex<Drift>,
    shown: IntGaugeVec,
}

impl Clocks {
    /// Of node `me`, whose leases assume that each clock is off by `bound_ppm` at most; without leases any drift will do.
    pub fn new(me: NodeId, own: MonotoneClock, bound_ppm: Option<u64>) -> Self {
        let bound_ppm = bound_ppm.unwrap_or(u64::MAX);
        let help = "By how much a peer's clock ran faster than this node's of late, millionths";
        let shown = IntGaugeVec::new(Opts::new("synod_peer_clock_drift_ppm", help), &["peer"]).expect("a valid name");
        Self { me, own, bound_ppm, drift: Mutex::new(Drift::new(bound_ppm)), shown }
    }

    /// Lets the registry show the drift.
    ///
    /// # Errors
    /// The registry holds a metric of the same name.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.shown.clone()))
    }

    /// This node's clock, µs.
    pub fn now(&self) -> u64 {
        self.own.now().0
    }

    /// A pulse of `node` came, which read its clock as `theirs` when it left. `false` where it was long on its way: what else it says of
    /// clocks does not count either.
    #[must_use]
    pub fn heard(&self, node: NodeId, incarnation: Incarnation, theirs: u64) -> bool {
        // An older version does not say.
        if theirs == 0 {
            return true;
        }
        let mut drift = lock(&self.drift);
        let (in_time, shown) = drift.heard(node, incarnation, theirs, self.now());
        drop(drift);
        let Some(shown) = shown else { return in_time };
        self.shown.with_label_values(&[&node.to_string()]).set(shown.ppm);
        if shown.news && shown.beyond {
            tracing::error!(%node, ppm = shown.ppm, "{}", alarm(self.me, node, shown.ppm, self.bound_ppm));
        } else if shown.news {
            tracing::info!(%node, ppm = shown.ppm, "the clock of node {node} is within the bound again");
        }
        in_time
    }

    /// What is wrong now.
    pub fn alarms(&self) -> Vec<String> {
        let drift = lock(&self.drift);
        drift.beyond().map(|(node, ppm)| alarm(self.me, node, ppm, self.bound_ppm)).collect()
    }

    /// `node` is gone.
    pub fn forget(&self, node: NodeId) {
        lock(&self.drift).forget(node);
        let _ = self.shown.remove_label_values(&[&node.to_string()]);
    }
}

/// What is said of it.
fn alarm(me: NodeId, peer: NodeId, ppm: i64, bound_ppm: u64) -> String {
    let percent = |ppm: u64| ppm as f64 / 10_000.0;
    let how = if ppm > 0 { "faster" } else { "slower" };
    format!(
        "the clock of node {peer} runs {:.1} % {how} than that of node {me}, more than the {:.1} % that leases assume: a read may \
         return a value that was replaced; mend the clock, or set reads.lease = \"off\" on every node",
        percent(ppm.unsigned_abs()),
        percent(bound_ppm),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const BOUND: u64 = 100_000;

    /// Pulses each 100 ms for `seconds`, of a clock that runs at `rate`; `late` says how long the one sent at a time is on its
    /// way, µs. What was shown, in order.
    fn pulses(drift: &mut Drift, from: u64, seconds: u64, rate: f64, late: impl Fn(u64) -> u64) -> Vec<Shown> {
        let mut arrivals: Vec<(u64, u64)> = (0..seconds * 10)
            .map(|n| from + n * 100_000)
            .map(|sent| (sent + late(sent), (sent as f64 * rate) as u64 + 77_000_000))
            .collect();
        arrivals.sort_unstable();
        arrivals.iter().filter_map(|(ours, theirs)| drift.heard(PEER, Incarnation(1), *theirs, *ours).1).collect()
    }

    #[test]
    fn a_clock_within_the_bound_is_measured_and_no_cause_for_alarm() {
        for rate in [0.91, 0.9995, 1.0, 1.05, 1.09] {
            let shown = pulses(&mut Drift::new(BOUND), 0, 120, rate, |at| 300 + at % 7_000);
            assert!(shown.len() >= 8, "{shown:?}");
            let wanted = ((rate - 1.0) * 1e6) as i64;
            assert!(shown.iter().all(|s| !s.beyond && !s.news && (s.ppm - wanted).abs() < 1_000), "{rate}: {shown:?}");
        }
    }

    #[test]
    fn a_clock_beyond_the_bound_is_told_once_and_so_is_its_mending() {
        for rate in [0.85, 1.15] {
            let mut drift = Drift::new(BOUND);
            assert!(pulses(&mut drift, 0, 60, 1.0, |_| 300).iter().all(|s| !s.beyond));
            // From then on it runs away: what it says at first fits what it said before.
            let mut theirs = 77_000_000.0 + 60e6;
            let mut news = vec![];
            for n in 600..1_500_u64 {
                theirs += 100_000.0 * if n < 1_100 { rate } else { 1.0 };
                let (_, shown) = drift.heard(PEER, Incarnation(1), theirs as u64, n * 100_000 + 300);
                news.extend(shown.filter(|s| s.news).map(|s| (n / 10, s.beyond)));
            }
            assert_eq!(news.iter().map(|(_, beyond)| *beyond).collect::<Vec<_>>(), [true, false], "{rate}: {news:?}");
            assert!(news[0].0 <= 110, "{news:?}");
            assert_eq!(drift.beyond().count(), 0);
        }
    }

    #[test]
    fn pauses_and_jams_are_no_drift() {
        // This process, or the peer's, stands still for 7 s of every 9: all that was sent meanwhile comes at once.
        let pauses = |at: u64| 300 + (at % 9_000_000).checked_sub(2_000_000).map_or(0, |into| 7_000_000 - into);
        assert!(pulses(&mut Drift::new(BOUND), 0, 300, 1.0, pauses).iter().all(|s| !s.beyond));
        // From one moment on everything takes a second longer.
        let jam = |at: u64| if at > 60_000_000 { 1_000_000 } else { 300 };
        assert!(pulses(&mut Drift::new(BOUND), 0, 300, 1.0, jam).iter().all(|s| !s.beyond));
    }

    /// It goes on after 25 s, reads one of the pulses that came meanwhile, is stopped for 15 s more and reads the others.
    #[test]
    fn what_waited_for_a_stopped_process_is_no_drift() {
        let stops = |at: u64| match at {
            60_000_000 => 25_000_300,
            60_000_001..100_000_000 => 100_000_300 - at,
            _ => 300,
        };
        let shown = pulses(&mut Drift::new(BOUND), 0, 300, 1.0, stops);
        assert!(shown.iter().all(|s| !s.beyond), "{shown:?}");
    }

    #[test]
    fn a_pulse_that_was_long_on_its_way_does_not_count_until_all_of_a_while_are() {
        let mut drift = Drift::new(BOUND);
        let mut heard = |sent: u64, late: u64| drift.heard(PEER, Incarnation(1), 77_000_000 + sent, sent + late).0;
        assert!((0..100).all(|n| heard(n * 100_000, 300)));
        // Stopped for ten minutes: what was sent in the first second of them waited.
        assert!((100..110).all(|n| !heard(n * 100_000, 610_000_000 - n * 100_000)));
        assert!((0..100).all(|n| heard(610_000_000 + n * 100_000, 300)));
        // All of them are late from now on, or the peer's machine slept and its clock stood still.
        let times: Vec<u64> = (0..300).filter(|n| heard(620_000_000 + n * 100_000, 30_000_000)).collect();
        assert!((90..130).contains(&times[0]) && times.len() == 300 - times[0] as usize, "{times:?}");
        assert!(!heard(650_000_000, 60_000_000), "one is later than those");
    }

    #[test]
    fn another_process_begins_anew() {
        let mut drift = Drift::new(BOUND);
        pulses(&mut drift, 0, 60, 1.3, |_| 300);
        assert_eq!(drift.beyond().map(|(node, _)| node).collect::<Vec<_>>(), [PEER]);
        for n in 0..1_000 {
            let (_, shown) = drift.heard(PEER, Incarnation(2), n * 100_000 + 5, 60_000_000 + n * 100_000);
            assert!(shown.is_none_or(|s| !s.beyond), "{shown:?}");
        }
        drift.forget(PEER);
        assert_eq!(drift.beyond().count(), 0);
    }

    #[test]
    fn the_alarm_names_both_the_bound_and_the_knob() {
        let said = alarm(NodeId(1), PEER, -152_000, BOUND);
        assert!(
            said.starts_with("the clock of node 2 runs 15.2 % slower than that of node 1, more than the 10.0 %"),
            "{said}"
        );
        assert!(said.contains("reads.lease"), "{said}");
    }
}
