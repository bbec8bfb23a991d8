//! Typed errors in the statuses of failed calls.
//!
//! Owns: the way of a typed error into a status and out of it. Must never: lose the error: the code only tells what kind it is.

use prost::Message as _;
use synod_proto::v1;
use tonic::{Code, Status};
use v1::error::Kind;

/// The status of a failed unary call: the typed error travels in its details.
#[must_use]
pub fn status(error: &v1::Error) -> Status {
    let code = match &error.kind {
        Some(Kind::TableNotFound(_) | Kind::JobNotFound(_)) => Code::NotFound,
        Some(Kind::TableExists(_)) => Code::AlreadyExists,
        Some(Kind::InvalidArgument(_) | Kind::TooLarge(_) | Kind::CrossShard(_)) => Code::InvalidArgument,
        Some(Kind::ExpectationFailed(_) | Kind::NotLeader(_) | Kind::WrongShard(_) | Kind::WrongEpoch(_)) => {
            Code::FailedPrecondition
        }
        Some(Kind::OtherCluster(_) | Kind::JobConflict(_)) => Code::FailedPrecondition,
        Some(Kind::Trimmed(_)) => Code::OutOfRange,
        Some(Kind::Overloaded(_) | Kind::DiskFull(_)) => Code::ResourceExhausted,
        Some(Kind::Expired(_)) => Code::DeadlineExceeded,
        Some(Kind::OutcomeUnknown(_)) | None => Code::Unknown,
        Some(Kind::Quarantined(_) | Kind::Unavailable(_) | Kind::Changing(_)) => Code::Unavailable,
    };
    Status::with_details(code, error.message.clone(), error.encode_to_vec().into())
}

/// The typed error in a status, where there is one.
#[must_use]
pub fn typed(status: &Status) -> Option<v1::Error> {
    v1::Error::decode(status.details()).ok().filter(|error| error.kind.is_some())
}
