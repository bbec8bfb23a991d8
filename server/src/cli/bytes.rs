//! Keys, values, headers and expectations as they stand on the command line.
//!
//! Owns the way from arguments to bytes: an argument is taken as the raw bytes the shell passed, UTF-8 or not. Must
//! never re-encode, trim or normalise what the user gave.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use synod_client::Expect;

use super::error::{CliError, Result};
use super::escape::{path as path_shown, piece};

/// More than any value may have, so that a wrong file is not read whole.
pub const READ_LIMIT: u64 = 64 << 20;

/// An argument as raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawArg(pub Vec<u8>);

/// Parses an argument into its raw bytes.
pub fn raw_arg() -> impl TypedValueParser<Value = RawArg> {
    OsStringValueParser::new().map(|text: OsString| RawArg(text.into_vec()))
}

/// How keys on the command line are written.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct KeyEncoding {
    /// Keys on this command line are base64
    #[arg(long)]
    pub key_base64: bool,
}

impl KeyEncoding {
    /// The bytes an argument of this name stands for.
    pub fn decode(self, field: &str, arg: &RawArg) -> Result<Vec<u8>> {
        if self.key_base64 { from_base64(field, &arg.0) } else { Ok(arg.0.clone()) }
    }

    /// A key: as [`KeyEncoding::decode`], and not empty.
    pub fn key(self, arg: &RawArg) -> Result<Vec<u8>> {
        let key = self.decode("KEY", arg)?;
        if key.is_empty() {
            return Err(CliError::usage("KEY", "is empty; a key has 1 byte or more"));
        }
        Ok(key)
    }
}

/// Base64 text to bytes.
pub fn from_base64(field: &str, text: &[u8]) -> Result<Vec<u8>> {
    let trimmed = text.trim_ascii();
    STANDARD.decode(trimmed).map_err(|error| CliError::usage(field, format!("not base64: {error}")))
}

/// Parses `any`, `absent`, `exists` or an offset.
pub fn parse_expect(text: &str) -> std::result::Result<Expect, String> {
    expect(text, |text| piece(text.as_bytes()))
}

/// The same of an argument: the whole command line is escaped already when it is parsed for its error.
pub(super) fn expect_argument(text: &str) -> std::result::Result<Expect, String> {
    expect(text, str::to_owned)
}

fn expect(text: &str, shown: impl Fn(&str) -> String) -> std::result::Result<Expect, String> {
    match text {
        "any" => Ok(Expect::Any),
        "absent" => Ok(Expect::Absent),
        "exists" => Ok(Expect::Exists),
        offset => offset.parse().map(Expect::NextOffset).map_err(|_| {
            format!("'{}' is not one of any, absent, exists, nor an offset (a number from 0)", shown(offset))
        }),
    }
}

/// A header `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderArg {
    /// What stands before the first `=`.
    pub name: Vec<u8>,
    /// What stands after it.
    pub value: Vec<u8>,
}

/// Parses `NAME=VALUE`.
pub fn header_arg() -> impl TypedValueParser<Value = HeaderArg> {
    OsStringValueParser::new().try_map(|text: OsString| parse_header(text.into_vec()))
}

pub(super) fn parse_header(text: Vec<u8>) -> std::result::Result<HeaderArg, String> {
    match text.iter().position(|byte| *byte == b'=') {
        Some(0) => Err("the header has no name; write NAME=VALUE".to_owned()),
        Some(at) => Ok(HeaderArg { name: text[..at].to_vec(), value: text[at + 1..].to_vec() }),
        None => Err("a header is written NAME=VALUE".to_owned()),
    }
}

/// Reads a file, or standard input for `-`, to its end.
pub fn read_source(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_source(path)?.take(READ_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::io(path_shown(path), &error))?;
    if bytes.len() as u64 > READ_LIMIT {
        let message = format!(
            "{}: larger than {READ_LIMIT} bytes, more than one write can hold; use `synod load`",
            path_shown(path)
        );
        return Err(CliError::failed("too_large", message).with("limit", READ_LIMIT));
    }
    Ok(bytes)
}

/// Opens a file, or standard input for `-`.
pub fn open_source(path: &str) -> Result<Box<dyn Read + Send>> {
    if path == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| CliError::io(path_shown(path), &error))?;
    let meta = file.metadata().map_err(|error| CliError::io(path_shown(path), &error))?;
    if meta.is_dir() {
        return Err(CliError::failed("io", format!("{}: is a directory", path_shown(path))));
    }
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_parse() {
        assert_eq!(parse_expect("absent"), Ok(Expect::Absent));
        assert_eq!(parse_expect("0"), Ok(Expect::NextOffset(0)));
        assert!(parse_expect("-1").unwrap_err().contains("any, absent, exists"));
    }

    #[test]
    fn headers_split_at_the_first_equals_sign() {
        let header = parse_header(b"a=b=c".to_vec()).unwrap();
        assert_eq!((header.name, header.value), (b"a".to_vec(), b"b=c".to_vec()));
        assert!(parse_header(b"=x".to_vec()).is_err());
        assert!(parse_header(b"x".to_vec()).is_err());
        assert_eq!(parse_header(vec![0xff, b'=', 0xfe]).unwrap().value, vec![0xfe]);
    }

    #[test]
    fn keys_are_raw_or_base64() {
        let raw = KeyEncoding::default();
        let base64 = KeyEncoding { key_base64: true };
        assert_eq!(raw.key(&RawArg(vec![0xff, 0])).unwrap(), vec![0xff, 0]);
        assert_eq!(base64.key(&RawArg(b"/wA=\n".to_vec())).unwrap(), vec![0xff, 0]);
        assert!(base64.key(&RawArg(b"/w".to_vec())).unwrap_err().message().contains("not base64"));
        assert!(raw.key(&RawArg(vec![])).unwrap_err().message().contains("empty"));
    }

    #[test]
    fn a_directory_and_a_missing_file_are_named() {
        assert!(read_source("/tmp").unwrap_err().message().contains("/tmp: is a directory"));
        assert!(read_source("/no/such").unwrap_err().message().starts_with("/no/such: "));
    }
}
