//! A record as `-o json` shows it.
//!
//! Owns how bytes are written, and the two forms of headers: an object, or a list where a name repeats. Must never lose a
//! header or change the order of a list.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::cli::escape::to_base64;

/// Bytes that print as `NAME` where they are UTF-8, else as `NAME_base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Writes them under one of the two names.
    pub(super) fn entry<M: SerializeMap>(
        &self,
        map: &mut M,
        plain: &'static str,
        base64: &'static str,
    ) -> Result<(), M::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => map.serialize_entry(plain, text),
            Err(_) => map.serialize_entry(base64, &to_base64(&self.0)),
        }
    }
}

/// A record: `{"key":…,"offset":…,"ts_us":…,"headers":{…},"value":…}`; `headers` is a list of pairs where a name repeats.
#[derive(Clone, Debug)]
pub struct Record {
    /// The record's key.
    pub key: Bytes,
    /// Its place in the key's log.
    pub offset: u64,
    /// Its time in microseconds.
    pub ts_us: u64,
    /// Names and values in the order they were given.
    pub headers: Vec<(Bytes, Bytes)>,
    /// What was written; none for a scan of keys.
    pub value: Option<Bytes>,
    /// Whether this record is a deletion; printed (as `"tombstone":true`) only then.
    pub tombstone: bool,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.key.entry(&mut map, "key", "key_base64")?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("ts_us", &self.ts_us)?;
        self.headers_entries(&mut map)?;
        if self.tombstone {
            map.serialize_entry("tombstone", &true)?;
        } else if let Some(value) = &self.value {
            value.entry(&mut map, "value", "value_base64")?;
        }
        map.end()
    }
}

impl Record {
    /// `"headers"`, and `"headers_base64"` for what is not UTF-8: objects while every name is there once. An object with a
    /// name twice is read as if one of them were not there, so then all headers are one list of pairs, in order.
    fn headers_entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let headers = || self.headers.iter();
        let mut names: Vec<&[u8]> = headers().map(|(name, _)| &name.0[..]).collect();
        names.sort_unstable();
        let repeats = names.windows(2).any(|pair| pair[0] == pair[1]);
        let (plain, binary): (Vec<_>, Vec<_>) =
            headers().partition(|(name, value)| is_text(&name.0) && is_text(&value.0));
        match (repeats, binary.is_empty()) {
            (false, true) => map.serialize_entry("headers", &TextHeaders(&plain)),
            (false, false) => {
                map.serialize_entry("headers", &TextHeaders(&plain))?;
                map.serialize_entry("headers_base64", &BinaryHeaders(&binary))
            }
            (true, true) => {
                let pairs: Vec<_> = headers().map(|(name, value)| (as_text(name), as_text(value))).collect();
                map.serialize_entry("headers", &pairs)
            }
            (true, false) => {
                let pairs: Vec<_> = headers().map(|(name, value)| (to_base64(&name.0), to_base64(&value.0))).collect();
                map.serialize_entry("headers", &[(); 0])?;
                map.serialize_entry("headers_base64", &pairs)
            }
        }
    }
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

fn as_text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

struct TextHeaders<'a>(&'a [&'a (Bytes, Bytes)]);

impl Serialize for TextHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (as_text(name), as_text(value))))
    }
}

/// Headers of which the name or the value is not UTF-8: both in base64.
struct BinaryHeaders<'a>(&'a [&'a (Bytes, Bytes)]);

impl Serialize for BinaryHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (to_base64(&name.0), to_base64(&value.0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_string, to_value};

    fn record(key: &[u8], value: &[u8]) -> Record {
        Record {
            key: Bytes(key.to_vec()),
            offset: 3,
            ts_us: 7,
            headers: vec![(Bytes(b"b".to_vec()), Bytes(b"1".to_vec())), (Bytes(b"a".to_vec()), Bytes(b"2".to_vec()))],
            value: Some(Bytes(value.to_vec())),
            tombstone: false,
        }
    }

    #[test]
    fn a_record_is_as_documented() {
        assert_eq!(
            to_string(&record(b"k", b"v")).unwrap(),
            r#"{"key":"k","offset":3,"ts_us":7,"headers":{"b":"1","a":"2"},"value":"v"}"#
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_base64() {
        let mut binary = record(&[0xff], &[0xfe]);
        binary.headers.push((Bytes(b"h".to_vec()), Bytes(vec![0xff])));
        assert_eq!(
            to_value(binary).unwrap(),
            json!({"key_base64": "/w==", "offset": 3, "ts_us": 7, "headers": {"a": "2", "b": "1"},
                   "headers_base64": {"aA==": "/w=="}, "value_base64": "/g=="})
        );
    }

    #[test]
    fn a_name_that_repeats_makes_headers_a_list() {
        let mut repeated = record(b"k", b"v");
        repeated.headers.push((Bytes(b"b".to_vec()), Bytes(b"3".to_vec())));
        assert_eq!(
            to_string(&repeated).unwrap(),
            r#"{"key":"k","offset":3,"ts_us":7,"headers":[["b","1"],["a","2"],["b","3"]],"value":"v"}"#
        );
        repeated.headers.push((Bytes(b"c".to_vec()), Bytes(vec![0xff])));
        let list = [["Yg==", "MQ=="], ["YQ==", "Mg=="], ["Yg==", "Mw=="], ["Yw==", "/w=="]];
        let value = to_value(repeated).unwrap();
        assert_eq!((&value["headers"], &value["headers_base64"]), (&json!([]), &json!(list)));
    }

    #[test]
    fn a_deletion_and_a_key_have_no_value() {
        let mut deletion = record(b"k", b"");
        deletion.headers.clear();
        deletion.tombstone = true;
        assert_eq!(to_string(&deletion).unwrap(), r#"{"key":"k","offset":3,"ts_us":7,"headers":{},"tombstone":true}"#);
        let mut key = record(b"k", b"");
        key.headers.clear();
        key.value = None;
        assert_eq!(to_string(&key).unwrap(), r#"{"key":"k","offset":3,"ts_us":7,"headers":{}}"#);
    }
}
