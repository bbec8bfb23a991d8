//! `synod bench`: rate and latency of a cluster.
//!
//! Owns the flags and their bounds; the load generator is a package of its own. Must never measure anything itself.

use std::time::Duration;

use clap::{Args, ValueEnum};
use synod_bench::{BenchError, BenchSpec, Distribution, Halt, Pace, Stop, Workload};
use synod_client::{Client, Error, Retention, TableSpec};

use super::context::Context;
use super::error::{CliError, Result};

const AFTER_HELP: &str = "\
Closed loop (the default): each client keeps --outstanding requests under way and sends the next when one is answered. \
Open loop (--rate): requests are sent at random times of that rate, whether or not earlier ones are answered, and \
latency counts from the time a request was meant to be sent, so that a stall shows in all requests it held up.
The report names the longest time in which no request succeeded, and the second in which that began \
(longest_gap_us and longest_gap_second in -o json; exact from 10 ms on).

Examples:
  synod bench put --clients 64
  synod bench mixed --read-percent 90 --distribution zipfian --duration 30s
  synod bench append --rate 5000 --value-size 1024 -o json";

/// `bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// What to do
    #[arg(value_enum)]
    pub workload: WorkloadArg,
    /// The table; created if it is not there (hash; append retains all, the others latest)
    #[arg(long, default_value = "bench")]
    pub table: String,
    /// Shards of the table, where it is created
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub shards: u32,
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub clients: u32,
    /// Requests each client keeps under way
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub outstanding: u32,
    /// Connections, each a client instance of its own; the clients are spread over them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub connections: u32,
    /// Open loop: requests a second, over all clients
    #[arg(long, value_name = "OPS")]
    pub rate: Option<f64>,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Measure this many requests instead of a time
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub ops: Option<u64>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub value_size: u32,
    /// Distinct keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub keys: u64,
    /// How keys are chosen
    #[arg(long, value_enum, default_value = "uniform")]
    pub distribution: DistributionArg,
    /// Exponent of the zipfian distribution
    #[arg(long, default_value_t = 0.99)]
    pub exponent: f64,
    /// Records of one `append`
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: u32,
    /// Do not write every key once before `get` and `mixed`
    #[arg(long)]
    pub no_preload: bool,
    /// Share of gets in `mixed`
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub read_percent: u8,
    /// Seed of keys and values: the same seed gives the same requests
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What a benchmark does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkloadArg {
    /// Write values
    Put,
    /// Read values, linearizable
    Get,
    /// Append records, --batch at a time
    Append,
    /// Read and write
    Mixed,
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistributionArg {
    /// Each as often as any other
    Uniform,
    /// A few very often, as in many real loads
    Zipfian,
}

impl BenchArgs {
    fn spec(&self) -> BenchSpec {
        BenchSpec {
            table: self.table.clone(),
            workload: match self.workload {
                WorkloadArg::Put => Workload::Put,
                WorkloadArg::Get => Workload::Get,
                WorkloadArg::Append => Workload::Append { batch: self.batch },
                WorkloadArg::Mixed => Workload::Mixed { read_percent: self.read_percent },
            },
            value_bytes: self.value_size as usize,
            keys: self.keys,
            distribution: match self.distribution {
                DistributionArg::Uniform => Distribution::Uniform,
                DistributionArg::Zipfian => Distribution::Zipfian { exponent: self.exponent },
            },
            connections: self.connections as usize,
            clients: self.clients as usize,
            outstanding: self.outstanding as usize,
            pace: self.rate.map_or(Pace::Closed, |rate_per_s| Pace::Open { rate_per_s }),
            stop: self.ops.map_or(Stop::After(self.duration), Stop::Ops),
            warmup: self.warmup,
            preload: matches!(self.workload, WorkloadArg::Get | WorkloadArg::Mixed) && !self.no_preload,
            seed: self.seed,
            ..BenchSpec::default()
        }
    }

    /// The table, where it has to be created.
    fn table_spec(&self, nodes: usize) -> TableSpec {
        let retention = if self.workload == WorkloadArg::Append { Retention::All } else { Retention::Latest };
        let replicas = u32::try_from(nodes).unwrap_or(u32::MAX).clamp(1, 3);
        TableSpec { replicas, ..TableSpec::hash(&self.table, self.shards, retention) }
    }
}

/// Runs `bench`.
pub async fn run(context: &mut Context, args: BenchArgs) -> Result<()> {
    let spec = args.spec();
    spec.check().map_err(|error| CliError::usage("bench", error))?;
    let mut options = context.options(Duration::from_secs(60));
    // What is asked for must be under way at the cluster, not wait in the client.
    let under_way = spec.clients.saturating_mul(spec.outstanding);
    options.max_outstanding_writes = options.max_outstanding_writes.max(under_way);
    options.max_queued_requests = options.max_queued_requests.max(under_way);
    let client = context.connect_with(options.clone()).await?;
    match client.table(&args.table).await {
        Err(Error::TableNotFound { .. }) => {
            client.create_table(args.table_spec(client.map().nodes.len())).await?;
        }
        found => {
            found?;
        }
    }
    let endpoints: Vec<String> = client.map().nodes.iter().map(|node| node.addr.clone()).collect();
    let connect = |_| Client::connect(endpoints.clone(), options.clone());
    let report = synod_bench::run_until(connect, spec, halt_on_interrupt()).await.map_err(|error| match error {
        BenchError::Client(error) => CliError::from(error),
        BenchError::Spec(error) => CliError::usage("bench", error),
        other => CliError::failed("bench", other.to_string()),
    })?;
    context.out.value(&report, |report| report.to_string().lines().map(str::to_owned).collect())?;
    if report.ops == 0 {
        let message = format!("no operation succeeded, {} failed", report.failures());
        return Err(CliError::failed("no_success", message));
    }
    Ok(())
}

/// The first Ctrl-C ends the run with a report of what was measured, the second at once.
fn halt_on_interrupt() -> Halt {
    let halt = Halt::default();
    let halted = halt.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            halted.halt();
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    halt
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(line: &str) -> BenchArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap().bench
    }

    #[test]
    fn flags_become_a_spec() {
        let spec = args("bench mixed --rate 5000 --distribution zipfian --read-percent 90 --ops 7").spec();
        assert_eq!(spec.workload, Workload::Mixed { read_percent: 90 });
        assert_eq!((spec.pace, spec.stop), (Pace::Open { rate_per_s: 5000.0 }, Stop::Ops(7)));
        assert_eq!(spec.distribution, Distribution::Zipfian { exponent: 0.99 });
        assert!(spec.preload && spec.check().is_ok());
        let spec = args("bench append --batch 10 --outstanding 4").spec();
        assert_eq!((spec.workload, spec.outstanding, spec.preload), (Workload::Append { batch: 10 }, 4, false));
    }

    #[test]
    fn flags_out_of_bounds_are_refused() {
        for line in ["bench put --clients 0", "bench put --rate 0", "bench mixed --read-percent 101"] {
            assert!(args(line).spec().check().is_err(), "{line}");
        }
    }

    #[test]
    fn the_table_fits_workload_and_cluster() {
        let table = args("bench append --shards 2").table_spec(1);
        assert_eq!((table.retention, table.replicas), (Retention::All, 1));
        assert_eq!(args("bench put").table_spec(5).replicas, 3);
    }
}
