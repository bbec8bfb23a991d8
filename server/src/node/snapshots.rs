//! Snapshot files of this node: those it made for others, those it received.
//!
//! Owns: the folder `DATA_DIR/snapshots` and the threads that make and load files. Must never: block the worker, serve a
//! file whose digest is not the one asked for, or hand the worker one that was not verified whole.
//!
//! `built/shard-N.snap` are made here; what is left of them by an earlier process goes. `fetched/shard-N.DIGEST.part` are on
//! their way and are taken up again where they ended, within an hour; `fetched/shard-N.snap` is whole and verified.

use super::disk::Spare;
use super::map::MapCache;
use super::peer::bulk;
use super::peer::{Local, SnapshotHandler};
use anyhow::Context as _;
use bytesize::ByteSize;
use prometheus::{IntCounter, Registry};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use synod_cluster::ids::{ClientId, NodeId, ShardId, Slot, Space};
use synod_engine::StoreError;
use synod_engine::host::{Input, MergeInput, MergeWord, ScrubInput, SnapshotInput, SnapshotKind, SnapshotRequest};
use synod_engine::runner::WorkerHandle;
use synod_engine::scrub::{self, ScrubError, ScrubRequest, Scrubbed};
use synod_engine::snapshot::offers::{Fetches, Offer, is_of_another};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::{FileStore, OsFiles, SnapshotFile, Throttle, file_name, install, writer};
use synod_engine::state::{BulkLoad, ViewJob};
use synod_proto::peer::{MergeFrozen, ScrubHash, SnapshotAsk, SnapshotFetch, SnapshotOffer, SnapshotPart};
use synod_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;

/// What a replica holds is told to a member that often at most.
const TELLS: u64 = 5;

/// What was received is taken up by a later process within this time, else removed.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(3600);

/// What [`SnapshotManager::open`] is given.
pub struct Setup<'a> {
    /// The folder.
    pub dir: PathBuf,
    /// This process.
    pub local: Local,
    /// Told what became of files.
    pub worker: WorkerHandle,
    /// Where peers are.
    pub map_cache: Arc<MapCache>,
    /// Bytes a second for each of making, sending and loading; 0 is no bound.
    pub max_rate: u64,
    /// Bytes a second that reading a replica to compare it may take; 0 is no bound.
    pub scrub_rate: u64,
    /// What a received snapshot may take.
    pub spare: Spare,
    /// For the counts.
    pub registry: &'a Registry,
}

/// Counts of bytes between nodes.
#[derive(Clone)]
pub struct Counts {
    /// Sent to peers.
    pub sent: IntCounter,
    /// Received and verified part by part.
    pub received: IntCounter,
}

#[derive(Default)]
struct State {
    built: BTreeMap<ShardId, Arc<SnapshotFile>>,
    fetches: Fetches,
}

/// The node's snapshot files.
pub struct SnapshotManager {
    dir: PathBuf,
    files: Arc<dyn FileStore>,
    local: Local,
    worker: WorkerHandle,
    map_cache: Arc<MapCache>,
    max_rate: u64,
    scrub_rate: u64,
    spare: Spare,
    counts: Counts,
    runtime: Handle,
    /// The origin of the times of what is fetched.
    began: Instant,
    state: Mutex<State>,
}

