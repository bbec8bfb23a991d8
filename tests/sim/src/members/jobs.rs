//! Jobs: moves and splits that the cluster carries out by itself, at the node where the system shard is led.
//!
//! Owns: the operator who begins and cancels some, an executor for each process that leads, and what must hold of jobs in every map. Must
//! never: decide a step: `synod_cluster::jobs` does, as in the server.
//!
//! A change may be late by seconds, so that one of an executor that was succeeded meanwhile arrives too.

use crate::clients::Kind;
use crate::clock::WALL_US;
use crate::dice::Dice;
use crate::node::SimNode;
use crate::setup::ADMIN;
use crate::violation::{Checked, check};
use crate::world::{Event, Phase, World};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::ids::{ClusterVersion, JobId, NodeId, SYSTEM_SHARD};
use synod_cluster::jobs::executor::Action;
use synod_cluster::jobs::job::{Job, JobEnd, JobGoal, JobState};
use synod_cluster::jobs::move_replica::MoveReplica;
use synod_cluster::members::MemberChange;
use synod_cluster::system::{SystemCommand, SystemState};
use synod_engine::command::{Op, WriteRequest};
use synod_engine::host::SplitWanted;
use synod_paxos::types::MemberRole;

/// Pause between two turns of the executors, µs.
const BEAT: (u64, u64) = (80_000, 300_000);
/// A change is on its way for so long, and one in twenty for so long, µs.
const PROMPT: (u64, u64) = (0, 40_000);
const LATE: (u64, u64) = (1_000_000, 6_000_000);
/// How long a command about jobs is tried, µs.
const PATIENCE: u64 = 4_000_000;
/// Jobs that the operator has run at a time.
const RUNNING: usize = 3;

/// A map as other nodes get it: without jobs.
pub(crate) fn without_jobs(map: &SystemState) -> Arc<SystemState> {
    Arc::new(SystemState { jobs: BTreeMap::new(), last_job: JobId(0), ..map.clone() })
}

impl World {
    pub(crate) fn running_jobs(&self) -> Vec<(JobId, Job)> {
        let jobs = self.map.iter().flat_map(|map| &map.jobs);
        jobs.filter(|(_, job)| job.end().is_none()).map(|(id, job)| (*id, job.clone())).collect()
    }

    /// Whether no job runs, or may begin.
    pub(crate) fn jobs_ended(&mut self) -> bool {
        let ops = &self.ops;
        self.jobs.ops.retain(|(_, op)| ops.get(op).is_some_and(|op| !op.done));
        self.jobs.ops.is_empty() && self.running_jobs().is_empty()
    }

    /// The operator looks at the jobs, and every executor takes a turn.
    pub(crate) fn look_at_jobs(&mut self) -> Checked {
        self.operate_jobs();
        let leads =
            |n: &SimNode| n.up.as_ref().is_some_and(|up| !up.paused && up.taps.lock().leads.contains(&SYSTEM_SHARD));
        let leaders: BTreeSet<(NodeId, u64)> =
            self.which(leads).into_iter().map(|node| (node, self.nodes[&node].process)).collect();
        // Who leads no longer forgets what it had begun.
        self.jobs.executors.retain(|carrier, _| leaders.contains(carrier));
        for carrier in leaders {
            self.turn(carrier)?;
        }
        // To the end: a command of unknown outcome may begin a job long after its client has given up.
        let pause = self.jobs.dice.between(BEAT);
        self.at(self.now + pause, Event::Jobs);
        Ok(())
    }

    fn turn(&mut self, carrier: (NodeId, u64)) -> Checked {
        let Some((_, state)) = self.jobs.known.get(&carrier.0).filter(|(process, _)| *process == carrier.1) else {
            return Ok(());
        };
        let (state, now) = (Arc::clone(state), Duration::from_micros(self.now));
        let mut executor = self.jobs.executors.remove(&carrier).unwrap_or_default();
        for (id, job) in executor.due(&state.jobs, now) {
            if self.jobs.carriers.insert(id, carrier).is_some_and(|before| before != carrier) {
                self.coverage.count("jobs", "taken over by another executor");
            }
            let action = if let Some(goal) = job.goal.as_split() {
                let look = self.look_at_split(&state, goal);
                executor.decide_split(id, job, &look, now)
            } else {
                let Some(mut look) = state.look_at(&job.goal) else { continue };
                if let Some((_, seen)) = &mut look.members {
                    // What a learner lacks is known or not; one that is taken for caught up is asked for until its leader agrees.
                    seen.lag = self.jobs.dice.chance(600).then_some(0);
                }
                executor.decide(id, job, look, now)
            };
            if let Some(action) = action {
                self.do_for_job(job, action)?;
            }
        }
        self.jobs.executors.insert(carrier, executor);
        Ok(())
    }

