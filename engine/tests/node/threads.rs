//! Workers on real threads.

use super::harness::{Answers, N1, append};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClientId, ClientSeq, NodeId, NodeWriteSeq, Offset, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState};
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{Answer, Body, Host, Input, Reply, ReplySink, Request};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::metrics::EngineMetrics;
use synod_engine::runner::{self, MonotoneClock, WorkerHandle};
use synod_engine::state::mem::MemState;
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{WriterMode, WriterProgress};
use synod_paxos::message::Message;

struct Quiet {
    led: Arc<Mutex<BTreeSet<ShardId>>>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

impl Host for Quiet {
    fn send(&mut self, _: NodeId, _: ShardId, _: Message) {}
    fn flush(&mut self, _: NodeWriteSeq) {}
    fn map_changed(&mut self, _: Arc<SystemState>) {}
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

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn one_node(threaded: bool) {
    let (handle, inputs) = runner::inputs(1024);
    let clock = MonotoneClock::default();
    let log = Arc::new(MemLog::new());
    let recovered = log.recover_node().unwrap();
    let incarnation = log.begin_incarnation().unwrap();
    let progress = Arc::new(WriterProgress::default());
    let setup = WorkerSetup {
        me: N1,
        recovered,
        incarnation,
        log: Arc::clone(&log) as Arc<dyn LogStore>,
        store: Box::new(MemState::new()),
        seen: Arc::new(SeenTable::default()),
        progress: Arc::clone(&progress),
        metrics: Arc::new(EngineMetrics::detached()),
        clock: clock.shared(),
        memory: synod_engine::memory::Memory::unlimited(),
        mode: if threaded { WriterMode::Thread(handle.wake()) } else { WriterMode::Inline },
        options: WorkerOptions::default(),
    };
    let (led, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let host = Quiet { led: Arc::clone(&led), stopped: Arc::clone(&stopped) };
    let thread = runner::spawn(Worker::new(setup, host).unwrap(), inputs, clock, Arc::default()).unwrap();
    let founding = Box::new(SystemState::found(1, &["a:1".into()]));
    assert!(handle.try_push(Input::CreateSystemShard(founding)).is_ok());
    wait("the system shard is led", || led.lock().unwrap().contains(&SYSTEM_SHARD));
    let answers = Arc::new(Answers::default());
    let command = SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        shards: 1,
        splits: vec![],
        replicas: 1,
    };
    push(&handle, &answers, 0, SYSTEM_SHARD, Op::System(command.encode()));
    wait("the table's shard is led", || led.lock().unwrap().len() == 2);
    for n in 1..=2000 {
        let op = Op::Write { table: TableId(1), ops: vec![append("k", "v")] };
        push(&handle, &answers, n, ShardId(2), op);
    }
    for n in 1..=2000 {
        let mut found = None;
        wait("an answer", || {
            found = answers.take(n);
            found.is_some()
        });
        let Some(Ok(Answer::Outcome(Outcome::Written(results)))) = found else { panic!("{found:?}") };
        assert_eq!(results[0].offset, Offset(n - 1));
    }
    assert!(progress.writes_done() > 0);
    assert!(handle.push(Input::Stop).is_ok());
    thread.join().unwrap();
    assert!(stopped.load(Ordering::SeqCst));
    assert!(handle.try_push(Input::Drain).is_err());
}

fn push(handle: &WorkerHandle, answers: &Arc<Answers>, n: u64, shard: ShardId, op: Op) {
    let id = WriteId { client: ClientId(1), seq: ClientSeq(n), floor: ClientSeq(0), deadline_us: u64::MAX };
    let reply = Reply { sink: Arc::clone(answers) as Arc<dyn ReplySink>, id: n };
    let request = Request { shard, epoch: None, body: Body::Write(WriteRequest { id, op }), reply };
    assert!(handle.push(Input::Requests(vec![request])).is_ok());
}

#[test]
fn a_worker_runs_on_its_own_thread() {
    one_node(false);
}

#[test]
fn a_worker_runs_beside_a_log_writer_thread() {
    one_node(true);
}
