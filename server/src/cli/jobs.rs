//! `synod job`: the jobs that the cluster carries out by itself.
//!
//! Owns: how jobs are shown and watched, and the words for how one ended. Must never: call a job ended before the system shard says so, or
//! carry out a step of one.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, Job, JobGoal, JobProgress};
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::jobs::job;
use synod_cluster::jobs::move_replica::MoveReplica;
use tokio::time::{Instant, sleep};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::output::{json, text};

/// How long a step may make no progress, where `--timeout` does not say.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a job.
const PACE: Duration = Duration::from_millis(100);

/// `job`.
#[derive(Args, Debug)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List the jobs that run and the last 256 that have ended
    List,
    /// Watch a job until it has ended; exit code 1 where it is not done then
    Watch {
        /// The job's number
        job: u64,
    },
    /// Cancel a job, and wait until it has ended: of a move whose new replica has no vote yet nothing is left
    Cancel {
        /// The job's number
        job: u64,
        /// Do not wait until it has ended
        #[arg(long, visible_alias = "no-wait")]
        detach: bool,
    },
}

/// Runs `job`.
pub async fn run(context: &mut Context, args: JobArgs) -> Result<()> {
    let client = context.connect().await?;
    match args.command {
        JobCommand::List => list(context, &client).await,
        JobCommand::Watch { job } => {
            let ended = watch(context, &client, job, None).await?;
            match not_done(&ended) {
                None => context.out.done(&shown(&ended), |_| vec![line(&ended)]),
                Some(error) => Err(error),
            }
        }
        JobCommand::Cancel { job, detach } => cancel(context, &client, job, detach).await,
    }
}

async fn list(context: &mut Context, client: &Client) -> Result<()> {
    let jobs = client.jobs().await?;
    if context.out.json() {
        return jobs.iter().try_for_each(|job| context.out.object(&shown(job)));
    }
    let mut rows = text::table(&["job", "state", "what", "progress"]);
    for job in &jobs {
        let how = match &job.why {
            Some(why) => text::harmless(why),
            None => progress_in_words(job).unwrap_or_else(|| "-".to_owned()),
        };
        rows.add_row([job.id.to_string(), job.state.clone(), in_words(&job.goal), how]);
    }
    text::lines(&rows).iter().try_for_each(|line| context.out.line(line))
}

/// Asks for a job to go back; it may be done all the same.
pub async fn ask_to_cancel(client: &Client, id: u64) -> Result<()> {
    client.cancel_job(id).await.map_err(|error| {
        to_be_repeated(
            error,
            &format!("`synod job watch {id}` shows what comes of it; the same command can be repeated"),
        )
    })
}

async fn cancel(context: &mut Context, client: &Client, id: u64, detach: bool) -> Result<()> {
    ask_to_cancel(client, id).await?;
    let job = if detach { client.job(id).await? } else { watch(context, client, id, Some(patience(context))).await? };
    if job.state == "done" {
        let message = format!("job {id} was done before it could be cancelled: it {}", in_words(&job.goal));
        return Err(CliError::failed("not_cancelled", message).with("job", id));
    }
    context.out.done(&shown(&job), |_| vec![line(&job)])
}

fn patience(context: &Context) -> Duration {
    context.options(PATIENCE).call_timeout
}

/// Watches a job that is to be done.
pub async fn until_done(context: &Context, client: &Client, id: u64) -> Result<()> {
    let ended = watch(context, client, id, Some(patience(context))).await?;
    not_done(&ended).map_or(Ok(()), Err)
}

/// Watches a job until it ends and prints its progress. Ends with an error when nothing changes for `patience`; without a patience it
/// watches on. It also ends with an error when the cluster gives no answer for as long as one step may take.
async fn watch(context: &Context, client: &Client, id: u64, patience: Option<Duration>) -> Result<Job> {
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut last: Option<Job> = None;
    let (mut moved, mut heard) = (Instant::now(), Instant::now());
    loop {
        match client.job(id).await {
            Err(error) if error.retryable() && heard.elapsed() <= self::patience(context) => {}
            Err(error) => return Err(goes_on(error.into(), id)),
            Ok(job) => {
                heard = Instant::now();
                for line in news(&job) {
                    if told.insert(line.clone()) {
                        context.progress(&line);
                    }
                }
                if job.has_ended() {
                    return Ok(job);
                }
                if last.as_ref().is_none_or(|last| differs(last, &job)) {
                    (moved, last) = (Instant::now(), Some(job));
                }
            }
        }
        if let (Some(patience), Some(last)) = (patience, &last)
            && moved.elapsed() > patience
        {
            return Err(stuck(last, patience));
        }
        sleep(PACE).await;
    }
}

