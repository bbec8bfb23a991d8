//! Jobs: carried out at the node where the system shard is led.
//!
//! Owns: the task that looks at the jobs, has their changes made and says how they ended; what of a job is known here. Must never: decide
//! a step (`synod_cluster::jobs` does), change members but through the shard's leader and under the epoch that the change was decided in,
//! or be missed: another node's executor goes on from what it sees.

use super::{AdminService, merges, nodes, resizes, splits};
use crate::node::host::Signals;
use crate::node::map::MapCache;
use crate::node::system::{SystemProposer, ask};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use synod_cluster::ids::{JobId, NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::jobs::empty_node::{EmptyNode, Seen};
use synod_cluster::jobs::executor::{Action, Executor, JobStep, Look, MergeLook, Progress, SplitLook};
use synod_cluster::jobs::job::{Job, JobEnd};
use synod_cluster::jobs::move_replica::{MoveReplica, Step};
use synod_cluster::jobs::resize_shard::{self, ResizeShard};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{SystemCommand, SystemOutcome, SystemState, bounded_why};
use synod_engine::host::{Body, Freshness, Read, SplitWanted, TailPoll};
use synod_engine::runner::WorkerHandle;
use synod_paxos::types::{Epoch, MemberRole};
use synod_proto::v1;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;

/// Pause between two looks at which jobs are due.
const BEAT: Duration = Duration::from_millis(50);
/// How often a node looks whether it leads the system shard by now.
const IDLE: Duration = Duration::from_millis(500);
/// How long a node may take to say what it knows of a shard.
const ASK: Duration = Duration::from_secs(1);
/// How long a majority may take to confirm that this node leads.
const READ: Duration = Duration::from_secs(3);
/// How long a shard's leader may take to take a change on.
const CHANGE: Duration = Duration::from_secs(5);

/// A job, and how far it is.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// Its number.
    pub id: JobId,
    /// What the system shard keeps of it.
    pub job: Job,
    /// What the executor here has seen of it.
    pub progress: Option<Progress>,
    /// Since something was last seen to change.
    pub idle: Duration,
}

/// Knows the jobs, and carries them out while this node leads the system shard.
pub struct JobManager {
    node: NodeId,
    worker: WorkerHandle,
    map_cache: Arc<MapCache>,
    signals: Arc<Signals>,
    system: Arc<SystemProposer>,
    executor: Mutex<Executor>,
    /// Times of the executor count from here.
    origin: Instant,
}

