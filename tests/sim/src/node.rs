//! A node: its disk and, while it runs, its process with workers, failure detector and clocks.
//!
//! Owns: starting a process as the server does, and its rounds. Must never: tell a worker what the real server would not.
//!
//! The workers of a process take turns on one core: a round ends before the next one begins, whichever worker's it is. Which of
//! those that are due goes first is thrown.

use crate::clock::{Cursor, NodeClock};
use crate::dice::Dice;
use crate::disk::{NodeDisk, SimFiles, SimLog, SimQueue, SimState, StateRows};
use crate::host::{BUILT, CLUSTER, Fatal, SimHost, SimSink, Taps};
use crate::plan::LogWrites;
use crate::snapshot_files::SnapshotFiles;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use synod_cluster::detector::Detector;
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, ShardId, Slot};
use synod_cluster::system::{ShardNews, SystemState};
use synod_engine::StoreError;
use synod_engine::host::{HandOverInput, Input, NodeInput, PeerInput};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::{LogStore, NodeIdentity};
use synod_engine::memory::Memory;
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, Places, WorkerId, route};
use synod_engine::snapshot::FileStore;
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{WriterMode, WriterProgress};

/// Pace of the pulses, µs: the server's default.
pub(crate) const PULSE: u64 = 100_000;
/// Silence that makes a peer dead, µs: the server's default.
pub(crate) const DEAD_AFTER: u64 = 600_000;

/// Inboxes that are full when a worker posts to another, ‰.
const FULL: u64 = 100;
/// Inputs whose sender looked their shard up before it was handed over, or, where it is the child of a split, before it began with its
/// parent's worker, ‰. A word for a child's replica cannot be so late; here it may be.
const LATE: u64 = 50;

/// How a round or a start ended.
pub(crate) enum Ended {
    /// The process ends itself with this line.
    Fatal(String),
    /// Something panicked.
    Panic(String),
}

/// Where logs keep little, memory holds little of them, and of the newest records.
fn memory_max(options: &WorkerOptions) -> usize {
    if options.log_keep_bytes < 1 << 20 { 512 << 10 } else { usize::MAX }
}

/// What a node's process is made of.
pub(crate) struct Process {
    pub(crate) workers: Vec<Member>,
    shared: Arc<NodeShared>,
    posted: Posted,
    /// What is thrown for shards that workers hand to one another.
    hands: Dice,
    pub(crate) incarnation: Incarnation,
    pub(crate) clock: NodeClock,
    pub(crate) cursor: Cursor,
    pub(crate) taps: Taps,
    pub(crate) sink: Arc<SimSink>,
    /// All rows of its workers, flushed or not.
    pub(crate) rows: StateRows,
    /// The log writer's thread.
    pub(crate) writes: SimQueue,
    pub(crate) snapshot_files: SnapshotFiles,
    /// The clock of the job on snapshot files that runs.
    pub(crate) job_clock: Cursor,
    pub(crate) seen: Arc<SeenTable>,
    pub(crate) detector: Detector,
    /// Peers that have told what they saw of this node, on the pulse call under way.
    pub(crate) identified: BTreeSet<NodeId>,
    /// When the last round began.
    pub(crate) round_began: u64,
    /// No round begins before.
    pub(crate) busy_until: u64,
    /// The process stands still.
    pub(crate) paused: bool,
    /// It was paused in the beginning of a worker's round: the time that had read by then, and how many inputs it had taken.
    pub(crate) begun: Option<(usize, u64, usize)>,
    /// For the planted fault: when the last round ended.
    pub(crate) ended: u64,
    /// The round under way or due.
    pub(crate) round_at: Option<u64>,
    /// Applied and observed, by shard.
    pub(crate) observed: BTreeMap<ShardId, Slot>,
    /// What its replicas have applied of bounds and the map may not have: the newest word of each shard.
    pub(crate) bounds: BTreeMap<ShardId, ShardNews>,
    /// Told to stop once drained.
    pub(crate) leaving: bool,
    /// Whether more inputs are said to wait, whatever does; and which worker's round comes next.
    dice: Dice,
}

/// What workers posted to one another in the round under way, in order.
#[derive(Clone)]
struct Posted(Arc<Mutex<Post>>);

struct Post {
    dice: Dice,
    inputs: Vec<(WorkerId, Input)>,
}

impl Posted {
    fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Post { dice, inputs: Vec::new() })))
    }

    /// Finds the inbox full at times.
    #[allow(clippy::result_large_err, reason = "the input goes back to its owner, who sends it again")]
    fn post(&self, to: WorkerId, input: Input) -> Result<(), Input> {
        let mut posted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if posted.dice.chance(FULL) {
            return Err(input);
        }
        posted.inputs.push((to, input));
        Ok(())
    }

    fn take(&self) -> Vec<(WorkerId, Input)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).inputs)
    }
}

