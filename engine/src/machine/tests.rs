use super::*;
use crate::codec::record::Newest;
use crate::command::{Action, Expect, NewRecord, OpResult, RowFormat, WriteId, encode_entry, encode_requests};
use crate::ids::{ClientId, ClientSeq, ClusterVersion, EntryId, Offset, SYSTEM_SHARD, ShardId, TableId};
use crate::state::mem::{MemDisk, MemState};
use crate::system::{Partitioning, Retention, SystemOutcome};

pub(crate) const TABLE: TableId = TableId(3);

/// A shard on a store in memory, with entries made to order.
pub(crate) struct Bench {
    pub(crate) store: MemState,
    pub(crate) state: ShardState,
    overlay: Overlay,
    next_seq: u64,
    entries: Vec<Entry>,
    /// Of the entries to come.
    pub(crate) format: RowFormat,
    /// Whether entries are got ready before they are applied.
    prepares: bool,
}

pub(crate) fn descriptor(partitioning: Partitioning, retention: Retention) -> Descriptor {
    let mut d = SystemState::found(1, &["a".into()]).shards[&SYSTEM_SHARD].clone();
    (d.shard, d.table, d.partitioning, d.retention) = (ShardId(2), TABLE, partitioning, retention);
    d
}

pub(crate) fn op(key: &str, expect: Expect, action: Action) -> KeyOp {
    KeyOp { key: Bytes::copy_from_slice(key.as_bytes()), expect, action }
}

pub(crate) fn append(key: &str, values: &[&str]) -> KeyOp {
    let records = values.iter().map(|v| NewRecord { headers: vec![], value: Bytes::copy_from_slice(v.as_bytes()) });
    op(key, Expect::Any, Action::Append(records.collect()))
}

pub(crate) fn delete(key: &str) -> KeyOp {
    op(key, Expect::Any, Action::Delete)
}

impl Bench {
    pub(crate) fn new(partitioning: Partitioning, retention: Retention) -> Self {
        Self::with(Genesis::Shard(descriptor(partitioning, retention)))
    }

    fn with(genesis: Genesis) -> Self {
        let mut store = MemState::new();
        let state = ShardState::load(&mut store, Space(2), genesis).unwrap();
        let format = RowFormat::Plain;
        Self { store, state, overlay: Overlay::default(), next_seq: 0, entries: vec![], format, prepares: false }
    }

    fn id(&mut self) -> WriteId {
        self.next_seq += 1;
        let seq = ClientSeq(self.next_seq);
        WriteId { client: ClientId(1), seq, floor: ClientSeq(0), deadline_us: u64::MAX }
    }

    fn entry(&mut self, ts: u64, requests: &[WriteRequest]) -> Vec<Applied> {
        let id = EntryId { slot: self.state.applied().next(), ..EntryId::ZERO };
        let entry = Entry::new(id, ts, 0, Payload::Command(encode_entry(self.format, requests.iter(), 0)));
        let mut results = vec![];
        while self.prepares && !self.state.prepare(&mut self.store, &entry).unwrap() {}
        self.state.apply(&mut self.store, &mut self.overlay, &entry, Some(&mut results)).unwrap();
        self.entries.push(entry);
        results
    }

    /// One entry at `ts` with one request.
    pub(crate) fn write(&mut self, ts: u64, ops: Vec<KeyOp>) -> Applied {
        let id = self.id();
        self.entry(ts, &[WriteRequest { id, op: Op::Write { table: TABLE, ops } }]).remove(0)
    }

    fn offset(&mut self, ts: u64, ops: Vec<KeyOp>) -> u64 {
        match self.write(ts, ops) {
            Ok(Outcome::Written(results)) => results[0].offset.0,
            other => panic!("{other:?}"),
        }
    }

    fn head(&mut self, key: &str) -> Option<crate::codec::record::Head> {
        let d = self.state.descriptor().clone();
        rows::head(&mut self.store, &d, Space(2), bounds::row_hash(&d, key.as_bytes()), key.as_bytes()).unwrap()
    }
}

