//! Snapshot files: their blocks, whole files, files received in parts.
//!
//! Owns: files made of an input, with right checksums, so that inputs reach what these guard. Must never: write outside of a
//! directory of its own, or leave that behind.

use crate::checks::{canonical, flipped, seal, sealed, sections};
use crate::commands::{has_room, resealed};
use crate::meter;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use synod_cluster::buf::COUNTER_MAX;
use synod_cluster::buf::{Put, Writer};
use synod_cluster::ids::SYSTEM_SHARD;
use synod_engine::snapshot::format::{self, ChunkPlace, Footer, Header, Kind};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::writer::SnapshotWriter;
use synod_engine::snapshot::{SnapshotError, SnapshotFile, Throttle, restore};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

/// Blocks and what stands in them.
pub fn snapshot_blocks(data: &[u8]) -> bool {
    let encode_block = |(kind, body): &(Kind, Bytes)| Bytes::from(format::block(*kind, body));
    let mut decoded = sealed(data, format::open_block, encode_block);
    decoded |= canonical(data, Header::decode, Header::encode).is_some();
    decoded |= canonical(data, format::decode_index, |chunks| format::encode_index(chunks)).is_some();
    decoded |= sealed(data, Footer::decode, Footer::encode);
    decoded |= canonical(data, format::rows, |rows| encode_rows(rows)).is_some_and(|rows| !rows.is_empty());
    if format::check_prefix(data).is_ok() {
        assert!(data.starts_with(format::MAGIC));
    }
    decoded
}

fn encode_rows(rows: &[(Bytes, Bytes)]) -> Bytes {
    let mut out = Writer::new();
    for (key, value) in rows {
        out.bytes(key);
        out.bytes(value);
    }
    out.into_bytes()
}

/// What is wrong with a file that is made of an input, by intent.
mod wrong {
    pub const RAW: u8 = 1;
    pub const OWN_INDEX: u8 = 2;
    pub const ROWS: u8 = 4;
    pub const PLACE: u8 = 8;
    pub const DIGEST: u8 = 16;
    /// Not wrong: the values of the rows get a right checksum, as those of metadata have.
    pub const SEALED_ROWS: u8 = 32;
    pub const ANY: u8 = ROWS | PLACE | DIGEST;
}

/// A file out of an input: raw, or of these sections: the header's body, chunks' bodies, and (where asked for) the index's.
fn file_of(mode: u8, data: &[u8]) -> Vec<u8> {
    if mode & wrong::RAW != 0 {
        return data.to_vec();
    }
    let mut sections = sections(data);
    let index = if mode & wrong::OWN_INDEX != 0 { sections.pop() } else { None };
    let mut bodies = sections.into_iter();
    let mut file = format::prefix(format::VERSION).to_vec();
    file.extend(format::block(Kind::Header, bodies.next().unwrap_or_default()));
    let (mut places, mut total) = (Vec::new(), 0);
    for body in bodies {
        let mut body = Bytes::copy_from_slice(body);
        let mut found = format::rows(body.clone()).unwrap_or_default();
        if mode & wrong::SEALED_ROWS != 0 && !found.is_empty() {
            found.iter_mut().for_each(|(_, value)| *value = resealed(value).into());
            body = encode_rows(&found);
        }
        let block = format::block(Kind::Chunk, &body);
        let first = found.first().map(|(key, _)| key.clone()).unwrap_or_default();
        let (offset, rows) = (file.len() as u64, found.len() as u64);
        places.push(ChunkPlace { offset, bytes: block.len() as u64, rows, first });
        total += rows;
        file.extend(block);
    }
    let at = file.len() as u64;
    file.extend(match index {
        Some(body) => format::block(Kind::Index, body),
        None => format::block(Kind::Index, &format::encode_index(&places)),
    });
    let rows = if mode & wrong::ROWS != 0 { total + 1 } else { total };
    let index = if mode & wrong::PLACE != 0 { at.wrapping_sub(1) } else { at };
    let mut footer = Footer { rows, index, digest: 0 };
    file.extend(footer.digested());
    footer.digest = xxh3_128(&file) ^ u128::from(mode & wrong::DIGEST);
    file.truncate(file.len() - format::FOOTER_DIGESTED_BYTES);
    file.extend(footer.encode());
    file
}

fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory can be made")
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a temporary file can be written");
}

fn open(path: &Path) -> Result<SnapshotFile, SnapshotError> {
    let file = SnapshotFile::open(path, None)?;
    file.verify(&mut Throttle::new(0))?;
    Ok(file)
}

type Rows = Vec<(Bytes, Bytes)>;

fn rows_of(file: &SnapshotFile) -> Rows {
    (0..file.chunks().len()).flat_map(|chunk| file.rows_of(chunk).expect("the file was verified")).collect()
}

