//! Single faults in an otherwise calm world, with their bounds.
//!
//! Owns: what a random run cannot demand, since in it other faults may be in the way. Must never: wait longer than the
//! bound it states.

use crate::clients::Kind;
use crate::clock::WALL_US;
use crate::finish::GONE;
use crate::lifecycle::End;
use crate::node::SimNode;
use crate::plan::{Planted, WrongClocks};
use crate::retry::Failure;
use crate::setup::ADMIN;
use crate::trace::Trace;
use crate::violation::{Checked, Violation, check};
use crate::world::{Event, World};
use bytes::Bytes;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteRequest};
use synod_engine::metrics::EngineMetrics;

/// What a scenario found, and what it went through.
pub type Outcome = Result<String, Violation>;

/// A founded cluster under load, without faults.
fn calm_world(seed: u64) -> Checked<World> {
    calm_world_of(seed, |_| ())
}

fn calm_world_of(seed: u64, change: impl FnOnce(&mut World)) -> Checked<World> {
    let trace = if std::env::var("SYNOD_SIM_SEED").is_ok() { Trace::kept() } else { Trace::default() };
    let mut w = World::new(seed, Planted::default(), trace, Arc::new(EngineMetrics::detached()));
    w.versions.settle();
    w.splits.on = false;
    // Their bounds are those of the usual options and of small commands, on links that carry all at once.
    (w.plan.mixed, w.plan.bandwidth, w.plan.value_bytes) = (false, None, w.plan.value_bytes.min(300));
    change(&mut w);
    w.plan.calm();
    (w.plan.hot, w.plan.snapshot_kill) = (0, 0);
    (w.plan.weights, w.plan.think, w.plan.admin) = (Vec::new(), (1_000, 10_000), (0, 0));
    w.plan.moves = (0, 0);
    // The disks were made with the times of the plan as it was chosen.
    for node in w.nodes.values() {
        let mut disk = node.disk.lock();
        (disk.sync, disk.flush) = (w.plan.sync, w.plan.flush);
    }
    w.found()?;
    w.run_until(w.now + 1_000_000, |_| false)?;
    Ok(w)
}

