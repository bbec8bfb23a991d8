//! `synod shard`: list and describe shards, compare their replicas, hand leadership over, move replicas (`members`), split
//! and merge shards (`splits`, `merges`).
//!
//! Owns the choice of the next leader where none is named. Must never call a transfer done before the new leader says
//! so itself.

use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, Error};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::{CliError, Result};
use super::output::{json, text};
use super::{members, merges, splits, status};

/// Time after which an incomplete comparison is asked for again. One that is under way is not begun anew.
const SCRUB_AGAIN: Duration = Duration::from_secs(10);

/// `shard`.
#[derive(Args, Debug)]
pub struct ShardArgs {
    #[command(subcommand)]
    command: ShardCommand,
}

#[derive(Debug, Subcommand)]
enum ShardCommand {
    /// List the shards of a table, or all
    List {
        /// Only shards of this table
        table: Option<String>,
    },
    /// Show one shard and its replicas
    Describe {
        /// The shard's number
        shard: u64,
    },
    /// Compare all replicas of shards at one slot, and read everything they have stored; exit code 1 where they differ
    Scrub {
        /// The shards' numbers [default: all]
        shards: Vec<u64>,
    },
    /// Hand a shard's leadership to another of its replicas, without a pause for an election; can be repeated
    TransferLeader {
        /// The shard's number
        shard: u64,
        /// The node to lead it [default: the next of its replicas]
        #[arg(long, value_name = "NODE")]
        to: Option<u64>,
    },
    /// Move a replica to another node: it learns, catches up, then takes the other's place; the move goes on where the command is
    /// interrupted
    Move {
        /// The shard's number
        shard: u64,
        /// The node whose replica is removed
        #[arg(long, value_name = "NODE")]
        from: u64,
        /// The node that gets it
        #[arg(long, value_name = "NODE")]
        to: u64,
        /// Only begin the move, and print its job's number
        #[arg(long, visible_alias = "no-wait")]
        detach: bool,
    },
    /// Make two shards of one; the split goes on where the command is interrupted
    Split(splits::SplitArgs),
    /// Make one shard of two neighbours; the merge goes on where the command is interrupted
    Merge(merges::MergeArgs),
}

/// Runs `shard`.
pub async fn run(context: &mut Context, args: ShardArgs) -> Result<()> {
    match args.command {
        ShardCommand::List { table } => list(context, table).await,
        ShardCommand::Describe { shard } => {
            let shard = find(status::fetch(context).await?, shard)?;
            context.out.value(&shard, as_text)
        }
        ShardCommand::Scrub { shards } => scrub(context, shards).await,
        ShardCommand::TransferLeader { shard, to } => transfer(context, shard, to).await,
        ShardCommand::Move { shard, from, to, detach } => members::move_shard(context, shard, from, to, detach).await,
        ShardCommand::Split(args) => splits::split_shard(context, args).await,
        ShardCommand::Merge(args) => merges::merge_shards(context, args).await,
    }
}

async fn list(context: &mut Context, table: Option<String>) -> Result<()> {
    let mut shards = status::fetch(context).await?.shards;
    if let Some(table) = table {
        // Asked by name so that an unknown table is an error, not an empty list.
        context.connect().await?.table(&table).await?;
        shards.retain(|shard| shard.table.as_deref() == Some(&table));
    }
    if context.out.json() {
        return shards.iter().try_for_each(|shard| context.out.object(shard));
    }
    status::shard_lines(&shards).iter().try_for_each(|line| context.out.line(line))
}

fn find(status: json::Status, id: u64) -> Result<json::Shard> {
    status.shards.into_iter().find(|shard| shard.id == id).ok_or_else(|| {
        let message = format!("shard {id} does not exist; `synod shard list` shows those that do");
        CliError::failed("shard_not_found", message).with("shard", id)
    })
}

fn as_text(shard: &json::Shard) -> Vec<String> {
    let mut lines = vec![
        format!("shard {} of table {}", shard.id, shard.table.as_deref().unwrap_or("(system)")),
        format!("  bounds {}", text::bounds(&shard.bounds)),
        format!(
            "  epoch {} (changes of members), version {} (changes of bounds)",
            shard.changes.epoch, shard.changes.version
        ),
        format!("  leader {}", text::or_dash(shard.leader)),
    ];
    lines.extend(shard.merge.as_ref().map(|merge| format!("  {}", merge.in_words())));
    let mut rows = text::table(&["node", "role", "lag", "commit", "applied"]);
    for replica in &shard.replicas {
        rows.add_row([
            replica.node.to_string(),
            replica.role.clone(),
            text::or_dash(replica.lag_slots),
            text::or_dash(replica.commit),
            text::or_dash(replica.applied),
        ]);
    }
    lines.extend(text::lines(&rows));
    lines
}

/// Asks the next replica of a shard to lead it, and gives its node. Whether it comes about is seen in the status.
pub async fn hand_over(client: &Client, id: u64) -> Result<u64> {
    let target = next_leader(&find(status::look(client).await?, id)?)?;
    ask_to_lead(client, id, target).await?;
    Ok(target)
}

