//! The failure detector: what pulses, silence and broken connections say about a peer.
//!
//! Owns: who is held for alive, and whether the worker was told. Must never: read a clock, do IO, or be believed by
//! anything that safety depends on: liveness is a hint.
//!
//! Times are relative to an origin that the caller chooses.
//!
//! | what is known of a peer | verdict |
//! | --- | --- |
//! | a pulse within `dead_after`, its log writer moves | alive |
//! | nothing for `dead_after`, or its log write hangs for longer | dead |
//! | it says it leaves | dead, until it says otherwise after a short deafness: another process under the same number |
//! | connection broken and the next refused | dead, until pulses come after a short deafness |
//! | a pulse of an older incarnation | nothing |
//! | never heard, watched for less than `dead_after` | no verdict |

use crate::ids::{Incarnation, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one pulse says.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    /// The sender's process.
    pub incarnation: Incarnation,
    /// How long its log write under way has taken.
    pub stalled: Duration,
    /// It goes down in order.
    pub leaving: bool,
}

#[derive(Debug)]
struct Watched {
    /// Newest process heard; `None`: never heard.
    incarnation: Option<Incarnation>,
    /// When it was last heard, or when watching began.
    last: Duration,
    stalled: Duration,
    /// It said that it leaves: pulses without that word count for nothing until then.
    left: Option<Duration>,
    /// Its connection was refused: pulses still in some buffer count for nothing until then.
    gone: Option<Duration>,
    /// What the worker was told.
    told: Option<bool>,
}

impl Watched {
    fn verdict(&self, now: Duration, dead_after: Duration) -> Option<bool> {
        let silent = now.saturating_sub(self.last) > dead_after;
        match self.incarnation {
            None if silent => Some(false),
            None => None,
            Some(_) => Some(!silent && self.left.is_none() && self.gone.is_none() && self.stalled <= dead_after),
        }
    }
}

/// Watches the peers of a node.
#[derive(Debug)]
pub struct Detector {
    dead_after: Duration,
    deaf: Duration,
    last_tick: Duration,
    peers: BTreeMap<NodeId, Watched>,
}

impl Detector {
    /// Watches nobody yet. A peer is dead after `dead_after` without a pulse; pulses come every `pulse`.
    pub fn new(now: Duration, pulse: Duration, dead_after: Duration) -> Self {
        Self { dead_after, deaf: pulse * 2, last_tick: now, peers: BTreeMap::new() }
    }

    /// Begins to watch.
    pub fn watch(&mut self, node: NodeId, now: Duration) {
        self.peers.entry(node).or_insert(Watched {
            incarnation: None,
            last: now,
            stalled: Duration::ZERO,
            left: None,
            gone: None,
            told: None,
        });
    }

