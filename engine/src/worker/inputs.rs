//! What a worker does with each input.
//!
//! Owns: the way of an input to the shard that it concerns, and the node's quarantine. Must never: leave a request
//! without an answer, or let a quarantined node take part.

use super::Worker;
use crate::genesis::Genesis;
use crate::host::{
    AdminInput, HandOverInput, Host, Input, NodeInput, NodeReport, PeerInput, ReplicaReport, Request, RowsFetched,
    ScrubInput, SnapshotInput,
};
use crate::identity::Mark;
use crate::shard::Shard;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input as Step;
use synod_paxos::message::Message;
use synod_paxos::types::Epoch;

impl<H: Host> Worker<H> {
    /// Takes one input about this worker's shards, or the node.
    pub(super) fn take_here(&mut self, input: Input) {
        match input {
            Input::Requests(requests) => requests.into_iter().for_each(|request| self.take_request(request)),
            Input::Peer(input) => self.take_peer(input),
            Input::Node(input) => self.take_node(input),
            Input::Snapshot(input) => self.take_snapshot(input),
            Input::Scrub(input) => self.take_scrub(input),
            Input::Admin(input) => self.take_admin(input),
            Input::Merge(input) => self.take_word(input),
            Input::Rows(RowsFetched { shard, ticket }) => {
                if let Some(shard) = self.shards.get_mut(&shard) {
                    shard.rows_fetched(&mut self.node, ticket);
                }
            }
            Input::HandOver(HandOverInput::Begin { shard, to }) => self.hand_over(shard, to, 0),
            Input::HandOver(HandOverInput::Parcel { parcel, .. }) => self.take_parcel(parcel),
        }
    }

    fn take_peer(&mut self, input: PeerInput) {
        match input {
            PeerInput::Messages { from, incarnation, write_seq, messages } => {
                self.take_messages(from, (incarnation, write_seq), messages);
            }
            PeerInput::Liveness { node, alive } => self.take_liveness(node, alive),
            PeerInput::Clock { node, reading } => self.node.walls.note(node, reading),
            PeerInput::Disk { node, low: true } => drop(self.node.low_peers.insert(node)),
            PeerInput::Disk { node, low: false } => drop(self.node.low_peers.remove(&node)),
            PeerInput::IdentityAnswer { from, seen } => self.take_identity(from, seen),
            PeerInput::RunsTwice { from, seen, why } => self.take_twice(from, seen, &why),
        }
    }

    fn take_node(&mut self, input: NodeInput) {
        match input {
            NodeInput::Map(map) if self.takes_part() => self.adopt_map(map),
            NodeInput::CreateSystemShard(state) if self.takes_part() => {
                let genesis = Genesis::System(state);
                let member = genesis.descriptor().is_some_and(|d| d.membership.role_of(self.node.me).is_some());
                if member {
                    self.create(SYSTEM_SHARD, genesis);
                }
            }
            // The write itself is found by asking the log writer, which every round does.
            NodeInput::Map(_) | NodeInput::CreateSystemShard(_) | NodeInput::Written(_) => {}
            NodeInput::DiskLow(why) => self.take_disk_low(why),
            NodeInput::DiskSpare(bytes) => self.node.disk_spare = bytes,
            NodeInput::Status(tell) => tell(self.report()),
            NodeInput::Drain => self.drain(),
            NodeInput::Stop => self.stop(),
        }
    }

    fn take_snapshot(&mut self, input: SnapshotInput) {
        if !self.takes_part() {
            return;
        }
        match input {
            SnapshotInput::Asked { by, shard, least } => self.node.snapshots_wanted.push((shard, by, least)),
            SnapshotInput::Built { shard, result } => self.snapshot_built(shard, result),
            SnapshotInput::Spoilt { shard } => self.snapshot_spoilt(shard),
            SnapshotInput::Fetched(header) => self.snapshot_fetched(*header),
            SnapshotInput::Loaded { shard, space, result } => self.snapshot_loaded(shard, space, result),
        }
    }