async fn ask_to_lead(client: &Client, id: u64, target: u64) -> Result<()> {
    match client.transfer_leader(id, target).await {
        // Asked for, perhaps: whether it comes about is seen in the status.
        Ok(()) | Err(Error::OutcomeUnknown { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn transfer(context: &mut Context, id: u64, to: Option<u64>) -> Result<()> {
    let client = context.connect().await?;
    let look = async || -> Result<json::Shard> { find(status::look(&client).await?, id) };
    let shard = look().await?;
    let target = match to {
        Some(node) => node,
        None => next_leader(&shard)?,
    };
    if shard.leader == Some(target) {
        let done = serde_json::json!({ "shard": id, "leader": target, "from": target });
        return context.out.done(&done, |_| vec![format!("node {target} leads shard {id} already")]);
    }
    ask_to_lead(&client, id, target).await?;
    let limit = client_patience(context);
    let started = Instant::now();
    loop {
        // A look that fails says nothing of the transfer.
        if look().await.is_ok_and(|shard| shard.leader == Some(target)) {
            let done = serde_json::json!({ "shard": id, "leader": target, "from": shard.leader });
            return context.out.done(&done, |_| vec![format!("node {target} leads shard {id}")]);
        }
        if started.elapsed() > limit {
            let message = format!(
                "node {target} was asked to lead shard {id} and does not lead it yet; `synod status` shows when it does, \
                 and the same command can be repeated"
            );
            return Err(CliError::unknown("not_transferred", message).with("shard", id).with("to", target).retryable());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// One after another: a leader reads one shard at a time.
async fn scrub(context: &mut Context, mut ids: Vec<u64>) -> Result<()> {
    let client = context.connect().await?;
    let look = async || -> Result<json::Status> { status::look(&client).await };
    if ids.is_empty() {
        ids = look().await?.shards.iter().map(|shard| shard.id).collect();
    }
    let (mut found, mut diverged) = (Vec::new(), Vec::new());
    for id in ids {
        find(look().await?, id)?;
        let shard = scrubbed(context, &client, &look, id).await?;
        diverged.extend(status::divergence(&shard));
        found.extend(shard.scrub.map(|scrub| (id, scrub)));
    }
    if context.out.json() {
        let shards: Vec<_> =
            found.iter().map(|(id, scrub)| serde_json::json!({ "shard": id, "scrub": scrub })).collect();
        context.out.object(&serde_json::json!({ "shards": shards }))?;
    } else {
        for (id, json::Scrub { slot, compared, equal, .. }) in &found {
            let how = if *equal { "equal" } else { "DIFFERENT" };
            context.out.line(format!("shard {id}: {} replicas at slot {slot}: {how}", compared.len()))?;
        }
    }
    match diverged.first() {
        None => Ok(()),
        Some(_) => Err(CliError::failed("diverged", diverged.join("; "))),
    }
}

/// Has a shard's replicas compared, and waits until every one that answers was.
async fn scrubbed(
    context: &Context,
    client: &Client,
    look: &impl AsyncFn() -> Result<json::Status>,
    id: u64,
) -> Result<json::Shard> {
    let limit = context.options(Duration::from_secs(600)).call_timeout;
    let at = client.scrub(id).await?;
    let (started, mut asked) = (Instant::now(), Instant::now());
    let mut shard = find(look().await?, id)?;
    loop {
        if asked.elapsed() > SCRUB_AGAIN {
            // A replica that was still being read passed the marker over. Where that cannot be asked for now it is next time.
            let _ = client.scrub(id).await;
            asked = Instant::now();
        }
        // A look that fails says nothing of the comparison; a shard that went does.
        if let Ok(status) = look().await {
            shard = find(status, id)?;
        }
        let answering = shard.replicas.iter().filter(|r| r.applied.is_some() && r.role != "reinstalling").count();
        let compared = shard.scrub.as_ref().filter(|scrub| scrub.slot >= at).map_or(0, |scrub| scrub.compared.len());
        if compared >= answering.max(1) {
            return Ok(shard);
        }
        if started.elapsed() > limit {
            let message = format!(
                "shard {id}: {compared} of {answering} replicas were read in time; `synod status` shows the result once all are \
                 read, and the same command can be repeated"
            );
            return Err(CliError::unknown("not_scrubbed", message).with("shard", id).retryable());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn client_patience(context: &Context) -> Duration {
    context.options(Duration::from_secs(10)).call_timeout
}

/// The replica after the leader, in the order of node numbers, that answers.
fn next_leader(shard: &json::Shard) -> Result<u64> {
    let followers: Vec<u64> =
        shard.replicas.iter().filter(|replica| replica.role == "follower").map(|replica| replica.node).collect();
    let after = followers.iter().find(|node| Some(**node) > shard.leader);
    after.or(followers.first()).copied().ok_or_else(|| {
        let message = format!("shard {} has no other replica that answers", shard.id);
        CliError::failed("unavailable", message).with("shard", shard.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(leader: u64, roles: &[(u64, &str)]) -> json::Shard {
        let replica = |(node, role): &(u64, &str)| json::Replica {
            node: *node,
            role: (*role).to_owned(),
            lag_slots: None,
            commit: None,
            applied: None,
            unborn: false,
        };
        json::Shard {
            id: 2,
            table: None,
            bounds: json::Bounds::Keys { from: vec![], to: vec![] },
            changes: json::Changes { epoch: 1, version: 1 },
            leader: Some(leader),
            replicas: roles.iter().map(replica).collect(),
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        }
    }

    #[test]
    fn the_next_leader_is_the_next_replica_that_answers() {
        let roles = [(1, "follower"), (2, "leader"), (3, "follower")];
        assert_eq!(next_leader(&shard(2, &roles)).unwrap(), 3);
        let roles = [(1, "follower"), (2, "unknown"), (3, "leader")];
        assert_eq!(next_leader(&shard(3, &roles)).unwrap(), 1);
        assert!(next_leader(&shard(1, &[(1, "leader"), (2, "unknown")])).is_err());
    }
}
