//! Shards that are split: as an operator asks for it, at once or by a job, and what the server does around a worker for that.
//!
//! Owns: which shard is split where, the words of replicas to the system shard about bounds, and what clients may use of a shard after that.
//! Must never: decide whether a split counts, or help one along: each is proposed to whoever leads, and what comes of it is seen in the map.

use crate::clients::{Kind, KnownShard};
use crate::clock::WALL_US;
use crate::node::SimNode;
use crate::setup::ADMIN;
use crate::world::{Event, Phase, World};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::jobs::executor::SplitLook;
use synod_cluster::jobs::job::JobGoal;
use synod_cluster::jobs::split::{Bounds, Goal, Leader, Seen, middle_of_ring};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, Partitioning, ShardNews, SystemCommand, SystemState};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::{AdminInput, NodeInput, NodeReport, ReplicaReport, SplitWanted};

/// Pause between two looks of the operator, µs.
const LOOK: (u64, u64) = (100_000, 700_000);
/// Shards of a table that is not split further.
const SHARDS_MAX: usize = 6;
/// The system shard is told of bounds, and asked for an id, by a command that may take so long, µs.
const TELLING: u64 = 3_000_000;
/// A snapshot that was received and that is not taken in for so long waits for a child, µs.
const HELD_BACK: u64 = 300_000;

impl World {
    /// The operator splits a shard now and then.
    pub(crate) fn look_at_splits(&mut self) {
        self.count_answers();
        self.look_for_waits();
        if self.phase != Phase::Storm {
            return;
        }
        let pause = self.splits.dice.between(LOOK);
        self.at(self.now + pause, Event::Splits);
        let Some(map) = self.map.clone() else { return };
        let Some(descriptor) = self.choose_split(&map) else { return };
        if self.splits.dice.chance(400) {
            self.split_by_a_job(&descriptor);
        } else {
            self.split_at_once(&map, &descriptor);
        }
    }

    fn count_answers(&mut self) {
        for answer in std::mem::take(&mut *self.splits.answers.lock().expect("no holder panics")) {
            self.coverage.count(
                "splits",
                match answer {
                    Ok(()) => "made, as its leader says",
                    Err(Refusal::NotReady) => "refused: not ready",
                    Err(Refusal::NotLeader { maybe: true, .. }) => "leadership lost on its way",
                    Err(Refusal::NotLeader { .. }) => "refused: not leader",
                    Err(Refusal::Invalid { .. }) => "refused: makes no sense by now",
                    Err(_) => "refused",
                },
            );
        }
    }

    /// Snapshots that were received and are kept until the child is there.
    fn look_for_waits(&mut self) {
        let before = self.now.saturating_sub(HELD_BACK);
        let up = self.nodes.values().filter_map(|node| node.up.as_ref()).filter(|up| !up.paused);
        let waits = up.flat_map(|up| up.snapshot_files.fetched.values()).filter(|since| **since <= before).count();
        self.coverage.add("splits", "snapshot held back", waits as u64);
    }

    /// A shard of a table, mostly one for whose child an id is there.
    fn choose_split(&mut self, map: &SystemState) -> Option<Descriptor> {
        let of_table = |table: TableId| map.shards.values().filter(|d| d.table == table).count();
        let may = |d: &&Descriptor| d.shard != SYSTEM_SHARD && of_table(d.table) < SHARDS_MAX;
        let all: Vec<&Descriptor> = map.shards.values().filter(may).collect();
        let ready = |d: &&&Descriptor| map.reserved.values().any(|r| (r.parent, r.version) == (d.shard, d.version));
        let begun: Vec<&Descriptor> = all.iter().filter(ready).copied().collect();
        let dice = &mut self.splits.dice;
        let chosen = if !begun.is_empty() && dice.chance(700) { dice.pick(&begun) } else { dice.pick(&all) };
        chosen.cloned()
    }

    /// Positions at which a shard can be split so that clients use both sides.
    fn split_points(&self, descriptor: &Descriptor) -> Vec<Bytes> {
        let Descriptor { shard, from, to, partitioning, .. } = descriptor;
        let Some(known) = self.shards.iter().find(|known| known.shard == *shard) else {
            // No client uses it.
            let middle = middle_of_ring(from, to).filter(|_| *partitioning == Partitioning::Hash);
            return middle.into_iter().collect();
        };
        let position = |key: &Bytes| match partitioning {
            Partitioning::Range => key.clone(),
            Partitioning::Hash => Bytes::copy_from_slice(&partitioning.position(key)[..8]),
        };
        let positions: BTreeSet<Bytes> = known.keys.iter().map(position).collect();
        positions.into_iter().skip(1).collect()
    }

    /// Whether the middle of a hash table's shard has keys of clients on both sides, or no client uses the shard.
    fn has_middle(&self, descriptor: &Descriptor, points: &[Bytes]) -> bool {
        let middle = middle_of_ring(&descriptor.from, &descriptor.to);
        let is_hashed = descriptor.partitioning == Partitioning::Hash;
        let both = |middle: &Bytes| points.first() < Some(middle) && points.last() >= Some(middle);
        let divides = |middle: Bytes| points.first() == Some(&middle) || both(&middle);
        is_hashed && middle.is_some_and(divides)
    }

    fn split_by_a_job(&mut self, descriptor: &Descriptor) {
        let points = self.split_points(descriptor);
        let middle = self.has_middle(descriptor, &points) && self.splits.dice.chance(300);
        let at = if middle { None } else { self.splits.dice.pick(&points) };
        if at.is_none() && !middle {
            return;
        }
        self.coverage.count("splits", "asked for as a job");
        let goal = JobGoal::Split { shard: descriptor.shard, version: descriptor.version, at };
        self.tell_of_job(None, &SystemCommand::StartJob { goal });
    }

