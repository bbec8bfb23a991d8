//! Which step a split takes when.
//!
//! Owns: the one action that follows from a look at a split, forward and back. Must never: propose a split for a job that is cancelled, or
//! call one cancelled while a split that was asked for may be on its way to the map.

use super::{Action, Executor, JobStep, SETTLED, SplitLook, Task};
use crate::ids::JobId;
use crate::jobs::job::{Job, JobEnd, JobState};
use crate::jobs::split;
use std::time::Duration;

impl Executor {
    /// What is to be done for a split by what is seen of it.
    ///
    /// There is no way back but to propose nothing: a reservation changes nothing, and stays for the next split of the shard. A split that
    /// was asked for may come yet, so that a cancelled one ends a while after that.
    pub fn decide_split(&mut self, id: JobId, job: &Job, look: &SplitLook, now: Duration) -> Option<Action> {
        let goal = job.goal.as_split()?;
        let (shard, back) = (goal.shard, job.state == JobState::Cancelling);
        let task = self.tasks.entry(id).or_insert_with(|| Task::begin(now));
        task.next = now + task.pause;
        task.saw_split(&look.seen, now);
        let step = split::next(goal, &look.seen);
        task.progress.step = Some(JobStep::Split(if back { going_back(&step) } else { step.clone() }));
        let finish = |end| Some(Action::Finish { job: id, seen: look.epoch, end });
        match step {
            split::Step::Done => finish(JobEnd::Done),
            split::Step::Overtaken(_) if back => finish(JobEnd::Cancelled),
            split::Step::Overtaken(why) => finish(JobEnd::Overtaken(why)),
            _ if back && (is_ahead(&look.seen) || now < task.asked + SETTLED) => None,
            _ if back => finish(JobEnd::Cancelled),
            split::Step::Wait(_) => None,
            split::Step::Reserve { version } => Some(Action::Reserve { job: id, parent: shard, version }),
            split::Step::Propose { child, at, version, epoch } => {
                task.asked = now;
                Some(Action::Split { job: id, shard, version, epoch, child, at })
            }
        }
    }
}

/// What is shown of a split that is cancelled.
fn going_back(step: &split::Step) -> split::Step {
    match step {
        split::Step::Reserve { .. } | split::Step::Propose { .. } => {
            split::Step::Wait("a split that was asked for before may come yet".into())
        }
        step => step.clone(),
    }
}

/// Whether the shard's leader has applied bounds that the map is yet to hear of.
fn is_ahead(seen: &split::Seen) -> bool {
    let known = seen.mapped.as_ref().map_or(0, |bounds| bounds.version);
    seen.leader.as_ref().is_some_and(|leader| leader.bounds.version > known)
}

