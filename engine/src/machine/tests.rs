mod ahead;
pub(crate) mod bench;
mod merge;
mod replay;
mod rest;
pub(crate) mod shared;
mod split;
mod totals;
mod trims;

use super::*;
use crate::command::{Action, Expect, NewRecord, OpResult, Outcome, WriteId, encode_requests, marker};
use crate::state::mem::{MemDisk, MemState};
use bench::{Bench, TABLE, append, delete, op};
use synod_cluster::ids::{ClusterVersion, EntryId, NodeId, Offset};
use synod_cluster::system::{Partitioning, ROW_CLUSTER, Retention, SystemCommand, SystemOutcome};

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
        let _ = again.apply(&mut store, &mut Overlay::default(), entry, Wanted::Nothing).unwrap();
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
    assert_eq!(b.state.system(), Some(&found));
    let name = "t".to_owned();
    let (partitioning, retention) = (Partitioning::Hash, Retention::Latest);
    let command = SystemCommand::CreateTable { name, partitioning, retention, shards: 2, splits: vec![], replicas: 0 };
    let id = b.id();
    let create = WriteRequest { id, op: Op::System(command.encode()) };
    let effects = b.effects(5, std::slice::from_ref(&create), Wanted::Results);
    let Ok(Outcome::System(outcome)) = &effects.results[0] else { panic!("{effects:?}") };
    assert_eq!(SystemOutcome::decode(outcome.clone()).unwrap(), SystemOutcome::Table(TableId(1)));
    let changed = b.state.system().unwrap().clone();
    assert_eq!((effects.metadata, changed.revision, changed.shards.len()), (Some(2), 2, 3));
    let id = b.id();
    let write = WriteRequest { id, op: Op::Write { table: TableId(0), ops: vec![append("k", &["v"])] } };
    let same = SystemCommand::SetAddr { node: NodeId(1), addr: "a:1".into() };
    let same = WriteRequest { id: b.id(), op: Op::System(same.encode()) };
    let effects = b.effects(6, &[create, write, same], Wanted::Results);
    let oks: Vec<bool> = effects.results.iter().map(Result::is_ok).collect();
    assert_eq!((oks, &effects.results[1]), (vec![true, false, true], &Err(Refusal::WrongShard)));
    assert_eq!(effects.metadata, None, "a retry, a refusal, and an address that is known");
    let loaded = ShardState::load(&mut b.store, Space(2), Genesis::System(Box::new(found))).unwrap();
    assert_eq!(loaded.system(), Some(&changed));
    assert_eq!(loaded.applied(), Slot(2));
}

/// All of it: a child has a state, which cannot be compared, so only whether there is one.
fn parts(effects: Effects) -> (Vec<Applied>, Option<u64>, bool, Option<Refusal>, bool) {
    let Effects { results, metadata, marker, child, merge, refused } = effects;
    assert_eq!(merge, None);
    (results, metadata, marker, refused, child.is_some())
}

/// Whether somebody waits changes what is told, and nothing of the state.
#[test]
fn effects_say_what_follows_from_an_entry_and_no_more_than_is_wanted() {
    let mut told = Bench::new(Partitioning::Hash, Retention::All);
    let mut silent = Bench::new(Partitioning::Hash, Retention::All);
    let requests: Vec<WriteRequest> = (0..2)
        .map(|_| WriteRequest { id: told.id(), op: Op::Write { table: TABLE, ops: vec![append("k", &["v"])] } })
        .collect();
    let outcomes = (0..2).map(|n| Ok(Outcome::Written(vec![OpResult { offset: Offset(n), ts_us: 5 + n }])));
    let results: Vec<Applied> = outcomes.collect();
    let effects = told.effects(5, &requests, Wanted::Results);
    assert_eq!(parts(effects), (results.clone(), None, false, None, false));
    assert_eq!(parts(silent.effects(5, &requests, Wanted::Nothing)), parts(Effects::default()));
    assert_eq!(told.head("k"), silent.head("k"));
    // The outcomes are kept either way.
    assert_eq!(silent.entry(9, &requests), results);

    let id = EntryId { slot: told.state.applied().next(), ..EntryId::ZERO };
    let entry = Entry::new(id, 10, 0, Payload::Command(marker()));
    let effects = told.state.apply(&mut told.store, &mut told.overlay, &entry, Wanted::Results).unwrap();
    assert_eq!(parts(effects), (vec![], None, true, None, false));
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
    let error = b.state.apply(&mut b.store, &mut b.overlay, &entry, Wanted::Nothing).unwrap_err();
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
    let key = keys::record_head(Space(2), TABLE, b.state.descriptor().partitioning.hash_of(b"k"), b"k");
    let mut row = b.store.get(&key).unwrap().unwrap().to_vec();
    row[5] ^= 1;
    b.store.apply(StateBatch { rows: vec![(key, Some(row.into()))] }).unwrap();
    let d = b.state.descriptor().clone();
    let error = rows::head(&mut b.store, &d, Space(2), d.partitioning.hash_of(b"k"), b"k").unwrap_err();
    assert_eq!(error.to_string(), "damaged the head of key \"k\" in shard 2: checksum mismatch at byte 9");
}
