//! What pages of records cost: bytes read of the store for the bytes that are given.
//!
//! Owns: a store that counts. Must never: count what a page gives as what it reads.

use bytes::Bytes;
use synod_engine::StoreError;
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteId, WriteRequest, encode_requests};
use synod_engine::genesis::Genesis;
use synod_engine::host::{Answer, Read, Scan};
use synod_engine::ids::{ClientId, ClientSeq, Entry, EntryId, Offset, SYSTEM_SHARD, ShardId, Space, TableId};
use synod_engine::machine::ShardState;
use synod_engine::machine::overlay::Overlay;
use synod_engine::query::{self, PAGE_BYTES_MAX};
use synod_engine::state::mem::MemState;
use synod_engine::state::{FlushId, StateBatch, StateStore, Visit};
use synod_engine::system::{Descriptor, Partitioning, Retention, SystemState};
use synod_paxos::types::Payload;

const TABLE: TableId = TableId(3);

/// A shard on a store in memory.
struct Bench {
    store: MemState,
    state: ShardState,
    overlay: Overlay,
}

impl Bench {
    fn new(partitioning: Partitioning, retention: Retention) -> Self {
        let system = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
        let descriptor = Descriptor { shard: ShardId(2), table: TABLE, partitioning, retention, ..system };
        let mut store = MemState::new();
        let state = ShardState::load(&mut store, Space(2), Genesis::Shard(descriptor)).unwrap();
        Self { store, state, overlay: Overlay::default() }
    }

    /// Appends one record in an entry of its own.
    fn append(&mut self, ts: u64, key: &str, value: &Bytes) {
        let records = vec![NewRecord { headers: vec![], value: value.clone() }];
        let key = Bytes::copy_from_slice(key.as_bytes());
        let ops = vec![KeyOp { key, expect: Expect::Any, action: Action::Append(records) }];
        let slot = self.state.applied().next();
        let (seq, floor) = (ClientSeq(slot.0), ClientSeq(slot.0));
        let id = WriteId { client: ClientId(1), seq, floor, deadline_us: u64::MAX };
        let request = WriteRequest { id, op: Op::Write { table: TABLE, ops } };
        let data = encode_requests(std::iter::once(&request), 0);
        let entry = Entry::new(EntryId { slot, ..EntryId::ZERO }, ts, 0, Payload::Command(data));
        self.state.apply(&mut self.store, &mut self.overlay, &entry, None).unwrap();
    }
}

/// A store that counts what is read from it, bytes of keys and values.
struct Counted<'a> {
    store: &'a mut dyn StateStore,
    bytes: usize,
}

impl StateStore for Counted<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.store.get(key)?;
        self.bytes += key.len() + found.as_ref().map_or(0, Bytes::len);
        Ok(found)
    }

    fn scan(&mut self, from: &[u8], to: &[u8], reverse: bool, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let bytes = &mut self.bytes;
        self.store.scan(from, to, reverse, &mut |key, value| {
            *bytes += key.len() + value.len();
            visit(key, value)
        })
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        self.store.apply(batch)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.store.remove_range(from, to)
    }

    fn wants_freeze(&self) -> bool {
        self.store.wants_freeze()
    }

    fn freeze(&mut self) -> Result<FlushId, StoreError> {
        self.store.freeze()
    }

    fn flushed(&mut self) -> Result<FlushId, StoreError> {
        self.store.flushed()
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.store.flush_and_wait()
    }

    fn memory_bytes(&self) -> usize {
        self.store.memory_bytes()
    }
}

/// A page, and how many bytes were given and read for it.
struct Cost {
    records: usize,
    given: usize,
    read: usize,
}

/// What each page of a scan costs.
fn costs(b: &mut Bench, mut wanted: Scan) -> Vec<Cost> {
    let mut all = vec![];
    loop {
        let mut store = Counted { store: &mut b.store, bytes: 0 };
        match query::read(&b.state, &mut store, &Read::Scan(wanted.clone())).unwrap().unwrap() {
            Answer::Page { records, cursor, .. } => {
                let given = records.iter().map(|r| r.key.len() + r.record.value.len()).sum();
                all.push(Cost { records: records.len(), given, read: store.bytes });
                wanted.cursor = cursor;
            }
            other => panic!("{other:?}"),
        }
        if wanted.cursor.is_empty() {
            return all;
        }
    }
}

