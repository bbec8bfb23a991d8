//! Which step a job takes when that empties a node.
//!
//! Owns: the one action that follows from a look at the node. Must never: begin a move for a job that does not run.

use super::{Action, Executor, JobStep, Task};
use crate::ids::JobId;
use crate::jobs::empty_node::{self, Seen, Step};
use crate::jobs::job::{Job, JobEnd, JobState};
use std::time::Duration;
use synod_paxos::types::Epoch;

/// Pause after a look that asked for nothing: each look counts the replicas of the whole cluster.
const WAITS: Duration = Duration::from_millis(300);

impl Executor {
    /// What is to be done for a node that is emptied by what is seen of it.
    ///
    /// There is no way back to take: the command that cancels such a job ends it.
    pub fn decide_empty(&mut self, id: JobId, job: &Job, seen: &Seen, now: Duration) -> Option<Action> {
        let goal = job.goal.as_empty()?;
        if job.state != JobState::Running {
            return None;
        }
        let task = self.tasks.entry(id).or_insert_with(|| Task::begin(now));
        let sight = (seen.left, seen.moving);
        if task.seen_node.replace(sight) != Some(sight) {
            task.moved(now);
        }
        task.next = now + task.pause;
        let step = empty_node::next(goal, seen);
        task.progress.left = Some(seen.left);
        task.progress.step = Some(JobStep::Empty(step.clone()));
        // No shard of its own, so no epoch: the system shard looks at the node itself.
        let finish = |end| Some(Action::Finish { job: id, seen: Epoch::default(), end });
        match step {
            Step::Done => finish(JobEnd::Done),
            Step::Overtaken(why) => finish(JobEnd::Overtaken(why)),
            Step::Begin(leaving) => Some(Action::Begin { job: id, leaving }),
            Step::Wait(_) => {
                task.next = now + WAITS;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ShardId};
    use crate::jobs::empty_node::{EmptyNode, Leaving};
    use crate::jobs::executor::{AT_A_TIME, PACE};
    use crate::jobs::job::JobGoal;
    use crate::jobs::move_replica::MoveReplica;
    use std::collections::BTreeMap;

    const LEAVING: Leaving = Leaving { shard: ShardId(7), epoch: Epoch(4), to: Some(NodeId(4)) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn job(node: u64, state: JobState) -> Job {
        Job { goal: JobGoal::Empty(EmptyNode { node: NodeId(node), remove: true, at_once: 1 }), state }
    }

    fn seen(left: u64, moving: u32) -> Seen {
        let choice = (left > 0 && moving == 0).then_some(LEAVING);
        Seen { present: true, left, moving, choice, trouble: None }
    }

    /// A new executor before each look: whoever carries the job out may die at any step, and the next sees the same.
    #[test]
    fn an_executor_that_follows_decides_as_the_one_before_would_have() {
        let looks = [seen(2, 0), seen(2, 1), seen(1, 0), seen(1, 1), seen(0, 1), seen(0, 0), Seen::default()];
        let begin = Some(Action::Begin { job: JobId(1), leaving: LEAVING });
        let done = Some(Action::Finish { job: JobId(1), seen: Epoch(0), end: JobEnd::Done });
        let wanted = [begin.clone(), None, begin, None, None, done.clone(), done];
        let running = job(3, JobState::Running);
        let mut lives = Executor::default();
        for (look, wanted) in looks.iter().zip(wanted) {
            assert_eq!(lives.decide_empty(JobId(1), &running, look, ms(0)), wanted, "{look:?}");
            assert_eq!(Executor::default().decide_empty(JobId(1), &running, look, ms(0)), wanted, "{look:?}");
        }
        assert_eq!(lives.progress(JobId(1)).and_then(|progress| progress.left), Some(0));
    }

    #[test]
    fn nothing_is_begun_for_one_that_is_paused() {
        let mut executor = Executor::default();
        let paused = job(3, JobState::Paused);
        assert_eq!(executor.decide_empty(JobId(1), &paused, &seen(2, 0), ms(0)), None);
        let moves = JobGoal::Move { shard: ShardId(9), replica: MoveReplica { from: NodeId(1), to: Some(NodeId(2)) } };
        let moves = Job { goal: moves, state: JobState::Paused };
        let mut jobs = BTreeMap::from([(JobId(1), paused), (JobId(2), moves)]);
        assert!(executor.due(&jobs, ms(0)).is_empty(), "a paused job is not even looked at");
        for job in jobs.values_mut() {
            job.state = JobState::Running;
        }
        assert_eq!(executor.due(&jobs, ms(0)).len(), 2);
    }

    /// Else as many nodes as jobs go forward at a time would wait for moves that wait for their turn.
    #[test]
    fn the_moves_of_nodes_that_are_emptied_find_their_turn() {
        let empties = (1..=6).map(|id| (JobId(id), job(id, JobState::Running)));
        let moves = (7..=12).map(|id| {
            let replica = MoveReplica { from: NodeId(1), to: Some(NodeId(9)) };
            (JobId(id), Job { goal: JobGoal::Move { shard: ShardId(id), replica }, state: JobState::Running })
        });
        let jobs: BTreeMap<JobId, Job> = empties.chain(moves).collect();
        let mut executor = Executor::default();
        let due = executor.due(&jobs, ms(0));
        let moving = due.iter().filter(|(_, job)| job.goal.as_move().is_some()).count();
        assert_eq!((due.len(), moving), (6 + AT_A_TIME, AT_A_TIME));
    }

    #[test]
    fn progress_ends_its_trouble_and_one_that_waits_is_looked_at_less() {
        let jobs = BTreeMap::from([(JobId(1), job(3, JobState::Running))]);
        let mut executor = Executor::default();
        executor.decide_empty(JobId(1), &jobs[&JobId(1)], &seen(2, 0), ms(0));
        executor.answered(JobId(1), Some("the shard is in epoch 5".into()), ms(0));
        assert!(executor.due(&jobs, PACE).is_empty(), "the pause grew");
        executor.decide_empty(JobId(1), &jobs[&JobId(1)], &seen(2, 1), ms(300));
        assert_eq!(executor.progress(JobId(1)).and_then(|progress| progress.trouble.clone()), None);
        assert!(executor.due(&jobs, ms(300) + PACE).is_empty());
        assert_eq!(executor.due(&jobs, ms(300) + WAITS).len(), 1);
    }
}
