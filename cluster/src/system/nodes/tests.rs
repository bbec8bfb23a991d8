mod story;

use super::*;
use crate::buf::{Put, Writer};
use crate::ids::{Epoch, SYSTEM_SHARD, TableId};
use crate::jobs::job::Job;
use crate::system::tests::execute;
use crate::system::{MetadataError, Partitioning, ROW_JOB, Retention, SystemCommand};
use synod_paxos::types::{Member, Membership};

/// Four nodes at the fourth version. The system shard is on nodes 1 to 3; of a table's shards, 2 is on 1, 2, 4 and 3 is on 1, 3, 4.
fn state() -> SystemState {
    let founders: Vec<String> = (1..=3).map(|i| format!("127.0.0.1:740{i}")).collect();
    let mut state = SystemState::found(7, &founders);
    let spoken_by = state.nodes.keys().copied().collect();
    state.execute(&SystemCommand::Upgrade { to: ClusterVersion::THIRD, spoken_by });
    let speaks = ClusterVersion::FOURTH;
    state.execute(&SystemCommand::AddNode { addr: "127.0.0.1:7404".into(), nonce: 4, speaks });
    assert_eq!(state.execute(&create("t", 2, 3)).0, SystemOutcome::Table(TableId(1)));
    assert_eq!(voters(&state, 2), [1, 2, 4]);
    assert_eq!(voters(&state, 3), [1, 3, 4]);
    state.version = ClusterVersion::FOURTH;
    state
}

fn create(name: &str, shards: u32, replicas: u32) -> SystemCommand {
    SystemCommand::CreateTable {
        name: name.into(),
        partitioning: Partitioning::Hash,
        retention: Retention::All,
        shards,
        splits: vec![],
        replicas,
    }
}

fn voters(state: &SystemState, shard: u64) -> Vec<u64> {
    state.shards[&ShardId(shard)].membership.voters().map(|node| node.0).collect()
}

fn empty(node: u64, remove: bool) -> EmptyNode {
    EmptyNode { node: NodeId(node), remove, at_once: 1 }
}

fn start(goal: EmptyNode) -> SystemCommand {
    SystemCommand::StartJob { goal: JobGoal::Empty(goal) }
}

fn start_move(shard: u64, from: u64, to: u64) -> SystemCommand {
    let replica = MoveReplica { from: NodeId(from), to: Some(NodeId(to)) };
    SystemCommand::StartJob { goal: JobGoal::Move { shard: ShardId(shard), replica } }
}

fn leaving(shard: u64, epoch: u64, to: Option<u64>) -> Leaving {
    Leaving { shard: ShardId(shard), epoch: Epoch(epoch), to: to.map(NodeId) }
}

fn begin(job: u64, leaving: Leaving) -> SystemCommand {
    SystemCommand::BeginMove { job: JobId(job), leaving }
}

fn cancel(job: u64) -> SystemCommand {
    SystemCommand::CancelJob { job: JobId(job) }
}

fn pause(job: u64, paused: bool) -> SystemCommand {
    SystemCommand::PauseJob { job: JobId(job), paused }
}

fn recommission(node: u64) -> SystemCommand {
    SystemCommand::Recommission { node: NodeId(node) }
}

fn finish(job: u64, seen: u64, end: JobEnd) -> SystemCommand {
    SystemCommand::FinishJob { job: JobId(job), seen: Epoch(seen), end }
}

fn members(shard: u64, epoch: u64, voters: &[u64], learners: &[u64]) -> SystemCommand {
    let member = |role| move |node: &u64| Member { node: NodeId(*node), role };
    let all = voters.iter().map(member(MemberRole::Voter)).chain(learners.iter().map(member(MemberRole::Learner)));
    let mut members: Vec<Member> = all.collect();
    members.sort_unstable();
    let membership = Membership { epoch: Epoch(epoch), members, first_leader: NodeId(voters[0]) };
    SystemCommand::SetMembers { shard: ShardId(shard), membership }
}

fn heard(nodes: &[u64]) -> BTreeMap<NodeId, Room> {
    nodes.iter().map(|node| (NodeId(*node), Room::Enough)).collect()
}

fn done(state: &mut SystemState, command: &SystemCommand) {
    assert_eq!(execute(state, command), SystemOutcome::Done, "{command:?}");
}

