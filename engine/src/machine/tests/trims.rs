//! Trims: what they leave, and what they cost.

use super::bench::{Bench, Counting, TABLE, append, delete, op};
use crate::codec::keys;
use crate::codec::record::{Newest, Record};
use crate::command::{Action, Expect, KeyOp, Op, Outcome, RowFormat};
use crate::machine::{Wanted, rows};
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::ids::{Offset, Space};
use synod_cluster::system::{Partitioning, Retention};

#[test]
fn trim_drops_records_and_their_bytes() {
    let mut b = Bench::new(Partitioning::Range, Retention::All);
    b.write(1, vec![append("k", &["1", "22", "333"])]).unwrap();
    // One entry that appends and trims what it appended and what was there.
    let ops = vec![append("k", &["4444"]), op("k", Expect::Any, Action::Trim(Offset(2)))];
    let Ok(Outcome::Written(results)) = b.write(2, ops) else { panic!() };
    assert_eq!(results[1].offset, Offset(2));
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next, head.bytes), (Offset(2), Offset(4), 7));
    assert_eq!(b.offset(3, vec![op("k", Expect::Any, Action::Trim(Offset(1)))]), 2);
    assert_eq!(b.offset(4, vec![op("k", Expect::Any, Action::Trim(Offset(99)))]), 4);
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.next, head.bytes, head.newest), (Offset(4), Offset(4), 0, Newest::None));
    assert_eq!(b.offset(5, vec![append("k", &["5"])]), 4);

    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    b.write(1, vec![append("k", &["1", "22"])]).unwrap();
    assert_eq!(b.offset(2, vec![op("k", Expect::Any, Action::Trim(Offset(1)))]), 1);
    assert!(matches!(b.head("k").unwrap().newest, Newest::Inline(_)));
    assert_eq!(b.offset(3, vec![op("k", Expect::Any, Action::Trim(Offset(2)))]), 2);
    assert_eq!(b.head("k").unwrap().newest, Newest::None);
}

