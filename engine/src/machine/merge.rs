//! A merge: a shard, the source, goes into its neighbour, the target. Six entries in two logs.
//!
//! Owns: whether each of them counts, and what it does. Must never: change anything where one does not count, change a frozen shard by
//! anything but an unfreeze, or move a record: the source's records stay in the rows that they are in.
//!
//! Whether an entry counts depends on its own log alone, so all replicas judge alike. What an absorb makes of the target is a function of
//! the two logs: of the target's up to the absorb, and of the source's up to the freeze that the absorb names.

use super::pieces::Pieces;
use super::split::Change;
use super::{Effects, Machine, MergeStep, ShardState, Wanted};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::absorbed::AbsorbedRow;
use crate::codec::bounds::{Frozen, Merge, Phase};
use crate::codec::keys;
use crate::command::{
    Absorb, Admin, BeginMerge, Cancel, EndMerge, Freeze, Unfreeze, decode_admin, is_admin, is_marker,
};
use crate::state::{StateBatch, StateStore};
use bytes::Bytes;
use synod_cluster::ids::{Ballot, Entry, SYSTEM_SHARD, ShardId};
use synod_cluster::position::below;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::Descriptor;
use synod_paxos::types::Payload;

/// A shard into which so many went of which the map does not know is the target of no further merge.
pub const ABSORBED_MAX: usize = 16;

/// Pause before a frozen shard is asked again, ms.
pub const CHANGING_AGAIN: u32 = 10;

fn refused<T>(field: &'static str, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid { field, why: why.into() })
}

/// The administrative entry in `entry`; `None` where it is none.
fn admin_of(entry: &Entry, shard: ShardId) -> Result<Option<Admin>, StoreError> {
    let Payload::Command(data) = &entry.payload else { return Ok(None) };
    if !is_admin(data) {
        return Ok(None);
    }
    let slot = entry.id.slot;
    let found = decode_admin(data.clone());
    found.map(Some).map_err(|e| e.corrupt(format!("administrative entry in slot {slot} of shard {shard}")))
}

impl ShardState {
    /// What is said of a request while the shard stands still; `None` where it does not.
    #[must_use]
    pub fn changing(&self) -> Option<Refusal> {
        let frozen = self.phase.frozen().is_some() && !planted!(FreezeLetsReads);
        frozen.then_some(Refusal::Changing { retry_after_ms: CHANGING_AGAIN })
    }

    /// Whether it is frozen by the freeze that an absorb of the shard `target` names: that, and nothing else, may go into the target.
    #[must_use]
    pub fn is_frozen_at(&self, target: ShardId, absorb: &Absorb) -> bool {
        self.descriptor.shard == absorb.source
            && self.phase.frozen().is_some_and(|f| (f.target, f.seq, f.at) == (target, absorb.seq, absorb.at))
    }

    /// Whether a change of its members may be proposed: not while it is in a merge that is not over.
    #[must_use]
    pub fn may_change_members(&self) -> bool {
        matches!(self.phase, Phase::Alone | Phase::Cancelled(_))
    }

    /// Whether the merge of this number, into this shard, is over: the source went into it, or does not.
    #[must_use]
    pub fn has_ended(&self, seq: u64) -> bool {
        let open = matches!(&self.phase, Phase::Merging(merge) | Phase::Cancelled(merge) if merge.seq == seq);
        self.merges >= seq && !open
    }

    /// The absorb in an entry, where the entry is one and counts as far as all before it is applied. Such an entry is applied by
    /// [`ShardState::absorb`], with the source as it is at the freeze; any other by [`ShardState::apply`].
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn takes_in(&self, entry: &Entry) -> Result<Option<Absorb>, StoreError> {
        Ok(match admin_of(entry, self.descriptor.shard)? {
            Some(Admin::Absorb(absorb)) if self.judge_absorb(&absorb, entry.id.origin).is_ok() => Some(absorb),
            _ => None,
        })
    }