#[test]
fn offsets_go_on_and_latest_keeps_one() {
    for (retention, first, bytes) in [(Retention::Latest, 2, 3), (Retention::All, 0, 6)] {
        let mut b = Bench::new(Partitioning::Hash, retention);
        assert_eq!(b.offset(10, vec![append("k", &["a", "bb"])]), 0);
        assert_eq!(b.offset(10, vec![append("k", &["ccc"])]), 2);
        let head = b.head("k").unwrap();
        assert_eq!((head.next, head.first, head.bytes), (Offset(3), Offset(first), bytes));
        assert_eq!(head.newest_ts_us(), Some(11), "a timestamp is raised above its predecessor's");
        assert_eq!(b.offset(12, vec![delete("k")]), 3);
        assert!(b.head("k").unwrap().tombstone());
        let seen: Vec<_> = b.state.ring().after(0).map(|r| (r.offset.0, r.record.ts_us, r.record.tombstone)).collect();
        assert_eq!(seen, [(0, 10, false), (1, 10, false), (2, 11, false), (3, 12, true)]);
    }
}

#[test]
fn expectations_hold_or_nothing_changes() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    let set = |expect, value: &str| {
        op("k", expect, Action::Append(vec![NewRecord { headers: vec![], value: Bytes::from(value.to_owned()) }]))
    };
    let failed = |n| Ok(Outcome::ExpectationFailed { op_index: 0, actual: Offset(n) });
    assert_eq!(b.write(1, vec![set(Expect::Exists, "x")]), failed(0));
    assert!(b.head("k").is_none());
    assert!(b.write(2, vec![set(Expect::Absent, "x")]).is_ok_and(|o| matches!(o, Outcome::Written(_))));
    assert_eq!(b.write(3, vec![set(Expect::Absent, "x")]), failed(1));
    assert_eq!(b.write(4, vec![set(Expect::Next(Offset(0)), "x")]), failed(1));
    assert_eq!(b.offset(5, vec![set(Expect::Next(Offset(1)), "y")]), 1);
    assert_eq!(b.offset(6, vec![delete("k")]), 2);
    assert_eq!(b.write(7, vec![set(Expect::Exists, "x")]), failed(3));
    assert_eq!(b.offset(8, vec![set(Expect::Absent, "z")]), 3);
}

#[test]
fn a_failed_operation_undoes_the_ones_before_it() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.write(1, vec![append("a", &["1"])]).unwrap();
    let before = b.head("a");
    let ops = vec![append("a", &["2", "3"]), append("b", &["1"]), op("a", Expect::Next(Offset(9)), Action::Delete)];
    let actual = Offset(3);
    assert_eq!(b.write(2, ops), Ok(Outcome::ExpectationFailed { op_index: 2, actual }), "sees its own writes");
    assert_eq!(b.head("a"), before);
    assert_eq!(b.head("b"), None);
    assert_eq!(b.state.ring().after(0).count(), 1);
    let d = b.state.descriptor().clone();
    let (from, to) = keys::history_bounds(Space(2), d.table, None, b"a", Offset(0));
    let mut rows = 0;
    b.store
        .scan(&from, &to, false, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn later_requests_of_an_entry_see_earlier_ones() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    let requests: Vec<WriteRequest> = (0..3)
        .map(|n| {
            let ops = vec![op(
                "k",
                Expect::Next(Offset(n)),
                Action::Append(vec![NewRecord { headers: vec![], value: Bytes::new() }]),
            )];
            WriteRequest { id: b.id(), op: Op::Write { table: TABLE, ops } }
        })
        .collect();
    let results = b.entry(50, &requests);
    let expected: Vec<Applied> =
        (0..3).map(|n| Ok(Outcome::Written(vec![OpResult { offset: Offset(n), ts_us: 50 + n }]))).collect();
    assert_eq!(results, expected);
}

