//! Two shards whose records share a space, as a split leaves them: nothing that one does touches what is the other's.

use super::bench::{Bench, TABLE, append, delete, trim};
use crate::codec::applied::AppliedRow;
use crate::codec::bounds::{BoundsRow, ChildMark, Phase};
use crate::codec::keys::{self, Bounds};
use crate::codec::pieces::{self, Piece};
use crate::command::{KeyOp, Op, RowFormat, WriteId, WriteRequest, encode_entry};
use crate::genesis::Genesis;
use crate::host::{Answer, At, Read, Scan};
use crate::logstore::mem::MemLog;
use crate::logstore::{GroupWrite, LogBatch, LogStore};
use crate::machine::bounds::position_rows;
use crate::machine::extent::{joined, without};
use crate::machine::overlay::Overlay;
use crate::machine::{Applied, ShardState, Wanted};
use crate::query::{Replied, read};
use crate::scrub::hash_rows;
use crate::snapshot::{Header, OsFiles, SnapshotFile, Throttle, install, writer};
use crate::state::mem::{ColdRows, MemState};
use crate::state::{Lacked, StateBatch, StateStore, ViewJob};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use synod_cluster::ids::{
    Ballot, ClientId, ClientSeq, Entry, EntryId, HardState, NodeWriteSeq, Offset, ShardId, Slot, Space,
};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, Partitioning, Retention};
use synod_paxos::types::{Basis, Payload};

/// The own space of the shard that was split, in which the child's first records are too.
pub(crate) const PARENT: Space = Space(2);
/// The child's own space, without records.
pub(crate) const CHILD: Space = Space(9);
/// Where the other records of the child are.
pub(crate) const FAR: Space = Space(0x8000_0007);

const CASES: [(Partitioning, Retention); 4] = [
    (Partitioning::Range, Retention::Latest),
    (Partitioning::Range, Retention::All),
    (Partitioning::Hash, Retention::Latest),
    (Partitioning::Hash, Retention::All),
];

/// All rows of a store, or of ranges of it.
pub(crate) type Rows = Vec<(Vec<u8>, Bytes)>;

/// A store with both shards.
pub(crate) struct Two {
    pub(crate) store: MemState,
    pub(crate) parent: ShardState,
    pub(crate) child: ShardState,
    /// What the child was created with.
    pub(crate) born: Descriptor,
    /// What the parent was created with.
    pub(crate) created: Descriptor,
    overlay: Overlay,
    seq: u64,
}

/// Where the child's positions begin, and its second piece.
fn cuts(partitioning: Partitioning) -> [Bytes; 2] {
    match partitioning {
        Partitioning::Range => [Bytes::from_static(b"k20"), Bytes::from_static(b"k35")],
        Partitioning::Hash => [0x60, 0xb0].map(|first: u8| Bytes::from(vec![first, 0, 0, 0, 0, 0, 0, 0])),
    }
}

/// Key n of fifty has n % 4 + 1 records.
fn filled(partitioning: Partitioning, retention: Retention) -> Bench {
    let mut b = Bench::new(partitioning, retention);
    let mut ts = 0;
    for n in 0..50u64 {
        for _ in 0..=n % 4 {
            ts += 10;
            b.write(ts, vec![append(&format!("k{n:02}"), &["v"])]).unwrap();
        }
    }
    b.state.store_sessions(&mut b.store).unwrap();
    b
}

