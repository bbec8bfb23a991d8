//! Standard output in either format.
//!
//! Owns the one writer to standard output: buffered, and turning a closed pipe into a quiet end. Must never be used for
//! errors or progress, which belong on standard error.

pub mod json;
pub mod text;

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::error::{CliError, Result};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change between versions
    Text,
    /// For programs; documented and stable
    Json,
}

/// Standard output.
#[derive(Debug)]
pub struct Out {
    format: Format,
    to: BufWriter<Stdout>,
    line_by_line: bool,
}

impl Out {
    /// Standard output in this format; flushed line by line on a terminal.
    pub fn new(format: Format) -> Self {
        let stdout = io::stdout();
        let line_by_line = stdout.is_terminal();
        Self { format, to: BufWriter::with_capacity(64 << 10, stdout), line_by_line }
    }

    /// Whether programs read it.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a line of text.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<()> {
        self.write(line.as_ref().as_bytes())?;
        self.end_line()
    }

    /// Prints a value as one line of JSON.
    pub fn object(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value)
            .map_err(|error| CliError::failed("io", format!("cannot write JSON: {error}")))?;
        self.line(line)
    }

    /// Prints a record in the format asked for.
    pub fn record(&mut self, record: &json::Record) -> Result<()> {
        match self.format {
            Format::Json => self.object(record),
            Format::Text => self.line(text::record(record)),
        }
    }

    /// Prints a value: as JSON, or as the text made for it.
    pub fn value<T: Serialize>(&mut self, value: &T, as_text: impl FnOnce(&T) -> Vec<String>) -> Result<()> {
        match self.format {
            Format::Json => self.object(value),
            Format::Text => as_text(value).iter().try_for_each(|line| self.line(line)),
        }
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(|error| on_stdout(&error))
    }

    fn end_line(&mut self) -> Result<()> {
        self.write(b"\n")?;
        if self.line_by_line { self.flush() } else { Ok(()) }
    }

    /// Hands everything written so far to the reader.
    pub fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(|error| on_stdout(&error))
    }
}

fn on_stdout(error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::closed_pipe()
    } else {
        CliError::io("standard output", error)
    }
}
