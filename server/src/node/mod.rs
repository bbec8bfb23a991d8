//! The node process: from a data directory to a member that serves, and in order down again.
//!
//! Owns: the order in which a node comes up (`stages`) and goes down. Must never: serve before its identity is durable, or end with
//! exit code 0 before its leaderships were handed over (or could not be) and its state was flushed.

pub mod api;
mod bounds;
mod complaints;
pub mod data_dir;
mod descriptors;
pub mod dial;
mod disk;
mod follow;
pub mod host;
mod http;
mod listen;
mod listener;
pub mod map;
mod map_stream;
pub mod metrics;
mod panics;
pub mod peer;
mod proposal;
mod readers;
pub mod snapshots;
mod stages;
mod status;
pub mod system;
mod team;
mod term;
pub mod threads;
mod versions;
mod whereabouts;

use crate::config::ServerConfig;
use anyhow::{Context, Result, bail};
use data_dir::DataDir;
use disk::Disk;
use host::Signals;
use map::MapCache;
pub use panics::NETWORK_THREAD;
use peer::{Peers, Progress, WorkerInbox};
use stages::{Listening, Member};
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_cluster::system::TooNew;
use synod_engine::host::{Input, NodeInput};
use synod_engine::logstore::LogStore;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::runner::WorkerHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// How long it waits for its worker to flush.
const FLUSH: Duration = Duration::from_secs(30);

impl WorkerInbox for WorkerHandle {
    fn push(&self, input: Input) -> bool {
        self.try_push(input).is_ok()
    }
}

/// The signals that end a node in order.
struct Stops {
    terminated: Signal,
    interrupted: Signal,
}

impl Stops {
    /// From now on they end nothing by themselves.
    fn listen() -> Result<Self> {
        let of = |kind| signal(kind).context("signals");
        Ok(Self { terminated: of(SignalKind::terminate())?, interrupted: of(SignalKind::interrupt())? })
    }

    /// Waits for one; which.
    async fn told(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminated.recv() => "SIGTERM",
            _ = self.interrupted.recv() => "SIGINT",
        }
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why the node could not start, in one line; nothing was changed then beyond an empty data directory.
pub async fn run(config: ServerConfig) -> Result<()> {
    let mut stops = Stops::listen()?;
    let started = Instant::now();
    // The directory is this process's own until it ends.
    let (_data, member, mut disk, http) = tokio::select! {
        begun = begin(&config) => begun?,
        why = stops.told() => {
            tracing::info!("{why}: the node had not begun");
            return Ok(());
        }
    };
    let node = member.run(&config, &mut disk)?.serve(&config, started)?;
    node.watch(disk)?;
    tokio::select! {
        result = node.serve(http) => result,
        why = node.stopped(config.die_with_stdin, &mut stops) => {
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

/// Opens what the node has, and waits until it belongs to a cluster. It leads and serves nothing yet.
async fn begin(config: &ServerConfig) -> Result<(DataDir, Member, Disk, Option<TcpListener>)> {
    panics::end_with_them();
    config.settings.check().map_err(anyhow::Error::msg)?;
    descriptors::provide(config.settings.network.connections_max.into())?;
    // The ports first: a second process on the same ports must not touch a data directory.
    let listener = listen::bind(&config.listen, "--listen", config.insecure).await?;
    let http = match &config.http {
        Some(addr) => Some(listen::bind(addr, "--http", config.insecure).await?),
        None => None,
    };
    let data = DataDir::open(&config.data_dir)?;
    let disk = Disk::open(&config.data_dir, &config.settings.storage)?;
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
    let listening = Listening::begin(config, listener, &recovered);
    let member = listening.settle(config, log, recovered).await?;
    Ok((data, member, disk, http))
}

/// A node that is up.
struct Node {
    worker: WorkerHandle,
    threads: std::sync::Mutex<Vec<std::thread::JoinHandle<()>>>,
    peers: Arc<Peers>,
    progress: Arc<Progress>,
    map_cache: Arc<MapCache>,
    signals: Arc<Signals>,
    registry: prometheus::Registry,
    serving: std::sync::Mutex<Option<tokio::task::JoinHandle<Result<(), tonic::transport::Error>>>>,
    /// How long it waits, going down, for its leaderships to be taken over.
    drain: Duration,
}

impl Node {
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
            map_cache: Arc::clone(&self.map_cache),
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
            worker.try_push(NodeInput::DiskLow(why)).is_ok()
        };
        // Told again soon where it finds no room.
        let spare = move |bytes| drop(hint.try_push(NodeInput::DiskSpare(bytes)));
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
    async fn stopped(&self, die_with_stdin: bool, stops: &mut Stops) -> &'static str {
        let stdin = async { if die_with_stdin { stdin_closed().await } else { std::future::pending().await } };
        tokio::select! {
            why = stops.told() => why,
            () = stdin => "standard input closed",
        }
    }

    /// Leaderships first, then the state, then the process.
    async fn go_down(&self) -> Result<()> {
        if self.worker.try_push(NodeInput::Drain).is_ok()
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
            let told = worker.push(NodeInput::Stop).is_ok();
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

/// Returns once standard input is closed. A thread of its own: a read from a terminal or pipe cannot be cancelled.
async fn stdin_closed() {
    let (closed, told) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut sink = std::io::sink();
        // Whatever comes is ignored; an error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut sink);
        // Nobody waits: the node is going down.
        let _ = closed.send(());
    });
    if spawned.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}
