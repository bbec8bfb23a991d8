//! What was really written, by the entries that were chosen.
//!
//! Owns: the records of each key, and the rules that they obey. Must never: take an answer's word for anything.

use crate::group::value_of;
use crate::keys::{KEYS, Keys};
use crate::violation::{Check, Violation, ensure};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use synod_engine::command::{Op, OpResult, WriteRequest};
use synod_engine::host::KeyedRecord;

/// Who wrote a record: the index of the client, and the number of its write.
pub(crate) type Name = (usize, u64);

/// The truth of one schedule.
#[derive(Default)]
pub(crate) struct Truth {
    /// By key: the name and the timestamp of each record.
    records: Vec<Vec<(Name, u64)>>,
    executed: BTreeSet<Name>,
    failed: BTreeSet<Name>,
    /// By key: so many records are known to somebody as written.
    acked: Vec<usize>,
    /// Values of the records that were written.
    values: BTreeMap<Name, Bytes>,
}

impl Truth {
    /// Nothing is written.
    pub(crate) fn new() -> Self {
        Self { records: vec![Vec::new(); KEYS], acked: vec![0; KEYS], ..Self::default() }
    }

    /// Records of a key.
    pub(crate) fn count(&self, key: usize) -> usize {
        self.records[key].len()
    }

    /// All records of a key are known to somebody.
    pub(crate) fn overtake(&mut self, key: usize) {
        self.acked[key] = self.count(key);
    }

    /// Whether a write was executed.
    pub(crate) fn is_executed(&self, name: Name) -> bool {
        self.executed.contains(&name)
    }

    /// Records of each of these keys that a read must show from now on.
    pub(crate) fn acked(&self, keys: Range<usize>) -> Vec<usize> {
        self.acked[keys].to_vec()
    }

    /// A write was executed just now, by a chosen entry.
    pub(crate) fn executed(&mut self, name: Name, request: &WriteRequest, keys: &Keys, results: &[OpResult]) -> Check {
        ensure!(self.executed.insert(name), "write {name:?} is executed twice");
        ensure!(!self.failed.contains(&name), "write {name:?} is executed although it was reported as not executed");
        let Op::Write { ops, .. } = &request.op else { return Ok(()) };
        self.values.insert(name, value_of(name.0, name.1));
        for (op, result) in ops.iter().zip(results) {
            let Some(key) = keys.index(&op.key) else { return Err(Violation("a key that nobody wrote".into())) };
            let records = &mut self.records[key];
            let (offset, ts) = (result.offset.0, result.ts_us);
            ensure!(
                offset == records.len() as u64,
                "write {name:?} gets offset {offset} of key {key}, which has {} records",
                records.len()
            );
            if let Some((_, last)) = records.last() {
                ensure!(*last < ts, "the timestamp of key {key} goes from {last} to {ts}");
            }
            records.push((name, ts));
        }
        Ok(())
    }

    /// A write was reported as not executed.
    pub(crate) fn failed(&mut self, name: Name) -> Check {
        ensure!(!self.executed.contains(&name), "write {name:?} is reported as not executed, and it was executed");
        self.failed.insert(name);
        Ok(())
    }

    /// A write was acknowledged.
    pub(crate) fn acknowledged(&mut self, name: Name, written: &[usize], results: &[OpResult]) -> Check {
        for (key, result) in written.iter().zip(results) {
            let at = result.offset.0 as usize;
            let found = self.records[*key].get(at);
            ensure!(
                found == Some(&(name, result.ts_us)),
                "write {name:?} is acknowledged at offset {at} of key {key}, which has {found:?}"
            );
            self.acked[*key] = self.acked[*key].max(at + 1);
        }
        Ok(())
    }

    /// Somebody was shown a record of a key.
    pub(crate) fn shown(&self, key: usize, found: &KeyedRecord) -> Check {
        let at = found.offset.0 as usize;
        let Some((name, ts)) = self.records[key].get(at) else {
            return Err(Violation(format!("record {at} of key {key} is shown, and was never written")));
        };
        let (ts, value) = (*ts, self.values.get(name));
        ensure!(
            found.record.ts_us == ts && Some(&found.record.value) == value,
            "record {at} of key {key} is shown with {:?} at {}, and {name:?} wrote it at {ts}",
            found.record.value,
            found.record.ts_us
        );
        Ok(())
    }

    /// A read of a key showed all these records, in order; at least `need` were known before it came.
    pub(crate) fn read(&mut self, key: usize, found: &[KeyedRecord], need: usize) -> Check {
        ensure!(found.len() >= need, "a read of key {key} shows {} records, {need} were acknowledged", found.len());
        for (at, record) in found.iter().enumerate() {
            ensure!(record.offset.0 == at as u64, "a read of key {key} lacks record {at}");
            self.shown(key, record)?;
        }
        self.acked[key] = self.acked[key].max(found.len());
        Ok(())
    }
}
