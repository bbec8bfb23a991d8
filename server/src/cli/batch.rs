//! `synod batch`: several writes on keys of one shard, as NDJSON.
//!
//! Owns the batch file's format: one operation a line, unknown fields refused. Must never send anything before the
//! whole file has parsed: a batch is written whole or not at all.

use std::fmt;

use clap::Args;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use synod_client::{Error, Expect, Header, NewRecord, OpKind, WriteOp};

use super::bytes::{from_base64, parse_expect, read_source};
use super::context::Context;
use super::error::{CliError, Exit, Result};
use super::load::sniff::UTF8_MARK;
use super::load::source::json_reason;
use super::output::{json, text};

const AFTER_HELP: &str = r#"The file has one operation a line:
  {"op":"put","key":"a","value":"1"}
  {"op":"append","key":"b","value":"2","headers":{"by":"me"},"expect":"exists"}
  {"op":"append","key":"b","value":"3","headers":[["tag","x"],["tag","y"]]}
  {"op":"delete","key":"c","expect":4}
  {"op":"trim","key":"b","before":10}
key_base64, value_base64 and headers_base64 take bytes that are not UTF-8. headers are an object, or a list of pairs where a
name repeats; they are stored in the file's order, those in base64 last. expect is "any", "absent", "exists" or the key's
exact next offset. All keys must live on one shard (see `synod explain`). If one expectation does not hold, nothing is
written and the exit code is 3."#;

/// `batch`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct BatchArgs {
    /// The table
    pub table: String,
    /// The file, or `-` for standard input
    pub file: String,
}

/// Runs `batch`.
pub async fn run(context: &mut Context, args: BatchArgs) -> Result<()> {
    let Batch { ops, lines } = parse(&args.file, &read_source(&args.file)?)?;
    let client = context.connect().await?;
    let results = client.batch(&args.table, ops).await.map_err(|error| {
        let line = match &error {
            Error::ExpectationFailed { op_index, .. } => lines.get(*op_index as usize).copied(),
            _ => None,
        };
        match line {
            Some(line) => CliError::from(error).at(format!("{}:{line}", text::path(&args.file))).with("line", line),
            None => CliError::from(error),
        }
    })?;
    let results: Vec<_> =
        results.iter().map(|written| json::Written { offset: written.offset, ts_us: written.ts_us }).collect();
    context.out.done(&json::Batch { results }, |batch| {
        let line = |(number, written): (usize, &json::Written)| {
            format!("operation {}: offset {} at {}", number + 1, written.offset, text::time(written.ts_us))
        };
        batch.results.iter().enumerate().map(line).collect()
    })
}

/// What a file holds.
#[derive(Debug)]
pub struct Batch {
    /// Its operations.
    pub ops: Vec<WriteOp>,
    /// The line each of them is on, from 1.
    pub lines: Vec<usize>,
}

/// The operations of a file; an error names the file, the line and the reason.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Batch> {
    let (mut ops, mut lines) = (Vec::new(), Vec::new());
    let bytes = bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes);
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = number + 1;
        ops.push(parse_line(line).map_err(|reason| {
            let message = format!("{}:{number}: {reason}; nothing was written", text::path(file));
            CliError::failed("malformed_line", message)
                .with("file", file)
                .with("line", number)
                .with("reason", reason)
                .exiting(Exit::Usage)
        })?);
        lines.push(number);
    }
    if ops.is_empty() {
        let why = format!("{} has no operation; at least 1 is needed", text::path(file));
        return Err(CliError::usage("batch", why));
    }
    Ok(Batch { ops, lines })
}

/// A line's fields, each as the text that the file has: so a message about a wrong one quotes the file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    op: Op,
    #[serde(borrow, default)]
    key: Given<'a>,
    #[serde(borrow, default)]
    key_base64: Given<'a>,
    #[serde(borrow, default)]
    value: Given<'a>,
    #[serde(borrow, default)]
    value_base64: Given<'a>,
    #[serde(borrow, default)]
    expect: Given<'a>,
    #[serde(borrow, default)]
    headers: Given<'a>,
    #[serde(borrow, default)]
    headers_base64: Given<'a>,
    #[serde(borrow, default)]
    before: Given<'a>,
}

/// A field's text in the file; none where it is absent or null.
type Given<'a> = Option<&'a RawValue>;

