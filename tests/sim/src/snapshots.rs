//! Snapshot files of simulated nodes: made, offered, received, loaded.
//!
//! Owns: what the server's snapshot manager does around a worker, as jobs on the virtual clock. How parts come is in
//! `transfers`.
//! Must never: decide what the server's own code decides (`fetch`), or give a worker what no job has finished.
//!
//! A job runs the production code at once, on a clock of its own that each operation on a file moves on; what it did later
//! than a crash never happened, and its result is told when it ends.

use crate::host::{CLUSTER, Installed, Making, Wish, snapshot_path};
use crate::node::{Ended, Process};
use crate::plan::Action;
use crate::snapshot_files::Step;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use std::path::Path;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space};
use synod_engine::host::{Input, RowsFetched, SnapshotInput, SnapshotKind};
use synod_engine::snapshot::{SnapshotFile, Throttle, install};
use synod_engine::state::BulkLoad;

/// What falls to a process that stands still is done when it goes on, looked at so often, µs.
const POSTPONE: u64 = 20_000;

impl World {
    pub(crate) fn step_at(&mut self, at: u64, node: NodeId, process: u64, step: Step) {
        self.at(at, Event::Snapshot { node, process, step });
    }

    pub(crate) fn process(&mut self, id: NodeId) -> Option<&mut Process> {
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
            let is_child = self.models.get(&shard).is_some_and(|model| model.is_child());
            self.coverage.add("splits", "snapshot of a child made", u64::from(is_child));
            if let Some(hash) = made.hash {
                let known = *self.made.entry((shard, slot)).or_insert(hash);
                check(known == hash, "25: snapshots of equal slots are equal, sessions and all", || {
                    format!("node {id} shard {shard} slot {slot}: {hash:x}, another had {known:x}")
                })?;
            }
            let ready_at = made.view.ready_at;
            let Some(up) = self.process(id) else { return Ok(()) };
            up.snapshot_files.last_job += 1;
            let job = up.snapshot_files.last_job;
            up.snapshot_files.jobs.insert(job, made);
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
        let Installed { at, shard, slot, hash, begins } = *install;
        self.trace.note(at, "installed", &[id.0, shard.0, slot.0, hash], || format!("{id} shard {shard} slot {slot}"));
        let made = self.made.get(&(shard, slot)).copied();
        check(made == Some(hash), "25: what is installed is what the maker had, sessions and all", || {
            format!("node {id} shard {shard} slot {slot}: {hash:x} on disk, made was {made:x?}")
        })?;
        self.coverage.count("snapshot", "installed");
        let model = self.models.get(&shard);
        self.coverage.add("splits", "snapshot of a child installed", u64::from(model.is_some_and(|m| m.is_child())));
        *self.installs.entry((id, shard)).or_default() += 1;
        if begins {
            // Where nothing was, nothing is given up.
            self.begun.insert((id, shard), slot);
        } else {
            self.check_custody(id, shard, slot, at)?;
        }
        if let Some(up) = self.process(id) {
            up.observed.insert(shard, slot);
            up.snapshot_files.installed.insert(shard);
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
            Step::Wish(Wish::Fetch { shard, ticket, for_read }) => {
                let time = self.dice.between(self.plan.sync);
                self.step_at(self.now + time, id, process, Step::RowsFetched { shard, ticket, for_read });
            }
            Step::RowsFetched { shard, ticket, for_read } => {
                let what = if for_read { "rows fetched for a read" } else { "rows fetched for entries to be applied" };
                self.coverage.count("reads", what);
                if let Some(up) = self.process(id) {
                    up.push(RowsFetched { shard, ticket });
                }
                self.wake(id);
            }
            Step::StateAsked { by, shard, least } => {
                self.tell(id, SnapshotInput::Asked { by, shard, least }, "asked for a state that is gone");
            }
            Step::Offered(offer) => self.offered(id, process, offer),
            Step::Fetched(header) => {
                if let Some(up) = self.process(id) {
                    up.snapshot_files.fetched.insert(header.shard, now);
                }
                self.tell(id, SnapshotInput::Fetched(header), "received");
            }
            Step::Loaded { shard, space, result } => {
                let what = if result.is_ok() { "loaded" } else { "refused as it was loaded" };
                self.tell(id, SnapshotInput::Loaded { shard, space, result }, what);
            }
            Step::Asked { transfer, part } => self.asked_for(id, process, transfer, part),
            Step::Serve { transfer, part } => self.serve(id, process, transfer, part),
            Step::Part { transfer, part, data } => self.part_arrives(id, process, transfer, part, data),
            Step::Gone { transfer, why } => self.give_up(id, transfer, why),
            Step::Overdue { transfer, progress } => {
                let stream = self.process(id).and_then(|up| up.snapshot_files.streams.get(&transfer));
                if stream.is_some_and(|stream| stream.progress == progress) {
                    self.give_up(id, transfer, "given up in silence");
                }
            }
            // What peers have seen of a disk that was set back is in their memory.
            Step::Kill if self.now < self.truce_until => {}
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

    /// Some files are damaged once they are whole and checked: a fault that comes at any time hardly ever meets one of them.
    fn spoil(&mut self, id: NodeId, path: &Path) {
        let weight = self.plan.weight(Action::FlipFile);
        if weight > 0 && self.phase == Phase::Storm && self.dice.chance(8 * weight) {
            let Self { nodes, dice, coverage, .. } = self;
            if nodes.get_mut(&id).is_some_and(|node| node.disk.lock().files.flip_in(path, dice)) {
                coverage.count("fault", Action::FlipFile.name());
            }
        }
    }

    pub(crate) fn tell(&mut self, id: NodeId, input: impl Into<Input>, what: &'static str) {
        self.coverage.count("snapshot", what);
        self.trace.note(self.now, "snapshot", &[id.0, what.len() as u64], || format!("{id}: {what}"));
        if let Some(up) = self.process(id) {
            up.push(input);
        }
        self.wake(id);
    }

    fn make(&mut self, id: NodeId, process: u64, job: u64) -> Checked {
        let Some(making) = self.process(id).and_then(|up| up.snapshot_files.jobs.remove(&job)) else { return Ok(()) };
        let Making { view, shard, slot, space, hash } = making;
        let mut rows = view.rows;
        if hash.is_some() {
            let invariant = "25: replicas have equal state hashes at equal slots";
            self.audit_space(id, shard, rows.rows(), space, invariant)?;
        } else {
            self.coverage.count("snapshot", "none of damaged rows");
        }
        let Some(up) = self.process(id) else { return Ok(()) };
        up.snapshot_files.making.insert(shard);
        (view.job)(&mut *rows);
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
        up.snapshot_files.making.remove(&shard);
        let told = result.map(|file| drop(up.snapshot_files.built.insert(shard, file)));
        let what = if told.is_ok() { "made" } else { "could not be made" };
        self.tell(id, SnapshotInput::Built { shard, result: told }, what);
    }

    fn ask_state(&mut self, id: NodeId, to: NodeId, shard: ShardId, least: Slot) {
        let delay = self.dice.between(self.plan.delay);
        if self.net.reaches((id, to)) && self.net.reaches((to, id)) {
            let process = self.nodes[&to].process;
            self.step_at(self.now + delay, to, process, Step::StateAsked { by: id, shard, least });
        }
    }

    fn load(&mut self, id: NodeId, process: u64, shard: ShardId, space: Space, loader: &dyn BulkLoad) -> Checked {
        let path = snapshot_path(shard, SnapshotKind::Fetched);
        self.spoil(id, &path);
        let Some(up) = self.process(id) else { return Ok(()) };
        up.snapshot_files.fetched.remove(&shard);
        up.snapshot_files.loading.insert(shard);
        let loaded = install::load_from(&up.snapshot_files.files, &path, CLUSTER, space, loader, &mut Throttle::new(0));
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
        let local = up.local(now);
        let _ = up.snapshot_files.files.remove(&snapshot_path(shard, kind));
        let what = match kind {
            SnapshotKind::Built => {
                up.snapshot_files.built.remove(&shard);
                "of no more use"
            }
            SnapshotKind::Fetched => {
                up.snapshot_files.fetched.remove(&shard);
                up.snapshot_files.fetches.done_with(shard, local);
                let (loaded, installed) =
                    (up.snapshot_files.loading.remove(&shard), up.snapshot_files.installed.remove(&shard));
                if installed {
                    return;
                }
                if loaded { "loaded in vain" } else { "received in vain" }
            }
        };
        self.coverage.count("snapshot", what);
    }
}
