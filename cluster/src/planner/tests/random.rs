//! Random clusters: what holds of every plan.
//!
//! Owns: the clusters, and the checks of each operation by a second view of what it does. Must never: pass over a seed.

use super::*;
use crate::planner::operation::Change;
use crate::planner::picture::{Crowding, Resized};
use crate::planner::{Measure, apply, plan, stale};

/// Clusters of one run.
const CLUSTERS: u64 = 10_000;
/// Of so many clusters one is planned until nothing is left to do.
const SETTLED: u64 = 4;
/// Rounds within which that must be.
const ROUNDS: u32 = 100;

/// Xorshift.
struct Dice(u64);

impl Dice {
    fn of(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn random_node(dice: &mut Dice, zones: u64) -> NodeView {
    let mut node = node();
    if zones > 0 {
        node.zone = format!("z{}", dice.below(zones));
        node.rack = format!("r{}", dice.below(2));
    }
    node.alive = !dice.one_in(8);
    node.since = Duration::from_secs(35_000 + dice.below(1_000));
    if dice.one_in(10) {
        node.mark = if dice.one_in(2) { Mark::Draining } else { Mark::Decommissioning };
    }
    if dice.one_in(6) {
        node.free_bytes = node.disk_bytes / 10 + dice.below(1 << 30);
    }
    node
}

fn random_shard(dice: &mut Dice, nodes: u64, part: (u64, u64)) -> ShardView {
    let wanted = [1u64, 3, 3, 3, 5][usize::try_from(dice.below(5)).unwrap()].min(nodes);
    let first = dice.below(nodes);
    let voters: Vec<u64> = (0..wanted).map(|at| (first + at) % nodes + 1).collect();
    let mut view = shard(TableId(1 + u32::try_from(dice.below(2)).unwrap()), part, &voters);
    let (bytes, ops) = if dice.one_in(3) { (120 * MIB, 2_000) } else { (1024 * MIB, 30_000) };
    view.bytes = dice.below(bytes);
    view.rate = Rate { ops: dice.below(ops), bytes: dice.below(1 << 18) };
    view.rate_max = view.rate;
    let from = (u64::MAX / part.1) * part.0;
    let samples = dice.below(8);
    view.samples = (1..=samples).map(|at| sample(from + u64::MAX / part.1 / 10 * at, dice.below(1_000))).collect();
    if dice.one_in(12) {
        view.leader = None;
    }
    if dice.one_in(4) {
        view.resized = Some(Resized { at: Duration::from_secs(34_000), by_operator: dice.one_in(2) });
    }
    if dice.one_in(30) {
        let learner = Member { node: NodeId(nodes + 1), role: MemberRole::Learner };
        view.membership.members.push(learner);
    }
    view
}

fn random_cluster(seed: u64) -> Picture {
    let mut dice = Dice::of(seed);
    let (nodes, zones, shards) = (3 + dice.below(5), dice.below(5), 1 + dice.below(7));
    let mut picture = cluster(nodes, &[]);
    picture.nodes = (1..=nodes).map(|id| (NodeId(id), random_node(&mut dice, zones))).collect();
    picture.tables.insert(TableId(2), TableView { replicas: 1 + u32::try_from(dice.below(3)).unwrap(), shards_min: 2 });
    picture.shards = (0..shards).map(|at| (ShardId(at + 2), random_shard(&mut dice, nodes, (at, shards)))).collect();
    picture
}

fn voters(view: &ShardView) -> Vec<NodeId> {
    view.membership.voters().collect()
}

/// Whether a node could take the shard whatever else is planned.
fn has_ample_room(picture: &Picture, id: NodeId, view: &ShardView) -> bool {
    let node = &picture.nodes[&id];
    let all: u64 = picture.shards.values().map(|view| view.bytes).sum();
    let fits = node.free_bytes >= all + node.disk_bytes / 10;
    node.alive && node.mark == Mark::Stays && fits && !voters(view).contains(&id)
}

/// The least crowding that a shard could have with another node instead of one.
fn least(picture: &Picture, view: &ShardView, leaves: Option<NodeId>) -> Option<Crowding> {
    let stay: Vec<NodeId> = voters(view).into_iter().filter(|node| Some(*node) != leaves).collect();
    let takers = picture.nodes.keys().copied().filter(|id| has_ample_room(picture, *id, view));
    takers.map(|id| picture.crowding(&[&stay[..], &[id]].concat())).min()
}

/// Carries one operation out, and checks what it does. `start` is what its plan was made from.
fn step(start: &Picture, picture: &mut Picture, operation: &Operation, seed: u64) {
    let before = picture.shards[&operation.shard].clone();
    let (live, crowding) = (picture.live_voters(&before), picture.crowding(&voters(&before)));
    let absorbed = match &operation.change {
        Change::Merge { with } => Some(picture.shards[&with.shard].clone()),
        _ => None,
    };
    assert!(live >= before.membership.quorum(), "seed {seed}: no majority for {operation:?}");
    let learners = before.membership.members.len() - voters(&before).len();
    assert!(learners == 0 || operation.rule == Rule::Repair, "seed {seed}: {operation:?}");
    assert!(apply(picture, operation), "seed {seed}: {operation:?} may not be done after those before it");
    let after = &picture.shards[&operation.shard];
    let now = picture.live_voters(after);
    assert!(now >= live && now >= after.membership.quorum(), "seed {seed}: {operation:?} takes live voters away");
    assert!(after.membership.is_sound(), "seed {seed}: {operation:?}");
    for new in voters(after).into_iter().filter(|node| before.membership.role_of(*node).is_none()) {
        let node = &start.nodes[&new];
        assert!(node.alive && node.mark == Mark::Stays, "seed {seed}: {operation:?}");
        assert!(node.free_bytes >= before.bytes + node.disk_bytes / 10, "seed {seed}: {operation:?}");
    }
    let crowded = picture.crowding(&voters(after));
    match (&operation.change, operation.rule) {
        (Change::Add { .. }, _) => {
            assert!(least(start, &before, None).is_none_or(|least| crowded <= least), "seed {seed}: {operation:?}");
        }
        (Change::Move { from, .. }, Rule::Repair | Rule::Drain) => {
            let least = least(start, &before, Some(*from));
            assert!(least.is_none_or(|least| crowded <= least), "seed {seed}: {operation:?}");
        }
        _ => assert!(crowded <= crowding, "seed {seed}: {operation:?} crowds a zone"),
    }
    if let Some(absorbed) = absorbed {
        let (there, live) = (picture.crowding(&voters(&absorbed)), start.live_voters(&absorbed));
        assert!(crowded <= there && now >= live, "seed {seed}: {operation:?}");
    }
}

/// Plans once, checks the plan, and carries it out; how many operations it had.
fn round(picture: &mut Picture, seed: u64) -> usize {
    let planned = plan(picture);
    assert_eq!(planned, plan(picture), "seed {seed}: two plans of one picture");
    assert_eq!(stale(&planned, picture), [], "seed {seed}: a plan is stale at once");
    let start = picture.clone();
    let mut seen = std::collections::BTreeSet::new();
    for operation in &planned.operations {
        let neighbour = match &operation.change {
            Change::Merge { with } => Some(with.shard),
            _ => None,
        };
        for shard in std::iter::once(operation.shard).chain(neighbour) {
            assert!(seen.insert(shard), "seed {seed}: shard {shard} is in two operations");
        }
        step(&start, picture, operation, seed);
    }
    planned.operations.len()
}

#[test]
fn every_plan_keeps_every_shard_available_and_ends() {
    let (mut rules, mut settled) = (std::collections::BTreeMap::new(), 0);
    for seed in 0..CLUSTERS {
        let mut picture = random_cluster(seed);
        for operation in &plan(&picture).operations {
            *rules.entry(operation.rule).or_insert(0) += 1;
        }
        let mut done = round(&mut picture, seed);
        if !seed.is_multiple_of(SETTLED) {
            continue;
        }
        let mut rounds = 0;
        while done > 0 {
            // Else shards that rest would hide that one is split and merged in turns.
            picture.now += Duration::from_secs(660);
            done = round(&mut picture, seed);
            rounds += 1;
            assert!(rounds < ROUNDS, "seed {seed}: no end, {:?}", plan(&picture).operations);
        }
        settled += 1;
    }
    assert!(settled >= CLUSTERS / SETTLED);
    // Each rule was asked for: else the run shows nothing of it.
    assert_eq!(rules.len(), 8, "{rules:?}");
}

#[test]
fn nothing_is_planned_where_nodes_differ_by_less_than_the_hysteresis() {
    for seed in 0..500 {
        let mut dice = Dice::of(seed);
        let nodes = 3 + dice.below(6);
        let each = 2 + dice.below(4);
        let lists: Vec<Vec<u64>> =
            (0..nodes * each).map(|at| (0..3).map(|next| (at + next) % nodes + 1).collect()).collect();
        let lists: Vec<&[u64]> = lists.iter().map(Vec::as_slice).collect();
        let mut picture = cluster(nodes, &lists);
        for view in picture.shards.values_mut() {
            view.bytes = 200 * MIB + dice.below(8 * MIB);
            view.rate.ops = 1_000 + dice.below(40);
        }
        let measure = Measure::of(&picture);
        assert!(measure.worst() < 105, "seed {seed}: {measure:?}");
        assert_eq!(plan(&picture).operations, [], "seed {seed}");
    }
}