pub(crate) fn rows_of(store: &mut MemState, ranges: &[Bounds]) -> Rows {
    let mut rows = vec![];
    for (from, to) in ranges {
        store
            .scan(from, to, false, &mut |key, value| {
                rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    rows.sort();
    rows
}

pub(crate) fn all_rows(store: &mut MemState) -> Rows {
    rows_of(store, &[(vec![], vec![0xff; 9])])
}

pub(crate) fn remove(store: &mut MemState, ranges: &[Bounds]) {
    for (from, to) in ranges {
        store.remove_range(from, to).unwrap();
    }
}

/// Moves rows to another space.
fn moved(store: &mut MemState, range: &Bounds, space: Space) {
    let found = rows_of(store, std::slice::from_ref(range)).into_iter();
    let rows = found.map(|(key, value)| ([&space.0.to_be_bytes()[..], &key[4..]].concat(), Some(value))).collect();
    store.apply(StateBatch { rows }).unwrap();
    remove(store, std::slice::from_ref(range));
}

impl Two {
    pub(crate) fn new(partitioning: Partitioning, retention: Retention) -> Self {
        let Bench { mut store, state, overlay, .. } = filled(partitioning, retention);
        let (created, [at, far]) = (state.descriptor().clone(), cuts(partitioning));
        let born = Descriptor { shard: ShardId(9), from: at.clone(), version: 2, ..created.clone() };
        let mark = ChildMark { shard: born.shard, from: at.clone(), to: Bytes::new(), version: 2, voters: vec![] };
        let row = |from: &Bytes, to: &Bytes, children: Vec<ChildMark>| {
            let (from, to, phase) = (from.clone(), to.clone(), Phase::Alone);
            BoundsRow { version: 2, from, to, retention, children, phase, merges: 0, absorbed: vec![] }
        };
        let of_parent = row(&Bytes::new(), &at, vec![mark.clone()]);
        let of_child = row(&at, &Bytes::new(), vec![]);
        let near = Piece { from: at, to: far.clone(), space: PARENT };
        let places = [near, Piece { from: far.clone(), to: Bytes::new(), space: FAR }];
        moved(&mut store, &position_rows(&created, PARENT, &far, b""), FAR);
        let applied = AppliedRow { slot: Slot(0), last_ts: state.last_ts() };
        let rows = vec![
            (keys::bounds_row(PARENT), Some(of_parent.encode())),
            (keys::bounds_row(CHILD), Some(of_child.encode())),
            (keys::pieces_row(CHILD), Some(pieces::encode(&places))),
            (keys::applied(CHILD), Some(applied.encode())),
        ];
        store.apply(StateBatch { rows }).unwrap();
        let parent = ShardState::load(&mut store, PARENT, Genesis::Shard(created.clone())).unwrap();
        let child = ShardState::load(&mut store, CHILD, Genesis::Shard(born.clone())).unwrap();
        assert_eq!((parent.descriptor().version, parent.children()), (2, &[mark][..]));
        assert!(parent.pieces().is_whole(PARENT) && !child.pieces().is_whole(CHILD));
        Self { store, parent, child, born, created, overlay, seq: 0 }
    }

    /// A log that both are in, which begins where their states are.
    pub(crate) fn log(&self) -> MemLog {
        let log = MemLog::new();
        let group = |state: &ShardState, created: &Descriptor| GroupWrite {
            shard: created.shard,
            genesis: Some(Genesis::Shard(created.clone()).encode()),
            hard: Some(HardState::initial(created.membership.clone())),
            trim: (state.applied() > Slot(0)).then_some(EntryId { slot: state.applied(), ..EntryId::ZERO }),
            ..GroupWrite::default()
        };
        let groups = vec![group(&self.parent, &self.created), group(&self.child, &self.born)];
        log.write(&LogBatch { groups, seq: NodeWriteSeq(1), seen: vec![] }).unwrap();
        log
    }

    /// The next entry of one of the two.
    fn entry(&mut self, of_child: bool, ops: Vec<KeyOp>) -> Entry {
        self.seq += 1;
        let seq = ClientSeq(self.seq);
        let id = WriteId { client: ClientId(5), seq, floor: seq, deadline_us: u64::MAX };
        let request = WriteRequest { id, op: Op::Write { table: TABLE, ops } };
        let id = EntryId { slot: self.of(of_child).applied().next(), ..EntryId::ZERO };
        let data = encode_entry(RowFormat::Totals, [&request].into_iter(), 0);
        Entry::new(id, 1_000_000 + self.seq, 0, Payload::Command(data))
    }

    fn write(&mut self, of_child: bool, ops: Vec<KeyOp>) -> Applied {
        let entry = self.entry(of_child, ops);
        let state = if of_child { &mut self.child } else { &mut self.parent };
        while !state.prepare(&mut self.store, &entry).unwrap() {}
        let effects = state.apply(&mut self.store, &mut self.overlay, &entry, Wanted::Results).unwrap();
        state.store_sessions(&mut self.store).unwrap();
        effects.results.into_iter().next().unwrap()
    }

    fn of(&self, child: bool) -> &ShardState {
        if child { &self.child } else { &self.parent }
    }

    /// The keys that one of the two holds.
    fn keys(&self, of_child: bool) -> Vec<String> {
        let descriptor = self.of(of_child).descriptor();
        (0..50).map(key_of).filter(|key| descriptor.contains(key.as_bytes())).collect()
    }

    fn read(&mut self, of_child: bool, wanted: &Read) -> Replied {
        let state = if of_child { &self.child } else { &self.parent };
        read(state, &mut self.store, wanted).unwrap()
    }
}

/// All pages of a scan.
fn pages(state: &ShardState, store: &mut MemState, mut wanted: Scan) -> Vec<(Bytes, Offset)> {
    let mut all = vec![];
    loop {
        match read(state, store, &Read::Scan(wanted.clone())).unwrap().unwrap() {
            Answer::Page { records, cursor, .. } => {
                all.extend(records.iter().map(|r| (r.key.clone(), r.offset)));
                wanted.cursor = cursor;
            }
            other => panic!("{other:?}"),
        }
        if wanted.cursor.is_empty() {
            return all;
        }
    }
}

/// The offset of a key's newest record, or of the one at an offset.
fn offset_at(state: &ShardState, store: &mut MemState, key: &str, at: At) -> Option<Offset> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match read(state, store, &Read::Get { key, at }).unwrap().unwrap() {
        Answer::Record { record, .. } => record.map(|record| record.offset),
        other => panic!("{other:?}"),
    }
}

fn key_of(n: u64) -> String {
    format!("k{n:02}")
}

#[test]
fn each_reads_what_is_its_own_across_the_edges_of_its_pieces() {
    // Reversed, all of the history, keys alone.
    let scans =
        [(false, false, false), (true, false, false), (false, true, false), (true, false, true), (false, false, true)];
    for (partitioning, retention) in CASES {
        let mut whole = filled(partitioning, retention);
        let mut two = Two::new(partitioning, retention);
        let spaces: Vec<Space> = two.keys(true).iter().map(|key| two.child.space_of(key.as_bytes())).collect();
        assert!(spaces.contains(&PARENT) && spaces.contains(&FAR), "{spaces:?}");
        let Two { store, parent, child, .. } = &mut two;
        for ((reverse, history, keys_only), limit) in
            scans.into_iter().flat_map(|scan| [(scan, 1), (scan, 7), (scan, 0)])
        {
            let wanted = Scan { reverse, history, keys_only, limit, ..Scan::default() };
            let all = pages(&whole.state, &mut whole.store, wanted.clone());
            for state in [&*parent, &*child] {
                let own = |(key, _): &&(Bytes, Offset)| state.descriptor().contains(key);
                let expected: Vec<_> = all.iter().filter(own).cloned().collect();
                let found = pages(state, store, wanted.clone());
                let shard = state.descriptor().shard;
                assert_eq!(found, expected, "{partitioning:?} {retention:?} shard {shard}: {wanted:?}");
                assert!(found.len() > 5);
            }
        }
        for n in 0..50 {
            let key = key_of(n);
            let state = if child.descriptor().contains(key.as_bytes()) { &*child } else { &*parent };
            assert_eq!(offset_at(state, store, &key, At::Newest), Some(Offset(n % 4)), "{key}");
        }
    }
}

/// A scan in parts that the client asks for by position goes over the edge of a piece too.
#[test]
fn a_scan_by_positions_comes_to_the_pieces_that_hold_them() {
    let mut two = Two::new(Partitioning::Range, Retention::All);
    let between = |from: &'static str, to: &'static str| Scan {
        pos_from: Bytes::from_static(from.as_bytes()),
        pos_to: Bytes::from_static(to.as_bytes()),
        ..Scan::default()
    };
    for (from, to, first, end) in [("k33", "k37", 33, 37), ("k10", "k23", 20, 23), ("k35", "", 35, 50)] {
        for reverse in [false, true] {
            let mut found = pages(&two.child, &mut two.store, Scan { reverse, ..between(from, to) });
            if reverse {
                found.reverse();
            }
            let expected: Vec<_> = (first..end).map(|n| (Bytes::from(key_of(n)), Offset(n % 4))).collect();
            assert_eq!(found, expected, "{from} to {to}");
        }
    }
}

#[test]
fn each_writes_and_trims_what_is_its_own() {
    for (partitioning, retention) in CASES {
        for of_child in [false, true] {
            let mut two = Two::new(partitioning, retention);
            let others = two.of(!of_child).owned();
            let before = rows_of(&mut two.store, &others);
            for key in two.keys(of_child) {
                // More rows than are dropped one by one.
                two.write(of_child, vec![append(&key, &["x"; 100])]).unwrap();
                two.write(of_child, vec![trim(&key, 80)]).unwrap();
                two.write(of_child, vec![delete(&key)]).unwrap();
            }
            assert_eq!(rows_of(&mut two.store, &others), before, "{partitioning:?} {retention:?} child {of_child}");
            for key in two.keys(of_child) {
                let n: u64 = key[1..].parse().unwrap();
                let last = n % 4 + 101;
                let key = Bytes::from(key);
                let wanted = Read::Range { key: key.clone(), from: Offset(80), limit: 0 };
                match (two.read(of_child, &wanted), retention) {
                    (Ok(Answer::Page { records, first, .. }), Retention::All) => {
                        let offsets: Vec<u64> = records.iter().map(|r| r.offset.0).collect();
                        assert_eq!((first, offsets), (Offset(80), (80..=last).collect()));
                    }
                    (Err(Refusal::Trimmed { first, .. }), Retention::Latest) => assert_eq!(first, Offset(last)),
                    other => panic!("{other:?}"),
                }
            }
            let key = two.keys(!of_child).remove(0);
            assert_eq!(two.write(of_child, vec![append(&key, &["x"])]), Err(Refusal::WrongShard));
            let owned = joined([two.parent.owned(), two.child.owned()].concat());
            assert_eq!(rows_of(&mut two.store, &owned), all_rows(&mut two.store), "rows that nobody owns");
        }
    }
}

#[test]
fn an_entry_lacks_rows_of_the_piece_that_its_key_is_in() {
    let mut two = Two::new(Partitioning::Range, Retention::All);
    let entry = two.entry(true, vec![append("k21", &["x"]), append("k40", &["x"])]);
    let cold = ColdRows::default();
    two.store = std::mem::take(&mut two.store).cold(&cold);
    two.store.stay_in_memory(true);
    assert!(!two.child.prepare(&mut two.store, &entry).unwrap());
    let lacked = two.child.take_lacked(&mut two.store, &[]).unwrap();
    let head = |space, key: &[u8]| Lacked::row(&keys::record_head(space, TABLE, None, key));
    assert_eq!(lacked, [head(PARENT, b"k21"), head(FAR, b"k40")]);
}

fn hash(store: &mut MemState, ranges: Vec<Bounds>) -> u128 {
    let (told, heard) = channel();
    let job: ViewJob = Box::new(move |view| {
        told.send(hash_rows(view, &ranges, &mut Throttle::new(0)).unwrap().hash).unwrap();
    });
    store.view(job).unwrap();
    heard.recv().unwrap()
}

/// A snapshot of a shard, loaded into an empty store.
fn installed(store: &mut MemState, state: &ShardState, created: &Descriptor, space: Space) -> (MemState, ShardState) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard.snap");
    let cluster = ClientId(7);
    let genesis = Genesis::Shard(created.clone());
    let basis = Basis {
        id: EntryId { slot: state.applied(), ..EntryId::ZERO },
        membership: created.membership.clone(),
        epoch_start: Slot(0),
        promised: Ballot::default(),
    };
    let (ts, bounds) = (state.last_ts(), None);
    let header = Header { cluster, shard: created.shard, genesis: genesis.encode(), basis, ts, bounds };
    let (ranges, file) = (state.replicated(), path.clone());
    let job: ViewJob = Box::new(move |view| {
        let mut throttle = Throttle::new(0);
        let written = writer::write_rows(&OsFiles::shared(), &file, &header, view, &ranges, &mut throttle);
        written.unwrap().unwrap();
    });
    store.view(job).unwrap();
    let file = SnapshotFile::open(&path, Some(cluster)).unwrap();
    let mut fresh = MemState::new();
    let loader = fresh.loader().unwrap();
    install::load(&file, space, &*loader, &mut Throttle::new(0)).unwrap().unwrap();
    let (from, to) = keys::space_bounds(space);
    fresh.loaded(&from, &to).unwrap();
    let loaded = ShardState::load(&mut fresh, space, genesis).unwrap();
    (fresh, loaded)
}

#[test]
fn neither_a_hash_nor_a_snapshot_shows_in_how_many_spaces_the_records_are() {
    const FRESH: Space = Space(0x8000_0100);
    for (partitioning, retention) in CASES {
        let mut whole = filled(partitioning, retention);
        let all = hash(&mut whole.store, vec![keys::space_bounds(PARENT)]);
        assert_eq!(hash(&mut whole.store, whole.state.replicated()), all, "a shard that is alone has all of its space");
        for of_child in [false, true] {
            let mut two = Two::new(partitioning, retention);
            let key = two.keys(of_child).pop().unwrap();
            two.write(of_child, vec![append(&key, &["x"])]).unwrap();
            let Two { store, parent, child, born, created, .. } = &mut two;
            let (state, created) = if of_child { (&*child, &*born) } else { (&*parent, &*created) };
            let (mut fresh, again) = installed(store, state, created, FRESH);
            assert_eq!((again.descriptor(), again.children()), (state.descriptor(), state.children()));
            assert_eq!((again.applied(), again.last_ts()), (state.applied(), state.last_ts()));
            assert!(again.pieces().is_whole(FRESH));
            assert_eq!(fresh.get(&keys::pieces_row(FRESH)).unwrap(), None);
            assert_eq!(hash(&mut fresh, again.replicated()), hash(store, state.replicated()));
            let wanted = Scan { history: true, ..Scan::default() };
            assert_eq!(pages(&again, &mut fresh, wanted.clone()), pages(state, store, wanted));
            // All that is there is owned: nothing else came along.
            assert_eq!(rows_of(&mut fresh, &again.owned()), all_rows(&mut fresh));
        }
    }
}

#[test]
fn what_one_owns_goes_and_all_of_the_other_stays() {
    for (partitioning, retention) in CASES {
        for of_child in [false, true] {
            let mut two = Two::new(partitioning, retention);
            let (gone, stays) = (two.of(of_child).owned(), two.of(!of_child).owned());
            assert_eq!(without(&gone, &joined(stays.clone())), gone, "rows that both own");
            let expected = rows_of(&mut two.store, &stays);
            remove(&mut two.store, &gone);
            assert_eq!(all_rows(&mut two.store), expected, "{partitioning:?} {retention:?} child {of_child}");
        }
    }
}
