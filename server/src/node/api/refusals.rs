//! What the engine refuses, in the words of the wire.
//!
//! Owns: kind, words and whether asking again can help, of each refusal. Must never: say of a write that nothing was done
//! where something may have been. The whole-node simulation compiles this very file.

use synod_engine::host::Refusal;
use synod_proto::v1;
use v1::error::Kind;

/// An error of the wire.
#[must_use]
pub fn error(kind: Kind, retryable: bool, message: impl Into<String>) -> v1::Error {
    v1::Error { message: message.into(), retryable, kind: Some(kind) }
}

/// A part of a request that makes no sense.
#[must_use]
pub fn invalid(field: &str, why: impl Into<String>) -> v1::Error {
    let why = why.into();
    let message = format!("{field}: {why}");
    error(Kind::InvalidArgument(v1::InvalidArgument { field: field.into(), why }), false, message)
}

/// Too much is waiting; to be asked again after this time.
#[must_use]
pub fn overloaded(retry_after_ms: u32) -> v1::Error {
    let message = "too many requests wait on this node (limits.worker_requests_max); try again a little later";
    error(Kind::Overloaded(v1::Overloaded { retry_after_ms, this_only: false }), true, message)
}

/// Pause before a write is tried again for whose outcome there was no room. Room comes when the client's oldest write ends.
const ROOM_AGAIN_MS: u32 = 100;

/// The wire's error of a refusal.
#[must_use]
pub fn refusal_error(refusal: &Refusal) -> v1::Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::NotLeader { leader, maybe } => {
            let leader = leader.map_or(0, |n| n.0);
            error(Kind::NotLeader(v1::NotLeader { leader, maybe: *maybe }), true, message)
        }
        Refusal::WrongShard => error(Kind::WrongShard(v1::WrongShard {}), true, message),
        Refusal::Overloaded => overloaded(20),
        // Not `Unavailable`: that may be said after a write was proposed, so that clients take it for possibly executed.
        Refusal::NoMemory(_) => {
            let full = v1::Overloaded { retry_after_ms: ROOM_AGAIN_MS, this_only: true };
            error(Kind::Overloaded(full), true, message)
        }
        Refusal::TooManyTails { .. } => error(Kind::Unavailable(v1::Unavailable {}), true, message),
        Refusal::Expired { shard_us } => error(Kind::Expired(v1::Expired { shard_time_us: *shard_us }), false, message),
        Refusal::BelowFloor => error(Kind::OutcomeUnknown(v1::OutcomeUnknown {}), false, message),
        Refusal::Trimmed { key, first } => {
            error(Kind::Trimmed(v1::Trimmed { first: first.0, key: key.clone() }), false, message)
        }
        Refusal::DiskFull(_) => error(Kind::DiskFull(v1::DiskFull {}), true, message),
        Refusal::Quarantined(why) => error(Kind::Quarantined(v1::Quarantined { why: why.to_string() }), true, message),
        Refusal::Invalid { field, why } => invalid(field, why.clone()),
        Refusal::WrongEpoch { current, expected } => {
            let epochs = v1::WrongEpoch { current: current.0, expected: expected.0 };
            error(Kind::WrongEpoch(epochs), false, message)
        }
        Refusal::NotReady => error(Kind::Unavailable(v1::Unavailable {}), true, message),
    }
}
