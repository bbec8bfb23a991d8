//! A plan that is carried out.
//!
//! Owns: which operation is begun when, and how each ended. Must never: begin one that no longer applies, more than may be under way at a
//! time, or a further one once a job of the plan was paused or cancelled. What has begun is a job of the cluster, and goes on without
//! this.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use synod_client::proto::PlannedOperation;
use synod_client::proto::planned_operation::Change;
use synod_client::{Client, Error, Job, JobGoal};
use synod_cluster::system::{CLUSTER_VERSION, JOBS};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::file::PlanFile;
use crate::cli::context::Context;
use crate::cli::error::{CliError, Result};
use crate::cli::jobs;

/// Pause between two looks at the jobs.
const PACE: Duration = Duration::from_millis(200);
/// How often an operation is begun in vain, before it is given up.
const TRIES_MAX: u32 = 25;
/// Operations of one check, at most.
const CHECKED_MAX: usize = 64;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is done; of a leadership: it was asked for.
    Done,
    /// It no longer applied, or another change came first; says why.
    Stale(String),
    /// It did not come about; says why.
    Failed(String),
    /// Nothing carries such operations out yet.
    Unsupported,
}

/// The operations of a plan, and where each is.
#[derive(Debug, Default)]
pub struct Work {
    /// In the plan's order.
    pub operations: Vec<PlannedOperation>,
    /// How those ended that have, by their places.
    pub ends: BTreeMap<usize, End>,
    /// The jobs that were begun.
    pub jobs: Vec<u64>,
    /// Not begun, in order.
    waiting: VecDeque<usize>,
    /// By their jobs.
    under_way: BTreeMap<u64, usize>,
    tries: BTreeMap<usize, u32>,
    /// Nothing further is begun.
    stopped: bool,
}

impl Work {
    fn new(operations: Vec<PlannedOperation>) -> Self {
        let waiting = (0..operations.len()).collect();
        let mut work = Self { operations, waiting, ..Self::default() };
        for (index, operation) in work.operations.iter().enumerate() {
            if matches!(operation.change, Some(Change::Add(_)) | None) {
                work.ends.insert(index, End::Unsupported);
            }
        }
        work.waiting.retain(|index| !work.ends.contains_key(index));
        work
    }

    /// How many were not begun, or have not ended.
    pub fn left(&self) -> usize {
        self.operations.len() - self.ends.len()
    }

    fn is_over(&self) -> bool {
        self.under_way.is_empty() && (self.stopped || self.waiting.is_empty())
    }

    /// Takes note of jobs that have ended.
    fn look(&mut self, jobs: &[Job]) {
        let under_way = std::mem::take(&mut self.under_way);
        for (id, index) in under_way {
            let Some(job) = jobs.iter().find(|job| job.id == id) else {
                let why = format!("the record of job {id} is kept no longer");
                self.ends.insert(index, End::Failed(why));
                continue;
            };
            if !job.has_ended() {
                self.under_way.insert(id, index);
                continue;
            }
            let why = || job.why.clone().unwrap_or_else(|| format!("job {id} was {}", job.state));
            let end = match job.state.as_str() {
                "done" => End::Done,
                "overtaken" => End::Stale(why()),
                state => {
                    // Whoever cancels a job of a plan does not want the rest of it.
                    self.stopped |= state == "cancelled";
                    End::Failed(why())
                }
            };
            self.ends.insert(index, end);
        }
    }

    /// Whether one of its jobs pauses, or goes back.
    fn rests(&self, jobs: &[Job]) -> bool {
        let mine = |job: &&Job| self.under_way.contains_key(&job.id);
        jobs.iter().filter(mine).any(|job| job.state != "running")
    }

    /// The next to be begun, beside the jobs that run.
    fn next(&mut self, jobs: &[Job], at_once: usize) -> Vec<usize> {
        let busy = jobs.iter().filter(|job| !job.has_ended() && !matches!(job.goal, JobGoal::EmptyNode { .. })).count();
        if self.stopped || self.rests(jobs) {
            return Vec::new();
        }
        let room = at_once.saturating_sub(busy).min(self.waiting.len()).min(CHECKED_MAX);
        self.waiting.drain(..room).collect()
    }

    /// Tries an operation again after the others, or gives it up.
    fn later(&mut self, index: usize, why: String) {
        let tries = self.tries.entry(index).or_default();
        *tries += 1;
        if *tries < TRIES_MAX {
            self.waiting.push_back(index);
        } else {
            self.ends.insert(index, End::Failed(why));
        }
    }
}

