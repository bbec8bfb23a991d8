//! Judges each message at the moment it is sent, against its sender's disk.
//!
//! Owns: what a message may claim. Must never: judge by what the sender has only staged, where the
//! tables of `protocol.md` ask for durability.

use super::super::disk::Disk;
use super::violation::{Check, Violation, ensure};
use super::{Disks, Observer, Promised};
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, Entry, EntryId, Epoch, NodeId, Run, Slot};

/// Who says it, in which life.
#[derive(Clone, Copy)]
pub struct Sender {
    /// The node.
    pub node: NodeId,
    /// Its incarnation.
    pub boot: u64,
    /// Its epoch after the step, staged.
    pub epoch: Epoch,
    /// Its promise after the step, staged.
    pub promised: Ballot,
}

impl Observer {
    /// Judges `message`, sent by `sender`, whose disk is among `disks`.
    pub fn sent(&mut self, sender: Sender, message: &Message, disks: &Disks) -> Check {
        let node = sender.node;
        let Some(disk) = disks.get(&node) else {
            return Err(Violation::new("harness: a sender has a disk", format!("{node:?}")));
        };
        match message {
            Message::PreVote { ballot, held } => {
                self.knows_epoch(node, *ballot)?;
                held.map_or(Ok(()), |held| {
                    self.mentioned(held.last, node)?;
                    self.is_chosen(node, "PreVote", held.commit)
                })
            }
            Message::PreVoteGranted { ballot } => promised_no_more(sender, *ballot, "PreVoteGranted"),
            Message::PreVoteRefused { .. } | Message::Confirm { .. } | Message::Fetch { .. } => Ok(()),
            Message::Released { ballot } => {
                ensure!(ballot.node == node, "2: only its leader releases a ballot", "{node:?} releases {ballot:?}");
                self.released.insert(*ballot);
                Ok(())
            }
            Message::Prepare { ballot, commit } => {
                self.owns(sender, *ballot)?;
                self.promised_durably(disk, node, *ballot, "Prepare")?;
                self.is_chosen(node, "Prepare", *commit)
            }
            Message::Promise { ballot, accepted, commit, last, runs } => {
                self.promised_durably(disk, node, *ballot, "Promise")?;
                self.is_chosen(node, "Promise", *commit)?;
                self.promise(node, Promised { ballot: *ballot, accepted: *accepted, last: *last })?;
                self.runs(node, *last, runs)
            }
            Message::Nack { ballot, promised } => {
                let staged = sender.promised;
                ensure!(
                    promised > ballot && *promised <= staged,
                    "a refusal names a greater promise",
                    "{node:?} refuses {ballot:?} for {promised:?}, its own is {staged:?}"
                );
                Ok(())
            }
            Message::Fetched { prev, entries, .. } => self.run_of(node, *prev, entries),
            Message::Sync { ballot, prev, entries, end, commit } => {
                self.leads(sender, disk, *ballot, *prev, entries)?;
                self.in_ballot_log(node, *ballot, *end)?;
                self.adopts(*ballot, *end)?;
                self.is_chosen(node, "Sync", *commit)
            }
            Message::Accept { ballot, prev, entries, commit, all_have } => {
                self.leads(sender, disk, *ballot, *prev, entries)?;
                self.is_chosen(node, "Accept", *commit)?;
                self.everyone_has(node, *all_have, disks)
            }
            Message::Accepted { ballot, upto, commit } => {
                self.accepted(node, disk, *ballot, *upto)?;
                self.is_chosen(node, "Accepted", *commit)
            }
            Message::Behind { commit, last, runs, .. } => {
                self.is_chosen(node, "Behind", *commit)?;
                self.runs(node, *last, runs)
            }
            Message::Learn { epoch, promised, prev, entries, commit } => {
                self.promised_durably(disk, node, *promised, "Learn")?;
                self.teaches(sender, *epoch, *promised, entries)?;
                self.learn(node, *prev, entries, *commit)
            }
            Message::Learned { epoch, commit } => self.learned(node, disk, *epoch, *commit),
            Message::ReadProbe { ballot, .. } => self.owns(sender, *ballot),
            Message::ReadAck { ballot, .. } => promised_no_more(sender, *ballot, "ReadAck"),
            Message::ReadRequest { .. } => Ok(()),
            Message::ReadGranted { ballot, slot, .. } => {
                self.owns(sender, *ballot)?;
                self.is_chosen(node, "ReadGranted", *slot)
            }
            Message::TimeoutNow { ballot } => self.owns(sender, *ballot),
            Message::TransferRefused { ballot } => self.knows_epoch(node, *ballot),
        }
    }

