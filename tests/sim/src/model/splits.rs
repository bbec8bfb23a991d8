//! Splits, as the committed log of the parent says them.
//!
//! Owns: whether a split counts, in a few lines of its own, and what the child begins with. Must never: ask the production state machine
//! about either. The bytes of the entry are read by production code: there is one format.

use super::ShardModel;
use crate::violation::{Checked, Violation, check};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_cluster::ids::{Entry, SYSTEM_SHARD, ShardId, Slot, TableId};
use synod_cluster::position::{KEY_BYTES_MAX, below, within};
use synod_cluster::system::{Birth, Descriptor, Partitioning};
use synod_engine::command::{Admin, Split, decode_admin};
use synod_paxos::types::{Ballot, Epoch, Member, MemberRole, Membership};

/// A shard of whose children the map may not know so many is not split: the production's own number.
const CHILDREN_MAX: usize = 16;
/// No shard has such an id: spaces from here on are those of snapshots.
const IDS_END: u64 = 1 << 31;

/// What a shard has of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) version: u64,
    pub(crate) from: Bytes,
    pub(crate) to: Bytes,
}

impl Extent {
    pub(crate) fn of(descriptor: &Descriptor) -> Self {
        Self { version: descriptor.version, from: descriptor.from.clone(), to: descriptor.to.clone() }
    }
}

impl ShardModel {
    pub(crate) fn id(&self) -> ShardId {
        self.shard
    }

    /// The shard, with the bounds after the last entry; `None` for the system shard.
    pub(crate) fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    /// The table; 0 for the system shard.
    pub(crate) fn table(&self) -> TableId {
        self.descriptor.as_ref().map_or(TableId(0), |descriptor| descriptor.table)
    }

    /// Whether a split made it.
    pub(crate) fn is_child(&self) -> bool {
        self.parent().is_some()
    }

    /// The shard that it was split off from, where it was.
    pub(crate) fn parent(&self) -> Option<ShardId> {
        match self.descriptor.as_ref()?.born {
            Birth::Child { parent, .. } => Some(parent),
            Birth::Founded => None,
        }
    }

    /// Whether a split made it or changed it.
    pub(crate) fn was_split(&self) -> bool {
        self.is_child() || !self.children.is_empty()
    }

    /// The children that splits of this shard have made.
    pub(crate) fn children(&self) -> &[ShardId] {
        &self.children
    }

    /// Those of them that were made after one slot and up to another.
    pub(crate) fn children_made(&self, after: Slot, upto: Slot) -> impl Iterator<Item = ShardId> {
        // Each split has changed the bounds once.
        let made = self.extents.iter().skip(1).map(|(slot, _)| *slot);
        let all = self.children.iter().copied().zip(made);
        all.filter(move |(_, made)| after < *made && *made <= upto).map(|(child, _)| child)
    }

