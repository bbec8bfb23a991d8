//! Bounds that changed, as the map is to hear of them.
//!
//! Owns: what is told, and whether the map knows it. Must never: take anything from the map: bounds change by the log alone.

use super::Shard;
use crate::host::Host;
use crate::round::Node;
use synod_cluster::ids::Slot;
use synod_cluster::system::{Child, Descriptor, ShardNews, SystemState};
use synod_paxos::types::{Member, MemberRole, Membership};

/// Interval between reports of one shard's bounds, µs. A replica that does not lead waits as long before its first one.
pub(crate) const TELL_US: u64 = 2_000_000;

impl Shard {
    /// An entry was applied at `slot`: where it changed the bounds, the map is to hear of it, at once from the leader.
    pub(super) fn look_at_bounds<H: Host>(&mut self, node: &mut Node<H>, slot: Slot) {
        let version = self.state.descriptor().version;
        if version == self.version {
            return;
        }
        (self.version, self.split_at) = (version, slot);
        let at = if self.leading { node.now } else { node.now.plus(TELL_US) };
        node.changed_bounds.insert(self.id, at);
    }

    /// Whether the map may not know all that was applied here.
    pub(crate) fn may_have_news(&self) -> bool {
        !self.is_missing()
            && (self.state.has_changed_bounds()
                || !self.state.children().is_empty()
                || !self.state.absorbed().is_empty())
    }

    /// What the map is to hear; `None` where it knows, or where it knows that the shard is gone.
    pub(crate) fn news_of_bounds(&self, map: &SystemState) -> Option<ShardNews> {
        let Descriptor { version, from, to, .. } = self.state.descriptor();
        let unknown = |child| !map.shards.contains_key(&child) && !map.vanished(child);
        let known = map.shards.get(&self.id).is_some_and(|d| d.version >= *version);
        let known = known && !self.state.children().iter().any(|mark| unknown(mark.shard));
        let known = known && !self.state.absorbed().iter().any(|gone| map.shards.contains_key(gone));
        if known || map.vanished(self.id) || self.is_missing() {
            return None;
        }
        let children = self.state.children().iter().filter_map(|mark| {
            let members: Vec<Member> =
                mark.voters.iter().map(|node| Member { node: *node, role: MemberRole::Voter }).collect();
            // Who led first is in the child's own beginning. The map does not need it.
            let first_leader = members.first()?.node;
            let membership = Membership { epoch: super::FIRST_EPOCH, members, first_leader };
            let (from, to) = (mark.from.clone(), mark.to.clone());
            Some(Child { shard: mark.shard, from, to, version: mark.version, membership })
        });
        let children = children.collect();
        let (from, to) = (from.clone(), to.clone());
        Some(ShardNews {
            shard: self.id,
            from,
            to,
            version: *version,
            children,
            absorbed: self.state.absorbed().to_vec(),
        })
    }
}
