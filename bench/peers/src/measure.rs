//! One cell on one running system.
//!
//! Owns: the figures of a cell, with what it cost. Must never: drop a cell because of how it ended: what was measured stays,
//! marked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use synod_bench::{BenchError, BenchSpec, Halt, Moment, Report, run_on};

use crate::plan::Cell;
use crate::procfs::Usage;
use crate::scrape::{Counters, counters};
use crate::systems::{Running, System};

/// How a cell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum End {
    /// In order.
    Done,
    /// Before its time, or with a server dead: the figures are of what was measured until then.
    Partial {
        /// What happened.
        why: String,
    },
    /// Without figures.
    Failed {
        /// What happened.
        why: String,
    },
}

/// What an open loop offered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// The rate asked for.
    pub rate_per_s: f64,
    /// What was offered.
    pub offered_per_s: f64,
    /// Arrivals never sent.
    pub missed: u64,
    /// Whether all were sent and answered.
    pub kept_up: bool,
}

/// What a cell cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time of all servers, in microseconds an operation.
    pub servers_us: f64,
    /// Processor time of the generator and the driver, in microseconds an operation.
    pub client_us: f64,
    /// Bytes all servers wrote towards the disk, for each byte of a user's value written.
    pub written_per_byte: Option<f64>,
    /// Synced writes a second, of all servers.
    pub fsyncs_per_s: Option<f64>,
    /// Operations of clients for each synced write of one server.
    pub ops_per_fsync: Option<f64>,
    /// Processor time by the name of the thread, in microseconds an operation: servers, then the client's own.
    pub threads_us: BTreeMap<String, f64>,
    /// Further counters, a second, all servers together.
    pub counters_per_s: BTreeMap<String, f64>,
}

/// What a cell showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Operations a second that succeeded.
    pub ops_per_s: f64,
    /// Records a second.
    pub records_per_s: f64,
    /// Percentiles, in microseconds; in an open loop from the time an operation was meant to be sent.
    pub p50_us: u64,
    /// 99 % are no slower.
    pub p99_us: u64,
    /// 99.9 % are no slower.
    pub p99_9_us: u64,
    /// 99.99 % are no slower.
    pub p99_99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// What was offered, in an open loop.
    pub offered: Option<Offered>,
    /// Shares of the operations and the microseconds none of that share exceeded.
    pub curve: Vec<(f64, u64)>,
    /// What it cost.
    pub cost: Cost,
}

/// A measured cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// On what.
    pub system: System,
    /// What.
    pub cell: Cell,
    /// In which repeat, from 1.
    pub repeat: u32,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// What it showed.
    pub figures: Option<Figures>,
}

impl Measured {
    /// Its figures, where it ended in order.
    #[must_use]
    pub fn sound(&self) -> Option<&Figures> {
        self.figures.as_ref().filter(|_| self.end == End::Done)
    }
}

/// The state of everything around a run at one moment.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    at: Option<std::time::Instant>,
    servers: Usage,
    client: Usage,
    counters: Counters,
}

#[derive(Clone)]
struct Watch {
    pids: Vec<u32>,
    metrics: Vec<SocketAddr>,
    names: &'static [&'static str],
    seen: Arc<Mutex<(Surroundings, Surroundings)>>,
}