impl JobManager {
    /// The manager of this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        worker: WorkerHandle,
        map_cache: Arc<MapCache>,
        signals: Arc<Signals>,
        system: Arc<SystemProposer>,
    ) -> Self {
        let (executor, origin) = (Mutex::default(), Instant::now());
        Self { node, worker, map_cache, signals, system, executor, origin }
    }

    fn executor(&self) -> MutexGuard<'_, Executor> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node leads the system shard, as far as it knows. One whose replica went does not hear who leads after it.
    pub(super) fn leads(&self) -> bool {
        let map = self.map_cache.get();
        let system = map.as_ref().and_then(|map| map.shards.get(&SYSTEM_SHARD));
        let member = system.is_some_and(|d| d.membership.role_of(self.node).is_some());
        member && self.map_cache.leader(SYSTEM_SHARD) == Some(self.node)
    }

    /// Every job that is kept, as of now.
    ///
    /// # Errors
    /// This node does not lead the system shard, or is not known to by a majority.
    pub async fn list(&self) -> Result<Vec<JobReport>, Refusal> {
        let state = self.current().await?;
        Ok(self.reports(&state))
    }

    /// The metadata, with all that was acknowledged before.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub async fn current(&self) -> Result<Arc<SystemState>, Refusal> {
        // A read of nothing: it is answered once this node is known to lead, and has applied what was acknowledged before.
        let nothing = TailPoll {
            from: Bytes::new(),
            to: Bytes::new(),
            segments: Vec::new(),
            limit: 0,
            wait_us: 0,
            tells_trimmed: false,
        };
        let read = Body::Read { read: Read::Tail(nothing), freshness: Freshness::Linearizable };
        timeout(READ, ask(&self.worker, SYSTEM_SHARD, read)).await.unwrap_or(Err(Refusal::NotReady))?;
        self.signals.maps.borrow().clone().ok_or(Refusal::NotReady)
    }

    /// The jobs that run, as this node knows them; none where it does not lead the system shard.
    #[must_use]
    pub fn running(&self) -> Vec<JobReport> {
        let state = self.signals.maps.borrow().clone().filter(|_| self.leads());
        let jobs = state.map(|state| self.reports(&state)).unwrap_or_default();
        jobs.into_iter().filter(|report| report.job.end().is_none()).collect()
    }

    fn reports(&self, state: &SystemState) -> Vec<JobReport> {
        let (executor, now) = (self.executor(), self.origin.elapsed());
        let report = |(id, job): (&JobId, &Job)| {
            let mut progress = executor.progress(*id).cloned();
            if let Some(progress) = &mut progress
                && let Some(why) = down_target(job, progress, |node| self.system.hears(node))
            {
                progress.trouble = Some(why);
            }
            let idle = progress.as_ref().map_or(Duration::ZERO, |progress| now.saturating_sub(progress.moved));
            JobReport { id: *id, job: job.clone(), progress, idle }
        };
        state.jobs.iter().map(report).collect()
    }

    /// Carries jobs out for as long as the node runs.
    pub async fn run(self: Arc<Self>, admin: AdminService) {
        let mut maps = self.signals.maps.subscribe();
        let mut leaders = BTreeMap::new();
        loop {
            let state = maps.borrow_and_update().clone();
            if !self.leads() {
                // Whoever leads now goes on. Of the next time nothing is known.
                *self.executor() = Executor::default();
            } else if let Some(state) = state.filter(|state| state.jobs.values().any(|job| job.end().is_none())) {
                self.turn(&state, &admin, &mut leaders).await;
                sleep(BEAT).await;
                continue;
            }
            if let Ok(Err(_)) = timeout(IDLE, maps.changed()).await {
                return;
            }
        }
    }

    /// One look at each job that is due, and what follows from it.
    async fn turn(&self, state: &SystemState, admin: &AdminService, leaders: &mut BTreeMap<ShardId, NodeId>) {
        let now = self.origin.elapsed();
        let due = self.executor().due(&state.jobs, now);
        let mut looks: Vec<(JobId, &Job, Look)> =
            due.iter().filter_map(|(id, job)| Some((*id, *job, state.look_at(&job.goal)?))).collect();
        let mut split_looks: Vec<(JobId, &Job, SplitLook)> =
            due.iter().filter_map(|(id, job)| Some((*id, *job, look_at_split(state, job)?))).collect();
        let mut merge_looks: Vec<(JobId, &Job, MergeLook)> =
            due.iter().filter_map(|(id, job)| Some((*id, *job, merges::look_at(state, job)?))).collect();
        let empties: Vec<(JobId, &Job, EmptyNode)> =
            due.iter().filter_map(|(id, job)| Some((*id, *job, job.goal.as_empty()?))).collect();
        let resizes: Vec<(JobId, &Job, ResizeShard)> =
            due.iter().filter_map(|(id, job)| Some((*id, *job, job.goal.as_resize()?))).collect();
        let shards = looks.iter().filter(|(_, _, look)| learns(look)).filter_map(|(_, job, _)| job.goal.shard());
        let shards = shards.chain(split_looks.iter().filter_map(|(_, job, _)| job.goal.shard()));
        let shards = shards.chain(resizes.iter().map(|(_, _, goal)| goal.shard));
        let shards = shards.chain(merge_looks.iter().flat_map(|(_, job, _)| job.goal.shards())).collect();
        let replicas = leading(state, admin, shards, leaders).await;
        // A change goes to the leader that was heard just now.
        leaders.iter().for_each(|(shard, node)| self.map_cache.heard_leader(*shard, *node));
        for (_, job, look) in &mut looks {
            add_lag(job, look, &replicas);
        }
        for (_, job, look) in &mut split_looks {
            let Some(shard) = job.goal.shard() else { continue };
            look.seen.leader = replicas.get(&shard).zip(state.shards.get(&shard)).and_then(|(r, d)| splits::led(r, d));
        }
        for (_, job, look) in &mut merge_looks {
            merges::add_leaders(job, look, &replicas, leaders);
        }
        let begins = empties.iter().any(|(_, _, goal)| state.may_begin(*goal))
            || resizes.iter().any(|(_, _, goal)| state.chooses(*goal));
        let heard = if begins { nodes::heard(state, admin).await } else { BTreeMap::new() };
        let empties = empties.into_iter().map(|(id, job, goal)| (id, job, state.look_at_empty(goal, &heard)));
        let empties: Vec<(JobId, &Job, Seen)> = empties.collect();
        let resizes = resizes::look(state, resizes, &heard, leaders, &replicas);
        let actions: Vec<Action> = {
            let mut executor = self.executor();
            let moves: Vec<Action> =
                looks.into_iter().filter_map(|(id, job, look)| executor.decide(id, job, look, now)).collect();
            let split = |(id, job, look): (JobId, &Job, SplitLook)| executor.decide_split(id, job, &look, now);
            let mut actions: Vec<Action> = moves.into_iter().chain(split_looks.into_iter().filter_map(split)).collect();
            let merge = |(id, job, look): (JobId, &Job, MergeLook)| executor.decide_merge(id, job, &look, now);
            actions.extend(merge_looks.into_iter().filter_map(merge));
            actions.extend(empties.iter().filter_map(|(id, job, seen)| executor.decide_empty(*id, job, seen, now)));
            let resize = |(id, job, seen): (JobId, &Job, Option<resize_shard::Seen>)| {
                executor.decide_resize(id, job, seen.as_ref(), now)
            };
            actions.extend(resizes.into_iter().filter_map(resize));
            actions
        };
        futures::future::join_all(actions.into_iter().map(|action| self.act(action, admin))).await;
    }

    async fn act(&self, action: Action, admin: &AdminService) {
        let (job, refused) = match action {
            Action::Change { job, shard, expected, change } => {
                (job, change_members(admin, shard, expected, change).await.err())
            }
            Action::Reserve { job, parent, version } => {
                (job, splits::reserve(&self.system, parent, version).await.err())
            }
            Action::Split { job, shard, version, epoch, child, at } => {
                (job, splits::split(admin, shard, SplitWanted { version, epoch, child, at }).await.err())
            }
            Action::Transfer { job, shard, to } => (job, merges::transfer(admin, shard, to).await.err()),
            Action::Merge { job, shard, begin } => (job, merges::merge(admin, shard, begin).await.err()),
            Action::CancelMerge { job, shard, source } => (job, merges::cancel(admin, shard, source).await.err()),
            Action::Begin { job, leaving } => (job, nodes::begin(&self.system, job, leaving).await.err()),
            Action::Finish { job, seen, end } => (job, self.finish(job, seen, end).await.err()),
        };
        if let Some(why) = &refused {
            tracing::debug!(%job, why, "a step of the job was not confirmed");
        }
        self.executor().answered(job, refused, self.origin.elapsed());
    }

    async fn finish(&self, job: JobId, seen: Epoch, end: JobEnd) -> Result<(), String> {
        let end = match end {
            JobEnd::Overtaken(why) => JobEnd::Overtaken(bounded_why(why)),
            JobEnd::Failed(why) => JobEnd::Failed(bounded_why(why)),
            end => end,
        };
        let command = SystemCommand::FinishJob { job, seen, end: end.clone() };
        match self.system.execute(&command).await.map_err(|status| status.message().to_owned())? {
            SystemOutcome::Done => {
                tracing::info!(%job, end = end.word(), why = end.why(), "the job has ended");
                Ok(())
            }
            // Its record is kept no longer: another has said the same.
            SystemOutcome::JobNotFound(_) => Ok(()),
            SystemOutcome::JobConflict { why, .. } | SystemOutcome::Invalid { why, .. } => Err(why),
            other => Err(format!("the outcome of a job's end was {other:?}")),
        }
    }
}

