//! The way up of a node: it listens, it is a member of a cluster, its engine runs, it serves.
//!
//! Owns: these stages, each a type that only the one before makes. Must never: belong to a cluster before its server answers who
//! the node is, or serve clients before the engine runs.

use super::api::admin::job_manager::JobManager;
use super::api::admin::repairs::Repairer;
use super::api::admin::{self, AdminService};
use super::api::admission::AdmissionQueues;
use super::api::cluster::ClusterCheck;
use super::api::synod::{self, SynodService};
use super::disk::{Disk, Spare};
use super::follow::Follower;
use super::host::{NodeHost, Signals};
use super::listener::{self, Permits};
use super::map::MapCache;
use super::peer::{
    self, Belonging, How, IdentifyService, Local, PeerService, Peers, PeersSetup, Place, Progress, SeenTable, Spoken,
};
use super::readers::Readers;
use super::snapshots::{self, SnapshotManager};
use super::system::SystemProposer;
use super::team::Team;
use super::term::Term;
use super::versions::VersionManager;
use super::whereabouts::Whereabouts;
use super::{Node, data_dir, metrics};
use crate::config::{Lease, ServerConfig};
use anyhow::Result;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClusterVersion, Nonce, SYSTEM_SHARD};
use synod_cluster::system::SystemState;
use synod_engine::clock::MonotoneClock;
use synod_engine::identity;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::logstore::{LogStore, NodeRecovered};
use synod_engine::memory::{Holder, Memory};
use synod_engine::metrics::EngineMetrics;
use synod_engine::node::{NodeShared, WORKERS_MAX};
use synod_engine::runner::{self, WorkerHandle};
use synod_engine::salvage::{self, SetAside};
use synod_engine::state::StateStore;
use synod_engine::state::front::FrontState;
use synod_engine::state::rocks::StateOptions;
use synod_engine::times::Times;
use synod_engine::worker::WorkerOptions;
use synod_engine::writer::{UnderWay, WriterProgress};
use synod_proto::v1::admin_server::AdminServer;
use synod_proto::v1::synod_server::SynodServer;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

/// Inputs that may wait for the worker.
const INBOX: usize = 16_384;
/// How much longer than its worker a node that goes down waits for its leaderships to be taken over.
const DRAIN_SLACK: Duration = Duration::from_secs(1);
/// The longest message of a client, bytes: the greatest batch that any settings allow, so that one above this node's own limit
/// is refused by name, and not with its connection.
const CLIENT_MESSAGE: usize = 33 << 20;
/// How far ahead of its shard's time a write's deadline may lie, µs: 10 minutes, and as much for clocks that differ.
const DEADLINE_AHEAD: u64 = 20 * 60 * 1_000_000;

