//! The one error type of the command line: what failed, whether a retry helps, and the exit code it ends with.
//!
//! Owns the documented exit codes and the two shapes an error has on standard error (one line of text, or one JSON
//! object). Must never print anything but those two, nor lose a typed field that a caller may want to act on.

use std::fmt;
use std::io;

use serde_json::{Map, Value, json};

use super::escape::{self, bounded, harmless, to_base64};

/// Bytes of a message.
const MESSAGE_MAX: usize = 2_000;
/// Bytes of a text among an error's own fields; a file's name is shorter.
const FIELD_MAX: usize = 8_000;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// The command failed; nothing more is known than the error says.
    Failed = 1,
    /// The command line or one of its arguments is not valid; nothing was changed.
    Usage = 2,
    /// The expectation given with `--expect` (or in a batch) did not hold; nothing was written.
    Expectation = 3,
    /// The deadline passed before the outcome of a write or a change was known.
    Unknown = 4,
}

impl Exit {
    /// The code as the shell sees it.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What went wrong, with everything the two output formats need.
#[derive(Debug)]
pub struct CliError {
    kind: String,
    message: String,
    retryable: bool,
    fields: Map<String, Value>,
    exit: Exit,
    quiet: bool,
}

/// Short for results of the command line.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// A failure (exit code 1) of this kind; the kind is what JSON shows as `error`.
    pub fn failed(kind: &str, message: impl Into<String>) -> Self {
        Self::new(kind, message, Exit::Failed)
    }

    /// A change that was asked for and may yet be carried out, or may be already (exit code 4).
    pub fn unknown(kind: &str, message: impl Into<String>) -> Self {
        Self::new(kind, message, Exit::Unknown)
    }

    /// An argument that cannot be used (exit code 2): its name, and what is wrong with it.
    pub fn usage(field: &str, why: impl fmt::Display) -> Self {
        let mut error = Self::new("invalid_argument", format!("{field}: {why}"), Exit::Usage);
        error.set("field", field);
        error.set("why", why.to_string());
        error
    }

    /// A command line that does not parse (exit code 2).
    pub fn command_line(message: impl Into<String>) -> Self {
        Self::new("usage", message, Exit::Usage)
    }

    /// A file or stream that cannot be read or written.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::failed("io", format!("{what}: {error}"))
    }

    /// The reader of standard output went away: end in silence, with success.
    pub fn closed_pipe() -> Self {
        let mut error = Self::new("closed_pipe", "standard output was closed", Exit::Ok);
        error.quiet = true;
        error
    }

    fn new(kind: &str, message: impl Into<String>, exit: Exit) -> Self {
        let message = tidy(&message.into());
        Self { kind: kind.to_owned(), message, retryable: false, fields: Map::new(), exit, quiet: false }
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => Value::String(bounded(text, FIELD_MAX)),
            other => other,
        };
        self.fields.insert(name.to_owned(), value);
    }

    /// The same with one more field in its JSON form.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// The same with bytes in its JSON form: as text where they are UTF-8, else in base64 under the other name. Nothing of none.
    #[must_use]
    pub fn with_bytes(self, name: &str, base64: &str, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok("") => self,
            Ok(text) => self.with(name, text),
            Err(_) => self.with(base64, to_base64(bytes)),
        }
    }

    /// The same, ending with another code.
    #[must_use]
    pub fn exiting(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The same, said to be worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The same with words in front of its message, such as a file and a line.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = tidy(&format!("{place}: {}", self.message));
        self
    }

    /// The same with words after its message, such as how far the work came.
    #[must_use]
    pub fn followed_by(mut self, words: impl fmt::Display) -> Self {
        self.message = tidy(&format!("{}; {words}", self.message));
        self
    }

    /// What JSON shows as `error`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The message, one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is to pass in silence.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// How the process should end.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The line for standard error, or nothing where the error is to pass in silence.
    pub fn render(&self, json: bool) -> Option<String> {
        if self.quiet {
            return None;
        }
        if !json {
            return Some(format!("error: {}", self.message));
        }
        let mut object = Map::new();
        object.insert("error".to_owned(), json!(self.kind));
        object.insert("message".to_owned(), json!(self.message));
        object.insert("retryable".to_owned(), json!(self.retryable));
        for (name, value) in &self.fields {
            object.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let object = Value::Object(object);
        Some(escape::json(&object).unwrap_or_else(|_| object.to_string()))
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// One line whatever a cause further down had to say, of a length that can be read, without a character that a terminal
/// obeys.
fn tidy(message: &str) -> String {
    bounded(harmless(&one_line(message)), MESSAGE_MAX)
}

/// Joins the lines of a message into one.
pub fn one_line(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !joined.is_empty() {
            joined.push_str(if joined.ends_with(':') { " " } else { "; " });
        }
        joined.push_str(line);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_and_json_has_the_own_fields() {
        let error = CliError::failed("too_large", "value has 9 bytes\n  limit 8").with("limit", 8).with("knob", "max");
        assert_eq!(error.render(false).unwrap(), "error: value has 9 bytes; limit 8");
        let value: Value = serde_json::from_str(&error.render(true).unwrap()).unwrap();
        assert_eq!(
            value,
            json!({"error": "too_large", "message": "value has 9 bytes; limit 8", "retryable": false,
                   "limit": 8, "knob": "max"})
        );
    }

    #[test]
    fn lines_are_joined() {
        assert_eq!(one_line("missing:\n  <KEY>\n\n  <VALUE>\n"), "missing: <KEY>; <VALUE>");
    }

    #[test]
    fn messages_are_harmless_and_bounded() {
        let error = CliError::failed("io", format!("a\u{1b}[31m\u{202e}{}", "x".repeat(1 << 20))).at("f\u{7}:1");
        let error = error.followed_by("0 records acknowledged").with("reason", "y".repeat(1 << 20));
        let line = error.render(false).unwrap();
        assert!(line.starts_with("error: f\\u{7}:1: a\\u{1b}[31m\\u{202e}xxx"), "{line}");
        assert!(line.len() < 2_100 && line.ends_with("0 records acknowledged"), "{} bytes", line.len());
        assert!(error.render(true).unwrap().len() < 12_000);
    }

    #[test]
    fn a_closed_pipe_says_nothing_and_succeeds() {
        let error = CliError::closed_pipe();
        assert_eq!(error.render(true), None);
        assert_eq!(error.exit().code(), 0);
    }

    #[test]
    fn usage_names_field_and_reason() {
        let error = CliError::usage("--shards", "0 shards; at least 1 is needed");
        assert_eq!(error.exit(), Exit::Usage);
        assert_eq!(error.message(), "--shards: 0 shards; at least 1 is needed");
        assert!(error.render(true).unwrap().contains("\"field\":\"--shards\""));
    }
}
