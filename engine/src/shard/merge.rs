//! A merge, as the replicas of its two shards carry it out: the *source* goes into its neighbour, the *target*.
//!
//! Owns: what their leaders propose, and the moment at which a target takes its source in. Must never: decide whether an entry counts
//! (`machine/merge.rs` does, where it is applied), or apply an absorb to a source that is not as the entry says.

use super::snapshot::Install;
use super::step::Proposed;
use super::{Core, Shard};
use crate::codec::bounds::{Frozen, Merge, Phase};
use crate::command::{Absorb, Admin, BeginMerge, Cancel, Freeze, encode_admin};
use crate::host::{Host, MERGE_CANCELLED, MERGE_FROZEN, MERGE_MERGING, MergeReport, MergeWanted, Told};
use crate::logstore::GroupWrite;
use crate::machine::ShardState;
use crate::round::Node;
use crate::writer::Done;
use bytes::Bytes;
use synod_cluster::ids::{ClusterVersion, EntryId, NodeId, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{CLUSTER_VERSION, SystemState};
use synod_paxos::io::Input;
use synod_paxos::types::{Entry, Member};

/// A source's time may be so far ahead of the clocks, µs: the target goes on from there, for ever.
const AHEAD_MAX_US: u64 = 1_000_000;

/// An absorb that is next in the log of a target, and waits for the source.
pub(super) struct Awaited {
    entry: Entry,
    absorb: Absorb,
}

/// What a target asks of its source before a merge is begun.
pub(crate) struct Source {
    from: Bytes,
    to: Bytes,
    members: Vec<Member>,
}

/// Refuses merges in a cluster that does not know them.
///
/// # Errors
/// It is at an earlier version.
pub(crate) fn knows_merges<H: Host>(node: &Node<H>) -> Result<(), Refusal> {
    let (version, needed) = (node.cluster_version, ClusterVersion::FIFTH);
    if version >= needed {
        return Ok(());
    }
    let why = format!("the cluster is at version {version}, merges need {needed}: `synod cluster upgrade` raises it");
    Err(Refusal::Invalid { field: CLUSTER_VERSION, why })
}

impl Shard {
    /// How far a merge is that the shard takes part in.
    pub(crate) fn phase(&self) -> &Phase {
        self.state.phase()
    }

    /// Whether it takes part in a merge.
    pub(crate) fn is_merging(&self) -> bool {
        !self.is_missing() && *self.phase() != Phase::Alone
    }

    /// The merge that it takes its neighbour in by, or did not.
    pub(crate) fn merge(&self) -> Option<Merge> {
        match self.phase() {
            Phase::Merging(merge) | Phase::Cancelled(merge) if !self.is_missing() => Some(*merge),
            _ => None,
        }
    }

    /// Its freeze for this attempt of a target, where it is frozen for that.
    pub(crate) fn frozen_for(&self, target: ShardId, seq: u64) -> Option<Frozen> {
        self.freeze().filter(|frozen| (frozen.target, frozen.seq) == (target, seq))
    }

    /// Its freeze, where it is frozen.
    pub(crate) fn freeze(&self) -> Option<Frozen> {
        match self.phase() {
            Phase::Frozen(frozen) if !self.is_missing() => Some(*frozen),
            _ => None,
        }
    }

    /// The shard that it is frozen for.
    pub(crate) fn goes_into(&self) -> Option<ShardId> {
        self.freeze().map(|frozen| frozen.target)
    }

    /// Whether what was applied up to `slot` is on disk here.
    pub(crate) fn is_flushed_at(&self, slot: Slot) -> bool {
        self.durable_applied >= slot && self.held_version == self.state.descriptor().version
    }

    /// The leader, as far as it is known here.
    pub(crate) fn leader_known(&self) -> Option<NodeId> {
        self.leader()
    }

    /// The voters of the epoch in force.
    pub(crate) fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.voters()
    }

    /// Whether this replica leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.leading
    }

    /// What a status shows of a merge; `since_us` is for how long it is in its phase.
    pub(crate) fn merge_report(&self, since_us: u64) -> Option<MergeReport> {
        if self.is_missing() {
            return None;
        }
        let (phase, with) = match self.phase() {
            Phase::Alone => return None,
            Phase::Merging(merge) => (MERGE_MERGING, merge.source),
            Phase::Cancelled(merge) => (MERGE_CANCELLED, merge.source),
            Phase::Frozen(frozen) => (MERGE_FROZEN, frozen.target),
        };
        Some(MergeReport { phase, with, since_us })
    }

    /// Whether the shard, led here, can go into a neighbour as that was computed.
    ///
    /// # Errors
    /// It cannot, or not now.
    pub(crate) fn offer<H: Host>(&mut self, node: &Node<H>, wanted: &MergeWanted) -> Result<Source, Refusal> {
        let (id, version, epoch) = (self.id, self.state.descriptor().version, self.members.epoch);
        if !self.leading {
            // The job has it led where the other one is.
            return Err(Refusal::NotReady);
        }
        if (version, epoch) != (wanted.source_version, wanted.source_epoch) {
            let why = format!(
                "shard {id} is at version {version} and epoch {epoch}, the merge was computed for {} and {}",
                wanted.source_version, wanted.source_epoch
            );
            return Err(Refusal::Invalid { field: "source_version", why });
        }
        if self.is_ahead_by(node) > AHEAD_MAX_US {
            let why =
                format!("the time of shard {id} is ahead of the clocks, and the other shard would go on from there");
            return Err(Refusal::Invalid { field: "source", why });
        }
        if let Some(why) = self.hindrance(node) {
            tracing::info!(shard = id.0, "a merge waits: {why}");
            return Err(Refusal::NotReady);
        }
        let descriptor = self.state.descriptor();
        let members = self.members.members.clone();
        Ok(Source { from: descriptor.from.clone(), to: descriptor.to.clone(), members })
    }

    /// Proposes that a neighbour goes into the shard, where this replica leads and nothing keeps it from that.
    pub(crate) fn propose_merge<H: Host>(
        &mut self,
        node: &mut Node<H>,
        map: &SystemState,
        (wanted, source): (MergeWanted, Source),
        told: Told,
    ) {
        if !self.leading {
            return told(Err(Refusal::NotLeader { leader: self.leader(), maybe: false }));
        }
        if let Some(why) = self.hindrance(node) {
            tracing::info!(shard = self.id.0, "a merge waits: {why}");
            return told(Err(Refusal::NotReady));
        }
        let known = |shard: &ShardId| map.shards.contains_key(shard) || map.vanished(*shard);
        let children = self.state.children().iter().map(|mark| mark.shard).filter(known);
        let absorbed = self.state.absorbed().iter().copied().filter(|shard| map.vanished(*shard));
        let confirmed = children.chain(absorbed).collect();
        let MergeWanted { version, epoch, source: id, source_version, source_epoch } = wanted;
        let Source { from, to, members } = source;
        if members != self.members.members {
            let why = format!("shard {id} has other members than shard {}: move them first", self.id);
            return told(Err(Refusal::Invalid { field: "source", why }));
        }
        let begin = BeginMerge { source: id, version, epoch, source_version, source_epoch, from, to, confirmed };
        let (admin, accepted) = (Admin::BeginMerge(begin), self.status().map(|status| status.accepted));
        if let Some(why) = accepted.and_then(|accepted| self.state.refuses_step(&admin, accepted)) {
            return told(Err(why));
        }
        tracing::info!(shard = self.id.0, source = id.0, "a merge is proposed");
        self.order(node, &admin, told);
    }

    /// Proposes that a merge is taken back.
    pub(crate) fn propose_cancel<H: Host>(&mut self, node: &mut Node<H>, source: ShardId, told: Told) {
        if !self.leading {
            return told(Err(Refusal::NotLeader { leader: self.leader(), maybe: false }));
        }
        match self.phase() {
            Phase::Merging(merge) if merge.source == source => {
                let cancel = Cancel { seq: merge.seq };
                self.order(node, &Admin::Cancel(cancel), told);
            }
            _ => told(Ok(())),
        }
    }

    /// Proposes that the shard stands still, to go into its target, where this replica leads it as the merge names it.
    pub(crate) fn propose_freeze<H: Host>(&mut self, node: &mut Node<H>, target: ShardId, merge: &Merge) {
        let Merge { seq, source_version: version, source_epoch: epoch, .. } = *merge;
        // It is not where another one leads, and then nothing is done.
        if self.leading && self.hindrance(node).is_none() {
            self.propose_next(node, &Admin::Freeze(Freeze { target, seq, version, epoch }));
        }
    }

    /// Proposes a further entry of a merge, where this replica leads and no other change is under way.
    pub(crate) fn propose_next<H: Host>(&mut self, node: &mut Node<H>, admin: &Admin) {
        let Some(status) = self.status().filter(|_| self.leading && self.order.is_none()) else { return };
        if self.has_applied_own() && self.state.refuses_step(admin, status.accepted).is_none() {
            self.order(node, admin, nobody());
        }
    }

    /// Proposes an administrative entry; `told` hears of a refusal at once, else of what became of it.
    fn order<H: Host>(&mut self, node: &mut Node<H>, admin: &Admin, told: Told) {
        if self.order.is_some() {
            return told(Err(Refusal::NotReady));
        }
        let ts = self.timestamp(node);
        match self.propose_entries(node, vec![(ts, encode_admin(admin))]) {
            Ok(Proposed { first, ballot }) => self.ordered(first, ballot, told),
            Err(why) => told(Err(why)),
        }
    }

    /// Looks whether the next entry takes a neighbour in. It is applied once the worker has brought that.
    pub(super) fn awaits_source<H: Host>(&mut self, node: &mut Node<H>, entry: &Entry) -> bool {
        let found = self.state.takes_in(entry);
        let Some(absorb) = found.unwrap_or_else(|error| node.state_failed(&error)) else { return false };
        self.awaited = Some(Box::new(Awaited { entry: entry.clone(), absorb }));
        node.merging.push(self.id);
        true
    }

    /// The neighbour that the next entry takes in.
    pub(crate) fn awaited(&self) -> Option<&Absorb> {
        self.awaited.as_deref().map(|awaited| &awaited.absorb)
    }

    /// Whether this is what the absorb of a target means.
    pub(crate) fn is_as_absorbed(&self, target: ShardId, absorb: &Absorb) -> bool {
        !self.is_missing() && !self.is_installing() && self.state.is_frozen_at(target, absorb)
    }

    /// Takes the neighbour in: the entry is applied, and from now on its rows are this shard's.
    pub(crate) fn take_in<H: Host>(&mut self, node: &mut Node<H>, source: ShardState) {
        let Some(awaited) = self.awaited.take() else { return };
        let Awaited { entry, absorb } = *awaited;
        self.position = Some((entry.id, entry.ts));
        self.sizes.applied(entry.id.slot, entry.size(), node.log_keep.step());
        let mine = self.proposals.applied(node, &entry);
        let told = self.order_applied(entry.id);
        let applied = self.state.absorb(&mut *node.store, &entry, source);
        let effects = applied.unwrap_or_else(|error| node.state_failed(&error));
        self.follow(node, entry.id.slot, effects, (mine, told));
        tracing::info!(shard = self.id.0, source = absorb.source.0, "the shard has taken its neighbour in");
        self.step(node, Input::Applied(self.state.applied()));
        // The other members take it in at once too.
        self.step(node, Input::Tell);
        self.reads.state_moved();
        self.schedule(node);
    }

    /// The neighbour is not here as the log says: nothing may be applied any longer. The replica goes on without a state, and a snapshot
    /// brings both shards. Its rows stay until then.
    pub(crate) fn lose_state<H: Host>(&mut self, node: &mut Node<H>) {
        let Core::Running(replica) = &self.core else { return };
        let (id, hard) = (self.id, replica.hard().clone());
        tracing::error!(
            shard = id.0,
            "the neighbour that shard {id} is to take in is not here as the log says: a snapshot of another member is asked for"
        );
        self.answer_all(node, &Refusal::NotReady);
        self.awaited = None;
        self.cached.set(0);
        // It changes nothing. Behind it nothing of the replica is under way.
        let write = GroupWrite { shard: id, hard: Some(hard.clone()), ..GroupWrite::default() };
        let (id, ts, space) = (EntryId::ZERO, self.state.last_ts(), self.state.space());
        self.core = Core::Installing(Box::new(Install { hard, id, ts, space, keeps_log: true }));
        node.writer.add(write, Some(Done::Lost));
    }

    /// The state, of a replica that ends here because another shard has taken it in.
    pub(crate) fn into_state(self) -> ShardState {
        self.state
    }
}

/// Nobody waits for what becomes of an entry: its phase shows it.
fn nobody() -> Told {
    Box::new(|_| ())
}
