//! The identity mechanism: a data directory that was wiped, swapped or set back to an old copy is found out before it
//! votes.
//!
//! Owns: what peers have seen of this node, what this node has seen of its peers, and which groups may run. Must never:
//! clear a group before a quorum of its voters (this node counted) has answered, or forget a contradiction.
//!
//! It is a second line behind synced writes and checksums, not a proof: with three voters the one that answered need not
//! be the one that this node's lost vote went to. So the rest of the voters get a moment to answer too; only a peer that
//! stays silent for that long is done without, and its later answer still counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq};
use synod_paxos::types::{Membership, Micros};

/// A place in a node's order of writes, across its starts.
pub type Mark = (Incarnation, NodeWriteSeq);

/// The greatest durable write seen of each peer: what this node tells the peer about itself. Its rows join this node's own
/// next batch; until then a restart here forgets the newest.
#[derive(Debug, Default)]
pub struct SeenTable {
    marks: Mutex<BTreeMap<NodeId, Mark>>,
}

impl SeenTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Mark>> {
        self.marks.lock().expect("no holder of this lock panics")
    }

    /// What was seen of `node`; zero where nothing was.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Mark {
        self.lock().get(&node).copied().unwrap_or_default()
    }

    /// Raises what was seen of `node`; never lowers it.
    pub fn raise(&self, node: NodeId, mark: Mark) {
        let mut marks = self.lock();
        let known = marks.entry(node).or_default();
        *known = mark.max(*known);
    }

    /// Everything seen.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(NodeId, Mark)> {
        self.lock().iter().map(|(node, mark)| (*node, *mark)).collect()
    }
}

/// What this process knows of its own data directory.
pub(crate) struct Identity {
    me: NodeId,
    /// Of the process before this one, as recovered.
    recovered: Mark,
    /// This process.
    incarnation: Incarnation,
    /// Peers that have answered and showed nothing newer.
    answered: BTreeSet<NodeId>,
    /// How long after the first answer a quorum does without the others, µs.
    grace_us: u64,
    grace_ends: Option<Micros>,
}

impl Identity {
    pub(crate) fn new(me: NodeId, recovered: Mark, incarnation: Incarnation, grace_us: u64) -> Self {
        Self { me, recovered, incarnation, answered: BTreeSet::new(), grace_us, grace_ends: None }
    }

    /// When a quorum's answers begin to be enough, while they are not yet.
    pub(crate) fn grace_ends(&self, now: Micros) -> Option<Micros> {
        self.grace_ends.filter(|ends| *ends > now)
    }

    /// Takes a peer's answer; `written` is the last write this process has begun, of which the peer is shown nothing before its
    /// first answer is here. `Ok(true)` where the peer had not answered before; `Err` says why this node must take no part any
    /// more.
    pub(crate) fn answer(
        &mut self,
        from: NodeId,
        seen: Mark,
        written: NodeWriteSeq,
        now: Micros,
    ) -> Result<bool, String> {
        let known = if seen.0 == self.incarnation {
            // This process's own writes, which a peer sees only once it has answered; before, it was a process that was rolled away
            // and had the same number.
            let own = if self.answered.contains(&from) { written } else { NodeWriteSeq(0) };
            (self.incarnation, own.max(self.recovered.1))
        } else {
            self.recovered
        };
        if seen > known && !planted!(IdentityIgnored) {
            return Err(self.contradiction(from, seen));
        }
        self.grace_ends.get_or_insert(now.plus(self.grace_us));
        Ok(self.answered.insert(from))
    }

    fn contradiction(&self, from: NodeId, (start, write): Mark) -> String {
        let me = self.me;
        let (found_start, found_write) = self.recovered;
        let how = if self.recovered == Mark::default() {
            "found it empty): it was wiped".to_owned()
        } else if found_start == start {
            format!("found {found_write}): it was set back to an old copy")
        } else {
            format!("found write {found_write} of start {found_start}): it was set back to an old copy")
        };
        format!(
            "node {me}'s data directory is older than what node {from} has seen of it (write {write} of start {start}, \
             {how}; remove it and join as a new node"
        )
    }

