//! The jobs that the system shard keeps.
//!
//! Owns: which jobs may begin, be cancelled and end, and how many are kept. Must never: hold how far a job has come, write
//! anything of jobs below the cluster version that knows them, or give an id twice.

use super::job_rows::encode_job;
use super::{ROW_JOB, RowChange, SystemOutcome, SystemState, no_such_node};
use crate::ids::{ClusterVersion, JobId, NodeId, ShardId};
use crate::jobs::empty_node::EmptyNode;
use crate::jobs::executor::Look;
use crate::jobs::job::{Job, JobEnd, JobGoal, JobState};
use crate::jobs::move_replica::{MoveReplica, Seen};
use synod_paxos::types::{Epoch, MemberRole};

/// Jobs that may run at a time; further ones are refused.
pub const JOBS_RUNNING_MAX: usize = 4096;
/// Jobs that have ended and are kept; the one that ended first goes first.
pub const JOBS_ENDED_MAX: usize = 256;
/// Longest reason of an end, bytes.
pub const JOB_WHY_MAX: usize = 512;
/// The field of a command that is invalid where the cluster's version does not know it.
pub const CLUSTER_VERSION: &str = "cluster_version";
/// The field of a command that is invalid where too many jobs run.
pub const JOBS: &str = "jobs";

fn invalid(field: &str, why: impl Into<String>) -> SystemOutcome {
    SystemOutcome::Invalid { field: field.into(), why: why.into() }
}

