//! Processes: their starts, rounds, pauses and ends.
//!
//! Owns: what of a round leaves the process, and what a crash inside it keeps from leaving. Must never: end a process for
//! a reason that nobody injected without saying so.

use crate::disk::Lost;
use crate::node::{Ended, PULSE, Surroundings};
use crate::retry::Failure;
use crate::violation::{Checked, Violation, check};
use crate::world::{Event, Origin, Phase, World};
use std::sync::Arc;
use synod_cluster::ids::{ClusterVersion, Entry, NodeId, ShardId, Slot};
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::keys;
use synod_engine::host::NodeInput;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its machine lives: connections are refused.
    Killed,
    /// Its machine is silent.
    Silent,
}

impl World {
    /// One round of a process, where it is due now.
    pub(crate) fn round(&mut self, id: NodeId, process: u64) -> Checked {
        let (now, early_clock) = (self.now, self.plan.planted.early_clock);
        // A quiet cluster must stay silent.
        let hand_overs = if matches!(self.phase, Phase::Storm | Phase::Calm) { self.hand_overs } else { 0 };
        let metrics = Arc::clone(&self.metrics);
        if !self.runs(id, process) {
            return Ok(());
        }
        let Some(up) = &mut self.node(id).up else { return Ok(()) };
        if up.round_at != Some(now) {
            return Ok(());
        }
        up.round_at = None;
        up.hand_over(hand_overs);
        let inputs = up.waiting() as u64;
        let before = metrics.shards_handed_over_total.get();
        let ended = up.round(now, early_clock).err();
        let handed = metrics.shards_handed_over_total.get() - before;
        let until = up.cursor.get();
        self.coverage.add("workers", "shard handed over", handed);
        self.trace.note(now, "round", &[id.0, inputs, until], || format!("{id} {inputs} inputs until {until}"));
        self.harvest(id, process)?;
        match ended {
            None => {
                self.begin_log_write(id, process);
                self.wake(id);
                Ok(())
            }
            Some(ended) => self.ended(id, ended, until),
        }
    }

    /// The log writer's thread begins its next write, where it can.
    fn begin_log_write(&mut self, id: NodeId, process: u64) {
        let Some(up) = &self.node(id).up else { return };
        if let Some((until, joined)) = up.writes.begin() {
            self.coverage.count("log", "write beside the rounds");
            self.coverage.add("log", "batches joined", joined as u64 - 1);
            self.at(until, Event::LogWritten { node: id, process });
        }
    }

    /// The write under way beside a process's rounds has ended. One of a process that stands still is told when it goes on.
    pub(crate) fn log_written(&mut self, id: NodeId, process: u64) {
        let now = self.now;
        if !self.runs(id, process) {
            return;
        }
        let Some(up) = &mut self.node(id).up else { return };
        if let Some((seq, workers)) = up.writes.end(now) {
            up.written(seq, &workers);
            self.begin_log_write(id, process);
            self.wake(id);
        }
    }

    /// What a round left behind goes on its way.
    fn harvest(&mut self, id: NodeId, process: u64) -> Checked {
        let node = self.node(id);
        let (disk, expected) = (node.disk.clone(), node.set_back);
        let Some(up) = &mut node.up else { return Ok(()) };
        let incarnation = up.incarnation;
        let mut tap = up.taps.lock();
        if let Some(violation) = tap.broke.take() {
            return Err(Violation { detail: format!("node {id}: {}", violation.detail), ..violation });
        }
        let (frames, replies, applied, maps) = (
            std::mem::take(&mut tap.frames),
            std::mem::take(&mut tap.replies),
            std::mem::take(&mut tap.applied),
            std::mem::take(&mut tap.maps),
        );
        let (elected, trims) = (std::mem::take(&mut tap.elected), std::mem::take(&mut tap.trims));
        let (making, installed) = (std::mem::take(&mut tap.making), std::mem::take(&mut tap.installed));
        let snapshots = (making, installed, std::mem::take(&mut tap.wishes));
        let (removed, members) = (std::mem::take(&mut tap.removed), std::mem::take(&mut tap.members));
        let bounds = std::mem::take(&mut tap.bounds);
        let births = std::mem::take(&mut tap.births);
        let (begun, returned) = (std::mem::take(&mut tap.begun), std::mem::take(&mut tap.returned));
        let quarantined = tap.quarantined.take();
        drop(tap);
        let several = up.several();
        let mut chosen: Vec<(u64, ShardId, Vec<Entry>)> = Vec::new();
        for (stamp, shard, slot) in applied {
            let seen = up.observed.entry(shard).or_default();
            if *seen < slot
                && let Some(entries) = disk.peek(shard, *seen, slot)
            {
                *seen = slot;
                chosen.push((stamp, shard, entries));
            }
        }
        self.coverage.add("recovery", "leader elected", elected);
        self.coverage.add("recovery", "log trimmed", trims);
        self.coverage.add("members", "replica begun with a snapshot", begun);
        self.coverage.add("members", "replica came back", returned);
        for shard in births {
            self.coverage.count("splits", "child begun");
            self.coverage.add("splits", "child begun beside several workers", u64::from(several));
            self.begun.remove(&(id, shard));
        }
        for (stamp, shard, entries) in chosen {
            self.at(stamp, Event::Applied { from: Origin { node: id, process, stamp }, shard, entries });
        }
        for (stamp, shard, upto) in removed {
            self.at(stamp + 1, Event::Removed { from: Origin { node: id, process, stamp }, shard, upto });
        }
        self.tell_members(members);
        self.tell_bounds(id, bounds);
        self.take_wishes(id, process, snapshots)?;
        for (stamp, map) in maps {
            self.at(stamp, Event::Map { from: Origin { node: id, process, stamp }, map });
        }
        for frame in frames {
            self.send_frames(Origin { node: id, process, stamp: frame.at }, incarnation, frame);
        }
        for (stamp, attempt, answer) in replies {
            self.send_reply(Origin { node: id, process, stamp }, attempt, answer);
        }
        if let Some(why) = quarantined {
            check(expected, "only a disk set back is quarantined", || format!("node {id}: {why}"))?;
            self.coverage.count("recovery", "node quarantined");
            self.node(id).out = Some("quarantined");
        }
        Ok(())
    }

