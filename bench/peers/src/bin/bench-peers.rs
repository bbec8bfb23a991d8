//! Synod beside etcd, NATS JetStream and Redis, in one run on one machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_bench::Halt;
use synod_peers::drive::{self, Plan};
use synod_peers::failover::{self, Gaps, Outages};
use synod_peers::markdown::{self, Parts};
use synod_peers::plan::{Cell, RunSpec, set, workload};
use synod_peers::plot::{draw, thousands};
use synod_peers::setup::{self, Ground};
use synod_peers::store::Store;
use synod_peers::summary::{Row, rows};
use synod_peers::systems::System;
use synod_peers::{PeersError, Result};

const AFTER_HELP: &str = "\
Results go to --out: cells.jsonl (every cell as it ends), results.json, README.md and plots. Ctrl-C ends the run; what was \
measured is kept, and --resume goes on with the rest. Every server listens on 127.0.0.1 and ends with this program.";

/// Synod beside other systems, in one run on one machine
#[derive(Parser, Debug)]
#[command(name = "bench-peers", after_help = AFTER_HELP)]
struct Args {
    /// Synod's binary
    #[arg(long, value_name = "PATH", env = "SYNOD_BIN")]
    synod: Option<PathBuf>,
    /// What to measure: synod, etcd, nats, redis
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "synod,etcd,nats,redis")]
    systems: Vec<String>,
    /// Sets of cells: core, open, sizes, mixes, shards, one-shard, ycsb; none for none
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "core,shards,one-shard")]
    set: Vec<String>,
    /// Only these workloads of the sets, or these alone where the sets have none of them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,
    /// Numbers of clients
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,256,1000")]
    clients: Vec<usize>,
    /// An open loop of puts at this many a second, beside the sets
    #[arg(long, value_name = "OPS", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Bytes of a value, where the set does not say
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_size: usize,
    /// Distinct keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    /// How often each cell is measured, all systems taking turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// How long a cell is measured
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How long it runs before
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Leaders of Synod and of etcd killed under load
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: u32,
    /// Leaderships of Synod handed over under load
    #[arg(long, value_name = "N", default_value_t = 20)]
    transfers: u32,
    /// Shards of Synod's tables
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    shards: u32,
    /// Connections of every driver [default: what suits each]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Option<u16>,
    /// The first port; each system has a hundred
    #[arg(long, value_name = "PORT", default_value_t = 23000, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    base_port: u16,
    /// Where servers keep their data, on the disk to be measured [default: under the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks/peers")]
    out: PathBuf,
    /// Go on with the run whose results are in --out: what is measured is not measured again
    #[arg(long)]
    resume: bool,
    /// Of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=3600.0).contains(&value) { Ok(value) } else { Err(format!("{value} is not within 0.01..=3600")) }
}

fn main() -> ExitCode {
    let args = Args::parse();
    setup::exit("bench-peers", setup::runtime().and_then(|runtime| runtime.block_on(run(args))))
}

impl Args {
    fn cells(&self) -> Result<Vec<Cell>> {
        self.only.iter().try_for_each(|name| workload(name).map(|_| ()))?;
        let mut cells: Vec<Cell> = Vec::new();
        for name in self.set.iter().filter(|name| *name != "none") {
            for cell in set(name, &self.clients, self.value_size)? {
                if !cells.contains(&cell) {
                    cells.push(cell);
                }
            }
        }
        for work in &self.only {
            if !cells.iter().any(|cell| cell.work == *work) {
                cells.extend(self.clients.iter().map(|n| Cell::closed(work, *n, self.value_size)));
            }
        }
        cells.retain(|cell| self.only.is_empty() || self.only.contains(&cell.work));
        cells.extend(self.rate.map(|rate| Cell::at_rate(rate, self.value_size)));
        // Refused before anything is started.
        cells.iter().try_for_each(|cell| cell.spec(&self.run_spec(), Some(1.0)).map(|_| ()))?;
        Ok(cells)
    }

    fn run_spec(&self) -> RunSpec {
        RunSpec {
            keys: self.keys,
            time: Duration::from_secs_f64(self.seconds),
            warmup: Duration::from_secs_f64(self.warmup),
            seed: self.seed,
        }
    }
}

/// The systems that are there, those that are not, and every version.
type Found = (Vec<(System, PathBuf)>, Vec<(System, String)>, Vec<(System, String)>);

