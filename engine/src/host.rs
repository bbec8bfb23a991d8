//! The border of the engine: what a worker is told, and what it asks of its surroundings.
//!
//! Owns: the [`Host`] trait. Each subject is a module of its own, with its inputs and its part of the host; so are requests,
//! answers and reports. Must never: block, or know what a socket is.

mod admin;
mod answers;
mod hand_over;
mod inputs;
mod merges;
mod node;
mod peers;
mod reads;
mod reports;
mod requests;
mod scrubs;
mod snapshots;

pub use admin::{AdminInput, MergeWanted, SplitWanted};
pub(crate) use admin::{Divided, Told};
pub use answers::{Answer, KeyedRecord, Reply, ReplySink};
pub use hand_over::HandOverInput;
pub use inputs::Input;
pub use merges::{MergeHost, MergeInput, MergeWord};
pub use node::{NodeInput, ProcessHost};
pub use peers::{Links, PeerInput};
pub use reads::{FetchRequest, ReadHost, RowsFetched};
pub use reports::{
    Division, LoadReport, MERGE_CANCELLED, MERGE_FROZEN, MERGE_MERGING, MergeReport, Middle, NodeReport, ReplicaReport,
    Sampled, ScrubReport, Size, Work,
};
pub use requests::{At, Body, Freshness, Read, Request, Scan, TailPoll};
pub use scrubs::{ScrubHost, ScrubInput};
pub use snapshots::{SnapshotHost, SnapshotInput, SnapshotKind};

pub use crate::snapshot::SnapshotRequest;

/// What a worker asks of its surroundings, by subject. Calls must not block. Whatever has all the subjects is a host.
pub trait Host: Links + ProcessHost + SnapshotHost + ScrubHost + ReadHost + MergeHost + Send {}

impl<H: Links + ProcessHost + SnapshotHost + ScrubHost + ReadHost + MergeHost + Send> Host for H {}
