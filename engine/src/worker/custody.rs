//! What this node gives up of its replicas, and when.
//!
//! Owns: what waits: replicas that are to be removed, snapshots that are to take a replica's place, and what splits made for children
//! that snapshots begin. Must never: let rows or a log go of which the newest owner known here is to be on this node and is not yet on its
//! disk.
//!
//! The rule is in `synod_cluster::custody`. Two things more are known here. A child that began here needs the log of its parent until its
//! own first rows are flushed. And where a split is applied while a snapshot begins the child, on this worker or another one, the base
//! that the split made is spare, but only once that replica is held. Until then it stays, with its parent's replica, and until that
//! replica is in the log with the parent's log from the split on: a start that finds the base and no group begins the child by both.

use super::Worker;
use crate::codec::bounds::{ChildMark, Frozen};
use crate::codec::keys::Bounds;
use crate::host::Host;
use crate::node::Roster;
use crate::shard::Shard;
use crate::snapshot::Header;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::custody::{Custody, GivenUp, Here, How, Owner, Wait, may_give_up};
use synod_cluster::ids::{ShardId, Slot};
use synod_cluster::system::{Birth, Descriptor, SystemState};
use synod_paxos::types::{Epoch, Micros};

/// Interval between looks at what waits, µs.
const LOOK_US: u64 = 100_000;

/// What a split made for a child whose replica here is another one and is not held yet.
pub(super) struct Spare {
    pub(super) parent: ShardId,
    /// Where in the parent's log the split is.
    pub(super) slot: Slot,
    pub(super) child: Descriptor,
    /// Goes once the child is held.
    pub(super) rows: Vec<Bounds>,
}

/// What waits.
#[derive(Default)]
pub(super) struct Kept {
    /// Replicas that are to be removed.
    leaving: BTreeSet<ShardId>,
    /// Snapshots that were received; their files are kept.
    parked: BTreeMap<ShardId, Header>,
    /// By child.
    spare: BTreeMap<ShardId, Spare>,
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
        self.leaving.is_empty() && self.parked.is_empty() && self.spare.is_empty() && self.told.is_empty()
    }

    /// What a split of this shard made that is kept for now.
    pub(super) fn spare_of(&self, parent: ShardId) -> Option<&Spare> {
        self.spare.values().find(|spare| spare.parent == parent)
    }

    /// The last slots of a shard's log that may go while children of it are not in the log.
    pub(super) fn log_needed<'a>(&'a self, parent: ShardId, roster: &'a Roster) -> impl Iterator<Item = Slot> + 'a {
        let beginning = move |spare: &&Spare| spare.parent == parent && roster.is_beginning(spare.child.shard);
        self.spare.values().filter(beginning).map(|spare| Slot(spare.slot.0.saturating_sub(1)))
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

    /// What a split made stays, with the log that says so.
    pub(super) fn keep_spare(&mut self, spare: Spare) {
        let (id, parent) = (spare.child.shard, spare.parent);
        tracing::info!(
            shard = id.0,
            "what the split made of shard {id} stays until the replica that a snapshot begins is on disk"
        );
        self.custody.spare.insert(id, spare);
        self.custody.look_at = self.node.now;
        self.hold_log(parent);
    }

    /// What splits made goes where the child is held by now, or is here no more.
    fn look_at_spare(&mut self) {
        let unheld = |id: &ShardId| self.node.shared.roster.look(*id) == Here::Unheld;
        let gone = self.custody.spare.extract_if(.., |id, _| !unheld(id)).map(|(_, spare)| spare);
        let gone: Vec<Spare> = gone.collect();
        for spare in gone {
            self.remove_rows(&spare.rows);
            self.hold_log(spare.parent);
        }
        // Those of the others that are in the log by now need that of their parents no longer.
        let parents: BTreeSet<ShardId> = self.custody.spare.values().map(|spare| spare.parent).collect();
        for parent in parents {
            self.hold_log(parent);
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
        self.look_at_spare();
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

    /// What a replica's log is needed for: a child that began here and whose first rows are not flushed, or one that a snapshot begins
    /// beside the base that a split made. One that waits for its state is told by the rule: its parent must have it, or have nothing of
    /// it.
    fn needed_by(&self, id: ShardId) -> Option<Wait> {
        let unheld = |child: &&Shard| {
            let here = self.node.shared.roster.look(child.id());
            child.parent() == Some(id) && here == Here::Unheld && !child.is_missing()
        };
        let begins = self.creating.values().find(|creating| creating.is_child_of(id));
        let begins = begins.and_then(|creating| creating.genesis.descriptor());
        let here = || self.shards.values().find(unheld).map(|child| child.state().descriptor());
        let spare = || self.custody.spare_of(id).map(|spare| &spare.child);
        let Descriptor { shard, version, .. } = begins.or_else(here).or_else(spare)?;
        Some(Wait::Held { shard: *shard, version: *version })
    }
}
