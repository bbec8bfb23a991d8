//! The peers of a node: starts, restarts and stops links and pulses as the map changes.
//!
//! Owns: the tasks. Must never: hold a task for a node the map does not name, or keep one running towards an address that changed.

use super::identify::IdentifyService;
use super::outbox::{Outbox, Slot, Slots};
use super::shared::{PeersSetup, Phase, Shared};
use super::spoken::{Place, Said};
use super::{link, lock, pulse, seek};
use prometheus::Registry;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_cluster::system::SystemState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The detector looks at the clock so many times a pulse.
const TICKS_A_PULSE: u32 = 4;

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
    identify: Arc<IdentifyService>,
    tasks: Mutex<BTreeMap<NodeId, Tasks>>,
    ticker: JoinHandle<()>,
    seeker: JoinHandle<()>,
}

impl Peers {
    /// Starts with no peers; [`Peers::update`] brings them. Must be called on the async runtime.
    #[must_use]
    pub fn start(setup: PeersSetup) -> Arc<Self> {
        let (identify, hints) = (Arc::clone(&setup.identify), setup.hints.clone());
        let shared = Arc::new(Shared::new(setup));
        let ticker = tokio::spawn(tick(Arc::clone(&shared), shared.pulse_every() / TICKS_A_PULSE));
        let seeker = tokio::spawn(seek::run(Arc::clone(&shared), hints));
        Arc::new(Self { shared, identify, tasks: Mutex::default(), ticker, seeker })
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
        self.identify.learn(map);
        let mut tasks = lock(&self.tasks);
        if *self.shared.phase.borrow() == Phase::Stopped {
            return;
        }
        let me = self.shared.local.node;
        let gone: Vec<NodeId> = tasks.keys().copied().filter(|node| !map.nodes.contains_key(node)).collect();
        if self.shared.raise_version(map.version) {
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
            self.shared.fences.close(node);
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
            self.shared.fences.close(node);
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
        self.shared.fences.close_all();
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
    pub(super) fn counters(&self) -> &super::PeerCounters {
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

    /// Where `node` runs, as it said last; this node too.
    #[must_use]
    pub fn place(&self, node: NodeId) -> Place {
        self.shared.spoken.place(node)
    }

    /// Whether `node` is held for alive.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.shared.is_alive(node)
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
