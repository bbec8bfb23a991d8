//! What nodes give up of shards that were split, seen from outside (`docs/splits.md`, *Custody*).
//!
//! Owns: the check at each snapshot that takes a replica's place and at each replica that goes. Must never: take a node's word for it: what it
//! has is read from its disk, and who is a member from what was chosen.

use crate::violation::{Checked, check};
use crate::world::World;
use synod_cluster::ids::{NodeId, ShardId, Slot};

const CUSTODY: &str = "a node that gives up a range has the newest owner of it on disk, or is not to have it";

impl World {
    /// A node gives up what it has of a shard, but for what is left after the splits up to `slot`. It has each child that lists it, or had
    /// it and gave it up. What was split off before its replica began with a snapshot it never had of this shard.
    pub(crate) fn check_custody(&self, id: NodeId, shard: ShardId, slot: Slot, at: u64) -> Checked {
        let begun = self.begun.get(&(id, shard)).map_or(Slot(0), |begun| *begun);
        self.check_children(id, shard, (begun, slot), at)
    }

    /// Of the children that were made after one slot and up to another. A child that is here with less than it was made with is not enough:
    /// what it has split off since is to be here too.
    fn check_children(&self, id: NodeId, shard: ShardId, (after, upto): (Slot, Slot), at: u64) -> Checked {
        let (node, Some(model)) = (&self.nodes[&id], self.models.get(&shard)) else { return Ok(()) };
        let dropped = self.map.as_ref().is_none_or(|map| !map.tables.contains_key(&model.table()));
        if node.damaged || node.set_back || dropped {
            return Ok(());
        }
        for child in model.children_made(after, upto) {
            let Some(model) = self.models.get(&child) else { continue };
            let began = model.descriptor().is_some_and(|first| first.membership.role_of(id).is_some());
            // What has no effect is seen applied only with what follows it: the map may know of a later epoch.
            let listed = model.members().is_none_or(|members| members.role_of(id).is_some());
            let told = self.map.as_ref().and_then(|map| map.shards.get(&child));
            let listed = listed && told.is_none_or(|d| d.membership.role_of(id).is_some());
            if !began || !listed {
                continue;
            }
            let (had, position) = {
                let mut disk = node.disk.lock();
                disk.settle_flushes(at);
                (disk.had(child), disk.position(child))
            };
            check(had, CUSTODY, || {
                format!("node {id}: shard {shard} at {at} µs, beyond the split that made shard {child}: {told:?}")
            })?;
            if let Some(position) = position {
                self.check_children(id, child, (Slot(0), position), at)?;
            }
        }
        Ok(())
    }
}
