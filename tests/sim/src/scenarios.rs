//! Single faults in an otherwise calm world, with their bounds.
//!
//! Owns: what a random run cannot demand, since in it other faults may be in the way. Must never: wait longer than the
//! bound it states.

use crate::lifecycle::End;
use crate::plan::Planted;
use crate::trace::Trace;
use crate::world::{Event, World};
use std::sync::Arc;
use synod_engine::ids::{NodeId, ShardId};
use synod_engine::metrics::EngineMetrics;

/// A founded cluster under load, without faults.
fn calm_world(seed: u64) -> World {
    calm_world_of(seed, |_| ())
}

fn calm_world_of(seed: u64, change: impl FnOnce(&mut World)) -> World {
    let mut w = World::new(seed, Planted::default(), Trace::default(), Arc::new(EngineMetrics::detached()));
    change(&mut w);
    w.plan.calm();
    (w.plan.hot, w.plan.snapshot_kill) = (0, 0);
    (w.plan.weights, w.plan.think, w.plan.admin) = (Vec::new(), (1_000, 10_000), (0, 0));
    w.found().unwrap();
    w.run_until(w.now + 1_000_000, |_| false).unwrap();
    w
}

fn leads(w: &World, node: NodeId) -> Vec<ShardId> {
    let up = w.nodes[&node].up.as_ref();
    up.map(|up| up.taps.lock().leads.iter().copied().collect()).unwrap_or_default()
}

fn leader(w: &World) -> (NodeId, Vec<ShardId>) {
    let mut all = w.ids.iter().map(|id| (*id, leads(w, *id)));
    let most = all.by_ref().max_by_key(|(_, shards)| shards.len());
    most.expect("there are nodes")
}

fn executed(w: &World, shard: ShardId) -> u64 {
    w.models[&shard].counts.executed
}

/// Runs until others lead all of `shards` and have executed a write in each of the tables'; the time that took, µs.
fn taken_over(w: &mut World, from: NodeId, shards: &[ShardId], bound: u64) -> u64 {
    let began = w.now;
    let before: Vec<u64> = shards.iter().map(|shard| executed(w, *shard)).collect();
    let tables: Vec<ShardId> = w.shards.iter().map(|s| s.shard).collect();
    let done = w.run_until(began + bound, |w| {
        shards.iter().zip(&before).all(|(shard, before)| {
            let elsewhere = w.ids.iter().any(|id| *id != from && leads(w, *id).contains(shard));
            elsewhere && (!tables.contains(shard) || executed(w, *shard) > *before + 3)
        })
    });
    assert!(done.unwrap(), "seed {}: not within {bound} µs", w.seed);
    w.now - began
}

#[test]
fn a_disk_that_hangs_loses_its_leaderships_though_its_network_lives() {
    for seed in 0..20 {
        let mut w = calm_world(seed);
        let (victim, shards) = leader(&w);
        w.node(victim).disk.lock().hang = Some(20_000_000);
        let took = taken_over(&mut w, victim, &shards, 4_000_000);
        // Not by chance: the detector had to give the node up first.
        assert!(took >= 500_000, "seed {seed}: after {took} µs");
        assert!(w.nodes[&victim].up.is_some(), "its process lives");
    }
}

#[test]
fn a_killed_leader_is_replaced_at_once_and_a_silent_one_soon() {
    for (end, bound) in [(End::Killed, 2_500_000), (End::Silent, 3_500_000)] {
        for seed in 0..20 {
            let mut w = calm_world(seed);
            let (victim, shards) = leader(&w);
            w.stop(victim, w.now, end);
            taken_over(&mut w, victim, &shards, bound);
        }
    }
}

#[test]
fn a_leader_cut_off_is_replaced_and_answers_no_read_meanwhile() {
    for seed in 0..20 {
        let mut w = calm_world(seed);
        let (victim, shards) = leader(&w);
        for peer in w.ids.clone().into_iter().filter(|peer| *peer != victim) {
            w.net.cut_both((victim, peer));
        }
        // Reads it answered from what it holds would be found out by the checks of every answer.
        taken_over(&mut w, victim, &shards, 3_500_000);
        w.run_until(w.now + 2_000_000, |_| false).unwrap();
        w.net.heal();
        w.run_until(w.now + 2_000_000, |_| false).unwrap();
    }
}

#[test]
fn a_restart_of_all_serves_soon() {
    for seed in 0..20 {
        let mut w = calm_world(seed);
        for id in w.ids.clone() {
            w.stop(id, w.now, End::Silent);
            w.at(w.now + 100_000, Event::Restart { node: id });
        }
        let before: Vec<(ShardId, u64)> = w.shards.iter().map(|s| (s.shard, executed(&w, s.shard))).collect();
        let served = |w: &mut World| before.iter().all(|(shard, n)| executed(w, *shard) > *n);
        assert!(w.run_until(w.now + 5_000_000, served).unwrap(), "seed {seed}");
    }
}
