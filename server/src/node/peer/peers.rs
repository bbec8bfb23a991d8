//! The peers of a node: starts, restarts and stops links and pulses as the map changes.
//!
//! Owns: the tasks, and what they share. Must never: hold a task for a node the map does not name, or keep one running
//! towards an address that changed.

use super::addresses::Addresses;
use super::counters::PeerCounters;
use super::desk::Desk;
use super::drift::Clocks;
use super::hello::{self, Caller, Refused};
use super::lanes::Lanes;
use super::outbox::{Outbox, Slot, Slots};
use super::progress::Progress;
use super::seen::SeenTable;
use super::spoken::{Said, Spoken};
use super::twins::Twins;
use super::walls::Walls;
use super::{Local, WorkerInbox, link, lock, pulse, seek};
use crate::config::Timing;
use crate::node::complaints::Complaints;
use arc_swap::ArcSwap;
use prometheus::Registry;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::detector::Detector;
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_cluster::system::SystemState;
use synod_engine::host::Input;
use synod_engine::runner::MonotoneClock;
use synod_proto::peer::Hello;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The detector looks at the clock so many times a pulse.
const TICKS_A_PULSE: u32 = 4;

/// How far this node's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It serves.
    Up,
    /// It goes down in order, and says so.
    Leaving,
    /// Its streams end.
    Stopped,
}

/// What [`Peers::start`] is given.
pub struct PeersSetup {
    /// Who this process is.
    pub local: Local,
    /// Pace and patience.
    pub timing: Timing,
    /// The worker.
    pub inbox: Arc<dyn WorkerInbox>,
    /// What was seen of others; the worker raises it.
    pub seen: Arc<SeenTable>,
    /// The log writer's progress.
    pub progress: Arc<Progress>,
    /// The node's monotone clock.
    pub clock: MonotoneClock,
    /// By how much leases assume any node's clock to be off at most, millionths; none without leases.
    pub drift_ppm: Option<u64>,
    /// Answers `Identify`; its addresses are those that peers are tried at.
    pub desk: Arc<Desk>,
    /// Filled with what the peers speak.
    pub spoken: Arc<Spoken>,
    /// The address others reach this node by.
    pub advertised: String,
    /// Addresses where nodes of the cluster may be, whatever the map says.
    pub hints: Vec<String>,
}

/// What every task of this module holds.
pub(super) struct Shared {
    pub local: Local,
    /// The address others reach this node by.
    pub advertised: String,
    /// Where peers are.
    pub addresses: Arc<Addresses>,
    pub timing: Timing,
    pub inbox: Arc<dyn WorkerInbox>,
    pub seen: Arc<SeenTable>,
    pub progress: Arc<Progress>,
    pub slots: Arc<ArcSwap<Slots>>,
    pub lanes: Lanes,
    pub twins: Twins,
    pub counters: Arc<PeerCounters>,
    pub clocks: Clocks,
    pub walls: Walls,
    pub phase: watch::Sender<Phase>,
    /// Revision of this node's map.
    pub map_revision: AtomicU64,
    /// Greatest revision a peer spoke of.
    pub peer_map_revision: AtomicU64,
    /// What each peer speaks.
    pub spoken: Arc<Spoken>,
    /// The cluster's version, as of this node's map.
    cluster_version: AtomicU32,
    /// Whether this node's disk is below its low mark.
    pub disk_low: AtomicBool,
    /// What the worker was told of the peers' disks.
    low_peers: Mutex<BTreeMap<NodeId, Option<bool>>>,
    detector: Mutex<Detector>,
    /// The origin of the detector's times.
    began: Instant,
    complaints: Complaints,
}

impl Shared {
    pub fn pulse_every(&self) -> Duration {
        Duration::from_millis(self.timing.pulse_ms)
    }

    pub fn dead_after(&self) -> Duration {
        Duration::from_micros(self.timing.times().dead_after)
    }

