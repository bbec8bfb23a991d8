use super::*;
use crate::buf::{Put, Writer};
use crate::ids::SYSTEM_SHARD;
use crate::system::tests::execute;
use crate::system::{ROW_CLUSTER, SystemCommand};
use std::collections::BTreeMap;
use synod_paxos::types::{Member, Membership};

/// Four nodes, of which the first three hold the system shard, at this version.
fn state(version: u32) -> SystemState {
    let founders: Vec<String> = (1..=3).map(|i| format!("127.0.0.1:740{i}")).collect();
    let mut state = SystemState::found(7, &founders);
    let all: Vec<NodeId> = state.nodes.keys().copied().collect();
    state.execute(&SystemCommand::Upgrade { to: ClusterVersion(version), spoken_by: all });
    let speaks = ClusterVersion(version);
    state.execute(&SystemCommand::AddNode { addr: "127.0.0.1:7404".into(), nonce: 4, speaks });
    assert_eq!((state.version, state.nodes.len()), (ClusterVersion(version), 4));
    state
}

fn moves(shard: u64, from: u64, to: Option<u64>) -> JobGoal {
    let replica = MoveReplica { from: NodeId(from), to: to.map(NodeId) };
    JobGoal::Move { shard: ShardId(shard), replica }
}

fn start(goal: JobGoal) -> SystemCommand {
    SystemCommand::StartJob { goal }
}

fn finish(job: u64, seen: u64, end: JobEnd) -> SystemCommand {
    SystemCommand::FinishJob { job: JobId(job), seen: Epoch(seen), end }
}

fn cancel(job: u64) -> SystemCommand {
    SystemCommand::CancelJob { job: JobId(job) }
}

fn invalid_in(outcome: &SystemOutcome, part: &str, words: &str) {
    let SystemOutcome::Invalid { field, why } = outcome else { panic!("{outcome:?}") };
    assert!(field == part && why.contains(words), "{field}: {why}");
}

fn conflict(outcome: &SystemOutcome, id: u64, words: &str) {
    let SystemOutcome::JobConflict { job, why } = outcome else { panic!("{outcome:?}") };
    assert!(job.0 == id && why.contains(words), "{job}: {why}");
}

fn members(epoch: u64, voters: &[u64], learners: &[u64]) -> SystemCommand {
    let member = |role| move |node: &u64| Member { node: NodeId(*node), role };
    let voters = voters.iter().map(member(MemberRole::Voter));
    let mut members: Vec<Member> = voters.chain(learners.iter().map(member(MemberRole::Learner))).collect();
    members.sort_unstable();
    let first_leader = members.iter().find(|m| m.role == MemberRole::Voter).unwrap().node;
    let membership = Membership { epoch: Epoch(epoch), members, first_leader };
    SystemCommand::SetMembers { shard: SYSTEM_SHARD, membership }
}

#[test]
fn below_the_third_version_no_job_begins_and_every_byte_is_as_before() {
    for version in [1, 2] {
        let mut state = state(version);
        let before = state.clone();
        for command in [start(moves(1, 3, Some(4))), cancel(1), finish(1, 1, JobEnd::Done)] {
            assert_eq!(command.needs(), ClusterVersion::THIRD);
            let outcome = execute(&mut state, &command);
            assert!(!matches!(outcome, SystemOutcome::Job(_) | SystemOutcome::Done), "{outcome:?}");
        }
        invalid_in(
            &state.execute(&start(moves(1, 3, Some(4)))).0,
            "cluster_version",
            "`synod cluster upgrade` raises it",
        );
        assert_eq!(state, before);
        assert_eq!(state.encode_cluster()[0], u8::try_from(version).unwrap());
    }
    let state = state(3);
    assert_eq!((state.encode_cluster()[0], state.encode()[0]), (3, 2));
    // The row of another version's format is not read.
    let mut w = Writer::new();
    w.u8(2);
    w.raw(&state.encode_cluster()[1..state.encode_cluster().len() - 4]);
    assert!(SystemState::from_rows([(ROW_CLUSTER, 0, w.into_checked())]).is_err());
}

