//! What every log store must do, run against each of them.
//!
//! Owns: the suite. Must never: know which store it runs against, except where damage is done to files.

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::*;
use synod_engine::StoreError;
use synod_engine::codec::{keys, node};
use synod_engine::logstore::mem::MemLog;
use synod_engine::logstore::rocks::{LogOptions, RocksLog};
use synod_engine::logstore::{GONE, GroupRecovered, GroupWrite, LogBatch, LogStore, NodeIdentity};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, Payload};
use tempfile::TempDir;

/// A store that can be closed and opened again.
trait Subject {
    fn store(&self) -> &dyn LogStore;
    fn reopen(&mut self);
}

struct Mem(Arc<MemLog>);

impl Subject for Mem {
    fn store(&self) -> &dyn LogStore {
        &*self.0
    }
    fn reopen(&mut self) {}
}

struct Rocks {
    directory: TempDir,
    log: Option<RocksLog>,
}

/// Small memtables, so that the suite sees flushes too.
const SIZES: LogOptions = LogOptions { memtable_bytes: 64 << 10, memtables: 4, cache_bytes: 1 << 20 };

impl Rocks {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let log = Some(RocksLog::open(directory.path(), &SIZES).unwrap());
        Self { directory, log }
    }

    /// Closes the store and hands the bare database to `damage`.
    fn with_raw(&mut self, damage: impl FnOnce(&rocksdb::DB)) {
        self.log = None;
        let db = rocksdb::DB::open_default(self.directory.path()).unwrap();
        damage(&db);
        db.flush().unwrap();
        drop(db);
    }

    fn open(&self) -> Result<RocksLog, StoreError> {
        RocksLog::open(self.directory.path(), &SIZES)
    }
}

impl Subject for Rocks {
    fn store(&self) -> &dyn LogStore {
        self.log.as_ref().unwrap()
    }
    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(self.open().unwrap());
    }
}

fn each(test: impl Fn(&mut dyn Subject)) {
    test(&mut Mem(Arc::new(MemLog::new())));
    test(&mut Rocks::new());
}

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NodeId(1) }
}

fn entry(slot: u64, round: u64) -> Entry {
    let id = EntryId { slot: Slot(slot), origin: ballot(round) };
    Entry::new(id, slot * 10 + round, slot, Payload::Command(vec![slot as u8; (slot % 50) as usize].into()))
}

fn id(slot: u64, round: u64) -> EntryId {
    EntryId { slot: Slot(slot), origin: ballot(round) }
}

fn hard(commit: u64) -> HardState {
    let members = vec![Member { node: NodeId(1), role: MemberRole::Voter }];
    let membership = Membership { epoch: Epoch(1), members, first_leader: NodeId(1) };
    HardState { commit_hint: Slot(commit), ..HardState::initial(membership) }
}

fn create(shard: u64) -> GroupWrite {
    let genesis = Some(Bytes::from(format!("genesis of {shard}")));
    GroupWrite { shard: ShardId(shard), genesis, hard: Some(hard(0)), ..GroupWrite::default() }
}

fn append(shard: u64, entries: Vec<Entry>) -> GroupWrite {
    GroupWrite { shard: ShardId(shard), append: entries, ..GroupWrite::default() }
}

fn batch(seq: u64, groups: Vec<GroupWrite>) -> LogBatch {
    LogBatch { groups, seq: NodeWriteSeq(seq), seen: Vec::new() }
}

fn group(store: &dyn LogStore, shard: u64) -> GroupRecovered {
    store.recover_group(ShardId(shard)).unwrap().unwrap()
}

fn slots(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.id.slot.0).collect()
}

fn is_corrupt<T: std::fmt::Debug>(found: Result<T, StoreError>) -> bool {
    matches!(found, Err(StoreError::Corrupt { .. }))
}

