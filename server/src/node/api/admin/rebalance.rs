//! What the planner would do to the cluster, and what of a plan still applies.
//!
//! Owns: the two calls, their bounds, and what is left out of a plan. Must never: begin anything, answer from what this node knows while
//! another may lead the system shard, or plan on a thread of the network: a plan takes time in proportion to the shards.

mod look;
mod picture;
mod wire;

use super::{AdminService, FORWARDED};
use crate::node::api::convert;
use crate::node::status::status;
use bytes::Bytes;
use picture::Seen;
use synod_cluster::ids::{SYSTEM_SHARD, TableId};
use synod_cluster::planner::settings::{AT_ONCE_MAX, Settings, Weights};
use synod_cluster::planner::{Change, Measure, Operation, Picture, Plan, Rule, apply, stale};
use synod_cluster::system::SystemState;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use v1::error::Kind;

/// Operations of one check, at most.
const CHECKED_MAX: usize = 64;

/// What the planner would do, as the system shard's leader sees the cluster.
pub(super) async fn plan(
    admin: &AdminService,
    request: Request<v1::PlanRebalanceRequest>,
) -> Result<Response<v1::PlanRebalanceReply>, Status> {
    let running = admin.get()?;
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let settings = settings(&wanted).map_err(|(field, why)| status(&convert::invalid(field, why)))?;
    match running.jobs.current().await {
        Ok(state) => {
            let table = table(&state, &wanted.table)?;
            let seen = look::look(admin, &state, &settings, table).await?;
            let planning = move || planned(&state, &seen, settings, table);
            spawn_blocking(planning).await.map(Response::new).map_err(|error| Status::internal(error.to_string()))
        }
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted.clone());
                async move { leader.plan_rebalance(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

/// Which of some operations no longer apply, as the system shard's leader sees the cluster.
pub(super) async fn check(
    admin: &AdminService,
    request: Request<v1::CheckOperationsRequest>,
) -> Result<Response<v1::CheckOperationsReply>, Status> {
    let running = admin.get()?;
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let operations = operations(&wanted).map_err(|why| status(&convert::invalid("operations", why)))?;
    match running.jobs.current().await {
        Ok(state) => {
            let settings = Settings::default();
            let seen = look::heard(admin, &state).await?;
            let checking = move || checked(&state, &seen, settings, operations);
            spawn_blocking(checking).await.map(Response::new).map_err(|error| Status::internal(error.to_string()))
        }
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted.clone());
                async move { leader.check_operations(request).await }
            };
            running.at_leader(&refusal, SYSTEM_SHARD, forwarded, call).await
        }
    }
}

/// The planner's settings; the error names the field that is out of bounds.
fn settings(wanted: &v1::PlanRebalanceRequest) -> Result<Settings, (&'static str, String)> {
    let mut settings = Settings::default();
    if let Some(v1::RebalanceWeights { bytes, replicas, leaders, load }) = wanted.weights {
        if bytes.max(replicas).max(leaders).max(load) == 0 {
            return Err(("weights", "must not all be 0".into()));
        }
        if bytes.max(replicas).max(leaders).max(load) > 1000 {
            return Err(("weights", "must be at most 1000 each".into()));
        }
        settings.weights = Weights { bytes, replicas, leaders, load, ..settings.weights };
    }
    match wanted.max_concurrent {
        0 => {}
        1..=AT_ONCE_MAX => {
            settings.max_concurrent = usize::try_from(wanted.max_concurrent).unwrap_or(settings.max_concurrent);
        }
        more => {
            return Err(("max_concurrent", format!("is {more}, at most {AT_ONCE_MAX} operations may be under way")));
        }
    }
    Ok(settings)
}

/// The table of this name; of none, all.
fn table(state: &SystemState, name: &str) -> Result<Option<TableId>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = state.tables.iter().find(|(_, table)| table.name == name).map(|(id, _)| *id);
    let missing = || {
        let why = v1::TableNotFound { table: name.to_owned() };
        status(&convert::error(Kind::TableNotFound(why), false, format!("table {name:?} does not exist")))
    };
    found.map(Some).ok_or_else(missing)
}

fn operations(wanted: &v1::CheckOperationsRequest) -> Result<Vec<Operation>, String> {
    let given = wanted.operations.len();
    if given > CHECKED_MAX {
        return Err(format!("are {given}, at most {CHECKED_MAX} are checked at a time"));
    }
    wanted.operations.iter().map(wire::operation).collect()
}

fn planned(state: &SystemState, seen: &Seen, settings: Settings, table: Option<TableId>) -> v1::PlanRebalanceReply {
    let mut picture = picture::of(state, seen, settings, table);
    let mut plan = synod_cluster::planner::plan(&picture);
    leave_drains(&mut plan, &picture);
    let before = Measure::of(&picture);
    for operation in &plan.operations {
        // It was planned in this order: each applies once those before it are done.
        apply(&mut picture, operation);
    }
    v1::PlanRebalanceReply {
        cluster: Bytes::copy_from_slice(&state.cluster.to_be_bytes()),
        map_revision: state.revision,
        operations: plan.operations.iter().filter_map(wire::planned).collect(),
        max_concurrent: u32::try_from(settings.max_concurrent).unwrap_or(AT_ONCE_MAX),
        refused: plan.refusals.iter().map(ToString::to_string).collect(),
        before: Some(wire::measure(&before)),
        after: Some(wire::measure(&Measure::of(&picture))),
        silent: seen.silent.iter().map(|node| node.0).collect(),
    }
}

/// Leaves out what a job that empties a node does by itself, within its own bound.
fn leave_drains(plan: &mut Plan, picture: &Picture) {
    let emptied: Vec<_> = picture.running.iter().filter_map(|goal| goal.as_empty()).map(|goal| goal.node).collect();
    plan.operations.retain(|operation| match operation.change {
        Change::Move { from, .. } => operation.rule != Rule::Drain || !emptied.contains(&from),
        _ => true,
    });
}

fn checked(
    state: &SystemState,
    seen: &Seen,
    settings: Settings,
    operations: Vec<Operation>,
) -> v1::CheckOperationsReply {
    let picture = picture::of(state, seen, settings, None);
    let plan = Plan { operations, ..Plan::default() };
    let told = stale(&plan, &picture)
        .into_iter()
        .map(|stale| v1::StaleOperation { index: u32::try_from(stale.index).unwrap_or(u32::MAX), why: stale.why });
    v1::CheckOperationsReply { stale: told.collect() }
}

#[cfg(test)]
mod tests;
