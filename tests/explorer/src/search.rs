//! Runs schedules, one or many.
//!
//! Owns: seeds, threads, and what a failure prints. Must never: let one schedule see another.

use super::coverage::Coverage;
use super::plan::Planted;
use super::trace::Trace;
use super::violation::Violation;
use super::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Trace lines shown with a failure.
const SHOWN_LINES: usize = 60;

/// What became of one schedule.
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Steps taken; 0 where the replica panicked.
    pub steps: u64,
    /// What it reached.
    pub coverage: Coverage,
    /// What it broke.
    pub violation: Option<Violation>,
}

impl Outcome {
    /// What a failed test prints: seed, invariant, operands, the end of the trace, and how to see all of it.
    pub fn report(&self, planted: Planted) -> String {
        let Some(violation) = &self.violation else { return format!("seed {} broke nothing", self.seed) };
        let trace = Trace::kept();
        let again = run(self.seed, planted, trace.clone());
        let lines = trace.lines();
        let shown = lines.len().saturating_sub(SHOWN_LINES);
        let mut text = format!("seed {} after {} steps broke\n  {violation}\n", self.seed, self.steps);
        if again.violation.as_ref() != Some(violation) {
            text += &format!("NOT REPEATED: the second run gave {:?}\n", again.violation);
        }
        text += &lines[shown..].join("\n");
        text += &format!(
            "\nreplay: SYNOD_EXPLORE_SEED={} cargo test --release -p synod-explorer --test explore -- --nocapture\n",
            self.seed
        );
        text
    }
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64, planted: Planted, trace: Trace) -> Outcome {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, planted, trace);
        let violation = world.run().err();
        Outcome { seed, steps: world.step, coverage: world.coverage, violation }
    }));
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let violation = Violation::new("no replica panics", said.unwrap_or_default());
        Outcome { seed, steps: 0, coverage: Coverage::default(), violation: Some(violation) }
    })
}

/// What became of many schedules.
#[derive(Default)]
pub struct Report {
    /// Schedules run.
    pub schedules: u64,
    /// Steps taken in all of them.
    pub steps: u64,
    /// Steps of the shortest, once any was run.
    pub fewest_steps: Option<u64>,
    /// What they reached.
    pub coverage: Coverage,
    /// What failed, in order of seeds: all found before the search stopped.
    pub failures: Vec<Outcome>,
}

/// Runs the schedules of `seeds` on `threads` threads, until all are done or `enough` have failed.
pub fn explore(seeds: std::ops::Range<u64>, threads: usize, planted: Planted, enough: usize) -> Report {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run(seed, planted, Trace::default());
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.add(outcome);
                    stop.fetch_or(report.failures.len() >= enough, Ordering::Relaxed);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort_by_key(|failure| failure.seed);
    report
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        self.schedules += 1;
        self.steps += outcome.steps;
        self.coverage.merge(&outcome.coverage);
        if outcome.violation.is_some() {
            self.failures.push(outcome);
        } else {
            self.fewest_steps = Some(self.fewest_steps.map_or(outcome.steps, |fewest| fewest.min(outcome.steps)));
        }
    }
}