    /// Stops watching.
    pub fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// A pulse came.
    pub fn heard(&mut self, node: NodeId, sign: Sign, now: Duration) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.incarnation.is_some_and(|known| known > sign.incarnation) {
            return;
        }
        if peer.incarnation != Some(sign.incarnation) {
            peer.incarnation = Some(sign.incarnation);
            peer.left = None;
            peer.gone = None;
            peer.told = None;
        }
        if peer.gone.is_some_and(|until| now < until) {
            return;
        }
        peer.gone = None;
        peer.last = now;
        peer.stalled = sign.stalled;
        if sign.leaving {
            peer.left = Some(now + self.deaf);
        } else if peer.left.is_some_and(|until| now >= until) {
            // A data directory that was put back after a quarantine: its next process bears the quarantined one's number.
            peer.left = None;
        }
    }

    /// The connection to it broke and the next attempt was refused: nobody listens there.
    pub fn refused(&mut self, node: NodeId, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.gone = Some(now + self.deaf);
        }
    }

    /// A consensus link to or from it was opened: the worker hears of it again, so that a leader probes.
    pub fn linked(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node)
            && peer.told == Some(true)
        {
            peer.told = None;
        }
    }

    /// Time passes. A tick that comes late says that this process stood still, and nothing about its peers: they get the
    /// time back.
    pub fn tick(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last_tick);
        self.last_tick = now;
        if gap > self.dead_after / 2 {
            for peer in self.peers.values_mut() {
                peer.last = (peer.last + gap).min(now);
            }
        }
    }

    /// Tells what the workers do not know yet. Where `tell` could not hand it over to all, some of them may know it: then whatever is
    /// so the next time is told.
    pub fn report(&mut self, now: Duration, mut tell: impl FnMut(NodeId, bool) -> bool) {
        for (node, peer) in &mut self.peers {
            let Some(alive) = peer.verdict(now, self.dead_after) else { continue };
            if peer.told != Some(alive) {
                peer.told = tell(*node, alive).then_some(alive);
            }
        }
    }

    /// Whether `node` is held for alive.
    pub fn is_alive(&self, node: NodeId, now: Duration) -> bool {
        self.peers.get(&node).and_then(|peer| peer.verdict(now, self.dead_after)) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const STEP: Duration = Duration::from_millis(100);

    const NOTHING: [bool; 0] = [];

    struct Rig {
        detector: Detector,
        now: Duration,
        told: Vec<bool>,
    }

    impl Rig {
        fn new() -> Self {
            let now = Duration::ZERO;
            let mut detector = Detector::new(now, STEP, STEP * 6);
            detector.watch(PEER, now);
            Self { detector, now, told: Vec::new() }
        }

        /// Lets time pass in small ticks.
        fn pass(&mut self, steps: u32) {
            for _ in 0..steps {
                self.now += STEP;
                self.detector.tick(self.now);
                self.report();
            }
        }

        fn report(&mut self) {
            let told = &mut self.told;
            self.detector.report(self.now, |_, alive| {
                told.push(alive);
                true
            });
        }

        fn hear(&mut self, incarnation: u64) {
            self.sign(Sign { incarnation: Incarnation(incarnation), stalled: Duration::ZERO, leaving: false });
        }

        fn sign(&mut self, sign: Sign) {
            self.detector.heard(PEER, sign, self.now);
            self.report();
        }

        fn take(&mut self) -> Vec<bool> {
            std::mem::take(&mut self.told)
        }
    }

    #[test]
    fn silence_kills_and_a_pulse_revives() {
        let mut rig = Rig::new();
        rig.pass(5);
        assert_eq!(rig.take(), NOTHING);
        rig.hear(1);
        assert_eq!(rig.take(), [true]);
        for _ in 0..20 {
            rig.pass(1);
            rig.hear(1);
        }
        assert_eq!(rig.take(), NOTHING);
        rig.pass(6);
        assert_eq!(rig.take(), NOTHING);
        rig.pass(1);
        assert_eq!(rig.take(), [false]);
        rig.hear(1);
        assert_eq!(rig.take(), [true]);
    }

    #[test]
    fn a_peer_never_heard_is_dead_after_a_while() {
        let mut rig = Rig::new();
        rig.pass(6);
        assert_eq!(rig.take(), NOTHING);
        rig.pass(10);
        assert_eq!(rig.take(), [false]);
    }

    #[test]
    fn a_hanging_disk_is_dead_though_its_network_lives() {
        let mut rig = Rig::new();
        rig.hear(1);
        rig.take();
        for stalled in 1..=10 {
            rig.pass(1);
            rig.sign(Sign { incarnation: Incarnation(1), stalled: STEP * stalled, leaving: false });
        }
        assert_eq!(rig.take(), [false]);
        rig.hear(1);
        assert_eq!(rig.take(), [true]);
    }

    #[test]
    fn who_leaves_stays_dead_until_its_next_process() {
        let leaves = Sign { incarnation: Incarnation(1), stalled: Duration::ZERO, leaving: true };
        let mut rig = Rig::new();
        rig.hear(1);
        rig.sign(leaves);
        rig.hear(1);
        assert_eq!(rig.take(), [true, false]);
        rig.hear(2);
        assert_eq!(rig.take(), [true]);
        // While it says so, nothing that was on its way revives it.
        let mut rig = Rig::new();
        rig.hear(1);
        for _ in 0..10 {
            rig.sign(leaves);
            rig.pass(1);
            rig.hear(1);
        }
        assert_eq!(rig.take(), [true, false]);
    }

    #[test]
    fn another_process_under_the_number_of_one_that_left_lives() {
        let mut rig = Rig::new();
        rig.hear(1);
        rig.sign(Sign { incarnation: Incarnation(1), stalled: Duration::ZERO, leaving: true });
        rig.pass(2);
        rig.hear(1);
        assert_eq!(rig.take(), [true, false, true]);
    }

    #[test]
    fn a_refused_connection_kills_at_once_and_late_pulses_do_not_revive() {
        let mut rig = Rig::new();
        rig.hear(1);
        rig.detector.refused(PEER, rig.now);
        rig.report();
        assert_eq!(rig.take(), [true, false]);
        rig.hear(1);
        assert_eq!(rig.take(), NOTHING);
        rig.pass(2);
        rig.hear(1);
        assert_eq!(rig.take(), [true]);
        rig.detector.refused(PEER, rig.now);
        rig.report();
        rig.hear(2);
        assert_eq!(rig.take(), [false, true]);
    }

    #[test]
    fn a_new_process_or_link_is_told_again_and_an_old_process_never() {
        let mut rig = Rig::new();
        rig.hear(2);
        rig.hear(3);
        rig.detector.linked(PEER);
        rig.report();
        assert_eq!(rig.take(), [true, true, true]);
        rig.pass(6);
        rig.hear(2);
        rig.pass(1);
        assert_eq!(rig.take(), [false]);
        rig.detector.linked(PEER);
        rig.report();
        assert_eq!(rig.take(), NOTHING);
    }

    #[test]
    fn a_process_that_stood_still_blames_nobody() {
        let mut rig = Rig::new();
        rig.hear(1);
        rig.now += STEP * 100;
        rig.detector.tick(rig.now);
        rig.report();
        assert_eq!(rig.take(), [true]);
        rig.pass(7);
        assert_eq!(rig.take(), [false]);
    }

    #[test]
    fn what_a_full_queue_refused_is_told_again() {
        let mut rig = Rig::new();
        rig.detector.heard(
            PEER,
            Sign { incarnation: Incarnation(1), stalled: Duration::ZERO, leaving: false },
            rig.now,
        );
        rig.detector.report(rig.now, |_, _| false);
        rig.report();
        rig.report();
        assert_eq!(rig.take(), [true]);
    }

    /// Of several workers one may have taken what another had no room for.
    #[test]
    fn after_a_word_that_not_all_took_whatever_is_so_next_is_told() {
        let mut rig = Rig::new();
        rig.hear(1);
        assert_eq!(rig.take(), [true]);
        for _ in 0..7 {
            rig.now += STEP;
            rig.detector.tick(rig.now);
        }
        let mut refused = Vec::new();
        rig.detector.report(rig.now, |_, alive| {
            refused.push(alive);
            false
        });
        rig.hear(1);
        rig.report();
        assert_eq!((refused, rig.take()), (vec![false], vec![true]));
    }
}
