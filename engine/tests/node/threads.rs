//! Workers on real threads.

use super::harness::{Answers, N1, append};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::ids::{
    ClientId, ClientSeq, Incarnation, NodeId, NodeWriteSeq, Offset, SYSTEM_SHARD, ShardId, TableId,
};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState};
use synod_engine::clock::MonotoneClock;
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{
    Answer, Body, HandOverInput, Input, Links, MergeHost, NodeInput, PeerInput, ProcessHost, ReadHost, Reply,
    ReplySink, Request, ScrubHost, SnapshotHost,
};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::memory::{Holder, Memory};
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WorkerId};
use synod_engine::runner::{self, WorkerHandle};
use synod_engine::state::StateStore;
use synod_engine::state::front::FrontState;
use synod_engine::state::mem::MemState;
use synod_engine::state::rocks::{RocksShared, StateOptions};
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{self, Gauges, WriterMode, WriterProgress};
use synod_paxos::message::Message;
use synod_paxos::types::Ballot;

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

impl MergeHost for Quiet {}

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
    metrics: Arc<EngineMetrics>,
    log: Arc<dyn LogStore>,
}

fn start(workers: u16, threaded: bool) -> OneNode {
    let stores = (0..workers).map(|_| Box::new(MemState::new()) as Box<dyn StateStore>).collect();
    // Each has rows of its own: no shard may go to another.
    start_over(stores, threaded, &WorkerOptions { balance_us: 0, ..WorkerOptions::default() })
}

/// Workers over a store each.
fn start_over(stores: Vec<Box<dyn StateStore>>, threaded: bool, options: &WorkerOptions) -> OneNode {
    start_with(stores, threaded, options, 1024, |_| ())
}

/// The same with so much room in each inbox, where something waits as the first round begins.
fn start_with(
    stores: Vec<Box<dyn StateStore>>,
    threaded: bool,
    options: &WorkerOptions,
    capacity: usize,
    waits: impl FnOnce(&WorkerHandle),
) -> OneNode {
    let workers = u16::try_from(stores.len()).unwrap();
    let memory = Memory::unlimited();
    let (handle, inputs) = runner::inputs_within(workers, capacity, memory.of(Holder::Inbox));
    waits(&handle);
    let clock = MonotoneClock::default();
    let log: Arc<dyn LogStore> = Arc::new(MemLog::new());
    let recovered = log.recover_node().unwrap();
    let incarnation = log.begin_incarnation().unwrap();
    let (progress, metrics) = (Arc::new(WriterProgress::default()), Arc::new(EngineMetrics::detached()));
    let (seen, shared) = (Arc::new(SeenTable::default()), Arc::new(NodeShared::over(handle.places(), incarnation)));
    if workers > 1 {
        shared.connect(handle.post());
    }
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
    for ((worker, mode), store) in (0..workers).map(WorkerId).zip(modes).zip(stores) {
        let setup = WorkerSetup {
            me: N1,
            worker,
            shared: Arc::clone(&shared),
            recovered: recovered.clone(),
            log: Arc::clone(&log),
            incarnation,
            store,
            seen: Arc::clone(&seen),
            progress: Arc::clone(&progress),
            metrics: Arc::clone(&metrics),
            clock: clock.shared(),
            memory: memory.clone(),
            mode,
            options: options.clone(),
        };
        node.push((worker, Worker::new(setup, host()).unwrap()));
    }
    let spawn = |((id, worker), inputs)| runner::spawn(id, worker, inputs, clock, Arc::default()).unwrap();
    let threads = node.into_iter().zip(inputs).map(spawn).collect();
    OneNode { handle, threads, progress, led, stopped, metrics, log }
}

/// The first key of a shard of the table.
fn key_of(shard: u64) -> String {
    format!("key-{shard}")
}

