//! The formats on disk: fixtures of every version ever written are read, damage of every kind is noticed.
//!
//! Owns: `tests/fixtures/*.bin`, written once with `UPDATE_FIXTURES=1` and never changed after a release: a changed
//! format is a new version with a fixture of its own. Must never: accept a fixture that decodes to something else.

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Debug;
use std::path::PathBuf;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::*;
use synod_cluster::jobs::job::{JobEnd, JobGoal, JobState};
use synod_cluster::jobs::move_replica::MoveReplica;
use synod_cluster::position;
use synod_cluster::system::{
    Birth, Child, Descriptor, MetadataError, Partitioning, Retention, ShardNews, SystemCommand, SystemOutcome,
    SystemState, decode_descriptor, encode_descriptor,
};
use synod_engine::codec::absorbed::AbsorbedRow;
use synod_engine::codec::applied::AppliedRow;
use synod_engine::codec::bounds::{BoundsRow, ChildMark, Frozen, Merge, Phase};
use synod_engine::codec::keys::{self, RecordKey, RecordRow};
use synod_engine::codec::pieces::{self, Piece};
use synod_engine::codec::record::{Head, Newest, Record, Totals};
use synod_engine::codec::session::SessionRow;
use synod_engine::codec::{entry, hard, node};
use synod_engine::command::{Absorb, Admin, BeginMerge, Cancel, EndMerge, Freeze, Split, Unfreeze, encode_admin};
use synod_engine::logstore::NodeIdentity;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, Payload};

/// One format: a value, and both directions. Kept as closures, so that all formats go through the same checks.
struct Format {
    name: &'static str,
    encoded: Bytes,
    /// Decodes and compares with the value; `Ok(false)` where it decodes to something else.
    read: Box<dyn Fn(Bytes) -> Result<bool, DecodeError>>,
}

fn format<T: PartialEq + Debug + 'static>(
    name: &'static str,
    value: T,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(Bytes) -> Result<T, DecodeError> + 'static,
) -> Format {
    let encoded = encode(&value);
    Format { name, encoded, read: Box::new(move |row| decode(row).map(|found| found == value)) }
}

fn ballot(epoch: u64, round: u64, node: u64) -> Ballot {
    Ballot { epoch: Epoch(epoch), round, node: NodeId(node) }
}

fn id(slot: u64) -> EntryId {
    EntryId { slot: Slot(slot), origin: ballot(2, 300, 3) }
}

fn membership() -> Membership {
    let member = |node, role| Member { node: NodeId(node), role };
    let members =
        vec![member(1, MemberRole::Voter), member(2, MemberRole::Learner), member(1_000_000, MemberRole::Voter)];
    Membership { epoch: Epoch(7), members, first_leader: NodeId(1_000_000) }
}

fn record() -> Record {
    let headers = vec![(Bytes::from_static(b"trace"), Bytes::from_static(b"\x00\xff")), (Bytes::new(), Bytes::new())];
    Record { ts_us: 1_790_000_000_000_123, headers, value: Bytes::from_static(b"a value"), tombstone: false }
}

fn tombstone() -> Record {
    Record { ts_us: 1_790_000_000_000_124, headers: Vec::new(), value: Bytes::new(), tombstone: true }
}

fn head(newest: Newest) -> Head {
    Head { next: Offset(1000), first: Offset(12), bytes: 123_456_789, newest, totals: None }
}

fn head_with_totals(newest: Newest) -> Head {
    let totals = Totals { since: Offset(7), total: 1 << 40, gone_ts_us: 1_789_000_000_000_000 };
    Head { totals: Some(totals), ..head(newest) }
}

fn encode_at(row: &(Record, Option<u64>)) -> Bytes {
    row.0.encode_at(row.1)
}

fn session() -> SessionRow {
    let outcomes = vec![(ClientSeq(41), Bytes::from_static(b"outcome")), (ClientSeq(u64::MAX), Bytes::new())];
    SessionRow { floor: ClientSeq(41), last_deadline: 1_790_000_600_000_000, outcomes }
}

/// The descriptor of a shard that a split made.
fn child() -> Descriptor {
    Descriptor {
        shard: ShardId(7),
        table: TableId(3),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        from: Bytes::from_static(b"\x40\0\0\0\0\0\0\0"),
        to: Bytes::new(),
        version: 12,
        membership: membership(),
        born: Birth::Child { parent: ShardId(2), version: 9 },
    }
}

