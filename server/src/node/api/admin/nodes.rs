//! Nodes that are emptied: what is heard of the others, and the moves that are begun.
//!
//! Owns: which nodes may get a replica by what they say themselves; the goal as clients write it. Must never: choose one of them, or begin
//! a move but by the system shard's command for it.

use super::AdminService;
use crate::node::system::SystemProposer;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_cluster::ids::{JobId, NodeId};
use synod_cluster::jobs::empty_node::{AT_ONCE, EmptyNode, Leaving};
use synod_cluster::system::{Leaves, Room, SystemCommand, SystemOutcome, SystemState};
use synod_proto::v1;
use tokio::time::timeout;

/// How long a node may take to say how it is.
const ASK: Duration = Duration::from_secs(1);

/// The nodes that are alive and take part, and whether their disks have room.
pub(super) async fn heard(state: &SystemState, admin: &AdminService) -> BTreeMap<NodeId, Room> {
    let Ok(running) = admin.get() else { return BTreeMap::new() };
    // One that is not heard would only be waited for.
    let alive = |node: &NodeId| *node == running.node || running.peers.is_alive(*node);
    let alive: Vec<NodeId> = state.nodes.keys().copied().filter(alive).collect();
    let asked = alive.into_iter().map(|node| async move {
        let status = timeout(ASK, admin.status_of(node)).await.ok()?.ok()?;
        let room = if status.disk_low.is_empty() { Room::Enough } else { Room::Low };
        status.quarantined.is_empty().then_some((node, room))
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Has the move of a replica begun as a job of its own.
pub(super) async fn begin(system: &SystemProposer, job: JobId, leaving: Leaving) -> Result<(), String> {
    let command = SystemCommand::BeginMove { job, leaving };
    match system.execute(&command).await.map_err(|status| status.message().to_owned())? {
        SystemOutcome::Job(_) => Ok(()),
        SystemOutcome::JobConflict { why, .. } | SystemOutcome::Invalid { why, .. } => Err(why),
        other => Err(format!("the outcome of a move's begin was {other:?}")),
    }
}

/// The goal that a client wants.
pub(super) fn goal(wanted: &v1::EmptyNode) -> EmptyNode {
    let at_once = if wanted.max_concurrent == 0 { AT_ONCE } else { wanted.max_concurrent };
    EmptyNode { node: NodeId(wanted.node), remove: wanted.remove, at_once }
}

/// The goal as clients see it.
pub(super) fn goal_to_wire(goal: EmptyNode) -> v1::EmptyNode {
    v1::EmptyNode { node: goal.node.0, remove: goal.remove, max_concurrent: goal.at_once }
}

/// A plan as clients see it.
pub(super) fn plan_to_wire(Leaves { moves, refused }: Leaves) -> v1::PlanNodeReply {
    let to_wire = |(Leaving { shard, to, .. }, why): (Leaving, String)| v1::LeavingReplica {
        shard: shard.0,
        to: to.map_or(0, |to| to.0),
        why,
    };
    v1::PlanNodeReply { moves: moves.into_iter().map(to_wire).collect(), refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_without_a_bound_has_the_default_one() {
        let wanted = v1::EmptyNode { node: 3, remove: true, max_concurrent: 0 };
        assert_eq!(goal(&wanted), EmptyNode { node: NodeId(3), remove: true, at_once: AT_ONCE });
        let bound = v1::EmptyNode { max_concurrent: 7, ..wanted };
        assert_eq!(goal(&goal_to_wire(goal(&bound))).at_once, 7);
    }
}
