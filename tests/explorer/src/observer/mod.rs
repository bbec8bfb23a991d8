//! The one who sees everything and forgets nothing.
//!
//! Owns: the history of a schedule (entries, votes, claims, leaderships) and the rules of `docs/guarantees.md` that a
//! single group can break, numbers 1 to 10 and 13. Must never: change what it looks at, or tell the core.
//!
//! `entries` knows every entry ever seen and its predecessor, so that the last id of a log names the whole log; `votes`
//! decides what is chosen, by counting durable votes and by nothing a replica says; `writes` judges each write as it is
//! staged and as it becomes durable; `messages` judges each message against its sender's disk; `replica` judges what a
//! replica says of itself.

mod entries;
mod messages;
mod replica;
mod votes;
mod writes;

pub use messages::Sender as Speaker;

use super::disk::{Disk, Log};
use super::violation::{Check, Violation};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_paxos::types::{Ballot, Entry, EntryId, Epoch, HardState, Membership, NodeId, Slot, WriteSeq};

pub(super) use super::violation;

/// Every disk of the world, by node.
pub type Disks = BTreeMap<NodeId, Disk>;

/// A chosen entry.
pub struct Chosen {
    /// The entry.
    pub entry: Entry,
    /// The lowest ballot seen to have chosen it.
    pub ballot: Ballot,
}

/// What is known of an entry.
struct Fact {
    entry: Entry,
    prev: EntryId,
    /// The epoch it belongs to.
    epoch: Epoch,
    /// The epoch of whatever follows it.
    epoch_after: Epoch,
    /// The greatest closed timestamp up to and with it.
    closed: u64,
}

/// A replica as it has staged itself: its disk and what it has handed over since.
struct View {
    hard: HardState,
    log: Log,
    seq: WriteSeq,
    /// Its chosen prefix, by its own word.
    commit: Slot,
    /// Up to where its staged log has been compared with what is chosen.
    compared: Slot,
    /// What it has told its driver to apply.
    committed: Slot,
}

/// A promise that was sent.
#[derive(Clone, Copy)]
struct Promised {
    ballot: Ballot,
    accepted: Ballot,
    last: EntryId,
}

/// What a node has said to others, in all its lives.
#[derive(Default)]
struct Claims {
    promised: Ballot,
    promises: Vec<Promised>,
    accepted: BTreeMap<Ballot, Slot>,
    /// Every ballot its disk has ever held as accepted.
    accepted_durably: BTreeSet<Ballot>,
}

/// Where and in which life a command was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its slot and ballot.
    pub id: EntryId,
}

/// The history of a schedule.
pub struct Observer {
    facts: BTreeMap<EntryId, Fact>,
    votes: BTreeMap<Slot, BTreeMap<(Ballot, EntryId), BTreeSet<NodeId>>>,
    chosen: BTreeMap<Slot, Chosen>,
    memberships: BTreeMap<Epoch, Membership>,
    owners: BTreeMap<Ballot, (NodeId, u64)>,
    /// The leader's log of each ballot.
    ballot_logs: BTreeMap<(Ballot, Slot), EntryId>,
    /// Where the log that a ballot adopted ends.
    adopted: BTreeMap<Ballot, EntryId>,
    released: BTreeSet<Ballot>,
    claims: BTreeMap<NodeId, Claims>,
    views: BTreeMap<NodeId, View>,
    proposals: BTreeMap<Bytes, Proposal>,
    acknowledged: Slot,
    /// The greatest ballot ever led.
    newest_led: Ballot,
    /// Set where the explorer breaks disks on purpose: then the disks themselves are not judged, only what follows.
    disks_lie: bool,
}

impl Observer {
    /// An observer of a group that begins with `first`.
    pub fn new(first: Membership, disks_lie: bool) -> Self {
        Self {
            facts: BTreeMap::new(),
            votes: BTreeMap::new(),
            chosen: BTreeMap::new(),
            memberships: BTreeMap::from([(first.epoch, first)]),
            owners: BTreeMap::new(),
            ballot_logs: BTreeMap::new(),
            adopted: BTreeMap::new(),
            released: BTreeSet::new(),
            claims: BTreeMap::new(),
            views: BTreeMap::new(),
            proposals: BTreeMap::new(),
            acknowledged: Slot(0),
            newest_led: Ballot::default(),
            disks_lie,
        }
    }