/// Bounds of a shard from which two others were split off.
fn bounds() -> BoundsRow {
    let child = |shard, (from, to): (&'static [u8], &'static [u8]), version, voters: &[u64]| {
        let (from, to) = (Bytes::from_static(from), Bytes::from_static(to));
        ChildMark { shard: ShardId(shard), from, to, version, voters: voters.iter().copied().map(NodeId).collect() }
    };
    let children = vec![child(77, (b"m", b"t"), 299, &[1, 2, 1_000_000]), child(1 << 40, (b"t", b""), 300, &[3])];
    let (from, to) = (Bytes::from_static(b"\0a"), Bytes::from_static(b"m"));
    let (phase, merges, absorbed) = (Phase::Alone, 0, vec![]);
    BoundsRow { version: 300, from, to, retention: Retention::All, children, phase, merges, absorbed }
}

/// The freeze of a merge.
fn freeze_at() -> EntryId {
    EntryId { slot: Slot(77), origin: Ballot { epoch: Epoch(2), round: 3, node: NodeId(1) } }
}

/// Bounds of a shard in a merge, behind others.
fn merged(phase: Phase) -> BoundsRow {
    BoundsRow { phase, merges: 6, absorbed: vec![ShardId(41), ShardId(300)], ..bounds() }
}

fn merge() -> Merge {
    Merge { source: ShardId(300), seq: 6, source_version: 5, source_epoch: Epoch(2), epoch: Epoch(7) }
}

fn frozen() -> Frozen {
    Frozen { target: ShardId(8), seq: 6, at: freeze_at(), ts: 1_790_000_000_000_125 }
}

/// The entries of a merge, with the names of their fixtures.
fn steps() -> Vec<(&'static str, Admin)> {
    let (target, source) = (ShardId(8), ShardId(300));
    let begin = BeginMerge {
        source,
        version: 4,
        epoch: Epoch(7),
        source_version: 5,
        source_epoch: Epoch(2),
        from: Bytes::from_static(b"m\0"),
        to: Bytes::new(),
        confirmed: vec![ShardId(9)],
    };
    vec![
        ("entry-merge-begin-v1", Admin::BeginMerge(begin)),
        ("entry-merge-freeze-v1", Admin::Freeze(Freeze { target, seq: 6, version: 5, epoch: Epoch(2) })),
        ("entry-merge-absorb-v1", Admin::Absorb(Absorb { source, seq: 6, at: freeze_at() })),
        ("entry-merge-cancel-v1", Admin::Cancel(Cancel { seq: 6 })),
        ("entry-merge-unfreeze-v1", Admin::Unfreeze(Unfreeze { target, seq: 6, version: 5 })),
        ("entry-merge-end-v1", Admin::EndMerge(EndMerge { seq: 6 })),
    ]
}

/// Where the records of that shard are.
fn places() -> Vec<Piece> {
    let piece = |from: &'static [u8], to: &'static [u8], space| {
        let (from, to) = (Bytes::from_static(from), Bytes::from_static(to));
        Piece { from, to, space: Space(space) }
    };
    vec![piece(b"\0a", b"c", 5), piece(b"c", b"d\xff", 0x8000_0001), piece(b"d\xff", b"m", 5)]
}

fn command() -> Payload {
    Payload::Command(Bytes::from_static(b"a command of the state machine"))
}

fn split() -> Payload {
    let split = Split {
        child: ShardId(300),
        at: Bytes::from_static(b"m\0"),
        version: 4,
        epoch: Epoch(7),
        voters: vec![NodeId(1), NodeId(2), NodeId(200)],
        confirmed: vec![ShardId(9)],
    };
    Payload::Command(encode_admin(&Admin::Split(split)))
}

