//! Snapshot files of simulated nodes: made, offered, fetched part by part, loaded.
//!
//! Owns: what the server's desk does around a worker, as jobs on the virtual clock, and the connections that parts come on.
//! Must never: decide what the server's own code decides (`fetch`), or give a worker what no job has finished.
//!
//! A job runs the production code at once, on a clock of its own that each operation on a file moves on; what it did later
//! than a crash never happened, and its result is told when it ends.

use crate::fetch::{Begun, Fetches, Offer, Receiving, is_of_another};
use crate::host::{FETCHED, Installed, Making, Wish, snapshot_path};
use crate::node::{CLUSTER, Ended, Process};
use crate::plan::Action;
use crate::trace::hash_bytes;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use synod_engine::host::{Input, SnapshotKind};
use synod_engine::ids::{NodeId, ShardId, Slot, Space};
use synod_engine::snapshot::{FileStore, Header, SnapshotFile, Throttle, install};
use synod_engine::state::BulkLoad;

/// A silent connection is given up after so long, µs: the server's keepalive.
const SILENT: u64 = 3_000_000;
/// What falls to a process that stands still is done when it goes on, looked at so often, µs.
const POSTPONE: u64 = 20_000;

/// What happens to snapshots.
pub(crate) enum Step {
    /// A view can be had.
    Make { job: u64 },
    /// A file is made, or not.
    Built { shard: ShardId, result: Result<Arc<SnapshotFile>, String> },
    /// The worker wants something.
    Wish(Wish),
    /// An offer arrives.
    Offered(Offer),
    /// A member whose state is gone asks for one.
    StateAsked { by: NodeId, shard: ShardId, least: Slot },
    /// A file was received and verified.
    Fetched(Box<Header>),
    /// Rows are in their space, or not.
    Loaded { shard: ShardId, space: Space, result: Result<(), String> },
    /// A request for parts arrives at the maker.
    Asked { transfer: u64, part: u64 },
    /// The maker's next part is due.
    Serve { transfer: u64, part: u64 },
    /// A part arrives.
    Part { transfer: u64, part: u64, data: Bytes },
    /// The receiver hears that no more comes.
    Gone { transfer: u64, why: &'static str },
    /// The receiver has waited long enough, unless something came.
    Overdue { transfer: u64, progress: u64 },
    /// The process is killed amid all this.
    Kill,
}

/// A process's snapshot files.
pub(crate) struct Desk {
    pub(crate) files: Arc<dyn FileStore>,
    built: BTreeMap<ShardId, Arc<SnapshotFile>>,
    fetches: Fetches,
    jobs: BTreeMap<u64, Making>,
    last_job: u64,
    /// Files being written.
    making: BTreeSet<ShardId>,
    streams: BTreeMap<u64, Stream>,
    /// Spaces being filled.
    loading: BTreeSet<ShardId>,
    installed: BTreeSet<ShardId>,
}

/// A file that is coming.
struct Stream {
    shard: ShardId,
    receiving: Option<Receiving>,
    busy_until: u64,
    progress: u64,
}

/// A connection that parts come on.
pub(crate) struct Transfer {
    pub(crate) maker: NodeId,
    pub(crate) taker: NodeId,
    taker_process: u64,
    digest: u128,
    shard: ShardId,
    /// The maker's end, while it serves.
    file: Option<(u64, Arc<SnapshotFile>)>,
    /// Arrival of the last part: none overtakes another.
    last: u64,
}

impl Desk {
    pub(crate) fn new(files: Arc<dyn FileStore>) -> Self {
        Self {
            files,
            built: BTreeMap::new(),
            fetches: Fetches::default(),
            jobs: BTreeMap::new(),
            last_job: 0,
            making: BTreeSet::new(),
            streams: BTreeMap::new(),
            loading: BTreeSet::new(),
            installed: BTreeSet::new(),
        }
    }

