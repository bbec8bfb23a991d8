//! `synod job`: the jobs that the cluster carries out by itself.
//!
//! Owns: how jobs are shown and watched, and the words for how one ended. Must never: call a job ended before the system shard says so, or
//! carry out a step of one.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, Job, JobGoal, JobProgress};
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::jobs::empty_node::{AT_ONCE, EmptyNode};
use synod_cluster::jobs::job;
use synod_cluster::jobs::move_replica::MoveReplica;
use synod_cluster::jobs::resize_shard::ResizeShard;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::context::{Context, to_be_repeated};
use super::error::{CliError, Result};
use super::output::{json, text};

/// How long a step may make no progress, where `--timeout` does not say.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a job.
const PACE: Duration = Duration::from_millis(100);
/// What keeps a move from getting on is told to who watches once it has lasted so long, milliseconds: less is usual between two steps.
const TROUBLE_MS: u64 = 1_000;

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
    /// Watch a job until it has ended; exit code 1 where it is not done then. With --timeout, at most until it has made no progress
    /// for so long
    Watch {
        /// The job's number
        job: u64,
    },
    /// Have a job pause: nothing further is done for it until it is resumed
    Pause {
        /// The job's number
        job: u64,
    },
    /// Have a job that pauses go on
    Resume {
        /// The job's number
        job: u64,
    },
    /// Cancel a job, and wait until it has ended: of a move whose new replica has no vote yet nothing is left; a node that was to
    /// be emptied keeps what it still has, and takes replicas again
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
            let ended = watch(context, &client, job, context.timeout()).await?;
            match not_done(&ended) {
                None => context.out.done(&shown(&ended), |_| vec![line(&ended)]),
                Some(error) => Err(error),
            }
        }
        JobCommand::Pause { job } => pause(context, &client, job, true).await,
        JobCommand::Resume { job } => pause(context, &client, job, false).await,
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

async fn pause(context: &mut Context, client: &Client, id: u64, paused: bool) -> Result<()> {
    client.pause_job(id, paused).await.map_err(|error| {
        to_be_repeated(error, "`synod job list` shows whether it pauses; the same command can be repeated")
    })?;
    let job = client.job(id).await?;
    context.out.done(&shown(&job), |_| vec![line(&job)])
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

/// Watches a job until it ends, as [`watch_on`] does, or until Ctrl-C: the job goes on, and that is said.
async fn watch(context: &Context, client: &Client, id: u64, patience: Option<Duration>) -> Result<Job> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| CliError::io("signals", &error))?;
    tokio::select! {
        watched = watch_on(context, client, id, patience) => watched,
        _ = interrupts.recv() => {
            let message = format!(
                "interrupted: job {id} goes on by itself, `synod job watch {id}` shows how, and `synod job cancel {id}` ends it"
            );
            Err(CliError::unknown("interrupted", message).with("job", id))
        }
    }
}

