//! Schedules that are written down: what random ones seldom meet.
//!
//! Owns: their steps. Must never: check anything of its own; the world does.

use crate::dice::Dice;
use crate::group::{What, members, value_of};
use crate::keys::KEYS;
use crate::plan::Planted;
use crate::search::guarded;
use crate::violation::{Check, Violation};
use crate::world::World;
use std::sync::Arc;
use synod_cluster::ids::{ClientId, ClientSeq, ShardId};
use synod_cluster::system::Partitioning;
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteId, WriteRequest};

/// The steps of a stage.
struct Stage {
    world: World,
    /// The shard with the lowest keys.
    parent: ShardId,
    /// The shard with the others.
    other: ShardId,
    /// The last key of the first.
    last: usize,
}

impl Stage {
    fn new(planted: Planted) -> Check<Self> {
        let mut world = World::of(Dice::new(1), Partitioning::Range, planted, false)?;
        world.skew.fill(0);
        world.slow = None;
        let shards = world.shards();
        let (Some(parent), Some(other)) = (shards.first().copied(), shards.last().copied()) else {
            return Err(Violation("no shard was founded".into()));
        };
        let inside = world.oracle.states.get(&parent).map(|state| world.keys.of(state.descriptor()));
        let last = inside.map_or(0, |keys| keys.end.saturating_sub(1));
        Ok(Self { world, parent, other, last })
    }

    fn lead(&mut self, shard: ShardId, node: usize) {
        if let Some(group) = self.world.groups.get_mut(&shard) {
            group.leader = Some(node);
        }
    }

    /// All that is proposed is chosen, by these nodes.
    fn choose(&mut self, shard: ShardId, by: &[usize]) -> Check {
        while self.world.groups.get(&shard).is_some_and(|group| !group.pending.is_empty() && group.leader.is_some()) {
            let before = self.world.groups.get(&shard).map(|group| group.chosen());
            self.world.choose(shard, Some(by))?;
            if self.world.groups.get(&shard).map(|group| group.chosen()) == before {
                return Err(Violation(format!("nothing is chosen in shard {shard}")));
            }
        }
        Ok(())
    }

    fn noop(&mut self, shard: ShardId, by: &[usize]) -> Check {
        self.world.propose(shard, What::Noop, None);
        self.choose(shard, by)
    }

    fn write(&mut self, shard: ShardId, seq: u64, key: usize, by: &[usize]) -> Check {
        self.write_above(1, shard, seq, key, by)
    }

    fn write_above(&mut self, floor: u64, shard: ShardId, seq: u64, key: usize, by: &[usize]) -> Check {
        let (client, seq_id) = (ClientId(0), ClientSeq(seq));
        let id = WriteId { client, seq: seq_id, floor: ClientSeq(floor), deadline_us: 9_999 };
        let action = Action::Append(vec![NewRecord { headers: Vec::new(), value: value_of(0, seq) }]);
        let ops = vec![KeyOp { key: self.world.keys.name(key), expect: Expect::Any, action }];
        let op = Op::Write { table: self.world.table, ops };
        self.world.propose(shard, What::Write(WriteRequest { id, op }), None);
        self.choose(shard, by)
    }

    fn config(&mut self, shard: ShardId, learner: Option<usize>, by: &[usize]) -> Check {
        let Some(group) = self.world.groups.get(&shard) else { return Ok(()) };
        let next = members(group.membership.epoch.next(), &[0, 1, 2], learner, 0);
        self.world.propose(shard, What::Config(next), None);
        self.choose(shard, by)
    }

    /// A shard goes into another, led by node 0; the first `on` nodes apply that.
    fn merge(&mut self, target: ShardId, source: ShardId, on: usize) -> Check {
        self.begin_merge(target, source)?;
        self.freeze(target, source)?;
        self.world.drive(target, false);
        self.choose(target, &[0, 1, 2])?;
        for node in 0..on {
            self.applied(target, node)?;
        }
        if self.world.groups.contains_key(&source) {
            return Err(Violation(format!("shard {source} does not go into shard {target}")));
        }
        Ok(())
    }

    fn begin_merge(&mut self, target: ShardId, source: ShardId) -> Check {
        for node in 0..3 {
            self.applied(target, node)?;
            self.applied(source, node)?;
        }
        self.world.begin_merge_of(target, source);
        self.choose(target, &[0, 1, 2])?;
        self.applied(target, 0)
    }