/// One of a process's workers, and what waits for it.
pub(crate) struct Member {
    worker: Worker<SimHost>,
    inputs: Vec<Input>,
}

/// A node.
pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    /// The greatest cluster version that its process speaks, or spoke last.
    pub(crate) speaks: ClusterVersion,
    pub(crate) disk: NodeDisk,
    pub(crate) up: Option<Box<Process>>,
    /// Counts processes.
    pub(crate) process: u64,
    /// When each process ended.
    pub(crate) deaths: BTreeMap<u64, u64>,
    /// Why it takes no part any more.
    pub(crate) out: Option<&'static str>,
    /// A bit was flipped on its disk: it may end itself, or refuse to start.
    pub(crate) damaged: bool,
    /// Its disk was set back or wiped: it must be quarantined.
    pub(crate) set_back: bool,
    pub(crate) ppm: i64,
    /// Its wall clock's error, µs: what an ordinary clock may be off, and what a wrong one is.
    pub(crate) wall_offset: i64,
    pub(crate) wall_wrong: i64,
    pub(crate) wall_ppm: i64,
    /// The newest map it knows: a copy on disk that a process begins with.
    pub(crate) map_cache: Option<Arc<SystemState>>,
}

/// What a process is started with, beside its node's own.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: u64,
    pub(crate) seed: u64,
    pub(crate) options: &'a WorkerOptions,
    pub(crate) freeze_bytes: usize,
    pub(crate) log_writes: LogWrites,
    pub(crate) workers: u16,
    pub(crate) metrics: &'a Arc<EngineMetrics>,
    pub(crate) peers: &'a [NodeId],
}

impl SimNode {
    pub(crate) fn new(id: NodeId, disk: NodeDisk, ppm: i64, wall_offset: i64) -> Self {
        Self {
            id,
            speaks: ClusterVersion::FIRST,
            disk,
            up: None,
            process: 0,
            deaths: BTreeMap::new(),
            out: None,
            damaged: false,
            set_back: false,
            ppm,
            wall_offset,
            wall_wrong: 0,
            wall_ppm: 0,
            map_cache: None,
        }
    }

    /// Takes a newer map; whether it is one.
    pub(crate) fn offer(&mut self, map: &Arc<SystemState>) -> bool {
        let newer = self.map_cache.as_ref().is_none_or(|known| known.revision < map.revision);
        if newer {
            self.map_cache = Some(Arc::clone(map));
        }
        newer
    }

    /// Sets the wall clock's error, of which so much is a wrong clock's, µs.
    pub(crate) fn set_wall(&mut self, offset: i64, wrong: i64) {
        (self.wall_offset, self.wall_wrong) = (offset, wrong);
        if let Some(up) = &mut self.up {
            up.clock.wall_offset = offset + wrong;
        }
    }

    /// Whether what process `number` sent at `stamp` has left.
    pub(crate) fn has_left(&self, number: u64, stamp: u64) -> bool {
        self.deaths.get(&number).is_none_or(|death| stamp <= *death)
    }