/// Bytes of a large value.
const LARGE: usize = 300_000;

fn with_large_values(partitioning: Partitioning, retention: Retention, versions: u64) -> Bench {
    let mut b = Bench::new(partitioning, retention);
    let large = Bytes::from(vec![b'x'; LARGE]);
    for version in 0..versions {
        for key in 0..20 {
            b.append(1000 * (version + 1) + key, &format!("k{key:02}"), &large);
        }
    }
    b
}

#[test]
fn a_page_of_large_values_reads_what_it_gives_and_one_record_more() {
    for retention in [Retention::Latest, Retention::All] {
        for partitioning in [Partitioning::Range, Partitioning::Hash] {
            let mut b = with_large_values(partitioning, retention, 3);
            for (reverse, history) in [(false, false), (true, false), (false, true)] {
                let all = costs(&mut b, Scan { reverse, history, ..Scan::default() });
                let records = if history && retention == Retention::All { 60 } else { 20 };
                assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), records);
                for Cost { given, read, .. } in all {
                    let what = format!("{retention:?} {partitioning:?} reverse {reverse} history {history}");
                    assert!(given < PAGE_BYTES_MAX + LARGE, "{what}: a page of {given} bytes");
                    assert!(read < given + LARGE + 10_000, "{what}: {read} bytes read to give {given}");
                }
            }
        }
    }
}

#[test]
fn keys_alone_are_listed_without_reading_values() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = with_large_values(partitioning, Retention::All, 3);
        let all = costs(&mut b, Scan { keys_only: true, ..Scan::default() });
        let [Cost { records: 20, read, .. }] = all[..] else { panic!("{} pages", all.len()) };
        assert!(read < 20 * 200, "{read} bytes read for 20 keys");
        // Where the value stands in the head, a page reads no more than any other.
        let mut b = with_large_values(partitioning, Retention::Latest, 1);
        let all = costs(&mut b, Scan { keys_only: true, ..Scan::default() });
        assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), 20);
        assert!(all.iter().all(|page| page.read < PAGE_BYTES_MAX + 2 * LARGE));
    }
}

#[test]
fn a_tail_that_catches_up_reads_no_more_old_records_than_it_needs_to_find_the_new_ones() {
    let mut b = with_large_values(Partitioning::Range, Retention::All, 10);
    // The last two versions of each key.
    let wanted = Scan { history: true, tombstones: true, after_ts: 8_999, upto_ts: 10_999, ..Scan::default() };
    let all = costs(&mut b, wanted.clone());
    assert_eq!(all.iter().map(|page| page.records).sum::<usize>(), 40);
    for Cost { given, read, .. } in all {
        // Of each key, one record too old and one that is found new by the way.
        assert!(read <= 2 * given + 2 * LARGE + 20_000, "{read} bytes read to give {given}");
    }
    // Nothing is wanted of any key.
    let all = costs(&mut b, Scan { after_ts: 99_999, ..wanted });
    assert_eq!(all.len(), 1);
    assert!(all[0].read < 20 * 200, "{} bytes read", all[0].read);
}

#[test]
fn a_page_of_a_keys_records_reads_what_it_gives() {
    let mut b = with_large_values(Partitioning::Hash, Retention::All, 12);
    let mut store = Counted { store: &mut b.store, bytes: 0 };
    let wanted = Read::Range { key: Bytes::from_static(b"k07"), from: Offset(2), limit: 0 };
    match query::read(&b.state, &mut store, &wanted).unwrap().unwrap() {
        Answer::Page { records, .. } => assert_eq!(records.len(), 4),
        other => panic!("{other:?}"),
    }
    assert!(store.bytes < 4 * LARGE + 10_000, "{} bytes read", store.bytes);
}