    /// Whether a key is this shard's, after the last entry.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.descriptor.as_ref().is_some_and(|descriptor| descriptor.contains(key))
    }

    /// Whether a key was this shard's when it began.
    pub(crate) fn began_with(&self, key: &[u8]) -> bool {
        let (Some(now), Some((_, first))) = (&self.descriptor, self.extents.first()) else { return false };
        within(&now.partitioning.position(key), &first.from, &first.to)
    }

    /// What it had after `slot`.
    pub(crate) fn extent_at(&self, slot: Slot) -> Option<&Extent> {
        self.extents.iter().rev().find(|(since, _)| *since <= slot).map(|(_, extent)| extent)
    }

    /// What it had at a version of its bounds, where it had that.
    pub(crate) fn extent_of(&self, version: u64) -> Option<&Extent> {
        self.extents.iter().map(|(_, extent)| extent).find(|extent| extent.version == version)
    }

    /// An administrative entry.
    pub(super) fn administer(&mut self, entry: &Entry, data: Bytes) -> Checked {
        let (shard, slot) = (self.shard, entry.id.slot);
        let admin = decode_admin(data)
            .map_err(|e| Violation::new("entries can be read", format!("shard {shard} slot {slot}: {e}")))?;
        let Admin::Split(split) = admin else {
            return Err(Violation::new("no shard is merged", format!("shard {shard} slot {slot}: {admin:?}")));
        };
        if !self.counts_here(&split, entry.id.origin) {
            self.counts.splits_refused += 1;
            return Ok(());
        }
        let voters = self.members.as_ref().map(|members| members.voters().collect::<Vec<_>>());
        check(
            voters.as_ref().is_none_or(|voters| *voters == split.voters),
            "a split names the voters of its epoch",
            || format!("shard {shard} slot {slot}: {split:?}, voters are {voters:?}"),
        )?;
        self.counts.splits += 1;
        self.last_command = slot;
        self.split(split, entry);
        Ok(())
    }

    /// The rule: all of it depends on the log alone.
    fn counts_here(&self, split: &Split, origin: Ballot) -> bool {
        let Some(Descriptor { partitioning, from, to, version, .. }) = &self.descriptor else { return false };
        let (at, child) = (&split.at, split.child);
        let is_position = match partitioning {
            Partitioning::Range => !at.is_empty() && at.len() <= KEY_BYTES_MAX,
            Partitioning::Hash => at.len() == 8 && at.iter().any(|byte| *byte != 0),
        };
        let divides = is_position && at > from && below(at, to);
        let votes = split.voters.windows(2).all(|two| two[0] < two[1]) && split.voters.contains(&origin.node);
        let used = child == self.shard || self.unconfirmed.contains(&child) || split.confirmed.contains(&child);
        let is_new = child > SYSTEM_SHARD && child.0 < IDS_END && !used;
        let waiting = self.unconfirmed.iter().filter(|child| !split.confirmed.contains(child)).count();
        let same = split.version == *version && split.epoch == origin.epoch;
        same && divides && votes && is_new && waiting < CHILDREN_MAX
    }

    /// The child begins as a copy of what the parent has of its range, and of all sessions.
    fn split(&mut self, split: Split, entry: &Entry) {
        let Split { child, at, voters, confirmed, .. } = split;
        let Some(descriptor) = &mut self.descriptor else { return };
        self.last_ts = self.last_ts.max(entry.ts);
        let version = descriptor.version + 1;
        let to = std::mem::replace(&mut descriptor.to, at.clone());
        descriptor.version = version;
        self.extents.push((entry.id.slot, Extent::of(descriptor)));
        self.unconfirmed.retain(|known| !confirmed.contains(known));
        self.unconfirmed.push(child);
        self.children.push(child);
        let members = voters.into_iter().map(|node| Member { node, role: MemberRole::Voter }).collect();
        let membership = Membership { epoch: Epoch(1), members, first_leader: entry.id.origin.node };
        let born = Birth::Child { parent: self.shard, version };
        let own = Descriptor {
            shard: child,
            from: at,
            to,
            version,
            membership: membership.clone(),
            born,
            ..descriptor.clone()
        };
        let moved: Vec<Bytes> = self.keys.keys().filter(|key| own.contains(key)).cloned().collect();
        let mut model = Self::new(child, membership, Some(own));
        for name in moved {
            let Some(key) = self.keys.remove(&name) else { continue };
            let hash = key.hash(&name);
            self.hash ^= hash;
            model.hash ^= hash;
            model.keys.insert(name, key);
        }
        model.hashes = vec![model.hash];
        model.last_ts = self.last_ts;
        // What was executed before the child's log begins was executed in no slot of it.
        model.executed = self.executed.iter().map(|(name, (_, done))| (*name, (Slot(0), done.clone()))).collect();
        model.forgotten = self.forgotten.keys().map(|client| (*client, Slot(0))).collect();
        (model.floors, model.deadlines) = (self.floors.clone(), self.deadlines.clone());
        (model.expired, model.failed) = (self.expired.clone(), self.failed.clone());
        self.born.push(model);
    }
}

