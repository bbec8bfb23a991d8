//! The repeats of each cell put together.
//!
//! Owns: medians and spreads. Must never: count a cell that did not end in order; it says how many those were.

use serde::Serialize;

use crate::measure::{End, Figures, Measured};
use crate::plan::{Cell, Load};
use crate::systems::System;

/// Median, least and greatest of some repeats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the lower of the two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these, unless there is none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Spread { median: values[(values.len() - 1) / 2], min, max })
    }
}

/// One cell on one system, over all repeats.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// On what.
    pub system: System,
    /// What.
    pub cell: Cell,
    /// Its name.
    pub name: String,
    /// Repeats that ended in order.
    pub repeats: usize,
    /// Records a second for appends, operations a second for the rest.
    pub rate: Option<Spread>,
    /// Percentiles in microseconds.
    pub p50_us: Option<Spread>,
    /// 99 %.
    pub p99_us: Option<Spread>,
    /// 99.9 %.
    pub p99_9_us: Option<Spread>,
    /// 99.99 %.
    pub p99_99_us: Option<Spread>,
    /// The slowest.
    pub max_us: Option<Spread>,
    /// Processor time of the servers, microseconds an operation.
    pub servers_cpu_us: Option<Spread>,
    /// Processor time of the client, microseconds an operation.
    pub client_cpu_us: Option<Spread>,
    /// Bytes written for each byte of a user's value.
    pub written_per_byte: Option<Spread>,
    /// Synced writes a second, all servers together.
    pub fsyncs_per_s: Option<Spread>,
    /// Operations for each synced write of one server.
    pub ops_per_fsync: Option<Spread>,
    /// How much faster Synod was: its median rate divided by this one's.
    pub synod_is: Option<f64>,
    /// Repeats that did not keep up with an open loop's rate: what was offered, and of what.
    pub behind: Vec<String>,
    /// Operations that failed, in all repeats.
    pub failed: u64,
    /// How repeats ended that did not end in order.
    pub marked: Vec<String>,
    /// The curve of the repeat with the middle rate.
    #[serde(skip)]
    pub curve: Vec<(f64, u64)>,
}

/// The rate that is compared.
#[must_use]
pub fn rate(cell: &Cell, figures: &Figures) -> f64 {
    if cell.appends() { figures.records_per_s } else { figures.ops_per_s }
}

/// Every cell on every system, in the order in which they were first measured.
#[must_use]
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut cells: Vec<&Cell> = Vec::new();
    let mut systems: Vec<System> = measured.iter().map(|m| m.system).collect();
    systems.sort();
    systems.dedup();
    for m in measured {
        if !cells.contains(&&m.cell) {
            cells.push(&m.cell);
        }
    }
    let mut rows = Vec::new();
    for cell in cells {
        let first = rows.len();
        for system in &systems {
            let all: Vec<&Measured> = measured.iter().filter(|m| m.system == *system && m.cell == *cell).collect();
            if !all.is_empty() {
                rows.push(row(*system, cell, &all));
            }
        }
        let synod = rows[first..].iter().find(|r| r.system == System::Synod).and_then(|r| r.rate);
        for row in &mut rows[first..] {
            row.synod_is = times(synod, row.rate);
        }
    }
    rows
}

fn row(system: System, cell: &Cell, all: &[&Measured]) -> Row {
    let sound: Vec<&Figures> = all.iter().filter_map(|m| m.sound()).collect();
    let spread = |pick: &dyn Fn(&Figures) -> f64| Spread::of(sound.iter().map(|f| pick(f)));
    let some = |pick: &dyn Fn(&Figures) -> Option<f64>| Spread::of(sound.iter().filter_map(|f| pick(f)));
    let rates = spread(&|f| rate(cell, f));
    let middle = sound.iter().find(|f| rates.is_some_and(|r| r.median == rate(cell, f)));
    let behind = |f: &&Figures| {
        let o = f.offered.as_ref().filter(|o| !o.kept_up)?;
        Some(format!(
            "{:.0}/s offered of {:.0}/s asked for, {} arrivals never sent",
            o.offered_per_s, o.rate_per_s, o.missed
        ))
    };
    let marked = all.iter().filter_map(|m| match &m.end {
        End::Done => None,
        End::Partial { why } => Some(format!("repeat {}, partial: {why}", m.repeat)),
        End::Failed { why } => Some(format!("repeat {}, failed: {why}", m.repeat)),
    });
    Row {
        system,
        cell: cell.clone(),
        name: cell.name(),
        repeats: sound.len(),
        rate: rates,
        p50_us: spread(&|f| f.p50_us as f64),
        p99_us: spread(&|f| f.p99_us as f64),
        p99_9_us: spread(&|f| f.p99_9_us as f64),
        p99_99_us: spread(&|f| f.p99_99_us as f64),
        max_us: spread(&|f| f.max_us as f64),
        servers_cpu_us: spread(&|f| f.cost.servers_us),
        client_cpu_us: spread(&|f| f.cost.client_us),
        written_per_byte: some(&|f| f.cost.written_per_byte),
        fsyncs_per_s: some(&|f| f.cost.fsyncs_per_s),
        ops_per_fsync: some(&|f| f.cost.ops_per_fsync),
        synod_is: None,
        behind: sound.iter().filter_map(behind).collect(),
        failed: sound.iter().map(|f| f.errors.values().sum::<u64>()).sum(),
        marked: marked.collect(),
        curve: middle.map(|f| f.curve.clone()).unwrap_or_default(),
    }
}

