//! A node that takes the place of a lost one.
//!
//! Owns: the commands that do it, in their order, and why it would be refused. Must never: give the new node the lost one's number, or
//! say whether that one is alive.
//!
//! No moment has two processes that speak as one node: the new one has a number of its own from the start. The lost one keeps its number,
//! its votes and what it promised until no group has it, and then its number is gone for good. It is only moved off its address, where
//! the new one is.

use super::{SystemCommand, SystemOutcome, SystemState, no_such_node};
use crate::ids::{ClusterVersion, NodeId};
use crate::jobs::empty_node::{AT_ONCE, EmptyNode};
use crate::jobs::job::JobGoal;
use crate::planner::picture::Mark;

/// The port that a lost node is moved to, on its own host: nobody listens there, and who calls is told so at once.
const NOWHERE: &str = "1";

impl SystemState {
    /// The commands by which the node of this nonce joins in the place of `lost`, as far as they are not carried out yet. They are checked
    /// together: none is carried out where a later one would be refused.
    ///
    /// # Errors
    /// Why it would be refused, in one line.
    pub fn replacement(
        &self,
        lost: NodeId,
        addr: &str,
        nonce: u128,
        speaks: ClusterVersion,
    ) -> Result<Vec<SystemCommand>, String> {
        let (version, needed) = (self.version, ClusterVersion::FOURTH);
        if version < needed {
            let why = "`synod cluster upgrade` raises it, or join at another address without --replace";
            return Err(format!("the cluster is at version {version}, --replace needs {needed}: {why}"));
        }
        let joined = self.nodes.iter().find(|(_, info)| info.nonce == nonce).map(|(node, _)| *node);
        let known = self.nodes.get(&lost);
        if joined == Some(lost) || (known.is_none() && joined.is_none()) {
            return Err(no_such_node(lost));
        }
        let mut commands = Vec::new();
        if known.is_some_and(|info| info.addr == addr) {
            commands.push(SystemCommand::SetAddr { node: lost, addr: nowhere(addr) });
        }
        commands.push(SystemCommand::AddNode { addr: addr.to_owned(), nonce, speaks });
        // The mark says whether its job runs: a map that came from another node knows no jobs.
        if known.is_some_and(|info| info.mark != Mark::Decommissioning) {
            let goal = JobGoal::Empty(EmptyNode { node: lost, remove: true, at_once: AT_ONCE });
            commands.push(SystemCommand::StartJob { goal });
        }
        let mut after = self.clone();
        for command in &commands {
            match after.execute(command).0 {
                SystemOutcome::Done | SystemOutcome::Node(_) | SystemOutcome::Job(_) => {}
                SystemOutcome::Invalid { why, .. } => return Err(why),
                SystemOutcome::JobConflict { job, why } => return Err(format!("job {job}: {why}")),
                other => return Err(format!("the outcome would be {other:?}")),
            }
        }
        Ok(commands)
    }
}

/// Where a lost node is said to be: at a port of its host at which nobody is.
fn nowhere(addr: &str) -> String {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    format!("{host}:{NOWHERE}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;
    use crate::system::{Partitioning, Retention};

    const SPEAKS: ClusterVersion = ClusterVersion::FOURTH;

    /// Three nodes at the fourth version, and a table with a replica on each.
    fn state() -> SystemState {
        let founders: Vec<String> = (1..=3).map(|i| format!("h{i}:7400")).collect();
        let mut state = SystemState::found(7, &founders);
        let create = SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Hash,
            retention: Retention::All,
            shards: 2,
            splits: vec![],
            replicas: 3,
        };
        assert!(matches!(state.execute(&create).0, SystemOutcome::Table(_)));
        state.version = ClusterVersion::FOURTH;
        state
    }

    #[test]
    fn a_lost_node_gives_up_its_address_and_is_emptied_and_the_new_one_has_a_number_of_its_own() {
        let mut state = state();
        let commands = state.replacement(NodeId(3), "h3:7400", 1 << 127, SPEAKS).unwrap();
        let outcomes: Vec<SystemOutcome> = commands.iter().map(|command| state.execute(command).0).collect();
        assert_eq!(outcomes, [SystemOutcome::Done, SystemOutcome::Node(NodeId(4)), SystemOutcome::Job(JobId(1))]);
        assert_eq!((&state.nodes[&NodeId(3)].addr[..], &state.nodes[&NodeId(4)].addr[..]), ("h3:1", "h3:7400"));
        assert_eq!(state.nodes[&NodeId(3)].mark, Mark::Decommissioning);
        let goal = EmptyNode { node: NodeId(3), remove: true, at_once: AT_ONCE };
        assert_eq!(state.jobs[&JobId(1)].goal, JobGoal::Empty(goal));
    }

    #[test]
    fn it_goes_on_wherever_it_was_left_and_gives_one_number() {
        let all = state().replacement(NodeId(3), "h3:7400", 9, SPEAKS).unwrap();
        for done in 0..=all.len() {
            let mut state = state();
            all[..done].iter().for_each(|command| drop(state.execute(command)));
            let rest = state.replacement(NodeId(3), "h3:7400", 9, SPEAKS).unwrap();
            rest.iter().for_each(|command| drop(state.execute(command)));
            assert_eq!((state.nodes.len(), state.running().count()), (4, 1), "after {done}");
            assert_eq!(state.nodes[&NodeId(4)].addr, "h3:7400");
            // As a node without a replica of the system shard has the map.
            state.jobs.clear();
            assert_eq!(state.replacement(NodeId(3), "h3:7400", 9, SPEAKS).unwrap().len(), 1, "after {done}");
        }
        // The lost node is gone by the time that the joiner asks again.
        let mut state = state();
        all.iter().for_each(|command| drop(state.execute(command)));
        state.nodes.remove(&NodeId(3));
        let again = state.replacement(NodeId(3), "h3:7400", 9, SPEAKS).unwrap();
        assert_eq!(again, [SystemCommand::AddNode { addr: "h3:7400".into(), nonce: 9, speaks: SPEAKS }]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut state = state();
        let refused = |state: &SystemState, lost, addr: &str, nonce| {
            state.replacement(NodeId(lost), addr, nonce, SPEAKS).unwrap_err()
        };
        assert_eq!(refused(&state, 9, "h3:7400", 9), "there is no node 9");
        assert_eq!(refused(&state, 3, "h3:7400", 3), "there is no node 3", "a founder's nonce is its number");
        assert!(refused(&state, 3, "h2:7400", 9).contains("node 2 is already registered"));
        // A drain of it runs.
        let goal = JobGoal::Empty(EmptyNode { node: NodeId(3), remove: false, at_once: 1 });
        let fourth = SystemCommand::AddNode { addr: "h4:7400".into(), nonce: 4, speaks: SPEAKS };
        state.execute(&fourth);
        assert_eq!(state.execute(&SystemCommand::StartJob { goal }).0, SystemOutcome::Job(JobId(1)));
        assert!(refused(&state, 3, "h3:7400", 9).starts_with("job 1: it drains node 3 already"));
        state.version = ClusterVersion::THIRD;
        assert!(refused(&state, 3, "h3:7400", 9).contains("--replace needs 4"));
    }
}
