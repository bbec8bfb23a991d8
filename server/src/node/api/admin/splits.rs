//! Splits of shards: the call that reaches a shard's leader, and the steps of a job that it takes.
//!
//! Owns: what a job sees of a shard's leader, and what is asked for in its name. Must never: propose a split without the version and the
//! epoch that it was decided in.

use super::{AdminService, FORWARDED, Running};
use crate::node::api::convert;
use crate::node::status::status;
use crate::node::system::SystemProposer;
use bytes::Bytes;
use std::time::Duration;
use synod_cluster::ids::ShardId;
use synod_cluster::jobs::split::{Bounds, Leader, middle_of_ring};
use synod_cluster::system::{Descriptor, Partitioning, SystemCommand, SystemOutcome};
use synod_engine::host::{AdminInput, SplitWanted};
use synod_paxos::types::Epoch;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How long a shard's leader may take until a split is applied, or refused.
const SPLIT: Duration = Duration::from_secs(8);

/// Has the shard's leader propose a split.
pub(super) async fn propose(
    running: &Running,
    request: Request<v1::ProposeSplitRequest>,
) -> Result<Response<v1::ProposeSplitReply>, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let (shard, split) = (ShardId(wanted.shard), split_wanted(&wanted)?);
    match running.asked(|done| AdminInput::Split { shard, split, done }).await? {
        Ok(()) => Ok(Response::new(v1::ProposeSplitReply {})),
        Err(refusal) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted.clone());
                async move { leader.propose_split(request).await }
            };
            running.at_leader(&refusal, shard, forwarded, call).await
        }
    }
}

/// The split: each number of it must be named, since none is ever 0.
fn split_wanted(wanted: &v1::ProposeSplitRequest) -> Result<SplitWanted, Status> {
    let v1::ProposeSplitRequest { version, epoch, child, at, .. } = wanted;
    for (field, number) in [("version", version), ("epoch", epoch), ("child", child)] {
        if *number == 0 {
            return Err(status(&convert::invalid(field, "must be given")));
        }
    }
    if at.is_empty() {
        return Err(status(&convert::invalid("at", "must be given: where the child begins")));
    }
    Ok(SplitWanted { version: *version, epoch: Epoch(*epoch), child: ShardId(*child), at: at.clone() })
}

/// What a shard's leader says of it; `None` where its node is too old to say.
pub(super) fn led(replica: &v1::ReplicaStatus, descriptor: &Descriptor) -> Option<Leader> {
    if replica.version == 0 {
        return None;
    }
    let (from, to) = (replica.from.clone(), replica.to.clone());
    let middle = match descriptor.partitioning {
        Partitioning::Hash => middle_of_ring(&from, &to),
        // Only its records say where the middle of keys is, and no leader looks for that yet.
        Partitioning::Range => None,
    };
    let bounds = Bounds { from, to, version: replica.version };
    let hindrance = (!replica.hindrance.is_empty()).then(|| replica.hindrance.clone());
    Some(Leader { bounds, epoch: Epoch(replica.members_epoch), middle, hindrance })
}

/// Has an id reserved for the child.
pub(super) async fn reserve(system: &SystemProposer, parent: ShardId, version: u64) -> Result<(), String> {
    let command = SystemCommand::ReserveChild { parent, version };
    match system.execute(&command).await.map_err(|status| status.message().to_owned())? {
        SystemOutcome::Shard(_) => Ok(()),
        SystemOutcome::Invalid { field, why } => Err(format!("{field}: {why}")),
        other => Err(format!("the outcome of a reservation was {other:?}")),
    }
}

/// Asks the shard's leader, wherever it is.
pub(super) async fn split(admin: &AdminService, shard: ShardId, split: SplitWanted) -> Result<(), String> {
    use v1::admin_server::Admin as _;
    let SplitWanted { version, epoch, child, at } = split;
    let request = v1::ProposeSplitRequest { shard: shard.0, version, epoch: epoch.0, child: child.0, at };
    match timeout(SPLIT, admin.propose_split(Request::new(request))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("the leader of shard {shard} did not answer within {} s", SPLIT.as_secs())),
    }
}

/// Refuses a split of a range table that does not say where, since nobody finds its middle yet.
pub(super) fn check_at(running: &Running, shard: ShardId, at: Option<&Bytes>) -> Result<(), Status> {
    let map = running.map_cache.get();
    let descriptor = map.as_ref().and_then(|map| map.shards.get(&shard));
    if at.is_none() && descriptor.is_some_and(|d| d.partitioning == Partitioning::Range) {
        return Err(status(&convert::invalid(
            "at",
            "must be given on a range table: the key where the second shard begins",
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::system::{Retention, SystemState};

    fn descriptor(partitioning: Partitioning) -> Descriptor {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning,
            retention: Retention::All,
            shards: u32::from(partitioning == Partitioning::Hash),
            splits: vec![],
            replicas: 1,
        });
        state.shards[&ShardId(2)].clone()
    }

    #[test]
    fn a_leader_says_where_the_middle_of_a_ring_is_and_an_old_one_says_nothing() {
        let hindrance = "a learner catches up".to_owned();
        let replica =
            v1::ReplicaStatus { shard: 2, version: 3, members_epoch: 5, hindrance, ..v1::ReplicaStatus::default() };
        let leader = led(&replica, &descriptor(Partitioning::Hash)).expect("it says");
        assert_eq!((leader.bounds.version, leader.epoch), (3, Epoch(5)));
        assert_eq!(leader.hindrance.as_deref(), Some("a learner catches up"));
        assert_eq!(leader.middle.as_deref(), Some(&[0x80, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(led(&replica, &descriptor(Partitioning::Range)).expect("it says").middle, None);
        let old = v1::ReplicaStatus { version: 0, ..replica };
        assert_eq!(led(&old, &descriptor(Partitioning::Hash)), None);
    }

    #[test]
    fn a_split_names_what_it_was_computed_from() {
        let at = Bytes::from_static(b"m");
        let whole = v1::ProposeSplitRequest { shard: 2, version: 3, epoch: 5, child: 9, at };
        assert!(split_wanted(&whole).is_ok_and(|split| split.child == ShardId(9) && split.epoch == Epoch(5)));
        let lacking = [
            ("version", v1::ProposeSplitRequest { version: 0, ..whole.clone() }),
            ("epoch", v1::ProposeSplitRequest { epoch: 0, ..whole.clone() }),
            ("child", v1::ProposeSplitRequest { child: 0, ..whole.clone() }),
            ("at", v1::ProposeSplitRequest { at: Bytes::new(), ..whole }),
        ];
        for (field, request) in lacking {
            assert!(split_wanted(&request).is_err_and(|status| status.message().contains(field)), "{field}");
        }
    }
}
