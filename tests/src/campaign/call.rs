//! What a client of the load is asked and what it answers, whatever it calls through.
//!
//! Owns: the words of both. Must never: depend on a client.

use synod_lincheck::Seen;

/// A write.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Delete,
    /// With the next offset that the key must have, where one is named.
    Append {
        values: Vec<String>,
        next: Option<u64>,
    },
}

/// What a write came to.
#[derive(Debug)]
pub(super) enum Answer {
    Written {
        offset: u64,
    },
    Expectation {
        actual: u64,
    },
    /// Refused for want of room.
    NoRoom(String),
    /// Nobody told whether it was executed.
    Unknown(String),
    NotExecuted(String),
}

/// What a get found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) newest: Option<Seen>,
    pub(super) next: u64,
}