/// The metadata of a cluster of three nodes with two tables and members that changed, at this version.
fn system(version: ClusterVersion) -> SystemState {
    let founders: Vec<String> = (1..=3).map(|n| format!("node{n}.example:7400")).collect();
    let mut state = SystemState::found(0x0123_4567_89ab_cdef_0011_2233_4455_6677, &founders);
    let table = |name: &str, partitioning, retention, shards, splits: &[&'static str]| SystemCommand::CreateTable {
        name: name.into(),
        partitioning,
        retention,
        shards,
        splits: splits.iter().map(|split| Bytes::from_static(split.as_bytes())).collect(),
        replicas: 3,
    };
    state.execute(&table("events", Partitioning::Hash, Retention::All, 2, &[]));
    state.execute(&table("users", Partitioning::Range, Retention::Latest, 0, &["m"]));
    let Membership { members, .. } = state.shards[&ShardId(2)].membership.clone();
    let membership = Membership { epoch: Epoch(2), members, first_leader: NodeId(3) };
    state.execute(&SystemCommand::SetMembers { shard: ShardId(2), membership });
    state.execute(&SystemCommand::Upgrade { to: version, spoken_by: (1..=3).map(NodeId).collect() });
    assert_eq!(state.version, version);
    if version >= ClusterVersion::THIRD {
        add_jobs(&mut state);
    }
    if version >= ClusterVersion::FOURTH {
        add_splits(&mut state);
    }
    state
}

/// A job in each state that there is.
fn add_jobs(state: &mut SystemState) {
    let speaks = state.version;
    for node in 4..=5u8 {
        let addr = format!("node{node}.example:7400");
        state.execute(&SystemCommand::AddNode { addr, nonce: node.into(), speaks });
    }
    let mut start = |shard, to| {
        let replica = MoveReplica { from: NodeId(3), to: Some(NodeId(to)) };
        let goal = JobGoal::Move { shard: ShardId(shard), replica };
        let (outcome, _) = state.execute(&SystemCommand::StartJob { goal });
        let SystemOutcome::Job(job) = outcome else { panic!("{outcome:?}") };
        job
    };
    let jobs: Vec<JobId> = [(1, 4), (3, 5), (4, 4), (5, 5)].into_iter().map(|(shard, to)| start(shard, to)).collect();
    let ended = [(jobs[2], JobEnd::Overtaken("another command was first".into())), (jobs[3], JobEnd::Done)];
    for (job, end) in ended {
        state.execute(&SystemCommand::FinishJob { job, seen: Epoch(1), end });
    }
    state.execute(&SystemCommand::CancelJob { job: jobs[1] });
    let replica = MoveReplica { from: NodeId(4), to: None };
    let goal = JobGoal::Move { shard: ShardId(2), replica };
    assert_eq!(state.execute(&SystemCommand::StartJob { goal }).0, SystemOutcome::Job(JobId(5)));
    for (id, end) in [(4, JobEnd::Failed("node 5 was removed from the cluster".into())), (5, JobEnd::Cancelled)] {
        // The last two kinds of ends.
        let job = state.jobs.get_mut(&JobId(id)).expect("it was started");
        job.state = JobState::Ended { end, order: id };
    }
}

/// A shard that was split, its child, an id that is reserved, and a job for each kind of split.
fn add_splits(state: &mut SystemState) {
    let key = Bytes::from_static;
    let (parent, child) = (ShardId(4), ShardId(6));
    let reserve = |parent| SystemCommand::ReserveChild { parent, version: 1 };
    assert_eq!(state.execute(&reserve(parent)).0, SystemOutcome::Shard(child));
    let membership = state.shards[&parent].membership.clone();
    let born = Child { shard: child, from: key(b"f"), to: key(b"m"), version: 2, membership };
    let news =
        ShardNews { shard: parent, from: key(b""), to: key(b"f"), version: 2, children: vec![born], absorbed: vec![] };
    assert_eq!(state.execute(&SystemCommand::ShardNews(news)).0, SystemOutcome::Done);
    assert_eq!(state.execute(&reserve(ShardId(5))).0, SystemOutcome::Shard(ShardId(7)));
    for (job, shard, at) in [(6, 5, Some(key(b"t"))), (7, 2, None)] {
        let goal = JobGoal::Split { shard: ShardId(shard), version: 1, at };
        assert_eq!(state.execute(&SystemCommand::StartJob { goal }).0, SystemOutcome::Job(JobId(job)));
    }
}

fn decode_system(row: Bytes) -> Result<SystemState, DecodeError> {
    SystemState::decode(row).map_err(|error| match error {
        MetadataError::Decode(error) => error,
        MetadataError::TooNew(_) => DecodeError { what: "a version that is not spoken", at: 0 },
    })
}

