//! One Synod node's storage and replication.
//!
//! Owns: log store, log writer, state store, apply, sessions, shards. Must never: touch the network, an async runtime or
//! a clock of its own; time, messages and randomness come in, messages and replies go out through traits.

/// Whether a planted fault is switched on; in the shipped crate always `false`, and compiled away.
macro_rules! planted {
    ($fault:ident) => {{
        #[cfg(feature = "planted")]
        {
            crate::planted::is_planted(crate::planted::Fault::$fault)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

pub mod background;
pub mod check;
pub mod clock;
pub mod codec;
pub mod command;
pub mod genesis;
pub mod host;
pub mod identity;
pub mod load;
pub mod logstore;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod middle;
pub mod node;
#[cfg(feature = "planted")]
pub mod planted;
pub mod processes;
pub mod query;
pub mod ring;
mod rocks;
mod round;
pub mod runner;
pub mod salvage;
pub mod scrub;
pub mod sessions;
mod setup;
mod shard;
pub mod share;
pub mod snapshot;
pub mod state;
pub mod times;
pub mod wall;
pub mod worker;
mod worker_id;
pub mod writer;

/// What a store can fail with. Every write error ends the process; a damaged store quarantines it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The operating system or RocksDB failed.
    #[error("{what}: {why}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause as reported.
        why: String,
    },
    /// Bytes read back are not what was written.
    #[error("damaged {what}: {why}")]
    Corrupt {
        /// Which store and row.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a newer version.
    #[error("{what} has format version {found}, this version reads up to {known}")]
    TooNew {
        /// Which row or file.
        what: String,
        /// The version found.
        found: u8,
        /// The greatest version known.
        known: u8,
    },
    /// The cluster has been raised to a version that this binary does not speak. Nothing is damaged.
    #[error("{what}: {too_new}")]
    ClusterTooNew {
        /// Which row or entry says so.
        what: String,
        /// The versions.
        too_new: synod_cluster::system::TooNew,
    },
    /// A read that was to stay in memory ([`state::StateStore::stay_in_memory`]) needs these rows. Nothing is wrong.
    #[error("rows are not in memory")]
    Cold(state::Lacked),
    /// The data directory belongs to another node or cluster.
    #[error(
        "the data directory belongs to node {found_node} of cluster {found_cluster:032x}, not to node {node} of cluster {cluster:032x}"
    )]
    Identity {
        /// Cluster found.
        found_cluster: u128,
        /// Node found.
        found_node: u64,
        /// Cluster wanted.
        cluster: u128,
        /// Node wanted.
        node: u64,
    },
}