    /// What was under way, for counts.
    pub(crate) fn unfinished(&self) -> [(&'static str, u64); 3] {
        let streams = self.streams.values().filter(|stream| stream.progress > 0).count();
        [
            ("process ended while it makes one", (self.jobs.len() + self.making.len()) as u64),
            ("process ended while one comes", streams as u64),
            ("process ended while one is loaded", self.loading.len() as u64),
        ]
    }
}

impl World {
    fn step_at(&mut self, at: u64, node: NodeId, process: u64, step: Step) {
        self.at(at, Event::Snapshot { node, process, step });
    }

    fn process(&mut self, id: NodeId) -> Option<&mut Process> {
        self.node(id).up.as_deref_mut()
    }

    /// What a round asked for goes on its way.
    pub(crate) fn take_wishes(
        &mut self,
        id: NodeId,
        process: u64,
        (making, installed, wishes): (Vec<Making>, Vec<Installed>, Vec<(u64, Wish)>),
    ) -> Checked {
        for made in making {
            let (shard, slot) = (made.shard, made.slot);
            if let Some(hash) = made.hash {
                let known = *self.made.entry((shard, slot)).or_insert(hash);
                check(known == hash, "25: snapshots of equal slots are equal, sessions and all", || {
                    format!("node {id} shard {shard} slot {slot}: {hash:x}, another had {known:x}")
                })?;
            }
            let ready_at = made.view.ready_at;
            let Some(up) = self.process(id) else { return Ok(()) };
            up.desk.last_job += 1;
            let job = up.desk.last_job;
            up.desk.jobs.insert(job, made);
            self.step_at(ready_at, id, process, Step::Make { job });
        }
        for install in installed {
            self.installed(id, &install)?;
        }
        for (at, wish) in wishes {
            self.step_at(at, id, process, Step::Wish(wish));
        }
        Ok(())
    }

    /// The log points to a snapshot's rows: they are what its maker had.
    fn installed(&mut self, id: NodeId, install: &Installed) -> Checked {
        let Installed { at, shard, slot, hash } = *install;
        self.trace.note(at, "installed", &[id.0, shard.0, slot.0, hash], || format!("{id} shard {shard} slot {slot}"));
        let made = self.made.get(&(shard, slot)).copied();
        check(made == Some(hash), "25: what is installed is what the maker had, sessions and all", || {
            format!("node {id} shard {shard} slot {slot}: {hash:x} on disk, made was {made:x?}")
        })?;
        self.coverage.count("snapshot", "installed");
        if let Some(up) = self.process(id) {
            up.observed.insert(shard, slot);
            up.desk.installed.insert(shard);
        }
        Ok(())
    }

    /// One step; that of a process which is no more is none, and one that stands still does it later.
    pub(crate) fn snapshot_step(&mut self, id: NodeId, process: u64, step: Step) -> Checked {
        let node = &self.nodes[&id];
        if node.process != process || node.up.is_none() {
            return Ok(());
        }
        if !self.runs(id, process) {
            self.step_at(self.now + POSTPONE, id, process, step);
            return Ok(());
        }
        let now = self.now;
        if let Some(up) = self.process(id) {
            up.job_clock.set(now);
        }
        self.tempt(id, process, &step);
        match step {
            Step::Make { job } => self.make(id, process, job)?,
            Step::Built { shard, result } => self.built(id, shard, result),
            Step::Wish(Wish::Offer { to, shard }) => self.offer(id, to, shard),
            Step::Wish(Wish::Load { shard, space, loader }) => self.load(id, process, shard, space, &*loader)?,
            Step::Wish(Wish::Forget { shard, kind }) => self.forget(id, shard, kind),
            Step::Wish(Wish::Ask { to, shard, least }) => self.ask_state(id, to, shard, least),
            Step::StateAsked { by, shard, least } => {
                self.tell(id, Input::SnapshotAsked { by, shard, least }, "asked for a state that is gone");
            }
            Step::Offered(offer) => self.offered(id, process, offer),
            Step::Fetched(header) => self.tell(id, Input::SnapshotFetched(header), "received"),
            Step::Loaded { shard, space, result } => {
                let what = if result.is_ok() { "loaded" } else { "refused as it was loaded" };
                self.tell(id, Input::SnapshotLoaded { shard, space, result }, what);
            }
            Step::Asked { transfer, part } => self.asked_for(id, process, transfer, part),
            Step::Serve { transfer, part } => self.serve(id, process, transfer, part),
            Step::Part { transfer, part, data } => self.part_arrives(id, process, transfer, part, data),
            Step::Gone { transfer, why } => self.give_up(id, transfer, why),
            Step::Overdue { transfer, progress } => {
                let stream = self.process(id).and_then(|up| up.desk.streams.get(&transfer));
                if stream.is_some_and(|stream| stream.progress == progress) {
                    self.give_up(id, transfer, "given up in silence");
                }
            }
            Step::Kill => {
                self.coverage.count("fault", "kill amid a snapshot");
                let end = if self.dice.chance(500) { Action::Kill } else { Action::PowerLoss };
                self.crash(id, end);
            }
        }
        Ok(())
    }

