//! What the connections between nodes count.
//!
//! Owns: the counters. Must never: decide anything.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start of the process; read for metrics.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Frames handed to links.
    pub frames_sent: AtomicU64,
    /// Messages handed to links.
    pub messages_sent: AtomicU64,
    /// Encoded messages handed to links, bytes.
    pub bytes_sent: AtomicU64,
    /// Messages dropped because their peer was not connected.
    pub dropped_unconnected: AtomicU64,
    /// Messages dropped because their peer's queue was full.
    pub dropped_full: AtomicU64,
    /// Frames received.
    pub frames_received: AtomicU64,
    /// Messages received.
    pub messages_received: AtomicU64,
    /// Messages dropped because the worker's queue was full.
    pub dropped_inbox: AtomicU64,
    /// Links opened, outgoing.
    pub links_opened: AtomicU64,
    /// Links ended for whatever reason, outgoing.
    pub links_ended: AtomicU64,
    /// Links and pulses of others refused.
    pub refused: AtomicU64,
    /// Incoming streams ended because they held garbage.
    pub garbage: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
