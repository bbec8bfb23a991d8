//! The commands on records: put, get, delete, append, read, trim, scan.
//!
//! Owns the way from parsed flags to one client call and from its answer to the output. Must never retry, reorder or
//! reinterpret: the client library answers for all of that.

use std::io::Write;
use std::str::FromStr;

use ::bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use synod_client::{Cursor, Error, GetOptions, Header, Keys, NewRecord, Record, ScanOptions, Written};

use super::args;
use super::bytes::{HeaderArg, KeyEncoding, RawArg, from_base64, read_source};
use super::context::Context;
use super::error::{CliError, Result};
use super::output::{json, text};

/// `put`.
pub async fn put(context: &mut Context, args: args::Put) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let given: Vec<RawArg> = args.value.into_iter().collect();
    let records = records(given, args.value_file.as_deref(), args.value_base64, &args.headers)?;
    let client = context.connect().await?;
    let written = client.append(&args.at.table, key, records, args.condition.expect).await?;
    print_written(context, written)
}

/// `append`.
pub async fn append(context: &mut Context, args: args::Append) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let records = records(args.values, args.value_file.as_deref(), args.value_base64, &args.headers)?;
    let client = context.connect().await?;
    let written = client.append(&args.at.table, key, records, args.condition.expect).await?;
    print_written(context, written)
}

/// `delete`.
pub async fn delete(context: &mut Context, args: args::Delete) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let client = context.connect().await?;
    let written = client.delete(&args.at.table, key, args.condition.expect).await?;
    print_written(context, written)
}

/// `trim`.
pub async fn trim(context: &mut Context, args: args::Trim) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let client = context.connect().await?;
    let written = client.trim(&args.at.table, key, args.before).await?;
    let trimmed = json::Trimmed { first_offset: written.offset, ts_us: written.ts_us };
    context.out.done(&trimmed, |trimmed| vec![format!("first offset {}", trimmed.first_offset)])
}

/// `get`.
pub async fn get(context: &mut Context, args: args::Get) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let options = GetOptions { at: args.which(), consistency: args.freshness.consistency()? };
    let client = context.connect().await?;
    let Some(record) = client.get(&args.at.table, key.clone(), options).await? else {
        let what = match (args.offset, args.time) {
            (Some(offset), _) => format!("no record at offset {offset}"),
            (_, Some(time)) => format!("no record at or before {}", text::time(time)),
            _ => "no record".to_owned(),
        };
        let message = format!("key '{}' of table '{}': {what}", text::piece(&key), args.at.table);
        return Err(CliError::failed("key_not_found", message));
    };
    if args.raw {
        context.out.write(&record.value)
    } else if context.out.json() {
        context.out.object(&shown(record, false))
    } else {
        context.out.line(text::escape(&record.value))
    }
}

/// `read`.
pub async fn read(context: &mut Context, args: args::Read) -> Result<()> {
    let key = args.at.encoding.key(&args.at.key)?;
    let consistency = args.freshness.consistency()?;
    let client = context.connect().await?;
    let read = |from| client.read(&args.at.table, key.clone(), from, args.limit, consistency);
    let mut from = args.from.unwrap_or(0);
    let (mut records, mut printed) = (read(from), false);
    while let Some(record) = next(context, &mut records).await? {
        match record {
            // Who did not say where to begin wants what is left.
            Err(Error::Trimmed { first, .. }) if args.from.is_none() && !printed && first > from => {
                from = first;
                records = read(from);
            }
            record => {
                context.out.record(&shown(record?, false))?;
                printed = true;
            }
        }
    }
    Ok(())
}

/// `scan`.
pub async fn scan(context: &mut Context, args: args::Scan) -> Result<()> {
    let keys = match &args.prefix {
        Some(prefix) => Keys::Prefix(args.encoding.decode("--prefix", prefix)?.into()),
        None => range(args.encoding, args.from.as_ref(), args.to.as_ref())?,
    };
    let options = ScanOptions {
        keys,
        limit: args.limit,
        reverse: args.reverse,
        keys_only: args.keys_only,
        cursor: args.cursor.as_deref().map(Cursor::from_str).transpose().map_err(|error| at("--cursor", error))?,
        consistency: args.freshness.consistency()?,
        ..ScanOptions::default()
    };
    let client = context.connect().await?;
    let mut records = client.scan(&args.table, options);
    let mut count = 0;
    while let Some(record) = next(context, &mut records).await? {
        context.out.record(&shown(record?, args.keys_only))?;
        count += 1;
    }
    if args.limit == Some(count)
        && let Some(cursor) = records.cursor()
    {
        context.out.flush()?;
        say(context, "cursor", &cursor.to_string());
    }
    Ok(())
}

