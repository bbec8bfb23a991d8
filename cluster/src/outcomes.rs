//! What the outcomes of a client's writes count, and how much of them a shard keeps.
//!
//! Owns: the sum by which a leader refuses more. The client library counts by it too, and waits where it would be refused. Must
//! never: depend on how an outcome is kept.

/// Bytes of outcomes kept of one client above which a leader proposes no more of its writes until it raises its floor. What was
/// proposed by then is executed and kept all the same: it is for the leader to say, so that every replica applies the same.
pub const OUTCOMES_BYTES_MAX: usize = 4 << 20;

/// What an outcome takes that has no results, bytes.
const OUTCOME_BYTES: usize = 48;
/// What the result of one operation takes, bytes.
const RESULT_BYTES: usize = 16;

/// What is counted for the kept outcome of a write of so many operations, bytes.
#[must_use]
pub const fn outcome_bytes(operations: usize) -> usize {
    OUTCOME_BYTES + operations * RESULT_BYTES
}
