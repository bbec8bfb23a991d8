//! Snapshot files: a fixture of every version, damage of every kind, parts that are received.

use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};
use synod_cluster::ids::*;
use synod_cluster::system::Retention;
use synod_engine::StoreError;
use synod_engine::codec::bounds::{BoundsRow, ChildMark, Phase};
use synod_engine::snapshot::files::{FileStore, OsFiles, StoredFile};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::writer::SnapshotWriter;
use synod_engine::snapshot::{Header, SnapshotFile, Throttle, install};
use synod_engine::state::BulkLoad;
use synod_paxos::types::{Basis, Epoch, Member, MemberRole, Membership};

const CLUSTER: ClientId = ClientId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

fn header() -> Header {
    let ballot = |epoch, round, node| Ballot { epoch: Epoch(epoch), round, node: NodeId(node) };
    let member = |node, role| Member { node: NodeId(node), role };
    let members = vec![member(1, MemberRole::Voter), member(2, MemberRole::Learner), member(9, MemberRole::Voter)];
    let basis = Basis {
        id: EntryId { slot: Slot(4711), origin: ballot(7, 2, 9) },
        membership: Membership { epoch: Epoch(7), members, first_leader: NodeId(9) },
        epoch_start: Slot(4000),
        promised: ballot(7, 3, 1),
    };
    let genesis = Bytes::from_static(b"what the group was created with");
    Header { cluster: CLUSTER, shard: ShardId(12), genesis, basis, ts: 1_790_000_000_000_123, bounds: None }
}

fn rows(count: u32, value: usize) -> Vec<(Vec<u8>, Bytes)> {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), Bytes::from(vec![n as u8; value]))).collect()
}

/// Of a shard that was split twice.
fn header_with_bounds() -> Header {
    let key = Bytes::from_static;
    let child = |shard, from, to, version, voters: &[u64]| {
        let voters = voters.iter().copied().map(NodeId).collect();
        ChildMark { shard: ShardId(shard), from, to, version, voters }
    };
    let children =
        vec![child(77, key(b"m"), key(b"t"), 299, &[1, 2, 1_000_000]), child(1 << 40, key(b"t"), key(b""), 300, &[3])];
    let bounds = BoundsRow {
        version: 300,
        from: key(b"\0a"),
        to: key(b"m"),
        retention: Retention::All,
        children,
        phase: Phase::Alone,
        merges: 0,
        absorbed: vec![],
    };
    Header { bounds: Some(bounds), ..header() }
}

fn write(path: &Path, rows: &[(Vec<u8>, Bytes)]) -> SnapshotFile {
    write_of(path, &header(), rows)
}

fn write_of(path: &Path, header: &Header, rows: &[(Vec<u8>, Bytes)]) -> SnapshotFile {
    let mut writer = SnapshotWriter::create(path, header).unwrap();
    for (key, value) in rows {
        writer.row(key, value).unwrap();
    }
    let summary = writer.finish().unwrap();
    let file = SnapshotFile::open(path, Some(CLUSTER)).unwrap();
    assert_eq!((summary.bytes, summary.rows, summary.digest), (file.bytes(), file.rows(), file.digest()));
    file
}

fn whole(path: &Path) -> Result<SnapshotFile, String> {
    let file = SnapshotFile::open(path, Some(CLUSTER)).map_err(|e| e.to_string())?;
    file.verify(&mut Throttle::new(0)).map_err(|e| e.to_string())?;
    Ok(file)
}

/// Files whose rows are gathered into chunks of one row each.
#[derive(Debug)]
struct RowByRow(OsFiles);

impl FileStore for RowByRow {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.0.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.0.open(path)
    }

    fn open_or_create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.0.open_or_create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.names(directory)
    }

    fn gather_bytes(&self) -> usize {
        1
    }
}

