//! What a call can answer besides its result.
//!
//! Owns: the error type of the public interface and how a wire error becomes one. Must never: let a topology error
//! (`NotLeader`, `WrongShard`) through to the caller; those are [`Refusal`]s and end in the retry loop.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use synod_proto::v1;
use v1::error::Kind;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Every message is one line that names the cause and, where there is one, the limit and its knob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No table has this name.
    #[error("table {table:?} does not exist")]
    TableNotFound {
        /// The name asked for.
        table: String,
    },
    /// A table of this name exists already.
    #[error("table {table:?} exists already")]
    TableExists {
        /// The name asked for.
        table: String,
    },
    /// The key was not as `expect` said; nothing was written.
    #[error("expectation failed: the key's next offset is {actual} (operation {})", u64::from(*op_index) + 1)]
    ExpectationFailed {
        /// The key's next offset.
        actual: u64,
        /// Which operation of the batch, from 0; the message counts from 1.
        op_index: u32,
    },
    /// Records asked for are gone.
    #[error("records{} before offset {first} were trimmed", of_key(key))]
    Trimmed {
        /// Whose records; empty where the node is too old to say.
        key: Bytes,
        /// The first offset that is left.
        first: u64,
    },
    /// A batch named keys of several shards; nothing was written.
    #[error("the keys of the batch live on several shards; a batch is atomic on one shard only")]
    CrossShard,
    /// A key, value, header list or batch is larger than allowed; nothing was written.
    #[error("{what}: more than the limit of {limit} ({knob})")]
    TooLarge {
        /// What was too large.
        what: String,
        /// The most allowed, in bytes or pieces as `what` says.
        limit: u64,
        /// The setting that holds the limit.
        knob: String,
    },
    /// The server has no room for the request; nothing was done. Retried by the client until the call's deadline.
    #[error("overloaded: {why}; nothing was done (retry after {} ms)", retry_after.as_millis())]
    Overloaded {
        /// How long the server asks to be left alone.
        retry_after: Duration,
        /// The server's words: what is full, how much it holds, and the knob.
        why: String,
    },
    /// The write's deadline passed before it was executed; nothing was written.
    #[error(
        "expired: the write's deadline passed before it was executed, by the shard's time of {shard_time_us} µs; nothing was \
         written"
    )]
    Expired {
        /// The shard's time, µs: what a new deadline is to count from. 0 where the node did not say.
        shard_time_us: u64,
    },
    /// The write may or may not have been executed; it was sent, and no answer says which.
    #[error("outcome unknown: {cause}; the write may or may not have been executed")]
    OutcomeUnknown {
        /// What kept the answer away.
        cause: String,
    },
    /// The node's disk is nearly full, it takes no writes; nothing was written.
    #[error("disk full: {message}; nothing was written")]
    DiskFull {
        /// The server's words.
        message: String,
    },
    /// The node or replica takes no part.
    #[error("quarantined: {why}")]
    Quarantined {
        /// Why.
        why: String,
    },
    /// An argument cannot be right; nothing was sent or nothing was done.
    #[error("invalid {field}: {why}")]
    InvalidArgument {
        /// Which argument.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A change of members that was made for another epoch than the one its shard is in; nothing was changed.
    #[error(
        "the shard is in epoch {current}, the change of its members was made for epoch {expected}; nothing was changed"
    )]
    WrongEpoch {
        /// The shard's epoch, as its leader knows it.
        current: u64,
        /// The one that the change named.
        expected: u64,
    },
    /// The node asked belongs to another cluster than this client; nothing was done.
    #[error("another cluster: {why}")]
    OtherCluster {
        /// Which node, and both clusters.
        why: String,
    },
    /// No node that could answer did so in time. For a write: none was ever sent, nothing was written.
    #[error("unavailable: {why}")]
    Unavailable {
        /// The last thing that was in the way.
        why: String,
    },
}

fn of_key(key: &Bytes) -> String {
    if key.is_empty() { String::new() } else { format!(" of key {:?}", String::from_utf8_lossy(key)) }
}

