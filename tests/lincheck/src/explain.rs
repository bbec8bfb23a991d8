//! What is wrong with a history, in words.
//!
//! Owns: violations and how they read. Must never: show more than the few operations that contradict each other.

use crate::history::{Call, Expect, Operation, Outcome, Record, Seen};
use std::fmt;

/// Why a key's history is not linearizable. Offsets and operations stand in [`Violation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The log's offsets are not 0, 1, 2, …
    Gap {
        /// The offset that belongs there.
        expected: u64,
        /// The one that stands there.
        found: u64,
    },
    /// A value stands in the log twice.
    Doubled {
        /// Where first.
        first: u64,
        /// Where again.
        again: u64,
    },
    /// An acknowledged write does not stand in the log.
    Lost,
    /// An acknowledged write stands elsewhere in the log than it was told.
    Moved {
        /// Where its first record stands.
        found: u64,
    },
    /// Some records of an atomic write stand in the log, together or in order not all of them do; or a read saw some of them
    /// without the others.
    Torn,
    /// Two writes were told the same place.
    PlaceGivenTwice {
        /// The place.
        offset: u64,
    },
    /// A write that was refused stands in the log.
    ExecutedThoughRefused {
        /// Where.
        offset: u64,
    },
    /// A record of the log that nobody wrote.
    NeverWritten {
        /// Where.
        offset: u64,
    },
    /// A write was executed where its condition did not hold, or refused where it did, or told another next offset than the
    /// condition failed at.
    Expectation {
        /// The key's next offset there.
        next: u64,
    },
    /// A read saw what no state of the key is.
    ReadOfNothing,
    /// An operation saw the key as it was before what an earlier one had seen or done.
    Backwards {
        /// The key's next offset after the earlier operation, at least.
        floor: u64,
        /// The one after the later operation, at most.
        seen: u64,
    },
    /// An answer that does not belong to the call, or came before it.
    Nonsense,
}

/// One contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// What is wrong.
    pub why: Why,
    /// The operations that contradict each other, or the log; in order of invocation.
    pub operations: Vec<Operation>,
    /// What stands in the log where it matters.
    pub records: Vec<Record>,
}

/// What a check gave.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Keys checked.
    pub keys: usize,
    /// Operations checked.
    pub operations: usize,
    /// Operations of unknown outcome among them.
    pub unknown: usize,
    /// Of those, writes that stand in a log.
    pub unknown_executed: usize,
    /// One for each key that is not linearizable.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether the whole history is linearizable.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, operations, unknown, unknown_executed, violations } = self;
        writeln!(
            f,
            "{operations} operations on {keys} keys, {unknown} of unknown outcome ({unknown_executed} of them executed): {}",
            if violations.is_empty() { "linearizable".into() } else { format!("{} keys are WRONG", violations.len()) }
        )?;
        violations.iter().try_for_each(|violation| write!(f, "{violation}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {:?}: {}", self.key, self.why)?;
        let began = self.operations.iter().map(|op| op.invoked).min().unwrap_or(0);
        for op in &self.operations {
            writeln!(f, "    {}", Line { op, began })?;
        }
        for record in &self.records {
            writeln!(f, "    log: offset {} {}", record.offset, shown(record.value.as_deref()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, found } => write!(f, "the log has a gap: offset {found} where {expected} belongs"),
            Self::Doubled { first, again } => write!(f, "a value stands twice, at offset {first} and at {again}"),
            Self::Lost => write!(f, "an acknowledged write is lost"),
            Self::Moved { found } => write!(f, "an acknowledged write stands at offset {found}, not where it was told"),
            Self::Torn => write!(f, "an atomic write was seen in part"),
            Self::PlaceGivenTwice { offset } => write!(f, "two writes were told offset {offset}"),
            Self::ExecutedThoughRefused { offset } => write!(f, "a refused write stands at offset {offset}"),
            Self::NeverWritten { offset } => write!(f, "nobody wrote what stands at offset {offset}"),
            Self::Expectation { next } => write!(f, "a condition was judged wrongly where the next offset was {next}"),
            Self::ReadOfNothing => write!(f, "a read saw what the key never was"),
            Self::Backwards { floor, seen } => write!(
                f,
                "time went backwards: the earlier operation knew the key at next offset {floor} or later, the later one at \
                 {seen}"
            ),
            Self::Nonsense => write!(f, "the answer does not belong to the call, or came before it"),
        }
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or("(tombstone)".into(), |value| format!("{value:?}"))
}

struct Line<'a> {
    op: &'a Operation,
    began: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, invoked, returned, call, outcome, .. } = self.op;
        let micros = |at: u64| at.saturating_sub(self.began) as f64 / 1_000.0;
        write!(f, "client {client}, {:.1} µs to ", micros(*invoked))?;
        match returned {
            Some(returned) => write!(f, "{:.1} µs: ", micros(*returned))?,
            None => write!(f, "?: ")?,
        }
        let expect = match self.op.expect() {
            Expect::Any => String::new(),
            Expect::Absent => " if absent".into(),
            Expect::Exists => " if it exists".into(),
            Expect::Next(next) => format!(" if the next offset is {next}"),
        };
        match call {
            Call::Put { value, .. } => write!(f, "put {value:?}{expect}")?,
            Call::Append { values, .. } => write!(f, "append {values:?}{expect}")?,
            Call::Delete { .. } => write!(f, "delete{expect}")?,
            Call::Get => write!(f, "get")?,
            Call::Read { from, limit } => write!(f, "read {limit} from offset {from}")?,
        }
        match outcome {
            Outcome::Written { offset } => write!(f, " -> written at offset {offset}"),
            Outcome::ExpectationFailed { actual } => write!(f, " -> refused, the next offset is {actual}"),
            Outcome::Found { newest: Some(Seen { offset, value }), .. } => {
                write!(f, " -> {value:?} at offset {offset}")
            }
            Outcome::Found { newest: None, next } => match next {
                Some(next) => write!(f, " -> nothing, the next offset is {next}"),
                None => write!(f, " -> nothing"),
            },
            Outcome::Records(records) => {
                write!(f, " -> {} records", records.len())?;
                let ends = records.first().into_iter().chain(records.last().filter(|_| records.len() > 1));
                ends.into_iter().try_for_each(|r| write!(f, ", {} at offset {}", shown(r.value.as_deref()), r.offset))
            }
            Outcome::NotExecuted => write!(f, " -> not executed"),
            Outcome::Unknown => write!(f, " -> outcome unknown"),
        }
    }
}
