//! The log as the core sees it: origins of all retained entries, bodies of the newest.
//!
//! Owns: the staged and the durable end of the log, the trim point and the cache of bodies. Must never: drop the body of
//! an entry that is not yet durable, chosen and applied, or change a slot at or below the trim point.

use crate::io::LogReader;
use crate::types::{Ballot, Entry, EntryId, Payload, Run, Slot};
use std::collections::VecDeque;

/// The in-memory view of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    trimmed: EntryId,
    /// Origins from `trimmed.slot + 1` on.
    runs: VecDeque<Run>,
    last: EntryId,
    last_ts: u64,
    /// The newest entries, contiguous, ending at `last`; may be empty.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// Everything up to here is on this replica's disk.
    durable: Slot,
}

impl Log {
    pub(crate) fn recovered(trimmed: EntryId, runs: Vec<Run>, last: EntryId, last_ts: u64) -> Self {
        let durable = last.slot;
        Self { trimmed, runs: runs.into(), last, last_ts, cache: VecDeque::new(), cache_bytes: 0, durable }
    }

    pub(crate) fn last(&self) -> EntryId {
        self.last
    }

    pub(crate) fn last_ts(&self) -> u64 {
        self.last_ts
    }

    pub(crate) fn trimmed(&self) -> EntryId {
        self.trimmed
    }

    pub(crate) fn durable(&self) -> Slot {
        self.durable
    }

    pub(crate) fn set_durable(&mut self, slot: Slot) {
        assert!(slot <= self.last.slot, "durable {slot:?} beyond the last slot {:?}", self.last);
        self.durable = self.durable.max(slot);
    }

    /// The id of the entry at `slot`; `None` below the trim point and beyond the end.
    pub(crate) fn id_at(&self, slot: Slot) -> Option<EntryId> {
        if slot == self.last.slot {
            return Some(self.last);
        }
        if slot == self.trimmed.slot {
            return Some(self.trimmed);
        }
        if slot < self.trimmed.slot || slot > self.last.slot {
            return None;
        }
        Some(EntryId { slot, origin: self.runs[self.run_index(slot)].origin })
    }

