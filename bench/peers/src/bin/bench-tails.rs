//! Synod's slowest operations while a backup, kills, restarts and transfers happen.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_peers::drive::Plan;
use synod_peers::plan::RunSpec;
use synod_peers::setup::{self, Ground};
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
    setup::exit("bench-tails", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let program = System::Synod.program(args.synod.as_ref()).map_err(|why| PeersError::io("synod", &why))?;
    let ground = Ground::open("bench-tails", args.data_dir.as_deref(), &args.out)?;
    let plan = Plan {
        systems: Vec::new(),
        cells: Vec::new(),
        repeats: 1,
        run: RunSpec { keys: 100_000, time: Duration::ZERO, warmup: Duration::ZERO, seed: 1 },
        data: ground.data.clone(),
        port: args.base_port,
        shards: args.shards,
        connections: Some(4),
    };
    let found = setup::runtime()?.block_on(async {
        let halt = setup::halt_on_signals();
        tails::run(&plan, &program, args.clients.into(), f64::from(args.rate) / 100.0, &halt).await
    });
    let found = found.map_err(|why| PeersError::io("synod", &why))?;
    ground.close();
    let title = format!("{} clients, puts of 256 B at {} % of the most", args.clients, args.rate);
    plot::timeline(&args.out.join("timeline.svg"), &title, &found.report.timeline, &tails::marks(&found))?;
    let text = tails::markdown(&found, &ground.machine.line(), "timeline.svg");
    println!("\n{text}");
    let failed = |error: std::io::Error| PeersError::io(args.out.display(), &error);
    std::fs::write(args.out.join("README.md"), text).map_err(failed)?;
    let json = serde_json::to_string_pretty(&found).map_err(|error| PeersError::io(args.out.display(), &error))?;
    std::fs::write(args.out.join("tails.json"), json + "\n").map_err(failed)
}
