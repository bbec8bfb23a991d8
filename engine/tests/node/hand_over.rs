//! A shard that goes from one worker to another, round by round: what comes for it on the way.

#[path = "hand_over_children.rs"]
mod children;

use super::harness::{Answers, N1, append};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use synod_cluster::ids::{
    ClientId, ClientSeq, ClusterVersion, NodeId, NodeWriteSeq, Offset, SYSTEM_SHARD, ShardId, Slot, Space, TableId,
};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemState};
use synod_engine::command::{Op, Outcome, WriteId, WriteRequest};
use synod_engine::host::{
    AdminInput, Answer, At, Body, FetchRequest, Freshness, HandOverInput, Input, Links, MergeHost, NodeInput,
    ProcessHost, Read, ReadHost, Reply, ReplySink, Request, RowsFetched, ScrubHost, SnapshotHost, SnapshotKind,
};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::memory::Memory;
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WorkerId, route};
use synod_engine::state::BulkLoad;
use synod_engine::state::front::FrontState;
use synod_engine::state::rocks::{RocksShared, StateOptions};
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{self, Clock, Gauges, Wake, WriterMode, WriterProgress};
use synod_paxos::message::Message;
use synod_paxos::types::Micros;

/// The shard that goes, and its first key. It is with the first worker at first.
const MOVED: ShardId = ShardId(2);
const KEY: &str = "key-0";
/// From whom, to whom.
const OLD: usize = 0;
const NEW: usize = 1;

/// What the workers told their hosts.
#[derive(Default)]
struct Heard {
    maps: Vec<Arc<SystemState>>,
    led: BTreeSet<ShardId>,
    /// Whether rows are fetched.
    fetching: bool,
    /// Rows to be fetched.
    fetches: Vec<FetchRequest>,
    /// Which worker asked whom for a snapshot of which shard.
    asks: Vec<(WorkerId, NodeId, ShardId)>,
    /// Into which spaces snapshots are to be loaded.
    loads: Vec<(ShardId, Space)>,
    /// Shards whose snapshots' files are of no more use.
    forgotten: Vec<ShardId>,
    /// What each worker told as the last durable write with what it sent, in order.
    stamps: [Vec<NodeWriteSeq>; 2],
    drained: bool,
}

/// The host of a worker.
struct Listens(WorkerId, Arc<Mutex<Heard>>);

impl Listens {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.1.lock().unwrap()
    }
}

impl Links for Listens {
    fn send(&mut self, _: NodeId, _: ShardId, _: Message) {}
    fn flush(&mut self, durable: NodeWriteSeq) {
        self.heard().stamps[usize::from(self.0.0)].push(durable);
    }
}

impl ProcessHost for Listens {
    fn map_changed(&mut self, map: Arc<SystemState>) {
        self.heard().maps.push(map);
    }
    fn role_changed(&mut self, shard: ShardId, _: Option<NodeId>, here: bool) {
        if here {
            self.heard().led.insert(shard);
        }
    }
    fn drained(&mut self) {
        self.heard().drained = true;
    }
    fn fatal(&mut self, why: String) -> ! {
        panic!("{why}")
    }
    fn quarantined(&mut self, _: &str) {}
    fn random(&mut self) -> u64 {
        7
    }
}

impl SnapshotHost for Listens {
    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, _: Slot) {
        self.heard().asks.push((self.0, to, shard));
    }
    fn load_snapshot(&mut self, shard: ShardId, space: Space, _: Arc<dyn BulkLoad>) {
        self.heard().loads.push((shard, space));
    }
    fn forget_snapshot(&mut self, shard: ShardId, _: SnapshotKind) {
        self.heard().forgotten.push(shard);
    }
}

impl ScrubHost for Listens {}

impl MergeHost for Listens {}

impl ReadHost for Listens {
    fn fetches_rows(&self) -> bool {
        self.heard().fetching
    }
    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        self.heard().fetches.push(request);
        true
    }
}

/// Brings rows into memory; the word that they are there.
fn bring(request: FetchRequest) -> RowsFetched {
    let FetchRequest { shard, ticket, lacked, fetcher, .. } = request;
    lacked.iter().for_each(|row| fetcher.fetch(row).unwrap());
    RowsFetched { shard, ticket }
}

