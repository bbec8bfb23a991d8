//! Standard output in either format.
//!
//! Owns the one writer to standard output: buffered, and turning a closed pipe into a quiet end. Must never be used for
//! errors or progress, which belong on standard error, nor print a character that a terminal obeys.

pub mod json;
mod record;
pub mod text;

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::time::sleep;

use super::error::{CliError, Result};
use super::escape;

/// Pause after a wake without a reason.
const WATCH_EVERY: Duration = Duration::from_millis(200);

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
    /// What is in the buffer cannot be written, and that was said.
    lost: bool,
}

impl Out {
    /// Standard output in this format; flushed line by line on a terminal.
    pub fn new(format: Format) -> Self {
        let stdout = io::stdout();
        let line_by_line = stdout.is_terminal();
        Self { format, to: BufWriter::with_capacity(64 << 10, stdout), line_by_line, lost: false }
    }

    /// Whether programs read it.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a line of text.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<()> {
        self.write(escape::harmless(line.as_ref()).as_bytes())?;
        self.end_line()
    }

    /// Prints a value as one line of JSON.
    pub fn object(&mut self, value: &impl Serialize) -> Result<()> {
        let line =
            escape::json(value).map_err(|error| CliError::failed("io", format!("cannot write JSON: {error}")))?;
        self.write(line.as_bytes())?;
        self.end_line()
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

    /// Prints at once what a command has done. A result that cannot be printed does not undo the command: it has succeeded, and
    /// standard error then has the result.
    pub fn done<T: Serialize>(&mut self, value: &T, as_text: impl Fn(&T) -> Vec<String>) -> Result<()> {
        let printed = self.value(value, &as_text).and_then(|()| self.flush());
        let Err(error) = printed else { return Ok(()) };
        if error.is_quiet() {
            return Err(error);
        }
        self.lost = true;
        let message = format!("all is done, only its result cannot be printed ({})", error.message());
        let line = if self.json() {
            let note = serde_json::json!({ "warning": "not_printed", "message": message, "result": value });
            escape::json(&note).unwrap_or(message)
        } else {
            escape::harmless(&format!("{message}: {}", as_text(value).join("; ")))
        };
        // Nothing can be done where standard error is closed too.
        let _ = writeln!(io::stderr(), "{line}");
        Ok(())
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
        if self.lost {
            return Ok(());
        }
        self.to.flush().map_err(|error| on_stdout(&error))
    }
}

/// Resolves once nobody can read standard output; never where that cannot be known, as of a file.
pub async fn abandoned() {
    // It is only watched here, so it stays as it is: shared with others, and blocking.
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    let Ok(stdout) = stdout else { return std::future::pending().await };
    while let Ok(ready) = stdout.ready(Interest::ERROR).await {
        if ready.is_error() || ready.is_write_closed() {
            return;
        }
        // It may wake without a reason.
        sleep(WATCH_EVERY).await;
    }
    std::future::pending().await
}

fn on_stdout(error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::closed_pipe()
    } else {
        CliError::io("standard output", error)
    }
}
