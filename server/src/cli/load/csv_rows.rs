//! CSV rows as they stand in the file, with the key column parsed.
//!
//! Owns the pairing of parsed fields with raw bytes: the parser reads through a tee that keeps what it has read, and
//! each record's end position cuts the raw row out of it. Must never keep more than one row and a read buffer.

use std::io::{self, Read};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};

use super::source::{Fault, Numbered, RECORD_LIMIT};

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
    pub fn open(input: Box<dyn Read + Send>, key: Option<&str>) -> io::Result<Result<Self, Fault>> {
        let tee = Tee { input, kept: Vec::new(), start: 0, base: 0 };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            // Only `\n` ends a row: the `\r` before it belongs to the raw row, and is cut from the last field below.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(64 << 10)
            .from_reader(tee);
        let mut rows = Self { reader, record: ByteRecord::new(), columns: 0, key: None, line: 1, at_start: true };
        let fault = |reason: String| Ok(Err(Fault { line: 1, reason, no_key: true }));
        match rows.read()? {
            None => return fault("no header row: the file is empty".to_owned()),
            Some(Err(header)) => return Ok(Err(header)),
            Some(Ok(_)) => {}
        }
        rows.columns = rows.record.len();
        let Some(key) = key else { return Ok(Ok(rows)) };
        let names: Vec<&[u8]> = (0..rows.columns).map(|index| rows.field(index)).collect();
        let matching: Vec<usize> = (0..names.len()).filter(|index| names[*index] == key.as_bytes()).collect();
        match matching.as_slice() {
            [index] => rows.key = Some(*index),
            [] => {
                let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
                return fault(format!("no column for --key '{key}'; the header has {}", names.join(", ")));
            }
            _ => return fault(format!("--key '{key}' names {} columns of the header", matching.len())),
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
            let reason = format!("{} fields where the header has {}", self.record.len(), self.columns);
            return Ok(Some(Err(Fault { line, reason, no_key: false })));
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
            if !self.reader.read_byte_record(&mut self.record).map_err(into_io)? {
                return Ok(None);
            }
            let end = self.reader.position().byte();
            let taken = self.reader.get_mut().take(end);
            // The parser passes over the mark; what it guards is judged here once more.
            let mark: &[u8] = if std::mem::take(&mut self.at_start) { b"\xef\xbb\xbf" } else { b"" };
            let taken = taken.strip_prefix(mark).unwrap_or(&taken);
            // Blank lines in front of a row are read along with it.
            let blank = taken.iter().take_while(|byte| **byte == b'\n').count();
            let line = self.line + blank as u64;
            self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            let raw = &taken[blank..];
            if raw.is_empty() || raw == b"\r\n" || raw == b"\r" {
                continue;
            }
            if unclosed(raw) {
                let reason = "a quoted field is not closed".to_owned();
                return Ok(Some(Err(Fault { line, reason, no_key: false })));
            }
            return Ok(Some(Ok((line, raw.strip_suffix(b"\n").unwrap_or(raw).to_vec()))));
        }
    }
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

/// Whether the row ends inside quotes.
fn unclosed(raw: &[u8]) -> bool {
    let (mut quoted, mut at_start) = (false, true);
    let mut bytes = raw.iter().peekable();
    while let Some(byte) = bytes.next() {
        match (quoted, *byte) {
            (true, b'"') if bytes.peek() == Some(&&b'"') => {
                bytes.next();
            }
            (true, b'"') => quoted = false,
            (false, b'"') if at_start => quoted = true,
            _ => {}
        }
        at_start = !quoted && *byte == b',';
    }
    quoted
}

/// A reader that keeps what was read through it.
struct Tee {
    input: Box<dyn Read + Send>,
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
        assert_eq!((fault(3).line, fault(3).reason.as_str()), (5, "a quoted field is not closed"));
        assert_eq!(found.len(), 4);
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