    /// A ballot belongs to one life of the node it names.
    pub(super) fn owns(&mut self, sender: Sender, ballot: Ballot) -> Check {
        let Sender { node, boot, .. } = sender;
        self.knows_epoch(node, ballot)?;
        let owner = *self.owners.entry(ballot).or_insert((node, boot));
        ensure!(
            ballot.node == node && owner == (node, boot),
            if ballot.round == 1 { "9: B0 is led at most once" } else { "2: a ballot has one leader incarnation" },
            "{node:?} in life {boot} acts for {ballot:?}, which belongs to {owner:?}"
        );
        Ok(())
    }

    fn knows_epoch(&self, node: NodeId, ballot: Ballot) -> Check {
        ensure!(
            self.memberships.contains_key(&ballot.epoch),
            "7: nobody acts in the next epoch before the stop-sign is chosen",
            "{node:?} speaks of {ballot:?}"
        );
        Ok(())
    }

    fn promised_durably(&mut self, disk: &Disk, node: NodeId, ballot: Ballot, what: &str) -> Check {
        self.knows_epoch(node, ballot)?;
        ensure!(
            disk.hard.promised >= ballot,
            "4: no message leaves before what it claims is durable",
            "{node:?} sends {what} of {ballot:?} and has durably promised {:?}",
            disk.hard.promised
        );
        let claims = self.claims.entry(node).or_default();
        claims.promised = claims.promised.max(ballot);
        Ok(())
    }

    /// A promise tells of everything the sender had ever accepted below the ballot.
    fn promise(&mut self, node: NodeId, promise: Promised) -> Check {
        let Promised { ballot, accepted, last } = promise;
        self.mentioned(last, node)?;
        let claims = self.claims.entry(node).or_default();
        claims.promises.push(promise);
        let claims = &self.claims[&node];
        let durable = claims.accepted_durably.range(..ballot).next_back().copied();
        ensure!(
            claims.accepted_durably.contains(&accepted) && durable.is_none_or(|d| accepted >= d),
            "4: a promise tells of the last accepted ballot",
            "{node:?} promises {ballot:?} with accepted {accepted:?}, and has durably accepted {durable:?}"
        );
        let said = claims.accepted.get(&accepted).copied().unwrap_or_default();
        let end = self.ballot_logs.get(&(accepted, said)).copied();
        ensure!(
            said <= last.slot || end.is_some_and(|end| self.departs_by_choice(last, end)),
            "4: a promise tells of everything accepted",
            "{node:?} promises {ballot:?} with {accepted:?} to {last:?}, and has said it accepted to {said}"
        );
        Ok(())
    }

    /// An acceptance is of what was durable under that ballot, and not of anything an earlier promise has forsworn.
    fn accepted(&mut self, node: NodeId, disk: &Disk, ballot: Ballot, upto: Slot) -> Check {
        self.knows_epoch(node, ballot)?;
        let claims = self.claims.entry(node).or_default();
        ensure!(
            claims.accepted_durably.contains(&ballot),
            "4: no message leaves before what it claims is durable",
            "{node:?} sends Accepted of {ballot:?} and has durably accepted {:?}",
            disk.hard.accepted
        );
        let said = claims.accepted.entry(ballot).or_default();
        *said = upto.max(*said);
        claims.promised = claims.promised.max(ballot);
        ensure!(
            upto <= disk.log.base.slot || self.has_voted(node, ballot, upto),
            "4: no ack exceeds the durable matching prefix",
            "{node:?} sends Accepted of {ballot:?} to {upto}, its disk accepted {:?} and ends in {:?}",
            disk.hard.accepted,
            disk.log.last()
        );
        let forsworn = self.claims[&node]
            .promises
            .iter()
            .copied()
            .find(|p| p.ballot > ballot && (ballot > p.accepted || ballot == p.accepted && upto > p.last.slot));
        if let Some(promise) = forsworn {
            ensure!(
                upto <= self.chosen_upto(),
                "3: nothing is accepted below a promise",
                "{node:?} accepts {ballot:?} to {upto} after promising {:?} with {:?} to {:?}",
                promise.ballot,
                promise.accepted,
                promise.last
            );
        }
        Ok(())
    }

    /// What a leader sends is its ballot's log, and it leads.
    fn leads(&mut self, sender: Sender, disk: &Disk, ballot: Ballot, prev: EntryId, entries: &[Entry]) -> Check {
        let node = sender.node;
        self.owns(sender, ballot)?;
        self.promised_durably(disk, node, ballot, "Sync or Accept")?;
        ensure!(!self.released.contains(&ballot), "2: a released ballot is not led", "{node:?} leads {ballot:?}");
        if ballot.round == 1 {
            ensure!(
                disk.hard.b0_used && disk.hard.membership.epoch >= ballot.epoch,
                "9: B0 is led only once that is durable",
                "{node:?} leads {ballot:?} with {:?}",
                disk.hard
            );
        }
        self.run_of(node, prev, entries)?;
        self.in_ballot_log(node, ballot, prev)?;
        entries.iter().try_for_each(|entry| self.in_ballot_log(node, ballot, entry.id))
    }

