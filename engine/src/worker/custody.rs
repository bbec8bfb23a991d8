//! What this node gives up of its replicas, and when.
//!
//! Owns: what waits: replicas that are to be removed, and snapshots that are to take a replica's place. Must never: let rows or a log go
//! of which the newest owner known here is to be on this node and is not yet on its disk.
//!
//! The rule is in `synod_cluster::custody`. One thing more is known here: a child that began here needs the log of its parent until its
//! own first rows are flushed.

use super::Worker;
use crate::codec::bounds::{ChildMark, Frozen};
use crate::host::Host;
use crate::shard::Shard;
use crate::snapshot::Header;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::custody::{Custody, GivenUp, Here, How, Owner, Wait, may_give_up};
use synod_cluster::ids::ShardId;
use synod_cluster::system::{Birth, Descriptor, SystemState};
use synod_paxos::types::{Epoch, Micros};

/// Interval between looks at what waits, µs.
const LOOK_US: u64 = 100_000;

/// What waits.
#[derive(Default)]
pub(super) struct Kept {
    /// Replicas that are to be removed.
    leaving: BTreeSet<ShardId>,
    /// Snapshots that were received; their files are kept.
    parked: BTreeMap<ShardId, Header>,
    /// The shards that any of these waits for.
    wanted: BTreeSet<ShardId>,
    /// The same as all workers of the node were told last.
    told: BTreeSet<ShardId>,
    /// How often workers had said what they want when this one last looked for what it is to ask for.
    wants: u64,
    look_at: Micros,
}

impl Kept {
    /// Whether something of a shard waits.
    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.leaving.contains(&shard) || self.parked.contains_key(&shard)
    }

    /// Whether nothing waits, and all workers know that.
    fn is_idle(&self) -> bool {
        self.leaving.is_empty() && self.parked.is_empty() && self.told.is_empty()
    }
}

impl<H: Host> Worker<H> {
    /// Removes a replica, at once or as soon as it may go.
    pub(super) fn give_up(&mut self, id: ShardId, upto: Epoch) {
        // A write is under way that gives it other rows, of a snapshot or of its parent's replay. Until that write's end it names none of
        // them, and removed now it would leave them. The end of the write looks at the map again.
        if self.shards.get(&id).is_some_and(Shard::is_installing) {
            return;
        }
        match self.may_remove(id) {
            Custody::Allowed => {
                self.custody.leaving.remove(&id);
                self.remove(id, upto);
            }
            Custody::Waits(wait) => {
                self.custody.wanted.extend(wait.shard());
                if self.custody.leaving.insert(id) {
                    tracing::info!(shard = id.0, "the replica of shard {id} stays for now: {wait}");
                }
            }
        }
    }

    /// A snapshot was received that may not take the replica's place yet.
    pub(super) fn park(&mut self, header: Header, wait: &Wait) {
        let id = header.shard;
        if self.custody.parked.insert(id, header).is_none() {
            tracing::info!(shard = id.0, "a snapshot of shard {id} waits: {wait}");
            self.custody.look_at = self.node.now;
        }
    }

    /// Looks again at what waits, and asks for what this worker or another one waits for.
    pub(super) fn keep_custody(&mut self) {
        self.look_at_kept();
        // The shard that a replica waits for may be another worker's: that one asks for it.
        let wants = self.node.shared.roster.wants();
        if self.custody.wants != wants {
            self.custody.wants = wants;
            self.join_groups();
        }
    }

    fn look_at_kept(&mut self) {
        let now = self.node.now;
        if self.custody.is_idle() || self.custody.look_at > now {
            return;
        }
        self.custody.look_at = now.plus(LOOK_US);
        self.custody.wanted.clear();
        for id in self.custody.leaving.clone() {
            match self.ended(id).filter(|_| self.shards.contains_key(&id)) {
                Some(upto) => self.give_up(id, upto),
                None => drop(self.custody.leaving.remove(&id)),
            }
        }
        for (id, header) in self.custody.parked.clone() {
            match self.may_replace(&header) {
                Custody::Waits(wait) if self.shards.contains_key(&id) => self.custody.wanted.extend(wait.shard()),
                _ => {
                    self.custody.parked.remove(&id);
                    self.snapshot_fetched(header);
                }
            }
        }
        if self.custody.told != self.custody.wanted {
            self.custody.told = self.custody.wanted.clone();
            self.node.shared.roster.want(self.node.worker, &self.custody.told);
        }
    }

