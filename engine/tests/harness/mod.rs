//! A cluster of workers in one thread: a queue of messages, a clock that jumps to the next deadline, stores that survive
//! a kill. The same run gives the same result.

mod client;
mod host;
mod members;
mod merges;
pub mod snapshots;
mod splits;

pub use host::Seen;

use bytes::Bytes;
use host::TestHost;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, SystemState};
use synod_engine::command::{Action, Expect, KeyOp, NewRecord};
use synod_engine::host::{
    Answer, Input, MergeInput, NodeInput, NodeReport, PeerInput, ReplicaReport, ReplySink, ScrubInput, SnapshotInput,
};
use synod_engine::identity::SeenTable;
use synod_engine::logstore::LogStore;
use synod_engine::logstore::mem::MemLog;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::memory::Memory;
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WorkerId};
use synod_engine::salvage;
use synod_engine::state::StateStore;
use synod_engine::state::front::FrontState;
use synod_engine::state::mem::{ColdRows, MemDisk, MemState};
use synod_engine::state::rocks::StateOptions;
use synod_engine::wall::Reading;
use synod_engine::worker::{Worker, WorkerOptions, WorkerSetup};
use synod_engine::writer::{WriterMode, WriterProgress};
use synod_paxos::types::Micros;

#[derive(Default)]
pub struct Answers(Mutex<BTreeMap<u64, Result<Answer, Refusal>>>);

impl ReplySink for Answers {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        let before = self.0.lock().unwrap().insert(id, answer);
        assert!(before.is_none(), "request {id} was answered twice");
    }
}

impl Answers {
    pub fn take(&self, id: u64) -> Option<Result<Answer, Refusal>> {
        self.0.lock().unwrap().remove(&id)
    }
}

/// Where a node keeps its bytes.
pub enum Disk {
    Mem {
        log: Arc<MemLog>,
        state: MemDisk,
        freeze_bytes: usize,
    },
    Rocks {
        path: PathBuf,
    },
    /// In memory; each applied batch owes a wait of `micros` µs.
    Slow {
        log: Arc<MemLog>,
        state: MemDisk,
        micros: Arc<AtomicU64>,
    },
    /// In memory; what a process finds is cold.
    Cold {
        log: Arc<MemLog>,
        state: MemDisk,
        cold: ColdRows,
    },
}

impl Disk {
    pub fn mem(freeze_bytes: usize) -> Self {
        Self::Mem { log: Arc::new(MemLog::new()), state: MemDisk::default(), freeze_bytes }
    }

    fn open(&self) -> (Arc<dyn LogStore>, Box<dyn StateStore>) {
        match self {
            Self::Mem { log, state, freeze_bytes } => {
                let store = MemState::open(state).with_freeze_bytes(*freeze_bytes);
                (Arc::clone(log) as Arc<dyn LogStore>, Box::new(store))
            }
            Self::Slow { log, state, micros } => {
                (Arc::clone(log) as Arc<dyn LogStore>, Box::new(MemState::open(state).owing(micros)))
            }
            Self::Cold { log, state, cold } => {
                (Arc::clone(log) as Arc<dyn LogStore>, Box::new(MemState::open(state).cold(cold)))
            }
            Self::Rocks { path } => {
                let log = RocksLog::open(&path.join("log"), &LogOptions::default()).unwrap();
                let (shared, _) = salvage::open(&path.join("state"), StateOptions::default(), &log).unwrap();
                (Arc::new(log), Box::new(FrontState::new(shared, 1 << 20).unwrap()))
            }
        }
    }
}

struct Up {
    worker: Worker<TestHost>,
    inputs: Vec<Input>,
    incarnation: Incarnation,
    table: Arc<SeenTable>,
    /// Peers that have told what they have seen of this node: to others it has no link.
    told_by: BTreeSet<NodeId>,
}

pub struct Sim {
    pub disk: Disk,
    pub seen: Arc<Mutex<Seen>>,
    /// Its snapshot files.
    pub snapshots: tempfile::TempDir,
    /// Of the process that runs, or ran last.
    pub metrics: Option<Arc<EngineMetrics>>,
    /// And what it holds in memory.
    pub memory: Option<Memory>,
    up: Option<Up>,
}