impl SnapshotManager {
    /// Opens the folder, made where there is none. To be called on the async runtime.
    ///
    /// # Errors
    /// The folder cannot be made or cleared.
    pub fn open(setup: Setup<'_>) -> anyhow::Result<Arc<Self>> {
        let Setup { dir, local, worker, map_cache, max_rate, scrub_rate, spare, registry } = setup;
        let cannot = |what: &str, kind| format!("{}: cannot be {what}", folder(&dir, kind).display());
        match std::fs::remove_dir_all(folder(&dir, SnapshotKind::Built)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| cannot("cleared", SnapshotKind::Built));
            }
            _ => {}
        }
        for kind in [SnapshotKind::Built, SnapshotKind::Fetched] {
            std::fs::create_dir_all(folder(&dir, kind)).with_context(|| cannot("made", kind))?;
        }
        remove_old(&folder(&dir, SnapshotKind::Fetched));
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counts = Counts {
            sent: counter("synod_snapshot_sent_bytes_total", "Bytes of snapshots sent to peers")?,
            received: counter("synod_snapshot_received_bytes_total", "Bytes of snapshots received from peers")?,
        };
        let (runtime, state) = (Handle::current(), Mutex::default());
        let files = OsFiles::shared();
        let began = Instant::now();
        Ok(Arc::new(Self {
            dir,
            files,
            local,
            worker,
            map_cache,
            max_rate,
            scrub_rate,
            spare,
            counts,
            runtime,
            began,
            state,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, shard: ShardId, kind: SnapshotKind) -> PathBuf {
        folder(&self.dir, kind).join(file_name(shard))
    }

    fn cluster(&self) -> ClientId {
        ClientId(self.local.cluster)
    }

    /// What writes a snapshot once it is handed the rows.
    pub fn build(self: &Arc<Self>, request: SnapshotRequest) -> ViewJob {
        let manager = Arc::clone(self);
        let guard = Told { manager: Arc::clone(self), shard: request.shard, done: false };
        Box::new(move |view| {
            // The whole of it moves in: it speaks when this ends, or never begins.
            let mut told = guard;
            let (shard, cluster) = (request.shard, manager.cluster());
            let path = manager.path(shard, SnapshotKind::Built);
            let mut throttle = Throttle::new(manager.max_rate);
            let made = writer::make(&manager.files, &path, cluster, request, view, &mut throttle);
            let result = made.map(|file| {
                tracing::info!(%shard, bytes = file.bytes(), rows = file.rows(), "snapshot made");
                manager.lock().built.insert(shard, Arc::new(file));
            });
            told.done = true;
            manager.tell(SnapshotInput::Built { shard, result });
        })
    }

    /// Tells the worker; its end is the process's.
    fn tell(&self, input: impl Into<Input>) {
        let _ = self.worker.push(input);
    }

    /// Offers what was made of a shard to a peer.
    pub fn offer(self: &Arc<Self>, to: NodeId, shard: ShardId) {
        let Some(file) = self.lock().built.get(&shard).cloned() else { return };
        let Some(addr) = self.addr(to) else { return };
        let local = self.local;
        self.runtime.spawn(async move {
            if let Err(why) = bulk::offer(&local, to, &addr, &file).await {
                tracing::debug!(%shard, %to, "snapshot not offered: {why}");
            }
        });
    }

    /// Asks a peer for a snapshot of a shard whose state here is gone.
    pub fn ask(self: &Arc<Self>, to: NodeId, shard: ShardId, least: Slot) {
        let Some(addr) = self.addr(to) else { return };
        let local = self.local;
        self.runtime.spawn(async move {
            match bulk::ask(&local, to, &addr, shard, least).await {
                Ok(()) => tracing::info!(%shard, %to, %least, "asked for a snapshot"),
                Err(why) => tracing::info!(%shard, %to, "could not ask for a snapshot: {why}"),
            }
        });
    }

    /// What reads a replica once it is handed the rows.
    pub fn scrub(self: &Arc<Self>, request: ScrubRequest) -> ViewJob {
        let guard = ScrubGuard { manager: Arc::clone(self), shard: request.shard, slot: request.slot, result: None };
        let rate = self.scrub_rate;
        Box::new(move |view| {
            // The whole of it moves in: it speaks when this ends, or never begins.
            let mut told = guard;
            told.result = Some(scrub::scrub(&request, view, &mut Throttle::new(rate)));
        })
    }

    /// Tells a peer what the replica here holds at a slot; told again where it does not arrive.
    pub fn tell_scrub(self: &Arc<Self>, to: NodeId, shard: ShardId, slot: Slot, hash: u128) {
        let manager = Arc::clone(self);
        self.runtime.spawn(async move {
            for turn in 1..=TELLS {
                let Some(addr) = manager.addr(to) else { return };
                match bulk::tell_scrub(&manager.local, to, &addr, (shard, slot, hash)).await {
                    Ok(()) => return,
                    Err(why) => tracing::debug!(%shard, %to, "could not report a comparison: {why}"),
                }
                tokio::time::sleep(Duration::from_secs(turn)).await;
            }
        });
    }

    /// Gives this node's word about a merge. One that does not arrive is given again by the worker.
    pub fn tell_merge(self: &Arc<Self>, to: NodeId, target: ShardId, word: MergeWord) {
        let manager = Arc::clone(self);
        self.runtime.spawn(async move {
            let Some(addr) = manager.addr(to) else { return };
            if let Err(why) = bulk::tell_merge(&manager.local, to, &addr, (target, word)).await {
                tracing::debug!(%target, %to, "could not give word of a merge: {why}");
            }
        });
    }

    fn addr(&self, node: NodeId) -> Option<String> {
        self.map_cache.get()?.nodes.get(&node).map(|info| info.addr.clone())
    }

    /// Loads what was received of a shard into a space, on a thread of its own.
    pub fn load(self: &Arc<Self>, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        let manager = Arc::clone(self);
        let run = move || {
            synod_engine::background::lower_priority();
            let path = manager.path(shard, SnapshotKind::Fetched);
            let mut throttle = Throttle::new(manager.max_rate);
            let loaded = install::load_from(&manager.files, &path, manager.cluster(), space, &*loader, &mut throttle);
            let result = match loaded {
                Ok(result) => result.map_err(|e| e.to_string()),
                Err(error) => die(&error),
            };
            manager.tell(SnapshotInput::Loaded { shard, space, result });
        };
        if let Err(error) = std::thread::Builder::new().name("snapshot-load".into()).spawn(run) {
            die(&StoreError::Io { what: "start a thread to load a snapshot".into(), why: error.to_string() });
        }
    }

    /// A file is no longer needed.
    pub fn forget(&self, shard: ShardId, kind: SnapshotKind) {
        let mut state = self.lock();
        match kind {
            SnapshotKind::Built => drop(state.built.remove(&shard)),
            SnapshotKind::Fetched => state.fetches.done_with(shard, self.began.elapsed()),
        }
        drop(state);
        remove(&self.path(shard, kind));
    }

    /// Streams what was made of a shard, to an operator.
    ///
    /// # Errors
    /// Nothing was made of it, or it is gone again.
    pub fn stream(&self, shard: ShardId) -> Result<mpsc::Receiver<Result<v1::SnapshotPart, Status>>, Status> {
        let Some(file) = self.lock().built.get(&shard).cloned() else {
            return Err(Status::not_found(format!("there is no snapshot of shard {shard}")));
        };
        let (parts, mut pass) = mpsc::channel(1);
        let (out, stream) = mpsc::channel(1);
        let digest = bytes::Bytes::copy_from_slice(&file.digest().to_be_bytes());
        self.serve(shard, file, 0, parts);
        self.runtime.spawn(async move {
            while let Some(part) = pass.recv().await {
                let part = part.map(|SnapshotPart { part, data }| {
                    let digest = if part == 0 { digest.clone() } else { bytes::Bytes::new() };
                    v1::SnapshotPart { part, data, digest }
                });
                if out.send(part).await.is_err() {
                    return;
                }
            }
        });
        Ok(stream)
    }

    /// Sends a file; one that turns out damaged is given up, or it would be offered again and again.
    fn serve(
        &self,
        shard: ShardId,
        file: Arc<SnapshotFile>,
        part: u64,
        parts: mpsc::Sender<Result<SnapshotPart, Status>>,
    ) {
        let serving = bulk::serve(file, part, Throttle::new(self.max_rate), self.counts.sent.clone(), parts);
        let worker = self.worker.clone();
        self.runtime.spawn(async move {
            if serving.await.is_err() {
                // Where the queue is full the next attempt to send it says so again.
                drop(worker.try_push(SnapshotInput::Spoilt { shard }));
            }
        });
    }

    async fn fetch(self: Arc<Self>, addr: String, offer: Offer) {
        let (shard, path) = (offer.shard, self.path(offer.shard, SnapshotKind::Fetched));
        self.remove_others(&offer);
        let throttle = Throttle::new(self.max_rate.saturating_mul(4));
        let fetched = match self.find_room(&offer, &path) {
            Ok(()) => bulk::fetch(&self.local, &addr, &offer, &path, throttle, &self.counts.received).await,
            Err(why) => Err(why),
        };
        match fetched {
            Ok(header) => {
                tracing::info!(%shard, from = %offer.from, slot = header.basis.id.slot.0, "snapshot received");
                self.tell(SnapshotInput::Fetched(Box::new(header)));
            }
            Err(why) => {
                tracing::info!(%shard, from = %offer.from, "snapshot not received: {why}");
                self.lock().fetches.failed(shard);
            }
        }
    }

    /// Whether a snapshot's file and the rows loaded from it leave the disk above its hard mark, where the node would go down.
    fn find_room(&self, offer: &Offer, path: &Path) -> Result<(), String> {
        let part = Partial::path(path, offer.digest);
        let here = part.metadata().or_else(|_| path.metadata()).map_or(0, |meta| meta.len());
        let (needed, spare) = (offer.bytes.saturating_mul(2).saturating_sub(here), self.spare.bytes());
        if needed <= spare {
            return Ok(());
        }
        let (needed, spare) = (ByteSize(needed), ByteSize(spare));
        Err(format!("its file and rows take {needed}, and {spare} are left above storage.disk_hard"))
    }

    /// What was received of other snapshots of the shard goes.
    fn remove_others(&self, offer: &Offer) {
        for entry in std::fs::read_dir(folder(&self.dir, SnapshotKind::Fetched)).into_iter().flatten().flatten() {
            if is_of_another(&entry.file_name().to_string_lossy(), offer) {
                remove(&entry.path());
            }
        }
    }
}

/// Tells the worker of a snapshot that was begun and came to nothing: its thread could not start, or panicked.
struct Told {
    manager: Arc<SnapshotManager>,
    shard: ShardId,
    done: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.done {
            let result = Err("it was not finished".to_owned());
            self.manager.tell(SnapshotInput::Built { shard: self.shard, result });
        }
    }
}