#[test]
fn an_empty_store_has_nothing() {
    each(|subject| {
        for _ in 0..2 {
            let node = subject.store().recover_node().unwrap();
            assert_eq!(node.identity, None);
            assert_eq!((node.incarnation, node.seq), (Incarnation(0), NodeWriteSeq(0)));
            assert!(node.groups.is_empty() && node.removed.is_empty() && node.seen.is_empty());
            assert!(subject.store().recover_group(ShardId(1)).unwrap().is_none());
            assert!(subject.store().entries(ShardId(1), Slot(4), Slot(4), 0).unwrap().is_empty());
            assert!(is_corrupt(subject.store().entries(ShardId(1), Slot(0), Slot(1), 0)));
            subject.store().health().unwrap();
            subject.reopen();
        }
    });
}

#[test]
fn identity_is_set_once() {
    each(|subject| {
        let ours = NodeIdentity { cluster: ClientId(7), node: NodeId(2) };
        subject.store().set_identity(&ours).unwrap();
        subject.store().set_identity(&ours).unwrap();
        subject.reopen();
        assert_eq!(subject.store().recover_node().unwrap().identity, Some(ours));
        for (cluster, node) in [(8, 2), (7, 3)] {
            let other = NodeIdentity { cluster: ClientId(cluster), node: NodeId(node) };
            let refused = subject.store().set_identity(&other);
            assert!(matches!(refused, Err(StoreError::Identity { found_node: 2, .. })), "{refused:?}");
        }
    });
}

#[test]
fn incarnations_rise_through_reopening() {
    each(|subject| {
        for n in 1..4 {
            assert_eq!(subject.store().begin_incarnation().unwrap(), Incarnation(n));
            subject.reopen();
            assert_eq!(subject.store().recover_node().unwrap().incarnation, Incarnation(n));
        }
    });
}

#[test]
fn a_batch_of_many_groups_comes_back() {
    each(|subject| {
        let mut first = create(3);
        first.append = (1..=5).map(|slot| entry(slot, 1)).collect();
        let mut written = batch(1, vec![first, create(u64::MAX), create(0)]);
        written.seen = vec![(NodeId(9), Incarnation(1), NodeWriteSeq(5)), (NodeId(2), Incarnation(4), NodeWriteSeq(6))];
        subject.store().write(&written).unwrap();
        let mut second = append(3, vec![entry(6, 2), entry(7, 2)]);
        second.hard = Some(hard(5));
        let mut written = batch(2, vec![second]);
        written.seen = vec![(NodeId(9), Incarnation(2), NodeWriteSeq(1))];
        subject.store().write(&written).unwrap();
        for _ in 0..2 {
            let node = subject.store().recover_node().unwrap();
            assert_eq!(node.seq, NodeWriteSeq(2));
            assert_eq!(node.groups, [ShardId(0), ShardId(3), ShardId(u64::MAX)]);
            let seen = [(NodeId(2), Incarnation(4), NodeWriteSeq(6)), (NodeId(9), Incarnation(2), NodeWriteSeq(1))];
            assert_eq!(node.seen, seen);

            let found = group(subject.store(), 3);
            assert_eq!(found.genesis, "genesis of 3");
            assert_eq!(found.hard, hard(5));
            assert_eq!(found.trimmed, EntryId::ZERO);
            let runs = [Run { first: Slot(1), origin: ballot(1) }, Run { first: Slot(6), origin: ballot(2) }];
            assert_eq!(found.runs, runs);
            assert_eq!((found.last, found.last_ts), (id(7, 2), 72));

            let empty = group(subject.store(), 0);
            assert_eq!((empty.last, empty.last_ts, empty.runs.len()), (EntryId::ZERO, 0, 0));

            let all = subject.store().entries(ShardId(3), Slot(0), Slot(7), usize::MAX).unwrap();
            let expected: Vec<Entry> = (1..=5).map(|slot| entry(slot, 1)).chain([entry(6, 2), entry(7, 2)]).collect();
            assert_eq!(all, expected);
            subject.reopen();
        }
    });
}

