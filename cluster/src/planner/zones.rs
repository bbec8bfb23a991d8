//! Voters that share a zone though they need not.
//!
//! Owns: the fewest pairs in one zone that are possible. Must never: act where that is reached: racks alone move nothing.

use super::draft::Draft;
use super::operation::{Change, Predicted, Quantity, Rule};
use super::picture::ShardView;
use crate::ids::{NodeId, ShardId};
use std::collections::BTreeSet;

/// Spreads the voters of each shard over the zones.
pub(super) fn run(draft: &mut Draft<'_>) {
    let picture = draft.picture;
    let zones = zones(draft);
    for (shard, view) in &picture.shards {
        if draft.is_complete() {
            return;
        }
        let pairs = draft.crowding(view, None, None).zone;
        if pairs > fewest(view.membership.voters().count(), zones) && draft.is_free(*shard) && picture.is_calm(view) {
            spread(draft, *shard, view);
        }
    }
}

/// The zones that can take replicas; a node without one is one of its own.
fn zones(draft: &Draft<'_>) -> usize {
    let takers = draft.picture.nodes.values().filter(|node| node.takes());
    let (named, alone): (Vec<_>, Vec<_>) = takers.partition(|node| !node.zone.is_empty());
    let named: BTreeSet<&str> = named.into_iter().map(|node| node.zone.as_str()).collect();
    named.len() + alone.len()
}

/// The fewest pairs that share a zone.
fn fewest(voters: usize, zones: usize) -> u32 {
    let zones = zones.max(1);
    let (each, more) = (voters / zones, voters % zones);
    let pairs = more * (each + 1) * each / 2 + (zones - more) * each * each.saturating_sub(1) / 2;
    u32::try_from(pairs).unwrap_or(u32::MAX)
}

fn spread(draft: &mut Draft<'_>, shard: ShardId, view: &ShardView) {
    let now = draft.crowding(view, None, None);
    let after = |from: NodeId| {
        let to = draft.target(view, Some(from)).ok()?;
        Some((draft.crowding(view, Some(from), Some(to)), from, to))
    };
    let best = view.membership.voters().filter_map(after).min();
    let Some((then, from, to)) = best.filter(|(then, ..)| then.zone < now.zone) else { return };
    let predicted = Predicted { what: Quantity::ZonePairs, before: now.zone.into(), after: then.zone.into() };
    let why = format!("{} pairs of its voters share a zone, {} need to", now.zone, then.zone);
    draft.push(shard, Rule::Zone, Change::Move { from, to }, why, predicted);
}
