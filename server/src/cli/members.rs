//! `synod shard move`, `synod node`: who holds a shard's replicas.
//!
//! Owns the order of the steps by which a replica moves: the new member learns, catches up, then takes the old one's place in
//! one change. Must never take a vote away before another member has caught up; interrupted anywhere, the same command goes
//! on where it ended.

use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, ClusterMap, MemberChange, ShardInfo};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::{CliError, Result};
use super::output::json;
use super::status;

/// The cluster is looked at so often.
const PACE: Duration = Duration::from_millis(100);
/// How long a step may take in which nothing gets on, where `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(60);
/// A learner that lacks no more slots than this gets its vote; the servers hold to the same.
const CAUGHT_UP: u64 = 1_000;

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
    /// Take a node that holds no replica out of the cluster for good
    Remove {
        /// The node
        node: u64,
    },
}

/// Runs `node`.
pub async fn run(context: &mut Context, args: NodeArgs) -> Result<()> {
    match args.command {
        NodeCommand::Replace { node, with } => replace(context, node, with).await,
        NodeCommand::Remove { node } => {
            context.connect().await?.remove_node(node).await?;
            let done = serde_json::json!({ "removed": node });
            context.out.value(&done, |_| vec![format!("node {node} is no node of the cluster any more")])
        }
    }
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
    known(&map, "--with", new)?;
    for shard in &held {
        move_replica(context, &client, shard.id, old, new).await?;
    }
    let shards: Vec<u64> = held.iter().map(|shard| shard.id).collect();
    let done = serde_json::json!({ "node": old, "with": new, "shards": shards });
    context.out.value(&done, |_| {
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
    let done_before = info.voters.contains(&to) && !is_member(info, from);
    if !is_member(info, from) && !done_before {
        let why = format!("node {from} has no replica of shard {shard}; its members are {:?}", info.voters);
        return Err(CliError::usage("--from", why).with("shard", shard));
    }
    if is_member(info, from) && info.voters.contains(&to) {
        let why = format!("node {to} has a replica of shard {shard} already");
        return Err(CliError::usage("--to", why).with("shard", shard));
    }
    move_replica(context, &client, shard, from, to).await?;
    let done = serde_json::json!({ "shard": shard, "from": from, "to": to });
    context.out.value(&done, |_| vec![format!("the replica of shard {shard} on node {from} is on node {to} now")])
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

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Done,
    Change(MemberChange),
    /// The learner catches up; what it lacks, as far as the leader says.
    Wait(Option<u64>),
}

fn next(shard: &ShardInfo, seen: Option<&json::Shard>, from: u64, to: u64) -> Step {
    let replaced = is_member(shard, from).then_some(from);
    if shard.voters.contains(&to) {
        return replaced.map_or(Step::Done, |node| Step::Change(MemberChange::Remove(node)));
    }
    if !shard.learners.contains(&to) {
        return Step::Change(MemberChange::Learn(to));
    }
    let replica = seen.and_then(|seen| seen.replicas.iter().find(|replica| replica.node == to));
    let lag = replica.filter(|replica| replica.role == "learner").and_then(|replica| replica.lag_slots);
    match lag {
        Some(lag) if lag <= CAUGHT_UP => Step::Change(MemberChange::Promote { node: to, instead_of: replaced }),
        lag => Step::Wait(lag),
    }
}

/// Whether the leader's map may be older than the one seen here, which names both nodes: it does not know one that has just
/// joined, or not yet as a learner.
fn is_behind(error: &synod_client::Error) -> bool {
    matches!(error, synod_client::Error::InvalidArgument { field, .. } if field == "node")
}

/// Takes step after step until `to` has the vote that `from` had.
async fn move_replica(context: &Context, client: &Client, id: u64, from: u64, to: u64) -> Result<()> {
    let patience = context.options(PATIENCE).call_timeout;
    let mut last = (0, None);
    let mut moved = Instant::now();
    let mut trouble: Option<CliError> = None;
    loop {
        let map = client.refresh_map().await?;
        let shard = find(&map, id)?;
        let status = status::combine(&map, &client.status().await);
        let seen = status.shards.iter().find(|shard| shard.id == id);
        let step = next(shard, seen, from, to);
        let at = (shard.config, if let Step::Wait(lag) = &step { *lag } else { None });
        if at != last {
            (last, moved) = (at, Instant::now());
            context.progress(&match &step {
                Step::Done => format!("shard {id}: node {to} votes in the place of node {from}"),
                Step::Change(change) => format!("shard {id}: {change:?}"),
                Step::Wait(Some(lag)) => format!("shard {id}: node {to} lacks {lag} slots"),
                Step::Wait(None) => format!("shard {id}: node {to} waits for a snapshot"),
            });
        }
        match step {
            Step::Done => return Ok(()),
            Step::Wait(_) => {}
            Step::Change(change) => match client.change_members(id, change).await {
                Ok(()) => trouble = None,
                // The leadership is changing, or the last change is not in force everywhere: the map will tell.
                Err(error) if error.retryable() || is_behind(&error) => trouble = Some(error.into()),
                Err(error) => return Err(error.into()),
            },
        }
        if moved.elapsed() > patience {
            let why = trouble.map(|error| format!(": {error}")).unwrap_or_default();
            let message = format!(
                "shard {id}: node {to} did not get on for {}{why}; nothing is lost: the same command goes on from here",
                humantime::format_duration(patience)
            );
            return Err(CliError::failed("not_moved", message).with("shard", id).with("to", to).retryable());
        }
        sleep(PACE).await;
    }
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

    #[test]
    fn a_replica_moves_step_by_step_and_goes_on_where_it_was_left() {
        assert_eq!(next(&shard(&[1, 2, 3], &[]), None, 3, 4), Step::Change(MemberChange::Learn(4)));
        let learning = shard(&[1, 2, 3], &[4]);
        assert_eq!(next(&learning, None, 3, 4), Step::Wait(None));
        assert_eq!(next(&learning, Some(&seen("unknown", Some(0))), 3, 4), Step::Wait(None), "it has no replica yet");
        assert_eq!(next(&learning, Some(&seen("learner", Some(1_001))), 3, 4), Step::Wait(Some(1_001)));
        let swap = MemberChange::Promote { node: 4, instead_of: Some(3) };
        assert_eq!(next(&learning, Some(&seen("learner", Some(1_000))), 3, 4), Step::Change(swap));
        // Somebody gave it a vote and left the old member.
        assert_eq!(next(&shard(&[1, 2, 3, 4], &[]), None, 3, 4), Step::Change(MemberChange::Remove(3)));
        assert_eq!(next(&shard(&[1, 2, 4], &[]), None, 3, 4), Step::Done);
    }
}