    /// Some processes are killed while something about snapshots goes on.
    fn tempt(&mut self, id: NodeId, process: u64, step: &Step) {
        let (file, sync) = (self.plan.file_time.1, self.plan.sync.1);
        let (span, weight) = match step {
            Step::Make { .. } => (2 * file, 2),
            Step::Part { .. } => (2 * file, 1),
            Step::Wish(Wish::Load { .. }) => (2 * file, 5),
            // The round that follows writes the pointer to the rows.
            Step::Loaded { .. } => (sync, 10),
            _ => return,
        };
        if self.phase == Phase::Storm && self.dice.chance(weight * self.plan.snapshot_kill) {
            let at = self.now + self.dice.between((1, span));
            self.step_at(at, id, process, Step::Kill);
        }
    }

    fn tell(&mut self, id: NodeId, input: Input, what: &'static str) {
        self.coverage.count("snapshot", what);
        self.trace.note(self.now, "snapshot", &[id.0, what.len() as u64], || format!("{id}: {what}"));
        if let Some(up) = self.process(id) {
            up.inputs.push(input);
        }
        self.wake(id);
    }

    fn make(&mut self, id: NodeId, process: u64, job: u64) -> Checked {
        let Some(making) = self.process(id).and_then(|up| up.desk.jobs.remove(&job)) else { return Ok(()) };
        let Making { view, shard, slot, space, hash } = making;
        let mut rows = view.rows;
        if hash.is_some() {
            let invariant = "25: replicas have equal state hashes at equal slots";
            self.audit_space(id, shard, &rows.rows, space, invariant)?;
        } else {
            self.coverage.count("snapshot", "none of damaged rows");
        }
        let Some(up) = self.process(id) else { return Ok(()) };
        up.desk.making.insert(shard);
        (view.job)(&mut rows);
        let made = up.taps.lock().made.take().unwrap_or_else(|| Err("the job made nothing".into()));
        let (ends, result) = (up.job_clock.get(), made.map(Arc::new));
        self.trace.note(self.now, "make", &[id.0, shard.0, slot.0, ends], || {
            format!("{id} shard {shard} slot {slot} until {ends}: {:?}", result.as_ref().map(|file| file.bytes()))
        });
        self.step_at(ends, id, process, Step::Built { shard, result });
        Ok(())
    }

    fn built(&mut self, id: NodeId, shard: ShardId, result: Result<Arc<SnapshotFile>, String>) {
        let Some(up) = self.process(id) else { return };
        up.desk.making.remove(&shard);
        let told = result.map(|file| drop(up.desk.built.insert(shard, file)));
        let what = if told.is_ok() { "made" } else { "could not be made" };
        self.tell(id, Input::SnapshotBuilt { shard, result: told }, what);
    }