/// A whole file: what is sound is written again, served in parts and received, read as a backup, and refused with a bit
/// flipped. A refusal names a byte within the file.
pub fn snapshot_file(data: &[u8]) -> bool {
    let Some((&mode, data)) = data.split_first() else { return false };
    let bytes = file_of(mode, data);
    let dir = scratch();
    let path = dir.path().join("s.snap");
    put(&path, &bytes);
    let file = match meter::bounded(bytes.len(), || open(&path)) {
        Ok(file) => file,
        Err(refused) => {
            assert!(refused.at <= bytes.len() as u64, "at byte {} of {}: {}", refused.at, bytes.len(), refused.why);
            return false;
        }
    };
    assert!(mode & wrong::RAW != 0 || mode & wrong::ANY == 0, "taken, though it was made wrong: {mode:#x}");
    assert_eq!(file.bytes(), bytes.len() as u64);
    let rows = rows_of(&file);
    assert_eq!(rows.len() as u64, file.rows());
    rewritten(&dir.path().join("w.snap"), &file, &rows, &bytes);
    received(&dir.path().join("r.snap"), &file, &bytes);
    as_backup(file);
    flipped(&bytes, |bad| {
        put(&path, &bad);
        open(&path).ok().map(|file| file.digest())
    });
    true
}

fn rewritten(path: &Path, file: &SnapshotFile, rows: &Rows, bytes: &[u8]) {
    let mut writer = SnapshotWriter::create(path, file.header()).expect("a temporary file can be written");
    for (key, value) in rows {
        writer.row(key, value).expect("a temporary file can be written");
    }
    writer.finish().expect("a temporary file can be written");
    let again = open(path).expect("what was written is sound");
    assert_eq!((again.header(), &rows_of(&again)), (file.header(), rows));
    assert_eq!(restore::content(&again), restore::content(file));
    // More than one chunk of so few bytes is made by no writer.
    if file.chunks().len() <= 1 {
        assert!(fs::read(path).expect("it was written") == bytes, "one content, two files");
    }
}

fn received(path: &Path, file: &SnapshotFile, bytes: &[u8]) {
    let mut partial = Partial::open(path, file.digest()).expect("a temporary file can be written");
    for part in 0..file.parts() {
        let part = file.part(part).expect("the file was verified");
        partial.take(&part).expect("a part of a sound file is sound");
    }
    let found = partial.finish(file.header().cluster, file.digest(), &mut Throttle::new(0)).expect("all parts came");
    assert!(fs::read(found.path()).expect("it was written") == bytes, "received other than sent");
}

/// The file as all of a backup.
fn as_backup(file: SnapshotFile) {
    let epoch = file.header().basis.membership.epoch.0;
    if !restore::metadata(&file).is_ok_and(|state| has_room(&state)) || epoch == COUNTER_MAX {
        return;
    }
    let files = BTreeMap::from([(SYSTEM_SHARD, file)]);
    if let Ok(plan) = restore::plan(&files, &[], 7, &["a:1".to_owned(), "b:1".to_owned()]) {
        assert_eq!(synod_cluster::system::SystemState::decode(plan.encode()), Ok(plan));
    }
}

/// What a part of an input is made into.
fn part_of(section: &[u8]) -> Vec<u8> {
    let Some((kind, body)) = section.split_first() else { return Vec::new() };
    match kind % 5 {
        0 => [&format::prefix(format::VERSION)[..], &format::block(Kind::Header, body)].concat(),
        1 => format::block(Kind::Chunk, body),
        2 => {
            let footer = Footer { rows: 0, index: 0, digest: 0 };
            [&format::block(Kind::Index, body)[..], &footer.encode()].concat()
        }
        3 => seal(body),
        _ => body.to_vec(),
    }
}

/// Parts as they come: what was taken is there after a restart, and nothing else.
pub fn snapshot_parts(data: &[u8]) -> bool {
    let Some((&cut, data)) = data.split_first() else { return false };
    let dir = scratch();
    let path = dir.path().join("r.snap");
    let opened = || Partial::open(&path, 1).expect("a temporary file can be written");
    let mut partial = opened();
    let (mut taken, mut bytes, mut last) = (0, 0, false);
    for section in sections(data) {
        let part = Bytes::from(part_of(section));
        let before = partial.bytes();
        match meter::bounded(part.len(), || partial.take(&part)) {
            Ok(ended) => {
                bytes += part.len() as u64;
                taken += 1;
                last = ended;
            }
            Err(refused) => assert!(refused.at <= before + part.len() as u64, "{refused}"),
        }
        assert_eq!((partial.next_part(), partial.bytes()), (taken, bytes));
        if last {
            break;
        }
    }
    drop(partial);
    if taken == 0 {
        return false;
    }
    if !last {
        let found = opened();
        assert_eq!((found.next_part(), found.bytes()), (taken, bytes), "found after a restart, and taken before");
    }
    // The process died in the middle of a write: what is whole before it stays.
    let unfinished = unfinished(dir.path());
    let length = fs::metadata(&unfinished).expect("it is there").len();
    let cut_to = length.saturating_sub(u64::from(cut));
    let file = fs::File::options().write(true).open(&unfinished).expect("it is there");
    file.set_len(cut_to).expect("a temporary file can be cut");
    assert!(opened().bytes() <= cut_to);
    true
}

fn unfinished(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir).expect("the directory is there").map(|e| e.expect("it can be read").path());
    files.find(|path| path.extension().is_some_and(|e| e == "part")).expect("a part was taken")
}
