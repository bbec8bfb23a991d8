//! What a history is made of.
//!
//! Owns: the vocabulary, which is also that of the files. Must never: hold behaviour.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What must hold of a key for a write to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Anything.
    Any,
    /// No record, or the newest is a tombstone.
    Absent,
    /// A newest record that is no tombstone.
    Exists,
    /// The next offset is exactly this.
    Next(u64),
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Appends one record.
    Put {
        /// Unique over the history.
        value: String,
        /// The condition.
        expect: Expect,
    },
    /// Appends records, atomically.
    Append {
        /// At least one; each unique over the history.
        values: Vec<String>,
        /// The condition.
        expect: Expect,
    },
    /// Appends a tombstone.
    Delete {
        /// The condition.
        expect: Expect,
    },
    /// The newest record, where it is no tombstone; linearizable.
    Get,
    /// Records from an offset on, tombstones among them, from one state of the key; linearizable.
    Read {
        /// The first offset.
        from: u64,
        /// The most records; more than none.
        limit: u64,
    },
}

/// A record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Its place.
    pub offset: u64,
    /// Its value; none for a tombstone.
    pub value: Option<String>,
}

impl Record {
    /// A record with a value.
    pub fn value(offset: u64, value: impl Into<String>) -> Self {
        Self { offset, value: Some(value.into()) }
    }

    /// A deletion.
    #[must_use]
    pub fn tombstone(offset: u64) -> Self {
        Self { offset, value: None }
    }
}

/// What a `Get` found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// The newest record's place.
    pub offset: u64,
    /// Its value.
    pub value: String,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write was executed; its first record stands there.
    Written {
        /// The first record's offset.
        offset: u64,
    },
    /// The condition did not hold; nothing was written.
    ExpectationFailed {
        /// The key's next offset.
        actual: u64,
    },
    /// What a `Get` found.
    Found {
        /// The newest record, unless there is none or it is a tombstone.
        newest: Option<Seen>,
        /// The key's next offset, where the answer says it.
        next: Option<u64>,
    },
    /// What a `Read` found.
    Records(Vec<Record>),
    /// Refused for a reason that has nothing to do with the key (overload, expiry before execution): it did not happen.
    NotExecuted,
    /// No answer: it may take effect at any time from its invocation on, or never.
    Unknown,
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who; only for the reader's eyes.
    pub client: u64,
    /// On which key.
    pub key: String,
    /// When it was sent, ns of one monotone clock.
    pub invoked: u64,
    /// When its answer came; none where none came.
    pub returned: Option<u64>,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub outcome: Outcome,
}

impl Operation {
    /// The condition of a write.
    #[must_use]
    pub fn expect(&self) -> Expect {
        match &self.call {
            Call::Put { expect, .. } | Call::Append { expect, .. } | Call::Delete { expect } => *expect,
            Call::Get | Call::Read { .. } => Expect::Any,
        }
    }

    /// The values that a write appends; `None` for a tombstone, and an empty list for what is no write.
    #[must_use]
    pub fn writes(&self) -> Vec<Option<&str>> {
        match &self.call {
            Call::Put { value, .. } => vec![Some(value)],
            Call::Append { values, .. } => values.iter().map(|value| Some(value.as_str())).collect(),
            Call::Delete { .. } => vec![None],
            Call::Get | Call::Read { .. } => Vec::new(),
        }
    }

    /// Whether it had its answer before the other was sent.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        self.returned.is_some_and(|returned| returned < other.invoked)
    }
}

/// Everything that was asked and answered, and what stood in the logs in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    /// Each key's whole log, in order, read after the last operation ended. A key that is not named has none.
    pub logs: BTreeMap<String, Vec<Record>>,
}
