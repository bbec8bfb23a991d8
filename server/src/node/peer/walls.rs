//! The wall clocks of this node and its peers, and the alarm where one is far from the others.
//!
//! Owns: what each clock showed when it was last heard, the cluster's time by them, and how far each is from it. Must never:
//! follow one clock alone while others are heard, or decide which of two is right.

use super::{WorkerInbox, lock};
use prometheus::{IntGaugeVec, Opts, Registry};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_cluster::ids::NodeId;
use synod_engine::clock::{MonotoneClock, wall_us};
use synod_engine::host::PeerInput;
use synod_engine::wall::{Reading, WallClocks};
use synod_paxos::types::Micros;

/// A clock that is further than this from the cluster's time is told, µs.
const FAR: i64 = 10_000_000;
/// Pause between two looks at the distances, µs.
const LOOK: u64 = 1_000_000;
/// Both clocks of this node are read within this, or the reading does not count, µs.
const APART: u64 = 1_000_000;

#[derive(Debug, Default)]
struct Seen {
    clocks: WallClocks,
    /// Clocks that are far off, and by how much they are ahead, µs.
    far: BTreeMap<NodeId, i64>,
    looked: Micros,
}

/// A clock's distance from the cluster's time, where it is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Far(NodeId, i64),
    Right(NodeId),
}

impl Seen {
    /// This node's own clock was read, and that was done at `done`. A process that was stopped meanwhile shows nothing by it.
    fn note_own(&mut self, me: NodeId, reading: Reading, done: Micros) {
        if done.0.saturating_sub(reading.at.0) <= APART {
            self.clocks.note(me, reading);
        }
    }

    /// How far each clock heard is ahead of what most have reached, µs; and which have become far, or right again.
    fn look(&mut self, now: Micros) -> (BTreeMap<NodeId, i64>, Vec<News>) {
        self.looked = now;
        let Some(most) = self.clocks.majority(now) else { return Default::default() };
        let ahead = |node: NodeId| {
            let shown = self.clocks.shows(node, now)?;
            let by = i128::from(shown) - i128::from(most);
            Some((node, i64::try_from(by).unwrap_or(if by > 0 { i64::MAX } else { i64::MIN })))
        };
        let distances: BTreeMap<NodeId, i64> = self.clocks.heard(now).filter_map(ahead).collect();
        let is_far = |by: &i64| by.unsigned_abs() > FAR.unsigned_abs();
        let mut news = Vec::new();
        for (node, by) in &distances {
            match (is_far(by), self.far.contains_key(node)) {
                (true, false) => news.push(News::Far(*node, *by)),
                (false, true) => news.push(News::Right(*node)),
                _ => {}
            }
        }
        self.far = distances.iter().filter(|(_, by)| is_far(by)).map(|(node, by)| (*node, *by)).collect();
        (distances, news)
    }
}

/// The wall clocks, as tasks share them.
#[derive(Debug)]
pub(super) struct Walls {
    me: NodeId,
    clock: MonotoneClock,
    seen: Mutex<Seen>,
    shown: IntGaugeVec,
}

impl Walls {
    /// Of node `me`, which measures by `clock`.
    pub fn new(me: NodeId, clock: MonotoneClock) -> Self {
        let help = "By how much a node's wall clock is ahead of the time that most clocks heard here show, in seconds";
        let shown =
            IntGaugeVec::new(Opts::new("synod_wall_clock_ahead_seconds", help), &["node"]).expect("a valid name");
        Self { me, clock, seen: Mutex::default(), shown }
    }

