//! `synod rebalance`: replicas and leaderships spread evenly over the nodes and zones.
//!
//! Owns: what a plan is asked for with, how one is confirmed, and the words for what came of it. Must never: choose what is done (the
//! planner does, at the leader of the system shard), or carry out another plan than the one that was shown.

mod carry;
mod file;
mod show;

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use synod_client::proto::{PlanRebalanceRequest, RebalanceWeights};
use synod_client::{Client, ClusterMap, Job, JobGoal, NodeMark};
use synod_cluster::planner::settings::AT_ONCE_MAX;

use super::bytes::read_source;
use super::context::{Context, to_be_repeated};
use super::error::{CliError, Exit, Result};
use super::jobs;
use super::output::text;
use carry::{End, Work, carry};
use file::{Figures, PlanFile, cluster_name};

const AFTER_HELP: &str = "\
A plan moves replicas, hands leaderships over and splits shards that are too large or too busy. Lost replicas and shared zones come first. \
Each operation names the version and the epoch of its shard that it was made from: once these have changed it is stale and is passed over.

  synod rebalance plan                               show what would be done, and why
  synod rebalance apply                              the same, then ask, then do it
  synod -o json rebalance plan > plan.json           keep a plan,
  synod rebalance apply plan.json                    and carry out exactly that one

`pause`, `resume` and `cancel` are for the moves and splits that run, except those that empty a node.";

/// `rebalance`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RebalanceArgs {
    #[command(subcommand)]
    command: RebalanceCommand,
}