    /// Why a step of a merge that a leader would propose now in this ballot would not count, as far as all before it is applied here.
    #[must_use]
    pub fn refuses_step(&self, admin: &Admin, ballot: Ballot) -> Option<Refusal> {
        match admin {
            Admin::Split(split) => self.refuses(split, ballot),
            Admin::BeginMerge(begin) => self.judge_begin(begin, ballot).err(),
            Admin::Freeze(freeze) => self.judge_freeze(freeze, ballot).err(),
            Admin::Absorb(absorb) => self.judge_absorb(absorb, ballot).err(),
            Admin::Cancel(Cancel { seq }) => self.judge_cancel(*seq).err(),
            Admin::Unfreeze(unfreeze) => self.judge_unfreeze(unfreeze).err(),
            Admin::EndMerge(EndMerge { seq }) => self.judge_end(*seq).err(),
        }
    }

    fn judge_begin(&self, begin: &BeginMerge, origin: Ballot) -> Result<(), Refusal> {
        let Descriptor { shard, from, to, .. } = &self.descriptor;
        if !matches!(self.machine, Machine::Data) || begin.source == SYSTEM_SHARD {
            return refused("shard", "the system shard is not merged");
        }
        self.judge_version(begin.version, "merge")?;
        self.judge_epoch(begin.epoch, origin, "merge")?;
        if self.phase != Phase::Alone {
            return refused("shard", format!("shard {shard} is in another merge"));
        }
        let adjoins = !to.is_empty() && *to == begin.from || !begin.to.is_empty() && begin.to == *from;
        if begin.source == *shard || !adjoins || !below(&begin.from, &begin.to) {
            return refused("source", format!("shard {} is no neighbour of shard {shard}", begin.source));
        }
        let unknown = self.absorbed.iter().filter(|gone| !begin.confirmed.contains(gone)).count();
        if unknown >= ABSORBED_MAX {
            let why = format!(
                "the map does not know yet that {unknown} shards went into shard {shard}, {ABSORBED_MAX} is the most (fixed): it is \
                 merged again once it does"
            );
            return refused("source", why);
        }
        Ok(())
    }

    fn judge_freeze(&self, freeze: &Freeze, origin: Ballot) -> Result<(), Refusal> {
        let shard = self.descriptor.shard;
        if !matches!(self.machine, Machine::Data) || freeze.target == shard {
            return refused("shard", format!("shard {shard} cannot go into shard {}", freeze.target));
        }
        self.judge_version(freeze.version, "merge")?;
        self.judge_epoch(freeze.epoch, origin, "merge")?;
        if self.phase != Phase::Alone {
            return refused("shard", format!("shard {shard} is in another merge"));
        }
        Ok(())
    }

    fn judge_absorb(&self, absorb: &Absorb, origin: Ballot) -> Result<(), Refusal> {
        let late = planted!(AbsorbAfterCancel);
        let merge = match &self.phase {
            Phase::Merging(merge) => merge,
            Phase::Cancelled(merge) if late => merge,
            Phase::Alone | Phase::Cancelled(_) | Phase::Frozen(_) => return self.no_merge(absorb.seq),
        };
        if (merge.source, merge.seq) != (absorb.source, absorb.seq) {
            return self.no_merge(absorb.seq);
        }
        // Behind a change of members not every member need have the source.
        self.judge_epoch(merge.epoch, origin, "merge")
    }

    fn judge_cancel(&self, seq: u64) -> Result<Merge, Refusal> {
        match &self.phase {
            Phase::Merging(merge) if merge.seq == seq => Ok(*merge),
            Phase::Alone | Phase::Merging(_) | Phase::Cancelled(_) | Phase::Frozen(_) => self.no_merge(seq),
        }
    }

    /// Unless the shard is frozen for another merge, an unfreeze of its version counts: the freeze of that merge, which may be on its
    /// way, counts no more. If it did not, two merges towards each other would wait for one another. What is frozen for another merge
    /// may be taken in by that one at any time.
    fn judge_unfreeze(&self, unfreeze: &Unfreeze) -> Result<(), Refusal> {
        let Unfreeze { target, seq, version } = *unfreeze;
        let (shard, known) = (self.descriptor.shard, self.descriptor.version);
        let waits = planted!(MutualMergesWait) && self.phase != Phase::Alone;
        let counts = match self.phase.frozen() {
            Some(frozen) => (frozen.target, frozen.seq) == (target, seq),
            None => version == known && !waits && !planted!(LateFreeze),
        };
        if counts {
            return Ok(());
        }
        refused(
            "version",
            format!("shard {shard} is at version {known}, and not frozen for merge {seq} of shard {target}"),
        )
    }