/// Watches a job until it ends and prints its progress. Ends with an error when nothing changes for `patience`; without a patience it
/// watches on. It also ends with an error when the cluster gives no answer for as long as one step may take.
async fn watch_on(context: &Context, client: &Client, id: u64, patience: Option<Duration>) -> Result<Job> {
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
    let seen =
        |job: &Job| job.progress.as_ref().map(|p| (p.step.clone(), p.lag_slots, p.changes.clone(), p.replicas_left));
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
    let (place, kind, what) = match job.goal {
        JobGoal::MoveReplica { shard, from, to } => {
            (format!("shard {shard}"), "not_moved", format!("node {}", to.unwrap_or(from)))
        }
        JobGoal::SplitShard { shard, .. } => (format!("shard {shard}"), "not_split", "its split".to_owned()),
        JobGoal::MergeShards { shard, .. } => (format!("shard {shard}"), "not_merged", "its merge".to_owned()),
        JobGoal::EmptyNode { node, .. } => (format!("node {node}"), "not_emptied", "its replicas".to_owned()),
        JobGoal::ResizeShard { shard, .. } => (format!("shard {shard}"), "not_resized", "its replicas".to_owned()),
        _ => return unknown_goal(),
    };
    let id = job.id;
    let trouble = job.progress.as_ref().and_then(|progress| progress.trouble.as_ref());
    let why = trouble.map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!(
        "{place}: {what} made no progress for {}{why}; nothing is lost: job {id} goes on by itself, `synod job watch {id}` \
         shows how, and `synod job cancel {id}` ends it",
        humantime::format_duration(patience)
    );
    let error = CliError::unknown(kind, message).with("job", id).retryable();
    match job.goal {
        JobGoal::MoveReplica { shard, from, to } => error.with("shard", shard).with("to", to.unwrap_or(from)),
        JobGoal::SplitShard { shard, .. } | JobGoal::ResizeShard { shard, .. } => error.with("shard", shard),
        JobGoal::MergeShards { shard, source, .. } => error.with("shard", shard).with("source", source),
        JobGoal::EmptyNode { node, .. } => error.with("node", node),
        _ => error,
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
        JobGoal::MoveReplica { shard, .. }
        | JobGoal::SplitShard { shard, .. }
        | JobGoal::MergeShards { shard, .. }
        | JobGoal::ResizeShard { shard, .. } => error.with("shard", shard),
        JobGoal::EmptyNode { node, .. } => error.with("node", node),
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
        JobGoal::MergeShards { shard, source, border } => {
            job::JobGoal::Merge { shard: ShardId(*shard), source: ShardId(*source), border: border.clone() }
        }
        JobGoal::EmptyNode { node, remove, max_concurrent } => {
            let at_once = max_concurrent.unwrap_or(AT_ONCE);
            job::JobGoal::Empty(EmptyNode { node: NodeId(*node), remove: *remove, at_once })
        }
        JobGoal::ResizeShard { shard, voters } => {
            job::JobGoal::Resize(ResizeShard { shard: ShardId(*shard), voters: *voters })
        }
        _ => return "is of a kind that this binary does not know".to_owned(),
    };
    goal.to_string()
}

fn line(job: &Job) -> String {
    format!("job {} is {}: it {}", job.id, job.state, in_words(&job.goal))
}

/// What there is to be told of a job, in order.
fn news(job: &Job) -> Vec<String> {
    let place = match job.goal {
        JobGoal::MoveReplica { shard, .. }
        | JobGoal::SplitShard { shard, .. }
        | JobGoal::MergeShards { shard, .. }
        | JobGoal::ResizeShard { shard, .. } => {
            format!("shard {shard}")
        }
        JobGoal::EmptyNode { node, .. } => format!("node {node}"),
        _ => return Vec::new(),
    };
    let changes = job.progress.iter().flat_map(|progress| &progress.changes);
    let is_move = matches!(job.goal, JobGoal::MoveReplica { .. });
    let passes = |p: &JobProgress| is_move && p.trouble.is_some() && p.idle_ms < TROUBLE_MS;
    let told = !job.has_ended() && !job.progress.as_ref().is_some_and(passes);
    let now = progress_in_words(job).filter(|_| told);
    changes.chain(&now).map(|what| format!("{place}: {what}")).collect()
}

/// What a job does at the moment, where that takes time.
fn progress_in_words(job: &Job) -> Option<String> {
    let JobProgress { step, lag_slots, trouble, replicas_left, .. } = job.progress.as_ref()?;
    let (from, to) = match job.goal {
        JobGoal::MoveReplica { from, to, .. } => (from, to),
        JobGoal::SplitShard { .. } => return split_in_words(step, trouble.as_deref()),
        JobGoal::ResizeShard { .. } => return resize_in_words(step, *lag_slots, trouble.as_deref()),
        JobGoal::MergeShards { source, .. } => return merge_in_words(step, source, trouble.as_deref()),
        JobGoal::EmptyNode { .. } => return replicas_left.map(|left| left_in_words(left, trouble.as_deref())),
        _ => return None,
    };
    move_in_words(step, to.unwrap_or(from), *lag_slots, trouble.as_deref())
}

