//! Tables whose replicas change in number.
//!
//! Owns: the number that a table asks for, the jobs that begin with it, and what such a job sees of its shard. Must never: change members,
//! or choose a node: the planner does.

use super::codec::encode_table;
use super::nodes::Room;
use super::place::Load;
use super::{JOBS, JOBS_RUNNING_MAX, ROW_TABLE, RowChange, SystemOutcome, SystemState};
use crate::ids::{NodeId, SYSTEM_SHARD, ShardId};
use crate::jobs::job::{JobGoal, JobState};
use crate::jobs::resize_shard::{Choice, ResizeShard, Seen, learner};
use crate::planner::{Lacks, Picture, comes, goes};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use synod_paxos::types::{Member, MemberRole};

/// A voter that would come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// The shard.
    pub shard: ShardId,
    /// Which.
    pub choice: Choice,
}

/// What a table's new number of replicas would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resizes {
    /// The voters that come and go, those of one shard in their order.
    pub changes: Vec<Resized>,
    /// Why others cannot.
    pub refused: Vec<String>,
}

fn invalid(field: &str, why: impl Into<String>) -> SystemOutcome {
    SystemOutcome::Invalid { field: field.into(), why: why.into() }
}

impl SystemState {
    /// The table asks for `replicas`; a job begins for each shard that has more or fewer. The same number again begins those that are
    /// missing.
    pub(super) fn alter_table(&mut self, name: &str, replicas: u32, rows: &mut Vec<RowChange>) -> SystemOutcome {
        if let Err(refused) = self.knows_resizes() {
            return refused;
        }
        let Some((id, table)) = self.table(name) else { return SystemOutcome::TableNotFound(name.into()) };
        let mut table = table.clone();
        if let Err(refused) = self.check_replicas(replicas, Load::of(self).nodes()) {
            return refused;
        }
        let mut goals = Vec::new();
        for descriptor in self.shards.values().filter(|d| d.table == id) {
            let goal = JobGoal::Resize(ResizeShard { shard: descriptor.shard, voters: replicas });
            match self.rival(&goal) {
                Some((_, job)) if job.goal == goal && job.state == JobState::Running => {}
                Some((job, running)) => {
                    let why = format!("it {}: wait for it (`synod job watch {job}`) or cancel it", running.goal);
                    return SystemOutcome::JobConflict { job, why };
                }
                None if descriptor.membership.voters().count() == replicas as usize => {}
                None => goals.push(goal),
            }
        }
        let free = JOBS_RUNNING_MAX.saturating_sub(self.running().count());
        if goals.len() > free {
            let why = format!(
                "{} shards change, and {free} further jobs may run: wait until some have ended ({JOBS_RUNNING_MAX} at most)",
                goals.len()
            );
            return invalid(JOBS, why);
        }
        if table.replicas != replicas {
            table.replicas = replicas;
            rows.push((ROW_TABLE, id.0.into(), Some(encode_table(&table))));
            self.tables.insert(id, table);
        }
        for goal in goals {
            // Nothing refuses it that was not looked at above.
            let _ = self.start_job(&goal, rows);
        }
        SystemOutcome::Table(id)
    }

    /// Refuses a job that makes no sense by what the shard's table asks for.
    pub(super) fn check_resize(&self, ResizeShard { shard, voters }: ResizeShard) -> Result<(), SystemOutcome> {
        if shard == SYSTEM_SHARD {
            return Err(invalid("shard", "the replicas of the system shard move, and are as many as they are"));
        }
        let Some(descriptor) = self.shards.get(&shard) else {
            return Err(invalid("shard", format!("there is no shard {shard}")));
        };
        let asked = self.tables.get(&descriptor.table).map_or(0, |table| table.replicas);
        if asked == voters {
            return Ok(());
        }
        let why = format!(
            "the table of shard {shard} asks for {asked} replicas, not {voters}: `synod table alter` changes that"
        );
        Err(invalid("voters", why))
    }

    /// Whether the next step of such a job depends on the planner's choice.
    #[must_use]
    pub fn chooses(&self, ResizeShard { shard, voters }: ResizeShard) -> bool {
        self.shards
            .get(&shard)
            .is_some_and(|d| learner(&d.membership).is_none() && d.membership.voters().count() != voters as usize)
    }