#[test]
fn trim_drops_records_and_their_bytes() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.write(1, vec![append("k", &["1", "22", "333"])]).unwrap();
    // One entry that appends and trims what it appended and what was there.
    let ops = vec![append("k", &["4444"]), op("k", Expect::Any, Action::Trim(Offset(2)))];
    let Ok(Outcome::Written(results)) = b.write(2, ops) else { panic!() };
    assert_eq!(results[1].offset, Offset(2));
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next, head.bytes), (Offset(2), Offset(4), 7));
    assert_eq!(b.offset(3, vec![op("k", Expect::Any, Action::Trim(Offset(1)))]), 2);
    assert_eq!(b.offset(4, vec![op("k", Expect::Any, Action::Trim(Offset(99)))]), 4);
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next, head.bytes, head.newest), (Offset(4), Offset(4), 0, Newest::None));
    assert_eq!(b.offset(5, vec![append("k", &["5"])]), 4);

    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    b.write(1, vec![append("k", &["1", "22"])]).unwrap();
    assert_eq!(b.offset(2, vec![op("k", Expect::Any, Action::Trim(Offset(1)))]), 1);
    assert!(matches!(b.head("k").unwrap().newest, Newest::Inline(_)));
    assert_eq!(b.offset(3, vec![op("k", Expect::Any, Action::Trim(Offset(2)))]), 2);
    assert_eq!(b.head("k").unwrap().newest, Newest::None);
}

/// Everything a space holds of one key's history, as (offset, size).
fn history(b: &mut Bench, key: &str) -> Vec<(u64, u64)> {
    let d = b.state.descriptor().clone();
    let hash = bounds::row_hash(&d, key.as_bytes());
    let (from, to) = keys::history_bounds(Space(2), d.table, hash, key.as_bytes(), Offset(0));
    let mut found = vec![];
    b.store
        .scan(&from, &to, false, &mut |row, value| {
            let record = crate::codec::record::Record::decode(Bytes::copy_from_slice(value)).unwrap();
            found.push((rows::history_offset(row).0, rows::record_size(&record)));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// A store that counts the rows it is asked for.
struct Counting<'a>(&'a mut MemState, u64);

impl StateStore for Counting<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.1 += 1;
        self.0.get(key)
    }

    fn scan(
        &mut self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut crate::state::Visit<'_>,
    ) -> Result<(), StoreError> {
        let read = &mut self.1;
        self.0.scan(from, to, reverse, &mut |key, value| {
            *read += 1;
            visit(key, value)
        })
    }

    fn apply(&mut self, batch: StateBatch) -> Result<(), StoreError> {
        assert!(batch.rows.len() < 100, "{} rows written", batch.rows.len());
        self.0.apply(batch)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.0.remove_range(from, to)
    }

    fn wants_freeze(&self) -> bool {
        false
    }

    fn freeze(&mut self) -> Result<crate::state::FlushId, StoreError> {
        self.0.freeze()
    }

    fn flushed(&mut self) -> Result<crate::state::FlushId, StoreError> {
        self.0.flushed()
    }

    fn flush_and_wait(&mut self) -> Result<(), StoreError> {
        self.0.flush_and_wait()
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

impl Bench {
    /// Applies one write; returns how many rows were read for it, in all and at the most in one step.
    fn reads_of(&mut self, ts: u64, ops: Vec<KeyOp>) -> (u64, u64) {
        let request = WriteRequest { id: self.id(), op: Op::Write { table: TABLE, ops } };
        let id = EntryId { slot: self.state.applied().next(), ..EntryId::ZERO };
        let entry = Entry::new(id, ts, 0, Payload::Command(encode_entry(self.format, [&request].into_iter(), 0)));
        let (mut all, mut most) = (0, 0);
        loop {
            let mut store = Counting(&mut self.store, 0);
            let ready = self.state.prepare(&mut store, &entry).unwrap();
            (all, most) = (all + store.1, most.max(store.1));
            if ready {
                break;
            }
        }
        let mut store = Counting(&mut self.store, 0);
        self.state.apply(&mut store, &mut self.overlay, &entry, None).unwrap();
        (all + store.1, most.max(store.1))
    }
}

#[test]
fn a_trim_with_totals_reads_a_row_or_two() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.format = RowFormat::Totals;
    let value = "v".repeat(10);
    for n in 0..200 {
        b.write(n + 1, vec![append("k", &[value.as_str(); 100])]).unwrap();
    }
    for (ts, before) in [(300, 10), (301, 7_000), (302, 13_000), (303, 19_999)] {
        let (all, _) = b.reads_of(ts, vec![op("k", Expect::Any, Action::Trim(Offset(before)))]);
        assert!(all <= 4, "{all} rows read for the trim below {before}");
        let head = b.head("k").unwrap();
        assert_eq!((head.first, head.bytes), (Offset(before), 10 * (20_000 - before)));
        assert_eq!(history(&mut b, "k").len() as u64, 20_000 - before);
    }
    let (all, _) = b.reads_of(400, vec![op("k", Expect::Any, Action::Trim(Offset(20_000)))]);
    assert!(all <= 4 && history(&mut b, "k").is_empty());
}

#[test]
fn a_trim_without_totals_adds_up_the_fewer_rows_a_step_at_a_time() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    for n in 0..200 {
        b.write(n + 1, vec![append("k", &["12345"; 100])]).unwrap();
    }
    let trim = |before| vec![op("k", Expect::Any, Action::Trim(Offset(before)))];
    let (all, most) = b.reads_of(300, trim(9_000));
    assert!((9_000..9_010).contains(&all) && most < 2_100, "{all} rows read, {most} in one step");
    let (all, _) = b.reads_of(301, trim(19_990));
    assert!(all < 20, "{all} rows read to leave ten");
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes, history(&mut b, "k").len()), (Offset(19_990), 50, 10));
    // Rows from before the totals, and rows with them.
    b.format = RowFormat::Totals;
    for n in 0..100 {
        b.write(400 + n, vec![append("k", &["123"; 100])]).unwrap();
    }
    assert_eq!(b.head("k").unwrap().bytes, 50 + 30_000);
    let (all, _) = b.reads_of(600, trim(19_995));
    assert!(all < 15 && b.head("k").unwrap().bytes == 25 + 30_000, "{all}");
    let (all, _) = b.reads_of(601, trim(25_000));
    assert!(all <= 4 && b.head("k").unwrap().bytes == 3 * 5_000, "{all}");
}