/// Whether a job got on.
fn differs(before: &Job, after: &Job) -> bool {
    let seen = |job: &Job| job.progress.as_ref().map(|p| (p.step.clone(), p.lag_slots, p.changes.clone()));
    before.state != after.state || seen(before) != seen(after)
}

fn goes_on(error: CliError, id: u64) -> CliError {
    if error.is_retryable() {
        error.followed_by(format!("job {id} goes on by itself: `synod job watch {id}`")).with("job", id)
    } else {
        error
    }
}

/// A job goes on, whoever watches.
fn stuck(job: &Job, patience: Duration) -> CliError {
    let (shard, kind, what, to) = match job.goal {
        JobGoal::MoveReplica { shard, from, to } => {
            let node = to.unwrap_or(from);
            (shard, "not_moved", format!("node {node}"), Some(node))
        }
        JobGoal::SplitShard { shard, .. } => (shard, "not_split", "its split".to_owned(), None),
        _ => return unknown_goal(),
    };
    let id = job.id;
    let trouble = job.progress.as_ref().and_then(|progress| progress.trouble.as_ref());
    let why = trouble.map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!(
        "shard {shard}: {what} made no progress for {}{why}; nothing is lost: job {id} goes on by itself, `synod job watch {id}` \
         shows how, and `synod job cancel {id}` ends it",
        humantime::format_duration(patience)
    );
    let error = CliError::unknown(kind, message).with("job", id).with("shard", shard).retryable();
    match to {
        Some(node) => error.with("to", node),
        None => error,
    }
}

fn unknown_goal() -> CliError {
    CliError::failed("unavailable", "the job is of a kind that this binary does not know: run a newer one")
}

/// Why a job that has ended is not done.
fn not_done(job: &Job) -> Option<CliError> {
    if job.state == "done" {
        return None;
    }
    let kind = match job.state.as_str() {
        "overtaken" => "overtaken",
        "cancelled" => "cancelled",
        _ => "job_failed",
    };
    let why = job.why.clone().unwrap_or_else(|| "nothing of it is left".to_owned());
    let message = format!("job {} ({}) has ended as {}: {why}", job.id, in_words(&job.goal), job.state);
    let error = CliError::failed(kind, message).with("job", job.id).with("state", job.state.clone());
    Some(match job.goal {
        JobGoal::MoveReplica { shard, .. } | JobGoal::SplitShard { shard, .. } => error.with("shard", shard),
        _ => error,
    })
}

/// What a job is to reach.
pub fn in_words(goal: &JobGoal) -> String {
    let goal = match goal {
        JobGoal::MoveReplica { shard, from, to } => {
            let replica = MoveReplica { from: NodeId(*from), to: to.map(NodeId) };
            job::JobGoal::Move { shard: ShardId(*shard), replica }
        }
        JobGoal::SplitShard { shard, version, at } => {
            job::JobGoal::Split { shard: ShardId(*shard), version: *version, at: at.clone() }
        }
        _ => return "is of a kind of a newer version".to_owned(),
    };
    goal.to_string()
}

fn line(job: &Job) -> String {
    format!("job {} is {}: it {}", job.id, job.state, in_words(&job.goal))
}

/// What there is to be told of a job, in order.
fn news(job: &Job) -> Vec<String> {
    let (JobGoal::MoveReplica { shard, .. } | JobGoal::SplitShard { shard, .. }) = job.goal else { return Vec::new() };
    let changes = job.progress.iter().flat_map(|progress| &progress.changes);
    let now = progress_in_words(job).filter(|_| !job.has_ended());
    changes.chain(&now).map(|what| format!("shard {shard}: {what}")).collect()
}

/// What a job does at the moment, where that takes time.
fn progress_in_words(job: &Job) -> Option<String> {
    let JobProgress { step, lag_slots, trouble, .. } = job.progress.as_ref()?;
    let (from, to) = match job.goal {
        JobGoal::MoveReplica { from, to, .. } => (from, to),
        JobGoal::SplitShard { .. } => return split_in_words(step, trouble.as_deref()),
        _ => return None,
    };
    let node = to.unwrap_or(from);
    (step == "catch_up").then(|| match lag_slots {
        Some(lag) => format!("node {node} lacks {lag} slots"),
        None => format!("node {node} waits for a snapshot"),
    })
}

/// What a split does at the moment.
fn split_in_words(step: &str, trouble: Option<&str>) -> Option<String> {
    match step {
        "reserve" => Some("an id is reserved for the second shard".to_owned()),
        "split" => Some("its leader is asked to split it".to_owned()),
        "wait" => Some(trouble.map_or_else(|| "waits".to_owned(), |why| format!("waits: {}", text::harmless(why)))),
        _ => None,
    }
}

