//! Room that removed rows still take, given back while the disk is low.
//!
//! Owns: what is compacted, in which pieces, and the thread that does so. Must never: take more room for a while than it was
//! allowed, or hold up a flush.
//!
//! A row that is removed is one row more, until a compaction meets it with what it hides. RocksDB compacts once enough was
//! written; on a disk that takes deletions only that may be never. So it is asked to, piece by piece: a compaction's files
//! are there twice until it ends.

use super::background::Background;
use super::pieces::{Taken, next_piece};
use super::rocks::RocksShared;
use crate::StoreError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Size of a piece's files, bytes; more where one file is larger.
const PIECE_BYTES: u64 = 128 << 20;
/// Between two rounds, so that a stream of deletions is not one of compactions.
const PAUSE: Duration = Duration::from_secs(5);

/// At most one round under way. Dropped, it ends after the piece at hand.
#[derive(Default)]
pub(super) struct Reclaimer {
    rounds: Background,
    /// What had been removed when the last round began, and when it did.
    last: Option<(u64, Instant)>,
}

impl Reclaimer {
    /// Begins a round where something was removed since the last one.
    pub(super) fn begin(&mut self, shared: &Arc<RocksShared>, spare: u64) -> Result<(), StoreError> {
        let removed = shared.removed();
        if !self.rounds.is_idle() || self.last.is_some_and(|(then, when)| then == removed || when.elapsed() < PAUSE) {
            return Ok(());
        }
        self.last = Some((removed, Instant::now()));
        let shared = Arc::clone(shared);
        self.rounds.begin("state-reclaim", move |stop| round(&shared, spare, stop))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::front::FrontState;
    use crate::state::rocks::StateOptions;
    use crate::state::{StateBatch, StateStore};
    use bytes::Bytes;

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
        reclaimer.rounds.join();
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
