//! Merges, as the worker carries them on: the source is brought to the worker of its target, and goes into it.
//!
//! Owns: the driving of a merge at the leader of its target, by the replicated phase of that, and the end of a source's replica here. Must
//! never: give this node's word before the freeze is on disk here, propose an absorb without the word of every voter for that attempt,
//! unfreeze a source before the cancel is applied here, or forget a source's log before the rows that went into the target are on disk.
//!
//! Source and target have the same members. So whoever leads the source has a replica of the target, and acts by what that has applied:
//! it proposes the freeze once the merge is begun, and the unfreeze once it is cancelled. No message asks for either. The one message is a
//! node's word that the source is frozen there and flushed.

use super::Worker;
use super::passage::Parcel;
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::absorbed::AbsorbedRow;
use crate::codec::bounds::{Merge, Phase};
use crate::codec::keys;
use crate::command::{Absorb, Admin, Cancel, EndMerge, Unfreeze};
use crate::host::{HandOverInput, Host, MergeInput, MergeWanted, MergeWord, Told};
use crate::logstore::{GONE, GroupWrite};
use crate::shard::{Shard, knows_merges};
use crate::snapshot::Header;
use crate::state::FlushId;
use crate::writer::Done;
use std::collections::BTreeMap;
use synod_cluster::ids::{ClusterVersion, EntryId, NodeId, ShardId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Micros;

/// Interval between looks at merges under way, µs.
const LOOK_US: u64 = 10_000;
/// Interval between a node's words, µs; each may be lost.
const TELL_US: u64 = 50_000;
/// Time for which a source may stand still before a merge that lacks a word is taken back, µs.
const DEADLINE_US: u64 = 500_000;
/// The same for one that does not come to stand still, µs.
const PATIENCE_US: u64 = 5_000_000;

/// A shard here that takes part in a merge.
#[derive(Default)]
struct Part {
    /// Since when its phase is seen.
    since: Micros,
    /// The phase that is seen.
    phase: Phase,
    /// The flush before the source is frozen: it leaves little to the one behind, for which clients wait.
    flush: Option<FlushId>,
    /// A target's leader: when it takes the merge back.
    until: Option<Micros>,
    /// A target's leader: the source is frozen here.
    stands_still: bool,
    /// A target's leader: the words of its members for this attempt.
    words: BTreeMap<NodeId, Slot>,
    /// This node gives its word again then.
    tell_at: Micros,
}

/// A source that has gone into its target here.
struct Burial {
    source: ShardId,
    space: Space,
    /// Behind it the target's rows are on disk, and the log of the source can go.
    flush: Option<FlushId>,
    /// The log is going.
    going: bool,
}

/// The merges under way here.
#[derive(Default)]
pub(super) struct Merges {
    parts: BTreeMap<ShardId, Part>,
    burials: Vec<Burial>,
    look_at: Micros,
}

impl Merges {
    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.burials.is_empty()
    }

    /// For how long a shard's phase is seen, µs.
    pub(super) fn since(&self, shard: ShardId, now: Micros) -> u64 {
        self.parts.get(&shard).map_or(0, |part| now.0.saturating_sub(part.since.0))
    }
}

/// What the words of all voters agree on.
fn agreed(words: &BTreeMap<NodeId, Slot>, mut voters: impl Iterator<Item = NodeId>, frozen: EntryId) -> bool {
    voters.all(|voter| words.get(&voter) == Some(&frozen.slot))
}