/// What the map says of a split.
fn look_at_split(state: &SystemState, job: &Job) -> Option<SplitLook> {
    let goal = job.goal.as_split()?;
    let epoch = state.shards.get(&goal.shard).map_or(Epoch::default(), |d| d.membership.epoch);
    Some(SplitLook { seen: state.look_at_split(goal), epoch })
}

/// Whether what is to be done depends on what a learner lacks.
fn learns(look: &Look) -> bool {
    look.members.is_some_and(|(_, seen)| seen.to == Some(MemberRole::Learner))
}

/// What the leaders of these shards say of them. `leaders` has who led last.
async fn leading(
    state: &SystemState,
    admin: &AdminService,
    shards: Vec<ShardId>,
    leaders: &mut BTreeMap<ShardId, NodeId>,
) -> BTreeMap<ShardId, v1::ReplicaStatus> {
    leaders.retain(|shard, _| shards.contains(shard));
    let mut found = BTreeMap::new();
    // First those who led last; where that is not known, or has changed, all who may.
    for all in [false, true] {
        let asked = shards.iter().filter(|shard| !found.contains_key(*shard));
        let mut nodes: Vec<NodeId> = match all {
            false => asked.filter_map(|shard| leaders.get(shard).copied()).collect(),
            true => asked.filter_map(|shard| state.shards.get(shard)).flat_map(|d| d.membership.voters()).collect(),
        };
        nodes.sort_unstable();
        nodes.dedup();
        let answers = nodes.into_iter().map(|node| async move {
            let answer = timeout(ASK, admin.status_of(node)).await;
            // A node that does not answer leads nothing that could go on.
            answer.ok().and_then(Result::ok).map(|status| (node, status))
        });
        for (node, status) in futures::future::join_all(answers).await.into_iter().flatten() {
            for replica in status.replicas.into_iter().filter(|replica| replica.role == "leader") {
                let shard = ShardId(replica.shard);
                // An old leader may not know yet that it was succeeded: the one further in its epoch and log counts.
                let rank = |r: &v1::ReplicaStatus| (r.epoch, r.last);
                if shards.contains(&shard) && found.get(&shard).is_none_or(|best| rank(best) < rank(&replica)) {
                    leaders.insert(shard, node);
                    found.insert(shard, replica);
                }
            }
        }
    }
    found
}

