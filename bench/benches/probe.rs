//! What the parts of applying a write cost, measured side by side in one run: the state's memtable, sessions, and applying
//! on a thread of its own. Figures of choices, kept in `docs/benchmarks`; a plain program, since a store that fills has no
//! steady state to sample.
//!
//! Owns: stores in the temporary directory (`TMPDIR` says where). Must never: measure anything but the engine's own code,
//! or RocksDB's in its place.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rocksdb::{DB, DBCompressionType, MemtableFactory, Options, SliceTransform, WriteBatch, WriteOptions};
use synod_cluster::ids::{ClientId, ClientSeq, Entry, EntryId, Offset, SYSTEM_SHARD, ShardId, Space, TableId};
use synod_cluster::system::{Descriptor, Partitioning, Retention, SystemState};
use synod_engine::command::{
    Action, Expect, KeyOp, NewRecord, Op, OpResult, Outcome, WriteId, WriteRequest, encode_requests,
};
use synod_engine::genesis::Genesis;
use synod_engine::machine::overlay::Overlay;
use synod_engine::machine::{ShardState, Wanted};
use synod_engine::sessions::Sessions;
use synod_engine::state::front::{FREEZE_BYTES, FrontState};
use synod_engine::state::rocks::{RocksShared, StateOptions};
use synod_engine::state::{StateBatch, StateStore};
use synod_paxos::types::Payload;

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 500_000;
const ROWS: usize = 1_000_000;
/// Rows of one batch: what a busy shard applies at once.
const BATCH: usize = 16;
const TABLE: TableId = TableId(3);
/// Writers of the session's stream.
const CLIENTS: u64 = 64;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    println!("one run, {ROWS} random rows of {VALUE_BYTES} B over {KEYS} keys in batches of {BATCH}\n");
    memtables(dir.path());
    sessions(dir.path());
    threads(dir.path());
}

/// On-CPU time of the calling thread and of the process, ns (Linux: `schedstat`, first field).
fn cpu_ns() -> (u64, u64) {
    let of = |path: &Path| -> u64 {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    (of(Path::new("/proc/thread-self")), tasks.map(|task| of(&task.path())).sum())
}

fn random_rows() -> impl Iterator<Item = Vec<(Vec<u8>, Bytes)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    std::iter::repeat_with(move || {
        (0..BATCH).map(|_| (format!("row-{:016x}", rng.random_range(0..KEYS)).into_bytes(), value.clone())).collect()
    })
    .take(ROWS / BATCH)
}

fn memtables(dir: &Path) {
    println!(
        "| rows wait for their flush in | worker CPU a row, µs | process CPU a row, flush included, µs | get, µs |"
    );
    println!("| --- | --- | --- | --- |");
    let shared = RocksShared::open(&dir.join("front"), StateOptions::default()).expect("a fresh directory opens");
    let mut front = FrontState::new(shared, FREEZE_BYTES).expect("a front");
    let (thread, process) = cpu_ns();
    for rows in random_rows() {
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
        front.apply(StateBatch { rows }).expect("rows");
        if front.wants_freeze() {
            front.freeze().expect("a freeze");
        }
    }
    let inserted = cpu_ns().0 - thread;
    let get = gets(|key| drop(black_box(front.get(key).expect("a read"))));
    front.flush_and_wait().expect("a flush");
    line("the front's hash map (what nodes use)", inserted, cpu_ns().1 - process, get);
    let kinds = [
        ("RocksDB, skip list", None),
        ("RocksDB, vector", Some(MemtableFactory::Vector)),
        ("RocksDB, hash skip list", Some(hash_skip_list())),
        ("RocksDB, hash link list", Some(MemtableFactory::HashLinkList { bucket_count: 1 << 20 })),
    ];
    for (at, (name, factory)) in kinds.into_iter().enumerate() {
        let readable = !matches!(factory, Some(MemtableFactory::Vector));
        let db = open(&dir.join(format!("kind-{at}")), factory);
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let (thread, process) = cpu_ns();
        for rows in random_rows() {
            let mut batch = WriteBatch::default();
            rows.iter().for_each(|(key, value)| batch.put(key, value));
            db.write_opt(batch, &unlogged).expect("rows");
        }
        let inserted = cpu_ns().0 - thread;
        // A vector is searched from end to end for each read: it serves none while it fills.
        let get = if readable { gets(|key| drop(black_box(db.get_pinned(key).expect("a read")))) } else { f64::NAN };
        db.flush().expect("a flush");
        line(name, inserted, cpu_ns().1 - process, get);
    }
    println!();
}