/// The job as JSON shows it.
pub fn shown(job: &Job) -> json::Job {
    let (kind, shard, from, to) = match job.goal {
        JobGoal::MoveReplica { shard, from, to } => ("move_replica", Some(shard), Some(from), to),
        JobGoal::SplitShard { shard, .. } => ("split_shard", Some(shard), None, None),
        _ => ("unknown", None, None, None),
    };
    let progress = job.progress.as_ref().map(|progress| json::JobProgress {
        step: (!progress.step.is_empty()).then(|| progress.step.clone()),
        lag_slots: progress.lag_slots,
        trouble: progress.trouble.clone(),
        idle_ms: progress.idle_ms,
    });
    json::Job { id: job.id, kind, shard, from, to, state: job.state.clone(), why: job.why.clone(), progress }
}

/// One line for each job that runs.
pub fn lines(jobs: &[json::Job]) -> Vec<String> {
    let told = |job: &json::Job| {
        let trouble = job.progress.as_ref().and_then(|progress| progress.trouble.as_ref());
        let trouble = trouble.map(|why| format!(" ({})", text::harmless(why))).unwrap_or_default();
        let from = text::or_dash(job.from);
        let to = job.to.map(|to| format!(" to node {to}")).unwrap_or_default();
        let shard = text::or_dash(job.shard);
        if job.kind == "split_shard" {
            return format!("job {} {}: shard {shard} is split{trouble}", job.id, job.state);
        }
        format!("job {} {}: the replica of shard {shard} from node {from}{to}{trouble}", job.id, job.state)
    };
    jobs.iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: &str, step: &str, changes: &[&str]) -> Job {
        let changes = changes.iter().map(|change| (*change).to_owned()).collect();
        let progress = JobProgress { step: step.into(), lag_slots: Some(7), changes, ..JobProgress::default() };
        let goal = JobGoal::MoveReplica { shard: 5, from: 3, to: Some(4) };
        Job { id: 9, goal, state: state.into(), why: None, progress: Some(progress) }
    }

    #[test]
    fn what_is_seen_of_a_job_is_told_in_words() {
        let going = job("running", "catch_up", &["node 4 added as a learner"]);
        assert_eq!(news(&going), ["shard 5: node 4 added as a learner", "shard 5: node 4 lacks 7 slots"]);
        let waits = Job { progress: Some(JobProgress { lag_slots: None, ..going.progress.clone().unwrap() }), ..going };
        assert_eq!(progress_in_words(&waits).as_deref(), Some("node 4 waits for a snapshot"));
        assert_eq!(progress_in_words(&job("running", "promote", &[])), None);
        assert_eq!(
            line(&job("done", "end", &[])),
            "job 9 is done: it moves the replica of shard 5 from node 3 to node 4"
        );
    }

    #[test]
    fn a_split_is_told_and_shown_in_words() {
        let goal = JobGoal::SplitShard { shard: 5, version: 3, at: Some("k".into()) };
        let job = |step: &str, trouble: Option<&str>| {
            let progress = JobProgress { trouble: trouble.map(str::to_owned), ..JobProgress::default() };
            Job {
                goal: goal.clone(),
                progress: Some(JobProgress { step: step.to_owned(), ..progress }),
                ..job("running", "", &[])
            }
        };
        assert_eq!(news(&job("reserve", None)), ["shard 5: an id is reserved for the second shard"]);
        assert_eq!(news(&job("wait", Some("no leader"))), ["shard 5: waits: no leader"]);
        assert_eq!(line(&job("split", None)), "job 9 is running: it splits shard 5 at \"k\"");
        let told = lines(&[shown(&job("split", Some("a learner catches up")))]);
        assert_eq!(told, ["job 9 running: shard 5 is split (a learner catches up)"]);
        let error = stuck(&job("split", Some("a learner catches up")), Duration::from_secs(60));
        assert_eq!(error.kind(), "not_split");
        assert!(error.message().contains("its split made no progress for 1m: a learner"), "{error}");
    }

    #[test]
    fn an_end_short_of_the_goal_says_why() {
        assert!(not_done(&job("done", "end", &[])).is_none());
        let overtaken = Job { why: Some("another command gave node 4 a vote".into()), ..job("overtaken", "end", &[]) };
        let error = not_done(&overtaken).unwrap();
        assert_eq!(error.kind(), "overtaken");
        assert!(error.message().contains("job 9") && error.message().contains("gave node 4 a vote"), "{error}");
        assert_eq!(not_done(&job("cancelled", "end", &[])).unwrap().kind(), "cancelled");
        let error = stuck(&job("running", "catch_up", &[]), Duration::from_secs(60));
        assert!(
            error.message().contains("made no progress for 1m") && error.message().contains("synod job cancel 9"),
            "{error}"
        );
    }
}