fn begun(state: &mut SystemState, command: &SystemCommand, id: u64) {
    assert_eq!(execute(state, command), SystemOutcome::Job(JobId(id)), "{command:?}");
}

/// It is refused, and nothing changes.
fn invalid_in(state: &mut SystemState, command: &SystemCommand, part: &str, words: &str) {
    let before = state.clone();
    let outcome = execute(state, command);
    let SystemOutcome::Invalid { field, why } = outcome else { panic!("{command:?}: {outcome:?}") };
    assert!(field == part && why.contains(words), "{field}: {why}");
    assert_eq!(*state, before);
}

fn conflict(state: &mut SystemState, command: &SystemCommand, id: u64, words: &str) {
    let before = state.clone();
    let outcome = execute(state, command);
    let SystemOutcome::JobConflict { job, why } = outcome else { panic!("{command:?}: {outcome:?}") };
    assert!(job.0 == id && why.contains(words), "{job}: {why}");
    assert_eq!(*state, before);
}

fn mark(state: &SystemState, node: u64) -> Option<Mark> {
    state.nodes.get(&NodeId(node)).map(|info| info.mark)
}

#[test]
fn below_the_fourth_version_no_node_is_marked_and_every_byte_is_as_before() {
    let mut state = state();
    state.version = ClusterVersion::THIRD;
    let before = state.encode();
    for command in [start(empty(3, true)), pause(1, true), recommission(3), begin(1, leaving(1, 1, Some(4)))] {
        assert_eq!(command.needs(), ClusterVersion::FOURTH);
        invalid_in(&mut state, &command, "cluster_version", "needs 4: `synod cluster upgrade` raises it");
    }
    assert_eq!(state.encode(), before);
    assert!(state.nodes.values().all(|info| encode_node(info)[0] == 1), "the format of nodes is the first");
}

#[test]
fn a_node_is_emptied_move_by_move_and_goes_with_the_end_of_its_job() {
    let mut state = state();
    let (goal, all) = (empty(3, true), heard(&[1, 2, 3, 4]));
    begun(&mut state, &start(goal), 1);
    begun(&mut state, &start(goal), 1);
    assert_eq!(mark(&state, 3), Some(Mark::Decommissioning));
    // The system shard first, which has one node left to go to.
    let first = leaving(1, 1, Some(4));
    let seen = state.look_at_empty(goal, &all);
    assert_eq!(seen, Seen { present: true, left: 2, moving: 0, choice: Some(first), trouble: None });
    conflict(
        &mut state,
        &begin(1, Leaving { epoch: Epoch(2), ..first }),
        1,
        "is in epoch 1, the move was chosen in epoch 2",
    );
    begun(&mut state, &begin(1, first), 2);
    conflict(&mut state, &begin(1, leaving(3, 1, Some(2))), 1, "1 of its moves are under way");
    assert_eq!(
        state.look_at_empty(goal, &all),
        Seen { present: true, left: 2, moving: 1, choice: None, trouble: None }
    );
    conflict(&mut state, &finish(1, 0, JobEnd::Done), 1, "node 3 is a member of 2 shards");
    conflict(&mut state, &finish(1, 1, JobEnd::Done), 1, "seen in epoch 1");
    conflict(&mut state, &finish(1, 0, JobEnd::Overtaken("gone".into())), 1, "node 3 is a node of the cluster still");
    conflict(&mut state, &finish(1, 0, JobEnd::Cancelled), 1, "nobody has cancelled it");
    done(&mut state, &members(1, 2, &[1, 2, 4], &[]));
    done(&mut state, &finish(2, 2, JobEnd::Done));
    let second = leaving(3, 1, Some(2));
    assert_eq!(state.look_at_empty(goal, &all).choice, Some(second));
    begun(&mut state, &begin(1, second), 3);
    done(&mut state, &members(3, 2, &[1, 2, 4], &[]));
    done(&mut state, &finish(3, 2, JobEnd::Done));
    assert_eq!(state.look_at_empty(goal, &all), Seen { present: true, ..Seen::default() });
    done(&mut state, &finish(1, 0, JobEnd::Done));
    assert_eq!((mark(&state, 3), state.jobs[&JobId(1)].word()), (None, "done"));
    // Said again it changes nothing, and whoever looks once more sees that it is gone.
    done(&mut state, &finish(1, 0, JobEnd::Done));
    assert_eq!(state.look_at_empty(goal, &all), Seen::default());
    conflict(&mut state, &begin(1, leaving(2, 1, Some(3))), 1, "it begins no move: it is done");
}