    /// The source is frozen, and all nodes say so.
    fn freeze(&mut self, target: ShardId, source: ShardId) -> Check {
        self.world.drive(target, false);
        self.choose(source, &[0, 1, 2])?;
        for node in 0..3 {
            self.applied(source, node)?;
            self.world.flush(node)?;
            self.world.word(node)?;
        }
        Ok(())
    }

    /// A merge whose source is frozen is cancelled, and over.
    fn cancel_merge(&mut self, target: ShardId, source: ShardId) -> Check {
        self.world.drive(target, true);
        self.choose(target, &[0, 1, 2])?;
        self.applied(target, 0)?;
        for _ in 0..20 {
            self.world.drive(target, false);
            self.choose(source, &[0, 1, 2])?;
            self.choose(target, &[0, 1, 2])?;
            self.applied(source, 0)?;
            self.applied(target, 0)?;
        }
        Ok(())
    }

    /// The shard that was made last.
    fn newest(&self) -> ShardId {
        self.world.shards().last().copied().unwrap_or(self.other)
    }

    /// A node hears of all that is chosen in a shard, and applies it.
    fn applied(&mut self, shard: ShardId, node: usize) -> Check {
        let chosen = self.world.groups.get(&shard).map_or(0, |group| group.chosen());
        self.world.nodes[node].commit.insert(shard, chosen);
        self.world.apply(shard, node, u64::MAX)?;
        self.world.write_logs(node);
        Ok(())
    }

    /// A node flushes, and lets go of what its logs have below.
    fn kept(&mut self, node: usize) -> Check {
        self.world.flush(node)?;
        self.world.trim(node, true)
    }

    /// The map hears of a shard's bounds from whoever knows them.
    fn told(&mut self, shard: ShardId) -> Check {
        for _ in 0..40 {
            self.world.report(shard);
        }
        while !self.world.reports.is_empty() {
            self.world.index()?;
        }
        Ok(())
    }

    fn mapped(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.world.nodes[*node].map = Arc::clone(&self.world.map);
        }
    }

    fn dies(&mut self, node: usize) {
        self.world.crash(node);
        self.world.nodes[node].dead = true;
    }
}

/// Three nodes, two outages one after the other, and a death: what a snapshot of the parent behind a split takes with it.
///
/// # Errors
/// What the world finds.
pub fn two_outages_one_death(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (parent, last) = (stage.parent, stage.last);
        stage.lead(parent, 0);
        stage.write(parent, 1, 0, &[0, 1, 2])?;
        stage.write(parent, 2, last, &[0, 1, 2])?;
        stage.world.split_at(parent, last)?;
        stage.choose(parent, &[0, 1, 2])?;
        // Every log has the split. One node is down; another applies it, and loses that before it is flushed.
        stage.world.crash(2);
        stage.noop(parent, &[0, 1])?;
        stage.applied(parent, 0)?;
        stage.applied(parent, 1)?;
        stage.world.crash(1);
        stage.kept(0)?;
        stage.world.restart(2)?;
        stage.told(parent)?;
        stage.mapped(&[0, 2]);
        stage.world.snapshot(parent, 2)?;
        let behind = stage.world.nodes[2].states.get(&parent).is_some_and(|state| state.descriptor().version > 1);
        if behind {
            stage.noop(parent, &[0, 2])?;
            stage.applied(parent, 0)?;
            stage.applied(parent, 2)?;
            stage.kept(0)?;
            stage.kept(2)?;
        }
        stage.world.restart(1)?;
        stage.mapped(&[1]);
        if behind {
            stage.world.snapshot(parent, 1)?;
        }
        stage.dies(0);
        stage.world.heal()
    })
}

/// No leader of the new epoch can begin before the member that lags has what only the map can tell it of.
///
/// # Errors
/// What the world finds.
pub fn who_tells(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (parent, other, last) = (stage.parent, stage.other, stage.last);
        stage.lead(parent, 0);
        stage.lead(other, 0);
        stage.write(parent, 1, last, &[0, 1, 2])?;
        stage.noop(other, &[0, 1, 2])?;
        stage.world.crash(2);
        stage.config(parent, Some(3), &[0, 1])?;
        stage.lead(parent, 0);
        stage.world.split_at(parent, last)?;
        stage.choose(parent, &[0, 1])?;
        stage.applied(parent, 0)?;
        stage.applied(parent, 1)?;
        stage.config(parent, None, &[0, 1])?;
        stage.applied(parent, 0)?;
        stage.kept(0)?;
        stage.dies(1);
        stage.world.heal()
    })
}

