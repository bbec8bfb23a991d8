//! A replica's move, carried out from the command line: in a cluster that is at a version which knows no jobs.
//!
//! Owns: looks at the cluster, changes asked for, progress told. Must never: decide a step (`synod_cluster::jobs` does), or ask for one
//! without the epoch that it was decided in. Interrupted anywhere, the same command goes on where it ended.

use std::time::Duration;

use synod_client::{Client, ClusterMap, Error, ShardInfo};
use synod_cluster::ids::NodeId;
use synod_cluster::jobs::move_replica::{self, MoveReplica, Seen, Step};
use synod_paxos::types::MemberRole;
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::{CliError, Result};
use super::jobs::PATIENCE;
use super::output::json;
use super::status;

/// Pause between two looks at the cluster.
const PACE: Duration = Duration::from_millis(100);

/// A shard of the map.
pub fn find(map: &ClusterMap, shard: u64) -> Result<&ShardInfo> {
    map.shards.iter().find(|info| info.id == shard).ok_or_else(|| {
        let message = format!("shard {shard} does not exist; `synod shard list` shows those that do");
        CliError::failed("shard_not_found", message).with("shard", shard)
    })
}

/// A replica that goes.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The shard.
    pub shard: u64,
    /// The node that loses it.
    pub from: u64,
    /// Who gets its vote; `None` where it has none.
    pub to: Option<u64>,
}

/// What is wanted, and what the map and the nodes say of the shard.
fn looked(shard: &ShardInfo, seen: Option<&json::Shard>, Move { from, to, .. }: Move) -> (MoveReplica, Seen) {
    let role = |node: u64| {
        let voter = shard.voters.contains(&node).then_some(MemberRole::Voter);
        voter.or_else(|| shard.learners.contains(&node).then_some(MemberRole::Learner))
    };
    let goal = MoveReplica { from: NodeId(from), to: to.map(NodeId) };
    (goal, Seen { from: role(from), to: to.and_then(role), lag: to.and_then(|to| lag(seen, to)) })
}

/// The next step, by what the map and the nodes say of the shard.
fn next(shard: &ShardInfo, seen: Option<&json::Shard>, wanted: Move) -> Step {
    let (goal, seen) = looked(shard, seen, wanted);
    move_replica::next(goal, seen)
}

/// What a learner lacks, once it has a replica.
fn lag(seen: Option<&json::Shard>, learner: u64) -> Option<u64> {
    let replica = seen?.replicas.iter().find(|replica| replica.node == learner)?;
    if replica.role == "learner" { replica.lag_slots } else { None }
}

fn overtaken(shard: &ShardInfo, seen: Option<&json::Shard>, wanted: Move) -> CliError {
    let (id, voters) = (shard.id, &shard.voters);
    let (goal, seen) = looked(shard, seen, wanted);
    let by = move_replica::overtaken_by(goal, seen);
    let message = format!("shard {id}: another command {by}; the voters are {voters:?}");
    CliError::failed("overtaken", message).with("shard", id).with("voters", voters.clone())
}

/// Whether the leader and the map seen here know different things: it does not know a node that has just joined, or the map
/// does not tell of the epoch that it is in.
fn is_behind(error: &Error) -> bool {
    matches!(error, Error::InvalidArgument { field, .. } if field == "node")
        || matches!(error, Error::WrongEpoch { .. })
}

/// Takes step after step until `to` has the vote that `from` had.
pub async fn take(context: &Context, client: &Client, wanted: Move) -> Result<()> {
    let patience = context.options(PATIENCE).call_timeout;
    let id = wanted.shard;
    let mut last = (0, None);
    let mut moved = Instant::now();
    let mut trouble: Option<CliError> = None;
    // Whether a change was asked for here that the map does not show yet.
    let mut asked = false;
    loop {
        // A look that fails says nothing of the move.
        match client.refresh_map().await {
            Err(error) if error.retryable() => trouble = Some(error.into()),
            Err(error) => return Err(error.into()),
            Ok(map) => {
                let shard = find(&map, id)?;
                let status = status::combine(&map, &client.status().await);
                let seen = status.shards.iter().find(|shard| shard.id == id);
                let step = next(shard, seen, wanted);
                let at = (shard.epoch, if let Step::Wait(lag) = &step { Some(*lag) } else { None });
                if at != last {
                    (last, moved, asked) = (at, Instant::now(), false);
                    context.progress(&told(&step, wanted));
                }
                match step {
                    Step::Done => return Ok(()),
                    Step::Overtaken => return Err(overtaken(shard, seen, wanted)),
                    // Nothing is undone here.
                    Step::Wait(_) | Step::Undone => {}
                    Step::Change(change) => {
                        let changed = client.change_members(id, shard.epoch, change.into()).await;
                        asked |= matches!(changed, Ok(()) | Err(Error::OutcomeUnknown { .. }));
                        trouble = in_the_way(changed)?;
                    }
                }
            }
        }
        if moved.elapsed() > patience {
            return Err(stuck(wanted, patience, trouble, asked));
        }
        sleep(PACE).await;
    }
}

