//! Reading records out of files: lines, NDJSON and CSV.
//!
//! Owns how a file is cut into records and where a record's key is found. The value is always the record's bytes as
//! they stand in the file, with only the final `\n` cut. Must never re-encode, unquote or trim a value, nor hold more
//! of a file than one record and a read buffer.

use std::io::{self, BufRead, BufReader, Read};

use regex::bytes::Regex;
use serde_json::Value;

use super::csv_rows::Rows;

/// More than any value may have: a record longer than this is malformed.
pub const RECORD_LIMIT: usize = 32 << 20;

/// A record of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The line it starts on, from 1.
    pub line: u64,
    /// Its key.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A record that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line it starts on, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
    /// Whether what is wrong is that the key is not there.
    pub no_key: bool,
}

/// One step through a file.
pub type Step = Result<Item, Fault>;

/// A piece of a file with the number of the line it starts on, from 1.
pub type Numbered = (u64, Vec<u8>);

/// How a file is cut into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FileFormat {
    /// One record a line; the key comes from --key-regex
    Lines,
    /// One JSON object a line; the key is the field --key names (a.b for nested ones), or comes from --key-regex
    Ndjson,
    /// Rows under a header row; the key is the column --key names, or comes from --key-regex
    Csv,
}

/// Where a record's key is.
#[derive(Clone, Debug)]
pub enum KeyBy {
    /// A field (NDJSON) or a column (CSV).
    Field(String),
    /// The first capture group, or the whole match where there is none, in the record's bytes.
    Regex(Regex),
}

impl KeyBy {
    /// The place as the user named it.
    pub fn name(&self) -> String {
        match self {
            Self::Field(field) => format!("--key '{field}'"),
            Self::Regex(regex) => format!("--key-regex '{regex}'"),
        }
    }

    /// What a record says that has no key.
    pub fn absent(&self) -> String {
        match self {
            Self::Field(_) => format!("no field for {}", self.name()),
            Self::Regex(_) => format!("no match for {}", self.name()),
        }
    }
}

/// The key a regex finds in a record.
pub fn match_key(regex: &Regex, bytes: &[u8]) -> Option<Vec<u8>> {
    let captures = regex.captures(bytes)?;
    let found = captures.get(1).or_else(|| captures.get(0))?;
    Some(found.as_bytes().to_vec())
}

/// The records of a file, one after the other.
pub enum Source {
    /// One record a line.
    Lines(Lines, KeyBy),
    /// Rows under a header.
    Csv(Box<Rows>, KeyBy),
}

impl Source {
    /// Starts reading. Fails where the file's header already shows that there is no such key.
    pub fn open(input: Box<dyn Read + Send>, format: FileFormat, key: KeyBy) -> io::Result<Result<Self, Fault>> {
        match format {
            FileFormat::Lines | FileFormat::Ndjson => Ok(Ok(Self::Lines(Lines::new(input), key))),
            FileFormat::Csv => {
                let field = match &key {
                    KeyBy::Field(field) => Some(field.as_str()),
                    KeyBy::Regex(_) => None,
                };
                Ok(Rows::open(input, field)?.map(|rows| Self::Csv(Box::new(rows), key)))
            }
        }
    }

    /// The next record, or none at the end of the file.
    pub fn step(&mut self) -> io::Result<Option<Step>> {
        match self {
            Self::Lines(lines, key) => loop {
                let Some(line) = lines.next()? else { return Ok(None) };
                let (line, value) = match line {
                    Ok(found) => found,
                    Err(fault) => return Ok(Some(Err(fault))),
                };
                let found = match key {
                    KeyBy::Regex(regex) => match_key(regex, &value).ok_or((true, key.absent())),
                    // A blank line is no record of NDJSON.
                    KeyBy::Field(_) if value.trim_ascii().is_empty() => continue,
                    KeyBy::Field(field) => json_key(field, &value),
                };
                return Ok(Some(step(line, found, value)));
            },
            Self::Csv(rows, key) => {
                let Some(row) = rows.next()? else { return Ok(None) };
                let row = match row {
                    Ok(row) => row,
                    Err(fault) => return Ok(Some(Err(fault))),
                };
                let found = match key {
                    KeyBy::Regex(regex) => match_key(regex, &row.raw).ok_or((true, key.absent())),
                    KeyBy::Field(_) => Ok(row.key),
                };
                Ok(Some(step(row.line, found, row.raw)))
            }
        }
    }
}