#[derive(Debug, Subcommand)]
enum RebalanceCommand {
    /// Show what would be done, why, and how the nodes compare before and after; nothing is changed
    Plan(Wanted),
    /// Carry out a plan: one that was kept, or one that is made now and shown first; exit code 1 where not all of it is done
    Apply {
        /// A plan, as `synod -o json rebalance plan` printed it; `-` is standard input
        #[arg(conflicts_with_all = ["by", "table", "max_concurrent"])]
        file: Option<String>,
        #[command(flatten)]
        wanted: Wanted,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Show how the nodes compare, how much would be done now, and which moves and splits are under way
    Status,
    /// Have the moves and splits that run pause; `apply` begins nothing more meanwhile
    Pause,
    /// Have those that pause go on
    Resume,
    /// Cancel the moves and splits that run; `apply` begins nothing more then
    Cancel,
}

#[derive(Args, Clone, Debug)]
struct Wanted {
    /// Compare nodes by this alone: the bytes of their replicas, how many they are, how many lead, or their load [default: all, weighted]
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Option<By>,
    /// Only the shards of this table
    #[arg(long)]
    table: Option<String>,
    /// How many operations may be under way at a time, with the jobs that run already [default: 4]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(AT_ONCE_MAX)))]
    max_concurrent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Size,
    Leaders,
    Load,
    Replicas,
}

impl By {
    fn weights(self) -> RebalanceWeights {
        let mut weights = RebalanceWeights::default();
        *match self {
            Self::Size => &mut weights.bytes,
            Self::Leaders => &mut weights.leaders,
            Self::Load => &mut weights.load,
            Self::Replicas => &mut weights.replicas,
        } = 100;
        weights
    }
}

/// Runs `rebalance`.
pub async fn run(context: &mut Context, args: RebalanceArgs) -> Result<()> {
    let client = context.connect().await?;
    match args.command {
        RebalanceCommand::Plan(wanted) => {
            let plan = planned(&client, &wanted).await?;
            context.out.value(&plan, show::plan)
        }
        RebalanceCommand::Apply { file, wanted, yes } => apply(context, &client, file, wanted, yes).await,
        RebalanceCommand::Status => status(context, &client).await,
        RebalanceCommand::Pause => with_jobs(context, &client, Wish::Pause).await,
        RebalanceCommand::Resume => with_jobs(context, &client, Wish::Resume).await,
        RebalanceCommand::Cancel => with_jobs(context, &client, Wish::Cancel).await,
    }
}

/// A plan of the cluster as it is now.
async fn planned(client: &Client, wanted: &Wanted) -> Result<PlanFile> {
    let map = client.refresh_map().await?;
    let request = PlanRebalanceRequest {
        weights: wanted.by.map(By::weights),
        table: wanted.table.clone().unwrap_or_default(),
        max_concurrent: wanted.max_concurrent.unwrap_or(0),
    };
    let reply = client.plan_rebalance(request).await?;
    Ok(PlanFile::of(reply, |shard| table(&map, shard)))
}

/// The table of a shard; the cluster's own has none.
fn table(map: &ClusterMap, shard: u64) -> Option<String> {
    let id = map.shards.iter().find(|info| info.id == shard)?.table_id;
    map.tables.iter().find(|table| table.id == id).map(|table| table.name.clone())
}

async fn apply(context: &mut Context, client: &Client, file: Option<String>, wanted: Wanted, yes: bool) -> Result<()> {
    let plan = match &file {
        Some(file) => kept(client, file).await?,
        None => {
            let plan = planned(client, &wanted).await?;
            if !yes && (context.out.json() || !io::stdin().is_terminal()) {
                let why = "must be given where nobody can be asked; `synod rebalance plan` only shows the plan";
                return Err(CliError::usage("--yes", why));
            }
            if !context.out.json() {
                show::plan(&plan).iter().try_for_each(|line| context.out.line(line))?;
                context.out.flush()?;
            }
            plan
        }
    };
    if file.is_none() && !yes && !plan.operations.is_empty() && !confirmed(context).await? {
        return Err(CliError::failed("not_confirmed", "nothing was changed"));
    }
    let work = carry(context, client, &plan).await?;
    // What came of it counts, whether or not it can be measured.
    let now = planned(client, &Wanted { by: None, table: None, max_concurrent: None }).await.ok();
    let now = now.map(|plan| plan.before);
    context.out.done(&outcome(&work, &plan, now.as_ref()), |_| as_text(&work, &plan, now.as_ref()))?;
    not_all(&work).map_or(Ok(()), Err)
}

/// A plan that was kept, if it is of this cluster.
async fn kept(client: &Client, file: &str) -> Result<PlanFile> {
    let plan = PlanFile::parse(file, &read_source(file)?)?;
    let here = cluster_name(&client.refresh_map().await?.cluster);
    if plan.cluster != here {
        let message = format!(
            "{} is a plan for cluster {}, this is cluster {here}: nothing was changed",
            text::path(file),
            text::harmless(&plan.cluster)
        );
        return Err(CliError::failed("other_cluster", message).exiting(Exit::Usage).with("file", file));
    }
    Ok(plan)
}

/// Asks on the terminal.
async fn confirmed(context: &Context) -> Result<bool> {
    context.progress("carry this out? [y/N]");
    let asked = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = asked.await.map_err(|error| CliError::failed("internal", error.to_string()))?;
    let line = line.map_err(|error| CliError::io("standard input", &error))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// The operations that ended so, with their reasons.
fn ended<'a>(work: &'a Work, why: impl Fn(&'a End) -> Option<&'a str> + 'a) -> impl Iterator<Item = (u64, &'a str)> {
    work.ends.iter().filter_map(move |(index, end)| Some((work.operations.get(*index)?.shard, why(end)?)))
}

fn stale(end: &End) -> Option<&str> {
    if let End::Stale(why) = end { Some(why) } else { None }
}

fn failed(end: &End) -> Option<&str> {
    if let End::Failed(why) = end { Some(why) } else { None }
}

fn unsupported(end: &End) -> Option<&str> {
    (*end == End::Unsupported).then_some("not carried out yet")
}

fn count(work: &Work, wanted: &End) -> usize {
    work.ends.values().filter(|end| *end == wanted).count()
}

fn outcome(work: &Work, plan: &PlanFile, now: Option<&Figures>) -> Value {
    let list = |why: fn(&End) -> Option<&str>| -> Vec<Value> {
        ended(work, why).map(|(shard, why)| json!({ "shard": shard, "why": why })).collect()
    };
    json!({
        "operations": work.operations.len(), "done": count(work, &End::Done), "left": work.left(), "jobs": work.jobs,
        "stale": list(stale), "failed": list(failed), "not_carried_out": list(unsupported),
        "before": plan.before, "predicted": plan.after, "now": now,
    })
}

fn as_text(work: &Work, plan: &PlanFile, now: Option<&Figures>) -> Vec<String> {
    let mut lines = vec![format!("operations done: {} of {}", count(work, &End::Done), work.operations.len())];
    lines.extend(ended(work, stale).map(|(shard, why)| format!("shard {shard} went stale: {}", text::harmless(why))));
    lines.extend(ended(work, failed).map(|(shard, why)| format!("shard {shard} failed: {}", text::harmless(why))));
    lines.extend(ended(work, unsupported).map(|(shard, why)| format!("shard {shard}: {why}")));
    if let Some(now) = now {
        lines.extend(show::figures(("before", &plan.before), ("now", now)));
    }
    lines
}

/// Why a plan is not done as a whole, if so.
fn not_all(work: &Work) -> Option<CliError> {
    let done = count(work, &End::Done);
    let all = work.operations.len();
    if done == all {
        return None;
    }
    let (stale, failed) = (ended(work, stale).count(), ended(work, failed).count());
    let message = format!(
        "of {all} operations {done} are done, {stale} went stale, {failed} failed, {} are not carried out yet, {} were not \
         begun; `synod rebalance plan` shows what is to be done now",
        count(work, &End::Unsupported),
        work.left()
    );
    Some(CliError::failed("not_all_done", message).with("done", done).with("stale", stale).with("failed", failed))
}

async fn status(context: &mut Context, client: &Client) -> Result<()> {
    let plan = planned(client, &Wanted { by: None, table: None, max_concurrent: None }).await?;
    let running: Vec<_> = client.jobs().await?.iter().filter(|job| !job.has_ended()).map(jobs::shown).collect();
    let mut by_rule: BTreeMap<&str, usize> = BTreeMap::new();
    for planned in &plan.operations {
        *by_rule.entry(&planned.rule).or_default() += 1;
    }
    let value = json!({
        "now": plan.before, "predicted": plan.after, "planned": by_rule, "refused": plan.refused, "silent": plan.silent,
        "jobs": running,
    });
    context.out.value(&value, |_| {
        let mut lines = show::figures(("now", &plan.before), ("if balanced", &plan.after));
        lines.push(format!("operations planned now: {}", plan.operations.len()));
        lines.extend(by_rule.iter().map(|(rule, count)| format!("  {}: {count}", text::harmless(rule))));
        lines.extend(plan.refused.iter().map(|why| format!("cannot be planned: {}", text::harmless(why))));
        lines.extend(show::silent(&plan));
        lines.push(format!("jobs under way: {}", running.len()));
        lines.extend(jobs::lines(&running));
        lines
    })
}

/// What is wanted of the jobs under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Pause,
    Resume,
    Cancel,
}

impl Wish {
    /// Whether a job is in a state in which that can be wished.
    fn fits(self, state: &str) -> bool {
        match self {
            Self::Pause => state == "running",
            Self::Resume => state == "paused",
            Self::Cancel => matches!(state, "running" | "paused"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Cancel => "cancelled, as far as they can be",
        }
    }
}

/// The moves and splits that this is wished of: not those that empty a node, which have a job of their own.
fn concerned(jobs: &[Job], map: &ClusterMap, wish: Wish) -> Vec<u64> {
    let marked = |id: u64| map.nodes.iter().any(|node| node.id == id && node.mark != NodeMark::Stays);
    let moves = |goal: &JobGoal| match goal {
        JobGoal::MoveReplica { from, .. } => !marked(*from),
        JobGoal::SplitShard { .. } => true,
        _ => false,
    };
    jobs.iter().filter(|job| wish.fits(&job.state) && moves(&job.goal)).map(|job| job.id).collect()
}

async fn with_jobs(context: &mut Context, client: &Client, wish: Wish) -> Result<()> {
    let map = client.refresh_map().await?;
    let ids = concerned(&client.jobs().await?, &map, wish);
    let mut changed = Vec::new();
    for id in ids {
        let asked = match wish {
            Wish::Pause => client.pause_job(id, true).await,
            Wish::Resume => client.pause_job(id, false).await,
            Wish::Cancel => client.cancel_job(id).await,
        };
        match asked {
            Ok(()) => changed.push(id),
            // It has ended meanwhile.
            Err(synod_client::Error::JobConflict { .. } | synod_client::Error::JobNotFound { .. }) => {}
            Err(error) => {
                let how = "`synod job list` shows how the jobs are; the same command can be repeated";
                return Err(to_be_repeated(error, how).with("changed", changed));
            }
        }
    }
    let done = json!({ "jobs": changed });
    context.out.done(&done, |_| {
        let numbers = changed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        vec![match changed.len() {
            0 => "no move or split is under way that this is for".to_owned(),
            count => format!("jobs {}: {count} ({numbers})", wish.word()),
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::NodeInfo;

    #[test]
    fn only_one_quantity_counts_where_one_is_named() {
        assert_eq!(By::Leaders.weights(), RebalanceWeights { leaders: 100, ..RebalanceWeights::default() });
        assert_eq!(By::Size.weights().bytes, 100);
        assert_eq!((By::Load.weights().load, By::Replicas.weights().replicas), (100, 100));
    }

    #[test]
    fn what_empties_a_node_is_left_alone() {
        let node = |id, mark| NodeInfo { id, addr: String::new(), mark, zone: String::new(), rack: String::new() };
        let map = ClusterMap {
            cluster: vec![].into(),
            revision: 1,
            version: 4,
            nodes: vec![node(1, NodeMark::Stays), node(2, NodeMark::Draining)],
            tables: vec![],
            shards: vec![],
        };
        let job = |id, goal, state: &str| Job { id, goal, state: state.to_owned(), why: None, progress: None };
        let moves = |from| JobGoal::MoveReplica { shard: 5, from, to: Some(4) };
        let jobs = [
            job(1, moves(1), "running"),
            job(2, moves(2), "running"),
            job(3, JobGoal::SplitShard { shard: 6, version: 1, at: None }, "paused"),
            job(4, JobGoal::EmptyNode { node: 2, remove: false, max_concurrent: None }, "running"),
            job(5, moves(1), "done"),
        ];
        let of = |wish| concerned(&jobs, &map, wish);
        assert_eq!((of(Wish::Pause), of(Wish::Resume), of(Wish::Cancel)), (vec![1], vec![3], vec![1, 3]));
    }
}
