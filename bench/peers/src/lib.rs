//! Synod beside other systems, in one run on one machine: the same generator drives real server processes of each.
//!
//! `bench-peers` measures them in rotation, `bench-limits` what the machine itself can do, `bench-tails` what Synod's slowest
//! operations see while something happens to it, `bench-gaps` how long clients wait beside splits, transfers and moves, `bench-change`
//! what a change costs.
//!
//! Owns: the servers it starts, and the figures. Must never: touch a process it did not start, or leave out a figure that is
//! not to somebody's liking.
#![cfg(feature = "peers")]

pub mod change;
pub mod disk;
pub mod drive;
pub mod echo;
pub mod failover;
pub mod handovers;
pub mod limits;
pub mod machine;
pub mod markdown;
pub mod measure;
pub mod plan;
pub mod plot;
pub mod process;
pub mod procfs;
pub mod scrape;
pub mod setup;
pub mod store;
pub mod summary;
pub mod systems;
pub mod tails;

use synod_bench::SpecError;
use systems::System;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// No such thing.
    #[error("unknown {what} {name:?}: known are {known}")]
    Unknown {
        /// A system, a workload, a set.
        what: &'static str,
        /// What was given.
        name: String,
        /// What there is.
        known: String,
    },
    /// The load cannot be made.
    #[error(transparent)]
    Spec(SpecError),
    /// A system did not start.
    #[error("{} did not start: {why}\n{log}", .system.name())]
    NotStarted {
        /// Which.
        system: System,
        /// How it ended, or what it did not do.
        why: String,
        /// The last lines of its log.
        log: String,
    },
    /// A file, a directory or a program.
    #[error("{what}: {why}")]
    Io {
        /// Which.
        what: String,
        /// What the system says.
        why: String,
    },
}

impl PeersError {
    /// Something of the system's went wrong.
    #[must_use]
    pub fn io(what: impl ToString, why: &dyn std::fmt::Display) -> PeersError {
        PeersError::Io { what: what.to_string(), why: why.to_string() }
    }
}

/// The result of most things here.
pub type Result<T> = std::result::Result<T, PeersError>;