    fn judge_end(&self, seq: u64) -> Result<(), Refusal> {
        match &self.phase {
            Phase::Cancelled(merge) if merge.seq == seq => Ok(()),
            Phase::Alone | Phase::Merging(_) | Phase::Cancelled(_) | Phase::Frozen(_) => self.no_merge(seq),
        }
    }

    fn no_merge<T>(&self, seq: u64) -> Result<T, Refusal> {
        refused("merge", format!("merge {seq} of shard {} is not at that step", self.descriptor.shard))
    }

    /// What becomes of an entry of a shard that is frozen before it: only its position moves. `None` where the entry is applied as ever.
    pub(super) fn stand_still(&mut self, entry: &Entry, wanted: Wanted) -> Result<Option<Effects>, StoreError> {
        if self.phase.frozen().is_none() || planted!(FrozenGoesOn) {
            return Ok(None);
        }
        self.ahead = None;
        let changing = Refusal::Changing { retry_after_ms: CHANGING_AGAIN };
        let Payload::Command(data) = &entry.payload else { return Ok(Some(Effects::default())) };
        if is_marker(data) {
            return Ok(Some(Effects { marker: true, ..Effects::default() }));
        }
        if let Some(admin) = admin_of(entry, self.descriptor.shard)? {
            let thaws = matches!(&admin, Admin::Unfreeze(unfreeze) if self.judge_unfreeze(unfreeze).is_ok());
            let refused = Some(self.refuses_step(&admin, entry.id.origin).unwrap_or(changing));
            return Ok((!thaws).then(|| Effects { refused, ..Effects::default() }));
        }
        let (_, requests) = self.decode(entry.id.slot, data.clone())?;
        let mut effects = Effects::of(requests.len(), wanted);
        if wanted == Wanted::Results {
            effects.results.extend(requests.iter().map(|_| Err(changing.clone())));
        }
        Ok(Some(effects))
    }

    /// Applies an entry of a merge, but for an absorb that counts.
    pub(super) fn apply_merge(
        &mut self,
        store: &mut dyn StateStore,
        entry: &Entry,
        admin: Admin,
    ) -> Result<Effects, StoreError> {
        if let Some(why) = self.refuses_step(&admin, entry.id.origin) {
            return Ok(Effects { refused: Some(why), ..Effects::default() });
        }
        self.last_ts = self.last_ts.max(entry.ts);
        let step = match admin {
            Admin::BeginMerge(begin) => self.begin_merge(begin),
            Admin::Freeze(Freeze { target, seq, .. }) => {
                self.phase = Phase::Frozen(Frozen { target, seq, at: entry.id, ts: self.last_ts });
                self.descriptor.version += 1;
                MergeStep::Froze
            }
            Admin::Cancel(Cancel { seq }) => {
                if let Ok(merge) = self.judge_cancel(seq) {
                    self.phase = Phase::Cancelled(merge);
                }
                MergeStep::Cancelled
            }
            Admin::Unfreeze(_) => {
                if self.phase.frozen().is_some() {
                    self.phase = Phase::Alone;
                }
                self.descriptor.version += 1;
                MergeStep::Thawed
            }
            Admin::EndMerge(_) => {
                self.phase = Phase::Alone;
                MergeStep::Ended
            }
            Admin::Split(_) | Admin::Absorb(_) => {
                let (slot, shard) = (entry.id.slot, self.descriptor.shard);
                let what = format!("entry in slot {slot} of shard {shard}");
                return Err(StoreError::Corrupt { what, why: "it needs more than the shard's own state".into() });
            }
        };
        self.stored = self.applied;
        store.apply(StateBatch { rows: self.own_rows().into() })?;
        Ok(Effects { merge: Some(step), ..Effects::default() })
    }

    fn begin_merge(&mut self, begin: BeginMerge) -> MergeStep {
        let BeginMerge { source, epoch, source_version, source_epoch, confirmed, .. } = begin;
        self.forget(&confirmed);
        self.merges += 1;
        self.phase = Phase::Merging(Merge { source, seq: self.merges, source_version, source_epoch, epoch });
        MergeStep::Began
    }

