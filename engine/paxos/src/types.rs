//! Identifiers, entries and the durable state of one group.
//!
//! Owns: the vocabulary every other module speaks. Must never: hold behaviour that depends on a role, or a bare integer
//! where a counter or an id is meant.

use bytes::Bytes;
use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The value that follows. Panics on overflow, which 2^64 steps never reach.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value before, or `None` at zero.
            #[must_use]
            pub fn prev(self) -> Option<Self> {
                self.0.checked_sub(1).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// A node: one process with one data directory. Never reused; the first node is 1.
    NodeId,
    "n"
);
counter!(
    /// A position in a group's log. Entries start at slot 1; slot 0 is the position before the first entry.
    Slot,
    "s"
);
counter!(
    /// An epoch of a group's membership. The first is 1.
    Epoch,
    "c"
);
counter!(
    /// The order of this replica's durable writes, as handed to the log writer: 1, 2, 3, …
    WriteSeq,
    "w"
);
counter!(
    /// Names one read-index request of the driver's.
    ReadId,
    "r"
);

/// Microseconds of a monotone clock that the driver reads; the core only compares and adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// This instant and `micros` more.
    #[must_use]
    pub fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// A leadership. Ordered lexicographically: a later epoch beats every round of an earlier one. A ballot is led at most
/// once: a restarted node never leads a ballot it recovered.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The membership epoch the ballot belongs to.
    pub epoch: Epoch,
    /// The round within the epoch; round 1 is B0, the ballot the epoch's first leader may use without phase 1.
    pub round: u64,
    /// The node that leads it.
    pub node: NodeId,
}

impl Ballot {
    /// The ballot every replica of an epoch starts at: promised = accepted = B0.
    #[must_use]
    pub fn first(epoch: Epoch, first_leader: NodeId) -> Self {
        Self { epoch, round: 1, node: first_leader }
    }

    /// A promise above every ballot of an epoch that is over, by which a replica that learns of the next one binds itself:
    /// nobody leads it.
    #[must_use]
    pub fn over(epoch: Epoch) -> Self {
        Self { epoch, round: u64::MAX >> 1, node: NodeId(0) }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch.0, self.round, self.node.0)
    }
}

/// What identifies an entry's content and its whole prefix: equal ids imply equal content and equal prefixes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Where the entry stands.
    pub slot: Slot,
    /// The ballot of its first proposer.
    pub origin: Ballot,
}

impl EntryId {
    /// The position before the first entry of any log.
    pub const ZERO: Self = Self { slot: Slot(0), origin: Ballot { epoch: Epoch(0), round: 0, node: NodeId(0) } };
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.slot.0, self.origin)
    }
}

/// Consecutive entries of one origin: `first` and every later slot up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// First slot of the run.
    pub first: Slot,
    /// Origin of each of its entries.
    pub origin: Ballot,
}

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberRole {
    /// Counts in quorums.
    Voter,
    /// Receives the log, counts in no quorum, stands in no election.
    Learner,
}

/// One replica's place in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The node that holds the replica.
    pub node: NodeId,
    /// Whether it votes.
    pub role: MemberRole,
}

/// A membership epoch: the content of a `Config` entry, and what governs after it is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The epoch.
    pub epoch: Epoch,
    /// Sorted by node, no node twice.
    pub members: Vec<Member>,
    /// Who may lead B0 of this epoch.
    pub first_leader: NodeId,
}

impl Membership {
    /// The voters, in node order.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|m| m.role == MemberRole::Voter).map(|m| m.node)
    }

    /// Whether a group can have these members: sorted by node, no node twice, and the first leader votes.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let sorted = self.members.windows(2).all(|w| w[0].node < w[1].node);
        sorted && self.role_of(self.first_leader) == Some(MemberRole::Voter)
    }

    /// The size of a majority of the voters.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The role of `node`, or `None` where it is no member.
    #[must_use]
    pub fn role_of(&self, node: NodeId) -> Option<MemberRole> {
        self.members.iter().find(|m| m.node == node).map(|m| m.role)
    }

    /// The ballot this epoch starts at.
    #[must_use]
    pub fn b0(&self) -> Ballot {
        Ballot::first(self.epoch, self.first_leader)
    }
}

/// What an entry does when applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Nothing; the first entry of a new leadership.
    Noop,
    /// A command of the state machine, opaque to the core.
    Command(Bytes),
    /// The stop-sign: last entry of its epoch, names the next.
    Config(Membership),
}

/// One log entry. Immutable once built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Slot and first proposer.
    pub id: EntryId,
    /// Hybrid-logical timestamp in microseconds, strictly increasing in a group's log.
    pub ts: u64,
    /// No later entry will carry a timestamp at or below this one.
    pub closed: u64,
    /// What it does.
    pub payload: Payload,
    /// CRC-32 of id, ts, closed and payload as [`Entry::checksum`] computes it; carried from the proposer to every disk.
    pub crc: u32,
}

impl Entry {
    /// Builds an entry and its checksum.
    #[must_use]
    pub fn new(id: EntryId, ts: u64, closed: u64, payload: Payload) -> Self {
        let mut entry = Self { id, ts, closed, payload, crc: 0 };
        entry.crc = entry.checksum();
        entry
    }