    /// The cluster's version, as of this node's map.
    pub fn cluster_version(&self) -> ClusterVersion {
        ClusterVersion::said(self.cluster_version.load(Ordering::Relaxed))
    }

    /// Keeps what a node speaks that was refused for it, and says so once.
    pub fn note_refused(&self, refused: Option<&Refused>) {
        if let Some(refused @ Refused::TooOld { from, speaks, .. }) = refused {
            self.spoken.note(*from, *speaks);
            self.complain(&refused.to_string());
        }
    }

    /// Our hello to `to`, with the address others reach this node by.
    pub fn hello(&self, to: NodeId) -> Hello {
        Hello { addr: self.advertised.clone(), ..hello::hello(&self.local, to) }
    }

    /// A process that is believed says where others reach it.
    pub fn said_address(&self, caller: Caller, hello: Option<&Hello>) {
        let (node, incarnation) = (caller.node, caller.process.incarnation);
        // A node of an older version does not say.
        let Some(addr) = hello.map(|hello| hello.addr.as_str()).filter(|addr| !addr.is_empty()) else { return };
        if self.seen.get(node).0 <= incarnation && self.addresses.told(node, Some(incarnation), addr) {
            tracing::info!(%node, addr, "a peer says that it is where the map does not have it");
        }
    }

    /// Nodes of the map that are not held for alive.
    pub fn missing(&self) -> BTreeSet<NodeId> {
        let (now, detector) = (self.began.elapsed(), lock(&self.detector));
        self.slots.load().keys().copied().filter(|node| !detector.is_alive(*node, now)).collect()
    }

    /// Whether the map names `node`.
    pub fn knows(&self, node: NodeId) -> bool {
        self.slots.load().contains_key(&node)
    }

    /// Gives the detector something to digest, and the worker what follows from it. The lock is held while the worker is
    /// told, so that it hears of changes in their order.
    pub fn detect(&self, digest: impl FnOnce(&mut Detector, Duration)) {
        let now = self.began.elapsed();
        let mut detector = lock(&self.detector);
        // Always: after a pause of this process, whatever event comes first must not find everybody silent.
        detector.tick(now);
        digest(&mut detector, now);
        detector.report(now, |node, alive| {
            let told = self.inbox.push(Input::Liveness { node, alive });
            tracing::debug!(%node, alive, told, "liveness");
            told
        });
    }

    /// A peer says whether its disk is low: the worker is told of changes.
    pub fn peer_disk(&self, node: NodeId, low: bool) {
        let mut known = lock(&self.low_peers);
        let told = known.entry(node).or_insert(Some(false));
        if *told != Some(low) {
            // Where not all workers took it, whatever it says next is told.
            *told = self.inbox.push(Input::PeerDisk { node, low }).then_some(low);
        }
    }

    /// A link to or from `node` was opened.
    pub fn linked(&self, node: NodeId) {
        self.detect(|detector, _| detector.linked(node));
    }

    /// Logs what a stranger or a sick peer did, once.
    pub fn complain(&self, what: &str) {
        self.complain_at(false, what);
    }

    /// The same, as an error where it is `loud`.
    pub fn complain_at(&self, loud: bool, what: &str) {
        match self.complaints.is_new(what) {
            true if loud => tracing::error!("{what}"),
            true => tracing::warn!("{what}"),
            false => {}
        }
    }
}

/// The tasks of one peer.
struct Tasks {
    addr: String,
    link: JoinHandle<()>,
    pulse: JoinHandle<()>,
}

impl Tasks {
    fn stop(self) {
        self.link.abort();
        self.pulse.abort();
    }
}

/// Links and pulses to every other node of the map.
pub struct Peers {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    tasks: Mutex<BTreeMap<NodeId, Tasks>>,
    ticker: JoinHandle<()>,
    seeker: JoinHandle<()>,
}