    /// Starts a process on what the disk holds.
    pub(crate) fn start(&mut self, with: &Surroundings<'_>) -> Result<(), Ended> {
        self.process += 1;
        let wall_offset = self.wall_offset + self.wall_wrong;
        let clock = NodeClock { boot: with.now, ppm: self.ppm, wall_offset, wall_ppm: self.wall_ppm };
        let (cursor, taps) = (Cursor::default(), Taps::default());
        cursor.set(with.now);
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(with, clock, &cursor, &taps)));
        let mut process = opened.map_err(ended)?.map_err(|error| Ended::Fatal(error.to_string()))?;
        if let Some(map) = self.map_cache.clone() {
            process.push(NodeInput::Map(map));
        }
        self.up = Some(Box::new(process));
        Ok(())
    }

    fn open(
        &self,
        with: &Surroundings<'_>,
        clock: NodeClock,
        cursor: &Cursor,
        taps: &Taps,
    ) -> Result<Process, StoreError> {
        let log = Arc::new(SimLog::open(&self.disk, cursor, taps)?);
        log.set_identity(&NodeIdentity { cluster: CLUSTER, node: self.id })?;
        let recovered = log.recover_node()?;
        let incarnation = log.begin_incarnation()?;
        let job_clock = taps.lock().job_clock.clone();
        job_clock.set(with.now);
        let files: Arc<dyn FileStore> = Arc::new(SimFiles::new(&self.disk, &job_clock));
        clear(&*files);
        taps.lock().set_aside = self.disk.lock().set_damage_aside();
        let found = || -> StateRows { Arc::new(Mutex::new(self.disk.lock().state.clone())) };
        let (rows, on_disk) = (found(), found());
        let (seen, progress) = (Arc::new(SeenTable::default()), Arc::new(WriterProgress::default()));
        let writes = SimQueue::new(&log, cursor, clock, &progress, recovered.seq, &seen);
        let seed = with.seed ^ (self.id.0 << 48) ^ (self.process << 32);
        let shared = Arc::new(NodeShared::new(with.workers, incarnation));
        let posted = Posted::new(Dice::new(seed ^ 0x9057));
        if with.workers > 1 {
            let posted = posted.clone();
            shared.connect(Box::new(move |to, input| posted.post(to, input)));
        }
        let memory = Memory::new(memory_max(with.options));
        let beside = with.workers > 1 || with.log_writes == LogWrites::Beside;
        let mut workers = Vec::new();
        for worker in (0..with.workers).map(WorkerId) {
            let store = SimState::open(worker, (&rows, &on_disk), &self.disk, cursor, taps, with.freeze_bytes);
            let setup = WorkerSetup {
                me: self.id,
                worker,
                shared: Arc::clone(&shared),
                recovered: recovered.clone(),
                incarnation,
                log: Arc::clone(&log) as Arc<dyn LogStore>,
                store: Box::new(store),
                seen: Arc::clone(&seen),
                progress: Arc::clone(&progress),
                metrics: Arc::clone(with.metrics),
                clock: cursor.clock(clock),
                memory: memory.clone(),
                mode: if beside { WriterMode::Queue(writes.end_of(worker)) } else { WriterMode::Inline },
                options: WorkerOptions { speaks: self.speaks, ..with.options.clone() },
            };
            let host = SimHost::new(taps, cursor, &files, seed ^ u64::from(worker.0));
            workers.push(Member { worker: Worker::new(setup, host)?, inputs: Vec::new() });
        }
        taps.lock().started = true;
        let mut detector =
            Detector::new(Duration::ZERO, Duration::from_micros(PULSE), Duration::from_micros(DEAD_AFTER));
        for peer in with.peers.iter().filter(|peer| **peer != self.id) {
            detector.watch(*peer, Duration::ZERO);
        }
        Ok(Process {
            workers,
            shared,
            posted,
            hands: Dice::new(seed ^ 0x4A2D),
            incarnation,
            clock,
            cursor: cursor.clone(),
            taps: taps.clone(),
            sink: Arc::new(SimSink::new(taps, cursor)),
            rows,
            writes,
            snapshot_files: SnapshotFiles::new(files),
            job_clock,
            seen,
            detector,
            identified: BTreeSet::new(),
            round_began: cursor.get(),
            busy_until: cursor.get(),
            paused: false,
            begun: None,
            ended: cursor.get(),
            round_at: None,
            observed: BTreeMap::new(),
            bounds: BTreeMap::new(),
            leaving: false,
            dice: Dice::new(seed),
        })
    }
}

