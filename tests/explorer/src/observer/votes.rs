//! What is chosen, counted from durable votes.
//!
//! Owns: the votes and the chosen entries. Must never: take a replica's word for what is chosen.
//!
//! A node votes for the entry at slot s in ballot b by having, durably and at once, accepted = b and that entry in its log.
//! An entry is chosen once a quorum of the voters of b's epoch has voted for it in b. What is chosen in c must be in every
//! log adopted or held under a ballot above c: that is the whole of Paxos, and it is checked for every pair.

use super::super::disk::{Disk, Log};
use super::violation::{Check, Violation, ensure};
use super::{Chosen, Disks, Observer};
use synod_paxos::types::{Ballot, EntryId, MemberRole, NodeId, Payload, Slot};

impl Observer {
    /// Counts a vote; `disks` are judged anew where it makes a choice.
    pub(super) fn vote(&mut self, node: NodeId, ballot: Ballot, id: EntryId, disks: &Disks) -> Check {
        let voters = self.votes.entry(id.slot).or_default().entry((ballot, id)).or_default();
        if !voters.insert(node) {
            return Ok(());
        }
        let Some(membership) = self.memberships.get(&ballot.epoch) else {
            return Err(Violation::new(
                "7: nobody acts in the next epoch before the stop-sign is chosen",
                format!("{node:?} accepts {id:?} in {ballot:?}"),
            ));
        };
        let count = voters.iter().filter(|n| membership.role_of(**n) == Some(MemberRole::Voter)).count();
        if count < membership.quorum() {
            return Ok(());
        }
        self.choose(ballot, id, disks)
    }

    fn choose(&mut self, ballot: Ballot, id: EntryId, disks: &Disks) -> Check {
        let slot = id.slot;
        if let Some(earlier) = self.chosen.get_mut(&slot) {
            ensure!(
                earlier.entry.id == id,
                "1: at most one value is chosen in a slot",
                "{:?} in {:?} and {id:?} in {ballot:?}",
                earlier.entry.id,
                earlier.ballot
            );
            if earlier.ballot <= ballot {
                return Ok(());
            }
            earlier.ballot = ballot;
        } else {
            let Some(fact) = self.facts.get(&id) else {
                return Err(Violation::new("harness: a vote is for a known entry", format!("{id:?}")));
            };
            let (entry, prev) = (fact.entry.clone(), fact.prev);
            let before = slot.prev().and_then(|s| self.chosen.get(&s)).map_or(EntryId::ZERO, |c| c.entry.id);
            ensure!(
                prev == before,
                "1: what is chosen is a prefix",
                "{id:?} follows {prev:?}, but before it {before:?} is chosen"
            );
            if let Payload::Config(next) = &entry.payload {
                self.memberships.insert(next.epoch, next.clone());
            }
            self.chosen.insert(slot, Chosen { entry, ballot });
        }
        for (node, disk) in disks {
            if disk.hard.accepted > ballot {
                self.holds_choice(*node, disk, slot)?;
            }
        }
        let later: Vec<_> = self.adopted.iter().filter(|(b, _)| **b > ballot).map(|(b, end)| (*b, *end)).collect();
        later.into_iter().try_for_each(|(b, end)| self.adopts_choice(b, end, slot))
    }

    /// A disk whose accepted ballot is above the one that chose `slot` holds the choice.
    fn holds_choice(&self, node: NodeId, disk: &Disk, slot: Slot) -> Check {
        let Some(chosen) = self.chosen.get(&slot) else { return Ok(()) };
        if slot < disk.log.base.slot {
            return Ok(());
        }
        let held = disk.log.id_at(slot);
        ensure!(
            held == Some(chosen.entry.id),
            "1: a log accepted above a choice holds the choice",
            "{node:?} accepted {:?} and has {held:?} where {:?} was chosen in {:?}",
            disk.hard.accepted,
            chosen.entry.id,
            chosen.ballot
        );
        Ok(())
    }

