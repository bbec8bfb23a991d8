//! Reconfiguration by stop-sign: an epoch ends with a `Config` entry, and the next begins with its B0.
//!
//! Source: Lamport, Malkhi, Zhou, "Reconfiguring a State Machine" (2010), section 3 (the stopping command); the idea of a
//! first ballot without phase 1 is their section 4.
//!
//! Owns: the passage between epochs, and what is said to those on the other side. Must never: act in an epoch whose
//! stop-sign is not known chosen, or lead B0 twice.

use crate::fault;
use crate::io::{Output, Refused};
use crate::message::Message;
use crate::replica::{Io, Replica};
use crate::role::{Follower, Role};
use crate::types::{Ballot, Entry, EntryId, Epoch, Membership, NodeId, Payload, Slot};
use std::cmp::Ordering;

impl Replica {
    /// Handles messages of other epochs; returns the message where it belongs to this one.
    pub(crate) fn screen_epoch(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) -> Option<Message> {
        let Some(ballot) = governing(&message) else { return Some(message) };
        let mine = self.hard.membership.epoch;
        match ballot.epoch.cmp(&mine) {
            Ordering::Equal => return Some(message),
            _ if !asks(&message) => {}
            Ordering::Less => self.send_stop_sign(from, io),
            Ordering::Greater => {
                // The sender is ahead: it will send the way there.
                let commit = self.commit.min(self.log.durable());
                self.send_durable(from, Message::Learned { epoch: mine, commit });
            }
        }
        None
    }

    /// Tells a node of an older epoch that this one has begun; where the stop-sign does not fit its log it says from where.
    pub(crate) fn send_stop_sign(&mut self, to: NodeId, io: &mut Io<'_>) {
        let start = self.hard.epoch_start;
        let epoch = self.hard.membership.epoch;
        let commit = self.commit.min(self.log.durable());
        let prev = start.prev().and_then(|p| self.log.id_at(p));
        let learn = match prev {
            Some(prev) => match self.log.entries(io.log, prev.slot, start, self.options.message_bytes) {
                Ok(entries) => Message::Learn { epoch, promised: self.hard.promised, prev, entries, commit },
                Err(why) => return self.fail(why, io),
            },
            None => Message::Learn {
                epoch,
                promised: self.hard.promised,
                prev: self.log.trimmed(),
                entries: Vec::new(),
                commit,
            },
        };
        self.send_durable(to, learn);
    }

    pub(crate) fn on_change_config(&mut self, membership: Membership, ts: u64, io: &mut Io<'_>) {
        let why = self.refuse_change(&membership);
        if let Some(why) = why {
            io.out.push(Output::Refused { why, read: None });
            return;
        }
        let id = EntryId { slot: self.log.last().slot.next(), origin: self.hard.accepted };
        let last_ts = self.log.last_ts();
        let entry = Entry::new(id, ts.max(last_ts + 1), last_ts, Payload::Config(membership));
        self.append_own(vec![entry], io);
    }

    fn refuse_change(&self, next: &Membership) -> Option<Refused> {
        let Role::Leader(leader) = &self.role else {
            return Some(Refused::NotLeader { leader: self.leader() });
        };
        if self.stop_sign.is_some() || leader.transfer.is_some() || self.commit < leader.first_own {
            return Some(Refused::Changing);
        }
        if next.epoch != self.hard.membership.epoch.next() || !next.is_sound() {
            return Some(Refused::InvalidMembership);
        }
        None
    }

    /// The stop-sign is known chosen: the next epoch begins here, promised = accepted = B0, in one atomic write.
    pub(crate) fn enter_epoch(&mut self, io: &mut Io<'_>) {
        let slot = self.stop_sign.take().expect("an epoch is entered through its stop-sign");
        let Some(Payload::Config(next)) = self.log.cached(slot).map(|e| e.payload.clone()) else {
            return self.fail(format!("the stop-sign at slot {slot} is not in memory"), io);
        };
        assert_eq!(slot, self.log.last().slot, "nothing follows a stop-sign within its epoch");
        assert!(next.epoch > self.hard.membership.epoch, "epoch {:?} entered from {:?}", next, self.hard.membership);
        let mut told: Vec<NodeId> = self.peers();
        let was_leader = self.is_leader();
        self.end_leadership(io);
        let b0 = next.b0();
        self.hard.membership = next.clone();
        self.hard.epoch_start = slot;
        self.hard.promised = b0;
        self.hard.accepted = b0;
        self.hard.b0_used = false;
        self.seen_round = b0.round;
        self.stage_hard();
        self.commit_after = Some(self.writes.covering());
        // B0's leader is not believed in before it is heard: it may never come.
        self.role = Role::Follower(Follower::new(None));
        self.b0_after = None;
        self.fetched = None;
        self.end_support();
        io.out.push(Output::EpochChanged(next));
        if was_leader {
            // Whoever accepted the stop-sign learns that it is chosen; new members learn everything.
            told.extend(self.peers());
            told.sort_unstable();
            told.dedup();
            told.retain(|n| self.alive.contains(n));
            for node in told {
                self.send_stop_sign(node, io);
            }
        }
        self.try_b0(false, io);
        if self.b0_after.is_none() {
            self.await_leader(io);
        }
    }

