//! Calls about jobs: goals that the cluster reaches by itself, once it was told.
//!
//! Owns: the calls, and a job as their caller sees it. Must never: carry out a step of a job.

use bytes::Bytes;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use v1::job_goal::Kind;

use crate::client::Client;
use crate::error::{Error, Result, unexpected};

/// What a job is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobGoal {
    /// A shard's replica moves.
    MoveReplica {
        /// The shard.
        shard: u64,
        /// The node whose replica goes.
        from: u64,
        /// The node that gets its vote; `None` where it has none, being a learner that was left behind.
        to: Option<u64>,
    },
    /// A shard becomes two. From cluster version 4 on.
    SplitShard {
        /// The shard.
        shard: u64,
        /// The version of its bounds, as the caller's map has it.
        version: u64,
        /// Where the second begins: a key, or on a hash table an 8-byte big-endian hash. `None`: where the shard's leader finds the middle.
        at: Option<Bytes>,
    },
    /// Two neighbours become one shard. From cluster version 5 on.
    MergeShards {
        /// The one that stays.
        shard: u64,
        /// The one that goes into it.
        source: u64,
        /// Where the upper one of the two begins: a key, or on a hash table an 8-byte big-endian hash.
        border: Bytes,
    },
    /// The replicas of a node move to others, and nothing is placed on it from then on. From cluster version 4 on.
    EmptyNode {
        /// The node.
        node: u64,
        /// Whether it is taken out of the cluster once it is empty.
        remove: bool,
        /// How many of its replicas move at a time, 64 at most; `None`: two.
        max_concurrent: Option<u32>,
    },
    /// A shard gets as many voters as its table asks for. From cluster version 5 on; [`Client::alter_table`] begins it.
    ResizeShard {
        /// The shard.
        shard: u64,
        /// The voters that it is to have.
        voters: u32,
    },
    /// Something that this library does not know: a newer one began it. It is in no call that begins a job.
    Unknown,
}

impl From<JobGoal> for v1::JobGoal {
    fn from(goal: JobGoal) -> v1::JobGoal {
        let kind = match goal {
            JobGoal::Unknown => return v1::JobGoal { kind: None },
            JobGoal::MoveReplica { shard, from, to } => {
                Kind::MoveReplica(v1::MoveReplica { shard, from, to: to.unwrap_or(0) })
            }
            JobGoal::SplitShard { shard, version, at } => {
                Kind::SplitShard(v1::SplitShard { shard, version, at: at.unwrap_or_default() })
            }
            JobGoal::MergeShards { shard, source, border } => {
                Kind::MergeShards(v1::MergeShards { shard, source, border })
            }
            JobGoal::EmptyNode { node, remove, max_concurrent } => {
                Kind::EmptyNode(v1::EmptyNode { node, remove, max_concurrent: max_concurrent.unwrap_or(0) })
            }
            JobGoal::ResizeShard { shard, voters } => Kind::ResizeShard(v1::ResizeShard { shard, voters }),
        };
        v1::JobGoal { kind: Some(kind) }
    }
}

/// A job of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number, never given twice.
    pub id: u64,
    /// What it is to reach.
    pub goal: JobGoal,
    /// `running`, `paused`, `cancelling`, `done`, `cancelled`, `overtaken` or `failed`.
    pub state: String,
    /// Why it was overtaken or failed.
    pub why: Option<String>,
    /// How far it is; `None` where the system shard's leader has not looked at it (yet).
    pub progress: Option<JobProgress>,
}

