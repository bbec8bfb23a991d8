//! Which groups have a replica on this node, or had one, whichever worker has it.
//!
//! Owns: that a group begins here once, and which version of its bounds is flushed. Must never: forget a group that was removed while
//! the process runs, or say that something is held which is not on disk.
//!
//! A split makes the child on the parent's worker. A snapshot of the same child may begin it on another one. So what is here is known
//! to all workers, and so is what is wanted: a replica may wait for a child that another worker is to begin. Nothing of it is on disk: a
//! process begins with what its log names.

use crate::worker_id::WorkerId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use synod_cluster::custody::Here;
use synod_cluster::ids::ShardId;

#[derive(Debug, Default)]
struct Groups {
    /// What is here or is about to begin, each with the version of its bounds that is flushed; 0 where none is.
    here: BTreeMap<ShardId, u64>,
    /// Those of them that are in the log.
    logged: BTreeSet<ShardId>,
    /// What was removed.
    gone: BTreeSet<ShardId>,
    /// What the replicas of each worker wait for before they give something up.
    wanted: BTreeMap<WorkerId, BTreeSet<ShardId>>,
}

/// The groups of a node.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    groups: Mutex<Groups>,
    /// Counts changes of what is wanted.
    wants: AtomicU64,
}

impl Roster {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log names, at a start. Each worker says it, before any of them has a round.
    pub(crate) fn found(&self, here: &[ShardId], gone: impl Iterator<Item = ShardId>) {
        let mut groups = self.groups();
        for shard in here {
            groups.here.entry(*shard).or_insert(0);
            groups.logged.insert(*shard);
        }
        groups.gone.extend(gone);
    }

    /// A replica begins here; `false` where there is one already.
    pub(crate) fn begin(&self, shard: ShardId) -> bool {
        let mut groups = self.groups();
        let new = !groups.here.contains_key(&shard);
        groups.here.entry(shard).or_insert(0);
        new
    }

    /// The first replica of a shard begins here; `false` where there is one or was one. Of two workers only one is told `true`.
    pub(crate) fn begin_first(&self, shard: ShardId) -> bool {
        let mut groups = self.groups();
        let new = !groups.here.contains_key(&shard) && !groups.gone.contains(&shard);
        if new {
            groups.here.insert(shard, 0);
        }
        new
    }

    /// A replica is in the log. This version of its bounds, and all that came before it, is flushed; 0: nothing is.
    pub(crate) fn hold(&self, shard: ShardId, version: u64) {
        let mut groups = self.groups();
        if let Some(held) = groups.here.get_mut(&shard) {
            *held = version;
            groups.logged.insert(shard);
        }
    }

    /// A replica was removed.
    pub(crate) fn bury(&self, shard: ShardId) {
        let mut groups = self.groups();
        groups.here.remove(&shard);
        groups.logged.remove(&shard);
        groups.gone.insert(shard);
    }

    /// What is here of a shard.
    pub(crate) fn look(&self, shard: ShardId) -> Here {
        match self.groups().here.get(&shard) {
            None => Here::Absent,
            Some(0) => Here::Unheld,
            Some(version) => Here::Held(*version),
        }
    }

    /// Whether a replica is here or is about to begin.
    pub(crate) fn is_here(&self, shard: ShardId) -> bool {
        self.groups().here.contains_key(&shard)
    }

    /// Whether a replica is about to begin here and may not be in the log yet.
    pub(crate) fn is_beginning(&self, shard: ShardId) -> bool {
        let groups = self.groups();
        groups.here.contains_key(&shard) && !groups.logged.contains(&shard)
    }

    /// Replicas of a worker wait for these shards to be here, and for no others.
    pub(crate) fn want(&self, worker: WorkerId, shards: &BTreeSet<ShardId>) {
        self.groups().wanted.insert(worker, shards.clone());
        // Who sees the new count sees the shards.
        self.wants.fetch_add(1, Ordering::Release);
    }

    /// How often it was said what is wanted.
    pub(crate) fn wants(&self) -> u64 {
        self.wants.load(Ordering::Acquire)
    }

    /// Whether a replica of any worker waits for a shard to be here.
    pub(crate) fn is_wanted(&self, shard: ShardId) -> bool {
        self.groups().wanted.values().any(|wanted| wanted.contains(&shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_begins_once_and_is_remembered_once_it_is_gone() {
        let (roster, shard) = (Roster::default(), ShardId(9));
        assert_eq!((roster.look(shard), roster.is_here(shard)), (Here::Absent, false));
        roster.hold(shard, 3);
        assert_eq!(roster.look(shard), Here::Absent, "what is not here is not held");
        assert!(roster.begin(shard) && !roster.begin(shard) && !roster.begin_first(shard) && roster.is_here(shard));
        assert_eq!(roster.look(shard), Here::Unheld);
        roster.hold(shard, 3);
        roster.found(&[shard, ShardId(2)], [ShardId(7)].into_iter());
        assert_eq!((roster.look(shard), roster.look(ShardId(2))), (Here::Held(3), Here::Unheld));
        roster.bury(shard);
        assert!(!roster.begin_first(shard) && !roster.begin_first(ShardId(7)), "it was removed");
        assert!(!roster.is_here(shard) && !roster.is_here(ShardId(7)));
        assert!(roster.begin_first(ShardId(8)) && !roster.begin_first(ShardId(8)) && roster.is_here(ShardId(8)));
        assert!(roster.begin(shard), "in a later epoch");
        assert_eq!(roster.look(shard), Here::Unheld);
    }

    #[test]
    fn a_group_is_beginning_until_it_is_in_the_log() {
        let (roster, shard) = (Roster::default(), ShardId(9));
        assert!(!roster.is_beginning(shard));
        roster.begin(shard);
        assert!(roster.is_beginning(shard));
        roster.hold(shard, 0);
        assert_eq!((roster.is_beginning(shard), roster.look(shard)), (false, Here::Unheld));
        roster.bury(shard);
        assert!(!roster.is_beginning(shard));
        roster.begin(shard);
        assert!(roster.is_beginning(shard), "in a later epoch");
        roster.found(&[ShardId(2)], std::iter::empty());
        assert!(!roster.is_beginning(ShardId(2)), "the log names it");
    }

    #[test]
    fn what_one_worker_waits_for_all_workers_know() {
        let (roster, shard) = (Roster::default(), ShardId(9));
        let before = roster.wants();
        assert!(!roster.is_wanted(shard));
        roster.want(WorkerId(1), &[shard].into());
        roster.want(WorkerId(0), &BTreeSet::new());
        assert!(roster.is_wanted(shard) && roster.wants() > before);
        let before = roster.wants();
        roster.want(WorkerId(1), &BTreeSet::new());
        assert!(!roster.is_wanted(shard) && roster.wants() > before);
    }
}
