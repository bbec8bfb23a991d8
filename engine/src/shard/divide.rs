//! Where a shard could be divided: what a leader knows, and what is to be looked for in its rows.
//!
//! Owns: who may ask. Must never: look at a row on the worker's thread.

use super::Shard;
use crate::codec::keys::Bounds;
use crate::host::{Division, Host, LoadReport, Size};
use crate::middle;
use crate::round::Node;
use crate::state::{StateStore, StateView};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Descriptor;

/// What is to be looked for in a view of the state.
pub(crate) struct DivideRequest {
    descriptor: Descriptor,
    pieces: Vec<Bounds>,
    load: LoadReport,
}

impl DivideRequest {
    /// Looks for it: some dozens of rows, or all of few.
    pub(crate) fn run(self, view: &mut dyn StateView) -> Result<Division, Refusal> {
        let Self { descriptor, pieces, load } = self;
        let found = middle::find(view, &descriptor, &pieces).map_err(|error| {
            // The store has noted damage by itself, and whoever asks next is told the same.
            tracing::error!(shard = descriptor.shard.0, "the middle of a shard was not found: {error}");
            Refusal::NotReady
        })?;
        let Descriptor { version, partitioning, from, to, .. } = descriptor;
        Ok(Division { version, partitioning, from, to, bytes: found.bytes, middle: found.middle, load })
    }
}

impl Shard {
    /// Whether this replica says where its shard could be divided.
    ///
    /// # Errors
    /// It does not lead, or has no records.
    pub(crate) fn may_divide(&self) -> Result<(), Refusal> {
        if !self.leading {
            return Err(Refusal::NotLeader { leader: self.leader(), maybe: false });
        }
        if self.state.system().is_some() {
            return Err(Refusal::Invalid { field: "shard", why: "the system shard is never split".into() });
        }
        Ok(())
    }

    /// What is to be looked for in a view of what is applied by now.
    pub(crate) fn divide_request<H: Host>(&mut self, node: &Node<H>) -> DivideRequest {
        let load = self.load_report_all(node.now);
        let descriptor = self.state.descriptor().clone();
        let pieces = self.state.pieces().rows(&descriptor, b"", b"");
        DivideRequest { descriptor, pieces, load }
    }

    /// What tells the bytes of a shard led here.
    pub(crate) fn size(&self, store: &dyn StateStore) -> Option<Size> {
        let measure = store.measure().filter(|_| self.leading)?;
        Some(Size::new(self.state.replicated(), measure))
    }
}