fn formats() -> Vec<Format> {
    let entry = |name, payload| {
        let value = Entry::new(id(1 << 40), 1_790_000_000_000_125, 1_790_000_000_000_000, payload);
        format(name, value, entry::to_bytes, entry::decode)
    };
    let hard_state = HardState {
        membership: membership(),
        epoch_start: Slot(99),
        promised: ballot(7, 2, 1),
        accepted: ballot(7, 1, 1_000_000),
        commit_hint: Slot(12_345),
        b0_used: true,
    };
    let identity = NodeIdentity { cluster: ClientId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), node: NodeId(3) };
    let seen = (Incarnation(5), NodeWriteSeq(1 << 33));
    let history = Newest::InHistory { ts_us: 1_790_000_000_000_126, tombstone: true };
    let mut formats = vec![
        entry("entry-noop-v1", Payload::Noop),
        entry("entry-command-v1", command()),
        entry("entry-marker-v1", Payload::Command(synod_engine::command::marker())),
        entry("entry-split-v1", split()),
        entry("entry-config-v1", Payload::Config(membership())),
        format("hard-v1", hard_state, hard::encode, hard::decode),
        format("node-format-v1", node::FORMAT, |v| node::encode_format(*v), node::decode_format),
        format("node-identity-v1", identity, node::encode_identity, node::decode_identity),
        format("node-incarnation-v1", Incarnation(17), |v| node::encode_incarnation(*v), node::decode_incarnation),
        format("node-seq-v1", NodeWriteSeq(1 << 50), |v| node::encode_seq(*v), node::decode_seq),
        format("node-seen-v1", seen, |v| node::encode_seen(v.0, v.1), node::decode_seen),
        format("group-trim-v1", id(77), |v| node::encode_trim(*v), node::decode_trim),
        format("group-genesis-v1", Bytes::from_static(b"opaque"), |v| node::encode_genesis(v), node::decode_genesis),
        format("group-space-v1", Space(0x8000_0001), |v| node::encode_space(*v), node::decode_space),
        format("group-removed-v2", Epoch(7), |v| node::encode_removed(*v), node::decode_removed),
        format("record-head-empty-v1", head(Newest::None), Head::encode, Head::decode),
        format("record-head-inline-v1", head(Newest::Inline(record())), Head::encode, Head::decode),
        format("record-head-deleted-v1", head(Newest::Inline(tombstone())), Head::encode, Head::decode),
        format("record-head-history-v1", head(history.clone()), Head::encode, Head::decode),
        format("record-head-empty-v2", head_with_totals(Newest::None), Head::encode, Head::decode),
        format("record-head-history-v2", head_with_totals(history), Head::encode, Head::decode),
        format("record-history-v1", record(), Record::encode, Record::decode),
        format("record-history-deleted-v1", tombstone(), Record::encode, Record::decode),
        format("record-history-v2", (record(), Some(u64::MAX - 5)), encode_at, Record::decode_at),
        format("record-history-deleted-v2", (tombstone(), Some(77)), encode_at, Record::decode_at),
        format("session-v1", session(), SessionRow::encode, SessionRow::decode),
        format("system-v1", system(ClusterVersion::FIRST), SystemState::encode, decode_system),
        format("system-v2", system(ClusterVersion::SECOND), SystemState::encode, decode_system),
        format("system-v3", system(ClusterVersion::THIRD), SystemState::encode, decode_system),
        format("system-v4", system(ClusterVersion::FOURTH), SystemState::encode, decode_system),
        format("descriptor-child-v2", child(), encode_descriptor, decode_descriptor),
        format("bounds-v1", bounds(), BoundsRow::encode, BoundsRow::decode),
        format("bounds-merging-v1", merged(Phase::Merging(merge())), BoundsRow::encode, BoundsRow::decode),
        format("bounds-cancelled-v1", merged(Phase::Cancelled(merge())), BoundsRow::encode, BoundsRow::decode),
        format("bounds-frozen-v1", merged(Phase::Frozen(frozen())), BoundsRow::encode, BoundsRow::decode),
        format(
            "absorbed-v1",
            AbsorbedRow { source: ShardId(300), target: ShardId(8) },
            AbsorbedRow::encode,
            AbsorbedRow::decode,
        ),
        format("pieces-v1", places(), |v| pieces::encode(v), pieces::decode),
        format("applied-v1", AppliedRow { slot: Slot(1 << 35), last_ts: 9 }, AppliedRow::encode, AppliedRow::decode),
    ];
    formats.extend(steps().into_iter().map(|(name, step)| entry(name, Payload::Command(encode_admin(&step)))));
    formats
}

