//! Between nodes: pulses, connections, frames, and what was applied.
//!
//! Owns: what the real server's tasks around a worker do (`server/src/node/peer`): pulses on connections of their own, a
//! consensus link only after the peer has told what it has seen of this node, an identity answer once a pulse call. Must
//! never: hand a worker a message that was not decoded from bytes.

use crate::clock::WALL_US;
use crate::faults::WALL_MAX;
use crate::host::Frame;
use crate::network::Fate;
use crate::node::PULSE;
use crate::plan::{DiskFault, WALL_PPM, WrongClocks};
use crate::trace::hash_bytes;
use crate::violation::{Checked, check};
use crate::world::{Event, Origin, World};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::detector::Sign;
use synod_cluster::ids::{Entry, Incarnation, NodeId, NodeWriteSeq, ShardId};
use synod_cluster::system::{Birth, SystemState};
use synod_engine::codec::message;
use synod_engine::host::{NodeInput, PeerInput};
use synod_engine::identity::Mark;
use synod_engine::wall::Reading;

/// What a message takes on a link beside its body, bytes.
const ENVELOPE: u64 = 16;
/// Frames of the usual greatest length that a full queue holds: as in the server, sixteen.
const FRAMES_QUEUED: u64 = 16;

impl World {
    /// A process looks at its detector; every other time it pulses.
    pub(crate) fn beat(&mut self, id: NodeId, process: u64, count: u64) {
        let now = self.now;
        let node = self.node(id);
        if node.process != process || node.up.is_none() {
            return;
        }
        self.at(now + PULSE / 2, Event::Beat { node: id, process, count: count + 1 });
        if !self.runs(id, process) {
            return;
        }
        let node = self.node(id);
        let stalled = node.disk.stalled(now);
        let Some(up) = &mut node.up else { return };
        up.detect(now, |_, _| ());
        let stalled = stalled.max(up.round_age(now));
        let (incarnation, table, wall_us) = (up.incarnation, Arc::clone(&up.seen), up.clock.wall(now));
        self.wake(id);
        self.follow_others(id, process, count);
        if count % 2 == 1 {
            return;
        }
        let from = Origin { node: id, process, stamp: now };
        for to in self.ids.clone().into_iter().filter(|to| *to != id) {
            let delay = self.dice.between(self.plan.delay);
            if self.net.reaches((id, to)) {
                let seen = table.get(to);
                self.at(now + delay, Event::Pulse { from, to, incarnation, stalled, wall_us, seen });
            }
        }
    }

    /// A pulse arrives.
    pub(crate) fn pulse_arrives(
        &mut self,
        from: Origin,
        to: NodeId,
        (incarnation, stalled, wall_us): (Incarnation, u64, u64),
        seen: Mark,
    ) {
        let (now, peer) = (self.now, from.node);
        let current = self.nodes[&peer].process == from.process;
        if !self.nodes[&peer].has_left(from.process, from.stamp) || !self.net.reaches((peer, to)) {
            return;
        }
        let back = self.net.reaches((to, peer));
        let fault = self.plan.planted.disk;
        let Some(up) = self.node(to).up.as_mut().filter(|up| !up.paused) else { return };
        let older = up.seen.get(peer).0 > incarnation;
        let mut opened = false;
        // The first pulse of a call carries what the peer has seen of this node; only then is the link opened.
        if current && back && up.identified.insert(peer) {
            let seen = if fault == DiskFault::WipedVotes { Mark::default() } else { seen };
            up.push(PeerInput::IdentityAnswer { from: peer, seen });
            opened = true;
        }
        if !older {
            let reading = Reading { at: up.clock.local(now), wall_us };
            up.push(PeerInput::Clock { node: peer, reading });
            let sign = Sign { incarnation, stalled: Duration::from_micros(stalled), leaving: false };
            up.detect(now, |detector, now| detector.heard(peer, sign, now));
        }
        if opened && self.net.open((to, peer)) {
            self.linked(to, peer);
            self.linked(peer, to);
        }
        self.wake(to);
    }

