//! Which step a merge takes when.
//!
//! Owns: the one action that follows from a look at a merge, forward and back, and the pause between two attempts. Must never: begin a merge
//! for a job that is cancelled, or call one cancelled while a merge that was asked for may be on its way to the map.

use super::{Action, Executor, JobStep, MergeLook, SETTLED, Task};
use crate::ids::JobId;
use crate::jobs::job::{Job, JobEnd, JobState};
use crate::jobs::merge::{self, Phase, Step};
use std::time::Duration;

/// Time between two attempts: one that its driver took back met a member that was slow or down.
pub const AGAIN: Duration = Duration::from_secs(5);

impl Executor {
    /// What is to be done for a merge by what is seen of it.
    ///
    /// A merge that was asked for may come yet, so that a cancelled one ends a while after that.
    pub fn decide_merge(&mut self, id: JobId, job: &Job, look: &MergeLook, now: Duration) -> Option<Action> {
        let goal = job.goal.as_merge()?;
        let is_back = job.state == JobState::Cancelling;
        let task = self.tasks.entry(id).or_insert_with(|| Task::begin(now));
        task.next = now + task.pause;
        task.saw_merge(&look.seen, now);
        let (shard, source) = (goal.target, goal.source);
        let step = if is_back { merge::back(goal, &look.seen) } else { merge::next(goal, &look.seen) };
        let rests = task.begun.is_some_and(|begun| now < begun + AGAIN);
        let step = match step {
            Step::Begin(_) if rests => Step::Wait("the last attempt was taken back: it is made again soon".into()),
            step => step,
        };
        task.progress.step = Some(JobStep::Merge(step.clone()));
        let finish = |end| Some(Action::Finish { job: id, seen: look.epoch, end });
        match step {
            Step::Done => finish(JobEnd::Done),
            Step::Overtaken(why) => finish(JobEnd::Overtaken(why)),
            Step::Undone if now < task.asked + SETTLED => None,
            Step::Undone => finish(JobEnd::Cancelled),
            Step::Wait(_) => None,
            Step::Transfer { to } => Some(Action::Transfer { job: id, shard: source, to }),
            Step::Begin(begin) => {
                (task.asked, task.begun) = (now, Some(now));
                Some(Action::Merge { job: id, shard, begin })
            }
            Step::Cancel => Some(Action::CancelMerge { job: id, shard, source }),
        }
    }
}

impl Task {
    fn saw_merge(&mut self, seen: &merge::Seen, now: Duration) {
        let version = |side: &merge::Side| side.mapped.as_ref().map_or(0, |mapped| mapped.bounds.version);
        let phase = seen.target.leader.as_ref().map_or(Phase::Open, |leader| leader.phase);
        let sight = (version(&seen.target), version(&seen.source), phase);
        if self.seen_merge.replace(sight) != Some(sight) {
            self.moved(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, NodeId, ShardId};
    use crate::jobs::job::JobGoal;
    use crate::jobs::merge::{Begin, Leader, Mapped, Side};
    use crate::jobs::split::Bounds;
    use bytes::Bytes;
    use synod_paxos::types::{Member, MemberRole, Membership};

    const TARGET: ShardId = ShardId(7);
    const SOURCE: ShardId = ShardId(8);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn job(state: JobState) -> Job {
        Job { goal: JobGoal::Merge { shard: TARGET, source: SOURCE, border: Bytes::from_static(b"m") }, state }
    }

    fn side(from: &'static [u8], to: &'static [u8], node: u64, phase: Phase) -> Side {
        let bounds = Bounds { from: Bytes::from_static(from), to: Bytes::from_static(to), version: 3 };
        let members = vec![Member { node: NodeId(1), role: MemberRole::Voter }];
        let membership = Membership { epoch: Epoch(4), members, first_leader: NodeId(1) };
        let leader = Leader { node: NodeId(node), bounds: bounds.clone(), epoch: Epoch(4), phase, hindrance: None };
        Side { mapped: Some(Mapped { bounds, membership }), leader: Some(leader) }
    }

    /// The shard that goes is led by this node, and the one that stays is in this phase.
    fn look(source_at: u64, phase: Phase) -> MergeLook {
        let (target, source) = (side(b"", b"m", 1, phase), side(b"m", b"", source_at, Phase::Open));
        MergeLook { seen: merge::Seen { target, source, holds_border: None }, epoch: Epoch(4) }
    }

    fn made() -> MergeLook {
        let mut look = look(1, Phase::Open);
        look.seen.holds_border = Some(TARGET);
        look
    }

    /// One after the other, each at the time given, ms; what was decided.
    fn decided(state: &JobState, looks: &[(u64, MergeLook)]) -> Vec<Option<Action>> {
        let (job, mut executor) = (job(state.clone()), Executor::default());
        looks.iter().map(|(at, look)| executor.decide_merge(JobId(1), &job, look, ms(*at))).collect()
    }

    fn begin() -> Option<Action> {
        let begin = Begin { version: 3, epoch: Epoch(4), source: SOURCE, source_version: 3, source_epoch: Epoch(4) };
        Some(Action::Merge { job: JobId(1), shard: TARGET, begin })
    }

    fn finish(end: JobEnd) -> Option<Action> {
        Some(Action::Finish { job: JobId(1), seen: Epoch(4), end })
    }

    #[test]
    fn leadership_is_transferred_then_the_merge_is_begun_and_the_map_ends_it() {
        let looks = [
            (0, look(2, Phase::Open)),
            (100, look(1, Phase::Open)),
            (200, look(1, Phase::Merging(SOURCE))),
            (300, made()),
        ];
        let transfer = Some(Action::Transfer { job: JobId(1), shard: SOURCE, to: NodeId(1) });
        assert_eq!(decided(&JobState::Running, &looks), [transfer, begin(), None, finish(JobEnd::Done)]);
    }

    #[test]
    fn an_attempt_that_was_taken_back_is_made_again_after_a_pause() {
        let open = || look(1, Phase::Open);
        let looks = [(0, open()), (100, open()), (4_999, open()), (5_000, open())];
        assert_eq!(decided(&JobState::Running, &looks), [begin(), None, None, begin()]);
    }

    #[test]
    fn a_cancelled_merge_is_taken_back_and_ends_once_none_can_come() {
        let (merging, cancelled) = (Phase::Merging(SOURCE), Phase::Cancelled(SOURCE));
        let looks = [
            (0, look(1, Phase::Open)),
            (100, look(1, merging)),
            (200, look(1, cancelled)),
            (2_999, look(1, Phase::Open)),
            (3_000, look(1, Phase::Open)),
        ];
        let cancel = Some(Action::CancelMerge { job: JobId(1), shard: TARGET, source: SOURCE });
        assert_eq!(decided(&JobState::Cancelling, &looks), [None, cancel, None, None, finish(JobEnd::Cancelled)]);
        assert_eq!(decided(&JobState::Cancelling, &[(0, made())]), [finish(JobEnd::Done)]);
    }
}