fn hash_skip_list() -> MemtableFactory {
    MemtableFactory::HashSkipList { bucket_count: 1 << 20, height: 4, branching_factor: 4 }
}

fn open(path: &Path, factory: Option<MemtableFactory>) -> DB {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(FREEZE_BYTES);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_level_zero_file_num_compaction_trigger(12);
    if let Some(factory) = factory {
        options.set_allow_concurrent_memtable_write(false);
        options.set_prefix_extractor(SliceTransform::create_noop());
        options.set_memtable_factory(factory);
    }
    DB::open(&options, path).expect("a fresh directory opens")
}

/// Mean time of a random point read, µs.
fn gets(mut get: impl FnMut(&[u8])) -> f64 {
    const READS: u32 = 20_000;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let began = Instant::now();
    for _ in 0..READS {
        get(format!("row-{:016x}", rng.random_range(0..KEYS)).as_bytes());
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(READS)
}

fn line(name: &str, thread_ns: u64, process_ns: u64, get_us: f64) {
    let per_row = |ns: u64| ns as f64 / 1e3 / ROWS as f64;
    println!("| {name} | {:.2} | {:.2} | {get_us:.1} |", per_row(thread_ns), per_row(process_ns));
}

fn descriptor() -> Descriptor {
    let founded = SystemState::found(1, &["a".into()]);
    let system = founded.shards.get(&SYSTEM_SHARD).expect("a founded cluster has its system shard");
    Descriptor {
        shard: ShardId(2),
        table: TABLE,
        partitioning: Partitioning::Hash,
        retention: Retention::Latest,
        ..system.clone()
    }
}

/// A stream of puts as clients make it, `each` requests an entry.
struct Puts {
    rng: ChaCha8Rng,
    seqs: Vec<u64>,
    value: Bytes,
    slot: EntryId,
}

impl Puts {
    fn new() -> Puts {
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        Puts { rng: ChaCha8Rng::seed_from_u64(3), seqs: vec![0; CLIENTS as usize], value, slot: EntryId::ZERO }
    }

    fn request(&mut self) -> WriteRequest {
        let client = self.rng.random_range(0..CLIENTS);
        let seq = &mut self.seqs[client as usize];
        *seq += 1;
        let (seq, floor) = (ClientSeq(*seq), ClientSeq(*seq));
        let id = WriteId { client: ClientId(u128::from(client) << 64), seq, floor, deadline_us: u64::MAX >> 1 };
        let key = Bytes::from(format!("key-{:012}", self.rng.random_range(0..KEYS)));
        let action = Action::Append(vec![NewRecord { headers: vec![], value: self.value.clone() }]);
        WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![KeyOp { key, expect: Expect::Any, action }] } }
    }

    fn entry(&mut self, each: usize) -> Entry {
        let requests: Vec<WriteRequest> = (0..each).map(|_| self.request()).collect();
        self.slot.slot = self.slot.slot.next();
        let data = encode_requests(requests.iter(), each * (VALUE_BYTES + 64));
        Entry::new(self.slot, self.slot.slot.0, 0, Payload::Command(data))
    }
}

struct Applier {
    state: ShardState,
    store: FrontState,
    overlay: Overlay,
}

impl Applier {
    fn new(dir: &Path) -> Applier {
        let shared = RocksShared::open(dir, StateOptions::default()).expect("a fresh directory opens");
        let mut store = FrontState::new(shared, FREEZE_BYTES).expect("a front");
        let state = ShardState::load(&mut store, Space(2), Genesis::Shard(descriptor())).expect("a fresh shard");
        Applier { state, store, overlay: Overlay::default() }
    }