#[derive(Clone, Copy, serde::Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Append,
    Delete,
    Trim,
}

type Parsed<T> = std::result::Result<T, String>;

fn parse_line(line: &[u8]) -> Parsed<WriteOp> {
    // Fields by their places, without names, would be taken for them.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not an object of named fields, such as {\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}".to_owned());
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| json_reason(&error))?;
    let key = bytes("key", string("key", line.key)?, string("key_base64", line.key_base64)?)?.ok_or("no key")?;
    if key.is_empty() {
        return Err("the key is empty; a key has 1 byte or more".to_owned());
    }
    let expect = line.expect.map_or(Ok(Expect::Any), expectation)?;
    let value = bytes("value", string("value", line.value)?, string("value_base64", line.value_base64)?)?;
    let mut headers = headers("headers", line.headers, |_, text| Ok(text.into_bytes()))?;
    headers.extend(self::headers("headers_base64", line.headers_base64, |field, text| decoded(field, &text))?);
    let writes = matches!(line.op, Op::Put | Op::Append);
    if !writes && (value.is_some() || !headers.is_empty()) {
        return Err("value and headers belong to put and append".to_owned());
    }
    if line.op != Op::Trim && line.before.is_some() {
        return Err("before belongs to trim".to_owned());
    }
    let kind = match line.op {
        Op::Put | Op::Append => {
            let value = value.ok_or("no value (it may be empty)")?.into();
            OpKind::Append(vec![NewRecord { headers, value }])
        }
        Op::Delete => OpKind::Delete,
        Op::Trim => OpKind::Trim { before: before(line.before.ok_or("trim needs before, the first offset to keep")?)? },
    };
    Ok(WriteOp { key: key.into(), expect, kind })
}

/// A field that is a string.
fn string(name: &str, given: Given<'_>) -> Parsed<Option<String>> {
    let Some(given) = given else { return Ok(None) };
    if !given.get().starts_with('"') {
        return Err(format!("{name} is {}, not a string; write it in quotes", text::piece(given.get().as_bytes())));
    }
    serde_json::from_str(given.get()).map(Some).map_err(|error| format!("{name}: {}", json_reason(&error)))
}

fn expectation(given: &RawValue) -> Parsed<Expect> {
    let word = if given.get().starts_with('"') { string("expect", Some(given))? } else { None };
    parse_expect(word.as_deref().unwrap_or(given.get())).map_err(|why| format!("expect: {why}"))
}

fn before(given: &RawValue) -> Parsed<u64> {
    let why = |_| format!("before is {}, not an offset (a number from 0)", text::piece(given.get().as_bytes()));
    given.get().parse().map_err(why)
}

fn decoded(name: &str, text: &str) -> Parsed<Vec<u8>> {
    from_base64(name, text.as_bytes()).map_err(|error| error.message().to_owned())
}

/// Headers in the file's order; a name may repeat.
fn headers(name: &str, given: Given<'_>, decode: impl Fn(&str, String) -> Parsed<Vec<u8>>) -> Parsed<Vec<Header>> {
    let Some(given) = given else { return Ok(Vec::new()) };
    let pairs = match given.get().as_bytes().first() {
        Some(b'{') => serde_json::from_str::<InOrder>(given.get()).map(|headers| headers.0),
        Some(b'[') => serde_json::from_str::<Vec<(String, String)>>(given.get()),
        _ => return Err(format!("{name} are an object, or a list of [name, value] pairs")),
    };
    let pairs = pairs.map_err(|error| format!("{name}: {}", json_reason(&error)))?;
    let header =
        |(header, value)| Ok(Header { name: decode(name, header)?.into(), value: decode(name, value)?.into() });
    pairs.into_iter().map(header).collect()
}

