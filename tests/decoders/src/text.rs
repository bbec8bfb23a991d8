//! What people and programs write as text.
//!
//! Owns: the settings file, cursors and tokens, arguments of the command line, batch files. Must never: read a file.

use crate::checks::canonical;
use crate::meter;
use bytes::Bytes;
use std::fmt::Write as _;
use synod_client::{Cursor, Token};
use synod_server::cli::decoders;
use xxhash_rust::xxh3::xxh3_64;

/// The settings file: a refusal names a line that is there, and what is taken is within the bounds of its own check.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match meter::bounded(16 * data.len(), || decoders::settings(text)) {
        Ok(settings) => {
            assert_eq!(settings.check(), Ok(()));
            let again = decoders::settings(text).expect("it was taken a moment ago");
            assert_eq!(format!("{settings:?}"), format!("{again:?}"));
            true
        }
        Err((line, why)) => {
            let lines = text.split('\n').count();
            assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "line {line:?} of {lines}: {why}");
            assert!(!why.is_empty());
            false
        }
    }
}

/// Cursors and tokens: printed, parsed, and with a right check behind any bytes. A text has one value and a value one text.
pub fn cursor(data: &[u8]) -> bool {
    let mut decoded = false;
    if let Ok(text) = std::str::from_utf8(data) {
        decoded |= parsed(text);
    }
    for kind in [1, 2] {
        let body = [&[1, kind][..], data].concat();
        let check = u32::try_from(xxh3_64(&body) & u64::from(u32::MAX)).expect("the low half");
        decoded |= parsed(&hex(&[&body[..], &check.to_be_bytes()].concat()));
    }
    decoded
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parsed(text: &str) -> bool {
    let decode = |bytes: Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| ());
    let normal = text.trim().to_ascii_lowercase();
    let cursor = canonical(
        normal.as_bytes(),
        |bytes| decode(bytes)?.parse::<Cursor>().map_err(|_| ()),
        |cursor| cursor.to_string().into(),
    );
    let token = canonical(
        normal.as_bytes(),
        |bytes| decode(bytes)?.parse::<Token>().map_err(|_| ()),
        |token| token.to_string().into(),
    );
    assert_eq!(text.parse::<Cursor>().ok(), cursor, "spaces or capitals make a difference: {text:?}");
    assert_eq!(text.parse::<Token>().ok(), token, "spaces or capitals make a difference: {text:?}");
    assert!(cursor.is_none() || token.is_none(), "both a cursor and a token: {text:?}");
    cursor.is_some() || token.is_some()
}

/// Arguments: expectations, times, headers, base64.
pub fn arguments(data: &[u8]) -> bool {
    let mut decoded = false;
    if let Ok(text) = std::str::from_utf8(data) {
        decoded |= meter::bounded(data.len(), || decoders::expectation(text)).is_ok();
        decoded |= meter::bounded(data.len(), || decoders::time(text)).is_ok();
    }
    if let Ok(header) = decoders::header(data.to_vec()) {
        assert!(!header.name.is_empty() && !header.name.contains(&b'='));
        assert_eq!([&header.name[..], b"=", &header.value].concat(), data);
        decoded = true;
    }
    if let Ok(bytes) = meter::bounded(data.len(), || decoders::from_base64(data)) {
        assert_eq!(decoders::to_base64(&bytes).as_bytes(), data.trim_ascii(), "base64 of a second form");
        decoded = true;
    }
    decoded
}

/// A batch file: taken whole or not at all; each of its operations has a key, and a line of its own.
pub fn batch(data: &[u8]) -> bool {
    match meter::bounded(data.len(), || decoders::batch(data)) {
        Ok(ops) => {
            let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
            assert_eq!(ops.len(), lines.count());
            assert!(!ops.is_empty() && ops.iter().all(|op| !op.key.is_empty()));
            true
        }
        Err(error) => {
            assert!(!error.message().contains('\n'), "an error of two lines: {error}");
            false
        }
    }
}
