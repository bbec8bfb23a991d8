//! Each rule and each refusal, one by one.

use super::*;
use crate::jobs::job::JobGoal;
use crate::jobs::move_replica::MoveReplica;
use crate::planner::operation::{Change, Lacks, Quantity, Refusal};
use crate::planner::picture::Resized;
use crate::planner::{Balance, Measure, apply, plan, stale};

fn at(picture: &mut Picture, id: u64) -> &mut NodeView {
    picture.nodes.get_mut(&NodeId(id)).unwrap()
}

fn of(picture: &mut Picture, id: u64) -> &mut ShardView {
    picture.shards.get_mut(&ShardId(id)).unwrap()
}

fn kill(picture: &mut Picture, id: u64, seconds: u64) {
    let since = picture.now - Duration::from_secs(seconds);
    let node = at(picture, id);
    (node.alive, node.since) = (false, since);
}

fn moving(shard: u64, from: u64, to: u64) -> JobGoal {
    JobGoal::Move { shard: ShardId(shard), replica: MoveReplica { from: NodeId(from), to: Some(NodeId(to)) } }
}

fn shift(from: u64, to: u64) -> Change {
    Change::Move { from: NodeId(from), to: NodeId(to) }
}

/// One shard on nodes 1 to 3 of four, the third of which is lost.
fn with_a_lost_node() -> Picture {
    let mut picture = cluster(4, &[&[1, 2, 3]]);
    kill(&mut picture, 3, 600);
    picture
}

fn zones(picture: &mut Picture, zones: &[&str]) {
    for (id, zone) in (1u64..).zip(zones) {
        at(picture, id).zone = (*zone).into();
    }
}

#[test]
fn a_lost_voter_is_replaced_once_it_is_overdue() {
    let mut picture = with_a_lost_node();
    let plan_now = plan(&picture);
    let [operation] = &plan_now.operations[..] else { panic!("{plan_now:?}") };
    assert_eq!((operation.rule, &operation.change), (Rule::Repair, &shift(3, 4)));
    assert_eq!((operation.version, operation.epoch, plan_now.at_once), (1, Epoch(1), 4));
    let predicted = operation.predicted;
    assert_eq!((predicted.what, predicted.before, predicted.after), (Quantity::LiveVoters, 2, 3));
    kill(&mut picture, 3, 599);
    assert_eq!(plan(&picture).operations, [], "it may come back");
    picture.nodes.remove(&NodeId(3));
    assert_eq!(plan(&picture).operations.len(), 1, "a node that is removed does not");
}

#[test]
fn a_replica_goes_to_no_node_that_cannot_take_it() {
    type Harm = fn(&mut NodeView);
    let full: Harm = |node| node.free_bytes = node.disk_bytes / 10;
    let marked: Harm = |node| node.mark = Mark::Draining;
    let dead: Harm = |node| node.alive = false;
    for (harm, lacks) in [
        (full, Lacks { members: 3, full: 1, ..Lacks::default() }),
        (marked, Lacks { members: 3, marked: 1, ..Lacks::default() }),
        (dead, Lacks { members: 3, dead: 1, ..Lacks::default() }),
    ] {
        let mut picture = with_a_lost_node();
        harm(at(&mut picture, 4));
        let plan = plan(&picture);
        assert_eq!(plan.operations, []);
        assert_eq!(plan.refusals, [Refusal::NoTarget { shard: ShardId(2), rule: Rule::Repair, lacks }]);
    }
}

#[test]
fn room_that_is_promised_is_not_promised_again() {
    let mut picture = cluster(4, &[&[1, 2, 3], &[2, 1, 3]]);
    kill(&mut picture, 3, 600);
    let node = at(&mut picture, 4);
    (node.disk_bytes, node.free_bytes) = (1000 * MIB, 350 * MIB);
    let plan_now = plan(&picture);
    assert_eq!((of_rule(&plan_now, Rule::Repair).len(), plan_now.refusals.len()), (1, 1), "{plan_now:?}");
    picture.running.push(moving(2, 3, 4));
    let plan_now = plan(&picture);
    assert_eq!((of_rule(&plan_now, Rule::Repair).len(), plan_now.refusals.len()), (0, 1), "a job brings shard 2");
    assert_eq!(plan_now.at_once, 3);
}

