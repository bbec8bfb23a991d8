//! Reading records out of files: lines, NDJSON and CSV.
//!
//! Owns how a file is cut into records and where a record's key is found. The value is always the record's bytes as
//! they stand in the file, with only the final `\n` cut. Must never re-encode, unquote or trim a value, nor hold more
//! of a file than one record and a read buffer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use regex::bytes::Regex;
use serde_json::value::RawValue;

use super::csv_rows::Rows;
use super::fault::{Fault, Numbered, RECORD_LIMIT};
use super::sniff::{Input, lone_returns, look, only_carriage_returns};
use crate::cli::escape::{escape, harmless, piece};

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

/// One step through a file.
pub type Step = Result<Item, Fault>;

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
            Self::Field(field) => format!("--key '{}'", piece(field.as_bytes())),
            Self::Regex(regex) => format!("--key-regex '{}'", harmless(regex.as_str())),
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
    /// Starts reading. Fails where the file's first bytes, first line or header already show that its records cannot be had,
    /// or have no such key.
    pub fn open(input: Input, format: FileFormat, key: KeyBy) -> io::Result<Result<Self, Fault>> {
        // Lines may hold any bytes. The CSV parser passes over a byte-order mark by itself, and counts positions with it.
        let input = match look(input, format == FileFormat::Lines, format == FileFormat::Csv)? {
            Ok(input) => input,
            Err(reason) => return Ok(Err(Fault::of_line(1, reason))),
        };
        match format {
            FileFormat::Lines | FileFormat::Ndjson => Ok(Lines::open(input)?.map(|lines| Self::Lines(lines, key))),
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
        Ok(key) if key.is_empty() => Err(Fault::of_line(line, "the key is empty".to_owned())),
        Ok(key) => Ok(Item { line, key, value }),
        Err((no_key, reason)) => Err(Fault { no_key, ..Fault::of_line(line, reason) }),
    }
}

/// The fields of an object, each as the text that the file has.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The field of a JSON object: by its exact name, else by the names between the dots. A number is its digits as the
/// file has them: no numeric type holds every number.
fn json_key(field: &str, line: &[u8]) -> Result<Vec<u8>, (bool, String)> {
    let malformed = |error: serde_json::Error| (false, format!("not JSON: {}", json_reason(&error)));
    let value: &RawValue = serde_json::from_slice(line).map_err(malformed)?;
    if !value.get().starts_with('{') {
        return Err((false, "not a JSON object".to_owned()));
    }
    let fields: Fields<'_> = serde_json::from_str(value.get()).map_err(malformed)?;
    let nested = || {
        let mut names = field.split('.');
        let first = *fields.get(names.next()?)?;
        names.try_fold(first, |value, name| serde_json::from_str::<Fields<'_>>(value.get()).ok()?.get(name).copied())
    };
    let found = fields.get(field).copied().or_else(nested);
    let text = found.ok_or_else(|| (true, KeyBy::Field(field.to_owned()).absent()))?.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map(String::into_bytes).map_err(malformed),
        Some(b'-' | b'0'..=b'9') => Ok(text.as_bytes().to_vec()),
        _ => Err((false, format!("field '{}' is neither a string nor a number", piece(field.as_bytes())))),
    }
}

/// A JSON error without its line, which is always 1 here. Quotes from the file are escaped.
pub fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = escape(text.split(" at line ").next().unwrap_or(&text).as_bytes());
    if error.column() > 0 { format!("{reason} at column {}", error.column()) } else { reason }
}

/// A file cut at every `\n`.
pub struct Lines {
    input: BufReader<Input>,
    line: u64,
    /// The first line, until it is asked for.
    first: Option<Result<Numbered, Fault>>,
    /// The last line read ended with `\n`.
    ended: bool,
}

impl Lines {
    /// Cuts this input. Fails where `\r` ends its lines.
    pub fn open(input: Input) -> io::Result<Result<Self, Fault>> {
        let mut lines = Self { input: BufReader::with_capacity(128 << 10, input), line: 0, first: None, ended: false };
        let first = lines.cut()?;
        // One record may hold a few of them, and then has a last newline or none at all.
        if let Some(Ok((line, bytes))) = &first
            && !lines.ended
            && lone_returns(bytes) > 1
        {
            return Ok(Err(Fault::of_line(*line, only_carriage_returns())));
        }
        lines.first = first;
        Ok(Ok(lines))
    }

    /// The next line without its `\n`, with its number from 1.
    pub fn next(&mut self) -> io::Result<Option<Result<Numbered, Fault>>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.cut(),
        }
    }

    fn cut(&mut self) -> io::Result<Option<Result<Numbered, Fault>>> {
        let mut bytes = Vec::new();
        let limit = RECORD_LIMIT as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        self.ended = bytes.last() == Some(&b'\n');
        if self.ended {
            bytes.pop();
        } else if bytes.len() > RECORD_LIMIT {
            self.skip_line()?;
            let reason = format!("the line is longer than {RECORD_LIMIT} bytes");
            return Ok(Some(Err(Fault::of_line(self.line, reason))));
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
        assert_eq!(fault, Fault::of_line(1, "the key is empty".to_owned()));
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
    fn a_number_is_its_digits_as_they_stand_in_the_file() {
        for digits in ["1000000000000000000001", "-0", "1.50", "1e3", "0.1000000000000000055511151231257827"] {
            let line = format!("{{\"id\": {digits} ,\"x\":{{\"y\":{digits}}}}}");
            let item = Ok(Item { line: 1, key: digits.into(), value: line.clone().into() });
            assert_eq!(read(line.as_bytes(), FileFormat::Ndjson, field("id")), std::slice::from_ref(&item));
            assert_eq!(read(line.as_bytes(), FileFormat::Ndjson, field("x.y")), [item]);
        }
    }

    #[test]
    fn a_byte_order_mark_goes_and_bare_returns_are_refused() {
        let marked = read(b"\xef\xbb\xbf{\"id\":\"k1\"}\n{\"id\":\"k2\"}", FileFormat::Ndjson, field("id"));
        assert_eq!(marked, [item(1, b"k1", b"{\"id\":\"k1\"}"), item(2, b"k2", b"{\"id\":\"k2\"}")]);
        let refused =
            |input: &[u8]| Source::open(Box::new(io::Cursor::new(input.to_vec())), FileFormat::Lines, regex("k."));
        let fault = refused(b"k1\rk2\rk3").unwrap().err().unwrap();
        assert!(fault.reason.contains("CR only") && fault.reason.contains("tr "), "{}", fault.reason);
        for kept in [&b"k1 x\ry\r\n"[..], b"k1 x\ry", b"k1 \r\r\r\n", b"k1\rk2\rk3\rk4\n"] {
            assert!(refused(kept).unwrap().is_ok(), "{kept:?}");
        }
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
