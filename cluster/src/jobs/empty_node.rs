//! A node is emptied: it is drained, or taken out of the cluster.
//!
//! Owns: what is to be done next while replicas are left on the node, and when it is empty. Must never: choose where a replica goes (the
//! planner's drain rule does), carry a move out, or need to know what an executor before did.
//!
//! Each replica leaves by a move that is a job of its own. So its steps, its epochs and its way back are those of every move. Which moves
//! are under way is seen in the list of jobs. The system shard begins no move for a job that does not run, nor more than the job may have
//! at a time. So an executor that is late begins nothing that is not wanted.

use crate::ids::{NodeId, ShardId};
use synod_paxos::types::Epoch;

/// Moves at a time, where that is not said.
pub const AT_ONCE: u32 = 2;
/// Most moves at a time.
pub const AT_ONCE_MAX: u32 = 64;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyNode {
    /// The node.
    pub node: NodeId,
    /// Whether it is taken out of the cluster once it is empty.
    pub remove: bool,
    /// How many of its replicas move at a time.
    pub at_once: u32,
}

/// A replica that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its shard.
    pub shard: ShardId,
    /// The epoch of the shard's members that this was decided for.
    pub epoch: Epoch,
    /// The node that gets its vote; `None` where it has none.
    pub to: Option<NodeId>,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is a node of the cluster.
    pub present: bool,
    /// The replicas that it has, those that learn among them.
    pub left: u64,
    /// The moves from it that are under way.
    pub moving: u32,
    /// The replica that leaves next, where one can.
    pub choice: Option<Leaving>,
    /// Why no replica can leave, where that is known.
    pub trouble: Option<String>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is left to do: the node has no replicas. If the job is to remove the node, the command that ends the job does.
    Done,
    /// The system shard is asked to begin this move.
    Begin(Leaving),
    /// Nothing for now; says for what it waits.
    Wait(String),
    /// Nothing: the node was removed while it was to be emptied only.
    Overtaken(String),
}

/// The next step towards `goal`.
#[must_use]
pub fn next(goal: EmptyNode, seen: &Seen) -> Step {
    let EmptyNode { node, remove, at_once } = goal;
    let Seen { present, left, moving, choice, trouble } = seen;
    match (present, choice) {
        (false, _) if remove => Step::Done,
        (false, _) => Step::Overtaken(format!("node {node} was removed from the cluster")),
        (true, _) if *left == 0 && *moving == 0 => Step::Done,
        (true, Some(leaving)) if *moving < at_once => Step::Begin(*leaving),
        (true, _) if *moving > 0 => Step::Wait(format!("replicas are on their way: {moving}")),
        (true, _) => {
            let unknown =
                || "other jobs change the shards that are left, or a majority of their voters is dead".to_owned();
            Step::Wait(trouble.clone().unwrap_or_else(unknown))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: EmptyNode = EmptyNode { node: NodeId(3), remove: false, at_once: 2 };
    const DECOMMISSION: EmptyNode = EmptyNode { remove: true, ..DRAIN };
    const CHOICE: Leaving = Leaving { shard: ShardId(7), epoch: Epoch(4), to: Some(NodeId(4)) };

    fn seen(left: u64, moving: u32, choice: Option<Leaving>) -> Seen {
        Seen { present: true, left, moving, choice, trouble: None }
    }

    #[test]
    fn replicas_leave_a_few_at_a_time_until_none_is_left() {
        for goal in [DRAIN, DECOMMISSION] {
            assert_eq!(next(goal, &seen(5, 0, Some(CHOICE))), Step::Begin(CHOICE));
            assert_eq!(next(goal, &seen(5, 1, Some(CHOICE))), Step::Begin(CHOICE));
            for (left, choice) in [(5, Some(CHOICE)), (2, None), (0, None)] {
                let step = next(goal, &seen(left, 2, choice));
                assert!(matches!(&step, Step::Wait(why) if why.contains("on their way: 2")), "{step:?}");
            }
            assert_eq!(next(goal, &seen(0, 0, None)), Step::Done);
        }
        let one = EmptyNode { at_once: 1, ..DRAIN };
        assert!(matches!(next(one, &seen(5, 1, Some(CHOICE))), Step::Wait(_)));
    }

    #[test]
    fn one_that_cannot_go_on_says_why_and_a_node_that_is_gone_ends_it() {
        let stuck = Seen { trouble: Some("no node can take it".into()), ..seen(5, 0, None) };
        assert_eq!(next(DRAIN, &stuck), Step::Wait("no node can take it".into()));
        assert!(matches!(next(DRAIN, &seen(5, 0, None)), Step::Wait(why) if why.contains("other jobs")));
        let gone = Seen::default();
        assert_eq!(next(DECOMMISSION, &gone), Step::Done);
        assert!(matches!(next(DRAIN, &gone), Step::Overtaken(why) if why.contains("node 3 was removed")));
    }
}
