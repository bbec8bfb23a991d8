//! The core of raft-rs behind the harness.
//!
//! A leader's appends leave before its own write, a follower's answers behind it (`advance_append_async`); the state machine sees
//! what is committed and durable here. Entries stand in the same log store, in the same rows with the same checksum as Synod's.
//!
//! Owns: the driving of a `RawNode`. Must never: say that something is persisted which is not synced.

mod storage;

use crate::consensus::{Core, Work};
use crate::setting::{BenchError, Result, SHARD, Timing, limits, membership, micros};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};
use std::sync::Arc;
use std::time::Duration;
use storage::{Stored, hard_state, to_stored};
use synod_engine::logstore::GroupWrite;
use synod_engine::logstore::rocks::RocksLog;
use synod_paxos::types::{Micros, NodeId, Slot};

/// One replica.
pub struct RaftCore {
    me: NodeId,
    node: RawNode<Stored>,
    /// Leave once the write under way is on disk.
    deferred: Vec<Message>,
    /// The last `Ready` whose write is under way.
    unsynced: Option<u64>,
    /// Sent with the next work.
    released: Vec<(NodeId, Bytes)>,
    tick_us: u64,
    tick_at: Micros,
    /// Ticks later than this are not made up for.
    late_us: u64,
}

/// The settings of both cores, in Raft's words.
fn config(me: NodeId, timing: &Timing) -> Config {
    let ticks = |time: Duration| (time.as_micros() / timing.tick.as_micros().max(1)) as usize;
    let limits = limits();
    Config {
        heartbeat_tick: ticks(timing.pulse),
        election_tick: ticks(timing.silence),
        min_election_tick: ticks(timing.silence),
        max_election_tick: ticks(timing.silence + timing.jitter),
        max_size_per_msg: limits.message_bytes as u64,
        max_inflight_msgs: limits.inflight_messages,
        max_uncommitted_size: limits.uncommitted_bytes as u64,
        check_quorum: true,
        pre_vote: true,
        batch_append: true,
        // As Synod's leader: the next append tells what is committed, or the next heartbeat.
        skip_bcast_commit: true,
        ..Config::new(me.0)
    }
}

impl RaftCore {
    fn stopped(&self, why: impl ToString) -> BenchError {
        BenchError::Stopped { node: self.me, why: why.to_string() }
    }

    fn encoded(&self, messages: Vec<Message>) -> Result<Vec<(NodeId, Bytes)>> {
        let encode = |message: Message| {
            let bytes = message.write_to_bytes().map_err(|e| self.stopped(e))?;
            Ok((NodeId(message.to), Bytes::from(bytes)))
        };
        messages.into_iter().map(encode).collect()
    }

    /// One `Ready`: what it wants sent, written and applied.
    fn take_ready(&mut self, work: &mut Work) -> Result<()> {
        let mut ready = self.node.ready();
        let messages = ready.take_messages();
        work.sends.extend(self.encoded(messages)?);
        for entry in ready.take_committed_entries() {
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                work.applied.push(entry.data);
            }
        }
        // What only the commit index changed needs no write: it is found again.
        let hard = ready.hs().filter(|_| ready.must_sync()).map(hard_state);
        let entries = ready.take_entries();
        let persisted = ready.take_persisted_messages();
        let number = ready.number();
        if hard.is_some() || !entries.is_empty() {
            let append: Vec<_> = entries.iter().map(to_stored).collect();
            let truncate_from = self.node.mut_store().append(entries).map(Slot);
            work.writes.push(GroupWrite { shard: SHARD, hard, truncate_from, append, ..GroupWrite::default() });
            self.unsynced = Some(number);
        }
        self.node.advance_append_async(ready);
        self.node.advance_apply();
        let applied = self.node.raft.raft_log.applied;
        self.node.mut_store().shrink(applied, limits().cache_bytes);
        if self.unsynced.is_some() {
            self.deferred.extend(persisted);
        } else {
            self.node.on_persist_ready(number);
            work.sends.extend(self.encoded(persisted)?);
        }
        Ok(())
    }
}

impl Core for RaftCore {
    const NAME: &'static str = "raft";

    fn open(me: NodeId, log: Arc<RocksLog>, timing: &Timing, now: Micros) -> Result<Self> {
        let failed = |e: raft::Error| BenchError::Stopped { node: me, why: e.to_string() };
        let logger = Logger::root(Discard, o!());
        let mut node = RawNode::new(&config(me, timing), Stored::new(log), &logger).map_err(failed)?;
        // As Synod's first leader, which needs nobody's leave.
        if me == membership().first_leader {
            node.campaign().map_err(failed)?;
        }
        let tick_us = micros(timing.tick).max(1);
        Ok(RaftCore {
            me,
            node,
            deferred: Vec::new(),
            unsynced: None,
            released: Vec::new(),
            tick_us,
            tick_at: now.plus(tick_us),
            late_us: micros(timing.silence) / 2,
        })
    }

    fn tick(&mut self, now: Micros) -> Result<()> {
        // A node that was itself paused for half the silence has yet to hear what peers sent meanwhile.
        if now >= self.tick_at.plus(self.late_us) {
            self.tick_at = now;
        }
        while now >= self.tick_at {
            self.tick_at = self.tick_at.plus(self.tick_us);
            self.node.tick();
        }
        Ok(())
    }

    fn deadline(&self) -> Micros {
        self.tick_at
    }

    fn receive(&mut self, from: NodeId, frame: Bytes, now: Micros) -> Result<()> {
        // The time before it must not count as silence behind it.
        self.tick(now)?;
        let unreadable = |e: protobuf::ProtobufError| BenchError::Message { from, why: e.to_string() };
        let message = Message::parse_from_carllerche_bytes(&frame).map_err(unreadable)?;
        match self.node.step(message) {
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            Err(error) => Err(self.stopped(error)),
        }
    }

    fn propose(&mut self, payload: Bytes, _now: Micros) -> Result<bool> {
        // `RawNode::propose` would copy it.
        let entries = vec![Entry { data: payload, ..Entry::default() }].into();
        let msg_type = MessageType::MsgPropose;
        let message = Message { msg_type, from: self.me.0, entries, ..Message::default() };
        match self.node.raft.step(message) {
            Ok(()) => Ok(true),
            Err(raft::Error::ProposalDropped) => Ok(false),
            Err(error) => Err(self.stopped(error)),
        }
    }

    fn work(&mut self) -> Result<Work> {
        let mut work = Work { sends: std::mem::take(&mut self.released), ..Work::default() };
        while self.node.has_ready() {
            self.take_ready(&mut work)?;
        }
        Ok(work)
    }

    fn persisted(&mut self, _now: Micros) -> Result<()> {
        if let Some(number) = self.unsynced.take() {
            let deferred = std::mem::take(&mut self.deferred);
            self.released = self.encoded(deferred)?;
            self.node.on_persist_ready(number);
        }
        Ok(())
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }
}