#[test]
fn who_has_the_fewest_spare_voters_comes_first() {
    let mut picture = cluster(6, &[&[1, 2, 3, 4, 5], &[1, 2, 3]]);
    kill(&mut picture, 3, 600);
    let plan = plan(&picture);
    let repaired: Vec<u64> = of_rule(&plan, Rule::Repair).iter().map(|operation| operation.shard.0).collect();
    assert_eq!(repaired, [3, 2]);
}

#[test]
fn a_missing_voter_is_added() {
    let plan = plan(&cluster(3, &[&[1, 2]]));
    assert_eq!(plan.operations[0].change, Change::Add { to: NodeId(3) });
    assert_eq!(plan.operations[0].rule, Rule::Repair);
}

#[test]
fn a_shard_without_a_majority_is_left_alone() {
    let mut picture = with_a_lost_node();
    kill(&mut picture, 2, 1);
    let plan = plan(&picture);
    assert_eq!(plan.operations, []);
    assert_eq!(plan.refusals, [Refusal::NoQuorum { shard: ShardId(2), live: 1, quorum: 2 }]);
}

#[test]
fn a_learner_goes_unless_a_job_needs_it() {
    let mut picture = cluster(4, &[&[1, 2, 3]]);
    of(&mut picture, 2).membership.members.push(Member { node: NodeId(4), role: MemberRole::Learner });
    let plan_now = plan(&picture);
    assert_eq!(plan_now.operations.len(), 1);
    assert_eq!(plan_now.operations[0].change, Change::Forget { node: NodeId(4) });
    picture.running.push(moving(2, 3, 4));
    assert_eq!(plan(&picture).operations, []);
}

#[test]
fn voters_spread_over_the_zones_that_there_are() {
    let mut picture = cluster(4, &[&[1, 2, 3]]);
    zones(&mut picture, &["a", "a", "b", "c"]);
    let plan_now = plan(&picture);
    let [operation] = of_rule(&plan_now, Rule::Zone)[..] else { panic!("{plan_now:?}") };
    assert_eq!(operation.change, shift(1, 4));
    assert_eq!((operation.predicted.before, operation.predicted.after), (1, 0));
    zones(&mut picture, &["a", "a", "b", "b"]);
    assert_eq!(of_rule(&plan(&picture), Rule::Zone), Vec::<&Operation>::new(), "three do not fit in two");
}

#[test]
fn a_repair_takes_the_zone_that_was_lost() {
    let mut picture = cluster(5, &[&[1, 2, 3]]);
    zones(&mut picture, &["a", "b", "c", "a", "c"]);
    kill(&mut picture, 3, 600);
    assert_eq!(plan(&picture).operations[0].change, shift(3, 5));
}

