//! What every state store must do, run against each of them.
//!
//! Owns: the suite. Must never: know which store it runs against, except where damage is done to files.

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_engine::StoreError;
use synod_engine::codec::node::encode_format;
use synod_engine::state::front::FrontState;
use synod_engine::state::mem::{MemDisk, MemState};
use synod_engine::state::memtables::RocksState;
use synod_engine::state::rocks::{FORMAT, RocksShared, StateOptions};
use synod_engine::state::{BulkLoad, FlushId, StateBatch, StateStore, StateView};
use tempfile::TempDir;

/// Small files, so that one flush is several of them.
fn sizes() -> StateOptions {
    StateOptions { cache_bytes: 1 << 20, file_bytes: 2 << 10, level_zero_files_max: 64, memtable_bytes: 16 << 20 }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Mem,
    Rocks,
    Front,
}

/// A store that can be closed and opened again.
struct Subject {
    kind: Kind,
    directory: TempDir,
    disk: MemDisk,
    freeze_bytes: usize,
    store: Option<Box<dyn StateStore>>,
}

impl Subject {
    fn new(kind: Kind, freeze_bytes: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let mut subject = Self { kind, directory, disk: MemDisk::default(), freeze_bytes, store: None };
        subject.reopen();
        subject
    }

    /// Opens what is durable; what was not frozen is lost.
    fn reopen(&mut self) {
        self.store = None;
        let shared = || RocksShared::open(self.directory.path(), sizes()).unwrap();
        self.store = Some(match self.kind {
            Kind::Mem => Box::new(MemState::open(&self.disk).with_freeze_bytes(self.freeze_bytes)),
            Kind::Rocks => Box::new(RocksState::new(shared(), self.freeze_bytes).unwrap()),
            Kind::Front => Box::new(FrontState::new(shared(), self.freeze_bytes).unwrap()),
        });
    }

    fn store(&mut self) -> &mut dyn StateStore {
        &mut **self.store.as_mut().unwrap()
    }

    fn put(&mut self, rows: &[(&str, &str)]) {
        let row = |&(key, value): &(&str, &str)| (key.into(), Some(Bytes::copy_from_slice(value.as_bytes())));
        self.store().apply(StateBatch { rows: rows.iter().map(row).collect() }).unwrap();
    }

    fn delete(&mut self, keys: &[&str]) {
        let rows = keys.iter().map(|&key| (key.into(), None)).collect();
        self.store().apply(StateBatch { rows }).unwrap();
    }

