//! A seeded explorer over Synod's consensus core: one group, a hostile world, and every invariant checked at each step.
//!
//! Owns: the simulated world (clock, network, disks, processes, clients) and the observer that sees all of it. Must never:
//! touch the core other than through its public contract, take time or randomness from anywhere but the seed, or leave a
//! check out because it fails.
//!
//! A schedule is a pure function of its seed: [`run`] with the same seed and the same [`Planted`] gives the same trace,
//! byte for byte. A schedule has two phases. In the first, faults and clients act at random; in the second, faults stop,
//! and within a bounded virtual time a leader must exist, a fresh proposal must be chosen and applied by every member,
//! and the group must fall silent.

pub mod coverage;
pub mod search;
pub mod trace;
pub mod violation;

mod actions;
mod client;
mod clock;
mod dice;
mod disk;
mod events;
mod expected;
mod finish;
mod lags;
mod lifecycle;
mod membership;
mod network;
mod observer;
mod outputs;
mod plan;
mod strikes;
mod world;

pub use plan::{ClockFault, DiskFault, Planted};
pub use search::{Outcome, Report, explore, run};
pub use trace::Trace;
pub use violation::Violation;
