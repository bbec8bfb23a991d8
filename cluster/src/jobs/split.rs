//! A shard is split.
//!
//! Owns: the order of the steps: an id is reserved for the child, the parent's leader proposes the split, the map hears of it. Must never:
//! need to know what an executor before did, or propose a split that it has not seen to make sense.
//!
//! Every step names the version that it was decided in. The system shard refuses to reserve an id for another version than it knows, and
//! the split counts where it is applied only if the parent still has the version and the epoch that it names. So two executors, or one
//! that is late, harm nothing: the id is the same until it is used, and the second split is a no-op.

use crate::ids::ShardId;
use crate::position;
use bytes::Bytes;
use synod_paxos::types::Epoch;

/// The middle of a hash table's bounds, 8 bytes each; `None` where nothing lies between them.
#[must_use]
pub fn middle_of_ring(from: &[u8], to: &[u8]) -> Option<Bytes> {
    let bound = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).ok().map(u64::from_be_bytes).map(u128::from);
    let from = if from.is_empty() { 0 } else { bound(from)? };
    let to = if to.is_empty() { 1 << 64 } else { bound(to)? };
    let middle = u64::try_from((from + to) / 2).ok()?;
    (u128::from(middle) > from).then(|| Bytes::copy_from_slice(&middle.to_be_bytes()))
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal<'a> {
    /// The shard that is to be split.
    pub shard: ShardId,
    /// Its version when that was asked for.
    pub version: u64,
    /// Where the child is to begin; `None`: where its leader finds the middle of what it has.
    pub at: Option<&'a Bytes>,
}

/// Where a shard lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Its lower bound, inclusive.
    pub from: Bytes,
    /// Its upper bound, exclusive; empty: none.
    pub to: Bytes,
    /// Of these bounds.
    pub version: u64,
}

impl Bounds {
    /// Whether a shard can be split there: something is left on both sides.
    #[must_use]
    pub fn divides(&self, at: &[u8]) -> bool {
        position::divides(at, &self.from, &self.to)
    }
}

/// An id that is reserved for a child of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The id.
    pub id: ShardId,
    /// The shard's version when it was asked for last.
    pub version: u64,
}

/// What the shard's leader says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The bounds that it has applied.
    pub bounds: Bounds,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where it would split the shard; `None` where nothing that it has can be divided.
    pub middle: Option<Bytes>,
    /// Why it takes no split on at the moment, if so: another change is under way, a member waits for a snapshot.
    pub hindrance: Option<String>,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The shard, as the map has it; `None` where it is not there.
    pub mapped: Option<Bounds>,
    /// The shard of the map that the goal asks for: it begins where the child is to begin. Where that is left open, the shard's child by
    /// the split of the version that the goal names.
    pub made: Option<ShardId>,
    /// The id that the map has reserved.
    pub reserved: Option<Unused>,
    /// What the leader says; `None` where nobody answers as such.
    pub leader: Option<Leader>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the goal is reached, and the map knows.
    Done,
    /// The system shard is asked for an id.
    Reserve {
        /// The shard's version.
        version: u64,
    },
    /// The shard's leader is asked to propose the split.
    Propose {
        /// The id of the child.
        child: ShardId,
        /// Where it begins.
        at: Bytes,
        /// The shard's version.
        version: u64,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Nothing for now; says for what it waits.
    Wait(String),
    /// Nothing: something else happened to the shard, so that the goal makes no sense any longer; says what.
    Overtaken(String),
}

/// The next step towards `goal`.
#[must_use]
pub fn next(goal: Goal<'_>, seen: &Seen) -> Step {
    let Goal { shard, at, .. } = goal;
    if seen.made.is_some() {
        return Step::Done;
    }
    let Some(mapped) = &seen.mapped else {
        return Step::Overtaken(format!("shard {shard} was dropped, or went into another shard"));
    };
    if let Some(why) = overtaken(goal, mapped) {
        return Step::Overtaken(why);
    }
    let Some(leader) = &seen.leader else {
        return Step::Wait(format!("nobody answers as the leader of shard {shard}"));
    };
    let (known, has) = (mapped.version, leader.bounds.version);
    if has > known {
        return Step::Wait(format!("shard {shard} is at version {has}, the map is yet to hear of it"));
    }
    if has < known {
        return Step::Wait(format!(
            "who answers as the leader of shard {shard} is at version {has}, the map at {known}"
        ));
    }
    if let Some(why) = &leader.hindrance {
        return Step::Wait(why.clone());
    }
    let Some(at) = at.or(leader.middle.as_ref()).filter(|at| mapped.divides(at)) else {
        return Step::Wait(format!("shard {shard} has nothing that can be divided"));
    };
    match seen.reserved {
        Some(Unused { id: child, version }) if version == known => {
            Step::Propose { child, at: at.clone(), version, epoch: leader.epoch }
        }
        _ => Step::Reserve { version: known },
    }
}

/// What happened to the shard since the split was asked for, where that leaves nothing to be done.
fn overtaken(Goal { shard, version, at }: Goal<'_>, mapped: &Bounds) -> Option<String> {
    let now = mapped.version;
    match at {
        // Of another split something is left to do, as long as the position is the shard's.
        Some(at) => {
            let elsewhere = || format!("the position is no longer within shard {shard}, which is at version {now}");
            (!mapped.divides(at)).then(elsewhere)
        }
        None => (now != version).then(|| {
            format!(
                "the bounds of shard {shard} were changed otherwise: it is at version {now}, the split was asked for at \
                 {version}"
            )
        }),
    }
}

#[cfg(test)]
mod tests;
