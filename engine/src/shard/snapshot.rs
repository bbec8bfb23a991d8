//! A replica's part in snapshots: the position one is made at, what the log keeps for members that are behind, and the
//! passage from the old replica to the one that a snapshot makes.
//!
//! Owns: the sizes of what is left of the log. Must never: let the core take part between the write that replaces its log and
//! that write's end, or forget a promise.

use super::{Core, Shard};
use crate::codec::keys::Bounds;
use crate::host::{Host, SnapshotRequest};
use crate::logstore::{GroupRecovered, GroupWrite};
use crate::round::Node;
use crate::snapshot::Header;
use crate::writer::Done;
use bytes::Bytes;
use std::collections::VecDeque;
use synod_cluster::ids::{EntryId, HardState, NodeId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input;
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, Basis};

/// Bytes of the log that are trimmed at once when they can go, however few slots they are.
pub(super) const TRIM_BYTES: u64 = 16 << 20;

/// About how many bytes of entries the log has after each slot.
#[derive(Debug, Default)]
pub(super) struct LogSizes {
    total: u64,
    /// Slots and the total when they were applied, a mark now and then.
    marks: VecDeque<(Slot, u64)>,
    /// The total at the last trim.
    trimmed: u64,
}

impl LogSizes {
    /// Of a log that was found with these marks, applied up to `applied`: what lies above is counted as it is applied.
    pub(super) fn recovered(marks: Vec<(Slot, u64)>, applied: Slot) -> Self {
        let marks: VecDeque<_> = marks.into_iter().take_while(|(slot, _)| *slot <= applied).collect();
        Self { total: marks.back().map_or(0, |(_, total)| *total), marks, trimmed: 0 }
    }

    /// Bytes of entries after `slot`, at least.
    pub(super) fn since(&self, slot: Slot) -> u64 {
        let next = self.marks.partition_point(|(mark, _)| *mark < slot);
        self.marks.get(next).map_or(0, |(_, at)| self.total - at)
    }

    /// An entry was applied; a mark is set at least every `step` bytes.
    pub(super) fn applied(&mut self, slot: Slot, bytes: usize, step: u64) {
        self.total += bytes as u64;
        if self.marks.back().is_none_or(|(_, at)| self.total - at >= step) {
            self.marks.push_back((slot, self.total));
        }
    }

    /// The last marked slot with at least `keep` bytes after it; slot 0 where there is none.
    pub(super) fn behind(&self, keep: u64) -> Slot {
        let far = |mark: &&(Slot, u64)| self.total - mark.1 >= keep;
        self.marks.iter().take_while(far).last().map_or(Slot(0), |(slot, _)| *slot)
    }

    fn at(&self, slot: Slot) -> u64 {
        self.marks.iter().take_while(|(mark, _)| *mark <= slot).last().map_or(self.trimmed, |(_, total)| *total)
    }

    /// Whether at most `bytes` bytes come after `slot`; `false` where no mark is left below it.
    pub(super) fn within(&self, slot: Slot, bytes: u64) -> bool {
        let at = self.marks.iter().take_while(|(mark, _)| *mark <= slot).last();
        at.is_some_and(|(_, at)| self.total - at <= bytes)
    }

    /// Bytes that a trim up to `slot` frees, about.
    pub(super) fn freed(&self, slot: Slot) -> u64 {
        self.at(slot).saturating_sub(self.trimmed)
    }

    /// The log was trimmed up to `slot`.
    pub(super) fn trimmed(&mut self, slot: Slot) {
        self.trimmed = self.at(slot).max(self.trimmed);
        while self.marks.get(1).is_some_and(|(next, _)| *next <= slot) {
            self.marks.pop_front();
        }
    }
}

/// A snapshot whose write is under way.
pub(super) struct Install {
    pub(super) hard: HardState,
    pub(super) id: EntryId,
    pub(super) ts: u64,
    pub(super) space: Space,
    pub(super) keeps_log: bool,
}