    /// A ballot has one log.
    pub(super) fn in_ballot_log(&mut self, node: NodeId, ballot: Ballot, id: EntryId) -> Check {
        if id == EntryId::ZERO {
            return Ok(());
        }
        let known = *self.ballot_logs.entry((ballot, id.slot)).or_insert(id);
        ensure!(known == id, "2: a ballot has one log", "{node:?} has {id:?} in {ballot:?}, which has {known:?} there");
        Ok(())
    }

    fn run_of(&mut self, node: NodeId, prev: EntryId, entries: &[Entry]) -> Check {
        self.mentioned(prev, node)?;
        let mut before = prev;
        for entry in entries {
            self.link(entry, before, node)?;
            before = entry.id;
        }
        Ok(())
    }

    /// Headers are those of the log that ends in `last`.
    fn runs(&self, node: NodeId, last: EntryId, runs: &[Run]) -> Check {
        self.mentioned(last, node)?;
        for (index, run) in runs.iter().enumerate() {
            let upto = runs.get(index + 1).map_or(last.slot, |next| Slot(next.first.0.saturating_sub(1)));
            ensure!(
                run.first <= upto,
                "4: headers are of the sender's log",
                "{node:?} sends empty {run:?} in {runs:?} to {last:?}"
            );
            for slot in (run.first.0..=upto.0).map(Slot) {
                let id = EntryId { slot, origin: run.origin };
                ensure!(
                    self.ancestor(last, slot) == Some(id),
                    "4: headers are of the sender's log",
                    "{node:?} says {id:?}, but {last:?} has {:?} there",
                    self.ancestor(last, slot)
                );
            }
        }
        Ok(())
    }

    fn everyone_has(&self, node: NodeId, upto: Slot, disks: &Disks) -> Check {
        self.is_chosen(node, "all_have", upto)?;
        let membership = &self.view(node)?.hard.membership;
        let id = self.chosen.get(&upto).map(|c| c.entry.id);
        for member in &membership.members {
            let holds = disks.get(&member.node).is_some_and(|d| d.log.base.slot >= upto || d.log.id_at(upto) == id);
            ensure!(
                upto == Slot(0) || holds || self.disks_lie,
                "16: the log is trimmed only below what every member has",
                "{node:?} says all have {upto}, {:?} has not",
                member.node
            );
        }
        Ok(())
    }

    /// A trim position: every member has it.
    pub fn trims(&self, node: NodeId, upto: Slot, disks: &Disks) -> Check {
        self.everyone_has(node, upto, disks)
    }

    /// Who teaches names its own epoch, and a promise at or above every ballot that chose what it teaches.
    fn teaches(&self, sender: Sender, epoch: Epoch, promised: Ballot, entries: &[Entry]) -> Check {
        let Sender { node, epoch: own, .. } = sender;
        ensure!(epoch <= own, "7: a sender names its own epoch", "{node:?} in {own} says {epoch}");
        for chosen in entries.iter().filter_map(|e| self.chosen.get(&e.id.slot)) {
            ensure!(
                chosen.ballot <= promised,
                "3: who teaches a choice has promised its ballot",
                "{node:?} promised {promised:?} and teaches {:?}, chosen in {:?}",
                chosen.entry.id,
                chosen.ballot
            );
        }
        Ok(())
    }

    fn learn(&mut self, node: NodeId, prev: EntryId, entries: &[Entry], commit: Slot) -> Check {
        self.is_chosen(node, "Learn", commit)?;
        self.run_of(node, prev, entries)?;
        for id in entries.iter().map(|e| e.id).chain([prev]).filter(|id| *id != EntryId::ZERO) {
            let chosen = self.chosen.get(&id.slot).map(|c| c.entry.id);
            ensure!(
                chosen == Some(id),
                "1: only what is chosen is learnt",
                "{node:?} teaches {id:?}, chosen is {chosen:?}"
            );
        }
        Ok(())
    }

    fn learned(&self, node: NodeId, disk: &Disk, epoch: Epoch, commit: Slot) -> Check {
        self.is_chosen(node, "Learned", commit)?;
        ensure!(
            disk.hard.membership.epoch >= epoch,
            "4: no message leaves before what it claims is durable",
            "{node:?} speaks of {epoch} and is durably in {}",
            disk.hard.membership.epoch
        );
        ensure!(
            commit <= disk.log.base.slot || disk.log.id_at(commit) == self.chosen.get(&commit).map(|c| c.entry.id),
            "4: no ack exceeds the durable matching prefix",
            "{node:?} sends Learned to {commit}, its disk ends in {:?}",
            disk.log.last()
        );
        Ok(())
    }
}

fn promised_no_more(sender: Sender, ballot: Ballot, what: &str) -> Check {
    let Sender { node, promised, .. } = sender;
    ensure!(
        promised <= ballot,
        "3: an assent is to nothing below the promise",
        "{node:?} sends {what} of {ballot:?} and has promised {promised:?}"
    );
    Ok(())
}
