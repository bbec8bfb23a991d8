//! The connections that parts of snapshots come on.
//!
//! Owns: offers, what is asked for and sent part by part, and how such a connection ends. Must never: hand a receiver a part
//! that its maker's file does not hold, unless a fault garbled it.

use crate::host::{CLUSTER, FETCHED, snapshot_path};
use crate::snapshot_files::{Step, Stream, Transfer};
use crate::trace::hash_bytes;
use crate::world::World;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use synod_cluster::ids::{NodeId, ShardId};
use synod_engine::host::{SnapshotInput, SnapshotKind};
use synod_engine::snapshot::offers::{Begun, Offer, Receiving, is_of_another};

/// A silent connection is given up after so long, µs: the server's keepalive.
const SILENT: u64 = 3_000_000;

impl World {
    pub(crate) fn offer(&mut self, id: NodeId, to: NodeId, shard: ShardId) {
        let Some(file) = self.process(id).and_then(|up| up.snapshot_files.built.get(&shard).cloned()) else { return };
        self.coverage.count("snapshot", "offered");
        let (delay, lost) = (self.dice.between(self.plan.delay), self.dice.chance(self.plan.loss));
        if lost || !self.net.reaches((id, to)) || !self.net.reaches((to, id)) {
            self.coverage.count("snapshot", "offer lost");
            return;
        }
        let process = self.nodes[&to].process;
        let offer = Offer { from: id, shard, digest: file.digest(), bytes: file.bytes() };
        self.step_at(self.now + delay, to, process, Step::Offered(offer));
    }

    pub(crate) fn offered(&mut self, id: NodeId, process: u64, offer: Offer) {
        let now = self.now;
        let Some(up) = self.node(id).up.as_deref_mut() else { return };
        let local = up.local(now);
        if !up.snapshot_files.fetches.begin(&offer, local) {
            self.coverage.count("snapshot", "offer passed over");
            return;
        }
        let files = Arc::clone(&up.snapshot_files.files);
        for path in files.names(Path::new(FETCHED)).unwrap_or_default() {
            if path.file_name().is_some_and(|name| is_of_another(&name.to_string_lossy(), &offer)) {
                let _ = files.remove(&path);
                self.coverage.count("snapshot", "what came of another goes");
            }
        }
        let shard = offer.shard;
        let path = snapshot_path(shard, SnapshotKind::Fetched);
        let begun = Receiving::begin(&files, &path, CLUSTER, offer.clone());
        let Some(up) = self.node(id).up.as_deref_mut() else { return };
        let ends = up.job_clock.get();
        match begun {
            Ok(Begun::Whole(header)) => {
                self.coverage.count("snapshot", "found whole");
                self.step_at(ends, id, process, Step::Fetched(header));
            }
            Ok(Begun::Parts(receiving)) => self.ask(id, process, &offer, receiving, ends),
            Err(_) => {
                up.snapshot_files.fetches.failed(shard);
                self.coverage.count("snapshot", "fetch not begun");
            }
        }
    }

    fn ask(&mut self, id: NodeId, process: u64, offer: &Offer, receiving: Receiving, at: u64) {
        let (maker, part) = (offer.from, receiving.next_part());
        self.coverage.count("snapshot", if part > 0 { "fetch resumed" } else { "fetch begun" });
        self.trace.note(self.now, "fetch", &[id.0, maker.0, offer.shard.0, part], || {
            format!("{id} from {maker} shard {} part {part}", offer.shard)
        });
        self.last_transfer += 1;
        let number = self.last_transfer;
        let stream = Stream { shard: offer.shard, receiving: Some(receiving), busy_until: at, progress: 0 };
        if let Some(up) = self.process(id) {
            up.snapshot_files.streams.insert(number, stream);
        }
        let (shard, digest) = (offer.shard, offer.digest);
        let transfer = Transfer { maker, taker: id, taker_process: process, digest, shard, file: None, last: 0 };
        self.transfers.insert(number, transfer);
        self.step_at(at + SILENT, id, process, Step::Overdue { transfer: number, progress: 0 });
        if !self.net.reaches((id, maker)) || !self.net.reaches((maker, id)) {
            return;
        }
        let delay = self.dice.between(self.plan.delay);
        match self.nodes[&maker].up {
            Some(_) => {
                let process = self.nodes[&maker].process;
                self.step_at(at + delay, maker, process, Step::Asked { transfer: number, part });
            }
            None => self.step_at(at + delay, id, process, Step::Gone { transfer: number, why: "connection refused" }),
        }
    }

    pub(crate) fn asked_for(&mut self, id: NodeId, process: u64, number: u64, part: u64) {
        let Some((shard, digest)) = self.transfers.get(&number).map(|t| (t.shard, t.digest)) else { return };
        let file = self.process(id).and_then(|up| up.snapshot_files.built.get(&shard).cloned());
        match file.filter(|file| file.digest() == digest) {
            Some(file) => {
                if let Some(transfer) = self.transfers.get_mut(&number) {
                    transfer.file = Some((process, file));
                }
                self.serve(id, process, number, part);
            }
            None => self.end_transfer(number, "not there any more"),
        }
    }

