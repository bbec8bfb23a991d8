//! Merges of shards: the call that reaches the leader of the shard that stays, and the steps of a job that it takes.
//!
//! Owns: what a job sees of two shards' leaders, and what is asked for in its name. Must never: begin a merge without the versions and the
//! epochs that it was decided in.

use super::{AdminService, FORWARDED, Running};
use crate::node::api::convert;
use crate::node::status::status;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_cluster::ids::{NodeId, ShardId};
use synod_cluster::jobs::executor::MergeLook;
use synod_cluster::jobs::job::Job;
use synod_cluster::jobs::merge::{Begin, Leader, Phase};
use synod_cluster::jobs::split::Bounds;
use synod_cluster::system::SystemState;
use synod_engine::host::{AdminInput, MERGE_CANCELLED, MERGE_FROZEN, MERGE_MERGING, MergeWanted};
use synod_paxos::types::Epoch;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How long a shard's leader may take until a merge is begun, or refused.
const BEGIN: Duration = Duration::from_secs(8);

/// Has the leader of the shard that stays begin a merge, or take it back.
pub(super) async fn propose(
    running: &Running,
    request: Request<v1::ProposeMergeRequest>,
) -> Result<Response<v1::ProposeMergeReply>, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let shard = ShardId(wanted.shard);
    let answer = if wanted.cancel {
        let source = ShardId(wanted.source);
        running.asked(|done| AdminInput::CancelMerge { shard, source, done }).await?
    } else {
        let merge = merge_wanted(&wanted)?;
        running.asked(|done| AdminInput::Merge { shard, merge, done }).await?
    };
    match answer {
        Ok(()) => Ok(Response::new(v1::ProposeMergeReply {})),
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted);
                async move { leader.propose_merge(request).await }
            };
            running.at_leader(&refusal, shard, forwarded, call).await
        }
    }
}

/// The merge: each number of it must be named, since none is ever 0.
fn merge_wanted(wanted: &v1::ProposeMergeRequest) -> Result<MergeWanted, Status> {
    let v1::ProposeMergeRequest { version, epoch, source, source_version, source_epoch, .. } = *wanted;
    let numbers = [
        ("version", version),
        ("epoch", epoch),
        ("source", source),
        ("source_version", source_version),
        ("source_epoch", source_epoch),
    ];
    if let Some((field, _)) = numbers.iter().find(|(_, number)| *number == 0) {
        return Err(status(&convert::invalid(field, "must be given")));
    }
    Ok(MergeWanted {
        version,
        epoch: Epoch(epoch),
        source: ShardId(source),
        source_version,
        source_epoch: Epoch(source_epoch),
    })
}

/// What the map says of a merge.
pub(super) fn look_at(state: &SystemState, job: &Job) -> Option<MergeLook> {
    let goal = job.goal.as_merge()?;
    let epoch = state.shards.get(&goal.target).map_or(Epoch::default(), |d| d.membership.epoch);
    Some(MergeLook { seen: state.look_at_merge(goal), epoch })
}

/// Adds what the leaders of the two shards say.
pub(super) fn add_leaders(
    job: &Job,
    look: &mut MergeLook,
    replicas: &BTreeMap<ShardId, v1::ReplicaStatus>,
    leaders: &BTreeMap<ShardId, NodeId>,
) {
    let Some(goal) = job.goal.as_merge() else { return };
    let of = |shard: &ShardId| replicas.get(shard).zip(leaders.get(shard)).and_then(|(r, node)| led(r, *node));
    look.seen.target.leader = of(&goal.target);
    look.seen.source.leader = of(&goal.source);
}

