//! The node process: from a data directory to a member that serves, and in order down again.
//!
//! Owns: the order in which a node comes up and goes down. Must never: serve before its identity is durable, or end with
//! exit code 0 before its leaderships were handed over (or could not be) and its state was flushed.

pub mod api;
mod complaints;
pub mod data_dir;
mod descriptors;
mod disk;
mod door;
mod follow;
pub mod host;
mod http;
mod listen;
pub mod map;
pub mod metrics;
mod panics;
pub mod peer;
mod readers;
pub mod snapshots;
mod status;
pub mod system;
mod team;
mod term;
pub mod threads;
mod versions;

use crate::config::{Lease, ServerConfig};
use anyhow::{Context, Result, bail};
use api::admin::job_desk::JobDesk;
use api::admin::{self, AdminService};
use api::cluster::ClusterCheck;
use api::gate::Gates;
use api::synod::{self, SynodService};
use data_dir::DataDir;
use disk::Disk;
use door::Places;
use host::{NodeHost, Signals};
use map::MapBook;
pub use panics::NETWORK_THREAD;
use peer::{Belonging, Desk, How, Local, PeerService, Peers, PeersSetup, Progress, SeenTable, Spoken, WorkerInbox};
use readers::Readers;
use snapshots::SnapshotDesk;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClusterVersion, Nonce, SYSTEM_SHARD};
use synod_cluster::system::{SystemState, TooNew};
use synod_engine::host::Input;
use synod_engine::identity;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::logstore::{LogStore, NodeRecovered};
use synod_engine::memory::{Holder, Memory};
use synod_engine::node::{NodeShared, WORKERS_MAX};
use synod_engine::runner::{self, MonotoneClock, WorkerHandle};
use synod_engine::salvage::{self, SetAside};
use synod_engine::state::StateStore;
use synod_engine::state::front::FrontState;
use synod_engine::state::rocks::StateOptions;
use synod_engine::times::Times;
use synod_engine::worker::WorkerOptions;
use synod_engine::writer;
use synod_proto::v1::admin_server::AdminServer;
use synod_proto::v1::synod_server::SynodServer;
use system::SystemDesk;
use team::Team;
use term::Term;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use versions::VersionDesk;

/// Inputs that may wait for the worker.
const INBOX: usize = 16_384;
/// How much longer than its worker a node that goes down waits for its leaderships to be taken over.
const DRAIN_SLACK: Duration = Duration::from_secs(1);
/// The longest message of a client, bytes: the greatest batch that any settings allow, so that one above this node's own limit
/// is refused by name, and not with its connection.
const CLIENT_MESSAGE: usize = 33 << 20;
/// How far ahead of its shard's time a write's deadline may lie, µs: 10 minutes, and as much for clocks that differ.
const DEADLINE_AHEAD: u64 = 20 * 60 * 1_000_000;
/// How long it waits for its worker to flush.
const FLUSH: Duration = Duration::from_secs(30);

