//! Children of splits: what a parent does once it has applied a split, and a child's replica whose state is not here yet.
//!
//! Owns: how such a replica, which is *unborn*, gets its state. Must never: let it apply, serve or lead without one, or forget what it
//! has promised and accepted.
//!
//! A replica of a child writes its first hard state in the round in which the parent applies the split. Its first rows are flushed
//! later, with those of the parent. After a crash in between, the log has the child and the state store has not. The child votes and
//! accepts as any other then, since that takes the log only. Its state comes by the parent's replay, which makes the same one, or by a
//! snapshot. Applying its log to an empty state would make another state of it.

use super::missing::Missing;
use super::snapshot::Install;
use super::{Core, Shard};
use crate::host::{Host, Told};
use crate::logstore::{GroupRecovered, GroupWrite};
use crate::machine::{Born, ShardState};
use crate::round::{Birth, Node};
use crate::writer::Done;
use synod_cluster::ids::{ClusterVersion, EntryId, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Birth as Beginning;

impl Shard {
    /// A replica of a child that has its first hard state, and whose state is not there (`state` only says whose it would be).
    pub(crate) fn unborn(id: ShardId, recovered: GroupRecovered, state: ShardState) -> Self {
        let mut shard = Self::without_state(id, recovered, state);
        shard.missing = Some(Missing::of_the_unborn());
        shard
    }

    /// Whether it is unborn.
    pub(crate) fn is_unborn(&self) -> bool {
        self.missing.as_ref().is_some_and(Missing::is_unborn)
    }

    /// Whether it is unborn and no snapshot is about to be its state.
    pub(crate) fn awaits_base(&self) -> bool {
        self.is_unborn() && !matches!(self.core, Core::Installing(_))
    }

    /// The shard that it was split off from, where it was.
    pub(crate) fn parent(&self) -> Option<ShardId> {
        match self.state.descriptor().born {
            Beginning::Child { parent, .. } => Some(parent),
            Beginning::Founded => None,
        }
    }

    /// The split of this shard was applied, and made a child.
    pub(super) fn bear<H: Host>(&mut self, node: &mut Node<H>, slot: Slot, born: Box<Born>, told: Option<Told>) {
        if node.speaks < ClusterVersion::FOURTH {
            // Whoever proposed it is newer. What the entry changed is not on disk yet: a newer binary applies it again.
            let child = born.descriptor.shard;
            node.host.fatal(format!(
                "shard {}: slot {slot} of its log splits it, and shard {child} begins. This binary does not split shards: start a \
                 newer one",
                self.id
            ));
        }
        node.births.push(Birth { parent: self.id, slot, born, told });
    }

    /// The parent's replay has made the state: its rows are in the store. The replica goes on from there with the log that it has, as
    /// after a restart, once all that it wrote is on disk.
    pub(crate) fn take_base<H: Host>(&mut self, node: &mut Node<H>, base: &ShardState) {
        let hard = match &self.core {
            Core::Running(replica) => replica.hard().clone(),
            Core::Waiting(recovered) => recovered.hard.clone(),
            Core::Installing(_) => return,
        };
        self.answer_all(node, &Refusal::NotReady);
        self.cached.set(0);
        // It changes nothing. Behind it nothing of the replica is under way.
        let write = GroupWrite { shard: self.id, hard: Some(hard.clone()), ..GroupWrite::default() };
        let (id, ts, space) = (EntryId::ZERO, base.last_ts(), base.space());
        self.core = Core::Installing(Box::new(Install { hard, id, ts, space, keeps_log: true }));
        node.writer.add(write, Some(Done::Born));
    }

    /// Whether a write that changes what the replica is made of is under way.
    pub(crate) fn is_installing(&self) -> bool {
        matches!(self.core, Core::Installing(_))
    }

    /// The version of its bounds that is flushed, and all that came before it; 0 where none is.
    pub(crate) fn held(&self) -> u64 {
        self.held_version
    }

    /// Its first rows are not flushed yet.
    pub(crate) fn not_held(&mut self) {
        self.held_version = 0;
    }
}
