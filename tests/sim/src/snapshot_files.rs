//! Snapshot files of a process, the connections that their parts come on, and what happens to them.
//!
//! Owns: what there is of each, and the steps that there are. Must never: take a step: `snapshots` and `transfers` do.

use crate::host::{Making, Wish};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId, Slot, Space};
use synod_engine::snapshot::offers::{Fetches, Offer, Receiving};
use synod_engine::snapshot::{FileStore, Header, SnapshotFile};

/// What happens to snapshots.
pub(crate) enum Step {
    /// A view can be had.
    Make { job: u64 },
    /// A file is made, or not.
    Built { shard: ShardId, result: Result<Arc<SnapshotFile>, String> },
    /// The worker wants something.
    Wish(Wish),
    /// Rows that a read or an entry lacked are in memory.
    RowsFetched { shard: ShardId, ticket: u64, for_read: bool },
    /// An offer arrives.
    Offered(Offer),
    /// A member whose state is gone asks for one.
    StateAsked { by: NodeId, shard: ShardId, least: Slot },
    /// A file was received and verified.
    Fetched(Box<Header>),
    /// Rows are in their space, or not.
    Loaded { shard: ShardId, space: Space, result: Result<(), String> },
    /// A request for parts arrives at the maker.
    Asked { transfer: u64, part: u64 },
    /// The maker's next part is due.
    Serve { transfer: u64, part: u64 },
    /// A part arrives.
    Part { transfer: u64, part: u64, data: Bytes },
    /// The receiver hears that no more comes.
    Gone { transfer: u64, why: &'static str },
    /// The receiver has waited long enough, unless something came.
    Overdue { transfer: u64, progress: u64 },
    /// The process is killed amid all this.
    Kill,
}

/// A process's snapshot files.
pub(crate) struct SnapshotFiles {
    pub(crate) files: Arc<dyn FileStore>,
    pub(crate) built: BTreeMap<ShardId, Arc<SnapshotFile>>,
    pub(crate) fetches: Fetches,
    pub(crate) jobs: BTreeMap<u64, Making>,
    pub(crate) last_job: u64,
    /// Files being written.
    pub(crate) making: BTreeSet<ShardId>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    /// Files that were received and that the worker has not asked for yet, since when.
    pub(crate) fetched: BTreeMap<ShardId, u64>,
    /// Spaces being filled.
    pub(crate) loading: BTreeSet<ShardId>,
    pub(crate) installed: BTreeSet<ShardId>,
}

impl SnapshotFiles {
    pub(crate) fn new(files: Arc<dyn FileStore>) -> Self {
        Self {
            files,
            built: BTreeMap::new(),
            fetches: Fetches::default(),
            jobs: BTreeMap::new(),
            last_job: 0,
            making: BTreeSet::new(),
            streams: BTreeMap::new(),
            fetched: BTreeMap::new(),
            loading: BTreeSet::new(),
            installed: BTreeSet::new(),
        }
    }

    /// Whether a snapshot made here is there.
    pub(crate) fn has_one(&self) -> bool {
        !self.built.is_empty()
    }

    /// What was under way, for counts.
    pub(crate) fn unfinished(&self) -> [(&'static str, u64); 3] {
        let streams = self.streams.values().filter(|stream| stream.progress > 0).count();
        [
            ("process ended while it makes one", (self.jobs.len() + self.making.len()) as u64),
            ("process ended while one comes", streams as u64),
            ("process ended while one is loaded", self.loading.len() as u64),
        ]
    }
}

/// A file that is coming.
pub(crate) struct Stream {
    pub(crate) shard: ShardId,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) busy_until: u64,
    pub(crate) progress: u64,
}

/// A connection that parts come on.
pub(crate) struct Transfer {
    pub(crate) maker: NodeId,
    pub(crate) taker: NodeId,
    pub(crate) taker_process: u64,
    pub(crate) digest: u128,
    pub(crate) shard: ShardId,
    /// The maker's end, while it serves.
    pub(crate) file: Option<(u64, Arc<SnapshotFile>)>,
    /// Arrival of the last part: none overtakes another.
    pub(crate) last: u64,
}
