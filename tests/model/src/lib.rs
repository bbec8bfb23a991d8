//! A model check of the consensus core: every interleaving of a small group within stated bounds, to the end.
//!
//! Owns: the model (three nodes, their disks, the links between them, what an environment may do) and the properties that
//! must hold in every state. Must never: replace any part of the core by a description of it; every transition of a node is
//! a step of the real [`paxos::Replica`].
//!
//! A node's state is its replica, its disk and its unsynced writes. Since there are far fewer states of one node than of a
//! group, each is kept once and known by a number; a state of the group is a handful of numbers, and a step that was taken
//! before by an equal node with an equal input is looked up. So most of a run's time is spent on the search itself.

pub use synod_paxos as paxos;

pub mod bounds;
pub mod group;
pub mod left;
pub mod local;
pub mod report;
pub mod tables;
pub mod verdict;