impl Shard {
    /// What a snapshot of what is applied now is to say; `None` where that cannot be told yet.
    pub(crate) fn snapshot_request<H: Host>(&self, node: &mut Node<H>) -> Option<SnapshotRequest> {
        let Core::Running(replica) = &self.core else { return None };
        if self.is_missing() {
            return None;
        }
        let applied = self.state.applied();
        let status = replica.status();
        // What governs behind `applied` is known only once the last stop-sign known chosen is applied.
        let bounds = self.state.bounds_row();
        // A child of a split begins with a state; any other shard has nothing before its first entry.
        if (applied == Slot(0) && bounds.is_none()) || status.epoch_start > applied {
            return None;
        }
        let (id, ts) = match self.position {
            Some(position) => position,
            None => {
                let read = node.log.entries(self.id, Slot(applied.0 - 1), applied, 1);
                let entry = node.must(read).into_iter().next()?;
                (entry.id, entry.ts)
            }
        };
        assert!(id.slot == applied, "shard {}: at slot {applied} the last entry is {id:?}", self.id);
        let epoch_start = status.epoch_start;
        let promised = if planted!(SnapshotWithoutPromise) { Ballot::default() } else { replica.hard().promised };
        let basis = Basis { id, membership: status.membership, epoch_start, promised };
        let (genesis, space, rows) = (self.genesis.clone(), self.state.space(), self.state.replicated());
        Some(SnapshotRequest { shard: self.id, genesis, basis, ts, bounds, space, rows })
    }

    /// The log keeps what follows `slot`, whatever its size: a snapshot of that position is on its way.
    pub(crate) fn hold_log(&mut self, slot: Option<Slot>) {
        self.held = slot;
    }

    /// Up to where `member` is known to hold the log that this replica leads.
    pub(crate) fn held_by(&self, member: NodeId) -> Option<Slot> {
        match &self.core {
            Core::Running(replica) => replica.held_by(member),
            Core::Waiting(_) | Core::Installing(_) => None,
        }
    }

    /// Whether at most `bytes` of the log lie behind `slot`.
    pub(crate) fn is_within(&self, slot: Slot, bytes: u64) -> bool {
        slot >= self.state.applied() || self.sizes.within(slot, bytes)
    }

    /// The log is gone up to here.
    pub(crate) fn trimmed_slot(&self) -> Slot {
        self.trimmed
    }

    /// Whether this snapshot would bring the replica further than its own log can; where its state is gone, whether what is
    /// left of its log goes on behind it.
    pub(crate) fn lacks(&self, header: &Header) -> bool {
        let Core::Running(replica) = &self.core else { return false };
        let position = header.basis.id;
        let further = if self.is_missing() {
            position.slot >= self.trimmed
        } else {
            position.slot > self.state.applied() && !replica.holds(position)
        };
        let something = position.slot > Slot(0) || self.is_unborn();
        header.shard == self.id && header.genesis == self.genesis && something && further
    }

    /// A snapshot that is not needed, since the log reaches it, tells that the log is chosen up to there. Nobody else may be
    /// able to tell: of a member of an earlier epoch the others know only what it has learnt, and what follows that is trimmed.
    /// To the core it is what its maker would say of its own log: chosen entries behind one that is held, none of them new.
    pub(crate) fn learn_from<H: Host>(&mut self, node: &mut Node<H>, header: &Header) {
        let Core::Running(replica) = &self.core else { return };
        let Basis { id, membership, promised, .. } = header.basis.clone();
        let from = self.leader().or_else(|| membership.voters().find(|voter| *voter != node.me));
        let (Some(from), true) = (from, header.genesis == self.genesis && replica.holds(id)) else { return };
        let message =
            Message::Learn { epoch: membership.epoch, promised, prev: id, entries: Vec::new(), commit: id.slot };
        self.step(node, Input::Message { from, message });
    }

