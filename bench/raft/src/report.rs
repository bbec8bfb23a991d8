//! The figures as a page and as JSON.
//!
//! Owns: medians, ranges and ratios. Must never: compare figures of different rounds, or leave out what disturbed them.

use crate::Protocol;
use crate::machine::Machine;
use crate::measure::Figures;
use crate::setting::Timing;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// One protocol's figures in the rounds with one number in flight.
#[derive(Debug, Serialize)]
pub struct Series {
    /// The protocol.
    pub protocol: Protocol,
    /// Commands in flight.
    pub in_flight: u32,
    /// In the order of the rounds.
    pub rounds: Vec<Figures>,
}

/// How long one protocol took to go on without its leader.
#[derive(Debug, Serialize)]
pub struct Stops {
    /// The protocol.
    pub protocol: Protocol,
    /// One a stop, ms.
    pub ms: Vec<f64>,
}

/// What a report is made of.
#[derive(Debug)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What makes it again.
    pub command: String,
    /// Of a command.
    pub bytes: usize,
    /// How often each was measured.
    pub rounds: u32,
    /// How long.
    pub time_ms: u64,
    /// Behind how much.
    pub warm_up_ms: u64,
    /// The times both run on.
    pub timing: Timing,
    /// The figures.
    pub series: Vec<Series>,
    /// Leaders stopped.
    pub stops: Vec<Stops>,
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)))
}

fn spread(values: Vec<f64>, digits: usize) -> String {
    let (least, most) = range(&values);
    format!("{:.digits$} ({least:.digits$}–{most:.digits$})", median(values))
}

/// Title, digits, and which figure.
type Column = (&'static str, usize, fn(&Figures) -> f64);

const COLUMNS: [Column; 6] = [
    ("ops/s", 0, |f| f.ops_per_s),
    ("CPU an op, µs", 1, |f| f.cpu_us),
    ("messages an op", 3, |f| f.messages),
    ("syncs an op", 3, |f| f.syncs),
    ("p50, µs", 0, |f| f.p50_us),
    ("p99, µs", 0, |f| f.p99_us),
];

/// Processors that others kept busy, above which the page says that the machine was.
const BUSY_CORES: f64 = 0.2;

fn head(first: &str) -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    format!("| {first} | {} |\n| ---{} |\n", names.join(" | "), " | ---".repeat(COLUMNS.len()))
}