    /// A consensus link between the two was opened.
    fn linked(&mut self, id: NodeId, peer: NodeId) {
        let now = self.now;
        if let Some(up) = self.node(id).up.as_mut().filter(|up| !up.paused) {
            up.detect(now, |detector, _| detector.linked(peer));
            self.wake(id);
        }
    }

    /// The connection to a peer broke, and the next was refused.
    pub(crate) fn refused(&mut self, id: NodeId, process: u64, peer: NodeId) {
        if !self.runs(id, process) || self.nodes[&peer].up.is_some() {
            return;
        }
        let now = self.now;
        if let Some(up) = &mut self.node(id).up {
            up.detect(now, |detector, now| detector.refused(peer, now));
        }
        self.wake(id);
    }

    /// Both connections of a pair break, and are made anew with the next pulses.
    pub(crate) fn reset(&mut self, a: NodeId, b: NodeId) {
        self.break_transfers(a, b);
        for (id, peer) in [(a, b), (b, a)] {
            self.net.close((id, peer));
            if let Some(up) = &mut self.node(id).up {
                up.identified.remove(&peer);
            }
        }
    }

    /// What a round has for one peer leaves a process: as the server's outbox does, in frames of a bounded size, and without the
    /// messages that find no room.
    pub(crate) fn send_frames(&mut self, from: Origin, incarnation: Incarnation, frame: Frame) {
        if self.plan.bandwidth.is_none() {
            return self.send_frame(from, incarnation, frame);
        }
        let (room, longest) = (self.plan.queue_bytes, self.plan.queue_bytes / FRAMES_QUEUED);
        let Frame { at, to, write_seq, messages, kinds } = frame;
        let empty = || Frame { at, to, write_seq, messages: Vec::new(), kinds: Vec::new() };
        let (mut last, mut last_bytes, mut before) = (empty(), 0, 0);
        for (message, kind) in messages.into_iter().zip(kinds) {
            let bytes = message.1.len() as u64;
            if before > 0 && before + bytes > room {
                self.coverage.count("network", "message dropped by a full queue");
                self.tell_dropped(from, to, &[message.0]);
                continue;
            }
            if last_bytes > 0 && last_bytes + bytes > longest {
                self.send_frame(from, incarnation, std::mem::replace(&mut last, empty()));
                last_bytes = 0;
            }
            (before, last_bytes) = (before + bytes, last_bytes + bytes);
            last.messages.push(message);
            last.kinds.push(kind);
        }
        self.send_frame(from, incarnation, last);
    }

    /// What found no room is told to the worker by its host, as the server's outbox does.
    fn tell_dropped(&mut self, from: Origin, to: NodeId, shards: &[ShardId]) {
        let node = self.node(from.node);
        if let Some(up) = node.up.as_ref().filter(|_| node.process == from.process) {
            up.taps.lock().dropped.extend(shards.iter().map(|shard| (to, *shard)));
        }
    }

    /// A frame leaves a process.
    fn send_frame(&mut self, from: Origin, incarnation: Incarnation, frame: Frame) {
        let Frame { at, to, write_seq, mut messages, kinds } = frame;
        self.frames += 1;
        for kind in &kinds {
            self.coverage.count("messages", kind);
        }
        let bytes = messages.iter().map(|(_, body)| body.len() as u64 + ENVELOPE).sum();
        let Self { net, plan, dice, .. } = self;
        let passage = match net.pass((from.node, to), at, bytes, plan, dice) {
            Fate::Passes(passage) => passage,
            Fate::Lost => return self.coverage.count("network", "frame lost"),
            Fate::Dropped => {
                self.coverage.count("network", "frame dropped by a full queue");
                let shards: Vec<ShardId> = messages.iter().map(|(shard, _)| *shard).collect();
                return self.tell_dropped(from, to, &shards);
            }
        };
        if let Some(again) = passage.again {
            self.coverage.count("network", "frame came twice");
            let messages = messages.clone();
            self.at(again, Event::Frame { from, to, incarnation, write_seq, number: None, messages });
        }
        if self.garble
            && let Some((_, body)) = messages.first_mut()
        {
            self.garble = false;
            let mut bytes = body.to_vec();
            let bit = self.dice.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            *body = bytes.into();
        }
        let number = Some(passage.number);
        self.at(passage.at, Event::Frame { from, to, incarnation, write_seq, number, messages });
    }

