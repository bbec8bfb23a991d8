//! Which process of each node this node believes.
//!
//! Owns: the decision. Must never: believe two processes of one node, or one that started before another it knows.
//!
//! Each start of a node has an incarnation, one above the greatest on its disk, and a random nonce. A copy of a data directory
//! counts up from the same number, so both copies may start as the same incarnation; the nonces differ all the same. The first
//! one heard is believed, and every other of that incarnation or a lower one is refused. A higher incarnation takes its place.
//!
//! What this node heard is known to its memory only. So nodes tell each other what they heard, and what was told by others
//! counts for a refusal as much: where two nodes believe two processes of a third one, neither of those is believed.
//!
//! A process that leaves before it sent a consensus message is forgotten: nothing rests on it. So a directory that was found
//! to be older than it should be, and left for that, does not keep the right one away, which may bear the same number.

use std::collections::BTreeMap;
use synod_cluster::ids::{Incarnation, NodeId, Nonce};

/// One start of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub incarnation: Incarnation,
    /// What it drew.
    pub nonce: Nonce,
}

impl Process {
    /// Whether this process, of the same node, rules `other` out: it is later, or another of the same incarnation.
    #[must_use]
    pub fn rules_out(self, other: Self) -> bool {
        let said = self.nonce != Nonce(0) && other.nonce != Nonce(0);
        self.incarnation > other.incarnation
            || self.incarnation == other.incarnation && said && self.nonce != other.nonce
    }
}

/// A process, and where it said it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The process.
    pub process: Process,
    /// Empty where it is not known.
    pub addr: String,
}

#[derive(Debug)]
struct Believed {
    sighting: Sighting,
    /// A consensus message of it was taken.
    took_part: bool,
}

/// The processes of all other nodes.
#[derive(Debug, Default)]
pub struct Processes {
    heard: BTreeMap<NodeId, Believed>,
    /// By whom, of whom.
    told: BTreeMap<NodeId, BTreeMap<NodeId, Sighting>>,
}

impl Processes {
    /// Refuses a process that another one rules out.
    ///
    /// # Errors
    /// The other one.
    pub fn check(&self, node: NodeId, process: Process) -> Result<(), Sighting> {
        match self.all_of(node).find(|other| other.process.rules_out(process)) {
            Some(other) => Err(other.clone()),
            None => Ok(()),
        }
    }

