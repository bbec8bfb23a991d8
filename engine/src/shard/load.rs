//! What is counted of a shard's requests.
//!
//! Owns: which of them count as how many operations, and with how many bytes. Must never: count a request that was refused, or allocate
//! for one that is not sampled.

use super::Shard;
use crate::codec::record::Record;
use crate::command::{Op, WriteRequest};
use crate::host::{Answer, KeyedRecord, LoadReport, Read};
use crate::load::{Load, Work};
use bytes::Bytes;
use synod_cluster::system::Descriptor;
use synod_paxos::types::Micros;

/// Counts a write that is taken: each of its operations.
pub(super) fn count_write(load: &mut Load, now: Micros, of: &Descriptor, write: &WriteRequest) {
    match &write.op {
        Op::System(command) => load.wrote(now, command.len(), Bytes::new),
        Op::Write { ops, .. } => {
            for op in ops {
                load.wrote(now, op.size(), || position(of, &op.key));
            }
        }
    }
}

/// Counts a read that was answered. A scan is sampled at the first record that it gives; a tail is not, since its records were sampled
/// where they were written.
pub(super) fn count_read(load: &mut Load, now: Micros, of: &Descriptor, read: &Read, answer: &Answer) {
    let bytes = answer_bytes(answer);
    let first = match (read, answer) {
        (Read::Get { key, .. } | Read::Range { key, .. }, _) => Some(key),
        (Read::Scan(_), Answer::Page { records, .. }) => records.first().map(|record| &record.key),
        (Read::Scan(_) | Read::Tail(_), _) => None,
    };
    match first {
        Some(key) => load.read(now, bytes, || position(of, key)),
        None => load.read_many(now, bytes),
    }
}

/// Counts a tail that was answered after it had waited.
pub(super) fn count_tail(load: &mut Load, now: Micros, answer: &Answer) {
    load.read_many(now, answer_bytes(answer));
}

fn position(of: &Descriptor, key: &Bytes) -> Bytes {
    // A copy: what is sampled must not hold the frame in memory that it came with.
    Bytes::copy_from_slice(&of.partitioning.position(key))
}

fn answer_bytes(answer: &Answer) -> usize {
    let of = |record: &KeyedRecord| record.key.len() + record_bytes(&record.record);
    match answer {
        Answer::Record { record, .. } => record.as_ref().map_or(0, of),
        Answer::Page { records, .. } | Answer::Tail { records, .. } => records.iter().map(of).sum(),
        Answer::Outcome(_) | Answer::TailScan { .. } => 0,
    }
}

fn record_bytes(record: &Record) -> usize {
    record.value.len() + record.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

impl Shard {
    /// The rates by now, and the greatest of five minutes.
    pub(crate) fn rates(&mut self, now: Micros) -> (Work, Work) {
        self.load.rates(now)
    }

    /// The load by now, with the positions that were sampled most.
    pub(crate) fn load_report(&mut self, now: Micros) -> LoadReport {
        let report = self.load.report(now);
        self.of_its_own(report)
    }

    /// The same with all positions that were sampled.
    pub(crate) fn load_report_all(&mut self, now: Micros) -> LoadReport {
        let report = self.load.report_all(now);
        self.of_its_own(report)
    }

    /// Without positions that a split took away since they were sampled.
    fn of_its_own(&self, mut report: LoadReport) -> LoadReport {
        let of = self.state.descriptor();
        report.sampled.retain(|sampled| synod_cluster::position::within(&sampled.at, &of.from, &of.to));
        report
    }
}