    fn do_for_job(&mut self, job: &Job, action: Action) -> Checked {
        match action {
            Action::Change { job: id, shard, expected, change } => {
                let forward = matches!(change, MemberChange::Learn(_) | MemberChange::Promote { .. });
                let cancelled = job.state == JobState::Cancelling;
                check(!(forward && cancelled), "a job that is cancelled takes no step forward", || {
                    format!("job {id}: {change:?}")
                })?;
                let late = self.jobs.dice.chance(50);
                self.coverage.count("jobs", if late { "change asked for late" } else { "change asked for" });
                let delay = self.jobs.dice.between(if late { LATE } else { PROMPT });
                self.at(self.now + delay, Event::Propose { shard, expected, change });
            }
            Action::Reserve { job, parent, version } => {
                if !self.is_told(job) {
                    self.tell_of_job(Some(job), &SystemCommand::ReserveChild { parent, version });
                }
            }
            Action::Split { job: id, shard, version, epoch, child, at } => {
                check(job.state != JobState::Cancelling, "a job that is cancelled takes no step forward", || {
                    format!("job {id}: a split of shard {shard}")
                })?;
                let (delay, late) = self.splits.way();
                self.coverage.count("splits", if late { "asked for by a job late" } else { "asked for by a job" });
                let wanted = SplitWanted { version, epoch, child, at };
                self.at(self.now + delay, Event::Split { shard, wanted });
            }
            // No goal of the simulation is a merge.
            Action::Transfer { .. } | Action::Merge { .. } | Action::CancelMerge { .. } => {}
            Action::Begin { job, leaving } => {
                if !self.is_told(job) {
                    self.tell_of_job(Some(job), &SystemCommand::BeginMove { job, leaving });
                }
            }
            Action::Finish { job, seen, end } => {
                if !self.is_told(job) {
                    self.tell_of_job(Some(job), &SystemCommand::FinishJob { job, seen, end });
                }
            }
        }
        Ok(())
    }

    /// Whether a command about a job is under way.
    fn is_told(&self, job: JobId) -> bool {
        let mut ops = self.jobs.ops.iter().filter(|(of, _)| *of == Some(job));
        ops.any(|(_, op)| self.ops.get(op).is_some_and(|op| !op.done))
    }

    pub(crate) fn tell_of_job(&mut self, job: Option<JobId>, command: &SystemCommand) {
        let deadline = self.now + PATIENCE;
        let id = self.clients[ADMIN].name(WALL_US + deadline);
        let request = WriteRequest { id, op: Op::System(command.encode()) };
        let voters = self.system_voters();
        let op = self.begin(ADMIN, Kind::Write(request), SYSTEM_SHARD, None, voters, deadline);
        self.jobs.ops.insert((job, op));
    }

    /// Begins a job now and then, and cancels one; in the calm only those that nobody can end otherwise.
    fn operate_jobs(&mut self) {
        let Some(map) = self.map.clone().filter(|map| map.version >= ClusterVersion::THIRD) else { return };
        let running = self.running_jobs();
        let storm = self.phase == Phase::Storm;
        if storm && running.len() < RUNNING && self.jobs.dice.chance(150) {
            let mut dice = std::mem::replace(&mut self.jobs.dice, Dice::new(0));
            let chosen = self.choose_move(&map, &mut dice);
            self.jobs.dice = dice;
            if let Some((shard, from, to, _)) = chosen {
                let replica = MoveReplica { from, to: Some(to) };
                self.tell_of_job(None, &SystemCommand::StartJob { goal: JobGoal::Move { shard, replica } });
            }
        }
        for (id, job) in running {
            let cancels = match job.goal.as_move() {
                Some((_, replica)) => {
                    let lost = replica.to.is_some_and(|to| self.nodes[&to].out.is_some() || self.nodes[&to].damaged);
                    lost || (storm && self.jobs.dice.chance(15))
                }
                // In the calm none is left to wait for members that nobody completes.
                None => self.jobs.dice.chance(if storm { 15 } else { 100 }),
            };
            if cancels && job.state == JobState::Running && !self.is_told(id) {
                self.tell_of_job(Some(id), &SystemCommand::CancelJob { job: id });
            }
        }
    }

    /// What must hold of the jobs of a newer map.
    pub(crate) fn check_jobs(&mut self, before: Option<&SystemState>, map: &SystemState) -> Checked {
        let mut shards = BTreeSet::new();
        for (id, job) in &map.jobs {
            let once = job.end().is_some() || job.goal.shard().is_none_or(|shard| shards.insert(shard));
            check(once, "one job at a time changes the members of a shard", || format!("job {id}: {job:?}"))?;
            let Some(before) = before else { continue };
            let was = before.jobs.get(id);
            if was.is_none() {
                self.coverage.count("jobs", "begun");
                check(*id > before.last_job, "no number of a job is given twice", || {
                    format!("{id} after {}", before.last_job)
                })?;
            }
            let ended = job.end().filter(|_| was.is_none_or(|was| was.end().is_none()));
            let Some(end) = ended else { continue };
            self.coverage.count("jobs", end.word());
            self.trace.note(self.now, "job ended", &[id.0], || format!("job {id}: {end:?}"));
            if let Some(split) = job.goal.as_split().filter(|_| *end == JobEnd::Done) {
                let made = map.look_at_split(split).made.is_some() || !map.shards.contains_key(&split.shard);
                check(made, "a split that is done has its child in the map", || format!("job {id} of {:?}", job.goal))?;
            }
            let Some((shard, MoveReplica { from, to })) = job.goal.as_move() else { continue };
            let (Some(old), Some(new)) = (before.shards.get(&shard), map.shards.get(&shard)) else { continue };
            let votes = |node| new.membership.role_of(node) == Some(MemberRole::Voter);
            // A later epoch may be another job's.
            if *end == JobEnd::Done && old.membership.epoch == new.membership.epoch {
                let moved = to.is_none_or(votes) && !votes(from);
                check(moved, "a move that is done has moved the vote", || {
                    format!("job {id} of {:?}: {:?}", job.goal, new.membership)
                })?;
            }
        }
        Ok(())
    }
}
