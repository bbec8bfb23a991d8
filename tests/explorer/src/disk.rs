//! One node's disk, for one group.
//!
//! Owns: what is durable and what waits for a sync. Must never: tear a write, reorder writes, or show the core an entry
//! that is not synced.
//!
//! A crash keeps a prefix of the unsynced writes, possibly none and possibly all: a write may reach the disk although
//! nobody was told.

use std::cell::Cell;
use std::collections::VecDeque;
use synod_paxos::io::{LogReader, Persist, Recovered};
use synod_paxos::types::{Entry, EntryId, HardState, NodeId, Run, Slot};

/// A contiguous run of entries above a trim point.
#[derive(Clone, Debug)]
pub struct Log {
    /// The entry before the first retained one.
    pub base: EntryId,
    /// Its timestamp.
    pub base_ts: u64,
    entries: Vec<Entry>,
    reads: Cell<u64>,
}

impl Log {
    /// An empty log after `base`.
    pub fn after(base: EntryId, base_ts: u64) -> Self {
        Self { base, base_ts, entries: Vec::new(), reads: Cell::new(0) }
    }

    /// The last entry, or the trim point.
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |e| e.id)
    }

    /// Timestamp of [`Log::last`].
    pub fn last_ts(&self) -> u64 {
        self.entries.last().map_or(self.base_ts, |e| e.ts)
    }

    /// The retained entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `slot`, where retained.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.base.slot.0 + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The id at `slot`: that of a retained entry, or the trim point's own.
    pub fn id_at(&self, slot: Slot) -> Option<EntryId> {
        if slot == self.base.slot { Some(self.base) } else { self.get(slot).map(|e| e.id) }
    }

    /// Drops entries at and above `from`.
    pub fn truncate_from(&mut self, from: Slot) {
        let keep = from.0.saturating_sub(self.base.slot.0 + 1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Adds an entry; the caller has checked that it follows.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Drops entries at and below `upto`.
    pub fn trim(&mut self, upto: Slot) {
        while let Some(first) = self.entries.first() {
            if first.id.slot > upto {
                break;
            }
            (self.base, self.base_ts) = (first.id, first.ts);
            self.entries.remove(0);
        }
    }

    /// How often the core has read from here.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }
}

impl LogReader for Log {
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String> {
        self.reads.set(self.reads.get() + 1);
        if from < self.base.slot || upto > self.last().slot {
            return Err(format!("entries ({from:?}, {upto}] of a log ({}, {}]", self.base.slot, self.last().slot));
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in self.entries.iter().filter(|e| e.id.slot > from && e.id.slot <= upto) {
            bytes += entry.size();
            found.push(entry.clone());
            if bytes > max_bytes {
                break;
            }
        }
        Ok(found)
    }
}

/// What survives a crash, and what may not.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The durable hard state.
    pub hard: HardState,
    /// The durable log.
    pub log: Log,
    /// The durably applied position.
    pub applied: Slot,
    /// Writes handed over and not synced.
    pub queue: VecDeque<Persist>,
}

/// What one synced write changed.
pub struct Synced {
    /// The accepted ballot before it.
    pub accepted_before: synod_paxos::types::Ballot,
    /// Where it cut the log, where it did.
    pub truncated: bool,
    /// The first slot it appended, where it did.
    pub appended_from: Option<Slot>,
}

impl Disk {
    /// A disk holding `hard` and no entry.
    pub fn new(hard: HardState) -> Self {
        Self { hard, log: Log::after(EntryId::ZERO, 0), applied: Slot(0), queue: VecDeque::new() }
    }

    /// Makes the oldest unsynced write durable.
    pub fn sync_one(&mut self) -> Option<(Persist, Synced)> {
        let write = self.queue.pop_front()?;
        let synced = Synced {
            accepted_before: self.hard.accepted,
            truncated: write.truncate_from.is_some_and(|from| from <= self.log.last().slot),
            appended_from: write.append.first().map(|e| e.id.slot),
        };
        if let Some(from) = write.truncate_from {
            self.log.truncate_from(from);
        }
        for entry in &write.append {
            self.log.push(entry.clone());
        }
        if let Some(hard) = &write.hard {
            self.hard = hard.clone();
        }
        Some((write, synced))
    }

    /// What a restart reads back.
    pub fn recover(&self, live: Vec<NodeId>) -> Recovered {
        let mut runs: Vec<Run> = Vec::new();
        for entry in self.log.entries() {
            if runs.last().is_none_or(|run| run.origin != entry.id.origin) {
                runs.push(Run { first: entry.id.slot, origin: entry.id.origin });
            }
        }
        Recovered {
            hard: self.hard.clone(),
            trimmed: self.log.base,
            runs,
            last: self.log.last(),
            last_ts: self.log.last_ts(),
            applied: self.applied,
            live,
        }
    }
}