impl Job {
    /// Whether nothing more is done for it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "paused" | "cancelling")
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// The step decided last: of a move `learn`, `catch_up`, `promote` or `remove`, of a split `reserve`, `split` or `wait`, of a merge
    /// `transfer`, `merge`, `cancel` or `wait`, of a node that is emptied `begin` or `wait`, of a shard whose voters change in number those
    /// of a move and `wait`; `end` of all.
    pub step: String,
    /// What the learner lacks of the log, slots, while that is known.
    pub lag_slots: Option<u64>,
    /// Why the last change that was asked for was not made yet, or for what the job waits.
    pub trouble: Option<String>,
    /// Since something was last seen to change, milliseconds.
    pub idle_ms: u64,
    /// Changes that were seen to be made, in words and in order, the last few; [`Client::jobs`] leaves them out.
    pub changes: Vec<String>,
    /// Of a node that is emptied: the replicas that it has.
    pub replicas_left: Option<u64>,
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl TryFrom<v1::Job> for Job {
    type Error = Error;

    /// # Errors
    /// It says nothing of what it is to reach.
    fn try_from(wire: v1::Job) -> Result<Job> {
        job(wire)
    }
}

fn job(wire: v1::Job) -> Result<Job> {
    let goal = match wire.goal.ok_or_else(unexpected)?.kind {
        Some(Kind::MoveReplica(v1::MoveReplica { shard, from, to })) => {
            JobGoal::MoveReplica { shard, from, to: (to != 0).then_some(to) }
        }
        Some(Kind::SplitShard(v1::SplitShard { shard, version, at })) => {
            JobGoal::SplitShard { shard, version, at: (!at.is_empty()).then_some(at) }
        }
        Some(Kind::MergeShards(v1::MergeShards { shard, source, border })) => {
            JobGoal::MergeShards { shard, source, border }
        }
        Some(Kind::EmptyNode(v1::EmptyNode { node, remove, max_concurrent })) => {
            JobGoal::EmptyNode { node, remove, max_concurrent: (max_concurrent != 0).then_some(max_concurrent) }
        }
        Some(Kind::ResizeShard(v1::ResizeShard { shard, voters })) => JobGoal::ResizeShard { shard, voters },
        // Of a kind that this library does not know only the number is there, and the decoder skips it.
        None => JobGoal::Unknown,
    };
    let progress = wire.progress.map(|p| JobProgress {
        step: p.step,
        lag_slots: p.lag_slots,
        trouble: some(p.trouble),
        idle_ms: p.idle_ms,
        changes: p.changes,
        replicas_left: p.replicas_left,
    });
    Ok(Job { id: wire.id, goal, state: wire.state, why: some(wire.why), progress })
}

impl Client {
    /// Begins a job; the cluster carries it out by itself from then on. The same goal again is the same job, as long as that runs.
    ///
    /// # Errors
    ///
    /// [`Error::JobConflict`] where another job changes the members of the shard; [`Error::InvalidArgument`] where the goal makes no
    /// sense, or the cluster is below the version that knows jobs (field `cluster_version`).
    pub async fn start_job(&self, goal: JobGoal) -> Result<u64> {
        let goal = v1::JobGoal::from(goal);
        let mut unsure = false;
        let started = self.change(self.caller.deadline(), &mut unsure, |channel, id| {
            let request = v1::StartJobRequest { goal: Some(goal.clone()), id: Some(id) };
            async move { AdminClient::new(channel).start_job(request).await }
        });
        Ok(started.await?.job)
    }

    /// The jobs that run, and the last that have ended, in the order in which they began.
    pub async fn jobs(&self) -> Result<Vec<Job>> {
        let mut unsure = false;
        let listed = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| async move {
            AdminClient::new(channel).list_jobs(v1::ListJobsRequest {}).await
        });
        known(listed.await)?.jobs.into_iter().map(job).collect()
    }