impl Task {
    fn saw_split(&mut self, seen: &split::Seen, now: Duration) {
        let version = seen.mapped.as_ref().map_or(0, |bounds| bounds.version);
        let sight = (version, seen.reserved.map(|reserved| reserved.id));
        if self.seen_split.replace(sight) != Some(sight) {
            self.moved(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, ShardId};
    use crate::jobs::executor::PACE;
    use crate::jobs::job::JobGoal;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    const SHARD: ShardId = ShardId(7);
    const CHILD: ShardId = ShardId(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn job(state: JobState) -> Job {
        Job { goal: JobGoal::Split { shard: SHARD, version: 3, at: Some(Bytes::from_static(b"m")) }, state }
    }

    fn bounds(version: u64) -> split::Bounds {
        split::Bounds { from: Bytes::new(), to: Bytes::new(), version }
    }

    /// The map at one version, the leader at another, and whether an id is reserved.
    fn look(mapped: u64, led: u64, reserved: bool) -> SplitLook {
        let leader = split::Leader { bounds: bounds(led), epoch: Epoch(4), middle: None, hindrance: None };
        let seen = split::Seen {
            mapped: Some(bounds(mapped)),
            made: None,
            reserved: reserved.then_some(split::Unused { id: CHILD, version: mapped }),
            leader: Some(leader),
        };
        SplitLook { seen, epoch: Epoch(4) }
    }

    fn made() -> SplitLook {
        let mut look = look(4, 4, false);
        look.seen.made = Some(CHILD);
        look
    }

    /// One after the other, each at the time given, ms; what was decided.
    fn decided(state: &JobState, looks: &[(u64, SplitLook)]) -> Vec<Option<Action>> {
        let (job, mut executor) = (job(state.clone()), Executor::default());
        looks.iter().map(|(at, look)| executor.decide_split(JobId(1), &job, look, ms(*at))).collect()
    }

    fn split_at(version: u64) -> Option<Action> {
        let at = Bytes::from_static(b"m");
        Some(Action::Split { job: JobId(1), shard: SHARD, version, epoch: Epoch(4), child: CHILD, at })
    }

    fn finish(epoch: u64, end: JobEnd) -> Option<Action> {
        Some(Action::Finish { job: JobId(1), seen: Epoch(epoch), end })
    }

    #[test]
    fn an_id_is_reserved_then_the_split_is_proposed_and_the_map_ends_it() {
        let looks = [
            (0, look(3, 3, false)),
            (100, look(3, 3, true)),
            (200, look(3, 3, true)),
            (300, look(3, 4, true)),
            (400, made()),
        ];
        let reserve = Some(Action::Reserve { job: JobId(1), parent: SHARD, version: 3 });
        let wanted = [reserve, split_at(3), split_at(3), None, finish(4, JobEnd::Done)];
        assert_eq!(decided(&JobState::Running, &looks), wanted);
    }

    #[test]
    fn a_cancelled_split_proposes_nothing_and_ends_once_none_can_come() {
        let cancelled = || finish(4, JobEnd::Cancelled);
        let looks = [(0, look(3, 3, true)), (2_999, look(3, 3, true)), (3_000, look(3, 3, true))];
        assert_eq!(decided(&JobState::Cancelling, &looks), [None, None, cancelled()]);
        // The leader has applied it: the map hears of it.
        let looks = [(0, look(3, 3, true)), (9_000, look(3, 4, true)), (9_100, made())];
        assert_eq!(decided(&JobState::Cancelling, &looks), [None, None, finish(4, JobEnd::Done)]);
        assert_eq!(decided(&JobState::Cancelling, &[(0, SplitLook::default())]), [finish(0, JobEnd::Cancelled)]);
        let mut executor = Executor::default();
        executor.decide_split(JobId(1), &job(JobState::Cancelling), &look(3, 3, true), ms(0));
        let step = executor.progress(JobId(1)).and_then(|progress| progress.step.clone());
        assert!(matches!(step, Some(JobStep::Split(split::Step::Wait(_)))), "{step:?}");
    }

    #[test]
    fn what_makes_no_sense_any_longer_ends_and_says_why() {
        let Some(Action::Finish { seen, end: JobEnd::Overtaken(why), .. }) =
            &decided(&JobState::Running, &[(0, SplitLook::default())])[0]
        else {
            panic!("it goes on")
        };
        assert!(*seen == Epoch::default() && why.contains("was dropped"), "{why}");
    }

    #[test]
    fn a_split_takes_its_turn_as_a_move_does_and_progress_ends_its_trouble() {
        let jobs = BTreeMap::from([(JobId(1), job(JobState::Running))]);
        let mut executor = Executor::default();
        assert_eq!(executor.due(&jobs, ms(0)).len(), 1);
        executor.decide_split(JobId(1), &jobs[&JobId(1)], &look(3, 3, false), ms(0));
        executor.answered(JobId(1), Some("a member waits for a snapshot".into()), ms(0));
        assert!(executor.due(&jobs, PACE).is_empty(), "the pause grew");
        assert!(executor.progress(JobId(1)).unwrap().trouble.is_some());
        executor.decide_split(JobId(1), &jobs[&JobId(1)], &look(3, 3, true), ms(300));
        assert_eq!(executor.progress(JobId(1)).unwrap().trouble, None);
        assert_eq!(executor.due(&jobs, ms(300) + PACE).len(), 1);
    }
}
