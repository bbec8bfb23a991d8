//! Which job takes which step when, at the node where the system shard is led.
//!
//! Owns: how many jobs go forward at a time, the pauses between two looks at one, and the one change or the end that follows from a
//! look. Must never: act other than through [`Action`]s, each of which names the epoch that it was decided in and is refused in any other:
//! an executor that is succeeded without knowing it may be late, never wrong. Or be needed: what it remembers are pauses and words, and
//! its successor begins without them.
//!
//! Times are relative to an origin that the caller chooses.

mod merges;
mod nodes;
mod resizes;
mod splits;

use super::empty_node::{self, Leaving};
use super::job::{Job, JobEnd, JobState};
use super::move_replica::{self, MoveReplica, Seen, Step};
use super::resize_shard;
use super::{merge, split};
use crate::ids::{JobId, NodeId, ShardId};
use crate::members::MemberChange;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_paxos::types::{Epoch, MemberRole, Membership};

/// Jobs that go forward at a time. One that makes no progress for [`STALLED`] does not count: its target may be down for good.
pub const AT_A_TIME: usize = 4;
/// Pause between two looks at a job.
pub const PACE: Duration = Duration::from_millis(100);
/// The same after refusals, at most.
pub const PACE_MAX: Duration = Duration::from_secs(2);
/// Time without progress after which a job makes room for another.
pub const STALLED: Duration = Duration::from_secs(30);
/// How long the way back waits for a change that was asked for earlier, here or by an executor before.
pub const SETTLED: Duration = Duration::from_secs(3);
/// Changes of a job that are remembered.
const CHANGES: usize = 16;

/// What is seen of a job's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its epoch and members; `None` where the shard exists no more.
    pub members: Option<(Epoch, Seen)>,
    /// The node that gets the replica, where it is no node of the cluster.
    pub stranger: Option<NodeId>,
}

/// What is seen of a split's shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitLook {
    /// Its bounds and children, and what its leader says.
    pub seen: split::Seen,
    /// Its epoch in the map; none (0) where the shard exists no more.
    pub epoch: Epoch,
}

/// What is seen of a merge's shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeLook {
    /// Their bounds and members, and what their leaders say.
    pub seen: merge::Seen,
    /// The epoch of the shard that stays, in the map; none (0) where it exists no more.
    pub epoch: Epoch,
}

/// What is to be done for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The shard's leader is asked for this change.
    Change {
        /// For this job.
        job: JobId,
        /// The shard.
        shard: ShardId,
        /// The epoch whose members it was decided for.
        expected: Epoch,
        /// The change.
        change: MemberChange,
    },
    /// The system shard is asked for the id of a split's child.
    Reserve {
        /// For this job.
        job: JobId,
        /// The shard that is to be split.
        parent: ShardId,
        /// The version of its bounds that it was decided for.
        version: u64,
    },
    /// The shard's leader is asked to propose a split.
    Split {
        /// For this job.
        job: JobId,
        /// The shard.
        shard: ShardId,
        /// The version of its bounds that it was decided for.
        version: u64,
        /// The epoch of its members that it was decided for.
        epoch: Epoch,
        /// The child.
        child: ShardId,
        /// Where the child begins.
        at: Bytes,
    },
    /// A shard that is to go into another one is to be led where that one is.
    Transfer {
        /// For this job.
        job: JobId,
        /// The shard that goes.
        shard: ShardId,
        /// Where the other one is led.
        to: NodeId,
    },
    /// The leader of the shard that stays is asked to begin a merge.
    Merge {
        /// For this job.
        job: JobId,
        /// The shard that stays.
        shard: ShardId,
        /// The other one, and the versions and epochs that it was decided for.
        begin: merge::Begin,
    },
    /// The leader of the shard that stays is asked to take a merge back.
    CancelMerge {
        /// For this job.
        job: JobId,
        /// The shard that stays.
        shard: ShardId,
        /// The shard that was to go into it.
        source: ShardId,
    },
    /// The system shard is asked to begin the move of a replica that is to leave a node.
    Begin {
        /// For this job.
        job: JobId,
        /// The replica, and where it goes.
        leaving: Leaving,
    },
    /// The system shard is told that the job has ended.
    Finish {
        /// The job.
        job: JobId,
        /// The epoch in which that was seen; none (0) where the shard exists no more.
        seen: Epoch,
        /// How.
        end: JobEnd,
    },
}

/// The step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// Of a move.
    Move(Step),
    /// Of a split.
    Split(split::Step),
    /// Of a merge.
    Merge(merge::Step),
    /// Of a node that is emptied.
    Empty(empty_node::Step),
    /// Of a shard whose voters change in number.
    Resize(resize_shard::Step),
}

