//! `synod shard move`, `synod node`: who holds a shard's replicas.
//!
//! Owns: how a move is carried out from here: looks at the cluster, changes asked for, progress told. Must never: decide a step
//! (`synod_cluster::jobs` does), or ask for one without the epoch that it was decided in. Interrupted anywhere, the same command goes
//! on where it ended.

use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, ClusterMap, Error, ShardInfo};
use synod_cluster::ids::NodeId;
use synod_cluster::jobs::move_replica::{self, MoveReplica, Seen, Step};
use synod_cluster::members::MemberChange;
use synod_cluster::system::no_such_node;
use synod_paxos::types::MemberRole;
use tokio::time::{Instant, sleep};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::output::json;
use super::status;

/// Pause between two looks at the cluster.
const PACE: Duration = Duration::from_millis(100);
/// How long a step may make no progress, where `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(60);
/// `node`.
#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Move every replica of a node, lost or alive, to another; can be interrupted and run again
    Replace {
        /// The node whose replicas go
        node: u64,
        /// The node that gets them: one that has joined the cluster
        #[arg(long, value_name = "NODE")]
        with: u64,
    },
    /// Take a node that holds no replica out of the cluster for good; one that is not there is no error, so it can be repeated
    Remove {
        /// The node
        node: u64,
    },
}

/// Runs `node`.
pub async fn run(context: &mut Context, args: NodeArgs) -> Result<()> {
    match args.command {
        NodeCommand::Replace { node, with } => replace(context, node, with).await,
        NodeCommand::Remove { node } => remove(context, node).await,
    }
}

async fn remove(context: &mut Context, node: u64) -> Result<()> {
    let client = context.connect().await?;
    let was_there = match client.remove_node(node).await {
        Ok(()) => true,
        // The system shard has looked; a map that this client knows may be older.
        Err(Error::InvalidArgument { why, .. }) if why == no_such_node(NodeId(node)) => false,
        Err(error) => {
            let how =
                format!("`synod status` shows whether node {node} is still there; the same command can be repeated");
            return Err(to_be_repeated(error, &how));
        }
    };
    let done = serde_json::json!({ "removed": node, "was_there": was_there });
    context.out.done(&done, |_| {
        vec![if was_there {
            format!("node {node} was removed from the cluster")
        } else {
            format!("node {node} is not in the cluster (removed already, or never added)")
        }]
    })
}

async fn replace(context: &mut Context, old: u64, new: u64) -> Result<()> {
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    let held: Vec<ShardInfo> = map.shards.iter().filter(|shard| is_member(shard, old)).cloned().collect();
    // One that can take no further replica is named before anything moves.
    if let Some(both) = held.iter().find(|shard| shard.voters.contains(&old) && shard.voters.contains(&new)) {
        let why = format!(
            "node {new} has a replica of shard {} already; move that one elsewhere: synod shard move {} --from {old} --to NODE",
            both.id, both.id
        );
        return Err(CliError::usage("--with", why).with("shard", both.id));
    }
    known(&map, "NODE", old)?;
    known(&map, "--with", new)?;
    for shard in &held {
        // A learner that an earlier move left behind has no vote that another could take: it goes.
        let to = shard.voters.contains(&old).then_some(new);
        take(context, &client, Move { shard: shard.id, from: old, to }).await?;
    }
    let shards: Vec<u64> = held.iter().map(|shard| shard.id).collect();
    let done = serde_json::json!({ "node": old, "with": new, "shards": shards });
    context.out.done(&done, |_| {
        vec![format!(
            "{} replicas of node {old} are on node {new} now; `synod node remove {old}` takes it out of the cluster",
            shards.len()
        )]
    })
}

/// Runs `shard move`.
pub async fn move_shard(context: &mut Context, shard: u64, from: u64, to: u64) -> Result<()> {
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    let info = find(&map, shard)?;
    known(&map, "--from", from)?;
    known(&map, "--to", to)?;
    let (leaves, votes) = (info.voters.contains(&from), info.voters.contains(&to));
    if !leaves && !votes {
        let why = format!("node {from} has no replica of shard {shard} that votes; the voters are {:?}", info.voters);
        return Err(CliError::usage("--from", why).with("shard", shard));
    }
    if leaves && votes {
        let why = format!("node {to} has a replica of shard {shard} already");
        return Err(CliError::usage("--to", why).with("shard", shard));
    }
    take(context, &client, Move { shard, from, to: Some(to) }).await?;
    let done = serde_json::json!({ "shard": shard, "from": from, "to": to });
    context.out.done(&done, |_| vec![format!("the replica of shard {shard} on node {from} is on node {to} now")])
}

fn find(map: &ClusterMap, shard: u64) -> Result<&ShardInfo> {
    map.shards.iter().find(|info| info.id == shard).ok_or_else(|| {
        let message = format!("shard {shard} does not exist; `synod shard list` shows those that do");
        CliError::failed("shard_not_found", message).with("shard", shard)
    })
}

fn known(map: &ClusterMap, flag: &str, node: u64) -> Result<()> {
    if map.nodes.iter().any(|info| info.id == node) {
        return Ok(());
    }
    Err(CliError::usage(flag, format!("there is no node {node}; `synod status` shows those that there are")))
}

fn is_member(shard: &ShardInfo, node: u64) -> bool {
    shard.voters.contains(&node) || shard.learners.contains(&node)
}

/// A replica that goes.
#[derive(Clone, Copy, Debug)]
struct Move {
    shard: u64,
    from: u64,
    /// Who gets its vote; `None` where it has none.
    to: Option<u64>,
}

