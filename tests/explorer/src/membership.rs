//! Chooses the next epoch's members.
//!
//! Owns: the random changes that an operator could ask for, and a few that must be refused. Must never: bring a node back
//! that was removed, since node ids are never reused.

use super::violation::{Check, Violation, ensure};
use super::world::World;
use synod_paxos::io::Input;
use synod_paxos::types::{Epoch, Member, MemberRole, Membership, NodeId};

impl World {
    /// Asks `id` for a change of members.
    pub fn reconfigure(&mut self, id: NodeId) -> Check {
        let Some(replica) = self.nodes.get(&id).and_then(|n| n.replica.as_ref()) else { return Ok(()) };
        let current = replica.status().membership;
        let mut members = current.members.clone();
        let kind = self.change(&mut members);
        members.sort_by_key(|m| m.node);
        let voters: Vec<_> = members.iter().filter(|m| m.role == MemberRole::Voter).map(|m| m.node).collect();
        let first_leader = if voters.contains(&id) && self.dice.chance(600) {
            id
        } else {
            self.dice.pick(&voters).copied().unwrap_or(id)
        };
        let mut next = Membership { epoch: current.epoch.next(), members, first_leader };
        let invalid = self.dice.chance(80);
        if invalid {
            self.spoil(&mut next);
        }
        self.coverage.count("event", if invalid { "invalid membership asked" } else { kind }, "");
        let ts = 1_000_000 + self.now;
        let carried = self.step_replica(id, Input::ChangeConfig { membership: next.clone(), ts })?;
        ensure!(
            !invalid || !carried.refused.is_empty(),
            "an invalid membership is refused",
            "{id:?} takes {next:?} after {current:?}"
        );
        Ok(())
    }

    /// One change to `members`; its name.
    fn change(&mut self, members: &mut Vec<Member>) -> &'static str {
        let ever = self.ever_members();
        let spares: Vec<_> =
            self.nodes.keys().copied().filter(|n| !ever.contains(n) && members.iter().all(|m| m.node != *n)).collect();
        let learners: Vec<_> = of_role(members, MemberRole::Learner);
        let voters: Vec<_> = of_role(members, MemberRole::Voter);
        let learner = self.dice.pick(&learners).copied();
        let voter = self.dice.pick(&voters).copied();
        match self.dice.below(12) {
            0..=3 => {
                if let Some(spare) = self.dice.pick(&spares).copied() {
                    // A driver catches a learner up first; the core must be safe where one did not.
                    let role = if self.dice.chance(100) { MemberRole::Voter } else { MemberRole::Learner };
                    members.push(Member { node: spare, role });
                    return "member added";
                }
            }
            4..=6 => {
                if let Some(learner) = learner {
                    set_role(members, learner, MemberRole::Voter);
                    return "learner promoted";
                }
            }
            7..=8 => {
                if let (Some(learner), Some(voter)) = (learner, voter) {
                    members.retain(|m| m.node != voter);
                    set_role(members, learner, MemberRole::Voter);
                    return "voter swapped";
                }
            }
            9 => {
                if let Some(voter) = voter.filter(|_| voters.len() > 3 || voters.len() > 1 && self.dice.chance(300)) {
                    members.retain(|m| m.node != voter);
                    return "voter removed";
                }
            }
            10 => {
                if let Some(learner) = learner {
                    members.retain(|m| m.node != learner);
                    return "learner removed";
                }
            }
            _ => {}
        }
        "members kept"
    }

    fn spoil(&mut self, next: &mut Membership) {
        match self.dice.below(4) {
            0 => next.epoch = next.epoch.next(),
            1 => next.epoch = Epoch(next.epoch.0 - 1),
            2 => next.members.iter_mut().for_each(|m| m.role = MemberRole::Learner),
            _ => next.first_leader = NodeId(99),
        }
    }
}

fn of_role(members: &[Member], role: MemberRole) -> Vec<NodeId> {
    members.iter().filter(|m| m.role == role).map(|m| m.node).collect()
}

fn set_role(members: &mut [Member], node: NodeId, role: MemberRole) {
    members.iter_mut().filter(|m| m.node == node).for_each(|m| m.role = role);
}