#[test]
fn a_drained_node_stays_and_gets_nothing_until_it_is_taken_back() {
    let mut state = state();
    begun(&mut state, &start(empty(3, false)), 1);
    assert_eq!(mark(&state, 3), Some(Mark::Draining));
    done(&mut state, &members(1, 2, &[1, 2, 4], &[]));
    done(&mut state, &members(3, 2, &[1, 2, 4], &[]));
    done(&mut state, &finish(1, 0, JobEnd::Done));
    assert_eq!(mark(&state, 3), Some(Mark::Draining), "it is drained as long as nobody takes it back");
    invalid_in(&mut state, &create("wide", 1, 4), "replicas", "the cluster has 3 beside 1 that are emptied");
    assert_eq!(execute(&mut state, &create("u", 5, 0)), SystemOutcome::Table(TableId(2)));
    assert!((4..9).all(|shard| voters(&state, shard) == [1, 2, 4]));
    invalid_in(&mut state, &start_move(2, 1, 3), "to", "node 3 is being emptied and takes no replica");
    invalid_in(&mut state, &start(empty(3, false)), "node", "node 3 is draining already");
    // What is drained can be taken out.
    begun(&mut state, &start(empty(3, true)), 2);
    assert_eq!(mark(&state, 3), Some(Mark::Decommissioning));
    done(&mut state, &recommission(3));
    assert_eq!((mark(&state, 3), state.jobs[&JobId(2)].word()), (Some(Mark::Stays), "cancelled"));
    let revision = state.revision;
    done(&mut state, &recommission(3));
    assert_eq!(state.revision, revision, "said again it changes nothing");
    assert_eq!(execute(&mut state, &create("wide", 1, 4)), SystemOutcome::Table(TableId(3)));
    begun(&mut state, &start_move(2, 1, 3), 3);
    invalid_in(&mut state, &recommission(9), "node", "there is no node 9");
}

#[test]
fn a_cancelled_job_begins_no_further_move_and_takes_the_mark_back() {
    let mut state = state();
    begun(&mut state, &start(empty(3, true)), 1);
    begun(&mut state, &begin(1, leaving(1, 1, Some(4))), 2);
    done(&mut state, &cancel(1));
    done(&mut state, &cancel(1));
    assert_eq!((mark(&state, 3), state.jobs[&JobId(1)].word()), (Some(Mark::Stays), "cancelled"));
    // An executor that is late begins nothing; what it began before goes on as any move.
    conflict(&mut state, &begin(1, leaving(3, 1, Some(2))), 1, "it begins no move: it is cancelled");
    done(&mut state, &finish(1, 0, JobEnd::Done));
    assert_eq!(state.jobs[&JobId(1)].word(), "cancelled");
    assert_eq!(state.jobs[&JobId(2)].word(), "running");
    begun(&mut state, &start(empty(3, true)), 3);
}

#[test]
fn what_cannot_be_done_is_refused_and_says_why() {
    let mut state = state();
    invalid_in(&mut state, &start(empty(9, true)), "node", "there is no node 9");
    for at_once in [0, AT_ONCE_MAX + 1] {
        let command = start(EmptyNode { at_once, ..empty(3, true) });
        invalid_in(&mut state, &command, "max_concurrent", "1 to 64 replicas");
    }
    begun(&mut state, &start_move(1, 3, 4), 1);
    conflict(&mut state, &start(empty(4, true)), 1, "it moves a replica to node 4");
    begun(&mut state, &start(empty(3, false)), 2);
    conflict(&mut state, &start(empty(3, true)), 2, "it drains node 3 already; wait for it");
    conflict(&mut state, &begin(1, leaving(3, 1, Some(2))), 1, "it empties no node");
    assert_eq!(execute(&mut state, &begin(9, leaving(3, 1, Some(2)))), SystemOutcome::JobNotFound(JobId(9)));
    conflict(&mut state, &begin(2, leaving(9, 1, Some(2))), 2, "shard 9 is in epoch 0");
    // With node 3 away, node 2 cannot go as well.
    let words = "the system shard keeps 3 replicas, and 2 nodes would be left to hold them; nodes missing: 1";
    invalid_in(&mut state, &start(empty(2, true)), "node", words);
    done(&mut state, &recommission(3));
    assert_eq!(execute(&mut state, &create("wide", 1, 4)), SystemOutcome::Table(TableId(2)));
    let words = "table \"wide\" keeps 4 replicas, and 3 nodes would be left";
    invalid_in(&mut state, &start(empty(3, true)), "node", words);

    let mut alone = SystemState::found(7, &["127.0.0.1:7401".to_owned()]);
    alone.version = ClusterVersion::FOURTH;
    invalid_in(&mut alone, &start(empty(1, true)), "node", "node 1 is the last one that takes replicas");
}

