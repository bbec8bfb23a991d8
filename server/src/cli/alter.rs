//! `synod table alter`: how many replicas each shard of a table has.
//!
//! Owns: what the change is asked for with, what is shown of a plan, and the words for how its jobs ended. Must never: choose a node, or
//! carry a step of a job out: the cluster does. Interrupted anywhere, the jobs go on, and the same command watches them.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};
use synod_client::proto::{AlterTableReply, ResizedShard};
use synod_client::{Client, ClusterMap, Error, JobGoal, limits};
use synod_cluster::ids::ClusterVersion;
use synod_cluster::system::{CLUSTER_VERSION, JOBS};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::jobs;
use super::output::text;

/// `table alter`.
#[derive(Args, Debug)]
pub struct AlterArgs {
    /// The table
    name: String,
    /// Replicas of each of its shards
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    replicas: u32,
    /// Only say which replicas would come and go
    #[arg(long)]
    dry_run: bool,
    /// Wait until every shard has so many; this is the default
    #[arg(long, conflicts_with_all = ["detach", "dry_run"])]
    wait: bool,
    /// Only begin the jobs, and print their numbers
    #[arg(long, visible_alias = "no-wait", conflicts_with = "dry_run")]
    detach: bool,
}

/// Runs `table alter`.
pub async fn run(context: &mut Context, args: AlterArgs) -> Result<()> {
    let AlterArgs { name, replicas, dry_run, wait, detach } = args;
    limits::check_table_name(&name)?;
    let client = context.connect().await?;
    let map = client.refresh_map().await?;
    check_version(&map)?;
    if dry_run {
        let plan = client.plan_alter(&name, replicas).await.map_err(refused)?;
        return context.out.value(&shown(&name, replicas, &plan), |_| as_text(&name, replicas, &plan));
    }
    client.alter_table(&name, replicas).await.map_err(refused)?;
    let begun = running(&client, &name, replicas).await?;
    let waits = wait || !detach;
    if waits {
        for id in &begun {
            jobs::until_done(context, &client, *id).await?;
        }
    }
    let done = json!({ "table": name, "replicas": replicas, "jobs": begun });
    context.out.done(&done, |_| {
        vec![if waits {
            format!("each shard of table {name} has {replicas} replicas; shards that were changed: {}", begun.len())
        } else {
            let listed: Vec<String> = begun.iter().map(u64::to_string).collect();
            format!("table {name} gets {replicas} replicas, by {} jobs: {}", listed.len(), listed.join(", "))
        }]
    })
}

/// The jobs under way that give the table's shards so many replicas.
async fn running(client: &Client, name: &str, replicas: u32) -> Result<Vec<u64>> {
    let map = client.refresh_map().await?;
    let table = map.tables.iter().find(|table| table.name == name).map(|table| table.id);
    let shards: BTreeSet<u64> =
        map.shards.iter().filter(|shard| Some(shard.table_id) == table).map(|shard| shard.id).collect();
    let of_table = |goal: &JobGoal| match goal {
        JobGoal::ResizeShard { shard, voters } => *voters == replicas && shards.contains(shard),
        _ => false,
    };
    let jobs = client.jobs().await?;
    Ok(jobs.iter().filter(|job| !job.has_ended() && of_table(&job.goal)).map(|job| job.id).collect())
}

fn check_version(map: &ClusterMap) -> Result<()> {
    let (version, needed) = (map.version, ClusterVersion::FIFTH);
    if version >= needed.0 {
        return Ok(());
    }
    let why = format!("the cluster is at version {version}, this needs {needed}: `synod cluster upgrade` raises it");
    Err(CliError::failed(CLUSTER_VERSION, why).with("version", version))
}

fn refused(error: Error) -> CliError {
    match error {
        Error::InvalidArgument { field, why } if field == JOBS => CliError::failed("too_many_jobs", why).retryable(),
        // The map that was seen here is newer than the system shard leader's state.
        Error::InvalidArgument { field, why } if field == CLUSTER_VERSION => {
            CliError::failed("unavailable", why).retryable()
        }
        error => {
            let how =
                "`synod table describe` and `synod job list` show what has begun; the same command can be repeated";
            to_be_repeated(error, how)
        }
    }
}

fn shown(name: &str, replicas: u32, plan: &AlterTableReply) -> Value {
    let change = |ResizedShard { shard, node, goes }: &ResizedShard| {
        let word = if *goes { "goes" } else { "comes" };
        json!({ "shard": shard, "node": node, "change": word })
    };
    let changes: Vec<Value> = plan.changes.iter().map(change).collect();
    json!({ "table": name, "replicas": replicas, "dry_run": true, "changes": changes, "refused": plan.refused })
}

fn as_text(name: &str, replicas: u32, plan: &AlterTableReply) -> Vec<String> {
    let mut lines =
        vec![format!("replicas of table {name} that would come or go for {replicas}: {}", plan.changes.len())];
    let mut rows = text::table(&["shard", "node", "replica"]);
    for ResizedShard { shard, node, goes } in &plan.changes {
        let change = if *goes { "goes" } else { "comes" };
        rows.add_row([shard.to_string(), node.to_string(), change.to_owned()]);
    }
    lines.extend(text::lines(&rows));
    lines.extend(plan.refused.iter().map(|why| format!("cannot change now: {}", text::harmless(why))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_what_comes_and_goes() {
        let changes =
            vec![ResizedShard { shard: 7, node: 4, goes: false }, ResizedShard { shard: 8, node: 2, goes: true }];
        let plan = AlterTableReply { changes, refused: vec!["no room".into()] };
        let value = shown("t", 4, &plan);
        assert_eq!(value["changes"][0], json!({"shard": 7, "node": 4, "change": "comes"}));
        assert_eq!((&value["changes"][1]["change"], &value["refused"][0]), (&"goes".into(), &"no room".into()));
        let text = as_text("t", 4, &plan);
        assert!(text[0].ends_with("for 4: 2") && text.iter().any(|line| line.contains("cannot change now: no room")));
    }

    #[test]
    fn below_the_fifth_version_nothing_is_asked_for() {
        let map = |version| ClusterMap {
            cluster: vec![0xab; 16].into(),
            revision: 1,
            version,
            nodes: vec![],
            tables: vec![],
            shards: vec![],
        };
        let error = check_version(&map(4)).unwrap_err();
        assert!(error.message().contains("this needs 5") && error.kind() == CLUSTER_VERSION, "{error}");
        assert!(check_version(&map(5)).is_ok());
    }
}