    /// The first leader may lead B0 without phase 1, once: its log holds the whole prefix and nothing else is chosen.
    pub(crate) fn try_b0(&mut self, reuse: bool, io: &mut Io<'_>) {
        let b0 = self.hard.membership.b0();
        let unused = !self.hard.b0_used || reuse;
        let fits = self.log.last().slot == self.hard.epoch_start || reuse;
        if b0.node != self.me || !self.is_voter() || !unused || !fits || self.abstains {
            return;
        }
        if self.hard.promised != b0 || self.hard.accepted != b0 {
            return;
        }
        self.hard.b0_used = true;
        self.stage_hard();
        self.b0_after = Some(self.writes.covering());
        if let Role::Follower(follower) = &mut self.role {
            follower.election_at = Some(io.now.plus(self.options.campaign_us));
        }
    }

    /// `b0_used` is durable: leads B0, unless something happened to it meanwhile.
    pub(crate) fn lead_b0(&mut self, io: &mut Io<'_>) {
        self.b0_after = None;
        let b0 = self.hard.membership.b0();
        let alone = self.log.last().slot == self.hard.epoch_start || fault!(self, B0Twice);
        let still = alone && self.hard.promised == b0 && self.hard.accepted == b0;
        if still && b0.node == self.me && matches!(self.role, Role::Follower(_)) {
            self.become_leader_b0(io);
        }
    }

    /// For the planted fault: an epoch entered before its stop-sign is known chosen.
    pub(crate) fn enter_epoch_early(&mut self, io: &mut Io<'_>) {
        if fault!(self, NoConfigEpochs) && self.stop_sign.is_some() {
            self.enter_epoch(io);
        }
    }

    /// The epoch in force.
    pub(crate) fn epoch(&self) -> Epoch {
        self.hard.membership.epoch
    }

    /// Chosen and durable here: what may be claimed to others.
    pub(crate) fn durable_commit(&self) -> Slot {
        self.commit.min(self.log.durable())
    }
}

/// The ballot whose epoch governs a message; `None` for `Learn` and `Learned`, which cross epochs.
fn governing(message: &Message) -> Option<Ballot> {
    match message {
        Message::PreVote { ballot, .. }
        | Message::PreVoteGranted { ballot }
        | Message::PreVoteRefused { ballot, .. }
        | Message::Confirm { ballot }
        | Message::Released { ballot }
        | Message::Prepare { ballot, .. }
        | Message::Promise { ballot, .. }
        | Message::Nack { ballot, .. }
        | Message::Fetch { ballot, .. }
        | Message::Fetched { ballot, .. }
        | Message::Sync { ballot, .. }
        | Message::Accept { ballot, .. }
        | Message::Accepted { ballot, .. }
        | Message::Behind { ballot, .. }
        | Message::ReadProbe { ballot, .. }
        | Message::ReadAck { ballot, .. }
        | Message::ReadRequest { ballot, .. }
        | Message::ReadGranted { ballot, .. }
        | Message::TimeoutNow { ballot }
        | Message::TransferRefused { ballot } => Some(*ballot),
        Message::Learn { .. } | Message::Learned { .. } => None,
    }
}

/// Whether a message wants an answer; others of a foreign epoch are dropped.
fn asks(message: &Message) -> bool {
    matches!(
        message,
        Message::PreVote { .. }
            | Message::Confirm { .. }
            | Message::Prepare { .. }
            | Message::Fetch { .. }
            | Message::Sync { .. }
            | Message::Accept { .. }
            | Message::ReadProbe { .. }
            | Message::ReadRequest { .. }
            | Message::TimeoutNow { .. }
    )
}
