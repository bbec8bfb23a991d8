//! Files to be loaded: lines, NDJSON, CSV.
//!
//! Owns: a second, plain description of what a record of such a file is. Must never: share code with the first.
//!
//! No byte of a file may be lost or changed: records are its lines, in order, with nothing between them but what was said to
//! be faulty, and blank lines.

use crate::meter;
use regex::bytes::Regex;
use std::io;
use std::sync::LazyLock;
use synod_server::cli::decoders::{Fault, FileFormat, Item, KeyBy, Source};

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new("[a-z]([0-9]*)").expect("a regular expression"));

/// What came of reading a file to its end.
struct Run {
    /// The header was refused.
    refused: Option<Fault>,
    steps: Vec<Result<Item, Fault>>,
}

fn read(data: &[u8], format: FileFormat, key: KeyBy) -> Run {
    meter::bounded(4 * data.len(), || {
        let input = Box::new(io::Cursor::new(data.to_vec()));
        let mut run = Run { refused: None, steps: Vec::new() };
        match Source::open(input, format, key).expect("memory can be read") {
            Err(fault) => run.refused = Some(fault),
            Ok(mut source) => {
                while let Some(step) = source.step().expect("memory can be read") {
                    run.steps.push(step);
                }
            }
        }
        run
    })
}

/// Lines of a file, without their `\n`.
fn lines_of(data: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    // The last `\n` ends a line and begins none.
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// Whether a file is of another kind than its records: compressed.
fn is_compressed(data: &[u8]) -> bool {
    let signs: [&[u8]; 5] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x04\x22\x4d\x18", b"PK\x03\x04"];
    let bzip2 = data.len() >= 10 && data.starts_with(b"BZh") && data[4..10] == *b"1AY&SY";
    bzip2 || signs.iter().any(|sign| data.starts_with(sign))
}

fn is_utf16(data: &[u8]) -> bool {
    data.starts_with(b"\xff\xfe") || data.starts_with(b"\xfe\xff")
}

/// Whether it is one line in which lines end in `\r`.
fn is_cut_by_returns(data: &[u8]) -> bool {
    !data.contains(&b'\n') && data.iter().filter(|byte| **byte == b'\r').count() > 1
}

/// Lines by a regular expression, and NDJSON by a field.
pub fn lines(data: &[u8]) -> bool {
    let run = read(data, FileFormat::Lines, KeyBy::Regex(WORD.clone()));
    let ndjson = read(data, FileFormat::Ndjson, KeyBy::Field("a.b".to_owned()));
    let compressed = is_compressed(data);
    // A byte-order mark is no part of the first line.
    let whole = data;
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let refused = compressed || is_cut_by_returns(data);
    assert_eq!(run.refused.is_some(), refused);
    assert_eq!(ndjson.refused.is_some(), refused || is_utf16(whole));
    let lines = if refused { Vec::new() } else { lines_of(data) };
    assert_eq!(run.steps.len(), lines.len());
    for (number, (step, line)) in run.steps.iter().zip(&lines).enumerate() {
        let groups = WORD.captures(line).map(|c| c[1].to_vec());
        check(step, number, line, groups.filter(|key| !key.is_empty()).as_deref());
    }
    if ndjson.refused.is_some() {
        return false;
    }
    let run = ndjson;
    let records: Vec<_> = lines.iter().enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()).collect();
    assert_eq!(run.steps.len(), records.len());
    let mut found = false;
    for (step, (number, line)) in run.steps.iter().zip(records) {
        // The key is not found a second time: it stands in the line, unless escapes hide it.
        let key = step.as_ref().ok().map(|item| item.key.clone());
        found |= key.is_some();
        check(step, number, line, key.as_deref());
        if let Some(key) = key.filter(|_| !line.contains(&b'\\')) {
            assert!(line.windows(key.len()).any(|w| w == key), "{key:?} in {line:?}");
        }
    }
    found
}

fn check(step: &Result<Item, Fault>, number: usize, line: &[u8], key: Option<&[u8]>) {
    let expected = number as u64 + 1;
    match (step, key) {
        (Ok(item), Some(key)) => assert_eq!((item.line, &item.value[..], &item.key[..]), (expected, line, key)),
        (Err(fault), None) => {
            assert_eq!(fault.line, expected, "{}", fault.reason);
            assert!(!fault.reason.contains('\n'), "{:?}", fault.reason);
        }
        _ => panic!("line {expected}: {step:?}, the key should be {key:?}"),
    }
}

