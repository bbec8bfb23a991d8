use super::*;
use crate::logstore::mem::MemLog;
use std::sync::{Mutex, mpsc};
use synod_cluster::ids::{Ballot, EntryId, Incarnation, Slot};
use synod_paxos::types::{Entry, Epoch, HardState, Member, MemberRole, Membership};

fn write(slot: u64) -> GroupWrite {
    let members = vec![Member { node: NodeId(1), role: MemberRole::Voter }];
    let hard = HardState::initial(Membership { epoch: Epoch(1), members, first_leader: NodeId(1) });
    let origin = Ballot::first(Epoch(1), NodeId(1));
    let entry = Entry::new(EntryId { slot: Slot(slot), origin }, slot, 0, Payload::Noop);
    let genesis = (slot == 1).then(|| bytes::Bytes::from_static(b"beginning"));
    GroupWrite { shard: ShardId(2), genesis, hard: Some(hard), append: vec![entry], ..GroupWrite::default() }
}

fn writer(log: &Arc<MemLog>, mode: WriterMode) -> (LogWriter, Arc<SeenTable>) {
    let seen = Arc::new(SeenTable::default());
    let clock: Clock = Arc::new(|| Micros(5));
    let metrics = Arc::new(EngineMetrics::detached());
    let log = Arc::clone(log) as Arc<dyn LogStore>;
    let progress = Arc::new(WriterProgress::default());
    let gauges = Gauges { progress, metrics, clock };
    let levels = (Arc::new(NodeShared::new(1, Incarnation(1))), WorkerId::FIRST);
    (LogWriter::new(log, mode, NodeWriteSeq(7), Arc::clone(&seen), gauges, levels), seen)
}

fn gauges() -> Gauges {
    let metrics = Arc::new(EngineMetrics::detached());
    Gauges { progress: Arc::default(), metrics, clock: Arc::new(|| Micros(5)) }
}

/// The writers of workers that share a thread.
fn threaded(log: &Arc<MemLog>, wakes: Vec<Wake>) -> Vec<LogWriter> {
    let seen = Arc::new(SeenTable::default());
    let shared = Arc::new(NodeShared::new(u16::try_from(wakes.len()).unwrap(), Incarnation(1)));
    let store = || Arc::clone(log) as Arc<dyn LogStore>;
    let queues = spawn(store(), gauges(), NodeWriteSeq(7), Arc::clone(&seen), wakes).unwrap();
    let writer = |(worker, queue)| {
        let levels = (Arc::clone(&shared), WorkerId(u16::try_from(worker).unwrap()));
        LogWriter::new(store(), WriterMode::Queue(queue), NodeWriteSeq(7), Arc::clone(&seen), gauges(), levels)
    };
    queues.into_iter().enumerate().map(writer).collect()
}

#[test]
fn a_round_is_one_batch_and_carries_what_was_seen() {
    let log = Arc::new(MemLog::new());
    let (mut w, seen) = writer(&log, WriterMode::Inline);
    let mut done = vec![];
    w.note_seen(NodeId(3), (Incarnation(2), NodeWriteSeq(9)));
    w.commit(&mut done).unwrap();
    assert_eq!(
        (w.durable(), seen.get(NodeId(3))),
        (NodeWriteSeq(7), (Incarnation(2), NodeWriteSeq(9))),
        "told at once, and nothing is written just for it"
    );
    assert!(log.recover_node().unwrap().seen.is_empty());
    w.add(write(1), Some(Done::Created));
    w.add(write(2), Some(Done::Persisted(WriteSeq(1))));
    w.commit(&mut done).unwrap();
    assert_eq!(done, [(ShardId(2), Done::Created), (ShardId(2), Done::Persisted(WriteSeq(1)))]);
    assert_eq!((w.durable(), w.issued()), (NodeWriteSeq(8), NodeWriteSeq(8)));
    assert_eq!(seen.get(NodeId(3)), (Incarnation(2), NodeWriteSeq(9)));
    assert_eq!(log.recover_node().unwrap().seen, [(NodeId(3), Incarnation(2), NodeWriteSeq(9))]);
    assert_eq!(w.gauges.progress.writes_done(), 1);
    assert_eq!(w.gauges.progress.write_started(), None);
}

