//! Two neighbours become one shard.
//!
//! Owns: the order of the steps: the members are alike, the leaders are on one node, the merge is begun, the map hears of it. Must never:
//! need to know what an executor before did, begin a merge that it has not seen to make sense, or end one that was begun: the leader of
//! the shard that stays drives it, and takes it back by itself where it does not come about.
//!
//! Every step names the versions and epochs that it was decided in, and counts where it is applied only in those. So two executors, or
//! one that is late, harm nothing.

use super::split::Bounds;
use crate::ids::{NodeId, ShardId};
use std::collections::BTreeSet;
use synod_paxos::types::{Epoch, MemberRole, Membership};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal<'a> {
    /// The shard that stays.
    pub target: ShardId,
    /// The shard that goes into it.
    pub source: ShardId,
    /// The position where the upper one of the two begins.
    pub border: &'a [u8],
}

/// A shard, as the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where it lies.
    pub bounds: Bounds,
    /// Its members.
    pub membership: Membership,
}

/// How far a merge is that a shard takes part in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It takes part in none.
    #[default]
    Open,
    /// Another shard is to go into it.
    Merging(ShardId),
    /// A merge with this shard was taken back, and the other shard is yet to go on.
    Cancelled(ShardId),
    /// It is to go into another shard, and answers nobody.
    Frozen(ShardId),
}

/// What a shard's leader says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Where it is.
    pub node: NodeId,
    /// The bounds that it has applied.
    pub bounds: Bounds,
    /// Its epoch.
    pub epoch: Epoch,
    /// How far a merge is.
    pub phase: Phase,
    /// Why it takes no merge on at the moment, if so.
    pub hindrance: Option<String>,
}

/// One of the two shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// As the map has it; `None` where it is not there.
    pub mapped: Option<Mapped>,
    /// What its leader says; `None` where nobody answers as such.
    pub leader: Option<Leader>,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The shard that stays.
    pub target: Side,
    /// The shard that goes.
    pub source: Side,
    /// The shard of the map within which the border lies, if it is no border any longer.
    pub holds_border: Option<ShardId>,
}

/// The bounds and members that a merge is begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The version of the shard that stays.
    pub version: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The shard that goes.
    pub source: ShardId,
    /// Its version.
    pub source_version: u64,
    /// Its epoch.
    pub source_epoch: Epoch,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the goal is reached, and the map knows.
    Done,
    /// The shard that goes is to be led where the one that stays is.
    Transfer {
        /// That node.
        to: NodeId,
    },
    /// The leader of the shard that stays is asked to begin.
    Begin(Begin),
    /// The leader of the shard that stays is asked to take back what was begun.
    Cancel,
    /// Nothing for now; says for what it waits.
    Wait(String),
    /// Nothing: something else happened to the shards, so that the goal makes no sense any longer; says what.
    Overtaken(String),
    /// Nothing: it is taken back, and nothing of it is left.
    Undone,
}

/// The next step towards `goal`.
#[must_use]
pub fn next(goal: Goal<'_>, seen: &Seen) -> Step {
    let Goal { target, source, .. } = goal;
    let (at_target, at_source) = match sides(goal, seen) {
        Ok(sides) => sides,
        Err(step) => return step,
    };
    if let Some(why) = differ(goal, at_target, at_source) {
        return Step::Wait(why);
    }
    let Some(leader) = &seen.target.leader else { return silent(target) };
    match leader.phase {
        Phase::Merging(other) if other == source => {
            return Step::Wait(format!("shard {source} is about to go into shard {target}"));
        }
        Phase::Cancelled(other) if other == source => {
            return Step::Wait(format!("the merge was taken back, and shard {source} is yet to go on"));
        }
        Phase::Merging(_) | Phase::Cancelled(_) | Phase::Frozen(_) => return busy(target),
        Phase::Open => {}
    }
    let Some(of_source) = &seen.source.leader else { return silent(source) };
    if of_source.phase != Phase::Open {
        return busy(source);
    }
    for (shard, known, leads) in [(target, at_target, leader), (source, at_source, of_source)] {
        let (known, has) = (known.bounds.version, leads.bounds.version);
        if known != has {
            return Step::Wait(format!("the leader of shard {shard} is at version {has}, the map at {known}"));
        }
        if let Some(why) = &leads.hindrance {
            return Step::Wait(format!("shard {shard}: {why}"));
        }
    }
    if of_source.node != leader.node {
        return Step::Transfer { to: leader.node };
    }
    Step::Begin(Begin {
        version: at_target.bounds.version,
        epoch: leader.epoch,
        source,
        source_version: at_source.bounds.version,
        source_epoch: of_source.epoch,
    })
}