/// Whatever was written before and with which rows: `bytes` is what the records that are left come to, and no other row is.
#[test]
fn bytes_stay_exact_and_no_row_is_left_below_the_first_offset() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..60 {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let retention = if seed % 4 == 0 { Retention::Latest } else { Retention::All };
        let mut b = Bench::new(Partitioning::Range, retention);
        let mut sizes: std::collections::BTreeMap<String, (usize, Vec<u64>)> = std::collections::BTreeMap::new();
        for step in 0..150u64 {
            // From some step on entries have totals, but for one now and then of a leader that does not know yet.
            let totals = step > 40 + seed && !rng.random_ratio(1, 10);
            b.format = if totals { RowFormat::Totals } else { RowFormat::Plain };
            b.prepares = rng.random();
            let mut after = sizes.clone();
            let ops: Vec<KeyOp> = (0..rng.random_range(1..5))
                .map(|_| {
                    let name = format!("k{}", rng.random_range(0..3));
                    let (first, sizes) = after.entry(name.clone()).or_default();
                    match rng.random_range(0..6) {
                        0 => {
                            let before = rng.random_range(0..sizes.len() as u64 + 3);
                            *first = (before as usize).clamp(*first, sizes.len());
                            return op(&name, Expect::Any, Action::Trim(Offset(before)));
                        }
                        1 => {
                            sizes.push(0);
                            if retention == Retention::Latest {
                                *first = sizes.len() - 1;
                            }
                            return delete(&name);
                        }
                        _ => {}
                    }
                    let values: Vec<String> =
                        (0..rng.random_range(1..90)).map(|_| "x".repeat(rng.random_range(0..30))).collect();
                    sizes.extend(values.iter().map(|value| value.len() as u64));
                    if retention == Retention::Latest {
                        *first = sizes.len() - 1;
                    }
                    append(&name, &values.iter().map(String::as_str).collect::<Vec<_>>())
                })
                .collect();
            if rng.random_ratio(1, 8) {
                let failing = op("k0", Expect::Next(Offset(u64::MAX)), Action::Delete);
                b.write(step + 1, [ops, vec![failing]].concat()).unwrap();
            } else {
                b.write(step + 1, ops).unwrap();
                sizes = after;
            }
            for (name, (first, sizes)) in &sizes {
                let head = b.head(name).unwrap_or_default();
                let left = &sizes[*first..];
                let expected = (Offset(*first as u64), Offset(sizes.len() as u64), left.iter().sum::<u64>());
                assert_eq!((head.first, head.next, head.bytes), expected, "seed {seed} step {step} {name}");
                if retention == Retention::All {
                    let rows: Vec<(u64, u64)> = (*first as u64..).zip(left.iter().copied()).collect();
                    assert_eq!(history(&mut b, name), rows, "seed {seed} step {step} {name}");
                }
            }
        }
    }
}