impl Peers {
    /// Starts with no peers; [`Peers::update`] brings them. Must be called on the async runtime.
    #[must_use]
    pub fn start(setup: PeersSetup) -> Arc<Self> {
        let PeersSetup { local, timing, inbox, seen, progress, clock, drift_ppm, desk, spoken, advertised, hints } =
            setup;
        let pulse = Duration::from_millis(timing.pulse_ms);
        let detector = Detector::new(Duration::ZERO, pulse, Duration::from_micros(timing.times().dead_after));
        let clocks = Clocks::new(local.node, clock, drift_ppm);
        let walls = Walls::new(local.node, clock);
        spoken.note(local.node, local.speaks);
        let shared = Arc::new(Shared {
            local,
            advertised,
            addresses: Arc::clone(desk.addresses()),
            timing,
            inbox,
            seen,
            progress,
            slots: Arc::default(),
            lanes: Lanes::default(),
            twins: Twins::default(),
            counters: Arc::default(),
            clocks,
            walls,
            phase: watch::Sender::new(Phase::Up),
            map_revision: AtomicU64::new(0),
            peer_map_revision: AtomicU64::new(0),
            spoken,
            cluster_version: AtomicU32::new(0),
            disk_low: AtomicBool::new(false),
            low_peers: Mutex::default(),
            detector: Mutex::new(detector),
            began: Instant::now(),
            complaints: Complaints::default(),
        });
        let ticker = tokio::spawn(tick(Arc::clone(&shared), pulse / TICKS_A_PULSE));
        let seeker = tokio::spawn(seek::run(Arc::clone(&shared), hints));
        Arc::new(Self { shared, desk, tasks: Mutex::default(), ticker, seeker })
    }

