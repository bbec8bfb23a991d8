//! What a call can answer besides its result.
//!
//! Owns: the errors that callers of a client see, and their words. Must never: hold what only a client has to deal with, such as a
//! node that does not lead; that is [`Refused`](crate::decide::Refused), and ends in the decision what to try next.

use bytes::Bytes;
use std::time::Duration;

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
    /// The write's deadline had passed before this call could execute it; this call wrote nothing. It does not tell whether an
    /// earlier call under the same name did: the session that had the outcome may be gone.
    #[error(
        "expired: the write's deadline has passed, by the shard's time of {shard_time_us} µs; this call wrote nothing"
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
    /// No job has this number, or its record is kept no longer.
    #[error("job {job} does not exist, or its record is kept no longer; `synod job list` shows those that there are")]
    JobNotFound {
        /// The number asked for.
        job: u64,
    },
    /// A job is in the way, or in another state; nothing was changed.
    #[error("job {job}: {why}")]
    JobConflict {
        /// Which job.
        job: u64,
        /// What it does, or how it ended.
        why: String,
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
            Error::JobNotFound { .. } => "job_not_found",
            Error::JobConflict { .. } => "job_conflict",
            Error::OtherCluster { .. } => "other_cluster",
            Error::Unavailable { .. } => "unavailable",
        }
    }

    /// An [`Error::InvalidArgument`].
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Error {
        Error::InvalidArgument { field: field.into(), why: why.into() }
    }

    /// What was in the way, for a message that says the rest itself.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Error::Unavailable { why } => why.clone(),
            Error::OutcomeUnknown { cause } => cause.clone(),
            other => other.to_string(),
        }
    }

    /// An [`Error::Unavailable`].
    pub fn unavailable(why: impl Into<String>) -> Error {
        Error::Unavailable { why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_nothing_is_retryable() {
        assert!(!Error::OutcomeUnknown { cause: "x".into() }.retryable());
        assert!(Error::Expired { shard_time_us: 0 }.retryable());
        assert!(!Error::CrossShard.retryable());
    }
}