    /// A frame arrives.
    pub(crate) fn frame_arrives(
        &mut self,
        from: Origin,
        to: NodeId,
        incarnation: Incarnation,
        write_seq: NodeWriteSeq,
        number: Option<u64>,
        messages: Vec<(ShardId, Bytes)>,
    ) -> Checked {
        let pair = (from.node, to);
        let arrives = number.is_none_or(|number| self.net.carries(pair, number)) && self.net.reaches(pair);
        if !self.nodes[&from.node].has_left(from.process, from.stamp) || !arrives || self.nodes[&to].up.is_none() {
            return Ok(());
        }
        let sum = messages.iter().fold(0, |sum, (shard, body)| sum ^ shard.0 ^ hash_bytes(&[body]));
        self.trace.note(self.now, "frame", &[from.node.0, to.0, write_seq.0, sum], || {
            let shown = |(shard, body): &(ShardId, Bytes)| match message::decode(body.clone()) {
                Ok(message) => format!("{shard}: {}", brief(&message)),
                Err(error) => format!("{shard}: {error}"),
            };
            let shown: Vec<String> = messages.iter().map(shown).collect();
            format!("{} to {to}, write {write_seq}: {}", from.node, shown.join("; "))
        });
        let understood = self.check_understood(to, &messages);
        let mut decoded = Vec::with_capacity(messages.len());
        for (shard, body) in messages {
            match message::decode(body) {
                Ok(message) => decoded.push((shard, message)),
                Err(_) => {
                    // As the server does: the whole frame is refused, and the link ends.
                    self.coverage.count("network", "garbled frame refused");
                    self.reset(from.node, to);
                    return Ok(());
                }
            }
        }
        // Of a garbled frame nothing can be said.
        understood?;
        for (shard, message) in &decoded {
            self.check_message(from, *shard, message)?;
        }
        if let Some(up) = &mut self.node(to).up {
            up.push(PeerInput::Messages { from: from.node, incarnation, write_seq, messages: decoded });
        }
        self.wake(to);
        Ok(())
    }

    /// A process has applied entries.
    pub(crate) fn applied(&mut self, from: Origin, shard: ShardId, entries: Vec<Entry>) -> Checked {
        if !self.nodes[&from.node].has_left(from.process, from.stamp) {
            return Ok(());
        }
        let Some(model) = self.models.get(&shard) else { return Ok(()) };
        let (first, last) = (entries.first().map_or(0, |e| e.id.slot.0), entries.last().map_or(0, |e| e.id.slot.0));
        let sum = entries.iter().fold(0, |sum: u64, e| sum.rotate_left(1) ^ u64::from(e.crc));
        self.trace.note(self.now, "applied", &[from.node.0, shard.0, first, last, sum], || {
            format!("{} shard {shard} slots {first} to {last}", from.node)
        });
        // What another process applied and took with it when it crashed is in this one's log too.
        let gap = first > model.last().0 + 1;
        if gap {
            let disk = self.nodes[&from.node].disk.clone();
            let upto = synod_cluster::ids::Slot(first - 1);
            let missed = disk.peek(shard, model.last(), upto).unwrap_or_default();
            for entry in &missed {
                self.applied_one(from, shard, entry)?;
            }
        }
        for entry in &entries {
            self.applied_one(from, shard, entry)?;
        }
        Ok(())
    }

