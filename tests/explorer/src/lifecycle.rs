//! Processes come and go, and notice each other.
//!
//! Owns: starts, crashes, snapshots, cuts and failure detectors. Must never: lose a synced write, unless the plan plants
//! exactly that.

use super::clock::Clock;
use super::disk::{Disk, Log};
use super::events::Event;
use super::plan::DiskFault;
use super::violation::{Check, Violation};
use super::world::World;
use synod_paxos::Replica;
use synod_paxos::io::Input;
use synod_paxos::types::{Basis, HardState, NodeId, Slot, WriteSeq};

impl World {
    /// Starts a process on its disk.
    pub fn start(&mut self, id: NodeId) -> Check {
        if self.runs(id) || self.nodes.get(&id).is_none_or(|n| n.retired) {
            return Ok(());
        }
        let known = self.is_spare(id);
        let peers: Vec<_> = self.nodes.keys().copied().filter(|peer| *peer != id).collect();
        let blind = self.finish.is_none() && self.dice.chance(100);
        let live: Vec<_> = peers.iter().copied().filter(|peer| self.hears(id, *peer) != blind).collect();
        let now = self.now;
        let clock = Clock::begun(now, self.plan.drift_ppm, &mut self.dice);
        let options = self.plan.options_of_a_life(&mut self.dice);
        let disk = self.disks.get(&id).ok_or_else(|| Violation::new("harness: a disk exists", format!("{id:?}")))?;
        let recovered = disk.recover(live.clone());
        let applied = disk.applied;
        let node =
            self.nodes.get_mut(&id).ok_or_else(|| Violation::new("harness: a node exists", format!("{id:?}")))?;
        node.boot += 1;
        node.clock = clock;
        (node.applied, node.committed, node.trim_to) = (applied, applied, Slot(0));
        (node.tick_at, node.idle_ticks, node.syncing, node.applying) = (None, 0, false, false);
        node.told = WriteSeq(0);
        (node.persisted_at, node.hangs_until, node.paused_until) = (now, 0, 0);
        (node.stepped, node.has_read) = ((now, now), now);
        node.hears = live.into_iter().map(|peer| (peer, true)).collect();
        node.reads.clear();
        let boot = node.boot;
        self.observer.started(id, disk)?;
        self.trace.line(|| {
            format!("  t={now} {id:?} starts life {boot}: {:?} last {:?} applied {applied}", disk.hard, disk.log.last())
        });
        let mut replica = Replica::new(id, recovered, options);
        if self.nodes[&id].abstains {
            replica = replica.abstaining();
        }
        replica
            .check_invariants()
            .map_err(|why| Violation::new("the replica's own invariants", format!("{id:?} at its start: {why}")))?;
        self.node_mut(id)?.replica = Some(replica);
        self.schedule_tick(id)?;
        for peer in peers {
            if !known {
                self.notice(peer, id, true);
            }
            self.notice(id, peer, false);
        }
        Ok(())
    }

    /// Kills a process; some of its unsynced writes may have reached the disk all the same.
    pub fn crash(&mut self, id: NodeId) -> Check {
        if !self.runs(id) {
            return Ok(());
        }
        self.coverage.count("event", "crash", "");
        self.trace.line(|| format!("  t={} {id:?} crashes", self.now));
        let waiting = self.disks.get(&id).map_or(0, |d| d.queue.len()) as u64;
        let survive = if self.dice.chance(500) { 0 } else { self.dice.between(0, waiting) };
        for _ in 0..survive {
            self.make_durable(id)?;
        }
        if let Some(disk) = self.disks.get_mut(&id) {
            disk.queue.clear();
        }
        self.break_disk(id);
        let node = self.node_mut(id)?;
        node.replica = None;
        node.reads.clear();
        let peers: Vec<_> = self.nodes.keys().copied().filter(|peer| *peer != id).collect();
        peers.into_iter().for_each(|peer| self.notice(peer, id, false));
        Ok(())
    }

    /// What the explorer plants in disks.
    fn break_disk(&mut self, id: NodeId) {
        match self.plan.planted.disk {
            DiskFault::None => {}
            DiskFault::WipedVotes => {
                if self.dice.chance(300) {
                    self.trace.line(|| format!("  {id:?} is wiped"));
                    self.disks.insert(id, Disk::new(HardState::initial(self.first.clone())));
                }
            }
            DiskFault::LosesSynced => {
                let back = self.dice.below(4) as usize;
                let Some(node) = self.nodes.get_mut(&id) else { return };
                let old = (1..=back).filter_map(|_| node.old_disks.pop_back()).last();
                let (Some(mut old), Some(disk)) = (old, self.disks.get_mut(&id)) else { return };
                self.trace.line(|| format!("  {id:?} loses {back} synced writes"));
                old.queue.clear();
                old.applied = disk.applied.min(old.log.last().slot).max(old.log.base.slot);
                *disk = old;
            }
        }
    }