/// A reason that is no longer than may be stored.
#[must_use]
pub fn bounded_why(mut why: String) -> String {
    let mut end = why.len().min(JOB_WHY_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.truncate(end);
    why
}

impl SystemState {
    /// What is seen of a move here; what a learner lacks is not. `None`: the goal is no move.
    #[must_use]
    pub fn look_at(&self, goal: &JobGoal) -> Option<Look> {
        let (shard, MoveReplica { from, to }) = goal.as_move()?;
        let members = self.shards.get(&shard).map(|d| &d.membership);
        let seen = members.map(|m| {
            let seen = Seen { from: m.role_of(from), to: to.and_then(|to| m.role_of(to)), lag: None };
            (m.epoch, seen)
        });
        Some(Look { members: seen, stranger: to.filter(|to| !self.nodes.contains_key(to)) })
    }

    pub(super) fn start_job(&mut self, goal: &JobGoal, rows: &mut Vec<RowChange>) -> SystemOutcome {
        let checked = match goal {
            JobGoal::Move { shard, replica } => self.knows_jobs().and_then(|()| self.check_move(*shard, *replica)),
            JobGoal::Split { shard, version, at } => {
                self.knows_splits().and_then(|()| self.check_split(*shard, *version, at.as_ref()))
            }
            JobGoal::Merge { shard, source, border } => {
                self.knows_merges().and_then(|()| self.check_merge(*shard, *source, border))
            }
            // The node is marked already where it runs.
            JobGoal::Empty(wanted) if self.rival(goal).is_none() => {
                self.knows_marks().and_then(|()| self.check_empty(*wanted))
            }
            JobGoal::Empty(_) => self.knows_marks(),
            JobGoal::Resize(wanted) => self.knows_resizes().and_then(|()| self.check_resize(*wanted)),
        };
        if let Err(refused) = checked {
            return refused;
        }
        if let Some((id, job)) = self.rival(goal) {
            let going = match job.state {
                JobState::Running if job.goal == *goal => return SystemOutcome::Job(id),
                JobState::Paused => format!(", and is paused (`synod job resume {id}`)"),
                JobState::Cancelling => ", and is being cancelled".to_owned(),
                JobState::Running | JobState::Ended { .. } => String::new(),
            };
            let why = format!("it {} already{going}; wait for it (`synod job watch {id}`) or cancel it", job.goal);
            return SystemOutcome::JobConflict { job: id, why };
        }
        if self.running().nth(JOBS_RUNNING_MAX - 1).is_some() {
            return invalid(JOBS, format!("{JOBS_RUNNING_MAX} jobs run already: wait until some have ended"));
        }
        let id = JobId(self.last_job.0 + 1);
        self.last_job = id;
        self.put_job(id, Job { goal: goal.clone(), state: JobState::Running }, rows);
        if let JobGoal::Empty(wanted) = goal {
            self.mark_for(*wanted, rows);
        }
        SystemOutcome::Job(id)
    }

    /// The jobs that have not ended.
    pub(super) fn running(&self) -> impl Iterator<Item = (&JobId, &Job)> {
        self.jobs.iter().filter(|(_, job)| job.end().is_none())
    }

    /// The job that changes one of the same shards, or empties the same node.
    pub(super) fn rival(&self, goal: &JobGoal) -> Option<(JobId, &Job)> {
        let of_one = |other: &JobGoal| match (goal.as_empty(), other.as_empty()) {
            (Some(wanted), Some(other)) => wanted.node == other.node,
            (None, None) => goal.shards().any(|shard| other.shards().any(|busy| busy == shard)),
            _ => false,
        };
        self.running().find(|(_, job)| of_one(&job.goal)).map(|(id, job)| (*id, job))
    }

    /// A job pauses, or goes on. What was asked for in its name before may come about all the same.
    pub(super) fn pause_job(&mut self, id: JobId, paused: bool, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_marks() {
            return refused;
        }
        let Some(job) = self.jobs.get(&id) else { return SystemOutcome::JobNotFound(id) };
        let conflict = |why| SystemOutcome::JobConflict { job: id, why };
        let state = match (&job.state, paused) {
            (JobState::Running, true) => JobState::Paused,
            (JobState::Paused, false) => JobState::Running,
            (JobState::Running, false) | (JobState::Paused, true) => return SystemOutcome::Done,
            (JobState::Cancelling, _) => return conflict("it is being cancelled".to_owned()),
            (JobState::Ended { end, .. }, _) => return conflict(format!("it has ended already: {}", end.word())),
        };
        let job = Job { state, ..job.clone() };
        self.put_job(id, job, rows);
        SystemOutcome::Done
    }

    pub(super) fn cancel_job(&mut self, id: JobId, rows: &mut Vec<RowChange>) -> SystemOutcome {
        let Some(job) = self.jobs.get(&id) else { return SystemOutcome::JobNotFound(id) };
        match &job.state {
            JobState::Running | JobState::Paused => {
                if let Some(EmptyNode { node, .. }) = job.goal.as_empty() {
                    self.give_up(id, node, rows);
                    return SystemOutcome::Done;
                }
                let job = Job { state: JobState::Cancelling, ..job.clone() };
                self.put_job(id, job, rows);
                SystemOutcome::Done
            }
            JobState::Cancelling | JobState::Ended { end: JobEnd::Cancelled, .. } => SystemOutcome::Done,
            JobState::Ended { end, .. } => {
                SystemOutcome::JobConflict { job: id, why: format!("it has ended already: {}", end.word()) }
            }
        }
    }

    /// An end counts in the epoch that it was seen in: in any other the members are to be looked at anew.
    pub(super) fn finish_job(
        &mut self,
        id: JobId,
        seen: Epoch,
        end: &JobEnd,
        rows: &mut Vec<RowChange>,
    ) -> SystemOutcome {
        let Some(job) = self.jobs.get(&id) else { return SystemOutcome::JobNotFound(id) };
        if job.end().is_some() {
            return SystemOutcome::Done;
        }
        let shard = job.goal.shard().unwrap_or_default();
        let epoch = self.shards.get(&shard).map_or(Epoch::default(), |d| d.membership.epoch);
        if epoch != seen {
            let why = format!("shard {shard} is in epoch {epoch}, the end of the job was seen in epoch {seen}");
            return SystemOutcome::JobConflict { job: id, why };
        }
        if *end == JobEnd::Cancelled && job.state != JobState::Cancelling {
            return SystemOutcome::JobConflict { job: id, why: "nobody has cancelled it".into() };
        }
        if end.why().is_some_and(|why| why.len() > JOB_WHY_MAX) {
            return invalid("why", format!("a reason has {JOB_WHY_MAX} bytes at most"));
        }
        if let Some(goal) = job.goal.as_empty()
            && let Err(why) = self.close(goal, end, rows)
        {
            return SystemOutcome::JobConflict { job: id, why };
        }
        self.end_job(id, end.clone(), rows);
        SystemOutcome::Done
    }

    /// A job has ended; of those that have, the oldest go.
    pub(super) fn end_job(&mut self, id: JobId, end: JobEnd, rows: &mut Vec<RowChange>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let ended = |job: &Job| if let JobState::Ended { order, .. } = job.state { order } else { 0 };
        let order = self.jobs.values().map(ended).max().unwrap_or(0) + 1;
        let job = Job { goal: job.goal.clone(), state: JobState::Ended { end, order } };
        self.put_job(id, job, rows);
        let mut kept: Vec<(u64, JobId)> =
            self.jobs.iter().map(|(id, job)| (ended(job), *id)).filter(|(order, _)| *order > 0).collect();
        kept.sort_unstable();
        for (_, old) in kept.iter().take(kept.len().saturating_sub(JOBS_ENDED_MAX)) {
            self.jobs.remove(old);
            rows.push((ROW_JOB, old.0, None));
        }
    }

    /// The running job that gives a node a replica.
    pub(super) fn job_towards(&self, node: NodeId) -> Option<JobId> {
        let towards =
            |job: &Job| job.end().is_none() && job.goal.as_move().is_some_and(|(_, replica)| replica.to == Some(node));
        self.jobs.iter().find(|(_, job)| towards(job)).map(|(id, _)| *id)
    }

    fn put_job(&mut self, id: JobId, job: Job, rows: &mut Vec<RowChange>) {
        rows.push((ROW_JOB, id.0, Some(encode_job(&job))));
        self.jobs.insert(id, job);
    }

    fn knows_jobs(&self) -> Result<(), SystemOutcome> {
        self.knows("jobs need", ClusterVersion::THIRD)
    }

    /// Marks of nodes, jobs that empty one, and pauses.
    pub(super) fn knows_marks(&self) -> Result<(), SystemOutcome> {
        self.knows("this needs", ClusterVersion::FOURTH)
    }

    /// Tables whose replicas change.
    pub(super) fn knows_resizes(&self) -> Result<(), SystemOutcome> {
        self.knows("this needs", ClusterVersion::FIFTH)
    }

    pub(super) fn knows(&self, what: &str, needed: ClusterVersion) -> Result<(), SystemOutcome> {
        let version = self.version;
        if version >= needed {
            return Ok(());
        }
        let why = format!("the cluster is at version {version}, {what} {needed}: `synod cluster upgrade` raises it");
        Err(invalid(CLUSTER_VERSION, why))
    }

    /// Refuses a move that makes no sense by the members that are known. One that has come about already may begin: it ends at once.
    fn check_move(&self, shard: ShardId, replica: MoveReplica) -> Result<(), SystemOutcome> {
        let MoveReplica { from, to } = replica;
        let Some(descriptor) = self.shards.get(&shard) else {
            return Err(invalid("shard", format!("there is no shard {shard}")));
        };
        for (field, node) in [("from", Some(from)), ("to", to)] {
            if let Some(stranger) = node.filter(|node| !self.nodes.contains_key(node)) {
                return Err(invalid(field, no_such_node(stranger)));
            }
        }
        let votes = |node| descriptor.membership.role_of(node) == Some(MemberRole::Voter);
        match to {
            None if votes(from) => {
                Err(invalid("to", format!("node {from} votes in shard {shard}: name the node that gets its vote")))
            }
            Some(to) if to == from => Err(invalid("to", format!("node {to} is where the replica is"))),
            // What has come about already begins all the same, and ends at once.
            Some(to) if !self.takes(to) && !votes(to) => {
                let why = format!(
                    "node {to} is being emptied and takes no replica; `synod node recommission {to}` changes that"
                );
                Err(invalid("to", why))
            }
            Some(to) if votes(from) && votes(to) => {
                Err(invalid("to", format!("node {to} has a replica of shard {shard} already")))
            }
            Some(to) if !votes(from) && !votes(to) => {
                Err(invalid("from", format!("node {from} has no replica of shard {shard} that votes")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