/// Two workers whose rounds the test makes, over one log and one database.
struct Pair {
    workers: Vec<Worker<Listens>>,
    inboxes: Vec<Vec<Input>>,
    shared: Arc<NodeShared>,
    posted: Arc<Mutex<Vec<(WorkerId, Input)>>>,
    /// No inbox has room for what a worker posts.
    full: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    answers: Arc<Answers>,
    metrics: Arc<EngineMetrics>,
    log: Arc<MemLog>,
    database: Arc<RocksShared>,
    now: u64,
    asked: u64,
}

impl Pair {
    fn new(dir: &Path) -> Self {
        let mut pair = Self::open(dir, &WorkerOptions::default());
        pair.found(ClusterVersion::FIRST);
        pair
    }

    /// On an empty disk, with these limits.
    fn open(dir: &Path, options: &WorkerOptions) -> Self {
        let memory = Arc::new(MemLog::new());
        let log = Arc::clone(&memory) as Arc<dyn LogStore>;
        let recovered = log.recover_node().unwrap();
        let incarnation = log.begin_incarnation().unwrap();
        let shared = Arc::new(NodeShared::new(2, incarnation));
        let (posted, full) = (Arc::<Mutex<Vec<(WorkerId, Input)>>>::default(), Arc::new(AtomicBool::new(false)));
        let (to, is_full) = (Arc::clone(&posted), Arc::clone(&full));
        shared.connect(Box::new(move |worker, input| {
            if is_full.load(Ordering::SeqCst) {
                return Err(input);
            }
            to.lock().unwrap().push((worker, input));
            Ok(())
        }));
        let clock: Clock = Arc::new(|| Micros(1));
        let (progress, metrics) = (Arc::new(WriterProgress::default()), Arc::new(EngineMetrics::detached()));
        let gauges =
            Gauges { progress: Arc::clone(&progress), metrics: Arc::clone(&metrics), clock: Arc::clone(&clock) };
        let seen = Arc::new(SeenTable::default());
        let wakes: Vec<Wake> = (0..2).map(|_| Box::new(|_| ()) as Wake).collect();
        let queues = writer::spawn(Arc::clone(&log), gauges, recovered.seq, Arc::clone(&seen), wakes).unwrap();
        let database = RocksShared::open(dir, StateOptions::default()).unwrap();
        let fronts = FrontState::several(&database, 4 << 20, 2).unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let parts = (0..2).map(WorkerId).zip(queues).zip(fronts);
        let worker = |((worker, queue), front)| {
            let setup = WorkerSetup {
                me: N1,
                worker,
                shared: Arc::clone(&shared),
                recovered: recovered.clone(),
                incarnation,
                log: Arc::clone(&log),
                store: Box::new(front),
                seen: Arc::clone(&seen),
                progress: Arc::clone(&progress),
                metrics: Arc::clone(&metrics),
                clock: Arc::clone(&clock),
                memory: Memory::unlimited(),
                mode: WriterMode::Queue(queue),
                options: WorkerOptions { balance_us: 0, ..options.clone() },
            };
            Worker::new(setup, Listens(worker, Arc::clone(&heard))).unwrap()
        };
        let workers = parts.map(worker).collect();
        let (inboxes, answers) = ((0..2).map(|_| Vec::new()).collect(), Arc::default());
        let log = memory;
        Self { workers, inboxes, shared, posted, full, heard, answers, metrics, log, database, now: 0, asked: 0 }
    }