/// Everything a space holds of one key's history, as (offset, size).
fn history(b: &mut Bench, key: &str) -> Vec<(u64, u64)> {
    let d = b.state.descriptor().clone();
    let hash = d.partitioning.hash_of(key.as_bytes());
    let (from, to) = keys::history_bounds(Space(2), d.table, hash, key.as_bytes(), Offset(0));
    let mut found = vec![];
    b.store
        .scan(&from, &to, false, &mut |row, value| {
            let record = Record::decode(Bytes::copy_from_slice(value)).unwrap();
            found.push((rows::history_offset(row).0, rows::record_size(&record)));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

impl Bench {
    /// Applies one write; returns how many rows were read for it, in all and at the most in one step.
    pub(super) fn reads_of(&mut self, ts: u64, ops: Vec<KeyOp>) -> (u64, u64) {
        let slot = self.state.applied().next();
        let entry = self.entry_in(slot, ts, Op::Write { table: TABLE, ops });
        let (mut all, mut most) = (0, 0);
        loop {
            let mut store = Counting::new(&mut self.store);
            let ready = self.state.prepare(&mut store, &entry).unwrap();
            (all, most) = (all + store.rows, most.max(store.rows));
            if ready {
                break;
            }
        }
        let mut store = Counting::new(&mut self.store);
        let _ = self.state.apply(&mut store, &mut self.overlay, &entry, Wanted::Nothing).unwrap();
        (all + store.rows, most.max(store.rows))
    }
}

#[test]
fn a_trim_with_totals_reads_a_row_or_two() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.format = RowFormat::Totals;
    let value = "v".repeat(10);
    for n in 0..200 {
        b.write(n + 1, vec![append("k", &[value.as_str(); 100])]).unwrap();
    }
    for (ts, before) in [(300, 10), (301, 7_000), (302, 13_000), (303, 19_999)] {
        let (all, _) = b.reads_of(ts, vec![op("k", Expect::Any, Action::Trim(Offset(before)))]);
        assert!(all <= 4, "{all} rows read for the trim below {before}");
        let head = b.head("k").unwrap();
        assert_eq!((head.first, head.bytes), (Offset(before), 10 * (20_000 - before)));
        assert_eq!(history(&mut b, "k").len() as u64, 20_000 - before);
    }
    let (all, _) = b.reads_of(400, vec![op("k", Expect::Any, Action::Trim(Offset(20_000)))]);
    assert!(all <= 4 && history(&mut b, "k").is_empty());
}

#[test]
fn a_trim_without_totals_adds_up_the_fewer_rows_a_step_at_a_time() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    for n in 0..200 {
        b.write(n + 1, vec![append("k", &["12345"; 100])]).unwrap();
    }
    let trim = |before| vec![op("k", Expect::Any, Action::Trim(Offset(before)))];
    let (all, most) = b.reads_of(300, trim(9_000));
    assert!((9_000..9_010).contains(&all) && most < 2_100, "{all} rows read, {most} in one step");
    let (all, _) = b.reads_of(301, trim(19_990));
    assert!(all < 20, "{all} rows read to leave ten");
    let head = b.head("k").unwrap();
    assert_eq!((head.first, head.bytes, history(&mut b, "k").len()), (Offset(19_990), 50, 10));
    // Rows from before the totals, and rows with them.
    b.format = RowFormat::Totals;
    for n in 0..100 {
        b.write(400 + n, vec![append("k", &["123"; 100])]).unwrap();
    }
    assert_eq!(b.head("k").unwrap().bytes, 50 + 30_000);
    let (all, _) = b.reads_of(600, trim(19_995));
    assert!(all < 15 && b.head("k").unwrap().bytes == 25 + 30_000, "{all}");
    let (all, _) = b.reads_of(601, trim(25_000));
    assert!(all <= 4 && b.head("k").unwrap().bytes == 3 * 5_000, "{all}");
}

/// Whatever was written before and with which rows: `bytes` is what the records that are left come to, and no other row is.
#[test]
fn bytes_stay_exact_and_no_row_is_left_below_the_first_offset() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..60 {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let retention = if seed % 4 == 0 { Retention::Latest } else { Retention::All };
        let mut b = Bench::new(Partitioning::Range, retention);
        let mut sizes: std::collections::BTreeMap<String, (usize, Vec<u64>)> = std::collections::BTreeMap::new();
        for step in 0..150u64 {
            // From some step on entries have totals, but for one now and then of a leader that does not know yet.
            let totals = step > 40 + seed && !rng.random_ratio(1, 10);
            b.format = if totals { RowFormat::Totals } else { RowFormat::Plain };
            b.prepares = rng.random();
            let mut after = sizes.clone();
            let ops: Vec<KeyOp> = (0..rng.random_range(1..5))
                .map(|_| {
                    let name = format!("k{}", rng.random_range(0..3));
                    let (first, sizes) = after.entry(name.clone()).or_default();
                    match rng.random_range(0..6) {
                        0 => {
                            let before = rng.random_range(0..sizes.len() as u64 + 3);
                            *first = (before as usize).clamp(*first, sizes.len());
                            return op(&name, Expect::Any, Action::Trim(Offset(before)));
                        }
                        1 => {
                            sizes.push(0);
                            if retention == Retention::Latest {
                                *first = sizes.len() - 1;
                            }
                            return delete(&name);
                        }
                        _ => {}
                    }
                    let values: Vec<String> =
                        (0..rng.random_range(1..90)).map(|_| "x".repeat(rng.random_range(0..30))).collect();
                    sizes.extend(values.iter().map(|value| value.len() as u64));
                    if retention == Retention::Latest {
                        *first = sizes.len() - 1;
                    }
                    append(&name, &values.iter().map(String::as_str).collect::<Vec<_>>())
                })
                .collect();
            if rng.random_ratio(1, 8) {
                let failing = op("k0", Expect::Next(Offset(u64::MAX)), Action::Delete);
                b.write(step + 1, [ops, vec![failing]].concat()).unwrap();
            } else {
                b.write(step + 1, ops).unwrap();
                sizes = after;
            }
            for (name, (first, sizes)) in &sizes {
                let head = b.head(name).unwrap_or_default();
                let left = &sizes[*first..];
                let expected = (Offset(*first as u64), Offset(sizes.len() as u64), left.iter().sum::<u64>());
                assert_eq!((head.first, head.next, head.bytes), expected, "seed {seed} step {step} {name}");
                if retention == Retention::All {
                    let rows: Vec<(u64, u64)> = (*first as u64..).zip(left.iter().copied()).collect();
                    assert_eq!(history(&mut b, name), rows, "seed {seed} step {step} {name}");
                }
            }
        }
    }
}
