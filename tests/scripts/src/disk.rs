//! A scripted disk: what is synced, what is on its way, and what a crash leaves.
//!
//! Owns: each node's durable bytes. Must never: show the replica a write before the script synced it.

use std::collections::{BTreeMap, VecDeque};
use synod_paxos::io::{LogReader, Persist, Recovered};
use synod_paxos::types::{Entry, EntryId, HardState, NodeId, Run, Slot, WriteSeq};

/// One node's log store.
pub struct Disk {
    pub hard: HardState,
    pub entries: BTreeMap<Slot, Entry>,
    pub trimmed: EntryId,
    pub applied: Slot,
    /// Handed over, not synced: a crash loses them.
    pub pending: VecDeque<Persist>,
    /// Reads fail with this; where it says nothing they find nothing.
    pub broken: Option<String>,
}

impl Disk {
    pub fn new(hard: HardState) -> Self {
        Self {
            hard,
            entries: BTreeMap::new(),
            trimmed: EntryId::ZERO,
            applied: Slot(0),
            pending: VecDeque::new(),
            broken: None,
        }
    }

    /// Syncs the oldest write.
    pub fn sync_one(&mut self) -> Option<WriteSeq> {
        let write = self.pending.pop_front()?;
        if let Some(hard) = write.hard {
            self.hard = hard;
        }
        if let Some(from) = write.truncate_from {
            self.entries.split_off(&from);
        }
        for entry in write.append {
            self.entries.insert(entry.id.slot, entry);
        }
        Some(write.seq)
    }

    pub fn trim(&mut self, upto: Slot) {
        let Some(entry) = self.entries.get(&upto) else { return };
        self.trimmed = entry.id;
        self.entries = self.entries.split_off(&upto.next());
    }

    /// What a restart finds.
    pub fn recover(&self, live: Vec<NodeId>) -> Recovered {
        let mut runs: Vec<Run> = Vec::new();
        for entry in self.entries.values() {
            if runs.last().is_none_or(|run| run.origin != entry.id.origin) {
                runs.push(Run { first: entry.id.slot, origin: entry.id.origin });
            }
        }
        let last = self.entries.values().last();
        Recovered {
            hard: self.hard.clone(),
            trimmed: self.trimmed,
            runs,
            last: last.map_or(self.trimmed, |e| e.id),
            last_ts: last.map_or(0, |e| e.ts),
            applied: self.applied,
            live,
        }
    }
}

impl LogReader for Disk {
    fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String> {
        match &self.broken {
            Some(why) if why.is_empty() => return Ok(Vec::new()),
            Some(why) => return Err(why.clone()),
            None => {}
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for (expected, (slot, entry)) in (from.next().0..).zip(self.entries.range(from.next()..=upto)) {
            if slot.0 != expected || bytes > max_bytes {
                break;
            }
            bytes += entry.size();
            found.push(entry.clone());
        }
        Ok(found)
    }
}
