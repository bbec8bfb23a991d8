//! Splits and merges, as the map hears of them.
//!
//! Owns: the ids that are reserved for children, and what a report of a shard's bounds changes. Must never: let a revision show a hole
//! where there was none, let the version of a position fall, bring back a shard that is gone, or write anything of splits below the
//! cluster version that knows them.
//!
//! Bounds are facts that a replica has applied, so any replica may tell them, as often as it likes. Who tells them twice, late or in
//! another order changes nothing that was not so before.

use super::codec::encode_descriptor;
use super::jobs::CLUSTER_VERSION;
use super::lineage::{Child, Reserved, ShardNews};
use super::split_rows::encode_reserved;
use super::{Birth, Descriptor, Partitioning, ROW_RESERVED, ROW_SHARD, RowChange, SystemOutcome, SystemState};
use crate::ids::{ClusterVersion, SYSTEM_SHARD, ShardId};
use crate::jobs::split;
use crate::position::{KEY_BYTES_MAX, below};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A bound of a hash table's shard, bytes.
const HASH_BYTES: usize = 8;

fn invalid(field: &str, why: impl Into<String>) -> SystemOutcome {
    SystemOutcome::Invalid { field: field.into(), why: why.into() }
}

impl SystemState {
    /// Whether the map knows that this shard is gone: its table was dropped, or it went into another shard. A map from before the
    /// shard's creation does not know that, and neither does one that has its id reserved: the child of a split may exist before the
    /// map hears of it.
    #[must_use]
    pub fn vanished(&self, id: ShardId) -> bool {
        let reserved = self.reserved.contains_key(&id) && !planted!(VanishIgnoresReserved);
        let known = self.shards.contains_key(&id) || reserved;
        id != SYSTEM_SHARD && id.0 < self.next_shard && !known
    }

    /// Whether each id that is reserved was given, and is not in use yet.
    #[must_use]
    pub fn reservations_are_sound(&self) -> bool {
        self.reserved.keys().all(|id| id.0 < self.next_shard && !self.shards.contains_key(id))
    }

    /// Gives an id for the child of a split: the same until it is used, since whoever asked for it may have died.
    pub(super) fn reserve_child(&mut self, parent: ShardId, version: u64, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_splits() {
            return refused;
        }
        if parent == SYSTEM_SHARD {
            return invalid("parent", "the system shard is never split");
        }
        let Some(descriptor) = self.shards.get(&parent) else {
            return invalid("parent", format!("there is no shard {parent}"));
        };
        let known = descriptor.version;
        if known != version {
            let why = format!("shard {parent} is at version {known}, the split was computed from version {version}");
            return invalid("version", why);
        }
        let reserved = Reserved { parent, version };
        let unused = self.reserved.iter().find(|(_, r)| r.parent == parent).map(|(id, r)| (*id, *r));
        let id = match unused {
            Some((id, before)) if before == reserved => return SystemOutcome::Shard(id),
            Some((id, _)) => id,
            None => {
                let id = ShardId(self.next_shard);
                self.next_shard += 1;
                id
            }
        };
        rows.push((ROW_RESERVED, id.0, Some(encode_reserved(reserved))));
        self.reserved.insert(id, reserved);
        SystemOutcome::Shard(id)
    }

    /// Takes a report of bounds: first the children, then the bounds, then what went into the shard. All of it is one revision, so
    /// none shows a hole.
    pub(super) fn shard_news(&mut self, news: &ShardNews, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_splits().and_then(|()| self.check_news(news)) {
            return refused;
        }
        // Its table was dropped, or it went into another shard.
        if !self.shards.contains_key(&news.shard) && !self.reserved.contains_key(&news.shard) {
            return SystemOutcome::Done;
        }
        let (mut shards, mut reserved) = (BTreeSet::new(), BTreeSet::new());
        for child in &news.children {
            if let Some(descriptor) = self.born(child) {
                self.reserved.remove(&child.shard);
                self.shards.insert(child.shard, descriptor);
                reserved.insert(child.shard);
                shards.insert(child.shard);
            }
        }
        if let Some(known) = self.shards.get(&news.shard).map(|descriptor| descriptor.version)
            && (news.version > known || planted!(MapTakesOlder))
        {
            self.shards.change(&news.shard, |descriptor| {
                (descriptor.from, descriptor.to) = (news.from.clone(), news.to.clone());
                descriptor.version = news.version;
            });
            shards.insert(news.shard);
        }
        // Only together with the bounds of the shard that has their range now.
        if self.shards.contains_key(&news.shard) || planted!(MapTakesHalf) {
            for gone in &news.absorbed {
                if self.shards.remove(gone).is_some() {
                    shards.insert(*gone);
                }
                let theirs = |(id, r): &(&ShardId, &Reserved)| *id == gone || r.parent == *gone;
                reserved.extend(self.reserved.iter().filter(theirs).map(|(id, _)| *id));
                self.reserved.retain(|id, r| id != gone && r.parent != *gone);
            }
        }
        rows.extend(shards.into_iter().map(|id| (ROW_SHARD, id.0, self.shards.get(&id).map(encode_descriptor))));
        // A reservation only goes here.
        rows.extend(reserved.into_iter().map(|id| (ROW_RESERVED, id.0, None)));
        SystemOutcome::Done
    }