#[test]
fn a_job_begins_once_and_one_runs_on_a_shard() {
    let mut state = state(3);
    let goal = moves(1, 3, Some(4));
    assert_eq!(execute(&mut state, &start(goal.clone())), SystemOutcome::Job(JobId(1)));
    assert_eq!(
        execute(&mut state, &start(goal.clone())),
        SystemOutcome::Job(JobId(1)),
        "the same again is the same job"
    );
    let words = "it moves the replica of shard 1 from node 3 to node 4 already";
    conflict(&execute(&mut state, &start(moves(1, 2, Some(4)))), 1, words);
    assert_eq!(execute(&mut state, &cancel(1)), SystemOutcome::Done);
    assert_eq!(execute(&mut state, &cancel(1)), SystemOutcome::Done, "it may be said again");
    conflict(&execute(&mut state, &start(goal.clone())), 1, "is being cancelled");
    assert_eq!(execute(&mut state, &finish(1, 1, JobEnd::Cancelled)), SystemOutcome::Done);
    assert_eq!(execute(&mut state, &cancel(1)), SystemOutcome::Done);
    assert_eq!(execute(&mut state, &start(goal)), SystemOutcome::Job(JobId(2)), "no id is given twice");
    assert_eq!(execute(&mut state, &cancel(9)), SystemOutcome::JobNotFound(JobId(9)));
    assert_eq!(execute(&mut state, &finish(9, 1, JobEnd::Done)), SystemOutcome::JobNotFound(JobId(9)));
}

#[test]
fn a_move_that_makes_no_sense_does_not_begin() {
    let mut state = state(3);
    execute(&mut state, &members(2, &[1, 2, 3], &[4]));
    for (goal, part, words) in [
        (moves(9, 3, Some(4)), "shard", "there is no shard 9"),
        (moves(1, 9, Some(4)), "from", "there is no node 9"),
        (moves(1, 3, Some(9)), "to", "there is no node 9"),
        (moves(1, 3, Some(3)), "to", "is where the replica is"),
        (moves(1, 3, Some(1)), "to", "node 1 has a replica of shard 1 already"),
        (moves(1, 3, None), "to", "votes in shard 1"),
        (moves(1, 4, Some(4)), "to", "is where the replica is"),
    ] {
        invalid_in(&execute(&mut state, &start(goal)), part, words);
    }
    execute(&mut state, &members(3, &[1, 2], &[4]));
    invalid_in(&execute(&mut state, &start(moves(1, 3, Some(4)))), "from", "no replica of shard 1 that votes");
    // A learner that was left behind goes; what has come about already begins too.
    assert_eq!(execute(&mut state, &start(moves(1, 4, None))), SystemOutcome::Job(JobId(1)));
    execute(&mut state, &finish(1, 3, JobEnd::Done));
    assert_eq!(execute(&mut state, &start(moves(1, 3, Some(2)))), SystemOutcome::Job(JobId(2)));
}

#[test]
fn an_end_counts_in_the_epoch_it_was_seen_in() {
    let mut state = state(3);
    execute(&mut state, &start(moves(1, 3, Some(4))));
    execute(&mut state, &members(2, &[1, 2, 3], &[4]));
    conflict(
        &execute(&mut state, &finish(1, 1, JobEnd::Done)),
        1,
        "in epoch 2, the end of the job was seen in epoch 1",
    );
    conflict(&execute(&mut state, &finish(1, 0, JobEnd::Failed("dropped".into()))), 1, "seen in epoch 0");
    conflict(&execute(&mut state, &finish(1, 2, JobEnd::Cancelled)), 1, "nobody has cancelled it");
    let long = JobEnd::Failed("x".repeat(JOB_WHY_MAX + 1));
    invalid_in(&execute(&mut state, &finish(1, 2, long)), "why", "512 bytes");
    let look = state.look_at(&state.jobs[&JobId(1)].goal);
    let seen = Seen { from: Some(MemberRole::Voter), to: Some(MemberRole::Learner), lag: None };
    assert_eq!(look, Some(Look { members: Some((Epoch(2), seen)), stranger: None }));

    let end = JobEnd::Overtaken(bounded_why("é".repeat(JOB_WHY_MAX)));
    assert_eq!(execute(&mut state, &finish(1, 2, end.clone())), SystemOutcome::Done);
    assert_eq!(state.jobs[&JobId(1)].state, JobState::Ended { end, order: 1 });
    // Said again it changes nothing, whatever is said.
    assert_eq!(execute(&mut state, &finish(1, 2, JobEnd::Done)), SystemOutcome::Done);
    conflict(&execute(&mut state, &cancel(1)), 1, "it has ended already: overtaken");
}