/// What a move does at the moment, and what keeps it from getting on.
fn move_in_words(step: &str, node: u64, lag: Option<u64>, trouble: Option<&str>) -> Option<String> {
    let lacks = lag.filter(|_| step == "catch_up").map(|lag| format!("node {node} lacks {lag} slots"));
    match (lacks, trouble) {
        (Some(lacks), Some(why)) => Some(format!("{lacks}; waits: {}", text::harmless(why))),
        (None, Some(why)) => Some(format!("waits: {}", text::harmless(why))),
        (None, None) if step == "catch_up" => Some(format!("node {node} waits for a snapshot")),
        (lacks, None) => lacks,
    }
}

/// What a shard whose replicas change in number does at the moment.
fn resize_in_words(step: &str, lag: Option<u64>, trouble: Option<&str>) -> Option<String> {
    let waits = trouble.map(|why| format!("waits: {}", text::harmless(why)));
    waits.or_else(|| match (step, lag) {
        ("catch_up", Some(lag)) => Some(format!("the new replica lacks {lag} slots")),
        ("catch_up", None) => Some("the new replica waits for a snapshot".to_owned()),
        _ => None,
    })
}

/// How far the emptying of a node is.
fn left_in_words(left: u64, trouble: Option<&str>) -> String {
    let waits = trouble.map(|why| format!("; {}", text::harmless(why))).unwrap_or_default();
    format!("replicas left: {left}{waits}")
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

/// What a merge does at the moment.
fn merge_in_words(step: &str, source: u64, trouble: Option<&str>) -> Option<String> {
    match step {
        "transfer" => Some(format!("shard {source} is to be led where the other one is")),
        "merge" => Some("its leader is asked to begin".to_owned()),
        "cancel" => Some("its leader is asked to take it back".to_owned()),
        "wait" => Some(trouble.map_or_else(|| "waits".to_owned(), |why| format!("waits: {}", text::harmless(why)))),
        _ => None,
    }
}

/// The job as JSON shows it.
pub fn shown(job: &Job) -> json::Job {
    let (kind, shard, from, to) = match job.goal {
        JobGoal::MoveReplica { shard, from, to } => ("move_replica", Some(shard), Some(from), to),
        JobGoal::SplitShard { shard, .. } => ("split_shard", Some(shard), None, None),
        JobGoal::MergeShards { shard, .. } => ("merge_shards", Some(shard), None, None),
        JobGoal::EmptyNode { .. } => ("empty_node", None, None, None),
        JobGoal::ResizeShard { shard, .. } => ("resize_shard", Some(shard), None, None),
        _ => ("unknown", None, None, None),
    };
    let (node, remove) = match job.goal {
        JobGoal::EmptyNode { node, remove, .. } => (Some(node), Some(remove)),
        _ => (None, None),
    };
    let progress = job.progress.as_ref().map(|progress| json::JobProgress {
        step: (!progress.step.is_empty()).then(|| progress.step.clone()),
        lag_slots: progress.lag_slots,
        trouble: progress.trouble.clone(),
        idle_ms: progress.idle_ms,
        replicas_left: progress.replicas_left,
    });
    let (state, why) = (job.state.clone(), job.why.clone());
    json::Job { id: job.id, kind, shard, from, to, node, remove, state, why, progress }
}

/// One line for each job that runs.
pub fn lines(jobs: &[json::Job]) -> Vec<String> {
    let told = |job: &json::Job| {
        let trouble = job.progress.as_ref().and_then(|progress| progress.trouble.as_ref());
        let trouble = trouble.map(|why| format!(" ({})", text::harmless(why))).unwrap_or_default();
        let from = text::or_dash(job.from);
        let to = job.to.map(|to| format!(" to node {to}")).unwrap_or_default();
        let shard = text::or_dash(job.shard);
        if let Some(node) = job.node {
            let left = job.progress.as_ref().and_then(|progress| progress.replicas_left);
            let left = left.map(|left| format!(", replicas left: {left}")).unwrap_or_default();
            return format!("job {} {}: node {node} is emptied{left}{trouble}", job.id, job.state);
        }
        if job.kind == "resize_shard" {
            return format!("job {} {}: the replicas of shard {shard} change in number{trouble}", job.id, job.state);
        }
        if job.kind == "split_shard" {
            return format!("job {} {}: shard {shard} is split{trouble}", job.id, job.state);
        }
        if job.kind == "merge_shards" {
            return format!("job {} {}: a neighbour goes into shard {shard}{trouble}", job.id, job.state);
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
    fn a_job_of_an_unknown_kind_is_shown_as_such() {
        let unknown = Job { goal: JobGoal::Unknown, ..job("running", "learn", &[]) };
        assert_eq!(line(&unknown), "job 9 is running: it is of a kind that this binary does not know");
        assert!(news(&unknown).is_empty());
        assert_eq!(serde_json::to_value(shown(&unknown)).unwrap()["kind"], "unknown");
    }

    #[test]
    fn what_keeps_a_move_from_getting_on_is_told_once_it_lasts() {
        let stuck = |step, trouble: &str, idle_ms| {
            let mut job = job("running", step, &[]);
            let progress = job.progress.as_mut().expect("it has been looked at");
            (progress.trouble, progress.idle_ms, progress.lag_slots) = (Some(trouble.to_owned()), idle_ms, None);
            job
        };
        let why = "node 4 does not lead shard 5, nor knows who does";
        let waits = stuck("promote", why, TROUBLE_MS);
        assert_eq!(news(&waits), [format!("shard 5: waits: {why}")]);
        assert_eq!(progress_in_words(&waits), Some(format!("waits: {why}")), "`job list` shows it");
        assert!(news(&stuck("promote", why, TROUBLE_MS - 1)).is_empty(), "it may pass");
        let down = stuck("catch_up", "node 4 is down", TROUBLE_MS);
        assert_eq!(news(&down), ["shard 5: waits: node 4 is down"], "it does not wait for a snapshot");
        assert_eq!(
            move_in_words("catch_up", 4, Some(7), Some("node 4 is down")).as_deref(),
            Some("node 4 lacks 7 slots; waits: node 4 is down")
        );
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
    fn a_merge_is_told_and_shown_in_words() {
        let goal = JobGoal::MergeShards { shard: 5, source: 6, border: "k".into() };
        let job = |step: &str, trouble: Option<&str>| {
            let trouble = trouble.map(str::to_owned);
            let progress = JobProgress { step: step.to_owned(), trouble, ..JobProgress::default() };
            Job { goal: goal.clone(), progress: Some(progress), ..job("running", "", &[]) }
        };
        assert_eq!(news(&job("transfer", None)), ["shard 5: shard 6 is to be led where the other one is"]);
        assert_eq!(news(&job("wait", Some("no leader"))), ["shard 5: waits: no leader"]);
        assert_eq!(line(&job("merge", None)), "job 9 is running: it merges shard 6 into shard 5");
        let told = lines(&[shown(&job("wait", Some("a node lags")))]);
        assert_eq!(told, ["job 9 running: a neighbour goes into shard 5 (a node lags)"]);
        assert_eq!(stuck(&job("wait", None), Duration::from_secs(60)).kind(), "not_merged");
    }

    #[test]
    fn a_node_that_is_emptied_is_told_and_shown_in_words() {
        let goal = JobGoal::EmptyNode { node: 3, remove: true, max_concurrent: Some(2) };
        let progress = JobProgress { step: "wait".into(), replicas_left: Some(5), ..JobProgress::default() };
        let going = Job { goal, progress: Some(progress.clone()), ..job("running", "", &[]) };
        assert_eq!(news(&going), ["node 3: replicas left: 5"]);
        assert_eq!(line(&going), "job 9 is running: it empties node 3 and takes it out of the cluster");
        assert_eq!(lines(&[shown(&going)]), ["job 9 running: node 3 is emptied, replicas left: 5"]);
        let trouble = Some("no node can take it".to_owned());
        let stands = Job { progress: Some(JobProgress { trouble, ..progress.clone() }), ..going.clone() };
        assert_eq!(news(&stands), ["node 3: replicas left: 5; no node can take it"]);
        let error = stuck(&stands, Duration::from_secs(60));
        assert_eq!(error.kind(), "not_emptied");
        assert!(error.message().contains("node 3: its replicas made no progress for 1m: no node"), "{error}");
        let fewer = Job { progress: Some(JobProgress { replicas_left: Some(4), ..progress }), ..going.clone() };
        assert!(differs(&going, &fewer), "one that has left is progress");
        assert!(!going.has_ended() && !Job { state: "paused".into(), ..going }.has_ended());
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