    /// The descriptor of a child that the map does not know yet; `None` where its id is not reserved: it is known, or gone.
    fn born(&self, child: &Child) -> Option<Descriptor> {
        let Reserved { parent, .. } = *self.reserved.get(&child.shard)?;
        let Descriptor { table, partitioning, retention, .. } = *self.shards.get(&parent)?;
        Some(Descriptor {
            shard: child.shard,
            table,
            partitioning,
            retention,
            from: child.from.clone(),
            to: child.to.clone(),
            version: child.version,
            membership: child.membership.clone(),
            born: Birth::Child { parent, version: child.version },
        })
    }

    /// What the map says of a split; what the shard's leader says is not in it.
    #[must_use]
    pub fn look_at_split(&self, goal: split::Goal<'_>) -> split::Seen {
        let split::Goal { shard, version, at } = goal;
        let Some(descriptor) = self.shards.get(&shard) else { return split::Seen::default() };
        let (from, to) = (descriptor.from.clone(), descriptor.to.clone());
        let born = Birth::Child { parent: shard, version: version.saturating_add(1) };
        let made = match at {
            Some(at) => self.shards.beginning_at(descriptor.table, at),
            None => self.shards.of_table(descriptor.table).find(|d| d.born == born),
        };
        let reserved = self.reserved.iter().find(|(_, reserved)| reserved.parent == shard);
        split::Seen {
            mapped: Some(split::Bounds { from, to, version: descriptor.version }),
            made: made.map(|d| d.shard),
            reserved: reserved.map(|(id, reserved)| split::Unused { id: *id, version: reserved.version }),
            leader: None,
        }
    }

    /// Refuses a split that makes no sense by the bounds that are known.
    pub(super) fn check_split(&self, shard: ShardId, version: u64, at: Option<&Bytes>) -> Result<(), SystemOutcome> {
        if shard == SYSTEM_SHARD {
            return Err(invalid("shard", "the system shard is never split"));
        }
        let Some(descriptor) = self.shards.get(&shard) else {
            return Err(invalid("shard", format!("there is no shard {shard}")));
        };
        let known = descriptor.version;
        if known != version {
            let why = format!("shard {shard} is at version {known}, the split was asked for at version {version}");
            return Err(invalid("version", why));
        }
        let Some(at) = at else { return Ok(()) };
        let fits = match descriptor.partitioning {
            Partitioning::Range => at.len() <= KEY_BYTES_MAX,
            Partitioning::Hash => at.len() == HASH_BYTES,
        };
        if !fits {
            let why = format!(
                "a split point is a key of up to {KEY_BYTES_MAX} bytes, on a hash table a hash of {HASH_BYTES} bytes; this one has {}",
                at.len()
            );
            return Err(invalid("at", why));
        }
        if !descriptor.partitioning.divides(at, &descriptor.from, &descriptor.to) {
            let why = format!("it does not lie within shard {shard}, or the shard begins there");
            return Err(invalid("at", why));
        }
        Ok(())
    }

    /// The reservations of these shards go with them.
    pub(super) fn drop_reservations_of(&mut self, parents: &[ShardId], rows: &mut Vec<RowChange>) {
        let gone: BTreeSet<&ShardId> = parents.iter().collect();
        self.reserved.retain(|id, reserved| {
            let stays = !gone.contains(&reserved.parent);
            if !stays {
                rows.push((ROW_RESERVED, id.0, None));
            }
            stays
        });
    }

    pub(super) fn knows_splits(&self) -> Result<(), SystemOutcome> {
        let (version, needed) = (self.version, ClusterVersion::FOURTH);
        if version >= needed {
            return Ok(());
        }
        let why =
            format!("the cluster is at version {version}, splits need {needed}: `synod cluster upgrade` raises it");
        Err(invalid(CLUSTER_VERSION, why))
    }

    /// Refuses what no replica has applied; what is accepted is everybody's map.
    ///
    /// A child may have a member that is no node of the cluster any longer: it was removed before the map heard of the child. The group
    /// reports its members itself once the child is in the map.
    fn check_news(&self, news: &ShardNews) -> Result<(), SystemOutcome> {
        if news.shard == SYSTEM_SHARD {
            return Err(invalid("shard", "the bounds of the system shard never change"));
        }
        if !below(&news.from, &news.to) {
            return Err(invalid("to", format!("shard {} would end before it begins", news.shard)));
        }
        for Child { shard, from, to, membership, .. } in &news.children {
            // A target of a merge tells of the children of its source, and may be one of them.
            let itself = *shard == news.shard && self.version < ClusterVersion::FIFTH;
            if itself || !below(from, to) || !membership.is_sound() {
                let why = format!(
                    "shard {shard} cannot be a child of shard {}: its bounds or members make no sense",
                    news.shard
                );
                return Err(invalid("children", why));
            }
        }
        if let Some(gone) = news.absorbed.iter().find(|gone| [news.shard, SYSTEM_SHARD].contains(*gone)) {
            return Err(invalid("absorbed", format!("shard {gone} does not go into shard {}", news.shard)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