/// How many times as fast `rate` is as `other`.
#[must_use]
pub fn times(rate: Option<Spread>, other: Option<Spread>) -> Option<f64> {
    Some(rate?.median / other?.median)
}

/// Whether a cell's rate is what was measured, not what was asked for.
#[must_use]
pub fn closed(cell: &Cell) -> bool {
    cell.load == Load::Closed
}

/// The rows of one load on tables of several numbers of shards, if there are any.
#[must_use]
pub fn scaling(rows: &[Row]) -> Vec<&Row> {
    let Some(many) = rows.iter().find(|row| row.cell.shards.is_some_and(|n| n > 1)) else { return Vec::new() };
    let alike = |row: &&Row| {
        row.cell.shards.is_some() && (&row.cell.work, row.cell.clients) == (&many.cell.work, many.cell.clients)
    };
    rows.iter().filter(alike).collect()
}

/// What Synod did on one shard beside what each system did of the same load on what it is run with.
#[must_use]
pub fn on_one_shard(rows: &[Row]) -> Vec<(&Row, Vec<&Row>)> {
    let ones = rows.iter().filter(|row| row.system == System::Synod && row.cell.shards == Some(1));
    let beside = |one: &Row| {
        let plain = Cell { shards: None, ..one.cell.clone() };
        rows.iter().filter(|row| row.cell == plain).collect::<Vec<_>>()
    };
    ones.map(|one| (one, beside(one))).filter(|(_, others)| !others.is_empty()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::{Cost, Offered};
    use std::collections::BTreeMap;

    pub(crate) fn measured(system: System, repeat: u32, ops_per_s: f64, end: End) -> Measured {
        let offered = Offered { rate_per_s: 100.0, offered_per_s: 99.0, missed: 5, kept_up: false };
        let figures = Figures {
            ops_per_s,
            records_per_s: ops_per_s,
            p50_us: 1000,
            p99_us: 5000,
            p99_9_us: 9000,
            p99_99_us: 9500,
            max_us: 9999,
            errors: BTreeMap::from([("timeout".into(), 2)]),
            offered: Some(offered),
            curve: (0..=16).map(|n| (1.0 - 10f64.powf(-f64::from(n) / 8.0), 500 + 400 * n as u64)).collect(),
            cost: Cost { servers_us: 50.0, client_us: 10.0, ..Cost::default() },
        };
        Measured { system, cell: Cell::closed("put", 64, 256), repeat, end, figures: Some(figures) }
    }

    #[test]
    fn a_row_is_the_median_of_what_ended_in_order() {
        let all = [
            measured(System::Synod, 1, 900.0, End::Done),
            measured(System::Etcd, 1, 100.0, End::Done),
            measured(System::Synod, 2, 1000.0, End::Done),
            measured(System::Synod, 3, 1100.0, End::Done),
            measured(System::Synod, 4, 1.0, End::Partial { why: "synod node 2 ended".into() }),
        ];
        let rows = rows(&all);
        assert_eq!(rows.len(), 2);
        let synod = &rows[0];
        assert_eq!((synod.repeats, synod.rate), (3, Some(Spread { median: 1000.0, min: 900.0, max: 1100.0 })));
        assert_eq!(synod.marked, ["repeat 4, partial: synod node 2 ended"]);
        assert_eq!(synod.failed, 6);
        assert_eq!(rows[1].synod_is, Some(10.0));
        assert_eq!(rows[1].behind, ["99/s offered of 100/s asked for, 5 arrivals never sent"]);
    }

    #[test]
    fn one_shard_is_put_beside_the_others() {
        let on = |shards: Option<u32>, system: System, ops_per_s: f64| {
            let m = measured(system, 1, ops_per_s, End::Done);
            Measured { cell: Cell { shards, ..m.cell.clone() }, ..m }
        };
        let all = [
            on(None, System::Synod, 900.0),
            on(None, System::Etcd, 100.0),
            on(Some(1), System::Synod, 1000.0),
            on(Some(4), System::Synod, 800.0),
        ];
        let rows = rows(&all);
        let scaling: Vec<Option<u32>> = scaling(&rows).iter().map(|row| row.cell.shards).collect();
        assert_eq!(scaling, [Some(1), Some(4)]);
        let found = on_one_shard(&rows);
        let [(one, others)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(one.cell.shards, Some(1));
        assert_eq!(others.iter().map(|row| row.system).collect::<Vec<_>>(), [System::Synod, System::Etcd]);
        assert!(on_one_shard(&rows[..2]).is_empty() && super::scaling(&rows[..3]).is_empty());
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
    }
}
