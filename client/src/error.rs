//! The errors of the public interface, and how a failed unary call becomes one.
//!
//! Owns: the reading of a gRPC status. Must never: let a topology error (`NotLeader`, `WrongShard`) through to the caller.

use prost::Message;
use synod_cluster::decide::Refused;
pub use synod_cluster::error::{Error, Result};
use synod_proto::v1;

/// The error of a failed unary call: the encoded error in its details, or what its gRPC code says.
pub(crate) fn of_status(status: &tonic::Status) -> Error {
    if !status.details().is_empty()
        && let Ok(error) = v1::Error::decode(status.details())
        && error.kind.is_some()
    {
        return match Refused::from(error) {
            Refused::Final(error) | Refused::Later(error) => error,
            Refused::Overloaded { retry_after, why } => Error::Overloaded { retry_after, why },
            Refused::NotLeader { .. } | Refused::WrongShard | Refused::Changing { .. } => {
                Error::unavailable(status.message())
            }
        };
    }
    match status.code() {
        tonic::Code::InvalidArgument => Error::invalid("request", status.message()),
        code => Error::unavailable(format!("{code:?}: {}", status.message())),
    }
}

/// An answer of the wrong kind: a fault of the node, or one of another version.
pub(crate) fn unexpected() -> Error {
    Error::unavailable("the node's answer does not fit the request")
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::error::Kind;

    #[test]
    fn topology_errors_of_unary_calls_become_unavailable() {
        let wire = v1::Error {
            message: "node 2 leads".into(),
            retryable: true,
            kind: Some(Kind::NotLeader(v1::NotLeader { leader: 2, maybe: false })),
        };
        let status = tonic::Status::with_details(
            tonic::Code::FailedPrecondition,
            "node 2 leads",
            bytes::Bytes::from(wire.encode_to_vec()),
        );
        assert_eq!(of_status(&status), Error::unavailable("node 2 leads"));
    }

    #[test]
    fn details_carry_the_typed_error() {
        let wire = v1::Error {
            message: String::new(),
            retryable: false,
            kind: Some(Kind::TableExists(v1::TableExists { table: "t".into() })),
        };
        let details = bytes::Bytes::from(wire.encode_to_vec());
        let status = tonic::Status::with_details(tonic::Code::AlreadyExists, "", details);
        assert_eq!(of_status(&status), Error::TableExists { table: "t".into() });
        let bare = tonic::Status::new(tonic::Code::Unavailable, "gone");
        assert_eq!(of_status(&bare).code(), "unavailable");
    }
}
