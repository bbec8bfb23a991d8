//! Tables whose replicas change in number: what is seen of their shards, and a plan as clients see it.
//!
//! Owns: whether enough nodes are alive for the number that is asked for, and what the shard's leader says of a learner. Must never:
//! choose a node, or change anything.

use crate::node::api::convert;
use crate::node::status::status;
use std::collections::BTreeMap;
use synod_cluster::ids::{JobId, NodeId, ShardId};
use synod_cluster::jobs::job::Job;
use synod_cluster::jobs::resize_shard::{Choice, ResizeShard, Seen, learner};
use synod_cluster::planner::picture::Mark;
use synod_cluster::system::{Resized, Resizes, Room, SystemState, TableInfo};
use synod_proto::v1;
use tonic::Status;

/// Refuses more replicas than nodes that are alive and take any: the jobs would wait for a node that may never come. Fewer than there are
/// need none.
pub(super) fn check_alive(
    state: &SystemState,
    table: Option<&TableInfo>,
    replicas: u32,
    heard: &BTreeMap<NodeId, Room>,
) -> Result<(), Status> {
    let stays = |node: NodeId| state.nodes.get(&node).is_some_and(|info| info.mark == Mark::Stays);
    let alive = heard.keys().filter(|node| stays(**node)).count();
    if table.is_none_or(|table| replicas <= table.replicas) || replicas as usize <= alive {
        return Ok(());
    }
    let why = format!("{replicas} replicas need as many nodes that are alive and take replicas: there are {alive}");
    Err(status(&convert::invalid("replicas", why)))
}

/// A plan as clients see it.
pub(super) fn plan_to_wire(Resizes { changes, refused }: Resizes) -> v1::AlterTableReply {
    let to_wire = |Resized { shard, choice }: Resized| {
        let (node, goes) = match choice {
            Choice::Comes(node) => (node, false),
            Choice::Goes(node) => (node, true),
        };
        v1::ResizedShard { shard: shard.0, node: node.0, goes }
    };
    v1::AlterTableReply { changes: changes.into_iter().map(to_wire).collect(), refused }
}

/// What is seen of the shards of such jobs: the map's members, the planner's choice, and what the shard's leader says of who learns.
pub(super) fn look<'a>(
    state: &SystemState,
    jobs: Vec<(JobId, &'a Job, ResizeShard)>,
    heard: &BTreeMap<NodeId, Room>,
    leaders: &BTreeMap<ShardId, NodeId>,
    replicas: &BTreeMap<ShardId, v1::ReplicaStatus>,
) -> Vec<(JobId, &'a Job, Option<Seen>)> {
    let goals: Vec<ResizeShard> = jobs.iter().map(|(_, _, goal)| *goal).collect();
    let seen = state.look_at_resizes(&goals, heard, leaders);
    let looks = jobs.into_iter().zip(seen).map(|((id, job, goal), mut seen)| {
        if let (Some(seen), Some(leader)) = (&mut seen, replicas.get(&goal.shard)) {
            add_lag(seen, leader);
        }
        (id, job, seen)
    });
    looks.collect()
}

/// What the learner lacks, as its leader of the same epoch says.
fn add_lag(seen: &mut Seen, leader: &v1::ReplicaStatus) {
    let Some(learner) = learner(&seen.membership).filter(|_| leader.epoch == seen.membership.epoch.0) else { return };
    let lag = leader.lag.iter().find(|lag| lag.node == learner.0).map(|lag| lag.slots);
    // One that lacks everything may have no replica yet.
    seen.lag = lag.filter(|lag| *lag < leader.last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::system::{Partitioning, Retention};
    use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

    #[test]
    fn more_replicas_than_live_nodes_are_refused_and_fewer_are_not() {
        let founders: Vec<String> = (1..=4).map(|i| format!("h{i}:1")).collect();
        let state = SystemState::found(7, &founders);
        let (partitioning, retention) = (Partitioning::Hash, Retention::Latest);
        let table = TableInfo { name: "t".into(), partitioning, retention, replicas: 3 };
        let heard: BTreeMap<NodeId, Room> = [1, 2].map(|node| (NodeId(node), Room::Enough)).into();
        let refused = check_alive(&state, Some(&table), 4, &heard).unwrap_err();
        assert!(refused.message().contains("there are 2"), "{refused}");
        assert!(check_alive(&state, Some(&table), 2, &heard).is_ok());
        assert!(check_alive(&state, Some(&table), 3, &heard).is_ok(), "it has them");
        assert!(check_alive(&state, None, 9, &heard).is_ok(), "the system shard names what is wrong");
    }

    #[test]
    fn what_a_learner_lacks_is_the_word_of_its_leader_in_that_epoch() {
        let lag = |epoch, slots| {
            let member = |node, role| Member { node: NodeId(node), role };
            let members = vec![member(1, MemberRole::Voter), member(4, MemberRole::Learner)];
            let membership = Membership { epoch: Epoch(2), members, first_leader: NodeId(1) };
            let mut seen = Seen { membership, lag: None, unfit: false, choice: None, trouble: None };
            let lag = vec![v1::ReplicaLag { node: 4, slots }];
            add_lag(&mut seen, &v1::ReplicaStatus { shard: 5, epoch, last: 100, lag, ..v1::ReplicaStatus::default() });
            seen.lag
        };
        assert_eq!((lag(2, 7), lag(1, 7), lag(2, 100)), (Some(7), None, None));
    }
}
