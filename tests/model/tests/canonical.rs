//! The model keeps replicas in a normal form; this holds that a replica acts alike in it and out of it.
//!
//! Random walks of a group with a running clock and write numbers that grow. At each step the same input is given to the
//! replica and to its normal form; outputs must be the same, and so must be the normal forms of what they became.

use std::collections::VecDeque;
use synod_model::bounds::epoch_of;
use synod_model::local::{DUE, Disk, EARLY, LATE, Reader};
use synod_model::paxos::Replica;
use synod_model::paxos::io::{Ctx, Input, Options, Output, Persist};
use synod_model::paxos::message::Message;
use synod_model::paxos::types::{HardState, Micros, NodeId, ReadId, WriteSeq};

/// As the model has them: leases are a matter of time.
fn timeless() -> Options {
    Options { lease: false, support_us: 0, stall_us: 0, ..Options::default() }
}

const HOUR: u64 = 3_600_000_000;

struct Node {
    replica: Replica,
    disk: Disk,
    queue: VecDeque<Persist>,
    confirmed: u64,
    /// Its own clock: one for all would let everybody's timers run out with anybody's.
    now: u64,
}

struct Group {
    nodes: Vec<Node>,
    links: Vec<VecDeque<Message>>,
    word: u64,
    compared: u64,
}

impl Group {
    fn new(seed: u64) -> Self {
        let first = epoch_of(1, &[1, 2, 3], 1);
        let node = |me: u64| {
            let disk = Disk { hard: HardState::initial(first.clone()), log: Vec::new() };
            let replica = Replica::new(NodeId(me), disk.recover(peers(me)), timeless());
            Node { replica, disk, queue: VecDeque::new(), confirmed: 0, now: 0 }
        };
        let links = (0..9).map(|_| VecDeque::new()).collect();
        // Neighbouring seeds begin alike.
        let word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { nodes: (1..=3).map(node).collect(), links, word, compared: 0 }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.word = self.word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.word >> 33) % limit
    }

    /// One step of a replica and of its normal form.
    fn step(&mut self, at: usize, input: Input) {
        let tick = matches!(input, Input::Tick);
        if tick {
            self.nodes[at].now += HOUR;
        } else if self.nodes[at].replica.deadline().is_some_and(|due| due.0 <= self.nodes[at].now) {
            // The normal form knows of no timer that runs out while something else happens.
            self.step(at, Input::Tick);
        }
        let node = &mut self.nodes[at];
        let reader = Reader(&node.disk.log);
        let mut normal = node.replica.clone();
        normal.canonicalise(DUE);
        let base = node.confirmed;
        let to_normal = match &input {
            Input::Persisted(seq) => Input::Persisted(WriteSeq(seq.0 - base)),
            other => other.clone(),
        };
        let (mut outputs, mut normals) = (Vec::new(), Vec::new());
        let now = Micros(node.now);
        if let Input::Persisted(seq) = &input {
            node.confirmed = seq.0;
        }
        node.replica.step(&Ctx { now, random: 1, log: &reader }, input, &mut outputs);
        let now = if tick { LATE } else { EARLY };
        normal.step(&Ctx { now, random: 1, log: &reader }, to_normal, &mut normals);
        assert_eq!(words(&outputs, base), words(&normals, 0), "outputs");
        let mut after = node.replica.clone();
        after.canonicalise(DUE);
        normal.canonicalise(DUE);
        assert_eq!(after, normal, "what became of it");
        self.compared += 1;
        for output in outputs {
            match output {
                Output::Send { to, message } => self.links[at * 3 + to.0 as usize - 1].push_back(message),
                Output::Persist(write) => self.nodes[at].queue.push_back(write),
                Output::Fatal(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn act(&mut self) {
        let at = self.below(3) as usize;
        let peer = NodeId(1 + (at as u64 + 1 + self.below(2)) % 3);
        match self.below(120) {
            0 => self.step(at, Input::Tick),
            1 => self.step(at, Input::Campaign),
            2 | 3 => self.step(at, Input::Propose { commands: vec![(0, bytes::Bytes::from_static(b"c"))] }),
            4 => self.step(at, Input::PeerLiveness { node: peer, alive: false }),
            5 | 6 => self.step(at, Input::PeerLiveness { node: peer, alive: true }),
            7 => self.step(at, Input::TransferTo(peer)),
            8 => self.step(at, Input::ReadIndex(ReadId(1))),
            9 => {
                let epoch = self.nodes[at].replica.status().membership.epoch.0 + 1;
                let membership = epoch_of(epoch, &[1, 2, 3], peer.0);
                self.step(at, Input::ChangeConfig { membership, ts: 0 });
            }
            10 => self.crash(at),
            11..=50 => self.sync(at),
            _ => {
                let link = self.below(9) as usize;
                if let Some(message) = self.links[link].pop_front() {
                    self.step(link % 3, Input::Message { from: NodeId(link as u64 / 3 + 1), message });
                }
            }
        }
    }

    fn sync(&mut self, at: usize) {
        let waiting = self.nodes[at].queue.len() as u64;
        if waiting > 0 {
            let count = 1 + self.below(waiting);
            for _ in 0..count {
                let write = self.nodes[at].queue.pop_front().expect("counted");
                let seq = write.seq;
                self.nodes[at].disk.write(write).expect("a sound write");
                if self.nodes[at].queue.len() as u64 == waiting - count {
                    self.step(at, Input::Persisted(seq));
                }
            }
        }
    }

    fn crash(&mut self, at: usize) {
        for other in 0..3 {
            self.links[other * 3 + at].clear();
        }
        let me = at as u64 + 1;
        let node = &mut self.nodes[at];
        node.queue.clear();
        node.confirmed = 0;
        node.replica = Replica::new(NodeId(me), node.disk.recover(peers(me)), timeless());
    }
}

fn peers(me: u64) -> Vec<NodeId> {
    (1..=3).filter(|node| *node != me).map(NodeId).collect()
}

/// Outputs but for what is shown of the role, writes counted from `base`.
fn words(outputs: &[Output], base: u64) -> Vec<String> {
    let shown = outputs.iter().filter(|output| !matches!(output, Output::RoleChanged { .. }));
    let counted = shown.map(|output| match output {
        Output::Persist(write) => format!("{:?}", Persist { seq: WriteSeq(write.seq.0 - base), ..write.clone() }),
        other => format!("{other:?}"),
    });
    counted.collect()
}

#[test]
fn a_replica_acts_alike_in_its_normal_form() {
    let (mut compared, mut epochs, mut longest) = (0, 0, 0);
    for seed in 0..1_000 {
        let mut group = Group::new(seed);
        for at in 0..3 {
            group.step(at, Input::Tick);
        }
        (0..1_000).for_each(|_| group.act());
        compared += group.compared;
        let status = group.nodes.iter().map(|node| node.replica.status());
        epochs += u64::from(status.clone().any(|s| s.membership.epoch.0 > 1));
        longest = longest.max(status.map(|s| s.committed_durable.0).max().unwrap_or(0));
    }
    println!("{compared} steps compared, {epochs} walks left the first epoch, {longest} slots chosen at most");
    assert!(epochs > 100 && longest > 10, "the walks go nowhere");
}
