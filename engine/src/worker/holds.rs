//! How far back logs are kept for members that catch up by a snapshot, and by the log after it.
//!
//! Owns: which members those are, and from which slot on each still needs the log here. Must never: let the log go while such
//! a member comes on, or keep it for one that does not.
//!
//! A member that needs a snapshot needs all of the log after it too: what is trimmed before the member has it makes the next
//! snapshot necessary, and under a steady load that never ends where making, sending and loading one take longer than the
//! log lasts. So nothing of the log goes from the moment the member says so: whichever of the shard's replicas makes the snapshot
//! that it installs, the log goes on behind it here. Then what is kept follows the member, until
//!
//! - it has caught up so far that what the log keeps in any case (its share of `log_keep_bytes`) reaches twice as far back;
//! - or it neither asked for a snapshot nor came on for `snapshot_unused_us`: it is down, cut off or stuck;
//! - or this node's disk is below its low mark: room goes before speed, and the member begins anew.
//!
//! Only a leader knows how far members are. Another maker, or a leader that loses its leadership, keeps the log for as long as
//! the second bound says; the new leader has what its log keeps in any case, or makes a snapshot of its own.

use super::Worker;
use crate::host::Host;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_paxos::types::Micros;

/// Interval between looks at how far the members are, µs.
const LOOK_US: u64 = 100_000;

/// A member that catches up.
struct Follower {
    /// It needs the log after this slot: first the snapshot's, then what it has of the leader's log.
    has: Slot,
    /// When it last asked for a snapshot or came on.
    moved_at: Micros,
}

/// The members of one shard that catch up, on their way to another worker with it.
pub(super) struct HoldsOf(Vec<(NodeId, Follower)>);

/// The members that catch up.
#[derive(Default)]
pub(super) struct Holds {
    followers: BTreeMap<(ShardId, NodeId), Follower>,
    look_at: Micros,
}

impl Holds {
    /// A member needs a snapshot, and the log behind `slot`; the log here begins behind `trimmed`.
    pub(super) fn needs(&mut self, (shard, member): (ShardId, NodeId), slot: Slot, trimmed: Slot, now: Micros) {
        if planted!(HoldEndsWithSnapshot) {
            return;
        }
        let follower = self.followers.entry((shard, member)).or_insert(Follower { has: slot, moved_at: now });
        // It may be installing an earlier one of another replica's.
        let has = if follower.has < trimmed { slot } else { follower.has.min(slot) };
        *follower = Follower { has, moved_at: now };
    }

    /// A shard goes.
    pub(super) fn take_of(&mut self, shard: ShardId) -> HoldsOf {
        let all = self.followers.range((shard, NodeId(0))..=(shard, NodeId(u64::MAX)));
        let members: Vec<NodeId> = all.map(|((_, member), _)| *member).collect();
        let taken = members.into_iter().filter_map(|n| Some((n, self.followers.remove(&(shard, n))?)));
        HoldsOf(taken.collect())
    }

    /// A shard came.
    pub(super) fn put_of(&mut self, shard: ShardId, of: HoldsOf) {
        self.followers.extend(of.0.into_iter().map(|(member, follower)| ((shard, member), follower)));
    }

    /// From where on each member needs a shard's log.
    fn needed(&self, shard: ShardId) -> impl Iterator<Item = Slot> + '_ {
        let all = self.followers.range((shard, NodeId(0))..=(shard, NodeId(u64::MAX)));
        all.map(|(_, follower)| follower.has)
    }
}

impl<H: Host> Worker<H> {
    /// Looks at how far the members have come, and releases the parts of the logs that none of them needs.
    pub(super) fn follow_members(&mut self) {
        let now = self.node.now;
        if self.holds.followers.is_empty() || self.holds.look_at > now {
            return;
        }
        self.holds.look_at = now.plus(LOOK_US);
        let unused_us = self.snapshots.unused_us();
        let (shards, keep) = (&self.shards, self.node.log_keep.each());
        let full = self.node.disk_low.is_some();
        let before: BTreeSet<ShardId> = self.holds.followers.keys().map(|(shard, _)| *shard).collect();
        self.holds.followers.retain(|(id, member), follower| {
            let Some(shard) = shards.get(id).filter(|_| !full) else { return false };
            let held = shard.held_by(*member);
            if let Some(has) = held.filter(|has| *has > follower.has) {
                *follower = Follower { has, moved_at: now };
            }
            // Until it has installed a snapshot it has less than is held for it, however near the end of the log that is.
            let caught_up = held >= Some(follower.has) && shard.is_within(follower.has, keep / 2);
            !caught_up && follower.moved_at.plus(unused_us) > now
        });
        for id in before {
            self.hold_log(id);
        }
    }

    /// A shard's log begins no later than at the snapshots that are there of it, at what followers of one need, and at the splits that made
    /// what children not in the log yet may have to begin with.
    pub(super) fn hold_log(&mut self, id: ShardId) {
        if let Some(shard) = self.shards.get_mut(&id) {
            let trimmed = shard.trimmed_slot();
            // A snapshot that the log does not go on behind is of no use; a later one may be.
            let needed = self.holds.needed(id).chain(self.snapshots.positions(id));
            let needed = needed.chain(self.custody.log_needed(id, &self.node.shared.roster));
            shard.hold_log(needed.filter(|slot| *slot >= trimmed).min());
        }
    }
}
