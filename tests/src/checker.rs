//! Acknowledged records against the log read back.
//!
//! Owns: what a correct outcome is: everything acknowledged stands at its offset, offsets are contiguous from 0, no value
//! stands twice, each writer's records are in the order it wrote them. Must never: need more than keys, offsets and values.
//!
//! Values are `WRITER#NUMBER` with numbers that rise within a writer, so that a value says whose it is and when.

use std::collections::{BTreeMap, HashMap, HashSet};

/// An acknowledged append of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The key.
    pub key: String,
    /// The offset the cluster answered.
    pub offset: u64,
    /// The value, unique over the whole test.
    pub value: String,
}

/// The final log: each key's records as read back, in the order read.
pub type FinalLog = BTreeMap<String, Vec<(u64, String)>>;

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An acknowledged record is nowhere.
    Lost(Ack),
    /// An acknowledged record stands at another offset of its key, or its place is taken.
    Moved(Ack, Option<String>),
    /// Two acknowledgements name the same place.
    PlaceGivenTwice(Ack),
    /// The offsets of a key are not 0, 1, 2, …: what stands at this position of the log read.
    Gap {
        /// The key.
        key: String,
        /// The offset that belongs there.
        expected: u64,
        /// The one that stands there.
        found: u64,
    },
    /// A value stands more than once.
    Doubled(String),
    /// A record of a writer stands after a later one of it.
    Disorder {
        /// The key.
        key: String,
        /// The later record, which stands first.
        first: String,
        /// The earlier record, which stands behind it.
        then: String,
    },
}

/// The value a writer gives its record of this number.
pub fn value(writer: usize, number: u64) -> String {
    format!("{writer}#{number}")
}

/// Everything that is wrong.
pub fn check(acks: &[Ack], log: &FinalLog) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut seen = HashSet::new();
    for (key, records) in log {
        let mut last: HashMap<&str, (u64, &str)> = HashMap::new();
        for (expected, (offset, value)) in (0u64..).zip(records) {
            if *offset != expected {
                faults.push(Fault::Gap { key: key.clone(), expected, found: *offset });
            }
            if !seen.insert(value.as_str()) {
                faults.push(Fault::Doubled(value.clone()));
            }
            let Some((writer, number)) = value.split_once('#') else { continue };
            let number: u64 = number.parse().expect("values are WRITER#NUMBER");
            if let Some((before, first)) = last.insert(writer, (number, value))
                && before > number
            {
                faults.push(Fault::Disorder { key: key.clone(), first: first.to_owned(), then: value.clone() });
            }
        }
    }
    let mut places = HashSet::new();
    for ack in acks {
        if !places.insert((&ack.key, ack.offset)) {
            faults.push(Fault::PlaceGivenTwice(ack.clone()));
        }
        let records = log.get(&ack.key).map_or(&[][..], Vec::as_slice);
        let at = usize::try_from(ack.offset).ok().and_then(|at| records.get(at));
        // Its place in a log without gaps; with gaps it has to be looked for.
        let at = at.filter(|(offset, _)| *offset == ack.offset);
        let there = at.or_else(|| records.iter().find(|(offset, _)| *offset == ack.offset)).map(|(_, value)| value);
        if there != Some(&ack.value) {
            faults.push(match seen.contains(ack.value.as_str()) {
                true => Fault::Moved(ack.clone(), there.cloned()),
                false => Fault::Lost(ack.clone()),
            });
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writers, two keys, 40 records, all acknowledged but one.
    fn history() -> (Vec<Ack>, FinalLog) {
        let (mut acks, mut log) = (Vec::new(), FinalLog::new());
        for number in 0..10 {
            for key in ["a", "b"] {
                for writer in [1, 2] {
                    // Numbers rise within a writer over all keys.
                    let value = value(writer, number * 2 + u64::from(key == "b"));
                    let records: &mut Vec<_> = log.entry(key.to_owned()).or_default();
                    let offset = records.len() as u64;
                    records.push((offset, value.clone()));
                    acks.push(Ack { key: key.to_owned(), offset, value });
                }
            }
        }
        // One whose outcome stayed unknown and that took place.
        acks.remove(17);
        (acks, log)
    }

    /// Numbers the records of a key anew.
    fn renumber(log: &mut FinalLog, key: &str) {
        for (offset, record) in (0..).zip(log.get_mut(key).unwrap()) {
            record.0 = offset;
        }
    }

    #[test]
    fn a_correct_log_passes_also_with_an_unknown_record() {
        let (acks, log) = history();
        assert_eq!(check(&acks, &log), []);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let (acks, mut log) = history();
        // The last record of a key: offsets alone would not tell.
        let (_, value) = log.get_mut("a").unwrap().pop().unwrap();
        let faults = check(&acks, &log);
        assert!(matches!(&faults[..], [Fault::Lost(ack)] if ack.value == value), "{faults:?}");
        // In the middle, closed up by what stands behind it.
        let (acks, mut log) = history();
        let (_, value) = log.get_mut("b").unwrap().remove(4);
        renumber(&mut log, "b");
        let faults = check(&acks, &log);
        assert!(faults.iter().any(|fault| matches!(fault, Fault::Lost(ack) if ack.value == value)), "{faults:?}");
        // And not closed up.
        let (acks, mut log) = history();
        log.get_mut("b").unwrap().remove(4);
        let gap = Fault::Gap { key: "b".into(), expected: 4, found: 5 };
        assert!(check(&acks, &log).contains(&gap));
        // A whole key.
        let (acks, mut log) = history();
        log.remove("a");
        assert!(check(&acks, &log).iter().all(|fault| matches!(fault, Fault::Lost(_))));
    }

    #[test]
    fn a_planted_double_is_found() {
        let (acks, mut log) = history();
        let records = log.get_mut("a").unwrap();
        let again = records[3].1.clone();
        records.push((records.len() as u64, again.clone()));
        assert!(check(&acks, &log).contains(&Fault::Doubled(again)));
        // In another key.
        let (acks, mut log) = history();
        let again = log["a"].last().unwrap().1.clone();
        let records = log.get_mut("b").unwrap();
        records.push((records.len() as u64, again.clone()));
        assert!(check(&acks, &log).contains(&Fault::Doubled(again)));
        // One place promised to two.
        let (mut acks, log) = history();
        acks.push(Ack { value: value(3, 0), ..acks[0].clone() });
        assert!(check(&acks, &log).contains(&Fault::PlaceGivenTwice(acks.last().unwrap().clone())));
    }

    #[test]
    fn a_planted_disorder_is_found() {
        let (_, mut log) = history();
        let records = log.get_mut("a").unwrap();
        // Records 4 and 6 are of one writer. No acknowledgement is needed to see it.
        records.swap(4, 6);
        renumber(&mut log, "a");
        let faults = check(&[], &log);
        let disorder = Fault::Disorder { key: "a".into(), first: value(1, 6), then: value(1, 4) };
        assert_eq!(faults, [disorder]);
        // With them, the acknowledged places are seen to be taken.
        let (acks, _) = history();
        assert!(
            check(&acks, &log).iter().any(|fault| matches!(fault, Fault::Moved(ack, _) if ack.value == value(1, 4)))
        );
    }
}