    /// The worker's end. One a node: it lives on the worker's thread.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        Outbox::new(Arc::clone(&self.shared.slots), self.shared.local.incarnation, Arc::clone(&self.shared.counters))
    }

    /// Takes a map: new nodes get their tasks, lost ones lose them, moved ones get new ones.
    pub fn update(&self, map: &SystemState) {
        self.shared.map_revision.fetch_max(map.revision, Ordering::Relaxed);
        let before = self.shared.addresses.all();
        self.desk.learn(map);
        let mut tasks = lock(&self.tasks);
        if *self.shared.phase.borrow() == Phase::Stopped {
            return;
        }
        let me = self.shared.local.node;
        let gone: Vec<NodeId> = tasks.keys().copied().filter(|node| !map.nodes.contains_key(node)).collect();
        let version = self.shared.cluster_version.fetch_max(map.version.0, Ordering::Relaxed);
        if version < map.version.0 {
            self.let_go_below(map.version, &mut tasks);
        }
        let mut slots = Slots::clone(&self.shared.slots.load());
        for node in gone {
            if let Some(gone) = tasks.remove(&node) {
                gone.stop();
            }
            slots.remove(&node);
            self.shared.detect(|detector, _| detector.forget(node));
            self.shared.clocks.forget(node);
            self.shared.spoken.forget(node);
            self.shared.twins.forget(node);
            self.shared.walls.forget(node);
            self.shared.lanes.close(node);
        }
        let wanted: Vec<(NodeId, &str)> =
            map.nodes.iter().filter(|(n, _)| **n != me).map(|(n, info)| (*n, info.addr.as_str())).collect();
        for (node, _) in &wanted {
            slots.entry(*node).or_default();
            self.shared.detect(|detector, now| detector.watch(*node, now));
        }
        // First the slots, so that a link that opens at once is known to the worker.
        self.shared.slots.store(Arc::new(slots.clone()));
        for (node, addr) in wanted {
            if let Some(running) = tasks.get_mut(&node)
                && (running.addr == addr || before.get(&node).is_some_and(|before| before == addr))
            {
                // It is tried there already: the map says what the peer said before.
                addr.clone_into(&mut running.addr);
                continue;
            }
            if let Some(moved) = tasks.remove(&node) {
                moved.stop();
            }
            if let Some(slot) = slots.get(&node) {
                tasks.insert(node, self.begin(node, addr.to_owned(), Arc::clone(slot)));
            }
        }
    }

    /// The cluster was raised: a node that is not up to it has said its last word on the connections there are. Those that are
    /// made from now on begin with a hello, which refuses it.
    fn let_go_below(&self, version: ClusterVersion, tasks: &mut BTreeMap<NodeId, Tasks>) {
        for node in self.shared.spoken.below(version) {
            self.shared.lanes.close(node);
            if let Some(task) = tasks.remove(&node) {
                task.stop();
            }
        }
    }

    fn begin(&self, node: NodeId, addr: String, slot: Arc<Slot>) -> Tasks {
        let (identified, told) = watch::channel(false);
        let link = tokio::spawn(link::run(Arc::clone(&self.shared), node, slot, told));
        let pulse = tokio::spawn(pulse::run(Arc::clone(&self.shared), node, identified));
        Tasks { addr, link, pulse }
    }

    /// Tells every peer at once that this node goes down in order: they hold it for dead from then on.
    pub fn leaving(&self) {
        self.shared.phase.send_if_modified(|phase| {
            let up = *phase == Phase::Up;
            if up {
                *phase = Phase::Leaving;
            }
            up
        });
    }

    /// Ends every link and pulse, so that the server can shut down.
    pub fn stop(&self) {
        let mut tasks = lock(&self.tasks);
        self.shared.phase.send_replace(Phase::Stopped);
        for (_, task) in std::mem::take(&mut *tasks) {
            task.stop();
        }
        self.shared.lanes.close_all();
        self.ticker.abort();
        self.seeker.abort();
    }

    /// Where a peer most likely is.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.shared.addresses.of(node)
    }

    /// Our hello to `to`, encoded.
    #[must_use]
    pub fn credentials(&self, to: NodeId) -> Vec<u8> {
        self.shared.hello(to).encode_to_vec()
    }

    /// Has the next pulses say whether this node's disk is low.
    pub fn say_disk_low(&self, low: bool) {
        self.shared.disk_low.store(low, Ordering::Relaxed);
    }

    /// Lets the registry show what is counted and measured here.
    ///
    /// # Errors
    /// The registry holds metrics of the same names.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.shared.counters.register(registry)?;
        self.shared.clocks.register(registry)?;
        self.shared.walls.register(registry)
    }

    #[cfg(test)]
    pub(super) fn counters(&self) -> &PeerCounters {
        &self.shared.counters
    }

    /// What is wrong with the clocks of this node and its peers, and which of these run twice.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let mut alarms = self.shared.clocks.alarms();
        alarms.extend(self.shared.walls.alarms());
        alarms.extend(self.shared.twins.alarms());
        alarms
    }

    /// The cluster's time, µs since 1970: what most of the wall clocks heard here show.
    #[must_use]
    pub fn cluster_time_us(&self) -> u64 {
        self.shared.walls.cluster_time_us()
    }

    /// Logs what is wrong with others, once.
    pub fn complain(&self, what: &str) {
        self.shared.complain(what);
    }

    /// What `node` last said it speaks, where it was ever heard.
    #[must_use]
    pub fn spoken(&self, node: NodeId) -> Option<Said> {
        self.shared.spoken.get(node)
    }

    /// Whether `node` is held for alive.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        lock(&self.shared.detector).is_alive(node, self.shared.began.elapsed())
    }

    /// The greatest map revision any peer spoke of: above one's own, there is news to fetch.
    #[must_use]
    pub fn newest_map_revision(&self) -> u64 {
        self.shared.peer_map_revision.load(Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn tick(shared: Arc<Shared>, every: Duration) {
    let mut pace = interval(every.max(Duration::from_millis(5)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        shared.detect(|_, _| {});
    }
}
