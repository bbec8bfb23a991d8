//! Rows that a read waits for.
//!
//! Owns: the request for them, and the word that they are there. Must never: read them.

use crate::state::{Fetch, Lacked};
use std::sync::Arc;
use synod_cluster::ids::ShardId;

/// Rows that a read of a shard waits for.
pub struct FetchRequest {
    /// The shard.
    pub shard: ShardId,
    /// Names the read.
    pub ticket: u64,
    /// The rows.
    pub lacked: Lacked,
    /// What brings them into memory.
    pub fetcher: Arc<dyn Fetch>,
}

/// What [`Host::fetch_rows`](super::Host::fetch_rows) was asked for is in memory, or could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsFetched {
    /// The shard.
    pub shard: ShardId,
    /// The read that waits for them.
    pub ticket: u64,
}