/// The node answers who it is, so that founders find each other; it belongs nowhere yet.
pub(super) struct Listening {
    clock: MonotoneClock,
    /// What was seen of peers: the engine's table, and the one over it that the pulses fill.
    engine_seen: Arc<identity::SeenTable>,
    seen: Arc<SeenTable>,
    identify: Arc<IdentifyService>,
    permits: Arc<Permits>,
    peer_service: Arc<PeerService>,
    synod_service: SynodService,
    admin_service: AdminService,
    meant_for: ClusterCheck,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// The node belongs to a cluster, and its log says so.
pub(super) struct Member {
    listening: Listening,
    log: Arc<RocksLog>,
    recovered: NodeRecovered,
    local: Local,
    founding: Option<SystemState>,
}

/// The engine runs and the peers are called; clients are not served yet.
pub(super) struct Running {
    listening: Listening,
    local: Local,
    founding: Option<SystemState>,
    registry: prometheus::Registry,
    /// Of the workers' log.
    log: Weak<dyn LogStore>,
    map_cache: Arc<MapCache>,
    signals: Arc<Signals>,
    memory: Memory,
    worker: WorkerHandle,
    threads: Vec<thread::JoinHandle<()>>,
    progress: Arc<Progress>,
    peers: Arc<Peers>,
    snapshots: Arc<SnapshotManager>,
    disk: Spare,
    drain: Duration,
}

impl Listening {
    /// Serves the listener from now on.
    pub(super) fn begin(config: &ServerConfig, listener: TcpListener, recovered: &NodeRecovered) -> Self {
        let clock = MonotoneClock::default();
        let engine_seen = Arc::new(identity::SeenTable::default());
        for (node, incarnation, seq) in &recovered.seen {
            engine_seen.raise(*node, (*incarnation, *seq));
        }
        let seen = Arc::new(SeenTable::over(Arc::clone(&engine_seen)));
        let identify = IdentifyService::new(Arc::clone(&seen));
        let peer_service = PeerService::new(Arc::clone(&identify), &config.settings);
        let synod_service = SynodService::default();
        let admin_service = AdminService::default();
        let meant_for = ClusterCheck::default();
        let connections = config.settings.network.connections_max as usize;
        let permits = Permits::new(connections);
        let mut server = peer::tune_server(Server::builder());
        let longest = peer::frame_bytes_max(&config.settings);
        let peers = Arc::clone(&peer_service);
        let let_in = move |request| peers.let_in(request);
        let synod = SynodServer::new(synod_service.clone()).max_decoding_message_size(CLIENT_MESSAGE);
        let admin = AdminServer::new(admin_service.clone()).max_decoding_message_size(longest);
        let router = server
            .add_service(Arc::clone(&peer_service).into_server())
            .add_service(InterceptedService::new(InterceptedService::new(synod, meant_for.clone()), let_in.clone()))
            .add_service(InterceptedService::new(InterceptedService::new(admin, meant_for.clone()), let_in));
        let links = Arc::clone(&peer_service);
        let links = move |connection| links.link(connection);
        let incoming = listener::incoming(listener, Arc::clone(&permits), connections, peer::wire::PREFACE[0], links);
        let serving = tokio::spawn(router.serve_with_incoming(incoming));
        Self {
            clock,
            engine_seen,
            seen,
            identify,
            permits,
            peer_service,
            synod_service,
            admin_service,
            meant_for,
            serving,
        }
    }

