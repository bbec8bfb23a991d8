//! Judges a replica's writes, when they are staged and when they are durable.
//!
//! Owns: the staged view of each replica. Must never: count what is only staged as a vote.

use super::super::disk::{Disk, Synced};
use super::violation::{Check, Violation, ensure};
use super::{Disks, Observer};
use synod_paxos::io::Persist;
use synod_paxos::types::{Ballot, HardState, NodeId, Payload, Slot};

impl Observer {
    /// Judges a write as it is handed over. `leads` is the ballot the replica leads, where it does.
    pub fn staged(&mut self, node: NodeId, write: &Persist, leads: Option<Ballot>) -> Check {
        let view = self.view(node)?;
        ensure!(
            write.seq == view.seq.next(),
            "writes are numbered in order",
            "{node:?} hands over {} after {}",
            write.seq,
            view.seq
        );
        let (commit, last) = (view.commit, view.log.last());
        if let Some(from) = write.truncate_from {
            ensure!(
                from > view.log.base.slot,
                "16: nothing trimmed is truncated",
                "{node:?} truncates from {from:?}, trimmed to {}",
                view.log.base.slot
            );
            for slot in (from.0..=commit.min(last.slot).0).map(Slot) {
                let (old, new) = (view.log.id_at(slot), write.append.iter().map(|e| e.id).find(|id| id.slot == slot));
                ensure!(
                    old == new,
                    "6: slots up to commit never change",
                    "{node:?} has commit {commit} and replaces {old:?} by {new:?}"
                );
            }
        }
        let view = self.views.get_mut(&node).expect("looked up above");
        view.seq = write.seq;
        if let Some(from) = write.truncate_from {
            view.log.truncate_from(from);
            view.compared = view.compared.min(view.log.last().slot);
        }
        let mut prev = view.log.last();
        for entry in &write.append {
            self.link(entry, prev, node)?;
            prev = entry.id;
        }
        let view = self.views.get_mut(&node).expect("looked up above");
        write.append.iter().for_each(|entry| view.log.push(entry.clone()));
        let adopted_before = view.hard.accepted;
        if let Some(hard) = &write.hard {
            self.staged_hard(node, hard)?;
        }
        if let Some(ballot) = leads {
            self.staged_by_leader(node, ballot, write, adopted_before)?;
        }
        Ok(())
    }

    /// Notes the entries of a write that is about to be handed over: messages of the same step may name them.
    pub fn foresee(&mut self, node: NodeId, write: &Persist) -> Check {
        let before = write.append.first().and_then(|e| e.id.slot.prev());
        let mut prev = before.and_then(|slot| self.views.get(&node)?.log.id_at(slot)).unwrap_or_default();
        for entry in &write.append {
            self.link(entry, prev, node)?;
            prev = entry.id;
        }
        Ok(())
    }

    fn staged_hard(&mut self, node: NodeId, new: &HardState) -> Check {
        let view = self.view(node)?;
        let old = &view.hard;
        ensure!(
            new.promised >= old.promised && new.accepted >= old.accepted,
            "3: promised and accepted never go back",
            "{node:?} goes from {:?}/{:?} to {:?}/{:?}",
            old.promised,
            old.accepted,
            new.promised,
            new.accepted
        );
        ensure!(
            new.accepted <= new.promised,
            "3: accepted is at most promised",
            "{node:?}: {:?} > {:?}",
            new.accepted,
            new.promised
        );
        let epoch = new.membership.epoch;
        ensure!(
            new.promised.epoch == epoch && new.accepted.epoch == epoch,
            "7: nobody acts in the next epoch before the stop-sign is known chosen",
            "{node:?} in {epoch} promises {:?} and accepts {:?}",
            new.promised,
            new.accepted
        );
        ensure!(epoch >= old.membership.epoch, "7: epochs never go back", "{node:?} goes to {epoch}");
        if epoch == old.membership.epoch {
            ensure!(
                new.membership == old.membership && new.epoch_start == old.epoch_start,
                "7: an epoch's members never change",
                "{node:?} goes from {:?} to {:?}",
                old.membership,
                new.membership
            );
            ensure!(new.b0_used || !old.b0_used, "9: b0_used is never taken back", "{node:?} in {epoch}");
        } else {
            let sign = self.chosen.get(&new.epoch_start).map(|c| (c.entry.id, &c.entry.payload));
            ensure!(
                sign.is_some_and(|(_, payload)| *payload == Payload::Config(new.membership.clone())),
                "7: nobody acts in the next epoch before the stop-sign is chosen",
                "{node:?} enters {:?} at {}, where {sign:?} is chosen",
                new.membership,
                new.epoch_start
            );
            let held = view.log.id_at(new.epoch_start);
            ensure!(
                view.log.base.slot > new.epoch_start || held == sign.map(|(id, _)| id),
                "7: whoever enters an epoch holds its stop-sign",
                "{node:?} enters {epoch} with {held:?} at {}",
                new.epoch_start
            );
        }
        self.is_chosen(node, "a hard state", new.commit_hint)?;
        self.views.get_mut(&node).expect("looked up above").hard = new.clone();
        Ok(())
    }

    /// Notes what the leader of `ballot` adds to the ballot's log.
    fn staged_by_leader(&mut self, node: NodeId, ballot: Ballot, write: &Persist, before: Ballot) -> Check {
        let view = self.view(node)?;
        if view.hard.accepted != ballot {
            return Ok(());
        }
        let end = view.log.last();
        let adopts = before != ballot;
        let ids: Vec<_> = if adopts {
            view.log.entries().iter().map(|e| e.id).collect()
        } else {
            write.append.iter().map(|e| e.id).collect()
        };
        for id in ids {
            self.in_ballot_log(node, ballot, id)?;
        }
        if adopts { self.adopts(ballot, end) } else { Ok(()) }
    }

    /// Judges a disk after one write became durable, and counts the votes it brings.
    pub fn synced(&mut self, node: NodeId, disk: &Disk, synced: &Synced, disks: &Disks) -> Check {
        let accepted = disk.hard.accepted;
        self.claims.entry(node).or_default().accepted_durably.insert(accepted);
        let anew = synced.truncated || synced.accepted_before != accepted;
        let from = if anew { Some(disk.log.base.slot.next()) } else { synced.appended_from };
        if let Some(from) = from {
            for entry in disk.log.entries().iter().filter(|e| e.id.slot >= from) {
                self.belongs(node, accepted, entry.id)?;
                // Behind a greater promise an entry is learnt, not voted for.
                if disk.hard.promised == accepted {
                    self.vote(node, accepted, entry.id, disks)?;
                }
            }
            self.holds_choices(node, disk)?;
        }
        if anew { self.holds_adopted(node, &disk.log, accepted) } else { Ok(()) }
    }

    /// An entry under an accepted ballot is the ballot's own or chosen.
    fn belongs(&self, node: NodeId, ballot: Ballot, id: synod_paxos::types::EntryId) -> Check {
        let own = self.ballot_logs.get(&(ballot, id.slot));
        let chosen = self.chosen.get(&id.slot).map(|c| c.entry.id);
        ensure!(
            own == Some(&id) || chosen == Some(id),
            "4: a log under an accepted ballot is that ballot's",
            "{node:?} accepted {ballot:?} and holds {id:?}, where the ballot has {own:?} and {chosen:?} is chosen"
        );
        Ok(())
    }
}
