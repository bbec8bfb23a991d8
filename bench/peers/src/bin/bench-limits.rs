//! The machine's limits, and Synod's share of them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_peers::drive::{self, Plan};
use synod_peers::limits::{Limits, batches, markdown, share};
use synod_peers::machine::cores;
use synod_peers::plan::{Cell, RunSpec};
use synod_peers::setup::{self, Ground};
use synod_peers::store::Store;
use synod_peers::systems::System;
use synod_peers::{PeersError, Result, disk, echo};

/// The machine's limits, and Synod's share of them
#[derive(Parser, Debug)]
#[command(name = "bench-limits")]
struct Args {
    /// Synod's binary; without it only the machine is measured
    #[arg(long, value_name = "PATH", env = "SYNOD_BIN")]
    synod: Option<PathBuf>,
    /// What the bench `log_writer` left behind
    #[arg(long, value_name = "DIR")]
    criterion: Option<PathBuf>,
    /// How long each limit and each of Synod's results is measured
    #[arg(long, value_name = "S", default_value_t = 4)]
    seconds: u64,
    /// Numbers of clients
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,256,1000")]
    clients: Vec<usize>,
    /// Shards of Synod's tables
    #[arg(long, value_name = "N", default_value_t = 4)]
    shards: u32,
    /// The first port
    #[arg(long, value_name = "PORT", default_value_t = 23500, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Where data is kept, on the disk to be measured [default: under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks/limits")]
    out: PathBuf,
}

fn main() -> ExitCode {
    setup::exit("bench-limits", run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut cells = Vec::new();
    for work in ["put", "get"] {
        cells.extend(args.clients.iter().map(|clients| Cell::closed(work, *clients, 256)));
    }
    cells.push(Cell::closed("append", 16, 256));
    let time = Duration::from_secs(args.seconds.max(1));
    let spec = RunSpec { keys: 100_000, time, warmup: Duration::from_secs(1), seed: 1 };
    cells.iter().try_for_each(|cell| cell.spec(&spec, None).map(|_| ()))?;

    let ground = Ground::open("bench-limits", args.data_dir.as_deref(), &args.out)?;
    let data = &ground.data;
    println!("the disk: {}", ground.machine.disk);
    let mut syncs = Vec::new();
    for (writers, appending) in [(1, false), (1, true), (3, false)] {
        syncs
            .push(disk::syncs(data, writers, appending, time).map_err(|error| PeersError::io(data.display(), &error))?);
    }
    println!("gRPC");
    let echoes = echo::all(time.min(Duration::from_secs(2))).map_err(|why| PeersError::io("echo", &why))?;
    let disk_per_s = syncs.iter().filter(|s| s.writers == 3).map(|s| s.per_s).fold(0.0, f64::max);

    let mut shares = Vec::new();
    match System::Synod.program(args.synod.as_ref()) {
        Ok(program) => {
            let plan = Plan {
                systems: vec![(System::Synod, program)],
                cells,
                repeats: 1,
                run: spec,
                data: data.clone(),
                port: args.base_port,
                shards: args.shards,
                connections: None,
            };
            let mut store = Store::open(&args.out.join("cells.jsonl"), false)?;
            let failed = setup::runtime()?.block_on(async {
                let halt = setup::halt_on_signals();
                drive::run(&plan, &mut store, &halt).await
            })?;
            if let Some((_, why)) = failed.first() {
                return Err(PeersError::io("synod", why));
            }
            shares.extend(store.cells().iter().filter_map(|cell| share(cell, cores(), disk_per_s)));
        }
        Err(why) => println!("{why}"),
    }
    ground.close();
    let batches = args.criterion.as_deref().map(batches).unwrap_or_default();
    let limits = Limits { machine: ground.machine, syncs, batches, echoes, shares };
    let text = markdown(&limits);
    println!("\n{text}");
    std::fs::write(args.out.join("README.md"), text).map_err(|error| PeersError::io(args.out.display(), &error))?;
    let json = serde_json::to_string_pretty(&limits).map_err(|error| PeersError::io(args.out.display(), &error))?;
    std::fs::write(args.out.join("limits.json"), json + "\n")
        .map_err(|error| PeersError::io(args.out.display(), &error))
}
