//! Two binaries of Synod beside each other: does a change cost anything?

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_peers::change::{self, Verdict};
use synod_peers::drive::Plan;
use synod_peers::plan::{Cell, RunSpec, set};
use synod_peers::setup::{self, Ground};
use synod_peers::systems::System;
use synod_peers::{PeersError, Result};

const AFTER_HELP: &str = "\
Three clusters of three nodes run side by side: the new binary, the old one, and the old one again as control. They are measured \
in turn. Printed are medians of the ratios to the old one, each with its 90 % interval. A cell is missed where the whole interval \
of its rate lies below 0.95, or that of processor time an operation above 1.03; then the exit code is 1.";

/// Two binaries of Synod beside each other, judged cell by cell
#[derive(Parser, Debug)]
#[command(name = "bench-change", after_help = AFTER_HELP)]
struct Args {
    /// The new binary
    #[arg(long, value_name = "PATH", env = "SYNOD_BIN")]
    new: PathBuf,
    /// The old binary; `make old` builds one
    #[arg(long, value_name = "PATH", env = "SYNOD_OLD_BIN")]
    old: PathBuf,
    /// Sets of cells: core, sizes, mixes, shards, one-shard
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "core,one-shard")]
    set: Vec<String>,
    /// Numbers of clients
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// How often each cell is measured on each cluster
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// How long each time, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// The first port; each cluster has a hundred
    #[arg(long, value_name = "PORT", default_value_t = 24000, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Where servers keep their data, on the disk to be measured [default: under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where change.json goes
    #[arg(long, value_name = "DIR", default_value = "campaign-artefacts")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => setup::exit("bench-change", Err(error)),
    }
}

impl Args {
    /// The cells that are measured. Open loops at a share are left out: the share is of a rate that differs by cluster.
    fn cells(&self) -> Result<Vec<Cell>> {
        let mut cells: Vec<Cell> = Vec::new();
        for name in &self.set {
            for cell in set(name, &self.clients, 256)? {
                if synod_peers::summary::closed(&cell) && !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
        Ok(cells)
    }
}

/// Whether every cell holds.
fn run(args: &Args) -> Result<bool> {
    for path in [&args.new, &args.old] {
        System::Synod.program(Some(path)).map_err(|why| PeersError::io(path.display(), &why))?;
    }
    let time = Duration::try_from_secs_f64(args.seconds).map_err(|why| PeersError::io("--seconds", &why))?;
    let cells = args.cells()?;
    let ground = Ground::open("bench-change", args.data_dir.as_deref(), &args.out)?;
    println!("{}", ground.machine.line());
    println!("new {}\nold {}", System::Synod.version(&args.new), System::Synod.version(&args.old));
    let plan = Plan {
        systems: Vec::new(),
        cells,
        repeats: args.turns,
        run: RunSpec { keys: 20_000, time, warmup: time / 4, seed: 1 },
        data: ground.data.clone(),
        port: args.base_port,
        shards: 4,
        connections: None,
    };
    let found = setup::runtime()?.block_on(async {
        let halt = setup::halt_on_signals();
        change::run(&plan, &args.old, &args.new, &halt).await
    })?;
    ground.close();
    let json = serde_json::json!({ "machine": ground.machine, "cells": found });
    let text = serde_json::to_string_pretty(&json).map_err(|error| PeersError::io("change.json", &error))?;
    let path = args.out.join("change.json");
    std::fs::write(&path, text + "\n").map_err(|error| PeersError::io(path.display(), &error))?;
    let missed: Vec<&str> = found.iter().filter(|c| c.verdict != Verdict::Holds).map(|c| c.name.as_str()).collect();
    println!(
        "{} cells, {} missed{}{}",
        found.len(),
        missed.len(),
        if missed.is_empty() { "" } else { ": " },
        missed.join("; ")
    );
    Ok(missed.is_empty() && found.len() == plan.cells.len())
}