/// How far a job is, for who watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The step decided last; `None` while it waits for its turn.
    pub step: Option<JobStep>,
    /// Changes that were seen to be made, in order, the last few.
    pub changes: Vec<MemberChange>,
    /// Why the last change that was asked for was not made.
    pub trouble: Option<String>,
    /// When something was last seen to change.
    pub moved: Duration,
    /// Of a node that is emptied: the replicas that it has.
    pub left: Option<u64>,
}

#[derive(Debug)]
struct Task {
    progress: Progress,
    seen: Option<(Epoch, Seen)>,
    /// Of a split's shard: its version and the id that is reserved.
    seen_split: Option<(u64, Option<ShardId>)>,
    /// Of a merge's shards: their versions, and the phase of the one that stays.
    seen_merge: Option<(u64, u64, merge::Phase)>,
    /// Of a node that is emptied: the replicas that it has, and those that are on their way.
    seen_node: Option<(u64, u32)>,
    /// Of a shard whose voters change in number: its members, and what the one that learns lacks.
    seen_members: Option<(Membership, Option<u64>)>,
    /// When a change may last have been asked for.
    asked: Duration,
    /// When a merge was last begun here.
    begun: Option<Duration>,
    /// The epoch in which it was first seen to go back. Whoever knows a later one knows that too, and asks for no step forward in it.
    back_in: Option<Epoch>,
    next: Duration,
    pause: Duration,
}

/// What one executor remembers of jobs.
#[derive(Debug, Default)]
pub struct Executor {
    tasks: BTreeMap<JobId, Task>,
}

impl Executor {
    /// The jobs to be looked at now, of all that are kept. Those that go back are always among them.
    pub fn due<'a>(&mut self, jobs: &'a BTreeMap<JobId, Job>, now: Duration) -> Vec<(JobId, &'a Job)> {
        self.tasks.retain(|id, _| jobs.contains_key(id));
        let mut due = Vec::new();
        let mut forward = 0;
        for (id, job) in jobs {
            if job.end().is_some() || job.state == JobState::Paused {
                continue;
            }
            // Who only begins other jobs needs no turn: they wait for theirs.
            let counts = job.state == JobState::Running && job.goal.shard().is_some();
            let stalled = self.tasks.get(id).is_some_and(|task| now.saturating_sub(task.progress.moved) > STALLED);
            if counts && !stalled {
                if forward == AT_A_TIME {
                    continue;
                }
                forward += 1;
            }
            if self.tasks.get(id).is_none_or(|task| task.next <= now) {
                due.push((*id, job));
            }
        }
        due
    }

    /// What is to be done for a move by what is seen of it.
    pub fn decide(&mut self, id: JobId, job: &Job, look: Look, now: Duration) -> Option<Action> {
        let (shard, replica) = job.goal.as_move()?;
        let back = job.state == JobState::Cancelling && !planted!(CancelForgotten);
        let task = self.tasks.entry(id).or_insert_with(|| Task::begin(now));
        task.next = now + task.pause;
        let finish = |seen, end| Some(Action::Finish { job: id, seen, end });
        let Some((epoch, seen)) = look.members else {
            let end = if back { JobEnd::Cancelled } else { JobEnd::Failed(format!("shard {shard} was dropped")) };
            return finish(Epoch::default(), end);
        };
        task.saw(replica, epoch, seen, now);
        let back_in = back.then(|| *task.back_in.get_or_insert(epoch));
        if let Some(gone) = look.stranger.filter(|_| !back && seen.to.is_none()) {
            return finish(epoch, JobEnd::Failed(format!("node {gone} was removed from the cluster")));
        }
        let step = if back { move_replica::back(replica, seen) } else { move_replica::next(replica, seen) };
        task.progress.step = Some(JobStep::Move(step));
        match step {
            Step::Done => finish(epoch, JobEnd::Done),
            Step::Overtaken => {
                let by = move_replica::overtaken_by(replica, seen);
                finish(epoch, JobEnd::Overtaken(format!("another command {by}")))
            }
            Step::Wait(_) if planted!(JobEndsEarly) => finish(epoch, JobEnd::Done),
            Step::Wait(_) => None,
            // A change that was asked for before the job was cancelled may yet be made, in that epoch.
            Step::Undone if back_in == Some(epoch) && now < task.asked + SETTLED => None,
            Step::Undone => finish(epoch, JobEnd::Cancelled),
            Step::Change(change) => {
                task.asked = now;
                Some(Action::Change { job: id, shard, expected: epoch, change })
            }
        }
    }

    /// What became of an action: why it was refused, where it was.
    pub fn answered(&mut self, id: JobId, refused: Option<String>, now: Duration) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.pause = if refused.is_none() { PACE } else { (task.pause * 2).min(PACE_MAX) };
        task.next = now + task.pause;
        task.progress.trouble = refused;
    }

    /// How far a job is; `None` where it was not looked at here.
    #[must_use]
    pub fn progress(&self, id: JobId) -> Option<&Progress> {
        self.tasks.get(&id).map(|task| &task.progress)
    }
}