#[test]
fn reading_entries_keeps_to_bounds() {
    each(|subject| {
        let mut write = create(1);
        write.append = (1..=9).map(|slot| entry(slot, 1)).collect();
        subject.store().write(&batch(1, vec![write])).unwrap();
        let read =
            |from, upto, bytes| slots(&subject.store().entries(ShardId(1), Slot(from), Slot(upto), bytes).unwrap());
        assert_eq!(read(2, 5, usize::MAX), [3, 4, 5]);
        assert_eq!(read(5, 5, usize::MAX), [0; 0]);
        assert_eq!(read(6, 5, usize::MAX), [0; 0]);
        assert_eq!(read(2, 9, 0), [3], "at least one");
        let two = entry(3, 1).size() + entry(4, 1).size();
        assert_eq!(read(2, 9, two - 1), [3, 4]);
        assert_eq!(read(2, 9, two), [3, 4, 5], "up to the entry that passes the limit");
        assert!(is_corrupt(subject.store().entries(ShardId(1), Slot(7), Slot(10), usize::MAX)), "no slot 10");
        assert_eq!(read(7, 10, 0), [8], "the limit ends the read before the missing slot");
        assert!(is_corrupt(subject.store().entries(ShardId(1), Slot(9), Slot(10), 0)), "no slot 10");
        assert!(is_corrupt(subject.store().entries(ShardId(2), Slot(0), Slot(1), 0)), "no such group");
    });
}

#[test]
fn truncation_comes_before_append() {
    each(|subject| {
        let mut write = create(1);
        write.append = (1..=9).map(|slot| entry(slot, 1)).collect();
        let neighbour = GroupWrite { append: vec![entry(1, 1)], ..create(2) };
        subject.store().write(&batch(1, vec![write, neighbour])).unwrap();
        let mut write = append(1, vec![entry(4, 2), entry(5, 2)]);
        write.truncate_from = Some(Slot(4));
        // The same group a second time in the same batch: in order.
        let mut again = append(1, vec![entry(5, 3)]);
        again.truncate_from = Some(Slot(5));
        subject.store().write(&batch(2, vec![write, again])).unwrap();
        for _ in 0..2 {
            let found = group(subject.store(), 1);
            assert_eq!(found.last, id(5, 3));
            let firsts: Vec<u64> = found.runs.iter().map(|run| run.first.0).collect();
            assert_eq!(firsts, [1, 4, 5]);
            assert_eq!(group(subject.store(), 2).last, id(1, 1));
            subject.reopen();
        }
        let write = GroupWrite { shard: ShardId(1), truncate_from: Some(Slot(1)), ..GroupWrite::default() };
        subject.store().write(&batch(3, vec![write])).unwrap();
        subject.reopen();
        assert_eq!(group(subject.store(), 1).last, EntryId::ZERO);
    });
}

#[test]
fn trimmed_entries_are_gone() {
    each(|subject| {
        let mut write = create(1);
        write.append = (1..=9).map(|slot| entry(slot, slot / 5)).collect();
        subject.store().write(&batch(1, vec![write])).unwrap();
        let trim = |slot, round| GroupWrite { shard: ShardId(1), trim: Some(id(slot, round)), ..GroupWrite::default() };
        subject.store().write(&batch(2, vec![trim(4, 0)])).unwrap();
        subject.reopen();
        let found = group(subject.store(), 1);
        assert_eq!((found.trimmed, found.last), (id(4, 0), id(9, 1)));
        assert_eq!(found.runs, [Run { first: Slot(5), origin: ballot(1) }]);
        assert!(is_corrupt(subject.store().entries(ShardId(1), Slot(3), Slot(5), 0)));
        assert_eq!(slots(&subject.store().entries(ShardId(1), Slot(4), Slot(6), 1 << 20).unwrap()), [5, 6]);

        subject.store().write(&batch(3, vec![trim(9, 1)])).unwrap();
        subject.reopen();
        let found = group(subject.store(), 1);
        assert_eq!((found.trimmed, found.last, found.last_ts), (id(9, 1), id(9, 1), 0));

        // A snapshot may put the mark beyond everything that was there; the log goes on behind it.
        let mut write = trim(20, 2);
        write.truncate_from = Some(Slot(1));
        subject.store().write(&batch(4, vec![write, append(1, vec![entry(21, 3)])])).unwrap();
        subject.reopen();
        let found = group(subject.store(), 1);
        assert_eq!((found.trimmed, found.last), (id(20, 2), id(21, 3)));
    });
}

