//! Every decoder of what people write, for the fuzz targets and for nothing else.
//!
//! Owns: nothing; a way in to what is private otherwise. Must never: decode anything itself.

use super::error::Result;
use crate::config::Settings;
use synod_client::{Expect, WriteOp};

pub use super::bytes::HeaderArg;
pub use super::escape::to_base64;
pub use super::load::fault::Fault;
pub use super::load::source::{FileFormat, Item, KeyBy, Source};

/// A settings file; an error has the line, where it is known, and the reason.
pub fn settings(text: &str) -> std::result::Result<Settings, (Option<usize>, String)> {
    super::config::parse(text)
}

/// A batch file.
pub fn batch(bytes: &[u8]) -> Result<Vec<WriteOp>> {
    super::batch::parse("file", bytes).map(|batch| batch.ops)
}

/// The argument of `--expect`.
pub fn expectation(text: &str) -> std::result::Result<Expect, String> {
    super::bytes::parse_expect(text)
}

/// The argument of `--time`, µs since 1970.
pub fn time(text: &str) -> std::result::Result<u64, String> {
    super::time::parse(text)
}

/// The argument of `--header`.
pub fn header(text: Vec<u8>) -> std::result::Result<HeaderArg, String> {
    super::bytes::parse_header(text)
}

/// An argument in base64.
pub fn from_base64(text: &[u8]) -> Result<Vec<u8>> {
    super::bytes::from_base64("KEY", text)
}