    /// The chosen entry at `slot`.
    pub fn chosen(&self, slot: Slot) -> Option<&Chosen> {
        self.chosen.get(&slot)
    }

    /// The end of the chosen prefix.
    pub fn chosen_upto(&self) -> Slot {
        self.chosen.last_key_value().map_or(Slot(0), |(slot, _)| *slot)
    }

    /// The greatest slot that any replica has reported as chosen.
    pub fn acknowledged(&self) -> Slot {
        self.acknowledged
    }

    /// The greatest ballot that anybody has led so far.
    pub fn newest_led(&self) -> Ballot {
        self.newest_led
    }

    /// The membership of the latest epoch whose stop-sign is chosen.
    pub fn latest_membership(&self) -> &Membership {
        self.memberships.values().next_back().expect("the first epoch is always known")
    }

    /// Every chosen membership, in order.
    pub fn memberships(&self) -> impl Iterator<Item = &Membership> {
        self.memberships.values()
    }

    /// The membership in force after `slot`, and the slot of its stop-sign.
    pub fn membership_after(&self, slot: Slot) -> (Membership, Slot) {
        for (at, chosen) in self.chosen.range(..=slot).rev() {
            if let synod_paxos::types::Payload::Config(membership) = &chosen.entry.payload {
                return (membership.clone(), *at);
            }
        }
        (self.memberships.values().next().expect("the first epoch is always known").clone(), Slot(0))
    }

    /// Whether an entry of the latest epoch is chosen, so that replicas of older epochs may go.
    pub fn latest_epoch_has_begun(&self) -> bool {
        let latest = self.latest_membership().epoch;
        self.chosen.last_key_value().is_some_and(|(_, c)| c.entry.id.origin.epoch == latest)
    }

    /// Whether anybody has proposed to end the latest epoch.
    pub fn stop_sign_proposed(&self) -> bool {
        let latest = self.latest_membership().epoch;
        self.facts.values().any(|fact| fact.epoch == latest && fact.epoch_after != latest)
    }

    /// Notes where a command was proposed, before anything that carries it is judged.
    pub fn proposed(&mut self, command: Bytes, id: EntryId) -> Check {
        if let Some(earlier) = self.proposals.insert(command, Proposal { id }) {
            return Err(Violation::new("harness: a command is proposed once", format!("{earlier:?} and {id:?}")));
        }
        Ok(())
    }

    /// Notes a started process, and that its disk keeps what its former lives have said.
    pub fn started(&mut self, node: NodeId, disk: &Disk) -> Check {
        let claims = self.claims.entry(node).or_default();
        claims.accepted_durably.insert(disk.hard.accepted);
        if !self.disks_lie {
            violation::ensure!(
                disk.hard.promised >= claims.promised,
                "3: promised never goes back",
                "{node:?} restarts with {:?} after saying {:?}",
                disk.hard.promised,
                claims.promised
            );
        }
        self.views.insert(
            node,
            View {
                hard: disk.hard.clone(),
                log: disk.log.clone(),
                seq: WriteSeq(0),
                commit: Slot(0),
                compared: disk.log.base.slot,
                committed: disk.applied,
            },
        );
        Ok(())
    }

    /// Up to where the log of `node` was compared with what is chosen: what is trimmed is compared no more.
    pub fn compared(&self, node: NodeId) -> Slot {
        self.views.get(&node).map_or(Slot(0), |view| view.compared)
    }

    /// Notes that a replica's log was trimmed.
    pub fn trimmed(&mut self, node: NodeId, upto: Slot) {
        if let Some(view) = self.views.get_mut(&node) {
            view.log.trim(upto);
        }
    }

    fn view(&self, node: NodeId) -> Result<&View, Violation> {
        self.views
            .get(&node)
            .ok_or_else(|| Violation::new("harness: a running replica has a view", format!("{node:?}")))
    }
}