    /// A process ended itself (or broke) at `at`.
    pub(crate) fn ended(&mut self, id: NodeId, ended: Ended, at: u64) -> Checked {
        let why = match ended {
            Ended::Panic(why) => return Err(Violation::new("no replica panics", format!("node {id}: {why}"))),
            Ended::Fatal(why) => why,
        };
        let node = self.node(id);
        let cause = node.damaged || node.disk.lock().failed;
        check(cause, "no process ends itself without cause", || format!("node {id}: {why}"))?;
        let what = if node.damaged { "process ended by damage" } else { "process ended by a failing disk" };
        self.coverage.count("recovery", what);
        self.trace.note(self.now, "fatal", &[id.0], || format!("{id}: {why}"));
        self.stop(id, at, End::Killed);
        let outage = self.outage();
        self.at(at + outage, Event::Restart { node: id });
        Ok(())
    }

    /// The time something stays away, µs.
    pub(crate) fn outage(&mut self) -> u64 {
        let span = self.plan.outage;
        self.dice.between(span)
    }

    /// A process is no more, from `at` on.
    pub(crate) fn stop(&mut self, id: NodeId, at: u64, end: End) {
        let now = self.now;
        let Self { nodes, dice, .. } = self;
        let Some(node) = nodes.get_mut(&id) else { return };
        let process = node.process;
        let Some(up) = node.up.take() else { return };
        self.coverage.add("log", "batch lost on its way", up.writes.unfinished());
        for (what, count) in up.snapshot_files.unfinished() {
            self.coverage.add("snapshot", what, count);
        }
        drop(up);
        // The map's copy is not synced.
        if end == End::Silent && dice.chance(300) {
            node.map_cache = None;
        }
        node.deaths.insert(process, at);
        let Lost { vanished, kept, torn, flushes, loads, flips, files } = node.disk.lock().crash(at, dice);
        self.trace.note(now, "stop", &[id.0, vanished, kept, torn, flushes], || {
            format!(
                "{id} {end:?}: unsynced writes: {vanished} vanished, {torn} torn, {kept} kept; {flushes} flushes lost"
            )
        });
        self.coverage.add("crash", "unsynced write vanished", vanished);
        self.coverage.add("crash", "unsynced write torn", torn);
        self.coverage.add("crash", "unsynced write kept", kept);
        self.coverage.add("crash", "flush lost", flushes);
        self.coverage.add("crash", "load of rows unfinished", loads);
        self.coverage.add("crash", "pointer to a snapshot vanished", flips.0);
        self.coverage.add("crash", "pointer to a snapshot kept unsynced", flips.1);
        self.coverage.add("crash", "write of a file vanished", files.vanished);
        self.coverage.add("crash", "write of a file torn", files.torn);
        self.coverage.add("crash", "write of a file kept", files.kept);
        self.coverage.add("crash", "name of a file lost", files.names);
        self.drop_transfers(id, end == End::Killed);
        for peer in self.ids.clone().into_iter().filter(|peer| *peer != id) {
            self.net.close((id, peer));
            self.net.close((peer, id));
            let refused = end == End::Killed && self.net.reaches((id, peer)) && self.net.reaches((peer, id));
            let delay = self.dice.between((100, 3_000));
            let node = self.node(peer);
            let process = node.process;
            if let Some(up) = &mut node.up {
                up.identified.remove(&id);
                if refused {
                    self.at(at + delay, Event::Refused { node: peer, process, peer: id });
                }
            }
        }
        if end == End::Killed {
            self.break_attempts(id, process, at);
        }
    }

