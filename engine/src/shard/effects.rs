//! What follows from applied entries outside the state.
//!
//! Owns: that all of it is carried out. Must never: change the state.

use super::propose::Pending;
use super::{Shard, answer};
use crate::host::{Host, Told};
use crate::machine::Effects;
use crate::metrics::seconds;
use crate::round::Node;
use synod_cluster::ids::Slot;

impl Shard {
    /// Carries out what follows from the entry applied at `slot`; `mine` and `told` wait for it, where it was proposed here. Whether
    /// the state must be frozen before more is applied.
    pub(super) fn follow<H: Host>(
        &mut self,
        node: &mut Node<H>,
        slot: Slot,
        effects: Effects,
        (mine, told): (Option<Pending>, Option<Told>),
    ) -> bool {
        let Effects { results, metadata, marker, child, merge, refused } = effects;
        if let Some(Pending { replies, proposed_at, .. }) = mine {
            let waited = (node.clock)().0.saturating_sub(proposed_at.0);
            node.metrics.commit_seconds.observe(seconds(waited));
            match &refused {
                Some(why) => replies.into_iter().for_each(|reply| answer(node, reply, Err(why.clone()))),
                None => Self::answer_writes(node, replies, results),
            }
        }
        if let Some(why) = &refused {
            tracing::info!(shard = self.id.0, "the administrative entry in slot {slot} changes nothing: {why}");
        }
        if let Some(step) = merge {
            tracing::info!(shard = self.id.0, "slot {slot} is a step of a merge: {step:?}");
        }
        self.look_at_bounds(node, slot);
        if merge.is_some() {
            node.merging.push(self.id);
        }
        match child {
            Some(born) => self.bear(node, slot, born, told),
            None => {
                if let Some(told) = told {
                    told(refused.map_or(Ok(()), Err));
                }
            }
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