    /// Whether the log holds exactly this entry (the trim point counts as held).
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.id_at(id.slot) == Some(id)
    }

    fn run_index(&self, slot: Slot) -> usize {
        self.runs.partition_point(|run| run.first <= slot) - 1
    }

    /// Headers of the slots after `after` (or after the trim point, if later).
    pub(crate) fn runs_after(&self, after: Slot) -> Vec<Run> {
        let first = after.max(self.trimmed.slot).next();
        if first > self.last.slot {
            return Vec::new();
        }
        let at = self.run_index(first);
        let mut runs: Vec<Run> = self.runs.range(at..).copied().collect();
        runs[0].first = first;
        runs
    }

    /// The last slot up to which this log and another agree, given that they agree up to `agreed` and that the other one's
    /// headers behind it are `runs` up to `last`. Where the headers begin later, the slots between were trimmed there: chosen,
    /// but not compared. A log that reaches that trim point is taken to agree with it until the bodies behind it arrive,
    /// which name the id it must have there; a shorter one agrees no further than it is known to.
    pub(crate) fn match_end(&self, agreed: Slot, runs: &[Run], last: Slot) -> Slot {
        let mut at = agreed.min(self.last.slot);
        let trim = self.trimmed;
        if at < trim.slot && trim.slot <= last && runs.first().is_some_and(|r| r.first <= trim.slot) {
            // Headers below the own trim point are gone, but an equal id there means an equal prefix.
            let covering = runs.partition_point(|r| r.first <= trim.slot) - 1;
            if runs[covering].origin != trim.origin {
                return at;
            }
            at = trim.slot;
        }
        for (i, run) in runs.iter().enumerate() {
            let end = runs.get(i + 1).and_then(|next| next.first.prev()).unwrap_or(last);
            if end <= at {
                continue;
            }
            let gap = run.first.prev().unwrap_or(Slot(0));
            if gap > at && self.id_at(gap).is_none() {
                return at;
            }
            at = at.max(gap);
            while at < end {
                let Some((origin, ours_end)) = self.run_at(at.next()) else { return at.min(self.last.slot) };
                if origin != run.origin {
                    return at;
                }
                at = end.min(ours_end);
            }
        }
        at.min(self.last.slot)
    }

    fn run_at(&self, slot: Slot) -> Option<(Ballot, Slot)> {
        if slot <= self.trimmed.slot || slot > self.last.slot {
            return None;
        }
        let at = self.run_index(slot);
        let end = self.runs.get(at + 1).and_then(|next| next.first.prev()).unwrap_or(self.last.slot);
        Some((self.runs[at].origin, end))
    }

    /// Adds entries at the end; the caller stages their write. Returns their bytes.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> usize {
        let before = self.cache_bytes;
        for entry in entries {
            assert_eq!(entry.id.slot, self.last.slot.next(), "an append must be contiguous");
            if self.runs.back().is_none_or(|run| run.origin != entry.id.origin) {
                self.runs.push_back(Run { first: entry.id.slot, origin: entry.id.origin });
            }
            self.last = entry.id;
            self.last_ts = entry.ts;
            self.cache_bytes += entry.size();
            self.cache.push_back(entry.clone());
        }
        self.cache_bytes - before
    }

    /// Removes `from` and everything after it; the caller stages the truncation. The last timestamp stays where the body
    /// of the entry that becomes the last is not in memory: too great is safe, since later ones only need to be greater.
    pub(crate) fn truncate(&mut self, from: Slot) {
        let keep = from.prev().expect("slot 0 is never truncated");
        assert!(keep >= self.trimmed.slot, "truncation at {from:?} reaches the trim point {:?}", self.trimmed);
        let last = self.id_at(keep).expect("a truncation keeps a held slot");
        while self.cache.back().is_some_and(|e| e.id.slot >= from) {
            let gone = self.cache.pop_back().expect("the back was just seen");
            self.cache_bytes -= gone.size();
        }
        while self.runs.back().is_some_and(|run| run.first >= from) {
            self.runs.pop_back();
        }
        self.last = last;
        self.last_ts = self.cache.back().map_or(self.last_ts, |e| e.ts);
        self.durable = self.durable.min(keep);
    }

    /// Forgets bodies beyond `limit` bytes, oldest first, of entries at or below `upto` that are durable.
    pub(crate) fn shrink(&mut self, limit: usize, upto: Slot) {
        let upto = upto.min(self.durable);
        while self.cache_bytes > limit && self.cache.front().is_some_and(|e| e.id.slot <= upto) {
            let gone = self.cache.pop_front().expect("the front was just seen");
            self.cache_bytes -= gone.size();
        }
    }

    /// Bytes of the bodies in memory.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// The driver removed the log up to here.
    pub(crate) fn trim(&mut self, upto: Slot) {
        if upto <= self.trimmed.slot {
            return;
        }
        let id = self.id_at(upto).expect("a trim stays within the log");
        while self.cache.front().is_some_and(|e| e.id.slot <= upto) {
            let gone = self.cache.pop_front().expect("the front was just seen");
            self.cache_bytes -= gone.size();
        }
        self.trimmed = id;
        if upto == self.last.slot {
            self.runs.clear();
            return;
        }
        let at = self.run_index(upto.next());
        self.runs.drain(..at);
        self.runs[0].first = upto.next();
    }

    /// The entry at `slot`, where its body is in memory.
    pub(crate) fn cached(&self, slot: Slot) -> Option<&Entry> {
        let first = self.cache.front()?.id.slot;
        let at = usize::try_from(slot.0.checked_sub(first.0)?).ok()?;
        self.cache.get(at)
    }

    /// Entries of `(from, upto]` up to the one that passes `max_bytes`: from memory, else from the driver's store. May stop
    /// early at the border between both.
    pub(crate) fn entries(
        &self,
        store: &dyn LogReader,
        from: Slot,
        upto: Slot,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, String> {
        if from >= upto {
            return Ok(Vec::new());
        }
        let cache_first = self.cache.front().map_or(self.last.slot.next(), |e| e.id.slot);
        if from.next() < cache_first {
            let upto = upto.min(cache_first.prev().expect("a cached slot is above 0"));
            let entries = store.entries(from, upto, max_bytes)?;
            return if entries.first().is_some_and(|e| e.id.slot == from.next()) {
                Ok(entries)
            } else {
                Err(format!("the log store returned nothing for slot {}", from.next()))
            };
        }
        let skip = usize::try_from(from.next().0 - cache_first.0).expect("the cache fits memory");
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.cache.range(skip..) {
            if entry.id.slot > upto || bytes > max_bytes {
                break;
            }
            bytes += entry.size();
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// Bytes of the cached entries of `(from, upto]`.
    pub(crate) fn bytes_between(&self, from: Slot, upto: Slot) -> usize {
        let mut slot = from.next();
        let mut bytes = 0;
        while slot <= upto {
            bytes += self.cached(slot).map_or(0, Entry::size);
            slot = slot.next();
        }
        bytes
    }

    /// The membership named by the last entry, where that is a stop-sign whose body is in memory.
    pub(crate) fn last_is_config(&self) -> bool {
        self.cache.back().is_some_and(|e| matches!(e.payload, Payload::Config(_)))
    }

    /// Puts a recovered entry back into the cache, when that is empty and the entry is the last.
    pub(crate) fn restore_last(&mut self, entry: Entry) {
        assert!(self.cache.is_empty() && entry.id == self.last, "only the last entry is restored: {:?}", entry.id);
        self.cache_bytes += entry.size();
        self.cache.push_back(entry);
    }

    /// Checks what is cheap: order of watermarks, agreement of cache, runs and ends.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.trimmed.slot > self.durable || self.durable > self.last.slot {
            return Err(format!("trimmed {:?} <= durable {:?} <= last {:?}", self.trimmed, self.durable, self.last));
        }
        if let Some(back) = self.cache.back()
            && back.id != self.last
        {
            return Err(format!("the cache ends at {:?}, the log at {:?}", back.id, self.last));
        }
        match self.runs.back() {
            Some(run) if run.origin != self.last.origin || run.first > self.last.slot => {
                Err(format!("the last run {run:?} does not cover the last entry {:?}", self.last))
            }
            None if self.last != self.trimmed => Err(format!("no run covers the last entry {:?}", self.last)),
            _ => Ok(()),
        }
    }
}