/// A calm world in which every member of every table has what was chosen when it was a second old: one that joined late may need
/// a snapshot before it can replace a leader's vote, and how long that takes is for other scenarios to say.
fn settled_world(seed: u64) -> Checked<World> {
    let mut w = calm_world(seed)?;
    for node in w.ids.clone() {
        let upto = chosen_of(&w, node);
        let done = w.run_until(w.now + 12_000_000, |w| caught_up(w, node, &upto))?;
        check(done, "members of new tables catch up", || behind(&w, node, &upto))?;
    }
    Ok(w)
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
fn taken_over(w: &mut World, from: NodeId, shards: &[ShardId], bound: u64) -> Checked<u64> {
    let began = w.now;
    let before: Vec<u64> = shards.iter().map(|shard| executed(w, *shard)).collect();
    let tables: Vec<ShardId> = w.shards.iter().map(|s| s.shard).collect();
    let done = w.run_until(began + bound, |w| {
        shards.iter().zip(&before).all(|(shard, before)| {
            let elsewhere = w.ids.iter().any(|id| *id != from && leads(w, *id).contains(shard));
            elsewhere && (!tables.contains(shard) || executed(w, *shard) > *before + 3)
        })
    })?;
    check(done, "others take over in time", || format!("not within {bound} µs\n{}", last_lines(w)))?;
    Ok(w.now - began)
}

/// A disk that hangs loses its leaderships though its network lives.
///
/// # Errors
/// It does not.
pub fn hung_disk(seed: u64) -> Outcome {
    let mut w = calm_world(seed)?;
    let (victim, shards) = leader(&w);
    w.node(victim).disk.lock().hang = Some(20_000_000);
    let took = taken_over(&mut w, victim, &shards, 4_000_000)?;
    check(took >= 500_000, "the detector gives the node up first", || format!("taken over after {took} µs"))?;
    check(w.nodes[&victim].up.is_some(), "a hung process lives", String::new)?;
    Ok(format!("{took} µs"))
}

/// A worker that hangs in the middle of a round, whatever it does there, loses its leaderships though its node pulses on.
///
/// # Errors
/// It does not.
pub fn hung_worker(seed: u64) -> Outcome {
    let mut w = settled_world(seed)?;
    let (victim, shards) = leader(&w);
    let now = w.now;
    if let Some(up) = &mut w.node(victim).up {
        (up.round_began, up.busy_until, up.round_at) = (now, now + 20_000_000, None);
    }
    w.wake(victim);
    let took = taken_over(&mut w, victim, &shards, 4_000_000)?;
    Ok(format!("{took} µs"))
}

/// A killed leader is replaced at once, and a silent one soon.
///
/// # Errors
/// It is not.
pub fn leader_gone(seed: u64) -> Outcome {
    let mut took = Vec::new();
    for (end, bound) in [(End::Killed, 2_500_000), (End::Silent, 3_500_000)] {
        let mut w = settled_world(seed)?;
        let (victim, shards) = leader(&w);
        w.stop(victim, w.now, end);
        took.push(taken_over(&mut w, victim, &shards, bound)?);
    }
    Ok(format!("{took:?} µs"))
}

/// A leader that is cut off is replaced, and answers no read meanwhile.
///
/// # Errors
/// It is not, or a read was answered that must not be.
pub fn leader_cut_off(seed: u64) -> Outcome {
    let mut w = settled_world(seed)?;
    let (victim, shards) = leader(&w);
    for peer in w.ids.clone().into_iter().filter(|peer| *peer != victim) {
        w.net.cut_both((victim, peer));
    }
    // Reads it answered from what it holds would be found out by the checks of every answer.
    let took = taken_over(&mut w, victim, &shards, 3_500_000)?;
    w.run_until(w.now + 2_000_000, |_| false)?;
    w.net.heal();
    w.run_until(w.now + 2_000_000, |_| false)?;
    Ok(format!("{took} µs"))
}

/// A leader that stands still for longer than its lease, and is asked meanwhile, answers nothing by it when it goes on.
///
/// # Errors
/// A read was answered that must not be.
pub fn leader_paused(seed: u64, early_clock: bool) -> Outcome {
    let mut w = calm_world_of(seed, |w| {
        w.plan.planted.early_clock = early_clock;
        w.plan.options.paxos.lease = true;
    })?;
    w.plan.outage = (1_100_000, 2_200_000);
    for _ in 0..4 {
        let (victim, _) = leader(&w);
        w.pause(victim);
        w.run_until(w.now + 4_000_000, |_| false)?;
    }
    Ok(format!("{} frames", w.frames))
}

/// After a restart of all, every shard serves soon.
///
/// # Errors
/// One does not.
pub fn restart_of_all(seed: u64) -> Outcome {
    let mut w = calm_world(seed)?;
    for id in w.ids.clone() {
        w.stop(id, w.now, End::Silent);
        w.at(w.now + 100_000, Event::Restart { node: id });
    }
    let began = w.now;
    let before: Vec<(ShardId, u64)> = w.shards.iter().map(|s| (s.shard, executed(&w, s.shard))).collect();
    let served = |w: &mut World| before.iter().all(|(shard, n)| executed(w, *shard) > *n);
    let done = w.run_until(began + 5_000_000, served)?;
    check(done, "a restart of all serves soon", || "not within 5 s".into())?;
    Ok(format!("{} µs", w.now - began))
}

/// What is chosen by now of every table that a node is a member of.
fn chosen_of(w: &World, node: NodeId) -> Vec<(ShardId, Slot)> {
    let held = w.shards.iter().filter(|s| w.is_member(node, s.shard));
    held.map(|s| (s.shard, w.models[&s.shard].last())).collect()
}

/// Whether a node has observed so much of each of these tables.
fn caught_up(w: &World, node: NodeId, upto: &[(ShardId, Slot)]) -> bool {
    let observed = w.nodes[&node].up.as_ref().map(|up| &up.observed);
    observed.is_some_and(|observed| upto.iter().all(|(shard, slot)| observed.get(shard) >= Some(slot)))
}

/// A world with a node that was left behind, and to where its shards must come.
type LeftBehind = (World, NodeId, Vec<(ShardId, Slot)>);

/// A world whose logs keep little, with a node that was away until it needs snapshots.
fn left_behind(seed: u64) -> Checked<LeftBehind> {
    left_behind_in(seed, |w| w.plan.options.snapshot_unused_us = 10_000_000, |_| ())
}

fn left_behind_in(seed: u64, before: impl FnOnce(&mut World), founded: impl FnOnce(&mut World)) -> Checked<LeftBehind> {
    let mut w = calm_world_of(seed, |w| {
        (w.plan.options.log_keep_bytes, w.plan.options.freeze_log_bytes, w.plan.freeze_bytes) = (1_000, 8_000, 8_000);
        (w.plan.options.trim_slots, w.plan.options.trim_slots_flushed) = (4, 2);
        before(w);
    })?;
    founded(&mut w);
    let (leads_most, _) = leader(&w);
    let victim = w.ids.iter().copied().find(|id| *id != leads_most).expect("there are others");
    w.stop(victim, w.now, End::Silent);
    w.run_until(w.now + 6_000_000, |_| false)?;
    w.at(w.now, Event::Restart { node: victim });
    let upto = chosen_of(&w, victim);
    Ok((w, victim, upto))
}

/// A bare majority makes progress by itself although the others never come back and one of its members lags far: what that one
/// lacks fits no queue, and after the power loss of all nobody knows what was chosen. With `damaged` the member that has
/// everything has also lost its state and may not lead.
///
/// # Errors
/// A shard takes no write in time.
pub fn bare_majority(seed: u64, damaged: bool) -> Outcome {
    let mut w = calm_world_of(seed, |w| {
        (w.plan.bandwidth, w.plan.queue_bytes) = (Some(1_000_000), 8_000);
        (w.plan.value_bytes, w.plan.options.log_keep_bytes) = (300, 512 << 20);
        (w.plan.options.trim_slots, w.plan.options.trim_slots_flushed) = (4, 2);
    })?;
    let (complete, _) = leader(&w);
    let behind = w.ids.iter().copied().find(|id| *id != complete).expect("there are others");
    w.stop(behind, w.now, End::Silent);
    w.run_until(w.now + 8_000_000, |_| false)?;
    for id in w.ids.clone() {
        w.stop(id, w.now, End::Silent);
    }
    for id in w.ids.clone() {
        if id != complete && id != behind && w.spare(id) {
            w.node(id).out = Some(GONE);
        }
    }
    if damaged {
        let World { nodes, dice, .. } = &mut w;
        let node = nodes.get_mut(&complete).expect("nodes are never removed");
        node.damaged = node.disk.lock().flip(true, dice);
    }
    let before: Vec<(ShardId, u64)> = w.shards.iter().map(|s| (s.shard, executed(&w, s.shard))).collect();
    for id in w.ids.clone() {
        w.at(w.now + 100_000, Event::Restart { node: id });
    }
    let began = w.now;
    let served = |w: &mut World| before.iter().all(|(shard, n)| executed(w, *shard) > *n + 3);
    let done = w.run_until(began + 20_000_000, served)?;
    check(done, "a bare majority serves by itself", || {
        let now: Vec<_> = before.iter().map(|(shard, n)| (*shard, *n, executed(&w, *shard))).collect();
        format!("node {behind} was behind, node {complete} has all: {now:?}\n{}\n{}", last_lines(&w), w.coverage)
    })?;
    Ok(format!("{} µs", w.now - began))
}

fn last_lines(w: &World) -> String {
    w.trace.lines().join("\n")
}

fn behind(w: &World, victim: NodeId, upto: &[(ShardId, Slot)]) -> String {
    let now: Vec<_> = w.nodes[&victim].up.iter().flat_map(|up| up.observed.clone()).collect();
    format!("node {victim}: due {upto:?}, is {now:?}\n{}\n{}", last_lines(w), w.coverage)
}

/// A node left behind catches up by snapshots, under load.
///
/// # Errors
/// It does not, or needed none.
pub fn left_behind_catches_up(seed: u64) -> Outcome {
    let (mut w, victim, upto) = left_behind(seed)?;
    let began = w.now;
    let done = w.run_until(began + 12_000_000, |w| caught_up(w, victim, &upto))?;
    check(done, "a node left behind catches up", || behind(&w, victim, &upto))?;
    let installed = w.coverage.of("snapshot", "installed");
    check(installed > 0, "a node left behind needs snapshots", || w.coverage.to_string())?;
    Ok(format!("{} µs, {installed} installed", w.now - began))
}

/// A node left behind that comes on slowly by the log behind its snapshots needs no second one of any shard: the log is kept
/// for it although nobody needs the snapshot any more.
///
/// # Errors
/// It needs one, or does not catch up.
pub fn slow_catch_up(seed: u64) -> Outcome {
    let (mut w, victim, upto) = left_behind_in(
        seed,
        |w| {
            // An entry or two a round trip of some 45 ms, of a load of about 3 kB/s a shard: what came while a snapshot was on its way
            // takes longer than a snapshot stays without need. That is more than the 200 ms after which a leader asks where a
            // member stands and its longest rounds, waiting for the disk, together: it hears of the need no oftener.
            (w.plan.options.paxos.message_bytes, w.plan.options.paxos.inflight_messages) = (100, 1);
            w.plan.options.snapshot_unused_us = 1_000_000;
            // A leader that waits for an answer asks ever less often, after 16 times this at the latest: the need must be told
            // before the snapshot counts as unused. In production that is 3.2 s of a minute.
            w.plan.options.paxos.resend_us = 50_000;
            // A member counts as caught up within half of this: a stall of 300 ms must not undo that.
            w.plan.options.log_keep_bytes = 2_000;
        },
        |w| (w.plan.delay, w.plan.think, w.plan.part_pause) = ((10_000, 30_000), (40_000, 100_000), (5_000, 20_000)),
    )?;
    // Some needed one as they joined, before they were away.
    let earlier = w.installs.clone();
    let began = w.now;
    let done = w.run_until(began + 30_000_000, |w| caught_up(w, victim, &upto))?;
    check(done, "a node left behind catches up", || behind(&w, victim, &upto))?;
    w.run_until(w.now + 3_000_000, |_| false)?;
    let own = w.installs.iter().filter(|((node, _), _)| *node == victim);
    let since = own.map(|(at, n)| n - earlier.get(at).copied().unwrap_or(0));
    let (installed, most) = since.fold((0, 0), |(all, most), n| (all + n, most.max(n)));
    check(most <= 1, "one snapshot of a shard is enough", || {
        format!("{:?} installed\n{}\n{}", w.installs, last_lines(&w), w.coverage)
    })?;
    Ok(format!("{} µs, {installed} installed", w.now - began))
}

/// Whether a snapshot made here is there.
fn has_one(node: &SimNode) -> bool {
    node.up.as_ref().is_some_and(|up| up.snapshot_files.has_one())
}

/// A snapshot that is damaged at its maker is made anew, and the node left behind catches up; where its maker is not told
/// (`tells` is false) it may not.
///
/// # Errors
/// It does not.
pub fn damaged_at_its_maker(seed: u64, tells: bool) -> Outcome {
    let (mut w, victim, upto) = left_behind(seed)?;
    w.plan.tells_spoilt = tells;
    let began = w.now;
    let made = w.run_until(began + 12_000_000, |w| w.nodes.values().any(|n| n.id != victim && has_one(n)))?;
    check(made, "a snapshot is made", || w.coverage.to_string())?;
    let World { nodes, dice, .. } = &mut w;
    let makers = nodes.values().filter(|node| node.id != victim && has_one(node));
    let flipped = makers.filter(|node| node.disk.lock().files.flip(dice)).count();
    check(flipped > 0, "there is a file to damage", || w.coverage.to_string())?;
    let done = w.run_until(w.now + 20_000_000, |w| caught_up(w, victim, &upto))?;
    check(done, "a node left behind catches up", || behind(&w, victim, &upto))?;
    Ok(format!("{} µs", w.now - began))
}

/// All clocks go an hour ahead and back: every shard goes on taking writes at once.
///
/// # Errors
/// One does not.
pub fn all_clocks_wrong(seed: u64) -> Outcome {
    let mut w = calm_world(seed)?;
    set_all(&mut w, HOUR);
    w.run_until(w.now + 1_000_000, |_| false)?;
    set_all(&mut w, 0);
    w.run_until(w.now + 200_000, |_| false)?;
    let (began, anew) = (w.now, w.coverage.of("operation", "started anew"));
    let before: Vec<(ShardId, u64)> = w.shards.iter().map(|s| (s.shard, executed(&w, s.shard))).collect();
    let served = |w: &mut World| before.iter().all(|(shard, n)| executed(w, *shard) > *n + 3);
    let done = w.run_until(began + 2_000_000, served)?;
    check(done, "a shard whose time is ahead takes writes at once", || format!("{before:?}\n{}", last_lines(&w)))?;
    let anew = w.coverage.of("operation", "started anew") - anew;
    check(anew > 0, "deadlines had passed by the shards' time", || w.coverage.to_string())?;
    Ok(format!("{} µs, {anew} started anew", w.now - began))
}

/// An hour, µs.
const HOUR: i64 = 3_600_000_000;

fn set_all(w: &mut World, wrong: i64) {
    w.plan.wrong_clocks = WrongClocks::Alls;
    for id in w.ids.clone() {
        let node = w.node(id);
        node.set_wall(node.wall_offset, wrong);
    }
}

/// A write was executed, its answer was lost, and its session has ended when the client asks again. The write must not start
/// anew: the refusal as too late does not prove that it was not executed. Clients that do so all the same
/// (`renewing_clients`) execute it twice.
///
/// # Errors
/// It was executed twice, or its session is not over.
pub fn executed_and_forgotten(seed: u64, renewing_clients: bool) -> Outcome {
    let mut w = calm_world(seed)?;
    (w.plan.hot, w.plan.planted.renewing_clients) = (1_000, renewing_clients);
    let shard = w.shards.first().cloned().expect("there are tables");
    let (deadline, op) = (w.now + 120_000_000, Op::Write { table: shard.table, ops: vec![put(&shard.keys[0])] });
    let id = w.clients[ADMIN].name(WALL_US + w.now + 10_000_000);
    let request = Kind::Write(WriteRequest { id, op });
    let op = w.begin(ADMIN, request, shard.shard, Some(shard.version), shard.voters, deadline);
    let name = (id.client, id.seq);
    let done = w.run_until(w.now + 5_000_000, |w| w.models[&shard.shard].executed.contains_key(&name))?;
    check(done, "a calm world takes a write", || last_lines(&w))?;
    // The answer is lost, and nobody asks again until the session is over.
    let attempt = w.ops.get_mut(&op).and_then(|operation| operation.attempt.take());
    set_all(&mut w, HOUR);
    let over = |w: &mut World| w.models[&shard.shard].has_forgotten(name);
    let done = w.run_until(w.now + 60_000_000, over)?;
    check(done, "sessions end", || format!("{} slots", w.models[&shard.shard].last()))?;
    if let (Some(operation), Some(attempt)) = (w.ops.get_mut(&op), attempt) {
        operation.attempt = Some(attempt);
        w.attempt_failed(attempt, Failure::Silent)?;
    }
    let done = w.run_until(w.now + 10_000_000, |w| w.ops[&op].done)?;
    check(done && !w.ops[&op].retry.succeeded, "what became of it is not known", || last_lines(&w))?;
    Ok(format!("{} slots", w.models[&shard.shard].last()))
}

fn put(key: &Bytes) -> KeyOp {
    let record = NewRecord { headers: Vec::new(), value: Bytes::from_static(b"once") };
    KeyOp { key: key.clone(), expect: Expect::Any, action: Action::Append(vec![record]) }
}
