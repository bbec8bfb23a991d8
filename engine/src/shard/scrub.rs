//! A replica's part in comparing replicas.
//!
//! Owns: the marker it stands at, the hashes it was told. Must never: apply past a marker before its state is frozen there, or
//! compare hashes of different slots.

use super::step::Proposed;
use super::{Core, Shard};
use crate::command::marker;
use crate::host::{Host, ScrubReport};
use crate::round::Node;
use crate::scrub::{ScrubRequest, Scrubbed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::ids::{NodeId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::types::{Membership, Micros};

/// Slots whose hashes are kept.
const SLOTS_MAX: usize = 4;

/// What is known of the last comparisons.
#[derive(Debug)]
pub(super) struct Scrubs {
    /// Markers up to here were in the log when the process began: nobody waits for them.
    behind: Slot,
    marked: Option<Slot>,
    /// Being read: the marker, and the log from where on.
    reading: Option<(Slot, Slot)>,
    /// By slot, then by member.
    told: BTreeMap<Slot, BTreeMap<NodeId, u128>>,
    /// The last slot that this replica was read at.
    own: Option<(Slot, u128)>,
    /// Divergences that were said already.
    said: BTreeSet<(Slot, NodeId)>,
    /// When a leader here proposes the next marker.
    due: Option<Micros>,
}

impl Scrubs {
    pub(super) fn behind(last: Slot) -> Self {
        let (told, said) = (BTreeMap::new(), BTreeSet::new());
        Self { behind: last, marked: None, reading: None, told, own: None, said, due: None }
    }

    /// Whether the state must be frozen before more is applied.
    pub(super) fn is_marked(&self) -> bool {
        self.marked.is_some()
    }

    /// Whether the state of a marker is to be read, or is being read.
    pub(super) fn is_busy(&self) -> bool {
        self.marked.is_some() || self.reading.is_some()
    }

    /// The log is not trimmed beyond this.
    pub(super) fn keeps_log(&self) -> Slot {
        self.reading.map_or(Slot(u64::MAX), |(_, from)| from)
    }

    fn tell(&mut self, slot: Slot, from: NodeId, hash: u128) {
        self.told.entry(slot).or_default().insert(from, hash);
        while self.told.len() > SLOTS_MAX {
            self.told.pop_first();
        }
    }

    /// By the last comparison that all voters took part in, or that has found a difference without some.
    fn found_different(&self, members: &Membership) -> bool {
        for told in self.told.values().rev() {
            let first = told.values().next();
            if told.values().any(|hash| Some(hash) != first) {
                return true;
            }
            if members.voters().all(|voter| told.contains_key(&voter)) {
                return false;
            }
        }
        false
    }

    /// The last comparison that this replica took part in.
    pub(super) fn report(&self, members: &Membership) -> Option<ScrubReport> {
        let (slot, hash) = self.own?;
        let told = self.told.get(&slot)?;
        let with = |hash: u128| told.values().filter(|other| **other == hash).count();
        let voters = members.voters().count();
        let most = told.values().copied().find(|hash| 2 * with(*hash) > voters);
        let equal = with(hash) == told.len();
        let differs = |found: u128| most.is_some_and(|most| most != found);
        let diverged = told.iter().filter(|(_, found)| differs(**found)).map(|(node, _)| *node).collect();
        Some(ScrubReport { slot, hash, compared: told.keys().copied().collect(), equal, diverged })
    }
}

impl Shard {
    /// A marker was applied at `slot`. Whether the state must be frozen before more is applied.
    pub(super) fn mark<H: Host>(&mut self, node: &mut Node<H>, slot: Slot) -> bool {
        if slot <= self.scrubs.behind || self.scrubs.reading.is_some() {
            return false;
        }
        self.scrubs.marked = Some(slot);
        node.marked.push(self.id);
        true
    }

    /// What is to be read of the state of the marker just applied.
    pub(crate) fn scrub_request<H: Host>(&self, node: &Node<H>) -> Option<ScrubRequest> {
        let slot = self.scrubs.marked?;
        assert!(slot == self.state.applied(), "shard {}: past its marker at slot {slot}", self.id);
        let (rows, trimmed) = (self.state.replicated(), self.trimmed);
        Some(ScrubRequest { shard: self.id, slot, rows, trimmed, log: Arc::clone(&node.log) })
    }

    /// The state is frozen (`reads`), or will not be read at this marker: what follows it may be applied.
    pub(crate) fn unmark<H: Host>(&mut self, node: &mut Node<H>, reads: bool) {
        let Some(slot) = self.scrubs.marked.take() else { return };
        self.scrubs.reading = reads.then_some((slot, self.trimmed));
        self.schedule(node);
    }

    /// Whether the reading at this marker is still under way: a snapshot may have taken the replica's place.
    pub(crate) fn reads_at(&self, slot: Slot) -> bool {
        self.scrubs.reading.is_some_and(|(reading, _)| reading == slot)
    }

    /// Whether the comparison begun here at this marker is under way.
    pub(crate) fn is_comparing(&self, slot: Slot) -> bool {
        self.leading && (self.state.applied() < slot || self.scrubs.marked == Some(slot) || self.reads_at(slot))
    }

    /// The replica was read (or, `None`, could not be): every member is told.
    pub(crate) fn scrubbed<H: Host>(&mut self, node: &mut Node<H>, slot: Slot, found: Option<Scrubbed>) {
        self.scrubs.reading = None;
        let Some(found) = found else { return };
        self.scrubs.own = Some((slot, found.hash));
        self.scrubs.tell(slot, node.me, found.hash);
        for to in self.members.members.iter().map(|member| member.node).filter(|to| *to != node.me) {
            node.host.tell_scrub(to, self.id, slot, found.hash);
        }
        node.metrics.scrubs_total.inc();
        node.metrics.scrub_bytes_total.inc_by(found.bytes);
        self.judge(node);
    }

    /// A member told what it holds.
    pub(crate) fn scrub_hash<H: Host>(&mut self, node: &mut Node<H>, from: NodeId, slot: Slot, hash: u128) {
        if self.members.role_of(from).is_some() {
            self.scrubs.tell(slot, from, hash);
            self.judge(node);
        }
    }

    /// Says, once, who differs.
    fn judge<H: Host>(&mut self, node: &mut Node<H>) {
        let Some(report) = self.scrubs.report(&self.members) else { return };
        let ScrubReport { slot, ref compared, ref diverged, equal, .. } = report;
        let all_told = self.members.voters().all(|voter| compared.contains(&voter));
        if !equal && diverged.is_empty() && all_told && self.scrubs.said.insert((slot, node.me)) {
            node.metrics.scrub_diverged_total.inc();
            tracing::error!(
                shard = self.id.0,
                "the replicas of shard {} differ at slot {slot}, and no majority says which are right",
                self.id
            );
        }
        for odd in diverged {
            if self.scrubs.said.insert((slot, *odd)) {
                node.metrics.scrub_diverged_total.inc();
                tracing::error!(
                    shard = self.id.0,
                    node = odd.0,
                    "the replicas of shard {} differ at slot {slot}: that of node {odd} is not what a majority holds",
                    self.id
                );
            }
        }
        self.scrubs.said.retain(|(said, _)| *said >= slot);
    }

    /// Whether the last comparison that has come to an end found a difference.
    pub(crate) fn diverged(&self) -> bool {
        self.scrubs.found_different(&self.members)
    }

    /// When this leader is to propose the next marker; the first time at random within the interval.
    pub(crate) fn scrub_due<H: Host>(&mut self, node: &mut Node<H>, interval: u64) -> Option<Micros> {
        if !self.leading || self.is_missing() {
            return None;
        }
        let (now, random) = (node.now, node.host.random());
        Some(*self.scrubs.due.get_or_insert_with(|| now.plus(random % interval)))
    }

    /// Proposes a marker; returns its slot.
    pub(crate) fn propose_marker<H: Host>(
        &mut self,
        node: &mut Node<H>,
        next: Option<Micros>,
    ) -> Result<Slot, Refusal> {
        if !matches!(self.core, Core::Running(_)) || !self.leading {
            return Err(Refusal::NotLeader { leader: self.leader(), maybe: false });
        }
        let ts = self.timestamp(node);
        let Proposed { first, .. } = self.propose_entries(node, vec![(ts, marker())])?;
        self.scrubs.due = next;
        Ok(first)
    }
}