/// What came of an operation that was to begin.
enum Begun {
    Job(u64),
    Ended(End),
    Later(String),
}

/// Carries a plan out. Ends once all of it has ended, when nothing gets on for as long as a step may take, or at Ctrl-C.
///
/// # Errors
/// The cluster does not answer, or nothing gets on. What has begun goes on by itself.
pub async fn carry(context: &Context, client: &Client, plan: &PlanFile) -> Result<Work> {
    let operations: std::result::Result<Vec<PlannedOperation>, String> =
        plan.operations.iter().map(super::file::Planned::to_wire).collect();
    let mut work = Work::new(operations.map_err(|why| CliError::failed("invalid_plan", why))?);
    let at_once = usize::try_from(plan.max_concurrent).unwrap_or(1);
    let patience = context.options(jobs::PATIENCE).call_timeout;
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| CliError::io("signals", &error))?;
    let (mut moved, mut heard) = (Instant::now(), Instant::now());
    let mut last: Vec<Job> = Vec::new();
    while !work.is_over() {
        let turn = async {
            match client.jobs().await {
                Err(error) if error.retryable() && heard.elapsed() <= patience => {}
                Err(error) => return Err(goes_on(error.into(), &work)),
                Ok(jobs) => {
                    let jobs: Vec<Job> = jobs.into_iter().map(without_idleness).collect();
                    heard = Instant::now();
                    let before = (work.left(), work.jobs.len());
                    work.look(&jobs);
                    begin_some(context, client, &mut work, &jobs, at_once).await?;
                    // What pauses is not stuck.
                    if work.rests(&jobs) || before != (work.left(), work.jobs.len()) || jobs != last {
                        moved = Instant::now();
                    }
                    last = jobs;
                }
            }
            sleep(PACE).await;
            Ok(())
        };
        tokio::select! {
            done = turn => done?,
            _ = interrupts.recv() => {
                let message = "interrupted: nothing further is begun, and the jobs that have begun go on by themselves";
                return Err(goes_on(CliError::unknown("interrupted", message), &work));
            }
        }
        if moved.elapsed() > patience {
            let waited = humantime::format_duration(patience);
            let message =
                format!("nothing got on for {waited}, and {} operations are left; nothing is lost", work.left());
            return Err(goes_on(CliError::unknown("not_rebalanced", message).retryable(), &work));
        }
    }
    Ok(work)
}

/// A job that does nothing is the same job a moment later.
fn without_idleness(mut job: Job) -> Job {
    if let Some(progress) = &mut job.progress {
        progress.idle_ms = 0;
    }
    job
}

fn goes_on(error: CliError, work: &Work) -> CliError {
    let jobs: Vec<u64> = work.under_way.keys().copied().collect();
    error.followed_by("`synod rebalance status` shows what is under way").with("jobs", jobs)
}

/// Begins what may begin now.
async fn begin_some(context: &Context, client: &Client, work: &mut Work, jobs: &[Job], at_once: usize) -> Result<()> {
    let next = work.next(jobs, at_once);
    if next.is_empty() {
        return Ok(());
    }
    let asked = next.iter().map(|index| work.operations[*index].clone()).collect();
    let stale = match client.check_operations(asked).await {
        Ok(stale) => stale,
        Err(error) if error.retryable() => {
            let why = error.to_string();
            next.into_iter().for_each(|index| work.later(index, why.clone()));
            return Ok(());
        }
        Err(error) => return Err(goes_on(error.into(), work)),
    };
    let mut stale: BTreeMap<usize, String> =
        stale.into_iter().filter_map(|stale| Some((usize::try_from(stale.index).ok()?, stale.why))).collect();
    for (place, index) in next.into_iter().enumerate() {
        let shard = work.operations[index].shard;
        let begun = match stale.remove(&place) {
            Some(why) => Begun::Ended(End::Stale(why)),
            None => begin(client, &work.operations[index]).await,
        };
        match begun {
            Begun::Job(id) => {
                context.progress(&format!("shard {shard}: job {id} has begun"));
                work.jobs.push(id);
                work.under_way.insert(id, index);
            }
            Begun::Ended(end) => {
                if let End::Stale(why) = &end {
                    context.progress(&format!("shard {shard} went stale: {why}"));
                }
                work.ends.insert(index, end);
            }
            Begun::Later(why) => work.later(index, why),
        }
    }
    Ok(())
}

