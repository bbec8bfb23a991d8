//! Splits: what each side has afterwards, and what does not count.

use super::bench::{Bench, Counting, TABLE, append, delete, trim};
use crate::command::{Admin, KeyOp, Op, Outcome, Split, WriteId, WriteRequest, encode_admin, encode_requests};
use crate::genesis::Genesis;
use crate::host::{Answer, At, Read, Scan, TailPoll};
use crate::machine::overlay::Overlay;
use crate::machine::{Applied, Born, CHILDREN_MAX, Effects, ShardState, Wanted};
use crate::memory::{Holder, Memory};
use crate::query::{self, Firsts};
use crate::state::StateStore;
use crate::state::mem::MemState;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use synod_cluster::ids::{Ballot, ClientId, ClientSeq, Entry, EntryId, NodeId, Offset, SYSTEM_SHARD, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemState};
use synod_paxos::types::{Epoch, MemberRole, Payload};

pub(super) const CHILD: ShardId = ShardId(40);
const EPOCH: Epoch = Epoch(3);
const LEADER: NodeId = NodeId(2);
const ALL: [(Partitioning, Retention); 4] = [
    (Partitioning::Range, Retention::All),
    (Partitioning::Range, Retention::Latest),
    (Partitioning::Hash, Retention::All),
    (Partitioning::Hash, Retention::Latest),
];

/// A split that counts in the shard as it is.
pub(super) fn plan(state: &ShardState, at: &[u8]) -> Split {
    Split {
        child: CHILD,
        at: Bytes::copy_from_slice(at),
        version: state.descriptor().version,
        epoch: EPOCH,
        voters: vec![NodeId(1), LEADER, NodeId(3)],
        confirmed: vec![],
    }
}

/// The next entry.
pub(super) fn entry(state: &ShardState, ts: u64, data: Bytes) -> Entry {
    let origin = Ballot { epoch: EPOCH, round: 4, node: LEADER };
    Entry::new(EntryId { slot: state.applied().next(), origin }, ts, 0, Payload::Command(data))
}

pub(super) fn write(id: WriteId, ops: Vec<KeyOp>) -> WriteRequest {
    WriteRequest { id, op: Op::Write { table: TABLE, ops } }
}

/// The next entry, with one request.
pub(super) fn apply(state: &mut ShardState, store: &mut MemState, ts: u64, request: &WriteRequest) -> Applied {
    let entry = entry(state, ts, encode_requests([request].into_iter(), 0));
    state.apply(store, &mut Overlay::default(), &entry, Wanted::Results).unwrap().results.remove(0)
}

impl Bench {
    pub(super) fn split(&mut self, ts: u64, split: Split) -> Effects {
        let entry = entry(&self.state, ts, encode_admin(&Admin::Split(split)));
        let effects = self.state.apply(&mut self.store, &mut self.overlay, &entry, Wanted::Results).unwrap();
        self.entries.push(entry);
        effects
    }

    /// Splits the shard; what is born.
    pub(super) fn born(&mut self, ts: u64, at: &[u8]) -> Born {
        let effects = self.split(ts, plan(&self.state, at));
        assert_eq!(effects.refused, None);
        *effects.child.expect("it is born")
    }
}

/// All rows.
pub(super) fn dump(store: &mut MemState) -> BTreeMap<Vec<u8>, Bytes> {
    let mut rows = BTreeMap::new();
    let mut keep = |key: &[u8], value: &[u8]| {
        rows.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    };
    store.scan(&[], &[0xff; 9], false, &mut keep).unwrap();
    rows
}

