//! What the clones of a client share, and what each call begins from.
//!
//! Owns: the shared state, and what a call wants until when. Must never: send a request to a shard; `call` does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use synod_proto::v1;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::link::{Links, Task};
use crate::options::Options;
use crate::router::{Place, ShardRoute, TableRoute};
use crate::types::{Consistency, TableInfo};
use crate::watch::Maps;

/// How long a node that was silent is asked last.
const SILENT: Duration = Duration::from_secs(2);

/// What the clones of a client share.
pub(crate) struct Core {
    pub(crate) options: Arc<Options>,
    pub(crate) maps: Arc<Maps>,
    pub(crate) links: Arc<Links>,
    pub(crate) identity: Identity,
    pub(crate) writes: Semaphore,
    /// The node that was silent last, and when: where no leader is known it is asked last for a while.
    pub(crate) silent: Mutex<Option<(u64, Instant)>>,
    /// Where reads that any replica answers begin to look for a replica, so that clients spread.
    pub(crate) local_start: usize,
    pub(crate) _keeper: Task,
}

/// Where calls begin: the shared state, and the time that a call may take. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) core: Arc<Core>,
    pub(crate) timeout: Duration,
}

/// What a call wants.
pub(crate) struct Want<'a> {
    pub(crate) table: &'a str,
    pub(crate) place: Place<'a>,
    pub(crate) consistency: Consistency,
    pub(crate) write: bool,
    /// Operations that one shard must execute together.
    pub(crate) ops: &'a [v1::WriteOp],
    /// How long the server may keep the request beyond what an ordinary one takes.
    pub(crate) wait: Duration,
    pub(crate) deadline: Instant,
}

impl Core {
    /// A node let an attempt time out.
    pub(crate) fn note_silent(&self, node: u64) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, Instant::now()));
    }

    pub(crate) fn recently_silent(&self) -> Option<u64> {
        let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.filter(|(_, at)| at.elapsed() < SILENT).map(|(node, _)| node)
    }
}

impl Caller {
    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// What a read wants.
    pub(crate) fn want<'a>(&self, table: &'a str, place: Place<'a>, consistency: Consistency) -> Want<'a> {
        Want { table, place, consistency, write: false, ops: &[], wait: Duration::ZERO, deadline: self.deadline() }
    }

    /// One table of the map; asks the cluster before it says that there is none.
    pub(crate) async fn table(&self, name: &str) -> Result<TableInfo> {
        let find = || self.core.maps.view().table(name).map(|t| t.info.clone());
        if let Some(table) = find() {
            return Ok(table);
        }
        self.refresh().await?;
        find().ok_or_else(|| Error::TableNotFound { table: name.into() })
    }

    /// Asks a node for the newest map it has.
    pub(crate) async fn refresh(&self) -> Result<()> {
        match timeout_at(self.deadline(), self.core.maps.refresh()).await {
            Ok(refreshed) => refreshed,
            Err(_) => Err(Error::unavailable("no node gave a shard map in time")),
        }
    }
}

impl Want<'_> {
    /// Whether a key of the operations is of another shard than this one.
    pub(crate) fn crosses(&self, table: &TableRoute, shard: &ShardRoute) -> bool {
        let elsewhere = |op: &v1::WriteOp| table.locate(Place::Key(&op.key)).is_none_or(|s| s.info.id != shard.info.id);
        self.ops.len() > 1 && self.ops.iter().any(elsewhere)
    }

    /// The time left until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