/// Tells the worker how a reading ended; also where its thread could not start, or panicked.
struct ScrubGuard {
    manager: Arc<SnapshotManager>,
    shard: ShardId,
    slot: Slot,
    result: Option<Result<Scrubbed, ScrubError>>,
}

impl Drop for ScrubGuard {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or(Err(ScrubError::GivenUp));
        self.manager.tell(ScrubInput::Scrubbed { shard: self.shard, slot: self.slot, result });
    }
}

impl SnapshotHandler for SnapshotManager {
    fn offered(self: Arc<Self>, from: NodeId, offer: &SnapshotOffer) {
        let Some(offer) = bulk::offer_of(from, offer) else { return };
        let Some(addr) = self.addr(from) else { return };
        if !self.lock().fetches.begin(&offer, self.began.elapsed()) {
            return;
        }
        let runtime = self.runtime.clone();
        runtime.spawn(self.fetch(addr, offer));
    }

    fn scrub_hash(&self, from: NodeId, told: &ScrubHash) {
        let Ok(hash) = <[u8; 16]>::try_from(&told.hash[..]) else { return };
        let (shard, slot, hash) = (ShardId(told.shard), Slot(told.slot), u128::from_be_bytes(hash));
        let _ = self.worker.try_push(ScrubInput::Told { from, shard, slot, hash });
    }