    /// Connections of clients to a process break.
    fn break_attempts(&mut self, id: NodeId, process: u64, at: u64) {
        let open = |a: &&crate::clients::Attempt| a.node == id && a.process == process;
        let live = |attempt: &u64| {
            let op = &self.ops[&self.attempts[attempt].op];
            !op.done && op.attempt == Some(*attempt)
        };
        let broken: Vec<u64> = self.attempts.iter().filter(|(_, a)| open(a)).map(|(n, _)| *n).filter(live).collect();
        for attempt in broken {
            let delay = self.dice.between((100, 3_000));
            self.at(at + delay, Event::Failed { attempt, failure: Failure::Broken });
        }
    }

    /// A node's next process.
    pub(crate) fn restart(&mut self, id: NodeId) -> Checked {
        if self.nodes[&id].up.is_some() || self.nodes[&id].out.is_some() {
            return Ok(());
        }
        self.audit_disk(id)?;
        let options = self.plan.options_of_a_process(&mut self.dice);
        let workers = self.plan.workers_of_a_process(&mut self.dice);
        self.coverage.add("workers", "process with several", u64::from(workers > 1));
        self.node(id).speaks = self.versions.next();
        self.check_readable(id)?;
        let unborn = self.unborn_on_disk(id);
        self.coverage.add("splits", "restart with an unborn child", unborn);
        let first = self.nodes[&id].speaks == ClusterVersion::FIRST;
        self.coverage.count("versions", if first { "older process started" } else { "newer process started" });
        let Self { nodes, now, seed, plan, metrics, ids, .. } = self;
        let (now, seed) = (*now, *seed);
        let Some(node) = nodes.get_mut(&id) else { return Ok(()) };
        let (freeze_bytes, log_writes) = (plan.freeze_bytes, plan.log_writes);
        let with =
            Surroundings { now, seed, options: &options, freeze_bytes, log_writes, workers, metrics, peers: ids };
        let started = node.start(&with);
        let (process, damaged, set_back) = (node.process, node.damaged, node.set_back);
        self.trace
            .note(now, "start", &[id.0, process, u64::from(started.is_ok())], || format!("{id} process {process}"));
        if let Err(ended) = started {
            let why = match ended {
                Ended::Panic(why) => return Err(Violation::new("no replica panics", format!("node {id}: {why}"))),
                Ended::Fatal(why) => why,
            };
            check(damaged || set_back, "a sound disk can be started from", || format!("node {id}: {why}"))?;
            // A log set back to before what its state holds is found out without anybody's help.
            let what = if damaged { "start refused for damage" } else { "start refused for a log behind its state" };
            self.coverage.count("recovery", what);
            self.node(id).out = Some("refused to start");
            return Ok(());
        }
        self.audit_spaces(id)?;
        self.audit_removed(id)?;
        self.coverage.add("recovery", "rows of a snapshot swept", u64::from(self.leftover(id)));
        self.coverage.count("recovery", "process started");
        let set_aside = self.nodes[&id].up.as_ref().map_or(0, |up| up.taps.lock().set_aside);
        self.coverage.add("recovery", "damaged state set aside", set_aside as u64);
        self.observe_from_disk(id);
        self.at(now + 1, Event::Beat { node: id, process, count: 0 });
        self.wake(id);
        Ok(())
    }

    /// What a process starts from was applied and observed before.
    fn observe_from_disk(&mut self, id: NodeId) {
        let shards: Vec<ShardId> = self.models.keys().copied().collect();
        let Some(up) = &mut self.node(id).up else { return };
        let rows = up.rows.lock().expect("no holder panics");
        let spaces = up.taps.lock();
        for shard in shards {
            let row = rows.get(&keys::applied(spaces.space_of(shard))).cloned();
            let slot = row.and_then(|row| AppliedRow::decode(row).ok()).map_or(Slot(0), |row| row.slot);
            up.observed.insert(shard, slot);
        }
    }

    /// A process goes on after a pause.
    pub(crate) fn resume(&mut self, id: NodeId, process: u64) {
        let clients_first = self.dice.chance(500);
        let now = self.now;
        let node = self.node(id);
        if node.process != process {
            return;
        }
        if let Some(up) = &mut node.up {
            up.paused = false;
            if clients_first && up.begun.is_none() {
                up.clients_first(now);
            }
            self.trace.note(self.now, "resume", &[id.0], || id.to_string());
            self.log_written(id, process);
            self.wake(id);
        }
    }

    /// A node that was told to leave: once its leaderships are handed over, it flushes and ends.
    pub(crate) fn leave(&mut self, id: NodeId, process: u64, count: u64) -> Checked {
        if !self.runs(id, process) {
            return Ok(());
        }
        let Some(up) = &mut self.node(id).up else { return Ok(()) };
        let stopped = up.stopped();
        let ready = up.taps.lock().drained || count > 80;
        if stopped {
            let at = up.busy_until.max(self.now);
            self.coverage.count("recovery", "process ended in order");
            self.stop(id, at, End::Killed);
            let outage = self.outage();
            self.at(at + outage, Event::Restart { node: id });
            return Ok(());
        }
        if ready && !std::mem::replace(&mut up.leaving, true) {
            up.push(NodeInput::Stop);
            self.wake(id);
        }
        self.at(self.now + PULSE / 2, Event::Leave { node: id, process, count: count + 1 });
        Ok(())
    }
}