impl<H: Host> Worker<H> {
    /// A neighbour is to go into a shard.
    pub(super) fn merge(&mut self, id: ShardId, wanted: MergeWanted, told: Told) {
        if let Some(why) = &self.quarantined {
            return told(Err(Refusal::Quarantined(why.clone())));
        }
        let (Some(map), false) = (self.map.clone(), self.stopped) else { return told(Err(Refusal::NotReady)) };
        if !self.shards.contains_key(&id) {
            return told(Err(Refusal::WrongShard));
        }
        if let Err(why) = knows_merges(&self.node) {
            return told(Err(why));
        }
        let busy = [id, wanted.source].iter().any(|shard| self.snapshots.hinder_splits(*shard));
        if busy || !self.shards.contains_key(&wanted.source) {
            self.bring(wanted.source);
            return told(Err(Refusal::NotReady));
        }
        let offered = match self.shards.get_mut(&wanted.source) {
            Some(source) => source.offer(&self.node, &wanted),
            None => Err(Refusal::NotReady),
        };
        match (offered, self.shards.get_mut(&id)) {
            (Ok(source), Some(shard)) => shard.propose_merge(&mut self.node, &map, (wanted, source), told),
            (Err(why), _) => told(Err(why)),
            (_, None) => told(Err(Refusal::WrongShard)),
        }
    }

    /// A merge is to be taken back.
    pub(super) fn cancel_merge(&mut self, id: ShardId, source: ShardId, told: Told) {
        if let Some(why) = &self.quarantined {
            return told(Err(Refusal::Quarantined(why.clone())));
        }
        if self.stopped {
            return told(Err(Refusal::NotReady));
        }
        if let Err(why) = knows_merges(&self.node) {
            return told(Err(why));
        }
        match self.shards.get_mut(&id) {
            Some(shard) => shard.propose_cancel(&mut self.node, source, told),
            None => told(Err(Refusal::WrongShard)),
        }
    }

    /// A member gives its word. One for another attempt, or for a shard that is not led here, is worth nothing.
    pub(super) fn take_word(&mut self, input: MergeInput) {
        let MergeInput::Word { from, target, word } = input;
        let Some(shard) = self.shards.get(&target).filter(|shard| self.takes_part() && shard.leads()) else { return };
        let Phase::Merging(merge) = shard.phase() else { return };
        if (merge.source, merge.seq) != (word.source, word.seq) {
            return;
        }
        if let Some(part) = self.merges.parts.get_mut(&target) {
            part.words.insert(from, word.frozen);
            self.merges.look_at = self.node.now;
        }
    }

    /// A shard came, or changed its part: it is looked at from now on, if it has one.
    pub(super) fn note_part(&mut self, id: ShardId) {
        let Some(shard) = self.shards.get(&id) else { return };
        if !shard.is_merging() {
            return;
        }
        let phase = shard.phase().clone();
        if self.node.cluster_version < ClusterVersion::FIFTH {
            self.seal_for_merges(id);
        }
        let now = self.node.now;
        let part = self.merges.parts.entry(id).or_default();
        if part.phase != phase {
            *part = Part { since: now, phase, ..Part::default() };
        }
        self.merges.look_at = now;
    }

    /// The map that says that the cluster knows merges is on its way. A binary that knows none must not open this log.
    fn seal_for_merges(&mut self, id: ShardId) {
        if self.node.speaks < ClusterVersion::FIFTH {
            // Whoever proposed it is newer. What the entry changed is not on disk yet: a newer binary applies it again.
            let why = "its log merges it with another shard. This binary does not merge shards: start a newer one";
            self.node.host.fatal(format!("shard {id}: {why}"));
        }
        let sealed = self.node.log.seal(ClusterVersion::FIFTH);
        self.node.must(sealed);
    }

    /// Takes in what waits to be taken in, in the round in which it can be.
    pub(super) fn take_absorbs(&mut self) {
        for id in std::mem::take(&mut self.node.merging) {
            self.note_part(id);
            self.absorb_into(id);
        }
    }