/// The next step, by what the map and the nodes say of the shard.
fn next(shard: &ShardInfo, seen: Option<&json::Shard>, Move { from, to, .. }: Move) -> Step {
    let role = |node: u64| {
        let voter = shard.voters.contains(&node).then_some(MemberRole::Voter);
        voter.or_else(|| shard.learners.contains(&node).then_some(MemberRole::Learner))
    };
    let goal = MoveReplica { from: NodeId(from), to: to.map(NodeId) };
    move_replica::next(goal, Seen { from: role(from), to: to.and_then(role), lag: to.and_then(|to| lag(seen, to)) })
}

/// What a learner lacks, once it has a replica.
fn lag(seen: Option<&json::Shard>, learner: u64) -> Option<u64> {
    let replica = seen?.replicas.iter().find(|replica| replica.node == learner)?;
    if replica.role == "learner" { replica.lag_slots } else { None }
}

fn overtaken(shard: &ShardInfo, Move { from, to, .. }: Move) -> CliError {
    let (id, voters) = (shard.id, &shard.voters);
    let who = match to {
        Some(to) if voters.contains(&to) => format!("gave node {to} a vote, node {from} keeps its own"),
        Some(to) => format!("took the vote of node {from}, node {to} has none to take"),
        None => format!("gave node {from} a vote"),
    };
    let message = format!("shard {id}: another command {who}; the voters are {voters:?}");
    CliError::failed("overtaken", message).with("shard", id).with("voters", voters.clone())
}

/// Whether the leader and the map seen here know different things: it does not know a node that has just joined, or the map
/// does not tell of the epoch that it is in.
fn is_behind(error: &Error) -> bool {
    matches!(error, Error::InvalidArgument { field, .. } if field == "node")
        || matches!(error, Error::WrongEpoch { .. })
}

/// Takes step after step until `to` has the vote that `from` had.
async fn take(context: &Context, client: &Client, wanted: Move) -> Result<()> {
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
                let at = (shard.config, if let Step::Wait(lag) = &step { Some(*lag) } else { None });
                if at != last {
                    (last, moved, asked) = (at, Instant::now(), false);
                    context.progress(&told(&step, wanted));
                }
                match step {
                    Step::Done => return Ok(()),
                    Step::Overtaken => return Err(overtaken(shard, wanted)),
                    Step::Wait(_) => {}
                    Step::Change(change) => {
                        let changed = client.change_members(id, shard.config, change.into()).await;
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
        Step::Change(change) => format!("shard {shard}: {}", changed(*change)),
        Step::Wait(Some(lag)) => format!("shard {shard}: node {node} lacks {lag} slots"),
        Step::Wait(None) => format!("shard {shard}: node {node} waits for a snapshot"),
        Step::Overtaken => format!("shard {shard}: another command changed its members"),
    }
}

fn changed(change: MemberChange) -> String {
    match change {
        MemberChange::Learn(node) => format!("node {node} added as a learner"),
        MemberChange::Promote { node, instead_of: Some(old) } => format!("node {node} replaces node {old} as a voter"),
        MemberChange::Promote { node, instead_of: None } => format!("node {node} added as a voter"),
        MemberChange::Remove(node) => format!("node {node} removed"),
    }
}

/// A step that was asked for may yet be taken; where none was, nothing is left to come.
fn stuck(Move { shard, from, to }: Move, patience: Duration, trouble: Option<CliError>, asked: bool) -> CliError {
    let node = to.unwrap_or(from);
    let why = trouble.map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!(
        "shard {shard}: node {node} did not get on for {}{why}; nothing is lost: the same command goes on from here",
        humantime::format_duration(patience)
    );
    let error = if asked { CliError::unknown("not_moved", message) } else { CliError::failed("not_moved", message) };
    error.with("shard", shard).with("to", node).retryable()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(voters: &[u64], learners: &[u64]) -> ShardInfo {
        ShardInfo {
            id: 5,
            table_id: 7,
            from: Default::default(),
            to: Default::default(),
            version: 1,
            config: 1,
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
            epoch: json::Epoch { config: 1, version: 1 },
            leader: Some(1),
            replicas: vec![json::Replica { node: 4, role: role.into(), lag_slots: lag, commit: None, applied: None }],
            scrub: None,
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
        assert!(overtaken(&taken, WANTED).message().contains("gave node 4 a vote, node 3 keeps its own"));
        // Another took the old member's: a further voter is nobody's wish, and the learner goes again.
        let replaced = shard(&[1, 2, 5], &[4]);
        assert_eq!(
            next(&replaced, Some(&seen("learner", Some(0))), WANTED),
            Step::Change(MemberChange::Remove(NodeId(4)))
        );
        let replaced = shard(&[1, 2, 5], &[]);
        assert_eq!(next(&replaced, None, WANTED), Step::Overtaken);
        assert!(overtaken(&replaced, WANTED).message().contains("took the vote of node 3"));
    }

    #[test]
    fn a_learner_that_was_left_behind_goes_without_another_in_its_place() {
        let learner = Move { shard: 5, from: 4, to: None };
        assert_eq!(next(&shard(&[1, 2, 3], &[4]), None, learner), Step::Change(MemberChange::Remove(NodeId(4))));
        assert_eq!(next(&shard(&[1, 2, 3], &[]), None, learner), Step::Done);
        assert_eq!(next(&shard(&[1, 2, 4], &[]), None, learner), Step::Overtaken);
    }
}