    /// A table of three shards, led here, in a cluster of this version.
    fn found(&mut self, version: ClusterVersion) {
        let founding = SystemState { version, ..SystemState::found(1, &["a:1".into()]) };
        self.push(NodeInput::CreateSystemShard(Box::new(founding)));
        self.until("the system shard is led", |pair| pair.leads(SYSTEM_SHARD));
        let command = SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            shards: 0,
            splits: vec!["key-1".into(), "key-2".into()],
            replicas: 1,
        };
        let (_, input) = self.request(SYSTEM_SHARD, Op::System(command.encode()));
        self.push(input);
        self.until("the table is led", |pair| (2..5).all(|shard| pair.leads(ShardId(shard))));
        assert_eq!(self.shared.places().worker_of(MOVED), WorkerId(0), "the rule puts it there");
    }

    fn leads(&self, shard: ShardId) -> bool {
        self.heard.lock().unwrap().led.contains(&shard)
    }

    fn push(&mut self, input: impl Into<Input>) {
        let (shared, inboxes) = (&self.shared, &mut self.inboxes);
        let taken = route(input.into(), shared.places(), &mut |worker, input| {
            inboxes[usize::from(worker.0)].push(input);
            Ok(())
        });
        assert!(taken.is_ok());
    }

    /// A worker takes what waits for it; what it posts is in the inboxes then.
    fn round(&mut self, worker: usize) {
        self.now += 1_000;
        let mut inputs = std::mem::take(&mut self.inboxes[worker]);
        self.workers[worker].handle(Micros(self.now), 1_000_000 + self.now, &mut inputs, &mut || false);
        let posted = std::mem::take(&mut *self.posted.lock().unwrap());
        for (to, input) in posted {
            self.inboxes[usize::from(to.0)].push(input);
        }
        let maps = std::mem::take(&mut self.heard.lock().unwrap().maps);
        for map in maps {
            self.push(NodeInput::Map(map));
        }
    }

    fn rounds_until(&mut self, workers: &[usize], what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..5_000 {
            if holds(self) {
                return;
            }
            workers.iter().for_each(|worker| self.round(*worker));
            // Log and state are written by threads of their own.
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never: {what}");
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.rounds_until(&[OLD, NEW], what, holds);
    }

    fn request(&mut self, shard: ShardId, op: Op) -> (u64, Input) {
        let seq = ClientSeq(self.asked + 1);
        let id = WriteId { client: ClientId(1), seq, floor: ClientSeq(0), deadline_us: u64::MAX };
        self.ask(shard, Body::Write(WriteRequest { id, op }))
    }

    fn ask(&mut self, shard: ShardId, body: Body) -> (u64, Input) {
        self.asked += 1;
        let reply = Reply { sink: Arc::clone(&self.answers) as Arc<dyn ReplySink>, id: self.asked };
        (self.asked, Input::Requests(vec![Request { shard, version: None, body, reply }]))
    }

    fn take_fetches(&self) -> Vec<FetchRequest> {
        std::mem::take(&mut self.heard.lock().unwrap().fetches)
    }

    /// A write to the shard that goes.
    fn write(&mut self) -> (u64, Input) {
        self.request(MOVED, Op::Write { table: TableId(1), ops: vec![append(KEY, "v")] })
    }

    /// The answers to two writes, once both are there.
    fn answers_to(&mut self, first: u64, second: u64) -> [Result<Answer, Refusal>; 2] {
        let found = Mutex::new([None, None]);
        self.until("both are answered", |pair| {
            let mut found = found.lock().unwrap();
            for (answer, n) in found.iter_mut().zip([first, second]) {
                if answer.is_none() {
                    *answer = pair.answers.take(n);
                }
            }
            found.iter().all(Option::is_some)
        });
        found.into_inner().unwrap().map(Option::unwrap)
    }

    /// The shard has left the old worker, and the new one has made no round since.
    fn let_go(&mut self) {
        self.hand_over(OLD, WorkerId(1));
    }

    /// The same with a full inbox, so that the shard is with nobody: a write that the old worker has yet to post on, and one that comes
    /// directly to the new one.
    fn strand(&mut self) -> (u64, u64) {
        self.full.store(true, Ordering::SeqCst);
        self.let_go();
        let (early, input) = self.write();
        self.inboxes[OLD].push(input);
        let (late, input) = self.write();
        self.push(input);
        (early, late)
    }

    /// A worker lets go of the shard, and the other one makes no round meanwhile.
    fn hand_over(&mut self, from: usize, to: WorkerId) {
        self.hand_over_shard(MOVED, from, to);
    }

    /// The same of any shard. On a slow disk the shard stays at times: it is asked again.
    fn hand_over_shard(&mut self, shard: ShardId, from: usize, to: WorkerId) {
        for n in 0..5_000 {
            if self.shared.places().worker_of(shard) == to {
                return;
            }
            if n % 500 == 0 {
                self.push(HandOverInput::Begin { shard, to });
            }
            self.round(from);
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never: the shard is let go");
    }
}

fn offset(answer: &Result<Answer, Refusal>) -> Offset {
    let Ok(Answer::Outcome(Outcome::Written(results))) = answer else { panic!("{answer:?}") };
    results[0].offset
}

#[test]
fn what_the_old_worker_still_got_comes_before_what_reaches_the_new_one_directly() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    pair.let_go();
    // Queued just before the table changed: ahead of the mark that the old worker posted to itself.
    let (early, input) = pair.write();
    pair.inboxes[OLD].insert(0, input);
    let (late, input) = pair.write();
    pair.push(input);
    // The shard is with the new worker by then, and has time for more than a write.
    for _ in 0..30 {
        pair.round(NEW);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(pair.answers.take(late).is_none(), "not before the old worker's last word");
    let [early, late] = pair.answers_to(early, late);
    assert_eq!((offset(&early), offset(&late)), (Offset(0), Offset(1)));
    // A sender that looked the shard up long ago is served all the same.
    let (one, input) = pair.write();
    pair.inboxes[OLD].push(input);
    let (two, input) = pair.write();
    pair.push(input);
    let answers = pair.answers_to(one, two);
    let offsets: BTreeSet<Offset> = answers.iter().map(offset).collect();
    assert_eq!(offsets, [Offset(2), Offset(3)].into());
}

#[test]
fn a_full_inbox_delays_a_shard_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    let (early, late) = pair.strand();
    for _ in 0..20 {
        pair.round(OLD);
        pair.round(NEW);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(pair.answers.take(early).is_none() && pair.answers.take(late).is_none(), "nobody has the shard");
    let due = pair.workers[OLD].next_deadline();
    assert!(due.is_some_and(|at| at <= Micros(pair.now + 1_000)), "it is tried again soon: {due:?}");
    pair.full.store(false, Ordering::SeqCst);
    let [early, late] = pair.answers_to(early, late);
    assert_eq!((offset(&early), offset(&late)), (Offset(0), Offset(1)));
}

#[test]
fn a_node_that_stops_leaves_nobody_who_waits_for_a_shard_on_its_way_without_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    let (early, late) = pair.strand();
    pair.round(OLD);
    pair.round(NEW);
    pair.push(NodeInput::Stop);
    for answer in pair.answers_to(early, late) {
        assert_eq!(answer.unwrap_err(), Refusal::NotReady);
    }
    assert!(pair.workers.iter().all(Worker::stopped));
}