    /// Brings merges on, at the end of a round.
    pub(super) fn keep_merges(&mut self) {
        self.take_absorbs();
        let now = self.node.now;
        if self.merges.is_idle() || self.merges.look_at > now {
            return;
        }
        self.merges.look_at = now.plus(LOOK_US);
        for id in self.merges.parts.keys().copied().collect::<Vec<ShardId>>() {
            let phase = self.shards.get(&id).filter(|shard| shard.is_merging()).map(|shard| shard.phase().clone());
            match phase {
                None | Some(Phase::Alone) => drop(self.merges.parts.remove(&id)),
                Some(Phase::Merging(merge)) => {
                    self.note_part(id);
                    self.keep_merging(id, &merge);
                    self.absorb_into(id);
                }
                Some(Phase::Cancelled(merge)) => {
                    self.note_part(id);
                    self.keep_cancelled(id, &merge);
                }
                Some(Phase::Frozen(frozen)) => {
                    self.note_part(id);
                    self.follow_target(id, frozen.target);
                }
            }
        }
        self.merges.look_at = now.plus(LOOK_US);
        self.keep_burials();
    }

    /// When something is to be looked at.
    pub(super) fn merges_due(&self) -> Option<Micros> {
        (!self.merges.is_idle()).then_some(self.merges.look_at)
    }

    /// What a target's merge needs of this node, and where it leads what comes next.
    fn keep_merging(&mut self, id: ShardId, merge: &Merge) {
        let source = merge.source;
        let Some(shard) = self.shards.get(&source) else {
            self.bring(source);
            return self.drive(id, merge, None);
        };
        let frozen = shard.frozen_for(id, merge.seq);
        let flushed = frozen.is_some_and(|frozen| shard.is_flushed_at(frozen.at.slot));
        match frozen {
            None if self.is_ready_to_freeze(id) => {
                if let Some(shard) = self.shards.get_mut(&source) {
                    shard.propose_freeze(&mut self.node, id, merge);
                }
            }
            None => {}
            Some(frozen) if flushed => {
                self.give_word(id, MergeWord { source, seq: merge.seq, frozen: frozen.at.slot });
            }
            Some(_) if !self.freezing() => self.freeze(),
            Some(_) => {}
        }
        self.drive(id, merge, frozen.map(|frozen| frozen.at));
    }

    /// Whether what was applied when the merge began is flushed here.
    fn is_ready_to_freeze(&mut self, target: ShardId) -> bool {
        let flush = self.merges.parts.get(&target).and_then(|part| part.flush);
        if let Some(flush) = flush {
            return self.is_flushed(flush);
        }
        let begun = self.freeze_beside();
        if let Some(part) = self.merges.parts.get_mut(&target) {
            part.flush = begun;
        }
        false
    }

    /// Tells the target's leader that the source is frozen and flushed here.
    fn give_word(&mut self, target: ShardId, word: MergeWord) {
        let (now, me) = (self.node.now, self.node.me);
        let leader = self.shards.get(&target).and_then(Shard::leader_known);
        let Some(part) = self.merges.parts.get_mut(&target) else { return };
        match leader {
            Some(leader) if leader == me => drop(part.words.insert(me, word.frozen)),
            Some(leader) if part.tell_at <= now => {
                part.tell_at = now.plus(TELL_US);
                self.node.host.tell_merge(leader, target, word);
            }
            _ => {}
        }
    }

    /// Where the target is led here: the absorb once all have given their word, else the cancel once it has taken too long.
    fn drive(&mut self, id: ShardId, merge: &Merge, frozen: Option<EntryId>) {
        let now = self.node.now;
        let (Some(shard), Some(part)) = (self.shards.get_mut(&id), self.merges.parts.get_mut(&id)) else { return };
        if !shard.leads() {
            // A new leader counts anew.
            (part.until, part.stands_still) = (None, false);
            part.words.clear();
            return;
        }
        if frozen.is_some() && !std::mem::replace(&mut part.stands_still, true) {
            part.until = Some(now.plus(DEADLINE_US));
        }
        let until = *part.until.get_or_insert(now.plus(PATIENCE_US));
        let Merge { source, seq, .. } = *merge;
        match frozen {
            Some(at) if agreed(&part.words, shard.voters(), at) => {
                shard.propose_next(&mut self.node, &Admin::Absorb(Absorb { source, seq, at }));
            }
            _ if until <= now => shard.propose_next(&mut self.node, &Admin::Cancel(Cancel { seq })),
            _ => {}
        }
    }