fn step(line: u64, key: Result<Vec<u8>, (bool, String)>, value: Vec<u8>) -> Step {
    match key {
        Ok(key) if key.is_empty() => Err(Fault { line, reason: "the key is empty".to_owned(), no_key: false }),
        Ok(key) => Ok(Item { line, key, value }),
        Err((no_key, reason)) => Err(Fault { line, reason, no_key }),
    }
}

/// The field of a JSON object: by its exact name, else by the names between the dots.
fn json_key(field: &str, line: &[u8]) -> Result<Vec<u8>, (bool, String)> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| (false, format!("not JSON: {}", json_reason(&error))))?;
    let Value::Object(object) = &value else {
        return Err((false, "not a JSON object".to_owned()));
    };
    let nested = || field.split('.').try_fold(&value, |value, name| value.get(name));
    match object.get(field).or_else(nested) {
        None => Err((true, KeyBy::Field(field.to_owned()).absent())),
        Some(Value::String(text)) => Ok(text.clone().into_bytes()),
        Some(Value::Number(number)) => Ok(number.to_string().into_bytes()),
        Some(_) => Err((false, format!("field '{field}' is neither a string nor a number"))),
    }
}

/// A JSON error without the line, which is always 1 here.
pub fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    if error.column() > 0 { format!("{reason} at column {}", error.column()) } else { reason.to_owned() }
}

/// A file cut at every `\n`.
pub struct Lines {
    input: BufReader<Box<dyn Read + Send>>,
    line: u64,
}

impl Lines {
    /// Cuts this input.
    pub fn new(input: Box<dyn Read + Send>) -> Self {
        Self { input: BufReader::with_capacity(128 << 10, input), line: 0 }
    }

