//! The shards of the map, by id, by place and by node.
//!
//! Owns: the descriptors and the indexes over them. Must never: let an index differ from the descriptors, or copy all of them for one
//! change.

use super::Descriptor;
use super::chunks::Chunks;
use crate::ids::{NodeId, ShardId, TableId};
use bytes::Bytes;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A shard's table and lower bound. Two shards have the same only for a moment, while a report of bounds is taken.
type Place = (TableId, Bytes, ShardId);

/// The shards. A clone costs a few pointers and shares the descriptors.
#[derive(Clone, Default)]
pub struct Shards {
    by_id: Chunks<ShardId, Arc<Descriptor>>,
    by_place: Chunks<Place, ()>,
    by_node: Chunks<(NodeId, ShardId), ()>,
    digest: u64,
}

impl Shards {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard of this id.
    #[must_use]
    pub fn get(&self, id: &ShardId) -> Option<&Descriptor> {
        self.by_id.get(id).map(|descriptor| &**descriptor)
    }

    /// Whether there is a shard of this id.
    #[must_use]
    pub fn contains_key(&self, id: &ShardId) -> bool {
        self.by_id.get(id).is_some()
    }

    /// Puts a shard in; returns the one that had its id.
    pub fn insert(&mut self, id: ShardId, descriptor: Descriptor) -> Option<Arc<Descriptor>> {
        self.share(id, Arc::new(descriptor))
    }

    /// As [`Self::insert`], of a descriptor that others share.
    pub fn share(&mut self, id: ShardId, descriptor: Arc<Descriptor>) -> Option<Arc<Descriptor>> {
        let before = self.remove(&id);
        self.by_place.insert(place(id, &descriptor), ());
        for member in &descriptor.membership.members {
            self.by_node.insert((member.node, id), ());
        }
        self.digest = self.digest.wrapping_add(weight(id, &descriptor));
        self.by_id.insert(id, descriptor);
        before
    }

    /// Takes a shard out.
    pub fn remove(&mut self, id: &ShardId) -> Option<Arc<Descriptor>> {
        let descriptor = self.by_id.remove(id)?;
        self.by_place.remove(&place(*id, &descriptor));
        for member in &descriptor.membership.members {
            self.by_node.remove(&(member.node, *id));
        }
        self.digest = self.digest.wrapping_sub(weight(*id, &descriptor));
        Some(descriptor)
    }

    /// Changes a shard; `None` where there is none of this id.
    pub fn change<R>(&mut self, id: &ShardId, change: impl FnOnce(&mut Descriptor) -> R) -> Option<R> {
        let mut descriptor = Descriptor::clone(self.by_id.get(id)?);
        let result = change(&mut descriptor);
        self.insert(*id, descriptor);
        Some(result)
    }

    /// Takes out the shards of which `stays` does not hold.
    pub fn retain(&mut self, mut stays: impl FnMut(&ShardId, &Descriptor) -> bool) {
        let gone: Vec<ShardId> = self.iter().filter(|(id, d)| !stays(id, d)).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(&id);
        }
    }

    /// All shards, by id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&ShardId, &Descriptor)> + Clone {
        self.by_id.iter().map(|(id, descriptor)| (id, &**descriptor))
    }

    /// All ids, rising.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &ShardId> + Clone {
        self.iter().map(|(id, _)| id)
    }

    /// All descriptors, by id.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Descriptor> + Clone {
        self.iter().map(|(_, descriptor)| descriptor)
    }

    /// The descriptors from an id on, by id.
    pub fn starting_at(&self, id: ShardId) -> impl Iterator<Item = &Descriptor> + Clone {
        self.by_id.starting_at(&id).map(|(_, descriptor)| &**descriptor)
    }

    /// The shards of a table, by lower bound.
    pub fn of_table(&self, table: TableId) -> impl Iterator<Item = &Descriptor> + Clone {
        let places = self.by_place.starting_at(&(table, Bytes::new(), ShardId(0)));
        let places = places.take_while(move |((of, _, _), ())| *of == table);
        places.filter_map(move |((_, _, id), ())| self.get(id))
    }

    /// The shard of a table that begins here.
    #[must_use]
    pub fn beginning_at(&self, table: TableId, from: &Bytes) -> Option<&Descriptor> {
        let ((of, at, id), ()) = self.by_place.starting_at(&(table, from.clone(), ShardId(0))).next()?;
        if *of == table && at == from { self.get(id) } else { None }
    }

    /// The shards that a node is a member of, by id.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Descriptor> + Clone {
        let held = self.by_node.starting_at(&(node, ShardId(0)));
        held.take_while(move |((of, _), ())| *of == node).filter_map(move |((_, id), ())| self.get(id))
    }

    /// What older shards have to be told to become these, by id: `None` where one is gone. Takes time in proportion to the change,
    /// where one is a changed clone of the other.
    pub fn since<'a>(
        &'a self,
        older: &'a Self,
    ) -> impl Iterator<Item = (ShardId, Option<&'a Arc<Descriptor>>)> + use<'a> {
        self.by_id.since(&older.by_id).into_iter().map(|(id, descriptor)| (*id, descriptor))
    }

    /// A sum over ids, versions and epochs. It tells the shards of one revision from those of the same revision of a cluster that was
    /// set back since. No protection against damage or malice.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

fn place(id: ShardId, descriptor: &Descriptor) -> Place {
    (descriptor.table, descriptor.from.clone(), id)
}

/// What a shard adds to the digest: the finalizer of `SplitMix64` over its numbers.
fn weight(id: ShardId, descriptor: &Descriptor) -> u64 {
    [id.0, descriptor.version, descriptor.membership.epoch.0].into_iter().fold(0x9e37_79b9_7f4a_7c15, |sum, number| {
        let mut x = sum ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

impl PartialEq for Shards {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.digest == other.digest && self.iter().eq(other.iter())
    }
}

impl Eq for Shards {}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Index<&ShardId> for Shards {
    type Output = Descriptor;

    /// # Panics
    /// There is no shard of this id.
    fn index(&self, id: &ShardId) -> &Descriptor {
        self.get(id).expect("no shard has this id")
    }
}

impl FromIterator<(ShardId, Descriptor)> for Shards {
    fn from_iter<I: IntoIterator<Item = (ShardId, Descriptor)>>(shards: I) -> Self {
        let mut all = Self::default();
        for (id, descriptor) in shards {
            all.insert(id, descriptor);
        }
        all
    }
}

#[cfg(test)]
mod tests;
