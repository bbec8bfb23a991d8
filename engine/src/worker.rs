//! A worker of a node: a deterministic state machine over the shards that it has.
//!
//! Owns: its shards, their timers and their state store; it is told what happened and when, in rounds, and carries out a
//! round to its end: sends first, then one synced write for all shards, then what that write allows. Must never: read a
//! clock, draw a random number, start a thread or block on anything but its own stores.
//!
//! A round: inputs are taken, due timers fire, then in turn (1) shards propose what queued, apply what is chosen and
//! answer, (2) messages leave, (3) one batch is written and synced (or handed to the log writer's thread), (4) the cores
//! learn what is durable; until nothing is left to do.

mod births;
mod bounds;
mod custody;
mod divide;
mod groups;
mod hand_over;
mod holds;
mod inputs;
mod joining;
mod merges;
mod passage;
mod scrubs;
mod snapshots;
mod spaces;
mod upkeep;

pub use crate::setup::{WorkerOptions, WorkerSetup};
pub(crate) use spaces::own_space;
pub use upkeep::AHEAD_US;

use crate::StoreError;
use crate::host::Host;
use crate::identity::{Identity, Mark};
use crate::logstore::GONE;
use crate::metrics::level;
use crate::node::worker_of;
use crate::round::Node;
use crate::shard::Shard;
use crate::wall::Reading;
use crate::writer::Done;
use births::Creating;
use custody::Kept;
use divide::Divisions;
use holds::Holds;
use joining::Joining;
use merges::Merges;
use passage::Passage;
use scrubs::Scrubs;
use snapshots::Snapshots;
use spaces::Owners;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{ClientId, NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::system::SystemState;
use synod_paxos::io::Input as Step;
use synod_paxos::types::{Epoch, Micros, WriteSeq};
use upkeep::Upkeep;

/// A worker of a node.
pub struct Worker<H: Host> {
    node: Node<H>,
    shards: BTreeMap<ShardId, Shard>,
    /// Groups whose first write is under way.
    creating: BTreeMap<ShardId, Creating>,
    /// Groups that were here and are gone: no replica begins here in this epoch or an earlier one.
    removed: BTreeMap<ShardId, Epoch>,
    /// Groups whose members name this node, which has no replica yet.
    joining: Joining,
    identity: Identity,
    /// The greatest write of each peer that was in a message to this worker, durable here or not yet: what follows from the message is
    /// written down with it or after it.
    seen: BTreeMap<NodeId, Mark>,
    map: Option<Arc<SystemState>>,
    /// The cluster that the data directory belongs to, where that was named before this process began.
    cluster: Option<ClientId>,
    quarantined: Option<Arc<str>>,
    /// Whether the reason for the quarantine is another process of this node. A better reason may replace it.
    ruled_out: bool,
    upkeep: Upkeep,
    snapshots: Snapshots,
    holds: Holds,
    custody: Kept,
    scrubs: Scrubs,
    divisions: Divisions,
    merges: Merges,
    passage: Passage,
    stopped: bool,
    /// Of the write just synced; a buffer.
    done: Vec<(ShardId, Done)>,
    /// What follows from the last write is left to the next round.
    held_back: bool,
}

impl<H: Host> Worker<H> {
    /// Recovers the worker's groups and their state. The groups take part once the node's identity is clear.
    ///
    /// # Errors
    /// A log or a state is damaged or cannot be read: the error says which, and the node must not start. A state that is
    /// older than what is left of its log is no error: it is reinstalled.
    pub fn new(setup: WorkerSetup, host: H) -> Result<Self, StoreError> {
        let recovered = &setup.recovered;
        let grace = setup.options.identity_grace_us;
        let identity = Identity::new(setup.me, (recovered.incarnation, recovered.seq), setup.incarnation, grace);
        let seen = recovered.seen.iter().map(|&(node, incarnation, seq)| (node, (incarnation, seq))).collect();
        let cluster = recovered.identity.as_ref().map(|identity| identity.cluster);
        let (groups, removed) = (recovered.groups.clone(), recovered.removed.clone());
        let spaces = recovered.spaces.clone();
        let gone = || removed.iter().map(|(shard, _)| *shard);
        let known: BTreeSet<ShardId> = groups.iter().copied().chain(gone()).collect();
        setup.shared.roster.found(&groups, gone());
        let (me, workers) = (setup.worker, setup.shared.workers());
        let upkeep = Upkeep::new(&setup.options, workers);
        let snapshots = Snapshots::new(setup.options.snapshot_unused_us);
        let passage = Passage::new(setup.options.balance_us);
        let mut worker = Self {
            node: Node::new(setup, host),
            shards: BTreeMap::new(),
            creating: BTreeMap::new(),
            removed: removed.into_iter().filter(|(shard, _)| worker_of(*shard, workers) == me).collect(),
            joining: Joining::default(),
            identity,
            seen,
            map: None,
            cluster,
            quarantined: None,
            ruled_out: false,
            upkeep,
            snapshots,
            holds: Holds::default(),
            custody: Kept::default(),
            scrubs: Scrubs::default(),
            divisions: Divisions::default(),
            merges: Merges::default(),
            passage,
            stopped: false,
            done: Vec::new(),
            held_back: false,
        };
        let absorbed = worker.bury_absorbed(&groups, &spaces)?;
        let groups: Vec<ShardId> = groups.into_iter().filter(|id| !absorbed.contains(id)).collect();
        let mut owners = Owners::read(&mut *worker.node.store, &*worker.node.log, &groups, &spaces)?;
        let me = worker.node.me;
        let unlogged = owners.unlogged(&mut *worker.node.store, &*worker.node.log, me, &|id| known.contains(&id))?;
        owners.include(&mut *worker.node.store, &unlogged)?;
        worker.place_unborn(&groups, &owners)?;
        worker.sweep_removed(&owners)?;
        worker.removed.extend(absorbed.into_iter().map(|id| (id, GONE)));
        for shard in groups {
            if worker.node.has(shard) {
                worker.recover(shard, &owners)?;
            }
        }
        worker.begin_unlogged(unlogged)?;
        worker.sweep_spaces(&owners)?;
        if let Some(system) = worker.shards.get_mut(&SYSTEM_SHARD) {
            // Its metadata is known already: peers are found by it.
            system.schedule(&mut worker.node);
        }
        Ok(worker)
    }

    /// Carries out one round. `now` is the driver's monotone clock, `wall_us` its wall clock in microseconds. `inputs` is
    /// emptied; `more` tells whether others wait by then.
    pub fn handle(
        &mut self,
        now: Micros,
        wall_us: u64,
        inputs: &mut Vec<crate::host::Input>,
        more: &mut dyn FnMut() -> bool,
    ) {
        self.node.now = self.node.now.max(now);
        self.node.walls.note(self.node.me, Reading { at: self.node.now, wall_us });
        self.node.look_around();
        let taken = self.node.shared.levels.round_inputs.set(self.node.worker, level(inputs.len()));
        self.node.metrics.round_inputs.set(taken);
        // Before the inputs: a shard that gets new work in every round must not come first in every round.
        for id in self.node.pace.take_due(self.node.now) {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.schedule(&mut self.node);
            }
        }
        for input in inputs.drain(..) {
            self.take(input);
        }
        if self.quarantined.is_none() && !self.stopped {
            self.start_cleared();
            self.fire_timers();
            for id in std::mem::take(&mut self.node.later) {
                if let Some(shard) = self.shards.get_mut(&id) {
                    shard.schedule(&mut self.node);
                }
            }
            self.keep_up();
            self.settle(more);
            self.keep_scrubs();
            self.keep_snapshots();
            self.keep_divisions();
            self.keep_custody();
            self.keep_members();
            self.keep_bounds();
            self.keep_births();
            self.keep_merges();
            self.keep_hand_over();
        }
        self.send_parcels();
        self.node.tell_counts();
    }

    /// When the next round is due without any input; `Micros(0)` where there is work left over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        let parcels = self.passage.due(self.node.now);
        if self.quarantined.is_some() || self.stopped {
            return parcels;
        }
        if !self.node.work.is_empty() || !self.node.later.is_empty() || self.held_back {
            return Some(Micros(0));
        }
        let timer = self.node.timers.first().map(|(at, _)| *at);
        let due = [
            timer,
            Some(self.upkeep.due()),
            self.members_due(),
            self.bounds_due(),
            self.custody_due(),
            self.divisions_due(),
            self.merges_due(),
            self.node.pace.due(),
            parcels,
        ];
        due.into_iter().flatten().min()
    }

    /// Whether the worker was told to stop and has flushed its state.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// What the worker asks of its surroundings; for tests and simulation.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.node.host
    }

    fn fire_timers(&mut self) {
        let now = self.node.now;
        // Each timer once a round, whatever it sets next.
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.node.timers.first()
            && at <= now
        {
            self.node.timers.pop_first();
            due.push(id);
        }
        for id in due {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.timer_fired(&mut self.node);
            }
        }
    }

    /// Works until nothing is left to do, or until a write is done and more inputs wait: what follows from it then joins what
    /// follows from them, in fewer messages and fewer writes.
    fn settle(&mut self, more: &mut dyn FnMut() -> bool) {
        self.held_back = false;
        loop {
            while !self.node.work.is_empty() {
                for id in std::mem::take(&mut self.node.work) {
                    if let Some(shard) = self.shards.get_mut(&id) {
                        shard.advance(&mut self.node);
                    }
                }
                self.take_births();
                self.take_absorbs();
                if let Some(map) = self.node.published.take() {
                    self.adopt_map(map);
                }
            }
            self.node.host.flush(self.node.writer.durable());
            for (to, id) in self.node.host.dropped() {
                if let Some(shard) = self.shards.get_mut(&id) {
                    shard.step(&mut self.node, Step::Dropped { to });
                }
            }
            let mut done = std::mem::take(&mut self.done);
            let written = self.node.writer.commit(&mut done);
            self.node.must(written);
            let idle = done.is_empty();
            self.finish_writes(&mut done);
            self.done = done;
            if idle {
                return;
            }
            // A shard that is to leave must come to rest, however much waits.
            if !self.passage.is_quiet() && more() {
                self.held_back = true;
                return;
            }
        }
    }

    /// Tells groups what is durable by now.
    fn finish_writes(&mut self, done: &mut Vec<(ShardId, Done)>) {
        // A core that learns of a write knows all of its before to be durable too: the last one says it all.
        let mut persisted: BTreeMap<ShardId, WriteSeq> = BTreeMap::new();
        let mut removed = Vec::new();
        for (id, done) in done.drain(..) {
            match done {
                Done::Persisted(seq) => drop(persisted.insert(id, seq)),
                Done::Created => self.created(id),
                Done::Begun => self.begun(id),
                Done::Born => {
                    // As below.
                    persisted.remove(&id);
                    self.born(id);
                }
                Done::Lost => {
                    // As below.
                    persisted.remove(&id);
                    self.lost(id);
                }
                Done::Buried => self.buried(id),
                Done::Removed(rows) => removed.extend(rows),
                Done::Installed => {
                    // Writes before it were those of the replica that is gone.
                    persisted.remove(&id);
                    self.installed(id);
                }
            }
        }
        if !removed.is_empty() {
            self.remove_rows(&removed);
        }
        // Once for all that were created or begun: thousands, where a large table is made.
        self.start_cleared();
        for (id, seq) in persisted {
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.step(&mut self.node, Step::Persisted(seq));
            }
        }
    }
}
