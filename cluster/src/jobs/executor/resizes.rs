//! Which step a job takes when that changes how many voters a shard has.
//!
//! Owns: the one action that follows from a look at the shard, forward and back. Must never: take a step forward for a job that is
//! cancelled, or call one cancelled while a change that was asked for may yet be made.

use super::{Action, Executor, JobStep, SETTLED, Task};
use crate::ids::JobId;
use crate::jobs::job::{Job, JobEnd, JobState};
use crate::jobs::resize_shard::{self, Seen, Step};
use std::time::Duration;
use synod_paxos::types::Epoch;

impl Executor {
    /// What is to be done for a shard whose voters change in number, by what is seen of it; `None` where the shard exists no more.
    pub fn decide_resize(&mut self, id: JobId, job: &Job, seen: Option<&Seen>, now: Duration) -> Option<Action> {
        let goal = job.goal.as_resize()?;
        let (shard, back) = (goal.shard, job.state == JobState::Cancelling);
        let task = self.tasks.entry(id).or_insert_with(|| Task::begin(now));
        task.next = now + task.pause;
        let finish = |seen, end| Some(Action::Finish { job: id, seen, end });
        let Some(seen) = seen else {
            let end = if back { JobEnd::Cancelled } else { JobEnd::Failed(format!("shard {shard} was dropped")) };
            return finish(Epoch::default(), end);
        };
        task.saw_members(seen, now);
        let epoch = seen.membership.epoch;
        let back_in = back.then(|| *task.back_in.get_or_insert(epoch));
        let step = if back { resize_shard::back(goal, seen) } else { resize_shard::next(goal, seen) };
        task.progress.step = Some(JobStep::Resize(step.clone()));
        match step {
            Step::Done => finish(epoch, JobEnd::Done),
            Step::CatchUp(_) | Step::Wait(_) => None,
            // A change that was asked for before the job was cancelled may yet be made, in that epoch.
            Step::Undone if back_in == Some(epoch) && now < task.asked + SETTLED => None,
            Step::Undone => finish(epoch, JobEnd::Cancelled),
            Step::Change(change) => {
                task.asked = now;
                Some(Action::Change { job: id, shard, expected: epoch, change })
            }
        }
    }
}

impl Task {
    fn saw_members(&mut self, seen: &Seen, now: Duration) {
        let sight = (seen.membership.clone(), seen.lag);
        let before = self.seen_members.replace(sight.clone());
        if before.as_ref() == Some(&sight) {
            return;
        }
        if let Some(change) = before.and_then(|(before, _)| resize_shard::change_between(&before, &seen.membership)) {
            self.made(change);
        }
        self.moved(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ShardId};
    use crate::jobs::job::JobGoal;
    use crate::jobs::resize_shard::{Choice, ResizeShard};
    use crate::members::MemberChange;
    use synod_paxos::types::{Member, MemberRole, Membership};

    const SHARD: ShardId = ShardId(7);

    fn job(voters: u32, state: JobState) -> Job {
        Job { goal: JobGoal::Resize(ResizeShard { shard: SHARD, voters }), state }
    }

    fn look(epoch: u64, voters: u64, learner: Option<u64>, lag: Option<u64>, choice: Option<Choice>) -> Seen {
        let mut members: Vec<Member> =
            (1..=voters).map(|node| Member { node: NodeId(node), role: MemberRole::Voter }).collect();
        members.extend(learner.map(|node| Member { node: NodeId(node), role: MemberRole::Learner }));
        let membership = Membership { epoch: Epoch(epoch), members, first_leader: NodeId(1) };
        Seen { membership, lag, unfit: false, choice, trouble: None }
    }

    fn change(expected: u64, change: MemberChange) -> Option<Action> {
        Some(Action::Change { job: JobId(1), shard: SHARD, expected: Epoch(expected), change })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A new executor before each look decides the same: whoever carries the job out may die at any step.
    #[test]
    fn voters_come_one_at_a_time_and_each_change_names_its_epoch() {
        let come = |node| Some(Choice::Comes(NodeId(node)));
        let looks = [
            look(1, 3, None, None, come(4)),
            look(2, 3, Some(4), Some(5_000), None),
            look(2, 3, Some(4), Some(7), None),
            look(3, 4, None, None, come(5)),
            look(4, 4, Some(5), Some(0), None),
            look(5, 5, None, None, None),
        ];
        let promote = |node| MemberChange::Promote { node: NodeId(node), instead_of: None };
        let learn = |node| MemberChange::Learn(NodeId(node));
        let done = Some(Action::Finish { job: JobId(1), seen: Epoch(5), end: JobEnd::Done });
        let wanted =
            [change(1, learn(4)), None, change(2, promote(4)), change(3, learn(5)), change(4, promote(5)), done];
        let (running, mut lives) = (job(5, JobState::Running), Executor::default());
        for (look, wanted) in looks.iter().zip(wanted) {
            assert_eq!(lives.decide_resize(JobId(1), &running, Some(look), ms(0)), wanted, "{look:?}");
            assert_eq!(Executor::default().decide_resize(JobId(1), &running, Some(look), ms(0)), wanted, "{look:?}");
        }
        let progress = lives.progress(JobId(1)).unwrap();
        assert_eq!(progress.changes, [learn(4), promote(4), learn(5), promote(5)]);
    }

    #[test]
    fn one_that_is_cancelled_ends_once_nothing_that_was_asked_for_can_come() {
        let back = job(5, JobState::Cancelling);
        let mut executor = Executor::default();
        let nothing = look(1, 3, None, None, Some(Choice::Comes(NodeId(4))));
        assert_eq!(executor.decide_resize(JobId(1), &back, Some(&nothing), ms(0)), None);
        let learns = look(2, 3, Some(4), Some(0), None);
        let remove = change(2, MemberChange::Remove(NodeId(4)));
        assert_eq!(executor.decide_resize(JobId(1), &back, Some(&learns), ms(100)), remove);
        let end = Some(Action::Finish { job: JobId(1), seen: Epoch(3), end: JobEnd::Cancelled });
        assert_eq!(executor.decide_resize(JobId(1), &back, Some(&look(3, 3, None, None, None)), ms(200)), end);
        let gone = Some(Action::Finish { job: JobId(1), seen: Epoch(0), end: JobEnd::Cancelled });
        assert_eq!(executor.decide_resize(JobId(1), &back, None, ms(300)), gone);
    }
}