impl Task {
    fn begin(now: Duration) -> Self {
        let progress = Progress { moved: now, ..Progress::default() };
        // The executor before this one may have asked for a change just now.
        Self {
            progress,
            seen: None,
            seen_split: None,
            seen_merge: None,
            seen_node: None,
            seen_members: None,
            asked: now,
            begun: None,
            back_in: None,
            next: now,
            pause: PACE,
        }
    }

    fn saw(&mut self, replica: MoveReplica, epoch: Epoch, seen: Seen, now: Duration) {
        let before = self.seen.replace((epoch, seen));
        if before == Some((epoch, seen)) {
            return;
        }
        if let Some((_, before)) = before
            && let Some(change) = change_between(replica, before, seen)
        {
            self.made(change);
        }
        self.moved(now);
    }

    /// A change was seen to be made.
    fn made(&mut self, change: MemberChange) {
        if self.progress.changes.len() == CHANGES {
            self.progress.changes.remove(0);
        }
        self.progress.changes.push(change);
    }

    fn moved(&mut self, now: Duration) {
        self.progress.moved = now;
        self.progress.trouble = None;
        self.pause = PACE;
        self.next = now + PACE;
    }
}

/// The change of a move's members that lies between two looks.
fn change_between(MoveReplica { from, to }: MoveReplica, before: Seen, after: Seen) -> Option<MemberChange> {
    let Some(to) = to else {
        return (before.from.is_some() && after.from.is_none()).then_some(MemberChange::Remove(from));
    };
    match (before.to, after.to) {
        (before, after) if before == after => None,
        (_, Some(MemberRole::Learner)) => Some(MemberChange::Learn(to)),
        (_, Some(MemberRole::Voter)) => {
            let gone = before.from == Some(MemberRole::Voter) && after.from != Some(MemberRole::Voter);
            Some(MemberChange::Promote { node: to, instead_of: gone.then_some(from) })
        }
        (_, None) => Some(MemberChange::Remove(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::JobGoal;
    use MemberRole::{Learner, Voter};

    const REPLICA: MoveReplica = MoveReplica { from: NodeId(3), to: Some(NodeId(4)) };

    fn jobs(states: &[(u64, JobState)]) -> BTreeMap<JobId, Job> {
        let job = |id, state: &JobState| {
            let goal = JobGoal::Move { shard: ShardId(id + 100), replica: REPLICA };
            (JobId(id), Job { goal, state: state.clone() })
        };
        states.iter().map(|(id, state)| job(*id, state)).collect()
    }

    fn look(epoch: u64, from: Option<MemberRole>, to: Option<MemberRole>, lag: Option<u64>) -> Look {
        Look { members: Some((Epoch(epoch), Seen { from, to, lag })), stranger: None }
    }

    fn ids(due: &[(JobId, &Job)]) -> Vec<u64> {
        due.iter().map(|(id, _)| id.0).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One after the other, each at the time given; what was decided.
    fn decided(state: &JobState, looks: &[(u64, Look)]) -> Vec<Option<Action>> {
        let jobs = jobs(&[(1, state.clone())]);
        let mut executor = Executor::default();
        looks.iter().map(|(at, look)| executor.decide(JobId(1), &jobs[&JobId(1)], *look, ms(*at))).collect()
    }

    fn change(expected: u64, change: MemberChange) -> Option<Action> {
        Some(Action::Change { job: JobId(1), shard: ShardId(101), expected: Epoch(expected), change })
    }

    fn finish(seen: u64, end: JobEnd) -> Option<Action> {
        Some(Action::Finish { job: JobId(1), seen: Epoch(seen), end })
    }

    #[test]
    fn each_change_names_the_epoch_it_was_decided_in_and_each_end_too() {
        let promote = MemberChange::Promote { node: NodeId(4), instead_of: Some(NodeId(3)) };
        let looks = [
            (0, look(1, Some(Voter), None, None)),
            (100, look(2, Some(Voter), Some(Learner), None)),
            (200, look(2, Some(Voter), Some(Learner), Some(5_000))),
            (300, look(2, Some(Voter), Some(Learner), Some(10))),
            (400, look(3, None, Some(Voter), None)),
        ];
        let learn = MemberChange::Learn(NodeId(4));
        let wanted = [change(1, learn), None, None, change(2, promote), finish(3, JobEnd::Done)];
        assert_eq!(decided(&JobState::Running, &looks), wanted);
        let mut executor = Executor::default();
        let jobs = jobs(&[(1, JobState::Running)]);
        for (at, look) in looks {
            executor.decide(JobId(1), &jobs[&JobId(1)], look, ms(at));
        }
        let progress = executor.progress(JobId(1)).unwrap();
        assert_eq!((&progress.changes[..], progress.moved), (&[learn, promote][..], ms(400)));
    }

    #[test]
    fn a_cancelled_move_ends_once_nothing_that_was_asked_for_can_come() {
        let remove = MemberChange::Remove(NodeId(4));
        let nothing = |epoch| look(epoch, Some(Voter), None, None);
        let looks = [(0, nothing(1)), (2_999, nothing(1)), (3_000, nothing(1))];
        assert_eq!(decided(&JobState::Cancelling, &looks), [None, None, finish(1, JobEnd::Cancelled)]);
        // Nobody who knows the later epoch asks for a step forward.
        let looks = [(0, look(2, Some(Voter), Some(Learner), Some(0))), (100, nothing(3))];
        assert_eq!(decided(&JobState::Cancelling, &looks), [change(2, remove), finish(3, JobEnd::Cancelled)]);
        // The executor before this one may have asked for a learner just now: it comes, and goes.
        let looks = [(0, look(1, Some(Voter), None, None)), (2_900, look(2, Some(Voter), Some(Learner), None))];
        assert_eq!(decided(&JobState::Cancelling, &looks), [None, change(2, remove)]);
        // Too late: the vote was given.
        assert_eq!(decided(&JobState::Cancelling, &[(0, look(3, None, Some(Voter), None))]), [finish(3, JobEnd::Done)]);
    }

    #[test]
    fn a_job_that_cannot_go_on_fails_and_says_why() {
        let failed = |why: &str| JobEnd::Failed(why.into());
        let dropped = Look { members: None, stranger: None };
        assert_eq!(decided(&JobState::Running, &[(0, dropped)]), [finish(0, failed("shard 101 was dropped"))]);
        assert_eq!(decided(&JobState::Cancelling, &[(0, dropped)]), [finish(0, JobEnd::Cancelled)]);
        let gone = Look { stranger: Some(NodeId(4)), ..look(1, Some(Voter), None, None) };
        let why = failed("node 4 was removed from the cluster");
        assert_eq!(decided(&JobState::Running, &[(0, gone)]), [finish(1, why)]);
        let both = look(4, Some(Voter), Some(Voter), None);
        let Some(Action::Finish { end: JobEnd::Overtaken(why), .. }) = &decided(&JobState::Running, &[(0, both)])[0]
        else {
            panic!("it goes on")
        };
        assert!(why.contains("another command gave node 4 a vote, node 3 keeps its own"), "{why}");
    }

    #[test]
    fn few_go_forward_at_a_time_and_one_that_stalls_makes_room() {
        let mut executor = Executor::default();
        let ended = JobState::Ended { end: JobEnd::Done, order: 1 };
        let mut states: Vec<(u64, JobState)> = (2..9).map(|id| (id, JobState::Running)).collect();
        states.extend([(1, ended), (9, JobState::Cancelling)]);
        let jobs = jobs(&states);
        assert_eq!(ids(&executor.due(&jobs, ms(0))), [2, 3, 4, 5, 9], "the way back waits for nobody");
        let waits = look(2, Some(Voter), Some(Learner), None);
        for id in 2..6 {
            executor.decide(JobId(id), &jobs[&JobId(id)], waits, ms(0));
        }
        assert_eq!(ids(&executor.due(&jobs, ms(50))), [9], "not again within the pause");
        assert_eq!(ids(&executor.due(&jobs, ms(100))), [2, 3, 4, 5, 9]);
        let late = STALLED + ms(1);
        // The third job makes progress. The others make none.
        executor.decide(JobId(4), &jobs[&JobId(4)], look(2, Some(Voter), Some(Learner), Some(9)), late);
        assert_eq!(ids(&executor.due(&jobs, late + PACE)), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn refusals_lengthen_the_pause_up_to_a_bound_and_progress_ends_that() {
        let mut executor = Executor::default();
        let jobs = jobs(&[(1, JobState::Running)]);
        let (id, job) = (JobId(1), &jobs[&JobId(1)]);
        let waits = look(1, Some(Voter), None, None);
        executor.decide(id, job, waits, ms(0));
        for wanted in [200, 400, 800, 1_600, 2_000, 2_000] {
            executor.answered(id, Some("it does not lead".into()), ms(0));
            assert!(executor.due(&jobs, ms(wanted - 1)).is_empty());
            assert_eq!(ids(&executor.due(&jobs, ms(wanted))), [1], "{wanted}");
        }
        assert_eq!(executor.progress(id).unwrap().trouble.as_deref(), Some("it does not lead"));
        executor.decide(id, job, look(2, Some(Voter), Some(Learner), None), ms(5_000));
        assert_eq!(executor.progress(id).unwrap().trouble, None);
        assert_eq!(ids(&executor.due(&jobs, ms(5_100))), [1]);
    }
}