    /// Keeps a copy of a disk that a crash may bring back.
    pub fn keep_old_disk(&mut self, id: NodeId) {
        if let (Some(node), Some(disk)) = (self.nodes.get_mut(&id), self.disks.get(&id)) {
            node.old_disks.push_back(disk.clone());
            if node.old_disks.len() > 4 {
                node.old_disks.pop_front();
            }
        }
    }

    /// Installs what `from` has applied as the state and the log's beginning of `to`, which restarts.
    pub fn install(&mut self, from: NodeId, to: NodeId) -> Check {
        let Some(source) = self.nodes.get(&from).filter(|source| !source.abstains) else { return Ok(()) };
        let Some(promised) = source.replica.as_ref().map(|replica| replica.hard().promised) else { return Ok(()) };
        let upto = source.applied;
        let Some(chosen) = self.observer.chosen(upto).map(|c| (c.entry.id, c.entry.ts)) else { return Ok(()) };
        if !self.runs(to) && !self.is_spare(to) {
            return Ok(());
        }
        let Some(disk) = self.disks.get(&to) else { return Ok(()) };
        if disk.applied >= upto || disk.log.id_at(upto) == Some(chosen.0) {
            return Ok(());
        }
        self.crash(to)?;
        self.coverage.count("event", "snapshot installed", "");
        self.trace.line(|| format!("  t={} {to:?} installs a snapshot of {from:?} at {upto}", self.now));
        let (membership, epoch_start) = self.observer.membership_after(upto);
        let Some(disk) = self.disks.get_mut(&to) else { return Ok(()) };
        // The crash may have made more of the log durable.
        if disk.applied < upto && disk.log.id_at(upto) != Some(chosen.0) {
            let basis = Basis { id: chosen.0, membership, epoch_start, promised };
            disk.hard = disk.hard.after_snapshot(&basis);
            disk.log = Log::after(chosen.0, chosen.1);
            disk.applied = upto;
        }
        self.start(to)
    }

    /// Whether `at` hears `of`, in truth.
    pub fn hears(&self, at: NodeId, of: NodeId) -> bool {
        (self.runs(of) || self.is_spare(of)) && self.network.carries(of, at)
    }

    /// Whether `id` is a running process that has never heard of the group.
    pub fn is_spare(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.boot == 0 && !n.retired) && self.first.role_of(id).is_none()
    }

    /// The failure detector of `at` will look at `of` in a while.
    pub fn notice(&mut self, at: NodeId, of: NodeId, reconnected: bool) {
        let (low, high) = self.plan.detect;
        let lag = self.dice.between(low, high);
        self.agenda.add(self.now + lag, Event::Liveness { at, of, reconnected });
    }

    /// The failure detector of `at` looks at `of` and reports what it sees.
    pub fn look(&mut self, at: NodeId, of: NodeId, reconnected: bool) -> Check {
        if !self.runs(at) {
            return Ok(());
        }
        let alive = self.hears(at, of);
        self.believe(at, of, alive, reconnected && alive)
    }

    /// The failure detector of `at` reports `of` as `alive`.
    pub fn believe(&mut self, at: NodeId, of: NodeId, alive: bool, anyway: bool) -> Check {
        let before = self.node_mut(at)?.hears.insert(of, alive).unwrap_or(false);
        if before == alive && !anyway {
            return Ok(());
        }
        self.step_replica(at, Input::PeerLiveness { node: of, alive }).map(|_| ())
    }

    /// Cuts directions and says when they heal.
    pub fn cut(&mut self, links: Vec<(NodeId, NodeId)>) {
        self.coverage.count("event", "cut", "");
        for (from, to) in &links {
            self.trace.line(|| format!("  t={} cut {from:?} -> {to:?}", self.now));
            self.network.cut(*from, *to);
            self.notice(*to, *from, false);
        }
        let (low, high) = self.plan.outage;
        let outage = self.dice.between(low, high);
        self.agenda.add(self.now + outage, Event::Heal(links));
    }

    /// Heals directions; both ends notice.
    pub fn heal(&mut self, links: &[(NodeId, NodeId)]) {
        for (from, to) in links {
            if self.network.heal(*from, *to) {
                self.trace.line(|| format!("  t={} healed {from:?} -> {to:?}", self.now));
                self.notice(*to, *from, true);
                self.notice(*from, *to, true);
            }
        }
    }
}
