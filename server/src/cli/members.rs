//! `synod shard move`, `synod node`: who holds a shard's replicas.
//!
//! Owns: what a move is asked for with, and the words for how it ended. Must never: carry a step of it out where the cluster does so by
//! itself, as a job. Interrupted anywhere, the job goes on, and the same command watches it.

use clap::{Args, Subcommand};
use synod_client::{Client, ClusterMap, Error, JobGoal, ShardInfo};
use synod_cluster::ids::{ClusterVersion, NodeId};
use synod_cluster::system::{CLUSTER_VERSION, JOBS, no_such_node};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::jobs;
use super::moves::{self, Move, find};
use super::nodes::{self, EmptyArgs};

/// `node`.
#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the nodes: whether each takes replicas, and how many it has
    List,
    /// Move every replica of a node to others; it stays in the cluster, and nothing is placed on it until it is recommissioned
    Drain(EmptyArgs),
    /// Move every replica of a node to others, then take it out of the cluster for good
    Decommission(EmptyArgs),
    /// Have a node that is drained, or about to be emptied, take replicas again; what has left it stays where it is
    Recommission {
        /// The node
        node: u64,
    },
    /// Move every replica of a node, lost or alive, to another; the moves go on where the command is interrupted
    Replace {
        /// The node whose replicas go
        node: u64,
        /// The node that gets them: one that has joined the cluster
        #[arg(long, value_name = "NODE")]
        with: u64,
        /// Only begin the moves, and print their jobs' numbers
        #[arg(long, visible_alias = "no-wait")]
        detach: bool,
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
        NodeCommand::List => nodes::list(context).await,
        NodeCommand::Drain(args) => nodes::empty(context, args, false).await,
        NodeCommand::Decommission(args) => nodes::empty(context, args, true).await,
        NodeCommand::Recommission { node } => nodes::recommission(context, node).await,
        NodeCommand::Replace { node, with, detach } => replace(context, node, with, detach).await,
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

async fn replace(context: &mut Context, old: u64, new: u64, detach: bool) -> Result<()> {
    if old == new {
        return Err(CliError::usage("--with", format!("node {new} cannot take its own place")));
    }
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
    // A learner that an earlier move left behind has no vote that another could take: it goes.
    let to = |shard: &ShardInfo| shard.voters.contains(&old).then_some(new);
    let moves: Vec<Move> = held.iter().map(|shard| Move { shard: shard.id, from: old, to: to(shard) }).collect();
    let shards: Vec<u64> = moves.iter().map(|wanted| wanted.shard).collect();
    let jobs = carry_out(context, &client, &map, &moves, detach).await?;
    let done = serde_json::json!({ "node": old, "with": new, "shards": shards, "jobs": jobs });
    context.out.done(&done, |_| {
        vec![if detach {
            format!("{} replicas of node {old} move to node {new}: jobs {}", shards.len(), listed(&jobs))
        } else {
            format!(
                "{} replicas of node {old} are on node {new} now; `synod node remove {old}` takes it out of the cluster",
                shards.len()
            )
        }]
    })
}

fn listed(jobs: &[u64]) -> String {
    let jobs: Vec<String> = jobs.iter().map(u64::to_string).collect();
    if jobs.is_empty() { "none".to_owned() } else { jobs.join(", ") }
}

/// Runs `shard move`.
pub async fn move_shard(context: &mut Context, shard: u64, from: u64, to: u64, detach: bool) -> Result<()> {
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
    if !leaves && map.version >= ClusterVersion::THIRD.0 && !has_moved(&client, shard, from, to).await? {
        let why = format!(
            "node {from} has no replica of shard {shard} that votes, and no move of one from there to node {to} is on record; the \
             voters are {:?}",
            info.voters
        );
        return Err(CliError::usage("--from", why).with("shard", shard));
    }
    let wanted: &[Move] = if leaves { &[Move { shard, from, to: Some(to) }] } else { &[] };
    let job = carry_out(context, &client, &map, wanted, detach).await?.first().copied();
    let done = serde_json::json!({ "shard": shard, "from": from, "to": to, "job": job });
    context.out.done(&done, |_| {
        vec![match job.filter(|_| detach) {
            Some(job) => format!("job {job} moves the replica of shard {shard} from node {from} to node {to}"),
            None => format!("the replica of shard {shard} on node {from} is on node {to} now"),
        }]
    })
}

/// Whether this move was made before, as far as the records of jobs reach.
async fn has_moved(client: &Client, shard: u64, from: u64, to: u64) -> Result<bool> {
    let goal = JobGoal::MoveReplica { shard, from, to: Some(to) };
    Ok(client.jobs().await?.iter().any(|job| job.goal == goal && job.state == "done"))
}

/// Has the cluster carry moves out; unless detached, returns once all are done. The numbers of the jobs; none where the cluster knows no
/// jobs yet and they were carried out from here.
async fn carry_out(
    context: &Context,
    client: &Client,
    map: &ClusterMap,
    moves: &[Move],
    detach: bool,
) -> Result<Vec<u64>> {
    let needed = ClusterVersion::THIRD;
    if map.version < needed.0 {
        if detach {
            let why = format!("the cluster is at version {}, jobs need {needed}: `synod cluster upgrade`", map.version);
            return Err(CliError::usage("--detach", why));
        }
        for wanted in moves {
            moves::take(context, client, *wanted).await?;
        }
        return Ok(Vec::new());
    }
    // All begin before the first is watched: whatever becomes of this command, they go on.
    let mut started = Vec::new();
    for wanted in moves {
        let id = start(context, client, *wanted, &started).await?;
        started.push(id);
    }
    if !detach {
        for id in &started {
            jobs::until_done(context, client, *id).await?;
        }
    }
    Ok(started)
}

/// Begins a job; where as many run as may, waits for the first of those begun before.
async fn start(context: &Context, client: &Client, wanted: Move, started: &[u64]) -> Result<u64> {
    let Move { shard, from, to } = wanted;
    let mut earlier = started.iter();
    loop {
        match client.start_job(JobGoal::MoveReplica { shard, from, to }).await {
            Ok(id) => {
                let goal = jobs::in_words(&JobGoal::MoveReplica { shard, from, to });
                context.progress(&format!("job {id} {goal}; it goes on if this command ends"));
                return Ok(id);
            }
            Err(Error::InvalidArgument { field, why }) if field == JOBS => match earlier.next() {
                Some(id) => jobs::until_done(context, client, *id).await?,
                None => return Err(CliError::failed("too_many_jobs", why).retryable()),
            },
            // The map that was seen here is newer than the shard's leader's state.
            Err(Error::InvalidArgument { field, why }) if field == CLUSTER_VERSION => {
                return Err(CliError::failed("unavailable", why).retryable());
            }
            Err(error) => {
                let how = "`synod job list` shows whether it has begun; the same command can be repeated";
                let error = to_be_repeated(error, how).with("shard", shard);
                return Err(if started.is_empty() {
                    error
                } else {
                    error.followed_by(format!("begun before: jobs {}", listed(started))).with("jobs", started.to_vec())
                });
            }
        }
    }
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
