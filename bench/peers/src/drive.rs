//! A whole run: every system in turn, repeat by repeat.
//!
//! Owns: the rotation, so that what the machine does hits all systems alike. Must never: keep two systems running at once.

use std::path::{Path, PathBuf};

use synod_bench::{BenchSpec, Halt, Stop};

use crate::measure::{End, Measured, measure};
use crate::plan::{Cell, Load, OPEN_CLIENTS, RunSpec};
use crate::store::Store;
use crate::systems::{Place, Running, System};
use crate::{PeersError, Result};

/// What to measure, where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The systems that are there, with their programs.
    pub systems: Vec<(System, PathBuf)>,
    /// The cells, in order.
    pub cells: Vec<Cell>,
    /// How often each is measured.
    pub repeats: u32,
    /// What all cells share.
    pub run: RunSpec,
    /// Where servers keep their data.
    pub data: PathBuf,
    /// The first port.
    pub port: u16,
    /// Shards of Synod's tables.
    pub shards: u32,
    /// Connections of every driver; unset is what suits each.
    pub connections: Option<usize>,
}

impl Plan {
    /// Where a system is started, in a directory made anew.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn place(&self, system: System, program: &Path, shards: u32) -> Result<Place> {
        let dir = self.data.join(system.name());
        // Left by a run that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|error| PeersError::io(dir.display(), &error))?;
        let number = System::ALL.iter().position(|s| *s == system).unwrap_or(0) as u16;
        let port = self.port + 100 * number;
        Ok(Place { program: program.into(), dir, port, shards, connections: self.connections })
    }
}

/// Measures all cells that are not done yet; returns the systems that did not start, and why.
///
/// # Errors
/// The plan cannot be carried out, or the results not be kept.
pub async fn run(plan: &Plan, store: &mut Store, halt: &Halt) -> Result<Vec<(System, String)>> {
    let mut failed: Vec<(System, String)> = Vec::new();
    for repeat in 1..=plan.repeats {
        for (system, program) in &plan.systems {
            for shards in shardings(plan, *system) {
                let here = |c: &&Cell| c.shards == shards && store.done(*system, repeat, c).is_none();
                let open: Vec<&Cell> = plan.cells.iter().filter(here).collect();
                if open.is_empty() || halt.halted() || failed.iter().any(|(s, _)| s == system) {
                    continue;
                }
                println!("repeat {repeat} of {}: {}", plan.repeats, system.label());
                let place = plan.place(*system, program, shards.unwrap_or(plan.shards))?;
                match Running::start(*system, place).await {
                    Ok(running) => one(plan, running, repeat, &open, store, halt).await?,
                    Err(error) => {
                        eprintln!("{error}");
                        failed.push((*system, error.to_string()));
                    }
                }
            }
        }
    }
    Ok(failed)
}

/// How often a system is started in a repeat: once, and once more for each number of shards that is measured for itself.
fn shardings(plan: &Plan, system: System) -> Vec<Option<u32>> {
    let mut all = vec![None];
    for cell in plan.cells.iter().filter(|_| system == System::Synod) {
        if !all.contains(&cell.shards) {
            all.push(cell.shards);
        }
    }
    all
}

/// One system in one repeat.
async fn one(
    plan: &Plan,
    mut running: Running,
    repeat: u32,
    cells: &[&Cell],
    store: &mut Store,
    halt: &Halt,
) -> Result<()> {
    let system = running.system;
    let mut size = None;
    for cell in cells {
        let max = whole(store, system, repeat, cell).map(|ops| ops.max(1.0));
        if matches!(cell.load, Load::Share(_)) && max.is_none() {
            let why = format!("no closed loop of {OPEN_CLIENTS} clients to take a share of");
            store.add(Measured { system, cell: (*cell).clone(), repeat, end: End::Failed { why }, figures: None })?;
            continue;
        }
        if size != Some(cell.value_bytes) && !cell.appends() {
            if let Err(why) = preload(plan, &mut running, cell, halt).await {
                eprintln!("  {}: the keys could not be written: {why}", cell.name());
            }
            size = Some(cell.value_bytes);
        }
        let spec = cell.spec(&plan.run, max)?;
        let measured = measure(&mut running, cell, spec, repeat, halt).await;
        println!("  {}", line(&measured));
        store.add(measured)?;
        if halt.halted() || running.dead().is_some() {
            break;
        }
    }
    running.stop();
    Ok(())
}

/// What the closed loop of an open one made a second: in this repeat, or else in the latest.
fn whole(store: &Store, system: System, repeat: u32, cell: &Cell) -> Option<f64> {
    let whole = Cell { load: Load::Closed, ..cell.clone() };
    let found = (1..=repeat).rev().find_map(|r| store.done(system, r, &whole));
    found.and_then(Measured::sound).map(|figures| figures.ops_per_s)
}

/// Writes every key once, so that puts replace and gets find.
pub(crate) async fn preload(
    plan: &Plan,
    running: &mut Running,
    cell: &Cell,
    halt: &Halt,
) -> std::result::Result<(), String> {
    let spec = BenchSpec {
        clients: 256,
        keys: plan.run.keys,
        value_bytes: cell.value_bytes,
        warmup: std::time::Duration::ZERO,
        stop: Stop::Ops(1),
        preload: true,
        seed: plan.run.seed,
        ..BenchSpec::default()
    };
    let targets = running.connect(false).await.map_err(|error| error.to_string())?;
    let done = synod_bench::run_on(targets, spec, halt.clone(), |_| ()).await;
    done.map(|_| ()).map_err(|error| error.to_string())
}

/// A cell in a line.
fn line(measured: &Measured) -> String {
    let name = measured.cell.name();
    let marked = match &measured.end {
        End::Done => String::new(),
        End::Partial { why } => format!("  PARTIAL: {why}"),
        End::Failed { why } => format!("  FAILED: {why}"),
    };
    let Some(f) = &measured.figures else { return format!("{name:<34}{marked}") };
    let rate = if measured.cell.appends() {
        format!("{:.0} records/s", f.records_per_s)
    } else {
        format!("{:.0}/s", f.ops_per_s)
    };
    let (p50, p99) = (f.p50_us as f64 / 1e3, f.p99_us as f64 / 1e3);
    let errors: u64 = f.errors.values().sum();
    let errors = if errors > 0 { format!(", {errors} failed") } else { String::new() };
    let behind = f.offered.as_ref().filter(|o| !o.kept_up).map_or(String::new(), |o| {
        format!("  DID NOT KEEP UP: {:.0}/s offered of {:.0}/s, {} never sent", o.offered_per_s, o.rate_per_s, o.missed)
    });
    let cost = format!("{:.1} + {:.1} us cpu/op", f.cost.servers_us, f.cost.client_us);
    let fsyncs = f.cost.ops_per_fsync.map_or(String::new(), |n| format!(", {n:.1} ops/fsync"));
    format!("{name:<34} {rate:>18}  p50 {p50:.2} ms  p99 {p99:.2} ms  {cost}{fsyncs}{errors}{behind}{marked}")
}