    /// Lets the registry show the distances.
    ///
    /// # Errors
    /// The registry holds a metric of the same name.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.shown.clone()))
    }

    /// A pulse of `node` came, whose wall clock showed `wall` when it left, µs. The worker is told; where its queue is full the
    /// next pulse tells it.
    pub fn heard(&self, node: NodeId, wall: u64, inbox: &Arc<dyn WorkerInbox>) {
        let reading = Reading { at: self.clock.now(), wall_us: wall };
        let _ = inbox.push(PeerInput::Clock { node, reading }.into());
        let mut seen = lock(&self.seen);
        seen.clocks.note(node, reading);
        if reading.at.0.saturating_sub(seen.looked.0) < LOOK {
            return;
        }
        self.note_own(&mut seen);
        let (distances, news) = seen.look(self.clock.now());
        drop(seen);
        for (node, by) in distances {
            self.shown.with_label_values(&[&node.to_string()]).set(by / 1_000_000);
        }
        for news in news {
            match news {
                News::Far(node, by) => tracing::error!(%node, ahead_s = by / 1_000_000, "{}", alarm(node, by)),
                News::Right(node) => tracing::info!(%node, "the wall clock of node {node} is right again"),
            }
        }
    }

    fn note_own(&self, seen: &mut Seen) {
        let reading = Reading { at: self.clock.now(), wall_us: wall_us() };
        seen.note_own(self.me, reading, self.clock.now());
    }

    /// The cluster's time: what most of the clocks heard here show, µs since 1970.
    pub fn cluster_time_us(&self) -> u64 {
        let mut seen = lock(&self.seen);
        self.note_own(&mut seen);
        seen.clocks.majority(self.clock.now()).unwrap_or_else(wall_us)
    }

    /// What is wrong now.
    pub fn alarms(&self) -> Vec<String> {
        lock(&self.seen).far.iter().map(|(node, by)| alarm(*node, *by)).collect()
    }

    /// `node` is gone.
    pub fn forget(&self, node: NodeId) {
        let mut seen = lock(&self.seen);
        seen.clocks.forget(node);
        seen.far.remove(&node);
        drop(seen);
        let _ = self.shown.remove_label_values(&[&node.to_string()]);
    }
}

/// The alarm about a clock that is ahead by `by` µs, or late where that is negative.
fn alarm(node: NodeId, by: i64) -> String {
    let how = if by > 0 { "ahead of" } else { "behind" };
    let distance = Duration::from_secs((by.unsigned_abs() + 500_000) / 1_000_000);
    format!(
        "the wall clock of node {node} is {} {how} what most nodes' clocks show: timestamps and deadlines follow those; set it \
         right",
        humantime::format_duration(distance)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const WALL: u64 = 1_700_000_000_000_000;

    fn note(seen: &mut Seen, now: Micros, offsets: &[i64]) {
        for (node, off) in (1..).map(NodeId).zip(offsets) {
            let wall_us = (WALL + now.0).saturating_add_signed(*off);
            seen.clocks.note(node, Reading { at: now, wall_us });
        }
    }

    #[test]
    fn the_one_that_is_far_from_most_is_named_once_and_so_is_its_return() {
        let mut seen = Seen::default();
        for (second, offsets, wanted) in [
            (1, [0, 2_000_000, 0], vec![]),
            (2, [0, HOUR, 0], vec![News::Far(NodeId(2), HOUR)]),
            (3, [0, HOUR, 0], vec![]),
            (4, [0, 0, -HOUR], vec![News::Right(NodeId(2)), News::Far(NodeId(3), -HOUR)]),
        ] {
            let now = Micros(second * 1_000_000);
            note(&mut seen, now, &offsets);
            assert_eq!(seen.look(now).1, wanted, "{second}");
        }
        assert_eq!(seen.far.into_iter().collect::<Vec<_>>(), [(NodeId(3), -HOUR)]);
    }

    #[test]
    fn a_reading_during_which_the_process_was_stopped_does_not_count() {
        let (mut seen, second) = (Seen::default(), 1_000_000);
        note(&mut seen, Micros(second), &[0, 0, 0]);
        let own = |at: u64, off: u64| Reading { at: Micros(at), wall_us: WALL + at + off };
        // The wall clock is read half a minute after the other one.
        seen.note_own(NodeId(1), own(2 * second, 30 * second), Micros(32 * second));
        assert!(seen.look(Micros(3 * second)).1.is_empty());
        seen.note_own(NodeId(1), own(3 * second, 30 * second), Micros(3 * second + 1));
        assert_eq!(
            seen.look(Micros(3 * second + 1)).1,
            [News::Far(NodeId(1), 30_000_000)],
            "a clock that is wrong is told"
        );
    }

    #[test]
    fn the_alarm_names_the_node_and_the_distance() {
        let said = alarm(NodeId(2), HOUR - 200);
        assert!(said.starts_with("the wall clock of node 2 is 1h ahead of what most"), "{said}");
        assert!(alarm(NodeId(3), -90_000_000).contains("node 3 is 1m 30s behind"), "{}", alarm(NodeId(3), -90_000_000));
    }
}