#[test]
fn a_snapshot_takes_the_logs_place_in_one_write() {
    each(|subject| {
        let held = append(7, (1..=6).map(|slot| entry(slot, 1)).collect());
        subject.store().write(&batch(1, vec![create(7), held])).unwrap();
        let flip = GroupWrite {
            shard: ShardId(7),
            hard: Some(hard(9)),
            truncate_from: Some(Slot(1)),
            trim: Some(id(9, 2)),
            space: Some(Space(0x8000_0003)),
            ..GroupWrite::default()
        };
        subject.store().write(&batch(2, vec![flip])).unwrap();
        for _ in 0..2 {
            let found = group(subject.store(), 7);
            assert_eq!((found.trimmed, found.last, found.runs.len()), (id(9, 2), id(9, 2), 0));
            assert_eq!((found.space, &found.hard), (Some(Space(0x8000_0003)), &hard(9)));
            assert!(is_corrupt(subject.store().entries(ShardId(7), Slot(0), Slot(6), 0)));
            subject.reopen();
        }
        subject.store().write(&batch(3, vec![append(7, vec![entry(10, 2)])])).unwrap();
        subject.reopen();
        let found = group(subject.store(), 7);
        assert_eq!((found.last, found.space), (id(10, 2), Some(Space(0x8000_0003))));
        let remove = GroupWrite { shard: ShardId(7), remove: Some(GONE), ..GroupWrite::default() };
        subject.store().write(&batch(4, vec![remove])).unwrap();
        assert!(subject.store().recover_group(ShardId(7)).unwrap().is_none());
    });
}

#[test]
fn a_removed_group_stays_removed() {
    each(|subject| {
        let mut write = create(5);
        write.append = vec![entry(1, 1)];
        write.trim = Some(EntryId::ZERO);
        subject.store().write(&batch(1, vec![create(4), write, create(6)])).unwrap();
        let remove = |shard| GroupWrite { shard: ShardId(shard), remove: Some(GONE), ..GroupWrite::default() };
        subject.store().write(&batch(2, vec![remove(5), remove(99)])).unwrap();
        for _ in 0..2 {
            let node = subject.store().recover_node().unwrap();
            assert_eq!(node.groups, [ShardId(4), ShardId(6)]);
            assert_eq!(node.removed, [(ShardId(5), GONE), (ShardId(99), GONE)]);
            assert!(subject.store().recover_group(ShardId(5)).unwrap().is_none());
            assert!(is_corrupt(subject.store().entries(ShardId(5), Slot(0), Slot(1), 0)));
            subject.reopen();
        }
        // One that may come back in a later epoch does so by a write that says so.
        let upto = Epoch(3);
        let remove = GroupWrite { shard: ShardId(6), remove: Some(upto), ..GroupWrite::default() };
        subject.store().write(&batch(3, vec![remove])).unwrap();
        subject.reopen();
        assert!(subject.store().recover_node().unwrap().removed.contains(&(ShardId(6), upto)));
        let mut back = create(6);
        back.revive = true;
        subject.store().write(&batch(4, vec![back])).unwrap();
        subject.reopen();
        assert_eq!(subject.store().recover_node().unwrap().groups, [ShardId(4), ShardId(6)]);
        assert_eq!(group(subject.store(), 6).last, EntryId::ZERO);
        // What a straggler writes afterwards does not bring the other back.
        subject.store().write(&batch(5, vec![create(5), append(5, vec![entry(1, 1)])])).unwrap();
        subject.reopen();
        assert_eq!(subject.store().recover_node().unwrap().groups, [ShardId(4), ShardId(6)]);
        assert!(subject.store().recover_group(ShardId(5)).unwrap().is_none());
    });
}