    /// What is seen of shards whose voters change in number; what a learner lacks is not. `heard` has the nodes that are alive, `leaders`
    /// who leads what, as far as that is known; a choice for one shard reckons with those before it.
    #[must_use]
    pub fn look_at_resizes(
        &self,
        goals: &[ResizeShard],
        heard: &BTreeMap<NodeId, Room>,
        leaders: &BTreeMap<ShardId, NodeId>,
    ) -> Vec<Option<Seen>> {
        let mut picture: Option<Picture> = None;
        let look = |goal: &ResizeShard| {
            let membership = self.shards.get(&goal.shard)?.membership.clone();
            let unfit = learner(&membership).is_some_and(|node| !self.takes(node));
            let mut seen = Seen { membership, lag: None, unfit, choice: None, trouble: None };
            if self.chooses(*goal) {
                let picture = picture.get_or_insert_with(|| self.picture_to_resize(heard, leaders));
                match choose(picture, *goal) {
                    Ok(choice) => seen.choice = choice,
                    Err(why) => seen.trouble = Some(why),
                }
            }
            Some(seen)
        };
        goals.iter().map(look).collect()
    }

    /// What would come and go if a table asked for so many replicas now.
    ///
    /// # Errors
    /// The command would be refused.
    pub fn plan_alter(
        &self,
        name: &str,
        replicas: u32,
        heard: &BTreeMap<NodeId, Room>,
        leaders: &BTreeMap<ShardId, NodeId>,
    ) -> Result<Resizes, SystemOutcome> {
        let mut after = self.clone();
        let id = match after.alter_table(name, replicas, &mut Vec::new()) {
            SystemOutcome::Table(id) => id,
            refused => return Err(refused),
        };
        let mut picture = self.picture_to_resize(heard, leaders);
        let mut plan = Resizes::default();
        for descriptor in self.shards.values().filter(|d| d.table == id) {
            let goal = ResizeShard { shard: descriptor.shard, voters: replicas };
            loop {
                match choose(&mut picture, goal) {
                    Ok(Some(choice)) => plan.changes.push(Resized { shard: goal.shard, choice }),
                    Ok(None) => break,
                    Err(why) => {
                        plan.refused.push(why);
                        break;
                    }
                }
            }
        }
        Ok(plan)
    }

    /// The cluster as the planner sees it, in which who learns counts as a voter of its node.
    fn picture_to_resize(&self, heard: &BTreeMap<NodeId, Room>, leaders: &BTreeMap<ShardId, NodeId>) -> Picture {
        let mut picture = self.picture(heard);
        for (shard, view) in &mut picture.shards {
            view.leader = leaders.get(shard).copied();
            view.membership.members.iter_mut().for_each(|member| member.role = MemberRole::Voter);
        }
        picture
    }
}

/// The voter that comes or goes next, which the picture has then.
fn choose(picture: &mut Picture, ResizeShard { shard, voters }: ResizeShard) -> Result<Option<Choice>, String> {
    let has = picture.shards.get(&shard).map_or(0, |view| view.membership.voters().count());
    let choice = match has.cmp(&(voters as usize)) {
        Ordering::Equal => return Ok(None),
        Ordering::Less => {
            let refused = |lacks: Lacks| {
                format!("no node can take a further replica of shard {shard}: {lacks}; add a node, or free one")
            };
            Choice::Comes(comes(picture, shard).map_err(refused)?)
        }
        Ordering::Greater => {
            let refused =
                || format!("shard {shard} would have no live majority without one of its voters: start its dead nodes");
            Choice::Goes(goes(picture, shard).ok_or_else(refused)?)
        }
    };
    if let Some(view) = picture.shards.get_mut(&shard) {
        let members = &mut view.membership.members;
        match choice {
            Choice::Comes(node) => members.push(Member { node, role: MemberRole::Voter }),
            Choice::Goes(gone) => members.retain(|member| member.node != gone),
        }
        members.sort_unstable();
    }
    Ok(Some(choice))
}

#[cfg(test)]
mod tests;