impl Report {
    /// The page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Timing { tick, pulse, silence, jitter } = self.timing;
        let mut text = format!(
            "# Multi-Paxos beside Raft\n\n\
             One run on one machine, {} {}\n\n\
             Synod's core (`engine/paxos`) and that of raft-rs 0.7 under one harness (`bench/raft`): three replicas in one process, a \
             thread each; Synod's log store on RocksDB with everything default, one synced write (fdatasync) a round, entries in the \
             same rows with the same checksum; loopback TCP; commands of {} B from closed-loop proposers in the leader's thread, \
             all that wait proposed as one entry, as a Synod node does; acknowledged once applied at the leader, which is once chosen \
             and durable there. No client, no state store. In each round every protocol runs with every number in flight for {} ms \
             behind {} ms of warm-up, each on a new group, in every second round in the other order; {} rounds. Figures are medians \
             with least–greatest; messages and syncs are those of all three nodes, CPU is the process'. After each run the replicas' \
             applied commands were compared: the same in the same order. Made by\n\n    {}\n\n",
            self.machine.line(),
            self.others(),
            self.bytes,
            self.time_ms,
            self.warm_up_ms,
            self.rounds,
            self.command,
        );
        let _ = write!(text, "## Figures\n\n{}\n", self.figures());
        if let [first, second] = self.protocols()[..] {
            let _ = write!(text, "## {} by {}, round by round\n\n", second.name(), first.name());
            let _ = writeln!(text, "{}", self.ratios(first, second));
        }
        if self.stops.iter().any(|stops| !stops.ms.is_empty()) {
            let _ = write!(
                text,
                "## A leader stopped\n\n\
                 The leader's thread ends without a word while 64 commands are in flight: its connections close, which tells neither \
                 protocol anything. Time from there until the next leader has applied a command of its own. Both notice {} ms of \
                 silence and wait up to {} ms more at random (a tick every {} ms): Synod by its failure detector, one for all groups of \
                 a node, which pulses every {} ms in both directions and counts any message; Raft by its election timeout, \
                 drawn from {}–{} ms, that the leader's heartbeats (every {} ms) and appends put off, with pre-vote and check-quorum. After each \
                 stop nothing that the stopped leader had applied was missing from the others.\n\n{}\n",
                silence.as_millis(),
                jitter.as_millis(),
                tick.as_millis(),
                pulse.as_millis(),
                silence.as_millis(),
                (silence + jitter).as_millis(),
                pulse.as_millis(),
                self.failovers(),
            );
        }
        let _ = write!(text, "## What did not go well\n\n{}", self.disturbed());
        text
    }

    /// Every figure of every round.
    #[must_use]
    pub fn json(&self) -> String {
        let Timing { tick, pulse, silence, jitter } = self.timing;
        let value = json!({
            "machine": self.machine,
            "command": self.command,
            "value_bytes": self.bytes,
            "time_ms": self.time_ms,
            "warm_up_ms": self.warm_up_ms,
            "tick_ms": tick.as_millis() as u64,
            "pulse_ms": pulse.as_millis() as u64,
            "silence_ms": silence.as_millis() as u64,
            "jitter_ms": jitter.as_millis() as u64,
            "series": self.series,
            "failovers": self.stops,
        });
        format!("{value:#}\n")
    }

    fn protocols(&self) -> Vec<Protocol> {
        self.stops.iter().map(|stops| stops.protocol).collect()
    }

    fn others(&self) -> String {
        let all: Vec<f64> = self.series.iter().flat_map(|series| &series.rounds).map(|f| f.others_cores).collect();
        let busy = if median(all.clone()) > BUSY_CORES {
            "THE MACHINE WAS BUSY: rates and latencies are those of what was left of it; compare within a round only."
        } else {
            "The machine was nearly idle."
        };
        format!("Other processes kept {} of its cores busy meanwhile. {busy}", spread(all, 1))
    }

    /// Medians with least and greatest.
    fn figures(&self) -> String {
        let mut table = head("in flight, protocol");
        for series in &self.series {
            let cell = |(_, digits, of): &Column| spread(series.rounds.iter().map(of).collect(), *digits);
            let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
            let _ = writeln!(table, "| {}, {} | {} |", series.in_flight, series.protocol.name(), cells.join(" | "));
        }
        table
    }

    /// Of each round the second protocol's figure by the first one's; medians of the rounds with least and greatest.
    fn ratios(&self, first: Protocol, second: Protocol) -> String {
        let mut table = head("in flight");
        for one in self.series.iter().filter(|series| series.protocol == first) {
            let same = |s: &&Series| s.protocol == second && s.in_flight == one.in_flight;
            let Some(other) = self.series.iter().find(same) else { continue };
            let cell = |(_, _, of): &Column| {
                spread(one.rounds.iter().zip(&other.rounds).map(|(a, b)| of(b) / of(a)).collect(), 2)
            };
            let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
            let _ = writeln!(table, "| {} | {} |", one.in_flight, cells.join(" | "));
        }
        table
    }

    fn failovers(&self) -> String {
        let mut table =
            "| protocol | leaders stopped | median, ms | least–greatest, ms |\n| --- | --- | --- | --- |\n".to_owned();
        for Stops { protocol, ms } in &self.stops {
            let ((least, most), middle) = (range(ms), median(ms.clone()));
            let _ = writeln!(table, "| {} | {} | {middle:.0} | {least:.0}–{most:.0} |", protocol.name(), ms.len());
        }
        table
    }

    fn disturbed(&self) -> String {
        let mut text = String::new();
        for Series { protocol, in_flight, rounds } in &self.series {
            let elected: u64 = rounds.iter().map(|f| f.elected).sum();
            let dropped: u64 = rounds.iter().map(|f| f.dropped).sum();
            if elected + dropped > 0 {
                let name = protocol.name();
                let _ =
                    writeln!(text, "- {name}, {in_flight} in flight: {elected} elections, {dropped} messages dropped");
            }
        }
        if text.is_empty() {
            text.push_str("Nothing: no election while it was measured, no message dropped.\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn report(others_cores: f64, dropped: u64) -> Report {
        let figures = |ops_per_s| Figures {
            ops_per_s,
            cpu_us: 1.0,
            messages: 1.0,
            syncs: 1.0,
            p50_us: 1.0,
            p99_us: 1.0,
            others_cores,
            dropped,
            elected: 0,
        };
        let series =
            |protocol, rates: [f64; 3]| Series { protocol, in_flight: 64, rounds: rates.map(figures).to_vec() };
        Report {
            machine: Machine::here(Path::new("/")),
            command: "make".into(),
            bytes: 256,
            rounds: 3,
            time_ms: 1,
            warm_up_ms: 1,
            timing: Timing::default(),
            series: vec![series(Protocol::Paxos, [10.0, 100.0, 1000.0]), series(Protocol::Raft, [20.0, 100.0, 500.0])],
            stops: vec![
                Stops { protocol: Protocol::Paxos, ms: vec![700.0, 600.0, 900.0, 650.0] },
                Stops { protocol: Protocol::Raft, ms: vec![800.0] },
            ],
        }
    }

    #[test]
    fn medians_and_ratios_within_a_round() {
        let text = report(0.0, 0).markdown();
        assert!(text.contains("| 64, raft | 100 (20–500) | 1.0 (1.0–1.0) |"), "{text}");
        assert!(text.contains("| 64 | 1.00 (0.50–2.00) | 1.00 (1.00–1.00) |"), "{text}");
        assert!(text.contains("| paxos | 4 | 675 | 600–900 |"), "{text}");
    }

    #[test]
    fn what_disturbed_it_is_said() {
        let quiet = report(0.1, 0).markdown();
        assert!(quiet.contains("nearly idle") && quiet.contains("Nothing: no election"), "{quiet}");
        let busy = report(1.5, 2).markdown();
        assert!(busy.contains("kept 1.5 (1.5–1.5) of its cores busy meanwhile. THE MACHINE WAS BUSY"), "{busy}");
        assert!(busy.contains("- raft, 64 in flight: 0 elections, 6 messages dropped"), "{busy}");
    }

    #[test]
    fn json_holds_every_round() {
        let value: serde_json::Value = serde_json::from_str(&report(0.0, 0).json()).expect("sound JSON");
        assert_eq!(value["series"][1]["rounds"][2]["ops_per_s"], 500.0);
        assert_eq!(value["failovers"][1], json!({ "protocol": "raft", "ms": [800.0] }));
    }
}