#[test]
fn a_group_that_lost_rows_is_damaged() {
    each(|subject| {
        subject.store().write(&batch(1, vec![append(1, vec![entry(1, 1)])])).unwrap();
        let mut without_genesis = create(2);
        without_genesis.genesis = None;
        let mut without_hard = create(3);
        without_hard.hard = None;
        let mut with_gap = create(4);
        with_gap.append = vec![entry(1, 1), entry(2, 1)];
        let late = append(4, vec![entry(4, 1)]);
        subject.store().write(&batch(2, vec![without_genesis, without_hard, with_gap, late])).unwrap();
        subject.reopen();
        assert_eq!(subject.store().recover_node().unwrap().groups, [1, 2, 3, 4].map(ShardId));
        for shard in 1..=4 {
            assert!(is_corrupt(subject.store().recover_group(ShardId(shard))), "shard {shard}");
        }
        assert!(is_corrupt(subject.store().entries(ShardId(4), Slot(0), Slot(4), usize::MAX)));
    });
}

#[test]
fn a_batch_with_a_gap_panics() {
    each(|subject| {
        let broken = batch(1, vec![append(1, vec![entry(1, 1), entry(3, 1)])]);
        let store = subject.store();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.write(&broken))).is_err());
    });
}

/// The oracle: per group, what is retained.
#[derive(Default, Clone)]
struct Model {
    groups: BTreeMap<u64, (u64, EntryId, Vec<Entry>)>,
    removed: BTreeSet<u64>,
}

impl Model {
    fn random_write(&mut self, rng: &mut ChaCha8Rng) -> GroupWrite {
        let shard = rng.random_range(1..8);
        if self.removed.contains(&shard) || rng.random_bool(0.003) {
            self.removed.insert(shard);
            self.groups.remove(&shard);
            return GroupWrite { shard: ShardId(shard), remove: Some(GONE), ..GroupWrite::default() };
        }
        let fresh = !self.groups.contains_key(&shard);
        let (commit, trimmed, entries) = self.groups.entry(shard).or_insert((0, EntryId::ZERO, Vec::new()));
        let mut write = if fresh { create(shard) } else { append(shard, Vec::new()) };
        if !fresh && rng.random_bool(0.3) {
            *commit += 1;
            write.hard = Some(hard(*commit));
        }
        if rng.random_bool(0.1) {
            let keep = rng.random_range(0..=entries.len());
            write.truncate_from = Some(Slot(trimmed.slot.0 + keep as u64 + 1));
            entries.truncate(keep);
        }
        let round = rng.random_range(1..4);
        for _ in 0..rng.random_range(0..6) {
            let slot = trimmed.slot.0 + entries.len() as u64 + 1;
            entries.push(entry(slot, round));
            write.append.push(entry(slot, round));
        }
        if rng.random_bool(0.1) && !entries.is_empty() {
            let gone = rng.random_range(1..=entries.len());
            *trimmed = entries[gone - 1].id;
            entries.drain(..gone);
            write.trim = Some(*trimmed);
        }
        write
    }

