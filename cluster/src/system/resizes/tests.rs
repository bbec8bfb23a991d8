use super::*;
use crate::ids::{ClusterVersion, Epoch, JobId, TableId};
use crate::jobs::executor::{Action, Executor};
use crate::jobs::job::JobEnd;
use crate::jobs::move_replica::MoveReplica;
use crate::members::MemberChange;
use crate::system::{CLUSTER_VERSION, Partitioning, Retention, SystemCommand};
use bytes::Bytes;
use std::time::Duration;
use synod_paxos::types::Membership;

/// Five nodes at the fifth version, and a table of three shards with three replicas each.
fn state() -> SystemState {
    let founders: Vec<String> = (1..=5).map(|i| format!("127.0.0.1:740{i}")).collect();
    let mut state = SystemState::found(7, &founders);
    let create = SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        shards: 3,
        splits: vec![],
        replicas: 3,
    };
    assert_eq!(state.execute(&create).0, SystemOutcome::Table(TableId(1)));
    state.version = ClusterVersion::FIFTH;
    state
}

fn alter(replicas: u32) -> SystemCommand {
    SystemCommand::AlterTable { name: "t".into(), replicas }
}

fn heard(nodes: &[u64]) -> BTreeMap<NodeId, Room> {
    nodes.iter().map(|node| (NodeId(*node), Room::Enough)).collect()
}

/// Executes it; every row that changed makes the same state again.
fn execute(state: &mut SystemState, command: &SystemCommand) -> SystemOutcome {
    assert_eq!(SystemCommand::decode(command.encode()).as_ref(), Ok(command));
    let mut rows: BTreeMap<(u8, u64), Bytes> =
        state.rows().into_iter().map(|(kind, id, row)| ((kind, id), row.unwrap())).collect();
    let before = state.clone();
    let (outcome, changes) = state.execute(command);
    assert_eq!(changes.is_empty(), *state == before, "{command:?}: {outcome:?}");
    for (kind, id, row) in changes {
        match row {
            Some(row) => drop(rows.insert((kind, id), row)),
            None => drop(rows.remove(&(kind, id))),
        }
    }
    let rows = rows.into_iter().map(|((kind, id), row)| (kind, id, row));
    assert_eq!(SystemState::from_rows_for(rows, state.version).as_ref(), Ok(&*state), "after {command:?}");
    outcome
}

fn voters(state: &SystemState) -> Vec<usize> {
    state.shards.values().filter(|d| d.table == TableId(1)).map(|d| d.membership.voters().count()).collect()
}

/// A shard's leader makes the change.
fn change(state: &mut SystemState, shard: ShardId, expected: Epoch, change: MemberChange) {
    let membership = state.shards[&shard].membership.clone();
    assert_eq!(membership.epoch, expected);
    let mut members = membership.members;
    match change {
        MemberChange::Learn(node) => members.push(Member { node, role: MemberRole::Learner }),
        MemberChange::Promote { node, instead_of } => {
            assert_eq!(instead_of, None, "nobody goes for one who comes");
            members.iter_mut().filter(|m| m.node == node).for_each(|m| m.role = MemberRole::Voter);
        }
        MemberChange::Remove(node) => members.retain(|member| member.node != node),
    }
    members.sort_unstable();
    let first_leader = members.iter().find(|member| member.role == MemberRole::Voter).unwrap().node;
    let membership = Membership { epoch: expected.next(), members, first_leader };
    assert_eq!(execute(state, &SystemCommand::SetMembers { shard, membership }), SystemOutcome::Done);
}