#[test]
fn a_failed_write_tells_nobody() {
    let log = Arc::new(MemLog::new());
    log.fail_after(0);
    let (mut w, _) = writer(&log, WriterMode::Inline);
    w.add(write(1), Some(Done::Created));
    let mut done = vec![];
    assert!(w.commit(&mut done).is_err());
    assert!(done.is_empty());
    assert_eq!(w.durable(), NodeWriteSeq(7));
}

#[test]
fn the_thread_writes_in_order_and_reports_failure() {
    let log = Arc::new(MemLog::new());
    let (tell, told) = mpsc::channel();
    let wake = Box::new(move |seq| tell.send(seq).unwrap_or_default());
    let mut w = threaded(&log, vec![wake]).remove(0);
    let mut done = vec![];
    for slot in 1..=100 {
        w.add(write(slot), Some(Done::Persisted(WriteSeq(slot))));
        w.commit(&mut done).unwrap();
    }
    while done.len() < 100 {
        told.recv().unwrap();
        w.commit(&mut done).unwrap();
    }
    let order: Vec<Done> = done.iter().map(|(_, done)| done.clone()).collect();
    assert_eq!(order, (1..=100).map(|n| Done::Persisted(WriteSeq(n))).collect::<Vec<_>>());
    assert_eq!(w.durable(), w.issued());
    assert_eq!(log.recover_group(ShardId(2)).err().map(|e| e.to_string()), None);
    log.fail_after(0);
    w.add(write(101), None);
    w.commit(&mut done).unwrap();
    while told.recv().unwrap() != u64::MAX {}
    assert!(w.commit(&mut done).is_err());
}

/// A queue that takes `room` batches and writes none until it is told to.
#[derive(Clone)]
struct Slow {
    log: Arc<MemLog>,
    room: usize,
    waiting: Arc<Mutex<(VecDeque<LogBatch>, NodeWriteSeq)>>,
    numbers: Arc<Numbers>,
}

impl Slow {
    fn new(log: &Arc<MemLog>, room: usize) -> Self {
        let waiting = Arc::new(Mutex::new((VecDeque::new(), NodeWriteSeq(7))));
        let numbers = Arc::new(Numbers::new(NodeWriteSeq(7), Arc::default()));
        Self { log: Arc::clone(log), room, waiting, numbers }
    }

    fn write_one(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        let batch = waiting.0.pop_front().unwrap();
        self.log.write(&batch).unwrap();
        waiting.1 = batch.seq;
    }
}

impl WriteQueue for Slow {
    fn has_room(&self) -> bool {
        self.waiting.lock().unwrap().0.len() < self.room
    }

    fn submit(&self, batch: LogBatch) -> NodeWriteSeq {
        assert!(self.has_room());
        self.numbers.submit(batch, |batch| self.waiting.lock().unwrap().0.push_back(batch))
    }

    fn issued(&self) -> NodeWriteSeq {
        self.numbers.issued()
    }

    fn synced(&self) -> Result<NodeWriteSeq, StoreError> {
        Ok(self.waiting.lock().unwrap().1)
    }
}

#[test]
fn a_full_queue_gathers_and_nothing_is_told_early() {
    let log = Arc::new(MemLog::new());
    let slow = Slow::new(&log, 1);
    let (mut w, _) = writer(&log, WriterMode::Queue(Box::new(slow.clone())));
    let mut done = vec![];
    for slot in 1..=3 {
        w.add(write(slot), Some(Done::Persisted(WriteSeq(slot))));
        w.commit(&mut done).unwrap();
    }
    assert!(done.is_empty());
    assert_eq!((w.durable(), w.issued()), (NodeWriteSeq(7), NodeWriteSeq(8)), "one is on its way, two have gathered");
    slow.write_one();
    w.commit(&mut done).unwrap();
    assert_eq!(done, [(ShardId(2), Done::Persisted(WriteSeq(1)))]);
    assert_eq!((w.durable(), w.issued()), (NodeWriteSeq(8), NodeWriteSeq(9)));
    slow.write_one();
    w.commit(&mut done).unwrap();
    assert_eq!(done.len(), 3);
    assert_eq!((w.durable(), w.issued()), (NodeWriteSeq(9), NodeWriteSeq(9)));
}

