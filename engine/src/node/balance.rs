//! Which shard a busy worker hands to another.
//!
//! Owns: what each worker's shards were given to do, and the decision that follows. Must never: read a clock, or move a shard for a
//! small gain: it would come back.

use super::WorkerId;
use std::sync::{Mutex, MutexGuard, PoisonError};
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};
use synod_paxos::types::Micros;

/// A worker whose shards had fewer inputs than this in an interval hands none over.
const LEAST_INPUTS: u64 = 1000;
/// What the busier of the two workers has afterwards is less than so many hundredths of what the busiest has now.
const MOST_LEFT: u64 = 80;

/// What each worker's shards were given to do in its last interval.
#[derive(Debug)]
pub(crate) struct Loads(Mutex<Box<[Load]>>);

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    inputs: u64,
    /// When the worker told it; `None` before the first time.
    at: Option<Micros>,
}

impl Loads {
    pub(super) fn new(workers: u16) -> Self {
        Self(Mutex::new(vec![Load::default(); workers.into()].into()))
    }

    fn lock(&self) -> MutexGuard<'_, Box<[Load]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's shards had so many inputs in the interval that ends now.
    pub(crate) fn set(&self, worker: WorkerId, inputs: u64, now: Micros) {
        self.lock()[worker.index()] = Load { inputs, at: Some(now) };
    }

    /// A shard that had so many inputs went from one worker to another.
    pub(crate) fn moved(&self, from: WorkerId, to: WorkerId, inputs: u64) {
        let mut loads = self.lock();
        let load = &mut loads[from.index()].inputs;
        *load = load.saturating_sub(inputs);
        let load = &mut loads[to.index()].inputs;
        *load = load.saturating_add(inputs);
    }

    /// The load of each worker that told it at this time or later.
    pub(crate) fn since(&self, oldest: Micros) -> Vec<Option<u64>> {
        let is_new = |load: &Load| load.at.is_some_and(|at| at >= oldest);
        self.lock().iter().map(|load| is_new(load).then_some(load.inputs)).collect()
    }
}

/// The shard that worker `me` hands over, and to whom: to the least busy worker, where `me` is the busiest and the gain is clear.
/// `loads` are the inputs of each worker's shards in its last interval, `None` where that is not known, `shards` those of the shards
/// that `me` has. The system shard stays.
pub(crate) fn choose(loads: &[Option<u64>], me: WorkerId, shards: &[(ShardId, u64)]) -> Option<(ShardId, WorkerId)> {
    let most = (*loads.get(me.index())?)?;
    let known = || loads.iter().enumerate().filter_map(|(index, load)| Some((index, (*load)?)));
    // The first of several that are equally busy, so that one alone decides.
    let (busiest, _) = known().find(|(_, load)| known().all(|(_, other)| other <= *load))?;
    let (least_busy, least) = known().min_by_key(|(index, load)| (*load, *index))?;
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

    fn choose(loads: &[u64], me: WorkerId, shards: &[(ShardId, u64)]) -> Option<(ShardId, WorkerId)> {
        let loads: Vec<Option<u64>> = loads.iter().copied().map(Some).collect();
        super::choose(&loads, me, shards)
    }

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
    fn a_worker_that_told_no_load_of_late_is_no_target_and_one_that_got_a_shard_has_its_load() {
        let (at, shards) = (Micros(10_000_000), [(A, 4_000), (B, 3_000), (C, 3_000)]);
        let loads = Loads::new(3);
        loads.set(WorkerId(0), 10_000, at);
        loads.set(WorkerId(2), 2_000, at);
        assert_eq!(loads.since(at), [Some(10_000), None, Some(2_000)]);
        assert_eq!(super::choose(&loads.since(at), WorkerId(0), &shards), Some((A, WorkerId(2))));
        loads.moved(WorkerId(0), WorkerId(2), 4_000);
        assert_eq!(loads.since(at), [Some(6_000), None, Some(6_000)]);
        assert_eq!(super::choose(&loads.since(at), WorkerId(0), &shards[1..]), None);
        loads.set(WorkerId(1), 0, Micros(at.0 + 1));
        assert_eq!(super::choose(&loads.since(at), WorkerId(0), &shards[1..]), Some((B, WorkerId(1))));
        assert_eq!(loads.since(Micros(at.0 + 1)), [None, Some(0), None]);
        assert_eq!(super::choose(&loads.since(Micros(at.0 + 1)), WorkerId(0), &shards[1..]), None);
    }

    #[test]
    fn an_idle_node_and_a_lone_worker_move_nothing() {
        assert_eq!(choose(&[900, 0], WorkerId(0), &[(A, 450), (B, 450)]), None);
        assert_eq!(choose(&[10_000], WorkerId(0), &[(A, 5_000), (B, 5_000)]), None);
        assert_eq!(choose(&[5_000, 5_000], WorkerId(1), &[(A, 2_500), (B, 2_500)]), None, "the first of two decides");
        assert_eq!(choose(&[], WorkerId(0), &[]), None);
    }
}
