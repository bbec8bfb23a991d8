//! What a run found.
//!
//! Owns: the figures, their names with units, and the table a person reads. Must never: leave out what did not succeed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Rows of the table of threads that a person reads.
const THREADS_SHOWN: usize = 6;

/// Latencies of successful operations, in microseconds; in an open loop from the intended time of sending.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half are no slower.
    pub p50_us: u64,
    /// 90 % are no slower.
    pub p90_us: u64,
    /// 99 % are no slower.
    pub p99_us: u64,
    /// 99.9 % are no slower.
    pub p99_9_us: u64,
    /// 99.99 % are no slower.
    pub p99_99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// The longest time without a success, from one to the next, whichever callers they are of. It is exact from 10 ms on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// How long, µs.
    pub longest_gap_us: u64,
    /// The second in which it began, from 0.
    pub longest_gap_second: u64,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Second {
    /// Which, from 0.
    pub second: u64,
    /// Operations that succeeded in it.
    pub ops: u64,
    /// Operations that failed in it.
    pub errors: u64,
    /// 99 % of those that succeeded in it were no slower, within a tenth; from the intended time of sending in an open loop.
    pub p99_us: u64,
    /// The slowest that succeeded in it.
    pub max_us: u64,
}

/// What an open loop offered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OpenLoop {
    /// The rate asked for.
    pub rate_per_s: f64,
    /// Arrivals, warm-up not counted.
    pub offered: u64,
    /// Arrivals a second.
    pub offered_per_s: f64,
    /// Arrivals that were never sent: the callers were busy until the end, or too many were waiting.
    pub missed: u64,
    /// Whether all arrivals were sent and answered.
    pub kept_up: bool,
    /// How late half of the arrivals were handed to a caller, at most.
    pub lag_p50_us: u64,
    /// How late 99 % of the arrivals were handed to a caller, at most.
    pub lag_p99_us: u64,
}

/// What one thread of a server spent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadLoad {
    /// The node.
    pub node: u64,
    /// The thread's name there.
    pub thread: String,
    /// Processor time, µs, for each operation of the run that succeeded, whichever node it went to.
    pub us_per_op: f64,
    /// Cores: processor time for each second of the run.
    pub busy: f64,
}

/// What a run found. The latency's names stand beside the others in JSON: `p50_us`, `p99_us`, …
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `put`, `get`, `append` or `mixed`.
    pub workload: &'static str,
    /// The table.
    pub table: String,
    /// `closed` or `open`.
    pub pace: &'static str,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Records of an append.
    pub batch: u32,
    /// Keys.
    pub keys: u64,
    /// `uniform` or `zipfian`.
    pub distribution: &'static str,
    /// Client instances.
    pub connections: usize,
    /// Callers.
    pub clients: usize,
    /// Operations under way a caller, at most.
    pub outstanding: usize,
    /// From the end of the warm-up to the last answer.
    pub elapsed_s: f64,
    /// It was ended before its time: everything is of what was measured until then.
    pub interrupted: bool,
    /// Operations that succeeded.
    pub ops: u64,
    /// The same a second.
    pub ops_per_s: f64,
    /// Records written or found a second.
    pub records_per_s: f64,
    /// Bytes of values written or found a second.
    pub value_bytes_per_s: f64,
    /// Of all that succeeded; unset where nothing did.
    #[serde(flatten)]
    pub latency: Option<Latency>,
    /// Between successes; unset where there are none, or all are of one moment.
    #[serde(flatten)]
    pub gap: Option<Gap>,
    /// Of gets, in a mixed run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<Latency>,
    /// Of puts, in a mixed run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<Latency>,
    /// Failures by the error's code.
    pub errors: BTreeMap<&'static str, u64>,
    /// How long the failed ones took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Latency>,
    /// What was offered, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenLoop>,
    /// Processor time of the servers' threads while operations counted, the busiest first; empty where they do not tell it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<ThreadLoad>,
    /// Second by second.
    pub timeline: Vec<Second>,
    /// Shares of the operations, and the microseconds that none of that share exceeded; for plots.
    #[serde(skip)]
    pub curve: Vec<(f64, u64)>,
}