async fn begin(client: &Client, operation: &PlannedOperation) -> Begun {
    let PlannedOperation { shard, version, .. } = *operation;
    let goal = match &operation.change {
        Some(Change::Move(moved)) => JobGoal::MoveReplica { shard, from: moved.from, to: Some(moved.to) },
        Some(Change::Forget(node)) => JobGoal::MoveReplica { shard, from: *node, to: None },
        Some(Change::Split(at)) => JobGoal::SplitShard { shard, version, at: Some(at.clone()) },
        Some(Change::Lead(to)) => {
            let asked = client.transfer_leader(shard, *to).await;
            return asked.map_or_else(refused, |()| Begun::Ended(End::Done));
        }
        Some(Change::Add(_)) | None => return Begun::Ended(End::Unsupported),
    };
    client.start_job(goal).await.map_or_else(refused, Begun::Job)
}

fn refused(error: Error) -> Begun {
    match error {
        Error::JobConflict { why, .. } => Begun::Ended(End::Stale(why)),
        Error::InvalidArgument { field, why } if field == JOBS => Begun::Later(why),
        Error::InvalidArgument { field, why } if field == CLUSTER_VERSION => Begun::Ended(End::Failed(why)),
        Error::InvalidArgument { why, .. } => Begun::Ended(End::Stale(why)),
        Error::OutcomeUnknown { cause } => {
            Begun::Ended(End::Failed(format!("it may have begun, `synod job list` shows whether it has: {cause}")))
        }
        error if error.retryable() => Begun::Later(error.to_string()),
        error => Begun::Ended(End::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::rebalance::file::tests::plan;

    fn work() -> Work {
        Work::new(plan().operations.iter().map(|planned| planned.to_wire().unwrap()).collect())
    }

    fn job(id: u64, state: &str) -> Job {
        let goal = JobGoal::MoveReplica { shard: id, from: 1, to: Some(4) };
        Job { id, goal, state: state.to_owned(), why: None, progress: None }
    }

    #[test]
    fn operations_begin_in_order_and_not_too_many_at_a_time() {
        let mut work = work();
        assert_eq!(work.ends, BTreeMap::from([(4, End::Unsupported)]));
        assert_eq!(work.next(&[job(90, "running"), job(91, "done")], 3), [0, 1]);
        work.under_way.extend([(7, 0), (8, 1)]);
        assert_eq!(work.next(&[job(7, "running"), job(8, "running"), job(90, "running")], 3), Vec::<usize>::new());
        work.look(&[job(7, "done"), job(8, "running")]);
        assert_eq!((work.ends.get(&0), work.left(), work.is_over()), (Some(&End::Done), 3, false));
        assert_eq!(work.next(&[job(7, "done"), job(8, "running")], 3), [2, 3]);
    }

    #[test]
    fn nothing_begins_while_a_job_of_it_pauses_and_nothing_more_once_one_was_cancelled() {
        let mut work = work();
        assert_eq!(work.next(&[], 1), [0]);
        work.under_way.insert(7, 0);
        assert_eq!(work.next(&[job(7, "paused")], 9), Vec::<usize>::new());
        assert_eq!(work.next(&[job(7, "running"), job(90, "paused")], 3), [1], "that one is another's");
        work.look(&[job(7, "cancelled")]);
        assert!(matches!(work.ends.get(&0), Some(End::Failed(why)) if why.contains("cancelled")));
        assert_eq!(work.next(&[], 9), Vec::<usize>::new());
        assert!(work.is_over());
    }

    #[test]
    fn what_was_overtaken_is_stale_and_what_is_in_vain_is_given_up() {
        let mut work = work();
        assert_eq!(work.next(&[], 2), [0, 1]);
        work.under_way.insert(7, 0);
        let overtaken = Job { why: Some("its voter is gone".to_owned()), ..job(7, "overtaken") };
        work.look(&[overtaken]);
        assert_eq!(work.ends.get(&0), Some(&End::Stale("its voter is gone".to_owned())));
        work.later(1, "no leader".to_owned());
        assert_eq!(work.waiting.back(), Some(&1), "it does not hold up others");
        (1..TRIES_MAX).for_each(|_| work.later(1, "no leader".to_owned()));
        assert_eq!(work.ends.get(&1), Some(&End::Failed("no leader".to_owned())));
    }
}