    fn check(&self, store: &dyn LogStore, seed: u64) {
        let node = store.recover_node().unwrap();
        assert_eq!(node.groups, self.groups.keys().map(|&s| ShardId(s)).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(node.removed, self.removed.iter().map(|&s| (ShardId(s), GONE)).collect::<Vec<_>>(), "seed {seed}");
        for (&shard, (commit, trimmed, entries)) in &self.groups {
            let found = group(store, shard);
            assert_eq!(found.hard, hard(*commit), "seed {seed}");
            assert_eq!(found.trimmed, *trimmed, "seed {seed}");
            let last = entries.last().map_or(*trimmed, |entry| entry.id);
            assert_eq!(found.last, last, "seed {seed}");
            let stored = store.entries(ShardId(shard), trimmed.slot, last.slot, usize::MAX).unwrap();
            assert_eq!(stored, *entries, "seed {seed}");
        }
    }
}

#[test]
fn random_writes_match_the_model() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("replay with: SEED={seed} cargo test --release --workspace --test log_conformance random_writes");
    each(|subject| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Model::default();
        for seq in 1..400 {
            let groups = (0..rng.random_range(1..5)).map(|_| model.random_write(&mut rng)).collect();
            subject.store().write(&batch(seq, groups)).unwrap();
            if rng.random_bool(0.02) {
                subject.reopen();
            }
            if seq % 20 == 0 {
                model.check(subject.store(), seed);
            }
        }
        subject.reopen();
        model.check(subject.store(), seed);
    });
}

#[test]
fn injected_failures_stay() {
    let log = MemLog::new();
    log.fail_after(1);
    log.write(&batch(1, vec![create(1)])).unwrap();
    assert!(log.write(&batch(2, vec![create(2)])).is_err());
    assert!(log.write(&batch(3, vec![create(3)])).is_err());
    assert!(log.health().is_err());
    log.clear_failure();
    log.health().unwrap();
    assert_eq!(log.recover_node().unwrap().groups, [ShardId(1)]);
    log.set_hook(Box::new(|batch| {
        let why = "injected".into();
        if batch.seq.0 == 5 { Err(StoreError::Io { what: "write".into(), why }) } else { Ok(()) }
    }));
    log.write(&batch(4, vec![create(2)])).unwrap();
    assert!(log.write(&batch(5, vec![create(3)])).is_err());
    assert!(log.write(&batch(6, vec![create(4)])).is_err());
    log.clear_failure();
    assert_eq!(log.recover_node().unwrap().seq, NodeWriteSeq(4));

    let mut write = create(9);
    write.append = vec![entry(1, 1), entry(2, 1)];
    log.write(&batch(7, vec![write])).unwrap();
    assert!(log.damage_entry(ShardId(9), Slot(2), |entry| entry.ts += 1));
    assert!(is_corrupt(log.recover_group(ShardId(9))));
    assert!(is_corrupt(log.entries(ShardId(9), Slot(0), Slot(2), usize::MAX)));
}

fn filled() -> Rocks {
    let rocks = Rocks::new();
    let mut write = create(1);
    write.append = (1..=20).map(|slot| entry(slot, 1)).collect();
    write.trim = Some(id(2, 1));
    rocks.store().write(&batch(1, vec![write, create(2)])).unwrap();
    rocks
}