/// An object's fields as they come, one after the other.
struct InOrder(Vec<(String, String)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<InOrder, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(InOrder(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn bytes(name: &str, plain: Option<String>, base64: Option<String>) -> Parsed<Option<Vec<u8>>> {
    match (plain, base64) {
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => decoded(&format!("{name}_base64"), &text).map(Some),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_parses() {
        let file = concat!(
            r#"{"op":"put","key":"a","value":"1"}"#,
            "\r\n\n",
            r#"{"op":"append","key_base64":"/w==","value_base64":"/g==","headers":{"h":"x"},"expect":"absent"}"#,
            "\n",
            r#"{"op":"delete","key":"c","expect":4}"#,
            "\n",
            r#"{"op":"trim","key":"b","before":10,"expect":"7"}"#,
        );
        let Batch { ops, lines } = parse("f", file.as_bytes()).unwrap();
        assert_eq!(lines, [1, 3, 4, 5]);
        let appended = NewRecord::new(vec![0xfe]).header("h", "x");
        assert_eq!(
            ops,
            [
                WriteOp::put("a", "1"),
                WriteOp::append(vec![0xff], vec![appended]).expect(Expect::Absent),
                WriteOp::delete("c").expect(Expect::NextOffset(4)),
                WriteOp::trim("b", 10).expect(Expect::NextOffset(7)),
            ]
        );
    }

    #[test]
    fn headers_keep_their_order_and_repeat() {
        for given in [
            r#""headers":[["h","2"],["a","1"],["h","1"]]"#,
            r#""headers":{"h":"2","a":"1","h":"1"}"#,
            r#""headers_base64":[["aA==","Mg=="],["YQ==","MQ=="],["aA==","MQ=="]]"#,
            r#""headers":{"h":"2"},"headers_base64":[["YQ==","MQ=="],["aA==","MQ=="]]"#,
        ] {
            let line = format!("{{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\",{given}}}");
            let record = NewRecord::new("v").header("h", "2").header("a", "1").header("h", "1");
            assert_eq!(parse("f", line.as_bytes()).unwrap().ops, [WriteOp::append("k", vec![record])], "{line}");
        }
    }

    #[test]
    fn malformed_lines_name_file_line_and_reason() {
        let good = r#"{"op":"put","key":"a","value":"1"}"#;
        for (line, reason) in [
            (r#"{"op":"put""#, "EOF while parsing"),
            (r#"["put","a"]"#, "not an object of named fields"),
            ("17", "not an object of named fields"),
            (r#"{"op":"swap","key":"a"}"#, "unknown variant `swap`"),
            (r#"{"op":"put","value":"1"}"#, "no key"),
            (r#"{"op":"put","key":"","value":"1"}"#, "the key is empty"),
            (r#"{"op":"put","key":"a"}"#, "no value"),
            (r#"{"op":"put","key":"a","value":"1","x":1}"#, "unknown field `x`"),
            (r#"{"op":"put","key":"a","key_base64":"YQ==","value":"1"}"#, "both key and key_base64"),
            (r#"{"op":"put","key":"a","value_base64":"?"}"#, "not base64"),
            (r#"{"op":"trim","key":"a"}"#, "trim needs before"),
            (r#"{"op":"put","key":"a","value":"1","before":1}"#, "before belongs to trim"),
            (r#"{"op":"delete","key":"a","value":"1"}"#, "belong to put and append"),
            (r#"{"op":"put","key":"a","value":"1","expect":"maybe"}"#, "not one of any, absent, exists"),
            (r#"{"op":"put","key":"a","value":"1","expect":1.5}"#, "expect: '1.5' is not one of any, absent, exists"),
            (r#"{"op":"put","key":"a","value":"1","expect":[]}"#, "expect: '[]' is not one of any, absent, exists"),
            (
                r#"{"op":"put","key":"a","value":1000000000000000000001}"#,
                "value is 1000000000000000000001, not a string",
            ),
            (r#"{"op":"put","key":1,"value":"1"}"#, "key is 1, not a string"),
            (r#"{"op":"trim","key":"a","before":"1"}"#, "before is \"1\", not an offset"),
            (r#"{"op":"put","key":"a","value":"1","headers":"h"}"#, "headers are an object, or a list"),
            (r#"{"op":"put","key":"a","value":"1","headers":[["h"]]}"#, "headers: invalid length 1"),
            (r#"{"op":"put","key":"a","value":"1","headers_base64":{"?":""}}"#, "headers_base64: not base64"),
            (r#"{"op":"put","key":"a","value":"1","\u001b[31m":1}"#, "unknown field `\\u{1b}[31m`"),
        ] {
            let error = parse("f.json", format!("{good}\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.message().starts_with("f.json:2: "), "{error}");
            assert!(error.message().contains(reason), "{error}");
            assert!(!error.message().contains("untagged"), "{error}");
        }
        assert!(parse("f", b"\n\n").unwrap_err().message().contains("no operation"));
    }
}
