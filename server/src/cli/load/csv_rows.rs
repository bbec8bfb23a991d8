//! CSV rows as they are in the file, with the key column parsed.
//!
//! Owns the pairing of parsed fields with raw bytes: the parser reads through a tee that keeps what it has read, and
//! each record's end position cuts the raw row out of it. Must never keep more than one row and a read buffer.

use std::io::{self, Read};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};

use super::fault::{Fault, Numbered, RECORD_LIMIT};
use super::sniff::{Input, UTF8_MARK, mixed_line_ends, only_carriage_returns};
use crate::cli::escape::{bounded, piece};

/// Bytes of the header's names in a message.
const NAMES_MAX: usize = 400;

/// A row.
#[derive(Debug)]
pub struct Row {
    /// The line it starts on, from 1.
    pub line: u64,
    /// The key column, unquoted; empty where no column was asked for.
    pub key: Vec<u8>,
    /// The row's bytes in the file, quotes and `\r` included, without the final `\n`.
    pub raw: Vec<u8>,
}

/// The rows of a file with a header row.
pub struct Rows {
    reader: Reader<Tee>,
    record: ByteRecord,
    columns: usize,
    key: Option<usize>,
    line: u64,
    /// Nothing was read yet: a byte-order mark may come.
    at_start: bool,
}

impl Rows {
    /// Reads the header; fails where it has no such column.
    pub fn open(input: Input, key: Option<&str>) -> io::Result<Result<Self, Fault>> {
        let tee = Tee { input, kept: Vec::new(), start: 0, base: 0 };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // Only `\n` ends a row: the `\r` before it belongs to the raw row, and is cut from the last field below.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(64 << 10)
            .from_reader(tee);
        let mut rows = Self { reader, record: ByteRecord::new(), columns: 0, key: None, line: 1, at_start: true };
        let fault = |reason: String| Ok(Err(Fault { no_key: true, ..Fault::of_line(1, reason) }));
        match rows.read()? {
            None => return fault("no header row: the file is empty".to_owned()),
            Some(Err(header)) => return Ok(Err(header)),
            Some(Ok((_, header))) if scan(&header).lone_return => {
                let mixed = rows.line > lines_of(&header);
                return fault(if mixed { mixed_line_ends() } else { only_carriage_returns() });
            }
            Some(Ok(_)) => {}
        }
        rows.columns = rows.record.len();
        let Some(key) = key else { return Ok(Ok(rows)) };
        let names: Vec<&[u8]> = (0..rows.columns).map(|index| rows.field(index)).collect();
        let matching: Vec<usize> = (0..names.len()).filter(|index| names[*index] == key.as_bytes()).collect();
        match matching.as_slice() {
            [index] => rows.key = Some(*index),
            [] => {
                let key = piece(key.as_bytes());
                return fault(format!("no column for --key '{key}'; the header has {}", listed(&names)));
            }
            _ => {
                let key = piece(key.as_bytes());
                return fault(format!("--key '{key}' names {} columns of the header", matching.len()));
            }
        }
        Ok(Ok(rows))
    }

    /// The next row, or none at the end of the file.
    pub fn next(&mut self) -> io::Result<Option<Result<Row, Fault>>> {
        let Some(row) = self.read()? else { return Ok(None) };
        let (line, raw) = match row {
            Ok(found) => found,
            Err(fault) => return Ok(Some(Err(fault))),
        };
        if self.record.len() != self.columns {
            let lines = lines_of(&raw);
            let mut reason = format!("{} fields where the header has {}", self.record.len(), self.columns);
            if lines > 1 {
                reason.push_str(&format!("; a quote makes one row of lines {line} to {}", line + lines - 1));
            }
            return Ok(Some(Err(Fault { lines, ..Fault::of_line(line, reason) })));
        }
        let key = self.key.map(|index| self.field(index).to_vec()).unwrap_or_default();
        Ok(Some(Ok(Row { line, key, raw })))
    }

    /// A field of the current record, without the `\r` of a CRLF line end.
    fn field(&self, index: usize) -> &[u8] {
        let field = self.record.get(index).unwrap_or_default();
        if index + 1 == self.record.len() { field.strip_suffix(b"\r").unwrap_or(field) } else { field }
    }

    fn read(&mut self) -> io::Result<Option<Result<Numbered, Fault>>> {
        loop {
            let from = self.line;
            if !self.reader.read_byte_record(&mut self.record).map_err(|error| into_io(error, from))? {
                return Ok(None);
            }
            let end = self.reader.position().byte();
            let taken = self.reader.get_mut().take(end);
            // The parser passes over the mark; what it guards is judged here once more.
            let mark: &[u8] = if std::mem::take(&mut self.at_start) { UTF8_MARK } else { b"" };
            let taken = taken.strip_prefix(mark).unwrap_or(&taken);
            // Blank lines in front of a row are read along with it.
            let blank = taken.iter().take_while(|byte| **byte == b'\n').count();
            let line = self.line + blank as u64;
            self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            let raw = &taken[blank..];
            if raw.is_empty() || raw == b"\r\n" || raw == b"\r" {
                continue;
            }
            let row = raw.strip_suffix(b"\n").unwrap_or(raw);
            if let Some(quote) = scan(raw).open {
                return Ok(Some(Err(unclosed_fault(line, row, quote))));
            }
            return Ok(Some(Ok((line, row.to_vec()))));
        }
    }
}

