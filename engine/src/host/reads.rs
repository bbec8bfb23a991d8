//! Rows that a read, a tail or the next entry of a shard waits for.
//!
//! Owns: the request for them, the word that they are there, and the host's part for both. Must never: read them.

use crate::state::{Fetch, Lacked};
use std::sync::Arc;
use synod_cluster::ids::ShardId;

/// Rows that a read, a tail or the next entry of a shard waits for.
pub struct FetchRequest {
    /// The shard.
    pub shard: ShardId,
    /// Names the fetch.
    pub ticket: u64,
    /// A client's read waits for them; else the next entry or tails do.
    pub for_read: bool,
    /// The rows, some dozens at most.
    pub lacked: Vec<Lacked>,
    /// What brings them into memory.
    pub fetcher: Arc<dyn Fetch>,
}

/// What [`ReadHost::fetch_rows`] was asked for is in memory, or could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsFetched {
    /// The shard.
    pub shard: ShardId,
    /// The fetch.
    pub ticket: u64,
}

/// What brings rows into memory for a worker's reads, tails and entries. A host without it keeps the default.
pub trait ReadHost {
    /// Whether [`ReadHost::fetch_rows`] would take rows now: else nothing is looked for in memory first.
    fn fetches_rows(&self) -> bool {
        false
    }

    /// Has rows brought into memory on another thread, which then tells [`RowsFetched`], whatever came of it. `false` where it
    /// does not: the worker reads them itself.
    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        drop(request);
        false
    }
}