    /// Forgets children that the map has, and shards that went into this one and that the map has no longer.
    pub(super) fn forget(&mut self, confirmed: &[ShardId]) {
        self.children.retain(|mark| !confirmed.contains(&mark.shard));
        self.absorbed.retain(|gone| !confirmed.contains(gone));
    }

    /// Applies the next entry, which [`ShardState::takes_in`] the source: the source's rows become this shard's, in one batch with the new
    /// bounds. The source must be frozen as the entry says ([`ShardState::is_frozen_at`]).
    ///
    /// # Errors
    /// The store failed, or the source is not what the entry names: then nothing is changed.
    ///
    /// # Panics
    /// If the entry is not the next one.
    pub fn absorb(&mut self, store: &mut dyn StateStore, entry: &Entry, source: Self) -> Result<Effects, StoreError> {
        let (slot, shard) = (entry.id.slot, self.descriptor.shard);
        assert!(slot == self.applied.next(), "shard {shard}: slot {slot} after {}", self.applied);
        let wrong = |why: String| {
            let what = format!("absorb in slot {slot} of shard {shard}");
            StoreError::Corrupt { what, why }
        };
        let absorb = self.takes_in(entry)?.ok_or_else(|| wrong("it does not count".into()))?;
        let frozen = source.phase.frozen().copied().filter(|_| source.is_frozen_at(shard, &absorb));
        let Some(frozen) = frozen else {
            return Err(wrong(format!("shard {} is not frozen for it here", absorb.source)));
        };
        let (from, to) = self.joined_bounds(&source).ok_or_else(|| wrong("the two do not adjoin".into()))?;
        self.ahead = None;
        self.applied = slot;
        self.take_in(store, entry.ts, source, (from, to), frozen)
    }

    /// The bounds of both together.
    fn joined_bounds(&self, source: &Self) -> Option<(Bytes, Bytes)> {
        let (mine, theirs) = (&self.descriptor, &source.descriptor);
        if !mine.to.is_empty() && mine.to == theirs.from {
            Some((mine.from.clone(), theirs.to.clone()))
        } else if !theirs.to.is_empty() && theirs.to == mine.from {
            Some((theirs.from.clone(), mine.to.clone()))
        } else {
            None
        }
    }

    fn take_in(
        &mut self,
        store: &mut dyn StateStore,
        entry_ts: u64,
        source: Self,
        (from, to): (Bytes, Bytes),
        frozen: Frozen,
    ) -> Result<Effects, StoreError> {
        let (gone, space) = (source.descriptor.shard, source.space);
        let of_source = if planted!(MergeKeepsOwnTime) { 0 } else { frozen.ts };
        self.last_ts = self.last_ts.max(of_source).max(entry_ts);
        self.descriptor.version = self.descriptor.version.max(source.descriptor.version) + 1;
        let source_first = source.descriptor.from < self.descriptor.from;
        (self.descriptor.from, self.descriptor.to) = (from, to);
        self.pieces = if source_first {
            Pieces::join(&source.pieces, &self.pieces)
        } else {
            Pieces::join(&self.pieces, &source.pieces)
        };
        if !planted!(MergeWithoutSessions) {
            self.sessions.unite(&source.sessions);
        }
        self.ring.unite(source.ring);
        if !planted!(MergeForgetsChildren) {
            self.children.extend(source.children);
        }
        self.absorbed.extend(source.absorbed);
        self.absorbed.push(gone);
        self.phase = Phase::Alone;
        self.stored = self.applied;
        let mut rows: Vec<Change> = self.own_rows().into();
        let mark = AbsorbedRow { source: gone, target: self.descriptor.shard };
        rows.push((keys::absorbed_row(space), Some(mark.encode())));
        // No freeze comes between: what is durable has all of it or nothing.
        let (first, last) = keys::own_bounds(space);
        store.remove_range(&first, &last)?;
        store.apply(StateBatch { rows })?;
        Ok(Effects { merge: Some(MergeStep::TookIn { source: gone, space }), ..Effects::default() })
    }
}
