//! Synod's core behind the harness.
//!
//! Owns: the driving of a `Replica`, and its failure detector. Must never: hand out a message before the core does.

mod detector;

use crate::consensus::{Core, Work};
use crate::setting::{BenchError, Reader, Result, SHARD, Timing, limits, membership, micros, nodes};
use bytes::Bytes;
use detector::Detector;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use synod_engine::codec::message;
use synod_engine::logstore::GroupWrite;
use synod_engine::logstore::rocks::RocksLog;
use synod_paxos::Replica;
use synod_paxos::io::{Ctx, Input, Options, Output, Recovered};
use synod_paxos::types::{EntryId, HardState, Micros, NodeId, Payload, Slot, WriteSeq};

/// A pulse of the failure detector: the frame without a message in it.
const PULSE: &[u8] = &[];

/// One replica.
pub struct PaxosCore {
    me: NodeId,
    peers: Vec<NodeId>,
    replica: Replica,
    log: Reader,
    detector: Detector,
    random: u64,
    applied: Slot,
    staged: Option<WriteSeq>,
    work: Work,
    tick_us: u64,
    told: Micros,
}

impl PaxosCore {
    fn stopped(&self, why: impl Into<String>) -> BenchError {
        BenchError::Stopped { node: self.me, why: why.into() }
    }

    /// The next of a sequence that no two replicas share (SplitMix64).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Carries out what needs no disk; whether the input was accepted.
    fn step(&mut self, input: Input, now: Micros) -> Result<bool> {
        let (mut inputs, mut accepted) = (VecDeque::from([input]), true);
        while let Some(input) = inputs.pop_front() {
            let (random, mut out) = (self.random(), Vec::new());
            self.replica.step(&Ctx { now, random, log: &self.log }, input, &mut out);
            for output in out {
                match output {
                    Output::Send { to, message } => self.work.sends.push((to, message::encode(&message))),
                    Output::Persist(write) => {
                        self.staged = Some(write.seq);
                        self.work.writes.push(GroupWrite {
                            shard: SHARD,
                            hard: write.hard,
                            truncate_from: write.truncate_from,
                            append: write.append,
                            ..GroupWrite::default()
                        });
                    }
                    Output::Committed(upto) => {
                        self.apply(upto)?;
                        inputs.push_back(Input::Applied(upto));
                    }
                    Output::Refused { .. } => accepted = false,
                    Output::Fatal(why) => return Err(self.stopped(why)),
                    // The log is kept whole, and nobody falls behind a trim point that is not there.
                    _ => {}
                }
            }
        }
        Ok(accepted)
    }

    fn apply(&mut self, upto: Slot) -> Result<()> {
        let found = self.replica.entries_to_apply(&self.log, self.applied, upto, usize::MAX);
        let entries = found.map_err(|why| self.stopped(why))?;
        self.applied = upto;
        for entry in entries {
            if let Payload::Command(command) = entry.payload {
                self.work.applied.push(command);
            }
        }
        Ok(())
    }
}

impl Core for PaxosCore {
    const NAME: &'static str = "paxos";

    fn open(me: NodeId, log: Arc<RocksLog>, timing: &Timing, now: Micros) -> Result<Self> {
        let peers: Vec<NodeId> = nodes().into_iter().filter(|&node| node != me).collect();
        let recovered = Recovered {
            hard: HardState::initial(membership()),
            trimmed: EntryId::ZERO,
            runs: Vec::new(),
            last: EntryId::ZERO,
            last_ts: 0,
            applied: Slot(0),
            live: nodes().to_vec(),
        };
        let options = Options { jitter_us: micros(timing.jitter), ..limits() };
        let mut core = PaxosCore {
            me,
            replica: Replica::new(me, recovered, options),
            log: Reader(log),
            detector: Detector::new(&peers, timing, now),
            peers,
            random: RandomState::new().hash_one(me.0),
            applied: Slot(0),
            staged: None,
            work: Work::default(),
            tick_us: micros(timing.tick),
            told: now,
        };
        core.step(Input::Tick, now)?;
        Ok(core)
    }

    fn tick(&mut self, now: Micros) -> Result<()> {
        let looked = self.detector.look(now);
        if looked.pulse {
            self.work.sends.extend(self.peers.iter().map(|&peer| (peer, Bytes::from_static(PULSE))));
        }
        for node in looked.dead {
            self.step(Input::PeerLiveness { node, alive: false }, now)?;
        }
        self.told = now;
        if self.replica.deadline().is_some_and(|at| at <= now) {
            self.step(Input::Tick, now)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Micros {
        let next = self.told.plus(self.tick_us);
        self.replica.deadline().map_or(next, |at| at.min(next))
    }

    fn receive(&mut self, from: NodeId, frame: Bytes, now: Micros) -> Result<()> {
        if self.detector.heard(from, now) {
            self.step(Input::PeerLiveness { node: from, alive: true }, now)?;
        }
        if frame == PULSE {
            return Ok(());
        }
        let message = message::decode(frame).map_err(|e| BenchError::Message { from, why: e.to_string() })?;
        self.step(Input::Message { from, message }, now).map(|_| ())
    }

    fn propose(&mut self, payload: Bytes, now: Micros) -> Result<bool> {
        self.step(Input::Propose { commands: vec![(now.0, payload)] }, now)
    }

    fn work(&mut self) -> Result<Work> {
        Ok(std::mem::take(&mut self.work))
    }

    fn persisted(&mut self, now: Micros) -> Result<()> {
        match self.staged.take() {
            Some(seq) => self.step(Input::Persisted(seq), now).map(|_| ()),
            None => Ok(()),
        }
    }

    fn leads(&self) -> bool {
        self.replica.is_leader()
    }
}