/// Which shard executed what one that was asked tells of a key: itself, or the nearest of those before it that began with the key. A child
/// has the outcomes of its parent, also those of batches of which it has only some of the keys.
pub(crate) fn executor<'a>(
    models: &'a BTreeMap<ShardId, ShardModel>,
    asked: &'a ShardModel,
    key: &[u8],
) -> &'a ShardModel {
    let mut model = asked;
    while !model.began_with(key)
        && let Some(parent) = model.parent().and_then(|parent| models.get(&parent))
    {
        model = parent;
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::{ClientId, ClientSeq, EntryId, NodeId};
    use synod_cluster::system::Retention;
    use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteId, WriteRequest};
    use synod_engine::command::{encode_admin, encode_requests};
    use synod_paxos::types::Payload;

    const PARENT: ShardId = ShardId(2);
    const CHILD: ShardId = ShardId(9);
    const CLIENT: ClientId = ClientId(5);

    fn members() -> Membership {
        let members = (1..=3).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        Membership { epoch: Epoch(1), members, first_leader: NodeId(1) }
    }

    fn parent() -> ShardModel {
        let descriptor = Descriptor {
            shard: PARENT,
            table: TableId(1),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            from: Bytes::new(),
            to: Bytes::new(),
            version: 1,
            membership: members(),
            born: Birth::Founded,
        };
        ShardModel::new(PARENT, members(), Some(descriptor))
    }

    fn apply(model: &mut ShardModel, data: Bytes) {
        let slot = model.last().next();
        let origin = Ballot::first(Epoch(1), NodeId(1));
        let entry = Entry::new(EntryId { slot, origin }, 100 * slot.0, 0, Payload::Command(data));
        assert!(model.applied(NodeId(1), &entry).is_ok(), "slot {slot}");
    }

    fn write(seq: u64, key: &'static [u8]) -> Bytes {
        let record = NewRecord { headers: Vec::new(), value: Bytes::from_static(b"v") };
        let op = KeyOp { key: key.into(), expect: Expect::Any, action: Action::Append(vec![record]) };
        let id = WriteId { client: CLIENT, seq: ClientSeq(seq), floor: ClientSeq(0), deadline_us: u64::MAX };
        let request = WriteRequest { id, op: Op::Write { table: TableId(1), ops: vec![op] } };
        encode_requests([request].iter(), 0)
    }

    fn split(version: u64) -> Split {
        let voters = (1..=3).map(NodeId).collect();
        Split { child: CHILD, at: Bytes::from_static(b"m"), version, epoch: Epoch(1), voters, confirmed: Vec::new() }
    }

    #[test]
    fn a_child_has_its_range_and_all_sessions_and_the_parent_the_rest() {
        let mut model = parent();
        apply(&mut model, write(1, b"a"));
        apply(&mut model, write(2, b"x"));
        let whole = model.hash;
        apply(&mut model, encode_admin(&Admin::Split(split(1))));
        let mut child = model.born.pop().expect("it counts");
        assert_eq!((child.id(), child.hash ^ model.hash, child.hash_at(Slot(0))), (CHILD, whole, Some(child.hash)));
        assert!(child.is_child() && child.has(b"x") && !child.has(b"a") && !model.has(b"x") && child.began_with(b"m"));
        assert_eq!(model.children_made(Slot(0), Slot(2)).count(), 0);
        assert_eq!(model.children_made(Slot(3), Slot(9)).count(), 0);
        assert_eq!(model.children_made(Slot(2), Slot(3)).collect::<Vec<_>>(), [CHILD]);
        assert_eq!(model.extent_at(Slot(2)).map(|extent| extent.version), Some(1));
        assert_eq!(model.extent_of(2).map(|extent| extent.to.clone()), Some(Bytes::from_static(b"m")));
        // Met again at the child, it has no effect; what came to the parent too late has none there.
        let before = child.hash;
        apply(&mut child, write(2, b"x"));
        assert_eq!((child.hash, child.counts.repeated), (before, 1));
        apply(&mut model, write(3, b"y"));
        assert_eq!((model.counts.elsewhere, model.executed.len()), (1, 2));
        apply(&mut child, write(3, b"y"));
        assert_eq!(child.counts.executed, 1);
    }

    #[test]
    fn what_a_child_tells_of_a_key_that_it_never_had_its_parent_executed() {
        let mut model = parent();
        apply(&mut model, write(1, b"a"));
        apply(&mut model, encode_admin(&Admin::Split(split(1))));
        let child = model.born.pop().expect("it counts");
        let models = BTreeMap::from([(PARENT, model), (CHILD, child)]);
        for (asked, key, by) in
            [(CHILD, b"a", PARENT), (CHILD, b"x", CHILD), (PARENT, b"a", PARENT), (PARENT, b"x", PARENT)]
        {
            assert_eq!(executor(&models, &models[&asked], key).id(), by, "{asked} {key:?}");
        }
        assert_eq!((models[&CHILD].parent(), models[&PARENT].parent()), (Some(PARENT), None));
    }

    #[test]
    fn what_was_made_for_another_version_or_lies_at_an_edge_does_not_count() {
        let mut model = parent();
        let stranger = Split { voters: vec![NodeId(2), NodeId(3)], ..split(1) };
        let edge = Split { at: Bytes::new(), ..split(1) };
        let late = Split { epoch: Epoch(2), ..split(1) };
        for other in [split(2), stranger, edge, late, Split { child: PARENT, ..split(1) }] {
            apply(&mut model, encode_admin(&Admin::Split(other)));
        }
        assert_eq!((model.counts.splits_refused, model.counts.splits, model.born.len()), (5, 0, 0));
        assert_eq!(model.last_command, Slot(0));
        apply(&mut model, encode_admin(&Admin::Split(split(1))));
        apply(&mut model, encode_admin(&Admin::Split(split(1))));
        assert_eq!((model.counts.splits_refused, model.counts.splits, model.born.len()), (6, 1, 1));
    }
}
