//! What follows from applied entries outside the state.
//!
//! Owns: that all of it is carried out. Must never: change the state.

use super::propose::Pending;
use super::{Shard, answer};
use crate::host::Host;
use crate::machine::Effects;
use crate::metrics::seconds;
use crate::round::Node;
use synod_cluster::ids::Slot;

impl Shard {
    /// Carries out what follows from the entry applied at `slot`; `mine` waits for it, where it was proposed here. Whether the
    /// state must be frozen before more is applied.
    pub(super) fn follow<H: Host>(
        &mut self,
        node: &mut Node<H>,
        slot: Slot,
        effects: Effects,
        mine: Option<Pending>,
    ) -> bool {
        let Effects { results, metadata, marker, child, refused } = effects;
        if let Some(Pending { replies, proposed_at, .. }) = mine {
            let waited = (node.clock)().0.saturating_sub(proposed_at.0);
            node.metrics.commit_seconds.observe(seconds(waited));
            match &refused {
                Some(why) => replies.into_iter().for_each(|reply| answer(node, reply, Err(why.clone()))),
                None => Self::answer_writes(node, replies, results),
            }
        }
        if let Some(why) = refused {
            tracing::info!(shard = self.id.0, "the administrative entry in slot {slot} changes nothing: {why}");
        }
        if let Some(child) = child {
            // No version of the cluster that this binary speaks has splits, so whoever proposed this one is newer. What the entry
            // changed is not on disk yet: a newer binary applies it again.
            let child = child.descriptor.shard;
            node.host.fatal(format!(
                "shard {}: slot {slot} of its log splits it, and shard {child} begins. This binary does not split shards: start a \
                 newer one",
                self.id
            ));
        }
        // Once for all entries of a round: the map is copied for it.
        self.unpublished |= metadata.is_some();
        marker && self.mark(node, slot)
    }

    /// Publishes the metadata where it is not what was published last.
    pub(super) fn publish<H: Host>(&mut self, node: &mut Node<H>) {
        if std::mem::take(&mut self.unpublished)
            && let Some(metadata) = self.state.system()
        {
            node.publish(metadata.clone());
        }
    }
}
