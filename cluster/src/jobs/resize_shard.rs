//! A shard gets another number of voters.
//!
//! Owns: the order of the steps, one voter at a time: a new one learns, catches up and gets its vote, or one that is there goes. Must
//! never: choose a node (the planner does), take a vote once the shard has as many voters as are wanted, or give one to who has not caught
//! up. Each step is to be made under the epoch that it was decided in.

use crate::ids::{NodeId, ShardId};
use crate::members::{CAUGHT_UP_SLOTS, MemberChange};
use synod_paxos::types::{MemberRole, Membership};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResizeShard {
    /// The shard.
    pub shard: ShardId,
    /// The voters that it is to have.
    pub voters: u32,
}

/// The planner's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This node gets the next voter.
    Comes(NodeId),
    /// The voter on this node goes next.
    Goes(NodeId),
}

/// What is seen of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its members, and their epoch.
    pub membership: Membership,
    /// Slots that the member lacks that learns, once it has a replica.
    pub lag: Option<u64>,
    /// Whether the node that learns takes replicas no longer.
    pub unfit: bool,
    /// What is chosen, where a node is to be: nobody learns, and the voters are not as many as are wanted.
    pub choice: Option<Choice>,
    /// Why nothing can be chosen.
    pub trouble: Option<String>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the goal is reached.
    Done,
    /// This change.
    Change(MemberChange),
    /// The learner catches up; what it lacks, slots, as far as it is known.
    CatchUp(Option<u64>),
    /// Nothing for now; says for what it waits.
    Wait(String),
    /// Nothing: of what was begun and is cancelled nothing is left.
    Undone,
}

/// The member that learns.
#[must_use]
pub fn learner(membership: &Membership) -> Option<NodeId> {
    membership.members.iter().find(|member| member.role == MemberRole::Learner).map(|member| member.node)
}

/// The next step towards `goal`.
#[must_use]
pub fn next(goal: ResizeShard, seen: &Seen) -> Step {
    let (has, wanted) = (seen.membership.voters().count(), goal.voters as usize);
    if let Some(learner) = learner(&seen.membership) {
        return match seen.lag {
            // It learns for nothing.
            _ if has >= wanted || seen.unfit => Step::Change(MemberChange::Remove(learner)),
            Some(lag) if lag <= CAUGHT_UP_SLOTS => {
                Step::Change(MemberChange::Promote { node: learner, instead_of: None })
            }
            lag => Step::CatchUp(lag),
        };
    }
    match seen.choice {
        _ if has == wanted => Step::Done,
        Some(Choice::Comes(node)) if has < wanted => Step::Change(MemberChange::Learn(node)),
        Some(Choice::Goes(node)) if has > wanted => Step::Change(MemberChange::Remove(node)),
        _ => Step::Wait(seen.trouble.clone().unwrap_or_else(|| "no node is chosen yet".to_owned())),
    }
}

/// The next step of one that is cancelled: who learns goes, and the voters stay as many as they are by now.
#[must_use]
pub fn back(goal: ResizeShard, seen: &Seen) -> Step {
    match learner(&seen.membership) {
        Some(learner) => Step::Change(MemberChange::Remove(learner)),
        None if seen.membership.voters().count() == goal.voters as usize => Step::Done,
        None => Step::Undone,
    }
}

