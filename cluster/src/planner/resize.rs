//! A shard that is to have another number of voters.
//!
//! Owns: which node gets its next voter, and which of its voters goes first. Must never: say how many it should have, or name a voter
//! without whom no live majority would be left.

use super::draft::Draft;
use super::operation::Lacks;
use super::picture::{Crowding, Picture};
use super::weigh::burden;
use crate::ids::{NodeId, ShardId};
use std::cmp::Reverse;

/// The node that gets the next voter of a shard, by the rule for every replica that moves.
///
/// # Errors
/// No node can take it; says by reason how many. A shard that is not in the picture lacks nothing.
pub fn comes(picture: &Picture, shard: ShardId) -> Result<NodeId, Lacks> {
    let view = picture.shards.get(&shard).ok_or_else(Lacks::default)?;
    Draft::of(picture).target(view, None)
}

/// The voter of a shard that goes first: one that is dead, else on a node that is being emptied, else no leader; of these the one after
/// whom the fewest fail together, and then the one whose node has most. `None`: without it no majority of the others would be alive, or it
/// is the last.
#[must_use]
pub fn goes(picture: &Picture, shard: ShardId) -> Option<NodeId> {
    let view = picture.shards.get(&shard)?;
    let draft = Draft::of(picture);
    let key = |node: NodeId| {
        let crowding: Crowding = draft.crowding(view, Some(node), None);
        let weights = &picture.settings.weights;
        let load = burden(weights, draft.has(None, node)) + burden(weights, draft.has(Some(view.table), node));
        (picture.alive(node), picture.takes(node), view.leader == Some(node), crowding, Reverse(load), node)
    };
    let gone = view.membership.voters().min_by_key(|node| key(*node))?;
    let left = view.membership.voters().count() - 1;
    let live = picture.live_voters(view) - usize::from(picture.alive(gone));
    (live > left / 2).then_some(gone)
}
