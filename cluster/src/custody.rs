//! When a node may give up what it has of a range.
//!
//! Owns: the rule. Must never: let the last copy of a chosen record go: what it allows is given up for good.
//!
//! A node gives up rows or the log of a range when it installs a snapshot whose bounds are others, or when it removes a replica. It may
//! do so only if, for every position of the range, the newest owner that it knows either does not list this node as a member, or is *held*
//! here at that version: its rows are in the state store, and flushed. Otherwise nodes that restart one after another, each before its
//! flush, could each throw away what only its log still had.
//!
//! An owner that is held here at a later version may have split the position off since. A replica that began with a snapshot of after
//! that split never had it. Only a newer map says who has it: the node waits for one.
//!
//! The newest owner is the one with the greatest version. For a snapshot, an owner that is no newer than what is given up says nothing:
//! the node waits for a newer map.

use crate::ids::{NodeId, ShardId, TableId};
use crate::position::below;
use crate::system::SystemState;
use crate::tiling::Tiling;
use bytes::Bytes;
use std::fmt;

/// What is to be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The shard whose replica gives it up.
    pub shard: ShardId,
    /// Its table.
    pub table: TableId,
    /// Lower bound of what the replica has. Of one that was never born: as its group began.
    pub from: Bytes,
    /// Upper bound of that; empty: none.
    pub to: Bytes,
    /// How it goes.
    pub how: How,
}

/// How something is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A snapshot takes the replica's place.
    Snapshot {
        /// The version that the replica is at; 0 where it was never born.
        version: u64,
        /// Lower bound of the snapshot: what lies within its bounds is not given up.
        from: Bytes,
        /// Upper bound of the snapshot.
        to: Bytes,
    },
    /// The replica is removed: it is no longer a member, or the map knows that its shard is gone.
    Removal {
        /// The shard that is about to absorb this one, where the replica is frozen for it and it has not done so here.
        frozen_for: Option<ShardId>,
    },
}

/// Who owns a range, as somebody knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The shard.
    pub shard: ShardId,
    /// Its lower bound.
    pub from: Bytes,
    /// Its upper bound; empty: none.
    pub to: Bytes,
    /// The version of these bounds.
    pub version: u64,
    /// Whether this node is a member of it, voter or learner.
    pub lists: bool,
}

/// What is here of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// Nothing.
    Absent,
    /// A replica that was never born, or whose birth is not flushed.
    Unheld,
    /// A replica of which this version is flushed.
    Held(u64),
}

/// Whether something may be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Custody {
    /// It may.
    Allowed,
    /// Not yet.
    Waits(Wait),
}

/// What custody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For a map that names a newer owner, or is as new as the one that is here.
    Map {
        /// A position whose newer owner is not known.
        position: Bytes,
    },
    /// For a shard to be held here.
    Held {
        /// The shard.
        shard: ShardId,
        /// At this version.
        version: u64,
    },
    /// For a shard to absorb what is frozen for it.
    Absorb {
        /// That shard.
        shard: ShardId,
    },
}

impl Wait {
    /// The shard that it waits for, where it is one.
    #[must_use]
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Map { .. } => None,
            Self::Held { shard, .. } | Self::Absorb { shard } => Some(*shard),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { .. } => write!(f, "a part of its range has no newer owner in the map that is known here"),
            Self::Held { shard, version } => write!(
                f,
                "shard {shard} has a part of its range since version {version}, this node is a member of it, and does not have that \
                 version on disk yet"
            ),
            Self::Absorb { shard } => write!(f, "it is frozen for shard {shard}, which has not absorbed it here yet"),
        }
    }
}

/// The owners of a table's ranges, as a map says.
pub fn owners(map: &SystemState, table: TableId, me: NodeId) -> impl Iterator<Item = Owner> + '_ {
    map.shards.of_table(table).map(move |d| Owner {
        shard: d.shard,
        from: d.from.clone(),
        to: d.to.clone(),
        version: d.version,
        lists: d.membership.role_of(me).is_some(),
    })
}

/// Whether it may be given up, by the newest map that is known here, by the children that a snapshot's header names, and by what is here.
///
/// The replicas of a dropped table go at once. Only a shard whose table is not in the map, and whose id was given, was dropped.
pub fn may_give_up(
    given: &GivenUp,
    me: NodeId,
    map: &SystemState,
    children: &[Owner],
    here: impl Fn(ShardId) -> Here,
) -> Custody {
    let dropped = map.vanished(given.shard) && !map.tables.contains_key(&given.table);
    let forgets = planted!(VanishWithoutCustody) && map.vanished(given.shard);
    if dropped || forgets || planted!(NoCustody) {
        return Custody::Allowed;
    }
    // A child in the map comes first: of the same version it knows the members better than its parent did.
    let known = owners(map, given.table, me).chain(children.iter().cloned());
    judge(given, known, here)
}

/// The rule itself. Of two owners of one version the first counts.
fn judge(given: &GivenUp, known: impl Iterator<Item = Owner>, here: impl Fn(ShardId) -> Here) -> Custody {
    if let How::Removal { frozen_for: Some(shard) } = given.how
        && here(shard) != Here::Absent
    {
        return Custody::Waits(Wait::Absorb { shard });
    }
    let mut newest: Tiling<Owner> = Tiling::default();
    for owner in known.filter(|owner| is_news(given, owner)) {
        newest.lay(&owner.from, &owner.to, &owner, |before| owner.version > before.version);
    }
    let mut at = given.from.clone();
    while below(&at, &given.to) {
        let end = if let How::Snapshot { from, to, .. } = &given.how
            && from <= &at
            && below(&at, to)
        {
            to.clone()
        } else {
            let Some((_, end, owner)) = newest.get(&at) else { return Custody::Waits(Wait::Map { position: at }) };
            if let Some(wait) = keeps(given, owner, &at, &here) {
                return Custody::Waits(wait);
            }
            end.clone()
        };
        if end.is_empty() {
            break;
        }
        at = end;
    }
    Custody::Allowed
}

/// Whether an owner says anything about what becomes of what is given up.
fn is_news(given: &GivenUp, owner: &Owner) -> bool {
    match given.how {
        How::Snapshot { version, .. } => owner.shard != given.shard && owner.version > version,
        How::Removal { .. } => true,
    }
}

/// Why the newest owner of a position keeps this node from giving it up, if it does.
fn keeps(given: &GivenUp, owner: &Owner, at: &Bytes, here: impl Fn(ShardId) -> Here) -> Option<Wait> {
    if !owner.lists {
        return None;
    }
    let Owner { shard, version, .. } = *owner;
    // As far as the map knows the replica belongs here.
    if shard == given.shard {
        return Some(Wait::Map { position: at.clone() });
    }
    match here(shard) {
        Here::Held(held) if held == version => None,
        Here::Held(held) if held > version => Some(Wait::Map { position: at.clone() }),
        _ => Some(Wait::Held { shard, version }),
    }
}

#[cfg(test)]
mod tests;
