//! Single faults in an otherwise calm world, with their bounds.
//!
//! Owns: what a random run cannot demand, since in it other faults may be in the way. Must never: wait longer than the
//! bound it states.

use crate::lifecycle::End;
use crate::node::SimNode;
use crate::plan::Planted;
use crate::trace::Trace;
use crate::world::{Event, World};
use std::sync::Arc;
use synod_engine::ids::{NodeId, ShardId, Slot};
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

/// Whether a node has observed what was chosen of every table by now.
fn caught_up(w: &World, node: NodeId, upto: &[(ShardId, Slot)]) -> bool {
    let observed = w.nodes[&node].up.as_ref().map(|up| &up.observed);
    observed.is_some_and(|observed| upto.iter().all(|(shard, slot)| observed.get(shard) >= Some(slot)))
}

/// A world whose logs keep little, with a node that was away until it needs snapshots.
fn left_behind(seed: u64) -> (World, NodeId, Vec<(ShardId, Slot)>) {
    let mut w = calm_world_of(seed, |w| {
        (w.plan.options.log_keep_bytes, w.plan.options.freeze_log_bytes, w.plan.freeze_bytes) = (1_000, 8_000, 8_000);
        (w.plan.options.trim_slots, w.plan.options.trim_slots_flushed) = (4, 2);
        w.plan.options.snapshot_unused_micros = 10_000_000;
    });
    let (leads_most, _) = leader(&w);
    let victim = w.ids.iter().copied().find(|id| *id != leads_most).expect("there are others");
    w.stop(victim, w.now, End::Silent);
    w.run_until(w.now + 6_000_000, |_| false).unwrap();
    w.at(w.now, Event::Restart { node: victim });
    let upto = w.shards.iter().map(|s| (s.shard, w.models[&s.shard].last())).collect();
    (w, victim, upto)
}

#[test]
fn a_node_left_behind_catches_up_by_snapshots() {
    for seed in 0..20 {
        let (mut w, victim, upto) = left_behind(seed);
        let done = w.run_until(w.now + 12_000_000, |w| caught_up(w, victim, &upto));
        assert!(done.unwrap(), "seed {seed}: {}", w.coverage);
        assert!(w.coverage.of("snapshot", "installed") > 0, "seed {seed}: {}", w.coverage);
    }
}

/// Whether a snapshot made here is there.
fn has_one(node: &SimNode) -> bool {
    node.up.as_ref().is_some_and(|up| up.desk.has_one())
}

/// Whether a node left behind catches up although the file made for it is damaged.
fn survives_damage(seeds: std::ops::Range<u64>, tells: bool) -> Vec<bool> {
    let survives = |seed| {
        let (mut w, victim, upto) = left_behind(seed);
        w.plan.tells_spoilt = tells;
        let made = w.run_until(w.now + 12_000_000, |w| w.nodes.values().any(|n| n.id != victim && has_one(n)));
        assert!(made.unwrap(), "seed {seed}: {}", w.coverage);
        let World { nodes, dice, .. } = &mut w;
        let makers = nodes.values().filter(|node| node.id != victim && has_one(node));
        let flipped = makers.filter(|node| node.disk.lock().files.flip(dice)).count();
        assert!(flipped > 0, "seed {seed}");
        w.run_until(w.now + 20_000_000, |w| caught_up(w, victim, &upto)).unwrap()
    };
    seeds.map(survives).collect()
}

#[test]
fn a_snapshot_that_is_damaged_at_its_maker_is_made_anew() {
    assert_eq!(survives_damage(0..20, true), vec![true; 20]);
    // And only since the maker hears of it.
    assert!(survives_damage(0..5, false).contains(&false));
}