    fn apply(&mut self, entry: &Entry) -> usize {
        let applied = self.state.apply(&mut self.store, &mut self.overlay, entry, Wanted::Results);
        let effects = applied.expect("it applies");
        if self.store.wants_freeze() {
            self.state.store_sessions(&mut self.store).expect("sessions");
            self.store.freeze().expect("a freeze");
        }
        effects.results.len()
    }
}

/// The share of an applied put that its session is.
fn sessions(dir: &Path) {
    const ENTRIES: usize = 20_000;
    let mut applier = Applier::new(&dir.join("sessions"));
    let mut puts = Puts::new();
    let entries: Vec<Entry> = (0..ENTRIES).map(|_| puts.entry(BATCH)).collect();
    let bytes: usize = entries
        .iter()
        .map(|e| match &e.payload {
            Payload::Command(data) => data.len(),
            _ => 0,
        })
        .sum();
    let before = cpu_ns().0;
    for entry in &entries {
        black_box(applier.apply(entry));
    }
    let whole = cpu_ns().0 - before;
    let mut puts = Puts::new();
    let requests: Vec<WriteRequest> = (0..ENTRIES * BATCH).map(|_| puts.request()).collect();
    let mut sessions = Sessions::default();
    let before = cpu_ns().0;
    for (at, request) in requests.iter().enumerate() {
        black_box(sessions.judge(&request.id, at as u64));
        let outcome = Outcome::Written(vec![OpResult { offset: Offset(at as u64), ts_us: at as u64 }]);
        sessions.store(&request.id, outcome);
        if at.is_multiple_of(100_000) {
            black_box(sessions.take_dirty());
        }
    }
    let alone = cpu_ns().0 - before;
    let per = |ns: u64| ns as f64 / (ENTRIES * BATCH) as f64;
    println!(
        "sessions: {:.0} ns of the {:.0} ns of CPU that an applied put costs its replica;",
        per(alone),
        per(whole)
    );
    println!(
        "          an entry takes {:.1} B a put beyond key and value\n",
        per(bytes as u64) - 16.0 - VALUE_BYTES as f64
    );
}

/// Applying an entry in place, and by handing it to a thread and waiting for its results.
fn threads(dir: &Path) {
    println!("| requests an entry | applied in place: p50 / p99 µs | by a thread and back: p50 / p99 µs |");
    println!("| --- | --- | --- |");
    for each in [1, 4, 16, 64] {
        const ENTRIES: usize = 4000;
        let mut puts = Puts::new();
        let entries: Vec<Entry> = (0..2 * ENTRIES).map(|_| puts.entry(each)).collect();
        let mut applier = Applier::new(&dir.join(format!("threads-{each}")));
        let (first, second) = entries.split_at(ENTRIES);
        let here = times(first, |entry| applier.apply(&entry));
        let (to, inbox) = sync_channel::<Entry>(64);
        let (back, from) = sync_channel::<usize>(64);
        let thread = std::thread::spawn(move || {
            for entry in inbox {
                if back.send(applier.apply(&entry)).is_err() {
                    return;
                }
            }
        });
        let there = times(second, |entry| {
            to.send(entry).expect("the thread runs");
            from.recv().expect("the thread answers")
        });
        drop(to);
        thread.join().expect("the thread ends");
        println!("| {each} | {:.1} / {:.1} | {:.1} / {:.1} |", here.0, here.1, there.0, there.1);
    }
}

/// p50 and p99, µs.
fn times(entries: &[Entry], mut apply: impl FnMut(Entry) -> usize) -> (f64, f64) {
    let mut times: Vec<f64> = entries
        .iter()
        .map(|entry| {
            let entry = entry.clone();
            // Entries come some time apart: a thread that waits for the next one sleeps.
            std::thread::sleep(std::time::Duration::from_micros(50));
            let began = Instant::now();
            black_box(apply(entry));
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
