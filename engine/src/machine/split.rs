//! A split: the upper part of a shard becomes a shard of its own, by one entry of the log of the shard that is split.
//!
//! Owns: whether a split counts, and what the child begins with. Must never: change anything where the split does not count, change
//! rows of a child that is here already, or move a record: the child's records stay in the rows that they are in.
//!
//! All of the child's beginning is a function of the parent's log, so every replica makes the same child, and so does a replay. Which
//! rows a replica keeps the records in is its own matter; whether a split counts does not depend on it.
//!
//! The parent's new bounds and the child's first rows are one batch: a restart finds both or neither.

use super::extent::Extent;
use super::pieces::Pieces;
use super::{Born, Effects, Machine, ShardState};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::bounds::{BoundsRow, ChildMark, Phase};
use crate::codec::keys;
use crate::command::{Admin, Split, decode_admin};
use crate::ring::Ring;
use crate::sessions::Sessions;
use crate::state::{StateBatch, StateStore};
use bytes::Bytes;
use synod_cluster::ids::{Ballot, Entry, SYSTEM_SHARD, ShardId, Slot, Space};
use synod_cluster::position::{KEY_BYTES_MAX, below};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Birth, Descriptor, Partitioning};
use synod_paxos::types::{Epoch, Member, MemberRole, Membership};

/// A shard of whose children the map does not know so many is not split: each of its entries and snapshots carries them.
pub const CHILDREN_MAX: usize = 16;

/// The epoch that a child's group begins in.
const FIRST_EPOCH: Epoch = Epoch(1);

/// A row of the store and its new value; `None` where it goes.
pub(super) type Change = (Vec<u8>, Option<Bytes>);

/// What a split that counts says of the child beside its bounds.
struct Counts {
    /// The space of its own rows here.
    space: Space,
    membership: Membership,
}

impl ShardState {
    /// Applies an administrative entry.
    pub(super) fn apply_admin(
        &mut self,
        store: &mut dyn StateStore,
        entry: &Entry,
        data: Bytes,
    ) -> Result<Effects, StoreError> {
        // What was looked up was looked up in the bounds as they were.
        self.ahead = None;
        let (slot, shard) = (entry.id.slot, self.descriptor.shard);
        let found = decode_admin(data);
        let admin = found.map_err(|e| e.corrupt(format!("administrative entry in slot {slot} of shard {shard}")))?;
        let Admin::Split(split) = admin else { return self.apply_merge(store, entry, admin) };
        match self.judge(&split, entry.id.origin) {
            Ok(counts) => self.split(store, entry.ts, split, counts),
            Err(why) => Ok(Effects { refused: Some(why), ..Effects::default() }),
        }
    }

    /// Why a split that a leader would propose now in this ballot would not count, as far as all before it is applied here.
    #[must_use]
    pub fn refuses(&self, split: &Split, ballot: Ballot) -> Option<Refusal> {
        self.judge(split, ballot).err()
    }

    /// Whether a split counts. That depends on the log alone: on the entry, and on what the entries before it have made of the shard.
    fn judge(&self, split: &Split, origin: Ballot) -> Result<Counts, Refusal> {
        let refused = |field, why| Err(Refusal::Invalid { field, why });
        let Descriptor { shard, .. } = self.descriptor;
        if !matches!(self.machine, Machine::Data) {
            return refused("shard", "the system shard is not split".into());
        }
        self.judge_version(split.version, "split")?;
        self.judge_epoch(split.epoch, origin, "split")?;
        if !matches!(self.phase, Phase::Alone | Phase::Cancelled(_)) {
            return refused("shard", format!("shard {shard} is being merged"));
        }
        if !is_inside(&self.descriptor, &split.at) {
            let why =
                format!("no position at which shard {shard} can be split: it must lie within the bounds, at no edge");
            return refused("at", why);
        }
        let members = split.voters.iter().map(|node| Member { node: *node, role: MemberRole::Voter });
        let membership = Membership { epoch: FIRST_EPOCH, members: members.collect(), first_leader: origin.node };
        if !membership.is_sound() {
            let why =
                format!("they must rise, and node {}, which proposed the split, must be one of them", origin.node);
            return refused("voters", why);
        }
        let known = |child: ShardId| child == shard || self.children.iter().any(|mark| mark.shard == child);
        let space = keys::first_space(split.child).filter(|_| split.child > SYSTEM_SHARD && !known(split.child));
        let Some(space) = space.filter(|_| !split.confirmed.contains(&split.child)) else {
            return refused("child", format!("{} is no id of a new shard", split.child));
        };
        let unknown = self.children.iter().filter(|mark| !split.confirmed.contains(&mark.shard)).count();
        if unknown >= CHILDREN_MAX {
            let why = format!(
                "the map does not know {unknown} children of shard {shard} yet, {CHILDREN_MAX} is the most (fixed): it is split \
                 again once it does"
            );
            return refused("child", why);
        }
        Ok(Counts { space, membership })
    }

    /// Whether `what` was computed from the bounds as they are.
    pub(super) fn judge_version(&self, made: u64, what: &str) -> Result<(), Refusal> {
        let Descriptor { shard, version, .. } = self.descriptor;
        if made == version {
            return Ok(());
        }
        let why =
            format!("the bounds of shard {shard} are of version {version}, the {what} was made for version {made}");
        Err(Refusal::Invalid { field: "version", why })
    }

