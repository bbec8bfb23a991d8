//! Whole nodes in one thread: the engine's production code over a seeded network, disk and clock.
//!
//! Owns: the world around the nodes (network, disks, clocks, processes, clients), and the observer that sees all of it.
//! Must never: touch a node other than through the engine's public contract, take time or randomness from anywhere but
//! the seed, or leave a check out because it fails.
//!
//! Production code that runs here: worker, shards, log writer (inline, or handing its batches over), sessions, identity,
//! state machine, queries, the consensus core, the codec of messages and of all rows, snapshot files (made, verified, received
//! in parts, loaded) and the decisions about those that are offered, the failure detector, the steps of moves and of splits and the executor of jobs, what nodes refuse, and
//! the client's decisions what to do next and which shard has its keys. Simulated: sockets (every message is encoded and decoded), the
//! log DB, the state DB and the file system under their traits, clocks, and what of a client is not a decision.
//!
//! A run is a pure function of its seed: [`run`] with the same seed and the same [`Planted`] gives the same trace. It has
//! two phases. In the first, faults and clients act at random; in the second, faults stop, every node restarts, and within
//! a bounded virtual time every client must finish, every replica must hold the same, and the groups must fall silent.

pub mod coverage;
pub mod expected;
pub mod scenarios;
pub mod search;
pub mod trace;
pub mod violation;

mod audit;
mod clients;
mod clock;
mod custody;
mod dice;
mod disk;
mod epochs;
mod faults;
mod finish;
mod host;
mod lifecycle;
mod members;
mod model;
mod moves;
mod network;
mod node;
mod plan;
mod replies;
mod requests;
mod retry;
mod routes;
mod setup;
mod shown;
mod snapshot_files;
mod snapshots;
mod splits;
mod splitting;
mod traffic;
mod transfers;
mod upgrades;
mod versions;
mod whereabouts;
mod world;

pub use plan::{DiskFault, Planted};
pub use search::{Outcome, Report, run, search};
pub use trace::Trace;
pub use violation::Violation;
