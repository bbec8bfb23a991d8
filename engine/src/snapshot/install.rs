//! A verified snapshot file into a space of the state store.
//!
//! Owns: the copy. Must never: write to a space that any shard's pointer names.

use super::{FileStore, SnapshotError, SnapshotFile, Throttle};
use crate::StoreError;
use crate::state::BulkLoad;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use synod_cluster::ids::{ClientId, Space};

/// So many chunks' rows are gathered before they are handed to the store.
const LOAD_CHUNKS: usize = 16;

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
        if bytes >= LOAD_CHUNKS * file.gather_bytes() {
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

/// Copies every row of the file at `path`, which must be of `cluster`, into `space`, durably.
///
/// # Errors
/// The store failed; `Ok(Err)`: there is no good file, and what was loaded of it is to be thrown away.
pub fn load_from(
    files: &Arc<dyn FileStore>,
    path: &Path,
    cluster: ClientId,
    space: Space,
    store: &dyn BulkLoad,
    throttle: &mut Throttle,
) -> Result<Result<(), SnapshotError>, StoreError> {
    match SnapshotFile::open_in(files, path, Some(cluster)) {
        Ok(file) => load(&file, space, store, throttle),
        Err(error) => Ok(Err(error)),
    }
}
