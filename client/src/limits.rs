//! The limits on what can be written, checked before anything is sent.
//!
//! Owns: the client's copy of the limits and the words of their errors. Must never: be taken for the authority; the
//! server checks the same again with its own settings, and its answer counts.

use crate::error::{Error, Result};
use crate::types::{NewRecord, OpKind, Partitioning, TableSpec, WriteOp};

/// Most bytes of a key; not a knob, the storage formats count on it.
pub const MAX_KEY_BYTES: usize = 4096;
/// Most bytes of a value unless set otherwise.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 1 << 20;
/// Most bytes of a value that can be set.
pub const CEILING_MAX_VALUE_BYTES: usize = 16 << 20;
/// Most records of a write unless set otherwise; a deletion or trim counts as one.
pub const DEFAULT_MAX_BATCH_RECORDS: usize = 10_000;
/// Most bytes of a write unless set otherwise: keys, values and headers.
pub const DEFAULT_MAX_BATCH_BYTES: usize = 4 << 20;
/// Most bytes of a table's name.
pub const MAX_TABLE_NAME_BYTES: usize = 64;
/// Most shards a table is created with.
pub const MAX_SHARDS: u32 = 4096;
/// Furthest ahead a write's deadline may lie, in seconds.
pub const MAX_DEADLINE_S: u64 = 600;

/// The limits that are knobs of the server; the client's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a value with its headers: `limits.value_bytes_max`.
    pub max_value_bytes: usize,
    /// Most records of a write: `limits.batch_records_max`.
    pub max_batch_records: usize,
    /// Most bytes of a write: `limits.batch_bytes_max`.
    pub max_batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            max_batch_records: DEFAULT_MAX_BATCH_RECORDS,
            max_batch_bytes: DEFAULT_MAX_BATCH_BYTES,
        }
    }
}

fn too_large(what: &str, limit: usize, knob: &str) -> Error {
    Error::TooLarge { what: what.into(), limit: limit as u64, knob: knob.into() }
}

/// A key has 1 to [`MAX_KEY_BYTES`] bytes.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("key", format!("is empty; a key has 1 to {MAX_KEY_BYTES} bytes")));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(too_large("the key", MAX_KEY_BYTES, "fixed"));
    }
    Ok(())
}

/// A table's name: 1 to [`MAX_TABLE_NAME_BYTES`] of `a-z A-Z 0-9 _ - .`, the first a letter or digit.
pub fn check_table_name(name: &str) -> Result<()> {
    let bad = |why: String| Err(Error::invalid("table", why));
    if name.is_empty() {
        return bad("a table's name has at least 1 character".into());
    }
    if name.len() > MAX_TABLE_NAME_BYTES {
        return bad(format!("a table's name has at most {MAX_TABLE_NAME_BYTES} bytes, not {}", name.len()));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad(format!("{name:?} does not start with a letter or digit"));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))) {
        Some(c) => bad(format!("{name:?} holds {c:?}; allowed are letters, digits, '_', '-' and '.'")),
        None => Ok(()),
    }
}

/// What a new table must satisfy: its name, at least one shard, split points sorted and distinct.
pub fn check_table(spec: &TableSpec) -> Result<()> {
    check_table_name(&spec.name)?;
    match &spec.partitioning {
        Partitioning::Hash { shards: 0 } => Err(Error::invalid("shards", "a table has at least 1 shard")),
        Partitioning::Hash { shards } if *shards > MAX_SHARDS => {
            Err(Error::invalid("shards", format!("a table is created with at most {MAX_SHARDS} shards, not {shards}")))
        }
        Partitioning::Hash { .. } => Ok(()),
        Partitioning::Range { split_at } => {
            if split_at.len() >= MAX_SHARDS as usize {
                let why =
                    format!("a table is created with at most {} split points, not {}", MAX_SHARDS - 1, split_at.len());
                return Err(Error::invalid("split_at", why));
            }
            for point in split_at {
                check_key(point).map_err(|e| match e {
                    Error::InvalidArgument { .. } => Error::invalid("split_at", "a split point has at least 1 byte"),
                    other => other,
                })?;
            }
            for pair in split_at.windows(2) {
                if pair[0] == pair[1] {
                    return Err(Error::invalid("split_at", format!("the split point {:?} is repeated", pair[0])));
                }
                if pair[0] > pair[1] {
                    let why = format!("the split points are not sorted: {:?} comes before {:?}", pair[0], pair[1]);
                    return Err(Error::invalid("split_at", why));
                }
            }
            Ok(())
        }
    }
}