/// As many chunks of long keys as a shard of some 17 GiB has.
#[test]
fn the_index_of_a_large_shard_of_long_keys_fits_into_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.snap");
    let files: Arc<dyn FileStore> = Arc::new(RowByRow(OsFiles));
    let mut writer = SnapshotWriter::create_in(&files, &path, &header()).unwrap();
    let rows = 17_000u32;
    for n in 0..rows {
        let key = [&n.to_be_bytes()[..], &[b'k'; 4096]].concat();
        writer.row(&key, b"v").unwrap();
    }
    writer.finish().unwrap();
    let file = whole(&path).unwrap();
    assert_eq!(file.rows(), u64::from(rows));
}

#[test]
fn a_file_damaged_since_it_was_opened_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.snap");
    let file = write(&path, &rows(3, 5));
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let sent: Result<Vec<Bytes>, _> = (0..file.parts()).map(|part| file.part(part)).collect();
        assert!(sent.is_err(), "byte {at} was sent altered");
    }
    fs::write(&path, &good).unwrap();
    let sent: Result<Vec<Bytes>, _> = (0..file.parts()).map(|part| file.part(part)).collect();
    assert_eq!(sent.unwrap().concat(), good);
}

#[test]
fn the_fixtures_are_read_and_written_as_ever() {
    for (name, header) in [("snapshot-v1.snap", header()), ("snapshot-v2.snap", header_with_bounds())] {
        let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.snap");
        write_of(&path, &header, &rows(3, 5));
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !fixture.exists() {
            fs::copy(&path, &fixture).unwrap();
        }
        let file = whole(&fixture).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(*file.header(), header, "{name}");
        assert_eq!(file.rows_of(0).unwrap().len(), 3, "{name}");
        assert_eq!(fs::read(&fixture).unwrap(), fs::read(&path).unwrap(), "{name}: same version, other bytes");
        assert!(!dir.path().join("s.unfinished").exists());
    }
}

/// Binaries that know no splits refuse such a file by its version, and read all others.
#[test]
fn bounds_are_named_in_version_2_only() {
    let bounds = BoundsRow {
        version: 2,
        from: Bytes::from_static(b"k"),
        to: Bytes::from_static(b"m"),
        retention: Retention::All,
        children: vec![],
        phase: Phase::Alone,
        merges: 0,
        absorbed: vec![],
    };
    let (plain, named) = (header(), Header { bounds: Some(bounds), ..header() });
    assert_eq!((plain.version(), named.version()), (1, 2));
    let (short, long) = (plain.encode(), named.encode());
    assert_eq!(long[..short.len()], short[..]);
    assert_eq!(Header::decode(short), Ok(plain));
    assert_eq!(Header::decode(long), Ok(named.clone()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.snap");
    let mut writer = SnapshotWriter::create(&path, &named).unwrap();
    writer.row(b"row", &Bytes::from_static(b"value")).unwrap();
    writer.finish().unwrap();
    assert_eq!(*whole(&path).unwrap().header(), named);
    let mut bad = fs::read(&path).unwrap();
    assert_eq!(bad[8], 2);
    bad[8] = 1;
    fs::write(&path, bad).unwrap();
    let refused = whole(&path).unwrap_err();
    assert!(refused.contains("its header is that of another format version"), "{refused}");
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.snap");
    write(&path, &rows(3, 5));
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        assert!(whole(&path).is_err(), "bit {bit} flipped, not noticed");
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert!(whole(&path).is_err(), "cut to {len} bytes, not noticed");
    }
    fs::write(&path, [&good[..], b"\0"].concat()).unwrap();
    assert!(whole(&path).is_err());
    fs::write(&path, &good).unwrap();
    whole(&path).unwrap();
}

#[test]
fn refusals_name_the_reason_and_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.snap");
    let file = write(&path, &rows(3000, 1000));
    assert_eq!(file.chunks().len(), 3);
    let good = fs::read(&path).unwrap();
    let second = file.chunks()[1].offset as usize;
    let refused = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        fs::write(&path, bad).unwrap();
        whole(&path).unwrap_err()
    };
    assert!(refused(0, b'X').ends_with("not a snapshot, at byte 0"));
    let other = refused(8, 2);
    assert!(other.contains("its header is that of another format version"), "{other}");
    let newer = refused(8, 3);
    assert!(newer.ends_with("written by a newer version (format 2 is the newest known here), at byte 8"), "{newer}");
    let damaged = refused(second + 500, good[second + 500] ^ 1);
    let at = second + file.chunks()[1].bytes as usize - 4;
    assert!(damaged.ends_with(&format!("checksum mismatch, at byte {at}")), "{damaged}");
    fs::write(&path, &good[..good.len() - 7]).unwrap();
    let cut = whole(&path).unwrap_err();
    assert!(cut.contains("cut or damaged at its end"), "{cut}");
    fs::write(&path, &good).unwrap();
    let foreign = SnapshotFile::open(&path, Some(ClientId(1))).unwrap_err();
    assert_eq!(foreign.at, 14);
    assert!(foreign.why.starts_with("of cluster 00112233445566778899aabbccddeeff, not of cluster 0000"), "{foreign}");
}