impl WorkerInbox for WorkerHandle {
    fn push(&self, input: Input) -> bool {
        self.try_push(input).is_ok()
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why the node could not start, in one line; nothing was changed then beyond an empty data directory.
pub async fn run(config: ServerConfig) -> Result<()> {
    panics::end_with_them();
    config.settings.check().map_err(anyhow::Error::msg)?;
    descriptors::provide(config.settings.network.connections_max.into())?;
    let started = Instant::now();
    // The ports first: a second process on the same ports must not touch a data directory.
    let listener = listen::bind(&config.listen, "--listen", config.insecure).await?;
    let http = match &config.http {
        Some(addr) => Some(listen::bind(addr, "--http", config.insecure).await?),
        None => None,
    };
    let data = DataDir::open(&config.data_dir)?;
    let mut disk = Disk::open(&config.data_dir, &config.settings.storage)?;
    let log = Arc::new(RocksLog::open(&data.log(), &LogOptions::default().on_disk_of(disk.total()))?);
    let recovered = log.recover_node()?;
    let speaks = config.settings.cluster.speaks();
    TooNew::check_for(recovered.sealed, speaks).with_context(|| config.data_dir.display().to_string())?;
    if recovered.identity.is_none()
        && let Some(left) = data.left_of_a_log()
    {
        bail!(
            "--data-dir {}: its log belongs to no cluster, but {} is there: the log of the node that wrote it is gone or was put \
             elsewhere; put it back, or begin with an empty directory",
            config.data_dir.display(),
            left.display()
        );
    }
    let node = Node::start(&config, started, listener, log, recovered, &mut disk).await?;
    node.watch(disk)?;
    tokio::select! {
        result = node.serve(http) => result,
        why = node.stopped(config.die_with_stdin) => {
            tracing::info!("{why}: going down in order");
            node.go_down().await
        }
        why = node.failed() => {
            tracing::error!("{why}; going down in order");
            node.go_down().await?;
            bail!(why)
        }
    }
}

/// A node that is up.
struct Node {
    worker: WorkerHandle,
    threads: std::sync::Mutex<Vec<std::thread::JoinHandle<()>>>,
    peers: Arc<Peers>,
    progress: Arc<Progress>,
    book: Arc<MapBook>,
    signals: Arc<Signals>,
    registry: prometheus::Registry,
    serving: std::sync::Mutex<Option<tokio::task::JoinHandle<Result<(), tonic::transport::Error>>>>,
    /// How long it waits, going down, for its leaderships to be taken over.
    drain: Duration,
}

impl Node {
    async fn start(
        config: &ServerConfig,
        started: Instant,
        listener: TcpListener,
        log: Arc<RocksLog>,
        recovered: NodeRecovered,
        disk: &mut Disk,
    ) -> Result<Self> {
        let clock = MonotoneClock::default();
        let engine_seen = Arc::new(identity::SeenTable::default());
        for (node, incarnation, seq) in &recovered.seen {
            engine_seen.raise(*node, (*incarnation, *seq));
        }
        let seen = Arc::new(SeenTable::over(Arc::clone(&engine_seen)));
        let desk = Desk::new(Arc::clone(&seen));
        let peer_service = PeerService::new(Arc::clone(&desk), &config.settings);
        let synod_service = SynodService::default();
        let admin_service = AdminService::default();
        let meant_for = ClusterCheck::default();
        let connections = config.settings.network.connections_max as usize;
        let places = Places::new(connections);
        // Before it belongs anywhere the node answers who it is, so that founders find each other.
        let serving = {
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
            let incoming = door::incoming(listener, Arc::clone(&places), connections, peer::wire::PREFACE[0], links);
            tokio::spawn(router.serve_with_incoming(incoming))
        };

        let belonging = peer::settle(config, log.as_ref(), &recovered, &desk).await?;
        let identity = belonging.identity.clone();
        let (cluster, me) = (identity.cluster.0, identity.node);
        meant_for.belong_to(cluster);
        let speaks = config.settings.cluster.speaks();
        let incarnation = log.begin_incarnation()?;
        tracing::info!(node = me.0, cluster = format!("{cluster:032x}"), how = ?belonging.how, "belongs");
        let founding = founding(&belonging, &recovered);

        let registry = prometheus::Registry::new();
        places.register(&registry)?;
        let times = times(config, log.as_ref(), &recovered)?;
        let term = Term::begin(&config.data_dir, times.support)?;
        let options = worker_options(config, times, term.owed());
        tokio::spawn(term.settle());
        let drain = Duration::from_micros(options.drain_micros) + DRAIN_SLACK;
        let engine_metrics = Arc::new(synod_engine::metrics::EngineMetrics::new(&registry)?);
        let spoken = Arc::new(Spoken::default());
        let nonce = Nonce(rand::random::<u64>() | 1);
        let local = Local { cluster, node: me, incarnation, nonce, speaks };
        let book = MapBook::open(&config.data_dir, &local, Arc::clone(&spoken)).map_err(anyhow::Error::msg)?;
        let signals = Arc::new(Signals {
            maps: watch::Sender::new(None),
            drained: Notify::new(),
            quarantined: watch::Sender::new(None),
            members: watch::Sender::default(),
            failed: watch::Sender::new(None),
            system_led: AtomicBool::new(false),
        });
        let memory = Memory::new(usize::try_from(config.settings.limits.memory_max.as_u64()).unwrap_or(usize::MAX));
        memory.register(&registry)?;
        let workers = workers(config);
        let (worker, inputs) = runner::inputs_within(workers, INBOX, memory.of(Holder::Inbox));
        let engine_progress = Arc::new(writer::WriterProgress::default());
        let rounds: Vec<Arc<writer::UnderWay>> = (0..workers).map(|_| Arc::default()).collect();
        let reading: Vec<Arc<writer::UnderWay>> =
            (0..config.settings.storage.read_threads).map(|_| Arc::default()).collect();
        let watched = rounds.iter().chain(&reading).cloned().collect();
        let progress = Arc::new(Progress::over(Arc::clone(&engine_progress), watched, clock));
        let peers = Peers::start(PeersSetup {
            local,
            timing: config.settings.timing.clone(),
            inbox: Arc::new(worker.clone()),
            seen,
            progress: Arc::clone(&progress),
            clock,
            drift_ppm: options.paxos.lease.then_some(options.paxos.drift_ppm),
            desk: Arc::clone(&desk),
            spoken,
            advertised: config.advertised(),
            hints: config.join.clone(),
        });
        let stores = state_stores(config, &log, disk, workers)?;
        let snapshots = SnapshotDesk::open(snapshots::Setup {
            dir: config.data_dir.join(data_dir::SNAPSHOTS),
            local,
            worker: worker.clone(),
            book: Arc::clone(&book),
            max_rate: config.settings.snapshot.max_rate.as_u64(),
            scrub_rate: config.settings.scrub.max_rate.as_u64(),
            spare: disk.spare(),
            registry: &registry,
        })?;
        let owned: Arc<dyn LogStore> = log;
        let node_log = Arc::downgrade(&owned);
        let team = Team {
            me,
            shared: Arc::new(NodeShared::new(workers, incarnation)),
            recovered,
            incarnation,
            log: owned,
            seen: engine_seen,
            progress: engine_progress,
            metrics: engine_metrics,
            clock,
            memory: memory.clone(),
            options,
        };
        let (readers, reading) = Readers::start(reading, clock, &worker)?;
        let host = || {
            let (book, signals, snapshots) = (Arc::clone(&book), Arc::clone(&signals), Arc::clone(&snapshots));
            NodeHost::new(peers.outbox(), book, signals, snapshots, readers.clone())
        };
        let mut threads = team.start(config.settings.storage.log_write, &worker, inputs, stores, host, rounds)?;
        // They end with the workers, and are waited for after them.
        threads.extend(reading);
        drop(readers);
        metrics::register(&registry, &worker)?;
        let gates = Gates::new(&worker, config.settings.limits.worker_requests_max as usize, &registry)?;
        peers.register(&registry)?;

        let addresses = Arc::clone(desk.addresses());
        let system =
            SystemDesk::new(me, cluster, worker.clone(), Arc::clone(&book), Arc::clone(&peers), addresses, node_log);
        let system = Arc::new(system);
        let versions = Arc::new(VersionDesk::new(local, Arc::clone(&book), Arc::clone(&peers), Arc::clone(&system)));
        let jobs = JobDesk::new(me, worker.clone(), Arc::clone(&book), Arc::clone(&signals), Arc::clone(&system));
        let jobs = Arc::new(jobs);
        let gate: Arc<dyn peer::SystemGate> = system.clone();
        peer_service.up(&peers, gate, Arc::clone(&snapshots) as Arc<dyn peer::SnapshotGate>);
        admin_service.up(admin::Up {
            node: me,
            cluster,
            addr: config.advertised(),
            worker: worker.clone(),
            book: Arc::clone(&book),
            peers: Arc::clone(&peers),
            system: Arc::clone(&system),
            versions: Arc::clone(&versions),
            jobs: Arc::clone(&jobs),
            signals: Arc::clone(&signals),
            snapshots,
            started,
        });
        tokio::spawn(jobs.run(admin_service));
        synod_service.up(synod::Up {
            cluster,
            worker: worker.clone(),
            gates,
            book: Arc::clone(&book),
            peers: Arc::clone(&peers),
            limits: config.settings.limits.clone(),
            memory,
            gateway: tokio::sync::OnceCell::new(),
            endpoint: config.advertised(),
        });
        let follower = follow::Follower {
            cluster,
            me,
            advertised: config.advertised(),
            join: config.join.clone(),
            worker: worker.clone(),
            book: Arc::clone(&book),
            peers: Arc::clone(&peers),
            signals: Arc::clone(&signals),
            system,
        };
        if founding.is_some() {
            tokio::spawn(versions.raise_new_cluster());
        }
        follower.start(founding);
        let (threads, serving) = (std::sync::Mutex::new(threads), std::sync::Mutex::new(Some(serving)));
        Ok(Self { worker, threads, peers, progress, book, signals, registry, serving, drain })
    }

    /// Serves until something fails.
    async fn serve(&self, http: Option<TcpListener>) -> Result<()> {
        let serving = self.serving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let grpc = async {
            match serving {
                Some(task) => task.await.context("the gRPC server")?.context("the gRPC server"),
                None => Ok(()),
            }
        };
        let pages = http::Pages {
            registry: self.registry.clone(),
            signals: Arc::clone(&self.signals),
            book: Arc::clone(&self.book),
            peers: Arc::clone(&self.peers),
            progress: Arc::clone(&self.progress),
        };
        let http = async {
            match http {
                Some(listener) => http::serve(listener, pages).await.context("the HTTP server"),
                None => std::future::pending().await,
            }
        };
        tokio::try_join!(grpc, http).map(|_| ())
    }

    /// Watches the room on the disk from now on.
    fn watch(&self, disk: Disk) -> Result<()> {
        disk.register(&self.registry)?;
        let (worker, peers, signals) = (self.worker.clone(), Arc::clone(&self.peers), Arc::clone(&self.signals));
        let hint = worker.clone();
        let low = move |why: Option<Arc<str>>| {
            peers.say_disk_low(why.is_some());
            worker.try_push(Input::DiskLow(why)).is_ok()
        };
        // Told again soon where it finds no room.
        let spare = move |bytes| drop(hint.try_push(Input::DiskSpare(bytes)));
        disk.watch(low, spare, move |why| drop(signals.failed.send_replace(Some(why))))
    }

    /// Waits until the node must go down though nobody told it to; why.
    async fn failed(&self) -> String {
        let mut failed = self.signals.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            _ => std::future::pending().await,
        }
    }

    /// Waits for a reason to go down.
    async fn stopped(&self, die_with_stdin: bool) -> &'static str {
        let terminated = async {
            match signal(SignalKind::terminate()) {
                Ok(mut signals) => drop(signals.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        let stdin = async { if die_with_stdin { stdin_closed().await } else { std::future::pending().await } };
        tokio::select! {
            () = terminated => "SIGTERM",
            _ = tokio::signal::ctrl_c() => "SIGINT",
            () = stdin => "standard input closed",
        }
    }

    /// Leaderships first, then the state, then the process.
    async fn go_down(&self) -> Result<()> {
        if self.worker.try_push(Input::Drain).is_ok()
            && timeout(self.drain, self.signals.drained.notified()).await.is_err()
        {
            tracing::warn!("not every leadership was taken over in time");
        }
        self.peers.leaving();
        // The pulse that says so needs a moment on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let worker = self.worker.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            let told = worker.push(Input::Stop).is_ok();
            told && threads.into_iter().map(std::thread::JoinHandle::join).filter(Result::is_err).count() == 0
        });
        match timeout(FLUSH, flushed).await {
            Ok(Ok(true)) => {}
            _ => bail!("the state was not flushed within {} s; the log has it all", FLUSH.as_secs()),
        }
        self.peers.stop();
        Ok(())
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
    options.deadline_ahead_micros = DEADLINE_AHEAD;
    options.scrub_micros = config.settings.scrub.interval_s * 1_000_000;
    options.log_keep_bytes = config.settings.storage.log_keep.as_u64();
    options.paxos.support_owed_micros = support_owed;
    options.paxos.lease = config.settings.reads.lease == Lease::On;
    options
}

/// Returns once standard input is closed. A thread of its own: a read from a terminal or pipe cannot be cancelled.
async fn stdin_closed() {
    let (closed, told) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut sink = std::io::sink();
        // Whatever comes is ignored; an error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut sink);
        // Nobody waits any more: the node goes down already.
        let _ = closed.send(());
    });
    if spawned.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}
