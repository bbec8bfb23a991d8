//! Workers on real threads.

use super::harness::{Answers, N1, append};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClientId, ClientSeq, NodeId, NodeWriteSeq, Offset, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState};
use synod_engine::clock::MonotoneClock;
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{
    Answer, Body, Input, Links, NodeInput, ProcessHost, ReadHost, Reply, ReplySink, Request, ScrubHost, SnapshotHost,
};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::memory::{Holder, Memory};
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WorkerId};
use synod_engine::runner::{self, WorkerHandle};
use synod_engine::state::mem::MemState;
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{self, Gauges, WriterMode, WriterProgress};
use synod_paxos::message::Message;

struct Quiet {
    handle: WorkerHandle,
    led: Arc<Mutex<BTreeSet<ShardId>>>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

impl Links for Quiet {
    fn send(&mut self, _: NodeId, _: ShardId, _: Message) {}
    fn flush(&mut self, _: NodeWriteSeq) {}
}

impl ProcessHost for Quiet {
    fn map_changed(&mut self, map: Arc<SystemState>) {
        assert!(self.handle.try_push(NodeInput::Map(map)).is_ok());
    }
    fn role_changed(&mut self, shard: ShardId, _: Option<NodeId>, here: bool) {
        if here {
            self.led.lock().unwrap().insert(shard);
        }
    }
    fn drained(&mut self) {}
    fn fatal(&mut self, why: String) -> ! {
        panic!("{why}")
    }
    fn quarantined(&mut self, _: &str) {}
    fn random(&mut self) -> u64 {
        7
    }
}

impl SnapshotHost for Quiet {}

impl ScrubHost for Quiet {}

impl ReadHost for Quiet {}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a node's workers run over.
struct OneNode {
    handle: WorkerHandle,
    threads: Vec<std::thread::JoinHandle<()>>,
    progress: Arc<WriterProgress>,
    led: Arc<Mutex<BTreeSet<ShardId>>>,
    stopped: Arc<AtomicBool>,
}

fn start(workers: u16, threaded: bool) -> OneNode {
    let memory = Memory::unlimited();
    let (handle, inputs) = runner::inputs_within(workers, 1024, memory.of(Holder::Inbox));
    let clock = MonotoneClock::default();
    let log: Arc<dyn LogStore> = Arc::new(MemLog::new());
    let recovered = log.recover_node().unwrap();
    let incarnation = log.begin_incarnation().unwrap();
    let (progress, metrics) = (Arc::new(WriterProgress::default()), Arc::new(EngineMetrics::detached()));
    let (seen, shared) = (Arc::new(SeenTable::default()), Arc::new(NodeShared::new(workers, incarnation)));
    let modes: Vec<WriterMode> = if threaded {
        let gauges = Gauges { progress: Arc::clone(&progress), metrics: Arc::clone(&metrics), clock: clock.shared() };
        let queues = writer::spawn(Arc::clone(&log), gauges, recovered.seq, Arc::clone(&seen), handle.wakes()).unwrap();
        queues.into_iter().map(WriterMode::Queue).collect()
    } else {
        vec![WriterMode::Inline]
    };
    let (led, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let host = || Quiet { handle: handle.clone(), led: Arc::clone(&led), stopped: Arc::clone(&stopped) };
    let mut node = Vec::new();
    for (worker, mode) in (0..workers).map(WorkerId).zip(modes) {
        let setup = WorkerSetup {
            me: N1,
            worker,
            shared: Arc::clone(&shared),
            recovered: recovered.clone(),
            log: Arc::clone(&log),
            incarnation,
            store: Box::new(MemState::new()),
            seen: Arc::clone(&seen),
            progress: Arc::clone(&progress),
            metrics: Arc::clone(&metrics),
            clock: clock.shared(),
            memory: memory.clone(),
            mode,
            options: WorkerOptions::default(),
        };
        node.push((worker, Worker::new(setup, host()).unwrap()));
    }
    let spawn = |((id, worker), inputs)| runner::spawn(id, worker, inputs, clock, Arc::default()).unwrap();
    let threads = node.into_iter().zip(inputs).map(spawn).collect();
    OneNode { handle, threads, progress, led, stopped }
}

/// The first key of a shard of the table.
fn key_of(shard: u64) -> String {
    format!("key-{shard}")
}

fn one_node(workers: u16, threaded: bool) {
    let OneNode { handle, threads, progress, led, stopped } = start(workers, threaded);
    let founding = Box::new(SystemState::found(1, &["a:1".into()]));
    assert!(handle.try_push(NodeInput::CreateSystemShard(founding)).is_ok());
    wait("the system shard is led", || led.lock().unwrap().contains(&SYSTEM_SHARD));
    let answers = Arc::new(Answers::default());
    let command = SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: (1..workers).map(|n| key_of(n.into()).into()).collect(),
        replicas: 1,
    };
    push(&handle, &answers, 0, SYSTEM_SHARD, Op::System(command.encode()));
    let shards = u64::from(workers);
    wait("the table's shards are led", || led.lock().unwrap().len() as u64 == 1 + shards);
    for n in 1..=2000 {
        let op = Op::Write { table: TableId(1), ops: vec![append(&key_of(n % shards), "v")] };
        push(&handle, &answers, n, ShardId(2 + n % shards), op);
    }
    let mut written = BTreeMap::new();
    for n in 1..=2000 {
        let mut found = None;
        wait("an answer", || {
            found = answers.take(n);
            found.is_some()
        });
        let Some(Ok(Answer::Outcome(Outcome::Written(results)))) = found else { panic!("{found:?}") };
        let offset = written.entry(n % shards).or_insert(0);
        assert_eq!(results[0].offset, Offset(*offset), "{n}");
        *offset += 1;
    }
    assert!(progress.writes_done() > 0);
    assert!(handle.push(NodeInput::Stop).is_ok());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(stopped.load(Ordering::SeqCst));
    assert!(handle.try_push(NodeInput::Drain).is_err());
}

fn push(handle: &WorkerHandle, answers: &Arc<Answers>, n: u64, shard: ShardId, op: Op) {
    let id = WriteId { client: ClientId(1), seq: ClientSeq(n), floor: ClientSeq(0), deadline_us: u64::MAX };
    let reply = Reply { sink: Arc::clone(answers) as Arc<dyn ReplySink>, id: n };
    let request = Request { shard, epoch: None, body: Body::Write(WriteRequest { id, op }), reply };
    assert!(handle.push(Input::Requests(vec![request])).is_ok());
}

#[test]
fn a_worker_runs_on_its_own_thread() {
    one_node(1, false);
}

#[test]
fn a_worker_runs_beside_a_log_writer_thread() {
    one_node(1, true);
}

#[test]
fn several_workers_run_beside_one_log_writer_thread() {
    one_node(3, true);
}
