//! How long clients wait while shards are split, handed over and moved beside a steady load, and nothing fails.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_peers::drive::Plan;
use synod_peers::handovers::{self, Wanted};
use synod_peers::plan::RunSpec;
use synod_peers::setup::{self, Ground};
use synod_peers::systems::System;
use synod_peers::{PeersError, Result};

/// How long clients wait while shards are split, handed over and moved beside a steady load, and nothing fails
#[derive(Parser, Debug)]
#[command(name = "bench-gaps")]
struct Args {
    /// Synod's binary
    #[arg(long, value_name = "PATH", env = "SYNOD_BIN")]
    synod: Option<PathBuf>,
    /// Splits, transfers and moves, so many of each
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Offered, in percent of the most in a closed loop of as many clients
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u16).range(1..=100))]
    share: u16,
    /// Offered: puts a second, instead of --share
    #[arg(long, value_name = "OPS", value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with = "share")]
    rate: Option<u32>,
    /// MiB of records in the shard that is moved
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=65_536))]
    fill: u64,
    /// The first port
    #[arg(long, value_name = "PORT", default_value_t = 23800, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Where data is kept, on the disk to be measured [default: under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks/gaps")]
    out: PathBuf,
}

fn main() -> ExitCode {
    setup::exit("bench-gaps", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let program = System::Synod.program(args.synod.as_ref()).map_err(|why| PeersError::io("synod", &why))?;
    let ground = Ground::open("bench-gaps", args.data_dir.as_deref(), &args.out)?;
    let plan = Plan {
        systems: Vec::new(),
        cells: Vec::new(),
        repeats: 1,
        run: RunSpec { keys: 100_000, time: Duration::ZERO, warmup: Duration::ZERO, seed: 1 },
        data: ground.data.clone(),
        port: args.base_port,
        shards: 1,
        connections: Some(4),
    };
    let wanted = Wanted {
        count: args.count,
        share: f64::from(args.share) / 100.0,
        rate_per_s: args.rate.map(f64::from),
        fill_mib: args.fill,
    };
    let found = setup::runtime()?.block_on(async {
        let halt = setup::halt_on_signals();
        handovers::run(&plan, &program, wanted, &halt).await
    });
    let found = found.map_err(|why| PeersError::io("synod", &why))?;
    ground.close();
    let text = handovers::markdown(&found, &ground.machine.line());
    println!("\n{text}");
    let failed = |error: std::io::Error| PeersError::io(args.out.display(), &error);
    std::fs::write(args.out.join("README.md"), text).map_err(failed)?;
    let json = serde_json::to_string_pretty(&found).map_err(|error| PeersError::io(args.out.display(), &error))?;
    std::fs::write(args.out.join("gaps.json"), json + "\n").map_err(failed)
}