    fn take_scrub(&mut self, input: ScrubInput) {
        if !self.takes_part() {
            return;
        }
        match input {
            ScrubInput::Scrubbed { shard, slot, result } => self.scrubbed(shard, slot, result),
            ScrubInput::Told { from, shard, slot, hash } => self.scrub_hash(from, shard, slot, hash),
        }
    }

    fn take_admin(&mut self, input: AdminInput) {
        match input {
            AdminInput::Transfer { shard, to, done } => done(self.transfer(shard, to)),
            AdminInput::ChangeMembers { shard, expected, change, done } => {
                done(self.change_members(shard, expected, change))
            }
            AdminInput::Split { shard, split, done } => self.split(shard, split, done),
            AdminInput::Merge { shard, merge, done } => self.merge(shard, merge, done),
            AdminInput::CancelMerge { shard, source, done } => self.cancel_merge(shard, source, done),
            AdminInput::MakeSnapshot { shard, done } => self.make_snapshot(shard, done),
            AdminInput::Scrub { shard, done } => {
                let begun = if self.takes_part() { self.scrub(shard) } else { Err(Refusal::NotReady) };
                done(begun);
            }
            AdminInput::Divide { shard, done } => self.divide(shard, done),
        }
    }

    pub(super) fn takes_part(&self) -> bool {
        self.quarantined.is_none() && !self.stopped
    }

    fn take_request(&mut self, request: Request) {
        if let Some(why) = &self.quarantined {
            return request.reply.send(Err(Refusal::Quarantined(why.clone())));
        }
        if self.stopped {
            return request.reply.send(Err(Refusal::NotReady));
        }
        match self.shards.get_mut(&request.shard) {
            Some(shard) => {
                self.node.waiting += 1;
                shard.take_request(&mut self.node, request);
            }
            None if self.creating.contains_key(&request.shard) || self.map.is_none() => {
                request.reply.send(Err(Refusal::NotReady));
            }
            None => request.reply.send(Err(Refusal::WrongShard)),
        }
    }

    fn take_messages(&mut self, from: NodeId, mark: Mark, messages: Vec<(ShardId, Message)>) {
        // Another worker may have heard a later process of this peer.
        if !self.takes_part() || mark.0 < self.node.writer.seen(from).0 {
            return;
        }
        self.note_mark(from, mark);
        self.node.metrics.messages_received_total.inc_by(messages.len() as u64);
        for (id, message) in messages {
            match self.shards.get_mut(&id) {
                Some(shard) => shard.step(&mut self.node, Step::Message { from, message }),
                None => self.node.metrics.messages_unknown_total.inc(),
            }
        }
    }

    /// A shard here acts on what a peer said: this is written down with what follows from it, or before.
    pub(super) fn note_mark(&mut self, from: NodeId, mark: Mark) {
        if mark > self.seen.get(&from).copied().unwrap_or_default() {
            self.seen.insert(from, mark);
            self.node.writer.note_seen(from, mark);
        }
    }

    fn take_liveness(&mut self, node: NodeId, alive: bool) {
        if !self.takes_part() || node == self.node.me {
            return;
        }
        if alive {
            self.node.live.insert(node);
        } else {
            self.node.live.remove(&node);
        }
        for shard in self.shards.values_mut() {
            if shard.has_member(node) {
                shard.step(&mut self.node, Step::PeerLiveness { node, alive });
            }
        }
    }

    fn take_disk_low(&mut self, why: Option<Arc<str>>) {
        match (&self.node.disk_low, &why) {
            (None, Some(why)) => tracing::warn!("{why}; leaderships go to other members, writes are refused"),
            (Some(_), None) => tracing::info!("the disk has room again: writes are taken"),
            _ => {}
        }
        self.node.metrics.disk_low.set(why.is_some().into());
        self.node.disk_low = why;
    }

    fn take_identity(&mut self, from: NodeId, seen: Mark) {
        // A node that another process rules out still reads these answers. "The directory is an older copy" is the better reason: it says
        // what to do.
        if !self.takes_part() && !self.ruled_out || from == self.node.me {
            return;
        }
        match self.identity.answer(from, seen, self.node.writer.issued(), self.node.now) {
            Ok(fresh) => self.upkeep.waiting |= fresh,
            Err(why) => {
                self.ruled_out = false;
                self.quarantine(&why);
            }
        }
    }