#[test]
fn workers_share_synced_writes_and_each_is_told_of_its_own() {
    let log = Arc::new(MemLog::new());
    let (tell, told) = mpsc::channel();
    let wake = |worker: usize| {
        let tell = tell.clone();
        Box::new(move |seq| tell.send((worker, seq)).unwrap_or_default()) as Wake
    };
    let mut writers = threaded(&log, (0..3).map(wake).collect());
    let mut done: Vec<Vec<(ShardId, Done)>> = vec![vec![]; 3];
    let shard = |worker: usize| ShardId(2 + worker as u64);
    for slot in 1..=100 {
        for (worker, writer) in writers.iter_mut().enumerate() {
            writer.add(GroupWrite { shard: shard(worker), ..write(slot) }, Some(Done::Persisted(WriteSeq(slot))));
            writer.commit(&mut done[worker]).unwrap();
        }
    }
    while done.iter().any(|done| done.len() < 100) {
        let (worker, _) = told.recv().unwrap();
        writers[worker].commit(&mut done[worker]).unwrap();
    }
    for (worker, done) in done.iter().enumerate() {
        let expected: Vec<_> = (1..=100).map(|n| (shard(worker), Done::Persisted(WriteSeq(n)))).collect();
        assert_eq!(*done, expected, "worker {worker}: in its order, and none of another's");
    }
    let found = log.recover_node().unwrap();
    let last = writers[0].issued();
    assert!(writers.iter().all(|writer| writer.issued() == last) && found.seq == last);
    let writes = writers[0].gauges.progress.writes_done();
    assert!(writes == 0 && last.0 > 7, "they write nothing by themselves");
}

#[test]
fn a_worker_whose_batches_wait_leaves_room_for_the_others() {
    let log = Arc::new(MemLog::new());
    let (release, held) = mpsc::channel::<()>();
    log.set_hook(Box::new(move |_| {
        // Until the sender is dropped.
        held.recv().unwrap_or_default();
        Ok(())
    }));
    let mut writers = threaded(&log, vec![Box::new(|_| ()), Box::new(|_| ())]);
    let mut done = vec![];
    for slot in 1..=200 {
        writers[0].add(write(slot), None);
        writers[0].commit(&mut done).unwrap();
    }
    let before = writers[1].issued();
    writers[1].add(GroupWrite { shard: ShardId(3), ..write(1) }, None);
    writers[1].commit(&mut done).unwrap();
    assert_eq!(writers[1].issued().0, before.0 + 1, "handed over at once");
    drop(release);
}

#[test]
fn a_shard_is_being_written_until_all_of_its_writes_were_told() {
    let log = Arc::new(MemLog::new());
    let (release, held) = mpsc::channel::<()>();
    log.set_hook(Box::new(move |_| {
        // Until the sender is dropped.
        held.recv().unwrap_or_default();
        Ok(())
    }));
    let (tell, told) = mpsc::channel();
    let wakes: Vec<Wake> = vec![Box::new(move |seq: u64| tell.send(seq).unwrap_or_default()), Box::new(|_| ())];
    let mut writers = threaded(&log, wakes);
    let (mut done, shard) = (vec![], ShardId(2));
    assert!(!writers[0].is_writing(shard));
    writers[0].add(write(1), Some(Done::Persisted(WriteSeq(1))));
    assert!(writers[0].is_writing(shard), "it is not handed over");
    writers[0].commit(&mut done).unwrap();
    assert!(writers[0].is_writing(shard) && !writers[0].is_writing(ShardId(3)), "it is on its way");
    assert_eq!(writers[0].last_under_way(shard), Some(WriteSeq(1)));
    writers[0].add(GroupWrite { shard, trim: Some(EntryId::ZERO), ..GroupWrite::default() }, None);
    drop(release);
    told.recv().unwrap();
    assert!(writers[0].is_writing(shard), "it is durable, and its core has not been told");
    while done.is_empty() {
        writers[0].commit(&mut done).unwrap();
    }
    assert_eq!(done, [(shard, Done::Persisted(WriteSeq(1)))]);
    assert!(!writers[0].is_writing(shard), "what follows has its number, and nothing is to be told of it");
    assert!(!writers[1].is_writing(shard), "nor was it ever another worker's");
}
