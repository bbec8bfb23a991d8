//! Epochs and members, seen from outside: rules 2, 6, 7, 8 and 9 of `docs/guarantees.md`.
//!
//! Owns: the checks of what a quorum holds, and of who acts in an epoch, leads a ballot or removes a replica. Must never: take a
//! node's word for it: what is chosen is read from the disks, or from what was applied.
//!
//! A node whose disk was damaged or set back counts as one that holds what it is asked for: it may have had it.

use crate::finish::GONE;
use crate::violation::{Checked, check};
use crate::world::{Origin, World};
use synod_cluster::ids::{Entry, NodeId, ShardId, Slot};
use synod_paxos::message::Message;
use synod_paxos::types::{Epoch, Membership};

const COMMIT: &str = "6: what is chosen a quorum of its epoch's voters has on disk";
const EARLY: &str = "7: nobody acts in an epoch before its stop-sign is chosen";
const REMOVED: &str = "8: a replica goes only once an entry of a later epoch is chosen";
const LED: &str = "2: a ballot is led by one process, B0 by one too";

impl World {
    /// A message arrives that acts in an epoch, or leads a ballot.
    pub(crate) fn check_message(&mut self, from: Origin, shard: ShardId, message: &Message) -> Checked {
        let (ballot, leads) = match message {
            Message::Sync { ballot, .. } | Message::Accept { ballot, .. } => (*ballot, true),
            Message::Prepare { ballot, .. } | Message::Promise { ballot, .. } | Message::Accepted { ballot, .. } => {
                (*ballot, false)
            }
            _ => return Ok(()),
        };
        let name = (from.node, from.process);
        if leads {
            let leader = *self.epochs.led.entry((shard, ballot)).or_insert(name);
            check(leader == name, LED, || format!("shard {shard} {ballot:?}: {name:?}, before that {leader:?}"))?;
        }
        let spoken = self.epochs.spoken.entry((from.node, from.process, shard)).or_insert(Epoch(1));
        if *spoken >= ballot.epoch {
            return Ok(());
        }
        *spoken = ballot.epoch;
        self.check_entered(from.node, from.stamp, shard, ballot.epoch)
    }

    /// Whether a node's disk shows that it may hold something: it is not what it was.
    fn may_have(&self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        node.out.is_some_and(|why| why != GONE) || node.damaged || node.set_back
    }

    fn holders(&self, members: &Membership, holds: impl Fn(&crate::disk::NodeDisk) -> bool) -> (usize, usize) {
        let count = members.voters().filter(|id| self.may_have(*id) || holds(&self.nodes[id].disk)).count();
        (count, members.quorum())
    }

    /// Invariant 6, when an entry is first seen applied.
    pub(crate) fn check_chosen(&self, members: &Membership, shard: ShardId, entry: &Entry, at: u64) -> Checked {
        let (held, quorum) = self.holders(members, |disk| disk.holds(shard, entry, members.epoch, at));
        check(held >= quorum, COMMIT, || {
            format!("shard {shard}: {:?} was applied, {held} of {members:?} have it at {at} µs", entry.id)
        })
    }

    /// Invariant 7: by what was applied somewhere, else by what a quorum of the epoch before has on disk.
    fn check_entered(&mut self, id: NodeId, at: u64, shard: ShardId, epoch: Epoch) -> Checked {
        let Some(model) = self.models.get(&shard) else { return Ok(()) };
        let Some(known) = model.members() else { return Ok(()) };
        if known.epoch >= epoch {
            return Ok(());
        }
        let told = self.map.as_ref().and_then(|map| map.shards.get(&shard)).map(|d| d.membership.clone());
        let before = told.into_iter().chain([known.clone()]).find(|members| members.epoch.next() == epoch);
        let Some(before) = before else {
            // Two epochs ahead of all that was seen.
            self.coverage.count("members", "epoch entered unseen");
            return Ok(());
        };
        let (held, quorum) = self.holders(&before, |disk| disk.knows_epoch(shard, epoch, at));
        check(held >= quorum, EARLY, || {
            format!("node {id} shard {shard}: acts in epoch {epoch:?} at {at} µs, {held} of {before:?} know of it")
        })
    }

    /// Invariant 8: by what was applied somewhere, else by what a quorum of some later epoch has on disk.
    pub(crate) fn check_removed(&mut self, from: Origin, shard: ShardId, upto: Epoch) -> Checked {
        let Origin { node: id, process, stamp: at } = from;
        if !self.nodes[&id].has_left(process, at) {
            return Ok(());
        }
        self.coverage.count("members", "replica removed");
        self.check_custody(id, shard, Slot(u64::MAX), at)?;
        let Some(model) = self.models.get(&shard) else { return Ok(()) };
        if model.chosen_in() >= upto || model.members().is_none() {
            return Ok(());
        }
        let (last, known) = (model.last(), model.members().cloned());
        // What has no effect is seen applied only with what follows it.
        let told = self.map.as_ref().and_then(|map| map.shards.get(&shard)).map(|d| d.membership.clone());
        let Some(members) = known.into_iter().chain(told).find(|members| members.epoch >= upto) else {
            // Neither applied where it was seen nor in the map that is known here: by the disks alone, whoever the voters are.
            let holds =
                |node: &&NodeId| self.may_have(**node) || self.nodes[node].disk.holds_of_epoch(shard, last, upto);
            let (held, quorum) = (self.ids.iter().filter(holds).count() as u64, self.plan.nodes / 2 + 1);
            return check(held >= quorum, REMOVED, || {
                format!("node {id} shard {shard}: removed by epoch {upto:?}, {held} nodes hold an entry of it")
            });
        };
        let (held, quorum) = self.holders(&members, |disk| disk.holds_of_epoch(shard, last, upto));
        check(held >= quorum, REMOVED, || {
            format!(
                "node {id} shard {shard}: removed by epoch {upto:?} at {at} µs, {held} of {members:?} hold an entry of it"
            )
        })
    }
}