/// All records in order of position: key, offset, timestamp and value.
pub(super) fn records(state: &ShardState, store: &mut MemState) -> Vec<(Bytes, u64, u64, Bytes)> {
    let history = state.descriptor().retention == Retention::All;
    let wanted = Read::Scan(Scan { history, tombstones: true, ..Scan::default() });
    match query::read(state, store, &wanted).unwrap() {
        Ok(Answer::Page { records, cursor, .. }) => {
            assert!(cursor.is_empty());
            records.into_iter().map(|r| (r.key, r.offset.0, r.record.ts_us, r.record.value)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The first and the next offset of a key.
fn ends(state: &ShardState, store: &mut MemState, key: &str) -> Result<(Offset, Offset), Refusal> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match query::read(state, store, &Read::Get { key, at: At::Newest }).unwrap()? {
        Answer::Record { first, next, .. } => Ok((first, next)),
        other => panic!("{other:?}"),
    }
}

fn names() -> Vec<String> {
    (0..10).map(|n| format!("k{n}")).collect()
}

/// A position with five of the ten keys on each side.
pub(super) fn middle(partitioning: Partitioning) -> Vec<u8> {
    let mut positions: Vec<Vec<u8>> =
        names().iter().map(|key| partitioning.position(key.as_bytes()).into_owned()).collect();
    positions.sort();
    let mut at = positions.swap_remove(5);
    if partitioning == Partitioning::Hash {
        at.truncate(8);
    }
    at
}

/// Ten keys with records, some of them trimmed and some deleted.
pub(super) fn filled(partitioning: Partitioning, retention: Retention) -> Bench {
    let mut b = Bench::new(partitioning, retention);
    for round in 0..3 {
        for key in names() {
            b.write(100 * round + 1, vec![append(&key, &["v", "ww"])]).unwrap();
        }
    }
    for (n, key) in names().iter().enumerate() {
        match n % 3 {
            0 => drop(b.write(400, vec![trim(key, 3)]).unwrap()),
            1 => drop(b.write(400, vec![delete(key)]).unwrap()),
            _ => {}
        }
    }
    b
}

#[test]
fn every_key_is_on_one_side_with_all_that_it_had_and_goes_on_there() {
    for (partitioning, retention) in ALL {
        let mut b = filled(partitioning, retention);
        let at = middle(partitioning);
        let before = records(&b.state, &mut b.store);
        let ended: Vec<_> = names().iter().map(|key| ends(&b.state, &mut b.store, key).unwrap()).collect();
        let (old, last_ts) = (b.state.descriptor().clone(), b.state.last_ts());
        let mut child = b.born(500, &at).state;
        let low = records(&b.state, &mut b.store);
        let high = records(&child, &mut b.store);
        assert!(!low.is_empty() && !high.is_empty());
        assert_eq!([low, high].concat(), before, "{partitioning:?} {retention:?}");
        let mut sides = [0, 0];
        for (key, ended) in names().iter().zip(ended) {
            let above = *partitioning.position(key.as_bytes()) >= at[..];
            sides[usize::from(above)] += 1;
            let (here, there) = if above { (&mut child, &mut b.state) } else { (&mut b.state, &mut child) };
            assert_eq!(ends(here, &mut b.store, key), Ok(ended));
            assert_eq!(ends(there, &mut b.store, key), Err(Refusal::WrongShard));
            let request = write(example(here.applied().0 + 1), vec![append(key, &["x"])]);
            assert_eq!(apply(there, &mut b.store, 1, &request), Err(Refusal::WrongShard));
            let Ok(Outcome::Written(results)) = apply(here, &mut b.store, 1, &request) else {
                panic!("{key} is refused")
            };
            assert_eq!(results[0].offset, ended.1, "offsets go on");
            assert!(results[0].ts_us > last_ts.max(500), "and timestamps rise: {}", results[0].ts_us);
        }
        assert_eq!(sides, [5, 5]);

        let (low, high) = (b.state.descriptor(), child.descriptor());
        assert_eq!((&low.from, &low.to[..], low.version), (&old.from, &at[..], old.version + 1));
        assert_eq!((&high.from[..], &high.to, high.version), (&at[..], &old.to, old.version + 1));
        assert_eq!(
            (high.shard, high.table, high.partitioning, high.retention),
            (CHILD, TABLE, partitioning, retention)
        );
        let members = &high.membership;
        assert_eq!((members.epoch, members.first_leader), (Epoch(1), LEADER));
        assert!(members.members.iter().all(|member| member.role == MemberRole::Voter));
        assert_eq!(members.voters().collect::<Vec<_>>(), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(low.membership, old.membership);
        let mark = &b.state.children()[0];
        assert_eq!((mark.shard, &mark.from[..], &mark.to, mark.version), (CHILD, &at[..], &old.to, old.version + 1));
    }
}

/// A write of a client that writes nothing else.
pub(super) fn example(seq: u64) -> WriteId {
    WriteId { client: ClientId(77), seq: ClientSeq(seq), floor: ClientSeq(0), deadline_us: u64::MAX }
}

#[test]
fn a_child_begins_at_slot_0_and_no_earlier_than_its_parent() {
    // The entry's timestamp is ahead of the shard's, or behind.
    for (ts, expected) in [(900, 900), (3, 10)] {
        let mut b = Bench::new(Partitioning::Range, Retention::All);
        b.write(10, vec![append("z", &["v"])]).unwrap();
        let child = b.born(ts, b"m").state;
        assert_eq!((child.applied(), child.last_ts(), b.state.last_ts()), (Slot(0), expected, expected));
    }
}

#[test]
fn a_write_is_executed_once_whichever_side_its_attempts_come_to() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    let executed = write(b.id(), vec![append("z", &["executed"])]);
    let first = b.entry(10, std::slice::from_ref(&executed)).remove(0);
    let raised = WriteId { floor: ClientSeq(5), seq: ClientSeq(6), client: ClientId(5), ..b.id() };
    assert!(b.entry(11, &[write(raised, vec![append("a", &["v"])])])[0].is_ok());
    let mut child = b.born(20, b"m").state;
    let store = &mut b.store;

    assert_eq!(apply(&mut child, store, 30, &executed), first, "its outcome is known to the child");
    assert_eq!(apply(&mut b.state, store, 30, &executed), first);
    assert_eq!(ends(&child, store, "z"), Ok((Offset(0), Offset(1))));

    let fresh = write(WriteId { seq: ClientSeq(50), ..executed.id }, vec![append("z", &["fresh"])]);
    assert_eq!(apply(&mut b.state, store, 31, &fresh), Err(Refusal::WrongShard), "a late attempt is not executed");
    let second = apply(&mut child, store, 31, &fresh);
    assert!(matches!(&second, Ok(Outcome::Written(results)) if results[0].offset == Offset(1)), "{second:?}");
    assert_eq!(apply(&mut child, store, 32, &fresh), second);
    assert_eq!(apply(&mut b.state, store, 33, &fresh), Err(Refusal::WrongShard), "nor is it known there");
    assert_eq!(ends(&child, store, "z"), Ok((Offset(0), Offset(2))));

    let below = write(WriteId { seq: ClientSeq(4), ..raised }, vec![append("z", &["v"])]);
    assert_eq!(apply(&mut child, store, 34, &below), Err(Refusal::BelowFloor), "floors came along");
    let late = WriteId { seq: ClientSeq(60), deadline_us: 19, ..executed.id };
    let late = apply(&mut child, store, 1, &write(late, vec![append("z", &["v"])]));
    assert!(matches!(late, Err(Refusal::Expired { shard_us: 20.. })), "and so did the time: {late:?}");
    let both = write(WriteId { seq: ClientSeq(70), ..executed.id }, vec![append("a", &["v"]), append("z", &["v"])]);
    for state in [&mut b.state, &mut child] {
        assert_eq!(apply(state, store, 40, &both), Err(Refusal::WrongShard), "a batch of both is executed by neither");
    }
    assert_eq!(ends(&b.state, store, "a"), Ok((Offset(0), Offset(1))));
}

/// The records of a tail's answer: key and offset.
fn tail(state: &ShardState, store: &mut MemState, segment: (&[u8], &[u8], u64)) -> Option<Vec<(Bytes, u64)>> {
    let (from, to, after) = segment;
    let segments = vec![(Bytes::copy_from_slice(from), Bytes::copy_from_slice(to), after)];
    let (from, to) = (Bytes::new(), Bytes::new());
    let poll = TailPoll { from, to, segments, limit: 0, wait_us: 0, tells_trimmed: true };
    match query::tail(state, store, &mut Firsts::default(), &poll).unwrap() {
        Some(Ok(Answer::Tail { records, more, .. })) => {
            assert!(!more);
            Some(records.into_iter().map(|record| (record.key, record.offset.0)).collect())
        }
        Some(Ok(Answer::TailScan { segment: 0, .. })) => None,
        None => Some(vec![]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_tail_had_before_a_split_goes_on_on_both_sides_without_loss_or_repetition() {
    for partitioning in [Partitioning::Range, Partitioning::Hash] {
        let mut b = Bench::new(partitioning, Retention::All);
        for key in names() {
            b.write(10, vec![append(&key, &["given"])]).unwrap();
        }
        let given = b.state.last_ts();
        for key in names() {
            b.write(20, vec![append(&key, &["before"])]).unwrap();
        }
        let at = middle(partitioning);
        let mut child = b.born(30, &at).state;
        for key in names() {
            let above = *partitioning.position(key.as_bytes()) >= at[..];
            let state = if above { &mut child } else { &mut b.state };
            let request = write(example(state.applied().0 + 1), vec![append(&key, &["after"])]);
            apply(state, &mut b.store, 40, &request).unwrap();
        }
        let low = tail(&b.state, &mut b.store, (b"", &at, given)).unwrap();
        let high = tail(&child, &mut b.store, (&at, b"", given)).unwrap();
        assert_eq!((low.len(), high.len()), (10, 10), "two of each of five keys");
        let mut all = [low, high].concat();
        all.sort();
        let expected: Vec<(Bytes, u64)> =
            names().into_iter().flat_map(|k| [(k.clone().into(), 1), (k.into(), 2)]).collect();
        assert_eq!(all, expected);
        let last = child.last_ts();
        assert_eq!(tail(&child, &mut b.store, (&at, b"", last)), Some(vec![]), "it is at its end");
    }
}

#[test]
fn neither_ring_claims_more_than_it_has() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    let founded = Genesis::Shard(b.state.descriptor().clone());
    b.write(10, vec![append("a", &["1"]), append("z", &["1"])]).unwrap();
    b.state.store_sessions(&mut b.store).unwrap();
    b.state = ShardState::load(&mut b.store, b.state.space(), founded).unwrap();
    b.write(20, vec![append("a", &["2"]), append("z", &["2"])]).unwrap();
    b.write(30, vec![trim("a", 1)]).unwrap();
    let child = b.born(40, b"m").state;
    for state in [&b.state, &child] {
        assert_eq!((state.ring().floor_ts(), state.ring().dropped_ts()), (10, 30));
        assert_eq!(tail(state, &mut b.store, (b"", b"", 9)), None, "what is older is to be scanned for");
    }
    assert_eq!(tail(&b.state, &mut b.store, (b"", b"", 10)), Some(vec![("a".into(), 1)]));
    assert_eq!(tail(&child, &mut b.store, (b"", b"", 10)), Some(vec![("z".into(), 1)]));
}

#[test]
fn accounts_hold_both_sides_and_get_all_back() {
    let memory = Memory::new(64 << 20);
    let mut b = filled(Partitioning::Hash, Retention::All);
    b.state.share(&memory);
    let used = || (memory.of(Holder::Rings).used(), memory.of(Holder::Outcomes).used());
    let (rings, outcomes) = used();
    let child = b.born(500, &middle(Partitioning::Hash)).state;
    assert_eq!(used(), (rings, 2 * outcomes));
    drop(child);
    assert_eq!(used(), (b.state.ring().bytes(), outcomes));
}

#[test]
fn what_is_got_ready_before_a_split_is_applied_in_the_bounds_after_it() {
    let mut b = filled(Partitioning::Range, Retention::All);
    let split = entry(&b.state, 500, encode_admin(&Admin::Split(plan(&b.state, b"k5"))));
    let ops = vec![append("k4", &["v"]), trim("k7", 4), append("k7", &["v"])];
    let mut next = |slot: Slot| {
        let id = b.id();
        let data = encode_requests([&write(id, ops.clone())].into_iter(), 0);
        Entry::new(EntryId { slot, ..EntryId::ZERO }, 501, 0, Payload::Command(data))
    };
    let (second, third) = (next(split.id.slot.next()), next(split.id.slot.next().next()));
    assert!(b.state.prepare(&mut b.store, &split).unwrap());
    assert!(!b.state.is_preparing(), "it needs nothing");
    b.state.prepare(&mut b.store, &second).unwrap();
    let effects = b.state.apply(&mut b.store, &mut b.overlay, &split, Wanted::Nothing).unwrap();
    let Born { state: child, .. } = *effects.child.unwrap();
    let before = records(&child, &mut b.store);
    let refused = b.state.apply(&mut b.store, &mut b.overlay, &second, Wanted::Results).unwrap();
    assert_eq!(refused.results, [Err(Refusal::WrongShard)]);

    let mut counted = Counting::new(&mut b.store);
    while !b.state.prepare(&mut counted, &third).unwrap() {}
    assert_eq!(counted.rows, 1, "the head of the key that is still here");
    let refused = b.state.apply(&mut b.store, &mut b.overlay, &third, Wanted::Results).unwrap();
    assert_eq!(refused.results, [Err(Refusal::WrongShard)]);
    assert_eq!(records(&child, &mut b.store), before);
    assert_eq!(ends(&b.state, &mut b.store, "k4"), Ok((Offset(0), Offset(7))), "three times two, and a deletion");
}

/// Which part of a split is wrong; nothing may have changed.
fn refused(b: &mut Bench, split: Split) -> &'static str {
    let before =
        (b.state.descriptor().clone(), b.state.children().to_vec(), b.state.pieces().clone(), dump(&mut b.store));
    let effects = b.split(600, split);
    assert!(effects.child.is_none());
    let after =
        (b.state.descriptor().clone(), b.state.children().to_vec(), b.state.pieces().clone(), dump(&mut b.store));
    assert_eq!(before, after);
    match effects.refused {
        Some(Refusal::Invalid { field, why }) => {
            assert!(!why.is_empty());
            field
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_split_counts_only_for_the_shard_that_it_was_made_for() {
    let mut b = filled(Partitioning::Range, Retention::All);
    let good = plan(&b.state, b"k5");
    assert_eq!(refused(&mut b, Split { version: good.version + 1, ..good.clone() }), "version");
    assert_eq!(refused(&mut b, Split { epoch: Epoch(2), ..good.clone() }), "epoch");
    for voters in [vec![], vec![NodeId(1)], vec![NodeId(3), LEADER], vec![LEADER, LEADER]] {
        assert_eq!(refused(&mut b, Split { voters: voters.clone(), ..good.clone() }), "voters", "{voters:?}");
    }
    for child in [ShardId(0), SYSTEM_SHARD, b.state.descriptor().shard, ShardId(1 << 31), ShardId(u64::MAX)] {
        assert_eq!(refused(&mut b, Split { child, ..good.clone() }), "child", "{child}");
    }
    assert_eq!(refused(&mut b, Split { confirmed: vec![CHILD], ..good.clone() }), "child");
    assert!(b.split(700, good.clone()).child.is_some());
    assert_eq!(refused(&mut b, good.clone()), "version", "it was made for the bounds before");
    let again = plan(&b.state, b"k3");
    assert_eq!(refused(&mut b, again.clone()), "child", "the child is there");
    assert_eq!(refused(&mut b, Split { confirmed: vec![CHILD], ..again }), "child");

    let mut b = Bench::with(Genesis::System(Box::new(SystemState::found(7, &["a:1".into()]))));
    let split = plan(&b.state, b"k5");
    assert_eq!(refused(&mut b, split), "shard");
}

#[test]
fn a_split_cuts_inside_the_bounds_and_at_no_edge() {
    let mut b = filled(Partitioning::Range, Retention::All);
    b.born(500, b"k3");
    // The upper part of the lower side: from k1 to k3.
    let child = *b.split(501, Split { child: ShardId(41), ..plan(&b.state, b"k1") }).child.unwrap();
    assert_eq!((&child.descriptor.from[..], &child.descriptor.to[..]), (&b"k1"[..], &b"k3"[..]));
    b.state = child.state;
    for at in [&b""[..], b"k0", b"k1", b"k3", b"k4", &[b'k'; 5000]] {
        let split = Split { child: ShardId(42), ..plan(&b.state, at) };
        assert_eq!(refused(&mut b, split), "at", "{at:?}");
    }
    assert!(b.split(502, Split { child: ShardId(42), ..plan(&b.state, b"k1\0") }).child.is_some());

    let mut b = filled(Partitioning::Hash, Retention::All);
    let at = middle(Partitioning::Hash);
    let longer = [&at[..], b"k"].concat();
    for at in [&at[..7], &longer[..], &[0; 8][..], &b""[..]] {
        let split = plan(&b.state, at);
        assert_eq!(refused(&mut b, split), "at", "{at:?}");
    }
    assert!(b.split(502, plan(&b.state, &at)).child.is_some());
}

#[test]
fn a_shard_whose_children_the_map_does_not_know_is_not_split_for_ever() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    let next = |state: &ShardState, n: u64| Split { child: ShardId(40 + n), ..plan(state, &[b'z' - n as u8]) };
    for n in 0..CHILDREN_MAX as u64 {
        let split = next(&b.state, n);
        assert!(b.split(n, split).child.is_some());
    }
    let more = next(&b.state, CHILDREN_MAX as u64);
    assert_eq!(refused(&mut b, more.clone()), "child");
    let confirmed = vec![ShardId(44), ShardId(40), ShardId(99)];
    assert!(b.split(100, Split { confirmed, ..more }).child.is_some());
    let marks: Vec<u64> = b.state.children().iter().map(|mark| mark.shard.0).collect();
    let left = (41..=40 + CHILDREN_MAX as u64).filter(|id| *id != 44);
    assert_eq!(marks, left.collect::<Vec<_>>(), "what the map knows is forgotten");
}