#[test]
fn what_comes_to_a_worker_that_has_stopped_is_answered_there_wherever_its_shard_went() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    pair.let_go();
    pair.push(NodeInput::Stop);
    pair.until("both have stopped", |pair| pair.workers.iter().all(Worker::stopped));
    // By the rule, as who looked the shard up before. The other worker has ended: it takes nothing.
    let (late, input) = pair.write();
    pair.inboxes[OLD].push(input);
    pair.round(OLD);
    assert_eq!(pair.answers.take(late).map(Result::unwrap_err), Some(Refusal::NotReady));
    // Nothing that a worker which has stopped is told to do is said to be done.
    let (told, answer) = std::sync::mpsc::channel();
    let done = Box::new(move |answer| told.send(answer).unwrap());
    pair.inboxes[NEW].push(AdminInput::Transfer { shard: MOVED, to: N1, done }.into());
    pair.round(NEW);
    assert_eq!(answer.try_recv(), Ok(Err(Refusal::NotReady)));
}

#[test]
fn what_an_idle_worker_sends_for_a_shard_that_came_tells_the_writes_that_the_other_worker_knew() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    let (written, input) = pair.write();
    pair.push(input);
    pair.rounds_until(&[OLD], "the write is durable", |pair| pair.answers.take(written).is_some());
    pair.let_go();
    let [old, new] = std::mem::take(&mut pair.heard.lock().unwrap().stamps);
    assert!(new.last() < old.last(), "the new worker has made no round since the write: {new:?}, {old:?}");
    pair.round(NEW);
    let first = pair.heard.lock().unwrap().stamps[NEW].first().copied();
    assert!(first >= old.last().copied(), "{first:?}, {old:?}");
}