    fn merge_word(&self, from: NodeId, told: &MergeFrozen) {
        let word = MergeWord { source: ShardId(told.source), seq: told.seq, frozen: Slot(told.frozen) };
        // Where the worker has no room it is given again.
        let _ = self.worker.try_push(MergeInput::Word { from, target: ShardId(told.target), word });
    }

    fn asked(&self, by: NodeId, ask: &SnapshotAsk) {
        // Where the worker has no room it is asked again.
        let _ = self.worker.try_push(SnapshotInput::Asked { by, shard: ShardId(ask.shard), least: Slot(ask.least) });
    }

    fn parts(&self, to: NodeId, fetch: &SnapshotFetch) -> Result<mpsc::Receiver<Result<SnapshotPart, Status>>, Status> {
        let shard = ShardId(fetch.shard);
        let file = self.lock().built.get(&shard).cloned();
        let wanted = |file: &Arc<SnapshotFile>| file.digest().to_be_bytes()[..] == fetch.digest[..];
        let Some(file) = file.filter(wanted) else {
            return Err(Status::not_found(format!("this node no longer has that snapshot of shard {shard}")));
        };
        tracing::info!(%shard, %to, part = fetch.part, parts = file.parts(), "sending a snapshot");
        let (parts, stream) = mpsc::channel(2);
        self.serve(shard, file, fetch.part, parts);
        Ok(stream)
    }
}

fn folder(dir: &Path, kind: SnapshotKind) -> PathBuf {
    dir.join(match kind {
        SnapshotKind::Built => "built",
        SnapshotKind::Fetched => "fetched",
    })
}

/// Removes received parts that are too old for anybody to continue with.
fn remove_old(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|found| found.modified()).ok();
        if modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > TAKEN_UP_WITHIN) {
            remove(&entry.path());
        }
    }
}

/// Removes a file that is not needed: where that fails it takes room until the next start, no more.
fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a snapshot's file was not removed");
        }
        _ => {}
    }
}

/// A failed write ends the process, as the worker's own do.
fn die(error: &StoreError) -> ! {
    tracing::error!("{error}; the process ends");
    eprintln!("synod: {error}; the process ends");
    std::process::abort();
}
