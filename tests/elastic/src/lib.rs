//! A seeded explorer of splits: several nodes, the shards of one table, clients and a map, with every rule checked at each step.
//!
//! Owns: the world of a schedule, the truth that answers are held to, and the steps that make the schedule. Must never: copy what the
//! production code decides, take time or chance from anywhere but the seed, or leave a check out because it fails.
//!
//! A schedule is a pure function of its seed. It has 700 random steps, in which nodes crash, lag, come back or die. Then all that
//! live hear everything, and within 80 rounds every write must end, every record must be tailed, and nothing may wait.
//!
//! | real | where it is from |
//! | --- | --- |
//! | entries, their bytes, their application, splits, births, sessions, rings, pieces, what a replica owns | `synod_engine::{command, machine, sessions, ring}` |
//! | rows, what is durable of them, what a restart finds | `synod_engine::state::mem`, `codec` |
//! | reads, scans, tails | `synod_engine::query` |
//! | the hash by which replicas are compared | `synod_engine::scrub` |
//! | metadata: reservations, reports of bounds and members, what has vanished | `synod_cluster::system` |
//! | what a node may give up | `synod_cluster::custody` |
//! | a client's routes, and what follows its failed attempts | `synod_cluster::{overlay, decide}` |
//!
//! | modelled | in |
//! | --- | --- |
//! | consensus: an entry is chosen once a majority has it; elections, epochs, leases, lag | `consensus` |
//! | what a worker does with its replicas: the place of a child that is born, its first log write, flushes, trims, restarts, snapshots, removals, the sweep | `replicas` |
//! | who tells the map what | `mapping` |
//! | the steps of a target's leader, the words of the nodes, what a worker does at an absorb | `merges` |
//! | the network, and what a node compares when a write comes | `writes` |
//! | the second look at the version, when a read or a tail is answered | `reads` |
//!
//! Checked at every step: a key has one owner; its offsets have no gaps, and its timestamps rise; a write executes once, and never after
//! it was reported as failed; all replicas at a slot have one hash, and so have all beginnings of a child; reads and scans show what
//! was acknowledged; the tail gives each record once, in order; no revision of the map has a gap or a version that falls; chosen
//! entries stay while a majority lives. Checked at the end: every record is served, and was tailed.
//!
//! In half of the schedules shards are merged too: then members of a target have its source as it was at the freeze, and in the end no
//! merge is open, and nothing is left of a shard that went into another.
//!
//! Not here: phase 1 and B0; clocks of leases; when a leader proposes a split; dropped tables;
//! retention and trims of records; damage; backups; the replication of the system shard.

pub mod scenes;
pub mod search;

mod client;
mod consensus;
mod dice;
mod group;
mod keys;
mod mapping;
mod merges;
mod node;
mod plan;
mod reader;
mod reads;
mod replicas;
mod schedule;
mod truth;
mod violation;
mod world;
mod writes;

pub use plan::{HostFault, Planted};
pub use search::{Outcome, Report, explore, run};
pub use violation::Violation;