    /// An entry's timestamp is of a clock that is right, or follows one: no quorum confirms a wrong one, save where all are.
    fn check_time(&self, shard: ShardId, entry: &Entry, at: u64) -> Checked {
        if self.plan.wrong_clocks == WrongClocks::Alls {
            return Ok(());
        }
        let gained = at * WALL_PPM / 1_000_000;
        let latest = WALL_US + at + gained + WALL_MAX.unsigned_abs();
        check(entry.ts <= latest, "22: no timestamp follows a clock that no quorum confirms", || {
            format!("shard {shard} slot {}: {} µs after every right clock", entry.id.slot, entry.ts - latest)
        })
    }

    fn applied_one(&mut self, from: Origin, shard: ShardId, entry: &Entry) -> Checked {
        let Some(model) = self.models.get_mut(&shard) else { return Ok(()) };
        let members = model.members().cloned().filter(|_| entry.id.slot > model.last());
        model.applied(from.node, entry)?;
        for child in std::mem::take(&mut model.born) {
            let id = child.id();
            self.coverage.count("splits", "child made");
            let before = self.models.insert(id, child);
            check(before.is_none(), "a child is made by one split", || format!("shard {id}, by shard {shard}"))?;
        }
        self.check_time(shard, entry, from.stamp)?;
        match members {
            Some(members) => self.check_chosen(&members, shard, entry, from.stamp),
            None => Ok(()),
        }
    }

    /// A process published newer metadata.
    pub(crate) fn map_changed(&mut self, from: Origin, map: Arc<SystemState>) -> Checked {
        if !self.nodes[&from.node].has_left(from.process, from.stamp) {
            return Ok(());
        }
        if self.node(from.node).offer(&map) && self.runs(from.node, from.process) {
            // The server hands it to all workers: the one that applied it knows it already.
            if let Some(up) = &mut self.node(from.node).up {
                up.push(NodeInput::Map(Arc::clone(&map)));
            }
            self.wake(from.node);
        }
        self.jobs.published(from.node, from.process, &map);
        let before = self.map.take();
        if before.as_ref().is_some_and(|known| known.revision >= map.revision) {
            self.map = before;
            return Ok(());
        }
        self.check_jobs(before.as_deref(), &map)?;
        for descriptor in map.shards.values() {
            let (shard, members) = (descriptor.shard, &descriptor.membership);
            let is_system = shard == synod_cluster::ids::SYSTEM_SHARD;
            let own = (!is_system).then(|| descriptor.clone());
            // A child begins with what its parent has: that is seen in the parent's log alone.
            if matches!(descriptor.born, Birth::Child { .. }) && !self.models.contains_key(&shard) {
                self.coverage.count("splits", "child in the map and unseen");
                continue;
            }
            let new = || crate::model::ShardModel::new(shard, members.clone(), own);
            let model = self.models.entry(shard).or_insert_with(new);
            let epoch = model.told.max(members.epoch);
            check(members.epoch == epoch, "the map's epochs never go back", || {
                format!("shard {shard}: {members:?} after epoch {epoch:?}")
            })?;
            model.told = epoch;
            if let Some(known) = self.shards.iter_mut().find(|known| known.shard == shard) {
                known.voters = members.voters().collect();
            }
        }
        self.use_shards_of(&map);
        self.check_bounds(before.as_deref(), &map)?;
        self.map = Some(map);
        Ok(())
    }

    /// A set-back disk must have been found out by now.
    pub(crate) fn expelled(&mut self, id: NodeId) -> Checked {
        let node = &self.nodes[&id];
        let out = node.out.is_some();
        check(out, "a disk that was set back is quarantined", || format!("node {id} takes part"))
    }
}

/// A message in short.
fn brief(message: &synod_paxos::message::Message) -> String {
    let text = format!("{message:?}");
    if text.len() > 160 { format!("{}…", text.chars().take(160).collect::<String>()) } else { text }
}
