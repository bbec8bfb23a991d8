//! Histories as files: JSON, one value a line.
//!
//! Owns: the format. Must never: leave out a line it cannot read.
//!
//! The first line names the format and its version: `{"synod_history":1}`. Every other line is an operation, `{"client":…,
//! "key":…,"invoked":…,"returned":…,"call":…,"outcome":…}`, or a key's log, `{"log":KEY,"records":[{"offset":…,"value":…}…]}`
//! (`value` null for a tombstone). Times are nanoseconds.

use crate::history::{History, Operation, Record};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// The version written.
const VERSION: u32 = 1;

/// Why a history cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("history: {0}")]
    Io(#[from] std::io::Error),
    /// A line.
    #[error("history, line {line}: {why}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    synod_history: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    log: String,
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Operation(Operation),
    Log(Log),
}

/// Writes a history.
///
/// # Errors
/// The file cannot be written.
pub fn write(history: &History, mut to: impl Write) -> Result<(), Error> {
    let mut line = |json: serde_json::Result<String>| -> Result<(), Error> {
        let json = json.map_err(std::io::Error::from)?;
        to.write_all(json.as_bytes())?;
        Ok(to.write_all(b"\n")?)
    };
    line(serde_json::to_string(&Header { synod_history: VERSION }))?;
    for operation in &history.operations {
        line(serde_json::to_string(operation))?;
    }
    for (key, records) in &history.logs {
        line(serde_json::to_string(&Log { log: key.clone(), records: records.clone() }))?;
    }
    Ok(to.flush()?)
}

/// Reads a history.
///
/// # Errors
/// The file cannot be read, is of another format or version, or has a line that is neither an operation nor a log.
pub fn read(from: impl BufRead) -> Result<History, Error> {
    let mut history = History::default();
    let mut seen_header = false;
    for (number, line) in (1..).zip(from.lines()) {
        let line = line?;
        let bad = |why: String| Error::Line { line: number, why };
        if number == 1 {
            let header: Header = serde_json::from_str(&line).map_err(|e| bad(format!("not a history: {e}")))?;
            if header.synod_history != VERSION {
                return Err(bad(format!("version {}, this reads {VERSION}", header.synod_history)));
            }
            seen_header = true;
            continue;
        }
        match serde_json::from_str(&line).map_err(|e| bad(e.to_string()))? {
            Line::Operation(operation) => history.operations.push(operation),
            Line::Log(Log { log, records }) => {
                if history.logs.insert(log.clone(), records).is_some() {
                    return Err(bad(format!("a second log of key {log:?}")));
                }
            }
        }
    }
    if seen_header { Ok(history) } else { Err(Error::Line { line: 1, why: "the file is empty".into() }) }
}