    /// Waits until the node belongs to a cluster.
    ///
    /// # Errors
    /// Why it must not begin.
    pub(super) async fn settle(
        self,
        config: &ServerConfig,
        log: Arc<RocksLog>,
        recovered: NodeRecovered,
    ) -> Result<Member> {
        let belonging = peer::settle(config, log.as_ref(), &recovered, &self.identify).await?;
        let (cluster, node) = (belonging.identity.cluster.0, belonging.identity.node);
        self.meant_for.belong_to(cluster);
        let speaks = config.settings.cluster.speaks();
        let incarnation = log.begin_incarnation()?;
        tracing::info!(node = node.0, cluster = format!("{cluster:032x}"), how = ?belonging.how, "belongs");
        let founding = founding(&belonging, &recovered);
        let nonce = Nonce(rand::random::<u64>() | 1);
        let local = Local { cluster, node, incarnation, nonce, speaks };
        Ok(Member { listening: self, log, recovered, local, founding })
    }
}

impl Member {
    /// Starts the workers over the node's stores, and the calls to the peers.
    ///
    /// # Errors
    /// A store, a file or a thread: which, and why.
    pub(super) fn run(self, config: &ServerConfig, disk: &mut Disk) -> Result<Running> {
        let Self { listening, log, recovered, local, founding } = self;
        let clock = listening.clock;
        let registry = prometheus::Registry::new();
        listening.permits.register(&registry)?;
        let times = times(config, log.as_ref(), &recovered)?;
        let term = Term::begin(&config.data_dir, times.support)?;
        let options = worker_options(config, times, term.owed());
        tokio::spawn(term.settle());
        let drain = Duration::from_micros(options.drain_us) + DRAIN_SLACK;
        let engine_metrics = Arc::new(EngineMetrics::new(&registry)?);
        let spoken = Arc::new(Spoken::default());
        let place = &config.settings.node;
        spoken.note_place(local.node, Place { zone: place.zone.clone(), rack: place.rack.clone() });
        let map_cache = MapCache::open(&config.data_dir, &local, Arc::clone(&spoken)).map_err(anyhow::Error::msg)?;
        let signals = Arc::new(no_signals());
        let memory = Memory::new(usize::try_from(config.settings.limits.memory_max.as_u64()).unwrap_or(usize::MAX));
        memory.register(&registry)?;
        let workers = workers(config);
        let (worker, inputs) = runner::inputs_within(workers, INBOX, memory.of(Holder::Inbox));
        let engine_progress = Arc::new(WriterProgress::default());
        let rounds: Vec<Arc<UnderWay>> = (0..workers).map(|_| Arc::default()).collect();
        let reading: Vec<Arc<UnderWay>> = (0..config.settings.storage.read_threads).map(|_| Arc::default()).collect();
        let progress = Progress::over(Arc::clone(&engine_progress), rounds.clone(), reading.clone(), clock);
        let progress = Arc::new(progress);
        let peers = Peers::start(PeersSetup {
            local,
            timing: config.settings.timing.clone(),
            inbox: Arc::new(worker.clone()),
            seen: Arc::clone(&listening.seen),
            progress: Arc::clone(&progress),
            clock,
            drift_ppm: options.paxos.lease.then_some(options.paxos.drift_ppm),
            identify: Arc::clone(&listening.identify),
            spoken,
            advertised: config.advertised(),
            hints: config.join.clone(),
        });
        let stores = state_stores(config, &log, disk, workers)?;
        let snapshots = SnapshotManager::open(snapshots::Setup {
            dir: config.data_dir.join(data_dir::SNAPSHOTS),
            local,
            worker: worker.clone(),
            map_cache: Arc::clone(&map_cache),
            max_rate: config.settings.snapshot.max_rate.as_u64(),
            scrub_rate: config.settings.scrub.max_rate.as_u64(),
            spare: disk.spare(),
            registry: &registry,
        })?;
        let owned: Arc<dyn LogStore> = log;
        let log = Arc::downgrade(&owned);
        let team = Team {
            me: local.node,
            shared: Arc::new(NodeShared::over(worker.places(), local.incarnation)),
            recovered,
            incarnation: local.incarnation,
            log: owned,
            seen: Arc::clone(&listening.engine_seen),
            progress: engine_progress,
            metrics: engine_metrics,
            clock,
            memory: memory.clone(),
            options,
        };
        let (readers, reading) = Readers::start(reading, clock, &worker)?;
        let host = || {
            let (map_cache, signals, snapshots) =
                (Arc::clone(&map_cache), Arc::clone(&signals), Arc::clone(&snapshots));
            NodeHost::new(peers.outbox(), map_cache, signals, snapshots, readers.clone())
        };
        let mut threads = team.start(config.settings.storage.log_write, &worker, inputs, stores, host, rounds)?;
        // They end with the workers, and are waited for after them.
        threads.extend(reading);
        drop(readers);
        metrics::register(&registry, &worker)?;
        peers.register(&registry)?;
        Ok(Running {
            listening,
            local,
            founding,
            registry,
            log,
            map_cache,
            signals,
            memory,
            worker,
            threads,
            progress,
            peers,
            snapshots,
            disk: disk.spare(),
            drain,
        })
    }
}

impl Running {
    /// Serves peers and clients from now on, and follows the map.
    ///
    /// # Errors
    /// Metrics of the same names are registered already.
    pub(super) fn serve(self, config: &ServerConfig, started: Instant) -> Result<Node> {
        let Self {
            listening,
            local,
            founding,
            registry,
            log,
            map_cache,
            signals,
            memory,
            worker,
            threads,
            progress,
            peers,
            snapshots,
            disk,
            drain,
        } = self;
        let (me, cluster) = (local.node, local.cluster);
        let admissions = AdmissionQueues::new(&worker, config.settings.limits.worker_requests_max as usize, &registry)?;
        let addresses = Arc::clone(listening.identify.addresses());
        let system = SystemProposer::new(
            me,
            cluster,
            worker.clone(),
            Arc::clone(&map_cache),
            Arc::clone(&peers),
            addresses,
            log,
        );
        let system = Arc::new(system);
        let versions =
            Arc::new(VersionManager::new(local, Arc::clone(&map_cache), Arc::clone(&peers), Arc::clone(&system)));
        let jobs =
            JobManager::new(me, worker.clone(), Arc::clone(&map_cache), Arc::clone(&signals), Arc::clone(&system));
        let jobs = Arc::new(jobs);
        let handler: Arc<dyn peer::SystemHandler> = system.clone();
        listening.peer_service.started(&peers, handler, Arc::clone(&snapshots) as Arc<dyn peer::SnapshotHandler>);
        listening.admin_service.started(admin::Running {
            node: me,
            cluster,
            addr: config.advertised(),
            worker: worker.clone(),
            map_cache: Arc::clone(&map_cache),
            peers: Arc::clone(&peers),
            system: Arc::clone(&system),
            versions: Arc::clone(&versions),
            jobs: Arc::clone(&jobs),
            signals: Arc::clone(&signals),
            snapshots,
            sizes: admin::Sizes::default(),
            disk,
            started,
        });
        if let Some(grace) = config.settings.balance.dead_grace.0 {
            let repairer =
                Repairer::new(me, grace, Arc::clone(&jobs), Arc::clone(&signals), Arc::clone(&system), &registry)?;
            tokio::spawn(repairer.run(listening.admin_service.clone()));
        }
        tokio::spawn(jobs.run(listening.admin_service));
        let whereabouts = Arc::new(Whereabouts::new(Arc::clone(&map_cache), signals.bounds.subscribe()));
        listening.synod_service.started(synod::Running {
            cluster,
            worker: worker.clone(),
            admissions,
            map_cache: Arc::clone(&map_cache),
            peers: Arc::clone(&peers),
            limits: config.settings.limits.clone(),
            memory,
            whereabouts,
            gateway: OnceCell::new(),
            endpoint: config.advertised(),
        });
        let follower = Follower {
            cluster,
            me,
            advertised: config.advertised(),
            join: config.join.clone(),
            worker: worker.clone(),
            map_cache: Arc::clone(&map_cache),
            peers: Arc::clone(&peers),
            signals: Arc::clone(&signals),
            system,
        };
        if founding.is_some() {
            tokio::spawn(versions.raise_new_cluster());
        }
        follower.start(founding);
        let (threads, serving) = (Mutex::new(threads), Mutex::new(Some(listening.serving)));
        Ok(Node { worker, threads, peers, progress, map_cache, signals, registry, serving, drain })
    }
}

fn no_signals() -> Signals {
    Signals {
        maps: watch::Sender::new(None),
        drained: Notify::new(),
        quarantined: watch::Sender::new(None),
        members: watch::Sender::default(),
        bounds: watch::Sender::default(),
        failed: watch::Sender::new(None),
        system_led: AtomicBool::new(false),
    }
}

/// The system shard of a new cluster is created by each of its founders, from the founding list, until it exists here.
fn founding(belonging: &Belonging, recovered: &NodeRecovered) -> Option<SystemState> {
    if belonging.founders.is_empty() || recovered.groups.contains(&SYSTEM_SHARD) || belonging.how == How::Joined {
        return None;
    }
    let state = SystemState::found(belonging.identity.cluster.0, &belonging.founders);
    let here = state.shards[&SYSTEM_SHARD].membership.role_of(belonging.identity.node).is_some();
    here.then_some(state)
}

/// How many workers the node has; the bounds were checked.
fn workers(config: &ServerConfig) -> u16 {
    u16::try_from(config.settings.workers).unwrap_or(WORKERS_MAX).min(WORKERS_MAX)
}

/// The state, a front of it for each worker; a damaged one is put aside, and what is sound of it kept. The disk's low mark leaves room for both stores.
fn state_stores(
    config: &ServerConfig,
    log: &Arc<RocksLog>,
    disk: &mut Disk,
    workers: u16,
) -> Result<Vec<Box<dyn StateStore>>> {
    let storage = &config.settings.storage;
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let sizes = StateOptions { cache_bytes: bytes(storage.block_cache), ..StateOptions::default() };
    let (shared, aside) =
        salvage::open(&config.data_dir.join(data_dir::STATE), sizes.on_disk_of(disk.total()), log.as_ref())?;
    if let Some(SetAside { why, to, kept, lost }) = aside {
        tracing::error!(moved_to = %to.display(), kept = kept.len(), lost = lost.len(), "the state is damaged: {why}");
        for (shard, why) in lost {
            tracing::error!(%shard, "the state of shard {shard} is lost here and comes back from the log or a snapshot: {why}");
        }
    }
    // Held weakly: a node that goes down closes its stores while the disk is still watched.
    let (weak_log, weak_state) = (Arc::downgrade(log), Arc::downgrade(&shared));
    let largest = move || {
        // An error here is met with by whoever reads next.
        let log = weak_log.upgrade().and_then(|log| log.largest_compaction().ok());
        let state = weak_state.upgrade().and_then(|state| state.largest_compaction().ok());
        log.unwrap_or(0) + state.unwrap_or(0)
    };
    let fronts = FrontState::several(&shared, bytes(storage.state_memory), workers)?;
    let step = LogOptions::default().on_disk_of(disk.total()).step_bytes();
    let unflushed: usize = fronts.iter().map(FrontState::unflushed_bytes_max).sum();
    disk.allow_for(step + unflushed as u64, largest);
    Ok(fronts.into_iter().map(|front| Box::new(front) as Box<dyn StateStore>).collect())
}

/// How long the node waits for others. A term of support longer than that of nodes in one place is given only where no older
/// binary can start on the data directory: it does not know the term that it would owe. A new directory keeps them out at once.
fn times(config: &ServerConfig, log: &RocksLog, recovered: &NodeRecovered) -> Result<Times> {
    let times = config.settings.timing.times();
    let needed = ClusterVersion(2);
    if times.support <= Times::NEAR.support || recovered.sealed >= needed {
        return Ok(times);
    }
    if recovered.identity.is_none() && config.settings.cluster.speaks() >= needed {
        log.seal(needed)?;
        return Ok(times);
    }
    tracing::warn!(
        "timing.round_trip_ms: leases stay as short as in one place until the cluster is at version {} (`synod cluster upgrade`) and \
         this node is started again",
        needed.0
    );
    Ok(Times { support: Times::NEAR.support, ..times })
}

fn worker_options(config: &ServerConfig, times: Times, support_owed: u64) -> WorkerOptions {
    let mut options =
        WorkerOptions { waiting_max: config.settings.limits.node_requests_max as usize, ..WorkerOptions::default() };
    times.set(&mut options);
    options.speaks = config.settings.cluster.speaks();
    options.tails_max = config.settings.limits.node_tails_max as usize;
    options.deadline_ahead_us = DEADLINE_AHEAD;
    options.scrub_us = config.settings.scrub.interval_s * 1_000_000;
    options.log_keep_bytes = config.settings.storage.log_keep.as_u64();
    options.paxos.support_owed_us = support_owed;
    options.paxos.lease = config.settings.reads.lease == Lease::On;
    options
}