    /// Whether a group of these members may run: all its voters have answered, or, once the others had their moment, a
    /// quorum of them; this node counted.
    pub(crate) fn cleared(&self, membership: &Membership, now: Micros) -> bool {
        let known = membership.voters().filter(|node| *node == self.me || self.answered.contains(node)).count();
        let enough = match self.grace_ends {
            Some(ends) if ends <= now => membership.quorum(),
            _ => membership.voters().count(),
        };
        known >= enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::types::{Epoch, Member, MemberRole};

    const NOW: Micros = Micros(1000);
    const LATER: Micros = Micros(1500);

    fn mark(incarnation: u64, seq: u64) -> Mark {
        (Incarnation(incarnation), NodeWriteSeq(seq))
    }

    fn members(nodes: u64) -> Membership {
        let members = (1..=nodes).map(|n| Member { node: NodeId(n), role: MemberRole::Voter }).collect();
        Membership { epoch: Epoch(1), members, first_leader: NodeId(1) }
    }

    #[test]
    fn a_quorum_clears_and_a_single_voter_needs_none() {
        let mut identity = Identity::new(NodeId(2), mark(3, 640), Incarnation(4), 500);
        assert!(!identity.cleared(&members(2), NOW));
        let own = Membership { members: vec![Member { node: NodeId(2), role: MemberRole::Voter }], ..members(1) };
        assert!(identity.cleared(&own, NOW));
        assert!(!identity.cleared(&members(3), NOW));
        assert_eq!(identity.answer(NodeId(3), mark(3, 640), NodeWriteSeq(640), NOW), Ok(true));
        assert_eq!(identity.answer(NodeId(3), mark(2, 9000), NodeWriteSeq(640), NOW), Ok(false));
        assert_eq!(identity.grace_ends(NOW), Some(LATER));
        assert!(!identity.cleared(&members(3), NOW), "node 1 may answer yet");
        assert!(identity.cleared(&members(3), LATER));
        assert!(!identity.cleared(&members(5), LATER));
        assert_eq!(identity.answer(NodeId(1), mark(3, 600), NodeWriteSeq(640), NOW), Ok(true));
        assert!(identity.cleared(&members(3), NOW));
    }

    #[test]
    fn an_older_copy_is_found_out_and_named() {
        let mut identity = Identity::new(NodeId(2), mark(3, 640), Incarnation(4), 500);
        let why = identity.answer(NodeId(3), mark(3, 812), NodeWriteSeq(640), NOW).unwrap_err();
        assert_eq!(
            why,
            "node 2's data directory is older than what node 3 has seen of it (write 812 of start 3, found 640): it was \
             set back to an old copy; remove it and join as a new node"
        );
        // The process that was rolled away had this process's number.
        assert!(identity.answer(NodeId(1), mark(4, 700), NodeWriteSeq(640), NOW).is_err());
        assert!(identity.answer(NodeId(1), mark(5, 1), NodeWriteSeq(640), NOW).is_err());
        // Also where this process has written as much since, which no peer saw before its first answer.
        assert!(identity.answer(NodeId(1), mark(4, 641), NodeWriteSeq(700), NOW).is_err());
        // What this process wrote itself is no contradiction.
        assert_eq!(identity.answer(NodeId(1), mark(4, 0), NodeWriteSeq(700), NOW), Ok(true));
        assert_eq!(identity.answer(NodeId(1), mark(4, 700), NodeWriteSeq(700), NOW), Ok(false));
        let mut wiped = Identity::new(NodeId(2), mark(0, 0), Incarnation(1), 500);
        assert_eq!(wiped.answer(NodeId(1), mark(0, 0), NodeWriteSeq(0), NOW), Ok(true));
        assert!(wiped.answer(NodeId(3), mark(3, 812), NodeWriteSeq(0), NOW).unwrap_err().contains("it was wiped"));
    }

    #[test]
    fn what_was_seen_only_rises() {
        let table = SeenTable::default();
        table.raise(NodeId(1), mark(2, 5));
        table.raise(NodeId(1), mark(1, 9));
        assert_eq!(table.get(NodeId(1)), mark(2, 5));
        assert_eq!(table.snapshot(), [(NodeId(1), mark(2, 5))]);
    }
}