fn find(args: &Args) -> Result<Found> {
    let (mut there, mut left_out, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for name in &args.systems {
        let system = System::parse(name)?;
        match system.program(args.synod.as_ref()) {
            Ok(program) => {
                let version = system.version(&program);
                println!("{}: {version}\n  {}", system.label(), system.settings());
                there.push((system, program));
                versions.push((system, version));
            }
            Err(why) => {
                println!("{}: skipped: {why}", system.label());
                left_out.push((system, why));
            }
        }
    }
    Ok((there, left_out, versions))
}

async fn run(args: Args) -> Result<()> {
    let cells = args.cells()?;
    let (systems, mut left_out, versions) = find(&args)?;
    let ground = Ground::open("bench-peers", args.data_dir.as_deref(), &args.out)?;
    let (data, machine) = (&ground.data, &ground.machine);
    println!("data in {}: {}", data.display(), machine.disk);
    let mut store = Store::open(&args.out.join("cells.jsonl"), args.resume)?;
    let plan = Plan {
        systems,
        cells,
        repeats: args.repeats,
        run: args.run_spec(),
        data: data.clone(),
        port: args.base_port,
        shards: args.shards,
        connections: args.connections.map(usize::from),
    };
    let halt = setup::halt_on_signals();
    let failed = drive::run(&plan, &mut store, &halt).await?;
    left_out.extend(failed.clone());
    let (outages, gaps) = leaders(&args, &plan, &halt).await;
    ground.close();
    let rows = rows(store.cells());
    let plots = draw(&rows, &args.out)?;
    let parts = Parts {
        machine,
        systems: &versions,
        left_out: &left_out,
        run: &plan.run,
        repeats: plan.repeats,
        shards: plan.shards,
        rows: &rows,
        outages: &outages,
        gaps: gaps.as_ref(),
        plots: &plots,
        command: &command(),
    };
    keep(&args.out, &parts)?;
    print(&rows);
    println!("\nreport: {}", args.out.join("README.md").display());
    if halt.halted() {
        return Err(PeersError::Io {
            what: "interrupted".into(),
            why: "what was measured is kept; --resume goes on".into(),
        });
    }
    match failed.first() {
        Some((system, _)) => {
            Err(PeersError::Io { what: system.name().into(), why: "it did not start; the rest was measured".into() })
        }
        None => Ok(()),
    }
}

/// What happens while leadership moves.
async fn leaders(args: &Args, plan: &Plan, halt: &Halt) -> (Vec<Outages>, Option<Gaps>) {
    let (mut outages, mut gaps) = (Vec::new(), None);
    for (system, program) in &plan.systems {
        if args.kills > 0 && matches!(system, System::Synod | System::Etcd) && !halt.halted() {
            println!("{}: leaders killed under load", system.label());
            outages.push(failover::kills(plan, *system, program, args.kills, halt).await);
        }
        if args.transfers > 0 && *system == System::Synod && !halt.halted() {
            println!("{}: leaderships handed over under load", system.label());
            let moved = failover::transfers(plan, program, args.transfers, halt).await;
            gaps = Some(moved.unwrap_or_else(|why| Gaps { failed: vec![why], ..Gaps::default() }));
        }
    }
    (outages, gaps)
}

/// Writes the report and the figures.
fn keep(out: &Path, parts: &Parts<'_>) -> Result<()> {
    let io = |error: &dyn std::fmt::Display| PeersError::Io { what: out.display().to_string(), why: error.to_string() };
    let json = serde_json::json!({
        "machine": parts.machine,
        "systems": parts.systems.iter().map(|(system, version)| serde_json::json!({
            "system": system, "version": version, "settings": system.settings(), "operations": system.operations(),
        })).collect::<Vec<_>>(),
        "left_out": parts.left_out,
        "repeats": parts.repeats,
        "seconds": parts.run.time.as_secs_f64(),
        "keys": parts.run.keys,
        "shards": parts.shards,
        "rows": parts.rows,
        "kills": parts.outages,
        "transfers": parts.gaps,
    });
    let text = serde_json::to_string_pretty(&json).map_err(|error| io(&error))?;
    std::fs::write(out.join("results.json"), text + "\n").map_err(|error| io(&error))?;
    std::fs::write(out.join("README.md"), markdown::report(parts)).map_err(|error| io(&error))
}

/// The medians, for whoever watches.
fn print(rows: &[Row]) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["work", "system", "per second", "least–greatest", "p50 ms", "p99 ms", "Synod is", "CPU µs/op"]);
    for row in rows {
        let Some(rate) = row.rate else { continue };
        let ms =
            |s: Option<synod_peers::summary::Spread>| s.map_or(String::new(), |s| format!("{:.2}", s.median / 1e3));
        let cpu = |s: Option<synod_peers::summary::Spread>| s.map_or(String::new(), |s| format!("{:.1}", s.median));
        table.add_row([
            row.name.clone(),
            row.system.name().to_owned(),
            thousands(rate.median),
            format!("{}–{}", thousands(rate.min), thousands(rate.max)),
            ms(row.p50_us),
            ms(row.p99_us),
            row.synod_is.filter(|_| row.system != System::Synod).map_or(String::new(), |n| format!("×{n:.2}")),
            format!("{} + {}", cpu(row.servers_cpu_us), cpu(row.client_cpu_us)),
        ]);
    }
    println!("\n{table}");
}

/// How this program was called.
fn command() -> String {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let name = Path::new(&program).file_name().map_or(program.clone(), |name| name.to_string_lossy().into_owned());
    // Where things lie on this machine says nothing to others.
    let short =
        |arg: String| if arg.starts_with('/') { arg.rsplit('/').next().unwrap_or_default().to_owned() } else { arg };
    std::iter::once(name).chain(args.map(short)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::try_parse_from(std::iter::once("bench-peers").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        let refused = |line: &str| args(line).cells().unwrap_err().to_string();
        assert_eq!(refused("--clients 64,0"), "clients is at least 1");
        assert!(refused("--only gets").contains("unknown workload \"gets\": known are put, get"));
        assert!(refused("--set all").contains("unknown set"));
        assert!(find(&args("--systems zookeeper")).unwrap_err().to_string().contains("known are synod, etcd"));
        for line in ["--rate 0", "--rate 100000000", "--repeats 0", "--seconds 0", "--shards 0"] {
            assert!(Args::try_parse_from(["bench-peers"].into_iter().chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn flags_choose_cells() {
        let names = |line: &str| args(line).cells().unwrap().iter().map(Cell::name).collect::<Vec<_>>();
        assert_eq!(names("--only put --clients 1,64 --set core").len(), 4);
        assert_eq!(names("--set none --rate 5000"), ["put, 64 clients, open loop at 5000/s"]);
        assert_eq!(names("--only mixed25 --clients 8"), ["mixed25, 8 clients"]);
    }
}
