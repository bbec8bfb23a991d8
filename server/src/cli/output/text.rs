//! What people read: record lines, tables, sizes.
//!
//! Owns the text output, which may change from version to version (programs use `-o json`). Must never let a byte of
//! user data reach a terminal as a control sequence.

use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table};

use super::json::{Bounds, Record, ring};
pub use crate::cli::escape::{escape, harmless, path, piece};

/// Microseconds since 1970 as a UTC time.
pub fn time(ts_us: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_micros(ts_us)) {
        Some(time) => humantime::format_rfc3339_micros(time).to_string(),
        None => ts_us.to_string(),
    }
}

/// A record as one line of tab-separated columns: key, offset, time, value, and headers where there are any.
pub fn record(record: &Record) -> String {
    let mut line = format!("{}\t{}\t{}", escape(&record.key.0), record.offset, time(record.ts_us));
    if record.tombstone {
        line.push_str("\t(deleted)");
    } else if let Some(value) = &record.value {
        line.push('\t');
        line.push_str(&escape(&value.0));
    }
    if !record.headers.is_empty() {
        let headers: Vec<String> =
            record.headers.iter().map(|(name, value)| format!("{}={}", escape(&name.0), escape(&value.0))).collect();
        line.push_str(&format!("\t{{{}}}", headers.join(", ")));
    }
    line
}

/// A bound for people; `open` stands for no bound.
fn bound(text: Option<String>, open: &str) -> String {
    text.unwrap_or_else(|| open.to_owned())
}

/// Bounds as `[from, to)`.
pub fn bounds(bounds: &Bounds) -> String {
    let key = |key: &[u8]| (!key.is_empty()).then(|| escape(key));
    let (from, to) = match bounds {
        Bounds::Keys { from, to } => (key(from), key(to)),
        Bounds::Ring { from, to } => (ring(from), ring(to)),
    };
    format!("[{}, {})", bound(from, "first"), bound(to, "end"))
}

/// An empty table with these column names: columns by space, no frame, so that it can be cut and grepped.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>());
    table
}

/// The table's lines without the blanks around them.
pub fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}

/// Numbers as a list.
pub fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// A number, or a dash where there is none.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Bytes in binary units.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

/// Microseconds in the unit that fits.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::json::Bytes;

    #[test]
    fn a_record_is_one_line() {
        let mut sample = Record {
            key: Bytes(b"k\n".to_vec()),
            offset: 1,
            ts_us: 1_000_001,
            headers: vec![(Bytes(b"h".to_vec()), Bytes(b"x".to_vec()))],
            value: Some(Bytes(b"v".to_vec())),
            tombstone: false,
        };
        assert_eq!(record(&sample), "k\\n\t1\t1970-01-01T00:00:01.000001Z\tv\t{h=x}");
        sample.tombstone = true;
        sample.headers.clear();
        assert_eq!(record(&sample), "k\\n\t1\t1970-01-01T00:00:01.000001Z\t(deleted)");
    }

    #[test]
    fn tables_begin_at_the_margin() {
        let mut rows = table(&["a", "b"]);
        rows.add_row(["1", "x y"]);
        assert_eq!(lines(&rows), ["A  B", "1  x y"]);
    }

    #[test]
    fn open_bounds_have_names() {
        let keys = Bounds::Keys { from: vec![], to: b"m".to_vec() };
        assert_eq!(bounds(&keys), "[first, m)");
        let ring = Bounds::Ring { from: vec![0x80, 0, 0, 0, 0, 0, 0, 0], to: vec![] };
        assert_eq!(bounds(&ring), "[8000000000000000, end)");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!((micros(7), micros(1_234), micros(2_500_000)), ("7 us".into(), "1.23 ms".into(), "2.50 s".into()));
    }
}