/// Carries jobs out until all have ended; each look by a new executor where `dies`.
fn carry_out(state: &mut SystemState, heard: &BTreeMap<NodeId, Room>, dies: bool) {
    let mut executor = Executor::default();
    for turn in 0..200 {
        let now = Duration::from_secs(turn);
        if dies {
            executor = Executor::default();
        }
        let seen_by = state.clone();
        for (id, job) in executor.due(&seen_by.jobs, now) {
            let goal = job.goal.as_resize().expect("no other job runs");
            let mut seen = state.look_at_resizes(&[goal], heard, &BTreeMap::new()).remove(0);
            if let Some(seen) = &mut seen {
                seen.lag = learner(&seen.membership).map(|_| 0);
            }
            let before = voters(state);
            match executor.decide_resize(id, job, seen.as_ref(), now) {
                Some(Action::Change { shard, expected, change: made, .. }) => change(state, shard, expected, made),
                Some(Action::Finish { job, seen, end }) => {
                    assert_eq!(execute(state, &SystemCommand::FinishJob { job, seen, end }), SystemOutcome::Done);
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            let changed: usize = before.iter().zip(voters(state)).map(|(before, after)| before.abs_diff(after)).sum();
            assert!(changed <= 1, "one voter at a time");
        }
        if state.running().next().is_none() {
            return;
        }
    }
    panic!("jobs run on: {:?}", state.jobs);
}

#[test]
fn a_table_gets_more_replicas_and_fewer_again_whoever_carries_that_out() {
    for dies in [false, true] {
        let mut state = state();
        let all = heard(&[1, 2, 3, 4, 5]);
        for (replicas, wanted) in [(5, [5, 5, 5]), (4, [4, 4, 4]), (1, [1, 1, 1]), (2, [2, 2, 2])] {
            assert_eq!(execute(&mut state, &alter(replicas)), SystemOutcome::Table(TableId(1)));
            assert_eq!((state.tables[&TableId(1)].replicas, state.running().count()), (replicas, 3));
            carry_out(&mut state, &all, dies);
            assert_eq!(voters(&state), wanted);
            assert!(state.jobs.values().all(|job| job.end() == Some(&JobEnd::Done)));
        }
        // All is as asked for: nothing begins.
        assert_eq!(execute(&mut state, &alter(2)), SystemOutcome::Table(TableId(1)));
        assert_eq!(state.running().count(), 0);
    }
}

#[test]
fn a_dead_voter_goes_first_and_a_leader_last() {
    let state = state();
    let leaders: BTreeMap<ShardId, NodeId> =
        state.shards.iter().map(|(shard, d)| (*shard, d.membership.first_leader)).collect();
    let alive = heard(&[1, 2, 4, 5]);
    let plan = state.plan_alter("t", 2, &alive, &leaders).unwrap();
    assert_eq!(plan.changes.len(), 3);
    for Resized { shard, choice } in plan.changes {
        let membership = &state.shards[&shard].membership;
        let Choice::Goes(node) = choice else { panic!("{choice:?}") };
        if membership.role_of(NodeId(3)).is_some() {
            assert_eq!(node, NodeId(3), "it is dead");
        }
        assert!(node == NodeId(3) || node != leaders[&shard], "the leader of shard {shard} goes");
    }
}

#[test]
fn what_comes_is_spread_and_what_cannot_come_is_said() {
    let state = state();
    let plan = state.plan_alter("t", 4, &heard(&[1, 2, 3, 4, 5]), &BTreeMap::new()).unwrap();
    let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
    let table = state.shards.values().filter(|d| d.table == TableId(1));
    table.flat_map(|d| d.membership.voters()).for_each(|node| *held.entry(node).or_default() += 1);
    for Resized { shard, choice } in &plan.changes {
        let Choice::Comes(node) = *choice else { panic!("{choice:?}") };
        assert_eq!(state.shards[shard].membership.role_of(node), None);
        *held.entry(node).or_default() += 1;
    }
    assert_eq!(plan.changes.len(), 3);
    let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
    assert!(most - least <= 1, "{held:?}");
    // Too few are alive for all.
    let plan = state.plan_alter("t", 5, &heard(&[1, 2, 3, 4]), &BTreeMap::new()).unwrap();
    assert!(plan.refused.iter().any(|why| why.contains("1 are dead")), "{plan:?}");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut state = state();
    let unknown = SystemCommand::AlterTable { name: "u".into(), replicas: 3 };
    assert_eq!(execute(&mut state, &unknown), SystemOutcome::TableNotFound("u".into()));
    for (replicas, words) in [(0, "0 replicas"), (6, "the cluster has 5")] {
        let SystemOutcome::Invalid { field, why } = execute(&mut state, &alter(replicas)) else { panic!() };
        assert!(field == "replicas" && why.contains(words), "{why}");
    }
    let direct = |shard, voters| SystemCommand::StartJob { goal: JobGoal::Resize(ResizeShard { shard, voters }) };
    for (shard, voters, wrong) in [(SYSTEM_SHARD, 5, "shard"), (ShardId(99), 3, "shard"), (ShardId(2), 5, "voters")] {
        let outcome = execute(&mut state, &direct(shard, voters));
        assert!(matches!(&outcome, SystemOutcome::Invalid { field, .. } if field == wrong), "{outcome:?}");
    }
    // Another job changes one of its shards.
    let membership = &state.shards[&ShardId(2)].membership;
    let from = membership.voters().next().unwrap();
    let to = state.nodes.keys().copied().find(|node| membership.role_of(*node).is_none());
    let goal = JobGoal::Move { shard: ShardId(2), replica: MoveReplica { from, to } };
    assert_eq!(execute(&mut state, &SystemCommand::StartJob { goal }), SystemOutcome::Job(JobId(1)));
    let outcome = execute(&mut state, &alter(5));
    assert!(matches!(outcome, SystemOutcome::JobConflict { job: JobId(1), .. }), "{outcome:?}");
    state.version = ClusterVersion::FOURTH;
    let outcome = execute(&mut state, &alter(5));
    assert!(matches!(&outcome, SystemOutcome::Invalid { field, .. } if field == CLUSTER_VERSION), "{outcome:?}");
    assert_eq!(alter(5).needs(), ClusterVersion::FIFTH);
}

#[test]
fn one_that_was_cancelled_begins_again_with_the_same_number() {
    let mut state = state();
    assert_eq!(execute(&mut state, &alter(5)), SystemOutcome::Table(TableId(1)));
    assert_eq!(execute(&mut state, &SystemCommand::CancelJob { job: JobId(2) }), SystemOutcome::Done);
    let conflict = execute(&mut state, &alter(5));
    assert!(matches!(conflict, SystemOutcome::JobConflict { job: JobId(2), .. }), "{conflict:?}");
    carry_out(&mut state, &heard(&[1, 2, 3, 4, 5]), false);
    assert_eq!(voters(&state), [5, 3, 5]);
    assert_eq!(execute(&mut state, &alter(5)), SystemOutcome::Table(TableId(1)));
    assert_eq!(state.running().count(), 1);
    carry_out(&mut state, &heard(&[1, 2, 3, 4, 5]), false);
    assert_eq!(voters(&state), [5, 5, 5]);
}