#[test]
fn a_tombstone_of_the_first_version_is_for_ever() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/group-removed-v1.bin");
    let fixture = std::fs::read(path).unwrap();
    assert_eq!(node::decode_removed(fixture.into()).unwrap(), node::GONE);
}

#[test]
fn fixtures_are_read_and_written_as_ever() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for format in formats() {
        let path = directory.join(format!("{}.bin", format.name));
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
            std::fs::write(&path, &format.encoded).unwrap();
        }
        let fixture = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!((format.read)(fixture.clone().into()), Ok(true), "{}", format.name);
        assert_eq!(fixture, format.encoded, "{}: same version, other bytes", format.name);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for format in formats() {
        for bit in 0..format.encoded.len() * 8 {
            let mut damaged = format.encoded.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!((format.read)(damaged.into()).is_err(), "{}: bit {bit} flipped, not noticed", format.name);
        }
    }
}

#[test]
fn every_truncation_and_every_tail_is_noticed() {
    for format in formats() {
        for len in 0..format.encoded.len() {
            let cut = format.encoded.slice(..len);
            assert!((format.read)(cut).is_err(), "{}: cut to {len} bytes, not noticed", format.name);
        }
        for tail in [&b"\0"[..], b"\xff", b"\0\0\0\0", b"tail"] {
            let longer = [&format.encoded, tail].concat();
            assert!((format.read)(longer.into()).is_err(), "{}: {tail:?} appended, not noticed", format.name);
        }
    }
}

/// Random bytes, and random bytes behind a right checksum: the second get past it and into the fields.
#[test]
fn random_bytes_never_panic() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("replay with: SEED={seed} cargo test --release --workspace --test formats random_bytes");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let formats = formats();
    for _ in 0..100_000 {
        let mut row = vec![0; rng.random_range(0..80)];
        rng.fill_bytes(&mut row);
        if rng.random() {
            row.insert(0, 1);
        }
        if rng.random() {
            let crc = crc32fast::hash(&row);
            row.extend_from_slice(&crc.to_le_bytes());
        }
        let row = Bytes::from(row);
        for format in &formats {
            let _ = (format.read)(row.clone());
        }
        let _ = keys::parse_record(&row, rng.random());
        let _ = keys::parse_session(&row);
        let _ = keys::parse_system(&row);
        let _ = keys::parse_group(&row);
        let _ = keys::parse_group_entry(ShardId(1), &row);
        let _ = keys::parse_node_seen(&row);
    }
}

#[test]
fn announced_lengths_are_not_believed() {
    // A command of 2^60 bytes, and a membership of 2^60 members, in a few bytes.
    for tag in [1, 2] {
        let mut row = vec![1, 1, 1, 1, 1, 1, 1, tag];
        if tag == 2 {
            row.extend_from_slice(&[1, 1]);
        }
        row.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
        assert!(entry::decode(row.into()).is_err());
    }
}

const SPACE: Space = Space(9);
const TABLE: TableId = TableId(4);

fn random_key(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let len = rng.random_range(0..5);
    (0..len).map(|_| [0, 1, 2, 0xfe, 0xff][rng.random_range(0..5)]).collect()
}

#[test]
fn rows_order_as_their_keys_do() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..20_000 {
        let (a, b) = (random_key(&mut rng), random_key(&mut rng));
        let (row_a, row_b) = (keys::record_head(SPACE, TABLE, None, &a), keys::record_head(SPACE, TABLE, None, &b));
        assert_eq!(a.cmp(&b), row_a.cmp(&row_b), "{a:?} {b:?}");

        let parsed = keys::parse_record(&row_a, false).unwrap();
        let key = Bytes::from(a.clone());
        assert_eq!(parsed, RecordKey { space: SPACE, table: TABLE, hash: None, key, row: RecordRow::Head });

        let within = |(from, to): &keys::Bounds, row: &Vec<u8>| from <= row && row < to;
        let history = keys::record_history(SPACE, TABLE, None, &a, Offset(rng.random()));
        assert!(row_a < history);
        assert!(within(&keys::record_bounds(SPACE, TABLE, None, &a), &row_a));
        assert!(within(&keys::record_bounds(SPACE, TABLE, None, &a), &history));
        assert!(within(&keys::history_bounds(SPACE, TABLE, None, &a, Offset(0)), &history));
        assert!(!within(&keys::history_bounds(SPACE, TABLE, None, &a, Offset(0)), &row_a));
        assert!(within(&keys::table_bounds(SPACE, TABLE), &history));
        assert!(within(&keys::space_bounds(SPACE), &history));
        assert_eq!(within(&keys::record_bounds(SPACE, TABLE, None, &a), &row_b), a == b, "{a:?} {b:?}");
        assert_eq!(within(&keys::prefix_bounds(SPACE, TABLE, &a), &row_b), b.starts_with(&a), "{a:?} {b:?}");
        assert_eq!(within(&keys::range_bounds(SPACE, TABLE, Some(&a), None), &row_b), b >= a);
        assert_eq!(within(&keys::range_bounds(SPACE, TABLE, None, Some(&a)), &row_b), b < a);
    }
}