    /// A process of `node` speaks: it is believed from now on, unless it is ruled out. Returns whether another one was believed
    /// before. An empty address is none.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn believe(&mut self, node: NodeId, process: Process, addr: &str) -> Result<bool, Sighting> {
        self.check(node, process)?;
        let known = self.heard.get_mut(&node).filter(|known| known.sighting.process.incarnation == process.incarnation);
        if let Some(known) = known {
            if process.nonce != Nonce(0) {
                known.sighting.process = process;
            }
            if !addr.is_empty() {
                addr.clone_into(&mut known.sighting.addr);
            }
            return Ok(false);
        }
        let sighting = Sighting { process, addr: addr.to_owned() };
        Ok(self.heard.insert(node, Believed { sighting, took_part: false }).is_some())
    }

    /// A consensus message of the process of `node` that is believed was taken.
    pub fn took_part(&mut self, node: NodeId) {
        if let Some(known) = self.heard.get_mut(&node) {
            known.took_part = true;
        }
    }

    /// A process of `node` says that it leaves. Returns whether it was believed and is forgotten.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn leave(&mut self, node: NodeId, process: Process) -> Result<bool, Sighting> {
        self.check(node, process)?;
        let known = self.heard.get(&node);
        let forgotten = known.is_some_and(|known| known.sighting.process == process && !known.took_part);
        if forgotten {
            self.heard.remove(&node);
        }
        Ok(forgotten)
    }

    /// Takes the place of all that `by` told before. Returns the nodes whose believed process is ruled out now.
    pub fn tell(&mut self, by: NodeId, told: BTreeMap<NodeId, Sighting>) -> Vec<NodeId> {
        self.told.insert(by, told);
        let out =
            |(node, known): (&NodeId, &Believed)| self.check(*node, known.sighting.process).is_err().then_some(*node);
        self.heard.iter().filter_map(out).collect()
    }

    /// What is told to `to`: of each other node the process that was heard here, and all that is known of its own.
    pub fn tellings(&self, to: NodeId) -> impl Iterator<Item = (NodeId, &Sighting)> {
        let others = self.heard.iter().filter(move |(node, _)| **node != to);
        let others = others.map(|(node, known)| (*node, &known.sighting));
        others.chain(self.all_of(to).map(move |sighting| (to, sighting)))
    }

    /// Forgets a node.
    pub fn forget(&mut self, node: NodeId) {
        self.heard.remove(&node);
        self.told.remove(&node);
        for told in self.told.values_mut() {
            told.remove(&node);
        }
    }

    fn all_of(&self, node: NodeId) -> impl Iterator<Item = &Sighting> {
        let heard = self.heard.get(&node).map(|known| &known.sighting);
        heard.into_iter().chain(self.told.values().filter_map(move |told| told.get(&node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    fn process(incarnation: u64, nonce: u64) -> Process {
        Process { incarnation: Incarnation(incarnation), nonce: Nonce(nonce) }
    }

    fn told(incarnation: u64, nonce: u64) -> BTreeMap<NodeId, Sighting> {
        BTreeMap::from([(ONE, Sighting { process: process(incarnation, nonce), addr: String::new() })])
    }

    #[test]
    fn the_first_of_an_incarnation_is_believed_and_no_other_and_a_later_one_takes_its_place() {
        let mut known = Processes::default();
        assert_eq!(known.believe(ONE, process(7, 11), "a:1"), Ok(false));
        let first = Sighting { process: process(7, 11), addr: "a:1".into() };
        assert_eq!(known.believe(ONE, process(7, 12), "b:1"), Err(first.clone()), "a copy");
        assert_eq!(known.believe(ONE, process(6, 13), "c:1"), Err(first), "an older one");
        assert_eq!(known.believe(ONE, process(7, 11), ""), Ok(false), "it goes on");
        assert_eq!(known.believe(ONE, process(8, 12), "b:1"), Ok(true));
        for (incarnation, nonce) in [(7, 11), (8, 11), (8, 13), (7, 0), (1, 12)] {
            assert!(known.believe(ONE, process(incarnation, nonce), "a:1").is_err(), "{incarnation} {nonce}");
        }
        assert_eq!(known.believe(TWO, process(8, 11), "d:1"), Ok(false), "other nodes have their own");
    }

    #[test]
    fn silence_rules_nothing_out() {
        let mut known = Processes::default();
        assert_eq!(known.believe(ONE, process(7, 0), ""), Ok(false));
        assert_eq!(known.believe(ONE, process(7, 12), ""), Ok(false), "it says now");
        assert_eq!(known.believe(ONE, process(7, 0), ""), Ok(false));
        assert!(known.believe(ONE, process(7, 13), "").is_err(), "what was said once counts");
        assert!(known.believe(ONE, process(6, 0), "").is_err());
    }

    #[test]
    fn where_two_nodes_believe_two_processes_neither_is_believed() {
        let (mut two, mut three) = (Processes::default(), Processes::default());
        two.believe(ONE, process(7, 11), "a:1").unwrap();
        three.believe(ONE, process(7, 12), "b:1").unwrap();
        let heard = |by: &Processes, to| by.tellings(to).map(|(node, s)| (node, s.clone())).collect();
        assert_eq!(two.tell(THREE, heard(&three, TWO)), [ONE]);
        assert_eq!(three.tell(TWO, heard(&two, THREE)), [ONE]);
        assert!(two.check(ONE, process(7, 11)).is_err() && three.check(ONE, process(7, 12)).is_err());
        // Each of both is told of the other.
        let of_one: Vec<u64> = two.tellings(ONE).filter(|(n, _)| *n == ONE).map(|(_, s)| s.process.nonce.0).collect();
        assert_eq!(of_one, [11, 12]);
        // What one was told it does not pass on as heard.
        assert_eq!(Processes::tellings(&two, THREE).count(), 1);
        // One of them starts again.
        assert_eq!(two.believe(ONE, process(8, 13), "a:1"), Ok(true));
        assert_eq!(three.tell(TWO, told(8, 13)), [ONE]);
        assert_eq!(three.believe(ONE, process(8, 13), "a:1"), Ok(true));
        assert!(three.check(ONE, process(7, 12)).is_err());
    }

    #[test]
    fn one_that_leaves_before_it_took_part_is_forgotten() {
        let mut known = Processes::default();
        known.believe(ONE, process(8, 11), "a:1").unwrap();
        assert_eq!(known.leave(ONE, process(8, 11)), Ok(true));
        assert_eq!(known.leave(ONE, process(8, 11)), Ok(false), "and does not come back by leaving again");
        assert_eq!(known.believe(ONE, process(8, 12), "a:1"), Ok(false), "the right directory bears the same number");
        known.took_part(ONE);
        assert_eq!(known.leave(ONE, process(8, 12)), Ok(false));
        assert!(known.believe(ONE, process(8, 13), "a:1").is_err());
        assert!(known.leave(ONE, process(8, 13)).is_err());
    }

    #[test]
    fn what_was_told_ends_with_the_next_word_of_the_same_node() {
        let mut known = Processes::default();
        assert_eq!(known.tell(TWO, told(8, 11)), []);
        assert!(known.believe(ONE, process(8, 12), "").is_err());
        assert_eq!(known.tell(TWO, BTreeMap::new()), []);
        assert_eq!(known.believe(ONE, process(8, 12), ""), Ok(false));
        assert_eq!(known.tell(TWO, told(9, 1)), [ONE]);
        known.forget(TWO);
        assert_eq!(known.check(ONE, process(8, 12)), Ok(()));
    }
}