/// The names of a header, as many as can be read at a glance.
fn listed(names: &[&[u8]]) -> String {
    let mut list = String::new();
    for (index, name) in names.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let name = bounded(piece(name), NAMES_MAX / 4);
        if list.len() + separator.len() + name.len() > NAMES_MAX {
            return format!("{list} and {} more", names.len() - index);
        }
        list.push_str(separator);
        list.push_str(&name);
    }
    list
}

/// How many lines a row takes, given without its final `\n`.
fn lines_of(row: &[u8]) -> u64 {
    1 + row.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// A quote that nobody closes takes in all rows after it: the fault names and counts their lines.
fn unclosed_fault(line: u64, row: &[u8], quote: usize) -> Fault {
    let lines = lines_of(row);
    let (from, to) = (line + lines_of(&row[..quote]) - 1, line + lines - 1);
    let reason = if from == to {
        "a quoted field is not closed".to_owned()
    } else {
        format!("a quoted field is not closed: the quote in line {from} takes in lines {from} to {to}")
    };
    Fault { lines, ..Fault::of_line(line, reason) }
}

fn into_io(error: csv::Error, line: u64) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            io::Error::new(error.kind(), format!("line {line}: {error}"))
        }
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

/// What a row has beside its fields.
#[derive(Default)]
struct Scan {
    /// Where the quote is that the row's end leaves open.
    open: Option<usize>,
    /// An unquoted `\r` comes before a byte other than `\n`.
    lone_return: bool,
}

fn scan(raw: &[u8]) -> Scan {
    let (mut found, mut at_start) = (Scan::default(), true);
    let mut bytes = raw.iter().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        let next = bytes.peek().map(|(_, next)| **next);
        match (found.open, *byte) {
            (Some(_), b'"') if next == Some(b'"') => {
                bytes.next();
            }
            (Some(_), b'"') => found.open = None,
            (None, b'"') if at_start => found.open = Some(at),
            (None, b'\r') => found.lone_return |= next.is_some_and(|next| next != b'\n'),
            _ => {}
        }
        at_start = found.open.is_none() && *byte == b',';
    }
    found
}

/// A reader that keeps what was read through it.
struct Tee {
    input: Input,
    kept: Vec<u8>,
    /// Where in `kept` the next row starts.
    start: usize,
    /// The file position of `kept[0]`.
    base: u64,
}

