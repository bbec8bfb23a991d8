//! Scrubbing: what all replicas of a shard hold at one slot, as one number each; and every byte of it read on the way.
//!
//! Owns: what is hashed, and in which order. Must never: read faster than it is told to, or hash anything in which sound
//! replicas may differ.
//!
//! The leader proposes a marker, an entry without effects. Each replica freezes its state when it has applied it; a thread
//! reads the shard's rows as of that freeze (RocksDB verifies the checksum of each block that it reads from disk) and the log
//! up to the marker (each entry's CRC), and the hash goes to all members. The rows are those of a snapshot file, in the
//! same order: position and bounds, sessions, records, metadata. What only this node knows is not among them.

use crate::StoreError;
use crate::codec::keys::{Bounds, SPACE_BYTES};
use crate::logstore::LogStore;
use crate::snapshot::Throttle;
use crate::state::StateView;
use std::ops::ControlFlow;
use std::sync::Arc;
use synod_cluster::buf::Put;
use synod_cluster::ids::{ShardId, Slot};
use xxhash_rust::xxh3::Xxh3;

/// Read between two looks at the clock, bytes.
const STEP_BYTES: u64 = 256 << 10;
/// Read from the log at a time, bytes.
const LOG_BYTES: usize = 1 << 20;

/// What is to be read of one replica.
#[derive(Clone)]
pub struct ScrubRequest {
    /// The shard.
    pub shard: ShardId,
    /// The marker's slot: the state is that of this slot.
    pub slot: Slot,
    /// The rows, in order: as [`ShardState::replicated`](crate::machine::ShardState::replicated) has them.
    pub rows: Vec<Bounds>,
    /// The log begins after this slot, and is kept until the reading is over.
    pub trimmed: Slot,
    /// The log.
    pub log: Arc<dyn LogStore>,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// XXH3-128 over all rows.
    pub hash: u128,
    /// Rows of the state.
    pub rows: u64,
    /// Bytes of state and log.
    pub bytes: u64,
}

/// What could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScrubError {
    /// The state.
    #[error("{0}")]
    State(StoreError),
    /// The log.
    #[error("{0}")]
    Log(StoreError),
    /// It was not begun, or not ended.
    #[error("the reading was given up")]
    GivenUp,
}

/// Reads a replica's state and log, at the rate of the throttle.
///
/// # Errors
/// Something of it is damaged, or cannot be read.
pub fn scrub(
    request: &ScrubRequest,
    view: &mut dyn StateView,
    throttle: &mut Throttle,
) -> Result<Scrubbed, ScrubError> {
    let mut found = hash_rows(view, &request.rows, throttle).map_err(ScrubError::State)?;
    let mut at = request.trimmed;
    while at < request.slot {
        let entries = request.log.entries(request.shard, at, request.slot, LOG_BYTES).map_err(ScrubError::Log)?;
        let Some(last) = entries.last() else { break };
        at = last.id.slot;
        let bytes = entries.iter().map(|entry| entry.size() as u64).sum();
        found.bytes += bytes;
        throttle.went(bytes);
    }
    Ok(found)
}

/// Hashes the rows of these ranges, their keys without the space: the hash does not depend on how many spaces they are in.
///
/// # Errors
/// They cannot be read.
pub fn hash_rows(view: &mut dyn StateView, ranges: &[Bounds], throttle: &mut Throttle) -> Result<Scrubbed, StoreError> {
    let (mut hash, mut found, mut step) = (Xxh3::new(), Scrubbed::default(), 0);
    let mut lengths: Vec<u8> = Vec::with_capacity(20);
    let mut add = |key: &[u8], value: &[u8]| {
        let key = &key[SPACE_BYTES..];
        // Lengths first: no two sequences of rows are the same bytes.
        lengths.clear();
        lengths.var(key.len() as u64);
        lengths.var(value.len() as u64);
        hash.update(&lengths);
        hash.update(key);
        hash.update(value);
        let bytes = (key.len() + value.len()) as u64;
        (found.rows, found.bytes, step) = (found.rows + 1, found.bytes + bytes, step + bytes);
        if step >= STEP_BYTES {
            throttle.went(std::mem::take(&mut step));
        }
        ControlFlow::Continue(())
    };
    for (from, to) in ranges {
        view.scan(from, to, &mut add)?;
    }
    throttle.went(step);
    found.hash = hash.digest128();
    Ok(found)
}
