//! What the harness asks of a consensus core.
//!
//! Owns: the trait. Must never: know which core it is.

use crate::setting::{Result, Timing};
use bytes::Bytes;
use std::sync::Arc;
use synod_engine::logstore::GroupWrite;
use synod_engine::logstore::rocks::RocksLog;
use synod_paxos::types::{Micros, NodeId};

/// What a core wants done, in this order.
#[derive(Debug, Default)]
pub struct Work {
    /// Leaves at once.
    pub sends: Vec<(NodeId, Bytes)>,
    /// Written and synced together; then the core is told.
    pub writes: Vec<GroupWrite>,
    /// Chosen, durable here, and next to be applied.
    pub applied: Vec<Bytes>,
}

impl Work {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.writes.is_empty() && self.applied.is_empty()
    }
}

/// A replica of a consensus core. Inputs change it; what they caused is fetched with [`Core::work`].
pub trait Core: Sized + Send + 'static {
    /// Its protocol's name in reports and arguments.
    const NAME: &'static str;

    /// A replica of a new group, whose log is `log`.
    fn open(me: NodeId, log: Arc<RocksLog>, timing: &Timing, now: Micros) -> Result<Self>;

    /// Time passed.
    fn tick(&mut self, now: Micros) -> Result<()>;

    /// When to tick next at the latest.
    fn deadline(&self) -> Micros;

    /// A frame of a peer came.
    fn receive(&mut self, from: NodeId, frame: Bytes, now: Micros) -> Result<()>;

    /// One entry is to be chosen; `false` where it was refused.
    fn propose(&mut self, payload: Bytes, now: Micros) -> Result<bool>;

    /// What the inputs since the last call caused.
    fn work(&mut self) -> Result<Work>;

    /// The writes of the last [`Core::work`] are on disk.
    fn persisted(&mut self, now: Micros) -> Result<()>;

    /// Whether it takes proposals.
    fn leads(&self) -> bool;
}