    /// A disk holds whatever was chosen below its accepted ballot, and nothing else where it was chosen at that ballot.
    pub(super) fn holds_choices(&self, node: NodeId, disk: &Disk) -> Check {
        let accepted = disk.hard.accepted;
        for (slot, chosen) in &self.chosen {
            if chosen.ballot < accepted {
                self.holds_choice(node, disk, *slot)?;
            } else if chosen.ballot == accepted && *slot >= disk.log.base.slot {
                let held = disk.log.id_at(*slot);
                ensure!(
                    held.is_none_or(|id| id == chosen.entry.id),
                    "1: a log agrees with what its ballot chose",
                    "{node:?} accepted {accepted:?} and has {held:?} where it chose {:?}",
                    chosen.entry.id
                );
            }
        }
        Ok(())
    }

    /// Notes the log that `ballot` adopted, the shortest seen, and judges it. B0 adopts nothing: its log begins with the
    /// stop-sign, which whoever is at B0 holds.
    pub(super) fn adopts(&mut self, ballot: Ballot, end: EntryId) -> Check {
        let known = self.adopted.get(&ballot);
        if ballot.round == 1 || known.is_some_and(|known| known.slot <= end.slot) {
            return Ok(());
        }
        self.adopted.insert(ballot, end);
        let slots: Vec<_> = self.chosen.iter().filter(|(_, c)| c.ballot < ballot).map(|(slot, _)| *slot).collect();
        slots.into_iter().try_for_each(|slot| self.adopts_choice(ballot, end, slot))
    }

    fn adopts_choice(&self, ballot: Ballot, end: EntryId, slot: Slot) -> Check {
        let Some(chosen) = self.chosen.get(&slot) else { return Ok(()) };
        let adopted = self.ancestor(end, slot);
        ensure!(
            adopted == Some(chosen.entry.id),
            "1: an adopted log holds what was chosen below its ballot",
            "{ballot:?} adopts a log to {end:?} with {adopted:?} where {:?} was chosen in {:?}",
            chosen.entry.id,
            chosen.ballot
        );
        Ok(())
    }

    /// A log under an accepted ballot holds all that the ballot adopted, up to where a choice has replaced it.
    pub(super) fn holds_adopted(&self, node: NodeId, log: &Log, ballot: Ballot) -> Check {
        let Some(end) = self.adopted.get(&ballot).copied() else { return Ok(()) };
        if log.base.slot >= end.slot || log.id_at(end.slot) == Some(end) || self.replaced(log, end) {
            return Ok(());
        }
        Err(Violation::new(
            "5: an accepted ballot's adopted log is held whole",
            format!("{node:?} accepted {ballot:?}, adopted to {end:?}, and holds ({:?}, {:?}]", log.base, log.last()),
        ))
    }

    /// Whether `log` has, somewhere up to `end`, a chosen entry that the log of `end` has not.
    fn replaced(&self, log: &Log, end: EntryId) -> bool {
        self.chosen.iter().take_while(|(slot, _)| **slot <= end.slot).any(|(slot, chosen)| {
            log.id_at(*slot) == Some(chosen.entry.id) && self.ancestor(end, *slot) != Some(chosen.entry.id)
        })
    }

    /// Whether the log that ends in `mine` departs from the one that ends in `theirs` by a chosen entry.
    pub(super) fn departs_by_choice(&self, mine: EntryId, theirs: EntryId) -> bool {
        self.chosen.iter().take_while(|(slot, _)| **slot <= mine.slot).any(|(slot, chosen)| {
            self.ancestor(mine, *slot) == Some(chosen.entry.id) && self.ancestor(theirs, *slot) != Some(chosen.entry.id)
        })
    }

    /// Whether `node` has ever durably held `slot` in `ballot`'s log under accepted = `ballot`.
    pub(super) fn has_voted(&self, node: NodeId, ballot: Ballot, slot: Slot) -> bool {
        let id = self.ballot_logs.get(&(ballot, slot));
        self.votes.get(&slot).is_some_and(|ids| {
            ids.iter()
                .any(|((b, voted), nodes)| *b == ballot && nodes.contains(&node) && id.is_none_or(|id| id == voted))
        })
    }

    /// The chosen prefix reaches `slot`, which `by` says it does.
    pub(super) fn is_chosen(&self, by: NodeId, what: &str, slot: Slot) -> Check {
        ensure!(
            slot <= self.chosen_upto(),
            "6: the commit index is at most what a quorum holds",
            "{by:?} says commit {slot} in {what}, chosen is {}",
            self.chosen_upto()
        );
        Ok(())
    }
}