#[test]
fn a_change_of_retention_needs_no_copy() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.write(1, vec![append("k", &["1", "2"])]).unwrap();
    b.state.descriptor.retention = Retention::Latest;
    b.write(2, vec![append("k", &["3"])]).unwrap();
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next, head.bytes), (Offset(2), Offset(3), 1));
    b.state.descriptor.retention = Retention::All;
    b.write(3, vec![append("k", &["4"])]).unwrap();
    let (d, head) = (b.state.descriptor().clone(), b.head("k").unwrap());
    assert_eq!((head.first, head.next, head.bytes), (Offset(2), Offset(4), 2));
    let values: Vec<Bytes> =
        (2..4).map(|n| rows::record(&mut b.store, &d, Space(2), b"k", &head, Offset(n)).unwrap().value).collect();
    assert_eq!(values, ["3", "4"]);
    assert!(rows::record(&mut b.store, &d, Space(2), b"k", &head, Offset(1)).is_err());
}

#[test]
fn a_retry_gets_the_stored_outcome_and_topology_errors_are_not_stored() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.state.descriptor.to = Bytes::from_static(b"m");
    let id = b.id();
    let request = WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![append("a", &["1"])] } };
    let first = b.entry(1, std::slice::from_ref(&request));
    assert_eq!(b.entry(9, &[request.clone(), request]), [first[0].clone(), first[0].clone()]);
    assert_eq!(b.head("a").unwrap().next, Offset(1));

    let id = b.id();
    let outside = WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![append("z", &["1"])] } };
    assert_eq!(b.entry(10, std::slice::from_ref(&outside)), [Err(Refusal::WrongShard)]);
    b.state.descriptor.to = Bytes::new();
    assert!(b.entry(11, &[outside])[0].is_ok());

    let id = WriteId { deadline_us: 5, ..b.id() };
    let late = WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![append("a", &["2"])] } };
    assert_eq!(b.entry(12, &[late]), [Err(Refusal::Expired { shard_us: 13 })]);
}