/// A row as the format says it: its fields, where it begins and ends, and whether its last quote is open.
struct Row {
    fields: Vec<Vec<u8>>,
    from: usize,
    /// After its `\n`.
    to: usize,
    open: bool,
    /// A `\r` outside of quotes comes before a byte other than `\n`.
    returns: bool,
}

/// The row that begins at `from`: fields between commas; one that begins with a quote goes on to the next single quote,
/// whatever stands between; two quotes are one.
fn row_at(data: &[u8], from: usize) -> Row {
    let mut row = Row { fields: vec![Vec::new()], from, to: data.len(), open: false, returns: false };
    let (mut at, mut begins) = (from, true);
    while at < data.len() {
        let byte = data[at];
        let field = row.fields.last_mut().expect("a row has a field");
        at += 1;
        if row.open {
            match byte {
                b'"' if data.get(at) == Some(&b'"') => {
                    field.push(b'"');
                    at += 1;
                }
                b'"' => row.open = false,
                _ => field.push(byte),
            }
            continue;
        }
        match byte {
            b'"' if begins => row.open = true,
            b',' => {
                row.fields.push(Vec::new());
                begins = true;
                continue;
            }
            b'\n' => {
                row.to = at;
                break;
            }
            _ => field.push(byte),
        }
        row.returns |= byte == b'\r' && data.get(at).is_some_and(|next| *next != b'\n');
        begins = false;
    }
    row
}

fn rows_of(data: &[u8]) -> Vec<Row> {
    // A byte-order mark is no part of the header's first name.
    let mut at = if data.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut rows = Vec::new();
    while at < data.len() {
        let row = row_at(data, at);
        at = row.to;
        let raw = &data[row.from..row.to];
        if !matches!(raw, b"\n" | b"\r\n" | b"\r") {
            rows.push(row);
        }
    }
    for row in &mut rows {
        // The `\r` of a line's end is not its last field's.
        let last = row.fields.last_mut().expect("a row has a field");
        if last.last() == Some(&b'\r') {
            last.pop();
        }
    }
    rows
}

/// CSV by the header's first column, and by a regular expression.
pub fn csv(data: &[u8]) -> bool {
    let rows = rows_of(data);
    let name = rows.first().map(|header| String::from_utf8_lossy(&header.fields[0]).into_owned());
    let by_column = read(data, FileFormat::Csv, KeyBy::Field(name.clone().unwrap_or_default()));
    let by_regex = read(data, FileFormat::Csv, KeyBy::Regex(WORD.clone()));
    let Some((header, records)) = rows.split_first() else {
        assert!(by_column.refused.is_some() && by_regex.refused.is_some(), "a file without a header");
        return false;
    };
    let unreadable = is_compressed(data) || is_utf16(data);
    let refused = unreadable || header.open || header.returns;
    assert_eq!(by_regex.refused.is_some(), refused);
    let named = header.fields.iter().filter(|field| field[..] == *header.fields[0]).count();
    let sound = named == 1 && !refused && std::str::from_utf8(&header.fields[0]).is_ok();
    assert_eq!(by_column.refused.is_none(), sound, "{:?}", by_column.refused.map(|f| f.reason));
    if sound {
        let key = |row: &Row, _: &[u8]| Some(row.fields[0].clone());
        check_rows(data, header, records, &by_column.steps, key);
    }
    if !refused {
        let key = |_: &Row, raw: &[u8]| WORD.captures(raw).map(|c| c[1].to_vec());
        check_rows(data, header, records, &by_regex.steps, key);
    }
    !records.is_empty() && by_regex.steps.iter().any(Result::is_ok)
}

type Steps = [Result<Item, Fault>];

fn check_rows(data: &[u8], header: &Row, records: &[Row], steps: &Steps, key: impl Fn(&Row, &[u8]) -> Option<Vec<u8>>) {
    assert_eq!(steps.len(), records.len());
    for (step, row) in steps.iter().zip(records) {
        let raw = &data[row.from..row.to];
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let fits = !row.open && row.fields.len() == header.fields.len();
        let number = data[..row.from].iter().filter(|byte| **byte == b'\n').count();
        check(step, number, raw, key(row, raw).filter(|key| fits && !key.is_empty()).as_deref());
    }
}