    /// A merge was taken back: the source goes on, and once it does, the target forgets the merge.
    fn keep_cancelled(&mut self, id: ShardId, merge: &Merge) {
        let Merge { source, seq, source_version: version, .. } = *merge;
        let gone = self.map.as_ref().is_some_and(|map| map.vanished(source));
        let goes_on = match self.shards.get_mut(&source) {
            None => {
                self.bring(source);
                gone
            }
            Some(shard) => {
                let frozen = shard.frozen_for(id, seq).is_some();
                let now = shard.state().descriptor().version;
                if frozen || now == version {
                    shard.propose_next(&mut self.node, &Admin::Unfreeze(Unfreeze { target: id, seq, version }));
                }
                gone || (!shard.is_missing() && !frozen && now > version)
            }
        };
        if let Some(shard) = self.shards.get_mut(&id).filter(|_| goes_on) {
            shard.propose_next(&mut self.node, &Admin::EndMerge(EndMerge { seq }));
        }
    }

    /// A frozen source goes to the worker that has its target.
    fn follow_target(&mut self, id: ShardId, target: ShardId) {
        if !self.shards.contains_key(&target) && self.node.shared.roster.is_here(target) {
            let to = self.node.shared.places().worker_of(target);
            self.hand_over(id, to, 0);
        }
    }

    /// Has a shard of another worker handed to this one.
    fn bring(&mut self, id: ShardId) {
        let at = self.node.shared.places().worker_of(id);
        if at != self.node.worker && self.node.shared.roster.is_here(id) {
            let begin = HandOverInput::Begin { shard: id, to: self.node.worker };
            self.post(at, Parcel::Late(id, Box::new(begin.into())));
        }
    }