impl Report {
    /// Failures of all kinds.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({} loop), table {}, {} keys {}, {} B values{}",
            self.workload,
            self.pace,
            self.table,
            self.keys,
            self.distribution,
            self.value_bytes,
            if self.batch > 1 { format!(", {} records an append", self.batch) } else { String::new() },
        )?;
        writeln!(
            f,
            "{} clients x {} outstanding over {} connections",
            self.clients, self.outstanding, self.connections
        )?;
        writeln!(f)?;
        writeln!(f, "  {:<12} {:>14}", "elapsed", format!("{:.2} s", self.elapsed_s))?;
        if self.interrupted {
            writeln!(f, "  CUT SHORT: what was measured until then")?;
        }
        writeln!(f, "  {:<12} {:>14}", "operations", self.ops)?;
        writeln!(f, "  {:<12} {:>14}", "ops/s", format!("{:.0}", self.ops_per_s))?;
        if self.batch > 1 {
            writeln!(f, "  {:<12} {:>14}", "records/s", format!("{:.0}", self.records_per_s))?;
        }
        writeln!(f, "  {:<12} {:>14}", "values", format!("{:.2} MB/s", self.value_bytes_per_s / 1e6))?;
        self.percentiles(f)?;
        if let Some(Gap { longest_gap_us, longest_gap_second }) = self.gap {
            writeln!(f)?;
            writeln!(
                f,
                "  longest gap  {longest_gap_us:>14} us between successes, from second {longest_gap_second} on"
            )?;
        }
        if let Some(open) = &self.open {
            writeln!(f)?;
            writeln!(
                f,
                "  offered {:.0}/s of {:.0}/s asked for, {} arrivals",
                open.offered_per_s, open.rate_per_s, open.offered
            )?;
            writeln!(f, "  handed over late by p50 {} us, p99 {} us", open.lag_p50_us, open.lag_p99_us)?;
            if !open.kept_up {
                let unanswered = self.failures();
                writeln!(f, "  DID NOT KEEP UP: {} arrivals never sent, {unanswered} failed", open.missed)?;
            }
        }
        if !self.threads.is_empty() {
            writeln!(f)?;
            writeln!(f, "  busiest threads of the servers    cores     us an operation")?;
            for load in self.threads.iter().take(THREADS_SHOWN) {
                let name = format!("node {} {}", load.node, load.thread);
                writeln!(f, "    {name:<28} {:>8.2} {:>10.2}", load.busy, load.us_per_op)?;
            }
        }
        if !self.errors.is_empty() {
            writeln!(f)?;
            writeln!(f, "  errors")?;
            for (code, n) in &self.errors {
                writeln!(f, "    {code:<24} {n}")?;
            }
        }
        Ok(())
    }
}

/// One of a latency's figures.
type Figure = fn(&Latency) -> u64;

impl Report {
    fn percentiles(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns =
            [("all", &self.latency), ("reads", &self.reads), ("writes", &self.writes), ("failed", &self.failed)];
        let columns: Vec<(&str, &Latency)> = columns.iter().filter_map(|(n, l)| l.as_ref().map(|l| (*n, l))).collect();
        if columns.is_empty() {
            return writeln!(f, "\n  no operation succeeded");
        }
        writeln!(f)?;
        write!(f, "  {:<12}", "latency, us")?;
        for (name, _) in &columns {
            write!(f, " {name:>14}")?;
        }
        writeln!(f)?;
        let rows: [(&str, Figure); 7] = [
            ("mean", |l| l.mean_us as u64),
            ("p50", |l| l.p50_us),
            ("p90", |l| l.p90_us),
            ("p99", |l| l.p99_us),
            ("p99.9", |l| l.p99_9_us),
            ("p99.99", |l| l.p99_99_us),
            ("max", |l| l.max_us),
        ];
        for (name, value) in rows {
            write!(f, "  {name:<12}")?;
            for (_, latency) in &columns {
                write!(f, " {:>14}", value(latency))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let latency =
            Latency { count: 3, mean_us: 2.5, p50_us: 2, p90_us: 3, p99_us: 4, p99_9_us: 5, p99_99_us: 6, max_us: 7 };
        Report {
            workload: "put",
            table: "t".into(),
            pace: "open",
            value_bytes: 256,
            batch: 1,
            keys: 10,
            distribution: "uniform",
            connections: 1,
            clients: 2,
            outstanding: 1,
            elapsed_s: 1.5,
            interrupted: false,
            ops: 3,
            ops_per_s: 2.0,
            records_per_s: 2.0,
            value_bytes_per_s: 512.0,
            latency: Some(latency),
            gap: Some(Gap { longest_gap_us: 215_000, longest_gap_second: 3 }),
            reads: None,
            writes: None,
            errors: BTreeMap::from([("overloaded", 2)]),
            failed: None,
            open: Some(OpenLoop {
                rate_per_s: 5.0,
                offered: 6,
                offered_per_s: 4.0,
                missed: 1,
                kept_up: false,
                lag_p50_us: 60,
                lag_p99_us: 90,
            }),
            threads: vec![],
            timeline: vec![Second { second: 0, ops: 3, errors: 2, p99_us: 6, max_us: 7 }],
            curve: Vec::new(),
        }
    }

    #[test]
    fn json_names_carry_units() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["p99_9_us"], 5);
        assert_eq!(json["ops_per_s"], 2.0);
        assert_eq!(json["errors"]["overloaded"], 2);
        assert_eq!(json["open"]["missed"], 1);
        assert_eq!(json["timeline"][0]["max_us"], 7);
        assert_eq!(json["longest_gap_us"], 215_000);
        assert_eq!(json["longest_gap_second"], 3);
        assert!(json.get("reads").is_none());
    }

    #[test]
    fn the_table_says_what_went_wrong() {
        let text = report().to_string();
        assert!(text.contains("215000 us between successes, from second 3 on"), "{text}");
        for part in ["put (open loop)", "p99.99", "DID NOT KEEP UP: 1 arrivals never sent, 2 failed", "overloaded"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let silent = Report { latency: None, gap: None, ..report() };
        assert!(silent.to_string().contains("no operation succeeded"));
        let json = serde_json::to_value(silent).unwrap();
        assert!(json.get("p50_us").is_none() && json.get("longest_gap_us").is_none());
    }
}