impl Error {
    /// Whether the same call, made again later, can succeed without anything else being changed. A write whose outcome
    /// is unknown is not retryable by this measure: a new call is a new write and may execute a second time.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Error::Overloaded { .. }
                | Error::Expired { .. }
                | Error::DiskFull { .. }
                | Error::Quarantined { .. }
                | Error::OtherCluster { .. }
                | Error::Unavailable { .. }
        )
    }

    /// The name printed as `error` in JSON: the variant's name in snake case.
    pub fn code(&self) -> &'static str {
        match self {
            Error::TableNotFound { .. } => "table_not_found",
            Error::TableExists { .. } => "table_exists",
            Error::ExpectationFailed { .. } => "expectation_failed",
            Error::Trimmed { .. } => "trimmed",
            Error::CrossShard => "cross_shard",
            Error::TooLarge { .. } => "too_large",
            Error::Overloaded { .. } => "overloaded",
            Error::Expired { .. } => "expired",
            Error::OutcomeUnknown { .. } => "outcome_unknown",
            Error::DiskFull { .. } => "disk_full",
            Error::Quarantined { .. } => "quarantined",
            Error::InvalidArgument { .. } => "invalid_argument",
            Error::WrongEpoch { .. } => "wrong_epoch",
            Error::OtherCluster { .. } => "other_cluster",
            Error::Unavailable { .. } => "unavailable",
        }
    }

    /// An [`Error::InvalidArgument`].
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Error {
        Error::InvalidArgument { field: field.into(), why: why.into() }
    }

    /// What was in the way, for a message that says the rest itself.
    pub(crate) fn cause(&self) -> String {
        match self {
            Error::Unavailable { why } => why.clone(),
            Error::OutcomeUnknown { cause } => cause.clone(),
            other => other.to_string(),
        }
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Error {
        Error::Unavailable { why: why.into() }
    }

    /// The error of a failed unary call: the encoded error in its details, or what its gRPC code says.
    pub(crate) fn from_status(status: &tonic::Status) -> Error {
        if !status.details().is_empty()
            && let Ok(error) = v1::Error::decode(status.details())
            && error.kind.is_some()
        {
            return match Refusal::from_wire(error) {
                Refusal::Final(error) | Refusal::Later(error) => error,
                Refusal::Overloaded { retry_after, why } => Error::Overloaded { retry_after, why },
                Refusal::NotLeader { .. } | Refusal::WrongShard => Error::unavailable(status.message()),
            };
        }
        match status.code() {
            tonic::Code::InvalidArgument => Error::invalid("request", status.message()),
            code => Error::unavailable(format!("{code:?}: {}", status.message())),
        }
    }
}

/// What a server said instead of a result, sorted by what the retry loop does about it.
#[derive(Debug)]
pub enum Refusal {
    /// Another node leads.
    NotLeader {
        /// Who does, 0 where unknown.
        leader: u64,
        /// The one asked had proposed the write.
        maybe: bool,
    },
    /// The shard map used is not the shard's own.
    WrongShard,
    /// Nothing was done, the server asks for a pause.
    Overloaded {
        /// How long.
        retry_after: Duration,
        /// The server's words.
        why: String,
    },
    /// Asking again, perhaps elsewhere, can help.
    Later(Error),
    /// Asking again cannot help.
    Final(Error),
}

impl Refusal {
    /// Sorts a wire error.
    #[must_use]
    pub fn from_wire(wire: v1::Error) -> Refusal {
        let v1::Error { message, retryable, kind } = wire;
        let sort = |error| if retryable { Refusal::Later(error) } else { Refusal::Final(error) };
        let Some(kind) = kind else { return sort(Error::Unavailable { why: message }) };
        match kind {
            Kind::NotLeader(e) => Refusal::NotLeader { leader: e.leader, maybe: e.maybe },
            Kind::WrongShard(_) => Refusal::WrongShard,
            Kind::Overloaded(e) => {
                let retry_after = Duration::from_millis(u64::from(e.retry_after_ms));
                Refusal::Overloaded { retry_after, why: message }
            }
            Kind::TableNotFound(e) => Refusal::Final(Error::TableNotFound { table: e.table }),
            Kind::TableExists(e) => Refusal::Final(Error::TableExists { table: e.table }),
            Kind::Trimmed(e) => Refusal::Final(Error::Trimmed { key: e.key, first: e.first }),
            Kind::CrossShard(_) => Refusal::Final(Error::CrossShard),
            Kind::TooLarge(e) => Refusal::Final(Error::TooLarge { what: e.what, limit: e.limit, knob: e.knob }),
            Kind::Expired(e) => Refusal::Final(Error::Expired { shard_time_us: e.shard_time_us }),
            Kind::OutcomeUnknown(_) => sort(Error::OutcomeUnknown { cause: message }),
            Kind::DiskFull(_) => sort(Error::DiskFull { message }),
            Kind::Quarantined(e) => sort(Error::Quarantined { why: e.why }),
            Kind::InvalidArgument(e) => Refusal::Final(Error::InvalidArgument { field: e.field, why: e.why }),
            Kind::ExpectationFailed(e) => {
                Refusal::Final(Error::ExpectationFailed { actual: e.actual, op_index: e.op_index })
            }
            Kind::WrongEpoch(e) => Refusal::Final(Error::WrongEpoch { current: e.current, expected: e.expected }),
            Kind::OtherCluster(_) => Refusal::Later(Error::OtherCluster { why: message }),
            Kind::Unavailable(_) => Refusal::Later(Error::Unavailable { why: message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(Error::from_status(&status), Error::unavailable("node 2 leads"));
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
        assert_eq!(Error::from_status(&status), Error::TableExists { table: "t".into() });
        let bare = tonic::Status::new(tonic::Code::Unavailable, "gone");
        assert_eq!(Error::from_status(&bare).code(), "unavailable");
    }

    #[test]
    fn only_what_changed_nothing_is_retryable() {
        assert!(!Error::OutcomeUnknown { cause: "x".into() }.retryable());
        assert!(Error::Expired { shard_time_us: 0 }.retryable());
        assert!(!Error::CrossShard.retryable());
    }
}