/// A shard's own rows lie before its records, those that only this node knows behind those that replicas share.
#[test]
fn own_rows_lie_before_all_records() {
    let within = |(from, to): &keys::Bounds, row: &[u8]| from[..] <= *row && *row < to[..];
    let (replicated, own) = (keys::replicated_bounds(SPACE), keys::own_bounds(SPACE));
    let shared = [keys::applied(SPACE), keys::bounds_row(SPACE), keys::session(SPACE, ClientId(u128::MAX))];
    assert!(shared.is_sorted());
    for row in shared {
        assert!(within(&replicated, &row) && within(&own, &row));
    }
    let local = keys::pieces_row(SPACE);
    assert!(!within(&replicated, &local) && within(&own, &local));
    let (first, end) = keys::space_bounds(SPACE);
    assert!(first <= own.0 && own.1 <= keys::table_bounds(SPACE, TableId(0)).0 && own.1 <= end);
    assert!(own.1 <= keys::system(SPACE, 0, &[]));
    assert_eq!((keys::space_of(&local), keys::space_of(&local[..3])), (Some(SPACE), None));
}

#[test]
fn hashed_rows_order_by_hash() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..5_000 {
        let key = random_key(&mut rng);
        let hash = position::key_hash(&key);
        let offset = Offset(rng.random());
        let row = keys::record_history(SPACE, TABLE, Some(hash), &key, offset);
        let parsed = keys::parse_record(&row, true).unwrap();
        assert_eq!((parsed.hash, &parsed.key[..], parsed.row), (Some(hash), &key[..], RecordRow::History(offset)));
        let (split, end): (u64, u64) = (rng.random(), rng.random());
        let (from, to) = keys::hash_bounds(SPACE, TABLE, split, Some(end));
        assert_eq!(from <= row && row < to, split <= hash && hash < end);
        let (from, to) = keys::hash_bounds(SPACE, TABLE, split, None);
        assert_eq!(from <= row && row < to, split <= hash);
    }
    assert_eq!(position::key_hash(b"abc"), 0x78af_5f94_892f_3950, "XXH3-64 with seed 0");
}

#[test]
fn other_keys_come_back() {
    let client = ClientId(u128::MAX - 5);
    assert_eq!(keys::parse_session(&keys::session(SPACE, client)), Ok((SPACE, client)));
    let (from, to) = keys::session_bounds(SPACE);
    assert!(from < keys::session(SPACE, client) && keys::session(SPACE, client) < to);
    assert!(keys::applied(SPACE) < from);
    let system = keys::system(SPACE, 3, b"id");
    assert_eq!(keys::parse_system(&system), Ok((SPACE, 3, Bytes::from_static(b"id"))));
    let (from, to) = keys::system_bounds(SPACE, 3);
    assert!(from < system && system < to);
    assert!(keys::parse_session(&system).is_err());

    let group = ShardId(u64::MAX);
    let entry = keys::group_entry(group, Slot(u64::MAX));
    assert_eq!(keys::parse_group(&entry), Ok(group));
    assert_eq!(keys::parse_group_entry(group, &entry), Ok(Slot(u64::MAX)));
    assert!(keys::parse_group_entry(ShardId(1), &entry).is_err());
    assert!(entry[..] < keys::group_entries_end(group)[..]);
    assert!(keys::group_hard(group)[..] < keys::group_entry(group, Slot(0))[..]);
    let peer = keys::node_seen(NodeId(u64::MAX));
    assert_eq!(keys::parse_node_seen(&peer), Ok(NodeId(u64::MAX)));
    let (from, to) = keys::node_seen_bounds();
    assert!(from[..] < peer[..] && peer[..] < to[..]);
}