impl Process {
    /// The process's own time.
    pub(crate) fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.clock.local(now).0)
    }

    /// Gives the detector something to digest, and the worker what follows from it: as the server's `detect` does.
    pub(crate) fn detect(&mut self, now: u64, digest: impl FnOnce(&mut Detector, Duration)) {
        let local = self.local(now);
        self.detector.tick(local);
        digest(&mut self.detector, local);
        let mut told = Vec::new();
        self.detector.report(local, |node, alive| {
            told.push(PeerInput::Liveness { node, alive });
            true
        });
        told.into_iter().for_each(|input| self.push(input));
    }

    /// Hands an input to the workers that it concerns.
    pub(crate) fn push(&mut self, input: impl Into<Input>) {
        let (places, workers) = (self.shared.places(), &mut self.workers);
        let before = Places::new(places.workers());
        let late = !places.are_plain() && self.hands.chance(LATE);
        let taken = route(input.into(), if late { &before } else { places }, &mut |worker, input| {
            workers[usize::from(worker.0)].inputs.push(input);
            Ok(())
        });
        assert!(taken.is_ok(), "there is always room");
    }

    /// One of the process's shards is to go to another worker, so many times in a thousand.
    pub(crate) fn hand_over(&mut self, per_mille: u64) {
        let count = self.shared.workers();
        if count < 2 || !self.hands.chance(per_mille) {
            return;
        }
        let shards: Vec<ShardId> = self.taps.lock().marks.keys().copied().collect();
        if let Some(shard) = self.hands.pick(&shards) {
            let to = WorkerId(self.hands.below(count.into()) as u16);
            self.push(HandOverInput::Begin { shard, to });
        }
    }

    /// Whether it has more than one worker.
    pub(crate) fn several(&self) -> bool {
        self.workers.len() > 1
    }

    /// A replica says what it has applied of its bounds; an older word changes nothing.
    pub(crate) fn note_bounds(&mut self, news: &ShardNews) {
        if self.bounds.get(&news.shard).is_none_or(|before| before.version <= news.version) {
            self.bounds.insert(news.shard, news.clone());
        }
    }

    /// A write of these workers is synced.
    pub(crate) fn written(&mut self, seq: u64, workers: &BTreeSet<WorkerId>) {
        for worker in workers {
            self.workers[usize::from(worker.0)].inputs.push(NodeInput::Written(seq).into());
        }
    }

    /// Inputs that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.workers.iter().map(|member| member.inputs.len()).sum()
    }

    /// Whether it was told to stop and has flushed its state.
    pub(crate) fn stopped(&self) -> bool {
        self.workers.iter().all(|member| member.worker.stopped())
    }

    /// It stands still in the beginning of a round, where inputs wait for one: it has read the time, and answers after the pause.
    pub(crate) fn stop_amid(&mut self, now: u64) {
        if self.begun.is_none() {
            let waiting = self.workers.iter().position(|member| !member.inputs.is_empty());
            self.begun = waiting.map(|index| (index, now, self.workers[index].inputs.len()));
        }
    }

    /// What waits is read from many sockets, in any order: a round may take what clients asked and nothing else.
    pub(crate) fn clients_first(&mut self, now: u64) {
        for (index, member) in self.workers.iter_mut().enumerate() {
            member.inputs.sort_by_key(|input| !matches!(input, Input::Requests(_)));
            let asked = member.inputs.iter().take_while(|input| matches!(input, Input::Requests(_))).count();
            if asked > 0 && self.begun.is_none() {
                self.begun = Some((index, now, asked));
            }
        }
    }

    /// Which worker's round comes next.
    fn next_worker(&mut self, now: u64) -> usize {
        let due: Vec<usize> =
            (0..self.workers.len()).filter(|index| self.due_of(*index, now).is_some_and(|at| at <= now)).collect();
        self.dice.pick(&due).unwrap_or(0)
    }

    /// One round, from `now` on.
    pub(crate) fn round(&mut self, now: u64, early_clock: bool) -> Result<(), Ended> {
        self.cursor.set(now);
        self.round_began = now;
        let (index, begun, taken) = self.begun.take().unwrap_or_else(|| {
            let index = self.next_worker(now);
            (index, now, self.workers[index].inputs.len())
        });
        let read = if early_clock { self.ended } else { begun };
        let (local, wall) = (self.clock.local(read), self.clock.wall(read));
        let (member, dice) = (&mut self.workers[index], &mut self.dice);
        let later = member.inputs.split_off(taken);
        let (worker, inputs) = (&mut member.worker, &mut member.inputs);
        let ran = catch_unwind(AssertUnwindSafe(|| worker.handle(local, wall, inputs, &mut || dice.chance(300))));
        member.inputs.extend(later);
        for (to, input) in self.posted.take() {
            self.workers[usize::from(to.0)].inputs.push(input);
        }
        // Even an empty round takes its time.
        self.cursor.pass(2);
        self.busy_until = self.cursor.get();
        self.ended = self.busy_until;
        ran.map_err(ended)
    }

    /// How long the round under way has taken, µs.
    pub(crate) fn round_age(&self, now: u64) -> u64 {
        if now < self.busy_until { now.saturating_sub(self.round_began) } else { 0 }
    }

    /// When the next round is due, where one is.
    pub(crate) fn due(&self, now: u64) -> Option<u64> {
        if self.paused {
            return None;
        }
        (0..self.workers.len()).filter_map(|index| self.due_of(index, now)).min()
    }

    fn due_of(&self, index: usize, now: u64) -> Option<u64> {
        let Member { worker, inputs } = &self.workers[index];
        if !inputs.is_empty() {
            return Some(now.max(self.busy_until));
        }
        let at = worker.next_deadline()?;
        Some(self.clock.world(at).max(self.busy_until).max(now))
    }
}

/// Of the snapshots made by an earlier process nothing is needed: as the server does at a start.
fn clear(files: &dyn FileStore) {
    for path in files.names(Path::new(BUILT)).unwrap_or_default() {
        let _ = files.remove(&path);
    }
}

fn ended(panic: Box<dyn std::any::Any + Send>) -> Ended {
    match panic.downcast::<Fatal>() {
        Ok(fatal) => Ended::Fatal(fatal.0),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Ended::Panic(said.unwrap_or_else(|| "a panic without words".into()))
        }
    }
}
