//! Room that removed rows still take, given back while the disk is low.
//!
//! Owns: what is compacted, in which pieces, and the thread that does so. Must never: take more room for a while than it was
//! allowed, or hold up a flush.
//!
//! A row that is removed is one row more, until a compaction meets it with what it hides. RocksDB compacts once enough was
//! written; on a disk that takes deletions only that may be never. So it is asked to, piece by piece: a compaction's files
//! are there twice until it ends.

use super::rocks::RocksShared;
use crate::StoreError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A piece has about so many bytes of files, where files are not larger.
const PIECE_BYTES: u64 = 128 << 20;
/// Between two rounds, so that a stream of deletions is not one of compactions.
const PAUSE: Duration = Duration::from_secs(5);

/// A sorted file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) level: i32,
    pub(super) bytes: u64,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

/// The keys from the first to the second.
pub(super) type Piece = (Vec<u8>, Vec<u8>);

/// At most one round under way. Dropped, it ends behind the piece at hand.
#[derive(Default)]
pub(super) struct Reclaimer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// What had been removed when the last round began, and when it did.
    last: Option<(u64, Instant)>,
}

impl Reclaimer {
    /// Begins a round where something was removed since the last one.
    pub(super) fn begin(&mut self, shared: &Arc<RocksShared>, spare: u64) -> Result<(), StoreError> {
        let removed = shared.removed();
        let idle = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if !idle || self.last.is_some_and(|(then, when)| then == removed || when.elapsed() < PAUSE) {
            return Ok(());
        }
        self.last = Some((removed, Instant::now()));
        let (shared, stop) = (Arc::clone(shared), Arc::clone(&self.stop));
        let failed =
            |e: std::io::Error| StoreError::Io { what: "start the thread state-reclaim".into(), why: e.to_string() };
        let thread =
            std::thread::Builder::new().name("state-reclaim".into()).spawn(move || round(&shared, spare, &stop));
        self.thread = Some(thread.map_err(failed)?);
        Ok(())
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and nobody could be told.
            let _ = thread.join();
        }
    }
}

/// Every piece that there is room for.
fn round(shared: &RocksShared, spare: u64, stop: &AtomicBool) {
    // What is written meanwhile needs room too; it is little, since only deletions and trims are taken.
    let most = spare - spare / 4;
    let (mut behind, mut too_much, mut pieces, mut left_out) = (None, None::<Taken>, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        // An error here is met with by whoever reads next.
        let Ok(files) = shared.files() else { return };
        let Some(((first, last), taken)) = next_piece(&files, behind.as_deref(), PIECE_BYTES) else { break };
        // An error is met with by whoever reads next. What overlaps is taken in by many pieces: read once, while it does not fit.
        let alike = |too_much: &Taken| (&too_much.first, &too_much.last) == (&taken.first, &taken.last);
        let fits = || shared.rows_fit(&taken.first, &taken.last, most).unwrap_or(false);
        if taken.bytes <= most || !too_much.as_ref().is_some_and(alike) && fits() {
            shared.compact(&first, &last);
            pieces += 1;
        } else {
            left_out += 1;
            too_much = Some(taken);
        }
        behind = Some(last);
    }
    tracing::info!(
        pieces,
        left_out,
        "the room of removed rows was given back, but for pieces that there is no room to compact"
    );
}

