//! Judges what a replica says of itself to its driver.
//!
//! Owns: the checks of status, role and commit reports. Must never: take them for facts.

use super::messages::Sender;
use super::violation::{Check, Violation, ensure};
use super::{Disks, Observer};
use synod_paxos::io::{RoleKind, Status};
use synod_paxos::types::{Ballot, NodeId, Slot};

impl Observer {
    /// Judges a replica after a step.
    pub fn stands(&mut self, sender: Sender, status: &Status, disks: &Disks) -> Check {
        let node = sender.node;
        let view = self.view(node)?;
        ensure!(
            status.promised == view.hard.promised && status.accepted == view.hard.accepted,
            "a replica is as it has staged itself",
            "{node:?} says {:?}/{:?} and staged {:?}/{:?}",
            status.promised,
            status.accepted,
            view.hard.promised,
            view.hard.accepted
        );
        ensure!(
            status.last == view.log.last(),
            "a replica is as it has staged itself",
            "{node:?} says it ends in {:?} and staged {:?}",
            status.last,
            view.log.last()
        );
        ensure!(
            status.membership == view.hard.membership,
            "a replica is as it has staged itself",
            "{node:?} says {:?} and staged {:?}",
            status.membership,
            view.hard.membership
        );
        let durable = disks.get(&node).map_or(Slot(0), |d| d.log.last().slot);
        ensure!(
            status.durable <= durable && status.committed_durable <= status.durable.min(status.commit),
            "4: durable means durable",
            "{node:?} says durable {}, commit {} and both {}, its disk ends in {durable}",
            status.durable,
            status.commit,
            status.committed_durable
        );
        ensure!(
            status.commit >= view.commit,
            "6: commit never goes back",
            "{node:?} goes from {} to {}",
            view.commit,
            status.commit
        );
        self.is_chosen(node, "its status", status.commit)?;
        let (governing, start) = self.membership_after(status.commit);
        ensure!(
            governing.epoch == status.membership.epoch,
            "7: whoever knows a stop-sign chosen is in the epoch it begins",
            "{node:?} has commit {} and is in {}, {start} began {}",
            status.commit,
            status.membership.epoch,
            governing.epoch
        );
        self.compares(node, status.commit)?;
        if status.role == RoleKind::Leader {
            self.owns(sender, status.accepted)?;
        }
        Ok(())
    }

    /// Compares a replica's staged log with what is chosen, up to its commit.
    fn compares(&mut self, node: NodeId, commit: Slot) -> Check {
        let view = self.view(node)?;
        for slot in (view.compared.0 + 1..=commit.min(view.log.last().slot).0).map(Slot) {
            let (own, chosen) = (view.log.id_at(slot), self.chosen.get(&slot).map(|c| c.entry.id));
            ensure!(
                own == chosen,
                "6: a commit index counts only for entries that match",
                "{node:?} has commit {commit} and {own:?} where {chosen:?} is chosen"
            );
        }
        let view = self.views.get_mut(&node).expect("looked up above");
        view.commit = commit;
        view.compared = view.compared.max(commit.min(view.log.last().slot));
        Ok(())
    }

    /// Judges a role that a replica announces.
    pub fn plays(&mut self, sender: Sender, role: RoleKind, ballot: Ballot) -> Check {
        if role != RoleKind::Leader {
            return Ok(());
        }
        self.newest_led = self.newest_led.max(ballot);
        self.owns(sender, ballot)
    }

    /// Judges a report that slots are chosen and durable.
    pub fn committed(&mut self, node: NodeId, upto: Slot, disks: &Disks) -> Check {
        let from = self.view(node)?.committed;
        ensure!(upto >= from, "6: commit never goes back", "{node:?} reports {upto} after {from:?}");
        self.is_chosen(node, "Committed", upto)?;
        let disk = &disks[&node];
        for slot in (from.0 + 1..=upto.0).map(Slot).filter(|slot| *slot >= disk.log.base.slot) {
            let (own, chosen) = (disk.log.id_at(slot), self.chosen.get(&slot).map(|c| c.entry.id));
            ensure!(
                own.is_some() && own == chosen,
                "6: what is reported as chosen is chosen and durable here",
                "{node:?} reports {upto} with {own:?} durable where {chosen:?} is chosen"
            );
        }
        self.quorum_holds(node, upto, disks)?;
        self.views.get_mut(&node).expect("looked up above").committed = upto;
        self.acknowledged = self.acknowledged.max(upto);
        Ok(())
    }

    /// A quorum of the governing epoch holds `upto` on its disks, now.
    fn quorum_holds(&self, by: NodeId, upto: Slot, disks: &Disks) -> Check {
        let Some(chosen) = self.chosen.get(&upto) else { return Ok(()) };
        let id = chosen.entry.id;
        let Some(membership) = self.epoch_of(id).and_then(|epoch| self.memberships.get(&epoch)) else {
            return Err(Violation::new("harness: a chosen entry has an epoch", format!("{id:?}")));
        };
        let holders = membership
            .voters()
            .filter(|n| disks.get(n).is_some_and(|d| d.log.base.slot >= upto || d.log.id_at(upto) == Some(id)))
            .count();
        ensure!(
            holders >= membership.quorum(),
            "6: commit is at most what a quorum of the governing epoch holds",
            "{by:?} reports {id:?}, held by {holders} of {membership:?}"
        );
        Ok(())
    }
}
