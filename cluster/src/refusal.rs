//! What a node refuses.
//!
//! Owns: the reasons, their words, and when to come again. Must never: say of a write that nothing was done where something may have
//! been. What a client does about each is decided in [`decide`](crate::decide).

use crate::ids::{NodeId, Offset};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use synod_paxos::types::Epoch;

/// What is said where too much waits.
pub const OVERLOADED: &str =
    "too many requests wait on this node (limits.worker_requests_max); try again a little later";
/// Pause before the next attempt where too much waits, unless the node knows better.
pub const OVERLOADED_AGAIN: Duration = Duration::from_millis(20);
/// Pause before a write is tried again for whose outcome there was no room. Room comes when the client's oldest write ends.
pub const ROOM_AGAIN: Duration = Duration::from_millis(100);

/// Why a request was not executed. Never stored; nothing changed, save that a write which was already proposed and then
/// lost its leader is *unknown* and gets [`Refusal::NotLeader`] with `maybe: true`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another node leads, or nobody is known to.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
        /// The write may have been executed or may yet be.
        maybe: bool,
    },
    /// The shard is not here, its version differs, or the key is not in it.
    #[error("the key is not in this shard")]
    WrongShard,
    /// The shard stands still, to go into another one: it is served again in a moment, by itself or by that one. Nothing was
    /// executed.
    #[error("the shard is being merged with another one; try again in {retry_after_ms} ms")]
    Changing {
        /// Pause before the next attempt, ms.
        retry_after_ms: u32,
    },
    /// Too much is waiting.
    #[error("overloaded")]
    Overloaded,
    /// Part of the node's memory is full; says which, how much it may be, and the knob. Nothing was proposed.
    #[error("{0}")]
    NoMemory(Arc<str>),
    /// As many tails wait as may. They may be asked elsewhere, or again a little later.
    #[error("{limit} tails wait on this {place} already ({knob}): ask another node, or again later")]
    TooManyTails {
        /// How many may wait.
        limit: usize,
        /// Where: "node", "shard" or "stream".
        place: &'static str,
        /// The setting that holds the limit, or "fixed".
        knob: &'static str,
    },
    /// Past its deadline, by the shard's time. It is not executed, now or ever.
    #[error("the write's deadline has passed: the shard's time is {shard_us} µs")]
    Expired {
        /// The shard's time by which it was judged, µs: what a new deadline is to count from.
        shard_us: u64,
    },
    /// Below the client's floor: an earlier attempt's outcome is no longer kept.
    #[error("the write is below its client's floor")]
    BelowFloor,
    /// Records asked for are gone.
    #[error("records of key {key:?} below offset {first} were trimmed")]
    Trimmed {
        /// Whose.
        key: Bytes,
        /// First offset kept.
        first: Offset,
    },
    /// A write that needs room on a node whose disk is nearly full; says how full, and the knob. It was not proposed.
    #[error("{0}")]
    DiskFull(Arc<str>),
    /// The node takes no part.
    #[error("the node is quarantined: {0}")]
    Quarantined(Arc<str>),
    /// The request makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// A change of members that was computed from those of another epoch. Nothing was proposed.
    #[error("the shard is in epoch {current}, the change of its members was made for epoch {expected}")]
    WrongEpoch {
        /// The shard's.
        current: Epoch,
        /// The change's.
        expected: Epoch,
    },
    /// The node is starting or stopping.
    #[error("the node is not ready")]
    NotReady,
}