impl Limits {
    /// Checks a write: at least one operation, each with a good key and at least one record, all within the limits.
    pub fn check_write(&self, ops: &[WriteOp]) -> Result<()> {
        if ops.is_empty() {
            return Err(Error::invalid("ops", "a write has at least one operation"));
        }
        let (mut bytes, mut count) = (0, 0);
        for op in ops {
            check_key(&op.key)?;
            bytes += op.key.len();
            match &op.kind {
                OpKind::Append(records) if records.is_empty() => {
                    return Err(Error::invalid("records", "an append has at least one record"));
                }
                OpKind::Append(records) => {
                    count += records.len();
                    for record in records {
                        bytes += self.check_record(record)?;
                    }
                }
                OpKind::Delete | OpKind::Trim { .. } => count += 1,
            }
        }
        if count > self.max_batch_records {
            return Err(too_large("records", self.max_batch_records, "limits.batch_records_max"));
        }
        if bytes > self.max_batch_bytes {
            return Err(too_large("the batch", self.max_batch_bytes, "limits.batch_bytes_max"));
        }
        Ok(())
    }

    fn check_record(&self, record: &NewRecord) -> Result<usize> {
        let headers: usize = record.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
        let bytes = record.value.len() + headers;
        if bytes > self.max_value_bytes {
            return Err(too_large("the value with its headers", self.max_value_bytes, "limits.value_bytes_max"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::Retention;

    #[test]
    fn keys() {
        assert_eq!(check_key(b"").unwrap_err().code(), "invalid_argument");
        assert!(check_key(&[0; MAX_KEY_BYTES]).is_ok());
        assert_eq!(check_key(&[0; MAX_KEY_BYTES + 1]).unwrap_err().code(), "too_large");
    }

    #[test]
    fn names() {
        for good in ["a", "A-b_c.9", "0x"] {
            assert!(check_table_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(check_table_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables() {
        let hash = |shards| TableSpec {
            partitioning: Partitioning::Hash { shards },
            ..TableSpec::hash("t", 1, Retention::All)
        };
        assert!(check_table(&hash(4)).is_ok());
        assert!(check_table(&hash(0)).is_err());
        let range = |points: &[&'static str]| {
            TableSpec::range("t", points.iter().map(|p| Bytes::from_static(p.as_bytes())).collect(), Retention::Latest)
        };
        assert!(check_table(&range(&[])).is_ok());
        assert!(check_table(&range(&["a", "b"])).is_ok());
        assert!(check_table(&range(&["b", "a"])).unwrap_err().to_string().contains("not sorted"));
        assert!(check_table(&range(&["a", "a"])).unwrap_err().to_string().contains("repeated"));
        assert!(check_table(&range(&[""])).is_err());
    }

    #[test]
    fn writes() {
        let limits = Limits::default();
        assert!(limits.check_write(&[]).is_err());
        assert!(limits.check_write(&[WriteOp::append("k", vec![])]).is_err());
        let big = WriteOp::put("k", vec![0u8; DEFAULT_MAX_VALUE_BYTES + 1]);
        let error = limits.check_write(&[big]).unwrap_err();
        assert!(error.to_string().contains("limits.value_bytes_max"), "{error}");
        let many: Vec<_> = (0..5).map(|_| WriteOp::put("k", vec![0u8; DEFAULT_MAX_VALUE_BYTES])).collect();
        assert!(limits.check_write(&many).unwrap_err().to_string().contains("limits.batch_bytes_max"));
    }
}
