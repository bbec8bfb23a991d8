use super::picture::{Heard, Led, Room};
use super::*;
use crate::node::peer::Place;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, JobId, NodeId, ShardId};
use synod_cluster::jobs::empty_node::EmptyNode;
use synod_cluster::jobs::job::{Job, JobGoal, JobState};
use synod_cluster::planner::settings::Rate;
use synod_cluster::system::{Partitioning, Retention, SystemCommand};

/// Three founders that have all of a table, and a node that has joined.
fn state() -> Arc<SystemState> {
    let mut state = SystemState::found(7, &["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()]);
    state.execute(&SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        shards: 8,
        splits: vec![],
        replicas: 3,
    });
    state.execute(&SystemCommand::AddNode { addr: "d:1".into(), nonce: 9, speaks: ClusterVersion::SPOKEN });
    Arc::new(state)
}

fn seen(state: &SystemState) -> Seen {
    let heard = || Heard {
        place: Place::default(),
        alive: true,
        silent: Duration::ZERO,
        room: Room::Known { size: 1 << 40, free: 1 << 39 },
    };
    let mut seen = Seen { now: Duration::from_secs(7_200), ..Seen::default() };
    seen.nodes = (1..=4).map(|id| (NodeId(id), heard())).collect();
    for (shard, d) in state.shards.iter() {
        let led = Led {
            leader: d.membership.first_leader,
            rank: (1, 1),
            bytes: Some(1 << 20),
            rate: Rate::default(),
            rate_max: Rate::default(),
        };
        seen.add(*shard, led);
    }
    seen
}

fn asked(max_concurrent: u32, weights: Option<[u32; 4]>) -> v1::PlanRebalanceRequest {
    let weights =
        weights.map(|[bytes, replicas, leaders, load]| v1::RebalanceWeights { bytes, replicas, leaders, load });
    v1::PlanRebalanceRequest { weights, table: String::new(), max_concurrent }
}

#[test]
fn what_is_planned_comes_back_as_it_was_and_applies() {
    let state = state();
    let reply = planned(&state, &seen(&state), Settings::default(), None);
    assert!(!reply.operations.is_empty() && reply.refused.is_empty(), "{reply:?}");
    let (before, after) = (reply.before.expect("a measure"), reply.after.expect("a measure"));
    assert!(before.replicas_percent > after.replicas_percent && after.replicas_percent <= 115, "{before:?}, {after:?}");
    let request = v1::CheckOperationsRequest { operations: reply.operations.clone() };
    let back = operations(&request).expect("they are its own");
    assert_eq!(back.iter().filter_map(wire::planned).map(|op| op.change).collect::<Vec<_>>(), {
        reply.operations.iter().map(|op| op.change.clone()).collect::<Vec<_>>()
    });
    let checked = checked(&state, &seen(&state), Settings::default(), back);
    assert!(checked.stale.is_empty(), "{checked:?}");
}

#[test]
fn what_has_changed_since_is_stale_and_says_how() {
    let state = state();
    let reply = planned(&state, &seen(&state), Settings::default(), None);
    let mut wire = reply.operations[0].clone();
    wire.epoch += 1;
    let other = operations(&v1::CheckOperationsRequest { operations: vec![wire] }).expect("it has all fields");
    let stale = checked(&state, &seen(&state), Settings::default(), other).stale;
    assert!(stale.len() == 1 && stale[0].index == 0 && stale[0].why.contains("members"), "{stale:?}");
}

#[test]
fn what_a_job_does_by_itself_is_not_planned_beside_it() {
    let mut state = SystemState::clone(&state());
    let goal = EmptyNode { node: NodeId(3), remove: false, at_once: 2 };
    state.nodes.get_mut(&NodeId(3)).expect("it is there").mark = synod_cluster::planner::picture::Mark::Draining;
    let drains = |state: &SystemState| {
        let reply = planned(state, &seen(state), Settings::default(), None);
        reply.operations.iter().filter(|op| op.rule == "drain").count()
    };
    assert!(drains(&state) > 0, "nobody empties it");
    state.jobs.insert(JobId(1), Job { goal: JobGoal::Empty(goal), state: JobState::Running });
    assert_eq!(drains(&state), 0);
}

#[test]
fn settings_and_operations_out_of_bounds_are_refused_by_name() {
    assert_eq!(settings(&asked(0, None)).map(|s| s.max_concurrent), Ok(Settings::default().max_concurrent));
    let only_leaders = settings(&asked(7, Some([0, 0, 1, 0]))).expect("it is allowed");
    assert_eq!((only_leaders.max_concurrent, only_leaders.weights.leaders, only_leaders.weights.bytes), (7, 1, 0));
    assert_eq!(settings(&asked(0, Some([0; 4]))).map_err(|(field, _)| field).err(), Some("weights"));
    assert_eq!(settings(&asked(0, Some([1001, 0, 0, 0]))).map_err(|(field, _)| field).err(), Some("weights"));
    assert_eq!(settings(&asked(65, None)).map_err(|(field, _)| field).err(), Some("max_concurrent"));
    let whole = v1::PlannedOperation {
        shard: ShardId(2).0,
        version: 1,
        epoch: 1,
        rule: "size balance".into(),
        change: Some(v1::planned_operation::Change::Lead(2)),
        ..v1::PlannedOperation::default()
    };
    let why = |operation: v1::PlannedOperation| {
        operations(&v1::CheckOperationsRequest { operations: vec![operation] }).err().unwrap_or_default()
    };
    assert_eq!(why(whole.clone()), "");
    assert!(why(v1::PlannedOperation { epoch: 0, ..whole.clone() }).contains("epoch"));
    assert!(why(v1::PlannedOperation { change: None, ..whole.clone() }).contains("change"));
    assert!(why(v1::PlannedOperation { rule: "whim".into(), ..whole.clone() }).contains("whim"));
    let many = v1::CheckOperationsRequest { operations: vec![whole; CHECKED_MAX + 1] };
    assert!(operations(&many).is_err_and(|why| why.contains("65")));
}