#[test]
fn a_restart_replays_to_the_same_state() {
    let disk = MemDisk::default();
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.store = MemState::open(&disk);
    for n in 0..20u64 {
        b.write(n * 10, vec![append(&format!("k{}", n % 3), &["v", "w"])]).unwrap();
        if n == 9 {
            b.state.store_sessions(&mut b.store).unwrap();
            b.store.freeze().unwrap();
        }
    }
    let mut store = MemState::open(&disk);
    let genesis = Genesis::Shard(b.state.descriptor().clone());
    let mut again = ShardState::load(&mut store, Space(2), genesis).unwrap();
    assert_eq!(again.applied(), Slot(10));
    for entry in &b.entries[10..] {
        again.apply(&mut store, &mut Overlay::default(), entry, None).unwrap();
    }
    b.state.store_sessions(&mut b.store).unwrap();
    again.store_sessions(&mut store).unwrap();
    let dump = |store: &mut MemState| {
        let mut rows = vec![];
        store
            .scan(&[], &[0xff; 9], false, &mut |k, v| {
                rows.push((k.to_vec(), v.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        rows
    };
    assert_eq!(dump(&mut store), dump(&mut b.store));
    assert_eq!(again.last_ts(), b.state.last_ts());
}

#[test]
fn the_system_shard_executes_commands_and_survives_a_freeze() {
    let found = SystemState::found(7, &["a:1".into(), "b:1".into(), "c:1".into()]);
    let mut b = Bench::with(Genesis::System(Box::new(found.clone())));
    assert_eq!(b.state.take_system_change(), Some(found.clone()));
    let name = "t".to_owned();
    let (partitioning, retention) = (Partitioning::Hash, Retention::Latest);
    let command = SystemCommand::CreateTable { name, partitioning, retention, shards: 2, splits: vec![], replicas: 0 };
    let id = b.id();
    let results = b.entry(5, &[WriteRequest { id, op: Op::System(command.encode()) }]);
    let Ok(Outcome::System(outcome)) = &results[0] else { panic!("{results:?}") };
    assert_eq!(SystemOutcome::decode(outcome.clone()).unwrap(), SystemOutcome::Table(TableId(1)));
    let changed = b.state.take_system_change().unwrap();
    assert_eq!((changed.revision, changed.shards.len()), (2, 3));
    assert_eq!(b.state.take_system_change(), None);
    let id = b.id();
    let write = WriteRequest { id, op: Op::Write { table: TableId(0), ops: vec![append("k", &["v"])] } };
    assert_eq!(b.entry(6, &[write]), [Err(Refusal::WrongShard)]);
    let loaded = ShardState::load(&mut b.store, Space(2), Genesis::System(Box::new(found))).unwrap();
    assert_eq!(loaded.system(), Some(&changed));
    assert_eq!(loaded.applied(), Slot(2));
}

/// A replica whose binary is too old for its cluster says so; it neither takes that for damage nor goes on.
#[test]
fn a_replica_that_does_not_speak_the_clusters_version_names_both() {
    let found = SystemState::found(7, &["a:1".into()]);
    let mut b = Bench::with(Genesis::System(Box::new(found.clone())));
    let beyond = ClusterVersion(7);
    let command = SystemCommand::Upgrade { to: beyond, spoken_by: vec![] };
    let request = WriteRequest { id: b.id(), op: Op::System(command.encode()) };
    let id = EntryId { slot: Slot(1), ..EntryId::ZERO };
    let entry = Entry::new(id, 1, 0, Payload::Command(encode_requests([&request].into_iter(), 0)));
    let error = b.state.apply(&mut b.store, &mut b.overlay, &entry, None).unwrap_err();
    assert!(matches!(error, StoreError::ClusterTooNew { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("slot 1 of the system shard: the cluster is at version 7, this node speaks"), "{text}");

    let (row, key) = ([&[2, 7, 0, 0, 0][..], b"whatever"].concat(), keys::system(Space(2), ROW_CLUSTER, &[0; 8]));
    let row = Bytes::from([&row[..], &crc32fast::hash(&row).to_le_bytes()].concat());
    let applied = AppliedRow { slot: Slot(1), last_ts: 1 }.encode();
    let rows = vec![(key, Some(row)), (keys::applied(Space(2)), Some(applied))];
    b.store.apply(StateBatch { rows }).unwrap();
    let error = ShardState::load(&mut b.store, Space(2), Genesis::System(Box::new(found))).err().unwrap();
    let text = error.to_string();
    let words = "metadata rows of the system shard: the cluster is at version 7, this node speaks versions 1 to";
    assert!(text.starts_with(words), "{text}");
}

#[test]
fn damage_is_named() {
    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    b.write(1, vec![append("k", &["v"])]).unwrap();
    let key = keys::record_head(Space(2), TABLE, bounds::row_hash(b.state.descriptor(), b"k"), b"k");
    let mut row = b.store.get(&key).unwrap().unwrap().to_vec();
    row[5] ^= 1;
    b.store.apply(StateBatch { rows: vec![(key, Some(row.into()))] }).unwrap();
    let d = b.state.descriptor().clone();
    let error = rows::head(&mut b.store, &d, Space(2), bounds::row_hash(&d, b"k"), b"k").unwrap_err();
    assert_eq!(error.to_string(), "damaged the head of key \"k\" in shard 2: checksum mismatch at byte 9");
}
