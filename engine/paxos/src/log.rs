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
        if slot == self.trimmed.slot {
            return Some(self.trimmed);
        }
        self.run_at(slot).map(|(origin, _)| EntryId { slot, origin })
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
        if trim.slot <= last
            && let Some(covering) = runs.partition_point(|run| run.first <= trim.slot).checked_sub(1)
        {
            // Headers below the own trim point are gone, but an equal id there means an equal prefix.
            if runs[covering].origin != trim.origin {
                return at;
            }
            at = at.max(trim.slot);
        }
        for (i, run) in runs.iter().enumerate() {
            let end = runs.get(i + 1).and_then(|next| next.first.prev()).unwrap_or(last);
            let start = at.max(run.first.prev().unwrap_or(Slot(0)));
            if self.id_at(start).is_none() {
                return at;
            }
            at = start;
            while at < end {
                let Some((origin, ours_end)) = self.run_at(at.next()) else { return at };
                if origin != run.origin {
                    return at;
                }
                at = end.min(ours_end);
            }
        }
        at
    }

    /// The origin at a slot behind the trim point, and where its run ends.
    fn run_at(&self, slot: Slot) -> Option<(Ballot, Slot)> {
        // The first run begins right behind the trim point, so none begins at or before a trimmed slot.
        let after = self.runs.partition_point(|run| run.first <= slot);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let end = self.runs.get(after).and_then(|next| next.first.prev()).unwrap_or(self.last.slot);
        (slot <= self.last.slot).then_some((run.origin, end))
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
    pub(crate) fn last_is_stop_sign(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};
    use bytes::Bytes;

    fn ballot(round: u64) -> Ballot {
        Ballot { epoch: Epoch(1), round, node: NodeId(1) }
    }

    fn id(slot: u64, round: u64) -> EntryId {
        EntryId { slot: Slot(slot), origin: ballot(round) }
    }

    fn entry(slot: u64, round: u64) -> Entry {
        let data = vec![b'x'; usize::try_from(slot % 3).expect("small")];
        Entry::new(id(slot, round), slot, slot - 1, Payload::Command(Bytes::from(data)))
    }

    fn runs(ids: impl Iterator<Item = EntryId>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for id in ids {
            if runs.last().is_none_or(|run| run.origin != id.origin) {
                runs.push(Run { first: id.slot, origin: id.origin });
            }
        }
        runs
    }

    /// Numbers that a seed decides.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }
    }

    /// The same log, kept naively. It is the store behind the cache as well.
    struct Model {
        trimmed: EntryId,
        /// Those above the trim point.
        entries: Vec<Entry>,
        durable: u64,
    }

    impl Model {
        fn last(&self) -> EntryId {
            self.entries.last().map_or(self.trimmed, |e| e.id)
        }

        fn id_at(&self, slot: Slot) -> Option<EntryId> {
            let ids = self.entries.iter().map(|e| e.id);
            ids.chain([self.trimmed]).find(|id| id.slot == slot)
        }

        fn between(&self, from: Slot, upto: Slot, max_bytes: usize) -> Vec<Entry> {
            let (mut found, mut bytes) = (Vec::new(), 0);
            for entry in self.entries.iter().filter(|e| e.id.slot > from && e.id.slot <= upto) {
                if bytes > max_bytes {
                    break;
                }
                bytes += entry.size();
                found.push(entry.clone());
            }
            found
        }

        /// One random change, made to both.
        fn change(&mut self, log: &mut Log, round: &mut u64, random: &mut Numbers) {
            let (trimmed, last) = (self.trimmed.slot.0, self.last().slot.0);
            match random.below(7) {
                0..=2 => {
                    let mut added = Vec::new();
                    for slot in last + 1..last + 2 + random.below(3) {
                        *round += u64::from(random.below(3) == 0);
                        added.push(entry(slot, *round));
                    }
                    let bytes = log.append(&added);
                    assert_eq!(bytes, added.iter().map(Entry::size).sum::<usize>());
                    self.entries.extend(added);
                }
                3 => {
                    self.durable += random.below(last - self.durable + 1);
                    log.set_durable(Slot(self.durable));
                }
                4 => {
                    let (limit, upto) =
                        (usize::try_from(random.below(400)).expect("small"), Slot(random.below(last + 1)));
                    log.shrink(limit, upto);
                    let first = log.cache.front().map_or(last + 1, |e| e.id.slot.0);
                    assert!(log.cached_bytes() <= limit || first > upto.0.min(self.durable), "more stays than must");
                }
                5 => {
                    let upto = Slot(random.below(self.durable + 1));
                    log.trim(upto);
                    if upto.0 > trimmed {
                        self.trimmed = self.id_at(upto).expect("it is in the log");
                        self.entries.retain(|e| e.id.slot > upto);
                    }
                }
                _ if last > trimmed => {
                    let from = Slot(trimmed + 1 + random.below(last - trimmed));
                    log.truncate(from);
                    self.entries.retain(|e| e.id.slot < from);
                    self.durable = self.durable.min(from.0 - 1);
                    *round += 1;
                }
                _ => {}
            }
        }

        /// What the log says of every slot.
        fn compare(&self, log: &Log, random: &mut Numbers) {
            let last = self.last();
            assert_eq!(log.check(), Ok(()));
            assert_eq!((log.last(), log.trimmed(), log.durable()), (last, self.trimmed, Slot(self.durable)));
            assert!(log.last_ts() >= self.entries.last().map_or(0, |e| e.ts));
            for slot in (0..last.slot.0 + 3).map(Slot) {
                let held = self.id_at(slot);
                assert_eq!(log.id_at(slot), held, "at {slot} of {log:?}");
                assert!(held.is_none_or(|id| log.holds(id)) && !log.holds(id(slot.0, 999)));
                let behind = self.entries.iter().map(|e| e.id).filter(|id| id.slot > slot);
                assert_eq!(log.runs_after(slot), runs(behind), "behind {slot} of {log:?}");
                let body = self.entries.iter().find(|e| e.id.slot == slot);
                assert!(log.cached(slot).is_none_or(|cached| Some(cached) == body), "the body at {slot} of {log:?}");
                assert!(body.is_none() || slot.0 <= self.durable || log.cached(slot).is_some(), "{slot} is nowhere");
            }
            let cached = self.entries.iter().filter(|e| log.cached(e.id.slot).is_some());
            assert_eq!(log.cached_bytes(), cached.map(Entry::size).sum::<usize>());
            let from = Slot(self.trimmed.slot.0 + random.below(last.slot.0 - self.trimmed.slot.0 + 1));
            let upto = Slot(random.below(last.slot.0 + 1));
            let limit = usize::try_from(random.below(300)).expect("small");
            let (found, all) = (log.entries(self, from, upto, limit), self.between(from, upto, limit));
            let found = found.expect("the store has everything");
            assert!(all.starts_with(&found) && found.is_empty() == all.is_empty(), "({from}, {upto}] of {log:?}");
            if let Some(next) = all.get(found.len()) {
                let end = found.last().expect("not empty").id.slot;
                assert!(log.cached(end).is_none() && log.cached(next.id.slot).is_some(), "it stops at no border");
            }
        }
    }

    impl LogReader for Model {
        fn entries(&self, from: Slot, upto: Slot, max_bytes: usize) -> Result<Vec<Entry>, String> {
            Ok(self.between(from, upto, max_bytes))
        }
    }

    #[test]
    fn a_log_says_what_a_list_of_its_entries_says() {
        for seed in 0..500 {
            let mut random = Numbers(seed);
            let mut model = Model { trimmed: EntryId::ZERO, entries: Vec::new(), durable: 0 };
            let mut log = Log::recovered(EntryId::ZERO, Vec::new(), EntryId::ZERO, 0);
            let mut round = 1;
            for _ in 0..40 {
                model.change(&mut log, &mut round, &mut random);
                model.compare(&log, &mut random);
            }
        }
    }

    /// Origins from slot 1 on.
    fn origins(random: &mut Numbers, count: u64, first: u64) -> Vec<u64> {
        let mut round = first;
        let mut grow = |_| {
            round += u64::from(random.below(5) < 2);
            round
        };
        (0..count).map(&mut grow).collect()
    }

    /// Two logs with a common prefix, cut at random: the own one at its trim point, the other one where its headers begin.
    #[test]
    fn two_logs_agree_as_far_as_their_entries_are_known_to() {
        for seed in 0..20_000 {
            let mut random = Numbers(seed);
            let length = random.below(10);
            let ours = origins(&mut random, length, 1);
            let common = random.below(length + 1);
            let mut theirs = ours[..usize::try_from(common).expect("small")].to_vec();
            let more = random.below(4);
            theirs.extend(origins(&mut random, more, 100));
            let end = common + more;
            let agreed = random.below(common + 1);
            let trim = random.below(length + 1);
            let begin = 1 + random.below(end + 1);

            let at = |list: &[u64], slot: u64| list[usize::try_from(slot - 1).expect("small")];
            let trimmed = if trim == 0 { EntryId::ZERO } else { id(trim, at(&ours, trim)) };
            let last = if length == 0 { EntryId::ZERO } else { id(length, at(&ours, length)) };
            let own = runs((trim + 1..=length).map(|slot| id(slot, at(&ours, slot))));
            let log = Log::recovered(trimmed, own, last, 0);
            let other = runs((begin..=end).map(|slot| id(slot, at(&theirs, slot))));

            // What is known to be equal, then the trim point where both tell of it, then slot by slot.
            let mut expected = agreed;
            if expected < trim && begin <= trim && trim <= end && at(&ours, trim) == at(&theirs, trim) {
                expected = trim;
            }
            let other_way = expected < trim && begin <= trim && trim <= end;
            if !other_way && begin <= end && begin - 1 > expected && (trim..=length).contains(&(begin - 1)) {
                expected = begin - 1;
            }
            let compared = |slot: u64| slot > trim && slot <= length && slot >= begin && slot <= end;
            while compared(expected + 1) && at(&ours, expected + 1) == at(&theirs, expected + 1) {
                expected += 1;
            }
            let found = log.match_end(Slot(agreed), &other, Slot(end));
            assert_eq!(found, Slot(expected), "{log:?} and {other:?} up to {end}, equal up to {agreed}");
        }
    }

    /// A store that answers every question alike.
    struct Fixed(Vec<Entry>);

    impl LogReader for Fixed {
        fn entries(&self, _: Slot, _: Slot, _: usize) -> Result<Vec<Entry>, String> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn a_store_that_returns_other_slots_than_asked_for_fails() {
        let log = Log::recovered(EntryId::ZERO, vec![Run { first: Slot(1), origin: ballot(1) }], id(3, 1), 3);
        let ask = |entries: Vec<Entry>, upto: u64| log.entries(&Fixed(entries), Slot(1), Slot(upto), 1000);
        assert_eq!(ask(vec![entry(2, 1)], 2), Ok(vec![entry(2, 1)]));
        assert!(ask(vec![entry(3, 1)], 3).is_err(), "a slot is left out");
        assert!(ask(vec![entry(1, 1), entry(2, 1)], 3).is_err(), "one too many");
        assert!(ask(Vec::new(), 3).is_err(), "nothing");
        assert_eq!(ask(Vec::new(), 1), Ok(Vec::new()), "nothing was asked for");
        assert_eq!(ask(Vec::new(), 0), Ok(Vec::new()), "nor here");
    }

    #[test]
    fn a_log_whose_parts_disagree_is_found_out() {
        let mut good = Log::recovered(EntryId::ZERO, Vec::new(), EntryId::ZERO, 0);
        good.append(&[entry(1, 1), entry(2, 1), entry(3, 2)]);
        good.set_durable(Slot(2));
        assert_eq!(good.check(), Ok(()));
        let finds = |change: fn(&mut Log)| {
            let mut log = good.clone();
            change(&mut log);
            log.check().is_err()
        };
        assert!(finds(|log| log.trimmed = id(3, 2)), "trimmed above what is durable");
        assert!(finds(|log| log.durable = Slot(4)), "durable beyond the end");
        assert!(finds(|log| drop(log.cache.pop_back())), "bodies that end before the log");
        assert!(finds(|log| log.runs[1].origin = ballot(3)), "another origin than that of the last entry");
        assert!(finds(|log| log.runs[1].first = Slot(4)), "a run beyond the end");
        assert!(finds(|log| log.runs.clear()), "no run at all");
        let trimmed = Log::recovered(id(3, 2), Vec::new(), id(3, 2), 0);
        assert_eq!(trimmed.check(), Ok(()), "a log that is trimmed to its end has none");
    }
}