    /// The next entry of a target takes its source in: it is applied, if the source is here as that entry says.
    fn absorb_into(&mut self, id: ShardId) {
        // A snapshot that is about to take the target's place has what the entry makes.
        let target = self.shards.get(&id).filter(|shard| !shard.is_installing());
        let Some(absorb) = target.and_then(|shard| shard.awaited().cloned()) else { return };
        let source = absorb.source;
        let ready = self.shards.get(&source).map(|shard| shard.is_as_absorbed(id, &absorb));
        match ready {
            Some(true) => {}
            // A write of it is under way, or it is not what the entry says.
            Some(false) if self.shards.get(&source).is_some_and(Shard::is_installing) => return,
            None if self.node.shared.roster.is_here(source) => return self.bring(source),
            Some(false) | None => return self.lose_state(id),
        }
        let Some(mut gone) = self.shards.remove(&source) else { return };
        gone.answer_all(&mut self.node, &Refusal::WrongShard);
        gone.leave(&mut self.node);
        self.node.host.role_changed(source, None, false);
        self.node.metrics.replicas.dec();
        self.upkeep.forget(source);
        self.merges.parts.remove(&source);
        self.removed.insert(source, GONE);
        self.node.shared.roster.bury(source);
        self.node.changed_bounds.remove(&source);
        self.node.changed_members.remove(&source);
        let state = gone.into_state();
        self.merges.burials.push(Burial { source, space: state.space(), flush: None, going: false });
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.take_in(&mut self.node, state);
        }
        self.merges.look_at = self.node.now;
    }

    fn lose_state(&mut self, id: ShardId) {
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.lose_state(&mut self.node);
        }
    }

    /// A replica goes on without its state, with the log that it has: it waits for a snapshot.
    pub(super) fn lost(&mut self, id: ShardId) {
        if !self.shards.get(&id).is_some_and(Shard::is_installing) {
            return;
        }
        let Some(mut old) = self.shards.remove(&id) else { return };
        let Some((found, _)) = old.installed(&mut self.node) else { return };
        self.merges.parts.remove(&id);
        self.node.metrics.replicas.dec();
        self.node.metrics.reinstalling.inc();
        self.insert(id, Shard::without_state(id, found, old.into_state()));
        if let Some(upto) = self.ended(id) {
            return self.give_up(id, upto);
        }
        if let Some(shard) = self.shards.get_mut(&id) {
            shard.schedule(&mut self.node);
        }
    }

    /// The logs of sources go once the rows are the targets' on disk too; then the marks that say so.
    fn keep_burials(&mut self) {
        for at in 0..self.merges.burials.len() {
            let Burial { source, flush, going, .. } = self.merges.burials[at];
            if going {
                continue;
            }
            match flush {
                None => self.merges.burials[at].flush = self.freeze_beside(),
                Some(flush) if self.is_flushed(flush) => {
                    self.merges.burials[at].going = true;
                    let write = GroupWrite { shard: source, remove: Some(GONE), ..GroupWrite::default() };
                    self.node.writer.add(write, Some(Done::Buried));
                }
                Some(_) => {}
            }
        }
    }

    /// A snapshot of a target of after a merge takes the place of both: the replicas of its sources go in the one log write by which it is
    /// installed.
    pub(super) fn bury_with(&mut self, header: &Header) {
        let target = header.shard;
        if !self.shards.get(&target).is_some_and(Shard::is_installing) {
            return;
        }
        for source in header.bounds.iter().flat_map(|row| &row.absorbed) {
            let goes = |shard: &Shard| shard.goes_into() == Some(target) && !shard.is_installing();
            if self.shards.get(source).is_some_and(goes) {
                self.remove(*source, GONE);
            }
        }
    }

    /// The log of a source is gone.
    pub(super) fn buried(&mut self, source: ShardId) {
        let Some(at) = self.merges.burials.iter().position(|burial| burial.source == source) else { return };
        let Burial { space, .. } = self.merges.burials.remove(at);
        let mark = keys::absorbed_row(space);
        let after = [&mark[..], &[0]].concat();
        let removed = self.node.store.remove_range(&mark, &after);
        self.node.must(removed);
    }

    /// Which of these groups went into others here before a crash: their rows are others' by now, and their logs go.
    pub(super) fn bury_absorbed(
        &mut self,
        groups: &[ShardId],
        spaces: &[(ShardId, Space)],
    ) -> Result<Vec<ShardId>, StoreError> {
        let mut absorbed = Vec::new();
        for id in groups {
            let space =
                spaces.iter().find(|(of, _)| of == id).map_or_else(|| super::own_space(*id), |(_, space)| *space);
            let Some(row) = self.node.store.get(&keys::absorbed_row(space))? else { continue };
            let row = AbsorbedRow::decode(row);
            let row = row.map_err(|e| e.corrupt(format!("mark of shard {id}, which went into another one")))?;
            if row.source != *id {
                continue;
            }
            absorbed.push(*id);
            self.node.shared.roster.bury(*id);
            if self.node.has(*id) {
                tracing::info!(
                    shard = id.0,
                    target = row.target.0,
                    "shard {id} has gone into another one: its log goes"
                );
                self.merges.burials.push(Burial { source: *id, space, flush: None, going: true });
                let write = GroupWrite { shard: *id, remove: Some(GONE), ..GroupWrite::default() };
                self.node.writer.add(write, Some(Done::Buried));
            }
        }
        Ok(absorbed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_cluster::ids::Ballot;

    #[test]
    fn an_absorb_needs_the_word_of_every_voter_for_one_freeze() {
        let at = EntryId { slot: Slot(7), origin: Ballot::default() };
        let voters = || [1, 2, 3].map(NodeId).into_iter();
        let words = |slots: &[(u64, u64)]| -> BTreeMap<NodeId, Slot> {
            slots.iter().map(|(node, slot)| (NodeId(*node), Slot(*slot))).collect()
        };
        assert!(agreed(&words(&[(1, 7), (2, 7), (3, 7)]), voters(), at));
        assert!(!agreed(&words(&[(1, 7), (2, 7)]), voters(), at), "a majority is not enough");
        assert!(!agreed(&words(&[(1, 7), (2, 7), (3, 6)]), voters(), at), "that is of another freeze");
    }
}
