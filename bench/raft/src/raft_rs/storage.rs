//! Raft's log over the log store: the newest entries in memory as in Synod's core, the others on disk.
//!
//! Owns: the form of Raft's entries and hard state on disk, and the cache. Must never: write.

use crate::setting::{Reader, limits, membership, nodes};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;
use std::sync::Arc;
use synod_engine::logstore::rocks::RocksLog;
use synod_paxos::io::LogReader;
use synod_paxos::types::{Ballot, EntryId, Epoch, NodeId, Payload, Slot};

/// What stands for a term, and whom it was given to.
fn ballot(term: u64, node: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round: term, node: NodeId(node) }
}

/// An entry as the log store keeps it.
pub fn to_stored(entry: &Entry) -> synod_paxos::types::Entry {
    let payload = if entry.data.is_empty() { Payload::Noop } else { Payload::Command(entry.data.clone()) };
    let id = EntryId { slot: Slot(entry.index), origin: ballot(entry.term, 0) };
    synod_paxos::types::Entry::new(id, 0, 0, payload)
}

fn from_stored(stored: synod_paxos::types::Entry) -> Entry {
    let data = match stored.payload {
        Payload::Command(data) => data,
        Payload::Noop | Payload::Config(_) => Bytes::new(),
    };
    Entry { index: stored.id.slot.0, term: stored.id.origin.round, data, ..Entry::default() }
}

/// A hard state as the log store keeps it.
pub fn hard_state(hard: &HardState) -> synod_paxos::types::HardState {
    let promised = ballot(hard.term, hard.vote);
    let initial = synod_paxos::types::HardState::initial(membership());
    synod_paxos::types::HardState { promised, commit_hint: Slot(hard.commit), ..initial }
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + 64
}

/// The log of a replica.
pub struct Stored {
    log: Reader,
    /// The newest entries, without gap up to the last.
    cache: VecDeque<Entry>,
    cached_bytes: usize,
    last: u64,
    /// Where each term begins.
    terms: Vec<(u64, u64)>,
}

impl Stored {
    /// An empty one.
    pub fn new(log: Arc<RocksLog>) -> Self {
        Stored { log: Reader(log), cache: VecDeque::new(), cached_bytes: 0, last: 0, terms: Vec::new() }
    }

    fn first_cached(&self) -> u64 {
        self.last + 1 - self.cache.len() as u64
    }

    /// Entries that are about to be written; from where they take the place of others.
    pub fn append(&mut self, entries: Vec<Entry>) -> Option<u64> {
        let first = entries.first()?.index;
        assert!(first <= self.last + 1, "entry {first} appended after {}: a gap", self.last);
        let overwritten = (first <= self.last).then_some(first);
        while self.last >= first {
            if let Some(entry) = self.cache.pop_back() {
                self.cached_bytes -= size(&entry);
            }
            self.last -= 1;
        }
        self.terms.retain(|(at, _)| *at < first);
        for entry in entries {
            if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            self.last = entry.index;
            self.cached_bytes += size(&entry);
            self.cache.push_back(entry);
        }
        overwritten
    }

    /// Forgets applied entries beyond `bytes`: they are on disk.
    pub fn shrink(&mut self, applied: u64, bytes: usize) {
        while self.cached_bytes > bytes && self.cache.front().is_some_and(|e| e.index <= applied) {
            if let Some(entry) = self.cache.pop_front() {
                self.cached_bytes -= size(&entry);
            }
        }
    }
}

impl Storage for Stored {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let voters: Vec<u64> = nodes().iter().map(|node| node.0).collect();
        let conf = ConfState { voters, ..ConfState::default() };
        Ok(RaftState::new(HardState::default(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_bytes = max_size.into().map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        if low < self.first_cached() {
            let upto = Slot(high.min(self.first_cached()) - 1);
            let found = self.log.entries(Slot(low - 1), upto, max_bytes.min(limits().message_bytes));
            let found = found.map_err(|why| Error::Store(StorageError::Other(why.into())))?;
            return Ok(found.into_iter().map(from_stored).collect());
        }
        let skip = usize::try_from(low - self.first_cached()).expect("the cache fits in memory");
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += size(entry);
            first || bytes <= max_bytes
        };
        Ok(self.cache.iter().skip(skip).take_while(|e| e.index < high).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index > self.last {
            return Err(Error::Store(StorageError::Unavailable));
        }
        Ok(self.terms.iter().rev().find(|(at, _)| *at <= index).map_or(0, |(_, term)| *term))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // The log is never trimmed: nobody needs one.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::NodeWriteSeq;
    use synod_engine::logstore::{GroupWrite, LogBatch, LogStore};

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: Bytes::from(vec![index as u8; 100]), ..Entry::default() }
    }

    fn read(stored: &Stored, low: u64, high: u64, max: Option<u64>) -> Vec<(u64, u64)> {
        let found = stored.entries(low, high, max, GetEntriesContext::empty(false)).expect("readable");
        found.iter().map(|e| (e.index, e.term)).collect()
    }

    #[test]
    fn entries_are_read_from_memory_and_disk_alike_and_a_conflict_replaces_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = crate::setting::create_log(dir.path()).expect("a fresh directory opens");
        let mut stored = Stored::new(Arc::clone(&log));
        let mut seq = 1;
        let mut append = |stored: &mut Stored, entries: Vec<Entry>| {
            let append = entries.iter().map(to_stored).collect();
            let truncate_from = stored.append(entries).map(Slot);
            seq += 1;
            let write = GroupWrite { shard: crate::setting::SHARD, truncate_from, append, ..GroupWrite::default() };
            log.write(&LogBatch { groups: vec![write], seq: NodeWriteSeq(seq), seen: Vec::new() }).expect("a write");
        };
        append(&mut stored, (1..=6).map(|index| entry(index, 1)).collect());
        append(&mut stored, (4..=5).map(|index| entry(index, 3)).collect());
        let all = [(1, 1), (2, 1), (3, 1), (4, 3), (5, 3)];
        assert_eq!(read(&stored, 1, 6, None), all);
        let terms: Vec<u64> = (0..=5).map(|index| stored.term(index).expect("known")).collect();
        assert_eq!(terms, [0, 1, 1, 1, 3, 3]);
        assert!(stored.term(6).is_err(), "it was replaced");
        stored.shrink(3, 0);
        assert_eq!(stored.cache.len(), 2, "what is not applied stays");
        assert_eq!(read(&stored, 1, 4, None), all[..3], "from disk");
        assert_eq!(read(&stored, 4, 6, None), all[3..], "from memory");
        assert_eq!(read(&stored, 4, 6, Some(1)), all[3..4], "at least one");
        stored.shrink(5, 0);
        let bodies = stored.entries(1, 6, None, GetEntriesContext::empty(false)).expect("readable");
        assert_eq!(bodies, [entry(1, 1), entry(2, 1), entry(3, 1), entry(4, 3), entry(5, 3)]);
    }
}
