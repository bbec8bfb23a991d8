//! Reads that wait while the bounds of their shard change. Nobody proposes splits yet: one is applied to the state as it stands.

use super::*;
use crate::command::{Admin, Op, Split, WriteId, WriteRequest, encode_admin, encode_requests};
use crate::host::{
    Answer, FetchRequest, Links, MergeHost, ProcessHost, ReadHost, ReplySink, Scan, ScrubHost, SnapshotHost,
};
use crate::logstore::mem::MemLog;
use crate::logstore::{GroupRecovered, NodeRecovered};
use crate::machine::tests::bench::{Bench, TABLE, append};
use crate::machine::{Effects, Wanted};
use crate::memory::Memory;
use crate::metrics::EngineMetrics;
use crate::node::{NodeShared, WorkerId};
use crate::setup::{WorkerOptions, WorkerSetup};
use crate::state::mem::ColdRows;
use crate::writer::WriterMode;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{
    Ballot, ClientId, ClientSeq, Entry, EntryId, HardState, Incarnation, NodeId, NodeWriteSeq, ShardId,
};
use synod_cluster::system::{Partitioning, Retention, SystemState};
use synod_paxos::message::Message;
use synod_paxos::types::{Epoch, Payload};

/// Keeps the rows that it is to fetch, and does nothing else.
#[derive(Default)]
struct Quiet {
    fetches: Vec<FetchRequest>,
}

impl Links for Quiet {
    fn send(&mut self, _to: NodeId, _shard: ShardId, _message: Message) {}

    fn flush(&mut self, _durable: NodeWriteSeq) {}
}

impl ProcessHost for Quiet {
    fn map_changed(&mut self, _map: Arc<SystemState>) {}

    fn role_changed(&mut self, _shard: ShardId, _leader: Option<NodeId>, _here: bool) {}

    fn drained(&mut self) {}

    fn fatal(&mut self, why: String) -> ! {
        panic!("fatal: {why}")
    }

    fn quarantined(&mut self, _why: &str) {}

    fn random(&mut self) -> u64 {
        4
    }
}

impl SnapshotHost for Quiet {}

impl ScrubHost for Quiet {}

impl MergeHost for Quiet {}

impl ReadHost for Quiet {
    fn fetches_rows(&self) -> bool {
        true
    }

    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        self.fetches.push(request);
        true
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<(u64, Result<Answer, Refusal>)>>);

impl ReplySink for Told {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        self.0.lock().unwrap().push((id, answer));
    }
}

/// A shard with the keys a, m and z, whose core takes no inputs.
struct Bed {
    node: Node<Quiet>,
    shard: Shard,
    told: Arc<Told>,
    asked: u64,
}

impl Bed {
    fn new(cold: Option<&ColdRows>) -> Self {
        let mut b = Bench::new(Partitioning::Range, Retention::All);
        for (ts, key) in [(10, "a"), (20, "m"), (30, "z")] {
            b.write(ts, vec![append(key, &["v"])]).unwrap();
        }
        let Bench { mut store, state, .. } = b;
        if let Some(cold) = cold {
            store = store.cold(cold);
        }
        let incarnation = Incarnation(1);
        let setup = WorkerSetup {
            me: NodeId(1),
            worker: WorkerId::FIRST,
            shared: Arc::new(NodeShared::new(1, incarnation)),
            recovered: NodeRecovered::default(),
            incarnation,
            log: Arc::new(MemLog::new()),
            store: Box::new(store),
            seen: Arc::default(),
            progress: Arc::default(),
            metrics: Arc::new(EngineMetrics::detached()),
            clock: Arc::new(|| Micros(1)),
            memory: Memory::unlimited(),
            mode: WriterMode::Inline,
            options: WorkerOptions::default(),
        };
        let recovered = GroupRecovered {
            genesis: Bytes::new(),
            hard: HardState::initial(state.descriptor().membership.clone()),
            space: None,
            trimmed: EntryId::ZERO,
            runs: Vec::new(),
            last: EntryId::ZERO,
            last_ts: 0,
            sizes: Vec::new(),
        };
        let node = Node::new(setup, Quiet::default());
        let shard = Shard::new(state.descriptor().shard, recovered, state);
        Self { node, shard, told: Arc::default(), asked: 0 }
    }

    fn ask(&mut self, read: Read, freshness: Freshness) {
        self.asked += 1;
        let reply = Reply { sink: Arc::clone(&self.told) as Arc<dyn ReplySink>, id: self.asked };
        self.shard.take_read(&mut self.node, read, freshness, reply);
    }