/// What a compaction takes in.
#[derive(Debug)]
pub(super) struct Taken {
    /// Of all its files.
    bytes: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

/// The next piece behind a key, of about so many bytes of files where files are not larger, and what its compaction takes in.
pub(super) fn next_piece(files: &[File], behind: Option<&[u8]>, bytes: u64) -> Option<(Piece, Taken)> {
    let mut rest: Vec<&File> = files.iter().filter(|file| behind.is_none_or(|key| *file.last > *key)).collect();
    rest.sort_unstable_by(|a, b| a.last.cmp(&b.last));
    let start = rest.iter().map(|file| &file.first).min()?;
    let start = behind.map_or(&start[..], |key| key.max(start));
    let mut piece = None;
    for file in rest {
        let taken = taken_in(files, start, &file.last);
        if piece.is_some() && taken.bytes > bytes {
            break;
        }
        piece = Some(((start.to_vec(), file.last.clone()), taken));
    }
    piece
}

/// What a compaction of these keys takes in: whole files of level 0, with the files below that they overlap, and further down
/// the files that hold these keys.
fn taken_in(files: &[File], first: &[u8], last: &[u8]) -> Taken {
    let (mut from, mut to) = (first, last);
    let mut grown = true;
    while grown {
        grown = false;
        for file in files.iter().filter(|file| file.level == 0 && *file.first <= *to && *file.last >= *from) {
            grown |= *file.first < *from || *file.last > *to;
            (from, to) = (from.min(&file.first), to.max(&file.last));
        }
    }
    let base = files.iter().map(|file| file.level).filter(|level| *level > 0).min();
    let overlaps = |file: &&File| {
        let (from, to) = if file.level == 0 || Some(file.level) == base { (from, to) } else { (first, last) };
        *file.first <= *to && *file.last >= *from
    };
    let mut taken = Taken { bytes: 0, first: first.to_vec(), last: last.to_vec() };
    for file in files.iter().filter(overlaps) {
        taken.bytes += file.bytes;
        taken.first = taken.first.min(file.first.clone());
        taken.last = taken.last.max(file.last.clone());
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::front::FrontState;
    use crate::state::rocks::StateOptions;
    use crate::state::{StateBatch, StateStore};
    use bytes::Bytes;

    fn file(level: i32, mib: u64, first: &str, last: &str) -> File {
        File { level, bytes: mib << 20, first: first.into(), last: last.into() }
    }

    #[test]
    fn pieces_cover_every_file_and_stay_small_where_files_are() {
        let files = [
            file(0, 4, "c", "d"),
            file(5, 60, "a", "b"),
            file(5, 60, "c", "d"),
            file(6, 60, "a", "c"),
            file(6, 60, "e", "f"),
            file(6, 200, "g", "h"),
        ];
        let (mut behind, mut pieces) = (None, Vec::new());
        while let Some(((first, last), taken)) = next_piece(&files, behind.as_deref(), PIECE_BYTES) {
            let text = |key: &Vec<u8>| String::from_utf8(key.clone()).unwrap();
            pieces.push((text(&first), text(&last), taken.bytes >> 20));
            behind = Some(last);
        }
        let expected = [("a", "b", 120), ("b", "c", 184), ("c", "d", 124), ("e", "f", 60), ("g", "h", 200)];
        let expected: Vec<_> = expected.map(|(a, b, mib)| (a.to_owned(), b.to_owned(), mib)).into();
        assert_eq!(pieces, expected);
    }

    #[test]
    fn level_zero_counts_whole_with_what_lies_under_it() {
        let files = [
            file(0, 1, "b", "m"),
            file(0, 1, "k", "y"),
            file(3, 10, "a", "c"),
            file(3, 10, "x", "z"),
            file(4, 10, "x", "z"),
        ];
        let taken = taken_in(&files, b"b", b"c");
        assert_eq!(taken.bytes >> 20, 22, "both of level 0, both under them, nothing further down");
        assert_eq!((&taken.first[..], &taken.last[..]), (&b"a"[..], &b"z"[..]), "whole files");
        assert_eq!(taken_in(&files, b"x", b"y").bytes >> 20, 32);
    }

    fn taken(shared: &RocksShared) -> u64 {
        shared.files().unwrap().iter().map(|file| file.bytes).sum()
    }

    #[test]
    fn removed_rows_give_their_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let shared = RocksShared::open(dir.path(), StateOptions::default()).unwrap();
        let mut store = FrontState::new(Arc::clone(&shared), 1 << 20).unwrap();
        let value = |n: u32| -> Bytes {
            (0..2000u32).flat_map(|i| (i ^ n).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
        };
        let row = |n: u32, value: Option<Bytes>| (n.to_be_bytes().to_vec(), value);
        for part in 0..4 {
            let rows = (part * 250..(part + 1) * 250).map(|n| row(n, Some(value(n)))).collect();
            store.apply(StateBatch { rows }).unwrap();
            store.flush_and_wait().unwrap();
        }
        let full = taken(&shared);
        store.apply(StateBatch { rows: (100..1000).map(|n| row(n, None)).collect() }).unwrap();
        store.flush_and_wait().unwrap();
        assert!(taken(&shared) >= full, "removed rows take their room");

        // Not where there is no room for what is left of them.
        let mut reclaimer = Reclaimer::default();
        reclaimer.begin(&shared, full / 20).unwrap();
        reclaimer.thread.take().unwrap().join().unwrap();
        assert!(taken(&shared) >= full);

        // Room for that is enough, though the files are larger.
        store.reclaim(full / 4).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while taken(&shared) > full / 5 {
            assert!(Instant::now() < until, "{} of {full} bytes are still taken", taken(&shared));
            std::thread::sleep(Duration::from_millis(20));
        }
        for n in 0..1000u32 {
            assert_eq!(store.get(&n.to_be_bytes()).unwrap().is_some(), n < 100, "row {n}");
        }
    }
}
