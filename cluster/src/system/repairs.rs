//! Replicas of nodes that stay dead.
//!
//! Owns: which moves begin for them, and how many at a time. Must never: say that a node is dead, or choose where a replica goes: the
//! planner's repair rule does.

use super::SystemState;
use super::nodes::Room;
use crate::ids::{ClusterVersion, NodeId, ShardId};
use crate::jobs::job::JobGoal;
use crate::jobs::move_replica::MoveReplica;
use crate::planner::{Change, Operation, Refusal, repairs};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is to be done for the shards that lost a voter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// The jobs that may begin now, in order.
    pub begin: Vec<JobGoal>,
    /// Why others cannot.
    pub refused: Vec<String>,
}

impl SystemState {
    /// The moves that may begin for nodes that are `lost`: dead for longer than they are waited for. `heard` has the nodes that are alive.
    /// None for a node that is being emptied: its job does that. None below the fourth version.
    #[must_use]
    pub fn plan_repairs(&self, lost: &BTreeSet<NodeId>, heard: &BTreeMap<NodeId, Room>) -> Repairs {
        let lost: BTreeSet<NodeId> = lost.iter().copied().filter(|node| self.takes(*node)).collect();
        let from_lost = |goal: &JobGoal| goal.as_move().is_some_and(|(_, replica)| lost.contains(&replica.from));
        let under_way = self.running().filter(|(_, job)| from_lost(&job.goal)).count();
        let mut picture = self.picture(heard);
        let free = picture.settings.max_concurrent.saturating_sub(under_way);
        if lost.is_empty() || free == 0 || self.version < ClusterVersion::FOURTH {
            return Repairs::default();
        }
        // Only the lost ones have been dead for as long as the planner waits.
        picture.now = picture.settings.dead_grace;
        for (node, view) in &mut picture.nodes {
            let is_lost = lost.contains(node);
            view.alive = view.alive && !is_lost;
            view.since = if is_lost { Duration::ZERO } else { picture.now };
        }
        let concerns = |shard: &ShardId| {
            self.shards.get(shard).is_some_and(|d| d.membership.voters().any(|voter| lost.contains(&voter)))
        };
        let plan = repairs(&picture);
        let goal = |operation: Operation| {
            let shard = operation.shard;
            let replica = match operation.change {
                Change::Move { from, to } if lost.contains(&from) => MoveReplica { from, to: Some(to) },
                // It is in the way of the move.
                Change::Forget { node } if concerns(&shard) => MoveReplica { from: node, to: None },
                _ => return None,
            };
            Some(JobGoal::Move { shard, replica })
        };
        let refused = plan.refusals.iter().filter(|refusal| match refusal {
            Refusal::NoQuorum { shard, .. } | Refusal::NoTarget { shard, .. } => concerns(shard),
            _ => false,
        });
        let refused = refused.map(Refusal::to_string).collect();
        Repairs { begin: plan.operations.into_iter().filter_map(goal).take(free).collect(), refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{JobId, SYSTEM_SHARD};
    use crate::jobs::empty_node::EmptyNode;
    use crate::system::{Partitioning, Retention, SystemCommand, SystemOutcome};
    use synod_paxos::types::{Member, MemberRole, Membership};

    /// Nodes at the fourth version, the system shard on all of the first five, and a table of `shards` with three replicas each.
    fn state(nodes: u64, shards: u32) -> SystemState {
        let founders: Vec<String> = (1..=nodes).map(|i| format!("127.0.0.1:740{i}")).collect();
        let mut state = SystemState::found(7, &founders);
        let create = SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards,
            splits: vec![],
            replicas: 3,
        };
        assert!(matches!(state.execute(&create).0, SystemOutcome::Table(_)));
        state.version = ClusterVersion::FOURTH;
        state
    }

    fn alive(nodes: &[u64]) -> BTreeMap<NodeId, Room> {
        nodes.iter().map(|node| (NodeId(*node), Room::Enough)).collect()
    }

    fn lost(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().map(|node| NodeId(*node)).collect()
    }

    fn of(state: &SystemState, node: u64) -> usize {
        let table = state.shards.values().filter(|d| d.shard != SYSTEM_SHARD);
        table.filter(|d| d.membership.role_of(NodeId(node)).is_some()).count()
    }

    #[test]
    fn what_a_lost_node_has_moves_a_few_at_a_time() {
        let mut state = state(6, 12);
        let heard = alive(&[1, 2, 4, 5, 6]);
        assert_eq!(state.plan_repairs(&lost(&[]), &heard), Repairs::default(), "it is waited for");
        let first = state.plan_repairs(&lost(&[3]), &heard);
        assert_eq!((first.begin.len(), &first.refused[..]), (4, &[][..]));
        for goal in &first.begin {
            let (shard, replica) = goal.as_move().unwrap();
            assert_eq!(replica.from, NodeId(3));
            let to = replica.to.expect("its vote goes to another");
            assert!(heard.contains_key(&to) && state.shards[&shard].membership.role_of(to).is_none());
            let outcome = state.execute(&SystemCommand::StartJob { goal: goal.clone() }).0;
            assert!(matches!(outcome, SystemOutcome::Job(_)), "{outcome:?}");
        }
        assert!(state.plan_repairs(&lost(&[3]), &heard).begin.is_empty(), "as many as may are under way");
        // One is done: the next begins, of another shard.
        let (shard, replica) = first.begin[0].as_move().unwrap();
        let mut membership = state.shards[&shard].membership.clone();
        membership.members.retain(|member| Some(member.node) != replica.to && member.node != NodeId(3));
        membership.members.push(Member { node: replica.to.unwrap(), role: MemberRole::Voter });
        membership.members.sort_unstable();
        let first_leader = membership.voters().next().unwrap();
        let membership = Membership { epoch: membership.epoch.next(), first_leader, ..membership };
        let seen = membership.epoch;
        state.execute(&SystemCommand::SetMembers { shard, membership });
        let end = crate::jobs::job::JobEnd::Done;
        state.execute(&SystemCommand::FinishJob { job: JobId(1), seen, end });
        let next = state.plan_repairs(&lost(&[3]), &heard);
        assert_eq!(next.begin.len(), 1);
        assert!(!first.begin.contains(&next.begin[0]) && of(&state, 3) > 0);
    }

    #[test]
    fn nothing_begins_where_nobody_can_take_it_and_that_is_said() {
        let state = state(3, 2);
        let plan = state.plan_repairs(&lost(&[3]), &alive(&[1, 2]));
        assert!(plan.begin.is_empty() && plan.refused.iter().all(|why| why.contains("no node can take")), "{plan:?}");
        assert_eq!(plan.refused.len(), 3);
        let plan = state.plan_repairs(&lost(&[2, 3]), &alive(&[1]));
        assert!(plan.begin.is_empty() && plan.refused[0].contains("1 live voters and needs 2"), "{plan:?}");
    }

    #[test]
    fn a_node_that_is_emptied_is_left_to_its_job_and_an_older_cluster_is_left_alone() {
        let mut state = state(5, 2);
        let heard = alive(&[1, 2, 4, 5]);
        assert!(!state.plan_repairs(&lost(&[3]), &heard).refused.is_empty(), "the system shard has all five");
        state.version = ClusterVersion::THIRD;
        assert_eq!(state.plan_repairs(&lost(&[3]), &heard), Repairs::default());
        state.version = ClusterVersion::FOURTH;
        let sixth = SystemCommand::AddNode { addr: "h6:1".into(), nonce: 6, speaks: ClusterVersion::FOURTH };
        state.execute(&sixth);
        let goal = JobGoal::Empty(EmptyNode { node: NodeId(3), remove: false, at_once: 1 });
        assert_eq!(state.execute(&SystemCommand::StartJob { goal }).0, SystemOutcome::Job(JobId(1)));
        assert_eq!(state.plan_repairs(&lost(&[3]), &heard), Repairs::default());
    }
}