pub struct Cluster {
    pub nodes: BTreeMap<NodeId, Sim>,
    pub now: Micros,
    pub answers: Arc<Answers>,
    next_request: u64,
    next_seq: u64,
    map: Option<Arc<SystemState>>,
    /// (from, to): frames are lost.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Of a hundred frames so many are lost.
    pub loss: u64,
    /// How long each frame is on its way, µs.
    pub delay_us: u64,
    /// When each frame arrives, where, and what it is; the first to arrive is the first.
    under_way: VecDeque<(Micros, NodeId, PeerInput)>,
    random: u64,
    /// Called while a request is on its way.
    pub disturb: Option<fn(&mut Cluster)>,
    pub options: WorkerOptions,
    /// What each node may hold in memory, bytes.
    pub memory_max: usize,
    /// Questions for snapshots are lost.
    pub deaf: bool,
    /// What replicas tell of their bounds is lost.
    pub untold: bool,
    /// Rounds end behind a write, as if more inputs waited.
    pub hurried: bool,
    /// By how much nodes' wall clocks are off, µs.
    pub wall_off: BTreeMap<NodeId, i64>,
}

pub const N1: NodeId = NodeId(1);
pub const N2: NodeId = NodeId(2);
pub const N3: NodeId = NodeId(3);
pub const WALL: u64 = 1_000_000_000;

pub fn append(key: &str, value: &str) -> KeyOp {
    let record = NewRecord { headers: vec![], value: Bytes::copy_from_slice(value.as_bytes()) };
    KeyOp { key: Bytes::copy_from_slice(key.as_bytes()), expect: Expect::Any, action: Action::Append(vec![record]) }
}

pub fn expecting(expect: Expect, op: KeyOp) -> KeyOp {
    KeyOp { expect, ..op }
}

impl Cluster {
    /// Nodes 1, 2, … on these disks, the system shard created and led.
    pub fn new(disks: Vec<Disk>) -> Self {
        Self::founded(disks, WorkerOptions::default(), ClusterVersion::FIRST)
    }