    /// The snapshot's rows are durable in `space`: writes, in one write, the hard state, the log's new beginning and the
    /// pointer to the space. Until that is on disk the replica takes part in nothing. A log that holds the snapshot's last
    /// entry (that of a replica whose state is gone) keeps what follows: it may be acknowledged; any other is replaced.
    pub(crate) fn install<H: Host>(&mut self, node: &mut Node<H>, header: &Header, space: Space) {
        let Core::Running(replica) = &self.core else { return };
        let mut hard = replica.hard().after_snapshot(&header.basis);
        if planted!(InstallForgetsPromise) {
            (hard.promised, hard.accepted) = (header.basis.promised, header.basis.id.origin);
        }
        let id = header.basis.id;
        let keeps_log = replica.holds(id) && !planted!(ReinstallForgetsLog);
        let write = GroupWrite {
            shard: self.id,
            hard: Some(hard.clone()),
            truncate_from: (!keeps_log).then_some(Slot(1)),
            trim: (id.slot > Slot(0)).then_some(id),
            space: Some(space),
            ..GroupWrite::default()
        };
        self.answer_all(node, &Refusal::NotReady);
        self.cached.set(0);
        self.core = Core::Installing(Box::new(Install { hard, id, ts: header.ts, space, keeps_log }));
        node.writer.add(write, Some(Done::Installed));
    }

    /// The rows of the state store that go with this replica; none where its state is gone: they went when that was found.
    pub(crate) fn rows_to_remove(&self) -> Vec<Bounds> {
        if self.is_missing() { Vec::new() } else { self.state.to_remove() }
    }

    /// The write of [`Shard::install`] is on disk: what a restart would find now, and the old rows.
    pub(crate) fn installed<H: Host>(&mut self, node: &mut Node<H>) -> Option<(GroupRecovered, Vec<Bounds>)> {
        let Core::Installing(install) = &self.core else { return None };
        let found = if install.keeps_log {
            let found = node.log.recover_group(self.id);
            node.must(found)?
        } else {
            GroupRecovered {
                genesis: self.genesis.clone(),
                hard: install.hard.clone(),
                space: Some(install.space),
                trimmed: install.id,
                runs: Vec::new(),
                last: install.id,
                last_ts: install.ts,
                sizes: Vec::new(),
            }
        };
        self.answer_all(node, &Refusal::NotReady);
        Some((found, self.rows_to_remove()))
    }

    /// What the group was created with.
    pub(crate) fn genesis(&self) -> &Bytes {
        &self.genesis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_found_at_the_start_counts_as_far_as_it_is_applied() {
        let mut sizes = LogSizes::recovered(vec![(Slot(10), 500), (Slot(20), 1000), (Slot(30), 1500)], Slot(25));
        assert_eq!((sizes.since(Slot(0)), sizes.since(Slot(15)), sizes.since(Slot(25))), (500, 0, 0));
        for slot in 21..=30 {
            sizes.applied(Slot(slot), 50, 100);
        }
        assert_eq!(sizes.since(Slot(10)), 1000);
        assert_eq!(sizes.behind(900), Slot(10));
        assert_eq!(sizes.behind(500), Slot(20));
    }

    #[test]
    fn sizes_tell_what_may_go() {
        let mut sizes = LogSizes::default();
        for slot in 1..=100 {
            sizes.applied(Slot(slot), 10, 50);
        }
        assert_eq!(sizes.behind(1001), Slot(0));
        assert_eq!(sizes.behind(500), Slot(46));
        assert!(sizes.within(Slot(46), 540) && sizes.within(Slot(50), 540) && !sizes.within(Slot(45), 540));
        assert!(!sizes.within(Slot(0), 1000), "what lies behind it is not known");
        // More bytes may lie behind a slot than the state has durably: what goes then is counted all the same.
        assert_eq!(sizes.freed(Slot(30)), 260);
        assert_eq!(sizes.freed(Slot(46)), 460);
        sizes.trimmed(Slot(46));
        assert_eq!(sizes.freed(Slot(46)), 0);
        assert_eq!(sizes.freed(Slot(60)), 100);
        assert_eq!(sizes.behind(500), Slot(46));
        for slot in 101..=200 {
            sizes.applied(Slot(slot), 10, 50);
        }
        assert_eq!(sizes.behind(500), Slot(146));
    }
}
