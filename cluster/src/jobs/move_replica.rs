//! A replica moves from one node to another.
//!
//! Owns: the order of the steps: the new member learns, catches up, then takes the old one's place in one change; and the way back,
//! which is open until that change. Must never: take a vote away before another member has caught up, nor but in that one change. Each
//! step is to be made under the epoch that it was decided in.

use crate::ids::NodeId;
use crate::members::{CAUGHT_UP_SLOTS, MemberChange};
use synod_paxos::types::MemberRole;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveReplica {
    /// The node whose replica goes.
    pub from: NodeId,
    /// The node that gets its vote; `None` where it has none, being a learner that was left behind.
    pub to: Option<NodeId>,
}

/// What is seen of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the node is that loses its replica.
    pub from: Option<MemberRole>,
    /// What the node is that gets it.
    pub to: Option<MemberRole>,
    /// Slots that the latter lacks, once it has a replica that learns.
    pub lag: Option<u64>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the goal is reached.
    Done,
    /// This change.
    Change(MemberChange),
    /// The learner catches up; what it lacks, slots, as far as it is known.
    Wait(Option<u64>),
    /// Nothing: another job changed the members so that this one could end only as what nobody asked for, a group with a voter more or
    /// less.
    Overtaken,
    /// Nothing: of a move that is cancelled nothing is left.
    Undone,
}

/// The next step towards `goal`.
#[must_use]
pub fn next(MoveReplica { from, to }: MoveReplica, seen: Seen) -> Step {
    use MemberRole::{Learner, Voter};
    let Some(to) = to else {
        return match seen.from {
            None => Step::Done,
            Some(Learner) => Step::Change(MemberChange::Remove(from)),
            Some(Voter) => Step::Overtaken,
        };
    };
    let leaves = seen.from == Some(Voter);
    match (leaves, seen.to) {
        (false, Some(Voter)) => Step::Done,
        (true, Some(Voter)) | (false, None) => Step::Overtaken,
        // It learns for nothing.
        (false, Some(Learner)) => Step::Change(MemberChange::Remove(to)),
        (true, None) => Step::Change(MemberChange::Learn(to)),
        (true, Some(Learner)) => match seen.lag {
            Some(lag) if lag <= CAUGHT_UP_SLOTS => {
                Step::Change(MemberChange::Promote { node: to, instead_of: Some(from) })
            }
            lag => Step::Wait(lag),
        },
    }
}

/// The next step of a move that is cancelled: back, as long as the new member has no vote. Once it has one the move is done.
#[must_use]
pub fn back(MoveReplica { from, to }: MoveReplica, seen: Seen) -> Step {
    use MemberRole::{Learner, Voter};
    let Some(to) = to else {
        return match next(MoveReplica { from, to }, seen) {
            Step::Change(_) => Step::Undone,
            reached => reached,
        };
    };
    match (seen.from == Some(Voter), seen.to) {
        (_, Some(Learner)) => Step::Change(MemberChange::Remove(to)),
        (_, None) => Step::Undone,
        (false, Some(Voter)) => Step::Done,
        (true, Some(Voter)) => Step::Overtaken,
    }
}

/// What another command did to the members, where a move is [`Step::Overtaken`].
#[must_use]
pub fn overtaken_by(MoveReplica { from, to }: MoveReplica, seen: Seen) -> String {
    match to {
        Some(to) if seen.to == Some(MemberRole::Voter) => format!("gave node {to} a vote, node {from} keeps its own"),
        Some(to) => format!("took the vote of node {from}, node {to} has none to take"),
        None => format!("gave node {from} a vote"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemberRole::{Learner, Voter};

    const GOAL: MoveReplica = MoveReplica { from: NodeId(3), to: Some(NodeId(4)) };
    const LEFT_BEHIND: MoveReplica = MoveReplica { from: NodeId(3), to: None };

    fn seen(from: Option<MemberRole>, to: Option<MemberRole>, lag: Option<u64>) -> Seen {
        Seen { from, to, lag }
    }

    #[test]
    fn a_replica_moves_step_by_step_and_goes_on_where_it_was_left() {
        let promote = MemberChange::Promote { node: NodeId(4), instead_of: Some(NodeId(3)) };
        for (from, to, lag, step) in [
            (Some(Voter), None, None, Step::Change(MemberChange::Learn(NodeId(4)))),
            (Some(Voter), Some(Learner), None, Step::Wait(None)),
            (Some(Voter), Some(Learner), Some(1_001), Step::Wait(Some(1_001))),
            (Some(Voter), Some(Learner), Some(1_000), Step::Change(promote)),
            (None, Some(Voter), None, Step::Done),
            (Some(Learner), Some(Voter), None, Step::Done),
        ] {
            assert_eq!(next(GOAL, seen(from, to, lag)), step, "{from:?} {to:?} {lag:?}");
        }
    }

    #[test]
    fn no_step_is_taken_that_would_change_the_number_of_voters() {
        assert_eq!(next(GOAL, seen(Some(Voter), Some(Voter), None)), Step::Overtaken);
        assert_eq!(next(GOAL, seen(None, None, None)), Step::Overtaken);
        assert_eq!(next(GOAL, seen(None, Some(Learner), Some(0))), Step::Change(MemberChange::Remove(NodeId(4))));
    }

    #[test]
    fn a_learner_that_was_left_behind_goes() {
        assert_eq!(next(LEFT_BEHIND, seen(Some(Learner), None, None)), Step::Change(MemberChange::Remove(NodeId(3))));
        assert_eq!(next(LEFT_BEHIND, seen(None, None, None)), Step::Done);
        assert_eq!(next(LEFT_BEHIND, seen(Some(Voter), None, None)), Step::Overtaken);
    }

    #[test]
    fn a_move_that_is_cancelled_goes_back_until_the_new_member_votes() {
        let remove = Step::Change(MemberChange::Remove(NodeId(4)));
        for (from, to, step) in [
            (Some(Voter), None, Step::Undone),
            (Some(Voter), Some(Learner), remove),
            (None, Some(Learner), remove),
            (Some(Learner), Some(Learner), remove),
            (None, None, Step::Undone),
            (None, Some(Voter), Step::Done),
            (Some(Learner), Some(Voter), Step::Done),
            (Some(Voter), Some(Voter), Step::Overtaken),
        ] {
            // Whether it has caught up makes no difference.
            for lag in [None, Some(0), Some(1_001)] {
                assert_eq!(back(GOAL, seen(from, to, lag)), step, "{from:?} {to:?} {lag:?}");
            }
        }
        for (from, step) in [(Some(Learner), Step::Undone), (None, Step::Done), (Some(Voter), Step::Overtaken)] {
            assert_eq!(back(LEFT_BEHIND, seen(from, None, None)), step, "{from:?}");
        }
    }
}