    /// An id is asked for, or the split is proposed that it is for.
    fn split_at_once(&mut self, map: &SystemState, descriptor: &Descriptor) {
        let (shard, version) = (descriptor.shard, descriptor.version);
        let unused = map.reserved.iter().find(|(_, r)| (r.parent, r.version) == (shard, version));
        let Some((child, _)) = unused else {
            return self.reserve(shard, version);
        };
        let points = self.split_points(descriptor);
        let Some(at) = self.splits.dice.pick(&points) else { return };
        let wanted = SplitWanted { version, epoch: descriptor.membership.epoch, child: *child, at };
        let (delay, late) = self.splits.way();
        self.coverage.count("splits", if late { "asked for late" } else { "asked for" });
        self.at(self.now + delay, Event::Split { shard, wanted });
    }

    fn reserve(&mut self, parent: ShardId, version: u64) {
        let asked = self.splits.reserving.get(&parent).and_then(|op| self.ops.get(op));
        if asked.is_some_and(|op| !op.done) {
            return;
        }
        let op = self.tell_system(&SystemCommand::ReserveChild { parent, version });
        self.splits.reserving.insert(parent, op);
    }

    fn tell_system(&mut self, command: &SystemCommand) -> u64 {
        let deadline = self.now + TELLING;
        let id = self.clients[ADMIN].name(WALL_US + 2 * deadline);
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        let voters = self.system_voters();
        self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, voters, deadline)
    }

    /// Asks whoever leads.
    pub(crate) fn propose_split(&mut self, shard: ShardId, wanted: SplitWanted) {
        let leaders = self.which(leads(shard));
        let Some(leader) = self.splits.dice.pick(&leaders) else { return };
        let moves = self.moves.under_way.contains_key(&shard);
        let moves =
            moves || self.running_jobs().iter().any(|(_, job)| job.goal.as_move().is_some_and(|m| m.0 == shard));
        self.coverage.add("splits", "proposed while members change", u64::from(moves));
        self.trace.note(self.now, "split", &[leader.0, shard.0, wanted.child.0, wanted.version], || {
            format!("{leader} is asked to split shard {shard}: {wanted:?}")
        });
        let answers = Arc::clone(&self.splits.answers);
        let done = Box::new(move |answer| answers.lock().expect("no holder panics").push(answer));
        if let Some(up) = &mut self.node(leader).up {
            up.push(AdminInput::Split { shard, split: wanted, done });
        }
        self.wake(leader);
    }

    /// Replicas have the system shard told of their bounds, each word by one command at a time.
    pub(crate) fn tell_bounds(&mut self, id: NodeId, told: Vec<ShardNews>) {
        for news in told {
            if let Some(up) = &mut self.node(id).up {
                up.note_bounds(&news);
            }
            let name = (news.shard, news.version);
            let said = self.splits.telling.get(&name).and_then(|op| self.ops.get(op));
            if said.is_some_and(|op| !op.done) {
                continue;
            }
            self.coverage.count("splits", "system shard told of bounds");
            let op = self.tell_system(&SystemCommand::ShardNews(news));
            self.splits.telling.insert(name, op);
        }
    }

    /// What is seen of a split: by the map, and by what the leader said since it was asked last. It is asked again.
    pub(crate) fn look_at_split(&mut self, state: &SystemState, goal: Goal<'_>) -> SplitLook {
        let shard = goal.shard;
        let said = self.splits.heard.lock().expect("no holder panics").remove(&shard);
        let descriptor = state.shards.get(&shard);
        let leader = said.map(|report| {
            let ReplicaReport { from, to, version, epoch, hindrance, .. } = report;
            let hashed = descriptor.is_some_and(|d| d.partitioning == Partitioning::Hash);
            let middle = middle_of_ring(&from, &to).filter(|_| hashed);
            Leader { bounds: Bounds { from, to, version }, epoch, middle, hindrance }
        });
        for node in self.which(leads(shard)) {
            let heard = Arc::clone(&self.splits.heard);
            let tell = move |report: NodeReport| {
                let own = report.replicas.into_iter().find(|r| r.shard == shard && r.role == "leader");
                heard.lock().expect("no holder panics").extend(own.map(|report| (shard, report)));
            };
            if let Some(up) = &mut self.node(node).up {
                up.push(NodeInput::Status(Box::new(tell)));
            }
            self.wake(node);
        }
        let epoch = descriptor.map(|d| d.membership.epoch).unwrap_or_default();
        SplitLook { seen: Seen { leader, ..state.look_at_split(goal) }, epoch }
    }

    /// Clients use the shards of a newer map, those of the tables that they used before.
    pub(crate) fn use_shards_of(&mut self, map: &SystemState) {
        if !self.splits.on || self.shards.is_empty() {
            return;
        }
        let tables: BTreeSet<TableId> = self.shards.iter().map(|known| known.table).collect();
        let used = |d: &&Descriptor| tables.contains(&d.table);
        let now = map.shards.values().filter(used).map(|d| (d.shard, d.version));
        if now.eq(self.shards.iter().map(|known| (known.shard, known.version))) {
            return;
        }
        self.shards = KnownShard::of(map);
        self.shards.retain(|known| tables.contains(&known.table) && !known.keys.is_empty());
    }
}

/// The nodes whose processes lead a shard.
fn leads(shard: ShardId) -> impl Fn(&SimNode) -> bool {
    move |node| node.up.as_ref().is_some_and(|up| !up.paused && up.taps.lock().leads.contains(&shard))
}