    /// The same with these limits, at this cluster version from the beginning.
    pub fn founded(disks: Vec<Disk>, options: WorkerOptions, version: ClusterVersion) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now: Micros(1),
            answers: Arc::default(),
            next_request: 0,
            next_seq: 0,
            map: None,
            cut: BTreeSet::new(),
            loss: 0,
            delay_us: 0,
            under_way: VecDeque::new(),
            random: 1,
            disturb: None,
            options,
            memory_max: usize::MAX,
            deaf: false,
            untold: false,
            hurried: false,
            wall_off: BTreeMap::new(),
        };
        let founders: Vec<String> = (1..=disks.len()).map(|n| format!("host{n}:1")).collect();
        for (n, disk) in (1..).zip(disks) {
            cluster.nodes.insert(
                NodeId(n),
                Sim {
                    disk,
                    seen: Arc::default(),
                    snapshots: tempfile::tempdir().unwrap(),
                    metrics: None,
                    memory: None,
                    up: None,
                },
            );
        }
        let founding = SystemState { version, ..SystemState::found(77, &founders) };
        for node in cluster.ids() {
            cluster.start(node);
            cluster.push(node, NodeInput::CreateSystemShard(Box::new(founding.clone())));
        }
        cluster.run_until("the system shard is led", |c| c.leader(SYSTEM_SHARD).is_some());
        cluster
    }

    pub fn mem(nodes: usize) -> Self {
        Self::new((0..nodes).map(|_| Disk::mem(1 << 16)).collect())
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[&node].up.is_some()
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, node: NodeId) {
        self.try_start(node).unwrap();
    }

    pub fn try_start(&mut self, node: NodeId) -> Result<(), synod_engine::StoreError> {
        let sim = self.nodes.get_mut(&node).unwrap();
        let (log, store) = sim.disk.open();
        let recovered = log.recover_node()?;
        let incarnation = log.begin_incarnation()?;
        sim.seen = Arc::default();
        let table = Arc::new(SeenTable::default());
        let setup = WorkerSetup {
            me: node,
            worker: WorkerId::FIRST,
            shared: Arc::new(NodeShared::new(1, incarnation)),
            recovered,
            incarnation,
            log,
            store,
            seen: Arc::clone(&table),
            progress: Arc::new(WriterProgress::default()),
            metrics: Arc::clone(sim.metrics.insert(Arc::new(EngineMetrics::detached()))),
            clock: Arc::new(|| Micros(1)),
            memory: sim.memory.insert(Memory::new(self.memory_max)).clone(),
            mode: WriterMode::Inline,
            options: self.options.clone(),
        };
        let random = node.0 * 1000 + incarnation.0;
        let host = TestHost { seen: Arc::clone(&sim.seen), random, snapshots: sim.snapshots.path().into() };
        let worker = Worker::new(setup, host)?;
        sim.up = Some(Up { worker, inputs: Vec::new(), incarnation, table, told_by: BTreeSet::new() });
        let map = self.map.clone();
        self.nodes.get_mut(&node).unwrap().up.as_mut().unwrap().inputs.extend(map.map(NodeInput::Map).map(Input::from));
        for peer in self.ids().into_iter().filter(|p| *p != node) {
            self.push(peer, PeerInput::Liveness { node, alive: true });
            if self.is_up(peer) {
                self.push(node, PeerInput::Liveness { node: peer, alive: true });
            }
        }
        Ok(())
    }

    /// The node vanishes; what was not synced or frozen is lost.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().up = None;
        for peer in self.ids() {
            self.push(peer, PeerInput::Liveness { node, alive: false });
        }
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&mut self, node: NodeId) {
        for peer in self.ids().into_iter().filter(|p| *p != node) {
            self.cut.insert((node, peer));
            self.cut.insert((peer, node));
            self.push(peer, PeerInput::Liveness { node, alive: false });
            self.push(node, PeerInput::Liveness { node: peer, alive: false });
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        for node in self.ids() {
            for peer in self.ids().into_iter().filter(|p| *p != node) {
                if self.is_up(peer) {
                    self.push(node, PeerInput::Liveness { node: peer, alive: true });
                }
            }
        }
    }

    pub fn push(&mut self, node: NodeId, input: impl Into<Input>) {
        if let Some(up) = &mut self.nodes.get_mut(&node).unwrap().up {
            up.inputs.push(input.into());
        }
    }

    /// Peers tell what they have seen of each other, as their pulses do.
    fn pulse(&mut self) {
        for node in self.ids() {
            for peer in self.ids().into_iter().filter(|p| *p != node) {
                let seen = self.nodes[&peer].up.as_ref().map(|up| up.table.get(node));
                if let Some(seen) = seen.filter(|_| !self.cut.contains(&(peer, node))) {
                    self.push(node, PeerInput::IdentityAnswer { from: peer, seen });
                    let reading = Reading { at: self.now, wall_us: self.wall_us(peer) };
                    self.push(node, PeerInput::Clock { node: peer, reading });
                    if let Some(up) = &mut self.nodes.get_mut(&node).unwrap().up {
                        up.told_by.insert(peer);
                    }
                }
            }
        }
    }

    /// What a node's wall clock shows, µs.
    pub fn wall_us(&self, node: NodeId) -> u64 {
        let off = self.wall_off.get(&node).copied().unwrap_or(0);
        (WALL + self.now.0).saturating_add_signed(off)
    }

    /// The cluster's randomness begins here.
    pub fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// A number below 100.
    pub fn chance(&mut self) -> u64 {
        self.below(100)
    }

    /// A random number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// A frame leaves.
    fn send_frame(&mut self, to: NodeId, frame: PeerInput) {
        if self.delay_us == 0 && self.under_way.is_empty() {
            self.push(to, frame);
        } else {
            self.under_way.push_back((self.now.plus(self.delay_us), to, frame));
        }
    }

    /// Frames whose time has come arrive, in the order in which they left.
    fn receive_frames(&mut self) {
        while self.under_way.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to, frame) = self.under_way.pop_front().unwrap();
            self.push(to, frame);
        }
    }

    /// One round of every node that has something to do, then all frames arrive that are not slow. Whether anything was done.
    pub fn step(&mut self) -> bool {
        self.receive_frames();
        let mut busy = false;
        for node in self.ids() {
            let (now, wall_us) = (self.now, self.wall_us(node));
            let sim = self.nodes.get_mut(&node).unwrap();
            let Some(up) = &mut sim.up else { continue };
            up.inputs.append(&mut sim.seen.lock().unwrap().told);
            if up.inputs.is_empty() && up.worker.next_deadline().is_none_or(|at| at > now) {
                continue;
            }
            busy = true;
            let hurried = self.hurried;
            up.worker.handle(now, wall_us, &mut up.inputs, &mut || hurried);
            let incarnation = up.incarnation;
            let (frames, maps, offers, asks) = {
                let mut seen = sim.seen.lock().unwrap();
                let frames = std::mem::take(&mut seen.frames);
                let (offers, asks) = (std::mem::take(&mut seen.offers), std::mem::take(&mut seen.asks));
                (frames, std::mem::take(&mut seen.maps), offers, asks)
            };
            let members = std::mem::take(&mut sim.seen.lock().unwrap().members);
            self.tell_members(members);
            let bounds = std::mem::take(&mut self.nodes[&node].seen.lock().unwrap().bounds);
            self.tell_bounds(bounds);
            let told = std::mem::take(&mut self.nodes[&node].seen.lock().unwrap().scrubs);
            for (to, shard, slot, hash) in told {
                self.push(to, ScrubInput::Told { from: node, shard, slot, hash });
            }
            let words = std::mem::take(&mut self.nodes[&node].seen.lock().unwrap().words);
            for (to, target, word) in words {
                if self.cut.contains(&(node, to)) {
                    continue;
                }
                self.push(to, MergeInput::Word { from: node, target, word });
            }
            let heard = if self.deaf { Vec::new() } else { asks };
            for (to, shard, least) in heard {
                self.push(to, SnapshotInput::Asked { by: node, shard, least });
            }
            for (to, shard) in offers.into_iter().filter(|(to, _)| !self.cut.contains(&(node, *to))) {
                self.fetch(node, to, shard);
            }
            for (to, write_seq, messages) in frames {
                let linked = self.nodes[&node].up.as_ref().is_some_and(|up| up.told_by.contains(&to));
                if linked && !self.cut.contains(&(node, to)) && self.chance() >= self.loss {
                    self.send_frame(to, PeerInput::Messages { from: node, incarnation, write_seq, messages });
                }
            }
            for map in maps {
                if self.map.as_ref().is_none_or(|known| known.revision < map.revision) {
                    self.map = Some(Arc::clone(&map));
                }
                for peer in self.ids() {
                    self.push(peer, NodeInput::Map(Arc::clone(&map)));
                }
            }
        }
        busy
    }

    /// Runs for so long, µs.
    pub fn run_for(&mut self, micros: u64) {
        let end = self.now.plus(micros);
        self.run("time passes", end, |c| c.now >= end);
    }

    /// Runs until it holds; panics after a simulated minute.
    pub fn run_until(&mut self, what: &str, holds: impl FnMut(&mut Self) -> bool) {
        let end = self.now.plus(60_000_000);
        self.run(what, end, holds);
    }

    fn run(&mut self, what: &str, end: Micros, mut holds: impl FnMut(&mut Self) -> bool) {
        let mut pulse_at = self.now;
        while !holds(self) {
            assert!(self.now <= end, "not within its time: {what}");
            if pulse_at <= self.now {
                self.pulse();
                pulse_at = self.now.plus(200_000);
            }
            if !self.step() {
                let deadlines = self.nodes.values().filter_map(|sim| sim.up.as_ref()?.worker.next_deadline());
                let arrival = self.under_way.front().map(|(at, ..)| *at);
                let next = deadlines.chain(arrival).fold(pulse_at, Micros::min);
                self.now = Micros(next.0.clamp(self.now.0 + 1, self.now.0 + 50_000));
            } else {
                self.now = self.now.plus(100);
            }
        }
    }

    /// The one live node that leads the shard, by its own belief.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let leads = |sim: &Sim| sim.up.is_some() && sim.seen.lock().unwrap().leads.contains(&shard);
        let mut leaders = self.nodes.iter().filter(|(_, sim)| leads(sim)).map(|(id, _)| *id);
        let leader = leaders.next()?;
        leaders.next().is_none().then_some(leader)
    }

    pub fn map(&self) -> Arc<SystemState> {
        self.map.clone().expect("a map was published")
    }

    pub fn shards_of(&self, table: TableId) -> Vec<ShardId> {
        self.map().shards.values().filter(|d| d.table == table).map(|d| d.shard).collect()
    }

    pub fn shard_for(&self, table: TableId, key: &str) -> ShardId {
        let map = self.map();
        let holds = |d: &&Descriptor| d.table == table && d.contains(key.as_bytes());
        map.shards.values().find(holds).expect("every key has a shard").shard
    }

    pub fn report(&mut self, node: NodeId) -> NodeReport {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        self.push(node, NodeInput::Status(Box::new(move |report| *tell.lock().unwrap() = Some(report))));
        self.run_until("a status", |_| told.lock().unwrap().is_some());
        let report = told.lock().unwrap().take();
        report.unwrap()
    }

    pub fn replica(&mut self, node: NodeId, shard: ShardId) -> Option<ReplicaReport> {
        self.report(node).replicas.into_iter().find(|r| r.shard == shard)
    }
}
