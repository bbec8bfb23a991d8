//! A node is decommissioned while executors die and are late, and an operator pauses, cancels and begins anew.

use super::*;
use crate::jobs::executor::{Action, Executor};
use crate::members::MemberChange;

const NODE: u64 = 3;

struct Story {
    random: u64,
    state: SystemState,
    executor: Executor,
    now: Duration,
    /// What executors asked for, and is on its way; some of it twice.
    late: Vec<Action>,
}

impl Story {
    fn begin(seed: u64) -> Self {
        let mut state = state();
        let speaks = ClusterVersion::FOURTH;
        state.execute(&SystemCommand::AddNode { addr: "127.0.0.1:7405".into(), nonce: 5, speaks });
        assert_eq!(execute(&mut state, &create("u", 6, 3)), SystemOutcome::Table(TableId(2)));
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { random, state, executor: Executor::default(), now: Duration::ZERO, late: Vec::new() }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % n as u64).unwrap()
    }

    /// The executor looks at what is due. What it asks for may arrive long after it has died.
    fn turn(&mut self) {
        let all = heard(&[1, 2, 3, 4, 5]);
        for (id, job) in self.executor.due(&self.state.jobs, self.now) {
            let action = match job.goal.as_empty() {
                Some(goal) => {
                    let seen = self.state.look_at_empty(goal, &all);
                    self.executor.decide_empty(id, job, &seen, self.now)
                }
                None => {
                    let mut look = self.state.look_at(&job.goal).unwrap();
                    if let Some((_, seen)) = &mut look.members {
                        seen.lag = Some(0);
                    }
                    self.executor.decide(id, job, look, self.now)
                }
            };
            self.late.extend(action);
        }
    }

    /// Something that was asked for arrives, and now and then once more later.
    fn arrives(&mut self, at: usize) {
        let action = self.late[at].clone();
        if self.below(8) > 0 {
            self.late.remove(at);
        }
        let (job, refused) = match action {
            Action::Change { job, shard, expected, change } => (job, self.change(shard, expected, change)),
            Action::Begin { job, leaving } => (job, self.begin_move(job, leaving)),
            Action::Finish { job, seen, end } => {
                let outcome = execute(&mut self.state, &SystemCommand::FinishJob { job, seen, end });
                (job, outcome != SystemOutcome::Done)
            }
            other => panic!("nothing asks for {other:?}"),
        };
        self.executor.answered(job, refused.then(|| "refused".to_owned()), self.now);
    }

    /// A shard's leader takes the change on, in the epoch that it names.
    fn change(&mut self, shard: ShardId, expected: Epoch, change: MemberChange) -> bool {
        let membership = self.state.shards[&shard].membership.clone();
        if membership.epoch != expected {
            return true;
        }
        let mut members = membership.members;
        match change {
            MemberChange::Learn(node) => members.push(Member { node, role: MemberRole::Learner }),
            MemberChange::Promote { node, instead_of } => {
                members.retain(|member| Some(member.node) != instead_of);
                let promoted = members.iter_mut().filter(|member| member.node == node);
                promoted.for_each(|member| member.role = MemberRole::Voter);
            }
            MemberChange::Remove(node) => members.retain(|member| member.node != node),
        }
        members.sort_unstable();
        let first_leader = members.iter().find(|member| member.role == MemberRole::Voter).unwrap().node;
        let membership = Membership { epoch: membership.epoch.next(), members, first_leader };
        done(&mut self.state, &SystemCommand::SetMembers { shard, membership });
        false
    }

    fn begin_move(&mut self, job: JobId, leaving: Leaving) -> bool {
        let before = self.state.clone();
        let outcome = execute(&mut self.state, &SystemCommand::BeginMove { job, leaving });
        let SystemOutcome::Job(begun) = outcome else { return true };
        let owner = &before.jobs[&job];
        assert_eq!(owner.word(), "running", "a move began for a job that does not run");
        let at_once = owner.goal.as_empty().unwrap().at_once;
        assert!(self.state.moving(NodeId(NODE)) <= at_once, "more moves than the job may have");
        let (shard, replica) = self.state.jobs[&begun].goal.as_move().unwrap();
        assert!(shard == leaving.shard && replica.from == NodeId(NODE) && replica.to == leaving.to);
        false
    }

    fn operator(&mut self) {
        let running: Vec<JobId> = self.state.running().map(|(id, _)| *id).collect();
        let command = match (running.is_empty(), self.below(6)) {
            (true, _) | (_, 0) => start(EmptyNode { at_once: 2, ..empty(NODE, true) }),
            (_, 1) => recommission(NODE),
            (_, what) => {
                let job = running[self.below(running.len())].0;
                match what {
                    2 => cancel(job),
                    3 => pause(job, true),
                    _ => pause(job, false),
                }
            }
        };
        execute(&mut self.state, &command);
    }

    /// A learner that a late change left behind goes, as an operator would have it.
    fn sweep(&mut self) {
        let learners = self.state.shards.values().flat_map(|descriptor| {
            let members = descriptor.membership.members.iter();
            members
                .filter(|member| member.role == MemberRole::Learner)
                .map(move |member| (descriptor.shard, member.node))
        });
        for (shard, from) in learners.collect::<Vec<_>>() {
            // Where a job needs it, that job is in the way.
            let goal = JobGoal::Move { shard, replica: MoveReplica { from, to: None } };
            execute(&mut self.state, &SystemCommand::StartJob { goal });
        }
    }

    fn check(&self) {
        for descriptor in self.state.shards.values() {
            assert_eq!(descriptor.membership.voters().count(), 3, "{descriptor:?}");
        }
        let goals: Vec<&JobGoal> = self.state.running().map(|(_, job)| &job.goal).collect();
        let shards: BTreeSet<ShardId> = goals.iter().filter_map(|goal| goal.shard()).collect();
        let empties = goals.iter().filter(|goal| goal.as_empty().is_some()).count();
        assert!(empties <= 1 && shards.len() + empties == goals.len(), "one job a shard, and one a node: {goals:?}");
        match mark(&self.state, NODE) {
            Some(mark) => {
                assert_eq!(mark == Mark::Decommissioning, empties == 1, "the mark comes and goes with the job")
            }
            None => assert!(self.state.held(NodeId(NODE)).next().is_none(), "it went while it had replicas"),
        }
    }

    fn step(&mut self, storm: bool) {
        let pause = Duration::from_millis(50 + self.below(200) as u64);
        self.now += pause;
        match self.below(if storm { 10 } else { 6 }) {
            0..=2 => self.turn(),
            3..=5 if storm && !self.late.is_empty() => {
                let at = self.below(self.late.len());
                self.arrives(at);
            }
            3..=5 => {
                while !storm && !self.late.is_empty() {
                    self.arrives(0);
                }
            }
            6 => self.executor = Executor::default(),
            7 => self.operator(),
            _ => {}
        }
        self.check();
    }
}

/// Whatever happens in between, in the end the node is empty and gone, and each shard has as many voters as before.
#[test]
fn a_node_is_emptied_whoever_dies_and_is_late() {
    let mut cancelled = 0;
    for seed in 1..=40 {
        let mut story = Story::begin(seed);
        (0..300).for_each(|_| story.step(true));
        let emptied = |job: &&Job| job.goal.as_empty().is_some() && job.word() == "cancelled";
        cancelled += story.state.jobs.values().filter(emptied).count();
        // What is on its way is lost; whoever looks next asks again.
        story.late.clear();
        for id in story.state.jobs.keys().copied().collect::<Vec<_>>() {
            execute(&mut story.state, &pause(id.0, false));
        }
        // One that runs is the same job; if the node is gone by now, it stays so.
        execute(&mut story.state, &start(EmptyNode { at_once: 2, ..empty(NODE, true) }));
        let mut steps = 0;
        while story.state.running().next().is_some() {
            story.sweep();
            story.step(false);
            steps += 1;
            assert!(steps < 20_000, "seed {seed} does not end: {:?}", story.state.jobs);
        }
        assert_eq!(mark(&story.state, NODE), None, "seed {seed}");
    }
    assert!(cancelled > 10, "the operator cancelled {cancelled} only");
}