/// What keeps a change from being made for now; an error is one that time does not mend.
fn in_the_way(changed: std::result::Result<(), Error>) -> Result<Option<CliError>> {
    match changed {
        Ok(()) => Ok(None),
        // The leadership is changing, or the last change is not in force everywhere: the map will tell.
        Err(error) if error.retryable() || is_behind(&error) => Ok(Some(error.into())),
        Err(error @ Error::OutcomeUnknown { .. }) => Ok(Some(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// What is done, for who watches.
fn told(step: &Step, Move { shard, from, to }: Move) -> String {
    let node = to.unwrap_or(from);
    match step {
        Step::Done if to.is_none() => format!("shard {shard}: node {from} learns no more"),
        Step::Done => format!("shard {shard}: node {node} votes in the place of node {from}"),
        Step::Change(change) => format!("shard {shard}: {change}"),
        Step::Wait(Some(lag)) => format!("shard {shard}: node {node} lacks {lag} slots"),
        Step::Wait(None) => format!("shard {shard}: node {node} waits for a snapshot"),
        Step::Overtaken | Step::Undone => format!("shard {shard}: another command changed its members"),
    }
}

/// A step that was asked for may yet be taken; where none was, nothing is left to come.
fn stuck(Move { shard, from, to }: Move, patience: Duration, trouble: Option<CliError>, asked: bool) -> CliError {
    let node = to.unwrap_or(from);
    let why = trouble.map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!(
        "shard {shard}: node {node} made no progress for {}{why}; nothing is lost: the same command goes on from here",
        humantime::format_duration(patience)
    );
    let error = if asked { CliError::unknown("not_moved", message) } else { CliError::failed("not_moved", message) };
    error.with("shard", shard).with("to", node).retryable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::members::MemberChange;

    fn shard(voters: &[u64], learners: &[u64]) -> ShardInfo {
        ShardInfo {
            id: 5,
            table_id: 7,
            from: Default::default(),
            to: Default::default(),
            version: 1,
            epoch: 1,
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            leader: None,
        }
    }

    fn seen(role: &str, lag: Option<u64>) -> json::Shard {
        json::Shard {
            id: 5,
            table: None,
            bounds: json::Bounds::Keys { from: vec![], to: vec![] },
            changes: json::Changes { epoch: 1, version: 1 },
            leader: Some(1),
            replicas: vec![json::Replica {
                node: 4,
                role: role.into(),
                lag_slots: lag,
                commit: None,
                applied: None,
                unborn: false,
            }],
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        }
    }

    const WANTED: Move = Move { shard: 5, from: 3, to: Some(4) };

    #[test]
    fn a_step_is_told_in_words() {
        let words = |change| told(&Step::Change(change), WANTED);
        assert_eq!(words(MemberChange::Learn(NodeId(4))), "shard 5: node 4 added as a learner");
        let swap = MemberChange::Promote { node: NodeId(4), instead_of: Some(NodeId(3)) };
        assert_eq!(words(swap), "shard 5: node 4 replaces node 3 as a voter");
        assert_eq!(words(MemberChange::Remove(NodeId(4))), "shard 5: node 4 removed");
    }

    #[test]
    fn a_replica_moves_step_by_step_and_goes_on_where_it_was_left() {
        assert_eq!(next(&shard(&[1, 2, 3], &[]), None, WANTED), Step::Change(MemberChange::Learn(NodeId(4))));
        let learning = shard(&[1, 2, 3], &[4]);
        assert_eq!(next(&learning, None, WANTED), Step::Wait(None));
        assert_eq!(next(&learning, Some(&seen("unknown", Some(0))), WANTED), Step::Wait(None), "it has no replica yet");
        assert_eq!(next(&learning, Some(&seen("learner", Some(1_001))), WANTED), Step::Wait(Some(1_001)));
        let swap = MemberChange::Promote { node: NodeId(4), instead_of: Some(NodeId(3)) };
        assert_eq!(next(&learning, Some(&seen("learner", Some(1_000))), WANTED), Step::Change(swap));
        assert_eq!(next(&shard(&[1, 2, 4], &[]), None, WANTED), Step::Done);
    }

    #[test]
    fn a_move_that_another_was_before_leaves_the_group_its_voters() {
        // Another took the vote to the same node: what is left to do for this one would only take a vote away.
        let taken = shard(&[2, 3, 4], &[]);
        assert_eq!(next(&taken, None, WANTED), Step::Overtaken);
        assert!(overtaken(&taken, None, WANTED).message().contains("gave node 4 a vote, node 3 keeps its own"));
        // Another took the old member's: a further voter is nobody's wish, and the learner goes again.
        let replaced = shard(&[1, 2, 5], &[4]);
        assert_eq!(
            next(&replaced, Some(&seen("learner", Some(0))), WANTED),
            Step::Change(MemberChange::Remove(NodeId(4)))
        );
        let replaced = shard(&[1, 2, 5], &[]);
        assert_eq!(next(&replaced, None, WANTED), Step::Overtaken);
        assert!(overtaken(&replaced, None, WANTED).message().contains("took the vote of node 3"));
    }

    #[test]
    fn a_learner_that_was_left_behind_goes_without_another_in_its_place() {
        let learner = Move { shard: 5, from: 4, to: None };
        assert_eq!(next(&shard(&[1, 2, 3], &[4]), None, learner), Step::Change(MemberChange::Remove(NodeId(4))));
        assert_eq!(next(&shard(&[1, 2, 3], &[]), None, learner), Step::Done);
        assert_eq!(next(&shard(&[1, 2, 4], &[]), None, learner), Step::Overtaken);
    }
}
