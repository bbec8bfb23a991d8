//! A verified snapshot file into a space of the state store.
//!
//! Owns: the copy. Must never: write to a space that any shard's pointer names.

use super::{SnapshotError, SnapshotFile, Throttle};
use crate::StoreError;
use crate::ids::Space;
use crate::state::BulkLoad;
use bytes::Bytes;

/// Gathered before rows are handed to the store, bytes.
const LOAD_BYTES: usize = 16 << 20;

/// Copies every row into `space`, durably.
///
/// # Errors
/// The store failed; `Ok(Err)`: the file is damaged, and what was loaded of it is to be thrown away.
pub fn load(
    file: &SnapshotFile,
    space: Space,
    store: &dyn BulkLoad,
    throttle: &mut Throttle,
) -> Result<Result<(), SnapshotError>, StoreError> {
    let mut rows: Vec<(Vec<u8>, Bytes)> = Vec::new();
    let mut bytes = 0;
    for chunk in 0..file.chunks().len() {
        let found = match file.rows_of(chunk) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        for (key, value) in found {
            bytes += 4 + key.len() + value.len();
            rows.push(([&space.0.to_be_bytes()[..], &key].concat(), value));
        }
        if bytes >= LOAD_BYTES {
            store.load(&rows)?;
            throttle.went(bytes as u64);
            rows.clear();
            bytes = 0;
        }
    }
    if !rows.is_empty() {
        store.load(&rows)?;
    }
    Ok(Ok(()))
}
