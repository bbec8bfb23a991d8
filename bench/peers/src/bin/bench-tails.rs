//! Synod's slowest operations while a backup, kills, restarts and transfers happen.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_bench::Halt;
use synod_peers::drive::Plan;
use synod_peers::machine::Machine;
use synod_peers::plan::RunSpec;
use synod_peers::systems::System;
use synod_peers::{PeersError, Result, plot, tails};

/// Synod's slowest operations while a backup, kills, restarts and transfers happen
#[derive(Parser, Debug)]
#[command(name = "bench-tails")]
struct Args {
    /// Synod's binary
    #[arg(long, value_name = "PATH", env = "SYNOD_BIN")]
    synod: Option<PathBuf>,
    /// Clients
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Offered, in percent of the most in a closed loop of as many clients
    #[arg(long, value_name = "PERCENT", default_value = "40", value_parser = clap::value_parser!(u16).range(1..=200))]
    rate: u16,
    /// Shards of the table
    #[arg(long, value_name = "N", default_value_t = 4)]
    shards: u32,
    /// The first port
    #[arg(long, value_name = "PORT", default_value_t = 23600, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Where data is kept, on the disk to be measured [default: under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks/tails")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tails: {error}");
            ExitCode::FAILURE
        }
    }
}

fn io(what: &dyn std::fmt::Display, why: &dyn std::fmt::Display) -> PeersError {
    PeersError::Io { what: what.to_string(), why: why.to_string() }
}

fn run(args: &Args) -> Result<()> {
    let program = System::Synod.program(args.synod.as_ref()).map_err(|why| io(&"synod", &why))?;
    std::fs::create_dir_all(&args.out).map_err(|error| io(&args.out.display(), &error))?;
    let fresh = || std::env::temp_dir().join(format!("bench-tails-{}", std::process::id()));
    let data = args.data_dir.clone().unwrap_or_else(fresh);
    std::fs::create_dir_all(&data).map_err(|error| io(&data.display(), &error))?;
    let machine = Machine::here(&data);
    let plan = Plan {
        systems: Vec::new(),
        cells: Vec::new(),
        repeats: 1,
        run: RunSpec { keys: 100_000, time: Duration::ZERO, warmup: Duration::ZERO, seed: 1 },
        data: data.clone(),
        port: args.base_port,
        shards: args.shards,
        connections: Some(4),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| io(&"cannot start the runtime", &error))?;
    let halt = Halt::default();
    // On the main thread, which starts the servers: they end with it.
    let found = runtime.block_on(async {
        let halted = halt.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                halted.halt();
            }
        });
        tails::run(&plan, &program, args.clients.into(), f64::from(args.rate) / 100.0, &halt).await
    });
    let found = found.map_err(|why| io(&"synod", &why))?;
    if args.data_dir.is_none() {
        // Empty by now, unless something went wrong that somebody wants to look at.
        let _ = std::fs::remove_dir(&data);
    }
    let title = format!("{} clients, puts of 256 B at {} % of the most", args.clients, args.rate);
    plot::timeline(&args.out.join("timeline.svg"), &title, &found.report.timeline, &tails::marks(&found))?;
    let m = &machine;
    let machine =
        format!("{}, commit {}. {}, {} cores, Linux {}, {}.", m.date, m.commit, m.cpu, m.cores, m.kernel, m.disk);
    let text = tails::markdown(&found, &machine, "timeline.svg");
    println!("\n{text}");
    std::fs::write(args.out.join("README.md"), text).map_err(|error| io(&args.out.display(), &error))?;
    let json = serde_json::to_string_pretty(&found).map_err(|error| io(&args.out.display(), &error))?;
    std::fs::write(args.out.join("tails.json"), json + "\n").map_err(|error| io(&args.out.display(), &error))
}