#[test]
fn a_node_that_is_to_get_a_replica_stays() {
    let mut state = state(3);
    let remove = SystemCommand::RemoveNode { node: NodeId(4) };
    execute(&mut state, &start(moves(1, 3, Some(4))));
    invalid_in(&execute(&mut state, &remove), "node", "job 1 moves a replica to node 4");
    execute(&mut state, &cancel(1));
    execute(&mut state, &finish(1, 1, JobEnd::Cancelled));
    assert_eq!(execute(&mut state, &remove), SystemOutcome::Done);
    let look = state.look_at(&moves(1, 3, Some(4))).unwrap();
    assert_eq!(look.stranger, Some(NodeId(4)));
    assert_eq!(state.look_at(&moves(8, 3, Some(4))).unwrap().members, None);
}

#[test]
fn those_that_ended_first_go_first_and_no_id_comes_back() {
    let mut state = state(3);
    // One that runs from the beginning, and ends last.
    let SystemOutcome::Job(first) = execute(&mut state, &start(moves(1, 3, Some(4)))) else { panic!() };
    let shards = u32::try_from(JOBS_ENDED_MAX).unwrap() + 3;
    state.execute(&SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: crate::system::Partitioning::Hash,
        retention: crate::system::Retention::Latest,
        shards,
        splits: vec![],
        replicas: 4,
    });
    for shard in 2..u64::from(shards) + 2 {
        let id = shard;
        let outcome = state.execute(&start(moves(shard, 9, None))).0;
        invalid_in(&outcome, "from", "no node 9");
        let gone = SystemCommand::SetMembers { shard: ShardId(shard), membership: three(Epoch(2)) };
        state.execute(&gone);
        assert_eq!(state.execute(&start(moves(shard, 4, None))).0, SystemOutcome::Job(JobId(id)));
        assert_eq!(state.execute(&finish(id, 2, JobEnd::Done)).0, SystemOutcome::Done);
    }
    assert_eq!(state.jobs.len(), JOBS_ENDED_MAX + 1);
    assert_eq!(execute(&mut state, &finish(first.0, 1, JobEnd::Done)), SystemOutcome::Done);
    assert!(state.jobs.contains_key(&first), "it ended last");
    assert_eq!((state.jobs.len(), state.jobs.contains_key(&JobId(4))), (JOBS_ENDED_MAX, false));
    assert_eq!(execute(&mut state, &start(moves(1, 3, Some(4)))), SystemOutcome::Job(JobId(u64::from(shards) + 2)));
    // A cluster that is made of a backup has none of them.
    let refounded = state.refounded(8, &["a:1".into()], &BTreeMap::new());
    assert!(refounded.jobs.is_empty());
}

fn three(epoch: Epoch) -> Membership {
    let members = (1..=3).map(|node| Member { node: NodeId(node), role: MemberRole::Voter }).collect();
    Membership { epoch, members, first_leader: NodeId(1) }
}

#[test]
fn too_many_are_refused_by_name() {
    let mut state = state(3);
    let job = |shard| Job { goal: moves(shard, 3, Some(4)), state: JobState::Running };
    let many = JOBS_RUNNING_MAX as u64;
    state.jobs = (1..=many).map(|id| (JobId(id), job(id + 1_000))).collect();
    state.last_job = JobId(many);
    invalid_in(&state.execute(&start(moves(1, 3, Some(4)))).0, "jobs", "4096 jobs run already");
    state.jobs.remove(&JobId(5));
    assert_eq!(state.execute(&start(moves(1, 3, Some(4)))).0, SystemOutcome::Job(JobId(many + 1)));
}