    fn offer(&mut self, id: NodeId, to: NodeId, shard: ShardId) {
        let Some(file) = self.process(id).and_then(|up| up.desk.built.get(&shard).cloned()) else { return };
        self.coverage.count("snapshot", "offered");
        let (delay, lost) = (self.dice.between(self.plan.delay), self.dice.chance(self.plan.loss));
        if lost || !self.net.reaches((id, to)) || !self.net.reaches((to, id)) {
            self.coverage.count("snapshot", "offer lost");
            return;
        }
        let process = self.nodes[&to].process;
        let offer = Offer { from: id, shard, digest: file.digest() };
        self.step_at(self.now + delay, to, process, Step::Offered(offer));
    }

    fn ask_state(&mut self, id: NodeId, to: NodeId, shard: ShardId, least: Slot) {
        let delay = self.dice.between(self.plan.delay);
        if self.net.reaches((id, to)) && self.net.reaches((to, id)) {
            let process = self.nodes[&to].process;
            self.step_at(self.now + delay, to, process, Step::StateAsked { by: id, shard, least });
        }
    }

    fn offered(&mut self, id: NodeId, process: u64, offer: Offer) {
        let now = self.now;
        let Some(up) = self.node(id).up.as_deref_mut() else { return };
        let instant = up.instant(now);
        if !up.desk.fetches.begin(&offer, instant) {
            self.coverage.count("snapshot", "offer passed over");
            return;
        }
        let files = Arc::clone(&up.desk.files);
        for path in files.names(Path::new(FETCHED)).unwrap_or_default() {
            if path.file_name().is_some_and(|name| is_of_another(&name.to_string_lossy(), &offer)) {
                let _ = files.remove(&path);
                self.coverage.count("snapshot", "what came of another goes");
            }
        }
        let shard = offer.shard;
        let path = snapshot_path(shard, SnapshotKind::Fetched);
        let begun = Receiving::begin(&files, &path, CLUSTER, offer.clone());
        let Some(up) = self.node(id).up.as_deref_mut() else { return };
        let ends = up.job_clock.get();
        match begun {
            Ok(Begun::Whole(header)) => {
                self.coverage.count("snapshot", "found whole");
                self.step_at(ends, id, process, Step::Fetched(Box::new(header)));
            }
            Ok(Begun::Parts(receiving)) => self.ask(id, process, &offer, receiving, ends),
            Err(_) => {
                up.desk.fetches.failed(shard);
                self.coverage.count("snapshot", "fetch not begun");
            }
        }
    }

    fn ask(&mut self, id: NodeId, process: u64, offer: &Offer, receiving: Receiving, at: u64) {
        let (maker, part) = (offer.from, receiving.next_part());
        self.coverage.count("snapshot", if part > 0 { "fetch resumed" } else { "fetch begun" });
        self.trace.note(self.now, "fetch", &[id.0, maker.0, offer.shard.0, part], || {
            format!("{id} from {maker} shard {} part {part}", offer.shard)
        });
        self.last_transfer += 1;
        let number = self.last_transfer;
        let stream = Stream { shard: offer.shard, receiving: Some(receiving), busy_until: at, progress: 0 };
        if let Some(up) = self.process(id) {
            up.desk.streams.insert(number, stream);
        }
        let (shard, digest) = (offer.shard, offer.digest);
        let transfer = Transfer { maker, taker: id, taker_process: process, digest, shard, file: None, last: 0 };
        self.transfers.insert(number, transfer);
        self.step_at(at + SILENT, id, process, Step::Overdue { transfer: number, progress: 0 });
        if !self.net.reaches((id, maker)) || !self.net.reaches((maker, id)) {
            return;
        }
        let delay = self.dice.between(self.plan.delay);
        match self.nodes[&maker].up {
            Some(_) => {
                let process = self.nodes[&maker].process;
                self.step_at(at + delay, maker, process, Step::Asked { transfer: number, part });
            }
            None => self.step_at(at + delay, id, process, Step::Gone { transfer: number, why: "connection refused" }),
        }
    }