impl Watch {
    fn look(&self, moment: Moment) {
        let now = Surroundings {
            at: Some(std::time::Instant::now()),
            servers: Usage::of(&self.pids),
            client: Usage::of(&[std::process::id()]),
            counters: counters(&self.metrics, self.names),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match moment {
            Moment::Start => seen.0 = now,
            Moment::End => seen.1 = now,
        }
    }
}

/// Measures one cell. A server that dies on the way ends it, with what was measured until then.
pub async fn measure(running: &mut Running, cell: &Cell, spec: BenchSpec, repeat: u32, halt: &Halt) -> Measured {
    let measured = |end, figures| Measured { system: running.system, cell: cell.clone(), repeat, end, figures };
    let targets = match running.connect(cell.appends()).await {
        Ok(targets) => targets,
        Err(error) => return measured(End::Failed { why: error.to_string() }, None),
    };
    let watch = Watch {
        pids: running.pids(),
        metrics: running.metrics.clone(),
        names: running.system.counters(),
        seen: Arc::default(),
    };
    let stop = Halt::default();
    let look = watch.clone();
    let value_bytes = spec.value_bytes;
    let run = run_on(targets, spec, stop.clone(), move |moment| look.look(moment));
    let mut run = std::pin::pin!(run);
    let mut why = None;
    let report = loop {
        tokio::select! {
            report = &mut run => break report,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {
                if let Some((name, how, log)) = running.dead() {
                    why.get_or_insert(format!("{name} ended in mid-run ({how}):\n{log}"));
                } else if halt.halted() {
                    why.get_or_insert("interrupted".to_owned());
                }
                if why.is_some() {
                    stop.halt();
                }
            }
        }
    };
    let measured = |end, figures| Measured { system: running.system, cell: cell.clone(), repeat, end, figures };
    match report {
        Ok(report) => {
            let seen = watch.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let figures = (report.ops > 0).then(|| figures(&report, &seen, running, value_bytes));
            let end = match (why, &figures) {
                (Some(why), Some(_)) => End::Partial { why },
                (Some(why), None) => End::Failed { why },
                (None, None) => End::Failed { why: nothing(&report) },
                (None, Some(_)) => End::Done,
            };
            measured(end, figures)
        }
        Err(BenchError::Client(error)) => measured(End::Failed { why: why.unwrap_or(error.to_string()) }, None),
        Err(error) => measured(End::Failed { why: error.to_string() }, None),
    }
}

/// Why a run that went to its end has no figures.
fn nothing(report: &Report) -> String {
    match &report.open {
        Some(open) if report.errors.is_empty() => format!(
            "a rate of {:.0}/s cannot be kept: {:.0}/s were offered, and at the end those of the warm-up were still waiting",
            open.rate_per_s, open.offered_per_s
        ),
        _ => format!("no operation succeeded; {:?}", report.errors),
    }
}

fn figures(report: &Report, seen: &(Surroundings, Surroundings), running: &Running, value_bytes: usize) -> Figures {
    let latency = |pick: fn(&synod_bench::Latency) -> u64| report.latency.as_ref().map_or(0, pick);
    Figures {
        ops_per_s: report.ops_per_s,
        records_per_s: report.records_per_s,
        p50_us: latency(|l| l.p50_us),
        p99_us: latency(|l| l.p99_us),
        p99_9_us: latency(|l| l.p99_9_us),
        p99_99_us: latency(|l| l.p99_99_us),
        max_us: latency(|l| l.max_us),
        errors: report.errors.iter().map(|(code, n)| ((*code).to_owned(), *n)).collect(),
        offered: report.open.as_ref().map(|open| Offered {
            rate_per_s: open.rate_per_s,
            offered_per_s: open.offered_per_s,
            missed: open.missed,
            kept_up: open.kept_up,
        }),
        curve: report.curve.clone(),
        cost: cost(report, seen, running, value_bytes),
    }
}

fn cost(report: &Report, (start, end): &(Surroundings, Surroundings), running: &Running, value_bytes: usize) -> Cost {
    let (Some(from), Some(to)) = (start.at, end.at) else { return Cost::default() };
    let seconds = to.duration_since(from).as_secs_f64().max(1e-3);
    // What was counted stands for all that was done while these processes were looked at.
    let ops = report.ops_per_s * seconds;
    let (servers, client) = (end.servers.since(&start.servers), end.client.since(&start.client));
    let counted = |name: &str| end.counters.get(name).map(|n| n - start.counters.get(name).copied().unwrap_or(0.0));
    let fsyncs = running.system.fsyncs().and_then(counted).filter(|n| *n > 0.0);
    let writes: u64 = report.writes.map_or(if report.workload == "get" { 0 } else { report.ops }, |w| w.count);
    let user = writes as f64 * seconds / report.elapsed_s * f64::from(report.batch) * value_bytes as f64;
    let mut threads: BTreeMap<String, f64> =
        servers.threads.iter().map(|(name, us)| (name.clone(), *us as f64 / ops)).collect();
    threads.retain(|_, us| *us > 0.0);
    let per_s = |name: &&&str| Some(((**name).to_owned(), counted(name)? / seconds));
    Cost {
        servers_us: servers.cpu_us as f64 / ops,
        client_us: client.cpu_us as f64 / ops,
        written_per_byte: (user > 0.0).then(|| servers.written as f64 / user),
        fsyncs_per_s: fsyncs.map(|n| n / seconds),
        ops_per_fsync: fsyncs.filter(|_| writes > 0).map(|n| {
            let each = n / running.nodes.len() as f64;
            writes as f64 * seconds / report.elapsed_s / each
        }),
        threads_us: threads,
        counters_per_s: running.system.counters().iter().filter_map(|name| per_s(&name)).collect(),
    }
}