/// The change of members that lies between two looks, where it is one that this job makes.
#[must_use]
pub fn change_between(before: &Membership, after: &Membership) -> Option<MemberChange> {
    let came = after.members.iter().find(|member| before.role_of(member.node) != Some(member.role));
    let gone = before.members.iter().find(|member| after.role_of(member.node).is_none());
    match (came, gone) {
        (Some(member), _) if member.role == MemberRole::Learner => Some(MemberChange::Learn(member.node)),
        (Some(member), gone) => {
            Some(MemberChange::Promote { node: member.node, instead_of: gone.map(|member| member.node) })
        }
        (None, Some(member)) => Some(MemberChange::Remove(member.node)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use synod_paxos::types::Member;

    fn members(voters: &[u64], learners: &[u64]) -> Membership {
        let member = |role| move |node: &u64| Member { node: NodeId(*node), role };
        let voting = voters.iter().map(member(MemberRole::Voter));
        let mut members: Vec<Member> = voting.chain(learners.iter().map(member(MemberRole::Learner))).collect();
        members.sort_unstable();
        Membership { epoch: Epoch(4), members, first_leader: NodeId(voters[0]) }
    }

    fn seen(voters: &[u64], learners: &[u64], lag: Option<u64>, choice: Option<Choice>) -> Seen {
        Seen { membership: members(voters, learners), lag, unfit: false, choice, trouble: None }
    }

    fn goal(voters: u32) -> ResizeShard {
        ResizeShard { shard: ShardId(7), voters }
    }

    #[test]
    fn a_voter_comes_by_learning_and_one_goes_at_once() {
        let (four, three) = (Some(Choice::Comes(NodeId(4))), Some(Choice::Goes(NodeId(3))));
        let promote = MemberChange::Promote { node: NodeId(4), instead_of: None };
        for (wanted, seen, step) in [
            (5, seen(&[1, 2, 3], &[], None, four), Step::Change(MemberChange::Learn(NodeId(4)))),
            (5, seen(&[1, 2, 3], &[4], None, None), Step::CatchUp(None)),
            (5, seen(&[1, 2, 3], &[4], Some(1_001), None), Step::CatchUp(Some(1_001))),
            (5, seen(&[1, 2, 3], &[4], Some(1_000), None), Step::Change(promote)),
            (4, seen(&[1, 2, 3, 4], &[], None, None), Step::Done),
            (2, seen(&[1, 2, 3], &[], None, three), Step::Change(MemberChange::Remove(NodeId(3)))),
        ] {
            assert_eq!(next(goal(wanted), &seen), step, "{seen:?}");
        }
    }

    #[test]
    fn no_vote_is_given_or_taken_beyond_what_is_wanted() {
        // The choice is older than the members.
        let late = seen(&[1, 2, 3], &[], None, Some(Choice::Goes(NodeId(3))));
        assert!(matches!(next(goal(5), &late), Step::Wait(_)));
        let late = seen(&[1, 2, 3], &[], None, Some(Choice::Comes(NodeId(4))));
        assert!(matches!(next(goal(1), &late), Step::Wait(_)));
        assert_eq!(next(goal(3), &late), Step::Done);
        let remove = Step::Change(MemberChange::Remove(NodeId(4)));
        assert_eq!(next(goal(3), &seen(&[1, 2, 3], &[4], Some(0), None)), remove, "it learns for nothing");
        let emptied = Seen { unfit: true, ..seen(&[1, 2, 3], &[4], Some(0), None) };
        assert_eq!(next(goal(4), &emptied), remove, "its node is being emptied");
    }

    #[test]
    fn one_that_is_cancelled_keeps_its_voters() {
        let remove = Step::Change(MemberChange::Remove(NodeId(4)));
        assert_eq!(back(goal(5), &seen(&[1, 2, 3], &[4], Some(0), None)), remove);
        assert_eq!(back(goal(5), &seen(&[1, 2, 3], &[], None, None)), Step::Undone);
        assert_eq!(back(goal(3), &seen(&[1, 2, 3], &[], None, None)), Step::Done);
    }

    #[test]
    fn what_was_changed_is_seen_from_the_members() {
        let three = members(&[1, 2, 3], &[]);
        assert_eq!(change_between(&three, &members(&[1, 2, 3], &[4])), Some(MemberChange::Learn(NodeId(4))));
        let promote = MemberChange::Promote { node: NodeId(4), instead_of: None };
        assert_eq!(change_between(&members(&[1, 2, 3], &[4]), &members(&[1, 2, 3, 4], &[])), Some(promote));
        assert_eq!(change_between(&three, &members(&[1, 2], &[])), Some(MemberChange::Remove(NodeId(3))));
        assert_eq!(change_between(&three, &three), None);
    }
}