    fn told(&mut self) -> Vec<(u64, Result<Answer, Refusal>)> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }

    fn apply(&mut self, ts: u64, data: Bytes) -> Effects {
        let origin = Ballot::first(Epoch(1), NodeId(1));
        let id = EntryId { slot: self.shard.state.applied().next(), origin };
        let entry = Entry::new(id, ts, 0, Payload::Command(data));
        let Node { store, overlay, .. } = &mut self.node;
        let effects = self.shard.state.apply(&mut **store, overlay, &entry, Wanted::Results).unwrap();
        self.shard.reads.state_moved();
        effects
    }

    /// From `m` on the shard is another one's.
    fn split(&mut self) {
        let split = Split {
            child: ShardId(9),
            at: Bytes::from_static(b"m"),
            version: self.shard.state.descriptor().version,
            epoch: Epoch(1),
            voters: vec![NodeId(1)],
            confirmed: vec![],
        };
        let effects = self.apply(100, encode_admin(&Admin::Split(split)));
        assert!(effects.child.is_some(), "{:?}", effects.refused);
    }

    fn write(&mut self, seq: u64, key: &str) {
        let id = WriteId { client: ClientId(7), seq: ClientSeq(seq), floor: ClientSeq(0), deadline_us: u64::MAX };
        let request = WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![append(key, &["v"])] } };
        let effects = self.apply(200, encode_requests([&request].into_iter(), 0));
        assert!(effects.results[0].is_ok());
    }

    fn answer(&mut self) {
        self.shard.answer_reads(&mut self.node);
    }

    /// The leader's word on what was asked last.
    fn confirm(&mut self, slot: Slot) {
        self.shard.ask_reads(&mut self.node);
        let id = self.shard.reads.asked.back().expect("a question").id;
        self.shard.reads.ready(&[id], slot, self.node.now);
    }
}

fn scan() -> Read {
    Read::Scan(Scan::default())
}

/// Of all positions, and what comes from now on.
fn tail(bed: &Bed) -> Read {
    let segments = vec![(Bytes::new(), Bytes::new(), bed.shard.state.last_ts())];
    let (from, to) = (Bytes::new(), Bytes::new());
    Read::Tail(TailPoll { from, to, segments, limit: 0, wait_us: 1_000_000, tells_trimmed: false })
}

fn keys(answer: &Result<Answer, Refusal>) -> Vec<Bytes> {
    match answer {
        Ok(Answer::Page { records, .. } | Answer::Tail { records, .. }) => {
            records.iter().map(|record| record.key.clone()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn wrong_shard(told: &[(u64, Result<Answer, Refusal>)], id: u64) {
    assert!(matches!(told, [(of, Err(Refusal::WrongShard))] if *of == id), "{told:?}");
}

/// Answered, it would say that the shard ends with the keys below the split, and its client would take that for the end of all.
#[test]
fn a_scan_that_waits_while_its_shard_is_split_is_refused() {
    let mut bed = Bed::new(None);
    bed.ask(scan(), Freshness::Linearizable);
    bed.confirm(Slot(4));
    bed.answer();
    assert!(bed.told().is_empty(), "the split's slot is not applied");
    bed.split();
    bed.answer();
    wrong_shard(&bed.told(), 1);
    bed.ask(scan(), Freshness::Linearizable);
    bed.confirm(Slot(4));
    bed.answer();
    let told = bed.told();
    assert_eq!(keys(&told[0].1), ["a"], "who asks now asks for what there is");
}

#[test]
fn a_scan_that_waits_for_rows_while_its_shard_is_split_is_refused() {
    let cold = ColdRows::default();
    let mut bed = Bed::new(Some(&cold));
    bed.ask(scan(), Freshness::Local);
    let tickets: Vec<u64> = bed.node.host.fetches.iter().map(|fetch| fetch.ticket).collect();
    assert!(bed.told().is_empty() && tickets.len() == 1, "{tickets:?}");
    bed.split();
    bed.shard.rows_fetched(&mut bed.node, tickets[0]);
    wrong_shard(&bed.told(), 1);
    assert_eq!(bed.shard.fetches.waiting(), 0);
}

/// Answered, it would say that there is nothing new up to a time at which the child may have records already.
#[test]
fn a_tail_that_waits_while_its_shard_is_split_is_refused_at_once() {
    let mut bed = Bed::new(None);
    bed.ask(tail(&bed), Freshness::Local);
    bed.answer();
    assert!(bed.told().is_empty() && bed.shard.reads.tails() == 1);
    bed.split();
    bed.answer();
    wrong_shard(&bed.told(), 1);
    assert_eq!((bed.shard.reads.tails(), bed.node.tails), (0, 0));

    bed.ask(tail(&bed), Freshness::Local);
    bed.answer();
    assert!(bed.told().is_empty(), "one that is asked of the new bounds waits");
    bed.write(1, "b");
    bed.answer();
    let told = bed.told();
    assert_eq!((told[0].0, keys(&told[0].1)), (2, vec![Bytes::from_static(b"b")]));
}

#[test]
fn a_tail_whose_time_ends_after_a_split_is_refused_whatever_it_waits_for() {
    // The end of its time is known here, or asked of the leader.
    for known in [true, false] {
        let mut bed = Bed::new(None);
        bed.ask(tail(&bed), Freshness::Local);
        assert_eq!(bed.shard.reads.tails(), 1);
        bed.node.now = Micros(2_000_000);
        if known {
            bed.shard.reads.complete = Some((Micros(1_900_000), Slot(3)));
        }
        bed.split();
        bed.shard.timer_fired(&mut bed.node);
        if !known {
            assert!(bed.told().is_empty() && bed.shard.reads.has_queued());
            bed.confirm(Slot(4));
            bed.answer();
        }
        wrong_shard(&bed.told(), 1);
    }
}
