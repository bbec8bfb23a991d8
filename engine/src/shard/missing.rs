//! A replica whose state is gone while its log is sound: it votes, accepts and learns as before, and waits for a snapshot.
//!
//! Owns: when which member is asked for one. Must never: apply, serve, lead, make a snapshot or trim the log without a state.
//!
//! The acceptor needs nothing of the state: hard state and log are what they were. The core is told the truth about what
//! is applied (up to the trim point it was once, durably, and so is chosen), and that it abstains: without a state there is
//! nobody to serve what it would lead. See `docs/operations.md`, "A damaged state".

use super::{Core, Shard};
use crate::host::{Body, Freshness, Host};
use crate::logstore::GroupRecovered;
use crate::machine::ShardState;
use crate::round::Node;
use synod_cluster::ids::{NodeId, ShardId, Slot};
use synod_cluster::refusal::Refusal;
use synod_paxos::io::Input;
use synod_paxos::types::Micros;

/// Time after which another member is asked, µs.
const ASK_US: u64 = 2_000_000;
/// Time for which an unborn replica waits for its parent's replay before it asks for a snapshot, µs.
const REPLAY_US: u64 = 2_000_000;
/// Interval between log lines that say that no snapshot came, µs.
const SAY_US: u64 = 30_000_000;

/// What a replica without a state knows of its way back to one.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// How many were asked.
    turn: usize,
    ask_at: Micros,
    say_at: Option<Micros>,
    /// Whom, for the log.
    asked: Vec<NodeId>,
    /// Where it never had a state: its parent's replay may bring it.
    unborn: Option<Replay>,
}

/// A parent's replay that an unborn replica waits for.
#[derive(Debug, Default)]
struct Replay {
    /// Not for longer; set with the first look.
    until: Option<Micros>,
}

impl Missing {
    /// Of a child that has begun here and never had a state.
    pub(super) fn of_the_unborn() -> Self {
        Self { unborn: Some(Replay::default()), ..Self::default() }
    }

    /// Whether the replica never had a state.
    pub(super) fn is_unborn(&self) -> bool {
        self.unborn.is_some()
    }
}

impl Shard {
    /// A replica with a sound log whose state is not there (`state` only says whose it would be).
    pub(crate) fn without_state(id: ShardId, recovered: GroupRecovered, state: ShardState) -> Self {
        let trimmed = recovered.trimmed.slot;
        let mut shard = Self::new(id, recovered, state);
        if let Core::Waiting(recovered) = &mut shard.core {
            recovered.applied = trimmed;
        }
        shard.committed = trimmed;
        shard.held_version = 0;
        shard.missing = Some(Missing::default());
        shard
    }

    /// Whether the state is gone.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing.is_some()
    }

    /// More is chosen: it stays in the log until there is a state to apply it to. The core need not keep it in memory.
    pub(super) fn pass_over<H: Host>(&mut self, node: &mut Node<H>) {
        self.step(node, Input::Applied(self.committed));
    }

    /// What a client is told here.
    pub(super) fn refuse_without_state(&self, body: &Body) -> Refusal {
        match body {
            Body::Read { freshness: Freshness::Local | Freshness::Stale(_), .. } => Refusal::NotReady,
            Body::Write(_) | Body::Read { .. } => Refusal::NotLeader { leader: self.leader(), maybe: false },
        }
    }

    /// Asks the next member for a snapshot that the log here goes on behind, where it is time to: the leader first. Whether
    /// one was asked.
    pub(crate) fn ask_for_state<H: Host>(&mut self, node: &mut Node<H>) -> bool {
        let (leader, trimmed) = (self.leader(), self.trimmed);
        let running = matches!(self.core, Core::Running(_));
        let replays = self.parent().is_some_and(|parent| node.shared.roster.is_here(parent));
        let Some(missing) = self.missing.as_mut().filter(|missing| running && missing.ask_at <= node.now) else {
            return false;
        };
        if let Some(replay) = missing.unborn.as_mut().filter(|_| replays)
            && *replay.until.get_or_insert(node.now.plus(REPLAY_US)) > node.now
        {
            return false;
        }
        missing.ask_at = node.now.plus(ASK_US);
        let say_at = *missing.say_at.get_or_insert(node.now.plus(SAY_US));
        if say_at <= node.now {
            missing.say_at = Some(node.now.plus(SAY_US));
            let asked = std::mem::take(&mut missing.asked);
            tracing::warn!(
                shard = self.id.0,
                ?asked,
                "the state of the shard is gone and no snapshot at or above slot {trimmed} has come yet; without a member \
                 that has one the shard stays down here"
            );
        }
        let mut others: Vec<NodeId> = self.members.voters().filter(|n| *n != node.me && Some(*n) != leader).collect();
        others.splice(..0, leader);
        if others.is_empty() {
            // The only voter: whoever had the vote before it keeps its replica until this one leads.
            others.extend(node.live.iter().copied().filter(|n| *n != node.me));
        }
        let Some(to) = others.get(missing.turn % others.len().max(1)).copied() else { return false };
        missing.turn += 1;
        if !missing.asked.contains(&to) {
            missing.asked.push(to);
        }
        node.host.ask_snapshot(to, self.id, trimmed);
        true
    }

    /// Whether a snapshot of what is applied here would serve a replica whose log begins after `least`.
    pub(crate) fn can_serve(&self, least: Slot) -> bool {
        matches!(self.core, Core::Running(_)) && !self.is_missing() && self.state.applied() >= least
    }
}
