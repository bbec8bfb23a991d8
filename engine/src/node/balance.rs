//! Which shard a busy worker hands to another.
//!
//! Owns: the decision, from what each worker's shards were given to do. Must never: read a clock, or move a shard for a small gain: it
//! would come back.

use super::WorkerId;
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};

/// A worker whose shards had fewer inputs than this in an interval hands none over.
const LEAST_INPUTS: u64 = 1000;
/// What the busier of the two workers has afterwards is less than so many hundredths of what the busiest has now.
const MOST_LEFT: u64 = 80;

/// The shard that worker `me` hands over, and to whom: to the least busy worker, where `me` is the busiest and the gain is clear.
/// `loads` are the inputs of each worker's shards in its last interval, `shards` those of the shards that `me` has. The system shard
/// stays.
pub(crate) fn choose(loads: &[u64], me: WorkerId, shards: &[(ShardId, u64)]) -> Option<(ShardId, WorkerId)> {
    let most = *loads.get(me.index())?;
    // The first of several that are equally busy, so that one alone decides.
    let busiest = loads.iter().position(|load| loads.iter().all(|other| other <= load))?;
    let (least_busy, least) = loads.iter().copied().enumerate().min_by_key(|(index, load)| (*load, *index))?;
    if busiest != me.index() || least_busy == busiest || most < LEAST_INPUTS {
        return None;
    }
    let left = |load: u64| most.saturating_sub(load).max(least.saturating_add(load));
    let movable = shards.iter().copied().filter(|(shard, load)| *shard != SYSTEM_SHARD && *load > 0);
    let (shard, load) = movable.min_by_key(|(shard, load)| (left(*load), *shard))?;
    let gains = left(load).saturating_mul(100) < most.saturating_mul(MOST_LEFT);
    let to = u16::try_from(least_busy).ok().map(WorkerId)?;
    gains.then_some((shard, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardId = ShardId(2);
    const B: ShardId = ShardId(3);
    const C: ShardId = ShardId(4);

    #[test]
    fn the_busiest_hands_the_shard_that_evens_most_to_the_least_busy() {
        let shards = [(SYSTEM_SHARD, 3000), (A, 4000), (B, 2500), (C, 500)];
        assert_eq!(choose(&[10_000, 6_000, 2_000], WorkerId(0), &shards), Some((A, WorkerId(2))));
        assert_eq!(choose(&[6_000, 10_000, 2_000], WorkerId(0), &shards), None, "another is busier");
    }

    #[test]
    fn one_shard_that_is_all_of_the_load_stays() {
        assert_eq!(choose(&[10_000, 0], WorkerId(0), &[(A, 10_000)]), None, "it would only move the load");
        assert_eq!(choose(&[10_000, 0], WorkerId(0), &[(SYSTEM_SHARD, 6_000), (A, 4_000)]), Some((A, WorkerId(1))));
        assert_eq!(choose(&[10_000, 0], WorkerId(0), &[(SYSTEM_SHARD, 10_000)]), None);
    }

    #[test]
    fn a_small_gain_moves_nothing_and_what_was_moved_does_not_come_back() {
        // The greater of the two loads would fall from 10,000 to 9,500.
        assert_eq!(choose(&[10_000, 8_000], WorkerId(0), &[(A, 9_500), (B, 500)]), None);
        for own in 0..=10u64 {
            let shards = [(A, own * 1000), (B, 10_000 - own * 1000)];
            let Some((shard, to)) = choose(&[10_000, 3_000], WorkerId(0), &shards) else { continue };
            let moved = shards.iter().find(|(id, _)| *id == shard).map_or(0, |(_, load)| *load);
            let after = [10_000 - moved, 3_000 + moved];
            assert!(after.iter().all(|load| *load < 8_000), "{after:?}");
            assert_eq!(choose(&after, to, &[(shard, moved), (C, 3_000)]).filter(|(id, _)| *id == shard), None);
        }
    }

    #[test]
    fn an_idle_node_and_a_lone_worker_move_nothing() {
        assert_eq!(choose(&[900, 0], WorkerId(0), &[(A, 450), (B, 450)]), None);
        assert_eq!(choose(&[10_000], WorkerId(0), &[(A, 5_000), (B, 5_000)]), None);
        assert_eq!(choose(&[5_000, 5_000], WorkerId(1), &[(A, 2_500), (B, 2_500)]), None, "the first of two decides");
        assert_eq!(choose(&[], WorkerId(0), &[]), None);
    }
}
