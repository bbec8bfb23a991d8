//! Every entry ever seen, and what came before it.
//!
//! Owns: the registry of entries and the chain of predecessors. Must never: believe an id without its content.

use super::violation::{Check, Violation, ensure};
use super::{Fact, Observer};
use synod_paxos::types::{Entry, EntryId, Epoch, NodeId, Payload, Slot};

impl Observer {
    /// Judges `entry` as what follows `prev`; `by` wrote or sent it.
    pub(super) fn link(&mut self, entry: &Entry, prev: EntryId, by: NodeId) -> Check {
        ensure!(
            entry.id.slot == prev.slot.next(),
            "2: entries are contiguous",
            "{by:?} puts {:?} after {prev:?}",
            entry.id
        );
        if let Some(known) = self.facts.get(&entry.id) {
            ensure!(
                known.entry == *entry,
                "2: equal ids have equal content",
                "{by:?} has {entry:?}, first seen as {:?}",
                known.entry
            );
            ensure!(
                known.prev == prev,
                "2: equal ids have equal prefixes",
                "{by:?} has {:?} after {prev:?}, first seen after {:?}",
                entry.id,
                known.prev
            );
            return Ok(());
        }
        ensure!(entry.crc == entry.checksum(), "entries carry their checksum", "{by:?}: {entry:?}");
        ensure!(
            entry.id.origin.node == by,
            "2: an entry comes from its proposer",
            "{:?} is first seen at {by:?}",
            entry.id
        );
        let (epoch, closed, ts) = self.after(prev, by)?;
        ensure!(
            entry.id.origin.epoch == epoch,
            "7: nothing follows a Config entry within its epoch",
            "{by:?} proposes {:?} after {prev:?}, where {epoch} governs",
            entry.id
        );
        ensure!(
            entry.ts > ts && entry.ts > closed,
            "13: timestamps strictly increase",
            "{by:?} proposes {:?} with ts {} after ts {ts} and closed {closed}",
            entry.id,
            entry.ts
        );
        let epoch_after = match &entry.payload {
            Payload::Config(next) => {
                ensure!(
                    next.epoch == epoch.next(),
                    "7: a Config entry names the next epoch",
                    "{by:?} proposes {next:?} in {epoch}"
                );
                next.epoch
            }
            Payload::Command(command) => {
                let proposal = self.proposals.get(command);
                ensure!(
                    proposal.is_some_and(|p| p.id == entry.id),
                    "proposals stand exactly as proposed",
                    "{by:?} has {command:?} at {:?}, proposed as {proposal:?}",
                    entry.id
                );
                epoch
            }
            Payload::Noop => epoch,
        };
        let fact = Fact { entry: entry.clone(), prev, epoch, epoch_after, closed: closed.max(entry.closed) };
        self.facts.insert(entry.id, fact);
        Ok(())
    }

    /// The epoch, the greatest closed timestamp and the timestamp after `prev`.
    fn after(&self, prev: EntryId, by: NodeId) -> Result<(Epoch, u64, u64), Violation> {
        if prev == EntryId::ZERO {
            let first = *self.memberships.keys().next().expect("the first epoch is always known");
            return Ok((first, 0, 0));
        }
        let fact = self.known(prev, by)?;
        Ok((fact.epoch_after, fact.closed, fact.entry.ts))
    }

    /// The fact of an id that `by` mentioned.
    fn known(&self, id: EntryId, by: NodeId) -> Result<&Fact, Violation> {
        self.facts.get(&id).ok_or_else(|| {
            Violation::new("2: an id names an entry that somebody proposed", format!("{by:?} mentions {id:?}"))
        })
    }

    /// Fails where `by` mentions an id that nobody proposed.
    pub(super) fn mentioned(&self, id: EntryId, by: NodeId) -> Check {
        if id == EntryId::ZERO { Ok(()) } else { self.known(id, by).map(|_| ()) }
    }

    /// The id at `slot` in the log that ends in `end`; `None` above it or where the chain is unknown.
    pub(super) fn ancestor(&self, end: EntryId, slot: Slot) -> Option<EntryId> {
        let mut at = end;
        while at.slot > slot {
            at = self.facts.get(&at)?.prev;
        }
        (at.slot == slot).then_some(at)
    }

    /// The epoch that governs an entry.
    pub(super) fn epoch_of(&self, id: EntryId) -> Option<Epoch> {
        self.facts.get(&id).map(|fact| fact.epoch)
    }
}