    /// A job, and how far it is.
    ///
    /// # Errors
    ///
    /// [`Error::JobNotFound`] where there is none of this number, or its record is kept no longer.
    pub async fn job(&self, id: u64) -> Result<Job> {
        let mut unsure = false;
        let found = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| async move {
            AdminClient::new(channel).get_job(v1::GetJobRequest { job: id }).await
        });
        job(known(found.await)?)
    }

    /// Has a job go back, as long as it can; it has ended once [`Client::job`] says so.
    ///
    /// # Errors
    ///
    /// [`Error::JobNotFound`]; [`Error::JobConflict`] where it has ended otherwise.
    pub async fn cancel_job(&self, id: u64) -> Result<()> {
        let mut unsure = false;
        let cancelled = self.change(self.caller.deadline(), &mut unsure, |channel, name| {
            let request = v1::CancelJobRequest { job: id, id: Some(name) };
            async move { AdminClient::new(channel).cancel_job(request).await }
        });
        cancelled.await.map(|_| ())
    }

    /// Has a job pause, or go on. What was asked for in its name before may come about all the same.
    ///
    /// # Errors
    ///
    /// [`Error::JobNotFound`]; [`Error::JobConflict`] where it is being cancelled or has ended.
    pub async fn pause_job(&self, id: u64, paused: bool) -> Result<()> {
        let mut unsure = false;
        let changed = self.change(self.caller.deadline(), &mut unsure, |channel, name| {
            let request = v1::PauseJobRequest { job: id, paused, id: Some(name) };
            async move { AdminClient::new(channel).pause_job(request).await }
        });
        changed.await.map(|_| ())
    }

    /// Has a table ask for another number of replicas; a job begins for each of its shards that has more or fewer. The same number again
    /// begins those that are missing.
    ///
    /// # Errors
    ///
    /// [`Error::TableNotFound`]; [`Error::JobConflict`] where another job changes one of its shards; [`Error::InvalidArgument`] where the
    /// nodes are too few (field `replicas`), or the cluster is below the version that knows it (field `cluster_version`).
    pub async fn alter_table(&self, name: &str, replicas: u32) -> Result<()> {
        let mut unsure = false;
        let altered = self.change(self.caller.deadline(), &mut unsure, |channel, id| {
            let request = v1::AlterTableRequest { name: name.into(), replicas, dry_run: false, id: Some(id) };
            async move { AdminClient::new(channel).alter_table(request).await }
        });
        altered.await.map(|_| ())
    }

    /// What [`Client::alter_table`] would have done now. Changes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Client::alter_table`].
    pub async fn plan_alter(&self, name: &str, replicas: u32) -> Result<v1::AlterTableReply> {
        let mut unsure = false;
        let planned = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let request = v1::AlterTableRequest { name: name.into(), replicas, dry_run: true, id: None };
            async move { AdminClient::new(channel).alter_table(request).await }
        });
        known(planned.await)
    }

    /// Which replicas would leave a node, and where they would go, if it were emptied now. Changes nothing.
    ///
    /// # Errors
    ///
    /// Those that the job would be refused with.
    pub async fn plan_node(&self, node: u64, remove: bool, max_concurrent: Option<u32>) -> Result<v1::PlanNodeReply> {
        let max_concurrent = max_concurrent.unwrap_or(0);
        let mut unsure = false;
        let planned = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let goal = v1::EmptyNode { node, remove, max_concurrent };
            async move { AdminClient::new(channel).plan_node(v1::PlanNodeRequest { goal: Some(goal) }).await }
        });
        known(planned.await)
    }
}

/// A question changes nothing: where no answer came nothing is unknown but the answer.
pub(crate) fn known<T>(asked: Result<T>) -> Result<T> {
    asked.map_err(|error| match error {
        Error::OutcomeUnknown { cause } => Error::unavailable(cause),
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_an_unknown_kind_leaves_the_rest_of_the_list() {
        let wire = |goal| v1::Job { id: 7, goal, state: "running".into(), ..v1::Job::default() };
        let unknown = job(wire(Some(v1::JobGoal { kind: None }))).unwrap();
        assert_eq!((unknown.id, &unknown.goal, unknown.has_ended()), (7, &JobGoal::Unknown, false));
        let split = JobGoal::SplitShard { shard: 2, version: 1, at: None };
        assert_eq!(job(wire(Some(split.clone().into()))).unwrap().goal, split);
        assert!(job(wire(None)).is_err(), "a goal is always there");
    }
}