fn range(encoding: KeyEncoding, from: Option<&RawArg>, to: Option<&RawArg>) -> Result<Keys> {
    let decode = |name, arg: Option<&RawArg>| arg.map(|arg| encoding.decode(name, arg)).transpose();
    let (from, to) = (decode("--from", from)?, decode("--to", to)?);
    if let (Some(from), Some(to)) = (&from, &to)
        && !to.is_empty()
        && from >= to
    {
        let why = format!("'{}' does not come before --to '{}'", text::piece(from), text::piece(to));
        return Err(CliError::usage("--from", why));
    }
    Ok(match (from, to) {
        (None, None) => Keys::All,
        (from, to) => Keys::Range { from: from.unwrap_or_default().into(), to: to.unwrap_or_default().into() },
    })
}

/// The next item; what was printed before is handed over first if there is a wait.
async fn next<S: Stream + Unpin>(context: &mut Context, stream: &mut S) -> Result<Option<S::Item>> {
    if let Some(ready) = stream.next().now_or_never() {
        return Ok(ready);
    }
    context.out.flush()?;
    Ok(stream.next().await)
}

/// Says a place to go on from on standard error: `NAME: PLACE`, or an object with the one field.
pub fn say(context: &Context, name: &str, place: &str) {
    say_as(context.out.json(), name, place);
}

/// The same in one of the two formats.
pub fn say_as(json: bool, name: &str, place: &str) {
    let line = if json { serde_json::json!({ name: place }).to_string() } else { format!("{name}: {place}") };
    // Where nobody can read it, it cannot be said.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The client's error about what a flag says.
pub fn at(flag: &str, error: synod_client::Error) -> CliError {
    CliError::from(error).at(flag)
}

fn records(given: Vec<RawArg>, file: Option<&str>, base64: bool, headers: &[HeaderArg]) -> Result<Vec<NewRecord>> {
    let mut values: Vec<Vec<u8>> = given.into_iter().map(|arg| arg.0).collect();
    if let Some(file) = file {
        values.push(read_source(file)?);
    }
    let headers: Vec<Header> = headers
        .iter()
        .map(|header| Header { name: header.name.clone().into(), value: header.value.clone().into() })
        .collect();
    let decode = |value: Vec<u8>| if base64 { from_base64("VALUE", &value) } else { Ok(value) };
    values
        .into_iter()
        .map(|value| Ok(NewRecord { headers: headers.clone(), value: Bytes::from(decode(value)?) }))
        .collect()
}

fn print_written(context: &mut Context, written: Written) -> Result<()> {
    let written = json::Written { offset: written.offset, ts_us: written.ts_us };
    context.out.done(&written, |written| vec![format!("offset {} at {}", written.offset, text::time(written.ts_us))])
}

/// A record as it is printed.
pub fn shown(record: Record, keys_only: bool) -> json::Record {
    let bytes = |bytes: Bytes| json::Bytes(bytes.to_vec());
    json::Record {
        key: bytes(record.key),
        offset: record.offset,
        ts_us: record.ts_us,
        headers: record.headers.into_iter().map(|header| (bytes(header.name), bytes(header.value))).collect(),
        value: (!keys_only).then(|| bytes(record.value)),
        tombstone: record.tombstone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> RawArg {
        RawArg(text.as_bytes().to_vec())
    }

    #[test]
    fn ranges_are_checked_and_may_be_open() {
        let plain = KeyEncoding::default();
        assert_eq!(range(plain, None, None).unwrap(), Keys::All);
        let open = range(plain, Some(&raw("b")), None).unwrap();
        assert_eq!(open, Keys::Range { from: "b".into(), to: Bytes::new() });
        let error = range(plain, Some(&raw("b")), Some(&raw("a"))).unwrap_err();
        assert_eq!(error.message(), "--from: 'b' does not come before --to 'a'");
    }

    #[test]
    fn records_take_values_and_headers() {
        let header = HeaderArg { name: b"h".to_vec(), value: b"1".to_vec() };
        let made = records(vec![raw("a"), raw("")], None, false, &[header]).unwrap();
        assert_eq!(made[0], NewRecord::new("a").header("h", "1"));
        assert_eq!(made[1].value, Bytes::new());
        assert!(records(vec![raw("?")], None, true, &[]).unwrap_err().message().contains("not base64"));
        assert_eq!(records(vec![raw("/w==")], None, true, &[]).unwrap()[0].value, vec![0xff]);
    }
}