/// Founds a cluster with a table of so many shards, the first of which is shard 2, all led here.
fn found(handle: &WorkerHandle, led: &Mutex<BTreeSet<ShardId>>, shards: u64) -> Arc<Answers> {
    let founding = Box::new(SystemState::found(1, &["a:1".into()]));
    assert!(handle.try_push(NodeInput::CreateSystemShard(founding)).is_ok());
    wait("the system shard is led", || led.lock().unwrap().contains(&SYSTEM_SHARD));
    let answers = Arc::new(Answers::default());
    let command = SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: (1..shards).map(|n| key_of(n).into()).collect(),
        replicas: 1,
    };
    push(handle, &answers, 0, SYSTEM_SHARD, Op::System(command.encode()));
    wait("the table's shards are led", || led.lock().unwrap().len() as u64 == 1 + shards);
    answers
}

/// Waits for the answer to write `n`; the offset it got.
fn offset_of(answers: &Answers, n: u64) -> Offset {
    let mut found = None;
    wait("an answer", || {
        found = answers.take(n);
        found.is_some()
    });
    let Some(Ok(Answer::Outcome(Outcome::Written(results)))) = found else { panic!("{found:?}") };
    results[0].offset
}

fn one_node(workers: u16, threaded: bool) {
    let OneNode { handle, threads, progress, led, stopped, .. } = start(workers, threaded);
    let shards = u64::from(workers);
    let answers = found(&handle, &led, shards);
    for n in 1..=2000 {
        let op = Op::Write { table: TableId(1), ops: vec![append(&key_of(n % shards), "v")] };
        push(&handle, &answers, n, ShardId(2 + n % shards), op);
    }
    let mut written = BTreeMap::new();
    for n in 1..=2000 {
        let offset = written.entry(n % shards).or_insert(0);
        assert_eq!(offset_of(&answers, n), Offset(*offset), "{n}");
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
    let request = Request { shard, version: None, body: Body::Write(WriteRequest { id, op }), reply };
    assert!(handle.push(Input::Requests(vec![request])).is_ok());
}

#[test]
fn what_waits_after_a_stop_is_answered() {
    let answers = Arc::new(Answers::default());
    let stores = vec![Box::new(MemState::new()) as Box<dyn StateStore>];
    // More than one round takes.
    let asked = 3_000;
    let OneNode { threads, .. } = start_with(stores, false, &WorkerOptions::default(), 4_096, |handle| {
        assert!(handle.push(NodeInput::Stop).is_ok());
        (1..=asked).for_each(|n| write_to(handle, &answers, n, 0));
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let answered = (1..=asked).filter(|n| answers.take(*n).is_some()).count() as u64;
    assert_eq!(answered, asked);
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

/// Fronts of so many workers over one database.
fn fronts(dir: &std::path::Path, workers: u16) -> Vec<Box<dyn StateStore>> {
    let shared = RocksShared::open(dir, StateOptions::default()).unwrap();
    let fronts = FrontState::several(&shared, 4 << 20, workers).unwrap();
    fronts.into_iter().map(|front| Box::new(front) as Box<dyn StateStore>).collect()
}

fn write_to(handle: &WorkerHandle, answers: &Arc<Answers>, n: u64, shard: u64) {
    let op = Op::Write { table: TableId(1), ops: vec![append(&key_of(shard), "v")] };
    push(handle, answers, n, ShardId(2 + shard), op);
}

#[test]
fn a_shard_that_goes_from_worker_to_worker_under_writes_loses_none_and_doubles_none() {
    let dir = tempfile::tempdir().unwrap();
    let (workers, shards) = (2, 3);
    let options = WorkerOptions { balance_us: 0, ..WorkerOptions::default() };
    let OneNode { handle, threads, led, metrics, .. } = start_over(fronts(dir.path(), workers), true, &options);
    let answers = found(&handle, &led, shards);
    let moved = ShardId(2);
    let mut written = BTreeMap::<u64, u64>::new();
    let (mut asked, mut told) = (0, 0);
    // Each time it is with the other worker it is asked back, while every shard has writes under way: rows that another front still had,
    // and answers that another core was told of, would show as offsets that are not the next.
    for turn in 0..8 {
        let from = handle.worker_of(moved);
        let to = WorkerId(1 - from.0);
        wait("the shard is with the other worker", || {
            for _ in 0..20 {
                asked += 1;
                write_to(&handle, &answers, asked, asked % shards);
            }
            assert!(handle.push(HandOverInput::Begin { shard: moved, to }).is_ok());
            let mut offsets = BTreeMap::<u64, BTreeSet<Offset>>::new();
            while told < asked {
                told += 1;
                let new = offsets.entry(told % shards).or_default().insert(offset_of(&answers, told));
                assert!(new, "turn {turn}, write {told}: an offset came twice");
            }
            // Of writes that are under way at once no order is promised.
            for (shard, offsets) in offsets {
                let first = written.entry(shard).or_insert(0);
                let next = *first + offsets.len() as u64;
                let expected: BTreeSet<Offset> = (*first..next).map(Offset).collect();
                assert_eq!(offsets, expected, "turn {turn}, shard {shard}");
                *first = next;
            }
            handle.worker_of(moved) == to
        });
    }
    assert!(metrics.shards_handed_over_total.get() >= 8);
    assert!(handle.push(HandOverInput::Begin { shard: SYSTEM_SHARD, to: WorkerId(1) }).is_ok());
    assert!(handle.push(HandOverInput::Begin { shard: ShardId(99), to: WorkerId(1) }).is_ok());
    write_to(&handle, &answers, asked + 1, 0);
    assert_eq!(offset_of(&answers, asked + 1), Offset(written[&0]));
    assert_eq!(handle.worker_of(SYSTEM_SHARD), WorkerId::FIRST, "the system shard stays");
    assert!(handle.push(NodeInput::Stop).is_ok());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_marks_of_peers_that_a_shard_has_heard_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = WorkerOptions { balance_us: 0, ..WorkerOptions::default() };
    let OneNode { handle, threads, led, log, .. } = start_over(fronts(dir.path(), 2), true, &options);
    let answers = found(&handle, &led, 3);
    // Alone with its worker, which so writes nothing after it has gone.
    let alone = (0..3u64).find(|n| handle.worker_of(ShardId(2 + n)) == WorkerId(1)).expect("the rule spreads them");
    let id = ShardId(2 + alone);
    let (from, incarnation, write_seq) = (NodeId(2), Incarnation(5), NodeWriteSeq(77));
    let messages = vec![(id, Message::PreVoteGranted { ballot: Ballot::default() })];
    assert!(handle.push(PeerInput::Messages { from, incarnation, write_seq, messages }).is_ok());
    wait("the shard is with the other worker", || {
        // On a slow disk it stays at times.
        assert!(handle.push(HandOverInput::Begin { shard: id, to: WorkerId(0) }).is_ok());
        handle.worker_of(id) == WorkerId(0)
    });
    write_to(&handle, &answers, 1, alone);
    offset_of(&answers, 1);
    let seen = log.recover_node().unwrap().seen;
    assert_eq!(seen, [(from, incarnation, write_seq)], "what the shard writes may follow from what it heard");
    assert!(handle.push(NodeInput::Stop).is_ok());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_worker_that_has_all_of_the_load_hands_a_shard_to_an_idle_one() {
    let dir = tempfile::tempdir().unwrap();
    let (workers, shards) = (2, 8);
    let options = WorkerOptions { balance_us: 200_000, ..WorkerOptions::default() };
    let OneNode { handle, threads, led, metrics, .. } = start_over(fronts(dir.path(), workers), true, &options);
    let answers = found(&handle, &led, shards);
    let busy: Vec<u64> = (0..shards).filter(|n| handle.worker_of(ShardId(2 + n)) == WorkerId(0)).take(3).collect();
    assert_eq!(busy.len(), 3, "the rule spreads them");
    let mut n = 0;
    wait("a busy shard goes to the idle worker", || {
        let first = n + 1;
        for _ in 0..100 {
            for shard in &busy {
                n += 1;
                write_to(&handle, &answers, n, *shard);
            }
        }
        for answer in first..=n {
            offset_of(&answers, answer);
        }
        busy.iter().any(|shard| handle.worker_of(ShardId(2 + shard)) == WorkerId(1))
    });
    assert!(metrics.shards_handed_over_total.get() >= 1);
    assert!(handle.push(NodeInput::Stop).is_ok());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