#[test]
fn a_job_pauses_and_goes_on() {
    let mut state = state();
    let word = |state: &SystemState, id| state.jobs[&JobId(id)].word();
    let moves = start_move(3, 1, 2);
    begun(&mut state, &moves, 1);
    done(&mut state, &pause(1, false));
    done(&mut state, &pause(1, true));
    done(&mut state, &pause(1, true));
    assert_eq!(word(&state, 1), "paused");
    conflict(&mut state, &moves, 1, "already, and is paused (`synod job resume 1`)");
    done(&mut state, &pause(1, false));
    begun(&mut state, &moves, 1);
    // One that is paused can be cancelled, and not be called back after that.
    done(&mut state, &pause(1, true));
    done(&mut state, &cancel(1));
    assert_eq!(word(&state, 1), "cancelling");
    conflict(&mut state, &pause(1, false), 1, "it is being cancelled");
    done(&mut state, &finish(1, 1, JobEnd::Cancelled));
    conflict(&mut state, &pause(1, true), 1, "it has ended already: cancelled");
    assert_eq!(execute(&mut state, &pause(9, true)), SystemOutcome::JobNotFound(JobId(9)));

    begun(&mut state, &start(empty(3, false)), 2);
    done(&mut state, &pause(2, true));
    conflict(&mut state, &begin(2, leaving(1, 1, Some(4))), 2, "it begins no move: it is paused");
    done(&mut state, &cancel(2));
    assert_eq!((word(&state, 2), mark(&state, 3)), ("cancelled", Some(Mark::Stays)));
}

#[test]
fn targets_are_those_of_the_drain_rule_among_nodes_that_are_heard() {
    let mut state = state();
    let goal = empty(3, true);
    let before = state.clone();
    let plan = state.plan_empty(goal, &heard(&[1, 2, 3, 4])).unwrap();
    let wanted = [leaving(1, 1, Some(4)), leaving(3, 1, Some(2))];
    assert_eq!(plan.moves.iter().map(|(leaving, _)| *leaving).collect::<Vec<_>>(), wanted);
    assert!(plan.moves.iter().all(|(_, why)| why == "node 3 is being emptied") && plan.refused.is_empty());
    let refused = state.plan_empty(empty(9, true), &heard(&[1, 2, 3, 4]));
    assert!(matches!(refused, Err(SystemOutcome::Invalid { .. })), "{refused:?}");
    assert_eq!(state, before, "a plan changes nothing");

    begun(&mut state, &start(goal), 1);
    assert_eq!(state.plan_empty(goal, &heard(&[1, 2, 3, 4])), Ok(plan), "of one that runs it is what is left");
    // The node itself may be dead. If another is, nobody can take its place yet.
    assert_eq!(state.look_at_empty(goal, &heard(&[1, 2, 4])).choice, Some(wanted[0]));
    let seen = state.look_at_empty(goal, &heard(&[1, 2, 3]));
    assert!(
        seen.choice.is_none() && seen.trouble.as_ref().is_some_and(|why| why.contains("2 take replicas")),
        "{seen:?}"
    );
    // A disk that is low takes nothing: what can go elsewhere goes, and the rest is named.
    let mut low = heard(&[1, 2, 3, 4]);
    low.insert(NodeId(4), Room::Low);
    let seen = state.look_at_empty(goal, &low);
    assert_eq!(seen.choice, Some(wanted[1]));
    assert!(
        seen.trouble.as_ref().is_some_and(|why| why.contains("shard 1") && why.contains("1 have no room")),
        "{seen:?}"
    );
}