#[test]
fn damaged_rows_are_reported() {
    let shard = ShardId(1);
    let rows: [(&str, Vec<u8>); 4] = [
        ("hard state", keys::group_hard(shard).into()),
        ("genesis", keys::group_genesis(shard).into()),
        ("trim mark", keys::group_trim(shard).into()),
        ("entry", keys::group_entry(shard, Slot(11)).into()),
    ];
    for (name, key) in rows {
        let mut rocks = filled();
        rocks.with_raw(|db| {
            let mut row = db.get(&key).unwrap().unwrap();
            let middle = row.len() / 2;
            row[middle] ^= 1;
            db.put(&key, row).unwrap();
        });
        let log = rocks.open().unwrap();
        assert!(is_corrupt(log.recover_group(shard)), "{name}");
        log.recover_group(ShardId(2)).unwrap().unwrap();
    }
    let mut rocks = filled();
    rocks.with_raw(|db| {
        let other = db.get(keys::group_entry(shard, Slot(11))).unwrap().unwrap();
        db.put(keys::group_entry(shard, Slot(12)), other).unwrap();
    });
    let log = rocks.open().unwrap();
    assert!(is_corrupt(log.recover_group(shard)), "an entry in another's place");
    assert!(is_corrupt(log.entries(shard, Slot(10), Slot(13), usize::MAX)));
    assert_eq!(slots(&log.entries(shard, Slot(12), Slot(14), usize::MAX).unwrap()), [13, 14]);

    let mut rocks = filled();
    rocks.with_raw(|db| db.delete(keys::group_entry(shard, Slot(11))).unwrap());
    assert!(is_corrupt(rocks.open().unwrap().recover_group(shard)), "an entry is missing");
    for key in [keys::NODE_WRITE_SEQ, keys::LOG_FORMAT] {
        let mut rocks = filled();
        rocks.with_raw(|db| db.put(key, b"garbage").unwrap());
        assert!(is_corrupt(rocks.open().and_then(|log| log.recover_node())));
    }
}

#[test]
fn another_format_version_is_refused() {
    let mut rocks = filled();
    rocks.with_raw(|db| db.put(keys::LOG_FORMAT, node::encode_format(node::FORMAT_MAX + 1)).unwrap());
    assert!(matches!(rocks.open(), Err(StoreError::TooNew { found: 5, known: 4, .. })));
    let mut rocks = filled();
    rocks.with_raw(|db| db.delete(keys::LOG_FORMAT).unwrap());
    assert!(matches!(rocks.open(), Err(StoreError::Corrupt { .. })));
}

/// What is sealed for the second cluster version is what a binary of the first refuses as a format of the future.
#[test]
fn a_store_is_sealed_for_good() {
    let mut rocks = filled();
    let log = rocks.store();
    assert_eq!(log.recover_node().unwrap().sealed, ClusterVersion::FIRST);
    log.seal(ClusterVersion::SECOND).unwrap();
    log.seal(ClusterVersion::FIRST).unwrap();
    assert_eq!(log.recover_node().unwrap().sealed, ClusterVersion::SECOND);
    rocks.with_raw(|db| {
        let row = db.get(keys::LOG_FORMAT).unwrap().unwrap();
        assert_eq!(node::decode_format(row.into()).unwrap(), 2, "a binary that knows format 1 alone names this number");
    });
    assert_eq!(rocks.open().unwrap().recover_node().unwrap().sealed, ClusterVersion::SECOND);
}

#[test]
fn the_strict_options_are_in_force() {
    let rocks = filled();
    let options = std::fs::read_dir(rocks.directory.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("OPTIONS-"))
        .max()
        .unwrap();
    let options = std::fs::read_to_string(options).unwrap();
    for wanted in [
        "max_bgerror_resume_count=0",
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "paranoid_checks=true",
        "recycle_log_file_num=0",
        "track_and_verify_wals_in_manifest=true",
        "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.10",
        "compression=kNoCompression",
    ] {
        assert!(options.contains(wanted), "{wanted} not found in {options}");
    }
}

/// The newest write-ahead log of a store that was closed: nothing in it was flushed.
fn write_ahead_log(rocks: &mut Rocks) -> std::path::PathBuf {
    rocks.log = None;
    let files = std::fs::read_dir(rocks.directory.path()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap()
}

#[test]
fn damage_inside_the_write_ahead_log_is_an_error() {
    let mut rocks = Rocks::new();
    rocks.store().write(&batch(1, vec![create(1)])).unwrap();
    for slot in 1..=50 {
        rocks.store().write(&batch(1 + slot, vec![append(1, vec![entry(slot, 1)])])).unwrap();
    }
    let log = write_ahead_log(&mut rocks);
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let opened = rocks.open().map(|_| ());
    assert!(is_corrupt(opened.clone()), "a flipped bit before intact records: {opened:?}");
}