    fn asked_for(&mut self, id: NodeId, process: u64, number: u64, part: u64) {
        let Some((shard, digest)) = self.transfers.get(&number).map(|t| (t.shard, t.digest)) else { return };
        let file = self.process(id).and_then(|up| up.desk.built.get(&shard).cloned());
        match file.filter(|file| file.digest() == digest) {
            Some(file) => {
                if let Some(transfer) = self.transfers.get_mut(&number) {
                    transfer.file = Some((process, file));
                }
                self.serve(id, process, number, part);
            }
            None => self.end_transfer(number, "not there any more"),
        }
    }

    /// The receiver hears, a moment later, that no more comes.
    fn end_transfer(&mut self, number: u64, why: &'static str) {
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        transfer.file = None;
        let (taker, process) = (transfer.taker, transfer.taker_process);
        let delay = self.dice.between(self.plan.delay);
        self.step_at(self.now + delay, taker, process, Step::Gone { transfer: number, why });
    }

    fn serve(&mut self, id: NodeId, process: u64, number: u64, part: u64) {
        let Some(transfer) = self.transfers.get(&number) else { return };
        let (taker, taker_process) = (transfer.taker, transfer.taker_process);
        let Some((_, file)) = transfer.file.clone().filter(|(server, _)| *server == process) else { return };
        let Ok(data) = file.part(part) else {
            let shard = transfer.shard;
            self.end_transfer(number, "a part cannot be read");
            if self.plan.tells_spoilt {
                self.tell(id, Input::SnapshotSpoilt { shard }, "found damaged at its maker");
            }
            return;
        };
        let Some(up) = self.process(id) else { return };
        let read_at = up.job_clock.get();
        // What is sent into a cut stays unanswered until the receiver has waited long enough.
        if !self.net.reaches((id, taker)) || !self.net.reaches((taker, id)) {
            return;
        }
        if self.dice.chance(self.plan.loss / 4) {
            return self.end_transfer(number, "connection broke");
        }
        let mut data = data;
        if std::mem::take(&mut self.garble_part) {
            let mut bytes = data.to_vec();
            let bit = self.dice.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            data = bytes.into();
            self.coverage.count("snapshot", "part garbled");
        }
        let (delay, pause) = (self.dice.between(self.plan.delay), self.dice.between(self.plan.part_pause));
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        transfer.last = (read_at + delay).max(transfer.last + 1);
        let at = transfer.last;
        self.step_at(at, taker, taker_process, Step::Part { transfer: number, part, data });
        if part + 1 < file.parts() {
            self.step_at(read_at + pause, id, process, Step::Serve { transfer: number, part: part + 1 });
        }
    }

    fn part_arrives(&mut self, id: NodeId, process: u64, number: u64, part: u64, data: Bytes) {
        let now = self.now;
        let Some(up) = self.process(id) else { return };
        let clock = up.job_clock.clone();
        let Some(stream) = up.desk.streams.get_mut(&number) else { return };
        if stream.busy_until > now {
            let at = stream.busy_until;
            return self.step_at(at, id, process, Step::Part { transfer: number, part, data });
        }
        let Some(mut receiving) = stream.receiving.take() else { return };
        let (shard, taken) = (stream.shard, receiving.take(part, &data));
        stream.progress += 1;
        stream.busy_until = clock.get();
        let progress = stream.progress;
        let words = || format!("{id} shard {shard} part {part}: {taken:?}");
        self.trace.note(now, "part", &[id.0, shard.0, part, hash_bytes(&[&data])], words);
        match taken {
            Err(_) => self.give_up(id, number, "part refused"),
            Ok(false) => {
                if let Some(stream) = self.process(id).and_then(|up| up.desk.streams.get_mut(&number)) {
                    stream.receiving = Some(receiving);
                }
                self.step_at(clock.get() + SILENT, id, process, Step::Overdue { transfer: number, progress });
            }
            Ok(true) => match receiving.finish() {
                Ok(header) => {
                    self.transfers.remove(&number);
                    if let Some(up) = self.process(id) {
                        up.desk.streams.remove(&number);
                    }
                    self.step_at(clock.get(), id, process, Step::Fetched(Box::new(header)));
                }
                Err(_) => self.give_up(id, number, "file refused"),
            },
        }
    }

