//! Multi-Paxos beside Raft: Synod's core and that of raft-rs over one log store, one transport and one load, in one process.
//!
//! Everything but the core is shared: three replicas, a thread each; a log on RocksDB with one synced write a round; loopback
//! TCP with a writer and a reader thread a link; closed-loop proposers at the leader. So what differs is the cores'.
//!
//! Owns: both adapters, and the figures. Must never: give one protocol a setting that the other lacks unsaid, or print figures
//! of a run whose replicas did not apply the same commands in the same order.

mod cluster;
mod command;
mod consensus;
mod links;
mod load;
#[path = "../../peers/src/machine.rs"]
mod machine;
mod measure;
mod node;
mod paxos;
mod raft_rs;
mod report;
mod setting;
#[cfg(test)]
mod tests;

use crate::cluster::Spec;
use crate::command::BYTES_MIN;
use crate::consensus::Core;
use crate::machine::Machine;
use crate::measure::{Figures, fail_over, measure};
use crate::paxos::PaxosCore;
use crate::raft_rs::RaftCore;
use crate::report::{Report, Series, Stops};
use crate::setting::{BenchError, Result, Timing, io, limits};
use clap::{Parser, ValueEnum, value_parser};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A protocol, and with it the core behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Paxos,
    Raft,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Paxos => PaxosCore::NAME,
            Protocol::Raft => RaftCore::NAME,
        }
    }

    fn measure(self, spec: &Spec, warm_up: Duration, time: Duration) -> Result<Figures> {
        match self {
            Protocol::Paxos => measure::<PaxosCore>(spec, warm_up, time),
            Protocol::Raft => measure::<RaftCore>(spec, warm_up, time),
        }
    }

    fn fail_over(self, spec: &Spec, warm_up: Duration) -> Result<Duration> {
        match self {
            Protocol::Paxos => fail_over::<PaxosCore>(spec, warm_up),
            Protocol::Raft => fail_over::<RaftCore>(spec, warm_up),
        }
    }
}

/// Multi-Paxos beside Raft: one log store, transport and load under Synod's core and that of raft-rs, in turn
#[derive(Parser, Debug)]
#[command(name = "bench-raft")]
struct Args {
    /// The protocols; in every second round in the other order
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "paxos,raft")]
    protocols: Vec<Protocol>,
    /// Commands in flight: numbers of closed-loop proposers at the leader
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,256",
        value_parser = value_parser!(u32).range(1..=100_000))]
    in_flight: Vec<u32>,
    /// Bytes of a command
    #[arg(long, value_name = "N", default_value_t = 256)]
    bytes: usize,
    /// Rounds; in each, every protocol runs once with every number in flight
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a run is measured
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = value_parser!(u64).range(1..=3_600_000))]
    time_ms: u64,
    /// How long it runs before
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = value_parser!(u64).range(..=3_600_000))]
    warm_up_ms: u64,
    /// How often a leader is stopped with 64 commands in flight
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = value_parser!(u32).range(..=1000))]
    failovers: u32,
    /// Where data is kept, on the disk to be measured [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where README.md and results.json are written; else the report goes to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// In flight while leaders are stopped.
const FAILOVER_IN_FLIGHT: u32 = 64;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-raft: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Refuses what would make no figures, or none that mean anything.
fn check(args: &Args, machine: &Machine) -> Result<()> {
    let refuse = |why: String| Err(BenchError::Argument(why));
    if machine.in_memory() {
        return refuse(format!("--data-dir: {} is in memory, nothing there is ever synced", machine.disk));
    }
    if args.bytes < BYTES_MIN {
        return refuse(format!("--bytes {}: a command has at least {BYTES_MIN}", args.bytes));
    }
    // An entry of all commands in flight is to fit in one message of either protocol.
    let most = args.in_flight.iter().max().copied().unwrap_or(0).max(FAILOVER_IN_FLIGHT) as usize;
    let message = limits().message_bytes;
    if most.saturating_mul(args.bytes) > message {
        return refuse(format!(
            "{most} commands of {} bytes in one entry: longer than a message, {message}",
            args.bytes
        ));
    }
    if (1..args.protocols.len()).any(|at| args.protocols[..at].contains(&args.protocols[at])) {
        return refuse("--protocols: one stands twice".into());
    }
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    let data_dir = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::here(&data_dir);
    check(args, &machine)?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(io(format!("make {}", out.display())))?;
    }
    let spec = |proposers| Spec { proposers, bytes: args.bytes, data_dir: data_dir.clone(), timing: Timing::default() };
    let report = Report {
        machine,
        command: std::iter::once("bench-raft".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        bytes: args.bytes,
        rounds: args.rounds,
        time_ms: args.time_ms,
        warm_up_ms: args.warm_up_ms,
        timing: Timing::default(),
        series: rounds(args, spec)?,
        stops: stop_leaders(args, &spec(FAILOVER_IN_FLIGHT))?,
    };
    let Some(out) = &args.out else {
        println!("{}", report.markdown());
        return Ok(());
    };
    for (name, text) in [("README.md", report.markdown()), ("results.json", report.json())] {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(io(format!("write {}", path.display())))?;
        eprintln!("{} written", path.display());
    }
    Ok(())
}

/// Every protocol with every number in flight, once a round.
fn rounds(args: &Args, spec: impl Fn(u32) -> Spec) -> Result<Vec<Series>> {
    let (warm_up, time) = (Duration::from_millis(args.warm_up_ms), Duration::from_millis(args.time_ms));
    let mut all = Vec::new();
    for &in_flight in &args.in_flight {
        all.extend(args.protocols.iter().map(|&protocol| Series { protocol, in_flight, rounds: Vec::new() }));
    }
    for round in 1..=args.rounds {
        for pair in all.chunks_mut(args.protocols.len()) {
            // What the machine does from one run to the next is to hit neither more than the other.
            if round % 2 == 0 {
                pair.reverse();
            }
            for series in &mut *pair {
                let figures = series.protocol.measure(&spec(series.in_flight), warm_up, time)?;
                let Figures { ops_per_s, cpu_us, p50_us, p99_us, others_cores, .. } = figures;
                let (protocol, in_flight) = (series.protocol.name(), series.in_flight);
                eprintln!(
                    "round {round}: {protocol}, {in_flight} in flight: {ops_per_s:.0} ops/s, {cpu_us:.1} µs CPU, \
                     p50 {p50_us:.0}, p99 {p99_us:.0} µs; others had {others_cores:.1} cores"
                );
                series.rounds.push(figures);
            }
            if round % 2 == 0 {
                pair.reverse();
            }
        }
    }
    Ok(all)
}

fn stop_leaders(args: &Args, spec: &Spec) -> Result<Vec<Stops>> {
    let mut all: Vec<Stops> = args.protocols.iter().map(|&protocol| Stops { protocol, ms: Vec::new() }).collect();
    for stop in 1..=args.failovers {
        for stops in &mut all {
            let time = stops.protocol.fail_over(spec, Duration::from_millis(args.warm_up_ms))?;
            eprintln!("leader {stop} of {} stopped: {} ms", stops.protocol.name(), time.as_millis());
            stops.ms.push(time.as_secs_f64() * 1e3);
        }
    }
    Ok(all)
}