#[test]
fn no_balancing_crowds_a_zone() {
    let lists: [&[u64]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
    let mut picture = cluster(4, &lists.repeat(3));
    zones(&mut picture, &["a", "b", "c", "c"]);
    let plan = plan(&picture);
    let moves = plan.operations.iter().filter(|operation| matches!(operation.change, Change::Move { .. }));
    let from: Vec<Change> = moves.map(|operation| operation.change.clone()).collect();
    assert!(!from.is_empty());
    assert!(from.iter().all(|change| *change == shift(3, 4)), "{from:?}");
}

#[test]
fn a_marked_node_is_emptied() {
    for mark in [Mark::Draining, Mark::Decommissioning] {
        let mut picture = cluster(4, &[&[1, 2, 3]]);
        at(&mut picture, 3).mark = mark;
        let plan = plan(&picture);
        assert_eq!(of_rule(&plan, Rule::Drain).len(), 1);
        assert_eq!(plan.operations[0].change, shift(3, 4));
        assert_eq!((plan.operations[0].predicted.before, plan.operations[0].predicted.after), (1, 0));
    }
}

#[test]
fn a_drain_that_leaves_too_few_nodes_says_how_many_are_missing() {
    let mut picture = cluster(3, &[&[1, 2, 3]]);
    at(&mut picture, 3).mark = Mark::Decommissioning;
    let plan = plan(&picture);
    assert_eq!(plan.operations, []);
    let refusal = Refusal::DrainLeavesTooFew { node: NodeId(3), shard: ShardId(2), wanted: 3, takers: 2 };
    assert_eq!(plan.refusals, std::slice::from_ref(&refusal));
    assert!(refusal.to_string().contains("needs 3 nodes, 2 take replicas; add 1 nodes"), "{refusal}");
}

#[test]
fn a_large_shard_is_split_in_its_middle() {
    let mut picture = cluster(3, &[&[1, 2, 3]]);
    of(&mut picture, 2).bytes = 512 * MIB;
    assert_eq!(plan(&picture).operations, [], "not above the mark");
    of(&mut picture, 2).bytes += 1;
    let plan_now = plan(&picture);
    assert_eq!(plan_now.operations.len(), 1);
    assert_eq!(plan_now.operations[0].rule, Rule::SplitSize);
    assert_eq!(plan_now.operations[0].change, Change::Split { at: position(1 << 63) });
    kill(&mut picture, 3, 1);
    assert_eq!(plan(&picture).operations, [], "a member that is away would need two snapshots");
    at(&mut picture, 3).alive = true;
    of(&mut picture, 2).middle = None;
    let refusal = Refusal::Undividable { shard: ShardId(2), rule: Rule::SplitSize };
    assert_eq!(plan(&picture).refusals, [refusal]);
}

#[test]
fn a_busy_shard_is_split_where_its_load_is_halved() {
    let mut picture = cluster(3, &[&[1, 2, 3]]);
    let view = of(&mut picture, 2);
    view.rate.ops = 30_000;
    view.samples = (1..=4u64).map(|at| sample(at << 60, 50)).collect();
    let plan_now = plan(&picture);
    assert_eq!(plan_now.operations.len(), 1);
    assert_eq!(plan_now.operations[0].rule, Rule::SplitLoad);
    assert_eq!(plan_now.operations[0].change, Change::Split { at: position(3 << 60) });
    assert_eq!((plan_now.operations[0].predicted.before, plan_now.operations[0].predicted.after), (30_000, 15_000));
    of(&mut picture, 2).rate.ops = 20_000;
    assert_eq!(plan(&picture).operations, [], "not above the mark");
}

#[test]
fn a_hot_key_is_told_and_not_split() {
    let mut picture = cluster(3, &[&[1, 2, 3]]);
    of(&mut picture, 2).rate.ops = 30_000;
    let undividable = Refusal::Undividable { shard: ShardId(2), rule: Rule::SplitLoad };
    assert_eq!(plan(&picture).refusals, [undividable], "nothing was sampled");
    for (loads, percent) in [([10, 60, 30], 60), ([25, 50, 25], 50)] {
        of(&mut picture, 2).samples = (1u64..).zip(loads).map(|(at, ops)| sample(at << 60, ops)).collect();
        let plan = plan(&picture);
        assert_eq!(plan.operations, []);
        assert_eq!(plan.refusals, [Refusal::HotKey { shard: ShardId(2), at: position(2 << 60), percent }]);
    }
    // The key has 49 %: one half gets 26, the other 74.
    of(&mut picture, 2).samples = (1u64..).zip([26, 49, 25]).map(|(at, ops)| sample(at << 60, ops)).collect();
    assert_eq!(plan(&picture).operations[0].change, Change::Split { at: position(2 << 60) });
}

#[test]
fn a_shard_rests_after_a_change_of_its_bounds() {
    let mut picture = cluster(3, &[&[1, 2, 3]]);
    of(&mut picture, 2).rate.ops = 30_000;
    of(&mut picture, 2).samples = (1..=4u64).map(|at| sample(at << 60, 50)).collect();
    let now = picture.now;
    for (minutes, by_operator, planned) in [(9, false, 0), (10, false, 1), (10, true, 0), (59, true, 0), (60, true, 1)]
    {
        let resized = Resized { at: now - Duration::from_secs(minutes * 60), by_operator };
        of(&mut picture, 2).resized = Some(resized);
        assert_eq!(plan(&picture).operations.len(), planned, "{resized:?}");
    }
}

#[test]
fn a_new_node_gets_its_part() {
    let lists: [&[u64]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
    let mut picture = cluster(4, &lists.repeat(4));
    let first = plan(&picture);
    assert!(of_rule(&first, Rule::Size).len() >= 6, "{first:?}");
    let mut rounds = 0;
    loop {
        let plan = plan(&picture);
        if plan.operations.is_empty() {
            break;
        }
        assert!(plan.operations.iter().all(|operation| apply(&mut picture, operation)));
        rounds += 1;
        assert!(rounds < 10, "{plan:?}");
    }
    let measure = Measure::of(&picture);
    assert!(measure.replicas_percent <= 112 && measure.bytes_percent <= 112, "{measure:?}");
}

#[test]
fn leaders_spread_without_a_move() {
    let mut picture = cluster(3, &[&[1, 2, 3][..]; 6]);
    let plan = plan(&picture);
    assert!(plan.operations.iter().all(|operation| matches!(operation.change, Change::Lead { .. })), "{plan:?}");
    assert!(plan.operations.iter().all(|operation| apply(&mut picture, operation)));
    assert_eq!(Measure::of(&picture).leaders_percent, 100);
}

#[test]
fn each_table_is_balanced_and_not_only_all_of_them() {
    let mut picture = cluster(6, &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]);
    picture.tables.insert(TableId(2), TableView { replicas: 3, shards_min: 1 });
    for (at, voters) in [[4, 5, 6], [5, 6, 4], [6, 4, 5]].iter().enumerate() {
        let at = at as u64;
        picture.shards.insert(ShardId(at + 5), shard(TableId(2), (at, 3), voters));
    }
    let before = Measure::of(&picture);
    assert_eq!((before.worst(), before.bytes_percent), (100, 100), "{before:?}");
    let plan = plan(&picture);
    let size = of_rule(&plan, Rule::Size);
    assert!(!size.is_empty() && size.iter().all(|operation| operation.why.contains("of table")), "{plan:?}");
}

/// Two neighbours that may merge.
fn small() -> Picture {
    let mut picture = cluster(3, &[&[1, 2, 3], &[2, 1, 3]]);
    for id in [2, 3] {
        of(&mut picture, id).bytes = 100 * MIB;
    }
    picture
}

#[test]
fn neighbours_merge_only_if_both_stay_small_and_idle() {
    let mut picture = small();
    let plan_now = plan(&picture);
    let [operation] = &plan_now.operations[..] else { panic!("{plan_now:?}") };
    assert_eq!((operation.rule, operation.shard), (Rule::Merge, ShardId(2)));
    let Change::Merge { with } = &operation.change else { panic!("{operation:?}") };
    assert_eq!((with.shard, with.version, with.epoch), (ShardId(3), 1, Epoch(1)));
    assert!(apply(&mut picture, operation));
    assert_eq!((picture.shards.len(), of(&mut picture, 2).bytes), (1, 200 * MIB));
    assert_eq!(of(&mut picture, 2).to, Bytes::new());

    type Harm = fn(&mut Picture);
    let large: Harm = |picture| of(picture, 3).bytes = 156 * MIB;
    let was_busy: Harm = |picture| of(picture, 3).rate_max.ops = 4_500;
    let rests: Harm = |picture| of(picture, 3).resized = Some(Resized { at: picture.now, by_operator: false });
    let few: Harm = |picture| picture.tables.get_mut(&TABLE).unwrap().shards_min = 2;
    let away: Harm = |picture| kill(picture, 3, 1);
    let apart: Harm = |picture| of(picture, 3).from = position(3 << 62);
    let other: Harm = |picture| of(picture, 3).table = TableId(2);
    for (at, harm) in [large, was_busy, rests, few, away, apart, other].into_iter().enumerate() {
        let mut picture = small();
        harm(&mut picture);
        assert_eq!(of_rule(&plan(&picture), Rule::Merge).len(), 0, "{at}");
    }
    let mut picture = small();
    of(&mut picture, 3).bytes = 155 * MIB;
    of(&mut picture, 3).rate_max.ops = 4_400;
    assert_eq!(of_rule(&plan(&picture), Rule::Merge).len(), 1);
}

#[test]
fn an_operator_who_balances_gets_repairs_and_drains_alone() {
    let mut picture = cluster(5, &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
    of(&mut picture, 2).bytes = 600 * MIB;
    at(&mut picture, 3).mark = Mark::Draining;
    picture.settings.balance = Balance::Manual;
    let plan = plan(&picture);
    assert_eq!(plan.operations.len(), 3);
    assert_eq!(of_rule(&plan, Rule::Drain).len(), 3);
}

#[test]
fn a_plan_is_no_longer_than_is_allowed() {
    let mut picture = cluster(3, &[&[1, 2, 3][..]; 6]);
    picture.settings.operations_max = 2;
    assert_eq!(plan(&picture).operations.len(), 2);
}

#[test]
fn what_no_longer_applies_is_told() {
    let before = with_a_lost_node();
    let plan = plan(&before);
    assert_eq!(stale(&plan, &before), []);
    type Harm = fn(&mut Picture);
    let gone: Harm = |picture| drop(picture.shards.remove(&ShardId(2)));
    let version: Harm = |picture| of(picture, 2).version = 2;
    let epoch: Harm = |picture| of(picture, 2).membership.epoch = Epoch(2);
    let job: Harm = |picture| picture.running.push(moving(2, 3, 4));
    let dead: Harm = |picture| kill(picture, 4, 1);
    let marked: Harm = |picture| at(picture, 4).mark = Mark::Draining;
    let full: Harm = |picture| at(picture, 4).free_bytes = 0;
    let quorum: Harm = |picture| kill(picture, 2, 1);
    let back: Harm = |picture| at(picture, 3).alive = true;
    for (harm, word) in [
        (gone, "is gone"),
        (version, "is at version 2"),
        (epoch, "have changed"),
        (job, "a job changes"),
        (dead, "is dead"),
        (marked, "is being emptied"),
        (full, "has no room"),
        (quorum, "has 1 live voters"),
        (back, "node 3 is back"),
    ] {
        let mut picture = before.clone();
        harm(&mut picture);
        let found = stale(&plan, &picture);
        assert_eq!(found.len(), 1, "{word}");
        assert!(found[0].index == 0 && found[0].why.contains(word), "{found:?}");
    }
}

#[test]
fn what_is_no_longer_wanted_is_told() {
    let mut picture = cluster(4, &[&[1, 2, 3]]);
    at(&mut picture, 3).mark = Mark::Draining;
    let drain = plan(&picture);
    at(&mut picture, 3).mark = Mark::Stays;
    assert_eq!(stale(&drain, &picture).len(), 1);

    let mut picture = small();
    let merge = plan(&picture);
    assert_eq!(stale(&merge, &picture), []);
    picture.settings.balance = Balance::Manual;
    assert_eq!(stale(&merge, &picture).len(), 1);
    picture.settings.balance = Balance::Auto;
    of(&mut picture, 3).version = 2;
    assert!(stale(&merge, &picture)[0].why.contains("shard 3 is at version 2"));
}