    /// CRC-32 (IEEE) over the little-endian fields in order: slot, origin.epoch, origin.round, origin.node, ts, closed,
    /// payload tag (0 noop, 1 command, 2 config), then the command's bytes or the membership's fields.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let mut h = crc32fast::Hasher::new();
        let mut fixed = [0u8; 49];
        let words =
            [self.id.slot.0, self.id.origin.epoch.0, self.id.origin.round, self.id.origin.node.0, self.ts, self.closed];
        for (chunk, word) in fixed.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        fixed[48] = match &self.payload {
            Payload::Noop => 0,
            Payload::Command(_) => 1,
            Payload::Config(_) => 2,
        };
        h.update(&fixed);
        match &self.payload {
            Payload::Noop => {}
            Payload::Command(data) => h.update(data),
            Payload::Config(m) => {
                h.update(&m.epoch.0.to_le_bytes());
                h.update(&m.first_leader.0.to_le_bytes());
                for member in &m.members {
                    h.update(&member.node.0.to_le_bytes());
                    h.update(&[matches!(member.role, MemberRole::Learner).into()]);
                }
            }
        }
        h.finalize()
    }

    /// Approximate size in memory and on the wire, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let payload = match &self.payload {
            Payload::Noop => 0,
            Payload::Command(data) => data.len(),
            Payload::Config(m) => 16 + 9 * m.members.len(),
        };
        payload + 64
    }
}

/// What a replica must find again after a crash, apart from its entries. Written whole, atomically with the entries of
/// the same write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The membership in force: that of the last chosen stop-sign, or the group's first.
    pub membership: Membership,
    /// The slot of the stop-sign that began this epoch; slot 0 for the first epoch.
    pub epoch_start: Slot,
    /// Greatest ballot promised.
    pub promised: Ballot,
    /// The ballot whose log this replica holds; `accepted <= promised`.
    pub accepted: Ballot,
    /// A chosen prefix known when this was written; a lower bound, never the truth.
    pub commit_hint: Slot,
    /// Whether this replica, as first leader, has led B0 of this epoch.
    pub b0_used: bool,
}

/// What a snapshot of the state says of the log whose place it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The last entry applied to it: chosen.
    pub id: EntryId,
    /// The membership in force after that entry.
    pub membership: Membership,
    /// The slot of the stop-sign that began it; slot 0 for the first epoch.
    pub epoch_start: Slot,
    /// The promise of the replica that made it: at or above every ballot that chose a slot up to `id`.
    pub promised: Ballot,
}

impl HardState {
    /// The hard state of a replica whose log is replaced by a snapshot; written in one write with that replacement. Promised
    /// and accepted never go back. As with `Learn`, whoever takes over what is chosen promises at least what its source did;
    /// and an epoch that is entered this way is never led at its B0 here, since this replica's past in it is unknown.
    #[must_use]
    pub fn after_snapshot(&self, basis: &Basis) -> Self {
        let mut next = self.clone();
        if basis.membership.epoch > self.membership.epoch {
            let b0 = basis.membership.b0();
            next.membership = basis.membership.clone();
            next.epoch_start = basis.epoch_start;
            (next.promised, next.accepted, next.b0_used) = (b0, b0, true);
        }
        let mine = next.membership.epoch;
        let least = if basis.promised.epoch > mine { Ballot::over(mine) } else { basis.promised };
        next.promised = next.promised.max(least);
        next.commit_hint = next.commit_hint.max(basis.id.slot);
        next
    }

    /// The state every replica of a new group starts from.
    #[must_use]
    pub fn initial(membership: Membership) -> Self {
        let b0 = membership.b0();
        Self { membership, epoch_start: Slot(0), promised: b0, accepted: b0, commit_hint: Slot(0), b0_used: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(epoch: u64) -> Membership {
        let members = (1..=3).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        Membership { epoch: Epoch(epoch), members, first_leader: NodeId(2) }
    }

    fn ballot(epoch: u64, round: u64, node: u64) -> Ballot {
        Ballot { epoch: Epoch(epoch), round, node: NodeId(node) }
    }

    fn basis(epoch: u64, start: u64, promised: Ballot) -> Basis {
        let id = EntryId { slot: Slot(50), origin: ballot(epoch, 1, 2) };
        Basis { id, membership: membership(epoch), epoch_start: Slot(start), promised }
    }

    fn held() -> HardState {
        let (promised, accepted) = (ballot(2, 7, 3), ballot(2, 4, 1));
        HardState { promised, accepted, commit_hint: Slot(20), b0_used: false, ..HardState::initial(membership(2)) }
    }

    #[test]
    fn a_snapshot_of_the_same_epoch_raises_the_promise_and_nothing_else() {
        let next = held().after_snapshot(&basis(2, 0, ballot(2, 9, 1)));
        assert_eq!(next, HardState { promised: ballot(2, 9, 1), commit_hint: Slot(50), ..held() });
        let lower = held().after_snapshot(&basis(2, 0, ballot(2, 5, 1)));
        assert_eq!(lower, HardState { commit_hint: Slot(50), ..held() });
    }

    #[test]
    fn a_snapshot_of_a_later_epoch_enters_it_without_its_first_ballot() {
        let next = held().after_snapshot(&basis(4, 33, ballot(4, 6, 1)));
        assert_eq!((next.membership.epoch, next.epoch_start), (Epoch(4), Slot(33)));
        assert_eq!((next.promised, next.accepted, next.b0_used), (ballot(4, 6, 1), ballot(4, 1, 2), true));
    }

    #[test]
    fn a_maker_in_a_later_epoch_than_its_snapshot_binds_the_one_before() {
        let next = held().after_snapshot(&basis(2, 0, ballot(3, 1, 1)));
        assert_eq!((next.promised, next.accepted), (Ballot::over(Epoch(2)), ballot(2, 4, 1)));
        assert_eq!(next.membership.epoch, Epoch(2));
    }
}
