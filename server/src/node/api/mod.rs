//! What clients call: the session stream, the unary calls, the map, and administration.
//!
//! Owns: the gRPC services. Must never: decide where a key lives or what a write does; the map and the engine do.

pub mod admin;
pub mod admission;
pub mod cluster;
pub mod convert;
pub mod session;
pub mod synod;

use super::status::status;
use synod_proto::v1;
use tonic::Status;
use v1::error::Kind;

/// The wire's error of a client error, for calls that this node forwarded through its own client.
#[must_use]
pub fn client_error(error: &synod_client::Error) -> v1::Error {
    use synod_client::Error;
    let kind = match error.clone() {
        Error::TableNotFound { table } => Kind::TableNotFound(v1::TableNotFound { table }),
        Error::TableExists { table } => Kind::TableExists(v1::TableExists { table }),
        Error::ExpectationFailed { actual, op_index } => {
            Kind::ExpectationFailed(v1::ExpectationFailed { op_index, actual })
        }
        Error::Trimmed { key, first } => Kind::Trimmed(v1::Trimmed { first, key }),
        Error::CrossShard => Kind::CrossShard(v1::CrossShard {}),
        Error::TooLarge { what, limit, knob } => Kind::TooLarge(v1::TooLarge { what, limit, knob }),
        Error::Overloaded { retry_after, .. } => {
            let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
            Kind::Overloaded(v1::Overloaded { retry_after_ms, this_only: false })
        }
        Error::Expired { shard_time_us } => Kind::Expired(v1::Expired { shard_time_us }),
        Error::OutcomeUnknown { .. } => Kind::OutcomeUnknown(v1::OutcomeUnknown {}),
        Error::DiskFull { .. } => Kind::DiskFull(v1::DiskFull {}),
        Error::Quarantined { why } => Kind::Quarantined(v1::Quarantined { why }),
        Error::InvalidArgument { field, why } => Kind::InvalidArgument(v1::InvalidArgument { field, why }),
        Error::JobNotFound { job } => Kind::JobNotFound(v1::JobNotFound { job }),
        Error::JobConflict { job, why } => Kind::JobConflict(v1::JobConflict { job, why }),
        Error::WrongEpoch { current, expected } => Kind::WrongEpoch(v1::WrongEpoch { current, expected }),
        _ => Kind::Unavailable(v1::Unavailable {}),
    };
    convert::error(kind, error.retryable(), error.to_string())
}

/// The status of a forwarded call that failed.
#[must_use]
pub fn client_status(error: &synod_client::Error) -> Status {
    status(&client_error(error))
}
