//! The second phase: faults stop, and everything must come right within bounded time.
//!
//! Owns: those bounds. Must never: wait longer because something is slow. Only what the product does one after another by its own design
//! has a bound that grows with how much of it is done.

use crate::lifecycle::End;
use crate::model::ShardModel;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, Slot};
use synod_engine::host::{NodeInput, NodeReport};

/// From the end of the faults until every client has finished what it began, and two operations more, µs.
const FINISH: u64 = 40_000_000;
/// From the end of the load until all replicas stand at the same slot, µs.
const CONVERGE: u64 = 8_000_000;
/// Snapshots of replicas that are installed within that time, however slowly each comes.
const INSTALLS: u64 = 4;
/// Time for each further one, µs. A worker makes one snapshot a second for members (`RETRY_US` in the engine's `worker/snapshots.rs`), and a
/// node that was away while shards were split needs one of each child besides those of the parents.
const INSTALL: u64 = 1_000_000;
/// The silence that follows, µs.
const SILENCE: u64 = 3_000_000;
/// Until the last snapshot is gone, µs.
const UNUSED: u64 = 15_000_000;
/// Why a node takes no part whose disk is sound, but which never comes back.
pub(crate) const GONE: &str = "gone for good";
/// Operations each client must finish with an answer.
const EACH: u64 = 2;

impl World {
    /// The second phase.
    pub(crate) fn calm(&mut self) -> Checked {
        self.phase = Phase::Calm;
        self.plan.calm();
        self.net.heal();
        (self.garble, self.garble_part) = (false, false);
        for node in self.nodes.values() {
            let mut disk = node.disk.lock();
            disk.files.time.1 = disk.files.time.1.min(3_000);
        }
        self.restart_all()?;
        self.lose_one();
        let clients: Vec<usize> = (1..=self.plan.clients as usize).collect();
        let served = |w: &World| {
            let fed = clients.iter().all(|c| w.calm_done.get(c).copied().unwrap_or(0) >= EACH);
            fed && w.shards.iter().all(|s| w.calm_shards.contains(&s.shard))
        };
        let began = self.now;
        let done = self.run_until(began + FINISH, |w| served(w))?;
        check(done, "every client finishes once faults have stopped", || {
            let starved: Vec<_> =
                clients.iter().filter(|c| self.calm_done.get(c).copied().unwrap_or(0) < EACH).collect();
            let shards = self.shards.iter().map(|s| s.shard);
            let unserved: Vec<_> = shards.filter(|s| !self.calm_shards.contains(s)).collect();
            format!("after {FINISH} µs: clients {starved:?} starve, shards {unserved:?} took no write")
        })?;
        self.coverage.add("liveness", "ms until all clients were served", (self.now - began) / 1000);
        self.phase = Phase::Quiet;
        self.end_moves()?;
        let idle = self.run_until(self.now + FINISH, |w| w.ops.values().all(|op| op.done))?;
        check(idle, "every client finishes once faults have stopped", || "operations under way never end".into())?;
        self.converge()?;
        self.silence()
    }

    /// Every process ends and starts again.
    fn restart_all(&mut self) -> Checked {
        // Pending starts find their node up, or start it first.
        for id in self.ids.clone() {
            self.stop(id, self.now, End::Silent);
            let delay = self.dice.between((1_000, 300_000));
            self.at(self.now + delay, Event::Restart { node: id });
        }
        Ok(())
    }

    /// One node never comes back, where each group has a majority without it: what is left goes on by itself.
    fn lose_one(&mut self) {
        if !self.plan.gone {
            return;
        }
        let may: Vec<NodeId> =
            self.ids.clone().into_iter().filter(|id| self.nodes[id].out.is_none() && self.spare(*id)).collect();
        if let Some(id) = self.dice.pick(&may) {
            self.coverage.count("fault", "node gone for good");
            self.trace.note(self.now, "gone", &[id.0], || id.to_string());
            self.node(id).out = Some(GONE);
        }
    }

