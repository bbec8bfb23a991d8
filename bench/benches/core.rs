//! What the consensus core costs: three replicas in one thread, writes durable at once, messages delivered in order.
//!
//! Owns: a driver of the smallest kind. Must never: measure a codec, a disk or a network.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use synod_paxos::Replica;
use synod_paxos::io::{Ctx, Input, LogReader, Options, Output, Recovered};
use synod_paxos::message::Message;
use synod_paxos::types::{Entry, EntryId, Epoch, HardState, Member, MemberRole, Membership, Micros, NodeId, Slot};

/// A log in memory; entries below the first were trimmed.
#[derive(Default)]
struct Memory(VecDeque<Entry>);

impl LogReader for Memory {
    fn entries(&self, from: Slot, upto: Slot, _max_bytes: usize) -> Result<Vec<Entry>, String> {
        Ok(self.0.iter().filter(|e| e.id.slot > from && e.id.slot <= upto).cloned().collect())
    }
}

struct Node {
    replica: Replica,
    log: Memory,
    applied: Slot,
}

/// A group of three whose first node leads.
struct Trio {
    nodes: Vec<Node>,
    inbox: VecDeque<(NodeId, NodeId, Message)>,
    now: Micros,
    ts: u64,
}

impl Trio {
    fn new() -> Trio {
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        let members = ids.iter().map(|&node| Member { node, role: MemberRole::Voter }).collect();
        let membership = Membership { epoch: Epoch(1), members, first_leader: NodeId(1) };
        let node = |me: NodeId| {
            let recovered = Recovered {
                hard: HardState::initial(membership.clone()),
                trimmed: EntryId::ZERO,
                runs: Vec::new(),
                last: EntryId::ZERO,
                last_ts: 0,
                applied: Slot(0),
                live: ids.to_vec(),
            };
            Node { replica: Replica::new(me, recovered, Options::default()), log: Memory::default(), applied: Slot(0) }
        };
        let mut trio =
            Trio { nodes: ids.iter().map(|&id| node(id)).collect(), inbox: VecDeque::new(), now: Micros(1), ts: 1 };
        for at in 0..3 {
            trio.step(at, Input::Tick);
        }
        trio.settle();
        while !trio.nodes[0].replica.is_leader() {
            trio.now = trio.now.plus(50_000);
            for at in 0..3 {
                trio.step(at, if at == 0 { Input::Campaign } else { Input::Tick });
            }
            trio.settle();
        }
        trio
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            let node = &mut self.nodes[at];
            node.replica.step(&Ctx { now: self.now, random: 7, log: &node.log }, input, &mut out);
            for output in out {
                match output {
                    Output::Send { to, message } => self.inbox.push_back((NodeId(at as u64 + 1), to, message)),
                    Output::Persist(write) => {
                        if let Some(from) = write.truncate_from {
                            node.log.0.retain(|e| e.id.slot < from);
                        }
                        node.log.0.extend(write.append);
                        inputs.push_back(Input::Persisted(write.seq));
                    }
                    Output::Committed(upto) => {
                        let entries = node.replica.entries_to_apply(&node.log, node.applied, upto, usize::MAX);
                        black_box(entries.expect("a log in memory does not fail"));
                        node.applied = upto;
                        inputs.push_back(Input::Applied(upto));
                    }
                    Output::TrimTo(upto) => {
                        let upto = upto.min(node.applied);
                        node.log.0.retain(|e| e.id.slot > upto);
                        node.replica.trimmed(upto);
                    }
                    Output::Fatal(why) => panic!("node {}: {why}", at + 1),
                    _ => {}
                }
            }
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.inbox.pop_front() {
            self.step(to.0 as usize - 1, Input::Message { from, message });
        }
    }

    /// Commands proposed together, until all three replicas have applied them.
    fn propose(&mut self, commands: &[Bytes]) {
        self.now = self.now.plus(100);
        self.ts += commands.len() as u64;
        let commands = commands.iter().map(|c| (self.ts, c.clone())).collect();
        self.step(0, Input::Propose { commands });
        self.settle();
        // The followers learn what is chosen from a notice.
        self.now = self.now.plus(Options::default().notice_us);
        self.step(0, Input::Tick);
        self.settle();
    }
}

fn propose(c: &mut Criterion) {
    let mut group = c.benchmark_group("core/propose_256B");
    for count in [1usize, 16, 256] {
        let commands: Vec<Bytes> = (0..count).map(|i| Bytes::from(vec![i as u8; 256])).collect();
        let mut trio = Trio::new();
        trio.propose(&commands);
        let before = trio.nodes[2].applied;
        trio.propose(&commands);
        assert_eq!(trio.nodes[2].applied.0 - before.0, count as u64, "every replica applies what was proposed");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count}_a_proposal"), |b| b.iter(|| trio.propose(black_box(&commands))));
    }
    group.finish();
}

fn elect(c: &mut Criterion) {
    let mut group = c.benchmark_group("core/new_group_to_first_leader");
    group.bench_function("three_replicas", |b| {
        b.iter_batched(|| (), |()| black_box(Trio::new()), BatchSize::SmallInput)
    });
    group.finish();
}

criterion_group!(benches, propose, elect);
criterion_main!(benches);