    /// The receiver hears, a moment later, that no more comes.
    fn end_transfer(&mut self, number: u64, why: &'static str) {
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        transfer.file = None;
        let (taker, process) = (transfer.taker, transfer.taker_process);
        let delay = self.dice.between(self.plan.delay);
        self.step_at(self.now + delay, taker, process, Step::Gone { transfer: number, why });
    }

    pub(crate) fn serve(&mut self, id: NodeId, process: u64, number: u64, part: u64) {
        let Some(transfer) = self.transfers.get(&number) else { return };
        let (taker, taker_process) = (transfer.taker, transfer.taker_process);
        let Some((_, file)) = transfer.file.clone().filter(|(server, _)| *server == process) else { return };
        let Ok(data) = file.part(part) else {
            let shard = transfer.shard;
            self.end_transfer(number, "a part cannot be read");
            if self.plan.tells_spoilt {
                self.tell(id, SnapshotInput::Spoilt { shard }, "found damaged at its maker");
            }
            return;
        };
        let Some(up) = self.process(id) else { return };
        let read_at = up.job_clock.get();
        // What is sent into a cut stays unanswered until the receiver has waited long enough.
        if !self.net.reaches((id, taker)) || !self.net.reaches((taker, id)) {
            return;
        }
        if self.dice.chance(self.plan.loss / 4) {
            return self.end_transfer(number, "connection broke");
        }
        let mut data = data;
        if std::mem::take(&mut self.garble_part) {
            let mut bytes = data.to_vec();
            let bit = self.dice.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            data = bytes.into();
            self.coverage.count("snapshot", "part garbled");
        }
        let (delay, pause) = (self.dice.between(self.plan.delay), self.dice.between(self.plan.part_pause));
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        transfer.last = (read_at + delay).max(transfer.last + 1);
        let at = transfer.last;
        self.step_at(at, taker, taker_process, Step::Part { transfer: number, part, data });
        if part + 1 < file.parts() {
            self.step_at(read_at + pause, id, process, Step::Serve { transfer: number, part: part + 1 });
        }
    }

    pub(crate) fn part_arrives(&mut self, id: NodeId, process: u64, number: u64, part: u64, data: Bytes) {
        let now = self.now;
        let Some(up) = self.process(id) else { return };
        let clock = up.job_clock.clone();
        let Some(stream) = up.snapshot_files.streams.get_mut(&number) else { return };
        if stream.busy_until > now {
            let at = stream.busy_until;
            return self.step_at(at, id, process, Step::Part { transfer: number, part, data });
        }
        let Some(mut receiving) = stream.receiving.take() else { return };
        let (shard, taken) = (stream.shard, receiving.take(part, &data));
        stream.progress += 1;
        stream.busy_until = clock.get();
        let progress = stream.progress;
        let words = || format!("{id} shard {shard} part {part}: {taken:?}");
        self.trace.note(now, "part", &[id.0, shard.0, part, hash_bytes(&[&data])], words);
        match taken {
            Err(_) => self.give_up(id, number, "part refused"),
            Ok(false) => {
                if let Some(stream) = self.process(id).and_then(|up| up.snapshot_files.streams.get_mut(&number)) {
                    stream.receiving = Some(receiving);
                }
                self.step_at(clock.get() + SILENT, id, process, Step::Overdue { transfer: number, progress });
            }
            Ok(true) => match receiving.finish() {
                Ok(header) => {
                    self.transfers.remove(&number);
                    if let Some(up) = self.process(id) {
                        up.snapshot_files.streams.remove(&number);
                    }
                    self.step_at(clock.get(), id, process, Step::Fetched(Box::new(header)));
                }
                Err(_) => self.give_up(id, number, "file refused"),
            },
        }
    }

    /// A receiver waits for no more of a file; the next offer goes on with it.
    pub(crate) fn give_up(&mut self, id: NodeId, number: u64, why: &'static str) {
        self.transfers.remove(&number);
        let Some(up) = self.process(id) else { return };
        let Some(stream) = up.snapshot_files.streams.remove(&number) else { return };
        up.snapshot_files.fetches.failed(stream.shard);
        self.coverage.count("snapshot", why);
        let shard = stream.shard;
        self.trace.note(self.now, "fetch over", &[id.0, shard.0], || format!("{id} shard {shard}: {why}"));
    }

    /// Connections between two nodes break.
    pub(crate) fn break_transfers(&mut self, a: NodeId, b: NodeId) {
        let between = |t: &Transfer| (t.maker, t.taker) == (a, b) || (t.maker, t.taker) == (b, a);
        let broken: Vec<u64> = self.transfers.iter().filter(|(_, t)| between(t)).map(|(n, _)| *n).collect();
        for number in broken {
            self.end_transfer(number, "connection broke");
        }
    }

    /// What a process that ended leaves of connections.
    pub(crate) fn drop_transfers(&mut self, id: NodeId, refused: bool) {
        self.transfers.retain(|_, transfer| transfer.taker != id);
        let served: Vec<u64> = self.transfers.iter().filter(|(_, t)| t.maker == id).map(|(n, _)| *n).collect();
        for number in served {
            if refused {
                self.end_transfer(number, "connection broke");
            } else if let Some(transfer) = self.transfers.get_mut(&number) {
                transfer.file = None;
            }
        }
    }
}