/// The next step of a merge that is cancelled. What was absorbed already stays so.
#[must_use]
pub fn back(goal: Goal<'_>, seen: &Seen) -> Step {
    let Goal { target, source, .. } = goal;
    match sides(goal, seen) {
        Err(Step::Done) => return Step::Done,
        // Nothing is left that could be taken back.
        Err(Step::Overtaken(_)) => return Step::Undone,
        Err(step) => return step,
        Ok(_) => {}
    }
    let Some(leader) = &seen.target.leader else { return silent(target) };
    match leader.phase {
        Phase::Merging(other) if other == source => Step::Cancel,
        Phase::Cancelled(other) if other == source => {
            Step::Wait(format!("the merge is taken back, and shard {source} is yet to go on"))
        }
        _ => Step::Undone,
    }
}

/// Both shards, as the map has them, where they are still neighbours at the border.
fn sides<'a>(goal: Goal<'_>, seen: &'a Seen) -> Result<(&'a Mapped, &'a Mapped), Step> {
    let Goal { target, source, border } = goal;
    if seen.holds_border == Some(target) {
        return Err(Step::Done);
    }
    let overtaken = |why| Err(Step::Overtaken(why));
    if let Some(other) = seen.holds_border {
        return overtaken(format!("the border of shards {target} and {source} lies within shard {other} now"));
    }
    let gone = |shard| format!("shard {shard} was dropped, or went into another shard");
    let Some(at_target) = &seen.target.mapped else { return overtaken(gone(target)) };
    let Some(at_source) = &seen.source.mapped else { return overtaken(gone(source)) };
    if !are_neighbours(&at_target.bounds, &at_source.bounds, border) {
        return overtaken(format!("shards {target} and {source} are no neighbours any longer"));
    }
    Ok((at_target, at_source))
}

/// Whether two shards of one table meet at `border`.
#[must_use]
pub fn are_neighbours(one: &Bounds, other: &Bounds, border: &[u8]) -> bool {
    let meet = |low: &Bounds, high: &Bounds| !border.is_empty() && low.to[..] == *border && high.from[..] == *border;
    meet(one, other) || meet(other, one)
}

/// What the members of the two have not alike, and what makes it so.
#[must_use]
pub fn differ(goal: Goal<'_>, target: &Mapped, source: &Mapped) -> Option<String> {
    let Goal { target: kept, source: goes, .. } = goal;
    for (shard, at) in [(kept, target), (goes, source)] {
        if let Some(learner) = at.membership.members.iter().find(|m| m.role == MemberRole::Learner) {
            return Some(format!("node {} learns the log of shard {shard}", learner.node));
        }
    }
    let voters = |at: &Mapped| at.membership.voters().collect::<BTreeSet<NodeId>>();
    let (wanted, has) = (voters(target), voters(source));
    if wanted.len() != has.len() {
        return Some(format!(
            "shard {kept} has {} voters, shard {goes} {}: they must be as many",
            wanted.len(),
            has.len()
        ));
    }
    let (from, to) = (has.difference(&wanted).next()?, wanted.difference(&has).next()?);
    Some(format!(
        "shard {goes} has a replica on node {from} and shard {kept} has none there: move it first (`synod shard move {goes} \
         --from {from} --to {to}`)"
    ))
}

fn silent(shard: ShardId) -> Step {
    Step::Wait(format!("nobody answers as the leader of shard {shard}"))
}

fn busy(shard: ShardId) -> Step {
    Step::Wait(format!("shard {shard} takes part in another merge"))
}

#[cfg(test)]
mod tests;
