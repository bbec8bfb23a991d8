//! What is wrong with a record of a file.
//!
//! Owns: the place and the reason, as line numbers from 1. Must never: hold the record.

/// More than any value may have: a record longer than this is malformed.
pub const RECORD_LIMIT: usize = 32 << 20;

/// A piece of a file with the number of the line it starts on, from 1.
pub type Numbered = (u64, Vec<u8>);

/// A record that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line it starts on, from 1.
    pub line: u64,
    /// How many lines it takes.
    pub lines: u64,
    /// What is wrong with it.
    pub reason: String,
    /// Whether what is wrong is that the key is not there.
    pub no_key: bool,
}

impl Fault {
    /// A fault of one line, its key not concerned.
    pub fn of_line(line: u64, reason: String) -> Self {
        Self { line, lines: 1, reason, no_key: false }
    }
}
