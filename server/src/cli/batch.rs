//! `synod batch`: several writes on keys of one shard, as NDJSON.
//!
//! Owns the batch file's format: one operation a line, unknown fields refused. Must never send anything before the
//! whole file has parsed: a batch is written whole or not at all.

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;
use synod_client::{Expect, NewRecord, OpKind, WriteOp};

use super::args::parse_expect;
use super::bytes::{from_base64, read_source};
use super::context::Context;
use super::error::{CliError, Exit, Result};
use super::load::source::json_reason;
use super::output::{json, text};

const AFTER_HELP: &str = r#"The file has one operation a line:
  {"op":"put","key":"a","value":"1"}
  {"op":"append","key":"b","value":"2","headers":{"by":"me"},"expect":"exists"}
  {"op":"delete","key":"c","expect":4}
  {"op":"trim","key":"b","before":10}
key_base64 and value_base64 take bytes that are not UTF-8. expect is "any", "absent", "exists" or the key's exact next
offset. All keys must live on one shard (see `synod explain`). If one expectation does not hold, nothing is written and
the exit code is 3."#;

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
    let ops = parse(&args.file, &read_source(&args.file)?)?;
    let client = context.connect().await?;
    let results = client.batch(&args.table, ops).await?;
    let results: Vec<_> =
        results.iter().map(|written| json::Written { offset: written.offset, ts_us: written.ts_us }).collect();
    context.out.value(&json::Batch { results }, |batch| {
        let line = |(number, written): (usize, &json::Written)| {
            format!("operation {}: offset {} at {}", number + 1, written.offset, text::time(written.ts_us))
        };
        batch.results.iter().enumerate().map(line).collect()
    })
}

/// The operations of a file; an error names the file, the line and the reason.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<WriteOp>> {
    let mut ops = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = number + 1;
        ops.push(parse_line(line).map_err(|reason| {
            CliError::failed("malformed_line", format!("{file}:{number}: {reason}; nothing was written"))
                .with("file", file)
                .with("line", number)
                .with("reason", reason)
                .exiting(Exit::Usage)
        })?);
    }
    if ops.is_empty() {
        return Err(CliError::usage("batch", format!("{file} has no operation; at least 1 is needed")));
    }
    Ok(ops)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    op: Op,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    expect: Option<ExpectField>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    before: Option<u64>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Append,
    Delete,
    Trim,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExpectField {
    Offset(u64),
    Word(String),
}

fn parse_line(line: &[u8]) -> std::result::Result<WriteOp, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| json_reason(&error))?;
    let key = bytes("key", line.key, line.key_base64)?.ok_or("no key")?;
    if key.is_empty() {
        return Err("the key is empty; a key has 1 byte or more".to_owned());
    }
    let expect = match line.expect {
        None => Expect::Any,
        Some(ExpectField::Offset(offset)) => Expect::NextOffset(offset),
        Some(ExpectField::Word(word)) => parse_expect(&word).map_err(|why| format!("expect: {why}"))?,
    };
    let value = bytes("value", line.value, line.value_base64)?;
    let writes = matches!(line.op, Op::Put | Op::Append);
    if !writes && (value.is_some() || !line.headers.is_empty()) {
        return Err("value and headers belong to put and append".to_owned());
    }
    if line.op != Op::Trim && line.before.is_some() {
        return Err("before belongs to trim".to_owned());
    }
    let kind = match line.op {
        Op::Put | Op::Append => {
            let value = value.ok_or("no value (it may be empty)")?;
            let record = NewRecord::new(value);
            OpKind::Append(vec![
                line.headers.into_iter().fold(record, |record, (name, value)| record.header(name, value)),
            ])
        }
        Op::Delete => OpKind::Delete,
        Op::Trim => OpKind::Trim { before: line.before.ok_or("trim needs before, the first offset to keep")? },
    };
    Ok(WriteOp { key: key.into(), expect, kind })
}

fn bytes(name: &str, plain: Option<String>, base64: Option<String>) -> std::result::Result<Option<Vec<u8>>, String> {
    match (plain, base64) {
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => from_base64(&format!("{name}_base64"), text.as_bytes())
            .map(Some)
            .map_err(|error| error.message().to_owned()),
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
        let ops = parse("f", file.as_bytes()).unwrap();
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
    fn malformed_lines_name_file_line_and_reason() {
        let good = r#"{"op":"put","key":"a","value":"1"}"#;
        for (line, reason) in [
            (r#"{"op":"put""#, "EOF while parsing"),
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
            (r#"{"op":"put","key":"a","value":"1","expect":"maybe"}"#, "none of any, absent, exists"),
        ] {
            let error = parse("f.json", format!("{good}\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.message().starts_with("f.json:2: "), "{error}");
            assert!(error.message().contains(reason), "{error}");
        }
        assert!(parse("f", b"\n\n").unwrap_err().message().contains("no operation"));
    }
}