/// The source let the outcome of a write go, and that write comes again at the target.
///
/// # Errors
/// What the world finds.
pub fn floor_at_merge(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (target, source) = (stage.parent, stage.other);
        stage.lead(target, 0);
        stage.lead(source, 0);
        stage.write(target, 3, 0, &[0, 1, 2])?;
        stage.write(source, 1, KEYS - 1, &[0, 1, 2])?;
        stage.write_above(2, source, 2, KEYS - 1, &[0, 1, 2])?;
        stage.merge(target, source, 3)?;
        stage.write(target, 1, KEYS - 1, &[0, 1, 2])?;
        stage.world.heal()
    })
}

/// A child takes its neighbour in, and the map hears of that before it hears of the child.
///
/// # Errors
/// What the world finds.
pub fn half_a_report(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (parent, other, last) = (stage.parent, stage.other, stage.last);
        stage.lead(parent, 0);
        stage.lead(other, 0);
        stage.world.split_at(parent, last)?;
        stage.choose(parent, &[0, 1, 2])?;
        for node in 0..3 {
            stage.applied(parent, node)?;
        }
        let child = stage.newest();
        stage.lead(child, 0);
        stage.merge(child, other, 3)?;
        stage.told(child)?;
        stage.world.heal()
    })
}

/// The target was split again: a node that lags holds the newest owner of the source's range, and its target has yet to take the source in.
///
/// # Errors
/// What the world finds.
pub fn source_is_waited_for(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (target, source, last) = (stage.parent, stage.other, stage.last);
        stage.lead(target, 0);
        stage.lead(source, 0);
        stage.merge(target, source, 2)?;
        stage.told(target)?;
        stage.world.split_at(target, last + 1)?;
        stage.choose(target, &[0, 1])?;
        stage.applied(target, 0)?;
        stage.applied(target, 1)?;
        let child = stage.newest();
        stage.lead(child, 0);
        stage.noop(child, &[0, 1])?;
        stage.applied(child, 0)?;
        stage.applied(child, 1)?;
        stage.told(target)?;
        stage.mapped(&[2]);
        stage.world.snapshot(child, 2)?;
        stage.world.flush(2)?;
        for _ in 0..9 {
            stage.world.adopt(2)?;
        }
        stage.world.catch_up(target, 2, true);
        stage.applied(target, 2)?;
        stage.world.heal()
    })
}

/// A node that leads the source has not applied the absorb, and is asked for a record that the target has overtaken.
///
/// # Errors
/// What the world finds.
pub fn read_of_frozen(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (target, source) = (stage.parent, stage.other);
        stage.lead(target, 0);
        stage.lead(source, 1);
        stage.write(source, 1, KEYS - 1, &[0, 1, 2])?;
        stage.merge(target, source, 1)?;
        stage.write(target, 2, KEYS - 1, &[0, 1, 2])?;
        stage.applied(target, 0)?;
        stage.world.truth.overtake(KEYS - 1);
        for _ in 0..200 {
            stage.world.hear_of(1);
            stage.world.read();
            stage.world.serve()?;
        }
        stage.world.heal()
    })
}

/// A shard that was split goes into its neighbour before the map hears of its child.
///
/// # Errors
/// What the world finds.
pub fn child_of_the_source(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (target, source) = (stage.parent, stage.other);
        stage.lead(target, 0);
        stage.lead(source, 0);
        stage.world.split_at(source, KEYS - 1)?;
        stage.choose(source, &[0, 1, 2])?;
        for node in 0..3 {
            stage.applied(source, node)?;
        }
        let child = stage.newest();
        stage.lead(child, 0);
        stage.merge(target, source, 3)?;
        stage.told(target)?;
        stage.world.heal()
    })
}

/// A merge is cancelled when all nodes have said that the source is frozen, the source takes a write, and the merge begins again.
///
/// # Errors
/// What the world finds.
pub fn merge_begun_again(planted: Planted) -> Result<(), Violation> {
    guarded(planted, || {
        let mut stage = Stage::new(planted)?;
        let (target, source) = (stage.parent, stage.other);
        stage.lead(target, 0);
        stage.lead(source, 0);
        stage.begin_merge(target, source)?;
        stage.freeze(target, source)?;
        stage.cancel_merge(target, source)?;
        stage.write(source, 1, KEYS - 1, &[0, 1, 2])?;
        stage.merge(target, source, 3)?;
        stage.world.heal()
    })
}