    /// A receiver waits for no more of a file; the next offer goes on with it.
    fn give_up(&mut self, id: NodeId, number: u64, why: &'static str) {
        self.transfers.remove(&number);
        let Some(up) = self.process(id) else { return };
        let Some(stream) = up.desk.streams.remove(&number) else { return };
        up.desk.fetches.failed(stream.shard);
        self.coverage.count("snapshot", why);
        let shard = stream.shard;
        self.trace.note(self.now, "fetch over", &[id.0, shard.0], || format!("{id} shard {shard}: {why}"));
    }

    /// Connections between two nodes break.
    pub(crate) fn break_transfers(&mut self, a: NodeId, b: NodeId) {
        let between = |t: &Transfer| (t.maker, t.taker) == (a, b) || (t.maker, t.taker) == (b, a);
        let broken: Vec<u64> = self.transfers.iter().filter(|(_, t)| between(t)).map(|(n, _)| *n).collect();
        for number in broken {
            self.end_transfer(number, "connection broke");
        }
    }

    fn load(&mut self, id: NodeId, process: u64, shard: ShardId, space: Space, loader: &dyn BulkLoad) -> Checked {
        let Some(up) = self.process(id) else { return Ok(()) };
        up.desk.loading.insert(shard);
        let path = snapshot_path(shard, SnapshotKind::Fetched);
        let loaded = install::load_from(&up.desk.files, &path, CLUSTER, space, loader, &mut Throttle::new(0));
        let ends = up.job_clock.get();
        match loaded {
            Ok(result) => {
                let result = result.map_err(|e| e.to_string());
                self.trace.note(self.now, "load", &[id.0, shard.0, ends], || {
                    format!("{id} shard {shard} into {space:?} until {ends}: {result:?}")
                });
                self.step_at(ends, id, process, Step::Loaded { shard, space, result });
                Ok(())
            }
            Err(error) => self.ended(id, Ended::Fatal(error.to_string()), ends),
        }
    }

    fn forget(&mut self, id: NodeId, shard: ShardId, kind: SnapshotKind) {
        let now = self.now;
        let Some(up) = self.node(id).up.as_deref_mut() else { return };
        let instant = up.instant(now);
        let _ = up.desk.files.remove(&snapshot_path(shard, kind));
        let what = match kind {
            SnapshotKind::Built => {
                up.desk.built.remove(&shard);
                "of no more use"
            }
            SnapshotKind::Fetched => {
                up.desk.fetches.done_with(shard, instant);
                let (loaded, installed) = (up.desk.loading.remove(&shard), up.desk.installed.remove(&shard));
                if installed {
                    return;
                }
                if loaded { "loaded in vain" } else { "received in vain" }
            }
        };
        self.coverage.count("snapshot", what);
    }
}

/// What a process that ended leaves of connections.
impl World {
    pub(crate) fn drop_transfers(&mut self, id: NodeId, refused: bool) {
        self.transfers.retain(|_, transfer| transfer.taker != id);
        let served: Vec<u64> = self.transfers.iter().filter(|(_, t)| t.maker == id).map(|(n, _)| *n).collect();
        for number in served {
            if refused {
                self.end_transfer(number, "connection broke");
            } else if let Some(transfer) = self.transfers.get_mut(&number) {
                transfer.file = None;
            }
        }
    }
}