    /// The next line without its `\n`, with its number from 1.
    pub fn next(&mut self) -> io::Result<Option<Result<Numbered, Fault>>> {
        let mut bytes = Vec::new();
        let limit = RECORD_LIMIT as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > RECORD_LIMIT {
            self.skip_line()?;
            let reason = format!("the line is longer than {RECORD_LIMIT} bytes");
            return Ok(Some(Err(Fault { line: self.line, reason, no_key: false })));
        }
        Ok(Some(Ok((self.line, bytes))))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |at| at + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], format: FileFormat, key: KeyBy) -> Vec<Step> {
        let mut source = Source::open(Box::new(io::Cursor::new(input.to_vec())), format, key).unwrap().unwrap();
        let mut steps = Vec::new();
        while let Some(step) = source.step().unwrap() {
            steps.push(step);
        }
        steps
    }

    fn item(line: u64, key: &[u8], value: &[u8]) -> Step {
        Ok(Item { line, key: key.to_vec(), value: value.to_vec() })
    }

    fn regex(text: &str) -> KeyBy {
        KeyBy::Regex(Regex::new(text).unwrap())
    }

    fn field(name: &str) -> KeyBy {
        KeyBy::Field(name.to_owned())
    }

    #[test]
    fn lines_keep_every_byte_but_the_newline() {
        let steps = read(b"a1 x\r\nb2 \xff\n\nlast3", FileFormat::Lines, regex("[a-z]+[0-9]"));
        assert_eq!(steps[0], item(1, b"a1", b"a1 x\r"));
        assert_eq!(steps[1], item(2, b"b2", b"b2 \xff"));
        let fault = steps[2].clone().unwrap_err();
        assert_eq!((fault.line, fault.no_key), (3, true));
        assert_eq!(fault.reason, "no match for --key-regex '[a-z]+[0-9]'");
        assert_eq!(steps[3], item(4, b"last3", b"last3"));
        assert_eq!(steps.len(), 4);
    }

    #[test]
    fn a_regex_takes_its_group_and_bytes_that_are_not_utf8() {
        assert_eq!(
            read(b"sshd[12]: \xfe\n", FileFormat::Lines, regex(r"sshd\[([0-9]+)\]")),
            [item(1, b"12", b"sshd[12]: \xfe")]
        );
        assert_eq!(read(b"k\xfe \n", FileFormat::Lines, regex(r"(?-u)^[^ ]+")), [item(1, b"k\xfe", b"k\xfe ")]);
        assert!(read(b"", FileFormat::Lines, regex("x")).is_empty());
    }

    #[test]
    fn an_empty_key_is_a_fault() {
        let fault = read(b"abc\n", FileFormat::Lines, regex("x*")).remove(0).unwrap_err();
        assert_eq!(fault, Fault { line: 1, reason: "the key is empty".to_owned(), no_key: false });
    }

    #[test]
    fn ndjson_takes_strings_numbers_and_nested_fields() {
        let input = b"{\"id\":\"a\", \"n\":1}\r\n\n{\"id\":42}\n{\"id\":\"c\"}";
        let steps = read(input, FileFormat::Ndjson, field("id"));
        assert_eq!(
            steps,
            [
                item(1, b"a", b"{\"id\":\"a\", \"n\":1}\r"),
                item(3, b"42", b"{\"id\":42}"),
                item(4, b"c", b"{\"id\":\"c\"}")
            ]
        );
        let nested = read(b"{\"a\":{\"b\":\"x\"}}\n{\"a.b\":\"y\"}\n", FileFormat::Ndjson, field("a.b"));
        assert_eq!(nested, [item(1, b"x", b"{\"a\":{\"b\":\"x\"}}"), item(2, b"y", b"{\"a.b\":\"y\"}")]);
    }

    #[test]
    fn malformed_ndjson_names_line_and_reason() {
        let steps = read(b"{\"id\":1}\n{\"id\":\n[1]\n{\"id\":null}\n{}\n", FileFormat::Ndjson, field("id"));
        let faults: Vec<Fault> = steps.into_iter().filter_map(Result::err).collect();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert!(faults[0].reason.starts_with("not JSON: EOF while parsing a value"), "{}", faults[0].reason);
        assert_eq!(faults[1].reason, "not a JSON object");
        assert_eq!(faults[2].reason, "field 'id' is neither a string nor a number");
        assert_eq!((faults[3].reason.as_str(), faults[3].no_key), ("no field for --key 'id'", true));
    }

    #[test]
    fn a_line_over_the_limit_is_one_fault() {
        let mut input = vec![b'a'; RECORD_LIMIT + 10];
        input.extend_from_slice(b"\nb\n");
        let steps = read(&input, FileFormat::Lines, regex("^[ab]"));
        assert!(steps[0].as_ref().unwrap_err().reason.contains("longer than"));
        assert_eq!(steps[1], item(2, b"b", b"b"));
    }

    #[test]
    fn csv_rows_are_keyed_by_column_or_regex() {
        let input = b"id,name\r\n1,\"a, b\"\r\n2,c";
        let by_column = read(input, FileFormat::Csv, field("name"));
        assert_eq!(by_column, [item(2, b"a, b", b"1,\"a, b\"\r"), item(3, b"c", b"2,c")]);
        let by_regex = read(input, FileFormat::Csv, regex("^[0-9]"));
        assert_eq!(by_regex, [item(2, b"1", b"1,\"a, b\"\r"), item(3, b"2", b"2,c")]);
    }
}