    /// Whether `what` was computed from the members by whose leader it is proposed.
    pub(super) fn judge_epoch(&self, made: Epoch, origin: Ballot, what: &str) -> Result<(), Refusal> {
        let (shard, now) = (self.descriptor.shard, origin.epoch);
        if made == now {
            return Ok(());
        }
        let why = format!("shard {shard} is in epoch {now}, the {what} was made for epoch {made}");
        Err(Refusal::Invalid { field: "epoch", why })
    }

    /// Splits the shard: its own rows and the child's first ones in one batch.
    fn split(
        &mut self,
        store: &mut dyn StateStore,
        entry_ts: u64,
        split: Split,
        counts: Counts,
    ) -> Result<Effects, StoreError> {
        let Split { child, at, voters, confirmed, .. } = split;
        let Counts { space, membership } = counts;
        self.last_ts = self.last_ts.max(entry_ts);
        let version = self.descriptor.version + 1;
        let to = std::mem::replace(&mut self.descriptor.to, at.clone());
        self.descriptor.version = version;
        self.forget(&confirmed);
        self.children.push(ChildMark { shard: child, from: at.clone(), to: to.clone(), version, voters });
        let born = Birth::Child { parent: self.descriptor.shard, version };
        let descriptor =
            Descriptor { shard: child, from: at.clone(), to, version, membership, born, ..self.descriptor.clone() };

        let pieces = self.pieces.cut(&at);
        let partitioning = descriptor.partitioning;
        let ring = self.ring.cut(|record| *partitioning.position(&record.key) >= *at);
        self.stored = self.applied;
        let mut rows: Vec<Change> = self.own_rows().into();
        let here = Extent::read(|row| store.get(row), space, descriptor.clone())?;
        if !here.alone {
            // No freeze comes between: what is durable has both or neither.
            give_up(store, &descriptor, &pieces, &here)?;
            store.apply(StateBatch { rows })?;
            return Ok(Effects::default());
        }
        let state = Self {
            descriptor: descriptor.clone(),
            founded: version,
            children: Vec::new(),
            phase: Phase::Alone,
            merges: 0,
            absorbed: Vec::new(),
            space,
            pieces,
            applied: Slot(0),
            stored: Slot(0),
            last_ts: if planted!(SplitResetsTime) { 0 } else { self.last_ts },
            sessions: if planted!(SplitWithoutSessions) { Sessions::default() } else { self.sessions.copy() },
            ring: if planted!(ChildRingClaimsAll) { Ring::new(0) } else { ring },
            machine: Machine::Data,
            ahead: None,
        };
        rows.extend(state.own_rows());
        store.apply(StateBatch { rows })?;
        Ok(Effects { child: Some(Box::new(Born { state, descriptor })), ..Effects::default() })
    }

    fn bounds_now(&self) -> BoundsRow {
        let Descriptor { version, from, to, retention, .. } = self.descriptor.clone();
        let (children, absorbed) = (self.children.clone(), self.absorbed.clone());
        let (phase, merges) = (self.phase.clone(), self.merges);
        BoundsRow { version, from, to, retention, children, phase, merges, absorbed }
    }

    /// The row of its bounds, where it has one: a split or a merge changed them, a merge was begun, or a split made the shard.
    #[must_use]
    pub fn bounds_row(&self) -> Option<BoundsRow> {
        let split_off = matches!(self.descriptor.born, Birth::Child { .. });
        let merged = self.merges > 0 || self.phase != Phase::Alone;
        (split_off || merged || self.has_changed_bounds()).then(|| self.bounds_now())
    }

    /// The rows of a shard whose bounds have changed, save records and sessions. That of a child's bounds says that it is here.
    pub(super) fn own_rows(&self) -> [Change; 3] {
        let bounds = self.bounds_now();
        // None where all records are in the own space.
        let pieces = (!self.pieces.is_whole(self.space)).then(|| self.pieces.encode());
        [
            (keys::bounds_row(self.space), Some(bounds.encode())),
            (keys::pieces_row(self.space), pieces),
            self.applied_row(),
        ]
    }
}

/// Whether a shard can be split at a position: on both sides there are positions of keys, and hash tables are split between hashes.
fn is_inside(descriptor: &Descriptor, at: &[u8]) -> bool {
    let parts_keys = match descriptor.partitioning {
        Partitioning::Range => (1..=KEY_BYTES_MAX).contains(&at.len()),
        // No hash lies below the lowest.
        Partitioning::Hash => at.len() == 8 && *at != [0u8; 8],
    };
    parts_keys && *at > *descriptor.from && below(at, &descriptor.to)
}

/// Removes the rows that a shard has given up and that the child, which is here already, does not use. A child that has changed its
/// bounds since may have children of its own in these rows: they are left to the next start.
fn give_up(store: &mut dyn StateStore, child: &Descriptor, given: &Pieces, here: &Extent) -> Result<(), StoreError> {
    let Descriptor { version, from, to, .. } = &here.descriptor;
    if (version, from, to) != (&child.version, &child.from, &child.to) {
        return Ok(());
    }
    for (space, (from, to)) in given.parts(child, b"", b"") {
        if here.pieces.iter().all(|piece| piece.space != space) {
            store.remove_range(&from, &to)?;
        }
    }
    Ok(())
}
