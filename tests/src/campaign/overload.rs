//! More than the cluster can do: what gets through, how long it takes, and whether a modest client notices.
//!
//! Owns: one round of measurements, all in one run so that they compare. Must never: compare figures of different rounds.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::Turn;
use super::hostile::memory;
use super::load::Load;
use crate::cluster::{Cluster, PATIENCE};
use crate::http::metric;

/// Of the most that is reached with as much as the cluster asks for, what must get through at four times that.
const GOODPUT: f64 = 0.8;
/// How often both are measured, in turn. A cluster's first seconds are its fastest, and while nodes flush and compact they do a third:
/// two figures of one time each would compare the times.
const ROUNDS: usize = 6;
/// Whole seconds that each of them is offered; what is answered later does not count.
const OFFERED_S: usize = 8;
/// No node's memory may be above this afterwards, bytes.
const MEMORY_CAP: u64 = 1 << 30;
/// A client of 50 writes a second: what must get through beside a greedy one.
const MODEST: f64 = 50.0;
const MODEST_SHARE: f64 = 0.9;

const MODEST_CLIENT: [&str; 6] = ["--rate", "50", "--clients", "16", "--warmup", "1s"];
const GREEDY_CLIENT: [&str; 8] = ["--connections", "8", "--clients", "64", "--outstanding", "512", "--warmup", "1s"];

/// What one run of `synod bench` found.
struct Found {
    /// While it was offered.
    ops_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: u64,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { ops_per_s, p50_ms, p99_ms, errors } = self;
        write!(f, "{ops_per_s:.0}/s p50 {p50_ms:.1} ms p99 {p99_ms:.1} ms")?;
        if *errors > 0 { write!(f, ", {errors} failed") } else { Ok(()) }
    }
}

/// The generator has the last core to itself and the nodes have the others: what a generator cannot offer or take in, since the
/// nodes need its core too, says nothing about them. Returns what to write into the summary where that is not so.
fn part_cores(cluster: &Cluster) -> Option<String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 {
        return Some("one core for all".into());
    }
    let nodes = format!("0-{}", cores - 2);
    (1..=3).find_map(|node| {
        let pid = cluster.pid(node).to_string();
        let pinned = Command::new("taskset").args(["-a", "-c", "-p", &nodes, &pid]).stdout(Stdio::null()).status();
        (!pinned.is_ok_and(|status| status.success())).then(|| "cores not parted (no taskset)".into())
    })
}

fn bench(cluster: &Cluster, args: &[&str]) -> Child {
    let head = ["-o", "json", "--timeout", "10s", "bench", "put", "--table", "overload"];
    let mut command = cluster.command(&[&head[..], args].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Where it cannot be done, `part_cores` has said so.
    let _ = Command::new("taskset")
        .args(["-a", "-c", "-p", &(cores - 1).to_string(), &child.id().to_string()])
        .stdout(Stdio::null())
        .status();
    child
}

/// Of a run that offered something for `OFFERED_S`.
fn found(child: Child) -> Result<Found, String> {
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("bench: {e}"))?;
    let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let errors = report["errors"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let (p50_ms, p99_ms) = (number("p50_us") / 1e3, number("p99_us") / 1e3);
    let seconds = report["timeline"].as_array().into_iter().flatten().take(OFFERED_S);
    let ops: f64 = seconds.filter_map(|second| second["ops"].as_f64()).sum();
    Ok(Found { ops_per_s: ops / OFFERED_S as f64, p50_ms, p99_ms, errors })
}

/// The most in a closed loop and four times that in an open one, in turn; once and twice that; a modest client alone and beside a
/// greedy one.
pub(super) fn turn(cluster: &mut Cluster, load: &Load) -> Result<Turn, String> {
    let began = Instant::now();
    let parted = part_cores(cluster).map_or(String::new(), |why| format!("{why}; "));
    let refused = refused(cluster);
    let offered = format!("{OFFERED_S}s");
    let run = |args: &[&str]| found(bench(cluster, &[args, &["--duration", &offered]].concat()));
    let open = |rate: f64| {
        let rate = format!("{rate:.0}");
        // No warm-up: the 65,536 writes begun in it would be carried out and not counted.
        run(&["--connections", "8", "--clients", "64", "--outstanding", "1024", "--warmup", "0s", "--rate", &rate])
    };
    let (mut most, mut four) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let closed = run(&["--connections", "4", "--clients", "64", "--outstanding", "16", "--warmup", "1s"])?;
        four.push(open(closed.ops_per_s * 4.0)?);
        most.push(closed);
    }
    let most_per_s = mean(&most);
    let (once, twice) = (open(most_per_s)?, open(most_per_s * 2.0)?);
    let alone = run(&MODEST_CLIENT)?;
    let greedy = bench(cluster, &[&GREEDY_CLIENT[..], &["--duration", "10s"]].concat());
    let beside = run(&MODEST_CLIENT);
    let (greedy, beside) = (found(greedy)?, beside?);
    load.wait_flowing(PATIENCE);
    let refused = self::refused(cluster) - refused;
    let memory = (1..=3).map(|node| memory(cluster.pid(node)).1).max().unwrap_or(0);
    let share = mean(&four) / most_per_s;
    let (most, four) = (list(&most), list(&four));
    let note = format!(
        "{parted}closed {most}; four times that offered {four}: {share:.2} of it; once {once}, twice {twice}; refused {refused}; modest \
         alone {alone}, beside a greedy one ({greedy}) {beside}; memory at most {} MiB;",
        memory >> 20
    );
    if share < GOODPUT || memory > MEMORY_CAP || beside.ops_per_s < MODEST_SHARE * MODEST {
        return Err(note);
    }
    Ok(Turn { pause: load.pause(began), during: None, note })
}

fn mean(runs: &[Found]) -> f64 {
    runs.iter().map(|found| found.ops_per_s).sum::<f64>() / runs.len() as f64
}

fn list(runs: &[Found]) -> String {
    runs.iter().map(Found::to_string).collect::<Vec<_>>().join(", ")
}

/// Requests refused by all nodes so far.
fn refused(cluster: &Cluster) -> f64 {
    let names = ["synod_gate_overloaded_total", "synod_engine_overloaded_total"];
    let of = |node| names.map(|name| metric(&cluster.http(node), name).unwrap_or(0.0)).iter().sum::<f64>();
    (1..=3).map(of).sum()
}