    /// Another process of this node runs, or has. What was seen of it may show more: that this directory is an older copy.
    fn take_twice(&mut self, from: NodeId, seen: Mark, why: &str) {
        self.take_identity(from, seen);
        if self.takes_part() {
            self.ruled_out = true;
            self.quarantine(why);
        }
    }

    /// This node no longer takes part; it stays up to say why.
    fn quarantine(&mut self, why: &str) {
        tracing::error!("{why}");
        let refusal = Refusal::Quarantined(why.into());
        for shard in self.shards.values_mut() {
            shard.answer_all(&mut self.node, &refusal);
        }
        self.quarantined = Some(why.into());
        self.abandon_births();
        self.abandon_divisions();
        self.abandon_hand_over();
        self.node.host.quarantined(why);
    }

    fn change_members(&mut self, shard: ShardId, expected: Epoch, change: MemberChange) -> Result<(), Refusal> {
        if let Some(why) = &self.quarantined {
            return Err(Refusal::Quarantined(why.clone()));
        }
        if self.stopped {
            return Err(Refusal::NotReady);
        }
        let Some(map) = &self.map else { return Err(Refusal::NotReady) };
        let (MemberChange::Learn(node) | MemberChange::Promote { node, .. } | MemberChange::Remove(node)) = change;
        if !map.nodes.contains_key(&node) {
            return Err(Refusal::Invalid { field: "node", why: format!("there is no node {node}") });
        }
        match self.shards.get_mut(&shard) {
            Some(shard) => shard.change_members(&mut self.node, expected, change),
            None => Err(Refusal::WrongShard),
        }
    }

    fn transfer(&mut self, shard: ShardId, to: NodeId) -> Result<(), Refusal> {
        if let Some(why) = &self.quarantined {
            return Err(Refusal::Quarantined(why.clone()));
        }
        if self.stopped {
            return Err(Refusal::NotReady);
        }
        match self.shards.get_mut(&shard) {
            Some(shard) => shard.transfer(&mut self.node, to),
            None => Err(Refusal::WrongShard),
        }
    }

    fn report(&mut self) -> NodeReport {
        let node = &self.node;
        let (snapshots, merges) = (&self.snapshots, &self.merges);
        let report = |shard: &mut Shard| {
            let (ahead_us, hindrance) = (shard.is_ahead_by(node), shard.hindrance(node));
            let id = shard.id();
            let busy = || snapshots.hinder_splits(id).then(|| "a snapshot of it is under way".into());
            let (load, size) = (shard.load_report(node.now), shard.size(&*node.store));
            let merge = shard.merge_report(merges.since(id, node.now));
            ReplicaReport { ahead_us, hindrance: hindrance.or_else(busy), merge, load, size, ..shard.report() }
        };
        let mut replicas: Vec<_> = self.shards.values_mut().map(report).collect();
        if self.quarantined.is_some() {
            for replica in &mut replicas {
                (replica.role, replica.leader) = ("waiting", None);
            }
        }
        NodeReport {
            replicas,
            quarantined: self.quarantined.as_deref().map(str::to_owned),
            disk_low: self.node.disk_low.as_deref().map(str::to_owned),
            map_revision: self.map.as_ref().map_or(0, |map| map.revision),
            cluster_version: self.node.cluster_version,
            snapshots_made: self.node.metrics.snapshots_built_total.get(),
            snapshots_installed: self.node.metrics.snapshots_installed_total.get(),
        }
    }

    /// Flushes the state and ends.
    fn stop(&mut self) {
        for shard in self.shards.values_mut() {
            shard.answer_all(&mut self.node, &Refusal::NotReady);
        }
        self.abandon_births();
        self.abandon_divisions();
        if self.quarantined.is_none() {
            self.store_sessions();
            let flushed = self.node.store.flush_and_wait();
            self.node.must(flushed);
        }
        self.stopped = true;
        self.end_passage();
    }
}
