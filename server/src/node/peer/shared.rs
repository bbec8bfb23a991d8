//! What the tasks towards all peers share: who this process is, what is known of the peers, and the failure detector.
//!
//! Owns: that state, and the ways in which it changes. Must never: start a task, or tell the worker of two changes in an order other
//! than theirs.

use super::addresses::Addresses;
use super::counters::PeerCounters;
use super::drift::Clocks;
use super::fences::Fences;
use super::hello::{self, Caller, Refused};
use super::identify::IdentifyService;
use super::outbox::Slots;
use super::progress::Progress;
use super::seen::SeenTable;
use super::spoken::{Place, Spoken};
use super::twins::{self, Twins};
use super::walls::Walls;
use super::{Local, WorkerInbox, lock};
use crate::config::Timing;
use crate::node::complaints::Complaints;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_cluster::detector::Detector;
use synod_cluster::ids::{ClusterVersion, Incarnation, NodeId, NodeWriteSeq};
use synod_engine::clock::MonotoneClock;
use synod_engine::host::PeerInput;
use synod_proto::peer::{Hello, PulseFrame};
use tokio::sync::watch;

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

/// What [`Peers::start`](super::Peers::start) is given.
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
    pub identify: Arc<IdentifyService>,
    /// Filled with what the peers speak.
    pub spoken: Arc<Spoken>,
    /// The address others reach this node by.
    pub advertised: String,
    /// Addresses where nodes of the cluster may be, whatever the map says.
    pub hints: Vec<String>,
}

/// What every task towards a peer holds.
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
    pub fences: Fences,
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
    /// Of a node that is up and knows of no peers.
    pub fn new(setup: PeersSetup) -> Self {
        let PeersSetup {
            local,
            timing,
            inbox,
            seen,
            progress,
            clock,
            drift_ppm,
            identify,
            spoken,
            advertised,
            hints: _,
        } = setup;
        let pulse = Duration::from_millis(timing.pulse_ms);
        let detector = Detector::new(Duration::ZERO, pulse, Duration::from_micros(timing.times().dead_after));
        let clocks = Clocks::new(local.node, clock, drift_ppm);
        let walls = Walls::new(local.node, clock);
        spoken.note(local.node, local.speaks);
        Self {
            local,
            advertised,
            addresses: Arc::clone(identify.addresses()),
            timing,
            inbox,
            seen,
            progress,
            slots: Arc::default(),
            fences: Fences::default(),
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
        }
    }

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

    /// Takes the version of a map; returns whether it is greater than the one known.
    pub fn raise_version(&self, version: ClusterVersion) -> bool {
        self.cluster_version.fetch_max(version.0, Ordering::Relaxed) < version.0
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

    /// Our hello to `to` that also says where this node runs.
    pub fn placed_hello(&self, to: NodeId) -> Hello {
        let Place { zone, rack } = self.spoken.place(self.local.node);
        Hello { zone, rack, ..self.hello(to) }
    }

    /// A process that is believed says where it runs. A node of an older version does not, nor does one that was not told.
    pub fn said_place(&self, caller: Caller, hello: Option<&Hello>) {
        let Some(Hello { zone, rack, .. }) = hello else { return };
        if self.seen.get(caller.node).0 <= caller.process.incarnation {
            self.spoken.note_place(caller.node, Place { zone: zone.clone(), rack: rack.clone() });
        }
    }

    /// A process that is believed says where others reach it.
    pub fn said_address(&self, caller: Caller, hello: Option<&Hello>) {
        let (node, incarnation) = (caller.node, caller.process.incarnation);
        // A node of an older version does not say.
        let Some(addr) = hello.map(|hello| hello.addr.as_str()).filter(|addr| !addr.is_empty()) else { return };
        if self.seen.get(node).0 <= incarnation && self.addresses.told(node, Some(incarnation), addr) {
            tracing::info!(%node, addr, "a peer names an address that the map does not have");
        }
    }

    /// Nodes of the map that are not held for alive.
    pub fn missing(&self) -> BTreeSet<NodeId> {
        let (now, detector) = (self.began.elapsed(), lock(&self.detector));
        self.slots.load().keys().copied().filter(|node| !detector.is_alive(*node, now)).collect()
    }

    /// Whether `node` is held for alive.
    pub fn is_alive(&self, node: NodeId) -> bool {
        lock(&self.detector).is_alive(node, self.began.elapsed())
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
            let told = self.inbox.push(PeerInput::Liveness { node, alive }.into());
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
            *told = self.inbox.push(PeerInput::Disk { node, low }.into()).then_some(low);
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

/// What is believed of processes: [`Twins`] decides, here it takes effect.
impl Shared {
    /// Refuses a caller whose node has another process that rules this one out.
    pub fn check_process(&self, caller: Caller) -> Result<(), Refused> {
        self.twins.check(self.local.node, caller)
    }

    /// A process whose hello was checked speaks; `addr` is where it says it is, empty where it does not say. It is believed from
    /// now on, unless another one rules it out, or it is `leaving`.
    pub fn believe(&self, caller: Caller, addr: &str, leaving: bool) -> Result<(), Refused> {
        match self.twins.believe(self.local.node, caller, addr, leaving) {
            Ok(false) => Ok(()),
            // Links of the process that was believed before carry nothing from now on.
            Ok(true) => {
                self.fences.close(caller.node);
                Ok(())
            }
            Err((refused, loud)) => {
                self.complain_at(loud, &refused.to_string());
                Err(refused)
            }
        }
    }

    /// Why this process is ruled out, as far as a peer knows.
    pub fn ruled_out_by(&self, frame: &PulseFrame) -> Option<String> {
        twins::ruled_out_by(&self.local, &self.advertised, frame)
    }

    /// Takes what a believed process of `from` tells of processes: of other nodes, and of this one.
    pub fn take_told(&self, from: NodeId, frame: &PulseFrame) {
        if let Some(why) = self.ruled_out_by(frame) {
            let seen = (Incarnation(frame.seen_incarnation), NodeWriteSeq(frame.seen_write_seq));
            // Said again with the next pulse, whether it was taken or not.
            self.inbox.push(PeerInput::RunsTwice { from, seen, why: why.into() }.into());
        }
        for node in self.twins.take_told(self.local.node, from, frame) {
            self.fences.close(node);
        }
    }
}