#[test]
fn a_node_that_drains_waits_for_a_shard_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    pair.full.store(true, Ordering::SeqCst);
    pair.let_go();
    pair.push(NodeInput::Drain);
    for _ in 0..20 {
        pair.round(OLD);
        pair.round(NEW);
    }
    assert!(!pair.heard.lock().unwrap().drained, "nobody knows whether the shard is led here");
    pair.full.store(false, Ordering::SeqCst);
    pair.until("the node is drained", |pair| pair.heard.lock().unwrap().drained);
}

#[test]
fn what_is_to_be_posted_on_is_bounded_by_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    pair.full.store(true, Ordering::SeqCst);
    pair.let_go();
    let large = "v".repeat(512 << 10);
    let writes: Vec<u64> = (0..20)
        .map(|_| {
            let op = Op::Write { table: TableId(1), ops: vec![append(KEY, &large)] };
            let (write, input) = pair.request(MOVED, op);
            pair.inboxes[OLD].push(input);
            write
        })
        .collect();
    pair.round(OLD);
    let refused: Vec<bool> =
        writes.iter().map(|write| matches!(pair.answers.take(*write), Some(Err(Refusal::Overloaded)))).collect();
    assert!(refused.is_sorted(), "the first ones wait: {refused:?}");
    let waiting = refused.iter().filter(|refused| !**refused).count();
    assert!((8..16).contains(&waiting), "8 MiB: {waiting}");
    pair.full.store(false, Ordering::SeqCst);
    pair.until("the last that waited is answered", |pair| pair.answers.take(writes[waiting - 1]).is_some());
    let before = writes[..waiting - 1].iter().filter(|write| pair.answers.take(**write).is_some()).count();
    assert_eq!(before, waiting - 1);
}

#[test]
fn what_waits_for_rows_goes_along_and_so_does_the_word_that_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path());
    // Each in a block of its own: the first and the last block of a file may be in memory since it was taken in.
    let key = |n: usize| format!("key-0{n}");
    let value = |n: usize| n.to_string().repeat(64 << 10);
    let ops = (0..8).map(|n| append(&key(n), &value(n))).collect();
    let (written, input) = pair.request(MOVED, Op::Write { table: TableId(1), ops });
    pair.push(input);
    pair.until("the rows are written", |pair| pair.answers.take(written).is_some());
    // Where it arrives its rows are in files only.
    pair.let_go();
    pair.heard.lock().unwrap().fetching = true;
    let get = Read::Get { key: key(3).into(), at: At::Newest };
    let (read, input) = pair.ask(MOVED, Body::Read { read: get, freshness: Freshness::Local });
    pair.push(input);
    let (write, input) = pair.request(MOVED, Op::Write { table: TableId(1), ops: vec![append(&key(5), "v")] });
    pair.push(input);
    pair.until("both ask for rows", |pair| {
        let heard = pair.heard.lock().unwrap();
        [true, false].iter().all(|for_read| heard.fetches.iter().any(|fetch| fetch.for_read == *for_read))
    });
    pair.hand_over(NEW, WorkerId(0));
    for _ in 0..10 {
        pair.round(NEW);
        pair.round(OLD);
    }
    assert!(pair.answers.take(read).is_none() && pair.answers.take(write).is_none(), "the rows are not there");
    assert_eq!(pair.metrics.waiting_requests.get(), 2);
    // The word comes to the worker that asked.
    for request in pair.take_fetches() {
        pair.inboxes[NEW].push(bring(request).into());
    }
    let mut answers = [None, None];
    for _ in 0..5_000 {
        for (answer, n) in answers.iter_mut().zip([read, write]) {
            if answer.is_none() {
                *answer = pair.answers.take(n);
            }
        }
        if answers.iter().all(Option::is_some) {
            break;
        }
        pair.round(NEW);
        pair.round(OLD);
        for request in pair.take_fetches() {
            let word = bring(request);
            pair.push(word);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let [Some(Ok(Answer::Record { record: Some(found), .. })), Some(appended)] = &answers else {
        panic!("not answered: {}", answers.iter().filter(|answer| answer.is_none()).count())
    };
    assert!(found.record.value == value(3) && offset(appended) == Offset(1));
    pair.round(NEW);
    pair.round(OLD);
    assert_eq!(pair.metrics.waiting_requests.get(), 0, "whoever has the shard counts what waits in it");
}