    /// Every replica stands at the same slot, and holds the same.
    fn converge(&mut self) -> Checked {
        // What was damaged and not yet met with is taken away: it would flap.
        for id in self.which(|n| n.disk.lock().is_damaged() && n.out.is_none()) {
            self.stop(id, self.now, End::Killed);
            self.node(id).out = Some("damaged");
        }
        let (began, earlier) = (self.now, self.installs.clone());
        loop {
            let reports = self.reports()?;
            let even = self.even(&reports);
            let end = began + converges_within(self.installed_since(&earlier));
            match even {
                None => break,
                Some(uneven) => check(self.now < end, "replicas converge", || uneven)?,
            }
            self.run_until(self.now + 200_000, |_| false)?;
        }
        // What the last rounds applied is still on its way to the observer.
        self.run_until(self.now + 300_000, |_| false)?;
        self.executed_once()?;
        let due: Vec<(ShardId, Slot)> = self.models.iter().map(|(shard, m)| (*shard, m.last_command)).collect();
        for id in self.which(|n| n.up.is_some() && n.out.is_none()) {
            self.audit_process(id, &due)?;
            self.coverage.count("recovery", "state equal by hash");
        }
        let counts: Vec<_> = self.models.iter().filter(|(s, _)| **s != SYSTEM_SHARD).map(|(_, m)| m.counts).collect();
        for c in counts {
            for (what, by) in [
                ("entries", c.entries),
                ("noops", c.noops),
                ("stop-signs", c.stop_signs),
                ("writes executed", c.executed),
                ("write met again", c.repeated),
                ("write below its floor", c.below_floor),
                ("write expired", c.expired),
                ("expectation failed", c.mismatched),
                ("entry of several writes", c.batched),
                ("write of a key that a split gave away", c.elsewhere),
                ("splits", c.splits),
                ("splits that do not count", c.splits_refused),
            ] {
                self.coverage.add("committed", what, by);
            }
        }
        Ok(())
    }

    /// Replicas that have installed a snapshot since then. One that installs again and again counts once.
    fn installed_since(&self, earlier: &BTreeMap<(NodeId, ShardId), u64>) -> u64 {
        let installed = |(replica, installs): &(&(NodeId, ShardId), &u64)| earlier.get(*replica) < Some(*installs);
        self.installs.iter().filter(installed).count() as u64
    }

    /// Whatever its attempts were called, an operation was executed once at most.
    fn executed_once(&self) -> Checked {
        let mut done: BTreeMap<u64, BTreeSet<_>> = BTreeMap::new();
        for attempt in self.attempts.values() {
            let Some(name) = attempt.id.map(|id| (id.client, id.seq)) else { continue };
            let table = self.ops[&attempt.op].table;
            // A child begins with what its parent had executed: that was in no slot of its own.
            let here = |model: &ShardModel| model.executed.get(&name).is_some_and(|(slot, _)| *slot > Slot(0));
            let of_table = self.models.iter().filter(|(_, model)| model.table() == table && here(model));
            done.entry(attempt.op).or_default().extend(of_table.map(|(shard, _)| (name, *shard)));
        }
        let twice = done.iter().find(|(_, executions)| executions.len() > 1);
        check(twice.is_none(), "20: an operation executes once at most", || format!("{twice:?}"))
    }

    fn reports(&mut self) -> Checked<Vec<(NodeId, NodeReport)>> {
        let told: Arc<Mutex<Vec<(NodeId, NodeReport)>>> = Arc::default();
        let asked = self.which(|n| n.up.is_some() && n.out.is_none());
        for id in &asked {
            let (tell, id) = (Arc::clone(&told), *id);
            if let Some(up) = &mut self.node(id).up {
                let tell = move |report| tell.lock().expect("no holder panics").push((id, report));
                up.push(NodeInput::Status(Box::new(tell)));
            }
            self.wake(id);
        }
        let all = asked.len();
        let done = self.run_until(self.now + CONVERGE, |_| told.lock().expect("no holder panics").len() == all)?;
        check(done, "a node reports", || "no report".into())?;
        let reports = std::mem::take(&mut *told.lock().expect("no holder panics"));
        Ok(reports)
    }