/// What a shard's leader says of it; `None` where its node is too old to say.
fn led(replica: &v1::ReplicaStatus, node: NodeId) -> Option<Leader> {
    if replica.version == 0 {
        return None;
    }
    let other = ShardId(replica.merge_with);
    let phase = match replica.merge_phase.as_str() {
        MERGE_MERGING => Phase::Merging(other),
        MERGE_CANCELLED => Phase::Cancelled(other),
        MERGE_FROZEN => Phase::Frozen(other),
        _ => Phase::Open,
    };
    let bounds = Bounds { from: replica.from.clone(), to: replica.to.clone(), version: replica.version };
    let hindrance = (!replica.hindrance.is_empty()).then(|| replica.hindrance.clone());
    Some(Leader { node, bounds, epoch: Epoch(replica.members_epoch), phase, hindrance })
}

/// Has a shard led where the one is that it goes into.
pub(super) async fn transfer(admin: &AdminService, shard: ShardId, to: NodeId) -> Result<(), String> {
    use v1::admin_server::Admin as _;
    let request = v1::TransferLeaderRequest { shard: shard.0, to: to.0 };
    answered(shard, timeout(BEGIN, admin.transfer_leader(Request::new(request))).await)
}

/// Asks the leader of the shard that stays, wherever it is, to begin.
pub(super) async fn merge(admin: &AdminService, shard: ShardId, begin: Begin) -> Result<(), String> {
    let Begin { version, epoch, source, source_version, source_epoch } = begin;
    let request = v1::ProposeMergeRequest {
        shard: shard.0,
        version,
        epoch: epoch.0,
        source: source.0,
        source_version,
        source_epoch: source_epoch.0,
        cancel: false,
    };
    ask(admin, shard, request).await
}

/// Asks it to take a merge back.
pub(super) async fn cancel(admin: &AdminService, shard: ShardId, source: ShardId) -> Result<(), String> {
    let request = v1::ProposeMergeRequest { shard: shard.0, source: source.0, cancel: true, ..Default::default() };
    ask(admin, shard, request).await
}

async fn ask(admin: &AdminService, shard: ShardId, request: v1::ProposeMergeRequest) -> Result<(), String> {
    use v1::admin_server::Admin as _;
    answered(shard, timeout(BEGIN, admin.propose_merge(Request::new(request))).await)
}

fn answered<T>(
    shard: ShardId,
    answer: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<(), String> {
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("the leader of shard {shard} did not answer within {} s", BEGIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_says_how_far_a_merge_is_and_an_old_one_says_nothing() {
        let replica = v1::ReplicaStatus {
            shard: 2,
            version: 3,
            members_epoch: 5,
            merge_phase: MERGE_FROZEN.into(),
            merge_with: 7,
            ..Default::default()
        };
        let leader = led(&replica, NodeId(4)).expect("it says");
        assert_eq!((leader.node, leader.phase), (NodeId(4), Phase::Frozen(ShardId(7))));
        let open = v1::ReplicaStatus { merge_phase: String::new(), ..replica.clone() };
        assert_eq!(led(&open, NodeId(4)).map(|leader| leader.phase), Some(Phase::Open));
        assert_eq!(led(&v1::ReplicaStatus { version: 0, ..replica }, NodeId(4)), None);
    }

    #[test]
    fn a_merge_names_what_it_was_computed_from() {
        let whole = v1::ProposeMergeRequest {
            shard: 2,
            version: 3,
            epoch: 5,
            source: 9,
            source_version: 4,
            source_epoch: 6,
            cancel: false,
        };
        assert!(merge_wanted(&whole).is_ok_and(|merge| merge.source == ShardId(9) && merge.source_epoch == Epoch(6)));
        let lacking = [
            ("version", v1::ProposeMergeRequest { version: 0, ..whole }),
            ("epoch", v1::ProposeMergeRequest { epoch: 0, ..whole }),
            ("source", v1::ProposeMergeRequest { source: 0, ..whole }),
            ("source_version", v1::ProposeMergeRequest { source_version: 0, ..whole }),
            ("source_epoch", v1::ProposeMergeRequest { source_epoch: 0, ..whole }),
        ];
        for (field, request) in lacking {
            assert!(merge_wanted(&request).is_err_and(|status| status.message().contains(field)), "{field}");
        }
    }
}