#[test]
fn a_learner_that_was_left_behind_leaves_too() {
    let mut state = state();
    done(&mut state, &members(2, 2, &[1, 2, 4], &[3]));
    let goal = empty(3, false);
    begun(&mut state, &start(goal), 1);
    let seen = state.look_at_empty(goal, &heard(&[1, 2, 3, 4]));
    assert_eq!((seen.left, seen.choice), (3, Some(leaving(2, 2, None))));
    begun(&mut state, &begin(1, leaving(2, 2, None)), 2);
    done(&mut state, &members(2, 3, &[1, 2, 4], &[]));
    assert_eq!(state.look_at_empty(EmptyNode { at_once: 2, ..goal }, &heard(&[1, 2, 3, 4])).left, 2);
}

/// Bytes that were written once are read for ever.
#[test]
fn the_bytes_of_commands_and_rows_are_these() {
    let number = |n: u64| n.to_le_bytes().to_vec();
    let goal = EmptyNode { at_once: 2, ..empty(3, true) };
    let goal_bytes = [vec![4], number(3), vec![1, 2, 0, 0, 0]].concat();
    for (command, bytes) in [
        (start(goal), [vec![1, 9], goal_bytes.clone()].concat()),
        (pause(7, true), [vec![1, 15], number(7), vec![1]].concat()),
        (pause(7, false), [vec![1, 15], number(7), vec![0]].concat()),
        (recommission(3), [vec![1, 16], number(3)].concat()),
        (begin(1, leaving(7, 5, Some(4))), [vec![1, 17], number(1), number(7), number(5), vec![1], number(4)].concat()),
        (begin(1, leaving(7, 5, None)), [vec![1, 17], number(1), number(7), number(5), vec![0]].concat()),
    ] {
        assert_eq!(command.encode(), bytes, "{command:?}");
        assert_eq!(SystemCommand::decode(bytes.into()), Ok(command));
    }
    let mut state = state();
    state.last_job = JobId(1);
    state.jobs = BTreeMap::from([(JobId(1), Job { goal: JobGoal::Empty(goal), state: JobState::Paused })]);
    let rows = state.rows();
    let (.., job) = rows.iter().find(|(kind, ..)| *kind == ROW_JOB).unwrap();
    let job = job.as_ref().unwrap();
    assert_eq!(job[..job.len() - 4], [vec![1], goal_bytes, vec![4]].concat());
    for (mark, byte) in [(Mark::Draining, 1), (Mark::Decommissioning, 2)] {
        let row = encode_node(&NodeInfo { addr: "h:1".into(), nonce: 9, mark });
        let nonce = [number(9), number(0)].concat();
        assert_eq!(row[..row.len() - 4], [vec![2, 3], b"h:1".to_vec(), nonce, vec![byte]].concat());
    }
    // One form for each node: a row that says of a node that it is not marked is none.
    for byte in [0, 3] {
        let mut w = Writer::new();
        w.u8(2);
        w.bytes(b"h:1");
        w.u128(9);
        w.u8(byte);
        let row = w.into_checked();
        let rows = state.rows().into_iter().map(|(kind, id, own)| {
            let row = if (kind, id) == (ROW_NODE, 3) { row.clone() } else { own.unwrap() };
            (kind, id, row)
        });
        let read = SystemState::from_rows_for(rows, ClusterVersion::FOURTH);
        assert!(
            matches!(&read, Err(MetadataError::Decode(error)) if error.what == "a node's mark"),
            "{byte}: {read:?}"
        );
    }
}

#[test]
fn a_cluster_that_is_made_of_a_backup_has_no_marks() {
    let mut state = state();
    begun(&mut state, &start(empty(3, true)), 1);
    let founders: Vec<String> = (1..=3).map(|i| format!("h{i}:1")).collect();
    let refounded = state.refounded(8, &founders, &BTreeMap::new());
    assert!(refounded.nodes.values().all(|info| info.mark == Mark::Stays) && refounded.jobs.is_empty());
    assert_eq!(refounded.shards[&SYSTEM_SHARD].membership.voters().count(), 3);
}
