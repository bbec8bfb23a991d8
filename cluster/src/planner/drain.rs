//! Nodes that are being emptied.
//!
//! Owns: whether a node can be emptied, and in which order its replicas leave. Must never: begin with a node whose shards would find too
//! few others.

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Refusal, Rule};
use super::picture::Mark;
use crate::ids::{NodeId, ShardId};

/// Moves the replicas of every node that is marked.
pub(super) fn run(draft: &mut Draft<'_>) {
    let picture = draft.picture;
    let takers = picture.takers().count();
    for (node, view) in &picture.nodes {
        if view.mark == Mark::Stays {
            continue;
        }
        let held = draft.held(*node);
        let needs = |shard: &ShardId| picture.shards.get(shard).map_or(0, |view| picture.wanted(view));
        // The first of those that need most.
        let most = held.iter().map(|shard| (needs(shard), std::cmp::Reverse(*shard))).max();
        match most {
            Some((wanted, std::cmp::Reverse(shard))) if wanted > takers => {
                draft.refuse(Refusal::DrainLeavesTooFew { node: *node, shard, wanted, takers });
            }
            _ => empty(draft, *node, &held),
        }
    }
}

fn empty(draft: &mut Draft<'_>, from: NodeId, held: &[ShardId]) {
    let picture = draft.picture;
    let mut left = held.len() as u64;
    for shard in held {
        if draft.is_complete() {
            return;
        }
        let Some(view) = picture.shards.get(shard).filter(|view| draft.is_free(*shard) && picture.has_quorum(view))
        else {
            continue;
        };
        match draft.target(view, Some(from)) {
            Err(lacks) => draft.refuse(Refusal::NoTarget { shard: *shard, rule: Rule::Drain, lacks }),
            Ok(to) => {
                let predicted = Predicted { what: Quantity::Replicas, before: left, after: left - 1 };
                let why = format!("node {from} is being emptied");
                if draft.push(*shard, Rule::Drain, Change::Move { from, to }, why, predicted) {
                    left -= 1;
                }
            }
        }
    }
}
