//! The calls of the `Admin` service about jobs.
//!
//! Owns: a job as clients see it. Must never: answer from what this node knows while another may lead the system shard.

use super::job_manager::JobReport;
use super::{AdminService, FORWARDED, Running, no_such_table, nodes, resizes, splits, unavailable};
use crate::node::api::convert;
use crate::node::status::status;
use std::collections::BTreeMap;
use synod_cluster::ids::{JobId, NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::jobs::empty_node;
use synod_cluster::jobs::executor::{JobStep, Progress};
use synod_cluster::jobs::job::JobGoal;
use synod_cluster::jobs::move_replica::{MoveReplica, Step};
use synod_cluster::jobs::resize_shard::{self, ResizeShard};
use synod_cluster::jobs::{merge, split};
use synod_cluster::members::MemberChange;
use synod_cluster::system::{SystemCommand, SystemOutcome};
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use v1::error::Kind;
use v1::job_goal::Kind as GoalKind;

/// Begins a job.
pub(super) async fn start(running: &Running, request: v1::StartJobRequest) -> Result<v1::StartJobReply, Status> {
    let goal = goal(request.goal)?;
    if let JobGoal::Split { shard, at, .. } = &goal {
        splits::check_at(running, *shard, at.as_ref())?;
    }
    let command = SystemCommand::StartJob { goal };
    running.check_version(&command)?;
    match running.change(request.id.as_ref(), &command).await? {
        SystemOutcome::Job(JobId(job)) => Ok(v1::StartJobReply { job }),
        other => Err(refused(other)),
    }
}

/// Has a job go back.
pub(super) async fn cancel(running: &Running, request: v1::CancelJobRequest) -> Result<v1::CancelJobReply, Status> {
    match running.change(request.id.as_ref(), &SystemCommand::CancelJob { job: JobId(request.job) }).await? {
        SystemOutcome::Done => Ok(v1::CancelJobReply {}),
        other => Err(refused(other)),
    }
}

/// Has a job pause, or go on.
pub(super) async fn pause(running: &Running, request: v1::PauseJobRequest) -> Result<v1::PauseJobReply, Status> {
    let command = SystemCommand::PauseJob { job: JobId(request.job), paused: request.paused };
    match running.change(request.id.as_ref(), &command).await? {
        SystemOutcome::Done => Ok(v1::PauseJobReply {}),
        other => Err(refused(other)),
    }
}

/// Has a node take replicas again.
pub(super) async fn recommission(
    running: &Running,
    request: v1::RecommissionNodeRequest,
) -> Result<v1::RecommissionNodeReply, Status> {
    let command = SystemCommand::Recommission { node: NodeId(request.node) };
    match running.change(request.id.as_ref(), &command).await? {
        SystemOutcome::Done => Ok(v1::RecommissionNodeReply {}),
        other => Err(refused(other)),
    }
}

/// Which replicas would leave a node, as the system shard's leader knows it.
pub(super) async fn plan(
    admin: &AdminService,
    request: Request<v1::PlanNodeRequest>,
) -> Result<Response<v1::PlanNodeReply>, Status> {
    let running = admin.get()?;
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let goal = wanted.goal.as_ref().map(nodes::goal);
    let goal = goal.ok_or_else(|| status(&convert::invalid("goal", "must be given: which node")))?;
    match running.jobs.current().await {
        Ok(state) => {
            let heard = nodes::heard(&state, admin).await;
            let plan = state.plan_empty(goal, &heard).map_err(refused)?;
            Ok(Response::new(nodes::plan_to_wire(plan)))
        }
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted);
                async move { leader.plan_node(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

/// Has a table ask for another number of replicas, or says what that would have done.
pub(super) async fn alter(
    admin: &AdminService,
    request: Request<v1::AlterTableRequest>,
) -> Result<Response<v1::AlterTableReply>, Status> {
    let running = admin.get()?;
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let command = SystemCommand::AlterTable { name: wanted.name.clone(), replicas: wanted.replicas };
    running.check_version(&command)?;
    if !wanted.dry_run {
        let map = running.map_cache.get().ok_or_else(|| unavailable("the node has no shard map yet"))?;
        let table = map.table(&wanted.name).map(|(_, table)| table);
        resizes::check_alive(&map, table, wanted.replicas, &nodes::heard(&map, admin).await)?;
        return match running.change(wanted.id.as_ref(), &command).await? {
            SystemOutcome::Table(_) => Ok(Response::new(v1::AlterTableReply::default())),
            other => Err(refused(other)),
        };
    }
    match running.jobs.current().await {
        Ok(state) => {
            let heard = nodes::heard(&state, admin).await;
            let table = state.table(&wanted.name).map(|(_, table)| table);
            resizes::check_alive(&state, table, wanted.replicas, &heard)?;
            let leader = |shard: &ShardId| Some((*shard, running.map_cache.leader(*shard)?));
            let leaders: BTreeMap<ShardId, NodeId> = state.shards.keys().filter_map(leader).collect();
            let plan = state.plan_alter(&wanted.name, wanted.replicas, &heard, &leaders).map_err(refused)?;
            Ok(Response::new(resizes::plan_to_wire(plan)))
        }
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted.clone());
                async move { leader.alter_table(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

/// Every job, as the system shard's leader knows it.
pub(super) async fn list(
    running: &Running,
    request: Request<v1::ListJobsRequest>,
) -> Result<Response<v1::ListJobsReply>, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    match running.jobs.list().await {
        Ok(jobs) => {
            Ok(Response::new(v1::ListJobsReply { jobs: jobs.into_iter().map(|job| to_wire(job, false)).collect() }))
        }
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted);
                async move { leader.list_jobs(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

/// One job, as the system shard's leader knows it.
pub(super) async fn get(running: &Running, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    match running.jobs.list().await {
        Ok(jobs) => match jobs.into_iter().find(|job| job.id.0 == wanted.job) {
            Some(job) => Ok(Response::new(to_wire(job, true))),
            None => Err(refused(SystemOutcome::JobNotFound(JobId(wanted.job)))),
        },
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted);
                async move { leader.get_job(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

fn refused(outcome: SystemOutcome) -> Status {
    match outcome {
        SystemOutcome::TableNotFound(table) => no_such_table(table),
        SystemOutcome::Invalid { field, why } => status(&convert::invalid(&field, why)),
        SystemOutcome::JobNotFound(JobId(job)) => {
            let message = format!("job {job} does not exist, or its record is kept no longer");
            status(&convert::error(Kind::JobNotFound(v1::JobNotFound { job }), false, message))
        }
        SystemOutcome::JobConflict { job: JobId(job), why } => {
            let message = format!("job {job}: {why}");
            status(&convert::error(Kind::JobConflict(v1::JobConflict { job, why }), false, message))
        }
        other => Status::internal(format!("the outcome of a job's command was {other:?}")),
    }
}

fn goal(wanted: Option<v1::JobGoal>) -> Result<JobGoal, Status> {
    match wanted.and_then(|goal| goal.kind) {
        Some(GoalKind::MoveReplica(v1::MoveReplica { shard, from, to })) => {
            let replica = MoveReplica { from: NodeId(from), to: (to != 0).then_some(NodeId(to)) };
            Ok(JobGoal::Move { shard: ShardId(shard), replica })
        }
        // Below the cluster version that knows splits the system shard refuses it, by name.
        Some(GoalKind::SplitShard(v1::SplitShard { shard, version, at })) => {
            let at = (!at.is_empty()).then_some(at);
            Ok(JobGoal::Split { shard: ShardId(shard), version, at })
        }
        Some(GoalKind::MergeShards(v1::MergeShards { shard, source, border })) => {
            Ok(JobGoal::Merge { shard: ShardId(shard), source: ShardId(source), border })
        }
        Some(GoalKind::EmptyNode(wanted)) => Ok(JobGoal::Empty(nodes::goal(&wanted))),
        Some(GoalKind::ResizeShard(v1::ResizeShard { shard, voters })) => {
            Ok(JobGoal::Resize(ResizeShard { shard: ShardId(shard), voters }))
        }
        None => {
            let kinds = "must be given: move_replica, split_shard, merge_shards, empty_node or resize_shard";
            Err(status(&convert::invalid("goal", kinds)))
        }
    }
}

fn goal_to_wire(goal: &JobGoal) -> v1::JobGoal {
    let kind = match goal {
        JobGoal::Move { shard, replica: MoveReplica { from, to } } => {
            GoalKind::MoveReplica(v1::MoveReplica { shard: shard.0, from: from.0, to: to.map_or(0, |to| to.0) })
        }
        JobGoal::Split { shard, version, at } => {
            let at = at.clone().unwrap_or_default();
            GoalKind::SplitShard(v1::SplitShard { shard: shard.0, version: *version, at })
        }
        JobGoal::Merge { shard, source, border } => {
            GoalKind::MergeShards(v1::MergeShards { shard: shard.0, source: source.0, border: border.clone() })
        }
        JobGoal::Empty(goal) => GoalKind::EmptyNode(nodes::goal_to_wire(*goal)),
        JobGoal::Resize(ResizeShard { shard, voters }) => {
            GoalKind::ResizeShard(v1::ResizeShard { shard: shard.0, voters: *voters })
        }
    };
    v1::JobGoal { kind: Some(kind) }
}

/// `changes`: with the changes that were seen.
pub(super) fn to_wire(JobReport { id, job, progress, idle }: JobReport, changes: bool) -> v1::Job {
    let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    v1::Job {
        id: id.0,
        goal: Some(goal_to_wire(&job.goal)),
        state: job.word().into(),
        why: job.end().and_then(|end| end.why()).unwrap_or_default().into(),
        progress: progress.map(|progress| progress_to_wire(&progress, idle_ms, changes)),
    }
}

fn progress_to_wire(progress: &Progress, idle_ms: u64, changes: bool) -> v1::JobProgress {
    let lag_slots = match progress.step {
        Some(JobStep::Move(Step::Wait(lag)) | JobStep::Resize(resize_shard::Step::CatchUp(lag))) => lag,
        _ => None,
    };
    let waits = match &progress.step {
        Some(
            JobStep::Split(split::Step::Wait(why))
            | JobStep::Merge(merge::Step::Wait(why))
            | JobStep::Empty(empty_node::Step::Wait(why))
            | JobStep::Resize(resize_shard::Step::Wait(why)),
        ) => Some(why),
        _ => None,
    };
    let told = progress.changes.iter().filter(|_| changes);
    v1::JobProgress {
        step: progress.step.as_ref().map(step_word).unwrap_or_default().into(),
        lag_slots,
        trouble: progress.trouble.as_ref().or(waits).cloned().unwrap_or_default(),
        idle_ms,
        changes: told.map(MemberChange::to_string).collect(),
        replicas_left: progress.left,
    }
}

fn step_word(step: &JobStep) -> &'static str {
    let step = match step {
        JobStep::Move(step) => step,
        JobStep::Split(split::Step::Reserve { .. }) => return "reserve",
        JobStep::Split(split::Step::Propose { .. }) => return "split",
        JobStep::Split(split::Step::Wait(_)) => return "wait",
        JobStep::Split(split::Step::Done | split::Step::Overtaken(_)) => return "end",
        JobStep::Merge(merge::Step::Transfer { .. }) => return "transfer",
        JobStep::Merge(merge::Step::Begin(_)) => return "merge",
        JobStep::Merge(merge::Step::Cancel) => return "cancel",
        JobStep::Merge(merge::Step::Wait(_)) => return "wait",
        JobStep::Merge(merge::Step::Done | merge::Step::Overtaken(_) | merge::Step::Undone) => return "end",
        JobStep::Empty(empty_node::Step::Begin(_)) => return "begin",
        JobStep::Empty(empty_node::Step::Wait(_)) => return "wait",
        JobStep::Empty(empty_node::Step::Done | empty_node::Step::Overtaken(_)) => return "end",
        JobStep::Resize(resize_shard::Step::Change(change)) => return change_word(change),
        JobStep::Resize(resize_shard::Step::CatchUp(_)) => return "catch_up",
        JobStep::Resize(resize_shard::Step::Wait(_)) => return "wait",
        JobStep::Resize(resize_shard::Step::Done | resize_shard::Step::Undone) => return "end",
    };
    match step {
        Step::Change(change) => change_word(change),
        Step::Wait(_) => "catch_up",
        Step::Done | Step::Overtaken | Step::Undone => "end",
    }
}

fn change_word(change: &MemberChange) -> &'static str {
    match change {
        MemberChange::Learn(_) => "learn",
        MemberChange::Promote { .. } => "promote",
        MemberChange::Remove(_) => "remove",
    }
}
