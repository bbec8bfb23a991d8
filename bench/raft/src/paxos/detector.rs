//! The failure detector that Synod's core is told by: pulses, and silence.
//!
//! A Synod node pulses to every other, once for all its groups. Raft has its leader's heartbeats in each group instead; both run
//! here at one interval and with one silence, so that a dead leader is noticed after the same time.
//!
//! Owns: who was heard when. Must never: count anything but a frame as a sign of life.

use crate::setting::{Timing, micros};
use synod_paxos::types::{Micros, NodeId};

/// Pulses to send, and what changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Whether every peer is due a pulse.
    pub pulse: bool,
    /// Peers that fell silent.
    pub dead: Vec<NodeId>,
}

/// One node's failure detector.
#[derive(Debug)]
pub struct Detector {
    peers: Vec<(NodeId, Micros, bool)>,
    pulse_at: Micros,
    pulse_us: u64,
    silence_us: u64,
}

impl Detector {
    /// All `peers` are taken as heard just now.
    #[must_use]
    pub fn new(peers: &[NodeId], timing: &Timing, now: Micros) -> Self {
        let peers = peers.iter().map(|&peer| (peer, now, true)).collect();
        Self { peers, pulse_at: now, pulse_us: micros(timing.pulse), silence_us: micros(timing.silence) }
    }

    /// A frame of `from` came; whether it had been held dead.
    pub fn heard(&mut self, from: NodeId, now: Micros) -> bool {
        let Some((_, at, alive)) = self.peers.iter_mut().find(|(peer, ..)| *peer == from) else { return false };
        *at = now;
        !std::mem::replace(alive, true)
    }

    /// Time passed.
    pub fn look(&mut self, now: Micros) -> Looked {
        let mut looked = Looked::default();
        if now >= self.pulse_at {
            self.pulse_at = now.plus(self.pulse_us);
            looked.pulse = true;
        }
        for (peer, at, alive) in &mut self.peers {
            if *alive && now >= at.plus(self.silence_us) {
                *alive = false;
                looked.dead.push(*peer);
            }
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_kills_once_and_a_frame_revives() {
        let timing = Timing::default();
        let (pulse, silence) = (micros(timing.pulse), micros(timing.silence));
        let mut detector = Detector::new(&[NodeId(2), NodeId(3)], &timing, Micros(0));
        assert_eq!(detector.look(Micros(0)), Looked { pulse: true, dead: vec![] });
        assert_eq!(detector.look(Micros(pulse - 1)), Looked::default());
        assert!(!detector.heard(NodeId(3), Micros(pulse)), "it was alive");
        assert_eq!(detector.look(Micros(silence - 1)), Looked { pulse: true, dead: vec![] });
        assert_eq!(detector.look(Micros(silence)).dead, [NodeId(2)]);
        assert_eq!(detector.look(Micros(silence + 1)), Looked::default(), "said once");
        assert!(detector.heard(NodeId(2), Micros(silence + 2)));
        assert_eq!(detector.look(Micros(pulse + silence)).dead, [NodeId(3)]);
    }
}