#[test]
fn parts_are_taken_up_where_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir.path().join("s.snap"), &rows(5000, 1000));
    let target = dir.path().join("t.snap");
    let mut rounds = 0;
    for cut in 0..file.parts() {
        // Each round one part more arrives, and half of another; then the process dies.
        let mut partial = Partial::open(&target, file.digest()).unwrap();
        assert_eq!(partial.next_part(), cut);
        let last = partial.take(&file.part(cut).unwrap()).unwrap();
        assert_eq!(last, cut + 1 == file.parts());
        if last {
            let mut bad = file.part(1).unwrap().to_vec();
            bad[100] ^= 1;
            let found = partial.finish(CLUSTER, file.digest(), &mut Throttle::new(0)).unwrap();
            assert_eq!(fs::read(found.path()).unwrap(), fs::read(file.path()).unwrap());
            break;
        }
        let unfinished = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        let unfinished = unfinished.into_iter().find(|p| p.extension().is_some_and(|e| e == "part")).unwrap();
        let half = file.part(cut + 1).unwrap();
        let bytes = [fs::read(&unfinished).unwrap(), half[..half.len() / 2].to_vec()].concat();
        fs::write(&unfinished, bytes).unwrap();
        rounds += 1;
    }
    assert_eq!(rounds, 6);
}

#[test]
fn a_damaged_part_is_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir.path().join("s.snap"), &rows(5000, 1000));
    let mut partial = Partial::open(&dir.path().join("t.snap"), file.digest()).unwrap();
    assert!(partial.take(&file.part(1).unwrap()).is_err(), "a chunk before the header");
    partial.take(&file.part(0).unwrap()).unwrap();
    let mut bad = file.part(1).unwrap().to_vec();
    bad[1000] ^= 4;
    let refused = partial.take(&bad.into()).unwrap_err();
    assert!(refused.why.contains("checksum mismatch"), "{refused}");
    assert_eq!(partial.next_part(), 1);
    // A part left out: each by itself is sound, the whole is not.
    partial.take(&file.part(2).unwrap()).unwrap();
    for part in 3..file.parts() {
        partial.take(&file.part(part).unwrap()).unwrap();
    }
    assert!(partial.finish(CLUSTER, file.digest(), &mut Throttle::new(0)).is_err());
    assert_eq!(Partial::open(&dir.path().join("t.snap"), file.digest()).unwrap().next_part(), 0);
}

#[derive(Default)]
struct Rows(std::sync::Mutex<Vec<(Vec<u8>, Bytes)>>);

impl BulkLoad for Rows {
    fn load(&self, rows: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        self.0.lock().unwrap().extend(rows.iter().cloned());
        Ok(())
    }
}

#[test]
fn rows_come_back_in_another_space() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(20_000, 1000);
    let file = write(&dir.path().join("s.snap"), &rows);
    let store = Rows::default();
    install::load(&file, Space(0x8000_0001), &store, &mut Throttle::new(0)).unwrap().unwrap();
    let found = store.0.into_inner().unwrap();
    let expected: Vec<_> =
        rows.into_iter().map(|(k, v)| ([&0x8000_0001u32.to_be_bytes()[..], &k].concat(), v)).collect();
    assert_eq!(found, expected);
}