impl Tee {
    /// The bytes up to this file position that were not taken before.
    fn take(&mut self, end: u64) -> Vec<u8> {
        let end = usize::try_from(end.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.kept.len());
        let taken = self.kept[self.start.min(end)..end].to_vec();
        self.start = end;
        if self.start > 1 << 20 {
            self.kept.drain(..self.start);
            self.base += self.start as u64;
            self.start = 0;
        }
        taken
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.kept.len() - self.start > RECORD_LIMIT {
            let message = format!("a row is longer than {RECORD_LIMIT} bytes; is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let count = self.input.read(buffer)?;
        self.kept.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(input: &[u8], key: Option<&str>) -> Result<Rows, Fault> {
        Rows::open(Box::new(io::Cursor::new(input.to_vec())), key).unwrap()
    }

    type Found = Result<(u64, Vec<u8>, Vec<u8>), Fault>;

    fn rows(input: &[u8], key: &str) -> Vec<Found> {
        let mut rows = open(input, Some(key)).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            found.push(row.map(|row| (row.line, row.key, row.raw)));
        }
        found
    }

    #[test]
    fn raw_rows_keep_quotes_newlines_and_carriage_returns() {
        let input = b"k,v\r\n\"a\"\"1\",\"x\ny\"\r\n\n\r\nb,z";
        let found = rows(input, "k");
        assert_eq!(found[0], Ok((2, b"a\"1".to_vec(), b"\"a\"\"1\",\"x\ny\"\r".to_vec())));
        assert_eq!(found[1], Ok((6, b"b".to_vec(), b"b,z".to_vec())));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_last_column_is_found_and_read_without_its_carriage_return() {
        assert_eq!(rows(b"k,v\r\n1,one\r\n", "v"), [Ok((2, b"one".to_vec(), b"1,one\r".to_vec()))]);
        assert_eq!(rows(b"k,v\n1,\"one\"\r\n", "v"), [Ok((2, b"one".to_vec(), b"1,\"one\"\r".to_vec()))]);
    }

    #[test]
    fn bytes_that_are_not_utf8_stay() {
        assert_eq!(rows(b"k,v\n\xff,\xfe\n", "k"), [Ok((2, vec![0xff], b"\xff,\xfe".to_vec()))]);
    }

    #[test]
    fn a_missing_column_names_those_there_are() {
        let fault = open(b"a,b\r\n1,2\r\n", Some("c")).err().unwrap();
        assert_eq!(fault.reason, "no column for --key 'c'; the header has a, b");
        assert_eq!(open(b"a,a\n", Some("a")).err().unwrap().reason, "--key 'a' names 2 columns of the header");
        assert!(open(b"", Some("a")).err().unwrap().reason.contains("the file is empty"));
        assert!(open(b"a,b\n", None).is_ok());
    }

    #[test]
    fn ragged_rows_and_open_quotes_name_their_line() {
        let found = rows(b"a,b\n1\n2,3\n4,5,6\n7,\"8\n9,9\n", "a");
        let fault = |index: usize| found[index].clone().unwrap_err();
        assert_eq!((fault(0).line, fault(0).reason.as_str()), (2, "1 fields where the header has 2"));
        assert_eq!(found[1], Ok((3, b"2".to_vec(), b"2,3".to_vec())));
        assert_eq!((fault(2).line, fault(2).reason.as_str()), (4, "3 fields where the header has 2"));
        let open = "a quoted field is not closed: the quote in line 5 takes in lines 5 to 6";
        assert_eq!((fault(3).line, fault(3).lines, fault(3).reason.as_str()), (5, 2, open));
        assert_eq!(found.len(), 4);
        let fault = rows(b"a,b\n\"x\ny\",\"z\n5,6\n7,8", "a").remove(0).unwrap_err();
        let open = "a quoted field is not closed: the quote in line 3 takes in lines 3 to 5";
        assert_eq!((fault.line, fault.lines, fault.reason.as_str()), (2, 4, open));
        let fault = rows(b"a,b\n1,\"x\n2,y\"\n3,\"z", "a");
        assert_eq!(fault[0], Ok((2, b"1".to_vec(), b"1,\"x\n2,y\"".to_vec())), "nobody can tell");
        assert_eq!(fault[1].clone().unwrap_err(), Fault::of_line(4, "a quoted field is not closed".to_owned()));
        let fault = rows(b"a,b\n1,2,\"x\n2,y\"\n", "a").remove(0).unwrap_err();
        let joined = "3 fields where the header has 2; a quote makes one row of lines 2 to 3";
        assert_eq!((fault.lines, fault.reason.as_str()), (2, joined));
    }

    #[test]
    fn a_header_in_an_error_is_escaped_and_bounded() {
        let wide: Vec<String> = (0..100_000).map(|n| format!("column \u{1b}[31m{n}")).collect();
        let fault = open(format!("{}\n", wide.join(",")).as_bytes(), Some("nope")).err().unwrap();
        assert!(fault.reason.len() < 600 && fault.reason.is_ascii(), "{}", fault.reason);
        assert!(fault.reason.contains("column \\u{1b}[31m0, ") && fault.reason.ends_with(" more"), "{}", fault.reason);
        let fault = open(&[&vec![b'n'; 1 << 20][..], b",b\n"].concat(), Some("nope")).err().unwrap();
        assert!(fault.reason.len() < 600 && fault.reason.contains("1048576 bytes"), "{}", fault.reason);
    }

    #[test]
    fn lines_that_end_in_returns_only_are_refused() {
        let fault = open(b"id,v\rk1,a\rk2,b\r", Some("id")).err().unwrap();
        assert!(fault.reason.contains("lines end in CR only"), "{}", fault.reason);
        assert!(open(b"id,v\r\nk1,a\r\n", Some("id")).is_ok() && open(b"id,\"v\rw\"\r\n", Some("id")).is_ok());
        assert!(open(b"id,v\r", Some("id")).is_ok());
        // The same where the file has both.
        for mixed in [&b"id,v\r\r\nk1,a\r\r\n"[..], b"id,v\rk1,a\nk2,b\n"] {
            let fault = open(mixed, Some("id")).err().unwrap();
            assert!(fault.reason.contains("line 1 has a CR that is not part of its end"), "{}", fault.reason);
            assert!(!fault.reason.contains("CR only"), "{}", fault.reason);
        }
    }

    #[test]
    fn many_rows_cross_read_buffers() {
        let mut input = b"k,v\n".to_vec();
        for number in 0..60_000 {
            input.extend_from_slice(format!("{number},\"value, {number}\"\n").as_bytes());
        }
        let found = rows(&input, "k");
        assert_eq!(found.len(), 60_000);
        for (number, row) in found.into_iter().enumerate() {
            let (line, key, raw) = row.unwrap();
            assert_eq!((line, key), (number as u64 + 2, number.to_string().into_bytes()));
            assert_eq!(raw, format!("{number},\"value, {number}\"").into_bytes());
        }
    }
}