    /// What is uneven.
    fn even(&self, reports: &[(NodeId, NodeReport)]) -> Option<String> {
        let known = |shard: &ShardId| self.map.as_ref().is_some_and(|map| map.shards.contains_key(shard));
        for (id, report) in reports {
            if let Some(r) = report.replicas.iter().find(|r| !known(&r.shard)) {
                return Some(format!("node {id} has a replica of shard {}, which was dropped", r.shard));
            }
        }
        let reserved = |shard: &ShardId| self.map.as_ref().is_some_and(|map| map.reserved.contains_key(shard));
        if let Some(shard) = self.models.keys().find(|shard| reserved(shard)) {
            return Some(format!("the map has not heard of shard {shard}, which a split made"));
        }
        for (shard, model) in self.models.iter().filter(|(shard, _)| known(shard)) {
            for (id, report) in reports {
                let found = report.replicas.iter().find(|r| r.shard == *shard);
                let Some(r) = found.filter(|_| self.is_member(*id, *shard)) else {
                    match found {
                        Some(_) => return Some(format!("node {id} has a replica of shard {shard} and is no member")),
                        None if self.is_member(*id, *shard) => {
                            return Some(format!("node {id} has no replica of shard {shard}"));
                        }
                        None => continue,
                    }
                };
                if r.unborn {
                    return Some(format!("node {id} has no state of shard {shard}, which a split made"));
                }
                if r.applied < model.last() || r.applied != r.last || r.commit != r.last {
                    return Some(format!(
                        "node {id} shard {shard} {}: applied {}, commit {}, last {}, known {}",
                        r.role,
                        r.applied,
                        r.commit,
                        r.last,
                        model.last()
                    ));
                }
            }
            let mut lasts = reports.iter().filter_map(|(_, r)| r.replicas.iter().find(|r| r.shard == *shard));
            let first = lasts.next().map(|r| r.last);
            if lasts.any(|r| Some(r.last) != first) {
                return Some(format!("shard {shard}: logs of different length"));
            }
        }
        None
    }

    /// Idle groups cost nothing: no messages, no writes.
    fn silence(&mut self) -> Checked {
        // Snapshots that nobody needs go, and what the log kept for them.
        let holds = |w: &World| w.nodes.values().filter_map(|n| n.up.as_ref()).any(|up| up.taps.lock().holds_log());
        let let_go = self.run_until(self.now + UNUSED, |w| !holds(w))?;
        check(let_go, "snapshots that nobody needs go", || "a log is still kept for one".into())?;
        // What a member that came on by the log held goes as long after its last step; notices and trims that were due have a
        // moment.
        let unused = self.plan.options.snapshot_unused_us;
        self.run_until(self.now + unused + 2_000_000, |_| false)?;
        let count = |w: &World| (w.frames, w.nodes.values().map(|n| n.disk.lock().syncs).sum::<u64>());
        let before = count(self);
        self.run_until(self.now + SILENCE, |_| false)?;
        let after = count(self);
        check(before == after, "24: idle groups send and write nothing", || {
            format!("in {SILENCE} µs: {} frames, {} writes", after.0 - before.0, after.1 - before.1)
        })
    }
}

/// From the end of the load until all replicas stand at the same slot, where so many of them have installed a snapshot since, µs. With
/// a snapshot a second it stays 4 s ahead; without another one it ends.
fn converges_within(installed: u64) -> u64 {
    CONVERGE + installed.saturating_sub(INSTALLS) * INSTALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replicas_that_need_many_snapshots_have_longer_to_converge() {
        for few in 0..=INSTALLS {
            assert_eq!(converges_within(few), CONVERGE);
        }
        // At one a second thirteen are there after 13 s: none of them may be late by more than 4 s.
        assert_eq!(converges_within(13), 17_000_000);
    }
}
