//! Room that large removed ranges still take, given back at a measured pace.
//!
//! Owns: the order in which ranges are compacted, and the pace. Must never: hold up a flush or a read, take in more than a piece
//! at a time, or be needed for a removed row to stay removed.
//!
//! A trim, a dropped table or a replaced copy removes a range: nobody sees its rows from then on, and each snapshot and scrub
//! passes over them. Their room comes back when a compaction takes in both the range and the rows. For a large range this module
//! asks for that compaction; small ones wait for the compactions that come anyway, and so does what was not done yet when the
//! process ended.

use super::background::Background;
use super::pieces::next_piece;
use super::rocks::RocksShared;
use super::rows::Span;
use crate::StoreError;
use crate::background::lower_priority;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Size of a piece's files, bytes; more where one file is larger.
const PIECE_BYTES: u64 = 32 << 20;
/// The rest after each piece, as a multiple of the time that the piece took: others need the processor and the disk.
const RESTS: u32 = 4;
/// At most one round under way. Dropped, it ends after the piece at hand.
#[derive(Default)]
pub(super) struct Tidier {
    rounds: Background,
}

impl Tidier {
    /// Begins a round over the ranges that wait, unless one is under way.
    pub(super) fn begin(&mut self, shared: &Arc<RocksShared>) -> Result<(), StoreError> {
        if !self.rounds.is_idle() || shared.removed_ranges().first().is_none() {
            return Ok(());
        }
        let shared = Arc::clone(shared);
        self.rounds.begin("state-tidy", move |stop| round(&shared, stop))
    }
}

fn round(shared: &RocksShared, stop: &AtomicBool) {
    lower_priority();
    while let Some(range) = shared.removed_ranges().first() {
        let mut behind: Option<Vec<u8>> = None;
        // One compaction may drop all files of the range: a level 0 file that has the removal overlaps them all.
        let mut trash = shared.trash(&range);
        while let Some(Done { last, took }) = compact_next(shared, &range, behind.as_deref()) {
            trash.empty(stop);
            std::thread::sleep(took * RESTS);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(last) = last else { break };
            behind = Some(last);
        }
        shared.removed_ranges().done(&range, |range| shared.size_of(range));
    }
}

/// A piece that was compacted.
struct Done {
    /// Its last key; `None` where nothing of the range comes after it.
    last: Option<Vec<u8>>,
    took: Duration,
}

/// Compacts the next piece of a range; `None` where there is none.
fn compact_next(shared: &RocksShared, (from, to): &Span, behind: Option<&[u8]>) -> Option<Done> {
    // An error here is met with by whoever reads next.
    let files = shared.files().ok()?;
    let within: Vec<_> = files.into_iter().filter(|file| *file.last >= **from && *file.first < **to).collect();
    let ((first, last), _) = next_piece(&within, behind, PIECE_BYTES)?;
    let (first, last) = (first.max(from.to_vec()), last.min(to.to_vec()));
    if first > last {
        return None;
    }
    let began = Instant::now();
    shared.compact(&first, &last);
    Some(Done { last: (last[..] < **to).then_some(last), took: began.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::front::FrontState;
    use crate::state::removed::LARGE_BYTES;
    use crate::state::rocks::StateOptions;
    use crate::state::{StateBatch, StateStore};
    use bytes::Bytes;
    use rand::{Rng, SeedableRng};

    #[test]
    fn a_large_removed_range_gives_its_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let shared = RocksShared::open(dir.path(), StateOptions::default()).unwrap();
        let mut store = FrontState::new(Arc::clone(&shared), 64 << 20).unwrap();
        // Bytes that no compression makes fewer.
        let value = |n: u32| -> Bytes {
            let mut value = vec![0; 10_000];
            rand_chacha::ChaCha8Rng::seed_from_u64(n.into()).fill_bytes(&mut value);
            value.into()
        };
        for part in 0..4u32 {
            let row = |n: u32| (n.to_be_bytes().to_vec(), Some(value(n)));
            store.apply(StateBatch { rows: (part * 500..(part + 1) * 500).map(row).collect() }).unwrap();
            store.flush_and_wait().unwrap();
        }
        let taken = || shared.files().unwrap().iter().map(|file| file.bytes).sum::<u64>();
        let full = taken();
        assert!(full > 2 * LARGE_BYTES && !store.wants_freeze());
        store.remove_range(&5u32.to_be_bytes(), &1990u32.to_be_bytes()).unwrap();
        let left = store.tidy().unwrap();
        assert!(left > full / 2, "{left} bytes of {full} are said to be left");
        let asks = (0..60).take_while(|_| !store.wants_freeze() && store.tidy().is_ok()).count();
        assert!(
            (5..30).contains(&asks),
            "what is removed is flushed though nothing else comes, and not at once: {asks}"
        );
        store.flush_and_wait().unwrap();
        assert!(!store.wants_freeze());
        let until = Instant::now() + Duration::from_secs(20);
        while store.tidy().unwrap() > 0 || taken() > full / 10 {
            assert!(Instant::now() < until, "{} of {full} bytes are still taken", taken());
            std::thread::sleep(Duration::from_millis(20));
        }
        for n in 0..2000u32 {
            assert_eq!(store.get(&n.to_be_bytes()).unwrap().is_some(), !(5..1990).contains(&n), "row {n}");
        }
    }
}