    fn get(&mut self, key: &str) -> Option<String> {
        self.store().get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn scan(&mut self, from: &str, to: &str, reverse: bool) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((String::from_utf8(key.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
            ControlFlow::Continue(())
        };
        self.store().scan(from.as_bytes(), to.as_bytes(), reverse, &mut visit).unwrap();
        found
    }

    fn keys(&mut self, from: &str, to: &str, reverse: bool) -> String {
        self.scan(from, to, reverse).into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
    }
}

fn each(test: impl Fn(&mut Subject)) {
    for kind in [Kind::Mem, Kind::Rocks, Kind::Front] {
        println!("{kind:?}");
        test(&mut Subject::new(kind, 1 << 20));
    }
}

#[test]
fn rows_are_seen_at_once() {
    each(|subject| {
        assert_eq!(subject.get("a"), None);
        assert_eq!(subject.keys("", "z", false), "");
        subject.put(&[("b", "1"), ("a", "1"), ("c", "1"), ("a", "2")]);
        assert_eq!(subject.get("a").as_deref(), Some("2"), "the later change of a batch wins");
        subject.delete(&["c", "never there"]);
        subject.put(&[("empty", "")]);
        assert_eq!(subject.get("c"), None);
        assert_eq!(subject.get("empty").as_deref(), Some(""));
        assert_eq!(subject.keys("", "z", false), "a b empty");
        assert_eq!(subject.keys("", "z", true), "empty b a");
    });
}

#[test]
fn scans_keep_to_bounds_and_breaks() {
    each(|subject| {
        subject.put(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        subject.store().freeze().unwrap();
        subject.put(&[("bb", "2"), ("c", "2")]);
        subject.delete(&["b"]);
        assert_eq!(subject.keys("a", "d", false), "a bb c", "the end is not included");
        assert_eq!(subject.keys("a", "d", true), "c bb a");
        assert_eq!(subject.keys("aa", "cc", true), "c bb");
        assert_eq!(subject.keys("c", "c", false), "");
        assert_eq!(subject.keys("d", "a", false), "");
        assert_eq!(subject.keys("d", "a", true), "");
        for (reverse, expected) in [(false, "a=1 bb=2"), (true, "d=1 c=2")] {
            let mut found = Vec::new();
            let mut visit = |key: &[u8], value: &[u8]| {
                found.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
                if found.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            subject.store().scan(b"a", b"z", reverse, &mut visit).unwrap();
            assert_eq!(found.join(" "), expected);
        }
    });
}

#[test]
fn only_what_was_frozen_survives() {
    each(|subject| {
        subject.put(&[("a", "1"), ("b", "1")]);
        assert_eq!(subject.store().flushed().unwrap(), FlushId(0));
        assert_eq!(subject.store().freeze().unwrap(), FlushId(1));
        if subject.kind == Kind::Rocks {
            // RocksDB's memtable goes as it is when the flush begins: with what came after the freeze, too.
            while subject.store().flushed().unwrap() < FlushId(1) {
                std::thread::yield_now();
            }
        }
        subject.put(&[("a", "2"), ("c", "2")]);
        subject.delete(&["b"]);
        assert_eq!(subject.keys("", "z", false), "a c");
        subject.reopen();
        assert_eq!(subject.scan("", "z", false), [("a".into(), "1".into()), ("b".into(), "1".into())]);
        subject.put(&[("a", "3")]);
        subject.delete(&["b"]);
        subject.store().flush_and_wait().unwrap();
        assert_eq!(subject.store().flushed().unwrap(), FlushId(1));
        assert_eq!(subject.store().memory_bytes(), 0);
        subject.reopen();
        assert_eq!(subject.scan("", "z", false), [("a".into(), "3".into())]);
        assert_eq!(subject.get("b"), None);
    });
}

#[test]
fn freezes_are_asked_for_and_counted() {
    for kind in [Kind::Mem, Kind::Rocks, Kind::Front] {
        let mut subject = Subject::new(kind, 10_000);
        let value = "x".repeat(1000);
        let mut wanted = 0;
        for round in 0..100 {
            subject.put(&[(&format!("{round:04}"), &value)]);
            assert!(subject.store().memory_bytes() > 0);
            if subject.store().wants_freeze() {
                wanted += 1;
                assert_eq!(subject.store().freeze().unwrap(), FlushId(wanted));
                assert!(!subject.store().wants_freeze());
            }
        }
        assert!((8..=13).contains(&wanted), "{kind:?}: {wanted} freezes of 10 kB for 100 kB");
        subject.store().flush_and_wait().unwrap();
        assert_eq!(subject.store().flushed().unwrap(), FlushId(wanted + 1));
        // Empty freezes count too.
        assert_eq!(subject.store().freeze().unwrap(), FlushId(wanted + 2));
        subject.store().flush_and_wait().unwrap();
        assert_eq!(subject.store().flushed().unwrap(), FlushId(wanted + 3));
        assert_eq!(subject.scan("", "z", false).len(), 100);
    }
}

#[test]
fn removed_ranges_stay_removed() {
    each(|subject| {
        subject.put(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        subject.store().flush_and_wait().unwrap();
        subject.put(&[("bb", "1"), ("e", "1")]);
        subject.store().freeze().unwrap();
        subject.put(&[("cc", "1")]);
        subject.store().remove_range(b"b", b"d").unwrap();
        subject.store().remove_range(b"z", b"a").unwrap();
        for _ in 0..2 {
            assert_eq!(subject.keys("", "z", false), "a d e");
            assert_eq!(subject.keys("", "z", true), "e d a");
            for key in ["b", "bb", "c", "cc"] {
                assert_eq!(subject.get(key), None, "{key}");
            }
            subject.store().freeze().unwrap();
        }
        // A range is below what is put after it, before and after the flush.
        subject.store().remove_range(b"a", b"b").unwrap();
        subject.put(&[("a", "2"), ("c", "2")]);
        subject.store().remove_range(b"d", b"z").unwrap();
        for _ in 0..2 {
            assert_eq!(subject.scan("", "z", false), [("a".into(), "2".into()), ("c".into(), "2".into())]);
            subject.store().flush_and_wait().unwrap();
        }
        subject.reopen();
        assert_eq!(subject.keys("", "z", false), "a c");
        subject.store().remove_range(b"", b"z").unwrap();
        subject.store().flush_and_wait().unwrap();
        subject.reopen();
        assert_eq!(subject.keys("", "z", false), "");
    });
}

type Rows = BTreeMap<Vec<u8>, Bytes>;

/// What a view of `[from, to)` shows, once its thread has looked.
fn viewed(subject: &mut Subject) -> crossbeam_channel::Receiver<Vec<(String, String)>> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let job = move |view: &mut dyn StateView| {
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((String::from_utf8(key.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
            ControlFlow::Continue(())
        };
        view.scan(b"b", b"y", &mut visit).unwrap();
        tell.send(found).unwrap();
    };
    subject.store().view(Box::new(job)).unwrap();
    told
}

#[test]
fn a_view_shows_the_last_freeze_whatever_comes_after() {
    each(|subject| {
        subject.put(&[("a", "out"), ("c", "old"), ("d", "goes"), ("z", "out")]);
        subject.store().freeze().unwrap();
        subject.put(&[("c", "new"), ("e", "more")]);
        subject.delete(&["d"]);
        subject.store().freeze().unwrap();
        let told = viewed(subject);
        subject.put(&[("c", "later"), ("f", "later")]);
        subject.store().remove_range(b"e", b"f").unwrap();
        subject.store().flush_and_wait().unwrap();
        let seen: Vec<(String, String)> = told.recv().unwrap();
        assert_eq!(seen, [("c".into(), "new".into()), ("e".into(), "more".into())], "{:?}", subject.kind);
        assert_eq!(subject.keys("b", "y", false), "c f");
    });
}

#[test]
fn loaded_rows_are_seen_and_survive() {
    each(|subject| {
        subject.put(&[("a", "1"), ("z", "2")]);
        let loader = subject.store().loader().unwrap();
        let rows: Vec<(Vec<u8>, Bytes)> =
            (0..500u32).map(|n| (format!("m{n:04}").into_bytes(), Bytes::from(vec![b'x'; 20]))).collect();
        let (first, rest) = rows.split_at(200);
        std::thread::scope(|threads| {
            threads.spawn(|| loader.load(first).and_then(|()| loader.load(rest)).unwrap());
        });
        drop(loader);
        subject.store().loaded(b"m", b"n").unwrap();
        assert_eq!(subject.scan("m", "n", false).len(), 500);
        // Nothing was frozen: what was loaded is durable by itself.
        subject.reopen();
        assert_eq!(subject.scan("a", "zz", false).len(), 500, "{:?}", subject.kind);
        subject.store().remove_range(b"m", b"n").unwrap();
        subject.store().flush_and_wait().unwrap();
        subject.reopen();
        assert_eq!(subject.scan("a", "zz", false).len(), 0);
    });
}

fn random_key(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let len = rng.random_range(1..4);
    (0..len).map(|_| [0, b'a', b'b', b'c', 0xff][rng.random_range(0..5)]).collect()
}

fn random_batch(rng: &mut ChaCha8Rng, model: &mut Rows, step: u32) -> StateBatch {
    let mut batch = StateBatch::default();
    for _ in 0..rng.random_range(0..12) {
        let key = random_key(rng);
        if rng.random_bool(0.3) {
            model.remove(&key);
            batch.rows.push((key, None));
        } else {
            let value = Bytes::from(vec![step as u8; rng.random_range(0..200)]);
            model.insert(key.clone(), value.clone());
            batch.rows.push((key, Some(value)));
        }
    }
    batch
}

fn check(store: &mut dyn StateStore, model: &Rows, rng: &mut ChaCha8Rng, context: &str) {
    let (from, to, reverse) = (random_key(rng), random_key(rng), rng.random_bool(0.5));
    let limit = rng.random_range(1..200);
    let mut expected: Vec<(Vec<u8>, Bytes)> = if from < to {
        model.range(from.clone()..to.clone()).map(|(key, value)| (key.clone(), value.clone())).collect()
    } else {
        Vec::new()
    };
    if reverse {
        expected.reverse();
    }
    expected.truncate(limit);
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
        if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(&from, &to, reverse, &mut visit).unwrap();
    assert_eq!(found, expected, "{context}: scan of {from:?}..{to:?}, reverse {reverse}, limit {limit}");
    for _ in 0..5 {
        let key = random_key(rng);
        assert_eq!(store.get(&key).unwrap(), model.get(&key).cloned(), "{context}: get {key:?}");
    }
}

fn all_rows(store: &mut dyn StateStore) -> Rows {
    let mut all = Rows::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        all.insert(key.to_vec(), Bytes::copy_from_slice(value));
        ControlFlow::Continue(())
    };
    store.scan(b"", &[0xff; 8], false, &mut visit).unwrap();
    all
}

/// Opens the store again and returns what it found: the state of the last freeze exactly, or, on RocksDB's own
/// memtables, a later one that it had between two batches. `since` holds them in order.
fn reopened(subject: &mut Subject, since: &[Rows], context: &str) -> Rows {
    subject.reopen();
    let found = all_rows(subject.store());
    if subject.kind == Kind::Rocks {
        assert!(since.contains(&found), "{context}: reopened with half a batch, or less than was frozen");
    } else {
        assert_eq!(found, since[0], "{context}: reopened");
    }
    found
}

fn random_run(kind: Kind, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut subject = Subject::new(kind, 4_000);
    let mut model = Rows::new();
    // The states since the last freeze.
    let mut since = vec![Rows::new()];
    for step in 0..1_500 {
        let context = format!("SEED={seed} {kind:?} step {step}");
        match rng.random_range(0..1000) {
            0..10 => {
                let (from, to) = (random_key(&mut rng), random_key(&mut rng));
                subject.store().remove_range(&from, &to).unwrap();
                model.retain(|key, _| from >= to || key < &from || key >= &to);
                since.push(model.clone());
            }
            10..60 => {
                subject.store().freeze().unwrap();
                since = vec![model.clone()];
            }
            60..65 => {
                subject.store().flush_and_wait().unwrap();
                since = vec![model.clone()];
            }
            65..70 => {
                model = reopened(&mut subject, &since, &context);
                since = vec![model.clone()];
            }
            70..400 => check(subject.store(), &model, &mut rng, &context),
            _ => {
                let batch = random_batch(&mut rng, &mut model, step);
                subject.store().apply(batch).unwrap();
                since.push(model.clone());
            }
        }
    }
    reopened(&mut subject, &since, &format!("SEED={seed} {kind:?} end"));
}

#[test]
fn random_runs_match_the_model() {
    let given: Option<u64> = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seeds: Vec<u64> = given.map_or_else(|| (0..6).map(|_| rand::random()).collect(), |seed| vec![seed]);
    for seed in seeds {
        println!("replay with: SEED={seed} cargo test --release --workspace --test state_conformance random_runs");
        for kind in [Kind::Mem, Kind::Rocks, Kind::Front] {
            random_run(kind, seed);
        }
    }
}

#[test]
fn fronts_share_a_database() {
    let directory = TempDir::new().unwrap();
    let open = || {
        let shared = RocksShared::open(directory.path(), sizes()).unwrap();
        let front = |shared: &Arc<RocksShared>| FrontState::new(Arc::clone(shared), 1 << 14).unwrap();
        (front(&shared), front(&shared), shared)
    };
    let row = |worker: u8, n: u32| (format!("{worker}-{n:05}").into_bytes(), Some(Bytes::from(vec![worker; 64])));
    let (one, two, shared) = open();
    std::thread::scope(|scope| {
        for (worker, mut front) in [(1, one), (2, two)] {
            scope.spawn(move || {
                for n in 0..3_000 {
                    front.apply(StateBatch { rows: vec![row(worker, n)] }).unwrap();
                    if front.wants_freeze() {
                        front.freeze().unwrap();
                    }
                }
                front.flush_and_wait().unwrap();
            });
        }
    });
    shared.health().unwrap();
    drop(shared);
    let (mut one, _two, _shared) = open();
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    one.scan(b"1", b"3", false, &mut count).unwrap();
    assert_eq!(rows, 6_000);
}

#[test]
fn what_a_crash_left_in_staging_goes() {
    let directory = TempDir::new().unwrap();
    drop(RocksShared::open(directory.path(), sizes()).unwrap());
    let left = directory.path().join("staging/7.sst");
    std::fs::write(&left, b"half a file").unwrap();
    drop(RocksShared::open(directory.path(), sizes()).unwrap());
    assert!(!left.exists());
}

/// Bytes that this thread has read from files so far.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_lookup_in_a_file_of_many_small_rows_reads_little_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = StateOptions { cache_bytes: 8 << 20, file_bytes: 64 << 20, ..StateOptions::default() };
    let shared = RocksShared::open(directory.path(), sizes).unwrap();
    let key = |n: u32| n.to_be_bytes().to_vec();
    let rows: Vec<_> = (0..600_000).map(|n| (key(2 * n), Bytes::from_static(b"value"))).collect();
    shared.load(&rows).unwrap();
    let mut state = RocksState::new(shared, 1 << 20).unwrap();
    let before = bytes_read();
    for n in 0..1_000 {
        let (there, missing) = (1_200 * n, 1_200 * n + 1);
        assert!(state.get(&key(there)).unwrap().is_some() && state.get(&key(missing)).unwrap().is_none());
    }
    let each = (bytes_read() - before) / 2_000;
    assert!(each < 32 << 10, "{each} bytes a lookup: a filter or an index is read as a whole");
}

#[test]
fn another_format_version_is_refused() {
    let directory = TempDir::new().unwrap();
    drop(RocksShared::open(directory.path(), sizes()).unwrap());
    let file = directory.path().join("FORMAT");
    let open = || RocksShared::open(directory.path(), sizes()).map(|_| ());
    std::fs::write(&file, encode_format(FORMAT + 1)).unwrap();
    assert!(matches!(open(), Err(StoreError::TooNew { .. })));
    std::fs::write(&file, b"garbage").unwrap();
    assert!(matches!(open(), Err(StoreError::Corrupt { .. })));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open(), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_failed_flush_is_reported() {
    let directory = TempDir::new().unwrap();
    let shared = RocksShared::open(directory.path(), sizes()).unwrap();
    let mut front = FrontState::new(shared, 1 << 14).unwrap();
    std::fs::remove_dir_all(directory.path().join("staging")).unwrap();
    front.apply(StateBatch { rows: vec![(b"a".to_vec(), Some(Bytes::from_static(b"1")))] }).unwrap();
    assert!(matches!(front.flush_and_wait(), Err(StoreError::Io { .. })));
    assert!(front.flushed().is_err());
    assert!(front.freeze().is_err());
    assert_eq!(front.get(b"a").unwrap(), Some(Bytes::from_static(b"1")), "still read from memory");
}