/// Why a move waits for its new member in vain, where that is down.
fn down_target(job: &Job, progress: &Progress, hears: impl Fn(NodeId) -> bool) -> Option<String> {
    let (_, MoveReplica { to, .. }) = job.goal.as_move()?;
    let down = to.filter(|to| !hears(*to))?;
    let waits = matches!(progress.step, Some(JobStep::Move(Step::Wait(_))));
    waits.then(|| format!("node {down} is down: it learns the log once it is back"))
}

/// What the learner lacks, as its leader of the same epoch says.
fn add_lag(job: &Job, look: &mut Look, replicas: &BTreeMap<ShardId, v1::ReplicaStatus>) {
    let Some((shard, replica)) = job.goal.as_move() else { return };
    let (Some((epoch, seen)), Some(to), Some(leader)) = (&mut look.members, replica.to, replicas.get(&shard)) else {
        return;
    };
    if leader.epoch == epoch.0 {
        let lag = leader.lag.iter().find(|lag| lag.node == to.0).map(|lag| lag.slots);
        // One that lacks everything may have no replica yet.
        seen.lag = lag.filter(|lag| *lag < leader.last);
    }
}

async fn change_members(
    admin: &AdminService,
    shard: ShardId,
    expected: Epoch,
    change: MemberChange,
) -> Result<(), String> {
    use v1::admin_server::Admin as _;
    use v1::change_members_request::Change;
    let (change, instead_of) = match change {
        MemberChange::Learn(node) => (Change::Learn(node.0), 0),
        MemberChange::Promote { node, instead_of } => (Change::Promote(node.0), instead_of.map_or(0, |node| node.0)),
        MemberChange::Remove(node) => (Change::Remove(node.0), 0),
    };
    let request =
        v1::ChangeMembersRequest { shard: shard.0, change: Some(change), instead_of, expected_epoch: expected.0 };
    match timeout(CHANGE, admin.change_members(Request::new(request))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("the leader of shard {shard} did not answer within {} s", CHANGE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::jobs::job::{JobGoal, JobState};
    use synod_cluster::jobs::move_replica;

    #[test]
    fn what_a_learner_lacks_is_the_word_of_its_leader_in_that_epoch() {
        let replica = MoveReplica { from: NodeId(3), to: Some(NodeId(4)) };
        let job = Job { goal: JobGoal::Move { shard: ShardId(5), replica }, state: JobState::Running };
        let lag = |epoch, slots, last| {
            let lag = vec![v1::ReplicaLag { node: 4, slots }];
            let leader = v1::ReplicaStatus { shard: 5, epoch, last, lag, ..v1::ReplicaStatus::default() };
            let seen = move_replica::Seen { from: Some(MemberRole::Voter), to: Some(MemberRole::Learner), lag: None };
            let mut look = Look { members: Some((Epoch(2), seen)), stranger: None };
            add_lag(&job, &mut look, &BTreeMap::from([(ShardId(5), leader)]));
            look.members.and_then(|(_, seen)| seen.lag)
        };
        assert_eq!(lag(2, 7, 100), Some(7));
        assert_eq!(lag(1, 7, 100), None, "it does not know the learner of this epoch");
        assert_eq!(lag(2, 100, 100), None, "it may have no replica yet");
    }

    #[test]
    fn a_move_that_waits_for_a_node_that_is_down_says_so() {
        let move_to = |to| {
            let replica = MoveReplica { from: NodeId(3), to };
            Job { goal: JobGoal::Move { shard: ShardId(5), replica }, state: JobState::Running }
        };
        let at = |step| Progress { step: Some(JobStep::Move(step)), ..Progress::default() };
        let (job, waits) = (move_to(Some(NodeId(4))), at(Step::Wait(None)));
        let why = down_target(&job, &waits, |node| node != NodeId(4)).expect("node 4 is down");
        assert!(why.starts_with("node 4 is down"), "{why}");
        assert_eq!(down_target(&job, &waits, |node| node != NodeId(3)), None, "nobody waits for node 3");
        assert_eq!(down_target(&job, &at(Step::Change(MemberChange::Learn(NodeId(4)))), |_| false), None);
        assert_eq!(down_target(&move_to(None), &waits, |_| false), None);
    }
}