    /// When something is to be looked at.
    pub(super) fn custody_due(&self) -> Option<Micros> {
        (!self.custody.is_idle()).then_some(self.custody.look_at)
    }

    /// Whether a child of this node's in its first epoch, which is not here, is to begin here with a snapshot: its parent is not here, or
    /// began here with a snapshot of after the split, and cannot make it; or waits itself, on whatever worker, until the child is here.
    pub(super) fn lacks_child(&self, descriptor: &Descriptor) -> bool {
        let Birth::Child { parent, version } = descriptor.born else { return false };
        let (id, roster) = (descriptor.shard, &self.node.shared.roster);
        let makes = match roster.look(parent) {
            Here::Absent => false,
            Here::Unheld => true,
            // A parent that has applied the split here has begun the child before its own new bounds are flushed.
            Here::Held(held) => held < version,
        };
        !makes || self.custody.wanted.contains(&id) || roster.is_wanted(id)
    }

    /// Whether a replica may be removed.
    fn may_remove(&self, id: ShardId) -> Custody {
        let (Some(shard), Some(map)) = (self.shards.get(&id), &self.map) else { return Custody::Allowed };
        let Descriptor { table, from, to, .. } = shard.state().descriptor().clone();
        let dropped = map.vanished(id) && !map.tables.contains_key(&table);
        if planted!(NoCustody) || dropped {
            return Custody::Allowed;
        }
        if let Some(wait) = self.needed_by(id) {
            return Custody::Waits(wait);
        }
        // Once that merge is over here, by the log or by a snapshot of after it, the rule says the rest.
        let is_over = |frozen: &Frozen| {
            let target = self.shards.get(&frozen.target).filter(|shard| !shard.is_missing());
            target.is_some_and(|target| target.state().has_ended(frozen.seq))
        };
        let frozen_for = shard.freeze().filter(|frozen| !is_over(frozen)).map(|frozen| frozen.target);
        let given = GivenUp { shard: id, table, from, to, how: How::Removal { frozen_for } };
        self.judge(map, &given, &[])
    }

    /// Whether a snapshot may take the place of the replica that is here, if there is one.
    pub(super) fn may_replace(&self, header: &Header) -> Custody {
        let Some(shard) = self.shards.get(&header.shard) else { return Custody::Allowed };
        // Without such a row it has the bounds that the shard began with.
        let (Some(row), false) = (&header.bounds, planted!(NoCustody)) else { return Custody::Allowed };
        if let Some(wait) = self.needed_by(header.shard) {
            return Custody::Waits(wait);
        }
        let Descriptor { table, from, to, version, .. } = shard.state().descriptor().clone();
        let ends_within = row.to.is_empty() || (!to.is_empty() && to <= row.to);
        if row.from <= from && ends_within {
            return Custody::Allowed;
        }
        let Some(map) = &self.map else { return Custody::Waits(Wait::Map { position: from }) };
        let me = self.node.me;
        let owner = |mark: &ChildMark| Owner {
            shard: mark.shard,
            from: mark.from.clone(),
            to: mark.to.clone(),
            version: mark.version,
            lists: mark.voters.contains(&me),
        };
        let children: Vec<Owner> = row.children.iter().map(owner).collect();
        // What a state that is gone had come to is not known.
        let version = if shard.is_missing() { 0 } else { version };
        let how = How::Snapshot { version, from: row.from.clone(), to: row.to.clone() };
        self.judge(map, &GivenUp { shard: header.shard, table, from, to, how }, &children)
    }

    fn judge(&self, map: &SystemState, given: &GivenUp, children: &[Owner]) -> Custody {
        may_give_up(given, self.node.me, map, children, |shard| self.node.shared.roster.look(shard))
    }

    /// What a replica's log is needed for: a child that began here and whose first rows are not flushed. One that waits for its state
    /// is told by the rule: its parent must have it, or have nothing of it.
    fn needed_by(&self, id: ShardId) -> Option<Wait> {
        let unheld = |child: &&Shard| {
            let here = self.node.shared.roster.look(child.id());
            child.parent() == Some(id) && here == Here::Unheld && !child.is_missing()
        };
        let begins = self.creating.values().find(|creating| creating.is_child_of(id));
        let begins = begins.and_then(|creating| creating.genesis.descriptor());
        let here = || self.shards.values().find(unheld).map(|child| child.state().descriptor());
        let Descriptor { shard, version, .. } = begins.or_else(here)?;
        Some(Wait::Held { shard: *shard, version: *version })
    }
}
